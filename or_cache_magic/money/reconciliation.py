"""Costs reconciled through ``GET /generation``: asked for where replies did not have them, and written down.

A cut stream, an interrupted cell, an answer from OpenRouter's own response cache have a cost that is not in
the reply; ``GET /generation`` has it a second or so later. What it never has is calculated from the call's
tokens where the price list leaves no doubt, and stays unknown otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from or_cache_magic.core.chat import as_mapping
from or_cache_magic.core.records import Answer, Cost, Request
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.core.units import ZERO_USD, read_number
from or_cache_magic.errors import OrCacheError, StoreError, UpstreamError
from or_cache_magic.openrouter.reply import cost_reported
from or_cache_magic.storage.ledger_rows import FIRST_TRY_AFTER_S, Settlements, Waiting

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.money.catalog import PriceCatalog
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.entries import DiskStore

_LONGEST_FETCH_S: Final = 10.0
_MOST_USD: Final = 10_000
"""No generation cost more; the ledger's sums end at a thousand times that."""

_QUIET_S: Final = 30.0
"""How long nothing is asked after there was no answer."""

_SERVER_FAILED: Final = 500
_UNRELATED: Final = frozenset({401, 402, 408, 429})
"""Refusals that say nothing about the generation that was asked for: any other would be refused too."""


_State = Literal["reconciled", "waiting", "given up"]


class Reconciliation(NamedTuple):
    """How many generations' cost is known after a round, will be asked for later, and stays unknown."""

    reconciled: int = 0
    waiting: int = 0
    given_up: int = 0


class GenerationCost(NamedTuple):
    """What ``GET /generation`` says: the cost, and what prompt caching took off it; None is unknown."""

    cost: Cost
    discount_usd: Decimal | None


