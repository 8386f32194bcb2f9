"""`submit_batch` and `Batch`: many requests as a batch of OpenRouter's, at about half the price.

A batch takes up to a day. Its state is in the cache file, so that any kernel on the folder, and the same cell
run again, goes on with it; see `collecting`. The answers are ordinary entries under the ordinary keys.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.records import Outcome
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_age, format_count, format_usd
from or_cache_magic.errors import MissingKeyError, OptionError, OrCacheError, explained, printable
from or_cache_magic.money.budget import Limit
from or_cache_magic.storage.batches import WAITING, BatchRecord, BatchRow, BatchTable
from or_cache_magic.tables.collecting import UNPAID, Collected, collect, end
from or_cache_magic.tables.submitting import Submitter

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache

_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0
_SLOWER: Final = 1.5
_CELL_WIDTH: Final = 40
_LOOKED_FOR: Final = "its submission was not answered: the batch is looked for"


class BatchResult(NamedTuple):
    """What one request of a batch came to, as far as is known here.

    Attributes:
        ask: The request.
        state: ``stored``, ``waiting``, ``set aside`` (paid for, and not fit to be served), ``failed``.
        error: Why it has no answer that is served, in one line; empty where it has, or waits for a batch that
            OpenRouter has named.
        outcome: The answer; None where none is stored.
        cost_usd: What it cost now: 0 where it was stored already; None is not known.
    """

    ask: Ask
    state: str
    error: str = ""
    outcome: Outcome | None = None
    cost_usd: Decimal | None = None


class Batch:
    """Requests that were submitted as a batch, or as several; those that were stored already among them.

    Nothing but `collect` and `wait` asks OpenRouter for anything, and neither sends a request to a model.

    Args:
        cache: Where they are stored.
        asks: The requests, in the order of the results; equal ones may repeat.
        served: What was stored already, by key.
        errors: Why others were not submitted, by key.
        table: Makes what `frame` gives of the results; None is one row a request.
        again: Submits those again that failed.
        tell: Takes a line when `wait` sees that something has changed.
    """

    def __init__(
        self,
        cache: CompletionCache,
        asks: Sequence[Ask],
        served: dict[str, Outcome],
        errors: dict[str, str],
        table: Callable[[list[BatchResult]], Any] | None = None,
        *,
        again: Callable[[], Batch],
        tell: Callable[[str], object] = print,
    ) -> None:
        self._tell = tell
        self._cache = cache
        self._again = again
        self._asks = asks
        self._served = served
        self._errors = errors
        self._make_table = table

    def __repr__(self) -> str:
        counts = Counter(result.state for result in self.results())
        states = [f"{counts[state]:,} {state}" for state in ("stored", WAITING, "set aside", "failed")]
        shown = [state for state in states if not state.startswith("0 ")]
        lines = [f"Batch of {format_count(len(self._asks), 'row')}: {', '.join(shown) or 'empty'}"]
        lines += [f"  {line_of(batch, self._cache.clock())}" for batch in self.batches]
        if counts[WAITING]:
            lines.append(
                "  .wait() waits, .collect() looks once, .frame() is the table; the cell run again goes on"
            )
        if failed := counts["failed"] + counts["set aside"]:
            lines.append(f"  .retry() submits the {failed:,} without an answer again; nothing else does")
        return "\n".join(lines)

    @property
    def batches(self) -> list[BatchRecord]:
        """The batches at OpenRouter that its rows were last in, as far as is known here, the newest first."""
        table = BatchTable(self._cache.database)
        numbers = {row.batch for row in table.last(self._open_keys()).values()}
        return [batch for batch in table.all() if batch.id in numbers]

    @property
    def status(self) -> str:
        """The status of the batch that has furthest to go, as was last told; ``completed`` when none has."""
        waiting = [batch.status for batch in self.batches if not batch.ended]
        return waiting[-1] if waiting else "completed"

    @property
    def done(self) -> bool:
        """Whether nothing of it is waited for any more."""
        return all(batch.ended for batch in self.batches)

    def results(self) -> list[BatchResult]:
        """Return what each request came to, as far as is known here."""
        table = BatchTable(self._cache.database)
        rows = table.last(self._open_keys())
        unnamed = {batch.id for batch in table.all() if not batch.remote}
        known: dict[str, BatchResult] = {}
        for ask in self._asks:
            if ask.key.digest not in known:
                known[ask.key.digest] = self._result(ask, rows.get(ask.key.digest))
                row = rows.get(ask.key.digest)
                if row is not None and row.state == WAITING and row.batch in unnamed:
                    known[ask.key.digest] = known[ask.key.digest]._replace(error=_LOOKED_FOR)
        return [known[ask.key.digest]._replace(ask=ask) for ask in self._asks]

    def frame(self) -> Any:
        """Return the table with the answers that are there; what is waited for has none yet."""
        if self._make_table is not None:
            return self._make_table(self.results())
        return _frame(self.results())

    def collect(self) -> Collected:
        """Ask OpenRouter once how far it is, and store what has come; see `collecting.collect`."""
        return collect(self._cache, [batch.id for batch in self.batches])

    def retry(self) -> Batch:
        """Submit again what failed, or was not fit to be served; return the batch of all."""
        return self._again()

    def wait(self, timeout_s: float | None = None, *, every_s: float | None = None) -> Batch:
        """Wait until nothing of it is waited for any more, and return it.

        Interrupted, it goes on at OpenRouter, and is waited for again when this is called again.

        Args:
            timeout_s: The longest to wait; None is until it ends.
            every_s: How often to look; None looks after 2 seconds, then less and less often, to a minute.

        Raises:
            OrCacheError: Its results are withheld until there are credits.
        """
        gives_up_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S if every_s is None else every_s
        told = ""
        try:
            while waiting := self._look():
                left_s = gives_up_s - time.monotonic()
                if left_s <= 0:
                    break
                now = f"{waiting[-1].status} {waiting[-1].error}"
                if now != told:
                    self._tell(line_of(waiting[-1], self._cache.clock()))
                told = now
                time.sleep(min(pause_s, left_s))
                if every_s is None:
                    pause_s = min(pause_s * _SLOWER, _LONGEST_PAUSE_S)
        except KeyboardInterrupt as exc:
            raise explained(
                exc,
                f"stopped waiting; the batch goes on at OpenRouter ({self.status})",
                "run the cell again, or see %openrouter_batches, to collect it",
            ) from None
        return self

    def _look(self) -> list[BatchRecord]:
        """Collect what has come, and return the batches that can be waited for."""
        settings = self._cache.settings
        if self.done or settings.mode == "offline":
            return []
        self.collect()
        waiting = [batch for batch in self.batches if not batch.ended and batch.base_url == settings.base_url]
        if waiting and all(batch.status == UNPAID for batch in waiting):
            raise OrCacheError(
                f"the batch has ended, and its results are withheld: {waiting[0].error}",
                "add credits, then collect it: %openrouter_batches; nothing is asked anew",
            )
        return waiting

    def _open_keys(self) -> set[str]:
        return {ask.key.digest for ask in self._asks} - self._served.keys() - self._errors.keys()

    def _result(self, ask: Ask, row: BatchRow | None) -> BatchResult:
        digest = ask.key.digest
        served = self._served.get(digest)
        if served is not None:
            return BatchResult(ask, "stored", "", served, served.paid.usd)
        if digest in self._errors:
            return BatchResult(ask, "failed", self._errors[digest], cost_usd=ZERO_USD)
        entry = self._cache.store.get(ask.key)
        if entry is not None and why_not_served(entry, self._cache.clock()) is None:
            answer = entry.answer
            outcome = Outcome(
                "miss",
                ask.key,
                answer,
                stored=True,
                entry_created_s=entry.created_s,
                paid=answer.cost,
                saved_usd=ZERO_USD,
            )
            return BatchResult(ask, "stored", "", outcome, answer.cost.usd)
        if row is None:
            return BatchResult(
                ask, "failed", "it is not stored any more: run the cell again", cost_usd=ZERO_USD
            )
        return BatchResult(
            ask, row.state if row.state != "stored" else "failed", row.error, cost_usd=row.cost_usd
        )


def line_of(batch: BatchRecord, now_s: float) -> str:
    """Return a line that says how far a batch is."""
    name = batch.remote or "(submission not answered)"
    seen = "" if batch.checked_s is None else f", seen {format_age(now_s - batch.checked_s)}"
    cost = "" if batch.cost_usd is None else f" · {format_usd(batch.cost_usd)}"
    failed = f", {batch.failed:,} failed" if batch.failed else ""
    error = f" · {batch.error}" if batch.error else ""
    return (
        f"{name} · {batch.model} · {batch.status} · {batch.done:,} of {batch.total:,} answered{failed}{cost}"
        f" · submitted {format_age(now_s - batch.submitted_s)}{seen}{error}"
    )


def submit_batch(
    cache: CompletionCache,
    asks: Sequence[Ask],
    *,
    only: bool = False,
    retry: bool = False,
    limits: Sequence[Limit] = (),
    table: Callable[[list[BatchResult]], Any] | None = None,
    ask_now: Callable[[list[Ask]], dict[str, Outcome | str]] | None = None,
    tell: Callable[[str], object] = print,
) -> Batch:
    """Submit what is neither stored nor in a batch already; return all as a `Batch`. Collects what has come.

    What a batch can't take (see `why_not_batched`) is asked the ordinary way, at once and at the full price.
    Offline nothing is sent or collected.

    Args:
        cache: Where the answers are stored.
        asks: The requests; equal ones are one.
        only: Refuses all where a batch can't take one.
        retry: Submits those again that failed in a batch, or whose answers were not fit to be served.
        limits: What all may cost together, by the full prices.
        table: See `Batch`.
        ask_now: Asks what a batch can't take, and returns what came or what was wrong, by key; None asks one
            after the other.
        tell: Takes a line that says what was submitted.

    Raises:
        OptionError: A batch can't take one, and `only` was said; or refresh or bypass mode.
        BudgetError: It may cost more than a limit leaves. Nothing was sent.
        UpstreamError: A submission was refused, or wasn't answered, which is then looked for before anything
            is sent again.
    """
    submitter = Submitter(cache, asks, retry=retry)
    submitter.sort()
    if submitter.refused and only:
        _, why = submitter.refused[0]
        raise OptionError(
            f"{format_count(len(submitter.refused), 'row')} can't go into a batch: {why} (nothing was sent)",
            'batch=True asks those at once, at the full price; batch="only" refuses them',
        )
    submitter.check(limits)
    submitter.submit()
    refused = [ask for ask, _ in submitter.refused]
    for key, came in (ask_now or submitter.ask_now)(refused).items():
        if isinstance(came, str):
            submitter.errors[key] = came
        else:
            submitter.served[key] = came
    tell(submitter.summary())
    again = partial(
        submit_batch,
        cache,
        asks,
        only=only,
        retry=True,
        limits=limits,
        table=table,
        ask_now=ask_now,
        tell=tell,
    )
    return Batch(cache, asks, submitter.served, submitter.errors, table, again=again, tell=tell)


def _frame(results: Sequence[BatchResult]) -> pd.DataFrame:
    """One row a request: its key, state, answer, cost, whether it was stored already, and what was wrong."""
    import pandas as pd

    rows = [
        (
            result.ask.key.digest,
            result.state,
            None if result.outcome is None else result.outcome.answer.text,
            None if result.cost_usd is None else float(result.cost_usd),
            result.outcome is not None and result.outcome.served,
            result.error or None,
        )
        for result in results
    ]
    frame: pd.DataFrame = pd.DataFrame(
        rows, columns=["key", "state", "answer", "cost_usd", "cached", "error"]
    )
    return frame


def batches(cache: CompletionCache, name: str = "") -> pd.DataFrame:
    """Collect what has ended, and return the batches of a cache, the newest first; or the rows of one.

    A batch is a row of `BATCH_COLUMNS`: ``done`` and ``failed`` count rows, as OpenRouter last told,
    ``cost_usd`` is NaN as long as it isn't known, ``error`` says what went wrong, or why OpenRouter could not
    be asked. A request is a row of `ROW_COLUMNS`.

    Args:
        cache: Whose.
        name: How the id of a batch begins; empty is all.

    Raises:
        OptionError: There is no such batch, or several begin so.
    """
    with suppress(MissingKeyError):  # what is known here is shown all the same
        collect(cache, [find_batch(cache, name).id] if name else None)
    return _rows_frame(cache, find_batch(cache, name)) if name else _batches_frame(cache)


def troubled(cache: CompletionCache, name: str = "") -> bool:
    """Return whether one of the batches that `batches` gives was to be collected, and could not be."""
    chosen = [find_batch(cache, name)] if name else BatchTable(cache.database).all()
    return any(batch.error and not batch.ended for batch in chosen)


def batches_text(frame: pd.DataFrame) -> str:
    """Return what `batches` gives as text for a terminal, without what is empty."""
    shown = frame.dropna(axis="columns", how="all")
    for name in shown.select_dtypes("datetimetz"):
        shown = shown.assign(**{str(name): shown[name].dt.strftime("%Y-%m-%d %H:%M")})
    text = shown.to_string(index=False, max_colwidth=_CELL_WIDTH, na_rep="")
    return printable(text) if len(frame) else "no batch was submitted"


def _batches_frame(cache: CompletionCache) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (
            batch.remote or f"#{batch.id}",
            batch.model,
            batch.status if batch.remote or batch.ended else "submission not answered",
            batch.total,
            batch.done,
            batch.failed,
            None if batch.cost_usd is None else float(batch.cost_usd),
            batch.submitted_s,
            batch.error or None,
        )
        for batch in BatchTable(cache.database).all()
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(BATCH_COLUMNS))
    frame["cost_usd"] = frame["cost_usd"].astype("float64")
    frame["submitted"] = pd.to_datetime(frame["submitted"].astype("float64"), unit="s", utc=True)
    return frame


def _rows_frame(cache: CompletionCache, batch: BatchRecord) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for row in BatchTable(cache.database).rows(batch.id):
        entry = cache.store.entry(row.key) if row.state == "stored" else None
        answer = None if entry is None else entry.answer.text
        cost = None if row.cost_usd is None else float(row.cost_usd)
        rows.append((row.key, row.state, answer, cost, row.error or None))
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(ROW_COLUMNS))
    frame["cost_usd"] = frame["cost_usd"].astype("float64")
    return frame


BATCH_COLUMNS: Final = ("id", "model", "status", "rows", "done", "failed", "cost_usd", "submitted", "error")
ROW_COLUMNS: Final = ("key", "state", "answer", "cost_usd", "error")


def find_batch(cache: CompletionCache, name: str) -> BatchRecord:
    """Return the batch of this id, or whose id begins so; ``#3`` is one that OpenRouter has not named yet.

    Raises:
        OptionError: There is none, or there are several.
    """
    found = [
        batch
        for batch in BatchTable(cache.database).all()
        if (batch.remote and batch.remote.startswith(name)) or name == f"#{batch.id}"
    ]
    if len(found) != 1:
        many = "several batches begin" if found else "no batch begins"
        raise OptionError(f"{many} with {name}", "%openrouter_batches lists them")
    return found[0]


def forget_batch(cache: CompletionCache, name: str) -> int:
    """Give up waiting for a batch, so that its rows may be asked anew; return how many waited.

    It goes on at OpenRouter, and may be paid: nothing of it is collected any more.
    """
    why = "it was given up here; it may be paid at OpenRouter all the same"
    return end(
        cache, BatchTable(cache.database), find_batch(cache, name)._replace(status="given up", error=why), why
    )
