"""One call for simultaneous identical asks."""

from __future__ import annotations

import threading
import time

import pytest

from or_cache_magic.engine.single_flight import SingleFlight


class Callers:
    """Threads that ask at the same time; ``wait_for_followers`` returns when that many wait for the leader."""

    def __init__(self):
        self.flights = SingleFlight()
        self.go = threading.Event()
        self.leading = threading.Event()
        self.calls = 0
        self.outcomes = []
        self.threads = []

    def start(self, count, key="k", work=None):
        for _ in range(count):
            thread = threading.Thread(target=self._call, args=(key, work or self.work))
            self.threads.append(thread)
            thread.start()

    def work(self):
        self.calls += 1
        self.leading.set()
        assert self.go.wait(60)
        return object()

    def _call(self, key, work):
        try:
            self.outcomes.append(self.flights.do(key, work))
        except BaseException as exc:
            self.outcomes.append(exc)

    def wait_for_followers(self, count, key="k"):
        deadline = time.monotonic() + 60
        while self.flights.waiting(key) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def join(self):
        self.go.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def callers():
    return Callers()


def test_single_flight__lets_one_work(callers):
    """While one works, the others wait for the very result, and know that it was not theirs."""
    callers.start(1)
    assert callers.leading.wait(60)
    callers.start(15)
    callers.wait_for_followers(15)
    callers.join()
    assert callers.calls == 1
    assert len({id(result) for result, _ in callers.outcomes}) == 1
    assert sorted(led for _, led in callers.outcomes) == [False] * 15 + [True]


def test_single_flight__keeps_keys_apart(callers):
    """Another key is another flight, at the same time."""
    callers.start(1, "a")
    assert callers.leading.wait(60)
    assert callers.flights.do("b", lambda: 7) == (7, True)
    callers.join()


def test_single_flight__forgets_what_is_done(callers):
    """The next caller works anew: remembering is the store's job."""
    assert callers.flights.do("k", lambda: 1) == (1, True)
    assert callers.flights.do("k", lambda: 2) == (2, True)


def test_single_flight__gives_followers_the_leaders_error(callers):
    """A failed call is not tried anew by each of those who waited."""

    def fail():
        callers.work()
        raise ValueError("boom")

    callers.start(1, work=fail)
    assert callers.leading.wait(60)
    callers.start(5, work=fail)
    callers.wait_for_followers(5)
    callers.join()
    assert callers.calls == 1
    assert [str(exc) for exc in callers.outcomes] == ["boom"] * 6
    assert callers.flights.do("k", lambda: 1) == (1, True)


def test_single_flight__gives_each_its_own_error(callers):
    """The followers' errors are not one object, whose traceback they would all write into."""

    def fail():
        callers.work()
        raise ValueError("boom")

    callers.start(1, work=fail)
    assert callers.leading.wait(60)
    callers.start(3, work=fail)
    callers.wait_for_followers(3)
    callers.join()
    assert len({id(exc) for exc in callers.outcomes}) == 4


def test_single_flight__survives_an_error_that_cannot_be_copied(callers):
    """An error of no copyable kind is passed on as it is."""

    class OddError(Exception):
        def __init__(self, *, fact):
            super().__init__("odd", fact)

    def fail():
        callers.work()
        raise OddError(fact=1)

    callers.start(1, work=fail)
    assert callers.leading.wait(60)
    callers.start(2, work=fail)
    callers.wait_for_followers(2)
    callers.join()
    assert {type(exc) for exc in callers.outcomes} == {OddError}


def test_single_flight__lets_a_follower_take_over(callers):
    """An interrupt of the leader is its own: a follower does the work, for all who still wait."""
    took_over = []

    def interrupted():
        callers.work()
        raise KeyboardInterrupt

    def work():
        took_over.append(1)
        return "done"

    callers.start(1, work=interrupted)
    assert callers.leading.wait(60)
    callers.start(5, work=work)
    callers.wait_for_followers(5)
    callers.join()
    kinds = [o if isinstance(o, tuple) else type(o) for o in callers.outcomes]
    assert kinds.count(KeyboardInterrupt) == 1
    assert {result for result in kinds if result is not KeyboardInterrupt} <= {
        ("done", True),
        ("done", False),
    }
    assert kinds.count(("done", True)) == len(took_over) >= 1
