"""The cells of a notebook as statements, with what each asks: found as IPython would find it, and not run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from or_cache_magic.errors import OptionError, OrCacheError, one_line
from or_cache_magic.notebook.commands import WARM
from or_cache_magic.notebook.options import CELL, LINE
from or_cache_magic.notebook.parser import parse
from or_cache_magic.notebook.statements import (
    ENVIRON,
    EVERYTHING,
    Names,
    file_name,
    is_magic,
    names_of,
    root_of,
    words,
)

PACKAGE: Final = "or_cache_magic"
COMPUTED: Final = "\0"
"""In the place of a magic's line that is computed."""

ASKING: Final = ("ask", "aask", "map", "amap", "warm", "embed", "verify")
"""The functions of this package that ask."""

_MAKING: Final = ("client", "async_client", "open_cache", "CompletionCache")
"""Those that make something which asks."""

_AROUND: Final = ("time", "capture")
"""Cell magics that run what is below them once, as a cell."""

_ELSEWHERE: Final = words(
    "bash sh script system sx html HTML javascript js latex markdown svg writefile perl ruby file cmd"
)
"""Cell magics whose text is no Python."""

_QUIET: Final = words(
    "load_ext reload_ext unload_ext matplotlib autoreload pip conda mamba uv who who_ls pwd ls cd pinfo"
    " pinfo2 psource pdoc page history precision pylab config colors xmode pprint alias lsmagic quickref"
    " logstart logstop notebook pdb debug tb doctest_mode gui system sx killbgscripts"
)
"""Line magics that bind none of the notebook's names."""

_OF_FILES: Final = re.compile(r"\.or_cache\b|cache\.db|or-cache|\bpurge\b")
"""What may have to do with the cache's file, or removes what is in it."""

_TRAITS: Final = "OpenRouterMagics"
"""Whose ``%config`` changes the settings, as the environment may."""

_PAYING: Final[Mapping[str, str]] = {
    "openrouter_fix": "%openrouter_fix explains the exception before it",
    "openrouter_verify": "%openrouter_verify asks again on purpose",
}
"""Our other magics that may ask, and why that can't be told before."""

_OF_CACHE: Final[Mapping[str, str]] = {
    "purge": "openrouter_purge",
    "load": "openrouter_import",
    "batches": "openrouter_batches",
}
"""Functions that do to the cache what magics do."""

_LOOPS: Final = (
    *(ast.For, ast.AsyncFor, ast.While),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)

_IN_FUNCTION: Final = "it is asked in a function, which is not run"
_IN_LOOP: Final = "it is asked in a loop, which is not run"
_IN_BRANCH: Final = "it is asked in a branch, which may not be taken"


class Asking(NamedTuple):
    """Something that asks.

    Attributes:
        kind: ``cell`` and ``line`` are magics; else a function of this package, or ``reply``.
        line: Of a magic: what stands behind its name.
        body: Of a cell: what stands below.
        call: Of a function: its call.
        out: The name that its value, as it is, is bound to; empty is none.
        why: Why it can't be told what it asks; empty where it may be.
    """

    kind: str
    line: str = ""
    body: str | None = None
    call: ast.Call | None = None
    out: str = ""
    why: str = ""


class Unit(NamedTuple):
    """One statement of a notebook.

    Attributes:
        cell: The number of its cell, by which Run All counts it.
        names: What it does to names.
        asks: What it asks, in order.
        magics: What else it does to the cache and the settings: names of our magics, with their lines.
        shows: Whether it ends a cell with a value, which is ``_`` then.
    """

    cell: int
    names: Names
    asks: tuple[Asking, ...] = ()
    magics: tuple[tuple[str, str], ...] = ()
    shows: bool = False


