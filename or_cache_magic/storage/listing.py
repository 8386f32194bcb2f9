"""`EntryIndex`: browse and search the entries of a database: which match, what they say, what they total."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.policy import LAST_EXPIRY_S
from or_cache_magic.core.records import Cost
from or_cache_magic.core.rows import EntryFilter, EntryRow
from or_cache_magic.errors import OptionError, StoreCorruptError, StoreError
from or_cache_magic.storage.codec import (
    HEAD_CHARS,
    check_blob,
    decode_entry,
    decode_request,
    json_text,
    parts,
    read_head,
)
from or_cache_magic.storage.columns import check_row, column_types, from_pico, split_tags, system_id, tag_mark
from or_cache_magic.storage.media import leave_empty

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from or_cache_magic.storage.database import Database

_Term = tuple[str, "Sequence[Any]"]  # a condition and its parameters

_SHORTEST_PREFIX = 4
_KEY_DIGITS = 64
# One parameter, however many keys: there may be so many hundreds of parameters and of terms, not more.
# With a "g" behind it a prefix is the first text after every key that begins so.
_BEGIN_SO = (
    "SELECT c.rowid FROM json_each(?) k CROSS JOIN Cache c ON c.key >= k.value AND c.key < k.value || 'g'"
)
_BLOBS = "EXISTS (SELECT 1 FROM Cache c JOIN or_request r ON r.id = c.rowid WHERE c.rowid = e.id AND {})"

_HALVED_AFTER_S = 30 * 86400.0
_USE = f"e.hits / (1.0 + max(0.0, ? - coalesce(e.last_hit, e.created)) / {_HALVED_AFTER_S})"
DROP_ORDER = (
    f"coalesce(e.expires <= ?, 0) DESC, e.cost IS NULL, e.cost * (1.0 + {_USE}) / max(e.size, 1), {_USE},"
    " coalesce(e.last_hit, e.created), e.id"
)
"""What goes first when space is wanted: the least loss.

First expired entries, which are not served any more; then by the dollars that a byte keeps,
``cost * (1 + use) / size``, the fewest first; last the entries whose cost is unknown, which may be dear.
``use`` is the number of hits, worth half when the last one is 30 days old, a third after 60. Among equals the
less used go first, then those not used for longest.
"""
_TO_FIT = (
    "WHERE e.id IN (SELECT id FROM (SELECT e.id, sum(e.size) OVER"  # noqa: S608
    f" (ORDER BY {DROP_ORDER} ROWS UNBOUNDED PRECEDING) - e.size AS before FROM or_entry e {{where}})"
    " WHERE before < (SELECT coalesce(sum(size), 0) FROM or_entry) - ?)"
)


def filter_sql(wanted: EntryFilter) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a filter (with the word, or empty when it matches all) and its parameters.

    It calls `has_text` and `begins`, which every connection has.

    Raises:
        OptionError: A key prefix that is too short or not hexadecimal.
    """
    terms = [*_named(wanted), *_dated(wanted), *_written(wanted)]
    clause = " AND ".join(f"({condition})" for condition, _ in terms)
    parameters = [value for _, values in terms for value in values]
    if clause:
        clause = f"WHERE {clause}"
    if wanted.to_fit_bytes is None:
        return clause, parameters
    now_s = wanted.to_fit_at_s
    return _TO_FIT.format(where=clause), [now_s, now_s, now_s, *parameters, wanted.to_fit_bytes]


def _named(wanted: EntryFilter) -> Iterator[_Term]:
    if wanted.keys:
        yield _keys(wanted.keys)
    if wanted.model:
        yield _model(wanted.model)
    if wanted.system is not None:
        yield "e.system = ?", (system_id(wanted.system),)
    if wanted.tag:
        yield "instr(e.tags, ?)", (tag_mark(wanted.tag),)


def _dated(wanted: EntryFilter) -> Iterator[_Term]:
    if wanted.created_after_s is not None:
        yield "e.created >= ?", (wanted.created_after_s,)
    if wanted.created_before_s is not None:
        yield "e.created < ?", (wanted.created_before_s,)
    if wanted.expired_at_s is not None:
        yield "e.expires <= ?", (wanted.expired_at_s,)
    if wanted.served_at_s is not None:
        yield "coalesce(e.expires > ?, 1)", (wanted.served_at_s,)


