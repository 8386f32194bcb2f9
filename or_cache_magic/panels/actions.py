"""The row of controls below the table that act on a selection: export, purge, and its confirmation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import ipywidgets as w

from or_cache_magic.core.units import format_count, format_size, format_sum
from or_cache_magic.panels.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.panels.makers import Makers
    from or_cache_magic.storage.listing import EntryTotals

NAMED: Final = 3
"""Entries that a confirmation shows, so that a wrong selection is seen."""

_PROMPT_WIDTH: Final = 70


class Actions:
    """What can be done with the selection.

    Args:
        makers: Makes the widgets.
    """

    def __init__(self, makers: Makers) -> None:
        self.select = makers.button("Select all 0 matching")
        self.clear = makers.button("Clear selection")
        self.export = makers.button("Export selected", tooltip="Write the selected entries to a CSV file")
        self.file = makers.make(w.Text, css={"width": "250px"}, description="File")
        self.purge = makers.button("Purge 0 selected", danger=True, tooltip="Asks before it removes anything")
        self.box = makers.wrapped(self.select, self.clear, self.export, self.file, self.purge)
        self.question = makers.html("", flex="1 1 420px")
        self.yes = makers.button("Yes, remove", danger=True)
        self.cancel = makers.button("Cancel")
        self.confirm = makers.wrapped(self.question, self.yes, self.cancel, hidden=True)

    @property
    def asking(self) -> bool:
        """Whether the confirmation is shown."""
        return bool(self.confirm.layout.display != "none")

    def count(self, matching: int, selected: int) -> None:
        """Says how many entries match and how many are selected."""
        self.select.description = f"Select all {matching:,} matching"
        self.select.disabled = not matching
        self.clear.disabled = self.export.disabled = self.purge.disabled = not selected
        self.purge.description = f"Purge {selected:,} selected"

    def ask(self, weight: EntryTotals, some: Sequence[EntryRow], *, team: bool) -> None:
        """Asks whether entries are to be removed; nothing is until `yes` is pressed."""
        self.question.value = _question(weight, some[:NAMED], team=team)
        self.confirm.layout.display = "flex"
        # What a hasty Enter presses should be the harmless one.
        self.cancel.focus()

    def hide(self) -> None:
        """Takes the question away."""
        if self.asking:
            self.confirm.layout.display = "none"
            self.question.value = ""

    def given_name(self) -> str:
        """The file's name as written, with ``.csv`` at its end."""
        name: str = self.file.value.strip()
        return name if name.lower().endswith(".csv") else f"{name}.csv"


def _question(weight: EntryTotals, some: Sequence[EntryRow], *, team: bool) -> str:
    what = f"{format_count(weight.entries, 'entry', 'entries')} ({format_size(weight.size_bytes)})"
    price = format_sum(weight.cost_usd, unpriced=weight.unpriced)
    unknown = f" ({weight.unpriced:,} of unknown cost)" if weight.unpriced else ""
    theirs = ", and what the team's server has of them, for all of the team" if team else ""
    named = "".join(f"<li>{escape(row.key[:10])} · {escape(row.prompt, _PROMPT_WIDTH)}</li>" for row in some)
    rest = weight.entries - len(some)
    named += f"<li>… and {rest:,} more</li>" if rest > 0 else ""
    return (
        f'<div class="orc-ask" role="alert">Remove {what}{theirs}?'
        f" To buy them again would cost {price}{unknown}. What was paid and saved stays counted."
        f"<ul>{named}</ul></div>"
    )
