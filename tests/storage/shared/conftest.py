"""Shared tiers on real servers, and caches of two machines that share one."""

from __future__ import annotations

import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings, parse_shared_url
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.shared.store import open_shared
from or_cache_magic.storage.tier import SharedTier

from ..conftest import make  # noqa: F401
from .servers import Memcached, Redis, cluster

MODEL = "openai/gpt-4o-mini"


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def memcached_process(tmp_path_factory):
    server = Memcached(tmp_path_factory.mktemp("memcached"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def cluster_processes(tmp_path_factory):
    nodes = cluster(tmp_path_factory.mktemp("cluster"))
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def redis_server(redis_process):
    redis_process.empty()
    return redis_process


@pytest.fixture
def memcached_server(memcached_process):
    memcached_process.empty()
    return memcached_process


@pytest.fixture
def redis_cluster(cluster_processes):
    for node in cluster_processes:
        node.empty()
    return cluster_processes


@pytest.fixture(params=["redis", "memcached"])
def server(request):
    """Each kind of server in turn, empty."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def open_tier():
    """``open_tier(url, secret="")`` is a shared store with ``told``, the lines for the user."""
    opened = []

    def start(url, *, namespace="test", secret="", timeout_s=5.0, clock=None):
        told: list[str] = []
        environ = {"OR_CACHE_SHARED_SECRET": secret}
        options = {} if clock is None else {"clock": clock}
        tier = open_shared(
            parse_shared_url(url),
            namespace=namespace,
            timeout_s=timeout_s,
            tell=told.append,
            environ=environ,
            **options,
        )
        tier.told = told
        opened.append(tier)
        return tier

    yield start
    for tier in opened:
        tier.close()


@pytest.fixture
def open_store(tmp_path, open_tier):
    """``open_store(url, "name")`` is a folder of its own with that server behind it; ``tier`` is the server's side."""
    opened = []

    def start(url, name="store", **options):
        database = Database(tmp_path / name, timeout_s=5.0)
        opened.append(database)
        tier = open_tier(url, **options)
        shared = SharedTier(DiskStore(database), lambda: tier)
        shared.tier = tier
        return shared

    yield start
    for database in opened:
        database.close()


@pytest.fixture
def settings_of(sim):
    """``settings_of(url)`` is what asks the simulator and shares on this server."""

    def chosen(url, *, timeout_s=5.0, **others):
        shared = {"shared_url": parse_shared_url(url), "shared_timeout_s": timeout_s}
        return Settings(**{"model": MODEL, "base_url": sim.base_url, **shared, **others})

    return chosen


@pytest.fixture
def machine(tmp_path, settings_of):
    """``machine("a", url)`` is the cache of one machine: a folder, and the server that all share."""
    opened = []

    def start(name, url, *, api_key="sk-or-v1-test", **settings):
        chosen = settings_of(url, **settings)
        cache = CompletionCache(tmp_path / name, settings=lambda: chosen, api_key=lambda: api_key)
        opened.append(cache)
        return cache

    yield start
    for cache in opened:
        cache.close()
