"""One ask from beginning to end, against the simulator: what is served, bought, kept and accounted for."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal

import pytest

from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.records import Answer, Choice
from or_cache_magic.core.tokens import TokenRange
from or_cache_magic.engine import cross_process
from or_cache_magic.engine.cross_process import CrossProcessLock
from or_cache_magic.engine.engine import UNCHECKED, Engine
from or_cache_magic.engine.recorder import Recorder
from or_cache_magic.errors import (
    CacheMissError,
    InputError,
    MissingKeyError,
    RequestError,
    StoreCorruptError,
    StreamBrokenError,
    UpstreamError,
)
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.money.estimate import Estimate
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.openrouter.connections import ConnectionPool
from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.storage.leases import DiskLeases

PROMPT = "What is a median?"
DAY_S = 86400.0


def rows(cache):
    """The ledger as (kind, asks, paid), newest first."""
    return [(row.kind, row.asks, row.paid.usd) for row in cache.ledger.rows()]


def stored(cache):
    return cache.store.listing.count()[0]


# -- hit and miss -----------------------------------------------------------------------------


def test_ask__buys_once(cache, sim):
    """The same ask again is served from the cache, at no cost, and its value counts as saved."""
    first = cache.ask(PROMPT)
    second = cache.ask(PROMPT)
    assert first == second
    assert (first.cached, second.cached) == (False, True)
    assert (first.outcome.kind, second.outcome.kind) == ("miss", "hit")
    assert first.outcome.stored
    assert first.outcome.why == "not stored yet"
    assert first.paid_usd == first.cost_usd == second.cost_usd == second.saved_usd == sim.total_cost
    assert (first.saved_usd, second.paid_usd) == (0, 0)
    assert first.usage == second.usage
    assert sim.completion_count == 1


def test_stored__serves_what_ask_would_and_counts_it_alike(cache, sim):
    """A hit has the same outcome, and its row of the ledger is one with that of `run`."""
    cache.ask(PROMPT)
    ask = cache.prepare(PROMPT, {})
    run, stored = cache.run(ask), cache.stored(ask)
    assert stored._replace(elapsed_s=run.elapsed_s) == run
    assert rows(cache) == [("hit", 2, 0), ("miss", 1, sim.total_cost)]


def test_stored__leaves_alone_what_has_to_be_asked(open_cache, sim, clock):
    """Nothing stored, expired, another sample, refresh and bypass, offline too: None, nothing sent or counted."""
    cache = open_cache(sim)
    cache.ask(PROMPT, ttl=60)
    before, sent = rows(cache), sim.completion_count
    for prompt, fields in (
        ("something else", {}),
        (PROMPT, {"sample": 1}),
        (PROMPT, {"mode": "refresh"}),
        (PROMPT, {"mode": "bypass"}),
        ("something else", {"mode": "offline"}),
        (PROMPT, {"schema": "median float", "repair": 1}),
    ):
        assert cache.stored(cache.prepare(prompt, fields)) is None
    assert cache.stored(cache.prepare(PROMPT, {})) is not None
    clock.now_s += 61
    assert cache.stored(cache.prepare(PROMPT, {})) is None
    assert (rows(cache)[1:], sim.completion_count) == (before, sent)


def test_ask__remembers_across_caches(open_cache, sim):
    """Another kernel on the same folder is served, without a key."""
    first = open_cache(sim)
    bought = first.ask(PROMPT)
    first.close()
    assert open_cache(sim, api_key=None).ask(PROMPT) == bought
    assert sim.completion_count == 1


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_ask__is_one_entry_streamed_or_not(cache, sim, order):
    """Streaming is how it is asked, not what."""
    first, second = (cache.ask(PROMPT, stream=stream) for stream in order)
    assert first == second
    assert second.cached
    assert first.outcome.answer == second.outcome.answer
    assert sim.completion_count == 1


@pytest.mark.parametrize(
    "change",
    [
        {"provider": {"order": ["azure"]}},
        {"plugins": [{"id": "response-healing"}]},
        {"top_p": 0.5},
        {"model": "meta-llama/llama-3.3-70b-instruct"},
        {"max_tokens": 100},
        {"seed": 1},
        {"extra": {"brand_new_parameter": True}},
        {"system": "You are terse."},
        {"sample": 1},
        {"max_tokens": None},
    ],
    ids=str,
)
def test_ask__is_another_entry_when_anything_differs(cache, sim, change):
    """Whatever may change the answer is another request; also what nobody here has heard of."""
    assert not cache.ask(PROMPT).cached
    assert not cache.ask(PROMPT, **change).cached
    assert cache.ask(PROMPT, **change).cached
    assert (sim.completion_count, stored(cache)) == (2, 2)


def test_ask__takes_a_variant_for_another_model(cache, sim):
    """The suffix of a model is part of its name."""
    cache.ask(PROMPT, model="meta-llama/llama-3.3-70b-instruct")
    assert not cache.ask(PROMPT, model="meta-llama/llama-3.3-70b-instruct:free").cached


def test_ask__leaves_policy_out_of_the_key(cache, sim):
    """Lifetime, labels and who asks make no other request."""
    cache.ask(PROMPT)
    assert cache.ask(PROMPT, ttl="7d", tag="x", user="me", metadata={"a": "b"}, stream=False).cached


def test_ask__shows_text_only_when_it_comes(cache):
    """Text is passed on as it comes; a cached answer is there at once."""
    seen = []
    answer = cache.ask(PROMPT, on_text=seen.append)
    assert len(seen) > 1
    assert "".join(seen) == answer
    seen.clear()
    cache.ask(PROMPT, on_text=seen.append)
    assert seen == []


def test_ask__refuses_a_callback_that_asks_the_same(cache, sim):
    """It would wait for itself; other questions it may ask."""
    other = cache.ask(PROMPT, on_text=lambda _: cache.ask("What is a mean?"))
    assert other.outcome.notes == ()
    answer = cache.ask("What is a mode?", on_text=lambda _: cache.ask("What is a mode?"))
    assert answer.outcome.stored
    assert "being asked right now" in answer.outcome.notes[0]
    assert sim.completion_count == 3


def test_ask__survives_a_display_that_fails(cache, sim):
    """A broken display loses neither the answer nor the money, and the receipt says so."""

    def broken(_text):
        raise RuntimeError("no screen")

    answer = cache.ask(PROMPT, on_text=broken)
    assert answer.outcome.stored
    assert answer.outcome.notes == ("not shown as it came: RuntimeError: no screen",)
    assert cache.ask(PROMPT) == answer
    assert [row[0] for row in rows(cache)] == ["hit", "miss"]
    assert cache.totals()[0].paid_usd == sim.total_cost


# -- what is not stored -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "fields", "reason"),
    [
        (scenario("content_filter"), {}, "filtered"),
        (scenario("plain", finish_reason="length"), {}, "before its limit"),
        (scenario("plain", finish_reason="length"), {"max_tokens": None}, "the model's own limit"),
        (scenario("plain", text=" "), {}, "empty"),
        (scenario("broken_json"), {"response_format": {"type": "json_object"}}, "not the JSON"),
        (
            scenario("plain", text='{"year": "soon"}'),
            {"response_format": {"type": "json_schema", "json_schema": {"name": "y", "schema": {
                "type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}}}},
            "does not fit its JSON schema",
        ),
    ],
    ids=["filtered", "short of its limit", "own limit", "blank", "no json", "wrong json"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_ask__never_stores_what_is_unfit(cache, sim, script, fields, reason, stream):
    """It is given to its caller, with the reason why it isn't kept; kept aside with its cost; asked again next time."""
    sim.script(script)
    answer = cache.ask(PROMPT, stream=stream, **fields)
    assert reason in answer.outcome.not_stored
    assert not answer.outcome.stored
    assert stored(cache) == 0
    (aside,) = cache.store.unserved(answer.key)
    assert aside.reason == answer.outcome.not_stored
    assert aside.answer.cost.usd == answer.cost_usd == sim.total_cost > 0
    assert rows(cache) == [("miss", 1, answer.cost_usd)]
    assert not cache.ask(PROMPT, **fields).cached
    assert sim.completion_count == 2


