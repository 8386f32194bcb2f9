"""`ConnectionPool`: the connections to one cache.db, as long as it stays the same file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Union

from or_cache_magic.core.settings import MEMORY
from or_cache_magic.errors import StoreBusyError, StoreUnavailableError
from or_cache_magic.storage.sqlite import (
    Reader,
    connect,
    is_damage,
    is_locked,
    open_reader,
    prepare_writer,
    set_wait,
    sqlite_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from or_cache_magic.storage.diskcache_adapter import StrictCache
    from or_cache_magic.storage.upgrade import Upgrade

SqlValue = Union[str, bytes, int, float, None]  # noqa: UP007 - evaluated, also by Python 3.10
"""What an SQL function may return."""

FileId = tuple[int, int]
"""Device and inode: which file a path names."""

_CHECKPOINT_WAIT_S: Final = 0.1
_READER_WAIT_S: Final = 1.0
_RETRY_GAP_S: Final = 0.005
_UNREADABLE_FOR_S: Final = 10.0
"""How long the ways to read that failed are not waited for again."""

_LARGEST_STAND_IN_BYTES: Final = 1 << 29
_STAND_IN_WAIT_S: Final = 60.0
_SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


class ConnectionPool:
    """A pool of readers and one writer under a lock. Thread-safe; belongs to the process that made it.

    Args:
        path: The file.
        file_id: Which file the path named; None before there was one.
        functions: SQL functions that every connection gets: name -> (number of arguments, function).
        upgrade: Says whether a file is written in what this code writes, and brings it there.
        timeout_s: The longest wait for another's lock.
    """

    def __init__(
        self,
        path: Path,
        file_id: FileId | None,
        functions: Mapping[str, tuple[int, Callable[..., SqlValue]]],
        upgrade: Upgrade,
        timeout_s: float,
    ) -> None:
        self.path = path
        self.file_id = file_id
        self.log_id: FileId | None = None
        self.pid = os.getpid()
        self._functions = functions
        self._upgrade = upgrade
        self._upgrading = threading.Lock()
        self._stand_in: ConnectionPool | None = None
        self._timeout_s = timeout_s
        self._readers: list[Reader] = []
        self._lock = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._cache: StrictCache | None = None
        self._owner: int | None = None
        self._depth = 0
        self._dirty = False
        self._closed = False
        self._unreadable_until_s = 0.0
        #: Whether a write met damage; the file is to be set aside before the next.
        self.damaged = False
        #: Whether a read met damage, which the writer's page cache may hide from it: to be opened anew.
        self.suspect = False

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """See `Database.select`."""
        if self._owner == threading.get_ident():
            return self.writer.execute(sql, parameters).fetchall()
        # list.pop and append are atomic: no lock on the way of a hit.
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._open_reader()
            if self._upgrade.is_due(reader.versions):
                stand_in = self._upgraded(reader)
                if stand_in is not None:
                    rows = stand_in.select(sql, parameters)
                    # Another thread may have brought the file up to date, and dropped this.
                    return rows if stand_in.is_open else self.select(sql, parameters)
                reader = self._open_reader()
        try:
            rows = reader.connection.execute(sql, parameters).fetchall() if reader.versions else []
        except BaseException as exc:
            self._drop(reader, exc)
            raise
        if reader.lasting and reader.versions:
            self._give_back(reader)
        else:
            reader.connection.close()
        return rows

    def state(self) -> object | None:
        """See `Database.state`."""
        if self._owner == threading.get_ident():
            return None
        try:
            reader = self._readers.pop()
        except IndexError:
            return None
        try:
            state = reader.state()
        except sqlite3.Error as exc:
            self._drop(reader, exc)
            return None  # a select will say what it is
        self._give_back(reader)
        return state

    def _drop(self, reader: Reader, failure: BaseException) -> None:
        reader.connection.close()
        self.suspect = isinstance(failure, sqlite3.DatabaseError) and is_damage(failure) and reader.lasting

    def _give_back(self, reader: Reader) -> None:
        self._readers.append(reader)
        if self._closed:
            self._close_readers()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._readers.pop().connection.close()

    def _open_reader(self) -> Reader:
        patient = time.monotonic() >= self._unreadable_until_s
        wait_s = min(self._timeout_s, _READER_WAIT_S) if patient else 0.0
        reader = open_reader(self.path, wait_s, self._upgrade)
        if not reader.lasting:
            self._unreadable_until_s = time.monotonic() + _UNREADABLE_FOR_S
        self._teach(reader.connection)
        self.log_id = self.log_id or file_id(f"{self.path}-wal")
        return reader

    def _upgraded(self, reader: Reader) -> ConnectionPool | None:
        """Bring an older file up to date, once; what to read from instead when it can't be written."""
        with self._upgrading, closing(reader.connection) as source:
            if self._stand_in is None:
                try:
                    self.open_writer(min(self._timeout_s, _READER_WAIT_S))
                except StoreUnavailableError:
                    self._stand_in = InMemoryCopy(self.path, source, self._functions, self._upgrade)
            return self._stand_in

    def _teach(self, connection: sqlite3.Connection) -> None:
        for name, (arguments, function) in self._functions.items():
            connection.create_function(name, arguments, function, deterministic=True)

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
    def transaction(self, wait_s: float | None = None) -> Iterator[sqlite3.Connection]:
        """See `Database.transaction`."""
        wait_s = self._timeout_s if wait_s is None else wait_s
        with self._locked(wait_s), sqlite_errors(self.path):
            inner = self._depth > 0
            self.open_writer(wait_s)
            try:
                with self._savepoint() if inner else self._outermost(wait_s):
                    yield self.writer
            except sqlite3.DatabaseError as exc:
                self.damaged = self.damaged or is_damage(exc)
                raise

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
            self._upgrade.check(connection)
            yield
            connection.execute("COMMIT")
        finally:
            self._owner, self._depth = None, 0
            # A full disk may have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._closed:
                self.close()

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
        """Open the writing connection, and make the tables in an empty file; nothing when it is open.

        Raises:
            StoreError: As `schema.vet` says, or the file can't be written.
        """
        with self._locked(wait_s), sqlite_errors(self.path):
            deadline_s = time.monotonic() + wait_s
            while self._writer is None:
                try:
                    self._ready_writer(wait_s)
                except sqlite3.Error as exc:
                    # Two kernels that make the file at once: SQLite does not wait where it switches to WAL.
                    if not is_locked(exc) or time.monotonic() > deadline_s:
                        raise
                    time.sleep(_RETRY_GAP_S)

    def _ready_writer(self, wait_s: float) -> None:
        connection = self._connect(wait_s)
        try:
            versions = self._upgrade.vet(connection)
            prepare_writer(connection)
            self._teach(connection)
            self._writer = connection
            if versions is None:
                self._create_tables(connection)
            elif self._upgrade.is_due(versions):
                self._dirty = True
                self._upgrade.run(connection, versions)
            self.log_id = file_id(f"{self.path}-wal")
            self._drop_stand_in()
        except BaseException:
            self._writer = self._cache = None
            connection.close()
            raise

    def _connect(self, wait_s: float) -> sqlite3.Connection:
        return connect(self.path, "mode=rw", wait_s)

    def _drop_stand_in(self) -> None:
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is not None:
            stand_in.close()

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another kernel may have been first.
            if self._upgrade.vet(connection) is None:
                self.cache()
                self._upgrade.create(connection)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

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
        self._drop_stand_in()
        if self._lock.acquire(blocking=False):
            try:
                if self._depth == 0 and self._writer is not None:
                    self._writer.close()
                    self._writer = self._cache = None
            finally:
                self._lock.release()


