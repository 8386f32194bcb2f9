"""Magic lines to engine calls, and outcomes to the screen."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from linecache import getline
from typing import TYPE_CHECKING, Any, Final, cast

from or_cache_magic.errors import FormatError, OptionError, OrCacheError, RequestError

from .arguments import (
    AskOptions,
    parse_ask_cell,
    parse_ask_line,
    parse_config,
    parse_entries,
    parse_plain,
    parse_purge,
    parse_stats,
)
from .command import help_text
from .tables import CELL, CONFIG, ENTRIES, KEY, LAST, LINE, PURGE, STATS
from .values import read_text_argument

if TYPE_CHECKING:
    from types import FrameType

    import pandas as pd

    from or_cache_magic.cache import CompletionCache
    from or_cache_magic.completion import Completion
    from or_cache_magic.policy import Policy
    from or_cache_magic.records import Outcome, Request
    from or_cache_magic.render import Screen

    from .session import Session

__all__ = ["Magics"]

_BARE_CALL: Final = re.compile(r"\s*get_ipython\(\)\.run_(?:line|cell)_magic\(")


class Magics:
    """What the magics do.

    Args:
        session: What they share.
        config: The traits that ``%openrouter_config`` sets.
    """

    def __init__(self, session: Session, config: Any) -> None:
        self.session = session
        self._config = config
        self._shown: Completion | None = None
        self._formatter_before: Any = None
        self._teach_displayhook()
        self._handlers: Mapping[str, Callable[[str], Any]] = {
            "openrouter_stats": self.stats,
            "openrouter_entries": self.entries,
            "openrouter_purge": self.purge,
            "openrouter_last": self.last,
            "openrouter_config": self.configure,
            "openrouter_key": self.set_key,
        }

    def run(self, name: str, line: str, cell: str | None, local_ns: Mapping[str, Any]) -> Any:
        """What a magic gives back."""
        if name != "openrouter":
            return self._handlers[name](line)
        variables = {**self.session.shell.user_ns, **local_ns}
        return self.ask_line(line, variables) if cell is None else self.ask_cell(line, cell, variables)

    # -- asking -------------------------------------------------------------------------------

    def ask_cell(self, line: str, cell: str, variables: Mapping[str, Any]) -> Any:
        """``%%openrouter``: asks with the cell's body as the prompt."""
        options = parse_ask_cell(line)
        if options.help or (not line.strip() and not cell.strip()):
            self._say(help_text(CELL))
            return None
        return self._ask(options, cell.removesuffix("\n"), variables)

    def ask_line(self, line: str, variables: Mapping[str, Any]) -> Any:
        """``%openrouter``: asks with the rest of the line; without one, says how things stand."""
        options = parse_ask_line(line)
        if options.help:
            self._say(help_text(LINE))
            return None
        if not line.strip():
            from .cards import status_card

            self._say(*status_card(self.session))

            return None
        return self._ask(options, options.prompt, variables)

    def _ask(self, options: AskOptions, prompt: str, variables: Mapping[str, Any]) -> Any:
        from or_cache_magic.asking import chat_body, policy_for
        from or_cache_magic.completion import Completion
        from or_cache_magic.render import open_screen

        session = self.session
        settings = session.settings()
        if not options.raw and "{{" in prompt:
            from .templating import render

            prompt = render(prompt, variables)
        if not prompt.strip():
            raise RequestError("the prompt is empty (nothing was sent)", "write it below %%openrouter")
        system = options.system
        if system is not None:
            system = read_text_argument(system, variables, session.folder)
        body = chat_body(
            prompt, model=options.model, settings=settings, system=system, params=_params(options)
        )
        cache = session.cache()
        stream = settings.stream and not options.no_stream
        request = cache.request(body, settings, sample=options.sample, stream=stream)
        policy = policy_for(
            settings,
            mode=options.mode,
            sample=options.sample,
            ttl=options.ttl_s,
            tag=options.tags,
        )
        if options.dry_run:
            from .cards import preview_line

            self._say(preview_line(body, *cache.peek(request, policy)))

            return None
        assigned = _caller_keeps_result()
        form: Any = options.format or settings.format
        screen = open_screen(
            session.shell,
            format="none" if assigned else form,
            receipt=settings.receipt,
            quiet=options.quiet,
        )
        outcome = _run(cache, request, policy, screen if stream else None)
        completion = Completion(outcome, request)
        session.last = completion
        if options.out:
            cast("Any", session.shell).push({options.out: completion})
        if stream and outcome.kind in ("miss", "refresh", "bypass"):
            screen.finish(completion)
        else:
            screen.show(completion)
        screen.receipt(outcome, asked=str(body["model"]))
        for notice in cache.database.pop_notices():
            self._say(notice)
        self._parse(completion, form)
        return self._deliver(completion, assigned=assigned)

    def _parse(self, completion: Completion, form: str) -> None:
        """Parses the answer where its asker wants data of it."""
        if form not in ("json", "df"):
            return
        from or_cache_magic.render import parse_json, parse_table

        try:
            completion.attach(parse_json(completion) if form == "json" else parse_table(completion))
        except ValueError as exc:
            raise FormatError(
                f"the answer can't be read as {form}: {exc} (it is kept, and running again is free)",
                "ask for the form in the prompt, or take the text from %openrouter_last",
            ) from None

    def _deliver(self, completion: Completion, *, assigned: bool) -> Completion | None:
        """Makes the completion `_` and ``Out[n]`` without showing it a second time."""
        if assigned:
            return completion
        shell: Any = self.session.shell
        if getattr(shell, "kernel", None) is None and _calling_frame() is not None:
            # A terminal would print "Out[3]:" for a value that is on the screen already.
            shell.displayhook.update_user_ns(completion)
            shell.displayhook.fill_exec_result(completion)
            return None
        self._shown = completion
        return completion

    def _teach_displayhook(self) -> None:
        from or_cache_magic.completion import Completion
        from or_cache_magic.render import open_screen

        def show(completion: Completion) -> None:
            if self._shown is completion:
                self._shown = None
                return
            settings = self.session.settings()
            open_screen(self.session.shell, format=cast("Any", settings.format)).show(completion)

        self._formatter_before = self._display_formatter.for_type(Completion, show)

    @property
    def _display_formatter(self) -> Any:
        formatter: Any = self.session.shell.display_formatter
        return formatter.ipython_display_formatter

    def uninstall(self) -> None:
        """Takes back what was taught to the shell's display."""
        from or_cache_magic.completion import Completion

        if self._formatter_before is None:
            self._display_formatter.pop(Completion, None)
        else:
            self._display_formatter.for_type(Completion, self._formatter_before)

    # -- looking after the cache --------------------------------------------------------------

    def stats(self, line: str) -> pd.DataFrame | None:
        """``%openrouter_stats``."""
        options = parse_stats(line)
        if options.help:
            self._say(help_text(STATS))
            return None
        return self.session.cache().stats(options.by or "", session=options.session)

    def entries(self, line: str) -> pd.DataFrame | None:
        """``%openrouter_entries``: a table, or one entry whole."""
        options = parse_entries(line)
        if options.help:
            self._say(help_text(ENTRIES))
            return None
        cache = self.session.cache()
        if options.key is not None:
            from .cards import entry_card

            self._say(*entry_card(cache, options.key))

            return None
        return cache.entries(options.text, model=options.model, tag=options.tag, since=options.since_s)

    def purge(self, line: str) -> pd.DataFrame | None:
        """``%openrouter_purge``: says what would go, asks, removes, and returns what went."""
        options = parse_purge(line)
        if options.help:
            self._say(help_text(PURGE))
            return None
        from .cards import purge_line

        cache, system = self.session.cache(), options.system
        if system is not None:
            system = read_text_argument(system, self.session.shell.user_ns, self.session.folder)
        chosen = cache.purge_filter(
            options.keys,
            model=options.model,
            system=system,
            tag=options.tag,
            prefix=options.prefix,
            older=options.older_s,
            expired=options.expired,
            all=options.all,
        )
        preview = cache.preview(chosen)
        self._say(purge_line(preview, dry_run=options.dry_run))
        if preview.entries == 0:
            return None
        if options.dry_run:
            return cache.chosen(chosen)
        if not options.yes and not _confirmed(f"Remove {preview.entries:,}? [y/N] "):
            self._say("nothing was removed")
            return None
        gone = cache.chosen(chosen)
        cache.drop(chosen)
        return gone

    def last(self, line: str) -> Completion | None:
        """``%openrouter_last``: the last completion."""
        if parse_plain(LAST, line):
            self._say(help_text(LAST))
            return None
        if self.session.last is None:
            raise OptionError("nothing was asked in this session yet", "ask with %%openrouter first")
        return self.session.last

    def configure(self, line: str) -> pd.DataFrame | None:
        """``%openrouter_config``: the settings as a table, after changing those that are named."""
        options = parse_config(line)
        if options.help:
            self._say(help_text(CONFIG))
            return None
        from or_cache_magic.settings import parse_setting

        changes = {
            name: parse_setting(name, value, "%openrouter_config") for name, value in options.changes.items()
        }
        if options.save:
            from .saving import save_settings

            self._say(f"saved in {save_settings(self.session.folder, options.changes)}")
        for name, value in changes.items():
            setattr(self._config, name, value)
        if "cache_dir" in changes:
            self.session.close()
        from .cards import settings_frame

        return settings_frame(self.session.settings())

    def set_key(self, line: str) -> None:
        """``%openrouter_key``: asks for the key without echoing it, and keeps it in memory."""
        if parse_plain(KEY, line):
            self._say(help_text(KEY))
            return
        import getpass

        try:
            key = getpass.getpass("OpenRouter API key: ").strip()
        except Exception as exc:  # noqa: BLE001 - each front end has its own way to say that it can't ask
            raise OptionError(
                f"this front end can't ask for the key ({type(exc).__name__})", "set OPENROUTER_API_KEY"
            ) from None
        if not key:
            raise OptionError("no key was given; nothing was changed", "paste it, then press Enter")
        self.session.key = key
        from .cards import masked

        self._say(f"key set for this kernel: {masked(key)}")

        return

    # -- within -------------------------------------------------------------------------------

    def model_names(self) -> Sequence[str]:
        """The model ids and aliases that completion offers: those set, and those asked before."""
        try:
            settings = self.session.settings()
            stored = self.session.cache().store.models()
        except OrCacheError:
            return ()
        names = [*settings.aliases, *([settings.model] if settings.model else ()), *stored]
        return list(dict.fromkeys(names))

    def _say(self, text: str, markdown: str | None = None) -> None:
        from .cards import say

        say(self.session.shell, text, markdown)


