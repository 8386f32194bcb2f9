"""``or-cache demo``: the quickstart notebook, run twice in fresh kernels against the simulator.

The first run buys every answer from a simulated OpenRouter; the second must send nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.units import format_usd
from or_cache_magic.errors import OptionError, OrCacheError
from or_cache_magic.notebook.location import FOLDER

if TYPE_CHECKING:
    from or_cache_magic.core.rows import Totals
    from or_cache_magic.simulator import Simulator

NOTEBOOK: Final = "quickstart.ipynb"
"""The notebook that is run."""

FILES: Final = (NOTEBOOK, "reviews.csv")
"""What it needs beside it, itself included; a wheel has them by ``force-include``."""
_CELL_TIMEOUT_S: Final = 120
_LEFT_OUT: Final = ("OPENROUTER_", "OR_CACHE_", "JPY_SESSION_NAME")
"""How the variables begin that would lead the demo to the user's key or cache."""


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run of the notebook.

    ``paid_usd`` and ``saved_usd`` are sums of what is known, as in `rows.Totals`; ``requests`` is how many
    completions the simulator was asked for.
    """

    cells: int
    hits: int
    misses: int
    paid_usd: Decimal
    saved_usd: Decimal
    requests: int
    elapsed_s: float

    def __str__(self) -> str:
        return (
            f"{self.cells} cells · {self.hits} hits · {self.misses} misses · paid {format_usd(self.paid_usd)}"
            f" · saved {format_usd(self.saved_usd)} · {self.requests} requests sent · {self.elapsed_s:.1f} s"
        )


def quickstart_folder() -> Path:
    """Return the folder with the quickstart and its table: this package's, or a checkout's ``notebooks``.

    Raises:
        OrCacheError: Neither has them.
    """
    here = Path(__file__).parent
    for folder in (here, here.parents[1] / "notebooks"):
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise OrCacheError(f"{NOTEBOOK} is not part of this installation", "install or-cache-magic again")


def run_demo(keep: Path | None = None, *, say: Callable[[str], object]) -> tuple[Run, Run]:
    """Run the quickstart twice and return the figures of each run.

    Args:
        keep: The folder to run in, made when absent; what is there of an earlier demo is used again, its
            cache too. None runs in a temporary folder that is removed at the end.
        say: Takes each line of the report as it is known.

    Raises:
        OrCacheError: Something that it needs isn't installed, a cell failed, or the second run sent requests.
    """
    _require("nbclient", "ipykernel")
    from or_cache_magic.simulator import Simulator

    with _folder(keep) as folder, Simulator() as simulator:
        for name in FILES:
            shutil.copyfile(quickstart_folder() / name, folder / name)
        say(f"notebook: {folder / NOTEBOOK}")
        say(f"cache:    {folder / FOLDER}")
        runs = []
        for name in ("first", "second"):
            runs.append(_run(folder, simulator))
            say(f"{name + ' run:':<12}{runs[-1]}")
        first, second = runs
        if second.requests or second.misses:
            raise OrCacheError(
                f"the second run sent {second.requests} requests; it should have sent none",
                f"run it again with --keep FOLDER and look into FOLDER/{NOTEBOOK}",
            )
        say(
            "The second run sent nothing: every answer came from the completion cache."
            + ("" if keep else "\nThe folder is removed now; --keep FOLDER leaves one to look at.")
        )
    return first, second


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise OptionError(
            f"the demo needs {' and '.join(missing)}, which is not installed",
            "pip install 'or-cache-magic[demo]'",
        )


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise OptionError(f"{keep} can't be made: {problem.strerror}", "choose another folder") from None
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="or-cache-demo-") as made:
        yield Path(made).resolve()


def _run(folder: Path, simulator: Simulator) -> Run:
    """Run the notebook in a new kernel and save it with its outputs."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    before, asked_before, began_s = _totals(folder), simulator.completion_count, time.monotonic()
    try:
        # ipykernel warns of its transport on stderr, among the report's lines.
        client.execute(env=_environment(simulator), stderr=subprocess.DEVNULL)
    except CellExecutionError as problem:
        raise _failed(f"a cell failed: {problem.ename}: {problem.evalue}") from None
    except (CellTimeoutError, DeadKernelError) as problem:
        raise _failed(str(problem)) from None
    finally:
        nbformat.write(notebook, folder / NOTEBOOK)
    after = _totals(folder)
    return Run(
        cells=sum(cell.cell_type == "code" for cell in notebook.cells),
        hits=after.hits - before.hits,
        misses=after.misses - before.misses,
        paid_usd=after.paid_usd - before.paid_usd,
        saved_usd=after.saved_usd - before.saved_usd,
        requests=simulator.completion_count - asked_before,
        elapsed_s=time.monotonic() - began_s,
    )


def _failed(why: str) -> OrCacheError:
    (first, *_) = why.strip().splitlines() or [""]
    return OrCacheError(
        f"{NOTEBOOK} did not run: {first}", f"--keep FOLDER leaves FOLDER/{NOTEBOOK} to look into"
    )


def _totals(folder: Path) -> Totals:
    with CompletionCache(folder / FOLDER) as cache:
        return cache.totals()[0]


def _environment(simulator: Simulator) -> dict[str, str]:
    """Return the kernel's environment: the simulator and its key in place of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    return {**kept, "OPENROUTER_BASE_URL": simulator.base_url, "OPENROUTER_API_KEY": simulator.api_key}
