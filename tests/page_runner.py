"""Runs the examples of one Markdown page, in order, in one IPython shell against the simulator.

    python page_runner.py PAGE

A program of its own, so that each page begins with a fresh process in an empty folder. Blocks marked ``python`` or
``ipython``, and unmarked ones that begin with ``%``, are run as cells. One that begins with ``# conftest.py`` or
``# test_….py`` is written under that name, and pytest runs at the end. A block below ``<!-- not run: why -->`` is left out;
one for a shell is run where it stands below ``<!-- run -->``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<indent> *)(?P<rail>`{3,})(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)(?P=rail)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
RUN = re.compile(r"<!-- run -->\s*\Z")
SKIP = re.compile(r"<!-- not run: \S[^>]* -->\s*\Z")
FILE = re.compile(r"# (?P<name>conftest\.py|test_\w+\.py)\n")

#: What a page takes for granted: a variable of the reader's.
VARIABLES = {"reviews": "Great chair.\nThe lamp broke on the first day."}

#: Models that pages name and the simulator does not list, and one that stands for each.
PROJECT = """
[tool.or_cache_magic.aliases]
"anthropic/claude-sonnet-4.5" = "anthropic/claude-sonnet-4.6"
"""


class Block(NamedTuple):
    """A fenced block of a page: its language, its code, and where it stands."""

    language: str
    code: str
    line: int
    skipped: bool
    is_shell: bool

    @property
    def is_cell(self) -> bool:
        """Whether it is code that a reader would run in a notebook, or that is marked to be run in a shell."""
        return (
            self.is_shell
            or self.language in ("python", "ipython")
            or (not self.language and self.code.startswith("%"))
        )


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for fence in FENCE.finditer(text):
        before = text[: fence.start()]
        marks = bool(SKIP.search(before)), bool(RUN.search(before))
        yield Block(fence["language"], dedent(fence["code"]), before.count("\n") + 2, *marks)


def run(page: Path) -> int:
    """Runs the page's cells in the current folder; how many. A cell that fails ends the process with 1."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from or_cache_magic.simulator import Simulator

    Path("pyproject.toml").write_text(PROJECT, encoding="utf-8")
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.push(VARIABLES)
    cells = [b for b in blocks(page.read_text(encoding="utf-8")) if b.is_cell and not b.skipped]
    files = []
    with Simulator() as sim:
        os.environ["OPENROUTER_BASE_URL"] = sim.base_url
        os.environ["OPENROUTER_API_KEY"] = sim.api_key
        for cell in cells:
            if named := FILE.match(cell.code):
                files.append(Path(named["name"]))
                files[-1].write_text(cell.code, encoding="utf-8")
            elif not (_in_shell(cell.code) if cell.is_shell else shell.run_cell(cell.code, True).success):
                sys.exit(f"{page.name}, line {cell.line}: this example failed:\n{cell.code}")
    if files:
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], env=alone, check=True
        )
    if "or_cache_magic" in shell.extension_manager.loaded:
        shell.run_line_magic("unload_ext", "or_cache_magic")
    return len(cells)


def _in_shell(code: str) -> bool:
    """Whether a shell that finds this Python's commands runs all the lines."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return not subprocess.run(["sh", "-ec", code], env={**os.environ, "PATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.stdout.write(f"{run(Path(sys.argv[1]))} cells ran\n")
