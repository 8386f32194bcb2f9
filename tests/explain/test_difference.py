"""The difference of two requests: by field, by word, and harmless where it is shown."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import Request
from or_cache_magic.explain.difference import GONE, NEW, SAME, Change, changes, words_changed

USER = {"role": "user", "content": "What is a median?"}


def asked(*messages, **fields):
    return Request(
        {"model": "openai/gpt-4o-mini", "messages": list(messages or (USER,)), "temperature": 0, **fields}
    )


def told(before, after):
    return [change.text for change in changes(before, after)]


def test_changes__names_each_field():
    """Model, system prompt, prompt, parameters, sample: each with what was and what is."""
    before = asked({"role": "system", "content": "Be kind."}, USER, top_p=0.5)
    after = asked(
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a mode?"}, seed=7
    )
    after = after._replace(body={**after.body, "model": "openai/gpt-4o", "temperature": 0.7}, sample=2)
    assert told(before, after) == [
        "model: [-openai/gpt-4o-mini-]{+openai/gpt-4o+}",
        "system: Be [-kind-]{+brief+}.",
        "prompt: What is a [-median-]{+mode+}?",
        "temperature: [-0-]{+0.7+}",
        "top_p: [-0.5-]{+not set+}",
        "seed: [-not set-]{+7+}",
        "sample: [-0-]{+2+}",
    ]


def test_changes__names_messages_by_their_place():
    """What is added to a conversation, and what is not in the key, which is no difference."""
    answer = {"role": "assistant", "content": "The middle."}
    assert told(asked(USER), asked(USER, answer, {"role": "user", "content": "Why?"}, user="me")) == [
        "message 2 (assistant): [-not there-]{+The middle.+}",
        "prompt: [-not there-]{+Why?+}",
    ]
    assert told(asked(), asked()) == []
    assert told(asked(), asked()._replace(stream=False)) == ["stream: [-True-]{+False+}"]


def test_changes__shows_white_space():
    """A space, a tab or a line's end that alone differs is seen."""
    spaced = {"role": "user", "content": "What\tis a  median?\n"}
    assert told(asked(), asked(spaced)) == ["prompt: What[-·-]{+→+}is a[-·-]{+··+}median?{+↵+}"]


def test_changes__cuts_what_is_the_same():
    """Around a change in a long text its surroundings are shown, and no more."""
    words = [f"word{at}" for at in range(500)]
    other = [*words[:250], "changed", *words[251:]]
    (line,) = told(
        asked({"role": "user", "content": " ".join(words)}),
        asked({"role": "user", "content": " ".join(other)}),
    )
    assert "[-word250-]{+changed+}" in line
    assert line.startswith("prompt: … ")
    assert len(line) < 150


def test_changes__of_parts():
    """Content in parts is compared by its texts; other parts as JSON."""
    parts = [{"type": "text", "text": "What is a mode?"}]
    assert told(asked(), asked({"role": "user", "content": parts})) == [
        "prompt: What is a [-median-]{+mode+}?"
    ]


@given(st.text(), st.text())
def test_words_changed__gives_both_texts_back(before, after):
    """The pieces that are the same and gone are the one text, those the same and new the other."""
    pieces = words_changed(before, after)
    assert "".join(text for kind, text in pieces if kind in (SAME, GONE)) == before
    assert "".join(text for kind, text in pieces if kind in (SAME, NEW)) == after


def test_words_changed__compares_large_texts_by_line():
    """Too many different words to compare each: lines that are the same stay so; and the ends always do."""
    one = "".join(f"a{at} b{at} c{at}\n" for at in range(1500))
    other = one.replace("a", "d").replace("d7 b7 c7\n", "a7 b7 c7\n")
    pieces = words_changed(one, other)
    assert (SAME, "a7 b7 c7\n") in pieces
    whole = words_changed("x\n" * 5000 + "end", "y\n" * 5000 + "end")
    assert [kind for kind, _ in whole] == [GONE, NEW, SAME]


EVIL = (
    "<img src=x onerror=alert(1)>",
    "$\\alert(1)$",
    "\x1b[2J\x1b]0;t\x07",
    "\u202egnp.exe",
    "`x` **b** [a](javascript:b)",
    "</ins><script>1</script>",
)


@pytest.mark.parametrize("evil", EVIL)
def test_change__shows_foreign_text_harmlessly(evil):
    """No tag, control character or mathematics of a prompt gets through; what is seen is the text."""
    for change in (*changes(asked(), asked({"role": "user", "content": evil})), Change(evil, [(NEW, evil)])):
        ours = re.sub(r"</?(?:b|del|ins|span)(?: style=\"[^\"<>]*\")?>", "", change.html)
        assert not re.search(r"[<>$\\]", ours)
        assert "\x1b" not in change.text
        assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", change.text + html.unescape(change.html))
        assert not re.search(r"\x1b(?!\[31;9m|\[32m|\[0m)", change.ansi)


def test_change__is_in_colour():
    """Red and struck out, and green; by colour and by form, for those who don't see colours."""
    (change,) = changes(asked(), asked(temperature=1))
    assert change.ansi == "temperature: \x1b[31;9m0\x1b[0m\x1b[32m1\x1b[0m"
    assert re.fullmatch(r"<b>temperature</b>: <del style=[^>]*>0</del><ins style=[^>]*>1</ins>", change.html)
