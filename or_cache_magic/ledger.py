"""`Ledger`: every ask's row, and the exact sums over them.

What was paid is written at once. Hits are counted in memory, folded by key, and written together by
`Ledger.flush`, with the entries' own hit counters in the same transaction: a hit costs a microsecond, not
a write. The rows are never changed and outlive the entries.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from or_cache_magic.database import HitCount, add_hits, from_pico, join_tags, split_tags, to_pico
from or_cache_magic.errors import StoreError
from or_cache_magic.records import AskKind, Cost, LedgerRow, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from or_cache_magic.database import Database

__all__ = ["Ledger"]

_Bucket = tuple[str, AskKind, str, tuple[str, ...], "Decimal | None"]

Grouping = Literal["", "model", "day", "notebook", "tag"]

_FLUSH_WAIT_S: Final = 0.05
_FREE: Final = Cost(Decimal(0), "reported")
_KINDS: Final = get_args(AskKind)
_BOUGHT: Final = frozenset({"miss", "refresh", "bypass", "failed"})
_COLUMNS: Final = (
    "at, session, notebook, key, model, kind, asks, paid, paid_source, value, prompt_tokens,"
    " completion_tokens, cached_tokens, cache_write_tokens, seconds, tags, generation_id"
)
_INSERT: Final = f"INSERT INTO or_ledger ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"
_GROUPS: Final = {
    "": "''",
    "model": "model",
    "day": "date(at, 'unixepoch', 'localtime')",
    "notebook": "notebook",
    "tag": "tags",
}
# Grouped by kind as well, so that the many sums of `Totals` are few in SQL: 100,000 rows in one plain pass.
_TOTALS: Final = """
SELECT {group}, kind, sum(asks), sum(paid), sum(value), sum(CASE WHEN paid IS NULL THEN asks ELSE 0 END),
    sum(CASE WHEN value IS NULL THEN asks ELSE 0 END), sum(prompt_tokens), sum(completion_tokens)
