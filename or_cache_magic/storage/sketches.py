"""`SketchTable`: a few bytes of each stored request, by which the nearest to another is found. No answer is.

The table is made when it is first asked for, and brought up to date each time: who never asks pays nothing.
What a request is never changes under its row, so that a sketch, once made, stays right. Where the file can't
be written, what is missing is made for this look alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.records import OPENROUTER_URL, NamedTuple, Request
from or_cache_magic.errors import StoreCorruptError, StoreError
from or_cache_magic.storage.codec import decode_request
from or_cache_magic.storage.media import leave_empty, take_out
from or_cache_magic.storage.schema import SKETCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from or_cache_magic.storage.database import Database

_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_sketch'"
_LAST: Final = "SELECT coalesce(max(id), 0) FROM or_sketch"
_READ: Final = "SELECT id, sketch FROM or_sketch WHERE typeof(sketch) = 'blob' AND length(sketch) = ?"
# One that was purged meanwhile would never go.
_PUT: Final = """
INSERT OR REPLACE INTO or_sketch (id, sketch) SELECT ?, ? WHERE EXISTS (SELECT 1 FROM or_entry WHERE id = ?)
"""
_MISSING: Final = """
SELECT r.id, c.key, r.body FROM or_request r JOIN Cache c ON c.rowid = r.id
WHERE r.id > ? ORDER BY r.id LIMIT ?
"""
_CANDIDATES: Final = """
SELECT c.key, e.created, e.notebook, r.body, r.sample, r.stream, r.base_url
FROM or_request r JOIN Cache c ON c.rowid = r.id JOIN or_entry e ON e.id = r.id
WHERE typeof(c.key) = 'text' AND {where}
"""
_AT_ONCE: Final = 2000
_MARKS: Final = 500  # SQLite before 3.32 takes 999 parameters


class Candidate(NamedTuple):
    """A stored request, its large media left empty."""

    key: str
    created_s: float
    notebook: str
    request: Request


class SketchTable:
    """The sketches of the entries of a `Database`. Thread-safe. Every method may raise `StoreError`.

    Args:
        database: Where they are.
        sketch: Returns that of a request's body, without its large media; always of `size_bytes`.
        size_bytes: How large each is.
    """

    def __init__(
        self, database: Database, sketch: Callable[[Mapping[str, Any]], bytes], size_bytes: int
    ) -> None:
        self._database = database
        self._sketch = sketch
        self._size_bytes = size_bytes

    def read(self) -> list[tuple[int, bytes]]:
        """Return the rows of entries and their sketches, those that were missing made now."""
        found: list[tuple[int, bytes]] = []
        last = 0
        if self._database.select(_HAS_TABLE):
            found = self._database.select(_READ, (self._size_bytes,))
            last = self._database.select(_LAST)[0][0]
        keep = True
        for made in self._missing(last):
            found += made
            if keep:
                keep = self._put(made)
        return found

    def candidates(self, rows: Sequence[int]) -> list[Candidate]:
        """Return the requests of these rows, without those that are gone or damaged."""
        found = []
        for start in range(0, len(rows), _MARKS):
            some = rows[start : start + _MARKS]
            where = f"r.id IN ({','.join('?' * len(some))})"
            found += self._candidates(where, some)
        return found

    def of(self, digest: str) -> Candidate | None:
        """Return the request of a key; None if it is not stored."""
        return next(iter(self._candidates("c.key = ? AND c.raw = 1", (digest,))), None)

    def _candidates(self, where: str, parameters: Sequence[Any]) -> list[Candidate]:
        found = []
        for key, created_s, notebook, blob, sample, stream, base_url in self._database.select(
            _CANDIDATES.format(where=where), parameters
        ):
            with suppress(StoreCorruptError):
                body = decode_request(key, blob, leave_empty)
                request = Request(body, bool(stream), int(sample or 0), str(base_url or OPENROUTER_URL))
                found.append(Candidate(key, float(created_s), str(notebook or ""), request))
        return found

    def _missing(self, last: int) -> Iterator[list[tuple[int, bytes]]]:
        while rows := self._database.select(_MISSING, (last, _AT_ONCE)):
            last = rows[-1][0]
            yield [made for row in rows if (made := self._made(*row)) is not None]

    def _made(self, row_id: int, key: str, blob: object) -> tuple[int, bytes] | None:
        with suppress(StoreCorruptError):  # what is damaged is near to nothing
            return row_id, self._sketch(decode_request(key, blob, leave_empty))
        return None

    def _put(self, made: list[tuple[int, bytes]]) -> bool:
        """Keep sketches; return whether that went well, so that it may be tried again."""
        if not made:
            return True
        with suppress(StoreError), self._database.transaction(changes_answers=False) as connection:
            if not connection.execute(_HAS_TABLE).fetchall():
                for statement in SKETCHES:
                    connection.execute(statement)
            connection.executemany(_PUT, [(*one, one[0]) for one in made])
            return True
        return False


def without_media(request: Request) -> Request:
    """Return a request with its large media left empty, as that of a `Candidate` is."""
    return request._replace(body=take_out(request.body, {}, decoded=True)[0])
