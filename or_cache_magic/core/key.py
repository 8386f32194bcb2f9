"""Which requests are the same: what of a request counts, and the digest of it.

Everything in the body is in the key, except what `NOT_IN_KEY` names, so that a parameter unknown
here costs a miss and never serves another request's answer. What is in is written as
RFC 8785 has it, with these readings:

* Names are sorted, except inside JSON Schemas and tool parameters, whose order the model sees.
* `1`, `1.0` and `1e0` are one number; `-0.0` is `0`; big integers stay exact; `true` is not `1`.
* Nothing is done to text: no trimming, no Unicode normalisation. Absent, null and default are three.
* Base64 media is its decoded bytes; a remote URL is its text.
* A tool call's id is the number of its first appearance, unless the request names the id elsewhere.

What has another shape than the API's is taken as it stands: at worst that is a miss.

What is hashed is a short form of that, the *skeleton*, which holds no long text. Such a text is handed back
as it is, to be hashed without ever being escaped, and a placeholder with its length in bytes stands for it.
A placeholder is a string that begins with NUL; a string of the value's own that begins with NUL is handed
back like a long one. So no value can hold what a placeholder looks like, and skeleton and texts together
tell every two values apart.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from hashlib import sha256
from itertools import repeat
from json.encoder import encode_basestring as _quote  # escapes what RFC 8785 §3.2.2.2 does, as it does
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.records import OPENROUTER_URL, RequestKey
from or_cache_magic.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from or_cache_magic.core.records import Json, Request

KEY_VERSION: Final = 1
"""Grows whenever any request's key changes; entries of older versions are re-keyed (`store.rekey`)."""

KEY_PREFIX: Final = b"orcm\0chat\0k%d\0" % KEY_VERSION
"""What every key is hashed with first."""

_TRANSPORT: Final = "how the answer travels, not what it says"
_IDENTITY: Final = "who asks, or what for; the model does not see it"
_PROMPT_CACHE: Final = "steers the provider's prompt caching: the price, not the answer"

NOT_IN_KEY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stream": f"{_TRANSPORT}; in when a response-healing plugin makes it matter",
        "stream_options": _TRANSPORT,
        "usage": _TRANSPORT,
        "debug": _TRANSPORT,
        "user": _IDENTITY,
        "session_id": _IDENTITY,
        "metadata": _IDENTITY,
        "trace": _IDENTITY,
        "safety_identifier": _IDENTITY,
        "cache_control": f"{_PROMPT_CACHE}; out of messages, content parts and tools too",
        "prompt_cache_*": f"{_PROMPT_CACHE}; out of messages, content parts and tools too",
    }
)
"""The fields of a body that are not in the key, and why.

They are out at the top level only, and the prompt-cache marks also where they stand in a message, in
one of its content parts or in an entry of ``tools``. Deeper fields of these names are in: in a JSON
Schema ``cache_control`` is a property like any other.
"""

_LEFT_OUT: Final = frozenset(NOT_IN_KEY)
_MEDIA: Final = (
    ("image_url", "url"),
    ("video_url", "url"),
    ("file", "file_data"),
    ("input_audio", "data"),
)
_TOOL_SCHEMAS: Final = ("parameters", "input_schema")
_SPACES: Final = b" \t\n\f\r"  # what a browser skips in base64 (WHATWG Infra, "forgiving-base64 decode")
_URLSAFE: Final = bytes.maketrans(b"-_", b"+/")


def request_key(request: Request) -> RequestKey:
    """Return the key of a request: two requests have the same key when one's answer may serve the other.

    Reads the request and changes nothing in it; safe on any thread.

    Returns:
        The digest, sha256 over `KEY_PREFIX`, the skeleton's length, the skeleton and the texts in the
        order of their placeholders; and the skeleton, JSON in UTF-8.

    Raises:
        RequestError: The request has no canonical form: NaN or an infinity, half of a surrogate pair,
            a name that is not text, a value that JSON does not have, or a nesting without end. It
            names the place: ``messages[1].content``.
    """
    calls: dict[str, int] = {}
    try:
        skeleton, texts = skeleton_json(_reading(request, calls))
        if calls and _named_elsewhere(calls, skeleton, texts):
            skeleton, texts = skeleton_json(_reading(request, None))
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal(_in_key(request.body), "", error) from None
    digest = sha256(b"%b%d:%b" % (KEY_PREFIX, len(skeleton), skeleton))
    for text in texts:
        digest.update(text)
    return RequestKey(digest.hexdigest(), skeleton)


def system_digest(text: str) -> str:
    """Return the 64 hex digits under which the store's index finds the entries of one system prompt.

    Raises:
        RequestError: The text holds half of a surrogate pair.
    """
    try:
        return sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise refusal(text, "the system prompt", error) from None


def _reading(request: Request, calls: dict[str, int] | None) -> dict[str, Json]:
    """What of a request counts, for `skeleton_json`; numbers tool calls in ``calls`` unless it is None."""
    body = _in_key(request.body)
    messages = body.get("messages")
    if isinstance(messages, (list, tuple)):
        body["messages"] = list(map(_message, messages, repeat(calls)))
    for field in ("tools", "functions"):
        if field in body:
            body[field] = _each(body[field], _tool)
    if "response_format" in body:
        body["response_format"] = _response_format(body["response_format"])
    whole: dict[str, Json] = {"body": body}
    base_url = request.base_url.removesuffix("/")
    if base_url != OPENROUTER_URL:
        whole["base_url"] = base_url
    if request.sample:
        whole["sample"] = request.sample
    if "plugins" in body and _heals_responses(body["plugins"]):
        whole["stream"] = request.stream
    return whole


