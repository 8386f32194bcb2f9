"""A cache.db from a stranger: every known attack on diskcache, against the real diskcache.

Each test first shows that the attack works on diskcache itself where that is its point, so that a test can't
pass because the attack is broken.
"""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from contextlib import suppress
from decimal import Decimal

import diskcache
import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreCorruptError, StoreError, UnsafeStoreError
from or_cache_magic.storage import codec, schema
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture
def mark(tmp_path):
    """The folder that exists when code from the file ran."""
    return tmp_path / "code-ran"


@pytest.fixture
def evil(mark):
    return pickle.dumps(Evil(os.fspath(mark)))


@pytest.fixture
def stored(store, database, make):
    """A file with one entry, closed."""
    entry, request = make(expires_s=None)
    store.put(entry, request)
    database.close()
    return entry


@pytest.fixture
def sql(folder):
    """Run statements on the file as a stranger would."""

    def run(*statements):
        connection = sqlite3.connect(folder / "cache.db", isolation_level=None)
        for statement in statements:
            connection.execute(*statement) if isinstance(statement, tuple) else connection.execute(statement)
        connection.close()

    return run


def on_cache(database, operation):
    """Run an operation on our diskcache, inside a transaction."""
    with database.transaction():
        return operation(database.cache())


OPERATIONS = {
    "get": lambda cache, key: cache.get(key),
    "set": lambda cache, key: cache.set(key, b"new"),
    "set another": lambda cache, key: cache.set("another", b"new"),
    "add": lambda cache, key: cache.add(key, b"new"),
    "delete": lambda cache, key: cache.delete(key),
    "pop": lambda cache, key: cache.pop(key),
    "clear": lambda cache, key: cache.clear(),
    "evict": lambda cache, key: cache.evict("openai/gpt-4o-mini"),
    "expire": lambda cache, key: cache.expire(now=1e12),
    "cull": lambda cache, key: cache.cull(),
    "check": lambda cache, key: cache.check(fix=True),
    "iterate": lambda cache, key: list(cache),
    "iterkeys": lambda cache, key: list(cache.iterkeys()),
    "peekitem": lambda cache, key: cache.peekitem(),
    "pull": lambda cache, key: cache.pull(),
    "peek": lambda cache, key: cache.peek(),
    "read": lambda cache, key: cache.read(key),
    "incr": lambda cache, key: cache.incr(key),
}


def attempt(database, store, operation, key):
    """Do it; a refusal is fine, anything else must not have done harm."""
    with suppress(StoreError, NotImplementedError, TypeError, KeyError):
        on_cache(database, lambda cache: OPERATIONS[operation](cache, key.digest))
    for read in (
        lambda: store.get(key),
        store.listing.find,
        lambda: store.listing.find(EntryFilter(text="x")),
    ):
        with suppress(StoreError):
            read()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["value", "file", "key", "queue"])
def test_pickles__never_run(database, store, stored, sql, folder, mark, evil, operation, kind):  # noqa: PLR0917
    """A pickled value, value file, key or queue row is never unpickled, whatever is done."""
    (folder / "evil.val").write_bytes(evil)
    sql({
        "value": ("UPDATE Cache SET mode = 4, value = ?", (evil,)),
        "file": "UPDATE Cache SET mode = 4, value = NULL, filename = 'evil.val'",
        "key": ("INSERT INTO Cache (key, raw, store_time, mode, value) VALUES (?, 0, 0, 1, x'00')", (evil,)),
        "queue": ("INSERT INTO Cache (key, raw, store_time, mode, value) VALUES ('500000000000000', 1, 0, 4, ?)", (evil,)),
    }[kind])  # fmt: skip

    attempt(database, store, operation, stored.key)

    assert not mark.exists()


def test_pickles__run_in_plain_diskcache(stored, sql, folder, mark, evil):
    """The attack is real: diskcache itself runs it."""
    sql(("UPDATE Cache SET mode = 4, value = ?", (evil,)))
    with diskcache.Cache(folder) as cache:
        cache.get(stored.key.digest)

    assert mark.exists()


@pytest.mark.parametrize(
    "change", ["mode = 4", "filename = 'x'", "value = 'text'", "value = 5", "value = NULL", "mode = 2"]
)
def test_get__refuses_rows_that_we_never_write(database, store, stored, sql, change):
    """A row of another mode, with a file name, or whose value is no bytes, is refused."""
    sql(f"UPDATE Cache SET {change}")

    with pytest.raises((UnsafeStoreError, StoreCorruptError)):
        store.get(stored.key)
    with pytest.raises(UnsafeStoreError):
        on_cache(database, lambda cache: cache[stored.key.digest])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("mode", [2, 3])
