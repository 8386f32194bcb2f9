"""`map_rows`: a prompt for each row of a table, and the answers as columns of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.request import Usd, build_ask, parse_limit
from or_cache_magic.core.blocks import parse_json
from or_cache_magic.core.callbacks import Cancel, Cancelled
from or_cache_magic.core.options import checked, plain, shown
from or_cache_magic.core.policy import why_no_lookup, why_not_stored
from or_cache_magic.core.records import MADE_CALL, Outcome
from or_cache_magic.core.settings import Ask, whole
from or_cache_magic.core.slips import refuse_key
from or_cache_magic.core.units import ZERO_USD, format_count, format_sum, format_usd
from or_cache_magic.errors import (
    AS_ATTRIBUTE,
    FormatError,
    OptionError,
    OrCacheError,
    explained,
)
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.tables.frames import Columns, Rows, field_values, fields_of, kind_of, read_rows
from or_cache_magic.tables.progress import Bill, Progress
from or_cache_magic.tables.prompts import prompts_of
from or_cache_magic.tables.requests import SAMPLED, Prompts, Requests, Results, pacing_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Settings

_NOT_ASKED: Final = "not asked"
_LOOKED_AT: Final = 2_000
"""Of so many rows at most it is looked up what all would cost."""


def map_rows(
    cache: CompletionCache,
    data: Any,
    template: Any,
    *,
    out: str = "answer",
    workers: int | str | None = "auto",
    max_cost_usd: Usd | None = None,
    on_error: str = "keep",
    limit: int | None = None,
    batch: bool | str = False,
    progress: bool = True,
    variables: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    tell: Callable[[str], object] | None = None,
    cancel: Cancel | None = None,
    **asked: Any,
) -> Any:
    """Ask for each row, and return data of the same kind with the answers; see `CompletionCache.map`.

    Args:
        cache: What is asked through.
        data: The rows.
        template: What each asks.
        out: See there, as for all that is not here.
        workers: The most that are asked at a time.
        max_cost_usd: The most that all may cost.
        on_error: ``keep`` or ``raise``.
        limit: Only so many of the first rows.
        batch: Whether what is new goes to OpenRouter's Batch API; ``only`` refuses what it doesn't take.
        progress: Whether the bill, a bar and the summary are shown.
        variables: What a template may name besides the columns.
        dry_run: Only says how many requests would be sent, and what they may cost; returns None.
        tell: Takes the bill and the summary instead of printing them.
        cancel: Ends all, from another thread, with `Cancelled`.
        **asked: The arguments of `ask`.
    """
    if on_error not in ("keep", "raise"):
        raise OptionError(f"on_error = {shown(on_error)}: takes keep or raise (nothing was sent)", "")
    if batch and on_error == "raise":
        raise OptionError(
            "a batch has no on_error='raise' (nothing was sent)", "its frame() tells each row's error"
        )
    usd, rows = parse_limit(max_cost_usd), read_rows(data)
    first = rows if limit is None else rows.head(_count(limit, "limit"))
    make, schema = _maker(cache.settings, asked)
    if dry_run:
        (tell or print)(_would_ask(cache, prompts_of(first, template, variables or {}), make))
        return None
    answers = (_Completions if rows.is_list else _Columns)(cache, rows, out, schema)
    prompts = prompts_of(first, template, variables or {})
    limits = [] if usd is None else [Limit("this table's max_cost_usd", usd, BudgetTracker())]
    if batch:
        from or_cache_magic.tables.batched import BatchedRows

        batched = BatchedRows(
            cache,
            [_ask_of(make, prompt) for prompt in prompts],
            answers.take,
            partial(answers.made, first),
            tell=(tell or print) if progress else str,
            cancel=cancel,
        )
        return batched.submit(batch, limits, workers)
    requests = Requests(
        cache,
        make,
        answers.take,
        pacing=pacing_of(workers),
        limits=limits,
        stops=on_error == "raise",
        cancel=cancel,
    )
    run = _Run(cache, requests, prompts, tell or print, progress=progress)
    try:
        run.run()
    except (KeyboardInterrupt, Cancelled) as exc:
        stopped: Any = explained(exc, *run.interrupted()) if isinstance(exc, KeyboardInterrupt) else exc
        stopped.table = answers.made(first, requests.results, run.summary())
        raise stopped from None
    summary = run.summary()
    if first.total < rows.total:
        run.say(_first_look(cache, requests, prompts_of(rows, template, variables or {}), make))
    run.say(summary)
    table = answers.made(first, requests.results, summary)
    if on_error == "raise" and requests.results.errors:
        failure: Any = _failure(requests)
        failure.table = table
        raise failure
    if requests.results.miss is not None:
        raise requests.results.not_stored(table)
    return table


async def amap_rows(cache: CompletionCache, data: Any, template: Any, **options: Any) -> Any:
    """Do `map_rows` on another thread; cancelling the task ends it, and what was bought is kept."""
    import asyncio

    cancel = Cancel()

    def work() -> Any:
        try:
            return map_rows(cache, data, template, cancel=cancel, **options)
        except Cancelled as exc:
            return exc.table  # type: ignore[attr-defined]

    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError as exc:
        cancel.set()
        await asyncio.wait((running,))
        if not running.cancelled():
            ended = running.exception()
            exc.table = getattr(ended, "table", None) if ended else running.result()  # type: ignore[attr-defined]
        raise


def _ask_of(make: Callable[[Any], Ask], prompt: Any) -> Ask | OrCacheError:
    try:
        return make(prompt)
    except OrCacheError as exc:
        return exc


def _count(value: Any, name: str) -> int:
    try:
        return whole()(plain(value, name))
    except ValueError as exc:
        raise OptionError(f"{name} = {shown(value)}: {exc} (nothing was sent)", "write limit=5") from None


def row_asks(
    settings: Settings,
    data: Any,
    template: Any,
    *,
    limit: int | None = None,
    variables: Mapping[str, Any] | None = None,
    **asked: Any,
) -> Iterator[Ask | OrCacheError]:
    """Yield what `map_rows` would ask for each row under these settings, or why it can't; sends nothing."""
    rows = read_rows(data)
    first = rows if limit is None else rows.head(_count(limit, "limit"))
    make, _ = _maker(settings, asked)
    for prompt in prompts_of(first, template, variables or {}):
        yield _ask_of(make, prompt)


