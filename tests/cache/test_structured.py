"""Answers with a schema: checked before they are stored, given as values, and asked again when they don't fit."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import dataclass
from typing import Literal

import pydantic
import pytest

from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.policy import NO_JSON
from or_cache_magic.core.records import Answer
from or_cache_magic.errors import BudgetError, CacheMissError, FormatError, OptionError, UpstreamError
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.simulator import Scenario, scenario

PROMPT = "The novel Dune appeared in 1965."
GOOD = '{"title": "Dune", "year": 1965}'


@dataclass
class Book:
    title: str
    year: int


@dataclass
class Novel:
    title: str
    year: int


class Old(pydantic.BaseModel):
    title: str
    year: int

    @pydantic.field_validator("year")
    @classmethod
    def _before(cls, year):
        if year > 1900:
            raise ValueError("it is too new")
        return year


class New(Old):
    @pydantic.field_validator("year")
    @classmethod
    def _before(cls, year):
        return year


New.__name__ = "Old"  # the same schema as its parent: it tells the model the same
New.__doc__ = Old.__doc__

SHORT = "title str, year int"


def unfit(sim, how="wrong_type", times=1, **options):
    sim.script(scenario("unfit", how=how, **options), times=times)


def kinds(cache):
    """The kinds of the asks in the ledger, the first first."""
    return [row.kind for row in reversed(cache.ledger.rows())]


# -- the value --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (SHORT, {"title": "Dune", "year": 1965}),
        (Book, Book("Dune", 1965)),
        (f"[{{{SHORT}}}]", [{"title": "Dune", "year": 1965}] * 3),
        (list[Book], [Book("Dune", 1965)] * 3),
        (New, New(title="Dune", year=1965)),
        ({"type": "object", "properties": {"year": {"type": "integer"}}}, {"year": 1965}),
    ],
    ids=str,
)
def test_ask__gives_the_value_bought_or_cached(cache, sim, schema, value):
    """What goes out is strict, what comes back is of the form that was asked for; the text is the model's own."""
    bought, cached = (cache.ask(PROMPT, schema=schema) for _ in range(2))
    assert bought.data == cached.data == value
    assert type(cached.data) is type(value)
    assert (bought.cached, cached.cached, sim.completion_count) == (False, True, 1)
    form = sim.requests[-1].body["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert bought.outcome.stored


def test_ask__gives_a_fenced_value(cache, sim):
    """Some models put it into a fence, with words around it: what it says is what was asked for."""
    unfit(sim, "fenced")
    answer = cache.ask(PROMPT, schema=Book)
    assert "```" in answer
    assert answer.data == Book("Dune", 1965)
    assert cache.ask(PROMPT, schema=Book).cached


def test_ask__reads_a_schema_from_a_file(cache, tmp_path, monkeypatch):
    """``@file`` as in a cell: read each time, from the working directory; one that can't be is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("title str, year int", encoding="utf-8")
    answer = cache.ask(PROMPT, schema="@book.txt")
    assert answer.data.keys() == {"title", "year"}
    assert cache.ask(PROMPT, schema="title str, year int").cached
    (tmp_path / "book.txt").write_text("title str", encoding="utf-8")
    assert cache.ask(PROMPT, schema="@book.txt").data.keys() == {"title"}
    with pytest.raises(OptionError, match=r"@nope.txt can't be read.*nothing was sent"):
        cache.ask(PROMPT, schema="@nope.txt")


def test_aask__gives_the_value(cache):
    """As `ask` does."""
    assert asyncio.run(cache.aask(PROMPT, schema=Book)).data == Book("Dune", 1965)
    assert cache.ask(PROMPT, schema=Book).cached


def test_completion__keeps_its_schema_when_pickled(cache):
    """A pool's worker gives the value back."""
    answer = pickle.loads(pickle.dumps(cache.ask(PROMPT, schema=list[Book])))
    assert answer.data == [Book("Dune", 1965)] * 3


def test_ask__keeps_apart_what_the_model_is_told(cache, sim):
    """Another name or another order is another request."""
    for schema in (SHORT, Book, Novel, "year int, title str", f"{SHORT} 'printed'"):
        assert not cache.ask(PROMPT, schema=schema).cached
    assert sim.completion_count == 5


# -- an answer that doesn't fit ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("prose", "the answer is not the JSON that was asked for (Expecting value"),
        ("missing", "the answer does not fit its JSON schema ('title' is a required property"),
        ("wrong_type", "the answer does not fit its JSON schema (title: ['unknown'] is not of type 'string'"),
        ("extra", "the answer does not fit its JSON schema (Additional properties are not allowed"),
    ],
)
def test_ask__gives_what_does_not_fit_and_serves_it_to_nobody(cache, sim, how, why):
    """It was paid for: it is kept, said to be unfit with the place, and its value is an error in two lines."""
    unfit(sim, how, times=2)
    answer = cache.ask(PROMPT, schema=Book)
    assert answer
    assert answer.outcome.not_stored.startswith(why)
    with pytest.raises(FormatError) as caught:
        answer.data  # noqa: B018
    assert str(caught.value).startswith(why)
    assert "(it is paid for, and not stored)" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    (kept,) = cache.store.unserved(answer.key)
    assert (kept.answer.text, kept.reason) == (answer, answer.outcome.not_stored)
    assert not cache.ask(PROMPT, schema=Book).cached
    assert sim.completion_count == 2


