"""One builder for each named scenario: its parameters are the options, its docstring the description."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from or_cache_magic.simulator.behaviour import (
    Interruption,
    Refusal,
    Scenario,
    availability,
    error_object,
    platform_limit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_Builder = Callable[..., Scenario]
BUILDERS: Final[dict[str, _Builder]] = {}


def _named(build: _Builder) -> _Builder:
    BUILDERS[build.__name__.strip("_")] = build
    return build


def _refused(name: str, status: int, error: Mapping[str, Any], **rest: Any) -> Scenario:
    return Scenario(name, refusal=Refusal(status, error, **rest))


@_named
def _plain(text: str | None = None, finish_reason: str | None = None) -> Scenario:
    """An answer that ends well; ``text`` says it in other words. Cases 2, 3, 17."""
    return Scenario(text=text, finish_reason=finish_reason)


@_named
def _usage_shape(shape: Literal["a", "b", "c"] = "a", comments: int = 2) -> Scenario:
    """A stream with comments whose usage chunk has ``shape`` a, b or c. Cases 17 to 19."""
    return Scenario("usage_shape", usage_shape=shape, comments=comments)


@_named
def _invalid_request(message: str = "Invalid request parameters") -> Scenario:
    """400: a bad parameter. Case 4, which a body without messages gets by itself."""
    return _refused("invalid_request", 400, error_object(400, message, "invalid_request"))


@_named
def _unauthorized(message: str = "User not found.") -> Scenario:
    """401: a disabled key. Case 1, which a request without one gets by itself."""
    return _refused("unauthorized", 401, error_object(401, message, "authentication"))


@_named
def _free_variant_ended(model: str = "vendor/model:free", *, explained: bool = True) -> Scenario:
    """404: a ``:free`` model that is gone; ``explained`` adds ``availability``. Case 6."""
    error = error_object(404, f"No endpoints found for {model}.", "not_found")
    if explained:
        paid = [model.removesuffix(":free")]
        error["availability"] = availability("free_variant_ended", model, fallback_models=paid)
    return _refused("free_variant_ended", 404, error)


@_named
def _insufficient_credits(max_tokens: int | None = None, affordable: int = 120) -> Scenario:
    """402: no credits, or with ``max_tokens`` too few for so many. Case 7."""
    message = "Insufficient credits. Add more using https://openrouter.ai/settings/credits"
    if max_tokens is not None:
        message = (
            f"This request requires more credits, or fewer max_tokens. You requested up to {max_tokens} "
            f"tokens, but can only afford {affordable}. To increase, visit "
            "https://openrouter.ai/settings/credits and add more credits"
        )
    error = error_object(402, message, "payment_required", metadata={"provider_name": None})
    return _refused("insufficient_credits", 402, error)


@_named
def _credits_held(retry_after_s: float = 120, times: int | None = None) -> Scenario:
    """402: calls under way hold the credits, with Retry-After; ``times`` refusals, then the answer."""
    metadata = {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"}
    error = error_object(402, "Too much in flight", "payment_required", metadata=metadata)
    headers = _retry_after(retry_after_s)
    return _refused("credits_held", 402, error, headers=headers, times=times)


@_named
def _guardrail_blocked() -> Scenario:
    """403: a guardrail found a forbidden pattern. Case 8."""
    stage = {"type": "guardrail", "name": "regex-patterns", "summary": "blocked: 1 pattern matched"}
    metadata = {"patterns": ["credit_card"]}
    error = error_object(403, "Request blocked by guardrail", "permission_denied", metadata=metadata)
    return _refused("guardrail_blocked", 403, error, pipeline=(stage,))


@_named
def _moderated(flagged_input: str = "the flagged part of the prompt") -> Scenario:
    """403: moderation flagged the input. Case 9."""
    metadata = {
        "reasons": ["violence"],
        "flagged_input": flagged_input[:100],
        "provider_name": "OpenAI",
        "model_slug": "openai/gpt-4o",
    }
    message = "Your input was flagged by moderation"
    return _refused("moderated", 403, error_object(403, message, "permission_denied", metadata=metadata))


@_named
def _budget_exceeded() -> Scenario:
    """403: the workspace's monthly budget is used up. Case 10."""
    message = "Workspace monthly budget of $500.00 exceeded. Contact your administrator."
    metadata = {"limit_source": "openrouter_workspace_budget", "scope": "workspace", "limit_usd": 500}
    error = error_object(403, message, "permission_denied", metadata=metadata)
    return _refused("budget_exceeded", 403, error)


