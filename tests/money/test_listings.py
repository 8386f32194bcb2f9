"""OpenRouter's lists: what is read of them, and that no list is too odd to read."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.money.listings import (
    Endpoint,
    ModelListing,
    Name,
    read_endpoints,
    read_model,
    remembering,
    trimmed,
)
from or_cache_magic.money.model_list import ModelList
from or_cache_magic.money.price import Price

MODEL = {
    "id": "anthropic/claude-sonnet-4.6",
    "canonical_slug": "anthropic/claude-4.6-sonnet-20260217",
    "name": "Anthropic: Claude Sonnet 4.6",
    "created": 1771342990,
    "description": "A long text. " * 50,
    "context_length": 1000000,
    "architecture": {
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "tokenizer": "Claude",
    },
    "pricing": {"prompt": "0.000003", "completion": "0.000015", "input_cache_write_1h": "0.000006"},
    "top_provider": {"context_length": 900000, "max_completion_tokens": 128000, "is_moderated": True},
    "supported_parameters": ["max_tokens", "tools"],
    "expiration_date": "2027-05-01",
    "alias_target": {"slug": "anthropic/claude-sonnet-4.6", "name": "x"},
    "benchmarks": {"x": [1, 2, 3]},
}
ENDPOINT = {
    "provider_name": "OpenAI",
    "tag": "openai/priority",
    "quantization": "fp8",
    "context_length": "400000",
    "max_completion_tokens": 128000.0,
    "supported_parameters": ["max_tokens"],
    "supports_implicit_caching": True,
    "pricing": {"prompt": "0.000001", "completion": "0.000002"},
    "uptime_last_30m": 99.9,
}


def test_read_model__has_what_a_model_tells():
    """Every field that is used, and nothing else."""
    assert read_model(MODEL) == ModelListing(
        "anthropic/claude-sonnet-4.6", "anthropic/claude-4.6-sonnet-20260217", 1_000_000, ("text",),
        "anthropic/claude-sonnet-4.6", inputs=("text", "image"), name="Anthropic: Claude Sonnet 4.6",
        created_s=1_771_342_990, max_completion_tokens=128_000, parameters=("max_tokens", "tools"),
        expires="2027-05-01",
        price=Price(Decimal("0.000003"), Decimal("0.000015"), input_cache_write_1h=Decimal("0.000006")),
    )  # fmt: skip
    assert read_model(MODEL | {"context_length": None}).context_length == 900_000


@pytest.mark.parametrize(
    ("usd", "routes"),
    [("-1", True), ("-0.5", True), ("0", False), ("0.1", False), ("x", False), (None, False)],
)
def test_read_model__knows_what_is_listed_below_zero(usd, routes):
    """A price below zero marks what picks a model at each call, read anew or from what is kept."""
    listed = MODEL | {"pricing": {"prompt": "0", "completion": usd}}
    assert [read_model(data).routes for data in (listed, trimmed(listed))] == [routes, routes]


def test_read_model__leaves_out_what_is_broken():
    """A model without an id is none, a field of another form is as if it were not there."""
    ids = ["", 7, "x" * 501, "a/\x1b[31m", "\ud800", None]
    assert [read_model({"id": broken}) for broken in ids] == [None] * len(ids)
    odd = {
        "id": "a/b",
        "context_length": "many",
        "architecture": [],
        "top_provider": None,
        "alias_target": "c/d",
    }
    assert read_model(odd) == ModelListing("a/b")
    assert read_model({"id": "a/b", "architecture": {"output_modalities": ["x", 3, ""]}}).outputs == ("x",)


@pytest.mark.parametrize("data", [None, 1, "x", {}, [], {"data": []}, {"endpoints": 3}, [MODEL]], ids=repr)
def test_read__of_nothing_is_nothing(data):
    """What is no object of OpenRouter's has no model and no endpoints."""
    assert read_model(data) is None
    assert read_endpoints(data) == ()


