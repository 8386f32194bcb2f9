"""An entry's or an ask's labels as one SQL column that ``instr`` can search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_END: Final = "\x1f"  # ASCII's unit separator: nobody types it in a label


def join_tags(tags: Sequence[str]) -> str | None:
    """Labels as a column's text; None when there are none."""
    return f"{_END}{_END.join(tags)}{_END}" if tags else None


def split_tags(column: str | None) -> tuple[str, ...]:
    """The labels of `join_tags`."""
    return tuple(column[1:-1].split(_END)) if column else ()


def tag_mark(tag: str) -> str:
    """What a column of `join_tags` contains exactly when this label is one of its own."""
    return f"{_END}{tag}{_END}"
