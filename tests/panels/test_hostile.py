"""A cache from a stranger: whatever a model, a prompt, a tag or a name holds is shown as text, everywhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import Choice, Cost, Request
from or_cache_magic.core.rows import EntryRow
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.panels.callbacks import alert_html
from or_cache_magic.panels.controls import choose_from
from or_cache_magic.panels.markup import answer_html
from or_cache_magic.panels.rows import row_html

from ..display.test_markdown_attacks import ATTACKS
from .conftest import Text, keep

X = "window.__pwned=1"
HOSTILE = [
    f"<script>{X}</script>",
    f"<img src=x onerror={X}>",
    f'"><svg onload={X}>',
    f"' onmouseover='{X}",
    f"</div></style><iframe src=javascript:{X}>",
    "<!-- --><style>*{display:none}</style>",
    "&lt;b&gt;bold&lt;/b&gt;",
    "\x1b[31mred\x1b[0m\x00\u202e",
    f"[click](javascript:{X}) ![x](https://evil.example/x.png)",
    "| a | b |\n| --- | --- |\n`code` **bold** <https://evil.example>",
]

OURS = {"div", "span", "b", "i", "p", "dl", "dt", "dd", "pre", "code", "h3", "h4", "ul", "ol", "li", "table", "thead",
        "tbody", "tr", "th", "td", "svg", "title", "desc", "path", "polygon", "polyline", "text", "details", "summary",
        "strong", "em", "a", "br", "hr", "blockquote", "h1", "h2", "h5", "h6", "style"}  # fmt: skip
ATTRIBUTES = {"class", "title", "role", "aria-live", "aria-hidden", "aria-label", "id", "viewbox", "points", "d",
              "x", "y", "text-anchor", "scope", "href", "rel", "target", "start", "style"}  # fmt: skip


def dangers(markup):
    """What in a piece of HTML could run, load or lead somewhere else than a page."""
    page = Text(markup)
    found = [tag for tag in page.tags if tag not in OURS]
    for name, value in page.attributes:
        if name not in ATTRIBUTES or (name == "href" and not re.match(r"https?://|mailto:", value or "")):
            found.append(f"{name}={value}")
        if name == "style" and not re.fullmatch(r"text-align:(left|right|center)", value or ""):
            found.append(f"{name}={value}")
    return found


def pages(panel):
    """The HTML of every widget but the sheet."""
    face = panel.face
    rows = [row.cells for row in face.table.pool]
    widgets = [face.tiles, face.chart, face.groups, face.status, face.note_line, face.alert_box, face.detail]
    return [w.value for w in [*widgets, *rows, face.table.heads, face.table.empty, face.actions.question]]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile__texts_are_shown_as_text(cache, open_panel, text):
    """In every field, in every part of the panel: nothing but our own tags, and the text is there to be read."""
    name = " ".join(text.split())
    key = keep(cache, text, text, model=name, provider=text, tags=(name.replace(",", ""),), notebook=text)
    request = Request({"model": name, "messages": [{"role": text, "content": [{"type": text, text: text}], "name": text}],
                       "temperature": 0, text: {text: [text]}, "tools": [text]})  # fmt: skip
    other = cache.store.entry(key)
    choice = Choice(
        {"role": "assistant", "content": text, "reasoning": text, "tool_calls": [{text: text}]}, text
    )
    answer = other.answer._replace(choices=(choice, choice), generation_id=text)
    from or_cache_magic.core.key import request_key

    odd = other._replace(key=request_key(request), answer=answer)
    cache.store.put(odd, request)
    cache.store.keep_unserved(odd.key, request, answer, text, cache.clock())
    panel = open_panel(cache)
    shown = []
    for by in ("model", "notebook", "tag", "day"):
        panel.face.by.value = by
        shown += pages(panel)
    for row in panel.face.table.pool[:2]:
        row.open.click()
        shown += pages(panel)
        row.check.value = True
    panel.face.actions.purge.click()
    shown += pages(panel)
    assert panel.error is None
    assert [danger for page in shown for danger in dangers(page)] == []
    if "\x1b" not in text:
        visible = " ".join(str(Text(page)) for page in shown)
        assert visible.count(name) > 4
    bundle = panel._repr_mimebundle_()
    apart = re.sub(r"<span>&#(36|92);</span>", "", bundle["text/markdown"])
    assert not re.search(r"<(?!br>)|\[|\]\(|!\[", apart)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", bundle["text/plain"])


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_answer__of_every_known_attack_is_inert(text):
    """The attacks that the display of answers is tested with do nothing as the panel's HTML either."""
    assert dangers(answer_html(text)) == []


@given(st.lists(st.sampled_from(["<", ">", '"', "'", "`", "[", "](", "!", "javascript:", "a", " ", "\n", "&", "|", "-",
                                 "<img onerror=x ", "http://a", "data:text/html,", "\\", "*", "&#106;"])))  # fmt: skip
def test_answer__has_no_way_out(pieces):
    """However the pieces of an attack are put together."""
    assert dangers(answer_html("".join(pieces))) == []


def test_answer__looks_as_it_was_meant():
    """Markdown is rendered: emphasis, lists, tables, code, and links to pages, which open apart from this one."""
    page = answer_html(
        "# T\n\n**b** [l](https://x.org/a?b=1&c=2)\n\n- i\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\n```py\n1 < 2\n```"
    )
    for tag in ("<h1>", "<strong>", "<li>", "<table>", '<code class="language-py">1 &lt; 2'):
        assert tag in page
    assert re.search(
        r'<a href="https://x\.org/a\?b=1&amp;c=2" rel="noopener noreferrer nofollow" target="_blank">', page
    )


def test_answer__that_is_very_long_is_text():
    """A book is shown whole, and not rendered."""
    text = "**x** " * 20_000
    assert answer_html(text) == f'<pre class="orc-pre">{text}</pre>'


@given(st.text(), st.text(), st.floats(0, 4e9), st.one_of(st.none(), st.floats(0, 4e9)))
def test_row__of_any_text_is_one_line_of_ours(prompt, model, created_s, expires_s):
    """Any text at any time is a row; it has no line of its own."""
    row = EntryRow("a" * 64, created_s, model, prompt, prompt, "", 1, None, Cost(None, "unknown"), 1, None, created_s,
                   expires_s, (prompt,), 1, "")  # fmt: skip
    page = row_html(row, 2e9)
    assert dangers(page) == []
    assert page.count("<span") == 16


def test_options__of_many_long_names_are_few_and_short():
    """A cache with ten thousand models does not fill the browser."""
    options = choose_from("all", [f"m/{i}{'x' * 200}" for i in range(10_000)])
    assert len(options) == 201
    assert max(len(name) for name, _ in options) == 80
    assert options[1][1] == f"m/0{'x' * 200}"


def test_alert__is_two_lines_of_text():
    """An error's own words may be a stranger's."""
    page = alert_html(StoreCorruptError("<b>bad</b>", "<i>do</i>"))
    assert Text(page).tags == ["div"]
    assert str(Text(page)) == "<b>bad</b> <i>do</i>"
