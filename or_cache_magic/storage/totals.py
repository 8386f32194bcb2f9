"""Sums of ledger rows: what SQL adds up by group and kind, folded into `Totals`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.records import MADE_CALL
from or_cache_magic.core.rows import LedgerRow, Totals
from or_cache_magic.errors import OptionError
from or_cache_magic.storage.columns import check_row, column_types, from_pico, join_tags, split_tags, to_pico
from or_cache_magic.storage.ledger_rows import KINDS, Wanted, discount_of, uses_prompt_cache

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.storage.database import Database

_CALLS: Final = f"kind IN {MADE_CALL}"
_SPENT: Final = """
SELECT sum(paid), count(*) - count(paid), min(paid) FROM or_ledger {calls}
UNION ALL
SELECT sum(cost), -count(cost), min(cost) FROM or_settlement s JOIN or_ledger l ON l.id = s.id {settled}
"""
_SPENT_TYPES: Final = column_types("int? int int?")
_INTEGER: Final = column_types("int")
_TEXT: Final = column_types("str")
_LABEL: Final = column_types("str?")


class Spent(NamedTuple):
    """What calls came to: the sum of what is known, and how many calls' cost is not."""

    usd: Decimal
    unknown: int


def spent(database: Database, wanted: Wanted, waiting: Iterable[LedgerRow]) -> Spent:
    """Return what the calls came to among the rows that are wanted, settled ones included.

    Reads 100,000 rows in about 10 ms, off their index; budgets ask before a call that takes longer.

    Args:
        database: Where the rows are.
        wanted: Which.
        waiting: Those of them that are not written yet.

    Raises:
        StoreError: The ledger can't be read.
    """
    usd = unknown = 0
    sql = _SPENT.format(calls=wanted.where(_CALLS), settled=wanted.where(f"{_CALLS} AND paid IS NULL"))
    for pico, calls, least in database.select(sql, wanted.parameters * 2):
        check_row("a sum of the ledger", _SPENT_TYPES, (pico, calls, least), amounts=(least,))
        usd += pico or 0
        unknown += calls
    for row in waiting:
        if row.kind in MADE_CALL:
            usd += to_pico(row.paid.usd) or 0
            unknown += row.paid.usd is None
    return Spent(from_pico(usd), unknown)


class Grouping(NamedTuple):
    """A way to group rows.

    Attributes:
        sql: What SQL groups by.
        value: The same, of a row that is not written yet.
        names: The groups of such a value; raises `StoreCorruptError` for one that no row of ours has.
        by_time: Whether groups are of time.
    """

    sql: str
    value: Callable[[LedgerRow], Any]
    names: Callable[[Any], Sequence[Any]]
    by_time: bool = False


def group_by(by: str) -> Grouping:
    """Return the grouping of that name.

    Raises:
        OptionError: There is none.
    """
    if by not in _GROUPINGS:
        known = ", ".join(filter(None, _GROUPINGS))
        raise OptionError(f"Totals can't be grouped by {by!r}.", f"Choose from: {known}.")
    return _GROUPINGS[by]


def day_start_s(day: str) -> float:
    """Return when a local day (``2026-11-23``) began, UTC epoch seconds."""
    year, month, number = map(int, day.split("-"))
    return time.mktime((year, month, number, 0, 0, 0, 0, 0, -1))


def _day(row: LedgerRow) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(int(row.at_s)))


def _hour(quarter: Any) -> tuple[tuple[float, str]]:
    """Return the hour of a quarter: when it began and its name; that which summer's end repeats is two."""
    check_row("a row of the ledger", _INTEGER, (quarter,))
    local = time.localtime(quarter * _QUARTER_S)
    starts_s = float(quarter * _QUARTER_S - 60 * local.tm_min - local.tm_sec)
    return ((starts_s, time.strftime("%Y-%m-%d %H:%M", time.localtime(starts_s))),)


def _text(value: Any) -> tuple[str]:
    check_row("a row of the ledger", _TEXT, (value,))
    return (value,)


def _tags(value: Any) -> tuple[str, ...]:
    check_row("a row of the ledger", _LABEL, (value,))
    return split_tags(value) or ("",)


_QUARTER_S: Final = 900
"""Every time zone's hours begin with a quarter of an hour in UTC."""

