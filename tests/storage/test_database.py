"""The file in trouble: damaged, locked, full, read-only, replaced, copied, killed, shared, forked."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import (
    NewerStoreError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from or_cache_magic.storage import schema
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore

ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts need root")

DAMAGE = {
    "garbage": lambda data: os.urandom(5000),
    "git conflict": lambda data: b"<<<<<<< HEAD\n" + data,
    "LFS pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
    "truncated": lambda data: data[:4096],
    "half": lambda data: data[: len(data) // 2],
    "odd": lambda data: data[:1000],
}


def run(program, *arguments, **options):
    """Start another Python with the store imported."""
    head = (
        "import sys, os, time\nfrom or_cache_magic.storage.database import Database\nfrom or_cache_magic.storage.entries import DiskStore\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\nfrom conftest import make_entry, make_request\n"
    )
    command = [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        "-c",
        head + textwrap.dedent(program),
        *map(str, arguments),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    """Its output, when it ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def stored(store, database, make):
    """A file with 60 entries, checkpointed and closed; they are returned."""
    # Of bytes that deflate little, so that they take many pages.
    pairs = [make(f"prompt {i}", f"answer {i} {random.Random(i).randbytes(600).hex()}") for i in range(60)]
    for pair in pairs:
        store.put(*pair)
    database.close()
    return [entry for entry, _ in pairs]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file__is_set_aside_at_the_next_answer(store, database, stored, folder, make, kind):
    """A file that is no database is told as such, renamed (not deleted) when written, and a new one begun."""
    path = folder / "cache.db"
    damaged = DAMAGE[kind](path.read_bytes())
    path.write_bytes(damaged)

    with pytest.raises(StoreCorruptError):
        store.get(stored[0].key)
    entry, request = make("new")
    store.put(entry, request)

    assert store.get(entry.key) == entry
    (aside,) = folder.glob("cache.db.corrupt-*Z")
    assert aside.read_bytes() == damaged
    (notice,) = database.pop_notices()
    assert aside.name in notice
    assert database.pop_notices() == ()


def test_zero_bytes__are_an_empty_cache(store, folder, make):
    """An empty file is begun afresh, and reading it is a miss."""
    folder.mkdir()
    (folder / "cache.db").touch()
    entry, request = make()

    assert store.get(entry.key) is None
    store.put(entry, request)
    assert store.get(entry.key) == entry


def test_damaged_pages__leave_the_rest_readable(store, database, stored, folder):
    """With some pages overwritten, what can be read is served, the rest is an error and never a wrong answer."""
    values = [value for (value,) in database.select("SELECT value FROM Cache")]
    database.close()
    path = folder / "cache.db"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")  # of a page
    for page in {data.index(value) // size for value in (values[0], values[-1])}:
        data[page * size : (page + 1) * size] = os.urandom(size)
    path.write_bytes(data)

    served = 0
    for entry in stored:
        try:
            found = store.get(entry.key)
        except StoreError:
            continue
        assert found in (entry, None)
        served += found is not None
    assert 10 < served < 59


def test_newer_file__is_left_untouched(store, stored, folder, make):
    """A file of a newer version is neither read nor written."""
    path = folder / "cache.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION + 1}")
    connection.execute("CREATE TABLE or_future (x)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(NewerStoreError):
        store.get(stored[0].key)
    with pytest.raises(NewerStoreError):
        store.put(*make())
    assert path.read_bytes() == before


def test_locked__hits_are_served_and_writes_give_up_in_time(store, stored, folder, make):
    """While another program holds the write lock, reading goes on and writing fails within the timeout."""
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="locked"):  # it is locked still, so it gave up
        store.put(*make("new"))

    assert time.monotonic() - began > 0.15
    assert store.get(stored[0].key) == stored[0]
    other.close()
    store.put(*make("new"))


def test_locked__another_thread_of_ours(store, database, stored, make):
    """A second thread waits for the first one's transaction, not for ever; it reads meanwhile."""
    errors = []

    def write():
        try:
            assert store.get(stored[0].key) == stored[0]
            store.put(*make("new"))
        except StoreUnavailableError as exc:
            errors.append(exc)

    with database.transaction():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_deleted_folder__is_noticed(store, stored, folder, make):
    """With the folder deleted under an open cache a look is a miss, and a put begins anew."""
    assert store.get(stored[0].key) == stored[0]
    shutil.rmtree(folder)

    assert store.get(stored[0].key) is None
    assert not folder.exists()
    entry, request = make("new")
    store.put(entry, request)
    shutil.rmtree(folder)
    store.put(entry, request)
    assert store.get(entry.key) == entry


