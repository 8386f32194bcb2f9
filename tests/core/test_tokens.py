"""Input tokens without a tokenizer: the bounds hold for real ones, and nothing uncountable is counted."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.tokens import TokenRange, request_tokens, text_tokens
from or_cache_magic.simulator.tokens import count_tokens, prompt_tokens

TEXTS = {
    "English": (
        "Attention is the new scarcity. When every screen competes for the same few hours, the question is no "
        "longer what we can afford to buy but what we can afford to notice, and who decides that for us."
    ),
    "German": "Die Donaudampfschifffahrtsgesellschaft veröffentlichte gestern überraschend ihre Geschäftszahlen.",
    "Finnish": "Tietokoneohjelmistojen käyttöliittymäsuunnittelu edellyttää käyttäjätutkimusta ja pitkäjänteisyyttä.",
    "Russian": "Сегодня утром в городе выпал первый снег, и дети побежали на улицу лепить снеговика.",
    "Chinese": "今天早上城里下了第一场雪，孩子们都跑到街上去堆雪人。",  # noqa: RUF001
    "Japanese": "今朝、町に初雪が降り、子どもたちは外へ走って雪だるまを作りました。",
    "Korean": "오늘 아침 도시에 첫눈이 내려서 아이들이 눈사람을 만들러 거리로 뛰어나갔다.",
    "Hindi": "आज सुबह शहर में पहली बर्फ गिरी और बच्चे हिममानव बनाने के लिए सड़क पर दौड़ पड़े।",
    "Arabic": "سقط الثلج الأول في المدينة هذا الصباح وركض الأطفال إلى الشارع لصنع رجل ثلج.",
    "Python": (
        "def fit(self, X, y=None, *, sample_weight=None):\n"
        "    for i, (row, label) in enumerate(zip(X, y)):\n"
        "        self.coef_[i] += 0.01 * (label - row @ self.coef_)\n"
        "    return self\n"
    ),
    "JSON": '{"id": 48151623, "user": "u_3f9a1c", "score": -7.25813, "tags": ["a", "b"], "ok": true, "next": null}',
    "UUID": "0b5e7c1e-93a4-4d1f-8a57-2f6f0f9f3a11",
    "base64": "iVBORw0KGgoAAAANSUhEUgAACAIAAAIqCAYAAAACF2SHFzAAAMP2lDQ1BJQ0MgUHJvZmlsZQAA",
    "keys": "Q7xZ" * 20,
    "emoji": "😀🎉👍🏽 👩‍👩‍👧‍👦 🚀🔥🔥 ✅ 🇯🇵",
    "rule": "=" * 80,
    "blanks": " " * 400 + "\n" * 40,
}

TOKENIZERS = (
    "o200k",
    "cl100k",
    "Llama 3",
    "Qwen",
    "tekken",
    "Mistral v3",
    "DeepSeek V3",
    "Gemma 3",
    "Claude 3",
    "Claude 4.7",
)
COUNTED = {
    "English": (43, 43, 43, 43, 44, 45, 43, 42, 46, 56),
    "German": (21, 30, 30, 28, 22, 28, 27, 21, 34, 48),
    "Finnish": (32, 45, 45, 45, 38, 50, 41, 36, 47, 59),
    "Russian": (23, 42, 33, 32, 28, 36, 30, 24, 36, 36),
    "Chinese": (24, 33, 23, 17, 24, 29, 17, 18, 32, 31),
    "Japanese": (28, 36, 27, 25, 28, 34, 25, 23, 35, 34),
    "Korean": (25, 47, 24, 34, 23, 55, 33, 24, 50, 49),
    "Hindi": (23, 84, 39, 75, 32, 84, 47, 20, 57, 57),
    "Arabic": (25, 50, 29, 24, 21, 63, 29, 25, 49, 49),
    "Python": (56, 56, 56, 57, 57, 69, 58, 66, 70, 79),
    "JSON": (49, 49, 49, 57, 57, 57, 49, 57, 49, 54),
    "UUID": (33, 33, 33, 36, 36, 37, 33, 36, 34, 33),
    "base64": (45, 49, 49, 49, 51, 55, 47, 44, 58, 72),
    "keys": (80, 80, 80, 80, 80, 80, 80, 61, 80, 101),
    "emoji": (26, 45, 42, 26, 54, 40, 28, 19, 48, 47),
    "rule": (1, 1, 1, 1, 3, 7, 2, 5, 3, 5),
    "blanks": (7, 6, 6, 6, 17, 66, 7, 15, 26, 26),
}
"""What each of them counts, as `benchmarks/counters.py` reads them."""


@pytest.mark.parametrize("kind", TEXTS)
def test_text_tokens__bounds_hold_for_real_tokenizers(kind):
    """Every real tokenizer's count lies between the bounds, and the likely number does too."""
    low, likely, high = text_tokens(TEXTS[kind])
    assert low <= min(COUNTED[kind])
    assert max(COUNTED[kind]) <= high
    assert low <= likely <= high


