"""The JSON form of an `Answer`, numbered by `ANSWER_SCHEMA`: what is absent is the field's default.

Nothing read back is trusted: a field of another type is refused.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from or_cache_magic.core.records import UNKNOWN_COST, Answer, Choice, Cost, Usage

__all__ = ["NUMBERS", "STRINGS", "answer_from", "answer_json", "check"]

# One set operation instead of a call a field: half of the time of a hit was spent in such calls.
STRINGS: Final[frozenset[type]] = frozenset({str})
NUMBERS: Final[frozenset[type]] = frozenset({int, float})
_TEXTS: Final[frozenset[type]] = frozenset({str, type(None)})
_INTEGERS: Final[frozenset[type]] = frozenset({int, type(None)})


_ANSWER_TEXTS: Final = ("model", "provider", "generation_id", "source_generation_id")
_SOURCES: Final = frozenset({"reported", "generation", "estimated", "unknown"})


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON's types; money as text."""
    form: dict[str, Any] = {"choices": [_choice_json(choice) for choice in answer.choices]}
    for name in _ANSWER_TEXTS:
        if (value := getattr(answer, name)) is not None:
            form[name] = value
    if answer.usage is not None:
        form["usage"] = list(answer.usage)
    if answer.cost.usd is not None:
        form["cost"] = [str(answer.cost.usd), answer.cost.source]
    form["created_s"], form["elapsed_s"] = answer.created_s, answer.elapsed_s
    if not answer.complete:
        form["complete"] = False
    if answer.error is not None:
        form["error"] = answer.error
    if answer.response_cache_hit:
        form["response_cache_hit"] = True
    return form


def _choice_json(choice: Choice) -> dict[str, Any]:
    form: dict[str, Any] = {"message": choice.message}
    for name in ("finish_reason", "native_finish_reason", "error", "logprobs"):
        if (value := getattr(choice, name)) is not None:
            form[name] = value
    return form


def answer_from(form: dict[str, Any]) -> Answer:
    """The answer of a JSON form.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, decimal.InvalidOperation: It is none.
    """
    get = form.get
    model, provider = get("model"), get("provider")
    generation_id, source_generation_id = get("generation_id"), get("source_generation_id")
    check(_TEXTS, model, provider, generation_id, source_generation_id)
    created_s, elapsed_s = form["created_s"], form["elapsed_s"]
    check(NUMBERS, created_s, elapsed_s)
    usage, cost, error = get("usage"), get("cost"), get("error")
    if error is not None and type(error) is not dict:
        raise TypeError(error)
    return Answer(
        tuple([_choice(choice) for choice in form["choices"]]),
        model,
        provider,
        None if usage is None else _usage(usage),
        UNKNOWN_COST if cost is None else _cost(*cost),
        generation_id,
        created_s,
        elapsed_s,
        get("complete") is not False,
        error,
        get("response_cache_hit") is True,
        source_generation_id,
    )


def _choice(form: dict[str, Any]) -> Choice:
    get = form.get
    message, error = form["message"], get("error")
    finish, native_finish = get("finish_reason"), get("native_finish_reason")
    if type(message) is not dict or (error is not None and type(error) is not dict):
        raise TypeError(message, error)
    check(_TEXTS, finish, native_finish)
    return Choice(message, finish, native_finish, error, get("logprobs"))


def _usage(counts: list[Any]) -> Usage:
    if len(counts) != len(Usage._fields):
        raise TypeError(counts)
    check(_INTEGERS, *counts)
    return Usage(*counts)


def check(allowed: frozenset[type], *values: Any) -> None:
    """Raise TypeError unless each value's type is one of these, exactly: a bool is no int."""
    if not allowed.issuperset(map(type, values)):
        raise TypeError(values)


def _cost(usd: Any, source: Any) -> Cost:
    if source not in _SOURCES:
        raise TypeError(source)
    if type(usd) is not str:
        raise TypeError(usd)
    amount = Decimal(usd)
    if not amount.is_finite():
        raise ValueError(usd)
    return Cost(amount, source)
