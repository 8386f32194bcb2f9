"""What stands in messages besides text: pictures, files, sound; what is wrong with it, and how PDFs are read.

A PDF is read by the model where it can (engine ``native``), else by an engine of OpenRouter's:
``mistral-ocr`` unless ``file-parser`` names another, at $2 per 1,000 pages. Then the answer has annotations
with what was read; a request that gives them back in an earlier answer has the file read for nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from or_cache_magic.simulator.catalog import Model

_OCR_PAGE_USD: Final = Decimal("0.002")
_FREE_ENGINES: Final = frozenset({"cloudflare-ai", "pdf-text"})
_PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_SOUNDS: Final = frozenset({"wav", "mp3", "flac", "m4a", "ogg", "aiff", "aac", "pcm16", "pcm24"})
_INPUTS: Final = {"image_url": "image", "input_audio": "audio", "video_url": "video"}
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_WRITTEN: Final = re.compile(rb"tEXtDescription\0([\x20-\x7e\n]+)|\(([^()\\\r\n]+)\)\s*Tj")
_LONGEST_LOOK: Final = 1_000_000
_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of a request were read.

    Attributes:
        annotations: What the answer says of those that an engine of OpenRouter's has read just now.
        fee_usd: What that costs on top.
    """

    annotations: tuple[dict[str, Any], ...] = ()
    fee_usd: Decimal = Decimal(0)


def part_problem(body: Mapping[str, Any]) -> str:
    """What is wrong with a content part, in one line; empty when nothing is."""
    for place, part in _parts(body):
        problem = _problem(part)
        if problem:
            return f"{place}: {problem}"
    return ""


def unreadable(body: Mapping[str, Any], model: Model) -> str:
    """The first kind of input in a request that a model does not take; empty when it takes all."""
    kinds = (_INPUTS.get(str(part.get("type")), "text") for _, part in _parts(body))
    return next((kind for kind in kinds if kind not in model.inputs), "")


def read_files(body: Mapping[str, Any], model: Model) -> Reading:
    """How the PDFs of a request are read for this model."""
    plugins = [plugin for plugin in body.get("plugins") or () if plugin.get("id") == "file-parser"]
    named = str(((plugins or [{}])[0].get("pdf") or {}).get("engine") or "")
    engine = named or ("native" if "file" in model.inputs else "mistral-ocr")
    files = [part["file"] for _, part in _parts(body) if part.get("type") == "file"]
    if engine == "native" or not files:
        return Reading()
    known = set(_known_hashes(body))
    read = [(file, *_bytes_of(str(file["file_data"]))) for file in files]
    new = [(file, raw, digest) for file, raw, digest in read if digest not in known]
    pages = sum(max(1, len(_PAGE.findall(raw))) for _, raw, _ in new)
    notes = tuple(_annotation(str(file.get("filename") or ""), raw, digest) for file, raw, digest in new)
    return Reading(notes, Decimal(0) if engine in _FREE_ENGINES else pages * _OCR_PAGE_USD)


def seen_text(content: Any) -> str:
    """What can be read in a message: its text, what a PNG's ``Description`` says, and a PDF's plain texts."""
    if isinstance(content, str):
        return content
    found = []
    for part in content or ():
        media = part.get("image_url") or part.get("file") or {}
        url = str(media.get("url") or media.get("file_data") or "") if isinstance(media, dict) else ""
        if isinstance(part.get("text"), str):
            found.append(part["text"])
        elif url.startswith("data:"):
            raw = _bytes_of(url)[0]
            found += [b"".join(texts).decode("latin-1") for texts in _WRITTEN.findall(raw[:_LONGEST_LOOK])]
    return "\n".join(found)


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for at, message in enumerate(body.get("messages") or ()):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            yield f"messages[{at}].content[{number}]", part


def _problem(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    media = part.get(kind) if isinstance(kind, str) else None
    if kind not in ("image_url", "file", "input_audio"):
        return ""
    if not isinstance(media, dict):
        return f"{kind}: expected an object"
    if kind == "input_audio":
        if media.get("format") not in _SOUNDS:
            return f"input_audio.format: expected one of {', '.join(sorted(_SOUNDS))}"
        return "" if _decoded(media.get("data")) else "input_audio.data: expected base64"
    name = "url" if kind == "image_url" else "file_data"
    url = media.get(name)
    if isinstance(url, str) and url.startswith(("http://", "https://")):
        return ""
    found = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None or not _decoded(found[2]):
        return f"{kind}.{name}: expected an http(s) URL or a base64 data URL"
    if kind == "image_url" and found[1] not in _PICTURES:
        return f"image_url.url: {found[1]} is not supported, expected one of {', '.join(sorted(_PICTURES))}"
    return ""


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _bytes_of(url: str) -> tuple[bytes, str]:
    """A file's bytes, of a link those of its URL; and their digest."""
    found = _DATA_URL.fullmatch(url)
    raw = _decoded(found[2]) if found else url.encode()
    return raw, hashlib.sha256(raw).hexdigest()


def _annotation(name: str, raw: bytes, digest: str) -> dict[str, Any]:
    said = f"{len(_PAGE.findall(raw)) or 1} pages, as the simulator reads them."
    content = [{"type": "text", "text": f'<file name="{name}">'}, {"type": "text", "text": said}]
    return {"type": "file", "file": {"hash": digest, "name": name, "content": content}}


def _known_hashes(body: Mapping[str, Any]) -> Iterator[str]:
    for message in body["messages"]:
        for note in message.get("annotations") or ():
            if isinstance(note, dict) and isinstance(note.get("file"), dict):
                yield str(note["file"].get("hash"))
