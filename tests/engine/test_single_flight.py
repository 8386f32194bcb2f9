"""One call for simultaneous identical asks."""

from __future__ import annotations

import threading
import time

import pytest

from or_cache_magic.engine.single_flight import SingleFlight


class Crew:
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
def crew():
    return Crew()


def test_single_flight__lets_one_work(crew):
    """While one works, the others wait for the very result, and know that it was not theirs."""
    crew.start(1)
    assert crew.leading.wait(10)
    crew.start(15)
    crew.wait_for_followers(15)
    crew.join()
    assert crew.calls == 1
    assert len({id(result) for result, _ in crew.outcomes}) == 1
    assert sorted(led for _, led in crew.outcomes) == [False] * 15 + [True]


def test_single_flight__keeps_keys_apart(crew):
    """Another key is another flight, at the same time."""
    crew.start(1, "a")
    assert crew.leading.wait(10)
    assert crew.flights.do("b", lambda: 7) == (7, True)
    crew.join()


def test_single_flight__forgets_what_has_landed(crew):
    """The next caller works anew: remembering is the store's job."""
    assert crew.flights.do("k", lambda: 1) == (1, True)
    assert crew.flights.do("k", lambda: 2) == (2, True)


def test_single_flight__gives_followers_the_leaders_error(crew):
    """A failed call is not tried anew by each of those who waited."""

    def fail():
        crew.work()
        raise ValueError("boom")

    crew.start(1, work=fail)
    assert crew.leading.wait(10)
    crew.start(5, work=fail)
    crew.wait_for_followers(5)
    crew.join()
    assert crew.calls == 1
    assert [str(exc) for exc in crew.outcomes] == ["boom"] * 6
    assert crew.flights.do("k", lambda: 1) == (1, True)


def test_single_flight__gives_each_its_own_error(crew):
    """The followers' errors are not one object, whose traceback they would all write into."""

    def fail():
        crew.work()
        raise ValueError("boom")

    crew.start(1, work=fail)
    assert crew.leading.wait(10)
    crew.start(3, work=fail)
    crew.wait_for_followers(3)
    crew.join()
    assert len({id(exc) for exc in crew.outcomes}) == 4


def test_single_flight__survives_an_error_that_cannot_be_copied(crew):
    """An error of no copyable kind is passed on as it is."""

    class OddError(Exception):
        def __init__(self, *, fact):
            super().__init__("odd", fact)

    def fail():
        crew.work()
        raise OddError(fact=1)

    crew.start(1, work=fail)
    assert crew.leading.wait(10)
    crew.start(2, work=fail)
    crew.wait_for_followers(2)
    crew.join()
    assert {type(exc) for exc in crew.outcomes} == {OddError}


def test_single_flight__lets_a_follower_take_over(crew):
    """An interrupt of the leader is its own: a follower does the work, for all who still wait."""
    took_over = []

    def interrupted():
        crew.work()
        raise KeyboardInterrupt

    def work():
        took_over.append(1)
        return "done"

    crew.start(1, work=interrupted)
    assert crew.leading.wait(10)
    crew.start(5, work=work)
    crew.wait_for_followers(5)
    crew.join()
    kinds = [o if isinstance(o, tuple) else type(o) for o in crew.outcomes]
    assert kinds.count(KeyboardInterrupt) == 1
    assert {result for result in kinds if result is not KeyboardInterrupt} <= {
        ("done", True),
        ("done", False),
    }
    assert kinds.count(("done", True)) == len(took_over) >= 1
