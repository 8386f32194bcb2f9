"""Vectors as they come: replies of ``/embeddings``, read as completions whose choices are vectors."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from or_cache_magic.core.chat import as_list, as_mapping


def vectors_as_choices(reply: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a reply of ``/embeddings`` as a completion, and what is wrong with its vectors.

    One with a flaw, or without vectors, has no choices; what it says of its use it still says.
    """
    choices, flaw = [], ""
    try:
        choices = _choices(reply)
    except _FlawError as exc:
        flaw = str(exc)
    rest = {name: value for name, value in reply.items() if name not in ("data", "object")}
    return {**rest, "choices": choices}, flaw


class _FlawError(Exception):
    """What is wrong with vectors."""


def _choices(reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = list(map(as_mapping, as_list(reply.get("data"))))
    places = [item.get("index", place) for place, item in enumerate(given)]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(len(given))):
        raise _FlawError("a vector of the reply is missing, or there twice")
    vectors = [_float32(item.get("embedding")) for item in given]
    sizes = sorted(set(map(len, vectors)))
    if len(sizes) > 1:
        raise _FlawError(
            f"vectors of {' and '.join(f'{size:,}' for size in sizes)} numbers came in one reply"
        )
    return [
        {"index": place, "finish_reason": "stop", "message": _message(vector)}
        for place, vector in zip(places, vectors, strict=True)
    ]


def _message(vector: array[float]) -> dict[str, Any]:
    raw = vector[:]
    if sys.byteorder == "big":
        raw.byteswap()
    text = base64.b64encode(raw.tobytes()).decode()
    return {"role": "assistant", "content": f"{len(vector):,} numbers", "embedding": text}


def _float32(value: Any) -> array[float]:
    """Return numbers, or base64 of little-endian float32, as float32."""
    try:
        if isinstance(value, str):
            vector = array("f", base64.b64decode(value, validate=True))
            if sys.byteorder == "big":
                vector.byteswap()
        else:
            # Of these types alone: an array takes a bool for 1.
            vector = array("f", value if set(map(type, value)) <= {int, float} else ())
    except (ValueError, TypeError, OverflowError):
        vector = array("f")
    if not vector or not all(map(math.isfinite, vector)):
        raise _FlawError("a vector of the reply has no finite numbers")
    return vector
