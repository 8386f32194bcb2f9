"""Shells for the tests of the notebook's edge."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@pytest.fixture
def fresh_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], InteractiveShell]]:
    """Makes a shell of the test's own, with a profile and no history of its own, and takes it down."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    made: list[InteractiveShell] = []

    def make() -> InteractiveShell:
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
        made.append(shell)
        return shell

    yield make
    for shell in made:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
    gc.collect()


@pytest.fixture
def shell(fresh_shell: Callable[[], InteractiveShell]) -> InteractiveShell:
    """A shell of the test's own."""
    return fresh_shell()
