"""Several answers to one prompt: side by side where there is room, below each other where there is none.

In a notebook they are one display, which is updated while they come: Markdown in boxes that wrap where the
page is narrow, and that a renderer without styles stacks. A terminal has them one after another.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from or_cache_magic.display.escape import escape_markdown, fenced, one_line, printable
from or_cache_magic.display.screen import (
    ANSWER,
    CHARS_PER_GAP_S,
    RECEIPT,
    Format,
    answer_bundle,
    write_stdout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HEAD_WIDTH: Final = 120
_REASON_WIDTH: Final = 300
_MIN_GAP_S: Final = 0.15
_GRID: Final = '<div style="display: flex; flex-wrap: wrap; gap: 0.5em 1.5em">'
_BOX: Final = '<div style="flex: 1 1 16em; min-width: 0; overflow: auto">'
_WAITS: Final = "…"


class Column:
    """One of the answers. Filled by the thread that asks for it, and read by the one that shows it.

    Args:
        head: What stands above it: the model, and which sample.
    """

    def __init__(self, head: str) -> None:
        self.head = one_line(head, _HEAD_WIDTH)
        #: What has come of it so far.
        self.pieces: list[str] = []
        #: What is waited for, in a line; empty is the answer.
        self.note = ""
        #: Why there is no whole answer; empty when there is, or may be.
        self.failed = ""
        self.text: str | None = None
        self.parts: Sequence[Mapping[str, Any]] = ()

    def wait(self, note: str) -> None:
        """Say what is waited for."""
        self.note = note

    def finish(self, text: str, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Have the whole answer shown, and what it has besides (`parts.parts_of`)."""
        self.parts, self.text = parts, text

    def fail(self, why: str) -> None:
        """Have it shown what had come, and a line that says why there is no more."""
        self.failed, self.text = why, "".join(self.pieces)

    def bundle(self, form: Format) -> dict[str, str]:
        """Return what is shown of it now, as ``text/plain`` and as harmless ``text/markdown``."""
        text, whole = ("".join(self.pieces), False) if self.text is None else (self.text, True)
        shown: list[Mapping[str, Any]] = []
        if text:
            # JSON, code and tables are no such thing before they are whole.
            bundle = answer_bundle(text, form if whole or form == "text" else "markdown")
            plain = str(bundle["text/plain"])
            shown.append({"text/markdown": fenced(plain), **bundle})
        shown += [{**_told(str(part["text/plain"])), **part} for part in self.parts]
        if self.failed:
            shown.append(_told(one_line(self.failed, _REASON_WIDTH)))
        elif not shown and not whole:
            shown.append(_told(printable(self.note) or _WAITS))
        return {
            "text/plain": "\n\n".join(str(bundle["text/plain"]) for bundle in shown),
            "text/markdown": "\n\n".join(str(bundle["text/markdown"]) for bundle in shown),
        }


def _told(line: str) -> dict[str, str]:
    return {"text/plain": line, "text/markdown": f"*{escape_markdown(line)}*"}


def _head(head: str) -> dict[str, str]:
    return {"text/plain": f"--- {head} ---", "text/markdown": f"**{escape_markdown(head)}**"}


def columns_bundle(columns: Sequence[Column], form: Format) -> dict[str, str]:
    """Return what is published for several answers: MIME type to text. A function of what they say alone."""
    plain, boxes = [], []
    for column in columns:
        head, bundle = _head(column.head), column.bundle(form)
        plain.append(f"{head['text/plain']}\n{bundle['text/plain']}")
        # Between empty lines Markdown is read as such; each answer ends what it began (`safe_markdown`).
        boxes.append("\n\n".join((_BOX, head["text/markdown"], bundle["text/markdown"], "</div>")))
    return {
        "text/plain": "\n\n".join(plain),
        "text/markdown": "\n".join((_GRID, *boxes, "</div>")),
    }


class Columns(Protocol):
    """Where several answers appear. Used by one thread."""

    def tick(self) -> None:
        """Show what has come since, if it is time to."""

    def finish(self) -> None:
        """Show all that there is."""

    def receipts(self, lines: Sequence[str]) -> None:
        """Show the receipts, unless they are off."""


def open_columns(
    shell: Any,
    columns: Sequence[Column],
    *,
    form: Format,
    receipts: bool = True,
    updates: Callable[[], bool] = lambda: True,
) -> Columns:
    """Return the screen for several answers: a notebook's for a kernel, a terminal's for other shells.

    Args:
        shell: The running `InteractiveShell`.
        columns: The answers.
        form: How each is shown.
        receipts: Whether there are any.
        updates: Whether what shows the outputs follows updates; asked when there is one.
    """
    if getattr(shell, "kernel", None) is None:
        return TerminalColumns(columns, form=form, receipts=receipts)
    return NotebookColumns(shell.display_pub.publish, columns, form=form, receipts=receipts, updates=updates)


