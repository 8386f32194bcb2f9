"""Several answers side by side: what a notebook and a terminal show, and that none of them can reach another."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from or_cache_magic.display.columns import Column, NotebookColumns, TerminalColumns, columns_bundle

TEXT = "Use `List<String>`:\n\n```py\nx = 1\n```\n\nand $x$."
HOSTILE = [
    "```\nnever closed",
    "</div></div><script>alert(1)</script>",
    "<div>",
    "> quoted\n> and",
    "- item\n\n      code in it",
    "1. one\n2. two\n   ```\n   open",
    "<!-- never closed",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "    code",
    "$$ \\begin{x",
    "a\n---",
    "[x]: javascript:alert(1)\n\n[x]",
    "<pre>\n\n",
    "~~~\n</div>",
]


def column(text: str | None = None, *pieces: str, head: str = "a/b", failed: str = "") -> Column:
    made = Column(head)
    made.pieces += pieces
    if failed:
        made.fail(failed)
    elif text is not None:
        made.finish(text)
    return made


class Published(list):
    def __call__(self, **message):
        self.append(message)


@pytest.mark.parametrize("text", HOSTILE)
def test_columns__no_answer_leaves_its_box(text):
    """Whatever one of them begins, the next stands in a box of its own beside it."""
    shown = columns_bundle([column(text, head="a/b"), column("second", head="c/d")], "auto")["text/markdown"]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(shown)
    assert len(re.findall("<div", html)) == len(re.findall("</div>", html)) == 3
    depth, at = 0, {}
    for tag in re.finditer(r"<(/?)div|<strong>(\w/\w)</strong>|<p>(second)</p>", html):
        if tag[2] or tag[3]:
            at[tag[2] or tag[3]] = depth
        else:
            depth += -1 if tag[1] else 1
    assert at == {"a/b": 2, "c/d": 2, "second": 2}
    assert "<script" not in html


def test_columns__a_head_is_no_markup():
    """What a model is called is a text."""
    shown = columns_bundle([column("x", head="a/*b*<b>")], "auto")
    assert "<b>" not in MarkdownIt("commonmark", {"html": True}).render(shown["text/markdown"])


@pytest.mark.parametrize("form", ["auto", "text", "json", "code", "df"])
def test_notebook__bought_and_cached_are_the_same(form):
    """What is left of streams equals the one display of cached answers, which is never updated."""
    text = '[{"a": 1}]' if form in {"json", "df"} else TEXT
    bought, cached = Published(), Published()
    streams = [column(), column()]
    screen = NotebookColumns(bought, streams, form=form, clock=iter(range(99)).__next__)
    for char in text:
        streams[0].pieces.append(char)
        screen.tick()
    for stream in streams:
        stream.finish(text)
    screen.finish()
    NotebookColumns(cached, [column(text), column(text)], form=form).finish()
    (shown,) = cached
    assert not shown.get("transient")
    assert (bought[-1]["data"], bought[-1]["metadata"]) == (shown["data"], shown["metadata"])
    assert [sent["update"] for sent in bought] == [False] + [True] * (len(bought) - 1)
    assert len(bought) > 5


def test_notebook__shows_at_once_only_what_comes():
    """Nothing before the first piece; then all of them, those that have nothing yet as waiting, and why."""
    sent, columns = Published(), [column(), column()]
    screen = NotebookColumns(sent, columns, form="auto")
    screen.tick()
    assert sent == []
    columns[1].wait("waiting for another kernel")
    columns[0].pieces.append("first")
    screen.tick()
    assert "first" in sent[0]["data"]["text/plain"]
    assert "waiting for another kernel" in sent[0]["data"]["text/plain"]
    screen.tick()
    assert len(sent) == 1


def test_notebook__shows_once_what_was_whole_before_it_was_seen():
    """When the last answer is done before the screen is looked at, the tick and the end show it once."""
    sent = Published()
    columns = [column("one"), column("two")]
    screen = NotebookColumns(sent, columns, form="auto")
    for filled in columns:
        filled.pieces.append("x")
    screen.tick()
    screen.finish()
    assert len(sent) == 1


def test_notebook__without_updates_once():
    """Where updates aren't followed all is shown once, at the end."""
    sent, columns = Published(), [column(None, "x")]
    screen = NotebookColumns(sent, columns, form="auto", updates=lambda: False)
    screen.tick()
    assert sent == []
    columns[0].finish("xy")
    screen.finish()
    assert len(sent) == 1


def test_notebook__what_failed_keeps_what_had_come():
    """The part that came stands above the reason."""
    shown = columns_bundle([column(None, "half an", failed="failed: the answer <b>broke off")], "auto")
    assert shown["text/plain"].endswith("half an\n\nfailed: the answer <b>broke off")
    assert "<b>" not in shown["text/markdown"]


def test_notebook__pictures_stand_below():
    """A picture is an output of its own, below the name of its model; in the box is a line of it."""
    sent, drawn = Published(), Column("a/b")
    drawn.finish("here", [{"image/png": "iVBO", "text/plain": "[image: png, 4 B]"}])
    NotebookColumns(sent, [drawn, column("x")], form="auto").finish()
    assert "image: png" in sent[0]["data"]["text/markdown"]
    assert sent[1]["data"]["text/plain"] == "--- a/b ---"
    assert "image/png" in sent[2]["data"]


def test_notebook__receipts_are_one_output():
    """A line each, each in italics."""
    sent = Published()
    NotebookColumns(sent, [], form="auto").receipts(["a · $1", "sum"])
    assert sent[0]["data"]["text/plain"] == "a · $1\nsum"
    assert sent[0]["metadata"] == {"or_cache_magic": {"role": "receipt"}}
    NotebookColumns(sent, [], form="auto", receipts=False).receipts(["a"])
    assert len(sent) == 1


def test_terminal__streams_the_first_and_keeps_the_order():
    """The first comes piece by piece; what comes of the second meanwhile is written when the first is whole."""
    out: list[str] = []
    columns = [column(head="a/b"), column(head="c/d"), column("third", head="e/f")]
    screen = TerminalColumns(columns, form="auto", write=out.append)
    columns[1].pieces.append("sec")
    screen.tick()
    assert out == []
    for piece in ("fi", "rst"):
        columns[0].pieces.append(piece)
        screen.tick()
    assert "".join(out) == "--- a/b ---\nfirst"
    columns[0].finish("first")
    screen.tick()
    assert "".join(out) == "--- a/b ---\nfirst\n\n--- c/d ---\nsec"
    columns[1].fail("failed: gone\x1b[2J")
    screen.finish()
    screen.receipts(["receipt"])
    assert "".join(out).partition("c/d ---\n")[2] == "sec\nfailed: gone␛[2J\n\n--- e/f ---\nthird\nreceipt\n"


def test_terminal__other_forms_wait_until_they_are_whole():
    """JSON is no JSON before its end; `none` shows nothing."""
    out: list[str] = []
    columns = [column(None, '{"a":')]
    screen = TerminalColumns(columns, form="json", write=out.append)
    screen.tick()
    assert out == []
    columns[0].finish('{"a":1}')
    screen.finish()
    assert "".join(out) == '--- a/b ---\n{\n  "a": 1\n}\n'
    TerminalColumns([column("x")], form="none", write=out.append).finish()
    assert "x" not in "".join(out)
