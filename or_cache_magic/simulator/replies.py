"""Put a completion on the wire as one JSON object; the parts that a stream has too.

Shapes are those of OpenRouter's API reference and of recordings of real traffic, irregularities included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.tokens import split_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.behaviour import Scenario
    from or_cache_magic.simulator.billing import Bill
    from or_cache_magic.simulator.drafting import Draft
    from or_cache_magic.simulator.routing import Route

_TOKENS_A_PIECE: Final = 4
_NATIVE_REASONS: Final = {
    "OpenAI": {"stop": "completed", "length": "max_output_tokens", "tool_calls": "completed"},
    "Anthropic": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"},
    "Google AI Studio": {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"},
}
_COSTS: Final = ("cost", "cost_details", "is_byok")
_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, ready to be sent.

    Attributes:
        bill: What it costs; None when it comes from the response cache, whose usage is all zeros.
        metadata: ``openrouter_metadata``, when the request asks for it.
        debug: The body sent upstream, when a stream asks for its echo.
        files: The annotations of files that were read for it.
    """

    id: str
    created: int
    route: Route
    draft: Draft
    scenario: Scenario
    bill: Bill | None
    metadata: Mapping[str, Any] | None = None
    debug: Mapping[str, Any] | None = None
    files: tuple[dict[str, Any], ...] = ()

    def usage(self) -> dict[str, Any]:
        """The ``usage`` block."""
        if self.bill is None:
            return dict(_NO_USAGE)
        said = self.bill.usage()
        return {k: v for k, v in said.items() if k not in _COSTS} if self.scenario.costless else said

    def native_reason(self, reason: str | None) -> str | None:
        """The finish reason in the provider's own words."""
        return _NATIVE_REASONS.get(self.route.endpoint.provider, {}).get(str(reason), reason)

    def envelope(self, kind: str) -> dict[str, Any]:
        """The fields that the whole reply and every chunk begin with."""
        named = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.route.served,
            "provider": self.route.endpoint.provider,
        }
        if not self.scenario.lists_citations:
            return named
        notes = (citation(self.route, at) for at in range(self.scenario.cited))
        return named | {"citations": [note["url_citation"]["url"] for note in notes]}


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


def citation(route: Route, at: int = 0) -> dict[str, Any]:
    """An annotation of a simulated web search."""
    cited = {
        "url": f"https://example.com/simulated{f'/{at}' if at else ''}",
        "title": "A simulated search result",
        "content": "Found by the simulator, not on the web.",
        "start_index": 0,
        "end_index": 0,
    }
    return {"type": "url_citation", "url_citation": cited | {"engine": route.search}}


def notes_of(completion: Completion) -> list[dict[str, Any]]:
    """The annotations of an answer: of a web search, of files that were read."""
    count = completion.scenario.cited if completion.route.search else 0
    searched = [citation(completion.route, at) for at in range(count)]
    return [*completion.files, *searched]


def whole(completion: Completion) -> dict[str, Any]:
    """The body of a reply that is not streamed."""
    said, break_ = completion.draft, completion.scenario.interruption
    reason: str | None = None if completion.scenario.empty else said.finish_reason
    text, error = said.content, None
    if break_ is not None:
        text = "".join(pieces(said.content)[: break_.after_pieces])
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
        "content": None if said.tool_calls or said.refusal else text,
        "refusal": said.refusal or None,
        "reasoning": shown or None,
    }
    if shown:
        message["reasoning_details"] = [
            *reasoning_text(completion, shown),
            *reasoning_seal(completion),
        ]
    if said.tool_calls:
        message["tool_calls"] = [{"index": n} | call.wire() for n, call in enumerate(said.tool_calls)]
    if said.images:
        message["images"] = images(said)
    if notes := notes_of(completion):
        message["annotations"] = notes
    return message


def images(said: Draft) -> list[dict[str, Any]]:
    """The ``images`` of a message or delta."""
    return [{"type": "image_url", "image_url": {"url": url}, "index": n} for n, url in enumerate(said.images)]


def reasoning_text(completion: Completion, text: str) -> list[dict[str, Any]]:
    """The reasoning in the provider's kind of detail: OpenAI shows a summary, the others the text."""
    if completion.route.model.tokenizer == "GPT":
        return [{"type": "reasoning.summary", "summary": text, "format": None, "index": 0}]
    return [{"type": "reasoning.text", "text": text, "format": None, "index": 0}]


def reasoning_seal(completion: Completion) -> list[dict[str, Any]]:
    """What closes the reasoning: OpenAI's encrypted item, Anthropic's signature."""
    if completion.route.model.tokenizer == "GPT":
        data = f"simulated-{completion.draft.reasoning_tokens}"
        return [
            {"type": "reasoning.encrypted", "data": data, "id": "rs_simulated", "format": None, "index": 1}
        ]
    if completion.route.model.tokenizer == "Claude":
        return [{"type": "reasoning.text", "text": "", "signature": "simulated", "format": None, "index": 0}]
    return []


def pieces(text: str) -> list[str]:
    """The text as a stream delivers it, a few tokens at a time."""
    tokens = split_tokens(text)
    return ["".join(tokens[n : n + _TOKENS_A_PIECE]) for n in range(0, len(tokens), _TOKENS_A_PIECE)]