FROM or_ledger WHERE at >= ? AND (? IS NULL OR session = ?) GROUP BY 1, 2
"""


@dataclass(slots=True)
class _Hits:
    """Hits of one key that are not written yet."""

    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    asks: int = 0
    last_s: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class _Sums:
    """`Totals` in the making; money in pico-dollars."""

    asks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    value: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    paid: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(
        self,
        kind: AskKind,
        asks: int,
        paid: int | None,
        value: int | None,
        unpaid: int,
        unvalued: int,
        prompt_tokens: int | None,
        completion_tokens: int | None,
    ) -> None:
        """Add the sums of one kind; None is nothing known to add."""
        self.asks[kind] += asks
        self.value[kind] += value or 0
        self.tokens[kind] += (prompt_tokens or 0) + (completion_tokens or 0)
        self.paid += paid or 0
        # What was bought has a price to know, and so has what was served in place of buying.
        self.unpriced += unpaid if kind in _BOUGHT else unvalued
        self.prompt_tokens += prompt_tokens or 0
        self.completion_tokens += completion_tokens or 0

    def totals(self, group: str) -> Totals:
        """The sums as they are told."""
        asks, value = self.asks, self.value
        return Totals(
            group=group,
            calls=sum(asks.values()),
            hits=asks["hit"],
            misses=asks["miss"],
            refreshes=asks["refresh"],
            bypasses=asks["bypass"],
            coalesced=asks["coalesced"],
            replays=asks["replay"],
            stale=asks["stale"],
            failed=asks["failed"],
            paid_usd=from_pico(self.paid),
            saved_usd=from_pico(value["hit"]),
            coalesced_usd=from_pico(value["coalesced"]),
            replayed_usd=from_pico(value["replay"]),
            unpriced=self.unpriced,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            hit_tokens=self.tokens["hit"],
            bought_tokens=sum(self.tokens[kind] for kind in _BOUGHT),
        )


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

    def record(self, row: LedgerRow) -> None:
        """Write a row now, in this thread's transaction if one is open.

        Raises:
            StoreError: It could not be written.
        """
        with self._database.transaction() as connection:
            connection.execute(_INSERT, _columns(row))

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
            kind: What it counts as; only ``hit`` adds to the entry's hits and savings.
            value_usd: The answer's original price; None is unknown.
        """
        bucket: _Bucket = (key, kind, notebook, tags, value_usd)
        with self._lock:
            hits = self._hits.get(bucket)
            if hits is None:
                hits = self._hits[bucket] = _Hits(model, prompt_tokens, completion_tokens)
            hits.asks += 1
            hits.seconds += seconds
            hits.last_s = self._clock()

    def flush(self) -> bool:
        """Write the counted hits and add them to their entries; whether none is left in memory.

        Never waits longer than a twentieth of a second: with the file locked, read-only or not there (hits
        alone make no file) the counts stay in memory for the next flush.
        """
        with self._lock:
            counted, self._hits = self._hits, {}
        if not counted:
            return True
        try:
            if self._database.exists():
                rows = self._rows_of(counted)
                with self._database.transaction(wait_s=_FLUSH_WAIT_S) as connection:
                    connection.executemany(_INSERT, map(_columns, rows))
                    add_hits(connection, _hit_counts(rows))
                return True
        except StoreError:
            pass
        self._put_back(counted)
        return False

    def rows(
        self, *, session: str | None = None, since_s: float | None = None, limit: int | None = None
    ) -> list[LedgerRow]:
        """The rows, newest first, hits still in memory flushed before."""
        self.flush()
        found = self._database.select(
            f"SELECT {_COLUMNS} FROM or_ledger WHERE at >= ? AND (? IS NULL OR session = ?)"
            " ORDER BY at DESC, id DESC LIMIT ?",
            (_since(since_s), session, session, -1 if limit is None else limit),
        )
        return [_row(*columns) for columns in found]

    def totals(
        self, by: Grouping = "", *, session: str | None = None, since_s: float | None = None
    ) -> list[Totals]:
        """Exact sums over the rows, hits still in memory included; one of them, or one a group.

        Args:
            by: What to group by, most asks first. Days are of the local time zone. An ask with several
                tags counts under each, one without under the empty tag.
            session: Only this session's; None is all.
            since_s: Only rows at or after this time.
        """
        self.flush()
        sql = _TOTALS.format(group=_GROUPS[by])
        found = self._database.select(sql, (_since(since_s), session, session))
        sums: dict[str, _Sums] = {} if by else {"": _Sums()}
        for group, kind, *amounts in found:
            for name in split_tags(group) or ("",) if by == "tag" else (group,):
                sums.setdefault(name, _Sums()).add(kind, *amounts)
        for row in self._waiting(session, since_s):
            for name in _groups_of(row, by):
                sums.setdefault(name, _Sums()).add(row.kind, *_amounts(row))
        totals = [parts.totals(group) for group, parts in sums.items()]
        return sorted(totals, key=lambda t: (-t.calls, t.group))

    def _waiting(self, session: str | None, since_s: float | None) -> list[LedgerRow]:
        """What could not be flushed: the file is locked or read-only, or there is none."""
        if session is not None and session != self.session:
            return []
        with self._lock:
            rows = self._rows_of(self._hits)
        return [row for row in rows if row.at_s >= _since(since_s)]

    def _rows_of(self, counted: Mapping[_Bucket, _Hits]) -> list[LedgerRow]:
        return [
            LedgerRow(
                at_s=hits.last_s,
                session=self.session,
                notebook=notebook,
                key=key,
                model=hits.model,
                kind=kind,
                asks=hits.asks,
                paid=_FREE,
                value_usd=None if value_usd is None else value_usd * hits.asks,
                tags=tags,
                prompt_tokens=_times(hits.prompt_tokens, hits.asks),
                completion_tokens=_times(hits.completion_tokens, hits.asks),
                seconds=hits.seconds,
            )
            for (key, kind, notebook, tags, value_usd), hits in counted.items()
        ]

    def _put_back(self, counted: Mapping[_Bucket, _Hits]) -> None:
        with self._lock:
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
        if row.kind == "hit":
            hits, last_s, saved = counts.get(row.key, HitCount(0, 0.0, 0))
            counts[row.key] = HitCount(
                hits + row.asks, max(last_s, row.at_s), saved + (to_pico(row.value_usd) or 0)
            )
    return counts


def _columns(row: LedgerRow) -> tuple[Any, ...]:
    return (
        row.at_s,
        row.session,
        row.notebook,
        row.key,
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


def _row(*columns: Any) -> LedgerRow:
    at_s, session, notebook, key, model, kind, asks, paid, source, value, *tokens, seconds, tags, gen = (
        columns
    )
    return LedgerRow(
        at_s,
        session,
        notebook,
        key,
        model,
        kind,
        asks,
        Cost(from_pico(paid), source),
        from_pico(value),
        split_tags(tags),
        *tokens,
        seconds,
        gen,
    )


def _amounts(row: LedgerRow) -> tuple[int, int | None, int | None, int, int, int | None, int | None]:
    """The columns of `_TOTALS` for a row that is not written yet."""
    return (
        row.asks,
        to_pico(row.paid.usd),
        to_pico(row.value_usd),
        row.asks if row.paid.usd is None else 0,
        row.asks if row.value_usd is None else 0,
        row.prompt_tokens,
        row.completion_tokens,
    )


def _groups_of(row: LedgerRow, by: Grouping) -> Sequence[str]:
    if by == "tag":
        return row.tags or ("",)
    if by == "day":
        return (time.strftime("%Y-%m-%d", time.localtime(row.at_s)),)
    return ({"": "", "model": row.model, "notebook": row.notebook}[by],)


def _times(count: int | None, asks: int) -> int | None:
    return None if count is None else count * asks


def _since(since_s: float | None) -> float:
    return float("-inf") if since_s is None else since_s
