"""When the panel does what nobody waits for: after cells, and never for long.

It is done on the kernel's event loop, between cells; where none runs (a script, a test), at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LEISURE: Final = 10


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
