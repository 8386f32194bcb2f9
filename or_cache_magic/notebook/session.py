"""What one kernel's magics share: its settings, its key, its cache, its last completion."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.settings import ENVIRONMENT, Project, Settings, load_settings
from or_cache_magic.notebook.location import locate, notebook_file, notebook_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion

__all__ = ["Session"]

_FLUSH_EVERY_S = 1.0
"""Hits are counted in memory; a loop of cells that hit writes them at most so often."""


class Session:
    """The state behind the magics of one shell.

    Args:
        shell: The IPython shell.
        config: Gives what the kernel's configuration sets, by setting; None is not set.
    """

    def __init__(self, shell: InteractiveShell, config: Callable[[], Mapping[str, Any]]) -> None:
        self.shell = shell
        #: The last completion that a magic asked for; None before the first.
        self.last: Completion | None = None
        #: The key given by ``%openrouter_key``; in memory only.
        self.key: str | None = None
        self._config = config
        self._project = Project(self.folder)
        self._settings: tuple[object, Settings] | None = None
        self._cache: CompletionCache | None = None
        self._flushed_s = time.monotonic()

    @property
    def folder(self) -> Path:
        """The folder that the kernel was started in; ``%cd`` does not move it."""
        return Path(self.shell.starting_dir)

    def settings(self) -> Settings:
        """The settings in force now; the same object while nothing they come from has changed."""
        sources = (self._project.values(), self._config(), [os.environ.get(name) for name in ENVIRONMENT])
        if self._settings is None or self._settings[0] != sources:
            self._settings = (sources, load_settings(os.environ, self._project, self._config()))
        return self._settings[1]

    def api_key(self) -> str | None:
        """The OpenRouter key: the one given by ``%openrouter_key``, else ``OPENROUTER_API_KEY``."""
        return self.key or os.environ.get("OPENROUTER_API_KEY") or None

    @property
    def key_source(self) -> str:
        """Where the key was found; empty when there is none."""
        if self.key:
            return "%openrouter_key"
        return "OPENROUTER_API_KEY" if self.api_key() else ""

    def cache(self) -> CompletionCache:
        """The completion cache, found and opened at the first use and then kept."""
        if self._cache is None:
            from or_cache_magic.cache.cache import CompletionCache

            location = locate(self.shell, self.settings().cache_dir)
            notebook = notebook_file(starting_dir=self.folder, environ=os.environ, user_ns=self.shell.user_ns)
            self._cache = CompletionCache(
                location.path,
                settings=self.settings,
                api_key=self.api_key,
                notebook=notebook_name(notebook, location),
            )
        return self._cache

    def after_cell(self) -> None:
        """Writes what the cells counted, at most once a second unless something was bought; tells panels."""
        if self._cache is None:
            return
        now_s = time.monotonic()
        if self._cache.bought or now_s - self._flushed_s >= _FLUSH_EVERY_S:
            self._flushed_s = now_s
            self._cache.flush()
        panels = sys.modules.get("or_cache_magic.panels")
        if panels is not None:
            panels.after_cell(self._cache)

    def close(self) -> None:
        """Flushes and closes the cache."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None
