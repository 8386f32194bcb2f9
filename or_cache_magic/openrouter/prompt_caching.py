"""Where a request is marked: after what stays the same, before the question.

The question is the last text of the last user message; before it stand the tools, the system prompt, the
attachments and the earlier turns. A mark stands on a text part and covers all that is before it: one on a
file or an image is ignored (the API reference has none there; OpenRouterTeam/ai-sdk-provider#178), and one
on an empty text is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.key import canonical_json
from or_cache_magic.core.records import Json
from or_cache_magic.core.tokens import text_tokens
from or_cache_magic.errors import OptionError

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

_GPT: Final = re.compile(r"gpt-(\d{1,2})(?:\.(\d{1,2}))?(?=-|$)")
_GPT_WITH_MARKS: Final = (5, 6)
"""From here on OpenAI charges for the writing, automatic or not, and OpenRouter hands marks on."""

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
    gpt = _GPT.match(model) if author == "openai" else None
    if gpt and (int(gpt[1]), int(gpt[2] or 0)) >= _GPT_WITH_MARKS:
        return Rules(name, 1024, (SYSTEM, ATTACHMENTS, TURNS))
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


TTLS: Final = ("5m", "1h")
"""For how long can be asked. Only Anthropic takes an hour; the others keep it as long as for ``5m``."""

_LARGE_TOKENS: Final = 256
"""What stands beside a question and is shorter is as likely to change as the question."""

_CHARACTERS: Final[Mapping[str, int]] = MappingProxyType({"image_url": 100, "file": 100, "input_audio": 500})
"""Characters of base64 to a token: a cautious guess, since only the provider can count."""

_LARGEST_IMAGE_TOKENS: Final = 1600


class Mark(NamedTuple):
    """One mark.

    Attributes:
        after: What it stands after: ``tools``, ``system prompt``, ``attachments`` or ``earlier turns``.
        tokens: About how many tokens the prompt has up to it.
    """

    after: str
    tokens: int


class Marked(NamedTuple):
    """A body as it is to be sent, and what was done to it.

    Attributes:
        body: The body with the marks; the very body that was given where there are none.
        marks: The marks in the order of the prompt; the last one's ``tokens`` are all that can be kept.
        ttl: For how long the provider keeps it: ``5m`` or ``1h``; empty where there are no marks.
        why_not: Why there are no marks, in one short phrase; empty where there are.
    """

    body: Mapping[str, Json]
    marks: tuple[Mark, ...] = ()
    ttl: str = ""
    why_not: str = ""


class _Place(NamedTuple):
    """A text part that can be marked, or a tool (message -1), and the tokens up to its end."""

    message: int
    part: int
    tokens: int


def marked(body: Mapping[str, Json], ttl: str) -> Marked:
    """Return a copy of a body whose static part is marked for the provider's prompt caching.

    There are at most four marks, as Anthropic wants it: on the last function tool, at the end of the system
    prompt, after the attachments of the first question, and after all that is before the last question. A
    text that is marked becomes a list of one text part; nothing else is another, and nothing of the body
    that was given. A body with marks of its own is left as it is: whoever sets one has decided.

    Args:
        body: The request's body.
        ttl: For how long it is to be kept, one of `TTLS`.

    Returns:
        The marks; or why there are none: the provider caches by itself or not at all, or the static part is
        shorter than what it keeps. Tokens are estimated; a mark that stands too early costs nothing.

    Raises:
        OptionError: ``ttl`` is none of `TTLS`.
    """
    if ttl not in TTLS:
        raise OptionError(f"the provider's prompt caching can't keep anything for {ttl!r}", "write 5m or 1h")
    if _has_marks(body):
        return Marked(body, why_not="the request has marks of its own")
    rules = rules_for(body)
    if isinstance(rules, str):
        return Marked(body, why_not=rules)
    places, static_tokens = _places(body, rules)
    chosen = sorted((place, after) for after, place in places.items() if place.tokens >= rules.minimum)
    if not chosen:
        return Marked(body, why_not=_why_none(rules, static_tokens))
    chosen = chosen[-1:] if rules.last_only else chosen
    kept = ttl if rules.keeps_1h else "5m"
    control = {"type": "ephemeral", **({"ttl": kept} if kept == "1h" else {})}
    marks = tuple(Mark(after, place.tokens) for place, after in chosen)
    return Marked(_with_marks(body, (place for place, _ in chosen), control), marks, kept)


def pin(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return the field by which OpenRouter sends a conversation to the provider that had its earlier turns.

    What was kept of them is there alone. OpenRouter goes by ``session_id`` from the first turn on; by the
    messages themselves only once a turn has found something kept ("Prompt caching", on sticky routing).

    Args:
        body: The request's body, without marks: the name is made of how the conversation begins, so that
            it is the same at each turn.

    Returns:
        The field; none where the body names its session itself.
    """
    if body.get("session_id") or body.get("prompt_cache_key"):
        return {}
    messages = as_list(body.get("messages"))
    opening = _first([_role(message) for message in messages], 0, {"system", "developer"})
    begins = canonical_json([body.get("model"), *messages[: opening + 1]])
    return {"session_id": f"or-cache-{sha256(begins).hexdigest()[:32]}"}


