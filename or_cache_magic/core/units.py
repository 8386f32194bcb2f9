"""Sizes as people write them: ``500MB``, ``2GB``."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["format_size", "parse_size"]

_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(I?)B")


def parse_size(text: str) -> int:
    """Bytes in ``500MB``, ``2GB``, ``1.5 TB``; a thousand a step, or 1024 in ``KiB``, ``MiB``, ``GiB``.

    Raises:
        ValueError: It is none of these.

    >>> parse_size("500MB"), parse_size("1.5 GiB"), parse_size("0B")
    (500000000, 1610612736, 0)
    """
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 500MB or 2GB")
    number, unit, binary = found.groups()
    return round(float(number) * (1024.0 if binary else 1000.0) ** _UNITS.index(f"{unit}B"))


def format_size(size_bytes: float) -> str:
    """A size in the unit that fits it, a thousand a step.

    >>> format_size(734), format_size(2_000_000_000), format_size(1_240_000)
    ('734 B', '2 GB', '1.2 MB')
    """
    step, size = 0, float(size_bytes)
    while round(size, 1) >= 1000 and step < len(_UNITS) - 1:  # noqa: PLR2004
        step, size = step + 1, size / 1000
    return f"{size:.1f}".removesuffix(".0") + f" {_UNITS[step]}"
