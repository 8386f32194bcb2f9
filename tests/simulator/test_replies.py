"""Whole replies and streams: cases 2, 3, 17 to 26, 28, 29 and 46 to 48, on the wire."""

from __future__ import annotations

import json
import socket
from decimal import Decimal

import pytest

from or_cache_magic.simulator import SCENARIOS, Simulator, scenario

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["name", "year"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_whole__has_what_openrouter_adds(wire, check):
    """Case 2: provider, native finish reason, nulls and usage; the header's id is the body's."""
    got = wire.ask()
    body, choice = got.json, got.json["choices"][0]
    assert (body["provider"], choice["finish_reason"], choice["native_finish_reason"]) == (
        "OpenAI",
        "stop",
        "completed",
    )
    assert choice["message"]["refusal"] is None
    assert choice["message"]["reasoning"] is None
    assert got.headers["x-generation-id"] == body["id"]
    assert body["id"].startswith("gen-1767268800-")
    check("ChatResult", json.loads(got.raw))


def test_usage__cannot_be_turned_off(wire):
    """Case 3: the old switches have no effect."""
    assert wire.ask(usage={"include": False}).usage["cost"] > 0
    assert wire.ask(stream=True, stream_options={"include_usage": False}).usage["cost"] > 0


def test_stream__has_comments_finish_usage_and_done(wire, sim, check):
    """Case 17: comments, deltas, the finish, the usage without choices, the end mark."""
    sim.script(scenario("usage_shape", shape="b", comments=2))
    got = wire.ask(stream=True)
    assert got.headers["content-type"] == "text/event-stream"
    assert got.headers["transfer-encoding"] == "chunked"
    assert got.events[:2] == [": OPENROUTER PROCESSING"] * 2
    assert ": OPENROUTER PROCESSING" in got.events[3:-3]
    assert got.events[-1] == "data: [DONE]"
    *deltas, finish, usage = got.chunks
    assert all(one["choices"][0]["finish_reason"] is None for one in deltas)
    assert all(one["choices"][0]["delta"]["role"] == "assistant" for one in deltas)
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["cost"] > 0
    for chunk in [json.loads(event[6:]) for event in got.events if event.startswith("data: {")]:
        check("ChatStreamChunk", chunk)


@pytest.mark.parametrize(
    ("shape", "reasons"), [("a", ["stop", None]), ("b", ["stop"]), ("c", ["stop", "stop"])]
)
def test_stream__usage_comes_in_three_shapes(wire, sim, shape, reasons):
    """Cases 18 and 19: an empty delta with no reason, no choices, or the reason a second time."""
    sim.script(scenario("usage_shape", shape=shape))
    got = wire.ask(stream=True)
    last = got.chunks[-2:]
    assert [choice["finish_reason"] for chunk in last for choice in chunk["choices"]] == reasons
    assert "usage" in last[1]
    assert "usage" not in last[0]
    assert ("service_tier" in last[1]) == (shape == "c")


def test_stream__says_the_same_as_the_whole_reply(wire):
    """The same words, tokens and price, streamed or not."""
    for more in ({}, {"reasoning": {"effort": "low"}, "model": "openai/gpt-5-mini"}, {"max_tokens": 9}):
        whole, stream = wire.ask(**more), wire.ask(stream=True, **more)
        assert stream.text == whole.text
        assert stream.usage == whole.usage


@pytest.mark.parametrize("code", [429, "server_error"])
def test_stream__error_in_its_middle(wire, sim, code):
    """Cases 20 and 21: an error of either kind of code beside finish_reason error, and the end."""
    sim.script(scenario("broken_off", code=code))
    got = wire.ask(stream=True)
    last = got.chunks[-1]
    assert got.status == 200
    assert last["error"]["code"] == code
    assert last["error"]["metadata"]["error_type"] == ("rate_limit_exceeded" if code == 429 else "server")
    assert last["choices"][0]["finish_reason"] == "error"
    assert got.text
    assert "[DONE]" not in got.events[-1]


def test_stream__token_limit(wire, sim):
    """Case 22: finished twice by length, then an error with a cost of 0 and no reason, then the end mark."""
    sim.script(scenario("token_limit"))
    got = wire.ask(stream=True)
    *_, first, second, last = got.chunks
    assert [one["choices"][0]["finish_reason"] for one in (first, second, last)] == ["length", "length", None]
    assert last["error"] == {"code": 400, "message": "Token limit reached"}
    assert last["usage"]["cost"] == 0
    assert got.events[-1] == "data: [DONE]"


def test_stream__error_without_an_error(wire, sim):
    """Case 23: only the finish reason tells."""
    sim.script(scenario("silent_error"))
    got = wire.ask(stream=True)
    assert got.chunks[-1]["choices"][0]["finish_reason"] == "error"
    assert not any("error" in chunk for chunk in got.chunks)


@pytest.mark.parametrize(("how", "reason"), [("eof", None), ("eof_after_finish", "stop")])
def test_stream__ends_without_done(wire, sim, how, reason):
    """Case 24: a clean end of the body, before or after the finish reason, and no end mark."""
    sim.script(scenario("cut", how=how))
    got = wire.ask(stream=True)
    assert not got.cut
    assert got.chunks[-1]["choices"][0]["finish_reason"] == reason
    assert "[DONE]" not in got.raw.decode()


@pytest.mark.parametrize("stream", [True, False])
def test_reply__connection_reset_in_its_middle(wire, sim, stream):
    """Case 24: the connection breaks; what had come is no whole body."""
    sim.script(scenario("cut", how="reset"))
    assert wire.ask(stream=stream).cut


def test_stream__empty(wire, sim):
    """Case 25: comments and the end mark, nothing said, nothing billed."""
    sim.script(scenario("empty"), times=2)
    got = wire.ask(stream=True)
    assert set(got.events) == {": OPENROUTER PROCESSING", "data: [DONE]"}
    whole = wire.ask()
    assert whole.text == ""
    assert whole.json["choices"][0]["finish_reason"] is None
    assert sim.total_cost == 0


def test_debug__echoes_the_body_of_streams_only(wire):
    """Case 26: a first chunk without choices has the body sent upstream; whole replies have no such thing."""
    debug = {"echo_upstream_body": True}
    first = wire.ask("Echo me", stream=True, debug=debug).chunks[0]
    assert first["choices"] == []
    assert "usage" not in first
    assert first["debug"]["echo_upstream_body"]["messages"][0]["content"] == "Echo me"
    assert "debug" not in wire.ask(debug=debug).json


def test_whole__may_be_padded(wire, sim):
    """Case 28: newlines, comments, or nothing but padding."""
    for padding in ("newlines", "comments", "blank"):
        sim.script(scenario("padded", padding=padding))
    newlines, comments, blank = (wire.ask() for _ in range(3))
    assert newlines.raw.startswith(b"\n")
    assert newlines.json["choices"]
    assert comments.raw.startswith(b": OPENROUTER PROCESSING\n\n")
    assert json.loads(comments.raw.rpartition(b"\n")[2])["choices"]
    assert not blank.raw.strip()


def ask_and_leave(wire, model: str, *, after: bytes) -> str:
    """Ask for a stream, read until ``after`` has come, close the connection; returns the generation's id."""
    connection = wire.connection()
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Tell me of tides and moons"}],
    }
    headers = {"Authorization": f"Bearer {wire.sim.api_key}"}
    connection.request("POST", "/api/v1/chat/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    while after not in reply.readline():
        pass
    generation_id = reply.headers["X-Generation-Id"]
    connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
    reply.close()
    connection.close()
    return generation_id


@pytest.mark.parametrize(
    ("model", "stops"), [("openai/gpt-4o-mini", True), ("google/gemini-2.5-flash", False)]
)
def test_cancel__is_noticed_and_billed_by_provider(wire, sim, model, stops):
    """Case 29: some providers bill what was made, the others the whole answer; ``/generation`` tells it."""
    whole = wire.ask("Tell me of tides and moons", model=model).usage
    sim.clear()
    sim.script(scenario("stalled", after_pieces=2))
    generation_id = ask_and_leave(wire, model, after=b"content")
    assert sim.wait_for(lambda rows: rows[0].cancelled)
    data = wire.get(f"/generation?id={generation_id}").json["data"]
    assert data["cancelled"] is True
    assert 0 < data["total_cost"] == sim.requests[0].cost_usd == sim.total_cost
    assert (data["total_cost"] < whole["cost"]) == stops
    assert (data["tokens_completion"] < whole["completion_tokens"]) == stops


def test_cancel__before_a_word_costs_nothing(wire, sim):
    """Case 29: where nothing was made nothing is billed."""
    sim.script(scenario("stalled", after_pieces=0))
    ask_and_leave(wire, "openai/gpt-4o-mini", after=b"PROCESSING")
    assert sim.wait_for(lambda rows: rows[0].cancelled)
    assert sim.requests[0].cost_usd == 0


@pytest.mark.parametrize("stream", [True, False])
def test_cancel__is_noticed_while_waiting(wire, sim, stream):
    """A client that leaves during a delay is noticed at once; a whole reply is billed all the same."""
    sim.script(scenario("slow", delay_s=300))
    connection = wire.connection()
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": stream}
    connection.request(
        "POST", "/api/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer sk-or-v1-x"}
    )
    assert sim.wait_for(lambda rows: len(rows) == 1)
    connection.close()
    assert sim.wait_for(lambda rows: rows[0].cancelled)
    assert (sim.requests[0].cost_usd == 0) == stream


