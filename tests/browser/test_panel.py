"""The panel in JupyterLab and Notebook 7, used as a user does; what it did is looked up from outside."""

import csv
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from or_cache_magic.simulator import Scenario

from .harness import expect
from .panel_page import PanelPage

pytestmark = pytest.mark.browser

LOAD = "%load_ext or_cache_magic"
PANEL = "%openrouter_panel"
MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "google/gemini-2.5-flash")
HOUR_S = 3600.0


@pytest.fixture
def forty(cache_of, sim):
    """The cache of the test's folder with forty answers, an hour apart; every fourth is a draft, five were hit."""
    now_s = time.time() - 40 * HOUR_S
    cache = cache_of(clock=lambda: now_s)
    for number in range(40):
        now_s += HOUR_S
        tag = "draft" if number % 4 == 0 else None
        sim.script(Scenario(text=f"Answer {number:02d}. " + "More. " * number))
        cache.ask(f"Question {number:02d}?", model=MODELS[number % 3], tag=tag)
    for number in range(5):
        cache.ask(f"Question {number:02d}?", model=MODELS[number % 3])
    cache.close()
    sim.clear()
    return cache


def entries_outside(folder):
    """The entries as another process lists them."""
    command = "import sys; from or_cache_magic.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "entries", "--limit", "1000", "--dir", str(folder / ".or_cache")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "200"},
        check=True,
    )
    return re.findall(r"Question \d\d", done.stdout)


def costs(panel):
    """The costs on the screen, in US dollars."""
    return [float(cost.lstrip("$").split()[0]) for cost in panel.column("cost")]


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_panel__follows_what_is_asked(app, notebook, sim):
    """Opened on an empty cache, it shows what later cells asked without a word; its figures are the kernel's."""
    ask = "%%openrouter -q\nWhat is a {}?"
    again = "import or_cache_magic as orc\nfor _ in range(3):\n    orc.ask('What is a mode?')"
    opened = notebook("panel.ipynb", LOAD, PANEL, ask.format("median"), ask.format("mean"), again, app=app)
    opened.run_cell(0)
    opened.run_cell(1)
    panel = PanelPage(opened, 1)
    expect(panel.box).to_contain_text("Nothing is cached yet")
    for number in (2, 3, 4):
        opened.run_cell(number)
    panel.expect_matching(3, " · page 1 of 1")
    assert panel.column("prompt") == ["What is a mode?", "What is a mean?", "What is a median?"]
    expect(panel.value("hit rate")).to_have_text("40%")  # the hits are counted when the cell is over
    assert panel.tile("entries") == "3"
    stats = "orc.stats().iloc[0]"
    assert opened.kernel_eval(f"int({stats}['hits']), int({stats}['misses'])") == "(2, 3)"
    for tile, column in (("paid", "paid_usd"), ("saved", "saved_usd")):
        known = float(opened.kernel_eval(f"float({stats}['{column}'])"))
        assert float(panel.tile(tile).lstrip("≥ $")) == pytest.approx(known, rel=0.05)
    assert sim.completion_count == 3


def test_panel__is_one_in_two_cells(forty, notebook):
    """What is set in one cell's panel is set in the other's."""
    opened = notebook("twice.ipynb", LOAD, PANEL, "import or_cache_magic as orc\norc.panel()")
    opened.run_all()
    second = PanelPage(opened, 2)
    second.search("question 0")
    second.expect_matching(10)
    first = PanelPage(opened, 1)
    first.expect_matching(10)
    assert first.field("Search").input_value() == "question 0"


