"""The panel's controls: what each does to what is on screen, to the selection and to the store."""

import asyncio
import csv
import json
import re
import threading
import time

import ipywidgets
import pandas as pd
import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreError, StreamBrokenError
from or_cache_magic.panels import open_panel, panel_text
from or_cache_magic.panels.export import harmless
from or_cache_magic.panels.static import Still
from or_cache_magic.simulator import scenario

from .conftest import DAY_S, UNKNOWN, Text, keep, prompts, refusing, said, status, usd


def row(panel, number):
    """The row of this place on the page, from 1."""
    shown = panel.face.table.pool[number - 1]
    assert shown.check.description == f"#{number}"
    assert shown.box in panel.face.table.box.children
    return shown


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


# -- browsing ---------------------------------------------------------------------------------


def test_open__shows_the_newest(panel):
    """The newest fifteen, how many there are, and how many pages."""
    assert prompts(panel) == [f"Question {i}, please" for i in range(15)]
    assert status(panel) == "40 matching · page 1 of 3"
    assert panel.error is None
    assert row(panel, 1).open.description == panel.shown.rows[0].key[:10]
    assert "Question 0, please" in said(row(panel, 1).cells)


def test_pages__turn_and_end(panel):
    """Next and Previous, and neither beyond an end; the last page shows what is left."""
    assert panel.face.previous.disabled
    panel.face.next.click()
    panel.face.next.click()
    assert prompts(panel) == [f"Question {i}, please" for i in range(30, 40)]
    assert status(panel) == "40 matching · page 3 of 3"
    assert panel.face.next.disabled
    assert len(panel.face.table.box.children) == 11
    panel.face.previous.click()
    assert prompts(panel)[0] == "Question 15, please"
    assert len(panel.face.table.box.children) == 16
    assert row(panel, 1).open.description == panel.shown.rows[0].key[:10]


@pytest.mark.parametrize(
    ("control", "value", "matching"),
    [
        ("search", "question 7", 1),
        ("search", "  ANSWER 1 ", 11),
        ("search", "%", 0),
        ("model", "anthropic/claude-sonnet-4", 10),
        ("tag", "exam", 14),
        ("since", 7 * DAY_S, 15),
        ("state", "expired", 7),
        ("state", "served", 33),
    ],
)
def test_filters__each(panel, control, value, matching):
    """Each narrows the table to what it says, from the first page on, and going back shows all."""
    panel.face.next.click()
    widget = getattr(panel.face.controls, control)
    before, widget.value = widget.value, value
    assert status(panel).startswith(f"{matching} matching · page 1 of")
    assert len(panel.frame()) == matching
    widget.value = before
    assert status(panel) == "40 matching · page 1 of 3"


def test_filters__together(panel):
    """Every condition must hold."""
    controls = panel.face.controls
    controls.model.value, controls.tag.value, controls.search.value = (
        "anthropic/claude-sonnet-4",
        "exam",
        "question 2",
    )
    assert prompts(panel) == ["Question 24, please"]


def test_filters__that_match_nothing_say_so(panel):
    """An empty table has a sentence in it, and nothing to select."""
    panel.face.controls.search.value = "nowhere"
    assert said(panel.face.table.empty) == "No entry matches."
    assert panel.face.table.empty in panel.face.table.box.children
    assert panel.face.actions.select.disabled


def test_options__are_names_and_never_none(panel):
    """A dropdown's value is a text; None would blank it in the browser."""
    for widget in walk(panel.face.box):
        if isinstance(widget, ipywidgets.Dropdown):
            assert widget.description
            assert all(value is not None for _, value in widget.options)
    assert [value for _, value in panel.face.controls.model.options] == [
        "", "anthropic/claude-sonnet-4", "openai/gpt-4o-mini",
    ]  # fmt: skip


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("order", ["created", "cost_usd", "hits", "model", "expires"])
def test_sort__each_way(panel, filled, order, descending):
    """The table is in the store's order, and the column's head says so."""
    panel.face.controls.order.value = order
    panel.face.controls.way.value = descending
    found = filled.store.listing.find(order=order, descending=descending)
    assert list(panel.frame()["key"]) == [one.key for one in found]
    name = {"cost_usd": "cost", "expires": "lifetime"}.get(order, order)
    assert f"{name} {'▾' if descending else '▴'}" in said(panel.face.table.heads)


def test_sort__of_a_search_does_not_search_again(panel, filled):
    """Another order of what was found lists the same entries."""
    panel.face.controls.search.value = "answer 3"
    found = sorted(prompts(panel))
    panel.face.controls.order.value = "cost_usd"
    assert sorted(prompts(panel)) == found
    assert len(found) == 11


