"""The options at the top of a prompt file: a small, strict part of YAML, read as YAML reads it or refused.

::

    ---
    model: openai/gpt-4o-mini
    temperature: 0.2
    tags: [letters, draft]
    provider: {"order": ["openai"]}
    system: |
      You are terse.
      You write for teachers.
    ---

A line is ``name: value``. A value is a text without quotes, ``'…'``, or JSON (``"…"``, a number, a list, an
object); a list may also have an item a line below its name, each behind ``- ``; behind ``|`` (``|-``: without
the last line end) a text follows, indented. ``#`` begins a comment. What only full YAML has, objects by
indentation above all, is refused with the way to write it here, so that no reader is misled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from or_cache_magic.core.blocks import read_json

FENCE: Final = "---"

_NAME: Final = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*:(?:[ \t]+(.*)|)")
_COMMENT: Final = re.compile(r"(?:^|[ \t]+)#.*")
_SINGLE: Final = re.compile(r"'((?:[^']|'')*)'[ \t]*(?:#.*)?")
_INDICATORS: Final = "&*!%@`|>,[]{}?:\"'"
_AS_JSON: Final = 'write an object as JSON: {}: {{"name": "value"}}'
_QUOTE: Final = "put the text in quotes, or below {}: | with every line indented"


class Plain(str):
    """A text that was written without quotes: ``0.2`` may be a number, ``true`` a truth value."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """What JSON reads in it; the text itself where it is none."""
        try:
            return read_json(self)
        except ValueError:
            return str(self)


class Item(NamedTuple):
    """One option: the line that it stands in, from 1, its name and its value.

    The value is `Plain`, or what JSON has; None where nothing stands behind the name.
    """

    line: int
    name: str
    value: Any


class FrontMatterError(ValueError):
    """What can't be read, with the line that it stands in and what to write instead."""

    def __init__(self, line: int, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.line = line
        self.hint = hint


def split_front_matter(text: str) -> tuple[list[Item], int]:
    """Return the options at the top of a text, and how many lines they take; none where it has none.

    Raises:
        FrontMatterError: They are not written as this module says, or one of them twice.
    """
    lines = text.split("\n")
    if lines[0].rstrip() != FENCE:
        return [], 0
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == FENCE), None)
    if end is None:
        raise FrontMatterError(1, f"the options have no {FENCE} below them", f"end them with a line {FENCE}")
    items: list[Item] = []
    at = 1
    while at < end:
        line = lines[at]
        if not line.strip() or line.lstrip().startswith("#"):
            at += 1
            continue
        item, at = _read_item(lines[:end], at)
        if item.name in {other.name for other in items}:
            raise FrontMatterError(item.line, f"{item.name} is given twice", "keep one of them")
        items.append(item)
    return items, end + 1


def _read_item(lines: Sequence[str], at: int) -> tuple[Item, int]:
    """Return the option that begins in a line, and the line behind it."""
    found = _NAME.fullmatch(lines[at].rstrip())
    if found is None:
        kind = "an indented line" if lines[at][:1].isspace() else f"{lines[at].strip()[:40]!r}"
        raise FrontMatterError(at + 1, f"{kind} is no option", "a line is written as name: value")
    name, written = found[1], (found[2] or "").strip()
    kind = _COMMENT.sub("", written)
    if kind in ("|", "|-"):
        text, end = _read_block(lines, at + 1)
        return Item(at + 1, name, text + "\n" * (kind == "|" and bool(text))), end
    if not kind:
        return _read_list(lines, at, name)
    return Item(at + 1, name, _read_value(written, at + 1, name)), at + 1


def _read_block(lines: Sequence[str], at: int) -> tuple[str, int]:
    """Return the text in the indented lines from `at` on, and the line behind it."""
    end, indent = at, 0
    for line in lines[at:]:
        depth = len(line) - len(line.lstrip(" "))
        if line.strip():
            indent = indent or depth
            if depth < indent or not indent:
                break
        end += 1
    return "\n".join(line[indent:] for line in lines[at:end]).rstrip("\n") if indent else "", end


def _read_list(lines: Sequence[str], at: int, name: str) -> tuple[Item, int]:
    """Return the list in the lines below a name; None as its value where there is none."""
    found: list[Any] = []
    indents: set[int] = set()
    end = at + 1
    while end < len(lines):
        line = lines[end].strip()
        is_item = line.startswith("- ")
        if is_item:
            indents.add(len(lines[end]) - len(lines[end].lstrip()))
            found.append(_read_value(line[2:].strip(), end + 1, name))
        elif line and not line.startswith("#") and not lines[end][0].isspace():
            break
        if len(indents) > 1 or not (is_item or not line or line.startswith("#")):
            raise FrontMatterError(end + 1, f"{name} has no value that can be read", _AS_JSON.format(name))
        end += 1
    return Item(at + 1, name, found or None), end


def _read_value(written: str, line: int, name: str) -> Any:
    """Return the value of a text that is not blank."""
    if single := _SINGLE.fullmatch(written):
        return single[1].replace("''", "'")
    if written[0] in '"[{':
        return _read_json(written, line, name)
    return _plain(_COMMENT.sub("", written), line, name)


def _plain(text: str, line: int, name: str) -> Plain:
    """Return a text without quotes, in which YAML reads nothing else."""
    if text[:1] in _INDICATORS or text.split(" ", 1)[0] == "-":
        raise FrontMatterError(line, f"{name} begins with {text[:1]}", _QUOTE.format(name))
    if ": " in text or text.endswith(":"):
        raise FrontMatterError(line, f"{name} has a colon in its text", _QUOTE.format(name))
    return Plain(text)


def _read_json(written: str, line: int, name: str) -> Any:
    for text in (written, _COMMENT.sub("", written)):
        try:
            return read_json(text)
        except ValueError:
            continue
    words = [word.strip() for word in written[1:-1].split(",")]
    if written[0] == "[" and written[-1] == "]" and not any(set(word) & set("\"'[]{}:#") for word in words):
        return [_plain(word, line, name) for word in words]
    raise FrontMatterError(line, f"the value of {name} is not JSON: {written[:60]}", _AS_JSON.format(name))
