"""The rows of a table of any kind, and a table of the same kind with more columns.

A pandas DataFrame or Series, the same of any library that narwhals knows (polars, Arrow, Modin, …), a list or
another iterable of values. Rows are made as they are gone through, of the columns that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.blocks import parse_json
from or_cache_magic.core.value_text import cells_of, is_of, narrow_of, widened
from or_cache_magic.errors import OptionError

if TYPE_CHECKING:
    from or_cache_magic.core.schema import Schema

ROW: Final = "row"
"""What a row, or an item of a list, is called in templates."""

Columns = Mapping[str, tuple[str, list[Any]]]
"""Columns to be added, by name: the kind of their values, and these. See `KINDS`."""

KINDS: Final = ("text", "number", "whole", "truth", "any")
"""Kinds of columns: text, numbers, whole numbers, true or false, whatever it may be; each or None."""

_KIND_OF_TYPE: Final = {"string": "text", "number": "number", "integer": "whole", "boolean": "truth"}
_KIND_OF_VALUE: Final = {str: "text", float: "number", int: "whole", bool: "truth"}


class Row(dict[Any, Any]):
    """A row: ``row["body"]``, or ``row.body`` where that is no name of a dict's."""

    def __getattr__(self, name: str) -> Any:
        """Return the cell of a column."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the row has no column {name!r}") from None


class Rows(NamedTuple):
    """The rows of some data, which can be gone through more than once.

    Attributes:
        total: How many there are.
        items: Yields them, with the cells of these columns; None is all.
        head: Returns the first so many.
        with_columns: Returns data of the same kind with columns; what is no table is the one of that name.
        names: The columns' names; of a list those of the objects in it.
        is_table: Whether columns that are added stand beside others.
        is_list: Whether the answers are a list of completions.
    """

    total: int
    items: Callable[[Sequence[Any] | None], Iterator[Any]]
    head: Callable[[int], Rows]
    with_columns: Callable[[Columns, str], Any]
    names: Sequence[Any] = ()
    is_table: bool = False
    is_list: bool = False


def _of_pandas(frame: Any) -> Rows:
    every = list(frame.columns)

    def items(names: Sequence[Any] | None) -> Iterator[Any]:
        names = every if names is None else names
        if not names:
            return (Row() for _ in range(len(frame)))
        cells = zip(*(cells_of(frame[name]) for name in names), strict=True)
        return (Row(zip(names, row, strict=True)) for row in cells)

    def with_columns(columns: Columns, _: str) -> Any:
        return frame.assign(**{name: _pandas_column(*made, frame.index) for name, made in columns.items()})

    return Rows(
        len(frame), items, lambda count: _of_pandas(frame.head(count)), with_columns, every, is_table=True
    )


def _of_pandas_column(series: Any) -> Rows:
    return Rows(
        len(series),
        lambda _: iter(cells_of(series)),
        lambda count: _of_pandas_column(series.head(count)),
        lambda columns, out: _pandas_column(*columns[out], series.index).rename(out),
    )


def _of_narwhals(frame: Any) -> Rows:
    def items(names: Sequence[Any] | None) -> Iterator[Any]:
        if names is not None and not names:
            return (Row() for _ in range(len(frame)))
        some = frame if names is None else frame.select(list(names))
        narrow = {name: found for name, dtype in some.schema.items() if (found := narrow_of(dtype))}
        rows = map(Row, some.iter_rows(named=True))
        return (_widened(row, narrow) for row in rows) if narrow else rows

    def with_columns(columns: Columns, _: str) -> Any:
        return frame.with_columns(
            *(_other_column(name, *made, frame) for name, made in columns.items())
        ).to_native()

    return Rows(
        len(frame),
        items,
        lambda count: _of_narwhals(frame.head(count)),
        with_columns,
        list(frame.columns),
        is_table=True,
    )


def _widened(row: Row, narrow: Mapping[str, str]) -> Row:
    row.update({name: widened(row[name], letter) for name, letter in narrow.items()})
    return row


def _of_narwhals_column(series: Any) -> Rows:
    narrow = narrow_of(series.dtype)
    return Rows(
        len(series),
        lambda _: iter(widened(series.to_list(), narrow) if narrow else series.to_list()),
        lambda count: _of_narwhals_column(series.head(count)),
        lambda columns, out: _other_column(out, *columns[out], series).to_native(),
    )


def _of_list(given: Sequence[Any]) -> Rows:
    names = dict.fromkeys(name for item in given if isinstance(item, Mapping) for name in item)
    return Rows(
        len(given),
        lambda _: (Row(item) if isinstance(item, Mapping) else item for item in given),
        lambda count: _of_list(given[:count]),
        lambda columns, out: columns[out][1],
        list(names),
        is_list=True,
    )


def fields_of(schema: Schema | None, taken: Container[str], prefix: str = "answer") -> dict[str, str]:
    """Return the fields that a schema's object has, by the column that each gets; none without one.

    Args:
        schema: What the answers are.
        taken: The names of other columns.
        prefix: What stands before a field that is called as one of these.
    """
    if schema is None or schema.key:
        return {}
    properties = schema.response_format["json_schema"]["schema"].get("properties", {})
    return {f"{prefix}_{name}" if name in taken else name: name for name in properties}


def kind_of(schema: Schema | None, field: str = "") -> str:
    """Return the kind of column for the values of a schema's field, or without one of the value itself."""
    if schema is None:
        return "text"
    properties = schema.response_format["json_schema"]["schema"].get("properties", {})
    node = properties.get(field or schema.key)
    kinds = node.get("type") if isinstance(node, Mapping) else None
    named = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    return _KIND_OF_TYPE.get(named[0], "any") if len(named) == 1 and isinstance(named[0], str) else "any"


