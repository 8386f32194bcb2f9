"""What a client is told, read back: bodies and chunks are the answers that they were made of, whole."""

from __future__ import annotations

import json

import pytest

from or_cache_magic.clients.wire import DONE, body_of, chunks_of, event, read_request, refusal_of
from or_cache_magic.core.records import Answer, Choice, Cost, Request
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import BudgetError, CacheMissError, OptionError, RequestError, UpstreamError
from or_cache_magic.openrouter.reply import ReplyReader

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
DETAILS = [{"type": "reasoning.text", "text": "Hm.", "index": 0, "format": None}]
LOGPROBS = {"content": [{"token": "Yes", "logprob": -0.25, "bytes": [89], "top_logprobs": []}]}
NOTE = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "cost": 0.0000123, "is_byok": False}
EXTRA = {
    "usage": USAGE,
    "service_tier": "flex",
    "system_fingerprint": "fp_1",
    "citations": ["https://a.example"],
}
MESSAGES = {
    "text": {"role": "assistant", "content": "Yes."},
    "long text": {"role": "assistant", "content": "Grüße 🌍 " * 1000},
    "reasoning": {"role": "assistant", "content": "Yes.", "reasoning": "Hm.", "reasoning_details": DETAILS},
    "tool calls": {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
    "text and a tool call": {"role": "assistant", "content": "I call.", "tool_calls": [CALL]},
    "a refusal": {"role": "assistant", "content": None, "refusal": "No."},
    "citations": {"role": "assistant", "content": "Yes [1].", "annotations": [NOTE, NOTE]},
    "an image": {"role": "assistant", "content": "", "images": [IMAGE]},
    "parts": {"role": "assistant", "content": [{"type": "text", "text": "See:"}, IMAGE]},
    "audio": {
        "role": "assistant",
        "content": None,
        "audio": {"id": "a", "data": "UklGRg==", "transcript": "Yes."},
    },
    "what is not known": {"role": "assistant", "content": "Yes.", "mood": {"kind": "calm"}},
}


def answer_of(*messages, **more):
    choices = tuple(Choice(message, more.pop("reason", "stop"), "end_turn", **more) for message in messages)
    facts = {"model": "openai/gpt-4o-mini", "provider": "OpenAI", "generation_id": "gen-1-abc"}
    return Answer(choices, **facts, extra=EXTRA)


def facts(answer):
    """What an answer is, without when it was read."""
    return [
        answer.choices,
        answer.model,
        answer.provider,
        answer.generation_id,
        answer.extra,
        answer.usage,
        answer.cost,
    ]


def read(answer, stream):
    reader, request = ReplyReader(), Request({"model": "m"})
    if stream:
        chunks = list(chunks_of(answer, request))
        reader.read_stream([*map(event, chunks), DONE])
        assert reader.is_over
    else:
        reader.read_body(json.dumps(body_of(answer, request)).encode())
    assert reader.complete
    return reader.answer()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", MESSAGES)
def test_reply__is_the_answer(name, stream):
    """Every kind of message, its ending and all that the reply said beside it come back as they were."""
    answer = answer_of(MESSAGES[name])
    found = read(answer, stream)
    assert facts(found)[:5] == facts(answer)[:5]
    assert (found.doubt, found.usage.prompt_tokens, str(found.cost.usd)) == (None, 5, "0.0000123")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_reply__has_every_choice_with_its_log_probabilities(stream):
    """Choices keep their order, and each its own log probabilities, piece by piece."""
    answer = answer_of(MESSAGES["text"], MESSAGES["tool calls"], MESSAGES["long text"], logprobs=LOGPROBS)
    assert read(answer, stream).choices == answer.choices


def test_reply__of_an_answer_that_says_little_is_whole():
    """An answer without usage, provider or id is a complete reply all the same."""
    bare = Answer((Choice(MESSAGES["text"], "stop"),), cost=Cost(None, "unknown"))
    for stream in (False, True):
        found = read(bare, stream)
        assert (found.choices[0].message, found.usage) == (MESSAGES["text"], None)


def test_request__says_how_the_cache_is_used_in_headers():
    """Mode, sample, lifetime, labels and limit are the headers'; none of them changes the key but the sample."""
    body = b'{"model": "m", "messages": [], "temperature": 0}'
    plain = read_request(body, {}, Settings())
    told = {"mode": "refresh", "ttl": "24h", "tag": "a,b", "max-cost": "0.05"}
    wanted = read_request(body, {f"x-or-cache-{name}": value for name, value in told.items()}, Settings())
    assert (wanted.ask.policy.mode, wanted.ask.policy.ttl_s, wanted.ask.policy.tags) == (
        "refresh",
        86400,
        ("a", "b"),
    )
    assert (wanted.ask.key, str(wanted.max_cost_usd)) == (plain.ask.key, "0.05")
    sampled = read_request(body, {"x-or-cache-sample": "1"}, Settings())
    assert (sampled.ask.request.sample, sampled.ask.key == plain.ask.key) == (1, False)


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (b"{", {}, RequestError),
        (b"[1]", {}, RequestError),
        (b'{"seed": NaN}', {}, RequestError),
        (b'{"a":' * 100_000, {}, RequestError),
        (b"\xff\xfe{", {}, RequestError),
        (b'{"prompt": "sk-or-v1-' + b"a1" * 32 + b'"}', {}, RequestError),
        (b"{}", {"x-or-cache-mod": "refresh"}, OptionError),
        (b"{}", {"x-or-cache-sample": "-1"}, OptionError),
        (b"{}", {"x-or-cache-max-cost": "much"}, OptionError),
    ],
)
def test_request__that_makes_no_sense_is_refused(body, headers, error):
    """What is no JSON object, can't be keyed, holds a key or has a wrong header is an error before it is sent."""
    with pytest.raises(error):
        read_request(body, headers, Settings())


def test_request__is_keyed_as_it_stands():
    """No setting fills in what it leaves out; null and absent are two, `stream` and its options are not in the key."""

    def key(body, **settings):
        return read_request(json.dumps(body).encode(), {}, Settings(**settings)).ask.key

    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert key(body) == key(body, temperature=0.5, system="s", max_tokens=7) == key(body | {"stream": True})
    assert key(body) == key(body | {"stream_options": {"include_usage": True}, "user": "me"})
    assert len({key(body), key(body | {"temperature": None}), key(body | {"anything": 1})}) == 3
    assert key(body | {"model": "short"}, aliases={"short": "m"}) == key(body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("bad", "mend"), 400, "RequestError"),
        (BudgetError("dear", "save"), 402, "BudgetError"),
        (CacheMissError("offline", "buy"), 404, "CacheMissError"),
        (UpstreamError("none", "again"), 502, "UpstreamError"),
        (UpstreamError("slow", status=429, retry_after_s=7, body={"code": 429, "message": "slow"}), 429, 429),
    ],
)
def test_refusal__says_what_the_error_says(error, status, code):
    """A server's own error is passed on; ours has a status, both lines, and its class as the code."""
    head, body = refusal_of(error)
    assert (head.status, body["error"]["code"]) == (status, code)
    assert body["error"]["message"] == ("slow" if status == 429 else str(error))
    assert head.headers.get("retry-after") == ("7" if status == 429 else None)
