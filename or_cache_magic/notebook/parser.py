"""What a magic takes, as a table, and everything that follows from the table.

A `Command` lists its `Option` rows. Parsing, ``--help``, the docstring that ``?`` shows, "did you mean"
and tab completion all read the same rows, so that a new option is one row.

The values are named tuples, frozen as everywhere, because their classes are made ten times faster than
dataclasses (0.1 ms, not 0.9 ms): these modules are part of a fresh kernel's first answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final, Literal

from or_cache_magic.core.records import NamedTuple
from or_cache_magic.errors import OptionError, OrCacheError, near_name

_OPTION = r"--?[^\W\d_]"
_SPACE = " \t\r\n"
_UNQUOTED = re.compile(rf"[^{_SPACE}]+")
# Compiled when first used. A quote behind a letter is an apostrophe, and opens nothing.
_QUOTED = r""""((?:[^"\\]|\\.)*)"|'([^']*)'"""
_WORD = rf"""[{_SPACE}]*(?P<raw>(?:[^{_SPACE}"']|(?<!\w)(?:{_QUOTED}))*)(?![^{_SPACE}])"""
_SETTING = r"\d+[a-z]+|o(?:ff|n)|none|never|true|false"
_STRAIGHT = "\"'"
_CURLY = "\u2018-\u201f\xab\xbb\u2039\u203a\uff02\uff07"
_DASHES = "\u2010-\u2015\u2212\ufe58\ufe63\uff0d"


class Word(NamedTuple):
    """One word of a line.

    Attributes:
        text: The word without its quotes.
        raw: The word as written.
        start: Where ``raw`` begins in the line.
        closed: Whether every quote of it is.
    """

    text: str
    raw: str
    start: int
    closed: bool = True

    @property
    def is_option(self) -> bool:
        """Whether it is written like an option: a dash or two, then a letter, with no quote around.

        ``-``, ``--`` and ``-5`` are not, so that a prompt may begin with a list item or a number.
        """
        return self.raw.startswith("-") and re.match(_OPTION, self.raw) is not None


def split(line: str) -> Iterator[Word]:
    r"""Yield the words of `line`, one after another.

    In double quotes ``\"`` and ``\\`` stand for their second character, as in a shell; any other backslash is
    one. From a quote that is never closed (``don't``) to the end of the line, words end at white space and
    quotes are letters. Nothing here is a comment; whoever reads the words knows where one may stand.
    """
    start = 0
    if '"' in line or "'" in line:
        pattern = re.compile(_WORD, re.DOTALL)
        while found := pattern.match(line, start):
            raw = found["raw"]
            if not raw:
                break
            yield Word(re.sub(_QUOTED, _unquoted, raw, flags=re.DOTALL), raw, found.start("raw"))
            start = found.end()
    for rest in _UNQUOTED.finditer(line, start):
        yield Word(rest[0], rest[0], rest.start(), closed=set(_STRAIGHT).isdisjoint(rest[0]))


def _unquoted(quoted: re.Match[str]) -> str:
    return re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted[2] is None else quoted[2]


_BEFORE_PROMPT: Final = "; put -- before a prompt that begins with a dash"


