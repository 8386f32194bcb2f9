"""What OpenRouter lists, read from its JSON: models, and who offers them at which price.

It comes from the network, or from a ``cache.db`` that may be a stranger's: what is not understood is left
out, fields that are not known here are ignored, and nothing is ever raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.money.price import KEYS, Price, read_price

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MODELS_PATH",
    "MODEL_SHAPE",
    "OFFER_SHAPE",
    "Endpoint",
    "ModelListing",
    "ModelPricing",
    "Name",
    "cut",
    "endpoints_path",
    "find_model",
    "items_of",
    "model_path",
    "read_models",
    "read_offers",
    "trimmed",
]

_LONGEST_TEXT: Final = 500
_MOST_ITEMS: Final = 200
_MOST_TOKENS: Final = 10**12

_PRICING_FIELDS: Final = (*KEYS, "discount")

MODEL_SHAPE: Final[Mapping[str, Any]] = {
    "id": str,
    "canonical_slug": str,
    "name": str,
    "created": int,
    "context_length": int,
    "expiration_date": str,
    "architecture": {"input_modalities": list, "output_modalities": list},
    "top_provider": {"context_length": int, "max_completion_tokens": int},
    "supported_parameters": list,
    "alias_target": {"slug": str},
    "pricing": dict,
}
OFFER_SHAPE: Final[Mapping[str, Any]] = {
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


def items_of(data: Any, shape: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of a list, each `cut` to a shape; none when it is no list."""
    if not isinstance(data, (list, tuple)):
        return []
    return [cut(item, shape) for item in data if isinstance(item, Mapping)]


