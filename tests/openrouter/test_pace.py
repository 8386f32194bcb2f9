"""`Pace`: how fast requests follow each other, by its laws; a clock drives it, and nothing sleeps."""

from __future__ import annotations

import heapq
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.callbacks import Pacing
from or_cache_magic.openrouter.pace import PATIENCE_S, Pace, Refusal

MORE = Pacing(8, 32)
BUSY = Refusal("the provider is overloaded", is_crowded=True)


class Run:
    """A list of requests that are sent as soon as a pace lets them, to a server that is a function.

    `server(now_s, under_way)` returns None for an answer, or what a refusal says: the seconds to wait (or
    None), and the limit (or None).
    """

    def __init__(self, pace, server, *, rows, pacing=MORE, latency_s=0.2, seed=0):
        self.pace, self.server, self.pacing = pace, server, pacing
        self.left, self.now_s, self.most = rows, 0.0, 0
        self.sent_s, self.refused, self.answered = [], 0, 0
        self.levels = []
        self._latency_s, self._random = latency_s, random.Random(seed)
        self._under_way = []

    def go(self, until_s=math.inf):
        """Send all; the time it took is `now_s`."""
        while self.left or self._under_way:
            assert self.now_s < until_s, f"{self.left} rows starve"
            turn = self.pace.turn(self.now_s, self.pacing) if self.left else None
            if turn is not None and turn.wait_s <= 0:
                self._send()
                continue
            ends_s = self._under_way[0][0] if self._under_way else math.inf
            goes_s = math.inf if turn is None else self.now_s + turn.wait_s
            assert min(ends_s, goes_s) < math.inf, "nobody would ever go on"
            if goes_s < ends_s:
                self.now_s = goes_s
                self.now_s = max(self.now_s, math.nextafter(goes_s, math.inf))
            else:
                self._end()
        return self

    def _send(self):
        said = self.server(self.now_s, len(self._under_way))
        lasts_s = 0.01 if said else self._latency_s * self._random.uniform(0.8, 1.2)
        sent = self.pace.begin(self.now_s)
        heapq.heappush(self._under_way, (self.now_s + lasts_s, sent.number, sent, said))
        self.left -= 1
        self.sent_s.append(self.now_s)
        self.levels.append(len(self._under_way))
        self.most = max(self.levels)

    def _end(self):
        self.now_s, _, sent, said = heapq.heappop(self._under_way)
        if said is None:
            self.pace.answered(sent, self.now_s)
            self.answered += 1
        else:
            self.pace.refused(sent, self.now_s, Refusal("rate limited", *said))
            self.refused += 1
            self.left += 1


def carries(most):
    """A server that answers so many at a time, and says nothing of it."""
    return lambda _now_s, under_way: None if under_way < most else (None, None)


def minutes(limit, minute_s=60.0):
    """A server that takes so many in any minute, and says when the next may come."""
    taken = []

    def server(now_s, _under_way):
        taken[:] = [at_s for at_s in taken if at_s > now_s - minute_s]
        if len(taken) < limit:
            taken.append(now_s)
            return None
        return (taken[0] + minute_s - now_s, limit)

    return server


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 12),
    st.floats(0.01, 20),
    st.lists(st.tuples(st.none() | st.floats(0, 100), st.none() | st.integers(1, 50)), max_size=20),
    st.integers(0, 99),
)
def test_pace__keeps_its_laws(start, most, capacity, latency_s, refusals, seed):
    """Whatever is refused: never more than asked for at once, never before the told time, and all are answered."""
    told_s, said = 0.0, list(refusals)

    def server(now_s, under_way):
        nonlocal told_s
        assert now_s >= told_s
        if under_way >= capacity:
            return (None, None)
        return said.pop() if said else None

    class Pacer(Pace):
        def refused(self, sent, now_s, refusal):
            nonlocal told_s
            super().refused(sent, now_s, refusal)
            told_s = max(told_s, now_s + (refusal.wait_s or 0.0))

    run = Run(Pacer(), server, rows=40, pacing=Pacing(start, most), latency_s=latency_s, seed=seed)
    run.go(until_s=100_000)
    assert (run.answered, run.most <= most) == (40, True)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 20])
def test_pace__finds_how_many_are_carried(most):
    """Of a server that carries so many at a time: nearly all of them are used, and few requests are refused."""
    run = Run(Pace(), carries(most), rows=400).go()
    assert run.refused <= 30
    assert run.now_s <= 1.4 * 400 * 0.2 / most


