"""What a server sends, as it comes off the wire: event streams, JSON within bounds, whole characters."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import chain, islice
from typing import Any, Final

_BOM: Final = b"\xef\xbb\xbf"
_REPLACED: Final = "\ufffd".encode()
_LONGEST_MARK: Final = 4
_FIELDS: Final = (b"", b"id", b"retry")

_PADDING: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:\s+|:[^\r\n]*[\r\n])*")
_LONGEST_PADDING: Final = 1 << 16
_OBJECT: Final = re.compile(r'\{\s*"')
_MOST_TRIED: Final = 20
_USAGE: Final = re.compile(r'"usage"\s*:\s*(?!null)\S')
_OF_A_REPLY: Final = ("choices", "error")

DEEPEST: Final = 64
"""What is nested deeper is read as null: nothing that follows may run out of stack."""

_STRUCTURE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
_LONGEST_INT: Final = 18
_LONGEST_NUMBER: Final = 60
_FURTHEST: Final = 30


class MalformedReplyError(ValueError):
    """A reply that is no chat completion: not JSON, or not of its form."""


class Event(str):
    """The data of one event of an event stream.

    Attributes:
        kind: The type that the stream gives it.
        flaw: What is wrong with it, or with a line before it; empty when nothing is.
    """

    __slots__ = ("flaw", "kind")

    kind: str
    flaw: str

    def __new__(cls, data: str, kind: str = "", flaw: str = "") -> Event:  # noqa: D102, PYI034 - Python 3.10 has no Self
        event = super().__new__(cls, data)
        event.kind, event.flaw = kind, flaw
        return event


def events_of(chunks: Iterable[bytes], charset: str = "") -> Iterator[Event]:
    """Return the data of each event of an event stream, by the Event Streams standard.

    Lines end at CR, LF or CRLF and nowhere else: U+2028 and U+0085 stand in JSON as they are. Several
    ``data`` lines are one event. Comments (``: OPENROUTER PROCESSING``) and other fields are passed over;
    for a field that may have been meant for data an empty event comes, with the flaw.
    Where the standard drops a last event without its blank line, it is read: half of one is no JSON.
    """
    data: list[bytes] = []
    kind = b""
    for line in chain(_lines(chunks), (b"",)):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.strip()
        elif not line:
            if data:
                yield _event(data, kind, charset)
            data, kind = [], b""
        elif line.startswith(b"{") or (name not in _FIELDS and value.lstrip().startswith(b"{")):
            yield Event(
                "", flaw="a line of the reply could not be read: a piece of the answer may be missing"
            )


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


def _event(lines: list[bytes], kind: bytes, charset: str) -> Event:
    text, flaw = decoded(b"\n".join(lines), charset)
    return Event(text, kind.decode("utf-8", "replace"), flaw)


def decoded(data: bytes, charset: str = "") -> tuple[str, str]:
    """Return the text of UTF-8, and its flaw; empty when it has none.

    What is no UTF-8 is Latin-1 where that is the declared `charset`; else U+FFFD stands for it.
    """
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig"), ""
    with suppress(LookupError, ValueError):
        if codecs.lookup(charset).name == "iso8859-1":
            return data.decode("iso8859-1"), ""
    return data.decode("utf-8-sig", "replace"), "the reply holds bytes that are no text"


def as_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a reply in UTF-8: its first ones tell in which of Unicode's encodings it comes."""
    head, rest = b"", iter(chunks)
    for chunk in rest:
        head += chunk
        if len(head) >= _LONGEST_MARK:
            break
    encoding = json.detect_encoding(head)
    if encoding.startswith("utf-8"):
        yield head
        yield from rest
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for text in chain(map(decoder.decode, chain((head,), rest)), (decoder.decode(b"", final=True),)):
        # No text in UTF-8 either, so that it is told of.
        yield text.encode("utf-8", "replace").replace(_REPLACED, b"\xff")


def begins_with_object(chunks: Iterator[bytes]) -> tuple[bool, Iterator[bytes]]:
    """Return whether a reply is a JSON object, with padding before it or not, and its bytes."""
    head = rest = b""
    for chunk in chunks:
        head += chunk
        rest = _PADDING.sub(b"", head, 1)
        if (rest and rest[:1] != b":") or len(head) > _LONGEST_PADDING:
            break
    return rest.startswith(b"{"), chain((head,), chunks)


def is_whole(body: bytes) -> bool:
    """Return whether a body is a JSON object from its begin to its end."""
    body = _PADDING.sub(b"", body, 1).rstrip()
    with suppress(MalformedReplyError):
        return body.endswith(b"}") and isinstance(read_json(decoded(body)[0]), dict)
    return False


def tells_use(text: str) -> bool:
    """Return whether a text tells, anywhere in it, what was used: then something may have been billed."""
    return _USAGE.search(text) is not None


def object_in(text: str) -> str:
    """Return the reply that stands somewhere in a text, as JSON; empty when there is none."""
    for found in islice(_OBJECT.finditer(text), _MOST_TRIED):
        with suppress(ValueError, RecursionError):
            value, end = _FLOATS.raw_decode(text, found.start())
            if not value.keys().isdisjoint(_OF_A_REPLY):
                return text[found.start() : end]
    return ""


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
