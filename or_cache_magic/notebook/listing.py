"""The tables as a terminal shows them: readable at 80 columns. The values stay whole DataFrames."""

from __future__ import annotations

import shutil
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.markdown import one_line
from or_cache_magic.render import format_usd

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["entries_text", "settings_text", "stats_text", "warm_text"]

_ROWS: Final = 20
"""Entries that are listed; more would scroll the newest away."""

_KEY_WIDTH: Final = 10
_MODEL_WIDTH: Final = 24
_LEAST_PROMPT: Final = 12


def stats_text(frame: pd.DataFrame) -> str:
    """Statistics: one row as a column of names and values, groups as a table of the telling columns."""
    if frame.columns[0] == "calls":
        row = frame.iloc[0]
        return "\n".join(f"{name:<24}{_stat(name, row[name])}" for name in frame.columns)
    if frame.empty:
        return "nothing asked yet"
    names = [frame.columns[0], "calls", "hits", "hit_rate", "paid_usd", "saved_usd", "unpriced"]
    rows = [
        [_stat(name, value) for name, value in zip(names, row, strict=True)] for row in _rows(frame, names)
    ]
    return _aligned([names, *rows], first_left=1)


def entries_text(frame: pd.DataFrame) -> str:
    """Entries, newest first: what fits of each in a line; the first 20."""
    if frame.empty:
        return "no entries"
    names = ["key", "created", "model", "cost_usd", "hits", "prompt"]
    rows = [
        [
            key[:_KEY_WIDTH],
            f"{created:%m-%d %H:%M}",
            one_line(model.rpartition("/")[2], _MODEL_WIDTH),
            _stat("cost_usd", cost),
            f"{hits:,}",
            prompt,
        ]
        for key, created, model, cost, hits, prompt in _rows(frame.head(_ROWS), names)
    ]
    table = [["key", "UTC", "model", "cost", "hits", "prompt"], *rows]
    used = sum(max(len(row[at]) for row in table) + 2 for at in range(len(names) - 1))
    room = max(shutil.get_terminal_size().columns - 1 - used, _LEAST_PROMPT)
    text = _aligned([[*row[:-1], one_line(row[-1], room)] for row in table], first_left=3, last_left=True)
    rest = len(frame) - _ROWS
    return f"{text}\n… and {rest:,} more; _ is the DataFrame with all of them" if rest > 0 else text


def settings_text(frame: pd.DataFrame) -> str:
    """Settings: name, value, and where the value came from."""
    rows = [
        [str(name), "none" if value is None else str(value), origin]
        for name, value, origin in frame.itertuples()
    ]
    return _aligned([["setting", "value", "origin"], *rows], first_left=2, last_left=True)


def warm_text(frame: pd.DataFrame) -> str:
    """What a list of prompts came to: the errors; the first 20."""
    wrong = frame[frame["error"] != ""]
    if wrong.empty:
        return "nothing failed; _ is the DataFrame"
    room = max(shutil.get_terminal_size().columns - 20, _LEAST_PROMPT)
    rows = [
        [str(at), kind, one_line(error, room)]
        for at, kind, error in wrong.head(_ROWS)[["kind", "error"]].itertuples(name=None)
    ]
    text = _aligned([["row", "kind", "error"], *rows], first_left=2, last_left=True)
    rest = len(wrong) - _ROWS
    return f"{text}\n… and {rest:,} more; _ is the DataFrame with all of them" if rest > 0 else text


def _rows(frame: pd.DataFrame, names: list[str]) -> Any:
    return frame[names].itertuples(index=False, name=None)


def _stat(name: str, value: Any) -> str:
    """A statistic as people read it; a dash where there is nothing to tell."""
    if isinstance(value, str):
        return one_line(value, 40)
    if value != value:  # noqa: PLR0124 - not a number
        return "-"
    if name.startswith("hit_rate"):
        return f"{value:.0%}"
    if name.endswith("_usd"):
        return format_usd(Decimal(repr(float(value))))
    return f"{value:,.0f}"


def _aligned(rows: list[list[str]], *, first_left: int, last_left: bool = False) -> str:
    """`rows` in columns; the first so many, and the last if said, flush left, the others flush right."""
    count = len(rows[0])
    widths = [max(len(row[at]) for row in rows) for at in range(count)]
    left = [at < first_left or (last_left and at == count - 1) for at in range(count)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if flush else cell.rjust(width)
            for cell, width, flush in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    )
