"""What every store does, whatever it keeps its entries in.

A test module inherits `StoreContract` and gives a fixture ``store``: a store that is empty. Where the same
entries can be opened anew, it also gives ``reopened``.
"""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest

from or_cache_magic.core.records import Cost, RequestKey
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import OptionError, StoreCorruptError
from or_cache_magic.storage.columns import HitCount

from .conftest import record_hits

_ALL = EntryFilter()


class StoreContract:
    """The tests; each store's module runs them all."""

    def test_empty__has_nothing(self, store, make):
        """An empty store misses, lists nothing, counts nothing and has nothing to purge."""
        entry, _ = make()

        assert store.get(entry.key) is None
        assert store.entry(entry.key.digest) is None
        assert store.request(entry.key.digest) is None
        assert store.unserved(entry.key.digest) == []
        assert store.listing.find() == []
        assert store.listing.count() == (0, Decimal(0), 0)
        assert store.listing.size_bytes() == 0
        assert (
            store.listing.models()
            == store.listing.tags()
            == store.listing.matching()
            == store.listing.rows([(1, 1.0), (2, 1.0)])
            == []
        )
        assert store.purge(EntryFilter(tag="x")) == 0

    def test_put__comes_back_whole(self, store, make):
        """What was put comes back equal, with its request: Unicode, money, lifetime, labels, notebook."""
        entry, request = make(
            "Grüße 🎈", "¡Hola!\n\x00" * 300, expires_s=1.5e10, tags=("a", "b c"), notebook="n.ipynb"
        )
        store.put(entry, request)

        assert store.get(entry.key) == entry
        assert store.entry(entry.key.digest) == entry
        assert store.request(entry.key.digest) == request.body
        assert store.listing.models() == [request.body["model"]]

    def test_put__expired_entries_are_the_engines_to_judge(self, store, make):
        """An expired entry is still given, with its time: serving it or not is not the store's to say."""
        entry, request = make(expires_s=1.0)
        store.put(entry, request)

        assert store.get(entry.key).expires_s == 1.0

    def test_put__a_large_answer(self, store, make):
        """An answer of several megabytes comes back whole."""
        entry, request = make(text="".join(chr(33 + i * i % 90) for i in range(3_000_000)))
        store.put(entry, request)

        assert store.get(entry.key) == entry

    def test_get__never_another_requests_answer(self, store, make):
        """A digest that was stored for another request is refused."""
        entry, request = make()
        store.put(entry, request)

        with pytest.raises(StoreCorruptError):
            store.get(RequestKey(entry.key.digest, entry.key.skeleton + b" "))

    def test_put__replaces_and_keeps_history(self, store, make):
        """A newer answer is served, the older one is kept with the reason, and the hits stay counted."""
        first, request = make(text="one")
        second, _ = make(text="two", created_s=1_700_000_100.0)
        store.put(first, request)
        record_hits(store, {first.key.digest: HitCount(2, 7.0, 2_000_000_000_000)})
        store.put(second, request, replaced_reason="asked again")

        assert store.get(first.key) == second
        (old,) = store.unserved(first.key.digest)
        assert (old.answer, old.reason, old.request) == (first.answer, "asked again", request.body)
        (row,) = store.listing.find()
        assert (row.hits, row.saved_usd) == (2, Decimal(2))

    def test_keep_unserved__is_never_served(self, store, make):
        """What can't be served is kept with its reason, and is no entry."""
        entry, request = make(text="half")
        store.keep_unserved(entry.key, request, entry.answer, "cut off", 9.0)

        assert store.get(entry.key) is None
        assert store.listing.count()[0] == 0
        (kept,) = store.unserved(entry.key.digest)
        assert (kept.reason, kept.at_s, kept.answer) == ("cut off", 9.0, entry.answer)

    @pytest.mark.parametrize("source", ["generation", "estimated"])
    def test_settle__prices_an_entry(self, store, make, source):
        """An unknown cost that is told later is the answer's, and its hits' until then; nothing else changes."""
        entry, request = make(cost=None, expires_s=1.5e10, tags=("t",), notebook="n")
        store.put(entry, request)
        record_hits(store, {entry.key.digest: HitCount(3, 7.0, 0)})
        (before,) = store.listing.find()
        cost = Cost(Decimal("0.000000000007"), source)

        assert store.settle(entry.key.digest, "gen-1", cost) is True

        assert store.get(entry.key) == entry._replace(answer=entry.answer._replace(cost=cost))
        (row,) = store.listing.find()
        assert row == before._replace(cost=cost, saved_usd=3 * cost.usd, size_bytes=row.size_bytes)
        assert row.size_bytes > before.size_bytes
        assert store.listing.size_bytes() == row.size_bytes
        assert store.listing.count() == (1, cost.usd, 0)

    def test_settle__only_what_the_generation_made(self, store, make):
        """Another generation, another request, a known cost, an unknown amount, nothing stored: nothing is done."""
        cost = Cost(Decimal(1), "generation")
        assert store.settle("ab" * 32, "gen-1", cost) is False
        unknown, known = make("unknown", cost=None), make("known", cost="0.5")
        store.put(*unknown)
        store.put(*known)
        before = store.listing.find()

        assert store.settle(unknown[0].key.digest, "gen-2", cost) is False
        assert store.settle(known[0].key.digest, "gen-1", cost) is False
        assert store.settle("ab" * 32, "gen-1", cost) is False
        assert store.settle(unknown[0].key.digest, "gen-1", Cost(None, "unknown")) is False
        assert store.listing.find() == before
        assert [store.get(entry.key) for entry, _ in (unknown, known)] == [unknown[0], known[0]]

        assert store.settle(unknown[0].key.digest, "gen-1", cost) is True
        assert store.settle(unknown[0].key.digest, "gen-1", Cost(Decimal(2), "generation")) is False
        assert store.get(unknown[0].key).answer.cost == cost

    def test_settle__a_repeated_answer_by_its_source(self, store, make):
        """What OpenRouter repeated from its response cache is worth what its source was, not its own nothing."""
        entry, request = make(cost=None)
        answer = entry.answer._replace(response_cache_hit=True, source_generation_id="gen-0")
        store.put(entry._replace(answer=answer), request)
        cost = Cost(Decimal(1), "generation")

        assert store.settle(entry.key.digest, "gen-1", cost) is False
        assert store.settle(entry.key.digest, "gen-0", cost) is True
        assert store.get(entry.key).answer == answer._replace(cost=cost)

    def test_settle__what_is_not_served_too(self, store, make):
        """A partial's and a replaced answer's cost is told later as well; others of the request stay unknown."""
        old, request = make(text="old", cost=None)
        new, _ = make(text="new", cost="0.5")
        store.put(old, request)
        store.put(new, request)
        for name in ("gen-2", "gen-3", "gen-2"):
            partial = old.answer._replace(generation_id=name, complete=False)
            store.keep_unserved(old.key, request, partial, "cut off", 9.0)
        cost = Cost(Decimal("0.25"), "generation")

        assert store.settle(old.key.digest, "gen-2", cost) is True
        assert store.settle(old.key.digest, "gen-1", cost) is True

        assert [
            (kept.answer.generation_id, kept.answer.cost.usd) for kept in store.unserved(old.key.digest)
        ] == [
            ("gen-1", cost.usd),
            ("gen-2", cost.usd),
            ("gen-3", None),
            ("gen-2", cost.usd),
        ]
        assert store.get(new.key) == new

    def test_settle__hits_that_had_a_price_keep_it(self, store, make):
        """Where an earlier answer's hits were worth something, those of unknown price add nothing to it."""
        first, request = make(text="one", cost="2")
        store.put(first, request)
        record_hits(store, {first.key.digest: HitCount(2, 7.0, 4 * 10**12)})
        second, _ = make(text="two", cost=None)
        store.put(second, request)
        record_hits(store, {first.key.digest: HitCount(1, 8.0, 0)})

        assert store.settle(first.key.digest, "gen-1", Cost(Decimal(5), "generation"))
        (row,) = store.listing.find()
        assert (row.hits, row.saved_usd) == (3, 4)

    def test_find__filters_orders_and_pages(self, store, make):
        """Conditions find what they say; newest first, any column either way, page by page."""
        for i in range(5):
            pair = make(
                f"prompt {i}", f"answer {i}", model=f"m/{i % 2}", created_s=100.0 + i, cost=f"0.{i + 1}"
            )
            store.put(*pair)

        def names(wanted=_ALL, **how):
            return "".join(row.prompt[-1] for row in store.listing.find(wanted, **how))

        assert names() == "43210"
        assert names(limit=2, offset=2) == "21"
        assert names(order="cost_usd", descending=False) == "01234"
        assert names(EntryFilter(model="m/1")) == "31"
        assert names(EntryFilter(text="ANSWER 2")) == "2"
        assert names(EntryFilter(created_after_s=102.0, model="m/*")) == "432"
        assert store.listing.count(EntryFilter(model="m/0")) == (3, Decimal("0.9"), 0)

    def test_matching__is_found_again_by_its_rows(self, store, make):
        """The ids of all that match are those that find lists, in the same order; any part of them is a page."""
        for i in range(7):
            store.put(*make(f"prompt {i}", f"answer {i % 3}", created_s=100.0 + i % 2, cost=f"0.{7 - i}"))
        for wanted in (_ALL, EntryFilter(text="ANSWER 1"), EntryFilter(text="nowhere")):
            for how in ({}, {"descending": False}, {"order": "cost_usd"}):
                ids = store.listing.matching(wanted, **how)
                assert store.listing.rows(ids) == store.listing.find(wanted, **how)
                unread = [row._replace(answer="") for row in store.listing.rows(ids)]
                assert store.listing.rows(ids, answers=False) == unread
                assert store.listing.rows(ids[1:3]) == store.listing.find(wanted, limit=2, offset=1, **how)
        assert len(store.listing.matching()) == 7
        with pytest.raises(OptionError, match="ordered by 'price'"):
            store.listing.matching(order="price")

    def test_rows__follow_the_places(self, store, make):
        """Rows come in the order of the places that are given; a place of no entry is left out."""
        for i in range(3):
            store.put(*make(f"prompt {i}", model=f"m/{i}", created_s=100.0 + i))
        newest, _, oldest = store.listing.matching()

        assert [row.model for row in store.listing.rows([oldest, (10**9, 1.0), newest, (-1, 1.0)])] == [
            *("m/0", "m/2")
        ]
        assert store.listing.rows([]) == []

    def test_tags__are_each_label_once(self, store, make):
        """The labels of all entries, sorted."""
        store.put(*make("a", tags=("b c", "a")))
        store.put(*make("b", tags=("a", "Z")))
        store.put(*make("c"))

        assert store.listing.tags() == ["Z", "a", "b c"]

    def test_count__unknown_cost_is_counted_apart(self, store, make):
        """An unknown price adds nothing to the sum and one to the unpriced."""
        store.put(*make(cost=None))
        store.put(*make("other", cost="0.5"))

        assert store.listing.count() == (2, Decimal("0.5"), 1)

    def test_size_bytes__is_the_sum_of_the_entries(self, store, make):
        """The size of a selection is that of its entries."""
        store.put(*make("a", model="m/a"))
        store.put(*make("b", "x" * 5000, model="m/b"))

        sizes = {row.model: row.size_bytes for row in store.listing.find()}
        assert store.listing.size_bytes() == sum(sizes.values())
        assert store.listing.size_bytes(EntryFilter(model="m/b")) == sizes["m/b"]

    @pytest.mark.parametrize(
        "wanted",
        [
            EntryFilter(model="m/1"),
            EntryFilter(system="system 1"),
            EntryFilter(tag="tag1"),
            EntryFilter(prefix="prompt 1"),
            EntryFilter(created_before_s=102.0, created_after_s=101.0),
            EntryFilter(expired_at_s=1.5e10),
        ],
    )
    def test_purge__removes_what_matches(self, store, make, wanted):
        """Each condition removes its entries, their history too, and leaves the others served."""
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
        for entry, request in pairs:
            store.put(entry, request)
            store.keep_unserved(entry.key, request, entry.answer, "cut", 1.0)

        assert store.purge(wanted) == 1
        assert [store.get(entry.key) for entry, _ in pairs] == [pairs[0][0], None, pairs[2][0]]
        assert [len(store.unserved(entry.key.digest)) for entry, _ in pairs] == [1, 0, 1]

    def test_purge__by_key(self, store, make):
        """The beginning of a key is enough."""
        kept, gone = make("kept"), make("gone")
        store.put(*kept)
        store.put(*gone)

        assert store.purge(EntryFilter(keys=(gone[0].key.digest[:16],))) == 1
        assert store.get(gone[0].key) is None
        assert store.get(kept[0].key) == kept[0]

    def test_purge__all_must_be_said(self, store, make):
        """No condition is no purge, unless everything is asked for."""
        entry, request = make()
        store.put(entry, request)
        with pytest.raises(OptionError):
            store.purge(EntryFilter())

        assert store.get(entry.key) == entry
        assert store.purge(EntryFilter(), everything=True) == 1
        assert store.get(entry.key) is None

    def test_threads__write_and_read_at_once(self, store, make):
        """Threads that put, get, list and count at the same time lose nothing and get no error."""
        pairs = [[make(f"thread {t} prompt {i}") for i in range(10)] for t in range(6)]
        failures: list[BaseException] = []

        def work(mine):
            try:
                for entry, request in mine:
                    store.put(entry, request)
                    assert store.get(entry.key) == entry
                    record_hits(store, {entry.key.digest: HitCount(1, 1.0, 1)})
                    store.listing.find(limit=3)
                    store.listing.count()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(mine,)) for mine in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        assert store.listing.count()[0] == 60
        assert all(store.get(entry.key) == entry for mine in pairs for entry, _ in mine)
        assert [row.hits for row in store.listing.find()] == [1] * 60
