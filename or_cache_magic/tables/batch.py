"""Fills the completion cache from a list of prompts: several at a time, each on its own, resumable."""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.request import Usd, parse_limit
from or_cache_magic.core.callbacks import Callbacks, Cancel
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.records import FREE, MADE_CALL, UNKNOWN_COST, Ask, AskKind, Cost, Outcome, Request
from or_cache_magic.core.units import ZERO_USD, format_usd
from or_cache_magic.errors import OptionError, OrCacheError, RequestError, UpstreamError

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.money.budget import Limit

__all__ = ["COLUMNS", "Prompt", "Row", "Warmed", "fill", "options_and_params", "read_prompts", "warm"]


class Prompt(NamedTuple):
    """One request of a list.

    Attributes:
        prompt: A text, or a list of messages.
        options: The arguments of `CompletionCache.ask` that stood beside it; they come before those that
            are given for the whole list.
        params: Other fields of the request.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    params: Mapping[str, Any]


_OPTIONS: Final[Mapping[str, tuple[type, ...]]] = {
    "model": (str,),
    "system": (str,),
    "mode": (str,),
    "sample": (int,),
    "ttl": (int, float, str),
    "tag": (str, list, tuple),
    "stream": (bool,),
    "prompt_cache": (str,),
}
"""What is no field of the request, and of which type it is. None is not given."""

_COLUMNS: Final = ("prompt", "model", "system", "tag")
"""The columns of a table that are read. The others are its own data, and not sent."""

_NOTHING_SENT: Final = "(nothing was sent)"
_FORMS: Final = (
    'an item is a text, a list of messages, or an object such as {"prompt": "…", "model": "…"}'
    ' or {"messages": […], "temperature": 0}'
)


def read_prompts(source: Any, folder: Path | None = None) -> list[Prompt]:
    """The prompts of a file or a variable.

    A table (DataFrame, ``.csv``) has a column ``prompt``, and may have ``model``, ``system`` and ``tag``; its
    other columns are not sent. A list (list, tuple, Series, generator, ``.jsonl`` with one item a line) has
    texts, lists of messages, or objects: ``prompt`` or ``messages``, and beside it what `CompletionCache.ask`
    takes. A ``.txt`` has one prompt a line. Empty lines are passed over. Prompts are sent as they stand:
    ``{{ name }}`` in them is text.

    Args:
        source: A path, or anything above that is no text.
        folder: Where a relative path begins; None is the current folder.

    Raises:
        OptionError: It can't be read, or is nothing of the kind.
        RequestError: An item is no prompt; the message says which.
    """
    if isinstance(source, (str, os.PathLike)):
        path = (folder or Path()) / Path(source).expanduser()
        return list(_from_file(path))
    if hasattr(source, "columns"):
        return list(_from_table(source.columns, source.itertuples(index=False, name=None), "row"))
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise OptionError(
            f"a {type(source).__name__} is no list of prompts {_NOTHING_SENT}",
            "give a list, a Series, a DataFrame with a column prompt, or a file",
        )
    return [_prompt(item, f"item {at}") for at, item in enumerate(source)]


def options_and_params(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `CompletionCache.ask` among these, and the other fields of the request."""
    options = {name: value for name, value in fields.items() if name in _OPTIONS}
    return options, {name: value for name, value in fields.items() if name not in _OPTIONS}


