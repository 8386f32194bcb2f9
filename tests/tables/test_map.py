"""`orc.map`: a prompt for each row, the answers as columns, and what it costs."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.cache.completion import Completion
from or_cache_magic.errors import FormatError, OptionError, ReplayMiss, TemplateError, UpstreamError
from or_cache_magic.simulator import Scenario, Simulator, scenario
from or_cache_magic.tables.requests import Came, Results

OWN = ["answer_cost_usd", "answer_cached", "answer_error"]
BODIES = ["red", "green", "red", "blue"]


@pytest.fixture
def frame():
    """Four rows, two of them alike, with an index and columns of several types."""
    return pd.DataFrame(
        {
            "body": BODIES,
            "at": pd.to_datetime(["2026-01-01"] * 4, utc=True),
            "kind": pd.Categorical(list("abab")),
            "n": pd.array([1, None, 3, 4], dtype="Int64"),
        },
        index=pd.Index([7, 3, 3, 9], name="id"),
    )


def say(cache, data, template="Say {{ body }}", **options):
    """`map`, and the lines that it tells."""
    from or_cache_magic.tables.map import map_rows

    told = []
    return map_rows(cache, data, template, tell=told.append, **options), told


def test_map__adds_the_answers(cache, sim, frame):
    """Index, order and types stay; equal rows are asked once; each answer is that of `ask`."""
    before = frame.copy()
    table = cache.map(frame, "Say {{ body }}", progress=False)
    assert sim.completion_count == 3
    pd.testing.assert_frame_equal(pd.DataFrame(table[list(frame.columns)]), before)
    pd.testing.assert_frame_equal(frame, before)
    assert list(table.columns) == [*frame.columns, "answer", *OWN]
    assert list(table["answer"]) == [str(cache.ask(f"Say {body}")) for body in BODIES]
    assert sim.completion_count == 3
    assert list(table["answer_cached"]) == [False, False, True, False]
    assert list(table["answer_error"]) == [None] * 4
    paid = table.loc[~table["answer_cached"], "answer_cost_usd"].sum()
    assert math.isclose(paid, float(sim.total_cost))
    assert isinstance(table, pd.DataFrame)


def test_map__goes_on_for_free(cache, sim, frame):
    """The same again is hits; one edited row is one request, one inserted one, moved ones none."""
    cache.map(frame, "Say {{ body }}", progress=False)
    again, told = say(cache, frame.iloc[::-1])
    assert (sim.completion_count, list(again["answer_cached"])) == (3, [True] * 4)
    assert len(told) == 1
    assert told[0].startswith("4 answered, 4 cached, 0 failed, paid $0, saved $0.0")
    edited = frame.assign(body=["red", "grey", "red", "blue"])
    cache.map(pd.concat([edited, edited.assign(body="pink")]), "Say {{ body }}", progress=False)
    assert sim.completion_count == 5


def test_map__takes_its_own_result_again(cache, sim, frame):
    """What a run has added, the next run on its table replaces; what is the user's own is not."""
    once = cache.map(frame, "Say {{ body }}", progress=False)
    twice = cache.map(once, "Say it: {{ body }}", progress=False)
    assert list(twice.columns) == list(once.columns)
    assert list(twice["answer"]) == [str(cache.ask(f"Say it: {body}")) for body in BODIES]
    with pytest.raises(OptionError, match="has a column answer already"):
        cache.map(frame.assign(answer="gold"), "Say {{ body }}")
    fields = cache.map(frame.assign(mood=1), "{{ body }}", schema="mood str, tone str", progress=False)
    again = cache.map(fields, "{{ body }}", schema="mood str, tone str", progress=False)
    assert (
        list(again.columns) == list(fields.columns) == [*frame.columns, "mood", "answer_mood", "tone", *OWN]
    )
    assert list(again["mood"]) == [1] * 4
    assert sim.completion_count == 9


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table, pd.DataFrame])
def test_map__same_kind_out(cache, make):
    """A frame of any kind gives one of its kind, with the same columns in it."""
    table = cache.map(make({"body": BODIES}), lambda row: f"Say {row.body}", out="said", progress=False)
    assert isinstance(table, make if isinstance(make, type) else pa.Table)
    columns = table.to_pydict() if isinstance(table, pa.Table) else {n: list(table[n]) for n in table.columns}
    assert list(columns) == ["body", "said", "said_cost_usd", "said_cached", "said_error"]
    assert columns["said"] == [str(cache.ask(f"Say {body}")) for body in BODIES]
    assert columns["said_cached"] == [False, False, True, False]
    assert columns["said_error"] == [None] * 4


