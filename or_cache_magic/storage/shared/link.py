"""`Link`: asks a server that may be down, slow, full or hostile, at the cost of at most a short timeout.

Every way to fail is seen here, at one place: whatever a library raises counts as a failure, so that the
breaker opens, and each change of state is told in one line.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from or_cache_magic.errors import StoreUnavailableError
from or_cache_magic.storage.shared.server import Refused, RefusedValue, Server, TooLarge, UntrustedValue

if TYPE_CHECKING:
    from or_cache_magic.core.settings import SharedUrl


class Breaker:
    """A circuit breaker. Thread-safe.

    Closed, it lets everything through. A failure opens it for a while; then it lets one try through at a
    time, each further failure doubling the wait, until one succeeds.

    Args:
        wait_s: How long it stays open after the first failure.
        longest_wait_s: What the wait grows to.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        wait_s: float = 1.0,
        longest_wait_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_wait_s = wait_s
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._wait_s = 0.0  # 0 is closed
        self._next_s = 0.0
        self._trying = False

    def allows(self) -> bool:
        """Return whether to try now; when open, True makes the caller the one who tries."""
        with self._lock:
            if not self._wait_s:
                return True
            now_s = self._clock()
            if now_s < self._next_s:
                return False
            # One who is never heard of again must not keep it open for ever.
            self._next_s = now_s + self._wait_s
            self._trying = True
            return True

    def failed(self) -> bool:
        """Note a failure; return whether it opened just now."""
        with self._lock:
            opened = not self._wait_s
            if opened:
                self._wait_s = self._first_wait_s
            elif self._trying:
                self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
            else:
                return False  # begun before it opened
            self._trying = False
            self._next_s = self._clock() + self._wait_s
            return opened

    def succeeded(self) -> bool:
        """Note a success; return whether it closed just now."""
        with self._lock:
            closed = bool(self._wait_s)
            self._wait_s, self._trying = 0.0, False
            return closed


_T = TypeVar("_T")

_REASON_CHARS: Final = 160


def within(limit_s: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns or raises, if that takes at most `limit_s` seconds.

    A socket's timeout bounds one wait, not a reply that comes byte by byte, nor the look-up of a host's
    name. The work therefore runs in a thread of its own, which is left behind when it is too slow.

    Raises:
        TimeoutError: It took longer.
    """
    from concurrent.futures import Future
    from concurrent.futures import TimeoutError as TooSlow  # the builtin from Python 3.11 on

    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(exc)

    threading.Thread(target=run, name="or_cache_magic shared", daemon=True).start()
    try:
        return future.result(limit_s)
    except TooSlow:
        raise TimeoutError from None


class _Connected(NamedTuple):
    """A server as one process has it.

    Attributes:
        pid: Whose connections these are; a fork begins with its own, and with locks that nobody holds.
        server: The server.
        reach: Open while it does not answer.
        room: Open while it answers, but takes no more.
    """

    pid: int
    server: Server
    reach: Breaker
    room: Breaker


class Link:
    """The way to a shared server. Thread-safe, and safe to use after a fork.

    Args:
        url: Where the server is.
        connect: Makes a client for it, without I/O.
        timeout_s: The most that one question may cost.
        tell: Takes a line for the user.
        wait_s: How long the server is left alone after a failure, at first.
    """

    def __init__(
        self,
        url: SharedUrl,
        connect: Callable[[], Server],
        *,
        timeout_s: float,
        tell: Callable[[str], None],
        wait_s: float = 1.0,
    ) -> None:
        self.url = url
        self.tell = tell
        self.timeout_s = timeout_s
        self._connect = connect
        self._wait_s = wait_s
        self._now = self._connected()
        self._told_of_value = False

    def ask(
        self,
        work: Callable[[Server], _T],
        *,
        writes: bool = False,
        insist: bool = False,
        limit_s: float | None = None,
    ) -> _T:
        """Return what `work` does with the server.

        Args:
            work: Is given the server. Runs in another thread, and goes on there when it is too slow.
            writes: Whether it needs room there, which a full server has none of.
            insist: Whether to try although the server is left alone now.
            limit_s: The longest it may take; None is ``timeout_s``.

        Raises:
            StoreUnavailableError: No answer in time, or one that can't be understood, or the server is left
                alone just now, or takes no more, or not this value.
            UntrustedValue: The server holds something under this name that this package did not write.
            TooLarge: The server does not take so large a value.
        """
        if self._now.pid != os.getpid():
            self._now = self._connected()
        now = self._now
        if not insist and not ((not writes or now.room.allows()) and now.reach.allows()):
            raise self._unavailable("is left alone for a moment")
        try:
            result = within(limit_s or self.timeout_s, lambda: work(now.server))
        except (UntrustedValue, TooLarge):
            self._reached(now)
            raise
        except (Refused, RefusedValue) as exc:
            self._reached(now)
            raise self._refused(now, exc) from exc
        except Exception as exc:  # a hostile server makes a library raise anything
            if isinstance(exc, TimeoutError):
                self._hang_up(now)
            reason = self._reason(exc)
            if now.reach.failed():
                self.tell(f"{self} can't be used ({reason}). Asks go on without it until it is back.")
            raise self._unavailable(f"can't be used ({reason})") from exc
        self._reached(now)
        if writes and now.room.succeeded():
            self.tell(f"{self} takes answers again.")
        return result

    def _refused(self, now: _Connected, exc: Refused | RefusedValue) -> StoreUnavailableError:
        """Return the error for a server that answers, and tell of it once."""
        reason = self._reason(exc)
        if isinstance(exc, Refused):
            if now.room.failed():
                self.tell(f"{self} takes no more ({reason}). Answers are kept on this machine only.")
            return self._unavailable(f"takes no more ({reason})")
        if not self._told_of_value:
            self._told_of_value = True
            self.tell(f"{self} takes not every value ({reason}). Such are kept on this machine only.")
        return self._unavailable(f"does not take this ({reason})")

    def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        if self._now.pid == os.getpid():
            self._hang_up(self._now)

    def __str__(self) -> str:
        return f"The shared tier {self.url}"

    def _connected(self) -> _Connected:
        return _Connected(os.getpid(), self._connect(), Breaker(self._wait_s), Breaker(self._wait_s))

    def _reached(self, now: _Connected) -> None:
        if now.reach.succeeded():
            self.tell(f"{self} is used again.")

    @staticmethod
    def _hang_up(now: _Connected) -> None:
        # The thread that was left behind must not read on for ever.
        with suppress(Exception):
            now.server.close()

    def _unavailable(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self} {what}.", "Try again when it is back, or go on without it: OR_CACHE_SHARED_URL="
        )

    def _reason(self, exc: Exception) -> str:
        """Return why it failed, in one short line without the URL's password."""
        if (
            isinstance(exc, TimeoutError)
            or "timed out" in str(exc).lower()
            or "Timeout" in type(exc).__name__
        ):
            return f"no answer within {self.timeout_s:g} s"
        said = exc.args[0] if exc.args and isinstance(exc.args[0], bytes) else str(exc)
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return self.url.hide(line)[:_REASON_CHARS] or type(exc).__name__
