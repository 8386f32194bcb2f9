"""The panel's face: every widget in its place, and how what was read is shown in them. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from or_cache_magic.panels.actions import Actions
from or_cache_magic.panels.callbacks import alert_html
from or_cache_magic.panels.chart import chart_svg
from or_cache_magic.panels.controls import Controls
from or_cache_magic.panels.figures import BREAKDOWNS, tiles
from or_cache_magic.panels.makers import Makers
from or_cache_magic.panels.markup import escape
from or_cache_magic.panels.style import STYLE
from or_cache_magic.panels.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from or_cache_magic.panels.figures import Breakdown, Figures, Moment
    from or_cache_magic.panels.state import Listing
    from or_cache_magic.panels.static import Snapshot

_NONE_YET: Final = "Nothing is cached yet: run a <code>%%openrouter</code> cell."
_NO_MATCH: Final = "No entry matches."
_KEY: Final = (
    '<div class="orc-key" aria-hidden="true"><span><i></i>saved in all ($, left)</span>'
    '<span><i class="orc-dashed"></i>hit rate (%, right)</span></div>'
)
_NAME_WIDTH: Final = 60


class Face:
    """The widgets of a panel, from top to bottom in the order in which Tab reaches them.

    Args:
        on_pick: Called with an entry's key and whether it was checked.
        on_page: The same for the keys of the whole page.
        on_open: Called with the key of the entry to be shown whole.

    Its widgets are attributes: what is shown is their ``value``.
    """

    def __init__(
        self,
        *,
        on_pick: Callable[[str, bool], None],
        on_page: Callable[[Sequence[str], bool], None],
        on_open: Callable[[str], None],
    ) -> None:
        makers = Makers()
        self.scope = makers.dropdown("Figures", (("all time", False), ("this session", True)), "190px")
        self.by = makers.dropdown("By", [(by, by) for by in BREAKDOWNS], "170px")
        self.refresh = makers.button("Refresh", tooltip="Read the completion cache again")
        self.controls = Controls(makers)
        self.table = Table(makers, on_pick=on_pick, on_page=on_page, on_open=on_open)
        self.previous, self.next = makers.button("Previous"), makers.button("Next")
        self.actions = Actions(makers)
        self.close_detail = makers.button("Close details")
        self.status, self.note_line, self.alert_box, self.tiles = (makers.html() for _ in range(4))
        self.chart, self.groups = makers.html(flex="3 1 440px"), makers.html(flex="1 1 auto")
        self.detail = makers.html()
        self.detail_box = makers.column(
            makers.row(self.close_detail), self.detail, classes=["orc-detail"], hidden=True
        )
        self._makers = makers
        self.box = makers.column(
            makers.html(STYLE),
            makers.wrapped(self.scope, self.by, self.refresh, self.note_line),
            self.tiles,
            makers.wrapped(self.chart, self.groups),
            self.controls.box,
            self.table.box,
            makers.wrapped(self.previous, self.next, self.status),
            self.actions.box,
            self.alert_box,
            self.actions.confirm,
            self.detail_box,
            classes=["orc"],
        )

    def show_figures(self, shown: Snapshot) -> None:
        """Shows tiles, chart (the last one until there is another) and sums."""
        self.tiles.value = tiles_html(shown.figures)
        if shown.figures.timeline is not None:
            self.chart.value = chart_html(shown.figures.timeline)
        self.groups.value = breakdown_html(shown.groups)

    def show_page(self, shown: Snapshot, listing: Listing, picked: Collection[str], now_s: float) -> None:
        """Shows a page of entries."""
        nothing = _NO_MATCH if shown.figures.entries else _NONE_YET
        self.table.show(shown.rows, listing.view, picked, now_s, nothing)
        self.previous.disabled = listing.page == 0
        self.next.disabled = listing.page >= listing.pages - 1

    def count(self, listing: Listing, selected: int) -> None:
        """Says how many entries match and are selected."""
        chosen = f" · {selected:,} selected" if selected else ""
        self.say(f"{listing.count:,} matching · page {listing.page + 1:,} of {listing.pages:,}{chosen}")
        self.actions.count(listing.count, selected)

    def say(self, text: str) -> None:
        """Says what is matched, or what is being done about it."""
        self.status.value = _status(text)

    def note(self, text: str) -> None:
        """Says what was done."""
        self.note_line.value = _status(text) if text else ""

    def alert(self, exc: Exception | None) -> None:
        """Shows an error, or takes it away."""
        self.alert_box.value = "" if exc is None else alert_html(exc)

    def open_detail(self, value: str) -> None:
        """Shows an entry whole, as HTML; empty hides it."""
        self.detail.value = value
        self.detail_box.layout.display = "flex" if value else "none"
        if value:
            self.close_detail.focus()

    def close(self) -> None:
        """Takes every widget out of memory."""
        self._makers.close()


def _status(text: str) -> str:
    return f'<div class="orc-status" role="status" aria-live="polite">{escape(text)}</div>'


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
