"""Fills ``{{ name }}`` in a prompt from the notebook's variables, once, running no code of the prompt's.

The language is small on purpose::

    {{ name }}  {{ row.body }}  {{ rows[0] }}  {{ config['k'].x }}  {{ table | head 20 }}  {{ table | csv }}

A path of names, attributes and literal indexes, then filters (`template_values.FILTERS`). There are no calls,
no arithmetic and no names that begin with an underscore after a dot; attributes are read, so a property of
the user's own classes runs as it would in a cell. Values are not looked at again: a ``{{`` inside one is
text. Everything else in a prompt is text too, single braces above all: JSON, LaTeX, CSS, f-strings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from or_cache_magic.core.template_values import apply
from or_cache_magic.core.value_text import Shown, Unwritable, is_missing
from or_cache_magic.errors import TemplateError, near_name

_STRING = r"'[^'\n]*'|\"[^\"\n]*\""
_STEP = re.compile(
    rf"\s*(?:\.\s*(?P<name>[^\W\d]\w*)|\[\s*(?:(?P<number>-?[0-9]{{1,18}})|(?P<string>{_STRING}))\s*\])"
)
_ROOT = re.compile(r"\s*(?P<name>[^\W\d]\w*)")
_FILTER = re.compile(r"\s*\|\s*(?P<name>[^\W\d]\w*)(?:[ \t]+(?P<count>[0-9]{1,18}))?")
_CLOSE = re.compile(r"\s*\}\}")

_AS_IT_IS: Final = "--raw sends the prompt as it is; for {{ beside names, fill it in from a variable"
_GRAMMAR: Final = (
    "only names, .name, [0], ['key'] and filters (| head 20): compute it in a cell above; or --raw"
)

_NOT_CLOSED: Final = ("a {{ has no }}", _AS_IT_IS)


class _Expression(NamedTuple):
    """One ``{{ … }}``: where it stands, the name it begins with, the steps from there, the filters."""

    start: int
    end: int
    source: str
    root: str
    steps: tuple[tuple[str, str | int], ...]
    filters: tuple[tuple[str, int | None], ...]


def render(template: str, namespace: Mapping[str, Any]) -> str:
    """Return `template` with every ``{{ … }}`` replaced by its value's text.

    The same values give the same text in every process: what has no order or no text of its own is
    refused, not guessed. How a value reads is told in `value_text`.

    Raises:
        TemplateError: A name that isn't defined, something that isn't a name, or a value that has no text
            or is large and not cut. Nothing was sent.
    """
    return Template(template).render(namespace)


class Template:
    """A prompt with ``{{ … }}``, read once and filled in many times.

    Raises:
        TemplateError: Something in it isn't a name.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._expressions = list(_expressions(template))

    @property
    def paths(self) -> list[tuple[str, str | int | None]]:
        """What each ``{{ … }}`` names: where it begins, and the step from there; None is none."""
        return [(one.root, one.steps[0][1] if one.steps else None) for one in self._expressions]

    @property
    def steps(self) -> list[tuple[str, tuple[tuple[str, str | int], ...]]]:
        """What each ``{{ … }}`` names: where it begins, and ``("attribute" or "item", …)`` from there."""
        return [(one.root, one.steps) for one in self._expressions]

    def render(self, namespace: Mapping[str, Any], cells: Collection[str] = ()) -> str:
        """Return it filled in from `namespace`; see the function `render`.

        Args:
            namespace: The values.
            cells: The names of those that come from a row of a table: a missing one (None, NaN) is refused
                there, unless a filter says how it is written.
        """
        pieces: list[str] = []
        end = 0
        for expression in self._expressions:
            try:
                text = _fill(expression, namespace, expression.root in cells)
            except TemplateError as exc:
                exc.line = self._template.count("\n", 0, expression.start) + 1
                raise
            pieces += self._template[end : expression.start], text
            end = expression.end
        return "".join(pieces) + self._template[end:]


def _expressions(template: str) -> Iterator[_Expression]:
    start = template.find("{{")
    while start >= 0:
        expression = _read(template, start)
        yield expression
        start = template.find("{{", expression.end)