def _why_none(rules: Rules, static_tokens: int) -> str:
    if static_tokens >= rules.minimum:
        return "no text to mark stands between what is large and the question"
    needed = f"{rules.model} keeps {rules.minimum:,} or more"
    return f"about {static_tokens:,} tokens stand before the question; {needed}"


def _places(body: Mapping[str, Json], rules: Rules) -> tuple[dict[str, _Place], int]:
    """Return where marks can stand, by what they stand after; and how many tokens are before the question."""
    messages = as_list(body.get("messages"))
    roles = [_role(message) for message in messages]
    opening = _first(roles, 0, {"system", "developer"})
    reply = _first(roles, opening, {"user"})
    question = max((i for i, role in enumerate(roles) if role == "user"), default=len(roles))
    places, tokens = _tool_place(body) if TOOLS in rules.after and not _defers_tools(body) else ({}, 0)
    before_attachments = tokens
    for place in _static_parts(messages, question, tokens):
        tokens = place.tokens
        if place.part < 0 or roles[place.message] == "tool":
            continue
        if place.message < opening:
            places[SYSTEM], before_attachments = place, tokens
        elif place.message < reply and not _is_last_text(messages, place, reply - 1):
            if tokens - before_attachments >= _LARGE_TOKENS or before_attachments < rules.minimum:
                places[ATTACHMENTS] = place
        else:
            places[TURNS] = place
    return {after: place for after, place in places.items() if after in rules.after}, tokens


def _first(roles: Sequence[str], start: int, passed: set[str]) -> int:
    """Return the first message from ``start`` on that has none of these roles."""
    return next((i for i in range(start, len(roles)) if roles[i] not in passed), len(roles))


def _defers_tools(body: Mapping[str, Json]) -> bool:
    """Return whether tools are searched for: such a chain breaks when one of them is marked and was not."""
    tools = map(as_mapping, as_list(body.get("tools")))
    return bool(body.get("deferred_tools")) or any(
        as_mapping(place).get("defer_loading") for tool in tools for place in (tool, tool.get("function"))
    )


def _tool_place(body: Mapping[str, Json]) -> tuple[dict[str, _Place], int]:
    """Return the place on the last function tool, if there is one, and the tokens of all tools."""
    tools = as_list(body.get("tools"))
    if not tools:
        return {}, 0
    tokens = estimated_tokens(json.dumps(tools, default=str))
    functions = [i for i, tool in enumerate(tools) if _field(tool, "type") == "function"]
    return {TOOLS: _Place(-1, functions[-1], tokens)} if functions else {}, tokens


def _static_parts(messages: Sequence[Any], question: int, tokens: int) -> Iterator[_Place]:
    """Yield every part before the question, with the tokens up to its end; part -1 takes no mark."""
    for i, message in enumerate(messages[: question + 1]):
        parts = _parts(message)
        if i == question:
            parts = parts[: max((n for n, part in enumerate(parts) if _text(part) is not None), default=0)]
        for n, part in enumerate(parts):
            text = _text(part)
            tokens += _media_tokens(part) if text is None else estimated_tokens(text)
            yield _Place(i, n if text is not None and text.strip() else -1, tokens)


def _is_last_text(messages: Sequence[Any], place: _Place, message: int) -> bool:
    """Return whether a place is the last text of this message: the first turn's question."""
    later = _parts(messages[message])[place.part + 1 :]
    return place.message == message and all(_text(part) is None for part in later)


def _with_marks(
    body: Mapping[str, Json], places: Iterable[_Place], control: Mapping[str, str]
) -> dict[str, Json]:
    copy = dict(body)
    for message, part, _ in places:
        field, at = ("tools", part) if message < 0 else ("messages", message)
        values = copy[field] = list(copy[field])
        if field == "tools":
            values[at] = {**values[at], "cache_control": dict(control)}
        else:
            parts = _parts(values[at])
            parts[part] = {**parts[part], "cache_control": dict(control)}
            values[at] = {**values[at], "content": parts}
    return copy


def _has_marks(body: Mapping[str, Json]) -> bool:
    if body.get("cache_control") or body.get("prompt_cache_options"):
        return True
    messages = as_list(body.get("messages"))
    parts = (part for message in messages for part in _parts(message))
    items = (*messages, *parts, *as_list(body.get("tools")))
    return any(_field(item, "cache_control") or _field(item, "prompt_cache_breakpoint") for item in items)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return text_tokens(text).likely


def _media_tokens(part: Any) -> int:
    kind = str(_field(part, "type"))
    media = _field(part, kind)
    if kind not in _CHARACTERS or not isinstance(media, Mapping):
        return 0
    size = max((len(value) for value in media.values() if isinstance(value, str)), default=0)
    tokens = size // _CHARACTERS[kind]
    return min(tokens, _LARGEST_IMAGE_TOKENS) if kind == "image_url" else tokens


def _parts(message: Any) -> list[Any]:
    """Return a message's content as a list of parts: a text is one, and nothing is none."""
    content = _field(message, "content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(as_list(content))


def _text(part: Any) -> str | None:
    text = _field(part, "text") if _field(part, "type") == "text" else None
    return text if isinstance(text, str) else None


def _role(message: Any) -> str:
    return str(_field(message, "role"))


def _field(value: Any, name: str) -> Any:
    return as_mapping(value).get(name)
