"""Files of older versions are brought up to date without buying anything; newer ones are left alone."""

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
from or_cache_magic.core.records import Ask, EntryFilter, Request, RequestKey
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import NewerStoreError, StoreBusyError, StoreError, UnsafeStoreError
from or_cache_magic.simulator import Simulator
from or_cache_magic.storage.columns import HitCount
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.schema import LAYOUT, OUR_TABLES, Earlier, Layout
from or_cache_magic.storage.upgrade import StoredRequests

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("schema*"))
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts need root")
AT_S = 1_767_268_800.0


def old_key(request):
    """A key as an earlier version might have made it: another digest, another skeleton, ``seed`` left out."""
    body = {name: value for name, value in request.body.items() if name != "seed"}
    key = request_key(request._replace(body=body))
    return RequestKey(sha256(b"k0" + key.digest.encode()).hexdigest(), b"k0" + key.skeleton)


OLD_KEYS = StoredRequests(KEY_VERSION - 1, old_key)


@pytest.fixture
def old_database(folder):
    opened = Database(folder, timeout_s=0.2)
    yield opened
    opened.close()


@pytest.fixture
def old_store(old_database):
    """What the earlier version has open on the same folder."""
    return DiskStore(old_database, rekey=OLD_KEYS)


@pytest.fixture
def old_pairs(old_store, old_database, make):
    """Twelve hundred entries with old keys, in a closed file; the entries as this version would have them."""
    pairs = [make(f"prompt {i}", f"answer {i} " * 20, created_s=AT_S + i) for i in range(1200)]
    with old_database.transaction():
        for entry, request in pairs:
            old_store.put(entry._replace(key=old_key(request)), request)
    old_database.close()
    return pairs


def test_older_keys__every_answer_is_served_and_nothing_is_bought(folder, old_store, old_database, make):
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
        old_database.close()
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


def test_older_keys__everything_about_an_entry_is_kept(old_store, old_database, store, make):
    """Hits, savings, labels, lifetime and history come along; the ledger is not touched."""
    entry, request = make(tags=("t",), notebook="n.ipynb", expires_s=2e9, system="s")
    request = request._replace(sample=1, stream=False, base_url="http://127.0.0.1:9/api/v1")
    entry, old = entry._replace(key=request_key(request)), entry._replace(key=old_key(request))
    old_store.put(old._replace(answer=make(text="earlier")[0].answer), request)
    old_store.put(old, request, replaced_reason="asked again")
    old_store.record_hits({old.key.digest: HitCount(3, 9.0, 10**12)})
    old_store.keep_unserved(old.key, request, old.answer, "cut off", 5.0)
    (before,) = old_store.find()
    old_database.close()

    assert store.get(entry.key) == entry
    (row,) = store.find(EntryFilter(tag="t", system="s"))
    assert row._replace(size_bytes=0) == before._replace(key=entry.key.digest, size_bytes=0)
    assert store.request(entry.key.digest) == request.body
    history = [(u.reason, u.answer.text, u.request) for u in store.unserved(entry.key.digest)]
    assert history == [("asked again", "earlier", request.body), ("cut off", "Hi", request.body)]
    assert store.size_bytes() == row.size_bytes
    assert store.unserved(old.key.digest) == []


def test_older_keys__two_that_are_one_now(old_store, old_database, store, make):
    """Of two requests that became one the newer answer is served, the other is history, and hits add up."""
    older, newer = make(text="older", created_s=1.0), make(text="newer", created_s=2.0)
    for (entry, request), seed in ((newer, 1), (older, 2)):
        apart = RequestKey(sha256(b"%d" % seed).hexdigest(), entry.key.skeleton)
        old_store.put(entry._replace(key=apart), request)
        old_store.record_hits({apart.digest: HitCount(seed, float(seed), seed)})
    old_database.close()

    assert store.get(newer[0].key) == newer[0]
    assert store.count()[0] == 1
    (row,) = store.find()
    assert (row.hits, row.last_hit_s) == (3, 2.0)
    assert [u.answer.text for u in store.unserved(newer[0].key.digest)] == ["older"]


def test_older_keys__a_damaged_request_is_left_and_told(old_store, old_database, store, database, make):
    """An entry whose request can't be read keeps its old key and is never served for anything."""
    whole, damaged = make("whole"), make("damaged")
    for entry, request in (whole, damaged):
        old_store.put(entry._replace(key=old_key(request)), request)
    digest = old_key(damaged[1]).digest
    with old_database.transaction() as connection:
        connection.execute(
            "UPDATE or_request SET body = x'00' WHERE id = (SELECT rowid FROM Cache WHERE key = ?)", (digest,)
        )
    old_database.close()

    assert store.get(whole[0].key) == whole[0]
    assert store.get(damaged[0].key) is None
    assert store.entry(digest) is not None
    (said,) = database.pop_notices()
    assert "1 could not be read" in said


