"""What ``--dry-run`` says: whether the ask would hit, and what it may cost if not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from or_cache_magic.core.cost import format_usd
from or_cache_magic.display.receipt import format_age

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.policy import Policy
    from or_cache_magic.core.records import Request
    from or_cache_magic.money.estimate import Estimate

__all__ = ["estimate_text", "preview_line"]

_SHOWN = 10
"""Hex digits of a key that are shown."""


def preview_line(cache: CompletionCache, request: Request, policy: Policy) -> str:
    """Whether a request would hit, or what asking it may cost. Sends no prompt; prices may be looked up."""
    key, row, why = cache.peek(request, policy)
    where = f"{request.body['model']} · key {key[:_SHOWN]}"
    if row is None:
        estimate = cache.money.estimate(request)
        return f"would ask {where} · {why} · {estimate_text(estimate)} · nothing sent"
    age = format_age(time.time() - row.created_s)
    return f"would hit {where} · cached {age} · bought for {format_usd(row.cost.usd)} · nothing sent"


def estimate_text(estimate: Estimate) -> str:
    """What a call may cost: ``$0.0000021 to $0.0025 (≈ 14 → at most 4,096 tokens, prices of 2026-11-23)``."""
    tokens, most = estimate.prompt_tokens, estimate.completion_tokens[1]
    limit = "no limit known" if most is None else f"at most {most:,}"
    counted = f"≈ {tokens.likely:,} → {limit} tokens"
    if estimate.high_usd is None:
        low = f"at least {format_usd(estimate.low_usd)}, " if estimate.low_usd else ""
        return f"{low}upper cost unknown: {estimate.unknown_why} ({counted})"
    dated = ""
    if estimate.listed_s is not None:
        dated = f", prices of {time.strftime('%Y-%m-%d', time.localtime(estimate.listed_s))}"
    low, high = format_usd(estimate.low_usd), format_usd(estimate.high_usd)
    return f"{low if low == high else f'{low} to {high}'} ({counted}{dated})"
