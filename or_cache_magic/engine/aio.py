"""Single flight for the tasks of event loops, on threads of its own, so that no loop is ever blocked.

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

T = TypeVar("T")

SIZE: Final = 32
"""How many flights run at one time; the others are queued, and hold no thread."""

_CANCELLED_WAIT_S: Final = 1.0
"""How long a cancelled task waits until the cancelled work is accounted for. It takes milliseconds, unless
the system itself is connecting, which nothing ends; then the thread goes on to the end without the task."""


class AsyncFlights(Generic[T]):
    """Does `SingleFlight.do` for tasks. Thread-safe; several event loops may share one.

    A thread is only ever taken by a flight's leader, and a leader waits for no other flight of this process:
    however many tasks follow, the leaders make progress.

    Args:
        flights: Shared with threads that call `SingleFlight.do` themselves.
        size: How many flights run at one time.
    """

    def __init__(self, flights: SingleFlight[T], size: int = SIZE) -> None:
        self._flights = flights
        self._size = size
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._running: set[Cancel] = set()

    async def do(self, key: str, work: Callable[[Cancel], T], *, alone: bool = False) -> tuple[T, bool]:
        """Return the result of `work`, and whether it was done for this task (True) or for another (False).

        Cancelling the task ends its wait, and the work too when nobody else waits for it; the error is then
        raised when the work has ended.

        Args:
            key: Identifies the work.
            work: Does it, on another thread, and ends with `Cancelled` when it is cancelled.
            alone: Whether this task shares it with no other.

        Raises:
            Exception: What `work` raised.
            asyncio.CancelledError: This task was cancelled, or the flights were closed.
        """
        while True:
            cancel = Cancel()
            flight, leads = (Flight[T](cancel), True) if alone else self._flights.join(key, cancel)
            if leads:
                self._start(key, flight, cancel, work)
            await self._wait(key, flight)
            result = flight.outcome()
            if result is not None:
                return result, leads
            if flight.cancel is not None and flight.cancel.is_set:
                raise asyncio.CancelledError("the completion cache was closed")
            # A thread led it and was interrupted: one of the others does the work.

    async def call(self, work: Callable[[], object]) -> None:
        """Do something else on another thread, without a flight; raises what it raises."""
        await asyncio.to_thread(work)

    def close(self) -> None:
        """Cancel what runs and wait for its end. The flights can be used again."""
        with self._lock:
            executor, self._executor = self._executor, None
            running = list(self._running)
        for cancel in running:
            cancel.set()
        if executor is not None:
            executor.shutdown()

    def _start(self, key: str, flight: Flight[T], cancel: Cancel, work: Callable[[Cancel], T]) -> None:
        def lead() -> None:
            try:
                self._flights.run(key, flight, lambda: work(cancel))
            finally:
                with self._lock:
                    self._running.discard(cancel)

        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._size, thread_name_prefix="or-cache-ask")
            self._running.add(cancel)
            self._executor.submit(lead)

    async def _wait(self, key: str, flight: Flight[T]) -> None:
        """Wait until a flight is done; leave it when this task is cancelled."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.set_result, None)

        self._flights.watch(flight, wake)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self._flights.leave(key, flight)
            if flight.thread is not None and flight.cancel is not None and flight.cancel.is_set:
                await asyncio.wait((done,), timeout=_CANCELLED_WAIT_S)
            raise


def on_this_loop(show: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Return `show`, to be called from another thread and done on this task's event loop."""
    if show is None:
        return None
    loop = asyncio.get_running_loop()

    def shown(text: str) -> None:
        loop.call_soon_threadsafe(show, text)

    return shown
