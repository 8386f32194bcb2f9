"""What users should know of models that entries were bought of: one has moved, goes, or has another price.

Pure. It is known from the list of models that is kept, and said of entries that are there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Final, NamedTuple

from or_cache_magic.core.units import format_count, format_usd
from or_cache_magic.money.listings import ModelListing, Name
from or_cache_magic.money.model_list import ModelList, usd_per_m

_MOST: Final = 6
"""Lines: more are news to nobody."""


class Bought(NamedTuple):
    """Entries that were asked of one model.

    Attributes:
        served: The model that answered; empty is unknown.
        entries: How many there are.
        before: How many of them were bought at the price that its listing was at before (`ModelListing.was`).
    """

    served: str
    entries: int
    before: int = 0


def of_interest(every: ModelList, asked: Iterable[str]) -> dict[str, ModelListing]:
    """Return the listings, by the names that were asked, of models of which there may be something to say."""
    by_id = {model.id: model for model in every.listed}
    found = {name: by_id.get(name) or by_id.get(Name.of(name).base) for name in asked}
    return {
        name: model
        for name, model in found.items()
        if model is not None and (model.alias_target or model.expires or model.was)
    }


def notices(every: ModelList, bought: Mapping[str, Sequence[Bought]], now_s: float) -> list[str]:
    """Return a line for each thing to know, the most entries first.

    Args:
        every: The list that is kept.
        bought: The entries of models that are `of_interest`, by the name that was asked.
        now_s: UTC epoch seconds.
    """
    listings = of_interest(every, bought)
    slugs = {model.id: {model.id, model.canonical_slug} for model in every.listed}
    lines: list[tuple[int, str]] = []
    for name, model in listings.items():
        lines += _moved(name, model, slugs, bought[name])
        lines += _expires(name, model, sum(one.entries for one in bought[name]), now_s)
        lines += _changed(name, model, sum(one.before for one in bought[name]))
    lines.sort(key=lambda line: -line[0])
    more = len(lines) - _MOST
    return [line for _, line in lines[:_MOST]] + ([f"… and {more:,} more about models."] if more > 0 else [])


def _moved(
    name: str, model: ModelListing, slugs: Mapping[str, set[str]], bought: Sequence[Bought]
) -> Iterator[tuple[int, str]]:
    target = model.alias_target
    for one in bought if target else ():
        if one.served and one.served not in slugs.get(target, {target}):
            entries = format_count(one.entries, "entry is", "entries are")
            yield one.entries, f"{name} stands for {target} now; {entries} of {one.served}."


def _expires(name: str, model: ModelListing, count: int, now_s: float) -> Iterator[tuple[int, str]]:
    if model.expires and count:
        days = (date.fromisoformat(model.expires) - datetime.fromtimestamp(now_s, timezone.utc).date()).days
        when = (
            f"expires on {model.expires}, in {format_count(days, 'day')}"
            if days > 0
            else f"expired on {model.expires}"
        )
        entries = format_count(count, "entry", "entries")
        yield count, f"{name} {when}: {entries} of it may be the last."  # it "may be removed" then


def _changed(name: str, model: ModelListing, count: int) -> Iterator[tuple[int, str]]:
    if model.was is None or not count:
        return
    then = usd_per_m(model._replace(price=model.was))
    kinds = zip(("prompt", "answer"), then, usd_per_m(model), strict=True)
    changes = [
        f"{format_usd(now)} for a million tokens of {kind} ({_by(was, now)}{format_usd(was)})"
        for kind, was, now in kinds
        if was is not None and now is not None and was != now
    ]
    if changes:
        day = time.strftime("%Y-%m-%d", time.gmtime(model.was_until_s))
        entries = format_count(count, "entry was", "entries were")
        yield count, f"{name} costs {' and '.join(changes)} since {day} or later; {entries} bought before."


def _by(was: Decimal, now: Decimal) -> str:
    """Return by how much a price changed: ``+20% from``; of what was free there is no share."""
    return f"{(now - was) / was:+.0%} from " if was else "from "
