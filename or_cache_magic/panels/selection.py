"""Entries chosen by their keys: what they come to, and their removal. Many are taken some at a time.

What was confirmed is what goes: keys are never another's, so that an entry stored meanwhile is not touched.
"""

from __future__ import annotations

from decimal import Decimal
from operator import add
from typing import TYPE_CHECKING, Final

from or_cache_magic.records import EntryFilter
from or_cache_magic.store.catalogue import Weight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from or_cache_magic.cache import CompletionCache
    from or_cache_magic.records import EntryRow
    from or_cache_magic.store import TieredStore

__all__ = ["drop", "entries", "kept", "weigh"]

_AT_ONCE: Final = 400
"""SQLite before 3.32 takes 999 parameters, and an expression a thousand deep."""


def weigh(store: TieredStore, keys: Collection[str]) -> Weight:
    """What the entries of these keys come to; keys that are gone count nothing."""
    total = Weight(0, Decimal(0), 0, 0)
    for some in _filters(keys):
        total = Weight(*map(add, total, store.weigh(some)))
    return total


def kept(store: TieredStore, keys: Collection[str]) -> set[str]:
    """Those of the keys that still have an entry."""
    return {key for some in _filters(keys) for key in store.digests(some)}


def entries(store: TieredStore, keys: Collection[str]) -> list[EntryRow]:
    """The entries of these keys, newest first."""
    rows = [row for some in _filters(keys) for row in store.find(some)]
    return sorted(rows, key=lambda row: (row.created_s, row.key), reverse=True)


def drop(cache: CompletionCache, keys: Collection[str]) -> int:
    """Removes the entries of these keys, all or none; how many went.

    Raises:
        StoreError: They can't be removed; none was.
    """
    cache.ledger.flush()
    if not cache.database.exists():
        return 0
    with cache.database.transaction():
        removed = sum(cache.store.purge(some) for some in _filters(keys))
    cache.database.checkpoint()
    return removed


def _filters(keys: Collection[str]) -> Iterator[EntryFilter]:
    ordered = sorted(keys)
    for at in range(0, len(ordered), _AT_ONCE):
        yield EntryFilter(keys=tuple(ordered[at : at + _AT_ONCE]))