def test_ask__serves_an_answer_that_reached_its_own_limit(cache):
    """Cut where the request said: that is what was asked for, and each reader is told."""
    for cached in (False, True):
        answer = cache.ask("Write a long story about caching, in detail.", max_tokens=5)
        assert answer.finish_reason == "length"
        assert answer.cached is cached
        assert answer.outcome.notes == ("truncated at 5 tokens",)


def test_ask__stores_valid_structured_output(cache):
    """What fits its schema is stored."""
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "y", "schema": schema}}
    assert cache.ask(PROMPT, response_format=wanted).outcome.stored
    assert isinstance(cache.ask(PROMPT, response_format=wanted).data["year"], int)


def test_ask__keeps_samples_only_by_their_index(cache, sim):
    """Above temperature 0 each ask is a new one, unless its sample is named; each sample is its own."""
    for _ in range(2):
        answer = cache.ask(PROMPT, temperature=1)
        assert answer.outcome.not_stored == "temperature 1 (--sample 0 keeps it)"
        assert answer.outcome.kind == "bypass"
    assert (sim.completion_count, stored(cache)) == (2, 0)
    for sample in (0, 1):
        cache.ask(PROMPT, temperature=1, sample=sample)
        assert cache.ask(PROMPT, temperature=1, sample=sample).cached
    assert (sim.completion_count, stored(cache)) == (4, 2)
    assert all("sample" not in row.body for row in sim.completions)


def test_ask__keeps_samples_when_set_to(open_cache, sim):
    """``cache_sampled`` stores any temperature."""
    cache = open_cache(sim, cache_sampled=True)
    cache.ask(PROMPT, temperature=1)
    assert cache.ask(PROMPT, temperature=1).cached


# -- modes ------------------------------------------------------------------------------------


def test_refresh__replaces_and_keeps_the_history(cache, sim):
    """Asked again on purpose: the new answer is served from now on, the old one is kept aside."""
    first = cache.ask(PROMPT)
    sim.script(scenario("plain", text="Another answer."))
    second = cache.ask(PROMPT, mode="refresh")
    assert (second, second.outcome.kind, second.outcome.why) == ("Another answer.", "refresh", "asked again")
    assert cache.ask(PROMPT) == "Another answer."
    assert [u.answer.text for u in cache.store.unserved(first.key)] == [first]
    assert sim.requests[-1].headers["x-openrouter-cache"] == "false"
    assert [row[0] for row in rows(cache)] == ["hit", "refresh", "miss"]


def test_refresh__that_fails_keeps_the_old_answer(cache, sim):
    """A failed refresh takes nothing away."""
    first = cache.ask(PROMPT)
    sim.script(scenario("broken_off"))
    with pytest.raises(StreamBrokenError):
        cache.ask(PROMPT, mode="refresh")
    assert cache.ask(PROMPT) == first


