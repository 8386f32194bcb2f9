"""A table as HTML and as Markdown: what a notebook shows, saves and takes to other places.

The texts in it are strangers' (prompts, answers, names). Everything is escaped, and what MathJax could pair
(``$`` and the backslash) stands in an element of its own: it does not look for delimiters across elements.
The HTML is of the few tags that every sanitiser leaves: others (``<style>``, ``<th>``, ``<br>``) nbconvert's
would show as text.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.units import (
    NOTHING,
    format_dollars,
    format_exact,
    format_length,
    format_moment,
    format_share,
    format_size,
    format_source,
    format_sum,
    format_time,
    format_usd,
)
from or_cache_magic.display.escape import escape_html, escape_markdown, one_line

if TYPE_CHECKING:
    from or_cache_magic.core.records import Totals

__all__ = [
    "Cell",
    "Head",
    "Table",
    "aligned",
    "ceiling",
    "entries_table",
    "entries_text",
    "facts_text",
    "html",
    "left_out",
    "markdown",
    "notes_text",
    "rows_text",
    "stat_notes",
    "stats_table",
    "stats_text",
    "terminal_width",
]

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
    if not totals.asks:
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
    unpriced = f"; {t.unpriced:,} of {t.asks:,} asks unpriced" if t.unpriced else ""
    return f"Paid {format_sum(t.paid_usd, unpriced=t.unpriced)}{by}{unpriced}."


def _net(t: Totals) -> str:
    """What hits and prompt caching saved together; said only where it is more than the column ``saved``."""
    team = f" ({format_usd(t.shared_saved_usd)} of it by the team)" if t.shared_hits else ""
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


_LONG_WORD: Final = 20
"""Characters between two hyphens above which a word is broken, lest the table grow wider than its page."""


class Head(NamedTuple):
    """A column's short name, what it means, and whether it holds text (flush left)."""

    name: str
    title: str
    left: bool = False


class Cell(NamedTuple):
    """What a cell shows, and what it says when pointed at; an empty title says nothing more."""

    text: str
    title: str = ""


class Table(NamedTuple):
    """A table as it is shown.

    Attributes:
        heads: The columns.
        rows: The rows that are shown, each with a cell for every column.
        cut_at: Before which of them rows are left out; counts only where `left_out` isn't 0.
        left_out: How many rows are.
        notes: Lines below the table, as plain text.
        nothing: What is shown instead where there are no rows.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    cut_at: int
    left_out: int
    notes: Sequence[str]
    nothing: str


def html(table: Table) -> str:
    """The table as HTML, with the exact values as titles."""
    if not table.rows:
        return f"<div>{_in_html(table.nothing)}</div>"
    heads = "".join(_head(head) for head in table.heads)
    rows = ["".join(map(_cell, row, table.heads)) for row in table.rows]
    if table.left_out:
        rows.insert(table.cut_at, f'<td colspan="{len(table.heads)}">{left_out(table)}</td>')
    lines = "\n".join(f"<tr>{row}</tr>" for row in (heads, *rows))
    notes = "\n".join(f'<div style="font-size: smaller">{_in_html(note)}</div>' for note in table.notes)
    return f'<div>\n<table border="1" class="dataframe">\n{lines}\n</table>\n{notes}\n</div>'


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown; it needs no style, and says the same."""
    if not table.rows:
        return _in_markdown(table.nothing)
    rows = [[_in_markdown(cell.text) for cell in row] for row in table.rows]
    if table.left_out:
        rows.insert(table.cut_at, [left_out(table), *[""] * (len(table.heads) - 1)])
    heads = [_in_markdown(head.name) for head in table.heads]
    rule = [":--" if head.left else "--:" for head in table.heads]
    lines = [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]
    return "\n".join(lines) + "\n\n" + "  \n".join(_in_markdown(note) for note in table.notes)


def left_out(table: Table) -> str:
    """What stands in the place of the rows that are left out."""
    return f"… and {table.left_out:,} more …"


def _head(head: Head) -> str:
    side = "left" if head.left else "right"
    style = f' style="text-align: {side}; border-bottom: 1px solid"'
    return f'<td role="columnheader"{style}{_title(head.title)}><b>{_in_html(head.name)}</b></td>'


