"""How a reply gets to a client while its ask is under way: on a thread of its own, or for an event loop.

A stream is passed on as it comes, and ends when its answer is kept. Who goes away meanwhile loses
nothing that is paid for: the answer is read to its end without them, and kept for the next who asks. Where it
would not be kept, the ask is cancelled, unless others wait for it or only its usage is still to come.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.clients.wire import (
    DONE,
    Head,
    Wanted,
    as_json,
    body_of,
    broken_chunk,
    chunks_of,
    event,
    head_of,
    head_of_live,
)
from or_cache_magic.core.callbacks import Callbacks, Cancel
from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.records import Outcome
from or_cache_magic.errors import OrCacheError

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

_TICK_S: Final = 0.2
"""How often a wait wakes to let an interrupt through, which nothing else does on Windows."""

_END_S: Final = 5.0
"""So long is waited for the end of an ask that was cancelled."""

_left: Final[set[asyncio.Task[Outcome]]] = set()
"""Asks that go on without who asked: an event loop alone would forget them."""


class Told:
    """What of one ask was told to its client, and what is to be told next. Not thread-safe.

    Args:
        wanted: What the client asked for.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._last: Mapping[str, Any] | None = None
        self._open: set[Any] = set()
        #: Whether the answer is worth reading to its end when nobody listens: it is kept, or all but there.
        self.goes_on = why_no_lookup(wanted.ask.request, wanted.ask.policy) is None

    def head(self, news: Mapping[str, Any] | Outcome) -> Head:
        """Return the head that the first news calls for."""
        if isinstance(news, Outcome):
            return head_of(news, stream=self._wanted.stream)
        return head_of_live(self._wanted.ask)

    def chunk(self, chunk: Mapping[str, Any]) -> bytes:
        """Return a chunk as it is passed on."""
        self._last = chunk
        for choice in map(as_mapping, as_list(chunk.get("choices"))):
            change = self._open.discard if choice.get("finish_reason") else self._open.add
            change(str(choice.get("index")))
            self.goes_on |= not self._open  # the finish reasons are there: what is to come is the usage
        return event(chunk)

    def rest(self, outcome: Outcome) -> Iterator[bytes]:
        """Yield what is left to tell when the answer is there: all of it, or the end of a stream."""
        if not self._wanted.stream:
            yield as_json(body_of(outcome.answer, self._wanted.ask.request))
            return
        if self._last is None:
            yield from map(event, chunks_of(outcome.answer, self._wanted.ask.request))
        yield DONE

    def broken(self, error: OrCacheError) -> Iterator[bytes]:
        """Yield the end of a stream whose answer broke off, unless its last chunk said so."""
        if self._last is not None and not self._last.get("error"):
            yield event(broken_chunk(error, self._last))


