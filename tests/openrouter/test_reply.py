"""How replies are read off the wire: streams, whole replies, and what proves them whole."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.policy import Policy, lifetime_s, why_not_stored
from or_cache_magic.core.records import UNKNOWN_COST, Cost, Entry, Request, RequestKey, Usage
from or_cache_magic.openrouter.reply import ReplyReader
from or_cache_magic.openrouter.wire import MalformedReplyError, events_of, join_surrogates
from or_cache_magic.storage.codec import decode_entry, encode_entry

USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 2117,
    "total_tokens": 2134,
    "cost": 0.00423825,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1024},
    "cost_details": {"upstream_inference_cost": 0.00423825},
}


def chunk(delta=None, finish=None, *, index=0, **more):
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
    base = {"id": "gen-1", "object": "chat.completion.chunk", "model": "m-served", "provider": "P"}
    return "data: " + json.dumps(base | {"choices": choices} | more)


def text(content, finish=None, **more):
    return chunk({"role": "assistant", "content": content}, finish, **more)


DONE = "data: [DONE]"
# An alphabet of its own: the first draw from all of Unicode takes seconds in a fresh checkout.
WHOLE_LETTERS = "a :\u00e9e\u0301\u2028\u2029\x85\x0b\x0c\x1c\uffff\U0001f600\U0010ffff"
LAST = {
    "a": text("", None, usage=USAGE),
    "b": chunk(usage=USAGE),
    "c": text("", "stop", usage=USAGE, service_tier="default"),
}


def read(*lines, on_text=None):
    reader = ReplyReader(on_text) if on_text else ReplyReader()
    read_events(reader, *lines)
    return reader


def read_events(reader, *lines):
    any(map(reader.read_event, events_of("\n\n".join([*lines, ""]).encode() for _ in "1")))


@pytest.mark.parametrize("shape", "abc")
def test_draft__reads_each_shape_of_the_last_chunk(shape):
    """The usage is found and the answer whole, whichever of the three shapes the last chunk has."""
    answer = read(text("Hel"), text("lo"), text("", "stop"), LAST[shape], DONE).answer()
    assert (answer.text, answer.finish_reason, answer.complete) == ("Hello", "stop", True)
    assert answer.usage == Usage(17, 2117, 3, 2, 1024)
    assert answer.cost == Cost(Decimal("0.00423825"), "reported")
    assert (answer.model, answer.provider, answer.generation_id) == ("m-served", "P", "gen-1")


def test_draft__reads_on_after_the_finish_reason():
    """A finish reason ends nothing: the usage comes after it."""
    reader = read(text("Hello", "stop"))
    assert reader.answer().usage is None
    read_events(reader, LAST["b"])
    assert reader.answer().usage is not None


@pytest.mark.parametrize(
    ("lines", "complete"),
    [
        ([], False),
        ([DONE], False),
        ([text("Hi")], False),
        ([text("Hi"), DONE], False),
        ([text("Hi"), LAST["a"]], False),
        ([text("Hi", "stop")], False),
        ([text("Hi", "stop"), DONE], True),
        ([text("Hi", "stop"), LAST["b"]], True),
        ([text("Hi", "stop", usage=USAGE)], True),
        ([text("H", usage=USAGE), text("i", "stop", usage=USAGE)], True),
        ([text("H", usage=USAGE), text("i", "stop")], False),
        ([text("H", "stop"), text("", "stop", index=1), LAST["b"]], True),
        ([text("H", "stop"), text("i", index=1), LAST["b"]], False),
    ],
    ids=str,
)
def test_draft__is_whole_only_when_proven(lines, complete):
    """Whole is: every choice finished, and after that the usage or the end marker."""
    assert read(*lines).answer().complete is complete


def test_draft__is_over_when_its_proof_can_be_believed():
    """A server that tells a finish and a usage with each piece has not ended before its end marker."""
    assert read(text("Hi", "stop", usage=USAGE)).is_over
    assert not read(text("H", "stop")).is_over
    reader = read(text("H", "stop", usage=USAGE), text("i", "stop", usage=USAGE))
    assert (reader.complete, reader.is_over) == (True, False)
    read_events(reader, DONE)
    assert reader.is_over


def test_draft__passes_over_comments_and_other_fields():
    """Comments, blank lines, event names and ids say nothing; a space after ``data:`` is not needed."""
    lines = [
        ": OPENROUTER PROCESSING",
        "",
        "event: x",
        "id: 7",
        "retry: 10",
        text("Hi", "stop"),
        "data:[DONE]",
    ]
    assert read(*lines).answer().complete


def test_draft__reports_text_as_it_comes():
    """Each piece of the first choice is passed on at once; empty pieces and other choices are not."""
    seen = []
    read(text("Hel"), text(""), text("x", index=1), text("lo"), on_text=seen.append)
    assert seen == ["Hel", "lo"]


def test_draft__joins_halves_of_a_character():
    """An emoji whose two escapes come in two chunks is one character, shown once and whole."""
    seen = []
    reader = read(text("a\ud83d"), text("\ude00b", "stop"), DONE, on_text=seen.append)
    assert reader.answer().text == "a\U0001f600b"
    assert "".join(seen) == "a\U0001f600b"
    assert all(piece.encode() for piece in seen)


def test_draft__replaces_a_lone_half_of_a_character():
    """Half a character, which no file can hold, becomes the replacement character, in names too."""
    delta = {"content": "\udc00", "reasoning_details": [{"index": 0, "te\ud800": ["\ud800"]}]}
    message = read(chunk(delta, "stop"), DONE).answer().choices[0].message
    assert message["content"] == "\ufffd"
    assert message["reasoning_details"] == [{"index": 0, "te\ufffd": ["\ufffd"]}]


@given(st.text(WHOLE_LETTERS))
def test_join_surrogates__leaves_whole_text_alone(value):
    """Text without halves of characters is not changed in any way."""
    assert join_surrogates(value) == value


@given(st.text(WHOLE_LETTERS + "\ud83d\ude00\udbff\udc00"))
def test_join_surrogates__can_always_be_written(value):
    """What comes of it can be encoded."""
    assert join_surrogates(value).encode().decode() == join_surrogates(value)


def test_draft__assembles_tool_calls_from_fragments():
    """Fragments go to the call with their index, in whatever order they come; no text is no content."""

    def fragment(index, arguments, **more):
        return {"index": index, "function": {"arguments": arguments, **more.pop("f", {})}, **more}

    lines = [
        chunk({"tool_calls": [fragment(0, "", id="c0", type="function", f={"name": "add"})]}),
        chunk({"tool_calls": [fragment(1, "", id="c1", type="function", f={"name": "mul"})], "content": ""}),
        chunk({"tool_calls": [fragment(1, '{"a"'), fragment(0, "{}")]}),
        chunk({"tool_calls": [fragment(1, ": 1}")]}),
        chunk({"content": ""}, "tool_calls"),
        LAST["b"],
    ]
    message = read(*lines).answer().choices[0].message
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            {"id": "c1", "type": "function", "function": {"name": "mul", "arguments": '{"a": 1}'}},
        ],
    }


def test_draft__assembles_reasoning_annotations_and_images_in_order():
    """Reasoning text goes on, a sealed item of another type stands beside it; lists are appended to."""
    lines = [
        chunk(
            {
                "reasoning": "I th",
                "reasoning_details": [{"type": "reasoning.text", "text": "I th", "index": 0, "format": None}],
            }
        ),
        chunk(
            {"reasoning": "ink", "reasoning_details": [{"type": "reasoning.text", "text": "ink", "index": 0}]}
        ),
        chunk({"reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "s", "index": 0}]}),
        chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}]}),
        chunk({"annotations": [{"type": "url_citation", "n": 1}]}),
        text("Hi"),
        chunk({"annotations": [{"type": "url_citation", "n": 2}], "images": [{"index": 0}]}),
        text("", "stop"),
        DONE,
    ]
    message = read(*lines).answer().choices[0].message
    assert message["reasoning"] == "I think"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "I think", "signature": "s", "index": 0, "format": None},
        {"type": "reasoning.encrypted", "data": "x", "index": 0},
    ]
    assert [a["n"] for a in message["annotations"]] == [1, 2]
    assert message["images"] == [{"index": 0}]
    assert message["content"] == "Hi"


def test_draft__joins_audio_and_logprobs():
    """Audio and log probabilities come in pieces too."""
    more = {"logprobs": {"content": [{"token": "a"}], "refusal": None}}
    first = {"index": 0, "delta": {"audio": {"id": "1", "data": "AA", "transcript": "he"}}, **more}
    second = {
        "index": 0,
        "delta": {"audio": {"data": "BB", "transcript": "y"}},
        "finish_reason": "stop",
        **more,
    }
    lines = ["data: " + json.dumps({"choices": [choice]}) for choice in (first, second)]
    choice = read(*lines, DONE).answer().choices[0]
    assert choice.message["audio"] == {"id": "1", "data": "AABB", "transcript": "hey"}
    assert choice.logprobs == {"content": [{"token": "a"}, {"token": "a"}], "refusal": []}


@pytest.mark.parametrize("other", ["1", "2", None])
def test_draft__of_two_clips_is_doubtful(other):
    """Audio with another id is no piece of the first: the answer is shown, and never served."""
    deltas = [{"audio": {"id": "1", "data": "AAAA"}}, {"audio": {"id": other, "data": "BBBB"}}]
    choices = [{"index": 0, "delta": delta} for delta in deltas]
    choices[-1]["finish_reason"] = "stop"
    answer = read(*("data: " + json.dumps({"choices": [choice]}) for choice in choices), DONE).answer()
    assert answer.doubt == ("the audio of the answer is of two clips" if other == "2" else None)


def test_draft__keeps_choices_apart():
    """Several choices are put in order of their index."""
    answer = read(text("b", "stop", index=1), text("a", "length"), DONE).answer()
    assert [(c.message["content"], c.finish_reason) for c in answer.choices] == [
        ("a", "length"),
        ("b", "stop"),
    ]


@pytest.mark.parametrize("code", [429, "server_error"])
def test_draft__finds_an_error_in_mid_stream(code):
    """An error object in a chunk is the answer's error, whatever its code is; what came before is kept."""
    error = {"code": code, "message": "Provider disconnected"}
    reader = read(text("Par"), text("", "error", error=error), DONE)
    assert reader.answer().error == error
    assert reader.answer().text == "Par"
    assert reader.started


