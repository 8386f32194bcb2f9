"""The difference of two requests, field by field and word by word, to be shown in a cell or in a terminal.

Prompts are foreign text: they are shown in printable form, and as text, never as Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import as_mapping, messages_of
from or_cache_magic.core.key import NOT_IN_KEY, canonical_json
from or_cache_magic.display.escape import escape_html, printable
from or_cache_magic.explain.nearest import WORD

if TYPE_CHECKING:
    from or_cache_magic.core.records import Request

SAME, GONE, NEW = "=", "-", "+"
"""What a piece of a `Change` is: in both, in the earlier one alone, in the later one alone."""

PROMPT, SYSTEM = "prompt", "system"
"""The fields that are texts of the user's, beside the other messages."""

Piece = tuple[str, str]

_TOKENS: Final = re.compile(rf"\d+(?:[.,:]\d+)*|{WORD}|\s+|[^\w\s]")
_LINES: Final = re.compile(r".*\n|.+$")
_MOST_TOKENS: Final = 2000
"""More are not compared one by one: that takes a time that grows with their square."""
_AROUND: Final = 40
"""Characters that are shown before and after what differs."""
_LONGEST: Final = 400
"""Characters of one piece that are shown."""

_ANSI: Final[Mapping[str, str]] = {GONE: "\x1b[31;9m", NEW: "\x1b[32m"}
_PLAIN: Final[Mapping[str, tuple[str, str]]] = {GONE: ("[-", "-]"), NEW: ("{+", "+}"), SAME: ("", "")}
_HTML: Final[Mapping[str, tuple[str, str]]] = {
    GONE: ('<del style="color: #b3261e; background-color: rgba(179, 38, 30, 0.12)">', "</del>"),
    NEW: ('<ins style="color: #1a7f37; background-color: rgba(26, 127, 55, 0.12)">', "</ins>"),
    SAME: ("", ""),
}


class Change(NamedTuple):
    """One field in which two requests differ.

    Attributes:
        field: ``model``, ``system``, ``prompt``, ``message 2 (user)``, ``temperature``.
        pieces: What is the same, gone and new, in order; long stretches that are the same are cut.
    """

    field: str
    pieces: Sequence[Piece]

    @property
    def text(self) -> str:
        """The change as one line of plain text."""
        return f"{printable(self.field)}: {_joined(self.pieces, _PLAIN)}"

    @property
    def ansi(self) -> str:
        """The change as one line for a terminal: what is gone red and struck out, what is new green."""
        shown = (
            f"{_ANSI[kind]}{_shown(text, kind)}\x1b[0m" if kind in _ANSI else _shown(text, kind)
            for kind, text in self.pieces
        )
        return f"{printable(self.field)}: {''.join(shown)}"

    @property
    def html(self) -> str:
        """The change as HTML, without a block of its own."""
        return f"<b>{html_text(self.field)}</b>: {_joined(self.pieces, _HTML, html_text)}"


def changes(before: Request, after: Request) -> list[Change]:
    """Return what differs between two requests, in the order of importance; empty where nothing does.

    Args:
        before: The stored one.
        after: The one that was asked.
    """
    found = [*_named("model", _model(before.body), _model(after.body))]
    found += _messages(before.body, after.body)
    apart = {"model", "models", "messages", *NOT_IN_KEY}
    for name in dict.fromkeys((*before.body, *after.body)):
        if name not in apart:
            found += _named(name, _value(before.body, name), _value(after.body, name))
    found += _named("sample", str(before.sample), str(after.sample))
    found += _named("base_url", before.base_url, after.base_url)
    if not found and before.stream != after.stream:
        found += _named("stream", str(before.stream), str(after.stream))
    return found


def words_changed(before: str, after: str) -> list[Piece]:
    """Return two texts as the pieces that they share and in which they differ, word by word.

    A text that differs in too many words to compare each is compared line by line, or shown whole.
    """
    for pattern in (_TOKENS, _LINES, _TOKENS):
        one, other = pattern.findall(before), pattern.findall(after)
        start = _common(one, other)
        end = len(one) - _common(one[start:][::-1], other[start:][::-1])
        gone, new = one[start:end], other[start : end + len(other) - len(one)]
        if max(len(gone), len(new)) <= _MOST_TOKENS:
            middle = [*_compared(gone, new)]
            break
        middle = [(GONE, "".join(gone)), (NEW, "".join(new))]
    return _merged([(SAME, "".join(one[:start])), *middle, (SAME, "".join(one[end:]))])


