"""`StoredRequests`: entries of older keys get those of this version, read off the requests kept with them.

Nothing is asked and nothing is bought. `database.Upgrade` runs it, a batch a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.records import OPENROUTER_URL, Request, RequestKey
from or_cache_magic.errors import RequestError, StoreError
from or_cache_magic.storage.codec import decode_entry, decode_request, encode_entry, encode_request
from or_cache_magic.storage.hits import HitCount, add_hits

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

__all__ = ["REQUEST_COLUMNS", "StoredRequests", "request_columns", "stored_request"]

REQUEST_COLUMNS: Final = "sample, stream, base_url"
"""What of a request is in its row beside the body."""

_BATCH_ROWS: Final = 500
_ENTRIES: Final = f"""
SELECT c.rowid, c.key, c.value, r.body, {REQUEST_COLUMNS}
FROM Cache c LEFT JOIN or_request r ON r.id = c.rowid
WHERE c.rowid > ? AND c.raw = 1 ORDER BY c.rowid LIMIT {_BATCH_ROWS}
"""  # noqa: S608
_UNSERVED: Final = f"""
SELECT id, key, answer, request, {REQUEST_COLUMNS} FROM or_unserved
WHERE id > ? ORDER BY id LIMIT {_BATCH_ROWS}
"""  # noqa: S608

_RIVALS: Final = """
SELECT c.rowid, other.created >= this.created, c.value, r.body
FROM Cache c JOIN or_entry other ON other.id = c.rowid JOIN or_entry this ON this.id = ?
    LEFT JOIN or_request r ON r.id = c.rowid
WHERE c.key = ? AND c.raw = 1
"""
_TO_HISTORY: Final = f"""
INSERT INTO or_unserved (key, at, reason, model, cost, cost_source, answer, request, {REQUEST_COLUMNS})
SELECT ?, e.created, 'the same request under its new key', c.tag, e.cost, e.cost_source, ?, ?,
    coalesce(r.sample, 0), coalesce(r.stream, 1), r.base_url
FROM Cache c JOIN or_entry e ON e.id = c.rowid LEFT JOIN or_request r ON r.id = c.rowid WHERE c.rowid = ?
"""  # noqa: S608


def request_columns(request: Request) -> tuple[Any, ...]:
    """The values of `REQUEST_COLUMNS`; OpenRouter's base URL is NULL."""
    base_url = request.base_url.removesuffix("/")
    return request.sample, int(request.stream), None if base_url == OPENROUTER_URL else base_url


def stored_request(digest: str, blob: object, columns: Sequence[Any]) -> Request:
    """The request of a row, as it was asked.

    Raises:
        StoreError: It is damaged.
    """
    sample, stream, base_url = columns
    return Request(decode_request(digest, blob), bool(stream), int(sample or 0), base_url or OPENROUTER_URL)


class _Moved(NamedTuple):
    """A row under its new key."""

    key: RequestKey
    answer: bytes
    request: bytes


class StoredRequests:
    """Gives stored requests their keys; see `database.Rekey`.

    Args:
        version: The version of the keys.
        key_of: What makes them.
    """

    tables: tuple[str, ...] = ("or_unserved", "Cache")

    def __init__(
        self, version: int = KEY_VERSION, key_of: Callable[[Request], RequestKey] = request_key
    ) -> None:
        self.version = version
        self._key_of = key_of

    def batch(self, connection: sqlite3.Connection, table: str, after: int) -> tuple[int | None, int, int]:
        """See `database.Rekey`."""
        select, write = (_ENTRIES, _move_entry) if table == "Cache" else (_UNSERVED, _move_unserved)
        rows = connection.execute(select, (after,)).fetchall()
        changed = lost = 0
        for row_id, digest, answer, body, *columns in rows:
            try:
                moved = self._moved(digest, answer, body, columns)
            except (StoreError, RequestError):
                lost += 1
                continue
            if moved is not None:
                write(connection, row_id, moved)
                changed += table == "Cache"
        return (rows[-1][0] if rows else None), changed, lost

    def _moved(self, digest: str, answer: bytes, body: bytes, columns: Sequence[Any]) -> _Moved | None:
        """A row under its new key; None when it has it already."""
        request = stored_request(digest, body, columns)
        key = self._key_of(request)
        if key.digest == digest:
            return None
        entry = decode_entry(digest, answer)._replace(key=key)
        return _Moved(
            key,
            encode_entry(entry),
            encode_request(key.digest, request.body, last_prompt(request.body)),
        )


def _move_unserved(connection: sqlite3.Connection, row_id: int, moved: _Moved) -> None:
    connection.execute(
        "UPDATE or_unserved SET key = ?, answer = ?, request = ? WHERE id = ?",
        (moved.key.digest, moved.answer, moved.request, row_id),
    )


def _move_entry(connection: sqlite3.Connection, row_id: int, moved: _Moved) -> None:
    digest = moved.key.digest
    # Two old keys, or an old one and a new one, may be one request now: the newer answer is served.
    rivals = connection.execute(_RIVALS, (row_id, digest)).fetchall()
    inherited: list[HitCount] = []
    for rival, is_newer, value, body in rivals:
        if is_newer:
            add_hits(connection, {digest: _retire(connection, row_id, digest, moved.answer, moved.request)})
            return
        inherited.append(_retire(connection, rival, digest, value, body))
    connection.execute("UPDATE Cache SET key = ?, value = ? WHERE rowid = ?", (digest, moved.answer, row_id))
    connection.execute("UPDATE or_request SET body = ? WHERE id = ?", (moved.request, row_id))
    connection.execute(
        "UPDATE or_entry SET size = ? WHERE id = ?", (len(moved.answer) + len(moved.request), row_id)
    )
    for hits in inherited:
        add_hits(connection, {digest: hits})


def _retire(
    connection: sqlite3.Connection, row_id: int, digest: str, answer: bytes, body: bytes | None
) -> HitCount:
    """Make an entry the history of the one that is served; its hits, which the other takes over."""
    connection.execute(_TO_HISTORY, (digest, answer, body, row_id))
    ((hits, last_s, saved_pico),) = connection.execute(
        "SELECT hits, coalesce(last_hit, 0), saved FROM or_entry WHERE id = ?", (row_id,)
    ).fetchall()
    connection.execute("DELETE FROM Cache WHERE rowid = ?", (row_id,))
    return HitCount(hits, last_s, saved_pico)
