"""The tables that others build on: their columns, their types, and what is not known."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from or_cache_magic.frames import ENTRY_COLUMNS, STAT_COLUMNS, entries_frame, stats_frame
from or_cache_magic.records import Cost, EntryRow, Totals

ROW = EntryRow("ab" * 32, 1_767_268_800.5, "m/x", "P", "prompt", "answer", 3, None, Cost(Decimal("0.01"), "reported"), 2,
               Decimal("0.02"), 1_767_268_900.0, 1_767_268_860.5, ("a", "b"), 99, "n.ipynb")  # fmt: skip
BARE = ROW._replace(
    cost=Cost(None, "unknown"), saved_usd=None, last_hit_s=None, expires_s=None, tags=(), hits=0
)


def totals(**counts):
    kinds = (
        "calls",
        "hits",
        "misses",
        "refreshes",
        "bypasses",
        "coalesced",
        "replays",
        "stale",
        "failed",
        "unpriced",
    )
    sums = ("prompt_tokens", "completion_tokens", "hit_tokens", "bought_tokens")
    money = ("paid_usd", "saved_usd", "coalesced_usd", "replayed_usd")
    zeros = dict.fromkeys((*kinds, *sums), 0) | dict.fromkeys(money, Decimal(0)) | {"group": ""}
    return Totals(**(zeros | counts))


def test_entry_columns__are_those_of_the_design():
    """Notebooks are written against these names and their order."""
    assert ENTRY_COLUMNS == (
        "key", "created", "model", "provider", "prompt", "answer", "prompt_tokens", "completion_tokens", "cost_usd",
        "cost_source", "hits", "saved_usd", "last_hit", "ttl_s", "tags", "size_bytes", "notebook",
    )  # fmt: skip


def test_stat_columns__are_those_of_the_design():
    """The same for the statistics."""
    assert STAT_COLUMNS == (
        "calls", "hits", "misses", "hit_rate", "hit_rate_tokens", "hit_rate_usd", "paid_usd", "saved_usd",
        "prompt_cache_saved_usd", "unpriced", "prompt_tokens", "completion_tokens",
    )  # fmt: skip


def test_entries_frame__shows_plain_values():
    """Numbers, times in UTC, labels as text."""
    (row,) = entries_frame([ROW]).to_dict("records")
    assert (row["cost_usd"], row["saved_usd"], row["ttl_s"], row["tags"]) == (0.01, 0.02, 60.0, "a, b")
    assert row["created"].isoformat() == "2026-01-01T12:00:00.500000+00:00"
    assert row["last_hit"].isoformat() == "2026-01-01T12:01:40+00:00"


def test_entries_frame__shows_the_unknown_as_missing():
    """An unknown cost is not zero, and a lifetime without end is no number."""
    frame = entries_frame([BARE])
    assert frame["completion_tokens"].isna().all()
    (row,) = frame.to_dict("records")
    assert math.isnan(row["cost_usd"])
    assert math.isnan(row["saved_usd"])
    assert math.isnan(row["ttl_s"])
    assert str(row["last_hit"]) == "NaT"


@pytest.mark.parametrize("rows", [[], [BARE], [ROW, BARE]], ids=len)
def test_entries_frame__has_the_same_types_whatever_its_rows(rows):
    """Code that works on a full cache works on an empty one."""
    assert entries_frame(rows).dtypes.to_dict() == entries_frame([ROW]).dtypes.to_dict()


def test_stats_frame__has_three_hit_rates():
    """Requests, tokens and dollars; asks that neither hit nor missed are in none."""
    counts = totals(
        calls=10,
        hits=3,
        misses=1,
        bypasses=6,
        paid_usd=Decimal("0.04"),
        saved_usd=Decimal("0.01"),
        hit_tokens=1,
        bought_tokens=3,
    )
    (row,) = stats_frame([counts]).to_dict("records")
    assert (row["hit_rate"], row["hit_rate_usd"], row["hit_rate_tokens"]) == (0.75, 0.2, 0.25)


def test_stats_frame__divides_by_nothing():
    """Where nothing was asked there is no rate."""
    (row,) = stats_frame([totals()]).to_dict("records")
    assert all(
        math.isnan(row[name])
        for name in ("hit_rate", "hit_rate_tokens", "hit_rate_usd", "prompt_cache_saved_usd")
    )
    assert row["paid_usd"] == 0


def test_stats_frame__puts_the_group_first():
    """Also where there is no group."""
    frame = stats_frame([totals(group="m/x"), totals(group="m/y")], "model")
    assert list(frame["model"]) == ["m/x", "m/y"]
    empty = stats_frame([], "model")
    assert tuple(empty.columns) == ("model", *STAT_COLUMNS)
    assert empty.dtypes.to_dict() == frame.dtypes.to_dict()
