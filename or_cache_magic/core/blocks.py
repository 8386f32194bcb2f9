"""What a model's text holds: code, and JSON, bare or in a fence: read alike to be shown, kept and bound."""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["FENCE", "first_code", "parse_json"]

# Compiled when it is first used: most answers are shown as they are.
FENCE: Final = (
    r"(?ms)^[ \t]*(?P<rail>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=rail)[`~]*[ \t]*$|\Z)"
)


def first_code(text: str) -> tuple[str, str] | None:
    """Return the language (may be empty) and the code of the first fenced block; None without one."""
    fence = re.search(FENCE, text)
    return (fence["language"], fence["code"].rstrip("\n")) if fence else None


def parse_json(text: str) -> Any:
    """Return the JSON value of a text: bare, or in its one fenced block.

    Raises:
        ValueError: Where it stops being JSON (line and column), or that there are several blocks.
    """
    bare = text.strip()
    if bare[:1] not in tuple('{["'):
        blocks = list(re.finditer(FENCE, text))
        if len(blocks) > 1:
            raise ValueError(f"expected one fenced block of JSON, found {len(blocks)}")
        bare = blocks[0]["code"].strip() if blocks else bare
    try:
        return json.loads(bare, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
