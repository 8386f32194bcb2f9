"""Where answers come from while we measure: a simulator, and an environment that says nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from figures import MeasuringError

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
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


def measured(folder: str, variables: dict[str, str], *command: str) -> Any:
    """What a script prints as JSON when it is run in a folder, with these variables as its environment.

    Raises:
        MeasuringError: It failed; says its last line.
    """
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise MeasuringError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)
