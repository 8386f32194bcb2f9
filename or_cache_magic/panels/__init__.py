"""The panel: what is cached, how often it was served, what it saved; to browse, purge and export.

`open_panel` gives a cache's panel. Where ipywidgets are missing it is a `Still`: the same figures, as
Markdown and text. Only `panel` and what it is made of import ipywidgets.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Union
from weakref import WeakSet

from or_cache_magic.panels.static import Still, plain, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.panels.panel import Panel

Shown = Union["Panel", Still]

_panels: WeakSet[Panel] = WeakSet()
"""The panels there are, for refreshing them after a cell."""


def open_panel(cache: CompletionCache, *, folder: Path | None = None) -> Shown:
    """The panel of a cache, read anew. There is one: shown twice, it is the same panel in two places.

    Args:
        cache: What it shows.
        folder: Where exports are written; None is the folder that the cache's folder is in.
    """
    if find_spec("ipywidgets") is None:
        return Still(cache)
    from or_cache_magic.panels.panel import Panel

    for panel in _panels:
        if panel.cache is cache and panel.is_open:
            panel.reopen()
            return panel
    panel = Panel(cache, folder=folder)
    _panels.add(panel)
    return panel


def panel_text(cache: CompletionCache) -> str:
    """What the panel shows, as a terminal shows it.

    Raises:
        StoreError: The completion cache can't be read.
    """
    return plain(snapshot(cache))


def after_cell(cache: CompletionCache) -> None:
    """Lets a cache's panels show what a cell changed; does nothing where there is none. Never raises."""
    for panel in tuple(_panels):
        if panel.cache is cache and panel.is_open:
            panel.after_cell()
