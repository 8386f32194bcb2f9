"""``--schema`` and ``--repair`` in cells: what they name, what is sent, shown and bound."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher

from or_cache_magic.errors import FormatError, OptionError
from or_cache_magic.notebook.values import read_schema_argument
from or_cache_magic.simulator import Scenario, scenario

ASK = "%%openrouter openai/gpt-4o-mini"
PROMPT = "The novel Dune appeared in 1965."
DEFINE = """
from dataclasses import dataclass

@dataclass
class Book:
    title: str
    year: int

class shelf:
    Book = Book

as_dict = {"type": "object", "properties": {"title": {"type": "string"}, "year": {"type": "integer"}}}
as_text = "title str, year int"
books = list[Book]
"""


@dataclass
class Book:
    title: str


# -- what it names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("title str, year int", "title str, year int"),
        ("[str]", "[str]"),
        ("enum(ham,spam)", "enum(ham,spam)"),
        ('{"type": "object"}', '{"type": "object"}'),
        ("int", "int"),
        ("list[int]", "[int]"),
        ("Book", Book),
        ("list[Book]", list[Book]),
        ("name", "x str"),
        ("shelf.Book", Book),
        ("list[shelf.Book]", list[Book]),
        ("@short.txt", "title str\nyear int\n"),
    ],
)
def test_schema_argument__is_text_file_or_name(tmp_path, word, found):
    """A name is a variable or a class, also below a dot or in a list; a type where nothing is called so."""
    (tmp_path / "short.txt").write_text("title str\nyear int\n", encoding="utf-8")
    names = {"Book": Book, "name": "x str", "shelf": type("shelf", (), {"Book": Book})}
    assert read_schema_argument(word, names, tmp_path) == found


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("Bok", "Bok is not defined; nothing was sent", "did you mean Book?"),
        ("list[Bok]", "Bok is not defined; nothing was sent", "did you mean Book?"),
        ("zzz", "zzz is not defined; nothing was sent", "run the cell that defines it, or write a schema: 'zzz str'"),
        ("Book.Author", "Book has no Author; nothing was sent", ""),
        ("@none.json", "@none.json can't be read: No such file or directory; nothing was sent", "relative paths begin"),
    ],
)  # fmt: skip
def test_schema_argument__says_what_is_missing(tmp_path, word, message, hint):
    """In two lines."""
    with pytest.raises(OptionError) as caught:
        read_schema_argument(word, {"Book": Book}, tmp_path)
    assert caught.value.args[0] == message
    assert caught.value.hint.startswith(hint)


# -- in a cell --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema", ["Book", "shelf.Book", "list[Book]", "books", "as_dict", "as_text", "@book.json"]
)
def test_cell__takes_every_form(nb, schema):
    """What is bound has the value of that form, bought and cached."""
    nb.run(DEFINE)
    Path("book.json").write_text(json.dumps(nb["as_dict"]), encoding="utf-8")
    nb.run(f"{ASK} --schema {schema} -o first\n{PROMPT}")
    nb.run(f"{ASK} --schema {schema} -o again\n{PROMPT}")
    assert nb["again"].cached
    value = nb["first"].data
    assert nb["again"].data == value
    one = value[0] if isinstance(value, list) else value
    dune = nb["Book"]("Dune", 1965)
    assert one == (dune if "ook" in schema and "@" not in schema else vars(dune))


def test_cell__takes_the_short_form_and_its_descriptions(nb):
    """The quotes of the line are one kind, those inside it the other."""
    nb.run(f"""{ASK} --schema 'title str "as printed", year int?' -o book\n{PROMPT}""")
    form = nb.sent[-1]["response_format"]["json_schema"]["schema"]
    assert form["properties"]["title"]["description"] == "as printed"
    assert nb["book"].data == {"title": "Dune", "year": 1965}


def test_line__takes_a_schema_too(nb):
    """And gives the value to a name."""
    nb.run(f"x = %openrouter --schema 'title str, year int' {PROMPT}")
    assert nb["x"].data["year"] == 1965


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--schema 'title strng'", "column 7: 'strng' is no type: did you mean str? (nothing was sent)"),
        ("--schema ''", "--schema: the value is empty"),
        ("--schema os", "a module is no schema"),
        ("--repair 1", "repair goes with a schema"),
        ("--schema 'a str' --repair 11", "takes a whole number from 0 to 10"),
        ("""--schema 'a str' -p response_format='{"type": "text"}'""", "exclude each other"),
        ("--schema 'a str' -m perplexity/sonar", "can't be held to a schema"),
    ],
)
def test_cell__says_what_is_wrong_before_it_sends(nb, options, says):
    """In two lines, at no cost."""
    nb.run("import os")
    cell = f"%%openrouter {options}\n{PROMPT}"
    assert says in " ".join(nb.fails(cell).split())
    assert nb.sim.completion_count == 0


def test_cell__shows_an_object_as_json_and_a_list_as_a_table(nb):
    """The same, bought or cached; a terminal aligns, and `-f` has its own way."""
    nb.run("%openrouter_config receipt=off")
    for _ in range(2):
        assert (
            nb.run(f"{ASK} --schema 'title str, year int'\n{PROMPT}")
            == '{\n  "title": "Dune",\n  "year": 1965\n}\n'
        )
        table = nb.run(f"{ASK} --schema '[{{title str, year int}}]'\n{PROMPT}")
        assert table == "title  year\nDune   1965\nDune   1965\nDune   1965\n"
        assert nb.run(f"{ASK} --schema 'title str, year int' -f text\n{PROMPT}").startswith(
            '{"title": "Dune"'
        )
    assert nb.sim.completion_count == 2


def test_cell__gives_a_frame_where_one_is_asked_for(nb):
    """`-f df` makes a DataFrame of the value."""
    nb.run(f"{ASK} --schema '[{{title str, year int}}]' -f df -o books\n{PROMPT}")
    assert nb["books"].data["year"].tolist() == [1965] * 3
    nb.run(DEFINE)
    nb.run(f"{ASK} --schema Book -f json -o book\n{PROMPT}")
    assert nb["book"].data == nb["Book"]("Dune", 1965)


def test_cell__says_what_came_where_its_check_is_broken_off(nb):
    """The answer is whole, and kept: neither the receipt nor the error calls it cut."""
    nb.run(DEFINE)
    nb["stop"] = [KeyboardInterrupt]
    nb.run("""class Slow(Book):
    def __init__(self, title, year):
        if stop:
            raise stop.pop()
        super().__init__(title, year)
