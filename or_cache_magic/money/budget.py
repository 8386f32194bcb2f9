"""Budgets: what may still be spent, by one ask, a session, a day or a list of prompts.

Before a call is sent, the most that it can cost is reserved; afterwards the reservation gives way to what
it did cost. So many asks at one time don't overdraw together. A call whose cost stays unknown keeps its
reservation: unknown is not zero.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.chat import as_mapping, is_embedding
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost, Request
from or_cache_magic.core.units import ZERO_USD, decimal_usd, format_usd, read_count, read_number
from or_cache_magic.errors import BudgetError, OrCacheError, StoreError, UpstreamError

if TYPE_CHECKING:
    from decimal import Decimal

    from typing_extensions import Self

    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.storage.totals import Spent


class KeyLimits(NamedTuple):
    """The limits of a key, in US dollars.

    Attributes:
        limit_usd: The most that it may spend, by its own limit or a tighter budget; None is no limit.
        remaining_usd: What is left of that; None without a limit.
        resets: When the limit begins anew: ``daily``, ``weekly``, ``monthly``, a moment; empty is never.
        used_this_month_usd: What it has spent in this month, in UTC; None is unknown.
        is_free_tier: Whether nothing was ever paid into its account.
        free_requests: How many requests of free models are left for today; None is unknown.
    """

    limit_usd: Decimal | None
    remaining_usd: Decimal | None
    resets: str
    used_this_month_usd: Decimal | None
    is_free_tier: bool
    free_requests: int | None = None


def read_key_limits(reply: Any) -> KeyLimits | None:
    """Return the limits in a reply of ``GET /key``; None when it has none."""
    data = as_mapping(reply).get("data")
    if not isinstance(data, Mapping):
        return None
    resets = data.get("limit_reset")
    limit_usd = decimal_usd(data.get("limit"))
    # Below 0 where calls were under way when the limit was reached: they are still charged.
    remaining_usd = read_number(data.get("limit_remaining"), signed=True)
    budget = as_mapping(data.get("effective_budget"))
    tighter_usd = read_number(budget.get("remaining_usd"), signed=True)
    if tighter_usd is not None and (remaining_usd is None or tighter_usd < remaining_usd):
        limit_usd, remaining_usd = decimal_usd(budget.get("limit_usd")), tighter_usd
        resets = budget.get("resets_at")
    return KeyLimits(
        limit_usd=limit_usd,
        remaining_usd=remaining_usd,
        resets=resets if isinstance(resets, str) else "",
        used_this_month_usd=decimal_usd(data.get("usage_monthly")),
        is_free_tier=data.get("is_free_tier") is True,
        free_requests=read_count(as_mapping(data.get("free_model_daily_requests")).get("remaining")),
    )


class BudgetTracker:
    """What was spent on one purpose, and what is reserved for calls under way.

    Not thread-safe: see `BudgetGuard`.

    Args:
        spent: Gives what was spent by the ledger, and how many calls' cost is unknown there; None adds up
            here what calls cost.
        held: Gives the most that batches under way may cost; None is nothing.
    """

    def __init__(
        self, spent: Callable[[], Spent] | None = None, held: Callable[[], Decimal] | None = None
    ) -> None:
        self._spent = spent
        self._held = held
        self._own_usd = ZERO_USD
        self._under_way: dict[int, Decimal] = {}
        self._unknown_usd: list[Decimal] = []

    def at_most(self) -> Decimal:
        """Return the most that was spent: what is known, and what other calls, and batches, may come to.

        Raises:
            StoreError: The ledger can't be read.
        """
        spent = self._spent() if self._spent is not None else None
        known_usd = self._own_usd if spent is None else spent.usd
        # Which of them were reconciled meanwhile isn't known: the dearest count as those that were not.
        unknown = len(self._unknown_usd) if spent is None else spent.unknown
        open_usd = heapq.nlargest(unknown, self._unknown_usd)
        return known_usd + sum(open_usd) + sum(tuple(self._under_way.values())) + self.held_usd()

    def held_usd(self) -> Decimal:
        """Return what of it is held for batches under way."""
        return ZERO_USD if self._held is None else self._held()

    def owe(self, usd: Decimal) -> None:
        """Hold the most that something of unknown cost may have cost, until the ledger knows it."""
        with _lock:
            self._unknown_usd.append(usd)

    def reserve(self, call: int, usd: Decimal) -> None:
        """Hold back the most that a call can cost."""
        self._under_way[call] = usd

    def settle(self, call: int, cost: Cost) -> None:
        """Replace a call's reservation by what it did cost."""
        reserved_usd = self._under_way.pop(call, None)
        if reserved_usd is None:
            return
        if cost.usd is None:
            self._unknown_usd.append(reserved_usd)
        elif self._spent is None:
            self._own_usd += cost.usd


