"""Everything this package raises, one tree, facts as attributes.

::

    OrCacheError                 what happened and what it cost; what to do next
    ├── InputError               what the user wrote can't be asked; nothing was sent
    │   ├── OptionError          an unknown or malformed option, or its value
    │   ├── TemplateError        a ``{{ name }}`` that can't be filled in
    │   ├── RequestError         a request that has no canonical form (NaN, a lone surrogate, no prompt)
    │   └── SettingError         an unknown or malformed setting
    ├── MissingKeyError          no OpenRouter key, and the answer is not in the cache
    ├── BudgetError              the call may cost more than is left to spend; nothing was sent
    ├── BatchPendingError        a batch that is under way asks for it; nothing was sent
    ├── CacheMissError           only stored answers may be served, and this is none
    │   └── ReplayMiss           offline, and the answer is neither in the cache nor in a pack
    ├── FormatError              the answer is not in the form that was asked for
    ├── SomeFailedError          of several answers to one prompt, some failed
    ├── UpstreamError            OpenRouter or a provider refused or failed
    │   ├── ConnectionLostError  no whole reply came: refused, timed out, reset
    │   └── StreamBrokenError    an answer began and did not finish
    └── StoreError               the completion cache can't be read or written
        ├── StoreUnavailableError  full, locked, read-only, gone
        │   └── StoreBusyError     locked by another, perhaps only for a moment
        ├── StoreCorruptError      not a database, or one with damage
        ├── UnsafeStoreError       holds something this package never writes (a foreign cache.db)
        └── NewerStoreError        written by a newer version; left untouched

IPython shows an exception that has ``_render_traceback_`` by what that method returns, so a failed
cell shows two clean lines, keeps a real error output and stops a batch run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from decimal import Decimal

__all__ = [
    "BatchPendingError",
    "BudgetError",
    "CacheMissError",
    "ConnectionLostError",
    "FormatError",
    "InputError",
    "MissingKeyError",
    "NewerStoreError",
    "OptionError",
    "OrCacheError",
    "ReplayMiss",
    "RequestError",
    "SettingError",
    "SomeFailedError",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreError",
    "StoreUnavailableError",
    "StreamBrokenError",
    "TemplateError",
    "UnsafeStoreError",
    "UpstreamError",
]

_WIDTH: Final = 1000

# Compiled when it is first used.
# Controls, what embeds or overrides the direction of the text around it, and halves of characters.
_STEERS: Final = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


# What MathJax could pair stands in an element of its own: it does not look for delimiters across elements.
_MARKUP: Final = {ord(char): f"&#{ord(char)};" for char in "!\"#&'()*<>@[]_`{|}~"} | {
    ord(char): f"<span>&#{ord(char)};</span>" for char in "$\\"
}


def printable(text: str) -> str:
    r"""Return the text with line ends as ``\n`` and control characters as their pictures (``␛``).

    Lone surrogates, the controls U+0080…U+009F and those that turn the direction of text become ``\ufffd``.
    """
    if text.isprintable() or text.replace("\n", "").isprintable():
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(_STEERS, _picture, text)


def one_line(text: str, width: int) -> str:
    """Return the text on one line of at most ``width`` characters, cut with ``…``: a name, a preview."""
    # A preview needs the beginning only; white space rarely makes up more than three quarters of it.
    line = " ".join(printable(text[: 4 * width + 4]).split())
    whole = len(line) <= width and len(text) <= 4 * width + 4
    return line if whole else line[: max(width - 1, 0)].rstrip() + "…"


RISKY: Final = ("`", "\\", "<", "$", "![", "](", "]:", "~~~")
"""Printable text without any of these is harmless as Markdown."""


def escape_markdown(text: str) -> str:
    """Return the text on one line, so that Markdown shows it letter for letter: no link, no mathematics.

    Whatever of ours goes into Markdown goes through here, amounts above all: two ``$`` would be mathematics.
    """
    return " ".join(printable(text).split()).translate(_MARKUP).replace("://", "&#58;//")


def _picture(match: re.Match[str]) -> str:
    control = match[0]
    if control < " ":
        return chr(0x2400 + ord(control))
    return "␡" if control == "\x7f" else "\ufffd"


def near_name(word: str, known: Iterable[str]) -> str:
    """Return the one of `known` that `word` was likely meant to be; empty when none is like it.

    The only one that begins so wins, then what has the same letters, then what is most alike. Dashes and
    underscores are one, and those in front don't count.

    >>> near_name("--temp", ["--system", "--temperature"]), near_name("--timeout", ["--out"])
    ('--temperature', '')
    """
    from difflib import get_close_matches

    bare: dict[str, str] = {name: name.lstrip("-").replace("-", "_").lower() for name in known}
    word = word.lstrip("-").replace("-", "_").lower()
    longer = [name for name in bare if len(word) >= 3 and bare[name].startswith(word)]  # noqa: PLR2004
    if len(longer) == 1:
        return longer[0]
    cutoff = 0.65 if len(word) <= 4 else 0.75  # noqa: PLR2004 - of few letters one is a third
    alike = get_close_matches(word, bare.values(), n=3, cutoff=cutoff)
    best = next((name for name in alike if sorted(name) == sorted(word)), next(iter(alike), None))
    return next((name for name in bare if bare[name] == best), "")


def slip_of(word: str, known: Iterable[str]) -> str:
    """Return the one of `known` that `word` can only be a slip of; empty when it may be a name of its own.

    Stricter than `near_name`, for names that others may have: letters in another case or order, with other
    signs between them, or one of them missing, wrong or too many.

    >>> slip_of("max-tokens", ["max_tokens"]), slip_of("min_tokens", ["max_tokens"])
    ('max_tokens', '')
    """
    letters = _letters(word)
    named = {name: _letters(name) for name in known}
    for name, own in named.items():
        if own == letters or (len(own) > 2 and sorted(own) == sorted(letters)):  # noqa: PLR2004
            return name
    from difflib import get_close_matches

    alike = get_close_matches(letters, named.values(), n=1, cutoff=0.85)
    return next((name for name, own in named.items() if alike and own == alike[0]), "")


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


class OrCacheError(Exception):
    """Base of every error of this package.

    Args:
        message: What happened, and what it cost, in one line.
        hint: What to do next, in one line; empty when there is nothing to do.
    """

    #: What to do next; may be empty.
    hint: str
    #: What the asks before it were charged, a `Cost`, where it ends the repairs of one; None is none.
    paid_before: Any = None

    def __init__(self, message: str, hint: str = "") -> None:
        # Foreign text comes with both (a server's, a file's), and errors are shown in many places.
        super().__init__(one_line(message, _WIDTH))
        self.hint = one_line(hint, _WIDTH)

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\n  {self.hint}" if self.hint else message

    def _render_traceback_(self) -> list[str]:
        """The lines IPython shows instead of a traceback."""
        return f"{type(self).__name__}: {self}".split("\n")


def explained(interrupt: KeyboardInterrupt, message: str, hint: str, answer: Any = None) -> KeyboardInterrupt:
    """Return an interrupt as it came, but for what it says: two lines instead of where it met whom.

    Args:
        interrupt: What was raised.
        message: What was interrupted, and what that may cost.
        hint: What to do next.
        answer: The `Answer` as far as it had come, its attribute from now on; None where none was under way.
    """
    told: Any = interrupt.with_traceback(None)
    told.args, told.answer = (f"{message}\n  {hint}",), answer
    told._render_traceback_ = [f"KeyboardInterrupt: {message}", f"  {hint}"].copy
    return interrupt


AS_ATTRIBUTE: Final = "the error's .table"
"""What messages call the table that an error has; see `says_where`."""


def says_where(stopped: BaseException, place: str) -> None:
    """Make an error, or an interrupt that was `explained`, say that its table is at a place."""
    told = [part.replace(AS_ATTRIBUTE, place) if isinstance(part, str) else part for part in stopped.args]
    if isinstance(stopped, OrCacheError):
        stopped.args = tuple(told)
    elif isinstance(stopped, KeyboardInterrupt) and hasattr(stopped, "_render_traceback_"):
        message, _, hint = str(told[0]).partition("\n  ")
        explained(stopped, message, hint, getattr(stopped, "answer", None))


class InputError(OrCacheError, ValueError):
    """What the user wrote can't be asked. Nothing was sent and nothing was paid."""


