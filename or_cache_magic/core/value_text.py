"""How a value of the notebook reads in a prompt: compact, and the same in every process.

=====================  ========================================================================
text, `Completion`     as it is
numbers, dates, paths  as Python writes them (floats in full, ``0.1``, also of 16 and 32 bits)
None, True             ``None``, ``True``
lists, dicts, sets     JSON, letters unescaped; sets sorted; arrays as nested lists
tables and columns     a shape line and a Markdown table; pandas' index unless it only counts
=====================  ========================================================================

Tables are those of pandas, and all that narwhals knows: polars, Arrow, Modin, … What is large (`MAX_TOKENS`)
is refused unless ``head`` or ``tail`` cut it on purpose: a forgotten million rows would be paid for. What has
no text that another process would repeat, or only one that leaves parts out (an object at an address, a
figure, a lazy table, a set of mixed kinds), is refused as well. No table's library is imported here: their
values are known by their classes' names.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, KeysView, Mapping, ValuesView
from inspect import isclass, ismodule, isroutine
from typing import Any, Final, NamedTuple

MAX_TOKENS: Final = 50_000
"""About so many tokens of one value go into a prompt without having been cut on purpose."""

_BLOCK: Final = 1000

_COLLECTIONS: Final = (Mapping, list, tuple, set, frozenset, range, KeysView, ValuesView)


_SHORT: Final = frozenset({int, float, bool})
"""What Python writes as a prompt has it."""


_AS_COUNTS: Final = ("datetime64[ns]", "timedelta64[ns]")
"""What Python's own types would have as counts of nanoseconds."""

# Compiled when it is first used: pandas, polars and Arrow each have names of their own.
_NARROW: Final = r"(?i)(float32|\bfloat\[pyarrow)|float16|\bhalf"
_MOST_DIGITS: Final = {"e": 5, "f": 9}
"""So many tell any float of 16 and of 32 bits, by its letter in `struct`."""


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
        if type(self.value) in _SHORT or (type(self.value) is str and len(self.value) <= MAX_TOKENS):
            return str(self.value)  # most cells of a table: the rest looks at what else it may be
        self.check_size()
        frame = frame_of(self.value)
        text = text_of(self.value) if frame is None else self._shape(frame) + "\n\n" + _markdown(frame)
        if self.rows is None and len(text) > MAX_TOKENS:
            from or_cache_magic.core.tokens import text_tokens

            self._refuse_over(text_tokens(text).likely)
        return text

    def check_size(self) -> None:
        """Raise `Unwritable` when the value is large at a glance and was not cut on purpose."""
        if self.rows is None:
            frame = frame_of(self.value)
            items = math.prod(frame.shape) if frame is not None else _count(self.value)
            self._refuse_over(items)  # each is a token at least

    def _refuse_over(self, tokens: int) -> None:
        if tokens > MAX_TOKENS:
            of_lines = isinstance(self.value, str)
            items = self.value.count("\n") + 1 if of_lines else len(self.value)
            problem = f"about {tokens:,} tokens is over the limit of {MAX_TOKENS:,}"
            raise Unwritable(problem, f"to send all: | head {items}; or some: | head 20")

    def _shape(self, frame: Any) -> str:
        rows, columns = frame.shape
        of = "" if self.rows in (None, rows) else f" of {self.rows}"
        return f"{rows}{of} row{'s' * ((self.rows or rows) != 1)} x {columns} column{'s' * (columns != 1)}"


def _count(value: Any) -> int:
    """Return how many items a collection has; 0 for what is none."""
    if is_array(value):
        return int(value.size)
    return len(value) if isinstance(value, _COLLECTIONS) else 0


def is_of(value: Any, library: str, *names: str) -> bool:
    """Return whether `value` is of a class of `library` so named, or of a subclass, without importing it."""
    return any(c.__name__ in names and c.__module__.partition(".")[0] == library for c in type(value).__mro__)


def is_missing(value: Any) -> bool:
    """Return whether a value of a table is a missing one: None, not-a-number, or what pandas has for them."""
    if type(value) is str or type(value) is int or value is None:
        return value is None  # most cells
    if isinstance(value, float) or is_of(value, "numpy", "floating", "datetime64", "timedelta64"):
        return bool(value != value)  # noqa: PLR0124 - nothing else differs from itself
    return is_of(value, "pandas", "NAType", "NaTType") or (
        is_of(value, "decimal", "Decimal") and value.is_nan()
    )


def is_array(value: Any) -> bool:
    """Return whether `value` is an array of numpy, or an index of pandas."""
    return is_of(value, "numpy", "ndarray") or is_of(value, "pandas", "Index")


