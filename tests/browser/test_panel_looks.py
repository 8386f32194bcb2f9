"""How the panel looks and what of it can be read: dark and light, hostile texts, a notebook opened without a kernel."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from or_cache_magic.simulator import Scenario

from ..display.test_markdown_attacks import ATTACKS, TAGS, X
from .harness import LIVE, expect
from .panel_page import PanelPage

pytestmark = pytest.mark.browser

LOAD = "%load_ext or_cache_magic"
PANEL = "%openrouter_panel"

#: What the panel is made of besides what an answer may be: its own, and nothing that runs or loads.
PANEL_TAGS = {
    *TAGS,
    *("b", "button", "details", "i", "label", "option", "select", "small", "style", "summary"),
    *("svg", "title", "desc", "g", "path", "line", "polyline", "polygon", "rect", "circle", "text"),
}


# Where the page is 1,280 pixels wide, with JupyterLab's files beside the notebook: what does not fit its place.
CUT_OFF = """box => {
    const rows = box.querySelector('.orc-rows');
    const labels = [...box.querySelectorAll('.orc-chart text')].filter(at => at.getBBox().x < 0);
    return [...(rows.scrollWidth > rows.clientWidth ? ['rows'] : []), ...labels.map(at => at.textContent)];
}"""


@pytest.fixture
def asked(cache_of, sim):
    """A cache with a few answers, some of them served again."""
    cache = cache_of()
    for name in ("median", "mean", "mode", "mean", "mode"):
        sim.script(
            Scenario(
                text=f"# On the {name}\n\nA `{name}` is **one** number:\n\n| a | b |\n|---|---|\n| 1 | 2 |"
            )
        )
        cache.ask(f"What is a {name}?", tag="statistics")
    cache.close()


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_panel__can_be_read_and_reached(theme, asked, notebook, shoot):
    """In both themes every text stands out from what is behind it, and axe-core has nothing against any part."""
    opened = notebook("looks.ipynb", LOAD, PANEL)
    opened.theme(theme)
    try:
        opened.run_all()
        panel = PanelPage(opened, 1)
        shoot(opened, "panel")
        panel.field("#1").check()
        panel.rows.first.get_by_role("button").click()
        expect(panel.detail).to_contain_text("On the mode")
        panel.button("Purge 1 selected").click()
        expect(panel.button("Yes, remove")).to_be_visible()
        shoot(opened, "whole")
        assert opened.axe(".orc") == []
        assert panel.box.evaluate(CUT_OFF) == []
        found = panel.contrasts()
        assert len(found) > 50
        assert [(text, ratio) for ratio, needed, text, _ in found if ratio < needed] == []
        behind = sorted(light for *_, light in found)[len(found) // 2]
        assert behind > 0.8 if theme == "Light" else behind < 0.1
    finally:
        opened.theme("Light")


def test_panel__shows_hostile_texts_as_text(notebook, cache_of, sim, folder, shoot):
    """Prompts, tags, models, providers and notebooks of a stranger's file that are full of script run none of it."""
    cache = cache_of(notebook=f"{X}.ipynb")
    for name in ("script", "image_handler", "svg_onload", "closing_tag_first"):
        sim.script(Scenario(text=ATTACKS[name]))
        cache.ask(f"{ATTACKS[name]} asked", tag=f"{X}{name}")
    cache.close()
    with closing(sqlite3.connect(folder / ".or_cache" / "cache.db")) as file, file:
        file.execute("UPDATE or_entry SET provider = ?, served_model = ?", (f'"{X}', f"'{X}"))
        file.execute("UPDATE Cache SET tag = ?", (f"{X}/model",))
        file.execute("UPDATE or_ledger SET model = ?", (f'"{X}/model',))
    opened = notebook("hostile.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.expect_matching(4)
    assert panel.column("prompt")[-1] == "<script>alert(1)</script> asked"
    for by in ("tag", "notebook", "day", "model"):
        panel.field("By").select_option(by)
        expect(panel.box.locator(".orc-by thead")).to_contain_text(by)
    panel.field("Tag").select_option(f"{X}script")
    panel.expect_matching(1)
    panel.rows.first.get_by_role("button").click()
    expect(panel.detail).to_contain_text(X)
    panel.search(X)
    panel.expect_matching(0)
    shoot(opened)
    assert opened.page.evaluate(LIVE, [[panel.box.element_handle()], sorted(PANEL_TAGS)]) == [[]]


def test_panel__shows_every_attack_whole(notebook, cache_of, sim):
    """All the texts that try something in answers and prompts are harmless in the detail view, and can be read."""
    cache = cache_of()
    for name, text in ATTACKS.items():
        sim.script(Scenario(text=text))
        cache.ask(f"Say {name}: {text}")
    cache.close()
    show = """import ipywidgets, or_cache_magic as orc
from or_cache_magic.panels.detail import detail_html
cache = orc.panel().cache
keys = {entry.prompt.split()[1].rstrip(':'): entry.key for entry in orc.entries().itertuples()}
ipywidgets.VBox([ipywidgets.HTML(detail_html(cache, key)) for key in keys.values()]).add_class('orc')"""
    opened = notebook("details.ipynb", LOAD, show)
    opened.run_all()
    details = opened.output(1).locator(".orc .widget-html-content")
    expect(details).to_have_count(len(ATTACKS))
    nodes = details.element_handles()
    names = [name.strip("'") for name in opened.kernel_eval("' '.join(keys)").strip("'").split()]
    assert sorted(names) == sorted(ATTACKS)
    found = dict(zip(names, opened.page.evaluate(LIVE, [nodes, sorted(PANEL_TAGS)]), strict=True))
    assert {name: what for name, what in found.items() if what} == {}


def test_panel__comes_back_when_the_page_is_loaded_again(asked, notebook):
    """The kernel has it still: the page shows it as it was left, and it still works."""
    opened = notebook("reload.ipynb", LOAD, PANEL, app="notebook")
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.search("median")
    panel.expect_matching(1)
    opened.save()
    opened.page.reload()
    opened.wait_for_kernel()
    panel = PanelPage(opened, 1)
    panel.expect_matching(1)
    panel.search("")
    panel.expect_matching(3)


@pytest.fixture
def converted(folder, browser):
    """``converted("saved.ipynb", option)`` is the page that nbconvert makes of a notebook, opened."""
    pages = []

    def start(name, *options):
        command = [sys.executable, "-m", "nbconvert", "--to", "html", *options, name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, done.stderr
        pages.append(browser.context.new_page())
        # What it would load for mathematics is nowhere: it is read without.
        pages[-1].goto((folder / name).with_suffix(".html").as_uri(), wait_until="commit")
        return pages[-1]

    yield start
    for page in pages:
        page.close()


def test_panel__is_a_table_where_there_is_no_kernel(asked, notebook, converted, shots):
    """Saved and converted to HTML, sanitised or not, the notebook has the tiles' figures and the entries in tables."""
    opened = notebook("saved.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    tiles = [panel.tile(name) for name in ("entries", "hit rate", "paid", "saved")]
    prompts = panel.column("prompt")
    opened.save()
    for options in ((), ("--HTMLExporter.sanitize_html=True",)):
        page = converted("saved.ipynb", *options)
        expect(page.locator("table").first).to_be_visible()
        assert page.locator("table").first.locator("strong").all_inner_texts() == tiles
        shown = page.locator("body").inner_text()
        assert all(prompt in shown for prompt in prompts)
        assert "orc-" not in shown
        page.screenshot(path=shots / f"panel__is_a_table_where_there_is_no_kernel--html-{len(options)}.png")
