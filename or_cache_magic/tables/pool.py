"""Asks at the same time, those of a list or of one cell: ended together, and no more sent after a refusal."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
        done: queue.SimpleQueue[Future[_T]] = queue.SimpleQueue()
        executor = ThreadPoolExecutor(self._workers, thread_name_prefix="or-cache-pool")
        under_way: set[Future[_T]] = set()
        calls = iter(calls)
        try:
            while True:
                for call in self._next_calls(calls, len(under_way)):
                    future = executor.submit(call)
                    under_way.add(future)
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                future = _next(done, tick)
                under_way.discard(future)
                yield future.result()
        finally:
            self._cancel.set()
            executor.shutdown(cancel_futures=True)
            self.rest = [f.result() for f in under_way if not f.cancelled() and not f.exception()]

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


def _next(done: queue.SimpleQueue[Future[_T]], tick: Callable[[], object]) -> Future[_T]:
    while True:
        try:
            found = done.get(timeout=_TICK_S)
        except queue.Empty:
            found = None
        tick()
        if found is not None:
            return found
