"""`ConnectionPool`: ``openai`` clients, each with one connection that another thread can end."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.secrets import Secret
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

_REST_S: Final = 0.5
"""A reply that does not end so soon after its end marker isn't waited for."""

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


class Connection:
    """A client with one connection of its own, used by one call at a time.

    In a shared pool it is unknown which connection a call is on before its reply begins, which is when a call
    waits longest.

    Args:
        target: Where its requests go.
        tls: The certificates that are trusted; read once for all connections, which takes 25 ms.
    """

    def __init__(self, target: ApiTarget, tls: ssl.SSLContext) -> None:
        import openai

        timeout = openai.Timeout(target.timeout_s, connect=min(target.timeout_s, _CONNECT_S))
        self.target = target
        #: Whether it was shut; it is then good for nothing more.
        self.is_shut = False
        #: Called when the request of the call under way begins to be sent.
        self.on_send: Callable[[], object] = _unheard
        self._stream: Any = None
        self.client = _our_client()(
            api_key=_NO_KEY,
            base_url=target.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers=_headers(target),
            http_client=openai.DefaultHttpxClient(
                timeout=timeout,
                verify=tls,
                follow_redirects=False,
                event_hooks={"request": [_keep_ours if target.api_key else _keep_no_key, self._watch]},
            ),
        )

    def shut(self) -> None:
        """End the call under way, from any thread, and wake the thread that is blocked in it."""
        self.is_shut = True
        self._shut_stream()

    def read_to_end(self, chunks: Iterable[bytes]) -> None:
        """Read what is left of a reply, so that its connection serves the next call too; or give both up."""
        timer = threading.Timer(_REST_S, self.shut)
        timer.daemon = True
        timer.start()
        try:
            with suppress(Exception):
                for _ in chunks:
                    pass
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

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
            return Connection(target, self._tls)
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
            return {"Accept": "application/json", "Content-Type": "application/json", **self._our_headers}

    return OurClient


def _keep_ours(request: Any) -> None:
    for name in [name for name in request.headers if not _MAY_LEAVE.fullmatch(name)]:
        del request.headers[name]


def _keep_no_key(request: Any) -> None:
    _keep_ours(request)
    request.headers.pop("Authorization", None)


def _trusted() -> ssl.SSLContext:
    import openai

    # Of the library that the client is one of: httpx up to openai 2, httpx2 from openai 3 on.
    library = import_module(openai.DefaultHttpxClient.__base__.__module__.partition(".")[0])
    context: ssl.SSLContext = library.create_ssl_context()
    return context
