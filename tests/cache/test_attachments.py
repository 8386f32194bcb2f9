"""Attachments: what of which kind is sent, what is refused, and which are the same request."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from or_cache_magic.cache.attachments import Source, read_attachments
from or_cache_magic.cache.request import build_ask
from or_cache_magic.core.media import MAX_BYTES, attached_text, pdf_pages, picture_size
from or_cache_magic.core.policy import volatility
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import MissingKeyError, OptionError, RequestError

mpl.use("Agg")
from matplotlib.figure import Figure

SETTINGS = Settings(model="openai/gpt-4o-mini")


def png(width: int = 4, height: int = 3, colour: tuple[int, int, int] = (10, 20, 30)) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(written, "PNG")
    return written.getvalue()


def pdf(pages: int, text: bytes = b"Hello", *, compressed: bool = False) -> bytes:
    """A PDF of so many pages; its objects in a compressed stream, as newer writers have them, or not."""
    kids = b" ".join(b"%d 0 R" % (n + 3) for n in range(pages))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type /Pages /Kids[%b]/Count %d>>" % (kids, pages)]
    objects += [b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"] * pages
    if compressed:
        packed = zlib.compress(b"\n".join(objects))
        body = (
            b"1 0 obj<</Type/ObjStm/N 3/First 9/Filter/FlateDecode/Length %d>>\nstream\n%b\nendstream endobj"
        )
        body %= len(packed), packed
    else:
        body = b"\n".join(b"%d 0 obj%bendobj" % (n, one) for n, one in enumerate(objects, 1))
    return b"%PDF-1.7\n" + body + b"\n%" + text + b"\ntrailer<</Root 1 0 R>>\n%%EOF\n"


WAV = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28)
MP3 = b"ID3\x04\0\0\0\0\0\0" + bytes(20)


def ask(attach, prompt="What is this?", **options):
    return build_ask(prompt, SETTINGS, {"attach": attach, **options})


def key(attach, **options) -> str:
    return ask(attach, **options).key.digest


def parts(attach) -> list:
    (message,) = ask(attach).request.body["messages"]
    assert message["content"][0] == {"type": "text", "text": "What is this?"}
    return message["content"][1:]


# -- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "mime"),
    [
        (png(), "image/png"),
        (
            b"\xff\xd8\xff\xe0\0\x04\0\0\xff\xc0\0\x0b\x08\0\x02\0\x03\x01\x11\0\0\xff\xda\0\2\xff\xd9",
            "image/jpeg",
        ),
        (b"GIF89a\x02\0\x03\0" + bytes(9) + b";", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x01\0\0\x02\0\0", "image/webp"),
    ],
)
def test_attach__pictures_are_told_by_content(tmp_path, raw, mime):
    """Whatever the file is called, and however it is given."""
    path = tmp_path / "notes.txt"
    path.write_bytes(raw)
    url = f"data:{mime};base64,{base64.b64encode(raw).decode()}"
    expected = [{"type": "image_url", "image_url": {"url": url}}]
    ways = (path, str(path), os.fspath(path), raw, bytearray(raw), memoryview(raw), url, [raw], (path,))
    assert all(parts(way) == expected for way in ways)
    assert len({key(way) for way in ways}) == 1


def test_attach__pdf_is_a_file_of_one_name(tmp_path):
    """The model may see a PDF's name: so it is the same for each, and the key is that of the bytes."""
    keys = set()
    for name in ("a.pdf", "b.bin"):
        (tmp_path / name).write_bytes(pdf(2))
        (part,) = parts(tmp_path / name)
        assert part["type"] == "file"
        assert part["file"]["filename"] == "document.pdf"
        keys.add(key(tmp_path / name))
    assert keys == {key(pdf(2))} != {key(pdf(3))}


@pytest.mark.parametrize(("raw", "name"), [(WAV, "wav"), (MP3, "mp3"), (b"fLaC" + bytes(9), "flac")])
def test_attach__sound_is_input_audio(raw, name):
    """With the format that OpenRouter calls it."""
    data = base64.b64encode(raw).decode()
    assert parts(raw) == [{"type": "input_audio", "input_audio": {"data": data, "format": name}}]


