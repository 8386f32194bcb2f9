"""How fast requests may follow each other: `Pace` decides, `Gate` has those who ask wait for it.

What a server refuses for a while (a rate limit, an overloaded provider, credits that calls under way hold) it
refuses to all who ask the same model with the same key, so they share one gate, and wait together.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.callbacks import Cancel, Pacing
from or_cache_magic.core.records import Request
from or_cache_magic.errors import UpstreamError
from or_cache_magic.openrouter.failures import not_sent_after

if TYPE_CHECKING:
    from typing import TypeGuard

ATTEMPTS: Final = 3
"""So often is sent what failed by itself, and what a single ask was refused."""

PATIENCE_S: Final = 600.0
"""So long a list goes on asking while nothing is answered for want of room: credits are held, a provider is
overloaded. A rate limit is waited for without end."""

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

_SLACK: Final = 1.02
"""Requests travel for different times: spread over a minute they are that much further apart."""
_REMEMBERED: Final = 10_000

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_HEEDED: Final = 3
"""So often in a row nothing but what the server asks is waited, though it refuses again at once."""

_SLOWER: Final = 1.5
"""Answers that take so many times as long as the fastest round did are slow for there being too many."""
_FORGETS: Final = 1.1

_FEW: Final = 4
_SOME: Final = 20
"""Of so many answers, at least and at most, it is told how fast requests were taken of late."""
_FASTER: Final = 1.1
_MAYBE: Final = 1.25
_MOST_CALM: Final = 640
_ROUNDS: Final = 2
_MOST_ROUNDS: Final = 64
"""After a while without a refusal a little more is tried; in vain, after twice as long: at most so many
answers for the time between two, and rounds of answers for how many there are at a time."""

_TICK_S: Final = 0.2
"""How often to look again: a wait may change, and waiting alone can't be interrupted on Windows."""

_NOT_SEEN_S: Final = 1.0
"""Of a wait so short nothing is told."""


@dataclass(slots=True)
class Sent:
    """A request under way.

    Attributes:
        number: Counts those of one pace.
        at_s: When it was sent.
        evenly: Whether only the time between two held it back, and not how many were under way.
    """

    number: int
    at_s: float
    evenly: bool = False


class Turn(NamedTuple):
    """How long to wait before something is sent.

    Attributes:
        wait_s: Seconds; 0 is now, infinite until another request has ended.
        why: What is waited for, in a word or two; empty where nobody needs to know.
    """

    wait_s: float
    why: str = ""


