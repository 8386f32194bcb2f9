"""Servers that are down, hang, drip, babble, are full or hostile: each costs one short timeout, and one line."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
import tracemalloc
import zlib
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.records import Cost, Usage
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.settings import Project, load_settings, parse_setting, parse_shared_url
from or_cache_magic.errors import SettingError, StoreError, StoreUnavailableError
from or_cache_magic.storage.codec import encode_entry
from or_cache_magic.storage.shared.link import Breaker
from or_cache_magic.storage.shared.store import Signing

from . import servers
from .servers import Faulty, Memcached, Process, Redis, eventually

TIMEOUT_S = 0.3
SLACK_S = 10.0  # of a busy machine; less than what each of fifty asks would wait for
PROMPT = "What is a median?"


@pytest.fixture
def start(tmp_path):
    """``start(kind, *options)`` is a server of the test's own, which it may kill."""
    running = []

    def started(kind, *options):
        (tmp_path / "server").mkdir()
        running.append(kind(tmp_path / "server", *options))
        return running[-1]

    yield started
    for server in running:
        server.kill()


@pytest.fixture
def faulty():
    running = []

    def start(scheme, behave):
        server = Faulty(scheme, behave)
        running.append(server)
        return server

    yield start
    for server in running:
        server.close()


FAULTS = [
    ("redis", servers.hangs),
    ("memcached", servers.hangs),
    ("redis", servers.drips),
    ("memcached", servers.drips_memcached),
    ("redis", servers.babbles),
    ("memcached", servers.babbles),
    ("redis", servers.floods),
    ("memcached", servers.floods),
    ("redis", servers.hangs_up),
    ("memcached", servers.hangs_up),
    ("rediss", servers.babbles),
    ("rediss", servers.hangs),
]


