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
import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from or_cache_magic.core.media import (
    MAX_BYTES,
    MAX_PIXELS,
    PDF,
    Attached,
    MediaType,
    media_type,
    picture_size,
)
from or_cache_magic.core.options import plain
from or_cache_magic.core.tokens import text_tokens
from or_cache_magic.core.units import format_size
from or_cache_magic.core.value_text import MAX_TOKENS, Shown, Unwritable, frame_of, is_array, is_of
from or_cache_magic.display.escape import fenced, one_line
from or_cache_magic.errors import RequestError

_MOST: Final = 100
_NAME_WIDTH: Final = 120
_LONGEST_PATH: Final = 4096
_DPI: Final = 100
_MARGINS: Final = {"left": 0.125, "right": 0.9, "bottom": 0.11, "top": 0.88, "wspace": 0.2, "hspace": 0.2}


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
            raise _refused("more than 100 attachments", "", "ask about fewer at a time")
        read.append(_read(*source))
    return Attachments(tuple(part for part, _ in read), tuple(told for _, told in read))


def with_attachments(messages: Sequence[Any], attachments: Attachments) -> list[Any]:
    """Return the messages with the attachments behind what the last one of the user says.

    Raises:
        RequestError: None is of the user.
    """
    said = list(messages)
    for at in reversed(range(len(said))):
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
    elif type(given) in (list, tuple):
        for item in given:
            yield from _sources(item, name)
    elif given is not None:
        yield Source(given, name)


def _read(value: Any, name: str) -> tuple[dict[str, Any], Attached]:
    if isinstance(value, str):
        return _read_text(str.__str__(value), name)
    if isinstance(value, os.PathLike):
        path = Path(value)
        return _of_bytes(_file_bytes(path), path.name, is_file=True)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value), name)
    if (figure := _figure(value)) is not None:
        return _of_bytes(_made(_drawn, figure, name or "a figure", _SAVE_IT), name)
    if is_of(value, "plotly", "BaseFigure"):
        return _of_bytes(_made(_plotly_png, value, name or "a plotly figure", _NEEDS_KALEIDO), name)
    if is_of(value, "PIL", "Image"):
        width, height = value.size
        _check_size(width, height, name or "this picture")
        return _of_bytes(_made(_pil_png, value, name or "this picture", _SAVE_IT), name)
    try:
        if frame_of(value) is not None:
            text = Shown(value).text()
            return _text_part(text), _told(name, "table", text.encode())
    except Unwritable as why:
        raise _refused(name or "the table", why.problem, "attach a part of it: df.head(100)") from None
    raise _refused(
        name or f"a {type(value).__name__}",
        f"a {type(value).__name__} is nothing that can be attached" if name else "",
        "attach a path, a URL, bytes, a figure, a picture or a table; put a text into the prompt",
    )


def _refused(what: str, why: str, hint: str) -> RequestError:
    shown = one_line(what, _NAME_WIDTH)
    return RequestError(f"{shown} can't be attached{f': {why}' if why else ''} (nothing was sent)", hint)


# What a text names: a link or a file


def _read_text(text: str, name: str) -> tuple[dict[str, Any], Attached]:
    if text.startswith("data:"):
        return _of_bytes(_data_url_bytes(text, name), name)
    if re.match(r"(?i)https?://", text):
        return _link(text)
    if "\n" in text or not 0 < len(text) <= _LONGEST_PATH or "\0" in text:
        raise _refused(
            name or "a text", "a text is a path or a URL, and this is neither", "put it into the prompt"
        )
    if re.match(r"(?i)[a-z][a-z0-9+.-]+://", text):
        raise _refused(text, "only http and https links are taken", "save it as a file, and attach that")
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
    raise _refused(name or "a data: URL", "it is not base64", "attach the bytes themselves")


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
        raise _refused(url, "it is no URL", "write it as a browser shows it")
    if parts.username or parts.password:
        raise _refused("a link", "it holds a password, which would be sent", "fetch it, and attach the bytes")
    if found := _NOT_BY_LINK.fullmatch(parts.path, max(parts.path.rfind("."), 0)):
        why = f"models take links to pictures and PDFs only, not to {found[0]}"
        raise _refused(url, why, "fetch it in a cell above, and attach the bytes")
    told = Attached(url, "link", 0, "")
    if _PDF_LINK.search(parts.path):
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}, told
    return {"type": "image_url", "image_url": {"url": url}}, told


