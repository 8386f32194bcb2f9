"""A client's request as an ask, and what comes of it as OpenRouter would send it: bodies, chunks, refusals.

Nothing here sends or waits. Replies are read back by `openrouter.reply` as the answers they were made of.
"""

from __future__ import annotations

import binascii
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from or_cache_magic.cache.request import ask_of_body, parse_limit
from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.records import FREE, Answer, Choice, Cost, Outcome, Request
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.errors import (
    BatchPendingError,
    BudgetError,
    CacheMissError,
    InputError,
    MissingKeyError,
    OptionError,
    OrCacheError,
    RequestError,
    StoreError,
    UpstreamError,
    one_line,
)

DONE: Final = b"data: [DONE]\n\n"

HEADER: Final = "x-or-cache"
"""Whether it was a hit; and how all headers of ours begin, of requests and of replies."""

RETRIES: Final = "max-retries"
_OPTIONS: Final = ("mode", "sample", "ttl", "tag", "max-cost", RETRIES)
"""What a request's headers may say, each behind ``X-Or-Cache-``. None of it is in the key."""

RETRIES_HEADER: Final = f"{HEADER}-{RETRIES}"
_COUNT: Final = re.compile("[0-9]{1,9}")

_STATUS: Final[Mapping[type[OrCacheError], int]] = MappingProxyType(
    {
        InputError: 400,
        MissingKeyError: 401,
        BudgetError: 402,
        CacheMissError: 404,  # which no client tries again, as it does a 504
        BatchPendingError: 423,  # likewise
        UpstreamError: 502,
        StoreError: 503,
        OrCacheError: 500,
    }
)
"""By class the HTTP status of errors that no server gave one; the first that fits."""

_WIDTH: Final = 1000
_PIECE: Final = 2000
"""So many characters of a stored text are in one chunk at most."""

_BASE: Final = ("system_fingerprint", "service_tier")
"""What of an answer's other fields every chunk has."""


class Wanted(NamedTuple):
    """What a client asks for.

    Attributes:
        ask: What is asked, and how the cache may be used.
        stream: Whether the client wants a stream.
        max_cost_usd: The most that it may cost; None is no limit.
        tries: At most so many requests; see `Callbacks.tries`.
    """

    ask: Ask
    stream: bool
    max_cost_usd: Decimal | None = None
    tries: int = Callbacks().tries


class Head(NamedTuple):
    """The head of a reply: its status and headers."""

    status: int
    headers: dict[str, str]


# -- requests in ----------------------------------------------------------------------------------


def read_request(content: bytes, headers: Mapping[str, str], settings: Settings) -> Wanted:
    """Return what a request for a completion asks for.

    Args:
        content: Its body.
        headers: Its headers, by names in small letters.
        settings: In force.

    Raises:
        RequestError: It is no JSON object, or has no canonical form.
        OptionError: A header ``X-Or-Cache-…`` is unknown, or does not take its value.
    """
    body, options, limit = read_body(content, headers)
    tries = _tries(options.pop(RETRIES, None))
    return Wanted(ask_of_body(body, settings, options), body.get("stream") is True, limit, tries)


def _tries(retries: str | None) -> int:
    if retries is None:
        return Callbacks().tries
    if not _COUNT.fullmatch(retries):
        raise OptionError(
            f"{RETRIES_HEADER}: {retries!r:.50} is no count (nothing was sent)", "give a whole number from 0"
        )
    return 1 + int(retries)


def read_body(
    content: bytes, headers: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], Decimal | None]:
    """Return the JSON object of a request, its options, and the most that it may cost; see `read_request`."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"the request is no JSON: {exc} (nothing was sent)") from None
    if not isinstance(body, dict):
        raise RequestError("the request is no JSON object (nothing was sent)")
    options = _options(headers)
    return body, options, parse_limit(options.pop("max-cost", None), f"{HEADER}-max-cost")


def small(headers: Any) -> dict[str, str]:
    """Return headers by their names in small letters."""
    return {name.lower(): value for name, value in headers.items()}


def _options(headers: Mapping[str, str]) -> dict[str, Any]:
    from or_cache_magic.core.options import OPTIONS  # few requests have one

    found: dict[str, Any] = {}
    for header, value in headers.items():
        if not header.startswith(f"{HEADER}-"):
            continue
        name = header.removeprefix(f"{HEADER}-")
        if name not in _OPTIONS:
            known = ", ".join(f"{HEADER}-{option}" for option in _OPTIONS)
            raise OptionError(f"there is no header {header} (nothing was sent)", f"there are {known}")
        try:
            given: Any = value.split(",") if name == "tag" else value
            found[name] = OPTIONS[name](given) if name in OPTIONS else given
        except ValueError as exc:
            raise OptionError(f"{header}: {exc} (nothing was sent)") from None
    return found


# -- replies out ----------------------------------------------------------------------------------


def body_of(answer: Answer, request: Request) -> dict[str, Any]:
    """Return an answer as the JSON object of a reply that isn't streamed."""
    return {
        **_envelope(answer, request, "chat.completion"),
        "system_fingerprint": None,
        **(answer.extra or {}),
        "choices": [
            {**_ending(place, choice), "message": {"refusal": None, **choice.message}, **_logprobs(choice)}
            for place, choice in enumerate(answer.choices)
        ],
    }


