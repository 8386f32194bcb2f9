"""Tell what is wrong with the body of a chat request, as far as the simulator reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.attachments import part_problem
from or_cache_magic.simulator.media import AUDIO_FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OBJECTS: Final = ("provider", "reasoning", "response_format", "debug", "audio")
_LISTS: Final = ("plugins", "tools", "models", "modalities")
_PROVIDER_LISTS: Final = ("order", "only", "ignore")
_HOTTEST: Final = 2


def body_problem(body: Mapping[str, Any]) -> str:
    """What is wrong with a body, in one line; empty when nothing is."""
    checks: tuple[Callable[[Mapping[str, Any]], str], ...] = (
        _messages,
        part_problem,
        _kinds,
        _tools,
        _output,
        _sound,
        _numbers,
    )
    return next((problem for check in checks if (problem := check(body))), "")


def not_batched(body: Mapping[str, Any]) -> str:
    """What of a body no batch takes, in one line; empty when it takes it."""
    if set(body.get("modalities") or ()) - {"text"}:
        return "image and audio output are not supported in batches"
    plugins = {plugin.get("id") for plugin in body.get("plugins") or ()}
    tools = {str(tool.get("type")) for tool in body.get("tools") or ()}
    if "web" in plugins or tools - {"function", "custom"} or ":online" in str(body.get("model")):
        return "OpenRouter web search and server tools are not supported in batches"
    if "data:" in json.dumps([_media(message) for message in body["messages"]]):
        return "images and files must be public URLs: base64 and data: URIs are not supported in batches"
    return ""


def _media(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [
        "data:" if part.get("type") == "input_audio" else part for part in parts if part.get("type") != "text"
    ]


def _messages(body: Mapping[str, Any]) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return 'Input required: specify "messages"'
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return "messages: every message must be an object with a role"
        content = message.get("content")
        if not isinstance(content, (str, list, type(None))):
            return "messages: content must be a string, or an array of parts"
        if isinstance(content, list) and not all(isinstance(part, dict) for part in content):
            return "messages: every content part must be an object"
    return ""


def _kinds(body: Mapping[str, Any]) -> str:
    for name in _OBJECTS:
        if not isinstance(body.get(name), (dict, type(None))):
            return f"{name}: expected an object"
    for name in _LISTS:
        if not isinstance(body.get(name), (list, type(None))):
            return f"{name}: expected an array"
    if not all(isinstance(plugin, dict) for plugin in body.get("plugins") or []):
        return "plugins: expected objects"
    if not isinstance(body.get("model"), (str, type(None))) or not _is_texts(body.get("models") or []):
        return "model and models: expected strings"
    provider = body.get("provider") or {}
    for name in _PROVIDER_LISTS:
        if not _is_texts(provider.get(name) or []):
            return f"provider.{name}: expected an array of strings"
    return ""


def _tools(body: Mapping[str, Any]) -> str:
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict):
            return "tools: expected objects"
        function = tool.get("function")
        if tool.get("type") == "function" and not (
            isinstance(function, dict) and isinstance(function.get("name"), str)
        ):
            return "tools: a function tool needs a function with a name"
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and not isinstance(choice.get("function"), (dict, type(None))):
        return "tool_choice.function: expected an object"
    return ""


def _output(body: Mapping[str, Any]) -> str:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
        return "response_format.json_schema: expected an object"
    stop = body.get("stop")
    if not (stop is None or isinstance(stop, str) or _is_texts(stop)):
        return "stop: expected a string or an array of strings"
    return ""


def _sound(body: Mapping[str, Any]) -> str:
    if "audio" not in (body.get("modalities") or ()):
        return ""
    if not body.get("stream"):
        return "Audio output requires stream: true"
    form = (body.get("audio") or {}).get("format")
    return "" if form in AUDIO_FORMATS else f"audio.format: the simulator knows {' and '.join(AUDIO_FORMATS)}"


def _numbers(body: Mapping[str, Any]) -> str:
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            return f"{name}: expected an integer of at least 1"
    temperature = body.get("temperature")
    if temperature is None:
        return ""
    known = isinstance(temperature, (int, float)) and 0 <= temperature <= _HOTTEST
    return "" if known else f"temperature: expected a number between 0 and {_HOTTEST}"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