def test_ask__checks_a_class_before_it_stores(cache, sim):
    """An answer that fits the JSON schema, and not what the class checks, is as unfit as another."""
    answer = cache.ask(PROMPT, schema=Old)
    assert answer.outcome.not_stored == "the answer does not fit Old (year: Value error, it is too new)"
    with pytest.raises(FormatError, match="it is too new"):
        answer.data  # noqa: B018
    assert not cache.ask(PROMPT, schema=Old).cached
    assert cache.ask(PROMPT, schema=New).outcome.stored  # another class has other checks


def test_ask__shows_a_class_no_answer_that_it_refuses(cache, sim):
    """Two classes of one schema share an entry; one that refuses it gets an error, and the text."""
    assert cache.ask(PROMPT, schema=New).outcome.stored
    answer = cache.ask(PROMPT, schema=Old)
    assert answer.cached
    with pytest.raises(FormatError, match=r"does not fit Old .*it is too new.* running again is free"):
        answer.data  # noqa: B018
    assert cache.ask(PROMPT, schema=New).data == New(title="Dune", year=1965)
    assert sim.completion_count == 1


def test_ask__survives_a_class_that_raises_anything(cache, sim):
    """Between the last byte and the ledger nothing of the user's may lose what was paid."""

    @dataclass
    class Wild:
        title: str
        year: int

        def __post_init__(self):
            raise SystemError

    Wild.__annotations__ = {"title": str, "year": int}
    answer = cache.ask(PROMPT, schema=Wild)
    assert answer.outcome.not_stored == "the answer does not fit Wild (SystemError)"
    assert answer.paid_usd == sim.total_cost == cache.totals()[0].paid_usd > 0


@pytest.mark.parametrize("raised", [KeyboardInterrupt, GeneratorExit, SystemExit, RuntimeError])
@pytest.mark.parametrize("mode", ["normal", "refresh", "bypass"])
def test_ask__keeps_an_answer_whose_check_was_broken_off(cache, sim, raised, mode):
    """Ctrl-C in a slow validator: the answer is paid for, so it is accounted, and kept as far as it may be.

    A validator that leaves Python refuses the answer, as one that fails does.
    """

    class Slow(type):
        """Its instances break off wherever they are asked what they are."""

        def __instancecheck__(cls, other):
            return False

        def __call__(cls, **_):
            raise raised

    @dataclass
    class Interrupted(metaclass=Slow):
        title: str
        year: int

    Interrupted.__annotations__ = {"title": str, "year": int}
    asked = {"schema": Interrupted, "mode": mode}
    is_refusal = raised in (RuntimeError, SystemExit)
    if is_refusal:
        with pytest.raises(FormatError, match=rf"does not fit Interrupted \({raised.__name__}"):
            cache.ask(PROMPT, **asked).data  # noqa: B018
    else:
        with pytest.raises(raised) as caught:
            cache.ask(PROMPT, **asked)
        if raised is KeyboardInterrupt:
            assert "whole answer had arrived" in str(caught.value)
    assert sim.completion_count == len(kinds(cache)) == 1
    assert kinds(cache) == [{"normal": "miss"}.get(mode, mode)]
    assert cache.totals()[0].paid_usd == sim.total_cost > 0
    if mode != "bypass" and not is_refusal:
        Interrupted.__class__.__call__ = type.__call__
        again = cache.ask(PROMPT, schema=Interrupted)
        assert (again.cached, again.data, sim.completion_count) == (True, Interrupted("Dune", 1965), 1)


