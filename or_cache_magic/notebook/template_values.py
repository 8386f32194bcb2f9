"""How a value of the notebook reads in a prompt: compact, and the same in every process.

==================  ===========================================================================
text, `Completion`  as it is
numbers, dates      as Python writes them (floats in full, ``0.1``)
None, True          ``None``, ``True``
lists, dicts, sets  JSON, letters unescaped; sets sorted; arrays as nested lists
DataFrame, Series   a shape line and a Markdown table; the index unless it only counts
==================  ===========================================================================

What is large (`MAX_ROWS`, `MAX_COLUMNS`, `MAX_ITEMS`) is refused unless ``head`` or ``tail`` cut it on
purpose: a forgotten million rows would be paid for. What has no text that another process would repeat
(an object at an address, a set of mixed kinds) is refused as well. pandas and numpy are not imported here;
their values are known by their classes' names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from inspect import isclass, ismodule, isroutine
from typing import Any, Final, NamedTuple

__all__ = ["FILTERS", "MAX_COLUMNS", "MAX_ITEMS", "MAX_ROWS", "Shown", "Unwritable", "apply"]

MAX_ROWS: Final = 50
"""Rows of a table that go into a prompt without having been cut on purpose."""

MAX_COLUMNS: Final = 20
"""Columns of a table that go into a prompt."""

MAX_ITEMS: Final = 1000
"""Numbers of an array that go into a prompt without having been cut on purpose."""

_DEFAULT_COUNT: Final = 5
_ADDRESS: Final = re.compile(r"\bat 0x[0-9a-fA-F]+")


class Unwritable(Exception):  # noqa: N818 - a finding that becomes a TemplateError
    """A value that has no text for a prompt."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class Shown(NamedTuple):
    """A value on its way into a prompt.

    Attributes:
        value: The value.
        rows: How many rows, items or lines it had before it was cut; None when it was not.
    """

    value: Any
    rows: int | None = None

    def text(self) -> str:
        """Return the value as a prompt has it; raises `Unwritable`."""
        frame = _frame(self.value)
        if frame is not None:
            return self._shape(frame) + "\n\n" + _markdown(frame)
        self.check_size()
        return _text(self.value)

    def check_size(self) -> None:
        """Raise `Unwritable` when the value is large and was not cut on purpose."""
        frame, size = _frame(self.value), getattr(self.value, "size", 0)
        if frame is not None:
            rows, columns = frame.shape
            if columns > MAX_COLUMNS:
                problem = f"{columns} columns is over the limit of {MAX_COLUMNS}"
                raise Unwritable(problem, "choose some in a cell above: part = table[['a', 'b']]")
            if rows > MAX_ROWS and self.rows is None:
                problem = f"{rows} rows is over the limit of {MAX_ROWS}"
                raise Unwritable(problem, f"to send all: | head {rows}; or some: | head 20")
        elif self.rows is None and _is_array(self.value) and size > MAX_ITEMS:
            problem = f"{size} numbers is over the limit of {MAX_ITEMS}"
            raise Unwritable(problem, f"to send all: | head {len(self.value)}; or some: | head 20")

    def _shape(self, frame: Any) -> str:
        self.check_size()
        rows, columns = frame.shape
        of = "" if self.rows in (None, rows) else f" of {self.rows}"
        return f"{rows}{of} row{'s' * (rows != 1)} x {columns} column{'s' * (columns != 1)}"


def _is(value: Any, library: str, *names: str) -> bool:
    """Return whether `value` is of a class of `library` so named, or of a subclass, without importing it."""
    return any(c.__name__ in names and c.__module__.partition(".")[0] == library for c in type(value).__mro__)


def _is_array(value: Any) -> bool:
    return _is(value, "numpy", "ndarray") or _is(value, "pandas", "Index")


def _frame(value: Any) -> Any:
    """Return `value` as a DataFrame when it is a table or a column of one; else None."""
    if _is(value, "pandas", "DataFrame"):
        return value
    return value.to_frame() if _is(value, "pandas", "Series") else None


def _only_counts(index: Any) -> bool:
    """Return whether an index is the one that pandas makes by itself, which says nothing."""
    return _is(index, "pandas", "RangeIndex") and index.name is None


