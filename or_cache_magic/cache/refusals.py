"""What is known of an ask that is refused: before it is sent, and put into the error when it failed."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from or_cache_magic.cache.parts import above
from or_cache_magic.core.chat import inputs_of
from or_cache_magic.errors import OrCacheError, ReplayMiss, StoreError, UpstreamError, one_line

if TYPE_CHECKING:
    from or_cache_magic.cache.parts import Parts
    from or_cache_magic.core.settings import Ask

_WIDTH: Final = 200
_NO_MODEL: Final = "not a valid model|[Nn]o endpoints found for|[Mm]odel .*not found"
_CHANGES: Final = 3


def check(parts: Parts, ask: Ask, may_fetch: bool = True) -> None:
    """Raise what an ask is refused with before it is sent; see `CompletionCache.check`."""
    prices = parts.money.prices
    if may_fetch:
        prices.check_models(ask.request, ask.settings.aliases)
    if inputs_of(ask.request.body):
        prices.check_inputs(ask.request, may_fetch=may_fetch)
    if ask.schema is not None:
        from or_cache_magic.cache.structured import check_schema

        check_schema(ask.request, prices, may_fetch=may_fetch)


def explain(parts: Parts, ask: Ask, failure: OrCacheError) -> None:
    """Put into an error what is known of what was meant."""
    if isinstance(failure, UpstreamError):
        _suggest_model(parts, ask, failure)
    if isinstance(failure, ReplayMiss):
        failure.look = partial(_nearest, parts, ask)
        if names := parts.pack_names():
            failure.hint += f", then write the pack anew: %openrouter_export {one_line(names[0], _WIDTH)}"


def _nearest(parts: Parts, ask: Ask) -> str:
    """Return in what the nearest stored request differs; empty where none is near."""
    from or_cache_magic.storage.sketches import without_media

    try:
        found = above("explain.nearest").nearest(parts.database, ask.request, own=ask.key.digest)
    except (StoreError, ImportError):  # Pyodide has numpy once it is fetched; the miss is told without it
        return ""
    if found is None:
        return ""
    differs = above("explain.difference").changes(found.request, without_media(ask.request))
    told = "; ".join(change.text for change in differs[:_CHANGES])
    return f"the nearest stored, {found.key[:10]}, differs in {told}"


def _suggest_model(parts: Parts, ask: Ask, failure: UpstreamError) -> None:
    """Put into the error of a model that isn't there the one that is nearly called so."""
    if failure.status in (400, 404) and re.search(_NO_MODEL, str(failure.args[0])):
        base_url, asked = ask.request.base_url, str(ask.request.body["model"])
        if meant := parts.money.prices.meant(base_url, asked, ask.settings.aliases):
            failure.hint = one_line(f"did you mean {meant}?", _WIDTH)  # the list is a server's text
