"""`Price`: what one offer charges, and what it charges instead for long prompts and at other hours.

The rules are OpenRouter's ("Models", *Pricing overrides*): an override applies when all its conditions hold,
a later one wins key by key, and what it does not name is inherited. What can't be told is unknown, never a
guess: a negative price (routers are listed at ``-1``), a condition that is not understood, and the rate of
another hour where a list shows only that of the hour at which it was fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["KEYS", "Override", "Price", "read_price"]

_NUMBER: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
"""What is read as a number: so short that reckoning with it is cheap, whoever wrote it."""

_DEAREST_USD: Final = 1000
"""A higher price of one token, image or search is a mistake."""

_ZERO: Final = Decimal(0)
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MINUTE_S: Final = 60
_DAY_MIN: Final = 24 * 60
_EDGE_S: Final = 600
"""How old a list may be when it comes: OpenRouter keeps it at its edge."""

_THURSDAY: Final = 3
"""The weekday of 1970-01-01."""

_MOST_OVERRIDES: Final = 100
"""A price with more of them is nobody's."""


class Override(NamedTuple):
    """Other rates under conditions, all of which must hold.

    Attributes:
        rates: By price key, in US dollars; None is unknown.
        over_tokens: The prompt must have more tokens than this; None is no condition.
        utc_min: From which minute of the UTC day (inclusive) to which (exclusive), perhaps past midnight;
            None is the whole day.
        utc_days: On which UTC weekdays, 0 is Monday; None is all.
        doubtful: Whether it has a condition that is not understood, so that it may or may not apply.
    """

    rates: Mapping[str, Decimal | None]
    over_tokens: Decimal | None = None
    utc_min: tuple[int, int] | None = None
    utc_days: frozenset[int] | None = None
    doubtful: bool = False

    def applies(self, prompt_tokens: int, minute: int) -> bool:
        """Whether the conditions hold that are understood; ``minute`` is of the UTC epoch."""
        if self.over_tokens is not None and prompt_tokens <= self.over_tokens:
            return False
        days, clock = divmod(minute, _DAY_MIN)
        if self.utc_days is not None and (days + _THURSDAY) % len(_DAYS) not in self.utc_days:
            return False
        if self.utc_min is None:
            return True
        start, end = self.utc_min
        return start <= clock < end if start < end else clock >= start or clock < end


class Price(NamedTuple):
    """US dollars for each token, or for what is named; None is not listed or, if named in `unknown`, unknown.

    Attributes:
        prompt: A token of the prompt.
        completion: A token of the answer, reasoning included.
        request: A call.
        image: An image that is sent.
        image_token: A token of an image.
        image_output: An image of the answer.
        audio: A token of sound that is sent.
        audio_output: A token of sound in the answer.
        input_audio_cache: A token of sound that is read from prompt caching.
        web_search: A search.
        internal_reasoning: A token of reasoning.
        input_cache_read: A prompt token that is read from prompt caching; not listed: as `prompt`.
        input_cache_write: One that is written to it, for its usual time (Anthropic: 5 minutes).
        input_cache_write_1h: One that is written for an hour, where that has a price of its own.
        discount: The part by which prices are lowered, 0 to 1. Whether the prices listed are lowered already
            isn't documented: so each stands for both.
        unknown: The names of prices that nobody can tell.
        overrides: Other prices under conditions.
        listed_s: When it was listed, UTC epoch seconds, since a list shows the rates of its hour; None is not
            known.
    """

    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None
    image_token: Decimal | None = None
    image_output: Decimal | None = None
    audio: Decimal | None = None
    audio_output: Decimal | None = None
    input_audio_cache: Decimal | None = None
    web_search: Decimal | None = None
    internal_reasoning: Decimal | None = None
    input_cache_read: Decimal | None = None
    input_cache_write: Decimal | None = None
    input_cache_write_1h: Decimal | None = None
    discount: Decimal = _ZERO
    unknown: frozenset[str] = frozenset()
    overrides: tuple[Override, ...] = ()
    listed_s: float | None = None

    def at(self, prompt_tokens: int, at_s: float) -> Price:
        """What a prompt of this length costs at this time, without overrides and discount.

        What the list does not tell for certain is None, and in `unknown`.
        """
        lowest, highest = self.between(prompt_tokens, prompt_tokens, at_s, at_s)
        differ = {key for key in KEYS if getattr(lowest, key) != getattr(highest, key)}
        nothing: dict[str, Any] = dict.fromkeys(differ)
        return highest._replace(**nothing, unknown=highest.unknown | differ)

    def between(
        self, fewest_tokens: int, most_tokens: int | None, from_s: float, until_s: float
    ) -> tuple[Price, Price]:
        """The lowest and the highest that can apply, key by key, without overrides and discount.

        Args:
            fewest_tokens: The prompt has at least so many.
            most_tokens: And at most so many; None is no limit.
            from_s: When it may be sent, UTC epoch seconds.
            until_s: When it may be billed.
        """
        lowest = highest = self._replace(overrides=(), discount=_ZERO, listed_s=None)
        if self.overrides:
            doubts = (False, True) if any(override.doubtful for override in self.overrides) else (False,)
            cases = product(
                _lengths(self.overrides, fewest_tokens, most_tokens),
                _minutes(self.overrides, from_s, until_s),
                doubts,
            )
            hidden = _hidden(self)
            lowest, highest = _extremes({_in_force(self, hidden, *case) for case in cases})
        return (_times(lowest, 1 - self.discount), highest) if self.discount else (lowest, highest)