def _cell(cell: Cell, head: Head) -> str:
    styles = ["text-align: left"] if head.left else []
    if any(len(word) > _LONG_WORD for word in cell.text.replace("-", " ").split()):
        styles.append("overflow-wrap: anywhere")
    style = f' style="{"; ".join(styles)}"' if styles else ""
    title = _title(cell.title) if cell.title != cell.text else ""
    return f"<td{style}{title}>{_in_html(cell.text)}</td>"


def _title(text: str) -> str:
    # A page that takes mathematics out before it reads HTML would find it in attributes too.
    return f' title="{escape_html(text).replace("$", "&#36;")}"' if text else ""


def _in_html(text: str) -> str:
    escaped = escape_html(text)
    together = escaped.replace("≥ ", "≥&nbsp;").replace("≈ ", "≈&nbsp;")
    return together.replace("\\", "<span>&#92;</span>").replace("$", "<span>&#36;</span>")


def _in_markdown(text: str) -> str:
    escaped = escape_markdown(text)
    return escaped.replace("&#92;", "<span>&#92;</span>").replace("&#36;", "<span>&#36;</span>")


_USUAL_WIDTH: Final = 80
_LEAST_ROOM: Final = 12


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none, so that a saved notebook is the same everywhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _USUAL_WIDTH


