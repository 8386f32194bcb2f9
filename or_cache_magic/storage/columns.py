"""Values as columns and back, and the check that a row holds what its table says.

SQLite lets any column hold anything, and files get damaged.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from operator import contains
from typing import TYPE_CHECKING, Any, Final, overload

from or_cache_magic.core.key import system_digest
from or_cache_magic.core.records import OPENROUTER_URL, SOURCES, NamedTuple, Request
from or_cache_magic.errors import StoreCorruptError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence


REQUEST_COLUMNS: Final = "sample, stream, base_url"
"""What of a request is in its row beside the body."""


_BEYOND: Final = 1 << 63  # SQLite's integers have 64 bits


def as_columns(values: Iterable[Any]) -> list[Any]:
    """Return values as SQLite takes them, whatever they are: one that can't be written loses no row.

    Half of a surrogate pair, in a name or a path, is U+FFFD; a number beyond 64 bits is NULL, and unknown.
    """
    return [_as_column(value) for value in values]


def _as_column(value: Any) -> Any:
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return None if isinstance(value, int) and not -_BEYOND <= value < _BEYOND else value


def request_columns(request: Request) -> list[Any]:
    """Return the values of `REQUEST_COLUMNS`; OpenRouter's base URL is NULL."""
    base_url = request.base_url.removesuffix("/")
    kept_url = None if base_url == OPENROUTER_URL else base_url
    return as_columns((request.sample, int(request.stream), kept_url))


def system_id(text: str) -> bytes:
    """Return how the index finds a system prompt, whole and exact: 16 bytes of its digest."""
    return bytes.fromhex(system_digest(text))[:16]


# What is worth more by now than when it was served was settled meanwhile: a reported cost never was unknown.
_ADD = """
UPDATE or_entry
SET hits = hits + ?, last_hit = max(coalesce(last_hit, ?), ?),
    saved = saved + ? + ? * CASE cost_source WHEN 'reported' THEN 0 ELSE coalesce(cost, 0) END
WHERE id = (SELECT rowid FROM Cache WHERE key = ? AND raw = 1)
"""


class HitCount(NamedTuple):
    """Hits of one entry that are not yet in the index.

    Attributes:
        hits: How many avoided a call.
        last_s: When the last one was.
        saved_pico: What they saved, in pico-dollars; hits of unknown price add nothing.
        unpriced: How many of them were of unknown price.
    """

    hits: int
    last_s: float
    saved_pico: int
    unpriced: int = 0


def add_hits(connection: sqlite3.Connection, counts: Iterable[tuple[str, HitCount]]) -> None:
    """Add hits to the entries of these digests; a digest that is not stored any more is skipped.

    Those of unknown price have the entry's, where it was settled since (`DiskStore.settle`).
    """
    connection.executemany(
        _ADD,
        (
            (c.hits, c.last_s, c.last_s, min(c.saved_pico, _BEYOND - 1), c.unpriced, digest)
            for digest, c in counts
        ),
    )


_END: Final = "\x1f"  # ASCII's unit separator: nobody types it in a label


def join_tags(tags: Sequence[str]) -> str | None:
    """Return labels as a column's text; None when there are none."""
    return f"{_END}{_END.join(tags)}{_END}" if tags else None


def split_tags(column: str | None) -> tuple[str, ...]:
    """Return the labels of `join_tags`."""
    return tuple(column[1:-1].split(_END)) if column else ()


def tag_mark(tag: str) -> str:
    """Return what a column of `join_tags` contains exactly when this label is one of its own."""
    return f"{_END}{tag}{_END}"


# The caller's decimal context may round or trap; ours never loses a digit of a 64-bit sum.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PICO_DIGITS = 12
_PICO: Final = 10**_PICO_DIGITS


@overload
def to_pico(usd: Decimal) -> int: ...
@overload
def to_pico(usd: None) -> None: ...
def to_pico(usd: Decimal | None) -> int | None:
    """Return an amount of US dollars as integer pico-dollars; None (unknown) stays None.

    Raises:
        ValueError: The amount is NaN or infinite.
    """
    if usd is None:
        return None
    if not usd.is_finite():
        raise ValueError(f"{usd} is not an amount of money")
    return int(usd.scaleb(_PICO_DIGITS, _EXACT).to_integral_value(context=_EXACT))


@overload
def from_pico(pico: int) -> Decimal: ...
@overload
def from_pico(pico: None) -> None: ...
def from_pico(pico: int | None) -> Decimal | None:
    """Return integer pico-dollars as US dollars without trailing zeros; None (unknown) stays None."""
    if pico is None:
        return None
    whole, part = divmod(pico, _PICO)
    # normalize() would write ten dollars as 1E+1; people read 10.
    return Decimal(pico).scaleb(-_PICO_DIGITS, _EXACT).normalize(_EXACT) if part else Decimal(whole)


_TYPES: Final[Mapping[str, set[type]]] = {
    "str": {str},
    "bytes": {bytes},
    "int": {int},
    "float": {float},
    "any": {str, bytes, int, float},
}

_LATEST_S: Final = 9e9
"""In the year 2255, about as far as tables count (64 bits of nanoseconds)."""


def column_types(names: str) -> tuple[frozenset[type], ...]:
    """Return the types that a row's columns may have, for `check_row`.

    Args:
        names: A name for each column, with ``?`` behind it where the column may be NULL: ``"int str?"``.
    """
    return tuple(
        frozenset(_TYPES[name.removesuffix("?")] | ({type(None)} if name.endswith("?") else set()))
        for name in names.split()
    )


def check_row(
    what: str,
    allowed: Sequence[frozenset[type]],
    columns: Sequence[Any],
    *times_s: Any,
    amounts: Sequence[int | None] = (),
    sources: Sequence[str] = (),
) -> None:
    """Do nothing for a row whose columns are of the types that are allowed there, and can be true.

    Args:
        what: What the row is, for the message (``"an entry"``).
        allowed: The `column_types`.
        columns: The row.
        *times_s: Those of the columns that tell when something was; they must be times.
        amounts: Those that count something, or are money; none may be below 0.
        sources: Those that say where an amount comes from.

    Raises:
        StoreCorruptError: A column is of another type, a time is none, or an amount can't be.
    """
    if not _is_sound(allowed, columns, times_s) or not SOURCES.issuperset(sources) or _below_zero(amounts):
        raise StoreCorruptError(
            f"The completion cache holds {what} that is damaged, or that this package did not write.",
            "If cache.db came from someone else, delete it; else restore it from a copy.",
        )


def _below_zero(amounts: Sequence[int | None]) -> bool:
    return min(filter(None, amounts), default=0) < 0


def _is_sound(allowed: Sequence[frozenset[type]], columns: Sequence[Any], times_s: Sequence[Any]) -> bool:
    # A page of entries has a thousand columns: `map` takes a third of the time of a loop.
    if len(columns) != len(allowed) or not all(map(contains, allowed, map(type, columns))):
        return False
    for time_s in times_s:  # noqa: SIM110 - nor is a generator made for two times
        if time_s is not None and not -_LATEST_S < time_s < _LATEST_S:
            return False
    return True
