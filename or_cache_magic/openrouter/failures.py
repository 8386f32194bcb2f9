"""OpenRouter's refusals and failures as errors of ours, each in two lines with what to do next."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping, billed_apart, is_embedding
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost
from or_cache_magic.core.secrets import redacted_text
from or_cache_magic.core.units import format_usd, read_number
from or_cache_magic.errors import ConnectionLostError, UpstreamError

_RETRYABLE: Final = frozenset({429, 500, 502, 503, 529})

_MAYBE_BILLED: Final = frozenset({408, 499, 504, 524})
"""Time-outs at the edge: the provider may have gone on, and been paid."""

_IN_FLIGHT: Final = "in_flight_budget_exhausted"
"""The reason of a 402 that passes: what calls under way may cost is held back until they have ended."""

_NOT_SENT: Final = "not sent"

_PER_DAY: Final = "per-day"
"""In the reason of a 429 of ``:free`` models that lasts until midnight, UTC."""

_SECONDS: Final = 1e9
_MILLISECONDS: Final = 1e11
"""From here on a number can only be a moment, since 1970 in seconds or in milliseconds."""

_AGREES_S: Final = 0.5
"""Clocks that are no further apart are as good as one."""

_LONGEST_TEXT: Final = 10_000

_DAY_S: Final = 86_400.0
_LONGEST_WAIT_S: Final = 366 * _DAY_S

_BUDGETS: Final = frozenset(
    {"openrouter_guardrail_budget", "openrouter_workspace_budget", "openrouter_key_limit"}
)
"""What a 403 names as its ``limit_source`` that refuses every further request too."""

_HINTS: Final[Mapping[int, str]] = {
    400: "check the model id and the parameters",
    401: "set OPENROUTER_API_KEY or run %openrouter_key",
    402: "add credits to your OpenRouter account",
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
    reported: Cost | None = None,
) -> UpstreamError:
    """Return the error for a reply that refuses or fails, with the facts that it carries as attributes.

    Args:
        status: HTTP status of the refusal; None when it came inside an HTTP 200, and its own code counts.
        error: The error object of the reply, its text (HTML from the edge), or None.
        body: The request's body; some fields can bill on their own.
        headers: The reply's headers.
        attempts: How many requests were sent for this ask.
        generation_id: As the reply names it; None when it doesn't.
        reported: What the reply itself says that it cost, unknown too; None when it says nothing of its use.
    """
    facts = error if isinstance(error, Mapping) else {}
    metadata = as_mapping(facts.get("metadata"))
    availability = as_mapping(facts.get("availability"))
    code = _code(facts, availability) if status is None else status
    if reported is not None:
        cost = reported
    elif "alignment" in metadata:  # its calls are billed, whatever is refused
        cost = UNKNOWN_COST
    else:
        cost = cost_of_failure(code, body, accepted=status is None)
    retry_after_s = _wait_s(headers, metadata, availability, limited=code == 429)  # noqa: PLR2004
    in_flight = code == 402 and metadata.get("reason") == _IN_FLIGHT  # noqa: PLR2004
    day_is_used_up = code == 429 and _PER_DAY in str(facts.get("message", ""))  # noqa: PLR2004
    return UpstreamError(
        f"OpenRouter answered {code or 'with an error'}: {_message(facts, error)} ({_paid(cost)})",
        _hint_for_tomorrow(retry_after_s)
        if day_is_used_up
        else _hint(code, metadata, availability, retry_after_s, of_texts=is_embedding(body)),
        status=code,
        error_type=_text(metadata.get("error_type")) or _text(facts.get("error_type")),
        retry_after_s=retry_after_s,
        # Never ask again by ourselves where the failed call may already be on the bill.
        retryable=(in_flight or _may_retry(code, facts, availability)) and cost.usd == 0,
        refuses_all=not in_flight
        and (code in (401, 402) or (code == 403 and str(metadata.get("limit_source")) in _BUDGETS)),  # noqa: PLR2004
        refuses_model=day_is_used_up,
        rate_limit=_rate_limit(headers, metadata) if code == 429 else None,  # noqa: PLR2004
        generation_id=generation_id,
        cost_usd=cost.usd,
        body=facts or None,
        attempts=attempts,
    )


def cost_of_failure(status: int | None, body: Mapping[str, Any], *, accepted: bool = False) -> Cost:
    """Return what a call cost that ended in an error before any token arrived, and said nothing of its use.

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
    refused = 300 <= status < 500 and not accepted  # noqa: PLR2004 - the HTTP classes
    return FREE if refused or not billed_apart(body) else UNKNOWN_COST


