"""The receipt: one line on what an ask came to and what it cost. Text only; the screens show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from or_cache_magic.core.units import format_usd
from or_cache_magic.display.escape import escape_markdown, one_line

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.core.records import Outcome, Usage

__all__ = [
    "ReceiptStyle",
    "format_age",
    "format_duration",
    "format_tokens",
    "format_usd",
    "receipt_markdown",
    "receipt_text",
]

ReceiptStyle = Literal["live", "stable"]
"""``live`` tells what happened now; ``stable`` says the same on every run."""

_NAME_WIDTH: Final = 120
_REASON_WIDTH: Final = 300
_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S
_DAY_S: Final = 24 * _HOUR_S
_YEAR_D: Final = 365


def receipt_text(outcome: Outcome, *, style: ReceiptStyle = "live", now_s: float, asked: str = "") -> str:
    """Returns the receipt as one line of plain text.

    What comes from the network (model names, reasons) is put on one line, cut, and freed of control
    characters; for Markdown use `receipt_markdown`.

    Args:
        outcome: What the ask came to.
        style: ``stable`` names the model, what the answer cost when it was bought, and its tokens:
            the same for a hit and a miss, on any day.
        now_s: UTC epoch seconds, for ages.
        asked: The model that was asked for; empty when not known. The served one is named when it
            is another.
    """
    parts = [_model(asked, outcome.answer.model)]
    parts += _events(outcome, now_s) if style == "live" else [_cost(outcome.answer.cost.usd)]
    parts.append(format_tokens(outcome.answer.usage))
    if style == "live":
        parts.append(_prompt_caching(outcome))
    if reason := one_line(outcome.not_stored, _REASON_WIDTH):
        parts.append(f"not stored ({reason})" if reason.startswith("--") else f"not stored: {reason}")
    if style == "live":
        parts += [one_line(note, _REASON_WIDTH) for note in outcome.notes]
    elif outcome.answer.finish_reason == "length":
        parts.append("truncated")
    return " · ".join(part for part in parts if part)


def receipt_markdown(text: str) -> str:
    """Returns a receipt as one line of Markdown that shows it letter for letter."""
    return f"*{escape_markdown(text)}*"


def format_age(age_s: float) -> str:
    """Returns how long ago something was: ``just now``, ``5 min ago``, ``3 h ago``, ``2 d ago``."""
    if age_s < _MINUTE_S:
        return "just now"
    if age_s < _HOUR_S:
        return f"{int(age_s // _MINUTE_S)} min ago"
    if age_s < _DAY_S:
        return f"{int(age_s // _HOUR_S)} h ago"
    days = int(age_s // _DAY_S)
    return f"{days} d ago" if days < 2 * _YEAR_D else f"{days // _YEAR_D} y ago"


def format_duration(elapsed_s: float) -> str:
    """Returns a length of time: ``0.04 s``, ``2.4 s``, ``3 min 20 s``."""
    if elapsed_s < 0.1:  # noqa: PLR2004 - one digit more, where one says nothing
        return f"{max(elapsed_s, 0):.2f} s"
    if round(elapsed_s, 1) < _MINUTE_S:
        return f"{elapsed_s:.1f} s"
    minutes, seconds = divmod(round(elapsed_s), _MINUTE_S)
    return f"{minutes} min {seconds} s"


def format_tokens(usage: Usage | None) -> str:
    """Returns ``1,312 → 187 tokens``; ``?`` for what was not reported, and nothing when neither was."""
    if usage is None or (usage.prompt_tokens is None and usage.completion_tokens is None):
        return ""
    prompt, completion = (
        "?" if n is None else f"{n:,}" for n in (usage.prompt_tokens, usage.completion_tokens)
    )
    return f"{prompt} → {completion} tokens"


def _model(asked: str, served: str | None) -> str:
    name, other = one_line(asked, _NAME_WIDTH), one_line(served or "", _NAME_WIDTH)
    if name and other and name != other:
        return f"{name} (served: {other})"
    return name or other or "unknown model"


def _cost(usd: Decimal | None) -> str:
    return "cost unknown" if usd is None else format_usd(usd)


def _saved(outcome: Outcome) -> str:
    return "saving unknown" if outcome.saved_usd is None else f"saved {format_usd(outcome.saved_usd)}"


def _prompt_caching(outcome: Outcome) -> str:
    """What a call read of the provider's prompt caching and wrote to it, and what that did to its price."""
    usage = outcome.answer.usage
    if usage is None or outcome.kind not in ("miss", "refresh", "bypass"):
        return ""
    counts = (("read", usage.cached_tokens), ("wrote", usage.cache_write_tokens))
    did = " and ".join(f"{verb} {count:,}" for verb, count in counts if count)
    if not did:
        return ""
    usd = outcome.answer.prompt_cache_saved_usd
    worth = "" if not usd else f", {format_usd(-usd)} more" if usd < 0 else f", {format_usd(usd)} less"
    return f"prompt caching: {did} tokens{worth}"


def _events(outcome: Outcome, now_s: float) -> list[str]:
    """What happened to this ask, and its money."""
    kept_s = outcome.entry_created_s
    age = "" if kept_s is None else f" {format_age(now_s - kept_s)}"
    if outcome.kind == "hit":
        return [f"cached{age}", _saved(outcome)]
    if outcome.kind == "shared":
        return [f"cached by the team{age}", _saved(outcome)]
    if outcome.kind == "replay":
        return [f"replayed offline, cached{age}"]
    if outcome.kind == "stale":
        return [f"expired answer, cached{age}"]
    took = format_duration(outcome.elapsed_s)
    if outcome.kind == "coalesced":
        return ["waited for the same ask", took]
    said = {"refresh": "asked again", "bypass": "completion cache not used", "failed": "failed"}
    # That it was never asked before needs no saying; that a stored answer was of no use does.
    useless = outcome.kind == "miss" and outcome.why not in ("", "not stored yet")
    why = f"asked: {one_line(outcome.why, _REASON_WIDTH)}" if useless else ""
    return [said.get(outcome.kind, ""), why, _cost(outcome.paid.usd), took]
