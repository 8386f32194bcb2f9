"""The ledger's totals and the index's rows as pandas DataFrames: the columns that others build on.

Within are plain numbers; how they are shown is in `shown`, imported with pandas.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pandas as pd

from or_cache_magic.core.records import EntryRow, Totals
from or_cache_magic.core.units import format_sum
from or_cache_magic.display.tables import (
    Table,
    entries_table,
    entries_text,
    html,
    markdown,
    stats_table,
    stats_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

__all__ = [
    "ENTRY_COLUMNS",
    "STAT_COLUMNS",
    "EntriesFrame",
    "StatsFrame",
    "entries_frame",
    "newest_text",
    "stats_frame",
]

_WHOLE: Final = 1000
"""More than any prompt or answer in the table has."""


class _ShownFrame(pd.DataFrame):
    """A DataFrame with a look of its own; see `made_of`."""

    # Declared, since pandas takes an attribute that its class doesn't have for a column.
    _made: tuple[dict[Any, Any], int] = ({}, 0)
    _notes: tuple[str, ...] = ()

    @classmethod
    def made_of(cls, frame: pd.DataFrame, notes: Sequence[str] = ()) -> Self:
        """The values of `frame`, which are not copied, with lines of text below them."""
        made = cls(frame)
        made._made = made._shape_now()
        made._notes = tuple(notes)
        return made

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __reduce__(self) -> Any:
        # A pickle is a plain DataFrame's: whoever opens it need not have this package.
        return pd.DataFrame, (self._plain(),)

    def __repr__(self) -> str:
        return self._text() if self._is_as_made() else repr(self._plain())

    def _repr_html_(self) -> str | None:
        if self._is_as_made() and pd.get_option("display.notebook_repr_html"):
            return html(self._table())
        plain: Any = self._plain()
        shown: str | None = plain._repr_html_()
        return shown

    def _repr_markdown_(self) -> str | None:
        """For where HTML is not shown."""
        as_made = self._is_as_made() and pd.get_option("display.notebook_repr_html")
        return markdown(self._table()) if as_made else None

    def _plain(self) -> pd.DataFrame:
        """The same values, as pandas shows them."""
        plain: pd.DataFrame = self.copy(deep=False)
        return plain

    def _table(self) -> Table:
        raise NotImplementedError

    def _text(self) -> str:
        raise NotImplementedError

    def _is_as_made(self) -> bool:
        """Whether it has the rows and columns that it was made with; other values are shown as they are."""
        return self._shape_now() == self._made

    def _shape_now(self) -> tuple[dict[Any, Any], int]:
        return self.dtypes.to_dict(), len(self)


class StatsFrame(_ShownFrame):
    """Statistics, with the group's column first when they are grouped."""

    def _table(self) -> Table:
        head, tail = _limits(len(self))
        rows = _rows(self, head, tail)
        return stats_table(list(self.columns), rows, self._notes, head, len(self) - len(rows))

    def _text(self) -> str:
        return stats_text(list(self.columns), self._table())


class EntriesFrame(_ShownFrame):
    """Stored answers, one a row."""

    def _table(self) -> Table:
        return _entries(self, *_limits(len(self)), width=pd.get_option("display.max_colwidth"))

    def _text(self) -> str:
        return entries_text(_entries(self, *_limits(len(self))))


def newest_text(frame: pd.DataFrame, count: int) -> str:
    """The first so many entries for a terminal."""
    return entries_text(_entries(frame, min(count, len(frame)), 0))


def _entries(frame: pd.DataFrame, head: int, tail: int, width: int | None = None) -> Table:
    rows = _rows(frame, head, tail)
    return entries_table(
        rows,
        datetime.now(timezone.utc),
        _entry_notes(frame),
        head,
        len(frame) - len(rows),
        width=width or _WHOLE,
    )


def _entry_notes(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        return []
    unknown = int(frame["cost_usd"].isna().sum())
    bought = format_sum(_sum(frame["cost_usd"]), unpriced=unknown)
    unpriced = f" ({unknown:,} of unknown cost)" if unknown else ""
    hits = int(frame["hits"].sum())
    unvalued = int((frame["saved_usd"].isna() & (frame["hits"] > 0)).sum())
    saved = (
        f"; {_count(hits, 'hit')} saved {format_sum(_sum(frame['saved_usd']), unpriced=unvalued)}"
        if hits
        else ""
    )
    return [
        f"{_count(len(frame), 'entry', 'entries')}, bought for {bought}{unpriced}{saved}.",
        "Times are local. A cost is as the reply reported it, unless it says otherwise.",
    ]


def _rows(frame: pd.DataFrame, head: int, tail: int) -> list[dict[str, Any]]:
    """The first and the last rows, missing values as None."""
    count = len(frame)
    some = frame.iloc[[*range(head), *range(count - tail, count)]].astype(object)
    rows: list[dict[str, Any]] = some.where(some.notna(), None).to_dict("records")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, pd.Timestamp):
                row[name] = value.to_pydatetime(warn=False)
    return rows


def _limits(count: int) -> tuple[int, int]:
    """How many of the first and the last of so many rows pandas would show."""
    most = pd.get_option("display.max_rows")
    if most == 0:
        most = shutil.get_terminal_size().lines
    if most is None or count <= most:
        return count, 0
    least = pd.get_option("display.min_rows")
    shown = max(most if least is None else min(least, most), 1)
    return (shown // 2, shown // 2) if shown > 1 else (1, 0)


def _sum(amounts: pd.Series[float]) -> Decimal:
    return Decimal(repr(math.fsum(amounts.dropna())))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


STAT_COLUMNS: Final = (
    "asks",
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

    from or_cache_magic.display.tables import stat_notes

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
        "asks": t.asks,
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