@pytest.mark.parametrize(
    "line",
    [
        'data: {"error": {"message": "boom"}}',
        'data: {"error": "boom"}',
        'data: {"choices": [{"index": 0, "delta": {}, "error": {"message": "boom"}}]}',
        'data: {"choices": [{"index": 0, "delta": {}, "error": "boom"}]}',
    ],
)
def test_draft__finds_errors_at_every_level(line):
    """At the top or in a choice, as an object or as text."""
    reader = read(line)
    assert reader.error == {"message": "boom"}
    assert not reader.started


def test_draft__takes_finish_reason_error_for_an_error():
    """A provider's failure may be told by the finish reason alone."""
    assert read(text("Par"), text("", "error"), DONE).error is not None


def test_draft__keeps_the_cost_that_comes_with_an_error():
    """Finished twice by length, then an error with a cost of 0: an error that cost nothing, seen on the wire."""
    error = {"code": 400, "message": "Token limit reached"}
    lines = [
        text("Par"),
        text("", "length"),
        text("", "length"),
        text("", error=error, usage=USAGE | {"cost": 0}),
    ]
    answer = read(*lines, DONE).answer()
    assert answer.error == error
    assert answer.cost == Cost(Decimal(0), "reported")


def test_draft__never_proves_an_answer_by_the_usage_of_an_error():
    """A usage block that comes with an error is no proof that the answer is whole."""
    answer = read(text("Par", "stop"), text("", error={"code": 400}, usage=USAGE)).answer()
    assert not answer.complete


