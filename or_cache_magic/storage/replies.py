"""`ReplyIndex`: which entries reply to which, to be shown and asked again. No answer is served by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.storage.schema import REPLIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from or_cache_magic.storage.database import Database

_KEY_BYTES: Final = 32
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_reply'"
_PARENT: Final = """
SELECT r.parent FROM or_reply r JOIN Cache c ON c.rowid = r.id
WHERE c.key = ? AND c.raw = 1 AND typeof(r.parent) = 'blob'
"""
_REPLIES: Final = """
SELECT c.key FROM or_reply r JOIN Cache c ON c.rowid = r.id JOIN or_entry e ON e.id = r.id
WHERE r.parent = ? AND c.raw = 1 AND typeof(c.key) = 'text' ORDER BY e.created, e.id
"""


class ReplyIndex:
    """The replies among the entries of a `Database`. Thread-safe. Every method may raise `StoreError`.

    A stranger's file may link entries in a circle: whoever follows the links remembers where they have been.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def parent(self, digest: str) -> str | None:
        """Return the key of the answer that an entry replies to, stored or not; None where it is no reply."""
        for (parent,) in self._select(_PARENT, (digest,)):
            if len(parent) == _KEY_BYTES:
                return str(parent.hex())
        return None

    def of(self, digest: str) -> list[str]:
        """Return the keys of the entries that reply to this key, whatever it answered then, oldest first."""
        return [key for (key,) in self._select(_REPLIES, (bytes.fromhex(digest),))]

    def _select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return self._database.select(sql, parameters) if self._database.select(_HAS_TABLE) else []


def put_parent(connection: sqlite3.Connection, row_id: int, parent: str) -> None:
    """Note in an open transaction that an entry replies to the answer of this key."""
    if not connection.execute(_HAS_TABLE).fetchall():
        for statement in REPLIES:
            connection.execute(statement)
    connection.execute(
        "INSERT OR REPLACE INTO or_reply (id, parent) VALUES (?, ?)", (row_id, bytes.fromhex(parent))
    )


def rename_parent(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Note in an open transaction that a key is another now."""
    if connection.execute(_HAS_TABLE).fetchall():
        keys = (bytes.fromhex(new), bytes.fromhex(old))
        connection.execute("UPDATE or_reply SET parent = ? WHERE parent = ?", keys)