def test_bypass__neither_reads_nor_writes(cache, sim, folder):
    """Bypassed, the cache holds no trace of prompt or answer; only the cost is accounted for."""
    answer = cache.ask(PROMPT, mode="bypass")
    assert answer.outcome.not_stored == "--no-cache"
    sim.script(scenario("broken_off"))
    with pytest.raises(StreamBrokenError) as caught:
        cache.ask(PROMPT, mode="bypass")
    assert "partial" not in str(caught.value)
    assert stored(cache) == 0
    assert cache.store.unserved(answer.key) == []
    assert sorted(row[0] for row in rows(cache)) == ["bypass", "failed"]
    cache.close()
    assert b"median" not in (folder / "cache.db").read_bytes()


def test_bypass__is_not_served(cache, sim):
    """What is stored is not read."""
    cache.ask(PROMPT)
    assert not cache.ask(PROMPT, mode="bypass").cached
    assert sim.completion_count == 2


def test_offline__replays_without_key_or_network(open_cache, sim):
    """Offline only what is stored is served, and counts as no saving; a miss fails loudly."""
    bought = open_cache(sim).ask(PROMPT)
    count = sim.completion_count
    offline = open_cache(sim, mode="offline", api_key=None)
    answer = offline.ask(PROMPT)
    assert (answer, answer.outcome.kind, answer.saved_usd) == (bought, "replay", 0)
    with pytest.raises(CacheMissError, match="not stored yet") as caught:
        offline.ask("Something else?")
    assert len(caught.value.key) == 64
    assert "nothing was sent" in str(caught.value)
    assert sim.completion_count == count
    totals = offline.totals(session=True)[0]
    assert (totals.replays, totals.hits, totals.replayed_usd, totals.saved_usd) == (1, 0, bought.cost_usd, 0)


def test_offline__cannot_be_undone_by_an_option(open_cache, sim):
    """A kernel that is offline stays so."""
    with pytest.raises(CacheMissError):
        open_cache(sim, mode="offline").ask(PROMPT, mode="refresh")
    assert sim.requests == ()


def test_ask__needs_a_key_only_for_a_miss(open_cache, sim):
    """Without a key nothing is sent, nothing is accounted for, and no folder is made."""
    cache = open_cache(sim, api_key=None)
    with pytest.raises(MissingKeyError):
        cache.ask(PROMPT)
    assert sim.requests == ()
    assert rows(cache) == []
    assert not cache.directory.exists()


# -- age --------------------------------------------------------------------------------------


def test_ask__serves_nothing_expired(cache, sim, clock):
    """To the second: before its end it is served, at its end it is asked anew."""
    cache.ask(PROMPT, ttl=60)
    clock.now_s += 59
    assert cache.ask(PROMPT).cached
    clock.now_s += 1
    answer = cache.ask(PROMPT)
    assert (answer.cached, answer.outcome.why) == (False, "expired")
    clock.now_s += 10 * 365 * DAY_S
    assert cache.ask(PROMPT).cached


def test_ask__keeps_volatile_answers_for_a_day(cache, sim, clock):
    """A model that is picked at each call is stored for 24 hours, and the receipt says why."""
    answer = cache.ask(PROMPT, model="openrouter/auto")
    assert answer.outcome.notes == ("kept 24 h: openrouter/auto picks a model at each call",)
    clock.now_s += DAY_S - 1
    assert cache.ask(PROMPT, model="openrouter/auto").cached
    clock.now_s += 1
    assert not cache.ask(PROMPT, model="openrouter/auto").cached


def test_ask__serves_stale_answers_only_when_set_to(open_cache, sim, clock):
    """With ``stale_if_error`` an expired answer is better than none, and is said to be one."""
    strict, lenient = open_cache(sim), open_cache(sim, stale_if_error=True)
    bought = strict.ask(PROMPT, ttl=60)
    clock.now_s += 61
    for cache in (strict, lenient):
        sim.script(scenario("insufficient_credits"))
        if cache is strict:
            with pytest.raises(UpstreamError):
                cache.ask(PROMPT)
        else:
            answer = cache.ask(PROMPT)
    assert (answer, answer.outcome.kind, answer.saved_usd, answer.paid_usd) == (bought, "stale", 0, 0)
    assert answer.outcome.notes == ("the call failed: 402",)
    totals = lenient.totals()[0]
    assert (totals.stale, totals.failed, totals.hits, totals.saved_usd) == (1, 2, 0, 0)


def test_offline__serves_expired_answers_only_when_set_to(open_cache, sim, clock):
    """Offline as well."""
    open_cache(sim).ask(PROMPT, ttl=60)
    clock.now_s += 61
    with pytest.raises(CacheMissError, match="expired"):
        open_cache(sim, mode="offline").ask(PROMPT)
    answer = open_cache(sim, mode="offline", stale_if_error=True).ask(PROMPT)
    # The receipt tells it by the kind.
    assert (answer.outcome.kind, answer.saved_usd, answer.paid_usd) == ("stale", 0, 0)


