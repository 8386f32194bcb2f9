"""`CompletionCache`: ask, browse, account and purge, on one folder. No IPython needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from or_cache_magic.cache.asks import Asks
from or_cache_magic.cache.upkeep import Upkeep
from or_cache_magic.core.callbacks import Asker
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import Answer, EntryFilter, EntryRow, Outcome, Request
from or_cache_magic.core.settings import Project, Settings, load_settings
from or_cache_magic.engine.engine import Engine
from or_cache_magic.engine.recorder import Books
from or_cache_magic.storage.database import open_database
from or_cache_magic.storage.leases import DiskLeases
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.team import Team
from or_cache_magic.storage.tiered import TieredLeases, TieredStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from or_cache_magic.money.budget import Limit, Watch
    from or_cache_magic.money.money import Money
    from or_cache_magic.openrouter.client import Gateway

__all__ = ["CompletionCache", "key_from_environment"]

_GROWING = ("miss", "refresh")
_CALLS = ("miss", "refresh", "bypass")


def key_from_environment() -> str | None:
    """The OpenRouter key in ``OPENROUTER_API_KEY`` or None; no other variable is looked at."""
    return os.environ.get("OPENROUTER_API_KEY") or None


class CompletionCache(Asks, Upkeep):
    """The completion cache in one folder, and the asks that go through it. Thread-safe.

    Nothing is opened, made or imported until it is needed: the folder at the first store, the
    ``openai`` client at the first miss, pandas at the first table.

    Args:
        directory: The folder; it is made at the first store. ``:memory:`` is none: nothing is written to
            disk, and all is gone when the cache is closed.
        settings: Gives the settings in force, asked at each ask; None reads the environment and the
            nearest ``pyproject.toml`` once.
        api_key: Gives the OpenRouter key when one is needed; None reads ``OPENROUTER_API_KEY``.
        notebook: Where the asks come from, for browsing.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: Callable[[], Settings] | None = None,
        api_key: Callable[[], str | None] = key_from_environment,
        notebook: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = Path(directory).expanduser()
        #: Id of this session in the ledger.
        self.session = os.urandom(6).hex()
        #: Whether something was bought, or failed, since the last `flush`.
        self.bought = False
        self._loaded: Settings | None = None
        self._settings = settings or self._load_settings
        self.database = open_database(self.directory)
        self._team = Team(self._settings, self.database.tell, clock=clock)
        self.store = TieredStore(self.database, self._team.store, clock=clock)
        self.ledger = Ledger(self.database, session=self.session, clock=clock)
        self.clock = clock
        self._api_key = api_key
        self._lock = threading.Lock()
        self._gateway: Gateway | None = None
        self._money: Money | None = None
        books = Books(
            self.store,
            self.ledger,
            self.database.transaction,
            notebook=notebook,
            clock=clock,
            prompt_cache_saved=self._prompt_cache_saved,
        )
        leases = TieredLeases(DiskLeases(self.database, clock), self._team.leases)
        self._engine = Engine(books, self._open_gateway, leases)

    def __repr__(self) -> str:
        return f"CompletionCache({str(self.directory)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings()

    # -- asking -------------------------------------------------------------------------------

    def run(
        self,
        request: Request,
        policy: Policy,
        asker: Asker = Asker(),  # noqa: B008 - frozen
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """What asking a request comes to; see `Engine.ask`.

        Args:
            request: What to ask.
            policy: How the cache may be used.
            asker: Who asks.
            max_cost_usd: The most that the call may cost.
            limits: Limits that it shares with other asks.
        """
        watch = self._watch(request, max_cost_usd, limits)
        outcome = None
        try:
            if watch is None:
                outcome = self._engine.ask(request, policy, asker)
            else:
                with watch:
                    outcome = self._engine.ask(request, policy, watch.over(asker))
                    watch.paid = outcome.paid
            return self._warned(outcome)
        finally:
            self._finished(request, outcome)

    async def arun(
        self, request: Request, policy: Policy, asker: Asker, *, max_cost_usd: Decimal | None = None
    ) -> Outcome:
        """`run` for a task of an event loop; see `Engine.aask`."""
        watch = self._watch(request, max_cost_usd)
        outcome = None
        try:
            if watch is None:
                outcome = await self._engine.aask(request, policy, asker)
            else:
                with watch:
                    outcome = await self._engine.aask(request, policy, watch.over(asker))
                    watch.paid = outcome.paid
            return self._warned(outcome)
        finally:
            self._finished(request, outcome)

    @property
    def money(self) -> Money:
        """Prices, budgets and settlements; made when they are first needed."""
        if self._money is None:
            from or_cache_magic.money.money import Money

            self._money = Money(
                self.database, self.store, self.ledger, self._fetch, self._settings, self.clock
            )
        return self._money

    def peek(self, request: Request, policy: Policy) -> tuple[str, EntryRow | None, str]:
        """The key, the entry that would be served (or None) and why it would be asked; sends nothing."""
        key, entry, why = self._engine.peek(request, policy)
        rows = self.store.find(EntryFilter(keys=(key.digest,)), limit=1) if entry is not None else []
        return key.digest, (rows[0] if rows else None), why

    def flush(self) -> None:
        """Writes what is counted in memory, and brings the file up to date, so that a copy has all."""
        self.ledger.flush()
        if self.bought:
            self.bought = False
            self.database.checkpoint()

    def close(self) -> None:
        """Flushes, closes, and calls off what `aask` asks. It can be used again; it opens what it needs."""
        self._engine.close()
        if self._money is not None:
            self._money.close()
        self.ledger.flush()
        if self._gateway is not None:
            self._gateway.close()
        self._team.close()
        self.database.close()

    # -- within -------------------------------------------------------------------------------

    def _watch(
        self, request: Request, max_cost_usd: Decimal | None, limits: Sequence[Limit] = ()
    ) -> Watch | None:
        """What watches over an ask's money; None, at no cost, where nothing limits it.

        Marks for prompt caching are watched too: that has their prices at hand when they are to be told.
        """
        free = max_cost_usd is None and not limits and not request.prompt_cache
        if free and not self._settings().has_budget:
            return None
        return self.money.watch(max_cost_usd, limits)

    def _finished(self, request: Request, outcome: Outcome | None) -> None:
        """Notes what is to be written, and settled, after an ask; None is one that failed."""
        if outcome is None or outcome.kind != "hit":
            self.bought = True
            if outcome is None or outcome.kind in _CALLS:
                self.money.after_call(request, outcome)

    def _warned(self, outcome: Outcome) -> Outcome:
        """The outcome, with a note where it made the cache grow over its quota."""
        if outcome.stored and outcome.kind in _GROWING and (warning := self.quota_warning()):
            return outcome._replace(notes=(*outcome.notes, warning))
        return outcome

    def _prompt_cache_saved(self, request: Request, answer: Answer) -> Decimal | None:
        return self.money.prompt_cache_saved(request, answer)

    def _fetch(self, path: str, **options: Any) -> Any:
        return self._open_gateway().fetch(path, **options)

    def _open_gateway(self) -> Gateway:
        with self._lock:
            if self._gateway is None:
                from or_cache_magic.openrouter.client import Gateway

                self._gateway = Gateway(
                    self._api_key,
                    attribution=lambda: self.settings.attribution,
                    timeout_s=lambda: self.settings.timeout_s,
                )
            return self._gateway

    def _load_settings(self) -> Settings:
        if self._loaded is None:
            self._loaded = load_settings(os.environ, Project(Path.cwd()), {})
        return self._loaded
