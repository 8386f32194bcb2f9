"""Whole tables: what the design sets a bar for, side by side with the floor and with other tools, in one run.

::

    python benchmarks/tables.py                          # all that takes a minute or two each
    python benchmarks/tables.py cold limit               # only these
    python benchmarks/tables.py --peers DIR cold kill    # with the other tools: see peers.py
    python benchmarks/tables.py --scale 0.1 cold         # a tenth of the rows; proves nothing
    python benchmarks/tables.py --list

The exit code is 0 whatever was measured: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import peers
from figures import TIMES, Figure, MeasuringError, as_json, table
from upstream import environment

SCRIPT = Path(__file__).with_name("tabling.py")
FLOORS = ("floor", "openai_async")
PEERS = ("langchain_sqlite", "instructor", "curator", "semlib")
PATIENCE_S = 900


class Server:
    """The simulator, in a process of its own."""

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "server", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self.url = self._from.readline().strip()

    def tell(self, word: str) -> None:
        """Send the server a word."""
        self._to.write(f"{word}\n")
        self._to.flush()

    def counts(self) -> dict[str, Any]:
        """What came in since the start."""
        self.tell("count")
        counted: dict[str, Any] = json.loads(self._from.readline())
        return counted

    def stop(self) -> None:
        """End it."""
        self._to.close()
        self._process.wait()


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    server = Server(**options)
    try:
        yield server
    finally:
        server.stop()


class Desk:
    """Where measurements are taken, and printed as they come.

    Args:
        scale: Of all numbers of rows.
        peers_in: Where the other tools are installed.
        bytecode: Where contestants keep what they compile.
    """

    def __init__(self, scale: float, peers_in: Path | None, bytecode: str) -> None:
        self.scale = scale
        self.peers_in = peers_in
        self.figures: list[Figure] = []
        self._bytecode = bytecode

    def rows(self, count: int) -> int:
        """So many rows by the scale."""
        return max(10, int(count * self.scale))

    def begin(self, name: str, folder: str, server: Server, **wish: Any) -> subprocess.Popen[str]:
        """Start a contestant.

        Raises:
            MeasuringError: Its tool is not installed.
        """
        python = peers.interpreter(self.peers_in, name) if name in PEERS else sys.executable
        if python is None:
            raise MeasuringError(peers.HOW.replace("run.py", "tables.py"))
        command = [python, str(SCRIPT), name, folder, server.url, json.dumps(wish)]
        variables = environment(self._bytecode, **peers.QUIET)
        with open(os.path.join(folder, "log"), "a", encoding="utf-8") as log:
            return subprocess.Popen(
                command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
            )

    def run(self, name: str, folder: str, server: Server, **wish: Any) -> dict[str, Any]:
        """What a contestant says of itself at its end.

        Raises:
            MeasuringError: It failed, or isn't installed.
        """
        return self.end(self.begin(name, folder, server, **wish), folder)

    def end(self, process: subprocess.Popen[str], folder: str) -> dict[str, Any]:
        """What a contestant that was started says at its end.

        Raises:
            MeasuringError: It failed, or takes too long.
        """
        try:
            told, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise MeasuringError(f"took more than {PATIENCE_S} s") from None
        if process.returncode:
            lines = Path(folder, "log").read_text(encoding="utf-8").strip().splitlines()
            raise MeasuringError((lines or ["it failed"])[-1][:120])
        result: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
        return result

    def others(self, *, floors: bool) -> list[str]:
        """The others that take part."""
        return [*(FLOORS if floors else ()), *(PEERS if self.peers_in else ())]

    def note(self, figure: Figure) -> None:
        """Keep a figure, and print it."""
        self.figures.append(figure)
        print(table([figure]).splitlines()[1], flush=True)

    def beside(self, what: str, names: list[str], measure: Callable[[str], str]) -> None:
        """Print what others come to."""
        for name in names:
            try:
                said = measure(name)
            except MeasuringError as exc:
                said = f"not measured: {exc}"
            print(f"    {what}: {name}: {said}", flush=True)


@contextmanager
def fresh() -> Iterator[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield folder


def cold(desk: Desk) -> None:
    """1,000 rows of 200 ms, 32 and 64 at a time."""
    rows = desk.rows(1000)

    def once(name: str, workers: int) -> tuple[dict[str, Any], dict[str, Any]]:
        with fresh() as folder, serving(latency_s=0.2) as server:
            return desk.run(name, folder, server, rows=rows, workers=workers), server.counts()

    for workers, bar in ((32, 7.0), (64, 3.6)):
        took, counted = once("ours", workers)
        detail = f"CPU {took['cpu_s']:.1f} s, {took['mb']:.0f} MB, {took['answered']} answered"
        desk.note(
            Figure(
                f"{rows} rows, 200 ms, {workers} at a time", "≤", bar * rows / 1000, "s", took["s"], detail
            )
        )
        at_most = counted["connections"] / workers
        desk.note(
            Figure(
                f"connections a worker, {workers}", "≤", 1.0, "", at_most, f"{counted['connections']} in all"
            )
        )

    def told(name: str) -> str:
        took, _ = once(name, 32)
        return (
            f"{took['s']:.1f} s, CPU {took['cpu_s']:.1f} s, {took['mb']:.0f} MB, {took['answered']} answered"
        )

    desk.beside(f"{rows} rows, 200 ms, 32 at a time", desk.others(floors=True), told)


def auto(desk: Desk) -> None:
    """As many workers as it finds best, against the best of fixed numbers, at three latencies."""
    for latency_s, count in ((0.02, 1500), (0.2, 800), (2.0, 200)):
        rows, seconds = desk.rows(count), {}
        for workers in (0, 8, 16, 32):
            with fresh() as folder, serving(latency_s=latency_s) as server:
                seconds[workers] = desk.run("ours", folder, server, rows=rows, workers=workers)["s"]
        found_s = seconds.pop(0)
        detail = f"{found_s:.1f} s; fixed " + ", ".join(f"{n}: {s:.1f}" for n, s in seconds.items())
        ratio = found_s / min(seconds.values())
        desk.note(
            Figure(f"auto ÷ best fixed number, {latency_s * 1000:.0f} ms", "≤", 1.25, TIMES, ratio, detail)
        )


def instant(desk: Desk) -> None:
    """A server that answers at once."""
    rows = desk.rows(3000)

    def once(name: str) -> dict[str, Any]:
        with fresh() as folder, serving() as server:
            return desk.run(name, folder, server, rows=rows)

    took = once("ours")
    desk.note(Figure("instant server, rows a second", "≥", 900, "", rows / took["s"], f"{rows} rows"))
    desk.note(Figure("instant server, CPU a row", "≤", 1.5, "ms", took["cpu_s"] / rows * 1000))

    def told(name: str) -> str:
        took = once(name)
        return f"{rows / took['s']:.0f} rows/s, CPU {took['cpu_s'] / rows * 1000:.2f} ms a row"

    desk.beside("instant server", desk.others(floors=True), told)


def hot(desk: Desk, count: int = 10_000, bar_s: float = 0.7) -> None:
    """10,000 stored rows, in a new process."""
    rows = desk.rows(count)

    def once(name: str) -> dict[str, Any]:
        with fresh() as folder, serving() as server:
            desk.run(name, folder, server, rows=rows, workers=32)
            before = server.counts()["requests"]
            took = desk.run(name, folder, server, rows=rows, workers=32)
            return {**took, "sent": server.counts()["requests"] - before}

    took = once("ours")
    detail = f"CPU {took['cpu_s']:.2f} s, {took['mb']:.0f} MB, {took['sent']} requests"
    desk.note(Figure(f"{rows} stored rows", "≤", bar_s * rows / count, "s", took["s"], detail))

    def told(name: str) -> str:
        took = once(name)
        return f"{took['s']:.2f} s, {took['sent']} requests"

    if count <= 10_000:
        desk.beside(f"{rows} stored rows", desk.others(floors=False), told)


def hot100k(desk: Desk) -> None:
    """100,000 stored rows."""
    hot(desk, 100_000, 7.0)


def limit(desk: Desk) -> None:
    """A limit that nobody tells: 400 rows at 600 a minute, and at 60 and 6,000 alike."""
    for per_minute, count in ((600, 400), (60, 60), (6000, 3000)):
        rows, burst = desk.rows(count), min(10, count // 10)
        with fresh() as folder, _limited(per_minute, burst) as server:
            took = desk.run("ours", folder, server, rows=rows, workers=0)
            counted = server.counts()
        uses = (rows - burst) / per_minute * 60 / took["s"] * 100
        detail = f"{took['answered']} of {rows} answered in {took['s']:.1f} s"
        desk.note(Figure(f"{per_minute} a minute, used", "≥", 93, "%", uses, detail))
        desk.note(Figure(f"{per_minute} a minute, refusals", "≤", max(40, rows / 10), "", counted["limited"]))

    def told(name: str) -> str:
        rows = desk.rows(400)
        with fresh() as folder, _limited(600, 10) as server:
            took = desk.run(name, folder, server, rows=rows, workers=32)
            return f"{took['answered']} of {rows} in {took['s']:.1f} s, {server.counts()['limited']} refusals"

    desk.beside("600 a minute", desk.others(floors=True), told)


def _limited(per_minute: int, burst: int) -> Any:
    limits = {"rate_limit_per_minute": per_minute, "rate_burst": burst, "tells_rate": False}
    return serving(latency_s=0.2, **limits)


def two(desk: Desk) -> None:
    """Two programs on one folder, under one limit, against one with all rows."""
    rows = desk.rows(400)
    with fresh() as folder, _limited(600, 10) as server:
        alone_s = desk.run("ours", folder, server, rows=rows, workers=0)["s"]
    with fresh() as folder, _limited(600, 10) as server:
        halves = [
            desk.begin("ours", folder, server, rows=rows // 2, edited=list(edited), workers=0)
            for edited in ((), range(rows // 2))
        ]
        ended = [desk.end(half, folder) for half in halves]
        answered, together_s = sum(one["answered"] for one in ended), max(one["s"] for one in ended)
        limited = server.counts()["limited"]
    detail = f"{together_s:.1f} s against {alone_s:.1f}; {answered} answered, {limited} refusals"
    desk.note(Figure("two programs under one limit ÷ one", "≤", 1.15, TIMES, together_s / alone_s, detail))


def equal(desk: Desk) -> None:
    """40 % equal rows; then one row edited, one put in, one moved."""
    rows = desk.rows(1000)

    def once(name: str) -> tuple[int, int]:
        with fresh() as folder, serving() as server:
            desk.run(name, folder, server, rows=rows, distinct=rows * 6 // 10)
            first = server.counts()["requests"]
            desk.run(name, folder, server, rows=rows, distinct=rows * 6 // 10, edited=[7])
            return first, server.counts()["requests"] - first

    first, more = once("ours")
    desk.note(
        Figure("requests of a table with 40 % equal rows", "≤", 60, "%", first / rows * 100, f"{rows} rows")
    )
    desk.note(Figure("requests after one row was edited", "≤", 1, "", more))
    desk.beside(
        "40 % equal; one edited", desk.others(floors=False), lambda name: "{} and {}".format(*once(name))
    )


def kill(desk: Desk) -> None:
    """SIGKILL at 60 %, and run again."""
    rows = desk.rows(1000)

    def once(name: str) -> tuple[int, int]:
        with fresh() as folder, serving(latency_s=0.2) as server:
            process = desk.begin(name, folder, server, rows=rows)
            while server.counts()["answered"] < rows * 0.6 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            time.sleep(0.5)
            answered = desk.run(name, folder, server, rows=rows)["answered"]
            return server.counts()["answered"] - rows, rows - answered

    twice, lost = once("ours")
    desk.note(Figure("paid twice after SIGKILL at 60 %", "≤", 5, "", twice, f"{rows} rows"))
    desk.note(Figure("rows lost", "≤", 0, "", lost))
    desk.beside("SIGKILL at 60 %; paid twice", desk.others(floors=False), lambda name: str(once(name)[0]))


def odd(desk: Desk) -> None:
    """2 % of the rows refused, 1 % cut: all others are answered, and nobody is asked twice for nothing."""
    rows = desk.rows(1000)

    def once(name: str) -> tuple[int, int]:
        with fresh() as folder, serving() as server:
            answered = desk.run(name, folder, server, rows=rows, odd=True)["answered"]
            return answered, server.counts()["requests"]

    answered, requests = once("ours")
    good = rows - len(range(0, rows, 50)) - len(range(1, rows, 100))
    desk.note(Figure("rows answered where 3 % go wrong", "≥", good / rows * 100, "%", answered / rows * 100))
    desk.note(Figure("requests a row", "≤", 1, "", requests / rows))
    desk.beside("2 % refused, 1 % cut; answered", desk.others(floors=False), lambda name: str(once(name)[0]))


def scene(desk: Desk) -> None:
    """10,000 rows, 40 % equal, 200 ms, 600 a minute for a minute; killed at 60 %, resumed, one edited."""
    rows = desk.rows(10_000)
    distinct = rows * 6 // 10
    limits = {"rate_limit_per_minute": 600, "rate_burst": 10, "tells_rate": False}
    with fresh() as folder, serving(latency_s=0.2, **limits) as server:
        since_s = time.perf_counter()
        process = desk.begin("ours", folder, server, rows=rows, distinct=distinct, workers=0)
        is_limited = True
        while (done := server.counts()["answered"]) < distinct * 0.6 and process.poll() is None:
            if is_limited and time.perf_counter() - since_s > 60 * min(1.0, desk.scale):
                is_limited = False
                server.tell("lift")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if is_limited:
            server.tell("lift")
        resumed = desk.run("ours", folder, server, rows=rows, distinct=distinct, workers=0)
        took_s = time.perf_counter() - since_s
        edited = desk.run("ours", folder, server, rows=rows, distinct=distinct, edited=[7], workers=0)
        counted = server.counts()
        size = sum(path.stat().st_size for path in Path(folder).glob("cache.db*"))
    texts_mb = rows * 150 / 1e6
    once_usd = Decimal(counted["usd"])
    detail = (
        f"{counted['requests']} requests, ${once_usd:f}, killed at {done}, {took_s:.0f} s, {size:,} bytes"
    )
    twice = counted["answered"] - distinct - 1
    desk.note(Figure(f"{rows} rows, killed and resumed: paid twice", "≤", 5, "", twice, detail))
    desk.note(Figure("rows lost", "≤", 0, "", 2 * rows - resumed["answered"] - edited["answered"]))
    desk.note(Figure("memory", "≤", 150 + 1.5 * texts_mb, "MB", max(resumed["mb"], edited["mb"])))
    desk.note(Figure("run again with one row edited", "≤", 0.7 * rows / 10_000 + 1.0, "s", edited["s"]))


def million(desk: Desk) -> None:
    """1,000,000 rows planned without asking."""
    rows = desk.rows(1_000_000)
    with fresh() as folder, serving() as server:
        took = desk.run("plan", folder, server, rows=rows)
        requests = server.counts()["requests"]
    detail = f"CPU {took['cpu_s']:.1f} s, {took['mb']:.0f} MB, {requests} requests"
    desk.note(Figure(f"{rows} rows planned", "≤", 60 * rows / 1e6, "s", took["s"], detail))


SCENARIOS: dict[str, Callable[[Desk], None]] = {
    scenario.__name__: scenario
    for scenario in (cold, auto, instant, hot, limit, two, equal, kill, odd, scene, hot100k, million)
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a model over a whole table takes.")
    parser.add_argument("scenarios", nargs="*", metavar="NAME", help="which; all unless some are named")
    parser.add_argument("--list", action="store_true", help="say what there is to be measured")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where peers.py installed the other tools")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as JSON")
    given = parser.parse_args()
    if given.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:10}{scenario.__doc__}")
        return
    with fresh() as bytecode:
        desk = Desk(given.scale, given.peers, bytecode)
        for name in given.scenarios or SCENARIOS:
            print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
            try:
                SCENARIOS[name](desk)
            except MeasuringError as exc:
                print(f"    not measured: {exc}", flush=True)
    print(table(desk.figures))
    if given.json is not None:
        given.json.write_text(json.dumps({"figures": as_json(desk.figures)}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
