"""Whether a row holds what its table says: SQLite lets any column hold anything, and files get damaged."""

from __future__ import annotations

from operator import contains
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.errors import StoreCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ANY", "COUNT", "INTEGER", "LABEL", "MAYBE_TIME", "REAL", "TEXT", "TIME", "check_row"]

_NONE: Final = type(None)

ANY: Final[frozenset[type]] = frozenset({str, bytes, int, float, _NONE})
TEXT: Final[frozenset[type]] = frozenset({str})
LABEL: Final[frozenset[type]] = frozenset({str, _NONE})
INTEGER: Final[frozenset[type]] = frozenset({int})
COUNT: Final[frozenset[type]] = frozenset({int, _NONE})
REAL: Final[frozenset[type]] = frozenset({float})
TIME: Final[frozenset[type]] = frozenset({float})
MAYBE_TIME: Final[frozenset[type]] = frozenset({float, _NONE})

_LATEST_S: Final = 9e9
"""In the year 2255, about as far as tables count (64 bits of nanoseconds)."""


def check_row(what: str, allowed: Sequence[frozenset[type]], columns: Sequence[Any], *times_s: Any) -> None:
    """Does nothing for a row whose columns are of the types that are allowed there.

    Args:
        what: What the row is, for the message (``"an entry"``).
        allowed: A set of types for each column.
        columns: The row.
        *times_s: Those of the columns that tell when something was; they must be times.

    Raises:
        StoreCorruptError: A column is of another type, or a time is none.
    """
    if not _is_sound(allowed, columns, times_s):
        raise StoreCorruptError(
            f"The completion cache holds {what} that is damaged, or that this package did not write.",
            "If cache.db came from someone else, delete it; else restore it from a copy.",
        )


def _is_sound(allowed: Sequence[frozenset[type]], columns: Sequence[Any], times_s: Sequence[Any]) -> bool:
    # A page of entries has a thousand columns: `map` takes a third of the time of a loop.
    if len(columns) != len(allowed) or not all(map(contains, allowed, map(type, columns))):
        return False
    for time_s in times_s:  # noqa: SIM110 - nor is a generator made for two times
        if time_s is not None and not -_LATEST_S < time_s < _LATEST_S:
            return False
    return True
