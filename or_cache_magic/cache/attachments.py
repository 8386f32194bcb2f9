"""What is attached to a prompt: files, links and values as parts of its message.

=========================  =====================================================================
PNG, JPEG, WebP, GIF       a part ``image_url`` with the bytes as they are
PDF                        a part ``file``, always called ``document.pdf``
wav, mp3, flac, ogg, …     a part ``input_audio``
text and code              a text: the file's name and its content in a fence
tables                     a text, as ``{{ table }}`` writes it
figures, PIL's pictures    a PNG, drawn and written the same every time
links                      ``image_url`` or ``file`` with the URL, which is never fetched here
=========================  =====================================================================

What bytes are is told by their content (`core.media`). All is read here, once, before anything is sent: what
is keyed is what was read. Names of media are not sent, so that the same picture under another name, or from a
variable, is the same request. No library of pictures or tables is imported but by who attaches such a value.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from or_cache_magic.cache.pictures import NAME_WIDTH, check_pixels, foreign, png_of, refused
from or_cache_magic.core.media import (
    MAX_BYTES,
    PDF,
    Attached,
    MediaType,
    is_whole,
    media_type,
    picture_size,
)
from or_cache_magic.core.options import plain
from or_cache_magic.core.tokens import text_tokens
from or_cache_magic.core.units import format_size
from or_cache_magic.core.value_text import MAX_TOKENS, Shown, Unwritable, frame_of
from or_cache_magic.display.escape import fenced, one_line
from or_cache_magic.errors import RequestError

_MOST: Final = 100
_LONGEST_PATH: Final = 4096
_COPY_IT: Final = "copy or download it again, or open it and save it"
_PART: Final = "attach a part of it: df.head(100)"


class Source(NamedTuple):
    """A value to attach, with the name that people know it by; the name is not sent."""

    value: Any
    name: str


class Attachments(NamedTuple):
    """Attachments that have been read.

    Attributes:
        parts: Of a message, in the order in which they were given.
        told: What each of them was.
    """

    parts: tuple[dict[str, Any], ...]
    told: tuple[Attached, ...]


def read_attachments(given: Any) -> Attachments:
    """Return what is to be attached, read and checked; what was read before is returned as it is.

    Args:
        given: A path, an http(s) or ``data:`` URL, bytes, or a value of the kinds above; or a list of them.
            A text is a path or a URL. Relative paths begin in the current folder.

    Raises:
        RequestError: One of them can't be read, is too large, or is of a kind that no model takes.
    """
    if isinstance(given, Attachments):
        return given
    read: list[tuple[dict[str, Any], Attached]] = []
    for source in _sources(given):
        if len(read) == _MOST:
            raise refused("more than 100 attachments", "", "ask about fewer at a time")
        read.append(_read(*source))
    return Attachments(tuple(part for part, _ in read), tuple(told for _, told in read))


def with_attachments(messages: Sequence[Any], attachments: Attachments, own: int) -> list[Any]:
    """Return the messages with the attachments behind what the last one of the user says.

    Args:
        messages: All that are sent.
        attachments: What has been read.
        own: How many of them, from the end, are this ask's own: what stands before was said earlier.

    Raises:
        RequestError: None of its own is of the user.
    """
    said = list(messages)
    for at in reversed(range(len(said) - own, len(said))):
        message = said[at]
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            before = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
            said[at] = {**message, "content": [*before, *map(dict, attachments.parts)]}
            return said
    raise RequestError(
        "there is no message of the user to attach to (nothing was sent)",
        'end the messages with {"role": "user", "content": "…"}',
    )


def _sources(given: Any, name: str = "") -> Iterator[Source]:
    if isinstance(given, Source):
        yield from _sources(given.value, given.name)
    elif type(given) in (list, tuple) and given:
        for item in given:
            yield from _sources(item, name)
    elif given is None or type(given) in (list, tuple):
        why = "it is None" if given is None else "it is an empty list"
        raise refused(name or "nothing", why, "run the cell that makes it, or attach nothing: leave it out")
    else:
        yield Source(given, name)


def _read(value: Any, name: str) -> tuple[dict[str, Any], Attached]:
    if isinstance(value, str):
        return _read_text(str.__str__(value), name)
    if isinstance(value, os.PathLike):
        path = Path(value)
        return _of_bytes(_file_bytes(path), path.name, is_file=True)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value), name)
    if (drawn := png_of(value, name)) is not None:
        return _of_bytes(drawn, name)
    with foreign(name or "the table", _PART, "written"):
        try:
            text = Shown(value).text() if frame_of(value) is not None else None
        except Unwritable as why:
            raise refused(name or "the table", why.problem, _PART) from None
    if text is not None:
        return _text_part(_sendable(text, name or "the table")), _told(name, "table", text.encode())
    raise refused(
        name or f"a {type(value).__name__}",
        f"a {type(value).__name__} is nothing that can be attached" if name else "",
        "attach a path, a URL, bytes, a figure, a picture or a table; put a text into the prompt",
    )


# What a text names: a link or a file


def _read_text(text: str, name: str) -> tuple[dict[str, Any], Attached]:
    if text.startswith("data:"):
        return _of_bytes(_data_url_bytes(text, name), name)
    if re.match(r"(?i)https?://", text):
        return _link(text)
    if "\n" in text or not 0 < len(text) <= _LONGEST_PATH or "\0" in text:
        raise refused(
            name or "a text", "a text is a path or a URL, and this is neither", "put it into the prompt"
        )
    if re.match(r"(?i)[a-z][a-z0-9+.-]+://", text):
        raise refused(text, "only http and https links are taken", "save it as a file, and attach that")
    return _read(Path(text), name)


def _data_url_bytes(url: str, name: str) -> bytes:
    head, comma, data = url.partition(",")
    if len(data) > MAX_BYTES * 4 // 3 + 4:
        raise _too_large(name or "a data: URL", len(data) * 3 // 4)
    try:
        if comma and head.endswith(";base64"):
            return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise refused(name or "a data: URL", "it is not base64", "attach the bytes themselves")


_NOT_BY_LINK: Final = re.compile(
    r"(?i)\.(mp3|wav|flac|ogg|m4a|aac|aiff|mp4|mov|avi|txt|md|csv|tsv|json|jsonl|xml|html?|py|ipynb|docx?|xlsx?|zip|parquet)"
)
_PDF_LINK: Final = re.compile(r"(?i)\.pdf$|/pdf/")


def _link(url: str) -> tuple[dict[str, Any], Attached]:
    """Return the part of a remote picture or PDF; of what can't be looked at its path is all there is."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or not url.isprintable() or " " in url:
        raise refused(url, "it is no URL", "write it as a browser shows it")
    if parts.username or parts.password:
        raise refused("a link", "it holds a password, which would be sent", "fetch it, and attach the bytes")
    if found := _NOT_BY_LINK.fullmatch(parts.path, max(parts.path.rfind("."), 0)):
        why = f"models take links to pictures and PDFs only, not to {found[0]}"
        raise refused(url, why, "fetch it in a cell above, and attach the bytes")
    told = Attached(url, "link", 0, "")
    if _PDF_LINK.search(parts.path):
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}, told
    return {"type": "image_url", "image_url": {"url": url}}, told


