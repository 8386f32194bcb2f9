"""Files with older keys are brought up to date without buying anything; newer files are left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import Request, RequestKey
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.errors import NewerStoreError, StoreBusyError
from or_cache_magic.simulator import Simulator
from or_cache_magic.storage.codec import encode_request
from or_cache_magic.storage.columns import HitCount, request_columns
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.schema import SCHEMA_VERSION
from or_cache_magic.storage.upgrade import stored_request

from .conftest import mark_older, old_key, record_hits

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("layout*"))
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts need root")
AT_S = 1_767_268_800.0


@pytest.fixture
def old_store(folder):
    """What writes entries with old keys; closed and marked as older by `close_old`."""
    with closing(Database(folder, timeout_s=0.2)) as database:
        yield DiskStore(database)


@pytest.fixture
def close_old(folder, old_store):
    """Lets the file be one of an older version."""

    def close():
        old_store._database.close()
        mark_older(folder)

    return close


@pytest.fixture
def old_pairs(old_store, close_old, make):
    """Twelve hundred entries with old keys, in a closed file; the entries as this version would have them."""
    pairs = [make(f"prompt {i}", f"answer {i} " * 20, created_s=AT_S + i) for i in range(1200)]
    with old_store._database.transaction():
        for entry, request in pairs:
            old_store.put(entry._replace(key=old_key(request)), request)
    close_old()
    return pairs


def digests_in(folder):
    """The keys in the file, read beside whoever has it open."""
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM Cache")}


def test_older_keys__every_answer_is_served_and_nothing_is_bought(folder, old_store, close_old, make):
    """An ask that the older version paid for is a hit: other requests than text, too, and it is said once."""
    with Simulator() as sim:
        settings = Settings(model="openai/gpt-4o-mini", base_url=sim.base_url)

        def opened(directory):
            return CompletionCache(directory, settings=lambda: settings, api_key=lambda: "sk-or-v1-test")

        def ask(cache):
            return [
                cache.ask("plain"),
                cache.ask("sampled", sample=3, temperature=1),
                cache.ask("seeded", seed=7),
                cache.ask("whole", stream=False),
            ]

        with opened(folder.with_name("bought")) as cache:
            bought = ask(cache)
            for answer in bought:
                entry = cache.store.entry(answer.key)
                old_store.put(entry._replace(key=old_key(answer.request)), answer.request)
        close_old()
        sent = sim.completion_count
        with opened(folder) as cache:
            again = ask(cache)
            said = cache.database.pop_notices()
            assert [a.cached for a in again] == [True] * 4
            assert again == bought
            assert sim.completion_count == sent
        assert len(said) == 1
        assert "4 entries re-keyed" in said[0]
        with opened(folder) as cache:
            assert ask(cache) == bought
            assert cache.database.pop_notices() == ()


def test_older_keys__everything_about_an_entry_is_kept(old_store, close_old, store, make):
    """Hits, savings, labels, lifetime and history come along; the ledger is not touched."""
    entry, request = make(tags=("t",), notebook="n.ipynb", expires_s=2e9, system="s")
    request = request._replace(sample=1, stream=False, base_url="http://127.0.0.1:9/api/v1")
    entry, old = entry._replace(key=request_key(request)), entry._replace(key=old_key(request))
    old_store.put(old._replace(answer=make(text="earlier")[0].answer), request)
    old_store.put(old, request, replaced_reason="asked again")
    record_hits(old_store, {old.key.digest: HitCount(3, 9.0, 10**12)})
    old_store.keep_unserved(old.key, request, old.answer, "cut off", 5.0)
    (before,) = old_store.listing.find()
    close_old()

    assert store.get(entry.key) == entry
    (row,) = store.listing.find(EntryFilter(tag="t", system="s"))
    assert row._replace(size_bytes=0) == before._replace(key=entry.key.digest, size_bytes=0)
    assert store.request(entry.key.digest) == request.body
    history = [(u.reason, u.answer.text, u.request) for u in store.unserved(entry.key.digest)]
    assert history == [("asked again", "earlier", request.body), ("cut off", "Hi", request.body)]
    assert store.listing.size_bytes() == row.size_bytes
    assert store.unserved(old.key.digest) == []


def test_older_keys__two_that_are_one_now(old_store, close_old, store, make):
    """Of two requests that became one the newer answer is served, the other is history, and hits add up."""
    older, newer = make(text="older", created_s=1.0), make(text="newer", created_s=2.0)
    for (entry, request), seed in ((newer, 1), (older, 2)):
        apart = RequestKey(sha256(b"%d" % seed).hexdigest(), entry.key.skeleton)
        old_store.put(entry._replace(key=apart), request)
        record_hits(old_store, {apart.digest: HitCount(seed, float(seed), seed)})
    close_old()

    assert store.get(newer[0].key) == newer[0]
    assert store.listing.count()[0] == 1
    (row,) = store.listing.find()
    assert (row.hits, row.last_hit_s) == (3, 2.0)
    assert [u.answer.text for u in store.unserved(newer[0].key.digest)] == ["older"]


def test_older_keys__a_damaged_request_is_left_and_told(old_store, close_old, store, database, make):
    """An entry whose request can't be read keeps its old key and is never served for anything."""
    whole, damaged = make("whole"), make("damaged")
    for entry, request in (whole, damaged):
        old_store.put(entry._replace(key=old_key(request)), request)
    digest = old_key(damaged[1]).digest
    with old_store._database.transaction() as connection:
        connection.execute(
            "UPDATE or_request SET body = x'00' WHERE id = (SELECT rowid FROM Cache WHERE key = ?)", (digest,)
        )
    close_old()

    assert store.get(whole[0].key) == whole[0]
    assert store.get(damaged[0].key) is None
    assert store.entry(digest) is not None
    (said,) = database.pop_notices()
    assert "1 could not be read" in said


