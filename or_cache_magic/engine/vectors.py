"""Asks for vectors: many texts in one request, each vector an entry of its own.

The order of events is that of one ask (see `engine`), for many at once: leases, another look, the limits,
one request; then each entry with its ledger row and its lease's end. What a request cost is shared out among
its texts by their lengths, exactly.
"""

from __future__ import annotations

import time
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.callbacks import Callbacks, Show
from or_cache_magic.core.records import UNKNOWN_COST, Answer, Cost, Outcome, Usage
from or_cache_magic.engine.cross_process import TTL_S, CrossProcessLock, renewing
from or_cache_magic.engine.recorder import Recorder, paid_for
from or_cache_magic.errors import OrCacheError, StoreError, UpstreamError
from or_cache_magic.openrouter.reply import ReplyReader

if TYPE_CHECKING:
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.openrouter.client import Gateway
    from or_cache_magic.storage.leases import Leases

_FLOAT32_BYTES: Final = 4
_LOOK_S: Final = 0.05
_PICO: Final = Decimal("1e-12")


class Vectors:
    """Buys vectors. Thread-safe.

    Args:
        recorder: Keeps answers and accounts.
        gateway: Returns what sends requests.
        leases: Returns who may ask; None excludes no other process.
        find: Returns the outcome of an ask that is stored by now, counted; whether another was waited for.
        check: Raises what an ask is refused with before it is sent; whether it may fetch lists.
    """

    def __init__(
        self,
        recorder: Recorder,
        gateway: Callable[[], Gateway],
        leases: Callable[[], Leases] | None,
        find: Callable[[Ask, bool], Outcome | None],
        check: Callable[[Ask, bool], object] | None,
    ) -> None:
        self._recorder = recorder
        self._gateway = gateway
        self._leases = leases
        self._find = find
        self._check = check

    def ask(self, asks: Sequence[Ask], callbacks: Callbacks) -> list[Outcome]:
        """Return the outcomes of asks of one kind, each for another text, in no order.

        None of them is stored on this machine, or all are to be asked anyway. What others ask for just now is
        waited for, when all the rest is bought and kept.

        Raises:
            MissingKeyError: There is no key; nothing was sent.
            BudgetError: The request may cost more than a limit leaves; it was not sent.
            UpstreamError: It was refused, or failed.
        """
        self._gateway().require_key()
        mode = asks[0].policy.mode
        if mode in ("refresh", "bypass"):
            return self._buy([(ask, None) for ask in asks], callbacks)
        outcomes: list[Outcome] = []
        left, waited = list(asks), False
        while left:
            with ExitStack() as held:
                free, left = self._lease(left, held)
                missing = []
                for ask, lock in free:
                    found = self._find(ask, waited)
                    if found is None:
                        missing.append((ask, lock))
                    else:
                        outcomes.append(found)
                if missing:
                    outcomes += self._buy(missing, callbacks)
            if left:
                waited = True
                (time.sleep if callbacks.cancel is None else callbacks.cancel.sleep)(_LOOK_S)
        return outcomes

    def _lease(
        self, asks: list[Ask], held: ExitStack
    ) -> tuple[list[tuple[Ask, CrossProcessLock | None]], list[Ask]]:
        """Return the asks whose leases are ours while the block lasts, and those that others have."""
        from or_cache_magic.storage.leases import Held

        if self._leases is None:
            return [(ask, None) for ask in asks], []
        leases, ticker = self._leases(), renewing(TTL_S)
        free: list[tuple[Ask, CrossProcessLock | None]] = []
        others = []
        try:
            # One transaction for all, but none in which a server is waited for.
            with nullcontext() if asks[0].settings.shared_url else self._recorder.transaction():
                for ask in asks:
                    lease = leases.acquire(ask.key.digest, TTL_S)
                    if isinstance(lease, Held):
                        others.append(ask)
                    else:
                        free.append((ask, CrossProcessLock(leases, lease, ticker=ticker)))
        except StoreError:
            return [(ask, None) for ask in asks], []
        for _, lock in free:
            if lock is not None:
                held.enter_context(lock)
        return free, others

    def _buy(
        self, asks: Sequence[tuple[Ask, CrossProcessLock | None]], callbacks: Callbacks
    ) -> list[Outcome]:
        first, recorder = asks[0][0], self._recorder
        texts = [str(ask.request.body["input"]) for ask, _ in asks]
        body = {**first.request.body, "input": texts, "encoding_format": "base64"}
        request = first.request._replace(body=body)
        if self._check is not None:
            self._check(first, True)
        if callbacks.before_send is not None:
            callbacks.before_send(request)
        reader = ReplyReader(clock=recorder.clock, vectors=True)
        try:
            answer = self._gateway().send(
                request,
                reader,
                fresh=first.policy.mode in ("refresh", "bypass"),
                cancel=callbacks.cancel,
                on_send=callbacks.on_send,
                on_wait=Show(callbacks.on_wait),
                pacing=callbacks.pacing,
            )
        except UpstreamError as exc:
            recorder.account_failure(first, exc)
            raise
        except OrCacheError:
            raise  # before anything was sent
        except BaseException:
            if reader.is_sent:
                recorder.give_up(first, reader.answer(), "interrupted", keep=False)
            raise
        flaw = _flaw(answer, len(texts), body.get("dimensions"))
        if flaw:
            recorder.give_up(first, answer, flaw, keep=False)
            raise _broken(answer, flaw)
        return self._keep(asks, _shares(answer, texts))

    def _keep(
        self, asks: Sequence[tuple[Ask, CrossProcessLock | None]], answers: Iterator[Answer]
    ) -> list[Outcome]:
        return [self._keep_one(ask, lock, answer) for (ask, lock), answer in zip(asks, answers, strict=True)]

    def _keep_one(self, ask: Ask, lock: CrossProcessLock | None, answer: Answer) -> Outcome:
        mode = ask.policy.mode
        kind: Any = "bypass" if mode == "bypass" else "refresh" if mode == "refresh" else "miss"
        not_stored = "--no-cache"
        if kind == "bypass":
            self._recorder.account(ask, kind, answer)
        else:
            not_stored, _ = self._recorder.keep(ask, kind, answer, lock)
        return Outcome(
            kind, ask.key, answer, stored=not not_stored, not_stored=not_stored, paid=paid_for(answer)
        )


