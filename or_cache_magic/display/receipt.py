"""The receipt: one line on what happened to an ask and what it cost. Text only; the screens show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from or_cache_magic.core.units import format_age, format_duration, format_tokens, format_usd
from or_cache_magic.display.escape import one_line

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.core.records import Answer, Outcome

__all__ = ["ReceiptStyle", "receipt_text"]

ReceiptStyle = Literal["live", "stable"]
"""``live`` says what happened now; ``stable`` says the same on every run."""

_NAME_WIDTH: Final = 120
_REASON_WIDTH: Final = 300

_SERVED: Final = {
    "hit": "cached",
    "shared": "cached by the team",
    "replay": "replayed offline, cached",
    "stale": "expired answer, cached",
}
_CALLED: Final = {"refresh": "asked again", "bypass": "completion cache not used", "failed": "failed"}


def receipt_text(outcome: Outcome, *, style: ReceiptStyle = "live", now_s: float, asked: str = "") -> str:
    """Return the receipt as one line of plain text.

    What comes from the network (model names, reasons) is put on one line, cut, and freed of control
    characters.

    Args:
        outcome: Of the ask.
        style: ``stable`` names the model, what the answer cost when it was bought, and its tokens:
            the same for a hit and a miss, on any day.
        now_s: UTC epoch seconds, for ages.
        asked: The model that was asked for; empty when not known. The served one is named when it
            is another.
    """
    answer, live = outcome.answer, style == "live"
    served = one_line(answer.model or "", _NAME_WIDTH)
    model = one_line(asked, _NAME_WIDTH) if asked and asked != answer.model else served
    parts = [f"{model} (served: {served})" if served and served != model else model or "unknown model"]
    parts += _events(outcome, now_s) if live else [_cost(answer.cost.usd)]
    usage = answer.usage
    if usage is not None and (usage.prompt_tokens, usage.completion_tokens) != (None, None):
        parts.append(f"{format_tokens(usage.prompt_tokens, usage.completion_tokens)} tokens")
    if live and outcome.made_call:
        parts.append(_prompt_caching(answer))
    if outcome.not_stored:
        why = one_line(outcome.not_stored, _REASON_WIDTH)
        parts.append(f"not stored ({why})" if why.startswith("--") else f"not stored: {why}")
    if live:
        for note in outcome.notes:
            parts.append(one_line(note, _REASON_WIDTH))
    elif answer.finish_reason == "length":
        parts.append("truncated")
    return " · ".join(filter(None, parts))


def _events(outcome: Outcome, now_s: float) -> list[str]:
    """What happened to this ask, and its money."""
    kind, kept_s = outcome.kind, outcome.entry_created_s
    if kind in _SERVED:
        served = _SERVED[kind] if kept_s is None else f"{_SERVED[kind]} {format_age(now_s - kept_s)}"
        if kind not in ("hit", "shared"):
            return [served]
        saved_usd = outcome.saved_usd
        return [served, "saving unknown" if saved_usd is None else f"saved {format_usd(saved_usd)}"]
    took = format_duration(outcome.elapsed_s)
    if kind == "coalesced":
        return ["waited for the same ask", took]
    # That it was never asked before needs no saying; that a stored answer was of no use does.
    useless = kind == "miss" and outcome.why not in ("", "not stored yet")
    why = f"asked: {one_line(outcome.why, _REASON_WIDTH)}" if useless else ""
    return [_CALLED.get(kind, ""), why, _cost(outcome.paid.usd), took]


def _cost(usd: Decimal | None) -> str:
    return "cost unknown" if usd is None else format_usd(usd)


def _prompt_caching(answer: Answer) -> str:
    """What a call read of the provider's prompt caching and wrote to it, and what that did to its price."""
    usage, usd = answer.usage, answer.prompt_cache_saved_usd
    if usage is None:
        return ""
    counts = (("read", usage.cached_tokens), ("wrote", usage.cache_write_tokens))
    did = " and ".join(f"{verb} {count:,}" for verb, count in counts if count)
    if not did:
        return ""
    worth = "" if not usd else f", {format_usd(-usd)} more" if usd < 0 else f", {format_usd(usd)} less"
    return f"prompt caching: {did} tokens{worth}"