@pytest.mark.parametrize("later", [{"cost": 0}, {"cost": 0.00001}, {"cost": "x"}, {}])
def test_draft__a_usage_that_tells_less_takes_no_cost_back(later):
    """What was said to be paid is paid, whatever a later block says; one that says more is the later one."""
    none = {"prompt_tokens": 0, "completion_tokens": 0}
    first, more = {**USAGE, "cost": 0.0001}, {**USAGE, "cost": 0.0002}
    answer = read(text("Paris", "stop"), text("", usage=first), text("", usage={**none, **later})).answer()
    assert answer.cost == Cost(Decimal("0.0001"), "reported")
    assert answer.usage.prompt_tokens == USAGE["prompt_tokens"]
    assert answer.complete
    counted = read(text("Paris", "stop", usage=first), text("", usage=more)).answer()
    assert counted.cost == Cost(Decimal("0.0002"), "reported")


@pytest.mark.parametrize(
    "data",
    ["{", "[]", "7", "null", '{"choices": 7}', '{"choices": ["x"]}', '{"choices": [{"delta": 7}]}', '{"id": ', "<html>",
     "[" * 100_000],
)  # fmt: skip
def test_draft__refuses_what_is_no_chunk(data):
    """A line that isn't a chunk is said to be none, whatever is wrong with it."""
    with pytest.raises(MalformedReplyError):
        read(f"data: {data}")


@pytest.mark.parametrize(
    "body",
    [b"", b"  \n\n ", b": OPENROUTER PROCESSING\n\n", b"<html>", b"[]", b"\xff", b'{"choices": [1]}',
     b'{"choices": [{"message": 7}]}'],
)  # fmt: skip
def test_draft__refuses_what_is_no_reply(body):
    """The same for a whole reply; a body of padding only is none."""
    with pytest.raises(MalformedReplyError) as raised:
        ReplyReader().read_body(body)
    assert (
        not any(word in str(raised.value) for word in ("object", "sequence", "attribute", "NoneType"))
        or body == b"[]"
    )


WHOLE = {
    "id": "gen-1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "a\n: b\u2028: c",
                "refusal": None,
                "reasoning": None,
            },
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


