"""What replies did not tell is asked for afterwards, against the simulated OpenRouter."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from decimal import Decimal

import pytest

from or_cache_magic.core.records import OPENROUTER_URL, UNKNOWN_COST, Cost
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.errors import StreamBrokenError, UpstreamError
from or_cache_magic.money.catalog import PriceCatalog
from or_cache_magic.money.reconciliation import Reconciler, Reconciliation
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.ledger_rows import Settlements

PROMPT = "What is a median?"
KEY = "ab" * 32


@pytest.fixture
def gateway():
    with closing(Gateway(lambda: "sk-or-v1-test")) as opened:
        yield opened


@pytest.fixture
def reconciler_of(gateway):
    """``reconciler_of(cache)`` settles its folder, as the same kernel or another one would."""

    def make(cache, *, fetch=gateway.fetch, prices=None, **options):
        options = {"base_url": cache.settings.base_url, "clock": cache.clock, **options}
        return Reconciler(cache.database, cache.store, prices or cache.money.prices, fetch, **options)

    return make


@pytest.fixture
def kept(tmp_path, clock):
    """A ledger and a store without a cache in front: ``kept.unknown("gen-1")`` records a call of unknown cost."""

    class Kept:
        def __init__(self):
            self.database = Database(tmp_path / "kept", timeout_s=0.2)
            self.ledger = Ledger(self.database, "s", clock)
            self.store = DiskStore(self.database)

        def unknown(self, generation_id, base_url, **fields):
            self.ledger.record(
                LedgerRow(
                    clock.now_s, "s", "", KEY, "m", "failed", 1, UNKNOWN_COST, None,
                    generation_id=generation_id, base_url=base_url, **fields,
                )
            )  # fmt: skip

        def reconciler(self, fetch, base_url):
            prices = PriceCatalog(self.database, fetch, clock)
            return Reconciler(self.database, self.store, prices, fetch, base_url=base_url, clock=clock)

    made = Kept()
    yield made
    made.database.close()


def asked(sim):
    """The generations that were asked for, in order."""
    return [one for one in sim.requests if one.path.endswith("/generation")]


def never(*_args, **_kwargs):
    raise AssertionError("nobody is to be asked")


# -- what calls came to -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["eof", "eof_after_finish", "reset"])
def test_reconcile__a_cut_stream_costs_what_its_generation_says(cache, sim, clock, reconciler_of, how):
    """A second after it the cost is told, and stands in totals, rows and the partial."""
    sim.script(scenario("cut", how=how))
    with pytest.raises(StreamBrokenError):
        cache.ask(PROMPT)
    reconciler = reconciler_of(cache)
    assert (reconciler.is_due(), reconciler.reconcile()) == (False, Reconciliation())
    assert cache.totals()[0].unpriced == 1

    clock.now_s += 1
    assert reconciler.reconcile() == Reconciliation(reconciled=1)
    (totals,) = cache.totals()
    assert sim.total_cost > 0
    assert (totals.paid_usd, totals.settled_usd, totals.unpriced) == (sim.total_cost, sim.total_cost, 0)
    (row,) = cache.ledger.rows()
    assert row.paid == Cost(sim.total_cost, "generation")
    (partial,) = cache.store.unserved(row.key)
    assert partial.answer.cost == Cost(sim.total_cost, "generation")
    assert reconciler.reconcile() == Reconciliation()
    assert len(asked(sim)) == 1


INTERRUPTED = """
    import sys
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Settings

    folder, url = sys.argv[1:]
    settings = Settings(model="openai/gpt-4o-mini", base_url=url)
    cache = CompletionCache(folder, settings=lambda: settings, api_key=lambda: "sk-or-v1-test", clock=lambda: 1.0)
    try:
        cache.ask("What is a median?", on_text=lambda text: print("text", flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    cache.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to one process")
def test_reconcile__an_interrupted_cell_costs_what_was_made_until_then(
    open_cache, sim, folder, reconciler_of
):
    """Ctrl-C stops the provider; another kernel learns later what came of it."""
    sim.script(scenario("stalled", after_pieces=2))
    program = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), os.fspath(folder), sim.base_url]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "text\n"
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stdout.read()
    assert sim.wait_for(lambda received: received[-1].cancelled)

    cache = open_cache(sim)
    assert reconciler_of(cache).reconcile() == Reconciliation(reconciled=1)
    assert cache.totals()[0].settled_usd == sim.total_cost > 0


