"""Budgets: nothing is sent that may go over a limit, however many ask at once, and unknown is not zero."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost, Request
from or_cache_magic.errors import BudgetError, OptionError, UpstreamError
from or_cache_magic.money.budget import BudgetGuard, BudgetTracker, Limit
from or_cache_magic.storage.totals import Spent

REQUEST = Request({"model": "m", "messages": []})


class Estimated(NamedTuple):
    """What a guard reads of an estimate."""

    high_usd: Decimal | None
    low_usd: Decimal | None = Decimal(0)
    unknown_why: str = ""


def usd(text) -> Decimal:
    return Decimal(text)


def bought(text) -> Cost:
    return Cost(usd(text), "reported")


def guard(*limits, most="0.01", **estimate) -> BudgetGuard:
    known = None if most is None else usd(most)
    return BudgetGuard(limits, lambda _request: Estimated(known, **estimate))


def limit(most, tracker=None, name="this test") -> Limit:
    return Limit(name, usd(most), tracker or BudgetTracker())


def pay(guard: BudgetGuard, cost: Cost) -> None:
    with guard:
        guard.check(REQUEST)
        guard.paid = cost


def test_guard__lets_through_what_fits():
    """What can cost exactly what is left is sent."""
    tracker = BudgetTracker()
    with guard(limit("0.01", tracker), most="0.01") as guarded:
        guarded.check(REQUEST)
        assert tracker.at_most() == usd("0.01")
        guarded.paid = bought("0.004")
    assert tracker.at_most() == usd("0.004")


def test_guard__refuses_what_may_be_too_dear():
    """One cent more than the limit is not sent; the facts are attributes, the two lines say them."""
    with (
        pytest.raises(BudgetError) as caught,
        guard(limit("0.02"), most="0.03", low_usd=usd("0.001")) as refused,
    ):
        refused.check(REQUEST)
    error = caught.value
    assert (error.limit_usd, error.spent_usd) == (usd("0.02"), 0)
    assert (error.low_usd, error.high_usd) == (usd("0.001"), usd("0.03"))
    assert str(error).splitlines()[0] == (
        "this call may cost up to $0.03: over the $0.02 of this test (nothing was sent)"
    )
    assert len(str(error).splitlines()) == 2


def test_guard__refuses_what_nobody_can_tell():
    """A budget that can't be held is not pretended to be."""
    with pytest.raises(BudgetError, match="a router picks the model") as caught:
        guard(limit("9"), most=None, unknown_why="a router picks the model").check(REQUEST)
    assert caught.value.high_usd is None


def test_guard__every_limit_must_hold_and_a_refusal_reserves_nothing():
    """A call refused by one limit takes nothing out of the others."""
    wide, narrow = BudgetTracker(), BudgetTracker()
    with pytest.raises(BudgetError, match="the narrow one"):
        guard(limit("1", wide), limit("0.001", narrow, "the narrow one")).check(REQUEST)
    assert (wide.at_most(), narrow.at_most()) == (0, 0)


def test_purse__counts_what_was_paid_not_what_was_reserved():
    """After a call what it did cost stands in the place of what it might have."""
    tracker = BudgetTracker()
    for _ in range(9):
        pay(guard(limit("0.10", tracker), most="0.05"), bought("0.005"))
    assert tracker.at_most() == usd("0.045")


def test_purse__a_free_outcome_gives_the_reservation_back():
    """Who was served by another's call, or refused, paid nothing."""
    tracker = BudgetTracker()
    pay(guard(limit("0.01", tracker)), FREE)
    assert tracker.at_most() == 0


