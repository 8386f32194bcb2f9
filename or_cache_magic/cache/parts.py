"""`Parts`: what the cache of one folder has open in one process, each opened when it is first needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.process import counted
from or_cache_magic.engine.recorder import Recorder
from or_cache_magic.storage.database import open_database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.tier import SharedServer, SharedTier

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from or_cache_magic.core.records import Answer, Entry, Request, RequestKey
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.money.cost_control import CostControl
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.replay.beside import PacksBeside
    from or_cache_magic.storage.leases import Leases

_PACK: Final = ".orcache.jsonl"
_SETTLED_NS: Final = 2_000_000_000


def above(module: str) -> Any:
    """Return a module of the features, whose layer imports this one."""
    from importlib import import_module

    return import_module(f"or_cache_magic.{module}")


class Given(NamedTuple):
    """What a cache was made with, and hands on to the parts of each process.

    Attributes:
        directory: The folder.
        session: Identifies its asks in the ledger.
        clock: Returns UTC epoch seconds.
        notebook: Where the asks come from.
        settings: Returns the settings in force.
        api_key: Returns the OpenRouter key when one is needed.
        packs: The folder whose packs are read through; None is none.
    """

    directory: Path
    session: str
    clock: Callable[[], float]
    notebook: str
    settings: Callable[[], Settings]
    api_key: Callable[[], str | None]
    packs: Path | None


class Parts:
    """What belongs to one process: the file, the servers, the accounts. Thread-safe.

    Args:
        given: What the cache was made with.
    """

    def __init__(self, given: Given) -> None:
        self._given = given
        self.database = open_database(given.directory)
        self.store = DiskStore(self.database)
        self.server = SharedServer(self.database.tell, clock=given.clock)
        #: The shared server behind the store, where one is set.
        self.shared = SharedTier(self.store, self.server.store, clock=given.clock)
        self.ledger = Ledger(
            self.database, given.session, given.clock, notebook=given.notebook, counted=counted
        )
        #: Keeps answers and accounts, together.
        self.recorder = Recorder(
            self.store,
            self.ledger,
            self.database.transaction,
            clock=given.clock,
            prompt_cache_saved=self._prompt_cache_saved,
            routes=self._routes,
            shared=self.shared,
        )
        self._lock = threading.Lock()
        self._gateway: Gateway | None = None
        self._money: CostControl | None = None
        self._packs: PacksBeside | None = None
        self._listed: tuple[int, list[str]] = (0, [])
        self._threads: set[threading.Thread] = set()

    def gateway(self) -> Gateway:
        """Return what sends requests, by the settings that the shared server was told last."""
        with self._lock:
            if self._gateway is None:
                from or_cache_magic.openrouter.client import Gateway
                from or_cache_magic.storage.pace_board import DiskBoard, FolderOrTeamBoard

                self._gateway = Gateway(
                    self._given.api_key,
                    board=FolderOrTeamBoard(DiskBoard(self.database), self.server.store),
                    attribution=lambda: self.server.settings.attribution,
                    timeout_s=lambda: self.server.settings.timeout_s,
                )
            return self._gateway

    @property
    def money(self) -> CostControl:
        """Prices, budgets and reconciliation."""
        with self._lock:  # of two, each would fetch the same lists, and have a budget of its own
            if self._money is None:
                from or_cache_magic.money.cost_control import CostControl

                given = self._given
                self._money = CostControl(
                    self.database, self.store, self.ledger, self._fetch, given.settings, given.clock
                )
            return self._money

    def leases(self) -> Leases:
        """Return what keeps other processes from asking the same."""
        from or_cache_magic.storage.leases import DiskLeases, LocalAndSharedLeases  # a hit needs none

        return LocalAndSharedLeases(DiskLeases(self.database, self._given.clock), self.server.leases)

    def pack_names(self) -> list[str]:
        """Return the names of the packs that are read through, sorted."""
        folder = self._given.packs
        if folder is None:
            return []
        listed_ns, names = self._listed
        with suppress(OSError):
            changed_ns = os.stat(folder).st_mtime_ns  # a list of many asks looks for each of them
            if changed_ns == listed_ns:
                return names
            now_ns = time.time_ns()
            with os.scandir(folder) as found:
                names = sorted(
                    one.name
                    for one in found
                    if one.name.endswith(_PACK) and one.is_file(follow_symlinks=False)
                )
            # A change soon after the last one may leave the same time.
            self._listed = (changed_ns if changed_ns < now_ns - _SETTLED_NS else 0, names)
            return names
        return []

    def replayed(self, key: RequestKey) -> tuple[Entry, str] | None:
        """Return the entry that a pack beside the notebook has, and the pack's name."""
        names = self.pack_names()
        if not names:
            return None
        with self._lock:
            if self._packs is None:
                opened = above("replay.beside").PacksBeside
                self._packs = opened(self._given.packs, self.database.tell, self._given.clock)
            packs = self._packs
        return packs.get(key, names)

    def on_thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Begin work that may go on when its caller has left, and return its thread; `close` waits for it."""

        def do() -> None:
            try:
                work()
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=do, name=name)
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            if thread.ident is None:  # else it runs, though its beginning was interrupted
                self._threads.discard(thread)
            raise
        return thread

    def wait_for_threads(self) -> None:
        """Return when no work of `on_thread` is under way: all of it may open what is closed."""
        for thread in tuple(self._threads):
            if thread.ident is not None:  # another thread is just beginning it
                thread.join()

    def close(self) -> None:
        """Write what is counted, and close; what is used again opens what it needs."""
        if self._money is not None:
            self._money.close()
        self.ledger.flush()
        if self._gateway is not None:
            self._gateway.close()
        self.server.close()
        self.database.close()

    def _prompt_cache_saved(self, request: Request, answer: Answer) -> Decimal | None:
        return self.money.prompt_cache_saved(request, answer)

    def _routes(self, request: Request) -> bool:
        return self.money.prices.routes(request)

    def _fetch(self, path: str, **options: Any) -> Any:
        self.server.settings = self._given.settings()  # whoever wants statistics may not have asked before
        return self.gateway().fetch(path, **options)
