"""Collect batches: ask OpenRouter how far they are, and store what they answered under the ordinary keys.

Of several kernels that do it at the same time one stores a row. What OpenRouter does not say is never taken
to mean that nothing was bought: a row gives its lease back only when its result is there, when its batch has
ended without it, or when it is certain that its batch never was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy, why_not_served, why_not_stored
from or_cache_magic.core.records import Answer, AskKind, Cost
from or_cache_magic.core.secrets import Secret
from or_cache_magic.core.settings import Ask
from or_cache_magic.errors import OrCacheError, RequestError, StoreError, UpstreamError, one_line
from or_cache_magic.money.budget import BudgetGuard
from or_cache_magic.openrouter.batches import BatchTold, answer_of, apportion, told_by
from or_cache_magic.openrouter.wire import MalformedReplyError
from or_cache_magic.storage.batches import WAITING, BatchRecord, BatchRow, BatchTable
from or_cache_magic.storage.leases import DiskLeases, Lease

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

PATH: Final = "/batches"
UNPAID: Final = "unpaid"
"""The status of a batch that has ended, and whose results are withheld until there are credits."""

LEASE_S: Final = 15.0
GRACE_S: Final = 900.0
"""So long after a submission that was not answered OpenRouter may still come to list it."""

_SKEW_S: Final = 86_400.0
"""How far OpenRouter's clock may be from ours, time zones included, and how long a submission may take."""

_FOUND_FOR_S: Final = 7 * 86_400.0
"""What OpenRouter doesn't find sooner after its submission may not be listed yet, or hidden for a while."""

_KEPT_S: Final = 60 * 86_400.0
_PAGE: Final = 100
_DOUBLED: Final = (
    "several results of the batch have this row's id: none is taken for its answer, though they are paid"
)
_MOST_PAGES: Final = 50
_TIMEOUT_S: Final = 60.0
_PICO: Final = Decimal(10) ** 12
_WIDTH: Final = 300

reserved: Final[dict[str, BudgetGuard]] = {}
"""What the limits of single calls hold back for batches under way, by their markers; budgets see the file."""


class Collected(NamedTuple):
    """What a look at batches came to.

    Attributes:
        rows: How many rows have got a result.
        troubles: Why a batch could not be looked at, a line each.
    """

    rows: int = 0
    troubles: tuple[str, ...] = ()


def custom_id_of(marker: str, key: str) -> str:
    """Return what a batch calls a row: 57 characters that no other submission has."""
    return f"{_prefix(marker)}{key[:40]}"


def _prefix(marker: str) -> str:
    return f"orc-{marker[:12]}-"


def payer_of(marker: str, secret: Secret) -> str:
    """Return what tells whether a batch was submitted with this key, and nothing of the key."""
    return hashlib.sha256(f"{marker} {secret}".encode()).hexdigest()[:16]


def collect(cache: CompletionCache, numbers: Sequence[int] | None = None) -> Collected:
    """Ask OpenRouter for the batches that are waited for, and store what has come. Offline, do nothing.

    Only those of the API in the settings: a file may come from a stranger, and the key goes to who is asked.

    Args:
        cache: Whose.
        numbers: Of these batches; None is all.

    Raises:
        MissingKeyError: There is no key.
        StoreError: The file can't be read or written; nothing that came is lost.
    """
    settings = cache.settings
    if settings.mode == "offline":
        return Collected()
    table = BatchTable(cache.database)
    waiting = [
        batch
        for batch in table.all()
        if not batch.ended
        and batch.base_url == settings.base_url
        and (numbers is None or batch.id in numbers)
    ]
    rows, troubles = 0, []
    for batch in reversed(waiting):
        collector = _Collector(cache, table, Secret(cache.require_key()))
        try:
            rows += collector.collect(batch)
        except StoreError:
            raise
        except (OrCacheError, MalformedReplyError) as exc:
            trouble = one_line(str(exc.args[0]), _WIDTH)
            troubles.append(f"{batch.remote or 'a batch'}: {trouble}")
            table.update((table.batch(batch.id) or batch)._replace(error=trouble))
    if waiting:
        table.forget(cache.clock() - _KEPT_S)
        cache.bought = True
    return Collected(rows, tuple(troubles))


