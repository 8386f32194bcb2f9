"""What a completed call cost, calculated from its tokens and the price list where these leave no doubt.

Whoever may have served a call, whatever the list may mean: all readings must come to the same amount. Else it
is unknown, and `reconciliation` asks OpenRouter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import asked_models, billed_apart, has_media, messages_of
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.money.estimate import BILLED_WITHIN_S, routable, why_more_than_tokens

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.core.records import Usage
    from or_cache_magic.money.listings import ModelPricing
    from or_cache_magic.money.price import Price

_SAME_LIST_S: Final = 86_400
"""A list that is further from a call than this says nothing about its cost."""


class CompletedCall(NamedTuple):
    """A call that was made.

    Attributes:
        usage: Its tokens.
        pricing: What is listed of the model that served it.
        body: The request; its ``model`` is that one.
        at_s: When it ended, UTC epoch seconds.
        provider: Who served it; None is not known.
        written_1h: Whether what it wrote to prompt caching is kept for an hour; None is not known.
    """

    usage: Usage
    pricing: ModelPricing
    body: Mapping[str, Any]
    at_s: float
    provider: str | None = None
    written_1h: bool | None = None


def tokens_cost(call: CompletedCall) -> Decimal | None:
    """Return what a call cost by its tokens, in US dollars; None when that isn't certain."""
    usage, pricing, body = call.usage, call.pricing, call.body
    if usage.prompt_tokens is None or usage.completion_tokens is None or pricing.listed_s is None:
        return None
    several = len(asked_models(body)) != 1  # another one may have served it
    if several or abs(call.at_s - pricing.listed_s) > _SAME_LIST_S:
        return None
    if billed_apart(body) or why_more_than_tokens(pricing, body) or any(map(has_media, messages_of(body))):
        return None
    amounts = {_total(usage, price, for_1h=for_1h) for price, for_1h in _readings(call)}
    return amounts.pop() if len(amounts) == 1 else None


def prompt_cache_saved(call: CompletedCall, prompt_cost_usd: Decimal | None = None) -> Decimal | None:
    """Return what the provider's prompt caching took off a call, in US dollars; None when that isn't certain.

    The cached tokens times what reading them is cheaper, less the written ones times what writing them is
    dearer: below 0 where writing cost more.

    Args:
        call: The call.
        prompt_cost_usd: What the prompt cost by the reply (``upstream_inference_prompt_cost``). Only prices
            that come to this very amount count. None is not known.
    """
    usage = call.usage
    if not usage.cached_tokens and not usage.cache_write_tokens:
        return ZERO_USD
    if usage.prompt_tokens is None:
        return None
    amounts: set[Decimal | None] = set()
    for price, for_1h in _readings(call):
        prompt_usd = _prompt_cost(usage, price, for_1h=for_1h)
        if prompt_usd is None or price.prompt is None:
            amounts.add(None)
        elif prompt_cost_usd is None or prompt_usd == prompt_cost_usd:
            amounts.add(usage.prompt_tokens * price.prompt - prompt_usd)
    plain = usage.prompt_tokens - (usage.cached_tokens or 0) - (usage.cache_write_tokens or 0)
    if prompt_cost_usd is not None and plain:  # else its cost is no sign of what plain tokens are at
        amounts.discard(None)
    return amounts.pop() if len(amounts) == 1 else None


def _readings(call: CompletedCall) -> Iterator[tuple[Price, bool]]:
    """Yield each price that a call may be billed at, and whether what it wrote is kept for an hour."""
    tokens = call.usage.prompt_tokens or 0
    unsure = call.written_1h is None and call.usage.cache_write_tokens
    hours = (False, True) if unsure else (bool(call.written_1h),)
    for endpoint in routable(call.pricing.endpoints, call.pricing.model, call.body):
        if call.provider in (None, endpoint.provider):
            for price in endpoint.price.readings(tokens, tokens, call.at_s - BILLED_WITHIN_S, call.at_s):
                yield from product(_meanings(price), hours)


def _meanings(price: Price) -> Iterator[Price]:
    """Yield what 0 for reading or writing may mean in a list: nothing to pay, or no price of its own."""
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
    return prompt_usd + (usage.completion_tokens or 0) * price.completion + (price.request or ZERO_USD)


def _prompt_cost(usage: Usage, price: Price, *, for_1h: bool) -> Decimal | None:
    """Return what the prompt cost; None when that isn't certain."""
    if price.prompt is None:
        return None
    write_key = "input_cache_write"
    if for_1h and (price.input_cache_write_1h is not None or "input_cache_write_1h" in price.unknown):
        write_key = "input_cache_write_1h"
    cost, plain = ZERO_USD, usage.prompt_tokens or 0
    for key, count in (("input_cache_read", usage.cached_tokens), (write_key, usage.cache_write_tokens)):
        rate = getattr(price, key)
        if count is None and rate is not None and rate != price.prompt:
            return None
        if count and key in price.unknown:
            return None
        plain -= count or 0
        cost += (count or 0) * (price.prompt if rate is None else rate)
    return cost + plain * price.prompt
