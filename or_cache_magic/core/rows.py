"""What a cache is browsed by: its entries and its ledger as they are listed, filtered and added up.

A hit needs none of it, and imports none of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from or_cache_magic.core.records import OPENROUTER_URL, NamedTuple
from or_cache_magic.core.units import ZERO_USD

if TYPE_CHECKING:
    from or_cache_magic.core.records import AskKind, Cost


class LedgerRow(NamedTuple):
    """One ask in the ledger, or ``asks`` identical hits of one moment folded into one row.

    Attributes:
        at_s: When (of folded hits: the last).
        session: Id of the kernel's session.
        notebook: Where it was asked from.
        key: 64 hex digits.
        model: The model that was asked for.
        kind: See `AskKind`.
        asks: How many asks this row stands for.
        paid: What was charged for all of them.
        value_usd: The original price of what was served, for all of them; None is unknown.
        tags: Labels of the ask.
        prompt_tokens: Tokens served or bought, for all of them; None is unknown. So the other counts.
        seconds: Seconds the asks took, together.
        generation_id: The generation that tells what is unknown here (of an answer from OpenRouter's response
            cache the one that was paid for); None when no reply named one.
        base_url: Where that generation can be asked for.
        prompt_cache_saved_usd: What the provider's prompt caching took off the price, below 0 where writing
            to it cost more than it saved; None is unknown. 0 when it neither read nor wrote.
    """

    at_s: float
    session: str
    notebook: str
    key: str
    model: str
    kind: AskKind
    asks: int
    paid: Cost
    value_usd: Decimal | None
    tags: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    seconds: float = 0.0
    generation_id: str | None = None
    base_url: str = OPENROUTER_URL
    prompt_cache_saved_usd: Decimal | None = ZERO_USD


class EntryRow(NamedTuple):
    """An entry as it is listed: the index's columns, without the whole request and answer.

    ``prompt`` and ``answer`` are the first 500 characters; the columns' meaning is that of
    ``%openrouter_entries``.
    """

    key: str
    created_s: float
    model: str
    provider: str
    prompt: str
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: Cost
    hits: int
    saved_usd: Decimal | None
    last_hit_s: float | None
    expires_s: float | None
    tags: tuple[str, ...]
    size_bytes: int
    notebook: str


class EntryFilter(NamedTuple):
    """Which entries: every condition that is set must hold; none set is all of them.

    Attributes:
        keys: Key prefixes (at least 4 hex digits each); an entry matches one of them.
        text: Found in the prompt or the answer, without regard to case.
        model: Asked or served model; ``*`` and ``?`` as in a shell.
        system: The whole system prompt, exactly.
        tag: A label.
        prefix: How the prompt begins.
        created_after_s: Stored at or after.
        created_before_s: Stored before.
        expired_at_s: Already expired at this time.
        served_at_s: Not yet expired at this time.
        to_fit_bytes: Of those that meet the other conditions, as many as must go until all entries together
            are no larger than this: those first that lose least (`store.filters.DROP_ORDER`).
        to_fit_at_s: The time at which that is judged: hits count less the older they are.
    """

    keys: tuple[str, ...] = ()
    text: str = ""
    model: str = ""
    system: str | None = None
    tag: str = ""
    prefix: str = ""
    created_after_s: float | None = None
    created_before_s: float | None = None
    expired_at_s: float | None = None
    to_fit_bytes: int | None = None
    to_fit_at_s: float = 0.0
    served_at_s: float | None = None

    @property
    def unconditional(self) -> bool:
        """Whether it has no condition, and so means every entry."""
        return self == EntryFilter()


class Totals(NamedTuple):
    """Sums over ledger rows; the columns of ``%openrouter_stats`` and what else is kept apart.

    ``paid_usd`` and ``saved_usd`` are sums of what is known; ``unpriced`` counts the asks whose
    price is not known, so that a sum can be shown as "≥ $1.24, 3 of 41 unpriced".

    Attributes:
        group: The model, day, notebook or tag these sums are of; empty for all.
        asks: Asks of every kind, failed ones too.
        hits: Asks served from the cache that avoided a call, those from the shared tier included.
        shared_hits: Those of them that were served from the shared tier.
        shared_saved_usd: What of ``saved_usd`` these saved.
        misses: Asks that found nothing to serve and were answered upstream.
        similar: Asks served with the answer to a prompt that asks the same; nothing counts as saved.
        prompt_cache_saved_usd: What the providers' prompt caching took off the calls that were made; below 0
            where writing to it cost more than was read. None when it is known of no call that used it, 0 when
            none did.
        prompt_cache_unpriced: The calls that used prompt caching, of which it is not known.
        settled_usd: What of ``paid_usd`` was reconciled through ``GET /generation``.
        estimated_usd: What of ``paid_usd`` is counted from tokens and the price list.
        apportioned_usd: What of ``paid_usd`` are shares of what batches, and requests for many texts, cost.
            The rest is reported.
    """

    group: str
    asks: int
    hits: int
    misses: int
    refreshes: int
    bypasses: int
    coalesced: int
    replays: int
    stale: int
    failed: int
    paid_usd: Decimal
    saved_usd: Decimal
    coalesced_usd: Decimal
    replayed_usd: Decimal
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    hit_tokens: int
    bought_tokens: int
    prompt_cache_saved_usd: Decimal | None = None
    shared_hits: int = 0
    shared_saved_usd: Decimal = ZERO_USD
    prompt_cache_unpriced: int = 0
    settled_usd: Decimal = ZERO_USD
    estimated_usd: Decimal = ZERO_USD
    apportioned_usd: Decimal = ZERO_USD
    similar: int = 0

    @property
    def calls(self) -> int:
        """The asks that made a call, failed ones too; the others were served, or waited for one of these."""
        return self.misses + self.refreshes + self.bypasses + self.failed

    @property
    def reported_usd(self) -> Decimal:
        """What of ``paid_usd`` the replies themselves reported."""
        return self.paid_usd - self.settled_usd - self.estimated_usd - self.apportioned_usd

    @property
    def net_saved_usd(self) -> Decimal:
        """What hits saved, and what prompt caching took off or cost besides, as far as is known."""
        return self.saved_usd + (self.prompt_cache_saved_usd or 0)