@pytest.mark.parametrize("stream", [True, False])
def test_reconcile__an_answer_from_the_response_cache_is_worth_its_source(
    open_cache, clock, reconciler_of, stream
):
    """It was free; what it and the hits on it are worth is told by the generation that was paid for."""
    with Simulator(presets={"kept": {"cache_enabled": True}}) as sim:
        cache = open_cache(sim)
        bought = cache.ask(PROMPT, preset="kept", stream=stream)
        cache.purge(all=True)
        repeated = cache.ask(PROMPT, preset="kept", stream=stream)
        assert repeated.outcome.answer.response_cache_hit
        cache.flush()
        clock.now_s += 1
        assert reconciler_of(cache).reconcile() == Reconciliation(reconciled=1)

        (totals,) = cache.totals()
        assert (totals.paid_usd, totals.settled_usd, totals.unpriced) == (bought.cost_usd, 0, 0)
        values = [row.value_usd for row in cache.ledger.rows()]
        assert values == [bought.cost_usd, bought.cost_usd]
        hit = cache.ask(PROMPT, preset="kept", stream=stream)
        assert (hit.cached, hit.saved_usd) == (True, bought.cost_usd)


def test_reconcile__a_repeated_generation_without_a_source_is_followed(open_cache, clock, kept, gateway):
    """Where only /generation knows that the response cache answered, its zero is not taken for a value."""
    with Simulator(presets={"kept": {"cache_enabled": True}}) as sim:
        cache = open_cache(sim)
        bought = cache.ask(PROMPT, preset="kept")
        cache.purge(all=True)
        repeated = cache.ask(PROMPT, preset="kept").outcome.answer.generation_id
        free = Cost(Decimal(0), "reported")
        kept.ledger.record(
            LedgerRow(
                clock.now_s, "s", "", KEY, "m", "miss", 1, free, None, generation_id=repeated, base_url=sim.base_url
            )
        )  # fmt: skip
        clock.now_s += 1
        assert kept.reconciler(gateway.fetch, sim.base_url).reconcile() == Reconciliation(reconciled=1)
        assert [row.value_usd for row in kept.ledger.rows()] == [bought.cost_usd]
        assert kept.ledger.totals()[0].paid_usd == 0


def test_reconcile__a_reply_without_a_cost_prices_its_entry_and_its_hits(cache, sim, clock, reconciler_of):
    """The answer is kept with its price, hits before and after are worth it, and a dollar stays a dollar."""
    sim.script(scenario("uncosted"))
    cache.ask(PROMPT)
    cache.money.close()  # it looks up prices, and then would settle too, if the time had come
    assert cache.ask(PROMPT).saved_usd is None
    cache.flush()
    clock.now_s += 2
    assert reconciler_of(cache).reconcile() == Reconciliation(reconciled=1)

    hit = cache.ask(PROMPT)
    assert (hit.cost_usd, hit.saved_usd) == (sim.total_cost, sim.total_cost)
    (totals,) = cache.totals()
    assert (totals.paid_usd, totals.saved_usd, totals.unpriced) == (sim.total_cost, 2 * sim.total_cost, 0)
    (entry,) = cache.store.listing.find()
    assert (entry.cost, entry.saved_usd) == (Cost(sim.total_cost, "generation"), 2 * sim.total_cost)


def test_reconcile__a_key_of_ones_own_includes_the_provider(cache, sim, clock, reconciler_of):
    """BYOK: OpenRouter's fee and the provider's bill are added, as in a reply that names them."""
    sim.script(dataclasses.replace(scenario("cut"), byok=True))
    with pytest.raises(StreamBrokenError):
        cache.ask(PROMPT)
    clock.now_s += 1
    reconciler_of(cache).reconcile()
    assert cache.totals()[0].paid_usd == sim.total_cost > 0


