"""Which endpoints may serve a request: each preference on its own, and the simulator's routing as an oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.money.estimate import routable, why_elsewhere
from or_cache_magic.money.listings import Endpoint, read_endpoints
from or_cache_magic.money.price import read_price
from or_cache_magic.simulator.behaviour import Refusal, Scenario
from or_cache_magic.simulator.catalog import find_model
from or_cache_magic.simulator.routing import route

CHEAP, FAIR, DEAR = (
    read_price({"prompt": f"0.00000{n}", "completion": f"0.00000{n}", "request": "0"}) for n in (1, 2, 4)
)
ENDPOINTS = (
    Endpoint("DeepInfra", "deepinfra/fp8", CHEAP, quantization="fp8"),
    Endpoint("Groq", "groq", FAIR, quantization="bf16"),
    Endpoint("Amazon Bedrock", "amazon-bedrock", DEAR),
    Endpoint("Groq", "groq/flex", CHEAP, "flex", quantization="bf16"),
    Endpoint("Groq", "groq/priority", DEAR, "priority", quantization="bf16"),
)


def tags(body, model="a/b"):
    return [endpoint.tag for endpoint in routable(ENDPOINTS, model, body)]


USUAL = ["deepinfra/fp8", "groq", "amazon-bedrock"]


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ({}, USUAL),
        (None, USUAL),
        ("odd", USUAL),
        ({"only": ["groq"]}, ["groq"]),
        ({"only": ["GROQ", "Amazon Bedrock"]}, ["groq", "amazon-bedrock"]),
        ({"only": ["deepinfra"]}, ["deepinfra/fp8"]),
        ({"only": []}, USUAL),
        ({"only": ["nobody"]}, []),
        ({"ignore": ["deepinfra", "groq"]}, ["amazon-bedrock"]),
        ({"ignore": ["deepinfra/fp8"]}, ["groq", "amazon-bedrock"]),
        ({"order": ["groq"]}, USUAL),
        ({"order": ["groq"], "allow_fallbacks": False}, ["groq"]),
        ({"allow_fallbacks": False}, USUAL),
        ({"quantizations": ["bf16", "unknown"]}, ["groq", "amazon-bedrock"]),
        ({"max_price": {"prompt": 2}}, ["deepinfra/fp8", "groq"]),
        ({"max_price": {"completion": "1.5"}}, ["deepinfra/fp8"]),
        ({"max_price": {"prompt": 0.5}}, []),
        ({"max_price": {"request": 0, "prompt": "odd", "completion": -1, "image": 1}}, USUAL),
        ({"max_price": 1, "only": "groq", "ignore": {"groq": 1}, "quantizations": [3]}, USUAL),
    ],
    ids=repr,
)
def test_routable__heeds_preferences(provider, expected):
    """Each preference as OpenRouter documents it; what has an odd form is no preference."""
    assert tags({"provider": provider}) == expected


@pytest.mark.parametrize(
    ("model", "tier", "expected"),
    [
        ("a/b", None, USUAL),
        ("a/b", "auto", USUAL),
        ("a/b", "flex", ["groq/flex"]),
        ("a/b", "priority", [*USUAL, "groq/priority"]),
        ("a/b", "fast", [*USUAL, "groq/priority"]),
        ("a/b:floor", None, [*USUAL, "groq/flex"]),
        ("a/b:nitro", None, [*USUAL, "groq/priority"]),
        ("a/b:exacto", None, USUAL),
    ],
)
def test_routable__heeds_tiers(model, tier, expected):
    """Flex has no fallback, priority does; variants admit a tier besides the usual one."""
    assert tags({"service_tier": tier}, model) == expected


def test_routable__flex_without_one_is_the_usual_routing():
    """Where nobody offers flex, the request is routed, and priced, as usual."""
    assert routable(ENDPOINTS[:3], "a/b", {"service_tier": "flex"}) == ENDPOINTS[:3]


def test_routable__ignoring_a_provider_leaves_its_other_tiers():
    """A provider's slug does not name its endpoints of other tiers; their whole tag does."""
    assert tags({"provider": {"ignore": ["groq"]}, "service_tier": "flex"}) == ["groq/flex"]
    assert "groq/flex" not in tags({"provider": {"ignore": ["groq/flex"]}, "service_tier": "flex"})


