"""An answer as a value: its text, and the facts of its ask."""

from __future__ import annotations

import base64
import copy
import pickle
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.records import FREE, Answer, Choice, Cost, Outcome, Request, RequestKey, Usage
from or_cache_magic.core.returned import Citation
from or_cache_magic.errors import OptionError

REQUEST = Request({"model": "m/x", "messages": [{"role": "user", "content": "Hi"}]})
KEY = RequestKey("ab" * 32, b"")
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 2000
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 20
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "
FILE = {"type": "file", "file": {"hash": "ab", "name": "a.pdf", "content": []}}


def data_url(raw, kind="image/png"):
    return {"image_url": {"url": f"data:{kind};base64,{base64.b64encode(raw).decode()}"}}


def with_everything():
    """An answer that has all that one can have besides its text."""
    return completion(
        "Look:",
        images=[
            data_url(PNG),
            {"image_url": {"url": "https://example.org/x.png"}},
            data_url(JPEG, "text/html"),
        ],
        audio={"id": "a", "data": base64.b64encode(WAV).decode(), "transcript": "Said."},
        refusal="I won't.",
        annotations=[
            FILE,
            {
                "type": "url_citation",
                "url_citation": {"url": "https://a.b", "title": "A", "start_index": 2, "end_index": 5},
            },
            {
                "type": "url_citation",
                "url_citation": {"url": "https://c.d", "start_index": 0, "end_index": 0},
            },
        ],
        reasoning_details=[{"type": "reasoning.summary", "summary": "Because."}],
        tool_calls=[CALL],
    )


def completion(content="Hello", kind="hit", finish="stop", **message):
    answer = Answer(
        (Choice({"role": "assistant", "content": content, **message}, finish),),
        "m/served",
        "P",
        Usage(3, 4),
        Cost(Decimal("0.01"), "reported"),
        created_s=1_767_268_800.0,
    )
    return Completion(Outcome(kind, KEY, answer, paid=FREE, saved_usd=Decimal("0.01")), REQUEST)


def test_completion__is_its_text():
    """A str in every respect."""
    value = completion("Hello")
    assert isinstance(value, str)
    assert value == "Hello"
    assert f"{value}!" == "Hello!"
    assert value.upper() == "HELLO"
    assert {value: 1}["Hello"] == 1
    assert completion(None) == ""


def test_completion__joins_parts_of_text():
    """An answer in parts is their text."""
    assert completion([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]) == "Hello"


def test_completion__knows_where_it_came_from():
    """The facts are those of the call that bought it; what was paid and saved are this ask's."""
    value = completion()
    assert (value.model, value.provider, value.finish_reason) == ("m/served", "P", "stop")
    assert (value.cost_usd, value.paid_usd, value.saved_usd) == (Decimal("0.01"), 0, Decimal("0.01"))
    assert value.usage == Usage(3, 4)
    assert value.key == "ab" * 32
    assert value.created == datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert value.reasoning is None
    assert value.tool_calls == []


@pytest.mark.parametrize(
    ("kind", "cached"),
    [("hit", True), ("replay", True), ("stale", True), ("similar", True), ("miss", False), ("refresh", False), ("bypass", False), ("coalesced", False)],
)  # fmt: skip
def test_completion__says_if_it_was_cached(kind, cached):
    """Served from the completion cache, for whatever reason; a follower's answer came from a call."""
    assert completion(kind=kind).cached is cached


def test_completion__goes_on_as_messages():
    """The conversation and the answer, as a copy: what is appended changes nothing here."""
    value = completion(None, finish="tool_calls", tool_calls=[CALL])
    messages = value.messages
    assert messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    messages[0]["content"] = "changed"
    messages[1]["tool_calls"][0]["id"] = "changed"
    value.tool_calls[0]["id"] = "changed"
    assert value.messages[0]["content"] == "Hi"
    assert value.tool_calls == [CALL]


@pytest.mark.parametrize(
    ("content", "data"),
    [('{"a": [1]}', {"a": [1]}), ("7", 7), ("no json", None), ("", None), ("[" * 100_000, None)],
)
def test_completion__parses_json_on_demand(content, data):
    """The answer as JSON, where it is some."""
    assert completion(content).data == data


def test_completion__keeps_data_that_was_attached():
    """What its caller parsed goes before."""
    value = completion("1")
    value.attach({"parsed": True})
    assert value.data == {"parsed": True}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_completion__can_be_copied_and_pickled(copied):
    """For notebooks' stores and worker processes."""
    value = completion(reasoning="because")
    value.attach([1])
    again = copied(value)
    assert again == value
    assert type(again) is Completion
    assert (again.outcome, again.request, again.data, again.reasoning) == (
        value.outcome,
        REQUEST,
        [1],
        "because",
    )


def test_completion__shows_no_script():
    """What Jupyter renders is made harmless; the value keeps the raw text."""
    raw = "Hi <script>alert(1)</script>"
    bundle = completion(raw)._repr_mimebundle_()
    assert bundle["text/plain"] == raw
    assert "<script" not in bundle["text/markdown"]


def test_completion__of_text_alone_has_nothing_besides():
    """None, or an empty list."""
    value = completion()
    assert (value.images, value.image_urls, value.citations, value.annotations, value.reasoning_details) == (
        [],
    ) * 5
    assert (value.audio, value.refusal, value.reasoning) == (None, None, None)


