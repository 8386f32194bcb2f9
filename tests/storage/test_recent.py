"""Entries that stay decoded in memory: served from there only while nobody has written to the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from or_cache_magic.core.records import Cost
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.storage.database import Database, MemoryDatabase
from or_cache_magic.storage.entries import DiskStore, RecentEntries
from or_cache_magic.storage.ledger import Ledger

ROOT = Path(__file__).parents[2]
OTHER_KERNEL = """
import json, sys
from decimal import Decimal
from or_cache_magic.core.records import Cost
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from tests.storage.conftest import make_entry, make_request

request = make_request()
key = make_entry(request).key
store = DiskStore(database := Database(sys.argv[1]))
for line in sys.stdin:
    command, *words = json.loads(line)
    said = None
    if command == "put":
        store.put(make_entry(request, words[0]), request)
    elif command == "purge":
        said = store.purge(EntryFilter(keys=(key.digest,)))
    elif command == "price":
        said = store.settle(key.digest, "gen-1", Cost(Decimal(words[0]), "generation"))
    elif command == "checkpoint":
        said = database.checkpoint()
    elif command == "get":
        found, again = store.get(key), store.get(key)
        said = found and [found.answer.text, found.answer.usage is again.answer.usage]
    print(json.dumps(said), flush=True)
"""


class OtherKernel:
    """A process with the same file, that does as it is told."""

    def __init__(self, folder):
        command = [sys.executable, "-c", OTHER_KERNEL, os.fspath(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def tell(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture
def other(folder):
    kernel = OtherKernel(folder)
    yield kernel
    kernel.end()


@pytest.fixture
def entry(store, make):
    """An entry that is in the file, and in the memory of ``store``."""
    entry, request = make()
    store.put(entry, request)
    for _ in range(2):
        assert store.get(entry.key) == entry
    assert is_remembered(store, entry.key)
    return entry


def is_remembered(store, key):
    """Whether an entry is not decoded anew for every hit: then parts of it are the very same objects."""
    return store.get(key).answer.usage is store.get(key).answer.usage


def test_get__is_remembered_until_another_process_writes(store, entry, make, other):
    """What another process replaces, prices or purges is seen by the next hit, and then remembered again."""
    other.tell("put", "Hello again")
    assert store.get(entry.key).answer.text == "Hello again"
    assert is_remembered(store, entry.key)

    unpriced, request = make(cost=None)
    store.put(unpriced, request)
    assert store.get(entry.key).answer.cost == Cost(None, "unknown")
    assert is_remembered(store, entry.key)
    assert other.tell("price", "0.5")
    assert str(store.get(entry.key).answer.cost.usd) == "0.5"
    assert is_remembered(store, entry.key)

    assert other.tell("purge") == 1
    assert store.get(entry.key) is None
    other.tell("put", "Bought anew")
    assert store.get(entry.key).answer.text == "Bought anew"


def test_get__another_process_sees_what_this_one_writes(store, entry, make, other):
    """The other way round: a process that serves from memory sees what this one replaces and purges."""
    assert other.tell("get") == ["Hi", True]

    store.put(*make(text="Hello again"))
    assert other.tell("get")[0] == "Hello again"
    assert other.tell("get") == ["Hello again", True]
    store.purge(EntryFilter(keys=(entry.key.digest,)))
    assert other.tell("get") is None


def test_get__every_write_counts_however_often(store, entry, make, other):
    """Fifty times in turn, faster than a file system's clock ticks: each answer is the last that was put."""
    for number in range(50):
        other.tell("put", f"theirs {number}")
        assert store.get(entry.key).answer.text == f"theirs {number}"
        assert is_remembered(store, entry.key)
        store.put(*make(text=f"ours {number}"))
        assert store.get(entry.key).answer.text == f"ours {number}"
        assert other.tell("get")[0] == f"ours {number}"


