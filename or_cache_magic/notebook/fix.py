"""``%openrouter_fix``: have a model explain the last exception of the notebook.

What is sent is built here and nowhere else: the code of the cell that failed, the traceback, the message. It
is bounded, says nothing of where the notebook lies, and has no value of a variable unless that is wanted. The
same failure gives the same text, whatever the cells' numbers: asked again it is a hit.
"""

from __future__ import annotations

import builtins
import dis
import linecache
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from traceback import walk_tb
from types import FrameType, FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.code_secrets import hidden_in_code, hidden_in_message, names_secret
from or_cache_magic.core.secrets import redacted_text, without
from or_cache_magic.errors import OptionError, one_line
from or_cache_magic.notebook.ask import run_and_show
from or_cache_magic.notebook.options import CELL
from or_cache_magic.notebook.parser import parse
from or_cache_magic.notebook.status import preview_lines

if TYPE_CHECKING:
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.notebook.session import Session

_SYSTEM: Final = (
    "You help a Python programmer in a Jupyter notebook. Say in a few sentences why this exception was"
    " raised, then give the corrected code of the cell, changing no more than is needed. If what is shown is"
    " not enough to be sure, say what to look at."
)
_LONGEST: Final = 16_000
_LONGEST_MESSAGE: Final = 1000
_LONGEST_QUOTE: Final = 60
_AROUND: Final = 40
"""Lines of a cell that are shown before and after the one that failed."""

_LONGEST_PART: Final = 3000
_LONGEST_LINE: Final = 200
_LONGEST_NUMBER: Final = 3
_OUTER, _INNER = 4, 8
"""Frames of the traceback that are shown, from either end."""

_MOST_CAUSES: Final = 3
_MOST_NAMES: Final = 20
_LONGEST_VALUE: Final = 200
_QUOTE: Final = re.compile(rf"""(['"])(?P<kept>[^'"\n]{{{_LONGEST_QUOTE}}})[^'"\n]+\1""")
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_LITERAL: Final = re.compile(
    r"""(?sx) (?<![^\W_]) [bru]{0,2} (?P<quote>["'])
    (?P<text>(?:\\.|(?!(?P=quote)(?!\w)).)*) (?:(?P=quote)|\Z)"""
)
_BRACKET: Final = re.compile(r"(\[(?!Errno -?\d+\])|(?<!^\[Errno \d)(?<!^\[Errno \d\d)\]|[{}])")
_NUMBER: Final = re.compile(r"(?<![\w.])\d(?:[\d_,.]*\d)?(?:[eE][+-]?\d+)?")
_WORD: Final = re.compile(r"\w+")
_OF_NAMES: Final = (KeyError, NameError, AttributeError, ImportError, TypeError)
"""Exceptions whose messages quote names of the code."""

_CONNECTIVES: Final = frozenset(
    _WORD.findall("""
    a an and are as at be but by can cannot could did do does errno expected for from given got
    has have in instead invalid is it its missing must no not of on only or required should than
    that the then this to too unexpected unknown was were when where which while will with
    within without shown
""")
)
"""Words that say nothing of the data."""

_NAME: Final = re.compile(r"(?<![\w.'\"])[A-Za-z]\w*")


class _Frame(NamedTuple):
    """One call of a traceback: where it is, as it is shown; empty source lines where they aren't known."""

    place: str
    line: int
    function: str
    source: Sequence[str]
    is_cell: bool
    frame: FrameType | None

    @property
    def text(self) -> str:
        return self.source[self.line - 1].strip() if 0 < self.line <= len(self.source) else ""


