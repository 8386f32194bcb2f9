"""The stored answers as people read them: a line each, what is exact behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Any, Final

from or_cache_magic.core.cells import (
    NOTHING,
    format_dollars,
    format_exact,
    format_length,
    format_moment,
    format_source,
    format_time,
)
from or_cache_magic.core.units import format_size
from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Cell, Head, Table
from or_cache_magic.display.text import notes_text, rows_text

__all__ = ["entries_table", "entries_text"]

_HEADS: Final = (
    Head("key", "key: its first digits are enough for the magics", left=True),
    Head("created", "created: when it was stored, local time (UTC in the DataFrame)", left=True),
    Head("model", "model: that was asked for", left=True),
    Head("prompt", "prompt: how the last message of the user begins", left=True),
    Head("answer", "answer: how it begins", left=True),
    Head("tokens", "prompt_tokens → completion_tokens"),
    Head("cost", "cost_usd: what buying it cost; cost_source where the reply did not say it"),
    Head("hits", "hits: how often it was served instead of a call"),
    Head("saved", "saved_usd: what these hits would have cost"),
    Head("ttl", "ttl_s: how long it is served; - is for ever"),
    Head("tags", "tags: its labels", left=True),
    Head("size", "size_bytes: of the entry and its request, as stored"),
    Head("notebook", "notebook: where it was asked from", left=True),
)
_TELLING: Final = ("key", "created", "model", "cost", "hits", "prompt")
"""The columns that fit a terminal."""

_KEY_WIDTH: Final = 10
_NAME_WIDTH: Final = 60
_MODEL_WIDTH: Final = 20
_TITLE_WIDTH: Final = 200


def entries_table(
    rows: Sequence[Mapping[str, Any]],
    now: datetime,
    notes: Sequence[str],
    cut_at: int,
    left_out: int,
    *,
    width: int,
) -> Table:
    """The entries as a table.

    Args:
        rows: The rows that are shown, by column of the DataFrame; a missing value is None.
        now: For what is expired.
        notes: Lines below them.
        cut_at: Before which row others are left out.
        left_out: How many.
        width: Characters of prompt and answer that are shown.
    """
    cells = [_cells(row, now, width) for row in rows]
    picked = [at for at, head in enumerate(_HEADS) if _tells(head.name, {row[at].text for row in cells})]
    return Table(
        heads=[_HEADS[at] for at in picked],
        rows=[[row[at] for at in picked] for row in cells],
        cut_at=cut_at,
        left_out=left_out,
        notes=notes,
        nothing="no entries",
    )


def entries_text(table: Table) -> str:
    """The entries for a terminal: what fits of each in a line."""
    if not table.rows:
        return table.nothing
    names = [head.name for head in table.heads]
    model = names.index("model")
    rows = [[*row[:model], _short_model(row[model]), *row[model + 1 :]] for row in table.rows]
    picked = [names.index(name) for name in _TELLING]
    shown = rows_text(
        table._replace(rows=rows), picked, wide=len(picked) - 1, left=(0, 1, 2, len(picked) - 1)
    )
    return "\n\n".join(filter(None, (shown, notes_text(table.notes))))


def _tells(name: str, texts: AbstractSet[str]) -> bool:
    """Whether a column says something: often nothing has a label, and all were asked in one notebook."""
    if name == "notebook":
        return len(texts) > 1
    return name not in ("ttl", "tags") or not texts <= {"", NOTHING}


def _short_model(cell: Cell) -> Cell:
    return Cell(one_line(cell.text.rpartition("/")[2], _MODEL_WIDTH))


def _cells(row: Mapping[str, Any], now: datetime, width: int) -> list[Cell]:
    model, provider, cost = row["model"], row["provider"], row["cost_usd"]
    source, last_hit = format_source(row["cost_source"]), row["last_hit"]
    return [
        Cell(row["key"][:_KEY_WIDTH], row["key"]),
        Cell(format_time(row["created"], now), format_moment(row["created"])),
        Cell(one_line(model, _NAME_WIDTH), f"{model}, served by {provider}" if provider else model),
        Cell(one_line(row["prompt"], width), one_line(row["prompt"], _TITLE_WIDTH)),
        Cell(one_line(row["answer"], width), one_line(row["answer"], _TITLE_WIDTH)),
        Cell(" → ".join(_count(row[name]) for name in ("prompt_tokens", "completion_tokens"))),
        Cell(
            f"{format_dollars(cost)} {'' if cost is None else source}".rstrip(),
            f"{format_exact(cost)} {row['cost_source']}".strip(),
        ),
        Cell(_count(row["hits"]), f"last {format_moment(last_hit)}" if last_hit is not None else ""),
        Cell(format_dollars(row["saved_usd"]) if row["hits"] else NOTHING, format_exact(row["saved_usd"])),
        _ttl(row["created"], row["ttl_s"], now),
        Cell(one_line(row["tags"], _NAME_WIDTH), row["tags"]),
        Cell(format_size(row["size_bytes"]), f"{row['size_bytes']:,} bytes"),
        Cell(one_line(row["notebook"], _NAME_WIDTH), row["notebook"]),
    ]


def _ttl(created: datetime, ttl_s: float | None, now: datetime) -> Cell:
    if ttl_s is None:
        return Cell(NOTHING)
    try:
        until = created + timedelta(seconds=ttl_s)
    except OverflowError:
        return Cell(format_length(ttl_s))
    over = ", expired" if until <= now else ""
    return Cell(format_length(ttl_s) + over, f"until {format_moment(until)}")


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
