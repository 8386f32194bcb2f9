"""Sums of ledger rows: what SQL adds up by kind, folded into `Totals`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, get_args

from or_cache_magic.database import from_pico, to_pico
from or_cache_magic.database.columns import COUNT, INTEGER, check_row
from or_cache_magic.records import AskKind, LedgerRow, Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GROUPS", "TOTALS", "Sums", "amounts", "groups_of"]

_KINDS: Final = get_args(AskKind)
_BOUGHT: Final = frozenset({"miss", "refresh", "bypass", "failed"})
GROUPS: Final = {
    "": "model",  # an index has them in this order; their sums are added up afterwards
    "model": "model",
    "day": "date(at, 'unixepoch', 'localtime')",
    "notebook": "notebook",
    "tag": "tags",
}
# Grouped by kind as well, so that the many sums of `Totals` are few in SQL: 100,000 rows in one plain pass.
TOTALS: Final = """
SELECT {group}, kind, sum(asks), sum(paid), sum(value), sum(CASE WHEN paid IS NULL THEN asks ELSE 0 END),
    sum(CASE WHEN value IS NULL THEN asks ELSE 0 END), sum(prompt_tokens), sum(completion_tokens)
FROM or_ledger WHERE at >= ? AND (? IS NULL OR session = ?) GROUP BY 1, 2
"""

_TYPES: Final = (INTEGER, INTEGER, COUNT, COUNT, INTEGER, INTEGER, COUNT, COUNT)


class Sums:
    """`Totals` in the making; money in pico-dollars."""

    def __init__(self) -> None:
        self.asks: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self.value: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self.tokens: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self.paid = 0
        self.unpriced = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

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
        """Add the sums of one kind, as they come from the file; None is nothing known to add.

        Raises:
            StoreCorruptError: A kind or a sum that rows of ours can't have.
        """
        sums = (asks, paid, value, unpaid, unvalued, prompt_tokens, completion_tokens)
        check_row("a row of the ledger", _TYPES, (self.asks.get(kind), *sums))
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
            hits=asks["hit"] + asks["team"],
            misses=asks["miss"],
            refreshes=asks["refresh"],
            bypasses=asks["bypass"],
            coalesced=asks["coalesced"],
            replays=asks["replay"],
            stale=asks["stale"],
            failed=asks["failed"],
            paid_usd=from_pico(self.paid),
            saved_usd=from_pico(value["hit"] + value["team"]),
            coalesced_usd=from_pico(value["coalesced"]),
            replayed_usd=from_pico(value["replay"]),
            unpriced=self.unpriced,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            hit_tokens=self.tokens["hit"] + self.tokens["team"],
            bought_tokens=sum(self.tokens[kind] for kind in _BOUGHT),
            team_hits=asks["team"],
            team_saved_usd=from_pico(value["team"]),
        )


def amounts(row: LedgerRow) -> tuple[int, int | None, int | None, int, int, int | None, int | None]:
    """The columns of `TOTALS` for a row that is not written yet."""
    return (
        row.asks,
        to_pico(row.paid.usd),
        to_pico(row.value_usd),
        row.asks if row.paid.usd is None else 0,
        row.asks if row.value_usd is None else 0,
        row.prompt_tokens,
        row.completion_tokens,
    )


def groups_of(row: LedgerRow, by: str) -> Sequence[str]:
    """The groups that a row counts in."""
    if by == "tag":
        return row.tags or ("",)
    if by == "day":
        return (time.strftime("%Y-%m-%d", time.localtime(row.at_s)),)
    return ({"": "", "model": row.model, "notebook": row.notebook}[by],)