def test_ask__keeps_an_answer_whose_schema_could_not_be_checked(cache, sim, monkeypatch):
    """Nobody knows whether it fits: it is history, and served to nobody."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("or_cache_magic.core.json_schema.problem", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.ask(PROMPT, schema=SHORT)
    ((key,),) = cache.database.select("SELECT key FROM or_unserved")
    (kept,) = cache.store.unserved(key)
    assert "Dune" in kept.answer.text
    assert "broken off" in kept.reason
    assert (kinds(cache), cache.totals()[0].paid_usd) == (["miss"], sim.total_cost)
    assert not cache.ask(PROMPT, schema=SHORT).cached


def test_ask__counts_a_broken_check_against_its_budget(cache, sim):
    """What was charged before the interrupt counts."""

    class Stops(pydantic.BaseModel):
        title: str
        year: int

        @pydantic.field_validator("year")
        @classmethod
        def _stop(cls, _):
            raise KeyboardInterrupt

    paid = []
    ask = cache.prepare(PROMPT, {"schema": Stops})
    with pytest.raises(KeyboardInterrupt):
        cache.run(ask, Callbacks(on_cost=paid.append))
    assert [cost.usd for cost in paid] == [sim.total_cost]


@pytest.mark.parametrize(
    "schema", [int | None, "{name str, year int}?", "int?", "[str]?", Literal["a"] | None]
)
def test_ask__gives_null_as_none(cache, sim, schema):
    """The value that was asked for, not the object around it; bought, cached and pickled."""
    form = cache.prepare("x", {"schema": schema}).request.body["response_format"]["json_schema"]["schema"]
    (name,) = form["properties"]
    sim.script(Scenario("plain", text=json.dumps({name: None})))
    answers = [cache.ask("x", schema=schema) for _ in range(2)]
    answers.append(pickle.loads(pickle.dumps(answers[1])))
    assert [answer.data for answer in answers * 2] == [None] * 6
    assert answers[1].cached


def test_ask__checks_the_value_of_what_is_not_stored(cache, sim):
    """Past the cache as well: no value is given that doesn't fit."""
    unfit(sim, "missing")
    answer = cache.ask(PROMPT, schema=SHORT, mode="bypass")
    with pytest.raises(FormatError, match="'title' is a required property"):
        answer.data  # noqa: B018
    assert cache.ask(PROMPT, schema=SHORT, mode="bypass").data == {"title": "Dune", "year": 1965}


# -- asked again ------------------------------------------------------------------------------


def test_ask__repairs_by_saying_what_is_wrong(cache, sim):
    """The answer and what is wrong with it go back as a conversation; both asks are accounted."""
    unfit(sim)
    answer = cache.ask(PROMPT, schema=Book, repair=2)
    assert answer.data == Book("Dune", 1965)
    first, second = (row.body for row in sim.requests if row.is_completion)
    asked, said, told = second["messages"]
    assert asked == first["messages"][0]
    assert (said["role"], told["role"]) == ("assistant", "user")
    assert "title: ['unknown'] is not of type 'string'" in told["content"]
    assert second["response_format"] == first["response_format"]
    assert kinds(cache) == ["miss", "miss"]
    assert answer.paid_usd == sim.total_cost == cache.totals()[0].paid_usd > answer.cost_usd
    assert answer.outcome.notes == ("1 answer before did not fit",)
    assert answer.messages[:3] == second["messages"]
    assert len(answer.messages) == 4


