"""What one tier keeps on a server and another finds there: lifetimes, sizes, purges, the team's secret."""

from __future__ import annotations

import itertools
import time
from contextlib import closing

import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import SettingError, StoreUnavailableError

from .servers import Memcached, Redis, eventually

SECRET = "a secret of the team, long enough"


def answers(tier, *pairs):
    """The texts that a tier finds for entries; None where it finds none."""
    found = [tier.get(entry.key) for entry, _ in pairs]
    return [entry and entry.answer.text for entry in found]


# -- lifetimes --------------------------------------------------------------------------------


def test_put__lives_as_long_as_the_entry(open_tier, redis_server, make):
    """The server itself forgets an entry when it expires, to the millisecond; others stay."""
    tier = open_tier(redis_server.url)
    tier.put(*make("short", expires_s=time.time() + 1000))
    tier.put(*make("for ever"))
    with closing(redis_server.client()) as client:
        lives = sorted(client.pttl(key) for key in client.scan_iter() if client.type(key) == b"string")

    assert lives[0] == -1
    assert 990_000 < lives[1] <= 1_000_000


def test_put__is_gone_when_it_expired(open_tier, server, make):
    """An entry that ran out is not found any more, on either server."""
    tier = open_tier(server.url)
    pair = make(expires_s=time.time() + 0.9)
    tier.put(*pair)

    eventually(lambda: tier.get(pair[0].key) is None)
    assert tier.told == []


def test_put__already_expired_is_not_sent(open_tier, server, make):
    """An entry that has run out is not offered."""
    tier = open_tier(server.url)
    pair = make(expires_s=time.time() - 1)
    tier.put(*pair)
    assert answers(tier, pair) == [None]


def test_memcached__a_lifetime_beyond_thirty_days(open_tier, memcached_server, make):
    """Memcached takes more than 30 days for a date; an entry for 31 days is kept all the same."""
    tier = open_tier(memcached_server.url)
    pair = make(expires_s=time.time() + 31 * 86400)
    tier.put(*pair)
    assert answers(tier, pair) == ["Hi"]


@pytest.mark.parametrize("years", [12, 100, 299, 1e12])
def test_put__a_lifetime_of_centuries(open_tier, server, make, years):
    """What ends later than servers can count is kept there without an end; none of them is taken to be down."""
    tier = open_tier(server.url)
    pairs = make("long", expires_s=time.time() + years * 365 * 86400), make("other")
    for pair in pairs:
        tier.put(*pair)
    assert answers(tier, *pairs)[-1] == "Hi"
    assert years > 300 or answers(tier, pairs[0]) == ["Hi"]
    assert not any("can't be used" in line for line in tier.told)


@pytest.mark.parametrize("name", ["x" * 300, "with a blank"])
def test_refused__one_value_leaves_the_server_in_use(open_tier, memcached_server, redis_server, make, name):
    """A value that a server refuses is told once; others are kept and found."""
    for server, ttl_s in ((memcached_server, None), (redis_server, 1e18)):
        tier, pair = open_tier(server.url), make()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="does not take this"):
                tier.link.ask(lambda server, ttl_s=ttl_s: server.put(name, b"v", b"{}", ttl_s), writes=True)
        tier.put(*pair)
        assert answers(tier, pair) == ["Hi"]
        assert len(tier.told) == 1


def test_redis__the_index_is_trimmed(open_tier, redis_server, make):
    """What the server forgot by itself leaves the index at later puts."""
    tier = open_tier(redis_server.url)
    short = [make(f"short {i}", expires_s=time.time() + 0.5) for i in range(20)]
    for pair in short:
        tier.put(*pair)
    gone = {entry.key.digest.encode() for entry, _ in short}

    def indexed():
        with closing(redis_server.client()) as client:
            return {name for key in client.scan_iter("*:index") for name in client.hgetall(key)}

    assert indexed() <= gone
    number = itertools.count()
    eventually(lambda: tier.put(*make(f"long {next(number)}")) or not indexed() & gone)
    assert len(indexed()) == next(number)


# -- sizes ------------------------------------------------------------------------------------


def test_memcached__too_large_is_kept_local_and_said_once(open_store, memcached_server, make):
    """What Memcached's limit refuses stays on disk; one line says so; what fits is shared on."""
    store = open_store(memcached_server.url)
    noise = "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(900_000))
    for i in range(3):
        pair = make(f"large {i}", noise)
        store.disk.put(*pair)
        store.put(*pair)
    store.put(*make("small"))

    assert store.disk.get(pair[0].key) == pair[0]
    assert len(store.tier.told) == 1
    assert "takes no answer of" in store.tier.told[0]
    assert answers(store.tier, pair, make("small")) == [None, "Hi"]


