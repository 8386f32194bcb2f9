"""The statistics as people read them: short headings, and a cell for each number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from or_cache_magic.core.cells import format_dollars, format_exact, format_share
from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Cell, Head, Table
from or_cache_magic.display.text import facts_text, notes_text, rows_text

__all__ = ["stats_table", "stats_text"]

_HEADS: Final = {
    "calls": ("calls", "asks of every kind"),
    "hits": ("hits", "asks served from the completion cache that avoided a call"),
    "misses": ("misses", "asks that found nothing to serve and were answered upstream"),
    "hit_rate": ("hit rate", "of requests: hits / (hits + misses)"),
    "hit_rate_tokens": ("of tokens", "tokens of hits / (tokens of hits + tokens bought)"),
    "hit_rate_usd": ("of dollars", "saved / (saved + paid)"),
    "paid_usd": ("paid", "what the calls cost"),
    "saved_usd": ("saved", "what the hits cost when they were bought"),
    "prompt_cache_saved_usd": ("prompt caching", "what the providers' prompt caching took off the calls"),
    "unpriced": ("unpriced", "asks whose price isn't known"),
    "prompt_tokens": ("tokens in", "tokens of prompts, sent or served"),
    "completion_tokens": ("tokens out", "tokens of answers, received or served"),
}
_TELLING: Final = ("calls", "hits", "hit_rate", "paid_usd", "saved_usd", "unpriced")
"""The columns that fit a terminal when they are grouped."""

_GROUP_WIDTH: Final = 80


def stats_table(
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    cut_at: int,
    left_out: int,
) -> Table:
    """The statistics as a table.

    Args:
        columns: The DataFrame's, the group's first when they are grouped.
        rows: The rows that are shown, by column; a missing value is None.
        notes: Lines below them.
        cut_at: Before which row others are left out.
        left_out: How many.
    """
    return Table(
        heads=[_head(column) for column in columns],
        rows=[[_cell(column, row) for column in columns] for row in rows],
        cut_at=cut_at,
        left_out=left_out,
        notes=notes,
        nothing="nothing asked yet",
    )


def stats_text(columns: Sequence[str], table: Table) -> str:
    """The statistics for a terminal: one row as names and values, groups as a table of a few columns."""
    if not table.rows:
        return table.nothing
    if columns[0] in _HEADS:
        (row,) = table.rows
        shown = facts_text([(name, cell.text) for name, cell in zip(columns, row, strict=True)])
    else:
        picked = [0, *(columns.index(name) for name in _TELLING)]
        shown = rows_text(table, picked, wide=0, left=(0,))
    return "\n\n".join(filter(None, (shown, notes_text(table.notes))))


def _head(column: str) -> Head:
    if column not in _HEADS:
        return Head(column, column, left=True)
    name, meaning = _HEADS[column]
    return Head(name, f"{column}: {meaning}")


def _cell(column: str, row: Mapping[str, Any]) -> Cell:
    value, unpriced = row[column], row["unpriced"]
    if isinstance(value, datetime):
        return Cell(f"{value:%Y-%m-%d}")
    if column not in _HEADS:
        return Cell(one_line(str(value or "-"), _GROUP_WIDTH), str(value or ""))
    if column.startswith("hit_rate"):
        # Unpriced asks are asks, and have tokens.
        return Cell(
            format_share(value, about=bool(unpriced) and column == "hit_rate_usd"), format_exact(value)
        )
    if column == "prompt_cache_saved_usd":
        return Cell(format_dollars(value), format_exact(value))
    if column.endswith("_usd"):
        return Cell(format_dollars(value, unpriced=unpriced), format_exact(value))
    return Cell(f"{value:,}")
