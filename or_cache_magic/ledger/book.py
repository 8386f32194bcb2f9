"""`Ledger`: every ask's row, and the exact sums over them.

What was paid is written at once. Hits are counted in memory, folded by key, and written together by
`Ledger.flush`, with the entries' own hit counters in the same transaction: a hit costs a microsecond, not
a write. The rows are never changed and outlive the entries.
"""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from or_cache_magic.database import HitCount, add_hits, from_pico, split_tags, to_pico
from or_cache_magic.database.columns import LABEL, TEXT, check_row
from or_cache_magic.errors import OptionError, StoreError
from or_cache_magic.ledger.rows import COLUMNS, INSERT, row_columns, row_from
from or_cache_magic.ledger.sums import GROUPS, TOTALS, Sums, amounts, groups_of
from or_cache_magic.records import AskKind, Cost, LedgerRow, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from or_cache_magic.database import Database

__all__ = ["Ledger"]

# Key, model, kind, notebook, tags, value and tokens: asks that are equal in all of them are one row.
_Bucket = tuple[str, str, AskKind, str, "tuple[str, ...]", "Decimal | None", "int | None", "int | None"]

_FLUSH_WAIT_S: Final = 0.05
_FREE: Final = Cost(Decimal(0), "reported")


class _Hits:
    """Equal hits that are not written yet."""

    __slots__ = ("asks", "last_s", "seconds")

    def __init__(self) -> None:
        self.asks = 0
        self.last_s = 0.0
        self.seconds = 0.0


