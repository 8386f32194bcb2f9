"""``%load_ext or_cache_magic`` and its undoing.

Loading registers names and nothing more: no import beyond this package's edge, no socket, no folder, no
output. What a magic needs is imported when one is first run, completed or explained. Unloading leaves the
shell as it was; IPython has no call for that, so each thing that was added is taken out again here.
"""

from __future__ import annotations

import atexit
import time
import tokenize
from typing import TYPE_CHECKING, Any, Final

from IPython.core.inputtransformer2 import (
    EscapedCommand,
    HelpEnd,
    MagicAssign,
    TokenTransformBase,
    cell_magic,
    leading_empty_lines,
    leading_indent,
)
from traitlets import Any as AnyValue
from traitlets import TraitError, validate
from traitlets.config import Configurable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

    from or_cache_magic.notebook.session import Session

_NAME = "openrouter"
_Tokens = list[tokenize.TokenInfo]


class MagicWithWords(TokenTransformBase):
    """``%openrouter words…`` or ``name = %openrouter words…``, whatever the words end in."""

    #: Before the reading as a request for help, where both match.
    priority = HelpEnd.priority - 1

    def __init__(self, line_start: tuple[int, int], magic: TokenTransformBase) -> None:
        # The request for help begins where the line does, so this has to, though its % may come later.
        super().__init__(line_start)  # type: ignore[no-untyped-call]
        self._magic = magic

    @classmethod
    def find(cls, tokens_by_line: Sequence[_Tokens]) -> MagicWithWords | None:
        """Return the first such line of a cell, or None; `tokens_by_line` has a list a logical line."""
        for line in tokens_by_line:
            magic = EscapedCommand.find([line]) or MagicAssign.find([line])  # type: ignore[no-untyped-call]
            if magic is not None and _has_words(line, magic):
                first = next(t for t in line if t.type not in (tokenize.INDENT, tokenize.DEDENT))
                return cls(first.start, magic)
        return None

    def transform(self, lines: list[str]) -> list[str]:
        """Return `lines` with this one as a call of the magic, as IPython would without the ``?``."""
        call: list[str] = self._magic.transform(lines)
        return call


def _has_words(line: _Tokens, magic: TokenTransformBase) -> bool:
    start = (magic.start_line + 1, magic.start_col)
    # A DEDENT begins where the % does, so the place alone does not find it.
    at = next((i for i, token in enumerate(line) if token.start == start and token.string == "%"), None)
    if at is None or len(line) < at + 3:
        return False
    name, following = line[at + 1 : at + 3]
    if name.string != _NAME and not name.string.startswith(f"{_NAME}_"):
        return False
    # ``%openrouter?`` and ``%openrouter.x?`` have no space; before Python 3.12 a space can be a token.
    return not following.string.strip() or following.start > name.end


def install_help_marks(shell: InteractiveShell) -> None:
    """Let prompts end in ``?``; a second time changes nothing."""
    transformers = _transformers(shell)
    if MagicWithWords not in transformers:
        transformers.append(MagicWithWords)


def remove_help_marks(shell: InteractiveShell) -> None:
    """Undo `install_help_marks`; without one it changes nothing."""
    transformers = _transformers(shell)
    if MagicWithWords in transformers:
        transformers.remove(MagicWithWords)


def _transformers(shell: InteractiveShell) -> list[Any]:
    transformers: list[Any] = shell.input_transformer_manager.token_transformers
    return transformers


MAGICS: Final = (
    "openrouter",
    "openrouter_panel",
    "openrouter_stats",
    "openrouter_entries",
    "openrouter_why",
    "openrouter_plan",
    "openrouter_report",
    "openrouter_pin",
    "openrouter_purge",
    "openrouter_export",
    "openrouter_import",
    "openrouter_warm",
    "openrouter_batches",
    "openrouter_verify",
    "openrouter_models",
    "openrouter_fix",
    "openrouter_last",
    "openrouter_config",
    "openrouter_key",
)
"""The magics; `openrouter` alone is a cell magic too."""

_WITH_KEYS: Final = (
    "openrouter_entries",
    "openrouter_why",
    "openrouter_pin",
    "openrouter_purge",
    "openrouter_export",
    "openrouter_verify",
)

