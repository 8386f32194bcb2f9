"""What cells say and show, in JupyterLab and Notebook 7: amounts, interrupts, media, code, captured outputs."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from or_cache_magic.simulator import Scenario

from .conftest import KERNEL
from .harness import WIDGET, expect

pytestmark = pytest.mark.browser

LOAD = "%load_ext or_cache_magic"

AMOUNTS = """from IPython.display import Markdown, display
from or_cache_magic.display.screen import open_screen
from or_cache_magic.notebook.extension import loaded
from or_cache_magic.panels.static import Still
cache = loaded().session().cache()
screen = open_screen(get_ipython())
shown = answer.outcome._replace(notes=("from $0.10 to $0.20", r"\\\\(x\\\\) $y$"))
screen.receipt(shown)
screen.wait("it may cost $0.10 to $0.20")
display(Still(cache))
get_ipython().run_line_magic("openrouter", "")
get_ipython().run_line_magic("openrouter_entries", answer.key)
for name in ("openrouter_stats", "openrouter_entries"):
    frame = get_ipython().run_line_magic(name, "")
    display(frame, Markdown(frame._repr_mimebundle_()["text/markdown"]))
display(Markdown("$x$"))"""


CAPTURED = """%%capture captured
%%openrouter
Say it captured."""
IN_A_WIDGET = """from ipywidgets import Button, Output
out, button, answers = Output(), Button(description="Ask"), []
def ask(_):
    with out:
        get_ipython().run_cell_magic("openrouter", "", f"Say it {len(answers)} times.")
        answers.append(_)
button.on_click(ask)
display(button, out)
ask(button)"""


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_captured__is_one_whole_display(app, notebook, sim, shoot):
    """Where a front end can't follow updates (%%capture, an Output widget), an answer is shown once, whole."""
    text = " ".join(f"word{number}" for number in range(60))
    sim.script(Scenario(text=text, chunk_delay_s=0.02), times=3)
    opened = notebook("captured.ipynb", LOAD, CAPTURED, "captured.show()", IN_A_WIDGET, app=app)
    opened.run_all()
    shown = opened.output(2).locator(".jp-RenderedMarkdown")
    expect(shown).to_have_count(2)  # the answer and its receipt
    expect(shown.first).to_have_text(text)
    widget = opened.output(3).locator(".jupyter-widgets.jp-OutputArea, .widget-output, .jp-OutputArea").last
    expect(widget.locator(".jp-RenderedMarkdown")).to_have_count(2)
    expect(widget.locator(".jp-RenderedMarkdown").first).to_have_text(text)
    opened.output(3).get_by_role("button", name="Ask").click()
    expect(widget.locator(".jp-RenderedMarkdown")).to_have_count(4)
    expect(widget.locator(".jp-RenderedMarkdown").nth(2)).to_have_text(text)
    shoot(opened, "shown")


PARTS = """import base64, io, wave
from or_cache_magic.core.records import Answer, Choice, Usage
from or_cache_magic.display.parts import parts_of
from or_cache_magic.display.screen import open_screen
red = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
webp = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
sound = io.BytesIO()
with wave.open(sound, "wb") as written:
    written.setparams((1, 2, 8000, 0, "NONE", ""))
    written.writeframes(bytes(8000))
images = [{"image_url": {"url": f"data:image/png;base64,{data}"}} for data in (red, webp)]
images.append({"image_url": {"url": "https://evil.example/x.png"}})
message = {"images": images, "refusal": "It costs $5 or $6.",
           "audio": {"data": base64.b64encode(sound.getvalue()).decode(), "transcript": "Silence."},
           "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "$a$"}'}}],
           "annotations": [{"type": "url_citation", "url": "https://example.org/", "title": "On $a$ and $b$"}],
           "reasoning": "It <b>is</b> $x$, or $y$."}
answer = Answer((Choice(message),), usage=Usage(reasoning_tokens=1234))
open_screen(get_ipython()).show("", parts_of(answer, {}))"""


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_outputs__say_what_there_is(app, notebook, sim, shoot):
    """Waiting counts until the answer is there, dollars stay dollars, and images, audio and refusals are seen."""
    sim.script(Scenario(text="At last: $5 or $6.", delay_s=5.0))
    ask = "%%openrouter -o answer --max-tokens 20\nWhat costs $5 and $6?"
    opened = notebook("outputs.ipynb", LOAD, "import openai", ask, AMOUNTS, PARTS, app=app)
    opened.start_all()
    expect(opened.output(2)).to_contain_text("asked, waiting 3 s …")
    shoot(opened, "waiting")
    opened.wait_until_run()
    expect(opened.output(2).locator(".jp-RenderedMarkdown").first).to_have_text("At last: $5 or $6.")
    assert "waiting" not in str(opened.cells[2]["outputs"])

    amounts = opened.output(3)
    expect(amounts.locator(":scope > .jp-OutputArea-child").last.locator("mjx-container")).to_have_count(1)
    expect(amounts.locator("mjx-container")).to_have_count(1)
    expect(amounts).to_contain_text("from $0.10 to $0.20")
    expect(amounts).to_contain_text("it may cost $0.10 to $0.20")
    shoot(opened, "amounts")

    parts = opened.output(4)
    expect(parts.locator("img")).to_have_count(2)
    for shown in parts.locator("img").all():
        assert shown.evaluate("async node => { await node.decode(); return node.naturalWidth }") == 1
    expect(parts).to_contain_text("image: https://evil.example/x.png")
    assert (
        parts.locator("audio").evaluate("""node => new Promise(done => {
        node.readyState ? done(node.duration) : node.onloadedmetadata = () => done(node.duration) })""")
        == 0.5
    )
    expect(parts).to_contain_text("It costs $5 or $6.")
    expect(parts).to_contain_text('weather({"city": "$a$"})')
    expect(parts.get_by_role("link", name="On $a$ and $b$")).to_have_attribute("href", "https://example.org/")
    expect(parts.get_by_text("It <b>is</b> $x$, or $y$.")).to_be_hidden()
    parts.get_by_text("reasoned, 1,234 tokens").click()
    expect(parts.get_by_text("It <b>is</b> $x$, or $y$.")).to_be_visible()
    expect(parts.locator("mjx-container")).to_have_count(0)
    shoot(opened, "parts")


