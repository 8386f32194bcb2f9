"""`Price`: what one endpoint charges, and what it charges instead for long prompts and at other hours.

The rules are OpenRouter's ("Models", *Pricing overrides*): an override applies when all its conditions hold,
a later one wins key by key, and what it does not name is inherited. What isn't certain is unknown, never a
guess: a negative price (routers are listed at ``-1``), a condition that is not understood, and the rate of
another hour where a list shows only that of the hour at which it was fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import product
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import as_list
from or_cache_magic.core.units import ZERO_USD, read_count, read_number

_HIGHEST_USD: Final = 1000
"""A higher price of one token, image or search is a mistake."""

_MOST_OVERRIDES: Final = 100
_MOST_READINGS: Final = 1024
"""A price with more overrides or readings is a mistake, or an attack: it is unknown."""

_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MINUTE_S: Final = 60
_DAY_MIN: Final = 24 * 60
_EDGE_S: Final = 600
"""How old a list may be when it comes: OpenRouter keeps it at its edge."""

_THURSDAY: Final = 3
"""The weekday of 1970-01-01."""


class Override(NamedTuple):
    """Other rates under conditions, all of which must hold.

    Attributes:
        rates: By price key, in US dollars; None is unknown.
        over_tokens: The prompt must have more tokens than this; None is no condition.
        hours: From which minute of the UTC day (inclusive) to which (exclusive), perhaps past midnight;
            None is the whole day.
        days: On which UTC weekdays, 0 is Monday; None is all.
        doubtful: Whether it has a condition that is not understood, so that it may or may not apply.
    """

    rates: Mapping[str, Decimal | None]
    over_tokens: Decimal | None = None
    hours: tuple[int, int] | None = None
    days: frozenset[int] | None = None
    doubtful: bool = False

    def applies(self, prompt_tokens: int, minute: int) -> bool:
        """Return whether the conditions hold that are understood; ``minute`` is of the UTC epoch."""
        if self.over_tokens is not None and prompt_tokens <= self.over_tokens:
            return False
        days, clock = divmod(minute, _DAY_MIN)
        if self.days is not None and (days + _THURSDAY) % len(_DAYS) not in self.days:
            return False
        start, end = self.hours or (0, _DAY_MIN)
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
        unknown: The names of prices that are unknown.
        overrides: Other prices under conditions.
        listed_s: When it was listed, UTC epoch seconds, since a list shows the rates of its hour; None is
            unknown.
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
    discount: Decimal = ZERO_USD
    unknown: frozenset[str] = frozenset()
    overrides: tuple[Override, ...] = ()
    listed_s: float | None = None

    def between(
        self, fewest_tokens: int, most_tokens: int | None, from_s: float, until_s: float
    ) -> tuple[Price, Price]:
        """Return the lowest and the highest price that can apply, key by key; see `readings`."""
        readings = self.readings(fewest_tokens, most_tokens, from_s, until_s)
        unknown: frozenset[str] = frozenset().union(*(reading.unknown for reading in readings))
        lowest, highest = {}, {}
        for key in KEYS:
            # A rate that is listed only at times counts where it is.
            listed = [usd for usd in (getattr(reading, key) for reading in readings) if usd is not None]
            if listed and key not in unknown:
                lowest[key], highest[key] = min(listed), max(listed)
        return Price(**lowest, unknown=unknown), Price(**highest, unknown=unknown)

    def readings(
        self, fewest_tokens: int, most_tokens: int | None, from_s: float, until_s: float
    ) -> set[Price]:
        """Return every price that can apply, without overrides and discount.

        Args:
            fewest_tokens: The prompt has at least so many.
            most_tokens: And at most so many; None is no limit.
            from_s: When it may be sent, UTC epoch seconds.
            until_s: When it may be billed.
        """
        lengths = _lengths(self.overrides, fewest_tokens, most_tokens)
        minutes = _minutes(self.overrides, from_s, until_s)
        doubtful = sum(override.doubtful for override in self.overrides)
        if len(lengths) * len(minutes) << doubtful > _MOST_READINGS:
            return {Price(unknown=frozenset(KEYS))}
        hidden = self._hidden()
        cases = product(lengths, minutes, product((False, True), repeat=doubtful))
        prices = {self._in_force(hidden, tokens, minute, iter(doubts)) for tokens, minute, doubts in cases}
        return prices | {_times(price, 1 - self.discount) for price in prices if self.discount}

    def _hidden(self) -> frozenset[str]:
        """Return the keys whose usual rate is not known, since an override may have hidden it in the list."""
        minutes = range(0)
        if self.listed_s is not None:
            minutes = _minutes(self.overrides, self.listed_s - _EDGE_S, self.listed_s + _MINUTE_S)
        return frozenset(
            key
            for override in self.overrides
            if override.over_tokens is None  # no list shows the rates of long prompts as the usual ones
            if self.listed_s is None or any(override.applies(0, minute) for minute in minutes)
            for key, usd in override.rates.items()
            if usd == getattr(self, key)
        )

    def _in_force(self, hidden: Iterable[str], tokens: int, minute: int, doubts: Iterator[bool]) -> Price:
        """Return the price with what applies of its overrides; of those in doubt ``doubts`` says which do."""
        rates: dict[str, Any] = dict.fromkeys(hidden)
        for override in self.overrides:
            is_taken = not override.doubtful or next(doubts)
            if is_taken and override.applies(tokens, minute):
                rates.update(override.rates)
        unknown = {key for key, usd in rates.items() if usd is None} | (self.unknown - rates.keys())
        return self._replace(
            **rates, unknown=frozenset(unknown), overrides=(), discount=ZERO_USD, listed_s=None
        )


KEYS: Final = Price._fields[: Price._fields.index("discount")]
"""The prices among the fields of `Price`; their names are OpenRouter's."""


