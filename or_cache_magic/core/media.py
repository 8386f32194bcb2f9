"""What bytes are, told by themselves and never by their name: pictures, PDFs, sound; and how large.

Foreign bytes: nothing here decodes a picture or runs what a file says. A few fields at known places are read,
and what does not add up is unknown (None).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from or_cache_magic.core.records import NamedTuple
from or_cache_magic.core.units import format_size


class MediaType(NamedTuple):
    """A kind of bytes that models take.

    Attributes:
        mime: ``image/png``.
        kind: ``image``, ``pdf`` or ``audio``.
        name: What people call it: ``PNG``; of sound, in small letters, what the API calls it.
    """

    mime: str
    kind: str
    name: str


class Attached(NamedTuple):
    """Where an attachment came from: told to people, never sent, in no key.

    Attributes:
        name: The file's name without its folder, the variable's name, or the URL; may be empty.
        kind: ``PNG``, ``PDF``, ``mp3``, ``text``, ``table``, ``link``.
        size_bytes: Of what was read; 0 for a link.
        sha256: The first 12 hex digits of its digest; empty for a link.
    """

    name: str
    kind: str
    size_bytes: int
    sha256: str


def attached_from(form: Iterable[Iterable[str | int]]) -> tuple[Attached, ...]:
    """Return attachments as an entry has them, which may come from a stranger.

    Raises:
        TypeError, ValueError: They are none.
    """
    found = tuple(Attached(*fields) for fields in form)  # type: ignore[arg-type]
    for one in found:
        texts = (one.name, one.kind, one.sha256)
        if not all(type(text) is str and len(text) <= _LONGEST for text in texts):
            raise TypeError(one)
        if type(one.size_bytes) is not int or one.size_bytes < 0:
            raise TypeError(one)
    return found


_LONGEST: Final = 4096

MAX_BYTES: Final = 20_000_000
"""The most that one attachment may have."""

MAX_PIXELS: Final = 40_000_000
"""The most pixels of one picture: models see a few millions at most, and refuse more."""

PDF: Final = MediaType("application/pdf", "pdf", "PDF")

_MP3: Final = MediaType("audio/mpeg", "audio", "mp3")
_MAGIC: Final = (
    (0, b"\x89PNG\r\n\x1a\n", MediaType("image/png", "image", "PNG")),
    (0, b"\xff\xd8\xff", MediaType("image/jpeg", "image", "JPEG")),
    (0, b"GIF87a", MediaType("image/gif", "image", "GIF")),
    (0, b"GIF89a", MediaType("image/gif", "image", "GIF")),
    (8, b"WEBP", MediaType("image/webp", "image", "WebP")),
    (0, b"%PDF-", PDF),
    (8, b"WAVE", MediaType("audio/wav", "audio", "wav")),
    (0, b"ID3", _MP3),
    (0, b"\xff\xfb", _MP3),
    (0, b"\xff\xf3", _MP3),
    (0, b"\xff\xf2", _MP3),
    (0, b"OggS", MediaType("audio/ogg", "audio", "ogg")),
    (0, b"fLaC", MediaType("audio/flac", "audio", "flac")),
    (8, b"AIFF", MediaType("audio/aiff", "audio", "aiff")),
    (4, b"ftypM4A", MediaType("audio/mp4", "audio", "m4a")),
    (0, b"\xff\xf1", MediaType("audio/aac", "audio", "aac")),
    (0, b"\xff\xf9", MediaType("audio/aac", "audio", "aac")),
)
"""Where which bytes stand in what (the formats' own specifications)."""

_CONTAINERS: Final = {b"WEBP": b"RIFF", b"WAVE": b"RIFF", b"AIFF": b"FORM"}


def media_type(raw: bytes) -> MediaType | None:
    """Return what these bytes are, by how they begin; None for what no model takes as it is."""
    for at, magic, found in _MAGIC:
        if raw.startswith(magic, at) and raw.startswith(_CONTAINERS.get(magic, b"")):
            return found
    return None


def picture_size(raw: bytes) -> tuple[int, int] | None:
    """Return the width and height in pixels that a PNG, GIF, WebP or JPEG says it has; None when unknown."""
    try:
        if raw.startswith(b"\x89PNG"):
            return _pair(">II", raw, 16)
        if raw.startswith(b"GIF8"):
            return _pair("<HH", raw, 6)
        if raw.startswith(b"WEBP", 8):
            return _webp_size(raw)
        return next(_jpeg_sizes(raw), None) if raw.startswith(b"\xff\xd8") else None
    except (struct.error, IndexError):
        return None


def _pair(form: str, raw: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, raw, at)
    return first, second


def _webp_size(raw: bytes) -> tuple[int, int] | None:
    form = raw[12:16]
    if form == b"VP8X":
        width, height = (int.from_bytes(raw[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if form == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = _pair("<HH", raw, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers of JPEG that no length follows."""


def _jpeg_sizes(raw: bytes) -> Iterator[tuple[int, int]]:
    at = 2
    while raw[at] == 0xFF:  # noqa: PLR2004 - begins every marker
        marker = raw[at + 1]
        if marker in _FRAMES:
            height, width = _pair(">HH", raw, at + 5)
            yield width, height
        if marker == 0xFF or marker in _BARE:  # noqa: PLR2004 - filling
            at += 1 if marker == 0xFF else 2  # noqa: PLR2004
        else:
            at += 2 + int(_pair(">HH", raw, at + 2)[0])


_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_COUNT: Final = re.compile(rb"/Count\s+(\d{1,6})\b")
_PAGES: Final = re.compile(rb"/Type\s*/Pages(?![A-Za-z])")
_OBJECTS: Final = re.compile(rb"/Type\s*/ObjStm(?![A-Za-z])[^>]{0,400}>>\s{0,9}stream\r?\n")
_MOST_INFLATED: Final = 1 << 26


def pdf_pages(raw: bytes) -> int | None:
    """Return how many pages a PDF has; None where that can't be told for certain without reading all of it.

    Its page objects are counted, those in compressed streams too, and their number must be the one that its
    page tree states. An encrypted, damaged or often revised file states none, or another.
    """
    texts = [raw, *_object_streams(raw)]
    pages = sum(len(_PAGE.findall(text)) for text in texts)
    stated = [int(count) for text in texts if _PAGES.search(text) for count in _COUNT.findall(text)]
    return pages if stated and pages and max(stated) == pages else None


def _object_streams(raw: bytes) -> Iterator[bytes]:
    left = _MOST_INFLATED
    for found in _OBJECTS.finditer(raw):
        end = raw.find(b"endstream", found.end())
        if end < 0:
            return
        try:
            text = zlib.decompressobj().decompress(raw[found.end() : end], left)
        except zlib.error:
            continue
        left -= len(text)
        if left <= 0:
            return
        yield text


_NAMED: Final = 3


def attached_text(attached: Iterable[Attached]) -> str:
    """Return attachments as a receipt tells them: ``2 attached: plot.png 31 KB, paper.pdf 1.2 MB``."""
    sized = [(one, format_size(one.size_bytes) if one.sha256 else "(link)") for one in attached]
    told = [f"{one.name or one.kind} {size}" for one, size in sized]
    more = [f"{len(told) - _NAMED} more"] if len(told) > _NAMED else []
    return f"{len(told)} attached: {', '.join(told[:_NAMED] + more)}" if told else ""
