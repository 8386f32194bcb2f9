"""The shipped notebooks, and notebooks as batch jobs run them, in real kernels.

The outputs in ``notebooks/`` are those of a first run, with no key and an empty cache. After a change that
shows in them, run each again from a copy in an empty folder and save it with its outputs.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

import or_cache_magic as orc
from or_cache_magic.notebook.commands import COMMANDS
from or_cache_magic.simulator import Simulator

SHIPPED = Path(__file__).parents[2] / "notebooks"
PACKS = SHIPPED.parent / "docs" / "packs.md"
OURS = ("OPENROUTER_", "OPENAI_", "OR_CACHE_", "JPY_")
MODEL = "openai/gpt-4o-mini"

pytestmark = pytest.mark.kernel


def environment(base_url=None, api_key=None):
    """The environment of a kernel: the machine's, with nothing in it of this package but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    given = {"OPENROUTER_BASE_URL": base_url, "OPENROUTER_API_KEY": api_key}
    return kept | {name: value for name, value in given.items() if value}


def execute(notebook, folder, env, *, allow_errors=False):
    """A copy of a notebook with the outputs of a run in a new kernel."""
    ran = copy.deepcopy(notebook)
    client = NotebookClient(
        ran,
        timeout=180,
        kernel_name="python3",
        coalesce_streams=True,
        allow_errors=allow_errors,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env, stderr=subprocess.DEVNULL)
    return ran


def stripped(notebook):
    """The bytes of the .ipynb without what every run changes: execution counts and timings."""
    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
    return nbformat.writes(bare)


def answers(notebook):
    """The data of each output that shows an answer."""
    return [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("metadata", {}).get("or_cache_magic", {}).get("role") == "answer"
    ]


