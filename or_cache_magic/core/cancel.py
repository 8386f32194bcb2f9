"""Calling work off from another thread, at once, wherever it is blocked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Cancel", "Cancelled"]


class Cancelled(BaseException):
    """The work was called off. Like an interrupt it is no error: nothing that handles errors stops it."""


class Cancel:
    """Says whether work is still wanted, and wakes it when it isn't. Thread-safe; once set, it stays set."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether the work was called off."""
        return self._set.is_set()

    def set(self) -> None:
        """Calls the work off, and wakes it where it is blocked; returns at once."""
        with self._lock:
            self._set.set()
            for wake in self._wakers:
                wake()

    def check(self) -> None:
        """Raises `Cancelled` if the work was called off."""
        if self._set.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Sleeps; raises `Cancelled` as soon as the work is called off."""
        if self._set.wait(seconds):
            raise Cancelled

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While the block lasts, `wake` is what wakes the work.

        Args:
            wake: Called once, from another thread; neither waits nor raises. It is never called after the
                block, when what it would wake may be at other work.

        Raises:
            Cancelled: The work was called off before.
        """
        with self._lock:
            self.check()
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)
