"""`BatchTable`: what was submitted to OpenRouter's Batch API, and which of its rows are waited for.

A row that waits is the lease of its key (see `DiskLeases`), for as long as the batch lasts: it is there
before anything is sent, and goes in the transaction that stores its answer. What OpenRouter calls the batch
may be unknown: the process died, or the connection broke, between the two.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import OPENROUTER_URL, NamedTuple, Request
from or_cache_magic.errors import RequestError, StoreCorruptError, StoreError
from or_cache_magic.storage.codec import decode_request, encode_request
from or_cache_magic.storage.columns import (
    REQUEST_COLUMNS,
    as_columns,
    check_row,
    column_types,
    from_pico,
    request_columns,
    to_pico,
)
from or_cache_magic.storage.schema import BATCHES, HAS_BATCHES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from or_cache_magic.storage.database import Database

WAITING: Final = "waiting"
"""The state of a row without a result, whose key nobody else asks for."""

STATES: Final = frozenset({WAITING, "stored", "set aside", "failed"})
"""Of rows: ``stored`` as an entry; ``set aside``, paid for and not fit to be served; ``failed``."""

SUBMITTING: Final = "submitting"
"""The status of a batch whose submission was not answered (yet)."""

_COLUMNS: Final = (
    "id, marker, payer, remote, base_url, model, submitted, status, ended, checked, error, total, done,"
    " failed, cost, high"
)
_TYPES: Final = column_types("int str str str? str? str float str int float? str? int int int int? int?")
_SELECT: Final = f"SELECT {_COLUMNS} FROM or_batch"  # noqa: S608
_INSERT: Final = f"INSERT INTO or_batch ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608
_UPDATE: Final = """
UPDATE or_batch SET remote = ?, status = ?, ended = ?, checked = ?, error = ?, done = ?, failed = ?, cost = ?
WHERE id = ?
"""
_REMOTE: Final = r"(?a)[\w-]{1,200}"
_ROW_COLUMNS: Final = (
    f"batch, position, key, custom_id, state, error, cost, policy, request, {REQUEST_COLUMNS}"
)
_ROW_TYPES: Final = column_types("int int str str str str? int? str? bytes? int int str?")
_SELECT_ROWS: Final = f"SELECT {_ROW_COLUMNS} FROM or_batch_row"  # noqa: S608
_INSERT_ROW: Final = f"INSERT INTO or_batch_row ({_ROW_COLUMNS}) VALUES ({', '.join('?' * 12)})"  # noqa: S608
# The request is no longer needed: an entry has it, or who asks again.
_END_ROW: Final = """
UPDATE or_batch_row SET state = ?, error = ?, cost = ?, request = NULL, policy = NULL
WHERE batch = ? AND position = ? AND state = 'waiting'
"""
_REKEY_ROW: Final = "UPDATE or_batch_row SET key = ?, request = ? WHERE batch = ? AND position = ?"
_HOLDER: Final = f"""
SELECT {_COLUMNS} FROM or_batch WHERE id IN
    (SELECT batch FROM or_batch_row WHERE key = ? AND state = 'waiting') ORDER BY id DESC LIMIT 1
