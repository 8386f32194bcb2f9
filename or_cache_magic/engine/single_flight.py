"""One call for simultaneous identical asks within a process."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from or_cache_magic.core.callbacks import Cancel

__all__ = ["Flight", "SingleFlight"]

T = TypeVar("T")

_TICK_S: Final = 0.2
"""How often a follower wakes to let an interrupt through; `Event.wait` alone can't be on Windows."""


class Flight(Generic[T]):
    """One piece of work, for all who wait for it. `SingleFlight` makes and changes it.

    Attributes:
        cancel: Calls the work off. None where who works also waits for it, and is interrupted himself.
        landed: Set when the work has ended, in whatever way.
    """

    __slots__ = ("_failure", "_result", "aboard", "began", "cancel", "landed", "watchers")

    def __init__(self, cancel: Cancel | None = None) -> None:
        self.cancel = cancel
        self.landed = threading.Event()
        #: Whether somebody is at it.
        self.began = False
        #: How many wait for it, who leads it included.
        self.aboard = 1
        #: Called when it has landed.
        self.watchers: list[Callable[[], None]] = []
        self._result: list[T] = []
        self._failure: Exception | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Does the work, unless it was called off before, and keeps what came of it."""
        if self.cancel is not None:
            self.cancel.check()
        self.began = True
        try:
            result = work()
        except Exception as exc:
            self._failure = exc
            raise
        self._result.append(result)
        return result

    def outcome(self) -> T | None:
        """What a landed flight brought; None when it was interrupted or called off, and brought nothing.

        Raises:
            Exception: A copy of what the work raised: raising an error writes a traceback into it.
        """
        if self._failure is not None:
            raise _own(self._failure)
        return self._result[0] if self._result else None


class SingleFlight(Generic[T]):
    """Lets one of several simultaneous callers of a key do the work, and the others have its result.

    Thread-safe. The work runs outside the lock, and never gives None. What one flight gave is forgotten
    when it has landed: remembering is the store's job, so the leader must look there again before it works.

    `do` is for a thread that works and waits itself. `board`, `lead`, `watch` and `leave` are its parts, for
    those who wait otherwise (`async_flights.AsyncFlights`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, Flight[T]] = {}

    def do(self, key: str, work: Callable[[], T], cancel: Cancel | None = None) -> tuple[T, bool]:
        """The result of `work`, and whether this caller did it itself (True) or waited (False).

        Args:
            key: Which work.
            work: Does it; looks at `cancel` itself.
            cancel: Ends the waiting; None leaves that to an interrupt.

        Raises:
            Exception: What `work` raised, to the leader and to each follower alike: a failed call
                is not tried anew by each of those who waited. An interrupt of the leader is its
                own; one of the followers takes over. An interrupt of a follower ends only its wait.
            Cancelled: It was called off.
        """
        while True:
            flight, leads = self.board(key)
            if leads:
                return self.lead(key, flight, work), True
            try:
                while not flight.landed.wait(_TICK_S):
                    if cancel is not None:
                        cancel.check()
            except BaseException:
                self.leave(key, flight)
                raise
            brought = flight.outcome()
            if brought is not None:
                return brought, False
            # The leader was interrupted: somebody else has to fly.

    def board(self, key: str, cancel: Cancel | None = None) -> tuple[Flight[T], bool]:
        """The flight for a key, and whether the caller has to `lead` it.

        Args:
            key: Which work.
            cancel: What calls the flight off when all have left it, if it is a new one.
        """
        with self._lock:
            flight = self._flying.get(key)
            if flight is None:
                flight = self._flying[key] = Flight(cancel)
                return flight, True
            flight.aboard += 1
            return flight, False

    def lead(self, key: str, flight: Flight[T], work: Callable[[], T]) -> T:
        """Does the work of a flight and lands it; raises what `work` raises."""
        try:
            return flight.run(work)
        finally:
            with self._lock:
                self._forget(key, flight)
                watchers, flight.watchers = flight.watchers, []
                flight.landed.set()
            for watcher in watchers:
                watcher()

    def watch(self, flight: Flight[T], watcher: Callable[[], None]) -> None:
        """Has `watcher` called when the flight has landed: on the thread that worked, or now if it has."""
        with self._lock:
            if not flight.landed.is_set():
                flight.watchers.append(watcher)
                return
        watcher()

    def leave(self, key: str, flight: Flight[T]) -> None:
        """Waits no longer. When the last has left, the work is called off, and nobody boards it any more."""
        with self._lock:
            flight.aboard -= 1
            if flight.aboard or flight.cancel is None or flight.landed.is_set():
                return
            self._forget(key, flight)
        flight.cancel.set()

    def _forget(self, key: str, flight: Flight[T]) -> None:
        if self._flying.get(key) is flight:
            del self._flying[key]


def _own(failure: Exception) -> Exception:
    """A copy of the leader's error for one follower."""
    try:
        return copy.copy(failure)
    except Exception:  # noqa: BLE001 - foreign errors copy as they like, or not at all
        return failure
