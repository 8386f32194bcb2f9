"""What a ``cache.db`` of ours may hold and have beside it, and the check that there is nothing else.

A cache folder travels with notebooks and in git, so ``cache.db`` is untrusted input: it may hold planted
triggers, views, or Settings rows that diskcache would obey. Hence the rule: every schema object equals,
text for text, one that this package made, and every Settings row is a known one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.key import KEY_VERSION
from or_cache_magic.errors import NewerStoreError, UnsafeStoreError

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION: Final = 1
"""Number of this layout; a reader refuses a higher one. Every released one keeps a fixture in the tests."""

_STAMP: Final = 1000
"""``user_version`` is one number for the versions of keys and layout: 2001 is keys 2, layout 1."""

APPLICATION_ID: Final = 0x4F52434D
"""``ORCM`` in the file's header (``PRAGMA application_id``), as ``file(1)`` reads it."""

SETTINGS: Final[Mapping[str, int | str]] = {
    "statistics": 0,  # counting in the file would turn every read into a write
    "tag_index": 1,  # the tag is the model: purge by model
    "eviction_policy": "none",  # what was paid for is never dropped silently
    "size_limit": 1 << 62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 4096,
    "sqlite_journal_mode": "wal",
    # A mapped file that is cut short under an open kernel (cp, rsync) kills it by SIGBUS. Hits gain nothing.
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
    "disk_min_file_size": 1 << 62,  # every value inline
    "disk_pickle_protocol": 0,
}
"""diskcache's settings; the file's own values are never obeyed."""

COUNTERS: Final = frozenset({"count", "size", "hits", "misses"})
"""Settings rows that diskcache counts in."""

# diskcache 5.6.3's own statements, as SQLite keeps them; a test compares a freshly made file.
_DISKCACHE: Final = (
    "CREATE TABLE Settings ( key TEXT NOT NULL UNIQUE, value)",
    """CREATE TABLE Cache ( rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL,
     expire_time REAL, access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB,
     size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0, filename TEXT, value BLOB)""",
    "CREATE UNIQUE INDEX Cache_key_raw ON Cache(key, raw)",
    "CREATE INDEX Cache_expire_time ON Cache (expire_time)",
    "CREATE INDEX Cache_tag_rowid ON Cache(tag, rowid)",
    """CREATE TRIGGER Settings_count_insert AFTER INSERT ON Cache FOR EACH ROW BEGIN
     UPDATE Settings SET value = value + 1 WHERE key = "count"; END""",
    """CREATE TRIGGER Settings_count_delete AFTER DELETE ON Cache FOR EACH ROW BEGIN
     UPDATE Settings SET value = value - 1 WHERE key = "count"; END""",
    """CREATE TRIGGER Settings_size_insert AFTER INSERT ON Cache FOR EACH ROW BEGIN
     UPDATE Settings SET value = value + NEW.size WHERE key = "size"; END""",
    """CREATE TRIGGER Settings_size_update AFTER UPDATE ON Cache FOR EACH ROW BEGIN
     UPDATE Settings SET value = value + NEW.size - OLD.size WHERE key = "size"; END""",
    """CREATE TRIGGER Settings_size_delete AFTER DELETE ON Cache FOR EACH ROW BEGIN
     UPDATE Settings SET value = value - OLD.size WHERE key = "size"; END""",
)