def _lengths(overrides: Iterable[Override], fewest: int, most: int | None) -> set[int]:
    """Return one prompt length of each span in which the same overrides apply."""
    steps = {math.floor(one.over_tokens) for one in overrides if one.over_tokens is not None}
    longest = max(fewest, *steps, 0) + 1 if most is None else most
    return {fewest, longest} | {step + 1 for step in steps if fewest <= step < longest}


def _minutes(overrides: Iterable[Override], from_s: float, until_s: float) -> range:
    """Return the minutes to look at: windows begin and end with one."""
    first, last = int(from_s // _MINUTE_S), int(until_s // _MINUTE_S)
    timed = any(one.hours is not None or one.days is not None for one in overrides)
    return range(first, (last if timed else first) + 1)


def _times(price: Price, factor: Decimal) -> Price:
    rates: dict[str, Any] = {key: usd * factor for key in KEYS if (usd := getattr(price, key)) is not None}
    return price._replace(**rates)


def read_price(pricing: Any, listed_s: float | None = None) -> Price:
    """Return the price in a ``pricing`` object of OpenRouter's lists; takes anything, and never raises.

    Numbers may be texts. A price that is negative or no number is unknown, one that is null is not listed;
    fields that are not known here are ignored, except as conditions of an override. ``listed_s`` is when it
    was listed.
    """
    if not isinstance(pricing, Mapping):
        return Price(unknown=frozenset(("prompt", "completion")))
    usual: dict[str, Any] = _rates(pricing)
    unknown = {key for key, usd in usual.items() if usd is None}
    unknown |= {"prompt", "completion"} - usual.keys()
    discount = read_number(pricing.get("discount") or 0)
    listed = as_list(pricing.get("overrides"))
    if discount is None or discount > 1 or len(listed) > _MOST_OVERRIDES:
        return Price(unknown=frozenset(KEYS))
    entries = [(entry, _rates(entry)) for entry in listed if isinstance(entry, Mapping)]
    overrides = tuple(_override(entry, rates) for entry, rates in entries if rates)
    return Price(
        **usual, discount=discount, unknown=frozenset(unknown), overrides=overrides, listed_s=listed_s
    )


def _rates(pricing: Mapping[str, Any]) -> dict[str, Decimal | None]:
    """Return the prices of an object, by key; None is unknown."""
    listed = {key: read_number(pricing[key]) for key in KEYS if pricing.get(key) is not None}
    return {key: None if usd is None or usd > _HIGHEST_USD else usd for key, usd in listed.items()}


def _override(entry: Mapping[str, Any], rates: Mapping[str, Decimal | None]) -> Override:
    conditions = {name for name, value in entry.items() if value is not None and name not in KEYS}
    over_tokens = read_number(entry.get("min_prompt_tokens"))
    start, end = _minute(entry.get("utc_start")), _minute(entry.get("utc_end"))
    hours = (start, end) if start is not None and end is not None and start != end else None
    days = _weekdays(entry.get("utc_days"))
    understood = {"min_prompt_tokens": over_tokens, "utc_start": hours, "utc_end": hours, "utc_days": days}
    doubtful = any(understood.get(name) is None for name in conditions)
    return Override(rates, over_tokens, hours, days, doubtful)


def _minute(value: Any) -> int | None:
    """Return the minute of the day that an HHMM clock number names (``1030`` is half past ten)."""
    clock = read_count(value)
    if clock is None or clock % 100 >= 60:  # noqa: PLR2004 - minutes of an hour
        return None
    minute = clock // 100 * 60 + clock % 100
    return minute if minute <= _DAY_MIN else None


def _weekdays(value: Any) -> frozenset[int] | None:
    names = [str(name).lower() for name in as_list(value)]
    return frozenset(map(_DAYS.index, names)) if names and set(names) <= set(_DAYS) else None
