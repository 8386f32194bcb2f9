"""`%openrouter_batches` in cells, `or-cache batches` in a shell, and cells that meet a batch."""

from __future__ import annotations

import re

import pytest

import or_cache_magic as orc
from or_cache_magic import cli
from or_cache_magic.simulator import BatchPlan

SUBMIT = "import or_cache_magic as orc\nbatch = orc.map(['red', 'green'], 'Say {{ row }}', batch=True)"


@pytest.fixture
def slow(nb):
    """A notebook whose next batch is under way for a long time."""
    nb.sim.script_batch(BatchPlan(takes_s=1e6))
    return nb


def test_batches__collects_and_lists(nb):
    """Batches that have ended are collected; then the rows of one, and cells that have their answers."""
    said = nb.run(SUBMIT)
    assert re.fullmatch(
        r"2 requests · 2 submitted in a batch \(up to \$[\d.]+ at the full price, about half\)\n", said
    )
    nb.run("table = %openrouter_batches")
    row = nb["table"].iloc[0]
    assert (row["status"], row["rows"], row["done"], row["failed"]) == ("completed", 2, 2, 0)
    assert row["cost_usd"] == float(nb.sim.total_cost)
    nb.run(f"rows = %openrouter_batches {row['id'][:12]}")
    assert nb["rows"]["state"].tolist() == ["stored", "stored"]
    assert nb["rows"]["answer"].tolist() == [str(one) for one in nb["batch"].frame()]
    assert orc.batches().equals(nb["table"])

    out = nb.run("%%openrouter\nSay red")
    assert re.search(r"cached .* · saved \$[\d.]+ · .* tokens · batch$", out, re.MULTILINE)
    assert nb.sent == []


def test_cell__meets_a_batch(slow):
    """Two lines say where the answer is waited for, and how to pass it by; nothing is sent."""
    slow.run(SUBMIT)
    out = slow.fails("%%openrouter\nSay red")
    assert re.search(
        r"BatchPendingError: this is asked for already, in the batch batch_\w+ \(validating, 0 of 2 answered\)"
        r" \(nothing was sent\)\n  see %openrouter_batches; --refresh ",
        out,
    )
    assert slow.sent == []
    slow.run("%%openrouter --refresh\nSay red")
    assert len(slow.sent) == 1
    slow.run("%%openrouter\nSay red")
    assert len(slow.sent) == 1


def test_batches__forgets(slow):
    """Its rows are free to be asked; without an ID there is nothing to forget."""
    slow.run(SUBMIT)
    name = orc.batches()["id"][0]
    assert "--forget goes with the ID" in slow.fails("%openrouter_batches --forget")
    said = slow.run(f"%openrouter_batches {name} --forget")
    assert said == "given up: 2 rows waited for it, and may be asked anew\n"
    slow.run("%%openrouter\nSay red")
    assert len(slow.sent) == 1


def test_shell__lists_batches(slow, capsys, monkeypatch):
    """`or-cache batches` says the same, in a terminal's form."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-test")
    assert cli.main(["batches"]) == 0
    assert capsys.readouterr().out == "no batch was submitted\n"
    slow.run(SUBMIT)
    assert cli.main(["batches"]) == 0
    assert re.search(r"batch_\w+ .*validating", capsys.readouterr().out)
    slow.sim.script_batch(BatchPlan(unpaid=1))
    slow.run("orc.map(['blue'], 'Say {{ row }}', batch=True)")
    assert cli.main(["batches"]) == 1  # its results are withheld
    assert cli.main(["batches"]) == 0
    capsys.readouterr()
    assert cli.main(["batches", "nope"]) == 1
    assert "no batch begins with nope" in capsys.readouterr().err