def test_purse__unknown_is_not_zero():
    """A call that never tells its cost keeps its reservation, and the next that would go over is refused."""
    tracker = BudgetTracker()
    pay(guard(limit("0.015", tracker)), UNKNOWN_COST)
    assert tracker.at_most() == usd("0.01")
    with pytest.raises(BudgetError) as caught:
        guard(limit("0.015", tracker)).check(REQUEST)
    assert caught.value.spent_usd == usd("0.01")


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (UpstreamError("refused", cost_usd=Decimal(0)), "0"),
        (UpstreamError("broken", cost_usd=Decimal("0.002")), "0.002"),
        (UpstreamError("timed out"), "0.01"),
        (OptionError("not sent"), "0"),
        (KeyboardInterrupt(), "0"),
    ],
)
def test_guard__an_error_tells_what_was_paid(error, left):
    """What an error says of the cost counts; what it doesn't say may have cost all that was reserved."""
    tracker = BudgetTracker()
    guarded = guard(limit("1", tracker))
    guarded.check(REQUEST)
    guarded.__exit__(type(error), error, None)
    assert tracker.at_most() == usd(left)


@pytest.mark.parametrize(
    ("sent", "cost", "left"),
    [(False, None, "0"), (True, None, "0.01"), (True, FREE, "0"), (True, bought("0.002"), "0.002")],
)
def test_guard__an_interrupt_costs_only_what_may_be_under_way(sent, cost, left):
    """Before a request is sent nothing is kept back; after that all of it, unless the cost is known."""
    tracker = BudgetTracker()
    guarded = guard(limit("1", tracker))
    callbacks = guarded.over(Callbacks())
    callbacks.before_send(REQUEST)
    if sent:
        callbacks.on_send()
    if cost is not None:
        callbacks.on_cost(cost)
    guarded.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert tracker.at_most() == usd(left)


def test_purse__settled_calls_give_way_to_the_ledger():
    """Where the ledger has learned the cost of one of two unknown calls, the dearer reservation stays."""
    ledger = Spent(usd("0.02"), 2)
    tracker = BudgetTracker(lambda: ledger)
    for most in ("0.05", "0.03"):
        pay(guard(limit("1", tracker), most=most), UNKNOWN_COST)
    assert tracker.at_most() == usd("0.10")
    ledger = Spent(usd("0.024"), 1)
    assert tracker.at_most() == usd("0.074")
    ledger = Spent(usd("0.028"), 0)
    assert tracker.at_most() == usd("0.028")


def test_guard__asks_its_asker_first():
    """Another's say before a call is sent is heard, and comes before the money."""
    heard: list[Request] = []
    callbacks = guard(limit("1")).over(Callbacks(before_send=heard.append))
    assert callbacks.before_send is not None
    callbacks.before_send(REQUEST)
    assert heard == [REQUEST]


def test_guard__many_at_once_never_overdraw():
    """Of 40 threads with one tracker only so many send as it holds at the highest price."""
    tracker, sent, lock = BudgetTracker(), [], threading.Lock()
    start = threading.Barrier(40)

    def ask() -> None:
        start.wait()
        try:
            with guard(limit("0.10", tracker), most="0.01") as guarded:
                guarded.check(REQUEST)
                with lock:
                    sent.append(1)
                guarded.paid = bought("0.01")
        except BudgetError:
            pass

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 10
    assert tracker.at_most() == usd("0.10")


cents = st.integers(0, 50).map(lambda c: Decimal(c) / 100)
costs = st.one_of(st.none(), cents)
Steps = list[tuple[Decimal, "Decimal | None", bool]]


@given(most=cents, steps=st.lists(st.tuples(cents, costs, st.booleans()), max_size=30))
def test_purse__what_was_really_paid_never_exceeds_the_limit(most: Decimal, steps: Steps):
    """Whatever calls cost within their estimates, told or not, together they stay within the limit."""
    tracker, paid, refusals = BudgetTracker(), Decimal(0), list[Decimal]()
    for high, cost, told in steps:
        real = min(high, cost if cost is not None else high)
        try:
            with BudgetGuard([Limit("law", most, tracker)], _estimate(high)) as guarded:
                guarded.check(REQUEST)
                paid += real
                guarded.paid = Cost(real, "reported") if told else UNKNOWN_COST
        except BudgetError as refused:
            spent = refused.spent_usd
            refusals.append(spent + high)
    assert all(total > most for total in refusals)
    assert paid <= tracker.at_most() <= most


def _estimate(high: Decimal) -> Callable[[Request], Estimated]:
    return lambda _request: Estimated(high)
