"""How fast the requests of one model may follow each other; `openrouter.gate` has them wait for it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from or_cache_magic.core.callbacks import Pacing

PATIENCE_S: Final = 600.0
"""So long a list goes on asking while nothing is answered for want of room: credits are held, a provider is
overloaded. A rate limit is waited for without end."""

FIRST_PAUSE_S: Final = 0.5
_SHORT_PAUSE_S: Final = 0.05
_TRAVEL_S: Final = 0.25
"""A pause is as long as a refusal travels, if that was no longer than this."""
_LONGEST_PAUSE_S: Final = 30.0
_HEEDED: Final = 3
"""So often in a row nothing but what the server asks is waited, though it refuses again at once."""

_BREAK_S: Final = 1.0
"""Nobody had anything to ask for so long: that says nothing of how fast requests are taken."""

_SLOWER: Final = 1.5
"""Answers that take so many times as long as the fastest round did are slow for there being too many."""
_FORGETS: Final = 1.1

_ROUNDS: Final = 2
_MOST_ROUNDS: Final = 64
"""After so many rounds of answers without a refusal more at a time are tried; in vain, after twice as many,
at most."""

_SUSPICIOUS: Final = 3
"""So often more than were ever carried must be refused until it is put down to their number."""

_REMEMBERED: Final = 10_000
_SLACK: Final = 1.02
"""Requests travel for different times: spread over a minute that is told they are that much further apart."""

_FEW: Final = 4
"""So many answers, sent evenly, tell that requests are taken as fast."""
_FASTER: Final = 1.3
_NEAR: Final = 1.03
_SLIGHTLY: Final = 1.02
"""Below any time between two that was refused it is divided by the first; above one, until it is as near as
the second; when one is refused it is longer by the third at least, and by `_MOST_SLOWER` at most."""
_MOST_SLOWER: Final = 50.0
_A_LITTLE: Final = 1.1

_STEP: Final = 0.03
_MOST_CALM: Final = 96
_CALM_S: Final = 30.0
"""Near it, so much less is tried after so many answers at most, or seconds; in vain, after twice as many."""

_SOONEST: Final = 0.8
"""Of the time between two: so soon after a late one comes the next."""
_SHORTLY: Final = 0.5
_LONGER: Final = 2.5
"""Of the time between two: so long is the pause after a refusal, and so many times longer after another."""


@dataclass(slots=True)
class Sent:
    """A request under way.

    Attributes:
        number: Counts those of one pace.
        at_s: When it was sent.
        others: How many others were under way.
        evenly: Whether the time since the one before it held it back, not how many were under way.
        is_listed: Whether it is one of a list, sent as fast as can be: others say nothing of a rate.
    """

    number: int
    at_s: float
    others: int = 0
    evenly: bool = False
    is_listed: bool = True


class Refusal(NamedTuple):
    """Why a request was refused for want of room.

    Attributes:
        why: In a word or two, for who waits.
        wait_s: Seconds that the server asks to wait; None where it says nothing.
        limit: How many requests it says that it takes in the time that ends then; None likewise.
        is_crowded: Whether there were too many at a time, and not too many in a while.
    """

    why: str = ""
    wait_s: float | None = None
    limit: int | None = None
    is_crowded: bool = False


class Turn(NamedTuple):
    """How long to wait before something is sent.

    Attributes:
        wait_s: Seconds; 0 is now, infinite until another request has ended.
        why: What is waited for, in a word or two; empty where nobody needs to know.
    """

    wait_s: float
    why: str = ""


class Known(NamedTuple):
    """The rate at which a server takes the requests of all who share its limit, as seconds between two.

    Attributes:
        gap_s: As they are sent now; 0 is as fast as can be.
        refused_s: The longest that was refused of late; 0 is none.
        taken_s: The shortest that was taken.
    """

    gap_s: float = 0.0
    refused_s: float = 0.0
    taken_s: float = math.inf

    def scaled(self, factor: float) -> Known:
        """Return the times of one who sends so many times less often."""
        return Known(*(time_s * factor for time_s in self))


class Share(NamedTuple):
    """The share that one has of a limit.

    Attributes:
        number: Which it is, from 0, who alone tries to be faster.
        of: How many there are.
        began_s: A moment that all of them know.
    """

    number: int
    of: int
    began_s: float = 0.0


class Pace:
    """How fast the requests of one model may follow each other. Pure: it is told what happens, and when.

    Two things are found out by what is refused: how many the server carries at a time, and how fast it takes
    them. Nothing is sent before the moment that a refusal names.
    """

    def __init__(self) -> None:
        self._room = _Room(0)
        self._haste = _Haste(0.0)
        self._sent = 0
        self._cut_at = 0
        self._full_at = 0
        self._free_s = math.inf
        self._under_way = 0
        self._last_s = -math.inf
        self._next_s = -math.inf
        #: What is waited for, in a word or two.
        self.why = ""
        self._is_held = False
        self._pauses = 0
        self._pause_s = 0.0
        self._refused_s: float | None = None
        self._shares = 1
        self.leads = True
        #: The moment before which the server said that it refuses everything.
        self.told_s = -math.inf

    @property
    def limit(self) -> int:
        """How many of a list may be under way; 0 before the first."""
        return int(self._room.limit)

    def turn(self, now_s: float, pacing: Pacing) -> Turn:
        """Return how long a request of a list is to wait, if none is sent before it."""
        if not self.limit or (not self._under_way and now_s - self._last_s > PATIENCE_S):
            self._room = _Room(min(pacing.start, pacing.most))
            self._haste = _Haste(now_s)
            self._pauses, self._pause_s, self._refused_s = 0, 0.0, None
        self._room.widen(min(pacing.start, pacing.most))
        if now_s < self._next_s:
            self._is_held = True
            return Turn(self._next_s - now_s, self.why)
        if self._under_way >= min(self.limit, pacing.most):
            self._is_held = False
            if self._under_way >= self.limit:
                self._full_at = self._sent
            return Turn(math.inf)
        return Turn(max(0.0, self._last_s + self._room.apart_s(self._under_way) - now_s))

    def begin(self, now_s: float, *, is_listed: bool = True) -> Sent:
        """Note that a request is sent."""
        self._sent += 1
        sent = Sent(self._sent, now_s, self._under_way, is_listed and self._is_held, is_listed)
        if is_listed:
            self._is_held = False
        if not self._under_way and now_s - max(self._free_s, self._next_s) > _BREAK_S:
            self._haste.rest(now_s - max(self._free_s, self._next_s))
        self._under_way += 1
        self._last_s = now_s
        # The one after a late one comes sooner, or every delay would make all of them slower.
        gap_s = max(self._haste.gap_s, self._pause_s)
        self._next_s = max(self._next_s + gap_s, now_s + gap_s * _SOONEST)
        return sent

    def end(self, now_s: float) -> None:
        """Note that a request has ended otherwise than by an answer or for want of room."""
        self._under_way -= 1
        self._free_s = now_s

    def answered(self, sent: Sent, now_s: float) -> None:
        """Note that a request was answered."""
        is_full = self._under_way >= self.limit or sent.number <= self._full_at
        self.end(now_s)
        self._refused_s, self._pauses, self._pause_s = None, 0, 0.0
        self._room.answered(sent, now_s, is_full=is_full)
        self._haste.answered(sent, self._sent, hurries=self.leads)

    def refused(self, sent: Sent, now_s: float, refusal: Refusal) -> None:
        """Note that a request was refused for want of room."""
        self.end(now_s)
        self._refused_s = now_s if self._refused_s is None else self._refused_s
        is_news = sent.number > self._cut_at  # one volley's refusals are one piece of news
        if is_news:
            self._cut_at = self._sent
        if sent.is_listed:
            self._learn(sent, now_s, refusal, is_news=is_news)
        else:
            self._haste.discount()
        if refusal.wait_s is not None:
            self.told_s = max(self.told_s, now_s + refusal.wait_s)
            self._pause(self.told_s, refusal.why)
        if is_news or not self._under_way:
            self._back_off(sent, now_s, refusal)

    def _learn(self, sent: Sent, now_s: float, refusal: Refusal, *, is_news: bool) -> None:
        """Note what a refusal tells of how many are carried, and how fast."""
        if refusal.wait_s is not None and refusal.limit:
            self._haste.told(now_s, refusal.wait_s, refusal.limit, self._under_way)
        if self._room.refused(sent, self._under_way, is_news=is_news, is_crowded=refusal.is_crowded):
            self._haste.acquit()
        else:
            self._haste.most_slower = _MOST_SLOWER if self.leads else _A_LITTLE
            self._haste.refused(sent, self._sent, is_news=is_news)

    @property
    def known(self) -> Known:
        """What is known of the rate of all who share the limit."""
        return self._haste.known.scaled(1 / self._shares)

    def hear(self, turn: Share, known: Known | None = None, told_s: float = -math.inf, why: str = "") -> None:
        """Note what others say who share the limit.

        Args:
            turn: Which of them this one is.
            known: What they have found out since; None is nothing.
            told_s: The moment before which the server said that it refuses everything.
            why: In a word or two, for who waits.
        """
        if turn.of != self._shares:  # among others another rate is refused
            gap_s = (known or self.known).gap_s * turn.of
            self._haste.known = Known(gap_s)
        elif known is not None:
            self._haste.known = known.scaled(turn.of)
        self._haste.most_calm = _MOST_CALM if turn.of == 1 else 2 * _FEW
        self._shares, self.leads = turn.of, not turn.number
        self.told_s = max(self.told_s, told_s)
        self._pause(told_s, why)
        if turn.of > 1 and self._haste.gap_s:
            # Each has moments of its own, as far apart as may be.
            since_s = turn.began_s + turn.number * self.known.gap_s
            rounds = math.ceil((self._next_s - since_s) / self._haste.gap_s - 0.5)
            self._next_s = since_s + rounds * self._haste.gap_s

    def is_vain(self, now_s: float) -> bool:
        """Return whether all was refused for so long that no more is hoped for, rate limits apart."""
        return self._refused_s is not None and now_s - self._refused_s > PATIENCE_S

    def _back_off(self, sent: Sent, now_s: float, refusal: Refusal) -> None:
        """Pause, and longer each time until something is answered."""
        if refusal.is_crowded and self._under_way:
            return  # one that ends is a better sign than a clock
        first_s = self._haste.gap_s * _SHORTLY
        is_hasty = refusal.wait_s is None and not refusal.is_crowded
        first_s = (
            FIRST_PAUSE_S
            if not is_hasty
            else max(first_s or _SHORT_PAUSE_S, min(now_s - sent.at_s, _TRAVEL_S))
        )
        times = self._pauses - (_HEEDED if refusal.wait_s is not None else 0)
        self._pauses = min(self._pauses + 1, 12)
        if times >= 0:
            longest_s = _LONGEST_PAUSE_S if self._shares == 1 else 2 * self._haste.gap_s or _LONGEST_PAUSE_S
            pause_s = min(first_s * _LONGER**times, max(first_s, longest_s))
            self._pause_s = pause_s if times else 0.0
            self._pause(now_s + pause_s, refusal.why)

    def _pause(self, until_s: float, why: str) -> None:
        if until_s > self._next_s:
            self._next_s, self.why = until_s, why


class _Room:
    """How many requests a server carries at a time: more while that makes none slower.

    Args:
        start: So many at first.
    """

    def __init__(self, start: int) -> None:
        self.limit = float(start)
        self._ceiling = math.inf
        self._calm = 0
        self._patience = _ROUNDS
        self._tried_from = 0.0
        self._carried = -1
        self._suspected = math.inf
        self._suspicions = 0
        self._before = 0.0
        self._round: list[float] = []
        self._round_size = self._best_limit = max(1, start)
        self._best_s = math.inf
        self._mean_s = 0.0
        self._is_slow = False

    def widen(self, start: int) -> None:
        """Carry as many as another list begins with, unless something spoke against it."""
        if start > self.limit and self._ceiling == math.inf and not self._suspicions:
            self.limit = float(start)

    def apart_s(self, others: int) -> float:
        """Return the time since the last request, that one more than before is tried and not their haste."""
        return self._mean_s / self.limit if 0 < int(self._tried_from) <= others else 0.0

    def answered(self, sent: Sent, now_s: float, *, is_full: bool) -> None:
        """Note an answer; grow after one during which there were once as many as there may be."""
        self._carried = max(self._carried, sent.others)
        if sent.others >= self._suspected:
            self.limit = max(self.limit, self._before)
            self._forget_suspicions()
        self._time(now_s - sent.at_s)
        if is_full and self.limit and not self._is_slow:
            self._grow()

    def refused(self, sent: Sent, under_way: int, *, is_news: bool, is_crowded: bool) -> bool:
        """Note a refusal, and how many others are under way; return whether they were too many."""
        if not (is_crowded or self._is_guilty(sent, is_news=is_news)):
            return False
        self._forget_suspicions()
        self._cut(max(1, under_way), is_news=is_news)
        return True

    def _is_guilty(self, sent: Sent, *, is_news: bool) -> bool:
        """Return whether a refusal that doesn't say so is one for their number, and not for their haste."""
        if not is_news or sent.others <= self._carried:
            return False
        if self._tried_from and sent.others >= int(self._tried_from):
            return True
        self._suspected = min(self._suspected, sent.others)
        self._suspicions += 1
        if self._suspicions == 1:
            self._before, self.limit = self.limit, max(1.0, self.limit // 2)
        return self._suspicions >= _SUSPICIOUS

    def _forget_suspicions(self) -> None:
        self._suspicions, self._suspected, self._before = 0, math.inf, 0.0

    def _cut(self, carried: int, *, is_news: bool) -> None:
        """Have half as many under way, and no more than are carried."""
        self._calm = 0
        self._carried = min(self._carried, carried - 1)
        if is_news:
            if self._tried_from:
                self._patience = min(self._patience * 2, _MOST_ROUNDS)
                self.limit, self._tried_from = self._tried_from, 0.0
            else:
                self.limit = max(1.0, self.limit // 2)
        self.limit = min(self.limit, float(carried))
        self._ceiling = min(max(self.limit, float(carried)), self._ceiling)

    def _grow(self) -> None:
        if self.limit < self._ceiling:
            # At first half as many again a round; after a refusal half of what is missing.
            step = 0.5
            if self._ceiling < math.inf:
                step = max(1.0, (self._ceiling - self.limit) / 2) / self.limit
            self.limit = min(self.limit + step, self._ceiling)
            return
        self._calm += 1
        if self._calm >= self._patience * max(_FEW, int(self.limit)):
            if self._tried_from:
                self._patience = max(self._patience // 2, 1)
            self._calm, self._tried_from = 0, self.limit
            self._ceiling += max(1, self._ceiling // 4)
            self.limit = self._ceiling

    def _time(self, latency_s: float) -> None:
        """Note how long an answer took; after a round of them go back where they got slow for being more."""
        self._round.append(latency_s)
        if len(self._round) < self._round_size:
            return
        mean_s = sum(self._round) / len(self._round)
        self._mean_s = mean_s
        self._is_slow = mean_s > _SLOWER * self._best_s
        if self._is_slow:
            self._ceiling = min(self._ceiling, max(self._best_limit, self.limit * 2 // 3))
            self.limit = min(self.limit, max(self._best_limit, self.limit // 2))
            self._best_s *= _FORGETS  # the prompts may have become longer
        elif mean_s <= self._best_s:
            self._best_s, self._best_limit = mean_s, self._round_size
        self._round.clear()
        self._round_size = max(1, int(self.limit))


class _Haste:
    """How fast a server takes requests: the time between two, 0 until one was refused.

    Between two refusals it took just as many as it does in that time. Then the time between two is halved, so
    to speak, between what was taken and what was refused, and now and then a little less is tried.

    Args:
        now_s: When the first may be sent.
    """

    def __init__(self, now_s: float) -> None:
        self.gap_s = 0.0
        self._least_gap_s = 0.0
        self._is_told = False
        self._taken_s = math.inf
        self._refused_s = 0.0
        self._since = Sent(0, now_s)
        self._refusals = 0
        self._in_a_row = 0
        self._calm = 0
        self._changed_at = 0
        self._patience = 4 * _FEW
        self.most_calm = _MOST_CALM
        self.most_slower = _MOST_SLOWER
        self._times: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def known(self) -> Known:
        """What is known of the rate."""
        return Known(self.gap_s, self._refused_s, self._taken_s)

    @known.setter
    def known(self, known: Known) -> None:
        self.gap_s, self._refused_s, self._taken_s = known
        self._calm = self._in_a_row = 0

    def answered(self, sent: Sent, last: int, *, hurries: bool = True) -> None:
        """Note an answer, and the number of the last sent; hurry a little after several that went evenly."""
        self._times.append(sent.at_s)
        if not (hurries and self.gap_s and sent.evenly) or sent.number <= self._changed_at:
            return
        self._calm += 1
        is_near = self.gap_s <= self._refused_s * _NEAR
        patience = max(_FEW, min(self._patience, self.most_calm, _CALM_S / self.gap_s)) if is_near else _FEW
        if self._calm < patience:
            return
        self._calm, self._changed_at = 0, last
        if self._is_told:
            self.gap_s = max(self.gap_s / _SLIGHTLY, self._least_gap_s)
            return
        self._taken_s = min(self._taken_s, self.gap_s)
        if is_near:
            self._in_a_row += 1
            if self._in_a_row > 1:
                self._patience = max(self._patience // 2, _FEW)
            self.gap_s /= 1 + min(_STEP * 2 ** (self._in_a_row - 1), 1.0)
            self._refused_s = min(self._refused_s, self.gap_s / _SLIGHTLY)
        elif self._refused_s:
            self.gap_s = max(math.sqrt(self.gap_s * self._refused_s), self._refused_s * _SLIGHTLY)
        else:
            self.gap_s /= _FASTER

    def refused(self, sent: Sent, last: int, *, is_news: bool) -> None:
        """Note a refusal; send as fast as requests were taken since the one before it."""
        self._refusals += not is_news
        if not is_news or self._is_told:
            return
        taken = sent.number - 1 - self._since.number - self._refusals
        rate_gap_s = (sent.at_s - self._since.at_s) / taken if taken > 0 else 0.0
        self._since, self._refusals = sent, 0
        if taken <= 0:
            return  # a pause tells more
        if self.gap_s:
            rate_gap_s = self._within(rate_gap_s, taken)
        self._refused_s, self.gap_s = self.gap_s, rate_gap_s
        self._calm = self._in_a_row = 0
        self._changed_at = last

    def _within(self, gap_s: float, taken: int) -> float:
        """Return a time between two that is longer than the refused one, by what is known of the rate."""
        most_s = self.gap_s * self.most_slower
        if taken < _FEW and self._taken_s < math.inf:  # once may be chance, where it went well before
            most_s = min(most_s, self.gap_s * _FASTER)
        if self._taken_s <= self.gap_s * _SLIGHTLY:
            self._taken_s = math.inf
        else:
            self._patience = min(self._patience * 2, self.most_calm)
        return max(self.gap_s * _SLIGHTLY, min(gap_s, most_s, self._taken_s))

    def rest(self, idle_s: float) -> None:
        """Note that nothing was sent for so long for want of anything to send."""
        self._since = replace(self._since, at_s=self._since.at_s + idle_s)

    def discount(self) -> None:
        """Note that one was refused which says nothing of the rate."""
        self._refusals += 1

    def acquit(self) -> None:
        """Note that a refusal was for the number of requests under way."""
        if not self._is_told:
            self.gap_s, self._refused_s, self._taken_s = self.gap_s / 2, 0.0, math.inf

    def told(self, now_s: float, wait_s: float, limit: int, under_way: int) -> None:
        """Note that a server takes so many in the time that ends in `wait_s`."""
        if (self.gap_s and not self._is_told) or not self._times or len(self._times) + under_way < limit:
            return  # others use it up too, or it is the next one's time that ends then
        # How long that time is nobody says: as many as it takes were sent within it.
        since_s = self._times[-min(limit, len(self._times))]
        self.gap_s, self._is_told = (now_s + wait_s - since_s) / limit * _SLACK, True
        self._least_gap_s = min(self._least_gap_s or self.gap_s, self.gap_s)
