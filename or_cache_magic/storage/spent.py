"""What was spent: the sum that a budget is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.storage.columns import COUNT, INTEGER, check_row
from or_cache_magic.storage.pico import from_pico, to_pico

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from or_cache_magic.core.records import LedgerRow
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger_rows import Wanted

__all__ = ["Spent", "spent"]

_CALL_KINDS: Final = ("miss", "refresh", "bypass", "failed")
_CALLS: Final = f"kind IN {_CALL_KINDS}"
_SPENT: Final = """
SELECT sum(paid), count(*) - count(paid) FROM or_ledger {calls}
UNION ALL
SELECT sum(cost), -count(cost) FROM or_settlement s JOIN or_ledger l ON l.id = s.id {settled}
"""


class Spent(NamedTuple):
    """What calls came to: the sum of what is known, and how many calls' cost is not."""

    usd: Decimal
    unknown: int


def spent(database: Database, wanted: Wanted, waiting: Iterable[LedgerRow]) -> Spent:
    """What the calls came to among the rows that are wanted, settled ones included.

    Reads 100,000 rows in about 10 ms, off their index; budgets ask before a call that takes longer.

    Args:
        database: Where the rows are.
        wanted: Which.
        waiting: Those of them that are not written yet.

    Raises:
        StoreError: The ledger can't be read.
    """
    usd = unknown = 0
    sql = _SPENT.format(
        calls=wanted.where_also(_CALLS), settled=wanted.where_also(f"{_CALLS} AND paid IS NULL")
    )
    for pico, calls in database.select(sql, wanted.parameters * 2):
        check_row("a sum of the ledger", (COUNT, INTEGER), (pico, calls))
        usd += pico or 0
        unknown += calls
    for row in waiting:
        if row.kind in _CALL_KINDS:
            usd += to_pico(row.paid.usd) or 0
            unknown += row.paid.usd is None
    return Spent(from_pico(usd), unknown)
