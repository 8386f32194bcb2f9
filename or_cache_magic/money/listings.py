"""What OpenRouter lists, read from its JSON: a model, and who offers it at which price.

It comes from the network, or from a ``cache.db`` that is untrusted input: what is not understood is left out,
fields that are not known here are ignored, and nothing is ever raised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import as_list
from or_cache_magic.core.units import read_count, read_number
from or_cache_magic.money.price import KEYS, Price, read_price

_LONGEST_TEXT: Final = 500
_MOST_ITEMS: Final = 200
_MOST_MODELS: Final = 10_000
MODELS_PATH: Final = "/models"

_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2262
_LAST_S: Final = 9_214_646_400
"""When that year begins: a time in nanoseconds ends within it."""

_MODEL_SHAPE: Final[Mapping[str, Any]] = {
    "id": str,
    "canonical_slug": str,
    "name": str,
    "created": int,
    "context_length": int,
    "architecture": {"input_modalities": list, "output_modalities": list},
    "top_provider": {"context_length": int, "max_completion_tokens": int},
    "alias_target": {"slug": str},
    "pricing": dict,
    "supported_parameters": list,
    "expiration_date": str,
    "was": {"until": int, "pricing": dict},
}
_ENDPOINT_SHAPE: Final[Mapping[str, Any]] = {
    "provider_name": str,
    "tag": str,
    "service_tier": str,
    "quantization": str,
    "context_length": int,
    "max_completion_tokens": int,
    "supported_parameters": list,
    "supports_implicit_caching": bool,
    "pricing": dict,
}

_DYNAMIC: Final = frozenset({"nitro", "floor", "online", "exacto"})
"""The variants that any model has: other wishes for the same endpoints (OpenRouter: "Model variants")."""

_UNLISTED: Final = ("~", "openrouter/")
_ID: Final = re.compile(r"~?[\w.-]+/[\w.-]+(?::[\w.-]+)*", re.ASCII)
_TIERS: Final = frozenset({"flex", "priority", "fast", "ultrafast", "scale", "batch"})


class ModelListing(NamedTuple):
    """A model's own entry, of ``GET /model/{author}/{slug}``; what it lacks is empty or None.

    Attributes:
        id: What requests name.
        canonical_slug: Its name that never changes, which answers may name.
        context_length: Tokens of prompt and answer together.
        outputs: What may come back: ``text``, ``image``, ``audio``.
        alias_target: The id of the model that a ``~…-latest`` alias stands for.
        routes: Whether it is listed at a price below 0, as what picks a model at each call is.
        inputs: What it takes: ``text``, ``image``, ``file``, ``audio``, ``video``.
        name: As it is shown.
        created_s: When OpenRouter had it first, UTC epoch seconds.
        max_completion_tokens: Of an answer.
        parameters: The fields of a request that it knows.
        expires: The day on which it goes, as ``2027-05-01``; empty is none.
        price: Of the endpoint that OpenRouter lists first.
        was: What it cost before its price last changed, as far as lists that were kept say.
        was_until_s: When that was last listed.
    """

    id: str
    canonical_slug: str = ""
    context_length: int | None = None
    outputs: tuple[str, ...] = ()
    alias_target: str = ""
    routes: bool = False
    inputs: tuple[str, ...] = ()
    name: str = ""
    created_s: int | None = None
    max_completion_tokens: int | None = None
    parameters: tuple[str, ...] = ()
    expires: str = ""
    price: Price = read_price(None)
    was: Price | None = None
    was_until_s: int = 0


class Endpoint(NamedTuple):
    """One provider's offer of a model, of ``GET /models/{author}/{slug}/endpoints``.

    Attributes:
        provider: The provider's display name, as answers name it.
        tag: The provider's slug, with a tier, a region or a quantization behind a slash.
        tier: The service tier: ``default``, ``flex``, ``priority``, ….
        quantization: ``fp8`` and the like, or ``unknown``.
        implicit_caching: Whether its prompt caching works without marks; None is unknown.
    """

    provider: str
    tag: str
    price: Price = Price()
    tier: str = "default"
    quantization: str = "unknown"
    context_length: int | None = None
    max_completion_tokens: int | None = None
    supported_parameters: tuple[str, ...] = ()
    implicit_caching: bool | None = None


class ModelPricing(NamedTuple):
    """What is listed of one model that a request names.

    Attributes:
        model: As the request names it, with its variants.
        endpoints: Who offers it; empty when that is not known.
        listing: The model's own entry; None when it is not known.
        listed_s: When the older of the two was fetched; None when nothing was.
        why_not: Why nothing is known, as a clause for people; empty when something is.
    """

    model: str
    endpoints: tuple[Endpoint, ...] = ()
    listing: ModelListing | None = None
    listed_s: float | None = None
    why_not: str = ""


class Name(NamedTuple):
    """A model as it is asked for, taken apart.

    Attributes:
        base: The id to look for, with the variants that are models of their own (``:free``, ``:extended``).
        variants: The others: ``nitro``, ``floor``, ``online``, ``exacto``.
    """

    base: str
    variants: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: str) -> Name:
        """Return the parts of a model's name."""
        base, *variants = model.split(":")
        kept = [variant for variant in variants if variant not in _DYNAMIC]
        return cls(":".join([base, *kept]), frozenset(variants) & _DYNAMIC)

    @staticmethod
    def base_of(model: str) -> str:
        """Return the id without variants; empty for what lists need not have: presets, aliases, routers."""
        base = model.partition(":")[0]
        return "" if "@" in base or base.startswith(_UNLISTED) else base

    @property
    def is_id(self) -> bool:
        """Whether it has the form of an id: presets and odd text don't."""
        return _ID.fullmatch(self.base) is not None


