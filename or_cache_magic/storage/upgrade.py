"""`Upgrade`: an older file is brought to the layout and the keys that this code writes.

The layout changes in one transaction. The keys are read off the stored requests, batch by batch, each a
transaction of its own, so that other kernels read and write in between; the file's stamp changes with the
last. An entry that has its new key already is passed over: killed in the middle, the next opening goes on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from or_cache_magic.core.key import KEY_VERSION
from or_cache_magic.storage import schema
from or_cache_magic.storage.schema import Layout, Versions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

__all__ = ["Rekey", "Upgrade"]


class Rekey(Protocol):
    """Gives stored requests the keys of this code. It runs inside a transaction and never begins one."""

    #: The version of the keys that it gives.
    version: int
    #: Where there is something to give keys to.
    tables: tuple[str, ...]

    def batch(self, connection: sqlite3.Connection, table: str, after: int) -> tuple[int | None, int, int]:
        """Re-key the next rows of a table.

        Args:
            connection: The transaction's.
            table: One of `tables`.
            after: The id of the last row that was done; 0 at the beginning.

        Returns:
            The id of the last row that is done now (None: there were no more), how many rows got another
            key, and how many could not, because their request can't be read.
        """


class Upgrade:
    """What a file should be written in, and the way there. One for all connections of a `Database`.

    Args:
        layout: The layout that the code reads and writes.
        say: Takes a line that the user should be told.
    """

    def __init__(self, layout: Layout, say: Callable[[str], None]) -> None:
        #: Gives keys; None leaves them as they are, in a database whose entries nobody reads.
        self.rekey: Rekey | None = None
        #: Takes a line that the user should be told.
        self.say = say
        self._layout = layout

    def of_a_copy(self) -> Upgrade:
        """The same for a copy, about which its maker tells."""
        copy = Upgrade(self._layout, lambda _line: None)
        copy.rekey = self.rekey
        return copy

    @property
    def versions(self) -> Versions:
        """What the code reads and writes."""
        return Versions(self._layout.version, KEY_VERSION if self.rekey is None else self.rekey.version)

    def vet(self, connection: sqlite3.Connection) -> Versions | None:
        """See `schema.vet`."""
        return schema.vet(connection, self._layout, self.versions.keys)

    def is_due(self, found: Versions | None) -> bool:
        """Whether a file is older than the code; an empty one is not."""
        if found is None:
            return False
        keys = self.rekey is not None and found.keys < self.rekey.version
        return keys or found.layout < self._layout.version

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise `NewerStoreError` when a newer kernel has changed the file since it was opened."""
        if connection.execute("PRAGMA user_version").fetchone() > (self.versions.stamp,):
            self.vet(connection)

    def create(self, connection: sqlite3.Connection) -> None:
        """Make our tables in a file that has diskcache's."""
        for statement in self._layout.tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
        _stamp(connection, self.versions)

    def run(self, connection: sqlite3.Connection, found: Versions) -> None:
        """Bring an older file up to date, and say so once.

        Raises:
            UnsafeStoreError: After its migration the file is not what the next layout looks like.
            sqlite3.Error: It can't be written; what was done by then is kept, and the next run goes on.
        """
        began_s = time.monotonic()
        for version in range(found.layout, self._layout.version):
            self._migrate(connection, found._replace(layout=version))
        changed = lost = 0
        if self.rekey is not None and found.keys < self.rekey.version:
            changed, lost = self._rekey_all(connection, self.rekey)
        took_s = time.monotonic() - began_s
        left = f"; {lost:,} could not be read and stay unserved" if lost else ""
        self.say(
            "the completion cache was of an older version and was brought up to date"
            f" ({changed:,} entries re-keyed, {took_s:.1f} s); nothing was bought again{left}"
        )

    def _migrate(self, connection: sqlite3.Connection, found: Versions) -> None:
        with _Immediate(connection):
            # Another kernel may have been first.
            (stamp,) = connection.execute("PRAGMA user_version").fetchone()
            if stamp != found.stamp:
                return
            for statement in self._layout.earlier[found.layout].migration:
                connection.execute(statement)
            reached = found.layout + 1
            after = self._layout.earlier.get(reached)
            objects = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
            schema.vet_objects(objects, self._layout.tables if after is None else after.tables)
            _stamp(connection, found._replace(layout=reached))

    def _rekey_all(self, connection: sqlite3.Connection, rekey: Rekey) -> tuple[int, int]:
        done = dict.fromkeys(rekey.tables, 0)
        changed = lost = 0
        more = True
        while more:
            with _Immediate(connection):
                more = False
                for table in rekey.tables:
                    last, of_these, not_read = rekey.batch(connection, table, done[table])
                    changed, lost = changed + of_these, lost + not_read
                    if last is not None:
                        done[table], more = last, True
                        break
                if not more:
                    _stamp(connection, self.versions)
        return changed, lost


class _Immediate:
    """A write transaction on a connection in autocommit mode."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        # A full disk may have rolled back already.
        if self._connection.in_transaction:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _stamp(connection: sqlite3.Connection, versions: Versions) -> None:
    connection.execute(f"PRAGMA user_version={versions.stamp}")