def read_cells(path: Path) -> list[str]:
    """Return the sources of a notebook's code cells, of those with something in them, in order.

    Raises:
        OptionError: The file can't be read, or is no notebook.
    """
    shown = one_line(path.name, 80)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = found["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, RuntimeError) as exc:
        raise OptionError(
            f"{shown} can't be read: {getattr(exc, 'strerror', None) or exc}; nothing was sent",
            "name the notebook's file, as it is saved",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise OptionError(
            f"{shown} is no notebook of the current format; nothing was sent", "save it anew with Jupyter"
        ) from None
    return [source for source in sources if source.strip()]


class Reader:
    """Reads cells as IPython would; equal sources are read once.

    Args:
        transform: Makes Python of a cell, as the shell does.
    """

    def __init__(self, transform: Callable[[str], str]) -> None:
        self._transform = transform
        self._modules = {PACKAGE}
        self._aliases = False
        self._functions: dict[str, str] = {}
        #: Names through which something is asked that isn't seen, and how.
        self.hidden: dict[str, str] = {}
        self._read: dict[str, tuple[ast.stmt, ...]] = {}

    def units(self, sources: Iterable[str]) -> list[Unit]:
        """Return the statements of cells, in order."""
        parsed = [(cell, self._statements(source)) for cell, source in enumerate(sources, 1)]
        for _, statements in parsed:
            for statement in statements:
                self._note_imports(statement)
        for _ in range(2):  # a function may call one that is defined below it
            for _, statements in parsed:
                for statement in statements:
                    self._note_hidden(statement)
        found: list[Unit] = []
        for cell, statements in parsed:
            for at, statement in enumerate(statements):
                last = at == len(statements) - 1 and isinstance(statement, ast.Expr)
                found += self._units(cell, statement, shows=last)
        return found

    def _statements(self, source: str) -> tuple[ast.stmt, ...]:
        """Return the statements of a cell; none of one that is not Python."""
        if source not in self._read:
            try:
                python = self._transform(source.replace("\r\n", "\n"))
                self._read[source] = tuple(ast.parse(python).body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                self._read[source] = ()
        return self._read[source]

    def _note_imports(self, statement: ast.stmt) -> None:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name == PACKAGE and alias.asname:
                        self._modules.add(alias.asname)
            elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
                for alias in node.names:
                    if alias.name in (*ASKING, *_MAKING):
                        self._functions[alias.asname or alias.name] = alias.name

    def _note_hidden(self, statement: ast.stmt) -> None:
        """Note names of functions in which something is asked, and of clients and other caches."""
        for node in ast.walk(statement):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if self._asks_inside(node):
                    self.hidden[node.name] = f"it is asked in {node.name}, which is not run"
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if why := self._hides(node.value):
                    self.hidden.update((name, why) for target in targets if (name := root_of(target)))
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                why = self._hides(node.context_expr)
                self.hidden.update({root_of(node.optional_vars): why} if why else {})

    def _asks_inside(self, node: ast.AST) -> bool:
        return any(
            (isinstance(inner, ast.Call) and self._function(inner) in (*ASKING, *_MAKING))
            or _asking_magic(inner)
            or (isinstance(inner, ast.Name) and inner.id in self.hidden)
            or (isinstance(inner, ast.Attribute) and inner.attr == "reply")
            for child in ast.iter_child_nodes(node)
            for inner in ast.walk(child)
        )

    def _hides(self, value: ast.expr) -> str:
        """Return how what is bound to a value asks unseen; empty where it doesn't."""
        if isinstance(value, ast.Lambda):
            return _IN_FUNCTION if self._asks_inside(value) else ""
        if isinstance(value, (ast.Name, ast.Attribute)):
            return self.hidden.get(root_of(value), "")
        if isinstance(value, ast.Call):
            function = self._function(value)
            if function in _MAKING:
                return f"it is asked through {function}"
            name = getattr(value.func, "attr", getattr(value.func, "id", ""))
            if name[:1].isupper() or name in ("partial", "lru_cache", "cache", "wraps", "partialmethod"):
                names = [inner.id for inner in ast.walk(value) if isinstance(inner, ast.Name)]
                return next((self.hidden[one] for one in names if one in self.hidden), "")
        return ""

    def _function(self, call: ast.Call) -> str:
        """Return which function of this package a call calls; empty for another."""
        function = call.func
        if isinstance(function, ast.Name):
            return self._functions.get(function.id, "")
        if isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name) and function.value.id in self._modules:
                return function.attr if function.attr in (*ASKING, *_MAKING) else ""
            if function.attr == "reply":
                return "reply"
        return ""

    # -- one statement ------------------------------------------------------------------------

    def _units(self, cell: int, statement: ast.stmt, *, shows: bool) -> Iterator[Unit]:
        if isinstance(statement, ast.Expr) and is_magic(statement.value):
            name, line, body = _magic(statement.value)
            if body is not None:
                yield from self._cell_magic(cell, statement, name, line, body)
                return
            if name == "time" and line:
                for inner in self._statements(line):
                    yield from self._units(cell, inner, shows=False)
                return
        names, magics = names_of(statement), list[tuple[str, str]]()
        if _OF_FILES.search(names.text):
            magics.append(("openrouter_purge", ""))  # whatever it does to the cache's files
        for node in ast.walk(statement):
            if is_magic(node):
                names = _with_magic(names, node)
                magics.append(_magic(node)[:2])
                self._aliases |= magics[-1][0] == "alias_magic" and "openrouter" in magics[-1][1]
            elif isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in _OF_CACHE and (name == "purge" or root_of(node.func) in self._modules):
                    magics.append((_OF_CACHE[name], ""))
        yield Unit(cell, names, tuple(self._asks(statement)), tuple(magics), shows)

    def _cell_magic(self, cell: int, statement: ast.stmt, name: str, line: str, body: str) -> Iterator[Unit]:
        names = names_of(statement)
        if name == "openrouter":
            out = _out_of(CELL, line)
            bound = frozenset({out} - {""})
            yield Unit(
                cell, names._replace(kills=bound, touches=bound), (Asking("cell", line, body, out=out),)
            )
        elif name in _AROUND:
            if bound := frozenset(line.split()[:1] if name == "capture" and line[:1] != "-" else ()):
                caught = names._replace(kills=bound, touches=bound, volatile=f"what %%{name} caught")
                yield Unit(cell, caught)
            for inner in self._statements(body):
                yield from self._units(cell, inner, shows=False)
        elif name in _ELSEWHERE:
            bound = frozenset(re.findall(r"--(?:out|err|proc)[ =](\w+)", line))
            files = frozenset(map(file_name, re.findall(r"[\w./-]*\.\w+", f"{line}\n{body}")))
            purges = (("openrouter_purge", ""),) if _OF_FILES.search(f"{line}\n{body}") else ()
            yield Unit(cell, names._replace(touches=bound | files), magics=purges)
        else:
            asks: tuple[Asking, ...] = ()
            if (
                self._aliases
                or "openrouter" in body
                or any(self._asks_inside(one) for one in self._statements(body))
            ):
                asks = (Asking("cell", why=f"%%{name} decides whether, and how often, it is asked"),)
            yield Unit(cell, names._replace(touches=frozenset({EVERYTHING})), asks)

    def _asks(self, statement: ast.stmt) -> Iterator[Asking]:
        """Yield what a statement asks when it is run."""
        value = getattr(statement, "value", None)
        out = ""
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            out = statement.targets[0].id if isinstance(statement.targets[0], ast.Name) else ""
        whole = value.value if isinstance(value, ast.Await) else value
        for node, why in _now(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self.hidden:
                yield Asking("call", node.id, why=self.hidden[node.id])
            elif is_magic(node):
                name, line, body = _magic(node)
                if _asking_magic(node):
                    asked = _line_magic(name, line, body, out if node is whole else "")
                    yield asked._replace(why=why) if why else asked
            elif isinstance(node, ast.Call) and (function := self._function(node)):
                if function in ASKING or function == "reply":
                    yield Asking(function, call=node, out=out if node is whole else "", why=why)
                elif node is not whole and not isinstance(statement, (ast.With, ast.AsyncWith)):
                    yield Asking("call", function, why=f"it is asked through {function}")


def _now(node: ast.AST, why: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Yield what is in a statement, and why it may be run not once; not what functions do later."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    yield node, why
    if isinstance(node, ast.Lambda):
        why = why or _IN_FUNCTION
    elif isinstance(node, _LOOPS):
        why = why or _IN_LOOP
    elif isinstance(node, (ast.If, ast.IfExp, ast.BoolOp, ast.Try, ast.ExceptHandler, ast.Match, ast.Assert)):
        why = why or _IN_BRANCH
    is_lambda = isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
    for child in ast.iter_child_nodes(node):
        if not (is_lambda and isinstance(child, ast.Lambda)):
            yield from _now(child, why)


def _magic(call: Any) -> tuple[str, str, str | None]:
    """Return a magic's name, line and body; a line that is computed is one that can't be read."""
    texts = [arg.value if isinstance(arg, ast.Constant) else None for arg in call.args]
    name, line, body = (None if text is None else str(text) for text in (*texts, None, None, None)[:3])
    if call.func.attr == "run_line_magic":
        body = None
    elif body is None:
        body = ""
    return str(name), COMPUTED if line is None else line, body


def _asking_magic(node: ast.AST) -> bool:
    if not is_magic(node):
        return False
    name, _, _ = _magic(node)
    return name in ("openrouter", "openrouter_warm", *_PAYING) or name in ("None", "timeit", "prun", "memit")


def _line_magic(name: str, line: str, body: str | None, out: str) -> Asking:
    if line == COMPUTED:
        return Asking("line", why="its line is computed")
    if name == "openrouter":
        return Asking("cell" if body is not None else "line", line, body, out=_out_of(LINE, line) or out)
    if name == "openrouter_warm":
        return Asking("warm", line)
    if name in _PAYING:
        return Asking("none" if "--help" in line else "line", why=_PAYING[name])
    asks = "openrouter" in line or f"{PACKAGE}" in line or re.search(r"\b(?:orc|ask|map|reply)\b", line)
    return Asking("line" if asks else "none", why=f"%{name} decides how often it is asked")


def _with_magic(names: Names, node: Any) -> Names:
    """Return what a statement does to names, with what a line magic in it does."""
    name, line, _ = _magic(node)
    touches: set[str] = set()
    if name == "openrouter":
        touches = {_out_of(LINE, line)} - {""}
    elif name in ("env", "set_env", "dotenv"):
        touches = {ENVIRON} if line.strip() else set()
    elif name == "config" and _TRAITS in line:
        touches = {ENVIRON}
    elif not name.startswith(("openrouter", "time", "who")) and name not in _QUIET:
        touches = {EVERYTHING}
    return names._replace(touches=names.touches | touches)


def _out_of(command: Any, line: str) -> str:
    """Return the name that ``-o`` binds; empty where there is none, or the line is refused."""
    try:
        return str(parse(command, line).out or "")
    except (OrCacheError, AttributeError):
        return ""


def prompts_of_warm(line: str) -> Any:
    """Return the options of a line of ``%openrouter_warm``; raises `OptionError`."""
    return parse(WARM, line)