SETTING_NAMES: Final = (
    "model",
    "system",
    "temperature",
    "max_tokens",
    "format",
    "receipt",
    "stream",
    "mode",
    "ttl",
    "volatile_ttl",
    "cache_sampled",
    "stale_if_error",
    "similar",
    "similar_embed",
    "cache_dir",
    "quota",
    "max_cost_usd",
    "max_cost_per_day_usd",
    "base_url",
    "attribution",
    "timeout_s",
    "shared_url",
    "shared_namespace",
    "shared_timeout_s",
    "aliases",
)
"""The settings by name, written once more so that loading need not import their table; a test compares."""


def _traits() -> dict[str, Any]:
    def check(_self: Any, proposal: Any) -> Any:
        value = proposal["value"]
        if value is not None:
            from or_cache_magic.core.settings import parse_setting
            from or_cache_magic.errors import SettingError

            try:
                parse_setting(proposal["trait"].name, value, "configuration")
            except SettingError as exc:
                # traitlets takes a value back on its own error, IPython shows ours in two lines.
                kind = type("SettingError", (SettingError, TraitError), {})
                raise kind(str(exc.args[0]), exc.hint) from None
        # Kept as it was written: "none" is a choice, None is none.
        return value

    traits: dict[str, Any] = {
        name: AnyValue(None, allow_none=True, help="see %openrouter_config").tag(config=True)
        for name in SETTING_NAMES
    }
    return {**traits, "check": validate(*SETTING_NAMES)(check)}


OpenRouterMagics: Any = type(
    "OpenRouterMagics",
    (Configurable,),
    {
        "__doc__": "``c.OpenRouterMagics.*``: the settings; None leaves one to where it came from.",
        **_traits(),
    },
)


class _Magic:
    """A magic's name, doing nothing until it is called or explained."""

    #: A prompt inside a function sees that function's variables.
    needs_local_scope = True

    def __init__(self, extension: Extension, name: str, spelling: str) -> None:
        self._extension = extension
        self._spelling = spelling
        self.__name__ = name
        #: What `IPython.core.magic.no_var_expand` sets: ``$x`` in a line is text, unless it names an entry.
        self._ipython_magic_no_var_expand = name not in _WITH_KEYS

    def __repr__(self) -> str:
        return self._spelling

    def __call__(self, line: str = "", cell: str | None = None, local_ns: Any = None) -> Any:
        from collections import ChainMap

        session = self._extension.session()
        variables = ChainMap(local_ns or {}, session.shell.user_ns)
        try:
            if self.__name__ == _NAME:
                from or_cache_magic.notebook.ask import ask

                return ask(session, line, cell, variables)
            from or_cache_magic.notebook.magics import run

            return run(session, self.__name__, line, variables)
        except KeyboardInterrupt as exc:
            from or_cache_magic.errors import explained

            if hasattr(exc, "answer"):
                raise
            raise explained(exc, "interrupted", "run the cell again: what was bought is kept") from None
        except Exception as exc:
            from or_cache_magic.notebook.commands import COMMANDS
            from or_cache_magic.notebook.parser import spell_as_options

            spell_as_options(exc, COMMANDS[self._spelling])
            raise

    def getdoc(self) -> str:
        """Return the help, where ``?`` looks for it."""
        from or_cache_magic.notebook.commands import COMMANDS
        from or_cache_magic.notebook.parser import help_text

        return help_text(COMMANDS[self._spelling])

    __doc__ = property(getdoc)


