"""A `LedgerRow` as the columns of ``or_ledger``, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.database import from_pico, join_tags, split_tags, to_pico
from or_cache_magic.database.columns import COUNT, INTEGER, LABEL, REAL, TEXT, TIME, check_row
from or_cache_magic.records import Cost, LedgerRow

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLUMNS", "INSERT", "row_columns", "row_from"]

COLUMNS: Final = (
    "at, session, notebook, key, model, kind, asks, paid, paid_source, value, prompt_tokens,"
    " completion_tokens, cached_tokens, cache_write_tokens, seconds, tags, generation_id"
)
INSERT: Final = f"INSERT INTO or_ledger ({COLUMNS}) VALUES ({', '.join('?' * 17)})"  # noqa: S608

_TYPES: Final = (
    *(TIME, TEXT, TEXT, TEXT, TEXT, TEXT, INTEGER, COUNT, TEXT, COUNT, COUNT),
    *(COUNT, COUNT, COUNT, REAL, LABEL, LABEL),
)


def row_columns(row: LedgerRow) -> tuple[Any, ...]:
    """The parameters of `INSERT`."""
    return (
        row.at_s,
        row.session,
        row.notebook,
        row.key,
        row.model,
        row.kind,
        row.asks,
        to_pico(row.paid.usd),
        row.paid.source,
        to_pico(row.value_usd),
        row.prompt_tokens,
        row.completion_tokens,
        row.cached_tokens,
        row.cache_write_tokens,
        row.seconds,
        join_tags(row.tags),
        row.generation_id,
    )


def row_from(columns: Sequence[Any]) -> LedgerRow:
    """The row of a SELECT of `COLUMNS`.

    Raises:
        StoreCorruptError: A column holds what this package never writes there.
    """
    check_row("a row of the ledger", _TYPES, columns, columns[0])
    at_s, session, notebook, key, model, kind, asks, paid, source, value = columns[:10]
    prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens = columns[10:14]
    seconds, tags, generation_id = columns[14:]
    return LedgerRow(
        at_s=at_s,
        session=session,
        notebook=notebook,
        key=key,
        model=model,
        kind=kind,
        asks=asks,
        paid=Cost(from_pico(paid), source),
        value_usd=from_pico(value),
        tags=split_tags(tags),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        cache_write_tokens=cache_write_tokens,
        seconds=seconds,
        generation_id=generation_id,
    )
