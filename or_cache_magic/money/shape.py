"""The part of OpenRouter's lists that is read: cut out of their JSON, and the only part that is kept.

What has another form than a field should have is left out, as if it had not been there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from or_cache_magic.money.price import KEYS

__all__ = ["MODEL_SHAPE", "OFFER_SHAPE", "cut", "items_of"]

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
