"""Leases on a team's server: one owner at a time, whoever dies, whatever stands there."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from or_cache_magic.errors import StoreError
from or_cache_magic.storage.leases import DiskLeases, Held, Lease, LocalAndSharedLeases
from or_cache_magic.storage.shared.leases import SharedLeases

from ..conftest import database, folder  # noqa: F401
from .servers import eventually

DIGEST = "ab" * 32


@pytest.fixture
def leases(open_tier, server):
    """Those of two machines on one server."""
    return [SharedLeases(open_tier(server.url)) for _ in range(2)]


def test_acquire__one_at_a_time(leases):
    """The second is told who holds it; given back, it is the second's; another key is free."""
    first, second = leases
    mine = first.acquire(DIGEST, 60)
    held = second.acquire(DIGEST, 60)

    assert isinstance(mine, Lease)
    assert isinstance(held, Held)
    assert held.owner.startswith("pid ")
    assert held.failure is None
    assert isinstance(second.acquire("cd" * 32, 60), Lease)
    first.release(mine)
    assert isinstance(second.acquire(DIGEST, 60), Lease)


def test_acquire__of_twenty_at_once_one_has_it(leases):
    """However many ask at the same moment, one gets it."""
    found, begin = [], threading.Barrier(20)

    def take(i):
        begin.wait()
        found.append(leases[i % 2].acquire(DIGEST, 60))

    threads = [threading.Thread(target=take, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(lease).__name__ for lease in found) == ["Held"] * 19 + ["Lease"]


def test_acquire__a_dead_owners_runs_out(leases):
    """The server ends a lease that nobody renews; its late owner can neither renew nor release the next."""
    first, second = leases
    old = first.acquire(DIGEST, 0.2)
    new = eventually(lambda: (found := second.acquire(DIGEST, 60)) and isinstance(found, Lease) and found)

    assert not first.renew(old, 60)
    first.release(old)
    assert isinstance(first.acquire(DIGEST, 60), Held)
    assert second.renew(new, 60)


def test_renew__keeps_it_the_same_flight(leases):
    """A renewed lease outlives its first end, and is still the flight that is waited for."""
    first, second = leases
    mine = first.acquire(DIGEST, 1)
    before = second.acquire(DIGEST, 60)
    assert first.renew(mine, 60)
    after = second.acquire(DIGEST, 60)
    assert before[:2] == after[:2]


def test_release__tells_a_failure_to_those_who_waited(leases):
    """The failure is told to who waited for that flight, each time; who did not wait gets the lease."""
    first, second = leases
    mine = first.acquire(DIGEST, 60)
    waiting = second.acquire(DIGEST, 60)
    first.release(mine, {"kind": "UpstreamError", "message": "no"})

    for _ in range(2):
        told = second.acquire(DIGEST, 60, after=waiting)
        assert isinstance(told, Held)
        assert told.failure == {"kind": "UpstreamError", "message": "no"}
    assert not first.renew(mine, 60)
    assert isinstance(second.acquire(DIGEST, 60), Lease)
    assert isinstance(second.acquire(DIGEST, 60, after=waiting), Held)


@pytest.mark.parametrize(
    ("secret", "message"), [("", "no: What is"), ("s" * 16, "the call of another machine failed (502)")]
)
def test_release__tells_nothing_of_prompt_or_answer(open_tier, redis_server, secret, message):
    """Neither a provider's body nor half an answer reaches the server, with a secret no words of others."""
    first, second = (SharedLeases(open_tier(redis_server.url, secret=secret)) for _ in range(2))
    mine = first.acquire(DIGEST, 60)
    waiting = second.acquire(DIGEST, 60)
    first.release(
        mine, {"status": 502, "message": "no: What is", "body": {"raw": "What is"}, "partial_text": "A"}
    )

    told = second.acquire(DIGEST, 60, after=waiting)
    assert told.failure == {"status": 502, "message": message}


@pytest.mark.parametrize(
    "value",
    [b"\x80\x04}", b"<html>", b"x\n\n", b"nan-0\n1 2", b"failed\n1-0\n7 0123456789ab\n[1", b"\xff" * 70000],
)
def test_acquire__what_is_no_lease_holds_for_a_while(open_tier, redis_server, value):
    """Something foreign where a lease should be is waited for like one, and runs out; nothing is raised."""
    leases = SharedLeases(open_tier(redis_server.url))
    key = f"{{test:1:{DIGEST[0]}}}:{DIGEST}:lease"
    with closing(redis_server.client()) as client:
        client.set(key, value, px=60_000)
        found = leases.acquire(DIGEST, 60)
        assert isinstance(found, Lease) or found.failure is None
        client.delete(key)
        client.rpush(key, "x")
        with pytest.raises(StoreError):
            leases.acquire("ab" * 32, 60)


def test_acquire__on_a_server_that_is_down(open_tier):
    """A server that can't be reached has no leases: the ask goes on without."""
    with pytest.raises(StoreError):
        SharedLeases(open_tier("redis://127.0.0.1:1")).acquire(DIGEST, 60)


def test_both_leases__takes_both_and_gives_both_back(open_tier, server, database):  # noqa: F811
    """While one machine asks, others are held up by the server, and its own kernels by the disk too."""
    far, near = SharedLeases(open_tier(server.url)), DiskLeases(database)
    both = LocalAndSharedLeases(near, lambda: far)
    mine = both.acquire(DIGEST, 60)
    held = far.acquire(DIGEST, 60)

    assert isinstance(held, Held)
    assert isinstance(near.acquire(DIGEST, 60), Held)
    assert both.renew(mine, 60)
    both.release(mine, {"message": "no"})
    told = far.acquire(DIGEST, 60, after=held)
    assert told.failure == {"message": "no"}
    assert isinstance(both.acquire(DIGEST, 60), Lease)


def test_both_leases__held_near_leaves_the_far_one(open_tier, server, database):  # noqa: F811
    """When a kernel of this folder asks already, the server's lease is given back."""
    far, near = SharedLeases(open_tier(server.url)), DiskLeases(database)
    near.acquire(DIGEST, 60)
    assert isinstance(LocalAndSharedLeases(near, lambda: far).acquire(DIGEST, 60), Held)
    assert isinstance(far.acquire(DIGEST, 60), Lease)


def test_both_leases__one_tier_is_enough(open_tier, server, database, tmp_path):  # noqa: F811
    """With the server down the disk's lease counts, with the disk broken the server's."""
    down = SharedLeases(open_tier("redis://127.0.0.1:1"))
    both = LocalAndSharedLeases(DiskLeases(database), lambda: down)
    mine = both.acquire(DIGEST, 60)
    assert isinstance(both.acquire(DIGEST, 60), Held)
    assert both.renew(mine, 60)
    both.release(mine)
    assert isinstance(both.acquire(DIGEST, 60), Lease)

    from or_cache_magic.storage.database import Database

    (tmp_path / "file").write_text("no folder")
    broken = Database(tmp_path / "file")
    far = SharedLeases(open_tier(server.url))
    other = LocalAndSharedLeases(DiskLeases(broken), lambda: far)
    mine = other.acquire("cd" * 32, 60)
    assert isinstance(mine, Lease)
    assert isinstance(other.acquire("cd" * 32, 60), Held)
    assert other.renew(mine, 60)
    other.release(mine)
    assert isinstance(far.acquire("cd" * 32, 60), Lease)
    broken.close()
