"""Batches: what is submitted, collected and paid, whatever ends in between; nothing is bought twice."""

from __future__ import annotations

import subprocess
import sys
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.errors import (
    BatchPendingError,
    BudgetError,
    ConnectionLostError,
    OptionError,
    OrCacheError,
    RequestError,
    StoreUnavailableError,
    UpstreamError,
)
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.openrouter.batches import apportion, in_batches, why_not_batched
from or_cache_magic.simulator import BatchPlan, Simulator, scenario, server
from or_cache_magic.simulator.behaviour import Refusal, error_object
from or_cache_magic.simulator.world import error_reply
from or_cache_magic.storage.batches import BatchTable
from or_cache_magic.tables import collecting, submitting
from or_cache_magic.tables.batches import batches, find_batch, forget_batch, submit_batch
from or_cache_magic.tables.collecting import collect

BATCH_S = 1000.0
PROMPTS = [f"What is {n}?" for n in range(4)]


@pytest.fixture
def sim(clock):
    """A simulator whose batches take a thousand seconds."""
    with Simulator(now=clock, batch_s=BATCH_S) as running:
        yield running


@pytest.fixture
def submit(cache):
    """``submit(prompts, …)`` is the batch of these prompts; ``submit.told`` what was said."""
    told = []

    def run(prompts=PROMPTS, *, of=None, options=None, **fields):
        asked = of or cache
        asks = [asked.prepare(prompt, fields) for prompt in prompts]
        return submit_batch(asked, asks, tell=told.append, **(options or {}))

    run.told = told
    return run


def submissions(sim):
    return [row for row in sim.requests if row.path.endswith("/batches") and row.method == "POST"]


def states(batch):
    return [result.state for result in batch.results()]


def answers(batch):
    return [result.outcome and result.outcome.answer.text for result in batch.results()]


def paid(cache):
    return cache.totals()[0].paid_usd


def test_batch__is_submitted_and_collected(submit, cache, sim, clock):
    """One submission; when it has ended its answers are entries, at half the price, and asking is a hit."""
    batch = submit()
    assert (states(batch), batch.status, batch.done) == (["waiting"] * 4, "validating", False)
    assert (len(submissions(sim)), sim.completion_count) == (1, 0)
    body = submissions(sim)[0].body
    assert list(body)[:2] == ["endpoint", "model"]
    assert "stream" not in body["requests"][0]["body"]
    assert submit.told[0].startswith("4 requests · 4 submitted in a batch (up to $")

    clock.now_s += BATCH_S / 2
    assert batch.collect().rows == 0
    assert batch.status == "in_progress"
    clock.now_s += BATCH_S
    assert batch.collect().rows == 4
    assert (states(batch), batch.status, batch.done) == (["stored"] * 4, "completed", True)
    assert cache.ask(PROMPTS[0]) == answers(batch)[0]
    assert (sim.completion_count, len(submissions(sim))) == (0, 1)
    assert paid(cache) == sim.total_cost > 0
    assert sum(result.cost_usd for result in batch.results()) == sim.total_cost


def test_batch__costs_are_a_source_of_their_own(submit, cache, sim, clock):
    """`apportioned` in ledger, entries and totals; a later hit is worth its share."""
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert {entry.cost.source for entry in cache.store.listing.find()} == {"apportioned"}
    assert {row.paid.source for row in cache.ledger.rows()} == {"apportioned"}
    hit = cache.ask(PROMPTS[1])
    (totals,) = cache.totals()
    assert (totals.apportioned_usd, totals.reported_usd) == (sim.total_cost, 0)
    assert totals.saved_usd == hit.saved_usd == batch.results()[1].cost_usd > 0
    assert totals.misses == 4


