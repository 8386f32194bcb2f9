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

from or_cache_magic.core.records import OPENROUTER_URL, UNKNOWN_COST, Cost
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.errors import OptionError, StoreUnavailableError
from or_cache_magic.storage.columns import from_pico
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.ledger_rows import Settlements

KEY = "ab" * 32
ELSEWHERE = "http://127.0.0.1:1/api/v1"


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

    assert store.listing.find()[0].hits == 0
    assert ledger.flush()
    (listed,) = store.listing.find()
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
        assert (totals.group, totals.asks, totals.hits, totals.saved_usd) == (group, 1, 1, Decimal("0.1"))
    ledger.record(row())
    assert ledger.flush()
    assert ledger.totals()[0].asks == 2


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
    assert [found.at_s for found in ledger.rows()] == [2.0, 1.0]
    assert [found.at_s for found in ledger.rows(limit=1)] == [2.0]
    other.close()
    assert ledger.flush()
    assert [found.at_s for found in ledger.rows()] == [2.0, 1.0]


UNWRITABLE = [
    {"tags": ("a\ud800",)},
    {"notebook": "\udcff.ipynb"},
    {"model": "m\ud800"},
    {"generation_id": "gen-\ud800"},
    {"prompt_tokens": 10**30},
    {"completion_tokens": -(10**30)},
    {"value_usd": Decimal(9_000_000)},  # five times
]


@pytest.mark.parametrize("bad", UNWRITABLE, ids=str)
def test_unwritable__one_row_is_mended_and_no_other_lost(ledger, store, make, bad):
    """What SQLite can't take of one row (half a character, 10^30 tokens) is replaced; all rows are written."""
    entry, request = make()
    store.put(entry, request)
    for _ in range(5):
        ledger.count_hit(key=KEY, model="m")
        ledger.count_hit(**{"key": entry.key.digest, "model": "m", **bad})
    fields = {name: value for name, value in bad.items() if name != "value_usd"}
    ledger.record(row(**fields))
    ledger.remember(row(**fields, paid=None, value=None))

    assert ledger.flush()
    assert sorted((found.kind, found.asks) for found in ledger.rows()) == [
        *[("hit", 5), ("hit", 5), ("miss", 1), ("miss", 1)]
    ]
    (totals,) = ledger.totals()
    assert (totals.hits, totals.misses) == (10, 2)
    assert store.listing.find()[0].hits == 5


class _Interrupting(Database):
    """Ends the next transaction as Ctrl-C does."""

    interrupts = False

    def transaction(self, **how):
        if self.interrupts:
            raise KeyboardInterrupt
        return super().transaction(**how)


def test_flush__an_interrupt_loses_no_hit(folder, clock):
    """What ends a flush before it has written leaves every hit in memory."""
    ledger = Ledger(database := _Interrupting(folder), "session-1", clock)
    ledger.record(row())
    ledger.count_hit(key=KEY, model="m")
    database.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        ledger.flush()
    database.interrupts = False

    assert ledger.flush()
    assert ledger.totals()[0].hits == 1
    database.close()


def test_spent__counts_calls_alone_written_or_not(ledger, folder):
    """What a budget is held against: calls of this session or since a time, also while the file is locked."""
    ledger.record(row(paid="1", at_s=1.0))
    ledger.record(row("failed", paid=None, value=None, at_s=2.0))
    ledger.record(row("coalesced", paid="0", value="9", at_s=2.0))
    ledger.record(row("refresh", paid="2", at_s=2.0, session="another"))
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.remember(row("bypass", paid="4", at_s=3.0))
    ledger.remember(row(paid=None, value=None, at_s=3.0))

    assert ledger.spent() == (Decimal(7), 2)
    assert ledger.spent(session=ledger.session) == (Decimal(5), 2)
    assert ledger.spent(since_s=2.0) == (Decimal(6), 2)
    other.close()
    assert ledger.flush()
    assert ledger.spent() == (Decimal(7), 2)


