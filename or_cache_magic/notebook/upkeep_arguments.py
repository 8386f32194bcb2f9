"""What the lines of the other magics come to: frozen values, in which None is "not given".

As `arguments`, which a fresh kernel's first answer needs; these it does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from or_cache_magic.errors import OptionError
from or_cache_magic.notebook import values as v
from or_cache_magic.notebook.options import CONFIG, ENTRIES, PURGE, STATS
from or_cache_magic.notebook.parser import Command, parse

__all__ = [
    "ConfigOptions",
    "EntriesOptions",
    "PurgeOptions",
    "StatsOptions",
    "parse_config",
    "parse_entries",
    "parse_plain",
    "parse_purge",
    "parse_stats",
    "purge_conditions",
]

_SHOWN_KEY: Final = re.compile(r"[0-9a-fA-F]{8,64}")


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


def purge_conditions(options: Any) -> dict[str, Any]:
    """What to purge, as `CompletionCache.purge_filter` takes it; keys and the system prompt apart.

    Args:
        options: `PurgeOptions`, or anything with its fields, as the shell's command has them.
    """
    return {
        "model": options.model,
        "tag": options.tag,
        "prefix": options.prefix,
        "older": options.older_s,
        "expired": options.expired,
        "to_fit": options.to_fit_bytes,
        "all": options.all,
    }


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