@pytest.mark.parametrize("checkpointed", [True, False])
def test_replaced_file__is_noticed(store, database, stored, folder, tmp_path, make, checkpointed):
    """A cache.db put in place of the open one (a git checkout) is read at once, whole, without the old log over it."""
    other_store = DiskStore(other := Database(tmp_path / "other"))
    theirs, request = make("theirs")
    other_store.put(theirs, request)
    other.close()
    ours, request = make("ours")
    store.put(ours, request)
    if checkpointed:
        assert database.checkpoint()

    os.replace(tmp_path / "other" / "cache.db", folder / "cache.db")

    assert store.get(ours.key) is None
    assert store.get(theirs.key) == theirs
    store.put(ours, request)
    assert store.listing.count()[0] == 2
    database.close()
    connection = sqlite3.connect(folder / "cache.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_replaced_file__a_transaction_ends_where_it_began(store, database, stored, folder, tmp_path, make):
    """A file replaced in the middle of a transaction, and noticed by another thread, does not tear it in two."""
    inner, request = make("inner")
    shutil.copy(folder / "cache.db", tmp_path / "copy.db")
    with database.transaction():
        os.replace(tmp_path / "copy.db", folder / "cache.db")
        other = threading.Thread(target=store.get, args=(stored[0].key,))
        other.start()
        other.join()
        store.put(inner, request)
        assert store.get(inner.key) == inner

    assert store.get(inner.key) is None
    assert store.get(stored[0].key) == stored[0]


def test_checkpoint__a_copy_of_the_file_has_everything(store, database, folder, tmp_path, make):
    """After a checkpoint, with the cache still open, cache.db alone holds all entries."""
    entries = [make(str(i)) for i in range(20)]
    for pair in entries:
        store.put(*pair)
    assert (folder / "cache.db-wal").stat().st_size > 0
    assert database.checkpoint()
    assert (folder / "cache.db-wal").stat().st_size == 0

    (tmp_path / "copy").mkdir()
    shutil.copy(folder / "cache.db", tmp_path / "copy")
    copied = DiskStore(database := Database(tmp_path / "copy"))
    assert copied.get(entries[19][0].key) == entries[19][0]
    assert copied.listing.count()[0] == 20
    database.close()


def test_close__leaves_one_file(store, database, stored, folder):
    """Closing leaves no log behind, and the next use opens again."""
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "cache.db"]
    assert store.get(stored[0].key) == stored[0]


def test_exit__leaves_one_file(folder):
    """So does the end of a program that never closed it, and that leaves no connection open."""
    finish(run("""
        store = DiskStore(Database(sys.argv[1]))
        request = make_request()
        store.put(make_entry(request), request)
    """, folder))  # fmt: skip

    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "cache.db"]


KILLED = """
    store = DiskStore(Database(sys.argv[1]))
    i = 0
    while True:
        request = make_request(f"{sys.argv[2]} {i}")
        store.put(make_entry(request, "answer " * 200), request)
        print(i, flush=True)
        i += 1
"""


@pytest.mark.smoke
def test_kill__loses_nothing_that_was_kept(folder, store, database, make):
    """Killed ten times while writing: every put that returned is there, whole, and the file is sound."""
    kept = {}
    for turn in range(10):
        process = run(KILLED, folder, turn)
        for _ in range(3 + turn):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        kept[turn] = max([last, *map(int, rest.split()[:-1])])

    for turn, last in kept.items():
        for i in range(last + 1):
            entry, _ = make(f"{turn} {i}", "answer " * 200)
            assert store.get(entry.key) == entry
    assert database.select("PRAGMA integrity_check") == [("ok",)]
    assert database.select("SELECT count(*) - (SELECT count(*) FROM or_request) FROM or_entry") == [(0,)]
    assert database.select(
        "SELECT count(*) - (SELECT value FROM Settings WHERE key = 'count') FROM Cache"
    ) == [(0,)]


def test_version__changes_with_every_write_and_only_then(store, database, folder, make):
    """Whoever shows the file can tell cheaply whether to read again: after writes of its own and of others."""
    begun = database.version()
    store.put(*make("one"))
    ours = database.version()
    assert begun != ours
    store.listing.find()
    assert database.version() == ours
    with closing(Database(folder)) as other:
        DiskStore(other).put(*make("two"))
    theirs = database.version()
    assert theirs != ours
    store.purge(EntryFilter(), everything=True)
    assert database.version() != theirs