# -- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        scenario("broken_off"),
        scenario("broken_off", code="server_error"),
        scenario("token_limit"),
        scenario("silent_error"),
        scenario("cut", how="eof"),
        scenario("cut", how="eof_after_finish"),
        scenario("cut", how="reset"),
    ],
    ids=lambda s: f"{s.name} {s.interruption.how}",
)
def test_ask__keeps_a_broken_stream_as_a_partial(cache, sim, script):
    """A part of an answer raises, is kept with what it cost as far as is known, and is never served."""
    sim.script(script)
    with pytest.raises(StreamBrokenError, match="broke off") as caught:
        cache.ask(PROMPT)
    failure = caught.value
    assert failure.partial_text
    assert len(str(failure).splitlines()) == 2
    (row,) = cache.ledger.rows()
    (aside,) = cache.store.unserved(row.key)
    assert aside.answer.text == failure.partial_text
    assert row.kind == "failed"
    assert row.paid == aside.answer.cost
    assert row.paid.usd == failure.cost_usd == (0 if script.name == "token_limit" else None)
    assert row.generation_id == failure.generation_id == sim.completions[0].generation_id
    assert aside.request["messages"][-1]["content"] == PROMPT
    assert stored(cache) == 0
    assert not cache.ask(PROMPT).cached
    assert cache.totals()[0].unpriced == (0 if script.name == "token_limit" else 1)


def test_ask__keeps_a_broken_whole_reply_as_a_partial(cache, sim):
    """The same for a reply in one piece that ends in an error: an error in a choice of an HTTP 200."""
    sim.script(scenario("broken_off"))
    with pytest.raises(StreamBrokenError) as caught:
        cache.ask(PROMPT, stream=False)
    assert caught.value.partial_text
    assert stored(cache) == 0
    assert [row[0] for row in rows(cache)] == ["failed"]


@pytest.mark.parametrize("stream", [True, False])
def test_ask__refuses_an_answer_of_nothing(cache, sim, stream):
    """Nothing was said: that raises, stores nothing, and is asked again."""
    sim.script(scenario("empty"))
    with pytest.raises(UpstreamError) as caught:
        cache.ask(PROMPT, stream=stream)
    assert len(str(caught.value).splitlines()) == 2
    assert stored(cache) == 0
    assert [row[0] for row in rows(cache)] == ["failed"]
    assert not cache.ask(PROMPT).cached


@pytest.mark.parametrize(
    ("script", "status", "paid"),
    [
        (scenario("invalid_request"), 400, 0),
        (scenario("unauthorized"), 401, 0),
        (scenario("insufficient_credits"), 402, 0),
        (scenario("insufficient_credits", max_tokens=9), 402, 0),
        (scenario("guardrail_blocked"), 403, 0),
        (scenario("moderated"), 403, 0),
        (scenario("budget_exceeded"), 403, 0),
        (scenario("free_variant_ended"), 404, 0),
        (scenario("rate_limited", retry_after_s=301), 429, 0),
        (scenario("timed_out", status=408), 408, None),
        (scenario("timed_out", status=504), 504, None),
        (scenario("edge_timeout"), 524, None),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("stream", [True, False])
def test_ask__accounts_for_refusals(cache, sim, script, status, paid, stream):
    """A refusal raises with its facts, stores nothing, and is one row of the ledger at its known cost."""
    sim.script(script)
    with pytest.raises(UpstreamError) as caught:
        cache.ask(PROMPT, stream=stream)
    assert caught.value.status == status
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) == 2
    assert rows(cache) == [("failed", 1, paid)]
    assert (stored(cache), sim.completion_count) == (0, 1)
    totals = cache.totals()[0]
    assert (totals.failed, totals.asks, totals.misses) == (1, 1, 0)
    assert cache.ask(PROMPT, stream=stream).outcome.stored


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"content": [{"type": "text", "text": ""}]}, "the answer is empty"),
        ({"content": "\u200b"}, "the answer is empty"),
        ({"content": "Hi", "tool_calls": "x"}, "a tool call of the answer is empty or broken"),
        ({"content": None, "tool_calls": [{}]}, "a tool call of the answer is empty or broken"),
        ({"content": "Here:", "images": [None]}, "an image of the answer is empty or broken"),
        ({"content": "Hi", "audio": {"id": "a"}}, "the audio of the answer is empty or broken"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [True, False])
def test_ask__gives_what_is_hollow_and_keeps_it_apart(open_cache, canned, reply, message, why, stream):
    """What was paid for is given and accounted, and the receipt says why it is asked again."""
    choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop"}
    body = json.dumps({"id": "gen-1", "choices": [choice], "usage": {"cost": 0.25, "prompt_tokens": 3}})
    whole, streamed = reply(body, "application/json"), reply(f"data: {body}\n\ndata: [DONE]\n\n")
    server = canned(streamed if stream else whole)
    cache = open_cache(server)
    for _ in range(2):
        outcome = cache.ask(PROMPT, stream=stream).outcome
        assert (outcome.kind, outcome.stored, outcome.not_stored) == ("miss", False, why)
    assert rows(cache) == [("miss", 1, Decimal("0.25"))] * 2
    assert (stored(cache), len(server.received)) == (0, 2)


@pytest.mark.parametrize(
    "status", ["201 Created", "203 Non-Authoritative Information", "206 Partial Content"]
)
@pytest.mark.parametrize("stream", [True, False])
def test_ask__keeps_apart_what_is_no_200(open_cache, canned, reply, status, stream):
    """Only HTTP 200 brings a completion: what comes otherwise is given, as it was paid for, and asked again."""
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": {"cost": 0.25}})
    sent = (
        (f"data: {body}\n\ndata: [DONE]\n\n", "text/event-stream") if stream else (body, "application/json")
    )
    cache = open_cache(canned(reply(*sent, status)))
    for _ in range(2):
        answer = cache.ask(PROMPT, stream=stream)
        assert (answer, answer.outcome.stored) == ("Hi", False)
        assert answer.outcome.not_stored == f"the reply came as HTTP {status[:3]}, which is no whole answer's"
    assert (rows(cache), stored(cache)) == ([("miss", 1, Decimal("0.25"))] * 2, 0)


