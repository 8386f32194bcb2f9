"""The filters of ``{{ name | filter }}``: they cut a value, or write it in another form."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, Final

from or_cache_magic.core.value_text import (
    Shown,
    Unwritable,
    as_narwhals,
    cells_of,
    frame_of,
    in_order,
    is_missing,
    is_of,
    json_of,
    only_counts,
    rows_of,
    text_of,
)

_DEFAULT_COUNT: Final = 5


def _cut(shown: Shown, count: int | None, *, end: bool) -> Shown:
    value, wanted = as_narwhals(shown.value), _DEFAULT_COUNT if count is None else count
    is_text = isinstance(value, str)
    items: Any = in_order(value) if isinstance(value, (set, frozenset)) else value
    items = items.splitlines() if is_text else items
    try:
        total = len(items)
        window = slice(max(total - wanted, 0), total) if end else slice(wanted)
        if isinstance(items, Mapping):
            cut: Any = dict(list(items.items())[window])
        else:
            cut = getattr(items, "iloc", items)[window]
    except TypeError:
        problem = f"a {type(value).__name__} can't be cut"
        raise Unwritable(problem, "head and tail cut tables, lists, dicts and texts (by lines)") from None
    rows = total if shown.rows is None else shown.rows
    return Shown("\n".join(cut) if is_text else cut, rows)


def _head(shown: Shown, count: int | None) -> Shown:
    return _cut(shown, count, end=False)


def _tail(shown: Shown, count: int | None) -> Shown:
    return _cut(shown, count, end=True)


def _no_count(count: int | None) -> None:
    if count is not None:
        raise Unwritable(f"only head and tail take a number, not {count}", "write it after head or tail")


def _as_json(shown: Shown, count: int | None) -> Shown:
    _no_count(count)
    shown.check_size()
    return shown._replace(value=json_of(shown.value))


def _as_csv(shown: Shown, count: int | None) -> Shown:
    _no_count(count)
    frame = frame_of(shown.value)
    if frame is None:
        raise Unwritable(f"a {type(shown.value).__name__} is no table", "csv takes a DataFrame or a Series")
    shown.check_size()
    if is_of(frame, "narwhals", "DataFrame"):
        text = _csv_of(frame)
    else:
        text = frame.to_csv(index=not only_counts(frame.index), lineterminator="\n")
    return shown._replace(value=text.removesuffix("\n"))


def _csv_of(frame: Any) -> str:
    """Return another library's table as pandas would write it, so that equal tables are equal CSV."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(frame.columns)
    rows.writerows([["" if is_missing(value) else value for value in row] for row in rows_of(frame)])
    return written.getvalue()


def _as_lines(shown: Shown, count: int | None) -> Shown:
    _no_count(count)
    shown.check_size()
    value = as_narwhals(shown.value)
    if isinstance(value, (set, frozenset)):
        value = in_order(value)
    elif is_of(value, "narwhals", "DataFrame") and len(value.columns) == 1:
        value = [row[0] for row in rows_of(value)]
    elif is_of(value, "pandas", "Series"):
        value = cells_of(value)
    elif not (isinstance(value, (list, tuple)) or is_of(value, "numpy", "ndarray")):
        raise Unwritable(f"a {type(value).__name__} has no items", "lines takes a list, a set or a column")
    return shown._replace(value="\n".join(text_of(item) for item in value))


FILTERS: Final[Mapping[str, Callable[[Shown, int | None], Shown]]] = {
    "head": _head,
    "tail": _tail,
    "json": _as_json,
    "csv": _as_csv,
    "lines": _as_lines,
}
"""``head N`` and ``tail N`` (5 unless told) cut; ``json``, ``csv`` and ``lines`` (an item a line) write."""


def apply(name: str, count: int | None, shown: Shown) -> Shown:
    """Return `shown` after the filter `name` and its number; raises `Unwritable`."""
    if name not in FILTERS:
        raise Unwritable(f"there is no filter {name}", "the filters are " + ", ".join(FILTERS))
    return FILTERS[name](shown, count)
