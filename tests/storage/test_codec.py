"""Blobs: what comes back equals what went in, and what was changed is refused."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import Answer, Choice, Entry, RequestKey
from or_cache_magic.errors import NewerStoreError, StoreCorruptError, StoreError
from or_cache_magic.storage import codec

DIGEST = "ab" * 32
KEY = RequestKey(DIGEST, b'{"model":"m"}')
WORDS = "It was the best of times, it was the worst of times. " * 20

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def entry(text=WORDS):
    return Entry(KEY, Answer((Choice({"role": "assistant", "content": text}, "stop"),), created_s=1.0), 2.0)


@given(st.text(st.characters()), JSON, st.binary(max_size=50))
def test_entry__round_trip(text, extra, skeleton):
    """Any text, lone surrogates included, and any JSON in a message come back equal."""
    kept = Entry(RequestKey(DIGEST, skeleton), Answer((Choice({"content": text, "x": extra}),)), 2.0)

    assert codec.decode_entry(DIGEST, codec.encode_entry(kept)) == kept


@given(st.dictionaries(st.text(), JSON, max_size=4), st.text(st.characters(), max_size=700))
def test_request__round_trip(body, prompt):
    """A body comes back with its order, and a listing sees the prompt's first 500 characters."""
    blob = codec.encode_request(DIGEST, body, prompt)

    assert json.dumps(codec.decode_request(DIGEST, blob)) == json.dumps(body)
    assert codec.read_head(DIGEST, blob) == prompt[:500]


@pytest.mark.parametrize("sign", ["x", "é", "文", "🎈"])
@pytest.mark.parametrize("before", [0, 1, 498, 499, 500, 501])
def test_head__any_mixture(sign, before):
    """The first 500 characters are whole, however many bytes each takes and wherever the long ones begin."""
    text = (WORDS[:before] + sign * 700)[: before + 700]
    for long in (text, text[:501], text[:500], text[:300], text[:30]):
        blob = codec.encode_entry(entry(long))

        assert codec.read_head(DIGEST, blob) == long[:500]


@given(st.data())
def test_head__a_flipped_bit_is_caught(data):
    """A listing tells a damaged blob from a good one, also where the damage is behind what it shows."""
    blob = bytearray(codec.encode_entry(entry(WORDS * 3)))
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8

    with pytest.raises(StoreCorruptError, match="damaged"):
        codec.read_head(DIGEST, bytes(blob))


@given(st.data())
def test_entry__a_flipped_bit_is_caught(data):
    """One changed bit anywhere, in a small blob or a deflated one, and nothing is served."""
    blob = bytearray(codec.encode_entry(entry(data.draw(st.sampled_from(["Hi", WORDS])))))
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8

    with pytest.raises(StoreCorruptError, match="damaged"):
        codec.decode_entry(DIGEST, bytes(blob))


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 20, -1])
def test_entry__a_cut_blob_is_caught(cut):
    """A truncated value is refused, also when nothing is left of it."""
    with pytest.raises(StoreCorruptError):
        codec.decode_entry(DIGEST, codec.encode_entry(entry())[:cut])


def test_entry__belongs_to_its_key():
    """A value found under another key (a damaged index) is refused."""
    with pytest.raises(StoreCorruptError, match="checksum"):
        codec.decode_entry("cd" * 32, codec.encode_entry(entry()))


@pytest.mark.parametrize("value", [None, 1, "text", b"", b"\x80\x04N."])
def test_entry__what_is_no_blob(value):
    """Other types, and pickles, are refused unread."""
    with pytest.raises(StoreCorruptError):
        codec.decode_entry(DIGEST, value)


def forge(payload, form=1):
    """A blob with a right checksum around any payload."""
    return codec._START.pack(form, codec._checksum(DIGEST, form, payload)) + payload


def forge_json(content):
    return forge(codec._FRAME.pack(0, 0) + json.dumps(content).encode())


