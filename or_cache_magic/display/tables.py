"""Tables as HTML, as Markdown and as text: the one way in which rows are shown, in cells, files and shells.

The texts in them are strangers' (prompts, answers, names). Everything is escaped, and what MathJax could pair
(``$`` and the backslash) stands in an element of its own: it does not look for delimiters across elements.
The HTML is of the few tags that every sanitiser leaves: others (``<style>``, ``<th>``, ``<br>``) nbconvert's
would show as text.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from or_cache_magic.display.escape import escape_html, escape_markdown, one_line, printable

_LONG_WORD: Final = 20
"""Characters between two hyphens above which a word is broken, lest the table grow wider than its page."""

_USUAL_WIDTH: Final = 80
_LEAST_ROOM: Final = 12


class Head(NamedTuple):
    """A column's short name, what it means, and whether it is flush left."""

    name: str
    title: str = ""
    left: bool = False


class Cell(NamedTuple):
    """What a cell shows; what it says when pointed at, and in a terminal, where that is something else."""

    text: str
    title: str = ""
    short: str = ""


Row = Mapping[str, Any]
"""What a row of a DataFrame holds, by column: times in UTC epoch seconds, None for what is missing."""

Column = tuple[Head, Callable[[Row], Cell]]
"""A column, and how its cell of a row is shown."""


class Table(NamedTuple):
    """A table as it is shown.

    Attributes:
        heads: The columns.
        rows: The rows that are shown, each with a cell for every column.
        notes: Lines below the table, as plain text.
        nothing: What is shown instead where there are no rows.
        cut_at: Before which of the rows others are left out; counts only where `left_out` isn't 0.
        left_out: How many rows are.
        narrow: The names of the columns that a terminal shows, in this order; none is all of them.
        wide: Which of these is cut to the room that the others leave; empty is none.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    nothing: str = ""
    cut_at: int = 0
    left_out: int = 0
    narrow: Sequence[str] = ()
    wide: str = ""

    @classmethod
    def of(cls, columns: Sequence[Column], rows: Iterable[Row]) -> Table:
        """Return the table of these columns and rows."""
        return cls([head for head, _ in columns], [[cell(row) for _, cell in columns] for row in rows])

    def pick(self, names: Container[str]) -> Table:
        """Return the table with the columns of these names alone."""
        picked = [at for at, head in enumerate(self.heads) if head.name in names]
        rows = [[row[at] for at in picked] for row in self.rows]
        return self._replace(heads=[self.heads[at] for at in picked], rows=rows)


def table_of(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 0,
    left_out: int = 0,
    wide: str = "",
) -> Table:
    """Return a table of texts, whose first so many columns are flush left, with rows left out at its end."""
    cells = [[*map(Cell, row)] for row in rows]
    named = [Head(name, left=at < left) for at, name in enumerate(heads)]
    return Table(named, cells, cut_at=len(cells), left_out=left_out, wide=wide)


def html(table: Table) -> str:
    """Return the table as HTML, with the exact values as titles."""
    if not table.rows:
        return f"<div>{_in_html(table.nothing)}</div>"
    heads = "".join(map(_head_html, table.heads))
    rows = ["".join(map(_cell_html, row, table.heads)) for row in table.rows]
    if table.left_out:
        rows.insert(table.cut_at, f'<td colspan="{len(table.heads)}">{_left_out(table)}</td>')
    lines = "\n".join(f"<tr>{row}</tr>" for row in (heads, *rows))
    notes = "\n".join(f'<div style="font-size: smaller">{_in_html(note)}</div>' for note in table.notes)
    return f'<div>\n<table border="1" class="dataframe">\n{lines}\n</table>\n{notes}\n</div>'


def markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown; it needs no style, and says the same."""
    if not table.rows:
        return escape_markdown(table.nothing)
    rows = [[escape_markdown(cell.text) for cell in row] for row in table.rows]
    if table.left_out:
        rows.insert(table.cut_at, [_left_out(table), *[""] * (len(table.heads) - 1)])
    heads = [head._replace(name=escape_markdown(head.name)) for head in table.heads]
    notes = "  \n".join(map(escape_markdown, table.notes))
    return "\n\n".join(filter(None, (markdown_table(heads, rows), notes)))


def markdown_table(heads: Sequence[Head], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose names and cells are Markdown already."""
    rule = [":--" if head.left else "--:" for head in heads]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([head.name for head in heads], rule, *rows))


def text(table: Table) -> str:
    """Return the table as lines that fit the terminal."""
    if not table.rows:
        return printable(table.nothing)
    names = [head.name for head in table.heads]
    picked = [names.index(name) for name in table.narrow or names]
    rows = [[names[at] for at in picked]]
    rows += [[row[at].short or row[at].text for at in picked] for row in table.rows]
    if table.wide:
        wide = picked.index(names.index(table.wide))
        columns = enumerate(zip(*rows, strict=True))
        others = sum(max(map(len, column)) + 2 for at, column in columns if at != wide)
        room = max(terminal_width() - 1 - others, _LEAST_ROOM)
        for row in rows:
            row[wide] = one_line(row[wide], room)
    lines = _aligned(rows, [table.heads[at].left for at in picked])
    if table.left_out:
        lines.insert(1 + table.cut_at, _left_out(table))
    return printable(_with_notes("\n".join(lines), table.notes))


def facts_text(facts: Iterable[tuple[str, str]], notes: Sequence[str] = ()) -> str:
    """Return names and values below each other, as text."""
    return printable(_with_notes("\n".join(_aligned(list(facts), (True, True))), notes))


def terminal_width() -> int:
    """Return the terminal's columns; 80 where there is none, so that saved notebooks are alike everywhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _USUAL_WIDTH


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    put = [str.ljust if flush_left else str.rjust for flush_left in left]
    return [
        "  ".join(align(cell, width) for align, cell, width in zip(put, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _with_notes(shown: str, notes: Sequence[str]) -> str:
    width = terminal_width() - 1
    below = "\n".join(textwrap.fill(note, width, subsequent_indent="  ") for note in notes)
    return "\n\n".join(filter(None, (shown, below)))


def _left_out(table: Table) -> str:
    return f"… and {table.left_out:,} more …"


def _head_html(head: Head) -> str:
    side = "left" if head.left else "right"
    style = f' style="text-align: {side}; border-bottom: 1px solid"'
    return f'<td role="columnheader"{style}{_title(head.title)}><b>{_in_html(head.name)}</b></td>'


def _cell_html(cell: Cell, head: Head) -> str:
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
    together = escape_html(text).replace("≥ ", "≥&nbsp;").replace("≈ ", "≈&nbsp;")
    return together.replace("\\", "<span>&#92;</span>").replace("$", "<span>&#36;</span>")