def cut(item: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the fields of a shape, as far as their values have it."""
    fields = ((name, _value(item.get(name), kind)) for name, kind in shape.items())
    return {name: value for name, value in fields if value is not None}


def _value(value: Any, kind: Any) -> Any:
    """A value of this kind; None when it is another's."""
    if isinstance(kind, Mapping):
        return cut(value, kind) if isinstance(value, Mapping) else None
    if kind is dict:
        return _pricing(value)
    if kind is list:
        texts = value[:_MOST_ITEMS] if isinstance(value, (list, tuple)) else ()
        return [text for text in texts if _value(text, str)] or None
    if kind is int:
        return _whole(value)
    if kind is str:
        # Printable, since it is shown: no escape sequences, no half of a surrogate pair.
        fits = isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()
        return value if fits else None
    return value if isinstance(value, kind) else None


def _whole(value: Any) -> int | None:
    """A number of tokens or seconds, from a whole number or the text of one."""
    if (
        isinstance(value, str)
        and len(value) <= len(str(_MOST_TOKENS))
        and value.isascii()
        and value.isdigit()
    ):
        value = int(value)
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and 0 <= value <= _MOST_TOKENS:
        value = int(value) if value == int(value) else None
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if whole else None


def _pricing(value: Any) -> dict[str, Any] | None:
    """A ``pricing`` object with its prices as texts, and its overrides with all their fields."""
    if not isinstance(value, Mapping):
        return None
    kept: dict[str, Any] = {
        name: _scalar(value[name]) for name in _PRICING_FIELDS if value.get(name) is not None
    }
    overrides = value.get("overrides")
    if isinstance(overrides, (list, tuple)) and overrides:
        kept["overrides"] = [
            # A condition that is not known here must be seen to be there.
            {str(name)[:_LONGEST_TEXT]: _scalar(one) for name, one in entry.items() if one is not None}
            for entry in overrides
            if isinstance(entry, Mapping)
        ]
    return kept


def _scalar(value: Any) -> str | list[str]:
    if isinstance(value, (list, tuple)):
        return [
            str(one)[:_LONGEST_TEXT] if isinstance(one, (str, int)) else "" for one in value[:_MOST_ITEMS]
        ]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:  # noqa: PLR2004
        return ""
    return str(value)[:_LONGEST_TEXT] if isinstance(value, (str, int, float, Decimal)) else ""


MODELS_PATH: Final = "/models"

_DYNAMIC: Final = frozenset({"nitro", "floor", "online", "exacto"})
"""The variants that any model has: other wishes for the same offers (OpenRouter: "Model variants")."""

_ID: Final = re.compile(r"~?[\w.-]+/[\w.-]+(?::[\w.-]+)*", re.ASCII)
_TIERS: Final = frozenset({"flex", "priority", "fast", "ultrafast", "scale", "batch"})


class ModelListing(NamedTuple):
    """One model of ``GET /models``; what it does not tell is empty or None.

    Attributes:
        id: What requests name.
        canonical_slug: Its name that never changes, which answers may name.
        price: The price of the provider that OpenRouter would ask first; others may be dearer.
        context_length: Tokens of prompt and answer together.
        max_completion_tokens: Tokens of the longest answer.
        inputs: What may be sent: ``text``, ``image``, ``file``, ``audio``, ``video``.
        outputs: What may come back.
        alias_target: The id of the model that a ``~…-latest`` alias stands for.
        expires: The day after which it may be gone, as ``YYYY-MM-DD``.
        created_s: When it was listed first, UTC epoch seconds.
    """

    id: str
    canonical_slug: str = ""
    name: str = ""
    price: Price = Price()
    context_length: int | None = None
    max_completion_tokens: int | None = None
    supported_parameters: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    alias_target: str = ""
    expires: str = ""
    created_s: int | None = None


class Endpoint(NamedTuple):
    """One provider's offer of a model, of ``GET /models/{author}/{slug}/endpoints``.

    Attributes:
        provider: The provider's display name, as answers name it.
        tag: The provider's slug, with a tier, a region or a quantization behind a slash.
        tier: The service tier: ``default``, ``flex``, ``priority``, ….
        quantization: ``fp8`` and the like; ``unknown`` where it is not told.
        implicit_caching: Whether its prompt caching works without marks; None is not told.
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
        offers: Who offers it; empty when that is not known.
        listing: The model's own entry; None when it is not known.
        listed_s: When the older of the two was fetched; None when nothing was.
        why_not: Why nothing is known, as a clause for people; empty when something is.
    """

    model: str
    offers: tuple[Endpoint, ...] = ()
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
        """The parts of a model's name."""
        base, *variants = model.split(":")
        kept = [variant for variant in variants if variant not in _DYNAMIC]
        return cls(":".join([base, *kept]), frozenset(variants) & _DYNAMIC)

    @property
    def is_id(self) -> bool:
        """Whether it has the form of an id: presets and odd text don't."""
        return _ID.fullmatch(self.base) is not None


def model_path(model_id: str) -> str:
    """Where OpenRouter tells of one model; it resolves aliases and canonical slugs."""
    return f"/model/{model_id}"


def endpoints_path(model_id: str) -> str:
    """Where OpenRouter tells who offers a model."""
    return f"/models/{model_id}/endpoints"


def find_model(models: Iterable[ModelListing], name: str) -> ModelListing | None:
    """The model of this id, else of this canonical slug; None when there is none.

    A canonical slug is shared by the variants of a model: it names the one without.
    """
    found = None
    for model in models:
        if model.id == name:
            return model
        if model.canonical_slug == name and (found is None or ":" in found.id):
            found = model
    return found


def trimmed(data: Any) -> Any:
    """Of the ``data`` of a reply what is read here, as JSON with numbers as texts, to be kept.

    Of a list of models, of one, or of the offers of one. Reading it gives what reading all would.
    """
    if isinstance(data, Mapping) and "endpoints" in data:
        return {"endpoints": items_of(data["endpoints"], OFFER_SHAPE)}
    if isinstance(data, Mapping):
        return cut(data, MODEL_SHAPE)
    return items_of(data, MODEL_SHAPE)


def read_models(data: Any, listed_s: float | None = None) -> tuple[ModelListing, ...]:
    """The models of a list, or the one that ``data`` is; those without an id are left out.

    ``listed_s`` is when it was fetched.
    """
    items = [cut(data, MODEL_SHAPE)] if isinstance(data, Mapping) else items_of(data, MODEL_SHAPE)
    return tuple(_model(item, listed_s) for item in items if item.get("id"))


def read_offers(data: Any, listed_s: float | None = None) -> tuple[Endpoint, ...]:
    """The offers in the ``data`` of a reply, in its order; those that name no provider are left out.

    ``listed_s`` is when it was fetched.
    """
    items = items_of(data.get("endpoints"), OFFER_SHAPE) if isinstance(data, Mapping) else []
    return tuple(_offer(item, listed_s) for item in items if item.get("tag") or item.get("provider_name"))


def _model(item: Mapping[str, Any], listed_s: float | None) -> ModelListing:
    architecture, top = item.get("architecture", {}), item.get("top_provider", {})
    return ModelListing(
        id=item["id"],
        canonical_slug=item.get("canonical_slug", ""),
        name=item.get("name", ""),
        price=read_price(item.get("pricing"), listed_s),
        context_length=item.get("context_length", top.get("context_length")),
        max_completion_tokens=top.get("max_completion_tokens"),
        supported_parameters=tuple(item.get("supported_parameters", ())),
        inputs=tuple(architecture.get("input_modalities", ())),
        outputs=tuple(architecture.get("output_modalities", ())),
        alias_target=item.get("alias_target", {}).get("slug", ""),
        expires=item.get("expiration_date", ""),
        created_s=item.get("created"),
    )


def _offer(item: Mapping[str, Any], listed_s: float | None) -> Endpoint:
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
