"""What went wrong with the file: told once each, and not waited for twice."""

from __future__ import annotations

import time
from typing import Final

from or_cache_magic.errors import StoreBusyError, StoreCorruptError, StoreError

__all__ = ["Trouble"]

_BUSY_FOR_S: Final = 30.0
"""How long a lock that was waited for in vain is taken to be still held, unless a write succeeds."""

_SHORT_WAIT_S: Final = 0.05


class Trouble:
    """The faults of one database, as one kernel met them. Thread-safe: it only remembers.

    Args:
        patience_s: The longest that a write waits for another's lock.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._busy_until_s = 0.0
        self._told: set[str] = set()
        self._notices: list[str] = []

    @property
    def patience_s(self) -> float:
        """How long a write may wait now: a lock that did not come free just before won't cost it twice."""
        if time.monotonic() < self._busy_until_s:
            return min(_SHORT_WAIT_S, self._patience_s)
        return self._patience_s

    def met(self, failure: StoreError, waited_s: float) -> None:
        """Takes note of a failed write; ``waited_s`` is how long it would have waited for a lock."""
        if isinstance(failure, StoreCorruptError):
            return  # the next write sets the file aside, and tells
        if isinstance(failure, StoreBusyError):
            if waited_s < self._patience_s:
                return  # it gave up early on purpose
            self._busy_until_s = time.monotonic() + _BUSY_FOR_S
        message = str(failure.args[0])
        self.tell(f"{message} {failure.hint}", about=message.partition(" (")[0])

    def over(self) -> None:
        """Takes note of a write that succeeded."""
        self._busy_until_s = 0.0

    def tell(self, notice: str, *, about: str = "") -> None:
        """Keeps a notice for the user; what it is about is told only once."""
        if about:
            if about in self._told:
                return
            self._told.add(about)
        self._notices.append(notice)

    def pop_notices(self) -> tuple[str, ...]:
        """What the user should be told, once."""
        notices, self._notices = tuple(self._notices), []
        return notices
