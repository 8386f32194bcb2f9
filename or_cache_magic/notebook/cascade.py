"""``--refresh`` and ``--cascade``: what becomes of the replies to an answer that changes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from or_cache_magic.cache.replies import Again, Asked, Turn, ask_again, outdated, replies_to
from or_cache_magic.core.units import ZERO_USD, format_count, format_usd
from or_cache_magic.errors import OptionError, StoreError
from or_cache_magic.money.budget import BudgetTracker, Limit
from or_cache_magic.notebook.session import confirmed

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.notebook.session import Session

_HOW = "--cascade asks what replies to an answer again, and what replies to that"


class Cascade:
    """The replies below the answer of one cell.

    Args:
        session: What the magics share.
        options: Of the cell.
        ask: What it asks.

    Raises:
        OptionError: It is to be asked again, and the mode is one that asks nothing or keeps nothing.
    """

    def __init__(self, session: Session, options: SimpleNamespace, ask: Ask) -> None:
        if options.cascade and ask.policy.mode in ("offline", "bypass"):
            raise OptionError(
                f"--cascade does not go with the mode {ask.policy.mode}; nothing was sent", _HOW
            )
        self._session = session
        self._options = options
        self._ask = ask
        self._turns = _replies(session.cache(), ask)
        #: What the cell and its replies may cost together.
        self.limits: Sequence[Limit] = ()
        if options.cascade and options.max_cost_usd is not None:
            self.limits = (Limit("--max-cost", options.max_cost_usd, BudgetTracker()),)

    def approved(self) -> bool:
        """Say what asking the replies again may cost, and return whether to go on.

        Raises:
            OptionError: Nobody can be asked. Nothing was sent.
        """
        if not self._options.cascade:
            return True
        cache, ask = self._session.cache(), self._ask
        asked_upstream = cache.engine.why_asked(ask) is not None
        entry = None if asked_upstream else cache.store.get(ask.key)
        now = None if entry is None else Asked(ask.key.digest, ask.request, entry.answer)
        turns = outdated(cache, self._turns, now, ask.settings)
        count = format_count(len(turns), "reply", "replies")
        if not turns:
            self._session.say("--cascade: no reply goes on from an earlier answer")
            return True
        dry = " · nothing sent" if self._options.dry_run else ""
        self._session.say(f"--cascade: {count} to ask again · {_cost_line(cache, turns, ask)}{dry}")
        if self._options.dry_run or self._options.yes:
            return True
        if confirmed(f"Ask {count} again? [y/N] ", "nothing was sent"):
            return True
        self._session.say("nothing was sent")
        return False

    def finish(self) -> None:
        """Ask the replies again, where that was wanted, and say what it came to; else say how many there are.

        Raises:
            BudgetError: A limit is reached. What was bought is kept, and ``--cascade`` alone goes on.
        """
        completion = self._session.last
        if not isinstance(completion, str) or not self._turns:  # after several models it is a table
            return
        if not completion.outcome.stored:
            if self._options.cascade:
                self._session.say("--cascade: no reply was asked again, since the answer is not stored")
            return
        cache, settings = self._session.cache(), self._ask.settings
        now = Asked(completion.key, completion.request, completion.outcome.answer)
        if self._options.cascade:
            self._ask_again(cache, now)
        elif not self._options.quiet and (turns := outdated(cache, self._turns, now, settings)):
            hang = "reply goes" if len(turns) == 1 else "replies go"
            self._session.say(f"{len(turns):,} {hang} on from an earlier answer: --cascade asks again")

    def _ask_again(self, cache: CompletionCache, now: Asked) -> None:
        came: list[Again] = []
        try:
            asked = ask_again(
                cache,
                self._turns,
                now,
                self._ask.settings,
                prompt_cache=self._ask.request.prompt_cache,
                limits=self.limits,
            )
            for one in asked:
                came.append(one)  # noqa: PERF402 - what came is told, also where the next one fails
        finally:
            self._session.say(_came_line(came))


def _replies(cache: CompletionCache, ask: Ask) -> tuple[Turn, ...]:
    try:
        return replies_to(cache.store, ask)
    except StoreError:
        return ()  # said where the answer is looked up


def _cost_line(cache: CompletionCache, turns: Sequence[Turn], ask: Ask) -> str:
    """Say what asking these may cost, by the prompts that they had."""
    found = [
        cache.money.estimate(turn.request._replace(prompt_cache=ask.request.prompt_cache), ask.settings)
        for turn in turns
    ]
    low_usd = sum((one.low_usd for one in found if one.low_usd is not None), ZERO_USD)
    unknown = next((one.unknown_why for one in found if one.high_usd is None), None)
    if unknown is not None:
        return f"at least {format_usd(low_usd)}, upper cost unknown: {unknown}"
    high_usd = sum((one.high_usd for one in found if one.high_usd is not None), ZERO_USD)
    return f"{format_usd(low_usd)} to {format_usd(high_usd)}"


def _came_line(came: Sequence[Again]) -> str:
    bought, cached = sum(one.bought for one in came), sum(one.cached for one in came)
    known = [one.paid.usd for one in came if one.paid.usd is not None]
    unpriced = len(came) - len(known)
    failures = [failure for one in came for failure in one.failures]
    parts = [
        f"--cascade: {format_count(bought, 'reply', 'replies')} asked again",
        f"{'≥ ' * bool(unpriced)}{format_usd(sum(known, ZERO_USD))}",
        *([f"{cached:,} cached"] if cached else []),
        *([f"{len(failures):,} failed: {failures[0]}"] if failures else []),
        *(["run their cells again: they are kept"] if bought else []),
    ]
    return " · ".join(parts)
