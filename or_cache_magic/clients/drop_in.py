"""Clients of the library ``openai`` whose chat completions go through the completion cache.

They are the library's own, on an HTTP client that answers one endpoint itself: so responses, streams,
parsing, raw replies, timeouts and errors are the library's, of whatever version. All else goes to OpenRouter.
Importing this module imports ``openai``.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import openai

from or_cache_magic.clients.delivery import AsyncDelivery, Delivery
from or_cache_magic.clients.wire import (
    HEADER,
    RETRIES_HEADER,
    Head,
    Wanted,
    as_json,
    read_request,
    refusal_of,
    small,
)
from or_cache_magic.core.secrets import Secret
from or_cache_magic.errors import ConnectionLostError, OptionError, OrCacheError

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

_LIBRARY: Any = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""What the client's HTTP is done by: httpx up to openai 2, httpx2 from openai 3 on."""

_COMPLETIONS: Final = "/chat/completions"
_TAKEN: Final = ("timeout", "max_retries", "default_headers", "default_query")
_ELSEWHERE: Final[Mapping[str, str]] = {
    "api_key": "set OPENROUTER_API_KEY, or run %openrouter_key",
    "base_url": "set OPENROUTER_BASE_URL",
    "http_client": "the answers come through one of ours; proxies and certificates are the environment's",
}
_NO_KEY: Final = "none"
"""The library wants a key, or takes one of OpenAI's from the environment; this one is never sent."""

_OPENAIS: Final = ("OpenAI-Organization", "OpenAI-Project")

_NO_WISH: Final = re.compile(
    "host|accept|accept-encoding|connection|content-type|content-length|transfer-encoding|user-agent|cookie"
    f"|authorization|x-stainless-.*|{'|'.join(_OPENAIS)}|{HEADER}-.*".lower()
)
"""Headers that say nothing of a completion, or that are heeded."""

_MOST_RETRIES: Final = 2

OpenCache = Callable[[], "CompletionCache"]
"""Returns the completion cache that is in use, at each request."""


def client(open_cache: OpenCache, **options: Any) -> openai.OpenAI:
    """Return an `openai.OpenAI` through a completion cache.

    Args:
        open_cache: Returns the cache.
        **options: Of `openai.OpenAI`: ``timeout``; ``max_retries``, for completions 2 at most;
            ``default_headers`` and ``default_query``, of which completions heed ``X-Or-Cache-…`` alone.

    Raises:
        OptionError: Another option.
    """
    base_url = _checked(open_cache, options)
    http = _Http(open_cache, base_url, _timeout(options))
    return _Client(api_key=_NO_KEY, base_url=base_url, http_client=http, **options)


def async_client(open_cache: OpenCache, **options: Any) -> openai.AsyncOpenAI:
    """Return an `openai.AsyncOpenAI` through a completion cache, for asyncio; see `client`."""
    base_url = _checked(open_cache, options)
    http = _AsyncHttp(open_cache, base_url, _timeout(options))
    return _AsyncClient(api_key=_NO_KEY, base_url=base_url, http_client=http, **options)


def _checked(open_cache: OpenCache, options: Mapping[str, Any]) -> str:
    for name in options:
        if name not in _TAKEN:
            raise OptionError(
                f"a client takes no {name} (nothing was sent)",
                _ELSEWHERE.get(name, f"it takes {', '.join(_TAKEN)}"),
            )
    return open_cache().settings.base_url


def _timeout(options: Mapping[str, Any]) -> Any:
    return options.get("timeout", openai.Timeout(600, connect=5.0))


class _Stream(_LIBRARY.SyncByteStream):  # type: ignore[misc]
    def __init__(self, delivery: Delivery, pieces: Iterator[bytes], request: Any) -> None:
        self._delivery, self._pieces, self._request = delivery, pieces, request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces
        except TimeoutError as exc:
            raise _silent(self._request) from exc

    def close(self) -> None:
        self._delivery.leave()


class _AsyncStream(_LIBRARY.AsyncByteStream):  # type: ignore[misc]
    def __init__(self, delivery: AsyncDelivery, pieces: AsyncIterator[bytes], request: Any) -> None:
        self._delivery, self._pieces, self._request = delivery, pieces, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except TimeoutError as exc:
            raise _silent(self._request) from exc

    async def aclose(self) -> None:
        await self._delivery.leave()


class _Http(openai.DefaultHttpxClient):
    def __init__(self, open_cache: OpenCache, base_url: str, timeout: Any) -> None:
        super().__init__(base_url=base_url, timeout=timeout, follow_redirects=False)
        self._open_cache = open_cache

    def send(self, request: Any, *, stream: bool = False, **how: Any) -> Any:
        began_s = perf_counter()
        try:
            if not _is_completion(request, self.base_url):
                _prepare(request, self._open_cache(), self.base_url)
                return _passed(super().send(request, stream=stream, **how), request)
            cache = self._open_cache()
            wanted = _read(request, request.read(), cache)
            delivery = Delivery(cache, wanted)
            head, pieces = delivery.begin(_patience(request))
        except (OrCacheError, TimeoutError) as exc:
            return _failed(exc, request)
        response = _begun(head, _Stream(delivery, pieces, request), request, began_s)
        if not stream:
            response.read()
        return response


