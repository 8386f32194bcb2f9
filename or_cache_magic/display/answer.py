"""An answer's text as data: its JSON, its code, its table, and how they are shown."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.blocks import FENCE, first_code, parse_json
from or_cache_magic.display.escape import fenced, printable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["data_bundle", "parse_table"]

# Compiled when they are first used: most answers are shown as they are.
_TABLE: Final = (
    r"(?m)^[ \t]*(?P<head>\|?[^\n]*\|[^\n]*)\n"
    r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*(?:\n|\Z)"
    r"(?P<rows>(?:[^\n]*\|[^\n]*(?:\n|\Z))*)"
)
_CELL_EDGE: Final = r"(?<!\\)\|"
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


def data_bundle(text: str, format: str) -> dict[str, Any] | None:  # noqa: A002 - the option's name
    """Return what is published for a text as ``json``, ``code`` or ``df``; None for one that is none."""
    try:
        return _FORMATTERS[format](text)
    except (ValueError, RecursionError):
        return None


def _json(text: str) -> dict[str, Any]:
    pretty = printable(json.dumps(parse_json(text), indent=2, ensure_ascii=False))
    return {"text/plain": pretty, "text/markdown": fenced(pretty, "json")}


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


_FORMATTERS: Final = {"json": _json, "code": _code, "df": _table}
