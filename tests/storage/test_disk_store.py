"""Keeping entries, finding, listing and purging them."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from or_cache_magic.core.records import Answer, Choice, Cost, RequestKey
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import OptionError, StoreCorruptError, StoreError
from or_cache_magic.storage.columns import HitCount

from .conftest import record_hits


def test_get__nothing_stored_makes_nothing(store, folder, make):
    """Looking into a cache that does not exist is a miss, and makes no folder."""
    entry, _ = make()

    assert store.get(entry.key) is None
    assert store.listing.find() == []
    assert store.listing.count() == (0, Decimal(0), 0)
    assert store.listing.size_bytes() == 0
    assert store.request(entry.key.digest) is None
    assert store.unserved(entry.key.digest) == []
    assert store.purge(EntryFilter(model="x")) == 0
    assert not folder.exists()


def test_put__comes_back_whole(store, make):
    """What was put comes back equal, field by field, Unicode and money included."""
    entry, request = make(
        "Grüße 🎈", "¡Hola!\n\x00" * 300, expires_s=1_800_000_000.5, tags=("a", "b c"), notebook="n.ipynb"
    )

    store.put(entry, request)

    assert store.get(entry.key) == entry


def test_put__keeps_every_field_of_an_answer(store, make):
    """Rare fields survive: several choices, tool calls, logprobs, errors, response caching's marks."""
    entry, request = make()
    answer = Answer(
        (
            Choice(
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
                "tool_calls",
                "x",
                None,
                {"content": [1.5]},
            ),
            Choice({"role": "assistant", "content": "\ud800"}, None, None, {"code": 1}),
        ),
        cost=Cost(Decimal("1E-15"), "estimated"),
        complete=False,
        error={"message": "late"},
        response_cache_hit=True,
        source_generation_id="gen-0",
    )
    entry = entry._replace(answer=answer)

    store.put(entry, request)

    assert store.get(entry.key) == entry


@pytest.mark.parametrize("where", ["notebook", "tags", "model", "provider", "generation_id"])
def test_put__text_that_sqlite_cannot_take(store, make, where):
    """Half of a surrogate pair in a name or a path loses no answer: columns have U+FFFD, the answer stays."""
    entry, request = make()
    if where in ("notebook", "tags"):
        entry = entry._replace(**{where: "a\ud800" if where == "notebook" else ("a\ud800",)})
    else:
        entry = entry._replace(answer=entry.answer._replace(**{where: "a\ud800"}))

    store.put(entry, request)
    store.keep_unserved(entry.key, request, entry.answer, "cut \ud800", 1.0)

    assert store.get(entry.key) == entry
    (listed,) = store.listing.find()
    "".join((listed.provider, listed.notebook, *listed.tags)).encode()
    ((kept),) = store.unserved(entry.key.digest)
    assert kept.answer == entry.answer
    with pytest.raises(StoreError):
        store.listing.find(EntryFilter(text="\ud800"))


def test_put__makes_a_private_folder_that_git_ignores(store, folder, make):
    """The folder is mode 0700 with a .gitignore of ``*``, the file 0600."""
    store.put(*make())

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    assert (folder / "cache.db").stat().st_mode & 0o777 == 0o600


def test_put__leaves_a_given_folder_as_it_is(store, folder, make):
    """A folder that was there before gets no .gitignore."""
    folder.mkdir()

    store.put(*make())

    assert not (folder / ".gitignore").exists()


def test_get__does_not_serve_another_requests_answer(store, make):
    """An entry whose skeleton differs from the asked one is refused."""
    entry, request = make()
    store.put(entry, request)

    with pytest.raises(StoreCorruptError, match="another request"):
        store.get(RequestKey(entry.key.digest, entry.key.skeleton + b" "))


def test_get__serves_expired_entries_to_the_engine(store, make):
    """Expiry is the engine's decision: an expired entry is still found, with its time."""
    entry, request = make(expires_s=1.0)
    store.put(entry, request)

    assert store.get(entry.key).expires_s == 1.0


def test_put__keeps_a_replaced_answer_as_history(store, make):
    """A different answer moves the old one, with its request and the reason, to the unserved ones."""
    first, request = make(text="one", cost="0.5")
    second, _ = make(text="two", created_s=1_700_000_100.0)
    store.put(first, request)
    store.put(second, request, replaced_reason="--refresh")

    assert store.get(first.key).answer.text == "two"
    (old,) = store.unserved(first.key.digest)
    assert old.answer == first.answer
    assert (old.reason, old.at_s, old.request) == ("--refresh", 1_700_000_100.0, request.body)
    assert store.listing.count()[0] == 1


