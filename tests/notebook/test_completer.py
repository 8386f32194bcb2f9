"""Completion as IPython's own completer gives it, and what it must keep out of."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter

from or_cache_magic.notebook.completer import complete

MODELS = (
    "fast",
    "openai/gpt-4o",
    "openai/gpt-4o-mini",
    "anthropic/claude-sonnet-4.6",
    "meta-llama/llama-3.3-70b-instruct:free",
    "@preset/mine",
)
SETTINGS = ("mode", "model", "ttl")


def at_end(text: str) -> tuple[str, list[str]]:
    """What is offered at the end of `text`."""
    lines = text.split("\n")
    return complete(text, len(lines) - 1, len(lines[-1]), models=lambda: MODELS, settings=lambda: SETTINGS)


@pytest.fixture
def offered(bare):
    """What the shell offers at the end of a text, as whole lines, from every one of its matchers."""
    bare.run("%load_ext or_cache_magic")
    bare.run("%openrouter_config aliases=fast:openai/gpt-4o model=@preset/mine")
    for model in MODELS[1:-1]:
        bare.run(f"answer = %openrouter -m {model} hi")
    shell = bare.shell
    shell.Completer.use_jedi = False

    def ask(text: str) -> list[str]:
        with provisionalcompleter():
            found = list(shell.Completer.completions(text, len(text)))
        return [text[: c.start] + c.text + text[c.end :] for c in found]

    return ask


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("%%openrouter openai/", ["%%openrouter openai/gpt-4o", "%%openrouter openai/gpt-4o-mini"]),
        ("%%openrouter openai/gpt-4o-", ["%%openrouter openai/gpt-4o-mini"]),
        ("%%openrouter -t 0 anth", ["%%openrouter -t 0 anthropic/claude-sonnet-4.6"]),
        (
            "%%openrouter meta-llama/llama-3.3-70b-instruct:fr",
            ["%%openrouter meta-llama/llama-3.3-70b-instruct:free"],
        ),
        ("%%openrouter @pre", ["%%openrouter @preset/mine"]),
        ("%%openrouter --mo", ["%%openrouter --model"]),
        ("%%openrouter -f ma", ["%%openrouter -f markdown"]),
        ("%%openrouter --format=ma", ["%%openrouter --format=markdown"]),
        ("%openrouter -m openai/gpt-4o-", ["%openrouter -m openai/gpt-4o-mini"]),
        ("x = %openrouter --model=fa", ["x = %openrouter --model=fast"]),
        ("x = 1\n    %openrouter --mod", ["x = 1\n    %openrouter --model"]),
        ("%openrouter_stats --by not", ["%openrouter_stats --by notebook"]),
        ("%openrouter_config mo", ["%openrouter_config model=", "%openrouter_config mode="]),
        ("%openrouter_purge --model anth", ["%openrouter_purge --model anthropic/claude-sonnet-4.6"]),
        ("\n\n%%openrouter fa", ["\n\n%%openrouter fast"]),
    ],
)
def test_shell__offers_exactly_these(offered, text: str, lines: list[str]):
    """IPython offers what is ours, whole, and nothing of its own beside it."""
    assert offered(text) == lines


@pytest.mark.parametrize(
    "text",
    [
        "%%openrouter fast\nopenai/",
        "%%openrouter fast\n--mo",
        "%%openrouter fast\n%openrouter --mo",
        "%%time\n%openrouter --mo",
        "%%openrouter fast\n%%openrouter --mo",
    ],
)
def test_shell__silent_in_a_body(offered, text: str):
    """In the body of a cell magic nothing of ours is offered."""
    assert not any("openai/gpt" in line or "--model" in line for line in offered(text))


@pytest.mark.parametrize(
    "text",
    [
        "%openrouter -m fast Tell me of op",
        "%openrouter -- --mo",
        "%%openrouter fast # --mo",
        "%%openrouter -o fa",
        "%%openrouter -s op",
        "%%openrouter --tag op",
        "print(openai/",
        "%%openrouterx op",
        "%other --mo",
        "# %openrouter --mo",
        "",
    ],
)
def test_complete__nothing_where_nothing_is_known(text: str):
    """In a prompt, a comment, a free text, or another's line, there is nothing to offer."""
    assert at_end(text)[1] == []