def test_panel__searches_filters_sorts_and_pages(forty, notebook):
    """Search, model, tag, order and pages show the entries that they should, each once."""
    opened = notebook("browse.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.expect_matching(40, " · page 1 of 3")
    expect(panel.rows).to_have_count(15)
    assert panel.button("Previous").is_disabled()
    seen = panel.column("prompt")
    for page, count in ((2, 15), (3, 10)):
        panel.button("Next").click()
        panel.expect_matching(40, f" · page {page} of 3")
        expect(panel.rows).to_have_count(count)
        seen += panel.column("prompt")
    assert seen == [f"Question {number:02d}?" for number in reversed(range(40))]
    assert panel.button("Next").is_disabled()

    panel.field("Sort by").select_option("cost")
    expect(panel.head).to_contain_text("cost ▾")
    falling = costs(panel)
    assert falling == sorted(falling, reverse=True)
    panel.field("Order").select_option("ascending")
    expect(panel.head).to_contain_text("cost ▴")
    rising = costs(panel)
    assert rising == sorted(rising)
    assert rising[-1] < falling[-1]

    panel.field("Model").select_option(MODELS[1])
    panel.expect_matching(13)
    (model,) = set(panel.column("model"))
    assert MODELS[1].endswith(model)
    panel.field("Tag").select_option("draft")
    panel.expect_matching(3)
    panel.search("question 28")
    panel.expect_matching(1)
    assert panel.column("prompt") == ["Question 28?"]
    panel.search("nowhere to be found")
    panel.expect_matching(0)
    expect(panel.box).to_contain_text("No entry matches")


def test_panel__shows_an_entry_whole(forty, notebook):
    """Its request, answer and money are there when its key is pressed, and gone when it is closed."""
    opened = notebook("detail.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.search("Question 07")
    panel.expect_matching(1)
    key = panel.rows.first.get_by_role("button").inner_text()
    panel.rows.first.get_by_role("button").click()
    for text in (key, "Question 07?", "Answer 07.", MODELS[1], "(reported)", '"temperature": 0'):
        expect(panel.detail).to_contain_text(text)
    expect(panel.button("Close details")).to_be_focused()
    panel.button("Close details").click()
    expect(panel.detail).to_be_hidden()


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_panel__purges_what_was_confirmed(app, forty, notebook, folder, shoot):
    """Nothing goes before "Yes, remove"; then what was selected on two pages is gone for every process."""
    opened = notebook("purge.ipynb", LOAD, PANEL, app=app)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.field("#1").check()
    panel.field("#2").check()
    panel.button("Next").click()
    expect(panel.status).to_contain_text("page 2 of 3")
    panel.field("#1").check()
    expect(panel.status).to_contain_text("3 selected")

    panel.button("Purge 3 selected").click()
    expect(panel.box).to_contain_text("Remove 3 entries")
    expect(panel.box).to_contain_text("To buy them again would cost $0.")
    shoot(opened, "asks")
    panel.button("Cancel").click()
    expect(panel.button("Yes, remove")).to_be_hidden()
    assert len(entries_outside(folder)) == 40

    panel.button("Purge 3 selected").click()
    panel.button("Yes, remove").click()
    panel.expect_matching(37)
    expect(panel.box).to_contain_text("3 entries removed")
    gone = {"Question 39", "Question 38", "Question 24"}
    assert {f"Question {number:02d}" for number in range(40)} - set(entries_outside(folder)) == gone


def test_panel__selects_all_that_match_and_exports_them(forty, notebook, folder):
    """The file beside the notebook has those entries, whole; the same name again is refused in the panel."""
    opened = notebook("export.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.field("Tag").select_option("draft")
    panel.button("Select all 10 matching").click()
    expect(panel.status).to_contain_text("10 selected")
    name = panel.field("File").input_value()
    panel.button("Export selected").click()
    expect(panel.box).to_contain_text(f"10 entries written to {name}")
    with (folder / name).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [f"Question {number:02d}?" for number in range(36, -1, -4)]
    assert opened.kernel_eval("len(__import__('or_cache_magic').panel().selected)") == "10"

    panel.field("File").fill(name)
    panel.button("Export selected").click()
    expect(panel.alert).to_contain_text(f"{name} is there already")
    expect(panel.alert).to_have_attribute("role", "alert")
    panel.button("Clear selection").click()
    expect(panel.alert).to_have_count(0)


def test_panel__shows_what_others_asked(forty, notebook, cache_of, sim):
    """An ask of another process is in the panel after Refresh, and not in the figures of this session."""
    opened = notebook("others.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.expect_matching(40)
    cache_of().ask("Asked elsewhere.")
    panel.button("Refresh").click()
    panel.expect_matching(41)
    assert panel.column("prompt")[0] == "Asked elsewhere."
    assert panel.tile("entries") == "41"
    expect(panel.value("paid")).not_to_have_text("$0")
    panel.field("Figures").select_option("this session")
    expect(panel.value("paid")).to_have_text("$0")


def test_panel__answers_while_a_cell_runs(forty, notebook, folder):
    """A model is chosen, pages are turned and an entry is opened while the kernel is busy."""
    opened = notebook("busy.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    # A kernel answers the first message of a widget after the cell (JupyterLab opens the other thread with it).
    panel.field("Model").select_option(MODELS[1])
    panel.expect_matching(13)
    opened.execute("import time, pathlib\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)")
    opened.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'busy'"
    )
    panel.field("Model").select_option(MODELS[0])
    panel.expect_matching(14)
    panel.field("Model").select_option("all models")
    panel.expect_matching(40)
    panel.button("Next").click()
    panel.expect_matching(40, " · page 2 of 3")
    panel.rows.first.get_by_role("button").click()
    expect(panel.detail).to_contain_text("Answer 24.")
    (folder / "go").touch()
    opened.wait_until_run()


def test_panel__shows_why_a_purge_failed(forty, notebook, folder):
    """A store that can't be written to is told in the panel, nothing goes, and the second try succeeds."""
    opened = notebook("locked.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    panel.field("#1").check()
    with closing(sqlite3.connect(folder / ".or_cache" / "cache.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        panel.button("Purge 1 selected").click()
        panel.button("Yes, remove").click()
        expect(panel.alert).to_be_visible()
        expect(panel.alert).to_have_attribute("role", "alert")
        assert len(panel.alert.inner_text().splitlines()) == 2
        other.rollback()
    assert len(entries_outside(folder)) == 40
    panel.button("Purge 1 selected").click()
    panel.button("Yes, remove").click()
    panel.expect_matching(39)
    expect(panel.alert).to_have_count(0)


def test_panel__is_used_by_keyboard_alone(forty, notebook):
    """Tab goes through the controls in the order in which they are read; Enter and Space do the rest."""
    opened = notebook("keys.ipynb", LOAD, PANEL)
    opened.run_all()
    panel = PanelPage(opened, 1)
    press = opened.page.keyboard.press
    panel.field("Search").focus()
    order = []
    for _ in range(11):
        order.append(opened.page.evaluate(NAME_OF_FOCUS))
        press("Tab")
    controls = ["Search", "Model", "Tag", "Since", "State", "Sort by", "Order"]
    first_key = panel.rows.first.get_by_role("button").inner_text()
    assert order == [*controls, "all on this page", "#1", first_key, "#2"]

    panel.field("Search").focus()
    opened.page.keyboard.type("question 1")
    press("Enter")
    panel.expect_matching(10)
    for _ in range(8):
        press("Tab")
    press("Space")
    expect(panel.status).to_contain_text("1 selected")
    panel.button("Purge 1 selected").focus()
    press("Enter")
    expect(panel.button("Cancel")).to_be_focused()
    press("Enter")
    expect(panel.button("Yes, remove")).to_be_hidden()
    expect(panel.button("Purge 1 selected")).to_be_focused()
    press("Enter")
    expect(panel.button("Cancel")).to_be_focused()
    press("Shift+Tab")
    expect(panel.button("Yes, remove")).to_be_focused()
    press("Enter")
    panel.expect_matching(9)


NAME_OF_FOCUS = """() => {
    const at = document.activeElement;
    const label = at.labels?.[0] ?? at;
    return label.innerText.trim();
}"""
