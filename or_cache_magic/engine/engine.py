"""The order of events of one ask, and nothing else. Read `Engine.ask` from top to bottom.

`Engine.aask` is the same for an event loop: it looks up and finishes on the loop, and flies on a thread.

1. key: which request is this;
2. look up: is its answer stored, and may it be served;
3. offline, nothing to serve is an error;
4. one flight: of simultaneous identical asks one goes on, here and in other processes, and the others
   wait for it;
5. look again: another flight may have landed between 2 and 4;
6. send, showing text as it comes;
7. may it be stored: decided on the whole answer;
8. account and put, in one transaction: what was paid is written before the answer is called kept;
9. hit and miss alike come back through one tail, where asks that made no call are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.callbacks import Callbacks, Show
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy, notes_on, why_no_lookup, why_not_served, why_not_stored
from or_cache_magic.core.records import FREE, Answer, AskKind, Entry, Outcome, Request, RequestKey
from or_cache_magic.engine.cross_process import Turn, take_turn
from or_cache_magic.engine.recorder import Recorder, paid_for
from or_cache_magic.engine.single_flight import SingleFlight
from or_cache_magic.errors import CacheMissError, OrCacheError, StoreError, StreamBrokenError, UpstreamError

if TYPE_CHECKING:
    from or_cache_magic.engine.aio import AsyncFlights
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.storage.leases import Leases

__all__ = [
    "Engine",
    "broken",
    "coalesced",
    "coalesced_unserved",
    "is_whole",
    "notes_on_call",
    "offline_miss",
    "stale",
]

_ZERO: Final = Decimal(0)


def is_whole(answer: Answer) -> bool:
    """Whether a reply is an answer, though perhaps not one to be served again."""
    return answer.error is None and answer.complete and bool(answer.choices)


def notes_on_call(request: Request, answer: Answer) -> tuple[str, ...]:
    """What the receipt of a call says: `notes_on` it, and why nothing was marked for prompt caching."""
    notes = notes_on(request, answer)
    if not request.prompt_cache:
        return notes
    from or_cache_magic.openrouter.prompt_caching import marked  # few ask for it

    marks = marked(request.body, request.prompt_cache)
    shorter = marks.marks and marks.ttl != request.prompt_cache
    why = marks.why_not or ("kept for 5 minutes; only Anthropic keeps an hour" if shorter else "")
    return (*notes, f"prompt caching: {why}") if why else notes


def coalesced(outcome: Outcome) -> Outcome:
    """A flight's outcome as one who waited for it has it."""
    if outcome.kind in ("hit", "team", "replay", "stale"):
        return outcome
    return outcome._replace(kind="coalesced", paid=FREE, saved_usd=outcome.answer.cost.usd)


def coalesced_unserved(key: RequestKey, request: Request, kept: Answer) -> Outcome | None:
    """The outcome of waiting for an answer that was set aside, being whole; None when it is none to show."""
    refusal = why_not_stored(request, kept)
    if refusal is None or not is_whole(kept):
        return None
    notes = notes_on(request, kept)
    return coalesced(Outcome("miss", key, kept, not_stored=refusal, notes=notes))


def stale(key: RequestKey, request: Request, entry: Entry, failure: UpstreamError) -> Outcome:
    """The outcome of an expired entry that is served because the call failed."""
    note = f"the call failed: {failure.status or 'no connection'}"
    return Outcome(
        "stale",
        key,
        entry.answer,
        stored=True,
        notes=(*notes_on(request, entry.answer), note),
        entry_created_s=entry.created_s,
        paid=FREE,
        saved_usd=_ZERO,
    )


def offline_miss(key: RequestKey, why: str) -> CacheMissError:
    """The error for an ask that may not be sent; `why` is why nothing is served."""
    return CacheMissError(
        f"offline, and no answer to serve for {key.digest[:10]}: {why} (nothing was sent)",
        "run it once with a key and without --offline (or with OR_CACHE_MODE=normal)",
        key=key.digest,
    )