def test_batch__the_same_cell_again_goes_on(submit, open_cache, sim, clock):
    """In another kernel too: what is under way is not submitted again, and what has come is collected."""
    submit()
    other = open_cache(sim)
    again = submit(of=other)
    assert (states(again), len(submissions(sim))) == (["waiting"] * 4, 1)
    assert submit.told[-1] == "4 requests · 4 waited for in batches"
    clock.now_s += BATCH_S
    assert states(submit([*PROMPTS, "What is new?"], of=other)) == ["stored"] * 4 + ["waiting"]
    assert [len(row.body["requests"]) for row in submissions(sim)] == [4, 1]
    assert states(submit(of=other)) == ["stored"] * 4
    assert other.totals()[0].misses == 4


def test_batch__two_kernels_collect_it_once(submit, open_cache, sim, clock, monkeypatch):
    """Both have its results in hand: each row is stored and accounted for by one of them."""
    batch, other = submit(), open_cache(sim)
    clock.now_s += BATCH_S
    read = collecting.answer_of

    def read_after_the_other(*args):
        monkeypatch.setattr(collecting, "answer_of", read)
        assert collect(other).rows == 4
        return read(*args)

    monkeypatch.setattr(collecting, "answer_of", read_after_the_other)
    batch.collect()
    (totals,) = other.totals()
    assert (totals.misses, totals.paid_usd) == (4, sim.total_cost)


def test_batch__mixes_with_asks(submit, cache, sim, clock):
    """What is in a batch is not asked; told to, it is asked besides, and that answer stays the one served."""
    stored = cache.ask(PROMPTS[0])
    batch = submit()
    assert states(batch) == ["stored", *["waiting"] * 3]
    assert len(submissions(sim)[0].body["requests"]) == 3
    with pytest.raises(BatchPendingError, match="in the batch batch_") as caught:
        cache.ask(PROMPTS[1])
    assert "--refresh" in caught.value.hint
    assert sim.completion_count == 1

    besides = cache.ask(PROMPTS[1], mode="refresh")
    clock.now_s += BATCH_S
    batch.collect()
    assert cache.ask(PROMPTS[1]) == besides == answers(batch)[1]
    assert answers(batch)[0] == stored
    assert [kept.reason for kept in cache.store.unserved(besides.key)] == [
        "another answer was stored while the batch was under way"
    ]
    assert paid(cache) == sim.total_cost


def test_batch__killed_between_submission_and_its_record(
    submit, open_cache, sim, clock, monkeypatch, tmp_path
):
    """It holds its rows, is found again by what OpenRouter lists, known by its ids when it has ended, and collected."""

    class Killed(BaseException):
        pass

    def killed(_reply):
        raise Killed

    cache = open_cache(sim)
    submit(["What is another?"], of=cache)  # by the same key, but not this one
    with monkeypatch.context() as patched:
        patched.setattr(submitting, "told_by", killed)
        with pytest.raises(Killed):
            submit(of=cache)
    submit(of=open_cache(sim, directory=tmp_path / "elsewhere"))  # nor this one, which looks the same
    other = open_cache(sim)
    again = submit(of=other)
    assert (states(again), len(submissions(sim))) == (["waiting"] * 4, 3)
    with pytest.raises(BatchPendingError, match="submission was not answered"):
        other.ask(PROMPTS[0])
    clock.now_s += BATCH_S
    assert states(submit(of=other)) == ["stored"] * 4
    assert len(submissions(sim)) == 3
    collect(other)
    assert other.totals()[0].misses == 5


def test_batch__a_submission_that_was_not_answered(submit, cache, sim, clock):
    """The connection broke: it may have arrived, and is found again."""
    sim.script_batch(BatchPlan(lost=True))
    with pytest.raises(ConnectionLostError) as caught:
        submit()
    assert "run the cell again" in caught.value.hint
    clock.now_s += BATCH_S
    assert states(submit()) == ["stored"] * 4
    assert (len(submissions(sim)), paid(cache)) == (1, sim.total_cost)


