"""`ConnectionPool`: ``openai`` clients, each with one connection that another thread can end."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.secrets import Secret
from or_cache_magic.core.ticker import Ticker
from or_cache_magic.openrouter.failures import connection_lost

if TYPE_CHECKING:
    import ssl

    from openai import OpenAI

_ATTRIBUTION: Final = {
    # A localhost URL needs a title, and then counts (OpenRouter: "App attribution").
    "HTTP-Referer": "http://localhost/or_cache_magic",
    "X-OpenRouter-Title": "or_cache_magic",
}
_NO_KEY: Final = "none"
"""The client wants a key, or takes one of OpenAI's from the environment; this one is never sent. Ours is in
the headers."""

_CONNECT_S: Final = 10.0
"""A host that does not even take the connection is given up sooner than a model that thinks."""

_MAY_LEAVE: Final = re.compile(
    "host|accept|accept-encoding|connection|content-type|content-length|transfer-encoding|user-agent"
    "|authorization|http-referer|x-openrouter-.*|x-stainless-raw-response"
)
"""The only headers that are sent: the client adds facts about this machine. It reads the last one back from
the request, to know which kind of response it was asked for."""

_NEW_STREAM: Final = ("connect_tcp.complete", "start_tls.complete")

_REST_S: Final = 1.0
"""A reply that is whole, and does not end so soon after, isn't waited for."""

_LOOK_S: Final = 0.1
"""How often it is looked whether a reply is over."""

_REFUSAL_S: Final = 2.0
_LARGEST_REFUSAL: Final = 1 << 18
"""Of a reply that refuses no more is read than this, in bytes and in time: an error needs less."""

_ENVIRONMENT: Final = re.compile(
    "SSL_CERT_FILE|SSL_CERT_DIR|SSLKEYLOGFILE|(ALL|HTTP|HTTPS|NO)_PROXY", re.IGNORECASE
)
"""The variables that the HTTP library heeds."""


class ApiTarget(NamedTuple):
    """The API that requests are sent to, and how; an empty key sends none."""

    api_key: str  # a `Secret`, where there is one
    base_url: str
    attribution: bool
    timeout_s: float


def _unheard() -> None:
    """Tell nobody that a request is sent."""


