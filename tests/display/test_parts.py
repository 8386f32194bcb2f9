"""What an answer has besides its text is shown: images, audio, a refusal, tool calls."""

import base64

import pytest

from or_cache_magic.display.parts import parts_of
from or_cache_magic.display.screen import NotebookScreen, TerminalScreen

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 2000
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 20
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Par\x1bis"}'}}


def url(found: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(found).decode()}"


def image(found: bytes | str, kind: str = "image/png"):
    return {
        "images": [
            {"type": "image_url", "image_url": {"url": found if isinstance(found, str) else url(found, kind)}}
        ]
    }


@pytest.mark.parametrize(
    ("found", "kind", "plain"),
    [
        (PNG, "image/png", "[image: png, 2 KB]"),
        (JPEG, "image/jpeg", "[image: jpeg, 24 B]"),
        (WEBP, "image/webp", "[image: webp, 16 B]"),
    ],
)
def test_parts__image_by_its_content(found, kind, plain):
    """An image is of the type that its bytes say, whatever it is called."""
    for called in ("image/png", "text/html", "image/svg+xml"):
        (bundle,) = parts_of(image(found, called))
        assert base64.b64decode(bundle[kind]) == found
        assert bundle["text/plain"] == plain
        assert called == kind or called not in bundle or called == "text/html"
        assert "svg" not in str(bundle)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("https://example.org/x.png?$a$\x1b", "[image: https://example.org/x.png?$a$␛]"),
        (url(b"<svg onload=alert(1)>", "image/svg+xml"), "[image: of a kind that isn't shown, 21 B]"),
        ("data:image/png;base64,A", "[image: not base64, not shown]"),
        ("data:image/png;base64," + "A" * 14_000_000, "[image: too large to show, 10.5 MB]"),
    ],
)
def test_parts__what_is_not_shown_is_told(found, told):
    """What is elsewhere, of another kind, damaged or too large is a line of text, and nothing is fetched."""
    (bundle,) = parts_of(image(found))
    assert bundle["text/plain"] == told
    assert set(bundle) == {"text/plain", "text/markdown"}
    assert "$" not in bundle["text/markdown"]


def test_parts__of_a_message_with_everything():
    """Images of both forms, audio with its transcript, a refusal and tool calls, in this order."""
    message = {
        "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url(JPEG)}}],
        **image(PNG),
        "audio": {"data": base64.b64encode(WAV).decode(), "transcript": "Said <b>so</b>."},
        "refusal": "I won't.",
        "tool_calls": [CALL, CALL],
    }
    png, jpeg, sound, said, refused, called = parts_of(message)
    assert ("image/png" in png, "image/jpeg" in jpeg) == (True, True)
    assert sound["text/html"].startswith('<audio controls src="data:audio/wav;base64,')
    assert said["text/markdown"] == "Said &lt;b>so&lt;/b>."
    assert refused["text/plain"] == "I won't."
    assert called["text/plain"] == "\n".join(['weather({"city": "Par␛is"})'] * 2)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"content": "x"},
        {"images": [None, "x", {"image_url": "x"}, {"image_url": {"url": 5}}]},
        {"audio": "x"},
        {"audio": {"data": 5, "transcript": 5}},
        {"tool_calls": "x"},
        {"refusal": {}},
        {"content": 5},
    ],
)
def test_parts__of_odd_messages(message):
    """What is not of the form that it should have is passed over."""
    assert parts_of(message) == []


def outputs(text, parts, *, streamed, waited):
    """What is left on the screen of an answer."""
    sent, final = [], {}
    screen = NotebookScreen(lambda **message: sent.append(message))
    if waited:
        screen.wait("asked by another kernel")
    if streamed:
        screen.feed(text)
    (screen.finish if streamed else screen.show)(text, parts)
    for place, message in enumerate(sent):
        shown = message.get("transient", {}).get("display_id", place)
        final[shown] = (message["data"], message["metadata"])
    return list(final.values())


@pytest.mark.parametrize("text", ["", "Look:"])
def test_screen__shows_parts_bought_and_cached_alike(text):
    """An answer that is an image is the same outputs, waited for or not, streamed or served."""
    parts = parts_of({**image(PNG), "refusal": "no"})
    cached = outputs(text, parts, streamed=False, waited=False)
    assert outputs(text, parts, streamed=True, waited=False) == cached
    assert outputs(text, parts, streamed=True, waited=True) == cached
    assert len(cached) == (3 if text else 2)


def test_terminal__tells_of_parts():
    """A terminal has a line for each."""
    written = []
    screen = TerminalScreen(write=written.append)
    screen.feed("Look:")
    screen.finish("Look:", parts_of({**image(PNG), "tool_calls": [CALL]}))
    assert "".join(written) == 'Look:\n[image: png, 2 KB]\nweather({"city": "Par␛is"})\n'