def test_batch__a_submission_that_never_arrived(submit, cache, sim, clock, monkeypatch):
    """OpenRouter lists no such batch: after a quarter of an hour its rows are free, and fail."""
    with monkeypatch.context() as patched:

        def lost(*_args, **_options):
            raise UpstreamError("gone", status=502)

        patched.setattr(cache.gateway, "submit", lost)
        with pytest.raises(UpstreamError):
            submit()
    batch = submit()
    assert (states(batch), submissions(sim)) == (["waiting"] * 4, [])
    clock.now_s += 1000
    batch.collect()
    assert states(batch) == ["failed"] * 4
    assert "nothing was bought" in batch.results()[0].error
    assert states(submit(options={"retry": True})) == ["waiting"] * 4


def test_batch__answered_by_a_server_error_may_have_arrived(submit, sim, monkeypatch):
    """Nobody says that nothing was paid, and its rows say that it is looked for."""
    with monkeypatch.context() as patched:
        refused = error_reply(Refusal(500, error_object(500, "Internal Server Error")))
        patched.setattr(server, "submit_batch", lambda *_: refused)
        with pytest.raises(UpstreamError) as caught:
            submit()
    assert "it may have been billed" in caught.value.args[0]
    assert "nothing was paid" not in str(caught.value)
    assert "may have arrived" in caught.value.hint
    batch = submit()
    assert states(batch) == ["waiting"] * 4
    assert {result.error for result in batch.results()} == {
        "its submission was not answered: the batch is looked for"
    }


def test_batch__is_looked_for_with_its_own_key(submit, open_cache, sim, clock, monkeypatch):
    """Another key may not see a batch: that it is not listed, or not found, frees no row."""
    batch = submit()
    clock.now_s += BATCH_S
    other = open_cache(sim, api_key="sk-or-v1-other")
    assert "404" in collect(other).troubles[0]
    assert states(batch) == ["waiting"] * 4
    batch.collect()
    assert states(batch) == ["stored"] * 4


def test_batch__refused_is_no_batch(submit, open_cache, clock):
    """A refusal is certain: no row is held."""
    with Simulator(now=clock, credits_usd=Decimal(0)) as poor:
        cache = open_cache(poor)
        with pytest.raises(UpstreamError, match="402"):
            submit(of=cache)
        assert BatchTable(cache.database).all() == []
        with pytest.raises(UpstreamError, match="402"):  # it was asked, and not waited for
            cache.ask(PROMPTS[0])


@pytest.mark.parametrize("ending", ["failed", "expired", "cancelled"])
def test_batch__collects_a_part(submit, cache, sim, clock, ending):
    """What was answered is kept and paid for; the rest fails, is free to be asked, and is submitted on demand only."""
    sim.script_batch(BatchPlan(ending=ending, answered=2))
    batch = submit()
    clock.now_s += BATCH_S
    assert batch.collect().rows == 2
    assert states(batch) == ["stored", "stored", "failed", "failed"]
    assert f"the batch {ending} before this was answered" in batch.results()[3].error
    assert "batch.retry() submits it again" in batch.results()[3].error
    assert ".retry() submits the 2 without an answer again" in repr(batch)
    assert paid(cache) == sim.total_cost > 0
    assert states(submit()) == ["stored", "stored", "failed", "failed"]
    assert submit.told[-1].endswith("2 failed in a batch (.retry() submits them again)")
    assert len(submissions(sim)) == 1
    assert cache.ask(PROMPTS[3])
    assert states(batch.retry()) == ["stored", "stored", "waiting", "stored"]


def test_batch__failed_before_it_began(submit, cache, clock):
    """What validation finds fails all, for nothing, and says what it was."""
    batch = submit(tool_choice={"function": 1})
    clock.now_s += BATCH_S
    batch.collect()
    assert (states(batch), paid(cache), batch.done) == (["failed"] * 4, 0, True)
    assert "tool_choice" in batch.results()[0].error


def test_batch__a_row_fails_alone(submit, cache, sim, clock):
    """Its error is its own and costs nothing; the others are stored."""
    sim.script(scenario("moderated"), match=lambda body: "What is 1" in str(body))
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["stored", "failed", "stored", "stored"]
    assert batch.results()[1].error
    assert paid(cache) == sim.total_cost
    assert batches(cache).loc[0, ["done", "failed"]].tolist() == [3, 1]


