"""What an ask came to, said in other words: as a follower has it, as a failure is told, offline."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from or_cache_magic.core.cost import FREE
from or_cache_magic.core.policy import notes_on, why_not_stored
from or_cache_magic.core.records import Answer, Entry, Outcome, Request, RequestKey
from or_cache_magic.errors import CacheMissError, StreamBrokenError, UpstreamError

__all__ = [
    "broken",
    "coalesced",
    "coalesced_unserved",
    "is_whole",
    "notes_on_call",
    "offline_miss",
    "stale",
]

_ZERO: Final = Decimal(0)


def is_whole(answer: Answer) -> bool:
    """Whether a reply is an answer, though perhaps not one to be served again."""
    return answer.error is None and answer.complete and bool(answer.choices)


def notes_on_call(request: Request, answer: Answer) -> tuple[str, ...]:
    """What the receipt of a call says: `notes_on` it, and why nothing was marked for prompt caching."""
    notes = notes_on(request, answer)
    if not request.prompt_cache:
        return notes
    from or_cache_magic.openrouter.prompt_caching import marked  # few ask for it

    marks = marked(request.body, request.prompt_cache)
    shorter = marks.marks and marks.ttl != request.prompt_cache
    why = marks.why_not or ("kept for 5 minutes; only Anthropic keeps an hour" if shorter else "")
    return (*notes, f"prompt caching: {why}") if why else notes


def coalesced(outcome: Outcome) -> Outcome:
    """A flight's outcome as one who waited for it has it."""
    if outcome.kind in ("hit", "team", "replay", "stale"):
        return outcome
    return outcome._replace(kind="coalesced", paid=FREE, saved_usd=outcome.answer.cost.usd)


def coalesced_unserved(key: RequestKey, request: Request, kept: Answer) -> Outcome | None:
    """The outcome of waiting for an answer that was set aside, being whole; None when it is none to show."""
    refusal = why_not_stored(request, kept)
    if refusal is None or not is_whole(kept):
        return None
    notes = notes_on(request, kept)
    return coalesced(Outcome("miss", key, kept, not_stored=refusal, notes=notes))


def stale(key: RequestKey, request: Request, entry: Entry, failure: UpstreamError) -> Outcome:
    """The outcome of an expired entry that is served because the call failed."""
    note = f"the call failed: {failure.status or 'no connection'}"
    return Outcome(
        "stale",
        key,
        entry.answer,
        stored=True,
        notes=(*notes_on(request, entry.answer), note),
        entry_created_s=entry.created_s,
        paid=FREE,
        saved_usd=_ZERO,
    )


def offline_miss(key: RequestKey, why: str) -> CacheMissError:
    """The error for an ask that may not be sent; `why` is why nothing is served."""
    return CacheMissError(
        f"offline, and no answer to serve for {key.digest[:10]}: {why} (nothing was sent)",
        "run it once with a key and without --offline (or with OR_CACHE_MODE=normal)",
        key=key.digest,
    )


def broken(answer: Answer, *, kept: bool) -> StreamBrokenError:
    """The error for a reply that is no whole answer; `kept` is whether what came of it is in the cache."""
    usd = answer.cost.usd
    cost = "its cost is not known yet" if usd is None else f"it cost ${usd:f}" if usd else "nothing was paid"
    reason = str((answer.error or {}).get("message") or "the stream ended early")
    partial = "; what had arrived is kept in the cache as a partial, and never served" if kept else ""
    return StreamBrokenError(
        f"the answer broke off: {' '.join(reason.split())[:200]} ({cost})",
        f"run the cell again{partial}",
        partial_text=answer.text,
        generation_id=answer.generation_id,
        cost_usd=answer.cost.usd,
        body=answer.error,
    )