_GROUPINGS: Final = {
    # An index has them in the order of models; their sums are added up afterwards.
    "": Grouping("model", lambda row: row.model, lambda _model: ("",)),
    "model": Grouping("model", lambda row: row.model, _text),
    # Whole seconds: SQLite would round the last half of a millisecond into the next day.
    "day": Grouping("date(CAST(at AS INTEGER), 'unixepoch', 'localtime')", _day, _text, by_time=True),
    "notebook": Grouping("notebook", lambda row: row.notebook, _text),
    "tag": Grouping("tags", lambda row: join_tags(row.tags), _tags),
}
HOURS: Final = Grouping(
    f"CAST(at AS INTEGER) / {_QUARTER_S}", lambda row: int(row.at_s) // _QUARTER_S, _hour, by_time=True
)
"""By local hour; the groups are pairs of when it began and its name (``2026-11-23 14:00``)."""


# Grouped by kind as well, so that the many sums of `Totals` are few in SQL: 100,000 rows in one plain pass.
# What was settled is added in the same statement: another kernel that settles meanwhile is seen whole or not.
# CROSS JOIN begins with the few rows that were.
_SUMS: Final = """
SELECT {group}, kind, sum(asks), sum(paid), sum(value), sum(CASE WHEN paid IS NULL THEN asks END),
    sum(CASE WHEN value IS NULL THEN asks END), sum(prompt_tokens), sum(completion_tokens),
    0, 0, 0, 0, 0, 0, min(asks), min(paid), min(value), min(prompt_tokens), min(completion_tokens)
FROM {ledger} {where} GROUP BY 1, 2
UNION ALL
SELECT {group}, kind, 0,
    sum(CASE WHEN paid IS NULL THEN s.cost END),
    sum(CASE WHEN value IS NULL THEN s.cost * asks END),
    -sum(CASE WHEN paid IS NULL AND s.cost IS NOT NULL THEN asks END),
    -sum(CASE WHEN value IS NULL AND s.cost IS NOT NULL THEN asks END), 0, 0,
    sum(CASE WHEN {source} = 'generation' THEN coalesce(paid, s.cost) END),
    sum(CASE WHEN {source} = 'estimated' THEN coalesce(paid, s.cost) END),
    sum(CASE WHEN {source} = 'apportioned' THEN paid END),
    sum(s.discount), sum(CASE WHEN s.discount IS NULL THEN asks END),
    sum(CASE WHEN s.discount <> 0 OR (s.discount = 0 AND (cached_tokens > 0 OR cache_write_tokens > 0))
        THEN asks END),
    0, min(s.cost), 0, 0, 0
FROM or_settlement s CROSS JOIN or_ledger l ON l.id = s.id
{where} GROUP BY 1, 2
"""
_SOURCE: Final = "CASE WHEN paid IS NULL THEN s.cost_source ELSE paid_source END"


class Amounts(NamedTuple):
    """What is added up of the rows of one kind; money in pico-dollars. None is nothing known to add.

    Attributes:
        asks: How many.
        paid: What was charged.
        value: What was served was worth.
        unpaid: Asks of which the charge is not known.
        unvalued: Asks of which the value is not known.
        prompt_tokens: Tokens served or bought.
        completion_tokens: The same.
        settled: What of ``paid`` ``GET /generation`` told.
        estimated: What of ``paid`` is counted from tokens and prices.
        apportioned: What of ``paid`` is a share of what a batch cost.
        discount: What prompt caching took off.
        undiscounted: Asks that used prompt caching, of which that is not known.
        discounted: Those of which it is.
    """

    asks: int
    paid: int | None
    value: int | None
    unpaid: int
    unvalued: int
    prompt_tokens: int | None
    completion_tokens: int | None
    settled: int | None = None
    estimated: int | None = None
    apportioned: int | None = None
    discount: int | None = None
    undiscounted: int = 0
    discounted: int = 0


_TYPES: Final = _INTEGER * len(Amounts._fields)
_LEAST: Final = 5
"""At the end of a row of `_SUMS`: the least of each amount, which no sum may hide."""

_LEAST_TYPES: Final = column_types("int? " * _LEAST)
_NO_KIND: Final[list[int]] = []