def frame_of(value: Any) -> Any:
    """Return a table, or a column of one, as a DataFrame of pandas or of narwhals; else None."""
    if is_of(value, "pandas", "DataFrame") or is_of(value, "narwhals", "DataFrame"):
        return value
    if is_of(value, "pandas", "Series"):
        return value.to_frame()
    if isinstance(value, (str, *_COLLECTIONS)) or type(value).__module__ in ("builtins", "numpy", "datetime"):
        return None  # spares the import
    import narwhals as nw

    found = nw.from_native(value, pass_through=True, allow_series=True)
    if isinstance(found, nw.LazyFrame):
        raise Unwritable("a lazy table has no rows yet", "collect it in a cell above: table = lazy.collect()")
    if isinstance(found, nw.Series):
        return found.to_frame()
    return found if isinstance(found, nw.DataFrame) else None


def as_narwhals(value: Any) -> Any:
    """Return a table that pandas didn't make as narwhals has it, which is cut and written in one way."""
    frame = None if is_of(value, "pandas", "DataFrame", "Series") else frame_of(value)
    return value if frame is None else frame


def only_counts(index: Any) -> bool:
    """Return whether an index is the one that pandas makes by itself, which says nothing."""
    return is_of(index, "pandas", "RangeIndex") and index.name is None


def narrow_of(dtype: Any) -> str:
    """Return the letter that `struct` has for a column of floats of 16 or 32 bits; empty for others."""
    found = re.search(_NARROW, str(dtype))
    return "" if found is None else "f" if found[1] else "e"


def widened(value: Any, narrow: str) -> Any:
    """Return a float of 16 or 32 bits as that of 64 which is written as short, ``0.1``; in lists too.

    >>> widened([0.10000000149011612, None], "f")
    [0.1, None]
    """
    if isinstance(value, (list, tuple)):
        return [widened(item, narrow) for item in value]
    try:
        exact = struct.pack(narrow, value)
    except (struct.error, OverflowError):  # none of these
        return value
    written = (float(f"{value:.{digits}g}") for digits in range(1, _MOST_DIGITS[narrow] + 1))
    return next((found for found in written if _packed(narrow, found) == exact), float(value))


def _packed(narrow: str, value: float) -> bytes:
    try:
        return struct.pack(narrow, value)
    except OverflowError:  # rounded up, beyond the largest
        return b""


def cells_of(column: Any) -> Iterable[Any]:
    """Return the values of a column of pandas, or of an array, as they read in a prompt."""
    narrow = narrow_of(column.dtype)
    values = _in_blocks(column) if hasattr(column, "iloc") else column
    return (widened(value, narrow) for value in values) if narrow else values


def _in_blocks(series: Any) -> Iterator[Any]:
    """Yield the values, many at a time: pandas' own iterator takes ten times as long for text."""
    for start in range(0, len(series), _BLOCK):
        yield from series.iloc[start : start + _BLOCK].tolist()


def _row_of(row: Iterable[Any], narrow: Iterable[str]) -> list[Any]:
    return [widened(value, letter) if letter else value for value, letter in zip(row, narrow, strict=True)]


def rows_of(frame: Any) -> list[list[Any]]:
    """Return a frame's rows; missing values, of which pandas has several, are None."""
    columns = range(frame.shape[1])
    if is_of(frame, "narwhals", "DataFrame"):
        narrow = [narrow_of(frame[:, at].dtype) for at in columns]
        return [_row_of(row, narrow) for row in frame.iter_rows()]
    missing = frame.isna().to_numpy()
    rows = zip(*(cells_of(frame.iloc[:, at]) for at in columns), strict=True) if columns else ()
    return [[None if missing[i, j] else value for j, value in enumerate(row)] for i, row in enumerate(rows)]


def _markdown(frame: Any) -> str:
    """Return a Markdown table without padding: spaces cost tokens. Missing values are empty cells."""
    index = getattr(frame, "index", None)
    header = list(frame.columns)
    labels: list[tuple[Any, ...]] = [()] * len(frame)
    if index is not None and not only_counts(index):
        header = ["" if name is None else name for name in index.names] + header
        labels = list(index) if index.nlevels > 1 else [(label,) for label in cells_of(index)]
    table = [[_cell(name) for name in header], ["---"] * len(header)]
    table += [
        [_cell(value) for value in (*label, *row)] for label, row in zip(labels, rows_of(frame), strict=True)
    ]
    return "\n".join("|" + "|".join(row) + "|" for row in table)


def _cell(value: Any) -> str:
    text = "" if value is None else text_of(value)
    return text.replace("|", "\\|").replace("\r\n", "<br>").replace("\n", "<br>")


