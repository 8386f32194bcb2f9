"""The pictures and the speech that the simulator makes: small, real files, the same for the same prompt."""

from __future__ import annotations

import base64
import math
import random
import struct
import zlib
from typing import Final

_CELLS: Final = 8
_CELL_PX: Final = 12
_HERTZ: Final = 24_000
_WORD_SAMPLES: Final = 720
_PIECE_BYTES: Final = 4800
AUDIO_FORMATS: Final = ("pcm16", "wav")
"""What it speaks in; OpenRouter's models have more."""


def picture(seed: int, size_bytes: int = 0) -> str:
    """The data URL of a PNG: a mirrored pattern, or noise that takes at least so many bytes."""
    drawn = random.Random(seed)  # noqa: S311 - a picture is to be the same again
    if size_bytes:
        side = math.isqrt(size_bytes // 3) + 1
        rows = [drawn.randbytes(3 * side) for _ in range(side)]
    else:
        colours = [bytes(drawn.randrange(40, 240) for _ in range(3)) for _ in range(3)]
        halves = [drawn.choices(colours, (3, 2, 1), k=_CELLS // 2) for _ in range(_CELLS)]
        lines = [b"".join(colour * _CELL_PX for colour in (*half, *reversed(half))) for half in halves]
        rows = [line for line in lines for _ in range(_CELL_PX)]
    width = len(rows[0]) // 3
    head = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 0 if size_bytes else 9)
    parts = _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def speech(text: str, form: str) -> bytes:
    """A tone for each word, in one of `AUDIO_FORMATS`: samples alone, or a WAV file."""
    samples = b"".join(map(_tone, text.split()))
    if form == "pcm16":
        return samples
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _HERTZ, 2 * _HERTZ, 2, 16)
    data = b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(data)) + b"WAVE" + head + data


def _tone(word: str) -> bytes:
    step = 2 * math.pi * (220 + zlib.crc32(word.encode()) % 440) / _HERTZ
    fade = math.pi / _WORD_SAMPLES
    heights = [int(6000 * math.sin(fade * n) * math.sin(step * n)) for n in range(_WORD_SAMPLES)]
    return struct.pack(f"<{_WORD_SAMPLES}h", *heights)


def audio_pieces(sound: bytes) -> list[str]:
    """The base64 of sound as a stream delivers it, a tenth of a second at a time."""
    cuts = range(0, len(sound), _PIECE_BYTES)
    return [base64.b64encode(sound[at : at + _PIECE_BYTES]).decode() for at in cuts]
