"""An answer as it arrives: reads replies off the wire, whole or as a stream, and judges if they are whole.

The raw lines are read here, not the client's parsed chunks, for four reasons: amounts of money keep
every digit, a usage block that comes with an error isn't lost, the end marker can be seen, and what
had arrived is still there when the connection breaks.
Facts: OpenRouter's API reference, "Streaming" and "Errors"; the three shapes of the last chunk as
observed on the wire.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

from or_cache_magic.core.chat import as_mapping
from or_cache_magic.core.records import UNKNOWN_COST, Answer, Choice, Cost, Usage
from or_cache_magic.core.units import decimal_usd, read_count

__all__ = [
    "MalformedReplyError",
    "ReplyReader",
    "cost_reported",
    "join_surrogates",
    "lines_of",
    "merge_delta",
    "merged_logprobs",
    "whole_message",
]

_JOINED: Final = frozenset({"content", "reasoning", "reasoning_content", "refusal"})
_EXTENDED: Final = frozenset({"annotations", "images"})
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "tool_calls": ("arguments",),
    "reasoning_details": ("text", "summary", "data"),
}
"""Lists whose parts come in fragments, and the texts in them that go on from fragment to fragment."""


def merge_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add what one chunk brings to the message so far."""
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
    """Return the log probabilities so far and those of one more chunk."""
    if not isinstance(known, dict) or not isinstance(value, dict):
        return value
    names = dict.fromkeys([*known, *value])
    return {name: [*(known.get(name) or ()), *(value.get(name) or ())] for name in names}


def whole_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as a whole reply has it, streamed or not: null fields left out but for the content."""
    whole = {"role": "assistant", "content": None, **message}
    calls = whole.get("tool_calls")
    if isinstance(calls, list):
        # "index" is how a stream's fragments find each other.
        whole["tool_calls"] = [_without_index(call) for call in calls]
        whole["content"] = whole["content"] or None
    return {name: _joined(value) for name, value in whole.items() if value is not None or name == "content"}


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


def _without_index(call: Any) -> Any:
    return {k: v for k, v in call.items() if k != "index"} if isinstance(call, dict) else call


def _joined(value: Any) -> Any:
    if isinstance(value, str):
        return join_surrogates(value)
    if isinstance(value, list):
        return [_joined(part) for part in value]
    if isinstance(value, dict):
        return {join_surrogates(name): _joined(part) for name, part in value.items()}
    return value


def _merge_parts(parts: list[dict[str, Any]], pieces: list[Any], *, joined: tuple[str, ...]) -> None:
    """Add fragments to the parts they continue: the same index and, where given, the same type."""
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


_DONE: Final = "[DONE]"


class MalformedReplyError(ValueError):
    """A reply that is no chat completion: not JSON, or not of its form."""


def _discard(_text: str) -> None:
    """Discard text that no caller shows."""


class ReplyReader:
    """Collects one reply. Not thread-safe: one reader belongs to one call.

    Args:
        on_text: Called with each piece of the first choice's text as it arrives.
        clock: Returns UTC epoch seconds.
    """

    def __init__(
        self, on_text: Callable[[str], None] = _discard, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._on_text = on_text
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget a failed attempt, all of it."""
        self._began = time.perf_counter()
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._proven = False
        self._held = ""
        self._model: str | None = None
        self._provider: str | None = None
        self._cache_hit = False
        self._source_id: str | None = None
        #: The error that the reply carries, at any level; None when it carries none.
        self.error: Mapping[str, Any] | None = None
        #: ``gen-…``; None as long as the reply has not named it.
        self.generation_id: str | None = None

    @property
    def started(self) -> bool:
        """Whether any part of an answer has arrived, so that asking again would pay twice."""
        messages = [choice["message"] for choice in self._choices.values()]
        return any(value for message in messages for name, value in message.items() if name != "role")

    @property
    def cost(self) -> Cost:
        """What the reply says that the call cost."""
        # A reply from OpenRouter's response caching reports zeros, which say nothing of its value.
        return cost_reported(None if self._cache_hit else self._usage)

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Take the generation's id and what OpenRouter's response caching did."""
        self.generation_id = headers.get("x-generation-id")
        self._cache_hit = headers.get("x-openrouter-cache-status", "").upper() == "HIT"
        self._source_id = headers.get("x-openrouter-cache-source-id")

    def read_line(self, line: str) -> bool:
        """Read one line of an event stream; True at the end marker.

        Comments (``: OPENROUTER PROCESSING``) and other fields than ``data`` are passed over (the
        Event Streams standard).

        Raises:
            MalformedReplyError: A ``data`` line that isn't a chunk of a chat completion.
        """
        if not line.startswith("data:"):
            return False
        data = line[5:].strip()
        if data == _DONE:
            self._proven = True
            return True
        with _well_formed():
            chunk = _object(data)
            self._read_common(chunk, data)
            for choice in chunk.get("choices") or ():
                self._read_choice_delta(choice)
            if isinstance(chunk.get("usage"), dict):
                # Documented as sent once, last, after the finish reason or with it.
                self._proven = self._finished and self.error is None
        self._show()
        return False

    def read_body(self, body: bytes) -> None:
        """Read a whole reply; padding before the JSON (blank lines, comments) is passed over.

        Raises:
            MalformedReplyError: It isn't a chat completion.
        """
        with _well_formed():
            text = body.decode("utf-8").strip()
            while text.startswith(":"):
                text = text.partition("\n")[2].lstrip()
            reply = _object(text)
            self._read_common(reply, text)
            for position, choice in enumerate(reply.get("choices") or ()):
                index = choice.get("index")
                message = dict(choice.get("message") or {})
                self._choices[index if isinstance(index, int) else position] = {**choice, "message": message}
            content = self._choices[min(self._choices)]["message"].get("content") if self._choices else None
        self._proven = True
        self._held = content if isinstance(content, str) else ""
        self._show()

    def answer(self) -> Answer:
        """Return the answer as far as it has arrived; `Answer.complete` says if it is proven whole."""
        return Answer(
            choices=tuple(_choice(self._choices[index]) for index in sorted(self._choices)),
            model=self._model,
            provider=self._provider,
            usage=None if self._cache_hit else _usage(self._usage),
            cost=self.cost,
            generation_id=self.generation_id,
            created_s=self._clock(),
            elapsed_s=time.perf_counter() - self._began,
            complete=self._finished and self._proven,
            error=self.error,
            response_cache_hit=self._cache_hit,
            source_generation_id=self._source_id,
            prompt_cost_usd=None if self._cache_hit else _prompt_cost_usd(self._usage),
        )

    @property
    def _finished(self) -> bool:
        choices = self._choices.values()
        return bool(choices) and all(c.get("finish_reason") is not None for c in choices)

    def _read_common(self, reply: Mapping[str, Any], text: str) -> None:
        self.error = _error_of(reply) or self.error
        self.generation_id = _str(reply.get("id")) or self.generation_id
        self._model = _str(reply.get("model")) or self._model
        self._provider = _str(reply.get("provider")) or self._provider
        if isinstance(reply.get("usage"), dict):
            self._usage = json.loads(text, parse_float=Decimal)["usage"]

    def _read_choice_delta(self, chunk: Mapping[str, Any]) -> None:
        index = chunk.get("index")
        choice = self._choices.setdefault(index if isinstance(index, int) else 0, {"message": {}})
        delta = chunk.get("delta") or {}
        merge_delta(choice["message"], delta)
        for name, value in chunk.items():
            if name not in ("delta", "index") and value is not None:
                choice[name] = merged_logprobs(choice.get(name), value) if name == "logprobs" else value
        piece = delta.get("content")
        if index in (0, None) and isinstance(piece, str):
            self._held += piece

    def _show(self) -> None:
        text, self._held = self._held, ""
        if "\ud800" <= text[-1:] <= "\udbff":  # half a character: the next piece brings the other
            text, self._held = text[:-1], text[-1]
        if text:
            self._on_text(join_surrogates(text))


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Return the lines of an event stream, without their ends.

    Lines end as the Event Streams standard has it. The client's own lines end at U+2028 and U+0085
    too, which JSON may hold as they are, so that chunks with such text would be torn.
    """
    pieces: list[bytes] = []
    for chunk in chunks:
        for part in chunk.splitlines(keepends=True):
            pieces.append(part)
            if part.endswith((b"\n", b"\r")):
                yield _line(pieces)
                pieces.clear()
    if pieces:
        yield _line(pieces)


