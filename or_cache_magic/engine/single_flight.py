"""One call for simultaneous identical asks within a process."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from or_cache_magic.core.callbacks import Cancel
from or_cache_magic.errors import RequestError

T = TypeVar("T")

_TICK_S: Final = 0.2
"""How often a follower wakes to let an interrupt through; `Event.wait` alone can't be on Windows."""


class Flight(Generic[T]):
    """One piece of work and all who wait for it. `SingleFlight` makes and changes it.

    Attributes:
        cancel: Cancels the work. None where the thread that works is its caller's, and is interrupted itself.
        done: Set when the work has ended, in whatever way.
        thread: The thread that does the work; None before it begins.
        waiters: How many callers want the result, the one who does the work included.
        watchers: Called when the work has ended.
    """

    __slots__ = ("_failure", "_result", "cancel", "done", "thread", "waiters", "watchers")

    def __init__(self, cancel: Cancel | None = None) -> None:
        self.cancel = cancel
        self.done = threading.Event()
        self.thread: int | None = None
        self.waiters = 1
        self.watchers: list[Callable[[], None]] = []
        self._result: list[T] = []
        self._failure: Exception | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Do the work unless it was cancelled before, and keep its result or its error."""
        if self.cancel is not None:
            self.cancel.check()
        self.thread = threading.get_ident()
        try:
            result = work()
        except Exception as exc:
            self._failure = exc
            raise
        self._result.append(result)
        return result

    def outcome(self) -> T | None:
        """Return the result of work that is done; None when it was interrupted or cancelled.

        Raises:
            Exception: A copy of what the work raised: raising an error writes a traceback into it.
        """
        if self._failure is not None:
            raise _own(self._failure)
        return self._result[0] if self._result else None


class SingleFlight(Generic[T]):
    """Lets one of several simultaneous callers of a key do the work, and gives the others its result.

    Thread-safe. The work runs outside the lock, and never returns None. A result is forgotten when the work
    is done: remembering is the store's job, so that whoever works must look there again first.

    `do` is for a thread that works and waits itself. `join`, `run`, `watch` and `leave` are its parts, for
    those who wait otherwise (`aio.AsyncFlights`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Flight[T]] = {}

    def do(self, key: str, work: Callable[[], T], cancel: Cancel | None = None) -> tuple[T, bool]:
        """Return the result of `work`, and whether this caller did it itself (True) or waited (False).

        Args:
            key: Identifies the work.
            work: Does it; looks at `cancel` itself.
            cancel: Ends the waiting; None leaves that to an interrupt.

        Raises:
            Exception: What `work` raised, to the leader and to each follower alike: a failed call
                is not tried anew by each of those who waited. An interrupt of the leader is its
                own; one of the followers takes over. An interrupt of a follower ends only its wait.
            RequestError: The work itself calls for its own result, as a callback may.
            Cancelled: It was cancelled.
        """
        while True:
            flight, leads = self.join(key)
            if leads:
                return self.run(key, flight, work), True
            if flight.thread == threading.get_ident():
                self.leave(key, flight)
                raise RequestError(
                    "this is being asked right now, by what calls this callback (nothing more was sent)",
                    "ask for it after the answer has come",
                )
            try:
                while not flight.done.wait(_TICK_S):
                    if cancel is not None:
                        cancel.check()
            except BaseException:
                self.leave(key, flight)
                raise
            result = flight.outcome()
            if result is not None:
                return result, False
            # The leader was interrupted: one of the followers does the work.

    def running(self) -> list[str]:
        """Return the keys whose work is not done yet."""
        with self._lock:
            return list(self._running)

    def waiting(self, key: str) -> int:
        """Return how many callers wait for the one who does the work of a key."""
        with self._lock:
            flight = self._running.get(key)
            return 0 if flight is None else flight.waiters - 1

    def join(self, key: str, cancel: Cancel | None = None) -> tuple[Flight[T], bool]:
        """Return the flight of a key, and whether the caller has to `run` it.

        Args:
            key: Identifies the work.
            cancel: Of a new flight: what cancels it when all have left.
        """
        with self._lock:
            flight = self._running.get(key)
            if flight is None:
                flight = self._running[key] = Flight(cancel)
                return flight, True
            flight.waiters += 1
            return flight, False

    def run(self, key: str, flight: Flight[T], work: Callable[[], T]) -> T:
        """Do the work of a flight and wake all who wait for it; raises what `work` raises."""
        try:
            return flight.run(work)
        finally:
            with self._lock:
                self._forget(key, flight)
                watchers, flight.watchers = flight.watchers, []
                flight.done.set()
            for watcher in watchers:
                watcher()

    def watch(self, flight: Flight[T], watcher: Callable[[], None]) -> None:
        """Call `watcher` when the work is done: on the thread that worked, or now if it is done already."""
        with self._lock:
            if not flight.done.is_set():
                flight.watchers.append(watcher)
                return
        watcher()

    def leave(self, key: str, flight: Flight[T]) -> None:
        """Stop waiting. When the last has left, the work is cancelled, and nobody joins it any more."""
        with self._lock:
            flight.waiters -= 1
            if flight.waiters or flight.cancel is None or flight.done.is_set():
                return
            self._forget(key, flight)
        flight.cancel.set()

    def _forget(self, key: str, flight: Flight[T]) -> None:
        if self._running.get(key) is flight:
            del self._running[key]


def _own(failure: Exception) -> Exception:
    """Return a copy of the leader's error for one follower."""
    try:
        return copy.copy(failure)
    except Exception:  # noqa: BLE001 - foreign errors copy as they like, or not at all
        return failure
