"""Sends requests to OpenRouter through the ``openai`` client, imported here on the first miss.

`Gateway.send` asks for a completion, `Gateway.fetch` for what OpenRouter lists: its models, a generation, a
key's limits. Retries are ours, not the client's: only what is proven to have cost nothing is sent again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from or_cache_magic.core.callbacks import Cancel, Pacing
from or_cache_magic.core.chat import as_mapping
from or_cache_magic.core.records import UNKNOWN_COST, Answer, Cost, Request
from or_cache_magic.core.secrets import Secret, redacted, redacted_text
from or_cache_magic.errors import MissingKeyError, RequestError, UpstreamError
from or_cache_magic.openrouter.connections import ApiTarget, Connection, ConnectionPool, Refused
from or_cache_magic.openrouter.failures import connection_lost, fetch_failed, redirected, upstream_error
from or_cache_magic.openrouter.fragments import mended
from or_cache_magic.openrouter.gate import ATTEMPTS, Gates, Tries
from or_cache_magic.openrouter.reply import ReplyReader, cost_reported, media_type
from or_cache_magic.openrouter.sharing import Board
from or_cache_magic.openrouter.wire import (
    MalformedReplyError,
    as_utf8,
    begins_with_object,
    decoded,
    is_whole,
    object_in,
    read_json,
    tells_use,
)

LARGEST_BYTES: Final = 1 << 27
"""A reply that is larger is not read on: no entry could keep it."""

FETCH_TIMEOUT_S: Final = 5.0
"""`Gateway.fetch` waits no longer than this: what it asks for is made without a model."""

_FRESH: Final = {"X-OpenRouter-Cache": "false"}
_OPENROUTER_KEY: Final = r"sk-or-v1-[0-9a-f]{64}"
_SHORT_KEY: Final = 20
_KEY: Final = re.compile(r"[\x21-\x7e]+")


def _untold(_line: str) -> None:
    """Tell nobody what is waited for."""


class Gateway:
    """Sends requests. Thread-safe; opens nothing until the first request.

    Args:
        api_key: Returns the OpenRouter key, called at each request; None when there is none. No other
            key and none of OpenAI's organisation headers ever leave.
        attribution: Returns whether requests say which tool sends them.
        timeout_s: Returns the seconds without a byte after which a call is given up.
        sleep: Waits between attempts.
        board: Where processes that share rate limits leave word for each other; None is nowhere.
    """

    def __init__(
        self,
        api_key: Callable[[], str | None],
        *,
        attribution: Callable[[], bool] = lambda: True,
        timeout_s: Callable[[], float] = lambda: 600.0,
        sleep: Callable[[float], None] = time.sleep,
        board: Board | None = None,
    ) -> None:
        self._api_key = api_key
        self._attribution = attribution
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._pool = ConnectionPool()
        self._gates = Gates(time.monotonic, board)

    def send(
        self,
        request: Request,
        reader: ReplyReader,
        *,
        fresh: bool = False,
        cancel: Cancel | None = None,
        on_send: Callable[[], object] | None = None,
        on_wait: Callable[[str], None] = _untold,
        pacing: Pacing | None = None,
        most: int = ATTEMPTS,
    ) -> Answer:
        """Return the answer, which may be cut or hold an error (see `policy.why_not_stored`).

        Args:
            request: What to ask.
            reader: Collects the reply, and still holds what had arrived when this raises.
            fresh: Forbids OpenRouter to answer from its own response cache.
            cancel: Cancels the request: the connection is closed at once. None leaves that to an interrupt.
            on_send: Called when an attempt is sent.
            on_wait: Told in one line what is waited for before another attempt.
            pacing: Of a request that is one of a list; see `Callbacks.pacing`.
            most: So often it is sent at most, where it isn't one of a list.

        Raises:
            MissingKeyError: There is no key; nothing was sent.
            RequestError: The request holds an OpenRouter key, by mistake; nothing was sent.
            UpstreamError: Refused, or failed before any part of an answer arrived.
            KeyboardInterrupt: As it came; the connection is closed, which ends the work upstream
                where the provider supports it.
            Cancelled: It was cancelled; the same holds.
        """
        reader.restart()
        sleep = self._sleep if cancel is None else cancel.sleep
        cancel = cancel or Cancel()
        tries = Tries(self._gates.of(request), pacing, cancel, sleep, on_wait, most)
        while True:
            target = self._target(request.base_url)
            _refuse_key(request, target.api_key)
            tries.begin()
            try:
                with self._pool.use(target) as connection, cancel.waking(connection.shut):
                    if on_send is not None:
                        on_send()
                    answer = _send_once(
                        connection,
                        request,
                        reader,
                        fresh=fresh,
                        direct=pacing is not None,
                        attempt=tries.number,
                        cancel=cancel,
                    )
            except BaseException as exc:
                if not tries.goes_on_after(exc, answer_began=reader.started):
                    raise
                reader.restart()  # it was free, and nothing is under way while we wait
                tries.pause()
            else:
                tries.answered()
                return answer

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
        key = self.require_key() if needs_key or self._api_key() else ""
        target = ApiTarget(key, base_url, self._attribution(), self._timeout_s())
        with self._pool.use(target) as connection:
            try:
                body = connection.client.get(
                    path, cast_to=bytes, options={"params": dict(params), "timeout": timeout_s}
                )
                return read_json(body.decode("utf-8-sig"), exact=True)
            except Exception as exc:  # noqa: BLE001 - of three libraries; what is fetched is free
                refusal = _refusal_in(exc)
                if refusal is not None:
                    raise _refused(refusal, {}, key, base_url=base_url, attempt=1) from None
                raise fetch_failed(exc, base_url=base_url, path=path) from None

    def submit(self, path: str, body: Mapping[str, Any], *, base_url: str) -> Any:
        """Return the JSON that answers a body at a path of the API; sent once. Numbers as in `fetch`.

        Raises:
            MissingKeyError: There is no key; nothing was sent.
            RequestError: The body holds an OpenRouter key, by mistake; nothing was sent.
            UpstreamError: Refused (``status`` says how), no connection, or no JSON. Its ``cost_usd`` is None
                where the body may have arrived and been accepted.
        """
        target = self._target(base_url)
        _refuse_key(Request(body), target.api_key)
        is_sent = False

        def mark_sent() -> None:
            nonlocal is_sent
            is_sent = True

        with self._pool.use(target) as connection:
            connection.on_send = mark_sent
            try:
                reply = connection.client.post(path, cast_to=bytes, body=dict(body))
                return read_json(reply.decode("utf-8-sig"), exact=True)
            except Exception as exc:  # noqa: BLE001 - of three libraries
                refusal = _refusal_in(exc)
                if refusal is not None:
                    raise _refused(
                        refusal, {}, target.api_key, base_url=base_url, attempt=1, may_run=True
                    ) from None
                raise connection_lost(
                    exc.__cause__ or exc, sent=is_sent, retryable=False, attempts=1, base_url=base_url
                ) from None

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    @property
    def has_key(self) -> bool:
        """Whether there is a key, or what is taken for one."""
        return bool((self._api_key() or "").strip())

    def require_key(self) -> Secret:
        """Return the key that the next request would be sent with.

        Raises:
            MissingKeyError: There is none, or it can't be one.
        """
        key = Secret((self._api_key() or "").strip())
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


def _refuse_key(request: Request, key: str) -> None:
    """Raise where a key is in what would be sent to a provider, and stored as plain text."""
    text = json.dumps(request.body, ensure_ascii=False)
    if re.search(_OPENROUTER_KEY, text) or (len(key) > _SHORT_KEY and key in text):
        raise RequestError(
            "the request holds an OpenRouter API key (nothing was sent)",
            "take it out: a prompt is sent to a provider, and stored as plain text",
        )


def _send_once(
    connection: Connection,
    request: Request,
    reader: ReplyReader,
    *,
    fresh: bool,
    direct: bool,
    attempt: int,
    cancel: Cancel,
) -> Answer:
    body: Mapping[str, Any] = request.body
    if not reader.vectors:
        body = {**_sent_body(request), "stream": request.stream}
    reader.restart(connection.target.api_key)
    connection.on_send = reader.mark_sent
    headers: Mapping[str, str] = {}
    try:
        # What was hashed is what is sent, field for field; marks for prompt caching apart.
        post = connection.post_embeddings if reader.vectors else partial(connection.post_chat, direct=direct)
        with post(body, _FRESH if fresh else {}) as response:
            headers = response.headers
            reader.read_headers(headers, response.status_code)
            _read(connection, reader, as_utf8(_bounded(response.iter_bytes(), cancel)), media_type(headers))
    except Exception as exc:  # noqa: BLE001 - of four libraries: whatever fails, what came is kept and accounted
        if not reader.complete:
            cancel.check()  # it failed because it was cancelled
        if not (reader.started or reader.complete or reader.error):
            raise _failure(exc, request, reader, headers=headers, attempt=attempt) from None
    answer = reader.answer()
    if not answer.complete:
        cancel.check()
    if reader.error is not None and not reader.started:
        raise _refusal(reader.error, request, reader, headers=headers, attempt=attempt)
    return answer


def _read(connection: Connection, reader: ReplyReader, chunks: Iterator[bytes], kind: str) -> None:
    """Read a reply to its end, or until it is whole and has brought nothing more for a while."""
    # What is JSON is read as such, whatever it says that it is: it is paid for.
    is_json, chunks = begins_with_object(chunks)
    if is_json or kind != "text/event-stream":
        _read_body(connection, reader, chunks)
        return
    with connection.ending(is_over=lambda: reader.is_over) as begin_anew:
        reader.read_stream(chunks, begin_anew)


def _read_body(connection: Connection, reader: ReplyReader, chunks: Iterator[bytes]) -> None:
    parts: list[bytes] = []
    failure: Exception | None = None
    try:
        with connection.ending(is_over=lambda: is_whole(b"".join(parts))) as begin_anew:
            for chunk in chunks:
                parts.append(chunk)
                if not chunk.isspace():
                    begin_anew()
    except Exception as exc:  # noqa: BLE001 - of three libraries: what came may be whole
        failure = exc
    try:
        reader.read_body(b"".join(parts))
    except MalformedReplyError:
        if failure is not None:
            raise failure from None
        raise
    if failure is not None and not connection.is_shut:
        reader.note("the reply broke off after its end")


def _sent_body(request: Request) -> Mapping[str, Any]:
    """Return the body as it is sent: where prompt caching is asked for, with marks and its provider."""
    if not request.prompt_cache:
        return request.body
    from or_cache_magic.openrouter.prompt_caching import marked, pin

    return {**marked(request.body, request.prompt_cache).body, **pin(request.body)}


def _bounded(chunks: Iterable[bytes], cancel: Cancel) -> Iterator[bytes]:
    """Yield the bytes of a reply until it is cancelled, or too large. What has come may be the whole."""
    size_bytes = 0
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > LARGEST_BYTES:
            raise MalformedReplyError(f"larger than {LARGEST_BYTES >> 20} MiB")
        yield chunk
        if cancel.is_set:
            return


def _failure(
    exc: Exception,
    request: Request,
    reader: ReplyReader,
    *,
    headers: Mapping[str, str],
    attempt: int,
) -> UpstreamError:
    """Return the error that `exc` stands for."""
    import openai

    refusal = _refusal_in(exc)
    if refusal is not None:
        return _refused(refusal, request.body, reader.secret, base_url=request.base_url, attempt=attempt)
    if isinstance(exc, MalformedReplyError):
        return _refusal(
            f"a reply that is no completion ({exc})", request, reader, headers=headers, attempt=attempt
        )
    return connection_lost(
        exc.__cause__ or exc,
        sent=reader.is_sent,
        retryable=not reader.is_sent and isinstance(exc, openai.APIConnectionError),
        attempts=attempt,
        base_url=request.base_url,
        generation_id=reader.generation_id,
        cost=reader.cost,
    )


def _refusal_in(exc: Exception) -> Refused | None:
    """Return the refusal that an error of the client's stands for; older ones wrap it in one of their own."""
    return next((error for error in (exc, exc.__cause__) if isinstance(error, Refused)), None)


