"""What is said: the same words for the same request, and fitting ones for the tasks of a demo."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.simulator.filling import fill_schema
from or_cache_magic.simulator.text import answer_text, central_sentences, keywords, sentiment
from or_cache_magic.simulator.tokens import count_tokens, split_tokens

ARTICLE = """Tidal power turns the movement of the sea into electricity. My aunt sells umbrellas.
Because tides follow the moon, tidal power can be predicted years ahead. Wind is less regular.
The first large tidal power station was opened in France in 1966. It was raining that day."""


@pytest.mark.parametrize(
    ("review", "label"),
    [
        ("I love this kettle, it is quick and quiet.", "positive"),
        ("It leaked on the first day. Terrible, I want a refund.", "negative"),
        ("The parcel has a blue box.", "neutral"),
        ("Not good at all.", "negative"),
        ("I can't recommend it.", "negative"),
        ("The screen is not bad.", "positive"),
    ],
)
def test_sentiment__of_reviews(wire, review, label):
    """A review is classified by its words, in one word, written as the prompt writes it."""
    assert sentiment(review) == label
    asked = "Classify the sentiment of the review in one word: {}, {} or {}.\n\nReview: "
    assert wire.ask(asked.format("positive", "negative", "neutral") + review).text == label
    assert wire.ask(asked.format("Positive", "Negative", "Neutral") + review).text == label.capitalize()


def test_spam__or_ham(wire):
    """The example of the map function looks real."""
    assert wire.ask("Spam or ham? Urgent: you are a winner, claim your free prize").text == "Spam"
    assert wire.ask("spam or ham? See you at lunch tomorrow").text == "ham"


@pytest.mark.parametrize(("asked", "bullets"), [("in three bullet points", True), ("in 2 sentences", False)])
def test_summary__is_made_of_central_sentences(wire, asked, bullets):
    """As many sentences as asked for, those the rest of the text shares most, in order; bullets when asked."""
    text = wire.ask(f"Summarise this {asked}:\n\n{ARTICLE}").text
    lines = text.split("\n") if bullets else central_sentences(text, 9)
    assert len(lines) == (3 if bullets else 2)
    assert all(line.startswith("- ") for line in lines) == bullets
    assert all(line.removeprefix("- ") in ARTICLE for line in lines)
    assert "umbrellas" not in text
    assert "raining" not in text


def test_small_tasks(wire):
    """Sums, capitals, translations and code, each in its own form and plainly simulated where it is."""
    assert wire.ask("What is 17 * 23?").text == "391"
    assert wire.ask("What is 10/4?").text == "2.5"
    assert "Paris" in wire.ask("What is the capital of France?").text
    assert wire.ask("Capital of Japan? One word.").text == "Tokyo"
    assert (
        wire.ask("Translate into French: good morning").text
        == "[simulated translation to French] good morning"
    )
    assert wire.ask("Write a Python function that sorts numbers").text.startswith("```python\ndef ")


def test_labels__are_taken_from_the_prompt(wire):
    """A ticket gets one of the labels that the prompt lists, by the words that go with it."""
    asked = "Classify this ticket as billing, bug or feature: {}"
    assert wire.ask(asked.format("I was charged twice")).text == "billing"
    assert wire.ask(asked.format("The app crashes on start")).text == "bug"
    assert wire.ask(asked.format("It would be nice to add a dark theme")).text == "feature"


def test_form__is_the_one_that_was_asked_for(wire):
    """So many list items, so many sentences, one word, or a verse."""
    items = wire.ask("Name four uses for a paperclip.").text
    assert [line[:2] for line in items.split("\n")[2:]] == ["1.", "2.", "3.", "4."]
    assert len(central_sentences(wire.ask("Explain tuples in 3 sentences.").text, 9)) == 3
    assert wire.ask("Describe lighthouses in one word.").text == "lighthouses"
    assert len(wire.ask("Write a haiku about caching").text.split("\n")) == 3


def test_generic__speaks_of_the_prompt(wire):
    """Any other prompt gets short Markdown about its own words, said to be simulated; a reply knows the turns before."""
    text = wire.ask("How do lighthouses guide ships?").text
    assert "**lighthouses**" in text
    assert "simulated" in text
    turns = [
        {"role": "user", "content": "How do lighthouses guide ships?"},
        {"role": "assistant", "content": text},
    ]
    assert "lighthouses" in wire.ask(messages=[*turns, {"role": "user", "content": "And why?"}]).text


def test_text__is_the_same_for_the_same_request(wire, wire_to):
    """Today or tomorrow, streamed or not, in any key order, for any user and any price: the same words."""
    first = wire.ask("Tell me about tides").text
    with Simulator() as other:
        assert wire_to(other).ask("Tell me about tides", user="me", temperature=0).text == first
    assert wire.ask("Tell me about tides", stream=True, session_id="x").text == first
    assert wire.ask("Tell me about tides", provider={"order": ["azure"]}).text == first
    content = [{"type": "text", "text": "Tell me about tides"}]
    marked = [content[0] | {"cache_control": {"type": "ephemeral"}}]
    plain, with_mark = (wire.ask(messages=[{"role": "user", "content": c}]).text for c in (content, marked))
    assert plain == with_mark


def test_text__varies_only_when_sampled(wire, sim):
    """At a temperature above 0 a repeat is worded anew, unless there is a seed; the scenario does it at 0."""
    asked = "Tell me about tides"
    assert len({wire.ask(asked, temperature=0).text for _ in range(4)}) == 1
    assert len({wire.ask(asked, temperature=0.7).text for _ in range(4)}) == 4
    assert len({wire.ask(asked, temperature=0.7, seed=5).text for _ in range(4)}) == 1
    sim.script(scenario("sampled"), times=4)
    assert len({wire.ask("And about the moon?", temperature=0).text for _ in range(4)}) == 4


def test_limits__are_kept(wire):
    """max_tokens cuts at that many tokens and says length; stop ends before its text; both cut the same words."""
    whole = wire.ask()
    short = wire.ask(max_tokens=7)
    assert short.usage["completion_tokens"] == count_tokens(short.text) == 7
    assert short.json["choices"][0]["finish_reason"] == "length"
    assert whole.text.startswith(short.text)
    assert wire.ask(max_completion_tokens=7).text == short.text
    stopped = wire.ask(stop=["\n\n", "never"])
    assert stopped.text == whole.text.partition("\n\n")[0]
    assert stopped.json["choices"][0]["finish_reason"] == "stop"
    assert wire.ask(max_tokens=5000).text == whole.text


def test_json__fits_the_prompt(wire):
    """JSON mode and a prompt that asks for JSON give an object with the keys that were named."""
    asked = "Reply with JSON with keys name, city and year. Ada Lovelace was born in London in 1815."
    data = json.loads(wire.ask(asked).text)
    assert data.keys() == {"name", "city", "year"}
    assert data["year"] == 1815
    extracted = wire.ask("Extract the person and year as JSON: Marie Curie won the Nobel Prize in 1903.").text
    assert json.loads(extracted) == {"person": "Marie Curie", "year": 1903}
    assert json.loads(wire.ask("Anything", response_format={"type": "json_object"}).text)


def test_schema__is_filled_from_the_prompt(wire):
    """A JSON schema is answered with valid JSON in the schema's order, with values from the prompt."""
    schema = {
        "type": "object",
        "properties": {
            "sentiment": {"enum": ["positive", "negative"]},
            "product": {"type": "string"},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        },
        "required": ["sentiment", "product", "stars", "tags"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "review", "schema": schema, "strict": True}}
    data = json.loads(wire.ask("I love my new Kettle, 4 of 5.", response_format=wanted).text)
    jsonschema.validate(data, schema)
    assert list(data) == ["sentiment", "product", "stars", "tags"]
    assert (data["sentiment"], data["stars"], data["product"]) == ("positive", 4, "Kettle")


