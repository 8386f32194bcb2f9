"""Completes what stands behind the magics' names: options, their values, model ids, settings.

IPython's older completion hooks see words as Python does and give up on ``openai/`` and ``openai/gpt-4o-``;
a matcher of its version 2 (`extension`) says itself what it completes. What is offered here comes from tables
and from what was handed over, never from the network; a cell's body and a prompt are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from or_cache_magic.notebook.commands import COMMANDS
from or_cache_magic.notebook.parser import Command, Option, Word, split

Names = Callable[[], Sequence[str]]
"""Gives names when asked, fast and without raising."""

Files = Callable[[str], Sequence[str]]
"""Gives the paths that begin with a text, likewise."""


def _no_files(_begin: str) -> Sequence[str]:
    return ()


_MAGIC = re.compile(r"\s*(?:[^\s%=][^%=]*=\s*)?(?P<magic>%openrouter\w*)\s(?P<line>.*)", re.DOTALL)
_CELL = re.compile(r"(?P<magic>%%openrouter\w*)\s(?P<line>.*)", re.DOTALL)


def complete(
    text: str,
    cursor_line: int,
    cursor: int,
    *,
    models: Names,
    settings: Names,
    files: Files = _no_files,
    answers: Names = tuple,
) -> tuple[str, list[str]]:
    """Return the piece of text before the cursor that is being completed, and its completions, in order.

    Args:
        text: The whole cell.
        cursor_line: The cursor's line in it, from 0.
        cursor: The cursor's column in that line.
        models: Gives the model ids and aliases to offer.
        settings: Gives the settings' names.
        files: Gives the files that a prompt may be in.
        answers: Gives what may be pinned, as ``KEY:N``.

    Returns:
        The piece and the words that begin with it; no words where nothing of ours is being written.
    """
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    in_cell_magic = lines[first].startswith("%%")
    if in_cell_magic and cursor_line != first:
        return "", []
    before = lines[cursor_line][:cursor]
    found = (_CELL if in_cell_magic else _MAGIC).match(before)
    command = COMMANDS.get(found["magic"]) if found else None
    if found is None or command is None:
        return "", []
    if command.takes == "pin":
        models = answers
    return _complete_line(command, found["line"], models, settings, files)


def _complete_line(
    command: Command, line: str, models: Names, settings: Names, files: Files
) -> tuple[str, list[str]]:
    done = list(split(line))
    piece = done.pop().raw if done and not line[-1].isspace() else ""
    option, used, words, ended = _so_far(command, done)
    if ended:
        return piece, []
    if option is not None:
        return _value(option, piece, models, files)
    name, equals, value = piece.partition("=")
    if equals and (named := command.by_name.get(name)) is not None:
        return _value(named, value, models, files)
    if piece.startswith("-"):
        return _begin(piece, _left(command, used))
    if command.takes == "model" and piece.startswith("@"):
        return _begin(piece, [*models(), *_paths("@", piece, files)])
    if command.takes == "model" and (piece or not words) and "model" not in used:
        return _models(piece, models)
    if command.takes == "pin" and not words:
        return _begin(piece, models())
    if command.takes == "file" and not words:
        return _begin(piece, _paths("", piece, files))
    if command.takes == "setting":
        return _begin(piece, [f"{setting}=" for setting in settings()])
    return _begin(piece, [] if piece else _left(command, used))


def _so_far(command: Command, words: Sequence[Word]) -> tuple[Option | None, set[str], int, bool]:
    """Read the finished words, and return what they leave open.

    Returns:
        The option whose value comes next, the fields that are set, how many words are no options, and
        whether options have ended (after ``--``, in a prompt, in a comment).
    """
    waiting: Option | None = None
    used: set[str] = set()
    others = 0
    for word in words:
        if word.is_option:
            name, equals, _ = word.text.partition("=")
            option = command.by_name.get(name)
            waiting = option if option is not None and option.metavar and not equals else None
            if option is not None and not option.repeatable:
                used.add(option.field)
        elif waiting is not None:
            waiting = None
        elif word.raw in ("--", "#") or command.prompt:
            return None, used, others, True
        else:
            others += 1
    return waiting, used, others, False


def _value(option: Option, piece: str, models: Names, files: Files) -> tuple[str, list[str]]:
    """Complete the value of an option."""
    if option.models:
        return _models(piece, models)
    paths = [] if option.files is None else _paths(option.files, piece, files)
    return _begin(piece, [*option.choices, *paths])


def _paths(mark: str, piece: str, files: Files) -> list[str]:
    """Return the files that a word with a mark before them names; a name with a space would be two words."""
    if not piece.startswith(mark):
        return []
    return [mark + path for path in files(piece[len(mark) :]) if " " not in path]


def _models(piece: str, models: Names) -> tuple[str, list[str]]:
    """Complete the last of several models."""
    *before, last = piece.split(",")
    return _begin(last, [name for name in models() if name not in before])


def _left(command: Command, used: set[str]) -> Iterator[str]:
    """Yield the long name of every option that may still be given."""
    return (option.names[-1] for option in command.options if option.field not in used)


def _begin(piece: str, words: Sequence[str] | Iterator[str]) -> tuple[str, list[str]]:
    return piece, [word for word in words if word.startswith(piece) and word.isprintable()]
