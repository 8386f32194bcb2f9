"""Fill the completion cache from a list of prompts: several at a time, each on its own, resumable."""

from __future__ import annotations

import csv
import io
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.request import Usd, parse_limit
from or_cache_magic.core.blocks import read_json
from or_cache_magic.core.callbacks import Cancelled, Pacing
from or_cache_magic.core.options import checked, plain, shown
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.project import file_text
from or_cache_magic.core.records import MADE_CALL, UNKNOWN_COST, Cost, OutcomeKind, Request
from or_cache_magic.core.settings import whole
from or_cache_magic.core.units import ZERO_USD, format_count, format_sum
from or_cache_magic.errors import (
    OptionError,
    OrCacheError,
    RequestError,
    UpstreamError,
    explained,
)
from or_cache_magic.money.budget import BudgetTracker, Limit, cost_of_error
from or_cache_magic.tables.pool import Pool

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd
    from typing_extensions import Self

    from or_cache_magic.cache.cache import CompletionCache


class Prompt(NamedTuple):
    """One request of a list.

    Attributes:
        prompt: A text, or a list of messages.
        fields: The arguments of `CompletionCache.ask` that stood beside it; they come before those that are
            given for the whole list.
        problem: Why it can't be asked; empty where it can.
    """

    prompt: Any
    fields: Mapping[str, Any] = MappingProxyType({})
    problem: str = ""


_COLUMNS: Final = ("prompt", "model", "system", "tag")
"""The columns of a table that are read. The others are its own data, and not sent."""

_NOTHING_SENT: Final = "(nothing was sent)"
_FORMS: Final = (
    'an item is a text, a list of messages, or an object such as {"prompt": "…", "model": "…"}'
    ' or {"messages": […], "temperature": 0}'
)


def read_prompts(source: Any) -> list[Prompt]:
    """Return the prompts of a file or a variable.

    A table (DataFrame, ``.csv``) has a column ``prompt``, and may have ``model``, ``system`` and ``tag``; its
    other columns are not sent. A list (list, tuple, Series, generator, ``.jsonl`` with one item a line) has
    texts, lists of messages, or objects: ``prompt`` or ``messages``, and beside it what `CompletionCache.ask`
    takes. A ``.txt`` has one prompt a line. Empty lines are passed over. Prompts are sent as they stand:
    ``{{ name }}`` in them is text.

    Args:
        source: A path, or anything above that is no text.

    Raises:
        OptionError: It can't be read, or is nothing of the kind.
    """
    if isinstance(source, (str, os.PathLike)):
        return list(_from_file(Path(source).expanduser()))
    if hasattr(source, "itertuples"):
        return list(_from_table(source.columns, source.itertuples(index=False, name=None), "row"))
    if not isinstance(source, Iterable) or hasattr(source, "columns") or hasattr(source, "column_names"):
        source = _of_another_library(source)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise OptionError(
            f"a {type(source).__name__} is no list of prompts {_NOTHING_SENT}",
            "give a list, a Series, a DataFrame with a column prompt, or a file",
        )
    return [_prompt(item, f"item {at}") for at, item in enumerate(source)]