def test_batch__what_is_not_fit_to_be_served_is_kept_as_paid(submit, cache, sim, clock):
    """A filtered answer is accounted and never served, by the same rules as an ordinary one's."""
    sim.script(scenario("content_filter"), match=lambda body: "What is 1" in str(body))
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["stored", "set aside", "stored", "stored"]
    (kept,) = cache.store.unserved(batch.results()[1].ask.key.digest)
    assert kept.reason == batch.results()[1].error
    assert (kept.answer.cost.source, paid(cache)) == ("apportioned", sim.total_cost)


def test_batch__results_withheld_are_waited_for(submit, cache, sim, clock):
    """402 on a batch that has ended: nothing is asked anew; with credits its results are there."""
    sim.script_batch(BatchPlan(unpaid=2))
    batch = submit()
    clock.now_s += BATCH_S
    with pytest.raises(OrCacheError, match="withheld"):
        batch.wait(every_s=0)
    assert (batch.status, states(batch)) == ("unpaid", ["waiting"] * 4)
    submit()
    with pytest.raises(BatchPendingError, match="unpaid"):
        cache.ask(PROMPTS[0])
    assert states(batch.wait(every_s=0)) == ["stored"] * 4
    assert len(submissions(sim)) == 1


def test_batch__costs_that_brought_nothing_are_accounted(submit, cache, sim, clock):
    """A batch without an answer that is billed all the same: its rows share it, as failed."""
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "cost": Decimal("0.0000000000111")}
    sim.script_batch(
        BatchPlan(ending="failed", answered=0, alter=lambda told: told | {"usage": usage, "results": []})
    )
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["failed"] * 4
    (totals,) = cache.totals()
    assert (totals.failed, totals.paid_usd) == (4, Decimal("0.000000000011"))
    assert [result.cost_usd for result in batch.results()] == [
        Decimal(f"0.00000000000{n}") for n in (3, 3, 3, 2)
    ]


def altered_results(change):
    """A plan whose results are changed by ``change(results, told)`` once they are told."""

    def alter(told):
        if told.get("results"):
            change(told["results"], told)
        return told

    return BatchPlan(alter=alter)


def test_batch__of_results_with_one_id_none_is_stored(submit, cache, sim, clock):
    """Nobody knows whose they are; they were paid all the same, and the row says so."""

    def change(results, _told):
        results[0]["custom_id"] = results[1]["custom_id"]
        results[3]["custom_id"] = "somebody-else"

    sim.script_batch(altered_results(change))
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["failed", "set aside", "stored", "failed"]
    assert "several results" in batch.results()[1].error
    assert batch.results()[1].cost_usd > 0
    stored = [cache.store.get(result.ask.key) is not None for result in batch.results()]
    assert stored == [False, False, True, False]
    assert paid(cache) == sim.total_cost == sum(row.cost_usd or 0 for row in batch.results())


@pytest.mark.parametrize(
    ("own", "source"),
    [
        (["0.0001", "0.0002", "0.0003", "0"], "apportioned"),
        (["0.0001", "0.0009", "0.0003", None], "apportioned"),
        (["0.0001", "0.0002", "0.0003", "0.0004"], "reported"),
    ],
)
def test_batch__rows_that_report_costs_of_their_own(submit, cache, sim, clock, own, source):
    """They are what was paid where they add up to the batch's; else they are shares of that."""

    def change(results, told):
        told["usage"] = {"cost": Decimal("0.001")}
        for result, usd in zip(results, own, strict=True):
            usage = result["response"]["body"]["usage"]
            result["response"]["body"]["usage"] = usage | ({} if usd is None else {"cost": Decimal(usd)})

    sim.script_batch(altered_results(change))
    batch = submit()
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["stored"] * 4
    assert paid(cache) == Decimal("0.001") == sum(row.cost_usd for row in batch.results())
    assert batches(cache).loc[0, "cost_usd"] == 0.001
    assert {entry.cost.source for entry in cache.store.listing.find()} == {source}


