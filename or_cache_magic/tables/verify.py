"""Ask for a sample of the entries again, and tell how far the answers agree. What comes is never served."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.purge import filter_of
from or_cache_magic.cache.request import Usd, parse_limit
from or_cache_magic.core.agreement import Agreement, Comparison, compare, wilson
from or_cache_magic.core.chat import asked_model, is_embedding
from or_cache_magic.core.key import request_key
from or_cache_magic.core.options import shown
from or_cache_magic.core.policy import COMPARED, Policy
from or_cache_magic.core.settings import Ask, Settings, whole
from or_cache_magic.core.slips import refuse_key
from or_cache_magic.core.units import NOTHING, format_count, format_share, format_sum
from or_cache_magic.display.tables import Table, html, markdown, table_of, text
from or_cache_magic.errors import OptionError, OrCacheError, StoreError, explained
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.tables.progress import Bill, Progress
from or_cache_magic.tables.requests import Listed, Requests, Results, pacing_of

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Outcome

_NOTHING_SENT: Final = "nothing was sent"
_KEY_DIGITS: Final = 10
_FEW: Final = 5
_POLICY: Final = Policy(mode="refresh", sampled=True, only_compared=True)

_DAY_S: Final = 86400.0
_AGES: Final = (
    (_DAY_S, "under a day"),
    (7 * _DAY_S, "a day to a week"),
    (30 * _DAY_S, "a week to a month"),
    (365 * _DAY_S, "a month to a year"),
    (math.inf, "over a year"),
)
_BY: Final = ("all", "model", "age", "field")


class Agreed(NamedTuple):
    """How many answers of a group agree.

    Attributes:
        by: What groups them: ``all``, ``model``, ``age`` (of the stored answer) or ``field`` (of a schema).
        group: The model, the age or the field; empty for all.
        compared: How many came and were compared.
        exact: How many of these are the same to the letter.
        normalised: How many are the same when normalised, those included; see `core.agreement`.
        failed: How many gave nothing to compare.
    """

    by: str
    group: str
    compared: int = 0
    exact: int = 0
    normalised: int = 0
    failed: int = 0

    def plus(self, agreement: Agreement | None) -> Agreed:
        """Return this with one more, None a failed one."""
        if agreement is None:
            return self._replace(failed=self.failed + 1)
        exact, normalised = self.exact + agreement.exact, self.normalised + agreement.normalised
        return self._replace(compared=self.compared + 1, exact=exact, normalised=normalised)

    def values(self) -> dict[str, Any]:
        """Return what a row of `Verification.frame` holds."""
        row: dict[str, Any] = {"by": self.by, "group": self.group, "compared": self.compared}
        for name, count in (("exact", self.exact), ("normalised", self.normalised)):
            row[name] = count / self.compared if self.compared else math.nan
            row[f"{name}_low"], row[f"{name}_high"] = wilson(count, self.compared)
        return {**row, "failed": self.failed}

    def cells(self) -> list[str]:
        """Return what a row of the table that is shown says."""
        shares = [
            f"{format_share(count / self.compared)} ({low:.0%} to {high:.0%})" if self.compared else NOTHING
            for count in (self.exact, self.normalised)
            for low, high in [wilson(count, self.compared)]
        ]
        name = f"{self.by} {self.group}".strip()
        return [name, f"{self.compared:,}", *shares, f"{self.failed:,}"]


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """How far the answers to a sample of the entries agree with those that are stored. Shows itself.

    Attributes:
        entries: How many entries the sample was taken of.
        sample: How many were to be asked again.
        groups: How many agree: of all, by model, by age, by field of a schema.
        differing: The keys of those that don't agree when normalised.
        failures: Why others gave nothing to compare, each with how many.
        left_out: How many were passed over: vectors, requests to another server, damaged ones.
        paid_usd: What it cost, as far as is known.
        unpriced: Of how many calls that is not known.
    """

    entries: int
    sample: int
    groups: tuple[Agreed, ...]
    differing: tuple[str, ...] = ()
    failures: tuple[tuple[str, int], ...] = ()
    left_out: int = 0
    paid_usd: Decimal = Decimal(0)
    unpriced: int = 0

    def frame(self) -> pd.DataFrame:
        """Return a row for each group: shares from 0 to 1, and the ends of their 95 % intervals."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([group.values() for group in self.groups])
        return frame

    def notes(self) -> list[str]:
        """Return what is said below the table, a line each."""
        compared = self.groups[0].compared
        came = f"{compared:,} of {format_count(self.entries, 'entry', 'entries')} compared"
        left = self.sample - compared - self.groups[0].failed
        parts = [
            came,
            f"{left:,} not asked" if left else "",
            f"paid {format_sum(self.paid_usd, unpriced=self.unpriced)}",
            "in brackets 95% intervals (Wilson)",
        ]
        notes = [" · ".join(filter(None, parts))]
        notes += [f"{count:,} failed: {why}" for why, count in self.failures[:_FEW]]
        if self.left_out:
            notes.append(f"{self.left_out:,} left out: vectors, another server's, or damaged")
        if self.differing:
            few = ", ".join(key[:_KEY_DIGITS] for key in self.differing[:_FEW])
            more = f" and {len(self.differing) - _FEW:,} more" if len(self.differing) > _FEW else ""
            notes.append(f"differ: {few}{more} (%openrouter_entries KEY shows both answers)")
        return notes

    def _table(self) -> Table:
        heads = ("", "compared", "exact", "normalised", "failed")
        rows = [group.cells() for group in self.groups] if self.sample else []
        table = table_of(heads, rows, left=1)
        nothing = f"nothing to compare among {format_count(self.entries, 'entry', 'entries')}"
        return table._replace(notes=self.notes(), nothing=nothing)

    def __repr__(self) -> str:
        return text(self._table())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return html(self._table())

    def _repr_markdown_(self) -> str:
        return markdown(self._table())