class Option(NamedTuple):
    """One option of a magic.

    Attributes:
        names: Its spellings, the short one first.
        field: The field of the result that it sets. Options that share a field exclude each other.
        help: What it does, in a line.
        metavar: The name of its value in the help; empty is a flag.
        default: The field's value when no option sets it.
        value: What a flag sets.
        parse: Its value from the word that was written; raises ValueError with the problem in a line.
        expects: What the value may be, the hint of a wrong one.
        choices: The values there are, for completion; empty is not a list of values.
        models: Whether its values are model ids, for completion.
        files: What stands before a file's path in its value, likewise; None is that no file is meant.
        repeatable: Whether it may stand more than once; the result is then a tuple of all values.
        alone: Its value when neither one of `choices` follows nor a word like them; None is that one must.
        needs: The options of which one must be there too: without it means nothing.
        bars: The options that must not be there too: with them it means nothing.
    """

    names: tuple[str, ...]
    field: str
    help: str
    metavar: str = ""
    default: Any = None
    value: Any = True
    parse: Callable[[str], Any] = str
    expects: str = ""
    choices: tuple[str, ...] = ()
    models: bool = False
    files: str | None = None
    repeatable: bool = False
    alone: str | None = None
    needs: tuple[str, ...] = ()
    bars: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its names and metavar as the help shows them: ``-o, --out NAME``."""
        value = self.metavar if self.alone is None else f"[{self.metavar}]"
        return ", ".join(self.names) + (f" {value}" if self.metavar else "")


HELP: Final = Option(("-h", "--help"), "help", "show this help; ask nothing", default=False)
"""Every magic has it."""


def take_no_words(command: Command, options: SimpleNamespace) -> None:
    """Refuse words that are no options."""
    if options.words:
        raise OptionError(
            f"{command.spelling} takes no {options.words[0]!r}; {command.unharmed}",
            f"{command.spelling} --help lists what it takes",
        )


class _Row(NamedTuple):
    name: str
    summary: str
    usage: str = ""
    examples: tuple[str, ...] = ()
    options: tuple[Option, ...] = (HELP,)
    check: Callable[[Command, SimpleNamespace], None] = take_no_words
    takes: Literal["", "model", "setting", "pin", "file"] = ""
    cell: bool = False
    prompt: bool = False
    unharmed: str = "nothing was done"


class Command(_Row):
    """One magic: its name, its words and its options.

    Attributes:
        name: As registered, without ``%``.
        summary: What it does, in a line.
        usage: The words it takes besides options, as the help shows them; empty takes none.
        examples: Lines to copy.
        options: Its rows.
        check: Reads the words into fields, and what several options come to together; raises `OptionError`.
        takes: What completes its words: ``model``, ``setting``, ``pin`` (earlier answers), ``file``; or none.
        cell: Whether it is a cell magic; the help then shows ``%%``.
        prompt: Whether the first word that is no option begins a text that is kept as written.
        unharmed: What has not happened when the line is refused.
    """

    @property
    def spelling(self) -> str:
        """The name with its ``%`` or ``%%``."""
        return ("%%" if self.cell else "%") + self.name

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """By field, what an empty line gives."""
        return {
            "words": (),
            "prompt": "",
            "given": frozenset(),
            **{option.field: option.default for option in self.options},
        }

    @cached_property
    def by_name(self) -> dict[str, Option]:
        """The options by each of their spellings."""
        return {name: option for option in self.options for name in option.names}


def parse(command: Command, line: str) -> SimpleNamespace:
    """Return `line`, read by the rows of `command`.

    Options and words come in any order. ``--name=value`` and ``--name value`` are one. A value is the next
    word whatever it is, unless it is itself written as an option without quotes. ``--`` ends the options.
    A word that is just ``#`` begins a comment. In a command that takes a prompt, the first word that is no
    option begins it, and neither ``--`` nor ``#`` means anything from there on. ``--help`` ends the reading.

    Returns:
        The options' fields, and ``given``, those that the line sets; ``words``, those that are no options;
        ``prompt``, the rest of the line as written, for a command that takes one; and what the command's
        `check` adds.

    Raises:
        OptionError: An unknown or repeated option, a missing value, or one that it does not take.
    """
    options = SimpleNamespace(**command.defaults)
    given: dict[str, str] = {}
    words: list[str] = []
    stream = split(line)
    for word in stream:
        if not word.raw[:1].isalnum():
            if word.is_option:
                if word.text in HELP.names:
                    return SimpleNamespace(**{**command.defaults, "help": True})
                _take(command, word, stream, line[word.start + len(word.raw) :], options, given)
                continue
            _refuse_dash(command, word)
        if command.prompt:
            options.prompt = line[word.start + 2 * (word.raw == "--") :].strip()
            break
        if word.raw == "#":
            break
        if word.raw == "--":
            words += [w.text for w in _until_comment(stream)]
            break
        words.append(_text(command, word))
    for name in given.values():
        option = command.by_name[name]
        if option.needs or option.bars:
            _refuse_idle(command, option, name, given)
    options.words, options.given = tuple(words), frozenset(given)
    command.check(command, options)
    return options


def _until_comment(stream: Iterator[Word]) -> Iterator[Word]:
    for word in stream:
        if word.raw == "#":
            return
        yield word


def _take(
    command: Command,
    word: Word,
    stream: Iterator[Word],
    rest: str,
    options: SimpleNamespace,
    given: dict[str, str],
) -> None:
    """Read the option at `word` into `options`; `given` is what set a field.

    Its value comes from `stream`, which reads the `rest` of the line word by word.
    """
    name, equals, text = _text(command, word).partition("=")
    option = command.by_name.get(name)
    if option is None:
        raise _unknown(command, name)
    if not option.metavar:
        if equals:
            raise OptionError(f"{name} takes no value; {command.unharmed}", f"write just {name}")
        value = option.value
    else:
        if not equals:
            # Looked at as text: the words of a prompt may be no words of a line (an apostrophe).
            chosen = (*rest.split(maxsplit=1), "")[0].strip(_STRAIGHT)
            follows = option.alone is None or chosen in option.choices or re.fullmatch(_SETTING, chosen)
            text = _next(command, option, name, stream) if follows else str(option.alone)
        value = _value(command, option, name, text)
    if option.repeatable:
        value = (*getattr(options, option.field), value)
    elif option.field in given:
        _refuse_second(command, given[option.field], name, option)
    given[option.field] = name
    setattr(options, option.field, value)


def _next(command: Command, option: Option, name: str, stream: Iterator[Word]) -> str:
    word = next(stream, None)
    if word is None or word.is_option:
        quoting = f"; quote it if it is the value: {name} '{word.raw}'" if word else ""
        raise OptionError(
            f"{name} needs a value ({option.metavar}); {command.unharmed}", option.expects + quoting
        )
    _refuse_dash(command, word)
    if not word.closed:
        raise _unclosed(command, word)
    return _text(command, word)


def _text(command: Command, word: Word) -> str:
    """Return a word's text; refuse one that begins, perhaps behind ``NAME=``, with a quote that is none."""
    if not word.raw.isascii() and re.match(rf"(?:[^=]*=)?[{_CURLY}]", word.raw):
        raise OptionError(
            f"{word.raw} begins with a typographic quote; {command.unharmed}",
            "write straight quotes: " + re.sub(f"[{_CURLY}]", '"', word.raw),
        )
    if not word.closed and re.match(rf"(?:[^=]*=)?[{_STRAIGHT}]", word.raw):
        raise _unclosed(command, word)
    return word.text


