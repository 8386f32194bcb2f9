"""Answers on their way from one `Database` to another: all that a store has of a request, and put there anew.

What is of the one store alone stays behind: hits, what they saved, row ids.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.records import Entry, NamedTuple, Request
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreCorruptError, StoreError, UnsafeStoreError
from or_cache_magic.storage.codec import decode_entry
from or_cache_magic.storage.columns import REQUEST_COLUMNS
from or_cache_magic.storage.entries import RIVAL
from or_cache_magic.storage.entry_rows import put_entry, put_unserved
from or_cache_magic.storage.listing import filter_sql
from or_cache_magic.storage.media import reader
from or_cache_magic.storage.upgrade import stored_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.core.records import Answer
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.entries import DiskStore

_PAGE: Final = 500
_ENTRY_KEYS: Final = """
SELECT c.key FROM Cache c CROSS JOIN or_entry e ON e.id = c.rowid
{where} c.raw = 1 AND c.key > ? ORDER BY c.key LIMIT ?
"""
# A prompt or a label of an answer that no entry stands for is in no index.
_OTHER_KEYS: Final = """
SELECT DISTINCT u.key FROM or_unserved u WHERE NOT EXISTS (SELECT 1 FROM Cache WHERE key = u.key AND raw = 1)
AND (? = '' OR u.model = ?) AND u.at >= ? AND u.at < ? AND u.key > ? ORDER BY u.key LIMIT ?
"""
_UNSERVED: Final = f"SELECT at, reason, answer, request, {REQUEST_COLUMNS} FROM or_unserved WHERE key = ?"  # noqa: S608
_EVER: Final = 1e300

Put = Literal["new", "there", "history"]
"""What became of an answer that was put: it is served now, it was there, or it is kept as history."""


class Kept(NamedTuple):
    """An answer with its request.

    Attributes:
        request: What was asked.
        entry: The answer, and when and with what labels it was stored.
        parent: The key of the answer that the request goes on from; empty is none.
        reason: Why the answer is not served; empty where it is.
        at_s: Since when it is not.
    """

    request: Request
    entry: Entry
    parent: str = ""
    reason: str = ""
    at_s: float = 0.0


def keys_of(database: Database, wanted: EntryFilter) -> Iterator[str]:
    """Yield the keys of the entries that match, and those of which only unserved answers are left, sorted.

    The latter are chosen by model and time alone: under any other condition there are none of them.
    """
    where, parameters = filter_sql(wanted)
    sql = _ENTRY_KEYS.format(where=f"{where} AND" if where else "WHERE")
    streams = [_paged(database, sql, parameters)]
    by_time = EntryFilter(
        model=wanted.model,
        created_after_s=wanted.created_after_s,
        created_before_s=wanted.created_before_s,
    )
    if wanted == by_time:
        model, after_s, before_s = wanted.model, wanted.created_after_s, wanted.created_before_s
        chosen = (model, model, after_s or 0.0, _EVER if before_s is None else before_s)
        streams.append(_paged(database, _OTHER_KEYS, chosen))
    return heapq.merge(*streams)


def _paged(database: Database, sql: str, parameters: Sequence[Any]) -> Iterator[str]:
    last = ""
    while keys := [key for (key,) in database.select(sql, (*parameters, last, _PAGE)) if type(key) is str]:
        yield from keys
        last = keys[-1]


def kept_of(database: Database, store: DiskStore, digest: str) -> Iterator[Kept | None]:
    """Yield all answers to a request, the served one first; None for each that is damaged."""
    try:
        entry, request = store.entry(digest), store.asked(digest)
        if entry is not None and request is not None:
            yield Kept(request, entry, store.replies.parent(digest) or "")
    except (StoreCorruptError, UnsafeStoreError):
        yield None
    read = reader(database)
    for at_s, reason, answer, body, *columns in database.select(_UNSERVED, (digest,)):
        try:
            entry = decode_entry(digest, answer, read)
            yield Kept(stored_request(digest, body, columns, read), entry, "", str(reason), float(at_s))
        except (StoreError, TypeError, ValueError):
            yield None


def put_kept(database: Database, store: DiskStore, kept: Kept, now_s: float) -> Put:
    """Keep an answer, unless it is there; what is there stays, unless it has expired and this one has not.

    Another answer to a request that has one is kept as history, where it can be chosen (``%openrouter_pin``).

    Raises:
        StoreUnavailableError: Nothing was kept: locked, full, read-only.
        StoreError: It can't be kept: it is too large, or holds what JSON can't.
    """
    entry, request, reason, at_s = kept.entry, kept.request, kept.reason, kept.at_s
    digest = entry.key.digest
    with database.transaction():
        stored = None
        with suppress(StoreCorruptError, UnsafeStoreError):
            stored = store.entry(digest)
        if not reason and (stored is None or _renews(entry, stored, now_s)):
            put_entry(database, entry, request, "replaced", kept.parent)
            return "new"
        others = [other.answer for other in store.unserved(digest)]
        every = (*others, *([stored.answer] if stored else []))
        if any(_is_same(entry.answer, answer, of_one_call=bool(reason)) for answer in every):
            return "there"
        if not reason:
            reason, at_s = RIVAL, entry.created_s
        put_unserved(database, entry, request, reason, at_s)
    return "history"


def _renews(entry: Entry, stored: Entry, now_s: float) -> bool:
    return why_not_served(stored, now_s) is not None and why_not_served(entry, now_s) is None


def _is_same(one: Answer, other: Answer, *, of_one_call: bool) -> bool:
    """Return whether two answers to a request are of one call, or say the same where that is enough."""
    calls = [(answer.created_s, answer.generation_id) for answer in (one, other)]
    return one.choices == other.choices and (calls[0] == calls[1] or (one.complete and not of_one_call))
