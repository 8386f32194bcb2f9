"""The magics by name, and what they share. Each is imported when it is first run."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from or_cache_magic.errors import OrCacheError

if TYPE_CHECKING:
    from or_cache_magic.notebook.session import Session

__all__ = ["Magics"]


class Magics:
    """What the magics do.

    Args:
        session: What they share.
        config: The traits that ``%openrouter_config`` sets.
    """

    def __init__(self, session: Session, config: Any) -> None:
        self.session = session
        self._config = config

    def run(self, name: str, line: str, cell: str | None, local_ns: Mapping[str, Any]) -> Any:
        """What a magic gives back.

        Args:
            name: The magic's, without ``%``.
            line: What stands behind the name.
            cell: What stands below; None in a line magic.
            local_ns: The variables of the function that the line stands in.

        Raises:
            OrCacheError: It can't be done; see each magic.
        """
        variables = ChainMap(dict(local_ns), self.session.shell.user_ns)
        if name == "openrouter":
            from or_cache_magic.notebook.ask import ask_cell, ask_line

            if cell is None:
                return ask_line(self.session, line, variables)
            return ask_cell(self.session, line, cell, variables)
        if name == "openrouter_warm":
            from or_cache_magic.notebook.maintenance import warm

            return warm(self.session, line, variables)
        from or_cache_magic.notebook.maintenance import HANDLERS, configure, purge

        if name == "openrouter_config":
            return configure(self.session, self._config, line)
        if name == "openrouter_purge":
            return purge(self.session, line, variables)
        return HANDLERS[name](self.session, line)

    def model_names(self) -> Sequence[str]:
        """The model ids and aliases that completion offers: those set, and those asked before."""
        try:
            settings = self.session.settings()
            stored = self.session.cache().store.models()
        except OrCacheError:
            return ()
        names = [*settings.aliases, *([settings.model] if settings.model else ()), *stored]
        return list(dict.fromkeys(names))
