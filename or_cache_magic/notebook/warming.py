"""``%openrouter_warm``: fills the completion cache from a list of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.arguments import AskOptions, ask_options
from or_cache_magic.notebook.ask import request_params
from or_cache_magic.notebook.cards import say
from or_cache_magic.notebook.options import WARM
from or_cache_magic.notebook.parser import help_text, parse
from or_cache_magic.notebook.upkeep import give
from or_cache_magic.notebook.values import read_text_argument

if TYPE_CHECKING:
    import pandas as pd

    from or_cache_magic.notebook.session import Session

__all__ = ["WarmOptions", "parse_warm", "warm"]


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
    """Asks for each prompt of a variable or a file; see `CompletionCache.warm`.

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
    frame = cache.warm(
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
    from or_cache_magic.notebook.listing import warm_text

    for notice in cache.database.pop_notices():
        say(session.shell, notice)
    return give(session, frame, lambda: warm_text(frame))


def _source(name: str, variables: Mapping[str, Any], folder: Path) -> Any:
    """The variable or the path that a name stands for; relative paths begin in the kernel's folder."""
    found = variables[name] if name.isidentifier() and name in variables else name
    return folder / Path(found).expanduser() if isinstance(found, str) else found