@pytest.mark.parametrize(
    "raw", [b"print(1)\n", b"\xef\xbb\xbfprint(1)\r\n", "print(1)\n".encode("utf-16")], ids=["", "mark", "16"]
)
def test_attach__text_is_named_and_fenced(tmp_path, raw):
    """A byte order mark and the kind of line ends don't count; without a file there is no name."""
    path = tmp_path / "code.py"
    path.write_bytes(raw)
    assert parts(path) == [{"type": "text", "text": "\n\ncode.py:\n```\nprint(1)\n```"}]
    assert parts(raw) == [{"type": "text", "text": "\n\n```\nprint(1)\n```"}]


def test_attach__nothing_in_a_text_closes_its_fence(tmp_path):
    """Markdown with fences of its own stays one attachment."""
    path = tmp_path / "a.md"
    path.write_text("````\nx\n````")
    assert parts(path)[0]["text"] == "\n\na.md:\n`````\n````\nx\n````\n`````"


def test_attach__tables_read_as_in_templates():
    """The same text for the same table, of whichever library; no name, so that any variable will do."""
    table = {"name": ["a", "b"], "n": [1, 2]}
    (text,) = parts(pd.DataFrame(table))
    assert text == {"type": "text", "text": "\n\n2 rows x 2 columns\n\n|name|n|\n|---|---|\n|a|1|\n|b|2|"}
    assert [text] == parts(pl.DataFrame(table)) == parts(Source(pd.DataFrame(table), "df"))
    assert len(parts(pd.Series([1, 2], name="n"))) == 1


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.com/cat.png?size=2", "image_url"),
        ("HTTP://example.com/image", "image_url"),
        ("https://example.com/paper.PDF", "file"),
        ("https://arxiv.org/pdf/1706.03762", "file"),
    ],
)
def test_attach__links_are_sent_as_they_are(url, kind):
    """Never fetched here; what stands there may change, so that the answer is volatile."""
    (part,) = parts(url)
    assert part["type"] == kind
    assert url in part[kind].values()
    assert volatility(ask(url).request) == "it refers to a remote file"
    assert key(url) != key(f"{url}&x=1")


def test_attach__stands_behind_the_last_message_of_the_user():
    """Of a conversation, whose messages are not changed."""
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": "2"},
    ]
    sent = ask(png(), messages).request.body["messages"]
    assert [type(message["content"]) for message in sent] == [str, str, list, str]
    assert [part["type"] for part in sent[2]["content"]] == ["text", "image_url"]
    assert len(messages[2]["content"]) == 1
    with pytest.raises(RequestError, match="no message of the user"):
        ask(png(), [{"role": "assistant", "content": "1"}])


def test_attach__never_changes_an_earlier_turn(cache):
    """A reply has its own message, or there is none to attach to."""
    first = cache.ask("weather in Paris", tools=[TOOL])
    results = [{"role": "tool", "tool_call_id": first.tool_calls[0]["id"], "content": "sunny"}]
    with pytest.raises(RequestError, match="no message of the user to attach to") as caught:
        first.reply(results, attach=png())
    assert "end the messages with" in caught.value.hint
    second = first.reply([*results, {"role": "user", "content": "And here?"}], attach=png())
    sent = second.request.body["messages"]
    assert sent[0] == {"role": "user", "content": "weather in Paris"}
    assert [part["type"] for part in sent[-1]["content"]] == ["text", "image_url"]


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def test_attach__none_is_not_given():
    """The same request, with a text as content."""
    plain = build_ask("What is this?", SETTINGS, {})
    assert ask(None) == plain
    assert plain.attached == ()


def test_attach__is_told_in_order():
    """Name, kind, size and digest travel with the ask; the key knows none of it."""
    made = ask([Source(png(), "plot"), pdf(1), "https://example.com/a.png"])
    assert [(one.name, one.kind) for one in made.attached] == [
        ("plot", "PNG"),
        ("", "PDF"),
        ("https://example.com/a.png", "link"),
    ]
    assert made.attached[0].size_bytes == len(png())
    assert attached_text(made.attached) == (
        f"3 attached: plot {len(png())} B, PDF {len(pdf(1))} B, https://example.com/a.png (link)"
    )
    assert attached_text(made.attached * 2).endswith("(link), 3 more")
    assert made.key == ask([png(), pdf(1), "https://example.com/a.png"]).key


