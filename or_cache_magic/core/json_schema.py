"""JSON Schemas: what makes one nullable, an object at its top, strict; and what of a value does not fit one.

Strict is the form that providers can hold a model to (OpenAI: "Structured outputs", supported schemas): every
object closed, all of its properties required, nothing that looks at a whole object. It gets no new meaning by
that but one: a property that need not be there may be null instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping

_KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_SAYS_WHAT: Final = frozenset({"type", "anyOf", "$ref", "enum", "const"})
_KEPT_APART: Final[tuple[str, ...]] = ("$defs", "definitions")
_UNLIKE: Final = frozenset(
    {
        *("allOf", "not", "if", "then", "else", "oneOf", "contains", "prefixItems", "patternProperties"),
        *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems"),
        *("unevaluatedProperties", "minProperties", "maxProperties", "uniqueItems", "$dynamicRef"),
    }
)
"""What no provider can hold a model to."""

_DATA: Final = frozenset({"enum", "const", "default", "examples"})
"""What holds values, which are no schemas whatever they look like."""

_MOST_PROBLEMS: Final = 3
_MOST_REFERENCES: Final = 8  # behind one another, without a step into a value
_SHOWN: Final = 40


# -- made otherwise ---------------------------------------------------------------------------------


def nullable(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that also takes null."""
    kind, values = node.get("type"), node.get("enum")
    if kind is None or "const" in node:
        if any(option == {"type": "null"} for option in node.get("anyOf", ())):
            return dict(node)
        if node.keys() <= {"anyOf", "description", "title"} and "anyOf" in node:
            return {**node, "anyOf": [*node["anyOf"], {"type": "null"}]}
        said = {name: node[name] for name in ("description",) if name in node}
        bare = {name: value for name, value in node.items() if name not in said}
        return {"anyOf": [bare, {"type": "null"}], **said}
    kinds = kind if isinstance(kind, list) else [kind]
    if "null" in kinds:
        return dict(node)
    changed = {**node, "type": [*kinds, "null"]}
    if isinstance(values, list) and None not in values:
        changed["enum"] = [*values, None]
    return changed


