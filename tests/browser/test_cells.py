"""What cells say and show, in JupyterLab and Notebook 7: amounts, interrupts, media, code, captured outputs."""

import pytest

from .harness import expect

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


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_amounts__are_never_typeset(app, notebook, sim, shoot):
    """Dollars of ours stay dollars in every output, however many stand in a line."""
    ask = "%%openrouter -o answer --max-tokens 20\nWhat costs $5 and $6?"
    opened = notebook("amounts.ipynb", LOAD, ask, AMOUNTS, app=app)
    opened.run_all()
    output = opened.output(2)
    last = output.locator(":scope > .jp-OutputArea-child").last
    expect(last.locator("mjx-container")).to_have_count(1)
    shoot(opened, "shown")
    expect(output.locator("mjx-container")).to_have_count(1)
    expect(output).to_contain_text("from $0.10 to $0.20")
    expect(output).to_contain_text("it may cost $0.10 to $0.20")
