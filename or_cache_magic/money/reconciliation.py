"""Settles what a reply did not tell: asks OpenRouter afterwards what a generation cost, and writes it down.

A cut stream, an interrupted cell, an answer from OpenRouter's own response cache have a price that the reply
did not name; ``GET /generation`` knows it a second or so later. What nobody tells in time is counted from its
tokens where the price list leaves no doubt, and stays unknown otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from or_cache_magic.core.records import Cost, LedgerRow, Request
from or_cache_magic.errors import OrCacheError, StoreError, UpstreamError
from or_cache_magic.openrouter.reply import cost_reported
from or_cache_magic.storage.ledger_rows import Settlements, Waiting

if TYPE_CHECKING:
    from or_cache_magic.core.records import Answer
    from or_cache_magic.money.catalog import PriceCatalog
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.entries import DiskStore

__all__ = ["NOTHING_SETTLED", "Reconciler", "Settled", "count_tokens"]

_LONGEST_FETCH_S: Final = 10.0
_MOST_USD: Final = 1_000_000
"""No generation cost more; the ledger's integers end at nine times that."""

_QUIET_S: Final = 30.0
"""How long nothing is asked after nobody answered."""

_SERVER_FAILED: Final = 500
_NOT_ABOUT_IT: Final = frozenset({401, 402, 408, 429})
"""Refusals that say nothing of the generation that was asked for: another may be refused just so."""


_State = Literal["settled", "waiting", "given up"]


class Settled(NamedTuple):
    """What a round came to, in generations.

    Attributes:
        settled: Those whose cost is known now.
        waiting: Those that will be asked for later.
        given_up: Those whose cost stays unknown.
    """

    settled: int = 0
    waiting: int = 0
    given_up: int = 0


NOTHING_SETTLED: Final = Settled()


class GenerationCost(NamedTuple):
    """What ``GET /generation`` told.

    Attributes:
        cost: What the generation came to.
        discount_usd: What prompt caching took off, negative where it cost more; None is unknown.
    """

    cost: Cost
    discount_usd: Decimal | None


class Fetch(Protocol):
    """`Gateway.fetch`."""

    def __call__(self, path: str, *, base_url: str, params: Mapping[str, str], timeout_s: float) -> Any:
        """The JSON at a path; raises `UpstreamError`, or `MissingKeyError`."""


class EntryKeeper(Protocol):
    """The store, as far as it is needed here."""

    def settle(self, digest: str, generation_id: str, cost: Cost) -> bool:
        """Give the answer that this generation made its cost, in the open transaction."""


def count_tokens(store: DiskStore, prices: PriceCatalog) -> Callable[[LedgerRow], Decimal | None]:
    """For `Reconciler`: what a call cost by the tokens of its kept answer; None where there is any doubt."""

    def estimated(row: LedgerRow) -> Decimal | None:
        # For how long something was written to a prompt cache is not kept, and has its price.
        if row.cache_write_tokens:
            return None
        for answer, body in _answers(store, row.key):
            if answer.generation_id == row.generation_id and body is not None:
                return prices.tokens_cost(Request(body, base_url=row.base_url), answer, row.at_s).usd
        return None

    return estimated


