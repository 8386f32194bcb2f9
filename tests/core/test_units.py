"""Units: what is written is read, what is no number is none, and nothing is shown as what it isn't."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.units import (
    decimal_usd,
    format_age,
    format_duration,
    format_remaining,
    format_usd,
    parse_ttl,
    read_count,
    read_number,
)


@pytest.mark.parametrize(
    ("value", "usd"),
    [
        (Decimal("0.00423825"), "0.00423825"),
        (0.00423825, "0.00423825"),
        (7.35e-06, "0.00000735"),
        (0.1, "0.1"),
        (0, "0"),
        (3, "3"),
        (-1, None),
        (Decimal(-1), None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        ("0.5", None),
        (None, None),
        ([], None),
    ],
    ids=repr,
)
def test_decimal_usd__keeps_the_digits(value, usd):
    """The digits as written; what is no amount is none, and no amount is negative."""
    found = decimal_usd(value)
    assert found is None if usd is None else found == Decimal(usd)


@given(st.decimals(0, 10**6, places=12))
def test_decimal_usd__changes_no_decimal(amount):
    """A Decimal is itself."""
    assert str(decimal_usd(amount)) == str(amount)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        ("0", "$0"),
        ("0E-10", "$0"),
        ("0.0021", "$0.0021"),
        ("0.00213", "$0.0021"),
        ("1.5E-7", "$0.00000015"),
        ("0.00999", "$0.01"),
        ("0.0099", "$0.0099"),
        ("0.01", "$0.01"),
        ("0.125", "$0.13"),
        ("1234.5", "$1,234.50"),
        ("-0.5", "-$0.50"),
    ],
)
def test_format_usd__amounts(usd, text):
    """Two digits under a cent, cents above, never scientific."""
    assert format_usd(None if usd is None else Decimal(usd)) == text


@given(st.decimals("1e-12", "1e6"))
def test_format_usd__is_near(usd):
    """What is shown is within five percent, and something is never shown as nothing."""
    shown = Decimal(format_usd(usd).replace("$", "").replace(",", ""))
    assert (
        abs(shown - usd) <= max(usd * Decimal("0.051"), Decimal(0))
        or abs(shown - usd) <= Decimal("0.005") < usd
    )
    assert shown > 0


@pytest.mark.parametrize(
    "value",
    ["odd", "", "NaN", "Infinity", float("nan"), float("inf"), True, None, [], {}, "1e400", "1e-400", 10**400, "٣",
     "0x1", "1_000", "+1", "0." + "1" * 40, "9" * 5000, "1e999999999", Decimal("NaN"), Decimal("sNaN"), b"1"],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_read_number__refuses_what_is_none(value):
    """What is no number, or too long to be one, is none; with a sign too."""
    assert read_number(value) is read_number(value, signed=True) is read_count(value) is None


@given(st.decimals(-(10**6), 10**6, places=12) | st.floats(1e-12, 1e6) | st.integers(-(2**40), 2**40))
def test_read_number__is_exact_and_signed_only_where_asked(value):
    """Law: a number is read to its last digit, as itself and as its text; below 0 only where that may be."""
    exact = Decimal(str(value))
    for form in (value, str(value), f" {value} "):
        assert read_number(form, signed=True) == exact
        assert read_number(form) == (exact if exact >= 0 else None)


def test_read_count__has_an_end():
    """More tokens than a million millions are a mistake."""
    assert (read_count(10**12), read_count("1e12"), read_count(10**12 + 1)) == (10**12, 10**12, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600), ("1.5d", 129600), (" 1H ", 3600), ("never", math.inf)],
)  # fmt: skip
def test_parse_ttl__reads_lifetimes(text, seconds):
    """A number and a unit, or never."""
    assert parse_ttl(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "7", "h", "0h", "-1h", "1x", "1xs", "1e3s", "1_0s", "inf d", "nans", "٣h", "1 h", "9" * 400 + "s"],
)
def test_parse_ttl__refuses_what_is_none(text):
    """Anything else is refused, in words that say what would be taken."""
    with pytest.raises(ValueError, match="write 30m, 24h, 7d or never"):
        parse_ttl(text)


def test_format_age_and_duration__steps():
    """Ages and durations read as people say them."""
    assert [format_age(s) for s in (-5, 59, 300, 7200, 2 * 86400, 1000 * 86400)] == [
        *("just now", "just now", "5 min ago", "2 h ago", "2 d ago", "2 y ago")
    ]
    assert [format_duration(s) for s in (0.04, 2.44, 59.96, 200)] == [
        *("0.04 s", "2.4 s", "1 min 0 s", "3 min 20 s")
    ]


def test_format_remaining__steps():
    """The largest whole unit that is left; an entry without a lifetime never expires."""
    assert [format_remaining(s, 0.0) for s in (None, -1, 0, 59, 60, 7200, 3 * 86400)] == [
        *("never expires", "expired", "expired", "< 1 min left", "1 min left", "2 h left", "3 d left")
    ]
