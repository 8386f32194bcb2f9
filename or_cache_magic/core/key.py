"""Which requests are the same: what of a request counts, and the digest of it.

Everything in the body is in the key, except what `NOT_IN_KEY` names, so that a parameter unknown
here costs a miss and never serves another request's answer. What is in is written by
`canonical` (RFC 8785), with these readings:

* Names are sorted, except inside JSON Schemas and tool parameters, whose order the model sees.
* `1`, `1.0` and `1e0` are one number; `-0.0` is `0`; big integers stay exact; `true` is not `1`.
* Nothing is done to text: no trimming, no Unicode normalisation. Absent, null and default are three.
* Base64 media is its decoded bytes; a remote URL is its text.
* A tool call's id is the number of its first appearance, unless the request names the id elsewhere.

What has another shape than the API's is taken as it stands: at worst that is a miss.
"""

from __future__ import annotations

import base64
import binascii
import json
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.canonical import Ordered, Token, canonical_json, refusal, skeleton_json
from or_cache_magic.core.records import OPENROUTER_URL, RequestKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from or_cache_magic.core.records import Json, Request

__all__ = ["KEY_PREFIX", "KEY_VERSION", "NOT_IN_KEY", "canonical_json", "request_key", "system_digest"]

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
        order of their placeholders; and the skeleton, JSON in UTF-8 (see `canonical`).

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
    if "messages" in body:
        body["messages"] = _each(body["messages"], lambda message: _message(message, calls))
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


def _message(message: dict[str, Json], calls: dict[str, int] | None) -> dict[str, Json]:
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
    header, comma, data = ("base64", ",", text) if bare else text.partition(",")
    if not comma or not (bare or (header.startswith("data:") and header.endswith(";base64"))):
        return text
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
