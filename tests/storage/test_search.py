"""Searching texts: what is found is what contains them, whatever the case, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.core.records import Answer, Choice, Entry, RequestKey
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import StoreCorruptError
from or_cache_magic.storage import codec
from or_cache_magic.storage.listing import begins, has_text

DIGEST = "ab" * 32
FILLING = "It was the best of times, it was the worst of times. " * 200

# Letters that fold to other ones, to several, or to ASCII; what JSON escapes; and a long character.
ODD = st.sampled_from(
    [*'aAkKsSiIßẞﬁﬀſİıŉΣσςµμÅ\u212a\u0307é🎈"\\/\n\t\x07\x7f {}nu0', "ss", "fi", "\\n", "content"]  # noqa: RUF001
)
WORDS = st.lists(ODD, min_size=1, max_size=6).map("".join)
# Around the 500 characters of a head, and the 4096 bytes that are inflated at first.
PLACES = st.sampled_from([0, 3, 480, 495, 499, 500, 501, 520, 1500, 4080, 4090, 5000, 10_000])


@st.composite
def texts(draw):
    """A text with words in it at any place."""
    text = FILLING[: draw(PLACES)]
    for _ in range(draw(st.integers(0, 2))):
        text += draw(WORDS) + FILLING[: draw(PLACES)]
    return text


def blobs(prompt, answer, *, system="You like contents."):
    message = {"role": "assistant", "content": answer}
    body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
        "model": "m/kontent",
    }
    entry = Entry(RequestKey(DIGEST, b"{}"), Answer((Choice(message, "stop"),), "m/kontent"), 1.0)
    return codec.encode_entry(entry), codec.encode_request(DIGEST, body, last_prompt(body))


@given(prompt=texts(), answer=texts(), data=st.data())
def test_has_text__is_containing_when_folded(prompt, answer, data):
    """A text is found exactly when the whole prompt or answer contains it, both case-folded."""
    whole = data.draw(st.sampled_from([prompt, answer]))
    at = data.draw(st.integers(0, len(whole)))
    part = whole[at : at + data.draw(st.integers(1, 12))]
    text = data.draw(st.sampled_from([part, part.upper(), part.swapcase()]) | WORDS).casefold() or "x"

    found = has_text(DIGEST, *blobs(prompt, answer), text)

    assert found is (text in prompt.casefold() or text in answer.casefold())


@given(prompt=texts(), at=st.integers(0, 600), more=st.sampled_from(["", "x", "é"]))
def test_begins__is_beginning(prompt, at, more):
    """A prompt begins with each of its own beginnings, exactly."""
    _, body = blobs(prompt, "")

    assert begins(DIGEST, body, prompt[:at] + more) is prompt.startswith(prompt[:at] + more)


def test_begins__a_lone_surrogate_is_a_character_too():
    """What a listing can't show of a long prompt is no reason to purge it."""
    _, body = blobs("a\ud800b" + FILLING, "")

    assert begins(DIGEST, body, "a")
    assert not begins(DIGEST, body, "ab")


@pytest.mark.parametrize("content", [[{"type": "text", "text": FILLING + "Nadel"}], FILLING + "Nadel"])
@pytest.mark.parametrize("text", ["nadel", "ﬁnd"])
def test_has_text__in_parts(content, text):
    """An answer of content parts is searched whole, as one of text is; a prompt too."""
    expected = text == "nadel"

    assert has_text(DIGEST, *blobs("x", content), text) is expected
    assert has_text(DIGEST, *blobs(content, "x"), text) is expected


@pytest.mark.parametrize("text", ["system", "you like", "role", "m/kontent", "stop"])
@pytest.mark.parametrize("size", [10, 500, 2000])
def test_has_text__only_prompt_and_answer(size, text):
    """Neither the JSON's own words, nor the model, nor the system prompt are prompt or answer."""
    assert not has_text(DIGEST, *blobs(FILLING[:size], FILLING[:size]), text)


@given(data=st.data())
def test_has_text__what_is_damaged_contains_nothing(data):
    """A damaged text is not found by what it may have said; the sound one beside it is. Never an error."""
    value, body = blobs("needle in the prompt " + FILLING, "pin in the answer " + FILLING)
    damaged = bytearray(value)
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8

    assert not has_text(DIGEST, bytes(damaged), body, "pin in")
    assert has_text(DIGEST, bytes(damaged), body, "needle in")
    assert not has_text(DIGEST, body, bytes(damaged), "pin in")
    assert not begins(DIGEST, bytes(damaged), "pin in")


@pytest.mark.parametrize(
    "blob", [None, 5, "text", b"", b"\x01", b"\x02\0\0\0\0", b"\x02\0\0\0\0\xff\xff", b"\x09" * 20]
)
def test_has_text__what_is_no_blob(blob):
    """Whatever stands in the column, looking into it raises nothing."""
    value, body = blobs("prompt", "answer")

    assert not has_text(DIGEST, blob, blob, "x")
    assert not begins(DIGEST, blob, "x")
    assert has_text(DIGEST, blob, body, "prompt")
    assert has_text(DIGEST, value, blob, "answer")


@given(st.text(st.characters(), max_size=40).map(lambda text: text * 300), st.binary(max_size=30))
def test_parts__are_the_payload(text, skeleton):
    """The text and the rest of a blob of any size, however well it deflates."""
    blob = codec.encode_entry(Entry(RequestKey(DIGEST, skeleton), Answer((Choice({"content": text}),)), 2.0))
    first, rest = codec.parts(DIGEST, blob)

    assert first == text.encode("utf-8", "surrogatepass")
    assert rest.startswith(skeleton)
    assert rest.endswith(b"}")


def test_parts__a_cut_blob_ends():
    """What is cut short is no endless loop, and no crash."""
    blob = codec.encode_request(DIGEST, {"x": FILLING}, FILLING)
    for size in range(len(blob)):
        try:
            found = b"".join(codec.parts(DIGEST, blob[:size]))
        except StoreCorruptError:
            continue
        assert len(found) < len(FILLING) * 2


def test_search__in_sql(store, make):
    """The store finds, counts and purges by them."""
    store.put(*make("Straße", "Grüße"))
    store.put(*make("street", "GREETINGS"))

    assert [row.prompt for row in store.listing.find(EntryFilter(text="STRASSE"))] == ["Straße"]
    assert store.listing.count(EntryFilter(text="greet"))[0] == 1
    assert store.purge(EntryFilter(prefix="Str")) == 1
    assert [row.prompt for row in store.listing.find()] == ["street"]