def test_put__the_same_answer_makes_no_history(store, make):
    """Asking again and getting the same words leaves nothing to keep."""
    entry, request = make(text="one")
    again = entry._replace(created_s=5.0)
    store.put(entry, request)
    store.put(again, request)

    assert store.unserved(entry.key.digest) == []
    assert store.get(entry.key) == again


def test_put__keeps_the_hits_of_a_replaced_answer(store, make):
    """Hits were true whatever is served now."""
    entry, request = make(text="one")
    store.put(entry, request)
    record_hits(store, {entry.key.digest: HitCount(2, 7.0, 2_000_000_000_000)})
    store.put(make(text="two")[0], request)

    (row,) = store.listing.find()
    assert (row.hits, row.saved_usd, row.last_hit_s, row.answer) == (2, Decimal(2), 7.0, "two")


def test_keep_unserved__is_kept_and_not_served(store, make):
    """What was paid for and can't be served is listed with its reason, and is no entry."""
    entry, request = make(text="half an ans")
    store.keep_unserved(entry.key, request, entry.answer, "cut off", 9.0)

    assert store.get(entry.key) is None
    assert store.listing.count()[0] == 0
    (kept,) = store.unserved(entry.key.digest)
    assert (kept.reason, kept.at_s, kept.answer, kept.request) == ("cut off", 9.0, entry.answer, request.body)


def test_request__keeps_the_order_of_fields(store, make):
    """The body comes back as it was sent, order included."""
    entry, request = make(system="s")
    body = dict(reversed(request.body.items()))
    store.put(entry, request._replace(body=body))

    assert json.dumps(store.request(entry.key.digest)) == json.dumps(body)


def test_find__lists_the_columns(store, make):
    """A listed entry has its texts' beginnings, counts, cost and labels."""
    prompt, text = "p" * 499 + "é" * 20, "ü" * 2000
    entry, request = make(
        prompt, text, served="openai/gpt-4o-mini-2024", tags=("t",), notebook="n", expires_s=3.5
    )
    store.put(entry, request)

    (row,) = store.listing.find()

    assert (row.key, row.model, row.provider) == (entry.key.digest, "openai/gpt-4o-mini", "OpenAI")
    assert (row.prompt, row.answer) == (prompt[:500], text[:500])
    assert (row.prompt_tokens, row.completion_tokens, row.cost) == (10, 20, entry.answer.cost)
    assert (row.hits, row.saved_usd, row.last_hit_s) == (0, Decimal(0), None)
    assert (row.expires_s, row.tags, row.notebook, row.created_s) == (3.5, ("t",), "n", entry.created_s)
    assert row.size_bytes > 0
    assert store.listing.size_bytes() == row.size_bytes


def test_find__unknown_cost_is_none(store, make):
    """An unknown price and its savings are None, never 0, and counted apart."""
    store.put(*make(cost=None))
    store.put(*make("other", cost="0.5"))

    (row,) = store.listing.find(EntryFilter(prefix="Hello"))

    assert (row.cost.usd, row.cost.source, row.saved_usd) == (None, "unknown", None)
    assert store.listing.count() == (2, Decimal("0.5"), 1)


@pytest.fixture
def shelf(store, make):
    """Four entries; their prompts are their names."""
    models = ["openai/gpt-4o", "openai/gpt-4o:free", "anthropic/claude", "x/[odd]"]
    for i, model in enumerate(models):
        pair = make(
            f"name {i} in a Prompt" + " padding" * 100 + f" TAIL{i}", f"answer {i}", model=model,
            system=f"system {i}", tags=(f"tag{i}", f"tag{i}0"), created_s=100.0 + i, expires_s=200.0 + i, cost=f"0.{9 - i}",
            served="dated/model" if i == 3 else None,
        )  # fmt: skip
        store.put(*pair)
    return store


