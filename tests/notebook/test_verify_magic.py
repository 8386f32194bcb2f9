"""`%openrouter_verify` in cells: the bill, what is chosen, the table that shows itself."""

from __future__ import annotations

import re

from or_cache_magic.notebook.extension import loaded
from or_cache_magic.simulator import scenario

CELL = "%%openrouter openai/gpt-4o-mini --tag {}\nWhat is {}?"


def test_verify__in_a_cell(nb):
    """What it may cost comes first, then the table; the cells go on to be served the old answers."""
    for number in range(3):
        nb.run(CELL.format("exam", number))
    nb.run(CELL.format("other", "love"))
    said = nb.run("found = %openrouter_verify --tag exam --sample 2")
    assert said.startswith("2 of 3 entries asked again · $0.00")
    assert (nb["found"].sample, len(nb.sent)) == (2, 6)
    assert {body["messages"][-1]["content"] for body in nb.sent[4:]} < {f"What is {n}?" for n in range(3)}
    shown = nb.run("%openrouter_verify --sample 100% -q")
    assert "4 of 4 entries compared · paid $0.00" in shown
    assert shown.count("asked again") == 0
    assert "cached" in nb.run(CELL.format("exam", 1))
    assert len(nb.sent) == 10


def test_verify__is_shown_with_its_entry(nb):
    """What came is a later answer of the entry, with why it is not served."""
    nb.run("%%openrouter openai/gpt-4o-mini -o answer\nWhat is love?")
    nb.sim.script(scenario("plain", text="Something else."))
    shown = nb.run("%openrouter_verify --sample 1")
    assert f"differ: {nb['answer'].key[:10]} " in shown
    card = nb.run(f"%openrouter_entries {nb['answer'].key[:10]}")
    assert "answer 1 of 2 is served" in card
    assert re.search(r"later answer 2, just now: asked again to compare · \$0\.0.*\nSomething else\.", card)


def test_verify__refuses_in_two_lines(nb):
    """No sample, no key's beginning, offline: nothing is sent."""
    nb.run(CELL.format("exam", 1))
    assert "nothing was sent" in nb.fails("%openrouter_verify --sample most")
    assert "nothing was sent" in nb.fails("%openrouter_verify median")
    nb.run("%openrouter_config mode=offline")
    assert "offline nothing is asked again (nothing was sent)" in nb.fails("%openrouter_verify")
    assert len(nb.sent) == 1


def test_verify__says_what_the_cache_noticed(nb):
    """A line of the cache's own, such as that it can't be written, is told with the answers that it is about."""
    nb.run("%%openrouter openai/gpt-4o-mini\nWhat is love?")
    loaded().session().cache().database.tell("the completion cache can't be written")
    assert "the completion cache can't be written" in nb.run("found = %openrouter_verify")
