"""Dollars as integer pico-dollars."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.storage.columns import from_pico, to_pico


@given(st.integers(-(2**63), 2**63 - 1))
def test_pico__round_trip(pico):
    """Every 64-bit amount survives, whatever the caller's decimal context."""
    with localcontext() as context:
        context.prec = 3
        assert to_pico(from_pico(pico)) == pico


@pytest.mark.parametrize(
    ("usd", "pico"),
    [
        ("0.000123", 123_000_000),
        ("1E-12", 1),
        ("5E-13", 0),
        ("15E-13", 2),
        ("25E-13", 2),
        ("1E+3", 10**15),
        ("0", 0),
    ],
)
def test_to_pico__rounds_half_to_even_below_a_pico(usd, pico):
    """Digits below 1e-12 round half to even."""
    assert to_pico(Decimal(usd)) == pico


def test_pico__unknown_stays_unknown():
    """None is not 0, in either direction."""
    assert to_pico(None) is None
    assert from_pico(None) is None


@pytest.mark.parametrize("usd", ["NaN", "Infinity"])
def test_to_pico__refuses_what_is_no_amount(usd):
    """NaN can't be summed."""
    with pytest.raises(ValueError, match="not an amount"):
        to_pico(Decimal(usd))


@pytest.mark.parametrize(("pico", "text"), [(10 * 10**12, "10"), (10**9, "0.001"), (0, "0"), (-5, "-5E-12")])
def test_from_pico__reads_as_people_write(pico, text):
    """Without trailing zeros, and ten dollars is 10, not 1E+1."""
    assert str(from_pico(pico)) == text
