"""Replies to an answer, found in the store and asked again."""

from __future__ import annotations

import io
import random
import sqlite3
from contextlib import closing

import pytest
from PIL import Image

from or_cache_magic.cache.replies import Asked, ask_again, conversation, outdated, replies_to
from or_cache_magic.core.key import request_key
from or_cache_magic.core.settings import Ask
from or_cache_magic.simulator import Scenario


def ask_of(cache, answer) -> Ask:
    """The ask that gave an answer."""
    return cache.prepare(answer.request.body["messages"], {})


def now(answer) -> Asked:
    """An answer as one that can be replied to."""
    return Asked(answer.key, answer.request, answer.outcome.answer)


@pytest.fixture
def says(sim):
    """``says(text)`` is what the model answers next."""
    return lambda text: sim.script(Scenario(text=text))


def test_replies__are_one_turn_however_often_it_was_asked(cache, says, sim):
    """Replies to three answers of one cell that say the same are asked again once."""
    for text in ("Red.", "Blue.", "Teal."):
        says(text)
        first = cache.ask("A colour?", mode="refresh")
        first.reply("Its opposite?").reply("And of that?")
    (turn,) = replies_to(cache.store, ask_of(cache, first))
    assert [t.own[0]["content"] for t in turn.all()] == ["Its opposite?", "And of that?"]
    assert outdated(cache, [turn], now(first), cache.settings) == []
    assert len(outdated(cache, [turn], None, cache.settings)) == 2

    sent = sim.completion_count
    says("Pink.")
    changed = cache.ask("A colour?", mode="refresh")
    assert len(outdated(cache, [turn], now(changed), cache.settings)) == 2
    came = list(ask_again(cache, [turn], now(changed), cache.settings))
    assert [(one.bought, one.cached) for one in came] == [(1, 0), (1, 0)]
    assert sim.completion_count == sent + 3
    assert sum(one.paid.usd for one in came) > 0
    assert changed.reply("Its opposite?").reply("And of that?").cached


def test_replies__that_differ_are_turns_of_their_own(cache):
    """In their words, their options or their sample."""
    first = cache.ask("A colour?")
    for options in ({}, {"max_tokens": 9}, {"sample": 1}, {"model": "openai/gpt-4o"}, {"system": "Be kind."}):
        first.reply("Its opposite?", **options)
    first.reply("Its opposite!")
    assert len(replies_to(cache.store, ask_of(cache, first))) == 6


def test_replies__of_another_api_are_left_out(cache, open_cache, sim, folder):
    """Nothing in a file decides where the key is sent."""
    first = cache.ask("A colour?")
    first.reply("Its opposite?")
    ask = ask_of(cache, first)
    assert len(replies_to(cache.store, ask)) == 1
    elsewhere = ask._replace(settings=ask.settings._replace(base_url="http://127.0.0.1:9/api/v1"))
    assert replies_to(cache.store, elsewhere) == ()


def test_replies__in_a_circle_end(cache, folder):
    """As a stranger's file may link them: each is listed once."""
    first = cache.ask("A colour?")
    second = first.reply("Its opposite?")
    third = second.reply("And of that?")
    cache.flush()
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        (row_id,) = connection.execute("SELECT rowid FROM Cache WHERE key = ?", (first.key,)).fetchone()
        connection.execute("INSERT INTO or_reply VALUES (?, ?)", (row_id, bytes.fromhex(third.key)))
    turns = replies_to(cache.store, ask_of(cache, first))
    assert [len(list(turn.all())) for turn in turns] == [2]
    assert sorted(line.key for line in conversation(cache.store, second.key)) == sorted(
        answer.key for answer in (first, second, third)
    )


def test_replies__linked_to_what_they_do_not_continue_are_left_out(cache, folder):
    """What has no answer where the parent's stood is no reply to it."""
    first, other = cache.ask("A colour?"), cache.ask("A metal?")
    first.reply("Its opposite?")
    cache.flush()
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        (row_id,) = connection.execute("SELECT rowid FROM Cache WHERE key = ?", (other.key,)).fetchone()
        connection.execute("INSERT INTO or_reply VALUES (?, ?)", (row_id, bytes.fromhex(first.key)))
    assert len(replies_to(cache.store, ask_of(cache, first))) == 1


