"""A JSON value that fits a JSON Schema, filled from the words of a prompt.

Enough of JSON Schema for structured outputs and tool parameters: types, enum, const, properties,
items, anyOf, allOf, local ``$ref``, bounds and lengths. Patterns are not honoured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from or_cache_magic.simulator.text import central_sentences, keywords, sentiment

_DEEPEST: Final = 8
_FORMATS: Final = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_A_PROPER_NAME: Final = re.compile(
    r"(?<![.!?\n] )(?<!^)\b[A-Z]\w*[a-z][\w'\u2019-]*(?: [A-Z]\w*[a-z][\w'\u2019-]*)*"
)
_ABOUT_NAMES: Final = re.compile(
    r"name|author|person|city|country|company|place|who|title|product|location|shop|store|merchant"
)
_DATE: Final = re.compile(r"\b[12]\d{3}-[01]\d-[0-3]\d\b")
_ROW: Final = re.compile(r"^[ \t|*•-]*([^\W\d][^\d\n|]*?)[\W_]*-?\d[\d.,]*[^\d\n]*$", re.MULTILINE)
"""A line of a list or a table: words, and one number."""
_MOST_ROWS: Final = 50
_ABOUT_TEXTS: Final = re.compile(r"summary|description|explanation|reason|abstract|answer|text|comment")


def fill_schema(schema: Any, prompt: str) -> Any:
    """A value that fits ``schema``, the same for the same schema and prompt."""
    root = schema if isinstance(schema, dict) else {}
    return _Filler(root, prompt).value(root, "", 0)


def named_keys(prompt: str) -> list[str]:
    """The keys that a prompt asks for in words (``with keys name, year and city``); may be empty."""
    found = re.search(r"\b(?:keys?|fields?|properties)\b[:\s]+([\w\s,`\"']+)", prompt, re.IGNORECASE)
    found = found or re.search(r"\bextract\b([\w\s,]+?)\b(?:as|from|in|into)\b", prompt, re.IGNORECASE)
    if found is None:
        return []
    words = re.split(r",|\band\b|\s", found.group(1).split("\n")[0])
    named = (word.strip(" `\"'") for word in words)
    return [word for word in named if word.isidentifier() and word not in {"a", "an", "the", "with"}][:12]


@dataclass(frozen=True, slots=True)
class _Filler:
    root: dict[str, Any]
    prompt: str
    label: str = ""

    def value(self, schema: Any, name: str, depth: int) -> Any:
        """A value for ``schema``, which describes the property ``name``."""
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in {"integer", "number"}:
            return self._number(schema, name, whole=kind == "integer")
        if kind == "boolean":
            return sentiment(self.prompt) != "negative"
        return None if kind == "null" else self._string(schema, name)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        for _ in range(_DEEPEST):
            if not isinstance(schema, dict):
                return {}
            if "$ref" in schema:
                schema = self._referred(str(schema["$ref"]))
            elif "allOf" in schema:
                parts = [self._resolved(part) for part in schema["allOf"]]
                merged = {key: item for part in parts for key, item in part.items()}
                schema = merged | {key: item for key, item in schema.items() if key != "allOf"}
            elif "anyOf" in schema or "oneOf" in schema:
                options = schema.get("anyOf") or schema.get("oneOf") or [{}]
                schema = next(
                    (o for o in options if isinstance(o, dict) and o.get("type") != "null"), options[0]
                )
            else:
                return schema
        return {}

    def _referred(self, reference: str) -> Any:
        target: Any = self.root
        for step in reference.lstrip("#/").split("/"):
            if step:
                target = target.get(step, {}) if isinstance(target, dict) else {}
        return target

    def _choice(self, values: list[Any]) -> Any:
        lowered = {str(value).lower(): value for value in values}
        if {"positive", "negative"} <= lowered.keys():
            return lowered.get(sentiment(self.prompt), values[0])
        for value in values:
            if re.search(rf"\b{re.escape(str(value))}\b", self.prompt, re.IGNORECASE):
                return value
        return values[0]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = set(schema.get("required", properties))
        wanted = properties if depth < _DEEPEST else {k: v for k, v in properties.items() if k in required}
        if depth > 2 * _DEEPEST:
            return {}
        return {key: self.value(inner, key, depth + 1) for key, inner in wanted.items()}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        fewest, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 3))
        count = max(fewest, min(most, 3 if depth < 3 else 0))  # noqa: PLR2004
        inner = self._resolved(schema.get("items", {}))
        if inner.get("type") == "string" and not inner.keys() & {"enum", "const", "format"}:
            names = self._names() if _ABOUT_NAMES.search(name) else []
            words = (names or keywords(self.prompt, max(count, 1)) or ["item"])[:count]
            words += words[:1] * (fewest - len(words))
            return [_fitted(word, inner) for word in words]
        rows = [row for row in _ROW.finditer(self.prompt) if not _names_a_property(row[1], self.root)]
        if inner.get("type") == "object" and len(rows) >= max(fewest, 2):
            rows = rows[: min(_MOST_ROWS, schema.get("maxItems", _MOST_ROWS))]
            fillers = [_Filler(self.root, row[0], row[1]) for row in rows]
            return [filler.value(inner, name, depth + 1) for filler in fillers]
        return [self.value(inner, name, depth + 1) for _ in range(count)]

    def _number(self, schema: dict[str, Any], name: str, *, whole: bool) -> int | float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        pattern = (
            r"\b(1[5-9]\d\d|20\d\d)\b"
            if "year" in name.lower()
            else r"(?<![\w.])-?\d{1,12}(?:\.\d+)?(?![\w.])"
        )
        named = re.search(rf"(?i)\b{re.escape(name)}\b[^\d\n]{{0,20}}?(-?\d{{1,12}}(?:\.\d+)?)", self.prompt)
        for found in [*([named[1]] if named and name else []), *re.findall(pattern, self.prompt)]:
            number = float(found)
            inside = (low is None or number > low) and (high is None or number < high)
            if inside and (not whole or number.is_integer()):
                return int(number) if whole or number.is_integer() else number
        if low is not None and high is not None:
            middle = (low + high) / 2
            return int(middle) if whole else middle
        if low is not None:
            return int(low) + 1 if whole else low + 1
        return int(high) - 1 if high is not None else 1

    def _string(self, schema: dict[str, Any], name: str) -> str:
        kind = str(schema.get("format"))
        dated = _DATE.search(self.prompt) if kind == "date" else None
        text = dated[0] if dated else _FORMATS.get(kind) or self._words(name.lower())
        return _fitted(text, schema)

    def _words(self, name: str) -> str:
        if "sentiment" in name:
            return sentiment(self.prompt)
        if _ABOUT_TEXTS.search(name):
            return " ".join(central_sentences(self.prompt, 1)) or "simulated"
        if self.label:
            return self.label
        names = self._names() if _ABOUT_NAMES.search(name) else []
        return (names or keywords(self.prompt, 1) or ["simulated"])[0]

    def _names(self) -> list[str]:
        return list(dict.fromkeys(_A_PROPER_NAME.findall(self.prompt)))


def _names_a_property(label: str, schema: dict[str, Any]) -> bool:
    """Whether a line is of the whole and not of its list: ``Total 6.70``, or what is called as a property."""
    named = {"total", "sum", *map(str.lower, schema.get("properties", {}))}
    return not named.isdisjoint(re.findall(r"\w+", label.lower()))


def _fitted(text: str, schema: dict[str, Any]) -> str:
    """The text, padded or cut to the lengths that its schema allows."""
    most = schema.get("maxLength")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text if most is None else text[: int(most)]
