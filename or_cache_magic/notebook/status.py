"""How things stand: what a bare ``%openrouter`` says."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from or_cache_magic.core.cells import format_share, format_sum
from or_cache_magic.core.cost import format_usd
from or_cache_magic.core.settings import MEMORY
from or_cache_magic.core.units import format_size
from or_cache_magic.display.escape import escape_markdown, one_line
from or_cache_magic.display.notes import ceiling
from or_cache_magic.errors import OrCacheError
from or_cache_magic.notebook.cards import entries_count, masked

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Totals
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.money.key_limits import KeyLimits
    from or_cache_magic.notebook.session import Session

__all__ = ["limits_text", "shown_folder", "status_card"]

_HOW_TO_SET_IT = "set OPENROUTER_API_KEY, or type it after %openrouter_key"
_REASON_WIDTH = 120


def status_card(session: Session) -> tuple[str, str]:
    """Model, key and its limits, folder, entries, hit rates and dollars; plain and as Markdown.

    OpenRouter is asked for the key's limits, unless there is no key or the mode is offline; when it can't be
    reached, the card says so.
    """
    from importlib.metadata import version

    cache, settings, key = session.cache(), session.settings(), session.api_key()
    (totals,) = cache.totals()
    entries, _, _ = cache.store.count()
    in_terminal = getattr(session.shell, "kernel", None) is None
    folder = str(cache.directory) if in_terminal else shown_folder(cache.directory, session.folder)
    rows = {
        "model": settings.model or "none set: name one in the cell, or %openrouter_config model=…",
        "key": f"{masked(key)} from {session.key_source}" if key else f"none: {_HOW_TO_SET_IT}",
        "key's limit": _limits(cache) if key and settings.mode != "offline" else "",
        "completion cache": f"{folder} · {entries_count(entries)} · mode {settings.mode}",
        "size": cache.quota_warning() or _size(cache, settings),
        "hit rate": _rates(totals, cache.ledger.distinct_asks()),
        "paid": _paid(totals),
        "saved": _saved(totals),
        "spent": _spent(cache, settings),
        "version": version("or-cache-magic"),
    }
    told = {name: value for name, value in rows.items() if value}
    plain = "\n".join(f"{name + ':':<18}{value}" for name, value in told.items())
    table = "\n".join(
        f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in told.items()
    )
    return plain, f"| OpenRouter | |\n|:--|:--|\n{table}"


def shown_folder(folder: Path, start: Path) -> str:
    """A folder as it may stand in a saved notebook: nobody's home, nothing of what is above a project.

    Args:
        folder: Absolute, or ``:memory:``.
        start: The notebook's folder, absolute.

    Returns:
        Relative to `start` when one is in the other, to ``~`` in the user's home, else its last two parts.
    """
    if str(folder) == MEMORY:
        return MEMORY
    if start in folder.parents or folder.parent in start.parents:
        return os.path.relpath(folder, start)
    home = Path(os.path.expanduser("~"))
    if home in folder.parents:
        return f"~/{folder.relative_to(home).as_posix()}"
    return Path("…", *folder.parts[-2:]).as_posix()


def limits_text(limits: KeyLimits | None) -> str:
    """What a key may still spend, in a line: ``limit $10.00, $7.43 left, resets monthly; $2.57 used …``."""
    if limits is None:
        return "not told by this server"
    if limits.limit_usd is None:
        told = "none"
    else:
        left = "" if limits.remaining_usd is None else f", {format_usd(limits.remaining_usd)} left"
        resets = f", resets {one_line(limits.resets, _REASON_WIDTH)}" if limits.resets else ""
        told = f"{format_usd(limits.limit_usd)}{left}{resets}"
    month = limits.used_this_month_usd
    used = "" if month is None else f"; {format_usd(month)} used this month"
    return f"{told}{used}{'; free tier' if limits.is_free_tier else ''}"


def _limits(cache: CompletionCache) -> str:
    try:
        return limits_text(cache.money.key_limits())
    except OrCacheError as exc:
        return f"not known: {one_line(str(exc.args[0]), _REASON_WIDTH)}"


def _size(cache: CompletionCache, settings: Settings) -> str:
    size = format_size(cache.store.size_bytes())
    return size if settings.quota is None else f"{size} of {format_size(settings.quota)}"


def _rates(t: Totals, distinct: int) -> str:
    asks = t.hits + t.misses
    if not asks:
        return "nothing asked yet"
    served = (
        f"{format_share(t.hits / asks)} of {asks:,} asks",
        f"{_share(t.hit_tokens, t.bought_tokens)} of tokens",
        f"{_share(t.saved_usd, t.paid_usd, about=bool(t.unpriced))} of dollars",
        f"ceiling {format_share(ceiling(t, distinct))}",
    )
    return " · ".join(served)


def _share(part: int | Decimal, rest: int | Decimal, *, about: bool = False) -> str:
    whole = part + rest
    return format_share(float(part / whole) if whole else None, about=about)


def _paid(t: Totals) -> str:
    known = f" ({t.unpriced:,} of {t.calls:,} unpriced)" if t.unpriced else ""
    return f"{format_sum(t.paid_usd, unpriced=t.unpriced)}{known}"


def _saved(t: Totals) -> str:
    team = f" ({format_usd(t.team_saved_usd)} of it by the team)" if t.team_hits else ""
    net = f" · net {format_usd(t.net_saved_usd)} with prompt caching" if t.prompt_cache_saved_usd else ""
    return f"{format_sum(t.saved_usd, unpriced=t.unpriced)}{team}{net}"


def _spent(cache: CompletionCache, settings: Settings) -> str:
    """What the budgets count, and what they allow."""
    session = _of(cache.money.session_at_most(), settings.max_cost_usd)
    day = _of(cache.money.day_at_most(), settings.max_cost_per_day_usd)
    return f"{session} this session · {day} today"


def _of(spent_usd: Decimal, limit_usd: Decimal | None) -> str:
    return format_usd(spent_usd) + ("" if limit_usd is None else f" of {format_usd(limit_usd)}")
