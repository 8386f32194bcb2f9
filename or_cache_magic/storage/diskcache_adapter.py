"""diskcache with everything taken out that trusts the file: the only module that imports it.

diskcache unpickles values and keys, follows file names, and obeys Settings rows, all as the file says
(CVE-2025-69872 and its neighbours; JSONDisk closes none of them). Here keys are text and values are
bytes, inline, or they are refused.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from diskcache import Cache, Disk
from diskcache.core import ENOVAL, MODE_RAW

from or_cache_magic.errors import UnsafeStoreError
from or_cache_magic.storage.schema import COUNTERS, SETTINGS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator


class StrictDisk(Disk):  # type: ignore[misc]
    """Text keys, bytes values, no files, no pickles, whatever a row says of itself."""

    def put(self, key: object) -> tuple[str, bool]:
        """Return the key as it is stored; only text is taken."""
        if type(key) is not str:
            raise TypeError(f"a key must be a str, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Return the key of a row; a pickled one is refused unread."""
        if not raw or type(key) is not str:
            raise _refused("a key that is not text")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, bytes]:  # noqa: ARG002
        """Return the columns of a value; only bytes are taken. Size is 0: diskcache counts files there."""
        if read or type(value) is not bytes:
            raise TypeError(f"a value must be bytes, not {type(value).__name__}")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        """Return the value of a row; a pickle, a text or a file name is refused unread."""
        if read or mode != MODE_RAW or filename is not None or type(value) is not bytes:
            raise _refused("a value that is not inline bytes")
        return value

    def filename(self, key: object = None, value: object = None) -> NoReturn:  # noqa: ARG002
        """Nothing is kept in files."""
        raise _refused("a value in a file")

    def remove(self, file_path: object) -> None:
        """Nothing: a file name in a row names a file that is not ours to delete."""


class StrictCache(Cache):  # type: ignore[misc]
    """A `diskcache.Cache` on a connection and a transaction of ours, with settings that can't be changed.

    Never waits longer than the transaction it is given; ``retry=True`` changes nothing.

    Args:
        directory: The cache folder; must exist.
        connection: An open, vetted connection in autocommit mode.
        transaction: Opens a (reentrant) write transaction on that connection.
    """

    def __init__(
        self,
        directory: str,
        connection: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        # diskcache expands ~ and $NAME in the folder's name and makes the folder it then gets.
        super().__init__(os.curdir, disk=StrictDisk, **SETTINGS)
        self._directory = directory

    @property
    def _con(self) -> sqlite3.Connection:
        return self._connection

    @property
    def _sql_retry(self) -> Any:
        # diskcache's own retries for 60 s; the connection's busy timeout is the only wait here.
        return self._connection.execute

    @contextmanager
    def _transact(self, retry: bool = False, filename: object = None) -> Iterator[tuple[Any, Any]]:  # noqa: ARG002
        # It is used inside a transaction only. The function is what diskcache then calls with the file of a
        # row that it removed: no row of ours has one.
        yield self._connection.execute, lambda _filename: None

    def transact(self, retry: bool = False) -> Any:  # noqa: ARG002
        """Return a transaction of ours, reentrant in a thread."""
        return self._transaction()

    def reset(self, key: str, value: Any = ENOVAL, update: bool = True) -> Any:
        """Our value of a setting, whatever the file or the caller says; counters are read from the file."""
        if key in COUNTERS:
            return super().reset(key, value, update)
        if key not in SETTINGS:
            raise _refused(f"an unknown setting, {key[:60]!r}")
        # The pragmas are set when the connection is opened.
        setattr(self, key, SETTINGS[key])
        return SETTINGS[key]

    def check(self, fix: bool = False, retry: bool = False) -> NoReturn:
        """Not offered: diskcache's deletes every file in the folder that it does not know."""
        raise NotImplementedError("use PRAGMA integrity_check")

    def close(self) -> None:
        """Nothing: the connection belongs to the `Database`."""


def _refused(what: str) -> UnsafeStoreError:
    return UnsafeStoreError(
        f"cache.db holds {what}: not written by or_cache_magic, so it was not read.",
        "If the file came from someone else, delete it.",
    )