def end(cache: CompletionCache, table: BatchTable, batch: BatchRecord, why: str) -> int:
    """Give back the leases of a batch's rows that still wait, for this reason; return how many."""
    ended = 0
    with cache.database.transaction(changes_answers=False):
        for row in table.rows(batch.id):
            if row.state == WAITING:
                ended += table.end_row(row._replace(state="failed", error=why))
        table.update(batch._replace(ended=True, checked_s=cache.clock()))
    _settle(cache, batch)
    return ended


def _settle(cache: CompletionCache, batch: BatchRecord) -> None:
    """Give back what was held back of limits: what the batch came to is in the ledger, if it is known."""
    if batch.cost_usd is None and batch.high_usd is not None:
        for tracker in (cache.money.session, cache.money.day):
            tracker.owe(batch.high_usd)
    guard = reserved.pop(batch.marker, None)
    if guard is not None:
        with guard:
            guard.paid = Cost(batch.cost_usd, "unknown" if batch.cost_usd is None else "apportioned")


def _pico(usd: Decimal) -> int:
    return int((usd * _PICO).to_integral_value())


def _unanswered(told: BatchTold) -> str:
    why = f"the batch {told.status} before this was answered{f': {told.error}' if told.error else ''}"
    return f"{why} (batch.retry() submits it again)"


