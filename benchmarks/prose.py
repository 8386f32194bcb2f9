"""English text to ask and answer with: Python's own language reference, which every installation has.

Text that repeats itself would deflate to nothing, and random letters not at all.
"""

from __future__ import annotations

from functools import cache

_STRIDE_CHARS = 7_919  # a prime: consecutive texts begin at unlike places


@cache
def _reference() -> str:
    from pydoc_data.topics import topics

    words = " ".join(" ".join(topics.values()).split())
    return words.encode("ascii", "ignore").decode()


def prose(size_chars: int, number: int) -> str:
    """The ``number``-th text of this size; always the same one. ASCII."""
    source = _reference()
    start = number * _STRIDE_CHARS % len(source)
    text = source[start : start + size_chars]
    if len(text) < size_chars:
        text += source * (size_chars // len(source) + 1)
    return f"{number}. {text}"[:size_chars]
