"""What a call may cost: ranges worked out by hand to the last digit, and why there is sometimes none."""

from __future__ import annotations

from decimal import Decimal

import pytest

from or_cache_magic.core.chat import asked_models
from or_cache_magic.core.tokens import TokenRange
from or_cache_magic.money.estimate import estimate, hides, writes_for_1h
from or_cache_magic.money.listings import Endpoint, ModelListing, ModelPricing
from or_cache_magic.money.price import read_price

NOW_S = 1_767_268_800.0  # 12:00 UTC
TOKENS = TokenRange(900, 1000, 1100)
TEXT_ONLY = ModelListing("a/b", outputs=("text",), context_length=128_000)


def per_million(prompt, completion, **more):
    million = {"input_cache_read": more.pop("read", None), "input_cache_write": more.pop("write", None),
               "input_cache_write_1h": more.pop("write_1h", None), "prompt": prompt, "completion": completion}  # fmt: skip
    texts = {key: format(Decimal(usd) / 1_000_000, "f") for key, usd in million.items() if usd is not None}
    return read_price(texts | more)


def endpoint(price, tag="p", implicit=False, **more):
    return Endpoint(tag.title(), tag, price, implicit_caching=implicit, **more)


def listed(*endpoints, model="a/b", listing=TEXT_ONLY, **more):
    return ModelPricing(model, endpoints, listing, NOW_S - 60, **more)


def usd(body, *endpoints, tokens=TOKENS, at_s=NOW_S, prompt_cache="", **more):
    told = estimate(
        {"model": "a/b", **body}, tokens, [listed(*endpoints, **more)], at_s, prompt_cache=prompt_cache
    )
    return tuple(
        None if amount is None else str(amount.normalize()) for amount in (told.low_usd, told.high_usd)
    )


SONNET = per_million("3", "15", read="0.30", write="3.75", write_1h="6")
MINI = per_million("0.15", "0.60", read="0.075")
MARK = {"type": "ephemeral"}


def marked(**mark):
    part = {"type": "text", "text": "x", "cache_control": {**MARK, **mark}}
    return {"messages": [{"role": "system", "content": [part]}]}


def test_estimate__is_a_range():
    """900 to 1,100 tokens at $3/M and none to 100 at $15/M: $0.0027 to $0.0033 + $0.0015."""
    told = estimate({"model": "a/b", "max_tokens": 100}, TOKENS, [listed(endpoint(SONNET))], NOW_S)
    assert (told.low_usd, told.high_usd) == (Decimal("0.0027"), Decimal("0.0048"))
    assert (told.prompt_tokens, told.completion_tokens, told.unknown_why) == (TOKENS, (0, 100), "")
    assert told.listed_s == NOW_S - 60


def test_estimate__of_a_free_model_is_nothing():
    """A model at price 0 costs exactly 0."""
    assert usd({"max_tokens": 100}, endpoint(per_million("0", "0"))) == ("0", "0")


def test_estimate__spans_all_endpoints():
    """The cheapest provider's least and the dearest one's most, since either may be asked."""
    cheap, dear = (
        endpoint(per_million("0.10", "0.32"), "deepinfra"),
        endpoint(per_million("0.88", "0.88"), "together"),
    )
    # 900 * $0.10/M; 1,100 * $0.88/M + 100 * $0.88/M
    assert usd({"max_tokens": 100}, cheap, dear) == ("0.00009", "0.001056")
    assert usd({"max_tokens": 100, "provider": {"only": ["deepinfra"]}}, cheap, dear) == (
        "0.00009",
        "0.000142",
    )


