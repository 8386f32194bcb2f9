"""How replies are read off the wire: streams, whole replies, and what proves them whole."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.records import UNKNOWN_COST, Cost, Usage
from or_cache_magic.openrouter.reply import MalformedReplyError, ReplyReader, join_surrogates, lines_of

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
    for line in lines:
        if reader.read_line(line):
            break
    return reader


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
    reader.read_line(LAST["b"])
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


@pytest.mark.parametrize(
    "data",
    ["{", "[]", "7", "null", '{"choices": 7}', '{"choices": ["x"]}', '{"choices": [{"delta": "x"}]}', '{"id": ', "<html>",
     '{"choices": [{"delta": {"tool_calls": ["x"]}}]}', "[" * 100_000],
)  # fmt: skip
def test_draft__refuses_what_is_no_chunk(data):
    """A line that isn't a chunk is said to be none, whatever is wrong with it."""
    with pytest.raises(MalformedReplyError):
        read(f"data: {data}")


@pytest.mark.parametrize(
    "body",
    [b"", b"  \n\n ", b": OPENROUTER PROCESSING\n\n", b"<html>", b"[]", b"\xff", b'{"choices": [1]}',
     b'{"choices": [{"message": "x"}]}'],
)  # fmt: skip
def test_draft__refuses_what_is_no_reply(body):
    """The same for a whole reply; a body of padding only is none."""
    with pytest.raises(MalformedReplyError):
        ReplyReader().read_body(body)


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
        "12345678901234567890.5",
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
    reader.read_line(read_error)
    reader.read_line(DONE)
    reader.restart()
    reader.read_line('data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}')
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


@given(st.lists(st.text(WHOLE_LETTERS)), st.data())
def test_lines_of__are_the_same_however_they_are_cut(lines, data):
    """Lines end at CR, LF and CRLF and nowhere else, wherever the network cuts the bytes."""
    ends = [data.draw(st.sampled_from(["\n", "\r\n"])) for _ in lines]
    raw = "".join(line + end for line, end in zip(lines, ends, strict=True)).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert [line for line in lines_of(chunks) if line] == [line for line in lines if line]


def test_lines_of__are_not_torn_at_unicode_line_ends():
    """U+2028, U+0085 and the like stand raw in JSON, and end no line of an event stream."""
    content = "a\u2028b\u0085c\u2029d\x1ce\x0bf\x0cg"
    event = 'data: {"choices": [{"delta": {"content": "' + "a\u2028b\u0085c\u2029d" + '"}}]}'
    assert list(lines_of([content.encode(), b"\n", event.encode(), b"\n\n"])) == [content, event, ""]


def test_lines_of__refuse_what_is_no_utf8():
    """A garbled line is never taken for an answer."""
    with pytest.raises(MalformedReplyError):
        list(lines_of([b"data: \xff\n"]))
