"""Small pictures and short texts of what an entry holds, made of foreign bytes."""

from __future__ import annotations

import base64
import io
import sys

import pytest
from PIL import Image

from or_cache_magic.core.media import Attached, attached_from
from or_cache_magic.display.thumbnails import attached_lines, cut, shortened, thumbnail, thumbnails_html


def picture(width: int, height: int, form: str = "PNG", mode: str = "RGB") -> bytes:
    written = io.BytesIO()
    image = Image.effect_noise((width, height), 90).convert(mode)
    image.save(written, form)
    return written.getvalue()


def url(raw: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def size(shown: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).size


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_thumbnail__is_small(form, mode):
    """Whatever it is called; with what it is."""
    raw = picture(800, 300, form, mode)
    shown, told = thumbnail(url(raw, "text/html"))
    assert shown.startswith("data:image/png;base64,")
    assert size(shown) == (160, 60)
    assert told.startswith(("PNG, ", "JPEG, ", "WebP, ", "GIF, "))
    assert "800 x 300 pixels" in told
    assert len(shown) < 100_000


def test_thumbnail__without_pillow_is_what_is_small(monkeypatch):
    """The picture itself, and nothing of a large one."""
    small, large = picture(20, 10), picture(800, 800)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert thumbnail(url(small))[0] == url(small)
    assert thumbnail(url(large)) is None


@pytest.mark.parametrize(
    "found",
    [
        "https://evil.example/x.png",
        "javascript:alert(1)",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,???",
        'data:image/png;base64,"><script>',
        url(b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\xff\xff\0\0\xff\xff"),
        url(b"GIF89a\0\0\0\0"),
        url(b"%PDF-1.4"),
        "",
    ],
)
def test_thumbnail__of_anything_else_is_none(found):
    """Nothing is fetched, nothing that says it is huge is opened, and no other text comes into the page."""
    assert thumbnail(found) is None
    assert thumbnails_html({"images": [{"image_url": {"url": found}}]}) == ""


def test_thumbnail__of_a_damaged_picture_is_itself():
    """What Pillow can't read the browser may; it is a picture by its first bytes, and small."""
    broken = picture(20, 10)[:60]
    assert thumbnail(url(broken))[0] == url(broken)


def test_thumbnails_html__is_of_content_and_images():
    """Of requests and answers; a few of many."""
    part = {"type": "image_url", "image_url": {"url": url(picture(4, 4))}}
    html = thumbnails_html({"content": [{"type": "text", "text": "x"}, part], "images": [part]})
    assert html.count("<img ") == 2
    assert 'alt="PNG, 4 x 4 pixels, ' in html
    assert thumbnails_html({"content": [part] * 50}).count("<img ") == 8
    assert thumbnails_html({"content": [None, 3, {"image_url": 3}], "images": "x"}) == ""


def test_shortened__counts_what_is_left_out():
    """Media by its beginning, texts by their first pages, all else as it is."""
    data = base64.b64encode(bytes(range(1, 256)) * 9).decode().replace("/", "a").replace("+", "b")
    assert shortened({"a": [url(bytes(900)), 1, None]})["a"][0].endswith("… (1,162 more characters)")
    assert cut(data) == f"{data[:60]}… ({len(data) - 60:,} more characters)"
    assert cut("word " * 200) == "word " * 200
    assert cut("x y" * 40_000).endswith("… (20,000 more characters)")


def test_attached_lines__tell_name_kind_size_and_digest():
    """On one line each, without control characters."""
    told = attached_lines(
        [Attached("a\x1b[2J.png", "PNG", 31_000, "0f3a"), Attached("https://x/a", "link", 0, "")]
    )
    assert told == ["a␛[2J.png · PNG · 31 KB · sha256 0f3a…", "https://x/a · link"]


@pytest.mark.parametrize(
    "form",
    [
        [[1, "PNG", 3, ""]],
        [["a", "PNG", -1, ""]],
        [["a", "PNG", True, ""]],
        [["a"]],
        ["abcd"],
        [["x" * 5000, "", 0, ""]],
        5,
    ],
)
def test_attached_from__refuses_what_is_none(form):
    """An entry may come from a stranger."""
    with pytest.raises((TypeError, ValueError)):
        attached_from(form)
