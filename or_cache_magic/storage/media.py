"""Large media of requests and answers: stored once, however many rows hold it, and named there by its digest.

A blob says which places of its JSON are left empty, and the sha256 of the bytes that belong there
(`take_out`, `put_back`); what is read for it must have that digest, since a file may come from a stranger.
Who holds what is in a table of its own, so that the last one to go takes the bytes along (`forget_gone`).
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.storage.schema import MEDIA

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

_SHORTEST: Final = 4096
"""Characters of base64 from which on media is stored apart."""

_HEADS: Final = (str, type(None))
_LARGEST: Final = 1 << 27
_KEPT_CHARS: Final = 1 << 25
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_media'"
_FIND: Final = "SELECT body FROM or_media WHERE sha256 = ? AND typeof(body) = 'blob' AND length(body) <= ?"
_COUNTED: Final = "SELECT 1 FROM or_media_use WHERE media = ? AND unserved = 0 AND bytes > 0"
_USE: Final = "INSERT OR IGNORE INTO or_media_use (unserved, owner, media, bytes) VALUES (?, ?, ?, ?)"
_COPY: Final = """
INSERT OR IGNORE INTO or_media_use (unserved, owner, media, bytes)
SELECT 1, ?, media, 0 FROM or_media_use WHERE unserved = 0 AND owner = ?
"""
_OTHERS: Final = "SELECT media FROM or_media_use WHERE unserved = 0 AND owner = ?"
_FORGET: Final = "DELETE FROM or_media_use WHERE unserved = 0 AND owner = ? AND media = ?"
_GONE: Final = (
    "DELETE FROM or_media_use WHERE unserved = 0 AND owner NOT IN (SELECT rowid FROM Cache)",
    "DELETE FROM or_media_use WHERE unserved = 1 AND owner NOT IN (SELECT id FROM or_unserved)",
)
_CHARGED: Final = "SELECT coalesce(sum(bytes), 0) FROM or_media_use WHERE unserved = 0 AND owner = ?"


# In the JSON of a blob


def take_out(value: Any, media: dict[bytes, bytes], *, decoded: bool) -> tuple[Any, list[Any]]:
    """Return a JSON value with its large base64 left empty, and what belongs there; the value is not changed.

    Args:
        value: Any JSON value.
        media: Takes what is to be stored by its digest.
        decoded: Whether that is the bytes, so that they are the same in every text, and a quarter less; else
            the text, which is read back in a third of the time: a hit reads an answer's, not a request's.

    Returns:
        The value, and for each place its path, what stands before the base64 of bytes (None for a text), and
        the digest in hex digits.
    """
    places: list[Any] = []

    def taken(value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, str):
            if len(value) < _SHORTEST or (found := _decoded(value)) is None:
                return value
            head, body = found if decoded else (None, value.encode())
            digest = sha256(body).digest()
            media[digest] = body
            places.append([list(path), head, digest.hex()])
            return ""
        if isinstance(value, dict):
            return {name: taken(item, (*path, name)) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [taken(item, (*path, at)) for at, item in enumerate(value)]
        return value

    return taken(value, ()), places


def _decoded(text: str) -> tuple[str, bytes] | None:
    """Return what stands before base64, and its bytes; None unless these give the very text again."""
    head, comma, data = text.partition(",") if text.startswith("data:") else ("", "", text)
    with suppress(binascii.Error, ValueError):
        raw = base64.b64decode(data, validate=True)
        if base64.b64encode(raw).decode() == data:
            return head + comma, raw
    return None


def put_back(value: Any, places: Any, read: Callable[[str | None, bytes], str]) -> int:
    """Fill the places that `take_out` left empty; return how many characters that were.

    Raises:
        LookupError, TypeError, ValueError: A place or its bytes are not there, or there are too many.
    """
    chars = 0
    for path, head, digest in places:
        *way, last = path
        at = value
        for name in way:
            at = at[name]
        if at[last] != "" or type(head) not in _HEADS:
            raise ValueError(path)
        at[last] = read(head, bytes.fromhex(digest))
        chars += len(at[last])
        if chars > _LARGEST:
            raise ValueError(chars)
    return chars


def leave_empty(_head: str | None, _digest: bytes) -> str:
    """Read no media, where only texts are wanted."""
    return ""


# In the file


class MediaReader:
    """Reads media as the text that it was, and keeps some: what has a digest never changes. Thread-safe.

    Args:
        select: Returns the rows of a SELECT.
        kept_chars: How much is kept; the least recently used goes first.
    """

    def __init__(self, select: Callable[[str, Sequence[Any]], list[Any]], kept_chars: int = 0) -> None:
        self._select = select
        self._most = kept_chars
        self._chars = 0
        self._kept: OrderedDict[tuple[str | None, bytes], str] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, head: str | None, digest: bytes) -> str:
        """Return the text of this digest, or base64 of bytes with `head` before it; raises KeyError."""
        text = self._kept.get((head, digest))
        if text is None:
            body = self.bytes_of(digest)
            text = body.decode() if head is None else head + base64.b64encode(body).decode()
            self._keep((head, digest), text)
        return text

    def bytes_of(self, digest: bytes) -> bytes:
        """Return what has this digest; raises KeyError where nothing in the file has."""
        if self._select(_HAS_TABLE, ()):
            for (body,) in self._select(_FIND, (digest, _LARGEST)):
                if type(body) is bytes and sha256(body).digest() == digest:
                    return body
        raise KeyError(digest)

    def _keep(self, name: tuple[str | None, bytes], text: str) -> None:
        # Held by a thread that a fork left behind, it is never released: then nothing more is kept.
        if len(text) > self._most // 2 or not self._lock.acquire(blocking=False):
            return
        try:
            self._chars += len(text) - len(self._kept.pop(name, ""))
            self._kept[name] = text
            while self._chars > self._most:
                self._chars -= len(self._kept.popitem(last=False)[1])
        finally:
            self._lock.release()


def reader(database: Any) -> MediaReader:
    """Return what reads the media of a `Database`."""
    return MediaReader(database.select, _KEPT_CHARS)


def reader_in(connection: sqlite3.Connection) -> MediaReader:
    """Return what reads media in an open transaction."""
    return MediaReader(lambda sql, parameters: connection.execute(sql, parameters).fetchall())


def add_media(
    connection: sqlite3.Connection, owner: int, media: Mapping[bytes, bytes], *, unserved: bool = False
) -> list[int]:
    """Note in an open transaction what media a row holds, and store what is not there yet.

    Args:
        connection: The transaction's.
        owner: The row's id: in ``Cache``, or in ``or_unserved``.
        media: Bytes by their digests.
        unserved: In which of the two.

    Returns:
        The ids of the media.
    """
    if not media:
        return []
    if not _has_table(connection):
        for statement in MEDIA:
            connection.execute(statement)
    ids = []
    for digest, raw in media.items():
        found = connection.execute("SELECT id FROM or_media WHERE sha256 = ?", (digest,)).fetchall()
        if not found:
            put = "INSERT INTO or_media (sha256, body) VALUES (?, ?)"
            found = [(connection.execute(put, (digest, raw)).lastrowid,)]
        ((media_id,),) = found
        counts = not unserved and not connection.execute(_COUNTED, (media_id,)).fetchall()
        connection.execute(_USE, (int(unserved), owner, media_id, len(raw) if counts else 0))
        ids.append(media_id)
    return ids


def set_media(connection: sqlite3.Connection, owner: int, media: Mapping[bytes, bytes]) -> int:
    """Note that this is all the media of an entry, as `add_media`; return the bytes that its size has for it.

    What several rows hold counts once: for the entry that stored it, or another one when that is gone.
    """
    ids = add_media(connection, owner, media)
    if not ids and not _has_table(connection):
        return 0
    for (other,) in connection.execute(_OTHERS, (owner,)).fetchall():
        if other not in ids:
            connection.execute(_FORGET, (owner, other))
    return charged(connection, owner)


def charged(connection: sqlite3.Connection, owner: int) -> int:
    """Return the bytes of media that an entry's size has."""
    if not _has_table(connection):
        return 0
    ((size_bytes,),) = connection.execute(_CHARGED, (owner,)).fetchall()
    return int(size_bytes)


def copy_media(connection: sqlite3.Connection, entry: int, unserved: int | None) -> None:
    """Note that a row of unserved answers holds what an entry does."""
    if _has_table(connection):
        connection.execute(_COPY, (unserved, entry))


def forget_gone(connection: sqlite3.Connection) -> None:
    """Remove the media of rows that are gone, unless others hold it; in the transaction that removed them.

    A trigger on these rows would take a purge three times as long.
    """
    if _has_table(connection):
        for statement in _GONE:
            connection.execute(statement)


def forget_media(connection: sqlite3.Connection, owner: int | None, *, unserved: bool) -> None:
    """Note that one row holds no media any more, as `forget_gone` does for all that are gone."""
    if _has_table(connection):
        connection.execute(
            "DELETE FROM or_media_use WHERE unserved = ? AND owner = ?", (int(unserved), owner)
        )


def delete_media(connection: sqlite3.Connection) -> None:
    """Remove all media, before all rows that hold it are removed."""
    if _has_table(connection):
        connection.execute("DELETE FROM or_media")  # which has no trigger: at once
        connection.execute("DELETE FROM or_media_use")


def _has_table(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_HAS_TABLE).fetchall())
