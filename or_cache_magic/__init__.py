"""Ask OpenRouter in a notebook cell, keep the answer, rerun for nothing.

In a notebook::

    %load_ext or_cache_magic

    %%openrouter openai/gpt-4o-mini
    What is a median?

From Python, with the same cache and the same keys: `ask`, `aask`, `map`, `amap`, `warm`, `embed`, `client`,
`async_client`, `stats`, `entries`, `why`, `plan`, `report`, `verify`, `panel`, `purge`, `export`, `load`,
`open_cache`. Importing this package imports nothing else of it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from decimal import Decimal

    import numpy as np
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell
    from numpy.typing import NDArray
    from openai import AsyncOpenAI, OpenAI

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.explain.plan import Plan
    from or_cache_magic.explain.report import Report
    from or_cache_magic.explain.why import Why
    from or_cache_magic.notebook.session import Session
    from or_cache_magic.panels import Shown
    from or_cache_magic.replay.packs import Exported, Imported
    from or_cache_magic.tables.verify import Verification

__all__ = [
    "Completion",
    "CompletionCache",
    "aask",
    "amap",
    "ask",
    "async_client",
    "batches",
    "client",
    "embed",
    "entries",
    "errors",
    "export",
    "load",
    "load_ipython_extension",
    "map",
    "open_cache",
    "panel",
    "plan",
    "purge",
    "report",
    "stats",
    "unload_ipython_extension",
    "verify",
    "warm",
    "why",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_open: list[CompletionCache] = []
"""The cache of a script, once it is used; with the extension loaded its cache is used instead."""


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magics to a shell: ``%load_ext or_cache_magic``. Silent; opens and makes nothing."""
    from or_cache_magic.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove what loading added: ``%unload_ext or_cache_magic``."""
    from or_cache_magic.notebook.extension import unload

    unload(shell)


def _session() -> Session | None:
    """Return what the loaded extension's magics share; None where it isn't loaded."""
    extension = sys.modules.get("or_cache_magic.notebook.extension")
    loaded = None if extension is None else extension.loaded()
    return None if loaded is None else loaded.session()


def _cache() -> CompletionCache:
    if (session := _session()) is not None:
        return session.cache()
    if not _open:
        _open.append(_script_cache())
    return _open[0]


def _script_cache() -> CompletionCache:
    from pathlib import Path

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.project import current_folder
    from or_cache_magic.core.settings import Project, load_settings
    from or_cache_magic.notebook.location import cache_directory

    shell = _shell()
    start = Path(shell.starting_dir) if shell is not None else current_folder()
    option = load_settings(os.environ, Project(start), {}).cache_dir
    names = None if shell is None else shell.user_ns
    location = cache_directory(starting_dir=start, option=option, environ=os.environ, user_ns=names)
    return CompletionCache(location.path, packs=start)


def _shell() -> InteractiveShell | None:
    # Where IPython was never imported there is no shell, and a script need not import it.
    module = sys.modules.get("IPython.core.getipython")
    return module.get_ipython() if module is not None else None


def _with_arguments_of(
    function: Callable[_P, Any],
) -> Callable[[Callable[..., Coroutine[Any, Any, _T]]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Give a coroutine function the signature of another, for type checkers, editors and ``?``."""
    return lambda coroutine: update_wrapper(coroutine, function, assigned=(), updated=())


def ask(
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    model: str | None = None,
    system: str | None = None,
    attach: Any = None,
    mode: str | None = None,
    sample: int | None = None,
    ttl: float | str | None = None,
    tag: str | Sequence[str] | None = None,
    stream: bool | None = None,
    prompt_cache: str | None = None,
    reply_to: Completion | None = None,
    schema: Any = None,
    repair: int | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    **params: Any,
) -> Completion:
    """Return the completion of a prompt: from the completion cache when it is there, else bought and kept.

    It is the same entry as that of a ``%%openrouter`` cell with the same request. The arguments and
    errors are those of `CompletionCache.ask`.
    """
    return _cache().ask(
        prompt,
        model=model,
        system=system,
        attach=attach,
        mode=mode,
        sample=sample,
        ttl=ttl,
        tag=tag,
        stream=stream,
        prompt_cache=prompt_cache,
        reply_to=reply_to,
        schema=schema,
        repair=repair,
        max_cost_usd=max_cost_usd,
        **params,
    )


@_with_arguments_of(ask)
def aask(prompt: str | Sequence[Mapping[str, Any]], **fields: Any) -> Coroutine[Any, Any, Completion]:
    """`ask` for asyncio, without blocking the event loop: ``await orc.aask(…)`` in a cell or a coroutine.

    Cancelling the task closes the connection. See `CompletionCache.aask`.
    """
    return _cache().aask(prompt, **fields)


