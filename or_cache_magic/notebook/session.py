"""What one kernel's magics share: its settings, its key, its cache, its last completion, its output."""

from __future__ import annotations

import dis
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.settings import ENVIRONMENT, SETTINGS, Project, Settings, load_settings
from or_cache_magic.errors import OptionError, OrCacheError, printable

if TYPE_CHECKING:
    from types import FrameType

    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion

_FLUSH_EVERY_S = 1.0
"""Hits are counted in memory; a loop of cells that hit writes them at most so often."""


_KEY_DIGITS: Final = 10
_OFFERED: Final = 50


class Session:
    """The state behind the magics of one shell.

    Args:
        shell: The IPython shell.
        config: The traits that ``c.OpenRouterMagics`` and ``%openrouter_config`` set; None is not set.
        ran: Of the cells that were run, by number: whether to the end, and when that was.
        loaded_s: When the extension was loaded.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        config: Any,
        ran: Mapping[int, tuple[bool, float]] | None = None,
        loaded_s: float = 0.0,
    ) -> None:
        self.shell: Any = shell
        self.config = config
        #: The last completion that a magic asked for, or the table of several; None before the first.
        self.last: Completion | pd.DataFrame | None = None
        #: The key given by ``%openrouter_key``; in memory only.
        self.key: str | None = None
        #: The last exception of the notebook that is none of this package's; for ``%openrouter_fix``.
        self.failure: BaseException | None = None
        #: What the cell of the last ask that was not served had asked before; empty is not known.
        self.asked_before = ""
        #: What a receipt has told already that changes by itself.
        self.warned: set[str] = set()
        #: Of the cells that were run, by number: whether to the end, and when that was.
        self.ran: Mapping[int, tuple[bool, float]] = {} if ran is None else ran
        #: When the extension was loaded.
        self.loaded_s = loaded_s
        self._asked: dict[str, str] = {}
        self._project = Project(self.folder)
        self._configured: dict[str, Any] | None = None
        self._settings: tuple[object, Settings] | None = None
        self._cache: CompletionCache | None = None
        self._flushed_s = time.monotonic()
        config.observe(self._changed, list(SETTINGS))
        self.note_failure()

    @property
    def folder(self) -> Path:
        """Return the folder that the kernel was started in; ``%cd`` does not move it."""
        return Path(self.shell.starting_dir)

    def settings(self) -> Settings:
        """Return the settings in force now; the same object while nothing they come from has changed."""
        if self._configured is None:
            self._configured = {name: getattr(self.config, name) for name in SETTINGS}
        # A variable that comes or goes changes their number: cheaper than to look at all of them.
        environ = [len(os.environ), *map(os.environ.get, ENVIRONMENT)]
        sources = (self._project.values(), self._configured, environ)
        if self._settings is None or self._settings[0] != sources:
            self._settings = (sources, load_settings(os.environ, self._project, self._configured))
        return self._settings[1]

    def _changed(self, change: Any) -> None:
        self._configured = None
        if change["name"] == "cache_dir":
            self.close()

    def api_key(self) -> str | None:
        """Return the OpenRouter key: the one given by ``%openrouter_key``, else ``OPENROUTER_API_KEY``."""
        return self.key or os.environ.get("OPENROUTER_API_KEY") or None

    @property
    def key_source(self) -> str:
        """The name of the place where the key was found; empty when there is none."""
        if self.key:
            return "%openrouter_key"
        return "OPENROUTER_API_KEY" if self.api_key() else ""

    def cache(self) -> CompletionCache:
        """Return the completion cache, found and opened at the first use and then kept."""
        if self._cache is None:
            from or_cache_magic.cache.cache import CompletionCache
            from or_cache_magic.notebook.location import locate, notebook_file, notebook_name

            location = locate(self.shell, self.settings().cache_dir)
            notebook = notebook_file(starting_dir=self.folder, environ=os.environ, user_ns=self.shell.user_ns)
            self._cache = CompletionCache(
                location.path,
                settings=self.settings,
                api_key=self.api_key,
                notebook=notebook_name(notebook, location),
                packs=self.folder if notebook is None else notebook.path.parent,
            )
            if location.others:
                # They are in or above this folder; a whole path would name the user in a saved notebook.
                places = [os.path.relpath(path, self.folder) for path in (location.path, *location.others)]
                self._cache.database.tell(
                    f"the completion cache is {places[0]}; in reach is {', '.join(places[1:])} too, and this"
                    " front end does not tell the notebook's folder: OR_CACHE_DIR names the one that is meant"
                )
        return self._cache

    @property
    def in_terminal(self) -> bool:
        """Whether the shell shows text alone: it has no kernel."""
        return getattr(self.shell, "kernel", None) is None

    def note_miss(self, key: str) -> None:
        """Note what a cell asked that the cache did not serve; `asked_before` is what it had asked before.

        Hits aren't noted: they would pay for it.
        """
        kernel = getattr(self.shell, "kernel", None)
        parent: Any = getattr(kernel, "get_parent", dict)()
        cell = str((parent.get("metadata") or {}).get("cellId", ""))
        self.asked_before = self._asked.get(cell, "") if cell else ""
        if cell and key != self.asked_before:
            self._asked[cell] = key

    def follows_updates(self) -> bool:
        """Return whether who shows the cell's outputs follows updates: ``%%capture`` and ``Output`` don't."""
        from IPython.core.displaypub import CapturingDisplayPublisher

        if isinstance(self.shell.display_pub, CapturingDisplayPublisher):
            return False
        # An Output that takes what this cell shows has the id of the cell's message.
        widgets = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
        cell = self.shell.kernel.get_parent().get("header", {}).get("msg_id")
        return not any(getattr(shown, "msg_id", "") == cell for shown in [*widgets.values()])

    def say(self, text: str, markdown: str | None = None) -> None:
        """Show a text: rendered in a notebook where `markdown` is given, plain in a terminal."""
        text = printable(text)
        if self.in_terminal:
            print(text)  # noqa: T201 - a terminal
            return
        data = {"text/plain": text} if markdown is None else {"text/plain": text, "text/markdown": markdown}
        self.shell.display_pub.publish(data=data, metadata={"or_cache_magic": {"role": "note"}})

    def deliver(self, value: object) -> None:
        """Make a value that is on the screen already `_` and ``Out[n]``, as showing it would."""
        hook = self.shell.displayhook
        hook.update_user_ns(value)
        hook.fill_exec_result(value)

    def give(
        self,
        frame: pd.DataFrame,
        text: Callable[[pd.DataFrame], str] | None = None,
        *,
        as_text: bool = False,
    ) -> pd.DataFrame | None:
        """Return a table to a caller that goes on with it; in a terminal, or `as_text`, show it as `text`."""
        if not (self.in_terminal or as_text) or keeps_result() is not False:
            return frame
        from or_cache_magic.display.frames import frame_text

        self.say((text or frame_text)(frame))
        self.deliver(frame)
        return None

    def own_models(self) -> list[str]:
        """Return the models and aliases of this notebook: those set, and those asked before."""
        try:
            settings, stored = self.settings(), self.cache().store.listing.models()
        except OrCacheError:
            return []
        return list(dict.fromkeys(filter(None, (*settings.aliases, settings.model, *stored))))

    def model_names(self) -> list[str]:
        """Return the models and aliases that completion offers: `own_models`, then those listed, if kept."""
        own = self.own_models()
        try:
            every = self.cache().money.prices.models(self.settings().base_url, may_fetch=False)
        except OrCacheError:
            return own
        return list(dict.fromkeys((*own, *(every.ids if every is not None else ()))))

    def replaced_answers(self) -> list[str]:
        """Return what completion offers to pin: ``KEY:N`` of answers that others took the place of."""
        try:
            return [f"{key[:_KEY_DIGITS]}:{number}" for key, number in self.cache().store.replaced(_OFFERED)]
        except OrCacheError:
            return []

    def file_names(self, begin: str) -> list[str]:
        """Return the paths of files and folders that completion offers for the beginning of one."""
        above = begin[: begin.rfind("/") + 1]
        try:
            found = sorted(os.scandir(self.folder / Path(above).expanduser()), key=lambda entry: entry.name)
            return [f"{above}{e.name}{'/' * e.is_dir()}" for e in found if not e.name.startswith(".")]
        except (OSError, RuntimeError):
            return []

    def after_cell(self) -> None:
        """Write what the cells counted, at most once a second unless something was bought; tell panels."""
        if getattr(sys, "last_value", None) is not None:
            self.note_failure()
        if self._cache is None:
            return
        now_s = time.monotonic()
        if self._cache.bought or now_s - self._flushed_s >= _FLUSH_EVERY_S:
            self._flushed_s = now_s
            self._cache.flush()
        panels = sys.modules.get("or_cache_magic.panels")
        if panels is not None:
            panels.after_cell(self._cache)

    def note_failure(self) -> None:
        """Keep the last exception, unless it is of this package: those explain themselves."""
        last = getattr(sys, "last_value", None)
        if last is not None and not isinstance(last, (OrCacheError, KeyboardInterrupt)):
            self.failure = last

    def close(self) -> None:
        """Flush and close the cache."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None