def test_map__columns_and_lists(cache, sim):
    """A Series gives a Series of its kind and index; a list, or what is gone through once, completions."""
    answers = [str(cache.ask(f"Say {body}")) for body in BODIES]
    series = cache.map(pd.Series(BODIES, index=list("wxyz")), "Say {{ row }}", out="said", progress=False)
    assert (list(series), list(series.index), series.name) == (answers, list("wxyz"), "said")
    column = cache.map(pl.Series("body", BODIES), "Say {{ row }}", progress=False)
    assert isinstance(column, pl.Series)
    assert column.to_list() == answers
    for data in (BODIES, (body for body in BODIES), [{"body": body} for body in BODIES]):
        template = (
            "Say {{ row.body }}" if isinstance(data, list) and isinstance(data[0], dict) else "Say {{ row }}"
        )
        found = cache.map(data, template, progress=False)
        assert found == answers
        assert all(isinstance(one, Completion) and one.cached for one in found)
    assert sim.completion_count == 3


@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers()), max_size=30))
@settings(max_examples=20)
def test_map__order_and_requests__law(rows):
    """Whatever the rows, each keeps its place and label, has the answer to its prompt, and each prompt is asked once."""
    with Simulator() as sim, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENROUTER_BASE_URL", sim.base_url)
        patch.setenv("OPENROUTER_API_KEY", "sk-or-v1-" + "0" * 64)
        with CompletionCache(":memory:") as cache:
            frame = pd.DataFrame({"n": [n for n, _ in rows]}, index=[label for _, label in rows])
            model = "openai/gpt-4o-mini"
            table = cache.map(frame, "Count to {{ n }}", model=model, progress=False)
            assert sim.completion_count == len({n for n, _ in rows})
            assert list(table.index) == [label for _, label in rows]
            assert list(table["answer"]) == [str(cache.ask(f"Count to {n}", model=model)) for n, _ in rows]
            assert sum(~table["answer_cached"].astype(bool)) == sim.completion_count


def test_map__fields_are_columns(cache, sim, frame):
    """With a schema each field is a column of its own type; a list of texts is one column; so is a class."""
    table = cache.map(frame, "{{ body }}", schema="mood str, stars int", progress=False)
    assert list(table.columns)[-5:] == ["mood", "stars", *OWN]
    assert table["stars"].dtype == "int64"
    asked = cache.ask("red", schema="mood str, stars int")
    assert (table["mood"].iloc[0], table["stars"].iloc[0]) == (asked.data["mood"], asked.data["stars"])
    lists = cache.map(frame, "{{ body }}", schema=list[str], progress=False)
    assert lists["answer"].iloc[0] == cache.ask("red", schema=list[str]).data


NUMBERS = {"0": '{"v": 1}', "1": '{"v": 2.5}', "2": '{"v": 9007199254740993}', "3": '{"v": "no number"}'}


