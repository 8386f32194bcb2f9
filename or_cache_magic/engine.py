"""The order of events of one ask, and nothing else. Read `Engine.ask` from top to bottom.

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

import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from .accounting import Books, paid_for
from .errors import OrCacheError, StoreError, StreamBrokenError, UpstreamError
from .flight import SingleFlight
from .key import request_key
from .outcomes import broken, coalesced, coalesced_unserved, is_whole, offline_miss, stale
from .policy import Policy, notes_on, why_no_lookup, why_not_served, why_not_stored
from .pricing import FREE
from .records import Answer, AskKind, Entry, Outcome, Request, RequestKey
from .turns import OnWait, Turn, take_turn

if TYPE_CHECKING:
    from .gateway import Gateway
    from .lease import Leases

__all__ = ["Engine", "OnText"]

OnText = Callable[[str], None]
"""Takes each piece of text as it comes from upstream, on the asking thread."""

_ZERO: Final = Decimal(0)


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

    def ask(
        self,
        request: Request,
        policy: Policy,
        on_text: OnText | None = None,
        on_wait: OnWait | None = None,
    ) -> Outcome:
        """What asking `request` comes to.

        Args:
            request: What to ask.
            policy: How the cache may be used.
            on_text: Shows text as it comes; not called for a served answer, which is there at once.
            on_wait: Shows, in one line, which other process's identical ask is being waited for.

        Raises:
            RequestError: The request has no canonical form; nothing was sent.
            CacheMissError: Offline, and nothing to serve.
            MissingKeyError: Nothing to serve, and no API key.
            UpstreamError: The call was refused or failed; its subclass `StreamBrokenError` when a
                part of an answer had arrived, which is kept as a partial.
        """
        began_s = time.perf_counter()
        key = request_key(request)
        found = self._look_up(key, request, policy)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, began_s)
        elif policy.mode == "offline":
            raise offline_miss(key, found.why)
        else:
            outcome = self._ask_in_flight(key, request, policy, found, on_text, on_wait)
            outcome = outcome._replace(elapsed_s=time.perf_counter() - began_s)
        self._books.count(outcome, request, policy)
        return outcome

    def peek(self, request: Request, policy: Policy) -> tuple[RequestKey, Entry | None, str]:
        """The key, the entry that would be served (or None) and why it would be asked; sends nothing."""
        key = request_key(request)
        found = self._look_up(key, request, policy)
        return (key, found, "") if isinstance(found, Entry) else (key, None, found.why)

    def _look_up(self, key: RequestKey, request: Request, policy: Policy) -> Entry | _Miss:
        """The entry to serve, or why there is none."""
        offline = policy.mode == "offline"
        barred = None if offline else why_no_lookup(request, policy)
        if barred is not None:
            return _Miss("bypass", barred, keep=False, alone=True)
        if policy.mode == "refresh":
            return _Miss("refresh", "asked again", alone=True)
        try:
            # Offline nothing is asked of anybody, the team's server included.
            entry = self._books.store.get(key, None if offline else request)
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

    def _ask_in_flight(
        self,
        key: RequestKey,
        request: Request,
        policy: Policy,
        miss: _Miss,
        on_text: OnText | None,
        on_wait: OnWait | None,
    ) -> Outcome:
        """Asks alone, or together with whoever asks the same now."""
        if miss.alone:
            return self._ask_upstream(key, request, policy, miss, on_text)

        def fly() -> Outcome:
            try:
                return self._fly(key, request, policy, on_text, on_wait)
            except StreamBrokenError:
                raise  # a part of the answer is on the screen
            except UpstreamError as exc:
                if miss.expired is not None and policy.stale_if_error:
                    return stale(key, request, miss.expired, exc)
                raise

        outcome, led = self._flights.do(key.digest, fly)
        return outcome if led else coalesced(outcome)

    def _fly(
        self,
        key: RequestKey,
        request: Request,
        policy: Policy,
        on_text: OnText | None,
        on_wait: OnWait | None,
    ) -> Outcome:
        """What the leader of a flight does: it lets another process's flight land first."""
        self._gateway().require_key()  # who can't ask takes no turn, and makes no folder
        turn = take_turn(
            self._leases,
            key.digest,
            lambda since_s: self._landed(key, request, policy, since_s),
            _Show(on_wait),
            clock=self._books.clock,
        )
        if not isinstance(turn, Turn):
            return turn
        with turn:
            # Another flight may have landed between our look and our turn: a second call would be paid for.
            found = self._look_up(key, request, policy)
            if isinstance(found, Entry):
                outcome = self._served(key, request, policy, found, time.perf_counter())
                return outcome._replace(kind="coalesced") if turn.waited else outcome
            return self._ask_upstream(key, request, policy, found, on_text)

    def _landed(self, key: RequestKey, request: Request, policy: Policy, since_s: float) -> Outcome | None:
        """What another process's flight that began then has brought; None when nothing yet."""
        found = self._look_up(key, request, policy)
        if isinstance(found, Entry):
            outcome = self._served(key, request, policy, found, time.perf_counter())
            return outcome._replace(kind="coalesced")
        kept = self._books.set_aside_since(key, since_s)
        return None if kept is None else coalesced_unserved(key, request, kept)

    def _ask_upstream(
        self, key: RequestKey, request: Request, policy: Policy, miss: _Miss, on_text: OnText | None
    ) -> Outcome:
        from .gateway import Draft  # here, since a hit needs none of it

        show = _Show(on_text)
        draft = Draft(show, clock=self._books.clock)
        try:
            # OpenRouter's response caching would repeat an answer where another is wanted.
            answer = self._gateway().send(request, draft, fresh=miss.alone or request.sample > 0)
        except UpstreamError as exc:
            self._books.account_failure(key, request, policy, exc)
            raise
        except OrCacheError:
            raise  # before anything was sent
        except BaseException:
            # Interrupted: it may have been sent, and what had arrived was perhaps paid for.
            self._give_up(key, request, policy, miss, draft.answer(), "interrupted")
            raise
        outcome = self._settle(key, request, policy, miss, answer)
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
            notes=notes_on(request, answer),
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


class _Show:
    """Passes text on until the display fails, which must not lose a paid answer."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self.trouble: tuple[str, ...] = ()

    def __call__(self, text: str) -> None:
        if self._on_text is None:
            return
        try:
            self._on_text(text)
        except Exception as exc:  # noqa: BLE001 - a foreign callable at a seam; the receipt tells
            self._on_text = None
            self.trouble = (f"not shown as it came: {type(exc).__name__}: {exc}",)