def fix(session: Session, options: SimpleNamespace) -> Completion | None:
    """Ask a model to explain the last exception; with ``--dry-run`` show what would be sent.

    Raises:
        OptionError: Nothing has failed yet, or what did explains itself.
        OrCacheError: The ask failed; see `CompletionCache.ask`.
    """
    failure = _last_failure(session)
    earlier = _which(failure, getattr(sys, "last_value", None))
    asked = parse(CELL, "")
    asked.format, asked.quiet = "markdown", options.quiet
    text = _described(failure, session.shell.compile.format_code_name, values=options.values)
    prompt = _without_secrets(text, session.api_key() or "")[:_LONGEST]
    ask = session.cache().prepare(prompt, {}, model=options.model, system=_SYSTEM, mode=options.mode)
    if options.dry_run:
        session.say("\n\n".join((prompt, *preview_lines(session.cache(), [ask]), *earlier)))
        return None
    for line in earlier:
        session.say(line)
    return run_and_show(session, asked, ask, ())


def _which(failure: BaseException, last: BaseException | None) -> list[str]:
    """Return a line that says which exception is explained, where it is not the last one."""
    if last is None or last is failure:
        return []
    kind, other = type(failure).__name__, type(last).__name__
    return [f"the last one, {other}, explains itself: this is on the {kind} before it"]


def _last_failure(session: Session) -> BaseException:
    """Return the last exception of a cell, but for those of this package, which explain themselves."""
    session.note_failure()
    if session.failure is not None:
        return session.failure
    last: BaseException | None = getattr(sys, "last_value", None)
    if last is None:
        raise OptionError("nothing has failed in this session", "run the cell that fails, then this again")
    said = one_line(str(last).partition("\n")[0], _LONGEST_VALUE)
    raise OptionError(
        f"the last error explains itself: {type(last).__name__}: {said}", "do what its second line says"
    )


def _described(failure: BaseException, cell_name: Callable[[str], object], *, values: bool) -> str:
    """Return what is sent of an exception, not yet without secrets.

    Args:
        failure: The exception.
        cell_name: Returns None for a file that is no cell.
        values: Whether to show the variables' values.
    """
    frames = _frames(failure, cell_name)
    cells = [frame for frame in frames if frame.is_cell]
    parts = []
    if cells:
        others = _others(cells)
        share = _LONGEST_PART // max(len(others), 1)
        parts.append(f"The cell that failed:\n{_code(cells[0], _LONGEST_PART)}")
        parts += [f"{cell.place.capitalize()}:\n{_code(cell, share)}" for cell in others]
    if frames:
        parts.append("Traceback, the innermost call last:\n" + "\n".join(_calls(frames)))
    names = list(
        dict.fromkeys(line for frame in (*cells, *frames[-1:]) for line in _variables(frame, values))
    )
    if names:
        parts.append(
            f"{'Values' if values else 'Types'} of variables:\n"
            + "\n".join(names[:_MOST_NAMES])[:_LONGEST_PART]
        )
    known = None if values else {*_WORD.findall("\n".join(parts)), *dir(builtins), "NoneType"}
    return "\n\n".join(("\n".join(_messages(failure, known)), *parts))


def _messages(failure: BaseException, known: set[str] | None) -> Iterator[str]:
    """Yield the exception and what it was raised from, a line each; without data unless `known` is None."""
    exc: BaseException | None = failure
    for number in range(_MOST_CAUSES):
        if exc is None:
            return
        said = hidden_in_message(_said(exc) if known is None else _without_attributes(exc, _said(exc)))
        if known is not None and not (isinstance(exc, SyntaxError) and exc.filename):
            said = _without_data(said, known if isinstance(exc, _OF_NAMES) else set())
            said = _in_words_of(_raised_by(exc), known, said)
        said = _ADDRESS.sub("0x…", _QUOTE.sub(r"\1\g<kept>…\1", said))
        kind = (
            type(exc).__name__ if type(exc).__module__ in ("builtins", "__main__") else _full_name(type(exc))
        )
        yield f"{'raised from ' if number else ''}{kind}: {said[:_LONGEST_MESSAGE]}".rstrip(": ")
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _said(exc: BaseException) -> str:
    """Return the message of an exception; a syntax error's own text has a name that each run makes anew."""
    try:
        return str(exc.msg if isinstance(exc, SyntaxError) else exc)
    except Exception as fault:  # noqa: BLE001 - any class may have any fault
        return f"({type(fault).__name__} when it is shown)"