class _AsyncHttp(openai.DefaultAsyncHttpxClient):
    def __init__(self, open_cache: OpenCache, base_url: str, timeout: Any) -> None:
        super().__init__(base_url=base_url, timeout=timeout, follow_redirects=False)
        self._open_cache = open_cache

    async def send(self, request: Any, *, stream: bool = False, **how: Any) -> Any:
        began_s = perf_counter()
        try:
            if not _is_completion(request, self.base_url):
                _prepare(request, self._open_cache(), self.base_url)
                return _passed(await super().send(request, stream=stream, **how), request)
            cache = self._open_cache()
            wanted = _read(request, await request.aread(), cache)
            delivery = AsyncDelivery(cache, wanted)
            head, pieces = await delivery.begin(_patience(request))
        except (OrCacheError, TimeoutError) as exc:
            return _failed(exc, request)
        response = _begun(head, _AsyncStream(delivery, pieces, request), request, began_s)
        if not stream:
            await response.aread()
        return response


class _Client(openai.OpenAI):
    def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        return super().request(cast_to, _once(self, options), **how)


class _AsyncClient(openai.AsyncOpenAI):
    async def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        return await super().request(cast_to, _once(self, options), **how)


def _once(client: openai.OpenAI | openai.AsyncOpenAI, options: Any) -> Any:
    """Have a completion asked once: what may be tried again is, below, and what is billed isn't."""
    if options.url == _COMPLETIONS:
        given = options.headers if isinstance(options.headers, Mapping) else {}
        if RETRIES_HEADER not in map(str.lower, (*client.default_headers, *given)):
            retries = max(0, min(options.get_max_retries(client.max_retries), _MOST_RETRIES))
            options.headers = {**given, RETRIES_HEADER: str(retries)}
        options.max_retries = 0
    return options


def _read(request: Any, content: bytes, cache: CompletionCache) -> Wanted:
    """Return what a request for a completion asks for; warn of what it says besides, which goes nowhere."""
    environments = set(_environments(request))
    names = [
        name for name in request.headers if name not in environments and not _NO_WISH.fullmatch(name.lower())
    ]
    said = [("headers", sorted(names)), ("query", sorted(request.url.params))]
    if any(found for _, found in said):
        what = ", ".join(f"the {kind} {', '.join(found)}" for kind, found in said if found)
        warnings.warn(
            f"not sent with completions: {what}"
            " (X-Or-Cache-… headers are heeded; fields of the request go in extra_body)",
            UserWarning,
            stacklevel=2,
        )
    return read_request(content, small(request.headers), cache.settings)


def _environments(request: Any) -> Iterator[str]:
    """Yield the names of a request's headers that are OpenAI's of the environment, in small letters."""
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"):
        name, _, value = line.partition(":")
        if name.strip() and request.headers.get(name.strip()) == value.strip():
            yield name.strip().lower()


def _is_below(request: Any, base_url: Any) -> bool:
    """Return whether a request goes to the API that the client was made for, and not to that of a copy."""
    url, path = request.url, base_url.path.rstrip("/") + "/"
    return (url.scheme, url.netloc) == (base_url.scheme, base_url.netloc) and url.path.startswith(path)


def _is_completion(request: Any, base_url: Any) -> bool:
    is_one = request.method == "POST" and request.url.path.endswith(_COMPLETIONS)
    return is_one and _is_below(request, base_url)


def _patience(request: Any) -> float | None:
    """Return how long a reply may be silent, in seconds; None is without end."""
    patience_s: float | None = request.extensions.get("timeout", {}).get("read")
    return patience_s


def _prepare(request: Any, cache: CompletionCache, base_url: Any) -> None:
    """Give a request that is passed on OpenRouter's key, and nothing of another service's.

    Another server, which only a copy of the client with its own ``base_url`` asks, gets that copy's key.

    Raises:
        MissingKeyError: There is no key; nothing was sent.
    """
    if not _is_below(request, base_url):
        if request.headers.get("Authorization") == f"Bearer {_NO_KEY}":
            del request.headers["Authorization"]
        return
    for name in [
        *_OPENAIS,
        *_environments(request),
        *(name for name in request.headers if name.lower().startswith(HEADER)),
    ]:
        request.headers.pop(name, None)
    request.headers["Host"] = request.url.netloc.decode("ascii")
    request.headers["Authorization"] = Secret(f"Bearer {cache.require_key()}")
    if request.method == "POST" and request.url.path.endswith("/responses"):
        warnings.warn(
            "the Responses API is passed on to OpenRouter: nothing of it is cached, or in the ledger"
            " (chat.completions are)",
            UserWarning,
            stacklevel=2,
        )


def _passed(response: Any, request: Any) -> Any:
    """Say of a reply to what was passed on that it was bought, and is not kept."""
    if request.method == "POST":
        response.headers[HEADER] = "uncached"
    return response


def _begun(head: Head, stream: Any, request: Any, began_s: float) -> Any:
    """Return a reply whose head is there."""
    response = _LIBRARY.Response(head.status, headers=head.headers, stream=stream, request=request)
    response.elapsed = timedelta(seconds=perf_counter() - began_s)
    return response


def _failed(error: OrCacheError | TimeoutError, request: Any) -> Any:
    """Return an error as a reply that refuses; raise what is none of a server's."""
    if isinstance(error, TimeoutError):
        raise _silent(request) from error
    if isinstance(error, ConnectionLostError):
        raise openai.APIConnectionError(message=str(error), request=request) from error
    head, body = refusal_of(error)
    return _LIBRARY.Response(head.status, headers=head.headers, content=as_json(body), request=request)


def _silent(request: Any) -> Any:
    return _LIBRARY.ReadTimeout("no reply for too long; the ask was cancelled", request=request)
