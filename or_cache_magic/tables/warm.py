"""Fill the completion cache from a list of prompts: several at a time, each on its own, resumable."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.request import Usd, parse_limit
from or_cache_magic.core.blocks import read_json
from or_cache_magic.core.options import checked, shown
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.project import file_text
from or_cache_magic.core.records import MADE_CALL, Outcome, Request
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_count, format_sum
from or_cache_magic.errors import OptionError, RequestError, explained
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.tables.progress import Progress
from or_cache_magic.tables.requests import INTERRUPTED, Listed, Requests, Results, pacing_of

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache


class Prompt(NamedTuple):
    """One request of a list.

    Attributes:
        prompt: A text, or a list of messages.
        fields: The arguments of `CompletionCache.ask` that stood beside it; they come before those that are
            given for the whole list.
        problem: Why it can't be asked, and what helps; None where it can.
    """

    prompt: Any
    fields: Mapping[str, Any] = MappingProxyType({})
    problem: RequestError | None = None


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
                why = f"line {number} is not JSON: {problem} {_NOTHING_SENT}"
                yield Prompt("", problem=RequestError(why, _FORMS))
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
        why = f"{place} is no prompt: {shown(item)} {_NOTHING_SENT}"
        return Prompt("", problem=RequestError(why, _FORMS))
    if "attach" in fields:
        # A list may come from somebody else: it must not choose which files of this machine are sent.
        why = f"{place} attaches something {_NOTHING_SENT}"
        return Prompt("", problem=RequestError(why, "give attach beside the list, for all of it"))
    if str(fields.get("schema")).startswith("@"):
        why = f"{place} names a file for its schema {_NOTHING_SENT}"
        return Prompt("", problem=RequestError(why, "give schema beside the list, for all of it"))
    return Prompt(asked[0], fields)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(message, Mapping) for message in value)
    return isinstance(value, str)


_TYPES: Final = {"key": "str", "kind": "str", "cost_usd": "float64", "error": "str"}
COLUMNS: Final = tuple(_TYPES)
"""The columns of what `orc.warm` answers with."""


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
    if asked.get("attach") is not None:
        from or_cache_magic.cache.attachments import read_attachments

        asked["attach"] = read_attachments(asked["attach"])  # once, not for each row
    usd, tell = parse_limit(max_cost_usd), tell or (print if progress else None)
    requests = Requests(
        cache,
        partial(_ask, cache, asked),
        _take,
        pacing=pacing_of(workers),
        limits=[] if usd is None else [Limit("this list's max_cost_usd", usd, BudgetTracker())],
        before_send=before_send,
    )
    checked("", asked)  # what is wrong for all is an error, not one a row
    prompts = Listed(read_prompts(source))
    stable = cache.settings.receipt == "stable"
    try:
        shown = progress and not stable
        with Progress(requests, len(prompts), tell or print, shown=shown, unit="prompt") as bar:
            requests.run(prompts, bar)
    except KeyboardInterrupt as exc:
        again = "run it again: what was bought is kept, and free"
        raise explained(exc, "the list was interrupted", again) from None
    finally:
        if tell is not None:
            until = [] if requests.goes_on is None else [requests.goes_on]
            tell(" · ".join([_summary(requests.results, len(prompts), stable=stable), *until]))
    return _frame(requests.results, source.index if hasattr(source, "iloc") else None)


def _ask(cache: CompletionCache, asked: Mapping[str, Any], prompt: Prompt) -> Ask:
    if prompt.problem:
        raise prompt.problem
    ask = cache.prepare(prompt.prompt, {**asked, **prompt.fields})
    barred = why_no_lookup(ask.request, ask.policy)
    if barred is not None:
        raise OptionError(f"its answer would not be stored: {barred} (nothing was sent)")
    return ask


def _take(_ask: Ask, outcome: Outcome) -> tuple[None, str]:
    """Return that nothing is taken of an answer, and why it is not kept; empty where it is."""
    return None, f"not stored: {outcome.not_stored}" if outcome.not_stored else ""


def _summary(results: Results, wanted: int, *, stable: bool = False) -> str:
    """One line: ``1,000 prompts · 940 cached · 58 bought for $0.31 · 2 failed``."""
    rows = list(results.each_row())
    stopped = sum(row.error == INTERRUPTED for row in rows)
    failed = sum(row.kind == "failed" for row in rows)
    bought = [row.usd for row in rows if row.kind != "failed" and (stable or row.kind in MADE_CALL)]
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


def _frame(results: Results, index: Any) -> pd.DataFrame:
    """One row a request, with `COLUMNS`; ``cost_usd`` is NaN where it is unknown. ``attrs`` has the hints."""
    import pandas as pd

    values = [(row.key, row.kind, row.usd, row.error) for row in results.each_row()]
    frame: pd.DataFrame = pd.DataFrame(values, index=index, columns=list(_TYPES)).astype(_TYPES)
    frame.attrs["hints"] = list(results.hints)
    return frame
