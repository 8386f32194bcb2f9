"""Savings over time: an area of dollars, a dashed line of hit rates. SVG by hand, and a sparkline.

Its colours are the theme's, so that it is right in the dark; the two series differ without colour too.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.units import format_usd
from or_cache_magic.panels.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.panels.figures import Moment

_WIDTH: Final = 520
_HEIGHT: Final = 142
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 482, 10, 120
_MOST_POINTS: Final = 120
"""More would be closer than two pixels; they are put together, and their sums stay exact."""

_BARS: Final = "▁▂▃▄▅▆▇█"
_SPARKS: Final = 32
_HOUR_S: Final = 3600.0
_DAY_S: Final = 24 * _HOUR_S


class _Point(NamedTuple):
    """A stretch of time: when it began, what was saved up to its end, and what came of its asks."""

    start_s: float
    saved_usd: Decimal
    hits: int
    misses: int

    @property
    def rate(self) -> float | None:
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


def chart_svg(timeline: Sequence[Moment]) -> str:
    """Returns the chart; empty while there is nothing to draw.

    Args:
        timeline: What was asked, by hour or by day, the earliest first.
    """
    if not timeline:
        return ""
    points = _with_idle_time(_points(timeline, _MOST_POINTS), timeline)
    top_usd = max(points[-1].saved_usd, Decimal("0.0001"))
    if len(points) == 1:
        points *= 2  # as wide as the chart, and level: when in it what was saved is not known
    places = _places(points)
    ys = [_y(float(p.saved_usd / top_usd)) for p in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, ys, strict=True))
    area = f"{places[0]:.1f},{_BOTTOM} {line} {places[-1]:.1f},{_BOTTOM}"
    rates = "".join(f'<polyline class="orc-rate" points="{run}"/>' for run in _rate_runs(points, places))
    title = f"Saved in all and hit rate, {_stamp(points[0], points)} to {_stamp(points[-1], points)}"
    told = _described(points)
    # No ids: the panel may be shown twice on a page.
    return (
        f'<svg class="orc-chart" role="img" aria-label="{escape(f"{title}. {told}")}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}"><title>{escape(title)}</title><desc>{escape(told)}</desc>'
        f"{_axes(top_usd)}{_dates(points, places)}"
        f'<polygon class="orc-area" points="{area}"/>'
        f'<polyline class="orc-saved" points="{line}"/>{rates}</svg>'
    )


def sparkline(timeline: Sequence[Moment]) -> str:
    """Returns what was saved in all, over time, as a row of bars; empty with fewer than two points."""
    points = _points(timeline, _SPARKS)
    if len(points) < 2 or not points[-1].saved_usd:  # noqa: PLR2004 - one is no line
        return ""
    top = points[-1].saved_usd
    return "".join(_BARS[int(p.saved_usd / top * (len(_BARS) - 1))] for p in points)


def _points(timeline: Sequence[Moment], most: int) -> list[_Point]:
    """At most so many points, neighbours put together."""
    saved = list(accumulate(moment.totals.saved_usd for moment in timeline))
    step = -(-len(timeline) // most) or 1
    points = []
    for at in range(0, len(timeline), step):
        some = timeline[at : at + step]
        points.append(
            _Point(
                some[0].start_s,
                saved[at + len(some) - 1],
                sum(m.totals.hits for m in some),
                sum(m.totals.misses for m in some),
            )
        )
    return points


def _with_idle_time(points: Sequence[_Point], timeline: Sequence[Moment]) -> list[_Point]:
    """The points, and where days or hours without asks end a point that says so: nothing is saved in them."""
    starts = [moment.start_s for moment in timeline]
    hourly = any(b - a < _DAY_S / 2 for a, b in pairwise(starts)) or ":" in timeline[0].totals.group
    step_s = _HOUR_S if hourly else _DAY_S
    filled = list(points[:1])
    for before, point in pairwise(points):
        ended_s = starts[bisect_left(starts, point.start_s) - 1] + step_s
        if point.start_s - ended_s > step_s / 2:
            filled.append(_Point(point.start_s - step_s, before.saved_usd, 0, 0))
        filled.append(point)
    return filled


def _places(points: Sequence[_Point]) -> list[float]:
    """Where each point stands: as far apart as they are in time; the two of a single stretch at its ends."""
    first_s, last_s = points[0].start_s, points[-1].start_s
    if first_s == last_s:
        return [float(_LEFT), float(_RIGHT)]
    return [_LEFT + (p.start_s - first_s) / (last_s - first_s) * (_RIGHT - _LEFT) for p in points]


def _y(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP)


def _rate_runs(points: Sequence[_Point], places: Sequence[float]) -> list[str]:
    """The line of hit rates, broken where nothing was asked that could hit."""
    runs: list[list[str]] = [[]]
    for point, x in zip(points, places, strict=True):
        if point.rate is None:
            runs.append([])
        else:
            runs[-1].append(f"{x:.1f},{_y(point.rate):.1f}")
    # A run of one point has no length; a short stroke shows it.
    drawn = [run if len(run) > 1 else [run[0], _moved(run[0])] for run in runs if run]
    return [" ".join(run) for run in drawn]


def _moved(place: str) -> str:
    x, _, y = place.partition(",")
    return f"{float(x) - 4:.1f},{y}"


def _axes(top_usd: Decimal) -> str:
    """Three lines across, dollars to their left and percents to their right."""
    parts = []
    for share in (0, Decimal("0.5"), 1):
        y = _y(float(share))
        parts.append(
            f'<path class="orc-axis" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{format_usd(top_usd * share)}</text>'
            f'<text x="{_RIGHT + 6}" y="{y + 4:.1f}">{share:.0%}</text>'
        )
    return "".join(parts)


def _dates(points: Sequence[_Point], places: Sequence[float]) -> str:
    last = len(points) - 1
    shown = {0: "start"} if points[0].start_s == points[last].start_s else {0: "start", last: "end"}
    return "".join(
        f'<text x="{places[at]:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
        f"{_stamp(points[at], points)}</text>"
        for at, anchor in shown.items()
    )


def _stamp(point: _Point, points: Sequence[_Point]) -> str:
    """When a point begins: its day, and its hour where they are hours."""
    near = len(points) > 1 and points[1].start_s - points[0].start_s < _DAY_S / 2
    return time.strftime("%Y-%m-%d %H:00" if near else "%Y-%m-%d", time.localtime(point.start_s))


def _described(points: Sequence[_Point]) -> str:
    rates = [p.rate for p in points if p.rate is not None]
    ended = f"; the hit rate ended at {rates[-1]:.0%}" if rates else ""
    return f"Saved {format_usd(points[-1].saved_usd)} in all (area, left){ended} (dashed line, right)."
