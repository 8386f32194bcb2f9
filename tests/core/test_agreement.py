"""`agreement`: what two answers are compared by, and how sure a share is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.agreement import compare, wilson
from or_cache_magic.core.records import Answer, Choice

_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "film", "schema": {"properties": {"title": {}, "year": {}, "tags": {}}}},
}


def answer(content, **message):
    return Answer((Choice({"role": "assistant", "content": content, **message}, "stop"),))


def of_texts(old, new, body=None):
    return compare(body or {}, answer(old), answer(new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Spam", " spam\n"),
        ("a  b\tc", "a b\nc"),
        ("ﬁne", "FINE"),
        ("STRASSE", "straße"),
        ("42", "42.0"),
        ("1,000", "1000.00"),
        ("-0", "0"),
        ("4.2e1", "42"),
        ('{"a": 1, "b": [true]}', '{"b": [true], "a": 1.0}'),
        ('{"a": 0.10}', '{"a":0.1}'),
        ('{"name": "Ada  L"}', '{"name": "ada l"}'),
    ],
)
def test_compare__normalised_texts_agree(old, new):
    """They differ to the letter, and say the same: case, white space, Unicode, numbers, order of names."""
    assert of_texts(old, new).whole == (False, True)
    assert of_texts(new, old).whole == (False, True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("yes", "no"),
        ("not ok", "ok"),
        ("", "0"),
        ("1", "-1"),
        ("1,5", "15"),
        ("Python 3.10 is it", "Python 3.1 is it"),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992.0}'),
        ('{"a": null}', "{}"),
        ("see\n```json\n{}\n```", "don't\n```json\n{}\n```"),
    ],
)
def test_compare__other_answers_differ(old, new):
    """Whatever is said otherwise is no agreement, however little of the text it is."""
    assert of_texts(old, new).whole == (False, False)


def test_compare__same_text_is_exact():
    """What is the same to the letter is the same normalised, whatever it is."""
    for text in ("", "a", '{"a": NaN}', "\ud800", "[" * 5_000):
        assert of_texts(text, text).whole == (True, True)


def test_compare__of_a_fence_where_json_was_asked_for():
    """Where JSON was asked for, its fence is no part of the answer."""
    fenced, body = '```json\n{"a": 1}\n```', {"response_format": {"type": "json_object"}}
    assert of_texts('{"a": 1}', fenced, body).whole == (False, True)
    assert of_texts('{"a": 1}', fenced).whole == (False, False)


def test_compare__tool_calls_but_for_their_ids():
    """A call's id is another each time; its name and arguments are what is said."""

    def calling(id_, arguments, name="find"):
        call = {"id": id_, "index": 0, "type": "function", "function": {"name": name, "arguments": arguments}}
        return answer(None, tool_calls=[call], reasoning=id_)

    before = calling("call_a", '{"q": 1}')
    assert compare({}, before, calling("call_b", '{"q": 1}')).whole == (True, True)
    assert compare({}, before, calling("call_b", '{ "q": 1.0 }')).whole == (False, True)
    assert compare({}, before, calling("call_b", '{"q": 2}')).whole == (False, False)
    assert compare({}, before, calling("call_a", '{"q": 1}', "drop")).whole == (False, False)


def test_compare__every_choice_counts():
    """Of several choices each is compared with its like."""
    one, other = Choice({"content": "a"}, "stop"), Choice({"content": "b"}, "stop")
    assert compare({}, Answer((one, other)), Answer((one, one))).whole == (False, False)
    assert compare({}, Answer((one,)), Answer((one, one))).whole == (False, False)


def test_compare__fields_of_a_schema():
    """Each field agrees or not by itself, in the schema's order; one that only one answer has differs."""
    found = of_texts(
        '{"tags": ["B", "a"], "title": "Up", "year": 2009, "more": 1}',
        '{"title": "up", "year": 2009, "tags": ["b", "A"]}',
        {"response_format": _SCHEMA},
    )
    assert (found.schema, list(found.fields)) == ("film", ["title", "year", "tags", "more"])
    assert found.fields == {
        "title": (False, True),
        "year": (True, True),
        "tags": (False, True),
        "more": (False, False),
    }
    assert found.whole == (False, False)
    for unfit in ("no JSON", "[1]"):
        assert of_texts("{}", unfit, {"response_format": _SCHEMA}).fields == {}


def test_compare__deep_json_differs_and_raises_nothing():
    """What is nested deeper than Python goes is compared as text."""
    deep = '{"a": ' * 900 + "1" + "}" * 900
    assert of_texts(deep, deep.replace("1", "2")).whole == (False, False)


@given(st.text(max_size=30), st.text(max_size=30))
def test_compare__is_symmetric(old, new):
    """Which of the two was there first changes nothing, and exact agreement is agreement."""
    found = of_texts(old, new).whole
    assert found == of_texts(new, old).whole
    assert found.normalised or not found.exact


@pytest.mark.parametrize(
    ("agreed", "compared", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (95, 100, 0.8882, 0.9785)],
)
def test_wilson__known_values(agreed, compared, low, high):
    """The ends that tables of the score interval have."""
    found = wilson(agreed, compared)
    assert math.isclose(found[0], low, abs_tol=5e-5)
    assert math.isclose(found[1], high, abs_tol=5e-5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson__holds_the_share(agreed, more):
    """It is within 0 and 1, around the share; of nothing it is all there is."""
    low, high = wilson(agreed, agreed + more)
    assert 0 <= low <= high <= 1
    if agreed + more:
        assert low <= agreed / (agreed + more) <= high
        assert (low == 0, high == 1) == (agreed == 0, more == 0)
    else:
        assert (low, high) == (0, 1)
