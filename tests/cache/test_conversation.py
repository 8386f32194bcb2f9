"""A conversation goes on from a value: what a reply sends, what it is keyed by, what can't be replied to."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.conversation import assistant_turn
from or_cache_magic.cache.request import build_ask
from or_cache_magic.core.records import Answer, Choice, Entry, Outcome, Request, RequestKey
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import InputError, OptionError, RequestError
from or_cache_magic.simulator import Scenario
from or_cache_magic.storage.codec import decode_entry, encode_entry

MODEL = "openai/gpt-4o-mini"
SETTINGS = Settings(model="other/model-1", system="The setting's.")
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SIGNED = [{"type": "reasoning.text", "text": "Hm.", "signature": "s==", "format": None, "index": 0}]
FILE = {"type": "file", "file": {"hash": "h", "name": "a.pdf", "content": [{"type": "text", "text": "x"}]}}
CITED = {"type": "url_citation", "url_citation": {"url": "https://example.org"}}


def answer(content="Red.", finish="stop", body=None, **message):
    """An answer as it may come back, to a question with a system prompt."""
    asked = {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "A colour?"}],
        **(body or {}),
    }
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    outcome = Outcome("miss", RequestKey("ab" * 32, b""), Answer((Choice(said, finish),)))
    return Completion(outcome, Request(asked))


def reply(to, prompt="Its opposite?", **fields):
    """The body of a reply."""
    return build_ask(prompt, SETTINGS, fields, {"reply_to": to}).request.body


# -- what is sent -----------------------------------------------------------------------------


def test_reply__sends_the_chain_then_the_answer_then_the_prompt():
    """Model and system prompt are the chain's, the rest the settings'; the answer's key is kept beside."""
    ask = build_ask("Its opposite?", SETTINGS, {}, {"reply_to": answer()})
    assert ask.request.body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "A colour?"},
            {"role": "assistant", "content": "Red."},
            {"role": "user", "content": "Its opposite?"},
        ],
        "temperature": 0.0,
        "max_tokens": 4096,
    }
    assert ask.parent == "ab" * 32


def test_reply__is_the_request_of_the_same_messages():
    """One entry, whether it is asked as a reply or with the whole list of messages."""
    ask = build_ask("Its opposite?", SETTINGS, {}, {"reply_to": answer(reasoning_details=SIGNED)})
    settings = SETTINGS._replace(system=None)
    assert build_ask(ask.request.body["messages"], settings, {}, {"model": MODEL}).key == ask.key


@pytest.mark.parametrize(
    ("system", "sent"),
    [(None, ["Be terse."]), ("", []), ("Be kind.", ["Be kind."])],
)
def test_reply__takes_the_chains_system_prompt_unless_one_is_said(system, sent):
    """An empty one sends none; the setting's is for conversations that begin."""
    messages = reply(answer(), system=system)["messages"]
    assert [m["content"] for m in messages if m["role"] == "system"] == sent
    assert [m["role"] for m in messages][-3:] == ["user", "assistant", "user"]


def test_reply__takes_what_the_model_needs_where_it_is_the_same():
    """Tools and plugins in any case; reasoning, provider and fallbacks of the same model; no sampling."""
    body = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "provider": {"only": ["openai"]},
        "reasoning": {"effort": "low"},
        "temperature": 1.0,
        "max_tokens": 7,
        "seed": 3,
        "response_format": {"type": "json_object"},
    }
    first = answer(body=body)
    same, other = reply(first), reply(first, model="anthropic/claude-sonnet-4.6")
    assert {name: same.get(name) for name in ("tools", "provider", "reasoning")} == {
        name: body[name] for name in ("tools", "provider", "reasoning")
    }
    assert (same["temperature"], same["max_tokens"]) == (0.0, 4096)
    assert not {"seed", "response_format"} & same.keys()
    assert "tools" in other
    assert not {"provider", "reasoning"} & other.keys()
    assert not {"tools", "reasoning"} & reply(first, tools=None, reasoning_effort="high").keys()


def test_reply__keeps_a_model_id_that_is_an_alias_too():
    """What the chain was asked of is an id; only what is said now is read as an alias."""
    settings = SETTINGS._replace(aliases={MODEL: "other/model-2", "fast": "other/model-3"})
    models = [
        build_ask("q", settings, {}, {"reply_to": answer(), "model": model}).request.body["model"]
        for model in (None, "fast")
    ]
    assert models == [MODEL, "other/model-3"]


def test_reply__sends_reasoning_back_unchanged_to_the_model_that_gave_it():
    """Signed and encrypted details as they came; another model, which can't read them, gets none."""
    first = answer(reasoning="Hm.", reasoning_details=SIGNED)
    turn = {"role": "assistant", "content": "Red.", "reasoning_details": SIGNED}
    assert reply(first)["messages"][-2] == turn
    assert "reasoning_details" not in reply(first, model="openai/gpt-4o")["messages"][-2]