def _run(cache: CompletionCache, request: Request, policy: Policy, screen: Screen | None) -> Outcome:
    """Asks; what had arrived when it is interrupted or breaks stays on the screen."""
    if screen is None:
        return cache.run(request, policy)
    screen.begin()
    try:
        return cache.run(request, policy, screen.feed)
    except BaseException:
        screen.finish()
        raise


def _params(options: AskOptions) -> dict[str, Any]:
    params: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "seed", "max_tokens")
        if (value := getattr(options, name)) is not None
    }
    if params.get("max_tokens") == "none":
        params["max_tokens"] = None
    return {**params, **options.params}


def _calling_frame() -> FrameType | None:
    """The frame of the user's code that runs a magic as a statement of its own; None when it isn't one."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - its documented use: who called
    while frame is not None:
        if _BARE_CALL.match(getline(frame.f_code.co_filename, frame.f_lineno)):
            return frame
        frame = frame.f_back
    return None


def _caller_keeps_result() -> bool:
    """Whether the line is ``x = %openrouter …``: the answer is a value, and only its receipt is shown."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as above
    while frame is not None:
        line = getline(frame.f_code.co_filename, frame.f_lineno)
        if "get_ipython().run_line_magic(" in line:
            return not _BARE_CALL.match(line)
        frame = frame.f_back
    return False


def _confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, OSError, NotImplementedError, RuntimeError):
        raise OptionError(
            "this front end can't ask, so nothing was removed", "add -y to remove without asking"
        ) from None
