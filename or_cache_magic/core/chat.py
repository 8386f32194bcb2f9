"""What a chat request says: its model, its prompt, its system prompt, what of it is billed apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SYSTEM_ROLES = ("system", "developer")

MEDIA = ("audio", "images")
"""What an assistant's message has besides its content, when it was made and not only written."""

_SEARCHES = ("web_search_options", "x_search_filter")
"""Fields of a request that make it search."""

BESIDES = frozenset(
    (*MEDIA, "refusal", "tool_calls", "annotations", "reasoning", "reasoning_content", "reasoning_details")
)
"""What an assistant's message may have besides its content that a reader wants to see."""

CORRECTION = "Your answer can't be used: "
"""How the message begins that tells a model what was wrong with its answer."""

_FREE_PLUGINS = frozenset(
    {"response-healing", "context-compression", "auto-router", "auto-beta-router", "pareto-router", "armor"}
)
"""Plugins that charge nothing of their own (OpenRouter: "Plugins"; of ``armor`` as long as it is a beta)."""

FREE_ENGINES = ("cloudflare-ai", "pdf-text")
"""What reads PDFs for nothing. Where none is named and the model can't, ``mistral-ocr`` does, by the page."""


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; an empty one in the place of anything else."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> Sequence[Any]:
    """Return a JSON array; an empty one in the place of anything else."""
    return value if isinstance(value, (list, tuple)) else ()


def asked_models(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models that a request names, fallbacks too, in their order."""
    names = (body.get("model"), *as_list(body.get("models")))
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def asked_model(body: Mapping[str, Any]) -> str | None:
    """Return the model that is asked for, or the first of ``models``; None when neither is a text."""
    models = body.get("models")
    first = models[0] if isinstance(models, list) and models else None
    for model in (body.get("model"), first):
        if isinstance(model, str):
            return model
    return None


def is_embedding(body: Mapping[str, Any]) -> bool:
    """Return whether a request asks for the vector of a text, and not for a completion."""
    return "input" in body and "messages" not in body and "prompt" not in body


def messages_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a request, without what is none."""
    return [message for message in as_list(body.get("messages")) if isinstance(message, Mapping)]


def last_prompt(body: Mapping[str, Any]) -> str:
    """Return the text of the last user message, its text parts joined; empty when there is none.

    Of a request for a vector, the text that it is of.

    What only corrects an answer is passed over: the prompt stands before it.
    """
    said = ""
    for message in reversed(messages_of(body)):
        if message.get("role") == "user":
            said = _text(message.get("content"))
            if not said.startswith(CORRECTION):
                break
    return _text(body.get("input")) if is_embedding(body) else said


def system_prompt(body: Mapping[str, Any]) -> str | None:
    """Return the text of the first system (or developer) message; None when there is none."""
    for message in messages_of(body):
        if message.get("role") in _SYSTEM_ROLES:
            return _text(message.get("content"))
    return None


def has_media(message: Mapping[str, Any]) -> bool:
    """Return whether a message has more than text: images, audio, video, files, what is not known here."""
    parts = as_list(message.get("content"))
    return any(as_mapping(part).get("type") != "text" for part in parts) or any(map(message.get, MEDIA))


_INPUTS = {"image_url": "image", "input_audio": "audio", "video_url": "video", "input_video": "video"}


def inputs_of(body: Mapping[str, Any]) -> set[str]:
    """Return what a model must take besides text: ``image``, ``audio``, ``video``.

    Not files: OpenRouter reads PDFs for models that don't.
    """
    parts = [part for message in messages_of(body) for part in as_list(message.get("content"))]
    kinds = {_INPUTS.get(str(as_mapping(part).get("type")), "") for part in parts}
    return kinds - {""}


def orders_search(body: Mapping[str, Any]) -> bool:
    """Return whether a field of a request makes it search; an empty object does, with the usual options."""
    return any(body.get(name) not in (None, False) for name in _SEARCHES)


def is_online(model: str) -> bool:
    """Return whether the name of a model, in whatever case, has it search the web."""
    return ":online" in model.lower()


def plugins_of(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the plugins of a request that are not switched off: their names in small letters, and options."""
    for plugin in as_list(body.get("plugins")):
        fields = as_mapping(plugin)
        if fields.get("enabled") is not False:
            yield str(fields.get("id") if fields else plugin).strip().lower(), fields


def billed_apart(body: Mapping[str, Any], *, files: bool = True) -> str:
    """Return what a request orders that is billed besides its tokens, as a clause; empty if nothing is.

    Searches, files and tools may be billed even when no token came back, and their number is unknown. Without
    ``files`` nothing is said of reading files, whose pages may be known (`money.file_fees`).
    """
    named = (body.get("model"), *as_list(body.get("models")))
    if any(is_online(str(name)) for name in named) or orders_search(body):
        return "it may search the web, which is billed apart"
    free_files = not files
    for name, fields in plugins_of(body):
        free = as_mapping(fields.get("pdf")).get("engine") in FREE_ENGINES
        if name == "file-parser" and (free or not files):
            free_files = True
        elif name not in _FREE_PLUGINS:
            return f"the plugin {name[:40]} is billed apart"
    if not free_files and any(map(_has_file, messages_of(body))):
        return "reading its file may be billed apart, at $2 per 1,000 pages"
    # The caller runs functions; every other tool is run, and billed, by OpenRouter or the provider.
    tools = [tool.get("type") if isinstance(tool, Mapping) else tool for tool in as_list(body.get("tools"))]
    other = [kind for kind in tools if kind != "function"]
    if other or body.get("stop_server_tools_when"):
        return f"the tool {str(other[0])[:40]} is billed apart" if other else "server tools are billed apart"
    return ""


def _has_file(message: Mapping[str, Any]) -> bool:
    return any(as_mapping(part).get("type") == "file" for part in as_list(message.get("content")))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in as_list(content) if isinstance(part, Mapping))
    return "".join(text for text in parts if isinstance(text, str))
