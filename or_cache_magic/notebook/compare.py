"""``%%openrouter a b c``, ``-n N``: one prompt to several models, or for several samples, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.callbacks import Show
from or_cache_magic.core.units import ZERO_USD, format_count, format_duration, format_sum
from or_cache_magic.display.columns import Column, open_columns
from or_cache_magic.display.parts import parts_of
from or_cache_magic.display.screen import receipt_text
from or_cache_magic.errors import FormatError, OptionError, one_line
from or_cache_magic.money.budget import cost_of_error
from or_cache_magic.notebook.options import models_of
from or_cache_magic.notebook.session import keeps_result
from or_cache_magic.notebook.status import preview_lines
from or_cache_magic.tables.compare import Member, answers_frame, failure_of, prepare_all, run_all

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.core.settings import Ask
    from or_cache_magic.notebook.session import Session

_REASON_WIDTH = 300
_ALIKE = "at temperature 0 samples may be the same"


def ask_several(
    session: Session,
    options: SimpleNamespace,
    prepare: Callable[..., Ask],
    check: Callable[..., None],
) -> pd.DataFrame | None:
    """Ask all at the same time, show them, and bind their table.

    Args:
        session: What the magics share.
        options: Of the cell.
        prepare: Makes the ask of a ``model=`` and a ``sample=``.
        check: Raises `FormatError` for an answer that is not in a form, or does not fit its schema.

    Returns:
        The table where the caller goes on with it; None where it was shown.

    Raises:
        InputError: It can't be asked of one of them. Nothing was sent.
        OrCacheError: Some failed, once all are shown and bound; see `failure_of`.
    """
    cache, kept, settings = session.cache(), keeps_result(), session.settings()
    if options.cascade:
        raise OptionError("--cascade goes with one model; nothing was sent", "ask again one at a time")
    members = prepare_all(prepare, models_of(options, settings.aliases), options.sample)
    if options.dry_run:
        for line in preview_lines(cache, [member.ask for member in members], options.out):
            session.say(line)
        return None
    form: Any = options.format or settings.format
    if form == "auto" and members[0].ask.schema is not None:
        form = "data"
    _ask_and_show(session, options, members, "none" if kept else form)
    for member in members:
        _check(member, form, check)
    session.last = frame = _table(members, stable=settings.receipt == "stable")
    if options.out:
        session.shell.push({options.out: frame})
    for notice in cache.database.pop_notices():
        session.say(notice)
    if kept is False:
        session.deliver(frame)
    failure = failure_of(members)
    if failure is not None:
        raise failure
    return None if kept is False else frame


def _table(members: Sequence[Member], *, stable: bool) -> pd.DataFrame:
    """Return the table of the answers, which shows the same on every run where it is to."""
    frame = answers_frame(members)
    if not stable:
        return frame
    from or_cache_magic.display.frames import answered_frame

    return answered_frame(frame, _sum(members, stable=True), costs=["cost_usd"], hidden=["cached"])


def _ask_and_show(session: Session, options: SimpleNamespace, members: Sequence[Member], form: Any) -> None:
    """Ask, show the answers as they come, then the receipts; also of what had come before an interrupt."""
    receipt = session.settings().receipt
    columns = [Column(member.name) for member in members]
    screen = open_columns(
        session.shell,
        columns,
        form=form,
        receipts=not options.quiet and receipt != "off",
        updates=session.follows_updates,
    )
    streams = [member.ask.request.stream and not member.ask.repair for member in members]
    try:
        run_all(
            session.cache(),
            members,
            on_text=[c.pieces.append if s else None for c, s in zip(columns, streams, strict=True)],
            on_wait=[column.wait for column in columns],
            done=lambda at: _finish(columns[at], members[at]),
            tick=partial(Show(lambda _text: screen.tick()), ""),  # a display that fails ends no paid call
            max_cost_usd=options.max_cost_usd,
        )
    finally:
        for column in columns:
            if column.text is None:
                column.fail("interrupted")
        screen.finish()
        screen.receipts(_receipts(members, stable=receipt == "stable"))


def _finish(column: Column, member: Member) -> None:
    """Have it shown what an ask has come to."""
    if member.failure is not None:
        hint = member.failure.hint
        column.fail(f"failed: {member.failure.args[0]}" + (f"; {hint}" if hint else ""))
    elif member.completion is not None:
        answer, request = member.completion.outcome.answer, member.completion.request
        column.finish(str(member.completion), parts_of(answer, request.body))


def _check(member: Member, form: str, check: Callable[..., None]) -> None:
    if member.completion is not None:
        try:
            check(member.completion, form, has_schema=member.ask.schema is not None)
        except FormatError as exc:
            member.failure = exc


def _receipts(members: Sequence[Member], *, stable: bool) -> list[str]:
    """Return a line for each, and one for all together."""
    return [*(_receipt(member, stable=stable) for member in members), _sum(members, stable=stable)]


def _receipt(member: Member, *, stable: bool) -> str:
    if member.completion is None:
        failure = member.failure
        why = "interrupted" if failure is None else f"failed: {one_line(str(failure.args[0]), _REASON_WIDTH)}"
        return f"{one_line(member.name, _REASON_WIDTH)} · {why}"
    line = receipt_text(
        member.completion.outcome,
        style="stable" if stable else "live",
        now_s=time.time(),
        asked=member.model,
        attached=_attached(member.ask),
    )
    sample = member.name[len(member.model) :]
    head, dot, rest = line.partition(" · ")
    return f"{head}{sample}{dot}{rest}"


def _attached(ask: Ask) -> str:
    if not ask.attached:
        return ""
    from or_cache_magic.core.media import attached_text

    return attached_text(ask.attached)


def _sum(members: Sequence[Member], *, stable: bool) -> str:
    """One line: ``6 answers · 4 cached, saved $0.0021 · 2 bought for $0.0011 · 1 failed · 2.4 s``."""
    there = [member.completion.outcome for member in members if member.completion is not None]
    waited = [outcome for outcome in there if outcome.kind == "coalesced"]
    served = [outcome for outcome in there if not outcome.made_call and outcome not in waited]
    saving = [outcome.saved_usd for outcome in served if outcome.kind not in ("replay", "stale")]
    called = [outcome for outcome in there if outcome.made_call]
    failed = sum(member.failure is not None for member in members)
    lost = [cost_of_error(member.failure).usd for member in members if member.failure is not None]
    warm = members[0].ask.request.body.get("temperature")
    parts = [format_count(len(there), "answer")]
    if stable:
        parts.append(f"bought for {_total([outcome.answer.cost.usd for outcome in there])}")
    else:
        parts += [
            f"{len(served):,} cached" + (f", saved {_total(saving)}" if saving else "") if served else "",
            f"{len(waited):,} waited for" if waited else "",
            f"{len(called):,} bought for {_total([o.paid.usd for o in called])}" if called else "",
            f"{failed:,} failed" + (f", at {_total(lost)}" if any(usd != ZERO_USD for usd in lost) else "")
            if failed
            else "",
            format_duration(max(o.elapsed_s for o in called)) if called else "",
        ]
    several = len({member.ask.request.sample for member in members}) > 1
    parts.append(_ALIKE if several and warm == 0 and warm is not False else "")
    return " · ".join(filter(None, parts))


def _total(amounts: Sequence[Any]) -> str:
    known = [usd for usd in amounts if usd is not None]
    return format_sum(sum(known, ZERO_USD), unpriced=len(amounts) - len(known))