def test_ask_again__tells_of_an_answer_that_cannot_be_replied_to_so(cache, sim, says):
    """Where the new one waits for results of tools, there is none to give."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    first = cache.ask("A colour?")
    first.reply("Its opposite?").reply("And of that?")
    turns = replies_to(cache.store, ask_of(cache, first))
    (choice,) = first.outcome.answer.choices
    asks = choice._replace(message={"role": "assistant", "content": None, "tool_calls": [call]})
    changed = now(first)._replace(answer=first.outcome.answer._replace(choices=(asks,)))
    assert len(outdated(cache, turns, changed, cache.settings)) == 2
    (came,) = ask_again(cache, turns, changed, cache.settings)
    assert "waits for results of tools" in came.failures[0]
    assert sim.completion_count == 3


def test_ask_again__asks_what_a_reply_by_hand_asks(cache, says):
    """With reasoning that goes back, an own system prompt, options and messages of its own."""
    model = "anthropic/claude-sonnet-4.6"
    first = cache.ask("A colour?", model=model, reasoning={"effort": "low"}, system="Be terse.")
    asked = [
        ("Its opposite?", {"system": "Be kind.", "max_tokens": 50}),
        ([{"role": "user", "content": "One"}, {"role": "user", "content": "two?"}], {"tag": "t"}),
        ("Its like?", {"model": "openai/gpt-4o"}),
    ]
    for prompt, options in asked:
        first.reply(prompt, **options)
    says("Teal.")
    changed = cache.ask(
        "A colour?", model=model, reasoning={"effort": "low"}, system="Be terse.", mode="refresh"
    )
    ask = Ask(request_key(changed.request), changed.request, ask_of(cache, first).policy, cache.settings)
    turns = replies_to(cache.store, ask)
    assert [one.bought for one in ask_again(cache, turns, now(changed), cache.settings)] == [1, 1, 1]
    assert all(changed.reply(prompt, **options).cached for prompt, options in asked)
    assert len(cache.entries(tag="t")) == 2


def test_conversation__says_what_goes_on_from_an_earlier_answer(cache, says):
    """By what it sent; an answer alone is no conversation, one whose parent is gone says so."""
    first = cache.ask("A colour?")
    second = first.reply("Its opposite?")
    third = second.reply("And of that?")
    assert [(line.depth, line.key, line.earlier) for line in conversation(cache.store, third.key)] == [
        (0, first.key, False),
        (1, second.key, False),
        (2, third.key, False),
    ]
    says("Teal.")
    newer = cache.ask("A colour?", mode="refresh").reply("Its opposite?")
    lines = conversation(cache.store, first.key)
    assert [(line.depth, line.key, line.earlier) for line in lines] == [
        (0, first.key, False),
        (1, second.key, True),
        (2, third.key, False),
        (1, newer.key, False),
    ]
    cache.purge(first.key)
    assert [line.row is None for line in conversation(cache.store, newer.key)] == [True, False]
    assert conversation(cache.store, cache.ask("Alone?").key) == []


def test_ask_again__has_what_was_attached_to_the_conversation(open_cache, sim, says):
    """Large media is stored apart: it is in the request again that goes on from a new answer."""
    cache = open_cache(sim)
    file = io.BytesIO()
    Image.frombytes("RGB", (80, 80), random.Random(1).randbytes(3 * 80 * 80)).save(file, "png")
    picture = file.getvalue()
    first = cache.ask("What is this?", attach=[picture])
    first.reply("And this?", attach=[picture])
    cache.close()

    again = open_cache(sim)
    says("A square.")
    changed = again.ask("What is this?", attach=[picture], mode="refresh")
    turns = replies_to(again.store, ask_of(again, changed))
    assert [one.bought for one in ask_again(again, turns, now(changed), again.settings)] == [1]
    sent = [row.body["messages"] for row in sim.requests if row.is_completion]
    assert sent[-1][0] == sent[0][0]
    assert sent[-1][2] == sent[1][2]
    reply = changed.reply("And this?", attach=[picture])
    assert reply.cached
    assert [one.kind for one in again.store.entry(reply.key).attached] == ["PNG"]
