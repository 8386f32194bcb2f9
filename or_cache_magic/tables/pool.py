"""Asks at the same time, those of a list or of one cell: ended together, and no more sent after a refusal."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Final, Generic, TypeVar

from or_cache_magic.core.callbacks import Callbacks, Cancel, OnWait, Pacing
from or_cache_magic.core.options import plain
from or_cache_magic.core.records import Request
from or_cache_magic.errors import OrCacheError, UpstreamError
from or_cache_magic.openrouter.failures import not_sent_after

_T = TypeVar("_T")

_TICK_S: Final = 0.2
"""How often to let an interrupt through; waiting alone can't be interrupted on Windows."""


def _nothing() -> None:
    """Do nothing."""


class Pool(Generic[_T]):
    """Asks that run at the same time.

    Args:
        workers: How many are asked at a time.
        before_send: Called with each request that is about to be sent, from several threads; an
            `OrCacheError` that it raises is that ask's, and nothing is sent.
        pacing: How many of them are sent at a time, where they wait for limits together.
        on_wait: Takes a line that says what is waited for, from several threads.
        cancel: Ends them all, from another thread; `run` then raises `Cancelled`.
    """

    def __init__(
        self,
        workers: int,
        before_send: Callable[[Request], None] | None = None,
        pacing: Pacing | None = None,
        on_wait: OnWait | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self._workers = workers
        self._before_send = before_send
        self._cancel = cancel or Cancel()
        #: What refuses every ask (None), or all of one model.
        self._refusals: dict[tuple[str, str] | None, UpstreamError] = {}
        self._alone: deque[Callable[[], _T]] = deque()
        self._again: deque[Callable[[], _T]] = deque()
        self._is_stopped = False
        #: Whether the last that was yielded was made alone, by `make_alone`.
        self.was_alone = False
        #: What those gave that were under way when `run` was left.
        self.rest: list[_T] = []
        #: What each of them is asked with.
        self.callbacks = Callbacks(None, on_wait, self._allow, self._cancel, pacing=pacing)

    def run(
        self, calls: Iterable[Callable[[], _T]], *, tick: Callable[[], object] = _nothing
    ) -> Generator[_T, None, None]:
        """Make the calls, no more at a time than there are workers, and yield what each gave as it comes.

        An interrupt ends those under way at once; they are done when it is raised, and what they gave is in
        `rest`. So it is where no more is taken: close the iterator then.

        Args:
            calls: Each asks with `callbacks`; it raises `Cancelled` where that ended it without a result. The
                next is taken when there is room for it.
            tick: Called, on this thread, when one is done, and five times a second.
        """
        workers: _Workers[_T] = _Workers()
        calls = iter(calls)
        try:
            while True:
                for call in self._next_calls(calls, workers.busy):
                    workers.begin(call)
                if not workers.busy:
                    return
                yield workers.next(tick)
        finally:
            self._cancel.set()
            self.rest = workers.end()

    def _next_calls(self, calls: Iterator[Callable[[], _T]], under_way: int) -> Iterator[Callable[[], _T]]:
        """Yield what can be begun now."""
        if self._is_stopped:
            return
        if self._alone:
            if not under_way:
                self.was_alone = True
                yield self._alone.popleft()
                self._again.extend(self._alone)
                self._alone.clear()
            return
        self.was_alone = False
        while under_way < self._workers:
            call = self._again.popleft() if self._again else next(calls, None)
            if call is None:
                return
            yield call
            under_way += 1

    def stop(self) -> None:
        """Begin no more; those under way go on to their end."""
        self._is_stopped = True

    def make_alone(self, call: Callable[[], _T]) -> None:
        """Have a call made again when nothing else is under way: one that lacked room in a budget."""
        self._alone.append(call)

    def failed(self, failure: OrCacheError, request: Request | None) -> None:
        """Send nothing more where what made one ask fail would refuse the others, or those of its model."""
        if isinstance(failure, UpstreamError) and failure.refuses_all:
            self._refusals.setdefault(None, failure)
        elif isinstance(failure, UpstreamError) and failure.refuses_model and request is not None:
            self._refusals.setdefault(_model(request), failure)

    def _allow(self, request: Request) -> None:
        """Raise what forbids to send."""
        refusal = self._refusals.get(None) or self._refusals.get(_model(request))
        if refusal is not None:
            raise not_sent_after(refusal)
        if self._before_send is not None:
            # A copy: what is sent stays what the key was made of.
            self._before_send(request._replace(body=plain(request.body)))


def _model(request: Request) -> tuple[str, str]:
    return request.base_url, str(request.body["model"])


class _Workers(Generic[_T]):
    """Threads that make calls, as many as there are calls at a time; for one thread to give them calls.

    An executor's future for each call costs twice as much CPU.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], _T] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: How many calls are begun, and not yet given back by `next`.
        self.busy = 0

    def begin(self, call: Callable[[], _T]) -> None:
        """Have a call made, at once."""
        self._calls.put(call)
        self.busy += 1
        if self.busy > len(self._threads):
            thread = threading.Thread(target=self._work, name=f"or-cache-pool_{len(self._threads)}")
            self._threads.append(thread)  # before it begins: an interrupt of that leaves it running
            thread.start()

    def next(self, tick: Callable[[], object]) -> _T:
        """Return what the next call that is done gave, or raise what it raised.

        Args:
            tick: Called when it is done, and five times a second until then.
        """
        while True:
            with suppress(queue.Empty):
                came, failure = self._done.get(timeout=_TICK_S)
                break
            tick()
        self.busy -= 1
        tick()
        if failure is not None:
            raise failure
        return came  # type: ignore[return-value] # without a failure there is a result

    def end(self) -> list[_T]:
        """Wait for the calls under way; return what those gave that `next` didn't, and raised nothing."""
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()  # no thread has begun it
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        rest = []
        with suppress(queue.Empty):
            while True:
                came, failure = self._done.get_nowait()
                if failure is None:
                    rest.append(came)
        return rest  # type: ignore[return-value] # likewise

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            try:
                self._done.put((call(), None))
            except BaseException as exc:  # noqa: BLE001 - raised by `next`
                self._done.put((None, exc))