def map(  # noqa: A001 - the design's name
    data: Any,
    template: str | Callable[[Any], Any],
    *,
    model: str | None = None,
    out: str = "answer",
    schema: Any = None,
    workers: int | str | None = "auto",
    max_cost_usd: Decimal | float | str | None = None,
    on_error: str = "keep",
    limit: int | None = None,
    batch: bool | str = False,
    progress: bool = True,
    **asked: Any,
) -> Any:
    """Ask for each row of a table, and return the table with the answers; see `CompletionCache.map`.

    In a notebook an interrupt leaves the table as far as it came in ``_``.
    """
    try:
        return _cache().map(
            data,
            template,
            model=model,
            out=out,
            schema=schema,
            workers=workers,
            max_cost_usd=max_cost_usd,
            on_error=on_error,
            limit=limit,
            batch=batch,
            progress=progress,
            **asked,
        )
    except BaseException as exc:
        _leave(exc)
        raise


@_with_arguments_of(map)
async def amap(data: Any, template: str | Callable[[Any], Any], **options: Any) -> Any:
    """`map` for asyncio, without blocking the event loop: ``await orc.amap(…)``.

    Cancelling the task ends what is under way; what was bought is kept.
    """
    try:
        return await _cache().amap(data, template, **options)
    except BaseException as exc:
        _leave(exc)
        raise


def _leave(stopped: BaseException) -> None:
    """Make the table of what stopped, as far as it came, `_` and ``Out[n]`` where there is a shell."""
    shell = _shell()
    if shell is not None and hasattr(stopped, "table"):
        from or_cache_magic.notebook.each import leave_table

        leave_table(stopped, shell)


def stats(by: str = "", *, session: bool = False) -> pd.DataFrame:
    """Return calls, hits, rates and dollars as a DataFrame; see `CompletionCache.stats`."""
    return _cache().stats(by, session=session)


def entries(text: str = "", **filters: Any) -> pd.DataFrame:
    """Return the stored answers as a DataFrame, newest first; see `CompletionCache.entries`."""
    return _cache().entries(text, **filters)


def why(key_or_answer: str | Completion | None = None) -> Why:
    """Return why the last ask was not served, or this one, and what is nearest; see `CompletionCache.why`."""
    return _cache().why(key_or_answer)


def report(notebook: str | os.PathLike[str] | None = None, **how: Any) -> Report:
    """Return what was asked of which models, for a methods section; see `CompletionCache.report`."""
    return _cache().report(notebook, **how)


def plan(
    notebook: str | os.PathLike[str] | None = None,
    *,
    buy: bool = False,
    max_cost_usd: Decimal | float | str | None = None,
) -> Plan:
    """Return what running a notebook from its top would ask and cost, cell by cell. Asks nothing.

    In a notebook the values at hand count; elsewhere what needs one is unknown. In CI
    ``sys.exit(orc.plan("paper.ipynb").pays)`` fails where the notebook would pay.

    Args:
        notebook: Its file; None is the one that is run, where the front end tells.
        buy: Whether what is missing, and depends on nothing else that is, is asked first, all at once.
        max_cost_usd: The most that this may cost.

    Raises:
        OptionError: There is no such notebook.
    """
    from or_cache_magic.notebook.extension import transformer
    from or_cache_magic.notebook.planning import plan_notebook

    session, transform = _session(), transformer()
    return plan_notebook(session, notebook, buy=buy, max_cost_usd=max_cost_usd, transform=transform)


def batches(name: str = "") -> pd.DataFrame:
    """Collect batches that have ended, and return all, or the rows of one; see `tables.batches.batches`."""
    from or_cache_magic.tables.batches import batches as batches_of

    return batches_of(_cache(), name)


def purge(*keys: str, **conditions: Any) -> pd.DataFrame:
    """Remove entries and return what went, without a prompt; see `CompletionCache.purge`."""
    return _cache().purge(*keys, **conditions)


def export(path: str | os.PathLike[str], *keys: str, **options: Any) -> Exported:
    """Write answers with their requests into a pack, to be committed; see `CompletionCache.export`."""
    return _cache().export(path, *keys, **options)


def load(path: str | os.PathLike[str], **options: Any) -> Imported:
    """Take the answers of a pack into the completion cache; see `CompletionCache.load`."""
    return _cache().load(path, **options)