def test_redis__large_values_are_compressed(open_tier, redis_server, make):
    """A text that repeats itself takes a fraction of its size on the server, and comes back whole."""
    tier = open_tier(redis_server.url)
    pair = make(text="All work and no play. " * 50_000)
    tier.put(*pair)

    with closing(redis_server.client()) as client:
        stored = sum(client.strlen(key) for key in client.scan_iter() if client.type(key) == b"string")
    assert stored < 20_000
    assert answers(tier, pair) == [pair[0].answer.text]


# -- purges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", SECRET])
@pytest.mark.parametrize(
    "wanted",
    [
        EntryFilter(model="m/1"),
        EntryFilter(model="m/1*"),
        EntryFilter(system="system 1"),
        EntryFilter(tag="tag1"),
        EntryFilter(prefix="prompt 1"),
        EntryFilter(created_after_s=101.0, created_before_s=102.0),
        EntryFilter(expired_at_s=1.5e10),
        EntryFilter(model="m/1", tag="tag1"),
    ],
    ids=str,
)
def test_purge__by_the_index(open_tier, redis_server, make, wanted, secret):
    """Redis's index finds what a purge means, without a disk that knows it; other entries stay.

    With a secret no prompt is on the server, so a prefix is nothing that it could know.
    """
    tier = open_tier(redis_server.url, secret=secret)
    pairs = [
        make(
            f"prompt {i}",
            model=f"m/{i}",
            system=f"system {i}",
            tags=(f"tag{i}",),
            created_s=100.0 + i,
            expires_s=1.5e10 if i == 1 else None,
        )
        for i in range(3)
    ]
    for pair in pairs:
        tier.put(*pair)
    known = not (secret and wanted.prefix)

    assert tier.purge(wanted) == (1 if known else 0)
    assert answers(tier, *pairs) == ["Hi", None if known else "Hi", "Hi"]


@pytest.mark.parametrize("secret", ["", SECRET])
def test_purge__by_key(open_tier, redis_server, make, secret):
    """A whole key names its entry; its beginning does where names are keys."""
    tier = open_tier(redis_server.url, secret=secret)
    kept, gone, other = make("kept"), make("gone"), make("other")
    for pair in (kept, gone, other):
        tier.put(*pair)

    tier.purge(EntryFilter(keys=(gone[0].key.digest,)))
    tier.purge(EntryFilter(keys=(other[0].key.digest[:12],)))
    assert answers(tier, kept, gone, other) == ["Hi", None, "Hi" if secret else None]


def test_purge__by_what_the_disk_knows(open_store, server, make):
    """Each condition reaches the server by the names that the disk finds, index or none."""
    store = open_store(server.url)
    pairs = [make(f"prompt {i}", f"answer {i}", model=f"m/{i}") for i in range(4)]
    for pair in pairs:
        store.disk.put(*pair)
        store.put(*pair)

    assert store.purge(EntryFilter(model="m/1")) == 1
    assert store.purge(EntryFilter(prefix="prompt 2")) == 1
    assert store.purge(EntryFilter(text="answer 3")) == 1
    assert answers(store.tier, *pairs) == ["answer 0", None, None, None]


def test_purge__all_is_all_of_the_namespace(open_tier, server, make):
    """All goes, also what this machine never saw; another namespace on the same server stays."""
    first, second, other = (
        open_tier(server.url),
        open_tier(server.url),
        open_tier(server.url, namespace="other"),
    )
    pairs = [make(f"prompt {i}") for i in range(40)]
    for pair in pairs:
        first.put(*pair)
        other.put(*pair)

    second.purge(EntryFilter())
    assert answers(first, *pairs) == [None] * 40
    assert answers(other, *pairs) == ["Hi"] * 40
    first.put(*pairs[0])
    assert answers(second, pairs[0]) == ["Hi"]


def test_purge__to_fit_is_this_disks_affair(open_store, server, make):
    """Making room on one disk takes nothing from the team."""
    store = open_store(server.url)
    pair = make()
    store.disk.put(*pair)
    store.put(*pair)

    assert store.purge(EntryFilter(to_fit_bytes=0, to_fit_at_s=2e9)) == 1
    assert answers(store.tier, pair) == ["Hi"]


