"""`SketchTable`: a few bytes of each stored request, by which the nearest to another is found. No answer is.

The table is made when it is first asked for, and brought up to date each time: who never asks pays nothing.
What a request is never changes under its row, so that a sketch, once made, stays right; of a page from which
a row goes, all go. Where the file can't be written, what is missing is made for this look alone.
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
    from collections.abc import Callable, Mapping, Sequence

    from or_cache_magic.storage.database import Database

_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_sketch'"
_LAST: Final = "SELECT coalesce(max(id), 0) FROM or_request"
_READ: Final = """
SELECT page, last, sketches FROM or_sketch
WHERE typeof(last) = 'integer' AND typeof(sketches) = 'blob' AND length(sketches) % ? = 0
"""
_MISSING: Final = """
SELECT r.id, c.key, r.body FROM or_request r JOIN Cache c ON c.rowid = r.id
WHERE r.id BETWEEN ? AND ? ORDER BY r.id
"""
# One that was purged meanwhile would never go: a page is kept of the rows that are there still.
_PUT: Final = """
INSERT OR REPLACE INTO or_sketch (page, last, sketches)
SELECT ?, ?, ? WHERE (SELECT count(*) FROM or_request WHERE id BETWEEN ? AND ?) = ?
"""
_CANDIDATES: Final = """
SELECT c.key, e.created, e.notebook, r.body, r.sample, r.stream, r.base_url
FROM or_request r JOIN Cache c ON c.rowid = r.id JOIN or_entry e ON e.id = r.id
WHERE typeof(c.key) = 'text' AND {where}
"""
_PAGE: Final = 256  # 1 << 8, as the trigger has it
_PAGES_AT_ONCE: Final = 16
ID_BYTES: Final = 8
"""Before each sketch stands its row's id, the lowest byte first."""

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

    def read(self) -> bytes:
        """Return the ids of the entries' rows (`ID_BYTES`) and their sketches; those missing are made now."""
        ((last,),) = self._database.select(_LAST) or [(0,)]
        pages: dict[int, bytes] = {}
        if self._database.select(_HAS_TABLE):
            record = ID_BYTES + self._size_bytes
            kept = self._database.select(_READ, (record,))
            # One that rows have come to since is made again; they come at the end.
            pages = {page: sketches for page, made_at, sketches in kept if made_at >= min(last, _end(page))}
        missing = [page for page in range(last // _PAGE + 1) if page not in pages] if last else []
        for start in range(0, len(missing), _PAGES_AT_ONCE):
            made = [self._made(page) for page in missing[start : start + _PAGES_AT_ONCE]]
            pages.update((page, sketches) for page, sketches, _ in made)
            self._put(last, made)
        return b"".join(pages.values())

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

    def _made(self, page: int) -> tuple[int, bytes, int]:
        """Return a page, its sketches, and how many rows it was made of."""
        rows = self._database.select(_MISSING, (page * _PAGE, _end(page)))
        made = []
        for row_id, key, blob in rows:
            with suppress(StoreCorruptError):  # what is damaged is near to nothing
                sketch = self._sketch(decode_request(key, blob, leave_empty))
                made.append(row_id.to_bytes(ID_BYTES, "little") + sketch)
        return page, b"".join(made), len(rows)

    def _put(self, last: int, made: Sequence[tuple[int, bytes, int]]) -> None:
        """Keep pages that were made when `last` was the last row, where the file can be written."""
        with suppress(StoreError), self._database.transaction(changes_answers=False) as connection:
            if not connection.execute(_HAS_TABLE).fetchall():
                for statement in SKETCHES:
                    connection.execute(statement)
            for page, sketches, rows in made:
                place = (page * _PAGE, min(last, _end(page)), rows)
                connection.execute(_PUT, (page, min(last, _end(page)), sketches, *place))


def _end(page: int) -> int:
    return page * _PAGE + _PAGE - 1


def without_media(request: Request) -> Request:
    """Return a request with its large media left empty, as that of a `Candidate` is."""
    return request._replace(body=take_out(request.body, {}, decoded=True)[0])
