"""Amounts counted from tokens: only where no reading of the list leaves a doubt."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import Usage
from or_cache_magic.money.call_cost import CompletedCall, prompt_cache_saved, tokens_cost
from or_cache_magic.money.listings import Endpoint, ModelListing, ModelPricing
from or_cache_magic.money.price import Price, read_price
from or_cache_magic.simulator.billing import TokenCounts, bill
from or_cache_magic.simulator.catalog import Price as SimulatedPrice

NOW_S = 1_767_268_800.0  # 12:00 UTC
SONNET = {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "0.0000003",
          "input_cache_write": "0.00000375", "input_cache_write_1h": "0.000006"}  # fmt: skip
PLAIN = {"prompt": "0.000001", "completion": "0.000002"}
USAGE = Usage(1000, 100, 0, 0, 0)
BODY = {"model": "a/b", "messages": [{"role": "user", "content": "x"}]}


def listed(*pricings, listed_s=NOW_S, names=("P", "Q", "R")):
    endpoints = tuple(
        Endpoint(name, name.lower(), read_price(p)) for name, p in zip(names, pricings, strict=False)
    )
    return ModelPricing("a/b", endpoints, ModelListing("a/b", outputs=("text",)), listed_s)


def cost(*pricings, usage=USAGE, body=BODY, at_s=NOW_S, **more):
    return tokens_cost(CompletedCall(usage, listed(*pricings), body, at_s, **more))


def test_tokens_cost__by_hand():
    """1,000 * $3/M + 100 * $15/M; of 1,000 tokens 600 read at $0.30/M and 300 written at $3.75/M, or $6/M."""
    assert cost(SONNET) == Decimal("0.0045")
    cached = Usage(1000, 100, 600, 300, 0)
    # 100 * $3 + 600 * $0.30 + 300 * $3.75 + 100 * $15, a million
    assert cost(SONNET, usage=cached, written_1h=False) == Decimal("0.003105")
    assert cost(SONNET, usage=cached, written_1h=True) == Decimal("0.00378")
    assert cost(SONNET, usage=cached) is None
    assert cost(PLAIN | {"request": "0.005"}) == Decimal("0.0062")


def test_tokens_cost__needs_the_provider_or_equal_prices():
    """When providers charge alike, any may have served; when they don't, it must be known who did."""
    assert cost(PLAIN, PLAIN) == Decimal("0.0012")
    assert cost(PLAIN, SONNET) is None
    assert cost(PLAIN, SONNET, provider="Q") == Decimal("0.0045")
    assert cost(PLAIN, SONNET, provider="Nobody") is None


@pytest.mark.parametrize(
    "usage",
    [
        Usage(None, 100, 0, 0, 0),
        Usage(1000, None, 0, 0, 0),
        Usage(1000, 100, None, 0, 0),
        Usage(1000, 100, 0, None, 0),
    ],
    ids=repr,
)
def test_tokens_cost__needs_every_count(usage):
    """A count that was not told, and has a price of its own, leaves a doubt."""
    assert cost(SONNET, usage=usage) is None


def test_tokens_cost__needs_no_count_without_a_price_of_its_own():
    """Without read and write prices it does not matter how many tokens were cached."""
    assert cost(PLAIN, usage=Usage(1000, 100)) == Decimal("0.0012")


@pytest.mark.parametrize(
    ("pricing", "usage"),
    [
        (PLAIN | {"prompt": "-1"}, USAGE),
        (PLAIN | {"request": "-1"}, USAGE),
        (PLAIN | {"input_cache_read": "-1"}, Usage(1000, 100, 5, 0, 0)),
        (PLAIN | {"internal_reasoning": "0.000003"}, Usage(1000, 100, 0, 0, 50)),
        (PLAIN | {"internal_reasoning": "0.000003"}, Usage(1000, 100, 0, 0, None)),
        (PLAIN | {"discount": 0.1}, USAGE),
        (PLAIN | {"input_cache_read": "0"}, Usage(1000, 100, 5, 0, 0)),
        (PLAIN | {"overrides": [{"utc_start": 1155, "utc_end": 1300, "prompt": "0.000005"}]}, USAGE),
        (PLAIN | {"overrides": [{"region": "eu", "prompt": "0.000005"}]}, USAGE),
    ],
    ids=repr,
)
def test_tokens_cost__is_unknown_in_doubt(pricing, usage):
    """Unknown prices, discounts, zeros that may mean either, an hour that began during the call."""
    assert cost(pricing, usage=usage) is None


