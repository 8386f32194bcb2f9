"""`Database`: one cache.db for all threads of this kernel, beside other kernels with the same file.

Nothing is created or opened before it is needed: constructing does no I/O, and reading makes no file.
Reads never need the write lock. Before each use a stat notices that the file was deleted or replaced
(a git checkout); a fork begins with connections of its own.
"""

from __future__ import annotations

import atexit
import os
import re
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.project import current_folder
from or_cache_magic.core.settings import MEMORY
from or_cache_magic.errors import StoreBusyError, StoreCorruptError, StoreError
from or_cache_magic.storage.connections import ConnectionPool, FileId, MemoryPool, file_id
from or_cache_magic.storage.schema import vet_files
from or_cache_magic.storage.sqlite import is_damage, sqlite_errors, store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from or_cache_magic.storage.diskcache_adapter import StrictCache

_MOUNTS: Final = Path("/proc/self/mountinfo")

_REMOTE: Final = (
    "9p|afs|beegfs|ceph|cifs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|panfs|smb3|smbfs|vboxsf"
    # A plain "fuse" is how Colab mounts Google Drive.
    r"|fuse(\.(blobfuse2|ceph|davfs2|gcsfuse|glusterfs|goofys|juicefs|mount-s3|rclone|s3fs|sshfs))?"
)


def network_file_system(path: str | os.PathLike[str], mounts: str | None = None) -> str | None:
    """Return the type of the network file system that a folder is on; None if it is local or unknown.

    Linux tells in its mount table, Windows in the path. On other systems the answer is None.

    Args:
        path: The folder; it need not exist yet.
        mounts: A mount table in the form of ``/proc/self/mountinfo``; None reads the system's.
    """
    real = os.path.realpath(path)
    if real.startswith("\\\\"):
        return "a network share"
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    found, found_at = "", ""
    for line in mounts.splitlines():
        # See proc(5): the number of fields before the dash varies.
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5:  # noqa: PLR2004 - the mount point is the fifth
            continue
        point = _unescaped(fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one covers the earlier.
        if inside and len(point) >= len(found_at):
            found, found_at = kinds[0], point
    return found if re.fullmatch(_REMOTE, found) else None


def _unescaped(field: str) -> str:
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, char)
    return field


_BUSY_FOR_S: Final = 30.0
"""How long a lock that was waited for in vain is taken to be still held, unless a write succeeds."""

_SHORT_WAIT_S: Final = 0.05


class FaultLog:
    """The faults of one database, as one kernel met them. Thread-safe: it only remembers.

    Args:
        patience_s: The longest that a write waits for another's lock.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._busy_until_s = 0.0
        self._told: set[str] = set()
        #: What the user should know, not told yet.
        self.notices: list[str] = []

    @property
    def patience_s(self) -> float:
        """How long a write may wait now: a lock that did not come free just before won't cost it twice."""
        if time.monotonic() < self._busy_until_s:
            return min(_SHORT_WAIT_S, self._patience_s)
        return self._patience_s

    def met(self, failure: StoreError, waited_s: float) -> None:
        """Note a failed write; ``waited_s`` is how long it would have waited for a lock."""
        if isinstance(failure, StoreCorruptError):
            return  # the next write sets the file aside, and tells
        if isinstance(failure, StoreBusyError):
            if waited_s < self._patience_s:
                return  # it gave up early on purpose
            self._busy_until_s = time.monotonic() + _BUSY_FOR_S
        message = str(failure.args[0])
        self.tell(f"{message} {failure.hint}", about=message.partition(" (")[0])

    def over(self) -> None:
        """Note a write that succeeded."""
        self._busy_until_s = 0.0

    def tell(self, notice: str, *, about: str = "") -> None:
        """Keep a notice for the user; what it is about is told only once."""
        if about:
            if about in self._told:
                return
            self._told.add(about)
        self.notices.append(notice)


FILE_NAME: Final = "cache.db"

