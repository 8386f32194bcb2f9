"""The stored answers as a table: its columns, their values, and how each is shown."""

from __future__ import annotations

from operator import attrgetter
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
    from collections.abc import Callable, Iterable, Sequence
    from decimal import Decimal

    from or_cache_magic.core.rows import EntryRow

_FIELDS: Final = {
    "key": ("str", "key"),
    "created": ("datetime64[ns, UTC]", "created_s"),
    "model": ("str", "model"),
    "provider": ("str", "provider"),
    "prompt": ("str", "prompt"),
    "answer": ("str", "answer"),
    "prompt_tokens": ("Int64", "prompt_tokens"),
    "completion_tokens": ("Int64", "completion_tokens"),
    "cost_usd": ("float64", "cost.usd"),
    "cost_source": ("str", "cost.source"),
    "hits": ("int64", "hits"),
    "saved_usd": ("float64", "saved_usd"),
    "last_hit": ("datetime64[ns, UTC]", "last_hit_s"),
    "ttl_s": ("float64", "expires_s"),
    "tags": ("str", "tags"),
    "size_bytes": ("int64", "size_bytes"),
    "notebook": ("str", "notebook"),
}
"""The columns, in their order: their types in a DataFrame, and what of an `EntryRow` they hold."""

_read = attrgetter(*(field for _, field in _FIELDS.values()))

ENTRY_TYPES: Final = {name: kind for name, (kind, _) in _FIELDS.items()}
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
    values = dict(zip(_FIELDS, _read(row), strict=True))
    values["cost_usd"], values["saved_usd"] = _number(row.cost.usd), _number(row.saved_usd)
    values["ttl_s"] = None if row.expires_s is None else row.expires_s - row.created_s
    values["tags"] = ", ".join(row.tags)
    return values


def entries_table(rows: Iterable[Row], *, now_s: float, width: int | None = None) -> Table:
    """Return the table of stored answers, with the columns that say something.

    Args:
        rows: The rows that are shown; see `entry_values`.
        now_s: UTC epoch seconds, for what is expired.
        width: Characters of prompt and answer that are shown; None is all that there are.
    """
    table = Table.of(_columns(now_s, width or _WHOLE), rows)
    told = table.pick([head.name for at, head in enumerate(table.heads) if _says_something(table, at)])
    narrow = ("key", "created", "model", "cost", "hits", "prompt")
    return told._replace(nothing="no entries", narrow=narrow, wide="prompt")


def _says_something(table: Table, at: int) -> bool:
    """Whether a column is worth its room: often nothing has a label, and all were asked in one notebook."""
    name, texts = table.heads[at].name, {row[at].text for row in table.rows}
    if name == "notebook":
        return len(texts) > 1
    return name not in ("ttl", "tags") or not texts <= {"", NOTHING}


def _columns(now_s: float, width: int) -> Sequence[Column]:
    def beginning(name: str) -> Callable[[Row], Cell]:
        return lambda row: Cell(one_line(row[name], width), one_line(row[name], _TITLE_WIDTH))

    def label(name: str) -> Callable[[Row], Cell]:
        return lambda row: Cell(one_line(row[name], _NAME_WIDTH), row[name])

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
        (Head("prompt", "prompt: how the last message of the user begins", left=True), beginning("prompt")),
        (Head("answer", "answer: how it begins", left=True), beginning("answer")),
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
        (Head("tags", "tags: its labels", left=True), label("tags")),
        (
            Head("size", "size_bytes: of the entry and its request, as stored"),
            lambda row: Cell(format_size(row["size_bytes"]), f"{row['size_bytes']:,} bytes"),
        ),
        (Head("notebook", "notebook: where it was asked from", left=True), label("notebook")),
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
