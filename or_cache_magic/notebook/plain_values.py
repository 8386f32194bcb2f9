"""The values that expressions of a notebook stand for, found without running anything that the user wrote."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from or_cache_magic.cache.completion import Completion
from or_cache_magic.notebook.known import NotKnown, of_library

_PLAIN: Final = (str, int, float, bool, type(None))
_DEEPEST: Final = 50
_CUTS: Final = ("head", "tail", "copy")
"""Methods of pandas that give a part of a table."""


def value_of(node: ast.AST, values: Mapping[str, Any]) -> Any:
    """Return the value of an expression, where nothing needs to be run for it.

    Raises:
        NotKnown: Something would have to be, or a name's value can't be told.
    """
    kind = type(node).__name__
    read = _READERS.get(kind)
    if read is None:
        raise NotKnown(f"{_short(node)} is not run")
    return read(node, values)


def check_steps(root: str, steps: Iterable[tuple[str, str | int]], values: Mapping[str, Any]) -> None:
    """Refuse to look up a path of names where that would run code of a class of the user's.

    Raises:
        NotKnown: It would, or the value that it begins with can't be told.
    """
    if root not in values:
        return
    try:
        value = values[root]
        for kind, step in steps:
            value = _step(value, kind, step)
        check_shown(value)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        return  # whoever renders it says so


def check_shown(value: Any, depth: int = 0) -> None:
    """Refuse a value whose text a class of the user's would write, or that of something in it.

    Raises:
        NotKnown: It is such, or too deep to be looked through.
    """
    kind = type(value)
    if kind in _PLAIN:
        return
    if depth > _DEEPEST or not of_library(value):
        raise NotKnown(f"a {kind.__name__} is of a class of the notebook's, which is not run")
    inner: Iterable[Any] = ()
    if kind is dict:
        inner = (*value, *value.values())
    elif kind in (list, tuple, set, frozenset):
        inner = value
    elif kind.__module__.startswith("pandas") and hasattr(value, "dtypes"):
        of_each = value.dtypes if hasattr(value, "columns") else [value.dtype]
        objects = [at for at, dtype in enumerate(of_each) if str(dtype) == "object"]
        columns = (
            [value.iloc[:, at] for at in objects] if hasattr(value, "columns") else [value] * len(objects)
        )
        inner = (item for column in columns for item in column)
    for item in inner:
        if type(item) not in _PLAIN:
            check_shown(item, depth + 1)


def check_rows(data: Any) -> None:
    """Refuse data whose rows can't be gone through twice, or run code of the user's.

    Raises:
        NotKnown: It is such.
    """
    if type(data) in (list, tuple):
        if not all(of_library(item) for item in data):
            raise NotKnown("its items are of a class of the notebook's, which is not run")
    elif not of_library(data) or (type(data).__module__ == "builtins" and type(data) is not range):
        raise NotKnown(f"a {type(data).__name__} is not gone through before it is run")


def _step(value: Any, kind: str, step: str | int) -> Any:
    if isinstance(value, Completion) and step == "data":
        schema = value._schema  # noqa: SLF001 - asked of nobody else
        if schema is not None and schema.kind is not None:
            raise NotKnown(f"{schema.label} is not run")
    if kind == "item" or not isinstance(step, str):
        if not of_library(value):
            raise NotKnown(f"the items of a {type(value).__name__} are not looked up before it is run")
        return value[step]
    keys = value if isinstance(value, Mapping) else getattr(value, "columns", ()) if of_library(value) else ()
    if of_library(value) and isinstance(step, str) and not isinstance(keys, (str, bytes)):
        return value[step] if step in keys else getattr(value, step)
    found = inspect.getattr_static(value, step)
    looked_up: Any = type(value).__getattribute__
    if hasattr(type(found), "__get__") or looked_up is not object.__getattribute__:
        raise NotKnown(f"{step} of a {type(value).__name__} is not computed before it is run")
    return found


def _name(node: Any, values: Mapping[str, Any]) -> Any:
    if node.id not in values:
        raise NotKnown(f"{node.id} is not defined yet")
    return values[node.id]


def _joined(node: Any, values: Mapping[str, Any]) -> str:
    pieces = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            pieces.append(str(part.value))
            continue
        value = value_of(part.value, values)
        plain = type(value) in _PLAIN or type(value) is Completion
        if not plain or part.format_spec is not None or part.conversion not in (-1, 115):
            raise NotKnown(f"{_short(node)} is not run")
        pieces.append(str(value))
    return "".join(pieces)


def _added(node: Any, values: Mapping[str, Any]) -> Any:
    left, right = value_of(node.left, values), value_of(node.right, values)
    if not isinstance(node.op, ast.Add) or type(left) is not type(right) or type(left) not in (str, list):
        raise NotKnown(f"{_short(node)} is not run")
    return left + right


def _listed(node: Any, values: Mapping[str, Any]) -> Any:
    found = [value_of(item, values) for item in node.elts]
    return tuple(found) if isinstance(node, ast.Tuple) else found


def _mapped(node: Any, values: Mapping[str, Any]) -> dict[Any, Any]:
    if None in node.keys:
        raise NotKnown(f"{_short(node)} is not run")
    return {value_of(k, values): value_of(v, values) for k, v in zip(node.keys, node.values, strict=True)}


def _negated(node: Any, values: Mapping[str, Any]) -> Any:
    value = value_of(node.operand, values)
    if not isinstance(node.op, ast.USub) or type(value) not in (int, float):
        raise NotKnown(f"{_short(node)} is not run")
    return -value


def _looked_up(node: Any, values: Mapping[str, Any]) -> Any:
    value = value_of(node.value, values)
    try:
        if isinstance(node, ast.Subscript):
            return _step(value, "item", value_of(node.slice, values))
        if of_library(value):
            return getattr(value, node.attr)
        return _step(value, "attribute", node.attr)
    except (LookupError, AttributeError, TypeError, ValueError):
        raise NotKnown(f"{_short(node)} is not there") from None


def _called(node: Any, values: Mapping[str, Any]) -> Any:
    """Return what a few methods of pandas give, and a text of what is one."""
    function = node.func
    given = [value_of(arg, values) for arg in node.args]
    if isinstance(function, ast.Attribute) and function.attr in _CUTS and not node.keywords:
        value = value_of(function.value, values)
        if type(value).__module__.partition(".")[0] in ("pandas", "or_cache_magic") and all(
            type(one) is int for one in given
        ):
            return getattr(value, function.attr)(*given)
    is_text = isinstance(function, ast.Name) and function.id == "str" and len(given) == 1
    if is_text and (type(given[0]) in _PLAIN or type(given[0]) is Completion):
        return str(given[0])
    raise NotKnown(f"{_short(node)} is not run")


def _short(node: ast.AST) -> str:
    said = ast.unparse(node)
    return said if len(said) <= 40 else f"{said[:39]}…"  # noqa: PLR2004 - a clause of a line


_READERS: Final[Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "Constant": lambda node, _: node.value,
    "Name": _name,
    "JoinedStr": _joined,
    "BinOp": _added,
    "List": _listed,
    "Tuple": _listed,
    "Dict": _mapped,
    "UnaryOp": _negated,
    "Attribute": _looked_up,
    "Subscript": _looked_up,
    "Call": _called,
}
