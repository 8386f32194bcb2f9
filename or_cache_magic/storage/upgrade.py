"""`Upgrade`: an older file is brought to the layout and the keys that this code writes.

The layout changes in one transaction. The keys are read off the stored requests, batch by batch, each a
transaction of its own, so that other kernels read and write in between; the file's stamp changes with the
last. An entry that has its new key already is passed over: killed in the middle, the next opening goes on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.records import OPENROUTER_URL, Request, RequestKey
from or_cache_magic.errors import RequestError, StoreError
from or_cache_magic.storage import schema
from or_cache_magic.storage.codec import decode_entry, decode_request, encode_entry, encode_request
from or_cache_magic.storage.columns import HitCount, add_hits
from or_cache_magic.storage.schema import Layout, Versions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

__all__ = ["REQUEST_COLUMNS", "Rekey", "StoredRequests", "Upgrade", "request_columns", "stored_request"]

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


class Rekey(Protocol):
    """Gives stored requests the keys of this code. It runs inside a transaction and never begins one."""

    #: The version of the keys that it gives.
    version: int
    #: Where there is something to give keys to.
    tables: tuple[str, ...]

    def batch(self, connection: sqlite3.Connection, table: str, after: int) -> tuple[int | None, int, int]:
        """Re-key the next rows of a table.

        Args:
            connection: The transaction's.
            table: One of `tables`.
            after: The id of the last row that was done; 0 at the beginning.

        Returns:
            The id of the last row that is done now (None: there were no more), how many rows got another
            key, and how many could not, because their request can't be read.
        """


class Upgrade:
    """What a file should be written in, and the way there. One for all connections of a `Database`.

    Args:
        layout: The layout that the code reads and writes.
        say: Takes a line that the user should be told.
    """

    def __init__(self, layout: Layout, say: Callable[[str], None]) -> None:
        #: Gives keys; None leaves them as they are, in a database whose entries nobody reads.
        self.rekey: Rekey | None = None
        #: Takes a line that the user should be told.
        self.say = say
        self._layout = layout

    def of_a_copy(self) -> Upgrade:
        """The same for a copy, about which its maker tells."""
        copy = Upgrade(self._layout, lambda _line: None)
        copy.rekey = self.rekey
        return copy

    @property
    def versions(self) -> Versions:
        """What the code reads and writes."""
        return Versions(self._layout.version, KEY_VERSION if self.rekey is None else self.rekey.version)

    def vet(self, connection: sqlite3.Connection) -> Versions | None:
        """See `schema.vet`."""
        return schema.vet(connection, self._layout, self.versions.keys)

    def is_due(self, found: Versions | None) -> bool:
        """Whether a file is older than the code; an empty one is not."""
        if found is None:
            return False
        keys = self.rekey is not None and found.keys < self.rekey.version
        return keys or found.layout < self._layout.version

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise `NewerStoreError` when a newer kernel has changed the file since it was opened."""
        if connection.execute("PRAGMA user_version").fetchone() > (self.versions.stamp,):
            self.vet(connection)

    def create(self, connection: sqlite3.Connection) -> None:
        """Make our tables in a file that has diskcache's."""
        for statement in self._layout.tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
        _stamp(connection, self.versions)

    def run(self, connection: sqlite3.Connection, found: Versions) -> None:
        """Bring an older file up to date, and say so once.

        Raises:
            UnsafeStoreError: After its migration the file is not what the next layout looks like.
            sqlite3.Error: It can't be written; what was done by then is kept, and the next run goes on.
        """
        began_s = time.monotonic()
        for version in range(found.layout, self._layout.version):
            self._migrate(connection, found._replace(layout=version))
        changed = lost = 0
        if self.rekey is not None and found.keys < self.rekey.version:
            changed, lost = self._rekey_all(connection, self.rekey)
        took_s = time.monotonic() - began_s
        left = f"; {lost:,} could not be read and stay unserved" if lost else ""
        self.say(
            "the completion cache was of an older version and was brought up to date"
            f" ({changed:,} entries re-keyed, {took_s:.1f} s); nothing was bought again{left}"
        )

    def _migrate(self, connection: sqlite3.Connection, found: Versions) -> None:
        with _Immediate(connection):
            # Another kernel may have been first.
            (stamp,) = connection.execute("PRAGMA user_version").fetchone()
            if stamp != found.stamp:
                return
            for statement in self._layout.earlier[found.layout].migration:
                connection.execute(statement)
            reached = found.layout + 1
            after = self._layout.earlier.get(reached)
            objects = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
            schema.vet_objects(objects, self._layout.tables if after is None else after.tables)
            _stamp(connection, found._replace(layout=reached))

    def _rekey_all(self, connection: sqlite3.Connection, rekey: Rekey) -> tuple[int, int]:
        done = dict.fromkeys(rekey.tables, 0)
        changed = lost = 0
        more = True
        while more:
            with _Immediate(connection):
                more = False
                for table in rekey.tables:
                    last, of_these, not_read = rekey.batch(connection, table, done[table])
                    changed, lost = changed + of_these, lost + not_read
                    if last is not None:
                        done[table], more = last, True
                        break
                if not more:
                    _stamp(connection, self.versions)
        return changed, lost


class _Immediate:
    """A write transaction on a connection in autocommit mode."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        # A full disk may have rolled back already.
        if self._connection.in_transaction:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _stamp(connection: sqlite3.Connection, versions: Versions) -> None:
    connection.execute(f"PRAGMA user_version={versions.stamp}")
