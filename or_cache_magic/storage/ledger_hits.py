"""Hits that are counted and not written yet: equal ones are folded into one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.records import OPENROUTER_URL, AskKind, Cost, LedgerRow
from or_cache_magic.storage.hits import HitCount
from or_cache_magic.storage.pico import from_pico, to_pico

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

__all__ = ["AlikeHits", "Hits", "hit_counts", "hits_row"]

_FREE: Final = Cost(from_pico(0), "reported")


class AlikeHits(NamedTuple):
    """What hits have in common that become one row; see `Ledger.count_hit`."""

    key: str
    model: str
    kind: AskKind
    notebook: str
    tags: tuple[str, ...]
    value_usd: Decimal | None
    prompt_tokens: int | None
    completion_tokens: int | None
    generation_id: str | None = None
    base_url: str = OPENROUTER_URL


class Hits:
    """How many there were of them."""

    __slots__ = ("asks", "last_s", "seconds")

    def __init__(self) -> None:
        self.asks = 0
        self.last_s = 0.0
        self.seconds = 0.0

    def add(self, other: Hits) -> None:
        """Adds others of the same."""
        self.asks += other.asks
        self.seconds += other.seconds
        self.last_s = max(self.last_s, other.last_s)


def hits_row(of: AlikeHits, hits: Hits, session: str) -> LedgerRow:
    """The row that hits become."""
    return LedgerRow(
        at_s=hits.last_s,
        session=session,
        notebook=of.notebook,
        key=of.key,
        model=of.model,
        kind=of.kind,
        asks=hits.asks,
        paid=_FREE,
        value_usd=from_pico(_times(to_pico(of.value_usd), hits.asks)),
        tags=of.tags,
        prompt_tokens=_times(of.prompt_tokens, hits.asks),
        completion_tokens=_times(of.completion_tokens, hits.asks),
        seconds=hits.seconds,
        generation_id=of.generation_id,
        base_url=of.base_url,
    )


def hit_counts(rows: Iterable[LedgerRow]) -> dict[str, HitCount]:
    """What rows add to the entries: asks that avoided a call, not those that were merely served."""
    counts: dict[str, HitCount] = {}
    for row in rows:
        if row.kind in ("hit", "team"):
            hits, last_s, saved, unpriced = counts.get(row.key, HitCount(0, 0.0, 0))
            counts[row.key] = HitCount(
                hits + row.asks,
                max(last_s, row.at_s),
                saved + (to_pico(row.value_usd) or 0),
                unpriced + (row.asks if row.value_usd is None else 0),
            )
    return counts


def _times(count: int | None, asks: int) -> int | None:
    return None if count is None else count * asks