@pytest.mark.parametrize(
    ("schema", "rows", "pandas_dtype", "polars_dtype", "values"),
    [
        ("v float", "01", "float64", pl.Float64, [1.0, 2.5]),
        ("v float", "10", "float64", pl.Float64, [2.5, 1.0]),
        ("v float", "0", "float64", pl.Float64, [1.0]),
        ("v int", "02", "int64", pl.Int64, [1, 9007199254740993]),
        ("v int", "23", "Int64", pl.Int64, [9007199254740993, None]),
        ("v int", "3", "Int64", pl.Int64, [None]),
    ],
)
def test_map__types_are_the_schemas(cache, sim, schema, rows, pandas_dtype, polars_dtype, values):
    """Whatever the other rows hold: a row that fails makes no float of a whole number, and no text of one."""
    for row, text in NUMBERS.items():
        sim.script(Scenario("plain", text=text), times=9, match=of(f"r{row}"))
    bodies = [f"r{row}" for row in rows]
    for data in (pd.DataFrame({"body": bodies}), pl.DataFrame({"body": bodies})):
        table = cache.map(data, "{{ body }}", schema=schema, progress=False)
        found = table["v"]
        assert found.dtype == (pandas_dtype if isinstance(data, pd.DataFrame) else polars_dtype)
        assert [None if value is pd.NA else value for value in found.to_list()] == values


def test_map__one_bad_row_alone(cache, sim, frame):
    """A missing cell, a refused row, a cut one: each has its error and what it cost, and the others are there."""
    missing = frame.assign(body=["red", None, "red", float("nan")])
    table, told = say(cache, missing)
    assert sim.completion_count == 1
    assert list(table["answer_cost_usd"])[1::2] == [0, 0]
    assert list(table["answer_error"])[1::2] == ["{{ body }}: the cell is empty; nothing was sent"] * 2
    assert told[-1].startswith("2 answered, 1 cached, 2 failed, paid $0.0")
    table = cache.map(frame, lambda row: 1 / 0 if row.body == "red" else row["body"], progress=False)
    failed = "the function failed: ZeroDivisionError: division by zero (nothing was sent)"
    assert list(table["answer_error"]) == [failed, None, failed, None]
    assert list(table["answer"].isna()) == [True, False, True, False]


def test_map__ends_when_interrupted_as_a_worker_begins(cache, frame, monkeypatch):
    """A thread whose beginning was interrupted runs all the same, and is ended with the others."""
    start, begun = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        if thread.name.startswith("or-cache-pool"):
            begun.append(thread)
            if len(begun) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.map(frame, "Say {{ body }}", progress=False)
    for thread in begun:
        thread.join(60)
        assert not thread.is_alive()


def test_map__shows_no_key_that_a_function_failed_with(cache, frame):
    """The user's own error is told without what looks like a key."""

    def prompt(_row):
        raise ValueError("refused: Bearer sk-or-v1-simulator")

    table = cache.map(frame, prompt, progress=False)
    assert set(table["answer_error"]) == {
        "the function failed: ValueError: refused: Bearer sk-… (nothing was sent)"
    }


def of(text):
    """Which requests a behaviour is for: those whose prompt has this text."""
    return lambda body: text in body["messages"][-1]["content"]


def test_map__errors_and_what_they_cost(cache, sim):
    """Refused, cut, broken off and unfit rows: each error in its row with its cost, asked once; the others are there."""
    sim.script(scenario("moderated"), match=of("r0"))
    sim.script(scenario("content_filter"), match=of("r1"))
    sim.script(scenario("broken_off"), match=of("r2"))
    sim.script(scenario("unfit", stubborn=True), match=of("r3"))
    frame = pd.DataFrame({"body": [f"r{n}" for n in range(10)]})
    table, told = say(cache, frame, "{{ body }}", schema="mood str", stream=True)
    assert sim.completion_count == 10
    assert list(table["answer_error"].notna()) == [True] * 4 + [False] * 6
    assert list(table["mood"].isna()) == [True] * 4 + [False] * 6
    assert all("\n" not in error for error in table["answer_error"][:4])
    assert table["answer_cost_usd"].iloc[3] > 0
    assert math.isclose(table["answer_cost_usd"].sum(), float(sim.total_cost))
    assert told[-1].startswith("6 answered, 0 cached, 4 failed, paid ≥ $")
    assert "the first that failed" in told[-1]


def test_map__stops_where_all_is_refused(cache, sim):
    """Once the key is refused no other row is sent; what is stored is served all the same."""
    cache.map(["a", "b"], "Say {{ row }}", progress=False)
    sim.script(scenario("unauthorized"), times=99)
    found, told = say(cache, ["a", *"cdefghijklmnopqrstuvw", "b"], "Say {{ row }}", workers=2)
    assert [one is None for one in found] == [False, *[True] * 21, False]
    assert sim.completion_count <= 2 + 2
    assert told[-1].startswith("2 answered, 2 cached, 21 failed")


