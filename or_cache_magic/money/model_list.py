"""`ModelList`: all models that OpenRouter lists; which are looked for, and which is meant.

Pure: what is listed comes from `catalog`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from or_cache_magic.errors import near_name
from or_cache_magic.money.listings import ModelListing, read_models

_MILLION: Final = 1_000_000


class ModelList:
    """All models that are listed.

    Args:
        data: A list that is trimmed; see `listings.trimmed`.
        listed_s: When it was fetched, UTC epoch seconds.
    """

    def __init__(self, data: Mapping[str, Any], listed_s: float) -> None:
        self.listed_s = listed_s
        self._data = data
        names = [
            (item["id"], item.get("canonical_slug", "")) for item in data.get("models", ()) if "id" in item
        ]
        #: What requests may name.
        self.ids: tuple[str, ...] = tuple(name for name, _ in names)
        #: Whether it is of the kind that OpenRouter gives: other servers' lists need not be whole.
        self.is_openrouters = any(slug for _, slug in names) or any(map(_is_offered, data.get("models", ())))
        self._bases = {name.partition(":")[0] for pair in names for name in pair}

    @cached_property
    def listed(self) -> tuple[ModelListing, ...]:
        """What is listed of each."""
        return read_models(self._data, self.listed_s)

    def has(self, base: str) -> bool:
        """Return whether an id without variants is a model's, with or without one, or its canonical slug."""
        return base in self._bases

    def find(self, *names: str) -> ModelListing | None:
        """Return the model that has the first of these names (id or canonical slug); None where none has."""
        for name in names:
            for one in self.listed:
                if name in (one.id, one.canonical_slug):
                    return one
        return None

    def nearest(self, name: str, others: Iterable[str] = ()) -> str:
        """Return the model, or one of the `others`, that a name was likely meant to be; empty when none.

        Its author may be missing: ``gpt-4o-mini``.
        """
        base = name.partition(":")[0]
        known: dict[str, str] = {one: one for one in (*others, *self.ids)}
        if "/" not in base:
            known = {name.rpartition("/")[2]: name for name in reversed(self.ids)} | known
        return known.get(base) or known.get(near_name(base, known), "")

    def matching(
        self,
        text: str = "",
        *,
        free: bool = False,
        max_price: Decimal | None = None,
        image: bool = False,
        tools: bool = False,
        schema: bool = False,
    ) -> Iterator[ModelListing]:
        """Yield the models that meet every condition, in the list's order; see `CompletionCache.models`."""
        words = text.casefold().split()
        for model in self.listed:
            named = f"{model.id} {model.name}".casefold()
            prices = usd_per_m(model)
            dearest = max(prices) if None not in prices else None  # type: ignore[type-var]
            if (
                all(word in named for word in words)
                and (not free or (dearest == 0 and not model.price.request))
                and (max_price is None or (dearest is not None and dearest <= max_price))
                and (not image or "image" in model.inputs)
                and (not tools or takes_tools(model))
                and (not schema or takes_schema(model))
            ):
                yield model


def _is_offered(item: Mapping[str, Any]) -> bool:
    """Return whether a model is listed with what it takes and costs, as only OpenRouter does."""
    return "prompt" in item.get("pricing", {}) and "input_modalities" in item.get("architecture", {})


def usd_per_m(model: ModelListing) -> tuple[Decimal | None, Decimal | None]:
    """Return what a million tokens of a prompt and of an answer cost, as listed; None is unknown."""
    price = model.price
    prompt, completion = (None if usd is None else usd * _MILLION for usd in (price.prompt, price.completion))
    return prompt, completion


def takes_tools(model: ModelListing) -> bool:
    """Return whether a model is listed to call tools."""
    return "tools" in model.parameters


def takes_schema(model: ModelListing) -> bool:
    """Return whether a model is listed to keep to a JSON Schema."""
    return "structured_outputs" in model.parameters


def no_such_model(names: Sequence[str], meant: str) -> tuple[str, str]:
    """Return the message and the hint of an error about models that are not there."""
    named = " and ".join(name[:60] for name in names)
    found = "is no model" if len(names) == 1 else "are no models"
    hint = f"did you mean {meant}?" if meant else "%openrouter_models lists what there is"
    return f"{named} {found} of OpenRouter's (nothing was sent)", hint
