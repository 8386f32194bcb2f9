"""Sums of ledger rows: what SQL adds up by group and kind, folded into `Totals`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from or_cache_magic.core.records import AskKind, LedgerRow, Totals
from or_cache_magic.storage.columns import INTEGER, check_row
from or_cache_magic.storage.ledger_rows import BOUGHT, discount_of, uses_prompt_cache
from or_cache_magic.storage.pico import from_pico, to_pico

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.groups import Grouping
    from or_cache_magic.storage.ledger_rows import Wanted

__all__ = ["Amounts", "Sums", "amounts", "select_sums"]

_KINDS: Final = get_args(AskKind)

# Grouped by kind as well, so that the many sums of `Totals` are few in SQL: 100,000 rows in one plain pass.
# What was settled is added in the same statement: another kernel that settles meanwhile is seen whole or not.
# CROSS JOIN begins with the few rows that were.
_SUMS: Final = """
SELECT {group}, kind, sum(asks), sum(paid), sum(value), sum(CASE WHEN paid IS NULL THEN asks END),
    sum(CASE WHEN value IS NULL THEN asks END), sum(prompt_tokens), sum(completion_tokens),
    0, 0, 0, 0, 0
FROM {ledger} {where} GROUP BY 1, 2
UNION ALL
SELECT {group}, kind, 0,
    sum(CASE WHEN paid IS NULL THEN s.cost END),
    sum(CASE WHEN value IS NULL THEN s.cost * asks END),
    -sum(CASE WHEN paid IS NULL AND s.cost IS NOT NULL THEN asks END),
    -sum(CASE WHEN value IS NULL AND s.cost IS NOT NULL THEN asks END), 0, 0,
    sum(CASE WHEN {source} = 'generation' THEN coalesce(paid, s.cost) END),
    sum(CASE WHEN {source} = 'estimated' THEN coalesce(paid, s.cost) END),
    sum(s.discount), sum(CASE WHEN s.discount IS NULL THEN asks END),
    sum(CASE WHEN s.discount <> 0 OR (s.discount = 0 AND (cached_tokens > 0 OR cache_write_tokens > 0))
        THEN asks END)
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
    discount: int | None = None
    undiscounted: int = 0
    discounted: int = 0


_TYPES: Final = (INTEGER,) * len(Amounts._fields)
_NO_KIND: Final[list[int]] = []


def select_sums(database: Database, grouping: Grouping, wanted: Wanted) -> list[Any]:
    """Rows of a group's value, a kind and `Amounts`, of one moment."""
    # By time the table is nearly in order already: sorting it costs less then than reading the index saves.
    ledger = "or_ledger NOT INDEXED" if grouping.by_time else "or_ledger"
    sql = _SUMS.format(group=grouping.sql, ledger=ledger, where=wanted.where, source=_SOURCE)
    return database.select(sql, wanted.parameters * 2)


class Sums:
    """`Totals` in the making."""

    def __init__(self) -> None:
        self._of_kind = {kind: [0] * len(Amounts._fields) for kind in _KINDS}

    def add(self, kind: str, amounts: Sequence[int | None]) -> None:
        """Add the `Amounts` of one kind, as they come from the file.

        Raises:
            StoreCorruptError: No row of ours is of this kind.
        """
        sums = self._of_kind.get(kind, _NO_KIND)
        if sums is _NO_KIND:
            check_row("a row of the ledger", (INTEGER,), (None,))
        for place, amount in enumerate(amounts):
            if amount is not None:
                sums[place] += amount

    def totals(self, group: str) -> Totals:
        """The sums as they are told.

        Raises:
            StoreCorruptError: A sum that rows of ours can't have.
        """
        of = {kind: Amounts(*sums) for kind, sums in self._of_kind.items()}
        every = Amounts(*map(sum, zip(*self._of_kind.values(), strict=True)))
        # SQL's sum of anything but integers is a float, and makes one of all that it is added to.
        check_row("a row of the ledger", _TYPES, every)
        hit, team = of["hit"], of["team"]
        return Totals(
            group=group,
            calls=every.asks,
            hits=hit.asks + team.asks,
            misses=of["miss"].asks,
            refreshes=of["refresh"].asks,
            bypasses=of["bypass"].asks,
            coalesced=of["coalesced"].asks,
            replays=of["replay"].asks,
            stale=of["stale"].asks,
            failed=of["failed"].asks,
            paid_usd=_usd(every.paid),
            saved_usd=_usd(hit.value, team.value),
            coalesced_usd=_usd(of["coalesced"].value),
            replayed_usd=_usd(of["replay"].value),
            # What was bought has a price to know, and so has what was served in place of buying.
            unpriced=sum(sums.unpaid if kind in BOUGHT else sums.unvalued for kind, sums in of.items()),
            prompt_tokens=every.prompt_tokens or 0,
            completion_tokens=every.completion_tokens or 0,
            hit_tokens=_tokens(hit, team),
            bought_tokens=_tokens(*(of[kind] for kind in BOUGHT)),
            prompt_cache_saved_usd=(
                None if every.undiscounted and not every.discounted else _usd(every.discount)
            ),
            team_hits=team.asks,
            team_saved_usd=_usd(team.value),
            prompt_cache_unpriced=every.undiscounted,
            settled_usd=_usd(every.settled),
            estimated_usd=_usd(every.estimated),
        )


def amounts(row: LedgerRow) -> Amounts:
    """The amounts of a row that is not written yet, or of one that is, with what was settled of it."""
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
        discount=discount,
        undiscounted=row.asks if discount is None else 0,
        discounted=row.asks if discount or (discount == 0 and uses_prompt_cache(row)) else 0,
    )


def _usd(*pico: int | None) -> Decimal:
    return from_pico(sum(filter(None, pico)))


def _tokens(*sums: Amounts) -> int:
    return sum((of.prompt_tokens or 0) + (of.completion_tokens or 0) for of in sums)
