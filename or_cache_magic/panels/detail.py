"""One entry whole: its request, its answer, what it cost, earlier answers, and whether it is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import (
    format_duration,
    format_moment,
    format_remaining,
    format_size,
    format_usd,
)
from or_cache_magic.display.thumbnails import attached_lines, cut, shortened, thumbnails_html
from or_cache_magic.errors import StoreError
from or_cache_magic.panels.markup import answer_html, cost_text, escape, pre

if TYPE_CHECKING:
    from collections.abc import Iterator

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Answer, Entry, Request
    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.storage.entries import HistoryEntry


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
    entry, served = _served(cache, key)
    answer = None if entry is None else entry.answer
    asked = cache.store.asked(key)
    if cache.store.is_pinned(key):
        served += ", pinned"
    kept = cache.store.unserved(key)
    if kept:
        served += f", answer {cache.store.served_number(key)} of {len(kept) + 1}"
    parts = [f"<h3>{escape(key)}</h3>", _facts(row, entry, asked, served, cache.clock())]
    parts += _request(asked.body) if asked is not None else ["<h4>request</h4><p>It can't be read.</p>"]
    if answer is not None:
        parts += _answer(answer)
    parts += map(_earlier, kept)
    return "".join(parts)


def _served(cache: CompletionCache, key: str) -> tuple[Entry | None, str]:
    """The entry, and whether it is served now or why not."""
    try:
        entry = cache.store.entry(key)
    except StoreError as exc:
        return None, f"no: {exc.args[0]}"
    if entry is None:
        return None, "no: it is not stored any more"
    why = why_not_served(entry, cache.clock())
    return (
        entry,
        "yes" if why is None else f"no: {why}; the next ask buys it",
    )


def _facts(row: EntryRow, entry: Entry | None, asked: Request | None, served: str, now_s: float) -> str:
    answer = None if entry is None else entry.answer
    usage = answer.usage if answer is not None else None
    facts: dict[str, object] = {
        "served now": served,
        "model": row.model,
        "answered by": answer and answer.model,
        "provider": row.provider,
        "sample": asked and f"{asked.sample}, temperature {asked.body.get('temperature', 'not set')}",
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
        "attached": "; ".join(attached_lines(() if entry is None else entry.attached)),
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
    if isinstance(message, Mapping):
        content = message.get("content")
        texts = [content] if isinstance(content, str) else list(map(_text_of, as_list(content)))
        yield from (pre(cut(text)) for text in texts if text)
        yield thumbnails_html(message)
        message = {name: value for name, value in message.items() if name not in ("role", "content")}
        others = [part for part, text in zip(as_list(content), texts, strict=False) if not text]
        if not isinstance(content, str) and others:
            message["content"] = others
    if message:
        yield pre(_pretty(message))


def _text_of(part: Any) -> str:
    """The text of a content part that is nothing else."""
    fields = as_mapping(part)
    text = fields.get("text")
    return text if fields.keys() == {"type", "text"} and isinstance(text, str) else ""


def _answer(answer: Answer) -> Iterator[str]:
    several = len(answer.choices) > 1
    for at, choice in enumerate(answer.choices, 1):
        yield f"<h4>answer{f' {at}' if several else ''}</h4>"
        content, rest = choice.message.get("content"), dict(choice.message)
        if isinstance(content, str):
            yield answer_html(content)
            del rest["content"]
        yield thumbnails_html(choice.message)
        rest.pop("role", None)
        rest = {name: value for name, value in rest.items() if value}
        if rest:
            yield f"<details><summary>what else it holds</summary>{pre(_pretty(rest))}</details>"


def _earlier(kept: HistoryEntry) -> str:
    said = f"{format_moment(kept.at_s)}: {kept.reason} · {cost_text(kept.answer.cost)}"
    return (
        f"<details><summary>answer {kept.number}, not served, kept {escape(said, 400)}</summary>"
        f"{answer_html(kept.answer.text) if kept.answer.text else '<p>without a text</p>'}</details>"
    )


def _pretty(value: Any) -> str:
    return json.dumps(shortened(value), indent=2, ensure_ascii=False)
