"""A `LedgerRow` as the columns of ``or_ledger`` and ``or_settlement``, and back."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, get_args

from or_cache_magic.core.records import (
    AVOIDED_CALL,
    FREE,
    OPENROUTER_URL,
    UNKNOWN_COST,
    AskKind,
    Cost,
    NamedTuple,
)
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.storage.columns import (
    HitCount,
    add_hits,
    as_columns,
    check_row,
    column_types,
    from_pico,
    join_tags,
    split_tags,
    to_pico,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger import AlikeHits, Hits

_COLUMNS: Final = (
    "at, session, notebook, key, model, kind, asks, paid, paid_source, value, prompt_tokens,"
    " completion_tokens, cached_tokens, cache_write_tokens, seconds, tags, generation_id"
)
_INSERT: Final = f"INSERT INTO or_ledger ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"  # noqa: S608
_INSERT_SETTLEMENT: Final = """
INSERT INTO or_settlement (id, generation_id, base_url, cost, cost_source, discount, tries, next)
VALUES (?, ?, ?, NULL, NULL, ?, 0, ?)
"""
SELECT_ROWS: Final = f"""
SELECT {_COLUMNS.replace("generation_id", "l.generation_id")},
    s.id, s.base_url, s.cost, s.cost_source, s.discount
FROM or_ledger l LEFT JOIN or_settlement s ON s.id = l.id
"""  # noqa: S608
"""What `row_from` reads; the conditions are the caller's."""

_TYPES: Final = column_types(
    "float str str bytes str str int int? str int?"
    " int? int? int? int? float str? str? int? str? int? str? int?"
)
KINDS: Final = get_args(AskKind)
FIRST_TRY_AFTER_S: Final = 1.0
"""``GET /generation`` may not know a call for a second or more after it ended."""


class Wanted(NamedTuple):
    """Which rows: those of a session, those at or after a time, or both; None is no condition."""

    session: str | None = None
    since_s: float | None = None

    @property
    def parameters(self) -> tuple[Any, ...]:
        """What the ``?`` of `where` stand for."""
        return tuple(value for value in self if value is not None)

    def where(self, *others: str) -> str:
        """Return the WHERE of a SELECT with `parameters`, and other conditions; empty for all rows."""
        session = [] if self.session is None else ["session = ?"]
        since = [] if self.since_s is None else ["at >= ?"]
        conditions = [*session, *since, *others]
        return f"WHERE {' AND '.join(conditions)}" if conditions else ""

    def has(self, row: LedgerRow) -> bool:
        """Return whether this row is."""
        return self.session in (None, row.session) and (self.since_s is None or row.at_s >= self.since_s)


def insert_rows(connection: sqlite3.Connection, rows: Iterable[LedgerRow]) -> None:
    """Write rows, and what is to be settled of them, in an open transaction."""
    for row in rows:
        written = connection.execute(_INSERT, as_columns(_row_columns(row)))
        settlement = _settlement_columns(row)
        if settlement is not None:
            connection.execute(_INSERT_SETTLEMENT, as_columns((written.lastrowid, *settlement)))


def hits_row(of: AlikeHits, hits: Hits, session: str) -> LedgerRow:
    """Return the row that hits become which have all this in common."""
    return LedgerRow(
        at_s=hits.last_s,
        session=session,
        notebook=of.notebook,
        key=of.key,
        model=of.model,
        kind=of.kind,
        asks=hits.asks,
        paid=FREE,
        value_usd=from_pico(_times(to_pico(of.value_usd), hits.asks)),
        tags=of.tags,
        prompt_tokens=_times(of.prompt_tokens, hits.asks),
        completion_tokens=_times(of.completion_tokens, hits.asks),
        seconds=hits.seconds,
        generation_id=of.generation_id,
        base_url=of.base_url,
    )


def _times(count: int | None, asks: int) -> int | None:
    return None if count is None else count * asks


def add_rows_to_entries(connection: sqlite3.Connection, rows: Iterable[LedgerRow]) -> None:
    """Add to the entries what avoided a call, not what was merely served."""
    add_hits(connection, ((row.key, _hits_of(row)) for row in rows if row.kind in AVOIDED_CALL))


def _hits_of(row: LedgerRow) -> HitCount:
    unpriced = row.asks if row.value_usd is None else 0
    return HitCount(row.asks, row.at_s, to_pico(row.value_usd) or 0, unpriced)


def uses_prompt_cache(row: LedgerRow) -> bool:
    """Return whether the provider read from its prompt cache, or wrote to it, as far as the reply told."""
    return bool(row.cached_tokens or row.cache_write_tokens)


def discount_of(row: LedgerRow) -> Decimal | None:
    """Return what prompt caching took off, 0 where there was none; None is unknown."""
    saved_usd = row.prompt_cache_saved_usd
    return Decimal(0) if saved_usd is None and not uses_prompt_cache(row) else saved_usd


def base_url_column(base_url: str) -> str | None:
    """Return a base URL as it is kept; OpenRouter's is NULL."""
    return None if base_url == OPENROUTER_URL else base_url


