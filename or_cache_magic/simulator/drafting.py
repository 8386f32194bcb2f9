"""Decide what is said: the text, reasoning, tool call or image that answers a request.

A pure function of the fields of the request that bear meaning, so that streaming or not, today or
tomorrow, the same prompt is answered in the same words.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.attachments import seen_text
from or_cache_magic.simulator.filling import fill_schema, named_keys
from or_cache_magic.simulator.media import picture, speech
from or_cache_magic.simulator.text import answer_text, keywords, quoted
from or_cache_magic.simulator.tokens import content_text, count_tokens, split_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.behaviour import Scenario
    from or_cache_magic.simulator.catalog import Model

_IMAGE_TOKENS: Final = 1290
_AUDIO_TOKEN_BYTES: Final = 2400


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function tool; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """The call as it stands in a message."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """What is said in answer to one request.

    Attributes:
        content: The text; empty beside a tool call.
        reasoning: What was thought first; empty when the model does not reason.
        reasoning_shown: Whether the reasoning is sent (``reasoning.exclude``); it is paid for either way.
        images: Data URLs.
        spoken: What is said in the sound, in the place of the text.
        sound: Its bytes, in the format that was asked for.
        refusal: Why it is not answered.
        finish_reason: ``stop``, ``length``, ``tool_calls`` or what the scenario says.
    """

    content: str
    reasoning: str = ""
    reasoning_shown: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    images: tuple[str, ...] = ()
    spoken: str = ""
    sound: bytes = b""
    refusal: str = ""
    finish_reason: str = "stop"

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning, shown or not."""
        return count_tokens(self.reasoning)

    @property
    def image_tokens(self) -> int:
        """Tokens of the images."""
        return len(self.images) * _IMAGE_TOKENS

    @property
    def audio_tokens(self) -> int:
        """Tokens of the sound."""
        return -(-len(self.sound) // _AUDIO_TOKEN_BYTES)

    @property
    def completion_tokens(self) -> int:
        """All tokens that were produced."""
        called = sum(count_tokens(call.name) + count_tokens(call.arguments) for call in self.tool_calls)
        written = sum(map(count_tokens, (self.content, self.spoken, self.refusal)))
        return written + self.reasoning_tokens + self.image_tokens + self.audio_tokens + called


def fingerprint(body: Mapping[str, Any]) -> int:
    """A number for what is asked of whom: the same for key order, streaming, limits, routing and labels."""
    asked = [(message.get("role"), _unmarked(message.get("content"))) for message in body["messages"]]
    text = json.dumps([body.get("model"), body.get("seed"), asked], sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _unmarked(content: Any) -> Any:
    """Message content without its prompt-cache marks; a single text part says what its text says."""
    if not isinstance(content, list):
        return content
    if len(content) == 1 and content[0].get("type") == "text":
        return content[0].get("text")
    return [
        {k: v for k, v in part.items() if k != "cache_control"} for part in content if isinstance(part, dict)
    ]


def draft(body: Mapping[str, Any], model: Model, scenario: Scenario, repeat: int = 0) -> Draft:
    """What the model says.

    Args:
        body: A chat request that is known to be valid.
        model: The model that serves it.
        scenario: May put its own text in place, or say nothing.
        repeat: How many times the same was asked before, where a repeat is to be answered anew.
    """
    if scenario.empty:
        return Draft("")
    seed = fingerprint(body) + repeat
    reasoning = _reasoning(body, model, scenario)
    said = Draft("", reasoning, reasoning_shown=_shows_reasoning(body))
    call = None if scenario.text is not None else _tool_call(body, seed)
    if scenario.declined:
        said = replace(said, refusal=scenario.declined)
    elif call is not None:
        said = replace(said, tool_calls=(call,), finish_reason="tool_calls")
    else:
        images = tuple(picture(seed + n, scenario.picture_bytes) for n in range(_pictures(body, scenario)))
        said = replace(said, content=_content(body, scenario, seed), images=images)
        said = _limited(_stopped(said, body.get("stop")), body)
        if "audio" in (body.get("modalities") or ()):
            sound = speech(said.content, str((body.get("audio") or {}).get("format")))
            said = replace(said, content="", spoken=said.content, sound=sound)
    return replace(said, finish_reason=scenario.finish_reason or said.finish_reason)


def _pictures(body: Mapping[str, Any], scenario: Scenario) -> int:
    return scenario.pictures or int("image" in (body.get("modalities") or ()))


def prompt_text(body: Mapping[str, Any]) -> str:
    """The text of all messages, for filling in values from it."""
    return "\n".join(content_text(message.get("content")) for message in body["messages"])


def _content(body: Mapping[str, Any], scenario: Scenario, seed: int) -> str:
    if scenario.text is not None:
        text = scenario.text
        heals = any(
            p.get("id") == "response-healing" for p in body.get("plugins") or () if p.get("enabled", True)
        )
        return _healed(text) if heals and not body.get("stream") else text
    wanted = (body.get("response_format") or {}).get("type")
    if wanted == "json_schema":
        schema = body["response_format"].get("json_schema", {}).get("schema", {})
        told = any(message.get("role") == "assistant" for message in body["messages"])
        value = fill_schema(schema, _subject(body))
        return (
            _unfit(value, scenario.unfit)
            if scenario.unfit and not (told and not scenario.stubborn)
            else _json(value)
        )
    if wanted == "json_object" or _asks_for_json(prompt_text(body)):
        keys = named_keys(prompt_text(body)) or ["answer"]
        schema = {"type": "object", "properties": {key: {"type": _likely_type(key)} for key in keys}}
        return json.dumps(fill_schema(schema, _last_turn(body)), ensure_ascii=False)
    system = "\n".join(content_text(m.get("content")) for m in body["messages"] if _is_system(m))
    turns = [seen_text(m.get("content")) for m in body["messages"] if m.get("role") == "user"]
    results = [content_text(m.get("content")) for m in body["messages"][-1:] if m.get("role") == "tool"]
    if results:
        return f"The tool answered: {results[0]}"
    shown = turns != [content_text(m.get("content")) for m in body["messages"] if m.get("role") == "user"]
    return (quoted(turns) if shown else None) or answer_text(system, turns, seed)


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in {"system", "developer"}


def _last_turn(body: Mapping[str, Any]) -> str:
    turns = [content_text(m.get("content")) for m in body["messages"] if not _is_system(m)]
    return turns[-1] if turns else ""


def _subject(body: Mapping[str, Any]) -> str:
    """What an answer is about: all that the user said, since the last turn may be a correction."""
    return "\n".join(seen_text(m.get("content")) for m in body["messages"] if m.get("role") == "user")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _unfit(value: Any, how: str) -> str:
    """An answer that misses its schema in this way, or in prose where it can't miss it so."""
    name, first = next(iter(value.items()), ("", None)) if isinstance(value, dict) else ("", None)
    if how == "fenced":
        return f"Here you are:\n\n```json\n{_json(value)}\n```\n\nAnything else?"
    if how == "prose" or not name:
        return f"I would say that it is {_json(first)[:40]}, though that is simulated."
    if how == "missing":
        return _json({key: item for key, item in value.items() if key != name})
    if how == "extra":
        return _json({**value, "a_remark": "simulated"})
    return _json({**value, name: ["unknown"] if isinstance(first, str) else "unknown"})


def _asks_for_json(prompt: str) -> bool:
    return (
        re.search(r"\b(?i:reply|answer|respond|return|output|extract|as|in)\b[^.\n]{0,40}\bJSON\b", prompt)
        is not None
    )


def _likely_type(key: str) -> str:
    return (
        "integer" if re.search(r"year|count|age|number|score|rating|price|total", key.lower()) else "string"
    )


def _healed(text: str) -> str:
    """JSON with its trailing comma removed and its brackets closed (the response-healing plugin)."""
    closing = [{"{": "}", "[": "]"}[sign] for sign in re.findall(r"[{\[]", text)]
    for sign in re.findall(r"[}\]]", text):
        closing.remove(sign)
    return text.rstrip().rstrip(",") + "".join(reversed(closing))


def _reasoning(body: Mapping[str, Any], model: Model, scenario: Scenario) -> str:
    asked = body.get("reasoning") or {}
    effort = asked.get("effort") or body.get("reasoning_effort")
    off = asked.get("enabled") is False or effort == "none"
    wanted = scenario.reasoning or model.reasoning == "mandatory" or (bool(asked or effort) and not off)
    if not wanted or not (model.reasoning or scenario.reasoning):
        return ""
    topics = ", ".join(keywords(_last_turn(body), 3)) or "the question"
    return (
        f"The question is about {topics}. "
        "First I look at what is given, then at what is asked, and then I put the answer in a few words."
    )


def _shows_reasoning(body: Mapping[str, Any]) -> bool:
    return not (body.get("reasoning") or {}).get("exclude") and body.get("include_reasoning") is not False


def _tool_call(body: Mapping[str, Any], seed: int) -> ToolCall | None:
    choice = body.get("tool_choice", "auto")
    tools = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    if not tools or choice == "none" or body["messages"][-1].get("role") == "tool":
        return None
    prompt = _last_turn(body)
    if isinstance(choice, dict):
        wanted = (choice.get("function") or {}).get("name")
        tools = [tool for tool in tools if tool["name"] == wanted]
    elif choice != "required":
        tools = [tool for tool in tools if _concerns(tool, prompt)]
    if not tools:
        return None
    arguments = json.dumps(fill_schema(tools[0].get("parameters", {}), prompt), ensure_ascii=False)
    return ToolCall(f"call_{seed % 16**12:012x}", tools[0]["name"], arguments)


def _concerns(tool: Mapping[str, Any], prompt: str) -> bool:
    """Whether the prompt has one of the words of the tool's name or description."""
    words = re.split(r"[\W_]+", f"{tool['name']} {tool.get('description', '')}")
    asked = {word.lower() for word in keywords(prompt, 50)}
    return any(word.lower() in asked for word in words)


def _stopped(said: Draft, stop: Any) -> Draft:
    stops = [stop] if isinstance(stop, str) else stop or []
    places = [place for one in stops if one and (place := said.content.find(one)) >= 0]
    return replace(said, content=said.content[: min(places)]) if places else said


def _limited(said: Draft, body: Mapping[str, Any]) -> Draft:
    """The draft cut at the request's token limit, which counts the reasoning too."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is None or said.completion_tokens <= limit:
        return said
    thought = split_tokens(said.reasoning)[:limit]
    text = split_tokens(said.content)[: max(0, limit - len(thought))]
    return replace(said, reasoning="".join(thought), content="".join(text), images=(), finish_reason="length")
