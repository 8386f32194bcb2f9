"""`Team`: the shared tier of one cache, opened when it is first needed, under the settings in force."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.storage.shared.leases import SharedLeases
    from or_cache_magic.storage.shared.store import SharedStore

__all__ = ["Team"]


class Team:
    """The team's server, as the settings name it now. Thread-safe: what is opened twice is used twice.

    Args:
        settings: Gives the settings in force.
        tell: Takes a line for the user at each change of the server's state.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._clock = clock
        self._open: tuple[tuple[Any, ...], SharedStore] | None = None

    def store(self) -> SharedStore | None:
        """The team's answers; None where no server is set.

        Raises:
            SettingError: The library for the server is not installed, or the secret is none.
        """
        settings = self._settings()
        if settings.shared_url is None:
            self.close()
            return None
        wanted = (settings.shared_url, settings.shared_namespace, settings.shared_timeout_s)
        if self._open is None or self._open[0] != wanted:
            from or_cache_magic.storage.shared.store import open_shared

            self.close()
            opened = open_shared(
                settings.shared_url,
                namespace=settings.shared_namespace,
                timeout_s=settings.shared_timeout_s,
                tell=self._tell,
                environ=os.environ,
                clock=self._clock,
            )
            self._open = (wanted, opened)
            return opened
        return self._open[1]

    def leases(self) -> SharedLeases | None:
        """The team's leases; None where no server is set."""
        store = self.store()
        if store is None:
            return None
        from or_cache_magic.storage.shared.leases import SharedLeases

        return SharedLeases(store, clock=self._clock)

    def close(self) -> None:
        """Closes the connections; the next use opens new ones."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
