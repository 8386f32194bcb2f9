"""Where settings come from, which wins, and what is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from or_cache_magic.core.records import OPENROUTER_URL
from or_cache_magic.core.settings import (
    ENVIRONMENT,
    SETTINGS,
    Project,
    Settings,
    find_pyproject,
    load_settings,
    parse_setting,
    save_settings,
)
from or_cache_magic.errors import SettingError


@pytest.fixture
def project(tmp_path):
    """``project(toml)`` writes the section of a pyproject.toml and is its `Project`, seen from below."""

    def write(section, head="[tool.or_cache_magic]\n"):
        (tmp_path / "pyproject.toml").write_text(head + section, encoding="utf-8")
        below = tmp_path / "notebooks" / "deep"
        below.mkdir(parents=True, exist_ok=True)
        return Project(below)

    return write


def test_load_settings__has_defaults(tmp_path):
    """Nothing said anywhere: OpenRouter, temperature 0, a limit, and no origins."""
    settings = load_settings({}, Project(tmp_path), {})
    assert settings == Settings()
    assert (settings.base_url, settings.temperature, settings.max_tokens) == (OPENROUTER_URL, 0, 4096)
    assert settings.origins == {}


def test_load_settings__lets_the_later_win(project, tmp_path):
    """Project, then environment, then configuration; each value knows where it came from."""
    found = project('model = "p/m"\nmode = "refresh"\nttl = "7d"\n')
    environ = {"OPENROUTER_MODEL": "e/m", "OR_CACHE_MODE": "offline", "OPENROUTER_BASE_URL": "http://x/v1/"}
    settings = load_settings(environ, found, {"model": "c/m", "ttl": None})
    assert (settings.model, settings.mode, settings.ttl, settings.base_url) == (
        "c/m",
        "offline",
        604800.0,
        "http://x/v1",
    )
    assert settings.origins == {
        "model": "configuration",
        "mode": "OR_CACHE_MODE",
        "ttl": str(tmp_path / "pyproject.toml"),
        "base_url": "OPENROUTER_BASE_URL",
    }


@pytest.mark.parametrize("variable", sorted(ENVIRONMENT))
def test_load_settings__takes_an_empty_variable_for_none(tmp_path, variable):
    """A variable that is empty or blank says nothing."""
    assert load_settings({variable: "  "}, Project(tmp_path), {}) == Settings()


def test_load_settings__lets_no_project_choose_where_the_key_goes(project):
    """A stranger's pyproject.toml comes with the notebook: it may not set the address."""
    with pytest.raises(SettingError, match="base_url") as caught:
        load_settings({}, project('base_url = "https://evil.example/v1"\n'), {})
    assert "your API key" in caught.value.hint


def test_load_settings__resolves_a_projects_folder_from_its_file(project, tmp_path):
    """A relative folder is beside the file that names it, wherever the notebook runs."""
    settings = load_settings({}, project('cache_dir = "answers"\n'), {})
    assert settings.cache_dir == str(tmp_path / "answers")


@pytest.mark.parametrize(
    ("section", "head"),
    [
        ("model = ", "[tool.or_cache_magic]\n"),
        ("or_cache_magic = 7\n", "[tool]\n"),
        ("or_cache_magic = 'x'\n", "[tool]\n"),
        ('modell = "x"\n', "[tool.or_cache_magic]\n"),
        ("temperature = 3\n", "[tool.or_cache_magic]\n"),
    ],
)  # fmt: skip
def test_load_settings__refuses_a_projects_mistake(project, section, head):
    """What isn't TOML, no table, unknown or out of range is said, in two lines, naming the file."""
    with pytest.raises(SettingError, match=r"pyproject\.toml") as caught:
        load_settings({}, project(section, head), {})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("section", "head"),
    [
        ("", ""),
        ("tool = 7 # or_cache_magic\n", ""),
        ("x = 1\n", "[tool.other]\n"),
        ("broken = ", "[tool.other]\n"),
    ],
)
def test_load_settings__minds_its_own_section_only(project, section, head):
    """A file that says nothing to us is none of our business, broken or not."""
    assert load_settings({}, project(section, head), {}) == Settings()