def _maker(settings: Settings, asked: dict[str, Any]) -> tuple[Callable[[Any], Ask], Any]:
    """Return what makes the ask of a prompt, and the schema; the arguments are checked once for all rows."""
    if asked.get("attach") is not None:
        from or_cache_magic.cache.attachments import read_attachments

        asked["attach"] = read_attachments(asked["attach"])
    if asked.get("stream") is None and "plugins" not in asked:  # where one may make it a part of the key
        asked["stream"] = False  # nobody watches a row come, and it takes a fifth less time to read
    _, options, fields = checked("", asked)

    def make(prompt: Any) -> Ask:
        if isinstance(prompt, OrCacheError):
            raise prompt
        if type(prompt) is not str:
            prompt, _, _ = checked(prompt, {})
        return build_ask(prompt, settings, fields, options, is_checked=True)

    refuse_key(make("…").request.body)  # what is wrong for all is an error, not one a row
    return make, options.get("schema")


# What the answers become


class _Columns:
    """Answers as columns.

    Args:
        cache: Has the settings.
        rows: What they are put beside.
        out: The name of the column.
        schema: What the answers are.
    """

    def __init__(self, cache: CompletionCache, rows: Rows, out: str, schema: Any) -> None:
        if not isinstance(out, str) or not out:
            raise OptionError(f"out = {shown(out)}: takes the name of a column (nothing was sent)", "")
        self._out = out
        self._schema = schema
        self._stable = cache.settings.receipt == "stable"
        self._own = [f"{out}_cost_usd", f"{out}_cached", f"{out}_error"]
        self._fields = self._fields_of(list(rows.names)) if rows.is_table else {}

    def _fields_of(self, names: Sequence[Any]) -> dict[str, str]:
        """Return the fields of the schema, by their columns; what an earlier run made is replaced."""
        again = all(name in names for name in self._own)
        fields = fields_of(self._schema, () if again else [*names, *self._own], self._out)
        if again and fields:
            at = names.index(self._own[0])
            before = names[max(at - len(fields), 0) : at]
            if [name.removeprefix(f"{self._out}_") for name in map(str, before)] == list(fields):
                return dict(zip(before, fields, strict=True))
            return fields_of(self._schema, [*names, *self._own], self._out)
        taken = [] if again else [name for name in (*self._own, *(fields or [self._out])) if name in names]
        if taken:
            raise OptionError(
                f"the table has a column {taken[0]} already (nothing was sent)",
                f"name another: out='{self._out}_2'",
            )
        return fields

    def take(self, ask: Ask, outcome: Outcome) -> tuple[Any, str]:
        """Return what is kept of an answer, and what is wrong with it."""
        if why := _why_wrong(ask, outcome):
            return None, why
        text = outcome.answer.text
        if self._fields:
            return field_values(text, self._fields.values()), ""
        if self._schema is None:
            return text, ""
        value = parse_json(text)
        return (value.get(self._schema.key) if self._schema.key and isinstance(value, dict) else value), ""

    def made(self, rows: Rows, results: Results, summary: str) -> Any:
        """Return the data with the columns."""
        columns = self._columns(rows.total, results)
        found = rows.with_columns(columns, self._out)
        if type(found).__module__.partition(".")[0] == "pandas" and rows.is_table:
            from or_cache_magic.display.frames import answered_frame

            hidden = [self._own[1]] if self._stable else []  # it is another on the next run
            return answered_frame(found, summary, costs=[self._own[0]], hidden=hidden)
        return found

    def _columns(self, count: int, results: Results) -> Columns:
        own = self._own
        of_row = [*results.rows, *[-1] * (count - len(results.rows))]
        made: dict[str, tuple[str, list[Any]]] = {}
        values = results.values
        if self._fields:
            for at, (column, field) in enumerate(self._fields.items()):
                cells = [None if n < 0 or values[n] is None else values[n][at] for n in of_row]
                made[column] = kind_of(self._schema, field), cells
        else:
            made[self._out] = kind_of(self._schema), [None if n < 0 else values[n] for n in of_row]
        usd, cached, errors = [], [], []
        seen = bytearray(len(values))
        for n in of_row:
            error = _NOT_ASKED if n < 0 or not results.kinds[n] else results.errors.get(n)
            again = n >= 0 and seen[n]
            if n >= 0:
                seen[n] = 1
            cost = None if n < 0 else results.usd[n]
            if again and error is not None:
                cost = ZERO_USD  # it was asked once
            usd.append(None if cost is None else float(cost))
            cached.append(error is None and (bool(again) or results.kinds[n] not in MADE_CALL))
            errors.append(error)
        return {**made, own[0]: ("number", usd), own[1]: ("truth", cached), own[2]: ("text", errors)}