@pytest.mark.parametrize(
    "padding", ["", "\n         \n\n", ": OPENROUTER PROCESSING\n\n" * 2, "\r\n: x\r\n\r\n"]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_draft__passes_over_padding_of_a_whole_reply(padding, ascii_only):
    """Keep-alive before the JSON is passed over; text that looks like it is not."""
    seen = []
    reader = ReplyReader(seen.append)
    reader.read_body((padding + json.dumps(WHOLE, ensure_ascii=ascii_only, indent=1)).encode())
    answer = reader.answer()
    assert answer.text == "a\n: b\u2028: c"
    assert seen == [answer.text]
    assert answer.complete
    assert answer.choices[0].message == {"role": "assistant", "content": answer.text}


def test_draft__reads_money_digit_for_digit():
    """No float is between the wire and the amount."""
    for digits in (
        "0.00423825",
        "7.35e-06",
        "0.1000000000000000055511151231257827",
        "0",
        "10000",
    ):
        body = json.dumps(WHOLE | {"usage": {"cost": "COST"}}).replace('"COST"', digits).encode()
        reader = ReplyReader()
        reader.read_body(body)
        assert str(reader.answer().cost.usd) == str(Decimal(digits))


def test_draft__takes_nothing_from_a_response_cache_hit():
    """A reply out of OpenRouter's own cache reports zeros, which are neither its usage nor its price."""
    reader = ReplyReader()
    reader.read_headers(
        {
            "x-openrouter-cache-status": "HIT",
            "x-openrouter-cache-source-id": "gen-0",
            "x-generation-id": "gen-2",
        }
    )
    reader.read_body(json.dumps(WHOLE | {"id": "gen-2", "usage": {"prompt_tokens": 0, "cost": 0}}).encode())
    answer = reader.answer()
    assert (answer.usage, answer.cost, answer.response_cache_hit) == (None, UNKNOWN_COST, True)
    assert (answer.generation_id, answer.source_generation_id) == ("gen-2", "gen-0")


def test_draft__restart_forgets_everything():
    """What an attempt left behind must not prove, price or name the next one."""
    reader = ReplyReader(clock=lambda: 5.0)
    reader.read_headers({"x-generation-id": "gen-1", "x-openrouter-cache-status": "HIT"})
    read_error = text("", "error", error={"code": 502}, usage=USAGE)
    read_events(reader, read_error, DONE)
    reader.restart()
    read_events(
        reader, 'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}'
    )
    answer = reader.answer()
    assert not answer.complete
    assert answer.error is None
    assert answer.usage is None
    assert answer.generation_id is None
    assert answer.model is None
    assert not answer.response_cache_hit


@pytest.mark.parametrize(
    ("delta", "started"),
    [
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": "x"}, True),
        ({"reasoning": "x"}, True),
        ({"refusal": "x"}, True),
        ({"tool_calls": [{"index": 0, "id": "c"}]}, True),
        ({"annotations": [{}]}, True),
        ({"something_new": 1}, True),
    ],
)
def test_draft__has_started_when_any_output_arrived(delta, started):
    """After any part of an answer, asking again would pay twice."""
    assert read(chunk(delta)).started is started


def test_reader__keeps_what_a_replay_needs():
    """The whole usage and what stands beside it are kept as they came, streamed or not, and can be stored."""
    said = {"usage": USAGE | {"server_tool_use_details": {"web_search_requests": 1}}, "service_tier": "flex",
            "alignment": {"calls": []}, "safeguard_results": [1], "system_fingerprint": "fp\ud800",
            "citations": ["https://example.org"], "search_results": [{"title": "T"}], "openrouter_metadata": {"a": 1},
            "warnings": [], "a_new_field": 0}  # fmt: skip
    reader = ReplyReader()
    reader.read_body(json.dumps(WHOLE | said).encode())
    usage, rest = said.pop("usage"), said
    first = {"citations": ["https://example.com"], "nothing": None, "object": "chat.completion.chunk"}
    after = {"citations": [], "service_tier": None}
    lines = (chunk(**first), text("Hi", "stop"), chunk(usage=usage), chunk(**rest), chunk(**after), DONE)
    streamed = read(*lines).answer()
    assert (
        reader.answer().extra == streamed.extra == {**said, "usage": usage, "system_fingerprint": "fp\ufffd"}
    )
    entry = Entry(RequestKey("0" * 64, b""), streamed._replace(prompt_cost_usd=None, doubt=None), 0.0)
    assert decode_entry("0" * 64, encode_entry(entry)) == entry


# -- fragments --------------------------------------------------------------------------------


def deltas(field, *pieces):
    """Return the part of a message that these fragments make."""
    lines = [chunk({field: [piece]}) for piece in pieces]
    return read(*lines, chunk({}, "stop"), DONE).answer().choices[0].message[field]


def call(arguments, name=None, **more):
    return {
        "index": 0,
        **more,
        "function": {"arguments": arguments, **({} if name is None else {"name": name})},
    }


def made(name, arguments, **more):
    return {**more, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        ([call("{", "f", id="a"), call("1", "g", id="b"), call("2")], [made("f", "{", id="a"), made("g", "12", id="b")]),
        ([call("1", "f", id="a"), call("2", "g", id="b"), call("3", id="a")], [made("f", "13", id="a"), made("g", "2", id="b")]),
        ([call("1", "f", id="a"), call("2", "", id=""), call("3", id=None)], [made("f", "123", id="a")]),
        ([call("1", "f", id=""), call("2", id="a")], [made("f", "12", id="a")]),
        ([call("", "get_", id="a"), call("", "weather"), call("{}", "")], [made("get_weather", "{}", id="a")]),
        ([call("1", "f", id="a"), call("2", "f", id="a"), call("3", "f")], [made("f", "123", id="a")]),
        ([call("1", "f", type="function"), call("2"), call("3", type="function")], [made("f", "123", type="function")]),
        ([call("1", "f", id="a", index=None), call("2", "g", id="b", index=None), call("3", id="a", index=None)],
         [made("f", "13", id="a"), made("g", "2", id="b")]),
        ([call("{", "f", id="a", index=None), call("1", index=None), call("}", index=None)], [made("f", "{1}", id="a")]),
        ([call("{", "f", index=None), call("}", "f", index=None), call("", "g", index=None)],
         [made("f", "{}"), made("g", "")]),
        ([call("{}", "f"), call('{"a":1}', "f"), call('{"b":1}', "g")],
         [made("f", "{}"), made("f", '{"a":1}'), made("g", '{"b":1}')]),
        ([call('{"a":', "f"), call("{}", "f"), call("}", "f")], [made("f", '{"a":{}}')]),
        (["odd", None, call("1", "f")], ["odd", None, made("f", "1")]),
    ],
    ids=str,
)  # fmt: skip
def test_reader__finds_the_call_of_a_fragment(fragments, calls):
    """Another id begins another call, nothing empty overwrites, and a name may come in pieces or again whole."""
    assert deltas("tool_calls", *fragments) == calls


