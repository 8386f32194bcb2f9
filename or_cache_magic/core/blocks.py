"""What a model's text holds: code, and JSON, bare or in a fence: read alike to be shown, kept and bound."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

# Compiled when it is first used: most answers are shown as they are.
FENCE: Final = (
    r"(?ms)^[ \t]*(?P<rail>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=rail)[`~]*[ \t\r]*$|\Z)"
)
_AROUND: Final = "\t\n\v\f\r \x85\xa0\u200b\u200c\u200d\u2028\u2029\u2060\ufeff"
"""White space, and what has no width at all: a byte order mark, a joiner."""


def first_code(text: str) -> tuple[str, str] | None:
    """Return the language (may be empty) and the code of the first fenced block; None without one."""
    fence = re.search(FENCE, text)
    return (fence["language"], fence["code"].rstrip("\r\n")) if fence else None


def parse_json(text: str) -> Any:
    """Return the JSON value of a model's text: bare, or in its one fenced block.

    Half a character, which only an escape can name, is U+FFFD: no file, screen or table takes it.

    Raises:
        ValueError: Where it stops being JSON (line and column), or that there are several blocks.
    """
    bare = text.strip(_AROUND)
    try:
        return _whole_characters(read_json(bare), bare)
    except ValueError:
        blocks = list(re.finditer(FENCE, bare))
        if not blocks:
            raise
    if len(blocks) > 1:
        raise ValueError(f"expected one fenced block of JSON, found {len(blocks)}")
    bare = blocks[0]["code"].strip(_AROUND)
    return _whole_characters(read_json(bare), bare)


def _whole_characters(value: Any, source: str) -> Any:
    """Return a JSON value without halves of characters."""
    if not re.search(r"(?i)\\ud[89a-f]", source):
        return value
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(item, source) for item in value]
    if isinstance(value, dict):
        return {
            _whole_characters(key, source): _whole_characters(item, source) for key, item in value.items()
        }
    return value


_SURELY_FINITE: Final = 300


def read_json(text: str) -> Any:
    """Return the value of a text that is JSON and nothing else, with finite numbers and each name once.

    Raises:
        ValueError: It is none (line and column), it is more than can be read, or nobody knows what it says:
            of a name that an object has twice RFC 8259 leaves it open which counts.
    """
    try:
        return json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:40]!r} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is not finite")
    return number


def _whole(digits: str) -> int:
    try:
        number = int(digits)
        if len(digits) > _SURELY_FINITE:
            float(number)  # else it would be infinite to who reads it as most do
    except (ValueError, OverflowError):  # Python's own limit, 4,300 digits; or a float's
        raise ValueError(f"a whole number of {len(digits):,} digits is too long to be read") from None
    return number