def test_estimate__spans_all_fallbacks():
    """With fallbacks any of the models may answer; the list's date is the oldest."""
    body = {"model": "a/b", "models": ["c/d"], "max_tokens": 100}
    other = ModelPricing("c/d", (endpoint(MINI),), TEXT_ONLY._replace(id="c/d"), NOW_S - 3600)
    told = estimate(body, TOKENS, [listed(endpoint(SONNET)), other], NOW_S)
    # 900 * $0.15/M; the other's most
    assert (told.low_usd, told.high_usd, told.listed_s) == (
        Decimal("0.000135"),
        Decimal("0.0048"),
        NOW_S - 3600,
    )
    unknown = ModelPricing("e/f", why_not="e/f is not listed")
    told = estimate(body, TOKENS, [listed(endpoint(SONNET)), unknown], NOW_S)
    assert (told.low_usd, told.high_usd, told.unknown_why) == (None, None, "e/f is not listed")


@pytest.mark.parametrize(
    ("body", "prompt_cache", "expected"),
    [
        # Without marks nothing is read or written: 900 * $3/M, 1,100 * $3/M + $0.0015.
        ({}, "", ("0.0027", "0.0048")),
        # With them all may be read ($0.30/M) or written ($3.75/M, an hour $6/M).
        ({}, "5m", ("0.00027", "0.005625")),
        ({}, "1h", ("0.00027", "0.0081")),
        (marked(), "", ("0.00027", "0.005625")),
        (marked(ttl="1h"), "", ("0.00027", "0.0081")),
        (marked(ttl="5m"), "1h", ("0.00027", "0.005625")),  # the user's own marks go before
        ({"cache_control": MARK}, "", ("0.00027", "0.005625")),
        ({"tools": [{"type": "function", "cache_control": {**MARK, "ttl": "1h"}}]}, "", ("0.00027", "0.0081")),
        ({"messages": [{"role": "user", "cache_control": MARK, "content": "x"}, "odd"]}, "", ("0.00027", "0.005625")),
    ],
    ids=repr,
)  # fmt: skip
def test_estimate__allows_for_prompt_caching_with_marks(body, prompt_cache, expected):
    """Where marks are needed they bring the read price below and the write price above."""
    assert usd({"max_tokens": 100, **body}, endpoint(SONNET), prompt_cache=prompt_cache) == expected


def test_estimate__allows_for_automatic_prompt_caching():
    """Where prompt caching is automatic it may read; where writing is dearer it may be billed too."""
    # 900 * $0.075/M; 1,100 * $0.15/M + 100 * $0.60/M
    assert usd({"max_tokens": 100}, endpoint(MINI, implicit=True)) == ("0.0000675", "0.000225")
    billed = per_million("0.15", "0.60", read="0.075", write="0.1875")
    # 1,100 * $0.1875/M + $0.00006
    assert usd({"max_tokens": 100}, endpoint(billed, implicit=True))[1] == "0.00026625"
    assert usd({"max_tokens": 100}, endpoint(billed, implicit=None)) == ("0.0000675", "0.00026625")
    # Google charges for writing only with marks.
    assert usd({"max_tokens": 100}, endpoint(billed, "google-vertex/global", implicit=True))[1] == "0.000225"
    gemini = endpoint(billed, "google-ai-studio", implicit=True)
    assert usd({"max_tokens": 100}, gemini, prompt_cache="5m")[1] == "0.00026625"


def test_estimate__adds_fees_per_request():
    """A fee per request is in the least and in the most."""
    price = per_million("1", "1", request="0.005")
    # 0.005 + 900 * $1/M; 0.005 + 1,200 * $1/M
    assert usd({"max_tokens": 100}, endpoint(price)) == ("0.0059", "0.0062")


def test_estimate__adds_priced_reasoning_to_the_most():
    """Where reasoning has a price of its own it may come on top of the answer's."""
    price = per_million("2", "8", internal_reasoning="0.000003")
    # 900 * $2/M; 1,100 * $2/M + 100 * ($8/M + $3/M)
    assert usd({"max_tokens": 100}, endpoint(price)) == ("0.0018", "0.0033")


