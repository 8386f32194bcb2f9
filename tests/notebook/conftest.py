"""Shells for the tests of the notebook's edge."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from or_cache_magic.notebook.extension import unload
from or_cache_magic.simulator import Simulator


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Whatever a module's tests left open is noticed at its end: shells are cycles, collected late."""
    yield
    gc.collect()
    gc.freeze()  # what is still there stays: IPython's parsers and libraries, looked through by each shell's end


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
        atexit.unregister(shell.atexit_operations)  # collects garbage, once for each shell there ever was
        InteractiveShell.clear_instance()


@pytest.fixture
def shell(fresh_shell: Callable[[], InteractiveShell]) -> InteractiveShell:
    """A shell of the test's own."""
    return fresh_shell()


@dataclass(frozen=True)
class Notebook:
    """A shell with the extension loaded, in a folder of its own, in front of a simulator."""

    shell: InteractiveShell
    sim: Simulator
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, cell: str) -> str:
        """Runs a cell that must succeed; what it wrote."""
        self.capsys.readouterr()
        self.shell.run_cell(cell, store_history=True).raise_error()
        return self.capsys.readouterr().out

    def fails(self, cell: str) -> str:
        """Runs a cell that must fail; what it wrote."""
        self.capsys.readouterr()
        result = self.shell.run_cell(cell, store_history=True)
        assert not result.success
        written = self.capsys.readouterr()
        return written.out + written.err

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.shell.user_ns[name] = value

    @property
    def sent(self) -> list[Any]:
        """The bodies that reached the simulator."""
        return [row.body for row in self.sim.requests if row.is_completion]

    @property
    def asked(self) -> str:
        """The prompt of the last one."""
        content: str = self.sent[-1]["messages"][-1]["content"]
        return content


@pytest.fixture
def bare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_shell: Callable[[], InteractiveShell],
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Notebook]:
    """A notebook without the extension."""
    folder = tmp_path / "notebook"
    (folder / ".git").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in [n for n in os.environ if n.startswith(("OR_CACHE", "OPENROUTER"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with Simulator() as sim:
        monkeypatch.setenv("OPENROUTER_BASE_URL", sim.base_url)
        monkeypatch.setenv("OPENROUTER_API_KEY", sim.api_key)
        notebook = Notebook(fresh_shell(), sim, folder, capsys)
        yield notebook
        unload(notebook.shell)


@pytest.fixture
def nb(bare: Notebook, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook with the extension, and a model to ask."""
    monkeypatch.setenv("OPENROUTER_MODEL", "openai/gpt-4o-mini")
    bare.run("%load_ext or_cache_magic")
    return bare