FILTERS = [
    (EntryFilter(), "0123"),
    (EntryFilter(text="tail2"), "2"),
    (EntryFilter(text="ANSWER 1"), "1"),
    (EntryFilter(text="content"), ""),
    (EntryFilter(text="%"), ""),
    (EntryFilter(model="openai/gpt-4o"), "0"),
    (EntryFilter(model="openai/*"), "01"),
    (EntryFilter(model="?/[odd]*"), "3"),
    (EntryFilter(model="dated/model"), "3"),
    (EntryFilter(model="OPENAI/gpt-4o"), ""),
    (EntryFilter(system="system 2"), "2"),
    (EntryFilter(system="system"), ""),
    (EntryFilter(system=""), ""),
    (EntryFilter(tag="tag1"), "1"),
    (EntryFilter(tag="tag"), ""),
    (EntryFilter(prefix="name 3"), "3"),
    (EntryFilter(prefix="ame"), ""),
    (EntryFilter(prefix="name 1 in a Prompt" + " padding" * 100), "1"),
    (EntryFilter(created_after_s=101.0, created_before_s=103.0), "12"),
    (EntryFilter(expired_at_s=201.0), "01"),
    (EntryFilter(served_at_s=201.0), "23"),
    (EntryFilter(model="openai/*", tag="tag1"), "1"),
    (EntryFilter(keys=("ffff0000",)), ""),
]


@pytest.mark.parametrize(("wanted", "names"), FILTERS)
def test_find__each_filter(shelf, wanted, names):
    """Each condition finds exactly what it says, and count agrees."""
    assert sorted(row.prompt[5] for row in shelf.listing.find(wanted)) == sorted(names)
    assert shelf.listing.count(wanted)[0] == len(names)


@pytest.mark.parametrize(("wanted", "names"), FILTERS[1:])
def test_purge__each_filter(shelf, wanted, names):
    """Purging removes what finding lists, and leaves the rest."""
    assert shelf.purge(wanted) == len(names)
    assert sorted(row.prompt[5] for row in shelf.listing.find()) == sorted(set("0123") - set(names))


@pytest.mark.parametrize("text", ['say "hi"', "line\nbreak", "back\\slash", "GRÜSSE", "straße", "\x07"])
def test_find__text_that_json_escapes(store, make, text):
    """Quotes, line breaks and letters beyond ASCII are found in an answer and in a prompt, whatever the case."""
    store.put(*make("a prompt", f"before {text} after"))
    store.put(*make("some other", "x"))

    (row,) = store.listing.find(EntryFilter(text=text.swapcase().swapcase()))
    assert row.prompt == "a prompt"


def test_find__by_key_prefixes(shelf):
    """Several key prefixes find their entries, in any case; digests gives them whole."""
    keys = [row.key for row in shelf.listing.find()]
    found = shelf.listing.find(EntryFilter(keys=(keys[0][:10].upper(), keys[2])))

    assert {row.key for row in found} == {keys[0], keys[2]}
    assert shelf.listing.digests(EntryFilter(keys=(keys[1][:12],))) == [keys[1]]
    assert shelf.purge(EntryFilter(keys=(keys[3][:8],))) == 1
    assert shelf.listing.digests(EntryFilter(keys=(keys[3],))) == []


def test_find__by_thousands_of_keys(shelf):
    """As many keys as a table has rows find theirs, and purge them: SQL takes a thousand terms at most."""
    keys = [row.key for row in shelf.listing.find()]
    many = (*(f"{number:064x}" for number in range(5_000)), keys[0], keys[2])
    assert {row.key for row in shelf.listing.find(EntryFilter(keys=many))} == {keys[0], keys[2]}
    assert shelf.purge(EntryFilter(keys=many)) == 2


@pytest.mark.parametrize("prefix", ["abc", "", "xyz0", "abcd%", "a" * 65])
def test_digests__refuses_what_is_no_key(shelf, prefix):
    """A prefix that is too short or not hexadecimal is an error, not everything."""
    with pytest.raises(OptionError):
        shelf.listing.digests(EntryFilter(keys=(prefix,)))


def test_rows__more_than_one_statement_takes(store, database, make):
    """Thousands of ids are listed as few are: in their order, none twice, none left out."""
    with database.transaction():
        for i in range(1203):
            store.put(*make(str(i), created_s=float(i)))
    ids = store.listing.matching(descending=False)

    assert [row.created_s for row in store.listing.rows(ids)] == list(range(1203))
    assert [row.prompt for row in store.listing.find()] == [str(i) for i in reversed(range(1203))]