def test_controls__all_have_names(panel):
    """Whoever can't see the panel hears what each control is."""
    kinds = (ipywidgets.Dropdown, ipywidgets.Text, ipywidgets.Button, ipywidgets.Checkbox)
    controls = [widget for widget in walk(panel.face.box) if isinstance(widget, kinds)]
    assert len(controls) > 40
    assert all(widget.description for widget in controls)


# -- figures ----------------------------------------------------------------------------------


def test_figures__of_the_session_or_of_all_time(panel, open_cache, sim, open_panel):
    """The toggle counts this session's asks, and back."""
    other = open_panel(open_cache(sim))
    everything = said(other.face.tiles)
    assert "of 100 asks" in everything
    other.face.scope.value = True
    assert "0 of 0 asks" in said(other.face.tiles)
    assert said(other.face.chart) == "Nothing asked yet."
    other.face.scope.value = False
    assert said(other.face.tiles) == everything


def test_refresh__settles_what_a_cut_stream_came_to(cache, sim, clock, open_panel):
    """Whoever presses it sees what OpenRouter has told meanwhile; opening a panel asks nobody."""
    sim.script(scenario("cut"))
    with pytest.raises(StreamBrokenError):
        cache.ask("What is a median?")
    panel = open_panel(cache)
    clock.now_s += 60
    panel.refresh()
    assert cache.totals()[0].unpriced == 1
    panel.face.refresh.click()
    assert cache.totals()[0].unpriced == 0
    assert "settled" in panel.face.tiles.value


@pytest.mark.parametrize("by", ["model", "day", "notebook", "tag"])
def test_by__shows_the_sums_of_groups(panel, filled, by):
    """Each group's asks and dollars, as the cache's own totals have them."""
    panel.face.by.value = by
    table = said(panel.face.groups)
    assert table.startswith(f"{by} asks hit rate paid saved")
    totals = filled.totals(by)
    top = max(totals, key=lambda t: t.group if by == "day" else t.asks)
    assert (top.group or "(none)") in table
    assert f" {top.asks} " in table


# -- selecting --------------------------------------------------------------------------------


def test_selection__is_kept_across_pages_sorts_and_filters(panel):
    """What was checked stays selected wherever the table goes, and is checked when it comes back."""
    row(panel, 2).check.value = True
    panel.face.next.click()
    row(panel, 2).check.value = True
    panel.face.controls.search.value = "question 3"
    row(panel, 1).check.value = True
    assert status(panel).endswith("· 3 selected")
    panel.face.controls.search.value = ""
    assert [one.check.value for one in panel.face.table.pool[:4]] == [False, True, False, True]
    assert "orc-on" in row(panel, 2).box._dom_classes
    panel.face.next.click()
    assert row(panel, 2).check.value
    row(panel, 2).check.value = False
    assert sorted(panel.selected["prompt"]) == ["Question 1, please", "Question 3, please"]


def test_selection__of_a_page_and_of_all(panel, filled):
    """The head's box takes the page, the button takes all that match, and one more clears."""
    table, actions = panel.face.table, panel.face.actions
    table.whole_page.value = True
    assert status(panel).endswith("15 selected")
    panel.face.next.click()
    assert not table.whole_page.value
    actions.select.click()
    assert table.whole_page.value
    assert actions.select.description == "Select all 40 matching"
    assert actions.purge.description == "Purge 40 selected"
    table.whole_page.value = False
    assert status(panel).endswith("25 selected")
    actions.clear.click()
    assert panel.selected.empty
    panel.face.controls.search.value = "answer 2"
    actions.select.click()
    assert len(panel.selected) == 11


def test_frames__are_what_is_on_screen(panel, filled):
    """`selected` and `frame()` are pandas, with the columns of ``%openrouter_entries``."""
    row(panel, 1).check.value = True
    panel.face.controls.tag.value = "exam"
    assert isinstance(panel.selected, pd.DataFrame)
    assert list(panel.selected.columns) == list(filled.entries().columns)
    assert list(panel.frame()["key"]) == list(filled.entries(tag="exam")["key"])


# -- one entry --------------------------------------------------------------------------------


