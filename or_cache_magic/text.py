"""Foreign text made fit to be shown: it steers no terminal, turns no line around, and can be encoded."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["one_line", "printable"]

# Controls, what embeds or overrides the direction of the text around it, and halves of characters.
_STEERS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with line ends as ``\n`` and control characters as their pictures (``␛``).

    Lone surrogates, the controls U+0080…U+009F and those that turn the direction of text become ``\ufffd``.
    """
    if text.isprintable():
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _STEERS.sub(_picture, text)


def one_line(text: str, width: int) -> str:
    """Return the text on one line of at most ``width`` characters, cut with ``…``: a name, a preview."""
    # A preview needs the beginning only; white space rarely makes up more than three quarters of it.
    line = " ".join(printable(text[: 4 * width + 4]).split())
    whole = len(line) <= width and len(text) <= 4 * width + 4
    return line if whole else line[: max(width - 1, 0)].rstrip() + "…"


def _picture(match: re.Match[str]) -> str:
    control = match[0]
    if control < " ":
        return chr(0x2400 + ord(control))
    return "␡" if control == "\x7f" else "\ufffd"
