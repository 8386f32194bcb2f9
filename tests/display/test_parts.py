"""What an answer has besides its text is shown: images, audio, a refusal, tool calls."""

import base64
import html
import io
import re
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

from or_cache_magic.core.records import Answer, Choice, Usage
from or_cache_magic.display import parts
from or_cache_magic.display.screen import NotebookScreen, TerminalScreen

from .test_markdown_attacks import ATTACKS, FRONT_ENDS, PIECES, live

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 2000
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 20
GIF = b"GIF89a" + b"x" * 10
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Par\x1bis"}'}}


CITED = {
    "type": "url_citation",
    "url_citation": {
        "url": "https://example.org/tides",
        "title": "On tides",
        "start_index": 0,
        "end_index": 9,
    },
}
FILE = {
    "type": "file",
    "file": {"hash": "ab", "name": "a.pdf", "content": [{"type": "text", "text": "read"}]},
}


def parts_of(message, body=(), **facts):
    """The bundles of an answer with this message."""
    return parts.parts_of(Answer((Choice(message),), **facts), dict(body))


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
        (GIF, "image/gif", "[image: gif, 16 B]"),
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


def test_parts__image_in_other_places():
    """An image is found where policy finds one, which keeps the answer: a plain URL, base64 without one."""
    bare = base64.b64encode(PNG).decode()
    for form in ({"image_url": url(PNG)}, {"url": url(PNG)}, {"b64_json": bare}):
        (bundle,) = parts_of({"images": [form]})
        assert bundle["image/png"] == bare


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
    """Images of both forms, audio with its transcript, a refusal, tool calls, citations, reasoning: in this order."""
    message = {
        "reasoning": "It is <so>.",
        "annotations": [CITED, FILE],
        "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url(JPEG)}}],
        **image(PNG),
        "audio": {"data": base64.b64encode(WAV).decode(), "transcript": "Said <b>so</b>."},
        "refusal": "I won't.",
        "tool_calls": [CALL, CALL],
    }
    png, jpeg, sound, said, refused, called, cited, reasoned = parts_of(message)
    assert ("image/png" in png, "image/jpeg" in jpeg) == (True, True)
    assert sound["text/html"].startswith('<audio controls src="data:audio/wav;base64,')
    assert said["text/markdown"] == "Said &lt;b>so&lt;/b>."
    assert refused["text/plain"] == "I won't."
    assert called["text/plain"] == "\n".join(['weather({"city": "Par␛is"})'] * 2)
    assert cited["text/plain"] == "[1] On tides https://example.org/tides"
    assert "It is &lt;so&gt;." in reasoned["text/html"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"content": "x"},
        {"images": [None, "x", {"image_url": 5}, {"image_url": {"url": 5}}, {"b64_json": 5}]},
        {"audio": "x"},
        {"audio": {"data": 5, "transcript": 5}},
        {"tool_calls": "x"},
        {"refusal": {}},
        {"content": 5},
        {
            "reasoning": "",
            "reasoning_details": [None, 5, {"type": "reasoning.encrypted", "data": "x"}, {"text": 5}],
        },
        {"reasoning": 5, "reasoning_content": {}},
        {"annotations": 5},
        {
            "annotations": [
                None,
                "x",
                FILE,
                {"type": 5},
                {"type": "url_citation"},
                {"type": "url_citation", "url": 5},
            ]
        },
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


def test_parts__citations_are_numbered_links():
    """Each page once, in the reply's own order where it has one, which the text's numbers point to."""
    also = {
        "type": "url_citation",
        "url": "https://b.example/?a=1&copy=(2)[3]$x$",
        "title": "",
        "start_index": 1,
    }
    told = {
        "type": "web_search_citation",
        "web_search_citation": {"url": "ftp://c.example/*x*", "title": "*C*"},
    }
    message = {"annotations": [CITED, also, CITED, told]}
    (cited,) = parts_of(message, extra={"citations": ["https://www.d.example/", {"url": also["url"]}, 5]})
    assert cited["text/plain"].split("\n") == [
        "[1] https://www.d.example/",
        "[2] https://b.example/?a=1&copy=(2)[3]$x$",
        "[3] On tides https://example.org/tides",
        "[4] *C* ftp://c.example/*x*",
    ]
    for show in FRONT_ENDS.values():
        page = show(cited["text/markdown"])
        links = [html.unescape(target) for target in re.findall(r'href="([^"]*)"', page)]
        assert links == [
            "https://www.d.example/",
            "https://b.example/?a=1&copy=%282%29%5B3%5D%24x%24",
            "https://example.org/tides",
        ]
        assert page.count("<li>") == 4
        assert "<em>" not in page


def test_parts__of_many_citations_the_first_are_shown():
    """A reply with thousands fills no notebook; the value has all of them."""
    (cited,) = parts_of({}, extra={"citations": [f"https://example.org/{n}" for n in range(5000)]})
    assert cited["text/plain"].count("\n") == 100
    assert cited["text/plain"].endswith("and 4,900 more: answer.citations")
    assert cited["text/markdown"].endswith("and 4,900 more: answer.citations")


