"""Pinning: which of several answers to one request reruns give, and which may be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Scenario, scenario

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def told(cache, sim, clock):
    """Asks again and again: each answer replaces the one before; all of them, the last one served."""

    def tell(*texts: str):
        answers = []
        for text in texts:
            clock.now_s += 1
            sim.script(Scenario(text=text), times=1)
            answers.append(cache.ask("Name a colour.", model=MODEL, mode="refresh"))
        return answers

    return tell


def kept(cache, key: str) -> dict[int, tuple[str, str]]:
    """The earlier answers by their number: what each says, and why it is not served."""
    return {one.number: (one.answer.text, one.reason) for one in cache.store.unserved(key)}


def ask(cache, **options):
    return cache.ask("Name a colour.", model=MODEL, **options)


def test_pin__reruns_give_the_chosen_one(cache, told, sim):
    """The two change places; hits, cost of the ledger and calls stay as they are, and nothing expires."""
    red, _green, _blue = told("red", "green", "blue")
    assert ask(cache).cached
    before, spent = cache.entries().iloc[0], cache.stats().iloc[0]
    assert kept(cache, red.key) == {1: ("red", "replaced"), 2: ("green", "replaced")}

    assert cache.pin(red.key[:10], 1) == (red.key, 3)

    assert kept(cache, red.key) == {2: ("green", "replaced"), 3: ("blue", "replaced by a pinned answer")}
    after = cache.entries().iloc[0]
    assert (
        (after["hits"], after["saved_usd"])
        == (before["hits"], before["saved_usd"])
        == (1, before["saved_usd"])
    )
    assert cache.stats().iloc[0].equals(spent)
    answer = ask(cache)
    assert (answer, answer.cached, answer.outcome.answer) == ("red", True, red.outcome.answer)
    assert sim.completion_count == 3
    assert cache.pin(f"{red.key[:10]}:2") == (red.key, 1)
    assert ask(cache) == "green"
    assert len(cache.entries()) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_pin__again_changes_nothing(cache, told, clock, number):
    """A notebook with a pin in it gives the same answer each time that it is run, whichever was chosen."""
    texts = ["red", "green", "blue"]
    key = told(*texts)[0].key
    for run in range(4):
        clock.now_s += 1
        before = cache.pin(key, number)
        assert before == (key, 3 if run == 0 else number)
        assert ask(cache) == texts[number - 1]
        others = {at: text for at, text in enumerate(texts, 1) if at != number}
        assert {at: text for at, (text, _) in kept(cache, key).items()} == others


def test_pin__numbers_hold_when_the_same_is_bought_again(cache, told):
    """A refresh that gives what is pinned leaves it pinned, under its number; so does one that says the same."""
    key = told("red", "green")[0].key
    cache.pin(key, 1)
    told("red")
    assert cache.pin(key, 1) == (key, 1)
    assert (ask(cache), kept(cache, key)[2][0]) == ("red", "green")
    told("blue", "red")
    assert cache.pin(key, 1) == (key, 1)
    assert sorted(kept(cache, key)) == [1, 2, 3]


def test_pin__the_one_that_is_given_does_not_expire(cache, sim, clock):
    """It changes no answer, and is given for good."""
    key = ask(cache, ttl=60).key
    assert cache.pin(key, 1) == (key, 1)
    clock.now_s += 1e6
    assert ask(cache).cached


def test_pin__other_processes_have_it_too(cache, told, sim):
    """Another process gives the pinned one and lists the history; what it pins is given here."""
    red, _green = told("red", "green")
    assert ask(cache) == "green"
    cache.pin(red.key, 1)
    program = f"""
from or_cache_magic import open_cache
with open_cache({str(cache.directory)!r}) as cache:
    answer = cache.ask("Name a colour.", model={MODEL!r}, mode="offline")
    print(answer, [(one.number, one.answer.text) for one in cache.store.unserved(answer.key)])
    cache.pin(answer.key, 2)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OPENROUTER_BASE_URL": sim.base_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.strip() == "red [(2, 'green')]"
    assert ask(cache) == "green"
    assert kept(cache, red.key) == {1: ("red", "replaced by a pinned answer")}


