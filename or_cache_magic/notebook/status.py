"""Text views: of an entry, the settings, a purge, and what a bare ``%openrouter`` shows."""

from __future__ import annotations

import json
import math
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import messages_of
from or_cache_magic.core.media import attached_text
from or_cache_magic.core.records import Answer
from or_cache_magic.core.returned import message_of, reasoning_of
from or_cache_magic.core.rows import EntryFilter, Totals
from or_cache_magic.core.settings import MEMORY, SETTINGS, Settings
from or_cache_magic.core.units import (
    ZERO_USD,
    format_age,
    format_count,
    format_share,
    format_size,
    format_sum,
    format_usd,
    share_of,
)
from or_cache_magic.display.escape import escape_markdown, fenced, one_line, printable
from or_cache_magic.display.markdown import safe_markdown
from or_cache_magic.display.parts import parts_of
from or_cache_magic.display.stats import best_hit_rate
from or_cache_magic.display.tables import facts_text, table_of
from or_cache_magic.display.tables import markdown as table_markdown
from or_cache_magic.display.tables import text as table_text
from or_cache_magic.display.thumbnails import attached_lines, shortened, thumbnails_html
from or_cache_magic.errors import InputError, OptionError, OrCacheError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.purge import Purge
    from or_cache_magic.core.records import Request
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.money.budget import KeyLimits
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.notebook.session import Session
    from or_cache_magic.storage.entries import HistoryEntry

_ROWS: Final = 20
"""Errors that are listed."""

_FEW_ROWS: Final = 5
"""Rows that are named where an error has several."""

_KEY_DIGITS: Final = 10
"""Hex digits of a key that are shown."""

_PROMPT_WIDTH: Final = 60


def settings_text(frame: pd.DataFrame) -> str:
    """Return the settings as text: name, value, and where the value came from."""
    rows = [
        [str(name), "none" if value is None else str(value), origin]
        for name, value, origin in frame.itertuples()
    ]
    return table_text(table_of(["setting", "value", "origin"], rows, left=3))


def warm_text(frame: pd.DataFrame) -> str:
    """Return the errors of a list of prompts as text, each whole and once; the first 20, and what helps."""
    wrong = frame[frame["error"] != ""]
    if wrong.empty:
        return "nothing failed; _ is the DataFrame"
    said = [
        f"{_rows_text(list(same.index))} {kind}: {error}"
        for (error, kind), same in wrong.groupby(["error", "kind"], sort=False)
    ]
    more = [f"… and {len(said) - _ROWS:,} more …"] if len(said) > _ROWS else []
    hints = [f"  {hint}" for hint in frame.attrs.get("hints", ())]
    return printable("\n".join((*said[:_ROWS], *more, *hints)))


def _rows_text(rows: Sequence[Any]) -> str:
    shown = ", ".join(map(str, rows[:_FEW_ROWS]))
    more = f" and {len(rows) - _FEW_ROWS:,} more" if len(rows) > _FEW_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


_NO_MATCH = ("no entry matches; nothing to remove", "no entry here matches; the team's server may have some")


def preview_lines(cache: CompletionCache, asks: Sequence[Ask], out: str | None = None) -> list[str]:
    """Say of each ask whether it would hit, or what it may cost; of several, what all may cost.

    Sends no prompt; may look up prices. Where a name is to be bound (`out`), says that it isn't.

    Raises:
        InputError: The only one would be refused.
    """
    lines, estimates = [], []
    for ask in asks:
        row, why = cache.peek(ask)
        told = [f"{ask.request.body['model']}{_sample(ask)}", f"key {ask.key.digest[:_KEY_DIGITS]}"]
        where = " · ".join(filter(None, (*told, attached_text(ask.attached))))
        if row is None and not why:
            lines.append(f"would ask nothing {where} · --repair {ask.repair} is used up · nothing sent")
        elif row is None and (refusal := _refusal(cache, ask)) is not None:
            if len(asks) == 1:
                raise refusal
            lines.append(f"would refuse {where} · {refusal.args[0]}")
        elif row is None:
            estimate = cache.money.estimate(ask.request, ask.settings)
            estimates.append(estimate)
            lines.append(f"would ask {where} · {why} · {estimate_text(estimate)} · nothing sent")
        else:
            age = format_age(time.time() - row.created_s)
            lines.append(
                f"would hit {where} · cached {age} · bought for {format_usd(row.cost.usd)} · nothing sent"
            )
    if len(asks) > 1:
        lines.append(_preview_sum(estimates, len(asks)))
    return [*lines[:-1], f"{lines[-1]}, {out} not bound" if out else lines[-1]]