def test_rows__purged_ones_are_left_out(shelf):
    """A list that was read before a purge can be paged in after it."""
    ids = shelf.listing.matching()
    shelf.purge(EntryFilter(tag="tag2"))

    assert [row.prompt[5] for row in shelf.listing.rows(ids)] == ["3", "1", "0"]


def test_rows__never_of_an_entry_with_the_id_of_one_that_is_gone(store, make):
    """Where a removed entry's row id was given to another one, its place is empty."""
    store.put(*make("old", created_s=100.0))
    places = store.listing.matching()
    store.purge(EntryFilter(), everything=True)
    store.put(*make("new", created_s=101.0))

    assert store.listing.matching()[0][0] == places[0][0]
    assert store.listing.rows(places) == []
    assert len(store.listing.find()) == 1


def test_rows__a_damaged_one_hides_no_other(shelf, database):
    """An entry whose index holds nonsense is left out; one whose texts are damaged is listed without them."""
    ids = shelf.listing.matching(descending=False)
    with database.transaction() as connection:
        connection.execute("UPDATE or_entry SET hits = 'many' WHERE id = 1")
        connection.execute("UPDATE Cache SET value = x'00' WHERE rowid = 2")

    rows = shelf.listing.rows(ids)
    assert [(row.prompt[:6], row.answer) for row in rows] == [
        ("name 1", ""),
        ("name 2", "answer 2"),
        ("name 3", "answer 3"),
    ]
    assert shelf.listing.find(descending=False) == rows


def test_find__orders_and_pages(shelf):
    """Newest first; any column either way; pages follow each other."""

    def names(**how):
        return "".join(row.prompt[5] for row in shelf.listing.find(**how))

    assert names() == "3210"
    assert names(descending=False) == "0123"
    assert names(order="cost_usd") == "0123"
    assert names(order="model", descending=False) == "2013"
    assert names(limit=2) + names(limit=2, offset=2) == "3210"
    with pytest.raises(OptionError, match="ordered by 'price'"):
        shelf.listing.find(order="price")


def test_purge__all_must_be_said(shelf):
    """A filter without conditions purges nothing unless everything is asked for."""
    with pytest.raises(OptionError, match="no condition"):
        shelf.purge(EntryFilter())
    assert shelf.listing.count()[0] == 4

    assert shelf.purge(EntryFilter(), everything=True) == 4
    assert shelf.listing.count()[0] == 0


def test_purge__takes_requests_and_history_along(shelf, database, make):
    """Nothing of a purged entry stays: its request, its old answers, diskcache's count."""
    _, request = make(model="openai/gpt-4o", system="system 0")
    (row,) = shelf.listing.find(EntryFilter(tag="tag0"))
    entry = shelf.entry(row.key)
    shelf.keep_unserved(entry.key, request, entry.answer, "cut", 1.0)

    shelf.purge(EntryFilter(tag="tag0"))

    assert shelf.unserved(row.key) == []
    assert database.select("SELECT count(*) FROM or_request") == [(3,)]
    assert database.select("SELECT value FROM Settings WHERE key = 'count'") == [(3,)]
    assert database.select("SELECT count(*) FROM or_entry") == [(3,)]


def test_settle__prices_hits_that_are_counted_late(store, ledger, make):
    """Hits that were served before the cost was told, and are written after it, saved as much as the others."""
    entry, request = make(cost=None)
    store.put(entry, request)
    hit = {"key": entry.key.digest, "model": "m", "value_usd": None, "generation_id": "gen-1"}
    ledger.count_hit(**hit)
    ledger.flush()
    ledger.count_hit(**hit)
    ledger.count_hit(**hit)

    store.settle(entry.key.digest, "gen-1", Cost(Decimal("0.5"), "generation"))
    assert store.listing.find()[0].saved_usd == Decimal("0.5")
    ledger.flush()
    (row,) = store.listing.find()
    assert (row.hits, row.saved_usd) == (3, Decimal("1.5"))


def test_record_hits__of_unknown_price_are_not_those_of_a_newer_answer(store, make):
    """Hits whose answer had no price are worth nothing known when it was replaced before they are written."""
    store.put(*make(text="old", cost=None))
    entry, request = make(text="new", cost="0.5")
    store.put(entry, request)
    record_hits(store, {entry.key.digest: HitCount(2, 7.0, 0, unpriced=2)})

    (row,) = store.listing.find()
    assert (row.hits, row.saved_usd) == (2, 0)


