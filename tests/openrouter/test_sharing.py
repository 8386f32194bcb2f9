"""`Talk`: processes under one limit hear of each other; their clock is driven, and nothing sleeps."""

from __future__ import annotations

import heapq
import json
import math
import random
import statistics
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.callbacks import Pacing
from or_cache_magic.errors import StoreUnavailableError
from or_cache_magic.openrouter.pace import Known, Pace, Refusal, Share
from or_cache_magic.openrouter.sharing import Talk

EPOCH_S = 1_800_000_000.0


class Wall:
    """A board in memory; counts what is written."""

    def __init__(self, text=""):
        self.text, self.written = text, 0

    def exchange(self, _place, merge):
        text = merge(self.text)
        if text is not None:
            self.text, self.written = text, self.written + 1


class Process:
    """One that sends rows as fast as its pace lets it."""

    def __init__(self, board, rows, name="a"):
        self.pace, self.left, self.done_s = Pace(), rows, 0.0
        self.now_s = 0.0
        self._talk = board and Talk(board, "model", clock=lambda: EPOCH_S + self.now_s)
        if board:
            self._talk._me = name  # who is first leads
        self._lock = threading.Lock()

    def wait_s(self, now_s):
        self.now_s = now_s
        if not self.left:
            return math.inf
        if self._talk:
            self._talk.exchange(self.pace, self._lock, now_s)
        return self.pace.turn(now_s, Pacing(8, 32)).wait_s


def run(processes, per_minute, burst, seed=0):
    """Send all rows to a server that takes so many a minute; return the seconds it takes, and the refusals."""
    stock, then_s, now_s, under_way, chance = burst, 0.0, 0.0, [], random.Random(seed)
    refusals = 0
    for number in range(100_000):
        waits_s = [one.wait_s(now_s) for one in processes]
        least_s = min(waits_s)
        if least_s <= 0:
            one = processes[waits_s.index(least_s)]
            stock, then_s = min(burst, stock + (now_s - then_s) * per_minute / 60), now_s
            stock -= (taken := stock >= 1 - 1e-9)
            lasts_s = 0.2 * chance.uniform(0.8, 1.2) if taken else 0.01
            heapq.heappush(under_way, (now_s + lasts_s, number, one, one.pace.begin(now_s), taken))
            one.left -= 1
        elif under_way and under_way[0][0] <= now_s + least_s:
            now_s, _, one, sent, taken = heapq.heappop(under_way)
            if taken:
                one.pace.answered(sent, now_s)
            else:
                one.pace.refused(sent, now_s, Refusal("rate limited"))
                one.left, refusals = one.left + 1, refusals + 1
        elif least_s < math.inf:
            now_s = math.nextafter(now_s + least_s, math.inf)
        else:
            return now_s, refusals
    raise AssertionError("they starve")


@pytest.mark.parametrize("per_minute", [60, 600])
@pytest.mark.parametrize("burst", [2, 10])
def test_talk__has_two_share_a_limit(per_minute, burst):
    """Two under one limit take as long as one; each is told by the other, and few requests are refused."""
    alone_s, _ = run([Process(None, 400)], per_minute, burst)
    runs = []
    for seed in range(3):
        board = Wall()
        two = [Process(board, 200, name) for name in "ab"]
        runs.append(run(two, per_minute, burst, seed))
        assert board.written <= 2.2 * runs[-1][0]
    together_s, refused = map(statistics.median, zip(*runs, strict=True))
    assert together_s <= 1.15 * alone_s
    assert refused <= 80


def test_talk__writes_nothing_where_there_is_no_limit():
    """Two that are never refused leave no word, however long they send."""
    board = Wall()
    run([Process(board, 300, name) for name in "ab"], 1e6, 100)
    assert board.written == 0


def test_talk__tells_of_a_moment_that_the_server_named():
    """What one is told to wait another waits too, though it was never refused; no longer than five minutes."""
    board, lock = Wall(), threading.Lock()
    first, second = (Talk(board, "model", clock=lambda: EPOCH_S) for _ in range(2))
    refused, waits = Pace(), Pace()
    refused.turn(0.0, Pacing(8, 32))
    refused.refused(refused.begin(0.0), 0.1, Refusal("rate limited", 40.0))
    first.exchange(refused, lock, 0.2)
    second.exchange(waits, lock, 0.2)
    turn = waits.turn(0.2, Pacing(8, 32))
    assert turn.wait_s == pytest.approx(39.9)
    assert turn.why == "rate limited"


def test_talk__forgets_who_says_nothing_any_more():
    """A process that was killed has no share after three seconds."""
    board, lock = Wall(), threading.Lock()
    first, second = (Talk(board, "model", clock=lambda: EPOCH_S) for _ in range(2))
    pace, other = Pace(), Pace()
    for one in (pace, other):
        one.turn(0.0, Pacing(8, 32))
        one.hear(Share(0, 1), Known(0.1))
    for now_s in (0.0, 1.0):
        first.exchange(pace, lock, now_s)
        second.exchange(other, lock, now_s)
    first.exchange(pace, lock, 2.0)
    assert len(json.loads(board.text)[-1]) == 2
    for now_s in (3.0, 4.0, 5.0, 6.0):
        first.exchange(pace, lock, now_s)
    assert len(json.loads(board.text)[-1]) == 1


def test_talk__lets_a_board_be_that_fails():
    """A locked file or a server that is down holds nobody up."""

    class Down:
        def exchange(self, _place, _merge):
            raise StoreUnavailableError("down")

    pace = Pace()
    Talk(Down(), "model").exchange(pace, threading.Lock(), 0.0)
    assert pace.turn(0.0, Pacing(8, 32)).wait_s == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
NUMBERS = st.floats() | st.integers(-5, 10**12)


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.tuples(
        st.tuples(NUMBERS, NUMBERS, st.none() | NUMBERS),
        NUMBERS,
        st.text(),
        NUMBERS,
        JSON,
        st.dictionaries(st.text(), NUMBERS),
    ).map(json.dumps)
)
def test_talk__believes_nothing_implausible(text):
    """Whatever a stranger's folder says, nobody waits for more than five minutes, and nothing breaks."""
    pace = Pace()
    Talk(Wall(text), "model", clock=lambda: EPOCH_S).exchange(pace, threading.Lock(), 0.0)
    assert pace.turn(0.0, Pacing(8, 32)).wait_s <= 300
    assert pace.known.gap_s <= 3600
