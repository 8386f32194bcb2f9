"""Every figure that the design sets a bar for, measured side by side in one run, as one table.

::

    python benchmarks/run.py                     # about a minute
    python benchmarks/run.py --peers DIR         # with the other caches: see peers.py
    python benchmarks/run.py --quick             # a few seconds; shows that it works, proves nothing

The exit code is 0 whatever was measured: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import disk
import hits
import key
import shells
from figures import TIMES, Figure, as_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Effort:
    """How long to measure: of a race the rounds and the seconds that each contestant has in one."""

    rounds: int = 21
    budget_s: float = 0.05
    key_calls: int = 500
    processes: int = 9
    cell_rounds: int = 11
    cell_calls: int = 100
    entries: int = 2_000


QUICK = Effort(rounds=3, budget_s=0.005, key_calls=20, processes=1, cell_rounds=2, cell_calls=10, entries=200)


def key_figures(calls: int) -> Iterator[Figure]:
    """What `key.py` prints, as figures."""
    for size, chars, number, peer, what, bar in (
        ("2 KB", 2_000, calls, key.against_json, "json.dumps + sha256", 1.5),
        ("200 KB", 200_000, max(1, calls // 20), key.against_text, "bare sha256", 1.3),
    ):
        body = key.chat(chars)
        request = key.Request(body)
        floor, ours = key.medians_us(number, peer(body), lambda request=request: key.request_key(request))
        yield Figure(
            f"key, {size}: ÷ {what}", "≤", bar, TIMES, ours / floor, f"{ours:,.0f} ÷ {floor:,.0f} µs"
        )


def measure(effort: Effort, peers_directory: Path | None) -> Iterator[Figure]:
    yield from hits.figures(peers_directory, rounds=effort.rounds, budget_s=effort.budget_s)
    yield from key_figures(effort.key_calls)
    yield from shells.figures(processes=effort.processes, rounds=effort.cell_rounds, calls=effort.cell_calls)
    yield from disk.figures(entries=effort.entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="where peers.py --install put the other caches"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="show that everything runs, in seconds")
    options = parser.parse_args()
    figures = []
    for figure in measure(QUICK if options.quick else Effort(), options.peers):
        figures.append(figure)
        print(f"{figure.name}: {figure.verdict}", file=sys.stderr, flush=True)
    print(table(figures))
    if options.json is not None:
        found = {"python": platform.python_version(), "quick": options.quick, "figures": as_json(figures)}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
