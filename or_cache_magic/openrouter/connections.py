"""`ConnectionPool`: ``openai`` clients, each with one connection that another thread can end."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import ssl

__all__ = ["Connection", "ConnectionPool", "Way"]

_ATTRIBUTION: Final = {
    # A localhost URL needs a title, and then counts (OpenRouter: "App attribution").
    "HTTP-Referer": "http://localhost/or_cache_magic",
    "X-OpenRouter-Title": "or_cache_magic",
}
_NO_KEY: Final = "none"
"""The client wants a key, or takes one of OpenAI's from the environment; this one is never sent."""

_CONNECT_S: Final = 10.0
"""A host that does not even take the connection is given up sooner than a model that thinks."""

_MAY_LEAVE: Final = re.compile(
    "host|accept|accept-encoding|connection|content-type|content-length|transfer-encoding|user-agent"
    "|authorization|http-referer|x-openrouter-.*|x-stainless-raw-response"
)
"""The only headers that are sent. The client adds those of ``OPENAI_ORG_ID``, ``OPENAI_PROJECT_ID`` and
``OPENAI_CUSTOM_HEADERS``, which may hold another service's secrets, and facts about this machine. It
reads the last one back from the request, to know which kind of response it was asked for."""

_NEW_STREAM: Final = ("connect_tcp.complete", "start_tls.complete")


class Way(NamedTuple):
    """Where requests go and how; an empty key sends none."""

    api_key: str
    base_url: str
    attribution: bool
    timeout_s: float


class Connection:
    """A client with one connection of its own, used by one call at a time.

    Sharing a pool, nobody could tell which connection a call is on before its reply begins, which is when a
    call waits longest.

    Args:
        way: Where its requests go.
        tls: The certificates that are trusted; read once for all lanes, which takes 25 ms.
    """

    def __init__(self, way: Way, tls: ssl.SSLContext) -> None:
        import openai

        timeout = openai.Timeout(way.timeout_s, connect=min(way.timeout_s, _CONNECT_S))
        #: Whether it was shut; it is then good for nothing more.
        self.is_shut = False
        self._stream: Any = None
        self.client = openai.OpenAI(
            api_key=way.api_key or _NO_KEY,
            base_url=way.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers=_headers(way),
            http_client=openai.DefaultHttpxClient(
                timeout=timeout,
                verify=tls,
                event_hooks={"request": [_keep_ours if way.api_key else _keep_no_key, self._watch]},
            ),
        )

    def shut(self) -> None:
        """Ends what the lane is doing, from any thread, and wakes who is blocked in it; returns at once."""
        self.is_shut = True
        self._shut_stream()

    def close(self) -> None:
        """Closes its connection."""
        self.client.close()

    def _watch(self, request: Any) -> None:
        request.extensions["trace"] = self._trace

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(_NEW_STREAM):
            self._stream = info["return_value"]
            if self.is_shut:  # meanwhile
                self._shut_stream()

    def _shut_stream(self) -> None:
        # What was closed by itself, or is in the middle of a handshake, has no socket to shut.
        with suppress(OSError, AttributeError):
            # Not its own `shutdown`, by which a TLS socket goes on without TLS.
            socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)


class ConnectionPool:
    """As many lanes as there are calls at one time. Thread-safe; the last one used is used next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._way: Way | None = None
        self._free: list[Connection] = []
        self._tls: ssl.SSLContext | None = None

    @contextmanager
    def use(self, way: Way) -> Iterator[Connection]:
        """A lane, for as long as the block lasts."""
        lane = self._lane(way)
        try:
            yield lane
        finally:
            with self._lock:
                keep = not lane.is_shut and way == self._way
                if keep:
                    self._free.append(lane)
            if not keep:
                lane.close()

    def close(self) -> None:
        """Closes the lanes that are free now, and the others when they become so."""
        self._change_to(None)

    def _lane(self, way: Way) -> Connection:
        self._change_to(way)
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._tls is None:
                self._tls = _trusted()
        return Connection(way, self._tls)

    def _change_to(self, way: Way | None) -> None:
        with self._lock:
            if way == self._way:
                return
            self._way = way
            outdated, self._free = self._free, []
        for lane in outdated:
            lane.close()


def _headers(way: Way) -> dict[str, str]:
    # Said as a header as well, since one in ``OPENAI_CUSTOM_HEADERS`` would go before `api_key`.
    key = {"Authorization": f"Bearer {way.api_key}"} if way.api_key else {}
    return {**key, **(_ATTRIBUTION if way.attribution else {})}


def _keep_ours(request: Any) -> None:
    for name in [name for name in request.headers if not _MAY_LEAVE.fullmatch(name)]:
        del request.headers[name]


def _keep_no_key(request: Any) -> None:
    _keep_ours(request)
    del request.headers["Authorization"]


def _trusted() -> ssl.SSLContext:
    import openai

    # Of the library that the client is one of: httpx up to openai 2, httpx2 from openai 3 on.
    library = import_module(openai.DefaultHttpxClient.__base__.__module__.partition(".")[0])
    context: ssl.SSLContext = library.create_ssl_context()
    return context