@_named
def _platform_limited(
    limit: int = 20, reset_ms: int = 1_800_000_000_000, times: int | None = None
) -> Scenario:
    """429: OpenRouter's own limit, with X-RateLimit headers. Case 11; free models reach it by themselves."""
    return Scenario("platform_limited", refusal=platform_limit(limit, reset_ms, times=times))


@_named
def _rate_limited(retry_after_s: float | None = 1, times: int | None = None) -> Scenario:
    """429: no capacity upstream, with Retry-After; ``times`` refusals of a body, then its answer. Case 12."""
    known = availability("capacity_exhausted", retryable=True)
    if retry_after_s is not None:
        known["retry_after"] = retry_after_s
    message = "Provider returned error: capacity exhausted"
    error = error_object(429, message, "rate_limit_exceeded", availability=known)
    headers = {} if retry_after_s is None else _retry_after(retry_after_s)
    return _refused("rate_limited", 429, error, headers=headers, times=times)


@_named
def _unavailable(retry_after_s: float | None = None, times: int | None = None) -> Scenario:
    """503: no provider can answer now, with Retry-After when given. Case 13."""
    known = availability("temporarily_unavailable", retryable=True)
    headers: dict[str, str] = {}
    if retry_after_s is not None:
        known["retry_after"] = retry_after_s
        headers = _retry_after(retry_after_s)
    message = "Service temporarily unavailable"
    error = error_object(503, message, "provider_overloaded", availability=known)
    return _refused("unavailable", 503, error, headers=headers, times=times)


@_named
def _bad_gateway(times: int | None = None) -> Scenario:
    """502: the provider is down; ``times=2`` answers the third ask. Case 13."""
    metadata = {"provider_name": "OpenAI", "provider_code": "bad_gateway"}
    error = error_object(502, "Provider returned error", "provider_unavailable", metadata=metadata)
    return _refused("bad_gateway", 502, error, times=times)


@_named
def _overloaded(times: int | None = None) -> Scenario:
    """529: the provider is overloaded. Case 13."""
    error = error_object(529, "Provider returned error", "provider_overloaded")
    return _refused("overloaded", 529, error, times=times)


@_named
def _timed_out(status: Literal[408, 504] = 504, times: int | None = None) -> Scenario:
    """408 or 504: the answer took too long."""
    error = error_object(status, "Operation timed out. Please try again later.", "timeout")
    return _refused("timed_out", status, error, times=times)


@_named
def _edge_timeout(times: int | None = None) -> Scenario:
    """524 with the edge network's HTML page. Case 13."""
    page = "<!DOCTYPE html><html><head><title>524: A timeout occurred</title></head><body></body></html>"
    return _refused("edge_timeout", 524, error_object(524, "A timeout occurred"), html=page, times=times)


@_named
def _server_error(times: int | None = None) -> Scenario:
    """500, masked: no provider code, no metadata but the error type. Case 14."""
    return _refused("server_error", 500, error_object(500, "Internal Server Error", "server"), times=times)


@_named
def _error_in_200(times: int | None = None) -> Scenario:
    """200 whose body has nothing but an error. Case 15."""
    error = error_object(502, "Provider returned error", "provider_unavailable")
    return _refused("error_in_200", 200, error, times=times)


@_named
def _broken_off(code: int | str = 429, after_pieces: int = 2) -> Scenario:
    """An error after part of the answer; ``code`` may be a string. Cases 16, 20, 21."""
    kind = "rate_limit_exceeded" if code == 429 else "server"  # noqa: PLR2004
    error = {"code": code, "message": "Provider disconnected", "metadata": {"error_type": kind}}
    return Scenario("broken_off", interruption=Interruption("error", after_pieces, error))


@_named
def _token_limit(after_pieces: int = 2) -> Scenario:
    """A stream finished twice by "length", then an error whose usage costs 0. Case 22."""
    error = {"code": 400, "message": "Token limit reached"}
    return Scenario("token_limit", interruption=Interruption("token_limit", after_pieces, error))