def test_pace__grows_while_answers_are_as_fast():
    """From eight to the most there may be, where nothing is refused; not where they come slower for it."""
    assert Run(Pace(), carries(math.inf), rows=400).go().most == 32

    class Crowded(Run):
        def _send(self):
            self._latency_s = 0.2 * max(1.0, (len(self._under_way) + 1) / 8) ** 2
            super()._send()

    levels = Crowded(Pace(), carries(math.inf), rows=400).go().levels
    assert statistics.mean(levels[200:]) <= 14


def test_pace__grows_also_where_answers_come_together():
    """Those sent together come back together: each of a full round is a sign that more are carried."""
    pace, pacing, levels = Pace(), Pacing(8, 32), []
    for now_s in range(5):
        sent = []
        while not pace.turn(float(now_s), pacing).wait_s:
            sent.append(pace.begin(float(now_s)))
        levels.append(len(sent))
        for one in sent:
            pace.answered(one, now_s + 1.0)
    assert levels == [8, 12, 18, 27, 32]


def test_pace__learns_no_rate_of_those_that_are_no_lists():
    """A cell an hour says nothing of how fast requests are taken, though the last of them is refused."""
    pace = Pace()
    for hour in range(20, 25):
        pace.answered(pace.begin(hour * 3600.0, is_listed=False), hour * 3600.0 + 2)
    now_s = 25 * 3600.0
    pace.refused(pace.begin(now_s, is_listed=False), now_s + 1, Refusal("rate limited", 1.0))
    assert pace.turn(now_s + 1, Pacing(8, 32)).wait_s == 1.0
    assert pace.turn(now_s + 2, Pacing(8, 32)).wait_s == 0
    assert pace.known.gap_s == 0


def test_pace__counts_no_time_in_which_nothing_was_asked():
    """Between two lists an author thinks: what a refusal then tells of a rate is that of when they were sent."""
    pace, pacing, now_s = Pace(), Pacing(8, 8), 1000.0
    for _ in range(60):
        assert not pace.turn(now_s, pacing).wait_s
        pace.answered(pace.begin(now_s), now_s + 0.1)
        now_s += 0.1
    now_s += 500
    for _ in range(3):
        assert not pace.turn(now_s, pacing).wait_s
        pace.answered(pace.begin(now_s), now_s + 0.1)
        now_s += 0.1
    pace.refused(pace.begin(now_s), now_s + 0.1, Refusal("rate limited"))
    assert pace.known.gap_s == pytest.approx(0.1, rel=0.1)


def bucket(per_minute, burst, *, tells=False, later=None):
    """A server that takes so many a minute, `burst` of them at once; `later` is when that changes, and to what."""
    stock, then_s = burst, 0.0

    def server(now_s, _under_way):
        nonlocal stock, then_s
        rate = (later[1] if later and now_s >= later[0] else per_minute) / 60
        stock, then_s = min(burst, stock + (now_s - then_s) * rate), now_s
        if stock >= 1 - 1e-9:
            stock -= 1
            return None
        return (
            ((1 - stock) / rate, per_minute)
            if tells == "all"
            else ((1 - stock) / rate if tells else None, None)
        )

    return server


@pytest.mark.parametrize("tells", [False, True, "all"])
@pytest.mark.parametrize("burst", [1, 2, 10])
@pytest.mark.parametrize(("per_minute", "rows"), [(60, 400), (600, 400), (6000, 4000)])
def test_pace__uses_up_a_rate_that_nobody_tells(per_minute, rows, burst, tells):
    """Of a limit of so many a minute at least 93 % are used, and few requests refused: with a burst and without.

    Without a burst and at 100 a second twenty more are under way before the first tells how it went: 75 %.
    """
    uses = 0.75 if (per_minute, burst) == (6000, 1) else 0.93
    run = Run(Pace(), bucket(per_minute, burst, tells=tells), rows=rows).go()
    assert run.refused <= 40 * rows / 400
    assert (rows - burst) / (per_minute / 60) >= uses * (run.now_s - 0.2)


@pytest.mark.parametrize("latency_s", [0.01, 2.0])
@pytest.mark.parametrize("burst", [1, 20])
@pytest.mark.parametrize(("per_minute", "uses"), [(60, 0.8), (600, 0.5)])
def test_pace__finds_a_rate_whatever_an_answer_takes(per_minute, uses, burst, latency_s):
    """Fast answers and slow ones, which only many at a time make up for."""
    run = Run(Pace(), bucket(per_minute, burst), rows=400, latency_s=latency_s).go()
    assert run.refused <= 60
    assert (400 - burst) / (per_minute / 60) >= uses * (run.now_s - latency_s)