def _read(template: str, start: int) -> _Expression:
    root = _ROOT.match(template, start + 2)
    if root is None:
        raise _malformed(template, start)
    end = root.end()
    steps: list[tuple[str, str | int]] = []
    while step := _STEP.match(template, end):
        end = step.end()
        steps.append(_step(step))
    filters: list[tuple[str, int | None]] = []
    while found := _FILTER.match(template, end):
        end = found.end()
        filters.append((found["name"], None if found["count"] is None else int(found["count"])))
    close = _CLOSE.match(template, end)
    if close is None:
        raise _malformed(template, start)
    source = template[start + 2 : close.start()].strip()
    return _Expression(start, close.end(), source, root["name"], tuple(steps), tuple(filters))


def _step(step: re.Match[str]) -> tuple[str, str | int]:
    if step["name"] is not None:
        return "attribute", step["name"]
    if step["number"] is not None:
        return "item", int(step["number"])
    return "item", step["string"][1:-1]


def _malformed(template: str, start: int) -> TemplateError:
    line = template.count("\n", 0, start) + 1
    stop = template.find("}}", start)
    inside = " ".join(template[start + 2 : stop].split())
    shown = inside if len(inside) <= 60 else inside[:57] + "..."  # noqa: PLR2004 - one line of a terminal
    problem, hint = (f"{{{{ {shown} }}}} is not a name", _GRAMMAR) if stop >= 0 else _NOT_CLOSED
    failure = TemplateError(f"line {line}: {problem}; nothing was sent", hint)
    failure.line = line
    return failure


def _fill(expression: _Expression, namespace: Mapping[str, Any], is_cell: bool) -> str:
    value = _look_up(expression, namespace)
    if is_cell and not expression.filters and is_missing(value):
        raise _failed(
            expression, "the cell is empty", "fill it, as by data.fillna('none'); | json sends null"
        )
    shown = Shown(value)
    try:
        for name, count in expression.filters:
            shown = apply(name, count, shown)
        return shown.text()
    except Unwritable as problem:
        raise _failed(expression, problem.problem, problem.hint) from None


def _look_up(expression: _Expression, namespace: Mapping[str, Any]) -> Any:
    root = expression.root
    if root.startswith("__") and root.strip("_"):
        raise _failed(expression, "private names are not read", _GRAMMAR)
    if root not in namespace:
        raise _failed(expression, f"{root} is not defined", _meant(root, namespace))
    value, path = namespace[root], root
    for kind, step in expression.steps:
        if kind == "attribute" and str(step).startswith("_"):
            raise _failed(expression, "private names are not read", _GRAMMAR)
        try:
            value = _attribute(value, str(step)) if kind == "attribute" else _item(value, step)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise _failed(expression, f"{path} has no {step!r}", _meant(str(step), _parts(value))) from None
        path += f".{step}" if kind == "attribute" else f"[{step!r}]"
    return value


def _attribute(value: Any, name: str) -> Any:
    """Return ``value.name``; of a mapping or a table the key of that name first, so that it is data."""
    names = getattr(value, "column_names", getattr(value, "columns", ()))
    keys = value if isinstance(value, Mapping) else names
    return value[name] if isinstance(keys, Iterable) and name in keys else getattr(value, name)


def _item(value: Any, key: str | int) -> Any:
    # Asked first, because a defaultdict would make the item that it lacks.
    if isinstance(value, Mapping) and key not in value:
        raise KeyError(key)
    return value[key]


def _parts(value: Any) -> Iterator[str]:
    """Return what could have been meant after `value`: its keys, or its public attributes."""
    return (str(part) for part in (value if isinstance(value, Mapping) else dir(value)))


def _meant(word: str, known: Iterator[str] | Mapping[str, Any]) -> str:
    near = near_name(word, (name for name in known if not name.startswith("_")))
    return f"did you mean {near}?" if near else "define it in a cell above; or --raw sends {{ }} as it is"


def _failed(expression: _Expression, problem: str, hint: str) -> TemplateError:
    return TemplateError(f"{{{{ {expression.source} }}}}: {problem}; nothing was sent", hint)
