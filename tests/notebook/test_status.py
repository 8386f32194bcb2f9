"""What the magics say besides answers, in notebooks too, where a stranger's text must do no harm."""

from __future__ import annotations

import re
import socket
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from or_cache_magic.cache.purge import Purge
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.money.budget import KeyLimits
from or_cache_magic.notebook.extension import OpenRouterMagics, loaded
from or_cache_magic.notebook.session import Session
from or_cache_magic.notebook.status import (
    entry_card,
    limits_text,
    masked,
    purge_line,
    shown_folder,
    status_card,
)
from or_cache_magic.simulator import Scenario, Simulator, scenario

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
    plain, markdown = entry_card(loaded().session().cache(), nb["x"].key)
    rendered = html_of(markdown).lower()

    assert text in plain
    assert not any(f"<{tag}" in rendered for tag in ("script", "img", "svg", "iframe", "b "))
    assert 'href="javascript' not in rendered


def test_entry_card__parts(nb):
    """The request is JSON in a fence, the answer is rendered, and the facts stand above."""
    nb.sim.script(Scenario(text="**bold**"))
    nb.run("%openrouter -q -o x hi")
    _, markdown = entry_card(loaded().session().cache(), nb["x"].key[:8])
    rendered = html_of(markdown)

    assert '<code class="language-json">{\n' in rendered
    assert "<strong>bold</strong>" in rendered
    assert nb["x"].key in rendered


def test_entry_card__shows_answers_of_which_none_is_served(nb):
    """What did not fit is found by the key that its error names, with what was asked and why it is not served."""
    for text in ('{"n": "<b>x</b>"}', "no JSON"):
        nb.sim.script(Scenario("plain", text=text))
    for _ in range(2):
        said = nb.fails("%%openrouter --schema 'n int'\nGive n")
    key = re.search("%openrouter_entries ([0-9a-f]{10})", said)[1]
    shown = nb.run(f"%openrouter_entries {key}")
    for part in (
        key,
        "no entry",
        "Give n",
        "earlier answer 1",
        "<b>x</b>",
        "earlier answer 2",
        "no JSON",
        "is not of type",
    ):
        assert part in shown
    assert "<b>" not in html_of(entry_card(loaded().session().cache(), key)[1])
    assert "no entry begins with ffffffff" in nb.fails("%openrouter_entries ffffffff")


def test_entry_card__has_what_came_with_the_text(nb):
    """The pages that it cites, and its reasoning in full."""
    nb.sim.script(Scenario(search="exa", reasoning=True))
    nb.run("%openrouter -q -m openai/gpt-5-mini -o x hi")
    plain, markdown = entry_card(loaded().session().cache(), nb["x"].key)
    assert nb["x"].citations[0].url in plain
    for card in (plain, markdown):
        assert nb["x"].reasoning in card


@pytest.mark.parametrize("folder", ["<b>x", "a|b", "*x*"])
def test_status_card__odd_folders(nb, folder: str):
    """A folder's name is text in the table, whatever is in it."""
    nb.run(f"%openrouter_config cache_dir='{folder}'")
    plain, markdown = status_card(loaded().session())
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
    plain, _ = status_card(loaded().session())

    assert "≥ $" in plain
    assert "(1 of 2 unpriced)" in plain


def rows_of(session) -> dict[str, str]:
    """The card's rows."""
    plain, _ = status_card(session)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in plain.splitlines())}


def test_status_card__key_limits(nb, monkeypatch):
    """What the key may spend is asked of OpenRouter, and shown without the key."""
    nb.run("%openrouter hi")
    session = loaded().session()
    assert rows_of(session)["key's limit"] == f"none; {rows_of(session)['paid']} used this month"

    with Simulator(credits_usd=Decimal(10)) as limited:
        monkeypatch.setenv("OPENROUTER_BASE_URL", limited.base_url)
        monkeypatch.setenv("OPENROUTER_API_KEY", limited.api_key)
        assert rows_of(session)["key's limit"] == "$10.00, $10.00 left; $0 used this month"