@pytest.mark.parametrize("how", ["prose", "missing", "wrong_type", "extra"])
def test_ask__reruns_a_repair_for_nothing(open_cache, sim, how):
    """Another kernel, with no key and no network: the chain is found, and its end served."""
    unfit(sim, how)
    with open_cache(sim) as first:
        bought = first.ask(PROMPT, schema=Book, repair=2)
    later = open_cache(sim, api_key=None)
    again = later.ask(PROMPT, schema=Book, repair=2)
    assert (again, again.data, again.key) == (bought, bought.data, bought.key)
    assert again.cached
    assert later.ask(PROMPT, schema=Book, repair=1, mode="offline").data == bought.data
    assert sim.completion_count == 2


def test_ask__goes_as_far_as_it_is_told(cache, sim):
    """What never fits is asked so many times more; the last is given, and all is paid once."""
    unfit(sim, times=9, stubborn=True)
    answer = cache.ask(PROMPT, schema=Book, repair=2)
    assert sim.completion_count == 3
    assert "does not fit" in answer.outcome.not_stored
    assert answer.outcome.notes == ("2 answers before did not fit",)
    assert answer.paid_usd == sim.total_cost
    with pytest.raises(FormatError, match=r"--repair 2 is used up.*running again asks nothing") as caught:
        answer.data  # noqa: B018
    assert "--repair 3 (repair=3) asks once more" in caught.value.hint


@pytest.mark.parametrize("first", [{}, {"schema": New}])
def test_ask__asks_nothing_more_where_its_repairs_are_used_up(cache, sim, first):
    """A rerun gives the kept answer, and its error; more repairs go on from it, and refresh begins anew."""
    from or_cache_magic.tables.warm import warm  # imports pandas

    schema = Old if first else Book
    if first:
        cache.ask(PROMPT, **first)
    else:
        unfit(sim, times=9, stubborn=True)
    bought = cache.ask(PROMPT, schema=schema, repair=2)
    rows = len(kinds(cache))
    for repair in (2, 1, 2):
        again = cache.ask(PROMPT, schema=schema, repair=repair)
        assert (again.outcome.kind, again.cached, again.paid_usd) == ("kept", False, 0)
        assert f"{repair} answer" in str(again.outcome.notes)
        with pytest.raises(FormatError, match=f"--repair {repair} is used up"):
            again.data  # noqa: B018
    assert (again, again.key) == (bought, bought.key)
    assert asyncio.run(cache.aask(PROMPT, schema=schema, repair=2)) == bought
    assert cache.ask(PROMPT, schema=schema, repair=2, mode="offline") == bought
    assert sim.completion_count == 3
    if not first:
        assert cache.peek(cache.prepare(PROMPT, {"schema": schema, "repair": 2})) == (None, "")
        assert len(kinds(cache)) == rows == 3
    assert cache.totals()[0].paid_usd == sim.total_cost
    frame = warm(cache, [PROMPT], schema=schema, repair=2, progress=False)
    assert list(frame["kind"]) == ["kept"]
    assert "does not fit" in frame["error"].iloc[0]
    cache.ask(PROMPT, schema=schema, repair=3)
    assert sim.completion_count == 4
    cache.ask(PROMPT, schema=schema, repair=1, mode="refresh")
    assert sim.completion_count == 6


def test_arun__repairs_share_the_limits_of_others(cache, sim):
    """What other asks may cost together holds for a task's repairs too: the second would go over it."""
    unfit(sim)
    ask = cache.prepare(PROMPT, {"schema": Book, "repair": 1, "max_tokens": 50})
    most = cache.money.estimate(ask.request).high_usd
    limits = [Limit("all of them", most, BudgetTracker())]
    with pytest.raises(BudgetError, match="all of them"):
        asyncio.run(cache.arun(ask, limits=limits))
    assert sim.completion_count == 1


def test_ask__builds_on_what_did_not_fit_before(cache, sim):
    """Whoever adds repair to a cell that failed does not pay for its first answer again."""
    unfit(sim)
    cache.ask(PROMPT, schema=Book)
    assert cache.ask(PROMPT, schema=Book, repair=1).data == Book("Dune", 1965)
    assert sim.completion_count == 2