def verify(
    cache: CompletionCache,
    keys: Sequence[str] = (),
    *,
    sample: float | str = 0.05,
    max_cost_usd: Usd | None = None,
    progress: bool = True,
    tell: Callable[[str], object] | None = None,
    **conditions: Any,
) -> Verification:
    """Ask for a sample of the entries again, and return how the answers agree; see `CompletionCache.verify`.

    Args:
        cache: Has the entries.
        keys: Keys, or how they begin.
        sample: See there, as for what is not here.
        max_cost_usd: The most that it may cost.
        progress: Whether the bill and a bar are shown.
        tell: Takes the bill instead of printing it.
        **conditions: See `cache.purge.CONDITIONS`.
    """
    share, count = read_sample(sample)
    usd, settings = parse_limit(max_cost_usd), cache.settings
    if settings.mode == "offline":
        raise OptionError(
            f"offline nothing is asked again ({_NOTHING_SENT})", "with a key and OR_CACHE_MODE=normal it is"
        )
    wanted = filter_of(cache, keys, conditions, _NOTHING_SENT)._replace(served_at_s=cache.clock())
    found = cache.store.listing.digests(wanted)
    again = _Again(cache, settings)
    chosen = Listed(again.choose(found, share, count))
    if not chosen:
        return again.result(Results(), len(found), ())
    cache.require_key()
    limits = [] if usd is None else [Limit("this verification's max_cost_usd", usd, BudgetTracker())]
    requests = Requests(cache, again.make, again.take, pacing=pacing_of(None), limits=limits)

    def bill() -> str:
        told = f"{len(chosen):,} of {format_count(len(found), 'entry', 'entries')} asked again"
        return f"{told} · {Bill(cache, requests.sample, requests.new).text()}"

    try:
        with Progress(requests, len(chosen), tell or print, shown=progress, unit="answer") as bar:
            requests.run(chosen, bar, bill if progress else None)
    except KeyboardInterrupt as exc:
        came = again.result(requests.results, len(found), chosen)
        compared, paid = came.groups[0].compared, format_sum(came.paid_usd, unpriced=came.unpriced)
        message = f"{compared:,} of {format_count(len(chosen), 'answer')} were compared, paid {paid}"
        stopped: Any = explained(
            exc, message, "they are in _, and kept as history; it begins anew when it runs"
        )
        stopped.table = came
        raise stopped from None
    return again.result(requests.results, len(found), chosen)


def read_sample(sample: Any) -> tuple[float, int | None]:
    """Return the share and the most entries that a sample is of: ``0.05``, ``"5%"``, ``20``.

    Raises:
        OptionError: It is neither.
    """
    given = sample.strip() if isinstance(sample, str) else sample
    percent = re.fullmatch(r"(?a)(\d{1,3}(?:\.\d{1,6})?) ?%", given) if isinstance(given, str) else None
    share = float(percent[1]) / 100 if percent else given
    if isinstance(share, float) and 0 < share <= 1:
        return share, None
    try:
        if isinstance(share, (int, str)):
            return 1.0, whole()(share)
    except ValueError:
        pass
    raise OptionError(
        f"sample = {shown(sample)} is neither a share nor a number of entries ({_NOTHING_SENT})",
        "write 5% or 20 (in Python 0.05, '5%' or 20)",
    )