def test_file_names__nothing_is_read_or_deleted(
    database, store, stored, sql, tmp_path, operation, absolute, mode
):
    """A file name that leads out of the folder neither shows nor deletes that file, whatever is done."""
    victim = tmp_path / "thesis" / "thesis.ipynb"
    victim.parent.mkdir()
    victim.write_text("secret")
    name = os.fspath(victim) if absolute else "../thesis/thesis.ipynb"
    sql((f"UPDATE Cache SET mode = {mode}, value = NULL, expire_time = 9e9, filename = ?", (name,)))

    attempt(database, store, operation, stored.key)

    assert victim.read_text() == "secret"


@pytest.mark.parametrize("operation", ["delete", "clear"])
def test_file_names__plain_diskcache_deletes(stored, sql, folder, tmp_path, operation):
    """The attack is real: diskcache itself deletes the file and the folder it was in."""
    victim = tmp_path / "thesis" / "thesis.ipynb"
    victim.parent.mkdir()
    victim.write_text("secret")
    sql("UPDATE Cache SET mode = 2, value = NULL, filename = '../thesis/thesis.ipynb'")
    with diskcache.Cache(folder) as cache:
        OPERATIONS[operation](cache, stored.key.digest)

    assert not victim.parent.exists()


def test_check__leaves_other_files_alone(database, stored, folder):
    """diskcache's check deletes files that it does not know; ours is not offered."""
    with pytest.raises(NotImplementedError):
        on_cache(database, lambda cache: cache.check(fix=True))

    assert (folder / ".gitignore").exists()


@pytest.mark.parametrize(
    "key",
    [
        "get",
        "_directory",
        "disk_evil",
        "sqlite_writable_schema",
        "sqlite_locking_mode",
        "sqlite_temp_store_directory",
        "or_x",
    ],
)
def test_settings__unknown_rows_are_refused(store, database, stored, sql, make, key):
    """A Settings row that diskcache would set on itself, or run as a PRAGMA, closes the file to us."""
    sql(("INSERT INTO Settings VALUES (?, 1)", (key,)))

    with pytest.raises(UnsafeStoreError, match="unknown setting"):
        store.get(stored.key)
    with pytest.raises(UnsafeStoreError, match="unknown setting"):
        store.put(*make("other"))


@pytest.mark.parametrize("key", ["count", "size_limit", "statistics"])
@pytest.mark.parametrize("value", ["1; DROP TABLE Cache", b"1", 1.5, None])
def test_settings__odd_values_are_refused(store, stored, sql, key, value):
    """Known settings with values of another type are refused."""
    sql(("UPDATE Settings SET value = ? WHERE key = ?", (value, key)))

    with pytest.raises(UnsafeStoreError):
        store.get(stored.key)


def test_settings__hostile_values_are_not_obeyed(store, database, stored, sql, make):
    """Known settings with hostile values change nothing: no culling, no statistics, no other journal."""
    hostile = {"cull_limit": 1_000_000, "size_limit": 1, "statistics": 1, "sqlite_synchronous": 0, "eviction_policy": "least-recently-used",
               "sqlite_journal_mode": "off", "disk_min_file_size": 0, "tag_index": 0}  # fmt: skip
    sql(*[("UPDATE Settings SET value = ? WHERE key = ?", (value, key)) for key, value in hostile.items()])

    store.put(*make("other"))

    assert store.get(stored.key) == stored
    assert store.listing.count()[0] == 2
    with database.transaction() as connection:
        cache = database.cache()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
        for name in ("cull_limit", "size_limit", "statistics", "eviction_policy", "tag_index"):
            assert getattr(cache, name) == schema.SETTINGS[name]
    rows = dict(database.select("SELECT key, value FROM Settings"))
    assert {name: rows[name] for name in hostile} == {name: schema.SETTINGS[name] for name in hostile}


def forged(entry, old, new, *, text=None):
    """The entry's blob with a piece of its JSON replaced, under a right checksum."""
    digest, (head, skeleton, content, _) = (
        entry.key.digest,
        codec._unpack(entry.key.digest, codec.encode_entry(entry)),
    )
    form = json.dumps(content, separators=(",", ":"))
    assert old in form
    rest = form.replace(old, new).encode()
    head = head if text is None else text
    payload = codec._FRAME.pack(len(head), len(skeleton)) + head + skeleton + rest
    return codec._START.pack(codec._PLAIN, codec._checksum(digest, codec._PLAIN, payload)) + payload


