"""Which models take marks, and how short a prompt they keep (OpenRouter's guide "Prompt caching").

Matched on the model's name as it was typed. A ``~…-latest`` alias, or a model that is newer than the table,
is taken for one of the newest: a mark that stands too early is passed over and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from or_cache_magic.core.records import Json

__all__ = ["ATTACHMENTS", "SYSTEM", "TOOLS", "TURNS", "Rules", "rules_for"]

TOOLS: Final = "tools"
SYSTEM: Final = "system prompt"
ATTACHMENTS: Final = "attachments"
TURNS: Final = "earlier turns"


class Rules(NamedTuple):
    """What a provider's prompt caching takes.

    Attributes:
        model: The model as it was named.
        minimum: The shortest beginning of a prompt that is kept, in tokens.
        after: After what a mark has an effect.
        keeps_1h: Whether it can be asked to keep it for an hour.
        last_only: Whether only the last mark counts.
    """

    model: str
    minimum: int
    after: tuple[str, ...]
    keeps_1h: bool = False
    last_only: bool = False


_AT_ALIBABA: Final = frozenset(
    {
        "deepseek/deepseek-v3.2", "qwen/qwen-plus", "qwen/qwen3-coder-flash", "qwen/qwen3-coder-plus",
        "qwen/qwen3-max", "qwen/qwen3.6-plus",
    }
)  # fmt: skip
"""By name, since dated snapshots and neighbours of these take no marks."""

_AUTOMATIC: Final = frozenset({"openai", "deepseek", "x-ai", "moonshotai", "z-ai"})
_OTHER_GEMINI: Final = re.compile(r"image|tts|live|audio|embedding")

_CLAUDE_MINIMUMS: Final[Mapping[str, int]] = MappingProxyType(
    {"opus 4.5": 4096, "opus 4.6": 4096, "opus 4.7": 2048, "haiku 4.5": 4096, "sonnet 5.0": 1024}
)
"""Of those that differ from their generation ("Minimum token requirements")."""

_VERSION: Final = re.compile(r"(\d{1,2})(?:[.-](\d{1,2}))?(?![\w.])")
_NEWEST: Final = (99, 0)


def rules_for(body: Mapping[str, Json]) -> Rules | str:
    """The rules of the first model of a request that takes marks, else why the first one takes none.

    A fallback in ``models`` counts: where its marks mean nothing they are passed over.
    """
    fallbacks = body.get("models")
    names = [body.get("model"), *(fallbacks if isinstance(fallbacks, (list, tuple)) else ())]
    found = [_rules_of(name) for name in names if isinstance(name, str) and name]
    with_marks = (rules for rules in found if isinstance(rules, Rules))
    return next(with_marks, None) or next(iter(found), "the request names no model")


def _rules_of(name: str) -> Rules | str:
    base, *variants = name.partition("@preset/")[0].removeprefix("~").split(":")
    author, _, model = base.partition("/")
    if not model or author == "openrouter":
        return "the model is chosen at each call"
    if "free" in variants:
        return "nothing to save with a free model"
    if base in _AT_ALIBABA:
        return Rules(name, 1024, (SYSTEM, ATTACHMENTS, TURNS))
    if author == "anthropic" and model.startswith("claude"):
        after = (TOOLS, SYSTEM, ATTACHMENTS, TURNS)
        return Rules(name, _claude_minimum(model), after, keeps_1h=True)
    if author == "google" and model.startswith("gemini") and not _OTHER_GEMINI.search(model):
        # No mark at a conversation's moving end: it would be written anew at each turn and never read,
        # since what stands before the last mark is not looked at. Google's automatic caching serves it.
        minimum = 1024 if model.startswith("gemini-2.5-flash") else 4096
        return Rules(name, minimum, (SYSTEM, ATTACHMENTS), last_only=True)
    if author in _AUTOMATIC:
        return "automatic at this provider"
    return f"{name} takes no marks"


def _claude_minimum(model: str) -> int:
    found = _VERSION.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else _NEWEST
    family = next((word for word in model.split("-") if word.isalpha() and word != "claude"), "")
    older = 2048 if family == "haiku" else 1024
    usual = older if version < (5, 0) else 512
    return _CLAUDE_MINIMUMS.get(f"{family} {version[0]}.{version[1]}", usual)
