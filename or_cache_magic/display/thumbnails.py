"""Pictures in requests and answers, small: for lists and cards, where the whole of them has no room.

They are foreign bytes: told by their first bytes, bounded, and never fetched. Pillow, where it is installed,
makes them small; without it only what is small already is shown.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.media import MAX_BYTES, MAX_PIXELS, media_type, picture_size
from or_cache_magic.core.returned import image_urls
from or_cache_magic.core.units import format_size
from or_cache_magic.display.escape import escape_html, printable

if TYPE_CHECKING:
    from or_cache_magic.core.media import Attached

_WIDTH, _HEIGHT = 160, 120
_SHOWN_AS_IT_IS: Final = 100_000
_MOST: Final = 8
"""Pictures of one message that are shown."""

LONGEST_TEXT: Final = 100_000
"""Characters of one text of a request that are shown."""

_DATA_SHOWN: Final = 60
_LOOKED_AT: Final = 400
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")


def shortened(value: Any) -> Any:
    """Return a JSON value with texts that are not longer than is of use; what is left out is counted."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, Mapping):
        return {name: shortened(part) for name, part in value.items()}
    return [shortened(part) for part in value] if isinstance(value, (list, tuple)) else value


def cut(text: str) -> str:
    """Return a text that is not longer than is of use: of media hardly more than what it is."""
    limit = _DATA_SHOWN if text.startswith("data:") or _is_base64(text) else LONGEST_TEXT
    rest = len(text) - limit
    return f"{text[:limit]}… ({rest:,} more characters)" if rest > 0 else text


def _is_base64(text: str) -> bool:
    return len(text) > _LOOKED_AT and text[:_LOOKED_AT].isalnum() and " " not in text[: 10 * _LOOKED_AT]


def attached_lines(attached: Iterable[Attached]) -> list[str]:
    """Return a line on each attachment: ``plot.png · PNG · 31 KB · sha256 0f3a…``."""
    lines = []
    for one in attached:
        size = (format_size(one.size_bytes), f"sha256 {one.sha256}…") if one.sha256 else ()
        lines.append(printable(" · ".join(filter(None, (one.name, one.kind, *size)))))
    return lines


def thumbnails_html(message: Mapping[str, Any]) -> str:
    """Return a message's pictures as HTML, small; empty where it has none that can be shown."""
    shown = (thumbnail(url) for url in image_urls(message)[:_MOST])
    return "".join(
        f'<img class="orc-thumb" alt="{escape_html(told)}" title="{escape_html(told)}" src="{url}"'
        f' style="max-width:{_WIDTH}px;max-height:{_HEIGHT}px;margin:4px 8px 4px 0">'
        for url, told in filter(None, shown)
    )


def thumbnail(url: str) -> tuple[str, str] | None:
    """Return a picture of a ``data:`` URL as a small one, and what it is; None where it can't be shown."""
    head, comma, _ = url[:100].partition(",")
    if not comma or not head.startswith("data:") or len(url) > MAX_BYTES * 4 // 3 + 100:
        return None
    try:
        raw = base64.b64decode(url[len(head) + 1 :], validate=True)
    except (binascii.Error, ValueError):
        return None
    found, size = media_type(raw), picture_size(raw)
    if found is None or found.kind != "image" or size is None or not 0 < size[0] * size[1] <= MAX_PIXELS:
        return None
    told = f"{found.name}, {size[0]:,} x {size[1]:,} pixels, {format_size(len(raw))}"
    mime, small = found.mime, _smaller(raw)
    if small is not None:
        mime, raw = "image/png", small
    elif len(raw) > _SHOWN_AS_IT_IS:
        return None
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}", told


def _smaller(raw: bytes) -> bytes | None:
    with suppress(Exception):  # not installed, or a picture that it can't read: of any class
        from PIL import Image

        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            image.draft("RGB", (2 * _WIDTH, 2 * _HEIGHT))  # a JPEG is decoded small at once
            image.thumbnail((_WIDTH, _HEIGHT))
            written = io.BytesIO()
            image.convert("RGBA" if image.mode in ("RGBA", "LA", "P") else "RGB").save(written, "PNG")
            return written.getvalue()
    return None
