"""What the statements of a notebook's cells read, bind and perhaps change, by their text; nothing is run.

By it is known which of a kernel's values a run from the top would give again; see `known`. Where a statement
may do more than its text says (``exec``, ``%run``, a star import), it is taken to change everything.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeGuard

EVERYTHING: Final = "*"
ENVIRON: Final = "os.environ"
"""In the place of a name: the environment, as far as settings come from it."""


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_MUTATORS: Final = words(
    "append appendleft extend extendleft insert remove pop popleft popitem clear sort reverse rotate update"
    " setdefault add discard push put fill resize setflags read readline readlines send write writelines"
    " intersection_update difference_update symmetric_difference_update move_to_end subtract drain"
)
"""Methods that change what they are called on."""

_HARMLESS: Final = words(
    "print display len repr str type isinstance help sorted list tuple set dict sum min max any all dir id"
    " Image Markdown HTML Code round abs hash callable hasattr ask aask map amap warm embed reply"
)
"""Functions that leave alone what they are given."""

_PURE: Final = words(
    "head tail describe info value_counts groupby query sum mean median count max min std nunique unique"
    " sort_values sort_index items keys values copy to_markdown to_string to_frame to_dict to_list tolist agg"
    " round isna notna astype reset_index set_index join split strip lower upper format startswith endswith"
    " run_line_magic run_cell_magic get crosstab pivot_table nlargest nsmallest iterrows itertuples"
    " index find replace title capitalize"
)
"""Methods that leave what they are called on as it is, and may end a cell to be shown."""

_COPYING: Final = words(
    "str int float bool len repr round abs range open Path dumps ask aask amap copy deepcopy query sample"
    " merge sort_values drop assign fillna dropna drop_duplicates reset_index"
    " rename astype apply map agg sum mean median count min max nunique to_dict to_list tolist to_string"
    " to_markdown"
    " to_csv to_json format join split splitlines strip lower upper replace title encode decode read_text"
    " read_bytes read_csv read_json read_parquet read_excel"
)
"""What gives something new, which can be changed without what they are called on."""

_ANYTHING: Final = words("exec eval globals locals vars setattr delattr __import__ get_ipython")

_REPLACING: Final = words(
    "write_text write_bytes savefig save dump to_csv to_json to_parquet to_excel to_pickle"
    " to_feather tofile savez"
)
"""What writes a file anew that the same statement names."""

_SAVING: Final = _REPLACING | words("write copyfile copy2 unlink urlretrieve touch")
"""What writes to a file, or removes one, that its variable may name."""

_READING: Final = words(
    "open read readline readlines read_text read_bytes read_csv read_json read_parquet read_excel read_pickle"
    " load"
)
"""What reads a file, whichever."""

_WRITERS: Final = words(
    "write copy copyfile copy2 move rename replace unlink remove urlretrieve touch append"
)
"""What may write to the file that the same statement names."""

_VOLATILE: Final = words(
    "now today utcnow time time_ns perf_counter perf_counter_ns monotonic monotonic_ns ctime localtime gmtime"
    " uuid1 uuid4 urandom token_hex token_urlsafe token_bytes random randint randrange choice choices shuffle"
    " sample uniform gauss normal normalvariate rand randn integers permutation default_rng input getpass"
    " getpid gethostname mkdtemp mkstemp NamedTemporaryFile TemporaryDirectory urlopen urlretrieve"
    " id hash object getoutput check_output popen exec eval get_ident get_native_id current_thread"
    " listdir scandir iterdir glob iglob rglob walk stat getmtime getctime getsize"
)
"""What gives another value each time, unless it is given a seed."""

_SESSION: Final = words("In Out _ih _oh _dh _i _ii _iii")
"""What IPython keeps of a session."""

_REMOTE: Final = frozenset(("requests", "httpx", "urllib", "aiohttp", "subprocess"))
FILE: Final = "file "
ANY_FILE: Final = "file *"
_LONGEST_PATH: Final = 250
_SEEDS: Final = frozenset(("seed", "random_state"))
_SETS_ENVIRON: Final = re.compile(
    r"environ\b.*(?:__setitem__|__delitem__|setdefault|update|pop|clear)|getattr\(.*environ"
)
_SET_ENVIRON: Final = frozenset(("load_dotenv", "putenv", "unsetenv"))


class Names(NamedTuple):
    """What one statement does to names.

    Attributes:
        text: The statement, written in one way whatever its spaces and comments.
        reads: Names that it reads, those of functions that it defines apart.
        kills: Names that it surely binds anew.
        touches: Names that it binds, or whose values it may change; ``*`` is all.
        changes: Names whose values it may change by calling something with them, unless they are modules.
        imports: Names that it imports.
        calls: Names whose methods it calls.
        paths: Texts in it that may name files.
        passes: Functions that it calls by name, each with the names that it passes to them.
        shallow: Names of a value and of a copy of it, which may have parts in common.
        alias: Names that may be one value with others of these, since no call is between them.
        volatile: What in it gives another value each time; empty is nothing.
        later: Of functions and classes that it defines: what they read and touch when they are called.
        literal: The value that it binds, where that is written out; None where it isn't.
    """

    text: str
    reads: frozenset[str] = frozenset()
    kills: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    passes: tuple[tuple[str, frozenset[str]], ...] = ()
    shallow: frozenset[str] = frozenset()
    alias: frozenset[str] = frozenset()
    volatile: str = ""
    later: tuple[tuple[str, frozenset[str], frozenset[str], str], ...] = ()
    literal: Any = None


def names_of(statement: ast.stmt) -> Names:
    """Return what a statement does to names, by its text alone."""
    found = _Found()
    found.visit_body([statement], sure=True)
    text = ast.unparse(statement)
    if _SETS_ENVIRON.search(text):
        found.touches.add(ENVIRON)
    return Names(
        text,
        frozenset(found.reads - {name for name in found.kills if name.startswith(FILE)}),
        frozenset(found.kills),
        frozenset(found.touches),
        frozenset(found.changes - {""}),
        frozenset(found.imports),
        frozenset(found.calls - {""}),
        frozenset(found.paths),
        tuple((name, frozenset(given)) for name, given in found.passes),
        frozenset(found.shallow),
        frozenset(found.alias),
        found.volatile,
        tuple(found.later),
        _literal(statement),
    )


def _literal(statement: ast.stmt) -> Any:
    """Return the value that is written out behind ``name =``; None where there is none."""
    if not isinstance(statement, ast.Assign) or not all(isinstance(to, ast.Name) for to in statement.targets):
        return None
    try:
        return ast.literal_eval(statement.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def file_name(path: str) -> str:
    """Return what stands for a file in the place of a name."""
    return f"{FILE}{path.replace(chr(92), '/').rpartition('/')[2]}"


def is_magic(node: ast.AST) -> TypeGuard[Any]:
    """Return whether a node is a call of a magic, as IPython writes one: it is looked at on its own."""
    return _is_of_shell(node, "run_line_magic", "run_cell_magic")


def _is_shell(node: ast.AST) -> TypeGuard[Any]:
    """Return whether a node runs a command of the system's: files are all that it can change."""
    return _is_of_shell(node, "system", "getoutput")


