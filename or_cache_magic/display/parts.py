"""What an answer has besides its text: images, audio, a refusal, tool calls. Each is an output of its own.

A model's media are foreign bytes: what they are is told by their first bytes, never by what they are called,
nothing is fetched, and what is too large or of another kind is told in a line.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.units import format_size
from or_cache_magic.display.escape import escape_markdown, fenced, one_line, printable
from or_cache_magic.display.screen import answer_bundle

_LARGEST_BYTES: Final = 10_000_000
_URL_WIDTH: Final = 200
_IMAGES: Final = (
    ("image/png", 0, b"\x89PNG\r\n\x1a\n"),
    ("image/jpeg", 0, b"\xff\xd8\xff"),
    ("image/webp", 8, b"WEBP"),
)
_SOUNDS: Final = (
    ("audio/wav", 8, b"WAVE"),
    ("audio/mpeg", 0, b"ID3"),
    ("audio/mpeg", 0, b"\xff\xfb"),
    ("audio/mpeg", 0, b"\xff\xf3"),
    ("audio/ogg", 0, b"OggS"),
    ("audio/flac", 0, b"fLaC"),
)


def parts_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bundle (MIME type to text) of each part of a message besides its text, in their order."""
    images = [*as_list(message.get("images")), *as_list(message.get("content"))]
    urls = [as_mapping(as_mapping(part).get("image_url")).get("url") for part in images]
    bundles = [_image(url) for url in urls if isinstance(url, str)]
    audio = as_mapping(message.get("audio"))
    if isinstance(audio.get("data"), str):
        bundles.append(_sound(audio["data"]))
    said = (audio.get("transcript"), message.get("refusal"))
    bundles += [answer_bundle(text) for text in said if isinstance(text, str) and text]
    calls = [_call(as_mapping(call)) for call in as_list(message.get("tool_calls"))]
    if calls:
        bundles.append(_both("\n".join(calls), fenced("\n".join(calls))))
    return bundles


def _image(url: str) -> dict[str, Any]:
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:"):
        return _told(f"image: {one_line(url, _URL_WIDTH)}")
    kind, raw, told = _read(data, _IMAGES, "image")
    if kind != "image/webp":
        return {kind: raw, "text/plain": f"[{told}]"} if kind else _told(told)
    # nbconvert shows no image/webp.
    return {kind: raw, "text/html": f'<img src="data:{kind};base64,{raw}">', "text/plain": f"[{told}]"}


def _sound(data: str) -> dict[str, Any]:
    kind, raw, told = _read(data, _SOUNDS, "audio")
    if not kind:
        return _told(told)
    html = f'<audio controls src="data:{kind};base64,{raw}"></audio>'
    return {"text/html": html, "text/plain": f"[{told}]"}


def _read(data: str, kinds: Iterable[tuple[str, int, bytes]], name: str) -> tuple[str, str, str]:
    """Return the type by content, the bytes in base64, and a line on both; no type where it isn't shown."""
    if len(data) > _LARGEST_BYTES * 4 // 3:
        return "", "", f"{name}: too large to show, {format_size(len(data) * 3 // 4)}"
    try:
        found = base64.b64decode(data)
    except (binascii.Error, ValueError):
        return "", "", f"{name}: not base64, not shown"
    for kind, at, magic in kinds:
        if found.startswith(magic, at):
            told = f"{name}: {kind.partition('/')[2]}, {format_size(len(found))}"
            return kind, base64.b64encode(found).decode(), told
    return "", "", f"{name}: of a kind that isn't shown, {format_size(len(found))}"


def _call(call: Mapping[str, Any]) -> str:
    asked = as_mapping(call.get("function"))
    return printable(f"{asked.get('name', '?')}({asked.get('arguments', '')})")


def _told(line: str) -> dict[str, Any]:
    return _both(f"[{line}]", f"*{escape_markdown(line)}*")


def _both(plain: str, markdown: str) -> dict[str, Any]:
    return {"text/plain": plain, "text/markdown": markdown}