def test_routable__counts_the_cheapest_hour_for_max_price():
    """An endpoint that is cheap enough at another hour may be admitted then."""
    nightly = read_price({"prompt": "0.000004", "completion": "0.000004",
                          "overrides": [{"utc_start": 0, "utc_end": 600, "prompt": "0.000001"}]})  # fmt: skip
    endpoints = (
        Endpoint("A", "a", nightly),
        Endpoint("B", "b", read_price({"prompt": "0.000004", "completion": "0", "discount": 0.5})),
    )
    assert routable(endpoints, "a/b", {"provider": {"max_price": {"prompt": 2}}}) == endpoints
    assert routable(endpoints, "a/b", {"provider": {"max_price": {"prompt": 1}}}) == endpoints[:1]


@pytest.mark.parametrize(
    ("model", "body", "endpoints", "word"),
    [
        ("a/b", {"service_tier": "ultrafast"}, ENDPOINTS, "ultrafast"),
        ("a/b", {"service_tier": ["odd"]}, ENDPOINTS, "not known"),
        ("anthropic/claude-opus-4.6", {"service_tier": "priority"}, ENDPOINTS[:3], "sibling"),
        ("~anthropic/claude-opus-latest:nitro", {}, ENDPOINTS[:3], "sibling"),
        ("a/b", {"reasoning": {"mode": "pro"}}, ENDPOINTS, "pro"),
    ],
)
def test_why_elsewhere__says_what_else_may_answer(model, body, endpoints, word):
    """Tiers that are not known and siblings that are asked instead have prices of their own."""
    assert word in why_elsewhere(endpoints, model, body)


@pytest.mark.parametrize(
    "body",
    [{}, {"service_tier": "auto"}, {"service_tier": "flex"}, {"reasoning": {"effort": "low"}}],
    ids=repr,
)
def test_why_elsewhere__is_empty_as_a_rule(body):
    """An ordinary request is served by what is listed."""
    assert why_elsewhere(ENDPOINTS, "anthropic/claude-opus-4.6", body) == ""


slugs = st.lists(
    st.sampled_from(
        ["openai", "azure", "OpenAI", "groq", "deepinfra", "deepinfra/fp8", "Together", "nobody"]
    ),
    max_size=3,
)


@given(
    st.sampled_from(
        [
            "openai/gpt-5-mini",
            "openai/gpt-5-mini:floor",
            "meta-llama/llama-3.3-70b-instruct",
            "openai/gpt-4o:nitro",
        ]
    ),
    st.fixed_dictionaries(
        {}, optional={"only": slugs, "ignore": slugs, "order": slugs, "allow_fallbacks": st.booleans()}
    ),
    st.sampled_from([None, "auto", "flex", "priority", "fast"]),
    st.integers(0, 9),
)
def test_routable__holds_what_the_simulator_picks(model, provider, tier, seed):
    """Law: whoever serves a request is among those that may."""
    chosen = route({"model": model, "provider": provider, "service_tier": tier}, Scenario(), None, seed)
    listed = find_model(model.partition(":")[0])
    endpoints = read_endpoints({"endpoints": [
        {"tag": e.tag, "provider_name": e.provider, "service_tier": None if e.tier == "default" else e.tier,
         "pricing": {"prompt": str(e.price.prompt), "completion": str(e.price.completion)}} for e in listed.endpoints]})  # fmt: skip
    if not isinstance(chosen, Refusal):
        admitted = routable(endpoints, model, {"provider": provider, "service_tier": tier})
        tiers_only = tier in ("flex", "priority", "fast") and chosen.endpoint.tier != "default"
        # The simulator's other tiers don't heed preferences.
        assert chosen.endpoint.tag in [endpoint.tag for endpoint in admitted] or (tiers_only and provider)