# -- figures and pictures -------------------------------------------------------------------------


def figure(layout: str | None = None, *, last: float = 4.0) -> Figure:
    drawn = Figure((3, 2), layout=layout)
    for at, axes in enumerate(drawn.subplots(1, 2)):
        axes.plot([1, 2], [10**at, last])
        axes.set_xlabel("x" * at * 9)
    return drawn


@pytest.mark.parametrize("layout", [None, "tight", "constrained"])
def test_attach__a_figure_is_the_same_picture_each_time(layout):
    """Shown before or not, made again, by its axes or an array of them, whatever the settings are."""
    drawn, again = figure(layout), figure(layout)
    before = key(drawn)
    drawn.savefig(io.BytesIO(), dpi=200)
    with mpl.rc_context({"savefig.dpi": 30, "savefig.facecolor": "red", "savefig.transparent": True}):
        assert {before} == {key(drawn), key(again), key(again.axes[1])}
    assert before != key(figure(layout, last=4.1))
    (read,) = read_attachments(drawn).told
    assert read.kind == "PNG"


def test_attach__a_figure_says_nothing_of_when_and_how_it_was_drawn():
    """No date and no version: they would make each day another request."""
    url = parts(figure())[0]["image_url"]["url"]
    raw = base64.b64decode(url.partition(",")[2])
    assert Image.open(io.BytesIO(raw)).info.keys() <= {"dpi"}


def test_attach__array_of_axes_is_their_figure():
    """What plt.subplots and df.plot(subplots=True) give."""
    drawn = figure()
    import numpy as np

    assert key(np.array(drawn.axes).reshape(2, 1)) == key(drawn)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_attach__pil_pictures_of_every_mode(mode):
    """As PNG, the same bytes each time."""
    image = Image.new("RGB", (5, 4), (1, 2, 3)).convert(mode)
    assert parts(image) == parts(image.copy())
    assert parts(image)[0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_attach__pil_picture_stands_upright():
    """A photograph says which side is up in its metadata, which the PNG has not."""
    image, turned = Image.new("RGB", (5, 4)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, "JPEG", exif=exif)
    raw = base64.b64decode(parts(Image.open(turned))[0]["image_url"]["url"].partition(",")[2])
    assert picture_size(raw) == (4, 5)


class BaseFigure:
    """Stands for plotly's, whose renderer is a browser."""

    __module__ = "plotly.basedatatypes"

    def __init__(self, drawn: bytes | None) -> None:
        self.drawn = drawn

    def to_image(self, **_):
        if self.drawn is None:
            raise ValueError("Image export requires the kaleido package\nmore")
        return self.drawn


def test_attach__plotly_needs_its_renderer():
    """With it a figure is a picture; without it the error says in two lines what to install."""
    assert key(BaseFigure(png())) == key(png())
    with pytest.raises(RequestError, match=r"it can't be drawn: .*kaleido package more") as caught:
        ask(Source(BaseFigure(None), "fig"))
    assert str(caught.value).count("\n") == 1
    assert "pip install kaleido" in caught.value.hint


def test_attach__says_what_can_not_be_drawn():
    """Another library's error is ours, in two lines."""
    wrong = figure()
    wrong.axes[0].set_title(r"$\\no$")
    closed = Image.new("RGB", (2, 2))
    closed.close()
    for value in (wrong, closed):
        with pytest.raises(RequestError, match="it can't be drawn: ") as caught:
            ask(Source(value, "fig"))
        assert str(caught.value).count("\n") == 1


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        (b"", "it is empty", "check what"),
        ([], "nothing can't be attached: it is an empty list", "run the cell"),
        ([b"a", None], "nothing can't be attached: it is None", "run the cell"),
        (Source(None, "fig"), "fig can't be attached: it is None", "run the cell"),
        (Source([[]], "figs"), "figs can't be attached: it is an empty list", "run the cell"),
        ("~nobody-here/x.png", "x.png can't be attached", ""),
        (b"PK\x03\x04" + bytes(9), "an Office file or a ZIP", "save it as PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(9), "a HEIC picture", "save it as JPEG"),
        (b"\0\0\0\x18ftypisom" + bytes(9), "a video", "pictures of it"),
        (b"\0\1\2\xff", "of no kind that models take", "PNG, JPEG"),
        (b"\x89PNG\r\n\x1a\n", "it is damaged", "open it"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "it is damaged", "open it"),
        (object(), "a object can't be attached", "attach a path"),
        ({"a": 1}, "a dict can't be attached", "attach a path"),
        (Source({"a": 1}, "d"), "d can't be attached: a dict is nothing", "attach a path"),
        ("two\nlines", "a text is a path or a URL", "into the prompt"),
        ("", "a text is a path or a URL", "into the prompt"),
        ("ftp://example.com/a.png", "only http and https", "save it"),
        ("https://", "it is no URL", "as a browser"),
        ("https://me:pw@example.com/a.png", "a link can't be attached: it holds a password", "fetch it"),
        ("https://example.com/a.mp3", "not to .mp3", "fetch it"),
        ("data:image/png;base64,???", "it is not base64", "bytes themselves"),
        (b"key sk-or-v1-" + b"0" * 64, "it holds an API key", "take the key out"),
        (b"word " * 60_000, r"about 8\d,\d{3} tokens is over the limit of 50,000", "| head"),
        (pd.DataFrame({"a": range(60_000)}), "over the limit of 50,000", r"df.head\(100\)"),
        (pl.LazyFrame({"a": [1]}), "a lazy table has no rows", "a part of it"),
        ([png()] * 101, "more than 100 attachments", "fewer"),
        (bytes(MAX_BYTES + 1), "20 MB is over the limit of 20 MB", "shrink it"),
        (Image.new("1", (9000, 9000)), "9,000 x 9,000 pixels are over the limit of 40 million", "thumbnail"),
        (b"GIF89a\xff\xff\xff\xff" + bytes(9) + b";", "65,535 x 65,535 pixels are over", "thumbnail"),
    ],
)
def test_attach__refuses_what_models_cannot_take(value, message, hint):
    """In two lines, before anything is sent: what is wrong, and what to do."""
    with pytest.raises(RequestError, match=message) as caught:
        ask(value)
    assert "nothing was sent" in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert hint.replace("\\", "") in caught.value.hint


