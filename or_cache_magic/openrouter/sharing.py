"""Processes that share a limit tell each other of it: what one finds out holds for all."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from or_cache_magic.errors import StoreError
from or_cache_magic.openrouter.pace import PATIENCE_S, Known, Pace, Share

EVERY_S: Final = 1.0
"""So often others are heard, and told where there is anything to tell."""

_MET: Final = 1.25
_URGENT_S: Final = 0.8
"""One who meets a limit, or finds it to be so much lower, tells at once, though not five times a second."""

_GONE_S: Final = 3.0
"""One who said nothing for so long sends no more."""

_LONGEST_WAIT_S: Final = 300.0
_LONGEST_GAP_S: Final = 3600.0
_HOUR_S: Final = 3600.0
_MOST: Final = 1000
_SAME: Final = 0.01


class Board(Protocol):
    """Where processes leave word for each other: a short text for each limit. Thread-safe."""

    def exchange(self, place: str, merge: Callable[[str], str | None]) -> None:
        """Replace the text of a place by what `merge` makes of it; nothing is written where that is None.

        Args:
            place: Names the limit.
            merge: Given the text, empty where there is none. May be called more than once.

        Raises:
            StoreError: It can't be read or written now.
        """


class _Word(NamedTuple):
    """What is said of one limit.

    Attributes:
        known: What was found out of its rate.
        at_s: When, UTC epoch seconds.
        by: Who found it out.
        told_s: The moment before which the server refuses everything, likewise.
        why: What is waited for then.
        seen: Who sends, each with a number that changes as long as they do.
    """

    known: Known = Known()
    at_s: float = 0.0
    by: str = ""
    told_s: float = 0.0
    why: str = ""
    seen: dict[str, int] = {}  # noqa: RUF012 - never changed


class Talk:
    """What one process hears of a limit, and tells. Thread-safe.

    Args:
        board: Where the word is.
        place: Names the limit.
        clock: Returns UTC epoch seconds.
    """

    def __init__(self, board: Board, place: str, clock: Callable[[], float] = time.time) -> None:
        self._board = board
        self._place = place
        self._clock = clock
        self._me = os.urandom(6).hex()
        self._turn = threading.Lock()
        self._next_s = -math.inf
        self._number = 0
        self._left = Known()
        self._heard = ("", 0.0)
        self._last_seen: dict[str, tuple[int, float]] = {}

    def exchange(self, pace: Pace, lock: threading.Lock, now_s: float) -> None:
        """Hear the others and tell them, where it is time to; what can't be read or written is let be.

        Args:
            pace: Of this process.
            lock: Held while it is looked at or changed, never while the board is.
            now_s: By the pace's clock.
        """
        is_urgent = now_s >= self._next_s - _URGENT_S and pace.known.gap_s > _MET * self._left.gap_s
        if (now_s < self._next_s and not is_urgent) or not self._turn.acquire(blocking=False):
            return
        try:
            self._next_s = now_s + EVERY_S
            with lock:
                known, told_s, why = pace.known, pace.told_s, pace.why
            is_new = _differs(known, self._left) and (pace.leads or known.gap_s > self._left.gap_s)
            epoch_s = self._clock()
            self._number += 1
            word = _Word()

            def merged(text: str) -> str | None:
                nonlocal word
                word = _read(text, epoch_s)
                seen = {
                    name: number for name, number in word.seen.items() if self._is_there(name, number, now_s)
                }
                word = word._replace(seen=seen | {self._me: self._number})
                if is_new:
                    word = word._replace(known=known, at_s=epoch_s, by=self._me)
                if now_s < told_s <= now_s + _LONGEST_WAIT_S:
                    word = word._replace(told_s=max(word.told_s, epoch_s + told_s - now_s), why=why)
                return _text(word) if word.known.gap_s or word.told_s > epoch_s else None

            with suppress(StoreError):
                self._board.exchange(self._place, merged)
                news = None if word.by == self._me or (word.by, word.at_s) == self._heard else word.known
                self._heard = (word.by, word.at_s)
                share = Share(sorted(word.seen).index(self._me), len(word.seen), now_s - epoch_s % _HOUR_S)
                with lock:
                    pace.hear(share, news, now_s + word.told_s - epoch_s, word.why)
                    self._left = pace.known
        finally:
            self._turn.release()

    def _is_there(self, name: str, number: int, now_s: float) -> bool:
        """Return whether another sends: its number changes. Clocks of other machines tell nothing."""
        last, since_s = self._last_seen.get(name, (-1, now_s))
        if last != number:
            self._last_seen[name] = (number, now_s)
            return True
        return now_s - since_s < _GONE_S


def _differs(known: Known, left: Known) -> bool:
    return abs(known.gap_s - left.gap_s) > _SAME * left.gap_s


def _text(word: _Word) -> str:
    taken_s = word.known.taken_s if math.isfinite(word.known.taken_s) else None
    known = [word.known.gap_s, word.known.refused_s, taken_s]
    return json.dumps([known, word.at_s, word.by, word.told_s, word.why, word.seen])


def _read(text: str, now_s: float) -> _Word:
    """Return what a text says that others may have written: too old or implausible is nothing."""
    try:
        (gap_s, refused_s, taken_s), at_s, by, told_s, why, seen = json.loads(text)
        word = _Word(
            Known(_time(gap_s), _time(refused_s), math.inf if taken_s is None else _time(taken_s)),
            float(at_s),
            str(by)[:20],
            min(float(told_s), now_s + _LONGEST_WAIT_S),
            str(why)[:100] if str(why).isprintable() else "",
            {str(name)[:20]: int(number) for name, number in list(seen.items())[:_MOST]},
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return _Word()
    return word if abs(now_s - word.at_s) < PATIENCE_S else word._replace(known=Known(), by="", at_s=0.0)


def _time(given: Any) -> float:
    time_s = float(given)
    if not 0 <= time_s <= _LONGEST_GAP_S:
        raise ValueError(given)
    return time_s
