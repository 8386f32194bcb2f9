"""An answer as it arrives: reads replies off the wire, whole or as a stream, and judges if they are whole.

The raw lines are read here, not the client's parsed chunks, for four reasons: amounts of money keep
every digit, a usage block that comes with an error isn't lost, the end marker can be seen, and what
had arrived is still there when the connection breaks.
Facts: OpenRouter's API reference, "Streaming" and "Errors"; the three shapes of the last chunk as
observed on the wire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from or_cache_magic.pricing import cost_reported
from or_cache_magic.records import Answer, Choice, Usage

__all__ = ["Draft", "error_of"]

_DONE: Final = "[DONE]"
_JOINED: Final = frozenset({"content", "reasoning", "reasoning_content", "refusal"})
_OUTPUT: Final = ("content", "tool_calls", "reasoning", "reasoning_details", "images", "audio")
_EXTENDED: Final = frozenset({"annotations", "images"})


def _discard(_text: str) -> None:
    """Where text goes that nobody waits for."""


class Draft:
    """Collects one reply. Not thread-safe: one draft belongs to one call.

    Args:
        on_text: Called with each piece of the first choice's text as it arrives.
        clock: Tells UTC epoch seconds.
    """

    def __init__(
        self, on_text: Callable[[str], None] = _discard, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._on_text = on_text
        self._clock = clock
        self._began = time.perf_counter()
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._usage_is_last = False
        self._done = False
        self._whole = False
        self._model: str | None = None
        self._provider: str | None = None
        self.error: Mapping[str, Any] | None = None
        self.generation_id: str | None = None
        self._cache_hit = False
        self._source_id: str | None = None

    @property
    def started(self) -> bool:
        """Whether any part of an answer has arrived, so that asking again would pay twice."""
        return any(c["message"].get(name) for c in self._choices.values() for name in _OUTPUT)

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        content = self._choices.get(0, {}).get("message", {}).get("content")
        return content if isinstance(content, str) else ""

    def restart(self) -> None:
        """Forgets a failed attempt that brought no part of an answer."""
        self._choices.clear()
        self.error = self._usage = None

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Takes the generation's id and what OpenRouter's response caching did."""
        self.generation_id = headers.get("x-generation-id") or self.generation_id
        self._cache_hit = headers.get("x-openrouter-cache-status", "").upper() == "HIT"
        self._source_id = headers.get("x-openrouter-cache-source-id")

    def read_line(self, line: str) -> bool:
        """Reads one line of an event stream; True at the end marker.

        Comments (``: OPENROUTER PROCESSING``) and other fields than ``data`` are passed over (the
        Event Streams standard).

        Raises:
            ValueError: A ``data`` line that isn't a JSON object.
        """
        if not line.startswith("data:"):
            return False
        data = line[5:].strip()
        if data == _DONE:
            self._done = True
            return True
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is not an object")
        self._read_common(chunk, data)
        for choice in chunk.get("choices") or ():
            self._read_choice_delta(choice)
        return False

    def read_body(self, body: bytes) -> None:
        """Reads a whole reply; padding before the JSON (blank lines, comments) is passed over.

        Raises:
            ValueError: No JSON object in it.
        """
        lines = body.decode("utf-8").splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith(":")).strip()
        reply = json.loads(text)
        if not isinstance(reply, dict):
            raise ValueError("the reply is not an object")
        self._read_common(reply, text)
        for position, choice in enumerate(reply.get("choices") or ()):
            index = choice.get("index")
            self._choices[index if isinstance(index, int) else position] = {
                **choice,
                "message": choice.get("message") or {},
            }
        self._whole = True
        if self.text:
            self._on_text(self.text)

    def answer(self) -> Answer:
        """The answer as far as it has arrived; `Answer.complete` says if it is proven whole."""
        choices = tuple(_choice(self._choices[index]) for index in sorted(self._choices))
        finished = bool(choices) and all(c.finish_reason is not None for c in choices)
        proven = self._whole or self._done or self._usage_is_last
        return Answer(
            choices=choices,
            model=self._model,
            provider=self._provider,
            # A reply from OpenRouter's response cache reports zeros, which say nothing of its value.
            usage=None if self._cache_hit else _usage(self._usage),
            cost=cost_reported(None if self._cache_hit else self._usage),
            generation_id=self.generation_id,
            created_s=self._clock(),
            elapsed_s=time.perf_counter() - self._began,
            complete=finished and proven,
            error=self.error,
            response_cache_hit=self._cache_hit,
            source_generation_id=self._source_id,
        )

    def _read_common(self, reply: Mapping[str, Any], text: str) -> None:
        self.error = error_of(reply) or self.error
        self.generation_id = _str(reply.get("id")) or self.generation_id
        self._model = _str(reply.get("model")) or self._model
        self._provider = _str(reply.get("provider")) or self._provider
        if isinstance(reply.get("usage"), dict):
            self._usage = json.loads(text, parse_float=Decimal)["usage"]
            # Documented as sent once, last, after the finish reason or with it.
            self._usage_is_last = self.error is None

    def _read_choice_delta(self, chunk: Mapping[str, Any]) -> None:
        index = chunk.get("index")
        choice = self._choices.setdefault(index if isinstance(index, int) else 0, {"message": {}})
        delta = chunk.get("delta") or {}
        _merge_delta(choice["message"], delta)
        for name, value in chunk.items():
            if name not in ("delta", "index") and value is not None:
                choice[name] = _merged_logprobs(choice.get(name), value) if name == "logprobs" else value
        piece = delta.get("content")
        if index in (0, None) and isinstance(piece, str) and piece:
            self._on_text(piece)


