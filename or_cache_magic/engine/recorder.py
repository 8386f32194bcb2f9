"""Keeps answers and accounts for asks in one transaction; a failing store loses neither answer nor cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeVar

from or_cache_magic.core.policy import lifetime_s
from or_cache_magic.core.records import (
    FREE,
    UNKNOWN_COST,
    Answer,
    AskKind,
    Cost,
    Entry,
    NamedTuple,
    Request,
    RequestKey,
    Usage,
)
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.errors import StoreCorruptError, StoreError, UpstreamError
from or_cache_magic.storage.entries import DiskStore, HistoryEntry
from or_cache_magic.storage.ledger import Ledger

if TYPE_CHECKING:
    from or_cache_magic.core.rows import LedgerRow
    from or_cache_magic.engine.cross_process import CrossProcessLock
    from or_cache_magic.storage.tier import SharedTier

T = TypeVar("T")

_NO_USAGE: Final = Usage()
_PIN_REPLACED: Final = "it replaces a pinned answer, which is kept (%openrouter_entries KEY)"


class Draft(NamedTuple):
    """An answer that is accounted for, and kept unserved while it is checked.

    Attributes:
        row_id: Of the kept answer; None where it could not be kept.
        reason: Why it is not served.
    """

    row_id: int | None
    reason: str


def paid_for(answer: Answer) -> Cost:
    """Return what a call was charged: nothing when OpenRouter served it from its own response cache."""
    return FREE if answer.response_cache_hit else answer.cost


def _never(_request: Request) -> bool:
    return False


def _unknown(_request: Request, _answer: Answer) -> Decimal | None:
    return None


class Recorder:
    """The store and the ledger, written together. Thread-safe.

    Args:
        store: Keeps the answers.
        ledger: Keeps the accounts.
        transaction: Opens a transaction that both share.
        clock: Returns UTC epoch seconds.
        prompt_cache_saved: What the provider's prompt caching took off a call that used it, as far as is
            known at once; None where it has to be reconciled later.
        routes: Whether a request's model is known to pick another at each call.
        shared: The shared server behind the store; None is none.
    """

    def __init__(
        self,
        store: DiskStore,
        ledger: Ledger,
        transaction: Callable[[], AbstractContextManager[object]],
        *,
        clock: Callable[[], float] = time.time,
        prompt_cache_saved: Callable[[Request, Answer], Decimal | None] = _unknown,
        routes: Callable[[Request], bool] = _never,
        shared: SharedTier | None = None,
    ) -> None:
        self._prompt_cache_saved = prompt_cache_saved
        self._routes = routes
        self.store = store
        self.shared = shared
        self.ledger = ledger
        self.transaction = transaction
        self.clock = clock

    def draft(self, ask: Ask, kind: AskKind, answer: Answer, reason: str) -> Draft:
        """Account for an answer and keep it, unserved, until `keep` or `set_aside` is told what it is."""
        row = self._row(ask, kind, answer)
        unserved = self._unserved(ask, answer, reason)
        try:
            return Draft(self._write(row, unserved), reason)
        except StoreError:
            self.ledger.remember(row)
            return Draft(None, reason)

    def keep(
        self,
        ask: Ask,
        kind: AskKind,
        answer: Answer,
        lock: CrossProcessLock | None = None,
        draft: Draft | None = None,
    ) -> tuple[str, str]:
        """Store an answer that may be served again, account for it, and release the lease it was asked under.

        One with a `draft` is accounted for already, and takes its place.

        Returns:
            Why it could not be stored (empty: it is), and what the receipt says of its lifetime and of a
            pinned answer that it replaced.
        """
        ttl_s, note = lifetime_s(ask.request, answer, ask.policy, self._routes)
        now_s = self.clock()
        expires_s = None if ttl_s is None else now_s + ttl_s
        tags, notebook = ask.policy.tags, self.ledger.notebook
        entry = Entry(ask.key, answer, now_s, expires_s, tags, notebook, attached=ask.attached)
        row = self._row(ask, kind, answer) if draft is None else None
        not_stored = ""

        def put() -> None:
            self.store.put(entry, ask.request, parent=ask.parent)
            if draft is not None:
                self.store.drop_unserved(ask.key.digest, *draft)

        try:
            pinned = kind == "refresh" and self.store.is_pinned(ask.key.digest)
            self._write(row, put, lock)
            if pinned and not self.store.is_pinned(ask.key.digest):
                note = "; ".join(filter(None, (note, _PIN_REPLACED)))
        except StoreError as exc:
            if row is not None:
                self.ledger.remember(row)
            not_stored, note = str(exc.args[0]), ""
        # Outside the transaction: no write waits for a server.
        if self.shared is not None:
            self.shared.put(entry, ask.request)
        return not_stored, note

    def set_aside(
        self,
        ask: Ask,
        kind: AskKind,
        answer: Answer,
        reason: str,
        lock: CrossProcessLock | None = None,
        draft: Draft | None = None,
    ) -> None:
        """Keep what was paid for and can't be served, account for it, and release the lease.

        One with a `draft` is accounted for already, and takes its place.
        """
        row = self._row(ask, kind, answer) if draft is None else None
        unserved = self._unserved(ask, answer, reason)

        def put() -> None:
            unserved()
            if draft is not None:
                self.store.drop_unserved(ask.key.digest, *draft)

        try:
            self._write(row, put, lock)
        except StoreError:
            if row is not None:
                self.ledger.remember(row)

    def collect(
        self,
        ask: Ask,
        kind: AskKind,
        answer: Answer,
        reason: str | None,
        claim: Callable[[], bool],
        notebook: str,
    ) -> bool:
        """Store an answer of a batch, or set it aside for a reason, and account for it; in one transaction.

        An answer with no choices is only accounted for. Where it came from is no generation to ask for.

        Args:
            ask: What was asked.
            kind: What it is accounted as.
            answer: The answer.
            reason: Why it is not served; None stores it.
            claim: Called first, in the transaction; False is that another kernel has done it all.
            notebook: Where it was asked from.

        Returns:
            Whether it was done here.

        Raises:
            StoreError: Nothing was written.
        """
        answer = self.priced(ask.request, answer)
        ttl_s, _ = lifetime_s(ask.request, answer, ask.policy, self._routes)
        now_s = self.clock()
        expires_s = None if ttl_s is None else now_s + ttl_s
        entry = Entry(ask.key, answer, now_s, expires_s, ask.policy.tags, notebook)
        row = self._row(ask, kind, answer)._replace(notebook=notebook)
        with self.transaction():
            if not claim():
                return False
            self.ledger.record(row if answer.cost.usd is None else row._replace(generation_id=None))
            if reason is None:
                self.store.put(entry, ask.request, parent=ask.parent)
            elif answer.choices:
                self.store.keep_unserved(ask.key, ask.request, answer, reason, now_s)
        if reason is None and self.shared is not None:
            self.shared.put(entry, ask.request)
        return True

    def set_aside_since(self, key: RequestKey, since_s: float) -> HistoryEntry | None:
        """Return the last answer that was set aside at or after this time; None if there is none."""
        try:
            kept = self.store.unserved(key.digest)
        except StoreError:
            return None
        return kept[0] if kept and kept[0].at_s >= since_s else None

    def account(self, ask: Ask, kind: AskKind, answer: Answer) -> None:
        """Account for a call whose answer isn't kept."""
        row = self._row(ask, kind, answer)
        try:
            self.ledger.record(row)
        except StoreError:
            self.ledger.remember(row)

    def account_failure(self, ask: Ask, failure: UpstreamError) -> None:
        """Account for a call that brought no answer, at what it cost as far as is known; not for none."""
        if not failure.attempts:
            return
        cost = UNKNOWN_COST if failure.cost_usd is None else Cost(failure.cost_usd, "reported")
        self.account(ask, "failed", Answer((), cost=cost, generation_id=failure.generation_id))

    def give_up(self, ask: Ask, answer: Answer, reason: str, *, keep: bool) -> None:
        """Account for a call that brought no whole answer, and keep what came where it may be written."""
        answer = self.priced(ask.request, answer)
        if keep:
            self.set_aside(ask, "failed", answer, reason)
        else:
            self.account(ask, "failed", answer)

    def priced(self, request: Request, answer: Answer) -> Answer:
        """Return an answer as it came in, with what the provider's prompt caching took off its price."""
        usage = answer.usage
        used = usage is not None and (usage.cached_tokens or usage.cache_write_tokens)
        saved_usd = self._prompt_cache_saved(request, answer) if used else ZERO_USD
        return answer._replace(prompt_cost_usd=None, prompt_cache_saved_usd=saved_usd)

    def _unserved(self, ask: Ask, answer: Answer, reason: str) -> Callable[[], int]:
        now_s = self.clock()
        return lambda: self.store.keep_unserved(ask.key, ask.request, answer, reason, now_s)

    def _write(self, row: LedgerRow | None, keep: Callable[[], T], lock: CrossProcessLock | None = None) -> T:
        """Write a row of the ledger, if there is one, and what belongs to it in one transaction."""
        try:
            return self._write_once(row, keep, lock)
        except StoreCorruptError:
            # Writing met damage: the file is set aside before the next transaction, which begins a new one.
            return self._write_once(row, keep, lock)

    def _write_once(self, row: LedgerRow | None, keep: Callable[[], T], lock: CrossProcessLock | None) -> T:
        with self.transaction():
            if row is not None:
                self.ledger.record(row)
            kept = keep()
            if lock is not None:
                lock.release_in_transaction()
        if lock is not None:
            lock.committed()
        return kept

    def _row(self, ask: Ask, kind: AskKind, answer: Answer) -> LedgerRow:
        from or_cache_magic.core.rows import LedgerRow

        usage = answer.usage or _NO_USAGE
        return LedgerRow(
            at_s=self.clock(),
            session=self.ledger.session,
            notebook=self.ledger.notebook,
            key=ask.key.digest,
            model=str(ask.request.body.get("model", "")),
            kind=kind,
            asks=1,
            paid=paid_for(answer),
            value_usd=answer.cost.usd,
            tags=ask.policy.tags,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            seconds=answer.elapsed_s,
            generation_id=answer.paid_generation_id,
            base_url=ask.request.base_url,
            prompt_cache_saved_usd=answer.prompt_cache_saved_usd,
        )