# Rows are joined to Cache by rowid: a second copy of the 64-digit key would cost 150 bytes an entry.
# The asked model is Cache.tag. Money is pico-dollars; NULL is unknown. Tags: see `join_tags`.
_TABLES: Final = (
    """CREATE TABLE or_entry (
        id INTEGER PRIMARY KEY, created REAL NOT NULL, expires REAL, served_model TEXT, provider TEXT,
        prompt_tokens INTEGER, completion_tokens INTEGER, cost INTEGER, cost_source TEXT NOT NULL,
        hits INTEGER NOT NULL DEFAULT 0, saved INTEGER NOT NULL DEFAULT 0, last_hit REAL,
        size INTEGER NOT NULL, tags TEXT, notebook TEXT, system BLOB)""",
    "CREATE INDEX or_entry_created ON or_entry (created)",
    # All that the key is made of is in its row, so that a new version of the keys can read it off here.
    """CREATE TABLE or_request (
        id INTEGER PRIMARY KEY, body BLOB NOT NULL, sample INTEGER NOT NULL, stream INTEGER NOT NULL,
        base_url TEXT)""",
    """CREATE TABLE or_unserved (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, model TEXT,
        cost INTEGER, cost_source TEXT NOT NULL, answer BLOB NOT NULL, request BLOB,
        sample INTEGER NOT NULL, stream INTEGER NOT NULL, base_url TEXT)""",
    "CREATE INDEX or_unserved_key ON or_unserved (key)",
    """CREATE TABLE or_ledger (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, session TEXT NOT NULL, notebook TEXT NOT NULL,
        key BLOB NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, asks INTEGER NOT NULL, paid INTEGER,
        paid_source TEXT NOT NULL, value INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
        cached_tokens INTEGER, cache_write_tokens INTEGER, seconds REAL NOT NULL, tags TEXT,
        generation_id TEXT)""",
    # Covers the totals: at 100,000 rows reading the table itself would take several times as long.
    """CREATE INDEX or_ledger_totals ON or_ledger (
        model, kind, asks, paid, value, prompt_tokens, completion_tokens, at, session)""",
    # Who is asking for what now; see `DiskLeases`.
    """CREATE TABLE or_lease (
        key TEXT PRIMARY KEY, token TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
        started REAL NOT NULL, deadline REAL NOT NULL, failure TEXT) WITHOUT ROWID""",
    """CREATE TRIGGER or_entry_delete AFTER DELETE ON Cache FOR EACH ROW BEGIN
        DELETE FROM or_entry WHERE id = OLD.rowid; DELETE FROM or_request WHERE id = OLD.rowid; END""",
    # What a reply did not tell of its ask's money, by the ledger's row; see `Settlements`. `next` is when to
    # ask again, NULL never; `discount` is what the provider's prompt caching took off.
    """CREATE TABLE or_settlement (
        id INTEGER PRIMARY KEY, generation_id TEXT NOT NULL, base_url TEXT, cost INTEGER, cost_source TEXT,
        discount INTEGER, tries INTEGER NOT NULL, next REAL)""",
    "CREATE INDEX or_settlement_next ON or_settlement (next) WHERE next IS NOT NULL",
    "CREATE INDEX or_settlement_generation ON or_settlement (generation_id)",
    # What OpenRouter lists (models, prices), as fetched at that time; see `PriceCatalog`.
    """CREATE TABLE or_listing (
        base_url TEXT NOT NULL, path TEXT NOT NULL, fetched REAL NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (base_url, path)) WITHOUT ROWID""",
)

REPLIES: Final = (
    # Whose answer an entry's request goes on from: 32 bytes of a key, which may be of no entry any more.
    "CREATE TABLE or_reply (id INTEGER PRIMARY KEY, parent BLOB NOT NULL)",
    "CREATE INDEX or_reply_parent ON or_reply (parent)",
    """CREATE TRIGGER or_reply_delete AFTER DELETE ON Cache FOR EACH ROW BEGIN
        DELETE FROM or_reply WHERE id = OLD.rowid; END""",
)
"""Made when the first reply is stored: a file without them is whole."""

MEDIA: Final = (
    # Media of requests and answers by its digest, and which rows hold it: entries, or unserved answers. The
    # bytes of each count in the size of one entry, `bytes`; 0 in the others'. See `media`.
    "CREATE TABLE or_media (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, body BLOB NOT NULL)",
    """CREATE TABLE or_media_use (
        unserved INTEGER NOT NULL, owner INTEGER NOT NULL, media INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (unserved, owner, media)) WITHOUT ROWID""",
    "CREATE INDEX or_media_use_media ON or_media_use (media, unserved, bytes)",
    """CREATE TRIGGER or_media_use_delete AFTER DELETE ON or_media_use FOR EACH ROW BEGIN
        DELETE FROM or_media WHERE id = OLD.media
            AND NOT EXISTS (SELECT 1 FROM or_media_use WHERE media = OLD.media);
        UPDATE or_entry SET size = size + OLD.bytes WHERE OLD.bytes > 0 AND id =
            (SELECT owner FROM or_media_use WHERE media = OLD.media AND unserved = 0
             ORDER BY bytes, owner LIMIT 1);
        UPDATE or_media_use SET bytes = OLD.bytes
            WHERE OLD.bytes > 0 AND media = OLD.media AND unserved = 0 AND owner =
            (SELECT owner FROM or_media_use WHERE media = OLD.media AND unserved = 0
             ORDER BY bytes, owner LIMIT 1);
        END""",
)
"""Made when the first large media is stored, as `REPLIES`."""

