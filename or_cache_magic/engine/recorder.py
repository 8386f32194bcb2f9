"""Keeps answers and accounts for asks, in one transaction; a failing store loses neither answer nor cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Final

from or_cache_magic.core.policy import Policy, lifetime_s
from or_cache_magic.core.records import (
    FREE,
    UNKNOWN_COST,
    Answer,
    AskKind,
    Cost,
    Entry,
    LedgerRow,
    Outcome,
    Request,
    RequestKey,
    Usage,
)
from or_cache_magic.errors import StoreCorruptError, StoreError, UpstreamError
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

__all__ = ["Recorder", "paid_for"]

_NO_USAGE: Final = Usage()
_ZERO: Final = Decimal(0)


def paid_for(answer: Answer) -> Cost:
    """What a call was charged: nothing when OpenRouter served it from its own response cache."""
    return FREE if answer.response_cache_hit else answer.cost


def _unknown(_request: Request, _answer: Answer) -> Decimal | None:
    return None


class Recorder:
    """The store and the ledger, written together. Thread-safe.

    Args:
        store: Keeps the answers.
        ledger: Keeps the accounts.
        transaction: Opens a transaction that both share.
        notebook: Where the asks come from, for browsing.
        clock: Tells UTC epoch seconds.
        prompt_cache_saved: What the provider's prompt caching took off a call that used it, as far as is
            known at once; None leaves it to be told later.
    """

    def __init__(
        self,
        store: DiskStore,
        ledger: Ledger,
        transaction: Callable[[], AbstractContextManager[object]],
        *,
        notebook: str = "",
        clock: Callable[[], float] = time.time,
        prompt_cache_saved: Callable[[Request, Answer], Decimal | None] = _unknown,
    ) -> None:
        self._prompt_cache_saved = prompt_cache_saved
        self.store = store
        self.ledger = ledger
        self.transaction = transaction
        self.notebook = notebook
        self.clock = clock

    def keep(
        self, kind: AskKind, key: RequestKey, request: Request, policy: Policy, answer: Answer
    ) -> tuple[str, str]:
        """Stores an answer that may be served again and accounts for it.

        Returns:
            Why it could not be stored (empty: it is), and what the receipt says of its lifetime.
        """
        ttl_s, note = lifetime_s(request, answer, policy)
        now_s = self.clock()
        expires_s = None if ttl_s is None else now_s + ttl_s
        entry = Entry(key, answer, now_s, expires_s, policy.tags, self.notebook)
        row = self._row(kind, key, request, policy, answer)
        not_stored = ""
        try:
            self._write(row, lambda: self.store.put(entry, request))
        except StoreError as exc:
            self.ledger.remember(row)
            not_stored, note = str(exc.args[0]), ""
        # Outside the transaction: nobody's write waits for a server.
        self.store.share(entry, request)
        return not_stored, note

    def set_aside(
        self, kind: AskKind, key: RequestKey, request: Request, policy: Policy, answer: Answer, reason: str
    ) -> None:
        """Keeps what was paid for and can't be served, and accounts for it."""
        row = self._row(kind, key, request, policy, answer)
        try:
            self._write(row, lambda: self.store.keep_unserved(key, request, answer, reason, self.clock()))
        except StoreError:
            self.ledger.remember(row)

    def set_aside_since(self, key: RequestKey, since_s: float) -> Answer | None:
        """The last answer to a request that was set aside at or after this time; None when there is none."""
        try:
            kept = self.store.unserved(key.digest)
        except StoreError:
            return None
        return kept[0].answer if kept and kept[0].at_s >= since_s else None

    def account(
        self, kind: AskKind, key: RequestKey, request: Request, policy: Policy, answer: Answer
    ) -> None:
        """Accounts for a call whose answer isn't kept."""
        row = self._row(kind, key, request, policy, answer)
        try:
            self.ledger.record(row)
        except StoreError:
            self.ledger.remember(row)

    def account_failure(
        self, key: RequestKey, request: Request, policy: Policy, failure: UpstreamError
    ) -> None:
        """Accounts for a call that brought no answer, at what it cost as far as is known."""
        cost = UNKNOWN_COST if failure.cost_usd is None else Cost(failure.cost_usd, "reported")
        self.account(
            "failed", key, request, policy, Answer((), cost=cost, generation_id=failure.generation_id)
        )

    def priced(self, request: Request, answer: Answer) -> Answer:
        """An answer as it came in, with what the provider's prompt caching took off its price."""
        usage = answer.usage
        used = usage is not None and (usage.cached_tokens or usage.cache_write_tokens)
        saved_usd = self._prompt_cache_saved(request, answer) if used else _ZERO
        return answer._replace(prompt_cost_usd=None, prompt_cache_saved_usd=saved_usd)

    def count(self, outcome: Outcome, request: Request, policy: Policy) -> None:
        """Counts, in memory, an ask that made no call; calls are accounted for where they are made."""
        if outcome.kind not in ("hit", "team", "replay", "coalesced", "stale"):
            return
        usage = outcome.answer.usage or _NO_USAGE
        self.ledger.count_hit(
            key=outcome.key.digest,
            model=str(request.body.get("model", "")),
            notebook=self.notebook,
            tags=policy.tags,
            kind=outcome.kind,
            value_usd=outcome.answer.cost.usd,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=outcome.elapsed_s,
            generation_id=_generation(outcome.answer),
            base_url=request.base_url,
        )

    def _write(self, row: LedgerRow, keep: Callable[[], None]) -> None:
        """Writes a row of the ledger and what belongs to it, in one transaction."""
        try:
            self._write_once(row, keep)
        except StoreCorruptError:
            # Writing met damage: the file is set aside before the next transaction, which begins a new one.
            self._write_once(row, keep)

    def _write_once(self, row: LedgerRow, keep: Callable[[], None]) -> None:
        with self.transaction():
            self.ledger.record(row)
            keep()

    def _row(
        self, kind: AskKind, key: RequestKey, request: Request, policy: Policy, answer: Answer
    ) -> LedgerRow:
        usage = answer.usage or _NO_USAGE
        return LedgerRow(
            at_s=self.clock(),
            session=self.ledger.session,
            notebook=self.notebook,
            key=key.digest,
            model=str(request.body.get("model", "")),
            kind=kind,
            asks=1,
            paid=paid_for(answer),
            value_usd=answer.cost.usd,
            tags=policy.tags,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            seconds=answer.elapsed_s,
            generation_id=_generation(answer),
            base_url=request.base_url,
            prompt_cache_saved_usd=answer.prompt_cache_saved_usd,
        )


def _generation(answer: Answer) -> str | None:
    """The generation that tells what an answer is worth; of a repeated one the first, which was paid for."""
    return answer.source_generation_id if answer.response_cache_hit else answer.generation_id
