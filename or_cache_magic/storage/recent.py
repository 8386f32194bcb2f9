"""`RecentEntries`: entries that were just served, decoded, as long as the file is as it was."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.records import Answer, Choice, Entry

if TYPE_CHECKING:
    from or_cache_magic.core.records import Json

__all__ = ["RecentEntries"]

_MOST_BYTES: Final = 1 << 24
_OBJECTS_BYTES: Final = 2_000  # of an entry, without its texts


class _Kept(NamedTuple):
    entry: Entry
    state: object
    size_bytes: int


class RecentEntries:
    """A bounded memory of decoded entries, each with the state of the file in which it was read. Thread-safe.

    An entry is given back only in that very state, so that what any process writes, purges or replaces is
    seen at once. It is a copy each time: what a caller does to a message changes no later answer.

    In a forked child no state is that of its parent: it finds nothing.

    Args:
        most_bytes: About how much memory it may take; the least recently used go first.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str, state: object) -> Entry | None:
        """The entry of a key, if it was read in this state."""
        kept = self._kept.get(digest)
        if kept is None or kept.state != state:
            return None
        with suppress(KeyError):  # another thread made room
            self._kept.move_to_end(digest)
        return _copy(kept.entry)

    def keep(self, entry: Entry, state: object, text_bytes: int) -> None:
        """Keep an entry, of so many bytes of text, that was read in this state or after it began."""
        size_bytes = 2 * text_bytes + _OBJECTS_BYTES
        if size_bytes > self._most_bytes // 8 or entry.answer.error is not None:
            return
        # Another thread has it; or one of the parent of this fork had, and nobody will ever release it.
        if not self._lock.acquire(blocking=False):
            return
        try:
            digest = entry.key.digest
            self._forget(self._kept.pop(digest, None))
            self._kept[digest] = _Kept(_copy(entry), state, size_bytes)
            self._bytes += size_bytes
            while self._bytes > self._most_bytes:
                self._forget(self._kept.popitem(last=False)[1])
        finally:
            self._lock.release()

    def _forget(self, kept: _Kept | None) -> None:
        self._bytes -= 0 if kept is None else kept.size_bytes


def _copy(entry: Entry) -> Entry:
    answer = entry.answer
    choices = tuple(
        [
            Choice(
                _json_copy(message),
                finish,
                native,
                _json_copy(error),
                _json_copy(logprobs),
            )
            for message, finish, native, error, logprobs in answer.choices
        ]
    )
    return Entry._make((entry.key, Answer._make((choices, *answer[1:])), *entry[2:]))


def _json_copy(value: Json) -> Json:
    kind = type(value)
    if kind is dict:
        # Most are texts: to copy them too would take as long as all the rest.
        return {name: item if type(item) is str else _json_copy(item) for name, item in value.items()}
    return [_json_copy(item) for item in value] if kind is list else value
