"""The local calendar as SQL reckons with it: which day a moment is in, daylight saving time included.

SQLite's own ``date(at, 'unixepoch', 'localtime')`` asks the system for every row; here the zone's offsets
are asked once, and a row costs an addition.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple

from or_cache_magic.storage.columns import INTEGER, check_row

__all__ = ["Calendar", "Span", "day_name", "day_span", "local_calendar"]

_DAY_S: Final = 86_400
_HOUR_S: Final = 3_600
_WEEK_S: Final = 7 * _DAY_S
_LATER_S: Final = 52 * _WEEK_S
"""How far behind this week the offsets are asked for: somebody's clock may be ahead."""

_EPOCH: Final = date(1970, 1, 1).toordinal()
_BIAS_DAYS: Final = 1_000
"""Keeps what SQL divides above 0, where it would round up, in zones that were in 1969 as 1970 began."""


class Calendar(NamedTuple):
    """The offsets from UTC of one time zone.

    Attributes:
        since_s: When each offset began; the first one is taken for whatever was before.
        offsets_s: Seconds to add to UTC, in the same order.
    """

    since_s: tuple[int, ...]
    offsets_s: tuple[int, ...]

    @property
    def day_sql(self) -> str:
        """SQL for the day of a column ``at``: the same as `day` for every moment from 1970 on."""
        # From the latest back: most rows are young, and stop at the first.
        offsets = list(zip(self.since_s, self.offsets_s, strict=True))
        arms = " ".join(f"WHEN at >= {since_s} THEN {offset_s}" for since_s, offset_s in offsets[:0:-1])
        offset = f"CASE {arms} ELSE {self.offsets_s[0]} END" if arms else str(self.offsets_s[0])
        # Whole seconds first: a quotient of floats rounds the last microsecond of a day into the next one.
        return f"(CAST(at AS INTEGER) + ({offset}) + {_BIAS_DAYS * _DAY_S}) / {_DAY_S} - {_BIAS_DAYS}"

    @property
    def hour_sql(self) -> str:
        """SQL for the hour of a column ``at``: the same as `hour`."""
        return f"(CAST(at AS INTEGER) + {self._shift_s}) / {_HOUR_S}"

    def day(self, at_s: float) -> int:
        """The local day of a moment, counted from 1970-01-01."""
        place = max(0, bisect_right(self.since_s, at_s) - 1)
        return int((at_s + self.offsets_s[place]) // _DAY_S)

    def hour(self, at_s: float) -> int:
        """The hour of a moment, counted through; it begins when the local clock's does.

        In zones with half an hour it begins at half past (UTC). The hour that is lived twice when summer
        ends is two.
        """
        return int((at_s + self._shift_s) // _HOUR_S)

    def hour_span(self, hour: int) -> Span:
        """An `hour`. Raises as `day_name`."""
        _check_time(hour, _HOUR_S)
        starts_s = float(hour * _HOUR_S - self._shift_s)
        return Span(starts_s, time.strftime("%Y-%m-%d %H:%M", time.localtime(starts_s)))

    @property
    def _shift_s(self) -> int:
        return self.offsets_s[-1] % _HOUR_S


class Span(NamedTuple):
    """An hour or a day.

    Attributes:
        starts_s: When it began, UTC epoch seconds.
        name: ``2026-11-23`` or ``2026-11-23 14:00``, by the local clock.
    """

    starts_s: float
    name: str


def day_name(day: int) -> str:
    """A day as ``2026-11-23``.

    Raises:
        StoreCorruptError: No row of ours has such a time.
    """
    _check_time(day, _DAY_S)
    return date.fromordinal(day + _EPOCH).isoformat()


def day_span(day: int) -> Span:
    """A local day. Raises as `day_name`."""
    name = day_name(day)
    year, month, number = map(int, name.split("-"))
    return Span(time.mktime((year, month, number, 0, 0, 0, 0, 0, -1)), name)


def local_calendar() -> Calendar:
    """The offsets of this machine's time zone, from 1970 to a year ahead."""
    week = int(time.time()) // _WEEK_S
    return _calendar(week, (time.tzname, time.timezone, time.altzone))


@lru_cache(maxsize=4)
def _calendar(week: int, zone: object) -> Calendar:  # noqa: ARG001 - another zone is another calendar
    since_s, offsets_s = [0], [_offset_s(0)]
    for after_s in range(_WEEK_S, week * _WEEK_S + _LATER_S, _WEEK_S):
        now_s = _offset_s(after_s)
        if now_s != offsets_s[-1]:
            since_s.append(_changed_s(after_s - _WEEK_S, after_s))
            offsets_s.append(now_s)
    return Calendar(tuple(since_s), tuple(offsets_s))


def _changed_s(before_s: int, after_s: int) -> int:
    """The second from which the offset is the one of ``after_s``."""
    offset_s = _offset_s(after_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _offset_s(middle_s) == offset_s:
            after_s = middle_s
        else:
            before_s = middle_s
    return after_s


def _offset_s(at_s: int) -> int:
    return time.localtime(at_s).tm_gmtoff


def _check_time(count: int, seconds: int) -> None:
    check_row("a row of the ledger", (INTEGER,), (count,))
    check_row("a row of the ledger", (), (), float(count * seconds))
