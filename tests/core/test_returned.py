"""Media read out of a message: base64 as it comes, and as it is written."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import Answer, Choice
from or_cache_magic.core.returned import as_base64, citations_of, decoded


@given(st.lists(st.binary(max_size=9)), st.sampled_from(["", "\n", " "]))
def test_decoded__joins_what_was_padded_piece_by_piece(pieces, between):
    """Base64 ends at its first padding; what comes behind it in a stream is read all the same."""
    text = between.join(base64.b64encode(piece).decode() for piece in pieces)
    assert decoded(text) == b"".join(pieces)


@given(
    st.text("AQ=", max_size=8)
    | st.text("AQz+/= \né\ud800", max_size=12)
    | st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode())
)
def test_as_base64__is_what_an_encoder_writes(text):
    """Of whatever a decoder reads, and of nothing else; so that it can stand in a page's attribute."""
    found, shown = decoded(text), as_base64(text)
    assert (found is None) == (shown is None)
    if found is not None and shown is not None:
        assert base64.b64decode(shown, validate=True) == found
        assert len(shown) == (len(found) + 2) // 3 * 4


@pytest.mark.parametrize(
    ("note", "span"),
    [
        ({"start_index": 2, "end_index": 5}, (2, 5)),
        ({"start_index": 0, "end_index": 0}, None),
        ({"start_index": 5, "end_index": 2}, None),
        ({"start_index": -1, "end_index": 2}, None),
        ({"start_index": "1", "end_index": 2}, None),
        ({"end_index": 2}, None),
    ],
)
def test_citation__has_a_span_where_one_is_told(note, span):
    """Searches that don't know say 0 to 0."""
    message = {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.b", **note}}]}
    (found,) = citations_of(Answer((Choice(message),)))
    assert found == ("https://a.b", "", span)
