"""Who asks: what they are shown while they wait, and how they have a say."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from or_cache_magic.core.cancel import Cancel
from or_cache_magic.core.records import Request

__all__ = ["Asker", "OnText", "OnWait", "Show"]

OnText = Callable[[str], None]
"""Takes each piece of text as it comes from upstream, on the thread that asks."""

OnWait = Callable[[str], None]
"""Takes one line that says what is being waited for."""


class Asker(NamedTuple):
    """The caller's side of an ask.

    Attributes:
        on_text: Shows text as it comes; not called for a served answer, which is there at once.
        on_wait: Shows, in one line, which other process's identical ask is being waited for.
        before_send: Given the request when nothing can be served at once. An `OrCacheError` that it raises
            is the ask's, and nothing is sent: the place of a budget.
        cancel: Calls the ask off; None leaves that to an interrupt.
    """

    on_text: OnText | None = None
    on_wait: OnWait | None = None
    before_send: Callable[[Request], None] | None = None
    cancel: Cancel | None = None


class Show:
    """Passes text on until the display fails, which must not lose a paid answer."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        #: How the display failed, for the receipt; empty when it didn't.
        self.trouble: tuple[str, ...] = ()

    def __call__(self, text: str) -> None:
        """Passes one text on."""
        if self._on_text is None:
            return
        try:
            self._on_text(text)
        except Exception as exc:  # noqa: BLE001 - a foreign callable at a seam; the receipt tells
            self._on_text = None
            self.trouble = (f"not shown as it came: {type(exc).__name__}: {exc}",)