def redirected(status: int, target: str, *, base_url: str, attempts: int) -> UpstreamError:
    """Return the error for a reply that sends the request elsewhere: no prompt follows it."""
    return UpstreamError(
        f"{base_url} answered {status} and names {_one_line(target) or 'no other address'}: no redirect is"
        " followed (nothing was paid)",
        "if that is where the API is now, set OPENROUTER_BASE_URL to it",
        status=status,
        cost_usd=FREE.usd,
        attempts=attempts,
    )


def not_sent_after(refusal: UpstreamError) -> UpstreamError:
    """Return the error for a request that is not sent, since another was refused for all."""
    if refusal.args[0].startswith(_NOT_SENT):
        return refusal
    return UpstreamError(
        f"{_NOT_SENT}, since one before was refused: {refusal.args[0]}",
        refusal.hint,
        status=refusal.status,
        refuses_all=refusal.refuses_all,
        refuses_model=refusal.refuses_model,
        cost_usd=FREE.usd,
        attempts=0,
    )


def connection_lost(
    exc: BaseException,
    *,
    sent: bool,
    retryable: bool,
    attempts: int,
    base_url: str,
    generation_id: str | None = None,
    cost: Cost = UNKNOWN_COST,
    hint: str = "",
) -> ConnectionLostError:
    """Return the error for a call that brought no whole reply; `sent` is whether it may have arrived."""
    what = _one_line(redacted_text(str(exc) or type(exc).__name__))
    if sent:
        message = f"the connection to {base_url} broke off: {what} ({_paid(cost)})"
        hint = (
            "run the cell again when the network is back; OpenRouter's activity page shows if it was billed"
        )
    else:
        message = f"no connection to {base_url}: {what} (nothing was sent)"
        hint = hint or "check the network, or set OR_CACHE_MODE=offline to use stored answers only"
    return ConnectionLostError(
        message,
        hint,
        retryable=retryable,
        generation_id=generation_id,
        cost_usd=cost.usd if sent else FREE.usd,
        attempts=attempts,
    )


def fetch_failed(exc: BaseException, *, base_url: str, path: str) -> ConnectionLostError:
    """Return the error for a `Gateway.fetch` that got no answer; fetching is free."""
    cause = exc.__cause__ or exc
    what = "no JSON" if isinstance(exc, ValueError) else str(cause) or type(cause).__name__
    return ConnectionLostError(
        f"{base_url}{path} could not be read: {_one_line(redacted_text(what))} (nothing was paid)",
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
    return _PER_DAY not in str(facts.get("message", ""))


def _hint(
    code: int | None,
    metadata: Mapping[str, Any],
    availability: Mapping[str, Any],
    retry_after_s: float | None,
    *,
    of_texts: bool,
) -> str:
    said = list(_budget_facts(metadata))
    if retry_after_s is not None:
        wait = "more than a day" if retry_after_s > _DAY_S else f"{retry_after_s:.0f} s"
        said.insert(0, f"the server asks to wait {wait}; then run the cell again")
    if said:
        return "; ".join(said)
    fallbacks = availability.get("fallback_models")
    if isinstance(fallbacks, list) and fallbacks:
        return _one_line("try " + ", ".join(str(m) for m in fallbacks[:3]))
    if code is not None and code in _HINTS:
        shorter = ", or lower --max-tokens" if code == 402 and not of_texts else ""  # noqa: PLR2004
        return _HINTS[code] + shorter
    return "run the cell again, or try another model or provider"


def _hint_for_tomorrow(wait_s: float | None) -> str:
    """Return when a limit of the day begins anew: as the server says, else at midnight, UTC."""
    now_s = time.time()
    at_s = now_s + wait_s if wait_s is not None else (now_s // _DAY_S + 1) * _DAY_S
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_s))
    hours, minutes = divmod(math.ceil((at_s - now_s) / 60), 60)
    return f"the day's free requests are used up: run it again after {at} UTC, in {hours} h {minutes} min"