HOSTILE = '{"<img src=x onerror=alert(1)>": "<script>alert(1)</script> $x$", "b": [1, {"c": null}]}'


def test_structured__is_an_open_tree_or_a_table(notebook, sim, shoot):
    """A value is a tree, flat objects are a table, and nothing of a model's text runs or is set as mathematics."""
    ask = "%%openrouter -q --schema '{}'\nThe novel Dune by Frank Herbert appeared in 1965."
    cells = map(ask.format, ("title str, author {name str, born int?}", "[{title str, year int}]"))
    opened = notebook("structured.ipynb", LOAD, *cells, "%openrouter -q -f json What is hostile?")
    sim.script(Scenario(text=HOSTILE), match=lambda body: "response_format" not in body)
    opened.run_all()
    expect(opened.output(1).locator(".jp-RenderedJSON")).to_have_count(1)
    expect(opened.output(1)).to_contain_text('name"Dune"')
    expect(opened.output(2).locator("table")).to_have_count(1)
    expect(opened.output(2)).to_contain_text("1965")
    expect(opened.output(3)).to_contain_text("<script>alert(1)</script> $x$")
    expect(opened.output(3).locator("script, img, mjx-container")).to_have_count(0)
    shoot(opened, "shown")


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_panel__of_a_notebook_opened_again(app, browser, folder, sim, shoot):
    """A live panel is alone; opened again without its kernel, the notebook shows what the panel showed."""
    path, again = folder / "panel.ipynb", folder / "again.ipynb"
    cells = [new_code_cell(source) for source in (LOAD, "%openrouter -q hi", "%openrouter_panel")]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    opened = browser.open(path, app)
    # What the front end itself says of a widget whose kernel is gone, some of it when the next test has begun.
    opened.watch.known_errors += ("widget model not found",)
    opened.run_all()
    expect(opened.output(2).locator(".orc .orc-tiles")).to_be_visible()
    expect(opened.output(2).locator(".jp-RenderedMarkdown")).to_be_hidden()
    shoot(opened, "live")
    opened.page.evaluate(f"async () => {{ await {WIDGET}.context.save() }}")
    browser.close(opened)
    opened = browser.open(path.rename(again), app)
    expect(opened.output(2).locator(".jp-RenderedMarkdown table").first).to_be_visible()
    expect(opened.output(2)).to_contain_text("Completion cache · all time")
    shoot(opened, "again")
    browser.close(opened)


SEVERAL = """%%openrouter openai/gpt-4o-mini openai/gpt-4o anthropic/claude-haiku-4.5 -o answers
What is a median?"""
SAID = {
    "openai/gpt-4o-mini": "The **middle** value:\n\n```python\nsorted(x)[len(x) // 2]",
    "openai/gpt-4o": "</div></div>It is $\\frac{1}{2}$ way.\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "anthropic/claude-haiku-4.5": "> Half lie below,\n\n- half above\n  - at least",
}


def test_several__stand_side_by_side(notebook, sim, shoot):
    """Three answers in three boxes beside each other where there is room, below each other where there is none."""
    for model, text in SAID.items():
        sim.script(
            Scenario(text=text, chunk_delay_s=0.02), times=1, match=lambda body, m=model: body["model"] == m
        )
    opened = notebook("several.ipynb", LOAD, SEVERAL)
    opened.run_all()
    boxes = opened.output(1).locator(".jp-RenderedMarkdown").first.locator("div > div")
    expect(boxes).to_have_count(3)
    for box, model in zip(boxes.all(), SAID, strict=True):
        expect(box.locator("strong").first).to_have_text(model)
    tops = [box.bounding_box()["y"] for box in boxes.all()]
    assert max(tops) - min(tops) < 1
    shoot(opened, "wide")
    size = opened.page.viewport_size
    opened.page.set_viewport_size({"width": 620, "height": size["height"]})
    first, *_, last = boxes.all()
    opened.page.wait_for_function(
        "([a, b]) => b.getBoundingClientRect().top > a.getBoundingClientRect().bottom - 1",
        arg=[first.element_handle(), last.element_handle()],
    )
    shoot(opened, "narrow")
    opened.page.set_viewport_size(size)
