"""How a completion may differ from a plain answer: frozen values, to be made by name or put together freely.

Shapes and texts are those of OpenRouter's API reference ("Errors and debugging", "Streaming", "Usage
accounting") and of recordings of real traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error instead of an answer, as JSON and before any of the stream.

    Attributes:
        status: The HTTP status; 200 is the reply that has nothing but an error in it.
        error: The ``error`` object.
        headers: Further headers, such as ``Retry-After``.
        html: A page sent in place of the JSON, as an edge network does; empty for JSON.
        times: How many asks of the same body are refused before one is answered; None is all.
        pipeline: Stages shown as ``openrouter_metadata.pipeline`` when the request asks for metadata.
    """

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    html: str = ""
    times: int | None = None
    pipeline: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Interruption:
    """How an answer ends that does not end well.

    Attributes:
        how: ``error`` an error object after part of the answer · ``silent`` finish_reason "error" without
            an error object · ``token_limit`` finished twice by "length", then an error with a cost of 0 ·
            ``eof`` a clean end without ``[DONE]`` · ``eof_after_finish`` the same after the finish reason ·
            ``reset`` the connection breaks inside an event · ``stall`` nothing more until the client goes.
        after_pieces: Pieces of text that arrive first.
        error: The error object, for ``error`` and ``token_limit``.
    """

    how: Literal["error", "silent", "token_limit", "eof", "eof_after_finish", "reset", "stall"]
    after_pieces: int = 2
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """How one completion differs from a plain answer; as made by `scenario`, or put together freely.

    Attributes:
        name: For records and messages.
        refusal: An error instead of an answer.
        interruption: An answer that breaks off.
        text: The answer's text instead of the simulator's own.
        finish_reason: The finish reason instead of ``stop``, ``length`` or ``tool_calls``.
        empty: Whether nothing is said at all, which costs nothing (zero-completion insurance).
        usage_shape: Which final usage chunk a stream has: ``a`` an empty delta, ``b`` no choices,
            ``c`` the finish reason once more.
        comments: How many ``: OPENROUTER PROCESSING`` comments come before the first piece of a stream;
            half as many come in its middle.
        padding: What comes before the JSON of a whole reply, as keep-alive.
        blank: Whether a whole reply is its padding only.
        delay_s: Seconds before the reply begins.
        chunk_delay_s: Seconds before each chunk of a stream; None is the simulator's own.
        byok: Whether the provider bills the user's own key; ``fee`` is then all of ``usage.cost``.
        search: Whether a web search is made, and by whom.
        cited: How many pages a web search cites.
        lists_citations: Whether the reply lists them at its top too, as Perplexity's do.
        pictures: How many pictures come with the answer, asked for or not; 0 is as asked.
        picture_bytes: How large each is at least; 0 is a small one.
        declined: In what words the model refuses to answer; empty when it doesn't.
        reasoning: Whether the model reasons without having been asked.
        costless: Whether ``usage`` counts tokens and names no cost, as older replies did.
        generation_misses: How many times ``GET /generation`` is 404 before it knows the call.
        tier_full: Whether the endpoints of the asked service tier refuse for want of capacity.
        tier_shed: Whether the asked service tier is given up for the default one.
        unfit: How an answer misses the JSON schema that was asked for; empty doesn't. ``fenced`` fits, in a
            fence with words around it.
        stubborn: Whether it misses it again when it is told so.
        sampled: Whether a repeated body is answered in other words, as with a temperature above 0.
    """

    name: str = "plain"
    refusal: Refusal | None = None
    interruption: Interruption | None = None
    text: str | None = None
    finish_reason: str | None = None
    empty: bool = False
    usage_shape: Literal["a", "b", "c"] = "b"
    comments: int = 0
    padding: str = ""
    blank: bool = False
    delay_s: float = 0.0
    chunk_delay_s: float | None = None
    byok: bool = False
    search: Literal["", "native", "exa"] = ""
    cited: int = 1
    lists_citations: bool = False
    pictures: int = 0
    picture_bytes: int = 0
    declined: str = ""
    reasoning: bool = False
    costless: bool = False
    generation_misses: int = 0
    tier_full: bool = False
    tier_shed: bool = False
    unfit: Literal["", "prose", "fenced", "missing", "wrong_type", "extra"] = ""
    stubborn: bool = False
    sampled: bool = False


PLAIN: Final = Scenario()


def error_object(status: int, message: str, error_type: str = "", **rest: Any) -> dict[str, Any]:
    """An ``error`` object; ``metadata`` in ``rest`` joins the error type."""
    metadata = {"error_type": error_type} if error_type else {}
    metadata |= rest.pop("metadata", {})
    return {"code": status, "message": message} | ({"metadata": metadata} if metadata else {}) | rest


def availability(code: str, requested: str = "", *, retryable: bool = False, **rest: Any) -> dict[str, Any]:
    """An ``availability`` object, which says why no model could be reached."""
    return {
        "code": code,
        "retryable": retryable,
        "requested_models": [requested] if requested else [],
        "docs_url": "https://openrouter.ai/docs/api/reference/errors-and-debugging",
    } | rest


def platform_limit(
    limit: int, reset_ms: int, *, name: str = "free-models-per-min", times: int | None = None
) -> Refusal:
    """The refusal of the request that is over a limit of OpenRouter's own."""
    headers = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(reset_ms),
    }
    metadata = {"headers": headers, "provider_name": None}
    message = f"Rate limit exceeded: {name}. "
    error = error_object(429, message, "rate_limit_exceeded", metadata=metadata)
    return Refusal(429, error, headers, times=times)