def asking(*prompts, first="%load_ext or_cache_magic", options=""):
    """A notebook with a ``%%openrouter`` cell for each prompt."""
    sources = [first, *(f"%%openrouter {MODEL} {options}\n{prompt}" for prompt in prompts)]
    cells = [new_code_cell(source, id=f"cell-{place}") for place, source in enumerate(sources)]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def command(*words, cwd, env):
    """A command of this Python's environment, as a shell would run it."""
    program, *rest = words
    return subprocess.run(
        [sys.executable, "-m", program, *rest],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def shipped(name, folder):
    """The path of a copy of a shipped notebook whose simulator listens on a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for beside in ("reviews.csv", "receipt.png", "kettle.pdf"):
        shutil.copy(SHIPPED / beside, folder)
    source = (SHIPPED / name).read_text(encoding="utf-8")
    moved, count = re.subn(r"Simulator\(port=\d+\)", f"Simulator(port={port})", source)
    assert count == 1
    (folder / name).write_text(moved, encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with ``work.ipynb`` whose three answers are cached, and the address of a simulator that is gone."""
    folder = tmp_path_factory.mktemp("bought") / "project"
    folder.mkdir()
    notebook = asking("What is a median?", "What is a mean?", "What is a mode?")
    with Simulator() as simulator:
        base_url = simulator.base_url
        ran = execute(notebook, folder, environment(base_url, simulator.api_key))
        assert simulator.completion_count == 3
    nbformat.write(ran, folder / "work.ipynb")
    return folder, base_url


@pytest.fixture
def bought(project, tmp_path):
    """A copy of that folder for one test, and the same address."""
    folder, base_url = project
    return shutil.copytree(folder, tmp_path / "project"), base_url


# -- the shipped notebooks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quickstart.ipynb", "asking.ipynb", "tables.ipynb", "tour.ipynb"])
def test_shipped_notebook__says_the_same_when_run_without_a_key(name, tmp_path):
    """Strict nbval finds every saved output again in a new folder, with no key and no cache."""
    path = shipped(name, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = command(
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout=180",
        f"--nbval-sanitize-with={SHIPPED / 'nbval.cfg'}",
        "-p",
        "no:cacheprovider",
        "-q",
        path.name,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    cells = nbformat.read(path, as_version=4).cells
    assert f"{sum(cell.cell_type == 'code' for cell in cells)} passed" in done.stdout


def test_quickstart__rerun_changes_only_what_counts_asks(tmp_path):
    """A second run sends nothing, and only the statistics and the numbers of hits differ."""
    path = shipped("quickstart.ipynb", tmp_path)
    notebook = nbformat.read(path, as_version=4)
    with Simulator() as simulator:
        env = environment(simulator.base_url, simulator.api_key)
        first = execute(notebook, tmp_path, env)
        sent = simulator.completion_count
        second = execute(notebook, tmp_path, env)
        assert (sent, simulator.completion_count) == (26, 26)
    changed = [
        old.source.splitlines()[0]
        for old, new in zip(first.cells, second.cells, strict=True)
        if old.get("outputs") != new.get("outputs")
        and [{**o, "execution_count": 0} for o in old.outputs]
        != [{**o, "execution_count": 0} for o in new.outputs]
    ]
    assert changed == [
        "stats = %openrouter_stats --by model",
        "entries = %openrouter_entries leak",
        "%openrouter_panel",
    ]


def test_tour__shows_every_magic_and_every_option():
    """No row of the magics' tables is missing from the tour's cells."""
    cells = nbformat.read(SHIPPED / "tour.ipynb", as_version=4).cells
    shown = "\n".join(cell.source for cell in cells)
    missing = {
        f"{spelling} {name}"
        for spelling, magic in COMMANDS.items()
        for name in ("", *magic.by_name)
        if not re.search(rf"(?<![\w-]){re.escape(name or spelling)}(?![\w-])", shown)
    }
    assert not missing


@pytest.mark.parametrize("name", ["quickstart.ipynb", "asking.ipynb", "tables.ipynb", "tour.ipynb"])
def test_shipped_notebook__is_fit_to_be_shared(name):
    """It has outputs, no error but those that it means to show, no key, and no comment in a prompt."""
    notebook = nbformat.read(SHIPPED / name, as_version=4)
    nbformat.validate(notebook)
    assert answers(notebook)
    for cell in notebook.cells:
        failed = [o for o in cell.get("outputs", ()) if o.output_type == "error"]
        assert bool(failed) == ("raises-exception" in cell.metadata.get("tags", ()))
        assert not (cell.source.startswith("%%openrouter") and "NBVAL" in cell.source.upper())
    text = (SHIPPED / name).read_text(encoding="utf-8")
    assert "sk-or-" not in text
    assert not re.search(r"/(root|tmp|Users)/", text)


# -- run again ------------------------------------------------------------------------------------


def test_rerun__is_the_same_file_without_key_or_network(tmp_path):
    """Twenty streamed cells, run again in a new kernel with no key and nothing to connect to, give the same .ipynb."""
    prompts = [f"Give two tips on topic number {n}, with a list." for n in range(20)]
    config = "%load_ext or_cache_magic\nsettings = %openrouter_config receipt=stable"
    notebook = asking(*prompts, first=config)
    with Simulator() as simulator:
        base_url = simulator.base_url
        first = execute(notebook, tmp_path, environment(base_url, simulator.api_key))
        assert simulator.completion_count == 20
        assert all(row.body["stream"] for row in simulator.requests if row.is_completion)
    second = execute(notebook, tmp_path, environment(base_url))
    assert len(answers(second)) == 20
    assert answers(second) == answers(first)
    assert stripped(second) == stripped(first)


def test_rerun__live_receipt_tells_that_it_was_cached(bought):
    """With live receipts the answers are the same, and the receipts say what was saved."""
    folder, base_url = bought
    first = nbformat.read(folder / "work.ipynb", as_version=4)
    second = execute(first, folder, environment(base_url))
    assert answers(second) == answers(first)
    receipts = [cell.outputs[-1].data["text/plain"] for cell in second.cells[1:]]
    assert all(re.search(r" · cached .* · saved \$0\.0", line) for line in receipts)
    assert stripped(second) != stripped(first)


def test_nbconvert__executes_from_the_cache(bought):
    """``jupyter nbconvert --execute`` finds the notebook's cache and needs no key."""
    folder, base_url = bought
    done = command(
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output",
        "out.ipynb",
        "work.ipynb",
        cwd=folder,
        env=environment(base_url),
    )
    assert done.returncode == 0, done.stderr
    saved = nbformat.read(folder / "work.ipynb", as_version=4)
    assert answers(nbformat.read(folder / "out.ipynb", as_version=4)) == answers(saved)


@pytest.mark.parametrize("inject", [False, True], ids=["folder-above", "inject-paths"])
def test_papermill__finds_the_notebooks_cache_from_another_folder(inject, bought, tmp_path):
    """Started below the notebook it takes the cache above; started elsewhere ``--inject-paths`` leads to it."""
    folder, base_url = bought
    start = tmp_path / "elsewhere" if inject else folder / "jobs" / "nightly"
    start.mkdir(parents=True)
    words = [
        "papermill",
        *(["--inject-paths"] if inject else []),
        "--no-progress-bar",
        str(folder / "work.ipynb"),
        "out.ipynb",
    ]
    done = command(*words, cwd=start, env=environment(base_url))
    assert done.returncode == 0, done.stderr
    assert answers(nbformat.read(start / "out.ipynb", as_version=4)) == answers(
        nbformat.read(folder / "work.ipynb", as_version=4)
    )
    assert not (start / ".or_cache").exists()


# -- what fails -----------------------------------------------------------------------------------


def test_failing_cell__stops_the_run_with_an_error_output(tmp_path):
    """A cell that can't be answered raises, and its output is a real error of two lines."""
    notebook = asking("What is a median?", options="--offline")
    with pytest.raises(CellExecutionError) as raised:
        execute(notebook, tmp_path, environment())
    assert raised.value.ename == "ReplayMiss"
    ran = execute(notebook, tmp_path, environment(), allow_errors=True)
    (output,) = ran.cells[1].outputs
    assert (output.output_type, output.ename) == ("error", "ReplayMiss")
    message, hint = output.traceback
    assert message.startswith("ReplayMiss: offline")
    assert hint.startswith("  ")


def test_nbconvert__fails_without_key_or_answer(tmp_path):
    """With neither a key nor a cached answer nbconvert exits with an error that names the variable to set."""
    nbformat.write(asking("What is a median?"), tmp_path / "work.ipynb")
    done = command(
        "nbconvert", "--to", "notebook", "--execute", "work.ipynb", cwd=tmp_path, env=environment()
    )
    assert done.returncode == 1
    assert "MissingKeyError" in done.stderr
    assert "OPENROUTER_API_KEY" in done.stderr


# -- the how-tos of docs/packs.md -----------------------------------------------------------------


def test_howtos__a_course_runs_without_keys_and_ci_stops_at_a_changed_prompt(bought, tmp_path):
    """The page's commands: students have the same answers, and each tool of CI ends well, or with our two lines."""
    folder, base_url = bought
    with orc.open_cache(folder / ".or_cache") as cache:
        assert cache.export(folder / "lesson.orcache.jsonl", progress=False).entries == 3
    student = tmp_path / "student"
    student.mkdir()
    shutil.copy(folder / "lesson.orcache.jsonl", student)
    shutil.copy(folder / "work.ipynb", student / "lesson.ipynb")
    saved = nbformat.read(folder / "work.ipynb", as_version=4)
    nbconvert, papermill, nbval = re.findall("^- run: (.*)$", PACKS.read_text(encoding="utf-8"), re.MULTILINE)

    def run(line):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(base_url) | {"PATH": path}
        words = ["sh", "-c", line]
        return subprocess.run(
            words, cwd=student, env=env, capture_output=True, text=True, timeout=300, check=False
        )

    done = run(nbconvert)
    assert done.returncode == 0, done.stderr
    assert answers(nbformat.read(student / "done.ipynb", as_version=4)) == answers(saved)
    done = run(f"{nbval} -p no:cacheprovider")
    assert (done.returncode, "4 passed" in done.stdout) == (0, True), done.stdout

    saved.cells[2].source = saved.cells[2].source.replace("mean", "midrange")
    nbformat.write(saved, student / "lesson.ipynb")
    done = run(papermill)
    assert done.returncode == 1
    assert re.search(r"ReplayMiss: offline.*'What is a midrange\?'.*\n  run it once", done.stderr)
    assert "%openrouter_export lesson.orcache.jsonl" in done.stderr
    assert "or_cache_magic/" not in done.stderr
