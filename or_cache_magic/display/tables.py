"""A table as HTML and as Markdown: what a notebook shows, saves and takes to other places.

The texts in it are strangers' (prompts, answers, names). Everything is escaped, and what MathJax could pair
(``$`` and the backslash) stands in an element of its own: it does not look for delimiters across elements.
The HTML is of the few tags that every sanitiser leaves: others (``<style>``, ``<th>``, ``<br>``) nbconvert's
would show as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from or_cache_magic.display.escape import escape_html, escape_markdown

__all__ = ["Cell", "Head", "Table", "html", "left_out", "markdown"]

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
