"""What an answer has besides text, on the wire: pictures, speech, refusals, citations."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
import zlib

import pytest

from or_cache_magic.simulator import scenario

PAINTER = {"model": "google/gemini-2.5-flash-image", "modalities": ["image", "text"]}
SPEAKER = {"model": "openai/gpt-audio-mini", "modalities": ["text", "audio"], "stream": True}


def deltas(got, name):
    """What the chunks of a stream bring of a field, in their order."""
    choices = [choice["delta"] for chunk in got.chunks for choice in chunk["choices"]]
    return [delta[name] for delta in choices if name in delta]


def pixels(url):
    """The rows of a PNG, after a check of its form and its sums."""
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    raw, at, parts = base64.b64decode(data, validate=True), 8, {}
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    while at < len(raw):
        (size,) = struct.unpack_from(">I", raw, at)
        name, found = raw[at + 4 : at + 8], raw[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", raw, at + 8 + size) == (zlib.crc32(name + found),)
        parts[name], at = found, at + 12 + size
    width, height = struct.unpack_from(">II", parts[b"IHDR"])
    rows = zlib.decompress(parts[b"IDAT"])
    assert (list(parts), len(rows)) == ([b"IHDR", b"IDAT", b"IEND"], height * (3 * width + 1))
    return rows


def test_picture__is_a_png_by_its_prompt(wire, check):
    """A real picture, small, the same streamed or whole, another for another prompt."""
    whole, other = (wire.ask(prompt, **PAINTER) for prompt in ("Draw a tide", "Draw a moon"))
    (image,) = whole.json["choices"][0]["message"]["images"]
    (streamed,) = deltas(wire.ask("Draw a tide", stream=True, **PAINTER), "images")
    assert streamed == [image]
    assert pixels(image["image_url"]["url"]) != pixels(
        other.json["choices"][0]["message"]["images"][0]["image_url"]["url"]
    )
    assert len(image["image_url"]["url"]) < 2000
    assert whole.usage["completion_tokens_details"]["image_tokens"] == 1290
    check("ChatResult", json.loads(whole.raw))


def test_pictures__as_many_and_as_large_as_wanted(wire, sim):
    """For tests of large answers."""
    sim.script(scenario("pictures", count=2, size_bytes=50_000))
    images = wire.ask().json["choices"][0]["message"]["images"]
    assert [image["index"] for image in images] == [0, 1]
    first, second = (pixels(image["image_url"]["url"]) for image in images)
    assert first != second
    assert 50_000 <= len(first) < 52_000


@pytest.mark.parametrize("form", ["pcm16", "wav"])
def test_speech__comes_in_pieces(wire, check, form):
    """The transcript ahead, then the sound a tenth of a second at a time, and until when it is kept."""
    got = wire.ask("Say it", audio={"voice": "alloy", "format": form}, **SPEAKER)
    parts = deltas(got, "audio")
    assert {part["id"] for part in parts} == {f"audio_{got.chunks[0]['id'][4:]}"}
    said = "".join(part.get("transcript", "") for part in parts)
    assert said == wire.ask("Say it", model=SPEAKER["model"]).text
    pieces = [part["data"] for part in parts if "data" in part]
    assert len(pieces) > 2
    sound = base64.b64decode("".join(pieces), validate=True)
    if form == "wav":
        with wave.open(io.BytesIO(sound)) as played:
            assert (played.getframerate(), played.getnchannels(), played.getsampwidth()) == (24_000, 1, 2)
            sound = played.readframes(played.getnframes())
    assert len(sound) == len(said.split()) * 1440
    assert parts[-1]["expires_at"] > 0
    assert got.text == ""
    assert got.usage["completion_tokens_details"]["audio_tokens"] > 0
    for chunk in [json.loads(event[6:]) for event in got.events if event.startswith("data: {")]:
        check("ChatStreamChunk", chunk)


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"model": "openai/gpt-4o", "modalities": ["image", "text"]}, 404, "output modalities: image"),
        ({**SPEAKER, "model": PAINTER["model"], "audio": {"format": "wav"}}, 404, "output modalities: audio"),
        ({**SPEAKER, "stream": False, "audio": {"format": "wav"}}, 400, "requires stream: true"),
        ({**SPEAKER, "audio": {"format": "mp3"}}, 400, "audio.format"),
        ({**SPEAKER, "audio": "wav"}, 400, "audio: expected an object"),
    ],
)
def test_modalities__that_are_not_made_are_refused(wire, asked, status, message):
    """By the model, without a stream, in a format that nobody makes."""
    got = wire.ask(**asked)
    assert got.status == status
    assert message in got.json["error"]["message"]


def test_declined__is_a_refusal_in_words(wire, sim, check):
    """No content; the same words streamed or whole."""
    sim.script(scenario("declined", text="I won't say that."), times=2)
    whole, stream = wire.ask(), wire.ask(stream=True)
    choice = whole.json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "stop")
    assert choice["message"]["refusal"] == "".join(deltas(stream, "refusal")) == "I won't say that."
    assert stream.text == ""
    assert stream.usage == whole.usage
    check("ChatResult", json.loads(whole.raw))


def test_citations__are_listed_at_the_top_where_wanted(wire, sim, check):
    """As many as wanted; at the top of the reply, and of each chunk, as Perplexity's are."""
    sim.script(scenario("web_search", cited=3, listed=True), times=2)
    sim.script(scenario("web_search"))
    whole, stream, plain = wire.ask(), wire.ask(stream=True), wire.ask()
    notes = whole.json["choices"][0]["message"]["annotations"]
    urls = [note["url_citation"]["url"] for note in notes]
    assert len(set(urls)) == 3
    assert whole.json["citations"] == urls
    assert all(chunk["citations"] == urls for chunk in stream.chunks)
    assert [note["url_citation"]["url"] for (note,) in deltas(stream, "annotations")] == urls
    assert "citations" not in plain.json
    check("ChatResult", json.loads(whole.raw))