def test_attach__refuses_files_that_are_none(tmp_path, monkeypatch):
    """A missing one names those that are nearly called so; folders and pipes are never opened."""
    monkeypatch.chdir(tmp_path)
    for name in ("plot_1.png", "paper.pdf"):
        (tmp_path / name).write_bytes(png())
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        "plot1.png": "there is no such file (nothing was sent)\n  did you mean plot_1.png?",
        "paper.png": "there is no such file (nothing was sent)\n  did you mean paper.pdf?",
        "zzz": f"there is no such file (nothing was sent)\n  it was looked for in {tmp_path}",
        "no/zzz": "there is no such file (nothing was sent)\n  there is no folder no either",
        ".": "it is a folder",
        "pipe": "it is no plain file",
    }
    for name, said in wrong.items():
        with pytest.raises(RequestError) as caught:
            ask(name)
        assert said in str(caught.value)
    with open("large.bin", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(RequestError, match="over the limit"):
        ask("large.bin")


# -- laws -----------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.data())
def test_law__one_changed_byte_is_another_key(body, data):
    """Of a picture, a PDF and a sound."""
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    for head in (png(), pdf(1), WAV):
        assert key(head + body) != key(head + changed)
        assert key(head + body) == key(bytearray(head + body))


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_law__one_page_more_is_another_key(pages, others, compressed):
    """Of a PDF, whatever it is called."""
    same = key(pdf(pages, compressed=compressed)) == key(Source(pdf(others, compressed=compressed), "other"))
    assert same is (pages == others)


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_law__one_changed_pixel_is_another_key(width, height, data):
    """Of a picture as PIL has it, by any route."""
    image = Image.new("RGB", (width, height), data.draw(st.tuples(*[st.integers(0, 255)] * 3)))
    changed = image.copy()
    at = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    red, green, blue = image.getpixel(at)
    changed.putpixel(at, (red ^ data.draw(st.integers(1, 255)), green, blue))
    assert key(image) != key(changed)
    written = io.BytesIO()
    image.save(written, "PNG")
    assert key(image) == key(written.getvalue())


@given(st.lists(st.sampled_from([png(), png(5), pdf(1), WAV, b"text"]), min_size=1, max_size=4), st.data())
def test_law__order_and_number_are_in_the_key(given_, data):
    """Two lists of attachments are one request exactly when they are equal."""
    other = data.draw(st.permutations(given_))
    assert (key(given_) == key(other)) is (given_ == other)
    assert key(given_) != key([*given_, png(7)])


def written(form: str, **options) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((60, 50), 90).convert("RGB").save(file, form, **options)
    return file.getvalue()


thumbnail = Image.Exif()
thumbnail[0x9286] = "\xff\xd9" * 9


@pytest.mark.parametrize(
    "raw",
    [
        written("PNG"),
        written("JPEG", exif=thumbnail, comment=b"\xff\xd8\xff\xd9"),
        written("JPEG", progressive=True),
        written("GIF", save_all=True, append_images=[Image.new("RGB", (60, 50), (9, 9, 9))]),
        written("WEBP"),
        written("WEBP", lossless=True),
        pdf(3),
        pdf(3, b"\xff"),
    ],
    ids=["png", "jpeg", "progressive", "gif", "webp", "lossless", "text pdf", "pdf"],
)
def test_attach__what_is_cut_is_refused_and_what_follows_the_end_is_not(raw):
    """A file that was not copied whole would be paid for, and not be seen."""
    for more in (b"", b"\0\0", b"\n"):
        assert parts(raw + more)[0]["type"] != "text"
    for kept in (len(raw) - 8, len(raw) // 2, 30):
        with pytest.raises(RequestError, match=r"damaged|of no kind"):
            ask(raw[:kept])


@pytest.mark.parametrize(
    "text",
    [
        "ID3 tags are a container",
        "%PDF- is how a PDF begins",
        "%PDF-1.7 is how one begins",
        "A PDF begins %PDF-1.7 and ends %%EOF",
        "GIF89a was released in 1989;",
        "OggS, fLaC and others",
        "RIFF----WEBP is a container",
        "RIFF----WAVE is another",
    ],
)
def test_attach__a_text_that_begins_as_media_do_is_a_text(text):
    """It has neither NULs nor what is no UTF-8, and all of these have."""
    assert parts(text.encode()) == [{"type": "text", "text": f"\n\n```\n{text}\n```"}]


@pytest.mark.parametrize("before", [b"\n\n", b"\xef\xbb\xbf", b"\xff junk " * 90])
def test_attach__a_pdf_may_begin_late(before):
    """As readers take it: within 1,024 bytes."""
    assert parts(before + pdf(1))[0]["type"] == "file"
    with pytest.raises(RequestError, match="of no kind"):
        ask(b"\xff" * 1024 + pdf(1))


# -- what a file says of itself -------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("pages", [1, 2, 40])
def test_pdf_pages__are_counted(pages, compressed):
    """In plain and in compressed objects."""
    assert pdf_pages(pdf(pages, compressed=compressed)) == pages


def test_pdf_pages__are_unknown_where_the_file_contradicts_itself():
    """A page more than the tree states, no tree, damage: no number rather than a false one."""
    whole = pdf(2)
    assert pdf_pages(whole + b"<</Type/Page>>") is None
    assert pdf_pages(whole.replace(b"/Count 2", b"/Kount 2")) is None
    assert pdf_pages(b"%PDF-1.7") is None
    assert pdf_pages(pdf(2, compressed=True).replace(b"\nstream\n", b"\nstream\nx")) is None


@given(st.binary(max_size=200))
def test_law__foreign_bytes_are_read_or_refused(body):
    """Whatever follows the first bytes of a kind: a part, or a refusal of ours."""
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"%PDF-"):
        with suppress(RequestError):
            read_attachments(head + body)
        pdf_pages(head + body)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"progressive": True}])
