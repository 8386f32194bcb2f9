"""The documentation says everything there is, nothing that isn't, and its examples run."""

from __future__ import annotations

import argparse
import builtins
import doctest
import importlib
import importlib.util
import inspect
import operator
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import or_cache_magic
from or_cache_magic import cli, errors
from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.key import NOT_IN_KEY
from or_cache_magic.core.policy import Policy, why_no_lookup, why_not_stored
from or_cache_magic.core.records import Answer, Choice, Request, Usage
from or_cache_magic.core.settings import ENVIRONMENT, SETTINGS, Settings
from or_cache_magic.display.entries import ENTRY_TYPES
from or_cache_magic.display.models import MODEL_TYPES
from or_cache_magic.display.stats import STAT_TYPES
from or_cache_magic.notebook.commands import COMMANDS
from or_cache_magic.simulator import SCENARIOS
from or_cache_magic.simulator.cases import BUILDERS
from or_cache_magic.storage.shared.store import SECRET_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
REFERENCE = ROOT / "docs" / "reference.md"

_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"--?[a-z][\w-]*")
_CELL_EDGE = re.compile(r"(?<!\\)\|")


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page_runner", Path(__file__).with_name("page_runner.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_RUNNER = _runner()


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _RUNNER.FENCE.sub("", _text(page))


def _section(page: Path, title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    text = _text(page)
    headings = list(_HEADING.finditer(text))
    (at,) = [i for i, h in enumerate(headings) if h[2] == title]
    level = len(headings[at][1])
    end = next((h.start() for h in headings[at + 1 :] if len(h[1]) <= level), len(text))
    return text[headings[at].end() : end]


def _rows(section: str) -> list[list[str]]:
    """The cells of a section's tables, without the headings and the lines below them."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        for line in table.splitlines()[2:]:
            found.append([cell.strip() for cell in _CELL_EDGE.split(line.strip())[1:-1]])
    return found


def _firsts(section: str) -> list[str]:
    """The names in code in the first column of a section's tables."""
    return [name for row in _rows(section) for name in _CODE.findall(row[0])]


def _options(section: str) -> set[str]:
    """The options that a section's table documents."""
    return {match.group() for name in _firsts(section) if (match := _OPTION.match(name))}


def _shell_commands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(commands.choices)


# -- everything there is, and nothing else --------------------------------------------------------


@pytest.mark.parametrize("spelling", COMMANDS)
def test_reference__has_exactly_the_options_of_each_magic(spelling: str):
    """The option table below a magic's heading is the magic's table; `%openrouter` shares that of `%%openrouter`."""
    shared = "%%openrouter" if spelling == "%openrouter" else spelling
    assert _options(_section(REFERENCE, f"`{shared}`")) == set(COMMANDS[spelling].by_name)
    assert _section(REFERENCE, f"`{spelling}`").strip()


def test_reference__has_no_magic_that_does_not_exist():
    """Every magic named on any page exists, with its percent signs."""
    known = {*COMMANDS, "%%openrouter"}
    for page in PAGES:
        for name in re.findall(r"%%?openrouter\w*", _text(page)):
            assert name in known, f"{page.name}: {name}"


@pytest.mark.parametrize("spelling", COMMANDS)
def test_reference__shows_metavars_as_the_help_does(spelling: str):
    """An option's value is called the same in the reference as in ``--help``."""
    shared = "%%openrouter" if spelling == "%openrouter" else spelling
    shown = {n.replace("\\|", "|") for n in _firsts(_section(REFERENCE, f"`{shared}`"))}
    for option in COMMANDS[spelling].options:
        assert option.label.split(", ")[-1] in shown


def test_reference__has_exactly_the_settings():
    """The table of settings has each of them once."""
    assert sorted(_firsts(_section(REFERENCE, "Settings"))) == sorted(SETTINGS)


def test_reference__has_the_settings_defaults():
    """The defaults in the table are the code's."""
    for row in _rows(_section(REFERENCE, "Settings")):
        default = getattr(Settings(), row[0].strip("`"))
        shown = _CODE.findall(row[1])
        if default is None or default == {}:
            assert row[1] == "none"
        elif isinstance(default, bool):
            assert shown[0] == str(default).lower()
        elif isinstance(default, (int, float)):
            assert float(shown[0]) == default
        else:
            assert shown[0] == default


def test_reference__has_exactly_the_environment_variables():
    """The table of variables has each of them, the key's too, with the setting that it sets."""
    rows = {_CODE.findall(row[0])[0]: row[1] for row in _rows(_section(REFERENCE, "Environment variables"))}
    assert rows.keys() == {*ENVIRONMENT, "OPENROUTER_API_KEY", SECRET_VARIABLE}
    for variable, setting in ENVIRONMENT.items():
        assert f"`{setting}`" in rows[variable]


def test_reference__has_every_public_name():
    """Each name of the package's ``__all__`` stands in the Python section's table, and each there exists."""
    documented = set(
        re.findall(r"`orc\.(\w+)", "\n".join(r[0] for r in _rows(_section(REFERENCE, "Python"))))
    )
    assert documented == set(or_cache_magic.__all__)


def test_reference__has_exactly_the_attributes_of_a_completion():
    """Every attribute that a `Completion` has beyond a `str` is in the table, with those of its usage."""
    own = {name for name in dir(Completion) if not name.startswith("_")} - set(dir(str))
    section = _section(REFERENCE, "Completion")
    assert {name.partition("(")[0] for name in _firsts(section)} == own
    assert all(f"`{field}`" in section for field in Usage.__annotations__)


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("`stats` columns", tuple(STAT_TYPES)),
        ("`entries` columns", tuple(ENTRY_TYPES)),
        ("`models` columns", tuple(MODEL_TYPES)),
    ],
)
def test_reference__has_the_columns_in_their_order(title: str, columns: tuple[str, ...]):
    """The tables of columns are the DataFrames' columns, in their order."""
    assert tuple(_firsts(_section(REFERENCE, title))) == columns