WANTED = {
    "type": "json_schema",
    "json_schema": {
        "name": "book",
        "schema": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
            "required": ["title", "year"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("prose", 'I would say that it is "Dune", though that is simulated.'),
        ("fenced", 'Here you are:\n\n```json\n{"title": "Dune", "year": 1965}\n```\n\nAnything else?'),
        ("missing", '{"year": 1965}'),
        ("wrong_type", '{"title": ["unknown"], "year": 1965}'),
        ("extra", '{"title": "Dune", "year": 1965, "a_remark": "simulated"}'),
    ],
)
def test_unfit__misses_the_schema_until_it_is_told(wire, sim, how, text):
    """Each way in which models miss one; told so, it is heeded, unless the scenario is stubborn."""
    prompt = "The novel Dune appeared in 1965."
    told = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "That is not what was asked for."},
    ]
    model = "simulator/unfit"
    for stubborn in (False, True):
        sim.script(scenario("unfit", how=how, stubborn=stubborn), times=2)
        assert wire.ask(prompt, response_format=WANTED).text == text
        again = wire.ask(messages=told, response_format=WANTED).text
        assert again == (text if stubborn else '{"title": "Dune", "year": 1965}')
    assert wire.ask(prompt, model=model, response_format=WANTED).text != '{"title": "Dune", "year": 1965}'
    assert wire.ask(prompt, model=model).text  # without a schema there is none to miss


