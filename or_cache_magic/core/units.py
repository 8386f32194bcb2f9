"""Sizes as people write them: ``500MB``, ``2GB``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from or_cache_magic.core.records import UNKNOWN_COST, Cost

__all__ = [
    "FREE",
    "billed_apart",
    "cost_of_failure",
    "cost_reported",
    "decimal_usd",
    "format_dollars",
    "format_exact",
    "format_length",
    "format_moment",
    "format_share",
    "format_size",
    "format_source",
    "format_sum",
    "format_time",
    "format_usd",
    "parse_size",
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


NOTHING: Final = "-"
"""What stands where there is nothing to tell."""

_SOURCES: Final = {"reported": "", "generation": "settled"}
_LENGTHS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def format_share(share: float | None, *, about: bool = False) -> str:
    """A share in per cent; 0% and 100% only where they are exact, a dash where it is a share of nothing.

    Args:
        share: From 0 to 1; None where there is nothing to divide by.
        about: Whether amounts are missing in it.

    >>> format_share(0.254), format_share(0.9999), format_share(0.0001), format_share(1.0)
    ('25%', '>99%', '<1%', '100%')
    """
    if share is None:
        return NOTHING
    shown = f"{share:.0%}"
    if shown == "100%" and share < 1:
        shown = ">99%"
    elif shown == "0%" and share > 0:
        shown = "<1%"
    return f"≈ {shown}" if about else shown


def format_sum(usd: Decimal, *, unpriced: int = 0) -> str:
    """A sum of dollars; a lower bound, and said so, where the price of some asks isn't known.

    >>> format_sum(Decimal("1.5")), format_sum(Decimal("1.5"), unpriced=3)
    ('$1.50', '≥ $1.50')
    """
    return f"≥ {format_usd(usd)}" if unpriced else format_usd(usd)


def format_dollars(usd: float | None, *, unpriced: int = 0) -> str:
    """`format_sum` of what a DataFrame holds; None is ``unknown``."""
    return "unknown" if usd is None else format_sum(Decimal(repr(float(usd))), unpriced=unpriced)


def format_exact(usd: float | None) -> str:
    """Every digit that a DataFrame's number has, never in scientific notation; empty for None.

    >>> format_exact(1.2e-06), format_exact(0.5)
    ('0.0000012', '0.5')
    """
    return "" if usd is None else f"{Decimal(repr(float(usd))):f}"


def format_source(source: str) -> str:
    """How an amount came to be known, in a word; empty where the reply itself said it.

    >>> format_source("reported"), format_source("generation"), format_source("estimated")
    ('', 'settled', 'estimated')
    """
    return _SOURCES.get(source, source)


def format_time(at: datetime | None, now: datetime) -> str:
    """When something was, short, in local time: with the hour in this year, with the year in others."""
    if at is None:
        return NOTHING
    local = at.astimezone()
    return f"{local:%m-%d %H:%M}" if local.year == now.astimezone().year else f"{local:%Y-%m-%d}"


def format_moment(at: datetime | None) -> str:
    """When something was, exactly: local time with its offset from UTC."""
    return NOTHING if at is None else at.astimezone().isoformat(sep=" ", timespec="milliseconds")


def format_length(length_s: float | None) -> str:
    """A length of time in its largest whole unit; a dash where it has no end.

    >>> format_length(86400), format_length(5400), format_length(0.5), format_length(None)
    ('1 d', '90 min', '0.5 s', '-')
    """
    if length_s is None:
        return NOTHING
    for unit_s, name in _LENGTHS:
        if length_s >= unit_s and length_s % unit_s == 0:
            return f"{length_s / unit_s:,.0f} {name}"
    return f"{length_s:,g} s"


_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(I?)B")


def parse_size(text: str) -> int:
    """Bytes in ``500MB``, ``2GB``, ``1.5 TB``; a thousand a step, or 1024 in ``KiB``, ``MiB``, ``GiB``.

    Raises:
        ValueError: It is none of these.

    >>> parse_size("500MB"), parse_size("1.5 GiB"), parse_size("0B")
    (500000000, 1610612736, 0)
    """
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 500MB or 2GB")
    number, unit, binary = found.groups()
    return round(float(number) * (1024.0 if binary else 1000.0) ** _UNITS.index(f"{unit}B"))


def format_size(size_bytes: float) -> str:
    """A size in the unit that fits it, a thousand a step.

    >>> format_size(734), format_size(2_000_000_000), format_size(1_240_000)
    ('734 B', '2 GB', '1.2 MB')
    """
    step, size = 0, float(size_bytes)
    while round(size, 1) >= 1000 and step < len(_UNITS) - 1:  # noqa: PLR2004
        step, size = step + 1, size / 1000
    return f"{size:.1f}".removesuffix(".0") + f" {_UNITS[step]}"
