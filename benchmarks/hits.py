"""A hit through the Python API, raced against the standard library's floor and other caches."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import peers
import race
from figures import TIMES, Figure
from prose import prose

from or_cache_magic.simulator import Simulator, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = "or_cache_magic"
ANSWER_CHARS = 2_000
SIZES = {"2 KB": (2_000, 40), "200 KB": (200_000, 4)}
"""Characters of a prompt, and how many prompts take turns."""

LEAST_RATIO = {
    ("2 KB", "dspy_disk"): 3.5,
    ("2 KB", "langchain_sqlite"): 13,
    ("2 KB", "litellm_local"): 20,
    ("200 KB", "dspy_disk"): 2,
}
MOST_RATIO = {("2 KB", "floor"): 1.6, ("200 KB", "bare_sha256"): 1.5}
NOTES = {"litellm_local": "its cache in memory: the newest LiteLLM has none on disk"}


def figures(peers_directory: Path | None, *, heats: int, rounds: int, budget_s: float) -> Iterator[Figure]:
    """The ratios of each prompt size, and how many requests the hits sent."""
    pythons = {name: peers.interpreter(peers_directory, name) for name in peers.REQUIREMENTS}
    absent = {name: peers.HOW for name, python in pythons.items() if python is None}
    results = {size: race.Race(out=dict(absent)) for size in SIZES}
    with Simulator() as sim:
        sim.script(scenario("plain", text=prose(ANSWER_CHARS, 0)), times=1_000_000)
        for _ in range(heats):
            with ExitStack() as stack:
                workers = [race.start(stack, name, sim) for name in (OURS, "floor", "bare_sha256")]
                workers.extend(
                    race.start(stack, name, sim, python) for name, python in pythons.items() if python
                )
                for size, (chars, number) in SIZES.items():
                    prompts = [prose(chars, index) for index in range(number)]
                    race.run(results[size], workers, prompts, sim, rounds=rounds, budget_s=budget_s)
    sent: Counter[str] = Counter()
    for size, result in results.items():
        yield from _ratios(size, result)
        sent.update(result.sent)
    ours = sent.pop(OURS, None)
    yield Figure("requests that our hits sent", "≤", 0, "", ours, f"of the others: {dict(sent)}")


def _ratios(size: str, result: race.Race) -> Iterator[Figure]:
    for (of_size, floor), bar in MOST_RATIO.items():
        if of_size == size:
            yield _figure(f"API hit, {size}: ÷ {floor}", "≤", bar, result, OURS, floor)
    for (of_size, peer), bar in LEAST_RATIO.items():
        if of_size == size:
            yield _figure(f"API hit, {size}: {peer} ÷ ours", "≥", bar, result, peer, OURS)


def _figure(name: str, sense: str, bar: float, result: race.Race, slower: str, faster: str) -> Figure:
    ratio = result.ratio(slower, faster)
    if ratio is None:
        detail = "; ".join(f"{who}: {result.out[who]}" for who in (slower, faster) if who in result.out)
    else:
        detail = f"{result.microseconds(slower)} µs ÷ {result.microseconds(faster)} µs"
        detail += "".join(f"; {NOTES[who]}" for who in (slower, faster) if who in NOTES)
    return Figure(name, sense, bar, TIMES, ratio, detail)  # type: ignore[arg-type]
