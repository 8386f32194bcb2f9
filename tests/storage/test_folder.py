"""A cache folder from a stranger: what SQLite would open or obey beside ``cache.db`` is looked at before."""

from __future__ import annotations

import ctypes
import os
import socket
import sqlite3
import struct
import sys
from contextlib import closing

import pytest

from or_cache_magic import cli
from or_cache_magic.errors import UnsafeStoreError
from or_cache_magic.storage.database import Database

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes as Unix has them")

_MAGIC = bytes.fromhex("d9d505f920a163d7")


def hot_journal(database, victim):
    """A rollback journal of no pages, whose super-journal is another file (SQLite's "File Format", 3)."""
    page_bytes, _ = struct.unpack(">HB", database.read_bytes()[16:19])
    pages = database.stat().st_size // page_bytes
    name = os.fsencode(victim)
    header = _MAGIC + struct.pack(">IIIII", 0, 0, pages, 512, page_bytes)
    place = struct.pack(">I", (1 << 30) // page_bytes + 1)
    return header.ljust(512, b"\0") + place + name + struct.pack(">II", len(name), sum(name)) + _MAGIC


def a_journal(path, elsewhere):
    path.with_name("cache.db-journal").write_bytes(hot_journal(path, elsewhere))


def an_empty_journal(path, _elsewhere):
    path.with_name("cache.db-journal").touch()


def a_link(suffix=""):
    def plant(path, elsewhere):
        name = path.with_name(f"cache.db{suffix}")
        name.unlink(missing_ok=True)
        name.symlink_to(elsewhere)

    return plant


def a_dangling_link(path, elsewhere):
    path.unlink()
    path.symlink_to(elsewhere.with_name("not-there"))


def a_pipe(suffix=""):
    def plant(path, _elsewhere):
        name = path.with_name(f"cache.db{suffix}")
        name.unlink(missing_ok=True)
        os.mkfifo(name)

    return plant


def a_directory(suffix=""):
    def plant(path, _elsewhere):
        name = path.with_name(f"cache.db{suffix}")
        name.unlink(missing_ok=True)
        name.mkdir()

    return plant


def a_socket(path, _elsewhere):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))  # a socket's whole path may be too long


def a_hard_link(path, elsewhere):
    path.with_name("cache.db-wal").hardlink_to(elsewhere)


PLANTED = {
    "hot journal": a_journal,
    "empty journal": an_empty_journal,
    "linked journal": a_link("-journal"),
    "link": a_link(),
    "dangling link": a_dangling_link,
    "linked log": a_link("-wal"),
    "linked index": a_link("-shm"),
    "hard-linked log": a_hard_link,
    "pipe": a_pipe(),
    "pipe as log": a_pipe("-wal"),
    "pipe as journal": a_pipe("-journal"),
    "directory": a_directory(),
    "directory as log": a_directory("-wal"),
    "directory as index": a_directory("-shm"),
    "socket": a_socket,
}


@pytest.fixture
def elsewhere(tmp_path):
    """A file of the user's, outside of the folder."""
    file = tmp_path / "thesis.txt"
    file.write_text("years of work " * 100)
    return file


@pytest.mark.parametrize("name", PLANTED)
def test_folder__what_is_no_file_of_ours_is_not_opened(store, database, make, elsewhere, name):
    """A journal, link, pipe, socket or directory where SQLite would open a file: refused, in two lines, at once."""
    entry, request = make()
    store.put(entry, request)
    database.close()
    PLANTED[name](database.path, elsewhere)
    before = sorted(database.directory.iterdir())

    reads = (lambda: store.get(entry.key), store.listing.find)
    for use in (lambda: store.put(entry, request), *(reads if database.exists() else ())):
        with pytest.raises(UnsafeStoreError) as refused:
            use()
        assert str(refused.value).count("\n") == 1
    assert elsewhere.read_text() == "years of work " * 100
    assert sorted(database.directory.iterdir()) == before
    assert not elsewhere.with_name("not-there").exists()


def test_hot_journal__sqlite_removes_the_file_that_it_names(store, database, make, elsewhere):
    """The attack is real: SQLite itself obeys the journal, and the user's file is gone."""
    store.put(*make())
    database.close()
    a_journal(database.path, elsewhere)
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    assert not elsewhere.exists()


def test_hot_journal__or_cache_stats_leaves_the_file(store, database, make, elsewhere, monkeypatch, capsys):
    """The shell's command refuses it too, in two lines."""
    store.put(*make())
    database.close()
    a_journal(database.path, elsewhere)
    monkeypatch.setenv("OR_CACHE_DIR", os.fspath(database.directory))

    assert cli.main(["stats"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert elsewhere.exists()


@pytest.mark.parametrize("name", ["pipe", "hot journal", "directory as log", "dangling link"])
def test_ask__goes_on_without_the_store(open_cache, sim, folder, elsewhere, name):
    """An ask in such a folder is answered, accounted for in memory, and says why nothing is kept."""
    (first := open_cache(sim)).ask("Hello")
    first.close()
    PLANTED[name](folder / "cache.db", elsewhere)
    cache = open_cache(sim)

    outcomes = [cache.ask(prompt).outcome for prompt in ("Hello", "Bye")]

    assert [outcome.kind for outcome in outcomes] == ["miss", "miss"]
    assert all("nothing was opened" in outcome.not_stored for outcome in outcomes)
    assert len(cache.database.pop_notices()) == 1
    assert elsewhere.exists()
    for suffix in ("", "-wal", "-journal"):
        planted = folder / f"cache.db{suffix}"
        if planted.is_dir():
            planted.rmdir()
        elif suffix == "-journal" or not planted.is_file():
            planted.unlink(missing_ok=True)
    assert cache.ledger.flush()
    assert cache.ledger.totals()[0].misses in (2, 3)


@pytest.mark.parametrize(("given", "kept"), [(0o644, 0o600), (0o666, 0o660), (0o664, 0o660), (0o600, 0o600)])
def test_folder__a_file_that_others_may_read_is_made_private(store, database, make, given, kept):
    """What git or a copy made readable for everybody is served, and is for its owner alone once it is written."""
    entry, request = make()
    store.put(entry, request)
    database.close()
    database.path.chmod(given)

    assert store.get(entry.key) == entry
    store.put(*make("other"))
    assert database.path.stat().st_mode & 0o777 == kept


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_new_file__has_no_rollback_journal(folder):
    """A new file is begun without one, so that a journal is never ours, not even of a kernel that was killed."""
    folder.mkdir()
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init()
    libc.inotify_add_watch(watch, os.fsencode(folder), 0x100)  # IN_CREATE
    database = Database(folder)
    with database.transaction() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (1,)
    made = os.read(watch, 1 << 16)
    os.close(watch)
    database.close()

    assert b"cache.db-wal" in made
    assert b"cache.db-journal" not in made
