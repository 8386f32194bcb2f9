"""Hostile answers and prompts in live cells of the real front ends, by every way that they are shown.

The texts are those of ``tests/render/test_markdown_attacks.py``, where parsers stand for the front ends.
"""

import html
import re
import time

import pytest

from or_cache_magic.simulator import Scenario

from ..display.test_markdown_attacks import ATTACKS, TAGS, X
from .harness import LIVE, expect

pytestmark = pytest.mark.browser

#: What stands behind a fence names a language, and no front end shows it.
NOT_SHOWN = {"fence_info_handler", "fence_info_tag", "myst_directive"}

#: JupyterLab shows 50 outputs of a cell.
AT_ONCE = 37
NAMES = list(ATTACKS)
PARTS = [NAMES[start : start + AT_ONCE] for start in range(0, len(NAMES), AT_ONCE)]

PREPARE = f"""%load_ext or_cache_magic
from IPython.display import Markdown, display
shell, keys, attacks = get_ipython(), {{}}, {ATTACKS!r}"""
ASK = """for name in {names}:
    shell.run_cell_magic("openrouter", "--quiet --raw --out answer", f"Say {{name}}: {{attacks[name]}}")
    keys[name] = answer.key
display(Markdown("$x$"))"""
CARDS = """for name in {names}:
    shell.run_line_magic("openrouter_entries", keys[name])
display(Markdown("$x$"))"""

# What a reader can find: the words, and where links lead.
READ = """children => children.map(child => [...child.querySelectorAll('.jp-OutputArea-output')].map(output =>
    [output.innerText, ...[...output.querySelectorAll('a')].map(a => `${a.href} ${a.title}`),
     ...[...output.querySelectorAll('mjx-container')].map(m => m.textContent)].join(' ')).join(' '))"""


def children(opened, number, count):
    """A cell's outputs, one after the other, when all of them are on the screen."""
    found = opened.output(number).locator(":scope > .jp-OutputArea-child")
    expect(found).to_have_count(count)
    opened.page.wait_for_function(
        "nodes => nodes.every(node => node.querySelector('.jp-OutputArea-output')?.childNodes.length)",
        arg=found.element_handles(),
    )
    return found.element_handles()


def typeset_children(opened, number, count):
    """The same without the last, which is a formula: once it is typeset, so is what came before."""
    nodes = children(opened, number, count + 1)
    nodes[-1].wait_for_selector("mjx-container")
    return nodes[:-1]


def live(opened, nodes):
    """What is dangerous in each of these outputs."""
    return opened.page.evaluate(LIVE, [nodes, [*sorted(TAGS), "math", "svg"]])


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_attacks__do_nothing_when_they_are_answers(app, notebook, sim, shoot):
    """Streamed, cached or shown whole with their prompts, they run nothing, load nothing, and can be read."""
    for name, text in ATTACKS.items():
        asked = f"Say {name}: {text}".rstrip("\n")
        sim.script(Scenario(text=text), match=lambda body, asked=asked: said(body) == asked)
    cells = [*(ASK.format(names=part) for part in PARTS), *(CARDS.format(names=part) for part in PARTS)]
    opened = notebook("attacks.ipynb", PREPARE, *cells, app=app)
    opened.run_all()
    assert sim.completion_count == len(NAMES)
    for number, part in enumerate([*PARTS, *PARTS], 1):
        nodes = typeset_children(opened, number, len(part))
        found = dict(zip(part, live(opened, nodes), strict=True))
        assert {name: what for name, what in found.items() if what} == {}
        if number <= len(PARTS):
            texts = dict(zip(part, opened.page.evaluate(READ, nodes), strict=True))
            assert {name: lost for name in part if (lost := lost_words(name, texts[name]))} == {}
        shoot(opened, f"cell-{number}")


def test_attacks__do_nothing_in_other_forms(notebook, sim):
    """As JSON, as code, as a table, and in the table of entries, hostile text is text."""
    hostile = {
        "json": f'{{"a": "{X}</script>{X}"}}',
        "code": f"```html\n{X}\n```",
        "df": f'[{{"{X}": "{X}"}}]',
    }
    for text in hostile.values():
        sim.script(Scenario(text=text))
    asks = [f"%%openrouter --quiet -f {form}\nSay as {form} {X}" for form in hostile]
    opened = notebook("forms.ipynb", "%load_ext or_cache_magic", *asks, "%openrouter_entries")
    opened.run_all()
    for number in range(1, 2 + len(hostile)):
        nodes = children(opened, number, 1)
        # The tables' own, and of JupyterLab's tree of JSON its field to search and the icon in it.
        assert set(*live(opened, nodes)) <= {"style", "small", "b"} | (
            {"label", "path"} if number == 1 else set()
        )
        assert X in nodes[0].inner_text()


def test_attacks__do_a_lot_when_shown_raw(notebook):
    """Through ``display(Markdown(…))`` they run script and ask for what is elsewhere; else the above says nothing."""
    names = [
        "script",
        "image_handler",
        "in_list",
        "remote_image",
        "style_import",
        "javascript_link",
        "in_heading",
    ]
    opened = notebook("raw.ipynb", PREPARE, f"for name in {names}:\n    display(Markdown(attacks[name]))")
    watch = opened.watch
    watch.spoiled = True
    opened.run_all()
    nodes = children(opened, 1, len(names))
    assert [name for name, found in zip(names, live(opened, nodes), strict=True) if found] == names
    give_up_s = time.monotonic() + 60
    while not (watch.dialogs and any("evil.example" in url for url in watch.requests)):
        assert time.monotonic() < give_up_s, (watch.dialogs, watch.requests)
        opened.page.wait_for_timeout(20)


def said(body):
    return body["messages"][-1]["content"]


def lost_words(name, text):
    """The words of an attack that are nowhere on the screen."""
    if name in NOT_SHOWN:
        return []
    return [
        word
        for word in re.findall(r"\w{2,}", html.unescape(ATTACKS[name]))
        if word.lower() not in text.lower()
    ]
