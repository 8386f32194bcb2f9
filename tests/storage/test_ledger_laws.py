"""The law of the ledger: its totals are the exact sum of its rows, whoever wrote and settled them when."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing
from decimal import Decimal, localcontext
from itertools import chain
from typing import NamedTuple

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.records import OPENROUTER_URL, UNKNOWN_COST, Cost
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.storage.columns import from_pico
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.ledger_rows import Settlements

BOUGHT = ("miss", "refresh", "bypass", "failed")
SERVED = ("hit", "shared", "coalesced", "replay", "stale", "similar")
GENERATIONS = ("gen-1", "gen-2", "gen-3", "gen-4")
DAY_S = 86_400.0
BEGAN_S = 1_790_000_000.0

PICO = st.none() | st.integers(0, 10**15) | st.sampled_from([0, 1, 10**12])
TOKENS = st.none() | st.integers(0, 10**6)


class Told(NamedTuple):
    """What a generation came to, of which some are never told."""

    cost: int
    source: str
    discount: int | None


class Call(NamedTuple):
    """An ask that made a call, recorded at once."""

    kind: str
    paid: int | None
    worth: int | None
    generation: str | None
    cached: int | None
    written: int | None
    discount: int | None
    model: str
    notebook: str
    tags: tuple[str, ...]
    day: int
    tokens: int | None

    def row(self, session):
        return LedgerRow(
            at_s=BEGAN_S + self.day * DAY_S, session=session, notebook=self.notebook, key="ab" * 32, model=self.model,
            kind=self.kind, asks=1, paid=UNKNOWN_COST if self.paid is None else Cost(from_pico(self.paid), "reported"),
            value_usd=from_pico(self.worth), tags=self.tags, prompt_tokens=self.tokens, cached_tokens=self.cached,
            cache_write_tokens=self.written, generation_id=self.generation,
            prompt_cache_saved_usd=from_pico(self.discount) if self.cached or self.written else Decimal(0),
        )  # fmt: skip


class Hit(NamedTuple):
    """An ask that was served, counted in memory."""

    kind: str
    worth: int | None
    generation: str | None
    model: str
    notebook: str
    tags: tuple[str, ...]
    tokens: int | None


class Settle(NamedTuple):
    """A generation is told of, to those rows that are there; others follow at the end."""

    generation: str


class Flush(NamedTuple):
    """What is in memory is written."""


WHERE = {
    "model": st.sampled_from(["a", "b"]),
    "notebook": st.sampled_from(["", "n.ipynb"]),
    "tags": st.sampled_from([(), ("x",), ("x", "y")]),
    "tokens": TOKENS,
}
GENERATION = st.none() | st.sampled_from(GENERATIONS)
CALLS = st.builds(
    Call, kind=st.sampled_from(BOUGHT), paid=PICO, worth=PICO, generation=GENERATION, cached=TOKENS, written=TOKENS,
    discount=st.none() | st.integers(-(10**12), 10**12), day=st.integers(0, 3), **WHERE,
)  # fmt: skip
HITS = st.builds(Hit, kind=st.sampled_from(SERVED), worth=PICO, generation=GENERATION, **WHERE)
SETTLED = st.builds(Settle, st.sampled_from(GENERATIONS))
STEPS = st.lists(CALLS | HITS | SETTLED | st.builds(Flush), max_size=12)
TOLD = st.builds(
    Told,
    st.integers(0, 10**15),
    st.sampled_from(["generation", "estimated"]),
    st.none() | st.integers(-(10**12), 10**12),
)


class Sum:
    """Totals, added up one ask after another in Decimal."""

    def __init__(self):
        self.usd = Counter()
        self.count = Counter()

    def call(self, call, told):
        usd, count = self.usd, self.count
        count[call.kind] += 1
        paid, source = call.paid, "reported"
        if paid is None and told is not None:
            paid, source = told.cost, told.source
        if paid is None:
            count["unpriced"] += 1
        else:
            usd["paid"] += from_pico(paid)
            usd[source] += from_pico(paid)
        self.discount(call, told)
        count["tokens"] += call.tokens or 0

    def discount(self, call, told):
        caches = bool(call.cached or call.written)
        discount = call.discount if caches else 0
        learnt = call.paid is None and call.cached is None
        if told is not None and told.discount is not None and (discount is None or learnt):
            discount = told.discount
        if discount is None:
            self.count["undiscounted"] += 1
        else:
            self.count["discounted"] += caches or discount != 0
            self.usd["discount"] += from_pico(discount)

    def hit(self, hit, told):
        self.count[hit.kind] += 1
        self.count["tokens"] += hit.tokens or 0
        worth = told.cost if hit.worth is None and told is not None else hit.worth
        if worth is None:
            self.count["unpriced"] += 1
        else:
            self.usd[f"worth of {hit.kind}"] += from_pico(worth)

    def matches(self, totals):
        usd, count = self.usd, self.count
        known = not count["undiscounted"] or count["discounted"]
        assert totals.asks == sum(count[kind] for kind in (*BOUGHT, *SERVED))
        assert totals.calls == sum(count[kind] for kind in BOUGHT)
        assert (totals.misses, totals.failed, totals.stale, totals.similar) == (
            count["miss"],
            count["failed"],
            count["stale"],
            count["similar"],
        )
        assert (totals.hits, totals.shared_hits) == (count["hit"] + count["shared"], count["shared"])
        assert (totals.paid_usd, totals.unpriced) == (usd["paid"], count["unpriced"])
        assert totals.reported_usd == usd["reported"]
        assert (totals.settled_usd, totals.estimated_usd) == (usd["generation"], usd["estimated"])
        assert totals.saved_usd == usd["worth of hit"] + usd["worth of shared"]
        assert totals.shared_saved_usd == usd["worth of shared"]
        assert (totals.coalesced_usd, totals.replayed_usd) == (
            usd["worth of coalesced"],
            usd["worth of replay"],
        )
        assert totals.prompt_cache_saved_usd == (usd["discount"] if known else None)
        assert totals.prompt_cache_unpriced == count["undiscounted"]
        assert totals.prompt_tokens == count["tokens"]


def groups(step, by, now_s):
    if by == "tag":
        return step.tags or ("",)
    if by == "day":
        at_s = BEGAN_S + step.day * DAY_S if isinstance(step, Call) else now_s
        return (time.strftime("%Y-%m-%d", time.localtime(at_s)),)
    return ({"": "", "model": step.model, "notebook": step.notebook}[by],)


def work(ledger, settlements, steps, told):
    for step in steps:
        if isinstance(step, Call):
            ledger.record(step.row(ledger.session))
        elif isinstance(step, Hit):
            ledger.count_hit(
                key="ab" * 32, model=step.model, kind=step.kind, notebook=step.notebook, tags=step.tags,
                value_usd=from_pico(step.worth), prompt_tokens=step.tokens, generation_id=step.generation,
            )  # fmt: skip
        elif isinstance(step, Flush):
            ledger.flush()
        elif step.generation in told:
            settle(settlements, step.generation, told)


def settle(settlements, generation, told):
    cost, source, discount = told[generation]
    settlements.settle(generation, Cost(from_pico(cost), source), from_pico(discount))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(scripts=[[], [Hit("hit", 5, "gen-1", "a", "", (), 3)]], told={"gen-1": Told(5, "generation", None)})
@given(
    scripts=st.lists(STEPS, min_size=1, max_size=3),
    told=st.dictionaries(st.sampled_from(GENERATIONS), TOLD),
)
def test_totals__are_the_sum_of_the_rows_whoever_wrote_them(tmp_path_factory, clock, scripts, told):
    """Three kernels record, count, flush and settle at the same time: every grouping adds up to the last digit."""
    folder = tmp_path_factory.mktemp("ledger")
    with closing(Database(folder)) as first, closing(Database(folder)) as second:
        databases = [first, second, first]  # two of them are threads of one kernel
        ledgers = [Ledger(database, f"s{n}", clock) for n, database in enumerate(databases)]
        threads = [
            threading.Thread(target=work, args=(ledger, Settlements(database, OPENROUTER_URL), steps, told))
            for ledger, database, steps in zip(ledgers, databases, scripts, strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(2):  # settling makes the file where hits alone made none, and settles what is written
            for ledger in ledgers:
                assert ledger.flush() or not first.exists()
            for generation in told:
                settle(Settlements(second, OPENROUTER_URL), generation, told)

        for number, ledger in enumerate(ledgers[: len(scripts)]):
            if first.exists():
                check(ledger, [*chain(*scripts)], told, clock.now_s, session=None)
            check(ledger, scripts[number], told, clock.now_s, session=ledger.session)
        if first.exists():
            rows = ledgers[0].rows()
            (totals,) = ledgers[0].totals()
            with localcontext() as context:
                context.prec = 60
                paid = sum((row.paid.usd for row in rows if row.paid.usd is not None), Decimal(0))
                saved = sum((row.value_usd or 0 for row in rows if row.kind in ("hit", "shared")), Decimal(0))
            assert (totals.paid_usd, totals.saved_usd) == (paid, saved)


def check(ledger, steps, told, now_s, *, session):
    asks = [step for step in steps if isinstance(step, Call | Hit)]
    for by in ("", "model", "day", "notebook", "tag"):
        sums = defaultdict(Sum) if by else defaultdict(Sum, {"": Sum()})
        for ask in asks:
            for group in groups(ask, by, now_s):
                add = sums[group].call if isinstance(ask, Call) else sums[group].hit
                add(ask, told.get(ask.generation))
        found = {totals.group: totals for totals in ledger.totals(by, session=session)}
        assert found.keys() == sums.keys()
        for group, totals in found.items():
            sums[group].matches(totals)
    assert sum(totals.asks for _, totals in ledger.timeline(session)) == len(asks)


KERNEL = """
import sys
from decimal import Decimal
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.ledger import Ledger; from or_cache_magic.storage.ledger_rows import Settlements
from or_cache_magic.core.records import OPENROUTER_URL, UNKNOWN_COST, Cost
from or_cache_magic.core.rows import LedgerRow

