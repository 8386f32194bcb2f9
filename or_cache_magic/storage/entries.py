"""`DiskStore`: entries in cache.db, each with its index row and its request."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import asked_model, last_prompt
from or_cache_magic.core.records import Answer, Cost, Entry, EntryFilter, Request, RequestKey
from or_cache_magic.errors import OptionError, StoreCorruptError, StoreError, UnsafeStoreError
from or_cache_magic.storage.codec import (
    decode_entry,
    decode_request,
    decode_sized,
    encode_entry,
    encode_request,
)
from or_cache_magic.storage.columns import HitCount, add_hits, to_pico
from or_cache_magic.storage.listing import PUT_INDEX, EntryIndex, filter_sql, index_columns
from or_cache_magic.storage.recent import RecentEntries
from or_cache_magic.storage.upgrade import REQUEST_COLUMNS, StoredRequests, request_columns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from or_cache_magic.core.records import Answer, Cost, Entry
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.upgrade import Rekey

__all__ = [
    "FIND_UNSERVED",
    "DiskStore",
    "HistoryEntry",
    "insert_unserved",
    "keep_replaced",
    "read_unserved",
    "settle_entry",
    "settle_unserved",
]

_UNPRICED_ENTRY: Final = """
SELECT c.rowid, c.value FROM Cache c JOIN or_entry e ON e.id = c.rowid
WHERE c.key = ? AND c.raw = 1 AND c.mode = 1 AND c.filename IS NULL AND e.cost IS NULL
"""
# Hits add their value when they are counted, and these had none: with nothing saved yet, all hits were of
# unknown price, or free. Where some were of an earlier answer with a price, the sum is left a lower bound.
_PRICE_ENTRY: Final = """
UPDATE or_entry SET cost = :cost, cost_source = :source, size = size + :growth,
    saved = CASE saved WHEN 0 THEN hits * :cost ELSE saved END
WHERE id = :id
"""
_UNPRICED_UNSERVED: Final = "SELECT id, answer FROM or_unserved WHERE key = ? AND cost IS NULL"
_PRICE_UNSERVED: Final = "UPDATE or_unserved SET answer = ?, cost = ?, cost_source = ? WHERE id = ?"


def settle_entry(connection: sqlite3.Connection, digest: str, generation_id: str, cost: Cost) -> bool:
    """Price an entry whose answer a generation made, in its blob and in the index; whether there was one."""
    for row_id, blob in connection.execute(_UNPRICED_ENTRY, (digest,)).fetchall():
        priced = _priced(digest, blob, generation_id, cost)
        if priced is not None:
            connection.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (priced, row_id))
            told = {"cost": to_pico(cost.usd), "source": cost.source, "growth": len(priced) - len(blob)}
            connection.execute(_PRICE_ENTRY, {**told, "id": row_id})
            return True
    return False


def settle_unserved(connection: sqlite3.Connection, digest: str, generation_id: str, cost: Cost) -> bool:
    """The same for the answers to a request that are kept and never served."""
    settled = False
    for row_id, blob in connection.execute(_UNPRICED_UNSERVED, (digest,)).fetchall():
        priced = _priced(digest, blob, generation_id, cost)
        if priced is not None:
            connection.execute(_PRICE_UNSERVED, (priced, to_pico(cost.usd), cost.source, row_id))
            settled = True
    return settled


def _priced(digest: str, blob: object, generation_id: str, cost: Cost) -> bytes | None:
    """The blob with this cost; None for another generation's, for one with a cost, and for a damaged one."""
    with suppress(StoreError):  # which can't keep the ledger from being settled
        entry = decode_entry(digest, blob)
        answer = entry.answer
        if answer.cost.usd is None and _paid_generation(answer) == generation_id:
            return encode_entry(entry._replace(answer=answer._replace(cost=cost)))
    return None


def _paid_generation(answer: Answer) -> str | None:
    """The generation that an answer's price is of."""
    return answer.source_generation_id if answer.response_cache_hit else answer.generation_id


