"""Opening ``cache.db``: vetted connections, and the one seam where SQLite's errors become ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from or_cache_magic.errors import StoreBusyError, StoreCorruptError, StoreError, StoreUnavailableError
from or_cache_magic.storage.schema import SETTINGS, vet, vet_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_JOURNAL_LIMIT_BYTES: Final = 1 << 24
_PAGE_BYTES: Final = 1 << 13  # of pages of 4 KB an entry of 2 KB leaves a tenth empty
_MODES: Final = ("mode=rw", "mode=ro", "mode=ro&immutable=1")


class Reader:
    """A vetted connection that only reads, usable by one thread at a time, whichever.

    Attributes:
        connection: The connection.
        keys: The version of the file's keys; None when it is still empty.
        lasting: Whether it sees later changes. An immutable one (read-only mount) does not, and is used once.
        cursor: For `data_version` alone: making one takes as long as asking.
        version: What that was when it was last asked; None before.
    """

    __slots__ = ("connection", "cursor", "keys", "lasting", "version")

    def __init__(self, connection: sqlite3.Connection, keys: int | None, lasting: bool) -> None:
        self.connection = connection
        self.keys = keys
        self.lasting = lasting
        self.cursor = connection.cursor()
        self.version: int | None = None


def connect(path: Path, options: str, timeout_s: float) -> sqlite3.Connection:
    """Open a connection in autocommit mode that any thread may use, one at a time; the file must exist.

    Raises:
        UnsafeStoreError: As `schema.vet_files` says, before SQLite opens anything.
    """
    vet_files(path)
    uri = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(
        uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
    )


def open_reader(path: Path, timeout_s: float) -> Reader:
    """Open a vetted reading connection, by the first way that works.

    A log (WAL) needs a writable folder even to read; where there is none, or no space, or the file is
    locked, the immutable way still reads what was checkpointed. Each value's checksum guards what it finds.

    Raises:
        StoreError: As `schema.vet` says.
        sqlite3.Error: No way works.
    """
    failure: sqlite3.Error | None = None
    for options in _MODES:
        connection = connect(path, options, timeout_s)
        try:
            keys = vet(connection)
            connection.execute("PRAGMA query_only=ON")
            connection.execute(f"PRAGMA mmap_size={SETTINGS['sqlite_mmap_size']}")
        except sqlite3.OperationalError as exc:
            connection.close()
            failure = failure or exc
        except BaseException:
            connection.close()
            raise
        else:
            return Reader(connection, keys, "immutable" not in options)
    assert failure is not None  # noqa: S101 - the loop ran
    raise failure


def prepare_writer(connection: sqlite3.Connection, *, new: bool) -> None:
    """Set what every writing connection needs; on a new, empty file also its page layout and its log.

    Such a file gets its log (WAL) without a rollback journal: there is nothing to roll back to, and a journal
    beside a file is never ours.
    """
    if new and connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]:
        connection.execute("PRAGMA journal_mode=off").fetchall()
    connection.execute(f"PRAGMA page_size={_PAGE_BYTES}").fetchall()
    for name in ("auto_vacuum", "journal_mode", "synchronous", "cache_size", "mmap_size"):
        connection.execute(f"PRAGMA {name}={SETTINGS['sqlite_' + name]}").fetchall()
    connection.execute(f"PRAGMA journal_size_limit={_JOURNAL_LIMIT_BYTES}").fetchall()


def set_wait(connection: sqlite3.Connection, wait_s: float) -> None:
    """Let a connection wait this long for another's lock."""
    connection.execute(f"PRAGMA busy_timeout={max(0, round(wait_s * 1000))}").fetchall()


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors, and of text that it can't take (a lone surrogate), as `StoreError`."""
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError) as exc:
        raise store_error(exc, path) from exc


def store_error(exc: sqlite3.Error | OSError | UnicodeEncodeError, path: Path) -> StoreError:
    """Return what SQLite or the system says about the file, as an error of ours with a hint.

    SQLite's codes are only on its exceptions from Python 3.11 on; its messages are stable
    (sqlite3ErrStr in SQLite's main.c).
    """
    text = str(exc)
    if is_damage(exc):
        return StoreCorruptError(
            f"The completion cache {path} is damaged ({text}).",
            "Rename it, or restore it from a copy; a new one is made at the next answer.",
        )
    for sign, kind, what, hint in _UNAVAILABLE:
        if sign in text:
            return kind(f"The completion cache {path} {what} ({text}).", hint)
    return StoreUnavailableError(f"The completion cache {path} can't be used ({text}).", _ELSEWHERE)


_ELSEWHERE = "Point OR_CACHE_DIR to another folder, or go on without keeping answers."
_UNAVAILABLE = (
    (
        "locked",
        StoreBusyError,
        "is locked by another program",
        "Try again when the other notebook or program has finished.",
    ),
    (
        "disk is full",
        StoreUnavailableError,
        "can't grow: the disk is full",
        "Free some space, or purge entries.",
    ),
    ("readonly", StoreUnavailableError, "is read-only", _ELSEWHERE),
    ("unable to open", StoreUnavailableError, "can't be opened", _ELSEWHERE),
)


def is_damage(exc: Exception) -> bool:
    """Return whether the file is no database, or a damaged one."""
    text = str(exc)
    return type(exc) is sqlite3.DatabaseError or "malformed" in text or "not a database" in text


def is_locked(exc: sqlite3.Error) -> bool:
    """Return whether another connection holds the lock that was needed."""
    return isinstance(exc, sqlite3.OperationalError) and "locked" in str(exc)