def _budget_facts(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an error says of the budget that refused the request, and its own advice."""
    limit_usd, spent_usd = (read_number(metadata.get(name)) for name in ("limit_usd", "spend_usd"))
    if limit_usd is not None:
        limit = f"the limit of {format_usd(limit_usd)} is spent"
        yield (
            f"the limit is {format_usd(limit_usd)}"
            if spent_usd is None
            else f"{format_usd(spent_usd)} of {limit}"
        )
    resets, advice = (_one_line(_text(metadata.get(name))) for name in ("resets_at", "remedy_hint"))
    if resets:
        yield f"it begins anew {resets}"
    if advice:
        yield advice


def _message(facts: Mapping[str, Any], error: Mapping[str, Any] | str | None) -> str:
    text = next(reasons_in(error), "") or "no reason given"
    if text.lstrip()[:1] == "<":
        text = "an HTML page from the network's edge"
    raw = as_mapping(facts.get("metadata")).get("raw")
    return _one_line(f"{text}: {raw}" if isinstance(raw, str) and raw else text)


def reasons_in(error: Any) -> Iterator[str]:
    """Yield the reasons that an error gives, wherever a server of this kind puts them: the best first."""
    if isinstance(error, str) and error.strip():
        yield error
    facts = as_mapping(error)
    parts = map(facts.get, ("message", "detail", "msg", "error", "errors", "reason", "title"))
    for part in parts if facts else as_list(error):
        yield from reasons_in(part)


def _one_line(text: str) -> str:
    return " ".join(text[:_LONGEST_TEXT].split())[:300]


def _code(facts: Mapping[str, Any], availability: Mapping[str, Any]) -> int | None:
    for value in (facts.get("code"), facts.get("http_status"), availability.get("http_status")):
        code = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value) else value
        if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 1000:  # noqa: PLR2004
            return code
    return None


def _wait_s(
    headers: Mapping[str, str], metadata: Mapping[str, Any], availability: Mapping[str, Any], *, limited: bool
) -> float | None:
    """Return the seconds that a reply asks to wait, by the first that says so; None when nothing does.

    ``Retry-After`` counts seconds or names a moment. ``X-RateLimit-Reset`` is a moment in milliseconds, other
    servers count it in seconds, or from now; it counts where a limit was reached.
    """
    now_s = _now_s(headers)
    listed = _listed_headers(metadata)
    seconds = _number(headers.get("retry-after"), availability.get("retry_after"), listed.get("retry-after"))
    if seconds is not None:
        return min(seconds, _LONGEST_WAIT_S)
    moment_s = _moment_s(headers.get("retry-after"))
    reset = _number(headers.get("x-ratelimit-reset"), listed.get("x-ratelimit-reset"))
    if moment_s is None and reset is not None and limited:
        moment_s = now_s + reset if reset < _SECONDS else reset if reset < _MILLISECONDS else reset / 1000
    return None if moment_s is None else min(max(0.0, moment_s - now_s), _LONGEST_WAIT_S)


def _now_s(headers: Mapping[str, str]) -> float:
    """Return the time by the server's own clock, which it tells in seconds, unless ours agrees with it."""
    now_s = time.time()
    date_s = _moment_s(headers.get("date"))
    return now_s if date_s is None or -_AGREES_S < now_s - date_s < 1 + _AGREES_S else date_s


def _listed_headers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that an error repeats, by their names in small letters."""
    return {str(name).lower(): value for name, value in as_mapping(metadata.get("headers")).items()}


def _rate_limit(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> int | None:
    """Return how many requests a server says that it takes in a while; None when it doesn't."""
    name = "x-ratelimit-limit"
    limit = _number(headers.get(name), _listed_headers(metadata).get(name))
    return int(limit) if limit is not None and 1 <= limit < _SECONDS else None


def _moment_s(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _number(*values: Any) -> float | None:
    for value in values:
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if seconds >= 0:
            return seconds
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
