"""Documents: whatever a stranger wrote is read letter for letter, in Markdown and in LaTeX, and is nothing else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from or_cache_magic.display.document import Heading, Quote, Rows, Words, each_text, latex_of, markdown_of
from or_cache_magic.display.escape import printable
from or_cache_magic.display.tables import Head

_MARKS = "\\{}$&#%_^~<>|`'\"-,?![]*=/ \n\r\t.+0a≥→…\u202e\x1b\u2028\ud800é"
_ATTACKS = (
    "\\end{quote}\\input{/etc/passwd}",
    "\\\\[1em] \\write18{id} %",
    "^^5cinput x",
    "```\n# mine\n```",
    "~~~\n<script>alert(1)</script>",
    "| a | b |\n|---|---|",
    "[x](javascript:alert(1)) ![y](http://z)",
    "$x$ \\(y\\) \\[z\\] $$w$$",
    "\\end{longtable} & \\verb|x|",
    "- list\n1. one\n> quote\n===\n---",
    "<!-- --> &lt; &#36; {} {0} {words}",
)
texts = st.text(st.one_of(st.sampled_from(_MARKS), st.characters()), max_size=40) | st.sampled_from(_ATTACKS)

HEADS = (Head("Key", left=True), Head("A longer name of a column", left=True), Head("Cost"))


def document(text):
    return (
        Heading(2, "Of {}", (text,)),
        Words("It said {} and {}.", (text, "no more")),
        Rows(HEADS, ((text, "one", "2"), ("three", text, text)), left_out=4),
        Quote(text),
        Words("The end."),
    )


def on_one_line(text):
    return " ".join(printable(text).split())


@given(texts)
def test_markdown_of__is_the_same_document_with_any_text(text):
    """Heading, paragraph, table, code, paragraph: no text makes another, and each is read as it is."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown_of(document(text)))
    assert [token.type for token in tokens if token.level == 0] == [
        *("heading_open", "inline", "heading_close")[::2],
        *("paragraph_open", "paragraph_close"),
        *("table_open", "table_close"),
        "fence",
        *("paragraph_open", "paragraph_close"),
    ]
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "html_inline", "softbreak"}
    assert {child.content for child in inline if child.type == "html_inline"} <= {"<span>", "</span>"}
    said = ["".join(c.content for c in t.children if c.type.startswith("text")) for t in tokens if t.children]
    line = on_one_line(text)
    assert said[0] == f"Of {line}".strip()
    assert said[1] == f"It said {line} and no more."
    cells = [*(head.name for head in HEADS), line, "one", "2", "three", line, line, "… and 4 more …"]
    assert said[2:-1] == [cell for cell in cells if cell]
    (fence,) = (token for token in tokens if token.type == "fence")
    assert fence.content.rstrip("\n") == printable(text).rstrip("\n")
    assert not re.search(r"[$\\]", markdown_of(document(text)).partition("```")[0])


_ESCAPED = {
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    r"\textquotesingle{}": "'",
    r"\char34{}": '"',
    r"/\allowbreak{}": "/",
    r"\ensuremath{\geq}": "≥",
    r"\ensuremath{\rightarrow}": "→",
    r"\ldots{}": "…",
    "-{}": "-",
    ",{}": ",",
    **{f"{{{char}}}": char for char in "[]*"},
    **{f"\\{char}": char for char in "{}$&#%_"},
}
_TOKEN = re.compile("|".join([*map(re.escape, _ESCAPED), r"[^\\{}$&#%_^~<>|`'\"\[\]*/≥→…]"]))


def read(latex):
    """What LaTeX prints of an escaped text; fails where it would do anything else."""
    out, at = [], 0
    while at < len(latex):
        token = _TOKEN.match(latex, at)
        assert token is not None, latex[at : at + 20]
        out.append(_ESCAPED.get(token[0], token[0]))
        at = token.end()
    assert not re.search("--|,,", latex)
    return "".join(out)


@given(texts)
def test_latex_of__is_the_same_document_with_any_text(text):
    """No text ends an environment, begins a command, a comment, mathematics or a column, and each is read as it is."""
    line = on_one_line(text)
    latex = latex_of(document(text))
    heading, words, table, quote, end = re.fullmatch(
        r"(?s)\\subsection\*\{(.*?)\}\n\n(It said .*?)\n\n"
        r"\\begin\{longtable\}\{@\{\}.*?@\{\}\}\n\\toprule\n(.*)\n\\bottomrule\n\\end\{longtable\}\n\n"
        r"\\begin\{quote\}\\ttfamily\\raggedright\n(.*)\n\\end\{quote\}\n\n(.*)\n",
        latex,
    ).groups()
    assert read(heading) == f"Of {line}"
    assert read(words) == f"It said {line} and no more."
    _, rule, *rows = table.split("\n")
    assert (rule, end) == (r"\midrule\endhead", "The end.")
    cells = [[read(cell) for cell in re.split("(?<!\\\\)&", f" {row}")] for row in _rows(rows)]
    assert [[cell.strip() for cell in row] for row in cells] == [
        [line, "one", "2"],
        ["three", line, line],
        ["and 4 more", "", ""],
    ]
    said = []
    for one in quote.split("\\\\\n"):
        indent = re.match(r"\\mbox\{\}(~*)", one)
        said.append(" " * len(indent[1]) + read(one[indent.end() :]))
    assert "\n".join(said) == printable(text).replace("\t", "    ")


def _rows(rows):
    for row in rows:
        assert row.endswith(r" \\")
        yield row.removesuffix(r"\\")


def test_latex_of__sets_wide_tables_small():
    """A table of many columns is scaled down, and what is long shares what is left of the line."""
    heads = tuple(Head(f"Column {n}", left=True) for n in range(8))
    latex = latex_of([Rows(heads, (("a long text in a cell of a table", *"1234567"),))])
    assert latex.startswith("\\begingroup\\scriptsize")
    assert latex.endswith("\\endgroup\n")
    assert re.search(r"\{@\{\}>\{\\raggedright\\arraybackslash\}p\{0\.\d\d\\textwidth\}lllllll@\{\}\}", latex)


def test_each_text__changes_what_is_not_ours():
    """Values, cells and quotes; not the words and heads."""
    blocks = [each_text(block, str.upper) for block in document("x")]
    assert blocks[0] == Heading(2, "Of {}", ("X",))
    assert blocks[2].rows == (("X", "ONE", "2"), ("THREE", "X", "X"))
    assert blocks[2].heads == HEADS
    assert blocks[3] == Quote("X")