class _Completions:
    """Answers as a list of completions; None where there is none."""

    def __init__(self, cache: CompletionCache, _rows: Rows, _out: str, _schema: Any) -> None:
        self._ask = cache.ask

    def take(self, ask: Ask, outcome: Outcome) -> tuple[Any, str]:
        """Return the completion, and what is wrong with it."""
        if why := _why_wrong(ask, outcome):
            return None, why
        return Completion(outcome, ask.request, ask=self._ask, schema=ask.schema), ""

    def made(self, rows: Rows, results: Results, _summary: str) -> list[Any]:
        """Return the list."""
        values = [results.values[number] for number in results.rows]
        return [*values, *[None] * (rows.total - len(values))]


def _why_wrong(ask: Ask, outcome: Outcome) -> str:
    """Return what of an answer is not as it should be, in a line; empty where all is well."""
    request = outcome.request or ask.request
    why = None if outcome.stored else why_not_stored(request, outcome.answer)
    if ask.schema is not None and why is None and not (outcome.stored and ask.schema.kind is None):
        from or_cache_magic.cache.structured import misfit

        why = misfit(request, outcome, ask.schema)
    return (why or "").partition("\n")[0]


# How it goes, and what is said of it


class _Run:
    """One table being asked."""

    def __init__(
        self,
        cache: CompletionCache,
        requests: Requests,
        prompts: Prompts,
        tell: Callable[[str], object],
        *,
        progress: bool,
    ) -> None:
        self._cache = cache
        self._requests = requests
        self._prompts = prompts
        self._tell = tell
        self._progress = progress
        self._stable = cache.settings.receipt == "stable"

    def run(self) -> None:
        """Look up all, say what the new ones may cost, and ask for them."""
        shown = self._progress and not self._stable
        bill = self._bill if shown else None
        with Progress(self._requests, len(self._prompts), self._tell, shown=shown, unit="row") as bar:
            self._requests.run(self._prompts, bar, bill)

    def say(self, line: str) -> None:
        """Tell a line, where anything is told."""
        if self._progress:
            self._tell(line)

    def _bill(self) -> str:
        requests, first = self._requests, self._requests.sample[0]
        counts = f"{format_count(len(self._prompts), 'row')}, {requests.new:,} to ask"
        bill = Bill(self._cache, requests.sample, requests.new)
        barred = why_no_lookup(first.request, first.policy)
        lost = f"the answers are not kept: {barred}" if barred else ""
        return " · ".join(filter(None, (counts, bill.text(), lost)))

    def summary(self) -> str:
        """Return one line: ``997 answered, 400 cached, 3 failed, paid $0.31, saved $0.12``."""
        results = self._requests.results
        left = len(self._prompts) - results.answered - results.failed
        parts = [f"{results.answered:,} answered"]
        if self._stable:
            usd = results.paid_usd + results.saved_usd
            parts += [
                f"{results.failed:,} failed",
                f"bought for {format_sum(usd, unpriced=results.unpriced)}",
            ]
        else:
            parts += [
                f"{results.cached:,} cached",
                f"{results.failed:,} failed",
                f"paid {format_sum(results.paid_usd, unpriced=results.unpriced)}",
                f"saved {format_usd(results.saved_usd)}",
            ]
        if left:
            parts.append(f"{left:,} not asked")
        goes_on = self._requests.goes_on
        error = next(iter(results.errors.values()), "")
        return " · ".join(
            filter(None, (", ".join(parts), error and f"the first that failed: {error}", goes_on))
        )

    def interrupted(self) -> tuple[str, str]:
        """Return what an interrupt says."""
        results = self._requests.results
        paid = format_sum(results.paid_usd, unpriced=results.unpriced)
        return (
            f"{results.answered:,} of {format_count(len(self._prompts), 'row')} were answered, paid {paid}",
            f"they are in {AS_ATTRIBUTE}; run it again: what was bought is kept, and only the rest is asked",
        )