def typed_enum(values: list[Any]) -> dict[str, Any]:
    """Return the schema of one of these values, with their types where JSON has them; raises ValueError."""
    kinds = list(dict.fromkeys(_KINDS.get(type(value), "") for value in values))
    if not values or "" in kinds:
        raise ValueError("has a choice that is neither a text, a number nor a truth value")
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def rooted(schema: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a schema with an object at its top, and the property that holds the value; empty where it is it.

    Providers take no other. A list stands under ``items``, everything else under ``value``.

    Raises:
        ValueError: It refers to its own top, which would be another then.
    """
    root = dict(schema)
    target = _at(schema, root.get("$ref"))  # as classes that hold themselves have it
    if target is not None:
        root = {**{name: schema[name] for name in _KEPT_APART if name in schema}, **target}
    if root.get("type") == "object" or ("type" not in root and "properties" in root):
        return root, ""
    apart = {name: root.pop(name) for name in _KEPT_APART if name in root}
    if any(not place.startswith(("#/$defs/", "#/definitions/")) for place in _references(root)):
        raise ValueError("its top is no object, and it refers to it: put what is referred to into $defs")
    key = "items" if root.get("type") == "array" else "value"
    return {
        "type": "object",
        "properties": {key: root},
        "required": [key],
        "additionalProperties": False,
        **apart,
    }, key


def _at(schema: Mapping[str, Any], place: Any) -> Mapping[str, Any] | None:
    """Return the definition at ``#/$defs/NAME``; None where there is none."""
    _, group, name, *_ = *str(place).split("/", 2), "", ""
    found = as_mapping(schema.get(group)).get(name) if group in _KEPT_APART else None
    return found if isinstance(found, Mapping) else None


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            elif name not in _DATA:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def strict(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema in its strict form, its order and descriptions kept; None where it has none.

    A property that is not among the required may be null, unless it has a default, which is left out: then it
    is required as it is. An object that names no required ones requires all.
    """
    try:
        return _strict(schema)
    except _HasNoStrictFormError:
        return None


class _HasNoStrictFormError(Exception):
    """A part of a schema that strict does not know."""


def _strict(given: Any) -> dict[str, Any]:
    node = dict(_members(given))
    if "discriminator" in node and "oneOf" in node:  # pydantic's: the options exclude each other anyhow
        node = {"anyOf" if name == "oneOf" else name: node[name] for name in node if name != "discriminator"}
    if node.keys() & _UNLIKE or not node.keys() & _SAYS_WHAT:
        raise _HasNoStrictFormError
    node.pop("default", None)
    for name in _KEPT_APART:
        if name in node:
            node[name] = {key: _strict(inner) for key, inner in _members(node[name])}
    if "$ref" in node and len(node) > 1:  # nothing may stand beside a reference
        node = {"anyOf": [{"$ref": node.pop("$ref")}], **node}
    if "anyOf" in node:
        node["anyOf"] = [_strict(option) for option in as_list(node["anyOf"])]
    kinds = node.get("type")
    kinds = kinds if isinstance(kinds, list) else (kinds,)
    if "array" in kinds or "items" in node:
        node["items"] = _strict(node.get("items"))
    if "object" in kinds or "properties" in node:
        _close(node)
    return node


def _close(node: dict[str, Any]) -> None:
    """Have an object take its properties, all of them, and nothing else."""
    properties = dict(_members(node.get("properties")))
    if not properties or node.get("additionalProperties", False) is not False:
        raise _HasNoStrictFormError
    required = as_list(node.get("required", list(properties)))
    closed = {}
    for name, inner in properties.items():
        found = _strict(inner)
        closed[name] = found if name in required or "default" in inner else nullable(found)
    node["properties"] = closed
    node["required"] = list(properties)
    node["additionalProperties"] = False


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise _HasNoStrictFormError
    yield from value.items()


# -- read ------------------------------------------------------------------------------------------


def whole_numbers(schema: Any, value: Any, key: str = "") -> Any:
    """Return a value that fits a schema, with an int where the schema has an integer: ``1.0`` is one.

    Args:
        schema: Whose parts say where integers are.
        value: What fits it, or the property `key` of it.
        key: Empty for the whole schema.
    """
    node = as_mapping(as_mapping(schema).get("properties")).get(key) if key else schema
    return _in_whole_numbers(schema, node, value)


def _in_whole_numbers(root: Any, node: Any, value: Any, deep: int = 0) -> Any:
    nodes = [*_alternatives(root, node, deep)]
    if isinstance(value, float) and value.is_integer():
        kinds = {kind for one in nodes for kind in as_list(one.get("type")) or [one.get("type")]}
        return int(value) if "integer" in kinds and "number" not in kinds else value
    if isinstance(value, list):
        node = {"anyOf": [one["items"] for one in nodes if "items" in one]}
        return [_in_whole_numbers(root, node, item) for item in value]
    if isinstance(value, dict):
        made = {}
        for name, item in value.items():
            inner = [
                as_mapping(one.get("properties")).get(name, one.get("additionalProperties")) for one in nodes
            ]
            made[name] = _in_whole_numbers(root, {"anyOf": inner}, item)
        return made
    return value


def _alternatives(root: Any, node: Any, deep: int) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that a node may be, itself included, behind references too."""
    node = as_mapping(node)
    yield node
    if deep < _MOST_REFERENCES:
        more = [*as_list(node.get("anyOf")), *as_list(node.get("oneOf")), *as_list(node.get("allOf"))]
        target = _at(as_mapping(root), node.get("$ref"))
        for one in more if target is None else [*more, target]:
            yield from _alternatives(root, one, deep + 1)


# -- what does not fit ------------------------------------------------------------------------------


def problem(schema: Mapping[str, Any], value: Any) -> str | None:
    """Return what of a value does not fit, with its places; None when all fits, or the schema can't judge."""
    import jsonschema
    from referencing import Registry

    best = jsonschema.exceptions.best_match
    try:
        # A registry of its own, so that no schema can make this machine fetch a URL.
        kind = _validator(jsonschema.validators.validator_for(schema, default=_default()))
        errors = kind(schema, registry=Registry(), format_checker=_dates()).iter_errors(value)
        found = [_told(best(iter([error]))) for error in islice(errors, _MOST_PROBLEMS + 1)]
    except Exception:  # noqa: BLE001 - bad types, patterns, references: each fails in its own library's way
        # The model was sent this schema and answered; a schema that can't judge refuses nothing. One that
        # was given as such is looked at before: `why_no_schema`.
        return None
    more = "; and more" if len(found) > _MOST_PROBLEMS else ""
    return "; ".join(found[:_MOST_PROBLEMS]) + more or None


def why_no_schema(schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a JSON Schema itself, with its place; None when nothing is."""
    import jsonschema

    kind = jsonschema.validators.validator_for(schema, default=_default())
    try:
        kind.check_schema(dict(schema))
        for place in dict.fromkeys(_references(schema)):
            if (why := _why_unresolved(schema, kind, place)) is not None:
                return f"{place!r} {why}"
    except jsonschema.SchemaError as exc:
        return _told(exc)
    except Exception as exc:  # noqa: BLE001 - as above
        return str(exc)
    return None


def _default() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator


@cache
def _validator(kind: Any) -> Any:
    """Return a validator by which 0.3 is a multiple of 0.1, as it is in JSON, and not in binary."""
    import jsonschema

    def multiple_of(_validator: Any, step: Any, value: Any, _schema: Any) -> Iterator[Any]:
        if type(value) in (int, float) and (Fraction(repr(value)) / Fraction(repr(step))).denominator != 1:
            yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step!r}")

    extended: Any = jsonschema.validators.extend  # untyped
    return extended(kind, {"multipleOf": multiple_of})


def _why_unresolved(schema: Mapping[str, Any], kind: Any, place: str) -> str | None:
    """Return what is wrong with a reference: it would make the validator give up on the whole schema."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    dialect = specification_with(kind.META_SCHEMA.get("$schema", ""), default=DRAFT202012)
    resource: Any = dialect.create_resource(schema)
    resolver = Registry().with_resource(resource.id() or "", resource).resolver(resource.id() or "")
    seen: set[str] = set()
    while True:
        try:
            found = resolver.lookup(place)
        except (Unresolvable, ValueError):
            return "refers to nothing in the schema"
        if not isinstance(found.contents, Mapping):
            return None if isinstance(found.contents, bool) else "refers to no schema"
        seen.add(place)
        next_place = found.contents.get("$ref")
        if not isinstance(next_place, str):
            return None
        if next_place in seen:
            return "refers to itself"
        place, resolver = next_place, found.resolver


def _told(error: Any) -> str:
    """Return what an error of jsonschema says, with its place, and with a value that it repeats cut."""
    place = error.json_path.removeprefix("$").removeprefix(".")
    repeated = repr(error.instance)
    message = error.message
    if len(repeated) > _SHOWN:
        message = message.replace(repeated, f"{repeated[: _SHOWN - 1]}…")
    message = message[:120]
    return f"{place}: {message}" if place else message


def _dates() -> Any:
    """Return what checks dates and times; other formats are hints to the model, as JSON Schema has it."""
    import jsonschema

    checker = jsonschema.FormatChecker(formats=())
    for name, read in (("date", read_date), ("date-time", read_datetime)):
        checker.checks(name, ValueError)(lambda value, read=read: not isinstance(value, str) or read(value))
    return checker


def read_date(text: str) -> date:
    """Return the day ``2026-01-15``; raises ValueError."""
    if not re.fullmatch(r"(?a)\d{4}-\d\d-\d\d", text):
        raise ValueError(f"{text[:_SHOWN]!r} is no date such as 2026-01-15")
    return date.fromisoformat(text)


def read_datetime(text: str) -> datetime:
    """Return the time ``2026-01-15T09:30:00Z``; raises ValueError. Without a zone it has none."""
    parts = re.fullmatch(
        r"(?a)(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", text
    )
    if parts is None:
        raise ValueError(f"{text[:_SHOWN]!r} is no time such as 2026-01-15T09:30:00Z")
    day, clock, fraction, zone = parts.groups(default="")
    zone = "+00:00" if zone in ("Z", "z") else zone
    return datetime.fromisoformat(f"{day}T{clock}{(fraction + '000000')[:7] if fraction else ''}{zone}")
