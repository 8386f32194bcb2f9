"""One call for simultaneous identical asks."""

from __future__ import annotations

import threading
import time

import pytest

from or_cache_magic.engine.single_flight import SingleFlight


class AsyncFlights:
    """Threads that fly together; ``wait_for_followers`` returns when that many wait for the leader."""

    def __init__(self):
        self.flights = SingleFlight()
        self.go = threading.Event()
        self.leading = threading.Event()
        self.calls = 0
        self.outcomes = []
        self.threads = []

    def start(self, count, key="k", work=None):
        for _ in range(count):
            thread = threading.Thread(target=self._fly, args=(key, work or self.work))
            self.threads.append(thread)
            thread.start()

    def work(self):
        self.calls += 1
        self.leading.set()
        assert self.go.wait(10)
        return object()

    def _fly(self, key, work):
        try:
            self.outcomes.append(self.flights.do(key, work))
        except BaseException as exc:
            self.outcomes.append(exc)

    def wait_for_followers(self, count, key="k"):
        landed = self.flights._flying[key].landed
        deadline = time.monotonic() + 10
        while len(landed._cond._waiters) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def join(self):
        self.go.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def async_flights():
    return AsyncFlights()


def test_single_flight__lets_one_work(async_flights):
    """While one works, the others wait for the very result, and know that it was not theirs."""
    async_flights.start(1)
    assert async_flights.leading.wait(10)
    async_flights.start(15)
    async_flights.wait_for_followers(15)
    async_flights.join()
    assert async_flights.calls == 1
    assert len({id(result) for result, _ in async_flights.outcomes}) == 1
    assert sorted(led for _, led in async_flights.outcomes) == [False] * 15 + [True]


def test_single_flight__keeps_keys_apart(async_flights):
    """Another key is another flight, at the same time."""
    async_flights.start(1, "a")
    assert async_flights.leading.wait(10)
    assert async_flights.flights.do("b", lambda: 7) == (7, True)
    async_flights.join()


def test_single_flight__forgets_what_has_landed(async_flights):
    """The next caller works anew: remembering is the store's job."""
    assert async_flights.flights.do("k", lambda: 1) == (1, True)
    assert async_flights.flights.do("k", lambda: 2) == (2, True)


def test_single_flight__gives_followers_the_leaders_error(async_flights):
    """A failed call is not tried anew by each of those who waited."""

    def fail():
        async_flights.work()
        raise ValueError("boom")

    async_flights.start(1, work=fail)
    assert async_flights.leading.wait(10)
    async_flights.start(5, work=fail)
    async_flights.wait_for_followers(5)
    async_flights.join()
    assert async_flights.calls == 1
    assert [str(exc) for exc in async_flights.outcomes] == ["boom"] * 6
    assert async_flights.flights.do("k", lambda: 1) == (1, True)


def test_single_flight__gives_each_its_own_error(async_flights):
    """The followers' errors are not one object, whose traceback they would all write into."""

    def fail():
        async_flights.work()
        raise ValueError("boom")

    async_flights.start(1, work=fail)
    assert async_flights.leading.wait(10)
    async_flights.start(3, work=fail)
    async_flights.wait_for_followers(3)
    async_flights.join()
    assert len({id(exc) for exc in async_flights.outcomes}) == 4


def test_single_flight__survives_an_error_that_cannot_be_copied(async_flights):
    """An error of no copyable kind is passed on as it is."""

    class OddError(Exception):
        def __init__(self, *, fact):
            super().__init__("odd", fact)

    def fail():
        async_flights.work()
        raise OddError(fact=1)

    async_flights.start(1, work=fail)
    assert async_flights.leading.wait(10)
    async_flights.start(2, work=fail)
    async_flights.wait_for_followers(2)
    async_flights.join()
    assert {type(exc) for exc in async_flights.outcomes} == {OddError}


def test_single_flight__lets_a_follower_take_over(async_flights):
    """An interrupt of the leader is its own: a follower does the work, for all who still wait."""
    took_over = []

    def interrupted():
        async_flights.work()
        raise KeyboardInterrupt

    def work():
        took_over.append(1)
        return "done"

    async_flights.start(1, work=interrupted)
    assert async_flights.leading.wait(10)
    async_flights.start(5, work=work)
    async_flights.wait_for_followers(5)
    async_flights.join()
    kinds = [o if isinstance(o, tuple) else type(o) for o in async_flights.outcomes]
    assert kinds.count(KeyboardInterrupt) == 1
    assert {result for result in kinds if result is not KeyboardInterrupt} <= {
        ("done", True),
        ("done", False),
    }
    assert kinds.count(("done", True)) == len(took_over) >= 1
