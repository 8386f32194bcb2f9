"""Text made fit to be shown: on one line, as code, as HTML, without what steers a terminal."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "RISKY",
    "SPECIAL",
    "TICKS",
    "entity",
    "escape_html",
    "escape_markdown",
    "fenced",
    "one_line",
    "printable",
]

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_INFO: Final = re.compile(r"[\w+#.-]+", re.ASCII)
TICKS: Final = re.compile("`{3,}")
"""What could open or close a fence."""
# Alternatives that each begin with one certain character are searched for eight times as fast.
SPECIAL: Final = re.compile(r"\\\\*|<|\$|!\[|\][(:]|~~~+")
"""Where something may have to be done outside of code."""

RISKY: Final = re.compile(rf"`|{SPECIAL.pattern}")
"""What printable text has somewhere unless it is harmless as Markdown."""
_MARKUP: Final = {ord(char): f"&#{ord(char)};" for char in "!\"#$&'()*<>@[\\]_`{|}~"}


def printable(text: str) -> str:
    r"""Return the text with line ends as ``\n`` and control characters as their pictures (``␛``).

    Nothing in it can steer a terminal, and it can always be encoded: lone surrogates and the
    controls U+0080…U+009F become ``\ufffd``.
    """
    if text.isprintable():
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(_picture, text)


def fenced(code: str, language: str = "", *, ticks: int = 3) -> str:
    """Return code as a fence that nothing inside can close, in the form that all parsers read alike.

    Args:
        code: Shown as it is; call `printable` first on what may hold control characters.
        language: What stands behind the fence; its first word is kept.
        ticks: At least so many backticks.
    """
    rail = "`" * max([ticks, *(len(run) + 1 for run in TICKS.findall(code))])
    info = _INFO.search(language)
    end = "\n" if code and not code.endswith("\n") else ""
    return f"{rail}{info[0] if info else ''}\n{code}{end}{rail}"


def escape_html(text: str) -> str:
    """Return the text for use in HTML, between tags or in a quoted attribute; controls as pictures."""
    import html  # 1 ms of entities that few need

    return html.escape(printable(text), quote=True)


def escape_markdown(text: str) -> str:
    """Return the text on one line, so that Markdown shows it letter for letter and links nothing."""
    return " ".join(printable(text).split()).translate(_MARKUP).replace("://", "&#58;//")


def one_line(text: str, width: int) -> str:
    """Return the text on one line of at most ``width`` characters, cut with ``…``; for previews."""
    # A preview needs the beginning only; white space rarely makes up more than three quarters of it.
    line = " ".join(printable(text[: 4 * width + 4]).split())
    whole = len(line) <= width and len(text) <= 4 * width + 4
    return line if whole else line[: max(width - 1, 0)].rstrip() + "…"


def _picture(match: re.Match[str]) -> str:
    control = match[0]
    if control < " ":
        return chr(0x2400 + ord(control))
    return "␡" if control == "\x7f" else "\ufffd"


def entity(match: re.Match[str]) -> str:
    """Return the character reference of what was matched."""
    return f"&#{ord(match[0])};"