def test_detail__shows_an_entry_whole(cache, open_panel):
    """Request, parameters, answer, costs, times, and that it is served."""
    key = keep(cache, "Line one\nLine two", "**Bold** and `code`", tags=("a", "b"), generation_id="gen-7")
    panel = open_panel(cache)
    row(panel, 1).open.click()
    detail = said(panel.face.detail)
    for part in (
        key,
        "Line one Line two",
        "temperature",
        "Bold and code",
        "$0.0021",
        "reported",
        "gen-7",
        "a, b",
    ):
        assert part in detail
    assert "served now yes" in detail
    assert "<strong>Bold</strong>" in panel.face.detail.value
    assert panel.face.detail_box.layout.display == "flex"
    panel.face.close_detail.click()
    assert panel.face.detail_box.layout.display == "none"
    assert panel.face.detail.value == ""


def test_detail__says_why_it_is_not_served(cache, open_panel, clock):
    """An expired entry says so, and what comes of it."""
    keep(cache, ttl_s=60.0)
    clock.now_s += 61
    panel = open_panel(cache)
    row(panel, 1).open.click()
    assert "served now no: expired; the next ask buys it" in said(panel.face.detail)
    assert "expired" in said(row(panel, 1).cells)


def test_detail__has_the_history(cache, open_panel, sim):
    """An answer that was replaced is there with its reason."""
    first = cache.ask("What is a median?")
    sim.script(scenario("plain", text="Another answer."))
    cache.ask("What is a median?", mode="refresh")
    kept = cache.store.unserved(first.key)
    assert kept
    panel = open_panel(cache)
    row(panel, 1).open.click()
    detail = said(panel.face.detail)
    assert len(kept) == detail.count("not served, kept")
    served = cache.store.served_number(first.key)
    assert f"yes, answer {served} of 2" in detail
    assert {served, kept[0].number} == {1, 2}
    for one in kept:
        assert one.reason in detail


def test_detail__of_one_that_is_gone(panel, filled):
    """Opened a moment too late it says that it is gone."""
    filled.store.purge(EntryFilter(keys=(panel.shown.rows[0].key,)))
    row(panel, 1).open.click()
    assert "not in the completion cache any more" in said(panel.face.detail)


def test_detail__of_a_huge_request_is_small(cache, open_panel):
    """An attachment is counted, not sent to the browser."""
    keep(cache, "data:image/png;base64," + "A" * 3_000_000)
    panel = open_panel(cache)
    row(panel, 1).open.click()
    assert len(panel.face.detail.value) < 20_000
    assert "more characters" in said(panel.face.detail)


# -- purging ----------------------------------------------------------------------------------


def test_purge__asks_and_cancel_keeps(panel, filled):
    """The question names the count and what it would cost to buy again; Cancel removes nothing."""
    actions = panel.face.actions
    for number in (1, 4):
        row(panel, number).check.value = True
    actions.purge.click()
    assert actions.confirm.layout.display == "flex"
    asked = said(actions.question)
    assert asked.startswith("Remove 2 entries (")
    assert "To buy them again would cost ≥ $0.0010 (1 of unknown cost)." in asked
    assert "Question 3, please" in asked
    actions.cancel.click()
    assert actions.confirm.layout.display == "none"
    assert filled.store.listing.count()[0] == 40


def test_purge__gives_the_focus_to_cancel(panel, wire):
    """A hasty Enter removes nothing; afterwards the focus is back where it was."""

    def focused():
        told = [json.loads(message) for message in wire.sent if '"focus"' in message]
        return [one[1] for one in told]

    actions = panel.face.actions
    for button in (actions.cancel, actions.purge):  # they were made before this test listened
        button.close()
        button.open()
    row(panel, 1).check.value = True
    actions.purge.click()
    assert focused() == [actions.cancel.comm.comm_id]
    actions.cancel.click()
    assert focused()[1:] == [actions.purge.comm.comm_id]


def test_purge__removes_what_was_confirmed(panel, filled):
    """Yes removes the selection and nothing else; the ledger keeps its sums."""
    before = filled.totals()
    gone = [panel.shown.rows[0].key, panel.shown.rows[3].key]
    for number in (1, 4):
        row(panel, number).check.value = True
    panel.face.actions.purge.click()
    keep(filled, "stored while it was asked")
    panel.face.actions.yes.click()
    assert said(panel.face.note_line) == "2 entries removed"
    assert status(panel) == "39 matching · page 1 of 3"
    assert not set(gone) & set(filled.store.listing.digests(EntryFilter()))
    assert filled.totals()[0].saved_usd == before[0].saved_usd
    assert panel.face.actions.purge.disabled


