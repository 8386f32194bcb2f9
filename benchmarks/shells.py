"""What loading the extension and hitting in a cell cost, each in fresh IPython processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from figures import TIMES, Figure, MeasuringError
from prose import prose
from upstream import MODEL, environment, filling

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
            command = [sys.executable, str(SCRIPT), *arguments]
            done = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, encoding="utf-8", check=False
            )
            if done.returncode:
                raise MeasuringError(done.stderr.strip().splitlines()[-1])
            return json.loads(done.stdout)

        # The first one writes IPython's files and the bytecode.
        yield from _fresh([measure("fresh", cell) for _ in range(processes + 1)][1:])
        yield _turns(measure("turns", cell, str(rounds), str(calls)))


def _fresh(found: list[dict[str, Any]]) -> Iterator[Figure]:
    def cpu(name: str, part: str, bar_ms: float, more: str = "") -> Figure:
        times_ms = [one[f"{part}_ms"] for one in found]
        spread = f"{min(times_ms):.1f} to {max(times_ms):.1f} ms; {found[0][f'{part}_modules']} modules"
        return Figure(name, "≤", bar_ms, "ms", median(times_ms), spread + more)

    alone_ms = median(one["shell_ms"] for one in found)
    yield cpu("%load_ext, CPU", "load", 5, f"; IPython alone {alone_ms:.0f} ms")
    yield cpu("first hit cell in a fresh shell, CPU", "hit", 15)
    heavy = sorted({name for one in found for name in one["heavy"]})
    yield Figure("heavy libraries that a hit imports", "≤", 0, "", len(heavy), ", ".join(heavy) or "none")


def _turns(found: list[dict[str, list[int]]]) -> Figure:
    def us(name: str) -> str:
        calls_us = [ns / 1000 for one in found for ns in one[name]]
        return f"{median(calls_us):,.0f} ({quantiles(calls_us, n=20)[-1]:,.0f}) µs"

    ratio = median(median(one["hit"]) / median(one["empty"]) for one in found)
    return Figure("hit cell ÷ empty cell magic", "≤", 1.7, TIMES, ratio, f"{us('hit')} ÷ {us('empty')}")