def select_sums(database: Database, grouping: Grouping, wanted: Wanted) -> list[Any]:
    """Return rows of a group's value, a kind and `Amounts`, of one moment."""
    # By time the table is nearly in order already: sorting it costs less then than reading the index saves.
    ledger = "or_ledger NOT INDEXED" if grouping.by_time else "or_ledger"
    sql = _SUMS.format(group=grouping.sql, ledger=ledger, where=wanted.where(), source=_SOURCE)
    found = []
    for row in database.select(sql, wanted.parameters * 2):
        check_row("a row of the ledger", _LEAST_TYPES, row[-_LEAST:], amounts=row[-_LEAST:])
        found.append(row[:-_LEAST])
    return found


class Sums:
    """`Totals` in the making."""

    def __init__(self) -> None:
        self._of_kind = {kind: [0] * len(Amounts._fields) for kind in KINDS}

    def add(self, kind: str, amounts: Sequence[int | None]) -> None:
        """Add the `Amounts` of one kind, as they come from the file.

        Raises:
            StoreCorruptError: No row of ours is of this kind.
        """
        sums = self._of_kind.get(kind, _NO_KIND)
        if sums is _NO_KIND:
            check_row("a row of the ledger", _INTEGER, (None,))
        for place, amount in enumerate(amounts):
            if amount is not None:
                sums[place] += amount

    def totals(self, group: str) -> Totals:
        """Return the sums as they are told.

        Raises:
            StoreCorruptError: A sum that rows of ours can't have.
        """
        of = {kind: Amounts(*sums) for kind, sums in self._of_kind.items()}
        every = Amounts(*map(sum, zip(*self._of_kind.values(), strict=True)))
        # SQL's sum of anything but integers is a float, and makes one of all that it is added to.
        check_row("a row of the ledger", _TYPES, every)
        hit, shared = of["hit"], of["shared"]
        return Totals(
            group=group,
            asks=every.asks,
            hits=hit.asks + shared.asks,
            misses=of["miss"].asks,
            refreshes=of["refresh"].asks,
            bypasses=of["bypass"].asks,
            coalesced=of["coalesced"].asks,
            replays=of["replay"].asks,
            stale=of["stale"].asks,
            failed=of["failed"].asks,
            paid_usd=_usd(every.paid),
            saved_usd=_usd(hit.value, shared.value),
            coalesced_usd=_usd(of["coalesced"].value),
            replayed_usd=_usd(of["replay"].value),
            # What was bought has a price to know, and so has what was served in place of buying.
            unpriced=sum(sums.unpaid if kind in MADE_CALL else sums.unvalued for kind, sums in of.items()),
            prompt_tokens=every.prompt_tokens or 0,
            completion_tokens=every.completion_tokens or 0,
            hit_tokens=_tokens(hit, shared),
            bought_tokens=_tokens(*(of[kind] for kind in MADE_CALL)),
            prompt_cache_saved_usd=(
                None if every.undiscounted and not every.discounted else _usd(every.discount)
            ),
            shared_hits=shared.asks,
            shared_saved_usd=_usd(shared.value),
            prompt_cache_unpriced=every.undiscounted,
            settled_usd=_usd(every.settled),
            estimated_usd=_usd(every.estimated),
            apportioned_usd=_usd(every.apportioned),
            similar=of["similar"].asks,
        )


def amounts(row: LedgerRow) -> Amounts:
    """Return the amounts of a row that is not written yet, or of one that is, with what was settled of it."""
    paid, discount = to_pico(row.paid.usd), to_pico(discount_of(row))
    return Amounts(
        asks=row.asks,
        paid=paid,
        value=to_pico(row.value_usd),
        unpaid=row.asks if paid is None else 0,
        unvalued=row.asks if row.value_usd is None else 0,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        settled=paid if row.paid.source == "generation" else None,
        estimated=paid if row.paid.source == "estimated" else None,
        apportioned=paid if row.paid.source == "apportioned" else None,
        discount=discount,
        undiscounted=row.asks if discount is None else 0,
        discounted=row.asks if discount or (discount == 0 and uses_prompt_cache(row)) else 0,
    )


def _usd(*pico: int | None) -> Decimal:
    return from_pico(sum(filter(None, pico)))


def _tokens(*sums: Amounts) -> int:
    return sum((of.prompt_tokens or 0) + (of.completion_tokens or 0) for of in sums)
