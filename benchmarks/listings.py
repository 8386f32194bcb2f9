"""What `store.py` measures of browsing, as figures: the bars are for 100,000 entries."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import store
from figures import Figure
from prose import prose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMES_EACH = 11


def figures(*, entries: int) -> Iterator[Figure]:
    """A page, totals and a purge, on a cache of so many entries."""
    words = prose(400_000, 0).split()
    model = store.EntryFilter(model=store.MODELS[3])
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            store.fill(Path(folder), entries, words)
        database = store.Database(Path(folder))
        kept, ledger = store.DiskStore(database), store.Ledger(database, "benchmark", time.time)

        def figure(name: str, bar_ms: float, call: Callable[[], object], times: int = TIMES_EACH) -> Figure:
            times_ms = [_ms(call) for _ in range(times)]
            spread = f"{min(times_ms):.2g} to {max(times_ms):.2g} ms" if times > 1 else "once"
            return Figure(name, "≤", bar_ms, "ms", median(times_ms), f"{spread}; {entries:,} entries")

        yield figure("page of 50, newest first", 1, lambda: kept.find(limit=50))
        yield figure("totals by model", 40, lambda: ledger.totals("model"))
        yield figure("purge of one model of 40", 600, lambda: kept.purge(model), times=1)
        database.close()


def _ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1e3
