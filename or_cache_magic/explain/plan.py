"""What running a notebook would ask and cost, a row for each thing in it that asks; nothing is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from or_cache_magic.cache.structured import Repairs
from or_cache_magic.core.policy import why_no_lookup
from or_cache_magic.core.settings import Ask
from or_cache_magic.core.units import ZERO_USD, format_count, format_duration, format_usd
from or_cache_magic.display.tables import Table, html, markdown, table_of, text
from or_cache_magic.errors import InputError, OrCacheError, StoreError, one_line
from or_cache_magic.explain.difference import changes
from or_cache_magic.explain.nearest import nearest
from or_cache_magic.storage.sketches import without_media

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Request

State = Literal["hit", "miss", "changed", "unknown", "refused"]
STATES: Final[tuple[State, ...]] = ("hit", "miss", "changed", "unknown", "refused")

_SOON_S: Final = 900
"""What expires within so long may have, when the notebook is run."""

_WHY: Final = 160
_MOST_EXPLAINED: Final = 50
"""Of so many misses at most the nearest stored request is looked for."""

_PRICED: Final = 2_000
"""Of so many requests of a table the cost is estimated one by one; others cost as these on average."""

_CORRECTION: Final = "wrong " * 400
"""Longer than what an answer that doesn't fit is told."""


class PlanRow(NamedTuple):
    """What one thing in a notebook that asks would come to.

    Attributes:
        cell: The number of its cell, by which Restart & Run All counts it: ``In [cell]``.
        name: What the answer is bound to, or how the prompt begins.
        state: ``hit``, nothing is paid; ``miss``; ``changed``, a miss of what was asked with a difference;
            ``unknown`` until it is run; ``refused``, nothing is sent.
        why: In a line; empty where there is nothing to say.
        low_usd: The least that it costs.
        high_usd: The most; None is unknown.
        requests: How many it makes; None is unknown.
        new: How many of them are not stored.
    """

    cell: int
    name: str
    state: State
    why: str = ""
    low_usd: Decimal = ZERO_USD
    high_usd: Decimal | None = ZERO_USD
    requests: int | None = None
    new: int | None = None


