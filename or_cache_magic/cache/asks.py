"""The ways to ask a `CompletionCache`: one prompt, on an event loop, a whole list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.request import chat_body, policy_for
from or_cache_magic.core.callbacks import Asker, OnText, OnWait
from or_cache_magic.core.cost import parse_usd
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import Outcome, Request
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.money.budget import Limit

__all__ = ["Asks"]

Usd = Decimal | float | str
"""An amount of US dollars as a user gives it."""


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
        asker: Asker = Asker(),  # noqa: B008 - frozen
        *,
        max_cost_usd: Decimal | None = None,
        limits: Sequence[Limit] = (),
    ) -> Outcome:
        """What asking a request comes to."""
        raise NotImplementedError

    async def arun(
        self, request: Request, policy: Policy, asker: Asker, *, max_cost_usd: Decimal | None = None
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
        outcome = await self.arun(request, policy, asker, max_cost_usd=_limit(max_cost_usd))
        return Completion(outcome, request)

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
        """Fills the cache from a list of prompts, and tells what each came to; see `filling.COLUMNS`.

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
        from or_cache_magic.tables.batch import fill
        from or_cache_magic.tables.prompts import Prompt, options_and_params, read_prompts

        options, params = options_and_params(asked)
        limits: list[Limit] = []
        if (limit := _limit(max_cost_usd)) is not None:
            from or_cache_magic.money.budget import Limit, Purse

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
            raise OptionError(
                f"no provider keeps a prompt for {prompt_cache!r} (nothing was sent)", "write 5m or 1h"
            )
        stream = settings.stream if stream is None else stream
        return Request(body, stream, sample or 0, settings.base_url, prompt_cache or "")

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
