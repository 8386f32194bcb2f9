"""`Clerk`: reads what the panel shows, shows it, and does what its controls ask."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import format_count
from or_cache_magic.panels.actions import NAMED
from or_cache_magic.panels.callbacks import guarded, soon
from or_cache_magic.panels.detail import detail_html
from or_cache_magic.panels.export import propose, write_csv
from or_cache_magic.panels.face import Face
from or_cache_magic.panels.figures import breakdown, complete, gather
from or_cache_magic.panels.selection import Selection
from or_cache_magic.panels.state import Listing
from or_cache_magic.panels.static import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from or_cache_magic.cache.cache import CompletionCache

_AT_ONCE: Final = 20_000
"""Asks up to which all figures are there at once (0.1 s); the chart of more follows the first paint."""

_BUSY_S: Final = 0.2


class Clerk:
    """What is behind the face of a `Panel`. Thread-safe: front ends call back on another thread.

    Args:
        cache: What is shown.
        folder: Where exports are written.
    """

    def __init__(self, cache: CompletionCache, folder: Path) -> None:
        self.cache = cache
        #: Held by whoever changes the panel; see `guarded`.
        self.lock = threading.RLock()
        #: Whether the panel itself is changing its controls; see `guarded`.
        self.quiet = False
        #: What the last callback raised; None when it went well.
        self.error: Exception | None = None
        self._folder = folder
        self._listing = Listing(cache.store.listing, cache.clock)
        self._selection = Selection(cache)
        #: What is shown; None before the first look.
        self.shown: Snapshot | None = None
        self._version: object = None
        self._opened = self._proposed = ""
        self.face = Face(on_pick=self._pick, on_page=self._pick_page, on_open=self._open)
        self._begin()
        self._wire()

    def refresh(self) -> None:
        """Reads everything again.

        Raises:
            StoreError: The completion cache can't be read.
        """
        with self.lock:
            self._read()
            self._selection.prune()
            self._paint()
            self._complete()

    # -- reading and painting -----------------------------------------------------------------

    @guarded
    def _begin(self) -> None:
        self._read()
        self._paint()
        if self.shown is not None and self.shown.figures.totals.asks <= _AT_ONCE:
            self._complete()
        else:
            soon(self._complete_later)

    def _complete_later(self) -> None:
        """Adds what the first paint left out; waits for no callback."""
        if not self.lock.acquire(blocking=False):
            soon(self._complete_later, _BUSY_S)
            return
        try:
            self._complete()
        except Exception as exc:  # noqa: BLE001 - nobody else would see it
            self.alert(exc)
        finally:
            self.lock.release()

    def _complete(self) -> None:
        """Reads and shows the figures that take longer."""
        if self.shown is not None:
            self.shown = self.shown._replace(figures=complete(self.cache, self.shown.figures))
            self._paint_figures()

    def _read(self, *, match: bool = True) -> None:
        """Reads the figures and, unless said otherwise, which entries match."""
        self.cache.ledger.flush()
        # Taken before it is read: what is written meanwhile is found by the next look.
        version = self.cache.database.version()
        self._gather()
        if match:
            self._match()
        else:
            self.face.note("something was asked since this search; Refresh searches again")
        self._version = version

    def _gather(self) -> None:
        session, by = self.face.scope.value, self.face.by.value
        figures = gather(self.cache, session=session)
        groups = breakdown(self.cache, by, session=session)
        self.shown = Snapshot(figures, groups, (), 0, self.cache.clock())

    def _match(self) -> None:
        view = self.face.controls.view()
        if view.text.strip():
            self.face.say("searching …")
        self._listing.read(view)
        self.face.note("")

    def _paint(self) -> None:
        """Shows what was read."""
        index, face = self.cache.store.listing, self.face
        with self._quietly():
            face.controls.offer(index.models(), index.tags())
            if face.controls.view() != self._listing.view:
                self._match()  # what it was narrowed to is gone
            if face.actions.file.value == self._proposed:
                self._propose()
        self._paint_figures()
        self._paint_page()
        if notices := self.cache.database.pop_notices():
            face.note(" · ".join(notices))

    def _paint_figures(self) -> None:
        if self.shown is not None:
            self.face.show_figures(self.shown)

    def _paint_page(self) -> None:
        if self.shown is None:
            return
        listing = self._listing
        self.shown = self.shown._replace(rows=listing.rows(), matching=listing.count)
        with self._quietly():
            self.face.show_page(self.shown, listing, self._selection.keys, self.cache.clock())
        self._paint_counts()

    def _paint_counts(self) -> None:
        self.face.count(self._listing, len(self._selection.keys))

    def _propose(self) -> None:
        self._proposed = propose(self._folder, self.cache.clock())
        self.face.actions.file.value = self._proposed

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """While the panel changes its controls, which would call back."""
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def alert(self, exc: Exception | None) -> None:
        """Shows what a callback raised, in two lines; None takes it away."""
        if exc is not None or self.error is not None:
            self.error = exc
            self.face.alert(exc)
        if exc is not None:
            self._paint_counts()  # what was being done is not any more

    # -- callbacks ----------------------------------------------------------------------------

    def _wire(self) -> None:
        face, actions = self.face, self.face.actions
        for control in face.controls.all:
            control.observe(self._narrow, "value")
        for control in (face.scope, face.by):
            control.observe(self._count, "value")
        for button, callback in (
            (face.refresh, self._refresh),
            (face.previous, self._turn_back),
            (face.next, self._turn_on),
            (face.close_detail, self._close_detail),
            (actions.select, self._pick_all),
            (actions.clear, self._pick_none),
            (actions.export, self._export),
            (actions.purge, self._ask),
            (actions.yes, self._purge),
            (actions.cancel, self._spare),
        ):
            button.on_click(callback)

    @guarded
    def _refresh(self, button: Any = None) -> None:
        if button is not None:  # who presses it may wait: a panel that is only opened may not
            self.cache.money.reconcile()
        self.refresh()

    @guarded
    def _narrow(self, _: Any) -> None:
        self._listing.turn_to(0)
        self.face.actions.hide()
        self._match()
        self._paint_page()

    @guarded
    def _count(self, _: Any) -> None:
        self._gather()
        self._paint_figures()
        self._paint_page()
        self._complete()

    @guarded
    def _turn_back(self, _: Any) -> None:
        self._turn(-1)

    @guarded
    def _turn_on(self, _: Any) -> None:
        self._turn(1)

    def _turn(self, pages: int) -> None:
        self._listing.turn_to(self._listing.page + pages)
        self._paint_page()

    @guarded
    def _pick(self, key: str, on: bool) -> None:
        self._selection.pick([key], on=on)
        self._picks_changed()

    @guarded
    def _pick_page(self, keys: Sequence[str], on: bool) -> None:
        self._selection.pick(keys, on=on)
        self._picks_changed()

    @guarded
    def _pick_all(self, _: Any) -> None:
        self.face.say("selecting …")
        self._selection.pick(self._listing.keys(), on=True)
        self._picks_changed()

    @guarded
    def _pick_none(self, _: Any) -> None:
        self._selection.keys.clear()
        self._picks_changed()

    def _picks_changed(self) -> None:
        self.face.actions.hide()  # it asked about another selection
        with self._quietly():
            self.face.table.mark(self._selection.keys)
        self._paint_counts()

    @guarded
    def _open(self, key: str) -> None:
        self._opened = key
        self.face.open_detail(detail_html(self.cache, key))

    @guarded
    def _close_detail(self, _: Any = None) -> None:
        self._opened = ""
        self.face.open_detail("")

    @guarded
    def _export(self, _: Any) -> None:
        path = self._folder / Path(self.face.actions.given_name()).expanduser()
        written = write_csv(self.cache, self._selection.rows(), path)
        with self._quietly():
            self._propose()
        self.face.note(f"{format_count(written, 'entry', 'entries')} written to {path.name}")

    @guarded
    def _ask(self, _: Any) -> None:
        chosen = self._selection
        self.face.say("counting …")
        chosen.prune()
        self._picks_changed()
        team = self.cache.settings.shared_url is not None
        self.face.actions.ask(chosen.weigh(), chosen.rows(NAMED), team=team)

    @guarded
    def _purge(self, _: Any) -> None:
        if not self.face.actions.asking:
            return  # pressed twice
        self.face.actions.hide()
        self.face.say("removing …")
        if self._opened in self._selection.keys:
            self._close_detail()
        removed = self._selection.drop()
        self.refresh()
        self.face.note(f"{format_count(removed, 'entry', 'entries')} removed")

    @guarded
    def _spare(self, _: Any) -> None:
        self.face.actions.hide()
        self.face.actions.purge.focus()
