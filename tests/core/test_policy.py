"""What may be looked up, served and stored, for how long, and the reasons given."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.policy import (
    Policy,
    lifetime_s,
    notes_on,
    volatility,
    why_no_lookup,
    why_not_served,
    why_not_stored,
)
from or_cache_magic.core.records import Answer, Choice, Cost, Entry, Request, RequestKey, Usage
from or_cache_magic.core.units import FOREVER_S

PAID = Cost(Decimal("0.01"), "reported")


def asked(content="Hi", **fields):
    return Request({"model": "m/x", "messages": [{"role": "user", "content": content}], **fields})


def said(content="Hello", finish="stop", *, used=10, **facts):
    message = {"role": "assistant", "content": content, **facts.pop("message", {})}
    return Answer((Choice(message, finish, finish),), usage=Usage(5, used), cost=PAID, **facts)


def calls(arguments):
    return {
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    }


def json_schema(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


def in_base64(raw):
    return base64.b64encode(raw).decode()


def picture(raw, kind="image/png"):
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{in_base64(raw)}"}}


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURES = (
    PNG,
    b"<?xml version='1.0'?>\n<svg xmlns=''/>",
    b"\0\0\0\x1cftypavif" + bytes(9),
    b"II*\0" + bytes(9),
)
NO_PICTURES = (
    bytes(3),
    bytes(300),
    PNG[:-12],
    b"<html><svg></svg></html>",
    b"%PDF-1.7\n%%EOF",
    b"no image",
    b"",
)
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
JSON_OBJECT = {"response_format": {"type": "json_object"}}


# -- stored -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, said()),
        ({}, said([{"type": "text", "text": "Hi"}])),
        ({}, said(None, "tool_calls", message=calls("{}"))),
        ({}, said(None, "stop", message=calls(""))),
        ({}, said(None, message={"images": [IMAGE]})),
        ({}, said(None, message={"images": [{"type": "image_url", "image_url": "https://x/a.png"}]})),
        ({}, said([IMAGE])),
        ({}, said([None, {"type": "text", "text": "Hi"}])),
        ({}, said("\u200b.")),
        ({}, said(None, message={"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": ""}}]})),
        ({"n": 1}, said()),
        ({"n": "2"}, said()),
        ({}, said(None, message={"audio": {"data": in_base64(b"RIFF\x26\0\0\0WAVEfmt " + bytes(30))}})),
        ({}, said(None, message={"audio": {"data": in_base64(bytes(480))}})),
        *(({}, said(None, message={"images": [picture(raw)]})) for raw in PICTURES),
        ({}, said(None, message={"images": [{"b64_json": in_base64(PNG)}]})),
        (
            {},
            said(
                None, message={"images": [{"image_url": {"url": "data:image/svg+xml,%3Csvg%3E%3C/svg%3E"}}]}
            ),
        ),
        ({}, said([picture(PNG), {"type": "weird", "x": 1}])),
        ({"max_tokens": 10}, said(finish="length", used=10)),
        ({"max_completion_tokens": 10}, said(finish="length", used=11)),
        ({"max_completion_tokens": 10, "max_tokens": 20}, said(finish="length", used=10)),
        (JSON_OBJECT, said('{"a": 1}')),
        (json_schema(NAME), said('{"name": "x"}')),
        (json_schema(NAME), said(None, "tool_calls", message=calls("{}"))),
        ({"response_format": {"type": "text"}}, said("no json")),
        ({"response_format": "odd"}, said("no json")),
        ({"response_format": {"type": "json_schema", "json_schema": "odd"}}, said("{}")),
    ],
    ids=repr,
)
def test_why_not_stored__accepts_what_was_meant(fields, answer):
    """Finished, whole, with something in it, in the form that was asked for; cut only where it was told to be."""
    assert why_not_stored(asked(**fields), answer) is None


@pytest.mark.parametrize(
    ("fields", "answer", "reason"),
    [
        ({}, said(error={"message": "x"}), "holds an error"),
        ({}, Answer((Choice({"content": "Hi"}, "stop", error={"message": "x"}),)), "holds an error"),
        ({}, Answer(()), "is empty"),
        ({}, said(complete=False), "cut off"),
        ({}, said(finish=None), "did not finish"),
        ({}, said(finish="error"), "did not finish"),
        ({}, said(finish="something_new"), "did not finish"),
        ({}, said(finish="content_filter"), "filtered"),
        ({}, said(finish="length"), "the model's own limit"),
        ({"max_tokens": 10}, said(finish="length", used=9), "before its limit of 10"),
        ({"max_tokens": 10}, said(finish="length", used=None), "before its limit"),
        ({"max_tokens": 10}, said(finish="length")._replace(usage=None), "before its limit"),
        ({"max_tokens": True}, said(finish="length"), "own limit"),
        ({}, said(""), "is empty"),
        ({}, said(" \n"), "is empty"),
        ({}, said(None), "is empty"),
        ({}, said([]), "is empty"),
        ({}, said([{"type": "text", "text": ""}]), "is empty"),
        ({}, said([{"type": "text", "content": "Hi"}]), "is empty"),
        ({}, said([{"type": "text", "text": None}, None, " ", {}]), "is empty"),
        ({}, said([{"type": "image_url", "image_url": {"url": ""}}]), "is empty"),
        ({}, said([{"type": "video", "video": {"id": "v"}}]), "is empty"),
        ({}, said([{"type": "weird", "x": 1}, {"type": "thinking", "thinking": "Hm"}, {"x": "Hi"}]), "is empty"),
        ({}, said([picture(bytes(3))]), "is empty"),
        ({}, said({"type": "text", "text": "Hi"}), "is empty"),
        ({}, said(7), "is empty"),
        *(({}, said(blank), "is empty") for blank in ("\u200b", "\ufeff", "\u2060\u200d\n", "\u3164", "\u2800", "\x00", "\u00ad")),
        ({}, said("Hi", message={"tool_calls": [{}]}), "a tool call of the answer is empty or broken"),
        ({}, said("Hi", message={"tool_calls": "x"}), "a tool call of the answer is empty or broken"),
        ({}, said(None, "tool_calls", message={"tool_calls": [None]}), "a tool call of the answer is empty or broken"),
        ({}, said(None, "tool_calls", message={"tool_calls": [{"function": {"name": " "}}]}), "a tool call"),
        ({}, said("Hi", message={"images": [None]}), "an image of the answer is empty or broken"),
        ({}, said(None, message={"images": [IMAGE, {}]}), "an image of the answer is empty or broken"),
        ({}, said(None, message={"images": [{"image_url": {"url": "data:image/png;base64,"}}]}), "an image"),
        *(({}, said("Hi", message={"images": [picture(PNG), picture(raw)]}), "an image") for raw in NO_PICTURES),
        ({}, said("Hi", message={"images": [{"b64_json": "AAAA"}]}), "an image"),
        ({}, said("Hi", message={"audio": {"data": "AAAA"}}), "the audio"),
        ({}, said("Hi", message={"audio": {"data": in_base64(PNG)}}), "the audio"),
        ({}, said(None, message={"audio": {"id": "a", "transcript": "Hi"}}), "the audio of the answer is empty or broken"),
        ({}, said(None, message={"audio": "x"}), "the audio of the answer is empty or broken"),
        ({"n": 2}, said(), "1 of the 2 answers"),
        ({}, said(None, message={"reasoning": "long thoughts"}), "is empty"),
        ({}, said("", message={"refusal": "I can't"}), "refused"),
        ({}, said("Hi", "tool_calls"), "tool call that is not there"),
        ({}, said(None, "tool_calls", message=calls('{"a": ')), "not JSON"),
        (JSON_OBJECT, said("Sure! {}"), "not the JSON"),
        (JSON_OBJECT, said('{"a": NaN}'), "not the JSON"),
        (JSON_OBJECT, said("[" * 100_000), "not the JSON"),
        (JSON_OBJECT, said([{"type": "text", "text": "{}"}]), "not the JSON"),
        (json_schema(NAME), said('{"name": 7}'), "does not fit its JSON schema"),
        (json_schema(NAME), said("{}"), "does not fit its JSON schema"),
    ],
    ids=repr,
)  # fmt: skip
def test_why_not_stored__refuses(fields, answer, reason):
    """What was not meant, not whole, or not in the asked form is never served again, and says why."""
    assert reason in why_not_stored(asked(**fields), answer)


def test_why_not_stored__looks_at_every_choice():
    """One bad choice of several is enough; at a limit, nobody can tell which choice reached it."""
    good, bad = Choice({"content": "Hi"}, "stop"), Choice({"content": "Hi"}, "content_filter")
    assert why_not_stored(asked(n=2), Answer((good, bad))) is not None
    cut = Choice({"content": "Hi"}, "length")
    assert why_not_stored(asked(n=2, max_tokens=5), Answer((good, cut), usage=Usage(5, 10))) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"type": "sting"},
        {"type": "object", "properties": {"name": {"pattern": "(?<x"}}},
        {"$schema": 7},
        {"properties": 7},
    ],
    ids=repr,
)
def test_why_not_stored__does_not_judge_by_a_schema_that_cannot(schema):
    """A schema that no validator takes loses no paid answer."""
    assert why_not_stored(asked(**json_schema(schema)), said('{"name": "x"}')) is None


def test_why_not_stored__fetches_nothing_for_a_schema(canned, reply):
    """A schema may come from a stranger: what it refers to elsewhere is not fetched, and not judged by."""
    server = canned(reply('{"type": "integer"}', "application/json"))
    request = asked(**json_schema({"$ref": f"{server.base_url}/schema.json"}))
    assert why_not_stored(request, said('{"name": "x"}')) is None
    assert server.received == []


@pytest.mark.parametrize("calls", [["x"], [{"function": "x"}], [{"function": None}], "x", [None]])
def test_why_not_stored__survives_tool_calls_of_no_form(calls):
    """A strange message is judged, not stumbled over."""
    refusal = why_not_stored(asked(), said(None, "tool_calls", message={"tool_calls": calls}))
    assert refusal == "a tool call of the answer is empty or broken"


texts = st.sampled_from([None, "", " ", "\n", "Hi", "{}", "{", "7"])
messages = st.fixed_dictionaries(
    {"content": texts}, optional={"refusal": texts, "tool_calls": st.just([{}]), "reasoning": texts}
)
finishes = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "error", None, "x"])
choices = st.builds(
    lambda message, finish, error: Choice(message, finish, None, error),
    messages,
    finishes,
    st.sampled_from([None, {"code": 502}]),
)
answers = st.builds(
    lambda choices, used, complete, error: Answer(
        tuple(choices), usage=used and Usage(1, used), complete=complete, error=error
    ),
    st.lists(choices, max_size=3),
    st.one_of(st.none(), st.integers(1, 50)),
    st.booleans(),
    st.sampled_from([None, {"message": "x"}]),
)
bodies = st.fixed_dictionaries(
    {},
    optional={"max_tokens": st.integers(1, 40), "response_format": st.sampled_from([*JSON_OBJECT.values()])},
)


@given(bodies, answers)
def test_why_not_stored__never_accepts_the_unfit(body, answer):
    """Whatever else holds: an accepted answer has no error, is whole, has a choice, and all of them finished."""
    if why_not_stored(asked(**body), answer) is not None:
        return
    assert answer.error is None
    assert answer.complete
    assert answer.choices
    for choice in answer.choices:
        assert choice.error is None
        assert choice.finish_reason in ("stop", "tool_calls", "length")
        assert (choice.message.get("content") or "").strip() or choice.message.get("tool_calls")
        if choice.finish_reason == "length":
            assert answer.usage.completion_tokens >= body["max_tokens"]


# -- looked up and served ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "policy", "reason"),
    [
        ({"temperature": 0}, Policy(), None),
        ({"temperature": 0.0}, Policy(), None),
        ({"temperature": -0.0}, Policy(), None),
        ({"temperature": 0.7}, Policy(), "temperature 0.7 (--sample 0 keeps it)"),
        ({"temperature": 1}, Policy(), "temperature 1 (--sample 0 keeps it)"),
        ({}, Policy(), "temperature not set (--sample 0 keeps it)"),
        ({"temperature": None}, Policy(), "temperature not set (--sample 0 keeps it)"),
        ({"temperature": False}, Policy(), "temperature False (--sample 0 keeps it)"),
        ({"temperature": "hot"}, Policy(), "temperature hot (--sample 0 keeps it)"),
        ({"temperature": 1}, Policy(sampled=True), None),
        ({"temperature": 1}, Policy(cache_sampled=True), None),
        ({"temperature": 0}, Policy(mode="bypass"), "--no-cache"),
        ({"temperature": 0}, Policy(mode="refresh"), None),
    ],
    ids=repr,
)
def test_why_no_lookup__keeps_samples_out(fields, policy, reason):
    """Above temperature 0 another answer is wanted each time, unless the sample is named."""
    assert why_no_lookup(asked(**fields), policy) == reason


@pytest.mark.parametrize(
    ("expires_s", "now_s", "served"), [(None, 9e9, True), (10, 9, True), (10, 10, False), (10, 11, False)]
)
def test_why_not_served__is_a_matter_of_age(expires_s, now_s, served):
    """Only its age speaks against a stored entry; at its very end it is expired."""
    entry = Entry(RequestKey("0" * 64, b""), said(), 0.0, expires_s)
    assert (why_not_served(entry, now_s) is None) is served


# -- lifetimes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "openrouter/auto"},
        {"model": "openrouter/free"},
        {"model": "~anthropic/claude-opus-latest"},
        {"model": "@preset/mine"},
        {"model": "openai/gpt-4o@preset/mine"},
        {"model": "openai/gpt-4o:online"},
        {"model": "m/x", "models": ["openrouter/auto"]},
        {"model": None},
        {"preset": "mine"},
        {"plugins": [{"id": "web"}]},
        {"web_search_options": {"search_context_size": "low"}},
        {"web_search_options": {}},
        {"tools": [{"type": "openrouter:datetime"}]},
        {"tools": [{"type": "web_search_preview"}]},
        {"tools": [{"type": "web_fetch"}]},
        {"tools": [{"type": "shell"}]},
        {"tools": [{}]},
        {"x_search_filter": {"handles": ["x"]}},
        {"model": "typesafe/jev-router"},
        {"model": "nvidia/switchyard"},
        {"model": "switchpoint/router"},
        {"model": "perplexity/sonar"},
        {"model": "openai/gpt-4o-search-preview"},
        {"plugins": [{"id": "jev-router"}]},
        {"plugins": [{"id": "switchyard-router", "algorithm": "x"}]},
        {"plugins": ["web"]},
        {"plugins": [{"id": " Web"}]},
        {"plugins": ["Auto-Router"]},
        {"model": "a/b:ONLINE"},
        {"model": " OpenRouter/Auto"},
        {"model": "a/B", "models": ["A/Big-Router"]},
        {"model": "x/deep-research"},
        {"model": "x/Deep-Research:free"},
        {"model": "openai/gpt-9-search"},
        {"model": "openai/gpt-4o@Preset/mine"},
        {"tools": ["web_search"]},
        {"messages": [{"role": "assistant", "content": "", "images": [IMAGE]}]},
        {"messages": [{"role": "user", "content": IMAGE}]},
    ],
    ids=repr,
)
def test_volatility__of_a_changing_world(fields):
    """Routers, moving names, presets, searches and server tools may answer otherwise tomorrow."""
    assert volatility(asked(**fields))


@pytest.mark.parametrize(
    ("parts", "volatile"),
    [
        ([IMAGE], True),
        ([{"type": "text", "text": "https://example.org"}, IMAGE], True),
        ([{"type": "text", "text": "https://example.org"}], False),
        ([{"type": "file", "file": {"filename": "a", "file_data": "http://example.org/a.pdf"}}], True),
        ([{"type": "image_url", "image_url": "https://example.org/a.png"}], True),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}], False),
        ([{"type": "image_url", "image_url": {"url": "HTTPS://x/y.png"}}], True),
        ([{"type": "image_url", "image_url": {"url": " \n https://x/y.png"}}], True),
        ([{"type": "image_url", "image_url": {"url": "gs://x/y.png"}}], True),
        ([{"type": "image_url", "image_url": {"url": "//x/y.png"}}], True),
        ([{"type": "image_url", "image_url": {"url": "x.org/y.png"}}], True),
        ([{"type": "image_url", "image_url": {"url": " DATA:image/png;base64,AA=="}}], False),
        ([{"type": "video_url", "video_url": {"url": "s3://x/y.mp4"}}], True),
        ([{"type": "file", "file": {"filename": "a", "file_data": "Gs://x/a.pdf"}}], True),
        ([{"type": "file", "file": {"filename": "a://b", "file_data": "JVBERi0//x"}}], False),
        ([{"type": "input_audio", "input_audio": {"data": "https://x/a.wav", "format": "wav"}}], True),
        ([{"type": "input_audio", "input_audio": {"data": "AA//", "format": "wav"}}], False),
        ([{"type": "image", "source": {"inner": {"url": "ftp://x/y"}}}], True),
        ([{"type": "document", "content": [{"type": "text", "text": "https://example.org"}]}], False),
        (["odd", "https://example.org", None, 7], False),
        ([{"type": "image_url", "image_url": {"url": " " * 999 + "https://x/y.png"}}], True),
        ("https://example.org", False),
        (None, False),
    ],
    ids=repr,
)
def test_volatility__of_remote_media(parts, volatile):
    """A remote file may change; a text that names an address does not, nor do bytes in the request."""
    assert bool(volatility(asked(parts))) is volatile


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "openai/gpt-4o-mini:nitro"},
        {"models": ["m/y"]},
        {"plugins": [{"id": "web", "enabled": False}]},
        {"model": "nousresearch/hermes:nitro"},
        {"model": "x/research-1"},
        {"plugins": [{"id": "response-healing"}]},
        {"plugins": "odd"},
        {"tools": [{"type": "function", "function": {"name": "web_search"}}]},
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        {"model": "vendor/router-mini"},
    ],
    ids=repr,
)
def test_volatility__of_nothing_special(fields):
    """An ordinary request lives for ever."""
    assert volatility(asked(**fields)) is None


def test_lifetime_s__says_what_it_grants():
    """For ever by default, a day for the volatile, what was asked for where something was."""
    volatile = asked(model="openrouter/auto")
    assert lifetime_s(asked(), said(), Policy()) == (None, "")
    assert lifetime_s(volatile, said(), Policy()) == (
        86400.0,
        "kept 24 h: openrouter/auto picks a model at each call",
    )
    assert lifetime_s(volatile, said(), Policy(ttl_s=60.0)) == (60.0, "")
    assert lifetime_s(volatile, said(), Policy(ttl_s=FOREVER_S)) == (None, "")
    assert lifetime_s(volatile, said(), Policy(volatile_ttl_s=FOREVER_S)) == (None, "")
    assert lifetime_s(volatile, said(), Policy(volatile_ttl_s=3600.0))[0] == 3600.0
    for kind in ("url_citation", "web_search_citation"):
        cited = said(message={"annotations": [{"type": "file"}, {"type": kind}]})
        assert lifetime_s(asked(), cited, Policy()) == (86400.0, "kept 24 h: it cites the web")
    for notes in ([{"type": "file", "file": {"hash": "x", "content": []}}], [None], "x", 7, [{"type": 7}]):
        assert lifetime_s(asked(), said(message={"annotations": notes}), Policy()) == (None, "")


def test_notes_on__tells_of_a_truncated_answer():
    """Whoever reads an answer that was cut at its limit is told so, each time."""
    whole = said(finish="length", used=4096)
    assert notes_on(asked(max_tokens=4096), whole) == ("truncated at 4,096 tokens",)
    assert notes_on(asked(), said(finish="length")) == ("truncated",)
    assert notes_on(asked(max_tokens=4096), said(finish="length", used=90)) == ("truncated",)
    assert notes_on(asked(max_tokens=4096), said()) == ()
