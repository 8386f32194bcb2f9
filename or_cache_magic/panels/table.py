"""The panel's table: a fixed pool of rows that turning a page fills anew.

A row is a check box, a button that opens the entry, and its cells as HTML. A page is two messages a row,
since the boxes are numbered by their place on it; new widgets would be eight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import ipywidgets as w

from or_cache_magic.panels.rows import head_html, row_html

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.panels.makers import Makers
    from or_cache_magic.panels.state import View

_KEY_SHOWN: Final = 10
_NOTHING: Final = '<div class="orc-empty">{}</div>'


class _Row:
    """One of the pool, and the entry that it shows."""

    def __init__(self, makers: Makers, key: str, cells: str, place: int, *, picked: bool) -> None:
        self.key = key
        self.check = makers.make(
            w.Checkbox, css=_CHECK, description=f"#{place:,}", value=picked, indent=False
        )
        self.open = makers.make(
            w.Button, css=_OPEN, description=key[:_KEY_SHOWN], tooltip="Show this entry whole"
        )
        self.cells = makers.html(cells, **_CELLS)
        self.box = makers.row(self.check, self.open, self.cells, classes=_classes(picked), width="auto")

    def show(self, key: str, cells: str, *, picked: bool) -> None:
        self.key = key
        self.check.value = picked
        self.open.description = key[:_KEY_SHOWN]
        self.cells.value = cells
        self.mark(picked)

    def mark(self, picked: bool) -> None:
        classes = _classes(picked)
        if self.box._dom_classes != classes:  # noqa: SLF001
            self.box._dom_classes = classes  # noqa: SLF001


class Table:
    """A page of entries.

    Args:
        makers: Makes the widgets.
        on_pick: Called with an entry's key and whether it was checked, by the user or by `show`.
        on_page: The same for the keys of the whole page.
        on_open: Called with the key of the entry whose button was pressed.
    """

    def __init__(
        self,
        makers: Makers,
        *,
        on_pick: Callable[[str, bool], None],
        on_page: Callable[[Sequence[str], bool], None],
        on_open: Callable[[str], None],
    ) -> None:
        self._makers = makers
        self._on_pick, self._on_open = on_pick, on_open
        #: The rows there are so far; the first `len(keys)` of them are shown.
        self.pool: list[_Row] = []
        #: The keys that are shown.
        self.keys: list[str] = []
        self.whole_page = makers.make(
            w.Checkbox, css=_HEAD_CHECK, description="all on this page", indent=False
        )
        self.whole_page.observe(lambda change: on_page(self.keys, change["new"]), "value")
        self.heads = makers.html("", **_CELLS)
        self._head = makers.row(self.whole_page, self.heads, classes=["orc-head"], width="auto")
        self.empty = makers.html()
        self.box = makers.column(self._head, self.empty, classes=["orc-rows"], width="auto")

    def show(
        self,
        rows: Sequence[EntryRow],
        view: View,
        picked: Collection[str],
        now_s: float,
        nothing: str,
    ) -> None:
        """Shows a page.

        Args:
            rows: Its entries.
            view: How they are ordered.
            picked: The keys that are selected.
            now_s: UTC epoch seconds, for ages.
            nothing: What to say when there are none.
        """
        self.keys = [row.key for row in rows]
        for at, row in enumerate(rows):
            cells, on = row_html(row, now_s), row.key in picked
            if at < len(self.pool):
                self.pool[at].show(row.key, cells, picked=on)
            else:
                self._add(_Row(self._makers, row.key, cells, at + 1, picked=on))
        self.heads.value = head_html(view.order, descending=view.descending)
        self.empty.value = "" if rows else _NOTHING.format(nothing)
        self.whole_page.value = bool(rows) and all(key in picked for key in self.keys)
        shown = [row.box for row in self.pool[: len(rows)]] or [self.empty]
        self.box.children = (self._head, *shown)

    def mark(self, picked: Collection[str]) -> None:
        """Marks those of the page that are selected."""
        for row, key in zip(self.pool, self.keys, strict=False):
            row.check.value = key in picked
            row.mark(key in picked)
        self.whole_page.value = bool(self.keys) and all(key in picked for key in self.keys)

    def _add(self, row: _Row) -> None:
        # The key is read when the click arrives, not when its turn comes: a refresh may be filling the row.
        row.check.observe(lambda change: self._on_pick(row.key, change["new"]), "value")
        row.open.on_click(lambda _: self._on_open(row.key))
        self.pool.append(row)


def _classes(picked: bool) -> tuple[str, ...]:
    return ("orc-row", "orc-on") if picked else ("orc-row",)


_CHECK: Final = {"width": "56px", "min_width": "56px"}
_HEAD_CHECK: Final = {"width": "136px", "min_width": "136px"}
_OPEN: Final = {"width": "76px", "min_width": "76px"}
_CELLS: Final = {"flex": "1 1 auto", "margin": "0 8px 0 0"}
