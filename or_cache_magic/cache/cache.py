"""`CompletionCache`: ask, browse, account and purge, on one folder. No IPython needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.request import Usd, chat_body, parse_limit, policy_for
from or_cache_magic.core.callbacks import Callbacks, OnText, OnWait
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import Answer, EntryFilter, EntryRow, Outcome, Request, Totals
from or_cache_magic.core.settings import Project, Settings, load_settings
from or_cache_magic.core.units import format_size, parse_size, parse_ttl
from or_cache_magic.engine.engine import Engine
from or_cache_magic.engine.recorder import Recorder
from or_cache_magic.errors import OptionError, StoreError
from or_cache_magic.storage.database import open_database
from or_cache_magic.storage.leases import DiskLeases
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.tiered import Team, TieredLeases, TieredStore

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd
    from typing_extensions import Self

    from or_cache_magic.core.settings import Settings
    from or_cache_magic.money.budget import BudgetGuard, Limit
    from or_cache_magic.money.money import Money
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger import Ledger
    from or_cache_magic.storage.tiered import TieredStore

__all__ = ["Asks", "CompletionCache", "Purge", "Upkeep", "key_from_environment"]

_GROUPS = ("", "model", "day", "notebook", "tag")


class Purge(NamedTuple):
    """What a purge removes: how many entries, and what it would cost to buy them again.

    ``cost_usd`` is the sum of what is known; ``unpriced`` counts the entries whose cost isn't. ``size_bytes``
    go, ``rest_bytes`` stay. With `team` the team's server is purged too: what it has isn't counted here.
    """

    filter: EntryFilter
    entries: int
    cost_usd: Any
    unpriced: int
    size_bytes: int
    rest_bytes: int
    team: bool = False

    @property
    def does_nothing(self) -> bool:
        """Whether no entry matches, here or on a server."""
        return not self.entries and not self.team


class Upkeep:
    """Browsing, accounting and purging: the part of a `CompletionCache` that asks no model. Thread-safe."""

    database: Database
    store: TieredStore
    ledger: Ledger
    #: Id of this session in the ledger.
    session: str
    #: Tells UTC epoch seconds.
    clock: Callable[[], float]

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        raise NotImplementedError

    @property
    def money(self) -> Money:
        """Prices, budgets and settlements."""
        raise NotImplementedError

    def totals(self, by: str = "", *, session: bool = False) -> list[Totals]:
        """The ledger's sums, one for each group; see `records.Totals`."""
        if by not in _GROUPS:
            raise OptionError(f"can't group by {by!r}", "by takes model, day, notebook or tag")
        return self.ledger.totals(by, session=self.session if session else None)

    def quota_warning(self) -> str:
        """That the entries are larger than the setting ``quota``, and what helps; empty when they aren't."""
        quota_bytes = self.settings.quota
        if quota_bytes is None:
            return ""
        try:
            size_bytes = self.store.size_over(quota_bytes)
        except StoreError:
            return ""  # said where the answer could not be kept
        if size_bytes is None:
            return ""
        quota = format_size(quota_bytes)
        return (
            f"the completion cache holds {format_size(size_bytes)}, over its quota of {quota}:"
            f" %openrouter_purge --to-fit {quota.replace(' ', '')}"
        )

    def stats(self, by: str = "", *, session: bool = False) -> pd.DataFrame:
        """Calls, hits, rates and dollars as a DataFrame, one row or one a group; see `frames.STAT_COLUMNS`.

        What calls came to whose replies did not tell is asked of OpenRouter first, where that is due, for at
        most three seconds.

        Args:
            by: ``model``, ``day``, ``notebook`` or ``tag``; empty is one row for all.
            session: Only this session's asks.
        """
        from or_cache_magic.display.frames import stats_frame

        self.money.settle()
        totals = self.totals(by, session=session)
        (whole,) = self.totals(session=session) if by else totals
        distinct = self.ledger.distinct_asks(self.session if session else None)
        return stats_frame(totals, by, whole=whole, distinct=distinct)

    def entries(
        self,
        text: str = "",
        *,
        model: str | None = None,
        tag: str | None = None,
        since: float | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """The stored answers as a DataFrame, newest first; see `frames.ENTRY_COLUMNS`.

        Args:
            text: Found in the prompt or the answer.
            model: Asked or served model; ``*`` and ``?`` as in a shell.
            tag: A label.
            since: Stored in the last so many seconds, or ``"7d"``.
            limit: At most so many rows.
        """
        from or_cache_magic.display.frames import entries_frame

        self.ledger.flush()
        return entries_frame(
            self.store.find(self._filter(text=text, model=model, tag=tag, since=since), limit=limit)
        )

    def purge(
        self,
        *keys: str,
        model: str | None = None,
        system: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        older: float | str | None = None,
        expired: bool = False,
        to_fit: int | str | None = None,
        all: bool = False,  # noqa: A002 - the design's name
        dry_run: bool = False,
    ) -> pd.DataFrame:
        """Removes entries and returns them as a DataFrame; every condition given must hold. Asks nothing.

        The ledger keeps its history, so that what was paid and saved is not forgotten.

        Args:
            *keys: Keys, or how they begin (at least 4 hex digits).
            model: Asked or served model; ``*`` and ``?`` as in a shell.
            system: The whole system prompt.
            tag: A label.
            prefix: How the prompt begins.
            older: Stored longer ago than so many seconds, or ``"30d"``.
            expired: Only entries that are no longer served.
            to_fit: Only until all entries together are no larger than so many bytes, or ``"500MB"``; those
                go first that cost least to buy again for their size and are used least.
            all: Every entry; goes with no other condition.
            dry_run: Only tell what would go.

        Raises:
            OptionError: No condition at all, or `all` with another.
        """
        chosen = self.purge_filter(
            keys,
            model=model,
            system=system,
            tag=tag,
            prefix=prefix,
            older=older,
            expired=expired,
            to_fit=to_fit,
            all=all,
        )
        gone = self.chosen(chosen)
        if not dry_run:
            self.drop(chosen)
        return gone

    def chosen(self, chosen: EntryFilter) -> pd.DataFrame:
        """The entries that a filter names, as a DataFrame, newest first."""
        from or_cache_magic.display.frames import entries_frame

        self.ledger.flush()
        return entries_frame(self.store.find(chosen))

    def purge_filter(self, keys: Sequence[str] = (), *, all: bool = False, **conditions: Any) -> EntryFilter:  # noqa: A002
        """The filter of a purge.

        Raises:
            OptionError: No condition at all, or `all` with another.
        """
        chosen = self._filter(keys=tuple(keys), **conditions)
        if all != (chosen == EntryFilter()):
            raise OptionError(
                f"{'all goes with no other condition' if all else 'say what to purge'} (nothing was removed)",
                "name keys, --model, --system, --tag, --prefix, --older, --expired, --to-fit, or --all alone",
            )
        return chosen

    def preview(self, chosen: EntryFilter) -> Purge:
        """What a purge would remove."""
        self.ledger.flush()
        goes = self.store.weigh(chosen)
        # Making room on this disk is nothing to the team.
        team = self.settings.shared_url is not None and chosen.to_fit_bytes is None
        return Purge(chosen, *goes, self.store.size_bytes() - goes.size_bytes, team)

    def drop(self, chosen: EntryFilter) -> int:
        """Removes the entries that `chosen` names; how many."""
        self.ledger.flush()
        removed = self.store.purge(chosen, everything=chosen == EntryFilter())
        self.database.checkpoint()
        return removed

    def _filter(
        self,
        *,
        keys: tuple[str, ...] = (),
        text: str = "",
        model: str | None = None,
        system: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        since: float | str | None = None,
        older: float | str | None = None,
        expired: bool = False,
        to_fit: int | str | None = None,
    ) -> EntryFilter:
        now_s = self.clock()
        return EntryFilter(
            keys=keys,
            text=text,
            model=model or "",
            system=system,
            tag=tag or "",
            prefix=prefix or "",
            created_after_s=None if since is None else now_s - _length_s(since),
            created_before_s=None if older is None else now_s - _length_s(older),
            expired_at_s=now_s if expired else None,
            to_fit_bytes=None if to_fit is None else _size_bytes(to_fit),
            to_fit_at_s=0.0 if to_fit is None else now_s,
        )


def _length_s(length: float | str) -> float:
    if not isinstance(length, str):
        return float(length)
    try:
        return parse_ttl(length)
    except ValueError as exc:
        raise OptionError(str(exc), "write 30m, 24h or 7d") from None


def _size_bytes(size: int | str) -> int:
    try:
        return parse_size(size) if isinstance(size, str) else size
    except ValueError as exc:
        raise OptionError(f"{exc} (nothing was removed)", "write 500MB or 2GB, or give bytes") from None


class Asks:
    """What makes a request of a prompt and its options, and a `Completion` of its outcome. Thread-safe."""

    _usual: tuple[Settings, Policy] | None = None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        raise NotImplementedError

    def run(
        self,
        request: Request,
        policy: Policy,
        callbacks: Callbacks = Callbacks(),  # noqa: B008 - frozen
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """What asking a request comes to."""
        raise NotImplementedError

    async def arun(
        self, request: Request, policy: Policy, callbacks: Callbacks, *, max_cost_usd: Decimal | None = None
    ) -> Outcome:
        """`run` for a task of an event loop."""
        raise NotImplementedError

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
        request, policy = self.prepare(
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
        limit = parse_limit(max_cost_usd)
        return Completion(self.run(request, policy, Callbacks(on_text, on_wait), max_cost_usd=limit), request)

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
        call. Of different ones up to 32 are under way at a time (`engine.aio.SIZE`), and the others wait.
        `on_text` and `on_wait` are called on the event loop.

        Raises:
            asyncio.CancelledError: The task was cancelled, or the cache closed. If nobody else waits for the
                answer, the connection was closed, and what had arrived is kept as a partial, with its cost.
        """
        request, policy = self.prepare(
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
        callbacks = Callbacks(_on_the_loop(on_text), _on_the_loop(on_wait))
        outcome = await self.arun(request, policy, callbacks, max_cost_usd=parse_limit(max_cost_usd))
        return Completion(outcome, request)

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
            raise OptionError(
                f"no provider keeps a prompt for {prompt_cache!r} (nothing was sent)", "write 5m or 1h"
            )
        stream = settings.stream if stream is None else stream
        return Request(body, stream, sample or 0, settings.base_url, prompt_cache or "")

    def prepare(
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
        settings = self.settings
        body = chat_body(prompt, model=model, settings=settings, system=system, params=params)
        request = self.request(body, settings, sample=sample, stream=stream, prompt_cache=prompt_cache)
        if mode is None and sample is None and ttl is None and tag is None:
            return request, self._usual_policy(settings)
        return request, policy_for(settings, mode=mode, sample=sample, ttl=ttl, tag=tag)

    def _usual_policy(self, settings: Settings) -> Policy:
        """The policy of an ask without options of its own; made once for the same settings."""
        if self._usual is None or self._usual[0] is not settings:
            self._usual = (settings, policy_for(settings))
        return self._usual[1]


def _on_the_loop(show: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """`show`, to be called from another thread and done on this task's event loop."""
    if show is None:
        return None
    import asyncio

    loop = asyncio.get_running_loop()

    def shown(text: str) -> None:
        loop.call_soon_threadsafe(show, text)

    return shown


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
        recorder = Recorder(
            self.store,
            self.ledger,
            self.database.transaction,
            notebook=notebook,
            clock=clock,
            prompt_cache_saved=self._prompt_cache_saved,
        )
        leases = TieredLeases(DiskLeases(self.database, clock), self._team.leases)
        self._engine = Engine(recorder, self._open_gateway, leases)

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
        callbacks: Callbacks = Callbacks(),  # noqa: B008 - frozen
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """What asking a request comes to; see `Engine.ask`.

        Args:
            request: What to ask.
            policy: How the cache may be used.
            callbacks: Who asks.
            max_cost_usd: The most that the call may cost.
            limits: Limits that it shares with other asks.
        """
        watch = self._watch(request, max_cost_usd, limits)
        outcome = None
        try:
            if watch is None:
                outcome = self._engine.ask(request, policy, callbacks)
            else:
                with watch:
                    outcome = self._engine.ask(request, policy, watch.over(callbacks))
                    watch.paid = outcome.paid
            return self._warned(outcome)
        finally:
            self._finished(request, outcome)

    async def arun(
        self, request: Request, policy: Policy, callbacks: Callbacks, *, max_cost_usd: Decimal | None = None
    ) -> Outcome:
        """`run` for a task of an event loop; see `Engine.aask`."""
        watch = self._watch(request, max_cost_usd)
        outcome = None
        try:
            if watch is None:
                outcome = await self._engine.aask(request, policy, callbacks)
            else:
                with watch:
                    outcome = await self._engine.aask(request, policy, watch.over(callbacks))
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
    ) -> BudgetGuard | None:
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