def test_read_endpoints__has_what_an_endpoint_tells():
    """The tier is told by its field, else by the tag; numbers may be texts."""
    plain = {"tag": "deepinfra/fp8", "pricing": {"prompt": "0", "completion": "0"}}
    ultra = {"tag": "x", "service_tier": "ultrafast"}
    endpoints = read_endpoints({"endpoints": [ENDPOINT, plain, ultra, {}, None, {"pricing": {}}]})
    price = Price(Decimal("0.000001"), Decimal("0.000002"))
    assert endpoints[0] == Endpoint(
        "OpenAI", "openai/priority", price, "priority", "fp8", 400_000, 128_000, ("max_tokens",), True
    )
    assert endpoints[1] == Endpoint("", "deepinfra/fp8", Price(Decimal(0), Decimal(0)))
    assert (endpoints[2].tier, endpoints[2].price.unknown, len(endpoints)) == (
        "ultrafast",
        {"prompt", "completion"},
        3,
    )


@pytest.mark.parametrize(
    ("asked", "base", "variants"),
    [
        ("openai/gpt-5-mini", "openai/gpt-5-mini", set()),
        ("openai/gpt-5-mini:nitro", "openai/gpt-5-mini", {"nitro"}),
        ("a/b:free", "a/b:free", set()),
        ("a/b:extended:floor", "a/b:extended", {"floor"}),
        ("a/b:free:online", "a/b:free", {"online"}),
        ("~anthropic/claude-opus-latest:exacto", "~anthropic/claude-opus-latest", {"exacto"}),
    ],
)
def test_name__is_taken_apart(asked, base, variants):
    """Variants that are listed stay in the id; those that any model has are wishes."""
    assert Name.of(asked) == (base, variants)
    assert Name.of(asked).is_id


@pytest.mark.parametrize(
    "asked",
    ["", "gpt-4o", "@preset/mine", "a/b@preset/mine", "a/b/../key", "a/b?x=1", "a/b c", "é/b", "a/b\n"],
)
def test_name__that_is_no_id(asked):
    """A preset, a path or other text is no model's id, so that it is never asked for."""
    assert not Name.of(asked).is_id


def test_trimmed__is_small_and_reads_the_same():
    """What is kept of a list is what is read of it."""
    assert "description" not in trimmed(MODEL)
    assert read_model(trimmed(MODEL)) == read_model(MODEL)
    assert read_endpoints(trimmed({"endpoints": [ENDPOINT], "id": "x"})) == read_endpoints(
        {"endpoints": [ENDPOINT]}
    )


fields = st.sampled_from(
    [
        *MODEL,
        *ENDPOINT,
        "models",
        "was",
        "until",
        "prompt",
        "completion",
        "discount",
        "overrides",
        "utc_days",
        "endpoints",
        "slug",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text(max_size=8) | st.sampled_from(["1", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=6),
    max_leaves=30,
)  # fmt: skip


@given(
    json_values
    | st.fixed_dictionaries({"id": json_values, "architecture": json_values, "top_provider": json_values})
    | st.fixed_dictionaries({"endpoints": json_values})
)
def test_trimmed__law(data):
    """Law: any JSON can be read and trimmed, what is kept is JSON, and reads as the whole did."""
    kept = json.loads(json.dumps(trimmed(data), allow_nan=False))
    if isinstance(data, dict) and "endpoints" in data:
        assert read_endpoints(kept) == read_endpoints(data)
    else:
        assert read_model(kept) == read_model(data)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": json_values | st.just("a/b")}, optional=dict.fromkeys(MODEL.keys() - {"id"}, json_values)
        )
    )
)
def test_trimmed__law_of_lists(data):
    """Law: any list of models can be kept, read, searched, and compared with any other; what is kept is JSON."""
    kept = json.loads(json.dumps(trimmed(data), allow_nan=False))
    again = remembering(kept, trimmed([{**item, "pricing": MODEL["pricing"]} for item in data]), 1.0)
    every = ModelList(trimmed(json.loads(json.dumps(again, allow_nan=False))), 0.0)
    assert (
        [model.id for model in every.listed]
        == list(every.ids)
        == [m["id"] for m in kept["models"] if "id" in m]
    )
    assert set(every.matching(free=True)) <= set(every.matching()) == set(every.listed)


@pytest.mark.parametrize(
    ("day", "read"),
    [("2027-05-01T00:00:00Z", "2027-05-01"), ("9999-12-31", ""), ("0001-01-01", ""), ("soon", ""), (7, "")],
)
def test_read_model__has_days_and_times_that_a_table_can_hold(day, read):
    """What is further than a DataFrame's clock goes is not known."""
    odd = read_model({"id": "a/b", "expiration_date": day, "created": 10**12})
    assert (odd.expires, odd.created_s) == (read, None)
