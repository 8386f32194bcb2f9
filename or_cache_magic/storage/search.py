"""The functions that SQL calls to search texts and prompts.

They inflate a blob only as far as it takes to tell, and never raise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.errors import StoreError
from or_cache_magic.storage.codec import (
    HEAD_CHARS,
    check_blob,
    decode_entry,
    decode_request,
    json_text,
    parts,
    read_head,
)


class _Needle(NamedTuple):
    """What is searched for: a case-folded text, and its bytes when it is ASCII."""

    folded: str
    plain: bytes | None

    def is_in(self, text: bytes) -> bool:
        """Return whether a text in UTF-8 contains it, whatever the case of either."""
        if self.plain is not None and self.plain in text.lower():
            return True
        # Folding leaves ASCII what it is; but a ligature may fold to it, and so may the Kelvin sign.
        return not text.isascii() and self.folded in str(text, "utf-8", "replace").casefold()


@lru_cache(maxsize=4)
def _needles(folded: str) -> tuple[_Needle, _Needle]:
    """Return what to look for in a text, and in JSON."""
    # What JSON escapes has no upper case, so that escaping and folding may change places.
    plain, escaped = (
        _Needle(text, text.encode() if text.isascii() else None) for text in (folded, json_text(folded))
    )
    return plain, escaped


def has_text(key: str, value: bytes, body: bytes, folded: str) -> bool:
    """Return whether the whole answer or prompt contains a case-folded text; a damaged one contains none."""
    return _answer_has(key, value, folded) or _prompt_has(key, body, folded)


def _answer_has(key: str, value: bytes, folded: str) -> bool:
    try:
        text = next(parts(key, value))
        if _needles(folded)[0].is_in(text):
            check_blob(key, value)
            return True
        return _may_go_on(text) and folded in decode_entry(key, value).answer.text.casefold()
    except (StoreError, ValueError):
        return False


def _prompt_has(key: str, body: bytes, folded: str) -> bool:
    plain, escaped = _needles(folded)
    try:
        unfolding = parts(key, body)
        text = next(unfolding)
        if plain.is_in(text):
            check_blob(key, body)
            return True
        if not _may_go_on(text) or not escaped.is_in(next(unfolding)):
            return False
        return folded in last_prompt(decode_request(key, body)).casefold()
    except (StoreError, ValueError):
        return False


def _may_go_on(text: bytes) -> bool:
    """Return whether a blob's text may be the beginning of a longer one, which stands in the JSON."""
    # Cut are those of more characters than a listing shows, to as many exactly.
    return len(text) >= HEAD_CHARS and len(str(text, "utf-8", "surrogatepass")) == HEAD_CHARS


def begins(key: str, body: bytes, prefix: str) -> bool:
    """Return whether the prompt begins with a text."""
    try:
        head = read_head(key, body)
        if not head.startswith(prefix) and not prefix.startswith(head):
            return False
        return last_prompt(decode_request(key, body)).startswith(prefix)
    except StoreError:
        return False