def _refusal(cache: CompletionCache, ask: Ask) -> InputError | None:
    """Return what an ask would be refused with before it is sent; None where nothing is known."""
    try:
        if ask.settings.mode != "offline":
            cache.check(ask)
    except InputError as exc:
        return exc
    return None


def _sample(ask: Ask) -> str:
    return f" · sample {ask.request.sample}" if ask.policy.sampled else ""


def _preview_sum(estimates: Sequence[Estimate], asks: int) -> str:
    known = [estimate.high_usd for estimate in estimates if estimate.high_usd is not None]
    unknown = len(estimates) - len(known)
    limit = f"at most {format_usd(sum(known, ZERO_USD))}"
    if unknown:
        limit += f", and {unknown:,} of unknown cost" if known else ""
    most = "" if not estimates else f" · {limit}" if known else " · upper cost unknown"
    return f"would ask {len(estimates):,} of {asks:,}{most} · nothing sent"


def estimate_text(estimate: Estimate) -> str:
    """Say what a call may cost: ``$0.0000021 to $0.0025 (≈ 14 → at most 4,096 tokens, prices of …)``."""
    tokens, most = estimate.prompt_tokens, estimate.completion_tokens[1]
    limit = "no limit known" if most is None else f"at most {most:,}"
    counted = f"≈ {tokens.likely:,} → {limit} tokens"
    if estimate.high_usd is None:
        low = f"at least {format_usd(estimate.low_usd)}, " if estimate.low_usd else ""
        return f"{low}upper cost unknown: {estimate.unknown_why} ({counted})"
    dated = ""
    if estimate.listed_s is not None:
        dated = f", prices of {time.strftime('%Y-%m-%d', time.localtime(estimate.listed_s))}"
    if estimate.files_usd:
        dated = f", up to {format_usd(estimate.files_usd)} for reading files{dated}"
    low, high = format_usd(estimate.low_usd), format_usd(estimate.high_usd)
    return f"{low if low == high else f'{low} to {high}'} ({counted}{dated})"


def masked(key: str) -> str:
    """Return a key as it may be shown: its ends, or nothing of a short one."""
    return f"{key[:12]}…{key[-3:]}" if len(key) > 24 else "…"  # noqa: PLR2004 - shorter ones would be given away


