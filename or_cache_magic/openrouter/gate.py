"""Those who ask the same model wait for their turn: `Gate` has them wait for a `Pace`, with `Tries` of each.

What a server refuses for a while (a rate limit, an overloaded provider, credits that calls under way hold) it
refuses to all who ask the same model with the same key, so they share one gate, and wait together.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.callbacks import Cancel, Pacing
from or_cache_magic.core.records import Request
from or_cache_magic.errors import UpstreamError
from or_cache_magic.openrouter.failures import not_sent_after
from or_cache_magic.openrouter.pace import FIRST_PAUSE_S, Pace, Refusal, Sent, Turn
from or_cache_magic.openrouter.sharing import Board, Talk

if TYPE_CHECKING:
    from typing import TypeGuard

ATTEMPTS: Final = 3
"""So often is sent what failed by itself, and what a single ask was refused."""

BUSY_TRIES: Final = 10
"""So often one request of a list is sent to a provider that is overloaded, while others are answered."""

LONGEST_WAIT_S: Final = 300.0
"""A server that asks for more patience than this is waited for by no single ask. Credits that are held by
calls under way come back after two minutes, and a limit per minute after one."""

_WAITS_FOR: Final[Mapping[int, str]] = {
    402: "credits are held by calls under way",
    429: "rate limited",
    500: "the provider failed",
    502: "the provider is down",
    503: "the provider is overloaded",
    529: "the provider is overloaded",
}

_LIMITED: Final = 429
_HELD: Final = 402
_BUSY: Final = frozenset({503, 529})

_TICK_S: Final = 0.2
"""How often to look again: a wait may change, and waiting alone can't be interrupted on Windows."""

_NOT_SEEN_S: Final = 1.0
"""Of a wait so short nothing is told."""


class _Waiter:
    """One who waits for a turn, and the refusal of another that made it vain."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.refusal: UpstreamError | None = None


class Gate:
    """Has those who ask the same model wait for its `Pace`, first come first served. Thread-safe.

    Args:
        clock: Returns seconds that never go back.
        talk: Tells other processes what is found out, and hears it of them; None where there are none.
    """

    def __init__(self, clock: Callable[[], float], talk: Talk | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace()
        self._queue: deque[_Waiter] = deque()
        self._talk = talk

    def wait(self, pacing: Pacing, cancel: Cancel, tell: Callable[[str], object]) -> Sent:
        """Wait until a request of a list may be sent, and note that it is.

        Raises:
            Cancelled: It was cancelled.
            UpstreamError: Meanwhile another was refused for all.
        """
        me = _Waiter()
        with cancel.waking(me.woken.set):
            with self._lock:
                self._queue.append(me)
            try:
                while True:
                    cancel.check()
                    if self._talk is not None and self._queue[0] is me:
                        self._talk.exchange(self._pace, self._lock, self._clock())
                    with self._lock:
                        if me.refusal is not None:
                            raise not_sent_after(me.refusal)
                        now_s = self._clock()
                        turn = self._pace.turn(now_s, pacing) if self._queue[0] is me else Turn(math.inf)
                        if turn.wait_s <= 0:
                            return self._pace.begin(now_s)
                        me.woken.clear()
                    if turn.why and turn.wait_s > _NOT_SEEN_S:
                        tell(f"{turn.why}, going on in {math.ceil(turn.wait_s)} s")
                    cancel.check()  # set before it was cleared
                    me.woken.wait(min(turn.wait_s, _TICK_S))
            finally:
                with self._lock:
                    self._queue.remove(me)
                    self._wake()

    def begin(self) -> Sent:
        """Note that a request is sent that is no list's."""
        with self._lock:
            return self._pace.begin(self._clock(), is_listed=False)

    @property
    def told_s(self) -> float:
        """The moment before which the server said that it refuses everything, by the clock."""
        with self._lock:
            return self._pace.told_s

    def left_s(self, moment_s: float) -> float:
        """Return the seconds until a moment, 0 where it has passed."""
        return max(0.0, moment_s - self._clock())

    def answered(self, sent: Sent) -> None:
        """Note that a request was answered."""
        with self._lock:
            self._pace.answered(sent, self._clock())
            self._wake()

    def failed(self, sent: Sent, failure: BaseException) -> None:
        """Note that a request has ended without an answer."""
        with self._lock:
            if _lacks_room(failure) and _is_short_enough(failure):
                self._pace.refused(sent, self._clock(), _refusal(failure))
            else:
                self._pace.end(self._clock())
            if isinstance(failure, UpstreamError) and (failure.refuses_all or failure.refuses_model):
                for waiter in self._queue:
                    waiter.refusal = failure
                    waiter.woken.set()
            self._wake()

    @property
    def is_vain(self) -> bool:
        """Whether nothing was answered for `pace.PATIENCE_S`."""
        with self._lock:
            return self._pace.is_vain(self._clock())

    def _wake(self) -> None:
        if self._queue:
            self._queue[0].woken.set()


