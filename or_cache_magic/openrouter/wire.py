"""What a server sends, as it comes off the wire: event streams, JSON within bounds, whole characters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

_BOM: Final = b"\xef\xbb\xbf"

DEEPEST: Final = 64
"""What is nested deeper is read as null: nothing that follows may run out of stack."""

_STRUCTURE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
_LONGEST_INT: Final = 18
_LONGEST_NUMBER: Final = 60
_FURTHEST: Final = 30


class MalformedReplyError(ValueError):
    """A reply that is no chat completion: not JSON, or not of its form."""


def events_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Return the data of each event of an event stream, by the Event Streams standard.

    Lines end at CR, LF or CRLF and nowhere else: U+2028 and U+0085 stand in JSON as they are. Several
    ``data`` lines are one event. Comments (``: OPENROUTER PROCESSING``) and other fields are passed over.
    Where the standard drops a last event without its blank line, it is read: half of one is no JSON.

    Raises:
        MalformedReplyError: An event that isn't UTF-8.
    """
    data: list[bytes] = []
    for line in _lines(chunks):
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
        elif data:
            yield _text(data)
            data = []
    if data:
        yield _text(data)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without their ends, wherever the network cuts the bytes."""
    pieces: list[bytes] = []
    mark, after_cr = _BOM, False
    for chunk in filter(None, chunks):
        kept = chunk[1:] if after_cr and chunk[:1] == b"\n" else chunk
        after_cr = chunk.endswith(b"\r")
        for part in kept.splitlines(keepends=True):
            pieces.append(part)
            if part.endswith((b"\n", b"\r")):
                yield b"".join(pieces).removeprefix(mark).rstrip(b"\r\n")
                pieces, mark = [], b""
    if pieces:
        yield b"".join(pieces).removeprefix(mark)


def _text(lines: list[bytes]) -> str:
    try:
        return b"\n".join(lines).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedReplyError(str(exc)) from None


def read_json(text: str, *, exact: bool = False) -> Any:
    """Return a JSON value, within bounds.

    A number that nothing can calculate with (1e400, NaN), and what is nested deeper than `DEEPEST`, is null.

    Args:
        text: The JSON.
        exact: Whether numbers with a point are Decimal, digit for digit, and one beyond all bounds is NaN:
            with money, null says something else.

    Raises:
        MalformedReplyError: It is no JSON.
    """
    if text.count("[") + text.count("{") > DEEPEST:
        text = _shallow(text)
    try:
        return (_EXACT if exact else _FLOATS).decode(text)
    except (ValueError, RecursionError) as exc:
        raise MalformedReplyError(str(exc)) from None


def _shallow(text: str) -> str:
    """Return JSON with null in the place of what is nested too deep."""
    kept: list[str] = []
    depth = end = 0
    for found in _STRUCTURE.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += text[end : found.start()], "null"
        elif mark in "]}":
            if depth == DEEPEST + 1:
                end = found.end()
            depth -= 1
    return "".join([*kept, text[end:]]) if depth <= DEEPEST else ""


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _decimal(digits: str) -> Decimal | float:
    with suppress(ArithmeticError):  # an exponent of twenty digits
        number = Decimal(digits) if len(digits) <= _LONGEST_NUMBER else None
        if number is not None and abs(number.adjusted()) <= _FURTHEST:
            return number
    return math.nan


def _int(digits: str) -> float | None:
    return int(digits) if len(digits) <= _LONGEST_INT else _float(digits)


def _exact_int(digits: str) -> int | Decimal | float:
    return int(digits) if len(digits) <= _LONGEST_INT else _decimal(digits)


_FLOATS: Final = json.JSONDecoder(parse_float=_float, parse_int=_int, parse_constant=_float)
_EXACT: Final = json.JSONDecoder(parse_float=_decimal, parse_int=_exact_int, parse_constant=float)


def join_surrogates(text: str) -> str:
    r"""Return the text with the halves of a character that came apart joined; a lone half becomes U+FFFD.

    JSON spells a character beyond U+FFFF as two escapes, which a stream may cut apart; no file and no
    screen takes half a character.

    >>> join_surrogates("\ud83d" + "\ude00") == "\U0001f600", join_surrogates("half: \ud83d")
    (True, 'half: \ufffd')
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
