"""Every ask's row, and exact sums over them."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.database import Database, from_pico
from or_cache_magic.errors import OptionError, StoreUnavailableError
from or_cache_magic.ledger import Ledger
from or_cache_magic.records import UNKNOWN_COST, Cost, LedgerRow

KEY = "ab" * 32


def row(kind="miss", *, paid="0.5", value="0.5", model="m", at_s=1_700_000_000.0, **fields):
    cost = UNKNOWN_COST if paid is None else Cost(Decimal(paid), "reported")
    values = {"session": "session-1", "notebook": "n", "key": KEY, "asks": 1, **fields}
    return LedgerRow(
        at_s=at_s,
        model=model,
        kind=kind,
        paid=cost,
        value_usd=None if value is None else Decimal(value),
        **values,
    )


def test_record__comes_back_whole(ledger):
    """A recorded row is read back equal."""
    recorded = row(
        paid="0.000000000001", tags=("a", "b"), prompt_tokens=1, completion_tokens=2, cached_tokens=3,
        cache_write_tokens=4, seconds=1.5, generation_id="gen-1",
    )  # fmt: skip
    ledger.record(recorded)
    ledger.record(row(paid=None, value=None, at_s=5.0))

    assert ledger.rows() == [recorded, row(paid=None, value=None, at_s=5.0)]
    assert ledger.rows(limit=1) == [recorded]
    assert ledger.rows(since_s=6.0) == [recorded]
    assert ledger.rows(session="other") == []


def test_record__joins_an_open_transaction(ledger, store, database, make):
    """What was paid and what was kept stand or fall together."""
    entry, request = make()
    with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012
        ledger.record(row())
        store.put(entry, request)
        assert store.get(entry.key) == entry
        1 / 0  # noqa: B018

    assert ledger.rows() == []
    assert store.get(entry.key) is None


def test_transaction__an_inner_failure_leaves_the_outer_work(ledger, store, database, make):
    """A put that fails inside takes nothing else down: what was paid is still written."""
    entry, request = make()
    with database.transaction():
        ledger.record(row())
        with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012
            store.put(entry, request)
            1 / 0  # noqa: B018

    assert len(ledger.rows()) == 1
    assert store.get(entry.key) is None


def test_flush__folds_hits_and_counts_them_on_the_entry(ledger, store, clock, make):
    """Equal hits become one row, and the entry's counters move in the same write."""
    entry, request = make()
    store.put(entry, request)
    for _ in range(3):
        clock.now_s += 1
        ledger.count_hit(
            key=entry.key.digest,
            model="m",
            value_usd=Decimal("0.1"),
            prompt_tokens=5,
            tags=("t",),
            seconds=0.5,
        )
    ledger.count_hit(key=entry.key.digest, model="m", kind="replay", value_usd=Decimal("0.1"))

    assert store.find()[0].hits == 0
    assert ledger.flush()
    (listed,) = store.find()
    assert (listed.hits, listed.saved_usd, listed.last_hit_s) == (3, Decimal("0.3"), clock.now_s)
    hits = next(found for found in ledger.rows() if found.kind == "hit")
    assert (hits.asks, hits.value_usd, hits.prompt_tokens, hits.completion_tokens, hits.seconds, hits.tags) == (
        3, Decimal("0.3"), 15, None, 1.5, ("t",),
    )  # fmt: skip
    assert hits.paid == Cost(Decimal(0), "reported")


def test_flush__hits_alone_make_no_file(ledger, folder):
    """Counting a hit creates nothing; it waits in memory and is in the totals."""
    ledger.count_hit(key=KEY, model="m", value_usd=Decimal("0.1"), tags=("t",))

    assert not ledger.flush()
    assert not folder.exists()
    for by, group in [("", ""), ("model", "m"), ("tag", "t"), ("notebook", "")]:
        (totals,) = ledger.totals(by)
        assert (totals.group, totals.calls, totals.hits, totals.saved_usd) == (group, 1, 1, Decimal("0.1"))
    ledger.record(row())
    assert ledger.flush()
    assert ledger.totals()[0].calls == 2


def test_flush__does_not_wait_for_a_lock_and_loses_nothing(ledger, folder):
    """While another program holds the lock hits stay in memory, and are written afterwards."""
    ledger.record(row())
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.count_hit(key=KEY, model="m", value_usd=Decimal("0.25"))

    assert not ledger.flush()
    ledger.count_hit(key=KEY, model="m", value_usd=Decimal("0.25"))
    assert ledger.totals()[0].saved_usd == Decimal("0.5")
    other.execute("ROLLBACK")
    other.close()
    assert ledger.flush()
    assert [found.asks for found in ledger.rows() if found.kind == "hit"] == [2]


def test_remember__a_row_that_could_not_be_written(ledger, folder):
    """What was paid while the file was locked counts at once, and is written when it can be."""
    ledger.record(row(at_s=1.0))
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"):
        ledger.record(row(at_s=2.0))
    ledger.remember(row(at_s=2.0))

    assert ledger.totals()[0].paid_usd == Decimal("1.0")
    other.close()
    assert ledger.flush()
    assert [found.at_s for found in ledger.rows()] == [2.0, 1.0]


