"""Whether two answers to one request say the same, to the letter or but for how it is written; and how sure.

Normalised, texts are compared after Unicode's NFKC, without regard to case and to how much white space stands
where; an answer that is one number, and numbers in JSON, as numbers; names in JSON objects in any order.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.blocks import parse_json, read_json
from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.units import read_number

if TYPE_CHECKING:
    from or_cache_magic.core.records import Answer, Json

_SAID: Final = ("content", "refusal", "tool_calls", "images", "audio")
"""What of a message is the answer; how the model thought, and what it cites, is not."""

_NAMES_THE_CALL: Final = frozenset({"id", "index", "expires_at"})
"""Fields that are others at each call, whatever is said."""

_THOUSANDS: Final = r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?"
_Z: Final = 1.959963984540054
"""The normal distribution's 97.5th percentile: an interval of 95 %."""


class Agreement(NamedTuple):
    """Whether two values are the same to the letter, and whether they are when normalised."""

    exact: bool
    normalised: bool


class Comparison(NamedTuple):
    """How two answers to one request agree.

    Attributes:
        whole: The answers as a whole.
        fields: Those of the JSON Schema, where one was asked for and both answers are objects; by name.
        schema: Its name; empty where there is none.
    """

    whole: Agreement
    fields: Mapping[str, Agreement]
    schema: str = ""


def compare(body: Mapping[str, Json], before: Answer, after: Answer) -> Comparison:
    """Return how two answers to the request of this body agree."""
    wanted = as_mapping(body.get("response_format"))
    is_json = wanted.get("type") in ("json_schema", "json_object")
    old, new = _said(before), _said(after)
    exact = old == new
    whole = Agreement(exact, exact or _same(_read(old, is_json=is_json), _read(new, is_json=is_json)))
    if wanted.get("type") != "json_schema":
        return Comparison(whole, {})
    named = as_mapping(wanted.get("json_schema"))
    with suppress(ValueError):
        objects = parse_json(before.text), parse_json(after.text)
        if all(isinstance(value, dict) for value in objects):
            return Comparison(whole, _fields(named, *objects), str(named.get("name") or ""))
    return Comparison(whole, {})


def wilson(agreed: int, compared: int) -> tuple[float, float]:
    """Return the interval of 95 % for a share, of which so many of so many were seen; 0 to 1 where none were.

    The score interval of E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927), 209-212. It holds for few answers
    too, and for shares near 0 and 1, where the usual one (share ± 1.96 standard errors) claims certainty.

    >>> [round(end, 3) for end in wilson(8, 10)], [round(end, 3) for end in wilson(20, 20)]
    ([0.49, 0.943], [0.839, 1.0])
    """
    if not compared:
        return 0.0, 1.0
    share, square = agreed / compared, _Z**2 / compared
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / compared + square / (4 * compared))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return (low if agreed else 0.0), (high if agreed < compared else 1.0)


def _said(answer: Answer) -> list[dict[str, Json]]:
    """Return what each choice says, without what is another at each call."""
    return [
        {field: _lasting(said) for field in _SAID if (said := choice.message.get(field))}
        for choice in answer.choices
    ]


def _lasting(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {name: _lasting(item) for name, item in value.items() if name not in _NAMES_THE_CALL}
    return [_lasting(item) for item in as_list(value)] if isinstance(value, (list, tuple)) else value


def _read(said: Json, *, is_json: bool) -> Json:
    """Return what is said with each text that is JSON, or a number, as its value."""
    if isinstance(said, dict):
        return {name: _read(item, is_json=is_json) for name, item in said.items()}
    if isinstance(said, list):
        return [_read(item, is_json=is_json) for item in said]
    if not isinstance(said, str):
        return said
    text = _folded(said)
    number = read_number(text.replace(",", "") if re.fullmatch(_THOUSANDS, text) else text, signed=True)
    if number is not None:
        return number
    if is_json or text.startswith(("{", "[")):
        with suppress(ValueError):
            return parse_json(said) if is_json else read_json(said)
    return said


def _same(old: Json, new: Json) -> bool:
    """Return whether two values are the same when normalised."""
    try:
        return _equal(old, new)
    except RecursionError:
        return False  # nested deeper than anything that is meant


def _equal(old: Json, new: Json) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(old[name], new[name]) for name in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_equal, old, new))
    if isinstance(old, str) and isinstance(new, str):
        return _folded(old) == _folded(new)
    # A float of JSON is the decimal that it is written as; to Python true is 1, and 0.1 no decimal.
    return isinstance(old, bool) == isinstance(new, bool) and bool(_decimal(old) == _decimal(new))


def _decimal(value: Json) -> Json:
    return Decimal(repr(value)) if isinstance(value, float) else value


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def _fields(named: Mapping[str, Json], old: dict[str, Json], new: dict[str, Json]) -> dict[str, Agreement]:
    """Return how the fields of two objects agree, in the order of their schema; one that lacks differs."""
    of_schema = as_mapping(as_mapping(named.get("schema")).get("properties"))
    found = {}
    for name in [*(name for name in of_schema if name in old or name in new), *old, *new]:
        if name not in found:
            there = name in old and name in new
            exact = there and json.dumps(old[name], sort_keys=True) == json.dumps(new[name], sort_keys=True)
            found[name] = Agreement(exact, exact or (there and _same(old[name], new[name])))
    return found
