"""`PriceCatalog`: what OpenRouter lists, fetched when it is needed and kept with its date in ``cache.db``.

A hit never comes here. What can't be fetched is answered from an older list, with its date; what is not
known at all has its reason.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from or_cache_magic.core.chat import as_list, as_mapping, asked_models, inputs_of
from or_cache_magic.core.records import UNKNOWN_COST, Answer, Cost, Request
from or_cache_magic.core.tokens import request_tokens
from or_cache_magic.errors import OrCacheError, RequestError, StoreError, UpstreamError
from or_cache_magic.money.call_cost import CompletedCall, prompt_cache_saved, tokens_cost
from or_cache_magic.money.estimate import Estimate, estimate, hides, writes_for_1h
from or_cache_magic.money.listings import (
    MODELS_PATH,
    Endpoint,
    ModelListing,
    ModelPricing,
    Name,
    read_endpoints,
    read_model,
    remembering,
    trimmed,
)
from or_cache_magic.money.model_list import ModelList, no_such_model

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.storage.database import Database

_RETRY_S: Final = 60.0
"""How long after a fetch that failed the next is tried: an ask without a network waits once."""

_ANY: Final = ""
"""The path of a failure that was not about one path."""

_CLOCKS_DIFFER_S: Final = 3600.0
_WAIT_S: Final = 0.25
"""For a lock of the file: a list that is not kept is fetched again tomorrow, no more."""

_MOST_PAGES: Final = 50
_LARGEST_BYTES: Final = 1 << 24
"""Of a list when inflated: a crafted row can hold far more than it seems to."""

_INPUTS: Final = {"image": "pictures", "audio": "sound", "video": "video"}
_MOST_NAMED: Final = 3

_MODELS: Final = """
SELECT path FROM or_listing WHERE base_url = ? AND path LIKE '/model/%' ORDER BY fetched DESC LIMIT 50
"""
_FIND: Final = "SELECT fetched, body FROM or_listing WHERE base_url = ? AND path = ?"
_KEEP: Final = "INSERT OR REPLACE INTO or_listing (base_url, path, fetched, body) VALUES (?, ?, ?, ?)"


class Page:
    """What is listed at one path, trimmed, and when it was fetched."""

    def __init__(self, fetched_s: float, data: Any) -> None:
        self.fetched_s = fetched_s
        self.data = data

    @cached_property
    def listing(self) -> ModelListing | None:
        """The model's entry in it."""
        return read_model(self.data)

    @cached_property
    def models(self) -> ModelList:
        """The models in it."""
        return ModelList(self.data, self.fetched_s)

    @cached_property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints in it."""
        return read_endpoints(self.data, self.fetched_s)


class Pages:
    """Pages by base URL and path; made as `PriceCatalog`. Thread-safe; two threads fetch once."""

    def __init__(self, database: Database, fetch: Callable[..., Any], clock: Callable[[], float]) -> None:
        self._database = database
        self._fetch = fetch
        self._clock = clock
        self._pages: dict[tuple[str, str], Page] = {}
        self._failed: dict[tuple[str, str], float] = {}
        self._looked_up: set[tuple[str, str]] = set()
        #: What was fetched before there was a file.
        self._not_kept: set[tuple[str, str]] = set()
        self._locks: dict[object, threading.Lock] = {}

    def is_fresh(self, page: Page | None, fresh_s: float) -> bool:
        """Whether a page was fetched less than so many seconds ago."""
        return page is not None and self._clock() - page.fetched_s < fresh_s

    def why_none(self, base_url: str, path: str) -> str:
        """Return why there is no page, as what is said of a model."""
        if (base_url, path) in self._failed:
            return "is not listed"
        if (base_url, _ANY) in self._failed:
            return "has no price that is known here, and none could be fetched"
        return "has no price that is known here, and none may be fetched"

    def is_gone(self, base_url: str, path: str) -> bool:
        """Return whether the last time that a path was asked for there was nothing, and nothing is kept."""
        return (base_url, path) in self._failed and (base_url, path) not in self._pages

    def models_taking(self, base_url: str, inputs: set[str]) -> list[str]:
        """Return a few of the models in the file that are listed to take all of these."""
        try:
            rows = self._database.select(_MODELS, (base_url,))
        except StoreError:
            return []
        pages = [page for (path,) in rows if (page := self._read((base_url, str(path)))) is not None]
        found = (page.listing for page in pages)
        able = (one.id for one in found if one is not None and inputs <= set(one.inputs))
        return list(dict.fromkeys(able))[:_MOST_NAMED]

    def get(self, base_url: str, path: str, fresh_s: float, *, may_fetch: bool) -> Page | None:
        """Return what is listed at a path: from memory, the file or the network; an old one rather than none.

        Fetched again is what is older than ``fresh_s``, if the network may be asked.
        """
        place = (base_url, path)
        page = self._pages.get(place)
        if self.is_fresh(page, fresh_s) or (place in self._looked_up and not may_fetch):
            return page
        # A forked child must not wait for a thread that it does not have.
        with self._locks.setdefault((os.getpid(), place), threading.Lock()):
            page = self._newest(place, self._pages.get(place), fresh_s, may_fetch=may_fetch)
            if page is not None:
                self._pages[place] = page
            self._looked_up.add(place)
            return page

    def _newest(
        self, place: tuple[str, str], page: Page | None, fresh_s: float, *, may_fetch: bool
    ) -> Page | None:
        if self.is_fresh(page, fresh_s):
            return page  # another thread was first
        if may_fetch or place not in self._looked_up:  # another kernel may have fetched it meanwhile
            kept = self._read(place)
            if kept is not None and (page is None or kept.fetched_s > page.fetched_s):
                page = kept
        if not may_fetch or self.is_fresh(page, fresh_s) or self._failed_just_now(place):
            return page
        return self._fetched(place, page) or page

    def _failed_just_now(self, place: tuple[str, str]) -> bool:
        failed_s = max(self._failed.get(place, -math.inf), self._failed.get((place[0], _ANY), -math.inf))
        return self._clock() - failed_s < _RETRY_S

    def _fetched(self, place: tuple[str, str], before: Page | None) -> Page | None:
        """Fetch what OpenRouter lists there now, and put it in the file; None when that is nothing."""
        base_url, path = place
        try:
            data = trimmed(
                [item for page in self._lists(base_url) for item in page]
                if path == MODELS_PATH
                else self._ask(base_url, path, {})["data"]
            )
        except OrCacheError as exc:
            gone = isinstance(exc, UpstreamError) and exc.status == 404  # noqa: PLR2004 - HTTP
            self._failed[place if gone else (base_url, _ANY)] = self._clock()
            return None
        self._failed.pop(place, None)
        self._failed.pop((base_url, _ANY), None)
        if path == MODELS_PATH:
            data = remembering(data, before and before.data, before.fetched_s if before else 0)
        page = Page(self._clock(), data)
        self._keep(place, page)
        return page

    def _ask(self, base_url: str, path: str, params: Mapping[str, str]) -> Mapping[str, Any]:
        """Return a reply that has ``data``; raises `OrCacheError` when there is none."""
        reply = as_mapping(self._fetch(path, base_url=base_url, params=params, needs_key=False))
        if not reply.get("data"):
            raise UpstreamError(f"{base_url}{path} has nothing that is understood here")
        return reply

    def _lists(self, base_url: str) -> Iterator[Sequence[Any]]:
        """Yield the pages of the list of all models; raises `OrCacheError` when one is missing."""
        params = {"output_modalities": "all"}
        for _ in range(_MOST_PAGES):
            reply = self._ask(base_url, MODELS_PATH, params)
            yield as_list(reply["data"])
            # Of the link to the next only these are followed: the key goes to no other host.
            link = str(as_mapping(reply.get("links")).get("next") or "")
            query = parse_qsl(link.partition("?")[2])
            following = {**params, **{name: value for name, value in query if name in ("offset", "limit")}}
            if following == params:
                return
            params = following

    def _read(self, place: tuple[str, str]) -> Page | None:
        """Return what the file has; None when that is nothing, or not to be understood."""
        try:
            rows = self._database.select(_FIND, place)
        except StoreError:
            return None
        if not rows:
            return None
        fetched_s, body = rows[0]
        if not isinstance(fetched_s, float) or not isinstance(body, bytes):
            return None
        if not 0 <= fetched_s < self._clock() + _CLOCKS_DIFFER_S:
            return None
        try:
            inflater = zlib.decompressobj()
            data = json.loads(inflater.decompress(body, _LARGEST_BYTES))
        except (zlib.error, ValueError, RecursionError):
            return None
        return Page(fetched_s, trimmed(data))

    def keep_early_ones(self) -> None:
        """Put into the file what was fetched before there was one."""
        for place in [*self._not_kept]:
            self._keep(place, self._pages[place])

    def _keep(self, place: tuple[str, str], page: Page) -> None:
        """Put a list in the file, if there is one: a folder is made for answers, not for prices."""
        body = zlib.compress(json.dumps(page.data, separators=(",", ":")).encode())
        with suppress(StoreError):
            if not self._database.exists():
                self._not_kept.add(place)
            else:
                self._not_kept.discard(place)
                with self._database.transaction(wait_s=_WAIT_S) as connection:
                    connection.execute(_KEEP, (*place, page.fetched_s, body))


FRESH_S: Final = 86_400.0
"""How long a list is taken as it is."""

_KNOWS_S: Final = 7 * FRESH_S
"""What a list younger than this lacks, and OpenRouter when asked for it, is not there."""

_LATEST_S: Final = 60.0
"""A list younger than this can't be bettered by fetching it again."""


