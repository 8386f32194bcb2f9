"""What an ask with a schema needs besides: may it be sent, does the answer fit, is it asked again if not.

Asking again is a conversation: the messages, the answer, what is wrong with it. That is a request like any
other, with a key of its own. An answer that does not fit is kept, with the reason, and never served; a rerun
finds it, makes the same request of it, and so finds the answer to that, without asking anything.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.cache.conversation import assistant_turn
from or_cache_magic.core.callbacks import Callbacks, OnWait, Show
from or_cache_magic.core.chat import CORRECTION
from or_cache_magic.core.json_schema import why_no_schema
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import (
    EMPTY,
    NO_FIT,
    NO_JSON,
    lifetime_s,
    why_no_lookup,
    why_not_served,
    why_not_whole,
    why_unfit,
)
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Answer, Cost, Outcome, Request
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_count
from or_cache_magic.errors import OptionError, OrCacheError, StoreError

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Entry
    from or_cache_magic.core.schema import Schema
    from or_cache_magic.money.budget import Limit
    from or_cache_magic.money.catalog import PriceCatalog
    from or_cache_magic.storage.entries import DiskStore, HistoryEntry

_TELLING: Final = CORRECTION + "{}. Answer again, all of it, with nothing but the JSON."


def check_schema(request: Request, prices: PriceCatalog, *, may_fetch: bool = True) -> None:
    """Do nothing where a request with a schema may be sent, as far as is known, or may be fetched.

    Raises:
        OptionError: The schema is none, or the model is known to take none; nothing was sent.
    """
    form = request.body["response_format"]["json_schema"]["schema"]
    if (wrong := why_no_schema(form)) is not None:
        raise OptionError(
            f"the schema is no JSON Schema ({wrong}; nothing was sent)",
            "mend it, or write the short form: 'name str, year int?'",
        )
    if (why := prices.why_no_schema(request, may_fetch=may_fetch)) is not None:
        raise OptionError(
            f"{why} (nothing was sent)",
            "name a model that has them, or ask for JSON in the prompt (-f json)",
        )


def misfit(request: Request, outcome: Outcome, schema: Schema | None) -> str | None:
    """Return what of an answer is not as it was asked for; None when it is.

    What is stored was checked against its JSON schema; a class looks each time: it may be another.
    """
    if not outcome.stored:
        return why_unfit(request, outcome.answer, schema)
    return None if schema is None else schema.why_not(outcome.answer.text)


def ask_until_it_fits(
    cache: CompletionCache,
    ask: Ask,
    callbacks: Callbacks,
    max_cost_usd: Decimal | None,
    limits: Sequence[Limit],
) -> Outcome:
    """Return what an ask comes to with its repairs, which share its limits; see `CompletionCache.run`."""
    repairs = Repairs(ask, cache.store, cache.clock())
    steps = repairs.steps(callbacks.on_wait)
    limits, outcome = _shared(max_cost_usd, limits), None
    while True:
        try:
            outcome = cache.run(steps.send(outcome), callbacks, limits=limits)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except OrCacheError as exc:
            raise repairs.failed(exc) from None


async def aask_until_it_fits(
    cache: CompletionCache,
    ask: Ask,
    callbacks: Callbacks,
    max_cost_usd: Decimal | None,
    limits: Sequence[Limit],
) -> Outcome:
    """`ask_until_it_fits` for a task of an event loop."""
    repairs = Repairs(ask, cache.store, cache.clock())
    steps = repairs.steps(callbacks.on_wait)
    limits, outcome = _shared(max_cost_usd, limits), None
    while True:
        try:
            outcome = await cache.arun(steps.send(outcome), callbacks, limits=limits)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except OrCacheError as exc:
            raise repairs.failed(exc) from None


def _shared(max_cost_usd: Decimal | None, limits: Sequence[Limit]) -> Sequence[Limit]:
    if max_cost_usd is None:
        return limits
    from or_cache_magic.money.budget import BudgetTracker, Limit

    return (*limits, Limit("--max-cost", max_cost_usd, BudgetTracker()))


class Repairs:
    """The asks that one ask comes to when its answers don't fit.

    Args:
        ask: The first, with how many may follow.
        store: Has the answers that did not fit.
        now_s: UTC epoch seconds.
    """

    def __init__(self, ask: Ask, store: DiskStore, now_s: float) -> None:
        self._most = self._left = ask.repair
        self._store, self._now_s = store, now_s
        #: The last answer that did not fit, where no more may be asked for.
        self.used_up: HistoryEntry | None = None
        #: What is to be asked first: in a rerun the last of what was asked before.
        self.start = self._found(ask._replace(repair=0))
        self._outcomes: list[Outcome] = []

    def steps(self, on_wait: OnWait | None = None) -> Generator[Ask, Any, Outcome]:
        """Yield each ask, take its outcome, and return what all came to; `on_wait` is told of each again."""
        tell, ask = Show(on_wait), self.start
        outcomes = self._outcomes
        while True:
            if self.used_up is not None:
                return self._whole(ask, [*outcomes, _kept(ask, self.used_up)])
            outcome: Outcome = yield ask
            outcomes.append(outcome)
            why = misfit(ask.request, outcome, ask.schema) if self._left else None
            if why is None and self._left and _says_nothing(ask.request, outcome.answer):
                self._left, why = self._left - 1, EMPTY
            elif why is None or not _can_be_told(outcome.answer):
                return self._whole(ask, outcomes)
            else:
                ask = self._found(self._next(ask, outcome.answer, why))
            if self.used_up is None:
                tell(f"{why}: asking again ({self._most - self._left} of {self._most})")

    def failed(self, failure: OrCacheError) -> OrCacheError:
        """Return the error of the last ask, which others may get too, with what those before it cost."""
        paid = _sum(self._outcomes)
        if paid == FREE:
            return failure
        told = copy(failure)
        told.paid_before = paid
        return told

    def _next(self, ask: Ask, answer: Answer, why: str) -> Ask:
        self._left -= 1
        body = ask.request.body
        told = [
            *body["messages"],
            assistant_turn(answer.choices[0].message),
            {"role": "user", "content": _TELLING.format(why)},
        ]
        request = ask.request._replace(body={**body, "messages": told})
        return ask._replace(key=request_key(request), request=request)

    def _found(self, ask: Ask) -> Ask:
        """Return the last ask that earlier answers lead to, of those with an answer to serve if any has.

        Where they lead to one that may not be told what is wrong with its answer, that is `used_up`.
        """
        served = None
        if ask.policy.mode in ("refresh", "bypass") or why_no_lookup(ask.request, ask.policy) is not None:
            return ask
        while True:
            entry, kept = self._entry(ask), self._unfit(ask)
            if entry is not None:
                served = ask, self._left
            if kept is None or (entry is not None and entry.created_s >= kept.at_s):
                ask, self._left = served or (ask, self._left)
                return ask
            if not self._left:
                self.used_up = None if served else kept
                ask, self._left = served or (ask, 0)
                return ask
            ask = self._next(ask, kept.answer, kept.reason)

    def _entry(self, ask: Ask) -> Entry | None:
        with suppress(StoreError):
            entry = self._store.get(ask.key)
            if entry is not None and why_not_served(entry, self._now_s) is None:
                return entry
        return None

    def _unfit(self, ask: Ask) -> HistoryEntry | None:
        """Return the newest kept answer that did not fit, if it is not too old to build on."""
        with suppress(StoreError):
            for kept in self._store.unserved(ask.key.digest):
                ttl_s, _ = lifetime_s(ask.request, kept.answer, ask.policy)
                if ttl_s is not None and kept.at_s + ttl_s <= self._now_s:
                    return None
                if _is_unfit(ask, kept) and _can_be_told(kept.answer):
                    return kept
        return None

    def _whole(self, ask: Ask, outcomes: list[Outcome]) -> Outcome:
        """Return the last outcome, with what all were charged, and what came before."""
        last, before = outcomes[-1], self._most - self._left
        # A served answer says something: to check it again would bring jsonschema to a hit.
        asks_nothing = not self._left and (last.served or not _says_nothing(ask.request, last.answer))
        last = last._replace(repair=self._most if asks_nothing else 0)
        if not before:
            return last
        seconds = sum(outcome.elapsed_s for outcome in outcomes)
        note = f"{format_count(before, 'answer')} before did not fit"
        return last._replace(
            notes=(*last.notes, note), paid=_sum(outcomes), elapsed_s=seconds, request=ask.request
        )


def _kept(ask: Ask, kept: HistoryEntry) -> Outcome:
    """Return what an ask comes to that asks nothing: the answer that is kept, and does not fit."""
    why = f"kept, and not asked again: {kept.reason}"
    return Outcome("kept", ask.key, kept.answer, not_stored=why, paid=FREE, saved_usd=ZERO_USD)


def _is_unfit(ask: Ask, kept: HistoryEntry) -> bool:
    """Return whether a kept answer is whole and not what was asked for; by its reason: to check is slow."""
    if kept.reason.startswith((NO_JSON, NO_FIT)):
        return True
    is_misfit = kept.reason.startswith("the answer does not fit ")  # some class, perhaps another
    return is_misfit and ask.schema is not None and ask.schema.why_not(kept.answer.text) is not None


def _says_nothing(request: Request, answer: Answer) -> bool:
    """Return whether an answer ended well with nothing in it: it is asked for anew, with nothing told."""
    return answer.finish_reason == "stop" and why_not_whole(request, answer) == EMPTY


def _can_be_told(answer: Answer) -> bool:
    """Return whether a message may follow an answer: behind calls of tools only their results may."""
    return bool(answer.choices) and not answer.choices[0].message.get("tool_calls")


def _sum(outcomes: list[Outcome]) -> Cost:
    paid = [outcome.paid for outcome in outcomes if outcome.made_call]
    known = [cost.usd for cost in paid if cost.usd is not None]
    if len(known) < len(paid):
        return UNKNOWN_COST
    sources = {cost.source for cost in paid}
    return Cost(sum(known, ZERO_USD), sources.pop() if len(sources) == 1 else "estimated") if paid else FREE