class Extension:
    """Everything that loading adds to a shell, so that unloading can take it out."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.config = OpenRouterMagics(parent=shell)
        #: Of the cells that were run since, by number: whether to the end, and when that was. `plan` asks.
        self.ran: dict[int, tuple[bool, float]] = {}
        self._loaded_s = time.time()
        self._session: Session | None = None
        self._matcher: Any = None

    def session(self) -> Session:
        """Return what the magics share, imported at the first use."""
        if self._session is None:
            from or_cache_magic.notebook.session import Session

            self._session = Session(self.shell, self.config, self.ran, self._loaded_s)
        return self._session

    def install(self) -> None:
        """Add the magics, their completion, their hooks and their configuration."""
        from IPython.core.completer import context_matcher

        shell = self.shell
        register: Any = shell.register_magic_function
        for name in MAGICS:
            register(_Magic(self, name, f"%{name}"), "line", name)
        register(_Magic(self, "openrouter", "%%openrouter"), "cell", "openrouter")
        shell.configurables.append(self.config)
        shell.events.register("post_run_cell", self._after_cell)
        shell.input_transformers_cleanup[:0] = TRANSFORMERS
        install_help_marks(shell)

        @context_matcher(identifier="or_cache_magic")  # type: ignore[untyped-decorator]
        def matcher(context: CompletionContext) -> Any:
            return self._complete(context)

        self._matcher = matcher
        shell.Completer.custom_matchers.append(self._matcher)
        atexit.register(self.close)

    def uninstall(self) -> None:
        """Take out what `install` added, and close the cache."""
        shell = self.shell
        for name in MAGICS:
            for kind in ("line", "cell"):
                if isinstance(shell.magics_manager.magics[kind].get(name), _Magic):
                    del shell.magics_manager.magics[kind][name]
        shell.configurables.remove(self.config)
        shell.events.unregister("post_run_cell", self._after_cell)
        for transformer in TRANSFORMERS:
            shell.input_transformers_cleanup.remove(transformer)
        remove_help_marks(shell)
        shell.Completer.custom_matchers.remove(self._matcher)
        atexit.unregister(self.close)
        self.close()

    def close(self) -> None:
        """Write what is counted, and close the cache."""
        if self._session is not None:
            self._session.close()

    def _after_cell(self, result: Any) -> None:
        self.ran[result.execution_count] = result.success, time.time()
        if self._session is not None:
            self._session.after_cell()

    def _complete(self, context: CompletionContext) -> Any:
        if "openrouter" not in context.full_text:
            return {"completions": []}
        from IPython.core.completer import SimpleCompletion

        from or_cache_magic.notebook.completer import complete

        piece, words = complete(
            context.full_text,
            context.cursor_line,
            context.cursor_position,
            models=self.session().model_names,
            settings=lambda: SETTING_NAMES,
            files=self.session().file_names,
            answers=self.session().replaced_answers,
        )
        return {
            "completions": [SimpleCompletion(word, type="magic") for word in words],
            "matched_fragment": piece,
            "suppress": bool(words),
            "ordered": True,
        }


def drop_comments(lines: list[str]) -> list[str]:
    """Return a ``%%openrouter`` cell without the comments above it: IPython wants ``%%`` first."""
    if not lines or lines[0].startswith("%%"):
        return lines
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    return lines[first:] if lines[first].startswith("%%openrouter") else lines


def take_body(lines: list[str]) -> Any:
    """Return a ``%%openrouter`` cell, also one below ``%%time``, as a call with the body as typed.

    IPython's later transformers would take prompts of shells (``In [3]: ``) off the lines of this one. It
    refuses a cell magic without a body before it is asked, so that ``%%openrouter --help`` could not help.
    """
    cell: Any = leading_empty_lines(lines)  # type: ignore[no-untyped-call]
    if cell and cell[0][:1].isspace():
        cell = leading_indent(cell)  # type: ignore[no-untyped-call]
    heads, is_ours = 0, False
    while heads < len(cell) and cell[heads].startswith("%%"):
        is_ours = is_ours or cell[heads].startswith("%%openrouter")
        heads += 1
    if not is_ours:
        return lines
    if len(cell) == heads and not cell[-1].rstrip().endswith("?"):
        cell = [*cell[:-1], cell[-1].rstrip("\n") + "\n", "\n"]
    return cell_magic(cell)  # type: ignore[no-untyped-call]


# IPython leaves such transformers out where it asks whether a cell is complete: in a terminal the first
# line would be, and the prompt could not be typed.
take_body.has_side_effects = True  # type: ignore[attr-defined]

TRANSFORMERS: Final = (drop_comments, take_body)


def transformer() -> Callable[[str], str]:
    """Return what makes Python of a cell as a shell with this extension does, where there is no shell."""
    from IPython.core.inputtransformer2 import TransformerManager

    manager: Any = TransformerManager()  # type: ignore[no-untyped-call]
    manager.cleanup_transforms[:0] = TRANSFORMERS
    manager.token_transformers.append(MagicWithWords)
    transform: Callable[[str], str] = manager.transform_cell
    return transform


_loaded: list[Extension] = []
"""The one loaded extension, or none."""


def loaded() -> Extension | None:
    """Return the extension that is loaded in this process; None when none is."""
    return _loaded[0] if _loaded else None


def load(shell: InteractiveShell) -> None:
    """Load the extension into `shell`; a second time replaces the first."""
    unload(shell)
    extension = Extension(shell)
    extension.install()
    _loaded.append(extension)


def unload(shell: InteractiveShell) -> None:  # noqa: ARG001 - IPython's signature
    """Unload it, leaving the shell as it was; without one it changes nothing."""
    while _loaded:
        _loaded.pop().uninstall()