class Limit(NamedTuple):
    """The most that may be spent on one purpose; its name is what set it, as errors say it."""

    name: str
    usd: Decimal
    tracker: BudgetTracker


_lock: Final = threading.Lock()
"""Held while limits are compared and reservations made: a tracker may be in several guards."""


class BudgetGuard:
    """One ask's budget: `check` it before it is sent, and set `paid` to what it cost.

    A context manager: of an ask that ends in an error the cost is the error's, and an interrupted one costs
    nothing unless a request was sent.

    Args:
        limits: All of them must hold.
        estimate: Gives the least and the most that a request can cost; may look up prices.
    """

    def __init__(self, limits: Sequence[Limit], estimate: Callable[[Request], Estimate]) -> None:
        self._limits = limits
        self._estimate = estimate
        #: What the ask was charged; to be set before the block ends.
        self.paid: Cost = UNKNOWN_COST
        self._interrupted: Cost = FREE  # what the ask costs if it is interrupted now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        if exc is not None:
            self.paid = cost_of_error(exc, self._interrupted)
        with _lock:
            for limit in self._limits:
                limit.tracker.settle(id(self), self.paid)

    def over(self, callbacks: Callbacks) -> Callbacks:
        """Return an ask's callbacks with `check` before it is sent, after its own callbacks."""

        def before_send(request: Request) -> None:
            if callbacks.before_send is not None:
                callbacks.before_send(request)
            self.check(request)

        def on_send() -> None:
            self._interrupted = UNKNOWN_COST
            if callbacks.on_send is not None:
                callbacks.on_send()

        def on_cost(cost: Cost) -> None:
            self._interrupted = cost

        return callbacks._replace(before_send=before_send, on_send=on_send, on_cost=on_cost)

    def check(self, request: Request) -> None:
        """Reserve the most that a request can cost.

        Raises:
            BudgetError: That is over a limit, or unknown. Nothing was sent.
        """
        estimate = self._estimate(request)
        with _lock:
            for limit in self._limits:
                _check(limit, estimate, of_texts=is_embedding(request.body))
            for limit in self._limits:
                limit.tracker.reserve(id(self), estimate.high_usd or ZERO_USD)


def _check(limit: Limit, estimate: Estimate, *, of_texts: bool) -> None:
    """Raise `BudgetError` unless the limit holds with the most that this call can cost."""
    try:
        spent_usd, high_usd = limit.tracker.at_most(), estimate.high_usd
    except StoreError as exc:
        raise BudgetError(
            f"what was spent can't be read, so the {format_usd(limit.usd)} of {limit.name} can't be held"
            f" (nothing was sent): {exc.args[0]}",
            exc.hint,
            limit_usd=limit.usd,
            spent_usd=None,
        ) from None
    if high_usd is not None and spent_usd + high_usd <= limit.usd:
        return
    if high_usd is None:
        message = (
            f"what this call costs can't be known beforehand ({estimate.unknown_why}), so the"
            f" {format_usd(limit.usd)} of {limit.name} can't be held (nothing was sent)"
        )
        hint = "ask without the limit, or name a model whose price is listed"
    else:
        held_usd = limit.tracker.held_usd()
        held = f" ({format_usd(held_usd)} of it held for batches under way)" if held_usd else ""
        before = f", after {format_usd(spent_usd)}{held}" if spent_usd else ""
        message = (
            f"this call may cost up to {format_usd(high_usd)}{before}: over the"
            f" {format_usd(limit.usd)} of {limit.name} (nothing was sent)"
        )
        hint = (
            f"raise {limit.name}, or give fewer or shorter texts"
            if of_texts
            else "lower --max-tokens, which bounds the answer, or raise the limit"
        )
    raise BudgetError(
        message,
        hint,
        limit_usd=limit.usd,
        spent_usd=spent_usd,
        low_usd=estimate.low_usd,
        high_usd=high_usd,
    )


def cost_of_error(exc: BaseException, interrupted: Cost = UNKNOWN_COST) -> Cost:
    """Return what an ask cost that ended in an error; `interrupted` is what it did if that is no error."""
    if not isinstance(exc, OrCacheError):
        return interrupted
    # Every other error of ours comes before anything is sent; an interrupt may come after.
    cost = Cost(exc.cost_usd, "reported") if isinstance(exc, UpstreamError) else FREE
    before: Cost = exc.paid_before or FREE
    if cost.usd is None or before.usd is None:
        return UNKNOWN_COST
    return Cost(cost.usd + before.usd, before.source)
