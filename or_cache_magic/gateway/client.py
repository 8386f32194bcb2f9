"""Sends a request to OpenRouter through the ``openai`` client, imported here on the first miss.

Retries are ours, not the client's: only what is proven to have cost nothing is sent again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.errors import MissingKeyError, UpstreamError
from or_cache_magic.records import Answer, Request

from .draft import Draft, MalformedReplyError, lines_of
from .failures import connection_lost, upstream_error

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Gateway"]

ATTEMPTS: Final = 3
LONGEST_WAIT_S: Final = 60.0
"""A server that asks for more patience than this is not waited for."""

_ATTRIBUTION: Final = {
    # A localhost URL needs a title, and then counts (OpenRouter: "App attribution").
    "HTTP-Referer": "http://localhost/or_cache_magic",
    "X-OpenRouter-Title": "or_cache_magic",
}
_CONNECT_S: Final = 10.0
"""A host that does not even take the connection is given up sooner than a model that thinks."""

_MAY_LEAVE: Final = re.compile(
    "host|accept|accept-encoding|connection|content-type|content-length|transfer-encoding|user-agent"
    "|authorization|http-referer|x-openrouter-.*|x-stainless-raw-response"
)
"""The only headers that are sent. The client adds those of ``OPENAI_ORG_ID``, ``OPENAI_PROJECT_ID`` and
``OPENAI_CUSTOM_HEADERS``, which may hold another service's secrets, and facts about this machine. It
reads the last one back from the request, to know which kind of response it was asked for."""

_KEY: Final = re.compile(r"[\x21-\x7e]+")
_HTTP_LIBRARIES: Final = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


class Gateway:
    """Sends requests. Thread-safe; opens nothing until the first request.

    Args:
        api_key: Gives the OpenRouter key, asked at each request; None when there is none. No other
            key and none of OpenAI's organisation headers ever leave.
        attribution: Tells whether OpenRouter is told which tool asks.
        timeout_s: Tells the seconds without a byte after which a call is given up.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        api_key: Callable[[], str | None],
        *,
        attribution: Callable[[], bool] = lambda: True,
        timeout_s: Callable[[], float] = lambda: 600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api_key = api_key
        self._attribution = attribution
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._lock = threading.Lock()
        self._client: OpenAI | None = None
        self._made_for: tuple[Any, ...] = ()

    def send(self, request: Request, draft: Draft, *, fresh: bool = False) -> Answer:
        """The answer, which may be cut or hold an error (see `policy.why_not_stored`).

        Args:
            request: What to ask.
            draft: Collects the reply, and still holds what had arrived when this raises.
            fresh: Forbids OpenRouter to answer from its own response cache.

        Raises:
            MissingKeyError: There is no key; nothing was sent.
            UpstreamError: Refused, or failed before any part of an answer arrived.
            KeyboardInterrupt: As it came; the connection is closed, which ends the work upstream
                where the provider supports it.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send_once(request, draft, fresh=fresh, attempt=attempt)
            except UpstreamError as exc:
                wait_s = exc.retry_after_s if exc.retry_after_s is not None else 0.5 * 2 ** (attempt - 1)
                if not exc.retryable or draft.started or attempt == ATTEMPTS or wait_s > LONGEST_WAIT_S:
                    raise
                self._sleep(wait_s)
        raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises

    def close(self) -> None:
        """Closes idle connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _send_once(self, request: Request, draft: Draft, *, fresh: bool, attempt: int) -> Answer:
        client = self._connected(request.base_url)
        body = {**request.body, "stream": request.stream}
        draft.restart()
        headers: Mapping[str, str] = {}
        try:
            # The body is sent whole through `extra_body`, which overrides the client's own arguments,
            # so that what was hashed is what is sent, field for field.
            with client.chat.completions.with_streaming_response.create(
                model=str(body.get("model", "")),
                messages=body.get("messages", []),
                stream=request.stream,
                extra_body=body,
                extra_headers={"X-OpenRouter-Cache": "false"} if fresh else None,
            ) as response:
                headers = response.headers
                draft.read_headers(headers)
                if "text/event-stream" in headers.get("content-type", ""):
                    any(map(draft.read_line, lines_of(response.iter_bytes())))  # as far as the end marker
                else:
                    draft.read_body(response.read())
        except Exception as exc:
            failure = _failure(exc, request, draft, headers=headers, attempt=attempt)
            if failure is None:
                raise
            if not draft.started:
                raise failure from None
        if draft.error is not None and not draft.started:
            raise _refusal(draft.error, request, draft, headers=headers, attempt=attempt)
        return draft.answer()

    def require_key(self) -> str:
        """The key that the next request would be sent with.

        Raises:
            MissingKeyError: There is none, or it can't be one.
        """
        key = (self._api_key() or "").strip()
        if not key:
            raise MissingKeyError(
                "no OpenRouter API key, and this answer is not in the completion cache (nothing was sent)",
                "set OPENROUTER_API_KEY or run %openrouter_key",
            )
        if not _KEY.fullmatch(key):
            # Said here, since the HTTP library's own complaint would show the key.
            raise MissingKeyError(
                "the OpenRouter API key holds a character that no key has (nothing was sent)",
                "copy it again: it is one word that begins with sk-or-",
            )
        return key

    def _connected(self, base_url: str) -> OpenAI:
        key = self.require_key()
        wanted = (key, base_url, self._attribution(), self._timeout_s())
        with self._lock:
            if self._client is None or self._made_for != wanted:
                self._client, self._made_for = _client(*wanted), wanted
            return self._client


