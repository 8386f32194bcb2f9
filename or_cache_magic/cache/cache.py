"""`CompletionCache`: ask, browse, account and purge, on one folder. No IPython needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from functools import cache, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.parts import Given, Parts, above
from or_cache_magic.cache.process import own
from or_cache_magic.cache.request import Usd, build_ask, parse_limit
from or_cache_magic.core.callbacks import Callbacks, OnText, OnWait, callbacks_of
from or_cache_magic.core.project import current_folder
from or_cache_magic.core.records import Outcome, Request
from or_cache_magic.core.settings import Ask, Project, Settings, load_settings, whole
from or_cache_magic.core.units import format_size
from or_cache_magic.engine.engine import Engine
from or_cache_magic.errors import (
    OptionError,
    OrCacheError,
    StoreError,
)

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from openai import AsyncOpenAI, OpenAI
    from typing_extensions import Self

    from or_cache_magic.cache.purge import Purge
    from or_cache_magic.core.records import Entry
    from or_cache_magic.core.rows import EntryFilter, EntryRow, Totals
    from or_cache_magic.explain.nearest import Nearest
    from or_cache_magic.explain.report import Report
    from or_cache_magic.explain.why import Why
    from or_cache_magic.money.budget import BudgetGuard, Limit
    from or_cache_magic.money.cost_control import CostControl
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.replay.packs import Exported, Imported
    from or_cache_magic.tables.verify import Verification

_GROUPS = ("", "model", "day", "notebook", "tag")
_LARGE_BYTES = 1_000_000
_NO_CALLBACKS = Callbacks()

_P = ParamSpec("_P")
_T = TypeVar("_T")
_O = TypeVar("_O", Outcome, None)


def key_from_environment() -> str | None:
    """Return the OpenRouter key in ``OPENROUTER_API_KEY``, or None; no other variable is looked at."""
    return os.environ.get("OPENROUTER_API_KEY") or None


def _with_arguments_of(
    function: Callable[_P, Any],
) -> Callable[[Callable[..., Coroutine[Any, Any, _T]]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Give a coroutine function the signature of another function, for type checkers, editors and ``?``."""
    return lambda coroutine: update_wrapper(coroutine, function, assigned=(), updated=())


async def _raised(failure: OrCacheError) -> Completion:
    raise failure