def facts_text(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other."""
    width = max(len(name) for name, _ in facts) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in facts)


def rows_text(table: Table, picked: Sequence[int], *, wide: int, left: Container[int]) -> str:
    """Some columns of a table, as lines that fit the terminal.

    Args:
        table: The table.
        picked: Its columns that are shown, in this order.
        wide: Which of these is cut to the room that the others leave.
        left: Which of these are flush left.
    """
    rows = [[table.heads[at].name for at in picked], *([row[at].text for at in picked] for row in table.rows)]
    others = sum(max(map(len, column)) + 2 for at, column in enumerate(zip(*rows, strict=True)) if at != wide)
    room = max(terminal_width() - 1 - others, _LEAST_ROOM)
    lines = aligned([[*row[:wide], one_line(row[wide], room), *row[wide + 1 :]] for row in rows], left=left)
    if table.left_out:
        lines.insert(1 + table.cut_at, left_out(table))
    return "\n".join(lines)


def notes_text(notes: Sequence[str]) -> str:
    """Sentences, each wrapped to the terminal."""
    width = terminal_width() - 1
    return "\n".join(textwrap.fill(note, width, subsequent_indent="  ") for note in notes)


def aligned(rows: Sequence[Sequence[str]], *, left: Container[int]) -> list[str]:
    """Rows as lines in columns; those of `left` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


_HEADS: Final = {
    "asks": ("asks", "asks of every kind, failed ones too"),
    "calls": ("calls", "asks that made a call"),
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
_TELLING: Final = ("asks", "hits", "hit_rate", "paid_usd", "saved_usd", "unpriced")
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
        heads=[_stat_head(column) for column in columns],
        rows=[[_stat_cell(column, row) for column in columns] for row in rows],
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


def _stat_head(column: str) -> Head:
    if column not in _HEADS:
        return Head(column, column, left=True)
    name, meaning = _HEADS[column]
    return Head(name, f"{column}: {meaning}")


def _stat_cell(column: str, row: Mapping[str, Any]) -> Cell:
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


_ENTRY_HEADS: Final = (
    Head("key", "key: its first digits are enough for the magics", left=True),
    Head("created", "created: when it was stored, local time (UTC in the DataFrame)", left=True),
    Head("model", "model: that was asked for", left=True),
    Head("prompt", "prompt: how the last message of the user begins", left=True),
    Head("answer", "answer: how it begins", left=True),
    Head("tokens", "prompt_tokens → completion_tokens"),
    Head("cost", "cost_usd: what buying it cost; cost_source where the reply did not say it"),
    Head("hits", "hits: how often it was served instead of a call"),
    Head("saved", "saved_usd: what these hits would have cost"),
    Head("ttl", "ttl_s: how long it is served; - is for ever"),
    Head("tags", "tags: its labels", left=True),
    Head("size", "size_bytes: of the entry and its request, as stored"),
    Head("notebook", "notebook: where it was asked from", left=True),
)
_ENTRY_TELLING: Final = ("key", "created", "model", "cost", "hits", "prompt")
"""The columns that fit a terminal."""

_KEY_WIDTH: Final = 10
_NAME_WIDTH: Final = 60
_MODEL_WIDTH: Final = 20
_TITLE_WIDTH: Final = 200


def entries_table(
    rows: Sequence[Mapping[str, Any]],
    now: datetime,
    notes: Sequence[str],
    cut_at: int,
    left_out: int,
    *,
    width: int,
) -> Table:
    """The entries as a table.

    Args:
        rows: The rows that are shown, by column of the DataFrame; a missing value is None.
        now: For what is expired.
        notes: Lines below them.
        cut_at: Before which row others are left out.
        left_out: How many.
        width: Characters of prompt and answer that are shown.
    """
    cells = [_cells(row, now, width) for row in rows]
    picked = [
        at for at, head in enumerate(_ENTRY_HEADS) if _tells(head.name, {row[at].text for row in cells})
    ]
    return Table(
        heads=[_ENTRY_HEADS[at] for at in picked],
        rows=[[row[at] for at in picked] for row in cells],
        cut_at=cut_at,
        left_out=left_out,
        notes=notes,
        nothing="no entries",
    )


def entries_text(table: Table) -> str:
    """The entries for a terminal: what fits of each in a line."""
    if not table.rows:
        return table.nothing
    names = [head.name for head in table.heads]
    model = names.index("model")
    rows = [[*row[:model], _short_model(row[model]), *row[model + 1 :]] for row in table.rows]
    picked = [names.index(name) for name in _ENTRY_TELLING]
    shown = rows_text(
        table._replace(rows=rows), picked, wide=len(picked) - 1, left=(0, 1, 2, len(picked) - 1)
    )
    return "\n\n".join(filter(None, (shown, notes_text(table.notes))))


def _tells(name: str, texts: AbstractSet[str]) -> bool:
    """Whether a column says something: often nothing has a label, and all were asked in one notebook."""
    if name == "notebook":
        return len(texts) > 1
    return name not in ("ttl", "tags") or not texts <= {"", NOTHING}


def _short_model(cell: Cell) -> Cell:
    return Cell(one_line(cell.text.rpartition("/")[2], _MODEL_WIDTH))


def _cells(row: Mapping[str, Any], now: datetime, width: int) -> list[Cell]:
    model, provider, cost = row["model"], row["provider"], row["cost_usd"]
    source, last_hit = format_source(row["cost_source"]), row["last_hit"]
    return [
        Cell(row["key"][:_KEY_WIDTH], row["key"]),
        Cell(format_time(row["created"], now), format_moment(row["created"])),
        Cell(one_line(model, _NAME_WIDTH), f"{model}, served by {provider}" if provider else model),
        Cell(one_line(row["prompt"], width), one_line(row["prompt"], _TITLE_WIDTH)),
        Cell(one_line(row["answer"], width), one_line(row["answer"], _TITLE_WIDTH)),
        Cell(" → ".join(_entry_count(row[name]) for name in ("prompt_tokens", "completion_tokens"))),
        Cell(
            f"{format_dollars(cost)} {'' if cost is None else source}".rstrip(),
            f"{format_exact(cost)} {row['cost_source']}".strip(),
        ),
        Cell(_entry_count(row["hits"]), f"last {format_moment(last_hit)}" if last_hit is not None else ""),
        Cell(format_dollars(row["saved_usd"]) if row["hits"] else NOTHING, format_exact(row["saved_usd"])),
        _ttl(row["created"], row["ttl_s"], now),
        Cell(one_line(row["tags"], _NAME_WIDTH), row["tags"]),
        Cell(format_size(row["size_bytes"]), f"{row['size_bytes']:,} bytes"),
        Cell(one_line(row["notebook"], _NAME_WIDTH), row["notebook"]),
    ]


def _ttl(created: datetime, ttl_s: float | None, now: datetime) -> Cell:
    if ttl_s is None:
        return Cell(NOTHING)
    try:
        until = created + timedelta(seconds=ttl_s)
    except OverflowError:
        return Cell(format_length(ttl_s))
    over = ", expired" if until <= now else ""
    return Cell(format_length(ttl_s) + over, f"until {format_moment(until)}")


def _entry_count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
