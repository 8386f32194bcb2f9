"""The providers' prompt caching: the beginning of a prompt that was there before costs less to read.

As OpenRouter's guide "Prompt caching" and the providers have it: by itself in steps of 128 tokens (OpenAI,
DeepSeek, Gemini), or up to a mark in the request (Anthropic, Alibaba, Gemini too). What is kept is told
here; what reading and writing it costs is told by the catalog's prices.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.simulator.tokens import ATTACHMENT_TOKENS, content_text, count_tokens, split_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from or_cache_magic.simulator.catalog import Model

_STEP: Final = 128
_STICKY_S: Final = 600
_TTL_S: Final = 300
_LONG_TTL_S: Final = 3600
_MARKS: Final = ("cache_control", "prompt_cache_breakpoint")
_MOST_MARKS: Final = 4
_LOOKBACK: Final = 20
"""How many blocks, from a mark backward, are looked at for what is kept."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """How much of a prompt was read from prompt caching, and written to it, in tokens.

    ``written_1h`` is the part of ``written`` that is kept for an hour.
    """

    cached: int = 0
    written: int = 0
    written_1h: int = 0


@dataclass(frozen=True, slots=True)
class _Block:
    """The prompt up to here: its digest and tokens, and for how long a mark wants it kept; 0 is no mark.

    ``text`` is what the block says; None is none that could be marked.
    """

    digest: bytes
    tokens: int
    ttl_s: int = 0
    text: str | None = None


class _Kept(NamedTuple):
    expires_s: float
    ttl_s: int


class PromptCache:
    """Beginnings of prompts that providers remember, and which provider has them. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, bytes], _Kept] = {}
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
        takes_marks = model.prompt_caching != "automatic"
        blocks = _blocks(body, of_claude=model.tokenizer == "Claude") if takes_marks else []
        with self._lock:
            if any(block.ttl_s for block in blocks):
                used = self._up_to_marks(owner, model, blocks, now_s)
            elif model.prompt_caching == "explicit":
                return CachedPrefix()
            else:
                used = self._by_itself(owner, model, body, now_s)
        return replace(used, cached=min(used.cached, prompt), written=min(used.written, prompt - used.cached))

    def _by_itself(
        self, owner: tuple[str, str], model: Model, body: Mapping[str, Any], now_s: float
    ) -> CachedPrefix:
        steps = _steps(body, model.min_cached_tokens)
        cached = max((step.tokens for step in steps if self._has(owner, step, now_s)), default=0)
        for step in steps:
            self._keep(owner, step, _TTL_S, now_s)
        charged = bool(steps) and model.prompt_caching == "automatic" and model.charges_writes
        return CachedPrefix(cached, steps[-1].tokens - cached if charged else 0)

    def _up_to_marks(
        self, owner: tuple[str, str], model: Model, blocks: Sequence[_Block], now_s: float
    ) -> CachedPrefix:
        """Read the longest beginning that a mark leads to, and keep what the marks say."""
        single = model.prompt_caching == "both"  # Gemini: one mark counts, and what it keeps is not prolonged
        ends = [i for i, block in enumerate(blocks) if block.ttl_s]
        ends = ends[-1:] if single else ends[-_MOST_MARKS:]
        back = 1 if single else _LOOKBACK
        seen = {i for end in ends for i in range(max(0, end + 1 - back), end + 1)}
        read = max((i for i in seen if self._has(owner, blocks[i], now_s)), default=None)
        cached = 0 if read is None else blocks[read].tokens
        if read is not None and not single:
            place = (*owner, blocks[read].digest)
            self._keep(owner, blocks[read], self._kept[place].ttl_s, now_s)
        new = [blocks[i] for i in ends if blocks[i].tokens >= model.min_cached_tokens]
        for block in new:
            if not (single and self._has(owner, block, now_s)):
                self._keep(owner, block, block.ttl_s if model.keeps_1h else _TTL_S, now_s)
        written = max((block.tokens for block in new), default=cached) - cached
        long = [block.tokens for block in new if block.ttl_s > _TTL_S] if model.keeps_1h else []
        return CachedPrefix(cached, max(0, written), max(0, max(long, default=cached) - cached))

    def _has(self, owner: tuple[str, str], block: _Block, now_s: float) -> bool:
        kept = self._kept.get((*owner, block.digest))
        return kept is not None and kept.expires_s > now_s

    def _keep(self, owner: tuple[str, str], block: _Block, ttl_s: int, now_s: float) -> None:
        """Keep a beginning for this long from now on, or as long as it is kept anyway."""
        place = (*owner, block.digest)
        before = self._kept.get(place, _Kept(0.0, ttl_s))
        if before.expires_s < now_s + ttl_s:
            self._kept[place] = _Kept(now_s + ttl_s, ttl_s)

    def pin(self, api_key: str, body: Mapping[str, Any], tag: str, now_s: float) -> None:
        """Send this conversation to the same provider for ten minutes more."""
        with self._lock:
            self._pins[api_key, str(body.get("model")), _conversation(body)] = (tag, now_s + _STICKY_S)

    def pinned(self, api_key: str, body: Mapping[str, Any], now_s: float) -> str | None:
        """The provider tag that this conversation is pinned to; None when it is not."""
        with self._lock:
            tag, until = self._pins.get((api_key, str(body.get("model")), _conversation(body)), ("", 0.0))
        return tag if until > now_s else None