def test_ask__without_repair_asks_the_first_again(cache, sim):
    """A repaired answer is of another request: it is served to none that did not ask for it."""
    unfit(sim)
    cache.ask(PROMPT, schema=Book, repair=1)
    assert not cache.ask(PROMPT, schema=Book).cached
    assert sim.completion_count == 3


def test_ask__refreshes_the_first(cache, sim, clock):
    """Asked again is the first; from then on its newest answer counts, repaired or not."""
    unfit(sim, "missing")
    cache.ask(PROMPT, schema=Book, repair=1)
    clock.now_s += 1
    fresh = cache.ask(PROMPT, schema=Book, repair=1, mode="refresh")
    assert (fresh.outcome.kind, sim.completion_count) == ("refresh", 3)
    clock.now_s += 1
    assert cache.ask(PROMPT, schema=Book, repair=1).key == fresh.key

    unfit(sim, "extra")
    repaired = cache.ask(PROMPT, schema=Book, repair=1, mode="refresh")
    assert repaired.key != fresh.key
    clock.now_s += 1
    again = cache.ask(PROMPT, schema=Book, repair=1)
    assert (again.key, again.cached) == (repaired.key, True)
    assert sim.completion_count == 5


def test_ask__goes_back_to_what_is_stored_when_a_repair_failed(cache, sim, clock):
    """A refresh that never came to an answer that fits leaves the one before in its place."""
    good = cache.ask(PROMPT, schema=Book, repair=1)
    clock.now_s += 1
    unfit(sim)
    sim.script(scenario("insufficient_credits"))
    with pytest.raises(UpstreamError):
        cache.ask(PROMPT, schema=Book, repair=1, mode="refresh")
    assert cache.ask(PROMPT, schema=Book, repair=1).key == good.key
    assert sim.completion_count == 3


def test_ask__builds_on_nothing_that_is_too_old(cache, sim, clock):
    """What may be asked anew tomorrow is asked anew from its beginning."""
    unfit(sim)
    cache.ask(PROMPT, schema=Book, repair=1, ttl="1h")
    clock.now_s += 3601
    assert cache.ask(PROMPT, schema=Book, repair=1, ttl="1h").data == Book("Dune", 1965)
    last = [row.body["messages"] for row in sim.requests if row.is_completion][-1]
    assert len(last) == 1


def test_ask__repairs_for_a_class_that_refuses_what_is_stored(cache, sim):
    """A stored answer that another class took is not asked for again, but told what is wrong with it."""
    cache.ask(PROMPT, schema=New)
    answer = cache.ask(PROMPT, schema=Old, repair=1)
    assert sim.completion_count == 2
    assert "does not fit Old" in answer.outcome.not_stored
    (told,) = [row.body["messages"][-1]["content"] for row in sim.requests if row.is_completion][1:]
    assert "year: Value error, it is too new" in told


def test_ask__reruns_what_it_built_on_a_stored_answer(cache, sim):
    """The chain is found behind an answer that is stored too, as far as it went, and goes on from its end."""
    cache.ask(PROMPT, schema=New)
    cache.ask(PROMPT, schema=Old, repair=2)
    assert sim.completion_count == 3
    cache.ask(PROMPT, schema=Old, repair=3)
    assert sim.completion_count == 4


def test_ask__tells_of_each_that_it_asks_again(cache, sim):
    """Whoever waits is told why it takes longer, by `ask` and `aask` alike."""
    for ask in (cache.ask, lambda *given, **options: asyncio.run(cache.aask(*given, **options))):
        sim.script(scenario("unfit", how="missing", stubborn=True), times=2)
        told = []
        ask(PROMPT, schema=Book, repair=3, mode="bypass", on_wait=told.append)
        assert [line.rpartition(": ")[2] for line in told] == [
            "asking again (1 of 3)",
            "asking again (2 of 3)",
        ]
        assert "'title' is a required property" in told[0]


