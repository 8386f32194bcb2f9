"""Prompts in files: what is sent, whose options win, what is refused and where."""

from __future__ import annotations

import json

import pytest

import or_cache_magic as orc
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.options import CELL
from or_cache_magic.notebook.parser import parse
from or_cache_magic.notebook.prompt_files import read_prompt_file
from or_cache_magic.simulator import Scenario

PERSON = {"properties": {"name": {"type": "string"}, "year": {"type": ["integer", "null"]}}}
FILE = """\
---
description: "Says what a word means."
model: openai/gpt-4o
temperature: 0.0
max_tokens: 50
tags: [words, draft]
provider: {"order": ["openai"]}
system: |-
  Be terse.
format: text
---

What is {{ word }}?
"""


@pytest.fixture
def ask(nb):
    """``ask(line, body)`` runs a cell; the prompt file is in the notebook's folder."""
    (nb.folder / "prompt.md").write_text(FILE, encoding="utf-8")
    nb["word"] = "a median"

    def run(line: str = "@prompt.md", body: str = "") -> str:
        return nb.run(f"%%openrouter {line}\n{body}")

    return run


def test_file__is_the_prompt_and_its_options(nb, ask):
    """The same request, and entry, as from Python."""
    ask()
    body = nb.sent[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "What is a median?"},
    ]
    assert (body["model"], body["max_tokens"], body["provider"]) == (
        "openai/gpt-4o",
        50,
        {"order": ["openai"]},
    )
    assert "description" not in body
    assert orc.entries(tag="draft")["tags"].tolist() == ["words, draft"]
    python = {"model": "openai/gpt-4o", "system": "Be terse.", "max_tokens": 50}
    assert orc.ask("What is a median?", **python, provider={"order": ["openai"]}).cached


def test_file__the_cells_options_win(nb, ask):
    """Each on its own; a label of the cell takes the place of the file's."""
    ask("openai/gpt-4o-mini @prompt.md -s 'Be kind.' --max-tokens 9 -p provider=null --tag mine")
    body = nb.sent[0]
    assert (body["model"], body["max_tokens"]) == ("openai/gpt-4o-mini", 9)
    assert body["messages"][0]["content"] == "Be kind."
    assert "provider" not in body
    assert orc.entries()["tags"].tolist() == ["mine"]


def test_file__the_cells_body_follows_it(nb, ask):
    """Behind an empty line, filled in as well; white space alone is no body."""
    ask(body="In {{ n }} words.\n\n".replace("{{ n }}", "ten"))
    ask(body="   \n")
    assert [body["messages"][-1]["content"] for body in nb.sent] == [
        "What is a median?\n\nIn ten words.",
        "What is a median?",
    ]


@pytest.mark.parametrize("name", ["with spaces.md", "sub/other.txt"])
def test_file__without_options_in_a_path(nb, name: str):
    """Windows' line ends and a byte order mark don't count; quotes hold spaces together."""
    (nb.folder / "sub").mkdir()
    (nb.folder / name).write_bytes(b"\xef\xbb\xbf\r\nOne.\r\n  Two.\r\n\r\n")
    nb.run(f'%%openrouter @"{name}"\n')
    assert nb.asked == "One.\n  Two."


def test_file__a_preset_is_a_model(nb, ask):
    """As OpenRouter writes them; a file of such a name is reached by its folder."""
    nb.fails("%%openrouter @preset/mine\nhi")
    assert nb.sent[-1]["model"] == "@preset/mine"


def test_file__null_leaves_a_field_out(nb, ask):
    """As ``-p max_tokens=null`` does; ``none`` as ``--max-tokens none`` does."""
    for spelled in ("null", "none", ""):
        (nb.folder / "prompt.md").write_text(f"---\nmax_tokens: {spelled}\n---\n{spelled}.", encoding="utf-8")
        ask()
        assert "max_tokens" not in nb.sent[-1]


def test_file__asks_for_samples_as_a_cell_does(nb, ask):
    """``n`` is the cell's -n, so many samples that are kept each, and no field of the request."""
    (nb.folder / "prompt.md").write_text("---\nn: 2\ntemperature: 1\n---\nHi", encoding="utf-8")
    ask("@prompt.md -o table")
    assert nb["table"]["sample"].tolist() == [0, 1]
    assert ["n" in body for body in nb.sent] == [False, False]
    ask()
    ask("@prompt.md --sample 1")
    assert len(nb.sent) == 2