def test_project__is_read_again_when_its_file_changes(project):
    """An edit counts at the next ask, and a file that goes as well."""
    found = project('model = "one/m"\n')
    assert load_settings({}, found, {}).model == "one/m"
    project('model = "another/m"\n')
    assert load_settings({}, found, {}).model == "another/m"
    find_pyproject(found.folder).unlink()
    assert load_settings({}, found, {}).model is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model", "none", None),
        ("model", "openai/gpt-4o", "openai/gpt-4o"),
        ("temperature", "0.7", 0.7),
        ("temperature", "None", None),
        ("max_tokens", "100", 100),
        ("max_tokens", 100, 100),
        ("max_tokens", "none", None),
        ("stream", "off", False),
        ("stream", True, True),
        ("stream", " Yes ", True),
        ("ttl", "24h", 86400.0),
        ("ttl", 3600, 3600.0),
        ("ttl", 3600.5, 3600.5),
        ("ttl", "never", math.inf),
        ("ttl", math.inf, math.inf),
        ("ttl", "none", None),
        ("volatile_ttl", "1h", 3600.0),
        ("base_url", " http://127.0.0.1:8000/api/v1/ ", "http://127.0.0.1:8000/api/v1"),
        (
            "aliases",
            "fast:openai/gpt-4o-mini, free:m/x:free",
            {"fast": "openai/gpt-4o-mini", "free": "m/x:free"},
        ),
        ("aliases", {"fast": "m/x"}, {"fast": "m/x"}),
        ("mode", "offline", "offline"),
        ("timeout_s", "2.5", 2.5),
    ],
    ids=str,
)
def test_parse_setting__reads_text_and_toml(name, text, value):
    """The same setting from a variable, a file or the configuration."""
    assert parse_setting(name, text, "here") == value


SECTION = "[tool.or_cache_magic]\nmax_cost_usd = 0.5\n"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (f"{SECTION}# na\xefve\n".encode("latin-1"), "line 3 is not UTF-8"),
        (SECTION.encode("utf-16"), "line 1 is not UTF-8"),
        (SECTION.encode("utf-16-le"), ""),
        (f"{SECTION}max_cost_usd = 1\n".encode(), "max_cost_usd"),
        (f'{SECTION}cache_dir = "~nosuchuser/x"\n'.encode(), "cache_dir"),
        (f'{SECTION}cache_dir = "a\\u0000b"\n'.encode(), "cache_dir"),
        (f'{SECTION}system = "\\ud800"\n'.encode(), ""),
        (f"{SECTION}quota = 99999999999999999999999\n".encode(), "quota"),
        (f'{SECTION}ttl = "{"9" * 400}w"\n'.encode(), "ttl"),
        (f"{SECTION}timeout_s = 1e400\n".encode(), "timeout_s"),
        (f"{SECTION}timeout_s = 1e300\n".encode(), "timeout_s"),
        (b'[tool.or-cache-magic]\nmode = "offline"\n', "write [tool.or_cache_magic]"),
        (b'[tool.Or_Cache_Magic]\nmode = "offline"\n', "write [tool.or_cache_magic]"),
        (f"{SECTION}x = {'[' * 3000}\n".encode(), ""),
        (SECTION.encode() + b"\0", ""),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_load_settings__takes_no_unreadable_file_for_an_empty_one(tmp_path, raw, where):
    """Its budget would silently not be in force: it is named, with the line, and nothing is sent."""
    path = tmp_path / "pyproject.toml"
    path.write_bytes(raw)
    with pytest.raises(SettingError) as caught:
        load_settings({}, Project(tmp_path), {})
    assert str(path) in str(caught.value)
    assert where in str(caught.value)


def test_load_settings__says_that_a_file_may_not_be_read(tmp_path, monkeypatch):
    """Root may read every file, so that the system's answer is put in its place."""
    (tmp_path / "pyproject.toml").write_text(SECTION, encoding="utf-8")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(SettingError, match="can't be read: Permission denied"):
        load_settings({}, Project(tmp_path), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""), ("model", 7), ("temperature", "hot"), ("temperature", 2.1), ("temperature", True),
        ("temperature", "nan"), ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", True), ("max_tokens", "-3"),
        ("stream", "perhaps"), ("stream", 2), ("mode", "fast"), ("mode", []), ("ttl", "soon"), ("ttl", 0),
        ("ttl", -1.0), ("ttl", math.nan), ("ttl", True), ("volatile_ttl", "none"), ("base_url", "openrouter.ai"),
        ("base_url", "ftp://x/"), ("base_url", "http://"), ("base_url", "http://["), ("base_url", "http://user:pw@host/api"), ("base_url", "http://x:port/"),
        ("base_url", "http://x/v1?key=y"), ("base_url", "http://x/#a"), ("base_url", "https://openrouter.ai/api/v1/chat/completions"),
        ("base_url", "https://openrouter.ai/api/v1/models/"), ("base_url", "http://x\x1b[2J/"),
        ("aliases", "fast"), ("aliases", "fast:"), ("aliases", {"a": 7}), ("aliases", 7), ("timeout_s", 0),
        ("timeout_s", "inf"), ("format", "html"), ("receipt", "loud"),
    ],
    ids=str,
)  # fmt: skip
def test_parse_setting__refuses_what_it_does_not_take(name, value):
    """Two lines: which value, from where; what it would take."""
    with pytest.raises(SettingError, match="from here") as caught:
        parse_setting(name, value, "here")
    assert caught.value.hint.startswith(f"{name}: ")
    assert len(str(caught.value).splitlines()) == 2