folder, name, other = sys.argv[1:]
database = Database(folder, timeout_s=30)
key = name.encode().hex()
ledger, settlements = Ledger(database, name, lambda: 1.0), Settlements(database, OPENROUTER_URL)
for number in range(60):
    generation = f"{name}-{number}"
    ledger.record(LedgerRow(1.0, name, "", key, "m", "miss", 1, UNKNOWN_COST, None, generation_id=generation))
    for _ in range(3):
        ledger.count_hit(key=key, model="m", generation_id=generation)
    if number % 7 == 0:
        ledger.flush()
    for whose in (name, other):
        settlements.settle(f"{whose}-{number // 2}", Cost(Decimal("0.000000000001"), "generation"), None)
while not ledger.flush():
    pass
for number in range(60):
    settlements.settle(f"{name}-{number}", Cost(Decimal("0.000000000001"), "generation"), None)
database.close()
"""


def test_totals__of_kernels_that_settle_each_others_calls(tmp_path, clock):
    """Two processes on one file record, count, flush and settle: every pico-dollar is there once."""
    names = ["a", "b"]
    kernels = [
        subprocess.Popen([sys.executable, "-c", KERNEL, os.fspath(tmp_path), name, other])
        for name, other in (names, names[::-1])
    ]
    assert [kernel.wait(60) for kernel in kernels] == [0, 0]
    with closing(Database(tmp_path)) as database:
        (totals,) = Ledger(database, "c", clock).totals()
    assert (totals.misses, totals.hits, totals.unpriced) == (120, 360, 0)
    assert (totals.paid_usd, totals.saved_usd) == (from_pico(120), from_pico(360))
    assert totals.settled_usd == totals.paid_usd