def broken(answer: Answer, *, kept: bool) -> StreamBrokenError:
    """The error for a reply that is no whole answer; `kept` is whether what came of it is in the cache."""
    usd = answer.cost.usd
    cost = "its cost is not known yet" if usd is None else f"it cost ${usd:f}" if usd else "nothing was paid"
    reason = str((answer.error or {}).get("message") or "the stream ended early")
    partial = "; what had arrived is kept in the cache as a partial, and never served" if kept else ""
    return StreamBrokenError(
        f"the answer broke off: {' '.join(reason.split())[:200]} ({cost})",
        f"run the cell again{partial}",
        partial_text=answer.text,
        generation_id=answer.generation_id,
        cost_usd=answer.cost.usd,
        body=answer.error,
    )


_NO_CALLBACKS: Final = Callbacks()


class _Miss(NamedTuple):
    """Why nothing can be served, and what follows from it.

    Attributes:
        kind: What an answer from upstream will be accounted as.
        why: For the receipt.
        keep: Whether the answer may be stored.
        alone: Whether the callbacks wants an answer of its own, and so shares no flight.
        expired: The entry that is too old, but may be served when the call fails.
    """

    kind: AskKind
    why: str
    keep: bool = True
    alone: bool = False
    expired: Entry | None = None


class _Sought(NamedTuple):
    """An ask whose answer isn't at hand."""

    key: RequestKey
    request: Request
    policy: Policy
    miss: _Miss
    began_s: float


