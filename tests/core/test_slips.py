"""What is nearly a name that the API knows is refused before it is sent and paid for."""

from __future__ import annotations

import numpy as np
import pytest

from or_cache_magic.cache.request import build_ask
from or_cache_magic.core import callbacks
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import InputError
from or_cache_magic.notebook.options import CELL
from or_cache_magic.notebook.parser import parse

SETTINGS = Settings(model="openai/gpt-4o-mini")
KEY = "sk-or-v1-" + "0a" * 32


def refused(prompt="q", settings=SETTINGS, **fields):
    """The two lines with which an ask is refused."""
    with pytest.raises(InputError, match="nothing was sent") as caught:
        build_ask(
            prompt,
            settings,
            {k: v for k, v in fields.items() if k != "model"},
            {"model": fields.get("model")},
        )
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        KEY, KEY.upper(), "sk-proj-" + "a1B2" * 8, "sk-ant-api03-" + "a1B2" * 8, "sk-" + "0af1" * 8,
        f"{KEY[:20]}\u200b{KEY[20:]}", f"s\u200bk{KEY[2:]}", f"{KEY[:5]}\ufeff{KEY[5:]}",
    ],
)  # fmt: skip
def test_build_ask__sends_no_key(key):
    """In a plain prompt, in messages, in a system prompt, in what is attached; and it is not shown."""
    for how in (
        {"prompt": f"my key is {key}."},
        {"prompt": key, "top_p": 0.5},
        {"prompt": [{"role": "user", "content": f"a {key}"}]},
        {"system": key},
        {"settings": Settings(model="a/b", system=key)},
        {"extra": {"zzz": key}},
        {"model": key},
    ):
        told = refused(**how)
        assert "API key" in told
        assert key not in told


@pytest.mark.parametrize(
    "text", ["risk-based", "SK-OR-V1-…", "a sk-or-v1-xxxx key", "task-" + "0a" * 32, "\u200b", "日本 sk-"]
)
def test_build_ask__takes_what_is_no_key(text):
    """Nor half of one."""
    assert build_ask(text, SETTINGS, {}).request.body["messages"][-1]["content"] == text


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ({"Role": "user", "content": "x"}, "did you mean role?"),
        ({"role": "usr", "content": "x"}, "did you mean user?"),
        ({"role": "User", "content": "x"}, "did you mean user?"),
        ({"role": "human", "content": "x"}, "system, developer, user"),
        ({"role": 1, "content": "x"}, "system, developer, user"),
        ({"content": "x"}, "system, developer, user"),
        ({"role": "user", "contnt": "x"}, "did you mean content?"),
        ({"role": "user", "text": "x"}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": ""}, "content"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "tool", "content": "x", "tool_callid": "1"}, "did you mean tool_call_id?"),
        ({"role": "assistant", "content": None, "tool_call": []}, "did you mean tool_calls?"),
        ({"role": "user", "content": [{"type": "txt", "text": "x"}]}, "did you mean text?"),
        ({"role": "user", "content": [{"type": "text", "txt": "x"}]}, "did you mean text?"),
        ({"role": "user", "content": [{"type": "image-url", "image_url": {"url": "x"}}]}, "did you mean image_url?"),
        ({"role": "user", "content": [{"type": "file", "file": {"fileData": "x"}}]}, "did you mean file_data?"),
        ({"role": "user", "content": [{"text": "x"}]}, "type"),
        ({"role": "user", "content": ["x"]}, "type"),
    ],
    ids=str,
)  # fmt: skip
def test_build_ask__refuses_a_message_that_is_nearly_one(message, meant):
    """It would be sent and paid for, and mean something else or nothing."""
    assert meant in refused([{"role": "system", "content": "s"}, message])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "content": "", "reasoning": "r", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
        {"role": "assistant", "content": "x", "annotations": [], "refusal": None, "images": [], "audio": {"id": "a"}, "prefix": True},
        {"role": "assistant", "content": "x", "reasoning_content": "r", "function_call": None, "provider_specific_fields": {}},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "user", "name": "Ann", "content": "x", "cache_control": {"type": "ephemeral"}, "id": "7", "metadata": {}},
        {"role": "developer", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "function", "name": "f", "content": None},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}]},
        {"role": "user", "content": [{"type": "hologram", "hologram": {"x": 1}}]},
    ],
    ids=lambda message: str(message)[:70],
)  # fmt: skip
def test_build_ask__takes_messages_with_more(message):
    """Of a conversation as OpenRouter gives it back, and what is not known here."""
    sent = build_ask([message, {"role": "user", "content": "q"}], SETTINGS, {}).request.body["messages"]
    assert sent[0] == message


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"extra": {"temprature": 1}}, "did you mean temperature?"),
        ({"extra": {"max-tokens": 5}}, "did you mean max_tokens?"),
        ({"extra": {"maxTokens": 5}}, "did you mean max_tokens?"),
        ({"extra": {"apiKey": "x"}}, "OPENROUTER_API_KEY"),
        ({"extra": {"on_txt": 1}}, "did you mean on_text?"),
        ({"response_format": {"type": "jsn_object"}}, "did you mean json_object?"),
        ({"response_format": {"typ": "json_object"}}, "did you mean type?"),
        ({"reasoning": {"efort": "low"}}, "did you mean effort?"),
        ({"reasoning": {"effort": "lo-w"}}, "did you mean low?"),
        ({"tool_choice": "atuo"}, "did you mean auto?"),
        ({"provider": {"ordr": ["x"]}}, "did you mean order?"),
        ({"models": ["a/b", "c d"]}, "space"),
        ({"ttl": np.timedelta64("NaT")}, "lifetime"),
    ],
    ids=str,
)  # fmt: skip
def test_build_ask__refuses_a_field_that_is_nearly_one(fields, meant):
    """Also within objects, and the words that a field takes."""
    assert meant in refused(**fields)


