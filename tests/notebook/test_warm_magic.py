"""``%openrouter_warm`` as its users have it: a variable or a file, a summary, a table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from or_cache_magic import cli
from or_cache_magic.notebook.commands import WARM
from or_cache_magic.notebook.parser import parse


@pytest.fixture
def questions(nb):
    nb["questions"] = ["What is a mean?", "What is a median?"]
    return nb


def test_warm__of_a_variable_makes_cells_free(questions):
    """The cell that asks the same afterwards is a hit; the magic's own output is the summary."""
    out = questions.run("frame = %openrouter_warm questions --workers 2")
    assert out.splitlines()[0].startswith("2 prompts · 0 cached · 2 bought for $")
    assert list(questions["frame"]["kind"]) == ["miss", "miss"]
    assert "cached" in questions.run("%%openrouter\nWhat is a median?\n")
    assert questions.sim.completion_count == 2
    assert "2 cached · 0 bought" in questions.run("%openrouter_warm questions")


def test_warm__stable_is_the_same_on_every_run(questions, monkeypatch):
    """With ``receipt=stable`` a run that buys and one that serves say the same, in a notebook too."""
    questions.run("%openrouter_config receipt=stable")
    bought = questions.run("%openrouter_warm questions")

    assert bought.startswith("2 prompts · 2 answered, bought for $0.0")
    assert questions.run("%openrouter_warm questions") == bought
    published = []
    monkeypatch.setattr(questions.shell, "kernel", object(), raising=False)
    monkeypatch.setattr(questions.shell.display_pub, "publish", lambda **said: published.append(said["data"]))
    assert questions.run("%openrouter_warm questions") == ""
    assert "".join(f"{data['text/plain']}\n" for data in published) == bought
    assert list(questions["_"]["kind"]) == ["hit", "hit"]


def test_warm__from_python_is_stable_too(questions):
    """What `orc.warm` says follows the same setting."""
    questions.run("import or_cache_magic as orc")
    questions.run("%openrouter_config receipt=stable")
    bought = questions.run("frame = orc.warm(questions)")

    assert bought.startswith("2 prompts · 2 answered, bought for $0.0")
    assert questions.run("frame = orc.warm(questions)") == bought


def test_warm__of_a_file_is_found_from_the_kernels_folder(nb, monkeypatch):
    """A relative name begins where the kernel started, wherever it went since."""
    (nb.folder / "my prompts.txt").write_text("one\ntwo\n", encoding="utf-8")
    (nb.folder / "sub").mkdir()
    monkeypatch.chdir(nb.folder / "sub")
    nb.run("%openrouter_warm 'my prompts.txt'")
    assert sorted(body["messages"][0]["content"] for body in nb.sent) == ["one", "two"]


def test_warm__takes_the_options_of_an_ask(questions):
    """Model, system prompt, parameters, sample and tag reach each request and entry."""
    questions["rules"] = "Be brief."
    questions.run(
        "%openrouter_warm questions -m openai/gpt-4o -s rules -t 0.5 --sample 1 --max-tokens none"
        """ --tag a --tag b -p reasoning='{"effort": "low"}'"""
    )
    for body in questions.sent:
        assert body["model"] == "openai/gpt-4o"
        assert body["messages"][0]["content"] == "Be brief."
        assert (body["temperature"], body.get("max_tokens")) == (0.5, None)
        assert body["reasoning"] == {"effort": "low"}
    questions.run("kept = %openrouter_entries --tag b")
    assert len(questions["kept"]) == 2


def test_warm__shows_a_terminal_what_failed(nb):
    """Where no table can be shown, the errors are, with the row they belong to; `_` is the table."""
    nb["mixed"] = ["fine", " "]
    out = nb.run("%openrouter_warm mixed")
    assert "1 failed" in out
    assert "the prompt is empty" in out
    nb.run("failed = (_['kind'] == 'failed').sum()")
    assert nb["failed"] == 1
    nb["fine"] = ["fine"]
    assert "nothing failed" in nb.run("%openrouter_warm fine")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%openrouter_warm", "names no list of prompts"),
        ("%openrouter_warm questions others", "names 2 lists"),
        ("%openrouter_warm questions -m a/b,c/d", "one model a list, and this line names a/b,c/d"),
        ("%openrouter_warm missing.txt", "can't be read"),
        ("%openrouter_warm unknown_name", "unknown_name is not defined"),
        ("%openrouter_warm questions --workers 0", "0 is below 1"),
        ("%openrouter_warm questions --worker 3", "did you mean --workers?"),
        ("%openrouter_warm questions -p model='\"x\"'", "--param does not set model"),
    ],
)
def test_warm__refuses_in_two_lines(questions, line, says):
    """A line or a list that can't be read is told, and nothing is sent."""
    out = questions.fails(line)
    assert says in out
    assert "Traceback" not in out
    assert questions.sim.requests == ()


def test_warm__has_help(nb):
    """``--help`` shows the options, those of an ask and its own."""
    out = nb.run("%openrouter_warm --help")
    assert "--workers N" in out
    assert "--system" in out
    options = parse(WARM, "x --tag t -q")
    assert (options.source, options.tags, options.quiet, options.workers) == ("x", ("t",), True, None)


def test_shell_command__fills_the_cache(nb):
    """``or-cache warm`` does the same from a shell; errors are told on stderr."""
    (nb.folder / "p.jsonl").write_text('"one"\n{"prompt": " "}\n', encoding="utf-8")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("or-cache"),
            "warm",
            "p.jsonl",
            "--max-tokens",
            "none",
            "--refresh",
            "--workers",
            "1",
        ],
        cwd=nb.folder,
        env={**os.environ, "OPENROUTER_MODEL": "openai/gpt-4o-mini"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1  # one is not in the cache
    assert done.stdout.startswith("2 prompts · 0 cached · 1 bought")
    assert "the prompt is empty" in done.stderr
    assert "max_tokens" not in nb.sent[0]
    nb.run("%openrouter -m openai/gpt-4o-mini --max-tokens none one")
    assert nb.sim.completion_count == 1


def test_shell_command__ends_with_1_where_a_prompt_failed(nb, monkeypatch, capsys):
    """The reasons are whole, each once with the rows it is true of, and so is what helps; else it ends with 0."""
    monkeypatch.chdir(nb.folder)
    lines = [
        '"fine"',
        "{'prompt': 'single quotes'}",
        '{"prompt": "x", "temprature": 1}',
        '{"x": 1}',
        '{"y": 2}',
    ]
    (nb.folder / "p.jsonl").write_text("\n".join((*lines, '"fine"', " ", '""', '" "')), encoding="utf-8")
    assert cli.main(["warm", "p.jsonl", "-m", "openai/gpt-4o-mini", "-q"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("8 prompts · 1 cached · 1 bought")
    shown = said.err.splitlines()
    assert shown[0].startswith("row 1 failed: line 2 is not JSON: ")
    assert shown[0].endswith("(nothing was sent)")
    assert shown[1] == "row 2 failed: there is no argument 'temprature' (nothing was sent)"
    assert shown[4] == "rows 6, 7 failed: the prompt is empty (nothing was sent)"
    assert "…" not in said.err.replace('"prompt": "…", "model": "…"', "").replace('{"messages": […]', "")
    assert sum("an item is a text" in line for line in shown) == 1
    assert any(line.strip() == "did you mean temperature?" for line in shown)

    (nb.folder / "p.txt").write_text("fine\n", encoding="utf-8")
    assert cli.main(["warm", "p.txt", "-m", "openai/gpt-4o-mini", "-q"]) == 0
    assert capsys.readouterr().err == ""
