"""What was spent: the sum that a budget is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.database import from_pico
from or_cache_magic.database.columns import COUNT, INTEGER, check_row

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.database import Database

__all__ = ["Spent", "spent"]

_SPENT: Final = """
SELECT sum(paid), count(*) - count(paid) FROM or_ledger
WHERE kind IN ('miss', 'refresh', 'bypass', 'failed') AND at >= ? AND (? IS NULL OR session = ?)
UNION ALL
SELECT sum(s.cost), -count(s.cost) FROM or_settlement s JOIN or_ledger l ON l.id = s.id
WHERE l.kind IN ('miss', 'refresh', 'bypass', 'failed') AND l.paid IS NULL AND l.at >= ?
    AND (? IS NULL OR l.session = ?)
"""


class Spent(NamedTuple):
    """What calls came to: the sum of what is known, and how many calls' cost is not."""

    usd: Decimal
    unknown: int


def spent(database: Database, *, session: str | None = None, since_s: float = 0.0) -> Spent:
    """What the calls came to of a session, or of all, at or after a time; settled ones included.

    Reads 100,000 rows in about 10 ms, off their index; budgets ask before a call that takes longer.

    Raises:
        StoreError: The ledger can't be read.
    """
    usd = unknown = 0
    for pico, calls in database.select(_SPENT, (since_s, session, session) * 2):
        check_row("a sum of the ledger", (COUNT, INTEGER), (pico, calls))
        usd += pico or 0
        unknown += calls
    return Spent(from_pico(usd), unknown)