def test_older_keys__killed_in_the_middle(folder, store, old_pairs):
    """Killed while it re-keys, the file is whole, each entry under one of its keys; the next opening goes on."""
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import make_request
        from or_cache_magic.core.key import request_key
        from or_cache_magic.storage.database import Database
        from or_cache_magic.storage.entries import DiskStore
        count = 0
        def kill_at_700(frame, event, _):
            global count
            count += event == "call" and frame.f_code is request_key.__code__
            if count == 700:
                os.kill(os.getpid(), signal.SIGKILL)
        key = request_key(make_request("x"))
        sys.setprofile(kill_at_700)
        DiskStore(Database({str(folder)!r})).get(key)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert killed.returncode == -signal.SIGKILL
    digests = digests_in(folder)
    still_old = [old_key(request).digest in digests for _, request in old_pairs]
    assert (still_old.count(False), still_old.count(True)) == (500, 700)
    assert len(digests) == len(old_pairs)

    assert all(store.get(entry.key) == entry for entry, _ in old_pairs)
    assert store.listing.count()[0] == len(old_pairs)


def test_older_keys__readers_meanwhile_see_either(folder, store, old_pairs):
    """While one kernel re-keys, others read every entry under its old key or its new one."""
    seen, calls = [], 0

    def look_at_800(frame, event, _):
        nonlocal calls
        calls += event == "call" and frame.f_code is request_key.__code__
        if calls == 800 and not seen:
            digests = digests_in(folder)
            seen.extend((old_key(r).digest in digests, e.key.digest in digests) for e, r in old_pairs)

    before = sys.getprofile()
    sys.setprofile(look_at_800)
    try:
        store.get(old_pairs[0][0].key)
    finally:
        sys.setprofile(before)

    assert len(seen) == len(old_pairs)
    assert all(old != new for old, new in seen)
    assert {old for old, _ in seen} == {True, False}


def test_older_keys__several_kernels_open_at_once(folder, old_pairs):
    """Kernels that open the file at the same moment all serve everything, and no entry is lost or doubled."""
    served, together = [], threading.Barrier(3)

    def work():
        with closing(Database(folder)) as database:
            store = DiskStore(database)
            together.wait()
            served.append(sum(store.get(entry.key) == entry for entry, _ in old_pairs))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert served == [len(old_pairs)] * 3
    with closing(Database(folder)) as database:
        assert DiskStore(database).listing.count()[0] == len(old_pairs)


