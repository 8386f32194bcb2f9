"""`DiskStore`: the entries of a cache.db, served from it, or decoded from memory while it is as it was."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.records import OPENROUTER_URL, Answer, Choice, Entry, NamedTuple, Request
from or_cache_magic.errors import OptionError, StoreCorruptError, StoreError, UnsafeStoreError
from or_cache_magic.storage.codec import decode_entry, decode_request, decode_sized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.core.records import Cost, Json, RequestKey
    from or_cache_magic.core.rows import EntryFilter
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.listing import EntryIndex
    from or_cache_magic.storage.media import MediaReader
    from or_cache_magic.storage.replies import ReplyIndex

_RAW_MODE = 1  # diskcache's mode of an inline value
_GET = "SELECT value, mode, filename FROM Cache WHERE key = ? AND raw = 1"
_GET_ASKED = """
SELECT sample, stream, base_url FROM or_request WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)
"""
_GET_UNSERVED: Final = """
SELECT id, at, reason, answer, request
FROM or_unserved WHERE key = ? ORDER BY at DESC, id DESC
"""
_UNSERVED_KEYS: Final = "SELECT DISTINCT key FROM or_unserved WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
_REPLACED: Final = "replaced"
_REPLACED_BY_PIN: Final = "replaced by a pinned answer"
_PIN_REPLACED: Final = "replaced, though it was pinned"
_WERE_SERVED: Final = (_REPLACED, _REPLACED_BY_PIN, _PIN_REPLACED)
RIVAL: Final = "another answer was there already"
"""Why an answer of a pack is history: the request has one here."""

MAY_BE_SERVED: Final = frozenset({*_WERE_SERVED, RIVAL})
"""The reasons of answers that may take the entry's place."""

_WERE_ENTRIES: Final = """
SELECT u.key FROM or_unserved u JOIN Cache c ON c.key = u.key AND c.raw = 1
WHERE u.reason IN (?, ?, ?) GROUP BY u.key ORDER BY max(u.id) DESC LIMIT ?
"""
_LAST_REPLACED: Final = """
SELECT reason FROM or_unserved WHERE key = ? AND reason IN (?, ?, ?) ORDER BY id DESC LIMIT 1
"""

_MOST_BYTES: Final = 1 << 24
_OBJECTS_BYTES: Final = 2_000  # of an entry, without its texts


class HistoryEntry(NamedTuple):
    """An answer that is kept and never served: replaced by a newer one, or not fit to be served.

    Attributes:
        at_s: When it was replaced or kept.
        reason: Why it is not served.
        answer: The answer, with its cost.
        request: The request's body; None when it could not be read.
        number: Which answer to the request it is, from 1 by their own age, the served one counted among
            them: which of them is served changes no number.
        row_id: Of its row.
    """

    at_s: float
    reason: str
    answer: Answer
    request: Mapping[str, Any] | None
    number: int = 0
    row_id: int = 0

    @property
    def was_served(self) -> bool:
        """Whether it was an entry, here or where a pack was written, and another answer has its place."""
        return self.reason in MAY_BE_SERVED


def _age(answer: Answer) -> tuple[float, str]:
    """Return what orders answers to one request by their own age, whichever is served."""
    return answer.created_s, answer.generation_id or ""