def test_picture_size__is_what_pil_reads(form, options):
    """For what PIL writes, in each of a format's forms."""
    written = io.BytesIO()
    Image.new("RGB", (321, 123), (1, 2, 3)).save(written, form, **options)
    assert picture_size(written.getvalue()) == (321, 123)


def test_read__is_done_once(tmp_path):
    """What was read is what is asked, whatever becomes of the file."""
    path = tmp_path / "a.png"
    path.write_bytes(png())
    read = read_attachments(Path(path))
    path.unlink()
    assert read_attachments(read) is read
    assert key(read) == key(png())


# -- what a model takes ---------------------------------------------------------------------------

LLAMA, MINI = "meta-llama/llama-3.3-70b-instruct", "openai/gpt-4o-mini"
DEEPSEEK = "deepseek/deepseek-chat-v3.1"


def test_ask__refuses_what_a_model_is_listed_not_to_take(cache, sim):
    """Before anything is sent, with a model that can; a list that is not known refuses nothing."""
    with pytest.raises(RequestError, match=f"{LLAMA} takes no pictures .nothing was sent") as caught:
        cache.ask("What is this?", model=LLAMA, attach=png())
    assert caught.value.hint == "ask a model that takes pictures"
    cache.ask("What is this?", model=MINI, attach=png())
    with pytest.raises(RequestError, match=f"{MINI} takes no sound"):
        cache.ask("What is this?", model=MINI, attach=WAV)
    with pytest.raises(RequestError, match="take no sound and pictures"):
        cache.ask("What is this?", model=LLAMA, models=[DEEPSEEK], attach=[png(), WAV])
    looked_up = [one.path for one in sim.requests if MINI in one.path]
    assert [path.rpartition("/v1")[2] for path in looked_up] == [f"/model/{MINI}"]
    assert sim.completion_count == 1


