"""Sums by local day and hour, wherever that is and whenever the clock changes."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.records import Cost
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.totals import HOURS, group_by

HOUR_S, DAY_S = 3_600.0, 86_400.0
KEY = "ab" * 32
ZONES = [
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Casablanca",
    "UTC",
]
BEGAN_S, NOW_S = 0.0, time.time()


@pytest.fixture
def zone(monkeypatch):
    """``zone(name)`` sets the time zone of the process until the test ends."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone of a process can't be set here")

    def set_zone(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()
        if name != "UTC" and time.tzname == (name, name):
            pytest.skip(f"this machine knows no {name}")

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def row(at_s, *, kind="miss", paid="1", key=KEY, session="session-1"):
    return LedgerRow(at_s, session, "", key, "m", kind, 1, Cost(Decimal(paid), "reported"), Decimal(paid))


def local(at_s, form="%Y-%m-%d"):
    return time.strftime(form, time.localtime(at_s))


def changes_s():
    """When the clock was changed in this zone since 1970, found to the second."""
    weeks = range(0, int(NOW_S), int(7 * DAY_S))
    for before_s, after_s in pairwise(weeks):
        low, high = before_s, after_s
        offset_s = time.localtime(high).tm_gmtoff
        if time.localtime(low).tm_gmtoff != offset_s:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if time.localtime(middle).tm_gmtoff == offset_s else (middle, high)
            yield high


@pytest.mark.parametrize("name", ZONES)
def test_totals_by_day__are_those_of_the_local_calendar(zone, tmp_path, clock, name):
    """At every change of the clock since 1970 the second before it and its own are in the system's days."""
    zone(name)
    moments = [since_s + step for since_s in changes_s() for step in (0, -1e-6, HOUR_S, -HOUR_S)]
    moments = [at_s for at_s in (*moments, 0.0, 0.5, NOW_S, NOW_S + 90 * DAY_S) if at_s >= 0]
    with closing(Database(tmp_path)) as database:
        ledger = Ledger(database, "session-1", clock)
        with database.transaction():
            for at_s in moments:
                ledger.record(row(at_s))
        found = {totals.group: totals.asks for totals in ledger.totals("day")}

    assert found == Counter(map(local, moments))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(ZONES), at_s=st.floats(BEGAN_S, NOW_S + 300 * DAY_S))
def test_groupings__any_moment_is_in_the_day_and_hour_the_system_says(zone, name, at_s):
    """Also between the changes, and in fractions of a second, in SQL as in Python."""
    zone(name)
    with closing(sqlite3.connect(":memory:")) as connection:
        sql = f"SELECT {group_by('day').sql}, {HOURS.sql} FROM (SELECT ? AS at)"
        found = connection.execute(sql, (at_s,)).fetchone()
    assert found == (group_by("day").value(row(at_s)), HOURS.value(row(at_s)))
    assert found[0] == local(at_s)
    ((starts_s, hour),) = HOURS.names(found[1])
    assert 0 <= at_s - starts_s < HOUR_S
    assert hour == local(starts_s, "%Y-%m-%d %H:%M")


def test_timeline__by_day_begins_at_local_midnight(zone, ledger):
    """Days in order, with when each began; the two on which the clock changes are 23 and 25 hours long."""
    zone("America/New_York")
    march, november = 1_773_000_000.0, 1_793_520_000.0  # 2026-03-08 and 2026-11-01, the days of change
    for start_s in (november, march):
        for step in (-1, 0, 1):
            ledger.record(row(start_s + step * DAY_S, paid=str(step + 3)))

    found = ledger.timeline()
    days = ["2026-03-07", "2026-03-08", "2026-03-09", "2026-10-31", "2026-11-01", "2026-11-02"]
    assert [totals.group for _, totals in found] == days
    assert [totals.paid_usd for _, totals in found] == [2, 3, 4] * 2
    assert [local(start_s, "%Y-%m-%d %H:%M:%S") for start_s, _ in found] == [
        f"{day} 00:00:00" for day in days
    ]
    lengths_h = [(after - before) / HOUR_S for (before, _), (after, _) in pairwise(found)]
    assert lengths_h[:2] == [24, 23]
    assert lengths_h[3:] == [24, 25]


@pytest.mark.parametrize("name", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_timeline__by_hour_where_all_is_within_two_days(zone, ledger, name):
    """Yesterday and today are shown by the hour, which begins when the local clock's does."""
    zone(name)
    noon_s = time.mktime((2026, 11, 1, 12, 0, 0, 0, 0, -1))
    for after_s in (0.0, 59 * 60.0, HOUR_S, -DAY_S / 2):
        ledger.record(row(noon_s + after_s))

    found = [(local(start_s, "%H:%M"), totals.group, totals.asks) for start_s, totals in ledger.timeline()]
    assert [(start, calls) for start, _, calls in found][-2:] == [("12:00", 2), ("13:00", 1)]
    assert len(found) == 3
    assert all(group.endswith(f" {start}") for start, group, _ in found)
    ledger.record(row(noon_s + 3 * DAY_S))
    assert [len(totals.group) for _, totals in ledger.timeline()] == [len("2026-11-01")] * len(
        ledger.totals("day")
    )


def test_timeline__the_hour_that_is_lived_twice_is_two(zone, ledger):
    """As summer ends, half past one comes twice, an hour apart."""
    zone("America/New_York")
    first_s = 1_793_511_000.0  # 2026-11-01 01:30, summer time
    ledger.record(row(first_s))
    ledger.record(row(first_s + HOUR_S))

    found = ledger.timeline()
    assert [totals.group for _, totals in found] == ["2026-11-01 01:00"] * 2
    assert found[1][0] - found[0][0] == HOUR_S


def test_timeline__of_a_session_and_of_nothing(ledger):
    """Nothing asked, nothing told; and only a session's own when that is asked for."""
    assert ledger.timeline() == []
    ledger.record(row(1_700_000_000.0, session="other"))
    ledger.count_hit(key=KEY, model="m")
    assert [totals.hits for _, totals in ledger.timeline("session-1")] == [1]


def test_totals_by_day__a_time_that_is_none_is_damage(ledger, database):
    """A row from the year 300,000 is not of this package, and no day is made up for it."""
    ledger.record(row(1_700_000_000.0))
    with database.transaction() as connection:
        connection.execute("UPDATE or_ledger SET at = 9e18")
    for ask in (lambda: ledger.totals("day"), ledger.timeline):
        with pytest.raises(StoreCorruptError):
            ask()


def test_distinct_asks__counts_requests_once(ledger, folder):
    """Hits and misses of one request are one; what is not written yet counts, other kinds don't."""
    assert ledger.distinct_asks() == 0
    for kind, key in [
        ("miss", "aa"),
        ("miss", "bb"),
        ("hit", "aa"),
        ("shared", "cc"),
        ("refresh", "dd"),
        ("replay", "ee"),
    ]:
        ledger.record(row(1.0, kind=kind, key=key))
    ledger.record(row(1.0, key="ff", session="other"))
    assert (ledger.distinct_asks(), ledger.distinct_asks("session-1"), ledger.distinct_asks("x")) == (4, 3, 0)

    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for key in ("aa", "00", "00"):
        ledger.count_hit(key=key, model="m")
    ledger.count_hit(key="11", model="m", kind="coalesced")
    assert (ledger.distinct_asks(), ledger.distinct_asks("other")) == (5, 1)
    other.close()
    assert ledger.distinct_asks() == 5