def _unclosed(command: Command, word: Word) -> OptionError:
    return OptionError(
        f"from {word.raw} on the quotes don't pair; {command.unharmed}",
        """put the whole value in double quotes, with \\" for one inside: "it's \\"so\\"\"""",
    )


def _refuse_dash(command: Command, word: Word) -> None:
    """Refuse what was meant as an option: an editor has made one dash of two hyphens."""
    if word.raw[:1].isalnum():
        return
    name = re.match(rf"[-{_DASHES}]+([^\W\d_][^{_SPACE}]*)", word.raw)
    if name:
        meant = f"-{name[1]}" if len(name[1]) == 1 else f"--{name[1]}"
        raise OptionError(
            f"{word.raw} begins with a typographic dash; {command.unharmed}",
            f"an option has one hyphen or two hyphens: {meant}" + _BEFORE_PROMPT * command.prompt,
        )


def _value(command: Command, option: Option, name: str, text: str) -> Any:
    try:
        return option.parse(text)
    except OrCacheError:
        raise  # its own two lines
    except ValueError as problem:
        raise OptionError(f"{name}: {problem}; {command.unharmed}", option.expects) from None


def _refuse_second(command: Command, first: str, second: str, option: Option) -> None:
    if first in option.names:
        raise OptionError(f"{second} is given twice; {command.unharmed}", "keep one of them")
    raise OptionError(f"{first} and {second} exclude each other; {command.unharmed}", "keep one of them")