def test_settle__is_part_of_a_transaction(store, database, make):
    """What is undone with the transaction that it joined never happened."""
    entry, request = make(cost=None)
    store.put(entry, request)
    with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012
        assert store.settle(entry.key.digest, "gen-1", Cost(Decimal(1), "generation"))
        assert store.listing.count() == (1, Decimal(1), 0)
        1 / 0  # noqa: B018

    assert store.get(entry.key) == entry
    assert store.listing.count() == (1, Decimal(0), 1)


def test_settle__changes_no_other_column(store, database, make):
    """Of diskcache's row only the value changes, of the index only cost, source, size and saved; size is right."""
    entry, request = make(cost=None, expires_s=1.5e10, tags=("t",))
    store.put(entry, request)
    columns = "SELECT rowid, key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename FROM Cache"
    kept = "SELECT id, created, expires, served_model, provider, prompt_tokens, completion_tokens, hits, last_hit, tags, notebook, system FROM or_entry"
    before = (
        database.select(columns),
        database.select(kept),
        database.select("SELECT * FROM Settings ORDER BY key"),
    )

    assert store.settle(entry.key.digest, "gen-1", Cost(Decimal(1), "generation"))

    assert before == (
        database.select(columns),
        database.select(kept),
        database.select("SELECT * FROM Settings ORDER BY key"),
    )
    sizes = "SELECT length(c.value) + length(r.body), e.size FROM Cache c JOIN or_request r ON r.id = c.rowid JOIN or_entry e ON e.id = c.rowid"
    ((real, told),) = database.select(sizes)
    assert real == told


def test_settle__leaves_damaged_ones(store, database, make):
    """A damaged answer is not touched, and is no error: what else is to be settled with it is."""
    entry, request = make(cost=None)
    store.put(entry, request)
    store.keep_unserved(entry.key, request, entry.answer, "cut", 1.0)
    with database.transaction() as connection:
        connection.execute("UPDATE Cache SET value = x'0102030405'")
    cost = Cost(Decimal(1), "generation")

    assert store.settle(entry.key.digest, "gen-1", cost)
    assert store.listing.count() == (1, Decimal(0), 1)
    assert [kept.answer.cost for kept in store.unserved(entry.key.digest)] == [cost]
    assert database.select("SELECT cost, cost_source FROM or_unserved") == [(10**12, "generation")]
    assert not store.settle(entry.key.digest, "gen-1", cost)


def test_settle__an_answer_that_has_a_price_keeps_it(store, database, make):
    """What the answer itself says it cost is never overwritten, whatever the index says."""
    entry, request = make(cost="0.5")
    store.put(entry, request)
    with database.transaction() as connection:
        connection.execute("UPDATE or_entry SET cost = NULL, cost_source = 'unknown'")

    assert not store.settle(entry.key.digest, "gen-1", Cost(Decimal(1), "generation"))
    assert store.get(entry.key) == entry


def test_record_hits__adds_up(store, make):
    """Hits add to the entry; those of entries that are gone are dropped."""
    entry, request = make()
    store.put(entry, request)
    record_hits(store, {entry.key.digest: HitCount(2, 50.0, 10), "f" * 64: HitCount(1, 1.0, 1)})
    record_hits(store, {entry.key.digest: HitCount(1, 40.0, 5)})

    (row,) = store.listing.find()
    assert (row.hits, row.last_hit_s, row.saved_usd) == (3, 50.0, Decimal("1.5E-11"))


def test_raw_diskcache__deletes_keep_the_index_right(store, database, folder, make):
    """Any diskcache program that deletes leaves our tables consistent, and the file one of ours."""
    import diskcache

    entries = [make(str(i), model=f"m/{i}", expires_s=1.0 if i == 2 else None) for i in range(4)]
    for pair in entries:
        store.put(*pair)
    database.close()
    with diskcache.Cache(folder) as cache:
        del cache[entries[0][0].key.digest]
        cache.evict("m/1")
        cache.expire()

    assert [row.prompt for row in store.listing.find()] == ["3"]
    assert database.select("SELECT count(*) FROM or_entry UNION ALL SELECT count(*) FROM or_request") == [
        (1,),
        (1,),
    ]
    store.put(*entries[0])
    assert store.get(entries[0][0].key) == entries[0][0]
