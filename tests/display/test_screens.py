"""Where answers appear: real shells, and one real kernel."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from decimal import Decimal

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from or_cache_magic.core.blocks import first_code, parse_json
from or_cache_magic.core.records import Answer, Choice, Cost, Outcome, RequestKey
from or_cache_magic.display.answer import data_bundle, parse_table
from or_cache_magic.display.screen import NotebookScreen, TerminalScreen, answer_bundle, open_screen

TEXT = "Use `List<String>`:\n\n```py\nx = 1\n```\n\nand $x$.\n" * 5
OUTCOME = Outcome(
    "miss",
    RequestKey("0" * 64, b""),
    Answer((Choice({"content": "x"}, "stop"),), "m/x"),
    elapsed_s=1.0,
    paid=Cost(Decimal("0.5"), "reported"),
)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class KernelShell(InteractiveShell):
    """A shell that has a kernel, as ipykernel's has."""

    kernel = object()


@pytest.fixture
def shell():
    shell = KernelShell()
    shell.display_pub = CapturingDisplayPublisher(shell=shell, parent=shell)
    yield shell
    shell.history_manager.end_session()
    KernelShell.clear_instance()


def test_open_screen__picks_by_shell(shell):
    """A kernel gets the notebook's screen, other shells a terminal's."""
    assert isinstance(open_screen(shell), NotebookScreen)
    assert isinstance(open_screen(object()), TerminalScreen)


def test_notebook__cached_answer_is_one_display(shell):
    """A cached answer is published once, without an id that could be updated."""
    open_screen(shell).show(TEXT)
    (sent,) = shell.display_pub.outputs
    assert not sent.get("transient")
    assert sent["data"]["text/plain"] == TEXT
    assert sent["metadata"] == {"or_cache_magic": {"role": "answer"}}


@pytest.mark.parametrize("form", ["auto", "text", "json", "code", "df"])
def test_notebook__bought_and_cached_are_the_same(shell, form):
    """What is left of a stream equals the one display of a cached answer."""
    text = '[{"a": 1}]' if form in {"json", "df"} else TEXT
    screen = open_screen(shell, format=form)
    for char in text:
        screen.feed(char)
    screen.finish(text)
    *_, last = shell.display_pub.outputs
    screen.show(text)
    shown = shell.display_pub.outputs[-1]
    assert (last["data"], last["metadata"]) == (shown["data"], shown["metadata"])
    assert len({sent["transient"]["display_id"] for sent in shell.display_pub.outputs[:-1]}) == 1


def test_notebook__updates_less_often_as_it_grows():
    """Updates are 0.05 s apart and more for a long answer, and the last has everything."""
    sent, clock = [], Clock()
    screen = NotebookScreen(lambda **message: sent.append(message), clock=clock)
    for _ in range(1000):
        screen.feed("x" * 60)
        clock.now_s += 0.01
    assert sent[0]["update"] is False
    assert 20 < len(sent) < 60
    screen.finish()
    assert sent[-1]["data"]["text/plain"] == "x" * 60_000


def test_notebook__interrupt_keeps_the_partial():
    """Finishing without a text shows what had come."""
    sent = []
    screen = NotebookScreen(lambda **message: sent.append(message), clock=Clock())
    screen.feed("half an")
    screen.feed(" answer")
    screen.finish()
    assert sent[-1]["data"]["text/plain"] == "half an answer"


def test_notebook__nothing_came_nothing_is_shown(shell):
    """A stream that failed before its first token leaves no empty output; ``none`` shows no answer."""
    screen = open_screen(shell)
    screen.finish()
    silent = open_screen(shell, format="none")
    silent.feed("x")
    silent.finish("x")
    silent.show("x")
    assert shell.display_pub.outputs == []


def test_notebook__receipt_is_its_own_output(shell):
    """The receipt is tagged, and absent when off or quiet."""
    open_screen(shell).receipt(OUTCOME)
    open_screen(shell, receipt="off").receipt(OUTCOME)
    open_screen(shell, quiet=True).receipt(OUTCOME)
    (sent,) = shell.display_pub.outputs
    assert sent["metadata"] == {"or_cache_magic": {"role": "receipt"}}
    assert sent["data"]["text/plain"] == "m/x · $0.50 · 1.0 s"