def trimmed(data: Any) -> dict[str, Any]:
    """Return of the ``data`` of a reply what is read here, as JSON with prices as texts, to be kept.

    It is a model's entry, its endpoints, or all models. Reading it gives what reading all would.
    """
    if isinstance(data, list):
        data = {"models": data}
    if not isinstance(data, Mapping):
        return {}
    if "models" in data:
        return {"models": [_cut(item, _MODEL_SHAPE) for item in _models(data)]}
    if "endpoints" in data:
        return {"endpoints": _endpoints(data)}
    return _cut(data, _MODEL_SHAPE)


def remembering(data: Mapping[str, Any], before: Any, listed_s: float) -> dict[str, Any]:
    """Return a trimmed list of models with what each cost before its price last changed.

    Args:
        data: The list as it is now.
        before: The one before; what it remembers is kept.
        listed_s: When that was fetched.
    """
    known = {str(item.get("id")): item for item in _models(before)}
    models = []
    for item in _models(data):
        old, new = known.get(str(item.get("id")), {}), dict(item)
        new.pop("was", None)
        was = old.get("was")
        if _token_prices(old) != _token_prices(item) and None not in (
            _token_prices(old),
            _token_prices(item),
        ):
            was = {"until": int(listed_s), "pricing": old["pricing"]}
        models.append(new if was is None else {**new, "was": was})
    return {"models": models}


