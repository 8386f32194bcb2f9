"""The map of the code: which of our files and functions an ask visits, in their order, and how many.

::

    python benchmarks/visits.py            # the chain of each ask, and the figures
    python benchmarks/visits.py --totals   # without the chains
    python benchmarks/visits.py --quick    # one fresh process: shows that it works

Each ask is the second of its kind in one IPython shell, so that nothing is imported, opened or looked up for
the first time. `sys.setprofile` sees it on the shell's thread and on those that it starts. A function counts
once however often it is called; so do a comprehension (which Python 3.12 and later run in its function, and
so count fewer) and a generator. The first hit is one in a process of its own, which nothing watches.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sqlite3
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shell
import shells
from figures import TIMES, Figure, table
from upstream import MODEL, environment, filling, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

PACKAGE = "or_cache_magic"
HIT, MISS, API_HIT = "hit, %%openrouter", "miss, %%openrouter", "hit, orc.ask"

_SETTINGS = "Settings"
"""The class of the settings, by its name: it may move."""


@dataclass
class Call:
    """A function as its caller called it: where it is, how often, and what it called in its turn."""

    where: str
    times: int = 0
    calls: dict[CodeType, Call] = field(default_factory=dict)

    def lines(self, depth: int = 0) -> Iterator[str]:
        """What it called, in the order of the first calls, each below and to the right of its caller."""
        for call in self.calls.values():
            times = f" {TIMES}{call.times}" if call.times > 1 else ""
            yield f"{'  ' * depth}{call.where}{times}"
            yield from call.lines(depth + 1)


class Watch:
    """What of the package one ask visits, while it is held by `watching`.

    Attributes:
        settings: How often settings were resolved: calls that return them, but for those that pass them on.
        transactions: Write transactions that began, on any thread.
    """

    def __init__(self) -> None:
        self.settings = 0
        self.transactions = 0
        self._chain = Call("")
        self._visited: dict[CodeType, tuple[str, str]] = {}

    def found(self) -> dict[str, Any]:
        """The counts and the chain, as JSON's types."""
        return {
            "files": len({file for file, _ in self._visited.values()}),
            "functions": len(self._visited),
            "settings": self.settings,
            "transactions": self.transactions,
            "chain": list(self._chain.lines()),
        }

    def profiler(self, folder: str) -> Callable[[FrameType, str, Any], None]:
        """A profile function for one thread."""
        stack: list[tuple[CodeType, Call, int]] = []

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            code = frame.f_code
            if event == "call":
                where = self._where(code, folder)
                if where is not None:
                    above = stack[-1][1] if stack else self._chain
                    call = above.calls.setdefault(code, Call(where))
                    call.times += 1
                    stack.append((code, call, self.settings))
            elif event == "return" and stack and stack[-1][0] is code:
                before = stack.pop()[2]
                # Whoever called it and returns them too resolved nothing more.
                if type(arg).__name__ == _SETTINGS:
                    self.settings = before + 1

        return profile

    def _where(self, code: CodeType, folder: str) -> str | None:
        if code not in self._visited:
            # The bodies of modules and classes, which an import runs, have no fast locals.
            if not code.co_filename.startswith(folder) or not code.co_flags & inspect.CO_OPTIMIZED:
                return None
            file = code.co_filename.removeprefix(folder)
            self._visited[code] = (file, getattr(code, "co_qualname", code.co_name))
        return ":".join(self._visited[code])


_watches: list[Watch] = []


def _traced(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """`sqlite3.connect`, whose connections tell the watches of the write transactions that they begin."""

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(_statement)
        return connection

    return connected


def _statement(sql: str) -> None:
    if sql.startswith("BEGIN IMMEDIATE"):
        for watch in _watches:
            watch.transactions += 1


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch what this thread does meanwhile, and the threads that begin."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    watch, folder = Watch(), f"{Path(spec.origin).parent}{os.sep}"
    _watches.append(watch)
    threading.setprofile(lambda *_: sys.setprofile(watch.profiler(folder)))
    sys.setprofile(watch.profiler(folder))
    try:
        yield watch
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        _watches.remove(watch)


def asks(prompts: list[str]) -> dict[str, dict[str, Any]]:
    """What a hit and a miss of a cell and a hit of `or_cache_magic.ask` visit, in this process's shell.

    Args:
        prompts: One that is stored, and two that are not.
    """
    sqlite3.connect = _traced(sqlite3.connect)
    ip = shell.shell()
    ip.run_line_magic("load_ext", PACKAGE)
    orc = import_module(PACKAGE)

    def cell(prompt: str) -> str:
        ip.run_cell(f"%%openrouter {MODEL}\n{prompt}\n").raise_error()
        return str(ip.user_ns["_"].outcome.kind)

    def api(prompt: str) -> str:
        return str(orc.ask(prompt, model=MODEL).outcome.kind)

    stored, *others = prompts
    found = {}
    for name, expected, ask, pair in (
        (HIT, "hit", cell, [stored, stored]),
        (MISS, "miss", cell, others),
        (API_HIT, "hit", api, [stored, stored]),
    ):
        ask(pair[0])
        with watching() as watch:
            kind = ask(pair[1])
        assert kind == expected
        found[name] = watch.found()
    return found


def measure(*, processes: int) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """What `asks` found, and what `shell.py` tells of first hits in so many fresh processes."""
    prompts = ["What is a median?", "What is a mode?", "What is a mean?"]
    with tempfile.TemporaryDirectory() as folder, filling(Path(folder, ".or_cache")) as (cache, sim):
        cache.ask(prompts[0], model=MODEL)
        cache.close()
        variables = environment(
            folder,
            OPENROUTER_BASE_URL=sim.base_url,
            OPENROUTER_API_KEY=sim.api_key,
            IPYTHONDIR=f"{folder}/ipython",
        )
        visited = measured(folder, variables, __file__, "--within", *prompts)
        cell = f"%%openrouter {MODEL} -o answer\n{prompts[0]}\n"
        # The first one writes the bytecode of what only a fresh shell imports.
        fresh = [measured(folder, variables, shell.__file__, "fresh", cell) for _ in range(processes + 1)]
    return visited, fresh[1:]


def counts(visited: dict[str, dict[str, Any]]) -> Iterator[Figure]:
    """Those of what `asks` found that a bar is set for."""
    for name, of, what, bar in (
        ("files that a hit cell visits", HIT, "files", 20),
        ("functions that a hit cell visits", HIT, "functions", 75),
        ("settings resolved by a miss", MISS, "settings", 1),
        ("write transactions of a miss", MISS, "transactions", 2),
    ):
        yield Figure(name, "≤", bar, "", visited[of][what])


def figures() -> Iterator[Figure]:
    """The counts alone."""
    yield from counts(measure(processes=0)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--totals", action="store_true", help="leave out the chains")
    parser.add_argument("--quick", action="store_true", help="show that it works, in seconds")
    parser.add_argument("--within", nargs=3, metavar="PROMPT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        print(json.dumps(asks(options.within)), file=sys.__stdout__)
        return
    visited, fresh = measure(processes=1 if options.quick else 5)
    for name, found in visited.items():
        print(f"{name}: {found['files']} files, {found['functions']} functions")
        if not options.totals:
            print(*(f"  {line}" for line in found["chain"]), sep="\n")
    print(table([*counts(visited), *shells.first_hit(fresh)]))


if __name__ == "__main__":
    main()
