"""A plan of this notebook or of a file, and what buys the missing answers beforehand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.cache.request import Usd, parse_limit
from or_cache_magic.core.project import current_folder
from or_cache_magic.core.settings import Project, load_settings
from or_cache_magic.core.units import format_count, format_sum
from or_cache_magic.errors import OptionError, explained
from or_cache_magic.notebook.location import NotebookFile, cache_directory, notebook_file, notebook_name
from or_cache_magic.notebook.plan import Kernel, Planner

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Outcome
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.explain.plan import Plan
    from or_cache_magic.notebook.session import Session

_ROUNDS: Final = 20
"""Replies to replies that are bought one after the other, at most."""

_HERE: Final = "what is unknown may be known once the cells above it have been run in this kernel"
_ELSEWHERE: Final = (
    "what is unknown needs values: %openrouter_plan in its kernel has them; and for certain,"
    " OR_CACHE_MODE=offline jupyter execute {} sends nothing and stops where something would be asked"
)


def plan_notebook(
    session: Session | None,
    name: str | os.PathLike[str] | None,
    *,
    buy: bool = False,
    max_cost_usd: Usd | None = None,
    directory: str | None = None,
    progress: bool = True,
    tell: Callable[[str], object] = print,
    transform: Callable[[str], str] = str,
) -> Plan:
    """Return the plan of a notebook; see `explain.plan.Plan`. Asks nothing, unless it is to `buy`.

    Args:
        session: What the magics of the kernel share, whose values count; None is no kernel.
        name: The notebook's file; None is the one that this kernel runs, where the front end tells.
        buy: Whether what is missing, and depends on nothing else that is, is asked first, all at once.
        max_cost_usd: The most that this may cost.
        directory: The cache's folder, where there is no kernel; None is found as the notebook would.
        progress: Whether a bar is shown.
        tell: Takes what there is to say.
        transform: Makes Python of a cell, where there is no kernel; see `extension.transformer`.

    Raises:
        OptionError: There is no such notebook.
    """
    usd = parse_limit(max_cost_usd)
    path = _path_of(session, name)
    with _opened(session, path, directory) as (cache, folder, called):

        def planner() -> Planner:
            kernel = Kernel(transform) if session is None else Kernel.of(session)
            return Planner(cache, path, kernel, folder, called)

        made = planner()
        found = made.plan(_HERE if session is not None else _ELSEWHERE.format(path.name))
        if buy:
            _buy(cache, made, planner, usd, tell, progress=progress)
            found = planner().plan(_HERE if session is not None else _ELSEWHERE.format(path.name))
    return found


def _path_of(session: Session | None, name: str | os.PathLike[str] | None) -> Path:
    start = current_folder() if session is None else session.folder
    if name is not None:
        return start / Path(name).expanduser()
    names = {} if session is None else session.shell.user_ns
    found = notebook_file(starting_dir=start, environ=os.environ, user_ns=names)
    if found is None:
        raise OptionError(
            "this front end does not tell which notebook it runs; nothing was sent",
            "name its file: %openrouter_plan analysis.ipynb",
        )
    return found.path


@contextmanager
def _opened(
    session: Session | None, path: Path, directory: str | None
) -> Iterator[tuple[CompletionCache, Path, str]]:
    """Give the cache, the folder where the cells' paths begin, and the notebook's name in entries."""
    from or_cache_magic.cache.cache import CompletionCache

    folder = path.parent if session is None else session.folder
    project = Project(folder)
    option = directory or load_settings(os.environ, project, {}).cache_dir
    location = cache_directory(starting_dir=folder, option=option, environ=os.environ)
    if session is not None:
        cache = session.cache()
        cache.flush()
        yield cache, folder, notebook_name(NotebookFile(path, "JPY_SESSION_NAME"), location)
        return
    called = notebook_name(NotebookFile(path, "JPY_SESSION_NAME"), location)

    def settings() -> Any:
        return load_settings(os.environ, project, {})

    with CompletionCache(location.path, settings=settings, notebook=called, packs=folder) as cache:
        yield cache, folder, called


def _buy(
    cache: CompletionCache,
    planner: Planner,
    again: Callable[[], Planner],
    usd: Any,
    tell: Callable[[str], object],
    *,
    progress: bool,
) -> None:
    """Ask what is missing and independent, then what goes on from that, and say what it came to."""
    from or_cache_magic.money.budget import BudgetTracker, Limit
    from or_cache_magic.tables.progress import Bill, Progress
    from or_cache_magic.tables.requests import Listed, Requests, pacing_of

    limits = [] if usd is None else [Limit("--max-cost", usd, BudgetTracker())]
    tried: set[str] = set()
    for _ in range(_ROUNDS):
        asks = [ask for ask in planner.buyable if ask.key.digest not in tried]
        if not asks:
            if not tried:
                tell("nothing is missing that can be bought beforehand")
            return
        tried.update(ask.key.digest for ask in asks)
        requests = Requests(cache, _same, _take, pacing=pacing_of(None), limits=limits)
        bill = Bill(cache, asks, len(asks)).text()
        head = f"buying {format_count(len(asks), 'answer')}: {bill}"
        try:
            with Progress(requests, len(asks), tell, shown=progress, unit="answer") as bar:
                bar.say(head)
                requests.run(Listed(asks), bar)
        except KeyboardInterrupt as exc:
            raise explained(exc, "buying was interrupted", "run it again: what was bought is kept") from None
        results = requests.results
        paid = format_sum(results.paid_usd, unpriced=results.unpriced)
        error = next(iter(results.errors.values()), "")
        failed = f" · {results.failed:,} failed, the first: {error}" if error else ""
        tell(f"{results.answered:,} answered · paid {paid}{failed}")
        if error:
            return
        planner = again()
        planner.plan("")


def _same(ask: Ask) -> Ask:
    return ask


def _take(_ask: Ask, outcome: Outcome) -> tuple[None, str]:
    """Return that nothing is taken of an answer, and why it is not kept; empty where it is."""
    return None, f"not stored: {outcome.not_stored}" if outcome.not_stored else ""