def verify(*keys: str, **options: Any) -> Verification:
    """Ask for a sample of the entries again, and tell how the answers agree; see `CompletionCache.verify`.

    In a notebook an interrupt leaves the result as far as it came in ``_``.
    """
    try:
        return _cache().verify(*keys, **options)
    except KeyboardInterrupt as exc:
        _leave(exc)
        raise


def panel() -> Shown:
    """Return the panel, to end a cell with: what is cached, paid and saved; to browse, purge and export.

    Its `selected` and `frame()` are what is on screen as DataFrames. See `panels.Panel`.
    """
    from or_cache_magic.panels import open_panel

    session = _session()
    return open_panel(_cache(), folder=None if session is None else session.folder)


def warm(source: Any, **options: Any) -> pd.DataFrame:
    """Fill the completion cache from a list or a file of prompts; see `tables.warm.warm`."""
    from or_cache_magic.tables.warm import warm as warm_cache

    return warm_cache(_cache(), source, **options)


def client(*, cache: CompletionCache | None = None, **options: Any) -> OpenAI:
    """Return an `openai.OpenAI` whose chat completions go through the completion cache, streams too.

    What it asks is the same entry as that of `ask` with the same request. All else it sends to OpenRouter.

    Args:
        cache: Asked through; None is that of `ask`.
        **options: Of `openai.OpenAI`: ``timeout``; ``max_retries``, for completions 2 at most;
            ``default_headers`` and ``default_query``, of which completions heed ``X-Or-Cache-…`` alone.
    """
    from or_cache_magic.clients.drop_in import client as make_client

    return make_client(_cache if cache is None else lambda: cache, **options)


def async_client(*, cache: CompletionCache | None = None, **options: Any) -> AsyncOpenAI:
    """Return an `openai.AsyncOpenAI` through the completion cache, for asyncio; see `client`."""
    from or_cache_magic.clients.drop_in import async_client as make_client

    return make_client(_cache if cache is None else lambda: cache, **options)


def embed(
    texts: str | Sequence[str],
    *,
    model: str,
    dimensions: int | None = None,
    input_type: str | None = None,
    provider: Mapping[str, Any] | None = None,
    mode: str | None = None,
    ttl: float | str | None = None,
    tag: str | Sequence[str] | None = None,
    max_cost_usd: float | str | Decimal | None = None,
    extra: Mapping[str, Any] | None = None,
) -> NDArray[np.float32]:
    """Return the vectors of texts, a row each; of one text its vector. Each text is bought once, and kept.

    Many texts go in one request, and several requests at a time, at the pace that the server allows.

    Args:
        texts: One, or a list, Series or other iterable of them.
        model: Of embeddings: ``openai/text-embedding-3-small``.
        dimensions: How many numbers a vector is to have, where the model can do with fewer.
        input_type: What the texts are, where the model tells them apart: ``search_query``.
        provider: As in a request.
        mode: As of `ask`.
        ttl: As of `ask`.
        tag: As of `ask`.
        max_cost_usd: The most that all of them may cost.
        extra: Other fields of the request.

    Raises:
        RequestError: A text is empty or none; nothing was sent.
        ReplayMiss: Offline, and not all are stored.
        BudgetError: The next request may cost more than a limit leaves.
        UpstreamError: A request was refused or failed. What the others brought is kept.
    """
    return _cache().embed(
        texts,
        model=model,
        dimensions=dimensions,
        input_type=input_type,
        provider=provider,
        mode=mode,
        ttl=ttl,
        tag=tag,
        max_cost_usd=max_cost_usd,
        extra=extra or {},
    )


def open_cache(directory: str | os.PathLike[str]) -> CompletionCache:
    """Return the completion cache in a folder, made at the first store; ``:memory:`` is none."""
    from or_cache_magic.cache.cache import CompletionCache

    return CompletionCache(directory)


def _wait_for_imports() -> None:
    """Wait before a fork until no other thread imports, ten seconds at most.

    A first ask imports what it needs. A module that it is importing would be locked for ever in the child,
    which the importing thread is not in. What else belongs to one process is in `cache.process`.
    """
    from _thread import get_ident

    until_s, me = time.monotonic() + 10, get_ident()
    locks = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    while any(getattr(known(), "owner", None) not in (None, me) for known in list(locks.values())):
        if time.monotonic() > until_s:
            return
        time.sleep(0.001)


# First of all, so that it comes last of what is done before a fork, and in a thread's first ask too.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_imports)


_LAZY = {"Completion": ".cache.completion", "CompletionCache": ".cache.cache"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    if name == "errors":
        return import_module(".errors", __name__)
    if name == "__version__":
        from importlib.metadata import version

        return version("or-cache-magic")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
