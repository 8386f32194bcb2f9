"""The panel's figures: what the completion cache holds, paid and saved, gathered once, told everywhere alike.

The widget, the saved notebook's table and the terminal's text all show these tiles, so that none of them can
say something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import (
    format_count,
    format_share,
    format_size,
    format_sum,
    format_usd,
    share_of,
)
from or_cache_magic.display.stats import best_hit_rate

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.rows import Totals

BREAKDOWNS: Final = ("model", "day", "notebook", "tag")
"""What the asks can be broken down by."""

_GROUPS_SHOWN: Final = 8


class Moment(NamedTuple):
    """What was asked in an hour or a day: when it began, and its sums."""

    start_s: float
    totals: Totals


class Figures(NamedTuple):
    """What the panel tells.

    Attributes:
        totals: The ledger's sums.
        session: Whether they are of this session alone.
        entries: How many answers are kept.
        size_bytes: Their size as stored.
        quota_bytes: What they may come to; None is no limit.
        asked: Different requests among the hits and misses; None is not counted yet.
        timeline: The sums by hour or by day, the earliest first; None is not added up yet.
        notices: What there is to know of models that entries were bought of; see `CompletionCache.notices`.
    """

    totals: Totals
    session: bool
    entries: int
    size_bytes: int
    quota_bytes: int | None
    asked: int | None = None
    timeline: tuple[Moment, ...] | None = None
    notices: tuple[str, ...] = ()


class Tile(NamedTuple):
    """One figure: its name, what it is, and the lines beneath."""

    name: str
    value: str
    notes: tuple[str, ...]


class Breakdown(NamedTuple):
    """The same sums by model, day, notebook or tag: a row a group, and how many more there are."""

    by: str
    rows: tuple[tuple[str, ...], ...]
    more: int


def gather(cache: CompletionCache, *, session: bool = False) -> Figures:
    """The figures as they are now, but for those that take longer; see `complete`.

    Args:
        cache: Of what.
        session: Whether to count this session's asks alone; the entries are those of all.

    Raises:
        StoreError: The file can't be read.
    """
    (totals,) = cache.totals(session=session)
    entries, _, _, size_bytes = cache.store.listing.totals(EntryFilter())
    return Figures(totals, session, entries, size_bytes, cache.settings.quota)


def complete(cache: CompletionCache, figures: Figures) -> Figures:
    """The figures with those that take some tenths of a second for 100,000 asks; raises `StoreError`."""
    session = cache.session if figures.session else None
    return figures._replace(
        asked=cache.ledger.distinct_asks(session=session),
        timeline=tuple(Moment(*moment) for moment in cache.ledger.timeline(session=session)),
        notices=tuple(cache.notices()),
    )


def breakdown(cache: CompletionCache, by: str, *, session: bool = False) -> Breakdown:
    """The sums by one of `BREAKDOWNS`, most asks first (days: the newest), as they are shown."""
    groups = cache.totals(by, session=session)
    if by == "day":
        groups.sort(key=lambda t: t.group, reverse=True)
    shown = groups[:_GROUPS_SHOWN]
    rows = tuple(
        (
            t.group or "(none)",
            f"{t.asks:,}",
            hit_rate(t),
            format_sum(t.paid_usd, unpriced=t.unpriced),
            format_sum(t.saved_usd, unpriced=t.unpriced),
        )
        for t in shown
    )
    return Breakdown(by, rows, len(groups) - len(shown))


def tiles(figures: Figures) -> tuple[Tile, ...]:
    """The figures as they are read."""
    known = (Tile("notices", f"{len(figures.notices):,}", figures.notices),) if figures.notices else ()
    return _entries(figures), _hits(figures), _paid(figures.totals), _saved(figures.totals), *known


def hit_rate(totals: Totals) -> str:
    """Hits among the asks that a stored answer could have served; a dash where there was none."""
    return format_share(share_of(totals.hits, totals.misses))


def _entries(figures: Figures) -> Tile:
    size, quota = format_size(figures.size_bytes), figures.quota_bytes
    notes = [size if quota is None else f"{size} of {format_size(quota)}"]
    if quota is not None and figures.size_bytes > quota:
        notes.append(f"over the quota: %openrouter_purge --to-fit {format_size(quota).replace(' ', '')}")
    return Tile("entries", f"{figures.entries:,}", tuple(notes))


def _hits(figures: Figures) -> Tile:
    t = figures.totals
    asks = t.hits + t.misses
    notes = [f"{t.hits:,} of {format_count(asks, 'ask')}"]
    if asks:
        dollars = format_share(share_of(t.saved_usd, t.paid_usd), about=bool(t.unpriced))
        tokens = format_share(share_of(t.hit_tokens, t.bought_tokens))
        notes.append(f"tokens {tokens} · dollars {dollars}")
    if figures.asked and t.hits <= asks - figures.asked:  # what others bought can bring more than these asks
        share = format_share(best_hit_rate(t, figures.asked))
        notes.append(f"at best {share}: {figures.asked:,} of {format_count(asks, 'ask')} were new")
    return Tile("hit rate", hit_rate(t), tuple(notes))


def _paid(t: Totals) -> Tile:
    notes = [f"{t.unpriced:,} of {t.asks:,} unpriced"] if t.unpriced else []
    sources = (
        (t.reported_usd, "reported"),
        (t.settled_usd, "settled"),
        (t.apportioned_usd, "apportioned"),
        (t.estimated_usd, "estimated"),
    )
    notes += [f"{format_usd(usd)} {name}" for usd, name in sources if usd]
    return Tile("paid", format_sum(t.paid_usd, unpriced=t.unpriced), tuple(notes))


def _saved(t: Totals) -> Tile:
    notes = []
    if t.prompt_cache_saved_usd:
        # What is not known of prompt caching may be a loss.
        bound = "≈ " if t.prompt_cache_unpriced else "≥ " if t.unpriced else ""
        by = f"{'+' if t.prompt_cache_saved_usd > 0 else ''}{format_usd(t.prompt_cache_saved_usd)}"
        notes.append(f"{bound}{format_usd(t.net_saved_usd)} net: prompt caching {by}")
    if t.prompt_cache_unpriced:
        notes.append(f"prompt caching unknown in {format_count(t.prompt_cache_unpriced, 'call')}")
    if t.shared_hits:
        notes.append(
            f"{format_usd(t.shared_saved_usd)} of it by the team ({format_count(t.shared_hits, 'hit')})"
        )
    if t.coalesced:
        notes.append(
            f"besides: {format_sum(t.coalesced_usd, unpriced=t.unpriced)} coalesced ({t.coalesced:,})"
        )
    if t.replays:
        replayed = format_sum(t.replayed_usd, unpriced=t.unpriced)
        notes.append(f"besides: {replayed} replayed ({t.replays:,})")
    if t.stale:
        notes.append(f"besides: {format_count(t.stale, 'expired answer')} served when a call failed")
    if t.similar:
        notes.append(f"besides: {format_count(t.similar, 'similar answer')} served")
    return Tile("saved", format_sum(t.saved_usd, unpriced=t.unpriced), tuple(notes))