class CompletionCache:
    """The completion cache in one folder, and the asks that go through it. Thread-safe.

    Nothing is opened, made or imported until it is needed: the folder at the first store, the
    ``openai`` client at the first miss, pandas at the first table.

    Args:
        directory: The folder; it is made at the first store. ``:memory:`` is none: nothing is written to
            disk, and all is gone when the cache is closed.
        settings: Returns the settings in force, called once for each ask; None reads the environment and the
            nearest ``pyproject.toml`` once.
        api_key: Returns the OpenRouter key when one is needed; None reads ``OPENROUTER_API_KEY``.
        notebook: Where the asks come from, for browsing.
        clock: Returns UTC epoch seconds.
        packs: The folder whose packs (``NAME.orcache.jsonl``) are read through where they lie, on a miss;
            None is none.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: Callable[[], Settings] | None = None,
        api_key: Callable[[], str | None] = key_from_environment,
        notebook: str = "",
        clock: Callable[[], float] = time.time,
        packs: str | os.PathLike[str] | None = None,
    ) -> None:
        self.directory = Path(directory).expanduser()
        #: Identifies this session in the ledger.
        self.session = os.urandom(6).hex()
        #: Returns UTC epoch seconds.
        self.clock = clock
        self._settings = settings or cache(lambda: load_settings(os.environ, Project(current_folder()), {}))
        self._api_key = api_key
        pack_folder = None if packs is None else Path(packs)
        self._given = Given(
            self.directory,
            self.session,
            clock,
            notebook,
            self._settings,
            api_key,
            pack_folder,
        )
        self._inherited: list[Any] = []
        self._begin()
        own(self)

    def _begin(self) -> None:
        """Make what belongs to this process."""
        #: Whether something was bought, or failed, since the last `flush`.
        self.bought = False
        #: The last ask that was no hit, its outcome (None of one that failed), and when it ended.
        self.last_unserved: tuple[Ask, Outcome | None, float] | None = None
        self._parts = parts = Parts(self._given)
        self.database, self.store, self.ledger = parts.database, parts.store, parts.ledger
        #: Keeps answers and accounts, together.
        self.recorder = parts.recorder
        #: The shared server behind the store, where one is set.
        self.shared = parts.shared
        #: What asks go through.
        self.engine = Engine(
            parts.recorder, parts.gateway, parts.leases, self.check, self._explain, parts.replayed
        )

    def __repr__(self) -> str:
        return f"CompletionCache({str(self.directory)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def client(self, **options: Any) -> OpenAI:
        """Return an `openai.OpenAI` whose chat completions go through this cache."""
        made: OpenAI = above("clients.drop_in").client(lambda: self, **options)
        return made

    def async_client(self, **options: Any) -> AsyncOpenAI:
        """Return an `openai.AsyncOpenAI`, for asyncio; see `client`."""
        made: AsyncOpenAI = above("clients.drop_in").async_client(lambda: self, **options)
        return made

    def embed(self, texts: str | Sequence[str], *, model: str, **options: Any) -> NDArray[np.float32]:
        """Return the vectors of texts; see `or_cache_magic.embed`."""
        vectors: NDArray[np.float32] = above("clients.embed").embed(self, texts, model=model, **options)
        return vectors

    @property
    def settings(self) -> Settings:
        """The settings in force, resolved now."""
        self._parts.server.settings = self._settings()
        return self._parts.server.settings

    # -- asking -------------------------------------------------------------------------------

    def ask(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        system: str | None = None,
        attach: Any = None,
        mode: str | None = None,
        sample: int | None = None,
        ttl: float | str | None = None,
        tag: str | Sequence[str] | None = None,
        stream: bool | None = None,
        prompt_cache: str | None = None,
        reply_to: Completion | None = None,
        schema: Any = None,
        repair: int | None = None,
        max_cost_usd: Usd | None = None,
        on_text: OnText | None = None,
        on_wait: OnWait | None = None,
        **params: Any,
    ) -> Completion:
        """Return the completion of a prompt: from the cache when it is there, else bought and kept.

        Args:
            prompt: The user's text, or a list of messages.
            model: A model id or an alias; None takes the setting.
            system: The system prompt; None takes the setting, empty sends none.
            attach: What goes with the prompt, one or a list: a path, an http(s) URL (never fetched here),
                bytes, a figure, a picture, a table; see `cache.attachments`. Keyed by content.
            mode: ``normal``, ``refresh`` (ask and replace), ``bypass`` (neither read nor write) or
                ``offline`` (stored answers only).
            sample: Which sample of this request, from 0; each is stored on its own, at any temperature.
            ttl: Lifetime of the entry in seconds, or as text: ``"24h"``, ``"never"``.
            tag: A label of the entry, or several.
            stream: Whether to ask for a stream; None takes the setting. Not in the key.
            prompt_cache: ``5m`` or ``1h``: for how long the provider's prompt caching is to keep the system
                prompt and attachments, where the model takes marks. Not in the key.
            reply_to: The answer whose conversation this goes on with: its messages, itself, then the prompt.
                Model and system prompt are the conversation's unless they are given.
            schema: What the answer is to be, and its ``data`` then is: a text such as
                ``"name str, year int?, tags [str]"``, a JSON Schema, a dataclass, a pydantic class, a list
                of one.
            repair: How many times more is asked, with what is wrong, when an answer is not that.
            max_cost_usd: Nothing is sent if the call may cost more; the settings' budgets hold besides.
            on_text: Called with each piece of text that arrives from upstream.
            on_wait: Called with a line that says which other kernel's identical ask is waited for.
            **params: Any other field of the request (``temperature``, ``top_p``, ``provider``, …);
                None leaves a field out.

        Raises:
            InputError: It can't be asked as it is; nothing was sent.
            ReplayMiss: Offline, and neither stored nor in a pack.
            MissingKeyError: Not stored, and no API key.
            BudgetError: Not stored, and the call may cost more than a limit leaves, or it is not known.
            UpstreamError: The call was refused or failed.
        """
        ask = self.prepare(
            prompt,
            params,
            model=model,
            system=system,
            attach=attach,
            mode=mode,
            sample=sample,
            ttl=ttl,
            tag=tag,
            stream=stream,
            prompt_cache=prompt_cache,
            reply_to=reply_to,
            schema=schema,
            repair=repair,
        )
        limit, callbacks = parse_limit(max_cost_usd), _NO_CALLBACKS
        if on_text is not None or on_wait is not None:
            callbacks = callbacks_of(on_text, on_wait)
        outcome = self.run(ask, callbacks, max_cost_usd=limit)
        return Completion(outcome, ask.request, ask=self.ask, schema=ask.schema)

    @_with_arguments_of(ask)
    def aask(
        self, prompt: str | Sequence[Mapping[str, Any]], **fields: Any
    ) -> Coroutine[Any, Any, Completion]:
        """`ask` for asyncio: the same arguments, answers, errors and accounts; never blocks the event loop.

        A stored answer is there at once. Asks of the same at the same time, by `ask` and `aask`, share one
        call. Of different ones up to 32 are under way at a time (`engine.aio.SIZE`), and the others wait.
        `on_text` and `on_wait` are called on the event loop. The call fixes what is asked, not the await.

        Raises:
            asyncio.CancelledError: The task was cancelled, or the cache closed. If nobody else waits for the
                answer, the connection was closed, and what had arrived is kept as a partial, with its cost.
        """
        on_text, on_wait = fields.pop("on_text", None), fields.pop("on_wait", None)
        try:
            callbacks_of(on_text, on_wait)
            limit = parse_limit(fields.pop("max_cost_usd", None))
            ask = self.prepare(prompt, fields)
        except OrCacheError as exc:
            return _raised(exc)
        return self._answer(ask, on_text, on_wait, limit)

    async def _answer(
        self, ask: Ask, on_text: OnText | None, on_wait: OnWait | None, limit: Decimal | None
    ) -> Completion:
        callbacks = _NO_CALLBACKS
        if on_text is not None or on_wait is not None:
            from or_cache_magic.engine.aio import on_this_loop

            callbacks = Callbacks(on_this_loop(on_text), on_this_loop(on_wait))
        outcome = await self.arun(ask, callbacks, max_cost_usd=limit)
        return Completion(outcome, ask.request, ask=self.ask, schema=ask.schema)

    def map(
        self,
        data: Any,
        template: str | Callable[[Any], Any],
        *,
        model: str | None = None,
        out: str = "answer",
        schema: Any = None,
        workers: int | str | None = "auto",
        max_cost_usd: Usd | None = None,
        on_error: str = "keep",
        limit: int | None = None,
        batch: bool | str = False,
        progress: bool = True,
        **asked: Any,
    ) -> Any:
        """Ask for each row of a table, and return the table with the answers.

        What is stored is free: after an interrupt, a failure or an edit only what is missing is asked, by
        content. Equal requests are asked once. A row that fails fails alone, with its error beside it; where
        the key or the credits are refused, or a budget is used up, nothing more is sent.

        Args:
            data: A DataFrame of pandas, or a table that narwhals knows (polars, Arrow); a Series; a list or
                another iterable.
            template: A text with ``{{ column }}``, ``{{ row.column }}`` or, of a list, ``{{ row }}``; or a
                function of a row that returns a prompt or a list of messages.
            model: A model id or an alias; None takes the setting.
            out: The column of the answers.
            schema: What each answer is to be; see `ask`. One column a field, where it has fields.
            workers: The most that are asked at a time; ``auto`` begins with 8, and goes on as is allowed.
            max_cost_usd: The most that all may cost. The settings' budgets hold besides.
            on_error: ``keep``, or ``raise`` the first error, once what is under way has been kept.
            limit: Only so many of the first rows, and what all would cost.
            batch: Whether what is new goes to OpenRouter's Batch API, at about half the price: the result
                is a `tables.batches.Batch`. Rows that a batch can't take are asked at once; ``only`` refuses
                them.
            progress: Whether the bill, a bar and the summary are shown.
            **asked: The other arguments of `ask`, for all rows.

        Returns:
            Of a table the same kind, with the columns ``out`` (or one a field), ``out_cost_usd``,
            ``out_cached`` and ``out_error`` besides; of a Series one of the answers; of anything else a list
            of completions, None where there is none.

        Raises:
            InputError: It can't be asked so; nothing was sent.
            KeyboardInterrupt: As it came; its ``table`` is the table as far as it came.
            OrCacheError: With ``on_error="raise"``; likewise.
        """
        asked.update(model=model, schema=schema, out=out, workers=workers, max_cost_usd=max_cost_usd)
        asked.update(on_error=on_error, limit=limit, batch=batch, progress=progress)
        return above("tables.map").map_rows(self, data, template, **asked)

    @_with_arguments_of(map)  # noqa: A003 - the method, as is meant
    async def amap(self, data: Any, template: str | Callable[[Any], Any], **options: Any) -> Any:
        """`map` for asyncio: the same, on another thread, so that the event loop is never blocked."""
        return await above("tables.map").amap_rows(self, data, template, **options)

    def prepare(
        self, prompt: str | Sequence[Mapping[str, Any]], fields: Mapping[str, Any], **options: Any
    ) -> Ask:
        """Return what the arguments of `ask` come to under the settings in force, resolved now.

        Args:
            prompt: The user's text, or a list of messages.
            fields: Other fields of the request, and options too.
            **options: See `core.options.OPTIONS`.
        """
        return build_ask(prompt, self._settings(), fields, options)

    def stored(self, ask: Ask) -> Outcome | None:
        """Return what `run` would at once, from a stored answer, and count it alike; else None.

        For lists: what is stored is served on the calling thread, in tens of microseconds, and only what is
        left is handed to those who wait for `run`. Never waits, and never raises for a miss, offline either.
        What is repaired where it doesn't fit is left to `run`.
        """
        if ask.repair:
            return None
        self._parts.server.settings = ask.settings
        outcome = self.engine.stored(ask)
        return outcome if outcome is None or outcome.kind == "hit" else self._after(ask, outcome)

    def run(
        self,
        ask: Ask,
        callbacks: Callbacks = _NO_CALLBACKS,
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """Return the outcome of an ask, and of what it asks again where it doesn't fit; see `Engine.ask`.

        Args:
            ask: What to ask, and how the cache may be used.
            callbacks: The caller's side.
            max_cost_usd: The most that it may cost.
            limits: Limits that it shares with other asks.
        """
        if ask.repair:
            from or_cache_magic.cache.structured import ask_until_it_fits

            return ask_until_it_fits(self, ask, callbacks, max_cost_usd, limits)
        self._parts.server.settings = ask.settings
        guard = self._guard(ask, max_cost_usd, limits)
        try:
            if guard is None:
                outcome = self.engine.ask(ask, callbacks)
            else:
                with guard:
                    outcome = self.engine.ask(ask, guard.over(callbacks))
                    guard.paid = outcome.paid
        except BaseException:
            self._after(ask, None)
            raise
        return outcome if outcome.kind == "hit" else self._after(ask, outcome)

    def buy_vectors(self, asks: Sequence[Ask], callbacks: Callbacks) -> list[Outcome]:
        """Return the outcomes of asks for vectors that are not stored, in one request; see `Vectors.ask`."""
        self._parts.server.settings = asks[0].settings
        try:
            outcomes = self.engine.vectors().ask(asks, callbacks)
        except BaseException:
            self._after(asks[0], None)
            raise
        self._after(asks[-1], outcomes[-1])
        return outcomes

    async def arun(
        self,
        ask: Ask,
        callbacks: Callbacks = _NO_CALLBACKS,
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """`run` for a task of an event loop; see `Engine.aask`."""
        if ask.repair:
            from or_cache_magic.cache.structured import aask_until_it_fits

            return await aask_until_it_fits(self, ask, callbacks, max_cost_usd, limits)
        self._parts.server.settings = ask.settings
        guard = self._guard(ask, max_cost_usd, limits)
        try:
            if guard is None:
                outcome = await self.engine.aask(ask, callbacks)
            else:
                with guard:
                    outcome = await self.engine.aask(ask, guard.over(callbacks))
                    guard.paid = outcome.paid
        except BaseException:
            self._after(ask, None)
            raise
        return outcome if outcome.kind == "hit" else self._after(ask, outcome)

    def peek(self, ask: Ask) -> tuple[EntryRow | None, str]:
        """Return the entry that would be served, and why a call would be made instead; sends nothing.

        Neither where an answer that does not fit would be given again, since its repairs are used up.
        """
        from or_cache_magic.core.rows import EntryFilter

        if ask.repair:
            from or_cache_magic.cache.structured import Repairs

            repairs = Repairs(ask, self.store, self.clock())
            if repairs.used_up is not None:
                return None, ""
            ask = repairs.start
        why = self.why_asked(ask)
        if why is not None:
            return None, why
        rows = self.store.listing.find(EntryFilter(keys=(ask.key.digest,)), limit=1)
        if not rows and (replayed := self._parts.replayed(ask.key)) is not None:
            rows = [above("replay.beside").row_of(replayed[0], ask.request)]
        return (rows[0] if rows else None), ""

    def why_asked(self, ask: Ask) -> str | None:
        """Return why a call would be made for an ask without repairs; None where none would. Sends none."""
        self._parts.server.settings = ask.settings
        return self.engine.why_asked(ask)

    def kept(self, ask: Ask) -> Entry | None:
        """Return the entry on this machine that would serve an ask; None where none would. Counts nothing."""
        found = self.store.get(ask.key)
        if found is None and (replayed := self._parts.replayed(ask.key)) is not None:
            return replayed[0]
        return found

    # -- browsing, accounts, purging ----------------------------------------------------------

    def totals(self, by: str = "", *, session: bool = False) -> list[Totals]:
        """Return the ledger's sums, one for each group; see `rows.Totals`."""
        if by not in _GROUPS:
            raise OptionError(f"can't group by {by!r}", "by takes model, day, notebook or tag")
        return self.ledger.totals(by, session=self.session if session else None)

    def stats(self, by: str = "", *, session: bool = False) -> pd.DataFrame:
        """Return asks, hits, rates and dollars as a DataFrame: one row, or one a group; see `STAT_TYPES`.

        Costs that replies did not report are asked of OpenRouter first, where that is due, for at most three
        seconds.

        Args:
            by: ``model``, ``day``, ``notebook`` or ``tag``; empty is one row for all.
            session: Only this session's asks.
        """
        from or_cache_magic.display.frames import stats_frame

        self.money.reconcile()
        totals = self.totals(by, session=session)
        (whole,) = self.totals(session=session) if by else totals
        distinct = self.ledger.distinct_asks(self.session if session else None)
        more = () if session else self.notices()
        return stats_frame(totals, by, whole=whole, distinct=distinct, more=more)

    def notices(self) -> list[str]:
        """Return what there is to know of the models that entries were bought of, a line each.

        One stands for another model now, one expires, one has another price. Known from the list of models
        that is kept; nothing is fetched.
        """
        from or_cache_magic.cache.models import notices_of

        return notices_of(self)

    def entries(
        self,
        text: str = "",
        *,
        model: str | None = None,
        tag: str | None = None,
        since: float | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the stored answers as a DataFrame, newest first; see `display.entries.ENTRY_TYPES`.

        Args:
            text: Found in the prompt or the answer.
            model: Asked or served model, or a part that names one; ``*`` and ``?`` as in a shell.
            tag: A label.
            since: Stored in the last so many seconds, or ``"7d"``.
            limit: At most so many rows.
        """
        from or_cache_magic.cache.purge import entry_filter
        from or_cache_magic.display.frames import entries_frame

        self.ledger.flush()
        model = self.model_named(model)
        wanted = entry_filter(self.clock(), text=text, model=model, tag=tag, since=since)
        try:
            most = None if limit is None else whole(0)(limit)
        except ValueError as exc:
            raise OptionError(f"limit: {exc}", "write limit=50") from None
        return entries_frame(self.store.listing.find(wanted, limit=most))

    def models(
        self,
        text: str = "",
        *,
        free: bool = False,
        max_price: Usd | None = None,
        image: bool = False,
        tools: bool = False,
        schema: bool = False,
    ) -> pd.DataFrame:
        """Return the models that OpenRouter lists as a DataFrame; see `display.models.MODEL_TYPES`.

        The list is fetched where none is kept or it is a day old, and costs nothing. Offline, or where it
        can't be fetched, it is the one that is kept, however old.

        Args:
            text: Words that are all in the id or the name.
            free: Only what costs nothing.
            max_price: Only what costs at most so many US dollars for a million tokens, of the prompt and of
                the answer alike. What has no known price is left out.
            image: Only what takes pictures.
            tools: Only what calls tools.
            schema: Only what can be held to a JSON Schema.

        Raises:
            OptionError: There is no list that is kept, and none could be fetched.
        """
        from or_cache_magic.cache.models import models_frame

        limit = parse_limit(max_price, "max_price")
        return models_frame(self, text, free=free, max_price=limit, image=image, tools=tools, schema=schema)

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
        """Remove entries and return them as a DataFrame; every condition must hold. Never prompts.

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
            dry_run: Only return what would go.

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
        """Return the entries that a filter names as a DataFrame, newest first."""
        from or_cache_magic.display.frames import entries_frame

        self.ledger.flush()
        return entries_frame(self.store.listing.find(chosen))

    def purge_filter(self, keys: Sequence[str] = (), **conditions: Any) -> EntryFilter:
        """Return the filter of a purge; the conditions are those of `purge`.

        Raises:
            OptionError: No condition at all, or `all` with another.
        """
        from or_cache_magic.cache.purge import purge_filter

        conditions["model"] = self.model_named(conditions.get("model"))
        return purge_filter(self.clock(), keys, **conditions)

    def model_named(self, name: str | None) -> str | None:
        """Return the model of an entry that a name means; see `purge.model_named`."""
        from or_cache_magic.cache.purge import model_named

        return model_named(name, self.store.listing.models()) if name else name

    def preview(self, chosen: EntryFilter) -> Purge:
        """Return what a purge would remove."""
        from or_cache_magic.cache.purge import Purge

        self.ledger.flush()
        goes = self.store.listing.totals(chosen)
        # Making room on this disk does not concern the shared tier.
        shared = self.settings.shared_url is not None and chosen.to_fit_bytes is None
        return Purge(chosen, *goes, self.store.listing.size_bytes() - goes.size_bytes, shared)

    def drop(self, chosen: EntryFilter) -> int:
        """Remove the entries that `chosen` names; return how many."""
        self._parts.server.settings = self._settings()
        self.ledger.flush()
        removed = self.shared.purge(chosen, everything=chosen.unconditional)
        self.database.checkpoint()
        return removed

    def pin(self, key: str, number: int | None = None) -> tuple[str, int]:
        """Make an earlier answer to a request the one that reruns give, here; the other becomes history.

        Its hits and the ledger stay as they are; a pinned answer does not expire.

        Args:
            key: How the entry's key begins, or that, a colon and the number.
            number: Which of the answers, by the numbers of ``%openrouter_entries KEY``; pinning keeps them.

        Returns:
            The whole key, and the number of the answer before; the same where this one was given already.

        Raises:
            OptionError: There is no such answer, or it may not be served: a partial, a filtered one.
        """
        from or_cache_magic.cache.pin import pin

        return pin(self, key, number)

    def why(self, key_or_answer: str | Completion | None = None, *, cell: str = "") -> Why:
        """Return why an ask was not served from the cache; see `explain.why.why`. Sends nothing.

        Args:
            key_or_answer: An answer, or how its key begins; None is the last ask that was not served.
            cell: The key of what that ask's cell had asked before, where that is known.

        Raises:
            OptionError: There is no such ask.
        """
        found: Why = above("explain.why").why(self, key_or_answer, cell=cell)
        return found

    def report(
        self,
        notebook: str | os.PathLike[str] | None = None,
        *,
        format: str = "markdown",  # noqa: A002 - what it is called
    ) -> Report:
        """Return what was asked of which models, when, how often and at what cost, for a methods section.

        From the ledger and the entries only: the same cache gives the same text. Sends nothing.

        Args:
            notebook: Its path, or the end of it, as the ledger has it; ``*`` and ``?`` as in a shell. None is
                this notebook, and where there is none the whole folder; so is ``*``.
            format: What it is shown as: ``markdown`` or ``latex``. It has both.

        Raises:
            OptionError: The ledger has no such notebook, or nothing was asked.
        """
        digest = above("replay.packs").pack_digest
        how = {"format": format, "secret": self._api_key() or "", "digest": digest}
        made: Report = above("explain.report").report(self, notebook, **how)
        return made

    def nearest(self, request: Request, **options: Any) -> Nearest | None:
        """Return the stored request that is nearest to one; see `explain.nearest.nearest`."""
        found: Nearest | None = above("explain.nearest").nearest(self.database, request, **options)
        return found

    def verify(
        self,
        *keys: str,
        sample: float | str = 0.05,
        max_cost_usd: Usd | None = None,
        progress: bool = True,
        **conditions: Any,
    ) -> Verification:
        """Ask for a sample of the entries again, and return how far the answers agree with the stored ones.

        The new answers are paid for, kept as history of their entries, and never served. The sample is taken
        at random by the keys: the same each time while the entries are, and a smaller one is in a larger.

        Args:
            *keys: Keys, or how they begin.
            sample: A share (``0.05``, ``"5%"``), or how many (``20``).
            max_cost_usd: The most that all may cost. The settings' budgets hold besides.
            progress: Whether what it may cost and a bar are shown.
            **conditions: ``text``, ``model``, ``system``, ``tag``, ``prefix``, ``since`` and ``older``, as in
                `entries` and `purge`; every one must hold. None is all.

        Raises:
            OptionError: Offline, or a condition is none; nothing was sent.
            MissingKeyError: There is no key; nothing was sent.
            KeyboardInterrupt: As it came; its ``table`` is the result as far as it came.
        """
        how = {"sample": sample, "max_cost_usd": max_cost_usd, "progress": progress}
        found: Verification = above("tables.verify").verify(self, keys, **how, **conditions)
        return found

    def quota_warning(self, settings: Settings | None = None) -> str:
        """Return that the entries are larger than the setting ``quota``, and what helps; empty when not.

        Args:
            settings: In force; None resolves them.
        """
        quota_bytes = (settings or self.settings).quota
        if quota_bytes is None:
            return ""
        try:
            size_bytes = self.store.listing.size_over(quota_bytes)
        except StoreError:
            return ""  # said where the answer could not be kept
        if size_bytes is None:
            return ""
        quota = format_size(quota_bytes)
        return (
            f"the completion cache holds {format_size(size_bytes)}, over its quota of {quota}:"
            f" %openrouter_purge --to-fit {quota.replace(' ', '')}"
        )

    @property
    def money(self) -> CostControl:
        """Prices, budgets and reconciliation; made when they are first needed."""
        return self._parts.money

    # -- packs --------------------------------------------------------------------------------

    def export(
        self,
        path: str | os.PathLike[str],
        *keys: str,
        format: str = "pack",  # noqa: A002 - what it is called
        media: str = "inline",
        progress: bool = True,
        **conditions: Any,
    ) -> Exported:
        """Write answers with their requests into a pack: JSON lines, sorted, made to be committed.

        The same answers are the same bytes. Secrets in answers are hidden; where one stands in a request,
        nothing is written. A pack of that name is replaced, any other file is left as it is.

        Args:
            path: The file; ``NAME.orcache.jsonl`` beside ``NAME.ipynb`` is read through where it lies.
            *keys: Keys, or how they begin.
            format: ``pack``, or a data set of what is served: ``chat``, JSON lines of messages with the
                answer last, model and cost; or ``parquet``, a table.
            media: ``inline``, or ``files``: large media goes into files in ``NAME.media`` beside the pack.
            progress: Whether a bar is shown where it takes long.
            **conditions: ``text``, ``model``, ``system``, ``tag``, ``prefix``, ``since`` and ``older``, as in
                `entries` and `purge`; every one must hold. None is all.

        Raises:
            OptionError: A request holds a secret, a condition is none, or the file can't be written.
        """
        how = {"format": format, "media": media, "progress": progress, "secret": self._api_key() or ""}
        written: Exported = above("replay.packs").export(self, path, keys, conditions, **how)
        return written

    def load(self, path: str | os.PathLike[str], *, progress: bool = True) -> Imported:
        """Take the answers of a pack into this cache, and return how many came. Nothing is asked or paid.

        What is here stays. Whatever a line claims is checked; one that is wrong is refused alone.

        Args:
            path: The pack.
            progress: Whether a bar is shown where it takes long.

        Raises:
            OptionError: It can't be read, or is no pack.
        """
        taken: Imported = above("replay.packs").load(self, path, progress=progress)
        return taken

    # -- opening and closing ------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is counted in memory, and bring the file up to date, so that a copy has all."""
        self.ledger.flush()
        if self.bought:
            self.bought = False
            self.database.checkpoint()

    def close(self) -> None:
        """Flush, close, and cancel what `aask` asks; what clients ask and is paid for is kept first.

        It can be used again; it opens what it needs.
        """
        self.engine.close()
        self._parts.wait_for_threads()
        self._parts.close()

    def on_thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Begin work that may go on when its caller has left, and return its thread; `close` waits for it."""
        return self._parts.on_thread(work, name)

    # -- as an owner of what belongs to one process; see `process` ----------------------------

    def pause(self, until_s: float) -> None:
        """Let no thread be inside SQLite, while this process forks."""
        self.database.pause(until_s)

    def resume(self) -> None:
        """End a `pause`."""
        self.database.resume()

    def renew(self) -> None:
        """Begin anew in the child of a fork; what is its parent's stays alive, and is not used."""
        self._inherited.append({**vars(self)})
        self._begin()

    def write_counts(self, wait_s: float) -> bool:
        """Write what is counted in memory; return whether nothing is left there."""
        return self.ledger.flush(wait_s)

    # -- within -------------------------------------------------------------------------------

    def _guard(
        self, ask: Ask, max_cost_usd: Decimal | None, limits: Sequence[Limit] = ()
    ) -> BudgetGuard | None:
        """Return what guards the budgets of an ask; None, at no cost, where nothing limits it.

        Marks for prompt caching are guarded too: that has the prices at hand by which their savings count.
        """
        settings = ask.settings
        budgets = (max_cost_usd, settings.max_cost_usd, settings.max_cost_per_day_usd)
        if budgets == (None, None, None) and not limits and not ask.request.prompt_cache:
            return None
        return self.money.guard(settings, max_cost_usd, limits)

    def _after(self, ask: Ask, outcome: _O) -> _O:
        """Have written and reconciled what an ask, not a hit, left; None is one that failed.

        Returns:
            The outcome, with a note where it made the cache grow over its quota.
        """
        self.bought = True
        self.last_unserved = (ask, outcome, self.clock())
        if sum(one.size_bytes for one in ask.attached) >= _LARGE_BYTES:
            self.database.checkpoint()  # or the log has it a second time until the cell's end
        if outcome is None or outcome.made_call:
            self.money.after_call(ask, outcome)
            if outcome is not None and outcome.stored and (warning := self.quota_warning(ask.settings)):
                return outcome._replace(notes=(*outcome.notes, warning))
        return outcome

    @property
    def gateway(self) -> Gateway:
        """What sends requests, by the settings in force."""
        self._parts.server.settings = self._settings()
        return self._parts.gateway()

    def require_key(self) -> str:
        """Return the OpenRouter key that the next request would be sent with.

        Raises:
            MissingKeyError: There is none, or it can't be one.
        """
        return self._parts.gateway().require_key()

    def check(self, ask: Ask, may_fetch: bool = True) -> None:
        """Raise what an ask is refused with before it is sent, as far as that is known.

        Args:
            ask: What is to be sent.
            may_fetch: Whether OpenRouter is asked for what it lists.

        Raises:
            RequestError: No model of it is there, or takes its pictures or sound.
            OptionError: Its schema is none, or no model of it takes one.
        """
        from or_cache_magic.cache.refusals import check  # a hit needs none

        check(self._parts, ask, may_fetch)

    def _explain(self, ask: Ask, failure: OrCacheError) -> None:
        from or_cache_magic.cache.refusals import explain

        explain(self._parts, ask, failure)
