"""Pinning: of several answers to one request, the one that reruns give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.policy import why_not_stored
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import format_count
from or_cache_magic.errors import OptionError, one_line

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.storage.entries import HistoryEntry

_KEY_DIGITS: Final = 10
_REASON_WIDTH: Final = 200
_NAMED: Final = r"(?P<key>[^:]*)(?::(?P<number>[0-9]{1,9}))?"
_UNCHANGED: Final = "nothing was changed"


def pin(cache: CompletionCache, named: str, number: int | None) -> tuple[str, int]:
    """Make an earlier answer the one that reruns give; see `CompletionCache.pin`.

    Returns:
        The whole key, and the number of the answer that was given before; the same where it is given already.

    Raises:
        OptionError: There is no such entry or answer, or it may not be served. Nothing was changed.
    """
    found = re.fullmatch(_NAMED, named.strip())
    if found is not None and found["number"] is not None and number is None:
        named, number = found["key"], int(found["number"])
    digests = cache.store.listing.digests(EntryFilter(keys=(named,)))
    if len(digests) != 1:
        how = "several entries begin" if digests else "no entry begins"
        hint = "write more of its digits" if digests else "%openrouter_entries lists them"
        raise OptionError(f"{how} with {one_line(named, _REASON_WIDTH)}; {_UNCHANGED}", hint)
    (digest,) = digests
    with cache.database.transaction():  # nobody changes what is looked at
        history = cache.store.unserved(digest)
        before = cache.store.served_number(digest)
        if number is not None and _is_given(cache, digest, number, history):
            return digest, number
        _check(cache, digest, number, history)
        cache.store.pin(digest, number or 0, cache.clock())
    cache.database.checkpoint()
    return digest, before


def _is_given(cache: CompletionCache, digest: str, number: int, history: list[HistoryEntry]) -> bool:
    """Whether reruns give this answer already; it does not expire from then on."""
    entry, request = cache.store.entry(digest), cache.store.asked(digest)
    if entry is None or request is None:
        return False
    same = [
        kept.number for kept in history if kept.was_served and kept.answer.choices == entry.answer.choices
    ]
    if number not in (cache.store.served_number(digest), *same):
        return False
    if entry.expires_s is not None:
        cache.store.put(entry._replace(expires_s=None), request)
    return True


def _check(cache: CompletionCache, digest: str, number: int | None, history: list[HistoryEntry]) -> None:
    """Raise `OptionError` where there is no such answer, or it may not be served."""
    shown, may = digest[:_KEY_DIGITS], sorted(kept.number for kept in history if kept.was_served)
    if not may:
        raise OptionError(
            f"{shown} has no other answer that may be served; {_UNCHANGED}",
            "--refresh asks for another one, and keeps this one as history",
        )
    chosen = next((kept for kept in history if kept.number == number), None)
    if chosen is None:
        which = (
            f"has no answer {number}"
            if number is not None
            else f"has {format_count(len(may), 'other answer')}"
        )
        raise OptionError(
            f"{shown} {which}; {_UNCHANGED}",
            f"%openrouter_entries {shown} numbers them; write one: "
            + ", ".join(f"{shown}:{number}" for number in may[-3:]),
        )
    request = cache.store.asked(digest)
    why = chosen.reason if not chosen.was_served else None
    if why is None and request is not None:
        why = why_not_stored(request, chosen.answer)
    if why is not None:
        raise OptionError(
            f"answer {number} of {shown} may not be served: {one_line(why, _REASON_WIDTH)}; {_UNCHANGED}",
            f"%openrouter_entries {shown} shows them all",
        )