def file_id(path: str) -> FileId | None:
    """Which file a path names; None when there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return (stat.st_dev, stat.st_ino)


class MemoryFile(ConnectionPool):
    """One connection to tables in memory, which threads read and write in turn."""

    def __init__(
        self,
        path: Path,
        functions: Mapping[str, tuple[int, Callable[..., SqlValue]]],
        upgrade: Upgrade,
        timeout_s: float,
    ) -> None:
        super().__init__(path, None, functions, upgrade, timeout_s)

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """See `Database.select`."""
        with self._locked(self._timeout_s):
            rows = self.writer.execute(sql, parameters).fetchall() if self.is_open else []
            if self._closed:  # while this thread had it
                self.close()
            return rows

    def checkpoint(self) -> bool:
        """There is no log."""
        return True

    def _connect(self, wait_s: float) -> sqlite3.Connection:  # noqa: ARG002 - nobody else has it
        return sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False, cached_statements=64)


class InMemoryCopy(MemoryFile):
    """A copy of an older file, brought up to date in memory: the file is read-only, locked or the disk full.

    Args:
        path: The file's, for messages.
        source: A reading connection to the file.
        functions: As for `ConnectionPool`.
        upgrade: The same.

    Raises:
        StoreUnavailableError: The file is too large to be copied into memory.
    """

    def __init__(
        self,
        path: Path,
        source: sqlite3.Connection,
        functions: Mapping[str, tuple[int, Callable[..., SqlValue]]],
        upgrade: Upgrade,
    ) -> None:
        super().__init__(path, functions, upgrade.of_a_copy(), _STAND_IN_WAIT_S)
        self._source = source
        self.open_writer(_STAND_IN_WAIT_S)
        self.writer.execute("PRAGMA query_only=ON")
        upgrade.say(
            f"the completion cache {path} is of an older version and can't be written now:"
            " its answers are served from a copy in memory"
        )

    def _connect(self, wait_s: float) -> sqlite3.Connection:
        (size_bytes,) = self._source.execute(_SIZE).fetchone()
        if size_bytes > _LARGEST_STAND_IN_BYTES:
            raise StoreUnavailableError(
                f"The completion cache {self.path} is of an older version, can't be written now, and is too"
                f" large ({size_bytes / 1e9:.1f} GB) to be brought up to date in memory.",
                "Copy its folder to where it can be written, and point OR_CACHE_DIR there.",
            )
        connection = super()._connect(wait_s)
        self._source.backup(connection)
        return connection