def _file_bytes(path: Path) -> bytes:
    try:
        path = path.expanduser()
        found = path.stat()  # before it is opened: a pipe would wait for who writes it
        if stat.S_ISDIR(found.st_mode):
            raise _refused(path.name, "it is a folder", "name the files in it, one by one")
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path.name, "it is no plain file", "save what it gives as a file")
        if found.st_size > MAX_BYTES:
            raise _too_large(path.name, found.st_size)
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused(path.name, "there is no such file", _near_files(path)) from None
    except RequestError:
        raise
    except (OSError, RuntimeError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise _refused(path.name, why, "check that you may read it") from None
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
    return _refused(
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


def _of_bytes(raw: bytes, name: str, *, is_file: bool = False) -> tuple[dict[str, Any], Attached]:
    if len(raw) > MAX_BYTES:
        raise _too_large(name or "this", len(raw))
    if not raw:
        raise _refused(name or "this", "it is empty", "check what was written there")
    found = media_type(raw)
    if found is not None:
        _check_pixels(raw, found, name)
        return _media_part(raw, found), _told(name, found.name, raw)
    text = _decoded(raw)
    if text is None:
        what, hint = next(
            ((what, hint) for at, magic, what, hint in _KNOWN if raw.startswith(magic, at)),
            ("of no kind that models take", "attach PNG, JPEG, WebP, GIF, PDF, sound or text in UTF-8"),
        )
        raise _refused(name or "this", f"it is {what}", hint)
    return _text_part(_fenced_text(text, name if is_file else "")), _told(name, "text", raw)


def _told(name: str, kind: str, raw: bytes) -> Attached:
    return Attached(one_line(name, _NAME_WIDTH), kind, len(raw), sha256(raw).hexdigest()[:12])


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
        raise _refused(name or f"this {found.name}", "it is damaged", "open it, and save it again")
    _check_size(size[0], size[1], name or f"this {found.name}")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _refused(
            name,
            f"{width:,} x {height:,} pixels are over the limit of {MAX_PIXELS // 10**6} million",
            "shrink it: image.thumbnail((2000, 2000))",
        )


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
    title = f"{one_line(name, _NAME_WIDTH)}:\n" if name else ""
    if len(text) > MAX_TOKENS and (tokens := text_tokens(text).likely) > MAX_TOKENS:
        raise _refused(
            name or "this text",
            f"about {tokens:,} tokens is over the limit of {MAX_TOKENS:,}",
            "read it in a cell above, and put a part into the prompt: {{ text | head 500 }}",
        )
    try:
        plain(text, "its text")
    except ValueError as problem:
        raise _refused(name or "this text", str(problem), "take the key out of it") from None
    return f"{title}{fenced(text)}"


def _text_part(text: str) -> dict[str, Any]:
    # Some providers join parts without anything between them.
    return {"type": "text", "text": f"\n\n{text}"}


# Figures and pictures


_SAVE_IT: Final = "save it as a picture in a cell above, and attach that"
_NEEDS_KALEIDO: Final = f"pip install kaleido, which draws plotly's figures; or {_SAVE_IT}"


def _made(make: Callable[[Any], bytes], value: Any, name: str, hint: str) -> bytes:
    """Return the picture of a value; raises `RequestError` where another library fails to make it."""
    try:
        return make(value)
    except Exception as problem:  # noqa: BLE001 - of any class
        raise _refused(name, f"it can't be drawn: {one_line(str(problem), _NAME_WIDTH)}", hint) from None


def _figure(value: Any) -> Any:
    """Return the whole figure of matplotlib that a value is, or is drawn in; None when it is none."""
    if is_array(value) and value.size and value.dtype == object:
        value = value.flat[0]  # what plt.subplots and df.plot(subplots=True) give
    if not is_of(value, "matplotlib", "FigureBase", "Artist"):
        value = vars(value).get("_figure") if is_of(value, "seaborn", "Grid") else None
    while value is not None and not is_of(value, "matplotlib", "Figure"):
        value = getattr(value, "figure", None)
    return value


def _drawn(figure: Any) -> bytes:
    """Return a figure as PNG: the same bytes for the same figure, shown before or not, on any day."""
    written = io.BytesIO()
    layout = getattr(figure, "get_layout_engine", str)()  # from matplotlib 3.6 on
    if type(layout).__name__ == "TightLayoutEngine":
        figure.subplots_adjust(**_MARGINS)  # it goes on from where the last drawing left it
    figure.savefig(
        written,
        format="png",
        dpi=_DPI,
        bbox_inches="tight",
        pad_inches=0.1,
        facecolor=figure.get_facecolor(),
        edgecolor="none",
        transparent=False,
        metadata={"Software": None},
    )
    return written.getvalue()


def _pil_png(image: Any) -> bytes:
    from PIL import ImageOps

    written = io.BytesIO()
    image = ImageOps.exif_transpose(image)  # a PNG does not say which side is up
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        image = image.convert("RGB")
    image.save(written, "PNG", icc_profile=None)
    return written.getvalue()


def _plotly_png(figure: Any) -> bytes:
    return bytes(figure.to_image(format="png", scale=1))