def _shares(answer: Answer, texts: Sequence[str]) -> Iterator[Answer]:
    """Yield the answer to each text, with its share of tokens and cost: the sums are the answer's."""
    one = len(texts) == 1
    weights = [len(text) for text in texts]
    tokens = answer.usage.prompt_tokens if answer.usage is not None else None
    counts = (
        [None] * len(texts)
        if tokens is None
        else [int(n) for n in _split(Decimal(tokens), weights, Decimal(1))]
    )
    usd = answer.cost.usd
    costs = [None] * len(texts) if usd is None else _split(usd, weights, _PICO)
    for choice, count, cost in zip(answer.choices, counts, costs, strict=True):
        yield answer._replace(
            choices=(choice,),
            usage=None if answer.usage is None else Usage(prompt_tokens=count, completion_tokens=0),
            cost=UNKNOWN_COST if cost is None else Cost(cost, answer.cost.source if one else "apportioned"),
            # Looked up, it would tell what the whole request cost.
            generation_id=answer.generation_id if one or cost is not None else None,
            prompt_cost_usd=None,
            extra=answer.extra if one else None,
        )


def _split(whole: Decimal, weights: Sequence[int], unit: Decimal) -> list[Decimal]:
    """Return shares of an amount, in whole units but for the last, that sum up to it."""
    total, done, weighed = sum(weights), Decimal(0), 0
    shares = []
    for weight in weights[:-1]:
        weighed += weight
        upto = (whole * weighed / total).quantize(unit, ROUND_FLOOR)
        shares.append(upto - done)
        done = upto
    return [*shares, whole - done]


def _flaw(answer: Answer, wanted: int, size: int | None) -> str:
    """Return why none of the vectors can be kept; empty when they are as many, and as long, as wanted."""
    if not answer.choices and answer.doubt:
        return answer.doubt
    if len(answer.choices) != wanted:
        return f"{len(answer.choices):,} of {wanted:,} vectors came"
    if answer.error is not None or not answer.complete:
        return "the vectors came with an error"
    came = len(a2b_base64(answer.choices[0].message["embedding"])) // _FLOAT32_BYTES
    return "" if size in (None, came) else f"vectors of {came:,} numbers came, not of {size:,}"


def _broken(answer: Answer, flaw: str) -> UpstreamError:
    usd = answer.cost.usd
    told = "its cost is not known yet" if usd is None else f"it cost ${usd:f}"
    return UpstreamError(
        f"{flaw} ({told}; nothing is stored)",
        "ask again, or another model or provider",
        generation_id=answer.generation_id,
        cost_usd=usd,
        body=answer.error,
    )