def error_of(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The error that a reply or chunk carries at its top or in a choice; None when there is none."""
    error = reply.get("error")
    if error:
        return error if isinstance(error, dict) else {"message": str(error)}
    for choice in reply.get("choices") or ():
        inner = choice.get("error")
        if inner:
            return inner if isinstance(inner, dict) else {"message": str(inner)}
        if choice.get("finish_reason") == "error":
            return {"message": "the provider failed in the middle of its answer"}
    return None


def _merge_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if value is None:
            continue
        if name in _JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name == "tool_calls":
            _merge_by_index(message.setdefault(name, []), value, joined=("arguments",))
        elif name == "reasoning_details":
            _merge_by_index(message.setdefault(name, []), value, joined=("text", "summary", "data"))
        elif name in _EXTENDED and isinstance(value, list):
            message.setdefault(name, []).extend(value)
        elif name == "audio" and isinstance(value, dict):
            _join_fields(message.setdefault(name, {}), value, joined=("data", "transcript"))
        else:
            message[name] = value


def _merge_by_index(parts: list[dict[str, Any]], pieces: Any, *, joined: tuple[str, ...]) -> None:
    """Adds fragments to the parts they continue: the same index and, where given, the same type."""
    for piece in pieces if isinstance(pieces, list) else ():
        index, kind = piece.get("index"), piece.get("type")
        for part in parts:
            if (
                index is not None
                and part.get("index") == index
                and (kind or part.get("type")) == part.get("type")
            ):
                _join_fields(part, piece, joined=joined)
                break
        else:
            parts.append(json.loads(json.dumps(piece)))


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


def _merged_logprobs(known: Any, value: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(value, dict):
        return value
    return {
        name: [*(known.get(name) or ()), *(value.get(name) or ())] for name in dict.fromkeys([*known, *value])
    }


def _choice(parts: Mapping[str, Any]) -> Choice:
    error = parts.get("error")
    return Choice(
        message=_plain_message(parts["message"]),
        finish_reason=_str(parts.get("finish_reason")),
        native_finish_reason=_str(parts.get("native_finish_reason")),
        error=error if isinstance(error, dict) else None,
        logprobs=parts.get("logprobs"),
    )


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a non-streaming reply has it, whichever way it came."""
    plain = {"role": "assistant", "content": None, **message}
    calls = plain.get("tool_calls")
    if isinstance(calls, list):
        # "index" is how a stream's fragments find each other; a whole reply has none.
        plain["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        plain["content"] = plain["content"] or None
    return {name: value for name, value in plain.items() if value is not None or name == "content"}


def _usage(block: Mapping[str, Any] | None) -> Usage | None:
    if block is None:
        return None
    prompt = block.get("prompt_tokens_details") or {}
    completion = block.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=_count(block.get("prompt_tokens")),
        completion_tokens=_count(block.get("completion_tokens")),
        cached_tokens=_count(prompt.get("cached_tokens")),
        cache_write_tokens=_count(prompt.get("cache_write_tokens")),
        reasoning_tokens=_count(completion.get("reasoning_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
