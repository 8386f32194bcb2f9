"""The order of events of one ask, and nothing else. Read `Engine.ask` from top to bottom.

`Engine.aask` is the same for an event loop: it looks up and finishes on the loop, and calls on a thread.

1. look up: is the answer stored, here or in a pack beside the notebook, and may it be served;
2. offline, nothing to serve is an error;
3. single flight: of simultaneous identical asks one goes on, here and in other processes, and the others
   wait for it;
4. look again: another call may have been answered between 1 and 3;
5. send, showing text as it comes;
6. may it be stored: decided on the whole answer, written down before a schema or a class looks at it;
7. account, store and release the lease, in one transaction: what was paid is written before the answer is
   called kept;
8. hit and miss alike come back through one tail, where asks that made no call are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.callbacks import Callbacks, Show
from or_cache_magic.core.policy import (
    COMPARED,
    NOT_STORED_YET,
    notes_on,
    what_helps,
    why_no_lookup,
    why_not_served,
    why_not_stored,
    why_refused,
)
from or_cache_magic.core.records import (
    FREE,
    MADE_CALL,
    SERVED,
    Answer,
    AskKind,
    Entry,
    NamedTuple,
    Outcome,
    Request,
)
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_count
from or_cache_magic.engine.recorder import Recorder, paid_for
from or_cache_magic.engine.single_flight import SingleFlight
from or_cache_magic.errors import (
    OrCacheError,
    ReplayMiss,
    RequestError,
    StoreError,
    StreamBrokenError,
    UpstreamError,
    explained,
    one_line,
)

if TYPE_CHECKING:
    from or_cache_magic.core.records import RequestKey
    from or_cache_magic.core.ticker import Ticker
    from or_cache_magic.engine.aio import AsyncFlights
    from or_cache_magic.engine.cross_process import CrossProcessLock
    from or_cache_magic.engine.vectors import Vectors
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.storage.leases import Leases


class _Miss(NamedTuple):
    """Why nothing can be served, and what follows from it.

    Attributes:
        kind: What an answer from upstream will be accounted as.
        why: For the receipt.
        keep: Whether the answer may be stored.
        alone: Whether the caller wants an answer of its own, and so shares no call.
        expired: The entry that is too old, but may be served when the call fails.
    """

    kind: AskKind
    why: str
    keep: bool = True
    alone: bool = False
    expired: Entry | None = None


class _Result(NamedTuple):
    """What answers an ask, shared by all who wait for it; the fields are those of `Outcome`."""

    kind: AskKind
    answer: Answer
    why: str = ""
    stored: bool = False
    not_stored: str = ""
    notes: tuple[str, ...] = ()
    entry_created_s: float | None = None


_NO_CALLBACKS: Final = Callbacks()
_INTERRUPTED: Final = "interrupted"
_PROMPT_WIDTH: Final = 60
UNCHECKED: Final = "its check was broken off"
"""Why an answer is not served whose check has not ended: it is broken off, or still under way."""


class Engine:
    """Asks through the completion cache. Thread-safe.

    Args:
        recorder: Keeps the answers and the accounts.
        gateway: Opens what sends, when something must be sent.
        leases: Opens those of single flight across processes; None asks without regard to others.
        check: Raises an `InputError` for an ask that is known to be refused; called before it is sent, with
            whether it may fetch lists.
        explain: May put a better hint into the error of an ask that was refused, or missed offline; may fetch
            for the first, must not raise.
        packs: Returns the entry of a request that a pack has, and the pack's name; asked where the store has
            none. None where there are no packs.
    """

    def __init__(
        self,
        recorder: Recorder,
        gateway: Callable[[], Gateway],
        leases: Callable[[], Leases] | None = None,
        check: Callable[[Ask, bool], None] | None = None,
        explain: Callable[[Ask, OrCacheError], None] | None = None,
        packs: Callable[[RequestKey], tuple[Entry, str] | None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._gateway = gateway
        self._leases = leases
        self._check = check
        self._explain = explain
        self._packs = packs
        #: The calls that are under way in this process, and who waits for them.
        self.flights: SingleFlight[_Result] = SingleFlight()
        self._lock = threading.Lock()
        self._async_flights: AsyncFlights[_Result] | None = None
        #: How many asks of event loops are under way at a time, set before the first; None is `aio.SIZE`.
        self.async_size: int | None = None

    def ask(self, ask: Ask, callbacks: Callbacks = _NO_CALLBACKS) -> Outcome:
        """Return the outcome of an ask.

        Args:
            ask: What to ask, and how the cache may be used.
            callbacks: The caller's side.

        Raises:
            ReplayMiss: Offline, and nothing to serve.
            MissingKeyError: Nothing to serve, and no API key.
            UpstreamError: The call was refused or failed; its subclass `StreamBrokenError` when a
                part of an answer had arrived, which is kept as a partial.
            Cancelled: It was cancelled.
        """
        began_s = time.perf_counter()
        found, leads = self._look_up(ask), True
        if isinstance(found, _Miss):
            if ask.policy.mode == "offline":
                raise self._offline_miss(ask, found.why)
            if callbacks.before_send is not None:
                callbacks.before_send(ask.request)
            lead = partial(self._lead, ask, found, callbacks)
            if found.alone:
                found = lead()
            else:
                found, leads = self.flights.do(ask.key.digest, lead, callbacks.cancel)
        return self._finish(ask, found, leads, began_s)

    def stored(self, ask: Ask) -> Outcome | None:
        """Return the outcome of an ask that a stored answer serves at once, counted as by `ask`.

        None where `ask` would send something or wait: for upstream, another's call, or the shared server.
        """
        began_s = time.perf_counter()
        found = self._look_up(ask, local=True)
        return None if isinstance(found, _Miss) else self._finish(ask, found, True, began_s)

    async def aask(self, ask: Ask, callbacks: Callbacks = _NO_CALLBACKS) -> Outcome:
        """`ask` for a task of an asyncio event loop, which is never blocked.

        An answer on this machine is served at once, without a thread and without waiting. The
        `callbacks` are called on another thread. Cancelling the task cancels the ask, unless others wait
        for the same.
        """
        began_s = time.perf_counter()
        found, leads = self._look_up(ask, local=True), True
        if isinstance(found, _Miss):
            if ask.policy.mode == "offline":
                raise self._offline_miss(ask, found.why)
            miss, flights = found, self._open_async_flights()
            if callbacks.before_send is not None:
                await flights.call(partial(callbacks.before_send, ask.request))
            found, leads = await flights.do(
                ask.key.digest,
                lambda cancel: self._lead(ask, miss, callbacks._replace(cancel=cancel)),
                alone=miss.alone,
            )
        return self._finish(ask, found, leads, began_s)

    def vectors(self) -> Vectors:
        """Return what buys vectors, many in one request."""
        from or_cache_magic.engine.vectors import Vectors  # few ask for any

        def find(ask: Ask, waited: bool) -> Outcome | None:
            began_s = time.perf_counter()
            found = self._look_up(ask, waited=waited)
            return None if isinstance(found, _Miss) else self._finish(ask, found, True, began_s)

        return Vectors(self._recorder, self._gateway, self._leases, find, self._check)

    def close(self) -> None:
        """Cancel what was asked by `aask`, and wait until it is accounted for."""
        with self._lock:
            async_flights, self._async_flights = self._async_flights, None
        if async_flights is not None:
            async_flights.close()

    def why_asked(self, ask: Ask) -> str | None:
        """Return why a call would be made for an ask; None when it would be served. Sends nothing."""
        found = self._look_up(ask)
        return found.why if isinstance(found, _Miss) else None

    def _look_up(self, ask: Ask, *, local: bool = False, waited: bool = False) -> _Result | _Miss:
        """Return the stored answer to serve, or why there is none.

        Args:
            ask: What is asked.
            local: Looks only where looking never waits: not on the shared server.
            waited: Whether another process's call was waited for.
        """
        request, policy = ask.request, ask.policy
        offline = policy.mode == "offline"
        barred = None if offline else why_no_lookup(request, policy)
        if barred is not None:
            return _Miss("bypass", barred, keep=False, alone=True)
        if policy.mode == "refresh":
            return _Miss("refresh", "asked again", alone=True)
        store, shared, entry, why = self._recorder.store, self._recorder.shared, None, NOT_STORED_YET
        try:
            entry = store.get(ask.key)
        except StoreError as exc:
            why = f"the completion cache can't be read: {exc.args[0]}"
        expired = None if entry is None else why_not_served(entry, self._recorder.clock())
        notes: tuple[str, ...] = ()
        if (entry is None or expired) and self._packs is not None:
            replayed = self._packs(ask.key)
            if replayed is not None:
                entry, notes = replayed[0], (f"from {replayed[1]}",)
                expired = why_not_served(entry, self._recorder.clock())
        # Offline no server is asked, the shared one included.
        if (entry is None or expired) and shared is not None and not (offline or local):
            found = shared.fetch(ask.key, request, ask.parent)
            entry, expired, notes = (entry, expired, notes) if found is None else (found, None, ())
        if entry is None:
            return _Miss("miss", why)
        if expired is not None and not (offline and policy.stale_if_error):
            return _Miss("miss", expired, expired=entry)
        kind: AskKind = "coalesced" if waited else "shared" if entry.shared else "hit"
        if offline or notes:
            kind = "replay" if expired is None else "stale"
        notes = (*notes_on(request, entry.answer), *notes)
        return _Result(kind, entry.answer, "", True, "", notes, entry.created_s)

    def _lead(self, ask: Ask, miss: _Miss, callbacks: Callbacks) -> _Result:
        """Make the call for all who wait; serve what is expired when it fails and the policy allows."""
        try:
            self._look_before_sending(ask)
            if miss.alone:
                return self._call(ask, miss, callbacks, None)
            return self._call_with_lease(ask, callbacks)
        except StreamBrokenError:
            raise  # a part of the answer is on the screen
        except (RequestError, UpstreamError) as exc:
            if miss.expired is not None and ask.policy.stale_if_error:
                return _stale(ask.request, miss.expired, exc)
            raise

    def _look_before_sending(self, ask: Ask) -> None:
        """Raise what is known to speak against an ask; who can't ask takes no lease, and makes no folder."""
        gateway = self._gateway()
        try:
            if self._check is not None:
                self._check(ask, gateway.has_key)
        except KeyboardInterrupt as exc:
            raise _interrupted(exc, Answer((), cost=FREE), kept=False) from None
        gateway.require_key()

    def _call_with_lease(self, ask: Ask, callbacks: Callbacks) -> _Result:
        """Make the call when no other process makes it; else wait for theirs."""
        from or_cache_magic.engine.cross_process import CrossProcessLock, acquire_lock  # a hit needs none

        try:
            lock = acquire_lock(
                None if self._leases is None else self._leases(),
                ask.key.digest,
                partial(self._peer_result, ask),
                Show(callbacks.on_wait),
                clock=self._recorder.clock,
                sleep=time.sleep if callbacks.cancel is None else callbacks.cancel.sleep,
                ticker=self._renewing,
            )
        except KeyboardInterrupt as exc:
            raise _interrupted(exc, Answer((), cost=FREE), kept=False) from None
        if not isinstance(lock, CrossProcessLock):
            return lock
        with lock:
            # Another call may have been answered between our look and our lease: a second would be paid for.
            found = self._look_again(ask, lock.waited_since_s)
            return self._call(ask, found, callbacks, lock) if isinstance(found, _Miss) else found

    def _look_again(self, ask: Ask, since_s: float | None) -> _Result | _Miss:
        """Look up what was stored meanwhile, and what another process's call that began then has brought."""
        found = self._look_up(ask, waited=since_s is not None)
        if since_s is None or isinstance(found, _Result):
            return found
        kept = self._recorder.set_aside_since(ask.key, since_s)
        if kept is None or not _is_whole(kept.answer) or kept.reason.startswith((_INTERRUPTED, COMPARED)):
            return found
        answer = kept.answer
        return _Result("coalesced", answer, not_stored=kept.reason, notes=notes_on(ask.request, answer))

    def _peer_result(self, ask: Ask, since_s: float) -> _Result | None:
        """Return what another process's call that began then has brought; None when nothing yet."""
        found = self._look_again(ask, since_s)
        # Their check goes on while they hold the lease.
        return None if isinstance(found, _Miss) or found.not_stored == UNCHECKED else found

    def _call(self, ask: Ask, miss: _Miss, callbacks: Callbacks, lock: CrossProcessLock | None) -> _Result:
        """Send the request; account for the reply, and store it if it may be served again."""
        show = Show(callbacks.on_text)
        answer = self._send(ask, miss, callbacks, show)
        recorder = self._recorder
        if not _is_whole(answer):
            recorder.give_up(ask, answer, _judged(ask, answer)[0] or "broken", keep=miss.keep)
            raise _broken(ask.request, answer, kept=miss.keep)
        answer, draft = recorder.priced(ask.request, answer), None
        if not miss.keep:
            recorder.account(ask, miss.kind, answer)
        elif _is_checked(ask):
            draft = recorder.draft(ask, miss.kind, answer, UNCHECKED)
        refusal, stopped = _judged(ask, answer)
        if ask.policy.only_compared:
            refusal = ": ".join(filter(None, (COMPARED, refusal)))
        not_stored, lifetime = miss.why if not miss.keep else refusal or "", ""
        if miss.keep and refusal is not None:
            recorder.set_aside(ask, miss.kind, answer, refusal, lock, draft)
        elif miss.keep:
            not_stored, lifetime = recorder.keep(ask, miss.kind, answer, lock, draft)
        if stopped is not None:
            if callbacks.on_cost is not None:
                callbacks.on_cost(paid_for(answer))
            raise _checked(stopped, answer, kept=not not_stored)
        notes = (*_notes_on_call(ask.request, answer), *filter(None, [lifetime]), *show.trouble)
        return _Result(miss.kind, answer, miss.why, not not_stored, not_stored, notes)

    def _send(self, ask: Ask, miss: _Miss, callbacks: Callbacks, show: Show) -> Answer:
        """Return the reply to the request; account for one that failed, or was interrupted."""
        from or_cache_magic.openrouter.reply import ReplyReader  # here, since a hit needs none of it

        recorder = self._recorder
        on_chunk = None if callbacks.on_chunk is None else Show(callbacks.on_chunk)
        reader = ReplyReader(show, clock=recorder.clock, on_chunk=on_chunk)
        try:
            # OpenRouter's response caching would repeat an answer where another is wanted.
            fresh = miss.alone or ask.request.sample > 0
            return self._gateway().send(
                ask.request,
                reader,
                fresh=fresh,
                cancel=callbacks.cancel,
                on_send=callbacks.on_send,
                on_wait=Show(callbacks.on_wait),
                pacing=callbacks.pacing,
                most=callbacks.tries,
            )
        except UpstreamError as exc:
            recorder.account_failure(ask, exc)
            if self._explain is not None:
                self._explain(ask, exc)
            raise
        except OrCacheError:
            raise  # before anything was sent
        except BaseException as exc:
            # Interrupted: while a request is out, it and what had arrived may have been paid for.
            answer = reader.answer()
            if answer.cost.usd is not None and callbacks.on_cost is not None:
                callbacks.on_cost(answer.cost)
            recorder.give_up(ask, answer, _INTERRUPTED, keep=miss.keep and reader.is_sent)
            if isinstance(exc, KeyboardInterrupt):
                raise _interrupted(exc, answer, kept=miss.keep) from None
            raise

    def _finish(self, ask: Ask, result: _Result, leads: bool, began_s: float) -> Outcome:
        """Return the outcome for one of those whom a result answers, and count it if it made no call."""
        kind = result.kind if leads or result.kind in SERVED else "coalesced"
        answer = result.answer
        outcome = Outcome(
            kind,
            ask.key,
            answer,
            result.why,
            result.stored,
            result.not_stored,
            result.notes,
            result.entry_created_s,
            elapsed_s=time.perf_counter() - began_s,
            paid=paid_for(answer) if kind in MADE_CALL else FREE,
            # Offline no call could have been made, and a failed one was: neither was avoided.
            saved_usd=answer.cost.usd if kind in ("hit", "shared", "coalesced") else ZERO_USD,
        )
        if kind not in MADE_CALL:
            self._recorder.ledger.count(ask, outcome)
        return outcome

    def _offline_miss(self, ask: Ask, why: str) -> ReplayMiss:
        """Return the error for an ask that may not be sent; `why` is why nothing is served."""
        from or_cache_magic.core.chat import last_prompt

        prompt = one_line(last_prompt(ask.request.body), _PROMPT_WIDTH)
        which, run = ask.key.digest[:10], "with a key and without --offline (or with OR_CACHE_MODE=normal)"
        hint = f"run it once {run}"
        kept = self._recorder.set_aside_since(ask.key, 0) if why == NOT_STORED_YET else None
        if kept is not None and not kept.was_served:
            why = f"the last one is kept as history, and never served: {kept.reason}"
            hint = f"%openrouter_entries {which} shows it; {what_helps(kept.reason) or 'run it again'}, {run}"
        miss = ReplayMiss(
            f"offline, and no answer to serve for {which}, {prompt!r}: {why} (nothing was sent)",
            hint,
            key=ask.key.digest,
            prompt=prompt,
        )
        if self._explain is not None:
            self._explain(ask, miss)
        return miss

    @cached_property
    def _renewing(self) -> Ticker:
        """What renews the leases of all calls under way."""
        from or_cache_magic.engine.cross_process import renewing  # a hit needs none

        return renewing()

    def _open_async_flights(self) -> AsyncFlights[_Result]:
        with self._lock:
            if self._async_flights is None:
                from or_cache_magic.engine.aio import SIZE, AsyncFlights  # here: asyncio takes a script 30 ms

                self._async_flights = AsyncFlights(self.flights, self.async_size or SIZE)
            return self._async_flights