def test_purge__an_unknown_condition_removes_nothing(open_tier, redis_server, make):
    """A condition that only a disk can judge never means an entry of the index."""
    tier = open_tier(redis_server.url)
    pair = make("prompt", "answer")
    tier.put(*pair)
    assert tier.purge(EntryFilter(text="answer")) == 0
    assert answers(tier, pair) == ["answer"]


def test_memcached__a_lost_generation_brings_nothing_back(open_tier, memcached_server, make):
    """When the server evicts the generation, purged entries stay purged."""
    tier = open_tier(memcached_server.url)
    old, new = make("old"), make("new")
    tier.put(*old)
    tier.purge(EntryFilter())
    with closing(memcached_server.client()) as client:
        client.delete("test:1:generation")
    tier.put(*new)

    assert answers(tier, old, new) == [None, "Hi"]


def test_redis__a_lost_index_serves_nothing(open_tier, redis_server, make):
    """What a purge could not find any more is not served."""
    tier = open_tier(redis_server.url)
    pair = make()
    tier.put(*pair)
    with closing(redis_server.client()) as client:
        client.delete(*client.scan_iter("*:index"))

    assert answers(tier, pair) == [None]
    assert tier.told == []


# -- the team's secret ------------------------------------------------------------------------


def everything_on(server: Redis) -> bytes:
    """All names and values of a server."""
    whole = b""
    with closing(server.client()) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            value = (
                client.get(key)
                if kind == b"string"
                else repr(client.hgetall(key) if kind == b"hash" else client.zrange(key, 0, -1)).encode()
            )
            whole += key + b" " + value + b"\n"
    return whole


def test_secret__the_server_can_not_be_probed(open_tier, redis_server, make):
    """With the secret, no key, prompt, system prompt or its digest is on the server; without, keys are."""
    entry, request = make("Is Alice ill?", "No.", system="You are a doctor.")
    open_tier(redis_server.url).put(entry, request)
    assert entry.key.digest.encode() in everything_on(redis_server)
    redis_server.empty()

    open_tier(redis_server.url, secret=SECRET).put(entry, request)
    whole = everything_on(redis_server)
    assert whole
    for probe in (entry.key.digest.encode(), entry.key.skeleton, b"Alice", b"doctor", SECRET.encode()):
        assert probe not in whole


def test_secret__who_lacks_it_finds_nothing(open_tier, server, make):
    """Without the secret, or with another, there is nothing to find; with it there is."""
    pair = make()
    open_tier(server.url, secret=SECRET).put(*pair)

    assert answers(open_tier(server.url), pair) == [None]
    assert answers(open_tier(server.url, secret=SECRET + "!"), pair) == [None]
    assert answers(open_tier(server.url, secret=SECRET), pair) == ["Hi"]


def test_secret__who_lacks_it_can_not_plant_an_answer(open_tier, redis_server, make):
    """A value that was put under the right name without the secret is refused, and told."""
    pair = make(text="the truth")
    tier = open_tier(redis_server.url, secret=SECRET)
    tier.put(*pair)
    forged = open_tier(redis_server.url)
    forged.put(*make(text="a lie"))
    with closing(redis_server.client()) as client:
        (lie,) = [k for k in client.scan_iter("{test:1:*") if client.type(k) == b"string"]
        (truth,) = [k for k in client.scan_iter("{test.*") if client.type(k) == b"string"]
        client.set(truth, client.get(lie))

    assert answers(tier, pair) == [None]
    assert len(tier.told) == 1
    assert "secret" in tier.told[0]


def test_secret__too_short_is_refused(open_tier):
    """A secret that could be guessed is none; it is not repeated."""
    with pytest.raises(SettingError, match="OR_CACHE_SHARED_SECRET") as caught:
        open_tier("redis://127.0.0.1:1", secret="hunter2")
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


# -- prompts on the server --------------------------------------------------------------------


def test_put__takes_no_notebook_along(open_tier, redis_server, make):
    """Where it was asked from is nobody's business; the prompt is there only as its beginning, to purge by."""
    tier = open_tier(redis_server.url)
    pair = make("y" * 400 + "x" * 400, notebook="thesis-of-alice.ipynb")
    tier.put(*pair)
    whole = everything_on(redis_server)

    assert tier.get(pair[0].key).notebook == ""
    assert b"alice" not in whole
    assert b"x" * 101 not in whole


def test_servers__are_what_they_say(redis_server, memcached_server):
    """Both fixtures are real processes."""
    assert isinstance(redis_server, Redis)
    assert isinstance(memcached_server, Memcached)
    assert redis_server.process.poll() is memcached_server.process.poll() is None
