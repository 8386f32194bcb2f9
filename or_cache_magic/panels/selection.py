"""`Selection`: entries chosen by their keys, what they come to, and their removal.

What was confirmed is what goes: a key is never another's, so that an entry stored meanwhile is not touched.
"""

from __future__ import annotations

from decimal import Decimal
from operator import add
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.storage.listing import EntryTotals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.rows import EntryRow

_AT_ONCE: Final = 400
"""SQLite before 3.32 takes 999 parameters, and an expression a thousand deep."""


class Selection:
    """Some entries of a cache, whichever page they are on. Used by one thread at a time.

    Args:
        cache: Whose entries.
    """

    def __init__(self, cache: CompletionCache) -> None:
        #: The keys, 64 hex digits each.
        self.keys: set[str] = set()
        self._cache = cache

    def pick(self, keys: Iterable[str], *, on: bool) -> None:
        """Adds keys, or takes them out."""
        (self.keys.update if on else self.keys.difference_update)(keys)

    def prune(self) -> None:
        """Forgets keys whose entries are gone; raises `StoreError`, as the others do."""
        index = self._cache.store.listing
        self.keys = {key for some in self._filters() for key in index.digests(some)}

    def weigh(self) -> EntryTotals:
        """What the entries come to."""
        total = EntryTotals(0, Decimal(0), 0, 0)
        for some in self._filters():
            total = EntryTotals(*map(add, total, self._cache.store.listing.totals(some)))
        return total

    def rows(self, limit: int | None = None) -> list[EntryRow]:
        """The entries, newest first; with a limit so many of them, any."""
        rows = [row for some in self._filters(limit) for row in self._cache.store.listing.find(some)]
        return sorted(rows, key=lambda row: (row.created_s, row.key), reverse=True)

    def drop(self) -> int:
        """Removes the entries, all or none; how many went. The selection is empty then.

        Raises:
            StoreError: They can't be removed; none was.
        """
        cache, parts = self._cache, list(self._filters())
        if len(parts) == 1:
            removed = cache.drop(parts[0])
        elif parts and cache.database.exists():
            cache.ledger.flush()
            with cache.database.transaction():
                removed = sum(cache.shared.purge(some) for some in parts)
            cache.database.checkpoint()
        else:
            removed = 0
        self.keys.clear()
        return removed

    def _filters(self, limit: int | None = None) -> Iterator[EntryFilter]:
        ordered = sorted(self.keys)[:limit]
        for at in range(0, len(ordered), _AT_ONCE):
            yield EntryFilter(keys=tuple(ordered[at : at + _AT_ONCE]))
