"""Replies below a refreshed answer: told, priced, asked again."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

import or_cache_magic as orc
from or_cache_magic.notebook.extension import loaded
from or_cache_magic.simulator import Scenario, scenario


@pytest.fixture
def talk(nb):
    """A conversation of three turns with two replies to the second; gives the cell of the first."""
    cell = "-o first\nA colour?"
    nb.run(f"%%openrouter {cell}")
    nb.run("%%openrouter -r first -o second\nIts opposite?")
    nb.run("%%openrouter -r second --tag deep -t 1 --sample 0 -o third\nAnd of that?")
    nb.run("%%openrouter -r second -s 'Be kind.'\nWhy?")
    assert len(nb.sent) == 4
    return cell


def says(nb, text: str) -> None:
    """What the model answers next."""
    nb.sim.script(Scenario(text=text))


def test_refresh__tells_of_the_replies_that_hang_on_the_old_answer(nb, talk):
    """A line, and nothing else is asked; none where the answer is the same."""
    says(nb, "Teal.")
    out = nb.run(f"%%openrouter --refresh {talk}")
    assert "3 replies go on from an earlier answer: --cascade asks again" in out
    assert len(nb.sent) == 5
    says(nb, "Teal.")
    nb.run("%%openrouter -r first\nIts opposite?")
    assert "2 replies go on" not in nb.run(f"%%openrouter --refresh -q {talk}")


def test_refresh__says_nothing_where_the_answer_is_the_same(nb, talk):
    """The replies to it are still there."""
    says(nb, str(nb["first"]))
    assert "earlier answer" not in nb.run(f"%%openrouter --refresh {talk}")


def test_cascade__asks_all_again_as_they_were(nb, talk):
    """With the new answers before them; then every cell is a hit, and the next cascade asks nothing."""
    says(nb, "Teal.")
    out = nb.run(f"%%openrouter --refresh --cascade -y {talk}")
    assert re.search(r"--cascade: 3 replies to ask again · \$\S+ to \$\S+\n", out)
    assert "--cascade: 3 replies asked again · $" in out
    refreshed, *again = nb.sent[4:]
    assert refreshed["messages"] == nb.sent[0]["messages"]
    for new, old in zip(again, nb.sent[1:4], strict=True):
        assert {**new, "messages": 0} == {**old, "messages": 0}
        assert new["messages"][-1] == old["messages"][-1]
        assert next(m["content"] for m in new["messages"] if m["role"] == "assistant") == "Teal."
    assert again[2]["messages"][0] == {"role": "system", "content": "Be kind."}
    assert orc.entries(tag="deep").shape[0] == 2

    nb.run(f"%%openrouter {talk}")
    nb.run("%%openrouter -r first -o second\nIts opposite?")
    nb.run("%%openrouter -r second -t 1 --sample 0\nAnd of that?")
    nb.run("%%openrouter -r second -s 'Be kind.'\nWhy?")
    assert "no reply goes on from an earlier answer" in nb.run(f"%%openrouter --cascade {talk}")
    assert len(nb.sent) == 8


@pytest.mark.parametrize(("said", "sent"), [("n", 4), ("", 4), ("y", 8)])
def test_cascade__asks_before_anything_is_sent(nb, talk, monkeypatch, said, sent):
    """The refresh too; no is the default."""
    questions = []
    says(nb, "Teal.")
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or said)
    out = nb.run(f"%%openrouter --refresh --cascade {talk}")
    assert questions == ["Ask 3 replies again? [y/N] "]
    assert len(nb.sent) == sent
    assert ("nothing was sent" in out) == (sent == 4)


def test_cascade__refuses_where_nobody_can_be_asked(nb, talk, monkeypatch):
    """A batch run says -y."""

    def cannot(_question):
        raise EOFError

    monkeypatch.setattr("builtins.input", cannot)
    out = nb.fails(f"%%openrouter --refresh --cascade {talk}")
    assert "this front end can't ask, so nothing was sent" in out
    assert "add -y" in out
    assert len(nb.sent) == 4


def test_cascade__dry_run_says_what_it_may_cost(nb, talk):
    """The call, then the replies; nothing is sent."""
    out = nb.run(f"%%openrouter --refresh --cascade --dry-run {talk}")
    assert "would ask" in out
    assert "--cascade: 3 replies to ask again" in out
    assert len(nb.sent) == 4


def test_cascade__goes_on_where_a_budget_ended_it(nb, talk):
    """--max-cost is for the answer and its replies together; what was bought is kept, --cascade alone goes on."""
    says(nb, "Teal.")
    cache = loaded().session().cache()
    high_usd = cache.money.estimate(nb["second"].request, cache.settings).high_usd
    limit = high_usd + Decimal("0.00001")  # the first call leaves enough for the second, and that too little
    out = nb.fails(f"%%openrouter --refresh --cascade -y --max-cost {limit:f} {talk}")
    assert "--cascade: 1 reply asked again" in out
    assert "BudgetError" in out
    assert "of --max-cost (nothing was sent)" in out
    assert len(nb.sent) == 6
    assert "--cascade: 2 replies to ask again" in nb.run(f"%%openrouter --cascade -y {talk}")
    assert len(nb.sent) == 8


def test_cascade__alone_asks_what_was_left(nb, talk):
    """It serves the answer, and asks what still goes on from an earlier one."""
    says(nb, "Teal.")
    nb.run(f"%%openrouter --refresh {talk}")
    nb.run("%%openrouter -r first -o second\nIts opposite?")
    out = nb.run(f"%%openrouter --cascade -y {talk}")
    assert "--cascade: 2 replies to ask again" in out
    assert "--cascade: 2 replies asked again" in out
    assert "1 cached" in out
    assert len(nb.sent) == 8


def test_cascade__one_that_fails_leaves_the_others(nb, talk):
    """What replies to it is left out, since there is no answer to go on from."""
    nb.run("%%openrouter -r first\nIts like?")
    says(nb, "Teal.")
    nb.sim.script(scenario("invalid_request"))
    out = nb.run(f"%%openrouter --refresh --cascade -y {talk}")
    assert "--cascade: 1 reply asked again" in out
    assert "1 failed: " in out


@pytest.mark.parametrize("option", ["--no-cache", "--offline"])
def test_cascade__goes_with_no_mode_that_keeps_or_asks_nothing(nb, talk, option):
    """Refused before anything is sent."""
    assert "--cascade does not go with the mode" in nb.fails(f"%%openrouter {option} --cascade {talk}")
    assert len(nb.sent) == 4


def test_cascade__of_an_answer_that_is_not_stored_asks_nothing(nb, talk):
    """The stored answer is still the one that they go on from."""
    nb.sim.script(Scenario(finish_reason="content_filter"))
    out = nb.run(f"%%openrouter --refresh --cascade -y {talk}")
    assert "no reply was asked again, since the answer is not stored" in out
    assert len(nb.sent) == 5


def test_entries__shows_the_conversation(nb, talk):
    """What an answer replies to above it, what replies to it below, and which go on from an earlier answer."""
    says(nb, "Teal.")
    nb.run(f"%%openrouter --refresh {talk}")
    keys = [nb[name].key[:10] for name in ("first", "second", "third")]
    shown = nb.run(f"%openrouter_entries {keys[1]}")
    (other,) = (key[:10] for key in orc.entries("Why?")["key"])
    assert (
        "\n".join(
            [
                f"{keys[0]}  A colour?",
                f"{keys[1]}    Its opposite? (to an earlier answer) ← this",
                f"{keys[2]}      And of that?",
                f"{other}      Why?",
            ]
        )
        in shown
    )
    nb.run(f"%openrouter_purge {keys[0]} -y")
    assert f"{keys[0]}  (not stored)\n{keys[1]}    Its opposite? ← this\n" in nb.run(
        f"%openrouter_entries {keys[1]}"
    )
    nb.run("%openrouter -o alone Alone?")
    assert "← this" not in nb.run(f"%openrouter_entries {nb['alone'].key[:10]}")
