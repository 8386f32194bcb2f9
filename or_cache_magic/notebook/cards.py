"""What the magics say besides answers: one entry whole, what a purge would take."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.cost import format_usd
from or_cache_magic.core.records import EntryFilter
from or_cache_magic.core.settings import SETTINGS
from or_cache_magic.core.units import format_size
from or_cache_magic.display.escape import escape_markdown, fenced, printable
from or_cache_magic.display.markdown import safe_markdown
from or_cache_magic.display.receipt import format_age
from or_cache_magic.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.upkeep import Purge
    from or_cache_magic.core.settings import Settings

__all__ = ["entries_count", "entry_card", "masked", "purge_line", "say", "settings_frame"]

_NO_MATCH = ("no entry matches; nothing to remove", "no entry here matches; the team's server may have some")


def say(shell: Any, text: str, markdown: str | None = None) -> None:
    """Shows a text: rendered in a notebook where `markdown` is given, plain in a terminal."""
    if getattr(shell, "kernel", None) is None:
        print(text)  # noqa: T201 - a terminal
        return
    data = {"text/plain": text}
    if markdown is not None:
        data["text/markdown"] = markdown
    shell.display_pub.publish(data=data, metadata={"or_cache_magic": {"role": "note"}})


def masked(key: str) -> str:
    """A key as it may be shown: its ends, or nothing of a short one."""
    return f"{key[:12]}…{key[-3:]}" if len(key) > 24 else "…"  # noqa: PLR2004 - shorter ones would be told


def entries_count(count: int) -> str:
    """``1 entry``, ``1,234 entries``."""
    return "1 entry" if count == 1 else f"{count:,} entries"


def purge_line(purge: Purge, *, dry_run: bool) -> str:
    """What a purge would remove, and what that would cost to buy again."""
    limit_bytes = purge.filter.to_fit_bytes
    if not purge.entries:
        fits = limit_bytes is not None and purge.rest_bytes <= limit_bytes
        return (
            f"{format_size(purge.rest_bytes)} fit already; nothing to remove"
            if fits
            else _NO_MATCH[purge.team]
        )
    at_least = "≥ " if purge.unpriced else ""
    unpriced = f", {purge.unpriced:,} unpriced" if purge.unpriced else ""
    tail = " · nothing was removed (--dry-run)" if dry_run else ""
    size = rest = ""
    if limit_bytes is not None:
        size = f"{format_size(purge.size_bytes)}, "
        rest = f" · {format_size(purge.rest_bytes)} stay"
        rest += " (too much still: no more match)" if purge.rest_bytes > limit_bytes else ""
    price = f"{at_least}{format_usd(purge.cost_usd)} to buy again{unpriced}"
    team = ", and what the team's server has of them" if purge.team else ""
    return f"{entries_count(purge.entries)}, {size}{price}{rest}{team}{tail}"


def entry_card(cache: CompletionCache, prefix: str) -> tuple[str, str]:
    """One entry whole: request, answer and earlier answers; plain and as Markdown.

    Raises:
        OptionError: No entry begins so, or several do.
    """
    cache.ledger.flush()
    rows = cache.store.find(EntryFilter(keys=(prefix,)), limit=2)
    if len(rows) != 1:
        raise OptionError(
            f"no entry begins with {prefix}" if not rows else f"several entries begin with {prefix}",
            "%openrouter_entries lists them" if not rows else "write more of its digits",
        )
    (row,) = rows
    entry, request = cache.store.entry(row.key), cache.store.request(row.key) or {}
    answer = entry.answer.text if entry is not None else ""
    facts = [
        f"{row.model} · {format_usd(row.cost.usd)} ({row.cost.source})",
        f"cached {format_age(time.time() - row.created_s)} · {row.hits:,} hit{'' if row.hits == 1 else 's'}",
        f"key {row.key}",
    ]
    asked = json.dumps(request, indent=2, ensure_ascii=False)
    kept = cache.store.unserved(row.key)
    history = [
        f"{format_age(time.time() - u.at_s)}: {u.reason} · {format_usd(u.answer.cost.usd)}\n{u.answer.text}"
        for u in kept
    ]
    plain = "\n\n".join(["\n".join(facts), asked, answer, *(f"earlier answer, {h}" for h in history)])
    parts = [" · ".join(map(escape_markdown, facts)), fenced(asked, "json"), safe_markdown(answer)]
    parts += [f"**earlier answer** {safe_markdown(h)}" for h in history]
    return printable(plain), "\n\n".join(parts)


def settings_frame(settings: Settings) -> pd.DataFrame:
    """The settings as a table: the value in force, and where it came from."""
    import pandas as pd

    rows = [(name, getattr(settings, name), settings.origins.get(name, "default")) for name in SETTINGS]
    columns = ["setting", "value", "origin"]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns, dtype=object).set_index("setting")
    return frame