KEYS: Final = Price._fields[: Price._fields.index("discount")]
"""The prices among the fields of `Price`; their names are OpenRouter's."""


def _hidden(price: Price) -> frozenset[str]:
    """The keys whose usual rate is not told, as an override may have been in force when it was listed."""
    minutes = range(0)
    if price.listed_s is not None:
        minutes = _minutes(price.overrides, price.listed_s - _EDGE_S, price.listed_s + _MINUTE_S)
    return frozenset(
        key
        for override in price.overrides
        if override.over_tokens is None  # no list shows the rates of long prompts as the usual ones
        if price.listed_s is None or any(override.applies(0, minute) for minute in minutes)
        for key, usd in override.rates.items()
        if usd == getattr(price, key)
    )


def _in_force(price: Price, hidden: Iterable[str], tokens: int, minute: int, doubtful: bool) -> Price:
    """A price with what applies of its overrides, and with or without those that are in doubt."""
    rates: dict[str, Any] = dict.fromkeys(hidden)
    for override in price.overrides:
        if override.applies(tokens, minute) and (doubtful or not override.doubtful):
            rates.update(override.rates)
    unknown = {key for key, usd in rates.items() if usd is None}
    unknown.update(price.unknown - rates.keys())
    return price._replace(**rates, unknown=frozenset(unknown), overrides=(), discount=_ZERO, listed_s=None)


def _lengths(overrides: Iterable[Override], fewest: int, most: int | None) -> set[int]:
    """One prompt length of each span in which the same overrides apply."""
    steps = {math.floor(one.over_tokens) for one in overrides if one.over_tokens is not None}
    longest = max(fewest, *steps, 0) + 1 if most is None else most
    return {fewest, longest} | {step + 1 for step in steps if fewest <= step < longest}


