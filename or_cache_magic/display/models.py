"""The models that OpenRouter lists as a table: its columns, and how each is shown."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.units import NOTHING, format_dollars, format_exact
from or_cache_magic.display.escape import one_line
from or_cache_magic.display.tables import Cell, Column, Head, Row, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODEL_TYPES: Final = {
    "id": "str",
    "name": "str",
    "context": "Int64",
    "max_output": "Int64",
    "prompt_usd_per_m": "float64",
    "completion_usd_per_m": "float64",
    "input_modalities": "str",
    "output_modalities": "str",
    "tools": "bool",
    "schema": "bool",
    "created": "datetime64[ns, UTC]",
    "expires": "datetime64[ns, UTC]",
}
"""The columns, in their order, and their types in a DataFrame."""

_ID_WIDTH: Final = 60


def models_table(rows: Iterable[Row]) -> Table:
    """Return the table of models: rows with the columns of `MODEL_TYPES`."""
    return Table.of(_COLUMNS, rows)._replace(
        nothing="no model matches",
        narrow=("id", "context", "$/M in", "$/M out", "expires"),
        wide="id",
    )


def _count(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(NOTHING if row[name] is None else f"{row[name]:,}")


def _price(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(format_dollars(row[name]), format_exact(row[name]))


def _text(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(one_line(row[name], _ID_WIDTH), row[name])


def _flag(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell("yes" if row[name] else NOTHING)


def _day(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        at_s = row[name]
        return Cell(NOTHING if at_s is None else f"{datetime.fromtimestamp(at_s, timezone.utc):%Y-%m-%d}")

    return cell


_COLUMNS: Final[tuple[Column, ...]] = (
    (Head("id", "id: what a cell names", left=True), lambda row: Cell(_text("id")(row).text, row["name"])),
    (Head("context", "context: tokens of prompt and answer together"), _count("context")),
    (Head("output", "max_output: tokens of an answer"), _count("max_output")),
    (Head("$/M in", "prompt_usd_per_m: a million tokens of prompt"), _price("prompt_usd_per_m")),
    (Head("$/M out", "completion_usd_per_m: a million tokens of answer"), _price("completion_usd_per_m")),
    (Head("takes", "input_modalities", left=True), _text("input_modalities")),
    (Head("gives", "output_modalities", left=True), _text("output_modalities")),
    (Head("tools", "tools: whether it calls tools"), _flag("tools")),
    (Head("schema", "schema: whether it can be held to a JSON Schema"), _flag("schema")),
    (Head("created", "created: when OpenRouter had it first, UTC", left=True), _day("created")),
    (Head("expires", "expires: the day on which it goes", left=True), _day("expires")),
)
