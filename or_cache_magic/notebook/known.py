"""Which of a kernel's values a run from the top would give again, as far as it can be told without running.

A value at hand is taken for a place in the notebook where what was run in this kernel, since the name was
bound, is what stands in the notebook above that place, in that order: a cell that was edited and not run
again, one further down that binds the name anew, a list that was appended to twice, each are seen. So is
what the statements that made a value have read, back to the first of them. That code gives the same from the
same is taken for granted, but for what is known to change: times, chance, the web.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from or_cache_magic.cache.completion import Completion
from or_cache_magic.notebook.cells import Unit
from or_cache_magic.notebook.statements import ENVIRON, EVERYTHING, FILE, Names, words

_FIXED: Final = (str, int, float, bool, bytes, Completion)
"""Types whose values never change."""

_LIBRARIES: Final = words(
    "builtins collections pandas numpy polars pyarrow narwhals or_cache_magic datetime decimal fractions"
    " pathlib types PIL matplotlib abc functools re enum"
)
"""Whose classes run no code of the user's."""

_FAILED: Final = "\0failed"
_DEEPEST: Final = 400


class NotKnown(Exception):  # noqa: N818 - it is no error: nothing is wrong
    """A value can't be told before the notebook is run; its text says why, as a clause."""


class Touch(NamedTuple):
    """A statement that binds a name, or may change its value, and where it stands."""

    at: int
    text: str
    repeats: bool
    anew: bool


class Run(NamedTuple):
    """A statement that was run: whether its cell was run to its end, and when that ended."""

    unit: Unit
    whole: bool
    ended_s: float


How = Literal["fixed", "changes", "called"]


class _Course:
    """A course of statements: those of the notebook in their order, or those that were run."""

    def __init__(self, names: Sequence[Names]) -> None:
        self.names = names
        self._touching: dict[str, list[int]] = {}
        self._calling: dict[str, list[int]] = {}
        for at, one in enumerate(names):
            for name in one.touches:
                self._touching.setdefault(name, []).append(at)
            for name in one.calls:
                self._calling.setdefault(name, []).append(at)

    def chain(self, name: str, end: int, how: How = "changes") -> list[Touch]:
        """Return what made a name's value, as it is before the statement at `end`: from where it was bound.

        Where the value is ``fixed``, as texts and numbers are, only what binds the name can have made it;
        where it changes when it is ``called``, so may whatever calls one of its methods.
        """
        more = self._calling.get(name, ()) if how == "called" else ()
        places = sorted({*self._touching.get(name, ()), *self._touching.get(EVERYTHING, ()), *more})
        found: list[Touch] = []
        for at in reversed(places):
            if at >= end:
                continue
            one = self.names[at]
            if how == "fixed" and name in one.changes:
                continue
            found.append(Touch(at, one.text, repeats=name not in one.reads, anew=name in one.kills))
            if name in one.kills:
                break
        found.reverse()
        # Run twice, one after the other, what does not go on from its own value gives the same.
        return [
            touch
            for at, touch in enumerate(found)
            if not (touch.repeats and at and found[at - 1].text == touch.text)
        ]