def _written(wanted: EntryFilter) -> Iterator[_Term]:
    # These inflate and read every entry that the conditions before them leave.
    if wanted.prefix:
        yield _BLOBS.format("or_begins(c.key, r.body, ?)"), (wanted.prefix,)
    if wanted.text:
        yield _BLOBS.format("or_has_text(c.key, c.value, r.body, ?)"), (wanted.text.casefold(),)


def _keys(prefixes: Sequence[str]) -> _Term:
    lows = [prefix.strip().lower() for prefix in prefixes]
    for prefix, low in zip(prefixes, lows, strict=True):
        if len(low) < _SHORTEST_PREFIX or len(low) > _KEY_DIGITS or low.strip("0123456789abcdef"):
            raise OptionError(
                f"{prefix!r} is not the beginning of a key.",
                f"Give at least {_SHORTEST_PREFIX} hexadecimal digits, as %openrouter_entries shows them.",
            )
    return f"e.id IN ({_BEGIN_SO})", (json.dumps(lows),)


def _model(pattern: str) -> _Term:
    like = "="
    if any(sign in pattern for sign in "*?"):
        # In GLOB a bracket opens a set; in a model's name it is a character.
        like, pattern = "GLOB", pattern.replace("[", "[[]")
    asked = f"SELECT rowid FROM Cache WHERE tag {like} ?"  # noqa: S608
    return f"e.id IN ({asked}) OR e.served_model {like} ?", (pattern, pattern)


ORDERS: Final[Mapping[str, str]] = {
    "created": "e.created",
    "model": "(SELECT tag FROM Cache WHERE rowid = e.id)",
    "provider": "e.provider",
    "prompt_tokens": "e.prompt_tokens",
    "completion_tokens": "e.completion_tokens",
    "cost_usd": "e.cost",
    "hits": "e.hits",
    "saved_usd": "e.saved",
    "last_hit": "e.last_hit",
    "expires": "e.expires",
    "size_bytes": "e.size",
    "notebook": "e.notebook",
}
"""What `EntryIndex.find` can order by."""

_PLACES: Final = (
    "SELECT e.id, e.created FROM or_entry e {where} ORDER BY {order} {way}, e.id {way} LIMIT ? OFFSET ?"
)
_ROWS: Final = """
SELECT e.id, c.key, c.tag, {value}, r.body, e.created, e.provider, e.prompt_tokens, e.completion_tokens,
    e.cost, e.cost_source, e.hits, e.saved, e.last_hit, e.expires, e.tags, e.size, e.notebook
FROM or_entry e JOIN Cache c ON c.rowid = e.id LEFT JOIN or_request r ON r.id = e.id
WHERE e.id IN ({marks})
"""

_COLUMNS: Final = column_types(
    "int str str any? any? float str? int? int? int? str int int float? float? str? int str?"
)


def _entry_row(columns: Sequence[Any]) -> EntryRow | None:
    """Return the entry of a row of `_ROWS`, its texts cut for a listing; None if it is damaged."""
    _, key, model, value, body, created_s, provider, prompt_tokens, completion_tokens, cost, *rest = columns
    cost_source, hits, saved, last_hit_s, expires_s, tags, size_bytes, notebook = rest
    try:
        amounts = (prompt_tokens, completion_tokens, cost, hits, saved, size_bytes)
        check_row(
            "an entry", _COLUMNS, columns, created_s, last_hit_s, amounts=amounts, sources=(cost_source,)
        )
    except StoreCorruptError:
        return None
    if expires_s is not None and not 0 <= expires_s < LAST_EXPIRY_S:
        return None
    return EntryRow(
        key,
        created_s,
        model,
        provider or "",
        _head(key, body),
        _head(key, value),
        prompt_tokens,
        completion_tokens,
        Cost(from_pico(cost), cost_source),
        hits,
        # Hits of an entry without a price saved an unknown amount.
        None if cost is None and not saved else from_pico(saved),
        last_hit_s,
        expires_s,
        split_tags(tags),
        size_bytes,
        notebook or "",
    )


def _head(key: str, blob: bytes | None) -> str:
    """Return what a listing shows of a blob; a damaged one must not hide the others."""
    try:
        return "" if blob is None else read_head(key, blob)
    except StoreCorruptError:
        return ""


_SANE = "CASE WHEN {0} >= 0 AND typeof({0}) = 'integer' THEN {0} END"
"""An amount; NULL where it is none, and would make every sum one."""

