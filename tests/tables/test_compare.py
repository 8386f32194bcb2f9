"""Several asks of one prompt: together, cancelled together, and as a table."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial

import pytest

from or_cache_magic.errors import UpstreamError
from or_cache_magic.simulator import scenario
from or_cache_magic.tables.compare import COLUMNS, answers_frame, failure_of, prepare_all, run_all

MODELS = ["openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-haiku-4.5"]


@pytest.fixture
def members(cache):
    """``members(models, sample)`` is the asks of one prompt."""
    return lambda models=MODELS, sample=None: prepare_all(
        partial(cache.prepare, "Name a colour.", {}), models, sample
    )


@pytest.fixture
def run(cache):
    """Asks for all; what came of each is told in `done`."""

    def run(asked, tick=lambda: None):
        done: list[int] = []
        quiet = [lambda _text: None] * len(asked)
        run_all(cache, asked, on_text=quiet, on_wait=quiet, done=done.append, tick=tick)
        return done

    return run


def test_run_all__at_the_same_time(members, run, sim):
    """All are under way together, each once."""
    asked = members(sample=range(2))
    with ExitStack() as holding:
        holding.enter_context(sim.hold())

        def tick():
            if sum(row.held for row in sim.requests) == 6:
                holding.close()

        assert sorted(run(asked, tick)) == [0, 1, 2, 3, 4, 5]
    assert sim.completion_count == 6
    assert [member.completion.cached for member in asked] == [False] * 6


def test_run_all__an_interrupt_while_all_wait_has_nothing_under_way(members, sim, cache):
    """After a refusal the next attempt waits, and nothing that was sent is still to be paid."""
    sim.script(scenario("rate_limited", retry_after_s=60), times=9)
    asked, waiting = members(MODELS[:1], sample=range(3)), threading.Event()

    def tick():
        if waiting.is_set() and not any(member.sent.is_set() for member in asked):
            raise KeyboardInterrupt

    said = [lambda _line: waiting.set()] * len(asked)
    with pytest.raises(KeyboardInterrupt) as told:
        run_all(cache, asked, on_text=[None] * len(asked), on_wait=said, done=lambda _: None, tick=tick)
    assert "0 of 3 answers had come (nothing was under way)" in told.value._render_traceback_()[0]
    lists = [row for row in sim.requests if not row.is_completion]
    assert len(lists) == len({row.path for row in lists})


def test_run_all__an_interrupt_ends_all_and_keeps_what_came(members, run, sim, cache):
    """Two lines; what had come is kept and free the next time, what was under way is closed."""
    run(members(MODELS[:1]))
    sim.script(scenario("stalled"), times=2)
    asked = members()

    def tick():
        if sum(member.sent.is_set() for member in asked) == 2 and asked[0].completion is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as told:
        run(asked, tick)
    message, hint = told.value._render_traceback_()
    assert message == "KeyboardInterrupt: 1 of 3 answers had come (what 2 under way cost is not known yet)"
    assert "what was bought is kept" in hint
    assert sim.wait_for(lambda rows: sum(row.cancelled for row in rows) == 2)
    again = members()
    assert sorted(run(again)) == [0, 1, 2]
    assert [member.completion.cached for member in again] == [True, False, False]


@pytest.mark.parametrize("refusal", ["insufficient_credits", "unauthorized"])
def test_run_all__a_refusal_of_all_stops_the_rest(members, run, sim, refusal):
    """What isn't sent yet is not sent; all have an error, which one names."""
    sim.script(scenario(refusal), times=99)
    asked = members(MODELS[:1], range(30))
    run(asked)
    assert sim.completion_count <= 8
    failure = failure_of(asked)
    assert {type(member.failure) for member in asked} == {type(failure)} == {UpstreamError}
    assert str(failure).startswith("30 of 30 answers failed: ")
    assert "and 25 more" in str(failure)


def test_answers_frame__types_and_what_is_missing(members, run, sim):
    """Plain numbers in fixed types; what isn't known is missing, a failed one has its error alone."""
    sim.script(scenario("bad_gateway"), times=3, match=lambda body: body["model"] == MODELS[0])
    asked = members()
    run(asked)
    frame = answers_frame(asked)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == dict(COLUMNS)
    assert frame["prompt_tokens"].isna().tolist() == frame["seconds"].isna().tolist() == [True, False, False]
    assert frame["answer"].tolist()[1:] == [str(member.completion) for member in asked[1:]]
    assert frame["error"].isna().tolist() == [False, True, True]
    assert failure_of(asked[1:]) is None