def chunks_of(answer: Answer, request: Request) -> Iterator[dict[str, Any]]:
    """Yield an answer as the chunks of a stream: what is said, how it ends, then its usage."""
    extra = answer.extra or {}
    base = _envelope(answer, request, "chat.completion.chunk")
    base |= {name: extra[name] for name in _BASE if name in extra}
    for place, choice in enumerate(answer.choices):
        role = {"role": choice.message.get("role", "assistant")}
        for delta in _deltas(choice.message, _PIECE if choice.logprobs is None else None):
            said = {"index": place, "delta": role | delta, "finish_reason": None}
            yield base | {"choices": [said | (_logprobs(choice) if "content" in delta else {})]}
        last = {"content": ""} if isinstance(choice.message.get("content"), str) else {}
        yield base | {"choices": [{**_ending(place, choice), "delta": role | last}]}
    yield base | {"choices": [], **extra}


def _envelope(answer: Answer, request: Request, kind: str) -> dict[str, Any]:
    return {
        "id": answer.generation_id or "gen-unknown",
        "object": kind,
        "created": int(answer.created_s),
        "model": answer.model or request.body.get("model"),
        **({} if answer.provider is None else {"provider": answer.provider}),
    }


def _ending(place: int, choice: Choice) -> dict[str, Any]:
    error = {} if choice.error is None else {"error": choice.error}
    return {
        "index": place,
        "finish_reason": choice.finish_reason,
        "native_finish_reason": choice.native_finish_reason,
        **error,
    }


def _logprobs(choice: Choice) -> dict[str, Any]:
    return {} if choice.logprobs is None else {"logprobs": choice.logprobs}


def _deltas(message: Mapping[str, Any], width: int | None) -> Iterator[dict[str, Any]]:
    """Yield what a message says, as a model says it; ``content`` in pieces of this width, or at once."""
    left = {name: value for name, value in message.items() if name not in ("role", "content")}
    thought: dict[str, Any] = {
        name: left.pop(name) for name in ("reasoning", "reasoning_details") if name in left
    }
    if thought:
        yield thought
    content, calls = message.get("content"), left.pop("tool_calls", None) or ()
    if isinstance(content, str) and width is not None:
        for start in range(0, max(len(content), 1), width):
            yield {"content": content[start : start + width]}
    else:
        yield {"content": content}
    if left:
        yield left
    for place, call in enumerate(calls):
        yield {"tool_calls": [{**call, "index": place}]}