def row_from(columns: Sequence[Any]) -> LedgerRow:
    """Return the row of `SELECT_ROWS`, with what was settled of it since.

    Raises:
        StoreCorruptError: A column holds what this package never writes there.
    """
    at_s, session, notebook, key, model, kind, asks, paid, source, value = columns[:10]
    prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, seconds, tags = columns[10:16]
    generation_id, settlement, base_url, cost, cost_source, discount = columns[16:]
    amounts = (asks, paid, value, *columns[10:14], cost)
    sources = (source, cost_source or source)
    check_row("a row of the ledger", _TYPES, columns, at_s, amounts=amounts, sources=sources)
    if kind not in KINDS:
        check_row("a row of the ledger", _TYPES, ())
    if cost is not None and paid is None:
        paid, source = cost, cost_source
    if cost is not None and value is None:
        value = cost * asks
    return LedgerRow(
        at_s=at_s,
        session=session,
        notebook=notebook,
        key=key.hex(),
        model=model,
        kind=kind,
        asks=asks,
        paid=UNKNOWN_COST if paid is None else Cost(from_pico(paid), source),
        value_usd=from_pico(value),
        tags=split_tags(tags),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        cache_write_tokens=cache_write_tokens,
        seconds=seconds,
        generation_id=generation_id,
        base_url=base_url or OPENROUTER_URL,
        prompt_cache_saved_usd=Decimal(0) if settlement is None else from_pico(discount),
    )


def _row_columns(row: LedgerRow) -> tuple[Any, ...]:
    return (
        row.at_s,
        row.session,
        row.notebook,
        bytes.fromhex(row.key),
        row.model,
        row.kind,
        row.asks,
        to_pico(row.paid.usd),
        row.paid.source,
        to_pico(row.value_usd),
        row.prompt_tokens,
        row.completion_tokens,
        row.cached_tokens,
        row.cache_write_tokens,
        row.seconds,
        join_tags(row.tags),
        row.generation_id,
    )


def _settlement_columns(row: LedgerRow) -> tuple[Any, ...] | None:
    """Return what is kept besides of a row with an unknown cost or a discount; None of all others."""
    named = bool(row.generation_id)
    unknown = row.paid.usd is None or row.value_usd is None
    told_later = row.paid.source in ("generation", "estimated", "apportioned")  # which totals tell apart
    if not ((unknown and named) or uses_prompt_cache(row) or told_later):
        return None
    discount = discount_of(row)
    waits = named and (unknown or discount is None)
    next_s = row.at_s + FIRST_TRY_AFTER_S if waits else None
    return row.generation_id or "", base_url_column(row.base_url), to_pico(discount), next_s


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

_WAITING_TYPES: Final = column_types("str float")
_SETTLED_TYPES: Final = column_types("int int? int? bytes int? int? int?")
_TRIES_TYPES: Final = column_types("int?")


class Waiting(NamedTuple):
    """A generation that is to be asked for, and when at the earliest."""

    generation_id: str
    next_s: float


class Settlements:
    """The unsettled rows of a `Database`, of one API. Thread-safe; idempotent across kernels.

    A ``cache.db`` may come from a stranger, and the key goes to whoever is asked: hence one base URL, the
    caller's, and never the file's. Every method may raise `StoreError`.
    """

    def __init__(self, database: Database, base_url: str) -> None:
        self._database = database
        self._url = base_url_column(base_url)

    def waiting(self) -> list[Waiting]:
        """Return the generations that are to be asked for, the first one first."""
        found = self._database.select(_WAITING, (self._url,))
        for columns in found:
            check_row("a settlement", _WAITING_TYPES, columns)
        return [Waiting(*columns) for columns in found]

    def claim(self, generation_id: str, now_s: float) -> bool:
        """Put off the next try; return whether it was due still, so that it is the caller who asks now.

        Written before anything is asked: no other kernel asks too, and where nothing can be written nothing
        is asked at all.
        """
        with self._database.transaction() as connection:
            tries = self._tries(connection, generation_id)
            gap_s = min(2.0 ** min(tries + 1, LAST_TRY), _LONGEST_GAP_S)
            claimed = connection.execute(_CLAIM, (now_s + gap_s, generation_id, self._url, now_s))
            return claimed.rowcount > 0

    def miss(self, generation_id: str) -> bool:
        """Count a try that told nothing; return whether it was the last, and the generation is given up."""
        with self._database.transaction() as connection:
            tries = self._tries(connection, generation_id) + 1
            is_last = tries >= LAST_TRY
            connection.execute(_MISS, (tries, is_last, generation_id, self._url))
            return is_last

    def settle(self, generation_id: str, cost: Cost, discount_usd: Decimal | None) -> Sequence[str]:
        """Write what a generation cost where that was unknown, in this thread's transaction if one is open.

        Returns:
            The keys of the asks whose cost or value it was.
        """
        pico, told = to_pico(cost.usd), to_pico(discount_usd)
        keys: dict[str, None] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(_OF_GENERATION, (generation_id, self._url)).fetchall():
                check_row("a settlement", _SETTLED_TYPES, row)
                number, known, discount, key, paid, value, cached_tokens = row
                # A call that was cut told no tokens, so the discount that it was taken to have was none.
                if discount is None or (paid is None and cached_tokens is None and told is not None):
                    discount = told
                if known is None and (paid is None or value is None):
                    connection.execute(_SETTLE, (pico, cost.source, discount, number))
                    keys[key.hex()] = None
                else:
                    connection.execute(_KEEP_COST, (discount, number))
        return list(keys)

    def call(self, generation_id: str) -> LedgerRow | None:
        """Return the call that made a generation; None when it is not in the ledger, or its cost is known."""
        found: list[Any] = self._database.select(_CALL, (generation_id, self._url))
        return row_from(found[0]) if found else None

    def _tries(self, connection: sqlite3.Connection, generation_id: str) -> int:
        row = connection.execute(_TRIES, (generation_id, self._url)).fetchone()
        check_row("a settlement", _TRIES_TYPES, row)
        return min(row[0] or 0, LAST_TRY)
