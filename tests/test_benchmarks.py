"""The benchmarks run: every row is there, and what a hit must not do is seen not to be done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"

RATIOS = {
    "API hit, 2 KB: ÷ floor",
    "API hit, 200 KB: ÷ bare_sha256",
    "key, 2 KB: ÷ json.dumps + sha256",
    "key, 200 KB: ÷ bare sha256",
    "hit cell ÷ empty cell magic",
    "bytes on disk ÷ plain diskcache",
}
CPU = {"%load_ext, CPU", "first hit cell in a fresh shell, CPU"}
LISTINGS = {
    "page of 50 in the panel, newest first",
    "totals by model",
    "search of a text that is nowhere: ÷ inflating all of it",
    "purge of one model of 40",
}
COUNTS = {"requests that our hits sent", "heavy libraries that a hit imports"}
VISITS = {
    "modules of ours that a first hit imports",
    "files that a hit cell visits",
    "functions that a hit cell visits",
    "settings resolved by a miss",
    "write transactions of a miss",
}
PEERS = {
    "API hit, 2 KB: dspy_disk ÷ ours",
    "API hit, 2 KB: langchain_sqlite ÷ ours",
    "API hit, 2 KB: litellm_local ÷ ours",
    "API hit, 200 KB: dspy_disk ÷ ours",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run without peers: what it printed, and its figures by name."""
    found = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    command = [sys.executable, str(RUN), "--quick", "--json", str(found)]
    done = subprocess.run(
        command, cwd=found.parent, capture_output=True, encoding="utf-8", check=True, timeout=300
    )
    figures = json.loads(found.read_text(encoding="utf-8"))["figures"]
    return done.stdout, {figure["name"]: figure for figure in figures}


def test_benchmarks__print_every_row(quick):
    """The table has a line for each figure, with its bar and its verdict."""
    printed, figures = quick
    assert figures.keys() == RATIOS | CPU | COUNTS | VISITS | LISTINGS | PEERS
    lines = printed.splitlines()[1:]
    assert len(lines) == len(figures)
    for line, figure in zip(lines, figures.values(), strict=True):
        assert line.startswith(figure["name"])
        assert figure["verdict"] in line


def test_benchmarks__measure_all_but_absent_peers(quick):
    """Without peers their rows say how to get them, and every other row has a number."""
    _, figures = quick
    for name in RATIOS | CPU | VISITS | LISTINGS:
        assert figures[name]["measured"] > 0
    for name in PEERS:
        assert figures[name]["verdict"] == "skipped"
        assert "peers.py --install" in figures[name]["detail"]


def test_hit__imports_nothing_heavy(quick):
    """A fresh shell that loads the extension and hits has imported no openai, pandas, ipywidgets or diskcache."""
    figure = quick[1]["heavy libraries that a hit imports"]
    assert (figure["measured"], figure["detail"]) == (0, "none")


def test_hit__sends_nothing(quick):
    """Hits through the Python API reach the simulator with no request at all."""
    assert quick[1]["requests that our hits sent"]["measured"] == 0


def _lines(script: str, folder: Path) -> list[str]:
    """What a quick run of another script prints, which succeeds."""
    done = subprocess.run(
        [sys.executable, str(RUN.with_name(script)), "--quick"],
        cwd=folder,
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_visits__print_the_chain_of_each_ask(tmp_path):
    """Below its counts stands what an ask visits, callers above what they call, and the figures at the end."""
    lines = _lines("visits.py", tmp_path)
    chains = {}
    for line in lines:
        if re.fullmatch(r"\S.*: \d+ files, \d+ functions", line):
            chain = chains.setdefault(line.partition(":")[0], [])
        elif line.startswith(" "):
            chain.append(line)
    assert list(chains) == ["hit, %%openrouter", "miss, %%openrouter", "hit, orc.ask"]
    for chain in chains.values():
        depths = [len(line) - len(line.lstrip()) for line in chain]
        key = next(i for i, line in enumerate(chain) if line.endswith(":request_key"))
        assert depths[key + 1] == depths[key] + 2
        assert all(re.fullmatch(r" +[\w/]+\.py:\S+( \N{MULTIPLICATION SIGN}\d+)?", line) for line in chain)
    assert max(map(len, chains.values())) == len(chains["miss, %%openrouter"])
    figures = {line.partition("  ")[0] for line in lines}
    assert figures >= VISITS | {"first hit cell in a fresh shell, CPU"}


def test_clients__asks_for_nothing_the_second_time():
    """The library `openai` asks once, whole, streamed and with a tool; run again it is served."""
    command = [sys.executable, str(RUN.with_name("clients.py")), "openai"]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    name, asks, sent, again, hits, *_ = done.stdout.splitlines()[1].split()
    assert (name, asks, sent, again, hits) == ("openai", "3", "3", "0", "3")


def test_soak__prints_every_row_and_finds_nothing(tmp_path):
    """A quick soak runs to its end: every row has a verdict, and nothing that must not happen did."""
    lines = _lines("soak.py", tmp_path)[1:]
    assert len(lines) == 14
    for what in ("2 processes", "counting hits", "kill -9", "one cold key, leader killed"):
        assert any(what in line for line in lines)


def test_fuzz__finds_nothing_in_a_quick_run(tmp_path):
    """Odd replies, options, lines, settings and packs: no raw error, nothing lost, nothing left out of the ledger."""
    command = [sys.executable, str(RUN.with_name("fuzz.py")), "--quick"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([line for line in done.stdout.splitlines() if " ok " in line]) == 30


def test_plan__says_what_run_all_then_does(tmp_path):
    """In a kernel, with an empty cache and then a full one: no cell does or costs what its plan did not say."""
    (line,) = [line for line in _lines("plan.py", tmp_path) if line.startswith("all ")]
    assert line.endswith("0 wrong")
    assert "5 hit" in line
    assert "1 miss" in line


def test_tables__asks_equal_rows_once(tmp_path):
    """The benchmark of tables measures our product in processes of its own; what it asks is exact at any size."""
    found = tmp_path / "figures.json"
    command = [
        sys.executable,
        str(RUN.with_name("tables.py")),
        "--scale",
        "0.01",
        "--json",
        str(found),
        "equal",
    ]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    figures = json.loads(found.read_text(encoding="utf-8"))["figures"]
    assert [figure["measured"] for figure in figures] == [60.0, 1]
