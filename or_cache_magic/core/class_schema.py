"""Python's types as JSON Schemas, and JSON values as their instances: dataclasses, pydantic's classes, lists.

Pydantic is never imported: its classes make their own schemas and instances.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

from or_cache_magic.core.json_schema import nullable, read_date, read_datetime, typed_enum

_SCALARS: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    date: {"type": "string", "format": "date"},
    datetime: {"type": "string", "format": "date-time"},
}
_LISTS: Final = (list, Sequence)
_KNOWN: Final = (
    "a dataclass, a pydantic class, a list of these, str, int, float, bool, date, an Enum, a Literal"
)
_MOST_ERRORS: Final = 3


def is_class(value: Any) -> bool:
    """Return whether a value stands for a type: a class, ``list[Book]``, ``Book | None``, a Literal."""
    return isinstance(value, type) or typing.get_origin(value) is not None


def label(kind: Any) -> str:
    """Return what a type is called: ``Book``, ``list[Book]``."""
    if typing.get_origin(kind) in _LISTS:
        return f"list[{', '.join(map(label, typing.get_args(kind)))}]"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(map(label, typing.get_args(kind)))
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


# -- to a schema ------------------------------------------------------------------------------------


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, its fields in order, with what it is described by.

    Raises:
        ValueError: None can be made of it; says of which part.
    """
    if _is_pydantic(kind):
        return _pydantic_schema(kind)
    made = _Schemas()
    node = made.node(kind, "")
    root = made.definitions.pop(node["$ref"].rpartition("/")[2]) if list(node) == ["$ref"] else node
    if list(node) == ["$ref"] and _mentions(root, made.definitions, node["$ref"]):
        made.definitions[node["$ref"].rpartition("/")[2]] = root
    return {**root, "$defs": made.definitions} if made.definitions else root


def _mentions(root: Any, definitions: Any, place: str) -> bool:
    return json.dumps(place) in json.dumps([root, definitions])


class _Schemas:
    """The schemas of types, and the definitions that they refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._classes: dict[str, Any] = {}

    def node(self, kind: Any, place: str) -> dict[str, Any]:
        """Return the schema of a type that stands at this place."""
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        is_plain = origin is None and isinstance(kind, type)  # to 3.10 list[int] is a type too
        if is_plain and kind in _SCALARS:
            return dict(_SCALARS[kind])
        if origin is typing.Annotated:
            return _described(self.node(args[0], place), args[1:])
        if origin is typing.Union or origin is types.UnionType:
            nodes = [self.node(arg, place) for arg in args if arg is not type(None)]
            node = nodes[0] if len(nodes) == 1 else {"anyOf": nodes}
            return nullable(node) if type(None) in args else node
        if origin is typing.Literal:
            return _choices(list(args), place)
        if origin in _LISTS or (origin is tuple and args[1:] == (...,)):
            return {"type": "array", "items": self.node(args[0], _below(place, "[]"))}
        if origin is dict and args[0] is str:
            return {"type": "object", "additionalProperties": self.node(args[1], _below(place, "{}"))}
        if is_plain and issubclass(kind, enum.Enum):
            return _choices([member.value for member in kind], place)
        if _is_pydantic(kind):
            return self._refer(kind, _pydantic_schema)
        if is_plain and dataclasses.is_dataclass(kind):
            return self._refer(kind, self._dataclass)
        raise ValueError(f"{_at(place)}{label(kind)} has no JSON Schema; it can be {_KNOWN}")

    def _refer(self, kind: Any, make: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        name = kind.__name__
        if self._classes.setdefault(name, kind) is not kind:
            raise ValueError(f"two classes are called {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # as a class that holds itself finds it
            made = make(kind)
            for inner, definition in made.pop("$defs", {}).items():
                if self.definitions.get(inner) not in (None, {}, definition):
                    raise ValueError(f"two classes are called {inner}")
                self.definitions[inner] = definition
            if list(made) != ["$ref"]:
                self.definitions[name] = made
        return {"$ref": f"#/$defs/{name}"}

    def _dataclass(self, kind: Any) -> dict[str, Any]:
        hints = _hints(kind)
        properties = {
            field.name: _described(
                self.node(hints[field.name], f"{kind.__name__}.{field.name}"),
                (field.metadata.get("description"),),
            )
            for field in dataclasses.fields(kind)
            if field.init
        }
        doc = inspect.cleandoc(kind.__doc__ or "")
        says = {} if doc.startswith(f"{kind.__name__}(") or not doc else {"description": doc}
        return {**says, "type": "object", "properties": properties, "required": list(properties)}


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as exc:
        raise ValueError(f"a type in {kind.__name__} can't be found: {exc}") from exc


def _described(node: dict[str, Any], notes: Sequence[Any]) -> dict[str, Any]:
    """Return a schema with the first of these notes that describes it: a text, or pydantic's Field."""
    for note in notes:
        text = note if isinstance(note, str) else getattr(note, "description", None)
        if isinstance(text, str) and text:
            return {**node, "description": text}
    return node


