"""An `EntryFilter` as SQL: a condition on ``or_entry e``, with its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from or_cache_magic.core.key import system_digest
from or_cache_magic.errors import OptionError
from or_cache_magic.storage.tags import tag_mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from or_cache_magic.core.records import EntryFilter

__all__ = ["DROP_ORDER", "filter_sql", "system_id"]

_Term = tuple[str, "Sequence[Any]"]  # a condition and its parameters

_SHORTEST_PREFIX = 4
_KEY_DIGITS = 64
_BLOBS = "EXISTS (SELECT 1 FROM Cache c JOIN or_request r ON r.id = c.rowid WHERE c.rowid = e.id AND {})"

_HALVED_AFTER_S = 30 * 86400.0
_USE = f"e.hits / (1.0 + max(0.0, ? - coalesce(e.last_hit, e.created)) / {_HALVED_AFTER_S})"
DROP_ORDER = (
    f"coalesce(e.expires <= ?, 0) DESC, e.cost IS NULL, e.cost * (1.0 + {_USE}) / max(e.size, 1), {_USE},"
    " coalesce(e.last_hit, e.created), e.id"
)
"""What goes first when space is wanted: the least loss.

First expired entries, which are not served any more; then by the dollars that a byte keeps,
``cost * (1 + use) / size``, the fewest first; last the entries whose cost is unknown, which may be dear.
``use`` is the number of hits, worth half when the last one is 30 days old, a third after 60. Among equals the
less used go first, then those not used for longest.
"""
_TO_FIT = (
    "WHERE e.id IN (SELECT id FROM (SELECT e.id, sum(e.size) OVER"  # noqa: S608
    f" (ORDER BY {DROP_ORDER} ROWS UNBOUNDED PRECEDING) - e.size AS before FROM or_entry e {{where}})"
    " WHERE before < (SELECT coalesce(sum(size), 0) FROM or_entry) - ?)"
)


def filter_sql(wanted: EntryFilter) -> tuple[str, list[Any]]:
    """The WHERE clause of a filter (with the word, or empty when it matches all) and its parameters.

    Uses the SQL functions ``or_has_text`` and ``or_begins`` of `DiskStore`.

    Raises:
        OptionError: A key prefix that is too short or not hexadecimal.
    """
    terms = [*_named(wanted), *_dated(wanted), *_written(wanted)]
    clause = " AND ".join(f"({condition})" for condition, _ in terms)
    parameters = [value for _, values in terms for value in values]
    if clause:
        clause = f"WHERE {clause}"
    if wanted.to_fit_bytes is None:
        return clause, parameters
    now_s = wanted.to_fit_at_s
    return _TO_FIT.format(where=clause), [now_s, now_s, now_s, *parameters, wanted.to_fit_bytes]


def _named(wanted: EntryFilter) -> Iterator[_Term]:
    if wanted.keys:
        yield _keys(wanted.keys)
    if wanted.model:
        yield _model(wanted.model)
    if wanted.system is not None:
        yield "e.system = ?", (system_id(wanted.system),)
    if wanted.tag:
        yield "instr(e.tags, ?)", (tag_mark(wanted.tag),)


def _dated(wanted: EntryFilter) -> Iterator[_Term]:
    if wanted.created_after_s is not None:
        yield "e.created >= ?", (wanted.created_after_s,)
    if wanted.created_before_s is not None:
        yield "e.created < ?", (wanted.created_before_s,)
    if wanted.expired_at_s is not None:
        yield "e.expires <= ?", (wanted.expired_at_s,)
    if wanted.served_at_s is not None:
        yield "coalesce(e.expires > ?, 1)", (wanted.served_at_s,)


def _written(wanted: EntryFilter) -> Iterator[_Term]:
    # These inflate and read every entry that the conditions before them leave.
    if wanted.prefix:
        yield _BLOBS.format("or_begins(c.key, r.body, ?)"), (wanted.prefix,)
    if wanted.text:
        yield _BLOBS.format("or_has_text(c.key, c.value, r.body, ?)"), (wanted.text.casefold(),)


def _keys(prefixes: Sequence[str]) -> _Term:
    bounds: list[str] = []
    for prefix in prefixes:
        low = prefix.strip().lower()
        if len(low) < _SHORTEST_PREFIX or len(low) > _KEY_DIGITS or low.strip("0123456789abcdef"):
            raise OptionError(
                f"{prefix!r} is not the beginning of a key.",
                f"Give at least {_SHORTEST_PREFIX} hexadecimal digits, as %openrouter_entries shows them.",
            )
        bounds += (low, low + "g")  # the first text after every key that begins so
    ranges = " OR ".join("key >= ? AND key < ?" for _ in prefixes)
    return f"e.id IN (SELECT rowid FROM Cache WHERE {ranges})", bounds  # noqa: S608


def _model(pattern: str) -> _Term:
    like = "="
    if any(sign in pattern for sign in "*?"):
        # In GLOB a bracket opens a set; in a model's name it is a character.
        like, pattern = "GLOB", pattern.replace("[", "[[]")
    asked = f"SELECT rowid FROM Cache WHERE tag {like} ?"  # noqa: S608
    return f"e.id IN ({asked}) OR e.served_model {like} ?", (pattern, pattern)


def system_id(text: str) -> bytes:
    """How the index finds a system prompt, whole and exact: 16 bytes of its digest."""
    return bytes.fromhex(system_digest(text))[:16]
