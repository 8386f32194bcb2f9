"""Large media is stored once: what is shared, what goes, what is checked, and files without any."""

from __future__ import annotations

import base64
import random
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Answer, Choice, Cost, Entry, Request
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreCorruptError, UnsafeStoreError
from or_cache_magic.storage.codec import decode_entry, encode_entry
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.media import MediaReader, put_back, take_out
from or_cache_magic.storage.schema import MEDIA

from .conftest import mark_older, old_key


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


PDF, OTHER, SMALL = noise(60_000), noise(50_000, 1), noise(300, 2)


def data_url(raw: bytes, mime: str = "application/pdf") -> str:
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def request(prompt: str, *media: bytes, **fields) -> Request:
    files = [{"type": "file", "file": {"filename": "document.pdf", "file_data": data_url(m)}} for m in media]
    content = [{"type": "text", "text": prompt}, *files]
    return Request(
        {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": content}], **fields}
    )


def entry(asked: Request, *images: bytes, text: str = "Hi", cost: Cost = Cost(None, "unknown")) -> Entry:  # noqa: B008
    message = {"role": "assistant", "content": text}
    if images:
        message["images"] = [
            {"type": "image_url", "image_url": {"url": data_url(i, "image/png")}} for i in images
        ]
    answer = Answer((Choice(message, "stop", "stop"),), cost=cost, generation_id="gen-1", created_s=1.7e9)
    return Entry(request_key(asked), answer, 1.7e9)


def put(store, asked: Request, *images: bytes, **how) -> str:
    kept = entry(asked, *images, **how)
    store.put(kept, asked)
    return kept.key.digest


def held(store) -> list[bytes]:
    """The media in the file, by size: of requests as bytes, of answers as the text that it came as."""
    rows = store._database.select("SELECT body FROM or_media ORDER BY length(body)")
    return [body for (body,) in rows]


def said(raw: bytes) -> bytes:
    """An answer's picture as it is stored."""
    return data_url(raw, "image/png").encode()


def has_tables(store) -> bool:
    return bool(store._database.select("SELECT 1 FROM sqlite_master WHERE name = 'or_media'"))


# -- stored once ----------------------------------------------------------------------------------


def test_put__stores_media_once_and_gives_it_back(store):
    """Of request and answer, entries and history: each is as it was, and the bytes are there once."""
    first, second = request("One?", PDF, SMALL), request("Two?", PDF)
    keys = [put(store, first, PDF), put(store, second, OTHER)]
    assert held(store) == [PDF, said(OTHER), said(PDF)]
    assert store.request(keys[0]) == first.body
    assert store.get(request_key(first)) == entry(first, PDF)
    assert store.get(request_key(second)) == entry(second, OTHER)
    assert store.request(keys[1]) == second.body


def test_put__a_hundred_entries_share_one_file(store, folder, database):
    """The file is hardly larger than what they share."""
    raw = noise(1_000_000)
    keys = [put(store, request(f"Question {n}?", raw)) for n in range(100)]
    database.close()
    assert (folder / "cache.db").stat().st_size < len(raw) + 100 * 4096
    assert store.request(keys[99]) == request("Question 99?", raw).body


def test_put__without_media_makes_no_tables(store):
    """As every file that was written before; small pictures stay where they are."""
    key = put(store, request("One?", SMALL), SMALL)
    assert not has_tables(store)
    assert store.request(key) == request("One?", SMALL).body
    assert store.purge(EntryFilter(keys=(key,))) == 1
    put(store, request("Two?", PDF))
    assert has_tables(store)


def test_put__replaced_keeps_what_history_holds(store):
    """The old answer's picture stays with it, and goes when both are gone."""
    asked = request("One?", PDF)
    key = put(store, asked, OTHER)
    put(store, asked, PDF)
    assert held(store) == [PDF, said(OTHER), said(PDF)]
    (old,) = store.unserved(key)
    assert old.answer == entry(asked, OTHER).answer
    assert old.request == asked.body
    store.purge(EntryFilter(keys=(key,)))
    assert held(store) == []
    put(store, asked, OTHER)
    put(store, asked, OTHER)  # the same again is no history
    assert store.unserved(key) == []


def test_pin__takes_media_along(store):
    """Two answers change places, each with its picture; nothing is left when both are gone."""
    asked = request("One?", PDF)
    key = put(store, asked, OTHER)
    put(store, asked, PDF)
    store.pin(key, 1, 1.8e9)
    assert store.get(request_key(asked)).answer == entry(asked, OTHER).answer
    assert [kept.answer for kept in store.unserved(key)] == [entry(asked, PDF).answer]
    assert held(store) == [PDF, said(OTHER), said(PDF)]
    store.purge(EntryFilter(keys=(key,)))
    assert held(store) == []


def test_keep_unserved__shares_media_too(store):
    """What can't be served is kept with its request."""
    asked = request("One?", PDF)
    made = entry(asked, PDF, OTHER)
    store.keep_unserved(made.key, asked, made.answer, "cut", 1.7e9)
    assert held(store) == [PDF, said(OTHER), said(PDF)]
    (kept,) = store.unserved(made.key.digest)
    assert (kept.answer, kept.request) == (made.answer, asked.body)
    put(store, asked)
    assert [row.size_bytes > len(PDF) for row in store.listing.find()] == [True]


@pytest.mark.parametrize("everything", [True, False])
def test_purge__takes_media_along_with_its_last_entry(store, everything):
    """In the same transaction; nothing is left of who held it."""
    keys = [put(store, request("One?", PDF)), put(store, request("Two?", PDF, OTHER), OTHER)]
    if everything:
        store.purge(EntryFilter(), everything=True)
    else:
        store.purge(EntryFilter(keys=(keys[0],)))
        assert held(store) == [OTHER, PDF, said(OTHER)]
        assert store.request(keys[1]) == request("Two?", PDF, OTHER).body
        store.purge(EntryFilter(keys=(keys[1],)))
    assert held(store) == []
    assert store._database.select("SELECT * FROM or_media_use") == []


def test_size__counts_shared_media_once(store):
    """With the entry that stored it, and with another when that is gone; so a quota is held against the disk."""
    keys = [put(store, request(f"{n}?", PDF)) for n in range(3)]
    assert len(PDF) < store.listing.size_bytes() < len(PDF) + 3_000
    for gone in range(2):
        store.purge(EntryFilter(keys=(keys[gone],)))
        assert len(PDF) < store.listing.size_bytes() < len(PDF) + 3_000
    (row,) = store.listing.find()
    assert row.size_bytes == store.listing.size_bytes()
    put(store, request("2?", PDF), OTHER, text="new")
    assert len(PDF + said(OTHER)) < store.listing.size_bytes() < len(PDF + said(OTHER)) + 3_000


def test_settle__of_an_entry_with_media_changes_its_cost_alone(store):
    """Request and answer stay whole."""
    asked = request("One?", PDF)
    key = put(store, asked, OTHER)
    assert store.settle(key, "gen-1", Cost(Decimal("0.5"), "generation"))
    found = store.get(request_key(asked))
    assert found.answer.cost.source == "generation"
    assert found.answer.choices == entry(asked, OTHER).answer.choices
    assert held(store) == [PDF, said(OTHER)]


def test_find__passes_over_media(store):
    """Searched are texts; base64 is none, and a broken picture hides no entry."""
    put(store, request("One?", PDF), OTHER, text="Median")
    assert len(store.listing.find(EntryFilter(text="median"))) == 1
    assert len(store.listing.find(EntryFilter(prefix="One"))) == 1
    assert store.listing.find(EntryFilter(text=base64.b64encode(PDF).decode()[:40])) == []


def test_upgrade__finds_the_media_of_stored_requests(folder, make):
    """Keys are computed anew from what was asked, media included; nothing is bought again."""
    asked = request("One?", PDF, seed=7)
    made = entry(asked, OTHER)
    with closing(Database(folder)) as database:
        store = DiskStore(database)
        store.put(made._replace(key=old_key(asked)), asked)
        store.put(made._replace(key=old_key(asked), answer=entry(asked, PDF).answer), asked)
    mark_older(folder)
    with closing(Database(folder)) as database:
        store = DiskStore(database)
        with database.transaction():
            pass
        assert store.get(request_key(asked)) == entry(asked, PDF)._replace(key=request_key(asked))
        assert store.request(request_key(asked).digest) == asked.body
        assert [kept.answer for kept in store.unserved(request_key(asked).digest)] == [made.answer]
        assert held(store) == [PDF, said(OTHER), said(PDF)]
        (row,) = store.listing.find()
        assert row.size_bytes > len(PDF)
        store.purge(EntryFilter(), everything=True)
        assert held(store) == []


def test_media__is_kept_in_memory_and_still_checked_by_its_entry(store, database):
    """A second look reads no picture; one that was purged is not served from memory."""
    asked = request("One?")
    key = put(store, asked, OTHER)
    store.get(request_key(asked))
    with database.transaction() as connection:
        connection.execute("UPDATE or_media SET body = x'00'")
    assert store.entry(key) == entry(asked, OTHER)
    store.purge(EntryFilter(keys=(key,)))
    assert store.entry(key) is None


# -- a stranger's file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE or_media SET body = zeroblob(length(body))",
        "UPDATE or_media SET body = CAST(body AS TEXT)",
        "DELETE FROM or_media",
        "UPDATE or_media SET sha256 = zeroblob(id)",
    ],
)
def test_get__of_other_bytes_serves_nothing(folder, store, change):
    """Media must have the digest that its entry names; the rest of the cache is read as ever."""
    asked, plain = request("One?", PDF), request("Two?")
    key = put(store, asked, OTHER)
    put(store, plain)
    store._database.close()
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as connection:
        connection.execute(change)
    again = DiskStore(Database(folder))
    with pytest.raises(StoreCorruptError, match="damaged"):
        again.get(request_key(asked))
    with pytest.raises(StoreCorruptError, match="its media is not there"):
        again.request(key)
    assert again.get(request_key(plain)) is not None
    assert len(again.listing.find()) == 2
    again._database.close()


