"""What goes first when a cache is to fit into so many bytes; the quota that asks for it."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.settings import SETTINGS, Project, Settings, load_settings
from or_cache_magic.core.units import format_size, parse_size
from or_cache_magic.errors import OptionError, SettingError
from or_cache_magic.storage.columns import HitCount
from or_cache_magic.storage.database import MemoryDatabase
from or_cache_magic.storage.entries import DiskStore

from .conftest import record_hits

NOW_S = 1_700_000_000.0
DAY_S = 86400.0


@pytest.fixture
def shelf(store, make):
    """Entries of one size; their prompts say what speaks for and against each."""

    def put(name, *, cost="0.01", hits=0, last_hit_s=NOW_S, **fields):
        entry, request = make(f"{name:<12}", created_s=NOW_S - 100 * DAY_S, cost=cost, **fields)
        store.put(entry, request)
        if hits:
            record_hits(store, {entry.key.digest: HitCount(hits, last_hit_s, 0)})

    put("unknown", cost=None)
    put("dear", cost="1")
    put("used", hits=3)
    put("used long ago", hits=3, last_hit_s=NOW_S - 90 * DAY_S)
    put("cheap")
    put("free, used", cost="0", hits=1)
    put("free", cost="0")
    put("expired", cost="5", expires_s=NOW_S - 1)
    return store


def dropped(store, to_fit_bytes, **conditions):
    wanted = EntryFilter(to_fit_bytes=to_fit_bytes, to_fit_at_s=NOW_S, **conditions)
    return {row.prompt.strip() for row in store.listing.find(wanted)}


ORDER = ["expired", "free", "free, used", "cheap", "used long ago", "used", "dear", "unknown"]


@pytest.mark.parametrize("count", range(len(ORDER) + 1))
def test_to_fit__drops_what_loses_least(shelf, count):
    """The expired, then the least dollars a byte by use; the unknown cost is last, not free."""
    sizes = {row.prompt.strip(): row.size_bytes for row in shelf.listing.find()}
    rest = sum(sizes[name] for name in ORDER[count:])

    assert dropped(shelf, rest) == set(ORDER[:count])


def test_to_fit__among_those_that_match(shelf):
    """Beside another condition only its entries go, though others lose less; all of them when too few."""
    one_less = shelf.listing.size_bytes() - 1

    assert dropped(shelf, one_less, prefix="used") == {"used long ago"}
    assert dropped(shelf, 0, prefix="used") == {"used", "used long ago"}


def test_to_fit__purge_does_as_proposed(shelf):
    """What count and weigh announce is what goes, and the rest fits."""
    limit = shelf.listing.size_bytes() // 2
    wanted = EntryFilter(to_fit_bytes=limit, to_fit_at_s=NOW_S)
    weight = shelf.listing.totals(wanted)
    before = shelf.listing.size_bytes()

    assert shelf.listing.count(wanted) == weight[:3]
    assert shelf.purge(wanted) == weight.entries > 0
    assert shelf.listing.size_bytes() == before - weight.size_bytes <= limit
    assert shelf.purge(wanted) == 0


_ENTRY = st.tuples(
    st.none() | st.integers(0, 3).map(lambda n: Decimal(n) / 100),
    st.integers(0, 3),
    st.integers(0, 200),
    st.integers(0, 800),
)


@given(entries=st.lists(_ENTRY, min_size=1, max_size=12), part=st.floats(0, 1.2))
def test_to_fit__law(entries, part):
    """It fits afterwards, with no entry dropped too many, in the order of the documented formula."""
    from .conftest import make_entry, make_request

    with closing(MemoryDatabase()) as database:
        store = DiskStore(database)
        for i, (cost, hits, age_d, length) in enumerate(entries):
            request = make_request(f"{i}")
            entry = make_entry(
                request, "x" * length, cost=None if cost is None else str(cost), created_s=NOW_S
            )
            store.put(entry, request)
            if hits:
                record_hits(store, {entry.key.digest: HitCount(hits, NOW_S - age_d * DAY_S, 0)})
        limit = int(store.listing.size_bytes() * part)
        rows = {int(row.prompt): row for row in store.listing.find()}

        def rank(i):
            cost, hits, age_d, _ = entries[i]
            use = hits / (1.0 + (age_d * DAY_S if hits else 0.0) / (30 * DAY_S))
            worth = 0.0 if cost is None else int(cost * 10**12) * (1.0 + use) / rows[i].size_bytes
            return cost is None, worth, use, (NOW_S - age_d * DAY_S) if hits else NOW_S, i

        expected, left = set(), store.listing.size_bytes()
        for i in sorted(rows, key=rank):
            if left <= limit:
                break
            expected.add(i)
            left -= rows[i].size_bytes
        found = store.listing.find(EntryFilter(to_fit_bytes=limit, to_fit_at_s=NOW_S))
        assert {int(row.prompt) for row in found} == expected


# -- the quota ------------------------------------------------------------------------------------


def test_quota__warns_where_something_is_kept(open_cache, sim):
    """Over its quota the receipt of a bought answer says so, and how to get below; a hit's does not."""
    cache = open_cache(sim, quota=100)
    bought, again = cache.ask("one"), cache.ask("one")

    assert "over its quota of 100 B: %openrouter_purge --to-fit 100B" in bought.outcome.notes[-1]
    assert again.outcome.notes == ()
    assert cache.store.listing.count()[0] == 1
    assert cache.quota_warning() == bought.outcome.notes[-1]


