"""The panel's controls as core ipywidgets: what narrows and orders its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import ipywidgets as w

from or_cache_magic.panels.state import SORTS, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from or_cache_magic.panels.makers import Makers

_MOST_CHOICES: Final = 200
"""Names that a dropdown offers; a cache with more is searched."""

_NAME_WIDTH: Final = 80
_SINCE: Final = (
    ("any time", 0.0),
    ("last hour", 3600.0),
    ("last 24 h", 86_400.0),
    ("last 7 days", 7 * 86_400.0),
    ("last 30 days", 30 * 86_400.0),
)
_STATES: Final = (("served and expired", ""), ("served", "served"), ("expired", "expired"))


def choose_from(everything: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """The options of a dropdown over names that others wrote: all, then each; an empty text, never None."""
    known = [name for name in names if name][:_MOST_CHOICES]
    shown = [name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…" for name in known]
    return [(everything, ""), *zip(shown, known, strict=True)]


class Controls:
    """What narrows and orders the table.

    Args:
        makers: Makes the widgets.
    """

    def __init__(self, makers: Makers) -> None:
        self.search = makers.make(
            w.Text,
            css={"width": "270px"},
            description="Search",
            placeholder="prompt or answer, then Enter",
            continuous_update=False,
        )
        self.model = makers.dropdown("Model", choose_from("all models", ()), "210px")
        self.tag = makers.dropdown("Tag", choose_from("all tags", ()), "150px")
        self.since = makers.dropdown("Since", _SINCE, "150px")
        self.state = makers.dropdown("State", _STATES, "190px")
        self.order = makers.dropdown("Sort by", SORTS, "150px")
        self.way = makers.dropdown("Order", (("descending", True), ("ascending", False)), "150px")
        self.all = (self.search, self.model, self.tag, self.since, self.state, self.order, self.way)
        self.box = makers.wrapped(*self.all)

    def view(self) -> View:
        """What they are set to."""
        return View(
            text=self.search.value,
            model=self.model.value,
            tag=self.tag.value,
            since_s=self.since.value,
            state=self.state.value,
            order=self.order.value,
            descending=self.way.value,
        )

    def offer(self, models: Sequence[str], tags: Sequence[str]) -> None:
        """Offers these models and tags; a choice that is gone goes back to all."""
        for dropdown, everything, names in ((self.model, "all models", models), (self.tag, "all tags", tags)):
            options = choose_from(everything, names)
            if list(dropdown.options) != options:
                chosen = dropdown.value
                dropdown.options = options
                dropdown.value = chosen if any(value == chosen for _, value in options) else ""
