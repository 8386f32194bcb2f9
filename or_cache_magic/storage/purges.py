"""Who removed which entries, and when: a row a purge, and only the last hundred of them.

What is removed must be gone: of prompts, systems and texts that a purge was limited to only that it was, and
of keys only how they begin, is kept. The file may come from a stranger; what it tells is shown, nothing more.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.records import NamedTuple
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.storage.columns import as_columns, check_row, column_types
from or_cache_magic.storage.schema import PURGES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from or_cache_magic.core.rows import EntryFilter
    from or_cache_magic.storage.database import Database

_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_purge'"
_PUT: Final = "INSERT INTO or_purge (at, who, what, entries, keys) VALUES (?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM or_purge WHERE id <= (SELECT max(id) FROM or_purge) - ?"
_READ: Final = "SELECT at, who, what, entries, keys FROM or_purge WHERE at >= ? ORDER BY id DESC LIMIT ?"
_TYPES: Final = column_types("float str str int bytes?")
_KEPT: Final = 100
_MOST_KEYS: Final = 1000
_KEY_BYTES: Final = 4
_LONGEST: Final = 200


class PurgeRow(NamedTuple):
    """A purge.

    Attributes:
        at_s: When.
        who: The user and the machine.
        what: Which entries, as its options.
        entries: How many went.
        sure: Whether the key that was looked for is known to be among them; else it may be.
    """

    at_s: float
    who: str
    what: str
    entries: int
    sure: bool


def note_purge(connection: sqlite3.Connection, what: str, entries: int, keys: Sequence[str] | None) -> None:
    """Note a purge in its own transaction; one that removed nothing is none.

    Args:
        connection: With the open transaction.
        what: Which entries.
        entries: How many went.
        keys: Theirs; None is all.
    """
    if not entries:
        return
    if not connection.execute(_HAS_TABLE).fetchall():
        for statement in PURGES:
            connection.execute(statement)
    begin = b"" if keys is None else b"".join(bytes.fromhex(key[: 2 * _KEY_BYTES]) for key in keys)
    few = keys is not None and len(keys) <= _MOST_KEYS
    row = (time.time(), _who(), what[:_LONGEST], entries, begin if few else None)
    connection.execute(_PUT, as_columns(row))
    connection.execute(_FORGET, (_KEPT,))


def purges_of(database: Database, digest: str, since_s: float) -> list[PurgeRow]:
    """Return the purges that removed a key's entry, or may have, the newest first; damaged rows left out.

    Args:
        database: Where they are noted.
        digest: The key.
        since_s: Only those at or after this time, when there was an entry.

    Raises:
        StoreError: The file can't be read.
    """
    if not database.select(_HAS_TABLE):
        return []
    found, begin = [], bytes.fromhex(digest[: 2 * _KEY_BYTES])
    for row in database.select(_READ, (since_s, _KEPT)):
        with suppress(StoreCorruptError):
            check_row("a purge", _TYPES, row, row[0], amounts=(row[3],))
            at_s, who, what, entries, keys = row
            some = (
                [] if keys is None else [keys[at : at + _KEY_BYTES] for at in range(0, len(keys), _KEY_BYTES)]
            )
            if keys is None or begin in some:
                found.append(PurgeRow(at_s, who, what, entries, sure=keys is not None or what == _ALL))
    return found


_ALL: Final = "--all"


def described(wanted: EntryFilter) -> str:
    """Return a filter as the options of a purge, without what may be in a prompt."""
    named = [("--model", wanted.model), ("--tag", wanted.tag)]
    told = [f"{option} {value}" for option, value in named if value]
    hidden: list[tuple[str, Any]] = [
        ("KEY", wanted.keys or None),
        ("TEXT", wanted.text or None),
        ("--system", wanted.system),
        ("--prefix", wanted.prefix or None),
        ("--older", wanted.created_before_s),
        ("--since", wanted.created_after_s),
        ("--expired", wanted.expired_at_s),
        ("--to-fit", wanted.to_fit_bytes),
    ]
    return " ".join([*(name for name, value in hidden if value is not None), *told]) or _ALL


def _who() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for this user
        user = "someone"
    return f"{user} on {socket.gethostname()}"


_BOUGHT: Final = "SELECT max(at) FROM or_ledger WHERE key = ? AND at < ? AND kind IN ('miss', 'refresh')"


def bought_at(database: Database, digest: str, before_s: float) -> float | None:
    """Return when a key was last bought before a time, as far as the ledger tells; None if never.

    Raises:
        StoreError: The file can't be read.
    """
    for (at_s,) in database.select(_BOUGHT, (bytes.fromhex(digest), before_s)):
        return float(at_s) if isinstance(at_s, (int, float)) else None
    return None
