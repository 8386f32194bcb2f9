"""A real IPython in a terminal of 80 columns, and as a script: what its user sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from or_cache_magic.simulator import Scenario, Simulator, scenario

pytestmark = pytest.mark.kernel

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, sim: Simulator) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENROUTER", "OR_CACHE"))
    }
    return {
        **kept,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OPENROUTER_BASE_URL": sim.base_url,
        "OPENROUTER_API_KEY": KEY,
        "OPENROUTER_MODEL": "openai/gpt-4o-mini",
        "COLUMNS": "80",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }


class Terminal:
    """A session: lines in, what is on the screen until the next prompt out."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--no-confirm-exit"],
            cwd=folder,
            env=environment,
            encoding="utf-8",
            timeout=60,
            dimensions=(24, 80),
            echo=False,
        )
        self.child.expect_exact("In [1]: ")

    def type(self, line: str, until: str = r"In \[\d+\]: ") -> str:
        """Types a line; what it shows until the next prompt."""
        self.child.sendline(line)
        self.child.expect(until)
        shown: str = self.child.before
        return shown.replace("\r\n", "\n").strip("\n")

    def cell(self, *lines: str) -> str:
        """Types a cell magic, which IPython's simple prompt ends at the second empty line."""
        for line in (*lines, ""):
            self.type(line, r"\.\.\.: ")
        return self.type("")


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    session = Terminal(tmp_path, environment)
    session.type("%load_ext or_cache_magic")
    yield session
    session.child.close(force=True)


def test_terminal__a_session(terminal: Terminal, sim: Simulator):
    """Answers as text, each once, receipts below, no ``Out[n]:`` with nothing, nothing wider than the screen."""
    sim.script(Scenario(text="# Median\n\nThe *middle* value: $x$"))
    answer = "# Median\n\nThe *middle* value: $x$"
    bought = terminal.cell("%%openrouter -o ans", "What is a median?")
    cached = terminal.cell("%%openrouter -o ans", "What is a median?")

    assert bought.startswith(answer + "\nopenai/gpt-4o-mini · $0.0")
    assert cached.startswith(answer + "\nopenai/gpt-4o-mini · cached just now · saved $0.0")
    assert terminal.type("x = %openrouter What is a median?").startswith(
        "openai/gpt-4o-mini · cached just now"
    )
    assert terminal.type("x == ans == Out[2] == Out[3] == _").endswith(": True")
    assert terminal.type("ans").endswith(": \n" + answer)
    assert terminal.type("%openrouter -q What is a median?") == answer
    screens = [bought, cached]
    screens += [
        terminal.type(f"%openrouter{line}") for line in ("", "_stats", "_stats --by model", "_entries")
    ]
    screens += [terminal.type("%openrouter_purge --all --dry-run"), terminal.type("%openrouter --help")]

    assert not any("object at" in one or re.search(r"Out\[\d+\]", one) or KEY in one for one in screens)
    assert all(
        len(line) <= 80 for one in screens[2:6] for line in one.splitlines() if "completion cache" not in line
    )
    assert sim.completion_count == 1


def test_terminal__mistakes_and_refusals(terminal: Terminal, sim: Simulator):
    """Two lines each, and the session goes on."""
    assert terminal.type("%openrouter --modl x hi").splitlines() == [
        "OptionError: %openrouter has no option --modl; nothing was sent",
        "  did you mean --model?; put -- before a prompt that begins with a dash",
    ]
    assert len(terminal.type("%openrouter {{ nowhere }}").splitlines()) == 2
    sim.script(scenario("insufficient_credits"))
    assert len(terminal.type("%openrouter hi").splitlines()) == 2
    assert "cached" not in terminal.type("%openrouter hi")


def test_terminal__purge_asks(terminal: Terminal, sim: Simulator):
    """It names count and cost, then asks."""
    terminal.type("%openrouter hi")
    said = terminal.type("%openrouter_purge --all", r"Remove 1\? \[y/N\] ")
    after = terminal.type("y")

    assert re.fullmatch(r"1 entry, \$0\.\d+ to buy again\n?", said)
    assert "removed" in after
    assert "0 entries" in terminal.type("%openrouter")