def test_totals__keeps_the_kinds_apart(ledger):
    """Paid, saved, coalesced and replayed are lines of their own; unknown is counted, not 0."""
    for kind, paid, value in [
        ("miss", "1", "1"), ("miss", None, None), ("refresh", "2", "2"), ("bypass", "4", "4"), ("failed", None, None),
        ("hit", "0", "8"), ("hit", "0", None), ("coalesced", "0", "16"), ("replay", "0", "32"), ("stale", "0", "64"),
    ]:  # fmt: skip
        ledger.record(row(kind, paid=paid, value=value, prompt_tokens=3, completion_tokens=2))

    (totals,) = ledger.totals()
    assert (totals.calls, totals.hits, totals.misses, totals.refreshes, totals.bypasses) == (10, 2, 2, 1, 1)
    assert (totals.coalesced, totals.replays, totals.stale, totals.failed) == (1, 1, 1, 1)
    assert (totals.paid_usd, totals.saved_usd) == (7, 8)
    assert (totals.coalesced_usd, totals.replayed_usd) == (16, 32)
    assert totals.unpriced == 3
    assert (totals.prompt_tokens, totals.completion_tokens) == (30, 20)
    assert (totals.hit_tokens, totals.bought_tokens) == (10, 25)


def test_totals__of_nothing(ledger):
    """No rows: one line of zeros for all, no groups."""
    assert ledger.totals()[0].calls == 0
    assert ledger.totals("model") == []


def test_totals__by_group(ledger):
    """By model, notebook, tag and local day; an ask with two tags counts in both."""
    day_s = 86_400.0
    ledger.record(row(model="a", tags=("x", "y"), notebook="one", at_s=day_s * 10))
    ledger.record(row(model="a", tags=("x",), notebook="two", at_s=day_s * 11))
    ledger.record(row(model="b", notebook="two", at_s=day_s * 11))

    def groups(by):
        return {totals.group: totals.calls for totals in ledger.totals(by)}

    assert groups("model") == {"a": 2, "b": 1}
    assert groups("tag") == {"x": 2, "y": 1, "": 1}
    assert groups("notebook") == {"two": 2, "one": 1}
    assert groups("day") == {
        time.strftime("%Y-%m-%d", time.localtime(day_s * d)): n for d, n in ((10, 1), (11, 2))
    }
    assert ledger.totals(since_s=day_s * 10.5)[0].calls == 2
    assert ledger.totals(session="another")[0].calls == 0
    with pytest.raises(OptionError, match="grouped by 'moon'"):
        ledger.totals("moon")


KINDS = st.sampled_from(["hit", "miss", "refresh", "bypass", "coalesced", "replay", "stale", "failed"])
ASKS = st.lists(
    st.tuples(KINDS, st.none() | st.integers(0, 10**15), st.integers(0, 50), st.sampled_from(["a", "b"])),
    max_size=20,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ASKS, st.randoms())
def test_totals__are_exact_in_any_order(tmp_path_factory, clock, asks, random):
    """Whatever is recorded or counted, in whatever order and with whatever flushes, the sums are exact."""
    # Closed whatever happens: a draw from `random` may end an example in the middle.
    with closing(Database(tmp_path_factory.mktemp("ledger"))) as database:
        ledger = Ledger(database, "s", clock)
        random.shuffle(asks)
        for kind, pico, tokens, model in asks:
            usd = from_pico(pico)
            if kind in ("miss", "refresh", "bypass", "failed"):
                paid = UNKNOWN_COST if usd is None else Cost(usd, "reported")
                ledger.record(LedgerRow(1.0, "s", "", KEY, model, kind, 1, paid, usd, prompt_tokens=tokens))
            else:
                ledger.count_hit(key=KEY, model=model, kind=kind, value_usd=usd, prompt_tokens=tokens)
            if random.random() < 0.2:
                ledger.flush()

        (totals,) = ledger.totals()
        by_model = ledger.totals("model")

    def total(*kinds):
        return from_pico(sum(pico or 0 for kind, pico, *_ in asks if kind in kinds))

    assert totals.calls == len(asks) == sum(t.calls for t in by_model)
    assert (
        totals.paid_usd == total("miss", "refresh", "bypass", "failed") == sum(t.paid_usd for t in by_model)
    )
    assert totals.saved_usd == total("hit")
    assert totals.replayed_usd == total("replay")
    assert totals.unpriced == sum(pico is None for _, pico, *_ in asks)
    assert totals.prompt_tokens == sum(tokens for *_, tokens, _ in asks)


def test_count_hit__from_many_threads(ledger, store, make):
    """Eight threads count while another flushes: no hit is lost, none counted twice."""
    entry, request = make()
    store.put(entry, request)

    def work():
        for _ in range(500):
            ledger.count_hit(key=entry.key.digest, model="m", value_usd=Decimal("0.001"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ledger.flush()
    for thread in threads:
        thread.join()

    assert ledger.totals()[0].saved_usd == 4
    assert store.find()[0].hits == 4000


def test_flush__does_not_import_diskcache(ledger, store, folder, make):
    """Hits and their flush cost no import of diskcache; a first hit must stay quick."""
    entry, request = make()
    store.put(entry, request)
    program = f"""
import sys
from or_cache_magic.database import Database
from or_cache_magic.ledger import Ledger
from or_cache_magic.store import DiskStore
database = Database({os.fspath(folder)!r})
assert DiskStore(database).entry({entry.key.digest!r}) is not None
ledger = Ledger(database, "s", lambda: 1.0)
ledger.count_hit(key={entry.key.digest!r}, model="m")
assert ledger.flush()
assert not {{"diskcache", "pandas", "openai", "IPython"}} & set(sys.modules)
database.close()
"""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    assert store.find()[0].hits == 1