@pytest.mark.parametrize(
    "places", [(0, 1), ("0", "1"), (0.0, 1.0), (0, "1"), ("00", 1.0), ("7", 3)], ids=repr
)
def test_reader__reads_an_index_however_it_is_written(places):
    """Fragments go to their call, and pieces to their choice, by the number that is meant."""
    a, b = places
    twice = places if isinstance(a, str) else (int(a), str(int(b)))  # and in two ways in one stream
    lines = [chunk({"tool_calls": [call("{", "f", id="a", index=a), call("[", "g", id="b", index=b)]}),
             chunk({"tool_calls": [call("]", index=twice[1]), call("}", index=twice[0])]}), chunk({}, "tool_calls"), DONE]  # fmt: skip
    answer = read(*lines).answer()
    assert answer.choices[0].message["tool_calls"] == [made("f", "{}", id="a"), made("g", "[]", id="b")]
    assert answer.doubt is None
    pieces = [
        text("B", index=b),
        text("a", index=a),
        text("b", "stop", index=twice[1]),
        text("A", "stop", index=twice[0]),
    ]
    answer = read(*pieces, DONE).answer()
    said = ["aA", "Bb"] if int(float(a)) < int(float(b)) else ["Bb", "aA"]
    assert ([choice.message["content"] for choice in answer.choices], answer.doubt) == (said, None)


@pytest.mark.parametrize(
    "place", [-1, 10**6, 10**30, 1e300, 0.5, True, [0], {}, "", "x", "-1", "1e99", "9" * 40], ids=repr
)
def test_reader__doubts_an_index_that_is_none(place):
    """What can't be a place may belong anywhere: given, and never stored."""
    fragments = [call("{", "f", id="a", index=place), call("}", index=place)]
    lines = [chunk({"tool_calls": [piece]}) for piece in fragments]
    answer = read(*lines, chunk({}, "tool_calls"), DONE).answer()
    assert answer.choices[0].message["tool_calls"] == [made("f", "{}", id="a")]
    assert "index" in refusal(answer)
    thought = {"index": place, "type": "reasoning.text", "text": "so"}
    assert "index" in refusal(
        read(chunk({"reasoning_details": [thought], "content": "Hi"}, "stop"), DONE).answer()
    )
    for answer in both({"index": place, "text": "Hi"}):
        assert (answer.text, answer.complete) == ("Hi", True)
        assert "index" in refusal(answer)


def test_reader__tells_reasoning_items_apart():
    """Sealed items by their ids, other types by their index; a server tool's arguments and result go on."""
    sealed = [{"type": "reasoning.encrypted", "index": 0, "id": f"rs_{n}", "data": f"d{n}"} for n in (1, 2)]
    tool = {
        "type": "reasoning.server_tool_call",
        "index": 1,
        "tool_name": "web",
        "arguments": '{"a',
        "result": "",
    }
    more = {
        "type": "reasoning.server_tool_call",
        "index": 1,
        "tool_name": "",
        "arguments": '":1}',
        "result": "42",
    }
    assert deltas("reasoning_details", *sealed, tool, more) == [
        *sealed,
        tool | {"arguments": '{"a":1}', "result": "42"},
    ]


def test_reader__joins_content_in_parts():
    """Content may come as lists of parts, before or after plain text."""
    parts = [{"type": "text", "text": "b"}]
    lines = [text("a"), chunk({"content": parts}), text("c", "stop"), DONE]
    seen = []
    answer = read(*lines, on_text=seen.append).answer()
    assert answer.text == "".join(seen) == "abc"


def test_reader__keeps_all_choices_of_a_whole_reply():
    """Choices are not lost where their index is missing or the same."""
    choices = [
        {"index": i, "message": {"content": c}, "finish_reason": "stop"}
        for i, c in ((1, "c"), (0, "a"), (0, "b"))
    ]
    reader = ReplyReader()
    reader.read_body(json.dumps({"choices": choices}).encode("utf-8-sig"))
    assert [choice.message["content"] for choice in reader.answer().choices] == ["a", "b", "c"]


def test_reader__takes_no_empty_finish_reason_for_one():
    """An answer whose finish reason is an empty text has not finished."""
    assert not read(text("Hi", ""), DONE).answer().complete
    assert read(text("Hi", "stop"), text("", ""), DONE).answer().complete


# -- replies of other forms ---------------------------------------------------------------------