class Known:
    """What is known of the values at the places of a notebook.

    Args:
        units: The notebook's statements.
        ran: Those that were run in this kernel, in order.
        values: What the kernel has.
        answer: Returns the answer that a statement of the notebook binds, by its place; raises `NotKnown`.
        folder: Where relative paths begin.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        ran: Sequence[Run],
        values: Mapping[str, Any],
        answer: Callable[[int], Any],
        folder: Path,
    ) -> None:
        self._units = units
        tables = {name for name, value in values.items() if _is_table(value)}
        whole = _completed([*(unit.names for unit in units), *(run.unit.names for run in ran)], tables)
        self._notebook = _Course(whole[: len(units)])
        self._ran = _Course(
            [
                one if ran[at].whole else one._replace(text=f"{_FAILED} {at}")
                for at, one in enumerate(whole[len(units) :])
            ]
        )
        self._runs = ran
        self._values = values
        self._answer = answer
        self._folder = folder
        self._checked: dict[tuple[int, int], str] = {}

    def at(self, place: int) -> Values:
        """Return the values that the statement at a place is given."""
        return Values(self, place)

    def names(self, place: int) -> set[str]:
        """Return the names that there are at a place, whether or not their values are known."""
        bound = {name for one in self._notebook.names[:place] for name in one.touches}
        return {name for name in (*bound, *self._values) if name.isidentifier()}

    def value(self, name: str, place: int) -> Any:
        """Return a name's value at a place.

        Raises:
            KeyError: It has none.
            NotKnown: It has one that can't be told.
        """
        how = self._how(name)
        made = self._notebook.chain(name, place, how)
        written = made and self._units[made[0].at].names.literal
        if type(written) in _FIXED:
            made = self._notebook.chain(name, place, "fixed")
        if made:
            unit = self._units[made[-1].at]
            if len(made) == 1 and name in unit.names.kills and unit.names.literal is not None:
                return copy.deepcopy(unit.names.literal)
            if any(name == asking.out for asking in unit.asks):
                return self._answer(made[-1].at)
        if why := self.why_not(name, place):
            raise NotKnown(why)
        return self._values[name]

    def why_not(self, name: str, place: int) -> str:
        """Return why a name's value at hand is not that of a place; empty where it is."""
        how = self._how(name)
        made = self._notebook.chain(name, place, how)
        if not made:
            return ""  # from outside the notebook: it is what it is, or there is none
        ran = self._ran.chain(name, len(self._ran.names), how)
        if why := self._differs(name, made, ran):
            return why
        return "" if name in self._values or not name.isidentifier() else f"{name} is not there any more"

    def _how(self, name: str) -> How:
        """Return how the value at hand can change: a text not at all, an object of the user's by any call."""
        if name not in self._values:
            return "changes"
        value = self._values[name]
        return "fixed" if type(value) in _FIXED else "changes" if of_library(value) else "called"

    def environment(self, place: int) -> str:
        """Return why the environment, where settings come from, may differ here; empty if it doesn't."""
        whole = len(self._ran.names)
        texts = {touch.text for touch in self._ran.chain(ENVIRON, whole)}
        for touch in self._notebook.chain(ENVIRON, place):
            if touch.text not in texts:
                return f"cell {self._units[touch.at].cell} sets the environment, and was not run as it stands"
        texts -= {touch.text for touch in self._notebook.chain(ENVIRON, place)}
        return "the environment was changed by what does not stand above it" if texts else ""

    def _differs(self, name: str, made: Sequence[Touch], ran: Sequence[Touch]) -> str:
        """Return how what made a value differs from what was run; empty where it doesn't."""
        if not made[0].anew and not all(touch.repeats for touch in made):
            return f"{_shown(name)} goes on from what it was before the notebook is run"
        texts = [touch.text for touch in ran]
        for touch in made:
            if touch.text not in texts:
                return f"{_shown(name)} comes from cell {self._cell(touch)}, which was not run as it stands"
        if [touch.text for touch in made] != texts:
            return f"{_shown(name)} was changed since by what stands elsewhere, or by running a cell again"
        for touch, run in zip(made, ran, strict=True):
            if why := self._check(touch.at, run.at):
                return why
        return ""

    def _check(self, at: int, run: int) -> str:
        """Return why a statement, as it was run, may have given what it will not give again."""
        if (at, run) not in self._checked:
            self._checked[at, run] = ""  # of itself, while it is looked at
            if len(self._checked) > _DEEPEST * 50:
                return "too much comes together in it"
            self._checked[at, run] = self._checked_now(at, run)
        return self._checked[at, run]

    def _checked_now(self, at: int, run: int) -> str:
        unit, names = self._units[at], self._notebook.names[at]
        if names.volatile:
            return f"cell {unit.cell} has {names.volatile}, which gives another value each time"
        if unit.asks:
            return f"it comes from what cell {unit.cell} asks"
        newer = next((path for path in names.paths if self._is_newer(path, self._runs[run].ended_s)), "")
        if newer:
            return f"{newer} was changed since cell {unit.cell} was run"
        return next(filter(None, (self._read(name, at, run) for name in sorted(names.reads))), "")

    def _read(self, name: str, at: int, run: int) -> str:
        """Return why what a statement read, as it was run, is not what it will read; empty where it is."""
        how: How = "called" if self._how(name) == "called" else "changes"
        made, ran = self._notebook.chain(name, at, how), self._ran.chain(name, run, how)
        if name.startswith(FILE) and self._notebook.chain(name, len(self._notebook.names)) != made:
            return f"cell {self._units[at].cell} reads what the notebook writes further down"
        if not made:
            same = not ran or ran == self._ran.chain(name, len(self._ran.names), how)
            cell = self._units[at].cell
            return "" if same else f"{_shown(name)}, which cell {cell} read, was changed since"
        if any(name == asking.out for asking in self._units[made[-1].at].asks):
            return self._same_answer(name, made[-1].at, made, ran)
        return self._differs(name, made, ran)

    def _is_newer(self, path: str, at_s: float) -> bool:
        """Return whether there is a file of this name that was changed after a time."""
        for folder in (self._folder, Path.cwd()):
            with suppress(OSError, ValueError, RuntimeError):
                file = folder / Path(path).expanduser()
                if file.is_file() and file.stat().st_mtime > at_s:
                    return True
        return False

    def _same_answer(self, name: str, at: int, made: Sequence[Touch], ran: Sequence[Touch]) -> str:
        """Return why an answer that was read is not the one that is stored; empty where it is."""
        try:
            stored = self._answer(at)
        except NotKnown as exc:
            return str(exc)
        now = self._ran.chain(name, len(self._ran.names))
        same = [touch.text for touch in made] == [touch.text for touch in ran] and ran == now
        held = self._values.get(name)
        if not same or str(held) != str(stored) or getattr(held, "key", "") != stored.key:
            return f"{name} was another answer when it was read"
        return ""

    def _cell(self, touch: Touch) -> int:
        return self._units[touch.at].cell


