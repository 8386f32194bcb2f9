"""`DiskStore`: get, put and settle entries in cache.db, each with its index row and its request."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import asked_model, last_prompt, system_prompt
from or_cache_magic.core.records import Entry
from or_cache_magic.errors import OptionError, StoreCorruptError, StoreError, UnsafeStoreError
from or_cache_magic.storage.codec import (
    decode_entry,
    decode_request,
    decode_sized,
    encode_entry,
    encode_request,
)
from or_cache_magic.storage.columns import REQUEST_COLUMNS, join_tags, request_columns, system_id, to_pico
from or_cache_magic.storage.recent import RecentEntries

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from or_cache_magic.core.records import Answer, Cost, EntryFilter, Request, RequestKey
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.listing import EntryIndex

__all__ = ["DiskStore", "HistoryEntry"]

_RAW_MODE = 1  # diskcache's mode of an inline value
_PUT_INDEX: Final = """
INSERT INTO or_entry (id, created, expires, served_model, provider, prompt_tokens, completion_tokens,
    cost, cost_source, size, tags, notebook, system)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET created = excluded.created, expires = excluded.expires,
    served_model = excluded.served_model, provider = excluded.provider,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    cost = excluded.cost, cost_source = excluded.cost_source, size = excluded.size,
    tags = excluded.tags, notebook = excluded.notebook, system = excluded.system