def marks_problem(body: Mapping[str, Any]) -> str:
    """What Anthropic refuses in a request's marks, in its words; empty when it is nothing."""
    marked = [block for block in _blocks(body, of_claude=True) if block.ttl_s]
    if len(marked) > _MOST_MARKS:
        return f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marked)}."
    if any(block.text == "" for block in marked):
        return "cache_control cannot be set for empty text blocks"
    ttls = [block.ttl_s for block in marked]
    if ttls != sorted(ttls, reverse=True):
        return "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
    return ""


def _conversation(body: Mapping[str, Any]) -> str:
    """What is the same in all requests of a conversation."""
    named = body.get("session_id") or body.get("prompt_cache_key")
    if named:
        return str(named)
    messages = body["messages"]
    system = next((m for m in messages if m.get("role") in {"system", "developer"}), None)
    first = next((m for m in messages if m.get("role") not in {"system", "developer"}), None)
    return hashlib.sha256(json.dumps([system, first]).encode()).hexdigest()


def _steps(body: Mapping[str, Any], fewest: int) -> list[_Block]:
    """Every 128 tokens of the prompt, from the shortest prefix on."""
    text = "".join(f"{m.get('role')}\x00{content_text(m.get('content'))}\x00" for m in body["messages"])
    tokens = split_tokens(text)
    digest = hashlib.sha256("".join(tokens[:fewest]).encode())
    steps = []
    for place in range(fewest, len(tokens) + 1, _STEP):
        steps.append(_Block(digest.digest(), place))
        digest.update("".join(tokens[place : place + _STEP]).encode())
    return steps


def _blocks(body: Mapping[str, Any], *, of_claude: bool) -> list[_Block]:
    """The prompt's blocks in order: each tool, then each content part; a string is one part.

    Only Anthropic reads marks on tools and on the whole body; those on files and images nobody reads.
    """
    digest, tokens, blocks = hashlib.sha256(), 0, []
    for tool in body.get("tools") or []:
        said = json.dumps(_bare(tool))
        digest.update(said.encode())
        tokens += count_tokens(said)
        blocks.append(_Block(digest.digest(), tokens, _ttl_s(tool) if of_claude else 0))
    for message in body["messages"]:
        digest.update(str(message.get("role")).encode())
        for part in _parts(message):
            digest.update(json.dumps(_bare(part), sort_keys=True).encode())
            text = str(part.get("text", "")) if part.get("type") == "text" else None
            tokens += ATTACHMENT_TOKENS if text is None else count_tokens(text)
            blocks.append(_Block(digest.digest(), tokens, 0 if text is None else _ttl_s(part), text))
        if message.get("tool_calls"):
            called = json.dumps(message["tool_calls"])
            digest.update(called.encode())
            tokens += count_tokens(called)
    if body.get("cache_control") and blocks and of_claude:
        blocks[-1] = replace(blocks[-1], ttl_s=_ttl_s(body))
    return blocks


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": content_text(content)}]


def _bare(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in _MARKS}


def _ttl_s(value: Mapping[str, Any]) -> int:
    """For how long a mark wants its block kept; 0 without one. OpenAI's kind of mark means five minutes."""
    control = value.get("cache_control")
    if not isinstance(control, dict):
        return _TTL_S if value.get("prompt_cache_breakpoint") else 0
    return _LONG_TTL_S if control.get("ttl") == "1h" else _TTL_S
