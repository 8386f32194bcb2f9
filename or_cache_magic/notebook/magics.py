"""The magics beside ``%openrouter``: they look after the cache, its settings and its key."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import format_count
from or_cache_magic.errors import OptionError, near_name
from or_cache_magic.notebook.commands import (
    BATCHES,
    CONFIG,
    ENTRIES,
    EXPORT,
    FIX,
    IMPORT,
    KEY,
    LAST,
    MODELS,
    PANEL,
    PIN,
    PLAN,
    PURGE,
    REPORT,
    STATS,
    VERIFY,
    WARM,
    WHY,
)
from or_cache_magic.notebook.parser import Command, help_text, parse
from or_cache_magic.notebook.session import confirmed, keeps_result
from or_cache_magic.notebook.status import purge_line
from or_cache_magic.notebook.values import read_attached, read_schema_argument, read_text_argument

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.cache.purge import Purge
    from or_cache_magic.core.rows import EntryFilter
    from or_cache_magic.explain.plan import Plan
    from or_cache_magic.explain.report import Report
    from or_cache_magic.explain.why import Why
    from or_cache_magic.notebook.session import Session
    from or_cache_magic.panels import Shown
    from or_cache_magic.replay.packs import Exported
    from or_cache_magic.tables.verify import Verification


def run(session: Session, name: str, line: str, variables: Mapping[str, Any]) -> Any:
    """Return what a magic gives back.

    Args:
        session: What the magics share.
        name: The magic's, without ``%``.
        line: What stands behind the name.
        variables: The notebook's.

    Raises:
        OrCacheError: It can't be done; see each magic.
    """
    command, act = _MAGICS[name]
    options = parse(command, line)
    if options.help:
        session.say(help_text(command))
        return None
    read_arguments(options, variables, session.folder)
    return act(session, options)


def read_arguments(options: SimpleNamespace, variables: Mapping[str, Any], folder: Path) -> None:
    """Put what a line names in the place of its name: the text of ``system``, the path of ``file``.

    Args:
        options: Of any of the magics.
        variables: The notebook's.
        folder: Where relative paths begin.

    Raises:
        OptionError: A file can't be read, or a variable isn't a text.
    """
    fields = vars(options)
    if fields.get("system"):
        options.system = read_text_argument(options.system, variables, folder)
    if fields.get("attach"):
        options.attach = read_attached(options.attach, variables, folder)
    if fields.get("schema"):
        options.schema = read_schema_argument(options.schema, variables, folder)
    if fields.get("file"):
        options.file = folder / Path(options.file).expanduser()
    if subject := fields.get("subject"):
        options.subject = _answer_named(subject, variables)
    if "source" in fields:
        name = options.source
        if name.isidentifier() and name not in variables:
            near = near_name(name, variables)
            meant = f"did you mean {near}?" if near else "a file of prompts is a .txt, .jsonl or .csv"
            raise OptionError(f"{name} is not defined; nothing was sent", meant)
        source = variables[name] if name.isidentifier() else name
        options.source = folder / Path(source).expanduser() if isinstance(source, str) else source


def _answer_named(word: str, variables: Mapping[str, Any]) -> str | Completion:
    """Return the answer that a variable holds, or the word where it may be a key.

    Raises:
        OptionError: The variable holds something else.
    """
    from or_cache_magic.cache.completion import Completion

    found = variables.get(word)
    if isinstance(found, Completion) or word not in variables:
        return word if found is None else found
    if _is_key(word):
        return word
    raise OptionError(
        f"the variable {word} is a {type(found).__name__}, not an answer", "name what -o has bound"
    )


def _is_key(word: str) -> bool:
    return not word.lower().strip("0123456789abcdef")


def _panel(session: Session, _options: SimpleNamespace) -> Shown | None:
    """``%openrouter_panel``: the panel; in a terminal what it shows, as text."""
    from or_cache_magic.panels import open_panel, panel_text

    if session.in_terminal and keeps_result() is False:
        session.say(panel_text(session.cache()))
        return None
    return open_panel(session.cache(), folder=session.folder)


def _stats(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_stats``: asks, hits, rates and dollars."""
    cache = session.cache()
    frame = cache.stats(options.by or "", session=options.session)
    if warning := cache.quota_warning():
        session.say(warning)
    return session.give(frame)


