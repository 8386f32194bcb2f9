"""The setting ``similar`` and `--similar X` in cells: what the receipt says, and what is never served."""

from __future__ import annotations

import pytest

MODEL = "%%openrouter openai/gpt-4o-mini"


def said(nb, cell):
    return " ".join(nb.run(cell).split())


def test_similar__is_suggested_after_a_miss_where_the_setting_is_on(nb):
    """Off it says nothing; on, the call is made all the same, and the receipt says what was there."""
    nb.run(f"{MODEL}\nWhat is a median?")
    assert "similar" not in said(nb, f"{MODEL}\nWhat is a median")
    nb.run("%openrouter_config similar=lexical")
    assert "asked 0.90-similar just now: %openrouter_why" in said(nb, f"{MODEL}\nWhat's a median?")
    assert "--similar 0.9" in nb.run("%openrouter_why")
    assert "similar" not in said(nb, f"{MODEL}\nWhat is a mode?")
    assert "similar" not in said(nb, f"{MODEL} --refresh\nWhat is a median")
    assert len(nb.sent) == 5


@pytest.mark.parametrize("quiet", ["%openrouter_config receipt=off", ""])
def test_similar__is_never_served_in_silence(nb, quiet):
    """Where receipts are off, a line of its own says whose answer it is."""
    nb.run(quiet)
    nb.run(f"{MODEL}\nWhat is a median?")
    told = said(nb, f"{MODEL} --similar 0.8{'' if quiet else ' -q'}\nWhat is a median")
    assert told.startswith("NOT the same prompt: 0.96-similar by letters to ")
    assert len(nb.sent) == 1


@pytest.mark.parametrize("receipt", ["live", "stable"])
def test_similar__is_served_where_the_cell_says_so_and_the_receipt_says_it(nb, receipt):
    """On that cell alone, in every receipt: how alike, whose answer it is, and how to ask anew."""
    nb.run(f"%openrouter_config receipt={receipt}")
    nb.run(f"{MODEL} -o bought\nWhat is a median?")
    told = said(nb, f"{MODEL} --similar 0.8 -o served\nWhat is a median")
    assert (
        f"NOT the same prompt: 0.96-similar by letters to {nb['bought'].key[:10]} (What is a median?)" in told
    )
    assert "to ask this one: no --similar" in told
    served = nb["served"]
    assert (served, served.key, served.cached, served.saved_usd) == (nb["bought"], nb["bought"].key, True, 0)
    assert served.messages == nb["bought"].messages
    assert len(nb.sent) == 1
    assert "similar" not in said(nb, f"{MODEL}\nWhat is a median")
    assert len(nb.sent) == 2
    assert "similar" not in said(nb, f"{MODEL} --similar 0.8\nWhat is a median")
    assert len(nb.sent) == 2


def test_similar__asks_where_nothing_is(nb):
    """What differs in a number, or is less alike than X, is asked; the next run is a hit like any other."""
    nb.run(f"{MODEL}\nList 5 fruits.")
    assert "similar" not in said(nb, f"{MODEL} --similar 0.1\nList 6 fruits.")
    assert "similar" not in said(nb, f"{MODEL} --similar 1\nList 5 fruits")
    assert len(nb.sent) == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--similar 0", "above 0, up to 1"),
        ("--similar 1.5", "above 0, up to 1"),
        ("--similar yes", "above 0, up to 1"),
        ("--similar 0.9 --refresh", "--similar means nothing with --refresh"),
        ("--similar 0.9 --no-cache", "--similar means nothing with --no-cache"),
        ("--similar 0.9 -n 2", "--similar goes with one prompt and one model"),
        ("--similar 0.9 -m openai/gpt-4o", "--similar goes with one prompt and one model"),
    ],
)
def test_similar__is_refused_where_it_means_nothing(nb, line, problem):
    """Before anything is sent: X is a share, and goes with one prompt that the cache is looked up for."""
    assert problem in " ".join(nb.fails(f"{MODEL} {line}\nWhat is a median?").split())
    assert nb.sent == []


def test_similar__a_function_is_set_as_ipython_sets_traits(nb):
    """``%config OpenRouterMagics.similar_embed = f`` compares by the user's function."""
    nb["embed"] = lambda texts: [[1.0, 0.0]] * len(texts)
    nb.run("%openrouter_config similar=semantic")
    nb.run("%config OpenRouterMagics.similar_embed = embed")
    nb.run(f"{MODEL}\nWhat is a median?")
    assert "0.99-similar by vectors" in said(nb, f"{MODEL} --similar 0.9\nWhat's a median?")
    assert len(nb.sent) == 1