"""
_KEYS = "SELECT c.rowid, c.key FROM or_entry e JOIN Cache c ON c.rowid = e.id {where} ORDER BY c.key"
_PUT_REQUEST = f"INSERT OR REPLACE INTO or_request (id, body, {REQUEST_COLUMNS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
_GET = "SELECT value, mode, filename FROM Cache WHERE key = ? AND raw = 1"
_KEEP_UNSERVED: Final = f"""
INSERT INTO or_unserved (key, at, reason, model, cost, cost_source, answer, request, {REQUEST_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608
_GET_UNSERVED: Final = """
SELECT at, reason, answer, request FROM or_unserved WHERE key = ? ORDER BY at DESC, id DESC
"""
_REPLACED: Final = """
SELECT c.value, c.tag, e.cost, e.cost_source, r.body, coalesce(r.sample, 0), coalesce(r.stream, 1), r.base_url
FROM Cache c JOIN or_entry e ON e.id = c.rowid LEFT JOIN or_request r ON r.id = c.rowid
WHERE c.key = ? AND c.raw = 1
"""

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
_PRICE_UNSERVED: Final = """
UPDATE or_unserved SET answer = :blob, cost = :cost, cost_source = :source WHERE id = :id
"""
_SETTLE: Final = (
    (_UNPRICED_ENTRY, ("UPDATE Cache SET value = :blob WHERE rowid = :id", _PRICE_ENTRY)),
    (_UNPRICED_UNSERVED, (_PRICE_UNSERVED,)),
)
"""What finds the answers of unknown cost, and what gives them one."""


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

    def get(self, key: RequestKey) -> Entry | None:
        """Return the entry of a request, expired or not; None when there is none.

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
        """Return an entry as it stands in the file, kept decoded where the state of the file is known."""
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
            _keep_replaced(connection, entry, replaced_reason or "replaced")
            self._database.cache().set(digest, value, expire=expire_s, tag=model)
            ((row_id, *_),) = connection.execute(
                "SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (digest,)
            ).fetchall()
            connection.execute(
                _PUT_INDEX, (row_id, *_index_columns(entry, request, model, len(value) + len(body)))
            )
            connection.execute(_PUT_REQUEST, (row_id, body, *request_columns(request)))

    def keep_unserved(
        self, key: RequestKey, request: Request, answer: Answer, reason: str, at_s: float
    ) -> None:
        """Keep an answer that was paid for and can't be served, with the reason."""
        value = encode_entry(Entry(key, answer, at_s))
        body = encode_request(key.digest, request.body, last_prompt(request.body))
        model = asked_model(request.body) or answer.model
        with self._database.transaction() as connection:
            row = (key.digest, at_s, reason, model, to_pico(answer.cost.usd), answer.cost.source, value, body)
            connection.execute(_KEEP_UNSERVED, (*row, *request_columns(request)))

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
        settled = False
        with self._database.transaction() as connection:
            for select, updates in _SETTLE:
                for row_id, blob in connection.execute(select, (digest,)).fetchall():
                    priced = _priced(digest, blob, generation_id, cost)
                    if priced is not None:
                        settled = True
                        facts = {"id": row_id, "blob": priced, "growth": len(priced) - len(blob)}
                        for update in updates:
                            connection.execute(
                                update, {**facts, "cost": to_pico(cost.usd), "source": cost.source}
                            )
        return settled

    def request(self, digest: str) -> dict[str, Any] | None:
        """Return the body of an entry's request, fields in the order sent; None if not stored."""
        rows = self._database.select(
            "SELECT body FROM or_request WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)",
            (digest,),
        )
        return decode_request(digest, rows[0][0]) if rows else None

    def unserved(self, digest: str) -> list[HistoryEntry]:
        """Return the kept answers to a request that are never served, newest first; damaged ones left out."""
        found = []
        for at_s, reason, value, body in self._database.select(_GET_UNSERVED, (digest,)):
            with suppress(StoreCorruptError):
                request = None if body is None else decode_request(digest, body)
                found.append(HistoryEntry(at_s, reason, decode_entry(digest, value).answer, request))
        return found

    def purge(self, wanted: EntryFilter, *, everything: bool = False) -> int:
        """Remove the entries that match, with their requests and unserved answers; return how many went.

        One transaction. The ledger keeps its rows: what was paid and saved stays true.

        Args:
            wanted: Which entries.
            everything: Must be said for a filter without conditions, which matches all.

        Raises:
            OptionError: A filter without conditions, and ``everything`` was not said.
        """
        from or_cache_magic.storage.listing import filter_sql

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


def _keep_replaced(connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
    """Move the stored answer of a key to the unserved ones, unless the new one says the same."""
    digest = entry.key.digest
    for value, model, cost, source, body, *columns in connection.execute(_REPLACED, (digest,)).fetchall():
        with suppress(StoreError):  # what is damaged can't be shown as history either
            if decode_entry(digest, value).answer.choices != entry.answer.choices:
                old = (digest, entry.created_s, reason, model, cost, source, value, body)
                connection.execute(_KEEP_UNSERVED, (*old, *columns))


def _priced(digest: str, blob: object, generation_id: str, cost: Cost) -> bytes | None:
    """Return the blob with this cost; None for another generation's, one with a cost, and a damaged one."""
    with suppress(StoreError):  # which can't keep the ledger from being settled
        entry = decode_entry(digest, blob)
        answer = entry.answer
        paid = answer.source_generation_id if answer.response_cache_hit else answer.generation_id
        if answer.cost.usd is None and paid == generation_id:
            return encode_entry(entry._replace(answer=answer._replace(cost=cost)))
    return None


def _delete_all(connection: sqlite3.Connection) -> int:
    # Our tables first: SQLite empties a table without triggers at once, and Cache's then find nothing to do.
    for table in ("or_entry", "or_request", "or_unserved"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
    # How a call failed may repeat its prompt; who is asking now keeps the lease.
    connection.execute("DELETE FROM or_lease WHERE failure IS NOT NULL")
    return connection.execute("DELETE FROM Cache").rowcount


def _index_columns(entry: Entry, request: Request, model: str, size_bytes: int) -> tuple[Any, ...]:
    """Return the parameters of `_PUT_INDEX` after the id."""
    answer, usage = entry.answer, entry.answer.usage
    system = system_prompt(request.body)
    return (
        entry.created_s,
        entry.expires_s,
        answer.model if answer.model != model else None,
        answer.provider,
        usage and usage.prompt_tokens,
        usage and usage.completion_tokens,
        to_pico(answer.cost.usd),
        answer.cost.source,
        size_bytes,
        join_tags(entry.tags),
        entry.notebook or None,
        None if system is None else system_id(system),
    )
