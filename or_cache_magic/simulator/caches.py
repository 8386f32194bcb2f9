"""OpenRouter's response caching and the providers' prompt caching.

Two things that are easily mixed up: the first serves a whole answer again for nothing when it is asked
for in headers; the second makes the beginning of a prompt cheaper to read the next time.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.tokens import content_text, count_tokens, split_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.catalog import Model
    from or_cache_magic.simulator.replies import Completion

__all__ = ["CacheDirective", "CachedAnswer", "CachedPrefix", "PromptCache", "ResponseCache", "directive"]

_DEFAULT_TTL_S: Final = 300
_LONGEST_TTL_S: Final = 86_400
_STEP: Final = 128
_STICKY_S: Final = 600
_AUTOMATIC_TTL_S: Final = 300


@dataclass(frozen=True, slots=True)
class CacheDirective:
    """What a request wants of response caching: whether, for how long, and whether to start anew."""

    enabled: bool
    ttl_s: int = _DEFAULT_TTL_S
    clear: bool = False


def directive(headers: Mapping[str, str], preset: Mapping[str, Any]) -> CacheDirective:
    """What headers and preset come to (OpenRouter's guide "Response caching").

    A preset's ``cache_enabled: false`` beats everything, then the header, then the preset's ``true``. A
    TTL is read by its leading digits and brought into 1…86400 seconds.
    """
    asked = headers.get("x-openrouter-cache", "").strip().lower()
    enabled = preset.get("cache_enabled")
    on = enabled is not False and (asked == "true" or (enabled is True and asked != "false"))
    digits = re.match(r"\s*(\d+)", headers.get("x-openrouter-cache-ttl", ""))
    wanted = digits.group(1) if digits else preset.get("cache_ttl_seconds")
    ttl_s = _DEFAULT_TTL_S if wanted is None else min(max(int(wanted), 1), _LONGEST_TTL_S)
    return CacheDirective(
        on, ttl_s, clear=headers.get("x-openrouter-cache-clear", "").strip().lower() == "true"
    )


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer in the response cache."""

    completion: Completion
    stored_s: float
    ttl_s: int

    def age_s(self, now_s: float) -> int:
        """Whole seconds since it was stored."""
        return int(now_s - self.stored_s)


class ResponseCache:
    """Whole answers, by API key and body; property order counts, white space does not. Thread-safe."""

    def __init__(self) -> None:
        self._answers: dict[str, CachedAnswer] = {}
        self._lock = threading.Lock()

    @staticmethod
    def key(api_key: str, body: Mapping[str, Any]) -> str:
        """The key of a request; ``stream`` is a field of the body and so part of it."""
        return hashlib.sha256(f"{api_key}\n{json.dumps(body)}".encode()).hexdigest()

    def find(self, key: str, now_s: float) -> CachedAnswer | None:
        """The answer; None when there is none or its time is over."""
        with self._lock:
            found = self._answers.get(key)
            if found is not None and now_s - found.stored_s >= found.ttl_s:
                del self._answers[key]
                return None
            return found

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer in place of any other."""
        with self._lock:
            self._answers[key] = answer

    def drop(self, key: str) -> None:
        """Forget an answer."""
        with self._lock:
            self._answers.pop(key, None)


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """How much of a prompt was read from prompt caching, and written to it, in tokens."""

    cached: int = 0
    written: int = 0
    for_1h: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in a prompt: its prefix's digest and tokens, and for how long it is to be kept; 0 is not."""

    digest: bytes
    tokens: int
    ttl_s: int = 0


class PromptCache:
    """Beginnings of prompts that providers remember, and which provider has them. Thread-safe."""

    def __init__(self) -> None:
        self._expiry: dict[tuple[str, str, bytes], float] = {}
        self._pins: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def use(
        self, owner: tuple[str, str], model: Model, body: Mapping[str, Any], prompt: int, now_s: float
    ) -> CachedPrefix:
        """Read what is remembered of a prompt, and remember what is to be.

        Args:
            owner: API key and provider tag.
            model: Tells the kind of prompt caching and the shortest prefix.
            body: The request.
            prompt: The prompt's tokens; nothing longer is reported.
            now_s: The time.
        """
        if not model.prompt_caching or prompt < model.min_cached_tokens:
            return CachedPrefix()
        explicit = model.prompt_caching == "explicit"
        places = _marked_places(body, prompt) if explicit else _steps(body, model.min_cached_tokens)
        keep = [mark for mark in places if mark.ttl_s and mark.tokens >= model.min_cached_tokens]
        if not keep:
            return CachedPrefix()
        with self._lock:
            known = [m for m in places if self._expiry.get((*owner, m.digest), 0.0) > now_s]
            cached = max((mark.tokens for mark in known), default=0)
            for mark in keep:
                place = (*owner, mark.digest)
                self._expiry[place] = max(self._expiry.get(place, 0.0), now_s + mark.ttl_s)
        written = max(0, keep[-1].tokens - cached) if explicit else 0
        return CachedPrefix(min(cached, prompt), written, for_1h=keep[-1].ttl_s > _AUTOMATIC_TTL_S)

    def pin(self, api_key: str, body: Mapping[str, Any], tag: str, now_s: float) -> None:
        """Send this conversation to the same provider for ten minutes more."""
        with self._lock:
            self._pins[api_key, str(body.get("model")), _conversation(body)] = (tag, now_s + _STICKY_S)

    def pinned(self, api_key: str, body: Mapping[str, Any], now_s: float) -> str | None:
        """The provider tag that this conversation is pinned to; None when it is not."""
        with self._lock:
            tag, until = self._pins.get((api_key, str(body.get("model")), _conversation(body)), ("", 0.0))
        return tag if until > now_s else None


def _conversation(body: Mapping[str, Any]) -> str:
    """What is the same in all requests of a conversation."""
    named = body.get("session_id") or body.get("prompt_cache_key")
    if named:
        return str(named)
    messages = body["messages"]
    system = next((m for m in messages if m.get("role") in {"system", "developer"}), None)
    first = next((m for m in messages if m.get("role") not in {"system", "developer"}), None)
    return hashlib.sha256(json.dumps([system, first]).encode()).hexdigest()


def _steps(body: Mapping[str, Any], fewest: int) -> list[_Mark]:
    """Every 128 tokens of the prompt, from the shortest prefix on."""
    text = "".join(f"{m.get('role')}\x00{content_text(m.get('content'))}\x00" for m in body["messages"])
    tokens = split_tokens(text)
    digest = hashlib.sha256("".join(tokens[:fewest]).encode())
    marks = []
    for place in range(fewest, len(tokens) + 1, _STEP):
        marks.append(_Mark(digest.digest(), place, _AUTOMATIC_TTL_S))
        digest.update("".join(tokens[place : place + _STEP]).encode())
    return marks


def _marked_places(body: Mapping[str, Any], prompt: int) -> list[_Mark]:
    """The end of every content part; those with ``cache_control`` are to be kept."""
    digest = hashlib.sha256(json.dumps(body.get("tools") or []).encode())
    tokens = count_tokens(json.dumps(body["tools"])) if body.get("tools") else 0
    marks = []
    for message in body["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content_text(content)}]
        digest.update(str(message.get("role")).encode())
        for part in parts:
            bare = {key: value for key, value in part.items() if key != "cache_control"}
            digest.update(json.dumps(bare, sort_keys=True).encode())
            tokens += count_tokens(str(part.get("text", "")))
            marks.append(_Mark(digest.digest(), tokens, _ttl_s(part.get("cache_control"))))
    if body.get("cache_control") and marks:
        marks[-1] = _Mark(marks[-1].digest, min(tokens, prompt), _ttl_s(body["cache_control"]))
    return marks


def _ttl_s(control: Any) -> int:
    if not isinstance(control, dict):
        return 0
    return 3600 if control.get("ttl") == "1h" else _AUTOMATIC_TTL_S
