"""What a call may cost before it is made: a range that its cost lies in, never one figure that may be false.

At the prices that are listed. What an account has agreed apart (a fee on keys of one's own, the discount for
sharing data, plugins that are on by default) no list tells, and it is not in the range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import billed_apart
from or_cache_magic.core.units import decimal_usd
from or_cache_magic.money.listings import Name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from or_cache_magic.core.tokens import TokenRange
    from or_cache_magic.money.listings import Endpoint, ModelPricing
    from or_cache_magic.money.price import Price

__all__ = [
    "BILLED_WITHIN_S",
    "Estimate",
    "asked_models",
    "estimate",
    "hides",
    "may_serve",
    "why_elsewhere",
    "why_more_than_tokens",
    "writes_for_1h",
]

_USUAL: Final = frozenset({"auto", "default"})
_TIERS: Final[Mapping[str, str]] = {"flex": "flex", "priority": "priority", "fast": "priority"}
_ADMITTED: Final[Mapping[str, str]] = {"floor": "flex", "nitro": "priority"}
"""The tiers that variants admit besides the usual one."""


def may_serve(offers: Iterable[Endpoint], model: str, body: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """The offers of a model that may serve this request; none when the request's preferences admit none.

    Honoured are ``provider``'s ``only``, ``ignore``, ``order`` without fallbacks, ``max_price`` and
    ``quantizations``, the service tier, and the variants that admit another tier. What else narrows the
    choice is not, so that this may be too many and never too few.

    Args:
        offers: All of the model's.
        model: The model as it was asked for, with its variants.
        body: The request.
    """
    preferences = body.get("provider")
    admitted = [offer for offer in offers if _admits(preferences, offer)]
    usual = [offer for offer in admitted if offer.tier == "default"]
    tier = _TIERS.get(str(body.get("service_tier")), "")
    tiered = [offer for offer in admitted if offer.tier == tier]
    if tier == "flex" and tiered:
        return tuple(tiered)  # full, it is refused: there is no other
    variants = Name.of(model).variants
    more = {tier} | {other for variant, other in _ADMITTED.items() if variant in variants}
    return tuple(usual + [offer for offer in admitted if offer.tier in more])


def why_elsewhere(offers: Iterable[Endpoint], model: str, body: Mapping[str, Any]) -> str:
    """Why something that is not among these offers may serve the request; empty when nothing may."""
    tier = str(body.get("service_tier") or "default")
    if tier not in _USUAL and tier not in _TIERS:
        return f"the service tier {tier[:20]!r} is not known here"
    fast = tier in ("fast", "priority") or "nitro" in Name.of(model).variants
    if fast and "anthropic/" in model and not any(offer.tier == "priority" for offer in offers):
        return f"a dearer, faster sibling of {model} may answer"
    reasoning = body.get("reasoning")
    if isinstance(reasoning, Mapping) and reasoning.get("mode") == "pro":
        return f"a dearer sibling of {model} reasons in mode pro"
    return ""


def _admits(preferences: Any, offer: Endpoint) -> bool:
    if not isinstance(preferences, Mapping):
        return True
    only, ignored, order = (_texts(preferences.get(name)) for name in ("only", "ignore", "order"))
    if only and not _named(offer, only):
        return False
    # A provider's slug does not ignore its offers of other tiers.
    if offer.tag.lower() in ignored or (offer.tier == "default" and _named(offer, ignored)):
        return False
    if preferences.get("allow_fallbacks") is False and order and not _named(offer, order):
        return False
    quantizations = _texts(preferences.get("quantizations"))
    if quantizations and offer.quantization not in quantizations:
        return False
    return not _too_dear(preferences.get("max_price"), offer.price)


def _named(offer: Endpoint, slugs: Collection[str]) -> bool:
    """Whether a provider's slug or display name means this offer: its whole tag, or any of the provider's."""
    return any(name.lower() in slugs for name in (offer.tag, offer.tag.partition("/")[0], offer.provider))


def _texts(value: Any) -> frozenset[str]:
    items = value if isinstance(value, (list, tuple)) else ()
    return frozenset(item.lower() for item in items if isinstance(item, str))


def _too_dear(most: Any, price: Price) -> bool:
    """Whether it is over ``max_price`` at every hour: US dollars for a million tokens, or for a request."""
    if not isinstance(most, Mapping):
        return False
    for name, units in _MAX_PRICE_UNITS.items():
        limit = decimal_usd(_number(most.get(name)))
        rates = [getattr(price, name), *(override.rates.get(name) for override in price.overrides)]
        known = [usd for usd in rates if usd is not None]
        if limit is not None and known and min(known) * (1 - price.discount) * units > limit:
            return True
    return False


_MAX_PRICE_UNITS: Final[Mapping[str, int]] = {"prompt": 1_000_000, "completion": 1_000_000, "request": 1}


def _number(value: Any) -> Any:
    try:
        return Decimal(value) if isinstance(value, str) else value
    except InvalidOperation:
        return None


BILLED_WITHIN_S: Final = 600
"""How long after it was sent a call may be billed, perhaps at the next hour's rate: then it is given up."""

