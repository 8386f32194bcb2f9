"""An answer's text as data: its JSON, its code, its table, and how they are shown."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.blocks import FENCE, first_code, parse_json
from or_cache_magic.display.escape import fenced, printable
from or_cache_magic.display.tables import Cell, Head, Table, html, markdown, text

if TYPE_CHECKING:
    import pandas as pd

# Compiled when they are first used: most answers are shown as they are.
_TABLE: Final = (
    r"(?m)^[ \t]*(?P<head>\|?[^\n]*\|[^\n]*)\n"
    r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*(?:\n|\Z)"
    r"(?P<rows>(?:[^\n]*\|[^\n]*(?:\n|\Z))*)"
)
_CELL_EDGE: Final = r"(?<!\\)\|"
_MOST_ROWS: Final = 60
_SEPARATORS: Final = {"csv": ",", "tsv": "\t", "": ","}


def parse_table(text: str) -> pd.DataFrame:
    """Return the table of a text as a DataFrame; columns of numbers are numbers.

    It may be JSON (a list of objects, an object of lists, or an object whose only value is one of
    these), a fenced block of CSV or TSV, or a Markdown table.

    Raises:
        ValueError: It is none of these, or a damaged one.
    """
    try:
        return _table_of(text)
    except ValueError:
        raise
    except Exception as exc:
        raise ValueError(f"no table: {exc}") from exc


def _table_of(text: str) -> pd.DataFrame:
    try:
        value = parse_json(text)
    except ValueError as exc:
        not_json = exc
    else:
        return _frame_of(value)
    fence = re.search(FENCE, text)
    if fence and fence["language"].lower() in _SEPARATORS:
        return _frame_of_csv(fence["code"], _SEPARATORS[fence["language"].lower()])
    table = re.search(_TABLE, text)
    if table:
        return _frame_of_markdown(table)
    raise ValueError(
        f"no table: neither a Markdown table, nor fenced CSV, nor JSON ({not_json})"
    ) from not_json


def _frame_of(value: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(value, dict) and len(value) == 1:
        inner = next(iter(value.values()))
        if isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(inner[0], dict)):
            value = inner
        elif inner is None:
            value = None
    if value is None:
        raise ValueError("it is null, and has no rows")
    if isinstance(value, list) and not any(isinstance(row, (dict, list)) for row in value):
        value = [{"value": row} for row in value]
    rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    columns = isinstance(value, dict) and value and all(isinstance(cell, list) for cell in value.values())
    if not (rows or columns):
        raise ValueError("the JSON is no table: expected a list of objects, or an object of lists")
    frame: pd.DataFrame = pd.DataFrame(value)
    return frame


def _frame_of_csv(text: str, separator: str) -> pd.DataFrame:
    import pandas as pd

    # EmptyDataError and ParserError are ValueErrors already.
    frame: pd.DataFrame = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True)
    return frame


def _frame_of_markdown(table: re.Match[str]) -> pd.DataFrame:
    import pandas as pd

    columns = _cells(table["head"])
    rows = [_cells(line) for line in table["rows"].splitlines()]
    # GFM: short rows are filled up, what is too much is dropped.
    filled = [(row + [""] * len(columns))[: len(columns)] for row in rows]
    frame: pd.DataFrame = pd.DataFrame(filled, columns=columns)
    for at in range(len(columns)):
        try:
            frame.isetitem(at, pd.to_numeric(frame.iloc[:, at]).to_numpy())
        except ValueError:
            continue  # a column of text stays text
    return frame


def _cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    line = line[:-1] if line.endswith("|") and not line.endswith("\\|") else line
    return [cell.strip().replace("\\|", "|") for cell in re.split(_CELL_EDGE, line)]


def data_bundle(answer: str, format: str) -> dict[str, Any] | None:  # noqa: A002 - the option's name
    """Return what is published for a text in a format, such as ``json``; None where it is nothing of it."""
    try:
        return _FORMATTERS[format](answer)
    except (ValueError, RecursionError):
        return None


def _json(text: str) -> dict[str, Any]:
    return _tree(parse_json(text))


def _tree(value: Any) -> dict[str, Any]:
    """Return a JSON value as text, and as a tree for the front ends that have one and show it as it is."""
    pretty = printable(json.dumps(value, indent=2, ensure_ascii=False))
    shown: dict[str, Any] = {"text/plain": pretty, "text/markdown": fenced(pretty, "json")}
    if isinstance(value, (dict, list)) and _is_exact(value):
        shown["application/json"] = json.loads(pretty)
    return shown


def _is_exact(value: Any) -> bool:
    """Return whether a browser shows all numbers in a value to the last digit."""
    if isinstance(value, (dict, list)):
        return all(map(_is_exact, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or abs(value) < 1 << 53


def _data(text: str) -> dict[str, Any]:
    """Return the value that a schema asked for: a list of flat objects as a table, all else as JSON."""
    value = parse_json(text)
    if isinstance(value, dict) and len(value) == 1 and not value.keys().isdisjoint(("items", "value")):
        (value,) = value.values()  # what is no object stands in one
    return _rows(value) if _is_table(value) else _tree(value)


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(row, dict) and row and all(map(_is_cell, row.values())) for row in value)
    )


def _is_cell(value: Any) -> bool:
    scalars = value if isinstance(value, list) else [value]
    return not any(isinstance(scalar, (dict, list)) for scalar in scalars)


def _rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [[_cell_text(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    heads = [Head(name, left=not all(_is_number(row.get(name)) for row in rows)) for name in names]
    some = [[Cell(text) for text in row] for row in texts[:_MOST_ROWS]]
    left_out = len(rows) - len(some)
    notes = ["data has all of them"] if left_out else []
    widest = names[widths.index(max(widths))]
    table = Table(heads, some, notes, cut_at=len(some), left_out=left_out, wide=widest)
    return {"text/plain": text(table), "text/html": html(table), "text/markdown": markdown(table)}


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell_text, value))
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _code(text: str) -> dict[str, Any] | None:
    found = first_code(text)
    if found is None:
        return None
    code = printable(found[1])
    return {"text/plain": code, "text/markdown": fenced(code, found[0])}


def _table(text: str) -> dict[str, Any]:
    frame = parse_table(text)
    shown = {"text/plain": repr(frame), "text/html": frame.to_html(notebook=True, escape=True)}
    return {kind: printable(form) for kind, form in shown.items()}


_FORMATTERS: Final = {"json": _json, "code": _code, "df": _table, "data": _data}
