r"""The short form of a schema: ``name str, year int?, tags [str], mood enum(good,bad)``.

::

    schema = fields | type
    fields = field {separator field} [separator]
    field  = NAME type [TEXT]                     TEXT describes the field to the model
    type   = ("str" | "int" | "float" | "bool" | "date" | "datetime"
              | "[" type "]"                      a list
              | "{" fields "}"                    an object
              | "enum" "(" choice {"," choice} ")") ["?"]     a question mark: or null
    choice = WORD | TEXT                          whole numbers where all are
    separator = "," | a line's end

A NAME begins with a letter or ``_`` and goes on with these, digits and hyphens. A TEXT stands in double or
single quotes; a backslash before a quote or a backslash means that character.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, NoReturn

from or_cache_magic.core.json_schema import nullable
from or_cache_magic.errors import near_name

TYPES: Final[dict[str, dict[str, Any]]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
}
"""The types that have a name of their own."""

_MEANT: Final = {
    **dict.fromkeys(("string", "text", "char", "varchar"), "str"),
    **dict.fromkeys(("integer", "long", "whole"), "int"),
    **dict.fromkeys(("number", "double", "real", "decimal"), "float"),
    "boolean": "bool",
    "timestamp": "datetime",
    **dict.fromkeys(("list", "array", "tuple", "set"), "[str]"),
    **dict.fromkeys(("object", "dict", "map"), "{name str, …}"),
    **dict.fromkeys(("literal", "choice", "oneof"), "enum(good,bad)"),
}
"""What other languages call them."""

_LEXEME: Final = (
    r"[ \t\r\f\v]*(?:(?P<line>\n)|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
    r"|(?P<word>[^\W\d][\w-]*|[+-]?\d[\w.+-]*)|(?P<sign>[][{}(),?])|(?P<end>\Z)|(?P<other>(?s:.)))"
)
_NAME: Final = r"[^\W\d][\w-]*"
_WHOLE: Final = r"(?a)[+-]?\d{1,18}"
_CLOSES: Final = {"[": "]", "{": "}", "(": ")"}
_FOLLOWS_TYPE: Final = "what follows a type is ?, a description in quotes, or a comma"


class _Token(NamedTuple):
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return {"end": "the end", "line": "the line's end"}.get(self.kind, repr(self.text))


def parse_compact(text: str) -> dict[str, Any]:
    """Return the JSON Schema that the short form means, with its properties in order.

    Raises:
        ValueError: It is none; says where (line and column), and what to write.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._source = text
        self._tokens: list[_Token] = []
        for found in re.finditer(_LEXEME, text):
            kind = str(found.lastgroup)
            self._tokens.append(_Token(kind, found[kind], found.start(kind)))
            if kind == "end":
                break
        self._at = 0

    def whole(self) -> dict[str, Any]:
        self._skip_lines()
        first, *others = self._tokens[self._at :]
        if first.kind == "end":
            raise ValueError("the schema is empty: write name str, year int?")
        others = [token for token in others if token.kind != "line"]
        alone = first.text in TYPES and others[others[0].text == "?"].kind == "end"
        if first.text in ("[", "{") or others[0].text == "(" or alone:
            found = self._type("")
            self._skip_lines()
            if self._next.kind != "end":
                self._fail(self._next, f"{self._next} stands behind the end of the schema")
            return found
        return self._fields(None)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _skip_lines(self) -> None:
        while self._next.kind == "line":
            self._at += 1

    def _separated(self) -> bool:
        """Return whether a comma or a line's end follows, and pass over it."""
        before = self._at
        self._skip_lines()
        if self._next.text == ",":
            self._at += 1
            self._skip_lines()
        return self._at > before

    def _fields(self, opening: _Token | None) -> dict[str, Any]:
        closing = "}" if opening else ""
        properties: dict[str, Any] = {}
        self._skip_lines()
        while self._next.kind != "end" and (not closing or self._next.text != closing):
            name = self._name(properties)
            node = self._type(name)
            described = self._description(name)
            properties[name] = {**node, "description": described} if described else node
            if not self._separated():
                break
        self._close(opening, closing, "a comma is missing before")
        if not properties and opening:
            self._fail(opening, "an object has at least one field: {name str}")
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _close(self, opening: _Token | None, closing: str, missing: str) -> None:
        """Pass over the bracket that closes, or the end."""
        token = self._next
        if opening and token.kind == "end":
            self._fail(opening, f"this {opening.text} is never closed: write {closing} behind what is in it")
        if (opening and token.text == closing) or (not opening and token.kind == "end"):
            self._take()
            return
        if token.text in ("]", "}", ")"):
            opened = f", which {opening.text} does not open" if opening else ""
            self._fail(token, f"{token.text} closes nothing{opened}")
        if token.kind == "other":
            self._refuse(token)
        if token.kind == "text":
            self._fail(token, "a field has one description")
        if token.text == "?":
            self._fail(token, "one ? is enough")
        if token.kind == "sign":
            self._fail(token, f"{token} can't stand here: {_FOLLOWS_TYPE}")
        self._fail(token, f"{missing} {token}")

    def _name(self, properties: dict[str, Any]) -> str:
        token = self._take()
        if token.kind == "other":
            self._refuse(token)
        if token.text == ",":
            self._fail(token, "a field is missing before this comma")
        if token.kind != "word" or not re.fullmatch(_NAME, token.text):
            self._fail(token, f"{token} is no name of a field: it begins with a letter and has no spaces")
        if token.text in properties:
            self._fail(token, f"there are two fields {token.text}")
        return token.text

    def _type(self, name: str) -> dict[str, Any]:
        token = self._take()
        if token.text == "[":
            self._skip_lines()
            inner = self._type("")
            self._skip_lines()
            self._close(token, "]", "a list has one type, and no")
            found = {"type": "array", "items": inner}
        elif token.text == "{":
            found = self._fields(token)
        elif token.kind == "word":
            found = self._enum(token) if token.text == "enum" else self._named(token, name)
        else:
            self._no_type(token, name)
        if self._next.text == "?":
            self._take()
            found = nullable(found)
        return found

    def _no_type(self, token: _Token, name: str) -> NoReturn:
        if token.text == "?" and name:
            self._fail(token, f"the ? goes behind the type: {name} str?")
        if token.text == ":":
            self._fail(token, f"no colon goes between a name and its type: {name} str")
        if token.kind == "other":
            self._refuse(token)
        self._fail(token, f"{name} has no type: write {name} str" if name else f"{token} is no type")

    def _named(self, token: _Token, name: str) -> dict[str, Any]:
        if token.text in TYPES:
            return dict(TYPES[token.text])
        lower = token.text.lower()
        meant = _MEANT.get(lower) or near_name(lower, [*TYPES, "enum"])
        if name in TYPES and not meant:
            self._fail(token, f"{token} is no type; the name comes first: {token.text} {name}")
        if not name and self._next.text in TYPES:
            self._fail(
                token, f"{token} is no type; an object stands in braces: {{{token.text} {self._next.text}}}"
            )
        known = f"the types are {', '.join(TYPES)}, enum(…), […], {{…}}"
        return self._fail(token, f"{token} is no type: {f'did you mean {meant}?' if meant else known}")

    def _enum(self, word: _Token) -> dict[str, Any]:
        opening = self._take()
        if opening.text != "(":
            self._fail(word, "enum needs its choices: enum(good,bad)")
        choices: list[str] = []
        whole = True
        while self._next.text != ")":
            self._skip_lines()
            token = self._take()
            if token.kind == "end":
                self._fail(opening, "this ( is never closed: write ) behind the choices")
            if token.kind not in ("word", "text"):
                self._fail(token, f"{token} is no choice: write words with commas between, or quote them")
            choice = token.text if token.kind == "word" else _unquoted(token.text)
            if choice in choices:
                self._fail(token, f"there are two choices {choice!r}")
            choices.append(choice)
            whole = whole and token.kind == "word" and re.fullmatch(_WHOLE, choice) is not None
            if not self._separated() and self._next.text != ")" and self._next.kind != "end":
                self._fail(self._next, f"a comma is missing before {self._next}; quote a choice with spaces")
        self._take()
        if not choices:
            self._fail(opening, "enum needs its choices: enum(good,bad)")
        return (
            {"type": "integer", "enum": [*map(int, choices)]}
            if whole
            else {"type": "string", "enum": choices}
        )

    def _description(self, name: str) -> str:
        if self._next.kind != "text":
            return ""
        token = self._take()
        text = _unquoted(token.text)
        if not text.strip():
            self._fail(token, f"the description of {name} is empty")
        return text

    def _refuse(self, token: _Token) -> NoReturn:
        if token.text in "\"'":
            self._fail(token, f"the quote {token.text} is never closed")
        described = "; a description stands in quotes" if token.text == ":" else ""
        self._fail(token, f"{token} means nothing here{described}")

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        line = self._source.count("\n", 0, token.at) + 1
        column = token.at - self._source.rfind("\n", 0, token.at)
        where = f"line {line}, column {column}" if "\n" in self._source.strip() else f"column {column}"
        raise ValueError(f"{where}: {problem}")


def _unquoted(text: str) -> str:
    return re.sub(r"\\([\"'\\])", r"\1", text[1:-1])
