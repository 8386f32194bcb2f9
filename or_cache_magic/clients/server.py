"""The completion cache as an OpenAI-compatible endpoint on loopback, on tornado, for `or-cache serve`.

Whoever asks shows a token of the server's own, and never sees OpenRouter's key. One event loop serves all;
nothing on it waits. What a client asked for is bought and kept whether it waits for it, reads it slowly, or
has gone: see `delivery`.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from asyncio import Future
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from or_cache_magic.clients.delivery import AsyncDelivery
from or_cache_magic.clients.metrics import CONTENT_TYPE, metrics
from or_cache_magic.clients.wire import (
    RETRIES,
    RETRIES_HEADER,
    Head,
    as_json,
    embeddings_body,
    embeddings_head,
    read_body,
    read_request,
    refusal_of,
    small,
)
from or_cache_magic.errors import OptionError, OrCacheError, RequestError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from or_cache_magic.cache.cache import CompletionCache

HOST: Final = "127.0.0.1"
BASE_PATH: Final = "/v1"

_LARGEST_BYTES: Final = 1 << 26
"""A request that is larger is refused: with all its attachments no model takes it."""

_UNDER_WAY: Final = 256
"""So many calls are under way at a time; the others stand in line."""

_DRAIN_S: Final = 30.0
"""So long answers that are under way are waited for when the server stops."""

_UNAUTHORIZED: Final = "the token is missing or wrong (nothing was sent)"
_NOTHING: Final = "nothing is served here: there are /chat/completions, /embeddings, /models and /metrics"


class CacheServer:
    """Serves a cache on a thread of its own, from `start` to `stop`; a context manager.

    Args:
        cache: What is served; closing it is left to its owner.
        token: Whoever asks shows it as an API key.
        port: Where to listen; 0 takes a free port.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, cache: CompletionCache, token: str, port: int = 0) -> None:
        self._sockets = bind_sockets(port, HOST)
        cache.engine.async_size = _UNDER_WAY
        self._unsent: set[RequestHandler] = set()
        shared = {"cache": cache, "token": token, "served": Counter(), "unsent": self._unsent}
        self._cache = cache
        self._application = Application(
            [
                (rf"(?:/api)?{BASE_PATH}/chat/completions", _Completions, shared),
                (rf"(?:/api)?{BASE_PATH}/embeddings", _Embeddings, shared),
                (rf"(?:/api)?{BASE_PATH}/models(?:/(.+))?", _Models, shared),
                (r"/metrics", _Metrics, shared),
                (r".*", _Nothing, shared),
            ],
            log_function=lambda _: None,  # prompts and tokens are nobody's business
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="or-cache-serve")
        self._began = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        """What clients take as their base URL."""
        return f"http://{HOST}:{self._sockets[0].getsockname()[1]}{BASE_PATH}"

    def start(self) -> Self:
        """Begin to serve; returns itself."""
        self._thread.start()
        self._began.wait()
        return self

    def stop(self) -> None:
        """Take no more requests, and end when the answers that are under way are there, or after a while."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(_UNDER_WAY, thread_name_prefix="or-cache-serve"))
        server = HTTPServer(
            self._application, max_body_size=_LARGEST_BYTES, max_buffer_size=2 * _LARGEST_BYTES
        )
        server.add_sockets(self._sockets)
        self._began.set()
        await self._stopping.wait()
        server.stop()
        ends_s = self._loop.time() + _DRAIN_S
        while (self._unsent or self._cache.engine.flights.running()) and self._loop.time() < ends_s:
            await asyncio.sleep(0.02)
        await server.close_all_connections()


class _Handler(RequestHandler):
    def initialize(
        self,
        cache: CompletionCache,
        token: str,
        served: Counter[tuple[str, int]],
        unsent: set[RequestHandler],
    ) -> None:
        self.cache, self._token, self.served = cache, token, served
        #: Those whose replies aren't on their way yet.
        self._unsent = unsent

    def prepare(self) -> None:
        self._unsent.add(self)
        scheme, _, shown = self.request.headers.get("Authorization", "").partition(" ")
        # Compared as bytes: a header may hold any character.
        same = hmac.compare_digest(shown.strip().encode(), self._token.encode())
        if scheme.lower() != "bearer" or not same:
            raise HTTPError(401, _UNAUTHORIZED)

    def set_default_headers(self) -> None:
        self.set_header("Server", "or-cache")

    def compute_etag(self) -> None:
        """Tell none: an answer is no page."""

    def begin(self, head: Head) -> None:
        self.set_status(head.status)
        for name, value in head.headers.items():
            self.set_header(name, value)

    def refuse(self, error: OrCacheError) -> None:
        head, body = refusal_of(error)
        self.begin(head)
        self.finish(as_json(body))

    def send_error(self, status_code: int = 500, **how: Any) -> None:
        """Refuse; where a part of a stream is sent already, cut it: ended as others it would look whole."""
        if not self._headers_written:
            super().send_error(status_code, **how)
            return
        self.on_connection_close()
        self.on_finish()
        connection: Any = self.request.connection
        connection.close()

    def write_error(self, status_code: int, **how: Any) -> None:
        exc = how.get("exc_info", (None, None))[1]
        known = isinstance(exc, HTTPError) and exc.log_message
        message = exc.log_message if known else self._reason
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Should-Retry", "false")
        self.finish(as_json({"error": {"message": message, "code": status_code, "type": "or_cache_magic"}}))

    def log_exception(self, kind: Any, value: Any, tb: Any) -> None:
        """Say what is a mistake of ours; what a client did wrong is told to that client alone."""
        if not isinstance(value, HTTPError | StreamClosedError | asyncio.CancelledError):
            super().log_exception(kind, value, tb)

    def finish(self, chunk: Any = None) -> Future[None]:
        sent = super().finish(chunk)
        sent.add_done_callback(lambda _: self._unsent.discard(self))
        return sent

    def on_connection_close(self) -> None:
        self._unsent.discard(self)

    def on_finish(self) -> None:
        self.served[type(self).__name__.strip("_").lower(), self.get_status()] += 1


class _Completions(_Handler):
    delivery: AsyncDelivery | None = None

    async def post(self) -> None:
        try:
            wanted = read_request(self.request.body, small(self.request.headers), self.cache.settings)
            self.delivery = AsyncDelivery(self.cache, wanted)
            head, pieces = await self.delivery.begin()
            self.begin(head)
            async with aclosing(pieces):
                async for piece in pieces:
                    self.write(piece)
                    if wanted.stream:
                        await self.flush()
        except OrCacheError as exc:
            self.refuse(exc)
            return
        except asyncio.CancelledError:  # its client has gone, or the cache was closed
            raise HTTPError(503, "the completion cache was closed") from None
        await self.finish()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.delivery is not None:
            leaving = asyncio.ensure_future(self.delivery.leave())
            _leaving.add(leaving)
            leaving.add_done_callback(_leaving.discard)


_leaving: Final[set[asyncio.Future[None]]] = set()
"""An event loop alone would forget them."""


class _Embeddings(_Handler):
    async def post(self) -> None:
        # On a thread that goes on to its end, whether its client waits for it or not.
        try:
            head, body = await asyncio.to_thread(self._reply)
        except OrCacheError as exc:
            self.refuse(exc)
            return
        self.begin(head)
        self.finish(as_json(body))

    def _reply(self) -> tuple[Head, dict[str, Any]]:
        from or_cache_magic.clients.embed import asks_of, vectors_of

        body, options, limit = read_body(self.request.body, small(self.request.headers))
        options.pop("sample", None)  # a text has one vector
        if RETRIES in options:
            raise OptionError(f"{RETRIES_HEADER} is for completions (nothing was sent)", "leave it out")
        given = body.pop("input", None)
        encoding = body.pop("encoding_format", None) or "float"
        if encoding not in ("float", "base64"):
            raise RequestError(
                f"encoding_format is {encoding!r:.50} (nothing was sent)", "write float or base64"
            )
        texts = given if isinstance(given, list) else [given]
        if not texts:
            raise RequestError("embeddings need an input (nothing was sent)")
        asks = asks_of({"model": None, **body}, texts, self.cache.settings, options)
        outcomes = vectors_of(self.cache, asks, limit)
        return embeddings_head(list(outcomes.values())), embeddings_body(
            [outcomes[ask.key.digest] for ask in asks], list(outcomes.values()), as_text=encoding == "base64"
        )


class _Models(_Handler):
    async def get(self, name: str | None) -> None:
        found = await asyncio.to_thread(self._rows)
        rows = [_model(*row) for row in found if name in (None, row[0])]
        if name is not None and not rows:
            raise HTTPError(404, f"there is no model {name}")
        self.set_header("Content-Type", "application/json")
        self.finish(as_json(rows[0] if name is not None else {"object": "list", "data": rows}))

    def _rows(self) -> list[tuple[str, int | None, int | None]]:
        """Return what OpenRouter lists; without a list, what was asked."""
        settings = self.cache.settings
        listed = self.cache.money.prices.models(settings.base_url, may_fetch=settings.mode != "offline")
        if listed is None:
            return [(name, None, None) for name in self.cache.store.listing.models()]
        return [(one.id, one.created_s, one.context_length) for one in listed.listed]


def _model(name: str, created_s: int | None, context_length: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created_s or 0,
        "owned_by": name.partition("/")[0].lstrip("~"),
        "context_length": context_length,
    }


class _Metrics(_Handler):
    async def get(self) -> None:
        page = await asyncio.to_thread(self._page)
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(page)

    def _page(self) -> str:
        under_way = len(self.cache.engine.flights.running())
        return metrics(self.cache.totals("model"), dict(self.served), under_way=under_way)


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404, _NOTHING)