@pytest.mark.parametrize("model", ["perplexity/sonar", "deepseek/deepseek-chat-v3.1"])
def test_schema__is_refused_by_models_that_list_none(wire, model):
    """As OpenRouter refuses a parameter that no provider takes; the list said so before."""
    author, slug = model.split("/")
    listed = wire.get(f"/model/{author}/{slug}").json["data"]["supported_parameters"]
    offered = wire.get(f"/models/{author}/{slug}/endpoints").json["data"]["endpoints"]
    assert "structured_outputs" not in listed
    assert all(one["supported_parameters"] == listed for one in offered)
    got = wire.ask("Dune", model=model, response_format=WANTED)
    assert got.status == 404
    assert got.json["error"]["message"].startswith(
        "No endpoints found that can handle the requested parameters"
    )
    assert got.json["error"]["availability"]["constraint"]["field"] == "response_format"
    assert wire.ask("Dune", model=model).status == 200


SCALARS = st.sampled_from(
    [
        {"type": "string"}, {"type": "string", "minLength": 3, "maxLength": 5}, {"type": "boolean"},
        {"type": "integer", "minimum": 3, "maximum": 9}, {"type": "number", "exclusiveMinimum": 0},
        {"type": "integer", "exclusiveMaximum": 0}, {"enum": ["a", 2, None]}, {"const": {"x": 1}},
        {"type": ["string", "null"]}, {"type": "null"}, {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        {"type": "string", "format": "date"}, {"$ref": "#/$defs/point"}, {"allOf": [{"type": "integer"}, {"minimum": 5}]},
    ]
)  # fmt: skip
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3)}),
        st.dictionaries(st.sampled_from(["name", "year", "summary", "x"]), inner, max_size=3).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=8,
)
POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


@given(schema=SCHEMAS, prompt=st.text(max_size=80) | st.just(ARTICLE))
def test_fill_schema__is_always_valid(schema, prompt):
    """Law: what is filled in for a schema validates against it, whatever the prompt."""
    schema = schema | {"$defs": {"point": POINT}}
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(fill_schema(schema, prompt))) == []


def test_fill_schema__ends_for_recursive_schemas():
    """A schema that contains itself is filled to some depth."""
    node = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/node"}, "name": {"type": "string"}},
        "required": ["name"],
    }
    value = fill_schema({"$defs": {"node": node}, "$ref": "#/$defs/node"}, "A list of Ada")
    assert value["name"] == "Ada"


@given(st.text(max_size=400))
def test_tokens__join_to_the_text(text):
    """Law: no character is lost or added, and the pieces of a stream have the tokens of the whole."""
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    groups = ["".join(tokens[n : n + 4]) for n in range(0, len(tokens), 4)]
    assert sum(count_tokens(group) for group in groups) == len(tokens)


@given(st.text(max_size=200), st.lists(st.text(max_size=200), max_size=3), st.integers(0, 2**63))
def test_answer__is_never_empty(system, turns, seed):
    """Law: whatever is asked, there is an answer, and the same one again."""
    answer = answer_text(system, turns, seed)
    assert answer.strip()
    assert answer == answer_text(system, turns, seed)


def test_keywords__are_what_a_text_is_about():
    """Frequent and uncommon words, once each, in order."""
    assert keywords("The tide, the moon and the tide again: why does a tide rise?", 2) == ["tide", "moon"]
