"""An entry as rows of ``cache.db``: put, set aside, given its cost, removed. A hit needs none of this."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import asked_model, last_prompt, system_prompt
from or_cache_magic.errors import StoreCorruptError, StoreError
from or_cache_magic.storage.codec import decode_entry, encode_entry, encode_request
from or_cache_magic.storage.columns import (
    REQUEST_COLUMNS,
    as_columns,
    join_tags,
    request_columns,
    system_id,
    to_pico,
)
from or_cache_magic.storage.media import (
    add_media,
    copy_media,
    delete_media,
    forget_gone,
    forget_media,
    reader_in,
    set_media,
)
from or_cache_magic.storage.purges import note_purge

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from or_cache_magic.core.records import Cost, Entry, Request
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.media import MediaReader

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
_PUT_REQUEST = f"INSERT OR REPLACE INTO or_request (id, body, {REQUEST_COLUMNS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
_KEEP_UNSERVED: Final = f"""
INSERT INTO or_unserved (key, at, reason, model, cost, cost_source, answer, request, {REQUEST_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608
_DELETE_UNSERVED: Final = "DELETE FROM or_unserved WHERE id = ? AND key = ? AND reason = ?"
_REPLACED: Final = """
SELECT c.rowid, c.value, c.tag, e.cost, e.cost_source, r.body,
    coalesce(r.sample, 0), coalesce(r.stream, 1), r.base_url
FROM Cache c JOIN or_entry e ON e.id = c.rowid LEFT JOIN or_request r ON r.id = c.rowid
WHERE c.key = ? AND c.raw = 1
"""

_AN_UNSERVED: Final = "SELECT answer FROM or_unserved WHERE key = ? AND id = ?"

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
_KEYS = "SELECT c.rowid, c.key FROM or_entry e JOIN Cache c ON c.rowid = e.id {where} ORDER BY c.key"


def put_entry(
    database: Database, entry: Entry, request: Request, replaced_reason: str, parent: str = ""
) -> None:
    """See `DiskStore.put`."""
    digest, answer = entry.key.digest, entry.answer
    (model,) = as_columns([asked_model(request.body) or answer.model or ""])
    media: dict[bytes, bytes] = {}
    value = encode_entry(entry, media)
    body = encode_request(digest, request.body, last_prompt(request.body), media)
    expire_s = None if entry.expires_s is None else entry.expires_s - time.time()
    with database.transaction() as connection:
        _keep_replaced(connection, entry, replaced_reason)
        database.cache().set(digest, value, expire=expire_s, tag=model)
        ((row_id, *_),) = connection.execute(
            "SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (digest,)
        ).fetchall()
        size_bytes = len(value) + len(body) + set_media(connection, row_id, media)
        connection.execute(
            _PUT_INDEX, as_columns((row_id, *_index_columns(entry, request, model, size_bytes)))
        )
        connection.execute(_PUT_REQUEST, (row_id, body, *request_columns(request)))
        if parent:
            from or_cache_magic.storage.replies import put_parent  # few entries are replies

            put_parent(connection, row_id, parent)


def swap_answers(
    database: Database, digest: str, unserved_id: int | None, request: Request, reason: str, at_s: float
) -> None:
    """See `DiskStore.pin`; `reason` is why the answer before isn't served any more."""
    with database.transaction() as connection:
        rows = connection.execute(_AN_UNSERVED, (digest, unserved_id)).fetchall()
        if not rows:
            raise StoreCorruptError(f"The entry {digest[:10]} has no such other answer any more.")
        ((value,),) = rows
        chosen = decode_entry(digest, value, reader_in(connection))
        put_entry(database, chosen._replace(created_s=at_s, expires_s=None), request, reason)
        connection.execute("DELETE FROM or_unserved WHERE id = ?", (unserved_id,))
        forget_gone(connection)


def put_unserved(database: Database, entry: Entry, request: Request, reason: str, at_s: float) -> int:
    """Keep an answer that is not served since a time; return its row's id. See `DiskStore.keep_unserved`."""
    key, answer = entry.key, entry.answer
    media: dict[bytes, bytes] = {}
    value = encode_entry(entry, media)
    body = encode_request(key.digest, request.body, last_prompt(request.body), media)
    model = asked_model(request.body) or answer.model
    row = (key.digest, at_s, reason, model, to_pico(answer.cost.usd), answer.cost.source, value, body)
    with database.transaction() as connection:
        kept = connection.execute(_KEEP_UNSERVED, (*as_columns(row), *request_columns(request)))
        row_id = kept.lastrowid or 0
        add_media(connection, row_id, media, unserved=True)
    return row_id


def delete_unserved(database: Database, digest: str, row_id: int | None, reason: str) -> None:
    """See `DiskStore.drop_unserved`: the file may be another one by now, where the id is another's."""
    with database.transaction() as connection:
        if connection.execute(_DELETE_UNSERVED, (row_id, digest, reason)).rowcount:
            forget_media(connection, row_id, unserved=True)


def settle_answers(database: Database, digest: str, generation_id: str, cost: Cost) -> bool:
    """See `DiskStore.settle`."""
    settled = False
    with database.transaction() as connection:
        for select, updates in _SETTLE:
            for row_id, blob in connection.execute(select, (digest,)).fetchall():
                priced = _priced(digest, blob, generation_id, cost, reader_in(connection))
                if priced is not None:
                    settled = True
                    facts = {"id": row_id, "blob": priced, "growth": len(priced) - len(blob)}
                    for update in updates:
                        connection.execute(
                            update, {**facts, "cost": to_pico(cost.usd), "source": cost.source}
                        )
    return settled


def delete_entries(database: Database, where: str, parameters: Sequence[Any], what: str) -> int:
    """Remove the entries that meet a condition of SQL, or all where there is none; see `DiskStore.purge`.

    What was removed, as told by `what`, is noted with it.
    """
    with database.transaction() as connection:
        if not where:
            removed = _delete_all(connection)
            note_purge(connection, what, removed, None)
            return removed
        gone = connection.execute(_KEYS.format(where=where), parameters).fetchall()
        # diskcache's and our triggers keep its counters and our tables right.
        connection.executemany("DELETE FROM Cache WHERE rowid = ?", [(row_id,) for row_id, _ in gone])
        connection.executemany("DELETE FROM or_unserved WHERE key = ?", [(key,) for _, key in gone])
        forget_gone(connection)
        note_purge(connection, what, len(gone), [key for _, key in gone])
    return len(gone)


def _keep_replaced(connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
    """Move the stored answer of a key to the unserved ones, unless the new one says the same."""
    digest = entry.key.digest
    for row_id, value, model, cost, source, body, *columns in connection.execute(
        _REPLACED, (digest,)
    ).fetchall():
        with suppress(StoreError):  # what is damaged can't be shown as history either
            stored = decode_entry(digest, value, reader_in(connection))
            if stored.answer.choices != entry.answer.choices:
                old = (digest, entry.created_s, reason, model, cost, source, value, body)
                kept = connection.execute(_KEEP_UNSERVED, (*old, *columns))
                copy_media(connection, row_id, kept.lastrowid)


def _priced(digest: str, blob: object, generation_id: str, cost: Cost, read: MediaReader) -> bytes | None:
    """Return the blob with this cost; None for another generation's, one with a cost, and a damaged one."""
    with suppress(StoreError):  # which can't keep the ledger from being settled
        entry = decode_entry(digest, blob, read)
        answer = entry.answer
        if answer.cost.usd is None and answer.paid_generation_id == generation_id:
            # Its media is held by the row already.
            return encode_entry(entry._replace(answer=answer._replace(cost=cost)), {})
    return None


def _delete_all(connection: sqlite3.Connection) -> int:
    # Our tables first: SQLite empties a table without triggers at once, and Cache's then find nothing to do.
    from or_cache_magic.storage.batches import forget_ended  # here, since a miss needs none of it

    delete_media(connection)
    for table in ("or_entry", "or_request", "or_unserved"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
    # How a call failed may repeat its prompt; who is asking now keeps the lease.
    connection.execute("DELETE FROM or_lease WHERE failure IS NOT NULL")
    forget_ended(connection)  # so may why a row of a batch did; those under way go on
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