def test_map__raises_when_asked_to(cache, sim):
    """With on_error="raise" the first failure is raised, after what was under way is kept; nothing more is sent."""
    sim.script(scenario("moderated"), match=of("r3"))
    frame = pd.DataFrame({"body": [f"r{n}" for n in range(30)]})
    with pytest.raises(UpstreamError, match=r"^row 3: .*rows were answered, and are kept") as caught:
        cache.map(frame, "Say {{ body }}", on_error="raise", workers=2, progress=False)
    table = caught.value.table
    asked = sim.completion_count
    assert 4 <= asked <= 6
    assert table["answer"].notna().sum() == asked - 1
    assert (table["answer_error"] == "not asked").sum() == 30 - asked
    assert cache.totals()[0].calls == asked


def test_map__raises_a_misfit(cache, sim):
    """An answer that doesn't fit is a failure too, though it is none of the call's."""
    sim.script(scenario("unfit", stubborn=True))
    with pytest.raises(FormatError, match=r"^row 0: "):
        cache.map(["a"], "Say {{ row }}", schema="mood str", on_error="raise", progress=False)


def test_map__holds_its_budget(cache, sim):
    """All together cost no more than `max_cost_usd`, however many are under way, and what is left is used."""
    rows = [f"row {n}" for n in range(60)]
    one = Decimal(str(cache.money.estimate(cache.prepare("Say row 10", {"max_tokens": 50})[1]).high_usd))
    limit = one * 8
    found, told = say(cache, rows, "Say {{ row }}", max_cost_usd=limit, max_tokens=50, workers=16)
    answered = sum(answer is not None for answer in found)
    paid = sim.total_cost
    assert paid <= limit
    # A row alone would still have gone in, had the room been there when all had been settled.
    assert paid + one > limit
    assert answered == sim.completion_count
    assert "max_cost_usd" in told[-1]
    again = cache.map(rows, "Say {{ row }}", max_tokens=50, progress=False)
    assert all(again)
    assert sim.completion_count == 60


def test_map__a_repair_that_fails_cost_what_came_before(cache, sim):
    """A row whose second ask is refused cost what the first did, in its row and in the sum."""
    sim.script(scenario("unfit", stubborn=True))
    sim.script(scenario("moderated"))
    frame = pd.DataFrame({"body": ["red"]})
    table, told = say(cache, frame, "{{ body }}", schema="mood str", repair=1)
    assert sim.completion_count == 2
    assert "moderation" in table["answer_error"].iloc[0]
    assert table["answer_cost_usd"].iloc[0] == float(sim.total_cost) > 0
    assert "paid $0.0" in told[-1]


def test_map__holds_the_session_s_budget(open_cache, sim):
    """A session's limit stops it too; what was bought is kept, and the next session goes on."""
    rows = [f"row {n}" for n in range(30)]
    with open_cache(sim) as cache:
        most = cache.money.estimate(cache.prepare("Say row 10", {"max_tokens": 50}).request).high_usd * 4
    with open_cache(sim, max_cost_usd=most) as cache:
        found = cache.map(rows, "Say {{ row }}", max_tokens=50, workers=16, progress=False)
        asked = sim.completion_count
        assert 0 < sum(one is not None for one in found) == asked < 30
        assert sim.total_cost <= most
    with open_cache(sim) as cache:
        assert all(cache.map(rows, "Say {{ row }}", max_tokens=50, progress=False))
    assert sim.completion_count == 30


def test_map__says_the_bill_first(cache, sim, frame):
    """Before the first request: how many are new, and the range that they cost; it holds what they do cost."""
    cache.map(["red"], "Say {{ row }}", progress=False)
    _, told = say(cache, frame)
    bill, summary = told
    assert bill.startswith("4 rows, 2 to ask · $0.000")
    assert " to $0.0" in bill
    assert summary.startswith("4 answered, 2 cached, 0 failed, paid $0.0")
    _, told = say(cache, frame, temperature=1)
    assert "the answers are not kept: " in told[0]


