"""`verify`: a sample of the entries asked again, never served, and how far the answers agree."""

from __future__ import annotations

import os
import signal
import threading
from decimal import Decimal

import pytest

from or_cache_magic.core.policy import COMPARED
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import MissingKeyError, OptionError
from or_cache_magic.simulator import scenario
from or_cache_magic.tables import verify as module

MODEL = "openai/gpt-4o-mini"
OTHER = "openai/gpt-4o"


def bought(cache, count, **options):
    return [cache.ask(f"What is {n}?", **options) for n in range(count)]


def verify(cache, *keys, **options):
    return cache.verify(*keys, progress=False, **{"sample": 1.0, **options})


def group(found, by, name=""):
    (one,) = [one for one in found.groups if (one.by, one.group) == (by, name)]
    return one


def counts(found, by="all", name=""):
    return tuple(group(found, by, name)[2:])


def test_verify__asks_again_and_serves_the_old(cache, sim):
    """Each is bought once more and compared; the entry, its hits and its cost stay as they were."""
    answers = bought(cache, 4)
    before = cache.entries()
    sim.script(scenario("plain", text="Something else."))
    found = verify(cache)

    assert sim.completion_count == 8
    assert counts(found) == (4, 3, 3, 0)
    assert (found.entries, found.sample, found.unpriced) == (4, 4, 0)
    assert cache.entries().equals(before)
    again = bought(cache, 4)
    assert (again, [one.cached for one in again]) == (answers, [True] * 4)
    assert sim.completion_count == 8


def test_verify__is_kept_as_history_and_paid_for(cache, clock, sim):
    """What came is history with its cost, and can't be pinned; the ledger has all that was paid."""
    (answer,) = bought(cache, 1)
    clock.now_s += 60
    sim.script(scenario("plain", text="Something else."))
    found = verify(cache)

    (kept,) = cache.store.unserved(answer.key)
    assert (kept.reason, kept.answer.text, kept.was_served) == (COMPARED, "Something else.", False)
    assert found.differing == (answer.key,)
    assert found.paid_usd == kept.answer.cost.usd > 0
    (totals,) = cache.totals()
    assert (totals.asks, totals.calls, totals.refreshes, totals.paid_usd) == (2, 2, 1, sim.total_cost)
    with pytest.raises(OptionError, match="no other answer that may be served"):
        cache.pin(answer.key, 2)


def test_verify__a_failure_is_no_disagreement(cache, sim):
    """What failed, was filtered, cut or does not fit is counted apart, by its reason, and kept where paid."""
    answers = bought(cache, 4)
    sim.script(scenario("content_filter"), match=asks(answers[0]))
    sim.script(scenario("invalid_request", message="No."), match=asks(answers[1]))
    sim.script(scenario("cut"), match=asks(answers[2]))
    found = verify(cache)

    assert counts(found) == (1, 1, 1, 3)
    assert found.differing == ()
    assert sum(count for _, count in found.failures) == 3
    assert any("filter" in why for why, _ in found.failures)
    (filtered,) = cache.store.unserved(answers[0].key)
    assert filtered.reason.startswith(f"{COMPARED}: ")
    assert found.paid_usd == cache.totals()[0].paid_usd - sum(one.cost_usd for one in answers)
    assert str(found).count("1 failed: ") == 3


def asks(answer):
    prompt = answer.request.body["messages"][-1]["content"]
    return lambda body: body["messages"][-1]["content"] == prompt


def test_verify__by_model_and_age(cache, clock, sim):
    """Each model and each age of the stored answer has its own share."""
    bought(cache, 2, model=OTHER)
    clock.now_s += 8 * 86400
    bought(cache, 3)
    sim.script(scenario("plain", text="Other."), match=lambda body: body["model"] == OTHER)
    found = verify(cache)

    assert counts(found, "model", OTHER) == (2, 1, 1, 0)
    assert counts(found, "model", MODEL) == (3, 3, 3, 0)
    assert counts(found, "age", "a week to a month") == (2, 1, 1, 0)
    assert counts(found, "age", "under a day") == (3, 3, 3, 0)
    frame = found.frame()
    assert list(frame["by"]) == ["all", "model", "model", "age", "age"]
    assert list(frame.loc[frame["group"] == OTHER, "exact"]) == [0.5]
    assert (frame["exact_low"] < frame["exact_high"]).all()


def test_verify__by_field_of_a_schema(cache, sim):
    """Of answers to a JSON Schema each field is compared by itself; one that does not fit is a failure."""
    asked = {"schema": "label enum(spam,ham), score int"}
    sim.script(scenario("plain", text='{"label": "spam", "score": 1}'), times=3)
    answers = bought(cache, 3, **asked)
    sim.script(scenario("plain", text='{"score": 1, "label": "spam"}'), match=asks(answers[0]))
    sim.script(scenario("plain", text='{"label": "ham", "score": 1.0}'), match=asks(answers[1]))
    sim.script(scenario("plain", text='{"label": "eggs", "score": 1}'), match=asks(answers[2]))
    found = verify(cache)

    assert counts(found) == (2, 0, 1, 1)
    assert counts(found, "field", "label") == (2, 1, 1, 0)
    assert counts(found, "field", "score") == (2, 1, 2, 0)
    assert len(cache.store.unserved(answers[2].key)) == 1
    sent = sim.completion_count
    assert bought(cache, 3, **asked, repair=2) == answers
    assert sim.completion_count == sent


