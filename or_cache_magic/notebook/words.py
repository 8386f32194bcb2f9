r"""Splits the line of a magic into words, the same on every system.

IPython's own splitter keeps the quotes on Linux and drops them on Windows, and `argparse` wants a list
that is already split; so the line is read by `shlex` in its POSIX mode without an escape character.
Quotes group and vanish, a backslash is a backslash (``C:\data\notes.md``, ``\mathbf``), and JSON in single
quotes arrives whole.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Word", "split"]

_OPTION = re.compile(r"--?[^\W\d_]")
_BARE = re.compile(r"\S+")
_SPACE = " \t\r\n"
_UNQUOTED = re.compile(rf"[^{_SPACE}]+")


class Word(NamedTuple):
    """One word of a line.

    Attributes:
        text: The word without its quotes.
        raw: The word as written.
        start: Where ``raw`` begins in the line.
    """

    text: str
    raw: str
    start: int

    @property
    def is_option(self) -> bool:
        """Whether it is written like an option: a dash or two, then a letter, with no quote around.

        ``-``, ``--`` and ``-5`` are not, so that a prompt may begin with a list item or a number.
        """
        return _OPTION.match(self.raw) is not None


def split(line: str) -> Iterator[Word]:
    """The words of `line`, one after another.

    From a quote that is never closed (``don't``) to the end of the line, words end at white space and
    quotes are letters. Nothing here is a comment; whoever reads the words knows where one may stand.
    """
    if '"' not in line and "'" not in line:
        yield from (Word(m.group(), m.group(), m.start()) for m in _UNQUOTED.finditer(line))
        return
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    lexer.escape = lexer.commenters = ""
    end = 0
    while True:
        start = len(line) - len(line[end:].lstrip(_SPACE))
        try:
            text = lexer.get_token()
        except ValueError:
            break
        if text is None:
            return
        end = stream.tell()
        yield Word(text, line[start:end].rstrip(_SPACE), start)
    yield from (Word(m.group(), m.group(), m.start()) for m in _BARE.finditer(line, start))
