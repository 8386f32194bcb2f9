"""``%openrouter_panel``: the panel where widgets are shown, its text in a terminal; and that cells refresh it."""

from __future__ import annotations

import or_cache_magic as orc
from or_cache_magic.panels.panel import Panel
from or_cache_magic.panels.static import Still


def test_panel__is_text_in_a_terminal(nb):
    """A terminal shows the figures and the newest entries; nothing is bound or returned."""
    nb.run("%%openrouter\nWhat is a median?")
    shown = nb.run("%openrouter_panel")
    assert shown.startswith("completion cache · all time\n  entries   1 ")
    assert "What is a median?" in shown
    assert "What is a median?" not in nb.run("_ = None\n_")


def test_panel__of_an_empty_cache_makes_no_folder(nb):
    """Looking makes nothing."""
    assert "entries   0" in nb.run("%openrouter_panel")
    assert not (nb.folder / ".or_cache").exists()


def test_panel__helps(nb):
    """``--help`` says what it is, and a word too many is refused."""
    assert "browse, purge and export" in nb.run("%openrouter_panel --help")
    assert "%openrouter_panel" in nb.fails("%openrouter_panel everything")


def test_panel__is_a_value(nb):
    """``panel = %openrouter_panel`` is the panel that ``orc.panel()`` gives, and it exports beside the notebook."""
    nb.run("panel = %openrouter_panel")
    panel = nb["panel"]
    assert isinstance(panel, Panel)
    assert not isinstance(panel, Still)
    nb.run("%cd ..")
    assert orc.panel() is panel
    nb.run("%%openrouter\nWhat is a median?")
    panel.face.table.whole_page.value = True
    panel.face.actions.export.click()
    assert panel.error is None
    assert len(list(nb.folder.glob("or-cache-*.csv"))) == 1
    panel.close()


def test_panel__is_saved_with_its_figures(nb, monkeypatch):
    """A notebook gets the widget, and the figures as an output of their own; a terminal gets the text once."""
    nb.run("%%openrouter\nWhat is a median?")
    nb.run("panel = %openrouter_panel")
    assert nb.run("display(panel)").count("What is a median?") == 1
    published = []
    monkeypatch.setattr(nb.shell, "kernel", object(), raising=False)
    monkeypatch.setattr(nb.shell.display_pub, "publish", lambda **said: published.append(said["data"]))
    nb.run("panel")
    widget, still = published
    assert set(widget) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert "\n" not in widget["text/plain"]
    assert set(still) == {"text/markdown"}
    assert "What is a median?" in still["text/markdown"]
    nb["panel"].close()


def test_panel__is_refreshed_after_cells_that_asked(nb):
    """What a cell bought, or was served, is in the panel when it has ended; also after a cell of Python."""
    nb.run("panel = %openrouter_panel")
    panel = nb["panel"]

    def figures():
        return panel.shown.figures

    nb.run("%%openrouter\nWhat is a median?")
    assert (figures().entries, figures().totals.hits) == (1, 0)
    nb.run("%%openrouter\nWhat is a median?")
    assert (figures().entries, figures().totals.hits) == (1, 1)
    nb.run("import or_cache_magic as orc\nx = orc.ask('Name a metal.')")
    assert figures().entries == 2
    nb.run("%openrouter_purge --all -y")
    assert figures().entries == 0
    panel.close()


def test_panel__opened_in_another_session_is_left_alone(nb):
    """A panel of a cache that the magics don't use is not refreshed by their cells."""
    with orc.open_cache(nb.folder / "other") as cache:
        panel = Panel(cache)
        before = panel.shown
        nb.run("%%openrouter\nWhat is a median?")
        assert panel.shown is before
        panel.close()