def test_purge__pressed_twice_removes_once(panel, filled):
    """A second press, or one without a question, does nothing."""
    row(panel, 1).check.value = True
    panel.face.actions.yes.click()
    assert filled.store.listing.count()[0] == 40
    panel.face.actions.purge.click()
    panel.face.actions.yes.click()
    row(panel, 1).check.value = True
    panel.face.actions.yes.click()
    assert filled.store.listing.count()[0] == 39


def test_purge__another_selection_takes_the_question_away(panel, filled):
    """What is asked about is what would go."""
    row(panel, 1).check.value = True
    panel.face.actions.purge.click()
    row(panel, 2).check.value = True
    assert not panel.face.actions.asking
    panel.face.actions.yes.click()
    assert filled.store.listing.count()[0] == 40


def test_purge__of_a_whole_model_goes_back_to_all(panel, filled):
    """When what the table was narrowed to is gone, all is shown again."""
    panel.face.controls.model.value = "anthropic/claude-sonnet-4"
    panel.face.actions.select.click()
    panel.face.actions.purge.click()
    panel.face.actions.yes.click()
    assert panel.face.controls.model.value == ""
    assert status(panel) == "30 matching · page 1 of 2"


def test_purge__closes_the_entry_that_went(panel):
    """Its details don't stay."""
    row(panel, 1).open.click()
    row(panel, 1).check.value = True
    panel.face.actions.purge.click()
    panel.face.actions.yes.click()
    assert panel.face.detail.value == ""


# -- exporting --------------------------------------------------------------------------------


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_export__writes_the_selection_whole(cache, open_panel, tmp_path):
    """Whole prompts and answers, the columns of ``%openrouter_entries``; pandas reads it back."""
    keep(cache, "left out")
    key = keep(
        cache, "prompt, with a comma\nand a line" + "x" * 900, 'answer "quoted" ' + "y" * 900, cost=UNKNOWN
    )
    panel = open_panel(cache)
    picked = next(one for one in panel.face.table.pool if one.key == key)
    picked.check.value = True
    name = panel.face.actions.file.value
    assert re.fullmatch(r"or-cache-\d{4}-\d\d-\d\d\.csv", name)
    panel.face.actions.export.click()
    assert said(panel.face.note_line) == f"1 entry written to {name}"
    (written,) = read_csv(tmp_path / name)
    assert written["prompt"] == "prompt, with a comma\nand a line" + "x" * 900
    assert written["answer"].endswith("y" * 900)
    assert (written["cost_usd"], written["cost_source"]) == ("", "unknown")
    frame = pd.read_csv(tmp_path / name)
    assert list(frame.columns) == list(cache.entries().columns)
    assert list(frame["key"]) == [key]


def test_export__never_overwrites(panel, tmp_path):
    """The next proposal is another name, and a name that is taken is refused with the file as it was."""
    row(panel, 1).check.value = True
    actions = panel.face.actions
    first = actions.file.value
    actions.export.click()
    second = actions.file.value
    assert second != first
    actions.file.value = first
    before = (tmp_path / first).read_bytes()
    actions.export.click()
    assert said(panel.face.alert_box) == f"{first} is there already; it was left as it is write another name"
    assert (tmp_path / first).read_bytes() == before
    actions.file.value = "mine"
    actions.export.click()
    assert (tmp_path / "mine.csv").exists()
    assert said(panel.face.alert_box) == ""


def test_export__that_fails_leaves_no_half(panel, tmp_path):
    """A folder that is not there is an error in two lines."""
    row(panel, 1).check.value = True
    panel.face.actions.file.value = "nowhere/x.csv"
    panel.face.actions.export.click()
    assert "can't be written" in said(panel.face.alert_box)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"])
def test_export__runs_nothing_in_a_spreadsheet(cache, open_panel, tmp_path, text):
    """A text that a spreadsheet would run has ``'`` before it, whichever field it stands in."""
    assert harmless(text) == f"'{text}"
    assert harmless("1 = 1") == "1 = 1"
    keep(cache, text, text, model=text, provider=text, notebook=text)
    panel = open_panel(cache)
    row(panel, 1).check.value = True
    panel.face.actions.export.click()
    (written,) = read_csv(tmp_path / f"{next(tmp_path.glob('*.csv')).name}")
    for column in ("prompt", "answer", "model", "provider", "notebook"):
        assert written[column].startswith("'"), column


# -- errors and threads -----------------------------------------------------------------------


