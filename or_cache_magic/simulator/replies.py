"""Put a completion on the wire: one JSON object, or a stream of server-sent events.

Shapes are those of OpenRouter's API reference and of recordings of real traffic, irregularities included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.tokens import count_tokens, split_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from or_cache_magic.simulator.behaviour import Interruption, Scenario
    from or_cache_magic.simulator.billing import Bill
    from or_cache_magic.simulator.drafting import Draft
    from or_cache_magic.simulator.routing import Route

__all__ = ["COMMENT", "Completion", "Frame", "dumps", "frames", "whole"]

COMMENT: Final = b": OPENROUTER PROCESSING\n\n"
_DONE: Final = b"data: [DONE]\n\n"
_TOKENS_A_PIECE: Final = 4
_NATIVE_REASONS: Final = {
    "OpenAI": {"stop": "completed", "length": "max_output_tokens", "tool_calls": "completed"},
    "Anthropic": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"},
    "Google AI Studio": {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"},
}
_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, ready to be sent.

    Attributes:
        bill: What it costs; None when it comes from the response cache, whose usage is all zeros.
        metadata: ``openrouter_metadata``, when the request asks for it.
        debug: The body sent upstream, when a stream asks for its echo.
    """

    id: str
    created: int
    route: Route
    draft: Draft
    scenario: Scenario
    bill: Bill | None
    metadata: Mapping[str, Any] | None = None
    debug: Mapping[str, Any] | None = None

    def usage(self) -> dict[str, Any]:
        """The ``usage`` block."""
        return dict(_NO_USAGE) if self.bill is None else self.bill.usage()

    def native_reason(self, reason: str | None) -> str | None:
        """The finish reason in the provider's own words."""
        return _NATIVE_REASONS.get(self.route.endpoint.provider, {}).get(str(reason), reason)

    def envelope(self, kind: str) -> dict[str, Any]:
        """The fields that the whole reply and every chunk begin with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.route.served,
            "provider": self.route.endpoint.provider,
        }


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes to be sent at once.

    Attributes:
        data: One event or comment.
        produced: Completion tokens that have been produced when it is sent.
        then: What follows: nothing special, the connection ``"reset"``, or silence (``"stall"``).
    """

    data: bytes
    produced: int = 0
    then: str = ""


def dumps(value: Any) -> bytes:
    """JSON bytes; a Decimal of up to 15 digits becomes a number with the same digits.

    A double holds that many digits and Python prints the shortest text that reads back the same, so
    nothing of an amount is lost and no artefact is added.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_number).encode()


def _number(value: Any) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def citation(route: Route) -> dict[str, Any]:
    """The annotation of a simulated web search."""
    cited = {
        "url": "https://example.com/simulated",
        "title": "A simulated search result",
        "content": "Found by the simulator, not on the web.",
        "start_index": 0,
        "end_index": 0,
    }
    return {"type": "url_citation", "url_citation": cited | {"engine": route.search}}


def whole(completion: Completion) -> dict[str, Any]:
    """The body of a reply that is not streamed."""
    said, break_ = completion.draft, completion.scenario.interruption
    reason: str | None = None if completion.scenario.empty else said.finish_reason
    text, error = said.content, None
    if break_ is not None:
        text = "".join(_pieces(said.content)[: break_.after_pieces])
        reason = "length" if break_.how == "token_limit" else "error"
        error = break_.error
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": None,
        "finish_reason": reason,
        "native_finish_reason": completion.native_reason(reason),
        "message": _message(completion, text),
    }
    if error is not None:
        choice["error"] = error
    body = completion.envelope("chat.completion") | {"system_fingerprint": None, "choices": [choice]}
    if completion.route.tier is not None:
        body["service_tier"] = completion.route.tier
    body["usage"] = completion.usage()
    if completion.metadata is not None:
        body["openrouter_metadata"] = completion.metadata
    return body


def _message(completion: Completion, text: str) -> dict[str, Any]:
    said = completion.draft
    shown = said.reasoning if said.reasoning_shown else ""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if said.tool_calls else text,
        "refusal": None,
        "reasoning": shown or None,
    }
    if shown:
        message["reasoning_details"] = [
            *_reasoning_text(completion, shown),
            *_reasoning_seal(completion),
        ]
    if said.tool_calls:
        message["tool_calls"] = [{"index": n} | call.wire() for n, call in enumerate(said.tool_calls)]
    if said.images:
        message["images"] = _images(said)
    if completion.route.search:
        message["annotations"] = [citation(completion.route)]
    return message


def _images(said: Draft) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}, "index": n} for n, url in enumerate(said.images)]


def _reasoning_text(completion: Completion, text: str) -> list[dict[str, Any]]:
    """The reasoning in the provider's kind of detail: OpenAI shows a summary, the others the text."""
    if completion.route.model.tokenizer == "GPT":
        return [{"type": "reasoning.summary", "summary": text, "format": None, "index": 0}]
    return [{"type": "reasoning.text", "text": text, "format": None, "index": 0}]


def _reasoning_seal(completion: Completion) -> list[dict[str, Any]]:
    """What closes the reasoning: OpenAI's encrypted item, Anthropic's signature."""
    if completion.route.model.tokenizer == "GPT":
        data = f"simulated-{completion.draft.reasoning_tokens}"
        return [
            {"type": "reasoning.encrypted", "data": data, "id": "rs_simulated", "format": None, "index": 1}
        ]
    if completion.route.model.tokenizer == "Claude":
        return [{"type": "reasoning.text", "text": "", "signature": "simulated", "format": None, "index": 0}]
    return []


