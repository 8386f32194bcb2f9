"""The ledger's totals as a table: its columns, their values, how each is shown, and the notes below."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.units import (
    format_count,
    format_dollars,
    format_exact,
    format_share,
    format_sum,
    format_usd,
    share_of,
)
from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Cell, Column, Head, Row, Table, facts_text, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from or_cache_magic.core.rows import Totals

_GROUP_WIDTH: Final = 80


class _Stat(NamedTuple):
    """A column: its name and type in a DataFrame, its value of some sums, and how a cell shows that."""

    name: str
    type: str
    value: Callable[[Totals], Any]
    head: Head
    cell: Callable[[Row], Cell]


def stats_text(table: Table) -> str:
    """Return the sums for a terminal: one row as names and values, groups as a table of a few columns."""
    if table.wide or not table.rows:
        return text(table)
    values = (cell.text for cell in table.rows[0])
    return facts_text(zip(STAT_TYPES, values, strict=True), table.notes)


def _group(by: str) -> Column:
    return Head(by, by, left=True), lambda row: Cell(one_line(row[by] or "-", _GROUP_WIDTH), row[by])


def _count(column: str, name: str, meaning: str) -> _Stat:
    head = Head(name, f"{column}: {meaning}")
    return _Stat(column, "int64", attrgetter(column), head, lambda row: Cell(f"{row[column]:,}"))


def _rate(column: str, name: str, meaning: str, served: str, bought: str) -> _Stat:
    def value(totals: Totals) -> float | None:
        return share_of(getattr(totals, served), getattr(totals, bought))

    def cell(row: Row) -> Cell:
        # Unpriced asks are asks, and have tokens.
        about = bool(row["unpriced"]) and column == "hit_rate_usd"
        return Cell(format_share(row[column], about=about), format_exact(row[column]))

    return _Stat(column, "float64", value, Head(name, f"{column}: {meaning}"), cell)


def _sum(column: str, name: str, meaning: str, *, is_bound: bool = True) -> _Stat:
    def value(totals: Totals) -> float | None:
        usd = getattr(totals, column)
        return None if usd is None else float(usd)

    def cell(row: Row) -> Cell:
        shown = format_dollars(row[column], unpriced=row["unpriced"] if is_bound else 0)
        return Cell(shown, format_exact(row[column]))

    return _Stat(column, "float64", value, Head(name, f"{column}: {meaning}"), cell)


_COLUMNS: Final = (
    _count("asks", "asks", "asks of every kind, failed ones too"),
    _count("calls", "calls", "asks that made a call"),
    _count("hits", "hits", "asks served from the completion cache that avoided a call"),
    _count("misses", "misses", "asks that found nothing to serve and were answered upstream"),
    _rate("hit_rate", "hit rate", "of requests: hits / (hits + misses)", "hits", "misses"),
    _rate(
        "hit_rate_tokens",
        "of tokens",
        "tokens of hits / (tokens of hits + tokens bought)",
        "hit_tokens",
        "bought_tokens",
    ),
    _rate("hit_rate_usd", "of dollars", "saved / (saved + paid)", "saved_usd", "paid_usd"),
    _sum("paid_usd", "paid", "what the calls cost"),
    _sum("saved_usd", "saved", "what the hits cost when they were bought"),
    _sum(
        "prompt_cache_saved_usd",
        "prompt caching",
        "what the providers' prompt caching took off the calls",
        is_bound=False,  # what isn't known of it may be a loss
    ),
    _count("unpriced", "unpriced", "asks whose price isn't known"),
    _count("prompt_tokens", "tokens in", "tokens of prompts, sent or served"),
    _count("completion_tokens", "tokens out", "tokens of answers, received or served"),
)

STAT_TYPES: Final = {column.name: column.type for column in _COLUMNS}
"""The columns, in their order, and their types in a DataFrame."""


def stat_values(totals: Totals, by: str = "") -> dict[str, Any]:
    """Return the values of the sums by column, the group's first where they are grouped."""
    return ({by: totals.group} if by else {}) | {column.name: column.value(totals) for column in _COLUMNS}


