"""``or-cache`` as a shell runs it: in processes of its own, on real caches."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
import tomlkit

from or_cache_magic import cli
from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.cli.demo import FILES, quickstart_folder
from or_cache_magic.core.settings import Settings
from or_cache_magic.display.stats import STAT_TYPES
from or_cache_magic.simulator import Simulator

SHELL = (sys.executable, "-c", "import sys; from or_cache_magic.cli import main; sys.exit(main())")
OURS = ("OPENROUTER_", "OPENAI_", "OR_CACHE_", "JPY_")
MINI, HAIKU = "openai/gpt-4o-mini", "anthropic/claude-haiku-4.5"


def environment(**more):
    """The machine's environment with nothing of this package in it but `more`; 100 columns wide."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"COLUMNS": "100", "PYTHONUTF8": "1"} | more


def run(*words, cwd, stdin=subprocess.DEVNULL, **more):
    """What ``or-cache`` with these words comes to."""
    return subprocess.run(
        [*SHELL, *words],
        cwd=cwd,
        env=environment(**more),
        stdin=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def ok(*words, **options):
    """The standard output of a command that succeeds and complains of nothing."""
    done = run(*words, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(*words, **options):
    """The two lines of a command that fails."""
    done = run(*words, **options)
    assert done.returncode == 1
    message, hint = done.stderr.splitlines()
    assert hint.startswith("  ")
    return message, hint.strip()


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as started:
        yield started


@pytest.fixture
def project(tmp_path, simulator):
    """A folder whose cache has three entries, of two models, one of them asked twice."""
    settings = Settings(base_url=simulator.base_url)
    with CompletionCache(
        tmp_path / ".or_cache", settings=lambda: settings, api_key=lambda: simulator.api_key
    ) as cache:
        cache.ask("What is a median?", model=MINI, tag="statistics")
        cache.ask("What is a median?", model=MINI)
        cache.ask(
            "Name\na \x1b[31mcolour\x1b[0m, and say in many words why it is the one you like best", model=MINI
        )
        cache.ask("What is the capital of France?", model=HAIKU)
    return tmp_path


def keys(folder):
    """The keys of the entries, newest first."""
    with CompletionCache(folder / ".or_cache", api_key=lambda: None) as cache:
        return list(cache.entries()["key"])


# -- stats ----------------------------------------------------------------------------------------


def test_stats__shows_calls_hits_and_money(project):
    """One row has what was called, hit, paid and saved."""
    facts, notes = ok("stats", cwd=project).split("\n\n")
    shown = dict(re.split(r"  +", line) for line in facts.splitlines())
    assert list(shown) == list(STAT_TYPES)
    assert [shown[name] for name in ("asks", "calls", "hits", "misses", "hit_rate")] == [
        "4",
        "3",
        "1",
        "3",
        "25%",
    ]
    assert all(shown[name].startswith("$0.0") for name in ("paid_usd", "saved_usd"))
    assert "At best 25%: 3 of 4 asks were new." in notes


def test_stats__has_a_row_for_each_model(project):
    """``--by model`` names the models in the first column."""
    lines = ok("stats", "--by", "model", cwd=project).partition("\n\n")[0].splitlines()
    headings, *rows = (re.split(r"  +", line) for line in lines)
    assert headings == ["model", "asks", "hits", "hit rate", "paid", "saved"]
    assert {row[0]: row[1:4] for row in rows} == {MINI: ["3", "1", "33%"], HAIKU: ["1", "0", "0%"]}
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) < 80


def test_stats__of_no_cache_says_so_and_makes_none(tmp_path):
    """Where nothing was asked it says so, and leaves the folder as it was."""
    assert "nothing was asked yet" in ok("stats", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- entries --------------------------------------------------------------------------------------


def test_entries__are_one_plain_line_each(project):
    """Each entry is one line of less than 80 columns, newest first, with nothing that steers a terminal."""
    output = ok("entries", cwd=project)
    headings, *rows = output.splitlines()
    assert headings.split() == ["key", "created", "model", "cost", "hits", "prompt"]
    assert [row.split()[0] for row in rows] == [key[:10] for key in keys(project)]
    assert max(map(len, (headings, *rows))) < 80
    assert "\x1b" not in output
    assert "Name a " in rows[1]


@pytest.mark.parametrize(
    ("words", "found"),
    [(("MEDIAN",), 1), (("--model", "openai/*"), 2), (("--tag", "statistics"), 1), (("--since", "7d"), 3)],
)
def test_entries__are_filtered(words, found, project):
    """A text, a model, a tag and an age choose entries."""
    assert len(ok("entries", *words, cwd=project).splitlines()) == 1 + found


def test_entries__beyond_the_limit_are_counted(project):
    """``--limit`` shows the newest and says how many more there are."""
    lines = ok("entries", "--limit", "2", cwd=project).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "… and 1 more (--limit)"


def test_entries__are_shown_where_letters_are_few(project):
    """A terminal that has only ASCII gets question marks in place of what it can't show."""
    assert "? and 1 more" in ok("entries", "-n", "2", cwd=project, PYTHONIOENCODING="ascii")


def test_entries__with_a_key_show_one_whole(project):
    """A key, as the table shows it, shows the request and the answer."""
    key = keys(project)[0]
    output = ok("entries", key[:10], cwd=project)
    assert key in output
    assert '"content": "What is the capital of France?"' in output
    assert "The capital of France is Paris." in output


def test_entries__with_an_unknown_key_fail(project):
    """A key that no entry has is an error of two lines."""
    assert "0123456789" in refused("entries", "0123456789", cwd=project)[0]


def test_entries__end_quietly_when_the_reader_does(project):
    """A reader that has seen enough gets no traceback."""
    command = subprocess.Popen(
        [*SHELL, "entries"], cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.close()
    with command.stderr:
        assert command.stderr.read() == b""
    command.wait(timeout=180)


# -- purge ----------------------------------------------------------------------------------------


def test_purge__without_a_terminal_is_refused(project):
    """Where nobody can be asked, nothing goes, and ``-y`` is named."""
    message, hint = refused("purge", "--all", cwd=project)
    assert "nothing was removed" in message
    assert "-y" in hint
    assert len(keys(project)) == 3


def test_purge__dry_run_removes_nothing(project):
    """``--dry-run`` says how many would go and what they cost."""
    assert re.match(
        r"2 entries, \$0\.0\d+ to buy again", ok("purge", "--model", MINI, "--dry-run", cwd=project)
    )
    assert len(keys(project)) == 3


@pytest.mark.parametrize("words", [("--tag", "statistics"), ("--prefix", "What is a med")])
def test_purge__removes_what_is_chosen(words, project):
    """With ``-y`` what meets the condition goes, and the ledger keeps what was paid."""
    assert "1 removed" in ok("purge", *words, "-y", cwd=project)
    assert len(keys(project)) == 2
    assert ok("stats", cwd=project).split()[1] == "4"


def test_purge__takes_keys(project):
    """The first digits of a key choose it."""
    gone, *kept = keys(project)
    ok("purge", gone[:10], "--yes", cwd=project)
    assert keys(project) == kept


@pytest.mark.parametrize("words", [(), ("--all", "--tag", "x"), ("nothex",)])
def test_purge__of_nothing_or_too_much_is_refused(words, project):
    """Without a condition, with ``--all`` beside one, or with what is no key, nothing goes."""
    refused("purge", *words, "-y", cwd=project)
    assert len(keys(project)) == 3


def test_purge__to_fit_drops_until_the_rest_fits(project):
    """``--to-fit`` says how large what goes is, and what stays; nothing goes where all fits already."""
    assert re.match(
        r"3 entries, \d.* K?B, \$0\.\d+ to buy again · 0 B stay",
        ok("purge", "--to-fit", "0B", "--dry-run", cwd=project),
    )
    assert "fit already" in ok("purge", "--to-fit", "1GB", "-y", cwd=project)
    assert len(keys(project)) == 3
    assert "3 removed" in ok("purge", "--to-fit", "0B", "-y", cwd=project)


def test_memory__is_another_process_s(project):
    """A cache in memory can't be looked into from a shell, which is said."""
    for more in ({"OR_CACHE_DIR": ":memory:"}, {}):
        words = () if more else ("--dir", ":memory:")
        message, hint = refused("stats", *words, cwd=project, **more)
        assert "memory of another process" in message
        assert "--dir" in hint


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("typed", "left"), [(b"y\n", 0), (b"\n", 3)])
def test_purge__on_a_terminal_asks(typed, left, project):
    """It removes on a yes, and not on Enter."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, typed)
        output = ok("purge", "--all", cwd=project, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Remove 3? [y/N]" in output
    assert len(keys(project)) == left


# -- which cache ----------------------------------------------------------------------------------


def test_folder__is_found_as_a_notebook_finds_it(project, tmp_path):
    """Below a folder with a cache that one is taken; ``OR_CACHE_DIR`` and then ``--dir`` go before."""
    below = project / "deep" / "below"
    below.mkdir(parents=True)
    empty = str(tmp_path / "empty")
    full = str(project / ".or_cache")
    assert ok("stats", cwd=below).split()[1] == "4"
    assert empty in ok("stats", cwd=below, OR_CACHE_DIR=empty)
    assert ok("stats", "--dir", full, cwd=below, OR_CACHE_DIR=empty).split()[1] == "4"


def test_folder__with_a_bad_setting_fails_in_two_lines(tmp_path):
    """A project's file that can't be read is told, not shown as a traceback."""
    (tmp_path / "pyproject.toml").write_text('[tool.or_cache_magic]\nmodle = "x"\n')
    assert "modle" in refused("stats", cwd=tmp_path)[0]


def test_folder__with_a_damaged_cache_fails_in_two_lines(tmp_path):
    """A file that is no database is named and left alone."""
    damaged = tmp_path / ".or_cache" / "cache.db"
    damaged.parent.mkdir(mode=0o700)
    damaged.write_bytes(b"no database at all" * 400)
    assert str(damaged) in refused("entries", cwd=tmp_path)[0]
    assert damaged.read_bytes() == b"no database at all" * 400


@pytest.mark.parametrize(
    "words",
    [(), ("stat",), ("stats", "--by", "moon"), ("entries", "--since", "soon"), ("entries", "-n", "0")],
)
def test_usage__that_is_wrong_exits_with_2(words, capsys):
    """A line that can't be read is told on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "usage: or-cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("purge", "--al", "-y"), "did you mean --all?"),
        (("purge", "-all", "-y"), "did you mean --all?"),
        (("purge", "-y", "--dry-rum", "--all"), "did you mean --dry-run?"),
        (("entries", "--sinc", "7d"), "did you mean --since?"),
        (("entries", "--mod", "zzz"), "did you mean --model?"),
        (("entries", "--mod=zzz"), "did you mean --model?"),
        (("warm", "-seed", "5", "x.txt"), "did you mean --seed?"),
        (("simulate", "--por", "1"), "did you mean --port?"),
        (("demo", "--kee", "x"), "did you mean --keep?"),
        (("--hel",), "did you mean --help?"),
        (("stats", "--zzz"), "--help lists"),
        (("simulate", "--delay", "-1"), "from 0 to"),
        (("simulate", "--delay", "nan"), "from 0 to"),
        (("simulate", "--delay", "inf"), "from 0 to"),
        (("simulate", "--port", "-1"), "from 0 to 65535"),
    ],
)  # fmt: skip
def test_usage__takes_nothing_for_something_else(words, meant, capsys):
    """No part of an option's name is the option: what was meant is named, and nothing is done."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert meant in capsys.readouterr().err


# -- simulate -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_simulate__serves_until_interrupted(tmp_path):
    """It says where it listens, answers there, and ends cleanly at Ctrl-C."""
    with subprocess.Popen(
        [*SHELL, "simulate", "--delay", "0"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            told = dict(word.split("=", 1) for word in server.stdout.readline().split()[1:])
            request = urllib.request.Request(
                told["OPENROUTER_BASE_URL"] + "/chat/completions",
                json.dumps({"model": MINI, "messages": [{"role": "user", "content": "2 + 2"}]}).encode(),
                {"Authorization": f"Bearer {told['OPENROUTER_API_KEY']}", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                assert json.load(reply)["choices"][0]["message"]["content"] == "4"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=180) == 0


def test_simulate__on_a_taken_port_fails_in_two_lines(tmp_path):
    """A port that another program has is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("simulate", "--port", str(port), cwd=tmp_path)[0]


