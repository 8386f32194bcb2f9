r"""Model text made safe to show as Markdown.

A live Jupyter cell is trusted, so raw HTML inside Markdown runs there, and a model's text is not to
be trusted. The cure does not depend on guessing how a front end parses: outside of fences at the
margin nothing is left that any parser could take for a tag, an image, a link to a script or the
edge of a fence. Two kinds of code need no guess either: a fence at the margin is written in the one
form that every parser reads alike (backticks longer than any inside, blank lines around), and any
other code that holds something dangerous becomes ``<code>`` with its punctuation as entities, which
shows and copies exactly and is inert wherever it stands.

Mathematics follows JupyterLab's ``removeMath`` (packages/rendermime/src/latex.ts), which takes
``$…$`` out *before* Markdown is parsed and puts it back after, into attributes too: a ``$`` that is
not one half of sound mathematics is written as ``<span>&#36;</span>``, which neither that pass nor
MathJax pairs with another.

What changes in the text that is seen: images are links, refused links show their target, control
characters become their pictures (``␛``), ``\(…\)`` and ``\[…\]`` become ``$…$`` and ``$$…$$``.
"""

from __future__ import annotations

from or_cache_magic.display.escape import SPECIAL, escape_html, escape_markdown, fenced, one_line, printable

__all__ = ["escape_html", "escape_markdown", "fenced", "one_line", "printable", "safe_markdown"]


def safe_markdown(text: str) -> str:
    """Returns model text as Markdown that runs, loads and hides nothing, and looks as it was meant.

    Links go to ``http(s)``, ``mailto`` or a relative place; every other target is shown as text. A
    fence that is still open (a stream) is closed. Plain prose comes back as it is.

    Args:
        text: Markdown as a model wrote it.
    """
    text = printable(text)
    if not (SPECIAL.search(text) or "`" in text):
        return text
    from or_cache_magic.display.untrusted import (
        neutralised,  # its patterns take 4 ms to compile, and plain prose needs none
    )

    return neutralised(text)
