"""Why an ask missed, why its answer was not stored, or why an entry is not served."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import format_age, format_count, format_usd
from or_cache_magic.core.unstable import unstable
from or_cache_magic.display.escape import one_line
from or_cache_magic.errors import OptionError
from or_cache_magic.explain.difference import Change, changes, html_text
from or_cache_magic.explain.nearest import Nearest, nearest
from or_cache_magic.explain.similar import told
from or_cache_magic.storage.purges import bought_at, purges_of
from or_cache_magic.storage.sketches import without_media

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.records import Outcome, Request

_KEY_DIGITS: Final = 10
_WIDTH: Final = 200
_FEW: Final = 5
_SHORTEST_KEY: Final = 4
_LONGEST_KEY: Final = 64


class Why:
    """Why an ask was not served from the cache; it shows itself, in colour where colours are.

    Attributes:
        key: The request's, 64 hex digits.
        reasons: What there is to know, a line each, the most important first.
        nearest: The stored request that is nearest to it; None where none is, or none was looked for.
        changes: In what it differs from that one, field by field.
        notes: What in its prompt changes by itself, a line each.
    """

    def __init__(
        self,
        key: str,
        reasons: Sequence[str],
        near: Nearest | None = None,
        changed: Sequence[Change] = (),
        notes: Sequence[str] = (),
        heading: str = "",
    ) -> None:
        self.key = key
        self.reasons = tuple(reasons)
        self.nearest = near
        self.changes = tuple(changed)
        self.notes = tuple(notes)
        self._heading = heading

    def __str__(self) -> str:
        return self._lines("text")

    __repr__ = __str__

    @property
    def ansi(self) -> str:
        """The same text with a terminal's colours."""
        return self._lines("ansi")

    def _lines(self, form: str) -> str:
        changed = [f"  {getattr(change, form)}" for change in self.changes]
        return "\n".join([*self.reasons, *([self._heading] if self._heading else []), *changed, *self.notes])

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(self.ansi if sys.stdout.isatty() else str(self))

    def _repr_html_(self) -> str:
        lines = [f"<div>{html_text(reason)}</div>" for reason in self.reasons]
        if self._heading:
            lines.append(f"<div>{html_text(self._heading)}</div>")
        lines += [f'<div style="padding-left: 1em">{change.html}</div>' for change in self.changes]
        lines += [f"<div>{html_text(note)}</div>" for note in self.notes]
        return f"<div>{''.join(lines)}</div>"


class _Case(NamedTuple):
    """What is to be explained: an ask, its key, how it ended, and when it began."""

    key: str
    request: Request | None
    outcome: Outcome | None
    at_s: float


def why(cache: CompletionCache, subject: str | Completion | None = None, *, cell: str = "") -> Why:
    """Return why an ask was not served, and which stored request is nearest to it. Sends nothing.

    Args:
        cache: Where it was asked.
        subject: An answer, or how the key of one begins; None is the last ask that was not served.
        cell: The key of what the cell of that ask had asked before; empty is not known.

    Raises:
        OptionError: There is no such ask.
        StoreError: The cache can't be read.
    """
    cache.ledger.flush()
    case = _case(cache, subject)
    reasons, settled = [*_of_the_ask(case)], case.outcome is not None and case.outcome.kind in _ON_PURPOSE
    for reason, explains in _of_the_entry(cache, case):
        reasons.append(reason)
        settled = settled or explains
    if case.request is None or settled:
        return Why(case.key, reasons)
    notes = [
        f"changes by itself: {one.what} ({one_line(one.found, 60)})"
        for one in unstable(case.request.body, case.at_s)
    ]
    try:
        near = nearest(cache.database, case.request, own=case.key, cell=cell, before_s=case.at_s)
    except ImportError as exc:
        lacking = f"the nearest stored request can't be looked for: {one_line(str(exc), _WIDTH)}"
        return Why(case.key, [*reasons, lacking], None, (), notes)
    notes += told(cache, case.request)
    if near is None:
        return Why(case.key, [*reasons, "nothing that was stored before comes near it"], None, (), notes)
    changed = changes(near.request, without_media(case.request))
    age = format_age(cache.clock() - near.created_s)
    which = "what this cell asked before" if near.same_cell else "the nearest stored request"
    what = "from it differs" if changed else "only what is attached differs, or an order"
    return Why(
        case.key, reasons, near, changed, notes, f"{which} is {near.key[:_KEY_DIGITS]}, of {age}; {what}"
    )


_ON_PURPOSE: Final = ("refresh", "bypass")


