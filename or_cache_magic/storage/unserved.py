"""Answers that are kept and never served: earlier ones, partials, and those that are not fit to be served."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.errors import StoreCorruptError, StoreError
from or_cache_magic.storage.codec import decode_entry, decode_request
from or_cache_magic.storage.rekey import REQUEST_COLUMNS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from or_cache_magic.core.records import Answer, Entry

__all__ = ["FIND_UNSERVED", "Unserved", "insert_unserved", "keep_replaced", "read_unserved"]

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


class Unserved(NamedTuple):
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


def read_unserved(digest: str, rows: Iterable[Sequence[Any]]) -> list[Unserved]:
    """The answers of rows of `FIND_UNSERVED`; damaged ones are left out."""
    found = []
    for at_s, reason, value, body in rows:
        with suppress(StoreCorruptError):
            request = None if body is None else decode_request(digest, body)
            found.append(Unserved(at_s, reason, decode_entry(digest, value).answer, request))
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
