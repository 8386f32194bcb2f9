"""`Catalogue`: browsing the entries of a database: which match, what they say, what they come to."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from or_cache_magic.core.records import EntryFilter
from or_cache_magic.errors import OptionError
from or_cache_magic.storage.filters import filter_sql
from or_cache_magic.storage.index import IDS, ORDERS, entry_row, rows_sql
from or_cache_magic.storage.pico import from_pico
from or_cache_magic.storage.search import begins, has_text
from or_cache_magic.storage.tags import split_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from or_cache_magic.core.records import EntryRow
    from or_cache_magic.storage.database import Database

__all__ = ["Catalogue", "Weight"]

_COUNT = (
    "SELECT count(*), coalesce(sum(e.cost), 0), count(*) - count(e.cost), coalesce(sum(e.size), 0)"
    " FROM or_entry e {where}"
)
_SIZE = "SELECT coalesce(sum(e.size), 0) FROM or_entry e {where}"
_PAGES = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_DIGESTS = "SELECT c.key FROM or_entry e JOIN Cache c ON c.rowid = e.id {where} ORDER BY c.key"
_TAGS = "SELECT DISTINCT tags FROM or_entry WHERE typeof(tags) = 'text'"

_ROWS_AT_ONCE = 500  # SQLite before 3.32 takes 999 parameters


class Weight(NamedTuple):
    """What entries come to.

    Attributes:
        entries: How many they are.
        cost_usd: The sum of the costs that are known.
        unpriced: How many have an unknown cost.
        size_bytes: Their size as stored.
    """

    entries: int
    cost_usd: Decimal
    unpriced: int
    size_bytes: int


class Catalogue:
    """What is in a `Database`. Thread-safe. Every method may raise `StoreError`.

    Args:
        database: Where the entries are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.add_function("or_has_text", 4, has_text)
        database.add_function("or_begins", 3, begins)

    def find(
        self,
        wanted: EntryFilter = EntryFilter(),  # noqa: B008 - frozen
        *,
        order: str = "created",
        descending: bool = True,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[EntryRow]:
        """The entries that match, as listed: newest first, or by another of `ORDERS`; damaged ones left out.

        Raises:
            OptionError: An unknown order, or a key prefix that is none.
        """
        return self.rows(self._ids(wanted, order, descending, -1 if limit is None else limit, offset))

    def matching(
        self,
        wanted: EntryFilter = EntryFilter(),  # noqa: B008 - frozen
        *,
        order: str = "created",
        descending: bool = True,
    ) -> list[int]:
        """The row ids of all entries that match, in order: a list to count and to page in, read once.

        `rows` lists a part of it. An id is good for a listing, not to remember an entry by: that of a
        removed entry may be given to a new one. Its key is never another's.

        Raises:
            OptionError: As `find`.
        """
        return self._ids(wanted, order, descending, -1, 0)

    def rows(self, ids: Sequence[int]) -> list[EntryRow]:
        """The entries of these row ids, in their order; those that are gone or damaged are left out."""
        found = {}
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            some = ids[start : start + _ROWS_AT_ONCE]
            for columns in self._database.select(rows_sql(len(some)), some):
                found[columns[0]] = entry_row(columns)
        # One that is damaged must not hide the others.
        return [row for row in map(found.get, ids) if row is not None]

    def _ids(self, wanted: EntryFilter, order: str, descending: bool, limit: int, offset: int) -> list[int]:
        if order not in ORDERS:
            raise OptionError(f"Entries can't be ordered by {order!r}.", f"Choose from: {', '.join(ORDERS)}.")
        where, parameters = filter_sql(wanted)
        sql = IDS.format(where=where, order=ORDERS[order], way="DESC" if descending else "ASC")
        return [row_id for (row_id,) in self._database.select(sql, [*parameters, limit, offset])]

    def count(self, wanted: EntryFilter = EntryFilter()) -> tuple[int, Decimal, int]:  # noqa: B008 - frozen
        """How many entries match, the sum of their known costs in USD, and how many have an unknown one."""
        return self.weigh(wanted)[:3]

    def weigh(self, wanted: EntryFilter) -> Weight:
        """What the entries that match come to."""
        where, parameters = filter_sql(wanted)
        rows = self._database.select(_COUNT.format(where=where), parameters)
        entries, cost, unpriced, size_bytes = rows[0] if rows else (0, 0, 0, 0)
        return Weight(entries, from_pico(cost), unpriced, size_bytes)

    def size_bytes(self, wanted: EntryFilter = EntryFilter()) -> int:  # noqa: B008 - frozen
        """The bytes of the entries that match, as stored; that of all is what a quota is held against."""
        where, parameters = filter_sql(wanted)
        rows = self._database.select(_SIZE.format(where=where), parameters)
        return int(rows[0][0]) if rows else 0

    def size_over(self, quota_bytes: int) -> int | None:
        """`size_bytes` of all entries when they are over a quota; None when not.

        Where the whole file is not over it, the entries are not read: about 10 µs.
        """
        rows = self._database.select(_PAGES)
        if not rows or rows[0][0] <= quota_bytes:
            return None
        size_bytes = self.size_bytes()
        return size_bytes if size_bytes > quota_bytes else None

    def models(self) -> list[str]:
        """The models that entries were asked of, sorted."""
        rows = self._database.select("SELECT DISTINCT tag FROM Cache ORDER BY tag")
        return [model for (model,) in rows]

    def tags(self) -> list[str]:
        """The labels of entries, sorted."""
        columns: Iterable[tuple[str]] = self._database.select(_TAGS)
        return sorted({tag for (column,) in columns for tag in split_tags(column)})

    def resolve(self, prefix: str) -> list[str]:
        """The digests that begin with these hex digits, at least four, sorted.

        Raises:
            OptionError: It is no beginning of a key.
        """
        return self.digests(EntryFilter(keys=(prefix,)))

    def digests(self, wanted: EntryFilter) -> list[str]:
        """The digests of the entries that match, sorted."""
        where, parameters = filter_sql(wanted)
        return [key for (key,) in self._database.select(_DIGESTS.format(where=where), parameters)]
