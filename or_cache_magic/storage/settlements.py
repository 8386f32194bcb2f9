"""What the ledger does not know yet: which generations are to be asked for, and what they told.

``or_ledger`` is never changed; what is learnt later of a row stands in ``or_settlement``, under its id.
Rows of one generation (a call, and the hits on its answer) are settled together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.storage.columns import COUNT, INTEGER, REAL, TEXT, check_row
from or_cache_magic.storage.ledger_rows import SELECT_ROWS, base_url_column, row_from
from or_cache_magic.storage.pico import to_pico

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from decimal import Decimal

    from or_cache_magic.core.records import Cost, LedgerRow
    from or_cache_magic.storage.database import Database

__all__ = ["LAST_TRY", "Settlements", "Waiting"]

LAST_TRY: Final = 12
"""After so many answers that told nothing, over an hour, a generation is given up."""

_LONGEST_GAP_S: Final = 3600.0

_WAITING: Final = """
SELECT generation_id, min(next) FROM or_settlement
WHERE next IS NOT NULL AND base_url IS ? GROUP BY generation_id ORDER BY 2
"""
# A row that is written when others of its generation were asked for in vain does not begin anew.
_TRIES: Final = "SELECT max(tries) FROM or_settlement WHERE generation_id = ? AND base_url IS ?"
_CLAIM: Final = """
UPDATE or_settlement SET next = ? WHERE generation_id = ? AND base_url IS ? AND next <= ?
"""
_MISS: Final = """
UPDATE or_settlement SET tries = ?, next = CASE WHEN ? THEN NULL ELSE next END
WHERE generation_id = ? AND base_url IS ? AND next IS NOT NULL
"""
_OF_GENERATION: Final = """
SELECT s.id, s.cost, s.discount, l.key, l.paid, l.value, l.cached_tokens
FROM or_settlement s JOIN or_ledger l ON l.id = s.id WHERE s.generation_id = ? AND s.base_url IS ?
"""
_SETTLE: Final = "UPDATE or_settlement SET cost = ?, cost_source = ?, discount = ?, next = NULL WHERE id = ?"
_KEEP_COST: Final = "UPDATE or_settlement SET discount = ?, next = NULL WHERE id = ?"
_CALL: Final = f"""
{SELECT_ROWS} WHERE s.generation_id = ? AND s.base_url IS ? AND l.paid IS NULL ORDER BY l.id LIMIT 1
"""

_WAITING_TYPES: Final = (TEXT, REAL)
_TYPES: Final = (INTEGER, COUNT, COUNT, TEXT, COUNT, COUNT, COUNT)


class Waiting(NamedTuple):
    """A generation that is to be asked for.

    Attributes:
        generation_id: ``gen-…``.
        next_s: When, at the earliest.
    """

    generation_id: str
    next_s: float


class Settlements:
    """The unsettled rows of a `Database`, of one API. Thread-safe; idempotent across kernels.

    A ``cache.db`` may come from a stranger, and the key goes to whoever is asked: hence one base URL, the
    caller's, and never the file's.

    Args:
        database: Where the ledger is.
        base_url: Whose generations.
    """

    def __init__(self, database: Database, base_url: str) -> None:
        #: Whose generations.
        self.base_url = base_url
        self._database = database
        self._url = base_url_column(base_url)

    def waiting(self) -> list[Waiting]:
        """The generations that are to be asked for, the first one first.

        Raises:
            StoreError: The ledger can't be read.
        """
        found = self._database.select(_WAITING, (self._url,))
        for columns in found:
            check_row("a settlement", _WAITING_TYPES, columns)
        return [Waiting(*columns) for columns in found]

    def claim(self, generation_id: str, now_s: float) -> bool:
        """Puts off the next try; whether it was due still, so that it is the caller who asks now.

        Written before anything is asked: no other kernel asks too, and where nothing can be written nothing
        is asked at all.

        Raises:
            StoreError: It could not be written.
        """
        with self._database.transaction() as connection:
            tries = self._tries(connection, generation_id)
            gap_s = min(2.0 ** min(tries + 1, LAST_TRY), _LONGEST_GAP_S)
            claimed = connection.execute(_CLAIM, (now_s + gap_s, generation_id, self._url, now_s))
            return claimed.rowcount > 0

    def miss(self, generation_id: str) -> bool:
        """Counts a try that told nothing; whether it was the last, and the generation is given up.

        Raises:
            StoreError: It could not be written.
        """
        with self._database.transaction() as connection:
            tries = self._tries(connection, generation_id) + 1
            is_last = tries >= LAST_TRY
            connection.execute(_MISS, (tries, is_last, generation_id, self._url))
            return is_last

    def settle(self, generation_id: str, cost: Cost, discount_usd: Decimal | None) -> Sequence[str]:
        """Writes what a generation cost where that was unknown, in this thread's transaction if one is open.

        Args:
            generation_id: Which.
            cost: What it came to.
            discount_usd: What prompt caching took off; None is unknown.

        Returns:
            The keys of the asks whose cost or value it was.

        Raises:
            StoreError: It could not be written.
        """
        pico, told = to_pico(cost.usd), to_pico(discount_usd)
        keys: dict[str, None] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(_OF_GENERATION, (generation_id, self._url)).fetchall():
                check_row("a settlement", _TYPES, row)
                number, known, discount, key, paid, value, cached_tokens = row
                # A call that was cut told no tokens, so the discount that it was taken to have was none.
                if discount is None or (paid is None and cached_tokens is None and told is not None):
                    discount = told
                if known is None and (paid is None or value is None):
                    connection.execute(_SETTLE, (pico, cost.source, discount, number))
                    keys[key] = None
                else:
                    connection.execute(_KEEP_COST, (discount, number))
        return list(keys)

    def call(self, generation_id: str) -> LedgerRow | None:
        """The call that made a generation; None when it is not in the ledger, or its cost is known.

        Raises:
            StoreError: The ledger can't be read.
        """
        found: list[Any] = self._database.select(_CALL, (generation_id, self._url))
        return row_from(found[0]) if found else None

    def _tries(self, connection: sqlite3.Connection, generation_id: str) -> int:
        row = connection.execute(_TRIES, (generation_id, self._url)).fetchone()
        check_row("a settlement", (COUNT,), row)
        return min(row[0] or 0, LAST_TRY)
