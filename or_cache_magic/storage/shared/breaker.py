"""`Breaker`: leaves alone what just failed, and tries it again now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """A circuit breaker. Thread-safe.

    Closed, it lets everything through. A failure opens it for a while; then it lets one try through at a
    time, each further failure doubling the wait, until one succeeds.

    Args:
        wait_s: How long it stays open after the first failure.
        longest_wait_s: What the wait grows to.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        wait_s: float = 1.0,
        longest_wait_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_wait_s = wait_s
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._wait_s = 0.0  # 0 is closed
        self._next_s = 0.0
        self._trying = False

    def allows(self) -> bool:
        """Whether to try now; when open, True makes the caller the one who tries."""
        with self._lock:
            if not self._wait_s:
                return True
            now_s = self._clock()
            if now_s < self._next_s:
                return False
            # One who is never heard of again must not keep it open for ever.
            self._next_s = now_s + self._wait_s
            self._trying = True
            return True

    def failed(self) -> bool:
        """Takes note of a failure; whether it opened just now."""
        with self._lock:
            opened = not self._wait_s
            if opened:
                self._wait_s = self._first_wait_s
            elif self._trying:
                self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
            else:
                return False  # begun before it opened
            self._trying = False
            self._next_s = self._clock() + self._wait_s
            return opened

    def succeeded(self) -> bool:
        """Takes note of a success; whether it closed just now."""
        with self._lock:
            closed = bool(self._wait_s)
            self._wait_s, self._trying = 0.0, False
            return closed
