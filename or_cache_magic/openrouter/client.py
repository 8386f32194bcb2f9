"""Sends requests to OpenRouter through the ``openai`` client, imported here on the first miss.

`Gateway.send` asks for a completion, `Gateway.fetch` for what OpenRouter lists: its models, a generation, a
key's limits. Retries are ours, not the client's: only what is proven to have cost nothing is sent again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.callbacks import Cancel
from or_cache_magic.core.records import Answer, Request
from or_cache_magic.errors import MissingKeyError, UpstreamError
from or_cache_magic.openrouter.connections import ApiTarget, ConnectionPool
from or_cache_magic.openrouter.failures import connection_lost, fetch_failed, upstream_error
from or_cache_magic.openrouter.reply import MalformedReplyError, ReplyReader, lines_of

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Gateway"]

ATTEMPTS: Final = 3
LONGEST_WAIT_S: Final = 60.0
"""A server that asks for more patience than this is not waited for."""

FETCH_TIMEOUT_S: Final = 10.0
"""`Gateway.fetch` waits no longer than this: what it asks for is made without a model."""

_KEY: Final = re.compile(r"[\x21-\x7e]+")
_HTTP_LIBRARIES: Final = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


class Gateway:
    """Sends requests. Thread-safe; opens nothing until the first request.

    Args:
        api_key: Returns the OpenRouter key, called at each request; None when there is none. No other
            key and none of OpenAI's organisation headers ever leave.
        attribution: Returns whether requests say which tool sends them.
        timeout_s: Returns the seconds without a byte after which a call is given up.
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
        self._pool = ConnectionPool()

    def send(
        self,
        request: Request,
        reader: ReplyReader,
        *,
        fresh: bool = False,
        cancel: Cancel | None = None,
        on_send: Callable[[], object] | None = None,
    ) -> Answer:
        """Return the answer, which may be cut or hold an error (see `policy.why_not_stored`).

        Args:
            request: What to ask.
            reader: Collects the reply, and still holds what had arrived when this raises.
            fresh: Forbids OpenRouter to answer from its own response cache.
            cancel: Cancels the request: the connection is closed at once. None leaves that to an interrupt.
            on_send: Called when an attempt is sent.

        Raises:
            MissingKeyError: There is no key; nothing was sent.
            UpstreamError: Refused, or failed before any part of an answer arrived.
            KeyboardInterrupt: As it came; the connection is closed, which ends the work upstream
                where the provider supports it.
            Cancelled: It was cancelled; the same holds.
        """
        sleep = self._sleep if cancel is None else cancel.sleep
        cancel = cancel or Cancel()
        for attempt in range(1, ATTEMPTS + 1):
            target = self._target(request.base_url)
            try:
                with self._pool.use(target) as connection, cancel.waking(connection.shut):
                    if on_send is not None:
                        on_send()
                    return _send_once(
                        connection.client, request, reader, fresh=fresh, attempt=attempt, cancel=cancel
                    )
            except UpstreamError as exc:
                wait_s = exc.retry_after_s if exc.retry_after_s is not None else 0.5 * 2 ** (attempt - 1)
                if not exc.retryable or reader.started or attempt == ATTEMPTS or wait_s > LONGEST_WAIT_S:
                    raise
                sleep(wait_s)
        raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises

    def fetch(
        self,
        path: str,
        *,
        base_url: str,
        params: Mapping[str, str] = MappingProxyType({}),
        timeout_s: float = FETCH_TIMEOUT_S,
        needs_key: bool = True,
    ) -> Any:
        """Return the JSON at a path of the API; numbers with a point are Decimal. Free, and sent once.

        Args:
            path: Below the base URL: ``/models``.
            base_url: Of the API.
            params: Of the query.
            timeout_s: Seconds without a byte after which it is given up.
            needs_key: Whether it needs a key; else one is sent only when there is one.

        Raises:
            MissingKeyError: There is no key, and one is needed; nothing was sent.
            UpstreamError: Refused (``status`` says how), no connection, or no JSON.
        """
        import openai

        key = self.require_key() if needs_key or self._api_key() else ""
        target = ApiTarget(key, base_url, self._attribution(), self._timeout_s())
        try:
            with self._pool.use(target) as connection:
                body = connection.client.get(
                    path, cast_to=bytes, options={"params": dict(params), "timeout": timeout_s}
                )
            return _read_json(body)
        except openai.APIStatusError as exc:
            raise upstream_error(
                exc.status_code, _error_object(exc.body), body={}, headers=exc.response.headers, attempts=1
            ) from None
        except (openai.APIConnectionError, ValueError) as exc:
            raise fetch_failed(exc, base_url=base_url, path=path) from None

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    def require_key(self) -> str:
        """Return the key that the next request would be sent with.

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

    def _target(self, base_url: str) -> ApiTarget:
        return ApiTarget(self.require_key(), base_url, self._attribution(), self._timeout_s())


def _send_once(
    client: OpenAI, request: Request, reader: ReplyReader, *, fresh: bool, attempt: int, cancel: Cancel
) -> Answer:
    body = {**_sent_body(request), "stream": request.stream}
    reader.restart()
    headers: Mapping[str, str] = {}
    try:
        # The body is sent whole through `extra_body`, which overrides the client's own arguments,
        # so that what was hashed is what is sent, field for field; marks for prompt caching apart.
        with client.chat.completions.with_streaming_response.create(
            model=str(body.get("model", "")),
            messages=body.get("messages", []),
            stream=request.stream,
            extra_body=body,
            extra_headers={"X-OpenRouter-Cache": "false"} if fresh else None,
        ) as response:
            headers = response.headers
            reader.read_headers(headers)
            if "text/event-stream" in headers.get("content-type", ""):
                chunks = _until_cancelled(response.iter_bytes(), cancel)
                any(map(reader.read_line, lines_of(chunks)))  # as far as the end marker
            else:
                reader.read_body(response.read())
    except Exception as exc:
        cancel.check()  # it failed because it was cancelled
        failure = _failure(exc, request, reader, headers=headers, attempt=attempt)
        if failure is None:
            raise
        if not reader.started:
            raise failure from None
    answer = reader.answer()
    if not answer.complete:
        cancel.check()
    if reader.error is not None and not reader.started:
        raise _refusal(reader.error, request, reader, headers=headers, attempt=attempt)
    return answer


def _sent_body(request: Request) -> Mapping[str, Any]:
    """Return the body as it is sent: with marks for the provider's prompt caching where asked for."""
    if not request.prompt_cache:
        return request.body
    from or_cache_magic.openrouter.prompt_caching import marked

    return marked(request.body, request.prompt_cache).body