def _judged(ask: Ask, answer: Answer) -> tuple[str | None, BaseException | None]:
    """Return why an answer is not stored, and what broke its check off: an interrupt, or the user's class.

    Whatever that is, the answer is paid for, and goes into the books before it is raised. One that fits its
    JSON schema is stored all the same: a class looks each time that it is served.
    """
    refusal: str | None = UNCHECKED
    try:
        refusal = why_not_stored(ask.request, answer)
        return refusal or why_refused(answer, ask.schema), None
    except BaseException as exc:  # noqa: BLE001 - raised when the answer is accounted for
        return refusal, exc


def _is_checked(ask: Ask) -> bool:
    """Return whether code or patterns of the user's look at the answer, which may take for ever."""
    wanted = ask.request.body.get("response_format")
    return ask.schema is not None or (isinstance(wanted, Mapping) and wanted.get("type") == "json_schema")


def _is_whole(answer: Answer) -> bool:
    """Return whether a reply is an answer, though perhaps not one to be served again."""
    return answer.error is None and answer.complete and bool(answer.choices)


def _notes_on_call(request: Request, answer: Answer) -> tuple[str, ...]:
    """Return what the receipt of a call says: `notes_on` it, and why no prompt caching was asked for."""
    notes = notes_on(request, answer)
    if not request.prompt_cache:
        return notes
    from or_cache_magic.openrouter.prompt_caching import marked  # few ask for it

    marks = marked(request.body, request.prompt_cache)
    shorter = marks.marks and marks.ttl != request.prompt_cache
    why = marks.why_not or ("only Anthropic can be asked to keep an hour" if shorter else "")
    return (*notes, f"prompt caching: {why}") if why else notes


