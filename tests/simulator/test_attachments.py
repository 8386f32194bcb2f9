"""The simulator on pictures, PDFs and sound: what it refuses, reads and charges."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest

from or_cache_magic.simulator.attachments import seen_text
from or_cache_magic.simulator.filling import fill_schema
from or_cache_magic.simulator.text import quoted

LLAMA, MINI = "meta-llama/llama-3.3-70b-instruct", "openai/gpt-4o-mini"
PDF = b"%PDF-1.4 /Type /Page /Type/Page /Type /Pages"


def picture(url: str = "data:image/png;base64,iVBORw0KGgo=") -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def sound(kind: str = "wav", data: str = "UklGRg==") -> dict:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def document(raw: bytes = PDF) -> dict:
    url = f"data:application/pdf;base64,{base64.b64encode(raw).decode()}"
    return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}


def messages(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (picture("plot.png"), "image_url.url: expected an http(s) URL or a base64 data URL"),
        (picture("data:image/png;base64,???"), "image_url.url: expected an http(s) URL"),
        (picture("data:image/png,x"), "image_url.url: expected an http(s) URL"),
        (picture("data:image/tiff;base64,AAAA"), "image/tiff is not supported"),
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, "image_url: expected an object"),
        ({"type": "file", "file": {"filename": "a.pdf"}}, "file.file_data: expected an http(s) URL"),
        (sound("midi"), "input_audio.format: expected one of aac"),
        (sound(data="https://example.com/a.wav"), "input_audio.data: expected base64"),
    ],
)
def test_parts__that_are_none_are_refused(wire, part, problem):
    """400, with the place."""
    reply = wire.ask(messages=messages(part))
    assert reply.status == 400
    assert reply.json["error"]["message"].startswith("messages[0].content[1]: ")
    assert problem in reply.json["error"]["message"]


@pytest.mark.parametrize(("part", "kind"), [(picture(), "image"), (sound(), "audio")])
def test_parts__that_a_model_does_not_take_find_no_endpoint(wire, part, kind):
    """404 for a model of text; a picture is taken by one that is listed to, at a price."""
    reply = wire.ask(model=LLAMA, messages=messages(part))
    assert reply.status == 404
    assert reply.json["error"]["message"] == f"No endpoints found that support {kind} input"
    usage = [wire.ask(model=MINI, messages=messages(*parts)).json["usage"] for parts in ((), (picture(),))]
    assert usage[1]["prompt_tokens"] > usage[0]["prompt_tokens"]


def test_pdf__is_read_by_the_model_or_for_it(wire):
    """By an engine it has annotations and a fee by the page, unless the engine is free or the file is known."""
    free = [{"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}]
    native = wire.ask(model=MINI, messages=messages(document())).json
    parsed = wire.ask(model=LLAMA, messages=messages(document())).json
    gratis = wire.ask(model=LLAMA, messages=messages(document()), plugins=free).json
    assert "annotations" not in native["choices"][0]["message"]
    fee = Decimal(str(parsed["usage"]["cost"])) - Decimal(str(gratis["usage"]["cost"]))
    assert fee == Decimal("0.004")

    answer = parsed["choices"][0]["message"]
    (note,) = answer["annotations"]
    assert note["type"] == "file"
    assert note["file"]["name"] == "document.pdf"
    assert note["file"]["content"][1] == {"type": "text", "text": "2 pages, as the simulator reads them."}
    again = [*messages(document()), answer, {"role": "user", "content": "And then?"}]
    second = wire.ask(model=LLAMA, messages=again).json
    assert "annotations" not in second["choices"][0]["message"]
    assert second["usage"]["cost"] < 0.004


def test_pdf__annotations_come_in_streams_too(wire):
    """In a delta of their own, before the text."""
    chunks = wire.ask(stream=True, model=LLAMA, messages=messages(document())).chunks
    notes = [
        note for c in chunks for choice in c["choices"] for note in choice["delta"].get("annotations", ())
    ]
    assert [note["file"]["name"] for note in notes] == ["document.pdf"]


RECEIPT = "Cafe Luna, 2026-11-21\nFlat white 3.80\nCroissant 2.90\nTotal 6.70"


@pytest.mark.parametrize("how", ["picture", "pdf"])
def test_written_text__is_read(how):
    """What a PNG says of itself, and a PDF's plain texts; each line of a list is an item of its own."""
    if how == "picture":
        raw = b"\x89PNG\r\n\x1a\n\0\0\0\0tEXtDescription\0" + RECEIPT.encode() + b"\xff"
        part = picture(f"data:image/png;base64,{base64.b64encode(raw).decode()}")
    else:
        part = document(b"%PDF-1.4 " + b" ".join(b"(%s) Tj" % line.encode() for line in RECEIPT.split("\n")))
    content = messages(part)[0]["content"]
    assert seen_text(content) == f"What is this?\n{RECEIPT}"
    item = {"type": "object", "properties": {"item": {"type": "string"}, "price": {"type": "number"}}}
    properties = {
        "shop": {"type": "string"},
        "bought": {"type": "string", "format": "date"},
        "items": {"type": "array", "items": item},
        "total": {"type": "number"},
    }
    assert fill_schema({"type": "object", "properties": properties}, seen_text(content)) == {
        "shop": "Cafe Luna",
        "bought": "2026-11-21",
        "items": [{"item": "Flat white", "price": 3.8}, {"item": "Croissant", "price": 2.9}],
        "total": 6.7,
    }


def test_question__is_answered_from_what_was_shown():
    """The sentence that has most of its words, also of a file that was attached to an earlier turn."""
    shown = "How long is the warranty?\nThe lid must click.\nWarranty: two years."
    assert "Warranty: two years." in quoted([shown])
    assert "The lid must click." in quoted([shown, "What must the lid do?"])
    assert quoted([shown, "Why?"]) is None