def test_file__raw_fills_nothing_in(nb, ask):
    """By the cell's option or by the file's."""
    ask("@prompt.md --raw")
    assert nb.asked == "What is {{ word }}?"
    (nb.folder / "prompt.md").write_text("---\nraw: true\n---\n{{ so }}", encoding="utf-8")
    ask()
    assert nb.asked == "{{ so }}"


def test_file__system_prompt_is_a_text(nb, ask):
    """A file, which may be another's, reads no variable but those filled in."""
    (nb.folder / "prompt.md").write_text("---\nsystem: word\n---\nhi", encoding="utf-8")
    ask()
    assert nb.sent[-1]["messages"][0]["content"] == "word"


def test_file__system_prompt_names_no_file(nb):
    """Nor another file; its name isn't sent for it either."""
    (nb.folder / "terse.txt").write_text("Be very terse.", encoding="utf-8")
    (nb.folder / "prompt.md").write_text("---\nsystem: '@terse.txt'\n---\nhi", encoding="utf-8")
    out = nb.fails("%%openrouter @prompt.md\n")
    assert "prompt.md, line 2: system names a file; nothing was sent" in out
    assert nb.sim.completion_count == 0


@pytest.mark.parametrize(
    "schema",
    [
        "name str, year int?",
        "'name str, year int?'",
        "|-\n  name str,\n  year int?",
        json.dumps(PERSON),
        "Person",
    ],
)
def test_file__says_what_the_answer_is_to_be(nb, ask, schema: str):
    """In the short form, as JSON, or by the name of a class of the notebook."""
    nb["Person"] = PERSON
    nb.sim.script(Scenario(text='{"name": "Ada", "year": null}'))
    (nb.folder / "prompt.md").write_text(f"---\nschema: {schema}\n---\nWho?", encoding="utf-8")
    nb.run("%%openrouter @prompt.md -o person\n")
    assert nb["person"].data["name"] == "Ada"
    assert "name" in nb.sent[0]["response_format"]["json_schema"]["schema"]["properties"]


@pytest.mark.parametrize(
    ("options", "line", "problem", "hint"),
    [
        ("temprature: 1", 2, "there is no option temprature", "did you mean temperature?"),
        ("\nx_new: 1", 3, "there is no option x_new", 'extra: {"x_new": …}'),
        ("temperature: hot", 2, "temperature: 'hot' is not a number", "such as 0.7"),
        ("model: [a/b, c/d]", 2, "model takes one value", ""),
        ("model:\n  api: chat", 3, "model has no value that can be read", 'write an object as JSON: model: {"name"'),
        ("reasoning: low", 2, "reasoning: takes an object", "as OpenRouter's API has it"),
        ("format: markdwon", 2, "did you mean markdown?", ""),
        ("quiet: maybe", 2, "quiet takes true or false", ""),
        ("out: answer", 2, "out is no option of a file", "write it in the cell"),
        ("mode: refresh", 2, "there is no option mode", ""),
        ("refresh: true", 2, "refresh is no option of a file", "write it in the cell"),
        ("attachments: [plot.png]", 2, "attachments is no option of a file", "write it in the cell"),
        ("extra: 1", 2, "extra: takes an object", ""),
        ("tags: {}", 2, "tags takes a text", ""),
        ("schema: [name str, year int]", 2, "schema takes one value", "put the text in quotes"),
        ("schema: '@schema.json'", 2, "schema names a file", "reads no other"),
        ("stream: false", 2, "there is no option stream", "no_stream: true"),
        ("messages: []", 2, "there is no option messages", "the text below"),
        ("n: 0", 2, "n: 0 is below 1", "--sample K"),
        ("sample: 1\nn: 2", 3, "n means what another line does", "keep one"),
        ("tag: a\ntags: [b]", 3, "tags means what another line does", "keep one"),
        ("attach: a.png", 2, "attach is no option of a file", ""),
        ('stop: ["sk-or-v1-%s"]' % ("0" * 64), 2, "it holds an API key", ""),
        ("a", 2, "'a' is no option", "name: value"),
    ],
)  # fmt: skip
def test_file__refuses_what_is_no_option_by_its_line(nb, ask, options, line, problem, hint):
    """Two lines that name the file and the line; nothing is sent."""
    (nb.folder / "prompt.md").write_text(f"---\n{options}\n---\nhi", encoding="utf-8")
    said = nb.fails("%%openrouter @prompt.md\n")
    assert f"prompt.md, line {line}: " in said
    assert problem in said
    assert "nothing was sent" in said
    assert hint in said
    assert not nb.sent