class NotebookColumns:
    """A kernel's output: one display for all answers, updated while they stream, and one for the receipts.

    Args:
        publish: The shell's ``display_pub.publish``.
        columns: The answers.
        form: How each is shown.
        receipts: Whether there are any.
        clock: Seconds that only go up; spaces the updates.
        updates: Whether updates are followed; where they aren't, all is shown once, whole.
    """

    def __init__(
        self,
        publish: Callable[..., None],
        columns: Sequence[Column],
        *,
        form: Format,
        receipts: bool = True,
        clock: Callable[[], float] = time.monotonic,
        updates: Callable[[], bool] = lambda: True,
    ) -> None:
        self._publish = publish
        self._columns = columns
        self._form: Format = form
        self._receipts = receipts
        self._clock = clock
        self._updates = updates
        self._follows: bool | None = None
        self._display_id = ""
        self._next_s = 0.0
        self._shown: object = None

    def tick(self) -> None:
        """Show what has come, less often as it grows; nothing before the first piece, and nothing whole."""
        if self._is_whole():
            return  # `finish` shows it
        came = [(len(column.pieces), column.note) for column in self._columns]
        if came == self._shown or self._form == "none" or not any(map(any, came)):
            return
        if self._follows is None:
            self._follows = self._updates()
        if self._follows and self._clock() >= self._next_s:
            self._shown = came
            bundle = columns_bundle(self._columns, self._form)
            self._show(bundle)
            self._next_s = self._clock() + _MIN_GAP_S + len(bundle["text/plain"]) / CHARS_PER_GAP_S

    def finish(self) -> None:
        """Show all answers in one display, whole; below it what is no text, such as pictures."""
        if self._form == "none":
            return
        self._show(columns_bundle(self._columns, self._form))
        for column in self._columns:
            others = [part for part in column.parts if "text/markdown" not in part]
            if others:
                self._publish(data=_head(column.head), metadata=ANSWER)
            for part in others:
                self._publish(data=part, metadata=ANSWER)

    def receipts(self, lines: Sequence[str]) -> None:
        """Show the receipts as an output of their own."""
        if self._receipts:
            markdown = "  \n".join(f"*{escape_markdown(line)}*" for line in lines)
            self._publish(data={"text/plain": "\n".join(lines), "text/markdown": markdown}, metadata=RECEIPT)

    def _is_whole(self) -> bool:
        return all(column.text is not None for column in self._columns)

    def _show(self, bundle: Mapping[str, str]) -> None:
        # Strict nbval can't read updates: what was there at once is shown once.
        if self._is_whole() and not self._display_id:
            self._publish(data=bundle, metadata=ANSWER)
            return
        update = bool(self._display_id)
        self._display_id = self._display_id or os.urandom(16).hex()
        self._publish(data=bundle, metadata=ANSWER, transient={"display_id": self._display_id}, update=update)


class TerminalColumns:
    """A terminal: one answer after another, the first that isn't whole as it comes; the receipts below.

    Args:
        columns: The answers.
        form: How each is shown; Markdown is shown as it is written.
        receipts: Whether there are any.
        write: Takes what is to be shown; default writes to ``sys.stdout`` and flushes.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        form: Format,
        receipts: bool = True,
        write: Callable[[str], None] = write_stdout,
    ) -> None:
        self._columns = columns
        self._form: Format = form
        self._receipts = receipts
        self._write = write
        self._streams = form in {"auto", "markdown", "text"}
        self._at = 0  # which is being written
        self._written: int | None = None  # how many of its pieces are; None before its head

    def tick(self) -> None:
        """Write what has come of the first that isn't written whole, and all behind it that are there."""
        if self._form == "none":
            return
        while self._at < len(self._columns):
            column = self._columns[self._at]
            whole = column.text is not None  # asked first: no piece comes after it
            if self._streams and column.pieces:
                self._write_pieces(column)
            if not whole:
                return
            self._end(column)

    def finish(self) -> None:
        """Write all that is left, of one that isn't whole what had come."""
        for column in self._columns:
            if column.text is None:
                column.text = "".join(column.pieces)
        self.tick()

    def receipts(self, lines: Sequence[str]) -> None:
        """Write the receipts, each in a line of its own."""
        if self._receipts:
            self._write("".join(f"{line}\n" for line in lines))

    def _write_head(self, column: Column) -> None:
        if self._written is None:
            self._written = 0
            self._write(f"{_head(column.head)['text/plain']}\n")

    def _write_pieces(self, column: Column) -> None:
        self._write_head(column)
        fresh = column.pieces[self._written :]
        self._written = (self._written or 0) + len(fresh)
        if fresh:
            self._write(printable("".join(fresh)))

    def _end(self, column: Column) -> None:
        self._write_head(column)
        streamed = bool(self._written)
        if streamed and not column.pieces[-1].endswith("\n"):
            self._write("\n")
        rest = Column(column.head)
        rest.finish("" if streamed else column.text or "", column.parts)
        rest.failed = column.failed
        form: Format = "text" if self._streams else self._form
        if plain := rest.bundle(form)["text/plain"]:
            self._write(plain if plain.endswith("\n") else f"{plain}\n")
        self._at, self._written = self._at + 1, None
        if self._at < len(self._columns):
            self._write("\n")