def _compared(one: Sequence[str], other: Sequence[str]) -> Iterator[Piece]:
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            yield SAME, "".join(one[i1:i2])
        else:
            yield GONE, "".join(one[i1:i2])
            yield NEW, "".join(other[j1:j2])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces without empty ones, and those of a kind that follow each other as one."""
    merged: list[Piece] = []
    for kind, text in pieces:
        if text and merged and merged[-1][0] == kind:
            merged[-1] = (kind, merged[-1][1] + text)
        elif text:
            merged.append((kind, text))
    return merged


def _named(name: str, before: str | None, after: str | None, absent: str = "not set") -> Iterator[Change]:
    if before == after:
        return
    if before is None or after is None or (not _is_text(name) and len(before) + len(after) <= _AROUND):
        pieces = [(GONE, absent if before is None else before), (NEW, absent if after is None else after)]
    else:
        pieces = words_changed(before, after)
    yield Change(name, _cut(pieces))


def _is_text(name: str) -> bool:
    return name in (PROMPT, SYSTEM) or name.startswith("message ")


def _messages(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    one, other = messages_of(before), messages_of(after)
    yield from _named(SYSTEM, _popped_system(one), _popped_system(other))
    last = max(len(one), len(other)) - 1
    for at, (a, b) in enumerate(zip_longest(one, other)):
        role = str((b or a or {}).get("role", ""))
        name = PROMPT if at == last and role == "user" else f"message {at + 1} ({role})"
        yield from _named(name, _said(a), _said(b), "not there")


def _popped_system(messages: list[Mapping[str, Any]]) -> str | None:
    if messages and messages[0].get("role") in ("system", "developer"):
        return _said(messages.pop(0))
    return None


def _said(message: Mapping[str, Any] | None) -> str | None:
    """Return what a message says as text, with what else is in it as JSON; None of none."""
    if message is None:
        return None
    content, apart = message.get("content"), ("role", "content", "cache_control")
    rest = {name: value for name, value in message.items() if name not in apart}
    parts = content if isinstance(content, list) else [content]
    said = [part if isinstance(part, str) else as_mapping(part).get("text") or _json(part) for part in parts]
    return "\n".join(map(str, (*said, *([_json(rest)] if rest else []))))


def _model(body: Mapping[str, Any]) -> str:
    models = body.get("models")
    return ", ".join(filter(None, (str(body.get("model") or ""), _json(models) if models else "")))


def _value(body: Mapping[str, Any], name: str) -> str | None:
    return _json(body[name]) if name in body else None


def _json(value: Any) -> str:
    return canonical_json(value).decode()  # what is one in the key is one here: 0 and 0.0


def _cut(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces whose stretches of the same are cut to what stands around the changes."""
    last = len(pieces) - 1
    return [
        (kind, _shortened(kind, text, first=not at, last=at == last))
        for at, (kind, text) in enumerate(pieces)
    ]


def _shortened(kind: str, text: str, *, first: bool, last: bool) -> str:
    if kind == SAME and len(text) > 2 * _AROUND + 10:
        return f"{'' if first else text[:_AROUND]} … {'' if last else text[-_AROUND:]}".strip(" ")
    if len(text) > _LONGEST:
        half, more = _LONGEST // 2, len(text) - _LONGEST
        return f"{text[:half]} … ({more:,} more characters) … {text[-half:]}"
    return text


def _joined(pieces: Sequence[Piece], marks: Mapping[str, tuple[str, str]], form: Any = None) -> str:
    form = form or (lambda text: text)
    return "".join(f"{marks[kind][0]}{form(_shown(text, kind))}{marks[kind][1]}" for kind, text in pieces)


def _shown(text: str, kind: str) -> str:
    """Return a piece on one line, its ends of lines as signs; white space that alone differs is seen too."""
    if kind != SAME and text.isspace():
        text = text.replace(" ", "·")
    return printable(text.replace("\r", "␍").replace("\n", "↵").replace("\t", "→"))


def html_text(text: str) -> str:
    """Return a text for HTML in a notebook, where a page looks for mathematics and Markdown too."""
    return escape_html(text).replace("\\", "<span>&#92;</span>").replace("$", "<span>&#36;</span>")