def test_older_keys__killed_in_the_middle(folder, store, old_pairs, old_store):
    """Killed while it re-keys, the file is whole; the older version reads it; the next opening goes on."""
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import make_request
        from or_cache_magic.storage.database import Database
        from or_cache_magic.core.key import KEY_VERSION, request_key
        from or_cache_magic.storage.entries import DiskStore
        from or_cache_magic.storage.upgrade import StoredRequests
        count = 0
        def key_of(request):
            global count
            count += 1
            if count == 700:
                os.kill(os.getpid(), signal.SIGKILL)
            return request_key(request)
        store = DiskStore(Database({str(folder)!r}), rekey=StoredRequests(KEY_VERSION, key_of))
        store.get(request_key(make_request("x")))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert killed.returncode == -signal.SIGKILL
    still_old = [old_store.get(old_key(request)) is not None for _, request in old_pairs]
    assert (still_old.count(False), still_old.count(True)) == (500, 700)

    assert all(store.get(entry.key) == entry for entry, _ in old_pairs)
    assert store.count()[0] == len(old_pairs)


def test_older_keys__readers_meanwhile_see_either(folder, old_pairs, old_store):
    """While one kernel re-keys, the older version reads every entry under its old key or finds its new one."""
    seen = []

    def key_of(request):
        if len(seen) < 1 and request.body["messages"][0]["content"] == "prompt 800":
            digests = {key for (key,) in old_store._database.select("SELECT key FROM Cache")}
            seen.append([(old_key(r).digest in digests, e.key.digest in digests) for e, r in old_pairs])
            assert old_store.get(old_key(old_pairs[900][1])) is not None
        return request_key(request)

    with closing(Database(folder)) as database:
        DiskStore(database, rekey=StoredRequests(KEY_VERSION, key_of)).get(old_pairs[0][0].key)

    assert len(seen) == 1
    assert all(old != new for old, new in seen[0])
    assert {old for old, _ in seen[0]} == {True, False}


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
        assert DiskStore(database).count()[0] == len(old_pairs)


def test_older_keys__locked_is_served_from_memory(folder, store, database, old_pairs, make):
    """A file that is being written is served all the same, which is said once; the next write upgrades it."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert all(store.get(entry.key) == entry for entry, _ in old_pairs[:50])
        assert store.count()[0] == len(old_pairs)
        assert len(store.find(limit=3)) == 3
        with pytest.raises(StoreBusyError):
            store.put(*make("new"))
        assert [n for n in database.pop_notices() if "copy in memory" in n] != []
        assert store.get(old_pairs[1][0].key) is not None
        assert [n for n in database.pop_notices() if "copy in memory" in n] == []
        other.execute("ROLLBACK")

    entry, request = make("new")
    store.put(entry, request)

    assert store.get(entry.key) == entry
    assert "1,200 entries re-keyed" in " ".join(database.pop_notices())
    assert store.count()[0] == len(old_pairs) + 1


def test_older_keys__locked_then_free_under_reading_threads(folder, old_pairs, make):
    """Threads that read while the file changes from locked to upgraded never miss."""
    done, misses = threading.Event(), []
    with closing(Database(folder, timeout_s=0.2)) as database:
        store = DiskStore(database)

        def read():
            while not done.is_set():
                misses.extend(e.key.digest for e, _ in old_pairs[::97] if store.get(e.key) is None)

        with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert store.get(old_pairs[0][0].key) is not None
            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            other.execute("ROLLBACK")
        store.put(*make("new"))
        store.get(old_pairs[0][0].key)
        done.set()
        for thread in threads:
            thread.join()
        assert misses == []
        assert store.count()[0] == len(old_pairs) + 1


@ROOT
def test_older_keys__read_only_mount_is_served_and_untouched(folder, old_pairs, tmp_path):
    """Where nothing can be written, an older file is served without being migrated."""
    before = (folder / "cache.db").read_bytes()
    point = tmp_path / "mounted"
    point.mkdir()
    if subprocess.run(["mount", "--bind", folder, point], check=False, capture_output=True).returncode:
        pytest.skip("can't mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        with closing(Database(point, timeout_s=0.2)) as there:
            store = DiskStore(there)
            assert all(store.get(entry.key) == entry for entry, _ in old_pairs[:20])
            assert Ledger(there, "s", lambda: AT_S).totals()[0].asks == 0
    finally:
        subprocess.run(["umount", "-l", point], check=True)
    assert (folder / "cache.db").read_bytes() == before


# -- layouts --------------------------------------------------------------------------------------

_COLUMN = "ALTER TABLE or_entry ADD COLUMN colour TEXT"
_NEXT = Layout(
    LAYOUT.version + 1,
    tuple(sql.replace("system BLOB)", "system BLOB, colour TEXT)") for sql in OUR_TABLES),
    {LAYOUT.version: Earlier(OUR_TABLES, (_COLUMN, "UPDATE or_entry SET colour = 'red'"))},
)


def test_older_layout__is_migrated_in_place(folder, store, database, make):
    """The next version's code finds its column filled and every entry; the older one is refused from then on."""
    entry, request = make()
    store.put(entry, request)
    with closing(Database(folder, layout=_NEXT)) as newer:
        there = DiskStore(newer)
        assert there.get(entry.key) == entry
        assert newer.select("SELECT colour FROM or_entry") == [("red",)]
        assert len(newer.pop_notices()) == 1
        there.put(*make("more"))
    with closing(Database(folder, layout=_NEXT)) as newer:
        assert DiskStore(newer).count()[0] == 2
        assert newer.pop_notices() == ()

    with pytest.raises(NewerStoreError, match="newer version"):
        store.put(*make("older"))
    with closing(Database(folder)) as older, pytest.raises(NewerStoreError):
        DiskStore(older).get(entry.key)


