"""Which of a model's offers may serve a request, as far as the request says (OpenRouter: "Provider routing").

Without preferences OpenRouter picks by dice that favour the cheap, so any offer may.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.cost import decimal_usd
from or_cache_magic.money.listings import Name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from or_cache_magic.money.listings import Offer
    from or_cache_magic.money.price import Price

__all__ = ["may_serve", "why_elsewhere"]

_USUAL: Final = frozenset({"auto", "default"})
_TIERS: Final[Mapping[str, str]] = {"flex": "flex", "priority": "priority", "fast": "priority"}
_ADMITTED: Final[Mapping[str, str]] = {"floor": "flex", "nitro": "priority"}
"""The tiers that variants admit besides the usual one."""


def may_serve(offers: Iterable[Offer], model: str, body: Mapping[str, Any]) -> tuple[Offer, ...]:
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


def why_elsewhere(offers: Iterable[Offer], model: str, body: Mapping[str, Any]) -> str:
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


def _admits(preferences: Any, offer: Offer) -> bool:
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


def _named(offer: Offer, slugs: Collection[str]) -> bool:
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
