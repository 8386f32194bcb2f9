"""Values as the tables show them: shares, dollars, counts, times. Pure; a missing value is None."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from or_cache_magic.core.cost import format_usd

__all__ = [
    "format_dollars",
    "format_exact",
    "format_length",
    "format_moment",
    "format_share",
    "format_source",
    "format_sum",
    "format_time",
]

NOTHING: Final = "-"
"""What stands where there is nothing to tell."""

_SOURCES: Final = {"reported": "", "generation": "settled"}
_LENGTHS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def format_share(share: float | None, *, about: bool = False) -> str:
    """A share in per cent; 0% and 100% only where they are exact, a dash where it is a share of nothing.

    Args:
        share: From 0 to 1; None where there is nothing to divide by.
        about: Whether amounts are missing in it.

    >>> format_share(0.254), format_share(0.9999), format_share(0.0001), format_share(1.0)
    ('25%', '>99%', '<1%', '100%')
    """
    if share is None:
        return NOTHING
    shown = f"{share:.0%}"
    if shown == "100%" and share < 1:
        shown = ">99%"
    elif shown == "0%" and share > 0:
        shown = "<1%"
    return f"≈ {shown}" if about else shown


def format_sum(usd: Decimal, *, unpriced: int = 0) -> str:
    """A sum of dollars; a lower bound, and said so, where the price of some asks isn't known.

    >>> format_sum(Decimal("1.5")), format_sum(Decimal("1.5"), unpriced=3)
    ('$1.50', '≥ $1.50')
    """
    return f"≥ {format_usd(usd)}" if unpriced else format_usd(usd)


def format_dollars(usd: float | None, *, unpriced: int = 0) -> str:
    """`format_sum` of what a DataFrame holds; None is ``unknown``."""
    return "unknown" if usd is None else format_sum(Decimal(repr(float(usd))), unpriced=unpriced)


def format_exact(usd: float | None) -> str:
    """Every digit that a DataFrame's number has, never in scientific notation; empty for None.

    >>> format_exact(1.2e-06), format_exact(0.5)
    ('0.0000012', '0.5')
    """
    return "" if usd is None else f"{Decimal(repr(float(usd))):f}"


def format_source(source: str) -> str:
    """How an amount came to be known, in a word; empty where the reply itself said it.

    >>> format_source("reported"), format_source("generation"), format_source("estimated")
    ('', 'settled', 'estimated')
    """
    return _SOURCES.get(source, source)


def format_time(at: datetime | None, now: datetime) -> str:
    """When something was, short, in local time: with the hour in this year, with the year in others."""
    if at is None:
        return NOTHING
    local = at.astimezone()
    return f"{local:%m-%d %H:%M}" if local.year == now.astimezone().year else f"{local:%Y-%m-%d}"


def format_moment(at: datetime | None) -> str:
    """When something was, exactly: local time with its offset from UTC."""
    return NOTHING if at is None else at.astimezone().isoformat(sep=" ", timespec="milliseconds")


def format_length(length_s: float | None) -> str:
    """A length of time in its largest whole unit; a dash where it has no end.

    >>> format_length(86400), format_length(5400), format_length(0.5), format_length(None)
    ('1 d', '90 min', '0.5 s', '-')
    """
    if length_s is None:
        return NOTHING
    for unit_s, name in _LENGTHS:
        if length_s >= unit_s and length_s % unit_s == 0:
            return f"{length_s / unit_s:,.0f} {name}"
    return f"{length_s:,g} s"
