"""A message from the pieces in which a stream brings it: the same message that a whole reply has.

Facts: OpenRouter's API reference, "Streaming", "Tool calling", "Reasoning tokens".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["mended", "merge_delta", "merged_logprobs", "whole_message"]

_JOINED: Final = frozenset({"content", "reasoning", "reasoning_content", "refusal"})
_EXTENDED: Final = frozenset({"annotations", "images"})
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "tool_calls": ("arguments",),
    "reasoning_details": ("text", "summary", "data"),
}
"""Lists whose parts come in fragments, and the texts in them that go on from fragment to fragment."""


def merge_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Adds what one chunk brings to the message so far."""
    for name, value in delta.items():
        if value is None:
            continue
        if name in _JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name in _PARTS and isinstance(value, list):
            _merge_parts(message.setdefault(name, []), value, joined=_PARTS[name])
        elif name in _EXTENDED and isinstance(value, list):
            message.setdefault(name, []).extend(value)
        elif name == "audio" and isinstance(value, dict):
            _join_fields(message.setdefault(name, {}), value, joined=("data", "transcript"))
        else:
            message[name] = value


def merged_logprobs(known: Any, value: Any) -> Any:
    """The log probabilities so far and those of one more chunk."""
    if not isinstance(known, dict) or not isinstance(value, dict):
        return value
    names = dict.fromkeys([*known, *value])
    return {name: [*(known.get(name) or ()), *(value.get(name) or ())] for name in names}


def whole_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a whole reply has it, whichever way it came: null fields left out but for the content."""
    whole = {"role": "assistant", "content": None, **message}
    calls = whole.get("tool_calls")
    if isinstance(calls, list):
        # "index" is how a stream's fragments find each other.
        whole["tool_calls"] = [_without_index(call) for call in calls]
        whole["content"] = whole["content"] or None
    return {name: _mended(value) for name, value in whole.items() if value is not None or name == "content"}


def mended(text: str) -> str:
    r"""The text with the halves of a character that came apart joined; a lone half becomes U+FFFD.

    JSON spells a character beyond U+FFFF as two escapes, which a stream may cut apart; no file and no
    screen takes half a character.

    >>> mended("\ud83d" + "\ude00") == "\U0001f600", mended("half: \ud83d")
    (True, 'half: \ufffd')
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _without_index(call: Any) -> Any:
    return {k: v for k, v in call.items() if k != "index"} if isinstance(call, dict) else call


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [_mended(part) for part in value]
    if isinstance(value, dict):
        return {mended(name): _mended(part) for name, part in value.items()}
    return value


def _merge_parts(parts: list[dict[str, Any]], pieces: list[Any], *, joined: tuple[str, ...]) -> None:
    """Adds fragments to the parts they continue: the same index and, where given, the same type."""
    for piece in pieces:
        if not isinstance(piece, dict):
            raise TypeError("a fragment is not an object")
        for part in parts:
            if _continues(piece, part):
                _join_fields(part, piece, joined=joined)
                break
        else:
            parts.append(copy.deepcopy(piece))


def _continues(piece: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    if piece.get("index") is None or piece["index"] != part.get("index"):
        return False
    return piece.get("type") in (None, part.get("type"))


def _join_fields(part: dict[str, Any], piece: Mapping[str, Any], *, joined: tuple[str, ...]) -> None:
    for name, value in piece.items():
        if value is None:
            continue
        if isinstance(value, dict) and isinstance(part.get(name), dict):
            _join_fields(part[name], value, joined=joined)
        elif name in joined and isinstance(part.get(name), str):
            part[name] += value
        else:
            part[name] = value
