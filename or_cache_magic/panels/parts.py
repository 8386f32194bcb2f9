"""The panel's figures as HTML: tiles, the chart with its key, sums by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from or_cache_magic.panels.chart import chart_svg
from or_cache_magic.panels.figures import tiles
from or_cache_magic.panels.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.panels.figures import Breakdown, Figures, Moment

_KEY: Final = (
    '<div class="orc-key" aria-hidden="true"><span><i></i>saved in all ($, left)</span>'
    '<span><i class="orc-dashed"></i>hit rate (%, right)</span></div>'
)
_NAME_WIDTH: Final = 60


def tiles_html(figures: Figures) -> str:
    """The tiles, each a term and what it comes to."""
    parts = []
    for tile in tiles(figures):
        kind = " orc-saved-tile" if tile.name == "saved" else ""
        notes = "".join(f"<dd>{escape(note)}</dd>" for note in tile.notes)
        parts.append(
            f'<div class="orc-tile{kind}"><dt>{escape(tile.name)}</dt>'
            f'<dd class="orc-value">{escape(tile.value)}</dd>{notes}</div>'
        )
    return f'<dl class="orc-tiles">{"".join(parts)}</dl>'


def chart_html(timeline: Sequence[Moment]) -> str:
    """The chart and what its lines are; a line of text while there is nothing to draw."""
    chart = chart_svg(timeline)
    return chart + _KEY if chart else '<div class="orc-empty">Nothing asked yet.</div>'


def breakdown_html(groups: Breakdown) -> str:
    """The sums by group."""
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in (groups.by, "asks", "hit rate", "paid", "saved")
    )
    rows = "".join(
        f'<tr><th scope="row" title="{escape(name, 300)}">{escape(name, _NAME_WIDTH)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in groups.rows
    )
    more = f"<div>… and {groups.more:,} more</div>" if groups.more else ""
    return (
        f'<div class="orc-by"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{more}</div>'
    )