class Delivery:
    """The reply to one request, made on a thread that it begins; for one other thread to read.

    Args:
        cache: Asked through.
        wanted: What is asked for.
    """

    def __init__(self, cache: CompletionCache, wanted: Wanted) -> None:
        self._cache, self._wanted = cache, wanted
        self._told = Told(wanted)
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancel = Cancel()
        self._thread: threading.Thread | None = None

    def begin(self, timeout_s: float | None) -> tuple[Head, Iterator[bytes]]:
        """Return the head of the reply, and its body, which comes as it is read.

        Args:
            timeout_s: So long is waited for each next piece; None is without end.

        Raises:
            OrCacheError: See `CompletionCache.run`.
            TimeoutError: Nothing came for so long. The ask is cancelled, and accounted for.
            KeyboardInterrupt: As it came; the same holds.
        """
        first: Any = self._cache.stored(self._wanted.ask)
        if first is None:
            self._thread = self._cache.on_thread(self._work, "or-cache-client")
            first = self._next(timeout_s)
        return self._told.head(first), self._pieces(first, timeout_s)

    def leave(self) -> None:
        """Read no more of it; see the module."""
        if not self._told.goes_on:
            self.cancel()

    def cancel(self) -> None:
        """Have the ask end now, unless others wait for it; return when it is accounted for."""
        if self._thread is None or self._cache.engine.flights.waiting(self._wanted.ask.key.digest):
            return
        self._cancel.set()
        self._thread.join(_END_S)

    def _pieces(self, news: Any, timeout_s: float | None) -> Iterator[bytes]:
        try:
            while not isinstance(news, Outcome):
                yield self._told.chunk(news)
                news = self._next(timeout_s)
            yield from self._told.rest(news)
        except OrCacheError as exc:
            yield from self._told.broken(exc)
        finally:
            self.leave()

    def _work(self) -> None:
        on_chunk = self._news.put if self._wanted.stream else None
        callbacks = Callbacks(on_chunk=on_chunk, cancel=self._cancel, tries=self._wanted.tries)
        try:
            limit = self._wanted.max_cost_usd
            self._news.put(self._cache.run(self._wanted.ask, callbacks, max_cost_usd=limit))
        except BaseException as exc:  # noqa: BLE001 - raised where it is read
            self._news.put(exc)

    def _next(self, timeout_s: float | None) -> Any:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        news: Any = None
        try:
            while news is None:
                left_s = _TICK_S if until_s is None else min(_TICK_S, until_s - time.monotonic())
                with suppress(queue.Empty):
                    news = self._news.get(timeout=max(left_s, 0))
                if news is None and left_s <= 0:
                    news = TimeoutError()
                    self.cancel()
        except BaseException:
            self.cancel()
            raise
        if isinstance(news, BaseException):
            raise news
        return news


class AsyncDelivery:
    """`Delivery` for a task of an event loop, which is never blocked.

    Args:
        cache: Asked through.
        wanted: What is asked for.
    """

    def __init__(self, cache: CompletionCache, wanted: Wanted) -> None:
        self._wanted = wanted
        self._told = Told(wanted)
        self._news: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_chunk(chunk: Mapping[str, Any]) -> None:
            loop.call_soon_threadsafe(self._news.put_nowait, chunk)

        callbacks = Callbacks(on_chunk=on_chunk if wanted.stream else None, tries=wanted.tries)
        #: The ask, which others may wait for too.
        self.task = loop.create_task(cache.arun(wanted.ask, callbacks, max_cost_usd=wanted.max_cost_usd))
        self.task.add_done_callback(lambda task: loop.call_soon(self._news.put_nowait, task))

    async def begin(self, timeout_s: float | None = None) -> tuple[Head, AsyncGenerator[bytes, None]]:
        """Return the head of the reply, and its body; see `Delivery.begin`."""
        first = await self._next(timeout_s)
        return self._told.head(first), self._pieces(first, timeout_s)

    async def leave(self) -> None:
        """Read no more of it; see the module."""
        if not self._told.goes_on:
            await self.cancel()
        elif not self.task.done():
            _left.add(self.task)
            self.task.add_done_callback(_left.discard)

    async def cancel(self) -> None:
        """Have the ask end now, unless others wait for it; return when it is accounted for."""
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait((self.task,), timeout=_END_S)

    async def _pieces(self, news: Any, timeout_s: float | None) -> AsyncGenerator[bytes, None]:
        try:
            while not isinstance(news, Outcome):
                yield self._told.chunk(news)
                news = await self._next(timeout_s)
            for piece in self._told.rest(news):
                yield piece
        except OrCacheError as exc:
            for piece in self._told.broken(exc):
                yield piece
        finally:
            await self.leave()

    async def _next(self, timeout_s: float | None) -> Any:
        try:
            news = await asyncio.wait_for(self._news.get(), timeout_s)
        except asyncio.TimeoutError:
            await self.cancel()
            raise TimeoutError from None
        except BaseException:
            await self.cancel()
            raise
        return news.result() if isinstance(news, asyncio.Task) else news
