"""The requests of a table: each asked once, what is stored at once, the others several at a time."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from or_cache_magic.core.callbacks import Cancel, Cancelled, Pacing
from or_cache_magic.core.options import plain, shown
from or_cache_magic.core.records import (
    AVOIDED_CALL,
    MADE_CALL,
    UNKNOWN_COST,
    Cost,
    Outcome,
    OutcomeKind,
    Request,
)
from or_cache_magic.core.settings import Ask, whole
from or_cache_magic.core.units import ZERO_USD, format_count
from or_cache_magic.errors import (
    AS_ATTRIBUTE,
    BudgetError,
    OptionError,
    OrCacheError,
    ReplayMiss,
    UpstreamError,
)
from or_cache_magic.money.budget import Limit, cost_of_error
from or_cache_magic.tables.pool import Pool

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.tables.progress import Progress

START: Final = 8
MOST: Final = 32
"""How many are asked at a time unless it is said: so many at first, and at most."""

INTERRUPTED: Final = "interrupted"

_ENOUGH: Final = 20
"""So many that a budget has no room for, one after the other and each alone: no more are tried."""

_MOST_HINTS: Final = 20
SAMPLED: Final = 256
"""Of so many of the new requests at most the price is estimated."""


class Prompts(Protocol):
    """What the rows ask, in their order."""

    @property
    def repeats(self) -> bool:
        """Whether a row's prompt is had again by `at`; else it is kept from the first time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def at(self, places: Iterable[int]) -> Iterator[Any]:
        """Yield the prompts of the rows at these places, which ascend."""


class Listed(list[Any]):
    """Prompts that are there."""

    repeats = True

    def at(self, places: Iterable[int]) -> Iterator[Any]:
        """Yield those at these places."""
        return (self[place] for place in places)


class Came(NamedTuple):
    """What one request came to.

    Attributes:
        number: Of the request.
        kind: See `records.OutcomeKind`.
        usd: What the answer cost when it was bought, or the failed call; None is unknown.
        value: What is kept of the answer.
        error: Why there is none, or why it is not as it should be; empty where all is well.
        failure: The error that it ended with.
        call: Asks for it again.
    """

    number: int
    kind: OutcomeKind
    usd: Decimal | None
    value: Any = None
    error: str = ""
    failure: OrCacheError | None = None
    call: Callable[[], Any] | None = None


class RowCame(NamedTuple):
    """What a row has come to; see `Came`."""

    key: str
    kind: str
    usd: Decimal | None
    error: str


class Results:
    """What the rows came to, by columns: which request each made, and what that came to."""

    def __init__(self) -> None:
        #: Of each row that was looked at the number of its request.
        self.rows = array("q")
        #: Of each request its key, 64 hex digits; empty where it can't be made.
        self.keys: list[str] = []
        #: How many rows make it.
        self.counts = array("q")
        #: See `Came`; empty where it was not asked.
        self.kinds: list[str] = []
        self.usd: list[Decimal | None] = []
        self.values: list[Any] = []
        #: By its number, where there is one.
        self.errors: dict[int, str] = {}
        #: What helps against these, each once, in the order in which they came.
        self.hints: dict[str, None] = {}
        #: The first error that a request ended with.
        self.failure: OrCacheError | None = None
        #: The first that only lacked an answer, where none may be asked for, and the numbers of all such.
        self.miss: ReplayMiss | None = None
        self._missed: set[int] = set()
        self._first_missed = 0
        #: How many rows have an answer as it should be, how many of these without a call of their own, and
        #: how many have none.
        self.answered = self.cached = self.failed = 0
        #: How many requests were paid for, or perhaps; what they cost, as far as is known.
        self.bought = 0
        self.paid_usd = ZERO_USD
        #: How many of them cost what is not known.
        self.unpriced = 0
        #: What stored answers would have cost.
        self.saved_usd = ZERO_USD

    def add(self, key: str) -> int:
        """Return the number of a new request."""
        self.keys.append(key)
        self.counts.append(0)
        self.kinds.append("")
        self.usd.append(None)
        self.values.append(None)
        return len(self.keys) - 1

    def add_row(self, number: int) -> None:
        """Note that the next row makes the request of this number."""
        self.rows.append(number)
        self.counts[number] += 1
        if self.kinds[number]:
            self._count(number, 1)

    def put(self, came: Came) -> None:
        """Note what a request has come to."""
        number, usd = came.number, came.usd
        self.kinds[number], self.usd[number], self.values[number] = came.kind, usd, came.value
        if came.error:
            self.errors[number] = came.error
            self.failure = self.failure or came.failure
            if isinstance(came.failure, ReplayMiss):
                if self.miss is None or number < self._first_missed:
                    self.miss, self._first_missed = came.failure, number
                self._missed.add(number)
            if came.failure is not None and came.failure.hint and len(self.hints) < _MOST_HINTS:
                self.hints[came.failure.hint] = None
        if came.kind in MADE_CALL and (came.kind != "failed" or usd != ZERO_USD):
            self.bought += 1
            self.unpriced += usd is None
            self.paid_usd += usd or ZERO_USD
        elif came.kind in AVOIDED_CALL:
            self.saved_usd += usd or ZERO_USD
        if self.counts[number]:
            self._count(number, self.counts[number])

    def each_row(self) -> Iterator[RowCame]:
        """Yield what each row has come to, in their order; not for those that came to nothing yet.

        Of rows that make one request, that of the first is its own, and the others share it.
        """
        seen = bytearray(len(self.keys))
        for number in self.rows:
            kind, usd = self.kinds[number], self.usd[number]
            if not kind:
                continue
            if seen[number] and kind in MADE_CALL and kind != "failed":
                kind = "coalesced"
            seen[number] = 1
            yield RowCame(self.keys[number], kind, usd, self.errors.get(number, ""))

    def not_stored(self, table: Any) -> ReplayMiss:
        """Return the error for all rows that may only be given stored answers, and have none."""
        rows = sum(self.counts[number] for number in self._missed)
        return not_stored(self.miss, rows, len(self.rows), table)

    def _count(self, number: int, rows: int) -> None:
        if number in self.errors:
            self.failed += rows
            return
        self.answered += rows
        # Of the rows that make a request that was bought, one has bought it.
        self.cached += rows - (self.kinds[number] in MADE_CALL and rows == self.counts[number])