@pytest.mark.parametrize(
    ("usage", "told"),
    [(None, ""), (Usage(3, 4), ""), (Usage(3, 2000, reasoning_tokens=1234), ", 1,234 tokens")],
)
def test_parts__reasoning_is_folded(usage, told):
    """In a notebook it unfolds; where nothing does, and in a terminal, it is a line."""
    details = [{"type": "reasoning.summary", "summary": "One."}, {"type": "reasoning.text", "text": "Two."}]
    for message, text in (
        ({"reasoning": "Why <b>"}, "Why &lt;b&gt;"),
        ({"reasoning_details": details}, "One.\n\nTwo."),
    ):
        (bundle,) = parts_of(message, usage=usage)
        assert bundle["text/plain"] == f"[reasoned{told}: answer.reasoning]"
        assert bundle["text/markdown"] == f"*reasoned{told}: answer.reasoning*"
        assert re.sub("<.*?>", "", bundle["text/html"]) == f"reasoned{told}{text}"
        assert bundle["text/html"].startswith("<details><summary>")


def test_parts__audio_of_a_stream_plays():
    """Samples without a header get one, and pieces that were padded one by one are whole."""
    samples = bytes(range(256)) * 100
    pieces = "".join(
        base64.b64encode(samples[at : at + 1000]).decode() for at in range(0, len(samples), 1000)
    )
    message = {"audio": {"data": pieces}}
    (bundle,) = parts_of(message, {"audio": {"format": "pcm16"}})
    played = base64.b64decode(re.search('base64,([^"]*)', bundle["text/html"])[1])
    with wave.open(io.BytesIO(played)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 24_000)
        assert sound.readframes(sound.getnframes()) == samples
    assert bundle["text/plain"] == "[audio: wav, 25.6 KB]"
    assert parts_of(message)[0]["text/plain"] == "[audio: of a kind that isn't shown, 25.6 KB]"


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_parts__leave_nothing_live(text):
    """Whatever a stranger puts into a title, a URL, a name, an argument or a thought, it is text."""
    urls = (text, f"https://{text}", f"https://a.b/{text}", f"https://a.b/?{text}#{text}")
    notes = [{"type": "url_citation", "url": url, "title": title} for url in urls for title in (text, "")]
    message = {
        "annotations": notes,
        "reasoning": text,
        "refusal": text,
        "audio": {"data": "A", "transcript": text},
        "images": [{"image_url": {"url": text}}],
        "tool_calls": [{"function": {"name": text, "arguments": text}}],
    }
    for bundle in parts_of(message, extra={"citations": [text]}):
        assert {name: live(show(bundle["text/markdown"])) for name, show in FRONT_ENDS.items()} == {
            name: [] for name in FRONT_ENDS
        }
        allowed = {"details", "summary"}
        assert set(live(bundle.get("text/html", ""))) <= allowed
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "".join(bundle.values()))


MIXED = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(MIXED, MIXED)
def test_parts__cite_nothing_live_in_any_mix(title, rest):
    """However the tricks are mixed in titles and addresses, each page is one line, and a link to a page."""
    notes = [
        {"type": "url_citation", "url": url, "title": title} for url in (f"https://a.b{rest}", f"x{rest}")
    ]
    (cited,) = parts_of({"annotations": notes})
    assert len(cited["text/markdown"].split("\n")) == 2
    for show in FRONT_ENDS.values():
        assert live(show(cited["text/markdown"])) == []


EACH = {
    "image": image(PNG),
    "audio": {"audio": {"data": base64.b64encode(WAV).decode(), "transcript": "Said."}},
    "refusal": {"refusal": "no"},
    "tool_calls": {"tool_calls": [CALL]},
    "citations": {"annotations": [CITED]},
    "reasoning": {"reasoning": "Because."},
    "all": {
        **image(PNG),
        "refusal": "no",
        "tool_calls": [CALL],
        "annotations": [CITED],
        "reasoning": "Because.",
    },
}


@pytest.mark.parametrize("text", ["", "Look:"])
@pytest.mark.parametrize("message", EACH.values(), ids=EACH)
def test_screen__shows_parts_bought_and_cached_alike(message, text):
    """An answer that is more than text is the same outputs, waited for or not, streamed or served."""
    parts = parts_of(message)
    cached = outputs(text, parts, streamed=False, waited=False)
    assert outputs(text, parts, streamed=True, waited=False) == cached
    assert outputs(text, parts, streamed=True, waited=True) == cached
    assert len(cached) == len(parts) + bool(text) > 0


def page_of(*bundles, sanitised):
    """What nbconvert makes of a cell with these outputs."""
    shown = [new_output("display_data", data=bundle) for bundle in bundles]
    exporter = HTMLExporter(sanitize_html=sanitised)
    return exporter.from_notebook_node(new_notebook(cells=[new_code_cell("ask", outputs=shown)]))[0]


@pytest.mark.parametrize("sanitised", [False, True])
def test_nbconvert__shows_parts(sanitised):
    """A page has the images, the links, the reasoning and the words, also where it is sanitised."""
    message = {**EACH["all"], **EACH["audio"], "reasoning": "Since <b>tides</b> turn."}
    page = page_of(*parts_of(message), sanitised=sanitised)
    body = page[page.index("<body") :]
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in body
    assert 'href="https://example.org/tides"' in body
    assert "Since &lt;b&gt;tides&lt;/b&gt; turn." in body
    assert ("<audio" in body) is not sanitised
    for words in ("Said.", "weather(", "On tides"):
        assert words in body


def test_terminal__tells_of_parts():
    """A terminal has a line for each."""
    written = []
    screen = TerminalScreen(write=written.append)
    screen.feed("Look:")
    screen.finish("Look:", parts_of(EACH["all"]))
    assert "".join(written).split("\n") == [
        "Look:",
        "[image: png, 2 KB]",
        "no",
        'weather({"city": "Par␛is"})',
        "[1] On tides https://example.org/tides",
        "[reasoned: answer.reasoning]",
        "",
    ]