@_named
def _silent_error(after_pieces: int = 2) -> Scenario:
    """finish_reason "error" and no error object anywhere. Case 23."""
    return Scenario("silent_error", interruption=Interruption("silent", after_pieces))


@_named
def _cut(how: Literal["eof", "eof_after_finish", "reset"] = "eof", after_pieces: int = 2) -> Scenario:
    """A stream that ends without [DONE]: cleanly, after the finish reason, or by a reset. Case 24."""
    return Scenario("cut", interruption=Interruption(how, after_pieces))


@_named
def _empty() -> Scenario:
    """No word at all, and nothing to pay. Case 25."""
    return Scenario("empty", empty=True, comments=2)


@_named
def _padded(padding: Literal["newlines", "comments", "blank"] = "newlines") -> Scenario:
    """A whole reply behind keep-alive newlines or comments, or of nothing else. Case 28."""
    filler = ": OPENROUTER PROCESSING\n\n" * 2 if padding == "comments" else "\n         \n\n"
    return Scenario("padded", padding=filler, blank=padding == "blank")


@_named
def _stalled(after_pieces: int = 2) -> Scenario:
    """A stream that goes silent until the client closes the connection. Case 29."""
    return Scenario("stalled", interruption=Interruption("stall", after_pieces))


@_named
def _slow(delay_s: float = 0.5, chunk_delay_s: float = 0.05) -> Scenario:
    """An answer that takes its time."""
    return Scenario("slow", delay_s=delay_s, chunk_delay_s=chunk_delay_s, comments=2)


@_named
def _byok(search: Literal["", "native", "exa"] = "") -> Scenario:
    """The provider bills the user's own key: ``cost`` is OpenRouter's fee only. Case 37."""
    return Scenario("byok", byok=True, search=search)


@_named
def _web_search(
    engine: Literal["native", "exa"] = "native", cited: int = 1, *, listed: bool = False
) -> Scenario:
    """A web search, in the provider's bill or on top, with citations, ``listed`` at the top too. Case 38."""
    return Scenario("web_search", search=engine, cited=cited, lists_citations=listed)


@_named
def _pictures(count: int = 1, size_bytes: int = 0) -> Scenario:
    """An answer with pictures, large ones with ``size_bytes``. Case 46."""
    return Scenario("pictures", pictures=count, picture_bytes=size_bytes)


@_named
def _declined(text: str = "I'm sorry, I can't help with that.") -> Scenario:
    """A refusal by the model itself, in the place of a text."""
    return Scenario("declined", declined=text)


@_named
def _uncosted(misses: int = 0) -> Scenario:
    """Tokens and no cost, as in replies of 2024; ``misses`` as in ``late_generation``."""
    return Scenario("uncosted", costless=True, generation_misses=misses)


@_named
def _late_generation(misses: int = 2) -> Scenario:
    """``GET /generation`` is 404 ``misses`` times before it knows the call. Case 43."""
    return Scenario("late_generation", generation_misses=misses)


@_named
def _tier_full() -> Scenario:
    """The asked service tier has no room, and nothing else is tried. Case 45."""
    return Scenario("tier_full", tier_full=True)


@_named
def _tier_shed() -> Scenario:
    """The asked service tier is given up: default tier, default price. Case 45."""
    return Scenario("tier_shed", tier_shed=True)


@_named
def _reasoning() -> Scenario:
    """A model that reasons although it was not asked to. Case 46."""
    return Scenario("reasoning", reasoning=True)


@_named
def _broken_json() -> Scenario:
    """JSON with its end missing, which the response-healing plugin mends when not streaming. Case 48."""
    return Scenario("broken_json", text='{"answer": "simulated", "items": [1, 2, 3],')


@_named
def _unfit(
    how: Literal["prose", "fenced", "missing", "wrong_type", "extra"] = "wrong_type",
    *,
    stubborn: bool = False,
) -> Scenario:
    """An answer that doesn't fit its JSON schema; told so, one that does, unless ``stubborn``."""
    return Scenario("unfit", unfit=how, stubborn=stubborn)


@_named
def _content_filter() -> Scenario:
    """An answer that the provider's filter stopped."""
    return Scenario("content_filter", text="I can't", finish_reason="content_filter")


@_named
def _sampled() -> Scenario:
    """A repeated body is answered in other words, whatever its temperature."""
    return Scenario("sampled", sampled=True)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": f"{seconds:g}"}