class _Collector:
    """Collects batches with one key."""

    def __init__(self, cache: CompletionCache, table: BatchTable, secret: Secret) -> None:
        self._cache = cache
        self._table = table
        self._secret = secret

    def collect(self, batch: BatchRecord) -> int:
        """Look at a batch; return how many of its rows have got a result."""
        if not batch.remote:
            found = self._found(batch)
            if found is None:
                return 0
            batch = found
        try:
            told = self._fetch(batch.remote)
        except UpstreamError as exc:
            return self._refused(batch, exc)
        batch = batch._replace(
            status=told.status,
            checked_s=self._cache.clock(),
            error=told.error,
            done=batch.done if told.completed is None else told.completed,
            failed=batch.failed if told.failed is None else told.failed,
            cost_usd=told.cost.usd if told.ended else None,
        )
        # What was answered has results, though they may come a moment later.
        if not told.ended or (told.results is None and (told.status == "completed" or told.completed)):
            self._table.update(batch)
            return 0
        return self._store(batch, told)

    def _fetch(self, remote: str) -> BatchTold:
        return told_by(self._get(f"{PATH}/{remote}"))

    def _get(self, path: str, params: Mapping[str, str] = MappingProxyType({})) -> Any:
        url = self._cache.settings.base_url
        return self._cache.gateway.fetch(path, base_url=url, params=params, timeout_s=_TIMEOUT_S)

    def _refused(self, batch: BatchRecord, exc: UpstreamError) -> int:
        if exc.status == 402:  # noqa: PLR2004 - ended, and withheld: it is never asked anew
            told = one_line(str(exc.args[0]), _WIDTH)
            self._table.update(batch._replace(status=UNPAID, error=told, checked_s=self._cache.clock()))
            return 0
        late = self._cache.clock() > batch.submitted_s + _FOUND_FOR_S
        if exc.status == 404 and late and self._is_ours(batch):  # noqa: PLR2004
            why = "OpenRouter has the batch no more: it keeps results for about 30 days"
            end(self._cache, self._table, batch._replace(status="gone", error=why), why)
            return 0
        raise exc

    def _is_ours(self, batch: BatchRecord) -> bool:
        """Return whether it was submitted with this key: another may not see what is there."""
        return batch.payer == payer_of(batch.marker, self._secret)

    # -- a submission that was not answered ---------------------------------------------------

    def _found(self, batch: BatchRecord) -> BatchRecord | None:
        """Return a batch of which it isn't known what OpenRouter calls it, found again; None if not (yet).

        Its rows' custom ids, which tell for certain, are seen only when it has ended.
        """
        leases = DiskLeases(self._cache.database, self._cache.clock)
        lease = leases.acquire(batch.marker, LEASE_S)
        if not isinstance(lease, Lease):
            return None  # it is just being submitted, or looked for
        try:
            return self._looked_for(batch)
        finally:
            with suppress(StoreError):
                leases.release(lease)

    def _looked_for(self, batch: BatchRecord) -> BatchRecord | None:
        may_be = 0
        for listed in self._alike(batch):
            if not listed.ended:
                may_be += 1
                continue
            try:
                told = self._fetch(listed.remote)
            except UpstreamError as exc:
                if exc.status == 402:  # noqa: PLR2004
                    may_be += 1
                    continue
                raise
            if any(custom_id.startswith(_prefix(batch.marker)) for custom_id in told.results or ()):
                found = batch._replace(remote=told.remote, status=told.status)
                self._table.update(found)
                return found
        late = self._cache.clock() > batch.submitted_s + GRACE_S
        if not may_be and late and self._is_ours(batch):
            why = "its submission was not answered, and OpenRouter has no such batch: nothing was bought"
            end(self._cache, self._table, batch._replace(status="lost", error=why), why)
            return None
        why = "its submission was not answered; " + (
            f"{may_be} under way may be it, which shows when they end"
            if may_be
            else "OpenRouter doesn't list it yet"
        )
        self._table.update(batch._replace(error=why, checked_s=self._cache.clock()))
        return None

    def _alike(self, batch: BatchRecord) -> Iterator[BatchTold]:
        """Yield the batches at OpenRouter that may be this one."""
        known = {other.remote for other in self._table.all()}
        begins_s, ends_s = batch.submitted_s - _SKEW_S, batch.submitted_s + _SKEW_S
        params = {"limit": str(_PAGE)}
        for _ in range(_MOST_PAGES):
            page = self._get(PATH, params)
            listed = page.get("data") if isinstance(page, dict) else None
            found = [told_by(item) for item in listed] if isinstance(listed, list) else []
            for told in found:
                alike = told.model.removesuffix(":batch") == batch.model and told.total in (batch.total, None)
                then = not told.created_s or begins_s <= told.created_s <= ends_s
                if alike and then and told.remote not in known:
                    yield told
            over = not found or 0 < found[-1].created_s < begins_s
            if over or page.get("has_more") is not True:
                return
            params["after"] = found[-1].remote
        raise OrCacheError("it was not found among the batches that OpenRouter lists, which are too many")

    # -- what has come ------------------------------------------------------------------------

    def _store(self, batch: BatchRecord, told: BatchTold) -> int:
        """Store the results of a batch that has ended, and end it; return how many rows have one."""
        rows = self._table.rows(batch.id)
        come: list[tuple[BatchRow, Ask, Answer]] = []
        failed: list[BatchRow] = []
        for row in rows:
            if row.state != WAITING:
                continue
            found, ask = self._answer(row, told), self._ask(row)
            if isinstance(found, str):
                failed.append(row._replace(state="failed", error=found))
            elif ask is not None:
                come.append((row, ask, found))
        shared = self._shared(batch, [row.cost_usd for row in rows if row.state != WAITING], come)
        for (row, ask, answer), cost in zip(come, shared, strict=True):
            self._keep(row, ask, answer._replace(cost=cost))
        if not come:
            failed = self._unanswered(batch, rows, failed)
        for row in failed:
            self._table.end_row(row)
        end(self._cache, self._table, batch, _unanswered(told))
        return len(come)

    def _answer(self, row: BatchRow, told: BatchTold) -> Answer | str:
        """Return the answer to a row, or why there is none."""
        result = (told.results or {}).get(row.custom_id)
        if result is not None:
            found = answer_of(result, self._secret, self._cache.clock)
            doubled = not isinstance(found, str) and row.custom_id in told.doubled
            return found._replace(doubt=_DOUBLED) if doubled else found  # type: ignore[union-attr]
        return _unanswered(told)

    def _ask(self, row: BatchRow) -> Ask | None:
        """Return the ask of a row, under the key of this code's version; None where it isn't one of ours."""
        request, policy = row.request, row.policy
        if request is None:
            return None
        try:
            key = request_key(request)
        except RequestError:
            return None
        ttl_s, tags, volatile_s = policy.get("ttl_s"), policy.get("tags"), policy.get("volatile_ttl_s")
        settings = self._cache.settings
        return Ask(
            key,
            request,
            Policy(
                ttl_s=float(ttl_s) if isinstance(ttl_s, (int, float)) else None,
                tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
                volatile_ttl_s=float(volatile_s)
                if isinstance(volatile_s, (int, float))
                else Policy().volatile_ttl_s,
            ),
            settings,
            str(policy.get("parent") or ""),
        )

    def _shared(
        self,
        batch: BatchRecord,
        before: Sequence[Decimal | None],
        come: Sequence[tuple[BatchRow, Ask, Answer]],
    ) -> list[Cost]:
        """Return what each answer cost: what its row says, else its share of what the others leave.

        Where the rows' own costs can't add up to the batch's, each has its share of that.
        """
        total = batch.cost_usd
        if total is None:
            return [answer.cost for _, _, answer in come]
        costs = [answer.cost for _, _, answer in come]
        left = _pico(total - sum(usd for usd in before if usd is not None))
        known = [_pico(cost.usd) for cost in costs if cost.usd is not None]
        sharing: Sequence[int] = [at for at, cost in enumerate(costs) if cost.usd is None]
        rest = left - sum(known)
        if rest < 0 or (rest and not sharing):  # what the rows say is not what the batch cost
            sharing, rest = range(len(come)), max(0, left)
        weights = known if len(known) == len(come) else self._weights([come[at] for at in sharing])
        for at, pico in zip(sharing, apportion(rest, weights[: len(sharing)]), strict=True):
            costs[at] = Cost(Decimal(pico) / _PICO, "apportioned")
        return costs

    def _weights(self, come: Sequence[tuple[BatchRow, Ask, Answer]]) -> list[int]:
        """Return what the answers' tokens cost by the price list; where that leaves a doubt, the tokens."""
        prices, now_s = self._cache.money.prices, self._cache.clock()
        listed = [prices.tokens_cost(ask.request, answer, now_s).usd for _, ask, answer in come]
        known = [usd for usd in listed if usd is not None]
        if len(known) == len(listed):
            return [int(usd * _PICO) for usd in known]
        usages = [answer.usage for _, _, answer in come]
        return [0 if u is None else (u.prompt_tokens or 0) + (u.completion_tokens or 0) for u in usages]

    def _keep(self, row: BatchRow, ask: Ask, answer: Answer) -> None:
        cache = self._cache
        reason = why_not_stored(ask.request, answer)
        with suppress(StoreError):
            entry = None if reason else cache.store.get(ask.key)
            if entry is not None and why_not_served(entry, cache.clock()) is None:
                reason = "another answer was stored while the batch was under way"
        state = "stored" if reason is None else "set aside"
        ended = row._replace(state=state, error=reason or "", cost_usd=answer.cost.usd)
        kind: AskKind = "miss" if answer.error is None and answer.choices else "failed"
        self._record(ask, kind, answer, reason, ended)

    def _unanswered(
        self, batch: BatchRecord, rows: Sequence[BatchRow], failed: Sequence[BatchRow]
    ) -> list[BatchRow]:
        """Account for a batch that cost something though nothing was answered; return the rows to end."""
        known = [row.cost_usd for row in rows if row.cost_usd is not None]
        left = int(((batch.cost_usd or 0) - sum(known)) * _PICO)
        if left <= 0:
            return list(failed)
        for row, pico in zip(failed, apportion(left, [1] * len(failed)), strict=True):
            ask = self._ask(row)
            usd = Decimal(pico) / _PICO
            if ask is not None:
                nothing = Answer((), cost=Cost(usd, "apportioned"))
                self._record(ask, "failed", nothing, row.error, row._replace(cost_usd=usd))
        return list(failed)

    def _record(self, ask: Ask, kind: AskKind, answer: Answer, reason: str | None, ended: BatchRow) -> None:
        """Store or set aside what a row has come to, account for it, and end the row, in one transaction."""
        notebook = str(ended.policy.get("notebook") or "")
        self._cache.recorder.collect(
            ask, kind, answer, reason, lambda: self._table.end_row(ended), notebook=notebook
        )