def test_verify__sample_is_the_same_each_time(cache, sim):
    """It is chosen by the keys: a smaller one is in a larger, and a share is rounded up."""
    answers = bought(cache, 10)
    by_keys = sorted((one.key for one in answers), key=lambda key: key[::-1])
    for sample, count in ((3, 3), ("25%", 3), (0.5, 5), ("1", 1), (100, 10)):
        before = sim.completion_count
        found = verify(cache, sample=sample)
        assert (found.entries, found.sample, sim.completion_count - before) == (10, count, count)
    kept = {key: len(cache.store.unserved(key)) for key in by_keys}
    assert list(kept.values()) == [5, 4, 4, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("sample", [0, -1, 0.0, 1.5, float("nan"), "0%", "101%", "x", "", None, True, "5 %%"])
def test_verify__refuses_what_is_no_sample(cache, sim, sample):
    """Neither a share nor a number: two lines, and nothing is sent."""
    bought(cache, 1)
    with pytest.raises(OptionError, match="neither a share nor a number of entries"):
        verify(cache, sample=sample)
    assert sim.completion_count == 1


def test_verify__heeds_filters(cache, clock):
    """Only entries that meet every condition, and are served, are asked again."""
    bought(cache, 2, model=OTHER, tag="exam")
    first, *_ = bought(cache, 2, tag="exam")
    cache.ask("Soon gone.", ttl="1h")
    clock.now_s += 7200
    assert verify(cache).entries == 4
    assert verify(cache, model="4o-mini").entries == 2
    assert verify(cache, first.key[:12]).entries == 1
    assert verify(cache, tag="exam", text="what is 1", model=OTHER).entries == 1
    assert verify(cache, since="1h").entries == 0
    with pytest.raises(OptionError, match="no condition modle"):
        verify(cache, modle=OTHER)


def test_verify__says_what_it_may_cost_first(cache, sim):
    """One line, before anything is sent."""
    bought(cache, 3)
    told = []

    def tell(line):
        told.append((line, sim.completion_count))

    module.verify(cache, sample=2, tell=tell)
    (line, sent) = told[0]
    assert line.startswith("2 of 3 entries asked again · $0.00")
    assert sent == 3


def test_verify__heeds_budgets(cache, sim):
    """What may go over a limit is not sent, and is no disagreement."""
    bought(cache, 3)
    found = verify(cache, max_cost_usd="0.0000001")
    assert counts(found) == (0, 0, 0, 3)
    assert (sim.completion_count, found.paid_usd) == (3, Decimal(0))
    assert "this verification's max_cost_usd" in found.failures[0][0]


def test_verify__offline_or_without_a_key_sends_nothing(open_cache, cache, sim):
    """It is refused in two lines: there is nothing to compare with."""
    bought(cache, 1)
    with pytest.raises(OptionError, match="offline nothing is asked again") as refused:
        verify(open_cache(sim, mode="offline"))
    assert refused.value.hint
    with pytest.raises(MissingKeyError):
        verify(open_cache(sim, api_key=None))
    assert sim.completion_count == 1


def test_verify__another_servers_entries_are_left_out(open_cache, cache, canned, sim):
    """The key goes to the server in force alone, wherever an entry came from; vectors are no answers."""
    bought(cache, 2)
    cache.embed("a text", model="openai/text-embedding-3-small")
    other = canned(b"")
    found = verify(open_cache(other))
    assert (found.entries, found.sample, found.left_out) == (3, 0, 3)
    assert other.received == []
    assert str(found) == "nothing to compare among 3 entries"
    assert (verify(cache).sample, verify(cache).left_out) == (2, 1)


def test_verify__above_temperature_0(cache, sim):
    """A sample is asked again as it was: its index is not sent, and its entry stays."""
    first = cache.ask("Name a colour.", temperature=1, sample=2)
    sim.script(scenario("plain", text="Mauve"))
    assert counts(verify(cache)) == (1, 0, 0, 0)
    assert cache.ask("Name a colour.", temperature=1, sample=2) == first


def test_verify__is_not_what_others_wait_for(cache, sim):
    """An answer that came to be compared is served to nobody, also where its entry has gone meanwhile."""
    (answer,) = bought(cache, 1)
    sim.script(scenario("plain", text="Something else."))
    verify(cache)
    ask = cache.prepare("What is 0?", {})
    with cache.database.transaction() as connection:
        connection.execute("DELETE FROM Cache WHERE key = ?", (answer.key,))
    found = cache.engine._look_again(ask, 0.0)
    assert type(found).__name__ == "_Miss"


def test_verify__interrupted_has_what_came(cache, sim):
    """An interrupt keeps what was bought, and has the result as far as it came as its `table`."""
    bought(cache, 6)
    done = []

    def interrupt():
        sim.wait_for(lambda requests: sum(row.is_completion and row.status == 200 for row in requests) > 6)
        done.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    sim.script(scenario("stalled"), times=3, match=lambda body: body["messages"][-1]["content"][8] in "345")
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as stopped:
        verify(cache)
    thread.join()
    found = stopped.value.table
    assert done
    assert "were compared, paid" in str(stopped.value)
    assert counts(found)[0] + counts(found)[3] <= found.sample == 6
    kept = sum(len(cache.store.unserved(key)) for key in cache.store.listing.digests(EntryFilter()))
    assert kept >= counts(found)[0]


def test_verify__shows_itself(cache):
    """A table as text, HTML and Markdown, with what it cost and the intervals' name."""
    bought(cache, 2)
    found = verify(cache)
    lines = str(found).splitlines()
    assert lines[0].split() == ["compared", "exact", "normalised", "failed"]
    assert lines[1].split() == ["all", "2", "100%", "(34%", "to", "100%)", "100%", "(34%", "to", "100%)", "0"]
    assert "2 of 2 entries compared · paid $0.00" in str(found)
    assert "Wilson" in str(found)
    assert "<table" in found._repr_html_()
    assert "| compared |" in found._repr_markdown_()
    assert repr(found) == str(found)
    with pytest.raises(AttributeError):
        found.sample = 1
