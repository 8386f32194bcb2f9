"""`CompletionCache`: ask, browse, account and purge, on one folder. No IPython needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .accounting import Books
from .asker import Asker, OnText, OnWait
from .asking import chat_body, policy_for
from .completion import Completion
from .database import open_database
from .engine import Engine
from .errors import OptionError
from .ledger import Ledger
from .policy import Policy
from .pricing import parse_usd
from .records import Answer, EntryFilter, EntryRow, Outcome, Request
from .settings import Project, Settings, load_settings
from .store import DiskLeases, TieredLeases, TieredStore
from .team import Team
from .upkeep import Upkeep

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd
    from typing_extensions import Self

    from .budget import Limit, Watch
    from .gateway import Gateway
    from .money import Money

__all__ = ["CompletionCache", "key_from_environment"]

_GROWING = ("miss", "refresh")
_CALLS = ("miss", "refresh", "bypass")

Usd = Decimal | float | str
"""An amount of US dollars as a user gives it."""


def key_from_environment() -> str | None:
    """The OpenRouter key in ``OPENROUTER_API_KEY`` or None; no other variable is looked at."""
    return os.environ.get("OPENROUTER_API_KEY") or None


class CompletionCache(Upkeep):
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
        self._usual: tuple[Settings, Policy] | None = None
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

    def ask(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        system: str | None = None,
        mode: str | None = None,
        sample: int | None = None,
        ttl: float | str | None = None,
        tag: str | Sequence[str] | None = None,
        stream: bool | None = None,
        prompt_cache: str | None = None,
        max_cost_usd: Usd | None = None,
        on_text: OnText | None = None,
        on_wait: OnWait | None = None,
        **params: Any,
    ) -> Completion:
        """The completion of a prompt: from the cache when it is there, else bought and kept.

        Args:
            prompt: The user's text, or a list of messages.
            model: A model id or an alias; None takes the setting.
            system: The system prompt; None takes the setting, empty sends none.
            mode: ``normal``, ``refresh`` (ask and replace), ``bypass`` (neither read nor write) or
                ``offline`` (stored answers only).
            sample: Which sample of this request, from 0; each is stored on its own, at any temperature.
            ttl: Lifetime of the entry in seconds, or as text: ``"24h"``, ``"never"``.
            tag: A label of the entry, or several.
            stream: Whether to ask for a stream; None takes the setting. Not in the key.
            prompt_cache: ``5m`` or ``1h``: for how long the provider's prompt caching is to keep the system
                prompt and attachments, where the model takes marks. Not in the key.
            max_cost_usd: Nothing is sent if the call may cost more; the settings' budgets hold besides.
            on_text: Called with each piece of text that arrives from upstream.
            on_wait: Called with a line that says which other kernel's identical ask is waited for.
            **params: Any other field of the request (``temperature``, ``top_p``, ``provider``, …);
                None leaves a field out.

        Raises:
            InputError: It can't be asked as it is; nothing was sent.
            CacheMissError: Offline, and not stored.
            MissingKeyError: Not stored, and no API key.
            BudgetError: Not stored, and the call may cost more than a limit leaves, or nobody can tell.
            UpstreamError: The call was refused or failed.
        """
        request, policy = self._asked(
            prompt,
            params,
            model=model,
            system=system,
            mode=mode,
            sample=sample,
            ttl=ttl,
            tag=tag,
            stream=stream,
            prompt_cache=prompt_cache,
        )
        limit = _limit(max_cost_usd)
        return Completion(self.run(request, policy, Asker(on_text, on_wait), max_cost_usd=limit), request)

    async def aask(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        system: str | None = None,
        mode: str | None = None,
        sample: int | None = None,
        ttl: float | str | None = None,
        tag: str | Sequence[str] | None = None,
        stream: bool | None = None,
        prompt_cache: str | None = None,
        max_cost_usd: Usd | None = None,
        on_text: OnText | None = None,
        on_wait: OnWait | None = None,
        **params: Any,
    ) -> Completion:
        """`ask` for asyncio: the same arguments, answers, errors and accounts; the event loop never waits.

        A stored answer is there at once. Asks of the same at the same time, by `ask` and `aask`, share one
        call. Of different ones up to 32 are under way at a time (`crew.SIZE`), and the others stand in line.
        `on_text` and `on_wait` are called on the event loop.

        Raises:
            asyncio.CancelledError: The task was cancelled, or the cache closed. If nobody else waits for the
                answer, the connection was closed, and what had arrived is kept as a partial, with its cost.
        """
        request, policy = self._asked(
            prompt,
            params,
            model=model,
            system=system,
            mode=mode,
            sample=sample,
            ttl=ttl,
            tag=tag,
            stream=stream,
            prompt_cache=prompt_cache,
        )
        asker = Asker(_on_the_loop(on_text), _on_the_loop(on_wait))
        watch = self._watch(request, _limit(max_cost_usd))
        outcome = None
        try:
            if watch is None:
                outcome = await self._engine.aask(request, policy, asker)
            else:
                with watch:
                    outcome = await self._engine.aask(request, policy, watch.over(asker))
                    watch.paid = outcome.paid
            return Completion(self._warned(outcome), request)
        finally:
            self._finished(request, outcome)

    def warm(
        self,
        source: Any,
        *,
        workers: int = 8,
        progress: bool = True,
        max_cost_usd: Usd | None = None,
        before_send: Callable[[Request], None] | None = None,
        tell: Callable[[str], None] | None = None,
        **asked: Any,
    ) -> pd.DataFrame:
        """Fills the cache from a list of prompts, and tells what each came to; see `warm.COLUMNS`.

        What is stored already is free: after an interrupt or a failure, run it again. One that fails stops no
        other; its error is in its row.

        Args:
            source: A list, Series or DataFrame, or a ``.txt``, ``.jsonl`` or ``.csv`` file; see
                `prompts.read_prompts`. The table has the index of a Series or DataFrame.
            workers: How many are asked at a time.
            progress: Whether a bar is shown, where one can be, and the summary printed.
            max_cost_usd: The most that the whole list may cost: a prompt that may go over it fails unsent.
                The settings' budgets hold besides.
            before_send: Called with each request that is about to be sent, from several threads; an
                `OrCacheError` that it raises is that row's, and nothing is sent.
            tell: Takes the summary instead of printing it.
            **asked: The arguments of `ask`, for the prompts that don't have their own.

        Raises:
            OptionError: The source can't be read; nothing was sent.
            RequestError: An item of it is no prompt; nothing was sent.
        """
        from .prompts import Prompt, options_and_params, read_prompts
        from .warm import fill

        options, params = options_and_params(asked)
        limits: list[Limit] = []
        if (limit := _limit(max_cost_usd)) is not None:
            from .budget import Limit, Purse

            limits.append(Limit("this list's max_cost_usd", limit, Purse()))

        def make(prompt: Prompt) -> tuple[Request, Policy]:
            return self._asked(prompt.prompt, {**params, **prompt.params}, **{**options, **prompt.options})

        warmed = fill(
            read_prompts(source),
            make,
            partial(self.run, limits=limits),
            workers=workers,
            progress=progress,
            before_send=before_send,
            tell=tell or (print if progress else _say_nothing),
        )
        return warmed.frame(source.index if hasattr(source, "iloc") else None)

    def request(
        self,
        body: Mapping[str, Any],
        settings: Settings,
        *,
        sample: int | None = None,
        stream: bool | None = None,
        prompt_cache: str | None = None,
    ) -> Request:
        """The request that a body makes under these settings.

        Raises:
            OptionError: A sample's index below 0, or a time that no prompt caching has.
        """
        if sample is not None and sample < 0:
            raise OptionError(f"sample {sample} is below 0 (nothing was sent)", "the first sample is 0")
        if prompt_cache not in (None, "", "5m", "1h"):
            raise OptionError(f"prompt_cache {prompt_cache!r} (nothing was sent)", "it takes '5m' or '1h'")
        stream = settings.stream if stream is None else stream
        return Request(body, stream, sample or 0, settings.base_url, prompt_cache or "")

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

    @property
    def money(self) -> Money:
        """Prices, budgets and settlements; made when they are first needed."""
        if self._money is None:
            from .money import Money

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

    def _asked(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        *,
        model: str | None = None,
        system: str | None = None,
        mode: str | None = None,
        sample: int | None = None,
        ttl: float | str | None = None,
        tag: str | Sequence[str] | None = None,
        stream: bool | None = None,
        prompt_cache: str | None = None,
    ) -> tuple[Request, Policy]:
        """What the arguments of `ask` come to."""
        settings = self._settings()
        body = chat_body(prompt, model=model, settings=settings, system=system, params=params)
        request = self.request(body, settings, sample=sample, stream=stream, prompt_cache=prompt_cache)
        if mode is None and sample is None and ttl is None and tag is None:
            return request, self._usual_policy(settings)
        return request, policy_for(settings, mode=mode, sample=sample, ttl=ttl, tag=tag)

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
                from .gateway import Gateway

                self._gateway = Gateway(
                    self._api_key,
                    attribution=lambda: self.settings.attribution,
                    timeout_s=lambda: self.settings.timeout_s,
                )
            return self._gateway

    def _usual_policy(self, settings: Settings) -> Policy:
        """The policy of an ask without options of its own; made once for the same settings."""
        if self._usual is None or self._usual[0] is not settings:
            self._usual = (settings, policy_for(settings))
        return self._usual[1]

    def _load_settings(self) -> Settings:
        if self._loaded is None:
            self._loaded = load_settings(os.environ, Project(Path.cwd()), {})
        return self._loaded


def _limit(max_cost_usd: Usd | None) -> Decimal | None:
    try:
        return None if max_cost_usd is None else parse_usd(max_cost_usd)
    except ValueError as exc:
        raise OptionError(f"max_cost_usd: {exc} (nothing was sent)", "write US dollars: 0.05") from None


def _say_nothing(_line: str) -> None:
    """Where a summary goes that nobody wants."""


def _on_the_loop(show: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """`show`, to be called from another thread and done on this task's event loop."""
    if show is None:
        return None
    import asyncio

    loop = asyncio.get_running_loop()

    def shown(text: str) -> None:
        loop.call_soon_threadsafe(show, text)

    return shown