def test_status_card__key_limits_cannot_be_read(nb, monkeypatch):
    """Without a connection the card is whole, and one line of it says why; both forms have it."""
    session = loaded().session()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OPENROUTER_BASE_URL", f"http://127.0.0.1:{port}/v1")
    plain, markdown = status_card(session)

    (line,) = (line for line in plain.splitlines() if line.startswith("key's limit:"))
    assert line.split(":", 1)[1].strip().startswith("not known: ")
    assert html_of(markdown).count("<tr>") == len(plain.splitlines()) + 1
    assert "version:" in plain


@pytest.mark.parametrize("change", ["offline", "no key"])
def test_status_card__asks_nobody_without_need(nb, monkeypatch, change: str):
    """Offline, and without a key, nothing is sent and nothing is said of limits."""
    if change == "offline":
        monkeypatch.setenv("OR_CACHE_MODE", "offline")
    else:
        monkeypatch.delenv("OPENROUTER_API_KEY")
    assert "key's limit" not in rows_of(loaded().session())
    assert not nb.sim.requests


def test_status_card__budgets(nb):
    """What was spent, by this session and today, and what of that is allowed."""
    nb.run("%openrouter hi")
    session = loaded().session()
    paid = rows_of(session)["paid"]
    assert rows_of(session)["spent"] == f"{paid} this session · {paid} today"

    nb.run("%openrouter_config max_cost_usd=0.5 max_cost_per_day_usd=2")
    assert rows_of(session)["spent"] == f"{paid} of $0.50 this session · {paid} of $2.00 today"


def test_status_card__a_saved_notebook_names_no_home(nb, monkeypatch):
    """A notebook keeps what the card says: there the folder is relative; a terminal has it whole."""
    session = loaded().session()
    assert rows_of(session)["completion cache"].startswith(f"{nb.folder / '.or_cache'} · ")

    nb.shell.kernel = object()
    plain, markdown = status_card(session)
    assert re.search(r"^completion cache: +\.or_cache · 0 entries", plain, re.MULTILINE)
    assert str(nb.folder) not in plain + markdown


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("home/ann/project/nb/.or_cache", ".or_cache"),
        ("home/ann/project/nb/deep/.or_cache", "deep/.or_cache"),
        ("home/ann/project/.or_cache", "../.or_cache"),
        ("home/ann/.or_cache", "../../.or_cache"),
        ("home/ann/other/cache", "~/other/cache"),
        ("home/bob/project/.or_cache", "…/project/.or_cache"),
    ],
)
def test_shown_folder__tells_no_more_than_it_must(tmp_path, monkeypatch, folder: str, shown: str):
    """As seen from the notebook, or from home; of other places the end."""
    monkeypatch.setenv("HOME", str(tmp_path / "home/ann"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home/ann"))
    assert shown_folder(tmp_path / folder, tmp_path / "home/ann/project/nb") == shown


def test_shown_folder__none():
    """Memory is no folder."""
    assert shown_folder(Path(":memory:"), Path("/")) == ":memory:"


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (None, "not told by this server"),
        (
            KeyLimits(Decimal(10), Decimal("7.43"), "monthly", Decimal("2.57"), False),
            "$10.00, $7.43 left, resets monthly; $2.57 used this month",
        ),
        (KeyLimits(Decimal(10), Decimal("-0.01"), "", None, False), "$10.00, -$0.01 left"),
        (KeyLimits(None, None, "", Decimal(0), True), "none; $0 used this month; free tier"),
        (KeyLimits(None, None, "", None, True, 37), "none; free tier, 37 requests left today"),
    ],
)
def test_limits_text(limits: KeyLimits | None, line: str):
    """What may be spent, what is left, when it begins anew, what was used."""
    assert limits_text(limits) == line


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


def test_say__a_kernel_gets_both_forms():
    """A notebook gets Markdown and text in one output; a note without Markdown is text."""
    published: list[dict[str, Any]] = []
    publisher = SimpleNamespace(publish=lambda **message: published.append(message))
    kernel = SimpleNamespace(kernel=object(), display_pub=publisher, starting_dir=".")
    session = Session(kernel, OpenRouterMagics())

    session.say("plain", "**rich**")
    session.say("plain")

    assert [sorted(one["data"]) for one in published] == [["text/markdown", "text/plain"], ["text/plain"]]
    assert all(one["metadata"]["or_cache_magic"]["role"] == "note" for one in published)