def _from_file(path: Path) -> Iterator[Prompt]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise OptionError(
            f"{path.name} is no list of prompts {_NOTHING_SENT}", "it takes .txt, .jsonl or .csv files"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # as the magics read files: no mark, one kind of line end
    except (OSError, UnicodeDecodeError) as problem:
        why = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise OptionError(
            f"{path} can't be read: {why} {_NOTHING_SENT}", "check the name; a relative one begins here"
        ) from None
    return read(text)


def _from_lines(text: str) -> Iterator[Prompt]:
    return (Prompt(line, {}, {}) for line in text.split("\n") if line.strip())


def _from_json_lines(text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise RequestError(
                    f"line {number} is not JSON: {problem} {_NOTHING_SENT}", "one line is one item"
                ) from None
            yield _prompt(item, f"line {number}")


def _from_csv(text: str) -> Iterator[Prompt]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as problem:
        raise OptionError(f"it is not CSV: {problem} {_NOTHING_SENT}", "quote texts with line ends") from None
    return _from_table(rows[0] if rows else [], filter(None, rows[1:]), "row")


_READERS: Final[Mapping[str, Callable[[str], Iterator[Prompt]]]] = {
    ".txt": _from_lines,
    ".jsonl": _from_json_lines,
    ".ndjson": _from_json_lines,
    ".csv": _from_csv,
}


def _from_table(columns: Iterable[Any], rows: Iterable[Sequence[Any]], unit: str) -> Iterator[Prompt]:
    places = {name: at for at, name in enumerate(columns) if name in _COLUMNS}
    if "prompt" not in places:
        raise OptionError(
            f"the table has no column prompt {_NOTHING_SENT}", "rename the one with the prompts"
        )
    for number, row in enumerate(rows):
        cells = {name: row[at] for name, at in places.items() if at < len(row)}
        given = {name: cell for name, cell in cells.items() if name == "prompt" or _is_given(cell)}
        yield _prompt(given, f"{unit} {number}")


def _is_given(cell: Any) -> bool:
    return isinstance(cell, (str, list, tuple)) and bool(cell)  # neither an empty cell nor pandas' NaN


def _prompt(item: Any, place: str) -> Prompt:
    fields = dict(item) if isinstance(item, Mapping) else {"prompt": item}
    asked = [fields.pop(name) for name in ("prompt", "messages") if name in fields]
    if len(asked) != 1 or not _is_prompt(asked[0]):
        raise RequestError(f"{place} is no prompt: {_shown(item)} {_NOTHING_SENT}", _FORMS)
    options, params = options_and_params(fields)
    for name, value in options.items():
        if value is not None and not _fits(name, value):
            raise RequestError(f"{place}: {name} can't be {_shown(value)} {_NOTHING_SENT}", _FORMS)
    return Prompt(asked[0], options, params)


def _fits(name: str, value: Any) -> bool:
    return isinstance(value, _OPTIONS[name]) and isinstance(value, bool) == (name == "stream")


def _is_prompt(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(message, Mapping) for message in value)
    return isinstance(value, str)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"  # noqa: PLR2004 - what fits in a message


COLUMNS: Final = ("key", "kind", "cost_usd", "error")
"""The columns of what `orc.warm` answers with."""

_REFUSES_ALL: Final = frozenset({401, 402})
"""Statuses by which OpenRouter refuses the key or the credits, and so would every further request."""

_TICK_S: Final = 0.2
"""How often to let an interrupt through; waiting alone can't be interrupted on Windows."""


class Row(NamedTuple):
    """What one request of the list came to.

    Attributes:
        key: 64 hex digits; empty where the request can't be made.
        kind: See `records.AskKind`.
        cost: What the answer cost when it was bought; of a failed call what is known of its cost.
        error: Why there is no answer, or why it is not kept; empty when all is well.
    """

    key: str
    kind: AskKind
    cost: Cost
    error: str = ""


class Warmed(NamedTuple):
    """What a list came to; `rows` in its order, without those that an interrupt left undone."""

    rows: Sequence[Row]
    wanted: int

    @property
    def summary(self) -> str:
        """One line: ``1,000 prompts · 940 cached · 58 bought for $0.31 · 2 failed``."""
        kinds = Counter(row.kind for row in self.rows)
        bought = [row.cost.usd for row in self.rows if row.kind in MADE_CALL and row.kind != "failed"]
        known = [usd for usd in bought if usd is not None]
        at_least = "≥ " if len(known) < len(bought) else ""
        cached = len(self.rows) - len(bought) - kinds["failed"]
        lost = sum(bool(row.error) for row in self.rows) - kinds["failed"]
        parts = [
            f"{self.wanted:,} prompt{'' if self.wanted == 1 else 's'}",
            f"{cached:,} cached",
            f"{len(bought):,} bought"
            + (f" for {at_least}{format_usd(sum(known, ZERO_USD))}" if bought else ""),
            f"{lost:,} of them not stored" if lost else "",
            f"{kinds['failed']:,} failed" if kinds["failed"] else "",
            f"{left:,} not asked: run it again" if (left := self.wanted - len(self.rows)) else "",
        ]
        return " · ".join(filter(None, parts))

    def frame(self, index: Any = None) -> pd.DataFrame:
        """One row a request, with `COLUMNS`; ``cost_usd`` is NaN where it is unknown."""
        import pandas as pd

        rows = [
            (r.key, r.kind, float("nan") if r.cost.usd is None else float(r.cost.usd), r.error)
            for r in self.rows
        ]
        frame: pd.DataFrame = pd.DataFrame(rows, index=index, columns=list(COLUMNS)).astype(
            {"key": "str", "kind": "str", "cost_usd": "float64", "error": "str"}
        )
        return frame


def fill(
    prompts: Sequence[Prompt],
    make: Callable[[Prompt], Ask],
    run: Callable[[Ask, Callbacks], Outcome],
    *,
    workers: int = 8,
    progress: bool = True,
    before_send: Callable[[Request], None] | None = None,
    tell: Callable[[str], None],
) -> Warmed:
    """Asks for each prompt, so many at a time. What fails is in its row, and stops no other.

    What is stored already is free, so that a list can be run again after an interrupt or a failure.
    Where OpenRouter refuses the key or the credits nothing more is sent.

    Args:
        prompts: What to ask.
        make: Returns the ask of a prompt.
        run: Asks; called from several threads.
        workers: How many are asked at a time.
        progress: Whether a bar is shown, where one can be.
        before_send: See `callbacks.Callbacks.before_send`; what it raises is that row's error.
        tell: Takes the summary, also when it is interrupted.

    Raises:
        OptionError: There can't be so many workers.
        KeyboardInterrupt: As it came. The calls under way are ended at once; what was bought is kept.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers {workers!r} is no number from 1 up (nothing was sent)", "8 is a good one")
    cancel = Cancel()
    gate = _Gate(before_send)
    callbacks = Callbacks(before_send=gate, cancel=cancel)
    futures: list[Future[Row]] = []
    done: queue.SimpleQueue[Future[Row]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="or-cache-warm")
    try:
        with _bar(len(prompts), shown=progress) as advance:
            for prompt in prompts:
                future = pool.submit(_row, prompt, make, run, callbacks, gate)
                futures.append(future)
                future.add_done_callback(done.put)
            for _ in prompts:
                _next(done).result()
                advance()
    finally:
        cancel.set()
        pool.shutdown(cancel_futures=True)
        rows = [future.result() for future in futures if not future.cancelled() and not future.exception()]
        warmed = Warmed(rows, len(prompts))
        tell(warmed.summary)
    return warmed


def _next(done: queue.SimpleQueue[Future[Row]]) -> Future[Row]:
    while True:
        try:
            return done.get(timeout=_TICK_S)
        except queue.Empty:
            continue


class _Gate:
    """Lets requests through until OpenRouter has refused the key or the credits."""

    def __init__(self, before_send: Callable[[Request], None] | None) -> None:
        self._before_send = before_send
        self._refusal: UpstreamError | None = None

    def __call__(self, request: Request) -> None:
        """Raises what forbids to send."""
        if self._refusal is not None:
            raise UpstreamError(
                f"not sent, since one before was refused: {self._refusal.args[0]}",
                self._refusal.hint,
                status=self._refusal.status,
                cost_usd=ZERO_USD,
            )
        if self._before_send is not None:
            self._before_send(request)

    def learn(self, failure: OrCacheError) -> None:
        """Takes note of how a request failed."""
        if self._refusal is None and isinstance(failure, UpstreamError) and failure.status in _REFUSES_ALL:
            self._refusal = failure


def _row(
    prompt: Prompt,
    make: Callable[[Prompt], Ask],
    run: Callable[[Ask, Callbacks], Outcome],
    callbacks: Callbacks,
    gate: _Gate,
) -> Row:
    ask = None
    try:
        ask = make(prompt)
        barred = why_no_lookup(ask.request, ask.policy)
        if barred is not None:
            raise OptionError(f"its answer would not be stored: {barred} (nothing was sent)")
        outcome = run(ask, callbacks)
    except OrCacheError as exc:
        gate.learn(exc)
        cost = Cost(exc.cost_usd, "reported") if isinstance(exc, UpstreamError) else FREE
        return Row(
            ask.key.digest if ask else "",
            "failed",
            UNKNOWN_COST if cost.usd is None else cost,
            str(exc.args[0]),
        )
    error = f"not stored: {outcome.not_stored}" if outcome.not_stored else ""
    return Row(outcome.key.digest, outcome.kind, outcome.answer.cost, error)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[], object]]:
    """A progress bar, moved on by what it gives; nothing where neither a notebook nor a terminal shows it."""
    if not shown:
        yield lambda: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets
        from tqdm.auto import tqdm
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    # None is: only in a terminal. A notebook's output is none, and shows the bar all the same.
    with tqdm(total=total, unit="prompt", disable=False if in_notebook else None) as bar:
        yield bar.update


def warm(
    cache: CompletionCache,
    source: Any,
    *,
    workers: int = 8,
    progress: bool = True,
    max_cost_usd: Usd | None = None,
    before_send: Callable[[Request], None] | None = None,
    tell: Callable[[str], None] | None = None,
    **asked: Any,
) -> pd.DataFrame:
    """Fills the cache from a list of prompts, and tells what each came to; see `COLUMNS`.

    What is stored already is free: after an interrupt or a failure, run it again. One that fails stops no
    other; its error is in its row.

    Args:
        cache: What is filled.
        source: A list, Series or DataFrame, or a ``.txt``, ``.jsonl`` or ``.csv`` file; see
            `read_prompts`. The table has the index of a Series or DataFrame.
        workers: How many are asked at a time.
        progress: Whether a bar is shown, where one can be, and the summary printed.
        max_cost_usd: The most that the whole list may cost: a prompt that may go over it fails unsent.
            The settings' budgets hold besides.
        before_send: Called with each request that is about to be sent, from several threads; an
            `OrCacheError` that it raises is that row's, and nothing is sent.
        tell: Takes the summary instead of printing it.
        **asked: The arguments of `ask`, for the prompts that don't have their own.

    Raises:
        OptionError: The source can't be read; nothing was sent.
        RequestError: An item of it is no prompt; nothing was sent.
    """
    options, params = options_and_params(asked)
    limits: list[Limit] = []
    if (limit := parse_limit(max_cost_usd)) is not None:
        from or_cache_magic.money.budget import BudgetTracker, Limit

        limits.append(Limit("this list's max_cost_usd", limit, BudgetTracker()))

    def make(prompt: Prompt) -> Ask:
        return cache.prepare(prompt.prompt, {**params, **prompt.params}, **{**options, **prompt.options})

    warmed = fill(
        read_prompts(source),
        make,
        partial(cache.run, limits=limits),
        workers=workers,
        progress=progress,
        before_send=before_send,
        tell=tell or (print if progress else _say_nothing),
    )
    return warmed.frame(source.index if hasattr(source, "iloc") else None)


def _say_nothing(_line: str) -> None:
    """Where a summary goes that nobody wants."""