def purge_line(purge: Purge, *, dry_run: bool) -> str:
    """Say what a purge would remove, and what that would cost to buy again."""
    limit_bytes = purge.filter.to_fit_bytes
    if not purge.entries:
        fits = limit_bytes is not None and purge.rest_bytes <= limit_bytes
        return (
            f"{format_size(purge.rest_bytes)} fit already; nothing to remove"
            if fits
            else _NO_MATCH[purge.shared]
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
    team = ", and what the team's server has of them" if purge.shared else ""
    return f"{format_count(purge.entries, 'entry', 'entries')}, {size}{price}{rest}{team}{tail}"


def entry_card(cache: CompletionCache, prefix: str) -> tuple[str, str]:
    """Return one entry whole, plain and as Markdown: request, answer and earlier answers.

    Where there is none, the answers to a request of which none is served.

    Raises:
        OptionError: No entry begins so, or several do.
    """
    cache.ledger.flush()
    rows = cache.store.listing.find(EntryFilter(keys=(prefix,)), limit=2)
    if not rows and len(keys := cache.store.unserved_keys(prefix.lower(), 2)) == 1:
        kept = cache.store.unserved(keys[0])
        model = next((str(u.request.get("model", "")) for u in kept if u.request), "unknown model")
        facts = [f"{model} · no entry: none of its answers is served", f"key {keys[0]}"]
        asked = next((u.request for u in kept if u.request), {})
        return _card(facts, asked, Answer(()), kept)
    if len(rows) != 1:
        raise OptionError(
            f"no entry begins with {prefix}" if not rows else f"several entries begin with {prefix}",
            "%openrouter_entries lists them" if not rows else "write more of its digits",
        )
    (row,) = rows
    entry, request = cache.store.entry(row.key), cache.store.request(row.key) or {}
    given = entry.answer if entry is not None else Answer(())
    facts = [
        f"{row.model} · {format_usd(row.cost.usd)} ({row.cost.source})",
        f"cached {format_age(time.time() - row.created_s)} · {format_count(row.hits, 'hit')}",
        f"key {row.key}",
        _said_of(cache.store.asked(row.key)) + " · pinned" * cache.store.is_pinned(row.key),
    ]
    kept = cache.store.unserved(row.key)
    if kept:
        facts.append(f"answer {cache.store.served_number(row.key)} of {len(kept) + 1} is served")
    facts += [f"attached {line}" for line in attached_lines(entry.attached if entry is not None else ())]
    tree = printable(conversation_text(cache, row.key))
    return _card(facts, request, given, kept, tree)


def _card(
    facts: list[str], request: Mapping[str, Any], given: Answer, kept: list[HistoryEntry], tree: str = ""
) -> tuple[str, str]:
    answer = "\n\n".join(filter(None, (_said_in(given, request), reasoning_of(message_of(given)))))
    asked = printable(json.dumps(shortened(request), indent=2, ensure_ascii=False))
    at_s = given.created_s if given.choices else math.inf
    history = [
        (f"{'earlier' if u.answer.created_s <= at_s else 'later'} answer", _history_line(u)) for u in kept
    ]
    others = (f"{which} {told}" for which, told in history)
    plain = "\n\n".join(filter(None, ["\n".join(facts), tree, asked, answer, *others]))
    parts = [" · ".join(map(escape_markdown, facts)), tree and fenced(tree, "text")]
    pictures = "".join(map(thumbnails_html, (*messages_of(request), message_of(given))))
    parts += [fenced(asked, "json"), pictures, safe_markdown(answer)]
    parts += [f"**{which}** {safe_markdown(told)}" for which, told in history]
    return printable(plain), "\n\n".join(filter(None, parts))


def _history_line(kept: HistoryEntry) -> str:
    """Return the number of an answer that is not served, since when and why, its cost, and what it says."""
    cost, age = format_usd(kept.answer.cost.usd), format_age(time.time() - kept.at_s)
    return f"{kept.number}, {age}: {kept.reason} · {cost}\n{_said_in(kept.answer, kept.request or {})}"


def _said_in(answer: Answer, request: Mapping[str, Any]) -> str:
    """Return the text of an answer, and what came with it."""
    beside = "\n".join(part["text/plain"] for part in parts_of(answer, request))
    return "\n\n".join(filter(None, (answer.text, beside)))


def _said_of(asked: Request | None) -> str:
    """Return which sample of a request an entry is, and at which temperature."""
    if asked is None:
        return "its request can't be read"
    return f"sample {asked.sample} · temperature {asked.body.get('temperature', 'not set')}"


def conversation_text(cache: CompletionCache, key: str) -> str:
    """Return the conversation that an entry is a part of, a line an answer; empty where it is alone."""
    from or_cache_magic.cache.replies import conversation

    lines = []
    for line in conversation(cache.store, key):
        said = "(not stored)" if line.row is None else one_line(line.row.prompt, _PROMPT_WIDTH)
        notes = " (to an earlier answer)" * line.earlier + " ← this" * (line.key == key)
        lines.append(f"{line.key[:_KEY_DIGITS]}  {'  ' * line.depth}{said}{notes}")
    return "\n".join(lines)


def settings_frame(settings: Settings) -> pd.DataFrame:
    """Return the settings as a table: the value in force, and where it came from."""
    import pandas as pd

    rows = [(name, getattr(settings, name), settings.origins.get(name, "default")) for name in SETTINGS]
    columns = ["setting", "value", "origin"]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns, dtype=object).set_index("setting")
    return frame


_HOW_TO_SET_IT = "set OPENROUTER_API_KEY, or type it after %openrouter_key"
_REASON_WIDTH = 120


