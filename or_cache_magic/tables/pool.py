"""Asks at the same time, those of a list or of one cell: ended together, and no more sent after a refusal."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from or_cache_magic.core.callbacks import Callbacks, Cancel
from or_cache_magic.core.options import plain
from or_cache_magic.core.records import Request
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.errors import OrCacheError, UpstreamError

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
    """

    def __init__(self, workers: int, before_send: Callable[[Request], None] | None = None) -> None:
        self._workers = workers
        self._before_send = before_send
        self._cancel = Cancel()
        self._refusal: UpstreamError | None = None
        #: What each of them is asked with.
        self.callbacks = Callbacks(before_send=self._allow, cancel=self._cancel)

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

    def failed(self, failure: OrCacheError) -> None:
        """Send nothing more where what made one ask fail would refuse the others too."""
        if isinstance(failure, UpstreamError) and failure.refuses_all:
            self._refusal = self._refusal or failure

    def _allow(self, request: Request) -> None:
        """Raise what forbids to send."""
        if self._refusal is not None:
            raise UpstreamError(
                f"not sent, since one before was refused: {self._refusal.args[0]}",
                self._refusal.hint,
                status=self._refusal.status,
                refuses_all=True,
                cost_usd=ZERO_USD,
            )
        if self._before_send is not None:
            # A copy: what is sent stays what the key was made of.
            self._before_send(request._replace(body=plain(request.body)))


def _next(done: queue.SimpleQueue[Future[_T]], tick: Callable[[], object]) -> Future[_T]:
    while True:
        try:
            found = done.get(timeout=_TICK_S)
        except queue.Empty:
            found = None
        tick()
        if found is not None:
            return found