def frames(completion: Completion) -> Iterator[Frame]:
    """The stream: comments, chunks, the finish, the usage, the end mark; or as far as it gets."""
    writer = _Writer(completion)
    yield from (Frame(COMMENT) for _ in range(completion.scenario.comments))
    if completion.debug is not None:
        yield writer.chunk([], debug={"echo_upstream_body": completion.debug})
    if completion.scenario.empty:
        yield Frame(_DONE)
        return
    break_ = completion.scenario.interruption
    spoken = list(writer.spoken())
    if break_ is None:
        yield from _with_comments(spoken, completion.scenario.comments // 2)
        yield from writer.ending()
    else:
        yield from writer.broken(spoken, break_)


def _with_comments(spoken: list[Frame], count: int) -> Iterator[Frame]:
    middle = len(spoken) // 2
    yield from spoken[:middle]
    yield from (Frame(COMMENT, spoken[middle - 1].produced if middle else 0) for _ in range(count))
    yield from spoken[middle:]


def _pieces(text: str) -> list[str]:
    tokens = split_tokens(text)
    return ["".join(tokens[n : n + _TOKENS_A_PIECE]) for n in range(0, len(tokens), _TOKENS_A_PIECE)]


class _Writer:
    """Writes the chunks of one stream, and counts what has been produced."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._envelope = completion.envelope("chat.completion.chunk")
        self._produced = 0

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> Frame:
        """One event."""
        return Frame(
            b"data: " + dumps(self._envelope | {"choices": choices} | more) + b"\n\n", self._produced
        )

    def delta(self, reason: str | None = None, **fields: Any) -> Frame:
        """One event with a single choice, whose delta has ``fields``."""
        return self.chunk([self._choice(reason, fields)])

    def spoken(self) -> Iterator[Frame]:
        """Everything that is said, without how it ends."""
        completion, said = self._completion, self._completion.draft
        yield from self._thoughts(said)
        if completion.route.search:
            yield self.delta(content="", annotations=[citation(completion.route)])
        for call_index, call in enumerate(said.tool_calls):
            named = call.wire() | {"index": call_index, "function": {"name": call.name, "arguments": ""}}
            self._produced += count_tokens(call.name)
            yield self.delta(content=None, tool_calls=[named])
            for piece in _pieces(call.arguments):
                self._produced += count_tokens(piece)
                part = {"index": call_index, "function": {"arguments": piece}}
                yield self.delta(content=None, tool_calls=[part])
        for piece in _pieces(said.content):
            self._produced += count_tokens(piece)
            yield self.delta(content=piece)
        if said.images:
            self._produced += said.image_tokens
            yield self.delta(content="", images=_images(said))

    def ending(self) -> Iterator[Frame]:
        """The finish reason, the usage in the scenario's shape, and the end mark."""
        reason = self._completion.draft.finish_reason
        yield self.delta(reason, content="")
        yield self._usage(reason, self._completion.usage())
        yield Frame(_DONE, self._produced)

    def broken(self, spoken: list[Frame], break_: Interruption) -> Iterator[Frame]:
        """What comes of a stream that is interrupted."""
        said = spoken[: break_.after_pieces]
        yield from said[:-1]
        self._produced = said[-1].produced if said else 0
        last = said[-1] if said else Frame(COMMENT)
        if break_.how == "stall":
            yield replace(last, then="stall")
            return
        yield last
        if break_.how == "reset":
            cut = self.delta(content="cut").data
            yield Frame(cut[: len(cut) // 2], self._produced, then="reset")
        elif break_.how == "error":
            yield self.chunk([self._choice("error", {"content": ""})], error=break_.error)
        elif break_.how == "silent":
            yield self.delta("error", content="")
            yield Frame(_DONE, self._produced)
        elif break_.how == "eof_after_finish":
            yield self.delta(self._completion.draft.finish_reason, content="")
        elif break_.how == "token_limit":
            yield self.delta("length", content="")
            yield self.delta("length", content="")
            usage = self._completion.usage() | {"cost": 0}
            yield self.chunk([self._choice(None, {"content": ""})], error=break_.error, usage=usage)
            yield Frame(_DONE, self._produced)

    def _thoughts(self, said: Draft) -> Iterator[Frame]:
        for piece in _pieces(said.reasoning):
            self._produced += count_tokens(piece)
            if said.reasoning_shown:
                details = _reasoning_text(self._completion, piece)
                yield self.delta(content="", reasoning=piece, reasoning_details=details)
        seal = _reasoning_seal(self._completion) if said.reasoning and said.reasoning_shown else []
        if seal:
            yield self.delta(content="", reasoning_details=seal)

    def _choice(self, reason: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": 0,
            "delta": {"role": "assistant"} | fields,
            "finish_reason": reason,
            "native_finish_reason": self._completion.native_reason(reason),
        }

    def _usage(self, reason: str, usage: dict[str, Any]) -> Frame:
        shape = self._completion.scenario.usage_shape
        more: dict[str, Any] = {"usage": usage}
        if shape == "c" or self._completion.route.tier is not None:
            more["service_tier"] = self._completion.route.tier
        if self._completion.metadata is not None:
            more["openrouter_metadata"] = self._completion.metadata
        if shape == "b":
            return self.chunk([], **more)
        return self.chunk([self._choice(reason if shape == "c" else None, {"content": ""})], **more)