def test_terminal__writes_as_it_comes():
    """Pieces are written as they come, once, steering characters as pictures, the receipt below."""
    out = io.StringIO()
    with redirect_stdout(out):
        screen = TerminalScreen()
        screen.feed("red \x1b[31m")
        screen.feed("end")
        screen.finish("red \x1b[31mend")
        screen.receipt(OUTCOME)
    assert out.getvalue() == "red ␛[31mend\nm/x · $0.50 · 1.0 s\n"


def test_terminal__json_waits_until_it_is_whole():
    """JSON is written once, pretty."""
    written = []
    screen = TerminalScreen(format="json", write=written.append)
    screen.feed('{"a":')
    screen.feed("1}")
    assert written == []
    screen.finish()
    assert written == ['{\n  "a": 1\n}\n']


def test_terminal__narrow_encoding():
    """A terminal that can't show a character shows a question mark, and the answer goes on."""
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii", newline="\n", write_through=True)
    with redirect_stdout(narrow):
        TerminalScreen().show("a → b")
    assert raw.getvalue() == b"a ? b\n"


def test_answer_bundle__falls_back_to_markdown():
    """A text that isn't what the format promises is shown as Markdown; it was paid for."""
    assert answer_bundle("no", "json") == answer_bundle("no", "df") == answer_bundle("no", "code")
    assert answer_bundle("no")["text/markdown"] == "no"


def test_parse_json__bare_or_fenced():
    """Bare JSON and one fenced block are read; else the error says where."""
    assert parse_json(' {"a": [1]} ') == parse_json('So:\n```json\n{"a": [1]}\n```\nok') == {"a": [1]}
    assert parse_json('[Note] here:\n```json\n{"a": [1]}\n```') == {"a": [1]}
    assert parse_json('{"a": "```\\nx\\n```"}') == {"a": "```\nx\n```"}
    with pytest.raises(ValueError, match="line 2 column 1"):
        parse_json('{"a":\n}')
    with pytest.raises(ValueError, match="found 2"):
        parse_json("```\n1\n```\n```\n2\n```")
    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]")


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1, "b": "x"}, {"a": 2, "b": "y|z"}]',
        '```json\n{"a": [1, 2], "b": ["x", "y|z"]}\n```',
        '{"rows": [{"a": 1, "b": "x"}, {"a": 2, "b": "y|z"}]}',
        "Here:\n\n| a | b |\n|--:|---|\n| 1 | x |\n| 2 | y\\|z |\n\nDone.",
        "a | b\n--|--\n1 | x\n2 | y\\|z",
        "```csv\na,b\n1,x\n2,y|z\n```",
    ],
)
def test_parse_table__reads_every_form(text):
    """JSON, CSV and Markdown come out as the same table, numbers as numbers."""
    assert parse_table(text).to_dict("list") == {"a": [1, 2], "b": ["x", "y|z"]}


@pytest.mark.parametrize(
    "text", ["no table", "[1, [2]]", "```csv\n```", '{"a": 1}', '{"a": [1], "b": [1, 2]}']
)
def test_parse_table__refuses(text):
    """What is no table is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - pandas and json word some of them
        parse_table(text)


@pytest.mark.parametrize(
    "text",
    [
        '```json\r\n{"a": 1}\r\n```\r\n',
        'Here it is:\r\n\r\n```JSON\r\n{"a": 1}\r\n```\r\nDone.\r\n',
        '\ufeff{"a": 1}',
        '\n\u200b\ufeff {"a": 1}\u200b\n',
        '\u200b```json\n\ufeff{"a": 1}\n```\u2060',
    ],
)
def test_parse_json__line_ends_and_characters_without_width_are_no_text(text: str):
    """What can't be seen, and Windows' line ends, change nothing."""
    assert parse_json(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1e999}', "1e999 is not finite"),
        ("[-1e999]", "-1e999 is not finite"),
        ("```json\n[" + "9" * 5000 + "]\n```", "a whole number of 5,000 digits is too long to be read"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_parse_json__what_can_not_be_read_is_told_in_our_words(text: str, why: str):
    """One reading to show, to keep and to bind; no word of Python's settings."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_json(text)
    assert "sys." not in str(caught.value)
    assert data_bundle(text, "json") is None