class DiskStore:
    """The entries of one `Database`. Thread-safe. Every method may raise `StoreError`.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent = RecentEntries()

    @cached_property
    def listing(self) -> EntryIndex:
        """What browses the entries; imported at its first use, since serving needs none of it."""
        from or_cache_magic.storage.listing import EntryIndex

        return EntryIndex(self._database)

    @cached_property
    def replies(self) -> ReplyIndex:
        """Which entries reply to which; imported at its first use, as `listing` is."""
        from or_cache_magic.storage.replies import ReplyIndex

        return ReplyIndex(self._database)

    @cached_property
    def _media(self) -> MediaReader:
        from or_cache_magic.storage.media import reader

        return reader(self._database)

    def _read_media(self, head: str | None, digest: bytes) -> str:
        return self._media(head, digest)

    def get(self, key: RequestKey) -> Entry | None:
        """Return the entry of a request, expired or not; None when there is none.

        Raises:
            StoreCorruptError: It is damaged, or was stored for another request.
            UnsafeStoreError: The row is none that this package writes.
        """
        entry = self._recent.get(key.digest, self._database.state())
        if entry is None:
            entry = self.entry(key.digest)
        if entry is not None and entry.key.skeleton != key.skeleton:
            raise StoreCorruptError(
                f"The entry {key.digest[:10]} of the completion cache answers another request."
                " It was not served.",
                f"Ask again with --refresh, or remove it: %openrouter_purge {key.digest[:10]}",
            )
        return entry

    def entry(self, digest: str) -> Entry | None:
        """As `get`, by the key's 64 hex digits alone, read from the file; kept decoded from then on."""
        rows, state = self._database.read(_GET, (digest,))
        if not rows:
            return None
        ((value, mode, filename),) = rows
        if mode != _RAW_MODE or filename is not None:
            raise UnsafeStoreError(
                f"The entry {digest[:10]} was not written by or_cache_magic; it was not read.",
                "If cache.db came from someone else, delete it.",
            )
        entry = self._recent.again(digest, state, value)
        if entry is None:
            try:
                entry, size_bytes = decode_sized(digest, value, self._read_media)
            except StoreCorruptError:
                if self._database.select(_GET, (digest,)) == rows:
                    raise
                return self.entry(digest)  # it was removed, with its media, between two looks
            if state is not None:
                self._recent.keep(entry, state, value, size_bytes)
        return entry

    def put(
        self, entry: Entry, request: Request, *, replaced_reason: str | None = None, parent: str = ""
    ) -> None:
        """Keep an entry with its request, in one transaction.

        An answer that it replaces is kept, unserved, when it differs; its hits stay counted.

        Args:
            entry: What to keep.
            request: What it answers.
            replaced_reason: Why an older answer is replaced; None is ``"replaced"``, or that it was pinned.
            parent: The key of the answer that the request goes on from; empty is none.

        Raises:
            StoreUnavailableError: Nothing was kept: locked, full, read-only.
        """
        from or_cache_magic.storage.entry_rows import put_entry

        if replaced_reason is None:
            replaced_reason = _REPLACED
            with suppress(StoreError):  # damage is met when it is written, and a new file begun
                if self.is_pinned(entry.key.digest):
                    replaced_reason, entry = _PIN_REPLACED, self._as_pinned(entry)
        put_entry(self._database, entry, request, replaced_reason, parent)

    def _as_pinned(self, entry: Entry) -> Entry:
        """Return the entry; where it says what the pinned one does, with its age (its number), for good."""
        with suppress(StoreCorruptError, UnsafeStoreError):
            pinned = self.entry(entry.key.digest)
            if pinned is not None and pinned.answer.choices == entry.answer.choices:
                answer = entry.answer._replace(created_s=pinned.answer.created_s)
                return entry._replace(answer=answer, expires_s=None)
        return entry

    def keep_unserved(
        self, key: RequestKey, request: Request, answer: Answer, reason: str, at_s: float
    ) -> int:
        """Keep an answer that was paid for and can't be served, with the reason; return its row's id."""
        from or_cache_magic.storage.entry_rows import put_unserved

        return put_unserved(self._database, Entry(key, answer, at_s), request, reason, at_s)

    def drop_unserved(self, digest: str, row_id: int | None, reason: str) -> None:
        """Remove a kept answer whose place another row takes; does nothing where it is another by now."""
        from or_cache_magic.storage.entry_rows import delete_unserved

        delete_unserved(self._database, digest, row_id, reason)

    def settle(self, digest: str, generation_id: str, cost: Cost) -> bool:
        """Give the answers to a request their cost, unknown when they came; return whether there were any.

        Only those of unknown cost that this generation made, or that OpenRouter repeated of it: the entry and
        those that are not served. What the entry's hits saved is known then, too; nothing else changes.
        Damaged ones are left as they are. Joins an open transaction.

        Args:
            digest: Of the request's key.
            generation_id: ``gen-…``.
            cost: What the generation came to; an unknown one settles nothing.

        Raises:
            StoreUnavailableError: Nothing was written: locked, full, read-only.
        """
        if cost.usd is None or not self._database.exists():
            return False
        from or_cache_magic.storage.entry_rows import settle_answers

        return settle_answers(self._database, digest, generation_id, cost)

    def request(self, digest: str) -> dict[str, Any] | None:
        """Return the body of an entry's request, fields in the order sent; None if not stored."""
        rows = self._database.select(
            "SELECT body FROM or_request WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)",
            (digest,),
        )
        return decode_request(digest, rows[0][0], self._read_media) if rows else None

    def asked(self, digest: str) -> Request | None:
        """Return what an entry answers, whole; None if not stored."""
        body = self.request(digest)
        rows = [] if body is None else self._database.select(_GET_ASKED, (digest,))
        for sample, stream, base_url in rows:
            return Request(body or {}, bool(stream), int(sample or 0), base_url or OPENROUTER_URL)
        return None

    def unserved(self, digest: str) -> list[HistoryEntry]:
        """Return the kept answers to a request that are never served, newest first; damaged ones left out."""
        found = []
        for row_id, at_s, reason, value, body in self._database.select(_GET_UNSERVED, (digest,)):
            with suppress(StoreCorruptError):
                request = None if body is None else decode_request(digest, body, self._read_media)
                answer = decode_entry(digest, value, self._read_media).answer
                found.append(HistoryEntry(at_s, reason, answer, request, row_id=row_id))
        ages = [_age(kept.answer) for kept in found]
        with suppress(StoreCorruptError, UnsafeStoreError):
            entry = self.entry(digest) if found else None
            ages += [] if entry is None else [_age(entry.answer)]
        ages.sort()
        return [kept._replace(number=ages.index(_age(kept.answer)) + 1) for kept in found]

    def served_number(self, digest: str) -> int:
        """Return the number that the entry of a key has among all answers to its request."""
        others = {kept.number for kept in self.unserved(digest)}
        return next(number for number in count(1) if number not in others)

    def unserved_keys(self, prefix: str, limit: int) -> list[str]:
        """Return the keys that begin so and have kept answers, whether or not they have an entry."""
        rows = self._database.select(_UNSERVED_KEYS, (prefix, f"{prefix}g", limit))
        return [str(key) for (key,) in rows]

    def is_pinned(self, digest: str) -> bool:
        """Return whether the entry of a key was pinned, and not replaced since."""
        rows = self._database.select(_LAST_REPLACED, (digest, *_WERE_SERVED))
        return rows == [(_REPLACED_BY_PIN,)]

    def replaced(self, limit: int) -> list[tuple[str, int]]:
        """Return the key and the number of answers that others took the place of, the newest first."""
        keys = self._database.select(_WERE_ENTRIES, (*_WERE_SERVED, limit))
        found = [(key, kept.number) for (key,) in keys for kept in self.unserved(key) if kept.was_served]
        return found[:limit]

    def pin(self, digest: str, number: int, at_s: float) -> None:
        """Let one of the unserved answers and the entry change places, in one transaction.

        The entry's hits stay counted; it does not expire. Nothing is asked of the answer: see `cache.pin`.

        Args:
            digest: Of a key that has an entry.
            number: See `HistoryEntry`.
            at_s: The time.

        Raises:
            StoreCorruptError: There is no such answer, or one of the two is damaged.
        """
        from or_cache_magic.storage.entry_rows import swap_answers

        request = self.asked(digest)
        if request is None:
            raise StoreCorruptError(
                f"The request of the entry {digest[:10]} can't be read; nothing was changed."
            )
        chosen = next((kept.row_id for kept in self.unserved(digest) if kept.number == number), None)
        swap_answers(self._database, digest, chosen, request, _REPLACED_BY_PIN, at_s)

    def purge(self, wanted: EntryFilter, *, everything: bool = False) -> int:
        """Remove the entries that match, with their requests and unserved answers; return how many went.

        One transaction. The ledger keeps its rows: what was paid and saved stays true.

        Args:
            wanted: Which entries.
            everything: Must be said for a filter without conditions, which matches all.

        Raises:
            OptionError: A filter without conditions, and ``everything`` was not said.
        """
        from or_cache_magic.storage.entry_rows import delete_entries
        from or_cache_magic.storage.listing import filter_sql
        from or_cache_magic.storage.purges import described

        where, parameters = filter_sql(wanted)
        if not where and not everything:
            raise OptionError(
                "Nothing was purged: no condition was given.", "To remove all entries say --all."
            )
        if not self._database.exists():
            return 0
        return delete_entries(self._database, where, parameters, described(wanted))