def test_reasoning__comes_first_and_in_order(wire):
    """Case 46: reasoning deltas, then the encrypted item with a null format, then the text."""
    asked = {"model": "openai/gpt-5-mini", "reasoning": {"effort": "medium"}}
    stream, whole = wire.ask(stream=True, **asked), wire.ask(**asked)
    deltas = [choice["delta"] for chunk in stream.chunks for choice in chunk["choices"]]
    thought = "".join(delta.get("reasoning") or "" for delta in deltas)
    message = whole.json["choices"][0]["message"]
    assert thought == message["reasoning"]
    assert [detail["type"] for detail in message["reasoning_details"]] == [
        "reasoning.summary",
        "reasoning.encrypted",
    ]
    details = [detail for delta in deltas for detail in delta.get("reasoning_details", [])]
    assert details[-1]["type"] == "reasoning.encrypted"
    assert {detail["format"] for detail in details} == {None}
    assert "".join(detail.get("summary", "") for detail in details) == thought
    first_text = next(n for n, delta in enumerate(deltas) if delta.get("content"))
    assert not any(delta.get("reasoning") for delta in deltas[first_text:])
    assert whole.usage["completion_tokens_details"]["reasoning_tokens"] > 0


def test_reasoning__hidden_is_paid_for(wire):
    """Excluded reasoning is not sent, and billed all the same; switched off there is none."""
    asked = {"model": "openai/gpt-5-mini"}
    hidden = wire.ask(reasoning={"effort": "low", "exclude": True}, **asked)
    stream = wire.ask(reasoning={"effort": "low", "exclude": True}, stream=True, **asked)
    assert b'"reasoning' not in stream.raw.replace(b'"reasoning_tokens"', b"")
    assert stream.usage == hidden.usage
    assert hidden.json["choices"][0]["message"]["reasoning"] is None
    assert hidden.usage["completion_tokens_details"]["reasoning_tokens"] > 0
    off = wire.ask(reasoning={"effort": "none"}, **asked)
    assert off.usage["completion_tokens_details"]["reasoning_tokens"] == 0
    forced = wire.ask(model="google/gemini-2.5-pro")
    assert forced.json["choices"][0]["message"]["reasoning"]


