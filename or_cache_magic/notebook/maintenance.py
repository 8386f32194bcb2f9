"""Looking after the cache: the magics beside ``%openrouter``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.ask import deliver, keeps_result, request_params
from or_cache_magic.notebook.options import (
    CONFIG,
    ENTRIES,
    KEY,
    LAST,
    PANEL,
    PURGE,
    STATS,
    WARM,
    AskOptions,
    ask_options,
    parse_config,
    parse_entries,
    parse_plain,
    parse_purge,
    parse_stats,
    purge_conditions,
)
from or_cache_magic.notebook.parser import help_text, parse
from or_cache_magic.notebook.status import say
from or_cache_magic.notebook.values import read_text_argument

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.notebook.session import Session
    from or_cache_magic.panels import Shown

__all__ = [
    "HANDLERS",
    "WarmOptions",
    "configure",
    "entries",
    "give",
    "last",
    "panel",
    "parse_warm",
    "purge",
    "set_key",
    "stats",
    "warm",
]


def panel(session: Session, line: str) -> Shown | None:
    """``%openrouter_panel``: the panel; in a terminal what it shows, as text. Raises `OptionError`."""
    if parse_plain(PANEL, line):
        say(session.shell, help_text(PANEL))
        return None
    from or_cache_magic.panels import open_panel, panel_text

    if getattr(session.shell, "kernel", None) is None and not keeps_result():
        say(session.shell, panel_text(session.cache()))
        return None
    return open_panel(session.cache(), folder=session.folder)


def stats(session: Session, line: str) -> pd.DataFrame | None:
    """``%openrouter_stats``: calls, hits, rates and dollars; raises `OptionError`."""
    options = parse_stats(line)
    if options.help:
        say(session.shell, help_text(STATS))
        return None
    from or_cache_magic.notebook.status import stats_text

    cache = session.cache()
    frame = cache.stats(options.by or "", session=options.session)
    if warning := cache.quota_warning():
        say(session.shell, warning)
    return give(session, frame, lambda: stats_text(frame))


def entries(session: Session, line: str) -> pd.DataFrame | None:
    """``%openrouter_entries``: a table, or one entry whole; raises `OptionError`."""
    options = parse_entries(line)
    if options.help:
        say(session.shell, help_text(ENTRIES))
        return None
    cache = session.cache()
    if options.key is not None:
        from or_cache_magic.notebook.status import entry_card

        say(session.shell, *entry_card(cache, options.key))
        return None
    from or_cache_magic.notebook.status import entries_text

    frame = cache.entries(options.text, model=options.model, tag=options.tag, since=options.since_s)
    return give(session, frame, lambda: entries_text(frame))


def purge(session: Session, line: str, variables: Mapping[str, Any]) -> pd.DataFrame | None:
    """``%openrouter_purge``: says what would go, asks, removes, and returns what went.

    Returns:
        The entries that went, or with ``--dry-run`` would go; None when there are none.

    Raises:
        OptionError: Nothing is chosen, or the front end can't ask. Nothing was removed.
    """
    options = parse_purge(line)
    if options.help:
        say(session.shell, help_text(PURGE))
        return None
    from or_cache_magic.notebook.status import entries_text, purge_line

    cache, system = session.cache(), options.system
    if system is not None:
        system = read_text_argument(system, variables, session.folder)
    chosen = cache.purge_filter(options.keys, system=system, **purge_conditions(options))
    preview = cache.preview(chosen)
    say(session.shell, purge_line(preview, dry_run=options.dry_run))
    if preview.does_nothing:
        return None
    if not options.dry_run and not options.yes and not _confirmed(f"Remove {preview.entries:,}? [y/N] "):
        say(session.shell, "nothing was removed")
        return None
    frame = cache.chosen(chosen)
    if not options.dry_run:
        cache.drop(chosen)
        say(session.shell, "removed")
    return give(session, frame, lambda: entries_text(frame))


def last(session: Session, line: str) -> Completion | None:
    """``%openrouter_last``: the last completion; raises `OptionError` before the first."""
    if parse_plain(LAST, line):
        say(session.shell, help_text(LAST))
        return None
    if session.last is None:
        raise OptionError("nothing was asked in this session yet", "ask with %%openrouter first")
    return session.last


def configure(session: Session, config: Any, line: str) -> pd.DataFrame | None:
    """``%openrouter_config``: the settings as a table, after changing those that are named.

    Raises:
        OptionError: The line can't be read.
        SettingError: An unknown setting, or a value that it does not take. Nothing was changed.
    """
    options = parse_config(line)
    if options.help:
        say(session.shell, help_text(CONFIG))
        return None
    from or_cache_magic.core.settings import parse_setting

    for name, value in options.changes.items():
        parse_setting(name, value, CONFIG.spelling)
    if options.save and options.changes:
        from or_cache_magic.core.settings import save_settings

        say(session.shell, f"saved in {save_settings(session.folder, options.changes)}")
    for name, value in options.changes.items():
        setattr(config, name, value)
    from or_cache_magic.notebook.status import settings_frame, settings_text

    frame = settings_frame(session.settings())
    return give(session, frame, lambda: settings_text(frame))


def set_key(session: Session, line: str) -> None:
    """``%openrouter_key``: asks for the key without echoing it, and keeps it in memory.

    Raises:
        OptionError: The front end can't ask unseen, or no key was given. Nothing was changed.
    """
    if line.strip() in ("-h", "--help"):
        say(session.shell, help_text(KEY))
        return
    if line.strip():
        # What stands there may be the key: it is not repeated.
        raise OptionError(
            "%openrouter_key asks for the key; nothing is written behind it",
            "a cell is saved with the notebook: if your key stands there, clear the cell and revoke the key",
        )
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            # Its way to say that what is typed would be seen.
            warnings.simplefilter("error", getpass.GetPassWarning)
            key = getpass.getpass("OpenRouter API key: ").strip()
    except Exception as exc:  # noqa: BLE001 - each front end has its own way to say that it can't ask
        raise OptionError(
            f"this front end can't ask for the key unseen ({type(exc).__name__}); nothing was changed",
            "set the environment variable OPENROUTER_API_KEY before you start it",
        ) from None
    if not key:
        raise OptionError("no key was given; nothing was changed", "paste it, then press Enter")
    session.key = key
    from or_cache_magic.notebook.status import masked

    say(session.shell, f"key set for this kernel: {masked(key)}")


HANDLERS: Final[Mapping[str, Callable[[Session, str], Any]]] = {
    "openrouter_panel": panel,
    "openrouter_stats": stats,
    "openrouter_entries": entries,
    "openrouter_last": last,
    "openrouter_key": set_key,
}
"""What takes its line alone."""


def give(session: Session, frame: pd.DataFrame, text: Callable[[], str]) -> pd.DataFrame | None:
    """A table to whoever goes on with it; where a terminal shows it, as `text`, which fits there."""
    if getattr(session.shell, "kernel", None) is not None or keeps_result():
        return frame
    say(session.shell, text())
    deliver(session.shell, frame)
    return None


def _confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, OSError, NotImplementedError, RuntimeError):
        raise OptionError(
            "this front end can't ask, so nothing was removed", "add -y to remove without asking"
        ) from None


class WarmOptions(NamedTuple):
    """What ``%openrouter_warm`` was given.

    Attributes:
        source: ``FILE | NAME`` as written.
        asked: The options that all prompts share.
        workers: How many are asked at a time.
        quiet: Show no bar.
    """

    source: str = ""
    asked: AskOptions = AskOptions()
    workers: int = 8
    quiet: bool = False


def parse_warm(line: str) -> WarmOptions:
    """The options of ``%openrouter_warm``.

    Raises:
        OptionError: The line can't be read, or names no list or several; nothing was sent.
    """
    parsed = parse(WARM, line)
    values = dict(parsed.values)
    own = {name: values.pop(name) for name in ("workers", "quiet") if name in values}
    asked = ask_options(parsed._replace(values=values), values.get("model"))
    if asked.help:
        return WarmOptions(asked=asked)
    if len(parsed.words) != 1:
        named = f"names {len(parsed.words)} lists" if parsed.words else "names no list of prompts"
        raise OptionError(
            f"this line {named}; {WARM.unharmed}",
            "write one variable or file; quote a name that has spaces",
        )
    return WarmOptions(parsed.words[0], asked, **own)


def warm(session: Session, line: str, variables: Mapping[str, Any]) -> pd.DataFrame | None:
    """Asks for each prompt of a variable or a file; see `tables.batch.warm`.

    Returns:
        A row for each; None where it was shown.

    Raises:
        InputError: The line or the list can't be read; nothing was sent.
    """
    options = parse_warm(line)
    if options.asked.help:
        say(session.shell, help_text(WARM))
        return None
    asked, cache, system = options.asked, session.cache(), options.asked.system
    if system is not None:
        system = read_text_argument(system, variables, session.folder)
    from or_cache_magic.notebook.status import warm_text
    from or_cache_magic.tables.batch import warm as warm_cache

    frame = warm_cache(
        cache,
        _source(options.source, variables, session.folder),
        model=asked.model,
        system=system,
        mode=asked.mode,
        sample=asked.sample,
        ttl=asked.ttl_s,
        tag=asked.tags or None,
        prompt_cache=asked.prompt_cache,
        max_cost_usd=asked.max_cost_usd,
        workers=options.workers,
        progress=not options.quiet,
        tell=lambda summary: say(session.shell, summary),
        **request_params(asked),
    )
    for notice in cache.database.pop_notices():
        say(session.shell, notice)
    return give(session, frame, lambda: warm_text(frame))


def _source(name: str, variables: Mapping[str, Any], folder: Path) -> Any:
    """The variable or the path that a name stands for; relative paths begin in the kernel's folder."""
    found = variables[name] if name.isidentifier() and name in variables else name
    return folder / Path(found).expanduser() if isinstance(found, str) else found