def confirmed(question: str, unharmed: str = "nothing was removed") -> bool:
    """Return whether the user says yes; `unharmed` is what has not happened where nobody can be asked.

    Raises:
        OptionError: Nobody can be asked.
    """
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, OSError, NotImplementedError, RuntimeError):
        raise OptionError(
            f"this front end can't ask, so {unharmed}", "add -y to go on without asking"
        ) from None


_RUNNERS: Final = ("run_line_magic", "run_cell_magic")
_PRINT: Final = 1
"""The argument of ``CALL_INTRINSIC_1`` that shows an expression's value (Python 3.12 and later)."""


def keeps_result() -> bool | None:
    """Return whether the code that runs the magic goes on with its value: binds, passes or returns it.

    Returns:
        False where the value ends: an expression that stands alone, in a cell, a loop, a function, below
        ``%%time``. None where the bytecode does not tell, as that of a Python to come: then the value is to
        be shown and to be returned.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - its documented use: who called
    while frame is not None and frame.f_code.co_name not in _RUNNERS:
        frame = frame.f_back
    caller = frame and frame.f_back
    if caller is None:
        return True
    code, at = caller.f_code.co_code, caller.f_lasti
    while (called := dis.opname[code[at]]) == "CACHE":
        at -= 2
    at += 2
    while (following := dis.opname[code[at]]) == "CACHE":
        at += 2
    if not called.startswith("CALL"):
        return None
    if following == "RETURN_VALUE":
        # Only an expression compiled on its own returns from a module: that of %time, which hands it on.
        return caller.f_code.co_name != "<module>"
    shown = following == "CALL_INTRINSIC_1" and code[at + 1] == _PRINT
    return not shown and following not in ("POP_TOP", "PRINT_EXPR")