@pytest.mark.parametrize("kind", ["English", "Python", "JSON"])
def test_text_tokens__likely_is_near_the_middle(kind):
    """In English, code and JSON the likely number is within a fifth of the middle of today's tokenizers."""
    today = sorted(COUNTED[kind][n] for n in (0, 2, 3, 4, 6, 7))
    middle = (today[2] + today[3]) / 2
    assert text_tokens(TEXTS[kind]).likely == pytest.approx(middle, rel=0.2)


@pytest.mark.parametrize(("kind", "times"), [("English", 2.6), ("Python", 2.7), ("JSON", 2.4)])
def test_text_tokens__bounds_are_not_idle(kind, times):
    """A text of some length is bounded to within a small factor, from either side."""
    low, likely, high = text_tokens(TEXTS[kind] * 10)
    assert high <= likely * times
    assert low >= likely / 2


def test_text_tokens__of_nothing():
    """No text, no tokens."""
    assert text_tokens("") == TokenRange(0, 0, 0)


_ANY = st.text(st.characters(codec=None), max_size=300) | st.sampled_from([*TEXTS.values()])


@given(_ANY)
def test_text_tokens__are_ordered_and_bounded_by_bytes(text):
    """Low, likely, high, in this order; high is at most the bytes, the marks of capitals, and two more."""
    low, likely, high = text_tokens(text)
    capitals = sum("A" <= char <= "Z" for char in text)
    assert 0 <= low <= likely <= high <= len(text.encode("utf-8", "surrogatepass")) + capitals + 2


@given(_ANY, _ANY)
def test_text_tokens__of_two_texts_are_at_least_those_of_each(one, other):
    """Joining texts loses nothing at the least, but for small letters that the other's English vouches for."""
    assert text_tokens(one + other).low >= text_tokens(one).low + text_tokens(other).low - 3


@given(_ANY)
def test_text_tokens__of_a_text_twice_are_twice_as_many(text):
    """A text twice over has at most twice the tokens, and a word's for what happens at the joint."""
    once, twice = text_tokens(text), text_tokens(text + text)
    assert twice.high <= 2 * once.high + 15
    assert twice.likely <= 2 * once.likely + 15


def test_text_tokens__take_less_than_cutting_the_text():
    """A long text is counted sooner than one regular expression could cut it into words."""
    text = (TEXTS["English"] + TEXTS["Python"]) * 600

    def fastest_s(call):
        times = []
        for _ in range(5):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        return min(times)

    assert fastest_s(lambda: text_tokens(text)) < fastest_s(lambda: count_tokens(text))


def asked(*messages, **fields):
    return {"model": "openai/gpt-4o-mini", "messages": list(messages), **fields}


HELLO = {"role": "user", "content": "Hello, world!"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, now or on one of the next seven days.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "day": {"type": "integer", "minimum": 0, "maximum": 7},
            },
            "required": ["place"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"place": "Oslo"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": -4, "sky": "snow"}'}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "place", "strict": True, "schema": {"type": "object"}},
}


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("openai/gpt-4o-mini", 11), ("anthropic/claude-sonnet-4.5", 11), ("anthropic/claude-opus-4.7", 17)],
)
def test_request_tokens__of_one_message(model, tokens):
    """The text and its frame: o200k's 4 + 7 (OpenAI's cookbook), Claude's 4 + 7 and 5 + 12 (ctok)."""
    low, likely, high = request_tokens({**asked(HELLO), "model": model})
    assert low <= tokens <= high
    assert likely == pytest.approx(tokens, abs=6)


@pytest.mark.parametrize(
    "more",
    [
        asked(HELLO, {"role": "assistant", "content": "Hello to you."}),
        asked({"role": "user", "content": [{"type": "text", "text": "Hello, world! " * 2}]}),
        asked({**HELLO, "name": "Ada"}),
        asked(HELLO, CALL),
        asked(HELLO, CALL, RESULT),
        asked(HELLO, tools=[TOOL]),
        asked(HELLO, response_format=SCHEMA),
        asked({**HELLO, "role": "assistant", "reasoning": "They greet the world; so do I."}),
    ],
    ids=["message", "parts", "name", "call", "result", "tools", "schema", "reasoning"],
)
def test_request_tokens__count_all_that_is_sent(more):
    """Whatever else a request has raises the likely number and the bound."""
    plain, found = request_tokens(asked(HELLO)), request_tokens(more)
    assert found.likely > plain.likely
    assert found.high > plain.high
    assert found.low >= plain.low


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_request_tokens__count_each_tool(name):
    """A second tool costs what its own text does; what frames the first is there already."""
    one, two = (request_tokens(asked(HELLO, **{name: tools})) for tools in ([TOOL], [TOOL, TOOL]))
    assert two.likely - one.likely == pytest.approx(text_tokens(json.dumps(TOOL)).likely, abs=6)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "of tomorrow"},
    ],
    ids=lambda part: part["type"],
)
def test_request_tokens__media_have_no_bound(part):
    """What isn't text can't be bounded; the text beside it is counted all the same."""
    text = {"type": "text", "text": TEXTS["English"]}
    found = request_tokens(asked({"role": "user", "content": [part, text]}))
    assert found.high is None
    assert found[:2] == request_tokens(asked({"role": "user", "content": [text]}))[:2]


