"""What the panel costs: messages to the front end whatever the cache's size, and no import where it is not used."""

import json
import os
import subprocess
import sys

from or_cache_magic.simulator import Simulator

from .conftest import keep


def test_first_paint__is_small_and_does_not_grow(open_cache, sim, open_panel, wire, tmp_path):
    """A cache of 600 entries with long texts sends what one of 30 does, far below 250 kB; the text is not in it."""
    sizes = []
    for count, words in ((30, 20), (600, 2000)):
        cache = open_cache(sim, directory=tmp_path / f"{count}")
        with cache.database.transaction():
            for i in range(count):
                keep(cache, f"{i} " + "prompt " * words, "answer " * words, model=f"vendor/model-{i % 9}")
        wire.sent.clear()
        panel = open_panel(cache)
        panel._repr_mimebundle_()
        sizes.append((len(wire.sent), wire.size_bytes))
    (few, small), (many, large) = sizes
    assert many == few
    assert large <= 1.1 * small
    assert large <= 250_000


def test_next_page__is_a_fraction_of_the_first(filled, open_panel, wire):
    """A page turned fills the rows that are there: no new widgets."""
    panel = open_panel(filled)
    wire.sent.clear()
    panel.face.next.click()
    assert len(wire.sent) <= 2 * 15 + 3
    assert not any("comm_open" in message for message in wire.sent)


def test_showing_it_again__sends_nothing_new(panel, wire):
    """A page with the same entries is the same messages as none."""
    panel.refresh()
    wire.sent.clear()
    panel.refresh()
    assert wire.sent == []


def test_close__leaves_no_widget(filled, wire, open_panel):
    """What was opened is closed again, so that a long session does not fill up."""
    panel = open_panel(filled)
    panel.close()
    opened = {m.split('"')[3] for m in wire.sent if m.startswith('["comm_open"')}
    closed = {m.split('"')[3] for m in wire.sent if m.startswith('["comm_close"')}
    assert opened == closed


def fresh(code, **environ):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environ
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import__is_of_those_who_open_it(tmp_path):
    """Neither an ask, a hit, nor the text of a terminal imports ipywidgets or markdown-it; opening the panel does."""
    code = (
        "import json, sys, or_cache_magic as orc\n"
        "from or_cache_magic.panels import open_panel, panel_text\n"
        "found = lambda: sorted({'ipywidgets', 'markdown_it', 'pandas'} & set(sys.modules))\n"
        f"with orc.open_cache({str(tmp_path / 'c')!r}) as cache:\n"
        "    before = 'or_cache_magic.panels.panel' in sys.modules\n"
        "    cache.ask('What is a median?', model='openai/gpt-4o-mini')\n"
        "    cache.ask('What is a median?', model='openai/gpt-4o-mini')\n"
        "    panel_text(cache)\n"
        "    asked = found()\n"
        "    panel = open_panel(cache)\n"
        "    print(json.dumps([before, asked, found(), str(panel.error)]))"
    )
    with Simulator() as sim:
        got = fresh(code, OPENROUTER_BASE_URL=sim.base_url, OPENROUTER_API_KEY=sim.api_key)
    assert got == [False, [], ["ipywidgets"], "None"]


def test_load_ext__imports_no_panel():
    """Loading the extension costs nothing for it."""
    code = (
        "import json, sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\nshell.run_line_magic('load_ext', 'or_cache_magic')\n"
        "print(json.dumps([m for m in sys.modules if m.startswith(('ipywidgets', 'or_cache_magic.panels'))]))"
    )
    assert fresh(code) == []


def test_panel__of_the_package_can_be_opened_twice(tmp_path):
    """``orc.panel()`` stays a function once its package is imported, and it is the same panel."""
    code = (
        "import json, or_cache_magic as orc\n"
        "first = orc.panel()\n"
        "print(json.dumps([orc.panel() is first, type(first).__name__]))"
    )
    assert fresh(code, OR_CACHE_DIR=str(tmp_path / "c")) == [True, "Panel"]