class _Kept:
    """An entry, the blob that it was decoded from, and the last state of the file in which that was read."""

    __slots__ = ("blob", "entry", "size_bytes", "state")

    def __init__(self, entry: Entry, state: object, blob: bytes, size_bytes: int) -> None:
        self.entry = entry
        self.state = state
        self.blob = blob
        self.size_bytes = size_bytes


class RecentEntries:
    """A bounded memory of decoded entries, each with the state of the file in which it was read. Thread-safe.

    An entry is given back only in that very state, so that what any process writes, purges or replaces is
    seen at once. It is a copy each time: what a caller does to a message changes no later answer.

    In a forked child no state is that of its parent: it finds nothing.

    Args:
        most_bytes: About how much memory it may take; the least recently used go first.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str, state: object | None) -> Entry | None:
        """Return the entry of a key, if it was read in this state; in an unknown one, None, nothing is."""
        kept = self._kept.get(digest)
        if kept is None or kept.state != state:
            return None
        with suppress(KeyError):  # another thread made room
            self._kept.move_to_end(digest)
        return _copy(kept.entry)

    def again(self, digest: str, state: object | None, blob: bytes) -> Entry | None:
        """Return the entry of a key, if it was decoded from this very blob, which was read in this state now.

        What others write is mostly something else: to compare takes a fifth of decoding.
        """
        kept = self._kept.get(digest)
        if kept is None or kept.blob != blob:
            return None
        if state is not None:
            kept.state = state
        return _copy(kept.entry)

    def keep(self, entry: Entry, state: object, blob: bytes, text_bytes: int) -> None:
        """Keep an entry, of so many bytes of text, that was read in this state or after it began."""
        size_bytes = 2 * text_bytes + len(blob) + _OBJECTS_BYTES
        if size_bytes > self._most_bytes // 8 or entry.answer.error is not None:
            return
        # Another thread has it; or one of the parent of this fork had, and nobody will ever release it.
        if not self._lock.acquire(blocking=False):
            return
        try:
            digest = entry.key.digest
            self._forget(self._kept.pop(digest, None))
            self._kept[digest] = _Kept(_copy(entry), state, blob, size_bytes)
            self._bytes += size_bytes
            while self._bytes > self._most_bytes:
                self._forget(self._kept.popitem(last=False)[1])
        finally:
            self._lock.release()

    def _forget(self, kept: _Kept | None) -> None:
        self._bytes -= 0 if kept is None else kept.size_bytes


def _copy(entry: Entry) -> Entry:
    answer = entry.answer
    choices = tuple(
        [
            Choice(_json_copy(message), finish, native, _json_copy(error), _json_copy(logprobs))
            for message, finish, native, error, logprobs in answer.choices
        ]
    )
    return Entry._make((entry.key, Answer._make((choices, *answer[1:])), *entry[2:]))


def _json_copy(value: Json) -> Json:
    kind = type(value)
    if kind is dict:
        # Most are texts: to copy them too would take as long as all the rest.
        return {name: item if type(item) is str else _json_copy(item) for name, item in value.items()}
    return [_json_copy(item) for item in value] if kind is list else value
