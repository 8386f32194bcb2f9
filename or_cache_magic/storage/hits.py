"""Adding counted hits to the index of entries, inside somebody's transaction.

Both the store and the ledger write hits, and neither knows the other; the statement is here once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

# What is worth more by now than when it was served was settled meanwhile: a reported cost never was unknown.
_ADD = """
UPDATE or_entry
SET hits = hits + ?, last_hit = max(coalesce(last_hit, ?), ?),
    saved = saved + ? + ? * CASE cost_source WHEN 'reported' THEN 0 ELSE coalesce(cost, 0) END
WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)
"""


class HitCount(NamedTuple):
    """Hits of one entry that are not yet in the index.

    Attributes:
        hits: How many avoided a call.
        last_s: When the last one was.
        saved_pico: What they saved, in pico-dollars; hits of unknown price add nothing.
        unpriced: How many of them were of unknown price.
    """

    hits: int
    last_s: float
    saved_pico: int
    unpriced: int = 0


def add_hits(connection: sqlite3.Connection, counts: Mapping[str, HitCount]) -> None:
    """Add hits to the entries of these digests; a digest that is not stored any more is skipped.

    Those of unknown price have the entry's, where it was settled since (`DiskStore.settle`).
    """
    connection.executemany(
        _ADD, ((c.hits, c.last_s, c.last_s, c.saved_pico, c.unpriced, digest) for digest, c in counts.items())
    )
