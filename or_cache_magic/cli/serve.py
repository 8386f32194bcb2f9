"""``or-cache serve``: the completion cache as an OpenAI-compatible endpoint, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import OptionError

_SHORTEST = 8


def serve_cache(
    directory: Path, settings: Settings, say: Callable[[str], None], *, port: int, token_file: Path | None
) -> None:
    """Serve the cache in a folder until an interrupt, and say first which variables lead there.

    Args:
        directory: The cache's folder.
        settings: In force while it serves.
        say: Shows a line.
        port: Where to listen; 0 takes a free port.
        token_file: Has the token, and is made with one where it isn't there; None makes one for this time.

    Raises:
        OptionError: tornado is not installed, the port is taken, or the file can't be used.
    """
    try:
        from or_cache_magic.clients.server import CacheServer
    except ModuleNotFoundError as exc:
        if str(exc.name).partition(".")[0] != "tornado":
            raise
        raise OptionError("or-cache serve needs tornado", "pip install 'or-cache-magic[serve]'") from None
    token = _new_token() if token_file is None else _token_in(token_file)
    signal.signal(signal.SIGTERM, _interrupt)
    with CompletionCache(directory, settings=lambda: settings) as cache, suppress(KeyboardInterrupt):
        try:
            server = CacheServer(cache, token, port)
        except OSError as exc:
            raise OptionError(
                f"can't listen on port {port}: {exc}", "choose another --port, or leave it out for a free one"
            ) from None
        with server:
            say(f"export OPENAI_BASE_URL={server.base_url} OPENAI_API_KEY={token}")
            say(f"serving the completion cache in {directory}; Ctrl-C stops")
            Event().wait()


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _new_token() -> str:
    return f"orc-{secrets.token_urlsafe(24)}"


def _token_in(path: Path) -> str:
    """Return the token in a file that only its owner can read, made where it isn't there."""
    try:
        with suppress(FileExistsError):
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(made, "w", encoding="ascii") as file:
                file.write(f"{_new_token()}\n")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise OptionError(
            f"the token can't be read from {path}: {exc}", "name another --token-file"
        ) from None
    if len(token) < _SHORTEST or not token.isprintable() or " " in token:
        raise OptionError(
            f"{path} holds no token", f"write one word of {_SHORTEST} characters or more, or delete the file"
        )
    return token