"""  # noqa: S608
_FORGET_ROWS: Final = """
DELETE FROM or_batch_row WHERE batch IN (SELECT id FROM or_batch WHERE ended AND submitted < ?)
"""
_FORGET: Final = "DELETE FROM or_batch WHERE ended AND submitted < ?"
_AT_ONCE: Final = 500
_LAST: Final = """
SELECT max(batch), position, key, custom_id, state, error, cost, NULL, NULL, sample, stream, base_url
FROM or_batch_row WHERE key IN ({}) GROUP BY key
"""


class BatchRecord(NamedTuple):
    """A batch, as far as it is known here.

    Attributes:
        id: Its number in this file.
        marker: 64 random hex digits: its rows' `custom_id` begin with some of them.
        payer: A hash of the key that it was submitted with, salted with the marker.
        remote: What OpenRouter calls it; empty as long as that isn't known.
        base_url: Where it was submitted.
        model: Of all its rows.
        submitted_s: When.
        status: As OpenRouter last told it, or `SUBMITTING`.
        ended: Whether no row of it waits any more.
        checked_s: When OpenRouter was last asked; None is never.
        error: What it says that went wrong; empty is nothing.
        total: How many rows it has.
        done: How many are answered, as last told.
        failed: How many failed.
        cost_usd: What it came to; None is not known.
        high_usd: The most that it may cost, by the full prices; None is not known.
    """

    id: int
    marker: str
    payer: str
    remote: str
    base_url: str
    model: str
    submitted_s: float
    status: str = SUBMITTING
    ended: bool = False
    checked_s: float | None = None
    error: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    cost_usd: Decimal | None = None
    high_usd: Decimal | None = None


class BatchRow(NamedTuple):
    """One request of a batch.

    Attributes:
        batch: The number of its batch.
        position: Its place there, from 0.
        key: Of its request.
        custom_id: What the batch calls it.
        state: One of `STATES`.
        error: Why it failed, or is not served; empty when neither.
        cost_usd: What it cost; None as long as that isn't known.
        policy: How its answer is stored, as JSON; empty when it waits no more.
        request: What was asked; None when it waits no more, or that is damaged.
    """

    batch: int
    position: int
    key: str
    custom_id: str
    state: str = WAITING
    error: str = ""
    cost_usd: Decimal | None = None
    policy: Mapping[str, Any] = MappingProxyType({})
    request: Request | None = None


class BatchTable:
    """The batches of one `Database`. Thread-safe. Every method may raise `StoreError`.

    What the file says is not trusted: it may come from a stranger.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, batch: BatchRecord, rows: Sequence[BatchRow]) -> int:
        """Write a batch that is about to be submitted, and take its rows' leases; return its number.

        In this thread's transaction, in which the caller saw that nobody has them.
        """
        with self._database.transaction(changes_answers=False) as connection:
            if not connection.execute(HAS_BATCHES).fetchall():
                for statement in BATCHES:
                    connection.execute(statement)
            added = connection.execute(_INSERT, as_columns((None, *_columns(batch)[1:])))
            number = added.lastrowid or 0
            connection.executemany(_INSERT_ROW, (_row_columns(row._replace(batch=number)) for row in rows))
        return number

    def update(self, batch: BatchRecord) -> None:
        """Write what became of a batch."""
        columns = _columns(batch)
        told = (columns[3], *columns[7:11], *columns[12:15], batch.id)
        with self._database.transaction(changes_answers=False) as connection:
            connection.execute(_UPDATE, as_columns(told))

    def end_row(self, row: BatchRow) -> bool:
        """Write what became of a row that waits, which gives its lease back; False when it waits no more.

        In this thread's transaction, which stores its answer: of several kernels one does.
        """
        with self._database.transaction(changes_answers=False) as connection:
            told = (row.state, row.error or None, to_pico(row.cost_usd), row.batch, row.position)
            return connection.execute(_END_ROW, as_columns(told)).rowcount == 1

    def remove(self, number: int) -> None:
        """Remove a batch that never was, and give its rows' leases back."""
        with self._database.transaction(changes_answers=False) as connection:
            connection.execute("DELETE FROM or_batch_row WHERE batch = ?", (number,))
            connection.execute("DELETE FROM or_batch WHERE id = ?", (number,))

    def forget(self, before_s: float) -> None:
        """Remove the batches that have ended and were submitted before this time."""
        if self._select("SELECT 1 FROM or_batch WHERE ended AND submitted < ?", (before_s,)):
            with self._database.transaction(changes_answers=False) as connection:
                forget_ended(connection, before_s)

    def all(self) -> list[BatchRecord]:
        """Return every batch, the newest first."""
        return [_batch(columns) for columns in self._select(f"{_SELECT} ORDER BY id DESC")]

    def under_way(self) -> list[BatchRecord]:
        """Return the batches whose rows wait."""
        return [_batch(columns) for columns in self._select(f"{_SELECT} WHERE NOT ended")]

    def batch(self, number: int) -> BatchRecord | None:
        """Return a batch as it is known now; None when there is none of this number."""
        return next(map(_batch, self._select(f"{_SELECT} WHERE id = ?", (number,))), None)

    def rows(self, number: int) -> list[BatchRow]:
        """Return the rows of a batch, in their order."""
        found = self._select(f"{_SELECT_ROWS} WHERE batch = ? ORDER BY position", (number,))
        return [_row(columns) for columns in found]

    def last(self, keys: Iterable[str]) -> dict[str, BatchRow]:
        """Return the rows of the last batches that asked for keys, by key, without what was asked."""
        wanted, found = iter(keys), dict[str, BatchRow]()
        while part := tuple(islice(wanted, _AT_ONCE)):
            last = _LAST.format(", ".join("?" * len(part)))
            found.update((row.key, row) for row in map(_row, self._select(last, part)))
        return found

    def _select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._database.select(sql, parameters) if self._database.select(HAS_BATCHES) else []