def status_card(session: Session) -> tuple[str, str]:
    """Return what a bare ``%openrouter`` shows, plain and as Markdown: model, key, folder, figures.

    OpenRouter is asked for the key's limits, unless there is no key or the mode is offline; when it can't be
    reached, the card says so.
    """
    from importlib.metadata import version

    cache, settings, key = session.cache(), session.settings(), session.api_key()
    (totals,) = cache.totals()
    entries, _, _ = cache.store.listing.count()
    in_terminal = session.in_terminal
    folder = str(cache.directory) if in_terminal else shown_folder(cache.directory, session.folder)
    rows = {
        "model": settings.model or "none set: name one in the cell, or %openrouter_config model=…",
        "key": f"{masked(key)} from {session.key_source}" if key else f"none: {_HOW_TO_SET_IT}",
        "key's limit": _limits(cache) if key and settings.mode != "offline" else "",
        "completion cache": f"{folder} · {format_count(entries, 'entry', 'entries')} · mode {settings.mode}",
        "size": cache.quota_warning() or _size(cache, settings),
        "hit rate": _rates(totals, cache.ledger.distinct_asks()),
        "paid": _paid(totals),
        "saved": _saved(totals),
        "spent": _spent(cache, settings),
        "version": version("or-cache-magic"),
    }
    facts = [(name, value) for name, value in rows.items() if value]
    plain = facts_text((f"{name}:", value) for name, value in facts)
    return plain, table_markdown(table_of(["OpenRouter", ""], facts, left=2))


def shown_folder(folder: Path, start: Path) -> str:
    """Return a folder as a saved notebook may have it: no home folder, nothing above the project.

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
    """Say what a key may still spend: ``$10.00, $7.43 left, resets monthly; $2.57 used this month``."""
    if limits is None:
        return "not told by this server"
    if limits.limit_usd is None:
        limit = "none"
    else:
        left = "" if limits.remaining_usd is None else f", {format_usd(limits.remaining_usd)} left"
        resets = f", resets {one_line(limits.resets, _REASON_WIDTH)}" if limits.resets else ""
        limit = f"{format_usd(limits.limit_usd)}{left}{resets}"
    month = limits.used_this_month_usd
    used = "" if month is None else f"; {format_usd(month)} used this month"
    if not limits.is_free_tier:
        return f"{limit}{used}"
    requests = limits.free_requests
    free = "" if requests is None else f", {requests:,} requests left today"
    return f"{limit}{used}; free tier{free}"


def _limits(cache: CompletionCache) -> str:
    try:
        return limits_text(cache.money.key_limits())
    except OrCacheError as exc:
        return f"not known: {one_line(str(exc.args[0]), _REASON_WIDTH)}"


def _size(cache: CompletionCache, settings: Settings) -> str:
    size = format_size(cache.store.listing.size_bytes())
    return size if settings.quota is None else f"{size} of {format_size(settings.quota)}"


def _rates(t: Totals, distinct: int) -> str:
    asks = t.hits + t.misses
    if not asks:
        return "nothing asked yet"
    served = (
        f"{format_share(t.hits / asks)} of {asks:,} asks",
        f"{format_share(share_of(t.hit_tokens, t.bought_tokens))} of tokens",
        f"{format_share(share_of(t.saved_usd, t.paid_usd), about=bool(t.unpriced))} of dollars",
        f"at best {format_share(best_hit_rate(t, distinct))}",
    )
    return " · ".join(served)


def _paid(t: Totals) -> str:
    known = f" ({t.unpriced:,} of {t.asks:,} unpriced)" if t.unpriced else ""
    return f"{format_sum(t.paid_usd, unpriced=t.unpriced)}{known}"


def _saved(t: Totals) -> str:
    team = f" ({format_usd(t.shared_saved_usd)} of it by the team)" if t.shared_hits else ""
    net = f" · net {format_usd(t.net_saved_usd)} with prompt caching" if t.prompt_cache_saved_usd else ""
    return f"{format_sum(t.saved_usd, unpriced=t.unpriced)}{team}{net}"


def _spent(cache: CompletionCache, settings: Settings) -> str:
    """Say what the budgets count, and what they allow."""
    session = _of(cache.money.session.at_most(), settings.max_cost_usd)
    day = _of(cache.money.day.at_most(), settings.max_cost_per_day_usd)
    return f"{session} this session · {day} today"


def _of(spent_usd: Decimal, limit_usd: Decimal | None) -> str:
    return format_usd(spent_usd) + ("" if limit_usd is None else f" of {format_usd(limit_usd)}")
