"""``%%openrouter --each NAME``: a cell's prompt for each row of a table of the nb."""

from __future__ import annotations

import pandas as pd
import pytest

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def reviews(nb):
    """A table in the nb."""
    frame = pd.DataFrame({"body": ["fine", "cold", "fine"], "n": [1, 2, 3]}, index=list("abc"))
    nb["reviews"] = frame
    return frame


def test_each__binds_the_table(nb, reviews):
    """The rows' answers are columns of a copy of the table, which is -o and _; again it is free."""
    nb["rubric"] = "one word"
    written = nb.run(
        f"%%openrouter {MODEL} --each reviews -o labelled\nGood or bad, {{{{ rubric }}}}: {{{{ row.body }}}}"
    )
    assert "3 rows, 2 to ask · $0.000" in written
    assert "3 answered, 1 cached, 0 failed, paid $0.0" in written
    table = nb["labelled"]
    assert list(table.columns) == ["body", "n", "answer", "answer_cost_usd", "answer_cached", "answer_error"]
    assert list(table.index) == list("abc")
    assert nb["_"] is table
    assert nb.sim.completion_count == 2
    bodies = [request.body["messages"][-1]["content"] for request in nb.sim.requests if request.is_completion]
    assert sorted(bodies) == ["Good or bad, one word: cold", "Good or bad, one word: fine"]
    written = nb.run(f"again = %openrouter -m {MODEL} --each reviews Good or bad, one word: {{{{ body }}}}")
    assert nb.sim.completion_count == 2
    assert list(nb["again"]["answer_cached"]) == [True] * 3


def test_each__takes_the_options_of_an_ask(nb, reviews):
    """Schema, system prompt, tag and a prompt file are for all rows; a list gives a list."""
    nb.run(
        f"%%openrouter {MODEL} --each reviews -o facts --schema 'good bool' -s 'Be brief.' --tag t\n{{{{ body }}}}"
    )
    assert list(nb["facts"].columns)[2] == "good"
    assert list(nb["facts"]["answer_error"]) == [None] * 3
    (nb.folder / "ask.md").write_text(f"---\nmodel: {MODEL}\n---\nGood? {{{{ row }}}}")
    nb["texts"] = ["fine", "cold"]
    nb.run("%%openrouter @ask.md --each texts -o found\n")
    assert len(nb["found"]) == 2
    assert nb.sim.requests[-1].body["messages"][-1]["content"].startswith("Good? ")


def test_each__first_look_and_dry_run(nb, reviews):
    """--limit asks for the first rows only and tells what all would cost; --dry-run sends nothing."""
    written = nb.run(f"%%openrouter {MODEL} --each reviews --dry-run\nGood or bad: {{{{ body }}}}")
    assert "would ask 2 of 3 rows · $0.000" in written
    assert "nothing sent" in written
    assert nb.sim.completion_count == 0
    written = nb.run(f"%%openrouter {MODEL} --each reviews --limit 1 -o first\nGood or bad: {{{{ body }}}}")
    assert "the first 1 of 3 rows · all would ask 1 more: about $0.0" in written
    assert len(nb["first"]) == 1
    written = nb.run(f"%%openrouter {MODEL} --each reviews -o whole --limit 3\nGood or bad: {{{{ body }}}}")
    assert "2 to ask" not in written
    written = nb.run(f"%%openrouter {MODEL} --each reviews --dry-run\nGood or bad: {{{{ body }}}}")
    assert "would ask 0 of 3 rows · nothing sent" in written


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--each review", "did you mean reviews?"),
        ("--each reviews --raw", "--each does not go with --raw"),
        ("--each reviews -n 2", "one model and one sample"),
        ("openai/gpt-4o --each reviews", "one model and one sample"),
        ("--each reviews -f json", "--schema has a column"),
        ("--limit 3", "--limit goes with --each"),
        ("--batch", "--batch goes with --each"),
        ("--each reviews --batch --refresh", "ask it without --batch"),
    ],
)
def test_each__refuses(nb, reviews, line, problem):
    """What does not go with it is said before anything is sent."""
    assert problem in nb.fails(f"%%openrouter {MODEL} {line}\nGood or bad: {{{{ row.body }}}}")
    assert nb.sim.completion_count == 0


def test_each__as_a_batch(nb, reviews):
    """--batch submits what is new, and binds the Batch; the cell run again goes on with it, and buys nothing."""
    cell = f"%%openrouter {MODEL} --each reviews --batch -o batch\nSay {{{{ body }}}}"
    written = nb.run(cell)
    assert "2 submitted in a batch" in written
    assert nb["_"] is nb["batch"]
    first = nb["batch"]
    assert list(first.frame()["answer_error"]) == ["waiting for the batch"] * 3
    written = nb.run(f"%%openrouter {MODEL} --each reviews --dry-run\nSay {{{{ body }}}}")
    assert "would ask 0 of 3 rows · 2 others wait for a batch · nothing sent" in written
    nb.run("batch.wait(every_s=0.02)")
    nb.run(cell)
    assert list(nb["batch"].frame()["answer_error"]) == [None] * 3
    assert nb.sim.completion_count == 0
    assert sum(row.method == "POST" for row in nb.sim.requests) == 1


def test_each__leaves_what_came_before_an_interrupt(nb, reviews):
    """Two lines, and the table as far as it came is _; -o stays what it was."""
    nb.run(f"%%openrouter {MODEL} --each reviews --limit 1\nSay {{{{ body }}}}")
    nb["cut"] = 1
    nb.run(
        "def stop(row):\n    if row['n'] == 2:\n        raise KeyboardInterrupt\n    return f\"Say {row['body']}\"\n"
        "import or_cache_magic as orc"
    )
    written = nb.fails(f"orc.map(reviews, stop, model={MODEL!r})")
    assert "KeyboardInterrupt: 1 of 3 rows were answered, paid $0" in written
    assert "they are in _; run it again" in written
    assert list(nb["_"]["answer_error"]) == [None, "not asked", "not asked"]
    assert nb["cut"] == 1
    nb.run("1 + 1")
    assert nb["_"] == 2


def test_each__offline(nb, reviews):
    """What is stored is in the table, which is _; then a miss of two lines stops who runs the notebook."""
    nb.run(f"%%openrouter {MODEL} --each reviews --limit 1 -o first\nSay {{{{ body }}}}")
    cell = f"%%openrouter {MODEL} --each reviews -o labelled --offline\nSay {{{{ body }}}}"
    written = nb.fails(cell)
    assert (
        "ReplayMiss: offline, and 1 of 3 rows is not stored (nothing was sent; the table is in _)" in written
    )
    assert "the first asks 'Say cold'" in written
    assert list(nb["_"]["answer"].notna()) == [True, False, True]
    assert "labelled" not in nb.shell.user_ns
    nb.run(f"%%openrouter {MODEL} --each reviews\nSay {{{{ body }}}}")
    sent = nb.sim.completion_count
    nb.run(cell)
    assert list(nb["labelled"]["answer_cached"]) == [True] * 3
    assert nb.sim.completion_count == sent


def test_each__is_the_same_on_every_run_where_receipts_are_stable(nb, reviews):
    """With receipt=stable neither what is told nor what is shown says what this run has bought."""
    nb.run("%openrouter_config receipt=stable")
    cell = f"%%openrouter {MODEL} --each reviews\nGood or bad: {{{{ body }}}}"
    first = nb.run(cell)
    assert nb.run(cell) == first
    assert "3 answered, 0 failed, bought for $0.0" in first
