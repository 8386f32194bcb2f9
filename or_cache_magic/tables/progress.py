"""What is said of a table while it is asked: the bill before, a bar, and one line when it is done."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import ZERO_USD, format_count, format_duration, format_sum, format_usd
from or_cache_magic.errors import OrCacheError

if TYPE_CHECKING:
    from typing_extensions import Self

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.tables.requests import Requests, Results

_EVERY_S: Final = 30.0
"""How often a line says how far it is, where there is no bar."""

_REDRAWN_S: Final = 0.1
_DELAY_S: Final = 0.5
"""What is done sooner shows no bar."""

_RATES: Final = 150
"""By so many looks, each after `_REDRAWN_S` at least, it is told how fast it goes."""


class Progress:
    """A bar, and beside it what was paid and what is waited for; where no bar can be shown, lines.

    Args:
        requests: Whose progress it is.
        total: How many rows there are.
        tell: Takes the lines.
        shown: Whether anything is.
        unit: What a row is called.
        clock: Returns seconds that never go back.
    """

    def __init__(
        self,
        requests: Requests,
        total: int,
        tell: Callable[[str], object],
        *,
        shown: bool,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._total = total
        self._tell = tell
        self._unit = unit
        self._shown = shown
        self._bar: Any = None
        self._clock = clock
        began_s = clock()
        self._next_s = began_s + _DELAY_S
        self._told_s, self._waited_s = began_s, -math.inf
        self._rates: deque[tuple[float, int]] = deque(maxlen=_RATES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._redraw()
            self._bar.close()

    def tick(self) -> None:
        """Show how far it is, unless that was shown just now."""
        if self._shown and self._clock() >= self._next_s:
            self._redraw()

    def say(self, line: str) -> None:
        """Tell a line between."""
        if self._bar is not None:
            self._bar.clear()
        self._tell(line)

    def _redraw(self) -> None:
        now_s = self._clock()
        self._next_s = now_s + _REDRAWN_S
        if self._bar is None:
            self._bar = _bar(self._total, self._unit)
        results = self._requests.results
        self._rates.append((now_s, self._requests.new - self._requests.left))
        if not self._bar.disable:
            self._bar.n = results.answered + results.failed
            self._bar.set_postfix_str(self._line(), refresh=False)
            self._bar.refresh()
        elif now_s - (self._waited_s if self._requests.waits else self._told_s) >= _EVERY_S:
            self._told_s = now_s
            self._waited_s = now_s if self._requests.waits else self._waited_s
            done = results.answered + results.failed
            counted = f"{done:,} of {format_count(self._total, self._unit)}"
            self._tell(" · ".join(filter(None, (counted, self._line()))))

    def _line(self) -> str:
        """Return what stands beside the bar."""
        requests, results = self._requests, self._requests.results
        left = requests.left
        parts = [f"{results.cached:,} cached" if results.cached else ""]
        parts.append(f"{results.failed:,} failed" if results.failed else "")
        if requests.new:
            parts.append(_paid_of(results, left))
        (then_s, before), (now_s, asked) = self._rates[0], self._rates[-1]
        if asked > before:
            rate = (asked - before) / (now_s - then_s)
            parts.append(f"{rate:,.3g}/s")
            parts.append(f"{format_duration(left / rate)} left" if left else "")
        return " · ".join(filter(None, (*parts, requests.waits)))


def _bar(total: int, unit: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets
        from tqdm.auto import tqdm
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    # None is: only in a terminal. A notebook's output is none, and shows the bar all the same.
    shown = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
    return tqdm(total=total, unit=unit, disable=False if in_notebook else None, bar_format=shown)


def _paid_of(results: Results, left: int) -> str:
    """Return what was paid, and what all will have cost at that rate."""
    paid = f"paid {format_sum(results.paid_usd, unpriced=results.unpriced)}"
    priced = results.bought - results.unpriced
    if not left or not priced or not results.paid_usd:
        return paid
    return f"{paid} of about {format_usd(results.paid_usd / priced * (priced + results.unpriced + left))}"


class Bill:
    """What requests may cost together, by some of them.

    Args:
        cache: Has the prices; they may be fetched.
        sample: Some of the requests, evenly from all.
        count: How many there are.
    """

    def __init__(self, cache: CompletionCache, sample: Sequence[Ask], count: int) -> None:
        self.count = count
        self._sampled = len(sample)
        #: Why the most is not known; empty where it is.
        self.why = ""
        estimates = [found for ask in sample if (found := self._estimate(cache, ask)) is not None]
        self.low_usd = self._all([one.low_usd for one in estimates])
        self.high_usd = None if self.why else self._all([one.high_usd for one in estimates])

    def _estimate(self, cache: CompletionCache, ask: Ask) -> Estimate | None:
        try:
            found = cache.money.estimate(ask.request, ask.settings)
        except OrCacheError as exc:  # of one that will be refused so
            self.why = self.why or str(exc.args[0])
            return None
        self.why = self.why or found.unknown_why
        return found

    def _all(self, amounts: Sequence[Decimal | None]) -> Decimal | None:
        known = [usd for usd in amounts if usd is not None]
        return (
            sum(known, ZERO_USD) / len(known) * self.count if known and len(known) == len(amounts) else None
        )

    def text(self) -> str:
        """Return it in words: ``$0.21 to $1.40``."""
        if self.high_usd is None:
            least = f"at least {format_usd(self.low_usd)}, " if self.low_usd else ""
            return f"{least}the most is not known: {self.why}"
        low, high = format_usd(self.low_usd), format_usd(self.high_usd)
        about = "about " if self._sampled < self.count else ""
        return f"{about}{low if low == high else f'{low} to {high}'}"