def field_values(text: str, fields: Iterable[str]) -> list[Any]:
    """Return what an answer's text has of these fields; None is what it hasn't."""
    value = parse_json(text)
    return [value.get(name) if isinstance(value, dict) else None for name in fields]


def read_rows(data: Any) -> Rows:
    """Return the rows of some data.

    Raises:
        OptionError: It has none, or they can't be named.
    """
    if is_of(data, "pandas", "DataFrame"):
        rows = _of_pandas(data)
    elif is_of(data, "pandas", "Series", "Index"):
        rows = _of_pandas_column(data if is_of(data, "pandas", "Series") else data.to_series())
    elif isinstance(data, (list, tuple)):
        rows = _of_list(data)
    else:
        rows = _of_another_library(data)
    if len(set(rows.names)) < len(rows.names):
        twice = next(name for name in rows.names if list(rows.names).count(name) > 1)
        raise OptionError(f"two columns are called {twice!r} (nothing was sent)", "rename one of them")
    return rows


def _of_another_library(data: Any) -> Rows:
    import narwhals as nw

    found = nw.from_native(data, pass_through=True, allow_series=True)
    if isinstance(found, nw.LazyFrame):
        raise OptionError(
            "a lazy table has no rows yet (nothing was sent)", "collect it: table = lazy.collect()"
        )
    if isinstance(found, nw.DataFrame):
        return _of_narwhals(found)
    if isinstance(found, nw.Series):
        return _of_narwhals_column(found)
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise OptionError(
            f"a {type(data).__name__} has no rows (nothing was sent)",
            "give a DataFrame, a Series, a list; of a dict of columns pd.DataFrame(data)",
        )
    return _of_list(list(data))


def _pandas_column(kind: str, values: Sequence[Any], index: Any) -> Any:
    """Return a column of pandas; text stays None where it is missing."""
    import pandas as pd

    kind = _kind_in(values) if kind == "any" else kind
    if kind == "number":
        return pd.Series(values, index=index, dtype="float64")
    some_missing = any(value is None for value in values)  # which would make floats of whole numbers
    dtypes = {"whole": "Int64" if some_missing else "int64", "truth": "boolean" if some_missing else "bool"}
    try:
        return pd.Series(values, index=index, dtype=dtypes.get(kind, "object"))
    except (OverflowError, TypeError, ValueError):  # beyond 64 bits
        return pd.Series(values, index=index, dtype="object")


def _kind_in(values: Iterable[Any]) -> str:
    """Return the kind of values of a column that may hold anything."""
    found = {type(value) for value in values if value is not None}
    return _KIND_OF_VALUE.get(found.pop(), "any") if len(found) == 1 else "any"


def _other_column(name: str, kind: str, values: Sequence[Any], like: Any) -> Any:
    import narwhals as nw

    kinds: dict[str, Any] = {"text": nw.String, "number": nw.Float64, "whole": nw.Int64, "truth": nw.Boolean}
    backend = nw.get_native_namespace(like)
    kind = _kind_in(values) if kind == "any" else kind
    try:
        return nw.new_series(name, values, kinds.get(kind), backend=backend)
    except Exception:
        if kind not in ("any", "whole"):
            raise
        from or_cache_magic.core.value_text import json_of

        texts = [None if value is None else json_of(value) for value in values]  # of several kinds at once
        return nw.new_series(name, texts, nw.String, backend=backend)