def _line(pieces: Iterable[bytes]) -> str:
    with _well_formed():
        return b"".join(pieces).rstrip(b"\r\n").decode("utf-8")


@contextmanager
def _well_formed() -> Iterator[None]:
    """One seam for all that can be wrong with a reply: nothing in it is trusted to have its type."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as exc:
        raise MalformedReplyError(str(exc)) from exc


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _error_of(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error that a reply or chunk carries at its top or in a choice; None when there is none."""
    for part in (reply, *(reply.get("choices") or ())):
        error = part.get("error")
        if error:
            return error if isinstance(error, dict) else {"message": str(error)}
        if part.get("finish_reason") == "error":
            return {"message": "the provider failed in the middle of its answer"}
    return None


def _choice(parts: Mapping[str, Any]) -> Choice:
    error = parts.get("error")
    return Choice(
        message=whole_message(parts["message"]),
        finish_reason=_str(parts.get("finish_reason")),
        native_finish_reason=_str(parts.get("native_finish_reason")),
        error=error if isinstance(error, dict) else None,
        logprobs=parts.get("logprobs"),
    )


def _usage(block: Mapping[str, Any] | None) -> Usage | None:
    if block is None:
        return None
    prompt = as_mapping(block.get("prompt_tokens_details"))
    completion = as_mapping(block.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=read_count(block.get("prompt_tokens")),
        completion_tokens=read_count(block.get("completion_tokens")),
        cached_tokens=read_count(prompt.get("cached_tokens")),
        cache_write_tokens=read_count(prompt.get("cache_write_tokens")),
        reasoning_tokens=read_count(completion.get("reasoning_tokens")),
    )


def cost_reported(usage: Mapping[str, Any] | None) -> Cost:
    """Return what the account paid for a call according to its ``usage`` block.

    ``cost`` is what OpenRouter charged. With ``is_byok`` the provider bills
    ``cost_details.upstream_inference_cost`` to the user's own key besides, so it is added; without
    it, that amount is already inside ``cost`` and is never added
    (OpenRouter: "Usage accounting", "Bring your own keys").
    """
    if usage is None:
        return UNKNOWN_COST
    charged = decimal_usd(usage.get("cost"))
    if charged is None:
        return UNKNOWN_COST
    if usage.get("is_byok") is not True:
        return Cost(charged, "reported")
    details = usage.get("cost_details")
    upstream = decimal_usd(details.get("upstream_inference_cost")) if isinstance(details, Mapping) else None
    # With the user's own key most of the bill is the provider's: without it the total is not known.
    return UNKNOWN_COST if upstream is None else Cost(charged + upstream, "reported")


def _prompt_cost_usd(block: Mapping[str, Any] | None) -> Decimal | None:
    details = as_mapping(as_mapping(block).get("cost_details"))
    return decimal_usd(details.get("upstream_inference_prompt_cost"))


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
