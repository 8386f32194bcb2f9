"""Estimates, budgets and settlements as users of a cache meet them, against the simulated OpenRouter."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal

import pytest

from or_cache_magic.cache.request import build_request
from or_cache_magic.core.records import Request
from or_cache_magic.errors import (
    BudgetError,
    ConnectionLostError,
    OptionError,
    StreamBrokenError,
    UpstreamError,
)
from or_cache_magic.money.budget import read_key_limits
from or_cache_magic.money.catalog import PriceCatalog
from or_cache_magic.money.listings import ModelListing, ModelPricing
from or_cache_magic.simulator import scenario
from or_cache_magic.tables.warm import warm

MINI_PROMPT, MINI_COMPLETION = Decimal("0.00000015"), Decimal("0.00000060")


def usd(text) -> Decimal:
    return Decimal(text)


@pytest.fixture
def cache(open_cache, sim):
    return open_cache(sim)


def fetched(sim) -> list[str]:
    return [one.path.removeprefix("/api/v1") for one in sim.requests if one.method == "GET"]


def test_prices__tell_of_a_router_that_is_listed(cache, sim, monkeypatch):
    """Where it is known that a model is listed below zero its answers live for a day; nothing is fetched for it."""
    first = cache.ask("What is a median?")
    listed = ModelPricing("m", listing=ModelListing("m", routes=True))
    monkeypatch.setattr(PriceCatalog, "known", lambda *_args: listed)
    assert first.outcome.notes == ()
    assert cache.ask("What is a mean?").outcome.notes == ("kept 24 h: its model picks another at each call",)
    assert fetched(sim) == ["/model/openai/gpt-4o-mini"]  # before the first


# -- one ask's limit --------------------------------------------------------------------------


def test_max_cost__refuses_before_anything_is_sent(cache, sim):
    """4,096 tokens of answer may cost $0.0025: with a limit of a tenth of a cent the prompt never leaves."""
    with pytest.raises(BudgetError) as caught:
        cache.ask("What is a median?", max_cost_usd="0.001")
    assert sim.completion_count == 0
    assert usd("0.0024") < caught.value.high_usd < usd("0.0030")
    assert caught.value.limit_usd == usd("0.001")
    assert cache.totals()[0].asks == 0


def test_max_cost__lets_through_what_fits_and_is_no_part_of_the_key(cache, sim):
    """With fewer tokens to answer it fits; the limit makes it no other request."""
    answer = cache.ask("What is a median?", max_tokens=100, max_cost_usd=0.001)
    assert not answer.cached
    assert cache.ask("What is a median?", max_tokens=100).cached
    assert sim.completion_count == 1


def test_max_cost__a_hit_is_never_refused_and_asks_no_prices(cache, sim):
    """What costs nothing needs no budget."""
    cache.ask("What is a median?")
    sim.clear()
    assert cache.ask("What is a median?", max_cost_usd=0).cached
    assert not sim.requests


def test_max_cost__what_has_no_price_is_refused(cache, sim):
    """A router's price is not known: a limit that can't be held is not pretended to be."""
    with pytest.raises(BudgetError) as caught:
        cache.ask("What is a median?", model="openrouter/auto", max_cost_usd=5)
    assert caught.value.high_usd is None
    assert sim.completion_count == 0


def test_max_cost__reserves_nothing_for_what_was_never_sent(open_cache, sim, monkeypatch):
    """Asks that a wrong proxy stops cost nothing, and leave the whole budget to the next one."""
    cache = open_cache(sim, max_cost_usd=Decimal("0.0001"))
    assert cache.ask("What is a mean?", max_tokens=100).paid_usd  # which brought the prices too
    cache.close()
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:9")
    for number in range(4):
        with pytest.raises((ConnectionLostError, BudgetError), match="nothing was sent"):
            cache.ask(f"What is a median {number}?", max_tokens=100)
    assert sim.completion_count == 1
    monkeypatch.delenv("ALL_PROXY")
    assert cache.ask("What is a median?", max_tokens=100).paid_usd
    assert cache.totals()[0].unpriced == 0


def test_max_cost__takes_dollars(cache):
    """A limit that is no amount is an error before anything is asked."""
    for wrong in ("cheap", -1, float("nan")):
        with pytest.raises(OptionError, match="max_cost_usd"):
            cache.ask("What is a median?", max_cost_usd=wrong)


def test_max_cost__holds_for_aask(cache, sim):
    """Asked on an event loop, the limit is the same."""

    async def ask():
        with pytest.raises(BudgetError):
            await cache.aask("What is a median?", max_cost_usd="0.0001")
        return await cache.aask("What is a median?", max_cost_usd="0.01")

    assert not asyncio.run(ask()).cached
    assert sim.completion_count == 1


# -- a session, a day, a list -----------------------------------------------------------------


def test_session_budget__counts_what_was_paid_not_what_might_have_been(open_cache, sim):
    """Forty answers at $0.00002 fit in $0.004 though each may cost $0.0025; then nothing is left for one more."""
    cache = open_cache(sim, max_cost_usd=usd("0.0027"))
    paid = Decimal(0)
    for number in range(100):
        try:
            paid += cache.ask(f"What is a median? {number}").paid_usd
        except BudgetError as refused:
            last = refused
            break
    assert 0 < number < 99
    assert last.spent_usd == paid
    assert last.spent_usd + last.high_usd > usd("0.0027")
    assert sim.total_cost == paid <= usd("0.0027")
    assert cache.ask("What is a median? 0").cached


def test_session_budget__another_session_has_its_own(open_cache, sim, folder):
    """The limit is of a session; what an earlier one paid does not count."""
    first = open_cache(sim)
    first.ask("What is a median?")
    first.close()
    second = open_cache(sim, max_cost_usd=usd("0.0026"))
    assert not second.ask("What is a mean?").cached


def test_day_budget__counts_all_sessions_of_the_cache_until_midnight(open_cache, sim, clock):
    """What another session paid today counts; tomorrow begins anew."""
    limit = usd("0.0028")
    first = open_cache(sim)
    paid = Decimal(0)
    while paid < usd("0.0004"):
        paid += first.ask(f"What is a median? {paid}").paid_usd
    first.close()
    second = open_cache(sim, max_cost_per_day_usd=limit)
    with pytest.raises(BudgetError, match="a day's") as caught:
        second.ask("What is a mean?")
    assert caught.value.spent_usd == paid
    clock.now_s += 86_400
    assert not second.ask("What is a mean?").cached


def test_session_budget__a_call_of_unknown_cost_keeps_its_reservation_until_it_is_settled(
    open_cache, sim, clock
):
    """A stream that is cut tells no cost: the next ask has less to spend, until OpenRouter told what it came to."""
    cache = open_cache(sim, max_cost_usd=usd("0.004"))
    sim.script(scenario("cut"))
    with pytest.raises(StreamBrokenError):
        cache.ask("What is a median?")
    with pytest.raises(BudgetError) as caught:
        cache.ask("What is a mean?")
    assert usd("0.0024") < caught.value.spent_usd < usd("0.0030")
    clock.now_s += 60
    cache.money.reconcile()
    assert not cache.ask("What is a mean?").cached
    assert cache.totals()[0].paid_usd == sim.total_cost


def test_session_budget__who_waits_for_anothers_call_pays_nothing(open_cache, sim):
    """Of two simultaneous asks each reserves; the follower's reservation comes back."""
    cache = open_cache(sim, max_cost_usd=usd("0.0060"))
    with sim.hold():
        threads = [threading.Thread(target=cache.ask, args=("What is a median?",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        sim.wait_for(lambda requests: any(one.held for one in requests))
    for thread in threads:
        thread.join()
    assert sim.completion_count == 1
    assert cache.money.session.at_most() == sim.total_cost


def test_budget__is_not_held_blindly(open_cache, sim, tmp_path):
    """While what was spent can't be read, a limited ask is not sent; one without a limit is answered."""
    (tmp_path / "file").write_text("in the way")
    nowhere = tmp_path / "file" / "cache"
    with pytest.raises(BudgetError, match="can't be read") as caught:
        open_cache(sim, directory=nowhere, max_cost_usd=usd("5")).ask("What is a median?")
    assert caught.value.spent_usd is None
    assert sim.completion_count == 0
    assert open_cache(sim, directory=nowhere).ask("What is a median?")


def test_list_budget__what_may_go_over_fails_unsent(open_cache, sim):
    """A list with a limit buys as many as it is sure to pay, and says of the others why not."""
    cache = open_cache(sim)
    frame = warm(
        cache, [f"What is a median? {n}" for n in range(8)], workers=4, progress=False, max_cost_usd="0.0026"
    )
    refused = frame[frame["error"] != ""]
    assert 0 < len(refused) < 8
    assert refused["error"].str.contains("this list").all()
    assert sim.total_cost <= usd("0.0026")
    assert not warm(cache, [f"What is a median? {n}" for n in range(8)], progress=False)["error"].any()


# -- estimates --------------------------------------------------------------------------------


def test_estimate__the_bill_lies_within_it(cache, sim):
    """What a call is then charged is neither below the least nor above the most."""
    for prompt in ("What is a median?", "Explain variance. " * 300, "日本語で説明してください。" * 50):
        request = build_request(
            {
                "model": "openai/gpt-4o-mini",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 50,
            },
            cache.settings,
        )
        estimate = cache.money.estimate(request)
        paid = cache.ask(prompt, max_tokens=50, temperature=None).paid_usd
        assert estimate.low_usd <= paid <= estimate.high_usd


def test_estimate__prices_are_fetched_once_and_kept(open_cache, sim):
    """Another session of the same folder needs no second fetch on the same day, nor a key."""
    body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    first = open_cache(sim)
    first.ask("so that there is a file")
    before = first.money.estimate(build_request(body, first.settings))
    assert fetched(sim)
    first.close()
    sim.clear()
    second = open_cache(sim, api_key=None)
    assert second.money.estimate(build_request(body, second.settings)) == before
    assert fetched(sim) == []


@pytest.mark.parametrize("attribution", [True, False])
def test_estimate__is_fetched_under_the_settings_in_force(open_cache, sim, attribution):
    """Prices that are looked up before anything was asked are looked up as the settings say."""
    cache = open_cache(sim, attribution=attribution)
    body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    cache.money.estimate(Request(body, base_url=sim.base_url))
    assert fetched(sim)
    assert {"x-openrouter-title" in one.headers for one in sim.requests} == {attribution}


def test_estimate__offline_asks_nobody(open_cache, sim):
    """Without a kept list the price is unknown, and says why."""
    cache = open_cache(sim, mode="offline")
    body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    estimate = cache.money.estimate(build_request(body, cache.settings))
    assert estimate.high_usd is None
    assert estimate.unknown_why
    assert not sim.requests


# -- settling ---------------------------------------------------------------------------------


def test_stats__settle_what_a_cut_stream_came_to(cache, sim, clock):
    """The cost that a broken stream could not tell is asked afterwards, and is a source of its own."""
    sim.script(scenario("cut"))
    with pytest.raises(StreamBrokenError):
        cache.ask("What is a median?")
    assert cache.totals()[0].unpriced == 1
    clock.now_s += 60
    row = cache.stats().iloc[0]
    assert (row.unpriced, Decimal(repr(float(row.paid_usd)))) == (0, sim.total_cost)
    assert cache.totals()[0].settled_usd == sim.total_cost > 0


def test_next_call__settles_in_the_background(cache, sim, clock):
    """Nobody waits for it: after the next call it is asked on a thread of its own, done when the cache closes."""
    sim.script(scenario("cut"))
    with pytest.raises(StreamBrokenError):
        cache.ask("What is a median?")
    clock.now_s += 60
    cache.ask("What is a mean?")
    cache.money.close()
    (totals,) = cache.totals()
    assert (totals.unpriced, totals.paid_usd) == (0, sim.total_cost)


def test_next_call__tells_what_prompt_caching_saved_once_prices_are_known(open_cache, sim):
    """Prices are looked up after the first call that read from it; from then on no call has to be settled."""
    cache = open_cache(sim)
    system = "No animal shall sleep in a bed with sheets. " * 300
    saved = []
    for question in ("What is forbidden?", "What is allowed?", "Who may sleep?", "Where?"):
        saved.append(cache.ask(question, system=system).outcome.answer.prompt_cache_saved_usd)
        cache.money.close()
    assert saved[0] == 0
    assert saved[1] is None
    assert saved[2] == saved[3] > 0
    assert [path for path in fetched(sim) if path == "/generation"] == []
    assert cache.totals()[0].prompt_cache_unpriced == 1


def test_stats__offline_asks_nobody(open_cache, sim, clock):
    """In offline mode what is due stays due."""
    cache = open_cache(sim)
    sim.script(scenario("cut"))
    with pytest.raises(StreamBrokenError):
        cache.ask("What is a median?")
    cache.close()
    sim.clear()
    clock.now_s += 60
    assert open_cache(sim, mode="offline").stats().iloc[0].unpriced == 1
    assert not sim.requests


# -- a key's limits ---------------------------------------------------------------------------


def test_key_limits__as_openrouter_tells_them(cache, sim):
    """Spent by this key, with what is left of its limit."""
    paid = cache.ask("What is a median?").paid_usd
    limits = cache.money.key_limits()
    assert (limits.limit_usd, limits.remaining_usd, limits.used_this_month_usd) == (None, None, paid)


def test_key_limits__are_those_of_the_tighter_budget():
    """Where a budget leaves less than the key's own limit, it is the limit; free requests are counted too."""
    budget = {"scope": "workspace", "limit_usd": 5, "remaining_usd": 1.5, "resets_at": "2026-12-01"}
    free = {"used": 13, "limit": 50, "remaining": 37}
    for own, used in ((None, True), (2, True), (1, False)):
        data = {"limit": own, "limit_remaining": own, "limit_reset": "daily", "effective_budget": budget}
        limits = read_key_limits({"data": data | {"free_model_daily_requests": free}})
        told = (limits.limit_usd, limits.remaining_usd, limits.resets, limits.free_requests)
        assert told == ((5, Decimal("1.5"), "2026-12-01", 37) if used else (1, 1, "daily", 37))


def test_key_limits__offline_and_refused(open_cache, sim):
    """Offline nobody is asked; a key that is refused is an error with its status."""
    assert open_cache(sim, mode="offline").money.key_limits() is None
    assert not sim.requests
    with pytest.raises(UpstreamError) as caught:
        open_cache(sim, api_key="nonsense").money.key_limits()
    assert caught.value.status == 401
