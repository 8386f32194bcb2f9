"""What is shown of an answer, and where: its formats, its receipt, a notebook's output or a terminal.

An ask ends in `Screen.show` (the answer was there) or in `feed`…, `finish` (it came as a
stream); what a notebook saves is the same bytes either way. What `Screen.wait` shows is gone by then.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from or_cache_magic.core.policy import NOT_STORED_YET, TRUNCATED, what_helps
from or_cache_magic.core.units import format_age, format_duration, format_tokens, format_usd
from or_cache_magic.errors import RISKY, escape_markdown, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from or_cache_magic.core.records import Answer, Outcome

Format = Literal["auto", "markdown", "text", "json", "code", "df", "none", "data"]
"""How an answer is shown; ``auto`` is Markdown in a notebook and text in a terminal, ``data`` what a schema
asked for: a table, or JSON."""

ReceiptStyle = Literal["live", "stable"]
"""``live`` says what happened now; ``stable`` says the same on every run."""

ReceiptSetting = Literal["live", "stable", "off"]
"""The setting ``receipt``."""

_MIN_GAP_S: Final = 0.05
# A long answer is dear to lay out again: at 250 tokens a second this keeps JupyterLab's main thread
# busy 4 s of 20 for 31 kB, and its lag under half a second; an update a token never catches up.
CHARS_PER_GAP_S: Final = 120_000
_REST: Final = 9
"""How much longer than it takes to show a piece the next is waited for."""


_TICK_S: Final = 1.0
_PATIENT_S: Final = 2.0
"""So long nothing is said of the waiting."""

ANSWER: Final = {"or_cache_magic": {"role": "answer"}}
"""The metadata of an answer's output, and of a receipt's."""
RECEIPT: Final = {"or_cache_magic": {"role": "receipt"}}
_TREE: Final = {**ANSWER, "application/json": {"expanded": True}}


class Screen(Protocol):
    """Where one ask's answer and receipt appear. Used by one thread."""

    def wait(self, note: str) -> None:
        """Shows, until the answer or an error comes, what is waited for; one line."""

    def sent(self) -> None:
        """Says from now on how long the answer is waited for, until something comes."""

    def feed(self, delta: str) -> None:
        """Show the next piece of the streaming answer, at once or with the next update."""

    def finish(self, text: str | None = None, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Show the whole streamed answer; without ``text`` what was fed (an interrupt keeps the partial)."""

    def show(self, text: str, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Show a whole answer, in one display, and then what it has besides (`parts.parts_of`)."""

    def receipt(self, outcome: Outcome, *, asked: str = "", attached: str = "") -> None:
        """Show the receipt, unless receipts are off; ``asked`` is the model that was asked for."""


def open_screen(
    shell: Any,
    *,
    format: Format = "auto",  # noqa: A002 - the option's name
    receipt: ReceiptSetting = "live",
    quiet: bool = False,
    updates: Callable[[], bool] = lambda: True,
) -> Screen:
    """Return the screen for one ask: a notebook's for a kernel, a terminal's for other shells.

    Args:
        shell: The running `InteractiveShell`.
        format: How the answer is shown.
        receipt: Which receipt.
        quiet: No receipt, whatever ``receipt`` says.
        updates: Whether what shows the outputs follows updates; asked when there is one.
    """
    style: ReceiptStyle | None = None if quiet or receipt == "off" else receipt
    if getattr(shell, "kernel", None) is None:
        return TerminalScreen(format=format, style=style)
    return NotebookScreen(shell.display_pub.publish, format=format, style=style, updates=updates)


class _Waiting:
    """Says every second how long something is waited for, on a thread of its own, until it is stopped.

    Args:
        say: Shows a line.
        clock: Seconds that only go up.
        tick_s: Seconds between two lines.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float], tick_s: float) -> None:
        self._say, self._clock, self._tick_s = say, clock, tick_s
        self._lock, self._over, self._said = threading.Lock(), threading.Event(), False
        self.tell("")
        # In the cell's context, by which a kernel knows whose output it is.
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._run,), name="or-cache-wait", daemon=True).start()

    def tell(self, note: str) -> None:
        """Say what is waited for from now on; empty is the answer, of which nothing is said at first."""
        with self._lock:
            self._waits = note, self._clock()
            if note:
                self._say(note)

    def stop(self) -> bool:
        """Say nothing any more; return whether anything was said."""
        self._over.set()
        with self._lock:
            return self._said

    def _run(self) -> None:
        while not self._over.wait(self._tick_s):
            with self._lock:
                note, since_s = self._waits
                waited_s = self._clock() - since_s
                if waited_s >= _PATIENT_S and not self._over.is_set():
                    self._said = True
                    self._say(f"{note} · {waited_s:.0f} s" if note else f"asked, waiting {waited_s:.0f} s …")


class NotebookScreen:
    """A kernel's output: one display an answer, updated while it streams, and one for the receipt.

    Args:
        publish: The shell's ``display_pub.publish``.
        format: How the answer is shown.
        style: Which receipt; None is none.
        clock: Seconds that only go up; spaces the updates.
        now: UTC epoch seconds; for the receipt's ages.
        updates: Whether updates are followed; where they aren't, an answer is shown once, whole.
        tick_s: Seconds between two lines of what is waited for.
    """

    _length = 0
    _next_s = 0.0
    _display_id = ""
    _follows: bool | None = None
    _waiting: _Waiting | None = None

    def __init__(
        self,
        publish: Callable[..., None],
        *,
        format: Format = "auto",  # noqa: A002 - the option's name
        style: ReceiptStyle | None = "live",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        updates: Callable[[], bool] = lambda: True,
        tick_s: float = _TICK_S,
    ) -> None:
        self._publish = publish
        self._format = format
        self._style = style
        self._clock = clock
        self._now = now
        self._pieces: list[str] = []
        self._updates = updates
        self._tick_s = tick_s

    def wait(self, note: str) -> None:
        """Show the note where the answer will stand, which then takes its place; empty is for the answer."""
        if self._can_update():
            if self._waiting is None:
                self._waiting = _Waiting(self._note, self._clock, self._tick_s)
            self._waiting.tell(note)

    def sent(self) -> None:
        """Show from now on how long the answer is waited for."""
        self.wait("")

    def _note(self, note: str) -> None:
        note = printable(note)
        self._publish_answer({"text/plain": note, "text/markdown": f"*{escape_markdown(note)}*"})

    def _stop_waiting(self) -> None:
        assert self._waiting is not None  # noqa: S101 - checked by the callers: a hit calls nothing
        self._waiting.stop()
        self._waiting = None

    def _can_update(self) -> bool:
        if self._follows is None:
            self._follows = self._format != "none" and self._updates()
        return self._follows

    def feed(self, delta: str) -> None:
        """Show the first piece at once, and the following ones together, less often as the answer grows."""
        if not delta:
            return
        if self._waiting is not None:
            self._stop_waiting()
        self._pieces.append(delta)
        self._length += len(delta)
        if not self._can_update():
            return
        began_s = self._clock()
        if began_s < self._next_s:
            return
        # JSON, code and tables are no such thing before they are whole.
        until_whole: Format = self._format if self._format in {"text", "none"} else "markdown"
        self._pieces = ["".join(self._pieces)]
        self._publish_answer(answer_bundle(self._pieces[0], until_whole))
        ended_s = self._clock()
        gap_s = max(self._length / CHARS_PER_GAP_S, _REST * (ended_s - began_s))
        self._next_s = ended_s + _MIN_GAP_S + gap_s

    def finish(self, text: str | None = None, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Show the whole answer in place of what was streamed."""
        self.show("".join(self._pieces) if text is None else text, parts)

    def show(self, text: str, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Show a whole answer, in one display; where nothing was shown before it is never updated.

        Strict nbval can't read updates.
        """
        if self._waiting is not None:
            self._stop_waiting()
        if self._format == "none":
            return
        bundles = [answer_bundle(text, self._format), *parts] if text else list(parts)
        if self._display_id:
            self._publish_answer(bundles.pop(0) if bundles else answer_bundle(""))
        for bundle in bundles:
            self._publish(data=bundle, metadata=_TREE if "application/json" in bundle else ANSWER)

    def receipt(self, outcome: Outcome, *, asked: str = "", attached: str = "") -> None:
        """Show the receipt as an output of its own."""
        if self._style is not None:
            line = receipt_text(outcome, style=self._style, now_s=self._now(), asked=asked, attached=attached)
            self._publish(
                data={"text/plain": line, "text/markdown": f"*{escape_markdown(line)}*"}, metadata=RECEIPT
            )

    def _publish_answer(self, bundle: Mapping[str, Any]) -> None:
        update = bool(self._display_id)
        self._display_id = self._display_id or os.urandom(16).hex()
        self._publish(
            data=bundle,
            metadata=_TREE if "application/json" in bundle else ANSWER,
            transient={"display_id": self._display_id},
            update=update,
        )


class TerminalScreen:
    """A terminal: text as it comes, the receipt below, nothing that steers the terminal.

    Args:
        format: How the answer is shown; Markdown is shown as it is written.
        style: Which receipt; None is none.
        write: Takes what is to be shown; default writes to ``sys.stdout`` and flushes.
        now: UTC epoch seconds; for the receipt's ages.
    """

    _waiting: _Waiting | None = None

    def __init__(
        self,
        *,
        format: Format = "auto",  # noqa: A002 - the option's name
        style: ReceiptStyle | None = "live",
        write: Callable[[str], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._format = format
        self._style = style
        self._write = write or write_stdout
        self._now = now
        self._streams = format in {"auto", "markdown", "text"}
        self._pieces: list[str] = []

    def wait(self, note: str) -> None:
        """Write the note in a line of its own."""
        self._stop_waiting()
        self._write(f"{printable(note)}\n")

    def sent(self) -> None:
        """Say from now on how long the answer is waited for, in a line that is overwritten."""
        if self._write is write_stdout and sys.stdout.isatty() and self._waiting is None:
            self._waiting = _Waiting(lambda note: self._write(f"\r{note}\x1b[K"), time.monotonic, _TICK_S)

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.stop():
            self._write("\r\x1b[K")

    def feed(self, delta: str) -> None:
        """Write the piece; JSON, code and tables wait until they are whole."""
        if delta:
            self._stop_waiting()
            self._pieces.append(delta)
            if self._streams:
                self._write(printable(delta))

    def finish(self, text: str | None = None, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """End the line; shows what had to wait."""
        self._stop_waiting()
        streamed = "".join(self._pieces)
        if self._streams and streamed:
            if not streamed.endswith("\n"):
                self._write("\n")
            text = ""
        self.show(streamed if text is None else text, parts)

    def show(self, text: str, parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write a whole answer."""
        self._stop_waiting()
        answer = answer_bundle(text, "text" if self._streams else self._format)
        for bundle in (answer, *parts) if self._format != "none" else ():
            if plain := bundle.get("text/plain"):
                self._write(plain if plain.endswith("\n") else f"{plain}\n")

    def receipt(self, outcome: Outcome, *, asked: str = "", attached: str = "") -> None:
        """Write the receipt in a line of its own."""
        if self._style is not None:
            now_s = self._now()
            line = receipt_text(outcome, style=self._style, now_s=now_s, asked=asked, attached=attached)
            self._write(f"{line}\n")


def write_stdout(text: str) -> None:
    """Write a text to where output goes now, and flush it."""
    # Looked up now: IPython and tests replace sys.stdout.
    stream = sys.stdout
    # An answer that was paid for is shown with question marks rather than lost to a narrow terminal.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def answer_bundle(text: str, format: Format = "markdown") -> dict[str, Any]:  # noqa: A002 - the option's name
    """Return what is published for an answer: MIME type to text. A function of its arguments alone.

    A text that does not keep the format's promise (no JSON, no table, no code) is shown as Markdown:
    it was paid for. ``none`` is an empty bundle; a bundle of text has no Markdown in it.

    Args:
        text: The answer as the model wrote it.
        format: How to show it; ``auto`` is taken as Markdown.
    """
    if format == "none":
        return {}
    if format == "text":
        return {"text/plain": printable(text)}
    if format in ("json", "code", "df", "data"):
        from or_cache_magic.display.answer import data_bundle  # most answers are shown as they are

        bundle = data_bundle(text, format)
        if bundle:
            return bundle
    markdown = plain = printable(text)
    if any(map(plain.__contains__, RISKY)):
        from or_cache_magic.display.markdown import neutralise

        markdown = neutralise(plain)
    return {"text/plain": plain, "text/markdown": markdown}


_NAME_WIDTH: Final = 120
_REASON_WIDTH: Final = 300

_SERVED: Final = {
    "hit": "cached",
    "shared": "cached by the team",
    "replay": "replayed, cached",
    "stale": "expired answer, cached",
    "similar": "answer to a similar prompt, cached",
}
_CALLED: Final = {"refresh": "asked again", "bypass": "completion cache not used", "failed": "failed"}


def receipt_text(
    outcome: Outcome, *, style: ReceiptStyle = "live", now_s: float, asked: str = "", attached: str = ""
) -> str:
    """Return the receipt as one line of plain text.

    What comes from the network (model names, reasons) is put on one line, cut, and freed of control
    characters.

    Args:
        outcome: Of the ask.
        style: ``stable`` names the model, what the answer cost when it was bought, and its tokens:
            the same for a hit and a miss, on any day.
        now_s: UTC epoch seconds, for ages.
        asked: The model that was asked for; empty when not known. The served one is named when it
            is another.
        attached: What was attached to the prompt.
    """
    answer, live = outcome.answer, style == "live"
    served = one_line(answer.model or "", _NAME_WIDTH)
    model = one_line(asked, _NAME_WIDTH) if asked and asked != answer.model else served
    parts = [f"{model} (served: {served})" if served and served != model else model or "unknown model"]
    parts += _events(outcome, now_s) if live else [_cost(answer.cost.usd)]
    usage = answer.usage
    if usage is not None and (usage.prompt_tokens, usage.completion_tokens) != (None, None):
        parts.append(f"{format_tokens(usage.prompt_tokens, usage.completion_tokens)} tokens")
    parts.append(one_line(attached, _REASON_WIDTH))
    if answer.cost.source == "apportioned":
        parts.append("batch")
    if live and outcome.made_call:
        parts.append(_prompt_caching(answer))
    cut = "finish reason length" in outcome.not_stored  # which says where, so no note has to
    if outcome.not_stored:
        helps = what_helps(outcome.not_stored)
        why = one_line(outcome.not_stored, _REASON_WIDTH) + (f"; {helps}" if helps else "")
        parts.append(f"not stored ({why})" if why.startswith("--") else f"not stored: {why}")
    if live or outcome.kind == "similar":  # whatever a receipt leaves out, it tells that
        if outcome.notes:
            parts += [one_line(note, _REASON_WIDTH) for note in outcome.notes if note != TRUNCATED or not cut]
    elif answer.finish_reason == "length" and not cut:
        parts.append(TRUNCATED)
    return " · ".join(filter(None, parts))


def _events(outcome: Outcome, now_s: float) -> list[str]:
    """What happened to this ask, and its money."""
    kind, kept_s = outcome.kind, outcome.entry_created_s
    if kind in _SERVED:
        served = _SERVED[kind] if kept_s is None else f"{_SERVED[kind]} {format_age(now_s - kept_s)}"
        if kind not in ("hit", "shared"):
            return [served]
        saved_usd = outcome.saved_usd
        return [served, "saving unknown" if saved_usd is None else f"saved {format_usd(saved_usd)}"]
    if kind == "kept":
        return ["kept, nothing was sent"]
    took = format_duration(outcome.elapsed_s)
    if kind == "coalesced":
        return ["waited for the same ask", took]
    # That it was never asked before needs no saying; that a stored answer was of no use does.
    useless = kind == "miss" and outcome.why not in ("", NOT_STORED_YET)
    why = f"asked: {one_line(outcome.why, _REASON_WIDTH)}" if useless else ""
    return [_CALLED.get(kind, ""), why, _cost(outcome.paid.usd), took]


def _cost(usd: Decimal | None) -> str:
    return "cost unknown" if usd is None else format_usd(usd)


def _prompt_caching(answer: Answer) -> str:
    """What a call read of the provider's prompt caching and wrote to it, and what that did to its price."""
    usage, usd = answer.usage, answer.prompt_cache_saved_usd
    if usage is None:
        return ""
    counts = (("read", usage.cached_tokens), ("wrote", usage.cache_write_tokens))
    did = " and ".join(f"{verb} {count:,}" for verb, count in counts if count)
    if not did:
        return ""
    worth = "" if not usd else f", {format_usd(-usd)} more" if usd < 0 else f", {format_usd(usd)} less"
    return f"prompt caching: {did} tokens{worth}"
