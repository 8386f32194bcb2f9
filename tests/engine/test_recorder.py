"""Answers and accounts in one transaction: both or neither, and no cost forgotten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Answer, Choice, Cost, Outcome, Request, Usage
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.engine.recorder import Recorder, paid_for
from or_cache_magic.errors import UpstreamError
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

REQUEST = Request({"model": "m/x", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0})
KEY = request_key(REQUEST)
ASK = Ask(KEY, REQUEST, Policy(), Settings())


def answer(usd="0.0042", **facts):
    cost = UNKNOWN_COST if usd is None else Cost(Decimal(usd), "reported")
    choice = Choice({"role": "assistant", "content": "Hello"}, "stop")
    return Answer((choice,), "m/x", "P", Usage(3, 4), cost, "gen-1", 1.0, 2.0)._replace(**facts)


@pytest.fixture
def database(folder):
    opened = Database(folder, timeout_s=0.05)
    yield opened
    opened.close()


@pytest.fixture
def recorder(database, clock):
    return Recorder(
        DiskStore(database),
        Ledger(database, "s", clock, notebook="n.ipynb"),
        database.transaction,
        clock=clock,
    )


def test_paid_for__is_nothing_for_a_repeated_answer():
    """What OpenRouter served from its own response cache was not charged; unknown stays unknown."""
    assert paid_for(answer(None, response_cache_hit=True)) == FREE
    assert paid_for(answer(None)) == UNKNOWN_COST
    assert paid_for(answer()).usd == Decimal("0.0042")


def test_keep__stores_and_accounts(recorder, clock):
    """The entry and the row are there together, with the labels and the place of the ask."""
    not_stored, note = recorder.keep(ASK._replace(policy=Policy(ttl_s=60.0, tags=("t",))), "miss", answer())
    assert (not_stored, note) == ("", "")
    entry = recorder.store.get(KEY)
    assert (entry.answer, entry.created_s, entry.expires_s) == (answer(), clock.now_s, clock.now_s + 60)
    assert (entry.tags, entry.notebook) == (("t",), "n.ipynb")
    (row,) = recorder.ledger.rows()
    assert (row.kind, row.asks, row.key, row.model, row.notebook) == ("miss", 1, KEY.digest, "m/x", "n.ipynb")
    assert (row.paid.usd, row.value_usd, row.tags) == (Decimal("0.0042"), Decimal("0.0042"), ("t",))
    assert (row.prompt_tokens, row.completion_tokens, row.seconds, row.generation_id) == (3, 4, 2.0, "gen-1")


def test_keep__is_all_or_nothing(recorder):
    """An answer that can't be stored leaves no half of it behind, and its cost is remembered."""
    broken = answer(error={"x": float("nan")})
    not_stored, _ = recorder.keep(ASK, "miss", broken)
    assert not_stored
    assert recorder.store.get(KEY) is None
    assert recorder.ledger.totals()[0].paid_usd == Decimal("0.0042")
    assert len(recorder.ledger.rows()) == 1


@pytest.mark.parametrize("way", ["keep", "set_aside", "account", "account_failure"])
def test_books__remember_what_a_locked_file_refuses(recorder, database, folder, way):
    """While another process holds the file, no cost is lost: the next flush writes it, once."""
    recorder.account(ASK, "miss", answer("1"))
    calls = {
        "keep": lambda: recorder.keep(ASK, "miss", answer()),
        "set_aside": lambda: recorder.set_aside(ASK, "failed", answer(), "broken"),
        "account": lambda: recorder.account(ASK, "bypass", answer()),
        "account_failure": lambda: recorder.account_failure(
            ASK, UpstreamError("x", cost_usd=Decimal("0.0042"))
        ),
    }
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        calls[way]()
        assert recorder.ledger.totals()[0].paid_usd == Decimal("1.0042")
        other.execute("ROLLBACK")
    assert recorder.ledger.flush()
    assert recorder.ledger.flush()
    assert sorted(row.paid.usd for row in recorder.ledger.rows()) == [Decimal("0.0042"), Decimal(1)]


def test_set_aside__keeps_what_was_paid_for(recorder):
    """A partial is kept with its reason and cost, and never found by a look-up."""
    recorder.set_aside(ASK, "failed", answer(), "the answer was cut off")
    (aside,) = recorder.store.unserved(KEY.digest)
    assert (aside.reason, aside.answer, aside.request) == ("the answer was cut off", answer(), REQUEST.body)
    assert recorder.store.get(KEY) is None
    assert [row.kind for row in recorder.ledger.rows()] == ["failed"]


@pytest.mark.parametrize(("usd", "unpriced"), [(None, 1), (Decimal(0), 0), (Decimal("0.5"), 0)])
def test_account_failure__knows_unknown_from_free(recorder, usd, unpriced):
    """A failed call of unknown cost counts as unpriced; one that was free does not."""
    recorder.account_failure(ASK, UpstreamError("x", cost_usd=usd, generation_id="gen-9"))
    (row,) = recorder.ledger.rows()
    assert (row.kind, row.paid.usd, row.generation_id) == ("failed", usd, "gen-9")
    assert recorder.ledger.totals()[0].unpriced == unpriced


@pytest.mark.parametrize("kind", ["hit", "shared", "replay", "coalesced", "stale", "similar"])
def test_count__adds_an_ask_at_no_cost(recorder, kind):
    """What made no call is counted as asked and charged nothing."""
    recorder.account(ASK, "miss", answer())
    recorder.ledger.count(ASK, Outcome(kind, KEY, answer()))
    (totals,) = recorder.ledger.totals()
    assert (totals.asks, totals.calls, totals.paid_usd) == (2, 1, Decimal("0.0042"))


amounts = st.one_of(st.none(), st.decimals(0, 100, places=12))
asks = st.lists(
    st.tuples(
        st.sampled_from(["miss", "refresh", "bypass", "failed", "hit", "coalesced", "replay"]), amounts
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asks)
def test_books__sums_are_those_of_their_rows(tmp_path_factory, made):
    """Whatever was asked in whatever order, the totals are the exact sums of the rows."""
    database = Database(tmp_path_factory.mktemp("recorder"))
    recorder = Recorder(DiskStore(database), Ledger(database, "s", lambda: 1.0), database.transaction)
    made = [("miss", Decimal(1)), *made]  # hits alone make no file
    for kind, usd in made:
        bought = answer(None if usd is None else str(usd))
        if kind in ("hit", "coalesced", "replay"):
            recorder.ledger.count(ASK, Outcome(kind, KEY, bought))
        else:
            recorder.account(ASK, kind, bought)
    (totals,) = recorder.ledger.totals()
    rows = recorder.ledger.rows()
    database.close()

    def total(kinds):
        return sum((usd or Decimal(0) for kind, usd in made if kind in kinds), Decimal(0))

    assert totals.asks == len(made) == sum(row.asks for row in rows)
    assert (
        totals.paid_usd
        == total({"miss", "refresh", "bypass", "failed"})
        == sum(r.paid.usd or 0 for r in rows)
    )
    assert totals.saved_usd == total({"hit"})
    assert totals.coalesced_usd == total({"coalesced"})
    assert totals.replayed_usd == total({"replay"})
    assert totals.unpriced == sum(usd is None for _, usd in made)
