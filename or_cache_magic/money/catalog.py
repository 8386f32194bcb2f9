"""`PriceBook`: what OpenRouter lists, fetched when it is needed and kept with its date in ``cache.db``.

A hit never comes here. What can't be fetched is answered from an older list, whose date is told; what is not
known at all is None, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.records import UNKNOWN_COST, Cost
from or_cache_magic.money.listings import (
    MODELS_PATH,
    Listed,
    ModelListing,
    Name,
    Offer,
    endpoints_path,
    find_model,
    model_path,
)
from or_cache_magic.money.pages import Pages

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.core.records import Answer, Request
    from or_cache_magic.money.call_cost import Made
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.storage.database import Database

__all__ = ["FRESH_S", "ModelList", "PriceBook"]

FRESH_S: Final = 86_400.0
"""How long a list is taken as it is."""

_LATEST_S: Final = 60.0
"""A list younger than this can't be bettered by fetching it again."""


class ModelList(NamedTuple):
    """All models that are listed, and when they were fetched (UTC epoch seconds)."""

    models: tuple[ModelListing, ...]
    listed_s: float


class PriceBook:
    """The lists of OpenRouter, and what calls cost by them. Thread-safe; two threads fetch once.

    Args:
        database: Keeps the lists. While there is no file, or it can't be written, they are only in memory.
        fetch: Fetches JSON: `Gateway.fetch`. Called without a transaction being open.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self, database: Database, fetch: Callable[..., Any], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._pages = Pages(database, fetch, clock)

    def models(self, base_url: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True) -> ModelList | None:
        """All models, of every kind; None when they are not known and can't be fetched.

        Args:
            base_url: Whose.
            fresh_s: How old a list may be before it is fetched again, in seconds. When that fails, or may not
                be, an older one is given.
            may_fetch: Whether the network may be asked.
        """
        page = self._pages.get(base_url, MODELS_PATH, fresh_s, may_fetch=may_fetch)
        return ModelList(page.models, page.fetched_s) if page is not None else None

    def listing(
        self, base_url: str, model: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True
    ) -> ModelListing | None:
        """What is listed of a model, by its id with or without variants, its canonical slug or an alias.

        None when it is not known and can't be fetched; the arguments are those of `models`.
        """
        return self._listing(base_url, model, fresh_s, may_fetch=may_fetch)[0]

    def offers(
        self, base_url: str, model: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True
    ) -> tuple[Offer, ...] | None:
        """Who offers a model at which prices; None when that is not known and can't be fetched.

        The arguments are those of `models`.
        """
        listed = self.listed(base_url, model, fresh_s=fresh_s, may_fetch=may_fetch)
        return None if listed.why_not else listed.offers

    def listed(
        self, base_url: str, model: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True
    ) -> Listed:
        """All that is listed of a model as a request names it; the arguments are those of `models`."""
        name = Name.of(model)
        if not name.is_id:
            return Listed(model, why_not=f"{model[:60]!r} is no model's id")
        listing, listing_s = self._listing(base_url, model, fresh_s, may_fetch=may_fetch)
        if listing is None and ":" in name.base:  # OpenRouter may tell of the model that it is a variant of
            path = model_path(name.base)
            told = self._pages.get(base_url, path, fresh_s, may_fetch=False) is not None
            why = "is not listed" if told else self._pages.why_none(base_url, path)
            return Listed(model, why_not=f"{model} {why}")
        model_id = (listing.alias_target or listing.id) if listing is not None else name.base
        path = endpoints_path(model_id)
        page = self._pages.get(base_url, path, fresh_s, may_fetch=may_fetch)
        if page is None:
            return Listed(model, (), listing, listing_s, f"{model} {self._pages.why_none(base_url, path)}")
        listed_s = page.fetched_s if listing_s is None else min(page.fetched_s, listing_s)
        return Listed(model, page.offers, listing, listed_s)

    def known(self, base_url: str, model: str) -> Listed:
        """`listed` as far as it is known, however old; asks nobody."""
        return self.listed(base_url, model, may_fetch=False)

    def estimate(self, request: Request, at_s: float, *, may_fetch: bool = True) -> Estimate:
        """What a call may cost if it is sent at this time (UTC epoch seconds); see `pricing.estimate`."""
        from or_cache_magic.core.tokens import request_tokens
        from or_cache_magic.money.estimate import asked_models, estimate, hides

        tokens = request_tokens(request.body)
        listed = []
        for model in asked_models(request.body):
            one = self.listed(request.base_url, model, may_fetch=may_fetch)
            if may_fetch and hides(one, tokens, at_s):
                one = self.listed(request.base_url, model, fresh_s=_LATEST_S)
            listed.append(one)
        return estimate(request.body, tokens, listed, at_s, prompt_cache=request.prompt_cache)

    def tokens_cost(self, request: Request, answer: Answer, at_s: float) -> Cost:
        """What a call cost by its tokens, where the lists that are known leave no doubt; asks nobody.

        Args:
            request: What was asked.
            answer: What came back; only its model, provider and usage are looked at.
            at_s: When the call ended, UTC epoch seconds.
        """
        from or_cache_magic.money.call_cost import tokens_cost

        call = self._made(request, answer, at_s)
        cost_usd = None if call is None else tokens_cost(call)
        return UNKNOWN_COST if cost_usd is None else Cost(cost_usd, "estimated")

    def prompt_cache_saved(self, request: Request, answer: Answer, at_s: float) -> Decimal | None:
        """What the provider's prompt caching took off a call; below 0 where it cost more; asks nobody.

        None where the lists that are known leave a doubt; the arguments are those of `tokens_cost`.
        """
        from or_cache_magic.money.call_cost import prompt_cache_saved

        call = self._made(request, answer, at_s)
        return None if call is None else prompt_cache_saved(call, answer.prompt_cost_usd)

    def _made(self, request: Request, answer: Answer, at_s: float) -> Made | None:
        """A call as if it had named only the model that served it; None when that one is not known."""
        from or_cache_magic.money.call_cost import Made
        from or_cache_magic.money.estimate import asked_models, writes_for_1h

        names = asked_models(request.body)
        if answer.usage is None:
            return None
        for name in names:
            listed = self.known(request.base_url, name)
            model = listed.listing
            ids = () if model is None else (model.id, model.canonical_slug, model.alias_target)
            if len(names) == 1 or answer.model in ids:
                body = {**request.body, "model": name, "models": None}
                written_1h = writes_for_1h(body, request.prompt_cache)
                return Made(answer.usage, listed, body, at_s, answer.provider, written_1h)
        return None

    def _listing(
        self, base_url: str, model: str, fresh_s: float, *, may_fetch: bool
    ) -> tuple[ModelListing | None, float | None]:
        """A model's listing and its date."""
        name = Name.of(model)
        if not name.is_id:
            return None, None
        every = self._pages.get(base_url, MODELS_PATH, fresh_s, may_fetch=False)
        in_list = find_model(every.models, name.base) if every is not None else None
        if every is not None and in_list is not None and self._pages.is_fresh(every, fresh_s):
            return in_list, every.fetched_s
        page = self._pages.get(base_url, model_path(name.base), fresh_s, may_fetch=may_fetch)
        alone = page.models[0] if page is not None and page.models else None
        # Where a variant is gone, OpenRouter may tell of the model that it was of: at another price.
        if alone is not None and name.base.partition(":")[2] in ("", alone.id.partition(":")[2]):
            return alone, page.fetched_s if page is not None else None
        return (in_list, every.fetched_s) if every is not None and in_list is not None else (None, None)
