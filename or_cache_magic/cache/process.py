"""What belongs to one process: nothing of it crosses a fork, and what it counted is written before it ends.

A child of ``os.fork`` (and of ``multiprocessing``, ``concurrent.futures`` or joblib by fork) begins every
cache anew: connections, locks, flights, executors, counters and remembered entries of its parent are kept
alive, so that nothing of them is closed twice, and never used. While a process forks, no other thread of it
is inside SQLite, whose own locks a child would inherit held.

Hits are counted in memory. They are written at exit; in a child of ``multiprocessing``, which ends by
``os._exit``, by a finalizer, also when its pool terminates it; and in between by a thread, `EVERY_S` after
the first that is not written.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing import Protocol

    class Owner(Protocol):
        """Something that has connections, locks and counters, and belongs to one process."""

        def pause(self, until_s: float) -> None:
            """Let no thread be inside SQLite from now on, as far as that is so by a monotonic time."""

        def resume(self) -> None:
            """End a `pause`."""

        def renew(self) -> None:
            """Begin anew: all that it has is a parent process's."""

        def write_counts(self, wait_s: float) -> bool:
            """Write what it has counted, waiting so long for a lock; return whether nothing is left."""


EVERY_S: Final = 1.0
"""For about so long hits stay in memory, in a script that is not at its end and a cell that runs on."""

_PAUSE_S: Final = 1.0
"""The longest that a fork waits for threads that are in SQLite."""

_SHORT_WAIT_S: Final = 0.05
_BUSY_S: Final = 10.0
"""How long a file that could not be written is left alone."""

_LAST_WRITE_S: Final = 5.0
"""The longest that a process that ends waits for others to write."""


_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_paused: list[Owner] = []
_forking = threading.Lock()
_armed = threading.Event()
_waiting = threading.Event()
_watched = False


def own(owner: Owner) -> None:
    """Have an owner paused and renewed around forks, and its counts written."""
    _owners.add(owner)


def counted() -> None:
    """Note that something is counted that is not written yet: a microsecond, but for the first time."""
    if not _waiting.is_set():
        if not _armed.is_set():
            _arm()
        _waiting.set()


def _arm() -> None:
    _armed.set()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _write_all, exitpriority=10)
        _write_when_terminated()
    with suppress(RuntimeError):  # at the interpreter's end no thread begins any more
        threading.Thread(target=_write_now_and_then, name="or-cache-counts", daemon=True).start()


def _write_when_terminated() -> None:
    """Write before a pool terminates this process, as ``with Pool():`` does with its workers at its end.

    A handler of Python's would wait for the main thread, which may be in a semaphore for ever: what the one
    in C writes to a pipe wakes a thread instead.
    """
    global _watched  # noqa: PLW0603 - one a process
    import signal  # a hit needs none of its enumerations

    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    others = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    if others != -1:
        signal.set_wakeup_fd(others)
        return
    _watched = True
    threading.Thread(target=_exit_when_told, args=(readable,), name="or-cache-end", daemon=True).start()
    signal.signal(signal.SIGTERM, _nothing)


def _nothing(_number: int, _frame: object) -> None:
    """Let the thread see to it."""


def _exit_when_told(readable: int) -> None:
    import signal

    while os.read(readable, 1) != bytes((signal.SIGTERM,)):
        pass
    _write_all()
    os._exit(128 + signal.SIGTERM)


def _write_now_and_then() -> None:
    while _waiting.wait():
        time.sleep(EVERY_S)
        _waiting.clear()
        if not _write_all(_SHORT_WAIT_S):
            time.sleep(_BUSY_S)
            _waiting.set()


def _write_all(wait_s: float = _LAST_WRITE_S) -> bool:
    written = [owner.write_counts(wait_s) for owner in list(_owners)]
    return all(written)


def _before_fork() -> None:
    _forking.acquire()  # noqa: SIM115, RUF100 - until `_after_fork`
    until_s = time.monotonic() + _PAUSE_S
    for owner in list(_owners):
        _paused.append(owner)
        owner.pause(until_s)


def _after_fork() -> None:
    while _paused:
        _paused.pop().resume()
    _forking.release()


def _in_child() -> None:
    global _armed, _forking, _waiting, _watched  # noqa: PLW0603 - a thread of the parent may hold their locks
    _armed, _forking, _waiting = threading.Event(), threading.Lock(), threading.Event()
    _paused.clear()
    for owner in list(_owners):
        owner.renew()
    if _watched:
        import signal

        _watched = False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# Here, so that it comes after what others register later, who may ask.
atexit.register(_write_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
