"""Leases in cache.db: one owner at a time, taken over when it died, never trusted, never waited for."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.engine.cross_process import CrossProcessLock, acquire_lock, failure_from, failure_json
from or_cache_magic.errors import (
    ConnectionLostError,
    MissingKeyError,
    StoreBusyError,
    StoreError,
    StreamBrokenError,
    UpstreamError,
)
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.leases import DiskLeases, Held, Lease

from .conftest import Clock

KEY = "ab" * 32
TTL_S = 15.0
FAILURE = {"kind": "UpstreamError", "message": "refused"}


@pytest.fixture
def leases(database, clock):
    return DiskLeases(database, clock, clock)


def rows(database):
    return database.select("SELECT key, failure FROM or_lease")


def plant(database, **columns):
    """Changes the rows behind the package's back."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        for name, value in columns.items():
            connection.execute(f"UPDATE or_lease SET {name} = ?", (value,))


def test_acquire__has_one_owner(leases, database, clock):
    """The first to come has the lease, others are told who and since when; given back it leaves no row."""
    lease = leases.acquire(KEY, TTL_S)
    assert isinstance(lease, Lease)
    held = leases.acquire(KEY, TTL_S)
    assert isinstance(held, Held)
    assert f"pid {os.getpid()} on " in held.owner
    assert (held.since_s, held.until_s, held.failure) == (clock.now_s, clock.now_s + TTL_S, None)
    assert isinstance(leases.acquire("cd" * 32, TTL_S), Lease)
    leases.release(lease)
    assert rows(database) == [("cd" * 32, None)]
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)


def test_deadline__ends_a_lease(leases, database, clock):
    """To the second; whoever comes then has it, and the late owner can neither renew nor give it back."""
    late = leases.acquire(KEY, TTL_S)
    clock.now_s += TTL_S - 1
    assert isinstance(leases.acquire(KEY, TTL_S), Held)
    assert leases.renew(late, TTL_S)
    clock.now_s += TTL_S - 1
    assert isinstance(leases.acquire(KEY, TTL_S), Held)
    clock.now_s += 1
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)
    assert not leases.renew(late, TTL_S)
    leases.release(late)
    leases.release(late, FAILURE)
    assert rows(database) == [(KEY, None)]


def test_release_local__is_undone_with_its_transaction(leases, database):
    """A lease that is released with what is written is free when that is there, and held when it is not."""
    lease = leases.acquire(KEY, TTL_S)
    with suppress(ZeroDivisionError), database.transaction():
        leases.release_local(lease)
        raise ZeroDivisionError
    assert rows(database) == [(KEY, None)]
    with database.transaction():
        leases.release_local(lease)
    assert rows(database) == []
    leases.release(lease)  # as who holds it does afterwards
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)


def test_acquire__clears_what_nobody_came_back_for(leases, database, clock):
    """What ran out goes with the next lease that is taken: a failure at once, the others after a day."""
    for digit in "123":
        failing = leases.acquire(digit * 64, TTL_S)
    leases.release(failing, FAILURE)
    clock.now_s += TTL_S + 1
    leases.acquire(KEY, TTL_S)
    assert [failure for _, failure in rows(database)] == [None, None, None]
    clock.now_s += 86_400
    leases.acquire(KEY, TTL_S)
    assert rows(database) == [(KEY, None)]


def test_failure__is_told_to_those_who_waited(leases, clock):
    """Who waited for the flight gets its failure; who did not, or comes too late, gets the lease."""
    lease = leases.acquire(KEY, TTL_S)
    held = leases.acquire(KEY, TTL_S)
    leases.release(lease, FAILURE)
    told = leases.acquire(KEY, TTL_S, after=held)
    assert (told.failure, told.owner, told.since_s) == (FAILURE, held.owner, held.since_s)
    other = held._replace(since_s=held.since_s - 1)
    clock.now_s += 1
    second = leases.acquire(KEY, TTL_S, after=other)
    assert isinstance(second, Lease)
    leases.release(second, FAILURE)
    clock.now_s += 60
    assert isinstance(leases.acquire(KEY, TTL_S, after=held), Lease)


