"""HTML of the panel: what every part of it escapes with, and how it writes times, dollars and answers.

A cache may come from a stranger: model names, tags, prompts, answers and notebooks are all untrusted.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import format_source, format_usd
from or_cache_magic.display.escape import escape_html, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from or_cache_magic.core.records import Cost

_LONGEST_MARKDOWN: Final = 50_000
"""Characters of an answer that are rendered as Markdown (0.2 s); a longer one is shown as text, whole."""

_TARGET: Final = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)


def escape(value: object, width: int | None = None) -> str:
    """Returns a text for use in HTML, between tags or in a quoted attribute; with a width on one line."""
    text = str(value)
    return escape_html(text if width is None else one_line(text, width))


def labelled(label: str, value: str) -> str:
    """Returns HTML whose label only a screen reader reads: the columns' heads are far from their cells."""
    return f'<span class="orc-sr">{label} </span>{value}'


def pre(text: str) -> str:
    """Returns a text as a block that keeps its lines."""
    return f'<pre class="orc-pre">{escape(text)}</pre>'


def cost_text(cost: Cost) -> str:
    """Returns a cost and, unless the reply itself said it, where it comes from: ``$0.0021 est.``."""
    source = "" if cost.usd is None else format_source(cost.source).replace("estimated", "est.")
    return f"{format_usd(cost.usd)} {source}".strip()


def answer_html(text: str) -> str:
    """Returns an answer's Markdown as HTML that runs, loads and hides nothing.

    markdown-it-py with its HTML off escapes every tag; images are off too, so nothing is fetched, and links
    go to ``http(s)`` and ``mailto`` only, in a window that knows nothing of this one.
    """
    if len(text) > _LONGEST_MARKDOWN:
        return pre(text)
    rendered: str = _markdown().render(text)
    return f'<div class="orc-answer">{rendered}</div>'


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    reader.validateLink = _is_harmless  # type: ignore[method-assign, assignment]
    reader.add_render_rule("link_open", _link_open)
    return reader


def _is_harmless(target: str) -> bool:
    return _TARGET.match(target.strip()) is not None


def _link_open(
    renderer: Any, tokens: Sequence[Any], at: int, options: Mapping[str, Any], env: Mapping[str, Any]
) -> str:
    tokens[at].attrSet("rel", "noopener noreferrer nofollow")
    tokens[at].attrSet("target", "_blank")
    rendered: str = renderer.renderToken(tokens, at, options, env)
    return rendered