_COST, _SIZE_SUM = _SANE.format("e.cost"), f"coalesce(sum({_SANE.format('e.size')}), 0)"
_COUNT = (
    f"SELECT count(*), coalesce(sum({_COST}), 0), count(*) - count({_COST}), {_SIZE_SUM}"  # noqa: S608
    " FROM or_entry e {where}"
)
_SIZE = f"SELECT {_SIZE_SUM} FROM or_entry e {{where}}"  # noqa: S608
_DIGESTS = "SELECT c.key FROM or_entry e JOIN Cache c ON c.rowid = e.id {where} ORDER BY c.key"
_NOTEBOOKS = "SELECT c.key, e.notebook FROM or_entry e JOIN Cache c ON c.rowid = e.id"
_TAGS = "SELECT DISTINCT tags FROM or_entry WHERE typeof(tags) = 'text'"

_ROWS_AT_ONCE = 500  # SQLite before 3.32 takes 999 parameters


Place = tuple[int, float]
"""Where an entry is and when it was stored: good for a listing, not to remember it by, as its key is."""


_SERVED: Final = """
SELECT served_model, count(*), sum(created <= ?) FROM Cache JOIN or_entry ON id = Cache.rowid
WHERE Cache.tag = ? GROUP BY served_model
"""


class EntryTotals(NamedTuple):
    """What entries come to: how many, the costs that are known, how many are not, and the size as stored."""

    entries: int
    cost_usd: Decimal
    unpriced: int
    size_bytes: int