def test_terminal__key_is_typed_unseen(tmp_path: Path, environment: dict[str, str], sim: Simulator):
    """The key is asked for, not echoed, used, and in no file afterwards, the history's neither."""
    del environment["OPENROUTER_API_KEY"]
    session = Terminal(tmp_path, environment)
    session.type("%load_ext or_cache_magic")
    screen = session.type("%openrouter hi") + session.type("%openrouter_key", "OpenRouter API key: ")
    screen += session.type(KEY) + session.type("%openrouter hi") + session.type("%openrouter")
    session.child.sendline("exit()")
    session.child.expect(pexpect.EOF)
    session.child.close()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert sim.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert "MissingKeyError" in screen
    assert "sk-or-v1-012…def from %openrouter_key" in screen
    assert KEY not in screen
    assert b"%openrouter_key" in files  # the history is among them
    assert KEY.encode() not in files


def test_terminal__interrupt_stops_the_request(terminal: Terminal, sim: Simulator):
    """Ctrl-C keeps what had arrived on the screen, closes the request, and stores nothing."""
    sim.script(scenario("stalled"))
    terminal.child.sendline("%openrouter Tell me of medians")
    terminal.child.expect("medians")
    terminal.child.sendintr()
    terminal.child.expect(r"In \[\d+\]: ")

    *_, receipt, error, hint = terminal.child.before.strip().replace("\r", "").split("\n")
    assert "failed" in receipt
    assert re.search(r"not stored: interrupted after \d+ characters$", receipt)
    assert error.startswith("KeyboardInterrupt: ")
    assert "characters of the answer had arrived (its cost is not known yet)" in error
    assert hint.startswith("  run the cell again to ask anew; what had arrived is kept")
    assert sim.wait_for(lambda rows: rows[-1].cancelled)
    assert "0 entries" in terminal.type("%openrouter")


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("fails", [False, True])
def test_batch__exit_code(tmp_path: Path, run: Run, sim: Simulator, fails: bool):
    """``ipython file.ipy`` ends with 1 where an ask failed, and with 0 where none did."""
    asked = "{{ nowhere }}" if fails else "hi"
    (tmp_path / "job.ipy").write_text(
        f"%load_ext or_cache_magic\n%openrouter -q {asked}\nprint('went', 'on')\n"
    )
    done = run("-m", "IPython", "job.ipy")

    assert (done.returncode != 0) is fails
    assert ("went on" in done.stdout) is not fails


def test_batch__refuses_what_needs_someone(tmp_path: Path, run: Run, sim: Simulator):
    """Without anyone at the keyboard, neither a purge nor a key is asked for: an error, and no waiting."""
    lines = "%load_ext or_cache_magic\n%openrouter -q hi\n{}\n"
    (tmp_path / "purge.ipy").write_text(lines.format("%openrouter_purge --all"))
    (tmp_path / "key.ipy").write_text(lines.format("%openrouter_key"))
    purge, key = run("-m", "IPython", "purge.ipy"), run("-m", "IPython", "key.ipy")

    assert "OptionError: this front end can't ask, so nothing was removed" in purge.stdout
    assert "OptionError: this front end can't ask for the key unseen" in key.stdout
    assert purge.returncode == key.returncode == 1
    assert sim.completion_count == 1


SCRIPT = "import or_cache_magic as orc; print(orc.ask('hi').cached)"


def test_script__uses_the_folder_of_its_project(tmp_path: Path, run: Run, sim: Simulator):
    """A script without IPython finds the cache above it, and makes one where it was started otherwise."""
    (tmp_path / ".git").mkdir()
    first, second = (
        run("-c", SCRIPT),
        run("-c", f"import os; os.makedirs('deep/er'); os.chdir('deep/er'); {SCRIPT}"),
    )

    assert (first.stdout, second.stdout) == ("False\n", "True\n")
    assert (tmp_path / ".or_cache" / "cache.db").exists()
    assert not (tmp_path / "deep" / "er" / ".or_cache").exists()
    assert sim.completion_count == 1


def test_script__named_folder_and_offline(tmp_path: Path, run: Run, sim: Simulator):
    """``OR_CACHE_DIR`` and ``OR_CACHE_MODE`` hold for scripts: recorded once, replayed without a key."""
    first = run("-c", SCRIPT, OR_CACHE_DIR="elsewhere")
    replay = run("-c", SCRIPT, OR_CACHE_DIR="elsewhere", OR_CACHE_MODE="offline", OPENROUTER_API_KEY="")
    miss = run("-c", SCRIPT, OR_CACHE_MODE="offline", OPENROUTER_API_KEY="")

    assert (first.stdout, replay.stdout) == ("False\n", "True\n")
    assert "ReplayMiss: offline" in miss.stderr
    assert miss.returncode == 1
    assert sim.completion_count == 1