@pytest.mark.parametrize("missing", MEDIA)
def test_vet__refuses_half_of_the_tables(folder, store, missing):
    """All of them are there, letter for letter, or none."""
    put(store, request("One?", PDF))
    store._database.close()
    kind, name = missing.split()[1:3]
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as connection:
        connection.execute(f"DROP {kind} {name}")
    with pytest.raises(UnsafeStoreError):
        DiskStore(Database(folder)).listing.find()


def test_decode__of_a_foreign_blob_reads_no_media(store):
    """A team's server gives entries whole: a name of media there is damage."""
    media: dict[bytes, bytes] = {}
    made = entry(request("One?"), OTHER)
    blob = encode_entry(made, media)
    assert list(media.values()) == [said(OTHER)]
    with pytest.raises(StoreCorruptError):
        decode_entry(made.key.digest, blob)
    assert decode_entry(made.key.digest, encode_entry(made)) == made


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ({"a": "x"}, [[["a"], "", "00"]]),
        ({"a": ""}, [[["b"], "", "00"]]),
        ({"a": ""}, [[[], "", "00"]]),
        ({"a": ""}, [[["a", "b"], "", "00"]]),
        ({"a": ""}, [[["a"], 1, "00"]]),
        ({"a": ""}, [[["a"], "", "zz"]]),
        ({"a": ""}, [[["a"], ""]]),
        ({"a": ""}, "x"),
        ({"a": ["", ""]}, [[["a", 5], "", "00"]]),
        ([""] * 90_000, [[[n], "", "00"] for n in range(90_000)]),
    ],
)
def test_put_back__refuses_places_that_are_none(value, places):
    """Whatever a file says stands where: an error that reading an entry is ready for; memory is bounded."""
    with pytest.raises((LookupError, TypeError, ValueError)):
        put_back(value, places, lambda head, _: head + "A" * 2000)


# -- laws -----------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=5),
    st.binary(min_size=3072, max_size=3080).map(data_url),
    st.binary(min_size=3072, max_size=3080).map(lambda raw: base64.b64encode(raw).decode()),
    st.binary(min_size=3072, max_size=3080).map(
        lambda raw: base64.b64encode(raw).decode().rstrip("=") + "\n"
    ),
    st.just("A" * 4097),
)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
@settings(
    suppress_health_check=[HealthCheck.large_base_example, HealthCheck.data_too_large, HealthCheck.too_slow]
)
def test_law__what_is_taken_out_is_put_back(value, decoded):
    """Every JSON value, letter for letter, and the value itself is not changed."""
    media: dict[bytes, bytes] = {}
    before = repr(value)
    left, places = take_out(value, media, decoded=decoded)
    assert repr(value) == before
    assert len(repr(left)) < 4096 * (1 + before.count("A" * 4097) + before.count("\\n"))

    def select(sql, parameters):
        return [(1,)] if "sqlite_master" in sql else [(media[parameters[0]],)]

    if places and isinstance(left, str):
        return  # a body and an answer are objects
    put_back(left, places, MediaReader(select))
    assert left == value
