"""One call for simultaneous identical asks within a process."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

T = TypeVar("T")

_TICK_S = 0.2
"""How often a follower wakes to let an interrupt through; `Event.wait` alone can't be on Windows."""


class _Flight(Generic[T]):
    __slots__ = ("failure", "landed", "result")

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.result: list[T] = []
        self.failure: Exception | None = None


class SingleFlight(Generic[T]):
    """Lets one of several simultaneous callers of a key do the work, and the others have its result.

    Thread-safe. The work runs outside the lock. What one flight gave is forgotten when it has
    landed: remembering is the store's job, so the leader must look there again before it works.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, _Flight[T]] = {}

    def do(self, key: str, work: Callable[[], T]) -> tuple[T, bool]:
        """The result of `work`, and whether this caller did it itself (True) or waited (False).

        Raises:
            Exception: What `work` raised, to the leader and to each follower alike: a failed call
                is not tried anew by each of those who waited. An interrupt of the leader is its
                own; one of the followers takes over. An interrupt of a follower ends only its wait.
        """
        while True:
            with self._lock:
                flight = self._flying.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flying[key] = _Flight()
            if leads:
                return self._lead(key, flight, work), True
            while not flight.landed.wait(_TICK_S):
                pass
            if flight.failure is not None:
                raise _own(flight.failure)
            if flight.result:
                return flight.result[0], False
            # The leader was interrupted: somebody else has to fly.

    def _lead(self, key: str, flight: _Flight[T], work: Callable[[], T]) -> T:
        try:
            result = work()
        except Exception as exc:
            flight.failure = exc
            raise
        else:
            flight.result.append(result)
            return result
        finally:
            with self._lock:
                del self._flying[key]
            flight.landed.set()


def _own(failure: Exception) -> Exception:
    """A copy of the leader's error for one follower: raising it writes a traceback into it."""
    try:
        return copy.copy(failure)
    except Exception:  # noqa: BLE001 - foreign errors copy as they like, or not at all
        return failure
