"""Units, parsed and formatted: dollars, numbers of foreign JSON, counts, shares, sizes, times.

Patterns are compiled when they are first used: a kernel's first hit needs few of them.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

NOTHING: Final = "-"
"""What stands where there is nothing to say."""

# Dollars

ZERO_USD: Final = Decimal(0)

_CENT: Final = Decimal("0.01")
_MOST_USD: Final = 10**9
_TEN_CENTS: Final = Decimal("0.1")
_AMOUNT: Final = r"\$?(\d+\.?\d*|\.\d+)"
_SOURCES: Final = {"reported": "", "generation": "settled", "apportioned": "share"}


def parse_usd(value: Any) -> Decimal:
    """Return an amount that a user wrote: ``0.50``, ``"$2"``, a Decimal.

    Raises:
        ValueError: It is none, or below 0.
    """
    if isinstance(value, str) and re.fullmatch(_AMOUNT, value.strip(), re.ASCII):
        usd: Decimal | None = Decimal(value.strip().removeprefix("$"))
    else:
        usd = decimal_usd(value.item() if type(value).__module__ == "numpy" else value)
    if usd is None or usd > _MOST_USD:
        raise ValueError(f"{str(value)[:40]!r} is no amount of US dollars")
    return usd


def decimal_usd(value: Any) -> Decimal | None:
    """Return an amount as a Decimal: a float by its shortest text; None if it is no number from 0 on.

    Texts aren't amounts here, and OpenRouter lists routers at ``-1``.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float)):
        return None
    amount = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    return amount if amount.is_finite() and amount >= 0 else None


def format_usd(usd: Decimal | None) -> str:
    """Return an amount: two significant digits under ten cents, cents above, ``$0`` only for nothing.

    Never in scientific notation. None is ``unknown``.
    """
    if usd is None:
        return "unknown"
    if not usd:
        return "$0"
    size = abs(usd)
    # Two significant digits: the last kept digit is one place behind the first.
    step = _CENT if size >= _TEN_CENTS else Decimal(1).scaleb(size.adjusted() - 1)
    shown = size.quantize(step, rounding=ROUND_HALF_UP)
    if shown >= _CENT and shown == shown.quantize(_CENT):
        shown = shown.quantize(_CENT)
    return f"{'-' if usd < 0 else ''}${shown:,f}"


def format_sum(usd: Decimal, *, unpriced: int = 0) -> str:
    """Return a sum of dollars; marked as a lower bound where the price of some asks isn't known.

    >>> format_sum(Decimal("1.5")), format_sum(Decimal("1.5"), unpriced=3)
    ('$1.50', '≥ $1.50')
    """
    return f"≥ {format_usd(usd)}" if unpriced else format_usd(usd)


def format_dollars(usd: float | None, *, unpriced: int = 0) -> str:
    """Return `format_sum` of what a DataFrame holds; None is ``unknown``."""
    return "unknown" if usd is None else format_sum(Decimal(repr(float(usd))), unpriced=unpriced)


def format_exact(usd: float | None) -> str:
    """Return every digit that a DataFrame's number has, never in scientific notation; empty for None.

    >>> format_exact(1.2e-06), format_exact(0.5)
    ('0.0000012', '0.5')
    """
    return "" if usd is None else f"{Decimal(repr(float(usd))):f}"


def format_source(source: str) -> str:
    """Return in a word how an amount came to be known; empty where the reply itself said it.

    >>> format_source("reported"), format_source("generation"), format_source("apportioned")
    ('', 'settled', 'share')
    """
    return _SOURCES.get(source, source)


# Numbers of foreign JSON, and counts

_NUMBER: Final = r"-?(?:[0-9]{1,13}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?"
"""What is read as a number: so short that calculating with it is cheap, whoever wrote it."""

_HIGHEST_COUNT: Final = 10**12


