"""What in a prompt changes by itself from run to run, so that the same cell misses, and is paid again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping, messages_of
from or_cache_magic.core.records import NamedTuple

_MOST_CHARS: Final = 1 << 17
"""Of a message that are looked through, half from each end."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ITEM: Final = r"(?:'[^'\n]{0,80}'|\"[^\"\n]{0,80}\")"

_PATTERNS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("an object's address", re.compile(r"\bat 0x[0-9a-fA-F]{6,16}\b|\b0x(?:0{4,})?7f[0-9a-f]{8,12}\b")),
    (
        "a UUID",
        re.compile(
            r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}\b"
        ),
    ),
    (
        "a temporary path",
        re.compile(
            r"(?:/private)?(?:/tmp|/var/tmp|/var/folders/\w\w)/[\w./+-]+|\bAppData[\\/]+Local[\\/]+Temp[\\/]+\S+"
        ),
    ),
    ("the order of a set", re.compile(rf"(?:(?<=[\s=:(,])|^|(?<=frozenset\())\{{{_ITEM}(?:, {_ITEM})+\}}")),
    ("the noise of a float", re.compile(r"(?<![\w.])-?\d{1,15}\.\d*(?:0{6,}|9{6,})\d{1,3}(?![\w.])")),
    (
        "an absolute path",
        re.compile(r"(?<![\w/])(?:/home|/Users|/root)/[\w.-]+(?:/[\w. -]*\w)?|\b[A-Z]:\\Users\\\w+[\\\w.-]*"),
    ),
)


class Unstable(NamedTuple):
    """A piece of a prompt that changes by itself.

    Attributes:
        what: ``today's date``, ``a UUID``.
        found: The piece, cut.
    """

    what: str
    found: str


def unstable(body: Mapping[str, Any], now_s: float) -> list[Unstable]:
    """Return what in the messages of a request changes by itself, the first of each kind.

    A date is one only where it is today's, since others were written down, not computed; a time, where it is
    of the last two minutes.

    Args:
        body: The request's.
        now_s: The time.
    """
    found: dict[str, Unstable] = {}
    for text in _texts(body):
        for one in _found_in(text, now_s):
            found.setdefault(one.what, one)
    return list(found.values())


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    for message in messages_of(body):
        content = message.get("content")
        for part in (content,) if isinstance(content, str) else as_list(content):
            text = part if isinstance(part, str) else as_mapping(part).get("text")
            if isinstance(text, str):
                half = _MOST_CHARS // 2
                yield text if len(text) <= _MOST_CHARS else f"{text[:half]}\n{text[-half:]}"


def _found_in(text: str, now_s: float) -> Iterator[Unstable]:
    dated = _date(now_s).search(text)
    if dated is not None:
        yield Unstable("today's date", dated[0])
    clock = ("the time", _clock(now_s))
    for what, pattern in (clock, *_PATTERNS) if dated is None else _PATTERNS:
        if (match := pattern.search(text)) is not None:
            yield Unstable(what, match[0][:60])


def _date(now_s: float) -> re.Pattern[str]:
    """Return what finds today, here or in UTC, as programs write it."""
    forms = []
    for day in {time.gmtime(now_s)[:3], time.localtime(now_s)[:3]}:
        year, month, date = day
        name = f"{_MONTHS[month - 1]}[a-z]*\\.?"
        forms += [
            f"{year}[-/.]{month:02}[-/.]{date:02}",
            f"{date:02}[-/.]{month:02}[-/.]{year}",
            f"{month:02}/{date:02}/{year}",
            f"{name} 0?{date}(?:[a-z]{{2}})?,? {year}",
            f"0?{date}\\.? {name},? {year}",
            f"{name} +{date} \\d\\d:\\d\\d:\\d\\d {year}",  # C's asctime
        ]
    return re.compile(rf"(?<!\d)(?:{'|'.join(forms)})(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?!\d)")


def _clock(now_s: float) -> re.Pattern[str]:
    """Return what finds the time of the last two minutes, here or in UTC, and as seconds since 1970."""
    minutes = {
        time.strftime("%H:%M", form(now_s - ago_s))
        for ago_s in (0, 60, 120)
        for form in (time.gmtime, time.localtime)
    }
    clocks, epoch = "|".join(sorted(minutes)), str(int(now_s))[:-3]
    return re.compile(
        rf"(?<![\d:])(?:{clocks}):\d\d(?:\.\d+)?(?![\d:])|(?<![\d.]){epoch}\d{{3}}(?:\d{{3}}|\.\d+)?(?![\d.]\d)"
    )