# Closing a parent's connection in a forked child would touch the parent's log ("How To Corrupt An SQLite
# Database File", "Carrying an open database across a fork"): they are kept here, alive and unused.
_OF_PARENTS: Final[list[ConnectionPool]] = []


class _Own(threading.local):
    """What belongs to one thread."""

    file: ConnectionPool | None = None


_SIZE: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


class Database:
    """The file ``cache.db`` in a folder. Thread-safe, and safe to use after a fork.

    Args:
        directory: The cache folder; made at the first write, mode 0700, with a ``.gitignore`` of ``*``.
        timeout_s: The longest that a write waits for another's lock.
    """

    def __init__(self, directory: str | os.PathLike[str], *, timeout_s: float = 5.0) -> None:
        self.directory = Path(directory)
        if not self.directory.is_absolute() and os.fspath(directory) != MEMORY:
            self.directory = current_folder() / self.directory
        self.path = self.directory / FILE_NAME
        self.timeout_s = timeout_s
        self._path_text = os.fspath(self.path)
        self._faults = FaultLog(timeout_s)
        self._file = self._paused = self._not_open(None)
        self._switching = threading.Lock()
        self._own = _Own()
        self._at_exit: Callable[[], None] | None = None
        self._located = False
        self._writes = 0

    def __repr__(self) -> str:
        return f"Database({os.fspath(self.directory)!r})"

    def exists(self) -> bool:
        """Return whether there is a file."""
        return os.path.exists(self._path_text)

    def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a SELECT, as tuples; none when there is no file or it is still empty.

        Inside a transaction of this thread it sees what the transaction wrote.

        Raises:
            StoreError: The file can't be read, is damaged, unsafe or newer.
        """
        return self.read(sql, parameters)[0]

    def read(self, sql: str, parameters: Sequence[Any]) -> tuple[list[Any], object | None]:
        """Return the rows as `select` does, and the `state` in which they were read, or that ended meanwhile.

        Raises:
            StoreError: As `select`.
        """
        inside = self._in_transaction()
        try:
            file, written = (inside, None) if inside else self._found()
            rows, state = ([], None) if file is None else file.read(sql, parameters)
        except (sqlite3.Error, OSError, UnicodeEncodeError) as exc:
            raise store_error(exc, self.path) from exc
        return rows, state and (state, written)

    def state(self) -> object | None:
        """Return a value that changes when any answer is changed, or the file is replaced.

        Between two equal states no answer has changed: what was read in the first still stands in the second.
        Unequal ones may have nothing between them. None, where nobody can tell: while a
        transaction of this process changes answers, before the first `select`, on a read-only mount. A stat
        and 2 µs.

        Raises:
            StoreError: The file can't be looked at.
        """
        try:
            file, written = self._found()
        except OSError as exc:
            raise store_error(exc, self.path) from exc
        state = file and file.state()
        return state and (state, written)

    @contextmanager
    def transaction(
        self, *, wait_s: float | None = None, changes_answers: bool = True, joins: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """Open a write transaction, all or nothing; makes the folder and the file when there is none.

        Reentrant in a thread: an inner one that raises undoes what it did itself, and the outer one may go
        on. Other threads wait.

        Args:
            wait_s: How long to wait for another's lock; None is `patience_s`.
            changes_answers: Whether an entry may be served otherwise after it, or no more: all that this
                process holds decoded is then read again.
            joins: Whether an inner one is a part of the outer one, which undoes it too: whoever opened that
                lets its errors pass.

        Raises:
            StoreBusyError: Locked for longer than that.
            StoreUnavailableError: Read-only, full, or gone.
            StoreError: As `select`. A damaged file is set aside before the next transaction, and a new
                one is begun. Each kind of fault is told once (`pop_notices`).
        """
        inside = self._in_transaction()
        if inside is not None and joins:
            with sqlite_errors(self.path):
                yield inside.joined(changes_answers=changes_answers)
            return
        if inside is not None:
            with (
                sqlite_errors(self.path),
                inside.transaction(wait_s, changes_answers=changes_answers) as connection,
            ):
                yield connection
            return
        wait_s = self.patience_s if wait_s is None else wait_s
        try:
            with sqlite_errors(self.path):
                file = self._writable(wait_s)
                with file.transaction(wait_s, changes_answers=changes_answers) as connection:
                    self._own.file = file
                    yield connection
        except StoreError as exc:
            self._faults.met(exc, wait_s)
            raise
        else:
            self._writes += 1
            self._faults.over()
        finally:
            self._own.file = None

    @property
    def patience_s(self) -> float:
        """The longest that a write waits now: ``timeout_s``, or hardly at all after it waited in vain."""
        return self._faults.patience_s

    def cache(self) -> StrictCache:
        """Diskcache on the transaction's connection; only inside a `transaction`."""
        file = self._in_transaction()
        assert file is not None  # noqa: S101 - said above
        return file.cache()

    def version(self) -> object:
        """Return a value that changes when this kernel or another has written; two stats, about 4 µs."""
        return self._writes, *map(_stamp, (self._path_text, f"{self._path_text}-wal"))

    def size_bytes(self) -> int:
        """Return how large the file and its log are, the most that is in them; 0 when there is none."""
        stamps = map(_stamp, (self._path_text, f"{self._path_text}-wal"))
        return sum(stamp[-1] for stamp in stamps if stamp is not None)

    def checkpoint(self) -> bool:
        """Move the log into ``cache.db``, so that a copy has everything; return whether all of it was moved.

        Waits at most a tenth of a second for other kernels; never raises.
        """
        return self._file.pid != os.getpid() or self._file.checkpoint()

    def pause(self, until_s: float) -> None:
        """Let no thread be inside SQLite until `resume`; waits until a monotonic time at most."""
        self._paused = self._file
        self._paused.pause(until_s)

    def resume(self) -> None:
        """End a `pause`."""
        self._paused.resume()

    def close(self) -> None:
        """Checkpoint and close every connection; the next use opens again."""
        self.checkpoint()
        self._leave(self._file)
        self._file = self._not_open(None)
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None

    def tell(self, notice: str) -> None:
        """Keep a line for `pop_notices`."""
        self._faults.tell(notice)

    def pop_notices(self) -> tuple[str, ...]:
        """Return, once, what happened to the file that the user should know (it was set aside)."""
        notices, self._faults.notices = tuple(self._faults.notices), []
        return notices

    def _not_open(self, of: FileId | None) -> ConnectionPool:
        return ConnectionPool(self.path, of, self.timeout_s, self._faults.tell)

    def _in_transaction(self) -> ConnectionPool | None:
        """Return the file of this thread's transaction, also when the path names another now."""
        file = self._own.file
        return file if file is not None and file.pid == os.getpid() else None

    def _current(self) -> ConnectionPool | None:
        """Return the connections to the file that the path names now; None when it names none."""
        return self._found()[0]

    def _found(self) -> tuple[ConnectionPool | None, object]:
        """Return the same, and what shows that the file was written past SQLite (`cp` over an open file)."""
        try:
            found = os.stat(self._path_text)
        except FileNotFoundError:
            now, written = None, None
        else:
            now, written = (found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_size)
        file = self._file
        if now != file.file_id or file.pid != os.getpid() or file.suspect:
            return self._switch(now), written
        return (file if now else None), written

    def _switch(self, now: FileId | None) -> ConnectionPool | None:
        # In a forked child the parent's lock may be held by a thread that does not exist here.
        with self._switching if self._file.pid == os.getpid() else nullcontext():
            file = self._file
            if file.pid == os.getpid():
                same = file.file_id == now
                if same and (file.damaged or not file.suspect):  # another thread was first
                    return file if now else None
                if now and not same and file.log_id and file.log_id == file_id(f"{self._path_text}-wal"):
                    # The log of the file that was replaced would be laid over the new one.
                    self._remove_log()
            else:
                self._switching = threading.Lock()
            self._leave(file)
            self._file = self._not_open(now)
            self._close_at_exit()
            return self._file if now else None

    @staticmethod
    def _leave(file: ConnectionPool) -> None:
        if file.pid == os.getpid():
            file.close()
        else:
            _OF_PARENTS.append(file)

    def _remove_log(self) -> None:
        for suffix in ("-wal", "-shm"):
            with suppress(OSError):
                os.unlink(self._path_text + suffix)

    def _writable(self, wait_s: float) -> ConnectionPool:
        """Return the connections to a file that can be written: made when missing, set aside when damaged."""
        self._warn_of_network()
        try:
            file = self._current() or self._create()
            if not file.damaged:
                try:
                    file.open_writer(wait_s)
                except sqlite3.DatabaseError as exc:
                    if not is_damage(exc):
                        raise
                else:
                    return file
            self._set_aside(file)
            file = self._current() or self._create()
            file.open_writer(wait_s)
        except OSError as exc:
            raise store_error(exc, self.path) from exc
        return file

    def _create(self) -> ConnectionPool:
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), (self.directory / ".gitignore").open("x") as ignore:
                ignore.write("*\n")
        vet_files(self._path_text)
        # Prompts are plain text: for the user's eyes only, also in a folder that was there before.
        os.close(os.open(self._path_text, os.O_RDWR | os.O_CREAT, 0o600))
        file = self._current()
        if file is None:
            raise FileNotFoundError(self._path_text)
        return file

    def _warn_of_network(self) -> None:
        if self._located:
            return
        self._located = True
        kind = network_file_system(self.directory)
        if kind is not None:
            self._faults.tell(
                f"The completion cache {self.path} is on a network file system ({kind}), where two programs"
                " that write at once can damage it. Set OR_CACHE_DIR to a folder on this machine."
            )

    def _set_aside(self, file: ConnectionPool) -> None:
        """Rename a damaged file, with its log, so that nothing is lost; unless another kernel just did."""
        if file_id(self._path_text) != file.file_id:
            return
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.path.with_name(f"{FILE_NAME}.corrupt-{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{FILE_NAME}.corrupt-{stamp}-{number}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(self._path_text + suffix).rename(f"{aside}{suffix}")
        self._faults.tell(f"{self.path} was damaged: set aside as {aside.name}, and a new one was begun")

    def _close_at_exit(self) -> None:
        if self._at_exit is None:
            this = weakref.ref(self)

            def close() -> None:
                database = this()
                if database is not None:
                    database.close()

            self._at_exit = close
            atexit.register(close)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Return a file's inode, time and size; None when it is empty (a log just begun) or missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found.st_size else None


def open_database(directory: str | os.PathLike[str]) -> Database:
    """Return the database in a folder, or one in memory when the folder is called `MEMORY`."""
    return MemoryDatabase() if os.fspath(directory) == MEMORY else Database(directory)


class MemoryDatabase(Database):
    """A `Database` that writes nothing to disk, shared by the threads of this process.

    Closing it forgets everything. A forked child begins with an empty one: SQLite forbids it its parent's.
    """

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        super().__init__(MEMORY, timeout_s=timeout_s)
        self.directory = self.path = Path(MEMORY)

    def __repr__(self) -> str:
        return "MemoryDatabase()"

    def exists(self) -> bool:
        """Return whether anything was written."""
        file = self._file
        return file.pid == os.getpid() and file.is_open

    def size_bytes(self) -> int:
        """See `Database.size_bytes`."""
        ((size_bytes,),) = self.select(_SIZE) or ((0,),)
        return int(size_bytes)

    def _not_open(self, of: FileId | None) -> ConnectionPool:  # noqa: ARG002 - there is one only
        return MemoryPool(Path(MEMORY), None, self.timeout_s, self._faults.tell)

    def _found(self) -> tuple[ConnectionPool, None]:
        if self._file.pid != os.getpid():
            self._leave(self._file)
            self._file = self._not_open(None)
        return self._file, None

    def _writable(self, wait_s: float) -> ConnectionPool:
        file, _ = self._found()
        file.open_writer(wait_s)
        self._close_at_exit()
        return file