def test_ask__without_a_key_says_what_the_kept_list_knows(open_cache, sim):
    """A key would not help: the model takes no pictures, no schema. What isn't known is not asked for without one."""
    for model in (LLAMA, "perplexity/sonar"):
        first = open_cache(sim)
        first.ask("Hello", model=model)
        first.money.prices.pricing(sim.base_url, model)
        first.close()
    sim.clear()
    cache = open_cache(sim, api_key=None)
    with pytest.raises(RequestError, match=f"{LLAMA} takes no pictures .nothing was sent"):
        cache.ask("What is this?", model=LLAMA, attach=png())
    with pytest.raises(OptionError, match="can't be held to a schema"):
        cache.ask("How many?", model="perplexity/sonar", schema="a int")
    for model in (MINI, "nope/nope"):
        with pytest.raises(MissingKeyError):
            cache.ask("What is this?", model=model, attach=png())
    assert sim.requests == ()


def test_ask__names_a_model_that_takes_it(cache):
    """Of those whose lists are kept."""
    cache.ask("Hello", model=LLAMA)
    cache.money.prices.pricing(cache.settings.base_url, MINI)
    with pytest.raises(RequestError) as caught:
        cache.ask("What is this?", model=LLAMA, attach=png())
    assert caught.value.hint == f"ask {MINI}"


def test_ask__of_a_fallback_that_takes_it_is_sent(cache, sim):
    """One of several models is enough, and a PDF is read for any."""
    for model in (LLAMA, MINI):
        cache.money.prices.pricing(cache.settings.base_url, model)
    assert cache.ask("What is this?", model=LLAMA, models=[MINI], attach=png()).model == MINI
    assert cache.ask("What is this?", model=LLAMA, attach=pdf(1)).outcome.stored


def test_ask__of_what_is_stored_asks_no_list(cache, sim):
    """A hit is served whatever is listed by now."""
    cache.ask("What is this?", attach=png())
    cache.money.prices.check_inputs = None
    assert cache.ask("What is this?", attach=png()).cached


def test_ask__leaves_no_large_attachment_in_the_log(cache):
    """It would be on the disk twice for as long as a script or a cell runs."""
    cache.ask("What is it about?", attach=pdf(1, b"\xff" * 2_000_000))
    (log,) = Path(cache.directory).glob("cache.db-wal")
    assert log.stat().st_size < 1_000_000


async def asked_on_a_loop(cache):
    return await cache.aask("What is this?", model=LLAMA, attach=png())


def test_aask__refuses_it_too(cache, sim):
    """The same error, and nothing sent."""
    cache.money.prices.pricing(cache.settings.base_url, LLAMA)
    with pytest.raises(RequestError, match="takes no pictures"):
        asyncio.run(asked_on_a_loop(cache))
    assert sim.completion_count == 0
