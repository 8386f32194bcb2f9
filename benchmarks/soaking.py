"""What the soak does to a cache folder, and what it then finds there. Short forms of it run in the tests."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import MeasuringError
from kernels import PRICE_USD, Kernel, Nursery, answer_to, request_for

from or_cache_magic.core.key import request_key
from or_cache_magic.errors import StoreError
from or_cache_magic.simulator import Simulator
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Collection

STRIDE = 1_000_000
"""Each writer numbers its answers from a multiple of this."""


@dataclass(frozen=True)
class Found:
    """What is in a folder after the writers have ended.

    Attributes:
        lost: Acknowledged answers that are not served, or not as they were given.
        half: Answers that are in the index and can't be read whole.
        unsound: What SQLite's own check says; empty when it is content.
        ledger_off: By how many answers the money in the ledger differs from what is stored; 0 is right.
        entries: How many answers are stored.
    """

    lost: int
    half: int
    unsound: str
    ledger_off: int
    entries: int


def inspect(folder: Path, kept: Collection[int]) -> Found:
    """Compares a folder with what its writers acknowledged; entries and ledger are written together."""
    database = Database(folder)
    store = DiskStore(database)
    lost = sum(not _is_served(store, number) for number in kept)
    half = 0
    rows = store.listing.find()
    for row in rows:
        try:
            half += store.entry(row.key) is None
        except StoreError:
            half += 1
    totals = Ledger(database, "inspector", time.time).totals()
    paid = sum((total.paid_usd for total in totals), start=Decimal(0))
    database.close()
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    off = abs(int(paid / PRICE_USD) - len(rows))
    return Found(lost, half, "" if verdict == "ok" else verdict, off, len(rows))


def _is_served(store: DiskStore, number: int) -> bool:
    try:
        entry = store.get(request_key(request_for(number)))
    except StoreError:
        return False
    return entry is not None and entry.answer == answer_to(number)


@dataclass(frozen=True)
class Load:
    """What several processes did together.

    Attributes:
        hits_per_s: Answers read by all of them, a second.
        kept: The numbers of the answers that they were told are kept.
        errors: What went wrong, in their words.
        unwritten: Processes whose counted hits could not be written at their end.
    """

    hits_per_s: float
    kept: tuple[int, ...]
    errors: tuple[str, ...]
    unwritten: int


def load(
    folder: Path,
    *,
    processes: int,
    seconds: float,
    counting: bool = True,
    buying: bool = True,
    start: int = STRIDE,
    shared: int = 500,
) -> Load:
    """Lets processes read ``shared`` answers and keep new ones, one in five, for some seconds."""
    with ExitStack() as running:
        kernels = [running.enter_context(Kernel(folder)) for _ in range(processes)]
        for kernel in kernels:
            kernel.hear()
        for place, kernel in enumerate(kernels):
            kernel.tell(
                do="load",
                start=start + place * STRIDE,
                seconds=seconds,
                shared=shared,
                counting=counting,
                buying=buying,
            )
        said = [kernel.hear() for kernel in kernels]
    return Load(
        sum(one["hits"] for one in said) / seconds,
        tuple(number for one in said for number in one["kept"]),
        tuple(error for one in said for error in one["errors"]),
        sum(one["unwritten"] for one in said),
    )


def fill(folder: Path, count: int) -> list[int]:
    """Keeps the first ``count`` answers."""
    with Kernel(folder) as kernel:
        kernel.hear()
        kernel.tell(do="write", start=0)
        numbers = [kernel.hear()["kept"] for _ in range(count)]
        kernel.kill()
    return numbers


def kill_writers(folder: Path, rounds: int, *, seed: int = 0) -> tuple[list[int], list[str]]:
    """Kills a writing process again and again, at a random moment: what was acknowledged, what went wrong.

    Two write at a time, so that one goes on while its neighbour dies.
    """
    dice = random.Random(seed)
    kept: list[int] = []
    troubles: list[str] = []
    with Kernel(folder) as neighbour:
        neighbour.hear()
        neighbour.tell(do="write", start=STRIDE * (rounds + 1))
        for number in range(rounds):
            with Kernel(folder) as kernel:
                kernel.hear()
                kernel.tell(do="write", start=STRIDE * number)
                # Some die while they begin.
                time.sleep(dice.uniform(0.0, 0.15))
                kernel.kill()
                _collect(kernel, kept, troubles)
        neighbour.kill()
        _collect(neighbour, kept, troubles)
    return kept, troubles


def _collect(kernel: Kernel, kept: list[int], troubles: list[str]) -> None:
    try:
        while True:
            said: dict[str, Any] = kernel.hear()
            kept += [said["kept"]] if "kept" in said else []
            troubles += [said["trouble"]] if "trouble" in said else []
    except EOFError:
        pass


@dataclass(frozen=True)
class ColdKey:
    """What came of many processes that asked the same at one time.

    Attributes:
        requests: How many requests were sent.
        answers: The texts that they got.
        seconds: From the answer's being free to go until all had it.
    """

    requests: int
    answers: tuple[str, ...]
    seconds: float


def ask_cold(folder: Path, *, processes: int, kill_leader: bool = False) -> ColdKey:
    """Lets many processes ask the same while the answer is held back, and then lets it go."""
    with Simulator() as sim, Nursery() as nursery, ExitStack() as running:
        kernels = [running.enter_context(Kernel(folder, sim.base_url, nursery)) for _ in range(processes)]
        for kernel in kernels:
            kernel.hear()
        with sim.hold():
            kernels[0].tell(do="ask", prompt="What is a median?")
            _wait_for(sim, 1)
            for kernel in kernels[1:]:
                kernel.tell(do="ask", prompt="What is a median?")
            for kernel in kernels[1:]:
                if "waits" not in (said := kernel.hear()):
                    raise MeasuringError(f"a follower did not wait: {said}")
            if kill_leader:
                kernels.pop(0).kill()
                _wait_for(sim, 2)
        began_s = time.monotonic()
        answers = tuple(_answer(kernel) for kernel in kernels)
        return ColdKey(sim.completion_count, answers, time.monotonic() - began_s)


def _wait_for(sim: Simulator, requests: int) -> None:
    """Waits, less than a lease lasts, until so many requests are held back."""
    if not sim.wait_for(lambda rows: sum(row.held for row in rows) == requests):
        raise MeasuringError(f"{requests} requests were awaited, and {sim.completion_count} came")


def _answer(kernel: Kernel) -> str:
    while "waits" in (said := kernel.hear()):
        pass
    return str(said["text"])
