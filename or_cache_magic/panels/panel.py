"""`Panel`: the completion cache at a glance, to browse, to purge and to export. Core ipywidgets only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.project import current_folder
from or_cache_magic.display.escape import printable
from or_cache_magic.panels.callbacks import Pace
from or_cache_magic.panels.clerk import Clerk
from or_cache_magic.panels.static import markdown, plain
from or_cache_magic.panels.style import STILL

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache


class Panel(Clerk):
    """The panel of one completion cache. Thread-safe.

    Display it as the last line of a cell. It is refreshed after cells that asked something.

    Args:
        cache: What it shows.
        folder: Where exports are written; None is the folder that the cache's folder is in.
    """

    def __init__(self, cache: CompletionCache, *, folder: Path | None = None) -> None:
        super().__init__(cache, _beside(cache) if folder is None else folder)
        self._pace = Pace()

    @property
    def selected(self) -> pd.DataFrame:
        """The selected entries as a DataFrame, newest first; see `display.entries.ENTRY_TYPES`."""
        from or_cache_magic.display.frames import entries_frame

        with self.lock:
            return entries_frame(self._selection.rows())

    def frame(self) -> pd.DataFrame:
        """All entries that match what the panel is set to, in its order, as a DataFrame."""
        from or_cache_magic.display.frames import entries_frame

        with self.lock:
            return entries_frame(self._listing.all_rows())

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
            return printable(f"completion cache: {self.error}") if self.shown is None else plain(self.shown)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """The widget, and what is shown where there are none."""
        with self.lock:
            bundle = dict(self.face.box._repr_mimebundle_())
            bundle["text/plain"] = repr(self)
            if self.shown is not None:
                bundle["text/markdown"] = markdown(self.shown)
            return bundle

    def _ipython_display_(self) -> None:
        """The widget, and below it the panel as it is now, hidden as long as the widget is there to be seen.

        It is what a notebook shows that is opened again: JupyterLab takes no other form of a widget's output.
        """
        from IPython import display as ipython_display
        from IPython import get_ipython

        display: Any = ipython_display.display
        shell: Any = get_ipython()
        bundle = self._repr_mimebundle_()
        if getattr(shell, "kernel", None) is not None:
            bundle["text/plain"] = "The panel of the completion cache: run the cell to use it."
        still = bundle.pop("text/markdown", "")
        display(bundle, raw=True)
        if still:
            display({"text/markdown": f"{STILL}\n\n{still}"}, raw=True)

    def after_cell(self) -> None:
        """Shows what changed since; two stats where nothing did. Never raises, nor waits for a callback."""
        self._pace.keep(self._catch_up)

    def _catch_up(self) -> None:
        if not self.lock.acquire(blocking=False):
            return  # a callback has it, and reads what there is
        try:
            self.cache.ledger.flush()  # hits are in memory until then
            if self.cache.database.version() != self._version:
                self._read(match=not self._listing.view.text.strip())
                self._paint()
                self._complete()
        except Exception as exc:  # noqa: BLE001 - the cell did not ask for this; the panel shows it
            self.alert(exc)
        finally:
            self.lock.release()


def _beside(cache: CompletionCache) -> Path:
    """The notebook's folder, where the cache's usually is; else where Python runs."""
    folder = cache.directory
    return folder.absolute().parent if folder.name == ".or_cache" else current_folder()