@pytest.mark.parametrize(
    "fields",
    [
        {"plugins": [{"id": "web"}]},
        {"plugins": [{"id": "file-parser"}]},
        {"web_search_options": {"search_context_size": "high"}},
        {"web_search_options": {}},
        {"x_search_filter": {}},
        {"plugins": ["web"]},
        {"tools": ["web_search"]},
        {"model": "a/b:ONLINE"},
        {"model": "a/b@Preset/mine"},
        {"tools": [{"type": "openrouter:web_search"}]},
        {"model": "openai/gpt-4o:online"},
        {"models": ["openai/gpt-4o:online"]},
        {"model": "openai/gpt-4o@preset/mine"},
        {"preset": "mine"},
    ],
    ids=json.dumps,
)
def test_request_tokens__what_openrouter_puts_in_has_no_bound(fields):
    """Searches, parsed files and presets put text into the prompt that the request doesn't have."""
    assert request_tokens({**asked(HELLO), **fields}).high is None


@pytest.mark.parametrize(
    "fields",
    [
        {"plugins": [{"id": "response-healing"}]},
        {"plugins": [{"id": "web", "enabled": False}]},
        {"tools": [TOOL]},
    ],
    ids=json.dumps,
)
def test_request_tokens__what_puts_nothing_in_keeps_the_bound(fields):
    """A plugin that is off, or that only mends answers, and functions that the caller runs, add nothing unseen."""
    assert request_tokens({**asked(HELLO), **fields}).high is not None


@pytest.mark.parametrize(
    "body", [{}, {"messages": None}, {"messages": ["odd", {"content": 3}]}, {"messages": [{}]}]
)
def test_request_tokens__of_odd_bodies(body):
    """A body that OpenRouter will refuse is counted as far as it goes."""
    low, likely, high = request_tokens(body)
    assert 0 <= low <= likely <= high


def test_request_tokens__claude_counts_more():
    """The same request is likely more tokens for Claude, and more again since 4.7, in the same bounds."""
    found = [
        request_tokens({**asked({"role": "user", "content": TEXTS["English"]}), "model": model})
        for model in ("openai/gpt-5", "anthropic/claude-3.5-sonnet", "~anthropic/claude-sonnet-latest")
    ]
    assert found[0].likely < found[1].likely < found[2].likely
    assert len({(each.low, each.high) for each in found}) == 1


def test_request_tokens__marks_and_media_bytes_are_not_read():
    """Prompt-caching marks aren't read by the model, and an image's base64 isn't text."""
    part = {"type": "text", "text": "Hello, world!"}
    marked = {**part, "cache_control": {"type": "ephemeral"}}
    assert request_tokens(asked({"role": "user", "content": [part]})) == request_tokens(
        asked({"role": "user", "content": [marked], "cache_control": {"type": "ephemeral"}})
    )


@pytest.mark.parametrize(
    "kind", ["English", "German", "Finnish", "Russian", "Hindi", "Python", "JSON", "UUID"]
)
def test_text_tokens__hold_for_the_simulator(kind):
    """The simulator's own count lies within the range, so that its bills agree with estimates.

    Of languages without spaces, of base64 and of emoji it counts fewer tokens than any real tokenizer.
    """
    low, _, high = text_tokens(TEXTS[kind])
    assert low <= count_tokens(TEXTS[kind]) <= high


@pytest.mark.parametrize(
    "body",
    [
        asked(HELLO),
        asked({"role": "system", "content": TEXTS["English"]}, {"role": "user", "content": TEXTS["Python"]}),
        asked(HELLO, CALL, RESULT, tools=[TOOL], response_format=SCHEMA),
        asked(*[HELLO, {"role": "assistant", "content": TEXTS["German"]}] * 20),
    ],
    ids=["short", "system", "tools", "long"],
)
def test_request_tokens__hold_for_the_simulator(body):
    """The simulator bills a prompt within the range."""
    low, _, high = request_tokens(body)
    assert low <= prompt_tokens(body) <= high
