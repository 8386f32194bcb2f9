"""Whether an entry that somebody else wrote may be counted, shown and kept without harm."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from or_cache_magic.core.records import Cost, Entry

__all__ = ["why_unsound"]

_LATEST_S: Final = 1e11  # the year 5138; what can't be a time can't be shown as one
_MOST_TOKENS: Final = 1 << 40
_MOST_USD: Final = Decimal(10) ** 6
_FINEST_USD: Final = -30  # digits behind the point


def why_unsound(entry: Entry) -> str | None:
    """What of an entry can't be true; None when nothing is.

    The codec vouches for the types; here are the amounts, which would falsify sums, or overflow them.
    """
    answer = entry.answer
    times_s = (entry.created_s, entry.expires_s or 0.0, answer.created_s, answer.elapsed_s)
    if not all(0 <= time_s < _LATEST_S for time_s in times_s):
        return "an impossible time"
    if not all(count is None or 0 <= count < _MOST_TOKENS for count in answer.usage or ()):
        return "an impossible number of tokens"
    if not _is_price(answer.cost):
        return "an impossible price"
    return None


def _is_price(cost: Cost) -> bool:
    if cost.usd is None:
        return True
    digits, exponent = cost.usd.as_tuple()[1:]
    return (
        0 <= cost.usd < _MOST_USD
        and isinstance(exponent, int)
        and exponent >= _FINEST_USD
        and len(digits) < 60  # noqa: PLR2004
    )
