"""What a call may cost before it is made: a range that its cost lies in, never one figure that may be false.

At the prices that are listed. What an account has agreed apart (a fee on keys of one's own, the discount for
sharing data, plugins that are on by default) no list has, and it is not in the range. The range is over every
endpoint that the request may be routed to: which these are is the second half of this file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import (
    as_list,
    as_mapping,
    asked_models,
    billed_apart,
    has_media,
    messages_of,
)
from or_cache_magic.core.options import FIELDS
from or_cache_magic.core.tokens import adds_nothing
from or_cache_magic.core.units import ZERO_USD, read_count, read_number
from or_cache_magic.money.file_fees import file_fee
from or_cache_magic.money.listings import Endpoint, ModelPricing, Name

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.core.tokens import TokenRange
    from or_cache_magic.money.price import Price

BILLED_WITHIN_S: Final = 600
"""How long after it was sent a call may be billed, perhaps at the next hour's rate: then it is given up."""

_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_MOST_TOKENS: Final = 10**9

_MEDIA: Final = ("image_url", "file", "input_audio")
"""Parts of messages that count as tokens of the prompt, at prices that are listed."""

_FREE_AUTOMATIC_WRITES: Final = "google"
"""Providers, by their slugs, that charge for writing only where marks ask for it, and list that price."""


class Estimate(NamedTuple):
    """What a call may cost.

    Attributes:
        low_usd: The least that an answer costs; None is unknown.
        high_usd: The most; None is unknown.
        prompt_tokens: How many tokens will be sent.
        completion_tokens: The least and the most that will come back; a most of None has no limit.
        unknown_why: Why `high_usd` is unknown, as a clause for people; empty when it is known.
        listed_s: When the oldest of the price lists was fetched; None when there is none.
        files_usd: What of the most is for reading files, by their pages.
    """

    low_usd: Decimal | None
    high_usd: Decimal | None
    prompt_tokens: TokenRange
    completion_tokens: tuple[int, int | None]
    unknown_why: str = ""
    listed_s: float | None = None
    files_usd: Decimal = ZERO_USD


def estimate(
    body: Mapping[str, Any],
    tokens: TokenRange,
    pricings: Sequence[ModelPricing],
    at_s: float,
    *,
    prompt_cache: str = "",
) -> Estimate:
    """Return what a call may cost, over all endpoints that may serve it.

    Args:
        body: The request.
        tokens: How many tokens its prompt has.
        pricings: What is known of each of `asked_models`.
        at_s: When it is sent, UTC epoch seconds.
        prompt_cache: `records.Request.prompt_cache`: marks that are set as it is sent.
    """
    listed_s = min((one.listed_s for one in pricings if one.listed_s is not None), default=None)
    why = _why_no_model(body)
    if why:
        return Estimate(None, None, tokens, (0, None), why, listed_s)
    terms = _Terms.of(body, tokens, at_s, prompt_cache)
    spans = [_model_span(one, terms) for one in pricings]
    unpriced = next((span.why for span in spans if span.low_usd is None), "")
    fee = file_fee(body)
    why = unpriced or billed_apart(body, files=False) or fee.why
    why = why or next((span.why for span in spans if span.why), "")
    whole = _union(spans, why)
    low_usd = None if whole.low_usd is None else whole.low_usd + fee.low_usd
    high_usd = None if whole.high_usd is None or fee.high_usd is None else whole.high_usd + fee.high_usd
    files_usd = fee.high_usd or ZERO_USD
    return Estimate(low_usd, high_usd, tokens, (0, whole.longest), why, listed_s, files_usd)


def hides(pricing: ModelPricing, tokens: TokenRange, at_s: float) -> bool:
    """Return whether a list of another hour hides a price that one fetched now may have."""
    return any(
        endpoint.price.between(tokens.low, tokens.high, at_s, at_s + BILLED_WITHIN_S)[1].unknown
        - endpoint.price.unknown
        for endpoint in pricing.endpoints
        if endpoint.price.overrides
    )


def _why_no_model(body: Mapping[str, Any]) -> str:
    """Return why not even the model is known that will answer; empty when it is."""
    names = asked_models(body)
    if not names:
        return "no model is named, so that the account's default answers"
    if body.get("preset") or any("@preset/" in name for name in names):
        return "a preset decides what is asked of whom"
    return ""