def test_older_keys__locked(folder, store, database, old_pairs, make):
    """A file that is being written is read as it is, which is said once; the next write re-keys it."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.get(old_pairs[0][0].key) is None
        assert store.listing.count()[0] == len(old_pairs)
        assert len(store.listing.find(limit=3)) == 3
        with pytest.raises(StoreBusyError):
            store.put(*make("new"))
        assert "older version" in " ".join(database.pop_notices())
        assert store.get(old_pairs[1][0].key) is None
        assert database.pop_notices() == ()
        other.execute("ROLLBACK")

    entry, request = make("new")
    store.put(entry, request)

    assert store.get(entry.key) == entry
    assert store.get(old_pairs[1][0].key) == old_pairs[1][0]
    assert "1,200 entries re-keyed" in " ".join(database.pop_notices())
    assert store.listing.count()[0] == len(old_pairs) + 1


def test_older_keys__waits_for_a_short_lock(folder, old_pairs):
    """Another kernel's write that ends in time costs no answer."""
    with (
        closing(Database(folder, timeout_s=30.0)) as database,
        closing(sqlite3.connect(folder / "cache.db", isolation_level=None, check_same_thread=False)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ("ROLLBACK",))
        release.start()
        assert DiskStore(database).get(old_pairs[0][0].key) == old_pairs[0][0]
        release.join()


@ROOT
def test_older_keys__read_only_mount_is_listed_and_untouched(folder, old_pairs, tmp_path):
    """Where nothing can be written, an older file is listed and counted, not re-keyed, which is said."""
    before = (folder / "cache.db").read_bytes()
    point = tmp_path / "mounted"
    point.mkdir()
    if subprocess.run(["mount", "--bind", folder, point], check=False, capture_output=True).returncode:
        pytest.skip("can't mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        with closing(Database(point, timeout_s=0.2)) as there:
            assert DiskStore(there).listing.count()[0] == len(old_pairs)
            assert Ledger(there, "s", lambda: AT_S).totals()[0].asks == 0
            assert "older version" in " ".join(there.pop_notices())
    finally:
        subprocess.run(["umount", "-l", point], check=True)
    assert (folder / "cache.db").read_bytes() == before


# -- newer files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", [(SCHEMA_VERSION + 1), 1000 * (KEY_VERSION + 1) + SCHEMA_VERSION])
def test_newer__is_refused_and_untouched(folder, store, database, make, stamp):
    """A newer layout or newer keys are refused, reading and writing, and not a byte is changed."""
    entry, request = make()
    store.put(entry, request)
    database.close()
    path = folder / "cache.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version={stamp}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()

    with pytest.raises(NewerStoreError, match="untouched"):
        store.get(entry.key)
    with pytest.raises(NewerStoreError, match="untouched"):
        store.put(*make("other"))
    database.close()
    assert path.read_bytes() == before
    assert [p.name for p in folder.glob("cache.db.corrupt*")] == []


@pytest.mark.parametrize("stamp", [(SCHEMA_VERSION + 1), 1000 * (KEY_VERSION + 1) + SCHEMA_VERSION])
def test_newer__is_not_written_by_who_has_it_open(folder, store, make, stamp):
    """A kernel that has the file open when a newer one changes it writes nothing from then on."""
    store.put(*make())
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version={stamp}")
        before = connection.execute("SELECT count(*) FROM Cache").fetchone()

        with pytest.raises(NewerStoreError, match="untouched"):
            store.put(*make("other"))
        assert connection.execute("SELECT count(*) FROM Cache").fetchone() == before


# -- what is released -----------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_released__every_answer_is_served(fixture, tmp_path):
    """A store of each released version serves each of its requests without a call, and its totals are right."""
    expected = json.loads((fixture / "expected.json").read_text())
    folder = Path(shutil.copytree(fixture, tmp_path / "released"))
    with Simulator() as sim:
        settings = Settings(base_url=sim.base_url)
        with CompletionCache(
            folder, settings=lambda: settings, api_key=lambda: "sk-or-v1-test", clock=lambda: AT_S + 10_000
        ) as cache:
            (totals,) = cache.totals()
            facts = {
                "calls": totals.asks,
                "hits": totals.hits,
                "paid": str(totals.paid_usd),
                "saved": str(totals.saved_usd),
                "unpriced": totals.unpriced,
            }
            assert facts == expected["totals"]
            assert cache.store.listing.count()[0] == expected["entries"]
            for body, stream, sample, base_url, text in expected["served"]:
                outcome = cache.run(_ask(Request(body, stream, sample, base_url), settings))
                assert (outcome.kind, outcome.answer.text) == ("hit", text)
                (earlier,) = cache.store.unserved(outcome.key.digest)
                assert (earlier.answer.text, earlier.request) == ("an earlier answer", body)
            (cut,) = cache.store.unserved(request_key(_asked("cut off")).digest)
            assert (cut.reason, cut.answer.text) == ("cut off", "half an ans")
            assert cache.peek(_ask(_asked("expired"), settings)) == (None, "expired")
            assert cache.totals()[0].hits == totals.hits + len(expected["served"])
        assert sim.completion_count == 0


def _ask(request, settings):
    return Ask(request_key(request), request, Policy(), settings)


def _asked(prompt):
    return Request(
        {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    )


def test_released__this_version_has_its_fixtures():
    """No layout and no version of the keys is released without a store of it in the tests."""
    names = [path.name for path in FIXTURES]
    assert f"layout{SCHEMA_VERSION}-keys{KEY_VERSION}" in names
    assert f"layout{SCHEMA_VERSION}-keys{KEY_VERSION - 1}" in names


# -- the law --------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(st.text(), _JSON, max_size=4),
    content=st.text(max_size=400),
    stream=st.booleans(),
    sample=st.integers(0, 9),
    base_url=st.sampled_from(
        ["https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/", "http://a/v1"]
    ),
)
def test_stored_request__has_the_key_that_it_was_asked_with(fields, content, stream, sample, base_url):
    """Whatever was asked, what is stored of it makes the same key again."""
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    request = Request(body, stream, sample, base_url)
    blob = encode_request("a" * 64, body, "")
    again = stored_request("a" * 64, blob, request_columns(request))

    assert request_key(again) == request_key(request)
