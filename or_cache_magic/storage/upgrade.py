"""Re-key a file of an older version: give its stored requests the keys that this code asks with.

The keys are computed from the stored requests, batch by batch, each a transaction of its own, so that other
kernels read and write in between; the version in the header changes with the last. A row that has its new
key already is passed over: killed in the middle, the next opening goes on.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import OPENROUTER_URL, Request
from or_cache_magic.errors import RequestError, StoreError
from or_cache_magic.storage.batches import rekey_rows
from or_cache_magic.storage.codec import decode_entry, decode_request, encode_entry, encode_request
from or_cache_magic.storage.columns import REQUEST_COLUMNS, HitCount, add_hits
from or_cache_magic.storage.media import add_media, charged, copy_media, forget_gone, reader_in
from or_cache_magic.storage.replies import rename_parent
from or_cache_magic.storage.schema import set_key_version

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from or_cache_magic.storage.media import MediaReader

_BATCH_ROWS: Final = 500
_PAUSE_S: Final = 0.002
"""Between two batches, so that another kernel's wait for the lock has an end."""

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


class _Rekeyed(NamedTuple):
    """A row under its new key."""

    digest: str
    answer: bytes
    request: bytes
    media: Mapping[bytes, bytes] = MappingProxyType({})


def rekey(connection: sqlite3.Connection, say: Callable[[str], None]) -> None:
    """Give every row of a file its key of this code's version, and say so once.

    Raises:
        sqlite3.Error: It can't be written; what was done by then is kept, and the next run goes on.
    """
    began_s = time.monotonic()
    unserved, entries = _Table(_UNSERVED, _write_unserved), _Table(_ENTRIES, _write_entry)
    more = True
    while more:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            more = unserved.rekey_batch(connection) or entries.rekey_batch(connection)
            if not more:
                rekey_rows(connection)
                set_key_version(connection)
        time.sleep(_PAUSE_S)
    lost = unserved.lost + entries.lost
    left = f"; {lost:,} could not be read and stay unserved" if lost else ""
    took_s = time.monotonic() - began_s
    say(
        "the completion cache was of an older version and was brought up to date"
        f" ({entries.changed:,} entries re-keyed, {took_s:.1f} s); nothing was bought again{left}"
    )


def stored_request(
    digest: str, blob: object, columns: Sequence[Any], read: MediaReader | None = None
) -> Request:
    """Return the request of a row, as it was asked.

    Raises:
        StoreError: It is damaged.
    """
    sample, stream, base_url = columns
    body = decode_request(digest, blob, read)
    return Request(body, bool(stream), int(sample or 0), base_url or OPENROUTER_URL)


class _Table:
    """A table that is being re-keyed: what selects its next rows, and what writes one under its new key."""

    def __init__(self, select: str, write: Callable[[sqlite3.Connection, int, _Rekeyed], None]) -> None:
        self.changed = self.lost = 0
        self._select = select
        self._write = write
        self._last_id = 0

    def rekey_batch(self, connection: sqlite3.Connection) -> bool:
        """Re-key the next rows in an open transaction; return whether there were any."""
        rows = connection.execute(self._select, (self._last_id,)).fetchall()
        for row_id, digest, answer, body, *columns in rows:
            self._last_id = row_id
            try:
                row = _rekeyed(digest, answer, body, columns, reader_in(connection))
            except (StoreError, RequestError):
                self.lost += 1
                continue
            if row is not None:
                rename_parent(connection, digest, row.digest)
                self._write(connection, row_id, row)
                self.changed += 1
        return bool(rows)


def _rekeyed(
    digest: str, answer: bytes, body: bytes, columns: Sequence[Any], read: MediaReader
) -> _Rekeyed | None:
    """Return a row under its new key; None when it has it already."""
    request = stored_request(digest, body, columns, read)
    key = request_key(request)
    if key.digest == digest:
        return None
    entry = decode_entry(digest, answer, read)._replace(key=key)
    media: dict[bytes, bytes] = {}
    new_body = encode_request(key.digest, request.body, last_prompt(request.body), media)
    return _Rekeyed(key.digest, encode_entry(entry, media), new_body, media)


def _write_unserved(connection: sqlite3.Connection, row_id: int, row: _Rekeyed) -> None:
    values = (row.digest, row.answer, row.request, row_id)
    connection.execute("UPDATE or_unserved SET key = ?, answer = ?, request = ? WHERE id = ?", values)
    add_media(connection, row_id, row.media, unserved=True)


def _write_entry(connection: sqlite3.Connection, row_id: int, row: _Rekeyed) -> None:
    # Two old keys, or an old one and a new one, may be one request now: the newer answer is served.
    add_media(connection, row_id, row.media)
    rivals = connection.execute(_RIVALS, (row_id, row.digest)).fetchall()
    inherited: list[HitCount] = []
    for rival, is_newer, value, body in rivals:
        if is_newer:
            add_hits(connection, [(row.digest, _retire(connection, row_id, row))])
            return
        inherited.append(_retire(connection, rival, _Rekeyed(row.digest, value, body)))
    values = (row.digest, row.answer, row_id)
    connection.execute("UPDATE Cache SET key = ?, value = ? WHERE rowid = ?", values)
    connection.execute("UPDATE or_request SET body = ? WHERE id = ?", (row.request, row_id))
    size_bytes = len(row.answer) + len(row.request) + charged(connection, row_id)
    connection.execute("UPDATE or_entry SET size = ? WHERE id = ?", (size_bytes, row_id))
    for hits in inherited:
        add_hits(connection, [(row.digest, hits)])


def _retire(connection: sqlite3.Connection, row_id: int, row: _Rekeyed) -> HitCount:
    """Make an entry the history of the one that is served; return its hits, which the other takes over."""
    kept = connection.execute(_TO_HISTORY, (row.digest, row.answer, row.request, row_id))
    copy_media(connection, row_id, kept.lastrowid)
    ((hits, last_s, saved_pico),) = connection.execute(
        "SELECT hits, coalesce(last_hit, 0), saved FROM or_entry WHERE id = ?", (row_id,)
    ).fetchall()
    connection.execute("DELETE FROM Cache WHERE rowid = ?", (row_id,))
    forget_gone(connection)
    return HitCount(hits, last_s, saved_pico)
