"""What the index says of a request: its model, its prompt, its system prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["asked_model", "last_prompt", "system_prompt"]

_SYSTEM_ROLES = ("system", "developer")


def asked_model(body: Mapping[str, Any]) -> str | None:
    """The model that is asked for, or the first of ``models``; None when neither is a text."""
    models = body.get("models")
    first = models[0] if isinstance(models, list) and models else None
    for model in (body.get("model"), first):
        if isinstance(model, str):
            return model
    return None


def last_prompt(body: Mapping[str, Any]) -> str:
    """The text of the last user message, its text parts joined; empty when there is none."""
    for message in reversed(_messages(body)):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def system_prompt(body: Mapping[str, Any]) -> str | None:
    """The text of the first system (or developer) message; None when there is none."""
    for message in _messages(body):
        if message.get("role") in _SYSTEM_ROLES:
            return _text(message.get("content"))
    return None


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, (list, tuple)) else []


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in parts if isinstance(text, str))
    return ""
