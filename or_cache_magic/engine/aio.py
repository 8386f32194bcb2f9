"""Flies for the tasks of event loops, on threads of its own, so that no loop ever waits.

asyncio only: a task of trio has another kind of loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Generic, TypeVar

from or_cache_magic.core.callbacks import Cancel
from or_cache_magic.engine.single_flight import Flight, SingleFlight

__all__ = ["SIZE", "AsyncFlights"]

T = TypeVar("T")

SIZE: Final = 32
"""How many flights are in the air at one time; the others stand in line, holding no thread."""

_FAREWELL_S: Final = 1.0
"""How long a cancelled task waits for what it called off to be accounted for. It takes milliseconds, unless
the system itself is connecting, which nothing ends; then the thread goes on to the end without the task."""


class AsyncFlights(Generic[T]):
    """Does `flight.SingleFlight.do` for tasks. Thread-safe; several event loops may share one.

    A thread is only ever taken by who leads a flight, and a leader waits for no other flight of this process:
    however many tasks follow, the leaders get on.

    Args:
        flights: Shared with threads that fly themselves.
        size: How many flights are in the air at one time.
    """

    def __init__(self, flights: SingleFlight[T], size: int = SIZE) -> None:
        self._flights = flights
        self._size = size
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._aloft: set[Cancel] = set()

    async def do(self, key: str, work: Callable[[Cancel], T], *, alone: bool = False) -> tuple[T, bool]:
        """The result of `work`, and whether it was done for this task (True) or for another (False).

        Cancelling the task ends its wait, and the work too when nobody else waits for it; the error is then
        raised when the work has come to its end.

        Args:
            key: Which work.
            work: Does it, on another thread, and ends with `Cancelled` when it is called off.
            alone: Whether this task shares it with nobody.

        Raises:
            Exception: What `work` raised.
            asyncio.CancelledError: This task was cancelled, or the async_flights was closed.
        """
        while True:
            cancel = Cancel()
            flight, leads = (Flight[T](cancel), True) if alone else self._flights.board(key, cancel)
            if leads:
                self._take_off(key, flight, cancel, work)
            await self._landing(key, flight)
            brought = flight.outcome()
            if brought is not None:
                return brought, leads
            if flight.cancel is not None and flight.cancel.is_set:
                raise asyncio.CancelledError("the completion cache was closed")
            # Another thread led it and was interrupted: somebody else has to fly.

    async def call(self, work: Callable[[], object]) -> None:
        """Does something else on another thread, without a flight; raises what it raises."""
        await asyncio.to_thread(work)

    def close(self) -> None:
        """Calls off what is in the air and waits for its end. The async_flights can be used again."""
        with self._lock:
            executor, self._executor = self._executor, None
            aloft = list(self._aloft)
        for cancel in aloft:
            cancel.set()
        if executor is not None:
            executor.shutdown()

    def _take_off(self, key: str, flight: Flight[T], cancel: Cancel, work: Callable[[Cancel], T]) -> None:
        def lead() -> None:
            try:
                self._flights.lead(key, flight, lambda: work(cancel))
            finally:
                with self._lock:
                    self._aloft.discard(cancel)

        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._size, thread_name_prefix="or-cache-ask")
            self._aloft.add(cancel)
            self._executor.submit(lead)

    async def _landing(self, key: str, flight: Flight[T]) -> None:
        """Waits until a flight has landed; leaves it when this task is cancelled."""
        loop = asyncio.get_running_loop()
        landed: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(landed.set_result, None)

        self._flights.watch(flight, tell)
        try:
            await asyncio.shield(landed)
        except asyncio.CancelledError:
            self._flights.leave(key, flight)
            if flight.began and flight.cancel is not None and flight.cancel.is_set:
                await asyncio.wait((landed,), timeout=_FAREWELL_S)
            raise