def test_error__is_shown_and_goes_when_the_next_works(panel, filled, folder):
    """What a callback raises stands in the panel, in two lines, as an alert; the panel goes on."""
    path = folder / "cache.db"
    filled.close()
    good = path.read_bytes()
    path.write_bytes(b"no database " * 1000)
    panel.face.next.click()
    panel.face.refresh.click()
    assert panel.error is not None
    assert 'role="alert"' in panel.face.alert_box.value
    assert said(panel.face.alert_box)
    filled.close()
    path.write_bytes(good)
    panel.face.refresh.click()
    assert panel.error is None
    assert panel.face.alert_box.value == ""
    assert status(panel).startswith("40 matching")


def test_error__of_another_kind_is_escaped(panel):
    """Whatever it says, it is text."""
    panel.alert(RuntimeError("<img src=x onerror=alert(1)>"))
    assert Text(panel.face.alert_box.value).tags == ["div"]
    assert "RuntimeError: <img src=x onerror=alert(1)> Refresh reads" in said(panel.face.alert_box)


def test_error__when_it_is_opened_is_shown_in_it(cache, open_panel, folder):
    """A file that is no cache of ours makes a panel that says so, here and as text."""
    folder.mkdir()
    (folder / "cache.db").write_bytes(b"no database " * 1000)
    panel = open_panel(cache)
    assert panel.error is not None
    assert said(panel.face.alert_box)
    assert "completion cache: " in repr(panel)
    assert "text/markdown" not in panel._repr_mimebundle_()


def test_store_that_refuses__shows_its_error(panel, filled, folder):
    """A purge that can't be done removes nothing, keeps the selection, and says why."""
    key = panel.shown.rows[0].key
    row(panel, 1).check.value = True
    panel.face.actions.purge.click()
    with refusing(folder, key):
        panel.face.actions.yes.click()
    assert isinstance(panel.error, StoreError)
    assert said(panel.face.alert_box)
    assert status(panel).endswith("1 selected")
    panel.face.refresh.click()
    assert filled.store.listing.count()[0] == 40
    assert status(panel).endswith("1 selected")


def test_thread__callbacks_while_the_main_one_asks(cache, open_panel, sim):
    """A front end calls back on a thread of its own while a cell asks; both get on, and the end is right."""
    for i in range(20):
        keep(cache, f"{i}")
    panel = open_panel(cache)
    errors, done = [], threading.Event()

    def use():
        while not done.is_set():
            for act in (panel.face.next.click, panel.face.previous.click, panel.face.refresh.click):
                act()
                if panel.error is not None:
                    errors.append(panel.error)

    thread = threading.Thread(target=use)
    thread.start()
    try:
        for i in range(30):
            cache.ask(f"asked {i}")
            panel.after_cell()
    finally:
        done.set()
        thread.join()
    assert errors == []
    panel.refresh()
    assert status(panel).startswith("50 matching")


def test_click__is_meant_for_the_row_as_it_was(panel, filled):
    """A click that arrives while a refresh fills the row with another entry still picks the one that was there."""
    first = panel.face.table.pool[0]
    key = first.key
    started, finished = threading.Event(), threading.Event()

    def click():
        started.set()
        first.check.value = True
        finished.set()

    with panel.lock:
        threading.Thread(target=click).start()
        assert started.wait(60)
        while not first.check.value:  # the click's trait is set before its callback waits for the lock
            pass
        keep(filled, "newer")
        panel.refresh()
    assert finished.wait(60)
    assert list(panel.selected["key"]) == [key]
    assert [one.check.value for one in panel.face.table.pool[:2]] == [False, True]


# -- refreshing -------------------------------------------------------------------------------


def test_refresh__shows_what_came(panel, filled):
    """The button reads again: entries, figures, models."""
    keep(filled, "newest", model="new/model", tags=("fresh",))
    panel.face.refresh.click()
    assert prompts(panel)[0] == "newest"
    assert ("new/model", "new/model") in panel.face.controls.model.options
    assert ("fresh", "fresh") in panel.face.controls.tag.options


def test_after_cell__shows_new_asks_and_hits(panel, filled):
    """After a cell that asked, its entry is there, and a hit is counted."""
    keep(filled, "asked in a cell")
    panel.after_cell()
    assert prompts(panel)[0] == "asked in a cell"
    before = said(panel.face.tiles)
    filled.ledger.count_hit(
        key=panel.shown.rows[0].key, model="openai/gpt-4o-mini", value_usd=usd("0.0021").usd
    )
    panel.after_cell()
    assert said(panel.face.tiles) != before


