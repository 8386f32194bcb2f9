"""How rows of the ledger are grouped: what SQL groups by, and what its groups are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.errors import OptionError
from or_cache_magic.storage.columns import LABEL, TEXT, check_row
from or_cache_magic.storage.tags import join_tags, split_tags

if TYPE_CHECKING:
    from or_cache_magic.core.records import LedgerRow

__all__ = ["Grouping", "group_by", "group_by_time"]


class Grouping(NamedTuple):
    """A way to group rows.

    Attributes:
        sql: What SQL groups by.
        value: The same, of a row that is not written yet.
        names: The groups of such a value; raises `StoreCorruptError` for one that no row of ours has.
        by_time: Whether groups are of time.
    """

    sql: str
    value: Callable[[LedgerRow], Any]
    names: Callable[[Any], Sequence[Any]]
    by_time: bool = False


def group_by(by: str) -> Grouping:
    """The grouping of that name.

    Raises:
        OptionError: There is none.
    """
    if by == "day":
        from or_cache_magic.storage.days import day_name, local_calendar

        calendar = local_calendar()
        return Grouping(
            calendar.day_sql, lambda row: calendar.day(row.at_s), lambda day: (day_name(day),), True
        )
    if by not in _BY_TEXT:
        known = ", ".join(filter(None, [*_BY_TEXT, "day"]))
        raise OptionError(f"Totals can't be grouped by {by!r}.", f"Choose from: {known}.")
    return _BY_TEXT[by]


def group_by_time(*, hours: bool) -> Grouping:
    """By local day, or by hour; the groups are `days.Span`."""
    from or_cache_magic.storage.days import day_span, local_calendar

    calendar = local_calendar()
    if hours:
        return Grouping(
            calendar.hour_sql,
            lambda row: calendar.hour(row.at_s),
            lambda hour: (calendar.hour_span(hour),),
            True,
        )
    return Grouping(calendar.day_sql, lambda row: calendar.day(row.at_s), lambda day: (day_span(day),), True)


def _text(value: Any) -> tuple[str]:
    check_row("a row of the ledger", (TEXT,), (value,))
    return (value,)


def _tags(value: Any) -> tuple[str, ...]:
    check_row("a row of the ledger", (LABEL,), (value,))
    return split_tags(value) or ("",)


_BY_TEXT: Final = {
    # An index has them in the order of models; their sums are added up afterwards.
    "": Grouping("model", lambda row: row.model, lambda _model: ("",)),
    "model": Grouping("model", lambda row: row.model, _text),
    "notebook": Grouping("notebook", lambda row: row.notebook, _text),
    "tag": Grouping("tags", lambda row: join_tags(row.tags), _tags),
}
