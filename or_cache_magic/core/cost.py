"""What a call cost, from what the reply says: `decimal.Decimal` throughout, unknown stays unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from or_cache_magic.core.records import UNKNOWN_COST, Cost

__all__ = [
    "FREE",
    "billed_apart",
    "cost_of_failure",
    "cost_reported",
    "decimal_usd",
    "format_usd",
    "parse_usd",
]

FREE: Final = Cost(Decimal(0), "reported")

_CENT: Final = Decimal("0.01")
_TEN_CENTS: Final = Decimal("0.1")

_AMOUNT: Final = re.compile(r"\$?(\d+\.?\d*|\.\d+)", re.ASCII)

_MAYBE_BILLED: Final = frozenset({408, 499, 504, 524})
"""Time-outs at the edge: the provider may have gone on, and been paid."""

_SEARCHES: Final = ("web_search_options", "x_search_filter")
_FREE_PLUGINS: Final = frozenset(
    {"response-healing", "context-compression", "auto-router", "auto-beta-router", "pareto-router"}
)
"""Plugins that charge nothing of their own (OpenRouter: "Plugins")."""


def decimal_usd(value: Any) -> Decimal | None:
    """An amount as a Decimal, from a Decimal, an int or the shortest text of a float; None when it is none.

    Negative amounts and not-a-number are no prices: OpenRouter lists routers at ``-1``.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float)):
        return None
    amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return amount if amount.is_finite() and amount >= 0 else None


def parse_usd(value: Any) -> Decimal:
    """An amount that a user wrote: ``0.50``, ``"$2"``, a Decimal.

    Raises:
        ValueError: It is none, or below 0.
    """
    if isinstance(value, str) and _AMOUNT.fullmatch(value.strip()):
        return Decimal(value.strip().removeprefix("$"))
    usd = decimal_usd(value)
    if usd is None:
        raise ValueError(f"{value!r} is no amount of US dollars")
    return usd


def cost_reported(usage: Mapping[str, Any] | None) -> Cost:
    """What the account paid for a call according to its ``usage`` block.

    ``cost`` is what OpenRouter charged. With ``is_byok`` the provider bills
    ``cost_details.upstream_inference_cost`` to the user's own key besides, so it is added; without
    it, that amount is already inside ``cost`` and is never added
    (OpenRouter: "Usage accounting", "Bring your own keys").
    """
    if usage is None:
        return UNKNOWN_COST
    charged = decimal_usd(usage.get("cost"))
    if charged is None:
        return UNKNOWN_COST
    if usage.get("is_byok") is not True:
        return Cost(charged, "reported")
    details = usage.get("cost_details")
    upstream = decimal_usd(details.get("upstream_inference_cost")) if isinstance(details, Mapping) else None
    # With the user's own key most of the bill is the provider's: without it the total is not known.
    return UNKNOWN_COST if upstream is None else Cost(charged + upstream, "reported")


def cost_of_failure(status: int | None, body: Mapping[str, Any], *, accepted: bool = False) -> Cost:
    """What a call cost that ended in an error before any token arrived, and named no amount.

    A refused request is not billed, and a provider's failure without a completion is not either
    (OpenRouter: "Zero completion insurance"), unless the request also ordered searches or files,
    which are billed apart. After a time-out or a lost connection nobody here knows.

    Args:
        status: The HTTP status or the error's own code; None is neither.
        body: The request's body.
        accepted: Whether the error came inside an HTTP 200, so that work may have begun.
    """
    if status is None or status in _MAYBE_BILLED:
        return UNKNOWN_COST
    refused = 400 <= status < 500 and not accepted  # noqa: PLR2004 - the HTTP classes
    return FREE if refused or not billed_apart(body) else UNKNOWN_COST


def billed_apart(body: Mapping[str, Any]) -> str:
    """What a request orders that is billed besides its tokens, as a clause for people; empty is nothing.

    Searches, files and tools may be billed even when no token came back, and how many there will be
    nobody knows.
    """
    named = (body.get("model"), *_items(body.get("models")))
    if any(":online" in str(name) for name in named) or any(body.get(name) for name in _SEARCHES):
        return "it may search the web, which is billed apart"
    for plugin in _items(body.get("plugins")):
        name = plugin.get("id") if isinstance(plugin, Mapping) else plugin
        if name not in _FREE_PLUGINS and not (isinstance(plugin, Mapping) and plugin.get("enabled") is False):
            return f"the plugin {str(name)[:40]} is billed apart"
    # The caller runs functions; every other tool is run, and billed, by OpenRouter or the provider.
    tools = [tool.get("type") if isinstance(tool, Mapping) else tool for tool in _items(body.get("tools"))]
    other = [kind for kind in tools if kind != "function"]
    if other or body.get("stop_server_tools_when"):
        return f"the tool {str(other[0])[:40]} is billed apart" if other else "server tools are billed apart"
    return ""


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def format_usd(usd: Decimal | None) -> str:
    """Returns an amount: two significant digits under ten cents, cents above, ``$0`` only for nothing.

    Never in scientific notation. None is ``unknown``.
    """
    if usd is None:
        return "unknown"
    if not usd:
        return "$0"
    size = abs(usd)
    # Two significant digits: the last kept digit is one place behind the first.
    step = _CENT if size >= _TEN_CENTS else Decimal(1).scaleb(size.adjusted() - 1)
    shown = size.quantize(step, rounding=ROUND_HALF_UP)
    if shown >= _CENT and shown == shown.quantize(_CENT):
        shown = shown.quantize(_CENT)
    return f"{'-' if usd < 0 else ''}${shown:,f}"