def test_data_bundle__is_a_tree_where_a_browser_shows_it_exactly():
    """JSON for front ends with a tree, text for the others; a number that JavaScript would round is text alone."""
    shown = data_bundle('{"b": [1, null], "a": "x"}', "data")
    assert list(shown["application/json"]) == ["b", "a"]
    assert shown["text/plain"] == '{\n  "b": [\n    1,\n    null\n  ],\n  "a": "x"\n}'
    assert shown["text/markdown"] == f"```json\n{shown['text/plain']}\n```"
    assert data_bundle('{"b": [1, null], "a": "x"}', "json") == shown
    for text in ('{"id": 9007199254740993}', '"words"', "7"):
        assert "application/json" not in data_bundle(text, "data")
    assert "9007199254740993" in data_bundle('{"id": 9007199254740993}', "data")["text/plain"]


@pytest.mark.parametrize("text", ['[{"a": "x", "b": 1}]', '{"items": [{"a": "x", "b": 1}]}'])
def test_data_bundle__is_a_table_of_flat_objects(text: str):
    """In each form; bare, or in the object that a provider wants around it."""
    shown = data_bundle(text, "data")
    assert shown["text/plain"] == "a  b\nx  1"
    assert shown["text/markdown"] == "| a | b |\n| :-- | --: |\n| x | 1 |"
    assert "<table" in shown["text/html"]
    assert "application/json" not in shown


def test_data_bundle__fits_what_is_not_alike_into_one_table():
    """Columns in the order of their first row, lists with commas, nothing for null; many rows are cut."""
    rows = [{"a": True, "tags": ["x", "y"]}, {"b": None, "a": 1.5}]
    assert data_bundle(json.dumps(rows), "data")["text/plain"] == "a     tags  b\ntrue  x, y\n1.5"
    many = data_bundle(json.dumps([{"n": n} for n in range(100)]), "data")
    assert "… and 40 more …" in many["text/plain"]
    assert "data has all of them" in many["text/html"]
    nested = data_bundle('[{"a": {"b": 1}}]', "data")
    assert nested["application/json"] == [{"a": {"b": 1}}]
    assert data_bundle("[]", "data")["text/plain"] == "[]"


def test_data_bundle__keeps_a_models_text_harmless():
    """In every form: no markup, no mathematics, nothing that steers a terminal or turns the text around."""
    hostile = "<img src=x onerror=alert(1)> $\\x$ ``` \u202e \x1b[2J | [a](javascript:x)"
    table = data_bundle(json.dumps([{hostile: hostile}]), "data")
    tree = data_bundle(json.dumps({hostile: hostile}), "data")
    assert "<img" not in table["text/html"] + table["text/markdown"]
    assert "](" not in table["text/markdown"]
    for shown in (table, tree):
        text = json.dumps(shown, ensure_ascii=False)
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert tree["text/markdown"].startswith("````json\n")


def test_data_bundle__is_nothing_for_what_is_no_json():
    """Such an answer is shown as it is."""
    assert data_bundle("It is Dune.", "data") is None
    assert answer_bundle("It is Dune.", "data") == answer_bundle("It is Dune.")


def test_first_code__takes_the_first():
    """The first fenced block, with its language."""
    assert first_code("a\n```py\nx\n```\n~~~\ny\n~~~") == ("py", "x")
    assert first_code("none") is None


KERNEL_CELL = """
from or_cache_magic.display.screen import open_screen
text = {text!r}
screen = open_screen(get_ipython())
if {streamed}:
    for char in text:
        screen.feed(char)
    screen.finish(text)
else:
    screen.show(text)
"""


@pytest.mark.kernel
def test_saved_notebook__is_the_same_bought_and_cached(tmp_path):
    """In a notebook run by a real kernel, the saved outputs are the same bytes."""
    nbformat = pytest.importorskip("nbformat")
    cells = [
        nbformat.v4.new_code_cell(KERNEL_CELL.format(text=TEXT, streamed=streamed))
        for streamed in (True, False)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    # nbclient as a batch job uses it; in a process of its own, which closes its sockets.
    command = ["-m", "nbconvert", "--to", "notebook", "--execute", "--output", "out.ipynb", "in.ipynb"]
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    ran = nbformat.read(tmp_path / "out.ipynb", 4)
    bought, cached = (json.dumps(cell.outputs) for cell in ran.cells)
    assert bought == cached
    assert [output["output_type"] for output in ran.cells[0].outputs] == ["display_data"]
