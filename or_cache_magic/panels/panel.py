"""`Panel`: the completion cache at a glance, to browse, to purge and to export. Core ipywidgets only."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.frames import entries_frame
from or_cache_magic.markdown import printable

from . import selection
from .detail import detail_html
from .export import propose, write_csv
from .face import Face
from .figures import breakdown, gather
from .guard import guarded
from .state import Listing
from .static import Snapshot, markdown, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from or_cache_magic.cache import CompletionCache

__all__ = ["Panel"]

_LEISURE: Final = 10
"""Refreshing after cells takes at most one part in so many of the time."""


class Panel:
    """The panel of one completion cache. Thread-safe: front ends call back on another thread.

    Display it as the last line of a cell. It is refreshed after cells that asked something.

    Args:
        cache: What it shows.
        folder: Where exports are written; None is the folder that the cache's folder is in.
    """

    def __init__(self, cache: CompletionCache, *, folder: Path | None = None) -> None:
        self.cache = cache
        #: Held by whoever changes the panel; see `guard`.
        self.lock = threading.RLock()
        #: Whether the panel itself is changing its controls; see `guard`.
        self.quiet = False
        #: What the last callback raised; None when it went well.
        self.error: Exception | None = None
        self._folder = _beside(cache) if folder is None else folder
        self._listing = Listing(cache.store, cache.clock)
        self._picked: set[str] = set()
        self._shown: Snapshot | None = None
        self._version: object = None
        self._opened = self._proposed = ""
        self._rests_until_s = 0.0
        self._later: asyncio.TimerHandle | None = None
        self.face = Face(on_pick=self._pick, on_page=self._pick_page, on_open=self._open)
        self._refresh()
        self._wire()

    # -- for the user -------------------------------------------------------------------------

    @property
    def selected(self) -> pd.DataFrame:
        """The selected entries as a DataFrame, newest first; see `frames.ENTRY_COLUMNS`."""
        with self.lock:
            return entries_frame(selection.entries(self.cache.store, self._picked))

    def frame(self) -> pd.DataFrame:
        """All entries that match what the panel is set to, in its order, as a DataFrame."""
        with self.lock:
            return entries_frame(self._listing.all_rows())

    def refresh(self) -> None:
        """Reads everything again.

        Raises:
            StoreError: The completion cache can't be read.
        """
        with self.lock:
            self._read()
            self._picked = selection.kept(self.cache.store, self._picked)
            self._paint()

    def reopen(self) -> None:
        """Reads everything again, as the button does: an error is shown in the panel."""
        self._refresh()

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self.face.box.comm is not None

    def close(self) -> None:
        """Takes the panel off the screen and its widgets out of memory."""
        with self.lock:
            self.face.close()

    def __repr__(self) -> str:
        with self.lock:
            return printable(f"completion cache: {self.error}") if self._shown is None else plain(self._shown)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """The widget, and what is shown where there are none."""
        with self.lock:
            bundle = dict(self.face.box._repr_mimebundle_())
            bundle["text/plain"] = repr(self)
            if self._shown is not None:
                bundle["text/markdown"] = markdown(self._shown)
            return bundle

    # -- refreshing after cells ---------------------------------------------------------------

    def after_cell(self) -> None:
        """Shows what changed since, at once or, where that takes its time, when a pause is due.

        Without a change it does nothing: two stats. Never raises, and never waits for a callback.
        """
        if self._later is not None:
            return
        pause_s = self._rests_until_s - time.monotonic()
        if pause_s > 0:
            try:
                self._later = asyncio.get_running_loop().call_later(pause_s, self._catch_up)
            except RuntimeError:
                pass  # no loop to wait in: it is due now
            else:
                return
        self._catch_up()

    def _catch_up(self) -> None:
        self._later = None
        if not self.lock.acquire(blocking=False):
            return  # a callback has it, and reads what there is
        try:
            began_s = time.monotonic()
            self.cache.ledger.flush()  # hits are in memory until then
            if self.cache.database.version() != self._version:
                self._read(again=not self._listing.view.text.strip())
                self._paint()
                ended_s = time.monotonic()
                self._rests_until_s = ended_s + (ended_s - began_s) * _LEISURE
        except Exception as exc:  # noqa: BLE001 - the cell did not ask for this; the panel shows it
            self.alert(exc)
        finally:
            self.lock.release()

    # -- reading and painting -----------------------------------------------------------------

    def _read(self, *, again: bool = True) -> None:
        """Reads the figures and, unless said otherwise, which entries match."""
        self.cache.ledger.flush()
        # Taken before it is read: what is written meanwhile is found by the next look.
        version = self.cache.database.version()
        self._gather()
        if again:
            self._match()
        else:
            self.face.note("entries changed since this search; Refresh searches again")
        self._version = version

    def _gather(self) -> None:
        session, by = self.face.scope.value, self.face.by.value
        figures = gather(self.cache, session=session)
        self._shown = Snapshot(figures, breakdown(self.cache, by, session=session), (), 0)

    def _match(self) -> None:
        view = self.face.controls.view()
        if view.text.strip():
            self.face.say("searching …")
        self._listing.read(view)
        self.face.note("")

    def _paint(self) -> None:
        """Shows what was read."""
        store, face = self.cache.store, self.face
        with self._quietly():
            face.controls.offer(store.models(), store.tags())
            if face.actions.file.value == self._proposed:
                self._propose()
            if self._shown is not None:
                face.show_figures(self._shown)
        self._paint_page()
        if notices := self.cache.database.pop_notices():
            face.note(" · ".join(notices))

    def _paint_page(self) -> None:
        if self._shown is None:
            return
        listing = self._listing
        self._shown = self._shown._replace(rows=listing.rows(), matching=listing.count)
        with self._quietly():
            self.face.show_page(self._shown, listing, self._picked, self.cache.clock())
        self._paint_counts()

    def _paint_counts(self) -> None:
        self.face.count(self._listing, len(self._picked))

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
    def _refresh(self, _: Any = None) -> None:
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
        if self._shown is not None:
            self.face.show_figures(self._shown)
        self._paint_page()

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
        (self._picked.add if on else self._picked.discard)(key)
        self._picks_changed()

    @guarded
    def _pick_page(self, on: bool) -> None:
        (self._picked.update if on else self._picked.difference_update)(self.face.table.keys)
        self._picks_changed()

    @guarded
    def _pick_all(self, _: Any) -> None:
        self.face.say("selecting …")
        self._picked.update(self._listing.keys())
        self._picks_changed()

    @guarded
    def _pick_none(self, _: Any) -> None:
        self._picked.clear()
        self._picks_changed()

    def _picks_changed(self) -> None:
        self.face.actions.hide()  # it asked about another selection
        with self._quietly():
            self.face.table.mark(self._picked)
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
        written = write_csv(self.cache, self._picked, path)
        with self._quietly():
            self._propose()
        self.face.note(f"{_entries(written)} written to {path.name}")

    @guarded
    def _ask(self, _: Any) -> None:
        store = self.cache.store
        self._picked = selection.kept(store, self._picked)
        self._picks_changed()
        some = selection.entries(store, sorted(self._picked)[:3])
        team = self.cache.settings.shared_url is not None
        self.face.actions.ask(selection.weigh(store, self._picked), some, team=team)

    @guarded
    def _purge(self, _: Any) -> None:
        if not self.face.actions.asking:
            return  # pressed twice
        self.face.actions.hide()
        self.face.say("removing …")
        removed = selection.drop(self.cache, self._picked)
        if self._opened in self._picked:
            self._close_detail()
        self._picked.clear()
        self.refresh()
        self.face.note(f"{_entries(removed)} removed")

    @guarded
    def _spare(self, _: Any) -> None:
        self.face.actions.hide()
        self.face.actions.purge.focus()


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _beside(cache: CompletionCache) -> Path:
    """The notebook's folder, where the cache's usually is; else where Python runs."""
    folder = cache.directory
    return folder.absolute().parent if folder.name == ".or_cache" else Path.cwd()
