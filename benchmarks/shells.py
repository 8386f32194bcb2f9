"""What loading the extension and hitting in a cell cost, each in fresh IPython processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from figures import TIMES, Figure
from prose import prose
from upstream import MODEL, environment, filling, measured

from or_cache_magic.simulator import scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("shell.py")


def figures(*, processes: int, rounds: int, calls: int) -> Iterator[Figure]:
    """CPU of loading and of the first hit, what a hit imports, and a hit cell beside an empty magic."""
    with tempfile.TemporaryDirectory() as folder:
        prompt = prose(2_000, 0).strip()
        with filling(Path(folder, ".or_cache")) as (cache, sim):
            sim.script(scenario("plain", text=prose(2_000, 1)))
            cache.ask(prompt, model=MODEL)
            base_url = sim.base_url  # nothing listens there from here on
        cell = f"%%openrouter {MODEL} -o answer\n{prompt}\n"
        variables = environment(folder, OPENROUTER_BASE_URL=base_url, IPYTHONDIR=f"{folder}/ipython")

        def measure(*arguments: str) -> Any:
            return measured(folder, variables, str(SCRIPT), *arguments)

        # The first one writes IPython's files and the bytecode.
        yield from _fresh([measure("fresh", cell) for _ in range(processes + 1)][1:])
        yield _turns(measure("turns", cell, str(rounds), str(calls)))


def _fresh(found: list[dict[str, Any]]) -> Iterator[Figure]:
    alone_ms = median(one["shell_ms"] for one in found)
    yield _cpu("%load_ext, CPU", 5, found, "load", f"; IPython alone {alone_ms:.0f} ms")
    yield from first_hit(found)
    heavy = sorted({name for one in found for name in one["heavy"]})
    yield Figure("heavy libraries that a hit imports", "≤", 0, "", len(heavy), ", ".join(heavy) or "none")


def first_hit(found: list[dict[str, Any]]) -> Iterator[Figure]:
    """The CPU of first hits and what of the package they import, of what `shell.py fresh` printed."""
    yield _cpu("first hit cell in a fresh shell, CPU", 15, found, "hit")
    ours = found[0]["ours"]
    yield Figure("modules of ours that a first hit imports", "≤", 40, "", len(ours))


def _cpu(name: str, bar_ms: float, found: list[dict[str, Any]], part: str, more: str = "") -> Figure:
    times_ms = [one[f"{part}_ms"] for one in found]
    spread = f"{min(times_ms):.1f} to {max(times_ms):.1f} ms; {found[0][f'{part}_modules']} modules"
    return Figure(name, "≤", bar_ms, "ms", median(times_ms), spread + more)


def _turns(found: list[dict[str, list[int]]]) -> Figure:
    def us(name: str) -> str:
        calls_us = [ns / 1000 for one in found for ns in one[name]]
        return f"{median(calls_us):,.0f} ({quantiles(calls_us, n=20)[-1]:,.0f}) µs"

    ratio = median(median(one["hit"]) / median(one["empty"]) for one in found)
    return Figure("hit cell ÷ empty cell magic", "≤", 1.6, TIMES, ratio, f"{us('hit')} ÷ {us('empty')}")