def test_parse_setting__names_a_near_match():
    """A typo is told what it may have meant."""
    with pytest.raises(SettingError) as caught:
        parse_setting("temprature", 1, "here")
    assert caught.value.hint == "did you mean temperature?"
    with pytest.raises(SettingError) as caught:
        parse_setting("xyzzy", 1, "here")
    assert all(name in caught.value.hint for name in SETTINGS)


@pytest.mark.parametrize(
    "written",
    [
        "[tools.or_cache_magic]", "[or_cache_magic]", "[Tool.or_cache_magic]", '["tool.or_cache_magic"]',
        "[tool.orcache]", "[tool.or-cache]", "[tool.or_cache]", "[tool.or_cahce_magic]", "[tool.or_cache_magik]",
        "[tol.or_cache_magic]", "[tool.or.cache_magic]", "[tool.cache_magic]", "[tool.OrCacheMagic]",
        "[[tool.or_cache_magic]]", "[tool.uv.or_cache_magic]", "[tool.or_cache_magic_]", "[Or-Cache-Magic]",
    ],
)  # fmt: skip
def test_load_settings__takes_no_table_that_is_nearly_ours_for_another_s(project, written):
    """Its ``mode = "offline"`` would silently not be in force: the right name is said, in two lines."""
    with pytest.raises(SettingError, match=r"pyproject\.toml") as caught:
        load_settings({}, project('mode = "offline"\n', f"{written}\n"), {})
    assert "write [tool.or_cache_magic]" in caught.value.hint
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "head",
    [
        '[tool."or\\u005fcache_magic"]\n', "[ tool . or_cache_magic ]\n", "tool.or_cache_magic.", "\ufeff[tool.or_cache_magic]\n",
        "['tool'.'or_cache_magic']\n",
    ],
)  # fmt: skip
def test_load_settings__reads_its_table_however_it_is_spelled(project, head):
    """As TOML has it: escapes, spaces, dotted names; behind the byte order mark that Notepad writes."""
    assert load_settings({}, project('mode = "offline"\n', head), {}).mode == "offline"


@pytest.mark.parametrize(
    "lines",
    [
        '[tool.cache]\nmode = "x"\n',
        "[tool.uv.sources]\nor-cache-magic = { path = '../x' }\n",
        "[tool.poetry.dependencies.or-cache-magic]\nversion = '1'\n",
        "[project.optional-dependencies]\nor-cache = ['or-cache-magic[redis]']\n",
        "[project.scripts]\nor-cache = 'or_cache_magic.cli:main'\n",
        "[tool.precache]\nttl = '1h'\n",
        "[tool.oracle]\nmode = 'x'\n",
    ],
)
def test_load_settings__leaves_others_their_tables(project, lines):
    """A table of another tool, and a dependency on this package, are none of its settings."""
    assert load_settings({}, project(lines, ""), {}) == Settings()


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("OR_CACHE_MOD", "did you mean OR_CACHE_MODE?"),
        ("OR_CACHE_DIRECTORY", "did you mean OR_CACHE_DIR?"),
        ("or_cache_mode", "did you mean OR_CACHE_MODE?"),
        ("ORCACHE_MODE", "did you mean OR_CACHE_MODE?"),
        ("OR_CACHE_MODEL", "did you mean OPENROUTER_MODEL?"),
        ("OR_CACHE_MAX_COST_USD", "did you mean OR_CACHE_MAX_COST?"),
        ("OR_CACHE_TTL", "[tool.or_cache_magic]"),
        ("OR_CACHE_ZZZ", "OR_CACHE_MAX_COST_PER_DAY"),
        ("OPENROUTER_MODL", "did you mean OPENROUTER_MODEL?"),
        ("OPENROUTER_BASEURL", "did you mean OPENROUTER_BASE_URL?"),
    ],
)
def test_load_settings__refuses_a_variable_that_is_nearly_one(tmp_path, variable, hint):
    """What it should limit would silently not be limited."""
    with pytest.raises(SettingError, match=variable) as caught:
        load_settings({variable: "offline"}, Project(tmp_path), {})
    assert hint in caught.value.hint
    assert len(str(caught.value).splitlines()) == 2


