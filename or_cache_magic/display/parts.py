"""What an answer has besides its text: images, audio, a refusal, tool calls, citations, reasoning.

Each is an output of its own. All of it is foreign: nothing is fetched, nothing runs, and a line tells of what
can't be shown.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.records import Answer
from or_cache_magic.core.returned import (
    as_base64,
    citations_of,
    image_urls,
    is_data,
    message_of,
    reasoning_of,
    sound_of,
)
from or_cache_magic.core.units import format_count
from or_cache_magic.display.escape import escape_html, escape_markdown, fenced, one_line, printable
from or_cache_magic.display.media import media_bundle
from or_cache_magic.display.screen import answer_bundle

_URL_WIDTH: Final = 200
_TITLE_WIDTH: Final = 200
_MOST_SOURCES: Final = 100
_A_PAGE: Final = r"(?i)https?://(?:[^/?#]*@)?([^/?#@]+)"
_AS_THEY_ARE: Final = "/:?#@!+,;=%-._~&"
"""Of a URL's characters those that say nothing in Markdown, but for ``&``."""


def parts_of(answer: Answer, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bundle (MIME type to text) of each part of an answer besides its text.

    Args:
        answer: Bought or stored: equal answers are equal outputs.
        body: Of the request.
    """
    message = message_of(answer)
    bundles = [_image(url) for url in image_urls(message)]
    audio = as_mapping(message.get("audio"))
    if isinstance(audio.get("data"), str):
        sound = sound_of(message, body)
        bundles.append(_media("audio", None if sound is None else base64.b64encode(sound).decode()))
    said = (audio.get("transcript"), message.get("refusal"))
    bundles += [answer_bundle(text) for text in said if isinstance(text, str) and text]
    calls = [_call(as_mapping(call)) for call in as_list(message.get("tool_calls"))]
    if calls:
        bundles.append(_both("\n".join(calls), fenced("\n".join(calls))))
    return [*bundles, *_sources(answer), *_reasoning(answer)]


def _image(url: str) -> dict[str, Any]:
    if not is_data(url):
        return _told(f"image: {one_line(url, _URL_WIDTH)}")
    return _media("image", as_base64(url.partition(",")[2]))


def _media(what: str, data: str | None) -> dict[str, Any]:
    if data is None:
        return _told(f"{what}: not base64, not shown")
    bundle = media_bundle(what, data)
    return bundle if len(bundle) > 1 else _told(bundle["text/plain"][1:-1])


def _call(call: Mapping[str, Any]) -> str:
    asked = as_mapping(call.get("function"))
    return printable(f"{asked.get('name', '?')}({asked.get('arguments', '')})")


def _sources(answer: Answer) -> list[dict[str, Any]]:
    """Return the pages that an answer cites as one bundle: numbered, each once, those on the web as links."""
    pages: dict[str, str] = {}
    for cited in citations_of(answer):
        pages[cited.url] = pages.get(cited.url) or cited.title
    some = list(enumerate(pages.items(), 1))[:_MOST_SOURCES]
    if not some:
        return []
    plain = [f"[{at}] {one_line(f'{title} {url}', _TITLE_WIDTH + _URL_WIDTH)}" for at, (url, title) in some]
    links = [f"{at}. {_link(url, one_line(title, _TITLE_WIDTH))}" for at, (url, title) in some]
    if more := len(pages) - len(some):
        plain.append(f"and {more:,} more: answer.citations")
        links.append(f"\n{escape_markdown(plain[-1])}")
    return [_both("\n".join(plain), "\n".join(links))]


def _link(url: str, title: str) -> str:
    page = re.match(_A_PAGE, url)
    if page is None:
        return escape_markdown(f"{title} {one_line(url, _URL_WIDTH)}")
    target = quote(printable(url), safe=_AS_THEY_ARE).replace("&", "&amp;")
    host = escape_markdown(one_line(page[1], _URL_WIDTH))
    return f"[{escape_markdown(title)}]({target}) {host}" if title else f"[{host}]({target})"


def _reasoning(answer: Answer) -> list[dict[str, Any]]:
    """Return the reasoning as one bundle: folded in a notebook, a line where nothing can be folded."""
    text = reasoning_of(message_of(answer))
    if text is None:
        return []
    count = answer.usage.reasoning_tokens if answer.usage is not None else None
    told = "reasoned" + (f", {format_count(count, 'token')}" if count else "")
    folded = f'<pre style="white-space: pre-wrap">{escape_html(text)}</pre>'
    html = f"<details><summary>{told}</summary>{folded}</details>"
    return [{"text/html": html, **_told(f"{told}: answer.reasoning")}]


def _told(line: str) -> dict[str, Any]:
    return _both(f"[{line}]", f"*{escape_markdown(line)}*")


def _both(plain: str, markdown: str) -> dict[str, Any]:
    return {"text/plain": plain, "text/markdown": markdown}