@pytest.mark.parametrize("jump_s", [40.0, -60.0, 3600.0, -86_400.0])
def test_clock_jump__takes_no_lease_of_a_live_owner(database, clock, jump_s):
    """However the clock is set, a lease lasts as long as it is renewed, and ends when it is not."""
    ticks = Clock(5000.0)
    leases, others = DiskLeases(database, clock, ticks), DiskLeases(database, clock, ticks)
    lease = leases.acquire(KEY, TTL_S)
    held = others.acquire(KEY, TTL_S)
    clock.now_s += jump_s
    assert isinstance(others.acquire(KEY, TTL_S), Held)
    assert isinstance(others.acquire("cd" * 32, TTL_S), Lease)  # which clears what is over
    for _ in range(3):
        ticks.now_s += TTL_S - 1
        assert leases.renew(lease, TTL_S)
        assert others.acquire(KEY, TTL_S, after=held)[:2] == held[:2]
        clock.now_s += jump_s
    leases.release(lease, FAILURE)
    assert others.acquire(KEY, TTL_S, after=held).failure == FAILURE
    ticks.now_s += TTL_S
    assert isinstance(others.acquire(KEY, TTL_S, after=held), Lease)
    ticks.now_s += TTL_S
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nobody tells when a process began")
def test_dead_owner__whose_number_was_given_anew(leases, database):
    """Another process with the number of one that is gone is not taken for it."""
    leases.acquire(KEY, TTL_S)
    assert isinstance(leases.acquire(KEY, TTL_S), Held)
    ((host,),) = database.select("SELECT host FROM or_lease")
    plant(database, host=f"{host.rpartition(' ')[0]} 1")
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)


@pytest.mark.skipif(os.name != "posix", reason="only there a process can be looked for")
def test_dead_owner__is_taken_over_at_once(leases, database):
    """An owner of this machine that is gone holds nobody up; one of another machine is given its time."""
    leases.acquire(KEY, TTL_S)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    plant(database, host="elsewhere", pid=ended.pid)
    assert isinstance(leases.acquire(KEY, TTL_S), Held)
    leases.acquire("cd" * 32, TTL_S)
    ((ours,),) = database.select("SELECT host FROM or_lease WHERE key != ?", (KEY,))
    plant(database, host=ours)
    assert isinstance(leases.acquire(KEY, TTL_S), Lease)


@pytest.mark.parametrize(
    "planted",
    [
        {"deadline": 1e300},
        {"deadline": float("inf")},
        {"deadline": "soon"},
        {"started": b"\xff"},
        {"pid": "x"},
        {"pid": -1},
        {"pid": 1 << 62},
        {"host": b"\x00"},
        {"failure": "[" * 100_000},
        {"failure": '{"kind": 1}'},
        {"failure": b"\xff"},
    ],
    ids=str,
)
def test_foreign_row__holds_nobody_up(leases, database, clock, planted):
    """Whatever a stranger's file says, the ask goes on: with the lease or without, and at once."""
    leases.acquire(KEY, TTL_S)
    held = leases.acquire(KEY, TTL_S)
    plant(database, **planted)
    lock = acquire_lock(leases, KEY, lambda since_s: None, pytest.fail, clock=clock, sleep=pytest.fail)
    assert isinstance(lock, CrossProcessLock)
    after = leases.acquire(KEY, TTL_S, after=held)
    assert isinstance(after, Held)