class PriceCatalog:
    """The lists of OpenRouter, and what calls cost by them. Thread-safe; two threads fetch once.

    Args:
        database: Keeps the lists. While there is no file, or it can't be written, they are only in memory.
        fetch: Fetches JSON: `Gateway.fetch`. Called without a transaction being open.
        clock: Gives UTC epoch seconds.
    """

    def __init__(
        self, database: Database, fetch: Callable[..., Any], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._pages = Pages(database, fetch, clock)

    def keep(self) -> None:
        """Put into the file, if there is one by now, what was fetched before there was one."""
        self._pages.keep_early_ones()

    def models(self, base_url: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True) -> ModelList | None:
        """Return all models that are listed, of every kind; None when they can't be known.

        The arguments are those of `pricing`.
        """
        page = self._pages.get(base_url, MODELS_PATH, fresh_s, may_fetch=may_fetch)
        return page.models if page is not None and page.models.ids else None

    def is_outdated(self, base_url: str) -> bool:
        """Return whether a list of models is kept that is to be fetched again; fetches nothing."""
        every = self.models(base_url, may_fetch=False)
        return every is not None and self._clock() - every.listed_s >= FRESH_S

    def check_models(self, request: Request, aliases: Iterable[str] = ()) -> None:
        """Do nothing where a model of a request may be there.

        Nothing is fetched for what was ever listed here. For another OpenRouter is asked, which is one small
        request on the connection that the call then takes; where it has none, its list tells what was meant.

        Args:
            request: What is to be sent.
            aliases: Other names that may have been meant.

        Raises:
            RequestError: None of them is there.
        """
        base_url, names = request.base_url, asked_models(request.body)
        if not names or any(self._may_be_there(base_url, name) for name in names):
            return
        if all(self._is_gone(base_url, name) for name in names):
            raise RequestError(*no_such_model(names, self.meant(base_url, names[0], aliases)))

    def meant(self, base_url: str, name: str, aliases: Iterable[str] = ()) -> str:
        """Return the model or alias that a name is nearly; empty when none; may fetch the list."""
        every = self.models(base_url)
        return every.nearest(name, aliases) if every is not None else ""

    def _may_be_there(self, base_url: str, name: str) -> bool:
        """Return whether nothing that is kept leaves a doubt that a model is there; fetches nothing."""
        base, kept = Name.base_of(name), self.models(base_url, may_fetch=False)
        if not base or (kept is not None and (not kept.is_openrouters or kept.has(base))):
            return True
        get = partial(self._pages.get, base_url, fresh_s=math.inf, may_fetch=False)
        return any(map(get, _paths(name)))

    def _is_gone(self, base_url: str, name: str) -> bool:
        """Return whether OpenRouter, when asked, has no model of this name, and its list has none either."""
        for path in _paths(name):
            if self._pages.get(base_url, path, FRESH_S, may_fetch=True) is not None:
                return False
            if not self._pages.is_gone(base_url, path):
                return False
        base, every = Name.base_of(name), self.models(base_url)
        if every is None or not every.is_openrouters or every.has(base):
            return False
        is_known = Name.of(base).is_id or every.nearest(base)
        return bool(is_known) and self._clock() - every.listed_s <= _KNOWS_S

    def _listing(self, base_url: str, model: str, fresh_s: float, *, may_fetch: bool) -> ModelListing | None:
        """Return what is listed of a model, by itself or in the list of all; None where it isn't known."""
        name = Name.of(model)
        path = f"/model/{name.base}"
        page = self._pages.get(base_url, path, fresh_s, may_fetch=may_fetch) if name.is_id else None
        if page is not None and page.listing is not None:
            return page.listing
        every = self.models(base_url, fresh_s=fresh_s, may_fetch=may_fetch) if name.is_id else None
        return every.find(name.base, Name.base_of(model)) if every is not None else None

    def pricing(
        self, base_url: str, model: str, *, fresh_s: float = FRESH_S, may_fetch: bool = True
    ) -> ModelPricing:
        """Return all that is listed of a model, by its id with or without variants, canonical slug or alias.

        Args:
            base_url: By whom.
            model: As a request names it.
            fresh_s: How old a list may be before it is fetched again, in seconds. When that fails, or may not
                be, an older one is taken.
            may_fetch: Whether the network may be asked.
        """
        name = Name.of(model)
        if not name.is_id:
            return ModelPricing(model, why_not=f"{model[:60]!r} is no model's id")
        path = f"/model/{name.base}"  # resolves aliases and canonical slugs
        entry = self._pages.get(base_url, path, fresh_s, may_fetch=may_fetch)
        listing = entry.listing if entry is not None else None
        variant = name.base.partition(":")[2]
        # Where a variant is gone, OpenRouter may list the model that it was of: at another price.
        if listing is not None and variant and listing.id.partition(":")[2] != variant:
            listing = None
        if listing is None and variant:
            why = "is not listed" if entry is not None else self._pages.why_none(base_url, path)
            return ModelPricing(model, why_not=f"{model} {why}")
        listing_s = entry.fetched_s if entry is not None and listing is not None else None
        offered = (listing.alias_target or listing.id) if listing is not None else name.base
        path = f"/models/{offered}/endpoints"
        page = self._pages.get(base_url, path, fresh_s, may_fetch=may_fetch)
        if page is None:
            why = self._pages.why_none(base_url, path)
            if self._pages.is_gone(base_url, path) and (
                listing or self._listing(base_url, model, fresh_s, may_fetch=False)
            ):
                why = "is listed without a provider, and so without a price"
            return ModelPricing(model, (), listing, listing_s, f"{model} {why}")
        listed_s = page.fetched_s if listing_s is None else min(page.fetched_s, listing_s)
        return ModelPricing(model, page.endpoints, listing, listed_s)

    def known(self, base_url: str, model: str) -> ModelPricing:
        """Return `pricing` as far as it is known, however old; fetches nothing."""
        return self.pricing(base_url, model, may_fetch=False)

    def estimate(self, request: Request, at_s: float, *, may_fetch: bool = True) -> Estimate:
        """Return what a call may cost if sent at this time (UTC epoch seconds); see `money.estimate`."""
        tokens = request_tokens(request.body)
        pricings = []
        for model in asked_models(request.body):
            pricing = self.pricing(request.base_url, model, may_fetch=may_fetch)
            if may_fetch and hides(pricing, tokens, at_s):
                pricing = self.pricing(request.base_url, model, fresh_s=_LATEST_S)
            pricings.append(pricing)
        return estimate(request.body, tokens, pricings, at_s, prompt_cache=request.prompt_cache)

    def why_no_schema(self, request: Request, *, may_fetch: bool = True) -> str | None:
        """Return that no provider of a request's models lists structured outputs; None where one may.

        Fetches the list where it isn't known, if it may. What is not listed speaks against nothing.
        """
        models = asked_models(request.body)
        for model in models:
            for fresh_s in (FRESH_S, _LATEST_S):  # since the kept list its provider may have learnt it
                if self._may_take_schema(request.base_url, model, fresh_s, may_fetch=may_fetch):
                    return None
        return (
            f"{' and '.join(models)} can't be held to a schema: no provider lists structured_outputs"
            if models
            else None
        )

    def _may_take_schema(self, base_url: str, model: str, fresh_s: float, *, may_fetch: bool) -> bool:
        pricing = self.pricing(base_url, model, fresh_s=fresh_s, may_fetch=may_fetch)
        listed = [endpoint.supported_parameters for endpoint in pricing.endpoints]
        listing = None if listed else self._listing(base_url, model, fresh_s, may_fetch=may_fetch)
        if listing is not None:
            listed = [] if listing.routes else [listing.parameters]
        return not listed or any(not names or "structured_outputs" in names for names in listed)

    def routes(self, request: Request) -> bool:
        """Return whether a model of a request is known to pick another at each call; fetches nothing."""
        pricings = (self.known(request.base_url, model) for model in asked_models(request.body))
        return any(pricing.listing is not None and pricing.listing.routes for pricing in pricings)

    def check_inputs(self, request: Request, *, may_fetch: bool = True) -> None:
        """Do nothing where a model of a request takes what it holds, or none is known.

        Fetches the list where it isn't known, as `why_no_schema` does.

        Raises:
            RequestError: None of its models is listed to take its pictures, sound or video.
        """
        needed, models = inputs_of(request.body), asked_models(request.body)
        missing: set[str] = set()
        for model in models:
            lacks: set[str] = set()
            for fresh_s in (FRESH_S, _LATEST_S):  # since the kept list it may have learnt it
                listing = self._listing(request.base_url, model, fresh_s, may_fetch=may_fetch)
                known = listing is not None and listing.inputs and not listing.routes
                lacks = needed - set(listing.inputs) if listing is not None and known else set()
                if not lacks:
                    return
            missing |= lacks
        if missing:
            what = " and ".join(_INPUTS[kind] for kind in sorted(missing))
            able = self._pages.models_taking(request.base_url, needed)
            if not able and (every := self.models(request.base_url, may_fetch=False)) is not None:
                able = [one.id for one in every.listed if needed <= set(one.inputs)][:_MOST_NAMED]
            raise RequestError(
                f"{' and '.join(models)} {'takes' if len(models) == 1 else 'take'} no {what}"
                " (nothing was sent)",
                f"ask {' or '.join(able)}" if able else f"ask a model that takes {what}",
            )

    def tokens_cost(self, request: Request, answer: Answer, at_s: float) -> Cost:
        """Return what a call cost by its tokens where known lists leave no doubt; fetches nothing.

        Args:
            request: What was asked.
            answer: What came back; only its model, provider and usage are looked at.
            at_s: When the call ended, UTC epoch seconds.
        """
        call = self._completed(request, answer, at_s)
        cost_usd = None if call is None else tokens_cost(call)
        return UNKNOWN_COST if cost_usd is None else Cost(cost_usd, "estimated")

    def prompt_cache_saved(self, request: Request, answer: Answer, at_s: float) -> Decimal | None:
        """Return what prompt caching took off a call, below 0 where it cost more; fetches nothing.

        None where the lists that are known leave a doubt; the arguments are those of `tokens_cost`.
        """
        call = self._completed(request, answer, at_s)
        return None if call is None else prompt_cache_saved(call, answer.prompt_cost_usd)

    def _completed(self, request: Request, answer: Answer, at_s: float) -> CompletedCall | None:
        """Return a call as if it had named only the model that served it; None when that one is not known."""
        names = asked_models(request.body)
        if answer.usage is None:
            return None
        for name in names:
            pricing = self.known(request.base_url, name)
            model = pricing.listing
            ids = () if model is None else (model.id, model.canonical_slug, model.alias_target)
            if len(names) == 1 or answer.model in ids:
                body = {**request.body, "model": name, "models": None}
                written_1h = writes_for_1h(body, request.prompt_cache)
                return CompletedCall(answer.usage, pricing, body, at_s, answer.provider, written_1h)
        return None


def _paths(name: str) -> list[str]:
    """Return where OpenRouter tells of a model, itself and without its variants; none for what is no id."""
    names = dict.fromkeys((Name.of(name).base, Name.base_of(name)))
    return [f"/model/{one}" for one in names if Name.of(one).is_id]