def test_tokens_cost__is_known_where_every_hour_costs_the_same():
    """An hour's price that does not bear on the call leaves no doubt: of long prompts, or of what it did not use."""
    long = {"utc_start": 1155, "utc_end": 1400, "min_prompt_tokens": 1000, "prompt": "0.000005"}
    searches = {"utc_start": 1155, "utc_end": 1400, "web_search": "0.5"}
    assert cost(PLAIN | {"overrides": [long, searches]}) == Decimal("0.0012")


@pytest.mark.parametrize(
    "more",
    [
        {"models": ["c/d"]},
        {"model": None},
        {"plugins": [{"id": "web"}]},
        {"service_tier": "ultrafast"},
        {"modalities": ["image"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
    ids=repr,
)
def test_tokens_cost__is_unknown_where_more_than_tokens_is_billed(more):
    """Another model, a search, an image: not to be counted from tokens."""
    assert cost(PLAIN, body=BODY | more) is None


def test_tokens_cost__needs_a_list_of_the_time():
    """A list that is more than a day from the call tells nothing of it."""
    assert cost(PLAIN, at_s=NOW_S + 86_400) == Decimal("0.0012")
    assert cost(PLAIN, at_s=NOW_S + 86_401) is None
    assert cost(PLAIN, at_s=NOW_S - 86_401) is None
    assert tokens_cost(CompletedCall(USAGE, listed(PLAIN, listed_s=None), BODY, NOW_S)) is None


def saved(*pricings, usage, prompt_cost_usd=None, **more):
    return prompt_cache_saved(CompletedCall(usage, listed(*pricings), BODY, NOW_S, **more), prompt_cost_usd)


def test_prompt_cache_saved__by_hand():
    """600 * ($3 - $0.30) a million is saved by reading; 300 * ($3.75 - $3), an hour ($6 - $3), lost by writing."""
    assert saved(SONNET, usage=Usage(1000, 100, 600, 0)) == Decimal("0.00162")
    assert saved(SONNET, usage=Usage(1000, 100, 0, 300), written_1h=False) == Decimal("-0.000225")
    assert saved(SONNET, usage=Usage(1000, 100, 0, 300), written_1h=True) == Decimal("-0.0009")
    assert saved(SONNET, usage=Usage(1000, 100, 600, 300), written_1h=False) == Decimal("0.001395")


@pytest.mark.parametrize("usage", [USAGE, Usage(1000, 100), Usage()], ids=repr)
def test_prompt_cache_saved__is_nothing_without_caching(usage):
    """What neither read nor wrote saved nothing, whatever the prices."""
    assert prompt_cache_saved(CompletedCall(usage, ModelPricing("a/b"), BODY, NOW_S)) == 0


def test_prompt_cache_saved__is_checked_against_the_reply():
    """Only prices that come to the reported cost of the prompt count; else it is unknown."""
    usage = Usage(1000, 100, 600, 300)
    reported = Decimal("0.001605")  # 100 * $3 + 600 * $0.30 + 300 * $3.75, a million
    assert saved(SONNET, usage=usage, prompt_cost_usd=reported) == Decimal("0.001395")
    # It also tells how long the written tokens are kept …
    assert saved(SONNET, usage=usage, prompt_cost_usd=Decimal("0.00228")) == Decimal("0.00072")
    # … and who served it, though nobody said.
    assert saved(PLAIN, SONNET, usage=usage, prompt_cost_usd=reported) == Decimal("0.001395")
    assert saved(SONNET, usage=usage, written_1h=False, prompt_cost_usd=Decimal("0.0016")) is None
    assert saved(SONNET, usage=usage, provider="Nobody", prompt_cost_usd=reported) is None


def test_prompt_cache_saved__is_unknown_in_doubt():
    """Prices that differ, or are unknown, give no figure unless the reply decides."""
    usage = Usage(1000, 100, 600, 0)
    assert saved(SONNET, PLAIN, usage=usage) is None
    assert saved(PLAIN | {"prompt": "-1"}, usage=usage) is None
    assert saved(SONNET, usage=usage._replace(prompt_tokens=None)) is None
    free_reads = PLAIN | {"input_cache_read": "0"}
    assert saved(free_reads, usage=usage) is None
    assert saved(free_reads, usage=usage, prompt_cost_usd=Decimal("0.0004")) == Decimal("0.0006")
    assert saved(free_reads, usage=usage, prompt_cost_usd=Decimal("0.001")) == 0
    assert saved(SONNET | {"discount": 0.5}, usage=usage, prompt_cost_usd=Decimal("0.00069")) == Decimal(
        "0.00081"
    )


def test_prompt_cache_saved__of_a_price_by_the_hour():
    """The reply's own amount says which hour's prices were billed, unless they come to the same."""
    night = {"utc_start": 1155, "utc_end": 30, "prompt": "0.0000015", "input_cache_read": "0.00000015"}
    usage = Usage(1000, 100, 600, 0)
    priced = SONNET | {"overrides": [night]}
    assert saved(priced, usage=usage) is None
    # 400 * $3 + 600 * $0.30, and half of it, a million
    assert saved(priced, usage=usage, prompt_cost_usd=Decimal("0.00138")) == Decimal("0.00162")
    assert saved(priced, usage=usage, prompt_cost_usd=Decimal("0.00069")) == Decimal("0.00081")
    # When all was read, the cost of reading does not say what the same would have cost unread.
    whole = Usage(600, 100, 600, 0)
    only_prompt = SONNET | {"overrides": [night | {"input_cache_read": None, "prompt": "0.0000015"}]}
    assert saved(only_prompt, usage=whole, prompt_cost_usd=Decimal("0.00018")) is None
    hidden = SONNET | {"overrides": [{"region": "eu", "prompt": "0.000003"}]}
    assert saved(hidden, usage=whole, prompt_cost_usd=Decimal("0.00018")) is None
    assert saved(hidden, usage=usage, prompt_cost_usd=Decimal("0.00138")) == Decimal("0.00162")


rates = st.integers(1, 500).map(lambda n: Decimal(n) / 10**8)
maybe = st.none() | rates


@given(
    st.builds(SimulatedPrice, rates, rates, maybe, maybe, maybe),
    st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.booleans(),
)  # fmt: skip
def test_tokens_cost__is_what_the_simulator_bills(price, plain, cached, written, completion, for_1h):
    """Law: calculated amounts are the simulator's bill and discount, to the last digit."""
    counts = TokenCounts(plain + cached + written, completion, cached, written, written if for_1h else 0)
    billed = bill(counts, price)
    ours = Price(price.prompt, price.completion, input_cache_read=price.cache_read,
                 input_cache_write=price.cache_write, input_cache_write_1h=price.cache_write_1h)  # fmt: skip
    usage = Usage(counts.prompt, completion, cached, written, 0)
    endpoints = ModelPricing(
        "a/b", (Endpoint("P", "p", ours),), ModelListing("a/b", outputs=("text",)), NOW_S
    )
    call = CompletedCall(usage, endpoints, BODY, NOW_S, written_1h=for_1h)
    assert tokens_cost(call) == billed.total_usd
    assert prompt_cache_saved(call, billed.prompt_usd) == billed.discount_usd