class Gates:
    """The gates of one key, made as they are needed. Thread-safe.

    Args:
        clock: Returns seconds that never go back.
        board: Where processes that share limits leave word for each other; None is nowhere.
    """

    def __init__(self, clock: Callable[[], float], board: Board | None = None) -> None:
        self._clock = clock
        self._board = board
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, str], Gate] = {}

    def of(self, request: Request) -> Gate:
        """Return the gate of a request's model; free variants have one together, as their limit is one."""
        model = str(request.body.get("model", ""))
        place = (request.base_url, ":free" if model.endswith(":free") else model)
        with self._lock:
            if place not in self._gates:
                talk = None if self._board is None else Talk(self._board, " ".join(place))
                self._gates[place] = Gate(self._clock, talk)
            return self._gates[place]


class Tries:
    """The attempts of one request.

    Args:
        gate: Of its model.
        pacing: See `Callbacks.pacing`.
        cancel: Ends it.
        sleep: Waits before another attempt of a single ask.
        tell: Told in one line what is waited for.
        most: So many, or `ATTEMPTS`, of those that count.
    """

    def __init__(
        self,
        gate: Gate,
        pacing: Pacing | None,
        cancel: Cancel,
        sleep: Callable[[float], None],
        tell: Callable[[str], object],
        most: int = ATTEMPTS,
    ) -> None:
        self._most = min(most, ATTEMPTS)
        self._gate = gate
        self._pacing = pacing
        self._cancel = cancel
        self._sleep = sleep
        self._tell = tell
        self._sent = Sent(0, 0.0)
        self._own = 0  # those that count
        self._busy = 0
        self._wait: tuple[float, str] = (0.0, "")
        self._heeded_s = -math.inf
        #: How many there were.
        self.number = 0

    def begin(self) -> None:
        """Wait until it may be sent, and note that it is.

        Raises:
            Cancelled: It was cancelled.
        """
        if self._pacing is not None:
            self._sent = self._gate.wait(self._pacing, self._cancel, self._tell)
        else:
            while (told_s := self._gate.told_s) > self._heeded_s:
                self._heeded_s = told_s
                wait_s = self._gate.left_s(told_s)
                if wait_s <= LONGEST_WAIT_S:  # else the server may have thought better of it
                    self._pause(wait_s, f"{_WAITS_FOR[_LIMITED]}, going on in {wait_s:.3g} s")
            self._sent = self._gate.begin()
        self.number += 1

    def answered(self) -> None:
        """Note that it was answered."""
        self._gate.answered(self._sent)

    def goes_on_after(self, failure: BaseException, *, answer_began: bool) -> bool:
        """Note how an attempt failed; return whether there is to be another."""
        self._gate.failed(self._sent, failure)
        if answer_began or not isinstance(failure, UpstreamError) or not failure.retryable:
            return False
        if self._pacing is not None and _lacks_room(failure):
            self._wait = (0.0, "")  # it waits with the others
            return self._is_worth_waiting(failure)
        self._own += 1
        told_s = failure.retry_after_s
        wait_s = told_s if told_s is not None else FIRST_PAUSE_S * 2 ** (self._own - 1)
        self._wait = (
            wait_s,
            f"{_why(failure)}, trying again in {wait_s:.3g} s ({self._own + 1} of {self._most})",
        )
        self._heeded_s = self._gate.told_s
        return self._own < self._most and wait_s <= LONGEST_WAIT_S

    def pause(self) -> None:
        """Wait as what failed wants it."""
        self._pause(*self._wait)

    def _pause(self, wait_s: float, line: str) -> None:
        if wait_s > _NOT_SEEN_S:
            self._tell(line)
        if line:
            self._sleep(wait_s)

    def _is_worth_waiting(self, failure: UpstreamError) -> bool:
        if failure.status == _LIMITED:
            return True
        self._busy += failure.status in _BUSY
        return _is_short_enough(failure) and self._busy < BUSY_TRIES and not self._gate.is_vain


def _lacks_room(failure: BaseException) -> TypeGuard[UpstreamError]:
    """Return whether a request was refused only because there were too many, or was too much under way."""
    lacking = (_LIMITED, _HELD, *_BUSY)
    return isinstance(failure, UpstreamError) and failure.retryable and failure.status in lacking


def _is_short_enough(failure: UpstreamError) -> bool:
    """Return whether a wait that a refusal asks for is one for all; that of a rate limit always is."""
    return failure.status == _LIMITED or (failure.retry_after_s or 0.0) <= LONGEST_WAIT_S


def _refusal(failure: UpstreamError) -> Refusal:
    crowded = failure.status != _LIMITED
    return Refusal(_why(failure), failure.retry_after_s, failure.rate_limit, is_crowded=crowded)


def _why(failure: UpstreamError) -> str:
    return _WAITS_FOR.get(failure.status or 0, "no answer")
