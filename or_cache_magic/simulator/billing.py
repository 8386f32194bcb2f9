"""What a call costs: tokens times prices, to the last digit.

The sums follow OpenRouter's usage accounting: ``usage.cost`` is what OpenRouter charges, prompt tokens
include the cached and written ones, completion tokens the reasoning ones, and with a key of one's own
(BYOK) the provider's bill stands in ``cost_details.upstream_inference_cost`` and ``cost`` is the fee.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from or_cache_magic.simulator.catalog import Endpoint, Price, PriceOverride

ZERO: Final = Decimal(0)
NATIVE_SEARCH_USD: Final = Decimal("0.01")
"""One web search by the provider itself; in its own bill."""
EXA_SEARCH_USD: Final = Decimal("0.007")
"""One web search by OpenRouter's ``web`` plugin; on top of the provider's bill."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one call.

    ``cached`` and ``written`` are in ``prompt``, ``written_1h`` (kept for an hour) in ``written``,
    ``reasoning`` in ``completion``.
    """

    prompt: int
    completion: int
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    reasoning: int = 0
    images: int = 0
    audio: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What one call cost, in US dollars.

    Attributes:
        tokens: What it was counted from.
        prompt_usd: The prompt's tokens at their prices.
        completion_usd: The completion's tokens.
        discount_usd: What prompt caching took off; negative when writing cost more than it saved.
        native_search_usd: A web search by the provider; part of its bill.
        request_usd: What the provider charges for a request besides its tokens.
        fee_usd: What OpenRouter charges on top (its own web search, files that it has read).
        byok: Whether the provider bills the user directly.
    """

    tokens: TokenCounts
    prompt_usd: Decimal = ZERO
    completion_usd: Decimal = ZERO
    discount_usd: Decimal = ZERO
    native_search_usd: Decimal = ZERO
    request_usd: Decimal = ZERO
    fee_usd: Decimal = ZERO
    byok: bool = False

    @property
    def upstream_usd(self) -> Decimal:
        """What the provider charges."""
        return self.prompt_usd + self.completion_usd + self.native_search_usd + self.request_usd

    @property
    def cost_usd(self) -> Decimal:
        """What OpenRouter charges: ``usage.cost``."""
        return self.fee_usd if self.byok else self.upstream_usd + self.fee_usd

    @property
    def total_usd(self) -> Decimal:
        """What the user pays to whomever."""
        return self.upstream_usd + self.fee_usd

    def usage(self) -> dict[str, Any]:
        """The ``usage`` block of a reply."""
        tokens = self.tokens
        block: dict[str, Any] = {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.prompt + tokens.completion,
            "cost": self.cost_usd,
            "is_byok": self.byok,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.written,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "cost_details": {
                "upstream_inference_cost": self.upstream_usd,
                "upstream_inference_prompt_cost": self.prompt_usd,
                "upstream_inference_completions_cost": self.completion_usd,
            },
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "image_tokens": tokens.images,
                "audio_tokens": tokens.audio,
            },
        }
        if self.native_search_usd:
            block["server_tool_use_details"] = {"web_search_requests": 1}
        return block


def price_at(endpoint: Endpoint, prompt_tokens: int, now_s: float) -> Price:
    """The endpoint's price for a prompt of this length at this time: later overrides win, key by key."""
    price = endpoint.price
    for override in endpoint.overrides:
        if _applies(override, prompt_tokens, now_s):
            named = {"prompt": override.prompt, "completion": override.completion}
            price = replace(price, **{key: usd for key, usd in named.items() if usd is not None})
    return price


def bill(
    tokens: TokenCounts, price: Price, *, search: str = "", files_usd: Decimal = ZERO, byok: bool = False
) -> Bill:
    """What a call with these tokens costs.

    Args:
        tokens: What was read and written.
        price: Dollars a token; no price for cached tokens means the prompt's price.
        search: ``"native"``, ``"exa"`` or ``""``: whether one web search was made, and by whom.
        files_usd: What OpenRouter charges for having read files.
        byok: Whether the provider bills the user directly.
    """
    read = price.prompt if price.cache_read is None else price.cache_read
    write = price.prompt if price.cache_write is None else price.cache_write
    write_1h = write if price.cache_write_1h is None else price.cache_write_1h
    plain = tokens.prompt - tokens.cached - tokens.written
    written_usd = (tokens.written - tokens.written_1h) * write + tokens.written_1h * write_1h
    prompt_usd = plain * price.prompt + tokens.cached * read + written_usd
    return Bill(
        tokens=tokens,
        prompt_usd=prompt_usd,
        completion_usd=tokens.completion * price.completion,
        discount_usd=tokens.prompt * price.prompt - prompt_usd,
        native_search_usd=NATIVE_SEARCH_USD if search == "native" else ZERO,
        request_usd=price.request,
        fee_usd=files_usd + (EXA_SEARCH_USD if search == "exa" else ZERO),
        byok=byok,
    )


def _applies(override: PriceOverride, prompt_tokens: int, now_s: float) -> bool:
    if override.min_prompt_tokens is not None and prompt_tokens <= override.min_prompt_tokens:
        return False
    start, end = override.utc_start, override.utc_end
    if start is None or end is None:
        return True
    moment = datetime.fromtimestamp(now_s, timezone.utc)
    clock = moment.hour * 100 + moment.minute
    return start <= clock < end if start <= end else clock >= start or clock < end