def test_load_settings__leaves_others_their_variables(tmp_path):
    """The key, the team's secret, an empty one, and those of other tools."""
    others = (
        "OPENROUTER_API_KEY",
        "OR_CACHE_SHARED_SECRET",
        "OPENROUTER_MODELS",
        "OPENROUTER_API_BASE",
        "ORACLE_HOME",
    )
    assert (
        load_settings(dict.fromkeys(others, "x") | {"OR_CACHE_MOD": ""}, Project(tmp_path), {}) == Settings()
    )


def test_load_settings__takes_a_day_s_limit_from_the_environment(tmp_path):
    """Like a session's."""
    found = load_settings({"OR_CACHE_MAX_COST_PER_DAY": "0.00"}, Project(tmp_path), {})
    assert found.max_cost_per_day_usd == 0


@pytest.mark.skipif(os.name != "posix", reason="makes symbolic links")
@pytest.mark.parametrize(
    "named", ["../../../../../etc/x", "/etc/x", "~/x", "..", "inside/../../x", "link", "link/deeper"]
)
def test_load_settings__keeps_a_project_s_folder_within_the_project(project, tmp_path, named):
    """A stranger's file writes nowhere else; the environment and the user may name any folder."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(SettingError, match="cache_dir") as caught:
        load_settings({}, project(f'cache_dir = "{named}"\n'), {})
    assert "OR_CACHE_DIR" in caught.value.hint
    with pytest.raises(SettingError, match="cache_dir"):
        save_settings(tmp_path, {"cache_dir": named})
    assert load_settings({"OR_CACHE_DIR": named}, Project(outside), {}).cache_dir


def test_load_settings__takes_a_whole_path_within_the_project(project, tmp_path):
    """And a relative one that comes back."""
    for named in (tmp_path / "a", "./a", "notebooks/../a", ":memory:"):
        found = load_settings({}, project(f"cache_dir = '{named}'\n"), {}).cache_dir
        assert found in (str(tmp_path / "a"), str(tmp_path / "notebooks/../a"), ":memory:")


def test_load_settings__reads_no_endless_file(tmp_path):
    """A file of settings has no megabytes."""
    with (tmp_path / "pyproject.toml").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(SettingError, match="larger than"):
        load_settings({}, Project(tmp_path), {})


@pytest.mark.parametrize("name", ["system", "model"])
def test_parse_setting__takes_no_key(name):
    """It would be sent with every ask; and it is not shown."""
    key = "sk-or-v1-" + "0a" * 32
    with pytest.raises(SettingError, match="API key") as caught:
        parse_setting(name, key, "here")
    assert key not in str(caught.value)


_GONE = """
import os, sys, tempfile
import or_cache_magic as orc
from or_cache_magic import cli
from or_cache_magic.panels.panel import _beside
cache = orc.open_cache(os.path.join(tempfile.gettempdir(), "never-made"))
gone = tempfile.mkdtemp()
os.chdir(gone)
os.rmdir(gone)
for what in (
    lambda: orc.ask("hi", model="a/b"),
    lambda: orc.stats(),
    lambda: orc.open_cache("relative"),
    lambda: cache.ask("hi", model="a/b"),
    lambda: _beside(cache),
):
    try:
        what()
    except orc.errors.OrCacheError as exc:
        print(len(str(exc).splitlines()), exc)
print(cli.main(["stats"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="removes the current folder")
def test_current_folder__that_is_gone_is_told_in_two_lines():
    """Everywhere that it is asked for."""
    done = subprocess.run(
        [sys.executable, "-c", _GONE], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0::2] == ["2 the current folder is gone (nothing was sent)"] * 5 + ["1"]
    assert done.stderr.startswith("the current folder is gone")


def test_base_url__of_one_path_names_the_base(tmp_path):
    """What was copied with the path of a request says which part is meant."""
    with pytest.raises(
        SettingError, match=r"takes what stands before /chat/completions: https://x\.y/api/v1"
    ):
        load_settings({"OPENROUTER_BASE_URL": "https://x.y/api/v1/chat/completions/"}, Project(tmp_path), {})
