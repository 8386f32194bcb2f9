"""Which stored request is nearest to one that missed."""

from __future__ import annotations

import random

import pytest

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Answer, Choice, Entry, Request
from or_cache_magic.explain.nearest import SKETCH_BYTES, nearest, sketch
from or_cache_magic.storage.database import open_database
from or_cache_magic.storage.entries import DiskStore

MODEL = "openai/gpt-4o-mini"


def asked(prompt="What is a median?", *, system=None, model=MODEL, **fields):
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    return Request({"model": model, "messages": messages, "temperature": 0, **fields})


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "cache")
    yield database
    database.close()


@pytest.fixture
def keep(database):
    """``keep(request, …)`` stores an answer to each, a second apart, and returns their keys."""
    store, at = DiskStore(database), iter(range(10_000))

    def put(*requests):
        keys = [request_key(request) for request in requests]
        for key, request in zip(keys, requests, strict=True):
            answer = Answer((Choice({"role": "assistant", "content": "Yes."}, "stop"),), MODEL)
            store.put(Entry(key, answer, 1.7e9 + next(at)), request)
        return [key.digest for key in keys]

    return put


def rows(count):
    """Rows of one template, each with words of its own."""
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghijklmno", k=chance.randint(3, 8))) for _ in range(500)]
    return [
        f"Is this positive? Answer yes or no.\n\n{' '.join(chance.choices(words, k=15))}\n\nBe brief."
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    "edit",
    [
        lambda prompt: asked(prompt.replace(prompt.split()[9], "otherwise")),
        lambda prompt: asked(prompt.replace(" ", "  ")),
        lambda prompt: asked(prompt, temperature=0.5),
        lambda prompt: asked(prompt, model="openai/gpt-4o"),
        lambda prompt: asked(prompt, system="Be kind."),
        lambda prompt: asked(f"{prompt} 17"),
    ],
    ids=["word", "white space", "parameter", "model", "system", "number"],
)
def test_nearest__finds_what_was_edited_among_rows_of_one_template(database, keep, edit):
    """Whatever was edited, the row with the same words is found among 300 that share the template."""
    prompts = rows(300)
    keys = keep(*map(asked, prompts))
    for at in (0, 123, 299):
        found = nearest(database, edit(prompts[at]))
        assert found is not None
        assert found.key == keys[at]


def test_nearest__prefers_other_parameters_to_another_prompt(database, keep):
    """The same messages come before a prompt that is only similar."""
    same, _similar = keep(asked(max_tokens=5), asked("What is a mean?"))
    assert nearest(database, asked()).key == same


def test_nearest__of_equals_is_the_last(database, keep):
    """Two that differ alike: the one that was stored last."""
    _first, last = keep(asked("What is 1 and 1?"), asked("What is 2 and 1?"))
    assert nearest(database, asked("What is 3 and 1?")).key == last


def test_nearest__is_neither_itself_nor_later(database, keep):
    """The entry of the request's own key isn't near it, nor what was stored after it was asked."""
    own, _later = keep(asked(), asked("What is a median, then?"))
    assert nearest(database, asked(), own=own, before_s=1.7e9) is None
    assert nearest(database, asked("Who?"), own=own) is None


def test_nearest__takes_what_the_same_cell_asked_first(database, keep):
    """What the cell asked before comes first, though another is nearer; but not where nothing is in common."""
    cell, near, _ = keep(
        asked("Tell me of the median, please."), asked("What is a mean?"), asked("Pourquoi?")
    )
    found = nearest(database, asked(), cell=cell)
    assert (found.key, found.same_cell) == (cell, True)
    assert (
        nearest(database, asked("What is a mode?"), cell=request_key(asked("Pourquoi?")).digest).key == near
    )
    assert nearest(database, asked("What is a mode?"), cell="0" * 64).key == near


def test_nearest__forgets_what_was_purged(database, keep):
    """A purged entry is not found any more, and one that takes its row's place is."""
    store = DiskStore(database)
    keep(*map(asked, rows(20)))
    assert nearest(database, asked("What is a mode?")) is None
    from or_cache_magic.core.rows import EntryFilter

    (key,) = keep(asked())
    assert nearest(database, asked("What is a mode?")).key == key
    store.purge(EntryFilter(keys=(key,)))
    assert nearest(database, asked("What is a mode?")) is None
    (key,) = keep(asked("What is a mean?"))
    assert nearest(database, asked("What is a mode?")).key == key
    assert database.select("SELECT page, last, length(sketches) FROM or_sketch") == [(0, 21, 21 * 96)]


def test_nearest__keeps_pages_up_to_date(database, keep):
    """Over several pages, whatever comes and goes in between, each stored request is found, and no other."""
    from or_cache_magic.core.rows import EntryFilter

    store, prompts = DiskStore(database), rows(700)
    keys = keep(*map(asked, prompts[:600]))

    def found(at):
        near = nearest(database, asked(f"{prompts[at]} 17"))
        return (
            None if near is None or near.request.body["messages"][0]["content"] != prompts[at] else near.key
        )

    assert [found(at) for at in (0, 255, 256, 599)] == [keys[at] for at in (0, 255, 256, 599)]
    store.purge(EntryFilter(keys=tuple(keys[300:])))
    assert [found(at) for at in (255, 299, 300, 599)] == [keys[255], keys[299], None, None]
    again = keep(*map(asked, prompts[400:]))
    assert [found(at) for at in (299, 300, 400, 500, 699)] == [
        keys[299],
        None,
        *(again[at] for at in (0, 100, 299)),
    ]
    kept = database.select("SELECT sum(length(sketches)) / 96 FROM or_sketch")
    assert kept == [(600,)]


def test_nearest__leaves_media_out(database, keep):
    """An image is no text: the same prompt with another image is near, and its bytes aren't read."""
    import base64

    def picture(byte):
        url = f"data:image/png;base64,{base64.b64encode(bytes([byte]) * 9000).decode()}"
        parts = [{"type": "text", "text": "What is in it?"}, {"type": "image_url", "image_url": {"url": url}}]
        return Request({"model": MODEL, "messages": [{"role": "user", "content": parts}]})

    (key,) = keep(picture(1))
    assert nearest(database, picture(2)).key == key


def test_nearest__passes_over_what_is_damaged(database, keep):
    """A damaged request hides no other, and a foreign sketch of another size is left out."""
    _, key = keep(asked("What is a mode?"), asked("What is a mean?"))
    with database.transaction() as connection:
        connection.execute("UPDATE or_request SET body = x'00' WHERE id = 1")
    assert nearest(database, asked()).key == key
    with database.transaction() as connection:
        connection.execute("UPDATE or_sketch SET sketches = x'01'")
    assert nearest(database, asked()).key == key


def test_nearest__of_an_empty_cache_is_none(database):
    """Where nothing is stored nothing is near, and no file is made."""
    assert nearest(database, asked()) is None
    assert not database.exists()


def test_nearest__knows_words_where_no_spaces_are(database, keep):
    """A character that is changed leaves a Chinese or Japanese sentence near."""
    (key,) = keep(asked("什么是中位数?请用一句话回答。"))
    assert nearest(database, asked("什么是平均数?请用一句话回答。")).key == key


@pytest.mark.parametrize("prompt", ["", "x", "\ud800", "ä" * 100_000])
def test_sketch__is_of_one_size(prompt):
    """Whatever the prompt is."""
    assert len(sketch(asked(prompt).body)) == SKETCH_BYTES
    assert len(sketch({})) == SKETCH_BYTES
