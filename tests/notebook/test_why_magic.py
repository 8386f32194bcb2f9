"""`%openrouter_why` in cells, and the receipt that warns of what changes by itself."""

from __future__ import annotations

import re

CELL = "%%openrouter openai/gpt-4o-mini\n"


def test_why__in_a_cell(nb):
    """The last ask, a key, the variable of an answer; what it gives back shows itself."""
    nb.run(f"{CELL}What is a median?")
    nb.run("%%openrouter openai/gpt-4o-mini -o mode\nWhat is a mode?")
    said = nb.run("%openrouter_why")
    assert re.search(r"^  prompt: What is a \[-median-\]\{\+mode\+\}\?$", said, re.MULTILINE)
    assert "\x1b" not in said
    nb.run("why = %openrouter_why mode")
    assert str(nb["why"]) == said.rstrip("\n")
    nb.run(f"why = %openrouter_why {nb['mode'].key[:10]}")
    assert nb["why"].nearest.key == nb["why"].nearest.key
    assert nb["why"].changes[0].field == "prompt"
    assert len(nb.sent) == 2


def test_why__refuses_what_is_no_answer(nb):
    """Two words, a variable that holds something else, no ask yet."""
    nb["number"] = 7
    assert "nothing was asked in this session" in nb.fails("%openrouter_why")
    assert "the variable number is a int, not an answer" in nb.fails("%openrouter_why number")
    assert "one key or answer a line" in nb.fails("%openrouter_why a b")
    assert "neither an answer nor the beginning of a key" in nb.fails("%openrouter_why whatever")


def test_receipt__warns_once_of_what_changes_by_itself(nb):
    """The first call that is stored says so; a hit, and the next of the kind, don't."""
    nb["path"] = "/tmp/tmpab12cd/data.csv"
    cell = f"{CELL}Describe {{{{ path }}}}"
    said = nb.run(cell)
    warning = "the prompt has a temporary path (/tmp/tmpab12cd/data.csv): a rerun with another will miss"
    assert warning in " ".join(said.split())
    assert "a rerun with another" not in nb.run(cell)
    nb["path"] = "/tmp/tmpzz99zz/data.csv"
    assert "a rerun with another" not in nb.run(cell)
    assert len(nb.sent) == 2
