"""The contract of all stores, kept by those with a team's server behind them."""

from __future__ import annotations

import pytest

from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.tier import SharedTier

from ..conftest import database, folder  # noqa: F401
from ..contract import StoreContract


class Sharing(DiskStore):
    """Offers what it keeps, and purges on the server too, as the cache does."""

    def __init__(self, database, shared):  # noqa: F811
        super().__init__(database)
        self.shared = SharedTier(DiskStore(database), shared)

    def put(self, entry, request, *, replaced_reason=None):
        super().put(entry, request, replaced_reason=replaced_reason)
        self.shared.put(entry, request)

    def purge(self, wanted, *, everything=False):
        return self.shared.purge(wanted, everything=everything)


class _OnServer(StoreContract):
    @pytest.fixture
    def store(self, database, tier):  # noqa: F811
        return Sharing(database, lambda: tier)


class TestOnRedis(_OnServer):
    """Disk in front of Redis."""

    @pytest.fixture
    def tier(self, open_tier, redis_server):
        return open_tier(redis_server.url)


class TestOnMemcached(_OnServer):
    """Disk in front of Memcached."""

    @pytest.fixture
    def tier(self, open_tier, memcached_server):
        return open_tier(memcached_server.url)


class TestWithoutServer(StoreContract):
    """Disk with no server set."""

    @pytest.fixture
    def store(self, database):  # noqa: F811
        return Sharing(database, lambda: None)


class TestServerDown(_OnServer):
    """Disk in front of a server that is not there."""

    @pytest.fixture
    def tier(self, open_tier):
        return open_tier("redis://127.0.0.1:1")

    # What a purge can't reach it does not remove; `test_faults` says how.
    test_empty__has_nothing = None
    test_purge__removes_what_matches = None
    test_purge__by_key = None
    test_purge__all_must_be_said = None