# -- demo -----------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_demo__buys_once_and_then_sends_nothing(tmp_path):
    """The first run buys, the second is all hits; the user's key, cache and session are left alone."""
    kept = tmp_path / "kept"
    lines = ok(
        "demo",
        "--keep",
        str(kept),
        cwd=tmp_path,
        OPENROUTER_API_KEY="sk-or-v1-of-the-user",
        OPENROUTER_BASE_URL="http://127.0.0.1:9/api/v1",
        OR_CACHE_DIR=str(tmp_path / "of-the-user"),
        JPY_SESSION_NAME=str(tmp_path / "open.ipynb"),
    ).splitlines()
    assert lines[1].split()[-1] == str(kept / ".or_cache")
    first, second = (line for line in lines if " run: " in line)
    assert re.search(r"· 24 hits · 26 misses · paid \$0\.0\d+ · .* · 26 requests sent", first)
    assert re.search(r"· 50 hits · 0 misses · paid \$0 · saved \$0\.0\d+ · 0 requests sent", second)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]
    saved = nbformat.read(kept / "quickstart.ipynb", as_version=4)
    assert all(cell.execution_count for cell in saved.cells if cell.cell_type == "code")


def test_demo__names_what_is_missing(tmp_path):
    """Without nbclient it says what to install."""
    hidden = (
        "import sys; sys.modules['nbclient'] = None\n"
        "from or_cache_magic.cli import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    message, hint = done.stderr.splitlines()
    assert "nbclient" in message
    assert hint.strip() == "pip install 'or-cache-magic[demo]'"


def test_demo__is_in_the_wheel():
    """A wheel takes what the demo runs from the repository's ``notebooks`` and puts it beside the demo's code."""
    root = Path(__file__).parents[2]
    build = tomlkit.parse((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {
        f"notebooks/{name}": f"or_cache_magic/cli/{name}" for name in FILES
    }
    for name in FILES:
        assert (quickstart_folder() / name).read_bytes() == (root / "notebooks" / name).read_bytes()


@pytest.mark.smoke
def test_command__is_installed():
    """``or-cache`` is a command of this environment."""
    program = Path(sys.executable).with_name("or-cache")
    if not program.exists():
        pytest.skip("the package is not installed here")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "purge" in done.stdout
