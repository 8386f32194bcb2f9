"""Treats a cache folder as badly as eight kernels and kill -9 can, and prints what came of it, as a table.

::

    python benchmarks/soak.py            # about two minutes
    python benchmarks/soak.py --quick    # shows that it works, proves nothing

The exit code is 1 when an answer was lost, served in half, bought twice, or left out of the ledger.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, table
from soaking import STRIDE, ask_cold, fill, inspect, kill_writers, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from soaking import Found


@dataclass(frozen=True)
class Effort:
    """How long to go on."""

    processes: int = 8
    load_s: float = 12.0
    hits_s: float = 3.0
    hit_rounds: int = 5
    kills: int = 100
    askers: int = 20


QUICK = Effort(processes=2, load_s=1.0, hits_s=0.5, hit_rounds=1, kills=2, askers=3)


def _sound(what: str, found: Found, errors: int) -> Iterator[Figure]:
    """The rows that must be 0."""
    of = f"of {found.entries:,} stored"
    yield Figure(f"{what}: errors", "≤", 0, "", errors)
    yield Figure(f"{what}: acknowledged answers lost", "≤", 0, "", found.lost, of)
    yield Figure(f"{what}: half answers", "≤", 0, "", found.half, of)
    yield Figure(f"{what}: answers that the ledger is off", "≤", 0, "", found.ledger_off, of)
    yield Figure(f"{what}: integrity faults", "≤", 0, "", int(bool(found.unsound)), found.unsound)


def mixed(folder: Path, effort: Effort) -> Iterator[Figure]:
    """Several processes that read and write at once."""
    first = fill(folder, 500)
    did = load(folder, processes=effort.processes, seconds=effort.load_s)
    name = f"{effort.processes} processes, {effort.load_s:g} s mixed"
    found = inspect(folder, [*first, *did.kept])
    yield from _sound(name, found, len(did.errors) + did.unwritten)
    rate = f"{did.hits_per_s:,.0f} hits + {len(did.kept) / effort.load_s:,.0f} answers kept a second"
    yield Figure(f"{name}: answers kept", "≥", 1, "", len(did.kept), rate)


def counting(folder: Path, effort: Effort) -> Iterator[Figure]:
    """What counting hits costs of the throughput: rounds with and without it, in turn."""
    fill(folder, 500)
    rates: dict[bool, list[float]] = {False: [], True: []}
    start = STRIDE
    for number in range(2 * effort.hit_rounds):
        # Neither is always the first: what else the machine does changes slowly.
        on = number % 4 in (1, 2)
        did = load(
            folder,
            processes=effort.processes,
            seconds=effort.hits_s,
            counting=on,
            buying=False,
            start=start,
        )
        rates[on].append(did.hits_per_s)
        start += effort.processes * STRIDE
    off, on = (statistics.median(rates[which]) for which in (False, True))
    detail = f"{on:,.0f} ÷ {off:,.0f} hits a second"
    yield Figure("counting hits: cost of throughput", "≤", 25, "%", 100 * (1 - on / off), detail)


def kills(folder: Path, effort: Effort) -> Iterator[Figure]:
    """A writer that is killed again and again, beside one that goes on."""
    kept, troubles = kill_writers(folder, effort.kills)
    yield from _sound(f"kill -9, {effort.kills} times", inspect(folder, kept), len(troubles))


def cold(folder: Path, effort: Effort) -> Iterator[Figure]:
    """Many processes that want one answer that nobody has."""
    for number, kill in enumerate((False, True)):
        came = ask_cold(folder / str(number), processes=effort.askers, kill_leader=kill)
        what = f"{effort.askers} processes, one cold key" + (", leader killed" if kill else "")
        detail = f"{len(came.answers)} answered within {came.seconds:.2f} s, {len(set(came.answers))} text"
        yield Figure(f"{what}: requests", "≤", 1 + kill, "", came.requests, detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="show that everything runs, in seconds")
    effort = QUICK if parser.parse_args().quick else Effort()
    figures = []
    for part in (mixed, counting, kills, cold):
        with tempfile.TemporaryDirectory() as folder:
            for figure in part(Path(folder) / "cache", effort):
                figures.append(figure)
                print(f"{figure.name}: {figure.verdict}", file=sys.stderr, flush=True)
    print(table(figures))
    # A busy machine is no defect; a lost answer is.
    sys.exit(any(figure.verdict != "ok" and figure.unit != "%" for figure in figures))


if __name__ == "__main__":
    main()
