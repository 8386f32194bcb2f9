"""Packs as cells and a shell write and take them."""

from __future__ import annotations

import pytest

from or_cache_magic import cli
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Scenario


def test_export__and_import_say_what_they_did_in_a_line(nb):
    """Paths begin in the notebook's folder; what comes back is the same, and free."""
    nb.sim.script(Scenario(text="the middle value"))
    bought = nb.run("%%openrouter --tag t -q\nWhat is a median?")
    nb.run("%%openrouter -q\nName a colour.")

    assert nb.run("%openrouter_export p.orcache.jsonl --tag t").strip() == "p.orcache.jsonl: 1 entry"
    assert (nb.folder / "p.orcache.jsonl").read_bytes().count(b"\n") == 1
    nb.run("%openrouter_purge --all -y")
    told = "p.orcache.jsonl: 1 new entry, 0 there already"
    assert nb.run("%openrouter_import p.orcache.jsonl").strip() == told
    count = nb.sim.completion_count
    assert nb.run("%%openrouter --tag t -q\nWhat is a median?") == bought
    assert nb.sim.completion_count == count


@pytest.mark.parametrize(
    "line",
    [
        "openrouter_export",
        "openrouter_export p.jsonl nokey",
        "openrouter_export p.jsonl --media both",
        "openrouter_import",
        "openrouter_import a.jsonl b.jsonl",
        "openrouter_import nosuch.jsonl",
    ],
)
def test_export__and_import_refuse_what_they_do_not_take(nb, line):
    """Nothing is written or changed, and the error says so in two lines."""
    with pytest.raises(OptionError):
        nb.run(f"%{line}")
    assert not (nb.folder / "p.jsonl").exists()


def test_shell__exports_and_imports(nb, tmp_path, monkeypatch, capsys):
    """``or-cache`` does the same from a shell, on the folder's cache or that of ``--dir``."""
    nb.run("%%openrouter -q\nName a colour.")
    nb.run("%unload_ext or_cache_magic")
    monkeypatch.chdir(nb.folder)
    capsys.readouterr()
    assert cli.main(["export", "p.jsonl"]) == 0
    assert capsys.readouterr().out == "p.jsonl: 1 entry\n"
    assert cli.main(["import", "p.jsonl", "--dir", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out == "p.jsonl: 1 new entry, 0 there already\n"
    with open("p.jsonl", "a", encoding="utf-8") as pack:
        pack.write("{}\n")
    assert cli.main(["import", "p.jsonl"]) == 1  # a line of it is not here
    assert "1 refused (line " in capsys.readouterr().out
    assert cli.main(["import", "gone.jsonl"]) == 1
    assert "gone.jsonl can't be read" in capsys.readouterr().err
