"""Real kernels: what a notebook saves, what a batch job sees, what an interrupt stops."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.simulator import Scenario, Simulator, scenario

pytestmark = pytest.mark.kernel

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef"
ASK = "%%openrouter openai/gpt-4o-mini"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook's folder; kernels started from here on ask the simulator."""
    for name in [n for n in os.environ if n.startswith(("OR_CACHE", "OPENROUTER", "JPY_SESSION"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENROUTER_BASE_URL", sim.base_url)
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("OPENROUTER_MODEL", "openai/gpt-4o-mini")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    made = tmp_path / "notebook"
    (made / ".git").mkdir(parents=True)
    return made


def notebook(*cells: str) -> Any:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.v4.new_notebook(
        metadata=kernel, cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )


def executed(folder: Path, *cells: str) -> list[Any]:
    """Runs a notebook as a batch job does, in a kernel of its own; its cells with their outputs."""
    client = NotebookClient(notebook(*cells), timeout=180, resources={"metadata": {"path": str(folder)}})
    done: list[Any] = client.execute().cells
    return done


class Kernel:
    """A kernel with somebody at the keyboard, who says what `answers` has."""

    def __init__(self, folder: Path) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(folder))
        self.run("%load_ext or_cache_magic")

    def run(self, cell: str, *answers: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """The reply to a cell, its outputs, and what it asked for at the keyboard."""
        typed, outputs, asked = list(answers), [], []

        def answer(message: dict[str, Any]) -> None:
            asked.append(message["content"])
            self.client.input(typed.pop(0))

        reply: dict[str, Any] = {"status": "aborted"}
        while reply["status"] == "aborted":  # what ipykernel does to a cell that comes right after an error
            reply = self.client.execute_interactive(
                cell,
                allow_stdin=bool(answers),
                stdin_hook=answer,
                output_hook=lambda message: outputs.append((message["msg_type"], message["content"])),
                timeout=180,
            )["content"]
        return reply, [o for o in outputs if o[0] not in ("status", "execute_input")], asked

    def shown_next(self, kind: str) -> dict[str, Any]:
        """The next output of a kind, of a cell that is running."""
        while True:
            message = self.client.get_iopub_msg(timeout=180)
            if message["msg_type"] == kind:
                content: dict[str, Any] = message["content"]
                return content

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(folder: Path) -> Iterator[Kernel]:
    running = Kernel(folder)
    yield running
    running.stop()


@pytest.mark.smoke
def test_kernel__bought_and_cached_are_saved_alike(folder: Path, sim: Simulator):
    """Restart and run all leaves the notebook's bytes as they are: one output an answer, one its receipt."""
    sim.script(Scenario(text="The **middle** value.\n\n- one\n- two", chunk_delay_s=0.01))
    cells = (
        "%load_ext or_cache_magic\n%config OpenRouterMagics.receipt = 'stable'",
        f"{ASK} -o ans\nWhat is a median?",
        "x = %openrouter What is a median?",
        "(ans is Out[2], ans == x, _ is ans, sorted(Out))",
        "ans",
        "for _i in range(2):\n    %openrouter -q What is a median?",
        f"{ASK} openai/gpt-4o -n 2 -o several\nWhat is a median?",
        "(several is Out[7], _ is several, len(several))",
    )
    bought, cached = executed(folder, *cells), executed(folder, *cells)
    answer, receipt = bought[1].outputs

    assert [cell.outputs for cell in bought] == [cell.outputs for cell in cached]
    assert sim.completion_count == 4
    assert bought[0].outputs == []
    assert answer.output_type == "display_data"
    assert answer.data["text/markdown"] == "The **middle** value.\n\n- one\n- two"
    assert answer.data["text/plain"] == "The **middle** value.\n\n- one\n- two"
    assert answer.metadata["or_cache_magic"]["role"] == "answer"
    assert receipt.metadata["or_cache_magic"]["role"] == "receipt"
    assert [o.metadata["or_cache_magic"]["role"] for o in bought[2].outputs] == ["receipt"]
    assert bought[3].outputs[0].data["text/plain"] == "(True, True, True, [2])"
    assert bought[4].outputs[0].output_type == "execute_result"
    assert bought[4].outputs[0].data["text/plain"] == answer.data["text/plain"]
    assert bought[4].outputs[0].data["text/markdown"] == answer.data["text/markdown"]
    assert len(bought[5].outputs) == 2
    answers, receipts = bought[6].outputs
    assert answers.data["text/markdown"].count("\n\n**openai/gpt") == 4
    assert len(receipts.data["text/plain"].splitlines()) == 5
    assert bought[7].outputs[0].data["text/plain"] == "(True, True, 4)"


def test_kernel__tables_and_cards(folder: Path, sim: Simulator):
    """Tables are pandas' own, cards are Markdown, and nothing shows the key or an object."""
    cells = executed(
        folder,
        "%load_ext or_cache_magic",
        f"{ASK}\nWhat is a median?",
        "%openrouter_stats",
        "%openrouter_entries",
        "%openrouter",
        "%openrouter_config",
        "%openrouter_purge --all --dry-run",
        "%openrouter --help",
        f"%%capture held\n{ASK}\nWhat is a median?",
        "held.show()",
    )
    stats, entries, card, config = (cell.outputs[-1] for cell in cells[2:6])

    assert all(
        "text/html" in one.data and one.output_type == "execute_result" for one in (stats, entries, config)
    )
    assert card.data["text/markdown"].startswith("| OpenRouter |")
    assert "1 entry" in card.data["text/plain"]
    assert [o.output_type for o in cells[6].outputs] == ["display_data", "execute_result"]
    assert "--max-tokens" in cells[7].outputs[0].data["text/plain"]
    assert cells[8].outputs == []
    assert len(cells[9].outputs) == 2
    assert KEY not in json.dumps(cells)
    assert "object at" not in json.dumps(cells)


MISTAKES = {
    f"{ASK}\n{{{{ nowhere }}}}": "TemplateError",
    f"{ASK} --modl x\nhi": "OptionError",
    f"{ASK} --offline\nhi": "ReplayMiss",
    "%openrouter_purge --expired --tag x --all": "OptionError",
    "%openrouter_key": "OptionError",
}


def test_kernel__errors_stop_a_batch_run(folder: Path, sim: Simulator):
    """A mistake is an error output of two lines, and what comes after is not run."""
    book = notebook("%load_ext or_cache_magic", *MISTAKES, "print('went on')")
    for cell in book.cells[1 : len(MISTAKES)]:  # all but the last mistake
        cell.metadata["tags"] = ["raises-exception"]
    client = NotebookClient(book, timeout=180, resources={"metadata": {"path": str(folder)}})
    with pytest.raises(CellExecutionError, match=MISTAKES["%openrouter_key"]):
        client.execute()

    for cell, error in zip(book.cells[1:-1], MISTAKES.values(), strict=True):
        (output,) = cell.outputs
        assert (output.output_type, output.ename) == ("error", error)
        assert len("\n".join(output.traceback).splitlines()) == 2
    assert book.cells[-1].outputs == []
    assert sim.requests == ()


def test_kernel__keyboard(kernel: Kernel, sim: Simulator):
    """The key is asked for as a password and told to nobody; a purge asks and takes a no for a no."""
    kernel.run("import os; del os.environ['OPENROUTER_API_KEY']")
    reply, _, _ = kernel.run("%openrouter hi")
    assert reply["ename"] == "MissingKeyError"

    reply, outputs, asked = kernel.run("%openrouter_key", KEY)
    assert reply["status"] == "ok"
    assert [one["password"] for one in asked] == [True]
    assert KEY not in json.dumps(outputs)
    assert kernel.run("%openrouter hi")[0]["status"] == "ok"
    assert sim.requests[-1].headers["authorization"] == f"Bearer {KEY}"

    _, outputs, asked = kernel.run("%openrouter_purge --all", "n")
    assert asked[0]["prompt"] == "Remove 1? [y/N] "
    assert "nothing was removed" in json.dumps(outputs)
    _, outputs, _ = kernel.run("%openrouter_purge --all", "y")
    assert kernel.run("len(__import__('or_cache_magic').entries())")[1][-1][1]["data"]["text/plain"] == "0"


def test_kernel__interrupt_stops_the_spending(kernel: Kernel, sim: Simulator):
    """Interrupted, a cell keeps on the screen what had arrived, closes the request, and stores nothing."""
    sim.script(scenario("stalled"))
    kernel.client.execute(f"{ASK}\nTell me of medians")
    first = kernel.shown_next("display_data")
    kernel.manager.interrupt_kernel()

    assert sim.wait_for(lambda rows: bool(rows) and rows[-1].cancelled)
    last = kernel.shown_next("update_display_data")
    # How much had arrived at the first look depends on the machine; the last has all of it.
    assert last["data"]["text/plain"].startswith(first["data"]["text/plain"])
    assert last["transient"] == first["transient"]
    reply = kernel.client.get_shell_msg(timeout=180)["content"]
    assert reply["ename"] == "KeyboardInterrupt"
    assert len(reply["traceback"]) == 2
    assert kernel.shown_next("display_data")["data"]["text/plain"].endswith("characters")
    _, outputs, _ = kernel.run(
        "import or_cache_magic as orc; len(orc.entries()), int(orc.stats()['asks'][0])"
    )
    assert outputs[-1][1]["data"]["text/plain"] == "(0, 1)"


def test_kernel__killed_after_a_cell_loses_nothing(folder: Path, sim: Simulator):
    """What was bought is on disk when its cell has ended, and so are the hits counted with it."""
    running = Kernel(folder)
    try:
        running.run(f"{ASK}\nhi")
        running.run(f"{ASK}\nhi")
        running.run(f"{ASK}\nsomething else")
        os.kill(running.manager.provisioner.pid, signal.SIGKILL)
    finally:
        running.stop()
    with CompletionCache(folder / ".or_cache") as cache:
        totals = cache.stats().iloc[0]
        assert len(cache.entries()) == 2
        assert (totals["asks"], totals["hits"]) == (3, 1)