class Engine:
    """Asks through the completion cache. Thread-safe.

    Args:
        recorder: Keep the answers and the accounts.
        gateway: Opens what sends, when something must be sent.
        leases: Where processes take turns to ask; None asks without regard to others.
    """

    def __init__(
        self, recorder: Recorder, gateway: Callable[[], Gateway], leases: Leases | None = None
    ) -> None:
        self._recorder = recorder
        self._gateway = gateway
        self._leases = leases
        self._flights: SingleFlight[Outcome] = SingleFlight()
        self._lock = threading.Lock()
        self._async_flights: AsyncFlights[Outcome] | None = None

    def ask(self, request: Request, policy: Policy, callbacks: Callbacks = _NO_CALLBACKS) -> Outcome:
        """What asking `request` comes to.

        Args:
            request: What to ask.
            policy: How the cache may be used.
            callbacks: Who asks.

        Raises:
            RequestError: The request has no canonical form; nothing was sent.
            CacheMissError: Offline, and nothing to serve.
            MissingKeyError: Nothing to serve, and no API key.
            UpstreamError: The call was refused or failed; its subclass `StreamBrokenError` when a
                part of an answer had arrived, which is kept as a partial.
            Cancelled: It was called off.
        """
        sought = self._seek(request, policy, callbacks)
        if isinstance(sought, Outcome):
            return sought
        if sought.miss.alone:
            outcome, led = self._bring(sought, callbacks), True
        else:
            bring = partial(self._bring, sought, callbacks)
            outcome, led = self._flights.do(sought.key.digest, bring, callbacks.cancel)
        return self._finish(sought, outcome, led)

    async def aask(self, request: Request, policy: Policy, callbacks: Callbacks = _NO_CALLBACKS) -> Outcome:
        """`ask` for a task of an asyncio event loop, which is never blocked.

        An answer on this machine is served at once, without a thread and without waiting. The
        `callbacks` are called on another thread. Cancelling the task calls the ask off, unless others wait
        for the same.
        """
        sought = self._seek(request, policy, callbacks, near=True)
        if isinstance(sought, Outcome):
            return sought
        if callbacks.before_send is not None:
            await self._hands().call(partial(callbacks.before_send, request))
        outcome, led = await self._hands().do(
            sought.key.digest,
            lambda cancel: self._bring(sought, callbacks._replace(cancel=cancel)),
            alone=sought.miss.alone,
        )
        return self._finish(sought, outcome, led)

    def close(self) -> None:
        """Calls off what was asked by `aask`, and waits until it is accounted for."""
        with self._lock:
            async_flights, self._async_flights = self._async_flights, None
        if async_flights is not None:
            async_flights.close()

    def peek(self, request: Request, policy: Policy) -> tuple[RequestKey, Entry | None, str]:
        """The key, the entry that would be served (or None) and why it would be asked; sends nothing."""
        key = request_key(request)
        found = self._look_up(key, request, policy)
        return (key, found, "") if isinstance(found, Entry) else (key, None, found.why)

    def _seek(
        self, request: Request, policy: Policy, callbacks: Callbacks, *, near: bool = False
    ) -> Outcome | _Sought:
        """What can be served at once, or what has to be asked; `near` does neither wait nor call back."""
        began_s = time.perf_counter()
        key = request_key(request)
        found = self._look_up(key, request, policy, near=near)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, began_s)
            self._recorder.count(outcome, request, policy)
            return outcome
        if policy.mode == "offline":
            raise offline_miss(key, found.why)
        if callbacks.before_send is not None and not near:
            callbacks.before_send(request)
        return _Sought(key, request, policy, found, began_s)

    def _finish(self, sought: _Sought, outcome: Outcome, led: bool) -> Outcome:
        """The outcome of a flight as one of those who were aboard has it."""
        outcome = outcome if led else coalesced(outcome)
        outcome = outcome._replace(elapsed_s=time.perf_counter() - sought.began_s)
        self._recorder.count(outcome, sought.request, sought.policy)
        return outcome

    def _look_up(
        self, key: RequestKey, request: Request, policy: Policy, *, near: bool = False
    ) -> Entry | _Miss:
        """The entry to serve, or why there is none; `near` looks only where looking never waits."""
        offline = policy.mode == "offline"
        barred = None if offline else why_no_lookup(request, policy)
        if barred is not None:
            return _Miss("bypass", barred, keep=False, alone=True)
        if policy.mode == "refresh":
            return _Miss("refresh", "asked again", alone=True)
        try:
            # Offline nothing is asked of anybody, the team's server included.
            entry = self._recorder.store.get(key, None if offline or near else request)
        except StoreError as exc:
            return _Miss("miss", f"the completion cache can't be read: {exc.args[0]}")
        if entry is None:
            return _Miss("miss", "not stored yet")
        why = why_not_served(entry, self._recorder.clock())
        if why is None or (offline and policy.stale_if_error):
            return entry
        return _Miss("miss", why, expired=entry)

    def _served(
        self, key: RequestKey, request: Request, policy: Policy, entry: Entry, began_s: float
    ) -> Outcome:
        """The outcome of an entry that is served instead of a call."""
        kind: AskKind = "team" if entry.shared else "hit"
        notes = notes_on(request, entry.answer)
        if policy.mode == "offline":
            kind = "replay"
            if why_not_served(entry, self._recorder.clock()) is not None:
                kind = "stale"
        # Offline no call could have been made, so none was avoided.
        saved_usd = entry.answer.cost.usd if kind in ("hit", "team") else _ZERO
        elapsed_s = time.perf_counter() - began_s
        return Outcome(
            kind, key, entry.answer, "", True, "", notes, entry.created_s, elapsed_s, FREE, saved_usd
        )

    def _bring(self, sought: _Sought, callbacks: Callbacks) -> Outcome:
        """What a flight does: it asks, or serves what is expired when that fails and the policy has it so."""
        key, request, policy, miss, _ = sought
        if miss.alone:
            return self._ask_upstream(key, request, policy, miss, callbacks)
        try:
            return self._fly(key, request, policy, callbacks)
        except StreamBrokenError:
            raise  # a part of the answer is on the screen
        except UpstreamError as exc:
            if miss.expired is not None and policy.stale_if_error:
                return stale(key, request, miss.expired, exc)
            raise

    def _fly(self, key: RequestKey, request: Request, policy: Policy, callbacks: Callbacks) -> Outcome:
        """Asks when no other process does: it lets theirs land first."""
        self._gateway().require_key()  # who can't ask takes no turn, and makes no folder
        turn = take_turn(
            self._leases,
            key.digest,
            lambda since_s: self._landed(key, request, policy, since_s),
            Show(callbacks.on_wait),
            clock=self._recorder.clock,
            sleep=time.sleep if callbacks.cancel is None else callbacks.cancel.sleep,
        )
        if not isinstance(turn, Turn):
            return turn
        with turn:
            # Another flight may have landed between our look and our turn: a second call would be paid for.
            found = self._look_up(key, request, policy)
            if isinstance(found, Entry):
                outcome = self._served(key, request, policy, found, time.perf_counter())
                return outcome._replace(kind="coalesced") if turn.waited else outcome
            return self._ask_upstream(key, request, policy, found, callbacks)

    def _hands(self) -> AsyncFlights[Outcome]:
        with self._lock:
            if self._async_flights is None:
                from or_cache_magic.engine.aio import AsyncFlights  # here, since asyncio takes a script 30 ms

                self._async_flights = AsyncFlights(self._flights)
            return self._async_flights

    def _landed(self, key: RequestKey, request: Request, policy: Policy, since_s: float) -> Outcome | None:
        """What another process's flight that began then has brought; None when nothing yet."""
        found = self._look_up(key, request, policy)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, time.perf_counter())
            return outcome._replace(kind="coalesced")
        kept = self._recorder.set_aside_since(key, since_s)
        return None if kept is None else coalesced_unserved(key, request, kept)

    def _ask_upstream(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, callbacks: Callbacks
    ) -> Outcome:
        from or_cache_magic.openrouter.reply import ReplyReader  # here, since a hit needs none of it

        show = Show(callbacks.on_text)
        reader = ReplyReader(show, clock=self._recorder.clock)
        try:
            # OpenRouter's response caching would repeat an answer where another is wanted.
            fresh = miss.alone or request.sample > 0
            answer = self._gateway().send(request, reader, fresh=fresh, cancel=callbacks.cancel)
        except UpstreamError as exc:
            self._recorder.account_failure(key, request, policy, exc)
            raise
        except OrCacheError:
            raise  # before anything was sent
        except BaseException:
            # Interrupted: it may have been sent, and what had arrived was perhaps paid for.
            arrived = self._recorder.priced(request, reader.answer())
            self._give_up(key, request, policy, miss, arrived, "interrupted")
            raise
        outcome = self._settle(key, request, policy, miss, self._recorder.priced(request, answer))
        return outcome._replace(notes=(*outcome.notes, *show.trouble))

    def _settle(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, answer: Answer
    ) -> Outcome:
        """Accounts for a reply, and stores it if it may be served again."""
        refusal = why_not_stored(request, answer)
        if not is_whole(answer):
            self._give_up(key, request, policy, miss, answer, refusal or "broken")
            raise broken(answer, kept=miss.keep)
        outcome = Outcome(
            miss.kind,
            key,
            answer,
            why=miss.why,
            notes=notes_on_call(request, answer),
            paid=paid_for(answer),
            saved_usd=_ZERO,
        )
        if not miss.keep:
            self._recorder.account(miss.kind, key, request, policy, answer)
            return outcome._replace(not_stored=miss.why)
        if refusal is not None:
            self._recorder.set_aside(miss.kind, key, request, policy, answer, refusal)
            return outcome._replace(not_stored=refusal)
        not_stored, note = self._recorder.keep(miss.kind, key, request, policy, answer)
        notes = (*outcome.notes, note) if note else outcome.notes
        return outcome._replace(stored=not not_stored, not_stored=not_stored, notes=notes)

    def _give_up(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, answer: Answer, reason: str
    ) -> None:
        """Accounts for a call that brought no whole answer, and keeps what came where it may be written."""
        if miss.keep:
            self._recorder.set_aside("failed", key, request, policy, answer, reason)
        else:
            self._recorder.account("failed", key, request, policy, answer)