def test_reconcile__what_prompt_caching_took_off(cache, sim, clock, kept, gateway):
    """Written at a premium, then read: the generations tell a loss and a saving, exactly."""
    system = "Be terse. " * 1000
    for prompt in ("one", "two"):
        messages = [
            {"role": "system", "content": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": prompt},
        ]  # fmt: skip
        answer = cache.ask(messages, model="anthropic/claude-sonnet-4.6").outcome.answer
        usage = answer.usage
        kept.ledger.record(
            LedgerRow(
                clock.now_s, "s", "", KEY, "m", "miss", 1, answer.cost, answer.cost.usd,
                prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens,
                cache_write_tokens=usage.cache_write_tokens, generation_id=answer.generation_id,
                base_url=sim.base_url, prompt_cache_saved_usd=None,
            )
        )  # fmt: skip
    assert kept.ledger.totals()[0].prompt_cache_unpriced == 2
    assert kept.ledger.totals()[0].prompt_cache_saved_usd is None
    clock.now_s += 1
    assert kept.reconciler(gateway.fetch, sim.base_url).reconcile() == Reconciliation(reconciled=2)

    read, written = (row.prompt_cache_saved_usd for row in kept.ledger.rows())
    written_tokens, read_tokens = (
        kept.ledger.rows()[1].cache_write_tokens,
        kept.ledger.rows()[0].cached_tokens,
    )
    price = Decimal("0.000003")
    assert written_tokens == read_tokens > 0
    assert written == -written_tokens * price * Decimal("0.25")
    assert read == read_tokens * price * Decimal("0.9")
    (totals,) = kept.ledger.totals()
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (read + written, 0)
    assert (totals.settled_usd, totals.reported_usd) == (0, totals.paid_usd)


# -- when it isn't told -----------------------------------------------------------------------


def test_reconcile__waits_twice_as_long_each_time(cache, sim, clock, reconciler_of):
    """404 twice, then known: asked after 1, 2 and 4 seconds, and never in between."""
    sim.script(dataclasses.replace(scenario("cut"), generation_misses=2))
    with pytest.raises(StreamBrokenError):
        cache.ask(PROMPT)
    reconciler = reconciler_of(cache)
    rounds = []
    for _ in range(32):
        clock.now_s += 0.25
        before = len(asked(sim))
        settled = reconciler.reconcile()
        if len(asked(sim)) > before:
            rounds.append((clock.now_s - cache.ledger.rows()[0].at_s, settled))
    assert rounds == [
        (1, Reconciliation(waiting=1)),
        (3, Reconciliation(waiting=1)),
        (7, Reconciliation(reconciled=1)),
    ]
    assert cache.totals()[0].paid_usd == sim.total_cost


def test_reconcile__gives_up_what_nobody_tells(kept, sim, clock, gateway):
    """Another account's generation is 404 for ever: twelve tries in an hour or so, then unknown stays unknown."""
    began_s = clock.now_s
    kept.unknown("gen-0-of-somebody", sim.base_url)
    reconciler = kept.reconciler(gateway.fetch, sim.base_url)
    last = Reconciliation(waiting=1)
    for _ in range(40):
        clock.now_s += 600
        told = reconciler.reconcile()
        last = told if told != Reconciliation() else last
    assert len(asked(sim)) == 12
    assert last == Reconciliation(given_up=1)
    assert clock.now_s - began_s > 3600
    assert kept.ledger.totals()[0].unpriced == 1
    assert kept.ledger.rows()[0].paid == UNKNOWN_COST

    # Later hits on it are asked for once, not another dozen times.
    kept.ledger.count_hit(key=KEY, model="m", generation_id="gen-0-of-somebody", base_url=sim.base_url)
    kept.ledger.flush()
    for _ in range(3):
        clock.now_s += 600
        reconciler.reconcile()
    assert len(asked(sim)) == 13


@pytest.mark.parametrize("listed", [True, False])
def test_reconcile__then_counts_tokens_where_prices_leave_no_doubt(
    cache, sim, clock, reconciler_of, gateway, listed
):
    """Never told, but its tokens are known: the list's price is the bill to the digit; without a list, unknown."""
    prices = PriceCatalog(cache.database, gateway.fetch, clock)
    sim.script(scenario("uncosted", misses=99))
    cache.ask(PROMPT)
    cache.money.close()
    if listed:
        prices.pricing(sim.base_url, cache.settings.model)
    else:  # the cache itself fetched the list when it learned no cost
        with cache.database.transaction() as connection:
            connection.execute("DELETE FROM or_listing")
    reconciler = reconciler_of(cache, prices=prices)
    for _ in range(12):
        clock.now_s += 4000
        last = reconciler.reconcile()

    (totals,) = cache.totals()
    assert last == (Reconciliation(reconciled=1) if listed else Reconciliation(given_up=1))
    assert totals.unpriced == (0 if listed else 1)
    assert totals.paid_usd == totals.estimated_usd == (sim.total_cost if listed else 0)
    assert cache.store.listing.find()[0].cost == (
        Cost(sim.total_cost, "estimated") if listed else UNKNOWN_COST
    )
    assert reconciler.reconcile() == Reconciliation()


def test_reconcile__a_damaged_answer_is_not_counted_and_stops_nothing(
    cache, sim, clock, reconciler_of, gateway
):
    """Its tokens can't be read: the generation is given up, and the next one is asked for."""
    prices = PriceCatalog(cache.database, gateway.fetch, clock)
    sim.script(scenario("uncosted", misses=99))
    cache.ask(PROMPT)
    cache.money.close()
    prices.pricing(sim.base_url, cache.settings.model)
    with cache.database.transaction() as connection:
        connection.execute("UPDATE Cache SET value = x'00'")
    reconciler = reconciler_of(cache, prices=prices)
    for _ in range(12):
        clock.now_s += 4000
        last = reconciler.reconcile()
    assert last == Reconciliation(given_up=1)
    assert cache.totals()[0].unpriced == 1


UNTOLD = {
    "byok without the provider's bill": '{"data": {"total_cost": 0.001, "is_byok": true}}',
    "no cost": '{"data": {"id": "gen-1"}}',
    "a negative one": '{"data": {"total_cost": -1}}',
    "a word": '{"data": {"total_cost": "0.1"}}',
    "not a number": '{"data": {"total_cost": NaN}}',
    "beyond all money": '{"data": {"total_cost": 1e30}}',
    "beyond all numbers": '{"data": {"total_cost": 1e9999999999999999999999}}',
    "too deep": '{"data": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "a truth": '{"data": {"total_cost": true}}',
    "a list": "[1, 2]",
    "no data": '{"data": null}',
}


@pytest.mark.parametrize("body", UNTOLD.values(), ids=UNTOLD.keys())
def test_reconcile__makes_nothing_up(kept, clock, canned, reply, gateway, body):
    """What tells no whole cost leaves it unknown, to be asked for again."""
    server = canned(reply(body, "application/json"))
    kept.unknown("gen-1", server.base_url)
    clock.now_s += 1
    assert kept.reconciler(gateway.fetch, server.base_url).reconcile() == Reconciliation(waiting=1)
    assert kept.ledger.totals()[0].unpriced == 1


@pytest.mark.parametrize("discount", ["null", '"much"', "1e40", "true"])
def test_reconcile__no_discount_is_made_up_either(kept, clock, canned, reply, gateway, discount):
    """The cost is told and taken; of a discount that is none only ``null`` is zero, and for BYOK not even that."""
    byok = discount == "null"
    body = f'{{"data": {{"total_cost": 0.5, "is_byok": {str(byok).lower()}, "upstream_inference_cost": 1, "cache_discount": {discount}}}}}'
    server = canned(reply(body, "application/json"))
    kept.unknown("gen-1", server.base_url, cached_tokens=9, prompt_cache_saved_usd=None)
    clock.now_s += 1
    assert kept.reconciler(gateway.fetch, server.base_url).reconcile() == Reconciliation(reconciled=1)
    (totals,) = kept.ledger.totals()
    assert totals.paid_usd == Decimal("1.5" if byok else "0.5")
    assert (totals.prompt_cache_saved_usd, totals.prompt_cache_unpriced) == (None, 1)


# -- when nobody answers ----------------------------------------------------------------------


def test_reconcile__a_failed_network_costs_no_try_and_no_word(kept, sim, clock, gateway):
    """Nobody there: the round ends at the first, says nothing, and is made up for when the network is back."""
    sim_url = sim.base_url
    for number in range(3):
        kept.unknown(f"gen-{number}", sim_url)
    sim.stop()
    for _ in range(20):
        clock.now_s += 4000
        assert kept.reconciler(gateway.fetch, sim_url).reconcile() == Reconciliation(waiting=3)
    assert kept.database.select("SELECT sum(tries) FROM or_settlement") == [(0,)]


@pytest.mark.parametrize("status", ["401 Unauthorized", "429 Too Many Requests", "500 Oops", "503 Busy"])
def test_reconcile__a_refusal_that_is_not_about_it_costs_no_try(kept, clock, canned, reply, gateway, status):
    """A wrong key, a rate limit, a fault: another generation would be refused the same, so none is asked."""
    server = canned(reply('{"error": {"code": 1, "message": "no"}}', "application/json", status))
    for number in range(3):
        kept.unknown(f"gen-{number}", server.base_url)
    clock.now_s += 1
    reconciler = kept.reconciler(gateway.fetch, server.base_url)
    assert reconciler.reconcile() == Reconciliation(waiting=3)
    clock.now_s += 10
    assert (reconciler.is_due(), reconciler.reconcile()) == (False, Reconciliation())  # not again at once
    assert len(server.received) == 1
    assert kept.database.select("SELECT sum(tries) FROM or_settlement") == [(0,)]


def test_reconcile__without_a_key_nothing_is_sent(kept, sim, clock):
    """Who has no key is told nothing, and loses nothing."""
    kept.unknown("gen-1", sim.base_url)
    clock.now_s += 1
    with closing(Gateway(lambda: None)) as keyless:
        assert kept.reconciler(keyless.fetch, sim.base_url).reconcile() == Reconciliation(waiting=1)
    assert not sim.requests


def test_reconcile__the_key_goes_to_the_api_in_force_and_no_other(kept, sim, clock, canned, reply, gateway):
    """A cache.db from a stranger may name any address: it is never asked."""
    stranger = canned(reply('{"data": {"total_cost": 1}}', "application/json"))
    kept.unknown("gen-1", stranger.base_url)
    clock.now_s += 1
    for base_url in (sim.base_url, OPENROUTER_URL):
        assert kept.reconciler(never, base_url).reconcile() == Reconciliation()
    assert not stranger.received


@pytest.mark.parametrize(
    "planted",
    ["tries = 1 << 60", "tries = -9", "tries = 'x'", "next = -1e308", "next = 'x'", "next = 9e999", "generation_id = x'00'",
     "discount = 1.5", "cost = 'x'", "generation_id = ''"],
)  # fmt: skip
def test_reconcile__a_row_from_a_stranger_raises_nothing(kept, sim, clock, gateway, planted):
    """Whatever a planted settlement holds, a round raises nothing and settles nothing."""
    kept.unknown("gen-1", sim.base_url)
    with kept.database.transaction() as connection:
        connection.execute(f"UPDATE or_settlement SET {planted}")
    clock.now_s += 1
    reconciler = kept.reconciler(gateway.fetch, sim.base_url)
    for _ in range(2):
        assert reconciler.reconcile().reconciled == 0
        clock.now_s += 4000


def test_reconcile__with_nothing_due_asks_nobody(cache, sim, clock, reconciler_of):
    """All is known, or there is no file at all."""
    reconciler = reconciler_of(cache, fetch=never)
    assert reconciler.reconcile() == Reconciliation()
    assert not cache.database.exists()
    cache.ask(PROMPT)
    clock.now_s += 60
    assert reconciler.reconcile() == Reconciliation()


def test_reconcile__a_locked_file_means_nobody_is_asked(kept, sim, clock, gateway):
    """What could not be written down is not asked for; unlocked, it is settled."""
    kept.unknown("gen-0-nobody", sim.base_url)
    clock.now_s += 1
    reconciler = kept.reconciler(gateway.fetch, sim.base_url)
    with closing(sqlite3.connect(kept.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert reconciler.reconcile() == Reconciliation(waiting=1)
        assert not sim.requests
    assert reconciler.reconcile() == Reconciliation(waiting=1)
    assert len(asked(sim)) == 1


def test_reconcile__keeps_to_its_limit_and_its_time(kept, sim, clock, gateway):
    """So many generations and no more; and none when there is no time."""
    for number in range(5):
        kept.unknown(f"gen-{number}", sim.base_url)
    clock.now_s += 1
    reconciler = kept.reconciler(gateway.fetch, sim.base_url)
    assert reconciler.reconcile(budget_s=0) == Reconciliation(waiting=5)
    assert reconciler.reconcile(limit=2) == Reconciliation(waiting=5)
    assert len(asked(sim)) == 2


def test_reconcile__two_kernels_at_once_ask_once(open_cache, sim, clock, reconciler_of):
    """Each generation is claimed before it is asked for; the sums are exact whoever was first."""
    first, second = open_cache(sim), open_cache(sim)
    for number in range(6):
        sim.script(scenario("cut"))
        with pytest.raises(UpstreamError):
            first.ask(f"{PROMPT} {number}")
    clock.now_s += 1
    reconcilers = [reconciler_of(first), reconciler_of(second), reconciler_of(first)]
    threads = [
        threading.Thread(target=reconciler.reconcile, kwargs={"budget_s": 30}) for reconciler in reconcilers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked(sim)) == 6
    (totals,) = second.totals()
    assert (totals.settled_usd, totals.unpriced) == (sim.total_cost, 0)


def test_claim__passes_over_what_another_has_just_claimed(kept, clock):
    """The second of two that saw the same generation due does not get it."""
    kept.unknown("gen-1", OPENROUTER_URL)
    settlements = Settlements(kept.database, OPENROUTER_URL)
    clock.now_s += 1
    assert settlements.claim("gen-1", clock.now_s)
    assert not settlements.claim("gen-1", clock.now_s)
