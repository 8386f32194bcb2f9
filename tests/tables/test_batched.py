"""`orc.map` with ``batch=True``: the table's rows as a batch, and the table as far as its answers are there."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from or_cache_magic.errors import BudgetError, OptionError
from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.tables.batches import Batch

BATCH_S = 1000.0
TEMPLATE = "Say {{ body }}"


@pytest.fixture
def sim(clock):
    """A simulator whose batches take a thousand seconds."""
    with Simulator(now=clock, batch_s=BATCH_S) as running:
        yield running


@pytest.fixture
def frame():
    return pd.DataFrame({"body": ["red", "green", "red", None]}, index=[7, 3, 3, 9])


def test_map__as_a_batch(cache, sim, clock, frame):
    """It returns at once; the table has the answers as they come, and the same call again goes on, then serves."""
    batch = cache.map(frame, TEMPLATE, batch=True, progress=False)
    assert isinstance(batch, Batch)
    assert sim.completion_count == 0
    table = batch.frame()
    assert list(table.index) == list(frame.index)
    assert table["answer_error"].tolist() == ["waiting for the batch"] * 3 + [
        "{{ body }}: the cell is empty; nothing was sent"
    ]
    assert table["answer"].isna().all()
    assert table["answer_cost_usd"].fillna(-1).tolist() == [-1, -1, 0, 0]  # not known; likewise; nothing

    clock.now_s += BATCH_S
    again = cache.map(frame, TEMPLATE, batch=True, progress=False)
    table = again.frame()
    assert list(table["answer"])[:3] == [str(cache.ask(f"Say {body}")) for body in ("red", "green", "red")]
    assert table["answer_cached"].tolist() == [False, False, True, False]
    assert math.isclose(table.loc[~table["answer_cached"], "answer_cost_usd"].sum(), float(sim.total_cost))
    assert sim.completion_count == 0

    served = cache.map(frame, TEMPLATE, batch=True, progress=False).frame()
    assert served["answer_cached"].tolist() == [True, True, True, False]
    ordinary = cache.map(frame, TEMPLATE, progress=False)
    assert list(ordinary["answer"]) == list(served["answer"])


def test_map__a_list_as_a_batch(cache, clock):
    """The result is of the data's kind: a list of completions, with None for what is not there yet."""
    batch = cache.map(["red", "green"], "Say {{ row }}", batch=True, progress=False)
    assert batch.frame() == [None, None]
    clock.now_s += BATCH_S
    red, _ = batch.wait().frame()
    assert red == cache.ask("Say red")
    assert (red.cached, red.paid_usd) == (False, red.cost_usd)


def test_map__rows_that_a_batch_does_not_take(cache, sim, frame):
    """They are asked at once, several at a time; or refused. A row's error is its own."""
    options = {"batch": "only", "progress": False, "provider": {"sort": "price"}}
    with pytest.raises(OptionError, match=r"2 rows can't go into a batch"):
        cache.map(frame, TEMPLATE, **options)
    sim.script(scenario("moderated"), match=lambda body: "red" in str(body))
    told = []
    from or_cache_magic.tables.map import map_rows

    batch = map_rows(cache, frame, TEMPLATE, tell=told.append, **{**options, "batch": True, "progress": True})
    table = batch.frame()
    assert list(table["answer_error"].isna()) == [False, True, False, False]
    assert sim.completion_count == 2
    assert told == ["2 requests · 2 asked at once: batches don't take provider.sort"]


def test_map__batch_holds_its_limit(cache, sim, frame):
    """`max_cost_usd` is compared with the full price before anything is sent."""
    with pytest.raises(BudgetError, match="this table's max_cost_usd"):
        cache.map(frame, TEMPLATE, batch=True, max_cost_usd="0.000001", progress=False)
    assert [row for row in sim.requests if row.method == "POST"] == []


def test_map__dry_run_tells_what_waits_for_a_batch(cache, frame):
    """Such rows are not asked, nor priced: neither by a dry run nor by what a first look says of the rest."""
    from or_cache_magic.tables.map import map_rows

    told = []
    cache.map(frame[:1], TEMPLATE, batch=True, progress=False)
    more = pd.DataFrame({"body": ["blue", "red", "green"]})
    map_rows(cache, more, TEMPLATE, dry_run=True, tell=told.append)
    map_rows(cache, more, TEMPLATE, limit=1, tell=told.append)
    map_rows(cache, more[:2], TEMPLATE, dry_run=True, tell=told.append)
    assert told[0].startswith("would ask 2 of 3 rows · 1 other waits for a batch · $0.")
    assert "all would ask 1 more: " in told[2]
    assert told[2].endswith(" · 1 other waits for a batch")
    assert told[-1] == "would ask 0 of 2 rows · 1 other waits for a batch · nothing sent"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch": "yes"}, "batch = 'yes'"),
        ({"batch": True, "workers": 0}, "workers = 0"),
        ({"batch": True, "on_error": "raise"}, "on_error"),
    ],
)
def test_map__batch_is_checked(cache, sim, frame, options, why):
    """What can't be meant is refused before anything is sent."""
    with pytest.raises(OptionError, match=why):
        cache.map(frame, TEMPLATE, progress=False, **options)
    assert sim.requests == ()


def test_map__batch_interrupted(cache, sim, frame):
    """Amid what is asked at once beside it, an interrupt is two lines; run again, nothing is submitted twice."""

    def stop(_line):
        raise KeyboardInterrupt

    from or_cache_magic.tables.map import map_rows

    with pytest.raises(KeyboardInterrupt) as caught:
        map_rows(cache, frame, TEMPLATE, batch=True, tell=stop)
    first, second = str(caught.value).split("\n")
    assert first == "interrupted while a batch was submitted"
    assert "run it again" in second
    cache.map(frame, TEMPLATE, batch=True, progress=False)
    assert sum(row.method == "POST" for row in sim.requests) == 1


def test_map__batch_with_a_schema(cache, sim, clock):
    """Fields are columns, and what doesn't fit is kept as paid and an error of its row."""
    data = pd.DataFrame({"body": ["red", "green"]})
    options = {"schema": "name str, age int", "progress": False}
    batch = cache.map(data, TEMPLATE, batch=True, **options)
    sim.script(scenario("unfit"), match=lambda body: "green" in str(body))
    clock.now_s += BATCH_S
    table = batch.wait().frame()
    assert list(table.columns)[1:3] == ["name", "age"]
    assert table["answer_error"].isna().tolist() == [True, False]
    assert cache.totals()[0].paid_usd == sim.total_cost
