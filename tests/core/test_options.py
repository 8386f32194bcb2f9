"""What an ask takes is checked before anything is sent, whoever gives it, and copied."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.cache.request import build_ask
from or_cache_magic.core.options import FIELDS, OPTIONS, checked, plain
from or_cache_magic.core.settings import Settings
from or_cache_magic.core.units import FOREVER_S
from or_cache_magic.errors import InputError, OptionError, RequestError

SETTINGS = Settings(model="openai/gpt-4o-mini")
KEY = "sk-or-v1-" + "0a" * 32


def taken(**given_: object) -> dict[str, object]:
    """What the options and fields come to, in one dict."""
    _, options, fields = checked("q", given_)
    return {**options, **fields}


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ({"temperature": np.float64(0.5)}, 0.5),
        ({"temperature": decimal.Decimal("0.5")}, 0.5),
        ({"temperature": pd.NA}, None),
        ({"seed": np.int64(1)}, 1),
        ({"seed": -(2**63)}, -(2**63)),
        ({"n": 5.0}, 5),
        ({"n": "5"}, 5),
        ({"tag": np.array(["a", "b"])}, ("a", "b")),
        ({"tag": pd.Series(["a"])}, ("a",)),
        ({"tag": np.str_("a")}, ("a",)),
        ({"ttl": decimal.Decimal(3600)}, 3600.0),
        ({"ttl": pd.Timedelta("1h")}, 3600.0),
        ({"ttl": dt.timedelta(hours=1)}, 3600.0),
        ({"ttl": np.int32(3600)}, 3600.0),
        ({"ttl": 1e18}, FOREVER_S),
        ({"ttl": "never"}, FOREVER_S),
        ({"stream": np.bool_(False)}, False),
        ({"logit_bias": {50256: -100}}, {"50256": -100}),
        ({"stop": ("a", "b")}, ["a", "b"]),
        ({"stop": "a"}, "a"),
        ({"stop": "\n"}, "\n"),
        ({"stop": [" ", "END"]}, [" ", "END"]),
        ({"temperature": np.float32(0.1)}, 0.1),
        ({"logit_bias": {np.int64(5): 1}}, {"5": 1}),
        ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
    ],
    ids=str,
)
def test_checked__reads_what_notebooks_hold(given_, found):
    """Numbers and texts of numpy and pandas, lengths of time, whole numbers in other clothes."""
    (value,) = taken(**given_).values()
    assert (value, type(value)) == (found, type(found))


@pytest.mark.parametrize(
    "given_",
    [
        {"sample": 99999999999999999999},
        {"sample": -1},
        {"sample": True},
        {"tag": [1]},
        {"tag": b"x"},
        {"tag": "\ud800"},
        {"tag": "\x1b[2J"},
        {"logit_bias": {1: 1, "1": 2}},
        {"extra": {"extra_y": {1: 1, "1": 2}}},
        {"tag": ""},
        {"ttl": 10**400},
        {"ttl": True},
        {"ttl": 0},
        {"ttl": math.nan},
        {"ttl": "soon"},
        {"stream": "no"},
        {"mode": "fast"},
        {"mode": ["normal"]},
        {"prompt_cache": "2h"},
        {"model": 7},
        {"system": ["be brief"]},
        {"n": 10**10},
        {"n": 0},
        {"n": 1.5},
        {"temperature": 3},
        {"temperature": math.inf},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"seed": 2**63},
        {"top_p": "high"},
        {"tools": {"type": "function"}},
        {"tools": [1j]},
        {"stop": {"a"}},
        {"metadata": {"a": {"b": b"x"}}},
        {"metadata": {("a",): 1}},
        {"metadata": {"a": 10**400}},
        {"response_format": int},
        {"extra": 1},
        {"extra": {"model": "x"}},
        {"extra": {"extra_y": math.nan}},
    ],
    ids=lambda given_: str(given_)[:60],
)
def test_checked__refuses_what_would_be_paid_for_and_fail(given_):
    """In two lines that name it, and nothing is sent."""
    with pytest.raises(InputError, match="nothing was sent") as caught:
        checked("q", given_)
    assert next(iter(given_)) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "did you mean temperature?"),
        ("max_token", "did you mean max_tokens?"),
        ("modle", "did you mean model?"),
        ("tags", "did you mean tag?"),
        ("respose_format", "did you mean response_format?"),
        ("api_key", "OPENROUTER_API_KEY"),
        ("timeout", "timeout_s"),
        ("extra_headers", "no header can be added"),
        ("extra_body", "extra={…}"),
        ("messages", "as the prompt"),
        ("zzz", "extra={'zzz': …}"),
        ("max_cost", "did you mean max_cost_usd?"),
        ("refresh", "mode='refresh'"),
        ("no_cache", "mode='bypass'"),
        ("format", "-f"),
        ("store", "extra={'store': …}"),
    ],
)
def test_checked__names_what_was_meant(name, meant):
    """A near-miss, an option of other clients, a field that we don't know."""
    with pytest.raises(OptionError, match="nothing was sent") as caught:
        checked("q", {name: KEY})
    assert meant in caught.value.hint
    assert KEY not in str(caught.value)