def _entries(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_entries``: a table, or one entry whole."""
    cache = session.cache()
    if options.key is not None:
        from or_cache_magic.notebook.status import entry_card

        session.say(*entry_card(cache, options.key))
        return None
    _say_model(session, options.model)
    frame = cache.entries(options.text, model=options.model, tag=options.tag, since=options.since_s)
    return session.give(frame)


def _say_model(session: Session, name: str | None) -> None:
    """Say which model a part of its name was taken for."""
    model = session.cache().model_named(name)
    if model != name:
        session.say(f"--model {name}: {model}")


def _why(session: Session, options: SimpleNamespace) -> Why | None:
    """``%openrouter_why``: why an ask was not served, in colour.

    Raises:
        OptionError: There is no such ask.
    """
    cell = "" if options.subject is not None else session.asked_before
    found = session.cache().why(options.subject, cell=cell)
    if not session.in_terminal or keeps_result() is not False:
        return found
    session.deliver(found)
    print(found.ansi if sys.stdout.isatty() else found)  # noqa: T201 - a terminal
    return None


def _report(session: Session, options: SimpleNamespace) -> Report | None:
    """``%openrouter_report``: what a notebook asked, for a methods section; in a terminal its text.

    Raises:
        OptionError: There is no such notebook, or nothing was asked.
    """
    found = session.cache().report(options.notebook, format=options.format)
    if not session.in_terminal or keeps_result() is not False:
        return found
    session.deliver(found)
    session.say(str(found))
    return None


def _plan(session: Session, options: SimpleNamespace) -> Plan | None:
    """``%openrouter_plan``: what running the notebook would ask and cost, and with ``--buy`` buy it before.

    Raises:
        OptionError: There is no such notebook, or the front end doesn't tell which it runs.
    """
    from or_cache_magic.notebook.planning import plan_notebook

    stable = session.settings().receipt == "stable"  # what is bought is another thing on the next run
    found = plan_notebook(
        session,
        options.notebook,
        buy=options.buy,
        max_cost_usd=options.max_cost_usd,
        progress=not stable,
        tell=str if stable else session.say,
    )
    if not session.in_terminal or keeps_result() is not False:
        return found
    session.deliver(found)
    session.say(str(found))
    return None


def _pin(session: Session, options: SimpleNamespace) -> None:
    """``%openrouter_pin``: let an earlier answer be the one that reruns give.

    Raises:
        OptionError: There is none, or it may not be served. Nothing was changed.
    """
    key, before = session.cache().pin(options.key, options.number)
    if before == options.number:
        session.say(f"reruns give answer {before} of {key[:10]} already")
    else:
        pinned = f"pinned: reruns give answer {options.number} of {key[:10]} now"
        session.say(f"{pinned}; the one before is its answer {before}")


def _purge(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_purge``: say what would go, ask, remove.

    Returns:
        The entries that went, or with ``--dry-run`` would go; None when there are none.

    Raises:
        OptionError: Nothing is chosen, or the front end can't ask. Nothing was removed.
    """
    cache = session.cache()
    _say_model(session, options.model)
    chosen = purge_filter(cache, options)
    if not approved(cache.preview(chosen), options, session.say):
        return None
    frame = cache.chosen(chosen)
    if not options.dry_run:
        cache.drop(chosen)
        session.say("removed")
    return session.give(frame)


def purge_filter(cache: CompletionCache, options: SimpleNamespace) -> EntryFilter:
    """Return the filter that the options of ``%openrouter_purge`` make.

    Raises:
        OptionError: Nothing is chosen, or everything and yet something.
    """
    return cache.purge_filter(
        options.keys,
        model=options.model,
        system=options.system,
        tag=options.tag,
        prefix=options.prefix,
        older=options.older_s,
        expired=options.expired,
        to_fit=options.to_fit_bytes,
        all=options.all,
    )


def approved(
    purge: Purge,
    options: SimpleNamespace,
    say: Callable[[str], None],
    ask: Callable[[str], bool] = confirmed,
) -> bool:
    """Say what a purge would remove, and return whether to go on: there is something, and the user agrees.

    Raises:
        OptionError: Nobody can be asked.
    """
    say(purge_line(purge, dry_run=options.dry_run))
    if purge.does_nothing:
        return False
    if options.dry_run or options.yes or ask(f"Remove {purge.entries:,}? [y/N] "):
        return True
    say("nothing was removed")
    return False


def _export(session: Session, options: SimpleNamespace) -> None:
    """``%openrouter_export``: write entries into a pack; raises `OptionError` where a secret is in one."""
    _say_model(session, options.model)
    session.say(str(export_pack(session.cache(), options)))


def export_pack(cache: CompletionCache, options: SimpleNamespace) -> Exported:
    """Write the pack that the options of ``%openrouter_export`` name."""
    return cache.export(
        options.file, *options.keys, **_conditions(options), format=options.format, media=options.media
    )


def _conditions(options: SimpleNamespace) -> dict[str, Any]:
    """Return what chooses entries beside keys, by the names of `cache.purge.CONDITIONS`."""
    return {
        "text": options.text or "",
        "model": options.model,
        "system": options.system,
        "tag": options.tag,
        "prefix": options.prefix,
        "since": options.since_s,
        "older": options.older_s,
    }


def _verify(session: Session, options: SimpleNamespace) -> Verification:
    """``%openrouter_verify``: ask for a sample again, and tell how the answers agree; see `tables.verify`.

    Raises:
        InputError: It can't be asked so; nothing was sent.
    """
    from or_cache_magic.tables.verify import verify

    _say_model(session, options.model)
    cache = session.cache()
    try:
        return verify(
            cache,
            options.keys,
            sample=options.sample,
            max_cost_usd=options.max_cost_usd,
            progress=not options.quiet,
            tell=session.say,
            **_conditions(options),
        )
    except KeyboardInterrupt as exc:
        if (table := getattr(exc, "table", None)) is not None:
            session.shell.displayhook.update_user_ns(table)
        raise
    finally:
        _say_notices(session)


def _say_notices(session: Session) -> None:
    """Say what the cache has noticed meanwhile: that it can't be written, that a server is down."""
    for notice in session.cache().database.pop_notices():
        session.say(notice)


def _import(session: Session, options: SimpleNamespace) -> None:
    """``%openrouter_import``: take the answers of a pack; raises `OptionError` where it is none."""
    session.say(str(session.cache().load(options.file)))


def _models(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_models``: the models that OpenRouter lists; raises `OptionError` without a list."""
    frame = session.cache().models(
        options.text,
        free=options.free,
        max_price=options.max_price,
        image=options.image,
        tools=options.tools,
        schema=options.takes_schema,
    )
    return session.give(frame)


def _fix(session: Session, options: SimpleNamespace) -> Completion | None:
    """``%openrouter_fix``: have a model explain the last exception; see `fix.fix`."""
    from or_cache_magic.notebook.fix import fix

    return fix(session, options)


def _last(session: Session, _options: SimpleNamespace) -> Completion | pd.DataFrame:
    """``%openrouter_last``: the last completion, or table of several; raises `OptionError` before any."""
    if session.last is None:
        raise OptionError("nothing was asked in this session yet", "ask with %%openrouter first")
    return session.last


def _configure(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_config``: the settings as a table, after changing those that are named.

    Raises:
        SettingError: An unknown setting, or a value that it does not take. Nothing was changed.
    """
    from or_cache_magic.core.settings import parse_setting, save_settings
    from or_cache_magic.notebook.status import settings_frame, settings_text

    for name, value in options.changes.items():
        parse_setting(name, value, CONFIG.spelling)
    if options.save and options.changes:
        session.say(f"saved in {save_settings(session.folder, options.changes)}")
    for name, value in options.changes.items():
        setattr(session.config, name, value)
    return session.give(settings_frame(session.settings()), settings_text)


def _set_key(session: Session, _options: SimpleNamespace) -> None:
    """``%openrouter_key``: ask for the key without echoing it, and keep it in memory.

    Raises:
        OptionError: The front end can't ask unseen, or no key was given. Nothing was changed.
    """
    import getpass
    import warnings

    from or_cache_magic.notebook.status import masked

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
    session.say(f"key set for this kernel: {masked(key)}")


def _warm(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_warm``: ask for each prompt of a variable or a file; see `tables.warm.warm`.

    Returns:
        A row for each; None where it was shown.

    Raises:
        InputError: The list can't be read; nothing was sent.
    """
    from or_cache_magic.notebook.status import warm_text

    cache = session.cache()
    frame = warm_cache(cache, options, session.say)
    _say_notices(session)
    stable = session.settings().receipt == "stable"  # the table tells what this run has bought
    return session.give(frame, warm_text, as_text=stable)


def _batches(session: Session, options: SimpleNamespace) -> pd.DataFrame | None:
    """``%openrouter_batches``: the batches, after collecting what has ended; or the rows of one.

    Raises:
        OptionError: There is no such batch. Nothing was changed.
    """
    from or_cache_magic.tables.batches import batches, batches_text, forget_batch

    cache = session.cache()
    if options.forget:
        freed = forget_batch(cache, options.id)
        session.say(f"given up: {format_count(freed, 'row')} waited for it, and may be asked anew")
        return None
    return session.give(batches(cache, options.id), batches_text)


def warm_cache(
    cache: CompletionCache, options: SimpleNamespace, say: Callable[[str], object]
) -> pd.DataFrame:
    """Ask for each prompt of the list or file that the options of ``%openrouter_warm`` name."""
    from or_cache_magic.tables.warm import warm

    return warm(
        cache,
        options.source,
        model=options.model,
        system=options.system,
        attach=options.attach or None,
        mode=options.mode,
        sample=options.sample,
        ttl=options.ttl_s,
        tag=options.tags or None,
        prompt_cache=options.prompt_cache,
        schema=options.schema,
        repair=options.repair,
        max_cost_usd=options.max_cost_usd,
        workers=options.workers,
        progress=not options.quiet,
        tell=say,
        **options.params,
    )


_MAGICS: Final[Mapping[str, tuple[Command, Callable[..., Any]]]] = {
    command.name: (command, act)
    for command, act in (
        (PANEL, _panel),
        (STATS, _stats),
        (ENTRIES, _entries),
        (WHY, _why),
        (PLAN, _plan),
        (REPORT, _report),
        (PIN, _pin),
        (PURGE, _purge),
        (EXPORT, _export),
        (IMPORT, _import),
        (WARM, _warm),
        (VERIFY, _verify),
        (BATCHES, _batches),
        (MODELS, _models),
        (FIX, _fix),
        (CONFIG, _configure),
        (KEY, _set_key),
        (LAST, _last),
    )
}
