"""US dollars as SQLite adds them up exactly: integer pico-dollars (1e-12 USD).

OpenRouter prices tokens down to 1e-10 USD or so, and a 64-bit integer of pico-dollars reaches
9.2 million dollars; a float sum would drift. Digits below 1e-12 are rounded half to even.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, overload

# The caller's decimal context may round or trap; ours never loses a digit of a 64-bit sum.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PICO_DIGITS = 12
_PICO: Final = 10**_PICO_DIGITS


@overload
def to_pico(usd: Decimal) -> int: ...
@overload
def to_pico(usd: None) -> None: ...
def to_pico(usd: Decimal | None) -> int | None:
    """An amount of US dollars as integer pico-dollars; None (unknown) stays None.

    Raises:
        ValueError: The amount is NaN or infinite.
    """
    if usd is None:
        return None
    if not usd.is_finite():
        raise ValueError(f"{usd} is not an amount of money")
    return int(usd.scaleb(_PICO_DIGITS, _EXACT).to_integral_value(context=_EXACT))


@overload
def from_pico(pico: int) -> Decimal: ...
@overload
def from_pico(pico: None) -> None: ...
def from_pico(pico: int | None) -> Decimal | None:
    """Integer pico-dollars as US dollars without trailing zeros; None (unknown) stays None."""
    if pico is None:
        return None
    whole, part = divmod(pico, _PICO)
    # normalize() would write ten dollars as 1E+1; people read 10.
    return Decimal(pico).scaleb(-_PICO_DIGITS, _EXACT).normalize(_EXACT) if part else Decimal(whole)
