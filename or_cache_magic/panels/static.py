"""The panel where there are no widgets: a Markdown table for saved notebooks, text for terminals.

Markdown, since GitHub and nbconvert's sanitiser show it whole; they strip styles and SVG, or spill them.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.display.entries import entries_table, entry_values
from or_cache_magic.display.escape import escape_markdown, one_line, printable
from or_cache_magic.display.tables import Head, Table, markdown_table, table_of, text
from or_cache_magic.display.tables import markdown as table_markdown
from or_cache_magic.panels.chart import sparkline
from or_cache_magic.panels.figures import BREAKDOWNS, breakdown, complete, gather, tiles
from or_cache_magic.panels.state import Listing, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.panels.figures import Breakdown, Figures

_ROWS: Final = 10
_INSTALL: Final = (
    "To browse and purge here, install ipywidgets (pip install ipywidgets) and restart the kernel."
)
_IN_A_NOTEBOOK: Final = ("key", "created", "model", "prompt", "tokens", "cost", "hits")
_GROUP_WIDTH: Final = 34
_PROMPT_WIDTH: Final = 60
_NOTE_WIDTH: Final = 53
"""What a terminal of 80 columns has beside a figure."""


class Snapshot(NamedTuple):
    """What the panel showed at a moment: enough to write it down.

    Attributes:
        figures: The tiles' and the chart's.
        groups: The sums by one of `figures.BREAKDOWNS`.
        rows: The first entries of the table.
        matching: How many entries it has in all.
        now_s: The moment, UTC epoch seconds.
    """

    figures: Figures
    groups: Breakdown
    rows: Sequence[EntryRow]
    matching: int
    now_s: float


def snapshot(cache: CompletionCache) -> Snapshot:
    """How things stand now: all entries, newest first, the sums by model.

    Raises:
        StoreError: The file can't be read.
    """
    figures = complete(cache, gather(cache))
    listing = Listing(cache.store.listing, cache.clock, _ROWS)
    listing.read(View())
    return Snapshot(figures, breakdown(cache, BREAKDOWNS[0]), listing.rows(), listing.count, cache.clock())


def markdown(shown: Snapshot) -> str:
    """Returns it as Markdown that says every text letter for letter and loads nothing."""
    scope = "this session" if shown.figures.session else "all time"
    figures = tiles(shown.figures)
    values = [f"**{escape_markdown(tile.value)}**" for tile in figures]
    notes = ["<br>".join(map(escape_markdown, tile.notes)) for tile in figures]
    heads = [Head(tile.name, left=True) for tile in figures]
    parts = [f"**Completion cache** · {scope}", markdown_table(heads, [values, notes])]
    if spark := sparkline(shown.figures.timeline or ()):
        parts.append(f"Saved over time: {spark}")
    if shown.groups.rows:
        parts.append(table_markdown(_groups(shown.groups)))
    if shown.rows:
        parts.append(table_markdown(_entries(shown).pick(_IN_A_NOTEBOOK)))
    return "\n\n".join(parts)


def plain(shown: Snapshot) -> str:
    """Returns it as text that fits the terminal and does not steer it."""
    lines = [f"completion cache · {'this session' if shown.figures.session else 'all time'}"]
    for tile in tiles(shown.figures):
        notes = [line for note in tile.notes for line in textwrap.wrap(note, _NOTE_WIDTH)]
        first, *others = notes or [""]
        lines.append(f"  {tile.name:<10}{tile.value:<14}{first}".rstrip())
        lines += [f"{'':<26}{note}" for note in others]
    if spark := sparkline(shown.figures.timeline or ()):
        lines.append(f"  {'over time':<10}{spark}")
    if shown.groups.rows:
        lines += ["", text(_groups(shown.groups))]
    if shown.rows:
        lines += ["", text(_entries(shown))]
    return printable("\n".join(lines))


def _groups(groups: Breakdown) -> Table:
    rows = [(one_line(name, _GROUP_WIDTH), *sums) for name, *sums in groups.rows]
    heads = (groups.by, "asks", "hit rate", "paid", "saved")
    return table_of(heads, rows, left=1, left_out=groups.more)


def _entries(shown: Snapshot) -> Table:
    rows = [entry_values(row) for row in shown.rows[:_ROWS]]
    more = shown.matching - len(rows)
    table = entries_table(rows, now_s=shown.now_s, width=_PROMPT_WIDTH)
    return table._replace(cut_at=len(rows), left_out=more)


class Still:
    """The panel where ipywidgets are missing: the figures of the moment, and how to get the rest.

    Args:
        cache: What it shows.
    """

    def __init__(self, cache: CompletionCache) -> None:
        self.cache = cache

    def frame(self) -> pd.DataFrame:
        """All entries, newest first, as a DataFrame; see `display.entries.ENTRY_TYPES`."""
        from or_cache_magic.display.frames import entries_frame

        return entries_frame(self.cache.store.listing.find())

    def __repr__(self) -> str:
        return f"{plain(snapshot(self.cache))}\n\n{_INSTALL}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        shown = snapshot(self.cache)
        return {
            "text/plain": f"{plain(shown)}\n\n{_INSTALL}",
            "text/markdown": f"{markdown(shown)}\n\n{escape_markdown(_INSTALL)}",
        }