def test_batch__not_found_yet(submit, cache, sim, clock, monkeypatch):
    """A 404 soon after the submission frees no row."""
    batch = submit()
    clock.now_s += BATCH_S
    refused = UpstreamError("not there", status=404)

    def not_there(*_args, **_options):
        raise refused

    with monkeypatch.context() as patched:
        patched.setattr(cache.gateway, "fetch", not_there)
        assert "not there" in batch.collect().troubles[0]
    assert states(batch) == ["waiting"] * 4
    assert "not there" in repr(batch)
    assert batch.collect().rows == 4


def test_batch__a_key_in_a_prompt_is_not_sent(submit, open_cache, sim):
    """It would be stored by OpenRouter and the provider: nothing is sent, and no row is held."""
    cache = open_cache(sim, api_key="a-key-of-another-form-1234567")
    with pytest.raises(RequestError, match="API key"):
        submit(["Is a-key-of-another-form-1234567 safe?"], of=cache)
    assert submissions(sim) == []
    assert BatchTable(cache.database).all() == []


def test_batch__holds_its_rows_where_nothing_can_be_written(submit, cache, monkeypatch):
    """Leases can't be taken there, and an ask goes on without; not one for what is in a batch."""
    submit()

    def read_only(*_args, **_options):
        raise StoreUnavailableError("read-only")

    monkeypatch.setattr(cache.database, "transaction", read_only)
    with pytest.raises(BatchPendingError):
        cache.ask(PROMPTS[0])


def test_batch__gone_at_openrouter(submit, cache, clock):
    """After 30 days nothing can be collected any more: the rows fail and are free."""
    batch = submit()
    clock.now_s += 31 * 86_400
    batch.collect()
    assert states(batch) == ["failed"] * 4
    assert "30 days" in batch.results()[0].error
    assert cache.ask(PROMPTS[0])


def test_batch__unknown_statuses_are_waited_for(submit, sim, clock):
    """Whatever OpenRouter comes to call it: it has not ended."""
    sim.script_batch(BatchPlan(alter=lambda told: told | {"status": "melted"}))
    batch = submit()
    clock.now_s += 2 * BATCH_S
    batch.collect()
    assert (batch.status, states(batch)) == ("melted", ["waiting"] * 4)


def test_wait__says_what_changes(submit, cache, sim, clock, monkeypatch):
    """A line for each status and trouble; an interrupt is two lines, and the batch goes on."""
    batch, slept = submit(), []

    def sleep(seconds):
        slept.append(seconds)
        clock.now_s += BATCH_S / 4
        if len(slept) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("or_cache_magic.tables.batches.time.sleep", sleep)
    assert states(batch.wait(every_s=5)) == ["stored"] * 4
    assert [line.split(" · ")[2] for line in submit.told[1:]] == ["validating", "in_progress"]
    assert slept == [5] * 4
    with pytest.raises(KeyboardInterrupt) as caught:
        submit(["What is new?"]).wait()
    assert "goes on at OpenRouter" in str(caught.value)
    assert slept[4] == 2


