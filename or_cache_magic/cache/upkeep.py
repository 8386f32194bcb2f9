"""What looks after a completion cache: its sums, its entries, what to purge and what that would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from or_cache_magic.core.policy import parse_ttl
from or_cache_magic.core.records import EntryFilter, Totals
from or_cache_magic.core.units import format_size, parse_size
from or_cache_magic.display.frames import entries_frame, stats_frame
from or_cache_magic.errors import OptionError, StoreError

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.core.settings import Settings
    from or_cache_magic.money.money import Money
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.ledger import Ledger
    from or_cache_magic.storage.tiered import TieredStore

__all__ = ["Purge", "Upkeep"]

_GROUPS = ("", "model", "day", "notebook", "tag")


class Purge(NamedTuple):
    """What a purge removes: how many entries, and what it would cost to buy them again.

    ``cost_usd`` is the sum of what is known; ``unpriced`` counts the entries whose cost isn't. ``size_bytes``
    go, ``rest_bytes`` stay. With `team` the team's server is purged too: what it has isn't counted here.
    """

    filter: EntryFilter
    entries: int
    cost_usd: Any
    unpriced: int
    size_bytes: int
    rest_bytes: int
    team: bool = False

    @property
    def does_nothing(self) -> bool:
        """Whether no entry matches, here or on a server."""
        return not self.entries and not self.team


class Upkeep:
    """Browsing, accounting and purging: the part of a `CompletionCache` that asks no model. Thread-safe."""

    database: Database
    store: TieredStore
    ledger: Ledger
    #: Id of this session in the ledger.
    session: str
    #: Tells UTC epoch seconds.
    clock: Callable[[], float]

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        raise NotImplementedError

    @property
    def money(self) -> Money:
        """Prices, budgets and settlements."""
        raise NotImplementedError

    def totals(self, by: str = "", *, session: bool = False) -> list[Totals]:
        """The ledger's sums, one for each group; see `records.Totals`."""
        if by not in _GROUPS:
            raise OptionError(f"can't group by {by!r}", "by takes model, day, notebook or tag")
        return self.ledger.totals(by, session=self.session if session else None)

    def quota_warning(self) -> str:
        """That the entries are larger than the setting ``quota``, and what helps; empty when they aren't."""
        quota_bytes = self.settings.quota
        if quota_bytes is None:
            return ""
        try:
            size_bytes = self.store.size_over(quota_bytes)
        except StoreError:
            return ""  # said where the answer could not be kept
        if size_bytes is None:
            return ""
        quota = format_size(quota_bytes)
        return (
            f"the completion cache holds {format_size(size_bytes)}, over its quota of {quota}:"
            f" %openrouter_purge --to-fit {quota.replace(' ', '')}"
        )

    def stats(self, by: str = "", *, session: bool = False) -> pd.DataFrame:
        """Calls, hits, rates and dollars as a DataFrame, one row or one a group; see `frames.STAT_COLUMNS`.

        What calls came to whose replies did not tell is asked of OpenRouter first, where that is due, for at
        most three seconds.

        Args:
            by: ``model``, ``day``, ``notebook`` or ``tag``; empty is one row for all.
            session: Only this session's asks.
        """
        self.money.settle()
        totals = self.totals(by, session=session)
        (whole,) = self.totals(session=session) if by else totals
        distinct = self.ledger.distinct_asks(self.session if session else None)
        return stats_frame(totals, by, whole=whole, distinct=distinct)

    def entries(
        self,
        text: str = "",
        *,
        model: str | None = None,
        tag: str | None = None,
        since: float | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """The stored answers as a DataFrame, newest first; see `frames.ENTRY_COLUMNS`.

        Args:
            text: Found in the prompt or the answer.
            model: Asked or served model; ``*`` and ``?`` as in a shell.
            tag: A label.
            since: Stored in the last so many seconds, or ``"7d"``.
            limit: At most so many rows.
        """
        self.ledger.flush()
        return entries_frame(
            self.store.find(self._filter(text=text, model=model, tag=tag, since=since), limit=limit)
        )

    def purge(
        self,
        *keys: str,
        model: str | None = None,
        system: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        older: float | str | None = None,
        expired: bool = False,
        to_fit: int | str | None = None,
        all: bool = False,  # noqa: A002 - the design's name
        dry_run: bool = False,
    ) -> pd.DataFrame:
        """Removes entries and returns them as a DataFrame; every condition given must hold. Asks nothing.

        The ledger keeps its history, so that what was paid and saved is not forgotten.

        Args:
            *keys: Keys, or how they begin (at least 4 hex digits).
            model: Asked or served model; ``*`` and ``?`` as in a shell.
            system: The whole system prompt.
            tag: A label.
            prefix: How the prompt begins.
            older: Stored longer ago than so many seconds, or ``"30d"``.
            expired: Only entries that are no longer served.
            to_fit: Only until all entries together are no larger than so many bytes, or ``"500MB"``; those
                go first that cost least to buy again for their size and are used least.
            all: Every entry; goes with no other condition.
            dry_run: Only tell what would go.

        Raises:
            OptionError: No condition at all, or `all` with another.
        """
        chosen = self.purge_filter(
            keys,
            model=model,
            system=system,
            tag=tag,
            prefix=prefix,
            older=older,
            expired=expired,
            to_fit=to_fit,
            all=all,
        )
        gone = self.chosen(chosen)
        if not dry_run:
            self.drop(chosen)
        return gone

    def chosen(self, chosen: EntryFilter) -> pd.DataFrame:
        """The entries that a filter names, as a DataFrame, newest first."""
        self.ledger.flush()
        return entries_frame(self.store.find(chosen))

    def purge_filter(self, keys: Sequence[str] = (), *, all: bool = False, **conditions: Any) -> EntryFilter:  # noqa: A002
        """The filter of a purge.

        Raises:
            OptionError: No condition at all, or `all` with another.
        """
        chosen = self._filter(keys=tuple(keys), **conditions)
        if all != (chosen == EntryFilter()):
            raise OptionError(
                "all goes with no other condition" if all else "say what to purge (nothing was removed)",
                "name keys, --model, --system, --tag, --prefix, --older, --expired, --to-fit, or --all alone",
            )
        return chosen

    def preview(self, chosen: EntryFilter) -> Purge:
        """What a purge would remove."""
        self.ledger.flush()
        goes = self.store.weigh(chosen)
        # Making room on this disk is nothing to the team.
        team = self.settings.shared_url is not None and chosen.to_fit_bytes is None
        return Purge(chosen, *goes, self.store.size_bytes() - goes.size_bytes, team)

    def drop(self, chosen: EntryFilter) -> int:
        """Removes the entries that `chosen` names; how many."""
        self.ledger.flush()
        removed = self.store.purge(chosen, everything=chosen == EntryFilter())
        self.database.checkpoint()
        return removed

    def _filter(
        self,
        *,
        keys: tuple[str, ...] = (),
        text: str = "",
        model: str | None = None,
        system: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        since: float | str | None = None,
        older: float | str | None = None,
        expired: bool = False,
        to_fit: int | str | None = None,
    ) -> EntryFilter:
        now_s = self.clock()
        return EntryFilter(
            keys=keys,
            text=text,
            model=model or "",
            system=system,
            tag=tag or "",
            prefix=prefix or "",
            created_after_s=None if since is None else now_s - _length_s(since),
            created_before_s=None if older is None else now_s - _length_s(older),
            expired_at_s=now_s if expired else None,
            to_fit_bytes=None if to_fit is None else _size_bytes(to_fit),
            to_fit_at_s=0.0 if to_fit is None else now_s,
        )


def _length_s(length: float | str) -> float:
    if not isinstance(length, str):
        return float(length)
    try:
        return parse_ttl(length)
    except ValueError as exc:
        raise OptionError(str(exc), "write 30m, 24h or 7d") from None


def _size_bytes(size: int | str) -> int:
    try:
        return parse_size(size) if isinstance(size, str) else size
    except ValueError as exc:
        raise OptionError(f"{exc} (nothing was removed)", "write 500MB or 2GB, or give bytes") from None