def test_pin__refresh_says_that_it_replaces_a_pinned_one(cache, told, sim):
    """Its receipt does, unless the new answer is the same; the pinned one is kept as history."""
    red, _green = told("red", "green")
    cache.pin(red.key, 1)
    assert cache.store.is_pinned(red.key)
    (same,) = told("red")
    assert same.outcome.notes == ()
    assert cache.store.is_pinned(red.key)
    (blue,) = told("blue")
    assert any("replaces a pinned answer" in note for note in blue.outcome.notes)
    assert kept(cache, red.key)[1] == ("red", "replaced, though it was pinned")
    assert not cache.store.is_pinned(red.key)
    (grey,) = told("grey")
    assert grey.outcome.notes == ()


def test_pin__does_not_expire(tmp_path, sim, monkeypatch):
    """A pinned answer is given for good, also where both had a lifetime."""
    monkeypatch.setenv("OPENROUTER_BASE_URL", sim.base_url)
    monkeypatch.setenv("OPENROUTER_API_KEY", sim.api_key)
    now = [1_700_000_000.0]
    with CompletionCache(tmp_path / "cache", clock=lambda: now[0]) as cache:
        for text in ("red", "green"):
            now[0] += 1
            sim.script(Scenario(text=text), times=1)
            answer = ask(cache, ttl=60, mode="refresh")
        cache.pin(answer.key, 1)
        now[0] += 1e6
        assert ask(cache) == "red"
        assert ask(cache).cached


def test_pin__only_what_may_be_served(cache, told, sim, clock):
    """A partial and a filtered answer are refused with why, and change nothing."""
    red, _green = told("red", "green")
    clock.now_s += 1
    sim.script(scenario("content_filter"), times=1)
    ask(cache, mode="refresh")
    assert next(reason for _, reason in kept(cache, red.key).values()).startswith("the answer was filtered")
    before = kept(cache, red.key)
    with pytest.raises(OptionError, match="may not be served: the answer was filtered"):
        cache.pin(red.key, 3)
    assert kept(cache, red.key) == before
    assert ask(cache) == "green"


def test_pin__not_what_was_set_aside_for_a_doubt(cache, told):
    """What was wrong with a reply that reads as whole is kept as the reason alone, and holds."""
    red, _green = told("red", "green")
    (old,) = cache.store.unserved(red.key)
    doubted = old.answer._replace(created_s=cache.clock() + 1)
    cache.store.keep_unserved(red.outcome.key, red.request, doubted, "a line was garbled", cache.clock())
    with pytest.raises(OptionError, match="may not be served: a line was garbled"):
        cache.pin(red.key, 3)


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "has 1 other answer; nothing"), (0, "has no answer 0"), (7, "has no answer 7")],
)
def test_pin__says_which_there_are(cache, told, number, said):
    """Without a number, or with another one, what may be pinned is named."""
    red, _green = told("red", "green")
    with pytest.raises(OptionError, match=said) as refused:
        cache.pin(red.key, number)
    assert f"{red.key[:10]}:1" in refused.value.hint


def test_pin__refuses_what_is_not_there(cache, told):
    """No entry, no other answer, and what is no key."""
    with pytest.raises(OptionError, match="no entry begins with 1234"):
        cache.pin("1234", 1)
    (red,) = told("red")
    with pytest.raises(OptionError, match="no other answer"):
        cache.pin(red.key, 2)
    with pytest.raises(OptionError, match="not the beginning of a key"):
        cache.pin("not a key")


def test_pin__keeps_the_conversation(cache, sim, clock):
    """The replies to an entry, and whose reply it is, stay what they are."""
    first = cache.ask("hi", model=MODEL)
    reply = first.reply("and?")
    clock.now_s += 1
    sim.script(Scenario(text="another"), times=1)
    first.reply("and?", mode="refresh")
    cache.pin(reply.key, 1)
    assert first.reply("and?") == reply
    assert cache.store.replies.parent(reply.key) == first.key