@pytest.mark.parametrize(
    ("text", "piece", "words"),
    [
        ("%openrouter -m fast,openai/", "openai/", ["openai/gpt-4o", "openai/gpt-4o-mini"]),
        ("%%openrouter --model=openai/gpt-4o,openai/", "openai/", ["openai/gpt-4o-mini"]),
        ("%%openrouter -m openai/gpt-4o,fa", "fa", ["fast"]),
        ("%%openrouter openai/gpt-4o,fa", "fa", ["fast"]),
        ("%%openrouter openai/gpt-4o fa", "fa", ["fast"]),
    ],
)
def test_complete__the_last_of_several_models(text: str, piece: str, words: list[str]):
    """Behind a comma the next is completed, of those that are not named yet."""
    assert at_end(text) == (piece, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%%openrouter fast -a ", ["bill.pdf", "pictures/"]),
        ("%%openrouter fast -a pi", ["pictures/"]),
        ("%%openrouter fast --attach=pictures/k", ["pictures/kettle.png"]),
        ("%openrouter -s @bi", ["@bill.pdf"]),
        ("%%openrouter fast --schema @", ["@bill.pdf", "@pictures/"]),
        ("%%openrouter fast --schema bi", []),
        ("%%openrouter @bi", ["@bill.pdf"]),
    ],
)
def test_complete__files_where_a_file_is_meant(text: str, words: list[str]):
    """Those of the folder; one with a space in its name would be two words."""
    there = ["bill.pdf", "pictures/", "pictures/kettle.png", "my bill.pdf"]

    def files(begin: str) -> list[str]:
        return [name for name in there if name.startswith(begin) and ("/" in begin or name[-5:] != "e.png")]

    assert complete(text, 0, len(text), models=list, settings=list, files=files)[1] == words


def test_shell__offers_models_of_the_list_that_is_kept(bare):
    """Those set and asked first, then all that are listed; without the network."""
    bare.run("%load_ext or_cache_magic")
    bare.run("%openrouter_config aliases=mine:openai/gpt-4o")
    bare.run("answer = %openrouter -m openai/gpt-4o-mini hi")
    assert at_end_of(bare, "%%openrouter perplexity/") == []
    bare.run("%openrouter_models")
    asked = len(bare.sim.requests)
    assert at_end_of(bare, "%%openrouter perplexity/") == ["perplexity/sonar"]
    assert at_end_of(bare, "%openrouter -m mi") == [
        "mine",
        "mistralai/mistral-small-3.2-24b-instruct",
        "mistralai/mistral-small-3.2-24b-instruct:free",
    ]
    assert len(bare.sim.requests) == asked


def at_end_of(notebook, text: str) -> list[str]:
    """What the shell offers at the end of a text."""
    notebook.shell.Completer.use_jedi = False
    with provisionalcompleter():
        return [c.text for c in notebook.shell.Completer.completions(text, len(text))]


def test_complete__an_empty_piece():
    """After the name come the models; after the model, every option; after an option, its values."""
    assert at_end("%%openrouter ") == ("", list(MODELS))
    assert {"--model", "--out", "--help"} <= set(at_end("%%openrouter fast ")[1])
    assert at_end("%%openrouter fast --ttl ")[1] == ["30m", "24h", "7d", "never"]
    assert at_end("%openrouter_stats ")[1] == ["--by", "--session", "--help"]


def test_complete__what_is_given_is_not_offered_again():
    """An option that is set, and what excludes it, are left out; a repeatable one stays."""
    options = at_end("%%openrouter fast --refresh --tag a -t 1 --")[1]

    assert "--tag" in options
    assert not {"--refresh", "--offline", "--no-cache", "--temperature"} & set(options)


def test_complete__text_behind_the_cursor_does_not_count():
    """Only what stands before the cursor is read."""
    found = complete("%%openrouter op --raw", 0, len("%%openrouter op"), models=lambda: MODELS, settings=list)

    assert found == ("op", ["openai/gpt-4o", "openai/gpt-4o-mini"])
