"""Python's types as JSON Schemas, and JSON values as their instances: dataclasses, pydantic's classes, lists.

Pydantic is never imported: its classes make their own schemas and instances.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

from or_cache_magic.core.json_schema import nullable, problem, read_date, read_datetime, strict, typed_enum

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
_BY_PYDANTIC: Final = "make it a class of pydantic's"
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
    _forget()
    return _schema_of(kind)


def _schema_of(kind: Any) -> dict[str, Any]:
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
            return self._annotated(kind, args[0], args[1:], place)
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
        if _is_pydantic(kind) or _is_pydantic_dataclass(kind):
            return self._refer(kind, _pydantic_schema)
        if is_plain and dataclasses.is_dataclass(kind):
            return self._refer(kind, self._dataclass)
        raise ValueError(f"{_at(place)}{label(kind)} has no JSON Schema; it can be {_KNOWN}")

    def _annotated(self, kind: Any, inner: Any, notes: Sequence[Any], place: str) -> dict[str, Any]:
        node = self.node(inner, place)
        rules = _rules(notes)
        if any(getattr(rule, name, None) for rule in rules for name in ("alias", "validation_alias")):
            raise ValueError(f"{_at(place)}an alias is no part of a dataclass's field: {_BY_PYDANTIC}")
        if rules and '"$ref"' in json.dumps(node):
            raise ValueError(f"{_at(place)}rules for what holds classes can't be kept: {_BY_PYDANTIC}")
        if rules:
            node = {name: value for name, value in _adapter_schema(kind, place).items() if name != "title"}
        return _described(node, notes)

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
            name: _described(self.node(hint, f"{kind.__name__}.{name}"), (field.metadata.get("description"),))
            for name, (field, hint) in hints.items()
        }
        doc = inspect.cleandoc(kind.__doc__ or "")
        says = {} if doc.startswith(f"{kind.__name__}(") or not doc else {"description": doc}
        required = list(properties)
        return {
            **says,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return the fields that a dataclass is made of, and their types, as the names in them are known now."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception as exc:
        raise ValueError(f"a type in {kind.__name__} can't be found: {exc}") from exc
    for name, hint in hints.items():
        if hint is dataclasses.InitVar or isinstance(hint, dataclasses.InitVar):
            raise ValueError(f"{kind.__name__}.{name} is an InitVar, which no answer has: {_BY_PYDANTIC}")
    found = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if type(field.default).__module__ == "pydantic.fields":  # its Field in the place of a default
            hint = typing.Annotated[hint, field.default]
        if field.init:
            found[field.name] = field, hint
    return found


def _rules(notes: Sequence[Any]) -> list[Any]:
    """Return those of a type's notes that pydantic reads: its own, and annotated_types'."""
    return [note for note in notes if {"pydantic", "annotated_types"} & set(_packages(type(note)))]


def _packages(kind: type) -> list[str]:
    return [base.__module__.partition(".")[0] for base in kind.__mro__]


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    """Return pydantic's reader of a type, of which a part is pydantic's own."""
    if "pydantic" not in sys.modules:
        raise ValueError(f"the rules of {label(kind)} are pydantic's to check: import pydantic")
    try:
        return sys.modules["pydantic"].TypeAdapter(kind)
    except Exception as exc:
        raise ValueError(f"pydantic can't read {label(kind)}: {exc}") from exc


def _adapter_schema(kind: Any, place: str) -> dict[str, Any]:
    try:
        return dict(_adapter(kind).json_schema())
    except Exception as exc:
        raise ValueError(f"{_at(place)}{label(kind)} has no JSON Schema: {exc}") from exc


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


def _is_pydantic_dataclass(kind: Any) -> bool:
    return (
        isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_validator__")
    )


def _pydantic_schema(kind: Any) -> dict[str, Any]:
    try:
        made = dict(kind.model_json_schema()) if _is_pydantic(kind) else _adapter_schema(kind, "")
    except Exception as exc:
        raise ValueError(f"{kind.__name__} has no JSON Schema: {exc}") from exc
    if _has_deep_alias(getattr(kind, "__pydantic_core_schema__", None)):
        raise ValueError(
            f"{kind.__name__}: a field has an alias that is a path, which its JSON Schema does not say"
        )
    return made


def _has_deep_alias(core: Any) -> bool:
    """Return whether pydantic's own schema has a field that is found only deeper down than it is sent."""
    if isinstance(core, list):
        return any(map(_has_deep_alias, core))
    if not isinstance(core, dict):
        return False
    alias = core.get("validation_alias")
    if isinstance(alias, list):
        paths = alias if isinstance(alias[0], list) else [alias]
        if all(len(path) > 1 for path in paths):
            return True
    return any(_has_deep_alias(core[name]) for name in core if name != "metadata")


