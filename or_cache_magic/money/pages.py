"""What OpenRouter tells at its paths: kept in memory and in ``cache.db``, fetched when it is too old."""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from or_cache_magic.errors import OrCacheError, StoreError, UpstreamError
from or_cache_magic.money.listings import MODELS_PATH, ModelListing, Offer, read_models, read_offers, trimmed

if TYPE_CHECKING:
    from or_cache_magic.storage.database import Database

__all__ = ["Page", "Pages"]

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

_FIND: Final = "SELECT fetched, body FROM or_listing WHERE base_url = ? AND path = ?"
_KEEP: Final = "INSERT OR REPLACE INTO or_listing (base_url, path, fetched, body) VALUES (?, ?, ?, ?)"


class Page:
    """What was told at one path, trimmed, and when."""

    def __init__(self, fetched_s: float, data: Any) -> None:
        self.fetched_s = fetched_s
        self.data = data

    @cached_property
    def models(self) -> tuple[ModelListing, ...]:
        """The models in it."""
        return read_models(self.data, self.fetched_s)

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The offers in it."""
        return read_offers(self.data, self.fetched_s)


class Pages:
    """Pages by base URL and path. Thread-safe; two threads fetch once.

    Args:
        database: Keeps them. While there is no file, or it can't be written, they are only in memory.
        fetch: Fetches JSON: `Gateway.fetch`. Called without a transaction being open.
        clock: Tells UTC epoch seconds.
    """

    def __init__(self, database: Database, fetch: Callable[..., Any], clock: Callable[[], float]) -> None:
        self._database = database
        self._fetch = fetch
        self._clock = clock
        self._pages: dict[tuple[str, str], Page] = {}
        self._failed: dict[tuple[str, str], float] = {}
        self._looked_up: set[tuple[str, str]] = set()
        self._locks: dict[object, threading.Lock] = {}

    def is_fresh(self, page: Page | None, fresh_s: float) -> bool:
        """Whether a page was fetched less than so many seconds ago."""
        return page is not None and self._clock() - page.fetched_s < fresh_s

    def why_none(self, base_url: str, path: str) -> str:
        """Why there is no page, as what is said of a model."""
        if (base_url, path) in self._failed:
            return "is not listed"
        if (base_url, _ANY) in self._failed:
            return "has no price that is known here, and none could be fetched"
        return "has no price that is known here, and none may be fetched"

    def get(self, base_url: str, path: str, fresh_s: float, *, may_fetch: bool) -> Page | None:
        """What is told at a path: from memory, the file or the network; an old one rather than none.

        Args:
            base_url: By whom.
            path: Where.
            fresh_s: How old it may be before it is fetched again, in seconds.
            may_fetch: Whether the network may be asked.
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
        return self._fetched(place) or page

    def _failed_just_now(self, place: tuple[str, str]) -> bool:
        failed_s = max(self._failed.get(place, -math.inf), self._failed.get((place[0], _ANY), -math.inf))
        return self._clock() - failed_s < _RETRY_S

    def _fetched(self, place: tuple[str, str]) -> Page | None:
        """What OpenRouter tells there now, also put in the file; None when it tells nothing."""
        base_url, path = place
        try:
            data = (
                self._whole_list(base_url) if path == MODELS_PATH else self._told(base_url, path, {})["data"]
            )
        except OrCacheError as exc:
            gone = isinstance(exc, UpstreamError) and exc.status == 404  # noqa: PLR2004 - HTTP
            self._failed[place if gone else (base_url, _ANY)] = self._clock()
            return None
        self._failed.pop(place, None)
        self._failed.pop((base_url, _ANY), None)
        page = Page(self._clock(), trimmed(data))
        self._keep(place, page)
        return page

    def _told(self, base_url: str, path: str, params: Mapping[str, str]) -> Mapping[str, Any]:
        """A reply that tells something."""
        reply = self._fetch(path, base_url=base_url, params=params, needs_key=False)
        if not isinstance(reply, Mapping) or not reply.get("data"):
            raise UpstreamError(f"{base_url}{path} tells nothing that is understood here")
        return reply

    def _whole_list(self, base_url: str) -> list[Any]:
        return [item for page in self._pages_of_models(base_url) for item in page]

    def _pages_of_models(self, base_url: str) -> Iterator[list[Any]]:
        params = {"output_modalities": "all"}
        for _ in range(_MOST_PAGES):
            reply = self._told(base_url, MODELS_PATH, params)
            if isinstance(reply["data"], list):
                yield reply["data"]
            links = reply.get("links")
            link = links.get("next") if isinstance(links, Mapping) else None
            # Of the link only the query is followed: the key goes to no other host.
            query = parse_qsl(link.partition("?")[2] if isinstance(link, str) else "")
            more = {**params, **{name: value for name, value in query if name in ("offset", "limit")}}
            if more == params:
                return
            params = more

    def _read(self, place: tuple[str, str]) -> Page | None:
        """What the file has; None when that is nothing, or not to be understood."""
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

    def _keep(self, place: tuple[str, str], page: Page) -> None:
        """Puts a list in the file, if there is one: a folder is made for answers, not for prices."""
        body = zlib.compress(json.dumps(page.data, separators=(",", ":")).encode())
        with suppress(StoreError):
            if self._database.exists():
                with self._database.transaction(wait_s=_WAIT_S) as connection:
                    connection.execute(_KEEP, (*place, page.fetched_s, body))