@pytest.mark.parametrize(
    ("scheme", "behave"), FAULTS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_fault__costs_one_timeout_and_one_line(faulty, machine, sim, scheme, behave):
    """Whatever the server does, each of twenty asks is answered, one timeout is paid, one line is said."""
    server = faulty(scheme, behave)
    cache = machine("a", server.url, timeout_s=TIMEOUT_S)
    cache.ask("warm up", mode="bypass")
    began_s = time.monotonic()
    first = cache.ask(PROMPT)
    first_s = time.monotonic() - began_s
    assert all(cache.ask(f"{PROMPT} {i}").outcome.stored for i in range(19))

    assert first.outcome.stored
    assert first_s < TIMEOUT_S + SLACK_S
    (line,) = cache.database.pop_notices()
    assert "can't be used" in line
    assert "Asks go on without it" in line
    assert sim.completion_count == 21
    assert cache.ask(PROMPT).outcome.kind == "hit"


@pytest.mark.parametrize("scheme", ["redis", "memcached"])
def test_fault__down_at_the_start(machine, scheme):
    """A server that is not there is said once; asks are answered and kept on disk."""
    cache = machine("a", f"{scheme}://127.0.0.1:{servers.free_port()}", timeout_s=TIMEOUT_S)
    assert cache.ask(PROMPT).outcome.stored
    assert cache.ask(PROMPT).outcome.kind == "hit"
    assert len(cache.database.pop_notices()) == 1


@pytest.mark.parametrize("kind", [Redis, Memcached])
def test_fault__stops_for_a_while(open_tier, start, make, kind):
    """A server that stops answering costs one timeout; when it goes on it is used again, and both are said."""
    server = start(kind)
    tier = open_tier(server.url, timeout_s=TIMEOUT_S)
    pair = make()
    tier.put(*pair)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        assert [tier.get(pair[0].key) for _ in range(50)] == [None] * 50
        assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S
    finally:
        os.kill(server.process.pid, signal.SIGCONT)

    assert eventually(lambda: tier.get(pair[0].key)).answer == pair[0].answer
    assert ["can't be used" in line for line in tier.told] == [True, False]
    assert "is used again" in tier.told[1]


@pytest.mark.parametrize("kind", [Redis, Memcached])
def test_restart__in_mid_run_fails_no_ask(machine, start, sim, kind):
    """Two hundred asks of two machines while the server is killed and started again: none fails, few are asked twice.

    Twice is asked only what came up while the server was away, or still left alone: nothing before, and
    nothing after it is used again, which it is by itself.
    """
    server = start(kind)
    caches = _, second = [machine(name, server.url, timeout_s=TIMEOUT_S) for name in "ab"]
    slowest_s, told, twice, back = 0.0, [], [], None
    for number in itertools.count():
        if number == 20:
            server.kill()
        if number == 60:
            server.start()
        for cache in caches:
            began_s, before = time.monotonic(), sim.completion_count
            answer = cache.ask(f"question {number}")
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            assert answer.outcome.stored
            if cache is second and sim.completion_count > before:
                twice.append(number)
            told += cache.database.pop_notices()
        if back is None and len(told) == 4:
            back = number
        if back is not None and number >= max(99, back + 20):
            break
        if number > 99:
            time.sleep(0.02)  # the breakers' seconds, without a thousand asks

    print(f"asked twice: {len(twice)}; {twice[0]} to {twice[-1]}; slowest ask: {slowest_s:.3f} s")  # noqa: T201 - for -rP
    assert slowest_s < TIMEOUT_S + SLACK_S
    assert twice == list(range(20, 20 + len(twice)))
    assert twice[-1] <= back
    assert ["can't be used" in line for line in told] == [True, True, False, False]


def test_full__reads_go_on(open_tier, start, make):
    """A full Redis is said once; what it has is still served; when there is room, it takes answers again."""
    server = start(Redis, "--maxmemory-policy", "noeviction")
    tier = open_tier(server.url)
    kept, refused = make("kept"), make("refused")
    tier.put(*kept)
    with closing(server.client()) as client:
        client.config_set("maxmemory", "1mb")
        for _ in range(5):
            tier.put(*refused)
            assert tier.get(kept[0].key) is not None
        assert len(tier.told) == 1
        assert "takes no more" in tier.told[0]
        client.config_set("maxmemory", "0")
    eventually(lambda: tier.put(*refused) or tier.get(refused[0].key))
    assert "takes answers again" in tier.told[1]


def test_denied__a_wrong_password_is_said_without_it(machine, start):
    """A refused password opens the breaker; neither the line nor anything else shows it."""
    server = start(Redis, "--requirepass", "correct-horse")
    cache = machine("a", f"redis://:wrong-battery@127.0.0.1:{server.port}/0")
    assert cache.ask(PROMPT).outcome.stored
    (line,) = cache.database.pop_notices()
    assert "wrong-battery" not in line
    assert f"redis://127.0.0.1:{server.port}/0 can't be used" in line


def test_password__is_in_no_output(machine, start, tmp_path, caplog, capfd):
    """The URL's password works, and is in no text, repr, error, table, log or file of ours."""
    caplog.set_level(0)
    server = start(Redis, "--requirepass", "s3cr%t")
    url = f"redis://default:s3cr%25t@127.0.0.1:{server.port}/0"
    first, second = machine("a", url), machine("b", url)
    first.ask(PROMPT)
    assert second.ask(PROMPT).outcome.kind == "shared"

    from or_cache_magic.notebook.status import settings_frame

    server.kill()
    second.ask("again")
    second.flush()
    lines = second.database.pop_notices()
    with pytest.raises(StoreUnavailableError) as caught:
        second.purge(all=True)
    shown = [
        *lines, repr(second.settings), str(second.settings), f"{second.settings.shared_url}",
        settings_frame(second.settings).to_string(), str(settings_frame(second.settings).to_dict()),
        str(caught.value), repr(second), caplog.text, *capfd.readouterr(),
    ]  # fmt: skip
    whole = "\n".join(shown).encode() + b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )
    assert lines
    assert b"s3cr" not in whole


@pytest.mark.parametrize(
    "text", ["redis://:pa55@host:notaport", "ftp://:pa55@host", "memcached://u:pa55@h:1"]
)
def test_settings__a_malformed_url_is_not_repeated(text):
    """The error of a URL that is none does not show what may be a password."""
    with pytest.raises(SettingError, match="shared_url") as caught:
        parse_setting("shared_url", text, "OR_CACHE_SHARED_URL")
    assert "pa55" not in str(caught.value)
    assert caught.value.__cause__ is None or "pa55" not in str(caught.value.__cause__)


