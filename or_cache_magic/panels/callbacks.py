"""How what the panel does is run: callbacks under its lock, with their errors shown; the rest after cells.

JupyterLab runs callbacks on a thread beside that of the cells (subshells), and an exception there is seen by
nobody. So each holds the panel's lock, and whatever it raises is shown in the panel. What nobody waits for is
done on the kernel's event loop, between cells and never for long; where there is none (a script), at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from or_cache_magic.errors import OrCacheError
from or_cache_magic.panels.markup import escape

_LEISURE: Final = 10


class Guarded(Protocol):
    """What has guarded callbacks.

    Attributes:
        lock: Held while one runs; reentrant.
        quiet: Whether the panel itself is changing its controls, which then call back for nothing.
    """

    lock: Any
    quiet: bool

    def alert(self, exc: Exception | None) -> None:
        """Shows what a callback raised; None takes away what was shown before."""


_G = TypeVar("_G", bound=Guarded)
_P = ParamSpec("_P")


def guarded(callback: Callable[Concatenate[_G, _P], None]) -> Callable[Concatenate[_G, _P], None]:
    """A callback that holds the panel's lock and shows its error; does nothing while the panel is `quiet`."""

    @wraps(callback)
    def run(panel: _G, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        with panel.lock:
            if panel.quiet:
                return
            panel.alert(None)
            try:
                callback(panel, *args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - shown: here is the only place where the user can see it
                panel.alert(exc)

    return run


def alert_html(exc: Exception) -> str:
    """What happened, and what to do: two lines."""
    if isinstance(exc, OrCacheError):
        lines = [str(exc.args[0]), exc.hint]
    else:
        lines = [f"{type(exc).__name__}: {exc}", "Refresh reads the completion cache again."]
    said = "\n".join(escape(line, 600) for line in lines if line)
    return f'<div class="orc-alert" role="alert">{said}</div>'


def soon(work: Callable[[], None], delay_s: float = 0.0) -> None:
    """Does something when the running cell has ended."""
    try:
        asyncio.get_running_loop().call_later(delay_s, work)
    except RuntimeError:
        work()


class Pace:
    """Lets work that follows cells take one part in ten of the time; what is left out is caught up with.

    Used by one thread.

    Args:
        clock: Tells seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests_until_s = 0.0
        self._waits = False

    def keep(self, work: Callable[[], None]) -> None:
        """Does the work now, or once when the pause after the last is over."""
        if self._waits:
            return
        pause_s = self._rests_until_s - self._clock()
        if pause_s <= 0:
            self._do(work)
        else:
            self._waits = True
            soon(lambda: self._do(work), pause_s)

    def _do(self, work: Callable[[], None]) -> None:
        self._waits = False
        began_s = self._clock()
        work()
        ended_s = self._clock()
        self._rests_until_s = ended_s + _LEISURE * (ended_s - began_s)