def _choices(values: list[Any], place: str) -> dict[str, Any]:
    try:
        return typed_enum(values)
    except ValueError as exc:
        raise ValueError(f"{_at(place)}{exc}") from None


def _is_pydantic(kind: Any) -> bool:
    return (
        isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json")
    )


def _pydantic_schema(kind: Any) -> dict[str, Any]:
    try:
        return dict(kind.model_json_schema())
    except Exception as exc:
        raise ValueError(f"{kind.__name__} has no JSON Schema: {exc}") from exc


# -- to an instance ---------------------------------------------------------------------------------


def instance(kind: Any, value: Any, place: str = "") -> Any:
    """Return the instance of a type that a JSON value stands for.

    Raises:
        ValueError: It stands for none; says where and why. Whatever a class's own checks raise comes as that.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return instance(args[0], value, place)
    if origin is typing.Union or origin is types.UnionType:
        return _one_of(args, value, place)
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            raise _misfit(value, f"one of {', '.join(map(repr, args))}", place)
        return value
    if origin in _LISTS or origin is tuple:
        if not isinstance(value, list):
            raise _misfit(value, "a list", place)
        items = [instance(args[0], item, f"{place}[{at}]") for at, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        return {
            key: instance(args[1], item, _below(place, key)) for key, item in _object(value, place).items()
        }
    return _of_class(kind, value, place)


def _of_class(kind: Any, value: Any, place: str) -> Any:
    if _is_pydantic(kind):
        return _called(lambda: kind.model_validate_json(json.dumps(value)), place)
    if dataclasses.is_dataclass(kind):
        return _dataclass_instance(kind, value, place)
    if issubclass(kind, enum.Enum):
        return _called(lambda: kind(value), place)
    return _scalar(kind, value, place)


def _one_of(kinds: Sequence[Any], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return instance(kind, value, place)
        except ValueError as exc:
            problems.append(exc)
    if len(problems) == 1:
        raise problems[0]
    raise _misfit(value, " or ".join(map(label, kinds)), place)


def _dataclass_instance(kind: Any, value: Any, place: str) -> Any:
    hints, given, taken = _hints(kind), _object(value, place), {}
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name not in given:
            raise ValueError(f"{_at(place)}{field.name} is missing")
        taken[field.name] = instance(hints[field.name], given[field.name], _below(place, field.name))
    return _called(lambda: kind(**taken), place)


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _misfit(value, "an object", place)
    return value


def _scalar(kind: Any, value: Any, place: str) -> Any:
    whole = type(value) is int or (type(value) is float and value.is_integer())
    if kind is float and type(value) in (int, float):
        return _called(lambda: float(value), place)
    if kind is int and whole:
        return int(value)
    if kind in (date, datetime) and isinstance(value, str):
        return _called(lambda: read_date(value) if kind is date else read_datetime(value), place)
    if kind in (str, bool, type(None)) and type(value) is kind:
        return value
    raise _misfit(value, label(kind), place)


def _called(make: Callable[[], Any], place: str) -> Any:
    """Return what a class makes; its refusals, of whatever kind, as one."""
    try:
        return make()
    except Exception as exc:
        errors = getattr(exc, "errors", None)
        found = errors() if callable(errors) else None
        if not isinstance(found, list) or not found:
            raise ValueError(f"{_at(place)}{str(exc) or type(exc).__name__}") from exc
        told = [_pydantic_error(error, place) for error in found[:_MOST_ERRORS]]
        more = "; and more" if len(found) > _MOST_ERRORS else ""
        raise ValueError("; ".join(told) + more) from exc


def _pydantic_error(error: Any, place: str) -> str:
    for step in error.get("loc", ()):
        place = f"{place}[{step}]" if isinstance(step, int) else _below(place, str(step))
    return f"{_at(place)}{error.get('msg', 'it does not fit')}"


def _misfit(value: Any, wanted: str, place: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{_at(place)}{shown if len(shown) <= 40 else shown[:39] + '…'} is not {wanted}")  # noqa: PLR2004


def _below(place: str, step: str) -> str:
    return f"{place}.{step}" if place and step[0] not in "[{" else f"{place}{step}"


def _at(place: str) -> str:
    return f"{place}: " if place else ""