GOOD = {"answer": {"choices": [], "created_s": 1, "elapsed_s": 1}, "v": 1, "created": 1}
WRONG = [
    [], None, {}, {**GOOD, "v": "1"}, {**GOOD, "created": "1"}, {**GOOD, "expires": []}, {**GOOD, "tags": [1]},
    {**GOOD, "notebook": 1}, {**GOOD, "answer": []},
    *({**GOOD, "answer": {**GOOD["answer"], name: value}} for name, value in [
        ("choices", None), ("choices", [1]), ("choices", [{}]), ("choices", [{"message": None}]),
        ("choices", [{"message": "x"}]), ("choices", [{"message": {}, "finish_reason": 1}]), ("model", 1),
        ("cost", ["1", "guessed"]), ("cost", [1.5, "reported"]), ("cost", ["NaN", "reported"]), ("cost", ["x", "reported"]),
        ("cost", ["1"]), ("usage", []), ("usage", [1, 2, 3]), ("usage", [True, 1, 1, 1, 1]), ("usage", [1.5, 1, 1, 1, 1]), ("usage", 1),
        ("created_s", None), ("created_s", True), ("error", "x"),
    ]),
]  # fmt: skip


def test_entry__the_forger_makes_good_ones():
    """The forged blobs below fail for what is in them, not for how they are made."""
    assert codec.decode_entry(DIGEST, forge_json(GOOD)).answer.choices == ()


@pytest.mark.parametrize("content", WRONG)
def test_entry__wrong_types_are_refused(content):
    """With a right checksum too, a value of another shape is damage, not a crash and not an answer."""
    with pytest.raises(StoreCorruptError):
        codec.decode_entry(DIGEST, forge_json(content))


@pytest.mark.parametrize("text", [b"NaN", b"{} {}", b'{"a":', b"\xff", b"[" * 100_000])
def test_entry__what_is_no_json(text):
    """NaN, trailing text, cut and endlessly nested JSON are damage."""
    with pytest.raises(StoreCorruptError):
        codec.decode_entry(DIGEST, forge(codec._FRAME.pack(0, 0) + text))


def test_entry__an_unknown_format_is_refused():
    """A format byte of the future, or of another dictionary, is not guessed at."""
    for form in (2, 9):
        with pytest.raises(StoreCorruptError, match=f"format {form}"):
            codec.decode_entry(DIGEST, forge(b"x", form=form))


def test_entry__a_newer_schema_is_left_alone():
    """An answer of a newer version says so."""
    with pytest.raises(NewerStoreError):
        codec.decode_entry(DIGEST, forge_json({**GOOD, "v": 2}))


def test_entry__a_bomb_is_not_inflated():
    """A few kilobytes that would inflate beyond the limit are refused within it."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1 << 22)) + deflate.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 40 + deflate.flush()
    assert len(bomb) < 1 << 19

    with pytest.raises(StoreCorruptError):
        codec.decode_entry(DIGEST, forge(bomb, form=codec._DEFLATED))


def test_encode__refuses_what_json_cannot_say():
    """NaN in a message: the answer is shown and not kept, so the error is the store's."""
    with pytest.raises(StoreError, match="can't be kept"):
        codec.encode_entry(entry()._replace(answer=Answer((Choice({"content": float("nan")}),))))


def test_format__never_changes():
    """Blobs written by the first version are read for ever: the dictionary and the frame are part of it."""
    golden = (
        "0|Y}=Kx1HFQDI<U;PotlZs>qcw1QV_<bw81Wg=wCL8~0#QsBw-QB9+oMm3ELO^C`0Sc=oI#H~du)Ie1dQmF<k12Ky=BakAbat#0"
    )

    assert codec.decode_entry(DIGEST, base64.b85decode(golden)) == entry()
    golden = "1Yf(HFk@g~QDI<U;Potl?&N{au!EQB<bpQLWg=wCLCag<Qs7k-qnbuFjcOVhnh>oNVD(MIs<sxbHUqUqkg79a0gG9z8G#fbm1_V"  # codespell:ignore
    assert codec.decode_entry(DIGEST, base64.b85decode(golden)) == entry()