IMPOSSIBLE = {
    "created before all time": ('"created":1700000000.0', '"created":-1e400'),
    "created after it": ('"created":1700000000.0', '"created":1e300'),
    "answered before it": ('"created_s":1700000000.0', '"created_s":-1'),
    "took for ever": ('"elapsed_s":1.5', '"elapsed_s":1e999'),
    "took less than nothing": ('"elapsed_s":1.5', '"elapsed_s":-2'),
    "expires before": ('"created":1700000000.0', '"created":1,"expires":-5'),
    "expires after": ('"created":1700000000.0', '"created":1,"expires":1e15'),
    "not a number": ('"elapsed_s":1.5', '"elapsed_s":NaN'),
    "paid back": ('"0.000123"', '"-5"'),
    "cost of millions of digits": ('"0.000123"', '"1E+30000000"'),
    "cost beyond decimals": ('"0.000123"', '"1E+99999999999999999999"'),
    "cost of many digits": ('"0.000123"', f'"0.{"1" * 5000}"'),
    "cost of no number": ('"0.000123"', '"NaN"'),
    "cost of quadrillions": ('"0.000123"', '"1000000000000000"'),
    "tokens beyond 64 bits": ("[10,20,3,null,1]", f"[{10**30},20,3,null,1]"),
    "tokens below zero": ("[10,20,3,null,1]", "[10,-20,3,null,1]"),
    "half a token": ("[10,20,3,null,1]", "[10,20.5,3,null,1]"),
    "a name of megabytes": ('"provider":"OpenAI"', f'"provider":"{"x" * (1 << 21)}"'),
    "nested 900 deep": ('"finish_reason":"stop"', f'"logprobs":{"[" * 900}{"]" * 900}'),
    "nested 90,000 deep": ('"finish_reason":"stop"', f'"logprobs":{"[" * 90_000}{"]" * 90_000}'),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_entry__is_not_served(store, make, sql, stored, name):
    """What can't be true of an entry closes it, under a right checksum too: told, never an error of Python's."""
    blob = forged(stored, *IMPOSSIBLE[name])
    keep = "INSERT INTO or_unserved (key, at, reason, cost_source, answer, sample, stream)"
    values = f"{keep} VALUES (?, 1, 'x', 'unknown', ?, 0, 1)"
    sql(("UPDATE Cache SET value = ?", (blob,)), (values, (stored.key.digest, blob)))

    with pytest.raises(StoreCorruptError, match=r"damaged: .* It was not served"):
        store.get(stored.key)
    assert store.unserved(stored.key.digest) == []
    entry, request = make(expires_s=None)
    store.put(entry, request)
    assert store.get(stored.key) == entry


IMPOSSIBLE_ROWS = {
    "or_entry": [
        *("cost = -5", "cost_source = 'gift'", "hits = -1", "saved = -5000000000000", "size = -1"),
        *("prompt_tokens = -1", "completion_tokens = -9", "created = 9e999", "expires = 1e300"),
        *("expires = -9e999", "last_hit = 1e18", "size = 9e999", "cost = 'x'"),
    ],
    "or_ledger": [
        *("paid = -5000000000000", "value = -1", "asks = -3", "prompt_tokens = -1", "completion_tokens = -1"),
        *(
            "at = 9e999",
            "at = -1e300",
            "paid_source = 'gift'",
            "paid = 9e999",
            "value = 'x'",
            "kind = 'gift'",
        ),
    ],
}


@pytest.mark.parametrize(
    ("table", "change"), [(table, change) for table, changes in IMPOSSIBLE_ROWS.items() for change in changes]
)
def test_impossible_row__falsifies_nothing(store, ledger, stored, sql, table, change):
    """What no row of ours can say is in no listing and no sum: it is left out, or an error of two lines."""
    ledger.count_hit(key=stored.key.digest, model="m", value_usd=Decimal(1))
    ledger.flush()
    sql(f"UPDATE {table} SET {change}")

    if table == "or_entry":
        assert store.listing.find() == []
        entries, cost_usd, _, size_bytes = store.listing.totals()
        assert entries == 1
        assert cost_usd in (0, stored.answer.cost.usd)
        assert size_bytes >= 0
        assert type(store.listing.size_over(0) or 0) is int
        return
    totals = []
    for look in (ledger.rows, ledger.totals, ledger.spent, lambda: ledger.totals("day"), ledger.timeline):
        with suppress(StoreCorruptError):
            totals.append(look())
    assert not any(word in repr(totals) for word in ("Decimal('-", "=-", "inf", "gift'"))


def test_reset__settings_cannot_be_changed_later(database, stored):
    """Nor can a caller change them on the open cache."""

    def tamper(cache):
        assert cache.reset("cull_limit", 10) == 0
        assert cache.cull_limit == 0
        with pytest.raises(UnsafeStoreError):
            cache.reset("_directory", "/")

    on_cache(database, tamper)


PLANTED = {
    "trigger": ["CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN UPDATE Cache SET value = x'7b7d'; END"],
    "trigger of our name": ["DROP TRIGGER or_entry_delete", "CREATE TRIGGER or_entry_delete AFTER DELETE ON Cache BEGIN DELETE FROM or_ledger; END"],
    "view": ["ALTER TABLE Cache RENAME TO C2", "CREATE VIEW Cache AS SELECT * FROM C2"],
    "recursive view": ["CREATE VIEW bomb AS WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r"],
    "table": ["CREATE TABLE notes (x)"],
    "virtual table": ["CREATE VIRTUAL TABLE v USING fts5(x)"],
    "index": ["CREATE INDEX evil ON Cache (abs(size))"],
    "column": ["ALTER TABLE or_entry ADD COLUMN evil GENERATED ALWAYS AS (abs(-9223372036854775807 - 1)) VIRTUAL"],
    "table gone": ["DROP TABLE or_ledger"],
    "index gone": ["DROP INDEX Cache_key_raw"],
    "statistics": ["ANALYZE"],
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_schema__anything_unknown_closes_the_file(store, stored, sql, make, folder, name):
    """A trigger, view, table, index or column that we do not make, or one missing: neither read nor written."""
    try:
        sql(*PLANTED[name])
    except sqlite3.OperationalError as exc:
        pytest.skip(f"this SQLite can't: {exc}")
    before = (folder / "cache.db").read_bytes()

    with pytest.raises(UnsafeStoreError):
        store.get(stored.key)
    with pytest.raises(UnsafeStoreError):
        store.put(*make("other"))
    assert (folder / "cache.db").read_bytes() == before


def test_schema__a_plain_diskcache_is_not_ours(store, folder, make):
    """A cache.db of another program is left as it is."""
    with diskcache.Cache(folder) as cache:
        cache["theirs"] = 1

    with pytest.raises(UnsafeStoreError):
        store.put(*make())
    with diskcache.Cache(folder) as cache:
        assert cache["theirs"] == 1


def test_schema__equals_a_freshly_made_file(tmp_path):
    """The schema that we expect of diskcache is what this diskcache makes with our settings."""
    from or_cache_magic.storage.diskcache_adapter import StrictDisk

    with diskcache.Cache(tmp_path, disk=StrictDisk, **schema.SETTINGS) as cache:
        made = {
            " ".join(sql.split())
            for (sql,) in cache._sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        }
        settings = {key for (key,) in cache._sql("SELECT key FROM Settings")}

    assert made == {" ".join(sql.split()) for sql in schema._DISKCACHE}
    assert settings == {*schema.SETTINGS, *schema.COUNTERS}
    assert set(schema.SETTINGS) == set(diskcache.DEFAULT_SETTINGS)


@pytest.mark.parametrize(
    ("key", "value"), [(b"k", b"v"), (1, b"v"), (("k",), b"v"), ("k", "v"), ("k", 1), ("k", None)]
)
def test_strict_disk__takes_text_and_bytes_only(database, key, value):
    """Nothing but a text key with a bytes value gets in."""
    with pytest.raises(TypeError):
        on_cache(database, lambda cache: cache.set(key, value))


def test_strict_cache__works_as_a_cache(database):
    """With text and bytes it is a diskcache like any other, on our transactions."""

    def use(cache):
        cache["k"] = b"v"
        assert cache["k"] == b"v"
        assert list(cache) == ["k"]
        assert len(cache) == 1
        assert cache.pop("k") == b"v"
        assert len(cache) == 0
        with cache.transact():
            cache.set("a", b"1", tag="t")
        assert cache.evict("t") == 1

    on_cache(database, use)


def test_folder__its_name_is_taken_literally(tmp_path, make):
    """diskcache expands ``~`` and ``$NAME`` in folder names; a folder may be called so."""
    store = DiskStore(database := Database(tmp_path / "$HOME" / "~"))
    store.put(*make())
    database.close()

    assert (tmp_path / "$HOME" / "~" / "cache.db").exists()
