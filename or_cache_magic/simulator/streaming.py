"""Put a completion on the wire as a stream of server-sent events, whole or broken off.

Shapes are those of OpenRouter's streaming reference and of recordings of real traffic, warts included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.media import audio_pieces
from or_cache_magic.simulator.replies import dumps, images, notes_of, pieces, reasoning_seal, reasoning_text
from or_cache_magic.simulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from or_cache_magic.simulator.behaviour import Interruption
    from or_cache_magic.simulator.drafting import Draft
    from or_cache_magic.simulator.replies import Completion

_COMMENT: Final = b": OPENROUTER PROCESSING\n\n"
_DONE: Final = b"data: [DONE]\n\n"


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


def frames(completion: Completion) -> Iterator[Frame]:
    """The stream: comments, chunks, the finish, the usage, the end mark; or as far as it gets."""
    writer = _Writer(completion)
    yield from (Frame(_COMMENT) for _ in range(completion.scenario.comments))
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
    yield from (Frame(_COMMENT, spoken[middle - 1].produced if middle else 0) for _ in range(count))
    yield from spoken[middle:]


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
        for note in notes_of(completion):
            yield self.delta(content="", annotations=[note])
        for call_index, call in enumerate(said.tool_calls):
            named = call.wire() | {"index": call_index, "function": {"name": call.name, "arguments": ""}}
            self._produced += count_tokens(call.name)
            yield self.delta(content=None, tool_calls=[named])
            for piece in pieces(call.arguments):
                self._produced += count_tokens(piece)
                part = {"index": call_index, "function": {"arguments": piece}}
                yield self.delta(content=None, tool_calls=[part])
        for piece in pieces(said.content):
            self._produced += count_tokens(piece)
            yield self.delta(content=piece)
        for piece in pieces(said.refusal):
            self._produced += count_tokens(piece)
            yield self.delta(content=None, refusal=piece)
        if said.images:
            self._produced += said.image_tokens
            yield self.delta(content="", images=images(said))
        if said.sound:
            yield from self._speech(said)

    def _speech(self, said: Draft) -> Iterator[Frame]:
        """The transcript ahead of the sound, and when the sound can't be named any more."""
        name = {"id": f"audio_{self._completion.id[4:]}"}
        for piece in pieces(said.spoken):
            self._produced += count_tokens(piece)
            yield self.delta(content=None, audio=name | {"transcript": piece})
        for data in audio_pieces(said.sound):
            yield self.delta(content=None, audio=name | {"data": data})
        self._produced += said.audio_tokens
        yield self.delta(content=None, audio=name | {"expires_at": self._completion.created + 3600})

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
        last = said[-1] if said else Frame(_COMMENT)
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
        for piece in pieces(said.reasoning):
            self._produced += count_tokens(piece)
            if said.reasoning_shown:
                details = reasoning_text(self._completion, piece)
                yield self.delta(content="", reasoning=piece, reasoning_details=details)
        seal = reasoning_seal(self._completion) if said.reasoning and said.reasoning_shown else []
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