def test_reference__has_exactly_the_errors():
    """Each error class is a row, with what it means, costs, and what to do."""
    assert sorted(_firsts(_section(REFERENCE, "Errors"))) == sorted(errors.__all__)


@pytest.mark.parametrize("name", _shell_commands())
def test_reference__has_exactly_the_options_of_each_shell_command(name: str):
    """The option table below ``or-cache NAME`` is the parser's."""
    known = {o for a in _shell_commands()[name]._actions for o in a.option_strings} - {"-h", "--help"}
    assert _options(_section(REFERENCE, f"`or-cache {name}`")) == known


def test_reference__has_no_shell_command_that_does_not_exist():
    """Every ``or-cache`` subcommand named in code on any page exists."""
    known = {*_shell_commands(), "COMMAND"}
    for page in PAGES:
        for name in re.findall(r"(?:`|^|/)or-cache ([A-Za-z]+)", _text(page), re.MULTILINE):
            assert name in known, f"{page.name}: or-cache {name}"


def test_simulator_page__has_exactly_the_scenarios_and_their_options():
    """The table of scenarios is the simulator's, with the options that each takes."""
    rows = _rows(_section(ROOT / "docs" / "simulator.md", "All scenarios"))
    assert sorted(row[0].strip("`") for row in rows) == sorted(SCENARIOS)
    for row in rows:
        takes = inspect.signature(BUILDERS[row[0].strip("`")]).parameters
        assert [n for n in _CODE.findall(row[2]) if not n.startswith('"')] == list(takes), row[0]


def test_caching_page__has_exactly_what_is_not_in_the_key():
    """The documented list of fields that are not in the key is the code's."""
    names = _firsts(_section(ROOT / "docs" / "caching.md", "What is in the key"))
    assert sorted(names) == sorted(NOT_IN_KEY)


