"""Lets a one-line prompt end in a question mark.

IPython reads every line that ends in ``?`` as a request for help: ``%openrouter What is a median?`` would
answer "Object `median` not found." The cure is a token transformer of ours that comes before that reading.
IPython tokenises the cell, finds the first piece of its special syntax, turns it into Python and starts
again; so a line inside a string, in the body of a cell magic or behind other special syntax is told apart
by IPython itself, which a hook on the cell's text (``input_transformers_cleanup``) could not do.

Help stays help: ``%openrouter?``, ``%openrouter??``, ``?%openrouter`` and ``%%openrouter?`` are not touched.
"""

from __future__ import annotations

import tokenize
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import EscapedCommand, HelpEnd, MagicAssign, TokenTransformBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["MagicWithWords", "install", "remove"]

_NAME = "openrouter"
_Tokens = list[tokenize.TokenInfo]


class MagicWithWords(TokenTransformBase):
    """``%openrouter words…`` or ``name = %openrouter words…``, whatever the words end in."""

    #: Before the reading as a request for help, where both match.
    priority = HelpEnd.priority - 1

    def __init__(self, line_start: tuple[int, int], magic: TokenTransformBase) -> None:
        # The request for help begins where the line does, so this has to, though its % may come later.
        super().__init__(line_start)  # type: ignore[no-untyped-call]
        self._magic = magic

    @classmethod
    def find(cls, tokens_by_line: Sequence[_Tokens]) -> MagicWithWords | None:
        """The first such line of a cell, or None; `tokens_by_line` holds a list for each logical line."""
        for line in tokens_by_line:
            magic = EscapedCommand.find([line]) or MagicAssign.find([line])  # type: ignore[no-untyped-call]
            if magic is not None and _has_words(line, magic):
                first = next(t for t in line if t.type not in (tokenize.INDENT, tokenize.DEDENT))
                return cls(first.start, magic)
        return None

    def transform(self, lines: list[str]) -> list[str]:
        """`lines` with this one turned into a call of the magic, as IPython would without the ``?``."""
        call: list[str] = self._magic.transform(lines)
        return call


def _has_words(line: _Tokens, magic: TokenTransformBase) -> bool:
    start = (magic.start_line + 1, magic.start_col)
    # A DEDENT begins where the % does, so the place alone does not find it.
    at = next((i for i, token in enumerate(line) if token.start == start and token.string == "%"), None)
    if at is None or len(line) < at + 3:
        return False
    name, following = line[at + 1 : at + 3]
    if name.string != _NAME and not name.string.startswith(f"{_NAME}_"):
        return False
    # ``%openrouter?`` and ``%openrouter.x?`` have no space; before Python 3.12 a space can be a token.
    return not following.string.strip() or following.start > name.end


def install(shell: InteractiveShell) -> None:
    """Let prompts end in ``?``; a second time changes nothing."""
    transformers = _transformers(shell)
    if MagicWithWords not in transformers:
        transformers.append(MagicWithWords)


def remove(shell: InteractiveShell) -> None:
    """Undo `install`; without one it changes nothing."""
    transformers = _transformers(shell)
    if MagicWithWords in transformers:
        transformers.remove(MagicWithWords)


def _transformers(shell: InteractiveShell) -> list[Any]:
    transformers: list[Any] = shell.input_transformer_manager.token_transformers
    return transformers