def _stale(request: Request, entry: Entry, failure: OrCacheError) -> _Result:
    """Return an expired entry that is served because the call failed, or would have been refused."""
    status = failure.status or "no connection" if isinstance(failure, UpstreamError) else "it was not sent"
    note = f"the call failed: {status}"
    notes = (*notes_on(request, entry.answer), note)
    return _Result("stale", entry.answer, stored=True, notes=notes, entry_created_s=entry.created_s)


def _interrupted(exc: KeyboardInterrupt, answer: Answer, *, kept: bool) -> KeyboardInterrupt:
    """Return an interrupt that came while an answer did; `kept` is whether its part is in the cache."""
    come = format_count(len(answer.text), "character") if answer.text else "nothing"
    again = f"run the cell again to ask anew{_PARTIAL if kept and answer.text else ''}"
    return explained(exc, f"{come} of the answer had arrived ({_cost(answer)})", again, answer)


def _checked(stopped: BaseException, answer: Answer, *, kept: bool) -> BaseException:
    """Return what broke off the check of a whole answer; `kept` is whether it is served from now on."""
    if not isinstance(stopped, KeyboardInterrupt):
        return stopped
    again = "it is kept: run the cell again, for nothing" if kept else "run the cell again to ask anew"
    return explained(stopped, f"the whole answer had arrived ({_cost(answer)})", again, answer)


_PARTIAL: Final = "; what had arrived is kept in the cache as a partial, and never served"


def _cost(answer: Answer) -> str:
    usd = answer.cost.usd
    return "its cost is not known yet" if usd is None else f"it cost ${usd:f}" if usd else "nothing was paid"


def _broken(request: Request, answer: Answer, *, kept: bool) -> StreamBrokenError:
    """Return the error for a reply that is no whole answer; `kept` is whether its part is in the cache."""
    lacks = "the stream ended early" if request.stream else "it does not say that it is whole"
    lacks = lacks if answer.choices else "the reply holds no answer"
    reason = str((answer.error or {}).get("message") or lacks)
    return StreamBrokenError(
        f"the answer broke off: {' '.join(reason.split())[:200]} ({_cost(answer)})",
        f"run the cell again{_PARTIAL if kept else ''}",
        partial_text=answer.text,
        generation_id=answer.generation_id,
        cost_usd=answer.cost.usd,
        body=answer.error,
    )