def test_reply__reads_nothing_into_encrypted_reasoning():
    """What looks like a key in it is none."""
    sealed = [{"type": "reasoning.encrypted", "data": f"gAAAA-sk-{'A' * 48}", "format": None}]
    first = answer(reasoning_details=sealed)
    assert reply(first)["messages"][-2]["reasoning_details"] == sealed
    second = Completion(first.outcome, build_ask("q", SETTINGS, {}, {"reply_to": first}).request)
    assert reply(second)["messages"][2]["reasoning_details"] == sealed


def test_reply__sends_back_what_was_read_in_files():
    """So that a PDF isn't parsed, and paid for, twice; what was cited on the web is no part of it."""
    turn = reply(answer(annotations=[CITED, FILE]))["messages"][-2]
    assert turn["annotations"] == [FILE]
    assert "annotations" not in reply(answer(annotations=[CITED]))["messages"][-2]


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({"content": None, "refusal": "No."}, {"content": None, "refusal": "No."}),
        (
            {"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "Red."}},
            {"content": "Red."},
        ),
        (
            {"content": "", "images": [{"image_url": {"url": "data:image/png;base64,AA=="}}]},
            {"content": None, "images": [{"image_url": {"url": "data:image/png;base64,AA=="}}]},
        ),
    ],
    ids=["refusal", "audio", "image"],
)
def test_reply__goes_on_from_answers_without_text(message, sent):
    """A refusal and images go back as they came, of audio its words."""
    assert reply(answer(**message))["messages"][-2] == {"role": "assistant", **sent}


def test_reply__goes_on_from_an_answer_that_was_cut_at_its_limit():
    """It is what was asked for, and the model can go on from there."""
    assert reply(answer("Re", "length"), "Go on.")["messages"][-2]["content"] == "Re"


def test_reply__gives_the_results_of_tools():
    """Messages go on where the chain ended."""
    first = answer(None, "tool_calls", tool_calls=[CALL])
    result = {"role": "tool", "tool_call_id": "c1", "content": "7"}
    messages = reply(first, [result, {"role": "user", "content": "And then?"}])["messages"]
    assert messages[-3] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert messages[-2:] == [result, {"role": "user", "content": "And then?"}]


def test_reply__shares_nothing_with_the_answer():
    """What is done to an answer afterwards changes no request."""
    first = answer(reasoning_details=SIGNED)
    ask = build_ask("q", SETTINGS, {}, {"reply_to": first})
    ask.request.body["messages"][-2]["reasoning_details"][0]["text"] = "changed"
    ask.request.body["messages"][0]["content"] = "changed"
    assert first.messages[-1]["reasoning_details"][0]["text"] == "Hm."
    assert first.request.body["messages"][0]["content"] == "Be terse."


# -- what can't be replied to -----------------------------------------------------------------


def _broken(**facts):
    first = answer()
    outcome = first.outcome._replace(answer=first.outcome.answer._replace(**facts))
    return Completion(outcome, first.request)


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        (_broken(complete=False), "broke off"),
        (_broken(error={"message": "x"}), "broke off"),
        (_broken(choices=()), "broke off"),
        (answer("Re", "content_filter"), "was filtered"),
        (answer(""), "is empty"),
        (answer(None, reasoning="Hm.", reasoning_details=SIGNED), "is empty"),
        (answer(None, "tool_calls", tool_calls=[CALL]), "waits for results of tools"),
        (answer("sk-or-v1-" + "0" * 64), "API key"),
        (answer("\ud800"), "surrogate"),
    ],
)
def test_reply__refuses_what_can_not_be_sent_back(to, problem):
    """In two lines, before anything is sent."""
    with pytest.raises(RequestError, match=f"{problem}.*nothing was sent"):
        reply(to)


@pytest.mark.parametrize("value", ["Red.", 7, ["Red."], {"text": "Red."}])
def test_reply__refuses_what_is_no_answer(value):
    """It says what it is instead."""
    with pytest.raises(OptionError, match=f"a {type(value).__name__} is no answer") as caught:
        reply(value)
    assert len(str(caught.value).splitlines()) == 2


def test_reply__of_a_copy_knows_no_cache(cache):
    """It asks where the answer came from, not in whatever cache is the default one."""
    first = cache.ask("A colour?")
    copied = pickle.loads(pickle.dumps(first))
    with pytest.raises(OptionError, match="pickled or copied"):
        copied.reply("Its opposite?")
    assert cache.ask("Its opposite?", reply_to=copied).key == first.reply("Its opposite?").key


def test_reply__checks_its_options(cache, sim):
    """As `ask` does."""
    with pytest.raises(InputError, match="did you mean temperature"):
        cache.ask("A colour?").reply("q", temprature=1)
    assert sim.completion_count == 1


# -- bought once ------------------------------------------------------------------------------


