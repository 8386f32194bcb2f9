"""A table asked as a batch: its rows are submitted at once, and its answers come later; see `batches`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.callbacks import Cancel, Pacing
from or_cache_magic.core.records import Outcome
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_sum
from or_cache_magic.errors import OptionError, OrCacheError, ReplayMiss, explained
from or_cache_magic.money.budget import Limit
from or_cache_magic.storage.batches import WAITING
from or_cache_magic.tables.batches import Batch, BatchResult, submit_batch
from or_cache_magic.tables.progress import Progress
from or_cache_magic.tables.requests import Came, Listed, Requests, Results, not_stored, pacing_of

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

Made = Callable[[Results, str], Any]
"""Makes the table of what its rows have come to, and a line that says it."""

Take = Callable[[Ask, Outcome], tuple[Any, str]]
"""Returns what is kept of an answer, and why it is not as it should be."""


class BatchedRows:
    """The rows of a table that is asked as a batch.

    Args:
        cache: What they are asked through.
        asks: Of each row what it asks, or why it can't.
        take: See `Take`.
        made: See `Made`.
        tell: Takes lines, where anything is told.
        cancel: Ends what is asked at once, from another thread.
    """

    def __init__(
        self,
        cache: CompletionCache,
        asks: Sequence[Ask | OrCacheError],
        take: Take,
        made: Made,
        *,
        tell: Callable[[str], object],
        cancel: Cancel | None = None,
    ) -> None:
        self._cache = cache
        self._asks = asks
        self._take = take
        self._made = made
        self._tell = tell
        self._cancel = cancel

    def submit(self, batch: Any, limits: Sequence[Limit], workers: Any) -> Batch:
        """Submit what is new; ``batch`` is True or ``only``, and ``workers`` is for what is asked at once."""
        if batch is not True and batch != "only":
            raise OptionError(f"batch = {batch!r}: takes True, False or 'only' (nothing was sent)", "")

        pacing = pacing_of(workers)

        def ask_now(asks: list[Ask]) -> dict[str, Outcome | str]:
            return self._ask(asks, limits, pacing)

        try:
            submitted = submit_batch(
                self._cache,
                [ask for ask in self._asks if isinstance(ask, Ask)],
                only=batch == "only",
                limits=limits,
                table=self._table,
                ask_now=ask_now,
                tell=self._tell,
            )
        except KeyboardInterrupt as exc:
            again = (
                "run it again: what was submitted, or may have been, is looked for and not submitted again"
            )
            raise explained(exc, "interrupted while a batch was submitted", again) from None
        results = submitted.results()
        lacking = [
            result.ask
            for result in results
            if result.ask.policy.mode == "offline" and result.state not in ("stored", WAITING)
        ]
        if lacking:
            try:
                self._cache.run(lacking[0])
            except ReplayMiss as exc:
                raise not_stored(exc, len(lacking), len(results), submitted.frame()) from None
        return submitted

    def _ask(self, asks: list[Ask], limits: Sequence[Limit], pacing: Pacing) -> dict[str, Outcome | str]:
        """Ask for what a batch can't take, several at a time; return what came, or what was wrong, by key."""
        requests = Requests(self._cache, _itself, _whole, pacing=pacing, limits=limits, cancel=self._cancel)
        with Progress(requests, len(asks), self._tell, shown=False, unit="row") as bar:
            requests.run(Listed(asks), bar)
        results = requests.results
        return {
            key: results.errors.get(number) or results.values[number]
            for number, key in enumerate(results.keys)
        }

    def _table(self, found: Iterable[BatchResult]) -> Any:
        """Return the table as far as its answers are there."""
        results, known, waiting, unpriced = Results(), dict[str, int](), 0, 0
        left = iter(found)
        for ask in self._asks:
            if isinstance(ask, OrCacheError):
                number = results.add("")
                error = str(ask.args[0]).partition("\n")[0]
                results.put(Came(number, "failed", ZERO_USD, error=error))
            else:
                result = next(left)
                number = known.get(ask.key.digest, -1)
                if number < 0:
                    number = known[ask.key.digest] = results.add(ask.key.digest)
                    results.put(self._came(number, result))
                    unpriced += result.cost_usd is None and result.state != WAITING
                waiting += result.state == WAITING
            results.add_row(number)
        return self._made(results, _summary(results, waiting, unpriced))

    def _came(self, number: int, result: BatchResult) -> Came:
        outcome = result.outcome
        if outcome is None:
            error = result.error or "waiting for the batch"
            return Came(number, "failed", result.cost_usd, error=error)
        value, error = self._take(result.ask, outcome)
        return Came(number, outcome.kind, outcome.answer.cost.usd, value, error)


def _summary(results: Results, waiting: int, unpriced: int) -> str:
    failed = results.failed - waiting
    parts = [
        f"{results.answered:,} answered",
        f"{results.cached:,} cached",
        f"{waiting:,} waiting for the batch" if waiting else "",
        f"{failed:,} failed{' (batch.retry() submits them again)' if failed else ''}",
        f"paid {format_sum(results.paid_usd, unpriced=unpriced)}",
    ]
    return ", ".join(filter(None, parts))


def _itself(ask: Any) -> Ask:
    return ask  # type: ignore[no-any-return]


def _whole(_ask: Ask, outcome: Outcome) -> tuple[Any, str]:
    return outcome, ""