@pytest.mark.parametrize(
    ("texts", "repair", "asked"),
    [
        (["bad", "", GOOD], 3, 3),
        (["", GOOD], 1, 2),
        (["", "bad", "", GOOD], 3, 4),
        (["bad", "", "", ""], 2, 3),
        (["", ""], 1, 2),
        ([""], 0, 1),
    ],
    ids=str,
)
def test_ask__repairs_past_an_answer_that_says_nothing(open_cache, sim, texts, repair, asked):
    """It is asked anew as it was, as one of the repairs; where it stays empty no error promises what is not so."""
    for text in texts:
        sim.script(Scenario("plain", text=text))
    cache = open_cache(sim)
    answer = cache.ask(PROMPT, schema=Book, repair=repair)
    assert sim.completion_count == len(kinds(cache)) == asked
    assert answer.paid_usd == sim.total_cost
    if GOOD in texts:
        assert answer.data == Book("Dune", 1965)
        sim.clear()
        assert open_cache(sim).ask(PROMPT, schema=Book, repair=repair).data == answer.data
        assert sim.requests == ()
        return
    with pytest.raises(FormatError, match="the answer is empty, and fits no schema") as caught:
        answer.data  # noqa: B018
    assert "used up" not in str(caught.value)
    assert caught.value.hint.startswith("run it again; ")


def test_ask__lists_a_repaired_answer_by_its_prompt(cache, sim):
    """The correction is no prompt of the user's."""
    unfit(sim)
    answer = cache.ask(PROMPT, schema=Book, repair=1)
    frame = cache.entries("Dune appeared")
    assert (list(frame["prompt"]), list(frame["key"])) == ([PROMPT], [answer.key])


def test_ask__repairs_no_call_of_a_tool(cache, sim):
    """Behind a call only its result may stand."""
    tools = [{"type": "function", "function": {"name": "dune", "parameters": {"type": "object"}}}]
    answer = cache.ask(PROMPT, schema=Book, repair=1, tools=tools, tool_choice="required")
    assert (answer.finish_reason, sim.completion_count) == ("tool_calls", 1)
    with pytest.raises(FormatError):
        answer.data  # noqa: B018


def test_ask__builds_on_nothing_that_holds_no_answer(cache, sim, clock):
    """Whatever a file that came from somewhere says was kept."""
    ask = cache.prepare(PROMPT, {"schema": Book})
    cache.store.keep_unserved(ask.key, ask.request, Answer(()), NO_JSON, clock.now_s)
    assert cache.ask(PROMPT, schema=Book, repair=1).data == Book("Dune", 1965)
    assert len(sim.requests[-1].body["messages"]) == 1


def test_ask__repairs_past_the_cache_without_reading_or_writing_it(cache, sim):
    """Nothing is looked up and nothing kept."""
    for _ in range(2):
        unfit(sim)
        assert cache.ask(PROMPT, schema=Book, repair=1, mode="bypass").data == Book("Dune", 1965)
    assert sim.completion_count == 4
    assert cache.store.listing.count()[0] == 0


def test_ask__repairs_json_without_a_schema(cache, sim):
    """Any form can be missed."""
    form = {"type": "json_object"}
    sim.script(scenario("broken_json"))
    answer = cache.ask("Reply in JSON with keys name and year.", response_format=form, repair=1)
    assert (sim.completion_count, set(answer.data)) == (2, {"name", "year"})


def test_aask__repairs_and_reruns_as_ask_does(cache, sim):
    """One loop for both."""
    unfit(sim)
    answer = asyncio.run(cache.aask(PROMPT, schema=Book, repair=1))
    assert answer.data == Book("Dune", 1965)
    assert asyncio.run(cache.aask(PROMPT, schema=Book, repair=1)).cached
    assert cache.ask(PROMPT, schema=Book, repair=1).cached
    assert sim.completion_count == 2


