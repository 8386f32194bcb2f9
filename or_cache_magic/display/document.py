"""Documents of headings, words, tables and quoted texts, as Markdown and as LaTeX.

The words are ours; what stands in their ``{}``, in tables and in quotes is a stranger's (a prompt, the name
of a model), and is shown letter for letter: it opens no table, link, mathematics, command or comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from or_cache_magic.display.escape import escape_markdown, fenced, printable
from or_cache_magic.display.tables import Head, Table, markdown, table_of


class Heading(NamedTuple):
    """A heading; 1 is the highest level, 3 the lowest."""

    level: int
    words: str
    values: tuple[str, ...] = ()


class Words(NamedTuple):
    """A paragraph: words of ours without markup, with a ``{}`` for each of the values."""

    words: str
    values: tuple[str, ...] = ()


class Rows(NamedTuple):
    """A table of texts; `left_out` rows more are not shown."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


class Quote(NamedTuple):
    """A text of several lines, shown as it is."""

    text: str


Block = Heading | Words | Rows | Quote


def each_text(block: Block, change: Callable[[str], str]) -> Block:
    """Return the block with every text in it that is not ours changed."""
    if isinstance(block, Quote):
        return Quote(change(block.text))
    if isinstance(block, Rows):
        return block._replace(rows=tuple(tuple(map(change, row)) for row in block.rows))
    return block._replace(values=tuple(map(change, block.values)))


# Markdown


def markdown_of(blocks: Iterable[Block]) -> str:
    """Return a document as GitHub's Markdown, which JupyterLab and pandoc read alike."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Quote):
        return fenced(printable(block.text), "text")
    if isinstance(block, Rows):
        table = table_of([head.name for head in block.heads], block.rows, left_out=block.left_out)
        return markdown(Table(block.heads, table.rows, cut_at=table.cut_at, left_out=block.left_out))
    said = block.words.format(*map(escape_markdown, block.values))
    return f"{'#' * block.level} {said}" if isinstance(block, Heading) else said


# LaTeX

LATEX_PACKAGES: Final = ("array", "booktabs", "longtable")
"""What a document must load that takes `latex_of`."""

_COMMANDS: Final = {1: "section", 2: "subsection", 3: "subsubsection"}
_ESCAPES: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        "'": r"\textquotesingle{}",
        '"': r"\char34{}",
        # Behind a row's end they would be an option of it.
        **{char: f"{{{char}}}" for char in "[]*"},
        **{char: f"\\{char}" for char in "{}$&#%_"},
        "/": r"/\allowbreak{}",
        # pdfLaTeX has no characters for them.
        "≥": r"\ensuremath{\geq}",
        "→": r"\ensuremath{\rightarrow}",
        "…": r"\ldots{}",
    }
)
_TEXT_WIDTH: Final = 0.9
_CHAR_WIDTH: Final = 0.014
_LEAST_WIDTH: Final = 0.1
_SHORT: Final = 16
"""So many characters are not broken."""
_MANY: Final = 6
"""Tables of more columns are set small."""


def latex_of(blocks: Iterable[Block]) -> str:
    r"""Return a document as LaTeX to be read by ``\input``; it needs `LATEX_PACKAGES`."""
    return "\n\n".join(map(_latex, blocks)) + "\n"


def escape_latex(text: str) -> str:
    """Return the text on one line, so that LaTeX prints it letter for letter."""
    return _latex_line(" ".join(printable(text).split()))


def _latex_line(line: str) -> str:
    # Two hyphens would be a dash, two commas a quotation mark.
    return re.sub("([-,])(?=\\1)", r"\1{}", line.translate(_ESCAPES))


def _latex(block: Block) -> str:
    if isinstance(block, Quote):
        return _latex_quote(block.text)
    if isinstance(block, Rows):
        return _latex_table(block)
    ours = block.words.split("{}")
    values = (*map(escape_latex, block.values), "")
    said = "".join(_latex_line(words) + value for words, value in zip(ours, values, strict=True))
    return f"\\{_COMMANDS[block.level]}*{{{said}}}" if isinstance(block, Heading) else said


def _latex_quote(text: str) -> str:
    # No verbatim environment: what is in it could end it.
    lines = printable(text).replace("\t", "    ").split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    shown = [
        f"\\mbox{{}}{'~' * indent}{_latex_line(line[indent:])}"
        for line, indent in zip(lines, indents, strict=True)
    ]
    return "\\begin{quote}\\ttfamily\\raggedright\n" + "\\\\\n".join(shown) + "\n\\end{quote}"


def _latex_table(block: Rows) -> str:
    rows: list[Iterable[str]] = [map(escape_latex, row) for row in block.rows]
    if block.left_out:
        rows.append([f"and {block.left_out:,} more", *[""] * (len(block.heads) - 1)])
    lines = [
        f"\\begin{{longtable}}{{@{{}}{_latex_columns(block)}@{{}}}}",
        "\\toprule",
        _latex_row(escape_latex(head.name) for head in block.heads),
        "\\midrule\\endhead",
        *map(_latex_row, rows),
        "\\bottomrule",
        "\\end{longtable}",
    ]
    if len(block.heads) > _MANY:
        lines = ["\\begingroup\\scriptsize\\setlength{\\tabcolsep}{2pt}", *lines, "\\endgroup"]
    return "\n".join(lines)


def _latex_columns(block: Rows) -> str:
    """Return the columns' kinds: what is short is as wide as it is, and what is long shares the rest."""
    longest = [
        max(map(len, column)) for column in zip([h.name for h in block.heads], *block.rows, strict=True)
    ]
    is_long = [head.left and size > _SHORT for head, size in zip(block.heads, longest, strict=True)]
    taken = sum(_CHAR_WIDTH * size for size, is_one in zip(longest, is_long, strict=True) if not is_one)
    width = max((_TEXT_WIDTH - taken) / max(sum(is_long), 1), _LEAST_WIDTH)
    wide = f">{{\\raggedright\\arraybackslash}}p{{{width:.2f}\\textwidth}}"
    kinds = zip(block.heads, is_long, strict=True)
    return "".join(wide if is_one else "l" if head.left else "r" for head, is_one in kinds)


def _latex_row(cells: Iterable[Any]) -> str:
    return " & ".join(cells) + r" \\"
