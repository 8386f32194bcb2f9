"""`ConnectionPool`: the connections to one cache.db, as long as it stays the same file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

from or_cache_magic.core.key import KEY_VERSION
from or_cache_magic.core.settings import MEMORY
from or_cache_magic.errors import StoreBusyError
from or_cache_magic.storage.schema import create_tables, make_private, refuse_newer, vet
from or_cache_magic.storage.sqlite import (
    Reader,
    connect,
    is_damage,
    is_locked,
    open_reader,
    prepare_writer,
    set_wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from or_cache_magic.storage.diskcache_adapter import StrictCache

FileId = tuple[int, int]
"""Device and inode: which file a path names."""

_CHECKPOINT_WAIT_S: Final = 0.1
_READER_WAIT_S: Final = 1.0
_RETRY_GAP_S: Final = 0.005
_PAUSE_GAP_S: Final = 0.0005
_DATA_VERSION: Final = "PRAGMA data_version"
_IMPATIENT_FOR_S: Final = 10.0
"""How long what was waited for in vain (a way to read, the lock for re-keying) is not waited for again."""


class _Held(list["Reader"]):
    """Readers that were given back while nobody gets one."""

    def pop(self, index: SupportsIndex = -1) -> Reader:  # noqa: ARG002 - none is given
        """Return none."""
        raise IndexError


class ConnectionPool:
    """A pool of readers and one writer under a lock. Thread-safe; belongs to the process that made it.

    SQLite's errors come out as they are; `Database` makes them ours.

    Args:
        path: The file.
        file_id: Which file the path named; None before there was one.
        timeout_s: The longest wait for another's lock.
        tell: Takes a line for the user, and optionally what it is about, which is told once.
    """

    def __init__(
        self, path: Path, file_id: FileId | None, timeout_s: float, tell: Callable[..., None]
    ) -> None:
        self.path = path
        self.file_id = file_id
        self.log_id: FileId | None = None
        self.pid = os.getpid()
        self._timeout_s = timeout_s
        self._tell = tell
        self._rekeying = threading.Lock()
        self._readers: list[Reader] = []
        self._opening = threading.RLock()
        self._free: list[Reader] = []
        self._open: set[Reader] = set()
        self._lock = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._cache: StrictCache | None = None
        self._owner: int | None = None
        self._depth = 0
        self._dirty = False
        self._state = object()
        self._changing = False
        self._others: int | None = None
        self._closed = False
        self._impatient_until_s = 0.0
        #: Whether a write met damage; the file is to be set aside before the next.
        self.damaged = False
        #: Whether a read met damage, which the writer's page cache may hide from it: to be opened anew.
        self.suspect = False

    def read(self, sql: str, parameters: Sequence[Any]) -> tuple[list[Any], object | None]:
        """See `Database.read`."""
        if self._owner == threading.get_ident():
            return self.writer.execute(sql, parameters).fetchall(), None
        # list.pop and append are atomic: no lock on the way of a hit.
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._open_reader()
        lasting = reader.lasting and reader.keys == KEY_VERSION
        try:
            state = self._seen_by(reader) if lasting else None
            rows = [] if reader.keys is None else reader.connection.execute(sql, parameters).fetchall()
        except BaseException as exc:
            self._drop(reader, exc)
            raise
        if lasting:
            self._give_back(reader)
        else:
            self._close_reader(reader)
        return rows, state

    def state(self) -> object | None:
        """See `Database.state`."""
        try:
            reader = self._readers.pop()
        except IndexError:
            return None
        try:
            state = self._seen_by(reader)
        except sqlite3.Error as exc:
            self._drop(reader, exc)
            return None  # a select will say what it is
        self._give_back(reader)
        return state

    def _seen_by(self, reader: Reader) -> object | None:
        """Return the state of the answers; None while a transaction of ours changes them.

        SQLite compares the connection's copy of the log's header, without reading a page: 2 µs. That it
        differs says that any other connection committed, the writer of this pool included.
        """
        ((version,),) = reader.cursor.execute(_DATA_VERSION).fetchall()
        if version != reader.version:
            self._look_who_wrote()
            reader.version = version
        return None if self._changing else self._state

    def _look_who_wrote(self) -> None:
        """Begin another state, unless all that was committed since the last look was the writer's own.

        What that changes of the answers begins one itself (`_outermost`). The writer's ``data_version`` is
        another only after commits that are not its own; asked after a reader's, it tells of all that the
        reader saw.
        """
        if self._lock.acquire(blocking=False):
            try:
                if self._writer is not None and not self._depth:
                    ((version,),) = self._writer.execute(_DATA_VERSION).fetchall()
                    if version != self._others:
                        # In this order: an interrupt between the two costs a look, and loses no change.
                        self._state = object()
                        self._others = version
                    return
            except sqlite3.Error:
                pass  # the next write will say what it is
            finally:
                self._lock.release()
        self._state = object()

    def _drop(self, reader: Reader, failure: BaseException) -> None:
        self._close_reader(reader)
        self.suspect = isinstance(failure, sqlite3.DatabaseError) and is_damage(failure) and reader.lasting

    def _give_back(self, reader: Reader) -> None:
        self._readers.append(reader)
        if self._closed:
            self._close_readers()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._close_reader(self._readers.pop())

    def _close_reader(self, reader: Reader) -> None:
        reader.connection.close()
        self._open.discard(reader)

    def pause(self, until_s: float) -> None:
        """Take every connection, so that no thread is inside SQLite; waits until a monotonic time at most."""
        free, self._readers = self._readers, _Held()
        for lock in (self._lock, self._opening):
            lock.acquire(timeout=max(0.0, until_s - time.monotonic()))
        while len(free) + len(self._readers) < len(self._open) and time.monotonic() < until_s:
            time.sleep(_PAUSE_GAP_S)
        self._free = free

    def resume(self) -> None:
        """Give back what `pause` took."""
        held, self._readers = self._readers, self._free
        self._readers += held
        for lock in (self._opening, self._lock):
            with suppress(RuntimeError):  # it was not to be had in time
                lock.release()

    def _open_reader(self) -> Reader:
        """Open a reading connection, to a file that is re-keyed first when it is of an older version."""
        with self._opening:
            reader = self._opened_reader()
            self._open.add(reader)
        return reader

    def _opened_reader(self) -> Reader:
        patient = time.monotonic() >= self._impatient_until_s
        wait_s = min(self._timeout_s, _READER_WAIT_S) if patient else 0.0
        reader = open_reader(self.path, wait_s)
        if reader.keys is not None and reader.keys < KEY_VERSION and self._rekeyed():
            reader.connection.close()
            reader = open_reader(self.path, wait_s)
        if not reader.lasting:
            self._impatient_until_s = time.monotonic() + _IMPATIENT_FOR_S
        self._add_functions(reader.connection)
        self.log_id = self.log_id or file_id(f"{self.path}-wal")
        return reader

    def _rekeyed(self) -> bool:
        """Re-key an older file; return False, which is told once, when it can't be written now."""
        with self._rekeying:
            patient = time.monotonic() >= self._impatient_until_s
            try:
                self.open_writer(self._timeout_s if patient else 0.0)
            except (sqlite3.Error, StoreBusyError) as exc:
                if is_damage(exc):
                    raise
                self._impatient_until_s = time.monotonic() + _IMPATIENT_FOR_S
                self._tell(
                    f"The completion cache {self.path} is of an older version and can't be written now: its"
                    " answers are listed, but not found for an ask, which buys again. Make it writable.",
                    about="older",
                )
                return False
        return True

    @staticmethod
    def _add_functions(connection: sqlite3.Connection) -> None:
        connection.create_function("or_has_text", 4, _has_text, deterministic=True)
        connection.create_function("or_begins", 3, _begins, deterministic=True)

    @property
    def is_open(self) -> bool:
        """Whether there is a writing connection."""
        return self._writer is not None

    @property
    def writer(self) -> sqlite3.Connection:
        """The writing connection; only inside a transaction."""
        assert self._writer is not None  # noqa: S101 - a transaction opened it
        return self._writer

    def cache(self) -> StrictCache:
        """Diskcache on the writing connection, imported now; only inside a transaction."""
        if self._cache is None:
            from or_cache_magic.storage.diskcache_adapter import StrictCache

            self._cache = StrictCache(os.fspath(self.path.parent), self.writer, self.transaction)
        return self._cache

    @contextmanager
    def transaction(
        self, wait_s: float | None = None, *, changes_answers: bool = True
    ) -> Iterator[sqlite3.Connection]:
        """See `Database.transaction`."""
        wait_s = self._timeout_s if wait_s is None else wait_s
        try:
            with self._locked(wait_s):
                inner = self._depth > 0
                self.open_writer(wait_s)
                try:
                    with self._savepoint() if inner else self._outermost(wait_s):
                        self._changing = self._changing or changes_answers
                        yield self.writer
                except sqlite3.DatabaseError as exc:
                    self.damaged = self.damaged or is_damage(exc)
                    raise
        finally:
            # Who closed it meanwhile left the writer to this thread, also where no transaction began.
            if self._closed and self._owner != threading.get_ident():
                self.close()

    def joined(self, *, changes_answers: bool) -> sqlite3.Connection:
        """Return the connection of this thread's transaction, for more that is done in it."""
        self._changing = self._changing or changes_answers
        return self.writer

    @contextmanager
    def _locked(self, wait_s: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=wait_s):
            raise StoreBusyError(
                f"The completion cache {self.path} is being written by another thread.",
                "Try again when it has finished.",
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _outermost(self, wait_s: float) -> Iterator[None]:
        connection = self.writer
        set_wait(connection, wait_s)
        connection.execute("BEGIN IMMEDIATE")
        self._owner, self._depth, self._dirty = threading.get_ident(), 1, True
        try:
            refuse_newer(connection)
            yield
            connection.execute("COMMIT")
        finally:
            self._owner, self._depth = None, 0
            if self._changing:
                # After the commit, and before anybody is told a state again.
                self._state = object()
                self._changing = False
            # A full disk may have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        connection = self.writer
        name = f"or_{self._depth}"
        connection.execute(f"SAVEPOINT {name}")
        self._depth += 1
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute(f"ROLLBACK TO {name}")
            raise
        finally:
            self._depth -= 1
            if connection.in_transaction:
                connection.execute(f"RELEASE {name}")

    def open_writer(self, wait_s: float) -> None:
        """Open the writing connection, make the tables of an empty file, re-key an older one.

        Does nothing when it is open.

        Raises:
            StoreError: As `schema.vet` says.
            sqlite3.Error: The file can't be written.
        """
        with self._locked(wait_s):
            deadline_s = time.monotonic() + wait_s
            while self._writer is None:
                try:
                    self._open_writer(wait_s)
                except sqlite3.Error as exc:
                    # Two kernels that make the file at once: SQLite does not wait where it switches to WAL.
                    if not is_locked(exc) or time.monotonic() > deadline_s:
                        raise
                    time.sleep(_RETRY_GAP_S)

    def _open_writer(self, wait_s: float) -> None:
        connection = self._connect(wait_s)
        try:
            keys = vet(connection)
            prepare_writer(connection, new=keys is None)
            self._add_functions(connection)
            self._writer = connection
            if keys is None:
                self._create_tables(connection)
            elif keys < KEY_VERSION:
                from or_cache_magic.storage.upgrade import rekey

                self._dirty = True
                rekey(connection, self._tell)
            self.log_id = file_id(f"{self.path}-wal")
        except BaseException:
            self._writer = self._cache = None
            connection.close()
            raise

    def _connect(self, wait_s: float) -> sqlite3.Connection:
        connection = connect(self.path, "mode=rw", wait_s)
        make_private(self.path)
        return connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            # Another kernel may have been first.
            if vet(connection) is None:
                self.cache()
                create_tables(connection)

    def checkpoint(self) -> bool:
        """See `Database.checkpoint`."""
        if not self._dirty or self._writer is None:
            return True
        if not self._lock.acquire(timeout=_CHECKPOINT_WAIT_S):
            return False
        try:
            if self._depth or self._writer is None:
                return False
            set_wait(self._writer, _CHECKPOINT_WAIT_S)
            (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._dirty = bool(busy)
        except sqlite3.Error:
            return False
        finally:
            self._lock.release()
        return not self._dirty

    def close(self) -> None:
        """Close every connection, those in use as soon as they are done with."""
        self._closed = True
        self._close_readers()
        if self._lock.acquire(blocking=False):
            try:
                if self._depth == 0 and self._writer is not None:
                    self._writer.close()
                    self._writer = self._cache = None
            finally:
                self._lock.release()


class MemoryPool(ConnectionPool):
    """One connection to tables in memory, which threads read and write in turn."""

    def read(self, sql: str, parameters: Sequence[Any]) -> tuple[list[Any], None]:
        """See `Database.read`; no state is told."""
        with self._locked(self._timeout_s):
            rows = self.writer.execute(sql, parameters).fetchall() if self.is_open else []
            if self._closed:  # while this thread had it
                self.close()
            return rows, None

    def checkpoint(self) -> bool:
        """There is no log."""
        return True

    def _connect(self, wait_s: float) -> sqlite3.Connection:  # noqa: ARG002 - nobody else has it
        return sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False, cached_statements=64)


def file_id(path: str) -> FileId | None:
    """Return which file a path names; None when there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return (stat.st_dev, stat.st_ino)


def _has_text(key: str, value: bytes, body: bytes, folded: str) -> bool:
    from or_cache_magic.storage.listing import has_text

    return has_text(key, value, body, folded)


def _begins(key: str, body: bytes, prefix: str) -> bool:
    from or_cache_magic.storage.listing import begins

    return begins(key, body, prefix)
