"""A message that comes in fragments, put together in time that grows with its length and no faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.secrets import without
from or_cache_magic.core.units import read_count
from or_cache_magic.openrouter.wire import MalformedReplyError, join_surrogates, read_json

_TEXTS: Final[Mapping[str, frozenset[str]]] = {
    "message": frozenset({"content", "reasoning", "reasoning_content", "refusal"}),
    "audio": frozenset({"data", "transcript"}),
    "tool_calls": frozenset(),
    "function": frozenset({"name", "arguments"}),
    "custom": frozenset({"name", "input"}),
    "reasoning_details": frozenset({"text", "summary", "data", "arguments", "result"}),
}
"""By where they are, the texts that go on from fragment to fragment. Other values are given anew."""

_PARTS: Final = ("tool_calls", "reasoning_details")
_MOST_PARTS: Final = 10_000
_EXTENDED: Final = ("annotations", "images", "content")


class _Pieces(list[str]):
    """A text in pieces."""


class _Parts(list[Any]):
    """Parts in fragments, which find their part by its id, or by its index and type."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._places: dict[tuple[Any, ...], dict[str, Any]] = {}

    def extend(self, pieces: Any) -> None:
        """Add the fragments of one chunk."""
        last = self[-1] if self and self._name == "tool_calls" else None
        for piece in pieces:
            if isinstance(piece, dict):
                self._add(piece, last)
            else:
                self.append(piece)
            last = None

    def _add(self, piece: dict[str, Any], last: Any) -> None:
        """Add a fragment; one that names no part goes on with the last one before its chunk."""
        places = tuple(_places(piece))
        known = filter(None, map(self._places.get, places)) if places else (last,)
        part = next((part for part in known if isinstance(part, dict) and _agree(piece, part)), None)
        if part is not None and self._name == "tool_calls" and _begins_another(piece, part, bool(places)):
            part = None
        if part is None:
            part = {}
            self.append(part)
        merge_delta(part, piece, self._name)
        self._places.update(dict.fromkeys(_places(part), part))


def _begins_another(piece: Mapping[str, Any], part: Mapping[str, Any], placed: bool) -> bool:
    """Return whether a fragment begins another call than this part, though no id or index says so."""
    said, known = as_mapping(piece.get("function")), as_mapping(part.get("function"))
    name, named = said.get("name"), mended(known.get("name"))
    if not name or not named or (placed and (piece.get("id") or part.get("id"))):
        return False
    if name != named and not placed:
        return True
    return (name != named or _is_object(said.get("arguments"))) and _is_object(mended(known.get("arguments")))


def _is_object(arguments: Any) -> bool:
    """Return whether arguments of a call are whole: a JSON object."""
    if not isinstance(arguments, str) or not arguments.strip().endswith("}"):
        return False
    with suppress(MalformedReplyError):
        return isinstance(read_json(arguments), dict)
    return False