def test_map__first_look(cache, sim):
    """With limit= only the first rows are asked, and it says what all would cost; nothing else is asked."""
    frame = pd.DataFrame({"n": range(5005)})
    table, told = say(cache, frame, "Count to {{ n }}", limit=5)
    assert sim.completion_count == 5
    assert list(table["n"]) == [0, 1, 2, 3, 4]
    line = next(line for line in told if line.startswith("the first 5 of 5,005 rows"))
    assert "all would ask about 5,000 more: about $0" in line
    cache.map(frame.head(20), "Count to {{ n }}", progress=False)
    few, told = say(cache, frame.head(20), "Count to {{ n }}", limit=3)
    assert (len(few), told[0]) == (3, "the first 3 of 20 rows · the others are cached")


def test_map__interrupted(cache, sim):
    """Two lines, the table as far as it came with the error, and running again asks only for the rest."""
    rows = pd.Series([f"row {n}" for n in range(12)])
    cache.map(rows[:4], "Say {{ row }}", progress=False)
    done = threading.Event()
    with sim.hold():
        main = threading.main_thread()

        def stop():
            sim.wait_for(lambda requests: sum(r.is_completion for r in requests) >= 6)
            signal.pthread_kill(main.ident, signal.SIGINT)
            done.set()

        threading.Thread(target=stop).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            cache.map(rows, "Say {{ row }}", workers=2, progress=False)
        done.wait()
    first, second = str(caught.value).split("\n")
    assert first == "4 of 12 rows were answered, paid ≥ $0"
    assert second.strip().startswith("they are in the error's .table; run it again")
    assert "only the rest is asked" in second
    table = caught.value.table
    assert list(table.notna()) == [True] * 4 + [False] * 8
    again = cache.map(rows, "Say {{ row }}", progress=False)
    assert list(again.notna()) == [True] * 12


def test_amap__is_map_beside_the_loop(cache, sim, frame):
    """The event loop goes on meanwhile; cancelling ends what is under way, and leaves the table so far."""

    async def ask():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        table = await cache.amap(frame, "Say {{ body }}", progress=False)
        ticking.cancel()
        return table, ticks

    table, ticks = asyncio.run(ask())
    assert list(table["answer"]) == [str(cache.ask(f"Say {body}")) for body in BODIES]
    assert ticks > 1

    async def ask_until_cancelled():
        # Where it is awaited: before Python 3.11 a task that is cancelled tells others by a new exception.
        with pytest.raises(asyncio.CancelledError) as caught:
            await cache.amap(BODIES, "Shout {{ row }}", progress=False, workers=1)
        return caught.value.table

    async def cancelled():
        with sim.hold():
            task = asyncio.ensure_future(ask_until_cancelled())
            await asyncio.to_thread(sim.wait_for, lambda requests: len(requests) > 3)
            task.cancel()
            return await task

    assert asyncio.run(cancelled()) == [None] * 4


@pytest.mark.parametrize(
    "make",
    [
        lambda cells: pd.DataFrame({"x": pd.Series(cells, dtype="float32")}),
        lambda cells: pd.Series(cells, dtype="float32"),
        lambda cells: pl.DataFrame({"x": cells}, schema={"x": pl.Float32}),
        lambda cells: pl.Series(cells, dtype=pl.Float32),
        lambda cells: pa.table({"x": pa.array(cells, pa.float32())}),
    ],
)
@pytest.mark.parametrize("template", ["Say {{ %s }}", lambda row: f"Say {getattr(row, 'x', row)}"])
def test_map__floats_of_32_bits_are_asked_as_they_are_shown(cache, sim, make, template):
    """A prompt has 0.1, also one that a function makes, and it is one request whichever library has it."""
    data = make([0.1])
    name = "x" if hasattr(data, "columns") else "row"
    cache.map(data, template % name if isinstance(template, str) else template, progress=False)
    assert sim.requests[-1].body["messages"][-1]["content"] == "Say 0.1"


