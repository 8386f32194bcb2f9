"""Fills the completion cache from a list of prompts: several at a time, each on its own, resumable."""

from __future__ import annotations

import queue
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.callbacks import Asker
from or_cache_magic.core.cancel import Cancel
from or_cache_magic.core.cost import FREE, format_usd
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy, why_no_lookup
from or_cache_magic.core.records import UNKNOWN_COST, AskKind, Cost, Outcome, Request
from or_cache_magic.errors import OptionError, OrCacheError, RequestError, UpstreamError

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.tables.prompts import Prompt

__all__ = ["COLUMNS", "Row", "Warmed", "fill"]

COLUMNS: Final = ("key", "kind", "cost_usd", "error")
"""The columns of what `orc.warm` answers with."""

_REFUSES_ALL: Final = frozenset({401, 402})
"""Statuses by which OpenRouter refuses the key or the credits, and so would every further request."""

_BOUGHT: Final = ("miss", "refresh")
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
        bought = [row.cost.usd for row in self.rows if row.kind in _BOUGHT]
        known = [usd for usd in bought if usd is not None]
        at_least = "≥ " if len(known) < len(bought) else ""
        cached = len(self.rows) - len(bought) - kinds["failed"]
        lost = sum(bool(row.error) for row in self.rows) - kinds["failed"]
        parts = [
            f"{self.wanted:,} prompt{'' if self.wanted == 1 else 's'}",
            f"{cached:,} cached",
            f"{len(bought):,} bought"
            + (f" for {at_least}{format_usd(sum(known, Decimal(0)))}" if bought else ""),
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
    make: Callable[[Prompt], tuple[Request, Policy]],
    ask: Callable[[Request, Policy, Asker], Outcome],
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
        make: Makes the request and the policy of a prompt.
        ask: Asks; called from several threads.
        workers: How many are asked at a time.
        progress: Whether a bar is shown, where one can be.
        before_send: See `asker.Asker.before_send`; what it raises is that row's error.
        tell: Takes the summary, also when it is interrupted.

    Raises:
        OptionError: There can't be so many workers.
        KeyboardInterrupt: As it came. The calls under way are ended at once; what was bought is kept.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers {workers!r} is no number from 1 up (nothing was sent)", "8 is a good one")
    cancel = Cancel()
    gate = _Gate(before_send)
    asker = Asker(before_send=gate, cancel=cancel)
    futures: list[Future[Row]] = []
    done: queue.SimpleQueue[Future[Row]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="or-cache-warm")
    try:
        with _bar(len(prompts), shown=progress) as advance:
            for prompt in prompts:
                future = pool.submit(_row, prompt, make, ask, asker, gate)
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
                cost_usd=Decimal(0),
            )
        if self._before_send is not None:
            self._before_send(request)

    def learn(self, failure: OrCacheError) -> None:
        """Takes note of how a request failed."""
        if self._refusal is None and isinstance(failure, UpstreamError) and failure.status in _REFUSES_ALL:
            self._refusal = failure


def _row(
    prompt: Prompt,
    make: Callable[[Prompt], tuple[Request, Policy]],
    ask: Callable[[Request, Policy, Asker], Outcome],
    asker: Asker,
    gate: _Gate,
) -> Row:
    request = None
    try:
        request, policy = make(prompt)
        barred = why_no_lookup(request, policy)
        if barred is not None:
            raise OptionError(f"its answer would not be stored: {barred} (nothing was sent)")
        outcome = ask(request, policy, asker)
    except OrCacheError as exc:
        gate.learn(exc)
        cost = Cost(exc.cost_usd, "reported") if isinstance(exc, UpstreamError) else FREE
        return Row(_digest(request), "failed", UNKNOWN_COST if cost.usd is None else cost, str(exc.args[0]))
    error = f"not stored: {outcome.not_stored}" if outcome.not_stored else ""
    return Row(outcome.key.digest, outcome.kind, outcome.answer.cost, error)


def _digest(request: Request | None) -> str:
    if request is not None:
        with suppress(RequestError):
            return request_key(request).digest
    return ""


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