class Refused(Exception):  # noqa: N818 - a reply that only its reader makes an error of
    """A reply that brings no answer by its status.

    Attributes:
        status: Of HTTP, below 200 or from 300 on.
        headers: As they came.
        content: The body as far as it was read.
        is_cut: Whether there may be more of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes, *, is_cut: bool) -> None:
        super().__init__(status)
        self.status, self.headers, self.content, self.is_cut = status, headers, content, is_cut


class Connection:
    """A client with one connection of its own, used by one call at a time.

    In a shared pool it is unknown which connection a call is on before its reply begins, which is when a call
    waits longest.

    Args:
        target: Where its requests go.
        tls: The certificates that are trusted; read once for all connections, which takes 25 ms.
        ticker: What looks after the replies of all connections.
    """

    def __init__(self, target: ApiTarget, tls: ssl.SSLContext, ticker: Ticker) -> None:
        import openai

        timeout = openai.Timeout(target.timeout_s, connect=min(target.timeout_s, _CONNECT_S))
        self.target = target
        self._ticker = ticker
        #: Whether it was shut; it is then good for nothing more.
        self.is_shut = False
        #: Called when the request of the call under way begins to be sent.
        self.on_send: Callable[[], object] = _unheard
        self._stream: Any = None
        self._http = openai.DefaultHttpxClient(
            timeout=timeout,
            verify=tls,
            follow_redirects=False,
            event_hooks={
                "request": [_keep_ours if target.api_key else _keep_no_key, self._watch],
                "response": [self._refuse],
            },
        )
        self.client = _our_client()(
            api_key=_NO_KEY,
            base_url=target.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers=_headers(target),
            http_client=self._http,
        )

    @contextmanager
    def post_chat(
        self, body: Mapping[str, Any], headers: Mapping[str, str], *, direct: bool = False
    ) -> Iterator[Any]:
        """Yield the reply to a request for a completion: its ``headers``, and ``iter_bytes()``.

        Args:
            body: Sent as it is.
            headers: Sent beside those that all requests have.
            direct: Sends it by the HTTP library that the client is built on, with the same fields. The client
                walks through every message first, which takes as long as all the rest of a request: too long
                for each row of a table.

        Raises:
            openai.APIConnectionError: It could not be sent, or there was no reply.
            Refused: Its status says that it is no answer.
        """
        if not direct:
            # Its own arguments are overridden by `extra_body`.
            with self.client.chat.completions.with_streaming_response.create(
                model=str(body.get("model", "")),
                messages=body.get("messages", []),
                stream=bool(body.get("stream")),
                extra_body=body,
                extra_headers=headers,
            ) as response:
                yield response
            return
        with self._post(self._chat_url, body, headers) as response:
            yield response

    @contextmanager
    def post_embeddings(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[Any]:
        """Yield the reply to a request for vectors; see `post_chat`."""
        url = self._http.build_request("POST", f"{self.client.base_url}embeddings").url
        with self._post(url, body, headers) as response:
            yield response

    @contextmanager
    def _post(self, url: Any, body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[Any]:
        response = self._send(url, body, headers)
        try:
            yield response
        finally:
            response.close()

    def _send(self, url: Any, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        import openai

        try:
            request = _library().Request(
                "POST",
                url,
                headers={**self._chat_headers, **headers},
                content=json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(),
                extensions={"timeout": self._http.timeout.as_dict()},
            )
            return self._http.send(request, stream=True)
        except Refused:
            raise
        except Exception as exc:
            raise openai.APIConnectionError(request=self._http.build_request("POST", url)) from exc

    @cached_property
    def _chat_url(self) -> Any:
        return self._http.build_request("POST", f"{self.client.base_url}chat/completions").url

    @cached_property
    def _chat_headers(self) -> Mapping[str, str]:
        merged = self._http.headers.copy()
        merged.update({name: str(value) for name, value in self.client.default_headers.items()})
        return dict(merged)

    def shut(self) -> None:
        """End the call under way, from any thread, and wake the thread that is blocked in it."""
        self.is_shut = True
        self._shut_stream()

    @contextmanager
    def ending(
        self, rest_s: float = _REST_S, is_over: Callable[[], bool] = lambda: True
    ) -> Iterator[Callable[[], None]]:
        """Shut the connection after a rest, if the reply is over by then; yield what begins it anew.

        What goes on, and what ends by itself, isn't touched: its connection serves the next call too.

        Args:
            rest_s: How long it may take.
            is_over: Returns whether nothing more is waited for; called from another thread.
        """
        last_s = time.monotonic()

        def begin_anew() -> None:
            nonlocal last_s
            last_s = time.monotonic()

        def look() -> None:
            if not self.is_shut and time.monotonic() - last_s >= rest_s:
                if is_over():
                    self.shut()
                else:
                    begin_anew()

        with self._ticker.calling(look):
            yield begin_anew

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _refuse(self, response: Any) -> None:
        """Raise `Refused` where the status does; the client would read such a reply whole, however large."""
        if response.is_success:
            return
        content, is_cut = b"", True
        with suppress(Exception), self.ending(_REFUSAL_S):
            for piece in _inflated(response.iter_raw(), response.headers.get("content-encoding", "")):
                content += piece
                if len(content) >= _LARGEST_REFUSAL:
                    break
            else:
                is_cut = self.is_shut
        raise Refused(response.status_code, response.headers, content, is_cut=is_cut)

    def _watch(self, request: Any) -> None:
        request.extensions["trace"] = self._trace

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            # To a proxy the way is asked for first, which sends nothing of the request.
            if info["request"].method != b"CONNECT":
                self.on_send()
        elif event.endswith(_NEW_STREAM):
            self._stream = info["return_value"]
            if self.is_shut:  # meanwhile
                self._shut_stream()

    def _shut_stream(self) -> None:
        # What was closed by itself, or is in the middle of a handshake, has no socket to shut.
        with suppress(OSError, AttributeError):
            # Not its own `shutdown`, by which a TLS socket goes on without TLS.
            socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)


class ConnectionPool:
    """As many connections as there are calls at one time. Thread-safe; the last one used is used next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._target: ApiTarget | None = None
        self._free: list[Connection] = []
        self._tls: ssl.SSLContext | None = None
        self._ticker = Ticker(_LOOK_S, "or-cache-replies")

    @contextmanager
    def use(self, target: ApiTarget) -> Iterator[Connection]:
        """Yield a connection for as long as the block lasts."""
        connection = self._take(target)
        try:
            yield connection
        finally:
            connection.on_send = _unheard  # the next call is another's
            with self._lock:
                keep = not connection.is_shut and target == self._target
                if keep:
                    self._free.append(connection)
            if not keep:
                connection.close()

    def close(self) -> None:
        """Close the connections that are free now, and the others when they become so."""
        self._change_to(None)

    def _take(self, target: ApiTarget) -> Connection:
        self._change_to(target)
        with self._lock:
            if self._free:
                return self._free.pop()
        try:
            with self._lock:
                if self._tls is None:
                    self._tls = _trusted()
            return Connection(target, self._tls, self._ticker)
        except Exception as exc:  # noqa: BLE001 - files, URLs, encodings, libraries that are not there
            names = ", ".join(sorted(filter(_ENVIRONMENT.fullmatch, os.environ)))
            hint = f"look at what the environment says: {names}" if names else ""
            raise connection_lost(
                exc, sent=False, retryable=False, attempts=0, base_url=target.base_url, hint=hint
            ) from None

    def _change_to(self, target: ApiTarget | None) -> None:
        with self._lock:
            if target == self._target:
                return
            self._target = target
            outdated, self._free = self._free, []
        for connection in outdated:
            connection.close()