def test_batch__killed_while_it_is_collected(submit, cache, sim, clock, monkeypatch):
    """What was stored by then is stored once; the rest follows, and the sum is exact."""
    batch = submit()
    clock.now_s += BATCH_S
    collect_one, count = cache.recorder.collect, []

    def killed(*args, **options):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return collect_one(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(cache.recorder, "collect", killed)
        with pytest.raises(KeyboardInterrupt):
            batch.collect()
    assert states(batch) == ["stored", "stored", "waiting", "waiting"]
    batch.collect()
    assert states(batch) == ["stored"] * 4
    assert (paid(cache), cache.totals()[0].misses) == (sim.total_cost, 4)


def test_batch__what_has_expired_is_submitted_again(submit, sim, clock):
    """A batch that answered it once is no reason not to."""
    submit(ttl="2h")
    clock.now_s += BATCH_S
    assert states(submit(ttl="2h")) == ["stored"] * 4
    clock.now_s += 3 * 3600
    assert states(submit(ttl="2h")) == ["waiting"] * 4
    assert len(submissions(sim)) == 2


def test_batch__is_of_the_notebook_that_submitted_it(submit, open_cache, sim, clock):
    """Whoever collects it, in a shell at night."""
    submit(of=open_cache(sim, notebook="a.ipynb"), tag="t")
    clock.now_s += BATCH_S
    nightly = open_cache(sim)
    collect(nightly)
    assert {(row.notebook, row.tags) for row in nightly.ledger.rows()} == {("a.ipynb", ("t",))}
    assert {(entry.notebook, entry.tags) for entry in nightly.store.listing.find()} == {("a.ipynb", ("t",))}


def test_wait__gives_up(submit, sim):
    """After so many seconds it returns as things are."""
    assert states(submit().wait(0)) == ["waiting"] * 4


KILLED = """
import os, sys
from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
from or_cache_magic.tables import submitting
submitting.told_by = lambda reply: os._exit(9)
settings = Settings(model="openai/gpt-4o-mini", base_url=sys.argv[2])
CompletionCache(sys.argv[1], settings=lambda: settings, api_key=lambda: "sk-or-v1-test").map(
    ["a", "b"], "Say {{ row }}", batch=True, progress=False
)
"""


def test_batch__a_process_that_is_killed_while_it_submits(submit, open_cache, folder):
    """Its lease ends with it: the next one holds its rows, and finds the batch."""
    with Simulator() as sim:
        words = [sys.executable, "-c", KILLED, str(folder), sim.base_url]
        assert subprocess.run(words, check=False, timeout=300).returncode == 9
        cache = open_cache(sim)
        cache.clock.now_s = time.time()
        assert states(submit(["Say a", "Say b"], of=cache)) == ["stored"] * 2
        assert len(submissions(sim)) == 1
        assert cache.totals()[0].paid_usd == sim.total_cost


def test_batch__offline_sends_and_collects_nothing(submit, open_cache, sim, clock):
    """What is waited for stays so; what is neither stored nor in a batch is an error of its row."""
    submit()
    clock.now_s += BATCH_S
    count = len(sim.requests)
    offline = open_cache(sim, mode="offline")
    batch = submit([*PROMPTS, "What is new?"], of=offline)
    assert states(batch) == ["waiting"] * 4 + ["failed"]
    assert batch.collect().rows == 0
    batch.wait(every_s=0)
    assert len(sim.requests) == count


def test_batch__offline_by_its_own_mode_sends_nothing(submit, sim, clock):
    """``mode="offline"`` of the call counts as the setting does."""
    submit()
    clock.now_s += BATCH_S
    count = len(sim.requests)
    assert states(submit([*PROMPTS, "What is new?"], mode="offline")) == ["waiting"] * 4 + ["failed"]
    assert len(sim.requests) == count


def test_batch__is_split(cache, sim):
    """By model, by provider, and on Google by the form that is asked for."""
    asked = [
        ("openai/gpt-4o-mini", {}),
        ("openai/gpt-4o", {}),
        ("openai/gpt-4o", {"provider": {"only": ["openai"]}}),
        ("google/gemini-2.5-flash", {}),
        ("google/gemini-2.5-flash", {"response_format": {"type": "json_object"}}),
        ("openai/gpt-4o", {"response_format": {"type": "json_object"}}),
    ]
    asks = [cache.prepare("In JSON?", fields, model=model) for model, fields in asked]
    batch = submit_batch(cache, asks, tell=str)
    bodies = [row.body for row in submissions(sim)]
    assert [(body["model"], len(body["requests"])) for body in bodies] == [
        ("openai/gpt-4o-mini", 1),
        ("openai/gpt-4o", 2),
        ("openai/gpt-4o", 1),
        ("google/gemini-2.5-flash", 1),
        ("google/gemini-2.5-flash", 1),
    ]
    assert bodies[2]["provider"] == {"only": ["openai"]}
    assert "provider" not in bodies[2]["requests"][0]["body"]
    assert len(batch.batches) == 5


def test_in_batches__no_more_than_a_batch_takes(cache):
    """5,000 requests, and not 200 MB."""
    request = cache.prepare("What?", {}).request
    assert [len(part) for part in in_batches((str(n), request) for n in range(5001))] == [5000, 1]
    large = cache.prepare("x" * 100_000_000, {}).request
    assert [len(part) for part in in_batches((str(n), large) for n in range(2))] == [1, 1]


PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": "openai/gpt-4o-mini:online"}, "don't search"),
        ({"plugins": [{"id": "web"}]}, "don't search"),
        ({"plugins": [{"id": "file-parser"}]}, "no plugins"),
        ({"tools": [{"type": "openrouter:web_search"}]}, "no server tools"),
        ({"modalities": ["image", "text"]}, "no images or sound"),
        ({"models": ["openai/gpt-4o"]}, "models"),
        ({"provider": {"zdr": True, "only": ["openai"]}}, "provider.zdr"),
        ({"deferred_tools": {"protocol": "v1"}}, "deferred_tools"),
        ({"messages": [{"role": "user", "content": PICTURE}]}, "by their URLs"),
        ({"provider": {"only": ["openai"], "allow_fallbacks": False}}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None),
        ({"messages": [{"role": "user", "content": "a data: URL"}]}, None),
    ],
)
def test_why_not_batched(cache, fields, why):
    """What no batch takes is known before it is submitted."""
    request = cache.prepare("What?", {}).request
    found = why_not_batched(request._replace(body={**request.body, **fields}))
    assert (found is None) if why is None else (why in found)


