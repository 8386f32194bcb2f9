"""What safe Markdown keeps, and the small helpers beside it."""

import html
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from or_cache_magic.display.escape import escape_html, escape_markdown, fenced, one_line, printable
from or_cache_magic.display.markdown import safe_markdown

from .test_markdown_attacks import jupyterlab

render = MarkdownIt("commonmark", {"html": True}).enable(["table"]).render


def seen(markdown):
    """The text that a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", render(markdown)))


KEPT = [
    "Plain prose, with *emphasis*, **bold** and `code`.",
    "a < b and c > d, 3 <4, x<=y, a<-b",
    "| a | b |\n|---|---:|\n| 1 | `x` |",
    "- one\n- two\n  ```python\n  print(1)\n  ```\n- three",
    "It costs $5.",
    "The root of $x^2 = 2$ is $\\sqrt{2}$.",
    "$$\n\\int_0^1 x\\,dx\n$$",
    "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
    "```html\n<b onclick=x>$5 and $6</b>\n```",
    '[docs](https://example.org/a_(b)?q=1&r=2#s "title") and [file](data/x.csv) and [1]: see below',
    "[a][1]\n\n[1]: https://example.org/x\n",
    "H<sub>2</sub>O<br>x",
    "Füße, 東京, 🙂 and `dict[str]`",
]


@pytest.mark.parametrize("text", KEPT)
def test_safe_markdown__keeps_the_harmless(text):
    """What can do no harm comes back byte for byte."""
    assert safe_markdown(text) == text


@given(st.text(st.sampled_from("abc XYZ.,;:-+*_#>()'\"\n1é"), max_size=200))
def test_safe_markdown__keeps_plain_prose(text):
    """Prose without brackets, dollars, backslashes, backticks and tags is untouched."""
    assert safe_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Use `List<String>` here", "Use List<String> here"),
        ("A <div> in prose", "A <div> in prose"),
        ("`![alt](url)` and `$HOME`", "![alt](url) and $HOME"),
        ("costs $5 or $6", "costs $5 or $6"),
        ("costs \\$5 or \\$6", "costs $5 or $6"),
        (
            "mail <me@example.org> or <https://example.org/?a=1>",
            "mail me@example.org or https://example.org/?a=1",
        ),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        (
            "- do\n  ```cpp\n  #include <vector>\n\n    int x;\n  ```\n",
            "do#include <vector>\n\n  int x;\n\n\n",
        ),
    ],
)
def test_safe_markdown__shows_what_was_written(text, shown):
    """What had to be rewritten still reads, and copies, as the model wrote it."""
    assert seen(safe_markdown(text)).strip() == shown.strip()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\\(x^2\\) and \\[ y \\]", "$x^2$ and $$ y $$"),
        ("\\( x<y \\)", "$x< y$"),
        ("`\\(x\\)`", "`\\(x\\)`"),
        ("![a cat](https://example.org/c.png)", "[image: a cat](https://example.org/c.png)"),
        ("Do:\n```py\nx\n```\nDone", "Do:\n\n```py\nx\n```\n\nDone"),
        ("```py\nx = 1", "```py\nx = 1\n```"),
        ("~~~\n```\n~~~", "````\n```\n````"),
        ("a\x1b[31m", "a␛[31m"),
    ],
)
def test_safe_markdown__documented_rewrites(text, safe):
    """Mathematics in the form Jupyter knows, images as links, fences in one form."""
    assert safe_markdown(text) == safe


def test_safe_markdown__linear_in_hostile_text():
    """Text made to be slow is not: twice as long takes no more than about twice the time."""
    hostile = [
        " ".join("`" * n for n in range(1, 90)),
        "\\[" * 2000,
        "$" * 4000,
        "\\" * 4000,
        "- ```\n" * 700,
    ]
    for text in hostile:
        spent = []
        for size in (1, 4):
            best = min(_seconds(text * size) for _ in range(3))
            spent.append(best)
        assert spent[1] < 12 * spent[0] + 0.005


def _seconds(text):
    began = time.thread_time()  # what the machine's other work takes is not counted
    safe_markdown(text)
    return time.thread_time() - began


@given(st.text(max_size=100))
def test_escape_markdown__shows_letter_for_letter(text):
    """Escaped text is shown as it is (white space folded) and is never markup."""
    words = " ".join(printable(text).split())
    assert seen(f"x{escape_markdown(text)}x").rstrip("\n") == f"x{words}x"


@given(st.text(max_size=300), st.integers(1, 80))
def test_one_line__fits(text, width):
    """A preview is one line of at most the width."""
    line = one_line(text, width)
    assert len(line) <= width
    assert "\n" not in line


def test_one_line__says_when_it_cut():
    """What was cut ends in an ellipsis; what fits is whole."""
    assert (one_line("a  b\nc", 9), one_line("abcdef", 4)) == ("a b c", "abc…")


@given(st.text(st.characters()))
def test_printable__has_no_controls(text):
    """Nothing that steers a terminal or can't be encoded is left."""
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printable(text))
    printable(text + "\ud800").encode()