def test_images__come_as_data_urls(wire):
    """Case 46: a model that can gives an image when images are among the modalities."""
    asked = {"model": "google/gemini-2.5-flash-image", "modalities": ["image", "text"]}
    url = wire.ask(**asked).json["choices"][0]["message"]["images"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert (
        wire.ask(stream=True, **asked).chunks[-3]["choices"][0]["delta"]["images"][0]["image_url"]["url"]
        == url
    )


def test_tools__arguments_come_in_pieces(wire, check):
    """Case 47: the call's name first, its arguments over several chunks, finish_reason tool_calls, no content."""
    prompt, tools = "What is the weather in Paris?", [WEATHER]
    whole, stream = wire.ask(prompt, tools=tools), wire.ask(prompt, tools=tools, stream=True)
    choice = whole.json["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    call = choice["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    parts = [
        c["delta"]["tool_calls"][0]
        for chunk in stream.chunks
        for c in chunk["choices"]
        if "tool_calls" in c["delta"]
    ]
    assert parts[0]["id"] == call["id"]
    assert len(parts) > 2
    assert "".join(part["function"]["arguments"] for part in parts) == call["function"]["arguments"]
    check("ChatResult", json.loads(whole.raw))


def test_tools__are_called_when_they_fit(wire):
    """A tool is called when the prompt concerns it or it is required; after its result there is an answer."""
    assert wire.ask("Tell me a story", tools=[WEATHER]).text
    assert wire.ask("Tell me a story", tools=[WEATHER], tool_choice="required").json["choices"][0]["message"][
        "tool_calls"
    ]
    assert wire.ask("Weather in Rome?", tools=[WEATHER], tool_choice="none").text
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert (
        wire.ask("Hi", tools=[WEATHER], tool_choice=named).json["choices"][0]["finish_reason"] == "tool_calls"
    )
    call = wire.ask("Weather in Rome?", tools=[WEATHER]).json["choices"][0]["message"]
    history = [
        {"role": "user", "content": "Weather in Rome?"},
        call,
        {"role": "tool", "tool_call_id": "x", "content": "21 °C"},
    ]
    assert "21 °C" in wire.ask(messages=history, tools=[WEATHER]).text


def test_healing__mends_whole_replies_only(wire, sim):
    """Case 48: the plugin mends broken JSON when the reply is not streamed."""
    healing = [{"id": "response-healing"}]
    sim.script(scenario("broken_json"), times=3)
    assert json.loads(wire.ask(plugins=healing).text)["items"] == [1, 2, 3]
    for broken in (wire.ask(), wire.ask(plugins=healing, stream=True)):
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken.text)


def test_scenarios__each_answers_streamed_and_whole(wire, sim):
    """Every scenario by its name gives some reply both ways and leaves the server alive."""
    for name in SCENARIOS:
        if name in {"stalled", "slow"}:
            continue
        for stream in (False, True):
            sim.script(scenario(name))
            assert wire.ask(stream=stream).status >= 200
            assert sim.requests[-1].scenario == name
    assert wire.ask().text


def test_clock__stamps_replies(clock, wire):
    """Times in replies are the simulator's, not the machine's."""
    clock.now_s = 1_800_000_000
    body = wire.ask().json
    assert body["created"] == 1_800_000_000
    assert body["id"].startswith("gen-1800000000-")


def test_pace__is_kept(wire_to):
    """A stream with a delay takes at least as long as its chunks."""
    import time

    with Simulator(chunk_delay_s=0.01) as sim:
        start = time.perf_counter()
        got = wire_to(sim).ask(stream=True)
        assert time.perf_counter() - start >= 0.01 * len(got.events)
        assert isinstance(got.usage["cost"], Decimal)