def both(choice, **top):
    """Return the answers that a choice makes as a whole reply and as the chunk of a stream."""
    reply = {"id": "gen-1", "choices": [{"index": 0, "finish_reason": "stop"} | choice]} | top
    whole = ReplyReader()
    whole.read_body(json.dumps(reply).encode())
    return whole.answer(), read("data: " + json.dumps(reply), DONE).answer()


def refusal(answer):
    return why_not_stored(Request({"model": "m", "messages": []}), answer)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"message": {"content": "hello"}}, "hello"),
        ({"delta": {"content": "hello"}}, "hello"),
        ({"message": "hello"}, "hello"),
        ({"delta": "hello"}, "hello"),
        ({"text": "hello"}, "hello"),
        ({"message": {"content": 42}}, "42"),
        ({"message": {"content": 0}}, "0"),
        ({"message": {"content": ["hel", {"type": "text", "text": "lo"}, 4]}}, "hello4"),
        ({"message": {"content": {"type": "text", "text": "hello"}}}, "hello"),
    ],
    ids=str,
)
def test_reader__reads_an_answer_wherever_it_is(choice, said):
    """What is plainly an answer is one, and is kept: it was paid for."""
    for answer in both(choice):
        assert (answer.text, answer.complete, refusal(answer)) == (said, True, None)


def test_reader__reads_pieces_of_the_old_form():
    """Pieces may come as texts; a whole message among pieces may repeat them, so that is not stored."""
    pieces = [f"data: {json.dumps({'choices': [{'text': part}]})}" for part in ("hel", "lo")]
    answer = read(*pieces, chunk({}, "stop"), DONE).answer()
    assert (answer.text, refusal(answer)) == ("hello", None)
    whole = f"data: {json.dumps({'choices': [{'message': {'content': 'hello'}}]})}"
    answer = read(*pieces, whole, chunk({}, "stop"), DONE).answer()
    assert (answer.complete, refusal(answer)) == (True, "a whole message came among pieces")


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "Hi", "tool_calls": {"function": {"name": "f", "arguments": "{}"}}}},
        {"message": {"content": None, "audio": {"data": "===="}}},
        {"message": {"content": None, "images": [{"image_url": {"url": "data:image/png;base64,="}}]}},
        {"message": {"content": "Hi"}, "finish_reason": ["stop"]},
        {"message": {"content": "Hi"}, "native_finish_reason": "MALFORMED_FUNCTION_CALL"},
        {"message": {"content": "Hi"}, "native_finish_reason": "safety"},
    ],
    ids=str,
)
def test_reader__gives_what_may_not_be_stored(choice):
    """An answer with something hollow or dubious in it is given, and not stored."""
    for answer in both(choice):
        assert (answer.complete, answer.error) == (True, None)
        assert refusal(answer)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([text("Hel"), text("lo", "stop", id="gen-2")], "two generations"),
        ([text("Hel"), text("lo", "stop", errors=[{"message": "x"}])], "lists errors"),
        ([text("Hel"), "data : " + text("l")[6:], text("o", "stop")], "could not be read"),
        ([text("Hel"), "\ufeff" + text("l"), text("o", "stop")], "could not be read"),
        ([text("Hi", "length"), text("", "stop")], "finish reason length"),
        ([text("Hi", "content_filter"), text("", "stop")], "finish reason content_filter"),
    ],
    ids=str,
)
def test_draft__doubts_what_may_lack_a_piece(lines, why):
    """It is given, and not stored; why is told. A later ``stop`` finishes nothing that was cut."""
    answer = read(*lines, DONE).answer()
    assert (answer.complete, answer.error) == (True, None)
    assert why in refusal(answer)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([chunk(error={"code": 502, "message": "boom"})], "an error came after the end"),
        (["event: error\ndata: boom"], "an error came after the end"),
        ([text("", "error")], "an error came after the end"),
        ([text(" more")], "more came after the end"),
        ([DONE, text(" more")], "more came after the end"),
        ([": bye", DONE, "data: x", "event: ping\ndata: {}", chunk(usage=USAGE), text("", "stop")], None),
    ],
    ids=str,
)
def test_read_stream__doubts_what_an_error_follows(lines, why):
    """Behind the end marker too: the answer is given as it was, and not stored."""
    reader = ReplyReader()
    reader.read_stream(["\n\n".join([text("Hi", "stop", usage=USAGE), DONE, *lines, ""]).encode()])
    answer = reader.answer()
    assert (answer.text, answer.complete, answer.error) == ("Hi", True, None)
    assert why in refusal(answer) if why else refusal(answer) is None


def test_reader__doubts_choices_of_one_index():
    """Which is which can't be known."""
    choice = {"index": 0, "finish_reason": "stop"}
    for answer in both({}, choices=[choice | {"text": "a"}, choice | {"text": "b"}]):
        assert "same index" in refusal(answer)
    for answer in both({"text": "a"}, errors=["x"]):
        assert "lists errors" in refusal(answer)


