"""An answer as a value: its text, and the facts of its ask."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.records import FREE, Answer, Choice, Cost, Outcome, Request, RequestKey, Usage

REQUEST = Request({"model": "m/x", "messages": [{"role": "user", "content": "Hi"}]})
KEY = RequestKey("ab" * 32, b"")
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def completion(content="Hello", kind="hit", finish="stop", **message):
    answer = Answer(
        (Choice({"role": "assistant", "content": content, **message}, finish),),
        "m/served",
        "P",
        Usage(3, 4),
        Cost(Decimal("0.01"), "reported"),
        created_s=1_767_268_800.0,
    )
    return Completion(Outcome(kind, KEY, answer, paid=FREE, saved_usd=Decimal("0.01")), REQUEST)


def test_completion__is_its_text():
    """A str in every respect."""
    value = completion("Hello")
    assert isinstance(value, str)
    assert value == "Hello"
    assert f"{value}!" == "Hello!"
    assert value.upper() == "HELLO"
    assert {value: 1}["Hello"] == 1
    assert completion(None) == ""


def test_completion__joins_parts_of_text():
    """An answer in parts is their text."""
    assert completion([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]) == "Hello"


def test_completion__knows_where_it_came_from():
    """The facts are those of the call that bought it; what was paid and saved are this ask's."""
    value = completion()
    assert (value.model, value.provider, value.finish_reason) == ("m/served", "P", "stop")
    assert (value.cost_usd, value.paid_usd, value.saved_usd) == (Decimal("0.01"), 0, Decimal("0.01"))
    assert value.usage == Usage(3, 4)
    assert value.key == "ab" * 32
    assert value.created == datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert value.reasoning is None
    assert value.tool_calls == []


@pytest.mark.parametrize(
    ("kind", "cached"),
    [("hit", True), ("replay", True), ("stale", True), ("miss", False), ("refresh", False), ("bypass", False), ("coalesced", False)],
)  # fmt: skip
def test_completion__says_if_it_was_cached(kind, cached):
    """Served from the completion cache, for whatever reason; a follower's answer came from a call."""
    assert completion(kind=kind).cached is cached


def test_completion__goes_on_as_messages():
    """The conversation and the answer, as a copy: what is appended changes nothing here."""
    value = completion(None, finish="tool_calls", tool_calls=[CALL])
    messages = value.messages
    assert messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    messages[0]["content"] = "changed"
    messages[1]["tool_calls"][0]["id"] = "changed"
    value.tool_calls[0]["id"] = "changed"
    assert value.messages[0]["content"] == "Hi"
    assert value.tool_calls == [CALL]


@pytest.mark.parametrize(
    ("content", "data"),
    [('{"a": [1]}', {"a": [1]}), ("7", 7), ("no json", None), ("", None), ("[" * 100_000, None)],
)
def test_completion__parses_json_on_demand(content, data):
    """The answer as JSON, where it is some."""
    assert completion(content).data == data


def test_completion__keeps_data_that_was_attached():
    """What its caller parsed goes before."""
    value = completion("1")
    value.attach({"parsed": True})
    assert value.data == {"parsed": True}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_completion__can_be_copied_and_pickled(copied):
    """For notebooks' stores and worker processes."""
    value = completion(reasoning="because")
    value.attach([1])
    again = copied(value)
    assert again == value
    assert type(again) is Completion
    assert (again.outcome, again.request, again.data, again.reasoning) == (
        value.outcome,
        REQUEST,
        [1],
        "because",
    )


def test_completion__shows_no_script():
    """What Jupyter renders is made harmless; the value keeps the raw text."""
    raw = "Hi <script>alert(1)</script>"
    bundle = completion(raw)._repr_mimebundle_()
    assert bundle["text/plain"] == raw
    assert "<script" not in bundle["text/markdown"]
