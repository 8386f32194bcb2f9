"""Cut text into tokens, the same way every time.

No provider's tokenizer: a plain one whose pieces join to the text again and whose counts are near
enough to real ones (about four letters a token in English) for demos and exact for ledgers.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIECE: Final = re.compile(r" ?[^\W\d_]{1,8}|\d{1,3}|_+| ?[^\w\s]{1,2}|\s+")
_MESSAGE_OVERHEAD: Final = 4
_REPLY_OVERHEAD: Final = 3
ATTACHMENT_TOKENS: Final = 258
"""What an image, file, sound or video counts, whatever its size."""


def split_tokens(text: str) -> list[str]:
    """The tokens of ``text``; joined they are ``text`` again."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens ``text`` has."""
    return len(_PIECE.findall(text))


def content_text(content: Any) -> str:
    """The text of a message's ``content``: the string itself, or its text parts joined by newlines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def message_tokens(message: Mapping[str, Any]) -> int:
    """Tokens of one message; an image, file, sound or video counts a fixed number whatever its size."""
    content = message.get("content")
    attachments = 0
    if isinstance(content, list):
        attachments = sum(isinstance(part, dict) and part.get("type") != "text" for part in content)
    calls = message.get("tool_calls")
    called = count_tokens(json.dumps(calls)) if calls else 0
    text = count_tokens(content_text(content))
    return _MESSAGE_OVERHEAD + text + called + attachments * ATTACHMENT_TOKENS


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a chat request's prompt: its messages, its tools and its output schema."""
    count = sum(message_tokens(message) for message in body["messages"]) + _REPLY_OVERHEAD
    extras = [body[name] for name in ("tools", "response_format") if body.get(name)]
    return count + sum(count_tokens(json.dumps(extra)) for extra in extras)