_INSERT: Final = f"""
INSERT INTO or_unserved (key, at, reason, model, cost, cost_source, answer, request, {REQUEST_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608
FIND_UNSERVED: Final = """
SELECT at, reason, answer, request FROM or_unserved WHERE key = ? ORDER BY at DESC, id DESC
"""
_REPLACED: Final = """
SELECT c.value, c.tag, e.cost, e.cost_source, r.body, coalesce(r.sample, 0), coalesce(r.stream, 1), r.base_url
FROM Cache c JOIN or_entry e ON e.id = c.rowid LEFT JOIN or_request r ON r.id = c.rowid
WHERE c.key = ? AND c.raw = 1
"""


class HistoryEntry(NamedTuple):
    """An answer that is kept and never served: replaced by a newer one, or not fit to be served.

    Attributes:
        at_s: When it was replaced or kept.
        reason: Why it is not served.
        answer: The answer, with its cost.
        request: The request's body; None when it could not be read.
    """

    at_s: float
    reason: str
    answer: Answer
    request: Mapping[str, Any] | None


def read_unserved(digest: str, rows: Iterable[Sequence[Any]]) -> list[HistoryEntry]:
    """The answers of rows of `FIND_UNSERVED`; damaged ones are left out."""
    found = []
    for at_s, reason, value, body in rows:
        with suppress(StoreCorruptError):
            request = None if body is None else decode_request(digest, body)
            found.append(HistoryEntry(at_s, reason, decode_entry(digest, value).answer, request))
    return found


def keep_replaced(connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
    """Move the stored answer of a key to the unserved ones, unless the new one says the same."""
    digest = entry.key.digest
    for value, model, cost, source, body, *columns in connection.execute(_REPLACED, (digest,)).fetchall():
        with suppress(StoreError):  # what is damaged can't be shown as history either
            if decode_entry(digest, value).answer.choices != entry.answer.choices:
                old = (digest, entry.created_s, reason, model, cost, source, value, body)
                insert_unserved(connection, old, columns)


def insert_unserved(
    connection: sqlite3.Connection, answer: tuple[Any, ...], request_columns: Sequence[Any]
) -> None:
    """Write a row: key, at, reason, model, cost in pico-dollars, its source, the two blobs; the rest."""
    connection.execute(_INSERT, (*answer, *request_columns))


_RAW_MODE = 1  # diskcache's mode of an inline value
_KEYS = "SELECT c.rowid, c.key FROM or_entry e JOIN Cache c ON c.rowid = e.id {where} ORDER BY c.key"
_PUT_REQUEST = f"INSERT OR REPLACE INTO or_request (id, body, {REQUEST_COLUMNS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
_GET = "SELECT value, mode, filename FROM Cache WHERE key = ? AND raw = 1"


class DiskStore(EntryIndex):
    """The entries of one `Database`. Thread-safe. Every method may raise `StoreError`.

    Args:
        database: Where they are.
        rekey: Brings entries of older keys to those that are asked with; None is this version's.
    """

    def __init__(self, database: Database, *, rekey: Rekey | None = None) -> None:
        super().__init__(database)
        database.give_keys(rekey or StoredRequests())
        self._recent = RecentEntries()

    def get(self, key: RequestKey, request: Request | None = None) -> Entry | None:  # noqa: ARG002
        """The entry of a request, expired or not; None when there is none.

        Args:
            key: Which.
            request: For stores that have others behind them (`TieredStore`); None looks here alone.

        Raises:
            StoreCorruptError: It is damaged, or was stored for another request.
            UnsafeStoreError: The row is none that this package writes.
        """
        state = self._database.state()
        entry = None if state is None else self._recent.get(key.digest, state)
        if entry is None:
            entry = self._read(key.digest, state)
        if entry is not None and entry.key.skeleton != key.skeleton:
            raise StoreCorruptError(
                f"The entry {key.digest[:10]} of the completion cache answers another request."
                " It was not served.",
                f"Ask again with --refresh, or remove it: %openrouter_purge {key.digest[:10]}",
            )
        return entry

    def entry(self, digest: str) -> Entry | None:
        """As `get`, by the key's 64 hex digits alone."""
        return self._read(digest, None)

    def _read(self, digest: str, state: object | None) -> Entry | None:
        """An entry as it stands in the file, kept decoded where the state of the file is known."""
        rows = self._database.select(_GET, (digest,))
        if not rows:
            return None
        ((value, mode, filename),) = rows
        if mode != _RAW_MODE or filename is not None:
            raise UnsafeStoreError(
                f"The entry {digest[:10]} was not written by or_cache_magic; it was not read.",
                "If cache.db came from someone else, delete it.",
            )
        entry, size_bytes = decode_sized(digest, value)
        if state is not None:
            self._recent.keep(entry, state, size_bytes)
        return entry

    def put(self, entry: Entry, request: Request, *, replaced_reason: str | None = None) -> None:
        """Keep an entry with its request, in one transaction.

        An answer that it replaces is kept, unserved, when it differs; its hits stay counted.

        Args:
            entry: What to keep.
            request: What it answers.
            replaced_reason: Why an older answer is replaced; None is ``"replaced"``.

        Raises:
            StoreUnavailableError: Nothing was kept: locked, full, read-only.
        """
        digest, answer = entry.key.digest, entry.answer
        model = asked_model(request.body) or answer.model or ""
        value = encode_entry(entry)
        body = encode_request(digest, request.body, last_prompt(request.body))
        expire_s = None if entry.expires_s is None else entry.expires_s - time.time()
        with self._database.transaction() as connection:
            keep_replaced(connection, entry, replaced_reason or "replaced")
            self._database.cache().set(digest, value, expire=expire_s, tag=model)
            ((row_id, *_),) = connection.execute(
                "SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (digest,)
            ).fetchall()
            connection.execute(
                PUT_INDEX, (row_id, *index_columns(entry, request, model, len(value) + len(body)))
            )
            connection.execute(_PUT_REQUEST, (row_id, body, *request_columns(request)))

    def share(self, entry: Entry, request: Request) -> None:
        """Offer an entry to others, outside of any transaction; never raises. Here there are no others."""

    def keep_unserved(
        self, key: RequestKey, request: Request, answer: Answer, reason: str, at_s: float
    ) -> None:
        """Keep an answer that was paid for and can't be served, with the reason."""
        value = encode_entry(Entry(key, answer, at_s))
        body = encode_request(key.digest, request.body, last_prompt(request.body))
        model = asked_model(request.body) or answer.model
        with self._database.transaction() as connection:
            insert_unserved(
                connection,
                (key.digest, at_s, reason, model, to_pico(answer.cost.usd), answer.cost.source, value, body),
                request_columns(request),
            )

    def settle(self, digest: str, generation_id: str, cost: Cost) -> bool:
        """Give the answers to a request their cost, unknown when they came; whether there were any.

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
        with self._database.transaction() as connection:
            served = settle_entry(connection, digest, generation_id, cost)
            return settle_unserved(connection, digest, generation_id, cost) or served

    def request(self, digest: str) -> dict[str, Any] | None:
        """The body of an entry's request, its fields in the order they were sent; None when not stored."""
        rows = self._database.select(
            "SELECT body FROM or_request WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)",
            (digest,),
        )
        return decode_request(digest, rows[0][0]) if rows else None

    def unserved(self, digest: str) -> list[HistoryEntry]:
        """The answers to a request that are kept and never served, newest first; damaged ones left out."""
        return read_unserved(digest, self._database.select(FIND_UNSERVED, (digest,)))

    def purge(self, wanted: EntryFilter, *, everything: bool = False) -> int:
        """Remove the entries that match, with their requests and unserved answers; how many went.

        One transaction. The ledger keeps its rows: what was paid and saved stays true.

        Args:
            wanted: Which entries.
            everything: Must be said for a filter without conditions, which matches all.

        Raises:
            OptionError: A filter without conditions, and ``everything`` was not said.
        """
        where, parameters = filter_sql(wanted)
        if not where and not everything:
            raise OptionError(
                "Nothing was purged: no condition was given.", "To remove all entries say --all."
            )
        if not self._database.exists():
            return 0
        with self._database.transaction() as connection:
            if not where:
                return _delete_all(connection)
            gone = connection.execute(_KEYS.format(where=where), parameters).fetchall()
            # diskcache's and our triggers keep its counters and our tables right.
            connection.executemany("DELETE FROM Cache WHERE rowid = ?", [(row_id,) for row_id, _ in gone])
            connection.executemany("DELETE FROM or_unserved WHERE key = ?", [(key,) for _, key in gone])
        return len(gone)

    def record_hits(self, counts: Mapping[str, HitCount]) -> None:
        """Add counted hits to the index, in one transaction."""
        if counts and self._database.exists():
            with self._database.transaction() as connection:
                add_hits(connection, counts)


def _delete_all(connection: sqlite3.Connection) -> int:
    # Our tables first: SQLite empties a table without triggers at once, and Cache's then find nothing to do.
    for table in ("or_entry", "or_request", "or_unserved"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
    # How a call failed may repeat its prompt; who is asking now keeps the lease.
    connection.execute("DELETE FROM or_lease WHERE failure IS NOT NULL")
    return connection.execute("DELETE FROM Cache").rowcount
