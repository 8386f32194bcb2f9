"""`SharedTier`: the shared server behind the entries and leases of a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.policy import why_not_served, why_not_stored
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import StoreError

if TYPE_CHECKING:
    from or_cache_magic.core.records import Entry, Request, RequestKey
    from or_cache_magic.core.rows import EntryFilter
    from or_cache_magic.storage.entries import DiskStore
    from or_cache_magic.storage.shared.leases import SharedLeases
    from or_cache_magic.storage.shared.store import SharedStore


class SharedServer:
    """The shared server that the settings name. Thread-safe: what is opened twice is used twice.

    Args:
        tell: Takes a line for the user at each change of the server's state.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: The settings in force, which name the server; whoever asks sets those of the ask.
        self.settings = Settings()
        self._tell = tell
        self._clock = clock
        self._open: tuple[tuple[Any, ...], SharedStore] | None = None

    def store(self) -> SharedStore | None:
        """Return the answers on the server; None where none is set.

        Raises:
            SettingError: The library for the server is not installed, or the secret is none.
        """
        settings = self.settings
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
        """Return the leases on the server; None where none is set."""
        store = self.store()
        if store is None:
            return None
        from or_cache_magic.storage.shared.leases import SharedLeases

        return SharedLeases(store, clock=self._clock)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class SharedTier:
    """The shared server behind a `DiskStore`: asked for what the disk lacks, given what it gets. Thread-safe.

    Without a server it has nothing.

    A cost that is reconciled later (`DiskStore.settle`) is written to this disk alone: whoever is given the
    answer settles their own copy by its generation, and to offer it anew could undo another's refresh.

    Args:
        disk: The first tier.
        shared: Returns the second one, or None where there is none; called at each use.
        clock: Returns UTC epoch seconds.
    """

    def __init__(
        self,
        disk: DiskStore,
        shared: Callable[[], SharedStore | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: The first tier.
        self.disk = disk
        self._shared = shared
        self._clock = clock

    def fetch(self, key: RequestKey, request: Request, parent: str = "") -> Entry | None:
        """Return the server's entry, where it may be served; it is then kept on disk, a reply to `parent`."""
        shared = self._shared()
        entry = None if shared is None else shared.get(key)
        if entry is None or why_not_served(entry, self._clock()) is not None:
            return None
        # Whoever can write there can write anything: only what we would have kept ourselves is served.
        if why_not_stored(request, entry.answer) is not None:
            return None
        with suppress(StoreError):  # a full disk takes no answer away
            self.disk.put(entry._replace(shared=False), request, parent=parent)
        return entry

    def put(self, entry: Entry, request: Request) -> None:
        """Offer an entry to others; a server that can't take it is no failure."""
        shared = self._shared()
        if shared is not None:
            shared.put(entry, request)

    def purge(self, wanted: EntryFilter, *, everything: bool = False) -> int:
        """See `DiskStore.purge`; removes the entries from the server first.

        Raises:
            StoreUnavailableError: The server can't be reached. Nothing was removed on disk, which alone may
                know by which names the server has them.
        """
        # Making room on this disk is nothing to the others; a filter without conditions the disk refuses.
        shares = wanted.to_fit_bytes is None and (everything or not wanted.unconditional)
        shared = self._shared() if shares else None
        if shared is not None:
            removed = shared.purge(wanted, self.disk.listing.digests(wanted))
            if removed:
                shared.link.tell(f"{shared.link} held {removed:,} of them, and they are removed for all.")
        return self.disk.purge(wanted, everything=everything)