def talk(cache):
    """Three turns, each on from the one before it."""
    first = cache.ask(
        "A colour?", system="Be terse.", model="anthropic/claude-sonnet-4.6", reasoning={"effort": "low"}
    )
    second = first.reply("Its opposite?")
    return first, second, cache.ask("And of that?", reply_to=second, max_tokens=50)


@pytest.mark.parametrize("stream", [True, False])
def test_chain__is_replayed_without_key_and_request(open_cache, sim, stream):
    """In another cache object, in any order: the same keys, the same messages byte for byte."""
    bought = talk(open_cache(sim, stream=stream))
    assert sim.completion_count == 3
    assert all("reasoning_details" in answer.messages[-1] for answer in bought)
    replayed = talk(open_cache(sim, stream=stream, api_key=None))
    assert sim.completion_count == 3
    assert [a.cached for a in replayed] == [True] * 3
    assert [a.key for a in replayed] == [a.key for a in bought]
    assert [json.dumps(a.messages) for a in replayed] == [json.dumps(a.messages) for a in bought]
    assert [str(a) for a in replayed] == [str(a) for a in bought]


def test_chain__of_a_refreshed_answer_is_another(open_cache, sim):
    """A reply goes on from the text that the answer has now."""
    cache = open_cache(sim)
    sim.script(Scenario(text="Red."))
    old = cache.ask("A colour?").reply("Its opposite?")
    sim.script(Scenario(text="Blue."))
    new = cache.ask("A colour?", mode="refresh").reply("Its opposite?")
    assert old.key != new.key
    assert [a.outcome.kind for a in (old, new)] == ["miss", "miss"]
    assert new.messages[1]["content"] == "Blue."


def test_chain__by_aask_is_the_same(cache, sim):
    """The same keys for asyncio."""
    import asyncio

    async def talked():
        first = await cache.aask("A colour?")
        return await cache.aask("Its opposite?", reply_to=first)

    bought = asyncio.run(talked())
    assert cache.ask("A colour?").reply("Its opposite?").key == bought.key
    assert sim.completion_count == 2


@pytest.mark.parametrize("stream", [True, False])
def test_chain__about_a_pdf_has_it_read_once(open_cache, sim, stream):
    """What was read in it goes back with the answer; in a replay too, where nothing is sent at all."""
    pdf = b"%PDF-1.4\n/Type /Page /Type/Page /Type /Pages\n%%EOF\n"

    def asked(cache):
        first = cache.ask("What is it about?", model="meta-llama/llama-3.3-70b-instruct", attach=[pdf])
        return first, first.reply("And how long?")

    first, then = asked(open_cache(sim, stream=stream))
    assert [note["type"] for note in then.request.body["messages"][-2]["annotations"]] == ["file"]
    assert first.cost_usd > Decimal("0.004") > then.cost_usd  # two pages at $2 per 1,000
    assert [a.key for a in asked(open_cache(sim, stream=stream, api_key=None))] == [first.key, then.key]
    assert sim.completion_count == 2


# -- laws -------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: not text.isspace()
)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def chained(said, system, last="And now?"):
    """The key of the reply to a chain of questions and answers."""
    before = None
    for question, told in said:
        option = {"system": system, "model": MODEL} if before is None else {"reply_to": before}
        ask = build_ask(question, SETTINGS, {}, option)
        message = {"role": "assistant", "content": told}
        before = Completion(Outcome("hit", ask.key, Answer((Choice(message, "stop"),))), ask.request)
    return build_ask(last, SETTINGS, {}, {"reply_to": before}).key.digest


@given(turns, words, st.data())
def test_law__one_changed_turn_anywhere_is_another_key(said, system, data):
    """A question, an answer, the system prompt, or how many turns there are."""
    key = chained(said, system)
    assert key == chained(list(said), system)
    at, side = data.draw(st.integers(0, len(said) - 1)), data.draw(st.integers(0, 1))
    turn = list(said[at])
    turn[side] += data.draw(words)
    changed = [*said[:at], tuple(turn), *said[at + 1 :]]
    assert key not in (
        chained(changed, system),
        chained(said, f"{system}."),
        chained([*said, said[-1]], system),
    )
    assert key != chained(said, system, "And then?")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": words},
        optional={
            "reasoning": words,
            "reasoning_details": st.lists(st.dictionaries(words, json_values, max_size=4), max_size=3),
            "annotations": st.lists(st.just(FILE) | st.just(CITED), max_size=3),
            "unheard_of": json_values,
        },
    )
)
def test_law__a_stored_answer_is_sent_back_as_the_bought_one(message):
    """Byte for byte, whatever it holds: else a replayed chain would miss."""
    bought = Answer((Choice(message, "stop"),))
    blob = encode_entry(Entry(RequestKey("ab" * 32, b""), bought, 1.0))
    (stored,) = decode_entry("ab" * 32, blob).answer.choices
    assert json.dumps(assistant_turn(stored.message)) == json.dumps(assistant_turn(message))
