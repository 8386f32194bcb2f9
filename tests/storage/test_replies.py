"""Which entries reply to which: kept with the entry, in a file that is whole without."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import UnsafeStoreError
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.schema import REPLIES

from .test_versions import close_old, old_key, old_store  # noqa: F401 - fixtures


@pytest.fixture
def chain(store, make):
    """A question, its reply, and two replies to that; their keys."""
    pairs = [make(f"prompt {i}", created_s=float(i + 1)) for i in range(4)]
    keys = [entry.key.digest for entry, _ in pairs]
    for (entry, request), parent in zip(pairs, ("", keys[0], keys[1], keys[1]), strict=True):
        store.put(entry, request, parent=parent)
    return keys


def tables(folder):
    """The tables of ours in the file."""
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_put__keeps_whom_an_entry_replies_to(store, chain):
    """Upwards and downwards, in the order in which they were asked."""
    first, second, *others = chain
    assert [store.replies.parent(key) for key in chain] == [None, first, second, second]
    assert [store.replies.of(key) for key in chain] == [[second], others, [], []]


def test_put__again_keeps_the_link(store, chain, make):
    """Refreshed by whoever asks the same messages without saying what they reply to."""
    entry, request = make("prompt 1", "another answer")
    store.put(entry, request)
    assert store.replies.parent(chain[1]) == chain[0]


def test_asked__is_the_request_whole(store, make):
    """With sample, stream and base URL, of which the key is made too."""
    entry, request = make()
    request = request._replace(sample=2, stream=False, base_url="http://127.0.0.1:9/api/v1")
    store.put(entry, request)
    assert store.asked(entry.key.digest) == request
    assert store.asked("0" * 64) is None


def test_file__without_replies_has_no_table_for_them(store, folder, make):
    """As every file that was written before there were any."""
    entry, request = make()
    assert store.replies.parent(entry.key.digest) is None  # no file yet
    store.put(entry, request)
    assert "or_reply" not in tables(folder)
    assert store.replies.of(entry.key.digest) == []
    other, request = make("prompt 2")
    store.put(other, request, parent=entry.key.digest)
    assert "or_reply" in tables(folder)


def test_file__with_replies_opens_again(folder, database, chain):
    """The table is one of ours: read and written by whoever opens the file."""
    database.close()
    again = DiskStore(Database(folder))
    assert again.replies.of(chain[0]) == [chain[1]]
    assert again.purge(EntryFilter(keys=(chain[3],))) == 1
    assert again.replies.of(chain[1]) == [chain[2]]
    again._database.close()


@pytest.mark.parametrize("missing", REPLIES[1:])
def test_file__with_half_of_it_is_refused(folder, database, chain, missing):
    """Where only a part of the table's statements is there, another hand was in it."""
    database.close()
    kind, name = missing.split()[1:3]
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        connection.execute(f"DROP {kind} {name}")
    with pytest.raises(UnsafeStoreError, match="only part of the tables"):
        DiskStore(Database(folder)).replies.of(chain[0])


def test_purge__takes_the_links_of_what_goes(store, chain, make):
    """A row's number is given anew: the next entry must not take over what the last one replied to."""
    store.purge(EntryFilter(keys=(chain[1],)))
    assert [store.replies.parent(key) for key in chain] == [None, None, chain[1], chain[1]]
    store.purge(EntryFilter(), everything=True)
    entry, request = make("another")
    store.put(entry, request)
    assert store.replies.parent(entry.key.digest) is None
    assert store.replies.of(chain[1]) == []


def test_links__of_a_stranger_are_read_as_none(store, folder, database, chain):
    """What no version of ours writes."""
    database.close()
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        connection.execute("UPDATE or_reply SET parent = 'x' WHERE id = 2")
        connection.execute("UPDATE or_reply SET parent = x'00' WHERE id = 3")
    assert [store.replies.parent(key) for key in chain[1:3]] == [None, None]


def test_older_keys__links_come_along(old_store, close_old, store, make):  # noqa: F811 - fixtures
    """A new version of the keys renames parents too, whether they come before or after their replies."""
    pairs = [make(f"prompt {i}") for i in range(3)]
    old = [old_key(request).digest for _, request in pairs]
    for (entry, request), parent in zip(pairs, (old[2], "", old[1]), strict=True):
        old_store.put(entry._replace(key=old_key(request)), request, parent=parent)
    close_old()
    first, second, third = (entry.key.digest for entry, _ in pairs)
    store.put(*make("prompt 9"))  # whoever writes brings the file up to date
    assert [store.replies.parent(key) for key in (first, second, third)] == [third, None, second]