def _places(part: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield by what a fragment's part is known: the surest first, or nothing."""
    index, kind, name = index_of(part), part.get("type"), part.get("id")
    if isinstance(name, str) and name:
        yield index, "id", name
    if index is not None:
        if isinstance(kind, str):
            yield index, "type", kind
        yield (index,)


def index_of(part: Mapping[str, Any]) -> int | str | None:
    """Return the index of a part or a choice, however it is written; where it can't be one, its text.

    >>> [index_of({"index": value}) for value in (1, 1.0, "1", None, -1, True)]
    [1, 1, 1, None, '-1', 'True']
    """
    value = part.get("index")
    number = value if type(value) is int else read_count(value)
    if number is None or not 0 <= number < _MOST_PARTS:
        return None if value is None else repr(value)
    return number


def has_odd_index(delta: Mapping[str, Any]) -> bool:
    """Return whether a fragment of a piece of a message names a place that can't be one."""
    for name in _PARTS:
        if name in delta and any(isinstance(index_of(as_mapping(p)), str) for p in as_list(delta[name])):
            return True
    return False


def _agree(piece: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Return whether no id and no type speaks against a fragment's being of this part."""
    return all(
        not piece.get(name) or not part.get(name) or piece[name] == part[name] for name in ("id", "type")
    )


def message_of(value: Any) -> dict[str, Any]:
    """Return a reply's message, or a piece of one, with its content as a text, a list of parts, or None.

    Some servers give a text in the place of a message or of a part, a number where a text is due, and one
    part without a list.
    """
    message = {"content": value} if isinstance(value, str) else dict(value or {})
    content = message.get("content")
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        content = [
            {"type": "text", "text": text} if isinstance(text := _as_text(part), str) else part
            for part in content
        ]
    if "content" in message:
        message["content"] = _as_text(content)
    return message


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def merge_delta(into: dict[str, Any], delta: Mapping[str, Any], where: str = "message") -> None:
    """Add what one chunk brings to the message so far, or to a part of it; nothing empty overwrites."""
    for name, value in delta.items():
        known = into.get(name)
        if value is None or (known and not value and not isinstance(value, (bool, int))):
            into.setdefault(name, value)
        elif isinstance(value, str) and name in _TEXTS[where]:
            _add_text(into, name, known, value)
        elif isinstance(value, list) and where == "message" and name in (*_PARTS, *_EXTENDED):
            _add_parts(into, name, known, value)
        elif isinstance(value, dict) and (name in _TEXTS or where != "message"):
            if not isinstance(known, dict):
                known = into[name] = {}
            merge_delta(known, value, name if name in _TEXTS else where)
        else:
            into[name] = value


def _add_text(into: dict[str, Any], name: str, known: Any, value: str) -> None:
    if isinstance(known, _Pieces):
        # A name comes in pieces, or whole in every fragment.
        if name != "name" or known != [value]:
            known.append(value)
    elif isinstance(known, list):
        known.append({"type": "text", "text": value})
    else:
        into[name] = _Pieces([value])


def _add_parts(into: dict[str, Any], name: str, known: Any, value: list[Any]) -> None:
    if not isinstance(known, list) or isinstance(known, _Pieces):
        before = "".join(known) if isinstance(known, _Pieces) else ""
        into[name] = _Parts(name) if name in _PARTS else [{"type": "text", "text": before}] if before else []
    into[name].extend(value)


def extend_logprobs(choice: dict[str, Any], value: Any) -> None:
    """Add one more chunk's log probabilities to those so far."""
    known = choice.get("logprobs")
    if not isinstance(known, dict) or not isinstance(value, dict):
        choice["logprobs"] = value
        return
    for name, more in value.items():
        if not isinstance(known.get(name), list):
            known[name] = []
        known[name].extend(more if isinstance(more, list) else ())


def has_output(message: Mapping[str, Any]) -> bool:
    """Return whether any part of an answer is in a message."""
    return any(
        any(value) if isinstance(value, _Pieces) else value
        for name, value in message.items()
        if name != "role"
    )


def whole_message(message: Mapping[str, Any], secret: str = "") -> dict[str, Any]:
    """Return a message as a whole reply has it, streamed or not: null fields left out but for the content."""
    whole: dict[str, Any] = mended({"role": "assistant", "content": None, **message}, secret)
    calls = whole.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, dict):
                call.pop("index", None)  # how a stream's fragments find each other
        whole["content"] = whole["content"] or None
    return {name: value for name, value in whole.items() if value is not None or name == "content"}


def mended(value: Any, secret: str = "") -> Any:
    """Return a value with its pieces joined, all characters whole, and without the key that asked for it."""
    if isinstance(value, _Pieces):
        value = "".join(value)
    if isinstance(value, str):
        return without(join_surrogates(value), secret)
    if isinstance(value, list):
        return [mended(part, secret) for part in value]
    if isinstance(value, dict):
        return {mended(name, secret): mended(part, secret) for name, part in value.items()}
    return value