class Pace:
    """How fast the requests of one model may follow each other. Pure: it is told what happens, and when.

    As many are under way as the server is seen to carry: more while that makes none slower, half as many when
    one is refused for want of room, and none before the moment that a refusal names.
    """

    def __init__(self) -> None:
        self._limit = 0.0  # none yet
        self._ceiling = math.inf
        self._calm = 0
        self._patience = _ROUNDS
        self._tried_from = 0.0
        self._sent = 0
        self._cut_at = 0
        self._under_way = 0
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._gap_s = 0.0
        self._least_gap_s = 0.0  # that was told
        self._is_told = False
        self._even = 0
        self._even_patience = _FEW
        self._next_s = -math.inf
        self._why = ""
        self._pauses = 0
        self._round: list[float] = []
        self._round_size = 1
        self._best_s = math.inf
        self._best_limit = 1
        self._is_slow = False
        self._last_s = -math.inf
        self._refused_s: float | None = None
        #: The moment before which the server said that it refuses everything.
        self.told_s = -math.inf

    @property
    def limit(self) -> int:
        """How many of a list may be under way; 0 before the first."""
        return int(self._limit)

    def turn(self, now_s: float, pacing: Pacing) -> Turn:
        """Return how long a request of a list is to wait, if none is sent before it."""
        if not self._limit or (not self._under_way and now_s - self._last_s > PATIENCE_S):
            self._begin(pacing)
        if now_s < self._next_s:
            return Turn(self._next_s - now_s, self._why)
        if self._under_way >= min(int(self._limit), pacing.most):
            return Turn(math.inf)
        return Turn(0.0)

    def begin(self, now_s: float) -> Sent:
        """Note that a request is sent."""
        self._sent += 1
        self._under_way += 1
        self._last_s = now_s
        self._next_s = max(self._next_s, now_s + self._gap_s)
        return Sent(self._sent, now_s, self._gap_s > 0 and self._under_way < max(2, int(self._limit)))

    def end(self) -> None:
        """Note that a request has ended otherwise than by an answer or for want of room."""
        self._under_way -= 1

    def answered(self, sent: Sent, now_s: float) -> None:
        """Note that a request was answered."""
        full = self._under_way >= int(self._limit)
        self._under_way -= 1
        self._refused_s = None
        self._pauses = 0
        self._times.append(sent.at_s)
        self._time(now_s - sent.at_s)
        if full and self._limit and not self._is_slow:
            self._grow()
        self._hurry()

    def refused(
        self, sent: Sent, now_s: float, why: str, wait_s: float | None = None, limit: int | None = None
    ) -> None:
        """Note that a request was refused for want of room.

        Args:
            sent: Which.
            now_s: When.
            why: In a word or two, for who waits.
            wait_s: Seconds that the server asks to wait; None where it says nothing.
            limit: How many requests it says that it takes in the time that ends then; None likewise.
        """
        self._under_way -= 1
        self._refused_s = now_s if self._refused_s is None else self._refused_s
        learns = len(self._times) >= _FEW and not self._is_told and (wait_s is None or sent.evenly)
        if learns and sent.number > self._cut_at:
            self._slow_down(sent, now_s)
        if not sent.evenly:
            self._cut(sent)
        self._cut_at = self._sent
        if wait_s is not None:
            if limit and self._times:
                # How long that time is nobody says: as many as it takes were sent within it.
                since_s = self._times[-min(limit, len(self._times))]
                self._gap_s, self._is_told = (now_s + wait_s - since_s) / limit * _SLACK, True
                self._least_gap_s = min(self._least_gap_s or self._gap_s, self._gap_s)
            self.told_s = max(self.told_s, now_s + wait_s)
            self._pause(self.told_s, why)
        if not self._under_way or learns:  # else one that ends is a better sign than a clock
            told_in_vain = _HEEDED if wait_s is not None else 0
            self._back_off(now_s, why, self._gap_s if learns else _FIRST_PAUSE_S, self._pauses - told_in_vain)

    def _back_off(self, now_s: float, why: str, pause_s: float, times: int) -> None:
        """Pause, twice as long each time until something is answered."""
        self._pauses = min(self._pauses + 1, 10)
        if times >= 0:
            self._pause(now_s + min(pause_s * 2**times, max(pause_s, _LONGEST_PAUSE_S)), why)

    def is_vain(self, now_s: float) -> bool:
        """Return whether all was refused for so long that no more is hoped for, rate limits apart."""
        return self._refused_s is not None and now_s - self._refused_s > PATIENCE_S

    def _begin(self, pacing: Pacing) -> None:
        self._limit = float(min(pacing.start, pacing.most))
        self._ceiling, self._calm, self._patience = math.inf, 0, _ROUNDS
        self._round_size = self._best_limit = int(self._limit)
        self._gap_s, self._pauses, self._best_s, self._is_slow = 0.0, 0, math.inf, False
        self._times.clear()
        self._least_gap_s = 0.0
        self._is_told, self._even, self._even_patience = False, 0, _FEW
        self._round.clear()
        self._refused_s = None

    def _pause(self, until_s: float, why: str) -> None:
        if until_s > self._next_s:
            self._next_s, self._why = until_s, why

    def _cut(self, sent: Sent) -> None:
        """Have half as many under way, once for all that were sent by now, and no more than are taken."""
        carried = max(1, self._under_way)
        self._calm = 0
        if sent.number > self._cut_at:
            if self._tried_from:
                self._patience = min(self._patience * 2, _MOST_ROUNDS)
                self._limit, self._tried_from = self._tried_from, 0.0
            else:
                self._limit = max(1.0, self._limit // 2)
        self._limit = min(self._limit, float(carried))
        self._ceiling = min(max(self._limit, float(carried)), self._ceiling)

    def _slow_down(self, sent: Sent, now_s: float) -> None:
        """Send as fast as requests were taken of late."""
        some = min(len(self._times), _SOME)
        self._gap_s = (now_s - self._times[-some]) / some
        if not sent.evenly:  # perhaps there were too many at a time, however fast
            self._gap_s /= _MAYBE
        self._even = 0
        self._even_patience = min(self._even_patience * 2, _MOST_CALM)

    def _hurry(self) -> None:
        """Try a little faster after a while without a refusal."""
        if not self._gap_s:
            return
        self._even += 1
        if self._even >= self._even_patience:
            self._even = 0
            self._gap_s = max(self._gap_s / _FASTER, self._least_gap_s)
            self._even_patience = max(self._even_patience // 2, _FEW)

    def _grow(self) -> None:
        if self._limit < self._ceiling:
            # At first half as many again a round; after a refusal half of what is missing.
            step = 0.5
            if self._ceiling < math.inf:
                step = max(1.0, (self._ceiling - self._limit) / 2) / self._limit
            self._limit = min(self._limit + step, self._ceiling)
            return
        self._calm += 1
        if self._calm >= self._patience * max(_FEW, int(self._limit)):
            if self._tried_from:
                self._patience = max(self._patience // 2, 1)
            self._calm, self._tried_from = 0, self._limit
            self._ceiling += max(1, self._ceiling // 4)
            self._limit = self._ceiling

    def _time(self, latency_s: float) -> None:
        """Note how long an answer took; after a round of them go back where they got slow for being more."""
        self._round.append(latency_s)
        if len(self._round) < self._round_size:
            return
        mean_s = sum(self._round) / len(self._round)
        self._is_slow = mean_s > _SLOWER * self._best_s
        if self._is_slow:
            self._ceiling = min(self._ceiling, max(self._best_limit, self._limit * 2 // 3))
            self._limit = min(self._limit, max(self._best_limit, self._limit // 2))
            self._best_s *= _FORGETS  # the prompts may have become longer
        elif mean_s <= self._best_s:
            self._best_s, self._best_limit = mean_s, self._round_size
        self._round.clear()
        self._round_size = max(1, int(self._limit))


class _Waiter:
    """One who waits for a turn, and the refusal of another that made it vain."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.refusal: UpstreamError | None = None


class Gate:
    """Has those who ask the same model wait for its `Pace`, first come first served. Thread-safe.

    Args:
        clock: Returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace()
        self._queue: deque[_Waiter] = deque()

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
            return self._pace.begin(self._clock())

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
                wait_s, limit = failure.retry_after_s, failure.rate_limit
                self._pace.refused(sent, self._clock(), _why(failure), wait_s, limit)
            else:
                self._pace.end()
            if isinstance(failure, UpstreamError) and (failure.refuses_all or failure.refuses_model):
                for waiter in self._queue:
                    waiter.refusal = failure
                    waiter.woken.set()
            self._wake()

    @property
    def is_vain(self) -> bool:
        """Whether nothing was answered for `PATIENCE_S`."""
        with self._lock:
            return self._pace.is_vain(self._clock())

    def _wake(self) -> None:
        if self._queue:
            self._queue[0].woken.set()


class Gates:
    """The gates of one key, made as they are needed. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, str], Gate] = {}

    def of(self, request: Request) -> Gate:
        """Return the gate of a request's model; free variants have one together, as their limit is one."""
        model = str(request.body.get("model", ""))
        place = (request.base_url, ":free" if model.endswith(":free") else model)
        with self._lock:
            if place not in self._gates:
                self._gates[place] = Gate(self._clock)
            return self._gates[place]


class Tries:
    """The attempts of one request.

    Args:
        gate: Of its model.
        pacing: See `Callbacks.pacing`.
        cancel: Ends it.
        sleep: Waits before another attempt of a single ask.
        tell: Told in one line what is waited for.
    """

    def __init__(
        self,
        gate: Gate,
        pacing: Pacing | None,
        cancel: Cancel,
        sleep: Callable[[float], None],
        tell: Callable[[str], object],
    ) -> None:
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
        wait_s = told_s if told_s is not None else _FIRST_PAUSE_S * 2 ** (self._own - 1)
        self._wait = (
            wait_s,
            f"{_why(failure)}, trying again in {wait_s:.3g} s ({self._own + 1} of {ATTEMPTS})",
        )
        self._heeded_s = self._gate.told_s
        return self._own < ATTEMPTS and wait_s <= LONGEST_WAIT_S

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


def _why(failure: UpstreamError) -> str:
    return _WAITS_FOR.get(failure.status or 0, "no answer")
