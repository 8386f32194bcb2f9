"""Prices: every rule by hand, the simulator's billing as an oracle, and lists that nobody should send."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from or_cache_magic.money.price import KEYS, Price, read_price
from or_cache_magic.simulator.billing import price_at
from or_cache_magic.simulator.catalog import Endpoint, PriceOverride
from or_cache_magic.simulator.catalog import Price as SimulatedPrice

DAY_S = 86_400
THURSDAY_S = 1_767_225_600  # 2026-01-01 00:00 UTC
EVERY = {
    "prompt": "0.000003",
    "completion": "0.000015",
    "request": "0.005",
    "image": "0.0048",
    "image_token": "0.00003",
    "image_output": "0.04",
    "audio": "0.0000007",
    "audio_output": "0.00002",
    "input_audio_cache": "0.0000001",
    "web_search": "0.01",
    "internal_reasoning": "0.000003",
    "input_cache_read": "0.0000003",
    "input_cache_write": "0.00000375",
    "input_cache_write_1h": "0.000006",
}
NIGHT = {"prompt": "0.00000028", "completion": "0.00000042",
         "overrides": [{"utc_start": 1630, "utc_end": 30, "prompt": "0.00000014"}]}  # fmt: skip


def at(hhmm: str, *, days: int = 0) -> float:
    hours, minutes = map(int, hhmm.split(":"))
    return THURSDAY_S + days * DAY_S + hours * 3600 + minutes * 60


def price_told(price: Price, tokens: int, at_s: float) -> Price:
    """What is certain of the price of a prompt of this length at this time; the rest is None, and unknown."""
    lowest, highest = price.between(tokens, tokens, at_s, at_s)
    differ = {key for key in KEYS if getattr(lowest, key) != getattr(highest, key)}
    return highest._replace(**dict.fromkeys(differ), unknown=highest.unknown | differ)


def test_read_price__has_every_field():
    """Each price that OpenRouter documents is read, to the last digit."""
    price = read_price(EVERY)
    assert set(EVERY) == set(KEYS)
    assert {key: getattr(price, key) for key in KEYS} == {key: Decimal(text) for key, text in EVERY.items()}
    assert (price.unknown, price.discount, price.overrides) == (frozenset(), 0, ())


@pytest.mark.parametrize(
    ("value", "usd"),
    [
        ("0.00000015", "1.5e-7"),
        (Decimal("1.5E-7"), "1.5e-7"),
        (1.5e-07, "1.5e-7"),
        (" 2 ", "2"),
        (3, "3"),
        (".5", "0.5"),
    ],
    ids=repr,
)
def test_read_price__takes_numbers_as_texts_or_numbers(value, usd):
    """A price may come as a text, as it is documented, or as a number."""
    assert read_price({"prompt": value, "completion": "0"}).prompt == Decimal(usd)


@pytest.mark.parametrize(
    "value",
    ["-1", -1, "-0.0001", "odd", "", "NaN", "Infinity", float("nan"), float("inf"), True, [], {}, "1e400", "1001",
     10**400, "٣", "0x1", "1_000", "0." + "1" * 40, "9" * 5000, "1e999999999", Decimal("NaN"), Decimal("sNaN")],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_read_price__does_not_know_what_is_no_price(value):
    """Negative prices (a router's -1) and what is no number are unknown, never a figure."""
    price = read_price({"prompt": value, "completion": "1"})
    assert (price.prompt, price.completion, price.unknown) == (None, 1, {"prompt"})


@pytest.mark.parametrize("pricing", [None, [], "0", 1, {}, {"request": "0"}], ids=repr)
def test_read_price__needs_both_prices_of_tokens(pricing):
    """Without the prices of prompt and answer they are unknown."""
    assert read_price(pricing).unknown == {"prompt", "completion"}


def test_read_price__tells_not_listed_from_unknown():
    """A price that is null or absent is not listed; one that is negative is unknown."""
    price = read_price({"prompt": "1", "completion": "1", "input_cache_read": None, "request": "-1"})
    assert (price.input_cache_read, price.input_cache_write, price.request) == (None, None, None)
    assert price.unknown == {"request"}


def test_overrides__by_prompt_length_are_strict():
    """A threshold is exceeded strictly, and what an override does not name is inherited."""
    price = read_price({"prompt": "1", "completion": "2", "input_cache_read": "0.5",
                        "overrides": [{"min_prompt_tokens": 200000, "prompt": "3"}]})  # fmt: skip
    assert price_told(price, 200_000, 0) == Price(Decimal(1), Decimal(2), input_cache_read=Decimal("0.5"))
    assert price_told(price, 200_001, 0) == Price(Decimal(3), Decimal(2), input_cache_read=Decimal("0.5"))


@pytest.mark.parametrize(
    ("clock", "prompt"),
    [("16:29", "0.00000028"), ("16:30", "0.00000014"), ("23:59", "0.00000014"), ("00:00", "0.00000014"),
     ("00:29", "0.00000014"), ("00:30", "0.00000028"), ("12:00", "0.00000028")],
)  # fmt: skip
def test_overrides__by_time_of_day_wrap_midnight(clock, prompt):
    """A window includes its start and excludes its end, and may go past midnight."""
    assert price_told(read_price(NIGHT), 10, at(clock)).prompt == Decimal(prompt)


@pytest.mark.parametrize(
    ("day", "clock", "prompt"),
    [
        (0, "12:00", 1),
        (1, "12:00", 1),
        (2, "12:00", 3),
        (3, "12:00", 3),
        (4, "12:00", 1),
        (2, "09:59", 1),
        (9, "10:00", 3),
    ],
)
def test_overrides__by_weekday(day, clock, prompt):
    """Days are UTC weekdays at the moment of the call: 2026-01-03 was a Saturday."""
    price = read_price({"prompt": "1", "completion": "1", "overrides": [
        {"utc_days": ["saturday", "Sunday"], "utc_start": 1000, "utc_end": 2400, "prompt": "3"}]})  # fmt: skip
    assert price_told(price, 10, at(clock, days=day)).prompt == prompt
    assert datetime.fromtimestamp(at("00:00", days=2), timezone.utc).strftime("%A") == "Saturday"


def test_overrides__leave_the_unknown_unknown():
    """What is unknown stays so under overrides, until one names it; and one may make a price unknown."""
    price = read_price({"prompt": "-1", "completion": "1", "request": "-1", "overrides": [
        {"min_prompt_tokens": 10, "prompt": "2"}, {"min_prompt_tokens": 20, "completion": "-1"}]})  # fmt: skip
    assert [price_told(price, tokens, 0).unknown for tokens in (10, 20, 21)] == [
        {"prompt", "request"}, {"request"}, {"request", "completion"}]  # fmt: skip


def test_overrides__all_conditions_must_hold_and_later_ones_win():
    """Of the entries that apply, later ones win key by key."""
    price = read_price({"prompt": "1", "completion": "1", "overrides": [
        {"min_prompt_tokens": 10, "prompt": "2", "completion": "2"},
        {"min_prompt_tokens": 100, "prompt": "3"},
        {"min_prompt_tokens": 10, "utc_start": 600, "utc_end": 700, "completion": "4"},
    ]})  # fmt: skip
    rates = [(price_told(price, tokens, at(clock)).prompt, price_told(price, tokens, at(clock)).completion)
             for tokens, clock in ((10, "06:30"), (11, "05:59"), (11, "06:00"), (101, "06:59"), (101, "07:00"))]  # fmt: skip
    assert rates == [(1, 1), (2, 2), (2, 4), (3, 4), (3, 2)]


@pytest.mark.parametrize(
    "condition",
    [{"region": "eu"}, {"utc_start": 100}, {"utc_end": 100}, {"utc_start": 100, "utc_end": 100},
     {"utc_start": "odd", "utc_end": 100}, {"utc_start": 2561, "utc_end": 100}, {"utc_start": 170, "utc_end": 200},
     {"utc_days": ["someday"]}, {"utc_days": []}, {"utc_days": "monday"}, {"min_prompt_tokens": "many"},
     {"min_prompt_tokens": -1}, {"min_prompt_tokens": 5, "region": "eu"}],
    ids=repr,
)  # fmt: skip
def test_overrides__whose_conditions_are_not_understood_leave_a_doubt(condition):
    """Where it can't be told whether an override applies, its keys are unknown, and the range has both rates."""
    price = read_price({"prompt": "1", "completion": "2", "overrides": [{"prompt": "3", **condition}]})
    assert price_told(price, 10, at("01:30")) == Price(None, Decimal(2), unknown=frozenset(["prompt"]))
    lowest, highest = price.between(10, 10, at("01:30"), at("01:30"))
    assert (lowest.prompt, highest.prompt) == (1, 3)


def test_price__of_another_hour_is_not_guessed():
    """A list that was fetched while a cheap hour ran shows its rate, and does not tell the usual one."""
    fetched_by_night = NIGHT | {"prompt": "0.00000014"}
    price = read_price(fetched_by_night)
    assert price_told(price, 10, at("20:00")).prompt == Decimal("0.00000014")
    assert price_told(price, 10, at("12:00")) == Price(
        None, Decimal("0.00000042"), unknown=frozenset(["prompt"])
    )
    assert price.between(10, 10, at("12:00"), at("12:00"))[1].unknown == {"prompt"}


def test_price__of_another_hour_is_told_by_when_it_was_listed():
    """A window that names the usual rate again hides nothing in a list that was fetched outside of it."""
    same = {
        "prompt": "3",
        "completion": "2",
        "overrides": [{"utc_start": 1630, "utc_end": 30, "prompt": "3"}],
    }
    assert price_told(read_price(same, at("12:00")), 10, at("12:00")).prompt == 3
    assert price_told(read_price(same, at("20:00")), 10, at("12:00")).unknown == {"prompt"}
    # OpenRouter's edge may have kept it from before the window closed.
    assert price_told(read_price(same, at("00:35")), 10, at("12:00")).unknown == {"prompt"}
    assert price_told(read_price(same), 10, at("12:00")).unknown == {"prompt"}


def test_price__of_another_hour_is_told_where_windows_cover_the_day():
    """When every hour has its window, any list tells every hour's rate, as the simulator's do."""
    day = {"utc_start": 30, "utc_end": 1630, "prompt": "0.00000028"}
    price = read_price(NIGHT | {"prompt": "0.00000014", "overrides": [day, *NIGHT["overrides"]]})
    assert price_told(price, 10, at("12:00")).prompt == Decimal("0.00000028")
    assert price_told(price, 10, at("16:30")).prompt == Decimal("0.00000014")


def test_between__spans_lengths_and_hours():
    """The lowest and highest of each key over all prompt lengths and minutes that are possible."""
    price = read_price({"prompt": "2", "completion": "2", "overrides": [
        {"min_prompt_tokens": 100, "prompt": "5"}, {"min_prompt_tokens": 200, "prompt": "1"},
        {"utc_start": 600, "utc_end": 601, "completion": "7"}]})  # fmt: skip

    def prompts(fewest, most):
        lowest, highest = price.between(fewest, most, at("12:00"), at("12:00"))
        return lowest.prompt, highest.prompt

    spans = [(1, 100), (100, 101), (1, 201), (100, 400), (150, None), (201, None)]
    assert [prompts(*span) for span in spans] == [(2, 2), (2, 5), (1, 5), (1, 5), (1, 5), (1, 1)]
    lowest, highest = price.between(1, 1, at("05:55"), at("06:05"))
    assert (lowest.completion, highest.completion) == (2, 7)
    assert price.between(1, 1, at("05:55"), at("05:59"))[1].completion == 2


def test_overrides__in_doubt_are_independent():
    """Of several that may or may not apply, each alone is possible."""
    doubts = [{"region": "eu", "prompt": "1"}, {"region": "us", "prompt": "9"}]
    price = read_price({"prompt": "5", "completion": "2", "overrides": doubts})
    assert {reading.prompt for reading in price.readings(10, 10, 0, 0)} == {5, 1, 9}
    lowest, highest = price.between(10, 10, 0, 0)
    assert (lowest.prompt, highest.prompt) == (1, 9)


def test_discount__stands_for_both_readings():
    """Whether listed prices are lowered already isn't documented: at a discount both are possible."""
    price = read_price({"prompt": "4", "completion": "8", "discount": 0.25})
    lowest, highest = price.between(1, 1, 0, 0)
    assert (lowest.prompt, highest.prompt, lowest.completion) == (3, 4, 6)
    assert price_told(price, 1, 0).unknown == {"prompt", "completion"}
    assert price_told(read_price({"prompt": "4", "completion": "8", "discount": 0}), 1, 0).prompt == 4


@pytest.mark.parametrize("discount", [-0.1, 1.5, "odd", [1]], ids=repr)
def test_discount__that_is_none_makes_all_unknown(discount):
    """A discount that can't be one leaves no price."""
    assert read_price({"prompt": "4", "completion": "8", "discount": discount}) == Price(
        unknown=frozenset(KEYS)
    )


rates = st.integers(1, 50).map(lambda n: Decimal(n) / 10**8)
clocks = st.integers(0, 1439).map(lambda minute: minute // 60 * 100 + minute % 60)
windows = st.none() | st.tuples(clocks, clocks).filter(lambda window: window[0] != window[1])


@st.composite
def endpoints(draw):
    overrides = []
    for _ in range(draw(st.integers(0, 4))):
        start, end = draw(windows) or (None, None)
        overrides.append(
            PriceOverride(
                draw(st.none() | st.integers(0, 300)), start, end, draw(rates), draw(st.none() | rates)
            )
        )
    return Endpoint("P", "p", SimulatedPrice(draw(rates), draw(rates)), overrides=tuple(overrides))


def listed(endpoint: Endpoint, fetched_s: float) -> Price:
    """The endpoint as OpenRouter lists it at this time: the usual keys show the rate that applies."""
    shown = price_at(endpoint, 0, fetched_s)
    names = ("min_prompt_tokens", "utc_start", "utc_end", "prompt", "completion")
    overrides = [{n: getattr(o, n) for n in names if getattr(o, n) is not None} for o in endpoint.overrides]
    pricing = {"prompt": shown.prompt, "completion": shown.completion, "overrides": overrides}
    return read_price(json.loads(json.dumps(pricing, default=str)), fetched_s)


moments = st.integers(0, 14 * 1440 - 1).map(lambda minute: THURSDAY_S + minute * 60.0)


@given(endpoints(), moments, moments, st.integers(0, 400))
def test_price__is_the_simulators_price_or_unknown(endpoint, fetched_s, at_s, tokens):
    """Law: whenever the list was fetched, a price that it gives for a time is the one that is billed then."""
    told, billed = price_told(listed(endpoint, fetched_s), tokens, at_s), price_at(endpoint, tokens, at_s)
    assert told.prompt in (billed.prompt, None)
    assert told.completion in (billed.completion, None)
    assert {key for key in ("prompt", "completion") if getattr(told, key) is None} == told.unknown


@given(endpoints(), moments, st.integers(0, 400))
def test_price__knows_the_price_of_the_moment_it_was_fetched(endpoint, at_s, tokens):
    """Law: a list that was fetched while no window was open tells the price of that moment."""
    for override in endpoint.overrides:
        alone = replace(endpoint, overrides=(replace(override, prompt=Decimal(7)),))
        open_lately = any(price_at(alone, 0, at_s + minutes * 60).prompt == 7 for minutes in range(-10, 2))
        assume(not open_lately or override.utc_start is None)
    told, billed = price_told(listed(endpoint, at_s), tokens, at_s), price_at(endpoint, tokens, at_s)
    assert (told.prompt, told.completion) == (billed.prompt, billed.completion)


@given(endpoints(), moments, moments, st.integers(0, 700), st.integers(0, 400), st.integers(0, 100))
def test_between__holds_every_billed_price(endpoint, fetched_s, from_s, later_s, fewest, more):
    """Law: what is billed for any length and time within the bounds is not below the lowest or above the highest."""
    price = listed(endpoint, fetched_s)
    lowest, highest = price.between(fewest, fewest + more, from_s, from_s + later_s)
    for tokens in {fewest, fewest + more // 2, fewest + more}:
        for at_s in (from_s, from_s + later_s // 2, from_s + later_s):
            billed = price_at(endpoint, tokens, at_s)
            for key in ("prompt", "completion"):
                if key not in highest.unknown:
                    assert getattr(lowest, key) <= getattr(billed, key) <= getattr(highest, key)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text(max_size=8) | st.sampled_from(["1", "-1", "0.5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "discount", "overrides", "utc_start", "utc_days", "odd"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(json_values, st.integers(0, 10**7), moments)
def test_read_price__takes_anything(pricing, tokens, at_s):
    """Law: whatever is listed, reading and asking it raises nothing, and no price is below 0."""
    lowest, highest = read_price(pricing).between(tokens, None, at_s, at_s + 600)
    for key in KEYS:
        low, high = getattr(lowest, key), getattr(highest, key)
        assert (low is None) == (high is None)
        assert low is None or 0 <= low <= high
        assert key not in highest.unknown or high is None


def test_read_price__refuses_a_flood_of_overrides():
    """A price with thousands of overrides is nobody's, and costs no time."""
    entry = {"min_prompt_tokens": 1, "prompt": "1"}
    flood = {"prompt": "1", "completion": "1", "overrides": [entry] * 10_000}
    assert read_price(flood).unknown == set(KEYS)
    odd = [{"region": str(number), "prompt": "1"} for number in range(50)]
    assert read_price(flood | {"overrides": odd}).between(1, 1, 0, 0)[1].unknown == set(KEYS)