def test_settings__no_project_chooses_the_server(tmp_path):
    """A stranger's pyproject.toml may not send answers elsewhere; the environment may."""
    (tmp_path / "pyproject.toml").write_text('[tool.or_cache_magic]\nshared_url = "redis://evil.example"\n')
    with pytest.raises(SettingError, match="shared_url"):
        load_settings({}, Project(tmp_path), {})

    (tmp_path / "pyproject.toml").write_text('[tool.or_cache_magic]\nshared_namespace = "stats-2026"\n')
    found = load_settings({"OR_CACHE_SHARED_URL": "rediss://host"}, Project(tmp_path), {})
    assert (found.shared_url, found.shared_namespace) == (parse_shared_url("rediss://host"), "stats-2026")


@pytest.mark.parametrize("namespace", ["", "a b", "a{b}", "a:b", "x" * 65, "ü"])
def test_settings__a_namespace_is_plain(namespace):
    """A namespace is a part of names on the server: no hash tag, no separator, no space."""
    with pytest.raises(SettingError, match="shared_namespace"):
        parse_setting("shared_namespace", namespace, "here")


def test_purge__unreachable_removes_nothing(open_store, start, make):
    """A purge that can't reach the server says so, keeps the disk's entries, and works when it is back."""
    server = start(Redis)
    store = open_store(server.url, timeout_s=TIMEOUT_S)
    pair = make()
    store.disk.put(*pair)
    store.put(*pair)
    server.kill()
    with pytest.raises(StoreUnavailableError, match="can't be used") as caught:
        store.purge(EntryFilter(model="*"))
    assert "OR_CACHE_SHARED_URL=" in caught.value.hint
    assert store.disk.get(pair[0].key) == pair[0]

    server.start()
    assert store.purge(EntryFilter(model="*")) == 1
    assert store.fetch(pair[0].key, pair[1]) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="fork with threads warns")
def test_fork__a_child_has_connections_of_its_own(open_tier, server, make):
    """Parent and child ask at the same time, each over its own connection, and get their own answers."""
    tier = open_tier(server.url)
    pairs = [make(f"prompt {i}", f"answer {i}") for i in range(30)]
    for pair in pairs:
        tier.put(*pair)

    def read(pipe):
        pipe.send([tier.get(entry.key).answer.text for entry, _ in pairs])

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=read, args=(there,))
    child.start()
    mine = [tier.get(entry.key).answer.text for entry, _ in pairs]
    theirs = here.recv()
    child.join()
    here.close()
    there.close()
    assert mine == theirs == [f"answer {i}" for i in range(30)]
    assert tier.told == []


# -- foreign values ---------------------------------------------------------------------------


class _Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def entry_with(pair, **changes):
    entry = pair[0]
    fingerprint = Signing("test").fingerprint(entry.key.skeleton)
    answer = entry.answer._replace(**{k: v for k, v in changes.items() if k in entry.answer._fields})
    outer = {k: v for k, v in changes.items() if k not in entry.answer._fields}
    return encode_entry(
        entry._replace(key=entry.key._replace(skeleton=fingerprint), answer=answer)._replace(**outer)
    )