def test_acquire__waits_for_who_writes_as_an_answer_does(tmp_path, clock):
    """A crowd of writers keeps nobody from a lease: who goes on without one may buy what others buy."""
    database = Database(tmp_path / "crowd", timeout_s=60)
    leases = DiskLeases(database, clock, clock)
    leases.acquire(KEY, TTL_S)
    with closing(sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        over = threading.Timer(1.5, other.execute, ("ROLLBACK",))
        over.start()
        assert isinstance(leases.acquire("cd" * 32, TTL_S), Lease)
        over.join()
    database.close()


def test_locked_file__costs_a_moment(leases, database, clock):
    """While another program holds the file, looking goes on, and the lock is had without a lease."""
    leases.acquire(KEY, TTL_S)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert isinstance(leases.acquire(KEY, TTL_S), Held)
    with pytest.raises(StoreBusyError):
        leases.acquire("cd" * 32, TTL_S)
    with acquire_lock(
        leases, "cd" * 32, lambda since_s: None, pytest.fail, clock=clock, sleep=pytest.fail
    ) as lock:
        assert lock.waited_since_s is None
    other.close()


def test_lock__is_renewed_while_it_lasts(database):
    """A call that lasts longer than a lease keeps it; when it is over nothing is left."""
    leases = DiskLeases(database)
    with acquire_lock(leases, KEY, lambda since_s: None, print, ttl_s=0.6):
        first = leases.acquire(KEY, 0.6)
        deadline_s = time.monotonic() + 60
        while (now := leases.acquire(KEY, 0.6)).until_s < first.until_s + 0.6:
            assert isinstance(now, Held)
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    assert rows(database) == []


def test_lock__waits_for_its_holder(database):
    """One who comes second is told so once, and goes when the first has given the lease back."""
    leases = DiskLeases(database)
    notes = []
    waiting = threading.Event()
    looks = []

    def peer_result(since_s):
        looks.append(since_s)
        waiting.set()

    def second():
        with acquire_lock(leases, KEY, peer_result, notes.append) as lock:
            assert lock.waited_since_s == looks[0]

    with acquire_lock(leases, KEY, peer_result, notes.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    assert len(notes) == 1
    assert "another kernel" in notes[0]
    assert rows(database) == []


def test_lock__gives_the_result_of_its_holder(database):
    """The result of the other call ends the wait, though the lease is still held."""
    leases = DiskLeases(database)
    with acquire_lock(leases, KEY, lambda since_s: None, print):
        assert acquire_lock(leases, KEY, lambda since_s: "the answer", lambda note: None) == "the answer"


FAILURES = [
    UpstreamError("refused", "wait", status=429, retry_after_s=2, retryable=True, body={"code": 429}),
    UpstreamError("it cost", status=408, cost_usd=Decimal("0.00012"), generation_id="gen-1", attempts=3),
    ConnectionLostError("no connection", "check the network", cost_usd=Decimal(0)),
    StreamBrokenError("broke off", partial_text="Once upon", error_type="provider_error"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_failure__comes_back_with_its_facts(failure):
    """As JSON and back it is the same error, with the same words, money and facts."""
    again = failure_from(failure_json(failure))
    assert type(again) is type(failure)
    assert again.args == failure.args
    assert vars(again) == vars(failure)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_failure__of_the_account_is_not_passed_on(status):
    """Neither a refused key nor an interrupt is another's failure."""
    assert failure_json(UpstreamError("no", status=status)) is None
    assert failure_json(KeyboardInterrupt()) is None
    assert failure_json(MissingKeyError("no key")) is None
    assert failure_json(None) is None


def test_failure__holds_no_key():
    """What looks like a key is taken out before it is written."""
    told = failure_json(UpstreamError("bad sk-or-v1-abc", status=400, body={"raw": ["sk-or-v1-abc"]}))
    assert "abc" not in str(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["kind", "message", "hint", "status", "retry_after_s", "cost_usd", "body", "attempts", "partial_text"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(["StreamBrokenError", "1e5"])))
def test_failure__from_anything_is_an_error_or_none(form):
    """Whatever stands in the row becomes an `UpstreamError` or nothing."""
    failure = failure_from(form)
    assert failure is None or (isinstance(failure, UpstreamError) and not isinstance(failure, StoreError))
    assert failure is None or str(failure)


def test_purge__of_everything_takes_failures_and_leaves_who_is_asking(leases, database):
    """A failure may repeat its prompt; a lease says nothing of one."""
    failed, asking = leases.acquire(KEY, TTL_S), leases.acquire("cd" * 32, TTL_S)
    leases.release(failed, {**FAILURE, "partial_text": "half of a secret"})
    DiskStore(database).purge(EntryFilter(), everything=True)

    assert rows(database) == [("cd" * 32, None)]
    assert leases.renew(asking, TTL_S)
