"""One prompt to several models, or for several samples: asked at the same time, answered as a DataFrame."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.callbacks import Cancelled
from or_cache_magic.core.key import request_key
from or_cache_magic.errors import (
    InputError,
    OptionError,
    OrCacheError,
    SomeFailedError,
    UpstreamError,
    explained,
)
from or_cache_magic.money.budget import BudgetTracker, Limit, cost_of_error
from or_cache_magic.tables.frames import field_values, fields_of
from or_cache_magic.tables.pool import Pool

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.callbacks import OnText, OnWait
    from or_cache_magic.core.settings import Ask

_WORKERS: Final = 8
_REFUSALS: Final = (400, 401, 402, 403, 404)
"""What OpenRouter answers to what it will refuse the next time too."""
_NAMED: Final = 5
"""How many of those that failed an error names."""

COLUMNS: Final[Mapping[str, str]] = {
    "model": "object",
    "sample": "int64",
    "answer": "object",
    "cost_usd": "float64",
    "seconds": "float64",
    "prompt_tokens": "Int64",
    "completion_tokens": "Int64",
    "cached": "bool",
    "error": "object",
}
"""The columns of what several answers are bound as, and their types."""


class Member:
    """One of the asks, and what it has come to. Filled by the thread that asks.

    Args:
        ask: What is asked.
        name: How messages call it: its model, and its sample where there are several.
    """

    def __init__(self, ask: Ask, name: str) -> None:
        self.ask = ask
        self.name = name
        self.sent = threading.Event()
        #: The answer; None where there is none (yet).
        self.completion: Completion | None = None
        #: Why there is none, or why it is not of the form that was asked for; None where all is well.
        self.failure: OrCacheError | None = None

    @property
    def model(self) -> str:
        """The model that is asked."""
        return str(self.ask.request.body["model"])


def prepare_all(
    prepare: Callable[..., Ask], models: Sequence[str | None], sample: int | range | None
) -> list[Member]:
    """Return the asks of one prompt: of each model in turn, each of its samples.

    Args:
        prepare: Makes the ask of a ``model=`` and a ``sample=``; see `CompletionCache.prepare`.
        models: Ids or aliases; None is the setting's.
        sample: The samples; of one number that one, None is none in particular.

    Raises:
        InputError: It can't be asked of one of them, or two of them are one. Nothing was sent.
    """
    several = isinstance(sample, range)
    members: list[Member] = []
    for model in models:
        first = prepare(model=model, sample=sample[0] if isinstance(sample, range) else sample)
        for index in sample if isinstance(sample, range) else (first.request.sample,):
            request = first.request._replace(sample=index)
            ask = first._replace(request=request, key=request_key(request)) if index else first
            name = str(request.body["model"])
            members.append(Member(ask, f"{name} · sample {index}" if several else name))
    seen: dict[str, Member] = {}
    for member in members:
        if member.ask.key.digest in seen:
            raise OptionError(
                f"{member.name} is named twice; nothing was sent", "-n 2 asks for two samples of one model"
            )
        seen[member.ask.key.digest] = member
    return members


def run_all(
    cache: CompletionCache,
    members: Sequence[Member],
    *,
    on_text: Sequence[OnText | None],
    on_wait: Sequence[OnWait],
    done: Callable[[int], object],
    tick: Callable[[], object],
    max_cost_usd: Decimal | None = None,
) -> None:
    """Ask for all, several at a time; what is stored is free, and one that fails stops no other.

    Where the key or the credits are refused nothing more is sent.

    Args:
        cache: What they are asked through.
        members: The asks, into which is put what they come to.
        on_text: Of each, what takes its text; called on the thread that asks.
        on_wait: Of each, what takes a line that says what is waited for; likewise.
        done: Takes the place of one that has come to something; likewise.
        tick: Called now and then on this thread.
        max_cost_usd: The most that all together may cost; one that may go over it fails unsent.

    Raises:
        KeyboardInterrupt: As it came. Those under way are ended at once; what was bought is kept.
    """
    limits = [] if max_cost_usd is None else [Limit("--max-cost", max_cost_usd, BudgetTracker())]
    pool: Pool[None] = Pool(_WORKERS)

    def run(at: int) -> None:
        member, ask = members[at], members[at].ask

        def wait(line: str) -> None:
            member.sent.clear()  # between two attempts nothing is under way
            on_wait[at](line)

        callbacks = pool.callbacks._replace(on_text=on_text[at], on_wait=wait, on_send=member.sent.set)
        try:
            outcome = cache.run(ask, callbacks, limits=limits)
            member.completion = Completion(outcome, ask.request, ask=cache.ask, schema=ask.schema)
        except Cancelled:
            return
        except OrCacheError as exc:
            pool.failed(exc, ask.request)
            member.failure = exc
        done(at)

    try:
        for _ in pool.run((partial(run, at) for at in range(len(members))), tick=tick):
            pass
    except KeyboardInterrupt as exc:
        there = sum(member.completion is not None for member in members)
        cut = [m for m in members if m.completion is None and m.failure is None and m.sent.is_set()]
        cost = f"what {len(cut)} under way cost is not known yet" if cut else "nothing was under way"
        raise explained(
            exc,
            f"{there} of {len(members)} answers had come ({cost})",
            "run the cell again: what was bought is kept, and only the rest is asked",
        ) from None


def failure_of(members: Sequence[Member]) -> OrCacheError | None:
    """Return the error for those that failed: of their own type where all failed so; None where none did."""
    failed = [(member, member.failure) for member in members if member.failure is not None]
    if not failed:
        return None
    # What fails each time comes first: its hint says what to write instead.
    refused = next((failure for _, failure in failed if _fails_again(failure)), None)
    first = refused or failed[0][1]
    alike = {str(failure.args[0]) for _, failure in failed}
    if len(alike) == 1 and len(failed) == len(members):
        return first
    names = ", ".join(member.name for member, _ in failed[:_NAMED])
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    message = f"{len(failed)} of {len(members)} answers failed: {names}{more}: {first.args[0]}"
    hint = first.hint if refused else "run the cell again: only those are asked"
    if len(failed) < len(members):
        hint = f"the others are shown and bound; {hint}"
    elif len({type(failure) for _, failure in failed}) == 1:
        alone = copy(first)
        OrCacheError.__init__(alone, message, first.hint)
        return alone
    else:
        hint = f"the column error of the table says why, for each; {hint}"
    return SomeFailedError(
        message,
        hint,
        failures=tuple((member.name, failure) for member, failure in failed),
    )


def _fails_again(failure: OrCacheError) -> bool:
    refused = isinstance(failure, UpstreamError) and failure.status in _REFUSALS
    return bool(failure.hint) and (refused or isinstance(failure, InputError))


def answers_frame(members: Sequence[Member]) -> pd.DataFrame:
    """Return one row an ask, with `COLUMNS`; with a schema of an object a column a field, the answer last.

    An ``answer`` is the `Completion` itself, a text with its facts; None where there is none, as an ``error``
    is. What is not known is NaN or NA. Costs and seconds are of the call that bought the answer.
    """
    import pandas as pd

    fields = fields_of(members[0].ask.schema, COLUMNS)
    kinds = dict(COLUMNS)
    if fields:
        answer = kinds.pop("answer")
        before = {name: kinds.pop(name) for name in ("model", "sample")}
        kinds = {**before, **dict.fromkeys(fields, "object"), **kinds, "answer": answer}
    rows = [{**_values(member, fields), **_row(member)} for member in members]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(kinds), dtype=object).astype(kinds)
    for column in fields:
        frame[column] = frame[column].infer_objects()
    return frame


def _values(member: Member, fields: Mapping[str, str]) -> dict[str, Any]:
    if not fields or member.completion is None or member.failure is not None:
        return {}
    return dict(zip(fields, field_values(member.completion, fields.values()), strict=True))


def _row(member: Member) -> dict[str, Any]:
    completion, failure = member.completion, member.failure
    row: dict[str, Any] = {
        "model": member.model,
        "sample": member.ask.request.sample,
        "cached": False,
        "error": None if failure is None else str(failure.args[0]),
    }
    if completion is None:
        cost = cost_of_error(failure) if failure is not None else None
        usd = None if cost is None else cost.usd
        return {**row, "answer": None, "cost_usd": None if usd is None else float(usd)}
    answer, usage = completion.outcome.answer, completion.usage
    return {
        **row,
        "answer": completion,
        "cost_usd": None if answer.cost.usd is None else float(answer.cost.usd),
        "seconds": answer.elapsed_s,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cached": completion.cached,
    }
