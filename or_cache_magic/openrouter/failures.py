"""OpenRouter's refusals and failures as errors of ours, each in two lines with what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from or_cache_magic.core.chat import as_mapping, billed_apart
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost
from or_cache_magic.errors import ConnectionLostError, UpstreamError

__all__ = ["connection_lost", "cost_of_failure", "fetch_failed", "upstream_error"]

_RETRYABLE: Final = frozenset({429, 500, 502, 503, 529})

_MAYBE_BILLED: Final = frozenset({408, 499, 504, 524})
"""Time-outs at the edge: the provider may have gone on, and been paid."""

_HINTS: Final[Mapping[int, str]] = {
    400: "check the model id and the parameters",
    401: "set OPENROUTER_API_KEY or run %openrouter_key",
    402: "add credits to your OpenRouter account, or lower --max-tokens",
    403: "your key, a guardrail or moderation blocked it",
    404: "check the model id, or relax the provider preferences",
    408: "it may have been billed: ask again when the provider is faster",
    413: "send less: the request is too large",
    429: "wait a little and run the cell again",
    504: "it may have been billed: ask again, or choose a faster model",
    524: "it may have been billed: ask again, or choose a faster model",
}


def upstream_error(
    status: int | None,
    error: Mapping[str, Any] | str | None,
    *,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    attempts: int,
    generation_id: str | None = None,
    reported: Cost = UNKNOWN_COST,
) -> UpstreamError:
    """Return the error for a reply that refuses or fails, with the facts that it carries as attributes.

    Args:
        status: HTTP status of the refusal; None when it came inside an HTTP 200, and its own code counts.
        error: The error object of the reply, its text (HTML from the edge), or None.
        body: The request's body; some fields can bill on their own.
        headers: The reply's headers.
        attempts: How many requests were sent for this ask.
        generation_id: As the reply's body names it; None takes the header's.
        reported: What the reply itself says that it cost.
    """
    facts = error if isinstance(error, Mapping) else {}
    metadata = as_mapping(facts.get("metadata"))
    availability = as_mapping(facts.get("availability"))
    code = _code(facts, availability) if status is None else status
    cost = reported if reported.usd is not None else cost_of_failure(code, body, accepted=status is None)
    retry_after_s = _seconds(headers.get("retry-after"), availability.get("retry_after"))
    return UpstreamError(
        f"OpenRouter answered {code or 'with an error'}: {_message(facts, error)} ({_paid(cost)})",
        _hint(code, availability, retry_after_s),
        status=code,
        error_type=_text(metadata.get("error_type")) or _text(facts.get("error_type")),
        retry_after_s=retry_after_s,
        # Never ask again by ourselves where the failed call may already be on the bill.
        retryable=_may_retry(code, facts, availability) and cost.usd == 0,
        generation_id=generation_id or headers.get("x-generation-id"),
        cost_usd=cost.usd,
        body=facts or None,
        attempts=attempts,
    )


def cost_of_failure(status: int | None, body: Mapping[str, Any], *, accepted: bool = False) -> Cost:
    """Return what a call cost that ended in an error before any token arrived, and named no amount.

    A refused request is not billed, and a provider's failure without a completion is not either
    (OpenRouter: "Zero completion insurance"), unless the request also ordered searches or files,
    which are billed apart. After a time-out or a lost connection it is unknown.

    Args:
        status: The HTTP status or the error's own code; None is neither.
        body: The request's body.
        accepted: Whether the error came inside an HTTP 200, so that work may have begun.
    """
    if status is None or status in _MAYBE_BILLED:
        return UNKNOWN_COST
    refused = 400 <= status < 500 and not accepted  # noqa: PLR2004 - the HTTP classes
    return FREE if refused or not billed_apart(body) else UNKNOWN_COST


def connection_lost(
    exc: BaseException, *, sent: bool, attempts: int, base_url: str, generation_id: str | None = None
) -> ConnectionLostError:
    """Return the error for a call that brought no whole reply; `sent` is whether it may have arrived."""
    what = str(exc) or type(exc).__name__
    if sent:
        message = f"the connection to {base_url} broke off: {what} (it may have been billed)"
        hint = (
            "run the cell again when the network is back; OpenRouter's activity page shows if it was billed"
        )
    else:
        message = f"no connection to {base_url}: {what} (nothing was sent)"
        hint = "check the network, or set OR_CACHE_MODE=offline to use stored answers only"
    return ConnectionLostError(
        message,
        hint,
        retryable=not sent,
        generation_id=generation_id,
        cost_usd=None if sent else FREE.usd,
        attempts=attempts,
    )


def fetch_failed(exc: BaseException, *, base_url: str, path: str) -> ConnectionLostError:
    """Return the error for a `Gateway.fetch` that got no answer; fetching is free."""
    cause = exc.__cause__ or exc
    what = "no JSON" if isinstance(exc, ValueError) else str(cause) or type(cause).__name__
    return ConnectionLostError(
        f"{base_url}{path} could not be read: {what[:200]} (nothing was paid)",
        "check the network and the base URL, and try again",
        retryable=True,
        cost_usd=FREE.usd,
        attempts=1,
    )


def _paid(cost: Cost) -> str:
    if cost.usd is None:
        return "it may have been billed"
    return f"it cost ${cost.usd:f}" if cost.usd else "nothing was paid"


def _may_retry(code: int | None, facts: Mapping[str, Any], availability: Mapping[str, Any]) -> bool:
    if availability.get("retryable") is False or code not in _RETRYABLE:
        return False
    # A daily cap is a 429 that waiting a minute does not lift.
    return "per-day" not in str(facts.get("message", ""))


def _hint(code: int | None, availability: Mapping[str, Any], retry_after_s: float | None) -> str:
    if retry_after_s is not None:
        return f"the server asks to wait {retry_after_s:g} s; then run the cell again"
    fallbacks = availability.get("fallback_models")
    if isinstance(fallbacks, list) and fallbacks:
        return "try " + ", ".join(str(m) for m in fallbacks[:3])
    if code is not None and code in _HINTS:
        return _HINTS[code]
    return "run the cell again, or try another model or provider"


def _message(facts: Mapping[str, Any], error: Mapping[str, Any] | str | None) -> str:
    text = _text(facts.get("message")) or (error if isinstance(error, str) else "") or "no reason given"
    if text.lstrip()[:1] == "<":
        text = "an HTML page from the network's edge"
    raw = as_mapping(facts.get("metadata")).get("raw")
    text = f"{text}: {raw}" if isinstance(raw, str) and raw else text
    return " ".join(text.split())[:300]


def _code(facts: Mapping[str, Any], availability: Mapping[str, Any]) -> int | None:
    for value in (facts.get("code"), facts.get("http_status"), availability.get("http_status")):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.isdigit():
            return int(value)
    return None


def _seconds(*values: Any) -> float | None:
    for value in values:
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            continue
        if seconds >= 0:
            return seconds
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
