"""Cost control of a completion cache: estimates before a call, budgets, and costs reconciled after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import is_embedding
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.money.budget import BudgetGuard, BudgetTracker, KeyLimits, Limit, read_key_limits

if TYPE_CHECKING:
    from or_cache_magic.core.records import Answer, Outcome, Request
    from or_cache_magic.core.settings import Ask, Settings
    from or_cache_magic.money.catalog import PriceCatalog
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.money.reconciliation import Reconciler, Reconciliation
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.entries import DiskStore
    from or_cache_magic.storage.ledger import Ledger
    from or_cache_magic.storage.totals import Spent

_PATIENCE_S: Final = 3.0
"""How long statistics wait for costs that are due."""

_MOST_GENERATIONS: Final = 20
"""How many are asked for in one round."""

_KEY_TIMEOUT_S: Final = 3.0
_CLOSING_S: Final = 2.0


class CostControl:
    """The prices, budgets and reconciliation of one `CompletionCache`. Thread-safe.

    A hit imports and asks nothing of it. The network is asked only when an estimate, a budget or
    statistics need it, and never in offline mode.

    Args:
        database: Keeps price lists, and which costs are to be reconciled.
        store: Has the entries whose cost is reconciled.
        ledger: Has the asks.
        fetch: Asks OpenRouter: `Gateway.fetch`.
        settings: Gives the settings in force.
        clock: Gives UTC epoch seconds.
    """

    def __init__(
        self,
        database: Database,
        store: DiskStore,
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
        self._reconciler: Reconciler | None = None
        self._round: threading.Thread | None = None
        #: What this session has spent.
        self.session = BudgetTracker(
            lambda: ledger.spent(session=ledger.session), lambda: self._held(self.awaited)
        )
        #: What was spent in this cache since midnight, local time, by all its sessions.
        self.day = BudgetTracker(self._spent_today, self._held)
        #: The markers of the batches that this session has submitted, or waits for.
        self.awaited: set[str] = set()

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

        Raises:
            RequestError: Its model isn't there.
        """
        settings = settings or self._settings()
        may_fetch = settings.mode != "offline"
        if is_embedding(request.body):
            request = request._replace(body=_as_chat(request.body))
        if may_fetch:
            self.prices.check_models(request, settings.aliases)
        return self.prices.estimate(request, self._clock(), may_fetch=may_fetch)

    def guard(
        self,
        settings: Settings,
        max_cost_usd: Decimal | None,
        more: Sequence[Limit] = (),
        *,
        estimate: Callable[[Request], Estimate] | None = None,
    ) -> BudgetGuard:
        """Return what guards the budgets of an ask: its own, those of the settings, and those it shares.

        `estimate` says what it may cost in all, where it is more than one request.
        """
        limits = list(more)
        if max_cost_usd is not None:
            limits.append(Limit("--max-cost", max_cost_usd, BudgetTracker()))
        if settings.max_cost_usd is not None:
            limits.append(Limit("this session's max_cost_usd", settings.max_cost_usd, self.session))
        if settings.max_cost_per_day_usd is not None:
            limits.append(Limit("a day's max_cost_per_day_usd", settings.max_cost_per_day_usd, self.day))
        return BudgetGuard(limits, estimate or partial(self.estimate, settings=settings))

    def prompt_cache_saved(self, request: Request, answer: Answer) -> Decimal | None:
        """Return what prompt caching took off a call, by the prices that are known; None when they aren't.

        Fetches nothing: `reconcile` asks for what is None here.
        """
        return self.prices.prompt_cache_saved(request, answer, self._clock())

    def reconcile(
        self, patience_s: float = _PATIENCE_S, settings: Settings | None = None
    ) -> Reconciliation | None:
        """Ask OpenRouter for costs that replies did not have; None if nothing is due, or offline.

        Never raises: what can't be had in so many seconds is asked again later.
        """
        settings = settings or self._settings()
        if settings.mode == "offline":
            return None
        reconciler = self._open_reconciler(settings)
        if not reconciler.is_due():
            return None
        self._ledger.flush()  # so that hits of an unknown price are among those that learn it
        return reconciler.reconcile(limit=_MOST_GENERATIONS, budget_s=patience_s)

    def after_call(self, ask: Ask, outcome: Outcome | None) -> None:
        """Reconcile what is due, fetch prices that a reply lacks and a list that is old; never blocks."""
        if ask.settings.mode == "offline" or (self._round is not None and self._round.is_alive()):
            return
        self.prices.keep()
        # A call is priced by the list of its day, so that is fetched now, not when all else has failed. By it
        # is known what prompt caching took off, so that OpenRouter need not be asked about each call.
        wanting = outcome is not None and _wants_prices(outcome)
        base_url = ask.request.base_url
        outdated = self.prices.is_outdated(base_url)
        if not wanting and not outdated and not self._open_reconciler(ask.settings).may_be_due():
            return

        def go() -> None:
            if wanting:
                self.prices.estimate(ask.request, self._clock())
            if outdated:
                self.prices.models(base_url)
            self.reconcile(settings=ask.settings)

        self._round = threading.Thread(target=go, name="or-cache-reconcile", daemon=True)
        self._round.start()

    def key_limits(self) -> KeyLimits | None:
        """Return what the key may still spend by OpenRouter; None when it can't be read, or offline.

        Raises:
            UpstreamError: It was refused, or there is no connection.
            MissingKeyError: There is no key.
        """
        if self._settings().mode == "offline":
            return None
        reply = self._fetch("/key", base_url=self._settings().base_url, timeout_s=_KEY_TIMEOUT_S)
        return read_key_limits(reply)

    def close(self) -> None:
        """Wait, not long, for a round that is under way."""
        if self._round is not None:
            self._round.join(_CLOSING_S)

    def _open_reconciler(self, settings: Settings) -> Reconciler:
        prices = self.prices
        with self._lock:
            if self._reconciler is None or self._reconciler.base_url != settings.base_url:
                from or_cache_magic.money.reconciliation import Reconciler

                self._reconciler = Reconciler(
                    self._database,
                    self._store,
                    prices,
                    self._fetch,
                    base_url=settings.base_url,
                    clock=self._clock,
                )
            return self._reconciler

    def _held(self, markers: Container[str] | None = None) -> Decimal:
        """Return the most that batches under way may cost; all, or those of some markers."""
        from or_cache_magic.storage.batches import BatchTable

        under_way = BatchTable(self._database).under_way()
        some = [batch for batch in under_way if markers is None or batch.marker in markers]
        return sum((batch.high_usd or ZERO_USD for batch in some), ZERO_USD)

    def _spent_today(self) -> Spent:
        now = time.localtime(self._clock())
        midnight_s = time.mktime((*now[:3], 0, 0, 0, 0, 0, -1))
        return self._ledger.spent(since_s=midnight_s)


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the completion that costs at least what a request for vectors does: its texts are the prompt."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    messages = [{"role": "user", "content": text} for text in texts]
    known = {name: body[name] for name in ("model", "provider") if name in body}
    return {**known, "messages": messages, "max_tokens": 1}


def _wants_prices(outcome: Outcome) -> bool:
    """Return whether a call's tokens are known, and something of its cost is not."""
    answer = outcome.answer
    return answer.usage is not None and None in (outcome.paid.usd, answer.prompt_cache_saved_usd)