def test_spent__a_settled_call_is_known(ledger, database, clock):
    """What OpenRouter told afterwards counts in place of the unknown, once."""
    ledger.record(row(paid=None, value=None, generation_id="gen-1", at_s=clock.now_s))
    assert ledger.spent() == (0, 1)
    with database.transaction() as connection:
        connection.execute("UPDATE or_settlement SET cost = ?, cost_source = 'generation'", (10**12,))
    assert ledger.spent() == (1, 0)
    assert ledger.spent() == (ledger.totals()[0].paid_usd, 0)


def test_totals__keeps_the_kinds_apart(ledger):
    """Paid, saved, coalesced and replayed are lines of their own; unknown is counted, not 0."""
    for kind, paid, value in [
        ("miss", "1", "1"), ("miss", None, None), ("refresh", "2", "2"), ("bypass", "4", "4"), ("failed", None, None),
        ("hit", "0", "8"), ("hit", "0", None), ("coalesced", "0", "16"), ("replay", "0", "32"), ("stale", "0", "64"),
        ("similar", "0", "128"),
    ]:  # fmt: skip
        ledger.record(row(kind, paid=paid, value=value, prompt_tokens=3, completion_tokens=2))

    (totals,) = ledger.totals()
    assert (totals.asks, totals.hits, totals.misses, totals.refreshes, totals.bypasses) == (11, 2, 2, 1, 1)
    assert (totals.coalesced, totals.replays, totals.stale, totals.similar, totals.failed) == (1, 1, 1, 1, 1)
    assert (totals.paid_usd, totals.saved_usd) == (7, 8)
    assert (totals.coalesced_usd, totals.replayed_usd) == (16, 32)
    assert totals.unpriced == 3
    assert (totals.prompt_tokens, totals.completion_tokens) == (33, 22)
    assert (totals.hit_tokens, totals.bought_tokens) == (10, 25)


def test_totals__of_nothing(ledger):
    """No rows: one line of zeros for all, no groups."""
    assert ledger.totals()[0].asks == 0
    assert ledger.totals("model") == []


def test_totals__by_group(ledger):
    """By model, notebook, tag and local day; an ask with two tags counts in both."""
    day_s = 86_400.0
    ledger.record(row(model="a", tags=("x", "y"), notebook="one", at_s=day_s * 10))
    ledger.record(row(model="a", tags=("x",), notebook="two", at_s=day_s * 11))
    ledger.record(row(model="b", notebook="two", at_s=day_s * 11))

    def groups(by):
        return {totals.group: totals.asks for totals in ledger.totals(by)}

    assert groups("model") == {"a": 2, "b": 1}
    assert groups("tag") == {"x": 2, "y": 1, "": 1}
    assert groups("notebook") == {"two": 2, "one": 1}
    assert groups("day") == {
        time.strftime("%Y-%m-%d", time.localtime(day_s * d)): n for d, n in ((10, 1), (11, 2))
    }
    assert ledger.totals(since_s=day_s * 10.5)[0].asks == 2
    assert ledger.totals(session="another")[0].asks == 0
    with pytest.raises(OptionError, match="grouped by 'moon'"):
        ledger.totals("moon")


