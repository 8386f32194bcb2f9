"""Where answers come from while we measure: a simulator, and an environment that says nothing else."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from or_cache_magic.cache import CompletionCache
from or_cache_magic.settings import Settings
from or_cache_magic.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "openai/gpt-4o-mini"


@contextmanager
def filling(folder: Path) -> Iterator[tuple[CompletionCache, Simulator]]:
    """A cache in a folder, with default settings, that asks a simulator."""
    with Simulator() as sim:
        settings = Settings(base_url=sim.base_url)
        with CompletionCache(folder, settings=lambda: settings, api_key=lambda: sim.api_key) as cache:
            yield cache, sim


def environment(folder: str, **more: str) -> dict[str, str]:
    """This process's environment for a measured one: without the user's settings and key.

    Bytecode is kept in ``folder``: an installed package has it, and a container that is told to write none
    would compile everything each time.
    """
    ours = ("OPENROUTER_", "OR_CACHE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPYCACHEPREFIX": os.path.join(folder, "bytecode"), **more}
