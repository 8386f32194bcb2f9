"""Amounts that no reply told, counted from its tokens and the price list, where these leave no doubt.

Whoever may have served a call, whatever the list may mean: all readings must come to the same amount. Else it
is unknown, and `settling` asks OpenRouter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.pricing.cost import billed_apart
from or_cache_magic.pricing.estimate import BILLED_WITHIN_S, asked_models, why_more_than_tokens
from or_cache_magic.pricing.serving import may_serve

if TYPE_CHECKING:
    from or_cache_magic.pricing.listing import Listed
    from or_cache_magic.pricing.price import Price
    from or_cache_magic.records import Usage

__all__ = ["prompt_cache_saved", "tokens_cost"]

_SAME_LIST_S: Final = 86_400
"""A list that is further from a call than this tells nothing of what it cost."""

_NOTHING: Final = Decimal(0)


def tokens_cost(
    usage: Usage,
    listed: Listed,
    body: Mapping[str, Any],
    at_s: float,
    *,
    provider: str | None = None,
    written_1h: bool | None = None,
) -> Decimal | None:
    """What a call cost by its tokens (the source ``estimated``), in US dollars; None when that isn't certain.

    Args:
        usage: The call's tokens.
        listed: What is listed of the model that served it.
        body: The request.
        at_s: When it ended, UTC epoch seconds.
        provider: Who served it; None is not known.
        written_1h: Whether what it wrote to prompt caching is kept for an hour; None is not known.
    """
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is None or completion is None or listed.listed_s is None:
        return None
    several = len(asked_models(body)) != 1  # another one may have served it
    if several or abs(at_s - listed.listed_s) > _SAME_LIST_S or billed_apart(body) or _has_media(body):
        return None
    if why_more_than_tokens(listed, body):
        return None
    amounts = {
        _total(usage, price, for_1h=for_1h)
        for price, for_1h in _readings(usage, listed, body, at_s, provider, written_1h)
    }
    return amounts.pop() if len(amounts) == 1 else None


def prompt_cache_saved(
    usage: Usage,
    listed: Listed,
    body: Mapping[str, Any],
    at_s: float,
    *,
    provider: str | None = None,
    written_1h: bool | None = None,
    prompt_cost_usd: Decimal | None = None,
) -> Decimal | None:
    """What the provider's prompt caching took off a call, in US dollars; None when that isn't certain.

    The cached tokens times what reading them is cheaper, less the written ones times what writing them is
    dearer: below 0 where writing cost more.

    Args:
        usage: The call's tokens.
        listed: What is listed of the model that served it.
        body: The request.
        at_s: When it ended, UTC epoch seconds.
        provider: Who served it; None is not known.
        written_1h: Whether what it wrote is kept for an hour; None is not known.
        prompt_cost_usd: What the prompt cost by the reply (``upstream_inference_prompt_cost``). Only prices
            that come to this very amount count. None is not told.
    """
    if not usage.cached_tokens and not usage.cache_write_tokens:
        return _NOTHING
    if usage.prompt_tokens is None:
        return None
    amounts: set[Decimal | None] = set()
    for price, for_1h in _readings(usage, listed, body, at_s, provider, written_1h):
        prompt_usd = _prompt_cost(usage, price, for_1h=for_1h)
        if prompt_usd is None or price.prompt is None:
            amounts.add(None)
        elif prompt_cost_usd is None or prompt_usd == prompt_cost_usd:
            amounts.add(usage.prompt_tokens * price.prompt - prompt_usd)
    if prompt_cost_usd is not None:
        amounts.discard(None)
    return amounts.pop() if len(amounts) == 1 else None


def _readings(
    usage: Usage,
    listed: Listed,
    body: Mapping[str, Any],
    at_s: float,
    provider: str | None,
    written_1h: bool | None,
) -> Iterator[tuple[Price, bool]]:
    """Every price that the call may have been billed at, and whether what it wrote is kept for an hour."""
    offers = may_serve(listed.offers, listed.model, body)
    if provider is not None:
        offers = tuple(offer for offer in offers if offer.provider == provider)
    tokens = usage.prompt_tokens or 0
    hours = (False, True) if written_1h is None and usage.cache_write_tokens else (bool(written_1h),)
    for offer in offers:
        for price in set(offer.price.between(tokens, tokens, at_s - BILLED_WITHIN_S, at_s)):
            yield from product(_meanings(price), hours)


def _meanings(price: Price) -> Iterator[Price]:
    """What a list may mean that has 0 for reading or writing: nothing to pay, or no price of its own."""
    yield price
    zeros = [
        key
        for key in ("input_cache_read", "input_cache_write", "input_cache_write_1h")
        if getattr(price, key) == 0
    ]
    if zeros and price.prompt:
        absent: dict[str, Any] = dict.fromkeys(zeros)
        yield price._replace(**absent)


def _total(usage: Usage, price: Price, *, for_1h: bool) -> Decimal | None:
    prompt_usd = _prompt_cost(usage, price, for_1h=for_1h)
    if prompt_usd is None or price.completion is None or price.unknown & {"request", "internal_reasoning"}:
        return None
    if price.internal_reasoning and usage.reasoning_tokens != 0:
        return None  # whether it is in the answer's price or on top of it is not documented
    return prompt_usd + (usage.completion_tokens or 0) * price.completion + (price.request or _NOTHING)


def _prompt_cost(usage: Usage, price: Price, *, for_1h: bool) -> Decimal | None:
    """What the prompt cost; None when that can't be told."""
    if price.prompt is None:
        return None
    write_key = "input_cache_write"
    if for_1h and (price.input_cache_write_1h is not None or "input_cache_write_1h" in price.unknown):
        write_key = "input_cache_write_1h"
    cost, plain = _NOTHING, usage.prompt_tokens or 0
    for key, count in (("input_cache_read", usage.cached_tokens), (write_key, usage.cache_write_tokens)):
        rate = getattr(price, key)
        if count is None and rate is not None and rate != price.prompt:
            return None
        if count and key in price.unknown:
            return None
        plain -= count or 0
        cost += (count or 0) * (price.prompt if rate is None else rate)
    return cost + plain * price.prompt


def _has_media(body: Mapping[str, Any]) -> bool:
    """Whether it sends more than text, which may have a price of its own."""
    messages = body.get("messages")
    contents = (
        [m.get("content") for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    )
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
    return any(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts)