BATCHES: Final = (
    # What was submitted to OpenRouter's Batch API; `remote` is its name there, NULL while it isn't known.
    """CREATE TABLE or_batch (
        id INTEGER PRIMARY KEY, marker TEXT NOT NULL, payer TEXT NOT NULL, remote TEXT, base_url TEXT,
        model TEXT NOT NULL, submitted REAL NOT NULL, status TEXT NOT NULL, ended INTEGER NOT NULL,
        checked REAL, error TEXT, total INTEGER NOT NULL, done INTEGER NOT NULL,
        failed INTEGER NOT NULL, cost INTEGER, high INTEGER)""",
    # A row that waits holds the lease of its key, and has its request; see `BatchTable`.
    """CREATE TABLE or_batch_row (
        batch INTEGER NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL, custom_id TEXT NOT NULL,
        state TEXT NOT NULL, error TEXT, cost INTEGER, policy TEXT, request BLOB, sample INTEGER NOT NULL,
        stream INTEGER NOT NULL, base_url TEXT, PRIMARY KEY (batch, position)) WITHOUT ROWID""",
    "CREATE INDEX or_batch_row_key ON or_batch_row (key, batch)",
)
"""Made when the first batch is submitted, as `REPLIES`."""

SKETCHES: Final = (
    # By what the nearest stored request to another is found, 256 rows on a page; see `SketchTable`.
    """CREATE TABLE or_sketch (
        page INTEGER PRIMARY KEY, last INTEGER NOT NULL, sketches BLOB NOT NULL)""",
    """CREATE TRIGGER or_sketch_delete AFTER DELETE ON Cache FOR EACH ROW BEGIN
        DELETE FROM or_sketch WHERE page = OLD.rowid >> 8; END""",
)
"""Made when it is first asked what is nearest, as `REPLIES`."""

PACES: Final = (
    # What the processes of a folder tell each other of a rate limit, by base URL and model; see `sharing`.
    "CREATE TABLE or_pace (place TEXT PRIMARY KEY, word TEXT NOT NULL) WITHOUT ROWID",
)
"""Made when the first limit is met, as `REPLIES`."""

PURGES: Final = (
    # Who removed what, and when; see `purges`. `keys` is how their digests begin, NULL of very many.
    """CREATE TABLE or_purge (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
        entries INTEGER NOT NULL, keys BLOB)""",
)
"""Made at the first purge, as `REPLIES`."""

HAS_BATCHES: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_batch_row'"


