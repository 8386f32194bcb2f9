"""The index of entries: what ``or_entry`` says of each, and how it is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import system_prompt
from or_cache_magic.core.records import Cost, Entry, EntryRow, Request
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.storage.codec import read_head
from or_cache_magic.storage.columns import ANY, COUNT, INTEGER, LABEL, MAYBE_TIME, TEXT, TIME, check_row
from or_cache_magic.storage.filters import system_id
from or_cache_magic.storage.pico import from_pico, to_pico
from or_cache_magic.storage.tags import join_tags, split_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["IDS", "ORDERS", "PUT_INDEX", "entry_row", "index_columns", "rows_sql"]

ORDERS: Final[Mapping[str, str]] = {
    "created": "e.created",
    "model": "(SELECT tag FROM Cache WHERE rowid = e.id)",
    "provider": "e.provider",
    "prompt_tokens": "e.prompt_tokens",
    "completion_tokens": "e.completion_tokens",
    "cost_usd": "e.cost",
    "hits": "e.hits",
    "saved_usd": "e.saved",
    "last_hit": "e.last_hit",
    "expires": "e.expires",
    "size_bytes": "e.size",
    "notebook": "e.notebook",
}
"""What `Catalogue.find` can order by."""

PUT_INDEX: Final = """
INSERT INTO or_entry (id, created, expires, served_model, provider, prompt_tokens, completion_tokens,
    cost, cost_source, size, tags, notebook, system)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET created = excluded.created, expires = excluded.expires,
    served_model = excluded.served_model, provider = excluded.provider,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    cost = excluded.cost, cost_source = excluded.cost_source, size = excluded.size,
    tags = excluded.tags, notebook = excluded.notebook, system = excluded.system
"""
IDS: Final = "SELECT e.id FROM or_entry e {where} ORDER BY {order} {way}, e.id {way} LIMIT ? OFFSET ?"
_ROWS: Final = """
SELECT e.id, c.key, c.tag, c.value, r.body, e.created, e.provider, e.prompt_tokens, e.completion_tokens,
    e.cost, e.cost_source, e.hits, e.saved, e.last_hit, e.expires, e.tags, e.size, e.notebook
FROM or_entry e JOIN Cache c ON c.rowid = e.id LEFT JOIN or_request r ON r.id = e.id
WHERE e.id IN ({marks})
"""

_COLUMNS: Final = (
    *(INTEGER, TEXT, TEXT, ANY, ANY, TIME, LABEL, COUNT, COUNT, COUNT),
    *(TEXT, INTEGER, INTEGER, MAYBE_TIME, MAYBE_TIME, LABEL, INTEGER, LABEL),
)


def index_columns(entry: Entry, request: Request, model: str, size_bytes: int) -> tuple[Any, ...]:
    """The parameters of `PUT_INDEX` after the id."""
    answer, usage = entry.answer, entry.answer.usage
    system = system_prompt(request.body)
    return (
        entry.created_s,
        entry.expires_s,
        answer.model if answer.model != model else None,
        answer.provider,
        usage and usage.prompt_tokens,
        usage and usage.completion_tokens,
        to_pico(answer.cost.usd),
        answer.cost.source,
        size_bytes,
        join_tags(entry.tags),
        entry.notebook or None,
        None if system is None else system_id(system),
    )


def rows_sql(count: int) -> str:
    """A SELECT of so many entries by their ids; each row begins with its id."""
    return _ROWS.format(marks=",".join("?" * count))


def entry_row(columns: Sequence[Any]) -> EntryRow | None:
    """The entry of a row of `rows_sql`, its texts cut to what a listing shows; None when it is damaged."""
    _, key, model, value, body, created_s, provider, prompt_tokens, completion_tokens, cost, *rest = columns
    cost_source, hits, saved, last_hit_s, expires_s, tags, size_bytes, notebook = rest
    try:
        check_row("an entry", _COLUMNS, columns, created_s, last_hit_s)
    except StoreCorruptError:
        return None
    return EntryRow(
        key,
        created_s,
        model,
        provider or "",
        _head(key, body),
        _head(key, value),
        prompt_tokens,
        completion_tokens,
        Cost(from_pico(cost), cost_source),
        hits,
        # Hits of an entry without a price saved an unknown amount.
        None if cost is None and not saved else from_pico(saved),
        last_hit_s,
        expires_s,
        split_tags(tags),
        size_bytes,
        notebook or "",
    )


def _head(key: str, blob: bytes | None) -> str:
    """What a listing shows of a blob; a damaged one must not hide the others."""
    try:
        return read_head(key, blob)
    except StoreCorruptError:
        return ""