# -- to an instance ---------------------------------------------------------------------------------


def instance(kind: Any, value: Any) -> Any:
    """Return the instance of a type that a JSON value stands for.

    Raises:
        ValueError: It stands for none; says where and why. Whatever a class's own checks raise comes as that.
    """
    _forget()
    return _instance(kind, value, "")


def _forget() -> None:
    """Forget what names meant: a cell may have defined a class anew."""
    for remembered in (_hints, _adapter, _closed):
        remembered.cache_clear()


def _instance(kind: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        ruled = bool(_rules(args[1:]))
        return (
            _read(_adapter(kind).validate_json, value, place) if ruled else _instance(args[0], value, place)
        )
    if origin is typing.Union or origin is types.UnionType:
        return _one_of(args, value, place)
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            raise _misfit(value, f"one of {', '.join(map(repr, args))}", place)
        return value
    if origin in _LISTS or origin is tuple:
        if not isinstance(value, list):
            raise _misfit(value, "a list", place)
        items = [_instance(args[0], item, f"{place}[{at}]") for at, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        return {
            key: _instance(args[1], item, _below(place, key)) for key, item in _object(value, place).items()
        }
    return _of_class(kind, value, place)


def _of_class(kind: Any, value: Any, place: str) -> Any:
    if _is_pydantic(kind):
        return _read(kind.model_validate_json, value, place)
    if _is_pydantic_dataclass(kind):
        return _read(_adapter(kind).validate_json, value, place)
    if dataclasses.is_dataclass(kind):
        return _dataclass_instance(kind, value, place)
    if issubclass(kind, enum.Enum):
        return _called(lambda: kind(value), place)
    return _scalar(kind, value, place)


def _one_of(kinds: Sequence[Any], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    problems, partly = [], []
    for kind in kinds:
        try:
            made = _instance(kind, value, place)
        except ValueError as exc:
            problems.append(exc)
            continue
        if len(kinds) == 1 or not _leaves_out(kind, value):
            return made
        partly.append(made)
    if partly:
        return partly[0]
    if len(problems) == 1:
        raise problems[0]
    raise _misfit(value, " or ".join(map(label, kinds)), place)


def _leaves_out(kind: Any, value: Any) -> bool:
    """Return whether a type takes less of a value than there is, as pydantic's classes may."""
    return isinstance(value, (dict, list)) and problem(_closed(kind), value) is not None


@lru_cache(maxsize=64)
def _closed(kind: Any) -> dict[str, Any]:
    """Return the schema of a type, its objects closed where they can be."""
    schema = _schema_of(kind)
    return strict(schema) or schema


def _dataclass_instance(kind: Any, value: Any, place: str) -> Any:
    hints, given, taken = _hints(kind), _object(value, place), {}
    for name in given:
        if name not in hints:
            raise ValueError(f"{_at(_below(place, name))}{kind.__name__} has no such field")
    for name, (_, hint) in hints.items():
        if name not in given:
            raise ValueError(f"{_at(place)}{name} is missing")
        taken[name] = _instance(hint, given[name], _below(place, name))
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


def _read(validate: Callable[[str], Any], value: Any, place: str) -> Any:
    """Return what pydantic makes of a JSON value."""
    return _called(lambda: validate(json.dumps(value)), place)


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
