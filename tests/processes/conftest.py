"""Other kernels on the test's cache folder: real programs, the same that the soak uses."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from or_cache_magic.simulator import Simulator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session", autouse=True)
def _benchmarks_can_be_imported():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def sim():
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared") / ".or_cache"


@pytest.fixture(scope="module")
def _pool(folder, sim):
    """The programs of a module; starting one costs half a second."""
    with ExitStack() as running:
        yield running, []


@pytest.fixture
def kernels(_pool, folder, sim):
    """``kernels(3)`` is three programs on one folder that ask the simulator, ready to be told what to do."""
    from kernels import Kernel

    running, started = _pool
    sim.clear()

    def take(count):
        while len(started) < count:
            started.append(running.enter_context(Kernel(folder, sim.base_url)))
            assert started[-1].hear() == {"ready": True}
        return started[:count]

    return take


@pytest.fixture
def prompt(request):
    """A prompt that no other test asks."""
    return f"What does {request.node.name} show?"
