"""The panel where there are no widgets: a Markdown table for saved notebooks, text for terminals.

Markdown, since GitHub and nbconvert's sanitiser show it whole; they strip styles and SVG, or spill them.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.display.escape import escape_markdown, one_line, printable
from or_cache_magic.display.frames import entries_frame
from or_cache_magic.panels.chart import sparkline
from or_cache_magic.panels.figures import BREAKDOWNS, breakdown, complete, gather, tiles
from or_cache_magic.panels.markup import cost_text, local_time
from or_cache_magic.panels.rows import tokens_text
from or_cache_magic.panels.state import Listing, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import EntryRow
    from or_cache_magic.panels.figures import Breakdown, Figures

__all__ = ["Snapshot", "Still", "markdown", "plain", "snapshot"]

_ROWS: Final = 10
_GROUP_HEADS: Final = ("asks", "hit rate", "paid", "saved")
_ROW_HEADS: Final = ("key", "created", "model", "prompt", "tokens in → out", "cost", "hits")
_INSTALL: Final = (
    "To browse and purge here, install ipywidgets (pip install ipywidgets) and restart the kernel."
)
_SHORT_HEADS: Final = ("key", "created", "model", "cost", "hits", "prompt")
_KEY_SHOWN: Final = 10
_MODEL_WIDTH: Final = 40
_DAY: Final = len("2026-11-23")
_SHORT_MODEL_WIDTH: Final = 16
_GROUP_WIDTH: Final = 34
_PROMPT_WIDTH: Final = 60
_LEAST_PROMPT: Final = 12


class Snapshot(NamedTuple):
    """What the panel showed at a moment: enough to write it down.

    Attributes:
        figures: The tiles' and the chart's.
        groups: The sums by one of `figures.BREAKDOWNS`.
        rows: The first entries of the table.
        matching: How many entries it has in all.
    """

    figures: Figures
    groups: Breakdown
    rows: Sequence[EntryRow]
    matching: int


def snapshot(cache: CompletionCache) -> Snapshot:
    """How things stand now: all entries, newest first, the sums by model.

    Raises:
        StoreError: The file can't be read.
    """
    figures = complete(cache, gather(cache))
    listing = Listing(cache.store, cache.clock, _ROWS)
    listing.read(View())
    return Snapshot(figures, breakdown(cache, BREAKDOWNS[0]), listing.rows(), listing.count)


def markdown(shown: Snapshot) -> str:
    """Returns it as Markdown that says every text letter for letter and loads nothing."""
    heads, values, notes = [], [], []
    for tile in tiles(shown.figures):
        heads.append(tile.name)
        values.append(f"**{escape_markdown(tile.value)}**")
        notes.append("<br>".join(map(escape_markdown, tile.notes)))
    scope = "this session" if shown.figures.session else "all time"
    parts = [f"**Completion cache** · {scope}", _table([heads, values, notes])]
    if spark := sparkline(shown.figures.timeline or ()):
        parts.append(f"Saved over time: {spark}")
    if shown.groups.rows:
        groups = [[escape_markdown(cell) for cell in row] for row in shown.groups.rows]
        parts.append(_table([[shown.groups.by, *_GROUP_HEADS], *groups]) + _more(shown.groups.more))
    if shown.rows:
        rows = [[escape_markdown(cell) for cell in _cells(row)] for row in shown.rows[:_ROWS]]
        parts.append(_table([list(_ROW_HEADS), *rows]) + _more(shown.matching - len(rows)))
    return "\n\n".join(parts)


def plain(shown: Snapshot) -> str:
    """Returns it as text that fits the terminal and does not steer it."""
    lines = [f"completion cache · {'this session' if shown.figures.session else 'all time'}"]
    for tile in tiles(shown.figures):
        first, *others = tile.notes or ("",)
        lines.append(f"  {tile.name:<10}{tile.value:<14}{first}".rstrip())
        lines += [f"{'':<26}{note}" for note in others]
    if spark := sparkline(shown.figures.timeline or ()):
        lines.append(f"  {'over time':<10}{spark}")
    if shown.groups.rows:
        groups = [(one_line(name, _GROUP_WIDTH), *sums) for name, *sums in shown.groups.rows]
        lines += [
            "",
            *_aligned([(shown.groups.by, *_GROUP_HEADS), *groups], left=1),
            *_rest(shown.groups.more),
        ]
    if shown.rows:
        table = [_SHORT_HEADS, *map(_short_cells, shown.rows[:_ROWS])]
        used = sum(max(map(len, column)) + 2 for column in list(zip(*table, strict=True))[:-1])
        room = max(shutil.get_terminal_size().columns - 3 - used, _LEAST_PROMPT)
        fitting = [(*row[:-1], one_line(row[-1], room)) for row in table]
        lines += ["", *_aligned(fitting, left=3, last_left=True), *_rest(shown.matching - len(table) + 1)]
    return printable("\n".join(lines))


def _cells(row: EntryRow) -> tuple[str, ...]:
    return (
        row.key[:_KEY_SHOWN],
        local_time(row.created_s),
        one_line(row.model, _MODEL_WIDTH),
        one_line(row.prompt, _PROMPT_WIDTH),
        tokens_text(row),
        cost_text(row.cost),
        f"{row.hits:,}",
    )


def _short_cells(row: EntryRow) -> tuple[str, ...]:
    key, created, _, prompt, _, cost, hits = _cells(row)
    return key, created[:_DAY], one_line(row.model.rpartition("/")[2], _SHORT_MODEL_WIDTH), cost, hits, prompt


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _more(count: int) -> str:
    return f"\n\n… and {count:,} more" if count > 0 else ""


def _rest(count: int) -> list[str]:
    return [f"  … and {count:,} more"] if count > 0 else []


def _aligned(rows: Sequence[Sequence[str]], *, left: int, last_left: bool = False) -> list[str]:
    """The rows in columns, the first so many and the last if said flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if at < left or (last_left and at == last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class Still:
    """The panel where ipywidgets are missing: the figures of the moment, and how to get the rest.

    Args:
        cache: What it shows.
    """

    def __init__(self, cache: CompletionCache) -> None:
        self.cache = cache

    def frame(self) -> pd.DataFrame:
        """All entries, newest first, as a DataFrame; see `frames.ENTRY_COLUMNS`."""
        return entries_frame(self.cache.store.find())

    def __repr__(self) -> str:
        return f"{plain(snapshot(self.cache))}\n\n{_INSTALL}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        shown = snapshot(self.cache)
        return {
            "text/plain": f"{plain(shown)}\n\n{_INSTALL}",
            "text/markdown": f"{markdown(shown)}\n\n{escape_markdown(_INSTALL)}",
        }