def test_after_cell__without_a_change_sends_nothing(filled, open_panel, wire):
    """Cells that ask nothing cost no message."""
    panel = open_panel(filled)
    panel.after_cell()
    wire.sent.clear()
    for _ in range(10):
        panel.after_cell()
    assert wire.sent == []


def test_after_cell__does_not_search_again(panel, filled):
    """A search that takes seconds is not repeated after every cell; the panel says that it is of before."""
    panel.face.controls.search.value = "question 1"
    keep(filled, "question 1 again")
    panel.after_cell()
    assert status(panel).startswith("11 matching")
    assert "Refresh searches again" in said(panel.face.note_line)
    panel.face.refresh.click()
    assert status(panel).startswith("12 matching")
    assert said(panel.face.note_line) == ""


def test_after_cell__keeps_what_is_set(panel, filled):
    """Page, order, filters and selection stay."""
    panel.face.controls.tag.value = "exam"
    panel.face.controls.model.value = "openai/gpt-4o-mini"
    row(panel, 2).check.value = True
    chosen = list(panel.selected["key"])
    keep(filled, "one more", tags=("exam",))
    keep(filled, "of a new model", model="a/new", tags=("another",))
    panel.after_cell()
    assert (panel.face.controls.tag.value, panel.face.controls.model.value) == ("exam", "openai/gpt-4o-mini")
    assert list(panel.selected["key"]) == chosen
    assert row(panel, 3).check.value


def test_after_cell__never_waits_for_a_callback(panel, filled):
    """While a callback has the panel, a cell's end passes by."""
    held, go = threading.Event(), threading.Event()

    def hold():
        with panel.lock:
            held.set()
            go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    keep(filled, "meanwhile")
    panel.after_cell()
    assert prompts(panel)[0] == "Question 0, please"
    go.set()
    thread.join()
    panel.after_cell()
    assert prompts(panel)[0] == "meanwhile"


# -- ways to it -------------------------------------------------------------------------------


def test_open_panel__is_one_for_each_cache(filled, open_cache, sim, tmp_path):
    """Shown twice it is the same panel, read anew; another cache has its own, and a closed one is not shown."""
    panel = open_panel(filled)
    keep(filled, "newest")
    assert open_panel(filled) is panel
    assert prompts(panel)[0] == "newest"
    other = open_panel(open_cache(sim, directory=tmp_path / "other"))
    assert other is not panel
    panel.close()
    again = open_panel(filled)
    assert again is not panel
    for opened in (other, again):
        opened.close()


def test_empty_cache__says_how_to_begin(cache, open_panel):
    """Nothing is there, nothing can be done, and no folder is made."""
    panel = open_panel(cache)
    assert "run a %%openrouter cell" in said(panel.face.table.empty)
    actions = panel.face.actions
    assert all(button.disabled for button in (actions.select, actions.export, actions.purge, panel.face.next))
    assert not cache.directory.exists()


def test_without_ipywidgets__the_figures_and_how_to_get_the_rest(filled):
    """The same figures as Markdown and text, and one line on what to install."""
    still = Still(filled)
    assert panel_text(filled) in repr(still)
    assert repr(still).count("pip install ipywidgets") == 1
    bundle = still._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/markdown"}
    assert "pip install ipywidgets" in bundle["text/markdown"]
    assert len(still.frame()) == 40


async def until(holds, timeout_s=60.0):
    """Lets the loop run until `holds()`."""
    give_up_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)


def test_first_paint__of_many_asks_leaves_the_chart_for_afterwards(cache, open_panel):
    """With more asks than are added up in no time the panel is there first, and then whole, in a kernel."""
    keep(cache, "one", hits=30_000)

    async def cell():
        panel = open_panel(cache)
        assert "30,000 of 30,001 asks" in said(panel.face.tiles)
        assert "at best" not in said(panel.face.tiles)
        assert panel.face.chart.value == ""
        await until(lambda: panel.face.chart.value)
        assert "at best" in said(panel.face.tiles)
        assert "<svg" in panel.face.chart.value
        assert panel.error is None

    asyncio.run(cell())


def test_first_paint__waits_for_no_callback(cache, open_panel):
    """While a callback has the panel, the chart comes when it is done."""
    keep(cache, "one", hits=30_000)

    async def cell():
        panel = open_panel(cache)
        held, go = threading.Event(), threading.Event()

        def hold():
            with panel.lock:
                held.set()
                go.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(60)
        await asyncio.sleep(0.05)
        assert panel.face.chart.value == ""
        go.set()
        thread.join()
        await until(lambda: panel.face.chart.value)

    asyncio.run(cell())
