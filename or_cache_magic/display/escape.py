"""Text made fit to be shown: as code, as HTML, as Markdown."""

from __future__ import annotations

import re
from typing import Final

from or_cache_magic.errors import RISKY, escape_markdown, one_line, printable

__all__ = [
    "RISKY",
    "TICKS",
    "entity",
    "escape_html",
    "escape_markdown",
    "fenced",
    "one_line",
    "printable",
]

_INFO: Final = r"(?a)[\w+#.-]+"
TICKS: Final = "`{3,}"
"""What could open or close a fence."""


def fenced(code: str, language: str = "", *, ticks: int = 3) -> str:
    """Return code as a fence that nothing inside can close, in the form that all parsers read alike.

    Args:
        code: Shown as it is; call `printable` first on what may hold control characters.
        language: What stands behind the fence; its first word is kept.
        ticks: At least so many backticks.
    """
    rail = "`" * max([ticks, *(len(run) + 1 for run in re.findall(TICKS, code))])
    info = re.search(_INFO, language)
    end = "\n" if code and not code.endswith("\n") else ""
    return f"{rail}{info[0] if info else ''}\n{code}{end}{rail}"


def escape_html(text: str) -> str:
    """Return the text for use in HTML, between tags or in a quoted attribute; controls as pictures."""
    import html  # 1 ms of entities that few need

    return html.escape(printable(text), quote=True)


def entity(match: re.Match[str]) -> str:
    """Return the character reference of what was matched."""
    return f"&#{ord(match[0])};"
