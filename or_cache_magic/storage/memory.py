"""The same database in memory: for one process, and as a copy of an older file that can't be written."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.settings import MEMORY
from or_cache_magic.errors import StoreUnavailableError
from or_cache_magic.storage.connections import OpenFile, SqlValue
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.schema import LAYOUT, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from or_cache_magic.storage.connections import FileId
    from or_cache_magic.storage.upgrade import Upgrade

__all__ = ["MemoryDatabase", "StandIn", "open_database"]

_LARGEST_STAND_IN_BYTES: Final = 1 << 29
_STAND_IN_WAIT_S: Final = 60.0
_SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


def open_database(directory: str | os.PathLike[str]) -> Database:
    """The database in a folder, or one in memory when the folder is called `MEMORY`."""
    return MemoryDatabase() if os.fspath(directory) == MEMORY else Database(directory)


class MemoryDatabase(Database):
    """A `Database` that writes nothing to disk, shared by the threads of this process.

    Closing it forgets everything. A forked child begins with an empty one: SQLite forbids it its parent's.
    """

    def __init__(self, *, timeout_s: float = 5.0, layout: Layout = LAYOUT) -> None:
        super().__init__(MEMORY, timeout_s=timeout_s, layout=layout)
        self.directory = self.path = Path(MEMORY)

    def __repr__(self) -> str:
        return "MemoryDatabase()"

    def exists(self) -> bool:
        """Whether anything was written."""
        file = self._file
        return file.pid == os.getpid() and file.is_open

    def _not_open(self, of: FileId | None) -> OpenFile:  # noqa: ARG002 - there is one only
        return MemoryFile(Path(MEMORY), self._functions, self._upgrade, self.timeout_s)

    def _current(self) -> OpenFile:
        if self._file.pid != os.getpid():
            self._leave(self._file)
            self._file = self._not_open(None)
        return self._file

    def _writable(self, wait_s: float) -> OpenFile:
        file = self._current()
        file.open_writer(wait_s)
        self._close_at_exit()
        return file


class MemoryFile(OpenFile):
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


class StandIn(MemoryFile):
    """A copy of an older file, brought up to date in memory: the file is read-only, locked or the disk full.

    Args:
        path: The file's, for messages.
        source: A reading connection to the file.
        functions: As for `OpenFile`.
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