def _file_bytes(path: Path) -> bytes:
    try:
        path = path.expanduser()
        found = path.stat()  # before it is opened: a pipe would wait for who writes it
        if stat.S_ISDIR(found.st_mode):
            raise refused(path.name, "it is a folder", "name the files in it, one by one")
        if not stat.S_ISREG(found.st_mode):
            raise refused(path.name, "it is no plain file", "save what it gives as a file")
        if found.st_size > MAX_BYTES:
            raise _too_large(path.name, found.st_size)
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise refused(path.name, "there is no such file", _near_files(path)) from None
    except RequestError:
        raise
    except (OSError, RuntimeError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise refused(path.name, why, "check that you may read it") from None
    if len(raw) > MAX_BYTES:
        raise _too_large(path.name, len(raw))
    return raw


def _near_files(path: Path) -> str:
    """Return which files were likely meant, or where was looked."""
    from difflib import get_close_matches

    parent = path.parent
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.is_file())
    except OSError:
        return f"there is no folder {parent} either"
    same = [name for name in names if name.rpartition(".")[0] == path.stem]
    near = list(dict.fromkeys([*same, *get_close_matches(path.name, names, n=3)]))[:3]
    return f"did you mean {' or '.join(near)}?" if near else f"it was looked for in {parent.absolute()}"


def _too_large(name: str, size_bytes: int) -> RequestError:
    return refused(
        name,
        f"{format_size(size_bytes)} is over the limit of {format_size(MAX_BYTES)}",
        "shrink it: a picture with image.thumbnail((2000, 2000)), a PDF to the pages that matter",
    )


