"""DataFrames of plain numbers that notebooks and terminals show formatted.

They are what `stats` and `entries` give, and nothing more: what is made of them (a selection, a copy,
a pickle) is a plain DataFrame, and they look like one when their rows or columns were changed in place.

Imports pandas; is imported when a table is made.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from or_cache_magic.core.cells import format_sum
from or_cache_magic.display.entries import entries_table, entries_text
from or_cache_magic.display.stats import stats_table, stats_text
from or_cache_magic.display.tables import Table, html, markdown

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EntriesFrame", "StatsFrame", "newest_text"]

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