def test_ask__holds_its_budget_over_all_of_them(open_cache, sim):
    """The limit of an ask is for the whole conversation; a session's counts each ask."""
    with open_cache(sim) as cache:
        unfit(sim)
        most = cache.money.estimate(
            cache.prepare(PROMPT, {"schema": Book, "max_tokens": 50}).request
        ).high_usd
        with pytest.raises(BudgetError, match="--max-cost"):
            cache.ask(PROMPT, schema=Book, repair=1, max_tokens=50, max_cost_usd=most)
        assert sim.completion_count == 1
    unfit(sim)
    with open_cache(sim, max_cost_usd=most) as cache, pytest.raises(BudgetError, match="session"):
        cache.ask(f"{PROMPT} ", schema=Book, repair=1, max_tokens=50)
    assert sim.completion_count == 2


def test_peek__knows_a_repaired_answer(cache, sim):
    """A dry run says hit where a run would hit."""
    unfit(sim)
    bought = cache.ask(PROMPT, schema=Book, repair=1)
    row, why = cache.peek(cache.prepare(PROMPT, {"schema": Book, "repair": 1}))
    assert (row.key, why) == (bought.key, "")


def test_warm__repairs_and_is_free_again(cache, sim):
    """A row is what a cell with the same options would be."""
    from or_cache_magic.tables.warm import warm

    unfit(sim)
    for kind in ("miss", "hit"):
        frame = warm(cache, [PROMPT], schema=Book, repair=1, progress=False)
        assert (list(frame["kind"]), list(frame["error"])) == ([kind], [""])
    assert sim.completion_count == 2


# -- models that can't ------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["perplexity/sonar", "deepseek/deepseek-chat-v3.1"])
def test_ask__refuses_a_model_that_lists_no_schemas(cache, sim, model):
    """Before it is sent, at no cost, with what to do."""
    with pytest.raises(
        OptionError, match=rf"{model} can't be held to a schema.*\(nothing was sent\)"
    ) as caught:
        cache.ask(PROMPT, schema=Book, model=model)
    assert "-f json" in caught.value.hint
    assert sim.completion_count == 0


def test_ask__takes_one_of_several_models_that_can(cache, sim):
    """OpenRouter falls back to the second."""
    answer = cache.ask(PROMPT, schema=Book, model="perplexity/sonar", models=["openai/gpt-4o-mini"])
    assert answer.data == Book("Dune", 1965)


def test_ask__sends_what_nobody_lists(open_cache, canned, reply):
    """A list that can't be had speaks against nothing: OpenRouter says what it can't do."""
    wrong = '{"error": {"code": 400, "message": "nope/nope is not a valid model ID"}}'
    replies = [reply("{}", "application/json", "500 No"), reply(wrong, "application/json", "400 No")]
    server = canned(*replies, models=False)
    with pytest.raises(UpstreamError, match="not a valid model ID"):
        open_cache(server).ask(PROMPT, schema=Book, model="nope/nope")
    assert [line.split()[0] for line in server.received] == [b"GET", b"POST"]


def test_ask__sends_a_response_format_whatever_is_listed(cache):
    """Who writes the field out wants it sent; the simulator refuses it as OpenRouter does."""
    form = cache.prepare(PROMPT, {"schema": Book}).request.body["response_format"]
    with pytest.raises(UpstreamError, match="No endpoints found that can handle the requested parameters"):
        cache.ask(PROMPT, response_format=form, model="perplexity/sonar")


def test_ask__serves_a_hit_without_any_list(open_cache, sim):
    """A stored answer is looked up, and nothing else is."""
    open_cache(sim).ask(PROMPT, schema=Book)
    sim.clear()
    assert open_cache(sim).ask(PROMPT, schema=Book).cached
    assert sim.requests == ()


def test_ask__refuses_a_schema_that_is_none(cache, sim):
    """What no validator understands would be paid for, and never checked."""
    with pytest.raises(
        OptionError, match=r"the schema is no JSON Schema \(properties.a.type: 'strng' is not"
    ):
        cache.ask(PROMPT, schema={"type": "object", "properties": {"a": {"type": "strng"}}})
    assert sim.completion_count == 0


def test_ask__offline_says_what_is_missing(cache):
    """With a schema too, and with repair."""
    with pytest.raises(CacheMissError):
        cache.ask(PROMPT, schema=Book, repair=1, mode="offline")
