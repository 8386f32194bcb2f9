"""Keys and passwords: held so that nothing shows them, and taken out of foreign text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_HIDDEN: Final = "…"
_LONG: Final = 16
"""A shorter key that doesn't look like one may be a word of any text."""

_SECRET_FIELDS: Final = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "api_key"})


class Secret(str):
    """A text that no traceback shows (``%xmode Verbose`` shows the values in each frame)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


def redacted_text(text: str, secret: str = "") -> str:
    """Return a text of a server without what is, or looks like, a key or a password.

    >>> redacted_text("Bearer abcdefgh12: bad key sk-or-v1-0123 for http://me:pw@host/")
    'Bearer … bad key sk-… for http://…@host/'
    """
    text = without(text, secret)
    text = re.sub(r"\bsk-[\w-]{4,}", f"sk-{_HIDDEN}", text)
    text = re.sub(r"(?<=://)[^/\s@]+@", f"{_HIDDEN}@", text)
    return re.sub(
        r"""(?ix) ( \bauthorization ["']? \s* [:=] \s* ["']? (?:\w+\s+)? | \bbearer\s+ ) [^\s"',;}]{8,}""",
        rf"\1{_HIDDEN}",
        text,
    )


def redacted(value: Any, secret: str = "") -> Any:
    """Return `redacted_text` of all that is in a JSON value; a header's secret is found by its name."""
    if isinstance(value, str):
        return redacted_text(value, secret)
    if isinstance(value, list):
        return [redacted(item, secret) for item in value]
    if isinstance(value, Mapping):
        return {
            redacted_text(name, secret): _HIDDEN
            if name.lower() in _SECRET_FIELDS and isinstance(item, str)
            else redacted(item, secret)
            for name, item in value.items()
        }
    return value


def without(text: str, secret: str) -> str:
    """Return a text without this key, wherever it is in it."""
    if secret and secret in text and (len(secret) >= _LONG or secret.startswith("sk-")):
        return text.replace(secret, _HIDDEN)
    return text