def test_checked__puts_unknown_fields_beside_the_others():
    """Those of ``extra``, which a known one may stand in too."""
    assert taken(extra={"zzz": {"a": 1}, "top_k": np.int8(3)}) == {"zzz": {"a": 1}, "top_k": 3}
    with pytest.raises(OptionError, match="top_k does not go into extra"):
        taken(extra={"top_k": 3}, top_k=4)


@pytest.mark.parametrize(
    "given_",
    [
        {"user": KEY},
        {"metadata": {"a": [f"Bearer {KEY}"]}},
        {"system": KEY},
        {"extra": {"x": "sk-proj-" + "a1" * 20}},
    ],
)
def test_checked__sends_no_key(given_):
    """What looks like one is refused, and not shown."""
    with pytest.raises(InputError, match="API key") as caught:
        checked("q", given_)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "prompt", [[{"role": "user", "content": b"x"}], [{"role": "user", "content": {1, 2}}]]
)
def test_checked__refuses_messages_that_are_no_json(prompt):
    """Before anything is sent."""
    with pytest.raises(RequestError, match=r"messages\[0\]\.content"):
        checked(prompt, {})


def test_checked__reads_a_pydantic_class_as_its_schema():
    """As a ``response_format``, as OpenAI's own client does, or as a ``schema``: it is the same request."""
    model = pydantic.create_model("Person", name=(str, ...))
    sent, same = (build_ask("q", SETTINGS, {name: model}) for name in ("response_format", "schema"))
    assert sent.key == same.key
    assert sent.schema.kind is model
    form = sent.request.body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Person"
    assert form["json_schema"]["schema"]["properties"]["name"]["type"] == "string"


def test_ask__shares_nothing_with_its_caller():
    """Messages and fields that are changed afterwards change nothing of what is keyed, sent and stored."""
    part = {"type": "text", "text": "before"}
    messages, tools = [{"role": "user", "content": [part]}], [{"type": "function", "function": {"name": "f"}}]
    ask = build_ask(messages, SETTINGS, {"tools": tools})
    sent = json.dumps(ask.request.body)
    part["text"], tools[0]["function"]["name"] = "after", "g"
    messages.append({"role": "user", "content": "more"})
    assert json.dumps(ask.request.body) == sent
    assert "before" in sent


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.decimals(),
        st.sampled_from([10**4000, object(), np.float32("nan"), np.array([1, "a"], object), pd.NaT, set(), 1j]),
        st.timedeltas(),
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner), st.dictionaries(st.one_of(st.text(), st.integers(), st.none()), inner)
    ),
)  # fmt: skip
NAMES = st.one_of(st.sampled_from([*OPTIONS, *FIELDS, "extra", "api_key", "temprature"]), st.text())


@given(st.one_of(st.text(), ANYTHING), st.dictionaries(NAMES, ANYTHING, max_size=3))
def test_build_ask__takes_anything_or_says_why_not(prompt, fields):
    """Whatever is given becomes a request with a key that can be written as JSON, or an error of ours."""
    try:
        ask = build_ask(prompt, SETTINGS, fields)
    except InputError:
        return
    assert json.loads(json.dumps(ask.request.body, allow_nan=False).encode()) == ask.request.body
    assert ask.policy.ttl_s is None or ask.policy.ttl_s > 0


@given(ANYTHING)
def test_plain__gives_new_values(value):
    """Nothing of what is given back can be changed through what was given."""
    try:
        found = plain(value)
    except ValueError:
        return
    assert json.dumps(found, allow_nan=False)
    if isinstance(value, (dict, list)):
        assert found is not value
