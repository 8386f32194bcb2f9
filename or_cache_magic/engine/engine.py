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

from or_cache_magic.core.callbacks import Asker, Show
from or_cache_magic.core.cost import FREE
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy, notes_on, why_no_lookup, why_not_served, why_not_stored
from or_cache_magic.core.records import Answer, AskKind, Entry, Outcome, Request, RequestKey
from or_cache_magic.engine.cross_process import Turn, take_turn
from or_cache_magic.engine.outcomes import (
    broken,
    coalesced,
    coalesced_unserved,
    is_whole,
    notes_on_call,
    offline_miss,
    stale,
)
from or_cache_magic.engine.recorder import Books, paid_for
from or_cache_magic.engine.single_flight import SingleFlight
from or_cache_magic.errors import OrCacheError, StoreError, StreamBrokenError, UpstreamError

if TYPE_CHECKING:
    from or_cache_magic.engine.aio import Crew
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.storage.lease import Leases

__all__ = ["Engine"]

_ZERO: Final = Decimal(0)


_NOBODY: Final = Asker()


class _Miss(NamedTuple):
    """Why nothing can be served, and what follows from it.

    Attributes:
        kind: What an answer from upstream will be accounted as.
        why: For the receipt.
        keep: Whether the answer may be stored.
        alone: Whether the asker wants an answer of its own, and so shares no flight.
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
        books: Keep the answers and the accounts.
        gateway: Opens what sends, when something must be sent.
        leases: Where processes take turns to ask; None asks without regard to others.
    """

    def __init__(self, books: Books, gateway: Callable[[], Gateway], leases: Leases | None = None) -> None:
        self._books = books
        self._gateway = gateway
        self._leases = leases
        self._flights: SingleFlight[Outcome] = SingleFlight()
        self._lock = threading.Lock()
        self._crew: Crew[Outcome] | None = None

    def ask(self, request: Request, policy: Policy, asker: Asker = _NOBODY) -> Outcome:
        """What asking `request` comes to.

        Args:
            request: What to ask.
            policy: How the cache may be used.
            asker: Who asks.

        Raises:
            RequestError: The request has no canonical form; nothing was sent.
            CacheMissError: Offline, and nothing to serve.
            MissingKeyError: Nothing to serve, and no API key.
            UpstreamError: The call was refused or failed; its subclass `StreamBrokenError` when a
                part of an answer had arrived, which is kept as a partial.
            Cancelled: It was called off.
        """
        sought = self._seek(request, policy, asker)
        if isinstance(sought, Outcome):
            return sought
        if sought.miss.alone:
            outcome, led = self._bring(sought, asker), True
        else:
            bring = partial(self._bring, sought, asker)
            outcome, led = self._flights.do(sought.key.digest, bring, asker.cancel)
        return self._finish(sought, outcome, led)

    async def aask(self, request: Request, policy: Policy, asker: Asker = _NOBODY) -> Outcome:
        """`ask` for a task of an asyncio event loop, which is never blocked.

        An answer that is on this machine is served at once, without a thread and without waiting. What
        `asker` shows, it shows on another thread. Cancelling the task calls the ask off, unless others wait
        for the same.
        """
        sought = self._seek(request, policy, asker, near=True)
        if isinstance(sought, Outcome):
            return sought
        if asker.before_send is not None:
            await self._hands().call(partial(asker.before_send, request))
        outcome, led = await self._hands().do(
            sought.key.digest,
            lambda cancel: self._bring(sought, asker._replace(cancel=cancel)),
            alone=sought.miss.alone,
        )
        return self._finish(sought, outcome, led)

    def close(self) -> None:
        """Calls off what was asked by `aask`, and waits until it is accounted for."""
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()

    def peek(self, request: Request, policy: Policy) -> tuple[RequestKey, Entry | None, str]:
        """The key, the entry that would be served (or None) and why it would be asked; sends nothing."""
        key = request_key(request)
        found = self._look_up(key, request, policy)
        return (key, found, "") if isinstance(found, Entry) else (key, None, found.why)

    def _seek(
        self, request: Request, policy: Policy, asker: Asker, *, near: bool = False
    ) -> Outcome | _Sought:
        """What can be served at once, or what has to be asked; `near` does neither wait nor ask the asker."""
        began_s = time.perf_counter()
        key = request_key(request)
        found = self._look_up(key, request, policy, near=near)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, began_s)
            self._books.count(outcome, request, policy)
            return outcome
        if policy.mode == "offline":
            raise offline_miss(key, found.why)
        if asker.before_send is not None and not near:
            asker.before_send(request)
        return _Sought(key, request, policy, found, began_s)

    def _finish(self, sought: _Sought, outcome: Outcome, led: bool) -> Outcome:
        """The outcome of a flight as one of those who were aboard has it."""
        outcome = outcome if led else coalesced(outcome)
        outcome = outcome._replace(elapsed_s=time.perf_counter() - sought.began_s)
        self._books.count(outcome, sought.request, sought.policy)
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
            entry = self._books.store.get(key, None if offline or near else request)
        except StoreError as exc:
            return _Miss("miss", f"the completion cache can't be read: {exc.args[0]}")
        if entry is None:
            return _Miss("miss", "not stored yet")
        why = why_not_served(entry, self._books.clock())
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
            if why_not_served(entry, self._books.clock()) is not None:
                kind = "stale"
        # Offline no call could have been made, so none was avoided.
        saved_usd = entry.answer.cost.usd if kind in ("hit", "team") else _ZERO
        elapsed_s = time.perf_counter() - began_s
        return Outcome(
            kind, key, entry.answer, "", True, "", notes, entry.created_s, elapsed_s, FREE, saved_usd
        )

    def _bring(self, sought: _Sought, asker: Asker) -> Outcome:
        """What a flight does: it asks, or serves what is expired when that fails and the policy has it so."""
        key, request, policy, miss, _ = sought
        if miss.alone:
            return self._ask_upstream(key, request, policy, miss, asker)
        try:
            return self._fly(key, request, policy, asker)
        except StreamBrokenError:
            raise  # a part of the answer is on the screen
        except UpstreamError as exc:
            if miss.expired is not None and policy.stale_if_error:
                return stale(key, request, miss.expired, exc)
            raise

    def _fly(self, key: RequestKey, request: Request, policy: Policy, asker: Asker) -> Outcome:
        """Asks when no other process does: it lets theirs land first."""
        self._gateway().require_key()  # who can't ask takes no turn, and makes no folder
        turn = take_turn(
            self._leases,
            key.digest,
            lambda since_s: self._landed(key, request, policy, since_s),
            Show(asker.on_wait),
            clock=self._books.clock,
            sleep=time.sleep if asker.cancel is None else asker.cancel.sleep,
        )
        if not isinstance(turn, Turn):
            return turn
        with turn:
            # Another flight may have landed between our look and our turn: a second call would be paid for.
            found = self._look_up(key, request, policy)
            if isinstance(found, Entry):
                outcome = self._served(key, request, policy, found, time.perf_counter())
                return outcome._replace(kind="coalesced") if turn.waited else outcome
            return self._ask_upstream(key, request, policy, found, asker)

    def _hands(self) -> Crew[Outcome]:
        with self._lock:
            if self._crew is None:
                from or_cache_magic.engine.aio import Crew  # here, since asyncio takes a script 30 ms

                self._crew = Crew(self._flights)
            return self._crew

    def _landed(self, key: RequestKey, request: Request, policy: Policy, since_s: float) -> Outcome | None:
        """What another process's flight that began then has brought; None when nothing yet."""
        found = self._look_up(key, request, policy)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, time.perf_counter())
            return outcome._replace(kind="coalesced")
        kept = self._books.set_aside_since(key, since_s)
        return None if kept is None else coalesced_unserved(key, request, kept)

    def _ask_upstream(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, asker: Asker
    ) -> Outcome:
        from or_cache_magic.openrouter.reply import Draft  # here, since a hit needs none of it

        show = Show(asker.on_text)
        draft = Draft(show, clock=self._books.clock)
        try:
            # OpenRouter's response caching would repeat an answer where another is wanted.
            fresh = miss.alone or request.sample > 0
            answer = self._gateway().send(request, draft, fresh=fresh, cancel=asker.cancel)
        except UpstreamError as exc:
            self._books.account_failure(key, request, policy, exc)
            raise
        except OrCacheError:
            raise  # before anything was sent
        except BaseException:
            # Interrupted: it may have been sent, and what had arrived was perhaps paid for.
            arrived = self._books.priced(request, draft.answer())
            self._give_up(key, request, policy, miss, arrived, "interrupted")
            raise
        outcome = self._settle(key, request, policy, miss, self._books.priced(request, answer))
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
            self._books.account(miss.kind, key, request, policy, answer)
            return outcome._replace(not_stored=miss.why)
        if refusal is not None:
            self._books.set_aside(miss.kind, key, request, policy, answer, refusal)
            return outcome._replace(not_stored=refusal)
        not_stored, note = self._books.keep(miss.kind, key, request, policy, answer)
        notes = (*outcome.notes, note) if note else outcome.notes
        return outcome._replace(stored=not not_stored, not_stored=not_stored, notes=notes)

    def _give_up(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, answer: Answer, reason: str
    ) -> None:
        """Accounts for a call that brought no whole answer, and keeps what came where it may be written."""
        if miss.keep:
            self._books.set_aside("failed", key, request, policy, answer, reason)
        else:
            self._books.account("failed", key, request, policy, answer)
