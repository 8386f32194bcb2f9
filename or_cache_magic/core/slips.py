"""What is nearly right in a request: names and words that OpenRouter's API knows, spelled otherwise.

Sent as they are they are paid for, and mean nothing or something else. Other names than those here pass, for
the API grows; what must hold of every message (a role, something said) is checked too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from or_cache_magic.core.secrets import looks_like_key
from or_cache_magic.errors import OptionError, RequestError, slip_of

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_SPEAKING: Final = ("system", "developer", "user", "tool")
_CACHE_MARKS: Final = ("cache_control", "prompt_cache_key", "prompt_cache_retention")
_EFFORTS: Final = ("max", "xhigh", "high", "medium", "low", "minimal", "none")
_PART: Final = "messages.content"

_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "messages": (
            *("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "prefix"),
            *("reasoning", "reasoning_content", "reasoning_details", "annotations", "audio", "images"),
            *_CACHE_MARKS,
        ),
        _PART: (
            *("type", "text", "image_url", "input_audio", "video_url", "file", "refusal"),
            *_CACHE_MARKS,
        ),
        f"{_PART}.image_url": ("url", "detail"),
        f"{_PART}.video_url": ("url",),
        f"{_PART}.input_audio": ("data", "format"),
        f"{_PART}.file": ("filename", "file_data", "file_id"),
        "messages.tool_calls": ("id", "type", "function", "index"),
        "messages.tool_calls.function": ("name", "arguments"),
        "response_format": ("type", "json_schema", "grammar"),
        "response_format.json_schema": ("name", "schema", "strict", "description"),
        "reasoning": ("effort", "max_tokens", "exclude", "enabled", "summary"),
        "provider": (
            *("order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "zdr"),
            *("quantizations", "sort", "max_price", "enforce_distillable_text", "preferred_max_latency"),
            "preferred_min_throughput",
        ),
    }
)
"""By place, the names that are known there; lists don't count in a place."""

_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        f"{_PART}.type": ("text", "image_url", "input_audio", "video_url", "file", "refusal"),
        "response_format.type": ("text", "json_object", "json_schema", "grammar", "python"),
        "reasoning.effort": _EFFORTS,
        "reasoning_effort": _EFFORTS,
        "tool_choice": ("auto", "none", "required"),
        "provider.data_collection": ("allow", "deny"),
        "provider.sort": ("price", "throughput", "latency"),
    }
)
"""By place, the words that are known there."""

_NOT_SENT: Final = "(nothing was sent)"
_MODELS: Final = "a model is named as OpenRouter spells it: openai/gpt-4o-mini"


def refuse_slips(value: Any, place: str) -> None:
    """Refuse a value that has a name or a word in it which is nearly one that the API knows there.

    Raises:
        RequestError: It has; says which is meant.
    """
    if isinstance(value, list):
        for item in value:
            refuse_slips(item, place)
    elif isinstance(value, dict):
        known = _NAMES.get(place)
        for name, item in value.items() if known else ():
            if name not in known and (meant := slip_of(name, known)):  # type: ignore[operator,arg-type]
                raise RequestError(
                    f"{place} has {name!r}, which nobody reads {_NOT_SENT}", f"did you mean {meant}?"
                )
            refuse_slips(item, f"{place}.{name}")
    elif isinstance(value, str) and value not in (words := _WORDS.get(place, ())):
        meant = slip_of(value, words)
        if meant:
            raise RequestError(f"{place} is no {value[:40]!r} {_NOT_SENT}", f"did you mean {meant}?")


def refuse_wrong_messages(messages: Any) -> None:
    """Refuse messages without a role that there is, or in which a side that must speak says nothing.

    Raises:
        RequestError: There is one; says which.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return  # refused as no messages
    refuse_slips(messages, "messages")
    for at, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            meant = slip_of(role, _ROLES) if isinstance(role, str) else ""
            said = f"no role {role[:40]!r}" if isinstance(role, str) else "no role"
            hint = f"did you mean {meant}?" if meant else f"a role is one of {', '.join(_ROLES)}"
            raise RequestError(f"messages[{at}] has {said} {_NOT_SENT}", hint)
        why = _why_wrong(message, role)
        if why:
            raise RequestError(
                f"messages[{at}].content {why} {_NOT_SENT}",
                'it takes a text, or a list of parts, each with a type: [{"type": "text", "text": "…"}]',
            )


def _why_wrong(message: Mapping[str, Any], role: str) -> str:
    content = message.get("content")
    if content is None:
        return "is missing" if role in _SPEAKING else ""
    if not isinstance(content, (str, list)):
        return f"is a {type(content).__name__}"
    if isinstance(content, list):
        if not content and role in _SPEAKING:
            return "is empty"
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
            return "has a part without a type"
    texts = [content] if isinstance(content, str) else [part.get("text") for part in content]
    silent = all(isinstance(text, str) and (not text or text.isspace()) for text in texts)
    return "is empty" if silent and role == "user" else ""


def refuse_key(body: Mapping[str, Any]) -> None:
    """Refuse a body in which an API key stands, wherever it came from.

    Raises:
        RequestError: One does; it is not shown.
    """
    if _holds_key(body):
        raise RequestError(
            f"the request holds an API key, which is never sent {_NOT_SENT}",
            "take it out, and revoke it if it stood in a file or notebook that others see",
        )


def _holds_key(value: Any) -> bool:
    if isinstance(value, str):
        return looks_like_key(value)
    if isinstance(value, Mapping):
        return any(map(_holds_key, value)) or any(map(_holds_key, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_key, value))


def wrong_model(name: Any) -> OptionError | None:
    """Return the error of a name that no model has, on any server; None where one may."""
    if not isinstance(name, str):
        return OptionError(f"a model's name is a text {_NOT_SENT}", _MODELS)
    if looks_like_key(name):
        return OptionError(f"the model's name holds an API key, which is never sent {_NOT_SENT}", _MODELS)
    url = re.fullmatch(
        r"\W*(?:https?://)?(?:www\.)?openrouter\.ai/(?:models/|api/v1/models/)?([^?#\s]*).*", name, re.DOTALL
    )
    if url:
        meant = "/".join(url[1].split("/")[:2])
        hint = f"write {meant}" if "/" in meant else _MODELS
        return OptionError(f"{name[:100]!r} is the address of a page, no model {_NOT_SENT}", hint)
    if "://" in name:
        return OptionError(f"{name[:100]!r} is an address, no model {_NOT_SENT}", _MODELS)
    strange = next(
        (char for char in name if not (char.isalnum() or "!" <= char <= "~") or char in "\"',;`<>"), ""
    )
    if not strange:
        return None
    bare = name.strip(" \t\r\n\"',;`<>")
    if "," in bare or ";" in bare:
        hint = "one model an ask; further ones, for when it fails, go into models=[…]"
    else:
        hint = f"write {bare}" if bare not in ("", name) and wrong_model(bare) is None else _MODELS
    kind = (
        "a space" if strange.isspace() else f"{strange}" if strange.isprintable() else f"U+{ord(strange):04X}"
    )
    return OptionError(f"the model's name {name[:100]!r} has {kind} in it {_NOT_SENT}", hint)