def _token_prices(item: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return the usual prices of a token; None where a list shows those of its hour, or they aren't known."""
    price = read_price(item.get("pricing"))
    timed = any(one.hours or one.days or one.doubtful for one in price.overrides)
    return None if timed or price.unknown else (price.prompt, price.completion, price.discount)


def _models(data: Any) -> list[Mapping[str, Any]]:
    items = as_list(data.get("models") if isinstance(data, Mapping) else None)
    return [item for item in items[:_MOST_MODELS] if isinstance(item, Mapping)]


def read_models(data: Any, listed_s: float | None = None) -> tuple[ModelListing, ...]:
    """Return the models of a trimmed list, in its order; ``listed_s`` is when it was fetched."""
    return tuple(_model(item, listed_s) for item in _models(data) if "id" in item)


def read_model(data: Any, listed_s: float | None = None) -> ModelListing | None:
    """Return the model that the ``data`` of a reply is; None without an id.

    ``listed_s`` is when it was fetched.
    """
    item = _cut(data, _MODEL_SHAPE) if isinstance(data, Mapping) else {}
    return _model(item, listed_s) if "id" in item else None


def _model(item: Mapping[str, Any], listed_s: float | None) -> ModelListing:
    pricing, was = item.get("pricing", {}), item.get("was", {})
    usual = (read_number(pricing.get(key), signed=True) for key in ("prompt", "completion"))
    return ModelListing(
        id=item["id"],
        canonical_slug=item.get("canonical_slug", ""),
        context_length=item.get("context_length", item.get("top_provider", {}).get("context_length")),
        outputs=tuple(item.get("architecture", {}).get("output_modalities", ())),
        alias_target=item.get("alias_target", {}).get("slug", ""),
        inputs=tuple(item.get("architecture", {}).get("input_modalities", ())),
        routes=any((usd or 0) < 0 for usd in usual),
        name=item.get("name", ""),
        created_s=_moment(item.get("created")),
        max_completion_tokens=item.get("top_provider", {}).get("max_completion_tokens"),
        parameters=tuple(item.get("supported_parameters", ())),
        expires=_day(item.get("expiration_date", "")),
        price=read_price(pricing, listed_s),
        was=read_price(was["pricing"]) if was.get("pricing") else None,
        was_until_s=_moment(was.get("until")) or 0,
    )


def read_endpoints(data: Any, listed_s: float | None = None) -> tuple[Endpoint, ...]:
    """Return the endpoints in the ``data`` of a reply, in its order, without those that name no provider.

    ``listed_s`` is when it was fetched.
    """
    items = _endpoints(data) if isinstance(data, Mapping) else []
    return tuple(_endpoint(item, listed_s) for item in items if item.get("tag") or item.get("provider_name"))


def _day(text: str) -> str:
    """Return the day that a date is of; empty for anything else, and what no clock of pandas has."""
    try:
        day = date.fromisoformat(text[:10])
    except ValueError:
        return ""
    return day.isoformat() if _FIRST_YEAR <= day.year < _LAST_YEAR else ""


def _moment(at_s: int | None) -> int | None:
    """Return a time in epoch seconds; None for one that no clock of pandas has."""
    return at_s if at_s is not None and at_s < _LAST_S else None


def _endpoint(item: Mapping[str, Any], listed_s: float | None) -> Endpoint:
    tag = item.get("tag", "")
    ending = tag.rpartition("/")[2] if "/" in tag else ""
    return Endpoint(
        provider=item.get("provider_name", ""),
        tag=tag,
        price=read_price(item.get("pricing"), listed_s),
        tier=item.get("service_tier") or (ending if ending in _TIERS else "default"),
        quantization=item.get("quantization", "unknown"),
        context_length=item.get("context_length"),
        max_completion_tokens=item.get("max_completion_tokens"),
        supported_parameters=tuple(item.get("supported_parameters", ())),
        implicit_caching=item.get("supports_implicit_caching"),
    )


def _endpoints(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = as_list(data.get("endpoints"))
    return [_cut(item, _ENDPOINT_SHAPE) for item in items if isinstance(item, Mapping)]


def _cut(item: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with the fields of a shape, as far as their values have it."""
    fields = ((name, _value(item.get(name), kind)) for name, kind in shape.items())
    return {name: value for name, value in fields if value is not None}


def _value(value: Any, kind: Any) -> Any:
    """Return a value of this kind; None when it is another's."""
    if kind is str:
        return value if _is_text(value) else None
    if kind is int:
        return read_count(value)
    if kind is list:
        return [text for text in as_list(value)[:_MOST_ITEMS] if _is_text(text)] or None
    if kind is dict:
        return _pricing(value)
    if kind is bool:
        return value if isinstance(value, bool) else None
    return _cut(value, kind) if isinstance(value, Mapping) else None


def _is_text(value: Any) -> bool:
    """Return whether it is a text that may be shown: no escape sequences, no half of a surrogate pair."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()


def _pricing(value: Any) -> dict[str, Any] | None:
    """Return a ``pricing`` object with its prices as texts, and its overrides with all their fields."""
    if not isinstance(value, Mapping):
        return None
    kept: dict[str, Any] = {n: _text(value[n]) for n in (*KEYS, "discount") if value.get(n) is not None}
    if overrides := as_list(value.get("overrides")):
        kept["overrides"] = [
            # A condition that is not known here must be seen to be there.
            {str(name)[:_LONGEST_TEXT]: _text(one) for name, one in entry.items() if one is not None}
            for entry in overrides
            if isinstance(entry, Mapping)
        ]
    return kept


def _text(value: Any) -> str | list[str]:
    """Return a text, a number's text, or such of a list; empty for anything else, and too long a number."""
    if isinstance(value, (list, tuple)):
        return [
            str(one)[:_LONGEST_TEXT] if isinstance(one, (str, int)) else "" for one in value[:_MOST_ITEMS]
        ]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:  # noqa: PLR2004
        return ""
    return str(value)[:_LONGEST_TEXT] if isinstance(value, (str, int, float, Decimal)) else ""
