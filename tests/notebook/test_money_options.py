"""``--dry-run``, ``--max-cost``, ``--prompt-cache`` and the budgets of a session, as a cell shows them."""

from __future__ import annotations

import re

import pytest

SONNET = "anthropic/claude-sonnet-4.6"
LAW = "No animal shall sleep in a bed with sheets. " * 300


def test_dry_run__tells_the_range_and_sends_no_prompt(nb):
    """Where it would ask it says why, what that may cost, and by the prices of which day."""
    out = nb.run("%%openrouter --dry-run\nWhat is a median?")

    assert re.fullmatch(
        r"would ask openai/gpt-4o-mini · key [0-9a-f]{10} · not stored yet"
        r" · \$0\.0+\d+ to \$0\.0025 \(≈ \d+ → at most 4,096 tokens, prices of \d{4}-\d\d-\d\d\) · nothing sent\n",
        out,
    )
    assert nb.sent == []


def test_dry_run__a_hit_has_the_price_it_was_bought_for(nb):
    """What is stored costs nothing, so no prices are looked up."""
    nb.run("%%openrouter\nWhat is a median?")
    nb.sim.clear()

    assert "would hit openai/gpt-4o-mini" in nb.run("%%openrouter --dry-run\nWhat is a median?")
    assert not nb.sim.requests


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("openrouter/auto", "openrouter/auto"),
        ('-p plugins=\'[{"id": "web"}]\'', "the plugin web"),
        ("@preset/mine", "a preset decides"),
    ],
)
def test_dry_run__says_why_it_can_not_tell(nb, line: str, why: str):
    """A price that is not known is not guessed."""
    out = nb.run(f"%%openrouter {line} --dry-run\nWhat is a median?")

    assert "cost unknown: " in out
    assert why in out.partition("cost unknown: ")[2]


def test_max_cost__refuses_in_two_lines(nb):
    """What may cost more is not sent; with fewer tokens to answer it is, and its hit is never refused."""
    out = nb.fails("%%openrouter --max-cost 0.0001\nWhat is a median?")

    assert out.splitlines() == [
        "BudgetError: this call may cost up to $0.0025: over the $0.00010 of --max-cost (nothing was sent)",
        "  lower --max-tokens, which bounds the answer, or raise the limit",
    ]
    assert nb.sent == []
    nb.run("%%openrouter --max-cost 0.0001 --max-tokens 100\nWhat is a median?")
    nb.run("%%openrouter --max-cost 0 --max-tokens 100\nWhat is a median?")
    assert len(nb.sent) == 1


@pytest.mark.parametrize("how", ["environment", "setting"])
def test_session_budget__from_the_environment_or_a_setting(nb, monkeypatch, how: str):
    """A session's limit refuses what may go over it, and the status card tells what is spent of it."""
    if how == "environment":
        monkeypatch.setenv("OR_CACHE_MAX_COST", "0.0026")
    else:
        nb.run("settings = %openrouter_config max_cost_usd=0.0026")
    nb.run("%%openrouter\nWhat is a median?")
    for number in range(20):
        nb.run(f"%%openrouter --max-tokens 60\nWhat is a mean? {number}")
    out = nb.fails("%%openrouter\nWhat is a mode?")

    assert "of this session's max_cost_usd" in out
    assert len(nb.sent) == 21
    assert re.search(r"spent: +\$0\.000\d+ of \$0\.0026 this session", nb.run("%openrouter"))


def test_prompt_cache__the_receipt_tells_what_it_did_to_the_price(nb):
    """The first call pays for the writing, the next one reads for a tenth; both are calls, and said to be."""
    nb["law"] = LAW
    first = nb.run(f"%%openrouter {SONNET} -s law --prompt-cache\nWhat is forbidden?")
    second = nb.run(f"%%openrouter {SONNET} -s law --prompt-cache\nWhat is allowed?")
    hit = nb.run(f"%%openrouter {SONNET} -s law\nWhat is forbidden?")

    assert "prompt caching: wrote 3,001 tokens, $0.0023 more" in first
    assert "prompt caching: read 3,001 tokens, $0.0081 less" in second
    assert "cached just now" in hit
    assert "prompt caching" not in hit
    assert len(nb.sent) == 2
    assert nb.sent[0]["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert re.search(r"prompt_cache_saved_usd +\$0\.0059", nb.run("%openrouter_stats"))


def test_prompt_cache__the_receipt_says_why_nothing_was_marked(nb):
    """A short prompt, and a model that caches by itself, are asked as they are."""
    short = nb.run(f"%%openrouter {SONNET} -s 'Be brief.' --prompt-cache\nHi")
    automatic = nb.run("%%openrouter --prompt-cache\nHi")

    assert re.search(
        r"prompt caching: about \d+ tokens stand before the question; .* keeps 1,024 or more", short
    )
    assert "prompt caching: automatic at this provider" in automatic
    assert "cache_control" not in str(nb.sent)