def _of_another_library(source: Any) -> Any:
    """Return a table of a library that narwhals knows as a list of objects; anything else as it is."""
    import narwhals as nw

    found = nw.from_native(source, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        raise OptionError(
            f"a lazy table has no rows yet {_NOTHING_SENT}", "collect it: table = lazy.collect()"
        )
    if not isinstance(found, nw.DataFrame):
        return source
    return _from_table_rows(found)


def _from_table_rows(table: Any) -> list[dict[str, Any]]:
    names = [name for name in table.columns if name in _COLUMNS]
    if "prompt" not in names:
        raise OptionError(
            f"the table has no column prompt {_NOTHING_SENT}", "rename the one with the prompts"
        )
    rows = table.select(names).rows(named=True)
    return [{name: cell for name, cell in row.items() if name == "prompt" or _is_given(cell)} for row in rows]


def _from_file(path: Path) -> Iterator[Prompt]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise OptionError(
            f"{path.name} is no list of prompts {_NOTHING_SENT}", "it takes .txt, .jsonl or .csv files"
        )
    try:
        text = file_text(path)
    except (OSError, UnicodeDecodeError) as problem:
        why = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise OptionError(
            f"{path} can't be read: {why} {_NOTHING_SENT}", "check the name; a relative one begins here"
        ) from None
    return read(text)


def _from_lines(text: str) -> Iterator[Prompt]:
    return (Prompt(line) for line in text.split("\n") if line.strip())


def _from_json_lines(text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                item = read_json(line)
            except ValueError as problem:
                yield Prompt("", problem=f"line {number} is not JSON: {problem} {_NOTHING_SENT}")
                continue
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
    with suppress(Exception):  # what can't be copied is refused where the ask is made
        item = deepcopy(item)  # a generator may change it afterwards
    fields = dict(item) if isinstance(item, Mapping) else {"prompt": item}
    asked = [fields.pop(name) for name in ("prompt", "messages") if name in fields]
    if len(asked) != 1 or not _is_prompt(asked[0]):
        return Prompt("", problem=f"{place} is no prompt: {shown(item)} {_NOTHING_SENT}; {_FORMS}")
    if "attach" in fields:
        # A list may come from somebody else: it must not choose which files of this machine are sent.
        problem = f"{place} attaches something {_NOTHING_SENT}; give attach beside the list, for all of it"
        return Prompt("", problem=problem)
    return Prompt(asked[0], fields)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(message, Mapping) for message in value)
    return isinstance(value, str)


_TYPES: Final = {"key": "str", "kind": "str", "cost_usd": "float64", "error": "str"}
COLUMNS: Final = tuple(_TYPES)
"""The columns of what `orc.warm` answers with."""

_INTERRUPTED: Final = "interrupted"

_START: Final = 8
_MOST: Final = 32
"""How many are asked at a time unless it is said: so many at first, and at most."""

_EVERY_S: Final = 30.0
"""How often a line says what is waited for, where there is no bar."""


class Row(NamedTuple):
    """The result of one request of the list.

    Attributes:
        key: 64 hex digits; empty where the request can't be made.
        kind: See `records.OutcomeKind`.
        cost: What the answer cost when it was bought; of a failed call what is known of its cost.
        error: Why there is no answer, or why it is not kept; empty when all is well.
    """

    key: str
    kind: OutcomeKind
    cost: Cost
    error: str = ""


def warm(
    cache: CompletionCache,
    source: Any,
    *,
    workers: int | None = None,
    progress: bool = True,
    max_cost_usd: Usd | None = None,
    before_send: Callable[[Request], None] | None = None,
    tell: Callable[[str], object] | None = None,
    **asked: Any,
) -> pd.DataFrame:
    """Fill the cache from a list of prompts, and return the result of each; see `COLUMNS`.

    What is stored already is free: after an interrupt or a failure, run it again. One that fails stops no
    other; its error is in its row. Where the key, the credits or a budget refuses nothing more is sent.

    Args:
        cache: What is filled.
        source: A list, Series or DataFrame, or a ``.txt``, ``.jsonl`` or ``.csv`` file; see
            `read_prompts`. The table has the index of a Series or DataFrame.
        workers: The most that are asked at a time. None begins with 8, and asks up to 32 while answers are as
            fast. Where the server refuses for want of room fewer are asked, and all wait as long as it
            says; see `openrouter.pace`.
        progress: Whether a bar is shown, where one can be, and the summary printed. With the setting
            ``receipt=stable`` there is no bar, and the summary is the same on every run.
        max_cost_usd: The most that the whole list may cost: a prompt that may go over it fails unsent.
            The settings' budgets hold besides.
        before_send: Called with each request that is about to be sent, from several threads; an
            `OrCacheError` that it raises is that row's, and nothing is sent.
        tell: Takes the summary instead of printing it, also when the list is interrupted.
        **asked: The arguments of `ask`, for the prompts that don't have their own.

    Raises:
        OptionError: The source can't be read, or there can't be so many workers; nothing was sent.
        KeyboardInterrupt: As it came. The calls under way are ended at once; what was bought is kept.
    """
    pacing = _pacing(workers)
    if asked.get("attach") is not None:
        from or_cache_magic.cache.attachments import read_attachments

        asked["attach"] = read_attachments(asked["attach"])  # once, not for each row
    batch = _Batch(cache, asked, parse_limit(max_cost_usd), before_send, pacing)
    checked("", asked)  # what is wrong for all is an error, not one a row
    prompts = read_prompts(source)
    rows: list[Row] = []
    stable = cache.settings.receipt == "stable"
    try:
        batch.run(prompts, rows, progress=progress and not stable, tell=tell or print)
    except KeyboardInterrupt as exc:
        again = "run it again: what was bought is kept, and free"
        raise explained(exc, "the list was interrupted", again) from None
    finally:
        if tell is not None or progress:
            until = [] if batch.goes_on is None else [batch.goes_on]
            (tell or print)(" · ".join([_summary(rows, len(prompts), stable=stable), *until]))
    return _frame(rows, source.index if hasattr(source, "iloc") else None)


class _Batch:
    """The asks of one list; made of the arguments of `warm`. Thread-safe."""

    def __init__(
        self,
        cache: CompletionCache,
        asked: Mapping[str, Any],
        limit_usd: Decimal | None,
        before_send: Callable[[Request], None] | None,
        pacing: Pacing,
    ) -> None:
        self._cache = cache
        self._asked = asked
        self._limits: list[Limit] = []
        if limit_usd is not None:
            self._limits.append(Limit("this list's max_cost_usd", limit_usd, BudgetTracker()))
        self._waits = ""
        self._pool: Pool[Row] = Pool(pacing.most, before_send, pacing, self._wait)
        #: When what a model's limit left over can be asked; None where there is no such limit.
        self.goes_on: str | None = None

    def run(
        self, prompts: Sequence[Prompt], rows: list[Row], *, progress: bool, tell: Callable[[str], object]
    ) -> None:
        """Ask for each prompt; put into `rows` what each came to, in their order."""
        calls = [partial(self._row, prompt) for prompt in prompts]
        with _Bar(len(prompts), tell, shown=progress) as bar:
            self._pool.run(calls, rows, advance=bar.advance, tick=lambda: bar.wait(self._waits))

    def _wait(self, line: str) -> None:
        self._waits = line

    def _row(self, prompt: Prompt) -> Row:
        ask, sent = None, threading.Event()
        try:
            if prompt.problem:
                raise RequestError(prompt.problem)
            ask = self._cache.prepare(prompt.prompt, {**self._asked, **prompt.fields})
            barred = why_no_lookup(ask.request, ask.policy)
            if barred is not None:
                raise OptionError(f"its answer would not be stored: {barred} (nothing was sent)")
            callbacks = self._pool.callbacks._replace(on_send=sent.set, on_cost=partial(_not_sent, sent))
            outcome = self._cache.run(ask, callbacks, limits=self._limits)
        except Cancelled:
            if not sent.is_set():
                raise  # it has no row: it was not asked
            return Row(ask.key.digest if ask else "", "failed", UNKNOWN_COST, _INTERRUPTED)
        except OrCacheError as exc:
            self._pool.failed(exc, ask.request if ask else None)
            if isinstance(exc, UpstreamError) and exc.refuses_model:
                self.goes_on = exc.hint
            return Row(ask.key.digest if ask else "", "failed", cost_of_error(exc), str(exc.args[0]))
        self._waits = ""
        error = f"not stored: {outcome.not_stored}" if outcome.not_stored else ""
        return Row(outcome.key.digest, outcome.kind, outcome.answer.cost, error)


def _pacing(workers: int | None) -> Pacing:
    if workers is None:
        return Pacing(_START, _MOST)
    try:
        given: Any = plain(workers, "workers")
        most = whole()(None if isinstance(given, str) else given)
    except ValueError as exc:
        raise OptionError(
            f"workers = {shown(workers)}: {exc} (nothing was sent)", f"{_START} is a good one"
        ) from None
    return Pacing(most, most)


def _not_sent(sent: threading.Event, cost: Cost) -> None:
    """Take back that something is under way, where it is known to have cost nothing."""
    if cost.usd == ZERO_USD:
        sent.clear()


class _Bar:
    """A progress bar, and what is waited for; where neither a notebook nor a terminal shows a bar, lines."""

    def __init__(self, total: int, tell: Callable[[str], object], *, shown: bool) -> None:
        self._tell = tell
        self._shown = shown
        self._told_s = -math.inf
        self._waits = ""
        self._bar: Any = None
        if shown:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a notebook without ipywidgets
                from tqdm.auto import tqdm
            in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
            # None is: only in a terminal. A notebook's output is none, and shows the bar all the same.
            self._bar = tqdm(total=total, unit="prompt", disable=False if in_notebook else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """Move on by one."""
        if self._bar is not None:
            self._bar.update()

    def wait(self, line: str) -> None:
        """Say what is waited for; empty is nothing."""
        if self._bar is None or line == self._waits:
            return
        self._waits = line
        if not self._bar.disable:
            self._bar.set_postfix_str(line)
        elif line and time.monotonic() - self._told_s >= _EVERY_S:
            self._told_s = time.monotonic()
            self._tell(line)


def _summary(rows: Sequence[Row], wanted: int, *, stable: bool = False) -> str:
    """One line: ``1,000 prompts · 940 cached · 58 bought for $0.31 · 2 failed``."""
    stopped = sum(row.error == _INTERRUPTED for row in rows)
    failed = sum(row.kind == "failed" for row in rows)
    bought = [row.cost.usd for row in rows if row.kind != "failed" and (stable or row.kind in MADE_CALL)]
    known = [usd for usd in bought if usd is not None]
    paid = format_sum(sum(known, ZERO_USD), unpriced=len(bought) - len(known))
    lost, left = sum(bool(row.error) for row in rows) - failed, wanted - len(rows)
    parts = [
        format_count(wanted, "prompt"),
        f"{len(bought):,} answered, bought for {paid}" if stable else "",
        "" if stable else f"{len(rows) - len(bought) - failed:,} cached",
        "" if stable else f"{len(bought):,} bought" + (f" for {paid}" if bought else ""),
        f"{lost:,} of them not stored" if lost else "",
        f"{failed - stopped:,} failed" if failed > stopped else "",
        f"{stopped:,} interrupted, and perhaps paid for" if stopped else "",
        f"{left:,} not asked: run it again" if left else "",
    ]
    return " · ".join(filter(None, parts))


def _frame(rows: Sequence[Row], index: Any) -> pd.DataFrame:
    """One row a request, with `COLUMNS`; ``cost_usd`` is NaN where it is unknown."""
    import pandas as pd

    values = [(row.key, row.kind, row.cost.usd, row.error) for row in rows]
    frame: pd.DataFrame = pd.DataFrame(values, index=index, columns=list(_TYPES)).astype(_TYPES)
    return frame