def _refused(
    refusal: Refused,
    body: Mapping[str, Any],
    secret: str,
    *,
    base_url: str,
    attempt: int,
    may_run: bool = False,
) -> UpstreamError:
    """Return the error of a reply that isn't HTTP 200; what it says of its cost counts.

    With ``may_run`` what a server failed to answer (5xx) may have been accepted, and be paid later.
    """
    if refusal.status < 400:  # noqa: PLR2004 - the HTTP classes
        target = redacted_text(refusal.headers.get("location", ""), secret)
        return redirected(refusal.status, target, base_url=base_url, attempts=attempt)
    text, _ = decoded(b"".join(as_utf8([refusal.content])))
    reply, cost = _told_by(text)
    if cost is None and (tells_use(text) or (refusal.is_cut and text.lstrip()[:1] in ("", "{"))):
        cost = UNKNOWN_COST
    if may_run and refusal.status >= 500:  # noqa: PLR2004
        cost = UNKNOWN_COST
    error = as_mapping(reply).get("error")
    return upstream_error(
        refusal.status,
        redacted(mended(error if isinstance(error, Mapping) else reply), secret),
        body=body,
        headers=refusal.headers,
        attempts=attempt,
        generation_id=redacted_text(refusal.headers.get("x-generation-id", "")[:500], secret) or None,
        reported=cost,
    )


def _told_by(text: str) -> tuple[Any, Cost | None]:
    """Return what a refusal says, and that it cost; None when it says nothing of its use."""
    for found in (text, object_in(text)):
        with suppress(MalformedReplyError):
            reply = read_json(found)
            if as_mapping(reply).get("usage") is None:
                return reply, UNKNOWN_COST if as_mapping(reply).get("choices") else None
            return reply, cost_reported(as_mapping(read_json(found, exact=True)["usage"]))
    return text, None


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
        reported=reader.reported,
    )