def test_reader__reads_bytes_that_are_no_text_with_replacement():
    """The rest of the answer was paid for; it is given, and not stored."""
    line = b'{"choices": [{"delta": {"content": "a\xffb"}, "finish_reason": "stop"}]}'
    streamed, whole = ReplyReader(), ReplyReader()
    any(map(streamed.read_event, events_of([b"data: " + line + b"\n\ndata: [DONE]\n\n"])))
    whole.read_body(line)
    for answer in (streamed.answer(), whole.answer()):
        assert (answer.text, answer.complete) == ("a\ufffdb", True)
        assert "no text" in refusal(answer)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"message": "boom"}', "boom"),
        ("boom", "boom"),
        ('{"error": {"message": "boom"}}', "boom"),
        ("{}", "failed"),
    ],
)
def test_draft__takes_an_error_event_for_an_error(data, said):
    """Whatever its data: the type of the event says it."""
    answer = read(text("Hi"), f"event: error\ndata: {data}", text("", "stop"), DONE).answer()
    assert said in answer.error["message"]
    assert refusal(answer) == "the answer holds an error"


# -- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digits",
    ["9300000", "10001", "1e7", "-0.01", "1e400", "1e9999999999999999999", "1e-9999999999999999999", "NaN", "Infinity", "-Infinity",
     "9" * 5000, "0." + "1" * 5000, '"0.5"', "true", "null", "[]", "{}"],
    ids=lambda digits: digits[:24],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_reader__bounds_amounts(digits, stream):
    """An amount that no call costs is unknown, and the answer is there."""
    usage = {"cost": "X", "is_byok": True, "cost_details": {"upstream_inference_cost": "X", "upstream_inference_prompt_cost": "X"},
             "prompt_tokens": "X", "prompt_tokens_details": "X", "completion_tokens_details": {"reasoning_tokens": "X"}}  # fmt: skip
    body = json.dumps(WHOLE | {"usage": usage, "created": "X", "odd": "X"}).replace('"X"', digits)
    reader = ReplyReader()
    if stream:
        delta = body.replace('"message"', '"delta"')
        read_events(reader, f"data: {delta}", DONE)
    else:
        reader.read_body(body.encode())
    answer = reader.answer()
    assert (answer.cost, answer.complete, answer.prompt_cost_usd) == (UNKNOWN_COST, True, None)
    assert answer.text == WHOLE["choices"][0]["message"]["content"]
    assert all(count is None or 0 <= count < 2**63 for count in answer.usage)


@pytest.mark.parametrize("count", [2**63, 2**64, -1, 10**400, 1.5, True, "x", [1]])
def test_reader__bounds_counts(count):
    """A number of tokens that can't be is unknown."""
    usage = {
        "prompt_tokens": count,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": count},
    }
    answer = read(text("Hi", "stop", usage=usage), DONE).answer()
    assert answer.usage == Usage(None, 3, None)


@pytest.mark.parametrize("depth", [63, 100, 900, 100_000])
@pytest.mark.parametrize("where", ["top", "message", "usage"])
def test_reader__bounds_depth(depth, where):
    """What is nested too deep is left out, and takes nothing with it: neither here nor where it is kept."""
    nested = '{"a":[' * (depth // 2) + '"]}"' + "]}" * (depth // 2)
    body = json.dumps(WHOLE | {"top": "X"}) if where == "top" else json.dumps(WHOLE)
    if where == "message":
        body = body.replace('"refusal": null', '"refusal": null, "odd": "X"')
    if where == "usage":
        body = body.replace('"usage": {', '"usage": {"odd": "X", ')
    reader = ReplyReader()
    reader.read_body(body.replace('"X"', nested).encode())
    answer = reader.answer()
    assert (answer.text, answer.complete) == (WHOLE["choices"][0]["message"]["content"], True)
    assert answer.cost.usd == Decimal("0.00423825")
    assert json.loads(json.dumps(answer.choices[0].message, allow_nan=False)) == answer.choices[0].message


def test_reader__mends_half_characters_wherever_they_are():
    """Half a character in a name, an error or the log probabilities can be written too."""
    half = "a\ud800"
    choice = {"delta": {"content": "Hi", "odd": {half: half}}, "finish_reason": half, "native_finish_reason": half,
              "logprobs": {"content": [{"token": half}]}, "error": {"message": half}}  # fmt: skip
    line = json.dumps(
        {"id": half, "model": half, "provider": half * 1000, "choices": [choice], "error": {half: half}}
    )
    answer = read(f"data: {line}", DONE).answer()
    assert repr(answer).encode()
    assert json.dumps(answer, ensure_ascii=False, default=str).encode()
    assert (answer.generation_id, answer.choices[0].finish_reason) == ("a\ufffd", "a\ufffd")
    assert len(answer.provider) <= 500


FIELDS = {
    "content", "role", "reasoning", "reasoning_details", "tool_calls", "images", "audio", "annotations", "refusal", "type",
    "text", "index", "id", "function", "name", "arguments", "data", "image_url", "url", "cost", "prompt_tokens", "message",
    "cost_details", "is_byok", "completion_tokens", "prompt_tokens_details", "code",
}  # fmt: skip
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\ud83d\ude00\u200b\x1b", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(FIELDS)), inner, max_size=5)
    ),
    max_leaves=20,
)
replies = st.fixed_dictionaries(
    {},
    optional={
        "id": odd, "model": odd, "provider": odd, "error": odd, "usage": odd,
        "choices": odd | st.lists(st.fixed_dictionaries({}, optional={
            "index": odd | st.integers(0, 2), "finish_reason": st.sampled_from(["stop", "tool_calls", None]) | odd,
            "message": odd, "delta": odd, "logprobs": odd, "error": odd}), max_size=2),
    },
)  # fmt: skip