class Ledger:
    """The ledger of one session in a `Database`. Thread-safe.

    Args:
        database: Where the rows are.
        session: Id of this kernel's session.
        clock: UTC epoch seconds, for the moment of a hit.
    """

    def __init__(self, database: Database, session: str, clock: Callable[[], float]) -> None:
        self.session = session
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._hits: dict[_Bucket, _Hits] = {}
        self._unwritten: list[LedgerRow] = []

    def record(self, row: LedgerRow) -> None:
        """Write a row now, in this thread's transaction if one is open.

        Raises:
            StoreError: It could not be written.
        """
        with self._database.transaction() as connection:
            connection.execute(INSERT, row_columns(row))

    def remember(self, row: LedgerRow) -> None:
        """Keep a row that could not be recorded in memory, for `totals` and until a `flush` can write it."""
        with self._lock:
            self._unwritten.append(row)

    def count_hit(
        self,
        *,
        key: str,
        model: str,
        kind: AskKind = "hit",
        notebook: str = "",
        tags: tuple[str, ...] = (),
        value_usd: Decimal | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Count an ask that was served without a call, in memory; `flush` writes it.

        Args:
            key: 64 hex digits.
            model: The model that was asked for.
            kind: What it counts as; only ``hit`` and ``team`` add to the entry's hits and savings.
            notebook: Where it was asked from.
            tags: Labels of the ask.
            value_usd: The answer's original price; None is unknown.
            prompt_tokens: Tokens of the answer that was served; None is unknown.
            completion_tokens: The same.
            seconds: What the ask took.
        """
        bucket: _Bucket = (key, model, kind, notebook, tags, value_usd, prompt_tokens, completion_tokens)
        with self._lock:
            hits = self._hits.get(bucket)
            if hits is None:
                hits = self._hits[bucket] = _Hits()
            hits.asks += 1
            hits.seconds += seconds
            hits.last_s = self._clock()

    def flush(self) -> bool:
        """Write what is in memory, and add the hits to their entries; whether nothing is left.

        Never waits longer than a twentieth of a second: with the file locked, read-only or not there (hits
        alone make no file) everything stays in memory for the next flush.
        """
        with self._lock:
            hits, self._hits = self._hits, {}
            unwritten, self._unwritten = self._unwritten, []
        if not hits and not unwritten:
            return True
        if unwritten or self._database.exists():
            counted = self._rows_of(hits)
            try:
                with self._database.transaction(wait_s=_FLUSH_WAIT_S) as connection:
                    connection.executemany(INSERT, map(row_columns, [*unwritten, *counted]))
                    add_hits(connection, _hit_counts(counted))
            except StoreError:
                pass  # said where the answer could not be kept
            else:
                return True
        self._put_back(hits, unwritten)
        return False

    def rows(
        self, *, session: str | None = None, since_s: float | None = None, limit: int | None = None
    ) -> list[LedgerRow]:
        """The rows, newest first, hits still in memory flushed before."""
        self.flush()
        found = self._database.select(
            f"SELECT {COLUMNS} FROM or_ledger WHERE at >= ? AND (? IS NULL OR session = ?)"  # noqa: S608
            " ORDER BY at DESC, id DESC LIMIT ?",
            (_since(since_s), session, session, -1 if limit is None else limit),
        )
        return [row_from(columns) for columns in found]

    def totals(
        self, by: str = "", *, session: str | None = None, since_s: float | None = None
    ) -> list[Totals]:
        """Exact sums over the rows, hits still in memory included; one of them, or one a group.

        Args:
            by: ``model``, ``day``, ``notebook`` or ``tag``, most asks first; empty is all in one. Days are
                of the local time zone. An ask with several tags counts under each, one without under the
                empty tag.
            session: Only this session's; None is all.
            since_s: Only rows at or after this time.

        Raises:
            OptionError: An unknown grouping.
            StoreCorruptError: The ledger holds what this package never writes.
        """
        if by not in GROUPS:
            known = ", ".join(filter(None, GROUPS))
            raise OptionError(f"Totals can't be grouped by {by!r}.", f"Choose from: {known}.")
        self.flush()
        sql = TOTALS.format(group=GROUPS[by])
        found = self._database.select(sql, (_since(since_s), session, session))
        sums: dict[str, Sums] = {} if by else {"": Sums()}
        for group, kind, *columns in found:
            check_row("a row of the ledger", (LABEL if by == "tag" else TEXT,), (group,))
            for name in (split_tags(group) or ("",)) if by == "tag" else (group if by else "",):
                sums.setdefault(name, Sums()).add(kind, *columns)
        for row in self._waiting(session, since_s):
            for name in groups_of(row, by):
                sums.setdefault(name, Sums()).add(row.kind, *amounts(row))
        totals = [parts.totals(group) for group, parts in sums.items()]
        return sorted(totals, key=lambda t: (-t.calls, t.group))

    def _waiting(self, session: str | None, since_s: float | None) -> list[LedgerRow]:
        """What could not be flushed: the file is locked or read-only, or there is none."""
        if session is not None and session != self.session:
            return []
        with self._lock:
            rows = [*self._unwritten, *self._rows_of(self._hits)]
        return [row for row in rows if row.at_s >= _since(since_s)]

    def _rows_of(self, counted: Mapping[_Bucket, _Hits]) -> list[LedgerRow]:
        return [
            LedgerRow(
                at_s=hits.last_s,
                session=self.session,
                notebook=notebook,
                key=key,
                model=model,
                kind=kind,
                asks=hits.asks,
                paid=_FREE,
                value_usd=from_pico(_times(to_pico(value_usd), hits.asks)),
                tags=tags,
                prompt_tokens=_times(prompt_tokens, hits.asks),
                completion_tokens=_times(completion_tokens, hits.asks),
                seconds=hits.seconds,
            )
            for (
                key,
                model,
                kind,
                notebook,
                tags,
                value_usd,
                prompt_tokens,
                completion_tokens,
            ), hits in counted.items()
        ]

    def _put_back(self, counted: Mapping[_Bucket, _Hits], unwritten: list[LedgerRow]) -> None:
        with self._lock:
            self._unwritten[:0] = unwritten
            for bucket, hits in counted.items():
                newer = self._hits.setdefault(bucket, hits)
                if newer is not hits:
                    newer.asks += hits.asks
                    newer.seconds += hits.seconds
                    newer.last_s = max(newer.last_s, hits.last_s)


def _hit_counts(rows: Iterable[LedgerRow]) -> dict[str, HitCount]:
    """What the rows add to the entries: asks that avoided a call, not those that were merely served."""
    counts: dict[str, HitCount] = {}
    for row in rows:
        if row.kind in ("hit", "team"):
            hits, last_s, saved = counts.get(row.key, HitCount(0, 0.0, 0))
            counts[row.key] = HitCount(
                hits + row.asks, max(last_s, row.at_s), saved + (to_pico(row.value_usd) or 0)
            )
    return counts


def _times(tokens: int | None, asks: int) -> int | None:
    return None if tokens is None else tokens * asks


def _since(since_s: float | None) -> float:
    return float("-inf") if since_s is None else since_s