_ASKED = {"model": "m", "messages": [], "max_tokens": 100}
_SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}
_WORDS = {"content": "words"}
_CALL = {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
_UNSERVED = {
    "error": (_ASKED, Answer((Choice(_WORDS, "stop", error={"code": 502}),))),
    "nothing": (_ASKED, Answer(())),
    "blank": (_ASKED, Answer((Choice({"content": " "}, "stop"),))),
    "cut": (_ASKED, Answer((Choice(_WORDS, "stop"),), complete=False)),
    "filtered": (_ASKED, Answer((Choice(_WORDS, "content_filter"),))),
    "refused": (_ASKED, Answer((Choice({"refusal": "No."}, "stop"),))),
    "no limit": ({**_ASKED, "max_tokens": None}, Answer((Choice(_WORDS, "length"),))),
    "below the limit": (_ASKED, Answer((Choice(_WORDS, "length"),), usage=Usage(5, 50))),
    "unknown end": (_ASKED, Answer((Choice(_WORDS, "error"),))),
    "no call": (_ASKED, Answer((Choice(_WORDS, "tool_calls"),))),
    "malformed call": (_ASKED, Answer((Choice(_CALL, "tool_calls"),))),
    "no JSON": (
        {**_ASKED, "response_format": {"type": "json_object"}},
        Answer((Choice(_WORDS, "stop"),)),
    ),
    "other schema": ({**_ASKED, "response_format": _SCHEMA}, Answer((Choice({"content": "{}"}, "stop"),))),
}


@pytest.mark.parametrize("case", _UNSERVED)
def test_caching_page__has_every_reason_not_to_store(case: str):
    """Whatever a receipt says behind "not stored" is a row of the table, in the same words."""
    body, answer = _UNSERVED[case]
    reason = why_not_stored(Request(body), answer)
    assert reason is not None
    rows = _rows(_section(ROOT / "docs" / "caching.md", "What is stored and served"))
    known = {row[0].replace("…", "").replace("N tokens", "").strip(" )") for row in rows}
    assert any(reason.startswith(words) for words in known), reason


def test_caching_page__says_temperature_as_the_receipt_does():
    """The reason that a sampled request isn't stored is a row of the same table."""
    reason = why_no_lookup(Request({"temperature": 0.7}), Policy())
    assert reason in [
        row[0] for row in _rows(_section(ROOT / "docs" / "caching.md", "What is stored and served"))
    ]


def test_pages__name_only_settings_that_exist():
    """``NAME=VALUE`` behind `%openrouter_config` is always a setting."""
    for page in PAGES:
        for line in re.findall(r"%openrouter_config ([^`\n]*)", _text(page)):
            assert set(re.findall(r"(\w+)=", line)) <= {*SETTINGS, "NAME"}, f"{page.name}: {line}"


# -- the map ----------------------------------------------------------------------------------------


def test_architecture__has_exactly_the_packages():
    """Every package is a row of the table and stands in the diagram; each that is named exists."""
    packages = {f"{found.name}/" for found in pkgutil.iter_modules(or_cache_magic.__path__) if found.ispkg}
    assert set(_firsts(_section(ARCHITECTURE, "Where is what"))) == packages
    (diagram,) = re.findall(
        r"^```\n(.*?)^```", _section(ARCHITECTURE, "Packages and layers"), re.DOTALL | re.MULTILINE
    )
    assert set(re.findall(r"\w+/", diagram)) == packages


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_map__names_only_what_exists(name: str):
    """A path in code is a module of the package or a file of the repository; what stands behind ``:`` is in it."""
    package = Path(or_cache_magic.__file__).parent
    for code in re.findall(r"`([\w/]+\.py(?::[\w.]+)?|[\w/]+/)`", _text(ROOT / name)):
        path, _, attributes = code.partition(":")
        if not (ROOT / path).exists():
            assert (package / path).exists(), path
        if attributes:
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            operator.attrgetter(attributes)(importlib.import_module(f"or_cache_magic.{module}"))


# -- links ----------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in _HEADING.findall(_prose(page)):
        slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
        anchors.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links__lead_somewhere(page: Path):
    """Relative links name files that exist, and anchors headings that exist."""
    for target in _LINK.findall(_prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_contents__list_every_section(page: Path):
    """The list at a page's beginning leads to each of its sections, in order."""
    sections = [title for marks, title in _HEADING.findall(_prose(page)) if marks == "##"]
    listed = re.findall(r"^- \[(.*)\]\(#", _text(page), re.MULTILINE)
    assert listed == sections


# -- examples -------------------------------------------------------------------------------------


def _with_examples() -> Iterator[Path]:
    return (page for page in PAGES if any(b.is_cell for b in _RUNNER.blocks(_text(page))))


@pytest.mark.kernel
@pytest.mark.parametrize("page", _with_examples(), ids=lambda p: p.name)
def test_examples__run(page: Path, tmp_path: Path):
    """A page's examples run in order, in a fresh process and an empty folder, against the simulator."""
    ours = ("OPENROUTER_", "OR_CACHE_", "JPY_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("page_runner.py"), page],
        cwd=tmp_path,
        env={**kept, "IPYTHONDIR": str(tmp_path / "ipython"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = sum(b.is_cell and not b.skipped for b in _RUNNER.blocks(_text(page)))
    assert done.stdout.endswith(f"{ran} cells ran\n")


def test_examples__few_are_left_out():
    """Of all the pages' examples at most two are marked as not to be run."""
    left_out = [b for page in PAGES for b in _RUNNER.blocks(_text(page)) if b.skipped]
    assert len(left_out) <= 2


def _modules() -> list[str]:
    found = pkgutil.walk_packages(or_cache_magic.__path__, "or_cache_magic.")
    return [
        module.name
        for module in found
        if ">>>" in Path(module.module_finder.find_spec(module.name).origin).read_text("utf-8")
    ]


@pytest.mark.parametrize("name", _modules())
def test_docstrings__examples_are_true(name: str):
    """What a docstring's example says is what comes out."""
    failed, tried = doctest.testmod(importlib.import_module(name))
    vars(builtins).pop("_", None)  # doctest leaves one, and IPython then makes none of its own
    assert (failed, tried > 0) == (0, True)