def test_batch__what_it_does_not_take_is_asked_at_once(submit, sim):
    """Or refused, before anything is sent, where only a batch will do."""
    fields = {"provider": {"sort": "price"}}
    with pytest.raises(OptionError, match=r"4 rows can't go into a batch: batches don't take provider\.sort"):
        submit(options={"only": True}, **fields)
    assert sim.requests == ()
    batch = submit(**fields)
    assert (states(batch), sim.completion_count, submissions(sim)) == (["stored"] * 4, 4, [])


def test_batch__hot_requests_are_asked_at_once(submit, sim):
    """What is not stored can't be collected: above temperature 0 only samples are batched."""
    submit(["What?"], temperature=1)
    assert (sim.completion_count, submissions(sim)) == (1, [])
    assert states(submit(["What?"], temperature=1, sample=1)) == ["waiting"]


def test_batch__refresh_is_refused(submit, sim):
    """It would be submitted anew by each run."""
    with pytest.raises(OptionError, match="mode='refresh'"):
        submit(mode="refresh")
    assert sim.requests == ()


def test_batch__holds_budgets(submit, open_cache, sim, clock):
    """A limit is compared with the full price, before anything is sent; what is under way counts until it is paid."""
    with pytest.raises(BudgetError, match="of the table"):
        submit(options={"limits": [Limit("the table", Decimal("0.0001"), BudgetTracker())]})
    assert submissions(sim) == []
    cache = open_cache(sim, max_cost_usd=Decimal("0.011"))
    batch = submit(of=cache)
    with pytest.raises(BudgetError):
        cache.ask("What is new?")
    clock.now_s += BATCH_S
    batch.collect()
    assert cache.ask("What is new?")


