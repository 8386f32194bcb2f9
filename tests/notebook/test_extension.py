"""Loading and unloading: silent, cheap, and the shell afterwards as it was before."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from or_cache_magic.core.settings import SETTINGS
from or_cache_magic.notebook import extension
from or_cache_magic.notebook.commands import COMMANDS


def state(shell: InteractiveShell) -> dict[str, Any]:
    """Everything in a shell that an extension can add to."""
    manager, formatter = shell.magics_manager, shell.display_formatter
    return {
        "magics": {kind: set(names) for kind, names in manager.magics.items()},
        "registry": dict(manager.registry),
        "configurables": list(shell.configurables),
        "events": {name: list(callbacks) for name, callbacks in shell.events.callbacks.items()},
        "matchers": list(shell.Completer.custom_matchers),
        "cleanup": list(shell.input_transformers_cleanup),
        "post": list(shell.input_transformers_post),
        "line": list(shell.input_transformer_manager.line_transforms),
        "token": list(shell.input_transformer_manager.token_transformers),
        "ast": list(shell.ast_transformers),
        "printers": {
            mime: (dict(one.type_printers), dict(one.deferred_printers), dict(one.singleton_printers))
            for mime, one in formatter.formatters.items()
        },
        "ipython_display": dict(formatter.ipython_display_formatter.type_printers),
        "hooks": (sys.excepthook, sys.displayhook, shell.custom_exceptions),
        "variables": set(shell.user_ns),
    }


def test_unload__leaves_the_shell_as_it_was(bare, monkeypatch):
    """Loaded, reloaded twice, used and unloaded, a shell has nothing of it left, nor has the process's end."""
    run, at_exit = bare.shell.run_line_magic, []
    run("unload_ext", "or_cache_magic")  # IPython's own magics come with their first use
    before = state(bare.shell)
    with monkeypatch.context() as patched:
        patched.setattr(atexit, "register", at_exit.append)
        patched.setattr(atexit, "unregister", at_exit.remove)
        run("load_ext", "or_cache_magic")
        loaded = sizes(state(bare.shell))
        for _ in range(2):
            run("reload_ext", "or_cache_magic")
        assert sizes(state(bare.shell)) == loaded
        assert len(at_exit) == 1

        bare.shell.run_cell("%openrouter -m openai/gpt-4o-mini hi")
        run("unload_ext", "or_cache_magic")

    after = state(bare.shell)
    after["variables"] = before["variables"]  # the answer is the user's
    assert after == before
    assert at_exit == []


def sizes(of: dict[str, Any]) -> dict[str, int]:
    return {name: len(value) for name, value in of.items() if isinstance(value, (list, set))}


def test_unload__the_magics_are_gone(nb):
    """After unloading, the magic is unknown and a question is a request for help again."""
    nb.run("%unload_ext or_cache_magic")

    assert "not found" in nb.fails("%openrouter hi")
    assert extension.loaded() is None
    assert nb.sim.completion_count == 0


def test_load__again_keeps_what_was_bought(nb):
    """Reloading closes the cache and opens it again: nothing is paid twice."""
    nb.run("%openrouter hi")
    nb.run("%reload_ext or_cache_magic")
    nb.run("%openrouter hi")

    assert nb.sim.completion_count == 1


WATCHED = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before, seen = set(sys.modules), []
def watch(event, args):
    if event.startswith("socket.") or event in ("os.mkdir", "subprocess.Popen", "sqlite3.connect"):
        seen.append([event, repr(args)])
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append([event, repr(args)])
sys.dont_write_bytecode = True
sys.addaudithook(watch)
shell.run_line_magic("load_ext", "or_cache_magic")
seen = list(seen)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
sys.stderr.write(json.dumps([seen, sorted(new)]))
"""


def test_load__is_silent_and_touches_nothing(tmp_path: Path):
    """Loading writes nothing, opens no socket, makes no folder and imports nothing but this package."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen, imported = json.loads(done.stderr)
    ours = {name for name in imported if name not in sys.stdlib_module_names}

    assert done.stdout == ""
    assert seen == []
    assert ours <= {"or_cache_magic", "IPython"}
    assert not (tmp_path / ".or_cache").exists()