class Reconciler:
    """Reconciles the ledger of one `Database`, and the entries with it. Thread-safe; of several kernels too.

    Args:
        database: Where ledger and entries are.
        store: Has the entries' costs.
        prices: Tell what a call cost by its tokens where `/generation` never does.
        fetch: `Gateway.fetch`. Not called, and nothing imported, before something is due.
        base_url: The API to ask, the only one that is ever sent the key. Costs of other APIs wait.
        clock: Gives UTC epoch seconds.
    """

    def __init__(
        self,
        database: Database,
        store: DiskStore,
        prices: PriceCatalog,
        fetch: Callable[..., Any],
        *,
        base_url: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._prices = prices
        self._fetch = fetch
        #: The API to ask.
        self.base_url = base_url
        self._clock = clock
        self._one_round = threading.Lock()
        self._quiet_until_s = 0.0
        #: When was looked, and until when nothing is due.
        self._looked = (0.0, 0.0)

    def is_due(self) -> bool:
        """Return whether a round would ask now. One SELECT, of an index; never raises."""
        now_s = self._clock()
        try:
            waiting = [] if time.monotonic() < self._quiet_until_s else self._settlements().waiting()
        except StoreError:
            return False
        self._looked = (now_s, min([now_s + FIRST_TRY_AFTER_S, *(one.next_s for one in waiting)]))
        return bool(_due(waiting, now_s))

    def may_be_due(self) -> bool:
        """Return `is_due`, without a look while the last one says that nothing can be.

        What is written since waits for as long besides, so that a list of many asks looks once a second.
        """
        looked_s, until_s = self._looked
        return not looked_s <= self._clock() < until_s and self.is_due()

    def reconcile(self, limit: int = 16, budget_s: float = 2.0) -> Reconciliation:
        """Ask for what is due, and write down the answers. Never raises; with nothing due it is one SELECT.

        A generation is asked for after 1, 2, 4, … seconds, doubling up to an hour, and given up after a dozen
        answers without its cost. A cost counts for all asks that its generation served. Without a network,
        without a key, or where the file can't be written, nothing is lost: a later round does it.

        Args:
            limit: The most generations to ask for.
            budget_s: Seconds after which no other one is begun, waiting for another thread's round included.
        """
        ends_s = time.monotonic() + budget_s
        if not self.is_due() or not self._one_round.acquire(timeout=max(0.0, budget_s)):
            return Reconciliation()
        try:
            return self._round(self._settlements(), limit, ends_s)
        except StoreError:
            return Reconciliation()
        finally:
            self._one_round.release()

    def _settlements(self) -> Settlements:
        return Settlements(self._database, self.base_url)

    def _round(self, settlements: Settlements, limit: int, ends_s: float) -> Reconciliation:
        waiting = settlements.waiting()
        reconciled = given_up = 0
        for generation_id in _due(waiting, self._clock())[:limit]:
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                state = self._reconcile_one(settlements, generation_id, left_s)
            except StoreError:
                break
            except OrCacheError:
                self._quiet_until_s = time.monotonic() + _QUIET_S
                break
            reconciled += state == "reconciled"
            given_up += state == "given up"
        return Reconciliation(reconciled, len(waiting) - reconciled - given_up, given_up)

    def _reconcile_one(self, settlements: Settlements, generation_id: str, left_s: float) -> _State:
        """Ask for a generation; raises `StoreError`, or `OrCacheError` when there is no answer."""
        # The next try is put off before this one is made: where that can't be written, nothing is asked.
        if not settlements.claim(generation_id, self._clock()):
            return "waiting"
        found = self._ask(generation_id, min(left_s, _LONGEST_FETCH_S))
        with self._database.transaction():
            if found is None:
                if not settlements.miss(generation_id):
                    return "waiting"
                call = settlements.call(generation_id)
                usd = None if call is None else self._cost_by_tokens(call)
                if usd is None:
                    return "given up"
                found = GenerationCost(Cost(usd, "estimated"), None)
            for digest in settlements.settle(generation_id, found.cost, found.discount_usd):
                self._store.settle(digest, generation_id, found.cost)
        return "reconciled"

    def _cost_by_tokens(self, row: LedgerRow) -> Decimal | None:
        """Return what a call cost by the tokens of its kept answer; None where there is any doubt."""
        # How long what was written to a prompt cache lives there has its price, and isn't stored.
        if row.cache_write_tokens:
            return None
        for answer, body in _answers(self._store, row.key):
            if answer.generation_id == row.generation_id and body is not None:
                return self._prices.tokens_cost(Request(body, base_url=row.base_url), answer, row.at_s).usd
        return None

    def _ask(self, generation_id: str, timeout_s: float) -> GenerationCost | None:
        """Return what a generation cost; None is unknown (yet). Raises `OrCacheError` without an answer."""
        try:
            data = self._generation(generation_id, timeout_s)
            source_id = data.get("response_cache_source_id")
            if isinstance(source_id, str) and source_id not in ("", generation_id):
                # It was served from OpenRouter's response cache: that was free, and its value is the other's.
                data = self._generation(source_id, timeout_s)
        except UpstreamError as exc:
            if exc.status is None or exc.status in _UNRELATED or exc.status >= _SERVER_FAILED:
                raise
            return None
        return _generation_cost(data)

    def _generation(self, generation_id: str, timeout_s: float) -> Mapping[str, Any]:
        params = {"id": generation_id}
        reply = self._fetch("/generation", base_url=self.base_url, params=params, timeout_s=timeout_s)
        return as_mapping(as_mapping(reply).get("data"))


def _answers(store: DiskStore, digest: str) -> list[tuple[Answer, Mapping[str, Any] | None]]:
    """Return every kept answer to a request, with its body, without damaged ones."""
    try:
        kept = [(old.answer, old.request) for old in store.unserved(digest)]
        entry = store.entry(digest)
        return kept if entry is None else [*kept, (entry.answer, store.request(digest))]
    except StoreError:
        return []


def _due(waiting: list[Waiting], now_s: float) -> list[str]:
    return [generation_id for generation_id, next_s in waiting if next_s <= now_s]


def _generation_cost(data: Mapping[str, Any]) -> GenerationCost | None:
    """Return what ``/generation`` says by the rule of ``usage``; None while a part of the cost is missing."""
    cost = cost_reported(
        {
            "cost": data.get("total_cost"),
            "is_byok": data.get("is_byok"),
            "cost_details": {"upstream_inference_cost": data.get("upstream_inference_cost")},
        }
    )
    if cost.usd is None or cost.usd > _MOST_USD:
        return None
    return GenerationCost(Cost(cost.usd, "generation"), _discount(data))


def _discount(data: Mapping[str, Any]) -> Decimal | None:
    """Return what prompt caching took off; OpenRouter need not know it of a bill that the provider sends."""
    listed = data.get("cache_discount")
    if listed is None:
        return None if data.get("is_byok") is True else ZERO_USD
    discount = None if isinstance(listed, str) else read_number(listed, signed=True)
    return discount if discount is not None and abs(discount) < _MOST_USD else None
