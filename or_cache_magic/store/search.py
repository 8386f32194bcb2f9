"""Looking into the blobs of entries for a text: SQL's ``or_has_text`` and ``or_begins``. They never raise."""

from __future__ import annotations

from contextlib import suppress

from or_cache_magic.errors import StoreError
from or_cache_magic.store.codec import decode_entry, decode_request, may_contain
from or_cache_magic.store.prompt import last_prompt

__all__ = ["begins", "has_text"]


def has_text(key: str, value: bytes, body: bytes, folded: str) -> bool:
    """Whether the whole answer or prompt contains a case-folded text."""
    with suppress(StoreError):
        if may_contain(key, value, folded) and folded in decode_entry(key, value).answer.text.casefold():
            return True
        return may_contain(key, body, folded) and folded in last_prompt(decode_request(key, body)).casefold()
    return False


def begins(key: str, body: bytes, prefix: str) -> bool:
    """Whether the prompt begins with a text."""
    with suppress(StoreError):
        return last_prompt(decode_request(key, body)).startswith(prefix)
    return False
