"""What stands around each callback of the panel: its lock, and the place where its error is shown.

JupyterLab runs callbacks on a thread beside that of the cells (subshells), and an exception there is seen by
nobody. So each holds the panel's lock, and whatever it raises is shown in the panel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from or_cache_magic.errors import OrCacheError
from or_cache_magic.panels.markup import escape


class Guarded(Protocol):
    """What has guarded callbacks.

    Attributes:
        lock: Held while one runs; reentrant.
        quiet: Whether the panel itself is changing its controls, which then call back for nothing.
    """

    lock: Any
    quiet: bool

    def alert(self, exc: Exception | None) -> None:
        """Shows what a callback raised; None takes away what was shown before."""


_G = TypeVar("_G", bound=Guarded)
_P = ParamSpec("_P")


def guarded(callback: Callable[Concatenate[_G, _P], None]) -> Callable[Concatenate[_G, _P], None]:
    """A callback that holds the panel's lock and shows its error; does nothing while the panel is `quiet`."""

    @wraps(callback)
    def run(panel: _G, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        with panel.lock:
            if panel.quiet:
                return
            panel.alert(None)
            try:
                callback(panel, *args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - shown: here is the only place where the user can see it
                panel.alert(exc)

    return run


def alert_html(exc: Exception) -> str:
    """What happened, and what to do: two lines."""
    if isinstance(exc, OrCacheError):
        lines = [str(exc.args[0]), exc.hint]
    else:
        lines = [f"{type(exc).__name__}: {exc}", "Refresh reads the completion cache again."]
    said = "\n".join(escape(line, 600) for line in lines if line)
    return f'<div class="orc-alert" role="alert">{said}</div>'