def _bomb(pair) -> bytes:
    """Some kilobytes that inflate to 200 MB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    stored = b"".join(deflate.compress(zeros) for _ in range(200)) + deflate.flush()
    checksum = zlib.crc32(stored, zlib.crc32(pair[0].key.digest.encode(), 2))
    return bytes([2]) + checksum.to_bytes(4, "big") + stored


ATTACKS = {
    "pickle": lambda pair: pickle.dumps(_Evil()),
    "html": lambda pair: b"<html><script>alert(1)</script></html>",
    "json": lambda pair: json.dumps({"answer": "42"}).encode(),
    "one byte": lambda pair: b"\x01",
    "100 MB": lambda pair: b"x" * 100_000_000,
    "bomb": _bomb,
    "another request": lambda pair: encode_entry(pair[0]),
    "flipped": lambda pair: entry_with(pair)[:-1] + bytes([entry_with(pair)[-1] ^ 1]),
    "year 1e15": lambda pair: entry_with(pair, created_s=1e15),
    "before time": lambda pair: entry_with(pair, expires_s=-1.0),
    "priced in quadrillions": lambda pair: entry_with(pair, cost=Cost(Decimal("1E+15"), "reported")),
    "huge exponent": lambda pair: entry_with(pair, cost=Cost(Decimal("1E+999999"), "reported")),
    "negative price": lambda pair: entry_with(pair, cost=Cost(Decimal(-5), "reported")),
    "negative tokens": lambda pair: entry_with(pair, usage=Usage(-1, 5)),
    "2**70 tokens": lambda pair: entry_with(pair, usage=Usage(2**70, 5)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_foreign__value_is_refused_and_told_once(
    open_tier, redis_server, make, tmp_path, monkeypatch, attack
):
    """Whatever stands under a name of ours: it is not served, said once, not executed, and no failure."""
    monkeypatch.chdir(tmp_path)
    tier_timeout_s = 20.0
    tier = open_tier(redis_server.url, timeout_s=tier_timeout_s)
    pair, good = make("attacked"), make("good")
    tier.put(*pair)
    tier.put(*good)
    key = f"{{test:1:{pair[0].key.digest[0]}}}:{pair[0].key.digest}"
    with closing(redis_server.client()) as client:
        assert client.exists(key)
        client.set(key, ATTACKS[attack](pair))
    began_s = time.monotonic()

    assert [tier.get(pair[0].key) for _ in range(2)] == [None, None]
    assert time.monotonic() - began_s < tier_timeout_s  # no wait at all
    assert len(tier.told) == 1
    assert ("a value of 100 MB" in tier.told[0]) == (attack == "100 MB")  # refused before it was fetched
    assert tier.get(good[0].key).answer == good[0].answer
    assert not (tmp_path / "pwned").exists()
    tier.put(*pair)
    assert tier.get(pair[0].key).answer == pair[0].answer


def test_foreign__a_bomb_is_not_inflated(open_tier, redis_server, make):
    """A value that would be 200 MB is given up at 32."""
    tier = open_tier(redis_server.url, timeout_s=20.0)
    pair = make()
    tier.put(*pair)
    with closing(redis_server.client()) as client:
        client.set(f"{{test:1:{pair[0].key.digest[0]}}}:{pair[0].key.digest}", _bomb(pair))
    tracemalloc.start()
    try:
        assert tier.get(pair[0].key) is None
        assert tracemalloc.get_traced_memory()[1] < 120 << 20
    finally:
        tracemalloc.stop()


def test_foreign__another_type_is_refused(open_tier, redis_server, make):
    """A list where a value, a text where the index should be: refused, said, and no failure."""
    tier = open_tier(redis_server.url)
    pair, other = make("a"), make("b")
    tier.put(*pair)
    shard = f"{{test:1:{pair[0].key.digest[0]}}}"
    with closing(redis_server.client()) as client:
        client.delete(f"{shard}:{pair[0].key.digest}")
        client.rpush(f"{shard}:{pair[0].key.digest}", "x")
        assert tier.get(pair[0].key) is None
        client.set(f"{shard}:index", "x")
        assert tier.get(pair[0].key) is None
        tier.put(*pair)
        tier.purge(EntryFilter(model="*"))
        tier.purge(EntryFilter())
    tier.put(*pair)
    tier.put(*other)

    assert tier.get(pair[0].key).answer == pair[0].answer
    assert all("holds" in line for line in tier.told)
    assert len(tier.told) == 3


def test_foreign__an_answer_that_we_would_not_keep(machine, redis_server, sim, make, clock):
    """An answer that a filter cut, planted in a sound entry, is not served: it is asked for."""
    first, second = machine("a", redis_server.url), machine("b", redis_server.url)
    bought = first.ask(PROMPT)
    tier = first.shared._shared()
    entry, request = first.store.entry(bought.key), bought.request
    choice = entry.answer.choices[0]._replace(finish_reason="content_filter")
    tier.put(entry._replace(answer=entry.answer._replace(choices=(choice,))), request)

    assert second.ask(PROMPT).outcome.kind == "miss"
    assert sim.completion_count == 2


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_foreign__any_value_at_all(store_of_any, make, data):
    """Random bytes, and random JSON under a right checksum, never raise anything; at most they are served whole."""
    pair = make()
    fields = {
        name: data.draw(st.sampled_from([value, None]) | _JSON, name)
        for name, value in {
            "created": 1.0, "expires": 2e10, "tags": ["a"], "notebook": "n", "by": "b", "v": 1,
            "answer": {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
                       "created_s": 1.0, "elapsed_s": 1.0, "usage": data.draw(_JSON), "cost": data.draw(_JSON)},
        }.items()
    }  # fmt: skip
    fields = {name: value for name, value in fields.items() if value is not None}
    value = data.draw(st.binary(max_size=300) | st.just(_packed(pair, fields)))
    store_of_any.server.value = value

    found = store_of_any.fetch(pair[0].key, pair[1])
    assert found is None or found.answer.text == "Hi"


def _packed(pair, content) -> bytes:
    """Any JSON as a blob with a right checksum and fingerprint."""
    skeleton = Signing("test").fingerprint(pair[0].key.skeleton)
    payload = b"\x00\x00" + len(skeleton).to_bytes(4, "big") + skeleton
    blob = encode_entry(pair[0])
    head = (2 + 4) if len(blob) else 0
    assert head == 6
    payload += json.dumps(content).encode("utf-8", "surrogatepass")
    checksum = zlib.crc32(payload, zlib.crc32(pair[0].key.digest.encode(), 1))
    return bytes([1]) + checksum.to_bytes(4, "big") + payload


class _Any:
    """A server that gives the same value for every name."""

    value = b""

    def get(self, name):
        return self.value

    def close(self):
        pass


@pytest.fixture
def store_of_any(tmp_path):
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.entries import DiskStore
    from or_cache_magic.storage.shared.link import Link
    from or_cache_magic.storage.shared.store import SharedStore
    from or_cache_magic.storage.tier import SharedTier

    server, database = _Any(), Database(tmp_path / "any", timeout_s=5.0)
    link = Link(parse_shared_url("redis://any"), lambda: server, timeout_s=20.0, tell=lambda _line: None)
    store = SharedTier(DiskStore(database), lambda: SharedStore(link, Signing("test")))
    store.server = server
    yield store
    database.close()


# -- the breaker ------------------------------------------------------------------------------


class _Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_breaker__waits_longer_each_time_and_closes_at_once():
    """One failure opens it; one try at a time is let through, ever later; one success closes it."""
    clock = _Time()
    breaker = Breaker(1.0, 5.0, clock)
    assert breaker.allows()
    assert not breaker.succeeded()
    assert breaker.failed()
    assert not breaker.failed()  # of one that began before
    waits = []
    for _ in range(4):
        began_s = clock.now_s
        while not breaker.allows():
            clock.now_s += 0.25
        waits.append(clock.now_s - began_s)
        assert not breaker.allows()  # one at a time
        assert not breaker.failed()
    assert waits == [1.0, 2.0, 4.0, 5.0]
    clock.now_s += 5.0
    assert breaker.allows()
    assert breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_breaker__who_tries_and_is_never_heard_of():
    """A try that ends without a word does not keep it open for ever."""
    clock = _Time()
    breaker = Breaker(1.0, 5.0, clock)
    breaker.failed()
    clock.now_s = 1.0
    assert breaker.allows()
    clock.now_s = 2.0
    assert breaker.allows()


def test_link__down_is_an_error_of_the_tree(open_tier):
    """Whoever asks the link directly gets a store error, in two lines."""
    tier = open_tier("redis://127.0.0.1:1", timeout_s=TIMEOUT_S)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            tier.link.ask(lambda server: server.get("0" * 64))
        assert len(str(caught.value).splitlines()) == 2


def test_url__shows_no_password():
    """A URL shows where the server is, and compares by all of it."""
    url = parse_shared_url("rediss://me:pa55@db.example:7000/2?ssl_cert_reqs=none")
    assert (str(url), repr(url), f"{url}") == (
        "rediss://db.example:7000/2",
        "'rediss://db.example:7000/2'",
        "rediss://db.example:7000/2",
    )
    assert url == parse_shared_url(url.reveal())
    assert url != parse_shared_url("rediss://me:other@db.example:7000/2?ssl_cert_reqs=none")
    assert len({url, parse_shared_url(url.reveal())}) == 1
    assert str(parse_shared_url("memcached://[::1]")) == "memcached://[::1]:11211"


def test_process__is_abstract():
    """The base of the fixtures starts nothing by itself."""
    with pytest.raises(NotImplementedError):
        Process.command(object())
