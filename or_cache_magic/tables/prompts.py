"""A list of prompts, from a variable or a file, as `CompletionCache.ask` takes them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from or_cache_magic.errors import OptionError, RequestError

__all__ = ["Prompt", "options_and_params", "read_prompts"]


class Prompt(NamedTuple):
    """One request of a list.

    Attributes:
        prompt: A text, or a list of messages.
        options: The arguments of `CompletionCache.ask` that stood beside it; they come before those that
            are given for the whole list.
        params: Other fields of the request.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    params: Mapping[str, Any]


_OPTIONS: Final[Mapping[str, tuple[type, ...]]] = {
    "model": (str,),
    "system": (str,),
    "mode": (str,),
    "sample": (int,),
    "ttl": (int, float, str),
    "tag": (str, list, tuple),
    "stream": (bool,),
    "prompt_cache": (str,),
}
"""What is no field of the request, and of which type it is. None is not given."""

_COLUMNS: Final = ("prompt", "model", "system", "tag")
"""The columns of a table that are read. The others are its own data, and not sent."""

_NOTHING_SENT: Final = "(nothing was sent)"
_FORMS: Final = (
    'an item is a text, a list of messages, or an object such as {"prompt": "…", "model": "…"}'
    ' or {"messages": […], "temperature": 0}'
)


def read_prompts(source: Any, folder: Path | None = None) -> list[Prompt]:
    """The prompts of a file or a variable.

    A table (DataFrame, ``.csv``) has a column ``prompt``, and may have ``model``, ``system`` and ``tag``; its
    other columns are not sent. A list (list, tuple, Series, generator, ``.jsonl`` with one item a line) has
    texts, lists of messages, or objects: ``prompt`` or ``messages``, and beside it what `CompletionCache.ask`
    takes. A ``.txt`` has one prompt a line. Empty lines are passed over. Prompts are sent as they stand:
    ``{{ name }}`` in them is text.

    Args:
        source: A path, or anything above that is no text.
        folder: Where a relative path begins; None is the current folder.

    Raises:
        OptionError: It can't be read, or is nothing of the kind.
        RequestError: An item is no prompt; the message says which.
    """
    if isinstance(source, (str, os.PathLike)):
        path = (folder or Path()) / Path(source).expanduser()
        return list(_from_file(path))
    if hasattr(source, "columns"):
        return list(_from_table(source.columns, source.itertuples(index=False, name=None), "row"))
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise OptionError(
            f"a {type(source).__name__} is no list of prompts {_NOTHING_SENT}",
            "give a list, a Series, a DataFrame with a column prompt, or a file",
        )
    return [_prompt(item, f"item {at}") for at, item in enumerate(source)]


def options_and_params(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `CompletionCache.ask` among these, and the other fields of the request."""
    options = {name: value for name, value in fields.items() if name in _OPTIONS}
    return options, {name: value for name, value in fields.items() if name not in _OPTIONS}


def _from_file(path: Path) -> Iterator[Prompt]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise OptionError(
            f"{path.name} is no list of prompts {_NOTHING_SENT}", "it takes .txt, .jsonl or .csv files"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # as the magics read files: no mark, one kind of line end
    except (OSError, UnicodeDecodeError) as problem:
        why = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise OptionError(
            f"{path} can't be read: {why} {_NOTHING_SENT}", "check the name; a relative one begins here"
        ) from None
    return read(text)


def _from_lines(text: str) -> Iterator[Prompt]:
    return (Prompt(line, {}, {}) for line in text.split("\n") if line.strip())


def _from_json_lines(text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise RequestError(
                    f"line {number} is not JSON: {problem} {_NOTHING_SENT}", "one line is one item"
                ) from None
            yield _prompt(item, f"line {number}")


def _from_csv(text: str) -> Iterator[Prompt]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as problem:
        raise OptionError(f"it is not CSV: {problem} {_NOTHING_SENT}", "quote texts with line ends") from None
    return _from_table(rows[0] if rows else [], filter(None, rows[1:]), "row")


_READERS: Final[Mapping[str, Callable[[str], Iterator[Prompt]]]] = {
    ".txt": _from_lines,
    ".jsonl": _from_json_lines,
    ".ndjson": _from_json_lines,
    ".csv": _from_csv,
}


def _from_table(columns: Iterable[Any], rows: Iterable[Sequence[Any]], unit: str) -> Iterator[Prompt]:
    places = {name: at for at, name in enumerate(columns) if name in _COLUMNS}
    if "prompt" not in places:
        raise OptionError(
            f"the table has no column prompt {_NOTHING_SENT}", "rename the one with the prompts"
        )
    for number, row in enumerate(rows):
        cells = {name: row[at] for name, at in places.items() if at < len(row)}
        given = {name: cell for name, cell in cells.items() if name == "prompt" or _is_given(cell)}
        yield _prompt(given, f"{unit} {number}")


def _is_given(cell: Any) -> bool:
    return isinstance(cell, (str, list, tuple)) and bool(cell)  # neither an empty cell nor pandas' NaN


def _prompt(item: Any, place: str) -> Prompt:
    fields = dict(item) if isinstance(item, Mapping) else {"prompt": item}
    asked = [fields.pop(name) for name in ("prompt", "messages") if name in fields]
    if len(asked) != 1 or not _is_prompt(asked[0]):
        raise RequestError(f"{place} is no prompt: {_shown(item)} {_NOTHING_SENT}", _FORMS)
    options, params = options_and_params(fields)
    for name, value in options.items():
        if value is not None and not _fits(name, value):
            raise RequestError(f"{place}: {name} can't be {_shown(value)} {_NOTHING_SENT}", _FORMS)
    return Prompt(asked[0], options, params)


def _fits(name: str, value: Any) -> bool:
    return isinstance(value, _OPTIONS[name]) and isinstance(value, bool) == (name == "stream")


def _is_prompt(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(message, Mapping) for message in value)
    return isinstance(value, str)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"  # noqa: PLR2004 - what fits in a message
