"""Submit requests as batches: sort them, hold budgets, and write each batch down before it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.policy import why_no_lookup, why_not_served
from or_cache_magic.core.records import FREE, Outcome, Request
from or_cache_magic.core.secrets import Secret
from or_cache_magic.core.settings import MEMORY, Ask
from or_cache_magic.core.units import ZERO_USD, format_count, format_usd
from or_cache_magic.engine.cross_process import CrossProcessLock
from or_cache_magic.errors import OptionError, OrCacheError, RequestError, UpstreamError, one_line
from or_cache_magic.money.budget import BudgetGuard, Limit
from or_cache_magic.money.estimate import Estimate
from or_cache_magic.openrouter.batches import group_of, in_batches, submission, told_by, why_not_batched
from or_cache_magic.openrouter.wire import MalformedReplyError
from or_cache_magic.storage.batches import WAITING, BatchRecord, BatchRow, BatchTable
from or_cache_magic.storage.leases import DiskLeases, Lease
from or_cache_magic.tables.collecting import LEASE_S, PATH, collect, custom_id_of, payer_of, reserved

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

_WIDTH: Final = 200


class Submitter:
    """Sorts requests: stored, waited for, failed, to be submitted, not for batches; and submits them."""

    def __init__(self, cache: CompletionCache, asks: Sequence[Ask], *, retry: bool) -> None:
        self._cache = cache
        self._asks = {ask.key.digest: ask for ask in asks}
        self._retry = retry
        self._table = BatchTable(cache.database)
        self._leases = DiskLeases(cache.database, cache.clock)
        self._high_usd: Decimal | None = ZERO_USD
        self._waiting = self._failed = self._submitted = self._batches = 0
        self.served: dict[str, Outcome] = {}
        self.errors: dict[str, str] = {}
        self.missing: list[Ask] = []
        self.parts: list[_Part] = []
        self.refused: list[tuple[Ask, str]] = []

    def sort(self) -> None:
        """Look each request up, after collecting what has come of batches that are waited for."""
        open_keys = []
        for key, ask in self._asks.items():
            if ask.policy.mode in ("refresh", "bypass"):
                raise OptionError(
                    f"a batch doesn't go with mode={ask.policy.mode!r} (nothing was sent)",
                    "purge what is to be asked again, or ask it without batch=True",
                )
            stored = self._cache.stored(ask)
            if stored is not None:
                self.served[key] = stored
            else:
                open_keys.append(key)
        rows = self._table.last(open_keys)
        waited_for = {row.batch for row in rows.values() if row.state == WAITING}
        if waited_for and not all(map(_is_offline, self._asks.values())):
            collect(self._cache, sorted(waited_for))
            rows = self._table.last(open_keys)
        for key in open_keys:
            self._sort_one(self._asks[key], rows.get(key))
        if self._waiting:
            named = {batch.id: batch.marker for batch in self._table.under_way()}
            self._cache.money.awaited |= {named[number] for number in waited_for & named.keys()}

    def _sort_one(self, ask: Ask, row: BatchRow | None) -> None:
        if row is not None and row.state == WAITING:
            self._waiting += 1
            return
        if row is not None and row.state == "stored" and _is_stored(self._cache, ask):
            return  # it has just come
        if row is not None and row.state in ("failed", "set aside") and not self._retry:
            self._failed += 1
            return
        why = why_no_lookup(ask.request, ask.policy) or why_not_batched(ask.request)
        if _is_offline(ask):
            self.errors[ask.key.digest] = "offline, and not stored (nothing was sent)"
        elif why:
            self.refused.append((ask, why))
        elif ask.settings.shared_url is not None and self._cache.engine.why_asked(ask) is None:
            self.served[ask.key.digest] = self._cache.run(ask)
        else:
            self.missing.append(ask)

    def check(self, limits: Sequence[Limit]) -> None:
        """Raise what is over a limit, before anything is sent; note what is known to be refused."""
        money, settings = self._cache.money, self._cache.settings
        highs: dict[str, Estimate] = {}
        for ask in self.missing:
            try:
                self._cache.check(ask)
                highs[ask.key.digest] = money.estimate(ask.request, settings)
            except (RequestError, OptionError) as exc:
                self.errors[ask.key.digest] = one_line(str(exc.args[0]), _WIDTH)
        self.parts = list(self._parts([ask for ask in self.missing if ask.key.digest in highs]))
        try:
            for part in self.parts:
                part.highs = {ask.key.digest: highs[ask.key.digest].high_usd for ask in part.asks}
                total = highs[part.asks[0].key.digest]._replace(
                    low_usd=ZERO_USD,
                    high_usd=_sum(part.highs.values()),
                    unknown_why=next(filter(None, (highs[key].unknown_why for key in part.highs)), ""),
                )
                self._high_usd = _sum((self._high_usd, total.high_usd))
                # Budgets see the batch in the file as soon as it is there.
                part.guard = money.guard(settings, None, estimate=partial(_same, total))
                reserved[part.marker] = BudgetGuard(limits, partial(_same, total))
                part.guard.check(part.asks[0].request)
                reserved[part.marker].check(part.asks[0].request)
        except OrCacheError:
            for part in self.parts:
                part.give_back()
            raise

    def _parts(self, asks: Sequence[Ask]) -> Iterator[_Part]:
        groups: dict[tuple[str, ...], list[Ask]] = {}
        for ask in asks:
            groups.setdefault(group_of(ask.request), []).append(ask)
        for group in groups.values():
            by_key = {ask.key.digest: ask for ask in group}
            for some in in_batches((ask.key.digest, ask.request) for ask in group):
                yield _Part(os.urandom(32).hex(), [by_key[key] for key, _ in some])

    def submit(self) -> None:
        """Submit the parts, one after the other; each is written down before it is sent."""
        if self.parts and os.fspath(self._cache.directory) == MEMORY:
            raise OptionError(
                "a batch outlives this process, and needs a cache in a folder (nothing was sent)",
                "leave out batch=True, or open a cache in a folder",
            )
        try:
            for part in self.parts:
                self._submit(part)
        finally:
            for part in self.parts:
                part.give_back()

    def _submit(self, part: _Part) -> None:
        secret = Secret(self._cache.require_key())
        lease = self._leases.acquire(part.marker, LEASE_S)
        # Held as long as the submission lasts: nobody looks for it meanwhile.
        with CrossProcessLock(self._leases, lease if isinstance(lease, Lease) else None):
            batch, rows = self._begin(part, secret)
            if not rows:
                return
            part.number = batch.id
            self._cache.money.awaited.add(part.marker)
            part.give_back()
            body = submission([(row.custom_id, row.request) for row in rows if row.request is not None])
            try:
                told = told_by(self._cache.gateway.submit(PATH, body, base_url=batch.base_url))
            except OrCacheError as exc:
                self._not_answered(part, batch, exc)
                raise
            except MalformedReplyError as exc:
                lost = UpstreamError(f"the submission was answered by {exc}", cost_usd=None)
                self._not_answered(part, batch, lost)
                raise lost from None
            self._table.update(batch._replace(remote=told.remote, status=told.status))
        self._submitted += len(rows)
        self._batches += 1

    def _begin(self, part: _Part, secret: Secret) -> tuple[BatchRecord, list[BatchRow]]:
        """Write a batch down, with the rows that nobody asks for now, in the transaction that looks."""
        cache, request = self._cache, part.asks[0].request
        rows: list[BatchRow] = []
        with cache.database.transaction(changes_answers=False):
            for ask in part.asks:
                key = ask.key.digest
                if self._leases.is_held(key, LEASE_S):
                    last = self._table.last([key]).get(key)
                    if last is None or last.state != WAITING:
                        self.errors[key] = "another kernel just asks for it: run the cell again"
                elif not _is_stored(cache, ask):
                    policy = {
                        "ttl_s": ask.policy.ttl_s,
                        "tags": list(ask.policy.tags),
                        "volatile_ttl_s": ask.policy.volatile_ttl_s,
                        "parent": ask.parent,
                        "notebook": cache.ledger.notebook,
                    }
                    custom_id = custom_id_of(part.marker, key)
                    asked = ask.request._replace(prompt_cache="")
                    rows.append(BatchRow(0, len(rows), key, custom_id, policy=policy, request=asked))
            batch = BatchRecord(
                0,
                part.marker,
                payer_of(part.marker, secret),
                "",
                request.base_url,
                str(request.body["model"]),
                cache.clock(),
                total=len(rows),
                high_usd=_sum(part.highs[row.key] for row in rows),
            )
            if rows:
                batch = batch._replace(id=self._table.begin(batch, rows))
        return batch, rows

    def _not_answered(self, part: _Part, batch: BatchRecord, exc: OrCacheError) -> None:
        """Give the rows back where it was not sent, or refused; else leave them to be looked for."""
        if not isinstance(exc, UpstreamError) or exc.cost_usd is not None:
            self._table.remove(batch.id)
            part.number = None
            return
        self._table.update(batch._replace(error="its submission was not answered"))
        exc.hint = "it may have arrived: run the cell again later, which looks for it before anything is sent"

    def ask_now(self, asks: list[Ask]) -> dict[str, Outcome | str]:
        """Ask one after the other; return what came, or what was wrong, by key."""
        came: dict[str, Outcome | str] = {}
        for ask in asks:
            try:
                came[ask.key.digest] = self._cache.run(ask)
            except OrCacheError as exc:
                came[ask.key.digest] = one_line(str(exc.args[0]), _WIDTH)
        return came

    def summary(self) -> str:
        """Return a line that says what became of the requests."""
        most = (
            ""
            if self._high_usd is None
            else f" (up to {format_usd(self._high_usd)} at the full price, about half)"
        )
        batches = "a batch" if self._batches == 1 else format_count(self._batches, "batch", "batches")
        parts = [
            format_count(len(self._asks), "request"),
            f"{len(self.served) - len(self.refused):,} stored"
            if len(self.served) > len(self.refused)
            else "",
            f"{self._submitted:,} submitted in {batches}{most}" if self._submitted else "",
            f"{self._waiting:,} waited for in batches" if self._waiting else "",
            f"{self._failed:,} failed in a batch (.retry() submits them again)" if self._failed else "",
            f"{len(self.refused):,} asked at once: {self.refused[0][1]}" if self.refused else "",
        ]
        return " · ".join(filter(None, parts))


class _Part:
    """What becomes one batch; its number in the file once it is written there."""

    def __init__(self, marker: str, asks: list[Ask]) -> None:
        self.marker = marker
        self.asks = asks
        self.number: int | None = None
        #: Of each key the most that it may cost; None is not known.
        self.highs: dict[str, Decimal | None] = {}
        #: What holds the budgets' share until the batch is in the file.
        self.guard: BudgetGuard | None = None

    def give_back(self) -> None:
        """Give back what budgets hold; of one that is not in the file, the call's limits too."""
        limits = reserved.pop(self.marker, None) if self.number is None else None
        for guard in filter(None, (self.guard, limits)):
            with guard:
                guard.paid = FREE


def _is_offline(ask: Ask) -> bool:
    """Return whether nothing may be sent for an ask, by the settings or by itself."""
    return ask.policy.mode == "offline"


def _is_stored(cache: CompletionCache, ask: Ask) -> bool:
    entry = cache.store.get(ask.key)
    return entry is not None and why_not_served(entry, cache.clock()) is None


def _same(total: Estimate, _request: Request) -> Estimate:
    return total


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of amounts; None where one is not known."""
    there = list(amounts)
    return None if None in there else sum(filter(None, there), ZERO_USD)