def _until_cancelled(chunks: Iterator[bytes], cancel: Cancel) -> Iterator[bytes]:
    for chunk in chunks:
        cancel.check()
        yield chunk


def _failure(
    exc: Exception, request: Request, reader: ReplyReader, *, headers: Mapping[str, str], attempt: int
) -> UpstreamError | None:
    """Return the error that `exc` stands for; None when it isn't a failure of the request."""
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
            f"a reply that is no completion ({exc})", request, reader, headers=headers, attempt=attempt
        )
    if _is_transport_failure(exc):
        cause = exc.__cause__ or exc
        return connection_lost(
            cause,
            sent=bool(headers) or type(cause).__name__ not in _NEVER_SENT,
            attempts=attempt,
            base_url=request.base_url,
            generation_id=reader.generation_id,
        )
    return None


def _refusal(
    error: Mapping[str, Any] | str,
    request: Request,
    reader: ReplyReader,
    *,
    headers: Mapping[str, str],
    attempt: int,
) -> UpstreamError:
    """Return the error of an HTTP 200 that brought no part of an answer."""
    return upstream_error(
        None,
        error,
        body=request.body,
        headers=headers,
        attempts=attempt,
        generation_id=reader.generation_id,
        reported=reader.cost,
    )


def _read_json(body: bytes) -> Any:
    """Return the JSON value of a body; raises ValueError for what is none, or too large or deep."""
    try:
        return json.loads(body, parse_float=Decimal)
    except (ArithmeticError, RecursionError) as exc:  # 1e9999999999999999999, a million brackets
        raise ValueError(str(exc)) from None


def _error_object(body: Any) -> Mapping[str, Any] | str | None:
    if isinstance(body, Mapping):
        inner = body.get("error")
        return inner if isinstance(inner, Mapping) else body
    return str(body) if body else None


def _is_transport_failure(exc: BaseException) -> bool:
    """Return whether the connection failed, as the client reports it or as the HTTP library below it does.

    The lines are read below the client, so that the library's own exceptions come through; which
    library that is depends on the client's version.
    """
    import openai

    return (
        isinstance(exc, openai.APIConnectionError)
        or type(exc).__module__.partition(".")[0] in _HTTP_LIBRARIES
    )
