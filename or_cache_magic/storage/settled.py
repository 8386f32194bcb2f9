"""Giving kept answers the price that was told later."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from or_cache_magic.errors import StoreError
from or_cache_magic.storage.codec import decode_entry, encode_entry
from or_cache_magic.storage.pico import to_pico

if TYPE_CHECKING:
    import sqlite3

    from or_cache_magic.core.records import Answer, Cost

__all__ = ["settle_entry", "settle_unserved"]

_UNPRICED_ENTRY: Final = """
SELECT c.rowid, c.value FROM Cache c JOIN or_entry e ON e.id = c.rowid
WHERE c.key = ? AND c.raw = 1 AND c.mode = 1 AND c.filename IS NULL AND e.cost IS NULL
"""
# Hits add their value when they are counted, and these had none: with nothing saved yet, all hits were of
# unknown price, or free. Where some were of an earlier answer with a price, the sum is left a lower bound.
_PRICE_ENTRY: Final = """
UPDATE or_entry SET cost = :cost, cost_source = :source, size = size + :growth,
    saved = CASE saved WHEN 0 THEN hits * :cost ELSE saved END
WHERE id = :id
"""
_UNPRICED_UNSERVED: Final = "SELECT id, answer FROM or_unserved WHERE key = ? AND cost IS NULL"
_PRICE_UNSERVED: Final = "UPDATE or_unserved SET answer = ?, cost = ?, cost_source = ? WHERE id = ?"


def settle_entry(connection: sqlite3.Connection, digest: str, generation_id: str, cost: Cost) -> bool:
    """Price an entry whose answer a generation made, in its blob and in the index; whether there was one."""
    for row_id, blob in connection.execute(_UNPRICED_ENTRY, (digest,)).fetchall():
        priced = _priced(digest, blob, generation_id, cost)
        if priced is not None:
            connection.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (priced, row_id))
            told = {"cost": to_pico(cost.usd), "source": cost.source, "growth": len(priced) - len(blob)}
            connection.execute(_PRICE_ENTRY, {**told, "id": row_id})
            return True
    return False


def settle_unserved(connection: sqlite3.Connection, digest: str, generation_id: str, cost: Cost) -> bool:
    """The same for the answers to a request that are kept and never served."""
    settled = False
    for row_id, blob in connection.execute(_UNPRICED_UNSERVED, (digest,)).fetchall():
        priced = _priced(digest, blob, generation_id, cost)
        if priced is not None:
            connection.execute(_PRICE_UNSERVED, (priced, to_pico(cost.usd), cost.source, row_id))
            settled = True
    return settled


def _priced(digest: str, blob: object, generation_id: str, cost: Cost) -> bytes | None:
    """The blob with this cost; None for another generation's, for one with a cost, and for a damaged one."""
    with suppress(StoreError):  # which can't keep the ledger from being settled
        entry = decode_entry(digest, blob)
        answer = entry.answer
        if answer.cost.usd is None and _paid_generation(answer) == generation_id:
            return encode_entry(entry._replace(answer=answer._replace(cost=cost)))
    return None


def _paid_generation(answer: Answer) -> str | None:
    """The generation that an answer's price is of."""
    return answer.source_generation_id if answer.response_cache_hit else answer.generation_id