def test_build_ask__takes_what_is_not_known_here():
    """Names of their own, and lengths of time of numpy's."""
    extra = {"min_tokens": 3, "store": True, "top_n_sigma": 1, "best_of": 2}
    assert build_ask("q", SETTINGS, {"extra": extra}).request.body.items() >= extra.items()
    assert build_ask("q", SETTINGS, {"response_format": {"type": "yaml_object"}})
    for ttl in (
        np.timedelta64(1, "D"),
        np.timedelta64(86400 * 10**9, "ns"),
        np.array(np.timedelta64(24, "h")),
    ):
        assert build_ask("q", SETTINGS, {"ttl": ttl}).policy.ttl_s == 86400


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("a/b\u200b", ""), ("\x1b[31ma/b", ""), ("a b", ""), ("a/b,", "write a/b"), ("a/b,c/d", "models=["), (" a/b", "write a/b"),
        ("'a/b'", "write a/b"), ("openai/gpt\u20114o", ""), ("a/b\n", "write a/b"),
        ("https://openrouter.ai/openai/gpt-4o-mini", "write openai/gpt-4o-mini"),
        ("https://openrouter.ai/openai/gpt-4o-mini/api?x=1", "write openai/gpt-4o-mini"),
        ("openrouter.ai/models/a/b:free", "write a/b:free"),
        ("https://example.com/x", ""),
    ],
)  # fmt: skip
def test_build_ask__refuses_what_is_no_model(model, hint):
    """Named in Python, on a line, by a setting, or by an alias."""
    told = refused(model=model)
    assert hint in told
    assert "\x1b" not in told
    refused(settings=Settings(model=model))
    refused(settings=Settings(model="fast", aliases={"fast": model}))


@pytest.mark.parametrize(
    "model",
    ["~a/b", "@preset/x", "a/b:free", "qwen2.5-coder:7b", "a/b@preset/c", "/models/q_4+x.gguf", "模型"],
)
def test_build_ask__takes_models_of_other_servers(model):
    """Names that a server of one's own may have."""
    assert build_ask("q", SETTINGS, {}, {"model": model}).request.body["model"] == model


def test_callbacks_of__refuses_what_can_t_be_called():
    """Before anything is sent."""
    for how in ({"on_text": 5}, {"on_wait": "x"}):
        with pytest.raises(InputError, match="nothing was sent"):
            callbacks.callbacks_of(**how)


@pytest.mark.parametrize(
    "word",
    [
        "extra={}",
        "mode='\"offline\"'",
        "tag='\"x\"'",
        "ttl=5",
        "apiKey='\"x\"'",
        "provider.sort=1",
        "temprature=1",
    ],
)
def test_param__does_not_set_what_has_a_place_of_its_own(word):
    """Nothing is dropped, and nothing goes before what the line says."""
    with pytest.raises(InputError, match="nothing was sent"):
        build_ask("q", SETTINGS, parse(CELL, f"a/b -p {word}").params)
