"""The models that OpenRouter lists, as users look for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from or_cache_magic.core.units import format_age, format_count
from or_cache_magic.errors import OptionError, one_line
from or_cache_magic.money.model_list import takes_schema, takes_tools, usd_per_m
from or_cache_magic.money.notices import Bought, notices, of_interest

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.money.listings import ModelListing


_WIDTH = 300


def models_frame(cache: CompletionCache, text: str, **conditions: Any) -> pd.DataFrame:
    """Return the models that meet the conditions of `CompletionCache.models`."""
    from or_cache_magic.display.frames import models_frame as frame_of

    settings = cache.settings
    offline = settings.mode == "offline"
    every = cache.money.prices.models(settings.base_url, may_fetch=not offline)
    if every is None:
        raise OptionError(
            f"no list of models is kept, and none {'may' if offline else 'could'} be fetched",
            "run it once with a connection, and not offline",
        )
    rows = [_values(model) for model in every.matching(text, **conditions)]
    age = format_age(cache.clock() - every.listed_s)
    count = f"{len(rows):,} of {format_count(len(every.listed), 'model')}"
    note = f"{count}, as OpenRouter listed them {age}; a price is the first provider's, in US dollars."
    return frame_of(rows, [note])


def notices_of(cache: CompletionCache) -> list[str]:
    """Return what there is to know of the models that entries were bought of."""
    every = cache.money.prices.models(cache.settings.base_url, may_fetch=False)
    if every is None:
        return []
    index = cache.store.listing
    bought = {
        name: [Bought(*row) for row in index.served(name, model.was_until_s)]
        for name, model in of_interest(every, index.models()).items()
    }
    return [one_line(line, _WIDTH) for line in notices(every, bought, cache.clock())]


def _values(model: ModelListing) -> dict[str, Any]:
    prompt, completion = (None if usd is None else float(usd) for usd in usd_per_m(model))
    return {
        "id": model.id,
        "name": model.name,
        "context": model.context_length,
        "max_output": model.max_completion_tokens,
        "prompt_usd_per_m": prompt,
        "completion_usd_per_m": completion,
        "input_modalities": ", ".join(model.inputs),
        "output_modalities": ", ".join(model.outputs),
        "tools": takes_tools(model),
        "schema": takes_schema(model),
        "created": model.created_s,
        "expires": model.expires or None,
    }
