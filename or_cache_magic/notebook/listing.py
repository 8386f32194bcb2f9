"""What a terminal shows of the magics' tables: readable at 80 columns. The values stay whole DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from or_cache_magic.display.escape import one_line
from or_cache_magic.display.text import aligned, terminal_width

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["entries_text", "settings_text", "stats_text", "warm_text"]

_ROWS: Final = 20
"""Entries that are listed; more would scroll the newest away."""

_LEAST_PROMPT: Final = 12


def stats_text(frame: pd.DataFrame) -> str:
    """Statistics: one row as a column of names and values, groups as a table of the telling columns."""
    return repr(frame)


def entries_text(frame: pd.DataFrame) -> str:
    """Entries, newest first: what fits of each in a line; the first 20."""
    from or_cache_magic.display.shown import newest_text

    text = newest_text(frame, _ROWS)
    return f"{text}\n_ is the DataFrame with all of them." if len(frame) > _ROWS else text


def settings_text(frame: pd.DataFrame) -> str:
    """Settings: name, value, and where the value came from."""
    rows = [
        [str(name), "none" if value is None else str(value), origin]
        for name, value, origin in frame.itertuples()
    ]
    return "\n".join(aligned([["setting", "value", "origin"], *rows], left=(0, 1, 2)))


def warm_text(frame: pd.DataFrame) -> str:
    """What a list of prompts came to: the errors; the first 20."""
    wrong = frame[frame["error"] != ""]
    if wrong.empty:
        return "nothing failed; _ is the DataFrame"
    room = max(terminal_width() - 20, _LEAST_PROMPT)
    rows = [
        [str(at), kind, one_line(error, room)]
        for at, kind, error in wrong.head(_ROWS)[["kind", "error"]].itertuples(name=None)
    ]
    text = "\n".join(aligned([["row", "kind", "error"], *rows], left=(0, 1, 2)))
    rest = len(wrong) - _ROWS
    return f"{text}\n… and {rest:,} more; _ is the DataFrame with all of them" if rest > 0 else text