# Bytes, by what they are

_KNOWN: Final = (
    (0, b"PK\x03\x04", "an Office file or a ZIP", "save it as PDF, or read a sheet with pandas"),
    (0, b"PAR1", "a Parquet file", "read it with pandas, and attach the table"),
    (0, b"II*\0", "a TIFF picture", "save it as PNG"),
    (0, b"MM\0*", "a TIFF picture", "save it as PNG"),
    (0, b"BM", "a BMP picture", "save it as PNG"),
    (4, b"ftyphei", "a HEIC picture", "save it as JPEG"),
    (4, b"ftypmif1", "a HEIC picture", "save it as JPEG"),
    (4, b"ftypavif", "an AVIF picture", "save it as PNG"),
    (4, b"ftyp", "a video", "attach pictures of it, or its sound"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (0, b"SQLite format 3", "a database", "query it with pandas, and attach the table"),
)
"""What is often attached and no model takes, with what helps."""


_PDF_TEXT: Final = re.compile(r"\s*%PDF-\d\.\d(?:[ \t]*\n|.*%%EOF\s*$)", re.DOTALL)
"""How a PDF that is text throughout differs from a text on PDFs."""


def _of_bytes(raw: bytes, name: str, *, is_file: bool = False) -> tuple[dict[str, Any], Attached]:
    if len(raw) > MAX_BYTES:
        raise _too_large(name or "this", len(raw))
    if not raw:
        raise refused(name or "this", "it is empty", "check what was written there")
    found, text = media_type(raw), _decoded(raw)
    if text is not None and not (found is PDF and _PDF_TEXT.match(text)):
        found = None  # a text on media may begin as they do
    if found is not None:
        _check_pixels(raw, found, name)
        if not is_whole(raw, found):
            raise refused(name or f"this {found.name}", "its end is missing: it is damaged", _COPY_IT)
        return _media_part(raw, found), _told(name, found.name, raw)
    if text is None:
        what, hint = next(
            ((what, hint) for at, magic, what, hint in _KNOWN if raw.startswith(magic, at)),
            ("of no kind that models take", "attach PNG, JPEG, WebP, GIF, PDF, sound or text in UTF-8"),
        )
        raise refused(name or "this", f"it is {what}", hint)
    return _text_part(_fenced_text(text, name if is_file else "")), _told(name, "text", raw)


def _told(name: str, kind: str, raw: bytes) -> Attached:
    return Attached(one_line(name, NAME_WIDTH), kind, len(raw), sha256(raw).hexdigest()[:12])


def _media_part(raw: bytes, found: MediaType) -> dict[str, Any]:
    data = base64.b64encode(raw).decode()
    if found.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": found.name}}
    url = f"data:{found.mime};base64,{data}"
    if found is PDF:
        # OpenRouter wants a name. The model may see it, so it is the same for every PDF.
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}
    return {"type": "image_url", "image_url": {"url": url}}


def _check_pixels(raw: bytes, found: MediaType, name: str) -> None:
    if found.kind != "image":
        return
    size = picture_size(raw)
    if size is None or 0 in size:
        raise refused(name or f"this {found.name}", "it is damaged", "open it, and save it again")
    check_pixels(size[0], size[1], name or f"this {found.name}")


def _decoded(raw: bytes) -> str | None:
    """Return the text that bytes are, without a byte order mark, line ends as LF; None when they are none."""
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return None if re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text) else text


def _fenced_text(text: str, name: str) -> str:
    title = f"{one_line(name, NAME_WIDTH)}:\n" if name else ""
    if len(text) > MAX_TOKENS and (tokens := text_tokens(text).likely) > MAX_TOKENS:
        raise refused(
            name or "this text",
            f"about {tokens:,} tokens is over the limit of {MAX_TOKENS:,}",
            "read it in a cell above, and put a part into the prompt: {{ text | head 500 }}",
        )
    return _sendable(f"{title}{fenced(text)}", name or "this text")


def _sendable(text: str, name: str) -> str:
    """Return a text that may be sent: it holds no key, and no half of a character."""
    try:
        plain(text, "its text")
    except ValueError as problem:
        raise refused(name, str(problem), "take the key out of it, or what is no character") from None
    return text


def _text_part(text: str) -> dict[str, Any]:
    # Some providers join parts without anything between them.
    return {"type": "text", "text": f"\n\n{text}"}
