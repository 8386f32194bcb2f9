"""Images and audio of an answer as values: their bytes, which say what they are and show themselves."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, ClassVar, Final

from or_cache_magic.core.media import media_type
from or_cache_magic.core.units import format_size

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST_BYTES: Final = 10_000_000
_SHOWN: Final = {
    "image": ("image/png", "image/jpeg", "image/webp", "image/gif"),
    "audio": ("audio/wav", "audio/mpeg", "audio/ogg", "audio/flac", "audio/mp4", "audio/aac"),
}
_BY_NBCONVERT: Final = ("image/png", "image/jpeg")
_HEAD: Final = 64
"""So many letters of base64 tell what it is."""


class _Media(bytes):
    """Bytes of an answer. What they are is told by how they begin, never by what they are called."""

    _what: ClassVar[str] = "data"

    @property
    def mime(self) -> str:
        """Their type, such as ``image/png``; ``application/octet-stream`` where it isn't known."""
        known = media_type(self)
        return known.mime if known is not None else "application/octet-stream"

    @property
    def extension(self) -> str:
        """What a file of this type ends in, such as ``png``; ``bin`` where it isn't known."""
        known = media_type(self)
        return known.name.lower() if known is not None else "bin"

    def __repr__(self) -> str:
        known = media_type(self)
        kind = known.name.lower() if known is not None else "of an unknown kind"
        return f"<{self._what}: {kind}, {format_size(len(self))}>"

    __str__ = __repr__

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """What Jupyter shows."""
        return media_bundle(self._what, base64.b64encode(self).decode())

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What a terminal shows."""
        printer.text(repr(self))


class Image(_Media):
    """An image of an answer: its bytes, which show themselves in a notebook."""

    _what = "image"


class Audio(_Media):
    """The audio of an answer: its bytes, which play in a notebook.

    Attributes:
        transcript: What is said in it; None when it was not told.
    """

    _what = "audio"
    transcript: str | None = None

    @classmethod
    def of(cls, raw: bytes, transcript: Any) -> Self:
        """Return the audio with what is said in it."""
        made = cls(raw)
        made.transcript = transcript if isinstance(transcript, str) else None
        return made

    @property
    def format(self) -> str:
        """Its format as OpenRouter calls it, such as ``wav`` or ``mp3``."""
        return self.extension


def media_bundle(what: str, data: str) -> dict[str, Any]:
    """Return what is published for an image or audio; a line of text where it is nothing that is shown.

    Args:
        what: ``image`` or ``audio``.
        data: Its bytes, as an encoder writes base64.
    """
    size_bytes = len(data) // 4 * 3 - data.count("=", len(data) - 2)
    known = media_type(base64.b64decode(data[:_HEAD]))
    too_large = size_bytes > _LARGEST_BYTES
    if too_large or known is None or known.mime not in _SHOWN[what]:
        why = "too large to show" if too_large else "of a kind that isn't shown"
        return {"text/plain": f"[{what}: {why}, {format_size(size_bytes)}]"}
    mime, plain = known.mime, {"text/plain": f"[{what}: {known.name.lower()}, {format_size(size_bytes)}]"}
    if what == "audio":
        return {"text/html": f'<audio controls src="data:{mime};base64,{data}"></audio>', **plain}
    if mime in _BY_NBCONVERT:
        return {mime: data, **plain}
    return {mime: data, "text/html": f'<img src="data:{mime};base64,{data}">', **plain}
