"""Asks at the same time, those of a list or of one cell: ended together, and no more sent after a refusal."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
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
    """

    def __init__(
        self,
        workers: int,
        before_send: Callable[[Request], None] | None = None,
        pacing: Pacing | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self._workers = workers
        self._before_send = before_send
        self._cancel = Cancel()
        #: What refuses every ask (None), or all of one model.
        self._refusals: dict[tuple[str, str] | None, UpstreamError] = {}
        #: What each of them is asked with.
        self.callbacks = Callbacks(None, on_wait, self._allow, self._cancel, pacing=pacing)

    def run(
        self,
        calls: Iterable[Callable[[], _T]],
        results: list[_T],
        *,
        advance: Callable[[], object] = _nothing,
        tick: Callable[[], object] = _nothing,
    ) -> None:
        """Make the calls, and put into `results` what each gave, in their order.

        An interrupt ends those under way at once; they are done when it is raised.

        Args:
            calls: Each asks with `callbacks`; it raises `Cancelled` where that ended it without a result.
            results: What they gave, also when this is interrupted.
            advance: Called, on this thread, when one is done.
            tick: Called likewise, and five times a second.
        """
        done: queue.SimpleQueue[Future[_T]] = queue.SimpleQueue()
        futures: list[Future[_T]] = []
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="or-cache-pool")
        try:
            for call in calls:
                future = pool.submit(call)
                futures.append(future)
                future.add_done_callback(done.put)
            for _ in futures:
                _next(done, tick).result()
                advance()
        finally:
            self._cancel.set()
            pool.shutdown(cancel_futures=True)
            results += [f.result() for f in futures if not f.cancelled() and not f.exception()]

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