NAMED = "openai/gpt-4o-mini"


@pytest.mark.parametrize(
    ("cell", "asked"),
    [
        ("%openrouter", {"/key"}),
        ("%openrouter_stats", set()),
        ("%openrouter_entries", set()),
        ("%openrouter_config", set()),
        ("%openrouter_purge --all -y", set()),
        ("%openrouter_panel", set()),
        ("%openrouter --dry-run hi", {f"/model/{NAMED}", f"/models/{NAMED}/endpoints"}),
        ("%openrouter --help", set()),
    ],
)
def test_looking__makes_no_folder(nb, cell: str, asked: set[str]):
    """Only a store makes the folder; looking does not. What is asked is the key's limits, or prices: free."""
    nb.run(cell)

    assert not (nb.folder / ".or_cache").exists()
    assert {one.path.removeprefix("/api/v1") for one in nb.sim.requests} == asked


def test_setting_names__are_the_settings():
    """The list that loading reads is the table's."""
    assert tuple(SETTINGS) == extension.SETTING_NAMES


def test_magics__are_the_commands():
    """Every magic that is registered has its options and its help, and none is missing."""
    assert {f"%{name}" for name in extension.MAGICS} | {"%%openrouter"} == set(COMMANDS)


def test_lazy_magics__load_at_the_first_use(bare):
    """``c.MagicsManager.lazy_magics`` loads the extension when the magic is first run."""
    bare.shell.magics_manager.lazy_magics = {"openrouter": "or_cache_magic"}
    out = bare.run("%%openrouter openai/gpt-4o-mini\nhi\n")

    assert "openai/gpt-4o-mini" in out
    assert bare.sim.completion_count == 1


def test_traits__configured_before_loading(bare):
    """``c.OpenRouterMagics.*`` of a profile is in force."""
    bare.shell.config.OpenRouterMagics = Config(model="openai/gpt-4o", temperature=0.5, receipt="off")
    bare.run("%load_ext or_cache_magic")
    out = bare.run("%openrouter hi")

    assert (bare.sent[0]["model"], bare.sent[0]["temperature"]) == ("openai/gpt-4o", 0.5)
    assert "$" not in out


def test_traits__wrong_value_fails_the_load_in_two_lines(bare):
    """A wrong value in a profile stops the load, with what it takes, and leaves nothing behind."""
    before = state(bare.shell)
    bare.shell.config.OpenRouterMagics = Config(temperature="hot")
    out = bare.fails("%load_ext or_cache_magic")

    assert out.splitlines() == [
        "SettingError: temperature = 'hot' (from configuration): takes a number from 0 to 2, or none to leave it out",
        "  temperature: sent explicitly; none sends none",
    ]
    assert state(bare.shell)["magics"] == before["magics"]


def test_config__by_name(nb):
    """``%config OpenRouterMagics.model = '…'`` is in force at once, and reads back."""
    nb.run("%config OpenRouterMagics.model = 'openai/gpt-4o'")
    nb.run("%openrouter hi")

    assert nb.sent[0]["model"] == "openai/gpt-4o"
    assert "'openai/gpt-4o'" in nb.run("%config OpenRouterMagics.model")
    assert "OpenRouterMagics" in nb.run("%config")
    assert "OpenRouterMagics.max_tokens" in nb.run("%config OpenRouterMagics")


def test_config__wrong_value_is_not_taken(nb, caplog):
    """IPython logs a wrong value of ``%config``; the one before stays."""
    nb.run("%config OpenRouterMagics.temperature = 0.2")
    nb.run("%config OpenRouterMagics.temperature = 'hot'")
    nb.run("%openrouter hi")

    assert "takes a number from 0 to 2, or none to leave it out" in caplog.text
    assert nb.sent[0]["temperature"] == 0.2