class _Terms(NamedTuple):
    """What of a request bears on its price."""

    body: Mapping[str, Any]
    tokens: TokenRange
    at_s: float
    limit: int | None
    copies: int
    marked: bool
    for_1h: bool
    pictures: int | None

    @classmethod
    def of(cls, body: Mapping[str, Any], tokens: TokenRange, at_s: float, prompt_cache: str) -> _Terms:
        plugins = [as_mapping(plugin).get("id") for plugin in as_list(body.get("plugins"))]
        if body.get("transforms") or "context-compression" in plugins:  # may leave out parts of the prompt
            tokens = tokens._replace(low=0)
        limits = [count for name in _LIMITS if (count := _count(body.get(name))) is not None]
        marked = bool(prompt_cache) or any(_marks(body))
        for_1h = writes_for_1h(body, prompt_cache) is not False
        # Of two limits, and of a number of answers that can't be read, what may cost more.
        copies = _count(body.get("n") or 1) or _MOST_TOKENS
        pictures = _pictures(body) if tokens.high is None and adds_nothing(body) else None
        return cls(body, tokens, at_s, max(limits, default=None), copies, marked, for_1h, pictures)


def _pictures(body: Mapping[str, Any]) -> int | None:
    """Return how many pictures a request sends; None where there is media that no price is known for."""
    kinds: list[str] = []
    for message in messages_of(body):
        if message.get("role") == "assistant" and has_media(message):
            return None
        kinds += [str(as_mapping(part).get("type")) for part in as_list(message.get("content"))]
    return kinds.count("image_url") if {*kinds} & {*_MEDIA} and {*kinds} <= {"text", *_MEDIA} else None


def _count(value: Any) -> int | None:
    """Return a number of tokens or answers from 1 on; None when it is none."""
    found = read_count(value)
    return found if found is not None and 0 < found <= _MOST_TOKENS else None


def writes_for_1h(body: Mapping[str, Any], prompt_cache: str = "") -> bool | None:
    """Return whether a call's marks write to prompt caching for an hour; None when some do and some don't.

    Args:
        body: The request; its own marks go before those that are set as it is sent.
        prompt_cache: `records.Request.prompt_cache`.
    """
    times = {isinstance(mark, Mapping) and mark.get("ttl") == "1h" for mark in _marks(body)}
    if not times:
        return prompt_cache == "1h"
    return times.pop() if len(times) == 1 else None


