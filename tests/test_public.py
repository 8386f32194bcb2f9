"""The package's face: its names, and what importing it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import or_cache_magic
from or_cache_magic.simulator import Simulator, scenario

HEAVY = (
    "openai",
    "pandas",
    "IPython",
    "ipywidgets",
    "diskcache",
    "jsonschema",
    "pydantic",
    "tomlkit",
    "httpx",
    "httpx2",
    "redis",
)


def run(code, folder=None, **environ):
    """What a fresh interpreter in a folder prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | environ,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_public__names_are_there():
    """Every public name can be had, the lazy ones too, and a wrong one is an AttributeError."""
    for name in or_cache_magic.__all__:
        assert getattr(or_cache_magic, name) is not None
    assert or_cache_magic.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        or_cache_magic.nothing  # noqa: B018


def test_public__types_are_checked():
    """Every public name is used in the file whose types mypy checks, by ``orc.`` or as imported."""
    text = Path(__file__).with_name("typing").joinpath("api.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\borc\.(\w+)", text)) | {"Completion", "CompletionCache"} == set(
        or_cache_magic.__all__
    )
    assert "from or_cache_magic import Completion, CompletionCache" in text


def test_public__no_module_takes_a_name():
    """Python binds a module that is imported in its package: none may be called as a public function is."""
    code = (
        "import json, or_cache_magic as orc\n"
        "from importlib import import_module\n"
        "from pkgutil import iter_modules\n"
        "for found in iter_modules(orc.__path__):\n"
        "    import_module(f'or_cache_magic.{found.name}')\n"
        "print(json.dumps([n for n in orc.__all__ if not callable(getattr(orc, n))]))"
    )
    assert run(code) == ["errors"]


@pytest.mark.parametrize("name", ["Completion", "CompletionCache", "errors", "__version__"])
def test_public__lazy_names_need_no_other(name):
    """Each can be had first thing in a fresh interpreter, before anything has imported it."""
    assert run(f"import json, or_cache_magic as orc\nprint(json.dumps(hasattr(orc, {name!r})))")


def test_import__brings_nothing_else():
    """Importing the package imports none of it, and no heavy library."""
    code = (
        "import json, sys, or_cache_magic\n"
        f"print(json.dumps([m for m in sys.modules if m.startswith('or_cache_magic.') or m in {HEAVY}]))"
    )
    assert run(code) == []


@pytest.mark.parametrize(
    ("options", "asks"),
    [("", 1), (", schema=Book, repair=1", 2)],
    ids=["of a text", "of a value that was asked for twice"],
)
def test_hit__brings_no_heavy_library(tmp_path, options, asks):
    """A hit in a fresh interpreter needs neither a key nor any of the heavy libraries."""
    code = (
        "import dataclasses, json, sys, or_cache_magic as orc\n"
        "Book = dataclasses.make_dataclass('Book', [('title', str), ('year', int)])\n"
        f"with orc.open_cache({str(tmp_path / 'c')!r}) as cache:\n"
        f"    answer = cache.ask('What is a median?', model='openai/gpt-4o-mini'{options})\n"
        "answer.data\n"
        f"print(json.dumps([answer.cached, [m for m in sys.modules if m in {HEAVY}]]))"
    )
    with Simulator() as sim:
        sim.script(scenario("unfit"))
        environ = {"OPENROUTER_BASE_URL": sim.base_url}
        cached, heavy = run(code, tmp_path, OPENROUTER_API_KEY=sim.api_key, **environ)
        assert (cached, "openai" in heavy) == (False, True)
        assert run(code, tmp_path, **environ) == [True, []]
        assert sim.completion_count == asks


def test_ask__of_the_package_uses_the_scripts_own_cache(tmp_path):
    """In a script the cache is found once; ask, stats, entries and purge share it."""
    code = (
        "import json, or_cache_magic as orc\n"
        "for _ in range(2):\n"
        "    answer = orc.ask('What is a median?', model='openai/gpt-4o-mini')\n"
        "asks, hits = (int(orc.stats()[n].iloc[0]) for n in ('asks', 'hits'))\n"
        "print(json.dumps([answer.cached, asks, hits, len(orc.entries()), len(orc.purge(all=True)), len(orc.entries())]))"
    )
    with Simulator() as sim:
        found = run(
            code,
            OPENROUTER_BASE_URL=sim.base_url,
            OPENROUTER_API_KEY=sim.api_key,
            OR_CACHE_DIR=str(tmp_path / "c"),
        )
    assert found == [True, 2, 1, 1, 1, 0]
    assert (tmp_path / "c" / "cache.db").exists()
