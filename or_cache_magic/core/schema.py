"""What an answer is to be: a schema in any of the forms that a user gives, as it is sent, and the value back.

The forms: text in the short form (`core.compact_schema`) or JSON; a JSON Schema as a dict, bare or as
OpenRouter's ``response_format`` has it; a dataclass, a pydantic class, a list or another type of these
(`core.class_schema`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from or_cache_magic.core.blocks import parse_json, read_json
from or_cache_magic.core.json_schema import rooted, strict, whole_numbers
from or_cache_magic.core.records import NamedTuple

_NAME: Final = "answer"
_LONGEST_NAME: Final = 64  # OpenAI's limit
_SAYS_SCHEMA: Final = frozenset(
    ("type", "properties", "items", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "$defs")
)


class Schema(NamedTuple):
    """What an answer is to be.

    Attributes:
        response_format: The field of the request; never changed.
        kind: The type whose instances are wanted; None is the JSON value itself.
        key: Under which name the value stands in the object that is asked for; empty is the object.
    """

    response_format: Mapping[str, Any]
    kind: Any = None
    key: str = ""

    @property
    def label(self) -> str:
        """What the class is called in messages; without one, the JSON schema."""
        if self.kind is None:
            return "its JSON schema"
        from or_cache_magic.core.class_schema import label

        return label(self.kind)

    def value(self, text: str) -> Any:
        """Return what an answer's text stands for; raises ValueError where that is nothing of the kind."""
        return self.cast(parse_json(text))

    def why_not(self, text: str) -> str | None:
        """Return why an answer's text stands for none, as a clause; None when it stands for one."""
        try:
            self.value(text)
        except ValueError as exc:
            return self.misfit(exc)
        return None

    def misfit(self, exc: ValueError) -> str:
        """Return what `value` or `cast` raised as a clause about the answer."""
        from or_cache_magic.core.secrets import redacted_text  # a class of the user's says what it likes

        return f"the answer does not fit {self.label} ({redacted_text(str(exc))})"

    def cast(self, value: Any) -> Any:
        """Return what the JSON value of an answer stands for; raises ValueError."""
        if self.key:
            if not isinstance(value, Mapping) or self.key not in value:
                raise ValueError(f"{self.key} is missing")
            value = value[self.key]
        if self.kind is None:
            return whole_numbers(self.response_format["json_schema"]["schema"], value, self.key)
        from or_cache_magic.core.class_schema import instance

        try:
            return instance(self.kind, value)
        except ValueError:
            raise
        except (Exception, SystemExit) as exc:  # to leave is for a cell to say, not for a check of one answer
            raise ValueError(type(exc).__name__) from exc


def read_schema(given: Any) -> Schema:
    """Return the schema that a user gives in any of its forms.

    Args:
        given: See above; a dict must be plain already (`core.options.plain`).

    Raises:
        ValueError: It is none; says what is wrong with it, and where.
    """
    if isinstance(given, str):
        return _of_text(given)
    if isinstance(given, Mapping):
        return _of_mapping(given)
    from or_cache_magic.core.class_schema import is_class, label, schema_of  # texts need none of it

    if is_class(given):
        return _schema(schema_of(given), label(given), given)
    raise ValueError(f"a {type(given).__name__} is no schema")


def _of_text(text: str) -> Schema:
    if not re.match(r'\s*\{\s*(["}]|\Z)', text):
        from or_cache_magic.core.compact_schema import parse_compact

        return _schema(parse_compact(text), "")
    try:
        return _of_mapping(read_json(text))
    except ValueError as exc:
        raise ValueError(f"it begins as JSON, and is none: {exc}") from None


def _of_mapping(given: Mapping[str, Any]) -> Schema:
    wrapped = given if given.get("type") == "json_schema" else {"type": "json_schema", "json_schema": given}
    inner = wrapped.get("json_schema")
    if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        # As the user wrote it, down to whether it is strict.
        named = {"name": _NAME, **inner}
        return Schema({**wrapped, "json_schema": named})
    if not isinstance(inner, Mapping) or not inner.keys() & _SAYS_SCHEMA:
        raise ValueError(
            "it is no JSON Schema, which has type, properties or another of its words; the short form is text"
        )
    return _schema(inner, inner.get("title"))


def _schema(schema: Mapping[str, Any], name: Any, kind: Any = None) -> Schema:
    root, key = rooted(schema)
    closed = strict(root)
    named = re.sub(r"(?a)[^\w-]+", "_", name if isinstance(name, str) else "").strip("_")[:_LONGEST_NAME]
    sent = {
        "name": named or _NAME,
        "strict": closed is not None,
        "schema": root if closed is None else closed,
    }
    return Schema({"type": "json_schema", "json_schema": sent}, kind, key)
