"""Contestants that take turns, so that a busy machine slows each of them alike.

A round gives every contestant the same stretch of time, in an order that changes from round to round. What
is compared are the medians of one round; the figure is the median of these ratios. The other numbers move
by a factor of two from hour to hour, the ratios by a quarter. A process keeps the luck of its start (where
things lie in memory): one tree measured 2.6 to 3.1 times the floor in six processes. So there are several
heats, each with new ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import peers
from figures import MeasuringError
from upstream import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from or_cache_magic.simulator import Simulator

SCRIPT = Path(__file__).with_name("contestants.py")


@dataclass
class Worker:
    """A contestant's process; `key` is the API key by which its requests are told from others'."""

    name: str
    key: str
    process: subprocess.Popen[str]
    log: IO[str]

    def tell(self, **command: Any) -> dict[str, Any]:
        """The reply to a command.

        Raises:
            MeasuringError: The process has ended; with the last line that it wrote.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise MeasuringError((self.log.read().strip().splitlines() or ["it ended"])[-1])
        reply: dict[str, Any] = json.loads(line)
        return reply

    def stop(self) -> None:
        """Ends the process."""
        self.process.communicate()


def start(stack: ExitStack, name: str, sim: Simulator, python: str = sys.executable) -> Worker:
    """A contestant's process, ended with the stack; its cache is in a folder that goes with it."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115 - the stack is one
    key = f"sk-or-{name}"
    process = subprocess.Popen(
        [python, str(SCRIPT), name, folder, sim.base_url, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=folder,
        env=environment(folder, DSPY_CACHEDIR=folder, **peers.QUIET),
        encoding="utf-8",
    )
    worker = Worker(name, key, process, log)
    stack.callback(worker.stop)
    return worker


@dataclass
class Race:
    """What the rounds of one prompt size came to, over all heats.

    Attributes:
        rounds_ns: Of each contestant, the calls of each round.
        sent: Of each contestant, how many requests its hits sent.
        out: Why a contestant did not take part.
    """

    rounds_ns: dict[str, list[list[int]]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    out: dict[str, str] = field(default_factory=dict)

    def ratio(self, slower: str, faster: str) -> float | None:
        """How many times longer a call of ``slower`` takes; None when one of them did not take part."""
        if slower in self.out or faster in self.out:
            return None
        pairs = zip(self.rounds_ns[slower], self.rounds_ns[faster], strict=True)
        return median(median(a) / median(b) for a, b in pairs)

    def microseconds(self, name: str) -> str:
        """``p50 (p95)`` over all calls."""
        calls_us = [ns / 1000 for round_ns in self.rounds_ns[name] for ns in round_ns]
        return f"{median(calls_us):,.0f} ({quantiles(calls_us, n=20)[-1]:,.0f})"


def run(
    race: Race,
    workers: Sequence[Worker],
    prompts: Sequence[str],
    sim: Simulator,
    *,
    rounds: int,
    budget_s: float,
) -> None:
    """Fills each contestant's cache with the prompts, and adds rounds of hits to the race."""
    for worker in workers:
        try:
            if not worker.tell(do="fill", prompts=prompts)["same"]:
                race.out[worker.name] = "its hit is not what it bought"
        except MeasuringError as exc:
            race.out[worker.name] = str(exc)
    running = [worker for worker in workers if worker.name not in race.out]
    before = [_requests(sim, worker.key) for worker in running]
    for number in range(rounds):
        first = number % len(running)
        for worker in (*running[first:], *running[:first]):
            times_ns = worker.tell(do="round", budget_s=budget_s)["ns"]
            race.rounds_ns.setdefault(worker.name, []).append(times_ns)
    for worker, count in zip(running, before, strict=True):
        race.sent[worker.name] += _requests(sim, worker.key) - count
        if race.sent[worker.name]:
            race.out[worker.name] = f"its hits sent {race.sent[worker.name]} requests"


def _requests(sim: Simulator, key: str) -> int:
    return sum(row.headers.get("authorization") == f"Bearer {key}" for row in sim.completions)
