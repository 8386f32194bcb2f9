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
    """Return the JSON value of a text: bare, or in its one fenced block.

    Raises:
        ValueError: Where it stops being JSON (line and column), or that there are several blocks.
    """
    bare = text.strip(_AROUND)
    try:
        return read_json(bare)
    except ValueError:
        blocks = list(re.finditer(FENCE, bare))
        if not blocks:
            raise
    if len(blocks) > 1:
        raise ValueError(f"expected one fenced block of JSON, found {len(blocks)}")
    return read_json(blocks[0]["code"].strip(_AROUND))


def read_json(text: str) -> Any:
    """Return the value of a text that is JSON and nothing else, with finite numbers.

    Raises:
        ValueError: It is none (line and column), or it is more than can be read.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is not finite")
    return number


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's own limit, 4,300 digits
        raise ValueError(f"a whole number of {len(digits):,} digits is too long to be read") from None
