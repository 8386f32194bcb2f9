"""What stands below the statistics: what their columns leave out, and what their headings mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from or_cache_magic.core.cells import format_share, format_sum
from or_cache_magic.core.cost import format_usd

if TYPE_CHECKING:
    from or_cache_magic.core.records import Totals

__all__ = ["ceiling", "stat_notes"]

_RATES: Final = (
    "Hit rates: of requests, hits / (hits + misses);"
    " of tokens and of dollars, what was served / (what was served + bought)."
)


def ceiling(totals: Totals, distinct: int) -> float | None:
    """The hit rate that a cache filled by these asks alone can reach: the first of each has nothing to hit.

    The team's answers, an imported pack, and for one session the earlier ones, can bring more.

    Args:
        totals: The asks.
        distinct: How many different requests are among their hits and misses.

    Returns:
        A share from 0 to 1; None where nothing hit or missed.
    """
    asks = totals.hits + totals.misses
    return (asks - distinct) / asks if asks else None


def stat_notes(totals: Totals, distinct: int | None = None) -> list[str]:
    """Lines of plain text below the statistics of these asks; none where nothing was asked.

    Args:
        totals: All the asks that the statistics are of, whatever they are grouped by.
        distinct: How many different requests are among their hits and misses; None is not counted.
    """
    if not totals.calls:
        return []
    lines = [_paid(totals), _net(totals), _apart(totals), _first_asks(totals, distinct), _RATES]
    if totals.unpriced:
        lines.append("≥ at least, ≈ about: the price of something in it isn't known.")
    return [line for line in lines if line]


def _paid(t: Totals) -> str:
    sources = (
        (t.reported_usd, "reported"),
        (t.settled_usd, "settled afterwards"),
        (t.estimated_usd, "estimated"),
    )
    told = [f"{format_usd(usd)} {source}" for usd, source in sources if usd]
    by = f": {', '.join(told)}" if len(told) > 1 else f", all {told[0].partition(' ')[2]}" if told else ""
    unpriced = f"; {t.unpriced:,} of {t.calls:,} asks unpriced" if t.unpriced else ""
    return f"Paid {format_sum(t.paid_usd, unpriced=t.unpriced)}{by}{unpriced}."


def _net(t: Totals) -> str:
    """What hits and prompt caching saved together; said only where it is more than the column ``saved``."""
    team = f" ({format_usd(t.team_saved_usd)} of it by the team)" if t.team_hits else ""
    hits = f"{format_sum(t.saved_usd, unpriced=t.unpriced)} by hits{team}"
    missing = t.prompt_cache_unpriced
    if not t.prompt_cache_saved_usd:
        unknown = f"; what prompt caching saved in {_count(missing, 'call')} isn't known" if missing else ""
        return f"Saved {hits}{unknown}."
    why = " (writing to it cost more than was read)" if t.prompt_cache_saved_usd < 0 else ""
    known = f", not counting {_count(missing, 'call')} of which that isn't known" if missing else ""
    # What isn't known of prompt caching may be a loss.
    bound = "≈ " if missing else "≥ " if t.unpriced else ""
    cached = f"{format_usd(t.prompt_cache_saved_usd)} by prompt caching{why}{known}"
    return f"Net saved {bound}{format_usd(t.net_saved_usd)}: {hits}, {cached}."


def _apart(t: Totals) -> str:
    """The asks that are in none of the columns ``hits`` and ``misses``."""
    kinds = (
        (t.refreshes, "refreshed", None),
        (t.bypasses, "bypassed", None),
        (t.coalesced, "coalesced", t.coalesced_usd),
        (t.replays, "replayed offline", t.replayed_usd),
        (t.stale, "stale", None),
        (t.failed, "failed", None),
    )
    told = [
        f"{count:,} {name}" + (f" (worth {format_sum(usd, unpriced=t.unpriced)})" if usd else "")
        for count, name, usd in kinds
        if count
    ]
    return f"Neither hit nor miss: {', '.join(told)}." if told else ""


def _first_asks(t: Totals, distinct: int | None) -> str:
    share = None if distinct is None else ceiling(t, distinct)
    if distinct is None or share is None:
        return ""
    asks = f"{t.hits + t.misses:,} hits and misses"
    different = _count(distinct, "different request")
    return f"Ceiling {format_share(share)}: {asks} of {different}; the first of each has nothing to hit."


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