@pytest.mark.parametrize(
    ("choices", "stream", "why"),
    [
        ([], False, "the reply holds no answer"),
        ([], True, "the reply holds no answer"),
        ([{"message": {"content": "Hi"}}], False, "it does not say that it is whole"),
        ([{"message": {"content": "Hi"}}], True, "the stream ended early"),
    ],
)
def test_ask__says_what_a_broken_reply_lacks(open_cache, canned, reply, choices, stream, why):
    """What was no stream did not end early."""
    body = json.dumps({"choices": choices, "usage": {"cost": 0.25}})
    cache = open_cache(canned(reply(f"data: {body}\n\n") if stream else reply(body, "application/json")))
    with pytest.raises(UpstreamError) as caught:
        cache.ask(PROMPT, stream=stream)
    assert str(caught.value).startswith(f"the answer broke off: {why} (it cost $0.25)")


@pytest.mark.parametrize("padding", ["newlines", "comments"])
def test_ask__reads_padded_replies(cache, sim, padding):
    """Keep-alive before the JSON costs no answer."""
    sim.script(scenario("padded", padding=padding))
    assert cache.ask(PROMPT, stream=False).outcome.stored


def test_ask__accounts_for_a_reply_of_blanks(cache, sim):
    """A body of nothing but padding is an error of unknown cost, which its generation's id can settle."""
    sim.script(scenario("padded", padding="blank"))
    with pytest.raises(UpstreamError):
        cache.ask(PROMPT, stream=False)
    (row,) = cache.ledger.rows()
    assert (row.kind, row.paid.usd, row.generation_id) == ("failed", None, sim.completions[0].generation_id)


# -- interrupts -------------------------------------------------------------------------------


INTERRUPTED = """
    import json, sys
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Settings

    folder, url = sys.argv[1:]
    settings = Settings(model="openai/gpt-4o-mini", base_url=url)
    cache = CompletionCache(folder, settings=lambda: settings, api_key=lambda: "sk-or-v1-test")
    try:
        cache.ask("What is a median?", on_text=lambda text: print("text", flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    cache.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to one process")
@pytest.mark.smoke
def test_ask__lets_an_interrupt_through(open_cache, sim, folder):
    """Ctrl-C in mid-stream: the connection is closed, the partial and a row of unknown cost are kept."""
    sim.script(scenario("stalled", after_pieces=2))
    code = textwrap.dedent(INTERRUPTED)
    arguments = [sys.executable, "-c", code, str(folder), sim.base_url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "text\n"
        assert process.stdout.readline() == "text\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
    assert process.returncode == 0
    assert sim.wait_for(lambda received: received[-1].cancelled)
    cache = open_cache(sim)
    (row,) = cache.ledger.rows()
    assert (row.kind, row.paid.usd, row.generation_id) == ("failed", None, sim.completions[0].generation_id)
    (aside,) = cache.store.unserved(row.key)
    assert (aside.reason, bool(aside.answer.text)) == ("interrupted", True)
    assert not cache.ask(PROMPT).cached


def _interrupt(*_args, **_named):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["between attempts", "before the connection", "waiting for a lease"])
def test_ask__that_is_interrupted_while_no_request_is_out_is_free(
    open_cache, canned, reply, monkeypatch, where
):
    """After a refusal, or before anything was sent, an interrupt costs nothing and keeps nothing back."""
    refused = reply(b'{"error":{"code":429,"message":"x"}}', "application/json", "429 X", Retry_After="20")
    cache = open_cache(canned(refused))
    tracker = BudgetTracker()
    limits = (Limit("this test", Decimal("0.01"), tracker),)
    estimate = Estimate(Decimal(0), Decimal("0.009"), TokenRange(1, 1, 1), (0, 1))
    monkeypatch.setattr(cache.money, "estimate", lambda *_args, **_named: estimate)
    callbacks = Callbacks(on_wait=_interrupt if where == "between attempts" else None)
    if where == "before the connection":
        monkeypatch.setattr(ConnectionPool, "_take", _interrupt)
    if where == "waiting for a lease":
        monkeypatch.setattr(cross_process, "acquire_lock", _interrupt)
    for _ in range(2):  # the second would be over the limit if the first kept its reservation
        with pytest.raises(KeyboardInterrupt, match="nothing was paid"):
            cache.run(cache.prepare(PROMPT, {}), callbacks, limits=limits)
    assert tracker.at_most() == 0
    assert {row.paid.usd for row in cache.ledger.rows()} <= {0}
    assert cache.totals()[0].unpriced == 0


# -- many at once -----------------------------------------------------------------------------


def together(count, work):
    """What `work(n)` gives in as many threads, errors included."""
    outcomes = [None] * count

    def run(number):
        try:
            outcomes[number] = work(number)
        except BaseException as exc:
            outcomes[number] = exc

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads, outcomes


def join(threads):
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def wait_for_followers(cache, count):
    """Returns when that many wait for the one flight of this cache."""
    deadline = time.monotonic() + 60
    while True:
        running = cache.engine.flights.running()
        if len(running) == 1 and cache.engine.flights.waiting(running[0]) == count:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_ask__sends_one_of_a_thousand(cache, sim):
    """1,000 asks of one request from 16 threads: one call, and the ledger accounts for each ask."""
    with sim.hold():
        threads, outcomes = together(16, lambda n: [cache.ask(PROMPT) for _ in range(63 if n < 8 else 62)])
        wait_for_followers(cache, 15)
    join(threads)
    answers = [answer for batch in outcomes for answer in batch]
    assert len(answers) == 1000
    assert len(set(answers)) == 1
    assert sim.completion_count == 1
    (totals,) = cache.totals()
    cost_usd = answers[0].cost_usd
    assert (totals.asks, totals.misses, totals.hits, totals.coalesced) == (1000, 1, 984, 15)
    assert (totals.paid_usd, totals.saved_usd, totals.coalesced_usd) == (
        cost_usd,
        984 * cost_usd,
        15 * cost_usd,
    )
    assert totals.paid_usd == sim.total_cost


def test_ask__gives_followers_the_leaders_error(cache, sim):
    """Nobody of those who waited asks again after a failure."""
    sim.script(scenario("insufficient_credits"), times=8)
    with sim.hold():
        threads, outcomes = together(4, lambda _: cache.ask(PROMPT))
        wait_for_followers(cache, 3)
    join(threads)
    assert sim.completion_count == 1
    assert [exc.status for exc in outcomes] == [402] * 4
    assert rows(cache) == [("failed", 1, 0)]


def test_ask__is_taken_over_when_its_leader_is_interrupted(cache, sim):
    """The leader's interrupt is its own: one of those who waited asks, for the rest."""
    leading = threading.Event()
    release = threading.Event()

    def interrupt(_text):
        leading.set()
        assert release.wait(60)
        raise KeyboardInterrupt

    leader, led = together(1, lambda _: cache.ask(PROMPT, on_text=interrupt))
    assert leading.wait(60)
    followers, outcomes = together(3, lambda _: cache.ask(PROMPT))
    wait_for_followers(cache, 3)
    release.set()
    join(leader + followers)
    assert isinstance(led[0], KeyboardInterrupt)
    assert len(set(outcomes)) == 1
    assert sim.completion_count == 2
    totals = cache.totals()[0]
    assert (totals.failed, totals.misses, totals.coalesced + totals.hits) == (1, 1, 2)