_FREE_AUTOMATIC_WRITES: Final = "google"
"""Providers, by their slugs, that charge for writing only where marks ask for it, and list that price."""

_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_MOST_TOKENS: Final = 10**9
_NOTHING: Final = Decimal(0)


class Estimate(NamedTuple):
    """What a call may cost.

    Attributes:
        low_usd: The least that an answer costs; None is unknown.
        high_usd: The most; None is unknown.
        prompt_tokens: How many tokens will be sent.
        completion_tokens: The least and the most that will come back; a most of None has no limit.
        unknown_why: Why `high_usd` is unknown, as a clause for people; empty when it is known.
        listed_s: When the oldest of the price lists was fetched; None when there is none.
    """

    low_usd: Decimal | None
    high_usd: Decimal | None
    prompt_tokens: TokenRange
    completion_tokens: tuple[int, int | None]
    unknown_why: str = ""
    listed_s: float | None = None


def asked_models(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a request names, fallbacks too, in their order."""
    fallbacks = body.get("models")
    names = (body.get("model"), *(fallbacks if isinstance(fallbacks, (list, tuple)) else ()))
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def estimate(
    body: Mapping[str, Any],
    tokens: TokenRange,
    listed: Sequence[ModelPricing],
    at_s: float,
    *,
    prompt_cache: str = "",
) -> Estimate:
    """What a call may cost, over all offers that may serve it.

    Args:
        body: The request.
        tokens: How many tokens its prompt has.
        listed: What is known of each of `asked_models`.
        at_s: When it is sent, UTC epoch seconds.
        prompt_cache: `records.Request.prompt_cache`: marks that are set as it is sent.
    """
    dates = [one.listed_s for one in listed if one.listed_s is not None]
    listed_s = min(dates, default=None)
    why = _why_nobody_knows(body)
    if why:
        return Estimate(None, None, tokens, (0, None), why, listed_s)
    terms = _Terms.of(body, tokens, at_s, prompt_cache)
    spans = [_span(one, terms) for one in listed]
    lows, highs = [span.low_usd for span in spans], [span.high_usd for span in spans]
    longest = [span.longest for span in spans]
    unpriced = next((span.why for span in spans if span.low_usd is None), "")
    why = unpriced or billed_apart(body) or next((span.why for span in spans if span.why), "")
    return Estimate(
        None if None in lows else min(usd for usd in lows if usd is not None),
        None if why else max(usd for usd in highs if usd is not None),
        tokens,
        (0, None if None in longest else max(count for count in longest if count is not None)),
        why,
        listed_s,
    )


def why_more_than_tokens(listed: ModelPricing, body: Mapping[str, Any]) -> str:
    """Why a model's answer may cost more than tokens at the prices of its offers; empty when it can't."""
    model, outputs = listed.model, listed.listing.outputs if listed.listing else ()
    asked = body.get("modalities")
    if any(kind != "text" for kind in (*outputs, *(asked if isinstance(asked, (list, tuple)) else ()))):
        return f"{model} may answer in more than text"
    if model.startswith("perplexity/") or "search" in model or "deep-research" in model:
        return f"{model} searches the web, which is billed apart"
    if body.get("prediction"):
        return "what is rejected of its prediction is billed besides"
    return why_elsewhere(listed.offers, model, body)


def writes_for_1h(body: Mapping[str, Any], prompt_cache: str = "") -> bool | None:
    """Whether a call's marks write to prompt caching for an hour; None when some do and some don't.

    Args:
        body: The request; its own marks go before those that are set as it is sent.
        prompt_cache: `records.Request.prompt_cache`.
    """
    times = {isinstance(mark, Mapping) and mark.get("ttl") == "1h" for mark in _marks(body)}
    if not times:
        return prompt_cache == "1h"
    return times.pop() if len(times) == 1 else None


def hides(listed: ModelPricing, tokens: TokenRange, at_s: float) -> bool:
    """Whether a list that was fetched at another hour leaves a price untold that one of now may tell."""
    return any(
        offer.price.between(tokens.low, tokens.high, at_s, at_s + BILLED_WITHIN_S)[1].unknown
        - offer.price.unknown
        for offer in listed.offers
        if offer.price.overrides
    )


class _Terms(NamedTuple):
    """What of a request bears on its price."""

    body: Mapping[str, Any]
    tokens: TokenRange
    at_s: float
    limit: int | None
    copies: int
    marked: bool
    for_1h: bool

    @classmethod
    def of(cls, body: Mapping[str, Any], tokens: TokenRange, at_s: float, prompt_cache: str) -> _Terms:
        limits = [count for name in _LIMITS if (count := _count(body.get(name))) is not None]
        if _shortens(body):
            tokens = tokens._replace(low=0)
        marked = bool(prompt_cache) or any(_marks(body))
        for_1h = writes_for_1h(body, prompt_cache) is not False
        return cls(body, tokens, at_s, min(limits, default=None), _count(body.get("n")) or 1, marked, for_1h)


class _Span(NamedTuple):
    """What one model may cost; a high amount of None has its reason."""

    low_usd: Decimal | None
    high_usd: Decimal | None
    longest: int | None
    why: str = ""


def _span(listed: ModelPricing, terms: _Terms) -> _Span:
    """What one model may cost, whoever serves it."""
    offers = may_serve(listed.offers, listed.model, terms.body)
    if not offers:
        missing = "no provider that is listed meets the request's preferences" if listed.offers else (
            listed.why_not or f"nobody is listed who offers {listed.model}"
        )  # fmt: skip
        return _Span(None, None, terms.limit, missing)
    spans = [_offer_span(offer, listed, terms) for offer in offers]
    why = next((span.why for span in spans if span.why), "") or why_more_than_tokens(listed, terms.body)
    elsewhere = why_elsewhere(listed.offers, listed.model, terms.body)
    lows = [span.low_usd for span in spans]
    highs = [span.high_usd for span in spans if span.high_usd is not None]
    lengths = [span.longest for span in spans]
    return _Span(
        None if None in lows or elsewhere else min(usd for usd in lows if usd is not None),
        None if why else max(highs),
        None if None in lengths else max(count for count in lengths if count is not None),
        why,
    )


def _offer_span(offer: Endpoint, listed: ModelPricing, terms: _Terms) -> _Span:
    """What one offer may cost."""
    tokens = terms.tokens
    lowest, highest = offer.price.between(tokens.low, tokens.high, terms.at_s, terms.at_s + BILLED_WITHIN_S)
    longest = _longest(offer, listed, terms)
    caches = terms.marked or offer.implicit_caching is not False
    unknown = _counted(caches=caches) & highest.unknown
    if unknown:
        return _Span(None, None, longest, _why_no_price(listed.model, offer.price, unknown))
    low_usd = tokens.low * _cheapest_input(lowest, caches=caches) + (lowest.request or _NOTHING)
    if tokens.high is None:
        return _Span(low_usd, None, longest, "images, files and sound can't be counted beforehand")
    if longest is None:
        return _Span(low_usd, None, None, "nothing limits the length of the answer")
    answer = (highest.completion or _NOTHING) + (highest.internal_reasoning or _NOTHING)
    writes = terms.marked or (caches and not offer.tag.startswith(_FREE_AUTOMATIC_WRITES))
    prompt_usd = tokens.high * _dearest_input(highest, reads=caches, writes=writes, for_1h=terms.for_1h)
    return _Span(low_usd, prompt_usd + longest * answer + (highest.request or _NOTHING), longest)


def _counted(*, caches: bool) -> frozenset[str]:
    """The prices that a range is made of."""
    always = frozenset(("prompt", "completion", "request", "internal_reasoning"))
    cached = ("input_cache_read", "input_cache_write", "input_cache_write_1h")
    return always.union(cached) if caches else always


def _cheapest_input(price: Price, *, caches: bool) -> Decimal:
    rates = [price.prompt, price.input_cache_read if caches else None]
    return min(usd for usd in rates if usd is not None)


def _dearest_input(price: Price, *, reads: bool, writes: bool, for_1h: bool) -> Decimal:
    """A token's highest price: some providers charge what their prompt caching writes as dearer."""
    rates = [
        price.prompt,
        price.input_cache_read if reads else None,
        price.input_cache_write if writes else None,
        price.input_cache_write_1h if writes and for_1h else None,
    ]
    return max(usd for usd in rates if usd is not None)


def _longest(offer: Endpoint, listed: ModelPricing, terms: _Terms) -> int | None:
    """The most tokens that may come back, reasoning included; None when nothing limits them."""
    heeded = not offer.supported_parameters or any(name in offer.supported_parameters for name in _LIMITS)
    if terms.limit is not None and heeded:  # a provider that does not know the limit goes without it
        return terms.limit * terms.copies
    context = offer.context_length or (listed.listing.context_length if listed.listing else None)
    left = max(1, context - terms.tokens.low) if context else None
    limits = [count for count in (offer.max_completion_tokens, left) if count]
    return min(limits) * terms.copies if limits else None


def _why_nobody_knows(body: Mapping[str, Any]) -> str:
    """Why not even the model is known that will answer; empty when it is."""
    names = asked_models(body)
    if not names:
        return "no model is named, so that the account's default answers"
    if body.get("preset") or any("@preset/" in name for name in names):
        return "a preset decides what is asked of whom"
    return ""


def _why_no_price(model: str, price: Price, unknown: frozenset[str]) -> str:
    if model.startswith("openrouter/"):
        return f"{model} picks a model, at that one's price, when it is asked"
    if price.overrides and not unknown <= price.unknown:
        return f"the price of {model} changes by the hour, and the list does not tell the next"
    return f"{model} has no listed price"


def _count(value: Any) -> int | None:
    """A number of tokens or answers from 1 on; None when it is none."""
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_TOKENS
    return value if whole else None


def _shortens(body: Mapping[str, Any]) -> bool:
    """Whether OpenRouter may leave out parts of the prompt."""
    plugins = body.get("plugins")
    named = [p.get("id") for p in plugins if isinstance(p, Mapping)] if isinstance(plugins, list) else []
    return bool(body.get("transforms")) or "context-compression" in named


def _marks(body: Mapping[str, Any]) -> Iterator[Any]:
    """The marks for prompt caching in a request."""
    messages, tools = body.get("messages"), body.get("tools")
    places: list[Any] = [body, *(tools if isinstance(tools, (list, tuple)) else ())]
    for message in messages if isinstance(messages, (list, tuple)) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        places += [message, *(content if isinstance(content, (list, tuple)) else ())]
    for place in places:
        if isinstance(place, Mapping):
            yield from (place[n] for n in ("cache_control", "prompt_cache_breakpoint") if place.get(n))