@pytest.mark.parametrize("burst", [1, 10])
@pytest.mark.parametrize(
    ("before", "after", "uses"), [(600, 300, 0.9), (600, 60, 0.9), (600, 1200, 0.8), (60, 600, 0.45)]
)
def test_pace__follows_a_limit_that_changes(before, after, uses, burst):
    """A limit that is lowered is kept at once; one that is raised is found out, step by step."""
    run = Run(Pace(), bucket(before, burst, later=(20.0, after)), rows=800).go()
    ideal_s = 20 + (800 - burst - before / 3) / (after / 60)
    assert run.refused <= 80
    assert ideal_s >= uses * run.now_s


@pytest.mark.parametrize(("limit", "minute_s"), [(30, 60.0), (20, 60.0), (600, 60.0), (50, 3600.0)])
def test_pace__spreads_over_a_time_that_is_told(limit, minute_s):
    """Refused once with the limit's headers, the rest is spread evenly: hardly anything is refused again."""
    run = Run(Pace(), minutes(limit, minute_s), rows=3 * limit).go()
    assert run.refused <= 34
    assert run.now_s <= 3.1 * minute_s
    late = [b - a for a, b in zip(run.sent_s, run.sent_s[1:], strict=False) if a > 1.1 * minute_s]
    assert max(late) <= 1.1 * minute_s / limit


def test_pace__goes_back_to_the_rate_that_was_told():
    """A server whose limit others use up too is asked less often for it, and then again as often as it takes."""
    take = minutes(30)

    def server(now_s, under_way):
        return (50.0, 30) if 70 < now_s < 200 else take(now_s, under_way)

    run = Run(Pace(), server, rows=300).go()
    late = [b - a for a, b in zip(run.sent_s, run.sent_s[1:], strict=False)][-30:]
    assert statistics.median(late) <= 2.2


def test_pace__backs_off_from_a_server_that_asks_for_no_patience():
    """ "Again at once" is believed a few times in a row; then it is asked less and less often."""
    refusals = iter([(0.0, None)] * 9)
    run = Run(Pace(), lambda _now_s, _under_way: next(refusals, None), rows=1).go()
    gaps = [b - a for a, b in zip(run.sent_s, run.sent_s[1:], strict=False)]
    assert max(gaps[:3]) < 0.1
    assert gaps[3:] == sorted(gaps[3:])
    assert sum(gaps) > 15


def test_pace__is_vain_when_nothing_is_answered():
    """Ten minutes of refusals without an answer between them; an answer begins them anew."""
    pace = Pace()
    pace.turn(0.0, MORE)
    pace.refused(pace.begin(0.0), 1.0, BUSY)
    assert not pace.is_vain(PATIENCE_S)
    assert pace.is_vain(PATIENCE_S + 2)
    pace.answered(pace.begin(2.0), 3.0)
    assert not pace.is_vain(PATIENCE_S + 2)


def test_pace__halves_once_for_what_was_sent_together():
    """Several refusals of one volley are one piece of news."""
    pace = Pace()
    pace.turn(0.0, MORE)
    sent = [pace.begin(0.0) for _ in range(8)]
    pace.refused(sent[0], 0.1, BUSY)
    assert pace.limit == 4
    pace.refused(sent[1], 0.1, BUSY)
    assert pace.limit == 4


def test_pace__begins_with_as_many_as_the_next_list_wants():
    """A list that is asked one by one doesn't slow down the next one, as long as nothing was refused."""
    pace = Pace()
    Run(pace, lambda now_s, under_way: None, rows=5, pacing=Pacing(1, 1)).go()
    run = Run(pace, lambda now_s, under_way: None, rows=100, pacing=Pacing(32, 32))
    run.go()
    assert run.levels[31] == 32


def test_pace__begins_anew_after_a_pause():
    """What was learned ten minutes ago may be true no more."""
    pace = Pace()
    pace.turn(0.0, MORE)
    pace.refused(pace.begin(0.0), 0.1, BUSY)
    assert pace.limit == 1
    pace.turn(PATIENCE_S + 10, MORE)
    assert pace.limit == 8