def test_get__is_remembered_while_hits_are_counted(store, database, entry, make, other):
    """Writing what was counted changes no answer; what another process writes before, between and after does."""
    ledger = Ledger(database, "s", lambda: 1.0)

    def flush():
        ledger.count_hit(key=entry.key.digest, model="m")
        assert ledger.flush()

    flush()
    assert is_remembered(store, entry.key)
    for number in range(20):
        usage = store.get(entry.key).answer.usage
        flush()
        assert store.get(entry.key).answer.usage is usage
        other.tell("put", f"theirs {number}")
        flush()
        assert store.get(entry.key).answer.text == f"theirs {number}"
        flush()
        assert other.tell("purge") == 1
        flush()
        assert store.get(entry.key) is None
        store.put(*make(text=f"ours {number}"))
        flush()
        assert store.get(entry.key).answer.text == f"ours {number}"
    flush()
    store.purge(EntryFilter(), everything=True)
    flush()
    assert store.get(entry.key) is None


def test_get__sees_what_is_changed_within_a_flush(store, database, entry, make):
    """A transaction that is said to change no answer, and has one put within, changes answers."""
    with database.transaction(changes_answers=False):
        store.put(*make(text="Hello again"))
    assert store.get(entry.key).answer.text == "Hello again"
    assert is_remembered(store, entry.key)


def test_get__threads_see_each_others_writes(store, database, entry, make, other):
    """Readers with connections of their own never serve less than what was committed before they asked.

    This process and another write in turn, and hits are flushed between.
    """
    ledger, committed, wrong = Ledger(database, "s", lambda: 1.0), [0], []
    done = threading.Event()

    def read():
        while not done.is_set():
            least = committed[0]
            number = int(store.get(entry.key).answer.text)
            if number < least:
                wrong.append((number, least))

    other.tell("put", "0")
    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 60):
            if number % 2:
                other.tell("put", str(number))
            else:
                store.put(*make(text=str(number)))
            committed[0] = number
            ledger.count_hit(key=entry.key.digest, model="m")
            ledger.flush()
    finally:
        done.set()
    for reader in readers:
        reader.join()

    assert wrong == []


def test_get__a_deleted_file_takes_its_entries_along(store, entry, folder, other):
    """With the file gone nothing is served; the file that another process begins has its own answers."""
    for path in folder.glob("cache.db*"):
        path.unlink()
    assert store.get(entry.key) is None

    other.tell("put", "of a new file")
    assert store.get(entry.key).answer.text == "of a new file"


def test_get__a_replaced_file_has_its_own_entries(store, database, entry, folder, tmp_path, make, other):
    """A file that is put in the place of another (a git checkout) is read at once; so is the first, put back."""
    database.checkpoint()
    shutil.copy(folder / "cache.db", tmp_path / "first.db")
    other.tell("put", "the second")
    other.tell("checkpoint")
    shutil.copy(folder / "cache.db", tmp_path / "second.db")
    assert store.get(entry.key).answer.text == "the second"

    for name, text in (("first.db", "Hi"), ("second.db", "the second")) * 2:
        shutil.copy(tmp_path / name, tmp_path / "new.db")
        os.replace(tmp_path / "new.db", folder / "cache.db")
        assert store.get(entry.key).answer.text == text
        assert store.get(entry.key).answer.text == text
        assert is_remembered(store, entry.key)


def test_get__own_writes_are_seen_before_they_are_committed(store, database, entry, make):
    """Inside a transaction that replaces an entry, it is the new one; undone, it is the old one again."""
    with suppress(ZeroDivisionError), database.transaction():
        store.put(*make(text="not kept"))
        assert store.get(entry.key).answer.text == "not kept"
        raise ZeroDivisionError
    assert store.get(entry.key) == entry
    assert is_remembered(store, entry.key)

    assert store.settle(entry.key.digest, "gen-2", Cost(None, "unknown")) is False
    store.purge(EntryFilter(), everything=True)
    assert store.get(entry.key) is None


def test_get__of_another_request_is_refused_from_memory_too(store, entry):
    """The canonical request is compared at every hit, whichever way the entry comes."""
    forged = entry.key._replace(skeleton=b"{}")

    with pytest.raises(StoreCorruptError, match="answers another request"):
        store.get(forged)
    assert store.get(entry.key) == entry