@pytest.mark.parametrize("quota", [None, 10_000_000])
def test_quota__below_or_without_one_nothing_is_said(open_cache, sim, quota):
    """Below the quota, or with none, there is no note."""
    cache = open_cache(sim, quota=quota)

    assert cache.ask("one").outcome.notes == ()
    assert cache.quota_warning() == ""


def test_quota__is_held_against_the_entries(open_cache, sim):
    """A file larger than its quota, with entries that are not, is no reason to warn."""
    cache = open_cache(sim, quota=20_000)
    cache.ask("one")
    cache.database.checkpoint()

    assert (cache.directory / "cache.db").stat().st_size > 20_000
    assert cache.quota_warning() == ""


def test_purge__to_fit_takes_text_and_bytes(open_cache, sim):
    """``orc.purge(to_fit=…)`` drops until the rest fits, and returns what went."""
    cache = open_cache(sim)
    for i in range(4):
        cache.ask(f"prompt {i}")
    limit = cache.store.listing.size_bytes() - 1

    preview = cache.preview(cache.purge_filter(to_fit=limit))
    gone = cache.purge(to_fit=limit, dry_run=True)
    assert (preview.entries, len(gone), cache.store.listing.count()[0]) == (1, 1, 4)
    assert preview.size_bytes + preview.rest_bytes == limit + 1
    assert len(cache.purge(to_fit=limit)) == 1
    assert len(cache.purge(to_fit="500MB")) == 0
    assert len(cache.purge(to_fit="0B")) == 3
    with pytest.raises(OptionError, match="is no size"):
        cache.purge(to_fit="a lot")
    with pytest.raises(OptionError, match="all goes with no other"):
        cache.purge(to_fit="1MB", all=True)


def test_quota__setting(tmp_path):
    """It is written as a size or in bytes; ``none`` is none; 2 GB unless set."""

    def quota(value):
        return load_settings({}, Project(tmp_path), {"quota": value}).quota

    assert Settings().quota == 2_000_000_000
    assert [quota(v) for v in ("500MB", "1.5 GiB", 1000, "none")] == [5 * 10**8, 3 << 29, 1000, None]
    assert "quota" in SETTINGS
    for wrong in ("lots", -1, True, "5", "1e9MB"):
        with pytest.raises(SettingError):
            quota(wrong)


@given(st.integers(0, 10**15))
def test_sizes__read_back_near(size_bytes):
    """A size as it is shown is read back within its rounding."""
    again = parse_size(format_size(size_bytes))

    assert abs(again - size_bytes) <= max(0.5, size_bytes * 0.05)


def test_cache__memory_has_a_quota_too(sim):
    """A cache in memory warns as well."""
    settings = Settings(model="openai/gpt-4o-mini", base_url=sim.base_url, quota=1)
    with CompletionCache(":memory:", settings=lambda: settings, api_key=lambda: "sk-or-v1-test") as cache:
        assert "over its quota" in cache.ask("one").outcome.notes[-1]
