"""Budgets: what may still be spent, by one ask, a session, a day or a list of prompts.

Before a call is sent, the most that it can cost is reserved; afterwards the reservation gives way to what
it did cost. So many asks at one time don't overdraw together. A call whose cost is never told keeps its
reservation: unknown is not zero.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost, Request
from or_cache_magic.core.units import decimal_usd, format_usd
from or_cache_magic.errors import BudgetError, StoreError

if TYPE_CHECKING:
    from typing_extensions import Self

    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.storage.totals import Spent

__all__ = ["BudgetGuard", "BudgetTracker", "KeyLimits", "Limit", "read_key_limits"]


class KeyLimits(NamedTuple):
    """The limits of a key, in US dollars.

    Attributes:
        limit_usd: The most that it may spend; None is no limit.
        remaining_usd: What is left of that; None without a limit.
        resets: When the limit begins anew: ``daily``, ``weekly``, ``monthly``; empty is never.
        used_usd: What it has spent in all; None is not told.
        used_this_month_usd: What of that in this month, in UTC; None is not told.
        is_free_tier: Whether nothing was ever paid into its account.
    """

    limit_usd: Decimal | None
    remaining_usd: Decimal | None
    resets: str
    used_usd: Decimal | None
    used_this_month_usd: Decimal | None
    is_free_tier: bool


def read_key_limits(told: Any) -> KeyLimits | None:
    """The limits in a reply of ``GET /key``; None when it tells none."""
    data = told.get("data") if isinstance(told, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    resets = data.get("limit_reset")
    return KeyLimits(
        limit_usd=decimal_usd(data.get("limit")),
        remaining_usd=_signed(data.get("limit_remaining")),
        resets=resets if isinstance(resets, str) else "",
        used_usd=decimal_usd(data.get("usage")),
        used_this_month_usd=decimal_usd(data.get("usage_monthly")),
        is_free_tier=data.get("is_free_tier") is True,
    )


def _signed(value: Any) -> Decimal | None:
    """An amount that may be below 0: calls under way when the limit was reached are still charged."""
    below = isinstance(value, (Decimal, int, float)) and not isinstance(value, bool) and value < 0
    usd = decimal_usd(-value if below else value)
    return -usd if below and usd is not None else usd


class BudgetTracker:
    """What was spent on one purpose, and what is reserved for calls under way.

    Not thread-safe: see `BudgetGuard`.

    Args:
        spent: Tells what was spent by the ledger, and how many calls' cost is unknown there; None counts
            here what calls came to.
    """

    def __init__(self, spent: Callable[[], Spent] | None = None) -> None:
        self._spent = spent
        self._own_usd = Decimal(0)
        self._under_way: dict[int, Decimal] = {}
        self._never_told: list[Decimal] = []

    def at_most(self) -> Decimal:
        """The most that was spent: what is known, and what calls of unknown cost may have come to.

        Raises:
            StoreError: The ledger can't be read.
        """
        spent = self._spent() if self._spent is not None else None
        known_usd = self._own_usd if spent is None else spent.usd
        # Which of them were settled meanwhile isn't told: the dearest count as those that were not.
        unknown = len(self._never_told) if spent is None else spent.unknown
        open_usd = heapq.nlargest(unknown, self._never_told)
        return known_usd + sum(open_usd) + sum(tuple(self._under_way.values()))

    def reserve(self, call: int, usd: Decimal) -> None:
        """Takes out the most that a call can cost."""
        self._under_way[call] = usd

    def settle(self, call: int, cost: Cost) -> None:
        """Puts in the place of a call's reservation what it did cost."""
        reserved_usd = self._under_way.pop(call, None)
        if reserved_usd is None:
            return
        if cost.usd is None:
            self._never_told.append(reserved_usd)
        elif self._spent is None:
            self._own_usd += cost.usd


class Limit(NamedTuple):
    """The most that may be spent on one purpose.

    Attributes:
        name: What set it, as the error names it: ``--max-cost``, ``this session's max_cost_usd``.
        usd: The most.
        tracker: What was spent on it.
    """

    name: str
    usd: Decimal
    tracker: BudgetTracker


_purses: Final = threading.Lock()
"""Held while limits are compared and reservations made: a tracker may be in several guards."""


class BudgetGuard:
    """One ask's money: `check` it before it is sent, and say in `paid` what it came to.

    A context manager: what an error tells of the cost is taken from it.

    Args:
        limits: All of them must hold.
        estimate: Tells the least and the most that a request can cost; may look up prices.
    """

    def __init__(self, limits: Sequence[Limit], estimate: Callable[[Request], Estimate]) -> None:
        self._limits = limits
        self._estimate = estimate
        #: What the ask was charged; to be said before the block ends.
        self.paid: Cost = UNKNOWN_COST

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        if exc is not None:
            self.paid = _paid_in_vain(exc)
        with _purses:
            for limit in self._limits:
                limit.tracker.settle(id(self), self.paid)

    def over(self, callbacks: Callbacks) -> Callbacks:
        """The callbacks of an ask, which is checked before it is sent, after its own say."""
        own = callbacks.before_send

        def before_send(request: Request) -> None:
            if own is not None:
                own(request)
            self.check(request)

        return callbacks._replace(before_send=before_send)

    def check(self, request: Request) -> None:
        """Reserves the most that a request can cost.

        Raises:
            BudgetError: That is over a limit, or can't be told. Nothing was sent.
        """
        estimate = self._estimate(request)
        with _purses:
            for limit in self._limits:
                _hold(limit, estimate)
            for limit in self._limits:
                limit.tracker.reserve(id(self), estimate.high_usd or Decimal(0))


def _hold(limit: Limit, estimate: Estimate) -> None:
    """Raises unless the limit holds with the most that this call can cost."""
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
            f"what this call costs can't be told beforehand ({estimate.unknown_why}), so the"
            f" {format_usd(limit.usd)} of {limit.name} can't be held (nothing was sent)"
        )
        hint = "ask without the limit, or name a model whose price is listed"
    else:
        before = f", after {format_usd(spent_usd)}" if spent_usd else ""
        message = (
            f"this call may cost up to {format_usd(high_usd)}{before}: over the"
            f" {format_usd(limit.usd)} of {limit.name} (nothing was sent)"
        )
        hint = "lower --max-tokens, which bounds the answer, or raise the limit"
    raise BudgetError(
        message,
        hint,
        limit_usd=limit.usd,
        spent_usd=spent_usd,
        low_usd=estimate.low_usd,
        high_usd=high_usd,
    )


def _paid_in_vain(exc: BaseException) -> Cost:
    """What an ask came to that ended in an error."""
    from or_cache_magic.errors import OrCacheError, UpstreamError

    if isinstance(exc, UpstreamError):
        return UNKNOWN_COST if exc.cost_usd is None else Cost(exc.cost_usd, "reported")
    # Every other error of ours comes before anything is sent; an interrupt may come after.
    return FREE if isinstance(exc, OrCacheError) else UNKNOWN_COST