@pytest.mark.parametrize(
    ("text", "line"), [("hi\n{{ wrod }}", 2), ("---\nmodel: a/b\n---\n\n\n{{ word + 1 }}", 6), ("{{ word", 1)]
)
def test_file__what_cannot_be_filled_in_is_named_by_its_line(nb, ask, text, line):
    """The file's own, options and empty lines counted."""
    (nb.folder / "prompt.md").write_text(text, encoding="utf-8")
    said = nb.fails("%%openrouter @prompt.md\n")
    assert f"prompt.md, line {line}: " in said
    assert not nb.sent


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@none.md", "@none.md can't be read"),
        ("@prompt.md @prompt.md", "one file a cell"),
        ("@", "can't be read"),
        ("@prompt.md a/b to French", "to is neither the id of a model nor an alias"),
    ],
)
def test_file__refuses_what_is_no_file(nb, ask, line, said):
    """Before anything is sent."""
    assert said in nb.fails(f"%%openrouter {line}\n")
    assert not nb.sent


def test_file__is_completed(nb, ask):
    """Files and folders of the notebook's folder, beside presets."""
    from or_cache_magic.notebook.completer import complete
    from or_cache_magic.notebook.extension import loaded

    (nb.folder / "prompts").mkdir()
    (nb.folder / "prompts" / "a.md").touch()
    session = loaded().session()

    def offered(text: str) -> list[str]:
        names = {"models": lambda: ["@preset/mine"], "settings": list, "files": session.file_names}
        return complete(text, 0, len(text), **names)[1]

    assert offered("%%openrouter @p") == ["@preset/mine", "@prompt.md", "@prompts/"]
    assert offered("%%openrouter openai/gpt-4o @prompts/") == ["@prompts/a.md"]
    assert offered("%%openrouter @nowhere/") == []


@pytest.mark.parametrize(
    ("file", "line", "field", "value"),
    [
        ("prompt_cache: 5m", "--prompt-cache off", "prompt_cache", None),
        ("repair: 2", "--repair 0", "repair", 0),
        ("format: text", "-f auto", "format", "auto"),
        ("sample: 2", "--sample 0", "sample", 0),
        ("model: openai/gpt-4o", "openai/gpt-4o-mini", "model", "openai/gpt-4o-mini"),
    ],
)
def test_file__an_option_of_the_cell_wins_that_says_what_none_says(nb, file, line, field, value):
    """Which options a line has is known, not guessed from their values."""
    (nb.folder / "q.md").write_text(f"---\n{file}\n---\nx", encoding="utf-8")
    options = parse(CELL, f"@q.md {line}")
    read_prompt_file("q.md", nb.folder, CELL).complete(options, CELL)
    assert getattr(options, field) == getattr(parse(CELL, line), field)
    assert value is None or getattr(options, field) == value


@pytest.mark.parametrize(
    "prompt", ["@prompt.md", "@other.md", "'@prompt.md'", "@'prompt.md'", "-m openai/gpt-4o @prompt.md"]
)
def test_line__does_not_send_the_name_of_a_file(nb, ask, prompt):
    """It would be paid for, and is what a cell writes."""
    with pytest.raises(OptionError, match=r"names a file.*nothing was sent") as caught:
        nb.run(f"%openrouter {prompt}")
    assert "%%openrouter @" in caught.value.hint
    assert not nb.sent


@pytest.mark.parametrize(
    "prompt", ["@alice", "@@prompt.md", "What does @prompt.md say?", "mail bob@prompt.md"]
)
def test_line__sends_what_names_no_file(nb, ask, prompt):
    """A text with an @ in it is a text."""
    nb.run(f"%openrouter {prompt}")
    assert nb.sent[0]["messages"][-1]["content"] == prompt