def test_ask__looks_again_before_it_sends(open_cache, sim):
    """What another kernel stored between the look and the turn is served, not bought again."""
    first, second = open_cache(sim), open_cache(sim)
    flights = second.engine.flights

    class Late:
        """A flight before which another kernel's lands."""

        def do(self, key, work, cancel):
            first.ask(PROMPT)
            return flights.do(key, work, cancel)

    second.engine.flights = Late()
    assert second.ask(PROMPT).outcome.kind == "hit"
    assert sim.completion_count == 1


@pytest.mark.parametrize(
    ("finish_reason", "why"), [("content_filter", "filtered"), ("stop", "a piece of it was doubtful")]
)
def test_ask__gives_what_another_kernel_set_aside_as_it_ended(
    cache, open_cache, sim, clock, finish_reason, why
):
    """Who gets the lease after waiting is given what came, though it can't be stored: no second call is paid for."""
    other, ask = open_cache(sim), cache.prepare(PROMPT, {})
    leases = DiskLeases(other.database, clock)
    lock = CrossProcessLock(leases, leases.acquire(ask.key.digest, 15.0))
    theirs = Recorder(other.store, other.ledger, other.database.transaction, clock=clock)
    filtered = Answer((Choice({"role": "assistant", "content": "I …"}, finish_reason),))

    class Late:
        """Leases that the other kernel gives back after this one's look, and before its next try."""

        def __init__(self):
            self.real = DiskLeases(cache.database, clock)

        def acquire(self, digest, ttl_s, *, after=None):
            if after is not None:
                theirs.set_aside(ask, "miss", filtered, why, lock)
            return self.real.acquire(digest, ttl_s, after=after)

        def release(self, lease, failure=None):
            self.real.release(lease, failure)

    recorder = Recorder(cache.store, cache.ledger, cache.database.transaction, clock=clock)
    with closing(Gateway(lambda: "sk-or-v1-test")) as gateway:
        outcome = Engine(recorder, lambda: gateway, Late).ask(ask)
    assert (outcome.kind, outcome.answer.text, outcome.not_stored) == ("coalesced", "I …", why)
    assert sim.completion_count == 0


@pytest.mark.parametrize("options", [{}, {"temperature": 1}])
def test_ask__writes_down_what_was_paid_before_it_is_checked(cache, sim, options):
    """The user's class may take for ever, and be killed: answer and cost are in the books when it looks."""
    seen = []

    @dataclass
    class Year:
        year: int

        def __post_init__(self):
            seen.append((rows(cache), [kept.reason for kept in cache.store.unserved(key)], stored(cache)))

    key = cache.prepare(PROMPT, {"schema": Year, **options}).key.digest
    answer = cache.ask(PROMPT, schema=Year, **options)
    kind, kept = ("bypass", []) if options else ("miss", [UNCHECKED])
    assert seen[0] == ([(kind, 1, answer.cost_usd)], kept, 0)
    assert (cache.store.unserved(key), stored(cache)) == ([], 0 if options else 1)
    assert rows(cache) == [(kind, 1, answer.cost_usd)]