def _case(cache: CompletionCache, subject: str | Completion | None) -> _Case:
    if isinstance(subject, Completion):
        outcome = subject.outcome
        at_s = outcome.answer.created_s - outcome.answer.elapsed_s
        return _Case(outcome.key.digest, subject.request, outcome, at_s)
    if subject is None:
        last = cache.last_unserved
        if last is None:
            raise OptionError(
                "nothing was asked in this session that the cache did not serve",
                "name a key, as %openrouter_entries shows them, or an answer",
            )
        ask, last_outcome, at_s = last
        request = ask.request if last_outcome is None else last_outcome.request or ask.request
        key = ask.key if last_outcome is None else last_outcome.key
        took_s = 0.0 if last_outcome is None else last_outcome.elapsed_s
        return _Case(key.digest, request, last_outcome, at_s - took_s)
    return _named(cache, subject)


def _named(cache: CompletionCache, prefix: str) -> _Case:
    prefix = prefix.strip().lower() if isinstance(prefix, str) else ""
    if not _SHORTEST_KEY <= len(prefix) <= _LONGEST_KEY or prefix.strip("0123456789abcdef"):
        raise OptionError(
            f"{one_line(prefix, 40) or 'this'} is neither an answer nor the beginning of a key",
            "give at least 4 hexadecimal digits, as %openrouter_entries shows them",
        )
    rows = cache.store.listing.find(EntryFilter(keys=(prefix,)), limit=2)
    keys = [row.key for row in rows] or cache.store.unserved_keys(prefix, 2)
    if len(keys) > 1:
        raise OptionError(f"several keys begin with {prefix}", "write more of its digits")
    if rows:
        return _Case(keys[0], cache.store.asked(keys[0]), None, rows[0].created_s)
    if keys or len(prefix) == _LONGEST_KEY:
        return _Case(keys[0] if keys else prefix, None, None, cache.clock())
    raise OptionError(
        f"no key that begins with {prefix} is stored", "one that was purged is found by all of its 64 digits"
    )


def _of_the_ask(case: _Case) -> Iterator[str]:
    """Yield why this ask made a call, and why its answer was not stored."""
    outcome = case.outcome
    if outcome is None:
        return
    if outcome.served:
        yield f"{case.key[:_KEY_DIGITS]} was served from the cache"
    elif outcome.why:
        yield f"{case.key[:_KEY_DIGITS]} was asked: {one_line(outcome.why, _WIDTH)}"
    if outcome.not_stored:
        yield f"its answer was not stored: {one_line(outcome.not_stored, _WIDTH)}"


def _of_the_entry(cache: CompletionCache, case: _Case) -> Iterator[tuple[str, bool]]:
    """Yield what the cache knows of a key, and whether that explains a miss by itself."""
    now_s, key, store = cache.clock(), case.key, cache.store
    entry = store.entry(key)
    short = key[:_KEY_DIGITS]
    if entry is not None and case.outcome is None:
        if why_not_served(entry, now_s) is not None:
            yield f"{short} is not served: it expired {format_age(now_s - (entry.expires_s or 0))}", True
        else:
            pinned = ", pinned" if store.is_pinned(key) else ""
            yield f"{short} is served: stored {format_age(now_s - entry.created_s)}{pinned}", False
    kept = store.unserved(key)
    for one in kept[:_FEW]:
        cost = format_usd(one.answer.cost.usd) if one.answer.cost.usd is not None else "cost unknown"
        told = f"{format_age(now_s - one.at_s)}: {one_line(one.reason, _WIDTH)} ({cost})"
        yield f"its answer {one.number} is not served, {told}", False
    if case.outcome is not None and (case.outcome.served or case.outcome.why != _NOT_STORED):
        return
    if entry is None or case.outcome is not None:
        yield from _of_purges(cache, case, any_kept=bool(kept))


_NOT_STORED: Final = "not stored yet"


def _of_purges(cache: CompletionCache, case: _Case, *, any_kept: bool) -> Iterator[tuple[str, bool]]:
    """Yield when an entry that is gone was bought, and who purged it."""
    now_s, short = cache.clock(), case.key[:_KEY_DIGITS]
    before_s = case.at_s if case.outcome is not None else now_s + 1
    bought_s = bought_at(cache.database, case.key, before_s)
    if bought_s is None:
        if case.outcome is None and not any_kept:
            yield f"{short} is not stored, and never was, as far as this cache knows", False
        return
    removed = [one for one in purges_of(cache.database, case.key, bought_s) if one.at_s <= before_s]
    sure = [one for one in removed if one.sure]
    for one in sure[:1] or removed[:_FEW]:
        who, what = one_line(one.who, 60), one_line(one.what, 80)
        verb = "was purged" if one.sure else "may have been purged"
        entries = format_count(one.entries, "entry", "entries")
        yield f"{short} {verb} {format_age(now_s - one.at_s)} by {who}: {what} ({entries})", one.sure
    if not removed:
        yield f"it was bought {format_age(now_s - bought_s)} too, and is not in this file any more", False
