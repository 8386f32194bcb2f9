"""Notebooks in JupyterLab and Notebook 7: what a user sees of answers, receipts, streams and reruns."""

import re

import pytest

from or_cache_magic.simulator import Interruption, Scenario

from .harness import expect

pytestmark = pytest.mark.browser

LOAD = "%load_ext or_cache_magic"
ASK = "%%openrouter openai/gpt-4o-mini\nCount."
WORDS = [f"word{number}" for number in range(40)]


def shown(cell, role):
    """What a cell's answer or receipt says, as it would be saved."""
    return [
        output["data"]["text/plain"]
        for output in cell.get("outputs", ())
        if output.get("metadata", {}).get("or_cache_magic", {}).get("role") == role
    ]


def test_quickstart__is_free_in_the_next_kernel(shipped, sim, shoot):
    """Run all shows answers and receipts; after a restart it shows the same and sends nothing."""
    notebook = shipped("quickstart.ipynb")
    notebook.run_all()
    assert sim.completion_count == 26
    first = notebook.cells
    asking = [number for number, cell in enumerate(first) if shown(cell, "answer")]
    assert len(asking) == 2
    for number in asking:
        answer, receipt = notebook.output(number).locator(".jp-OutputArea-child").all()
        said = words(shown(first[number], "answer")[0])
        expect(answer).to_contain_text(said[-1])  # it is rendered when it can be seen
        if answer.locator(".jp-RenderedJSON").count():  # a tree, with words of its own
            assert set(said) <= set(words(answer.inner_text()))
        else:
            assert words(answer.inner_text()) == said
        expect(receipt).to_have_text(shown(first[number], "receipt")[0])
        shoot(notebook, f"cell-{number}")

    notebook.restart()
    notebook.run_all()
    assert sim.completion_count == 26
    for role in ("answer", "receipt"):
        assert [shown(cell, role) for cell in notebook.cells] == [shown(cell, role) for cell in first]
    assert notebook.kernel_eval("{answer.cached for answer in [*answers, summary, ticket]}") == "{True}"
    # What the front end may say of the panel of the kernel that was restarted, until its cell runs again.
    notebook.watch.errors[:] = [e for e in notebook.watch.errors if "widget model not found" not in e]


def test_asking__is_free_in_the_next_kernel(shipped, sim, shoot):
    """Pictures, a PDF, data, a conversation, columns and a painting: after a restart the same, and nothing sent."""
    notebook = shipped("asking.ipynb")
    notebook.run_all()
    sent, first = sim.completion_count, notebook.cells
    assert sent == 11
    for number, cell in enumerate(first):
        if cell["source"].startswith("%%openrouter") and shown(cell, "answer"):
            expect(notebook.output(number).locator(".jp-OutputArea-child").first).to_be_visible()
            shoot(notebook, f"cell-{number}")
    notebook.restart()
    notebook.run_all()
    assert sim.completion_count == sent
    assert [cell.get("outputs") for cell in notebook.cells[:-1] if shown(cell, "answer")] == [
        cell.get("outputs") for cell in first[:-1] if shown(cell, "answer")
    ]


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_stream__is_seen_while_it_comes(app, notebook, sim):
    """Words are on the screen before the answer is whole; an interrupt keeps them; the rerun is a hit."""
    text = " ".join(WORDS)
    sim.script(Scenario(text=text, interruption=Interruption("stall", after_pieces=20)))
    opened = notebook("stream.ipynb", LOAD, ASK, app=app)
    opened.start_all()
    answer = opened.output(1).locator(".jp-RenderedMarkdown").first
    expect(answer).to_contain_text("word0")
    assert WORDS[-1] not in answer.inner_text()
    opened.interrupt()
    expect(opened.output(1)).to_contain_text("KeyboardInterrupt: ")
    (error,) = [output for output in opened.cells[1]["outputs"] if output["output_type"] == "error"]
    assert len(error["traceback"]) == 2
    expect(opened.output(1).locator(".jp-RenderedMarkdown").nth(1)).to_contain_text(
        "not stored: interrupted after"
    )
    expect(answer).to_contain_text("word3")
    assert sim.wait_for(lambda rows: rows[-1].cancelled)

    sim.script(Scenario(text=text, chunk_delay_s=0.1))
    lengths = watch_growth(opened)
    opened.run_all()
    expect(answer).to_have_text(text)
    seen = lengths()
    assert seen == sorted(seen)
    assert len(seen) >= 3, "the answer came at once"

    opened.run_all()
    expect(answer).to_have_text(text)
    expect(opened.output(1).locator(".jp-RenderedMarkdown").nth(1)).to_contain_text("cached")
    assert sim.completion_count == 2


def words(text):
    """The words of a text, without the marks of Markdown."""
    return re.findall(r"\w+", text)


def watch_growth(opened):
    """Watches how long the answer is on the screen; returns what tells its lengths from the first on."""
    opened.page.evaluate("""() => {
        window.lengths = [];
        const look = () => {
            const words = document.querySelector('.jp-Notebook .jp-RenderedMarkdown')?.innerText.match(/word/g);
            if (words && words.length !== window.lengths.at(-1)) window.lengths.push(words.length);
        };
        new MutationObserver(look).observe(document.body, { subtree: true, childList: true });
    }""")
    return lambda: opened.page.evaluate("() => window.lengths")
