"""One entry whole: its request, its answer, what it cost, earlier answers, and whether it is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import (
    format_duration,
    format_moment,
    format_remaining,
    format_size,
    format_usd,
)
from or_cache_magic.errors import StoreError
from or_cache_magic.panels.markup import answer_html, cost_text, escape, pre

if TYPE_CHECKING:
    from collections.abc import Iterator

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Answer
    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.storage.entries import HistoryEntry

_LONGEST_STRING: Final = 100_000
"""Characters of one string of a request; an attachment can have millions."""

_DATA_URL_SHOWN: Final = 60


def detail_html(cache: CompletionCache, key: str) -> str:
    """Returns an entry whole, as HTML.

    Args:
        cache: Where it is kept.
        key: 64 hex digits.

    Raises:
        StoreError: The file can't be read.
    """
    rows = cache.store.listing.find(EntryFilter(keys=(key,)), limit=1)
    if not rows:
        return f"<h3>{escape(key[:10])}</h3><p>This entry is not in the completion cache any more.</p>"
    (row,) = rows
    answer, served = _served(cache, key)
    parts = [f"<h3>{escape(key)}</h3>", _facts(row, answer, served, cache.clock())]
    request = cache.store.request(key)
    parts += _request(request) if request is not None else ["<h4>request</h4><p>It can't be read.</p>"]
    if answer is not None:
        parts += _answer(answer)
    parts += [_earlier(kept) for kept in cache.store.unserved(key)]
    return "".join(parts)


def _served(cache: CompletionCache, key: str) -> tuple[Answer | None, str]:
    """The answer, and whether it is served now or why not."""
    try:
        entry = cache.store.entry(key)
    except StoreError as exc:
        return None, f"no: {exc.args[0]}"
    if entry is None:
        return None, "no: it is not stored any more"
    why = why_not_served(entry, cache.clock())
    return (
        entry.answer,
        "yes" if why is None else f"no: {why}; the next ask buys it",
    )


def _facts(row: EntryRow, answer: Answer | None, served: str, now_s: float) -> str:
    usage = answer.usage if answer is not None else None
    facts: dict[str, object] = {
        "served now": served,
        "model": row.model,
        "answered by": answer and answer.model,
        "provider": row.provider,
        "cost": f"{format_usd(row.cost.usd)} ({row.cost.source})",
        "hits": f"{row.hits:,}, saved {format_usd(row.saved_usd)}",
        "last hit": row.last_hit_s and format_moment(row.last_hit_s),
        "created": format_moment(row.created_s),
        "expires": "never"
        if row.expires_s is None
        else f"{format_moment(row.expires_s)} ({format_remaining(row.expires_s, now_s)})",
        "took": answer and answer.elapsed_s and format_duration(answer.elapsed_s),
        "finished": answer and answer.finish_reason,
        "generation": answer and (answer.source_generation_id or answer.generation_id),
        "tags": ", ".join(row.tags),
        "notebook": row.notebook,
        "size": format_size(row.size_bytes),
    }
    if usage is not None:
        names = (name.replace("_", " ") for name in usage._fields)
        facts["tokens"] = ", ".join(
            f"{count:,} {name.removesuffix(' tokens')}"
            for name, count in zip(names, usage, strict=True)
            if count
        )
    told = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f'<dl class="orc-facts">{told}</dl>'


def _request(body: Mapping[str, Any]) -> Iterator[str]:
    rest = dict(body)
    messages = rest.pop("messages", None)
    for message in messages if isinstance(messages, list) else [messages]:
        yield from _message(message)
    yield f"<h4>parameters</h4>{pre(_pretty(rest))}"


def _message(message: Any) -> Iterator[str]:
    role = message.get("role") if isinstance(message, Mapping) else None
    yield f"<h4>{escape(role or 'message', 60)}</h4>"
    if isinstance(message, Mapping) and isinstance(message.get("content"), str):
        yield pre(_cut(message["content"]))
        message = {name: value for name, value in message.items() if name not in ("role", "content")}
    if message:
        yield pre(_pretty(message))


def _answer(answer: Answer) -> Iterator[str]:
    several = len(answer.choices) > 1
    for at, choice in enumerate(answer.choices, 1):
        yield f"<h4>answer{f' {at}' if several else ''}</h4>"
        content, rest = choice.message.get("content"), dict(choice.message)
        if isinstance(content, str):
            yield answer_html(content)
            del rest["content"]
        rest.pop("role", None)
        rest = {name: value for name, value in rest.items() if value}
        if rest:
            yield f"<details><summary>what else it holds</summary>{pre(_pretty(rest))}</details>"


def _earlier(kept: HistoryEntry) -> str:
    said = f"{format_moment(kept.at_s)}: {kept.reason} · {cost_text(kept.answer.cost)}"
    return (
        f"<details><summary>not served, kept {escape(said, 400)}</summary>"
        f"{answer_html(kept.answer.text) if kept.answer.text else '<p>without a text</p>'}</details>"
    )


def _pretty(value: Any) -> str:
    return json.dumps(_shortened(value), indent=2, ensure_ascii=False)


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, Mapping):
        return {name: _shortened(part) for name, part in value.items()}
    return [_shortened(part) for part in value] if isinstance(value, (list, tuple)) else value


def _cut(text: str) -> str:
    """A text that is not longer than is of use; what is left out is counted."""
    limit = _DATA_URL_SHOWN if text.startswith("data:") else _LONGEST_STRING
    rest = len(text) - limit
    return f"{text[:limit]}… ({rest:,} more characters)" if rest > 0 else text
