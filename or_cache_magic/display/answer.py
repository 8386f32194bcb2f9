"""What a format looks like: an answer's text to the MIME bundle that is shown and saved."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, get_args

from or_cache_magic.display.escape import fenced, printable
from or_cache_magic.display.markdown import safe_markdown

__all__ = ["FORMATS", "Format", "answer_bundle"]

Format = Literal["auto", "markdown", "text", "json", "code", "df", "none"]
"""How an answer is shown; ``auto`` is Markdown in a notebook and text in a terminal."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)


def answer_bundle(text: str, format: Format = "markdown") -> dict[str, Any]:  # noqa: A002 - the option's name
    """Returns what is published for an answer: MIME type to text. A function of its arguments alone.

    A text that does not keep the format's promise (no JSON, no table, no code) is shown as Markdown:
    it was paid for. ``none`` is an empty bundle; a bundle of text has no Markdown in it.

    Args:
        text: The answer as the model wrote it.
        format: How to show it; ``auto`` is taken as Markdown.
    """
    if format == "none":
        return {}
    if format == "text":
        return {"text/plain": printable(text)}
    try:
        bundle = _FORMATTERS[format](text) if format in _FORMATTERS else None
    except ValueError:
        bundle = None
    return bundle or {"text/plain": printable(text), "text/markdown": safe_markdown(text)}


def _json(text: str) -> dict[str, Any]:
    from or_cache_magic.display.formats import parse_json  # few answers are asked for in a form

    pretty = printable(json.dumps(parse_json(text), indent=2, ensure_ascii=False))
    return {"text/plain": pretty, "text/markdown": fenced(pretty, "json")}


def _code(text: str) -> dict[str, Any] | None:
    from or_cache_magic.display.formats import first_code

    found = first_code(text)
    if found is None:
        return None
    code = printable(found[1])
    return {"text/plain": code, "text/markdown": fenced(code, found[0])}


def _table(text: str) -> dict[str, Any]:
    from or_cache_magic.display.formats import parse_table

    frame = parse_table(printable(text))
    return {"text/plain": repr(frame), "text/html": frame.to_html(notebook=True, escape=True)}


_FORMATTERS: Final = {"json": _json, "code": _code, "df": _table}