def _rows(frame: Any) -> list[list[Any]]:
    """Return a frame's rows; missing values, of which pandas has several, are None."""
    missing = frame.isna().to_numpy()
    return [
        [None if missing[i, j] else value for j, value in enumerate(row)]
        for i, row in enumerate(frame.itertuples(index=False, name=None))
    ]


def _markdown(frame: Any) -> str:
    """Return a Markdown table without padding: spaces cost tokens. Missing values are empty cells."""
    index = frame.index
    header = list(frame.columns)
    labels: list[tuple[Any, ...]] = [()] * len(frame)
    if not _only_counts(index):
        header = ["" if name is None else name for name in index.names] + header
        labels = [label if index.nlevels > 1 else (label,) for label in index]
    table = [[_cell(name) for name in header], ["---"] * len(header)]
    table += [
        [_cell(value) for value in (*label, *row)] for label, row in zip(labels, _rows(frame), strict=True)
    ]
    return "\n".join("|" + "|".join(row) + "|" for row in table)


def _cell(value: Any) -> str:
    text = "" if value is None else _text(value)
    return text.replace("|", "\\|").replace("\r\n", "<br>").replace("\n", "<br>")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) or _is_array(value):
        return _json(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise Unwritable("bytes are no text", "decode them in a cell above: text = data.decode()")
    text = str(value)
    if isroutine(value) or isclass(value) or ismodule(value) or _ADDRESS.search(text):
        problem = f"a {type(value).__name__} has no text of its own"
        raise Unwritable(problem, "nothing is called here: compute the text in a cell above and name that")
    return text


def _json(value: Any) -> str:
    try:
        return json.dumps(_jsonable(value), ensure_ascii=False)
    except (ValueError, RecursionError) as problem:
        raise Unwritable(
            f"it can't be written as JSON: {problem}", "compute the text in a cell above"
        ) from None


def _jsonable(value: Any) -> Any:
    """Return `value` in lists, dicts, numbers, texts and None; not-a-number is None, as JSON has none."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {_json_name(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [_jsonable(item) for item in _ordered(value)]
    if _is(value, "pandas", "Series"):
        items = [row[0] for row in _rows(value.to_frame())]
        return _jsonable(items if _only_counts(value.index) else dict(zip(value.index, items, strict=True)))
    if _is(value, "pandas", "DataFrame"):
        return [_jsonable(dict(zip(value.columns, row, strict=True))) for row in _rows(value)]
    if _is_array(value) or _is(value, "numpy", "number", "bool_", "bool"):
        return _jsonable(value.tolist())
    return _text(value)


def _json_name(key: Any) -> str:
    return key if isinstance(key, str) else _text(key)


def _ordered(items: set[Any] | frozenset[Any]) -> list[Any]:
    """Return a set's items in an order that is the same in every process."""
    kinds = {float if isinstance(item, (int, float)) else type(item) for item in items}
    # Of sets, "less" means "part of": no order.
    if len(kinds) <= 1 and not any(issubclass(kind, (set, frozenset)) for kind in kinds):
        try:
            return sorted(items)
        except TypeError:
            pass
    raise Unwritable("this set has no order", "make it a list in a cell above")


def _cut(shown: Shown, count: int | None, *, end: bool) -> Shown:
    value, wanted = shown.value, _DEFAULT_COUNT if count is None else count
    is_text = isinstance(value, str)
    items: Any = _ordered(value) if isinstance(value, (set, frozenset)) else value
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
    return shown._replace(value=_json(shown.value))


def _as_csv(shown: Shown, count: int | None) -> Shown:
    _no_count(count)
    frame = _frame(shown.value)
    if frame is None:
        raise Unwritable(f"a {type(shown.value).__name__} is no table", "csv takes a DataFrame or a Series")
    shown.check_size()
    csv = frame.to_csv(index=not _only_counts(frame.index), lineterminator="\n")
    return shown._replace(value=str(csv).removesuffix("\n"))


def _as_lines(shown: Shown, count: int | None) -> Shown:
    _no_count(count)
    shown.check_size()
    value = shown.value
    if isinstance(value, (set, frozenset)):
        value = _ordered(value)
    elif not (
        isinstance(value, (list, tuple)) or _is(value, "pandas", "Series") or _is(value, "numpy", "ndarray")
    ):
        raise Unwritable(f"a {type(value).__name__} has no items", "lines takes a list, a set or a column")
    return shown._replace(value="\n".join(_text(item) for item in value))


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