def _without_attributes(exc: BaseException, said: str) -> str:
    """Return a message without what it quotes of its exception's own values: a command, with quotes in it."""
    for value in BaseException.__getattribute__(exc, "__dict__").values():
        if type(value) in (str, list, tuple):
            with suppress(Exception):  # whatever is in it may have any fault
                said = re.sub(rf"""(['"]){re.escape(str(value))}\1""", r"\1…\1", said) if value else said
    return said


def _without_data(said: str, known: set[str]) -> str:
    """Return a message without what is quoted or in brackets, and without numbers of more than 3 digits.

    Args:
        said: The message.
        known: Names that stay where they are quoted, with those of types before " object".
    """

    def quoted(found: re.Match[str]) -> str:
        text = found["text"]
        is_name = bool(known) and (text.isidentifier() and said.startswith(" object", found.end()))
        if is_name or not _WORD.search(text) or known.issuperset(text.split(".")):
            return found[0]
        return f"{found['quote']}…{found['quote']}"

    kept, depth = [], 0
    for piece in _BRACKET.split(_LITERAL.sub(quoted, said)):
        depth -= piece in ("]", "}") and depth > 0
        if not depth:
            kept.append(piece)
        if piece in ("[", "{"):
            kept += ["…"] if not depth else []
            depth += 1
    return _NUMBER.sub(
        lambda found: "…" if sum(map(str.isdigit, found[0])) > _LONGEST_NUMBER else found[0], "".join(kept)
    )