""")
    said = nb.fails(f"{ASK} --schema Slow -o book\n{PROMPT}")
    assert "it is kept: run the cell again, for nothing" in said
    assert "$" in said
    assert "failed" not in said
    assert "interrupted after" not in said
    nb.run(f"{ASK} --schema Slow -o book\n{PROMPT}")
    assert (nb["book"].data.year, nb.sim.completion_count) == (1965, 1)


@pytest.mark.parametrize(
    ("schema", "answer", "columns"),
    [
        ("--schema '[str]'", {"items": ["a", "b"]}, ["items"]),
        ("--schema '[{a int}]?'", {"value": [{"a": 1}, {"a": 2}]}, ["a"]),
        ("", ["a", "b"], ["value"]),
    ],
)
def test_cell__makes_a_frame_of_the_value(nb, schema, answer, columns):
    """A row for each in a list, whatever it is a list of."""
    nb.sim.script(Scenario("plain", text=json.dumps(answer)))
    nb.run(f"{ASK} {schema} -f df -o rows\nx")
    assert list(nb["rows"].data.columns) == columns
    assert len(nb["rows"].data) == 2


@pytest.mark.parametrize(
    ("schema", "answer", "why"),
    [
        ("[{a int}]?", '{"value": null}', "it is null, and has no rows"),
        ("int", '{"value": 5}', "the JSON is no table"),
    ],
)
def test_cell__says_why_a_value_is_no_table(nb, schema, answer, why):
    """The answer fits its schema, and is there all the same."""
    nb.sim.script(Scenario("plain", text=answer))
    with pytest.raises(FormatError, match=f"can't be read as df: {why}"):
        nb.run(f"{ASK} --schema '{schema}' -f df -o rows\nx")
    assert nb["rows"] == answer


def test_cell__shows_and_binds_what_does_not_fit_and_fails(nb):
    """It was paid for: the text is there, then two lines that say what is wrong with it and what helps."""
    nb.sim.script(scenario("unfit", how="wrong_type"))
    shown = nb.fails(f"{ASK} --schema 'title str, year int' -o book\n{PROMPT}")
    assert '"year": 1965' in shown
    assert (
        "not stored: the answer does not fit its JSON schema (title: ['unknown'] is not of type 'string')"
        in shown
    )
    assert "FormatError: the answer does not fit its JSON schema (title:" in shown
    assert "--repair 1 asks again" in shown
    assert nb["book"].startswith('{"title": ["unknown"]')


def test_cell__repairs_and_shows_the_last_answer_alone(nb):
    """One output, of the answer that fits; what came before is told while it waits, and in the receipt."""
    nb.sim.script(scenario("unfit", how="prose"))
    shown = nb.run(f"{ASK} --schema 'title str, year int' --repair 2 -o book\n{PROMPT}")
    assert nb["book"].data == {"title": "Dune", "year": 1965}
    assert "I would say" not in shown
    assert ": asking again (1 of 2)" in shown
    assert "· 1 answer before did not fit" in shown
    again = nb.run(f"{ASK} --schema 'title str, year int' --repair 2 -o book\n{PROMPT}")
    assert "cached" in again
    assert nb["book"].cached
    assert nb.sim.completion_count == 2
    assert "would hit" in nb.run(f"{ASK} --schema 'title str, year int' --repair 2 --dry-run\n{PROMPT}")


def test_cell__publishes_a_tree_with_its_fallbacks(nb):
    """What a notebook saves: JSON for those that have a tree, Markdown and text for the others, unfolded."""
    publisher = CapturingDisplayPublisher(shell=nb.shell, parent=nb.shell)
    nb.shell.display_pub, nb.shell.kernel = publisher, object()
    nb.shell.run_cell(f"{ASK} --schema 'title str, year int' --repair 1\n{PROMPT}").raise_error()
    (*_, answer, _receipt) = publisher.outputs
    assert answer["data"]["application/json"] == {"title": "Dune", "year": 1965}
    assert answer["data"]["text/markdown"].startswith("```json\n{")
    assert answer["metadata"]["application/json"] == {"expanded": True}


def test_warm__takes_a_schema_and_repairs(nb):
    """A list of prompts, each asked again where it doesn't fit."""
    nb.run(DEFINE)
    nb["prompts"] = [PROMPT]
    nb.sim.script(scenario("unfit", how="missing"))
    nb.run("frame = %openrouter_warm prompts --schema Book --repair 1 --quiet")
    assert nb["frame"]["error"].tolist() == [""]
    nb.run(f"{ASK} --schema Book --repair 1 -o book\n{PROMPT}")
    assert nb["book"].cached
    assert nb["book"].data == nb["Book"]("Dune", 1965)