def _is_of_shell(node: ast.AST, *names: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and isinstance(node.func.value, ast.Call)
        and isinstance(node.func.value.func, ast.Name)
        and node.func.value.func.id == "get_ipython"
    )


def root_of(node: ast.AST) -> str:
    """Return the name that a chain of attributes and items begins with; empty where it is none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


class _Found:
    """Gathers what `Names` has."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.kills: set[str] = set()
        self.touches: set[str] = set()
        self._sure = False
        self.changes: set[str] = set()
        self.imports: set[str] = set()
        self.calls: set[str] = set()
        self.paths: set[str] = set()
        self.passes: list[tuple[str, set[str]]] = []
        self.alias: set[str] = set()
        self.shallow: set[str] = set()
        self.volatile = ""
        self.later: list[tuple[str, frozenset[str], frozenset[str], str]] = []

    def visit_body(self, body: Iterable[ast.stmt], *, sure: bool) -> None:
        """Gather from statements; `sure` is whether they are run once, whatever comes."""
        for statement in body:
            self._visit(statement, sure)

    def _visit(self, node: ast.stmt, sure: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self._define(node.name, node, sure)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = (alias.asname or alias.name).partition(".")[0]
                self.imports.add(name)
                self._notice_alias(alias)
                self._bind(EVERYTHING if name == "*" else name, sure)
        elif isinstance(node, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith)):
            self._compound(node, sure)
        else:
            self._simple(node, sure)

    def _notice_alias(self, alias: ast.alias) -> None:
        """Note what is imported under another name, by which it is not known."""
        if alias.asname not in (None, alias.name) and alias.name in _VOLATILE:
            self.volatile = self.volatile or f"{alias.name} under another name"
        if alias.name == "environ":
            self.touches.add(ENVIRON)

    def _compound(self, node: ast.stmt, sure: bool) -> None:
        sure = sure and isinstance(node, (ast.With, ast.AsyncWith))
        for field, value in ast.iter_fields(node):
            if field in ("body", "orelse", "finalbody"):
                self.visit_body(value, sure=sure)
            elif field == "handlers":
                for handler in value:
                    self.visit_body(handler.body, sure=False)
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self._expression(child, sure)

    def _simple(self, node: ast.stmt, sure: bool) -> None:
        self._expression(node, sure and isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr)))
        value = getattr(node, "value", None)
        if isinstance(node, ast.AugAssign):
            self.reads.add(root_of(node.target))
        if isinstance(node, ast.Expr):
            self._effects(value)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and value is not None:
            if isinstance(value, ast.Lambda) and isinstance(node, ast.Assign):
                for target in node.targets:
                    self._define(root_of(target), value, sure)
            self._aliases(node, value)

    def _effects(self, value: ast.AST | None) -> None:
        """Gather what a value that is not kept was perhaps computed for."""
        if isinstance(value, ast.Await):
            value = value.value
        name = getattr(getattr(value, "func", None), "id", getattr(getattr(value, "func", None), "attr", ""))
        if isinstance(value, ast.Call) and name not in _HARMLESS:
            given = (*value.args, *(keyword.value for keyword in value.keywords))
            self.changes.update(map(root_of, given))
        for inner in ast.walk(value) if value is not None else ():
            function = inner.func if isinstance(inner, ast.Call) else None
            if isinstance(function, ast.Attribute) and function.attr not in _PURE:
                self.changes.add(root_of(function))

    def _aliases(self, node: ast.Assign | ast.AnnAssign, value: ast.AST) -> None:
        """Gather the names that may stand for one value from here on, or for a part of it."""
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        bound = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
        last = getattr(getattr(value, "func", None), "attr", "")
        names = set[str]()
        for inner in ast.walk(value):
            if isinstance(inner, ast.Call):
                function = inner.func
                if getattr(function, "attr", getattr(function, "id", "")) not in _COPYING:
                    given = (*inner.args, *(keyword.value for keyword in inner.keywords))
                    names |= {one.id for arg in given for one in ast.walk(arg) if isinstance(one, ast.Name)}
                    names |= {root_of(function)} if isinstance(function, ast.Attribute) else set()
        if not any(isinstance(inner, ast.Call) for inner in ast.walk(value)):
            names = {inner.id for inner in ast.walk(value) if isinstance(inner, ast.Name)}
        if last == "copy":
            self.shallow |= {*bound, *(inner.id for inner in ast.walk(value) if isinstance(inner, ast.Name))}
        elif last not in _COPYING and names - {""}:
            self.alias |= bound | (names - {""})

    def _define(self, name: str, node: ast.AST, sure: bool) -> None:
        """Take a function or a class as bound, and what is in it as what it does later."""
        self._bind(name, sure)
        inner = _Found()
        own: set[str] = set()
        for child in ast.walk(node):
            if isinstance(child, ast.arg):
                own.add(child.arg)
            elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                own.add(child.id)
        shared = {name for child in ast.walk(node) if isinstance(child, ast.Global) for name in child.names}
        body = getattr(node, "body", ())
        if isinstance(body, ast.AST):
            inner._expression(body, sure=False)
        else:
            inner.visit_body(body, sure=False)
        for outer in (*getattr(node, "decorator_list", ()), *getattr(node, "bases", ())):
            self._expression(outer, sure)
        given = getattr(node, "args", None)
        for default in (*given.defaults, *filter(None, given.kw_defaults)) if given is not None else ():
            self._expression(default, sure)
        reads, touches = set(inner.reads), inner.touches | (inner.changes - {""})
        for _, more_reads, more_touches, why in inner.later:
            reads |= more_reads
            touches |= more_touches
            inner.volatile = inner.volatile or why
        own -= shared
        self.later.append((name, frozenset(reads - own), frozenset(touches - own), inner.volatile))

    def _bind(self, name: str, sure: bool) -> None:
        if not name:
            return
        self.touches.add(name)
        if sure and name != EVERYTHING:
            self.kills.add(name)

    def _expression(self, node: ast.AST, sure: bool) -> None:
        """Gather from an expression, or from a statement that has no others in it."""
        local = {
            name.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.comprehension)
            for name in ast.walk(inner.target)
            if isinstance(name, ast.Name)
        }
        self._sure = sure
        local |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
        magics = {id(inner.func.value) for inner in ast.walk(node) if is_magic(inner) or _is_shell(inner)}
        walrus = {id(inner.target) for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)}
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Set, ast.SetComp)):
                self.volatile = self.volatile or "a set, whose order is another in each process"
            if isinstance(inner, ast.Name):
                self._name(inner, local, sure and id(inner) not in walrus)
            elif isinstance(inner, (ast.Attribute, ast.Subscript)) and not isinstance(inner.ctx, ast.Load):
                self._item(inner)
            elif isinstance(inner, ast.Call):
                self._call(inner, of_magic=id(inner) in magics)
            elif isinstance(inner, ast.Constant) and _is_path(inner.value):
                self.reads.add(file_name(inner.value))
                self.paths.add(inner.value)

    def _name(self, node: ast.Name, local: set[str], sure: bool) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id not in local:
                self.reads.add(node.id)
                if node.id in _SESSION:
                    self.volatile = self.volatile or node.id
        elif node.id not in local:
            self._bind(node.id, sure)

    def _item(self, node: ast.Attribute | ast.Subscript) -> None:
        if root := root_of(node):
            self.touches.add(root)
        of = node.value
        if (
            isinstance(of, (ast.Attribute, ast.Name))
            and getattr(of, "attr", getattr(of, "id", "")) == "environ"
        ):
            self._environ(node.slice if isinstance(node, ast.Subscript) else None)

    def _environ(self, name: ast.AST | None) -> None:
        """Take the environment as changed, unless the variable is the key, which is in no setting."""
        if not (isinstance(name, ast.Constant) and name.value == "OPENROUTER_API_KEY"):
            self.touches.add(ENVIRON)

    def _call(self, node: ast.Call, *, of_magic: bool) -> None:
        function, root = node.func, root_of(node.func)
        name = function.attr if isinstance(function, ast.Attribute) else root
        given = {root_of(value) for value in (*node.args, *(keyword.value for keyword in node.keywords))}
        if isinstance(function, ast.Attribute):
            self.calls.add(root)
            keywords = {keyword.arg for keyword in node.keywords}
            if name in _MUTATORS or "inplace" in keywords:
                self.changes.add(root)
                if isinstance(function.value, ast.Attribute) and function.value.attr == "environ":
                    self._environ(node.args[0] if node.args else None)
        elif root:
            self.passes.append((root, given - {""}))
            self.touches |= {EVERYTHING} if root in _ANYTHING and not of_magic else set()
            self.changes |= given if root == "next" else set()
        if name in _SET_ENVIRON:
            self.touches.add(ENVIRON)
        self._files(node, name)
        self._notice_volatile(node, name, root, of_magic=of_magic)

    def _files(self, node: ast.Call, name: str) -> None:
        """Gather the files that a call writes, and whether it reads or writes one that it doesn't name."""
        modes = _modes(node) if name == "open" else ""
        if name in _WRITERS or name in _REPLACING or _is_shell(node) or set(modes) & set("wax+"):
            replaces = name in _REPLACING or bool(set(modes) & set("wx"))
            named = False
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    for path in re.findall(r"[^\s'\"]*\.\w+", inner.value):
                        named = True
                        self._bind(file_name(path), self._sure and replaces)
            if not named and name in _SAVING:
                self.touches.add(ANY_FILE)
        if name in _READING:
            self.reads.add(ANY_FILE)

    def _notice_volatile(self, node: ast.Call, name: str, root: str, *, of_magic: bool) -> None:
        seeded = any(keyword.arg in _SEEDS for keyword in node.keywords) or (
            name == "default_rng" and bool(node.args)
        )
        if name == "get_ipython" and not of_magic:
            self.volatile = self.volatile or "what IPython knows of the session"
        named = {
            arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        }
        is_set = name in ("set", "frozenset") and bool(node.args)
        if is_set or ((name in _VOLATILE or root in _REMOTE) and not seeded):
            self.volatile = self.volatile or ast.unparse(node.func)
        elif name in ("getattr", "attrgetter", "methodcaller") and named & _VOLATILE:
            self.volatile = self.volatile or next(iter(named & _VOLATILE))


def _is_path(value: Any) -> TypeGuard[str]:
    """Return whether a text may name a file."""
    return isinstance(value, str) and "." in value and "\n" not in value and len(value) <= _LONGEST_PATH


def _modes(node: ast.Call) -> str:
    modes = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return "".join(str(mode.value) for mode in modes if isinstance(mode, ast.Constant))
