"""What the panel looks at: which entries, in which order, which page of them. No widgets.

A list of places is read once for a view, then counted and paged in: a search is not repeated for the next
page, and turning pages meets every entry exactly once though others come meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from or_cache_magic.core.rows import EntryFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.storage.listing import EntryIndex, Place

State = Literal["", "served", "expired"]

SORTS: Final = (
    ("created", "created"),
    ("model", "model"),
    ("tokens in", "prompt_tokens"),
    ("tokens out", "completion_tokens"),
    ("cost", "cost_usd"),
    ("hits", "hits"),
    ("saved", "saved_usd"),
    ("last hit", "last_hit"),
    ("expires", "expires"),
    ("size", "size_bytes"),
    ("notebook", "notebook"),
)
"""What the table can be sorted by: as it is shown, and as the store calls it."""


class View(NamedTuple):
    """What the controls are set to.

    Attributes:
        text: Found in the prompt or the answer.
        model: A model; empty is all.
        tag: A label; empty is all.
        since_s: Stored in the last so many seconds; 0 is at any time.
        state: Served or expired entries; empty is both.
        order: One of `SORTS`.
        descending: Whether the largest, or newest, comes first.
    """

    text: str = ""
    model: str = ""
    tag: str = ""
    since_s: float = 0.0
    state: State = ""
    order: str = "created"
    descending: bool = True

    def filter(self, now_s: float) -> EntryFilter:
        """The entries that it shows at this time."""
        return EntryFilter(
            text=self.text.strip(),
            model=self.model,
            tag=self.tag,
            created_after_s=now_s - self.since_s if self.since_s else None,
            expired_at_s=now_s if self.state == "expired" else None,
            served_at_s=now_s if self.state == "served" else None,
        )


class Listing:
    """The entries of a view, a page at a time. Used by one thread at a time.

    Args:
        index: The entries.
        clock: Tells UTC epoch seconds.
        page_size: Entries on a page.
    """

    def __init__(self, index: EntryIndex, clock: Callable[[], float], page_size: int = 15) -> None:
        self.page_size = page_size
        #: The page that is shown, from 0.
        self.page = 0
        self.view = View()
        self._index = index
        self._clock = clock
        self._places: list[Place] = []
        self._filter = EntryFilter()

    @property
    def count(self) -> int:
        """How many entries matched when they were read."""
        return len(self._places)

    @property
    def pages(self) -> int:
        """How many pages there are; an empty list has one."""
        return max(1, -(-len(self._places) // self.page_size))

    @property
    def first(self) -> int:
        """The place of the page's first entry among all, from 0."""
        return self.page * self.page_size

    def read(self, view: View) -> None:
        """Reads which entries a view shows, and stays on its page where there still is one.

        Raises:
            StoreError: The file can't be read; what was read before stays.
        """
        wanted = view.filter(self._clock())
        same_text = bool(wanted.text) and view._replace(order="", descending=True) == self.view._replace(
            order="", descending=True
        )
        if same_text and view != self.view:
            # Another order of what was found: looking into every blob again would take seconds.
            found = frozenset(self._places)
            places = self._matching(view, wanted._replace(text=""))
            self._places = [place for place in places if place in found]
        else:
            self._places, self._filter = self._matching(view, wanted), wanted
        self.view = view
        self.turn_to(self.page)

    def turn_to(self, page: int) -> None:
        """Goes to a page, or to the nearest that there is."""
        self.page = max(0, min(page, self.pages - 1))

    def rows(self) -> list[EntryRow]:
        """The page's entries, whose answers no table shows; those that are gone since are left out."""
        return self._index.rows(self._places[self.first : self.first + self.page_size], answers=False)

    def all_rows(self) -> list[EntryRow]:
        """Every entry of the view, in its order."""
        return self._index.rows(self._places)

    def keys(self) -> list[str]:
        """The keys of all entries of the view."""
        if self._filter.text:
            return [row.key for row in self.all_rows()]  # a second search would take longer
        return self._index.digests(self._filter)

    def _matching(self, view: View, wanted: EntryFilter) -> list[Place]:
        return self._index.matching(wanted, order=view.order, descending=view.descending)
