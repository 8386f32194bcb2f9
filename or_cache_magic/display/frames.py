"""The ledger's totals and the index's rows as pandas DataFrames: the columns that others build on.

Within are plain numbers; how they are shown is in `shown`, imported with pandas.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.core.records import EntryRow, Totals

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENTRY_COLUMNS", "STAT_COLUMNS", "entries_frame", "stats_frame"]

STAT_COLUMNS: Final = (
    "calls",
    "hits",
    "misses",
    "hit_rate",
    "hit_rate_tokens",
    "hit_rate_usd",
    "paid_usd",
    "saved_usd",
    "prompt_cache_saved_usd",
    "unpriced",
    "prompt_tokens",
    "completion_tokens",
)

ENTRY_COLUMNS: Final = (
    "key",
    "created",
    "model",
    "provider",
    "prompt",
    "answer",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "cost_source",
    "hits",
    "saved_usd",
    "last_hit",
    "ttl_s",
    "tags",
    "size_bytes",
    "notebook",
)

_STAT_TYPES: Final = {
    name: "float64" if name.endswith("_usd") or name.startswith("hit_rate") else "int64"
    for name in STAT_COLUMNS
}
_ENTRY_TYPES: Final = dict.fromkeys(ENTRY_COLUMNS, "str") | {
    "created": "datetime64[ns, UTC]",
    "prompt_tokens": "Int64",
    "completion_tokens": "Int64",
    "cost_usd": "float64",
    "hits": "int64",
    "saved_usd": "float64",
    "last_hit": "datetime64[ns, UTC]",
    "ttl_s": "float64",
    "size_bytes": "int64",
}
"""Said, since pandas would guess them from the rows, and others where there are none."""

_Amount = TypeVar("_Amount", int, Decimal)


def stats_frame(
    totals: Iterable[Totals], by: str = "", *, whole: Totals | None = None, distinct: int | None = None
) -> pd.DataFrame:
    """One row for each of `totals`, with the group's column first when they are grouped.

    Rates are NaN where there is nothing to divide by; dollars are what is known, and ``unpriced``
    counts the asks whose price isn't. Days are in their order, as ``datetime64``, ready to be plotted.

    Args:
        totals: The sums.
        by: What they are grouped by: ``model``, ``day``, ``notebook``, ``tag``, or nothing.
        whole: The sums over all of them, for what is said below the table; None: of one that is not grouped
            they are its own, of groups nothing is said.
        distinct: How many different requests are among their hits and misses; None is not counted.
    """
    import pandas as pd

    from or_cache_magic.display.notes import stat_notes
    from or_cache_magic.display.shown import StatsFrame

    sums = sorted(totals, key=lambda t: t.group) if by == "day" else list(totals)
    rows = [({by: t.group} if by else {}) | _stat_row(t) for t in sums]
    frame = pd.DataFrame(rows, columns=[by, *STAT_COLUMNS] if by else list(STAT_COLUMNS))
    if by == "day":
        frame[by] = pd.to_datetime(frame[by], format="%Y-%m-%d")
    types = {by: "datetime64[ns]" if by == "day" else "str"} if by else {}
    if whole is None and not by and len(sums) == 1:
        (whole,) = sums
    return StatsFrame.made_of(frame.astype(types | _STAT_TYPES), stat_notes(whole, distinct) if whole else ())


def _stat_row(t: Totals) -> dict[str, Any]:
    return {
        "calls": t.calls,
        "hits": t.hits,
        "misses": t.misses,
        "hit_rate": _rate(t.hits, t.misses),
        "hit_rate_tokens": _rate(t.hit_tokens, t.bought_tokens),
        "hit_rate_usd": _rate(t.saved_usd, t.paid_usd),
        "paid_usd": float(t.paid_usd),
        "saved_usd": float(t.saved_usd),
        "prompt_cache_saved_usd": _number(t.prompt_cache_saved_usd),
        "unpriced": t.unpriced,
        "prompt_tokens": t.prompt_tokens,
        "completion_tokens": t.completion_tokens,
    }


def entries_frame(rows: Iterable[EntryRow]) -> pd.DataFrame:
    """One row for each entry. Times are UTC, ``ttl_s`` is the lifetime it was given (NaN: for ever)."""
    import pandas as pd

    from or_cache_magic.display.shown import EntriesFrame

    frame = pd.DataFrame([_entry_row(r) for r in rows], columns=list(ENTRY_COLUMNS))
    for name in ("created", "last_hit"):
        frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
    return EntriesFrame.made_of(frame.astype(_ENTRY_TYPES))


def _entry_row(r: EntryRow) -> dict[str, Any]:
    return {
        "key": r.key,
        "created": r.created_s,
        "model": r.model,
        "provider": r.provider,
        "prompt": r.prompt,
        "answer": r.answer,
        "prompt_tokens": r.prompt_tokens,
        "completion_tokens": r.completion_tokens,
        "cost_usd": _number(r.cost.usd),
        "cost_source": r.cost.source,
        "hits": r.hits,
        "saved_usd": _number(r.saved_usd),
        "last_hit": r.last_hit_s if r.last_hit_s is not None else float("nan"),
        "ttl_s": r.expires_s - r.created_s if r.expires_s is not None else float("nan"),
        "tags": ", ".join(r.tags),
        "size_bytes": r.size_bytes,
        "notebook": r.notebook,
    }


def _rate(part: _Amount, rest: _Amount) -> float:
    whole = part + rest
    return float(part / whole) if whole else float("nan")


def _number(amount: Decimal | None) -> float:
    return float("nan") if amount is None else float(amount)
