"""`Ticker`: looks after many calls that are under way, on one thread for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_RESTS_S: Final = 10.0
"""How long the thread stays without work: a thread for each call costs a list of short ones 0.2 ms a row."""


class _Ticking:
    """What is called until it is over."""

    __slots__ = ("lock", "over", "tick")

    def __init__(self, tick: Callable[[], object]) -> None:
        self.tick = tick
        self.lock = threading.Lock()
        self.over = False


class Ticker:
    """Calls what looks after a call, again and again while that lasts. Thread-safe.

    Args:
        every_s: How long after one round the next one begins.
        name: Of the thread.
    """

    def __init__(self, every_s: float, name: str) -> None:
        self._every_s = every_s
        self._name = name
        self._lock = threading.Lock()
        self._ticking: set[_Ticking] = set()
        self._runs = False

    @contextmanager
    def calling(self, tick: Callable[[], object]) -> Iterator[None]:
        """Have `tick` called from another thread while the block lasts, not after it; it must not raise."""
        one = _Ticking(tick)
        with self._lock:
            self._ticking.add(one)
            begins = not self._runs
            self._runs = True
        if begins:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._ticking.discard(one)
            with one.lock:  # what is called just now is done first
                one.over = True

    def _run(self) -> None:
        pause, rested_s = threading.Event(), 0.0
        while True:
            pause.wait(self._every_s)
            with self._lock:
                ticking = tuple(self._ticking)
                rested_s = 0.0 if ticking else rested_s + self._every_s
                if rested_s >= _RESTS_S:
                    self._runs = False
                    return
            for one in ticking:
                with one.lock:
                    if not one.over:
                        one.tick()