KILLED = """
    import os, sys
    from dataclasses import dataclass
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Settings

    @dataclass
    class Year:
        year: int

        def __post_init__(self):
            os._exit(9)

    folder, url = sys.argv[1:]
    settings = Settings(model="openai/gpt-4o-mini", base_url=url)
    cache = CompletionCache(folder, settings=lambda: settings, api_key=lambda: "sk-or-v1-test")
    cache.ask("What is a median?", schema=Year)
"""


def test_ask__is_killed_in_its_check(cache, folder, sim):
    """What was paid for before a check that never ended is kept, accounted for once, and not served."""
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), sim.base_url]
    assert subprocess.run(arguments, check=False).returncode == 9
    ((kind, asks, paid),) = rows(cache)
    assert (kind, asks, paid is not None, stored(cache)) == ("miss", 1, True, 0)
    (key,) = cache.store.unserved_keys("", 2)
    (kept,) = cache.store.unserved(key)
    assert (kept.reason, list(json.loads(kept.answer.text))) == (UNCHECKED, ["year"])


def test_ask__waits_for_the_check_of_another_kernel(cache, open_cache, sim):
    """An answer that another kernel still checks is no result yet; it is when that has ended."""
    other, checking, go_on = open_cache(sim), threading.Event(), threading.Event()

    @dataclass
    class Year:
        year: int

        def __post_init__(self):
            if threading.current_thread() is thread:
                checking.set()
                go_on.wait(20)

    waits = []
    thread = threading.Thread(target=lambda: other.ask(PROMPT, schema=Year))
    thread.start()
    assert checking.wait(20)

    def waiting(line):
        waits.append(line)
        threading.Timer(0.3, go_on.set).start()

    outcome = cache.engine.ask(cache.prepare(PROMPT, {"schema": Year}), Callbacks(on_wait=waiting))
    join([thread])
    assert (outcome.kind, outcome.stored, len(waits)) == ("coalesced", True, 1)
    assert sim.completion_count == 1


def test_ask__never_shares_samples(cache, sim):
    """Who asks above temperature 0 wants an answer of its own, also at the same time."""
    with sim.hold():
        threads, outcomes = together(4, lambda _: cache.ask(PROMPT, temperature=1))
        assert sim.wait_for(lambda received: sum(row.held for row in received) == 4)
    join(threads)
    assert {answer.outcome.kind for answer in outcomes} == {"bypass"}
    assert len({answer.outcome.answer.generation_id for answer in outcomes}) == 4


# -- money ------------------------------------------------------------------------------------


def test_money__of_a_users_own_key_includes_the_provider(cache, sim):
    """With the user's own key the provider's bill is added; without it never."""
    sim.script(scenario("byok"))
    own = cache.ask(PROMPT)
    ordinary = cache.ask(PROMPT, seed=1)
    assert own.cost_usd > 0
    assert own.cost_usd + ordinary.cost_usd == sim.total_cost == cache.totals()[0].paid_usd


@pytest.mark.parametrize("digits", ["0.00423825", "7.35e-06", "0.000000000001", "12.5"])
def test_money__keeps_its_digits_from_wire_to_statistics(open_cache, canned, reply, digits):
    """No digit is lost or made up on the way to entry, ledger and totals."""
    body = (
        '{"id":"gen-1","choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":' + digits + "}}"
    )
    cache = open_cache(canned(reply(body, "application/json")))
    bought, hit = cache.ask(PROMPT), cache.ask(PROMPT)
    cost_usd = Decimal(digits)
    assert bought.cost_usd == hit.cost_usd == hit.saved_usd == cost_usd
    totals = cache.totals()[0]
    assert (totals.paid_usd, totals.saved_usd, totals.unpriced) == (cost_usd, cost_usd, 0)
    assert cache.store.listing.find()[0].cost.usd == cost_usd