@given(
    st.lists(replies, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([{}, {"n": 2}, {"response_format": {"type": "json_object"}}]),
)
def test_reader__makes_of_any_json_an_answer_or_one_error(sent, stream, fields):
    """Whatever JSON comes: an answer that can be judged, written and read again, or `MalformedReplyError`."""
    reader = ReplyReader()
    try:
        if stream:
            read_events(reader, *(f"data: {json.dumps(part)}" for part in sent), DONE)
        else:
            reader.read_body(json.dumps(sent[0]).encode())
    except MalformedReplyError:
        pass
    answer = reader.answer()
    assert answer.cost.usd is None or 0 <= answer.cost.usd < 9_000_000
    request = Request({"model": "m", "messages": [], **fields})
    why_not_stored(request, answer)
    lifetime_s(request, answer, Policy())
    entry = Entry(RequestKey("0" * 64, b""), answer._replace(prompt_cost_usd=None, doubt=None), 0.0)
    assert decode_entry("0" * 64, encode_entry(entry)) == entry


# -- the stream -------------------------------------------------------------------------------


def events(*chunks):
    return list(events_of(chunks))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\n", ["a", "b", "c", "d"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\ndata\ndata:  b\n\n", ["a\n\n b"]),
        (b"data\n\n", [""]),
        (b"data:\n\n\n\n", [""]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", ["a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: b\n\n", []),
        (b": x\nevent: y\nid: 7\nretry: 10\ndatum: z\nDATA: q\ndata: a\n:\n\n", ["a"]),
        (b"event: error\ndata: a\n\nevent: only\n\n", ["a"]),
        (b" data: a\n\n", []),
        (b"data: a", ["a"]),
        (b"data: a\n", ["a"]),
        (b"data: a\r", ["a"]),
        ("data: a\u2028b\u0085c\x1cd\x0be\x0cf\n\n".encode(), ["a\u2028b\u0085c\x1cd\x0be\x0cf"]),
        (b"", []),
    ],
    ids=repr,
)
def test_events_of__follow_the_standard(raw, expected):
    """Lines, fields, comments and the one mark at the beginning, however the bytes are cut."""
    assert events(raw) == expected
    assert events(*(bytes([byte]) for byte in raw)) == expected
    assert events(*(bytes([byte]) if n % 2 else b"" for byte in raw for n in (0, 1))) == expected


def test_events_of__tell_of_what_is_damaged():
    """Bytes that are no text are replaced, as the standard says, and a line that may be data is told of."""
    (event,) = events(b"data: \xff\n\n")
    assert event == "\ufffd"
    assert event.flaw
    for line in (b'data : {"a": 1}', b'\xef\xbb\xbfdata: {"a": 1}', b'DATA:{"a": 1}', b'{"choices": []}'):
        lost, whole = events(b": x\n" + line + b"\n\ndata: b\n\n")
        assert (lost, bool(lost.flaw), whole, whole.flaw) == ("", True, "b", "")
    assert [event.kind for event in events(b"event: error\ndata: a\n\ndata: b\n\n")] == ["error", ""]


@given(st.lists(st.text(WHOLE_LETTERS)), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.data())
def test_reader__reads_the_same_however_the_bytes_are_cut(texts, end, ascii_only, data):
    """An answer in any pieces, with any line ends, wherever the network cuts the bytes, is the same answer."""
    lines = [
        json.dumps({"choices": [{"delta": {"content": part}}]}, ensure_ascii=ascii_only) for part in texts
    ]
    lines += [json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE}), "[DONE]"]
    raw = "".join(f": hold{end}{end}data: {line}{end}{end}" for line in lines).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=6)))
    seen = []
    reader = ReplyReader(seen.append)
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert any(map(reader.read_event, events_of(pieces)))
    answer = reader.answer()
    assert answer.text == "".join(seen) == "".join(texts)
    assert (answer.complete, answer.usage.prompt_tokens) == (True, 17)


def test_reader__takes_time_that_grows_with_the_answer_and_no_faster():
    """Four times as much text in pieces of four bytes takes about four times the work: nothing is joined twice."""

    def work(pieces):
        reader = ReplyReader()
        deltas = [{"content": "abcd", "reasoning": "abcd", "tool_calls": [{"index": n % 9, "function": {"arguments": "abcd"}}],
                   "reasoning_details": [{"index": 0, "type": "reasoning.text", "text": "abcd"}]} for n in range(9)]  # fmt: skip
        lines = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
        began = time.process_time()
        for n in range(pieces):
            reader.read_event(lines[n % 9])
        assert len(reader.answer().text) == 4 * pieces
        return time.process_time() - began

    work(100)
    few = min(work(4_000) for _ in range(3))
    assert work(64_000) < 16 * few * 2