_KINDS: Final = (
    (stat.S_ISLNK, "a link to elsewhere"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
)


def vet_files(path: str | os.PathLike[str]) -> None:
    """Do nothing where SQLite may open a file and what it keeps beside it. Opens nothing; about 10 µs.

    A rollback journal can name a file that SQLite then removes, a link leads out of the folder, and a pipe
    never answers. None of them is ours: a new file is begun without a journal (`sqlite.prepare_writer`).

    Raises:
        UnsafeStoreError: One of them is no plain file, or there is a journal.
        OSError: The folder can't be looked at.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        name = f"{os.fspath(path)}{suffix}"
        try:
            found = os.lstat(name)
        except FileNotFoundError:
            continue
        what = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "no file")
        if stat.S_ISREG(found.st_mode):
            if suffix == "-journal":
                what = "a rollback journal, which SQLite would obey"
            elif not suffix or found.st_nlink == 1:
                continue
            else:
                what = "a link to another file"
        raise UnsafeStoreError(
            f"{name} is {what}: not made by or_cache_magic, so nothing was opened.",
            "If the folder came from someone else, take only cache.db out of it; else remove what is named.",
        )


def make_private(path: str | os.PathLike[str]) -> None:
    """Let only their owner read our files, and a group that may write them too; git makes them 0644."""
    for suffix in ("", "-wal", "-shm"):
        name = f"{os.fspath(path)}{suffix}"
        with suppress(OSError):  # another's, or on a mount that is read-only
            mode = stat.S_IMODE(os.stat(name).st_mode)
            allowed = mode & (0o660 if mode & stat.S_IWGRP else 0o600)
            if allowed != mode:
                os.chmod(name, allowed)


def vet(connection: sqlite3.Connection) -> int | None:
    """Return the version of the keys in a file, this code's or an older one; None when it is new and empty.

    Reads the header and the schema, about 0.1 ms; changes nothing.

    Raises:
        NewerStoreError: A newer version of this package wrote the file.
        UnsafeStoreError: It holds a table, index, view, trigger or Settings row that this package
            never writes, or lacks one.
        sqlite3.Error: It can't be read, or is no database.
    """
    # Off: what the file's schema calls may not reach functions with side effects.
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id == APPLICATION_ID:
        refuse_newer(connection)
    (stamp,) = connection.execute("PRAGMA user_version").fetchone()
    objects = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    if not objects and not application_id and not stamp:
        return None
    _vet_objects(objects)
    _vet_settings(connection)
    return int(stamp // _STAMP)


def refuse_newer(connection: sqlite3.Connection) -> None:
    """Raise `NewerStoreError` when a newer version of this package has written the file."""
    (stamp,) = connection.execute("PRAGMA user_version").fetchone()
    keys, layout = divmod(stamp, _STAMP)
    if layout > SCHEMA_VERSION or keys > KEY_VERSION:
        raise NewerStoreError(
            f"The completion cache was written by a newer version (layout {layout}, keys {keys};"
            f" this one reads {SCHEMA_VERSION} and {KEY_VERSION}); it was left untouched.",
            "Update or_cache_magic, or point OR_CACHE_DIR to another folder.",
        )


def create_tables(connection: sqlite3.Connection) -> None:
    """Make our tables in a file that has diskcache's."""
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    set_key_version(connection)


def set_key_version(connection: sqlite3.Connection) -> None:
    """Write into the header that the file's keys are of this code's version."""
    connection.execute(f"PRAGMA user_version={KEY_VERSION * _STAMP + SCHEMA_VERSION}")


def _vet_objects(objects: list[tuple[str, str | None]]) -> None:
    # Without SQL are only the indexes that a UNIQUE makes, of tables whose text is compared.
    found = {" ".join(str(sql).split()): str(name) for name, sql in objects if sql is not None}
    required, *later = _expected()
    for text in found.keys() - required.union(*later):
        raise _unsafe(f"an unknown schema object, {found[text][:60]!r}")
    if not found.keys() >= required or any(found.keys() & some not in (set(), some) for some in later):
        raise _unsafe("only part of the tables of a completion cache")


@cache
def _expected() -> list[frozenset[str]]:
    """Return the statements of every file of ours, then of what is made later: all of one, or none."""
    made = ((*_DISKCACHE, *_TABLES), REPLIES, MEDIA, BATCHES, SKETCHES, PACES, PURGES)
    return [frozenset(" ".join(sql.split()) for sql in statements) for statements in made]


def _vet_settings(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT key, typeof(value), value FROM Settings").fetchall()
    for key, kind, value in rows:
        if key in COUNTERS:
            known = kind == "integer"
        else:
            known = key in SETTINGS and type(value) is type(SETTINGS[key])
        if not known:
            raise _unsafe(f"an unknown setting, {str(key)[:60]!r}")


def _unsafe(found: str) -> UnsafeStoreError:
    return UnsafeStoreError(
        f"cache.db holds {found}: not written by or_cache_magic, so nothing was read from it.",
        "If it came from someone else, delete it, or point OR_CACHE_DIR to a folder of your own.",
    )