class _Again:
    """Chooses the sample, asks for it, and compares.

    Args:
        cache: Has the entries.
        settings: In force.
    """

    def __init__(self, cache: CompletionCache, settings: Settings) -> None:
        self._cache = cache
        self._settings = settings
        #: Of each key the model that was asked, and when it answered.
        self._facts: dict[str, tuple[str, float]] = {}
        self._left_out = 0

    def choose(self, digests: Sequence[str], share: float, count: int | None) -> Iterator[str]:
        """Yield a sample of the keys: at random, but the same each time, and a smaller one is in a larger.

        Left out are vectors, what was asked of another server, and what can't be read.
        """
        # A key is a hash: its last digits are random, and have nothing to do with how entries are chosen.
        ordered = sorted(digests, key=lambda digest: digest[::-1])
        some = ordered[: math.ceil(share * len(ordered))]
        return islice(filter(self._is_comparable, some), count)

    def _is_comparable(self, digest: str) -> bool:
        found = self._ask(digest) is not None
        self._left_out += not found
        return found

    def make(self, digest: str) -> Ask:
        """Return the ask of an entry's request."""
        ask = self._ask(digest)
        if ask is None:
            raise OptionError(f"the entry is not there any more ({_NOTHING_SENT})")
        return ask

    def take(self, ask: Ask, outcome: Outcome) -> tuple[Comparison | None, str]:
        """Return how an answer agrees with the stored one, or why there is nothing to compare."""
        why = outcome.not_stored.removeprefix(COMPARED).removeprefix(": ")
        if why:
            return None, why
        try:
            entry = self._cache.store.entry(ask.key.digest)
        except StoreError as exc:
            return None, str(exc.args[0])
        if entry is None:
            return None, "the entry is not there any more"
        return compare(ask.request.body, entry.answer, outcome.answer), ""

    def result(self, results: Results, entries: int, chosen: Sequence[str]) -> Verification:
        """Return what all has come to."""
        now_s = self._cache.clock()
        groups: dict[tuple[str, str], Agreed] = {("all", ""): Agreed("all", "")}
        failures: Counter[str] = Counter()
        differing = []

        def add(by: str, group: str, agreement: Agreement | None) -> None:
            groups[by, group] = groups.get((by, group), Agreed(by, group)).plus(agreement)

        schemas = {one.schema for one in results.values if one is not None and one.fields}
        for digest, number in zip(chosen, results.rows, strict=False):
            if not results.kinds[number]:
                continue
            comparison: Comparison | None = results.values[number]
            whole_of = comparison and comparison.whole
            model, answered_s = self._facts[digest]
            age = next(name for most_s, name in _AGES if now_s - answered_s < most_s)
            for by, group in (("all", ""), ("model", model), ("age", age)):
                add(by, group, whole_of)
            if comparison is None:
                failures[results.errors.get(number, "")] += 1
                continue
            if not comparison.whole.normalised:
                differing.append(digest)
            for field, agreement in comparison.fields.items():
                add("field", f"{comparison.schema}.{field}" if len(schemas) > 1 else field, agreement)
        ages = [name for _, name in _AGES]
        ordered = sorted(
            groups.values(), key=lambda g: (_BY.index(g.by), ages.index(g.group) if g.by == "age" else 0)
        )
        return Verification(
            entries,
            len(chosen),
            tuple(ordered),
            tuple(differing),
            tuple(failures.most_common()),
            self._left_out,
            results.paid_usd,
            results.unpriced,
        )

    def _ask(self, digest: str) -> Ask | None:
        """Return the ask of an entry's request; None where there is none to compare."""
        store = self._cache.store
        try:
            request, entry = store.asked(digest), store.entry(digest)
            if request is None or entry is None or is_embedding(request.body):
                return None
            # The key of the user goes to the server in force alone, wherever an entry came from.
            if request.base_url != self._settings.base_url or request_key(request) != entry.key:
                return None
            refuse_key(request.body)
        except OrCacheError:
            return None
        model = asked_model(request.body) or entry.answer.model or ""
        self._facts[digest] = model, entry.answer.created_s or entry.created_s
        return Ask(entry.key, request, _POLICY, self._settings)
