"""Every figure that the design sets a bar for, measured side by side in one run, as one table.

::

    python benchmarks/run.py                     # some minutes
    python benchmarks/run.py --peers DIR         # with the other caches: see peers.py
    python benchmarks/run.py --large             # lists, sums and purges 100,000 entries, as the bars mean it
    python benchmarks/run.py --quick             # a few seconds; shows that it works, proves nothing

The exit code is 0 whatever was measured: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import disk
import hits
import key
import listings
import shells
import visits
from figures import TIMES, Figure, as_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Effort:
    """How long to measure: of a race the heats, their rounds, and a contestant's seconds in one."""

    heats: int = 4
    rounds: int = 7
    budget_s: float = 0.05
    key_calls: int = 500
    processes: int = 9
    cell_rounds: int = 11
    cell_calls: int = 100
    entries: int = 2_000
    listed: int = 10_000


QUICK = Effort(
    heats=1,
    rounds=3,
    budget_s=0.005,
    key_calls=20,
    processes=1,
    cell_rounds=2,
    cell_calls=10,
    entries=200,
    listed=500,
)


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
    parts = {
        "API hits": hits.figures(
            peers_directory, heats=effort.heats, rounds=effort.rounds, budget_s=effort.budget_s
        ),
        "keys": key_figures(effort.key_calls),
        "shells": shells.figures(
            processes=effort.processes, rounds=effort.cell_rounds, calls=effort.cell_calls
        ),
        "visits": visits.figures(),
        "disk": disk.figures(entries=effort.entries),
        "listings": listings.figures(entries=effort.listed),
    }
    for name, figures in parts.items():
        try:
            yield from figures
        except Exception as exc:
            # What the other parts measured took minutes, and stays true.
            yield Figure(
                f"{name}: failed", "≤", 0, "", None, f"{type(exc).__name__}: {exc}".partition("\n")[0]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="where peers.py --install put the other caches"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--large", action="store_true", help="list 100,000 entries, as the bars mean it")
    parser.add_argument("--quick", action="store_true", help="show that everything runs, in seconds")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    if options.large:
        effort = replace(effort, listed=100_000)
    figures = []
    for figure in measure(effort, options.peers):
        figures.append(figure)
        print(f"{figure.name}: {figure.verdict}", file=sys.stderr, flush=True)
    print(table(figures))
    if options.json is not None:
        found = {"python": platform.python_version(), "quick": options.quick, "figures": as_json(figures)}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
