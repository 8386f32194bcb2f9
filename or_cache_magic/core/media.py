"""What bytes are, told by themselves and never by their name: pictures, PDFs, sound; and how large.

Foreign bytes: nothing here decodes a picture or runs what a file says. A few fields at known places are read,
and what does not add up is unknown (None).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
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
    (8, b"WAVE", MediaType("audio/wav", "audio", "wav")),
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


_ID3: Final = re.compile(rb"ID3[\x02-\x04][^\xff].[\0-\x7f]{4}", re.DOTALL)
_PDF: Final = re.compile(rb"%PDF-\d")
_WITHIN: Final = 1024
"""In so many bytes readers look for a PDF's beginning, and at the other end for its end."""


def media_type(raw: bytes) -> MediaType | None:
    """Return what these bytes are, by how they begin; None for what no model takes as it is."""
    for at, magic, found in _MAGIC:
        if raw.startswith(magic, at) and raw.startswith(_CONTAINERS.get(magic, b"")):
            return found
    if _ID3.match(raw):
        return _MP3
    return PDF if _PDF.search(raw, 0, _WITHIN) else None


def is_whole(raw: bytes, found: MediaType) -> bool:
    """Return whether a picture or a PDF has its end; sound is sound without it."""
    ends = _ENDS.get(found.name)
    try:
        return ends is None or ends(raw)
    except (struct.error, IndexError):
        return False


def _png_ends(raw: bytes) -> bool:
    at = 8
    while raw[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(raw[at : at + 4], "big")
        if at >= len(raw):
            return False
    return at + 12 <= len(raw)


def _jpeg_ends(raw: bytes) -> bool:
    """Return whether the end follows the picture itself: a small one in its metadata has an end too."""
    return any(marker == _SCAN and raw.find(b"\xff\xd9", at) >= 0 for marker, at in _jpeg_segments(raw))


def _gif_ends(raw: bytes) -> bool:
    at = 13 + _gif_colours(raw[10])
    while raw[at] != 0x3B:  # noqa: PLR2004 - the trailer
        if raw[at] not in b",!":
            at += 1  # filling
            continue
        at += 11 + _gif_colours(raw[at + 9]) if raw[at] == 0x2C else 2  # noqa: PLR2004 - an image
        while raw[at]:
            at += raw[at] + 1
        at += 1
    return True


def _gif_colours(flags: int) -> int:
    """Return the length of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


_ENDS: Final[dict[str, Callable[[bytes], bool]]] = {
    "PNG": _png_ends,
    "JPEG": _jpeg_ends,
    "GIF": _gif_ends,
    "WebP": lambda raw: int.from_bytes(raw[4:8], "little") + 8 <= len(raw),
    "PDF": lambda raw: b"%%EOF" in raw.rstrip(b"\0\t\n\r ")[-_WITHIN:],
}


def picture_size(raw: bytes) -> tuple[int, int] | None:
    """Return the width and height in pixels that a PNG, GIF, WebP or JPEG says it has; None when unknown."""
    try:
        if raw.startswith(b"\x89PNG"):
            return _pair(">II", raw, 16)
        if raw.startswith(b"GIF8"):
            return _pair("<HH", raw, 6)
        if raw.startswith(b"WEBP", 8):
            return _webp_size(raw)
        frames = (at for marker, at in _jpeg_segments(raw) if marker in _FRAMES)
        at = next(frames, None) if raw.startswith(b"\xff\xd8") else None
        return None if at is None else _pair(">HH", raw, at + 5)[::-1]
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


_OTHER_PICTURES: Final = re.compile(
    rb"BM.{4}\0{4}|II\*\0|MM\0\*|\0\0\x01\0|\xff\x0a|\0\0\0\x0c(?:JXL |jP  )"
    rb"|.{4}ftyp(?:avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)"
    rb"|(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>)*<svg[\s>]",
    re.DOTALL,
)
"""How BMP, TIFF, ICO, JPEG XL, JPEG 2000, AVIF, HEIC, SVG begin: one may be drawn."""
_LONGEST_HEAD: Final = 4096
_SMALLEST_SOUND: Final = 45
"""A WAV file's header is one byte shorter; as bare samples it is a millisecond."""


def is_picture(raw: bytes) -> bool:
    """Return whether these bytes are a picture, and not cut, as far as its format is read here."""
    found = media_type(raw)
    if found is None:
        return _OTHER_PICTURES.match(raw[:_LONGEST_HEAD]) is not None
    return found.kind == "image" and is_whole(raw, found)


def is_sound(raw: bytes) -> bool:
    """Return whether these bytes can be sound; bare samples begin like anything."""
    found = media_type(raw)
    return len(raw) >= _SMALLEST_SOUND and (found is None or found.kind == "audio")


_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN: Final = 0xDA
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers of JPEG that no length follows."""


def _jpeg_segments(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG, and where they stand."""
    at = 2
    while raw[at] == 0xFF:  # noqa: PLR2004 - begins every marker
        marker = raw[at + 1]
        yield marker, at
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
