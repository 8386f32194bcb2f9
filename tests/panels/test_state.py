"""What the panel looks at: filters, order, pages; and the selection, whichever page it is made on."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.errors import StoreError
from or_cache_magic.panels.selection import Selection
from or_cache_magic.panels.state import SORTS, Listing, View

from .conftest import DAY_S, keep, refusing, usd

VIEWS = st.builds(
    View,
    text=st.sampled_from(["", "question 1", "ANSWER", "nowhere"]),
    model=st.sampled_from(["", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4", "none/such"]),
    tag=st.sampled_from(["", "exam", "none"]),
    since_s=st.sampled_from([0.0, 3600.0, 7 * DAY_S]),
    state=st.sampled_from(["", "served", "expired"]),
    order=st.sampled_from([order for _, order in SORTS]),
    descending=st.booleans(),
)
LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(listing):
    keys = []
    for page in range(listing.pages):
        listing.turn_to(page)
        keys += [row.key for row in listing.rows()]
    return keys


@LAW
@given(view=VIEWS, page_size=st.integers(1, 17))
def test_paging__meets_every_match_once_in_order(filled, view, page_size):
    """Whatever is filtered and sorted, all pages together are what the store finds, in its order."""
    listing = Listing(filled.store.listing, filled.clock, page_size)
    listing.read(view)
    wanted = view.filter(filled.clock())
    found = filled.store.listing.find(wanted, order=view.order, descending=view.descending)
    assert read_all(listing) == [row.key for row in found]
    assert listing.count == len(found)
    assert sorted(listing.keys()) == filled.store.listing.digests(wanted)


@LAW
@given(first=VIEWS, second=VIEWS)
def test_reading__a_second_view_is_not_marked_by_the_first(filled, first, second):
    """Another view, or another order of a search that is not repeated, lists what a fresh panel would."""
    used, fresh = (Listing(filled.store.listing, filled.clock) for _ in range(2))
    used.read(first)
    used.read(second)
    fresh.read(second)
    assert read_all(used) == read_all(fresh)


@LAW
@given(states=st.lists(st.sampled_from(["served", "expired"]), min_size=1), at_s=st.floats(0, 40 * DAY_S))
def test_states__are_all_entries_and_none_twice(filled, states, at_s):
    """At any time each entry is either served or expired."""
    now_s = filled.clock.now_s + at_s - 20 * DAY_S
    served, expired, both = (
        {row.key for row in filled.store.listing.find(View(state=state).filter(now_s))}
        for state in ("served", "expired", "")
    )
    assert served | expired == both
    assert not served & expired


def test_paging__stays_whole_while_entries_come_and_go(filled):
    """Entries that are stored or removed while pages are turned neither hide others nor show them twice."""
    listing = Listing(filled.store.listing, filled.clock)
    listing.read(View())
    seen = [row.key for row in listing.rows()]
    before = filled.store.listing.digests(View().filter(0))
    gone = seen[3]
    filled.store.purge(View().filter(0)._replace(keys=(gone,)))
    keep(filled, "a new one")
    for page in range(1, listing.pages):
        listing.turn_to(page)
        seen += [row.key for row in listing.rows()]
    assert sorted(seen) == before


def test_turn_to__ends_at_the_ends(filled):
    """There is no page before the first nor after the last, and an empty list has one."""
    listing = Listing(filled.store.listing, filled.clock)
    assert (listing.pages, listing.rows()) == (1, [])
    listing.read(View())
    for asked, got in ((-1, 0), (1, 1), (99, 2)):
        listing.turn_to(asked)
        assert listing.page == got


# -- the selection ----------------------------------------------------------------------------


def test_selection__of_many_is_taken_some_at_a_time(cache):
    """More entries than SQLite takes parameters are weighed, listed and removed, exactly."""
    with cache.database.transaction():
        keys = [keep(cache, f"{i}", cost=usd("0.001")) for i in range(1100)]
    left = keep(cache, "left")
    chosen = Selection(cache)
    chosen.pick(keys, on=True)
    chosen.prune()
    weight = chosen.weigh()
    assert (weight.entries, weight.cost_usd, weight.unpriced) == (1100, Decimal("1.1"), 0)
    assert [row.prompt for row in chosen.rows(2)] != []
    assert len(chosen.rows()) == 1100
    assert chosen.drop() == 1100
    assert [row.key for row in cache.store.listing.find()] == [left]
    assert chosen.keys == set()


def test_selection__forgets_what_is_gone(filled):
    """What another kernel removed is neither counted nor removed."""
    first, second = (row.key for row in filled.store.listing.find(limit=2))
    chosen = Selection(filled)
    chosen.pick([first, second], on=True)
    filled.store.purge(View().filter(0)._replace(keys=(first,)))
    assert chosen.weigh().entries == 1
    chosen.prune()
    assert chosen.keys == {second}
    assert chosen.drop() == 1


def test_selection__is_removed_whole_or_not_at_all(cache, folder):
    """When the file refuses one of the last, none of them went."""
    with cache.database.transaction():
        keys = sorted(keep(cache, f"{i}") for i in range(450))
    chosen = Selection(cache)
    chosen.pick(keys, on=True)
    with refusing(folder, keys[-1]), pytest.raises(StoreError):
        chosen.drop()
    assert cache.store.listing.count()[0] == len(chosen.keys) == 450