def _marks(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the marks for prompt caching in a request."""
    places: list[Any] = [body, *as_list(body.get("tools"))]
    for message in as_list(body.get("messages")):
        places += [message, *as_list(as_mapping(message).get("content"))]
    for place in map(as_mapping, places):
        yield from (place[n] for n in ("cache_control", "prompt_cache_breakpoint") if place.get(n))


class _Span(NamedTuple):
    """What one endpoint, model or request may cost; an unknown high amount has its reason."""

    low_usd: Decimal | None
    high_usd: Decimal | None
    longest: int | None
    why: str = ""


def _union(spans: Sequence[_Span], why: str) -> _Span:
    """Return the span of them all; ``why`` says why its high amount is unknown, and is empty if it isn't."""
    lows = [span.low_usd for span in spans if span.low_usd is not None]
    highs = [span.high_usd for span in spans if span.high_usd is not None]
    lengths = [span.longest for span in spans if span.longest is not None]
    return _Span(
        min(lows) if len(lows) == len(spans) else None,
        None if why else max(highs),
        max(lengths) if len(lengths) == len(spans) else None,
        why,
    )


def _model_span(pricing: ModelPricing, terms: _Terms) -> _Span:
    """Return what one model may cost, whoever serves it."""
    endpoints = routable(pricing.endpoints, pricing.model, terms.body)
    if not endpoints:
        missing = pricing.why_not or f"nobody is listed who offers {pricing.model}"
        if pricing.endpoints:
            missing = "no provider that is listed meets the request's preferences"
        return _Span(None, None, terms.limit, missing)
    spans = [_endpoint_span(endpoint, pricing, terms) for endpoint in endpoints]
    why = next((span.why for span in spans if span.why), "") or why_more_than_tokens(pricing, terms.body)
    span = _union(spans, why)
    elsewhere = why_elsewhere(pricing.endpoints, pricing.model, terms.body)
    return span._replace(low_usd=None) if elsewhere else span


def _endpoint_span(endpoint: Endpoint, pricing: ModelPricing, terms: _Terms) -> _Span:
    """Return what one endpoint may charge."""
    tokens = terms.tokens
    until_s = terms.at_s + BILLED_WITHIN_S
    lowest, highest = endpoint.price.between(tokens.low, tokens.high, terms.at_s, until_s)
    longest = _longest(endpoint, pricing, terms)
    caches = terms.marked or endpoint.implicit_caching is not False
    cached: tuple[str, ...] = ()
    if caches:
        cached = ("input_cache_read", "input_cache_write", "input_cache_write_1h")
    unknown = highest.unknown & {"prompt", "completion", "request", "internal_reasoning", *cached}
    if unknown:
        return _Span(None, None, longest, _why_no_price(pricing.model, endpoint.price, unknown))
    low_usd = tokens.low * min(_listed(lowest, "prompt", *cached[:1])) + (lowest.request or ZERO_USD)
    most, more_usd, keys = tokens.high, ZERO_USD, cached
    if most is None:
        # Whatever they are counted as, a model reads no more than its context.
        most = endpoint.context_length or (pricing.listing.context_length if pricing.listing else None)
        if terms.pictures is None or not most or highest.unknown & {"image", "image_token", "audio"}:
            return _Span(low_usd, None, longest, "images, files and sound can't be counted beforehand")
        more_usd = terms.pictures * (highest.image or ZERO_USD)
        keys = (*cached, "image_token", "audio")
    if longest is None:
        return _Span(low_usd, None, None, "nothing limits the length of the answer")
    answer = (highest.completion or ZERO_USD) + (highest.internal_reasoning or ZERO_USD)
    # Some providers charge more for what their prompt caching writes.
    unmarked = not terms.marked and endpoint.tag.startswith(_FREE_AUTOMATIC_WRITES)
    left_out = cached[1:] if unmarked else cached[2:] if not terms.for_1h else ()
    prompt_usd = most * max(_listed(highest, "prompt", *(key for key in keys if key not in left_out)))
    high_usd = prompt_usd + more_usd + longest * answer + (highest.request or ZERO_USD)
    return _Span(low_usd, high_usd, longest)


def _longest(endpoint: Endpoint, pricing: ModelPricing, terms: _Terms) -> int | None:
    """Return the most tokens that may come back, reasoning included; None when nothing limits them."""
    supported = endpoint.supported_parameters
    heeded = not supported or any(name in supported for name in _LIMITS)
    if terms.limit is not None and heeded:  # a provider that does not know the limit goes without it
        return terms.limit * terms.copies
    context = endpoint.context_length or (pricing.listing.context_length if pricing.listing else None)
    left = max(1, context - terms.tokens.low) if context else None
    limits = [count for count in (endpoint.max_completion_tokens, left) if count]
    return min(limits) * terms.copies if limits else None


def _listed(price: Price, *keys: str) -> list[Decimal]:
    return [usd for key in keys if (usd := getattr(price, key)) is not None]


def _why_no_price(model: str, price: Price, unknown: frozenset[str]) -> str:
    if model.startswith("openrouter/"):
        return f"{model} picks a model, at that one's price, when it is asked"
    if price.overrides and not unknown <= price.unknown:
        return f"the price of {model} changes by the hour, and the list does not have the next rate"
    return f"{model} has no listed price"


def why_more_than_tokens(pricing: ModelPricing, body: Mapping[str, Any]) -> str:
    """Return why an answer may cost more than tokens at its endpoints' prices; empty when it can't."""
    model, outputs = pricing.model, pricing.listing.outputs if pricing.listing else ()
    if any(kind not in ("text", "embeddings") for kind in (*outputs, *as_list(body.get("modalities")))):
        return f"{model} may answer in more than text"
    if model.startswith("perplexity/") or "search" in model or "deep-research" in model:
        return f"{model} searches the web, which is billed apart"
    if body.get("prediction"):
        return "what is rejected of its prediction is billed besides"
    if unknown := body.keys() - FIELDS.keys() - {"model", "messages", "stream"}:
        return f"what the field {min(unknown)} does is not known"
    return why_elsewhere(pricing.endpoints, model, body)


_USUAL: Final = frozenset({"auto", "default"})
_TIERS: Final[Mapping[str, str]] = {"flex": "flex", "priority": "priority", "fast": "priority"}
_ADMITTED: Final[Mapping[str, str]] = {"floor": "flex", "nitro": "priority"}
"""The tiers that variants admit besides the usual one."""

_MAX_PRICE_UNITS: Final[Mapping[str, int]] = {"prompt": 1_000_000, "completion": 1_000_000, "request": 1}


def routable(endpoints: Iterable[Endpoint], model: str, body: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """Return the endpoints of a model that may serve this request; none when its preferences admit none.

    Honoured are ``provider``'s ``only``, ``ignore``, ``order`` without fallbacks, ``max_price`` and
    ``quantizations``, the service tier, and the variants that admit another tier. What else narrows the
    choice is not, so that this may be too many and never too few.

    Args:
        endpoints: All of the model's.
        model: The model as it was asked for, with its variants.
        body: The request.
    """
    preferences = as_mapping(body.get("provider"))
    admitted = [endpoint for endpoint in endpoints if _admits(preferences, endpoint)]
    usual = [endpoint for endpoint in admitted if endpoint.tier == "default"]
    tier = _TIERS.get(str(body.get("service_tier")), "")
    tiered = [endpoint for endpoint in admitted if endpoint.tier == tier]
    if tier == "flex" and tiered:
        return tuple(tiered)  # full, it is refused: there is no other
    variants = Name.of(model).variants
    more = {tier} | {other for variant, other in _ADMITTED.items() if variant in variants}
    return tuple(usual + [endpoint for endpoint in admitted if endpoint.tier in more])


def why_elsewhere(endpoints: Iterable[Endpoint], model: str, body: Mapping[str, Any]) -> str:
    """Return why something that isn't among these endpoints may serve a request; empty when nothing may."""
    tier = str(body.get("service_tier") or "default")
    if tier not in _USUAL and tier not in _TIERS:
        return f"the service tier {tier[:20]!r} is not known here"
    fast = tier in ("fast", "priority") or "nitro" in Name.of(model).variants
    if fast and "anthropic/" in model and not any(endpoint.tier == "priority" for endpoint in endpoints):
        return f"a dearer, faster sibling of {model} may answer"
    if as_mapping(body.get("reasoning")).get("mode") == "pro":
        return f"a dearer sibling of {model} reasons in mode pro"
    return ""


def _admits(preferences: Mapping[str, Any], endpoint: Endpoint) -> bool:
    only, ignored, order = (_texts(preferences.get(name)) for name in ("only", "ignore", "order"))
    if only and not _is_named(endpoint, only):
        return False
    # A provider's slug does not ignore its endpoints of other tiers.
    if endpoint.tag.lower() in ignored or (endpoint.tier == "default" and _is_named(endpoint, ignored)):
        return False
    if preferences.get("allow_fallbacks") is False and order and not _is_named(endpoint, order):
        return False
    quantizations = _texts(preferences.get("quantizations"))
    if quantizations and endpoint.quantization not in quantizations:
        return False
    return not _is_too_dear(as_mapping(preferences.get("max_price")), endpoint.price)


def _is_named(endpoint: Endpoint, slugs: Collection[str]) -> bool:
    """Return whether a slug or display name means this endpoint: its whole tag, or any of its provider's."""
    names = (endpoint.tag, endpoint.tag.partition("/")[0], endpoint.provider)
    return any(name.lower() in slugs for name in names)


def _is_too_dear(most: Mapping[str, Any], price: Price) -> bool:
    """Return whether it is always over ``max_price``: US dollars for a million tokens, or for a request."""
    for name, units in _MAX_PRICE_UNITS.items():
        limit = read_number(most.get(name))
        rates = [getattr(price, name), *(override.rates.get(name) for override in price.overrides)]
        known = [usd for usd in rates if usd is not None]
        if limit is not None and known and min(known) * (1 - price.discount) * units > limit:
            return True
    return False


def _texts(value: Any) -> frozenset[str]:
    return frozenset(item.lower() for item in as_list(value) if isinstance(item, str))
