"""The caller's side of an ask: what is shown while it waits, how it is checked and cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from or_cache_magic.core.records import Cost, NamedTuple, Request
from or_cache_magic.errors import OptionError


class Cancelled(BaseException):
    """The work was cancelled. Like an interrupt it is no error: nothing that handles errors stops it."""


class Cancel:
    """Cancels work, and wakes it where it is blocked. Thread-safe; once set, it stays set."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether the work was cancelled."""
        return self._set.is_set()

    def set(self) -> None:
        """Cancel the work, and wake it where it is blocked; never blocks."""
        with self._lock:
            self._set.set()
            for wake in self._wakers:
                wake()

    def check(self) -> None:
        """Raise `Cancelled` if the work was cancelled."""
        if self._set.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Sleep; raise `Cancelled` as soon as the work is cancelled."""
        if self._set.wait(seconds):
            raise Cancelled

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have `wake` wake the work while the block lasts.

        Args:
            wake: Called once, from another thread; neither waits nor raises. It is never called after the
                block, when what it would wake may be at other work.

        Raises:
            Cancelled: The work was cancelled before.
        """
        with self._lock:
            self.check()
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)


OnText = Callable[[str], None]
"""Takes each piece of text as it comes from upstream, on the thread that asks."""

OnWait = Callable[[str], None]
"""Takes one line that says what is being waited for."""


OnChunk = Callable[[Mapping[str, Any]], None]
"""Takes each chunk of a stream as it comes from upstream, on the thread that asks."""


class Pacing(NamedTuple):
    """How many of a list are asked at a time.

    Attributes:
        start: So many at first.
        most: Never more.
    """

    start: int
    most: int


class Callbacks(NamedTuple):
    """The caller's side of an ask.

    Attributes:
        on_text: Shows text as it comes; not called for a served answer, which is there at once.
        on_wait: Shows, in one line, what is being waited for: another process's identical ask, a rate limit.
        before_send: Given the request when nothing can be served at once. An `OrCacheError` that it raises
            is the ask's, and nothing is sent: the place of a budget.
        cancel: Cancels the ask; None leaves that to an interrupt.
        on_send: Called when the request is sent.
        on_cost: Told what an ask cost that was interrupted; not called when that is not known.
        pacing: Of an ask that is one of a list, and waits for its turn, and for a rate limit without end.
            None is an ask by itself, sent at once and three times at most.
        on_chunk: Passes a stream on as it comes: given its chunks, once one has brought a part of the answer;
            none of an attempt that is made again. Not called for what isn't streamed.
        tries: At most so many requests of an ask by itself; never more than three.
    """

    on_text: OnText | None = None
    on_wait: OnWait | None = None
    before_send: Callable[[Request], None] | None = None
    cancel: Cancel | None = None
    on_send: Callable[[], None] | None = None
    on_cost: Callable[[Cost], None] | None = None
    pacing: Pacing | None = None
    on_chunk: OnChunk | None = None
    tries: int = 3


def callbacks_of(on_text: Any = None, on_wait: Any = None) -> Callbacks:
    """Return the callbacks that a user gave.

    Raises:
        OptionError: One can't be called.
    """
    for name, given in (("on_text", on_text), ("on_wait", on_wait)):
        if given is not None and not callable(given):
            kind = type(given).__name__
            raise OptionError(f"{name} is a {kind} (nothing was sent)", "give a function that takes a text")
    return Callbacks(on_text, on_wait)


class Show:
    """Passes text on until the display fails, which must not lose a paid answer."""

    def __init__(self, on_text: Callable[[Any], None] | None) -> None:
        self._on_text = on_text
        #: How the display failed, for the receipt; empty when it didn't.
        self.trouble: tuple[str, ...] = ()

    def __call__(self, text: Any) -> None:
        """Pass one text, or chunk, on."""
        if self._on_text is None:
            return
        try:
            self._on_text(text)
        except Exception as exc:  # noqa: BLE001 - a foreign callable at a seam; the receipt tells
            self._on_text = None
            self.trouble = (f"not shown as it came: {type(exc).__name__}: {exc}",)