class Reconciler:
    """Settles the ledger of one `Database`, and the entries with it. Thread-safe; of several kernels too.

    Args:
        database: Where ledger and entries are.
        store: Knows the entries' costs.
        fetch: Asks OpenRouter. Not called, and nothing imported, before something is due.
        base_url: Whom to ask: the only one who is ever told the key. What other APIs know waits.
        estimated: What a call cost by its tokens, where the price list leaves no doubt; else None.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self,
        database: Database,
        store: EntryKeeper,
        fetch: Fetch,
        *,
        base_url: str,
        estimated: Callable[[LedgerRow], Decimal | None] = lambda _row: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._fetch = fetch
        #: Whom to ask.
        self.base_url = base_url
        self._estimated = estimated
        self._clock = clock
        self._one_round = threading.Lock()
        self._quiet_until_s = 0.0

    def is_due(self) -> bool:
        """Whether a round would ask now. One SELECT, of an index; never raises."""
        try:
            return bool(_due(self._settlements().waiting(), self._clock())) and not self._is_quiet
        except StoreError:
            return False

    def settle(self, limit: int = 16, budget_s: float = 2.0) -> Settled:
        """Asks for what is due, and writes what is told. Never raises; with nothing due it is one SELECT.

        A generation is asked for after 1, 2, 4, … seconds, doubling up to an hour, and given up after a dozen
        answers without its cost. What is told counts for all asks that it served. Without a network, without
        a key, or where the file can't be written, nothing is lost: a later round does it.

        Args:
            limit: The most generations to ask for.
            budget_s: Seconds after which no other one is begun, waiting for another thread's round included.
        """
        ends_s = time.monotonic() + budget_s
        if not self.is_due() or not self._one_round.acquire(timeout=max(0.0, budget_s)):
            return NOTHING_SETTLED
        try:
            return self._round(self._settlements(), limit, ends_s)
        except StoreError:
            return NOTHING_SETTLED
        finally:
            self._one_round.release()

    @property
    def _is_quiet(self) -> bool:
        return time.monotonic() < self._quiet_until_s

    def _settlements(self) -> Settlements:
        return Settlements(self._database, self.base_url)

    def _round(self, settlements: Settlements, limit: int, ends_s: float) -> Settled:
        waiting = settlements.waiting()
        settled = given_up = 0
        for generation_id in _due(waiting, self._clock())[:limit]:
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                state = self._settle_one(settlements, generation_id, left_s)
            except StoreError:
                break
            except OrCacheError:
                self._quiet_until_s = time.monotonic() + _QUIET_S
                break
            settled += state == "settled"
            given_up += state == "given up"
        return Settled(settled, len(waiting) - settled - given_up, given_up)

    def _settle_one(self, settlements: Settlements, generation_id: str, left_s: float) -> _State:
        """Asks for a generation; raises `StoreError`, or `OrCacheError` when nobody answers."""
        # The next try is put off before this one is made: where that can't be written, nothing is asked.
        if not settlements.claim(generation_id, self._clock()):
            return "waiting"
        told = self._ask(settlements.base_url, generation_id, min(left_s, _LONGEST_FETCH_S))
        with self._database.transaction():
            if told is None:
                if not settlements.miss(generation_id):
                    return "waiting"
                call = settlements.call(generation_id)
                usd = None if call is None else self._estimated(call)
                if usd is None:
                    return "given up"
                told = GenerationCost(Cost(usd, "estimated"), None)
            for digest in settlements.settle(generation_id, told.cost, told.discount_usd):
                self._store.settle(digest, generation_id, told.cost)
        return "settled"

    def _ask(self, base_url: str, generation_id: str, timeout_s: float) -> GenerationCost | None:
        """What is told of a generation; None is nothing (yet). Raises `OrCacheError` when nobody answers."""
        try:
            data = self._generation(base_url, generation_id, timeout_s)
            source_id = data.get("response_cache_source_id")
            if isinstance(source_id, str) and source_id not in ("", generation_id):
                # It was served from OpenRouter's response cache: that was free, and its value is the other's.
                data = self._generation(base_url, source_id, timeout_s)
        except UpstreamError as exc:
            if exc.status is None or exc.status in _NOT_ABOUT_IT or exc.status >= _SERVER_FAILED:
                raise
            return None
        return _told(data)

    def _generation(self, base_url: str, generation_id: str, timeout_s: float) -> Mapping[str, Any]:
        reply = self._fetch(
            "/generation", base_url=base_url, params={"id": generation_id}, timeout_s=timeout_s
        )
        data = reply.get("data") if isinstance(reply, Mapping) else None
        return data if isinstance(data, Mapping) else {}


def _answers(store: DiskStore, digest: str) -> list[tuple[Answer, Mapping[str, Any] | None]]:
    """Every kept answer to a request, with its body; damaged ones are left out."""
    try:
        kept = [(old.answer, old.request) for old in store.unserved(digest)]
        entry = store.entry(digest)
        return kept if entry is None else [*kept, (entry.answer, store.request(digest))]
    except StoreError:
        return []


def _due(waiting: list[Waiting], now_s: float) -> list[str]:
    return [generation_id for generation_id, next_s in waiting if next_s <= now_s]


def _told(data: Mapping[str, Any]) -> GenerationCost | None:
    """What ``/generation`` tells; None while a part of the cost is missing. The rule is that of ``usage``."""
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
    """What prompt caching took off; OpenRouter need not know it of a bill that the provider sends."""
    told = data.get("cache_discount")
    if told is None:
        return None if data.get("is_byok") is True else Decimal(0)
    if isinstance(told, bool) or not isinstance(told, (Decimal, int)):
        return None
    discount = Decimal(told)
    return discount if discount.is_finite() and -_MOST_USD < discount < _MOST_USD else None