class EntryIndex:
    """What is in a `Database`. Thread-safe. Every method may raise `StoreError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, wanted: EntryFilter = EntryFilter(), **how: Any) -> list[EntryRow]:  # noqa: B008 - frozen
        """Return the entries that match, without damaged ones; the arguments are those of `matching`."""
        return self.rows(self.matching(wanted, **how))

    def matching(
        self,
        wanted: EntryFilter = EntryFilter(),  # noqa: B008 - frozen
        *,
        order: str = "created",
        descending: bool = True,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Place]:
        """Return the places of the entries that match: newest first, or by another of `ORDERS`.

        A list to count and to page in, read once: `rows` lists a part of it. Reading keys instead would take
        five times as long.

        Raises:
            OptionError: An unknown order, or a key prefix that is none.
        """
        if order not in ORDERS:
            raise OptionError(f"Entries can't be ordered by {order!r}.", f"Choose from: {', '.join(ORDERS)}.")
        where, parameters = filter_sql(wanted)
        sql = _PLACES.format(where=where, order=ORDERS[order], way="DESC" if descending else "ASC")
        return self._database.select(sql, [*parameters, -1 if limit is None else limit, offset])

    def rows(self, places: Sequence[Place], *, answers: bool = True) -> list[EntryRow]:
        """Return the entries of these places, in their order, without those that are gone or damaged.

        The row id of one that is gone may be another's by now, which was stored at another time. Half of the
        time goes into how the answers begin: without ``answers`` they are empty.
        """
        found, value = {}, "c.value" if answers else "NULL"
        for start in range(0, len(places), _ROWS_AT_ONCE):
            some = [row_id for row_id, _ in places[start : start + _ROWS_AT_ONCE]]
            sql = _ROWS.format(value=value, marks=",".join("?" * len(some)))
            for columns in self._database.select(sql, some):
                found[columns[0], columns[5]] = _entry_row(columns)
        # One that is damaged must not hide the others.
        return [row for row in map(found.get, places) if row is not None]

    def count(self, wanted: EntryFilter = EntryFilter()) -> tuple[int, Decimal, int]:  # noqa: B008 - frozen
        """Return how many entries match, the sum of their known costs in USD, and how many are unknown."""
        return self.totals(wanted)[:3]

    def totals(self, wanted: EntryFilter = EntryFilter()) -> EntryTotals:  # noqa: B008 - frozen
        """Return the totals of the entries that match."""
        where, parameters = filter_sql(wanted)
        rows = self._database.select(_COUNT.format(where=where), parameters)
        entries, cost, unpriced, size_bytes = rows[0] if rows else (0, 0, 0, 0)
        return EntryTotals(entries, from_pico(cost), unpriced, size_bytes)

    def size_bytes(self, wanted: EntryFilter = EntryFilter()) -> int:  # noqa: B008 - frozen
        """Return the stored bytes of the entries that match; that of all is what a quota is held against."""
        where, parameters = filter_sql(wanted)
        rows = self._database.select(_SIZE.format(where=where), parameters)
        return int(rows[0][0]) if rows else 0

    def size_over(self, quota_bytes: int) -> int | None:
        """`size_bytes` of all entries when they are over a quota; None when not.

        Where the whole file and its log are not over it, the entries are not read: two stats, about 4 µs.
        """
        if self._database.size_bytes() <= quota_bytes:
            return None
        size_bytes = self.size_bytes()
        return size_bytes if size_bytes > quota_bytes else None

    def models(self) -> list[str]:
        """Return the models that entries were asked of, sorted."""
        rows = self._database.select("SELECT DISTINCT tag FROM Cache WHERE typeof(tag) = 'text' ORDER BY tag")
        return [model for (model,) in rows]

    def served(self, model: str, before_s: float = 0.0) -> list[tuple[str, int, int]]:
        """Return which models answered the entries that were asked of one.

        Returns:
            The model that served (empty is unknown), how many, and how many of them stored until `before_s`.
        """
        return [
            (str(served or ""), count, before)
            for served, count, before in self._database.select(_SERVED, (before_s, model))
        ]

    def tags(self) -> list[str]:
        """Return the labels of entries, sorted."""
        columns: Iterable[tuple[str]] = self._database.select(_TAGS)
        return sorted({tag for (column,) in columns for tag in split_tags(column)})

    def notebooks(self) -> list[tuple[str, str]]:
        """Return the key of each entry and the notebook that it was asked from; empty is none."""
        return [(str(key), str(name or "")) for key, name in self._database.select(_NOTEBOOKS)]

    def digests(self, wanted: EntryFilter) -> list[str]:
        """Return the digests of the entries that match, sorted."""
        where, parameters = filter_sql(wanted)
        return [key for (key,) in self._database.select(_DIGESTS.format(where=where), parameters)]


# The functions that SQL calls to search texts and prompts. They inflate a blob only as far as it takes to
# tell, and never raise.


class _Needle(NamedTuple):
    """What is searched for: a case-folded text, and its bytes when it is ASCII."""

    folded: str
    plain: bytes | None

    def is_in(self, text: bytes) -> bool:
        """Return whether a text in UTF-8 contains it, whatever the case of either."""
        if self.plain is not None and self.plain in text.lower():
            return True
        # Folding leaves ASCII what it is; but a ligature may fold to it, and so may the Kelvin sign.
        return not text.isascii() and self.folded in str(text, "utf-8", "replace").casefold()


@lru_cache(maxsize=4)
def _needles(folded: str) -> tuple[_Needle, _Needle]:
    """Return what to look for in a text, and in JSON."""
    # What JSON escapes has no upper case, so that escaping and folding may change places.
    plain, escaped = (
        _Needle(text, text.encode() if text.isascii() else None) for text in (folded, json_text(folded))
    )
    return plain, escaped


def has_text(key: str, value: bytes, body: bytes, folded: str) -> bool:
    """Return whether the whole answer or prompt contains a case-folded text; a damaged one contains none."""
    return _answer_has(key, value, folded) or _prompt_has(key, body, folded)


def _answer_has(key: str, value: bytes, folded: str) -> bool:
    try:
        text = next(parts(key, value))
        if _needles(folded)[0].is_in(text):
            check_blob(key, value)
            return True
        return _may_go_on(text) and folded in decode_entry(key, value, leave_empty).answer.text.casefold()
    except (StoreError, ValueError):
        return False


def _prompt_has(key: str, body: bytes, folded: str) -> bool:
    plain, escaped = _needles(folded)
    try:
        unfolding = parts(key, body)
        text = next(unfolding)
        if plain.is_in(text):
            check_blob(key, body)
            return True
        if not _may_go_on(text) or not escaped.is_in(next(unfolding)):
            return False
        return folded in last_prompt(decode_request(key, body, leave_empty)).casefold()
    except (StoreError, ValueError):
        return False


def _may_go_on(text: bytes) -> bool:
    """Return whether a blob's text may be the beginning of a longer one, which stands in the JSON."""
    # Cut are those of more characters than a listing shows, to as many exactly.
    return len(text) >= HEAD_CHARS and len(str(text, "utf-8", "surrogatepass")) == HEAD_CHARS


def begins(key: str, body: bytes, prefix: str) -> bool:
    """Return whether the prompt begins with a text."""
    try:
        head = read_head(key, body)
        if not head.startswith(prefix) and not prefix.startswith(head):
            return False
        return last_prompt(decode_request(key, body, leave_empty)).startswith(prefix)
    except StoreError:
        return False