def test_config__none_takes_a_choice_back(nb):
    """None is "not set here": the environment's value is in force again."""
    nb.run("%config OpenRouterMagics.model = 'openai/gpt-4o'")
    nb.run("%config OpenRouterMagics.model = None")
    nb.run("%openrouter hi")

    assert nb.sent[0]["model"] == "openai/gpt-4o-mini"


def test_config__cache_dir_moves_the_cache_at_once(nb):
    """Another folder is another cache, however it was set."""
    nb.run("%openrouter hi")
    nb.run("%config OpenRouterMagics.cache_dir = 'elsewhere'")
    nb.run("%openrouter hi")
    assert nb.sim.completion_count == 2
    assert (nb.folder / "elsewhere" / "cache.db").exists()

    nb.run("%openrouter_config cache_dir=.or_cache")
    nb.run("%openrouter hi")
    assert nb.sim.completion_count == 2


def test_cd__does_not_move_the_cache(nb, tmp_path: Path):
    """The cache stays where the kernel was started."""
    nb.run("%openrouter hi")
    nb.shell.run_line_magic("cd", f"-q {tmp_path}")
    nb.run("%openrouter hi")

    assert nb.sim.completion_count == 1
    assert not (tmp_path / ".or_cache").exists()


@pytest.mark.parametrize(
    ("asked", "first", "also"),
    [
        ("%%openrouter?", "%%openrouter [MODEL ...] [@FILE] [options]", "--max-tokens N"),
        ("%openrouter?", "%openrouter [options] PROMPT", "--max-tokens N"),
        ("?%openrouter", "%openrouter [options] PROMPT", "--max-tokens N"),
        ("%openrouter_purge?", "%openrouter_purge [KEY ...] [options]", "--older TIME"),
        ("%openrouter_key?", "%openrouter_key [options]", "--help"),
    ],
)
def test_help__by_question_mark(nb, asked: str, first: str, also: str):
    """``?`` shows the magic under its own name, examples first, then the options, and no object."""
    out = nb.run(asked)

    assert out.index(first) < out.index("Options:") < out.index(also)
    assert "<or_cache" not in out
    assert "object at" not in out


def test_completion__through_the_shell(nb):
    """Tab completes options, models with slashes and dashes, and settings; and nothing in a prompt."""
    nb.run("%openrouter -m anthropic/claude-sonnet-4.6 hi")

    def complete(text: str) -> list[str]:
        return list(nb.shell.complete(text.rsplit(" ", maxsplit=1)[-1], text, len(text))[1])

    assert complete("%%openrouter --mo") == ["--model"]
    assert complete("%%openrouter anthropic/claude-") == ["anthropic/claude-sonnet-4.6"]
    assert complete("x = %openrouter -m openai/") == ["openai/gpt-4o-mini"]
    assert complete("%openrouter_config max_t") == ["max_tokens="]
    assert complete("%openrouter_stats --by d") == ["day"]
    assert "%openrouter_stats" in complete("%openrouter_st")
    assert not any("--model" in word for word in complete("%openrouter what --mo"))


def test_completion__by_the_completer(nb):
    """Front ends ask the completer itself; the piece replaced is the whole id."""
    text = "%%openrouter openai/gpt-4o-"
    nb.run("%openrouter hi")
    with provisionalcompleter():
        (found,) = list(nb.shell.Completer.completions(text, len(text)))

    assert (found.text, found.start) == ("openai/gpt-4o-mini", len("%%openrouter "))


def test_completion__never_raises(nb):
    """A project file with an error in it does not break the Tab key."""
    (nb.folder / "pyproject.toml").write_text("[tool.or_cache_magic]\nmodle = 'x'\n")
    text = "%%openrouter op"

    assert "openai/gpt-4o-mini" not in nb.shell.complete("op", text, len(text))[1]
    assert "--model" in nb.shell.complete("--mo", "%%openrouter --mo", len("%%openrouter --mo"))[1]
