"""What an OpenRouter key may still spend, as ``GET /key`` tells it (API reference, "Get current API key")."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from or_cache_magic.core.cost import decimal_usd

__all__ = ["KeyLimits", "read_key_limits"]


class KeyLimits(NamedTuple):
    """The limits of a key, in US dollars.

    Attributes:
        limit_usd: The most that it may spend; None is no limit.
        remaining_usd: What is left of that; None without a limit.
        resets: When the limit begins anew: ``daily``, ``weekly``, ``monthly``; empty is never.
        used_usd: What it has spent in all; None is not told.
        used_this_month_usd: What of that in this month, in UTC; None is not told.
        is_free_tier: Whether nothing was ever paid into its account.
    """

    limit_usd: Decimal | None
    remaining_usd: Decimal | None
    resets: str
    used_usd: Decimal | None
    used_this_month_usd: Decimal | None
    is_free_tier: bool


def read_key_limits(told: Any) -> KeyLimits | None:
    """The limits in a reply of ``GET /key``; None when it tells none."""
    data = told.get("data") if isinstance(told, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    resets = data.get("limit_reset")
    return KeyLimits(
        limit_usd=decimal_usd(data.get("limit")),
        remaining_usd=_signed(data.get("limit_remaining")),
        resets=resets if isinstance(resets, str) else "",
        used_usd=decimal_usd(data.get("usage")),
        used_this_month_usd=decimal_usd(data.get("usage_monthly")),
        is_free_tier=data.get("is_free_tier") is True,
    )


def _signed(value: Any) -> Decimal | None:
    """An amount that may be below 0: calls under way when the limit was reached are still charged."""
    below = isinstance(value, (Decimal, int, float)) and not isinstance(value, bool) and value < 0
    usd = decimal_usd(-value if below else value)
    return -usd if below and usd is not None else usd
