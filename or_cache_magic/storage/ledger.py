"""`Ledger`: every ask's row, and the exact sums over them.

What was paid is written at once. Hits are counted in memory, folded by key, and written together by
`Ledger.flush`, with the entries' own hit counters in the same transaction: a hit costs a microsecond, not
a write. The rows are never changed and outlive the entries; what is learnt later of an unknown cost stands
beside them (`Settlements`), and is shown and added up as if the row had had it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.records import AVOIDED_CALL, OPENROUTER_URL, AskKind, NamedTuple, Usage
from or_cache_magic.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from or_cache_magic.core.records import Outcome
    from or_cache_magic.core.rows import LedgerRow, Totals
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger_rows import Wanted
    from or_cache_magic.storage.totals import Grouping, Spent, Sums


class AlikeHits(NamedTuple):
    """What hits have in common that become one row; see `Ledger.count_hit`."""

    key: str
    model: str
    kind: AskKind
    notebook: str
    tags: tuple[str, ...]
    value_usd: Decimal | None
    prompt_tokens: int | None
    completion_tokens: int | None
    generation_id: str | None = None
    base_url: str = OPENROUTER_URL


class Hits:
    """How many there were of them."""

    __slots__ = ("asks", "last_s", "seconds")

    def __init__(self) -> None:
        self.asks = 0
        self.last_s = 0.0
        self.seconds = 0.0

    def add(self, other: Hits) -> None:
        """Add others of the same."""
        self.asks += other.asks
        self.seconds += other.seconds
        self.last_s = max(self.last_s, other.last_s)


_FLUSH_WAIT_S: Final = 0.05
_TWO_DAYS_S: Final = 1.5 * 86_400
"""The second of two days begins sooner, the third later, also where a day has 23 or 25 hours."""

_NO_USAGE: Final = Usage()
_COUNTED_KINDS: Final = (*AVOIDED_CALL, "miss")
_COUNTED: Final = f"kind IN {_COUNTED_KINDS}"


class Ledger:
    """The ledger of one session in a `Database`. Thread-safe.

    Args:
        database: Where the rows are.
        session: Id of this kernel's session.
        clock: UTC epoch seconds, for the moment of a hit.
        notebook: Where the asks come from, for browsing.
        counted: Called when something is counted that waits for a `flush`.
    """

    def __init__(
        self,
        database: Database,
        session: str,
        clock: Callable[[], float],
        *,
        notebook: str = "",
        counted: Callable[[], object] = bool,
    ) -> None:
        self.session = session
        self.notebook = notebook
        self._counted = counted
        self._database = database
        self._clock = clock
        # Who holds both takes the first one first: rows move from memory to the file only under it.
        self._moving = threading.Lock()
        self._lock = threading.Lock()
        self._hits: dict[AlikeHits, Hits] = {}
        self._unwritten: list[LedgerRow] = []

    def record(self, row: LedgerRow) -> None:
        """Write a row now; if a transaction of this thread is open, in that, which an error is to end.

        What is not known of it, and which generation can tell, is written with it; see `Settlements`.

        Raises:
            StoreError: It could not be written.
        """
        from or_cache_magic.storage.ledger_rows import insert_rows  # a hit writes nothing

        with self._database.transaction(changes_answers=False, joins=True) as connection:
            insert_rows(connection, (row,))

    def remember(self, row: LedgerRow) -> None:
        """Keep a row that could not be recorded in memory, for `totals` and until a `flush` can write it."""
        with self._lock:
            self._unwritten.append(row)
        self._counted()

    def count(self, ask: Ask, outcome: Outcome) -> None:
        """Count, in memory, an ask that made no call; calls are accounted for where they are made."""
        if outcome.kind == "kept":
            return
        answer, request = outcome.answer, ask.request
        usage = answer.usage or _NO_USAGE
        self.count_hit(
            key=ask.key.digest,
            model=str(request.body.get("model", "")),
            kind=outcome.kind,
            notebook=self.notebook,
            tags=ask.policy.tags,
            value_usd=answer.cost.usd,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=outcome.elapsed_s,
            generation_id=None if answer.cost.usd is not None else answer.paid_generation_id,
            base_url=request.base_url,
        )

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
        generation_id: str | None = None,
        base_url: str = OPENROUTER_URL,
    ) -> None:
        """Count an ask that was served without a call, in memory; `flush` writes it.

        Args:
            key: 64 hex digits.
            model: The model that was asked for.
            kind: What it counts as; only ``hit`` and ``shared`` add to the entry's hits and savings.
            notebook: Where it was asked from.
            tags: Labels of the ask.
            value_usd: The answer's original price; None is unknown.
            prompt_tokens: Tokens of the answer that was served; None is unknown.
            completion_tokens: The same.
            seconds: What the ask took.
            generation_id: Which generation can tell an unknown price; not kept with a known one.
            base_url: Where.
        """
        told = (generation_id, base_url) if value_usd is None else ()
        alike = AlikeHits(
            key, model, kind, notebook, tags, value_usd, prompt_tokens, completion_tokens, *told
        )
        with self._lock:
            hits = self._hits.get(alike)
            if hits is None:
                hits = self._hits[alike] = Hits()
                self._counted()
            hits.asks += 1
            hits.seconds += seconds
            hits.last_s = self._clock()

    def flush(self, wait_s: float = _FLUSH_WAIT_S) -> bool:
        """Write what is in memory, and add the hits to their entries; return whether nothing is left.

        With the file locked, read-only or not there (hits alone make no file) everything stays in memory for
        the next flush.

        Args:
            wait_s: The longest to wait for another's lock.
        """
        with self._moving:
            return self._flush(wait_s)

    def rows(
        self, *, session: str | None = None, since_s: float | None = None, limit: int | None = None
    ) -> list[LedgerRow]:
        """Return the rows, newest first, those still in memory included; with what was settled since."""
        from or_cache_magic.storage.ledger_rows import SELECT_ROWS, Wanted, row_from

        wanted = Wanted(session, since_s)
        with self._moving:
            self._flush()
            found = self._database.select(
                f"{SELECT_ROWS} {wanted.where()} ORDER BY at DESC, l.id DESC LIMIT ?",
                (*wanted.parameters, -1 if limit is None else limit),
            )
            waiting = self._waiting(wanted)
        rows = [*waiting, *map(row_from, found)]
        return sorted(rows, key=lambda row: -row.at_s)[:limit] if waiting else rows

    def totals(
        self, by: str = "", *, session: str | None = None, since_s: float | None = None
    ) -> list[Totals]:
        """Return exact sums over the rows, hits still in memory included; one of them, or one a group.

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
        from or_cache_magic.storage.totals import Sums, group_by  # a hit needs none

        sums = self._sums(group_by(by), session, since_s)
        if not by and not sums:
            sums[""] = Sums()
        totals = [parts.totals(group) for group, parts in sums.items()]
        return sorted(totals, key=lambda t: (-t.asks, t.group))

    def spent(self, *, session: str | None = None, since_s: float | None = None) -> Spent:
        """Return what calls cost, those not written yet included: what a budget is held against.

        Args:
            session: Only this session's; None is all.
            since_s: Only calls at or after this time.

        Raises:
            StoreError: The ledger can't be read.
        """
        from or_cache_magic.storage.ledger_rows import Wanted
        from or_cache_magic.storage.totals import spent

        wanted = Wanted(session, since_s)
        with self._moving:
            return spent(self._database, wanted, self._waiting(wanted))

    def timeline(self, session: str | None = None) -> list[tuple[float, Totals]]:
        """Return when each day that had asks began and its sums, oldest first; within two days, of each hour.

        The days are local, and begin at local midnight (given as UTC epoch seconds); the group is their name.
        It is hours (``2026-11-23 14:00``) where all asks are of one day or of two that follow each other.

        Args:
            session: Only this session's; None is all.

        Raises:
            StoreCorruptError: The ledger holds what this package never writes.
        """
        from or_cache_magic.storage.totals import HOURS, day_start_s, group_by

        days = self._sums(group_by("day"), session)
        spans = {(day_start_s(day), day): sums for day, sums in days.items()}
        if spans and max(spans)[0] - min(spans)[0] < _TWO_DAYS_S:
            spans = self._sums(HOURS, session)
        return [(starts_s, sums.totals(name)) for (starts_s, name), sums in sorted(spans.items(), key=_first)]

    def distinct_asks(self, session: str | None = None) -> int:
        """Return how many different requests the hits and misses of `totals` were of.

        No cache could have had a better hit rate than 1 less its share of them: each was new once.

        Args:
            session: Only this session's; None is all.
        """
        from or_cache_magic.storage.ledger_rows import Wanted

        wanted = Wanted(session)
        # A set of Python's is twice as fast as SQL's DISTINCT, and takes what is not written yet as well.
        sql = f"SELECT key FROM or_ledger {wanted.where(_COUNTED)}"  # noqa: S608
        with self._moving:
            self._flush()
            found = self._database.select(sql, wanted.parameters)
            waiting = self._waiting(wanted)
        keys = {key for (key,) in found}
        keys.update(bytes.fromhex(row.key) for row in waiting if row.kind in _COUNTED_KINDS)
        return len(keys)

    def _sums(self, grouping: Grouping, session: str | None, since_s: float | None = None) -> dict[Any, Sums]:
        from or_cache_magic.storage.ledger_rows import Wanted
        from or_cache_magic.storage.totals import Sums, amounts, select_sums

        wanted = Wanted(session, since_s)
        with self._moving:
            self._flush()
            found = select_sums(self._database, grouping, wanted)
            waiting = self._waiting(wanted)
        rows = [*found, *((grouping.value(row), row.kind, *amounts(row)) for row in waiting)]
        sums: defaultdict[Any, Sums] = defaultdict(Sums)
        groups: dict[Any, list[Sums]] = {}
        for value, kind, *columns in rows:
            if value not in groups:
                groups[value] = [sums[name] for name in grouping.names(value)]
            for parts in groups[value]:
                parts.add(kind, columns)
        return sums

    def _flush(self, wait_s: float = _FLUSH_WAIT_S) -> bool:
        with self._lock:
            hits, self._hits = self._hits, {}
            unwritten, self._unwritten = self._unwritten, []
        if not hits and not unwritten:
            return True
        written = False
        try:
            written = bool(unwritten or self._database.exists()) and self._write(hits, unwritten, wait_s)
        finally:
            # Whatever came between, an interrupt too: no hit is lost.
            if not written:
                self._put_back(hits, unwritten)
        return written

    def _write(self, hits: Mapping[AlikeHits, Hits], unwritten: Sequence[LedgerRow], wait_s: float) -> bool:
        from or_cache_magic.storage.ledger_rows import add_rows_to_entries, insert_rows

        counted = self._rows_of(hits)
        try:
            with self._database.transaction(wait_s=wait_s, changes_answers=False) as connection:
                insert_rows(connection, [*unwritten, *counted])
                add_rows_to_entries(connection, counted)
        except StoreError:
            return False  # said where the answer could not be kept
        return True

    def _waiting(self, wanted: Wanted) -> list[LedgerRow]:
        """Return what could not be flushed: the file is locked or read-only, or there is none."""
        with self._lock:
            rows = [*self._unwritten, *self._rows_of(self._hits)]
        return [row for row in rows if wanted.has(row)]

    def _rows_of(self, counted: Mapping[AlikeHits, Hits]) -> list[LedgerRow]:
        from or_cache_magic.storage.ledger_rows import hits_row

        return [hits_row(alike, hits, self.session) for alike, hits in counted.items()]

    def _put_back(self, counted: Mapping[AlikeHits, Hits], unwritten: list[LedgerRow]) -> None:
        with self._lock:
            self._unwritten[:0] = unwritten
            for alike, hits in counted.items():
                newer = self._hits.setdefault(alike, hits)
                if newer is not hits:
                    newer.add(hits)


def _first(item: tuple[Any, Sums]) -> Any:
    return item[0]
