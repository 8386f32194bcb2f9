"""Keys and passwords: held so that nothing shows them, and taken out of foreign text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

_HIDDEN: Final = "…"
_LONG: Final = 16
"""A shorter key that doesn't look like one may be a word of any text."""

_NO_WIDTH: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e0fff"
)
_MARKS: Final = rf"[%&\\{_NO_WIDTH}]"
_CODED: Final = rf"[{_NO_WIDTH}]|&#(\d{{2,3}});?|(?:%|&#[xX]|\\x|\\u00)([0-9a-fA-F]{{2}});?"
_KEY: Final = (
    r"(?i)(?<![a-z0-9])sk-(?:or-v1-[0-9a-f]{32}|(?:proj|ant|svcacct|admin)-[\w-]{20}"
    r"|[a-z0-9]{40}|[0-9a-f]{32}(?![a-z0-9]))"
)

# Compiled when first used: a hit needs none.
_compiled = lru_cache(maxsize=None)(re.compile)

_SECRET_FIELDS: Final = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "api_key"})


class Secret(str):
    """A text that no traceback shows (``%xmode Verbose`` shows the values in each frame)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


def looks_like_key(text: str) -> bool:
    """Return whether an API key of OpenRouter, OpenAI or Anthropic stands in a text.

    Letters of either case count, and with what has no width between them. Quick where none does.
    """
    if "-" not in text or b"sk-" not in text.encode("ascii", "ignore").lower():
        return False
    bare = text if text.isascii() else re.sub(f"[{_NO_WIDTH}]", "", text)
    return _compiled(_KEY).search(bare) is not None


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
    """Return a text without this key, and without any 16 characters of it in a row.

    Letters of either case count, percent-encoded, as entities or escapes, with what has no width between
    them, and the key in base64 or hexadecimal.
    """
    if len(secret) < _LONG and not secret.startswith("sk-"):
        return text
    key = _spellings(secret)
    if len(text) < key.run:
        return text
    plain = _compiled(_CODED).sub(_decoded, text) if _compiled(_MARKS).search(text) else text
    plain = plain.lower()
    # Each run of the key holds a whole one of these, so that most text is soon told.
    step = key.run - key.size + 1
    looked_at = (plain[n : n + key.size] for n in range(0, len(plain), step))
    return text if key.seeds.isdisjoint(looked_at) else _hidden(text, key)


def unfinished(text: str, secret: str) -> int:
    """Return how many of the last characters of a text may go on as the key."""
    key, tail, count = secret.lower(), text[-len(secret) :].lower(), 0
    while count < len(tail) and tail[-count - 1 :] in key:
        count += 1
    return count


def _hidden(text: str, key: _Spellings) -> str:
    letters, places = _letters(text)
    kept: list[str] = []
    end = last = 0  # of the text that is done, and of the letters that are hidden
    for start in range(len(letters) - key.run + 1):
        if letters[start : start + key.run] in key.parts:
            if start > last or not kept:
                kept += text[end : places[start]], _HIDDEN
            last = start + key.run
            end = places[last]
    return "".join([*kept, text[end:]])


def _letters(text: str) -> tuple[str, list[int]]:
    """Return the letters that a text spells, small ones, and where each begins in it (and where it ends)."""
    letters: list[str] = []
    places: list[int] = []
    end = 0
    for coded in (*_compiled(_CODED).finditer(text), None):
        start = len(text) if coded is None else coded.start()
        letters += text[end:start]
        places += range(end, start)
        if coded is not None:
            end = coded.end()
            letters += _decoded(coded)
            places += [start] * len(_decoded(coded))
    return "".join(letter.lower() if letter.isascii() else letter for letter in letters), [*places, len(text)]


def _decoded(coded: re.Match[str]) -> str:
    """Return the character that a code stands for; nothing for one without width."""
    number, digits = coded[1], coded[2]
    return chr(int(number) if number else int(digits, 16)) if number or digits else ""


class _Spellings:
    """What is looked for of a key. No traceback shows it.

    Attributes:
        run: Characters in a row that are too many.
        parts: Each run of them, in each spelling.
        size: Characters of the half of a run.
        seeds: Each half of a run.
    """

    def __init__(self, secret: str) -> None:
        from base64 import b64encode

        raw = secret.encode("utf-8", "replace")
        spelled = [secret]
        if len(secret) >= _LONG:
            # In base64 by what stands before it, whose last bits are in the first letter of its own.
            base64 = [b64encode(bytes(n) + raw).decode()[-(-8 * n // 6) :] for n in range(3)]
            spelled += [raw.hex(), *base64, *(text.replace("+", "-").replace("/", "_") for text in base64)]
        texts = {text.lower().rstrip("=") for text in spelled}
        self.run = min(_LONG, len(secret))
        self.size = self.run // 2
        self.seeds = {part for text in texts for part in _parts(text, self.size)}
        self.parts = {part for text in texts for part in _parts(text, self.run)}


def _parts(text: str, size: int) -> Iterator[str]:
    return (text[n : n + size] for n in range(len(text) - size + 1))


_spellings = lru_cache(maxsize=8)(_Spellings)