def test_sharing__two_programs_begin_and_write_at_once(folder, store, make):
    """Two programs that make the file and write at the same time both keep everything."""
    program = """
        store = DiskStore(Database(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(50):
            request = make_request(f"{sys.argv[2]} {i}")
            store.put(make_entry(request), request)
    """
    writers = [run(program, folder, name, stdin=subprocess.PIPE) for name in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        finish(writer)

    assert store.listing.count()[0] == 100


def test_sharing__eight_threads(store, database, make):
    """Eight threads put and get at once; all is kept, and every reader closes with the database."""
    database.timeout_s = 30
    patient = DiskStore(patient_database := Database(database.directory, timeout_s=30))
    errors = []

    def work(name):
        try:
            for i in range(25):
                entry, request = make(f"{name} {i}")
                patient.put(entry, request)
                assert patient.get(entry.key) == entry
                assert patient.listing.find(limit=3)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert store.listing.count()[0] == 200
    patient_database.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.smoke
def test_fork__the_child_has_connections_of_its_own(folder, make):
    """A child of fork reads and writes, also while a thread of the parent held the lock, and harms nothing."""
    out = finish(run("""
        database = Database(sys.argv[1])
        store = DiskStore(database)
        first, second = make_request("first"), make_request("second")
        store.put(make_entry(first), first)
        with database.transaction():
            child = os.fork()
            if child == 0:
                parent_file = database._file
                assert store.get(make_entry(first).key) is not None
                assert database._file is not parent_file
                assert parent_file.writer.in_transaction  # left alone, not closed
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        child = os.fork()
        if child == 0:
            store.put(make_entry(second), second)
            database.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(store.listing.count()[0])
        database.close()
    """, folder))  # fmt: skip

    assert out == "2\n"


@pytest.fixture
def mounted(tmp_path):
    """``mounted(*arguments)`` mounts on a folder, which is unmounted afterwards; skips where that can't be done."""
    point = tmp_path / "mounted"
    point.mkdir()
    done = []

    def mount(*arguments):
        result = subprocess.run(["mount", *arguments, point], capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"can't mount: {result.stderr.strip()}")
        done.append(point)
        return point

    yield mount
    for folder in done:
        subprocess.run(["umount", "-l", folder], check=True)


@ROOT
@pytest.mark.parametrize("log_left", [False, True])
def test_read_only_mount__serves_hits(store, database, stored, folder, mounted, make, log_left):
    """On a read-only file system hits are served, also beside a log, and a put says what is wrong."""
    if log_left:
        store.put(*make("in the log"))
    point = mounted("--bind", folder)
    subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    there = DiskStore(read_only := Database(point))

    for entry in stored[:3]:
        assert there.get(entry.key) == entry
    assert len(there.listing.find()) >= 60
    with pytest.raises(StoreUnavailableError):
        there.put(*make("new"))
    assert there.get(stored[0].key) == stored[0]
    read_only.close()


@ROOT
def test_full_disk__serves_hits_and_loses_nothing(mounted, make):
    """With the disk full a put says so; hits are served, also by a kernel that starts then."""
    point = mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    store = DiskStore(database := Database(point / ".or_cache"))
    kept = []
    with pytest.raises(StoreUnavailableError, match="full"):  # noqa: PT012
        for i in range(1000):
            entry, request = make(f"prompt {i}", os.urandom(3000).hex())
            store.put(entry, request)
            kept.append(entry)

    assert len(kept) > 15
    fresh = DiskStore(fresh_database := Database(point / ".or_cache"))
    for entry in kept:
        assert store.get(entry.key) == entry
        assert fresh.get(entry.key) == entry
    fresh_database.close()
    database.close()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no user ids")
def test_no_rights__to_a_folder(tmp_path, make):
    """A folder that may not be made is an error of the store, in two lines."""
    (tmp_path / "file").touch()
    store = DiskStore(Database(tmp_path / "file" / ".or_cache"))

    with pytest.raises(StoreUnavailableError) as caught:
        store.put(*make())
    assert caught.value.hint


def test_transaction__passes_others_errors_through(database):
    """An OSError of the caller inside a transaction stays what it is."""
    with pytest.raises(OSError, match="mine"), database.transaction():
        raise OSError("mine")


def test_size__less_than_half_of_plain_diskcache(tmp_path, make):
    """2,000 entries of 2.7 KB take at most 0.45 of the bytes that plain diskcache takes for their JSON."""
    import json
    import random

    import diskcache

    words = DOCUMENT.split()
    chance = random.Random(1)

    def prose(size):
        return " ".join(chance.choices(words, k=size // 5))[:size]

    store = DiskStore(database := Database(tmp_path / "ours"))
    plain = diskcache.Cache(tmp_path / "plain")
    json_bytes = 0
    with database.transaction():
        for i in range(2000):
            entry, request = make(
                prose(900),
                prose(1250),
                system=prose(100),
                served="openai/gpt-4o-mini-2024-07-18",
                created_s=1e9 + i,
            )
            reply = {"id": f"gen-{i}", "object": "chat.completion", "created": i, "model": entry.answer.model, "provider": "OpenAI",
                     "choices": [{"index": 0, "message": entry.answer.choices[0].message, "finish_reason": "stop", "logprobs": None}],
                     "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, "cost": 0.000123}}  # fmt: skip
            text = json.dumps({"request": request.body, "response": reply})
            json_bytes += len(text)
            plain.set(entry.key.digest, text)
            store.put(entry, request)
    database.close()
    plain._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    plain.close()

    assert 2600 < json_bytes / 2000 < 2900
    ours, theirs = (tmp_path / name / "cache.db" for name in ("ours", "plain"))
    assert ours.stat().st_size <= 0.45 * theirs.stat().st_size


DOCUMENT = "\n".join(
    str(sys.modules[name].__doc__)
    for name in ("os", "subprocess", "threading", "textwrap", "shutil", "signal")
)


def test_close__while_a_thread_waits_for_the_lock_leaves_nothing_open(database):
    """Who waits in vain for another program's lock closes what was left to it, though no transaction began."""
    with database.transaction() as connection:
        connection.execute("SELECT 1")
    file = database._file
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    closing = threading.Timer(0.1, database.close)
    closing.start()
    with pytest.raises(StoreBusyError), database.transaction(wait_s=1.0):
        pass
    closing.join()
    other.close()
    assert not file.is_open