def _refuse_idle(command: Command, option: Option, name: str, given: dict[str, str]) -> None:
    """Refuse an option that would be ignored, for want of another or because of one."""
    there = {command.by_name[other].names for other in given.values()}
    known = command.by_name
    if option.needs and there.isdisjoint(known[other].names for other in option.needs if other in known):
        raise OptionError(
            f"{name} means nothing without {' or '.join(option.needs)}; {command.unharmed}",
            f"add {option.needs[0]}, or leave {name} out",
        )
    for other in option.bars:
        if other in known and known[other].names in there:
            raise OptionError(f"{name} means nothing with {other}; {command.unharmed}", "keep one of them")


def _unknown(command: Command, name: str) -> OptionError:
    found = near_name(name, command.by_name)
    hints = [f"did you mean {found}?"] if found else [f"{command.spelling} --help lists the options"]
    hint = "; ".join(hints) + _BEFORE_PROMPT * command.prompt
    return OptionError(f"{command.spelling} has no option {name}; {command.unharmed}", hint)


_SPELLED: Final = {"max_cost_usd": "--max-cost"}
_REWORDED: Final = (
    (r"help\(or_cache_magic\.ask\) says", "{magic} --help says"),
    (r"mode='refresh'", "--refresh"),
    (r"mode='bypass'", "--no-cache"),
    (r"mode='offline'", "--offline"),
    (r" \(repair=\d+\)", ""),
    (r"\bthis (?:list|table)'s max_cost_usd", "--max-cost"),
    (r"\bbatch=True", "--batch"),
    (r"extra=\{[^}]*\}", "-p field=JSON"),
)
"""How a magic writes what Python writes otherwise."""


def spell_as_options(failure: Exception, command: Command) -> None:
    """Have an error of `ask` name the options of a magic where it names arguments."""
    if not isinstance(failure, OrCacheError) or "--max-cost" not in command.by_name:
        return
    from or_cache_magic.core.options import FIELDS, OPTIONS

    def spelled(found: re.Match[str]) -> str:
        name = found["name"] or found["meant"]
        option = _SPELLED.get(name, f"--{name.replace('_', '-')}")
        is_option, has_value = option in command.by_name, bool(found["name"])
        return option + " " * has_value if is_option else f"-p {name}" + "=" * has_value

    names = "|".join(sorted({*FIELDS, *OPTIONS, *_SPELLED}, key=len, reverse=True))
    argument = (
        rf"(?<!config )(?<![\w.'\"=-])(?P<name>{names}) ?= ?|(?<=did you mean )(?P<meant>{names})(?=\?)"
    )

    def reworded(text: str) -> str:
        for pattern, words in _REWORDED:
            text = re.sub(pattern, words.replace("{magic}", command.spelling), text)
        return re.sub(argument, spelled, text)

    message = str(failure.args[0])
    failure.args = (reworded(message), *failure.args[1:])
    if not re.match(r".*, line \d", message):  # a file's options are called as in Python
        failure.hint = reworded(failure.hint)


def help_text(command: Command) -> str:
    """Return the help of a magic: usage, examples to copy, then every option.

    It is what ``--help`` prints and what ``?`` shows as the docstring.
    """
    takes = ("[options]", command.usage) if command.prompt else (command.usage, "[options]")
    lines = [" ".join(filter(None, (command.spelling, *takes))), "", command.summary, ""]
    if command.examples:
        lines += [
            "Examples:",
            "",
            *(f"    {row}" for text in command.examples for row in text.split("\n")),
            "",
        ]
    width = max(len(o.label) for o in command.options) + 2
    lines += ["Options:", ""]
    lines += [
        f"    {o.label:<{width}}{o.help}" + (" (repeatable)" if o.repeatable else "") for o in command.options
    ]
    return "\n".join(lines) + "\n"