def test_money__that_nobody_told_is_unknown(open_cache, canned, reply):
    """A reply without a cost is of unknown cost, which is not zero, bought or served."""
    good = (
        'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    cache = open_cache(canned(reply(good)))
    bought, hit = cache.ask(PROMPT), cache.ask(PROMPT)
    assert bought.outcome.stored
    assert (bought.cost_usd, bought.paid_usd, hit.saved_usd, hit.paid_usd) == (None, None, None, 0)
    totals = cache.totals()[0]
    assert (totals.paid_usd, totals.saved_usd, totals.unpriced) == (0, 0, 2)


@pytest.mark.parametrize("stream", [True, False])
def test_money__of_openrouters_response_cache_is_not_the_answers_value(open_cache, stream):
    """A hit in OpenRouter's own cache is paid 0, its value unknown, and its zeroed usage is not taken."""
    with Simulator(presets={"kept": {"cache_enabled": True}}) as sim:
        cache = open_cache(sim)
        bought = cache.ask(PROMPT, preset="kept", stream=stream)
        cache.purge(all=True)
        repeated = cache.ask(PROMPT, preset="kept", stream=stream)
        assert repeated == bought
        assert repeated.outcome.answer.response_cache_hit
        assert repeated.outcome.stored
        assert (repeated.paid_usd, repeated.cost_usd, repeated.usage) == (0, None, None)
        assert repeated.outcome.answer.source_generation_id == bought.outcome.answer.generation_id
        hit = cache.ask(PROMPT, preset="kept", stream=stream)
        assert (hit.cached, hit.saved_usd, hit.cost_usd) == (True, None, None)
        totals = cache.totals()[0]
        assert (totals.paid_usd, totals.saved_usd, totals.unpriced) == (sim.total_cost, 0, 1)
        assert bought.cost_usd == sim.total_cost
        fresh = cache.ask(PROMPT, preset="kept", stream=stream, mode="refresh")
        assert not fresh.outcome.answer.response_cache_hit


def test_money__adds_up_after_a_mixed_run(cache, sim):
    """What the ledger says was paid is what the simulator billed, to the last digit."""
    for n in range(5):
        cache.ask(f"Question {n}?")
        cache.ask(f"Question {n}?")
    cache.ask(PROMPT, model="anthropic/claude-sonnet-4.6", system="Be terse. " * 800)
    cache.ask(PROMPT, temperature=1)
    cache.ask(PROMPT, mode="bypass")
    cache.ask("Question 0?", mode="refresh")
    sim.script(scenario("byok"))
    cache.ask("With my own key?")
    sim.script(scenario("content_filter"))
    cache.ask("Filtered?")
    sim.script(scenario("web_search", engine="exa"))
    cache.ask("Searched?")
    sim.script(scenario("moderated"))
    with pytest.raises(UpstreamError):
        cache.ask("Moderated?")
    totals = cache.totals()[0]
    assert totals.paid_usd == sim.total_cost
    assert totals.unpriced == 0
    assert (totals.asks, totals.hits, totals.failed) == (18, 5, 1)
    by_model = cache.totals("model")
    assert sum(t.paid_usd for t in by_model) == totals.paid_usd
    assert sum(t.asks for t in by_model) == totals.asks


# -- when the store fails ---------------------------------------------------------------------


def test_store__that_cannot_be_written_loses_no_answer(open_cache, sim, tmp_path):
    """No folder can be made: the answer comes, the receipt says why it wasn't kept, the cost is remembered."""
    (tmp_path / "file").write_text("in the way")
    cache = open_cache(sim, directory=tmp_path / "file" / "cache")
    answer = cache.ask(PROMPT)
    assert answer
    assert not answer.outcome.stored
    assert answer.outcome.not_stored
    assert not cache.ledger.flush()
    (tmp_path / "file").unlink()
    assert cache.totals()[0].paid_usd == sim.total_cost
    assert rows(cache) == [("miss", 1, sim.total_cost)]
    assert cache.ask(PROMPT).outcome.stored


def test_store__that_is_locked_loses_no_answer(open_cache, sim, folder):
    """Another process writes and writes: hits are served, a miss is answered and accounted for later."""
    cache = open_cache(sim)
    cache.database.timeout_s = 0.05
    hit = cache.ask(PROMPT)
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert cache.ask(PROMPT) == hit
        answer = cache.ask("Another?")
        assert answer
        assert answer.outcome.not_stored
        other.execute("ROLLBACK")
    assert cache.totals()[0].paid_usd == sim.total_cost
    assert cache.ledger.flush()
    assert [row[0] for row in rows(cache)].count("miss") == 2


def test_store__with_a_damaged_entry_asks_again(cache, sim, folder):
    """An entry that fails its checksum is not served; the reason is said, and the new answer replaces it."""
    bought = cache.ask(PROMPT)
    cache.close()
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        (value,) = other.execute("SELECT value FROM Cache").fetchone()
        other.execute("UPDATE Cache SET value = ?", (value[:-1] + bytes([value[-1] ^ 1]),))
    with pytest.raises(StoreCorruptError):
        cache.store.entry(bought.key)
    answer = cache.ask(PROMPT)
    assert not answer.cached
    assert "can't be read" in answer.outcome.why
    assert cache.ask(PROMPT).cached


# -- what can't be asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"top_p": float("nan")}, {"top_p": float("inf")}, {"stop": "\ud800"}, {"metadata": {"x": b"y"}}, {"metadata": {None: 2}}],
    ids=repr,
)  # fmt: skip
def test_ask__sends_nothing_without_a_canonical_form(cache, sim, fields):
    """What has no one spelling in JSON is refused before anything is sent, naming the field."""
    with pytest.raises(RequestError) as caught:
        cache.ask(PROMPT, **fields)
    assert next(iter(fields)) in str(caught.value)
    assert sim.requests == ()
    assert rows(cache) == []


def test_ask__loses_no_answer_with_half_a_character(open_cache, canned, reply):
    """An answer with a broken emoji is stored, and served as it was given."""
    chunk = '{"choices":[{"index":0,"delta":{"content":"a\\ud83d"},"finish_reason":"stop"}]}'
    cache = open_cache(canned(reply(f"data: {chunk}\n\ndata: [DONE]\n\n")))
    first = cache.ask(PROMPT)
    assert first.outcome.stored
    assert cache.ask(PROMPT) == first == "a\ufffd"


def test_ask__puts_another_address_in_the_key(open_cache, sim):
    """An answer of one server is not taken for that of another."""
    cache = open_cache(sim)
    cache.ask(PROMPT)
    with Simulator() as other:
        assert not open_cache(other).ask(PROMPT).cached
    assert stored(cache) == 2


@pytest.mark.parametrize("place", ["prompt", "model", "system"])
def test_ask__sends_no_openrouter_key(cache, sim, place):
    """One that was pasted into the wrong place would go to a provider, and stay in the file."""
    key = "sk-or-v1-" + "0a" * 32
    asked = {"prompt": PROMPT, place: f"x {key}"}
    with pytest.raises(InputError, match="holds an API key") as caught:
        cache.ask(asked.pop("prompt"), **asked)
    assert key not in str(caught.value)
    assert sim.completion_count == 0
    assert cache.totals()[0].asks == 0
