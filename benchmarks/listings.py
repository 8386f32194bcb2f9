"""What `store.py` measures of browsing, as figures: the bars are for 100,000 entries."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import store
from figures import TIMES, Figure
from prose import prose

from or_cache_magic.storage import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMES_EACH = 11
TIMES_SEARCHED = 3

EVERY_BLOB = "SELECT c.value, r.body FROM Cache c JOIN or_request r ON r.id = c.rowid"
SAMPLED = 5_000
BLOB_START = codec._START.size


def figures(*, entries: int) -> Iterator[Figure]:
    """A page, totals, a search and a purge, on a cache of so many entries."""
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

        def page() -> object:
            return kept.listing.rows(kept.listing.matching(limit=50), answers=False)

        yield figure("page of 50 in the panel, newest first", 1, page)
        yield figure("totals by model", 40, lambda: ledger.totals("model"))
        yield _search(kept, database, entries)
        yield figure("purge of one model of 40", 600, lambda: kept.purge(model), times=1)
        database.close()


def _search(kept: store.DiskStore, database: store.Database, entries: int) -> Figure:
    """A search that has to read everything, beside merely inflating it: of that much there is no less."""
    nowhere = store.EntryFilter(text="nowhere to be found")
    blobs = [blob[BLOB_START:] for pair in database.select(f"{EVERY_BLOB} LIMIT {SAMPLED}") for blob in pair]
    found_ms = median(_ms(lambda: kept.listing.count(nowhere)) for _ in range(TIMES_SEARCHED))
    floor_ms = median(_ms(lambda: [_inflate(blob) for blob in blobs]) for _ in range(TIMES_EACH))
    floor_ms *= entries / min(entries, SAMPLED)
    return Figure(
        "search of a text that is nowhere: ÷ inflating all of it",
        "≤",
        2,
        TIMES,
        found_ms / floor_ms,
        f"{found_ms:,.0f} ÷ {floor_ms:,.0f} ms; {entries:,} entries",
    )


def _inflate(stored: bytes) -> bytes:
    return zlib.decompressobj(-15, codec._dictionary(codec._DEFLATED)).decompress(stored)


def _ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1e3