def test_map__missing_numbers_in_a_list_are_not_sent(cache, sim):
    """Not-a-number of any kind is an empty cell."""
    import numpy as np

    rows = [np.float32("nan"), Decimal("NaN"), np.datetime64("NaT"), pd.NA, math.nan, None]
    assert cache.map(rows, "Say {{ row }}", progress=False) == [None] * 6
    assert sim.requests == ()


@pytest.mark.parametrize("batch", [False, True])
def test_map__offline_with_rows_that_are_not_stored(cache, sim, frame, batch):
    """The table is made whole, and then a miss of two lines stops a notebook that is run by a program."""
    cache.ask("Say red")
    with pytest.raises(ReplayMiss) as caught:
        cache.map(frame, "Say {{ body }}", mode="offline", progress=False, batch=batch)
    message, hint = str(caught.value).split("\n")
    assert message.startswith("offline, and 2 of 4 rows are not stored")
    assert "(nothing was sent; the table is in the error's .table); the first asks 'Say green'" in message
    assert "without --offline" in hint
    table = caught.value.table
    assert list(table["answer"].notna()) == [True, False, True, False]
    assert all("offline" in table["answer_error"].iloc[at] for at in (1, 3))
    assert (
        list(cache.map(frame[::2], "Say {{ body }}", mode="offline", progress=False)["answer_error"])
        == [None] * 2
    )
    assert sim.completion_count == 1


def test_results__name_the_first_miss():
    """Whichever row is known first to have no answer."""
    results = Results()
    for number in (results.add("a"), results.add("b")):
        results.add_row(number)
    for number in (1, 0):
        miss = ReplayMiss("offline", prompt=f"Say {number}")
        results.put(Came(number, "failed", Decimal(0), error="offline", failure=miss))
    assert "the first asks 'Say 0'" in str(results.not_stored(None))


def test_map__templates_are_read_before(cache, sim, frame):
    """A column that isn't there, a template that names none, a slip of an argument: nothing is sent."""
    with pytest.raises(TemplateError, match="there is no column 'bdy'"):
        cache.map(frame, "Say {{ bdy }}")
    with pytest.raises(TemplateError, match="there is no column 'bdy'"):
        cache.map(frame, "Say {{ row.bdy }}")
    with pytest.raises(OptionError, match="names no column") as caught:
        cache.map(frame, "Say {body}")
    assert "{{ body }} with two braces" in caught.value.hint
    for options in ({"temprature": 1}, {"workers": 0}, {"on_error": "skip"}, {"limit": 0}, {"out": ""}):
        with pytest.raises(OptionError):
            cache.map(frame, "Say {{ body }}", **options)
    with pytest.raises(OptionError, match="lazy table"):
        cache.map(pl.LazyFrame({"body": BODIES}), "Say {{ body }}")
    with pytest.raises(OptionError, match="has no rows"):
        cache.map("red", "Say {{ row }}")
    with pytest.raises(OptionError, match="two columns are called 'a'"):
        cache.map(pd.DataFrame([[1, 2]], columns=["a", "a"]), "{{ a }}")
    assert sim.requests == ()


def test_map__no_rows(cache, sim):
    """An empty table gets its columns, of their types."""
    table = cache.map(pd.DataFrame({"body": []}), "Say {{ body }}", progress=False)
    assert list(table.columns) == ["body", "answer", *OWN]
    assert [str(table[name].dtype) for name in ("answer", *OWN)] == ["object", "float64", "bool", "object"]
    assert cache.map([], "Say {{ row }}", progress=False) == []
    assert sim.requests == ()


def test_map__shows_itself(cache, frame):
    """In a notebook it is a table of ours with the summary below; what is made of it is a plain one."""
    table, told = say(cache, frame)
    shown = table._repr_mimebundle_()
    assert told[-1] in shown["text/plain"]
    assert "4 answered, 1 cached, 0 failed" in shown["text/html"]
    assert "<td" in shown["text/html"]
    assert type(table.head(2)) is pd.DataFrame
    assert type(table.assign(x=1)) is pd.DataFrame
