"""What the rows of a table ask: a template filled in, or what a function makes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from or_cache_magic.core.secrets import redacted_text
from or_cache_magic.core.templates import Template
from or_cache_magic.core.value_text import is_missing
from or_cache_magic.errors import OptionError, OrCacheError, RequestError, TemplateError, near_name
from or_cache_magic.tables.frames import ROW, Row, Rows
from or_cache_magic.tables.requests import Prompts


class _Filled:
    """The prompts that a template makes of rows: the same each time."""

    repeats = True

    def __init__(self, rows: Rows, template: str, variables: Mapping[str, Any]) -> None:
        self._rows = rows
        self._template = Template(template)
        paths = self._template.paths
        self._variables = {root: variables[root] for root, _ in paths if root in variables}
        _check_names(template, paths, rows, variables)
        wanted = {step if root == ROW else root for root, step in paths}
        # None is all columns: the whole row is wanted, or the items have what names they have.
        self._names: list[Any] | None = [name for name in rows.names if name in wanted]
        if not rows.is_table or (ROW, None) in paths:
            self._names = None
        self._cells = {ROW, *rows.names}

    def __len__(self) -> int:
        return self._rows.total

    def __iter__(self) -> Iterator[Any]:
        return map(self._fill, self._rows.items(self._names))

    def at(self, places: Iterable[int]) -> Iterator[Any]:
        """Yield those of these rows."""
        items, before = self._rows.items(self._names), -1
        for place in places:
            for _ in range(place - before - 1):
                next(items)
            before = place
            yield self._fill(next(items))

    def _fill(self, item: Any) -> Any:
        cells = item if isinstance(item, Row) else {}
        try:
            return self._template.render({**self._variables, **cells, ROW: item}, self._cells)
        except OrCacheError as exc:
            return exc


def _check_names(
    template: str, paths: Sequence[tuple[str, Any]], rows: Rows, variables: Mapping[str, Any]
) -> None:
    """Raise what is wrong with a template for each row alike: a column that isn't there, or none at all."""
    names = [str(name) for name in rows.names]
    for root, step in paths if rows.is_table else ():
        name = step if root == ROW else root
        if name is not None and name not in rows.names and (root == ROW or root not in variables):
            near, path = near_name(str(name), names), f"{ROW}.{name}" if root == ROW else root
            raise TemplateError(
                f"{{{{ {path} }}}}: there is no column {name!r}; nothing was sent",
                f"did you mean {near}?" if near else f"the columns are {', '.join(names)}",
            )
    if not any(root == ROW or root in rows.names for root, _ in paths) and rows.total:
        single = next((name for name in names if f"{{{name}}}" in template), "")
        raise OptionError(
            "the template names no column, so that every row would ask the same (nothing was sent)",
            f"write {{{{ {single or next(iter(names), ROW)} }}}}{' with two braces' if single else ''},"
            " or give a function of a row",
        )


class _Called:
    """The prompts that a function makes of rows; called once for each, whatever it does."""

    repeats = False

    def __init__(self, rows: Rows, function: Callable[[Any], Any]) -> None:
        self._rows = rows
        self._function = function

    def __len__(self) -> int:
        return self._rows.total

    def __iter__(self) -> Iterator[Any]:
        return map(self._call, self._rows.items(None))

    def at(self, places: Iterable[int]) -> Iterator[Any]:
        """Yield those of these rows."""
        wanted = set(places)
        return (self._call(item) for place, item in enumerate(self._rows.items(None)) if place in wanted)

    def _call(self, item: Any) -> Any:
        try:
            prompt = self._function(item)
        except OrCacheError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - the user's code; the row says it
            told = redacted_text(f"{type(exc).__name__}: {exc}")
            return RequestError(f"the function failed: {told} (nothing was sent)")
        if is_missing(prompt):
            return RequestError("the function gave no prompt (nothing was sent)")
        return prompt


def prompts_of(rows: Rows, template: Any, variables: Mapping[str, Any]) -> Prompts:
    """Return what the rows ask by a template, which may name `variables` besides the columns.

    Raises:
        InputError: The template is none, or can be filled in for no row.
    """
    if isinstance(template, str):
        return _Filled(rows, template, variables)
    if callable(template):
        return _Called(rows, template)
    raise OptionError(
        f"the template is a {type(template).__name__} (nothing was sent)",
        "give a text with {{ column }}, or a function of a row",
    )