def batch_holding(key: str, select: Callable[[str, Sequence[Any]], Iterable[Any]]) -> BatchRecord | None:
    """Return the batch that is waited for to answer a key; None when there is none.

    Args:
        key: 64 hex digits.
        select: Runs a SELECT on a file that `HAS_BATCHES`: of a `Database`, or of an open transaction.
    """
    with suppress(StoreCorruptError):  # what nobody can read holds nobody up
        return next(map(_batch, select(_HOLDER, (key,))), None)
    return None


def forget_ended(connection: sqlite3.Connection, before_s: float = math.inf) -> None:
    """Remove the batches that have ended and were submitted before a time, in an open transaction."""
    if connection.execute(HAS_BATCHES).fetchall():
        connection.execute(_FORGET_ROWS, (before_s,))
        connection.execute(_FORGET, (before_s,))


def rekey_rows(connection: sqlite3.Connection) -> None:
    """Give the rows that wait their keys of this code's version, in an open transaction."""
    if not connection.execute(HAS_BATCHES).fetchall():
        return
    for columns in connection.execute(f"{_SELECT_ROWS} WHERE state = 'waiting'").fetchall():
        with suppress(StoreError, RequestError):  # damaged: it is the lease of nothing
            row = _row(columns)
            if row.request is not None:
                key = request_key(row.request).digest
                renamed = (key, _blob(key, row.request), row.batch, row.position)
                connection.execute(_REKEY_ROW, renamed)


def _columns(batch: BatchRecord) -> tuple[Any, ...]:
    return (
        batch.id,
        batch.marker,
        batch.payer,
        batch.remote or None,
        None if batch.base_url == OPENROUTER_URL else batch.base_url,
        batch.model,
        batch.submitted_s,
        batch.status,
        int(batch.ended),
        batch.checked_s,
        batch.error or None,
        batch.total,
        batch.done,
        batch.failed,
        to_pico(batch.cost_usd),
        to_pico(batch.high_usd),
    )


def _batch(columns: Sequence[Any]) -> BatchRecord:
    """Return the batch of a row of ``or_batch``; raises `StoreCorruptError`."""
    number, marker, payer, remote, base_url, model, submitted_s, status, ended, checked_s, error = columns[
        :11
    ]
    counts = columns[11:]
    check_row("a batch", _TYPES, columns, submitted_s, checked_s, amounts=counts)
    if remote is not None and not re.fullmatch(_REMOTE, remote):  # it is a part of the path that is asked for
        check_row("a batch", _TYPES, ())
    total, done, failed, cost, high = counts
    return BatchRecord(
        id=number,
        marker=marker,
        payer=payer,
        remote=remote or "",
        base_url=base_url or OPENROUTER_URL,
        model=model,
        submitted_s=submitted_s,
        status=status,
        ended=bool(ended),
        checked_s=checked_s,
        error=error or "",
        total=total,
        done=done,
        failed=failed,
        cost_usd=from_pico(cost),
        high_usd=from_pico(high),
    )


def _row_columns(row: BatchRow) -> list[Any]:
    assert row.request is not None  # noqa: S101 - it is about to be submitted
    blob = _blob(row.key, row.request)
    policy = json.dumps(dict(row.policy))
    columns = as_columns((row.batch, row.position, row.key, row.custom_id, row.state, None, None, policy))
    return [*columns, blob, *request_columns(row.request)]


def _blob(key: str, request: Request) -> bytes:
    return encode_request(key, request.body, last_prompt(request.body))


def _row(columns: Sequence[Any]) -> BatchRow:
    """Return the row of a row of ``or_batch_row``; raises `StoreCorruptError`."""
    batch, position, key, custom_id, state, error, cost, policy, blob, sample, stream, base_url = columns
    check_row("a row of a batch", _ROW_TYPES, columns, amounts=(cost,))
    if state not in STATES:
        check_row("a row of a batch", _ROW_TYPES, ())
    request = None
    with suppress(StoreCorruptError):  # nobody knows what was asked; the others can be stored
        if blob is not None:
            body = decode_request(key, blob)
            request = Request(body, bool(stream), sample, base_url or OPENROUTER_URL)
    return BatchRow(
        batch, position, key, custom_id, state, error or "", from_pico(cost), _object(policy), request
    )


def _object(text: str | None) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        form = json.loads(text or "{}")
        if isinstance(form, dict):
            return form
    return {}