KINDS = st.sampled_from(
    ["hit", "miss", "refresh", "bypass", "coalesced", "replay", "stale", "similar", "failed"]
)
ASKS = st.lists(
    st.tuples(KINDS, st.none() | st.integers(0, 10**15), st.integers(0, 50), st.sampled_from(["a", "b"])),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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

    assert totals.asks == len(asks) == sum(t.asks for t in by_model)
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
    assert store.listing.find()[0].hits == 4000


def test_flush__does_not_import_diskcache(ledger, store, folder, make):
    """Hits and their flush cost no import of diskcache; a first hit must stay quick."""
    entry, request = make()
    store.put(entry, request)
    program = f"""
import sys
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.entries import DiskStore
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
    assert store.listing.find()[0].hits == 1


# -- what is settled later --------------------------------------------------------------------


def told(cost):
    return Cost(Decimal(cost), "generation")


def waiting(database, base_url=OPENROUTER_URL):
    return [tuple(one) for one in Settlements(database, base_url).waiting()]


def test_record__what_is_unknown_waits_for_its_generation(ledger, database):
    """A call of unknown cost is to be asked for a second after it, at the API that made it."""
    ledger.record(row(paid=None, value=None, generation_id="gen-1", at_s=10.0))
    ledger.record(row(paid="0", value=None, generation_id="gen-2", at_s=20.0, base_url=ELSEWHERE))

    assert waiting(database) == [("gen-1", 11.0)]
    assert waiting(database, ELSEWHERE) == [("gen-2", 21.0)]
    assert [found.base_url for found in ledger.rows()] == [ELSEWHERE, OPENROUTER_URL]


@pytest.mark.parametrize(
    "fields",
    [
        {"generation_id": "gen-1"},
        {"paid": None, "value": None},
        {
            "generation_id": "gen-1",
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "prompt_cache_saved_usd": None,
        },
    ],
    ids=["all known", "no generation", "no prompt caching"],
)
def test_record__what_nobody_can_tell_waits_for_nobody(ledger, database, fields):
    """A row that is whole, or that names no generation, leaves nothing to settle."""
    ledger.record(row(**fields))

    assert database.select("SELECT count(*) FROM or_settlement") == [(0,)]
    assert ledger.totals()[0].prompt_cache_saved_usd == 0


def test_flush__unpriced_hits_wait_for_their_generation(ledger, database, clock):
    """Hits on an answer of unknown price are settled with it; those of a known price name nothing."""
    ledger.record(row())
    for value in (None, None, Decimal("0.25")):
        ledger.count_hit(key=KEY, model="m", value_usd=value, generation_id="gen-1", base_url=ELSEWHERE)
    assert ledger.flush()

    assert waiting(database, ELSEWHERE) == [("gen-1", clock.now_s + 1)]
    Settlements(database, ELSEWHERE).settle("gen-1", told("0.5"), None)
    (totals,) = ledger.totals()
    assert (totals.hits, totals.saved_usd, totals.unpriced) == (3, Decimal("1.25"), 0)
    assert sorted(found.value_usd for found in ledger.rows() if found.kind == "hit") == [
        Decimal("0.25"),
        Decimal(1),
    ]


def test_settle__totals_and_rows_are_as_if_it_had_been_told_at_once(ledger, database):
    """What is told counts as paid and as value, has its source, and leaves no ask unpriced."""
    settlements = Settlements(database, OPENROUTER_URL)
    ledger.record(row(paid="2", value="2"))
    for name in ("gen-told", "gen-counted", "gen-never"):
        ledger.record(row("failed", paid=None, value=None, generation_id=name))
    ledger.record(row("hit", paid="0", value=None, asks=3, generation_id="gen-told"))
    assert ledger.totals()[0].unpriced == 6

    settlements.settle("gen-told", told("0.000000000007"), None)
    settlements.settle("gen-counted", Cost(Decimal("0.5"), "estimated"), None)
    settlements.settle("gen-told", told("99"), None)  # another kernel asked too, and what is known stays

    (totals,) = ledger.totals()
    assert (totals.paid_usd, totals.unpriced) == (Decimal("2.500000000007"), 1)
    assert (totals.reported_usd, totals.settled_usd, totals.estimated_usd) == (
        Decimal(2),
        Decimal("0.000000000007"),
        Decimal("0.5"),
    )
    assert totals.saved_usd == Decimal("0.000000000021")
    paid = {found.generation_id: found.paid for found in ledger.rows() if found.kind == "failed"}
    assert paid == {
        "gen-told": told("0.000000000007"),
        "gen-counted": Cost(Decimal("0.5"), "estimated"),
        "gen-never": UNKNOWN_COST,
    }
    assert [one for one, _ in waiting(database)] == ["gen-never"]


def test_settle__a_reported_price_is_never_replaced(ledger, database):
    """Where only the discount was unknown, the generation's cost changes nothing."""
    ledger.record(
        row(paid="1", value="1", generation_id="gen-1", cached_tokens=9, prompt_cache_saved_usd=None)
    )
    assert Settlements(database, OPENROUTER_URL).settle("gen-1", told("3"), Decimal("-0.25")) == []

    (totals,) = ledger.totals()
    assert (totals.paid_usd, totals.reported_usd, totals.settled_usd) == (1, 1, 0)
    assert totals.prompt_cache_saved_usd == Decimal("-0.25")
    assert ledger.rows()[0].prompt_cache_saved_usd == Decimal("-0.25")


def test_totals__prompt_caching_is_unknown_only_where_nothing_is_known(ledger, database):
    """Nothing cached is 0, one unknown is None, and of one known and one unknown the known is told."""
    assert ledger.totals()[0].prompt_cache_saved_usd == 0
    ledger.record(row(cached_tokens=5, generation_id="gen-1", prompt_cache_saved_usd=None))
    ledger.record(row(prompt_tokens=5))
    (totals,) = ledger.totals()
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (None, 1)
    assert totals.net_saved_usd == 0

    ledger.record(row(cache_write_tokens=5, prompt_cache_saved_usd=Decimal("-0.5")))
    (totals,) = ledger.totals()
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (Decimal("-0.5"), 1)
    Settlements(database, OPENROUTER_URL).settle("gen-1", told("1"), Decimal(2))
    (totals,) = ledger.totals()
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (Decimal("1.5"), 0)


def test_settle__a_cut_call_learns_its_discount(ledger, database):
    """Its reply told no tokens; the generation knows that a prompt cache was read. Its hits get none of it."""
    ledger.record(row(paid=None, value=None, generation_id="gen-1"))
    ledger.record(row("hit", paid="0", value=None, generation_id="gen-1"))
    Settlements(database, OPENROUTER_URL).settle("gen-1", told("1"), Decimal("0.25"))

    assert ledger.totals()[0].prompt_cache_saved_usd == Decimal("0.25")
    assert [found.prompt_cache_saved_usd for found in ledger.rows()] == [0, Decimal("0.25")]


def test_remember__unwritten_rows_count_as_written_ones_do(ledger, folder):
    """Locked out of the file, sources, discounts and unknowns are told as they will be."""
    ledger.record(row(paid="1", value="1"))
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.remember(row(paid=None, value=None, generation_id="gen-1"))
    ledger.remember(row(cached_tokens=1, prompt_cache_saved_usd=Decimal("0.5"), generation_id="gen-2"))
    ledger.remember(row(cached_tokens=1, prompt_cache_saved_usd=None, generation_id="gen-3"))
    ledger.remember(row()._replace(paid=Cost(Decimal(4), "estimated")))
    before = ledger.totals()
    other.close()

    assert ledger.flush()
    assert before == ledger.totals()
    (totals,) = before
    assert (totals.paid_usd, totals.estimated_usd, totals.unpriced) == (6, 4, 1)
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (Decimal("0.5"), 1)


def test_totals__never_see_half_of_a_settlement(ledger, folder):
    """Another process settles call after call: at each look what became known is no longer unpriced."""
    import subprocess
    import sys

    calls = 200
    for number in range(calls):
        ledger.record(row(paid=None, value=None, generation_id=f"gen-{number}"))
    program = f"""
from decimal import Decimal
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger_rows import Settlements
from or_cache_magic.core.records import OPENROUTER_URL, Cost
database = Database({os.fspath(folder)!r})
settlements = Settlements(database, OPENROUTER_URL)
for number in range({calls}):
    settlements.settle(f"gen-{{number}}", Cost(Decimal(1), "generation"), None)
database.close()
"""
    seen = set()
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while process.poll() is None:
            (totals,) = ledger.totals()
            assert totals.paid_usd + totals.unpriced == calls
            seen.add(totals.unpriced)
    assert process.returncode == 0
    assert ledger.totals()[0].paid_usd == calls
    assert len(seen) > 2