def pacing_of(workers: Any) -> Pacing:
    """Return how many are asked at a time by an argument ``workers``: a number, or None or ``auto``."""
    if workers is None or workers == "auto":
        return Pacing(START, MOST)
    try:
        given: Any = plain(workers, "workers")
        most = whole()(None if isinstance(given, str) else given)
    except ValueError as exc:
        raise OptionError(
            f"workers = {shown(workers)}: {exc} (nothing was sent)", f"{START} is a good one; so is 'auto'"
        ) from None
    return Pacing(most, most)


class Requests:
    """The requests of one table.

    Args:
        cache: What they are asked through.
        make: Makes the ask of a prompt, or raises why it can't be made.
        take: Returns what is kept of an answer, and why it is not as it should be, empty where it is.
        pacing: How many are asked at a time.
        limits: What all of them together may cost.
        before_send: Called with each request that is about to be sent, from several threads; an
            `OrCacheError` that it raises is that row's, and nothing is sent.
        stops: Whether nothing more is sent once one has failed.
        cancel: Ends all, from another thread; `run` then raises `Cancelled`.
    """

    def __init__(
        self,
        cache: CompletionCache,
        make: Callable[[Any], Ask],
        take: Callable[[Ask, Outcome], tuple[Any, str]],
        *,
        pacing: Pacing,
        limits: Sequence[Limit] = (),
        before_send: Callable[[Request], None] | None = None,
        stops: bool = False,
        cancel: Cancel | None = None,
    ) -> None:
        self._cache = cache
        self._make = make
        self._take = take
        self._limits = limits
        self._stops = stops
        self._cancel = cancel or Cancel()
        self._pool: Pool[Came] = Pool(pacing.most, before_send, pacing, self._wait, self._cancel)
        #: The new ones: of each its row and its number, and its prompt where that can't be had again.
        self._new: list[tuple[int, int, Any]] = []
        self._asked = 0
        self._stride = 1
        #: Some of the new ones, evenly from all.
        self.sample: list[Ask] = []
        #: What is waited for; empty is nothing.
        self.waits = ""
        #: When what a model's limit left over can be asked; None where there is no such limit.
        self.goes_on: str | None = None
        self.results = Results()

    @property
    def new(self) -> int:
        """How many requests are to be asked."""
        return len(self._new)

    @property
    def left(self) -> int:
        """How many of them have not come to anything yet."""
        return len(self._new) - self._asked

    def run(self, prompts: Prompts, bar: Progress, bill: Callable[[], str] | None = None) -> None:
        """Serve what is stored, say what the rest may cost, and ask for it.

        Raises:
            KeyboardInterrupt: As it came. Those under way are ended; what was bought is in the results.
        """
        self._look_up(prompts, bar.tick)
        if self.new:
            if bill is not None:
                bar.say(bill())
            self._ask(prompts, bar.tick)

    def _look_up(self, prompts: Prompts, tick: Callable[[], object]) -> None:
        """Serve what is stored, on this thread, and find out what is new."""
        results, known, keep = self.results, dict[str, int](), not prompts.repeats
        for row, prompt in enumerate(prompts):
            try:
                ask = self._make(prompt)
            except OrCacheError as exc:
                number = results.add("")
                results.put(_failed(number, exc))
            else:
                number = known.get(ask.key.digest, -1)
                if number < 0:
                    number = known[ask.key.digest] = results.add(ask.key.digest)
                    outcome = self._cache.stored(ask)
                    if outcome is not None:
                        results.put(self._came(number, ask, outcome))
                    else:
                        self._sample(ask)
                        self._new.append((row, number, prompt if keep else None))
            results.add_row(number)
            self._cancel.check()
            tick()

    def _ask(self, prompts: Prompts, tick: Callable[[], object]) -> None:
        """Ask for what is new."""
        made, refused = self._pool.run(self._calls(prompts), tick=tick), 0
        try:
            with closing(made):
                for came in made:
                    if isinstance(came.failure, BudgetError) and came.call and not self._pool.was_alone:
                        # Those under way may cost less than is held back for them.
                        self._pool.make_alone(came.call)
                        continue
                    self._put(came)
                    refused = refused + 1 if isinstance(came.failure, BudgetError) else 0
                    if (self._stops and came.error) or refused >= _ENOUGH:
                        self._pool.stop()
        finally:
            for came in self._pool.rest:
                self._put(came)
        if refused >= _ENOUGH and came.failure is not None:
            for _, number, _ in self._new:
                if not self.results.kinds[number]:
                    self._put(_failed(number, came.failure))

    def _put(self, came: Came) -> None:
        self._asked += 1
        self.results.put(came)

    def _calls(self, prompts: Prompts) -> Iterator[Callable[[], Came]]:
        again = prompts.at(row for row, _, _ in self._new) if prompts.repeats else repeat(None)
        for (_, number, kept), prompt in zip(self._new, again, strict=False):
            yield partial(self._one, number, kept if prompt is None else prompt)

    def _wait(self, line: str) -> None:
        self.waits = line

    def _sample(self, ask: Ask) -> None:
        """Keep every so manieth of the new asks."""
        if len(self._new) % self._stride == 0:
            self.sample.append(ask)
            if len(self.sample) > SAMPLED:
                del self.sample[1::2]
                self._stride *= 2

    def _one(self, number: int, prompt: Any) -> Came:
        sent = threading.Event()
        ask = None
        try:
            ask = self._make(prompt)
            callbacks = self._pool.callbacks._replace(on_send=sent.set, on_cost=partial(_not_sent, sent))
            outcome = self._cache.run(ask, callbacks, limits=self._limits)
            came = self._came(number, ask, outcome)
        except Cancelled:
            if not sent.is_set():
                raise  # it was not asked
            return Came(number, "failed", UNKNOWN_COST.usd, error=INTERRUPTED)
        except OrCacheError as exc:
            self._pool.failed(exc, ask.request if ask else None)
            if isinstance(exc, UpstreamError) and exc.refuses_model:
                self.goes_on = exc.hint
            return _failed(number, exc)._replace(call=partial(self._one, number, prompt))
        self.waits = ""
        return came

    def _came(self, number: int, ask: Ask, outcome: Outcome) -> Came:
        value, error = self._take(ask, outcome)
        cost = outcome.paid if outcome.made_call else outcome.answer.cost
        return Came(number, outcome.kind, cost.usd, value, error)


def not_stored(miss: Any, rows: int, total: int, table: Any) -> ReplayMiss:
    """Return the first row's miss as that of all of them, with the table as `table`."""
    which = f"{rows:,} of {format_count(total, 'row')} {'is' if rows == 1 else 'are'} not stored"
    told = f"nothing was sent; the table is in {AS_ATTRIBUTE}"
    miss.args = (f"offline, and {which} ({told}); the first asks {miss.prompt!r}", *miss.args[1:])
    miss.table = table
    return miss  # type: ignore[no-any-return]


def _failed(number: int, failure: OrCacheError) -> Came:
    error = str(failure.args[0]).partition("\n")[0] or type(failure).__name__
    return Came(number, "failed", cost_of_error(failure).usd, error=error, failure=failure)


def _not_sent(sent: threading.Event, cost: Cost) -> None:
    """Take back that something is under way, where it is known to have cost nothing."""
    if cost.usd == ZERO_USD:
        sent.clear()
