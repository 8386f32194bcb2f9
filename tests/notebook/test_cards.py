"""What the magics say besides answers, in notebooks too, where a stranger's text must do no harm."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from or_cache_magic.notebook.cards import entry_card, masked, preview_line, purge_line, say, status_card
from or_cache_magic.notebook.extension import loaded
from or_cache_magic.records import EntryFilter
from or_cache_magic.simulator import Scenario, scenario
from or_cache_magic.upkeep import Purge

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "```\n</code></pre><script>alert(1)</script>",
    "![x](http://evil/?q=1) [y](javascript:alert(1))",
    "| a | <b onclick=alert(1)>x</b> |\n|---|---|\n",
    "~~~json\n```\n<svg onload=alert(1)>\n~~~\n<iframe src=x>",
]


def html_of(markdown: str) -> str:
    """As a live cell would render it: raw HTML is passed on."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


@pytest.mark.parametrize("text", HOSTILE)
def test_entry_card__hostile_text_is_harmless(nb, text: str):
    """Neither a prompt nor a system prompt, an answer or an earlier answer can become markup."""
    nb["evil"] = text
    for answer in (text, "<script>second</script>"):
        nb.sim.script(Scenario(text=answer))
        nb.run("%%openrouter -s evil --refresh\nSay {{ evil }}")
    nb.run("x = %openrouter_last")
    plain, markdown = entry_card(loaded().magics().session.cache(), nb["x"].key)
    rendered = html_of(markdown).lower()

    assert text in plain
    assert not any(f"<{tag}" in rendered for tag in ("script", "img", "svg", "iframe", "b "))
    assert 'href="javascript' not in rendered


def test_entry_card__parts(nb):
    """The request is JSON in a fence, the answer is rendered, and the facts stand above."""
    nb.sim.script(Scenario(text="**bold**"))
    nb.run("%openrouter -q -o x hi")
    _, markdown = entry_card(loaded().magics().session.cache(), nb["x"].key[:8])
    rendered = html_of(markdown)

    assert '<code class="language-json">{\n' in rendered
    assert "<strong>bold</strong>" in rendered
    assert nb["x"].key in rendered


@pytest.mark.parametrize("folder", ["<b>x", "a|b", "*x*"])
def test_status_card__odd_folders(nb, folder: str):
    """A folder's name is text in the table, whatever is in it."""
    nb.run(f"%openrouter_config cache_dir='{folder}'")
    plain, markdown = status_card(loaded().magics().session)
    rows = html_of(markdown)

    assert folder in plain
    assert rows.count("<tr>") == len(plain.splitlines()) + 1
    assert "<b>" not in rows
    assert "<em>" not in rows


def test_status_card__unpriced(nb):
    """An unknown price is said, and makes the sum a lower bound."""
    nb.run("%openrouter hi")
    nb.sim.script(scenario("cut"))
    nb.fails("%openrouter again")
    plain, _ = status_card(loaded().magics().session)

    assert "≥ $" in plain
    assert "(1 of 2 unpriced)" in plain


@pytest.mark.parametrize("key", ["", "short", "sk-or-v1-simulator", "x" * 24])
def test_masked__short_keys_show_nothing(key: str):
    """Of a short key nothing is shown."""
    assert masked(key) == "…"


def test_masked__shows_the_ends():
    """Enough to tell two keys apart, too little to use one."""
    assert masked("sk-or-v1-" + "a" * 61 + "xyz") == "sk-or-v1-aaa…xyz"


@pytest.mark.parametrize(
    ("entries", "cost", "unpriced", "dry_run", "line"),
    [
        (0, "0", 0, False, "no entry matches; nothing to remove"),
        (1, "0.5", 0, False, "1 entry, $0.50 to buy again"),
        (1234, "12.345", 2, False, "1,234 entries, ≥ $12.35 to buy again, 2 unpriced"),
        (2, "0", 0, True, "2 entries, $0 to buy again · nothing was removed (--dry-run)"),
    ],
)
def test_purge_line(entries: int, cost: str, unpriced: int, dry_run: bool, line: str):
    """Count and cost, with what is not known told apart."""
    purge = Purge(EntryFilter(), entries, Decimal(cost), unpriced, size_bytes=1, rest_bytes=1)
    assert purge_line(purge, dry_run=dry_run) == line


@pytest.mark.parametrize(
    ("entries", "size", "rest", "line"),
    [
        (3, 2_500_000, 400_000, "3 entries, 2.5 MB, $0.50 to buy again · 400 KB stay"),
        (0, 0, 400_000, "400 KB fit already; nothing to remove"),
        (0, 0, 700_000, "no entry matches; nothing to remove"),
        (
            1,
            100_000,
            700_000,
            "1 entry, 100 KB, $0.50 to buy again · 700 KB stay (too much still: no more match)",
        ),
    ],
)
def test_purge_line__to_fit_tells_sizes(entries: int, size: int, rest: int, line: str):
    """With a size to fit: what goes, what stays, and whether that is enough."""
    wanted = EntryFilter(to_fit_bytes=500_000)
    assert purge_line(Purge(wanted, entries, Decimal("0.5"), 0, size, rest), dry_run=False) == line


def test_preview_line__a_miss_says_why():
    """What would be asked, its key and the reason."""
    line = preview_line({"model": "a/b"}, "0123456789abcdef", None, "not stored yet")

    assert line == "would ask a/b · key 0123456789 · not stored yet · nothing sent"


def test_say__a_kernel_gets_both_forms():
    """A notebook gets Markdown and text in one output; a note without Markdown is text."""
    published: list[dict[str, Any]] = []
    publisher = SimpleNamespace(publish=lambda **message: published.append(message))
    kernel = SimpleNamespace(kernel=object(), display_pub=publisher)

    say(kernel, "plain", "**rich**")
    say(kernel, "plain")

    assert [sorted(one["data"]) for one in published] == [["text/markdown", "text/plain"], ["text/plain"]]
    assert all(one["metadata"]["or_cache_magic"]["role"] == "note" for one in published)