class OptionError(InputError):
    """An unknown or malformed option, or a value that it does not take."""


class TemplateError(InputError):
    """A ``{{ … }}`` in the prompt that can't be filled in.

    Attributes:
        line: The line of the prompt that it stands in, from 1; 0 is not known.
    """

    line: int = 0


class RequestError(InputError):
    """A request that has no canonical form, or no prompt."""


class SettingError(InputError):
    """An unknown setting, or a value that it does not take."""


class MissingKeyError(OrCacheError):
    """No OpenRouter key was found, and the answer is not in the completion cache."""


class BudgetError(OrCacheError):
    """The call may cost more than a limit leaves, or nobody can tell what it costs. Nothing was sent."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        limit_usd: Decimal | None = None,
        spent_usd: Decimal | None = None,
        low_usd: Decimal | None = None,
        high_usd: Decimal | None = None,
    ) -> None:
        super().__init__(message, hint)
        #: The limit.
        self.limit_usd = limit_usd
        #: The most that was spent of it already; None when the ledger can't be read.
        self.spent_usd = spent_usd
        #: The least that the call would cost; None is unknown.
        self.low_usd = low_usd
        #: The most that the call could cost; None is unknown.
        self.high_usd = high_usd


class BatchPendingError(OrCacheError):
    """It is asked for in a batch that is under way; asking besides would pay twice, so nothing was sent."""


class CacheMissError(OrCacheError):
    """Only stored answers may be served, and this one is not stored."""

    def __init__(self, message: str, hint: str = "", *, key: str = "") -> None:
        super().__init__(message, hint)
        #: The 64 hex digits that were looked for.
        self.key = key


class ReplayMiss(CacheMissError):  # noqa: N818 - what it is called in a replay
    """Offline, and the answer is neither in the cache nor in a pack beside the notebook. Nothing was sent."""

    def __init__(self, message: str, hint: str = "", *, key: str = "", prompt: str = "") -> None:
        super().__init__(message, hint, key=key)
        #: How the prompt begins.
        self.prompt = prompt
        #: Returns `nearest`, once: a table with a thousand misses shows few of them, and a look takes long.
        self.look: Callable[[], str] | None = None
        self._nearest = ""

    @property
    def nearest(self) -> str:
        """In what the nearest stored request differs, looked for when it is first wanted; empty: none is."""
        if self.look is not None:
            look, self.look = self.look, None
            self._nearest = one_line(look(), _WIDTH)
        return self._nearest

    def __str__(self) -> str:
        return "; ".join(filter(None, (super().__str__(), self.nearest)))

    def __reduce__(self) -> Any:
        self.nearest  # noqa: B018 - another process can't look
        return super().__reduce__()


class FormatError(OrCacheError):
    """The answer can't be read in the form that its caller wants (``-f json``, ``-f df``). It is kept."""