def stats_table(rows: Iterable[Row], by: str = "") -> Table:
    """Return the table of the ledger's sums.

    Args:
        rows: The rows that are shown; see `stat_values`.
        by: The group's column; empty where they are not grouped.
    """
    columns: list[Column] = [(column.head, column.cell) for column in _COLUMNS]
    if by:
        columns.insert(0, _group(by))
    table = Table.of(columns, rows)
    return table._replace(
        nothing="nothing asked yet", narrow=(by, "asks", "hits", "hit rate", "paid", "saved"), wide=by
    )


_RATES: Final = (
    "Hit rates: of requests, hits / (hits + misses);"
    " of tokens and of dollars, what was served / (what was served + bought)."
)


def best_hit_rate(totals: Totals, distinct: int) -> float | None:
    """Return the hit rate that these asks allow a cache that keeps everything: the first of each can't hit.

    The team's answers, an imported pack, and for one session the earlier ones, can bring more.

    Args:
        totals: The asks.
        distinct: How many different requests are among their hits and misses.

    Returns:
        A share from 0 to 1; None where nothing hit or missed.
    """
    return share_of(totals.hits + totals.misses - distinct, distinct)


def stat_notes(totals: Totals, distinct: int | None = None) -> list[str]:
    """Return lines of plain text below the statistics of these asks; none where nothing was asked.

    Args:
        totals: All the asks that the statistics are of, whatever they are grouped by.
        distinct: How many different requests are among their hits and misses; None is not counted.
    """
    if not totals.asks:
        return []
    lines = [_paid(totals), _net(totals), _apart(totals), _new(totals, distinct), _RATES]
    if totals.unpriced:
        lines.append("≥ at least, ≈ about: the price of something in it isn't known.")
    return [line for line in lines if line]


def _paid(t: Totals) -> str:
    sources = (
        (t.reported_usd, "reported"),
        (t.settled_usd, "settled afterwards"),
        (t.apportioned_usd, "apportioned"),
        (t.estimated_usd, "estimated"),
    )
    known = [(usd, source) for usd, source in sources if usd]
    by = f", all {known[0][1]}" if known else ""
    if len(known) > 1:
        by = ": " + ", ".join(f"{format_usd(usd)} {source}" for usd, source in known)
    unpriced = f"; {t.unpriced:,} of {t.asks:,} asks unpriced" if t.unpriced else ""
    return f"Paid {format_sum(t.paid_usd, unpriced=t.unpriced)}{by}{unpriced}."


def _net(t: Totals) -> str:
    """What hits and prompt caching saved together; said only where it is more than the column ``saved``."""
    team = f" ({format_usd(t.shared_saved_usd)} of it by the team)" if t.shared_hits else ""
    hits = f"{format_sum(t.saved_usd, unpriced=t.unpriced)} by hits{team}"
    missing = format_count(t.prompt_cache_unpriced, "call") if t.prompt_cache_unpriced else ""
    if not t.prompt_cache_saved_usd:
        unknown = f"; what prompt caching saved in {missing} isn't known" if missing else ""
        return f"Saved {hits}{unknown}."
    why = " (writing to it cost more than was read)" if t.prompt_cache_saved_usd < 0 else ""
    known = f", not counting {missing} of which that isn't known" if missing else ""
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
        (t.replays, "replayed", t.replayed_usd),
        (t.stale, "stale", None),
        (t.similar, "similar", None),
        (t.failed, "failed", None),
    )
    counted = [
        f"{count:,} {name}" + (f" (worth {format_sum(usd, unpriced=t.unpriced)})" if usd else "")
        for count, name, usd in kinds
        if count
    ]
    return f"Neither hit nor miss: {', '.join(counted)}." if counted else ""


def _new(t: Totals, distinct: int | None) -> str:
    share = None if distinct is None else best_hit_rate(t, distinct)
    if share is None:
        return ""
    return (
        f"At best {format_share(share)}: {distinct:,} of {format_count(t.hits + t.misses, 'ask')} were new."
    )