_SPOKEN: Final = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "uuid", "zoneinfo"})
"""Modules whose values are written as they write themselves, whole."""


_PANDAS: Final = ("BaseOffset", "Interval", "NAType", "NaTType", "Period", "Timedelta")


def text_of(value: Any) -> str:
    """Return what a prompt has of a value that is no table; raises `Unwritable`."""
    if isinstance(value, str):
        return str.__str__(value)
    if is_of(value, "numpy", "floating") and (narrow := narrow_of(value.dtype)):
        value = widened(value, narrow)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset, range, KeysView, ValuesView)) or is_array(
        value
    ):
        return json_of(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        hint = "decode them in a cell above: text = data.decode(); a picture or file is attached: -a NAME"
        raise Unwritable("bytes are no text", hint)
    if not _speaks(value):
        problem = f"a {type(value).__name__} has no text of its own"
        hint = "nothing is called here: compute the text in a cell above and name that"
        drawn = is_of(value, "matplotlib", "Artist") or is_of(value, "PIL", "Image")
        drawn = drawn or is_of(value, "plotly", "BaseFigure")
        raise Unwritable(problem, "it goes with the prompt as a picture: -a NAME" if drawn else hint)
    return str(value)


def _speaks(value: Any) -> bool:
    """Return whether the value's text is known to say all of it, in the same way in every process."""
    kind, modules = type(value), {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if isroutine(value) or isclass(value) or ismodule(value):
        return False
    if isinstance(value, (int, complex, BaseException)) or value is None or modules & _SPOKEN:
        return True
    if is_of(value, "numpy", "generic") or is_of(value, "pandas", *_PANDAS):
        return True
    # A class of the notebook's own that says how it is written.
    return kind.__module__ == "__main__" and any("__str__" in vars(base) for base in kind.__mro__[:-1])


def json_of(value: Any) -> str:
    """Return a value as JSON on one line; raises `Unwritable`."""
    try:
        return json.dumps(_jsonable(value), ensure_ascii=False)
    except (ValueError, RecursionError) as problem:
        raise Unwritable(
            f"it can't be written as JSON: {problem}", "compute the text in a cell above"
        ) from None


def _jsonable(value: Any) -> Any:
    """Return `value` in lists, dicts, numbers, texts and None; not-a-number is None, as JSON has none."""
    if isinstance(value, (str, bool, int)):
        return value
    if is_missing(value):
        return None
    if isinstance(value, float) or is_of(value, "numpy", "floating"):
        return float(text_of(value))
    if isinstance(value, Mapping):
        named = {_json_name(key): item for key, item in value.items()}
        if len(named) < len(value):
            raise Unwritable(
                "two of its names are one in JSON, such as 1 and '1'", "name them apart in a cell above"
            )
        return {name: _jsonable(item) for name, item in named.items()}
    if isinstance(value, _COLLECTIONS):
        items = in_order(value) if isinstance(value, (set, frozenset)) else value
        return [_jsonable(item) for item in items]
    if is_array(value):
        return _jsonable(_items_of(value))
    if is_of(value, "numpy", "integer", "bool_", "bool") and str(value.dtype) not in _AS_COUNTS:
        return _jsonable(value.item())
    return _table_as_lists(value)


def _table_as_lists(value: Any) -> Any:
    """Return a table as a list of its rows, a column of pandas as its values, anything else as its text."""
    if is_of(value, "pandas", "Series"):
        items = [row[0] for row in rows_of(value.to_frame())]
        return _jsonable(items if only_counts(value.index) else dict(zip(value.index, items, strict=True)))
    table = as_narwhals(value)
    if not is_of(table, "pandas", "DataFrame") and not is_of(table, "narwhals", "DataFrame"):
        return text_of(value)
    return [_jsonable(dict(zip(table.columns, row, strict=True))) for row in rows_of(table)]


def _items_of(array: Any) -> Any:
    if str(array.dtype) in _AS_COUNTS:
        return list(array) if array.ndim else array[()]
    narrow = narrow_of(array.dtype)
    return widened(array.tolist(), narrow) if narrow else array.tolist()


def _json_name(key: Any) -> str:
    return key if isinstance(key, str) else text_of(key)


def in_order(items: set[Any] | frozenset[Any]) -> list[Any]:
    """Return a set's items in an order that is the same in every process."""
    kinds = {float if isinstance(item, (int, float)) else type(item) for item in items}
    # Of sets, "less" means "part of": no order.
    if len(kinds) <= 1 and not any(issubclass(kind, (set, frozenset)) for kind in kinds):
        try:
            return sorted(items)
        except TypeError:
            pass
    raise Unwritable("this set has no order", "make it a list in a cell above")
