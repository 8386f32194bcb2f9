"""What the line of each magic comes to: frozen values, in which None is "not given".

The options themselves are rows in `tables`. Each ``parse_…`` raises `OptionError` before anything is sent,
removed or changed. ``--help`` ends the reading of a line: then only ``help`` is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from or_cache_magic.errors import OptionError
from or_cache_magic.policy import Mode

from . import values as v
from .command import Command, Parsed, parse
from .tables import CELL, CONFIG, ENTRIES, LINE, PURGE, STATS

__all__ = [
    "AskOptions",
    "ConfigOptions",
    "EntriesOptions",
    "PurgeOptions",
    "StatsOptions",
    "parse_ask_cell",
    "parse_ask_line",
    "parse_config",
    "parse_entries",
    "parse_plain",
    "parse_purge",
    "parse_stats",
]

_OWN_PLACE: Final[Mapping[str, str]] = {
    "model": "name the model on the line",
    "messages": "the prompt is the cell's text, the system prompt is -s",
    "stream": "--no-stream waits for the whole answer",
}
"""Fields of the request that ``--param`` does not set, and what does."""

_SHOWN_KEY: Final = re.compile(r"[0-9a-fA-F]{8,64}")


class AskOptions(NamedTuple):
    """What one ask was given. None is not given: the setting decides.

    Attributes:
        model: A model id or an alias.
        out: The name to bind the answer to.
        system: ``TEXT | @file | NAME`` as written; see `values.read_text_argument`.
        max_tokens: ``"none"`` sends no limit.
        params: Other fields of the request.
        sample: Which sample; 0 is the first, and given on purpose.
        mode: ``refresh``, ``bypass`` or ``offline``.
        ttl_s: Lifetime; infinite is for ever (`policy.FOREVER_S`).
        prompt: The line magic's prompt, as written; empty in a cell, whose body is the prompt.
    """

    model: str | None = None
    out: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | Literal["none"] | None = None
    top_p: float | None = None
    seed: int | None = None
    params: Mapping[str, Any] = MappingProxyType({})
    format: str | None = None
    sample: int | None = None
    mode: Mode | None = None
    ttl_s: float | None = None
    tags: tuple[str, ...] = ()
    dry_run: bool = False
    raw: bool = False
    no_stream: bool = False
    quiet: bool = False
    help: bool = False
    prompt: str = ""


class StatsOptions(NamedTuple):
    """What ``%openrouter_stats`` was given."""

    by: Literal["model", "day", "notebook", "tag"] | None = None
    session: bool = False
    help: bool = False


class EntriesOptions(NamedTuple):
    """What ``%openrouter_entries`` was given: `key` (hex digits) or `text`, or neither."""

    text: str = ""
    key: str | None = None
    model: str | None = None
    tag: str | None = None
    since_s: float | None = None
    help: bool = False


class PurgeOptions(NamedTuple):
    """What ``%openrouter_purge`` was given: at least one condition, or `all` alone.

    Attributes:
        system: ``TEXT | @file | NAME`` as written; see `values.read_text_argument`.
        older_s: Stored longer ago than this.
        to_fit_bytes: Only until the rest is no larger.
        yes: Don't ask.
    """

    keys: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None
    tag: str | None = None
    prefix: str | None = None
    older_s: float | None = None
    expired: bool = False
    to_fit_bytes: int | None = None
    all: bool = False
    dry_run: bool = False
    yes: bool = False
    help: bool = False


class ConfigOptions(NamedTuple):
    """What ``%openrouter_config`` was given: settings and their values as text, not yet checked."""

    changes: Mapping[str, str] = MappingProxyType({})
    save: bool = False
    help: bool = False


def parse_ask_cell(line: str) -> AskOptions:
    """The options on the first line of a ``%%openrouter`` cell; its words are the model.

    Raises:
        OptionError: The line can't be read; nothing was sent.
    """
    parsed = parse(CELL, line)
    models = [word for word in (parsed.values.get("model"), *parsed.words) if word]
    if len(models) > 1:
        raise OptionError(
            f"one model a cell, and this line names {', '.join(models)}; nothing was sent",
            "the prompt goes below this line; quote a value that has spaces: -s 'be brief'",
        )
    return _ask(parsed, next(iter(models), None))


def parse_ask_line(line: str) -> AskOptions:
    """The options and the prompt of ``%openrouter``; the prompt is kept as written, quotes and all.

    Raises:
        OptionError: The line can't be read; nothing was sent.
    """
    parsed = parse(LINE, line)
    return _ask(parsed, parsed.values.get("model"))


def _ask(parsed: Parsed, model: str | None) -> AskOptions:
    values = dict(parsed.values)
    params: dict[str, Any] = {}
    for key, value in values.pop("params", ()):
        if key in _OWN_PLACE:
            raise OptionError(f"--param does not set {key}; nothing was sent", _OWN_PLACE[key])
        if key in params or key in values:
            raise OptionError(f"{key} is given twice; nothing was sent", "keep one of them")
        params[key] = value
    return AskOptions(**{**values, "model": model}, params=params, prompt=parsed.prompt)


def parse_plain(command: Command, line: str) -> bool:
    """Whether a magic that takes nothing else was asked for its help; raises `OptionError`."""
    return bool(_without_words(command, line).get("help"))


def parse_stats(line: str) -> StatsOptions:
    """The options of ``%openrouter_stats``; raises `OptionError`."""
    return StatsOptions(**_without_words(STATS, line))


def parse_entries(line: str) -> EntriesOptions:
    """The options of ``%openrouter_entries``; raises `OptionError`.

    One word of at least 8 hex digits is a key (10 are shown); any other words are the text to look for.
    """
    parsed = parse(ENTRIES, line)
    words = " ".join(parsed.words)
    if _SHOWN_KEY.fullmatch(words):
        return EntriesOptions(key=words.lower(), **parsed.values)
    return EntriesOptions(text=words, **parsed.values)


def parse_purge(line: str) -> PurgeOptions:
    """The options of ``%openrouter_purge``; raises `OptionError`.

    Nothing chosen is refused, and so is ``--all`` next to a condition: neither says what should go.
    """
    parsed = parse(PURGE, line)
    try:
        options = PurgeOptions(keys=tuple(map(v.hex_key, parsed.words)), **parsed.values)
    except ValueError as problem:
        hint = "a key is 4 to 64 hex digits, as %openrouter_entries shows them; --model and others choose too"
        raise OptionError(f"{problem}; {PURGE.unharmed}", hint) from None
    if options.help:
        return options
    chosen = bool(options.keys) or bool(parsed.values.keys() - {"all", "dry_run", "yes"})
    if chosen == options.all:
        if chosen:
            raise OptionError(f"--all stands beside a condition; {PURGE.unharmed}", "keep one of them")
        raise OptionError(
            f"nothing is chosen; {PURGE.unharmed}", "name keys or conditions, or --all for everything"
        )
    return options


def parse_config(line: str) -> ConfigOptions:
    """The options of ``%openrouter_config``; raises `OptionError`. Names and values are not checked here."""
    parsed = parse(CONFIG, line)
    changes: dict[str, str] = {}
    for word in parsed.words:
        setting, equals, value = word.partition("=")
        if not equals or not setting:
            raise OptionError(
                f"{word!r} is no NAME=VALUE; {CONFIG.unharmed}",
                "no spaces around the =; quote a value that has some",
            )
        if setting in changes:
            raise OptionError(f"{setting} is given twice; {CONFIG.unharmed}", "keep one of them")
        changes[setting] = value
    return ConfigOptions(changes=changes, **parsed.values)


def _without_words(command: Command, line: str) -> Mapping[str, Any]:
    parsed = parse(command, line)
    if parsed.words:
        hint = f"{command.spelling} --help lists what it takes"
        raise OptionError(f"{command.spelling} takes no {parsed.words[0]!r}; {command.unharmed}", hint)
    return parsed.values