def read_number(value: Any, *, signed: bool = False) -> Decimal | None:
    """Return a number of foreign JSON, given as one or as text; None if it is none, or too long to be one.

    One below 0 is a number only if ``signed``.

    >>> read_number("1.50"), read_number(-2), read_number(-2, signed=True), read_number(float("nan"))
    (Decimal('1.50'), None, Decimal('-2'), None)
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004 - too long to be written out
        return None
    text = value.strip() if isinstance(value, str) else str(value)
    if not re.fullmatch(_NUMBER, text):
        return None
    number = Decimal(text)
    return number if signed or number >= 0 else None


def read_count(value: Any) -> int | None:
    """Return a number of tokens or seconds of foreign JSON; None if it isn't whole, or is below 0 or absurd.

    >>> read_count(12), read_count("12"), read_count(12.0), read_count(1.5), read_count(-1), read_count(True)
    (12, 12, 12, None, None, None)
    """
    number = read_number(value)
    if number is None or number > _HIGHEST_COUNT or number != int(number):
        return None
    return int(number)


def format_count(number: int, one: str, many: str = "") -> str:
    """Return a count and what is counted, in its plural unless it is 1.

    >>> format_count(1, "row"), format_count(1234, "row"), format_count(0, "entry", "entries")
    ('1 row', '1,234 rows', '0 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_tokens(prompt: int | None, completion: int | None) -> str:
    """Return how many tokens went in and came out; ``?`` for what was not reported.

    >>> format_tokens(1312, 187), format_tokens(5, None)
    ('1,312 → 187', '5 → ?')
    """
    sent = "?" if prompt is None else f"{prompt:,}"
    return f"{sent} → ?" if completion is None else f"{sent} → {completion:,}"


def share_of(part: Decimal | int, rest: Decimal | int) -> float | None:
    """Return the share of a part in the whole of it and the rest; None where there is nothing to share.

    >>> share_of(1, 3), share_of(0, 0)
    (0.25, None)
    """
    whole = part + rest
    return float(part / whole) if whole else None


def format_share(share: float | None, *, about: bool = False) -> str:
    """Return a share in per cent; 0% and 100% only where they are exact, a dash for a share of nothing.

    Args:
        share: From 0 to 1; None where there is nothing to divide by.
        about: Whether amounts are missing in it.

    >>> format_share(0.254), format_share(0.9999), format_share(0.0001), format_share(1.0)
    ('25%', '>99%', '<1%', '100%')
    """
    if share is None:
        return NOTHING
    shown = f"{share:.0%}"
    if shown == "100%" and share < 1:
        shown = ">99%"
    elif shown == "0%" and share > 0:
        shown = "<1%"
    return f"≈ {shown}" if about else shown


# Sizes

_SIZE_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_MOST_BYTES: Final = 10**18
_SIZE: Final = r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(I?)B"


def parse_size(text: str) -> int:
    """Return the bytes in ``500MB``, ``1.5 TB``; a thousand a step, or 1024 in ``KiB``, ``MiB``, ``GiB``.

    Raises:
        ValueError: It is none of these.

    >>> parse_size("500MB"), parse_size("1.5 GiB"), parse_size("0B")
    (500000000, 1610612736, 0)
    """
    found = re.fullmatch(_SIZE, text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 500MB or 2GB")
    number, unit, binary = found.groups()
    size_bytes = float(number) * (1024.0 if binary else 1000.0) ** _SIZE_UNITS.index(f"{unit}B")
    if size_bytes > _MOST_BYTES:
        raise ValueError(f"{text[:40]!r} is larger than any disk")
    return round(size_bytes)


def format_size(size_bytes: float) -> str:
    """Return a size in the unit that fits it, a thousand a step.

    >>> format_size(734), format_size(2_000_000_000), format_size(1_240_000)
    ('734 B', '2 GB', '1.2 MB')
    """
    step, size = 0, float(size_bytes)
    while round(size, 1) >= 1000 and step < len(_SIZE_UNITS) - 1:  # noqa: PLR2004
        step, size = step + 1, size / 1000
    return f"{size:.1f}".removesuffix(".0") + f" {_SIZE_UNITS[step]}"


# Lengths of time, and moments

FOREVER_S: Final = math.inf
"""A lifetime that never ends (``--ttl never``)."""

_TTL_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TTL: Final = r"([0-9]+(?:\.[0-9]+)?)([smhdw])"
_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S
_DAY_S: Final = 24 * _HOUR_S
_YEAR_S: Final = 365 * _DAY_S
_LONGEST_S: Final = 300 * _YEAR_S
_LENGTHS: Final = ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"))


def parse_ttl(text: str) -> float:
    """Return the seconds in ``45s``, ``30m``, ``24h``, ``7d``, ``2w``; `FOREVER_S` for ``never``.

    Raises:
        ValueError: It is none of these, or not above zero.

    >>> parse_ttl("24h"), parse_ttl("1.5d"), parse_ttl("never")
    (86400.0, 129600.0, inf)
    """
    text = text.strip().lower()
    if text == "never":
        return FOREVER_S
    found = re.fullmatch(_TTL, text)
    seconds = float(found[1]) * _TTL_UNITS_S[found[2]] if found else 0.0
    if not 0 < seconds < FOREVER_S:
        raise ValueError(f"{text!r} is no lifetime: write 30m, 24h, 7d or never")
    return seconds


def parse_lifetime(value: Any) -> float:
    """Return the seconds in a lifetime: a number of them, a `timedelta`, or what `parse_ttl` takes.

    What is longer than 300 years is `FOREVER_S`: databases and servers count in bounded numbers.

    Raises:
        ValueError: It is none of these, or not above zero.

    >>> parse_lifetime(3600), parse_lifetime("24h"), parse_lifetime(10**400)
    (3600.0, 86400.0, inf)
    """
    if isinstance(value, str):
        seconds = parse_ttl(value)
    else:
        if hasattr(value, "total_seconds"):
            value = value.total_seconds()
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except OverflowError:
            seconds = FOREVER_S if value > 0 else -FOREVER_S
        except (TypeError, ValueError):
            seconds = math.nan
        if not seconds > 0:
            raise ValueError(
                f"{str(value)[:40]} is no lifetime: write seconds above zero, or 30m, 24h, 7d, never"
            )
    return seconds if seconds < _LONGEST_S else FOREVER_S


def format_length(length_s: float | None) -> str:
    """Return a length of time in its largest whole unit; a dash where it has no end.

    >>> format_length(86400), format_length(5400), format_length(0.5), format_length(None)
    ('1 d', '90 min', '0.5 s', '-')
    """
    if length_s is None:
        return NOTHING
    for unit_s, name in _LENGTHS:
        if length_s >= unit_s and length_s % unit_s == 0:
            return f"{length_s / unit_s:,.0f} {name}"
    return f"{length_s:,g} s"


def format_age(age_s: float) -> str:
    """Return how long ago something was: ``just now``, ``5 min ago``, ``3 h ago``, ``2 d ago``."""
    if age_s >= 2 * _YEAR_S:
        return f"{int(age_s // _YEAR_S)} y ago"
    whole = _whole_units(age_s)
    return f"{whole} ago" if whole else "just now"


def _whole_units(length_s: float) -> str:
    """Return a length of time in the largest unit that it reaches, rounded down; empty below a minute."""
    for unit_s, name in _LENGTHS:
        if length_s >= unit_s:
            return f"{int(length_s // unit_s)} {name}"
    return ""


def format_duration(elapsed_s: float) -> str:
    """Return how long something took: ``0.04 s``, ``2.4 s``, ``3 min 20 s``."""
    if elapsed_s < 0.1:  # noqa: PLR2004 - one digit more, where one says nothing
        return f"{max(elapsed_s, 0):.2f} s"
    if round(elapsed_s, 1) < _MINUTE_S:
        return f"{elapsed_s:.1f} s"
    minutes, seconds = divmod(round(elapsed_s), _MINUTE_S)
    return f"{minutes} min {seconds} s"


def format_remaining(expires_s: float | None, now_s: float) -> str:
    """Return how long an entry is still served: ``3 h left``, ``expired``, ``never expires``."""
    if expires_s is None:
        return "never expires"
    left_s = expires_s - now_s
    if left_s <= 0:
        return "expired"
    return f"{_whole_units(left_s) or '< 1 min'} left"


def format_time(at_s: float, now_s: float) -> str:
    """Return a moment, short, in local time: with the hour in this year, with the year in others."""
    local = datetime.fromtimestamp(at_s).astimezone()
    this_year = local.year == datetime.fromtimestamp(now_s).astimezone().year
    return f"{local:%m-%d %H:%M}" if this_year else f"{local:%Y-%m-%d}"


def format_moment(at_s: float) -> str:
    """Return a moment exactly: local time with its offset from UTC."""
    return datetime.fromtimestamp(at_s).astimezone().isoformat(sep=" ", timespec="milliseconds")