@pytest.mark.parametrize(
    "odd", [5, "x", {}, [5], ["x"], [[]], {"data": 5}, {"data": "A"}, [{"image_url": {}}], [{"type": []}]]
)
def test_completion__of_an_odd_message_has_nothing_besides(odd, tmp_path):
    """A message from elsewhere may hold anything anywhere: what is of another form is passed over."""
    names = ("images", "audio", "annotations", "refusal", "reasoning_details", "tool_calls")
    value = completion(**dict.fromkeys(names, odd))
    assert (value.images, value.image_urls, value.citations, value.audio, value.reasoning) == (
        [],
        [],
        [],
        None,
        None,
    )
    assert (value.save(tmp_path), value.refusal) == ([], odd if odd == "x" else None)
    assert (
        value.tool_calls
        == value.annotations
        == value.reasoning_details
        == (odd if isinstance(odd, list) else [])
    )


@pytest.mark.parametrize("copied", [lambda v: v, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_completion__has_what_came_back(copied):
    """Each kind has its attribute; what is elsewhere is named and not fetched, what it is its bytes say."""
    value = copied(with_everything())
    assert value.images == [PNG, JPEG]
    assert [(one.mime, one.extension) for one in value.images] == [
        ("image/png", "png"),
        ("image/jpeg", "jpeg"),
    ]
    assert value.image_urls == ["https://example.org/x.png"]
    assert value.audio == WAV
    assert (value.audio.mime, value.audio.format, value.audio.transcript) == ("audio/wav", "wav", "Said.")
    assert value.refusal == "I won't."
    assert value.citations == [Citation("https://a.b", "A", (2, 5)), ("https://c.d", "", None)]
    assert value.annotations[0] == FILE
    assert value.reasoning == "Because."
    assert value.reasoning_details[0]["summary"] == "Because."
    value.annotations.clear()
    value.reasoning_details[0]["summary"] = "changed"
    assert len(value.annotations) == 3
    assert value.reasoning == "Because."


@pytest.mark.parametrize("copied", [lambda v: v, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
def test_media__are_bytes_that_show_themselves(copied):
    """In a notebook as what they are, in a list or a terminal in a few words, and not as megabytes of text."""
    image, sound = copied(with_everything().images[0]), copied(with_everything().audio)
    assert isinstance(image, bytes)
    assert image == PNG
    assert base64.b64decode(image._repr_mimebundle_()["image/png"]) == PNG
    assert "data:audio/wav;base64," in sound._repr_mimebundle_()["text/html"]
    assert str([image, sound]) == "[<image: png, 2 KB>, <audio: wav, 16 B>]"
    assert str(image) == "<image: png, 2 KB>"
    assert sound.transcript == "Said."


def test_save__writes_images_and_audio_once(tmp_path):
    """By the key and a number; again they are the same files."""
    value, folder = with_everything(), tmp_path / "new" / "media"
    paths = value.save(folder)
    assert [path.name for path in paths] == [f"{'ab' * 8}-0.png", f"{'ab' * 8}-1.jpeg", f"{'ab' * 8}-2.wav"]
    assert [path.read_bytes() for path in paths] == [PNG, JPEG, WAV]
    times = [path.stat().st_mtime_ns for path in paths]
    assert value.save(str(folder)) == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert sorted(folder.iterdir()) == sorted(paths)
    assert completion().save(folder) == []


@pytest.mark.parametrize("folder", [None, 5])
def test_save__refuses_what_is_no_folder(folder):
    """In the form of all errors."""
    with pytest.raises(OptionError, match="is no folder"):
        completion().save(folder)


def test_save__knows_the_home(tmp_path, monkeypatch):
    """As everything that takes a path does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {path.parent for path in with_everything().save("~/media")} == {tmp_path / "media"}


def test_save__leaves_what_is_there(tmp_path):
    """A file, a link or a folder of such a name stays as it is, also where it leads elsewhere."""
    value, name = with_everything(), "ab" * 8
    outside = tmp_path / "outside"
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / f"{name}-0.png").write_bytes(b"mine")
    (folder / f"{name}-1.jpeg").symlink_to(outside)
    (folder / f"{name}-2.wav").mkdir()
    paths = value.save(folder)
    assert [path.read_bytes() for path in paths] == [PNG, JPEG, WAV]
    assert value.save(folder) == paths
    assert (folder / f"{name}-0.png").read_bytes() == b"mine"
    assert not outside.exists()
    paths[0].write_bytes(b"mine too")
    with pytest.raises(FileExistsError, match="nothing was written over it"):
        value.save(folder)
    assert paths[0].read_bytes() == b"mine too"


def test_save__names_files_by_what_they_are(tmp_path):
    """Neither a type nor a name that a model gives ends up in a path; of an unknown type it is ``bin``."""
    value = completion(None, images=[data_url(b"<svg onload=alert(1)>", "../../x/svg+xml")])
    (path,) = value.save(tmp_path)
    assert path == tmp_path / f"{'ab' * 8}-0.bin"


def test_reply__goes_on_from_its_own_answer(cache):
    """What to reply to is said already: no second answer is taken, and nothing sent."""
    answer = cache.ask("x")
    with pytest.raises(OptionError, match=r"takes no reply_to \(nothing was sent\)"):
        answer.reply("y", reply_to=answer)