class SomeFailedError(OrCacheError):
    """Of several answers to one prompt some failed. The others are kept, shown and bound."""

    def __init__(
        self, message: str, hint: str = "", *, failures: tuple[tuple[str, OrCacheError], ...] = ()
    ) -> None:
        super().__init__(message, hint)
        #: Those that failed, by their model and sample, and why.
        self.failures = failures


class UpstreamError(OrCacheError):
    """OpenRouter, or a provider behind it, refused or failed.

    The facts are attributes; the error table of OpenRouter's API reference ("Errors and debugging")
    says what each status and type means.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        error_type: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool = False,
        refuses_all: bool = False,
        refuses_model: bool = False,
        rate_limit: int | None = None,
        generation_id: str | None = None,
        cost_usd: Decimal | None = None,
        body: Mapping[str, Any] | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, hint)
        #: HTTP status or the error's own code; None when no reply came.
        self.status = status
        #: OpenRouter's stable discriminator (``metadata.error_type``); None when absent.
        self.error_type = error_type
        #: Seconds the server asks to wait; None when it did not say.
        self.retry_after_s = retry_after_s
        #: Whether asking again may help without changing the request.
        self.retryable = retryable
        #: Whether every further request would be refused too: the key, the credits, a budget.
        self.refuses_all = refuses_all
        #: Whether every further request of its model would be refused for the rest of the day.
        self.refuses_model = refuses_model
        #: How many requests the server says that it takes in the time that ends after `retry_after_s`; None
        #: when it did not say.
        self.rate_limit = rate_limit
        #: Id for ``GET /generation``; None when no reply named one.
        self.generation_id = generation_id
        #: What the failed call cost as far as it was reported; None is unknown, not free.
        self.cost_usd = cost_usd
        #: The error object as received, or None.
        self.body = body
        #: How many requests were sent in all.
        self.attempts = attempts


class ConnectionLostError(UpstreamError):
    """No whole reply came: the connection was refused, timed out or was reset."""


class StreamBrokenError(UpstreamError):
    """An answer began and did not finish: cut, failed in the middle, or not proven complete.

    ``partial_text`` is what had arrived. It is kept in the cache as a partial, and never served.
    """

    def __init__(self, message: str, hint: str = "", *, partial_text: str = "", **facts: Any) -> None:
        super().__init__(message, hint, **facts)
        #: The text that had arrived.
        self.partial_text = partial_text


class StoreError(OrCacheError):
    """The completion cache can't be read or written. The ask itself goes on without it."""


class StoreUnavailableError(StoreError):
    """The store can't be used now: disk full, locked, read-only, gone."""


class StoreBusyError(StoreUnavailableError):
    """Another program or thread held the lock for as long as was waited."""


class StoreCorruptError(StoreError):
    """The file is not a database, or a damaged one, or a row fails its checksum."""


class UnsafeStoreError(StoreError):
    """The file holds something that this package never writes; it may come from a stranger."""


class NewerStoreError(StoreError):
    """The file was written by a newer version of this package. It was left untouched."""
