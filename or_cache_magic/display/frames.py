"""Stored answers and statistics as pandas DataFrames: plain numbers within, formatted where they are shown.

It imports pandas, so it is imported where a DataFrame is made.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from or_cache_magic.core.units import format_count, format_exact, format_sum
from or_cache_magic.core.value_text import only_counts
from or_cache_magic.display.entries import ENTRY_TYPES, entries_table, entry_values
from or_cache_magic.display.escape import printable
from or_cache_magic.display.models import MODEL_TYPES, models_table
from or_cache_magic.display.stats import STAT_TYPES, stat_notes, stat_values, stats_table, stats_text
from or_cache_magic.display.tables import Table, html, markdown, table_of, text

if TYPE_CHECKING:
    from or_cache_magic.core.rows import EntryRow, Totals

_NEWEST = 20
"""Entries that a terminal lists; more would scroll the newest away."""

_Show = Callable[[pd.DataFrame], dict[str, str]]
"""What makes the texts of a DataFrame, by MIME type."""


class ShownFrame(pd.DataFrame):
    """A DataFrame that IPython shows as a table of ours; whatever is made of it is a plain one.

    Once its columns, or the kinds of their values, are changed in place, pandas shows it.
    """

    # Declared, since pandas takes an attribute that its class doesn't have for a column.
    _types: Mapping[Any, Any] = {}
    _show: _Show | None = None

    @classmethod
    def made_of(cls, frame: pd.DataFrame, types: Mapping[str, str], show: _Show) -> ShownFrame:
        """Return the values of a frame in these types, shown by a function of such a frame."""
        made: ShownFrame = cls(frame.astype(dict(types)))
        made._types, made._show = types, show
        return made

    @classmethod
    def on(cls, frame: pd.DataFrame, show: _Show) -> ShownFrame:
        """Return a frame as it is, shown by a function of such a frame."""
        made: ShownFrame = cls(frame)
        made._types, made._show = frame.dtypes.to_dict(), show
        return made

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __reduce__(self) -> Any:
        # A pickle is a plain DataFrame's: whoever opens it need not have this package.
        return pd.DataFrame, (self.copy(deep=False),)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str] | None:  # noqa: ARG002
        """Return the table in each form; None leaves it to pandas."""
        changed = list(self.columns) != list(self._types)
        if changed or self._show is None or not pd.get_option("display.notebook_repr_html"):
            return None
        try:
            frame = self.astype(dict(self._types))
        except (TypeError, ValueError):  # values of another kind were put in
            return None
        return self._show(frame)


def entries_frame(rows: Iterable[EntryRow]) -> ShownFrame:
    """Return one row for each entry. Times are UTC; a ``ttl_s`` of NaN never expires."""
    frame = pd.DataFrame([*map(entry_values, rows)], columns=list(ENTRY_TYPES))
    for name in ("created", "last_hit"):
        frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
    return ShownFrame.made_of(frame, ENTRY_TYPES, _show_entries)


def models_frame(rows: Iterable[Mapping[str, Any]], notes: Sequence[str] = ()) -> ShownFrame:
    """Return a row for each model, with the columns of `MODEL_TYPES`; times are epoch seconds or days."""
    frame = pd.DataFrame([*rows], columns=list(MODEL_TYPES))
    frame["created"] = pd.to_datetime(frame["created"].astype("float64"), unit="s", utc=True)
    frame["expires"] = pd.to_datetime(frame["expires"], utc=True)
    return ShownFrame.made_of(frame, MODEL_TYPES, partial(_show_models, notes=notes))


def stats_frame(
    totals: Iterable[Totals],
    by: str = "",
    *,
    whole: Totals | None = None,
    distinct: int | None = None,
    more: Sequence[str] = (),
) -> ShownFrame:
    """Return the ledger's sums, one row or one a group with the group's column first.

    A rate is NaN where there is nothing to divide by. Days are times, the oldest first.

    Args:
        totals: The sums.
        by: What they are grouped by; the group's column.
        whole: All the asks together, for the notes below; where there is one row, it is that.
        distinct: How many different requests are among their hits and misses.
        more: Lines of text to show below.
    """
    sums = sorted(totals, key=lambda t: t.group) if by == "day" else list(totals)
    types = ({by: "datetime64[ns]" if by == "day" else "str"} if by else {}) | STAT_TYPES
    frame = pd.DataFrame([stat_values(t, by) for t in sums], columns=list(types))
    if by == "day":
        frame[by] = pd.to_datetime(frame[by], format="%Y-%m-%d")
    if whole is None and not by and len(sums) == 1:
        (whole,) = sums
    notes = [*(stat_notes(whole, distinct) if whole else ()), *more]
    return ShownFrame.made_of(frame, types, partial(_show_stats, by=by, notes=notes))


def plain_frame(rows: Iterable[Sequence[Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """Return a DataFrame of rows with these columns, in these types; amounts become numbers."""
    frame: pd.DataFrame = pd.DataFrame([*rows], columns=list(types)).astype(dict(types))
    return frame


def answered_frame(
    frame: pd.DataFrame, summary: str, *, costs: Container[str], hidden: Container[str] = ()
) -> pd.DataFrame:
    """Return a table of the user's with answers, shown with a line below it; of a class of theirs as it is.

    Args:
        frame: The table.
        summary: The line.
        costs: Which of its columns are dollars.
        hidden: Which are not shown.
    """
    if type(frame) is not pd.DataFrame:
        return frame
    return ShownFrame.on(frame, partial(_show_answers, summary=summary, costs=costs, hidden=hidden))


def frame_text(frame: pd.DataFrame) -> str:
    """Return what a terminal shows of a DataFrame."""
    bundle = frame._repr_mimebundle_() if isinstance(frame, ShownFrame) else None
    return bundle["text/plain"] if bundle else printable(repr(frame))


def _show_entries(frame: pd.DataFrame) -> dict[str, str]:
    show, notes = partial(entries_table, now_s=time.time()), _entry_notes(frame)
    width = pd.get_option("display.max_colwidth")
    whole = _cut(frame, partial(show, width=width), _limits(len(frame)), notes)
    newest = _cut(frame, show, (min(len(frame), _NEWEST), 0), notes)
    return {"text/plain": text(newest), "text/html": html(whole), "text/markdown": markdown(whole)}


def _show_models(frame: pd.DataFrame, notes: Sequence[str]) -> dict[str, str]:
    table = _cut(frame, models_table, _limits(len(frame)), notes)
    return {"text/plain": text(table), "text/html": html(table), "text/markdown": markdown(table)}


def _show_stats(frame: pd.DataFrame, by: str, notes: Sequence[str]) -> dict[str, str]:
    table = _cut(frame, partial(stats_table, by=by), _limits(len(frame)), notes)
    return {"text/plain": stats_text(table), "text/html": html(table), "text/markdown": markdown(table)}


def _show_answers(
    frame: pd.DataFrame, summary: str, costs: Container[str], hidden: Container[str]
) -> dict[str, str]:
    most, width = pd.get_option("display.max_columns"), pd.get_option("display.max_colwidth")
    names = [name for name in frame.columns if name not in hidden]
    if most and len(names) > most:
        names = [*names[: most // 2], *names[-(most - most // 2) :]]
    show = partial(_answers_table, names=names, costs=costs, width=width)
    index = not only_counts(frame.index)
    shown = frame[names].astype(object)
    if index:
        shown.insert(0, "", [*map(str, frame.index)], allow_duplicates=True)
    table = _cut(shown, partial(show, index=index), _limits(len(frame)), [summary])
    plain = f"{printable(repr(pd.DataFrame(frame[names])))}\n\n{summary}"
    return {"text/plain": plain, "text/html": html(table), "text/markdown": markdown(table)}


def _answers_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[Any],
    costs: Container[str],
    width: int | None,
    index: bool,
) -> Table:
    columns = [*([""] if index else []), *names]
    cells = [
        [format_exact(row[name]) if name in costs else _cell_text(row[name], width) for name in columns]
        for row in rows
    ]
    return table_of([str(name) for name in columns], cells, left=len(columns))


def _cell_text(value: Any, width: int | None) -> str:
    text = "" if value is None else printable(str(value))
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def _entry_notes(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        return []
    unknown = int(frame["cost_usd"].isna().sum())
    bought = format_sum(_sum(frame["cost_usd"]), unpriced=unknown)
    unpriced = f" ({unknown:,} of unknown cost)" if unknown else ""
    hits = int(frame["hits"].sum())
    unvalued = int((frame["saved_usd"].isna() & (frame["hits"] > 0)).sum())
    saved = format_sum(_sum(frame["saved_usd"]), unpriced=unvalued)
    served = f"; {format_count(hits, 'hit')} saved {saved}" if hits else ""
    return [
        f"{format_count(len(frame), 'entry', 'entries')}, bought for {bought}{unpriced}{served}.",
        "Times are local. A cost is as the reply reported it, unless it says otherwise.",
    ]


def _cut(
    frame: pd.DataFrame,
    show: Callable[[list[dict[str, Any]]], Table],
    limits: tuple[int, int],
    notes: Sequence[str],
) -> Table:
    """Return the table of so many of the first and of the last rows."""
    (head, tail), count = limits, len(frame)
    some = frame.iloc[[*range(head), *range(count - tail, count)]].astype(object)
    rows: list[dict[str, Any]] = some.where(some.notna(), None).to_dict("records")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, pd.Timestamp):
                row[name] = value.timestamp() if value.tzinfo else f"{value:%Y-%m-%d}"
    return show(rows)._replace(notes=notes, cut_at=head, left_out=count - len(rows))


def _sum(amounts: pd.Series[float]) -> Decimal:
    return Decimal(repr(math.fsum(amounts.dropna())))


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
