"""The shared tier on a real Redis Cluster of three nodes."""

from __future__ import annotations

from contextlib import closing

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.storage.leases import Held, Lease
from or_cache_magic.storage.shared.leases import SharedLeases

PROMPT = "What is a median?"


def test_cluster__keeps_finds_and_purges_on_all_nodes(open_tier, redis_cluster, make):
    """Every node can be the door; entries lie on all three; purges by condition and of all reach each."""
    pairs = [make(f"prompt {i}", f"answer {i}", model=f"m/{i % 2}") for i in range(60)]
    doors = [open_tier(node.url) for node in redis_cluster]
    for i, pair in enumerate(pairs):
        doors[i % 3].put(*pair)

    for node in redis_cluster:
        with closing(node.client()) as client:
            assert client.dbsize() > 3
    for door in doors:
        assert [door.get(entry.key).answer for entry, _ in pairs] == [entry.answer for entry, _ in pairs]
    assert doors[0].purge(EntryFilter(model="m/1")) == 30
    assert sum(doors[1].get(entry.key) is not None for entry, _ in pairs) == 30
    assert doors[2].purge(EntryFilter(), [pairs[0][0].key.digest]) == 30
    assert sum(doors[1].get(entry.key) is not None for entry, _ in pairs) == 0
    assert [door.told for door in doors] == [[], [], []]


def test_cluster__leases(open_tier, redis_cluster):
    """A lease taken through one node holds at the others, for keys in any slot."""
    first, second = (SharedLeases(open_tier(node.url)) for node in redis_cluster[:2])
    for digit in "0123456789abcdef":
        digest = digit * 64
        mine = first.acquire(digest, 60)
        assert isinstance(second.acquire(digest, 60), Held)
        assert first.renew(mine, 60)
        first.release(mine)
        assert isinstance(second.acquire(digest, 60), Lease)


def test_cluster__two_machines(machine, redis_cluster, sim):
    """What one bought through one node the other finds through another."""
    first, second = machine("a", redis_cluster[0].url), machine("b", redis_cluster[1].url, api_key=None)
    for i in range(8):
        first.ask(f"{PROMPT} {i}")
    assert [second.ask(f"{PROMPT} {i}").outcome.kind for i in range(8)] == ["shared"] * 8
    assert sim.completion_count == 8
    assert first.database.pop_notices() == second.database.pop_notices() == ()
