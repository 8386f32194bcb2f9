"""An entry as a row of the panel's table: HTML, every text escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from or_cache_magic.core.units import format_moment, format_remaining, format_time, format_tokens, format_usd
from or_cache_magic.panels.markup import cost_text, escape, labelled

if TYPE_CHECKING:
    from or_cache_magic.core.rows import EntryRow

_NUMBER: Final = "orc-n"
_COLUMNS: Final = (
    ("created", "", ("created",)),
    ("model", "", ("model",)),
    ("prompt", "", ()),
    ("in → out", _NUMBER, ("prompt_tokens", "completion_tokens")),
    ("cost", _NUMBER, ("cost_usd",)),
    ("hits", _NUMBER, ("hits",)),
    ("saved", _NUMBER, ("saved_usd",)),
    ("lifetime", _NUMBER, ("expires",)),
)
"""Name, class, and the orders that sort by it."""

_SOURCES: Final = {
    "reported": "reported with the answer",
    "generation": "told later, by GET /generation",
    "apportioned": "a share of what its batch, or its request for many texts, cost",
    "estimated": "estimated from tokens and the price list",
    "unknown": "nobody told what it cost",
}

_MODEL_WIDTH: Final = 80
_PROMPT_WIDTH: Final = 140
_TITLE_WIDTH: Final = 300


def head_html(order: str, *, descending: bool) -> str:
    """The names of the columns, with an arrow at the one that sorts."""
    arrow = " ▾" if descending else " ▴"
    cells = (
        f'<b class="{kind}">{name}{arrow if order in orders else ""}</b>' for name, kind, orders in _COLUMNS
    )
    # Each cell says its column to a screen reader.
    return f'<div class="orc-grid" aria-hidden="true">{"".join(cells)}</div>'


def row_html(row: EntryRow, now_s: float) -> str:
    """The cells of an entry."""
    saved = "unknown" if row.saved_usd is None else format_usd(row.saved_usd)
    served = format_remaining(row.expires_s, now_s)
    tags = f" · {', '.join(row.tags)}" if row.tags else ""
    provider = f" · {row.provider}" if row.provider else ""
    cells = (
        (format_time(row.created_s, now_s), format_moment(row.created_s)),
        (escape(row.model.rpartition("/")[2], _MODEL_WIDTH), escape(row.model + provider, _TITLE_WIDTH)),
        (escape(row.prompt, _PROMPT_WIDTH), escape(row.prompt + tags, _TITLE_WIDTH)),
        (format_tokens(row.prompt_tokens, row.completion_tokens), ""),
        (cost_text(row.cost), _SOURCES[row.cost.source]),
        (f"{row.hits:,}", "" if row.last_hit_s is None else f"last {format_moment(row.last_hit_s)}"),
        (saved, ""),
        (served, "" if row.expires_s is None else format_moment(row.expires_s)),
    )
    return (
        '<div class="orc-grid">'
        + "".join(
            f'<span class="{kind}"{_title(title)}>{labelled(name, shown)}</span>'
            for (name, kind, _), (shown, title) in zip(_COLUMNS, cells, strict=True)
        )
        + "</div>"
    )


def _title(title: str) -> str:
    return f' title="{title}"' if title else ""