def test_older_layout__a_new_file_is_as_a_migrated_one(folder, tmp_path, store, make):
    """Made new or migrated, a layout's schema is the same text."""

    def schema_of(directory):
        with closing(sqlite3.connect(directory / "cache.db")) as connection:
            rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
            return {" ".join(sql.split()) for (sql,) in rows}

    store.put(*make())
    for directory in (folder, tmp_path / "new"):
        with closing(Database(directory, layout=_NEXT)) as newer:
            DiskStore(newer).put(*make("more"))

    assert schema_of(folder) == schema_of(tmp_path / "new")


def test_older_layout__a_migration_that_leads_elsewhere_is_undone(folder, store, database, make):
    """When the result is not the next layout's text, nothing is changed."""
    entry, request = make()
    store.put(entry, request)
    wrong = _NEXT._replace(
        earlier={LAYOUT.version: Earlier(OUR_TABLES, (_COLUMN.replace("colour", "color"),))}
    )
    with closing(Database(folder, layout=wrong)) as newer, pytest.raises(UnsafeStoreError):
        DiskStore(newer).get(entry.key)

    assert store.get(entry.key) == entry
    assert database.select("SELECT name FROM pragma_table_info('or_entry') WHERE name = 'color'") == []


def test_older_layout__and_older_keys_at_once(folder, old_pairs):
    """Both are brought up to date in one opening."""
    with closing(Database(folder, layout=_NEXT)) as newer:
        store = DiskStore(newer)
        assert all(store.get(entry.key) == entry for entry, _ in old_pairs)
        assert len(newer.pop_notices()) == 1


def test_older_layout__read_while_locked(folder, store, database, make):
    """A locked file of an older layout is served from a copy, which no write reaches."""
    entry, request = make()
    store.put(entry, request)
    database.close()
    with (
        closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other,
        closing(Database(folder, layout=_NEXT, timeout_s=0.1)) as newer,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert DiskStore(newer).get(entry.key) == entry
        assert newer.select("SELECT colour FROM or_entry") == [("red",)]
        with pytest.raises(StoreError):
            newer.select("DELETE FROM Cache")


@pytest.mark.parametrize("stamp", [(LAYOUT.version + 1), 1000 * (KEY_VERSION + 1) + LAYOUT.version])
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


def test_older_kernel__does_not_write_into_what_a_newer_one_changed(folder, old_store, make):
    """A kernel of the older version that has the file open is refused once the keys are newer."""
    entry, request = make()
    old_store.put(entry._replace(key=old_key(request)), request)
    with closing(Database(folder)) as database:
        assert DiskStore(database).get(entry.key) == entry

        with pytest.raises(NewerStoreError):
            old_store.put(entry._replace(key=old_key(request)), request)
        assert DiskStore(database).count()[0] == 1


# -- what is released -----------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_released__every_answer_is_served(fixture, tmp_path):
    """A store of each released layout serves each of its requests without a call, and its totals are right."""
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
            assert cache.store.count()[0] == expected["entries"]
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


def test_released__this_layout_has_its_fixture():
    """A layout is not released without a store of it in the tests."""
    assert f"schema{LAYOUT.version}" in [path.name for path in FIXTURES]
    assert {*LAYOUT.earlier, LAYOUT.version} == {int(path.name[6:]) for path in FIXTURES}


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
    from or_cache_magic.storage.codec import encode_request
    from or_cache_magic.storage.upgrade import request_columns, stored_request

    blob = encode_request("a" * 64, body, "")
    again = stored_request("a" * 64, blob, request_columns(request))

    assert request_key(again) == request_key(request)