class Plan(NamedTuple):
    """What running a notebook from its top would ask and cost; it shows itself as a table.

    Attributes:
        notebook: Its name.
        rows: One for each thing in it that asks, in order.
        notes: What else there is to know, a line each.
    """

    notebook: str
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def pays(self) -> bool:
        """Whether something would be asked for certain: ``sys.exit(orc.plan("paper.ipynb").pays)`` in CI."""
        return any(row.state in ("miss", "changed") for row in self.rows)

    @property
    def certain(self) -> bool:
        """Whether no row is unknown."""
        return not self.count("unknown")

    @property
    def low_usd(self) -> Decimal:
        """The least that all costs."""
        return sum((row.low_usd for row in self.rows), ZERO_USD)

    @property
    def high_usd(self) -> Decimal | None:
        """The most that all costs; None where that of a row is not known."""
        return _sum_of(row.high_usd for row in self.rows)

    def count(self, state: State) -> int:
        """Return how many rows are in a state."""
        return sum(row.state == state for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a DataFrame, with the fields of `PlanRow` as its columns."""
        from or_cache_magic.display.frames import plain_frame

        return plain_frame(self.rows, _TYPES)

    def summary(self) -> str:
        """Return it in a line: ``12 hits, 2 misses ($0.0012 to $0.034), 3 unknown``."""
        counts = [(state, self.count(state)) for state in STATES]
        said = [_counted(state, count) for state, count in counts if count]
        known = [row for row in self.rows if row.state != "unknown" or row.high_usd is not None]
        low_usd = sum((row.low_usd for row in known), ZERO_USD)
        cost = range_text(low_usd, _sum_of(row.high_usd for row in known))
        more = " besides the unknown" if len(known) < len(self.rows) else ""
        return f"{', '.join(said) or 'nothing is asked'} · Run All would cost {cost}{more}"

    def _table(self) -> Table:
        heads = ["cell", "name", "state", "cost", "why"]
        rows = [
            [str(row.cell), row.name, row.state, _cost_of(row), row.why or _rows_of(row)] for row in self.rows
        ]
        made = table_of(heads, rows, left=len(heads), wide="why")
        told = [self.summary(), *self.notes]
        return made._replace(notes=told, nothing=f"{self.notebook}: nothing in it asks")

    def __str__(self) -> str:
        return text(self._table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str:
        return html(self._table())

    def _repr_markdown_(self) -> str:
        return markdown(self._table())


_TYPES: Final = {
    "cell": "int64",
    "name": "str",
    "state": "str",
    "why": "str",
    "low_usd": "float64",
    "high_usd": "float64",
    "requests": "Int64",
    "new": "Int64",
}
assert tuple(_TYPES) == PlanRow._fields  # noqa: S101 - one table, two spellings


class Look(NamedTuple):
    """What one request would come to.

    Attributes:
        state: As of `PlanRow`, or ``asked above``: an earlier cell asks the same.
        why: In a line.
        low_usd: The least that it costs.
        high_usd: The most; None is unknown.
        ask: The request.
        keeps: Whether its answer would be there for those who ask the same later.
    """

    state: str
    why: str = ""
    low_usd: Decimal = ZERO_USD
    high_usd: Decimal | None = ZERO_USD
    ask: Ask | None = None
    keeps: bool = False


class Judge:
    """Says of requests, in the order of a run, whether they would be asked and what they may cost.

    Args:
        cache: Where they would be looked up.
        notebook: The name under which the notebook's answers are stored; empty is not known.
    """

    def __init__(self, cache: CompletionCache, notebook: str = "") -> None:
        self._cache = cache
        self._notebook = notebook
        self._asked: dict[str, int] = {}
        #: Keys whose answers are asked for anew on the way.
        self.renewed: set[str] = set()
        #: Keys of all that is asked.
        self.keys: set[str] = set()
        #: What takes answers out of the cache on the way, or puts some in; empty is nothing.
        self.removes = self.adds = ""

    def look(self, ask: Ask | OrCacheError, like: Look | None = None) -> Look:
        """Return what a request comes to; a miss costs as one that is `like` it, where that is given."""
        if isinstance(ask, OrCacheError):
            return Look("refused", one_line(str(ask.args[0]), _WHY))
        key, mode = ask.key.digest, ask.policy.mode
        self.keys.add(key)
        why, used_up = self._why_asked(ask)
        if not why:
            return self._served(ask, used_up=used_up)
        if like is not None and mode == "normal" and key not in self._asked and not self.adds:
            return like._replace(ask=ask)
        look = self._priced(ask, why)
        if look.state != "miss" or mode in ("refresh", "bypass"):
            return look
        if key in self._asked:
            told = f"cell {self._asked[key]} asks the same: free once that answer is stored"
            return look._replace(state="asked above", why=told, low_usd=ZERO_USD)
        return self._unsure(look, self.adds) if self.adds else look

    def _why_asked(self, ask: Ask) -> tuple[str, bool]:
        """Return why a call would be made, empty where none would, and whether its repairs are used up."""
        if ask.repair:
            row, why = self._cache.peek(ask)
            return why, row is None and not why
        return self._cache.why_asked(ask) or "", False

    def take(self, look: Look, cell: int) -> None:
        """Take what a request came to as asked by a cell, for those after it."""
        if look.ask is None or look.state != "miss":
            return
        if look.ask.policy.mode == "refresh":
            self.renewed.add(look.ask.key.digest)
        if look.keeps:
            self._asked.setdefault(look.ask.key.digest, cell)

    def _unsure(self, look: Look, why: str) -> Look:
        return look if look.state == "refused" else look._replace(state="unknown", why=why, low_usd=ZERO_USD)

    def _served(self, ask: Ask, *, used_up: bool) -> Look:
        if used_up:
            return Look("refused", f"no answer fits, and --repair {ask.repair} is used up: nothing is asked")
        why = self.removes
        if ask.repair and ask.schema is not None and ask.schema.kind is not None:
            why = why or f"{ask.schema.label} decides whether the stored answer fits, and is not run"
        entry = self._cache.kept(self.start(ask))
        if entry is not None and entry.expires_s is not None:
            left_s = entry.expires_s - self._cache.clock()
            if left_s < _SOON_S:
                why = why or f"its answer expires in {format_duration(left_s)}"
        return self._unsure(self._priced(ask, ""), why) if why else Look("hit", ask=ask)

    def start(self, ask: Ask) -> Ask:
        """Return the first request of an ask: in a rerun the last of its repairs that was asked."""
        return Repairs(ask, self._cache.store, self._cache.clock()).start if ask.repair else ask

    def _priced(self, ask: Ask, why: str) -> Look:
        """Return a miss with what it may cost, or that it is refused."""
        if ask.policy.mode == "offline":
            return Look("refused", f"offline, and {why}")
        try:
            self._cache.check(ask)
            low_usd, high_usd, unknown = self._cost(ask)
        except InputError as exc:
            return Look("refused", one_line(str(exc.args[0]), _WHY))
        except OrCacheError as exc:
            low_usd, high_usd, unknown = ZERO_USD, None, one_line(str(exc.args[0]), _WHY)
        keeps = ask.policy.mode != "bypass" and why_no_lookup(ask.request, ask.policy) is None
        told = f"{why}; the most is not known: {unknown}" if unknown else why
        return Look("miss", told, low_usd, high_usd, ask, keeps)

    def _cost(self, ask: Ask) -> tuple[Decimal, Decimal | None, str]:
        """Return the least and the most that an ask costs with its repairs, and why the most is not known."""
        money, request = self._cache.money, self.start(ask).request
        first = money.estimate(request, ask.settings)
        low_usd, highs = first.low_usd or ZERO_USD, [first.high_usd]
        if ask.settings.similar == "semantic":
            return low_usd, None, "what similar prompts mean is asked besides"
        longest = first.completion_tokens[1]
        for _ in range(ask.repair):
            if longest is None:
                return low_usd, None, first.unknown_why or "nothing limits the length of the answer"
            request = _longer(request, longest)
            highs.append(money.estimate(request, ask.settings).high_usd)
        return low_usd, _sum_of(highs), first.unknown_why

    def difference(self, ask: Ask) -> str:
        """Return in what a miss differs from the nearest that is asked no more; empty where none is near."""
        try:
            near = nearest(self._cache.database, ask.request, own=ask.key.digest, but=self.keys)
            entry = None if near is None else self._cache.store.entry(near.key)
        except StoreError:
            return ""
        if near is None or (
            entry is not None and self._notebook and entry.notebook not in ("", self._notebook)
        ):
            return ""
        told = "; ".join(change.text for change in changes(near.request, without_media(ask.request)))
        return one_line(told or "only what is attached differs, or an order", _WHY)


def judged(
    judge: Judge, cell: int, name: str, asks: Iterable[Ask | OrCacheError], limit_usd: Decimal | None = None
) -> tuple[PlanRow, list[Look]]:
    """Return the row of what asks these requests, and what each of them comes to.

    Args:
        judge: What was asked before it.
        cell: The number of its cell.
        name: What it is called.
        asks: The requests, or why one can't be made.
        limit_usd: The most that all of them may cost.
    """
    looks, seen, requests, priced, like = list[Look](), set[str](), 0, 0, None
    for ask in asks:
        requests += 1
        if not isinstance(ask, Ask) or ask.key.digest not in seen:
            looks.append(judge.look(ask, like))
            seen.add("" if not isinstance(ask, Ask) else ask.key.digest)
            priced += looks[-1].state == "miss"
            if like is None and priced >= _PRICED:
                like = _mean([look for look in looks if look.state == "miss"])
    if limit_usd is not None and requests == 1:
        looks = [_within(looks[0], limit_usd)]
    for look in looks:
        judge.take(look, cell)
    low_usd, high_usd = sum((look.low_usd for look in looks), ZERO_USD), _sum_of(k.high_usd for k in looks)
    if limit_usd is not None:
        low_usd = min(low_usd, limit_usd)
        high_usd = limit_usd if high_usd is None else min(high_usd, limit_usd)
    new = [look for look in looks if look.state == "miss"]
    unsure = [look for look in looks if look.state in ("unknown", "asked above")]
    refused = [look for look in looks if look.state == "refused"]
    state: State = "miss" if new else "unknown" if unsure else "hit"
    if looks and len(refused) == len(looks):
        state = "refused"
    why = next((look.why for look in new or unsure or refused), "")
    if requests > 1:
        about = " · about, by the first of them" if like is not None else ""
        counted = f"{len(new):,} of {format_count(requests, 'request')} to ask{about}" if new else why
        failing = f"{len(refused):,} refused: {refused[0].why}" if refused and counted != why else ""
        why = "; ".join(filter(None, (counted, failing)))
    return PlanRow(cell, name, state, one_line(why, _WHY), low_usd, high_usd, requests, len(new)), looks


def _mean(looks: Sequence[Look]) -> Look:
    """Return a miss that costs what these cost on average."""
    low_usd, high_usd = sum((look.low_usd for look in looks), ZERO_USD), _sum_of(k.high_usd for k in looks)
    count = len(looks)
    return looks[0]._replace(low_usd=low_usd / count, high_usd=None if high_usd is None else high_usd / count)


def _within(look: Look, limit_usd: Decimal) -> Look:
    """Return a miss as refused where it may cost more than a limit."""
    if look.state not in ("miss", "unknown", "asked above"):
        return look
    if look.high_usd is not None and look.high_usd <= limit_usd:
        return look
    if look.state != "miss":
        return look._replace(high_usd=ZERO_USD, why=f"{look.why}; else --max-cost refuses it")
    cost = "what is not known" if look.high_usd is None else format_usd(look.high_usd)
    return Look("refused", f"it may cost {cost}, over --max-cost {format_usd(limit_usd)}")


def unknown_row(cell: int, name: str, why: str) -> PlanRow:
    """Return the row of what can't be told before it is run."""
    return PlanRow(cell, name, "unknown", one_line(why, _WHY), ZERO_USD, None)


def explained(judge: Judge, rows: Sequence[PlanRow], first_asks: Sequence[Ask | None]) -> tuple[PlanRow, ...]:
    """Return rows in which a miss of one request is ``changed`` where one was asked before that is near.

    Args:
        judge: Knows all that is asked, which is not what was asked before.
        rows: In their order.
        first_asks: Of each row, what it would buy where it makes one request.
    """
    found, left = [], _MOST_EXPLAINED
    for row, ask in zip(rows, first_asks, strict=True):
        if row.state == "miss" and row.requests == 1 and ask is not None and left:
            left -= 1
            if told := judge.difference(ask):
                row = row._replace(state="changed", why=told)  # noqa: PLW2901 - the same row, explained
        found.append(row)
    return tuple(found)


def _longer(request: Request, tokens: int) -> Request:
    """Return a request of so many tokens more, as one that tells what is wrong with an answer."""
    told = [
        *request.body["messages"],
        {"role": "assistant", "content": "0 " * tokens},
        {"role": "user", "content": _CORRECTION},
    ]
    return request._replace(body={**request.body, "messages": told})


def _sum_of(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total = ZERO_USD
    for usd in amounts:
        if usd is None:
            return None
        total += usd
    return total


def range_text(low_usd: Decimal, high_usd: Decimal | None) -> str:
    """Return a range of costs in words."""
    if high_usd is None:
        return f"at least {format_usd(low_usd)}, the most is not known" if low_usd else "what is not known"
    if low_usd == high_usd:
        return format_usd(low_usd)
    return f"{format_usd(low_usd)} to {format_usd(high_usd)}"


def _cost_of(row: PlanRow) -> str:
    if row.high_usd is None:
        return f"≥ {format_usd(row.low_usd)}" if row.low_usd else "?"
    return "" if not row.high_usd else range_text(row.low_usd, row.high_usd)


def _rows_of(row: PlanRow) -> str:
    return f"{row.requests:,} requests" if row.requests is not None and row.requests > 1 else ""


def _counted(state: State, count: int) -> str:
    if state in ("hit", "miss"):
        return format_count(count, state, {"hit": "hits", "miss": "misses"}[state])
    return f"{count:,} {state}"