def _in_key(body: Mapping[str, Json]) -> dict[str, Json]:
    return {
        name: value
        for name, value in body.items()
        if name not in _LEFT_OUT and not (isinstance(name, str) and name[:13] == "prompt_cache_")
    }


def _is_mark(name: str) -> bool:
    return name == "cache_control" or (isinstance(name, str) and name.startswith("prompt_cache_"))


def _unmarked(value: dict[str, Json]) -> dict[str, Json]:
    marks = [name for name in value if _is_mark(name)]
    return {name: item for name, item in value.items() if name not in marks} if marks else value


def _each(values: Json, read: Callable[[dict[str, Json]], dict[str, Json]]) -> Json:
    if not isinstance(values, (list, tuple)):
        return values
    return [read(value) if isinstance(value, dict) else value for value in values]


def _message(message: Json, calls: dict[str, int] | None) -> Json:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if len(message) == 2 and "role" in message and type(content) is str:  # noqa: PLR2004
        return message  # nearly all of them: nothing else to read
    message = _unmarked(message)
    if isinstance(content, (list, tuple)):
        message = {**message, "content": _each(content, _part)}
    if calls is None:
        return message
    if "tool_calls" in message:
        numbered = _each(message["tool_calls"], lambda call: _numbered(call, "id", calls))
        message = {**message, "tool_calls": numbered}
    return _numbered(message, "tool_call_id", calls)


def _numbered(value: dict[str, Json], field: str, calls: dict[str, int]) -> dict[str, Json]:
    name = value.get(field)
    if not isinstance(name, str):
        return value
    return {**value, field: Token(f"call{calls.setdefault(name, len(calls))}")}


def _named_elsewhere(calls: Mapping[str, int], skeleton: bytes, texts: list[bytes]) -> bool:
    """Whether an id also stands where it was not numbered: in ``reasoning_details``, in a text.

    It means something there, and numbering would lose what; such a request keeps its ids.
    """
    said = b"\0".join([skeleton, *texts])
    spellings = {form for name in calls for form in (name, json.dumps(name, ensure_ascii=False)[1:-1])}
    return any(form.encode() in said for form in spellings)


def _part(part: dict[str, Json]) -> dict[str, Json]:
    part = _unmarked(part)
    for kind, field in _MEDIA:
        media = part.get(kind)
        if isinstance(media, dict) and isinstance(media.get(field), str):
            part = {**part, kind: {**media, field: _media(media[field], bare=kind == "input_audio")}}
    return part


def _media(text: str, *, bare: bool) -> Json:
    """The bytes of a base64 ``data:`` URL, or of ``bare`` base64; the text itself where it is neither."""
    import base64  # few requests hold any
    import binascii

    header, comma, data = ("base64", ",", text) if bare else text.partition(",")
    if not comma or not (bare or (header.startswith("data:") and header.endswith(";base64"))):
        return text
    try:
        # Nearly all of it is as base64 should be, and so is read in half of the time; not by Python 3.10.
        raw = binascii.a2b_base64(data, strict_mode=True)  # type: ignore[call-arg]
        return Token(f"{header},{len(raw)}", raw)
    except (TypeError, ValueError):
        pass
    try:
        digits = data.encode("ascii").translate(_URLSAFE, _SPACES).rstrip(b"=")
        raw = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return text
    return Token(f"{header},{len(raw)}", raw)


def _tool(tool: dict[str, Json]) -> dict[str, Json]:
    tool = _with_schemas(_unmarked(tool), *_TOOL_SCHEMAS)
    function = tool.get("function")
    return {**tool, "function": _with_schemas(function, *_TOOL_SCHEMAS)} if function else tool


def _response_format(value: Json) -> Json:
    value = _with_schemas(value, "schema")
    if isinstance(value, dict) and "json_schema" in value:
        return {**value, "json_schema": _with_schemas(value["json_schema"], "schema")}
    return value


def _with_schemas(value: Json, *fields: str) -> Json:
    if not isinstance(value, dict):
        return value
    return value | {field: Ordered(value[field]) for field in fields if field in value}


def _heals_responses(plugins: Json) -> bool:
    """Whether the response-healing plugin is on; it acts only on answers that are not streamed."""
    return isinstance(plugins, (list, tuple)) and any(
        isinstance(plugin, dict)
        and plugin.get("id") == "response-healing"
        and plugin.get("enabled") is not False
        for plugin in plugins
    )


# How a value is written

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

    Nothing is left out or replaced: this is the plain form, without the readings that a request's
    fields are given. Takes what `json.dumps` takes, except names that are not text.

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


def _scalar(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return int.__repr__(value)
    # As ECMAScript writes it (RFC 8785 §3.2.2.3): the digits of `repr`, laid out otherwise.
    number = float.__float__(value)
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