def _raised_by(exc: BaseException) -> set[str] | None:
    """Return the words of the code that wrote a message; None where that isn't Python's, as of a builtin."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return set()
    code = trace.tb_frame.f_code
    if dis.opname[code.co_code[trace.tb_lasti]] != "RAISE_VARARGS":
        return None
    made = sys.modules.get(type(exc).__module__)
    files = dict.fromkeys((code.co_filename, getattr(made, "__file__", None) or code.co_filename))
    return {word.lower() for file in files for word in _WORD.findall("".join(linecache.getlines(file)))}


def _in_words_of(code: set[str] | None, known: set[str], said: str) -> str:
    """Return a message without the words that stand neither in the code that raised it nor in the notebook's.

    They are data: ``f"got {name}"`` says whose. Of what no Python code raised the text before the colon is
    the interpreter's or a library's own, as far as it is in plain small letters.
    """
    words = {word.lower() for word in known} | _CONNECTIVES | (code or set())
    colon = len(said.partition(": ")[0])

    def shown(found: re.Match[str]) -> str:
        word, at = found[0], found.start()
        is_plain = code is None and (not at or (word.islower() and word.isascii() and at < colon))
        stays = is_plain or word.lower() in words or word.isdecimal() or word.startswith("0x")
        return word if stays else "…"

    return re.sub("…(?: …)+", "…", _WORD.sub(shown, said))


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _frames(failure: BaseException, cell_name: Callable[[str], object]) -> list[_Frame]:
    """Return the calls from the notebook's own on; without a cell among them all but IPython's."""
    calls = [(frame.f_code.co_filename, line, frame) for frame, line in walk_tb(failure.__traceback__)]
    if isinstance(failure, SyntaxError) and failure.filename:
        calls.append((failure.filename, failure.lineno or 0, None))  # type: ignore[arg-type]
    numbers: dict[str, str] = {}
    found = []
    for file, line, frame in calls:
        is_cell = cell_name(file) is not None
        if is_cell:
            place = numbers.setdefault(file, "the cell" if not numbers else f"another cell ({len(numbers)})")
        else:
            place = _short(file)
        if is_cell or numbers or not _is_ipythons(file):
            function = frame.f_code.co_name if frame is not None else "<module>"
            found.append(_Frame(place, line, function, _source(file, place), is_cell, frame))
    begin = next((at for at, frame in enumerate(found) if frame.is_cell), 0)
    return found[begin:]


def _source(file: str, place: str) -> Sequence[str]:
    """Return the lines of a file without secrets; those of a library, of which few are shown, as they are."""
    lines = linecache.getlines(file)
    if "/" in place or not lines:
        return lines
    return hidden_in_code("".join(lines)).removesuffix("\n").split("\n")


def _is_ipythons(file: str) -> bool:
    return not {"IPython", "ipykernel"}.isdisjoint(Path(file).parts)


def _short(file: str) -> str:
    """Return a path without what says where it lies: from the library's root, or the file's name."""
    parts = Path(file).parts
    for root in ("site-packages", "dist-packages", f"python{sys.version_info[0]}.{sys.version_info[1]}"):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    return Path(file).name


def _others(cells: Sequence[_Frame]) -> list[_Frame]:
    """Return the innermost call in each of the other cells."""
    inner = {cell.place: cell for cell in cells}
    inner.pop(cells[0].place)
    return list(inner.values())


def _code(cell: _Frame, longest: int) -> str:
    """Return the lines of a cell around the one that failed, which has a mark; fewer where they are long."""
    around = _AROUND
    while True:
        first = max(cell.line - 1 - around, 0)
        lines = [
            f"{'→' if number == cell.line else ' '} {number:>3} {_cut(line)}".rstrip()
            for number, line in enumerate(cell.source[first : cell.line + around], first + 1)
        ]
        text = "\n".join(lines)
        if len(text) <= longest or not around:
            return text
        around //= 2


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def _calls(frames: Sequence[_Frame]) -> Iterator[str]:
    left_out = len(frames) - _OUTER - _INNER
    for at, frame in enumerate(frames):
        if left_out > 0 and at == _OUTER:
            yield f"… {left_out} more …"
        if left_out <= 0 or not _OUTER <= at < _OUTER + left_out:
            yield f"{frame.place}, line {frame.line}, in {frame.function}: {_cut(frame.text)}"


def _variables(frame: _Frame, values: bool) -> Iterator[str]:
    """Yield the variables that stand in the line of a call, with their types, or with their values."""
    if frame.frame is None:
        return
    known = {**frame.frame.f_globals, **frame.frame.f_locals}
    for name in dict.fromkeys(_NAME.findall(frame.text)):
        value = known.get(name)
        kind = type(value)  # not its __class__, which it may make up
        if name not in known or issubclass(kind, (ModuleType, FunctionType, type)) or callable(value):
            continue
        shown = f" = {_shown(value)}" if values and not names_secret(name) else ""
        yield f"{name}: {kind.__name__}{_shape(value)}{shown}"


def _shape(value: Any) -> str:
    try:
        shape = value.shape
        return f" of shape {tuple(map(int, shape))}" if type(shape) is tuple else ""
    except Exception:  # noqa: BLE001 - any class may have any fault
        return ""


class _Short(reprlib.Repr):
    """Short texts of values, whose secrets are hidden before they are cut."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(hidden_in_message(x), level)

    def repr_instance(self, x: Any, level: int) -> str:  # noqa: ARG002 - reprlib's signature
        return hidden_in_message(repr(x))[: self.maxother]


def _shown(value: Any) -> str:
    short = _Short()
    short.maxstring = short.maxother = short.maxlong = _LONGEST_VALUE
    try:
        text = short.repr(value)
    except Exception as exc:  # noqa: BLE001 - any class may have any fault
        text = f"({type(exc).__name__} when it is shown)"
    return _ADDRESS.sub("0x…", hidden_in_message(text))[: 3 * _LONGEST_VALUE]


def _without_secrets(text: str, key: str) -> str:
    """Return a text without secrets, by look, by name or of the environment, and without the home folder."""
    text = redacted_text(text, key)
    for name, value in os.environ.items():
        if names_secret(name):
            text = without(text, value)
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text
