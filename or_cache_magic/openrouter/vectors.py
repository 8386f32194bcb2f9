"""Vectors as they come: replies of ``/embeddings``, read as completions whose choices are vectors."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from or_cache_magic.core.chat import as_list, as_mapping


def vectors_as_choices(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reply of ``/embeddings`` as a completion; one without vectors as one without choices.

    Raises:
        ValueError, TypeError: A vector is none, or one is missing, or there twice.
    """
    given = list(map(as_mapping, as_list(reply.get("data"))))
    places = [item.get("index", place) for place, item in enumerate(given)]
    if sorted(places) != list(range(len(given))):
        raise ValueError(places)
    choices = [
        {"index": place, "finish_reason": "stop", "message": _message(_float32(item.get("embedding")))}
        for place, item in zip(places, given, strict=True)
    ]
    rest = {name: value for name, value in reply.items() if name not in ("data", "object")}
    return {**rest, "choices": choices}


def _message(vector: array[float]) -> dict[str, Any]:
    if not vector or not all(map(math.isfinite, vector)):
        raise ValueError(vector)
    raw = vector[:]
    if sys.byteorder == "big":
        raw.byteswap()
    text = base64.b64encode(raw.tobytes()).decode()
    return {"role": "assistant", "content": f"{len(vector):,} numbers", "embedding": text}


def _float32(value: Any) -> array[float]:
    """Return numbers, or base64 of little-endian float32, as float32."""
    if not isinstance(value, str):
        return array("f", value)
    vector = array("f", base64.b64decode(value, validate=True))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
