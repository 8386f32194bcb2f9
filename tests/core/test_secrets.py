"""A key is taken out of foreign text, however the text spells it."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest

from or_cache_magic.core.secrets import redacted, without
from or_cache_magic.openrouter.reply import ReplyReader

KEY = "sk-or-v1-" + "0f1e2d3c4b5a6978" * 4
PART = KEY[9:]


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        PART,
        KEY.upper(),
        KEY[:60],
        PART[20:36],
        KEY.replace("-", "%2D"),
        KEY.replace("-", "&#45;"),
        KEY.replace("-", "\\u002d"),
        "".join(f"%{ord(letter):02x}" for letter in KEY),
        "".join(f"&#{ord(letter)};" for letter in PART),
        "\u200b".join(KEY),
        PART[:30] + "\u00ad\u2060" + PART[30:],
        encoded(KEY),
        encoded(f"Bearer {KEY}"),
        encoded(f"me:{KEY}"),
        encoded(f"u:{PART}"),
        base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
        KEY.encode().hex(),
    ],
)
def test_without__finds_the_key_however_it_is_spelled(echo):
    """No 16 characters of it in a row are left, and what stands around it is."""
    text = f"Größe <{echo}>, and on"
    left = without(text, KEY)
    shown = html.unescape(left).lower()
    assert left.startswith("Größe <")
    assert left.endswith(">, and on")
    assert not any(PART[i : i + 16] in shown or quote(PART[i : i + 16]) in shown for i in range(48))
    assert "…" in left
    assert len(left) < len(text)
    assert sum(letter in left for letter in (encoded(KEY)[20:30], KEY.encode().hex()[40:60])) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a key begins with sk-or-v1-",
        PART[:15],
        "100 % of it, & more &#45; \\u002d",
        "\u200bx" * 20,
        "İ" * 40,
    ],
)
def test_without__leaves_all_else_as_it_is(text):
    """Nothing else is changed: no encoded character and no zero-width one."""
    assert without(text, KEY) == text
    assert without(text, "") == text


def test_without__takes_a_short_key_only_whole():
    """A short key is a word of any text unless it looks like a key."""
    assert without("say SK-or-x1 now", "sk-or-x1") == "say … now"
    assert without("say hello", "hello") == "say hello"


@pytest.mark.parametrize("size", [1, 3, 20])
def test_reader__shows_no_echo_of_the_key_in_pieces(size):
    """A piece that may go on as the key is shown when it is known that it does not, or when the answer ends."""
    seen = []
    reader = ReplyReader(seen.append)
    reader.restart(KEY)
    said = f"the key {KEY}! and 0f1e"
    for n in range(0, len(said), size):
        reader.read_event(json.dumps({"choices": [{"delta": {"content": said[n : n + size]}}]}))
    reader.read_event(json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    assert "".join(seen) == reader.answer().text == "the key …! and 0f1e"
    assert len(seen) > 1


@pytest.mark.parametrize("echo", [PART, KEY.upper(), KEY[:60]])
def test_reader__shows_no_echo_of_the_key(echo):
    """Wherever text comes in: content, names, errors, what else the reply says."""
    choice = {
        "message": {"content": echo, "odd": [{echo: echo}]},
        "finish_reason": echo,
        "native_finish_reason": echo,
    }
    reply = {
        "id": echo,
        "provider": echo,
        "model": echo,
        "service_tier": echo,
        "choices": [choice],
        "error": {"message": echo},
    }
    seen = []
    reader = ReplyReader(seen.append)
    reader.restart(KEY)
    reader.read_body(json.dumps(reply).encode())
    assert PART[:16] not in f"{reader.answer()!r} {seen}".lower()
    assert redacted({"x": [echo]}, KEY) == {"x": ["…"]}