class _Rest(NamedTuple):
    """What of some rows would be sent, by some of them.

    Attributes:
        new: How many requests.
        waiting: How many others a batch that is under way will answer.
        about: ``about `` where that is by some of the rows.
        bill: What they may cost.
    """

    new: int
    waiting: int
    about: str
    bill: Bill


def _rest(
    cache: CompletionCache, prompts: Prompts, make: Callable[[Any], Ask], start: int, known: Collection[str]
) -> _Rest:
    """Look up, without asking, what of the rows from `start` on is neither stored nor among `known` keys."""
    count = len(prompts) - start
    every = max(1, count // _LOOKED_AT)
    new: dict[str, Ask] = {}
    looked_at = 0
    for prompt in prompts.at(range(start, len(prompts), every)):
        looked_at += 1
        try:
            ask = make(prompt)
        except OrCacheError:
            continue
        digest = ask.key.digest
        if digest not in known and digest not in new and cache.engine.why_asked(ask) is not None:
            new[digest] = ask
    from or_cache_magic.storage.batches import WAITING, BatchTable

    rows = BatchTable(cache.database).last(new)
    waiting = [new.pop(key) for key, row in rows.items() if row.state == WAITING]
    left, later = (round(len(some) * count / max(1, looked_at)) for some in (new, waiting))
    sample = [*new.values()][:: max(1, len(new) // SAMPLED)]
    return _Rest(left, later, "about " if every > 1 else "", Bill(cache, sample, left))


def _would_ask(cache: CompletionCache, prompts: Prompts, make: Callable[[Any], Ask]) -> str:
    """Return what a dry run says."""
    rest = _rest(cache, prompts, make, 0, ())
    would = f"would ask {rest.about}{rest.new:,} of {format_count(len(prompts), 'row')}"
    return " · ".join(
        filter(None, (would, _later(rest), rest.bill.text() if rest.new else "", "nothing sent"))
    )


def _later(rest: _Rest) -> str:
    """Return what a batch will answer; empty where none will."""
    if not rest.waiting:
        return ""
    return f"{rest.about}{format_count(rest.waiting, 'other waits', 'others wait')} for a batch"


def _first_look(
    cache: CompletionCache, requests: Requests, prompts: Prompts, make: Callable[[Any], Ask]
) -> str:
    """Return what all the rows would cost, when the first of them were asked."""
    results = requests.results
    asked = len(results.rows)
    rest = _rest(cache, prompts, make, asked, set(results.keys))
    head = f"the first {asked:,} of {format_count(len(prompts), 'row')}"
    if not rest.new:
        return f"{head} · {_later(rest) or 'the others are cached'}"
    priced = results.bought - results.unpriced
    by_these = ""
    if priced and results.paid_usd:
        by_these = f"about {format_usd(results.paid_usd / priced * rest.new)} as these went, "
    more = f"all would ask {rest.about}{rest.new:,} more: {by_these}{rest.bill.text()}"
    return " · ".join(filter(None, (head, more, _later(rest))))


def _failure(requests: Requests) -> OrCacheError:
    """Return the error for rows that failed: the first, in its own type where it has one."""
    results = requests.results
    number, error = next(iter(results.errors.items()))
    row = results.rows.index(number) if number in results.rows else 0
    first = results.failure
    message = f"row {row}: {error} ({results.answered:,} rows were answered, and are kept)"
    if first is None:
        return FormatError(message, "--refresh asks again; on_error='keep' goes on with the others")
    first.args = (message, *first.args[1:])
    return first