def test_estimate__takes_the_higher_rate_of_long_prompts():
    """A prompt that may pass the threshold may cost the higher rate, one that can't does not."""
    price = per_million(
        "1.25", "10", overrides=[{"min_prompt_tokens": 1000, "prompt": "0.0000025", "completion": "0.000015"}]
    )
    # 900 * $1.25/M; 1,100 * $2.50/M + 100 * $15/M
    assert usd({"max_tokens": 100}, endpoint(price)) == ("0.001125", "0.00425")
    assert usd({"max_tokens": 100}, endpoint(price), tokens=TokenRange(900, 950, 1000)) == (
        "0.001125",
        "0.00225",
    )
    assert usd({"max_tokens": 100}, endpoint(price), tokens=TokenRange(1001, 1050, 1100))[0] == "0.0025025"


def test_estimate__takes_the_next_hours_rate_when_it_is_near():
    """A call sent a minute before the rate changes may be billed at either."""
    price = per_million(
        "0.28", "0.42", overrides=[{"utc_start": 1205, "utc_end": 2000, "prompt": "0.00000014"}]
    )
    # 900 * $0.14/M; 1,100 * $0.28/M + 100 * $0.42/M
    assert usd({"max_tokens": 100}, endpoint(price)) == ("0.000126", "0.00035")
    assert usd({"max_tokens": 100}, endpoint(price), at_s=NOW_S - 3600) == ("0.000252", "0.00035")


def test_estimate__takes_a_discount_for_both_readings():
    """A discount may be in the listed prices already, or not."""
    price = per_million("4", "8", discount=0.25)
    # 900 * $4/M * 0.75; 1,100 * $4/M + 100 * $8/M
    assert usd({"max_tokens": 100}, endpoint(price)) == ("0.0027", "0.0052")


@pytest.mark.parametrize(
    ("body", "more", "longest"),
    [
        ({"max_tokens": 100}, {}, 100),
        ({"max_completion_tokens": 80, "max_tokens": 100}, {}, 100),
        ({"max_tokens": 100, "n": 3.0}, {}, 300),
        ({"max_tokens": 100, "n": "3"}, {}, 300),
        ({"max_tokens": 100.0}, {}, 100),
        ({"max_tokens": 100, "n": 3}, {}, 300),
        ({"max_tokens": 100, "n": 0}, {}, 100),
        ({"max_tokens": 100, "reasoning": {"max_tokens": 5000}}, {}, 100),
        ({}, {"max_completion_tokens": 16_384}, 16_384),
        ({"max_tokens": True}, {"max_completion_tokens": 16_384}, 16_384),
        ({"max_tokens": -1, "max_completion_tokens": "x"}, {"max_completion_tokens": 16_384}, 16_384),
        ({}, {"max_completion_tokens": 16_384, "context_length": 8_192}, 7_292),
        ({}, {"context_length": 8_192}, 7_292),
        ({}, {}, 127_100),  # what the model's context leaves
        ({}, {"context_length": 500}, 1),
        ({"max_tokens": 100}, {"supported_parameters": ("max_tokens",)}, 100),
        # A provider that does not know the limit drops it.
        ({"max_tokens": 100}, {"supported_parameters": ("tools",), "max_completion_tokens": 4096}, 4096),
    ],
    ids=repr,
)
def test_estimate__bounds_the_answer(body, more, longest):
    """By the request's limit, else by the provider's, else by what the context leaves; for each choice."""
    told = estimate({"model": "a/b", **body}, TOKENS, [listed(endpoint(SONNET, **more))], NOW_S)
    assert told.completion_tokens == (0, longest)
    assert told.high_usd == Decimal("0.0033") + longest * Decimal("0.000015")


def test_estimate__compression_may_shorten_the_prompt():
    """Where OpenRouter may leave out parts of the prompt, the least is nothing."""
    shortened = {"max_tokens": 100, "plugins": [{"id": "context-compression"}]}
    assert usd(shortened, endpoint(SONNET)) == ("0", "0.0048")
    assert usd({"max_tokens": 100, "transforms": ["middle-out"]}, endpoint(SONNET)) == ("0", "0.0048")