def as_json(value: Any) -> bytes:
    """Return JSON as it goes on the wire."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(chunk: Mapping[str, Any]) -> bytes:
    """Return a chunk as an event of a stream."""
    return b"data: " + as_json(chunk) + b"\n\n"


def head_of(outcome: Outcome, *, stream: bool) -> Head:
    """Return the head of a reply that an outcome gives."""
    paid, saved = outcome.paid, outcome.saved_usd
    headers = _content(stream=stream) | {
        HEADER: outcome.kind,
        f"{HEADER}-key": outcome.key.digest,
        **_amount("paid", paid),
        **_amount("saved", Cost(saved, "reported")),
    }
    if outcome.not_stored:
        headers[f"{HEADER}-not-stored"] = _printed(spelled(outcome.not_stored))
    if outcome.answer.generation_id:
        headers["x-generation-id"] = _printed(outcome.answer.generation_id)
    return Head(200, headers)


def head_of_live(ask: Ask) -> Head:
    """Return the head of a stream that is passed on as it comes: what it costs is in its last chunk."""
    barred = why_no_lookup(ask.request, ask.policy)
    kind = "bypass" if barred else "refresh" if ask.policy.mode == "refresh" else "miss"
    headers = _content(stream=True) | {HEADER: kind, f"{HEADER}-key": ask.key.digest}
    return Head(200, headers | ({f"{HEADER}-not-stored": _printed(spelled(barred))} if barred else {}))


def _content(*, stream: bool) -> dict[str, str]:
    if stream:
        return {"content-type": "text/event-stream", "cache-control": "no-cache"}
    return {"content-type": "application/json"}


def _amount(name: str, cost: Cost) -> dict[str, str]:
    return {} if cost.usd is None else {f"{HEADER}-{name}-usd": f"{cost.usd:f}"}


def _printed(text: str) -> str:
    """Return foreign text as a header can have it."""
    return one_line(text, _WIDTH).encode("ascii", "replace").decode()


def embeddings_head(outcomes: Sequence[Outcome]) -> Head:
    """Return the head of a reply with vectors: a hit where nothing had to be bought."""
    calls = [outcome for outcome in outcomes if outcome.made_call]
    kind = calls[0].kind if calls else outcomes[0].kind
    paid, saved = (
        None if None in amounts else sum(filter(None, amounts), ZERO_USD)
        for amounts in ([one.paid.usd for one in calls], [one.saved_usd for one in outcomes if one.served])
    )
    headers = {
        HEADER: kind,
        **_amount("paid", Cost(paid, "reported")),
        **_amount("saved", Cost(saved, "reported")),
    }
    return Head(200, _content(stream=False) | headers)


def embeddings_body(
    outcomes: Sequence[Outcome], distinct: Sequence[Outcome], *, as_text: bool
) -> dict[str, Any]:
    """Return vectors as the JSON object of a reply.

    Args:
        outcomes: Of each text.
        distinct: The different ones of them.
        as_text: Whether they are given as base64 of float32, or as numbers.
    """
    vectors = [outcome.answer.choices[0].message["embedding"] for outcome in outcomes]
    counts = [outcome.answer.usage.prompt_tokens or 0 for outcome in distinct if outcome.answer.usage]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": vector if as_text else _numbers(vector)}
            for place, vector in enumerate(vectors)
        ],
        "model": outcomes[0].answer.model,
        "usage": {"prompt_tokens": sum(counts), "total_tokens": sum(counts)},
    }


def _numbers(vector: str) -> list[float]:
    raw = binascii.a2b_base64(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


# -- refusals out ---------------------------------------------------------------------------------


_SPELLED: Final = (
    (r",? or run %openrouter_key", " for the program that has the cache"),
    (r"as in %%openrouter (\S+), or set OPENROUTER_MODEL", r'as in "model": "\1"'),
    (r"%openrouter_models", "GET /v1/models"),
    (r"%openrouter_config (\w+)=(\S+)", r"\1 = \2 in [tool.or_cache_magic]"),
    (r"write the prompt below %%openrouter", "give messages"),
    (r"%openrouter_(\w+)", r"or-cache \1"),
    (r"run the cell again|run it again", "ask again"),
    (r"run it once", "ask once"),
    (
        r"--offline \(or with OR_CACHE_MODE=normal\)",
        "X-Or-Cache-Mode: offline, or of or-cache serve --offline",
    ),
    (r"""--refresh \(mode="refresh"\)|--refresh|mode=.refresh.""", "X-Or-Cache-Mode: refresh"),
    (r"--no-cache", "X-Or-Cache-Mode: bypass"),
    (r"--sample (\d)", r"X-Or-Cache-Sample: \1"),
    (r"--max-tokens", "max_tokens"),
    (r"--max-cost|(?<!'s )\bmax_cost_usd", "X-Or-Cache-Max-Cost"),
    (r"\bkernel\b", "program"),
    (r"orc\.embed", "POST /v1/embeddings"),
)
"""How a request says what a cell, a magic or Python says otherwise; in this order."""


def spelled(text: str) -> str:
    """Return an error's text, or a reason, for a client of HTTP: headers for options, commands for magics."""
    for pattern, words in _SPELLED:
        text = re.sub(pattern, words, text)
    return text


def refusal_of(error: OrCacheError) -> tuple[Head, dict[str, Any]]:
    """Return an error as the reply of a server that refuses.

    A server's own refusal is passed on as it came: its status and its error. Of ours the message is both
    lines, ``code`` the name of its class. ``x-should-retry`` tells OpenAI's clients not to ask again: what
    may be tried again was.
    """
    status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
    said: dict[str, Any] = {
        "message": spelled(str(error)),
        "code": type(error).__name__,
        "type": "or_cache_magic",
    }
    headers = _content(stream=False) | {HEADER: "failed", "x-should-retry": "false"}
    if isinstance(error, UpstreamError):
        if error.status is not None and 400 <= error.status < 600:  # noqa: PLR2004 - the HTTP classes
            status = error.status
        if error.body is not None:
            said = {**error.body}
            said.setdefault("message", spelled(str(error)))
        if error.retry_after_s is not None:
            headers["retry-after"] = f"{error.retry_after_s:.0f}"
        cost = Cost(error.cost_usd, "reported")
    else:
        cost = FREE  # every other error of ours comes before anything is sent
    return Head(status, headers | _amount("paid", cost)), {"error": said}


def broken_chunk(error: OrCacheError, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chunk that ends a stream whose answer broke off, when a part of it was passed on.

    Args:
        error: What the ask raised.
        told: A chunk before it.
    """
    _, refused = refusal_of(error)
    ending = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    return {**told, **refused, "choices": [ending]}