def test_batch__counts_in_budgets_of_later_kernels(submit, open_cache, sim, clock):
    """What is under way counts in the day's budget of every kernel, and in the session's of one that waits for it."""
    submit(["What is the first?"])
    (under_way,) = BatchTable(open_cache(sim).database).all()
    limit = under_way.high_usd + Decimal("0.0001")
    later = open_cache(sim, max_cost_per_day_usd=limit)
    held = (
        r"after \$[\d.]+ \(\$[\d.]+ of it held for batches under way\): over .* a day's max_cost_per_day_usd"
    )
    with pytest.raises(BudgetError, match=held):
        later.ask("What is new?")
    waiting = open_cache(sim, max_cost_usd=limit)
    with pytest.raises(BudgetError, match="this session's max_cost_usd"):
        waiting.ask("What is new?", max_tokens=10**6)
    assert waiting.ask("What is new?", max_tokens=10)
    submit(["What is the first?"], of=waiting)
    with pytest.raises(BudgetError, match="of it held for batches under way"):
        waiting.ask("What is new to it?")
    clock.now_s += BATCH_S
    collect(waiting)
    assert waiting.ask("What is new to it?", max_tokens=100)
    assert later.ask("And to this one?", max_tokens=100)


def test_batch__of_a_call_counts_in_its_limit_besides(submit, sim):
    """What is asked at once beside a batch must fit into what the batch leaves of the call's limit."""
    tracker = BudgetTracker()
    submit(options={"limits": [Limit("the table", Decimal(1), tracker)]})
    assert tracker.at_most() > 0


def test_batch__one_row_of_equal_requests(submit, sim, clock):
    """They share it, and its cost is theirs together."""
    batch = submit(["What?", "What?", "Why?"])
    assert len(submissions(sim)[0].body["requests"]) == 2
    clock.now_s += BATCH_S
    batch.collect()
    assert answers(batch)[0] == answers(batch)[1]


def test_batch__reads_well(submit, clock):
    """Its repr says how far it is and what to do; the frame has a row for each request."""
    batch = submit()
    clock.now_s += 200
    batch.collect()
    first, second, third = repr(batch).split("\n")
    assert first == "Batch of 4 rows: 4 waiting"
    assert "in_progress · " in second
    assert " of 4 answered · submitted 3 min ago, seen just now" in second
    assert ".wait()" in third
    clock.now_s += BATCH_S
    frame = batch.wait().frame()
    assert list(frame.columns) == ["key", "state", "answer", "cost_usd", "cached", "error"]
    assert frame["answer"].tolist() == answers(batch)
    assert repr(batch).startswith("Batch of 4 rows: 4 stored\n  batch_")


def test_batches__lists_and_forgets(submit, cache, clock):
    """A batch that is given up frees its rows; what it answers is collected no more."""
    submit()
    (name,) = batches(cache)["id"]
    assert find_batch(cache, name[:10]).remote == name
    with pytest.raises(OptionError, match="no batch begins with nope"):
        find_batch(cache, "nope")
    assert forget_batch(cache, name) == 4
    clock.now_s += BATCH_S
    assert collect(cache).rows == 0
    assert cache.ask(PROMPTS[0])


def test_batch__needs_a_folder(open_cache, sim, submit):
    """In memory its state would be gone with the process, and it would be bought again."""
    with pytest.raises(OptionError, match="in a folder"):
        submit(of=open_cache(sim, directory=":memory:"))
    assert submissions(sim) == []


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_apportion__sums_to_the_last_digit(total, weights):
    """Shares are whole, never below 0, within one of their proportion, and add up to the whole."""
    shares = apportion(total, weights)
    assert sum(shares) == total
    whole = sum(weights) or len(weights)
    for share, weight in zip(shares, weights if sum(weights) else [1] * len(weights), strict=True):
        assert abs(share * whole - total * weight) < whole


def test_batch__a_damaged_row_is_lost_alone(submit, cache, sim, clock):
    """What it asked can't be read: it fails, the others are stored, and the whole cost is accounted."""
    batch = submit()
    with cache.database.transaction() as connection:
        connection.execute("UPDATE or_batch_row SET request = x'00' WHERE position = 2")
    clock.now_s += BATCH_S
    batch.collect()
    assert states(batch) == ["stored", "stored", "failed", "stored"]
    assert paid(cache) == sim.total_cost