SEARCHES = "it may search the web, which is billed apart"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"plugins": [{"id": "web"}]}, "the plugin web is billed apart"),
        ({"plugins": [{"id": "file-parser"}]}, "the plugin file-parser is billed apart"),
        ({"web_search_options": {"search_context_size": "low"}}, SEARCHES),
        ({"model": "a/b:online"}, SEARCHES),
        ({"tools": [{"type": "openrouter:web_search"}]}, "the tool openrouter:web_search is billed apart"),
        ({"stop_server_tools_when": [{"type": "step_count_is"}]}, "server tools are billed apart"),
        ({"prediction": {"type": "content"}}, "what is rejected of its prediction is billed besides"),
        ({"modalities": ["text", "image"]}, "a/b may answer in more than text"),
    ],
    ids=repr,
)
def test_estimate__knows_no_most_of_what_is_billed_apart(body, why):
    """Searches, plugins, server tools and images open the range above; the tokens are still the least."""
    told = estimate({"model": "a/b", "max_tokens": 100, **body}, TOKENS, [listed(endpoint(SONNET))], NOW_S)
    assert (told.low_usd, told.high_usd, told.unknown_why) == (Decimal("0.0027"), None, why)


@pytest.mark.parametrize(
    "body",
    [
        {"plugins": [{"id": "web", "enabled": False}]},
        {"plugins": [{"id": "response-healing"}]},
        {"plugins": "odd", "tools": {}, "n": None},
        {"tools": [{"type": "function"}]},
        {"modalities": ["text"]},
    ],
    ids=repr,
)
def test_estimate__knows_what_costs_nothing_besides(body):
    """Functions that the caller runs, and plugins that are free or off, leave the range as it is."""
    assert usd({"max_tokens": 100, **body}, endpoint(SONNET)) == ("0.0027", "0.0048")


def test_estimate__of_media_has_no_most():
    """What can't be counted beforehand opens the range above."""
    told = estimate(
        {"model": "a/b", "max_tokens": 9}, TokenRange(10, 300, None), [listed(endpoint(SONNET))], NOW_S
    )
    assert (told.low_usd, told.high_usd) == (Decimal("0.00003"), None)
    assert told.unknown_why == "images, files and sound can't be counted beforehand"


def test_estimate__of_an_unlimited_answer_has_no_most():
    """When neither request nor lists limit the answer, nobody can say what it costs."""
    told = estimate({"model": "a/b"}, TOKENS, [listed(endpoint(SONNET), listing=None)], NOW_S)
    assert (told.low_usd, told.high_usd, told.completion_tokens) == (Decimal("0.0027"), None, (0, None))
    assert told.unknown_why == "nothing limits the length of the answer"