class Values(Mapping[str, Any]):
    """The values that a statement is given, each looked for when it is asked for; raises `NotKnown`."""

    def __init__(self, known: Known, place: int) -> None:
        self._known = known
        self._place = place

    def __getitem__(self, name: str) -> Any:
        """Return a name's value; raises KeyError where it has none, `NotKnown` where it can't be told."""
        if name in ("In", "Out") or not name.strip("_0123456789i"):
            raise NotKnown(f"{name} depends on what was run before")
        return self._known.value(name, self._place)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a name's value; what was shown last has none here."""
        return default if name == "_" or name not in self else self[name]

    def __contains__(self, name: object) -> bool:
        """Return whether there is a value, known or not."""
        return name in self._known.names(self._place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known.names(self._place))

    def __len__(self) -> int:
        return len(self._known.names(self._place))


def of_library(value: object) -> bool:
    """Return whether a value's class is Python's, or of a library that is known."""
    return type(value).__module__.partition(".")[0] in _LIBRARIES


def _shown(name: str) -> str:
    return "a value" if name == EVERYTHING else name


def _is_table(value: object) -> bool:
    """Return whether a copy of a value has nothing in common with it."""
    return type(value).__module__.partition(".")[0] in ("pandas", "numpy", "polars", "or_cache_magic")


def _completed(names: Iterable[Names], tables: Collection[str]) -> list[Names]:
    """Return what statements do to names, with what functions do that they call, and to its other names."""
    names = list(names)
    modules = frozenset().union(*(one.imports for one in names))
    later, mates = _later(names), _mates(names, modules, tables)
    found = []
    for one in names:
        reads, volatile = set(one.reads), one.volatile
        touches, changes = set(one.touches), {*(one.changes - modules)}
        for name in one.reads & later.keys():
            more_reads, more_touches, why = later[name]
            reads |= more_reads
            touches |= more_touches
            volatile = volatile or why
        for function, given in one.passes:
            if function in later:
                changes |= given - modules
        for name in ((touches | changes) - one.kills) & mates.keys():
            changes |= mates[name]
        changes -= touches
        found.append(
            one._replace(
                reads=frozenset(reads),
                touches=frozenset(touches | changes),
                changes=frozenset(changes),
                volatile=volatile,
            )
        )
    return found


def _later(names: Sequence[Names]) -> dict[str, tuple[frozenset[str], frozenset[str], str]]:
    """Return what functions read and touch when they are called, by name, with those that they call."""
    found: dict[str, tuple[frozenset[str], frozenset[str], str]] = {}
    for one in names:
        for name, reads, touches, why in one.later:
            before = found.get(name, (frozenset[str](), frozenset[str](), ""))
            found[name] = (before[0] | reads, before[1] | touches, before[2] or why)
    for _ in range(len(found)):
        grown = {}
        for name, (reads, touches, why) in found.items():
            called = [found[inner] for inner in reads & found.keys()]
            grown[name] = (
                reads.union(*(one[0] for one in called)),
                touches.union(*(one[1] for one in called)),
                why or next((one[2] for one in called if one[2]), ""),
            )
        if grown == found:
            break
        found = grown
    return found


def _mates(names: Sequence[Names], modules: frozenset[str], tables: Collection[str]) -> dict[str, set[str]]:
    """Return the names that may stand for one value, of each those beside it."""
    groups: dict[str, set[str]] = {}
    for one in names:
        alias = (one.alias if one.shallow & {*tables} else one.alias | one.shallow) - modules
        if len(alias) > 1:
            whole = set(alias).union(*(groups.get(name, set()) for name in alias))
            groups.update(dict.fromkeys(whole, whole))
    return groups
