"""What an answer has besides its text, read out of it: images, audio, citations, reasoning.

A model's media are foreign bytes: what they are is told by how they begin, never by what they are called, and
nothing is fetched.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.media import media_type
from or_cache_magic.core.records import Answer, NamedTuple

_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PIECES: Final = "[^=]+=*"
_CITATIONS: Final = ("url_citation", "web_search_citation")
_PCM: Final = (1, 1, 24_000, 48_000, 2, 16)
"""``pcm16`` as a WAV header has it: linear, one channel, hertz, bytes a second, bytes a frame, bits."""


class Citation(NamedTuple):
    """A page that an answer cites.

    Attributes:
        url: As it was told: it may be anything.
        title: Its title; empty when none was told.
        span: From where to where the answer's text rests on it, in characters; None when not told.
    """

    url: str
    title: str = ""
    span: tuple[int, int] | None = None


def message_of(answer: Answer) -> Mapping[str, Any]:
    """Return the message of an answer's first choice; an empty one when there is none."""
    return answer.choices[0].message if answer.choices else {}


def image_urls(message: Mapping[str, Any]) -> list[str]:
    """Return the data URL, or the link, of each image of a message."""
    made = [_image_url(as_mapping(part)) for part in as_list(message.get("images"))]
    parts = [as_mapping(as_mapping(part).get("image_url")) for part in as_list(message.get("content"))]
    return [url for url in (*made, *(part.get("url") for part in parts)) if isinstance(url, str)]


def _image_url(image: Mapping[str, Any]) -> Any:
    url, bare = image.get("image_url"), image.get("b64_json")
    if isinstance(bare, str):
        return f"data:;base64,{bare}"
    return as_mapping(url).get("url") if isinstance(url, Mapping) else url or image.get("url")


def is_data(url: str) -> bool:
    """Return whether a URL has its data in itself."""
    return url[:5].lower() == "data:" and "," in url


def as_base64(text: str) -> str | None:
    """Return a text as an encoder writes base64, which most is already; None where it is none."""
    raw = text.encode("utf-8", "replace")
    rest = raw.translate(None, _LETTERS)  # an image of 4 MB takes 3 ms so, and 40 to decode
    if len(raw) % 4 == 0 and rest in (b"", b"=", b"==") and raw.endswith(rest):
        return text
    found = decoded(text)
    return None if found is None else base64.b64encode(found).decode()


def decoded(text: str) -> bytes | None:
    """Return the bytes of base64; None where it is none.

    Each piece of a stream may have been padded on its own, and base64 ends at its first padding.
    """
    try:
        if text.find("=", 0, len(text) - 2) < 0:
            return base64.b64decode(text)
        return b"".join(map(base64.b64decode, re.findall(_PIECES, text)))
    except ValueError:
        return None


def sound_of(message: Mapping[str, Any], body: Mapping[str, Any]) -> bytes | None:
    """Return the audio of a message as a file that plays; None where there is none.

    What was asked for as ``pcm16``, the one format of streams, is bare samples: it gets the header of a WAV.

    Args:
        message: Of the answer.
        body: Of the request, which says the format.
    """
    data = as_mapping(message.get("audio")).get("data")
    raw = decoded(data) if isinstance(data, str) else None
    if raw and media_type(raw) is None and as_mapping(body.get("audio")).get("format") == "pcm16":
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, *_PCM)
        return (
            struct.pack("<4sI4s", b"RIFF", len(raw) + 36, b"WAVE")
            + form
            + b"data"
            + struct.pack("<I", len(raw))
            + raw
        )
    return raw


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """Return the reasoning of a message as text; None where it gave none that can be read."""
    for name in ("reasoning", "reasoning_content"):
        text = message.get(name)
        if isinstance(text, str) and text:
            return text
    details = map(as_mapping, as_list(message.get("reasoning_details")))
    texts = [detail.get("text") or detail.get("summary") for detail in details]
    return "\n\n".join(text for text in texts if isinstance(text, str)) or None


def citations_of(answer: Answer) -> list[Citation]:
    """Return what an answer cites: first what its text may point to by number, the reply's ``citations``."""
    notes = map(as_mapping, as_list(message_of(answer).get("annotations")))
    noted = [
        _citation(as_mapping(note.get(str(note.get("type"))) or note))
        for note in notes
        if note.get("type") in _CITATIONS
    ]
    listed = [
        _citation({"url": one} if isinstance(one, str) else as_mapping(one))
        for one in as_list(as_mapping(answer.extra).get("citations"))
    ]
    known = {one.url for one in noted if one is not None}
    order = {one.url: at for at, one in enumerate(listed) if one is not None}
    found = [
        one for one in (*noted, *(one for one in listed if one and one.url not in known)) if one is not None
    ]
    return sorted(found, key=lambda one: order.get(one.url, len(order)))


def _citation(said: Mapping[str, Any]) -> Citation | None:
    url, title = said.get("url"), said.get("title")
    if not isinstance(url, str) or not url:
        return None
    start, end = said.get("start_index"), said.get("end_index")
    span = (start, end) if isinstance(start, int) and isinstance(end, int) and 0 <= start < end else None
    return Citation(url, title if isinstance(title, str) else "", span)