def _minutes(overrides: Iterable[Override], from_s: float, until_s: float) -> range:
    """The minutes to look at: windows begin and end with one."""
    first, last = int(from_s // _MINUTE_S), int(until_s // _MINUTE_S)
    timed = any(one.utc_min is not None or one.utc_days is not None for one in overrides)
    return range(first, (last if timed else first) + 1)


def _times(price: Price, factor: Decimal) -> Price:
    rates: dict[str, Any] = {key: usd * factor for key in KEYS if (usd := getattr(price, key)) is not None}
    return price._replace(**rates)


def _extremes(prices: Iterable[Price]) -> tuple[Price, Price]:
    """The lowest and the highest of each key; one that is listed only at times counts where it is."""
    prices = tuple(prices)
    unknown: frozenset[str] = frozenset().union(*(price.unknown for price in prices))
    lowest, highest = {}, {}
    for key in KEYS:
        listed = [usd for usd in (getattr(price, key) for price in prices) if usd is not None]
        if listed and key not in unknown:
            lowest[key], highest[key] = min(listed), max(listed)
    return Price(**lowest, unknown=unknown), Price(**highest, unknown=unknown)


def read_price(pricing: Any, listed_s: float | None = None) -> Price:
    """The price in a ``pricing`` object of OpenRouter's lists; takes anything, and never raises.

    Numbers may be texts. A price that is negative or no number is unknown, one that is null is not listed;
    fields that are not known here are ignored, except as conditions of an override. ``listed_s`` is when it
    was listed.
    """
    if not isinstance(pricing, Mapping):
        return Price(unknown=frozenset(("prompt", "completion")))
    rates: dict[str, Any] = _rates(pricing)
    unknown = {key for key, usd in rates.items() if usd is None}
    unknown |= {"prompt", "completion"} - rates.keys()
    discount = _number(pricing.get("discount") or 0)
    listed = pricing.get("overrides")
    listed = listed if isinstance(listed, (list, tuple)) else ()
    if discount is None or discount > 1 or len(listed) > _MOST_OVERRIDES:
        return Price(unknown=frozenset(KEYS))
    overrides = tuple(_overrides(listed))
    return Price(
        **rates, discount=discount, unknown=frozenset(unknown), overrides=overrides, listed_s=listed_s
    )


def _rates(pricing: Mapping[str, Any]) -> dict[str, Decimal | None]:
    """The prices of an object, by key; None is unknown."""
    listed = {key: pricing[key] for key in KEYS if pricing.get(key) is not None}
    return {key: _usd(value) for key, value in listed.items()}


def _overrides(listed: Iterable[Any]) -> Iterator[Override]:
    for entry in listed:
        if isinstance(entry, Mapping) and (rates := _rates(entry)):
            yield _override(entry, rates)


def _override(entry: Mapping[str, Any], rates: Mapping[str, Decimal | None]) -> Override:
    conditions = {name: value for name, value in entry.items() if value is not None and name not in KEYS}
    over_tokens = _number(conditions.get("min_prompt_tokens"))
    start, end = _minute(conditions.get("utc_start")), _minute(conditions.get("utc_end"))
    utc_min = (start, end) if start is not None and end is not None and start != end else None
    utc_days = _weekdays(conditions.get("utc_days"))
    understood = {
        "min_prompt_tokens": over_tokens is not None,
        "utc_start": utc_min is not None,
        "utc_end": utc_min is not None,
        "utc_days": utc_days is not None,
    }
    doubtful = not all(understood.get(name, False) for name in conditions)
    return Override(rates, over_tokens, utc_min, utc_days, doubtful)


def _number(value: Any) -> Decimal | None:
    """A number from 0 on, from a text or a number; None when it is none, or too long to be one."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004 - too long to be written out
        return None
    text = value.strip() if isinstance(value, str) else str(value)
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _usd(value: Any) -> Decimal | None:
    usd = _number(value)
    return usd if usd is not None and usd <= _DEAREST_USD else None


def _minute(value: Any) -> int | None:
    """The minute of the day that an HHMM clock number names (``1030`` is half past ten)."""
    clock = _number(value)
    if clock is None or clock != clock.to_integral_value():
        return None
    hours, minutes = divmod(int(clock), 100)
    minute = hours * 60 + minutes
    return minute if minutes < 60 and minute <= _DAY_MIN else None  # noqa: PLR2004 - of an hour


def _weekdays(value: Any) -> frozenset[int] | None:
    names = value if isinstance(value, (list, tuple)) else ()
    known = {name: day for day, name in enumerate(_DAYS)}
    days = [known.get(name.lower()) if isinstance(name, str) else None for name in names]
    return frozenset(day for day in days if day is not None) if days and None not in days else None
