"""Whether a magic's value goes on, read from its caller's bytecode: of every Python that is supported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import or_cache_magic

CASES = {
    "magic()": False,
    "for _ in range(2): magic()": False,
    "def f():\n    magic()\nf()": False,
    "if True:\n    magic()\nelse:\n    magic()": False,
    "x = magic()": True,
    "x, y = magic(), 1": True,
    "print(magic(), end='')": True,
    "[magic() for _ in range(2)]": True,
    "def f():\n    return magic()\nf()": True,
    "magic().__class__": True,
    "x = f'{magic()}'": True,
    "assert magic() is None": True,
    "for _ in map(magic, [0]): pass": None,
}
"""Code that runs a magic, and whether it goes on with the value; None is that the bytecode doesn't tell."""

WATCHED = """
import ast, sys
sys.path.insert(0, sys.argv[1])
from or_cache_magic.notebook.session import keeps_result
cases = eval(sys.argv[2])
found = []
def run_line_magic(*_):
    found.append(keeps_result())
def run_cell_magic(*_):
    found.append(keeps_result())
for magic in (run_line_magic, run_cell_magic):
    for code, expected in cases.items():
        # As IPython compiles them: what may show a value as interactive input, all else as a module.
        tree = ast.parse(code)
        for mode, parsed in (("exec", tree), ("single", ast.Interactive(tree.body))):
            found.clear()
            exec(compile(parsed, "<cell>", mode), {"magic": magic})
            assert found and set(found) == {expected}, (sys.version, mode, code, found)
found.clear()
assert eval(compile("magic()", "<%time>", "eval"), {"magic": run_line_magic}) is None
assert found == [False], found
print("told", len(cases))
"""


def interpreter(version: str) -> str | None:
    """The Python of a version: this one, one on the path, or one of a version manager's."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(
        f"{version}.*/bin/python"
    )
    # A version manager's shim is on the path for versions that it does not have, too.
    for found in (*map(str, sorted(roots)), shutil.which(f"python{version}")):
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    return None


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_keeps_result__reads_the_bytecode_of(version: str):
    """What stands alone is shown, what is bound, passed or returned is given, in every such Python."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    done = subprocess.run(
        [python, "-S", "-c", WATCHED, str(Path(or_cache_magic.__file__).parents[1]), repr(CASES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith(f"told {len(CASES)}\n"), done.stderr


def test_keeps_result__without_a_magic_gives():
    """Called by no magic, the value is for its caller."""
    from or_cache_magic.notebook.session import keeps_result

    assert keeps_result() is True