def _inflated(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Yield what was compressed, in pieces that are never much larger than what came."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        yield from pieces
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(coding)
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # which tells gzip's head from zlib's
    for piece in pieces:
        yield inflate.decompress(piece, _LARGEST_REFUSAL)


def _headers(target: ApiTarget) -> dict[str, str]:
    key = {"Authorization": Secret(f"Bearer {target.api_key}")} if target.api_key else {}
    return {**key, **(_ATTRIBUTION if target.attribution else {})}


@cache
def _our_client() -> type[OpenAI]:
    """Return a client that sends the headers it is given, and none from the environment.

    OpenAI's own adds those of ``OPENAI_ORG_ID``, ``OPENAI_PROJECT_ID`` and ``OPENAI_CUSTOM_HEADERS``, which
    may hold another service's secrets, name another host, or be no headers at all.
    """
    import openai

    class OurClient(openai.OpenAI):
        def __init__(self, *, default_headers: dict[str, str], **options: Any) -> None:
            self._our_headers = default_headers
            super().__init__(**options)

        @property
        def default_headers(self) -> dict[str, Any]:
            return {
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",  # what `_inflated` reads
                "Content-Type": "application/json",
                **self._our_headers,
            }

    return OurClient


def _keep_ours(request: Any) -> None:
    for name in [name for name in request.headers if not _MAY_LEAVE.fullmatch(name)]:
        del request.headers[name]


def _keep_no_key(request: Any) -> None:
    _keep_ours(request)
    request.headers.pop("Authorization", None)


def _load_openai() -> None:
    """Import the library, which has to be done first, so that OPENAI_LOG isn't heeded.

    It would have the library write each request to stderr; it is meant for the user's own client, which can
    still see it.
    """
    said = os.environ.pop("OPENAI_LOG", None)
    try:
        import openai  # noqa: F401
    finally:
        if said is not None:
            os.environ["OPENAI_LOG"] = said


def _trusted() -> ssl.SSLContext:
    _load_openai()
    context: ssl.SSLContext = _library().create_ssl_context()
    return context


@cache
def _library() -> Any:
    """Return the HTTP library that the client is built on: httpx up to openai 2, httpx2 from openai 3 on."""
    import openai

    return import_module(openai.DefaultHttpxClient.__base__.__module__.partition(".")[0])
