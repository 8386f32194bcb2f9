"""The contract of all stores, on disk and in memory; and what only a store in memory does."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Project, Settings, load_settings
from or_cache_magic.simulator import Simulator
from or_cache_magic.storage.database import Database, MemoryDatabase, open_database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

from .contract import StoreContract


class TestDisk(StoreContract):
    """A store in a folder."""


class TestMemory(StoreContract):
    """A store in memory."""

    @pytest.fixture
    def database(self):
        opened = MemoryDatabase(timeout_s=5.0)
        yield opened
        opened.close()


@pytest.fixture
def memory():
    opened = MemoryDatabase()
    yield opened
    opened.close()


def test_memory__writes_nothing_to_disk(tmp_path, monkeypatch):
    """A cache in memory serves, counts and accounts as any other, and leaves no file anywhere near."""
    monkeypatch.chdir(tmp_path)
    with Simulator() as sim:
        settings = Settings(model="openai/gpt-4o-mini", base_url=sim.base_url)
        with CompletionCache(":memory:", settings=lambda: settings, api_key=lambda: "sk-or-v1-test") as cache:
            first, again = cache.ask("Name a colour."), cache.ask("Name a colour.")
            cache.flush()
            (totals,) = cache.totals()
            (row,) = cache.store.listing.find()

            assert (first.cached, again.cached, again) == (False, True, str(first))
            assert (totals.asks, totals.hits, row.hits) == (2, 1, 1)
            assert totals.saved_usd == first.cost_usd
            assert cache.purge(all=True)["key"].tolist() == [first.key]
            assert not cache.ask("Name a colour.").cached
        assert not cache.ask("Name a colour.").cached
        cache.close()
    assert list(tmp_path.iterdir()) == []


def test_memory__closing_forgets(memory, make):
    """What was kept is gone after a close, and the database can be used again."""
    store = DiskStore(memory)
    entry, request = make()
    assert not memory.exists()
    store.put(entry, request)
    assert memory.exists()

    memory.close()

    assert not memory.exists()
    assert store.get(entry.key) is None
    store.put(entry, request)
    assert store.get(entry.key) == entry


def test_memory__two_are_apart(memory, make):
    """Each cache in memory is its own."""
    other = MemoryDatabase()
    entry, request = make()
    DiskStore(memory).put(entry, request)

    assert DiskStore(other).get(entry.key) is None
    other.close()


def test_memory__a_transaction_is_kept_whole_or_not_at_all(memory, make, clock):
    """What is written together is undone together."""
    store, ledger = DiskStore(memory), Ledger(memory, "session-1", clock)
    entry, request = make()
    with pytest.raises(ZeroDivisionError), memory.transaction():  # noqa: PT012
        store.put(entry, request)
        assert store.get(entry.key) == entry
        1 / 0  # noqa: B018

    assert store.get(entry.key) is None
    assert ledger.rows() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="fork with threads warns")
def test_memory__a_forked_child_begins_anew(memory, make):
    """A child has an empty cache of its own, and the parent keeps what it has."""
    store = DiskStore(memory)
    entry, request = make()
    store.put(entry, request)

    def look(pipe):
        before = store.get(entry.key)
        store.put(entry, request)
        pipe.send((before, store.get(entry.key) == entry))

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=look, args=(there,))
    child.start()
    assert here.recv() == (None, True)
    child.join()
    here.close()
    there.close()
    assert store.get(entry.key) == entry


def test_open_database__knows_memory(tmp_path):
    """The name alone decides; a path that merely ends so is a folder."""
    assert isinstance(open_database(":memory:"), MemoryDatabase)
    assert isinstance(open_database(Path(":memory:")), MemoryDatabase)
    assert type(open_database(tmp_path / ":memory:")) is Database


def test_settings__memory_is_no_folder_of_the_project(tmp_path):
    """A project that sets cache_dir to :memory: gets memory, not a folder of that name."""
    (tmp_path / "pyproject.toml").write_text('[tool.or_cache_magic]\ncache_dir = ":memory:"\n')

    assert load_settings({}, Project(tmp_path), {}).cache_dir == ":memory:"