@pytest.mark.parametrize(
    ("body", "listing", "why"),
    [
        ({"model": "@preset/mine"}, ModelPricing("@preset/mine"), "a preset decides what is asked of whom"),
        ({"model": "a/b@preset/mine"}, ModelPricing("a/b@preset/mine"), "a preset decides what is asked of whom"),
        ({"model": "a/b", "preset": "mine"}, listed(endpoint(SONNET)), "a preset decides what is asked of whom"),
        ({}, None, "no model is named, so that the account's default answers"),
        ({"model": "openrouter/auto"}, listed(endpoint(read_price({"prompt": "-1", "completion": "-1"})), model="openrouter/auto"),
         "openrouter/auto picks a model, at that one's price, when it is asked"),
        ({"model": "a/b"}, listed(endpoint(read_price({}))), "a/b has no listed price"),
        ({"model": "a/b"}, listed(endpoint(read_price({"prompt": "0.1", "completion": "0.1", "request": "-1"}))), "a/b has no listed price"),
        ({"model": "a/b"}, ModelPricing("a/b", why_not="a/b is not listed"), "a/b is not listed"),
        ({"model": "a/b"}, listed(), "nobody is listed who offers a/b"),
        ({"model": "a/b", "provider": {"only": ["x"]}}, listed(endpoint(SONNET)), "no provider that is listed meets the request's preferences"),
        ({"model": "a/b", "service_tier": "ultrafast"}, listed(endpoint(SONNET)), "the service tier 'ultrafast' is not known here"),
    ],
    ids=lambda value: None if isinstance(value, ModelPricing) else repr(value),  # its sets have no fixed order
)  # fmt: skip
def test_estimate__without_a_price_is_unknown_both_ways(body, listing, why):
    """Nothing is invented where the price is not known, and the reason is said."""
    told = estimate({"max_tokens": 9, **body}, TOKENS, [listing] if listing else [], NOW_S)
    assert (told.low_usd, told.high_usd, told.unknown_why) == (None, None, why)


def test_estimate__says_when_the_list_does_not_tell_the_hour():
    """A list of the cheap hour does not tell the usual rate; one fetched now may."""
    night = per_million(
        "0.14", "0.42", overrides=[{"utc_start": 1630, "utc_end": 30, "prompt": "0.00000014"}]
    )
    told = estimate({"model": "a/b", "max_tokens": 9}, TOKENS, [listed(endpoint(night))], NOW_S)
    assert (told.low_usd, told.high_usd) == (None, None)
    assert (
        told.unknown_why == "the price of a/b changes by the hour, and the list does not have the next rate"
    )
    assert hides(listed(endpoint(night)), TOKENS, NOW_S)
    assert not hides(listed(endpoint(night)), TOKENS, NOW_S + 8 * 3600)
    assert not hides(listed(endpoint(read_price({"prompt": "-1", "completion": "-1"}))), TOKENS, NOW_S)


@pytest.mark.parametrize(
    "model", ["perplexity/sonar-pro", "openai/gpt-4o-search-preview", "openai/o3-deep-research"]
)
def test_estimate__knows_models_that_search_by_themselves(model):
    """Some models search the web without being asked to, at a fee for each search."""
    told = estimate({"model": model, "max_tokens": 9}, TOKENS, [listed(endpoint(SONNET), model=model)], NOW_S)
    assert (told.high_usd, told.unknown_why) == (None, f"{model} searches the web, which is billed apart")


def test_estimate__knows_models_that_answer_in_images():
    """A model whose outputs are not only text may send what has another price."""
    images = TEXT_ONLY._replace(outputs=("text", "image"))
    assert usd({"max_tokens": 9}, endpoint(SONNET), listing=images) == ("0.0027", None)


@pytest.mark.parametrize(
    ("body", "prompt_cache", "answer"),
    [({}, "", False), ({}, "5m", False), ({}, "1h", True), (marked(), "1h", False), (marked(ttl="1h"), "", True),
     ({**marked(ttl="1h"), "cache_control": MARK}, "", None), ({"cache_control": "odd"}, "", False)],
    ids=repr,
)  # fmt: skip
def test_writes_for_1h__is_told_by_the_marks(body, prompt_cache, answer):
    """The user's own marks go before those that are set at the send; a mixture is neither."""
    assert writes_for_1h(body, prompt_cache) is answer


@pytest.mark.parametrize(
    ("body", "models"),
    [({"model": "a/b", "models": ["c/d", "a/b"]}, ("a/b", "c/d")), ({"models": ["c/d"]}, ("c/d",)),
     ({"model": None, "models": "odd"}, ()), ({"model": 3, "models": [None, ""]}, ())],
    ids=repr,
)  # fmt: skip
def test_asked_models__are_each_named_once(body, models):
    """The model and its fallbacks, in order."""
    assert asked_models(body) == models
