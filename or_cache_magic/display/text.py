"""A table as a terminal shows it: readable at 80 columns. The values stay whole DataFrames."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Container, Sequence
from typing import Final

from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Table, left_out

__all__ = ["aligned", "facts_text", "notes_text", "rows_text", "terminal_width"]

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