@pytest.mark.parametrize("text", ["$0.10 · saved $0.20", "$1.00", r"\(x\) and \[y\]", r"\$5, \$6"])
def test_escape_markdown__typesets_nothing(text):
    """No two dollars, nor backslash and bracket, are near each other in what a front end typesets."""
    assert not re.search(r"[$\\]", escape_markdown(text))
    assert re.findall(r"<span>&#(\d+);</span>", escape_markdown(text)) == [
        str(ord(char)) for char in text if char in "$\\"
    ]


DANGEROUS = "a <b> ![q](https://e.example/x) $x$ \\\\(y\\\\) `c`"
CODE = {
    "indented": f"Run:\n\n    {DANGEROUS}\n      two\n\nDone.",
    "tab_indented": f"Run:\n\n\t{DANGEROUS}\n\t\ttwo\n\nDone.",
    "first": f"    {DANGEROUS}\n",
    "with_a_fence": f"x\n\n    ```\n    {DANGEROUS}\n    ```\n",
    "in_list": f"- one\n\n      {DANGEROUS}\n\n      three\n- two",
    "in_list_by_tabs": f"1.\tone\n\n\t\t{DANGEROUS}\n\n2.\ttwo",
    "on_the_marker": f"-     {DANGEROUS}\n",
    "in_deep_list": f"- a\n  - b\n\n        {DANGEROUS}\n",
    "in_quote": f"> x\n>\n>     {DANGEROUS}\n>\n> y",
    "fence_in_list": f"- x\n  ```py\n  {DANGEROUS}\n  ```\n- y",
    "fence_in_list_by_tabs": f"-\tx\n\n\t```py\n\t{DANGEROUS}\n\t```\n",
    "span_over_lines": "a `b <c>\nd $e$` f `g\nh` <i> $j$",
    "span_over_lines_in_list": "- a `b <c>\n  d $e$ $g$` f\n- y",
    "span_over_lines_in_quote": "> a ``b ` <c>\n> d $e$`` f",
    "span_of_three": "``` `x` ``` and ```` a ```b <c> $1$ $2 ````",
    "span_of_two_around_three": "a `` ``` `` and ``` `` <b> ``` `c` d",
    "span_of_three_in_list": "- a ```<b>$x$``` b ``` c\n- y",
    "span_of_three_in_table": "| a |\n|---|\n| ```x `y` \\| z``` ``` <b> ``` |",
    "span_of_three_over_lines": "a ``` `b`\n<c> ``` d",
    "span_in_lazy_line": "- a `b <c>\nd $e$` f",
}


def codes(shown):
    """What stands in each code of a page, spaces folded."""
    found = re.findall(r"<code[^>]*>(.*?)</code>", shown, re.DOTALL)
    return [" ".join(html.unescape(code).split()) for code in found]


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_safe_markdown__keeps_code_of_every_form(text):
    """Whatever form CommonMark has for code, it is shown letter for letter, as code and where it stood."""
    assert codes(render(safe_markdown(text))) == codes(render(text))
    assert codes(jupyterlab(safe_markdown(text))) == codes(render(text))


@given(st.text(st.sampled_from("`~\na "), max_size=60))
def test_fenced__can_not_be_closed_from_inside(code):
    """A fence holds any code whole."""
    assert render(fenced(code, "py")).count("<pre>") == 1
    assert render(fenced(code, "py")).startswith("<pre>")


def test_escape_html__quotes():
    """Escaped text is safe between tags and in a quoted attribute."""
    assert escape_html("<a b='\"'>\x1b") == "&lt;a b=&#x27;&quot;&#x27;&gt;␛"
