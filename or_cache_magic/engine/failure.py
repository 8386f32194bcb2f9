"""An upstream failure as JSON and back, so that those who waited in another process get the same error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from or_cache_magic.errors import ConnectionLostError, StreamBrokenError, UpstreamError

__all__ = ["failure_from", "failure_json"]

_KINDS: Final[Mapping[str, type[UpstreamError]]] = {
    kind.__name__: kind for kind in (UpstreamError, ConnectionLostError, StreamBrokenError)
}
_OF_THE_ACCOUNT: Final = frozenset({401, 402, 403})
_KEY: Final = re.compile(r"sk-or-[\w-]*")


def failure_json(failure: BaseException | None) -> dict[str, Any] | None:
    """A failed call's facts as JSON; None when it is nobody else's failure.

    An interrupt is its owner's own. So is a refusal of the owner's key, credits or permissions: those who
    waited may have others, and a refused call costs nothing. What looks like a key is taken out.
    """
    if not isinstance(failure, UpstreamError) or failure.status in _OF_THE_ACCOUNT:
        return None
    form = {
        "kind": type(failure).__name__,
        "message": failure.args[0],
        "hint": failure.hint,
        "status": failure.status,
        "error_type": failure.error_type,
        "retry_after_s": failure.retry_after_s,
        "retryable": failure.retryable,
        "generation_id": failure.generation_id,
        "cost_usd": None if failure.cost_usd is None else str(failure.cost_usd),
        "body": failure.body,
        "attempts": failure.attempts,
        "partial_text": getattr(failure, "partial_text", None),
    }
    return {name: _without_keys(value) for name, value in form.items() if value is not None}


def failure_from(form: Mapping[str, Any]) -> UpstreamError | None:
    """The error of a JSON form; None when it is none: it may come from a stranger."""
    get = form.get
    kind = _KINDS.get(str(get("kind")), UpstreamError)
    facts: dict[str, Any] = {}
    if kind is StreamBrokenError:
        facts["partial_text"] = get("partial_text", "")
    try:
        cost_usd = None if get("cost_usd") is None else Decimal(_a(str, get("cost_usd")))
        return kind(
            _a(str, get("message")),
            _a(str, get("hint", "")),
            status=_maybe(int, get("status")),
            error_type=_maybe(str, get("error_type")),
            retry_after_s=_maybe((int, float), get("retry_after_s")),
            retryable=get("retryable") is True,
            generation_id=_maybe(str, get("generation_id")),
            cost_usd=cost_usd,
            body=_maybe(dict, get("body")),
            attempts=_a(int, get("attempts", 1)),
            **{name: _a(str, value) for name, value in facts.items()},
        )
    except (TypeError, InvalidOperation):
        return None


def _without_keys(value: Any) -> Any:
    if isinstance(value, str):
        return _KEY.sub("sk-or-…", value)
    if isinstance(value, Mapping):
        return {str(_without_keys(name)): _without_keys(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_keys(inner) for inner in value]
    return value


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else _a(kind, value)