def _client(api_key: str, base_url: str, attribution: bool, timeout_s: float) -> OpenAI:
    import openai

    timeout = openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
    # Said as a header as well, since one in ``OPENAI_CUSTOM_HEADERS`` would go before `api_key`.
    headers = {"Authorization": f"Bearer {api_key}", **(_ATTRIBUTION if attribution else {})}
    return openai.OpenAI(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        timeout=timeout,
        default_headers=headers,
        http_client=openai.DefaultHttpxClient(timeout=timeout, event_hooks={"request": [_keep_ours]}),
    )


def _keep_ours(request: Any) -> None:
    for name in [name for name in request.headers if not _MAY_LEAVE.fullmatch(name)]:
        del request.headers[name]


def _failure(
    exc: Exception, request: Request, draft: Draft, *, headers: Mapping[str, str], attempt: int
) -> UpstreamError | None:
    """The error that `exc` stands for; None when it isn't the wire's doing."""
    import openai

    if isinstance(exc, openai.APIStatusError):
        return upstream_error(
            exc.status_code,
            _error_object(exc.body),
            body=request.body,
            headers=exc.response.headers,
            attempts=attempt,
        )
    if isinstance(exc, MalformedReplyError):
        return _refusal(
            f"a reply that is no completion ({exc})", request, draft, headers=headers, attempt=attempt
        )
    if _is_transport_failure(exc):
        cause = exc.__cause__ or exc
        return connection_lost(
            cause,
            sent=bool(headers) or type(cause).__name__ not in _NEVER_SENT,
            attempts=attempt,
            base_url=request.base_url,
            generation_id=draft.generation_id,
        )
    return None


def _refusal(
    error: Mapping[str, Any] | str,
    request: Request,
    draft: Draft,
    *,
    headers: Mapping[str, str],
    attempt: int,
) -> UpstreamError:
    """The error of an HTTP 200 that brought no part of an answer."""
    return upstream_error(
        None,
        error,
        body=request.body,
        headers=headers,
        attempts=attempt,
        generation_id=draft.generation_id,
        reported=draft.cost,
    )


def _error_object(body: Any) -> Mapping[str, Any] | str | None:
    if isinstance(body, Mapping):
        inner = body.get("error")
        return inner if isinstance(inner, Mapping) else body
    return str(body) if body else None


def _is_transport_failure(exc: BaseException) -> bool:
    """Whether the connection failed, as the client tells it or as the HTTP library below it does.

    The lines are read below the client, so that the library's own exceptions come through; which
    library that is depends on the client's version.
    """
    import openai

    return (
        isinstance(exc, openai.APIConnectionError)
        or type(exc).__module__.partition(".")[0] in _HTTP_LIBRARIES
    )