def test_get__what_a_caller_does_to_a_message_changes_no_later_answer(store, entry):
    """Each hit has a message of its own."""
    for _ in range(3):
        message = store.get(entry.key).answer.choices[0].message
        assert message == {"role": "assistant", "content": "Hi"}
        message["content"] = "forged"
        message.clear()


def test_get__of_a_database_in_memory_is_never_stale(make):
    """Its one connection can't tell what it wrote itself, so nothing is remembered."""
    store = DiskStore(database := MemoryDatabase())
    for text in ("one", "two", "three"):
        entry, request = make(text=text)
        store.put(entry, request)
        assert store.get(entry.key) == store.get(entry.key) == entry
    assert not is_remembered(store, entry.key)
    database.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork__the_child_uses_nothing_of_its_parents_memory(folder):
    """A child serves what stands in the file, whatever the parent remembers or is doing with it."""
    program = """
        import os, sys
        from or_cache_magic.core.rows import EntryFilter
        from or_cache_magic.storage.database import Database
        from or_cache_magic.storage.entries import DiskStore
        from tests.storage.conftest import make_entry, make_request

        store = DiskStore(Database(sys.argv[1]))
        request = make_request()
        entry = make_entry(request)
        store.put(entry, request)
        for _ in range(3):
            store.get(entry.key)
        child = os.fork()
        if child == 0:
            for _ in range(3):
                assert store.get(entry.key) == entry
            newer = make_entry(request, "newer")
            store.put(newer, request)
            assert store.get(entry.key) == store.get(entry.key) == newer
            store.purge(EntryFilter(), everything=True)
            assert store.get(entry.key) is None
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert store.get(entry.key) is None
    """
    command = [sys.executable, "-c", textwrap.dedent(program), os.fspath(folder)]
    subprocess.run(command, check=True, cwd=ROOT)


def test_recent__is_bounded_and_drops_what_was_used_least_recently(make):
    """Over its bound it forgets; an entry that is a large part of it, or holds an error, is not taken at all."""
    recent = RecentEntries(most_bytes=100_000)
    entries = [make(f"prompt {number}")[0] for number in range(30)]
    for entry in entries:
        recent.keep(entry, "state", b"", 3_000)
        assert recent.get(entries[0].key.digest, "state") == entries[0]

    kept = [entry for entry in entries if recent.get(entry.key.digest, "state")]
    assert kept == [entries[0], *entries[-11:]]

    large, failed = make("large")[0], make("failed")[0]
    recent.keep(large, "state", b"", 50_000)
    recent.keep(failed._replace(answer=failed.answer._replace(error={"message": "no"})), "state", b"", 10)
    assert recent.get(large.key.digest, "state") is recent.get(failed.key.digest, "state") is None


def test_recent__an_entry_is_of_one_state(make):
    """In another state of the file it is not given, and the newer one takes its place."""
    recent = RecentEntries()
    entry, newer = make()[0], make(text="newer")[0]
    recent.keep(entry, (1, 1), b"blob", 10)
    assert recent.get(entry.key.digest, (1, 1)) == entry
    assert recent.get(entry.key.digest, (1, 2)) is None
    assert recent.again(entry.key.digest, (1, 2), b"other") is None
    assert recent.again(entry.key.digest, None, b"blob") == entry
    assert recent.get(entry.key.digest, (1, 2)) is None
    assert recent.again(entry.key.digest, (1, 2), b"blob") == entry
    assert recent.get(entry.key.digest, (1, 2)) == entry

    recent.keep(newer, (1, 2), b"newer", 10)
    assert recent.get(entry.key.digest, (1, 1)) is None
    assert recent.get(entry.key.digest, (1, 2)) == newer


def test_state__stays_while_nobody_writes(database, store, entry):
    """Reading changes nothing, a flush of nothing neither; where it can't be told it is None."""
    state = database.state()
    assert state is not None
    store.listing.find()
    store.get(entry.key)
    assert database.state() == state
    with database.transaction(changes_answers=False):
        pass
    store.get(entry.key)
    with database.transaction(changes_answers=False):
        pass
    state = database.state()
    with database.transaction(changes_answers=False):
        assert database.state() == state
    assert database.state() == state
    with database.transaction():
        assert database.state() is None
    assert database.state() != state
    assert Database(database.directory).state() is None
