"""How a value is written so that equal values have equal bytes: RFC 8785, and a short form of it.

The short form, the *skeleton*, holds no long text. Such a text is handed back as it is, to be hashed
without ever being escaped, and a placeholder with its length in bytes stands for it. A placeholder is
a string that begins with NUL; a string of the value's own that begins with NUL is handed back like a
long one. So no value can hold what a placeholder looks like, and skeleton and texts together tell
every two values apart.
"""

from __future__ import annotations

import math
from functools import lru_cache
from json.encoder import encode_basestring as _quote  # escapes what RFC 8785 §3.2.2.2 does, as it does
from typing import TYPE_CHECKING, Final

from or_cache_magic.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from or_cache_magic.core.records import Json

__all__ = ["Ordered", "Token", "canonical_json", "refusal", "skeleton_json"]

_LONG_CHARS: Final = 256
_FEW_NAMES: Final = 8
_MIN_PLAIN_POWER: Final = -6
_MAX_PLAIN_POWER: Final = 21


class Ordered:
    """A value inside which the order of names counts, all the way down."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value


class Token:
    """A placeholder for something that is not written as it stands.

    Attributes:
        name: What the placeholder says after its NUL: not a number, which is a long text's.
        raw: The bytes that it stands for, hashed with the texts; None where ``name`` says it all.
    """

    __slots__ = ("name", "raw")

    def __init__(self, name: str, raw: bytes | None = None) -> None:
        self.name = name
        self.raw = raw


def canonical_json(value: Json) -> bytes:
    """Any JSON value as RFC 8785 writes it, in UTF-8, but with integers of any size exact.

    Nothing is left out or replaced: this is the plain form, without the readings that `key` gives to
    the fields of a request. Takes what `json.dumps` takes, except names that are not text.

    Raises:
        RequestError: The value has no such form; its path starts at ``value``.
    """
    out: list[str] = []
    try:
        _write(value, out, None)
        return "".join(out).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal(value, "value", error) from None


def skeleton_json(value: Json) -> tuple[bytes, list[bytes]]:
    """The skeleton of a value, JSON in UTF-8, and its texts in the order of their placeholders.

    The value may hold `Ordered` and `Token`.

    Raises:
        TypeError, ValueError, RecursionError: The value has no canonical form; `refusal` says where.
    """
    out: list[str] = []
    texts: list[bytes] = []
    _write(value, out, texts)
    return "".join(out).encode(), texts


def refusal(value: Json, path: str, error: Exception) -> Exception:
    """Why a value could not be written: a `RequestError` that names where, or ``error`` unexplained.

    Args:
        value: The value, without `Ordered` and `Token`.
        path: What to call the value; empty for the body of a request, whose fields need no prefix.
        error: What writing it raised.
    """
    if isinstance(error, RecursionError):
        return RequestError(
            f"{path or 'the request'} is nested too deeply, or holds itself",
            "Flatten the value, or send it as text.",
        )
    return next(_faults(value, path), error)


def _write(value: Json, out: list[str], texts: list[bytes] | None, ordered: bool = False) -> None:
    """Append the canonical form of a value to ``out``, and its long texts to ``texts`` unless None."""
    kind = type(value)
    if kind is str:
        if texts is not None and (len(value) > _LONG_CHARS or value[:1] == "\0"):
            raw = value.encode()
            texts.append(raw)
            out.append(f'"\\u0000{len(raw)}"')
        else:
            out.append(_quote(value))
    elif kind is dict:
        for name, opening in (_openings if len(value) > _FEW_NAMES else _known_openings)(
            tuple(value), ordered
        ):
            item = value[name]
            # Most values are short texts: written here, since a call takes as long as writing one.
            if type(item) is str and len(item) <= _LONG_CHARS and item[:1] != "\0":
                out.append(opening + _quote(item))
            else:
                out.append(opening)
                _write(item, out, texts, ordered)
        out.append("}" if value else "{}")
    elif kind is list:
        opening = "["
        for item in value:
            out.append(opening)
            opening = ","
            _write(item, out, texts, ordered)
        out.append("]" if value else "[]")
    elif value is None or isinstance(value, (int, float)):
        out.append(_scalar(value))
    else:
        _write_rarer(value, out, texts, ordered)


def _write_rarer(value: Json, out: list[str], texts: list[bytes] | None, ordered: bool) -> None:
    """Our own two, tuples, and subclasses of what JSON has (a `Completion` is a str)."""
    if isinstance(value, Ordered):
        _write(value.value, out, texts, ordered=True)
    elif isinstance(value, Token) and texts is not None:
        out.append(_quote(f"\0{value.name}"))
        if value.raw is not None:
            texts.append(value.raw)
    elif isinstance(value, str):
        _write(str.__str__(value), out, texts, ordered)
    elif isinstance(value, dict):
        _write(dict(value), out, texts, ordered)
    elif isinstance(value, (list, tuple)):
        _write(list(value), out, texts, ordered)
    else:
        raise TypeError


def _scalar(value: float | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(float.__float__(value)) if isinstance(value, float) else int.__repr__(value)


def _openings(names: tuple[str, ...], ordered: bool) -> list[tuple[str, str]]:
    """The names of an object in the order in which they are written, each with what stands before its value.

    Sorted by UTF-16 code units (RFC 8785 §3.2.3), which can only differ where a name is not ASCII. Raises
    TypeError at a name that is not text.
    """
    joined = "".join(names)
    if not ordered:
        names = tuple(sorted(names) if joined.isascii() else sorted(names, key=_utf16))
    return [(name, f"{',' if index else '{'}{_quote(name)}:") for index, name in enumerate(names)]


# A conversation is the same few objects again and again.
_known_openings: Final = lru_cache(maxsize=256)(_openings)


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _number(number: float) -> str:
    """A float as ECMAScript writes it (RFC 8785 §3.2.2.3): the digits of `repr`, laid out otherwise."""
    if not math.isfinite(number):
        raise ValueError
    if number == 0:
        return "0"
    digits, _, exponent = repr(number).partition("e")
    if not exponent:
        return digits.removesuffix(".0")
    sign, digits = ("-", digits[1:]) if number < 0 else ("", digits)
    power = int(exponent)
    if _MIN_PLAIN_POWER <= power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
    if 0 < power < _MAX_PLAIN_POWER:
        return f"{sign}{digits.replace('.', ''):0<{power + 1}}"
    return f"{sign}{digits}e{power:+}"


def _faults(value: Json, path: str) -> Iterator[RequestError]:
    """Everything in a value that JSON can't say, in the order in which it stands there."""
    where = path or "the request"
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(name, str):
                yield from _faults(name, f"a name in {where}")
                yield from _faults(item, _joined(path, name))
            else:
                yield RequestError(f"{where} has the name {name!r}, which is not text", "Use str(name).")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]")
    elif value is not None:
        yield from _scalar_faults(value, where)


def _scalar_faults(value: Json, where: str) -> Iterator[RequestError]:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(value[error.start]):04X}"
            yield RequestError(
                f"{where} has half of a surrogate pair ({half}) at character {error.start}",
                "It stands for no character: decode the text again from its source, or remove it.",
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield RequestError(
                f"{where} is {float.__repr__(value)}, which is not a number in JSON",
                "Give a finite number, or leave the field out.",
            )
    elif isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:
            yield RequestError(f"{where} is an integer of too many digits", "Send it as text.")
    else:
        yield RequestError(
            f"{where} is of type {type(value).__name__}, which JSON does not have",
            "Use text, numbers, booleans, None, lists and dicts (.item() for NumPy, .decode() for bytes).",
        )


def _joined(path: str, name: str) -> str:
    if not name.isidentifier():
        return f"{path}[{name!a}]"
    return f"{path}.{name}" if path else name
