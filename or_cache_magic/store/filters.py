"""An `EntryFilter` as SQL: a condition on ``or_entry e``, with its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from or_cache_magic.database import tag_mark
from or_cache_magic.errors import OptionError
from or_cache_magic.key import system_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.records import EntryFilter

__all__ = ["system_id", "where"]

_SHORTEST_PREFIX = 4
_KEY_DIGITS = 64
_BLOBS = "EXISTS (SELECT 1 FROM Cache c JOIN or_request r ON r.id = c.rowid WHERE c.rowid = e.id AND {})"


def where(wanted: EntryFilter) -> tuple[str, list[Any]]:
    """The WHERE clause of a filter (with the word, or empty when it matches all) and its parameters.

    Uses the SQL functions ``or_has_text`` and ``or_begins`` of `DiskStore`.

    Raises:
        OptionError: A key prefix that is too short or not hexadecimal.
    """
    terms: list[tuple[str, Sequence[Any]]] = []
    if wanted.keys:
        terms.append(_keys(wanted.keys))
    if wanted.model:
        terms.append(_model(wanted.model))
    if wanted.system is not None:
        terms.append(("e.system = ?", (system_id(wanted.system),)))
    if wanted.tag:
        terms.append(("instr(e.tags, ?)", (tag_mark(wanted.tag),)))
    if wanted.created_after_s is not None:
        terms.append(("e.created >= ?", (wanted.created_after_s,)))
    if wanted.created_before_s is not None:
        terms.append(("e.created < ?", (wanted.created_before_s,)))
    if wanted.expired_at_s is not None:
        terms.append(("e.expires <= ?", (wanted.expired_at_s,)))
    # Last: these inflate and read what is left.
    if wanted.prefix:
        terms.append((_BLOBS.format("or_begins(c.key, r.body, ?)"), (wanted.prefix,)))
    if wanted.text:
        terms.append((_BLOBS.format("or_has_text(c.key, c.value, r.body, ?)"), (wanted.text.casefold(),)))
    if not terms:
        return "", []
    clause = " AND ".join(f"({condition})" for condition, _ in terms)
    return f"WHERE {clause}", [value for _, values in terms for value in values]


def _keys(prefixes: Sequence[str]) -> tuple[str, list[str]]:
    bounds: list[str] = []
    for prefix in prefixes:
        low = prefix.strip().lower()
        if len(low) < _SHORTEST_PREFIX or len(low) > _KEY_DIGITS or low.strip("0123456789abcdef"):
            raise OptionError(
                f"{prefix!r} is not the beginning of a key.",
                f"Keys are hexadecimal; give at least {_SHORTEST_PREFIX} digits, as %openrouter_entries shows.",
            )
        bounds += (low, low + "g")  # the first text after every key that begins so
    ranges = " OR ".join("key >= ? AND key < ?" for _ in prefixes)
    return f"e.id IN (SELECT rowid FROM Cache WHERE {ranges})", bounds


def _model(pattern: str) -> tuple[str, tuple[str, str]]:
    like = "="
    if any(sign in pattern for sign in "*?"):
        # In GLOB a bracket opens a set; in a model's name it is a character.
        like, pattern = "GLOB", pattern.replace("[", "[[]")
    ids = f"SELECT rowid FROM Cache WHERE tag {like} ? UNION SELECT id FROM or_entry WHERE served_model {like} ?"
    return f"e.id IN ({ids})", (pattern, pattern)


def system_id(text: str) -> bytes:
    """How the index finds a system prompt, whole and exact: 16 bytes of its digest."""
    return bytes.fromhex(system_digest(text))[:16]
