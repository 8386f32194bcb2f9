"""The stored answers as a table: its columns, their values, and how each is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import (
    NOTHING,
    format_dollars,
    format_exact,
    format_length,
    format_moment,
    format_size,
    format_source,
    format_time,
    format_tokens,
)
from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Cell, Column, Head, Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from or_cache_magic.core.records import EntryRow

__all__ = ["ENTRY_TYPES", "entries_table", "entry_values"]

ENTRY_TYPES: Final = {
    "key": "str",
    "created": "datetime64[ns, UTC]",
    "model": "str",
    "provider": "str",
    "prompt": "str",
    "answer": "str",
    "prompt_tokens": "Int64",
    "completion_tokens": "Int64",
    "cost_usd": "float64",
    "cost_source": "str",
    "hits": "int64",
    "saved_usd": "float64",
    "last_hit": "datetime64[ns, UTC]",
    "ttl_s": "float64",
    "tags": "str",
    "size_bytes": "int64",
    "notebook": "str",
}
"""The columns, in their order, and their types in a DataFrame."""

_KEY_WIDTH: Final = 10
_NAME_WIDTH: Final = 60
_SHORT_MODEL_WIDTH: Final = 18
_TITLE_WIDTH: Final = 200
_WHOLE: Final = 1000
"""More than any prompt or answer in the table has."""

_YEAR_9999_S: Final = 253_370_764_800


def entry_values(row: EntryRow) -> dict[str, Any]:
    """Return the values of a stored answer by column."""
    return {
        "key": row.key,
        "created": row.created_s,
        "model": row.model,
        "provider": row.provider,
        "prompt": row.prompt,
        "answer": row.answer,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_usd": _number(row.cost.usd),
        "cost_source": row.cost.source,
        "hits": row.hits,
        "saved_usd": _number(row.saved_usd),
        "last_hit": row.last_hit_s,
        "ttl_s": None if row.expires_s is None else row.expires_s - row.created_s,
        "tags": ", ".join(row.tags),
        "size_bytes": row.size_bytes,
        "notebook": row.notebook,
    }


def entries_table(
    rows: Iterable[Row],
    *,
    now_s: float,
    width: int | None = None,
    notes: Sequence[str] = (),
    cut_at: int = 0,
    left_out: int = 0,
) -> Table:
    """Return the table of stored answers.

    Args:
        rows: The rows that are shown; see `entry_values`.
        now_s: UTC epoch seconds, for what is expired.
        width: Characters of prompt and answer that are shown; None is all that there are.
        notes: Lines below them.
        cut_at: Before which row others are left out.
        left_out: How many.
    """
    columns = _columns(now_s, width or _WHOLE)
    table = Table(
        heads=[head for head, _ in columns],
        rows=[[cell(row) for _, cell in columns] for row in rows],
        notes=notes,
        nothing="no entries",
        cut_at=cut_at,
        left_out=left_out,
        narrow=("key", "created", "model", "cost", "hits", "prompt"),
        wide="prompt",
    )
    return table.pick([head.name for at, head in enumerate(table.heads) if _says_something(table, at)])


def _says_something(table: Table, at: int) -> bool:
    """Whether a column is worth its room: often nothing has a label, and all were asked in one notebook."""
    name, texts = table.heads[at].name, {row[at].text for row in table.rows}
    if name == "notebook":
        return len(texts) > 1
    return name not in ("ttl", "tags") or not texts <= {"", NOTHING}


def _columns(now_s: float, width: int) -> Sequence[Column]:
    return (
        (
            Head("key", "key: its first digits are enough for the magics", left=True),
            lambda row: Cell(row["key"][:_KEY_WIDTH], row["key"]),
        ),
        (
            Head("created", "created: when it was stored, local time (UTC in the DataFrame)", left=True),
            lambda row: Cell(format_time(row["created"], now_s), format_moment(row["created"])),
        ),
        (Head("model", "model: that was asked for", left=True), _model),
        (
            Head("prompt", "prompt: how the last message of the user begins", left=True),
            lambda row: Cell(one_line(row["prompt"], width), one_line(row["prompt"], _TITLE_WIDTH)),
        ),
        (
            Head("answer", "answer: how it begins", left=True),
            lambda row: Cell(one_line(row["answer"], width), one_line(row["answer"], _TITLE_WIDTH)),
        ),
        (
            Head("tokens", "prompt_tokens → completion_tokens"),
            lambda row: Cell(format_tokens(row["prompt_tokens"], row["completion_tokens"])),
        ),
        (Head("cost", "cost_usd: what buying it cost; cost_source where the reply did not say it"), _cost),
        (Head("hits", "hits: how often it was served instead of a call"), _hits),
        (
            Head("saved", "saved_usd: what these hits would have cost"),
            lambda row: Cell(
                format_dollars(row["saved_usd"]) if row["hits"] else NOTHING, format_exact(row["saved_usd"])
            ),
        ),
        (
            Head("ttl", "ttl_s: how long it is served; - never expires"),
            lambda row: _ttl(row["created"], row["ttl_s"], now_s),
        ),
        (
            Head("tags", "tags: its labels", left=True),
            lambda row: Cell(one_line(row["tags"], _NAME_WIDTH), row["tags"]),
        ),
        (
            Head("size", "size_bytes: of the entry and its request, as stored"),
            lambda row: Cell(format_size(row["size_bytes"]), f"{row['size_bytes']:,} bytes"),
        ),
        (
            Head("notebook", "notebook: where it was asked from", left=True),
            lambda row: Cell(one_line(row["notebook"], _NAME_WIDTH), row["notebook"]),
        ),
    )


def _model(row: Row) -> Cell:
    model, provider = row["model"], row["provider"]
    short = one_line(model.rpartition("/")[2], _SHORT_MODEL_WIDTH)
    return Cell(one_line(model, _NAME_WIDTH), f"{model}, served by {provider}" if provider else model, short)


def _cost(row: Row) -> Cell:
    usd, source = row["cost_usd"], row["cost_source"]
    shown = f"{format_dollars(usd)} {'' if usd is None else format_source(source)}".rstrip()
    return Cell(shown, f"{format_exact(usd)} {source}".strip(), shown.replace("estimated", "est."))


def _hits(row: Row) -> Cell:
    last = "" if row["last_hit"] is None else f"last {format_moment(row['last_hit'])}"
    return Cell(f"{row['hits']:,}", last)


def _ttl(created_s: float, ttl_s: float | None, now_s: float) -> Cell:
    if ttl_s is None:
        return Cell(NOTHING)
    expires_s = created_s + ttl_s
    if expires_s > _YEAR_9999_S:
        return Cell(format_length(ttl_s))
    over = ", expired" if expires_s <= now_s else ""
    return Cell(format_length(ttl_s) + over, f"until {format_moment(expires_s)}")


def _number(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
