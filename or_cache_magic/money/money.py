"""The money of a completion cache: what a call may cost, what may be spent, what is settled afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.money.budget import BudgetGuard, BudgetTracker, Limit

if TYPE_CHECKING:
    from or_cache_magic.core.records import Answer, Ask, Outcome, Request
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.money.budget import KeyLimits
    from or_cache_magic.money.catalog import PriceCatalog
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.money.reconciliation import Reconciler, Settled
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger import Ledger
    from or_cache_magic.storage.tiered import TieredStore
    from or_cache_magic.storage.totals import Spent

__all__ = ["Money"]

_WHILE_ASKED_S: Final = 3.0
"""How long who wants statistics waits for what is to be settled first."""

_AT_ONCE: Final = 20
"""Generations that are asked for in one round."""

_KEY_TIMEOUT_S: Final = 3.0
_CLOSING_S: Final = 2.0


class Money:
    """Prices, budgets and settlements of one `CompletionCache`. Thread-safe.

    Nothing of it is imported or asked by a hit. The network is asked only when an estimate, a budget or
    statistics need it, and never in offline mode.

    Args:
        database: Keeps price lists and what is to be settled.
        store: Has the entries whose cost is told later.
        ledger: Has the asks.
        fetch: Asks OpenRouter: `Gateway.fetch`.
        settings: Gives the settings in force.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self,
        database: Database,
        store: TieredStore,
        ledger: Ledger,
        fetch: Callable[..., Any],
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._ledger = ledger
        self._fetch = fetch
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._prices: PriceCatalog | None = None
        self._settler: Reconciler | None = None
        self._round: threading.Thread | None = None
        self._session = BudgetTracker(self._spent_in_session)
        self._day = BudgetTracker(self._spent_today)

    @property
    def prices(self) -> PriceCatalog:
        """What OpenRouter lists."""
        with self._lock:
            if self._prices is None:
                from or_cache_magic.money.catalog import PriceCatalog

                self._prices = PriceCatalog(self._database, self._fetch, self._clock)
            return self._prices

    def estimate(self, request: Request, settings: Settings | None = None) -> Estimate:
        """Return the least and the most that a call can cost; looks up prices unless the mode is offline.

        Args:
            request: What would be asked.
            settings: In force; None resolves them.
        """
        may_fetch = (settings or self._settings()).mode != "offline"
        return self.prices.estimate(request, self._clock(), may_fetch=may_fetch)

    def guard(
        self, settings: Settings, max_cost_usd: Decimal | None, more: Sequence[Limit] = ()
    ) -> BudgetGuard:
        """Return what guards the budgets of an ask.

        Args:
            settings: In force.
            max_cost_usd: The most that this ask may cost; None is no limit of its own.
            more: Limits that it shares with others.
        """
        limits = list(more)
        if max_cost_usd is not None:
            limits.append(Limit("--max-cost", max_cost_usd, BudgetTracker()))
        if settings.max_cost_usd is not None:
            limits.append(Limit("this session's max_cost_usd", settings.max_cost_usd, self._session))
        if settings.max_cost_per_day_usd is not None:
            limits.append(Limit("a day's max_cost_per_day_usd", settings.max_cost_per_day_usd, self._day))
        return BudgetGuard(limits, partial(self.estimate, settings=settings))

    def prompt_cache_saved(self, request: Request, answer: Answer) -> Decimal | None:
        """What prompt caching took off a call, by the prices that are known now; None when they aren't.

        Asks nobody: `settle` asks what is None here.
        """
        return self.prices.prompt_cache_saved(request, answer, self._clock())

    def settle(self, patience_s: float = _WHILE_ASKED_S, settings: Settings | None = None) -> Settled | None:
        """Asks OpenRouter what calls came to whose replies did not tell; None: nothing is due, or offline.

        Never raises: what can't be settled now is asked again later.

        Args:
            patience_s: For how long it may ask.
            settings: In force; None resolves them.
        """
        settings = settings or self._settings()
        if settings.mode == "offline":
            return None
        settler = self._open_settler(settings)
        if not settler.is_due():
            return None
        self._ledger.flush()  # so that hits of an unknown price are among those that learn it
        return settler.settle(limit=_AT_ONCE, budget_s=patience_s)

    def after_call(self, ask: Ask, outcome: Outcome | None) -> None:
        """Settles what is due, and looks up prices that a reply's money could not be told without.

        Nobody waits for it.

        Args:
            ask: What was asked.
            outcome: Its outcome; None is a failure.
        """
        if ask.settings.mode == "offline" or (self._round is not None and self._round.is_alive()):
            return
        # Estimates are made by the list of the day, so it is fetched now, not when all else has failed. What
        # prompt caching took off is then told by it, and OpenRouter need not be asked of each call.
        wanting = outcome is not None and _wants_prices(outcome)
        if not wanting and not self._open_settler(ask.settings).is_due():
            return

        def go() -> None:
            if wanting:
                self.estimate(ask.request, ask.settings)
            self.settle(settings=ask.settings)

        self._round = threading.Thread(target=go, name="or-cache-settle", daemon=True)
        self._round.start()

    def key_limits(self) -> KeyLimits | None:
        """What the key may still spend, as OpenRouter tells it; None when it can't be read, or offline.

        Raises:
            UpstreamError: It was refused, or there is no connection.
            MissingKeyError: There is no key.
        """
        if self._settings().mode == "offline":
            return None
        from or_cache_magic.money.budget import read_key_limits

        told = self._fetch("/key", base_url=self._settings().base_url, timeout_s=_KEY_TIMEOUT_S)
        return read_key_limits(told)

    def session_at_most(self) -> Decimal:
        """The most that this session has spent: what is known, and what calls of unknown cost may have."""
        return self._session.at_most()

    def day_at_most(self) -> Decimal:
        """The most that was spent in this cache since midnight, local time, by all its sessions."""
        return self._day.at_most()

    def close(self) -> None:
        """Waits, not long, for what is being settled."""
        if self._round is not None:
            self._round.join(_CLOSING_S)

    def _open_settler(self, settings: Settings) -> Reconciler:
        prices = self.prices
        with self._lock:
            if self._settler is None or self._settler.base_url != settings.base_url:
                from or_cache_magic.money.reconciliation import Reconciler, count_tokens

                self._settler = Reconciler(
                    self._database,
                    self._store,
                    self._fetch,
                    base_url=settings.base_url,
                    estimated=count_tokens(self._store, prices),
                    clock=self._clock,
                )
            return self._settler

    def _spent_in_session(self) -> Spent:
        return self._ledger.spent(session=self._ledger.session)

    def _spent_today(self) -> Spent:
        now = time.localtime(self._clock())
        midnight_s = time.mktime((*now[:3], 0, 0, 0, 0, 0, -1))
        return self._ledger.spent(since_s=midnight_s)


def _wants_prices(outcome: Outcome) -> bool:
    """Whether a call's tokens are known, and something of its money is not."""
    answer = outcome.answer
    return answer.usage is not None and None in (outcome.paid.usd, answer.prompt_cache_saved_usd)
