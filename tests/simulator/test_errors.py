"""Refusals before an answer: cases 1 and 4 to 16 of the API reference's list, on the wire."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.simulator import SCENARIOS, Simulator, scenario

RESPONSES = "/paths/~1chat~1completions/post/responses/{}/content/application~1json/schema"


def test_key__missing_is_401(wire):
    """Case 1: without an Authorization header there is no answer, in OpenRouter's words."""
    got = wire.send("POST", "/chat/completions", b'{"messages": []}')
    assert got.status == 401
    assert got.json == {"error": {"code": 401, "message": "Missing Authentication header"}}


def test_key__unknown_is_401(wire_to):
    """With a list of keys no other one is let in."""
    with Simulator(api_keys=["sk-or-v1-mine"]) as sim:
        wire = wire_to(sim)
        assert wire.ask(key="sk-or-v1-other").json["error"]["metadata"]["error_type"] == "authentication"
        assert wire.ask().status == 200


def test_body__without_messages_is_400(wire):
    """Case 4: a body without messages is an invalid request."""
    got = wire.ask(messages=None)
    assert got.status == 400
    assert got.json["error"]["metadata"]["error_type"] == "invalid_request"


@pytest.mark.parametrize(
    "data",
    [b"{not json", b"[]", b"", b'{"messages": [1]}', b'{"messages": [{"role": "user"}], "provider": []}',
     b'{"messages": [{"role": "user"}], "plugins": [1]}', b'{"messages": [{"role": "user"}], "max_tokens": 0}',
     b'{"messages": [{"role": "user"}], "temperature": 9}'],
)  # fmt: skip
def test_body__malformed_is_400(wire, data):
    """A body that is not JSON, not an object, or has fields of a wrong kind is refused and does no harm."""
    got = wire.send("POST", "/chat/completions", data, {"Authorization": "Bearer sk-or-v1-x"})
    assert got.status == 400
    assert got.json["error"]["code"] == 400


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.text("ab\ud800\x00é", max_size=3)
    | st.just("function"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "id", "name", "function", "order"]), inner, max_size=2
        )
    ),
    max_leaves=5,
)
FIELDS = [
    "messages",
    "model",
    "models",
    "tools",
    "tool_choice",
    "response_format",
    "stop",
    "provider",
    "plugins",
    "reasoning",
    "modalities",
    "max_tokens",
    "temperature",
    "stream",
    "debug",
    "cache_control",
    "service_tier",
    "preset",
    "session_id",
    "seed",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=3), part=ODD)
def test_body__odd_is_answered_or_refused(wire, changes, part):
    """Law: whatever stands in the fields, there is an answer or a refusal in JSON; no connection is dropped."""
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}, part] if part else "hello"}
    got = wire.ask(**({"messages": [message]} | changes))
    assert got.status in {200, 400, 404}
    assert got.raw.startswith((b"{", b"data"))
    assert not got.cut


def test_body__lone_surrogates_and_nan_are_400(wire):
    """What has no place in JSON or UTF-8 is refused."""
    for text in (r'"\ud800"', "NaN", "[" * 100_000):
        data = b'{"messages": [{"role": "user", "content": %b}]}' % text.encode()
        assert (
            wire.send("POST", "/chat/completions", data, {"Authorization": "Bearer sk-or-v1-x"}).status == 400
        )


def test_preset__unknown_is_404(wire):
    """A preset that is not there is not passed over in silence."""
    assert wire.ask(preset="nothing").status == 404


def test_path__unknown_is_404(wire):
    """A path that does not exist is a 404 in JSON, for GET and POST."""
    key = {"Authorization": "Bearer sk-or-v1-x"}
    for got in (wire.get("/nothing"), wire.send("POST", "/completions", b"{}", key)):
        assert (got.status, got.json["error"]["code"]) == (404, 404)


def test_model__unknown_is_400(wire):
    """Case 5: an unknown model says so in ``availability``, and that asking again is no use."""
    error = wire.ask(model="nobody/nothing").json["error"]
    assert error["code"] == 400
    assert error["availability"]["code"] == "model_not_found"
    assert error["availability"]["retryable"] is False


def test_model__free_variant_gone_is_404(wire, sim):
    """Case 6: a free variant that ended, with and without what to use in its place."""
    got = wire.ask(model="openai/gpt-4o-mini:free")
    assert got.status == 404
    assert got.json["error"]["message"] == "No endpoints found for openai/gpt-4o-mini:free."
    assert got.json["error"]["availability"]["fallback_models"] == ["openai/gpt-4o-mini"]
    assert got.json["user_id"]
    sim.script(scenario("free_variant_ended", model="x/y:free", explained=False))
    assert wire.ask().json["error"] == {
        "code": 404,
        "message": "No endpoints found for x/y:free.",
        "metadata": {"error_type": "not_found"},
    }


def test_credits__none_left_is_402(wire, sim):
    """Case 7: no credits, with a provider name of null."""
    sim.script(scenario("insufficient_credits"))
    error = wire.ask().json["error"]
    assert error["code"] == 402
    assert error["metadata"] == {"error_type": "payment_required", "provider_name": None}


def test_credits__preflight_depends_on_max_tokens(wire_to):
    """Case 7: what the longest answer would cost must be there, and the message names both numbers."""
    from decimal import Decimal

    with Simulator(credits_usd=Decimal("0.003")) as sim:
        wire = wire_to(sim)
        message = wire.ask(max_tokens=9000).json["error"]["message"]
        assert "You requested up to 9000 tokens, but can only afford 5000" in message
        assert "up to 16384 tokens" in wire.ask().json["error"]["message"]
        assert wire.ask(max_tokens=100).status == 200
        assert wire.get("/key").json["data"]["limit_remaining"] == Decimal("0.003") - sim.total_cost


def test_guardrail__blocks_with_patterns(wire, sim):
    """Case 8: the pipeline is shown only to those who ask for metadata."""
    sim.script(scenario("guardrail_blocked"), times=2)
    got = wire.ask(headers={"X-OpenRouter-Metadata": "enabled"})
    assert got.status == 403
    assert got.json["error"]["metadata"]["patterns"] == ["credit_card"]
    assert got.json["openrouter_metadata"]["pipeline"][0]["type"] == "guardrail"
    assert "openrouter_metadata" not in wire.ask().json


def test_moderation__says_what_was_flagged(wire, sim):
    """Case 9: reasons, at most 100 characters of the input, provider and model."""
    sim.script(scenario("moderated", flagged_input="x" * 300))
    metadata = wire.ask().json["error"]["metadata"]
    assert len(metadata["flagged_input"]) == 100
    assert metadata.keys() >= {"reasons", "provider_name", "model_slug"}


def test_budget__exceeded_is_403(wire, sim):
    """Case 10: a budget that is used up is a 403 and not a 402."""
    sim.script(scenario("budget_exceeded"))
    got = wire.ask()
    assert got.status == 403
    assert got.json["error"]["message"].startswith("Workspace monthly budget of $500.00 exceeded")


def test_free_models__21st_request_in_a_minute_is_429(wire, clock):
    """Case 11: twenty a minute, then the limit's headers; a minute later it goes on."""
    model = "meta-llama/llama-3.3-70b-instruct:free"
    assert {wire.ask(model=model).status for _ in range(20)} == {200}
    got = wire.ask(model=model)
    assert got.status == 429
    assert got.headers["x-ratelimit-limit"] == "20"
    assert got.headers["x-ratelimit-remaining"] == "0"
    assert int(got.headers["x-ratelimit-reset"]) == int((clock.now_s + 60) * 1000)
    assert got.json["error"]["metadata"]["headers"]["X-RateLimit-Limit"] == "20"
    assert wire.ask(model=model, key="sk-or-v1-another").status == 200
    clock.now_s += 60
    assert wire.ask(model=model).status == 200


def test_rate__lets_a_few_come_at_once_and_then_one_by_one(wire_to, clock):
    """60 a minute, two at once; the refusal says when the next may come, or nothing at all."""
    with Simulator(now=clock, rate_limit_per_minute=60, rate_burst=2) as sim:
        wire = wire_to(sim)
        clock.now_s = 1_800_000_000.0
        assert [wire.ask().status for _ in range(3)] == [200, 200, 429]
        assert wire.ask().headers["x-ratelimit-reset"] == "1800000001000"
        clock.now_s += 1
        assert [wire.ask().status for _ in range(2)] == [200, 429]
        clock.now_s += 60
        assert [wire.ask().status for _ in range(3)] == [200, 200, 429]
    with Simulator(now=clock, rate_limit_per_minute=60, rate_burst=1, tells_rate=False) as sim:
        wire = wire_to(sim)
        assert wire.ask().status == 200
        assert not {"retry-after", "x-ratelimit-reset"} & set(wire.ask().headers)


def test_latency__holds_an_answer_back(wire_to):
    """An answer takes its time; a refusal doesn't."""
    with Simulator(latency_s=0.3, rate_limit_per_minute=1) as sim:
        wire, since_s = wire_to(sim), time.monotonic()
        assert wire.ask().status == 200
        assert time.monotonic() - since_s >= 0.3
        assert wire.ask().status == 429


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"PUT /api/v1/models HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /api/v1/models?limit=1 HTTP/1.0\r\n\r\n", b"200"),
        (
            b"POST /api/v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
            b"100",
        ),
        (b"no HTTP\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", b""),
    ],
)
def test_wire__reads_any_request(wire, request_, status):
    """Other methods, older clients, those that ask before they send; who speaks no HTTP is left alone."""
    connection = wire.connection()
    connection.connect()
    connection.sock.sendall(request_)
    connection.sock.shutdown(socket.SHUT_WR)
    assert connection.sock.recv(1000)[9:12] == status
    connection.close()


def test_capacity__says_when_to_come_back(wire, sim):
    """Case 12: Retry-After and ``availability.retry_after`` agree, and the second ask is answered."""
    sim.script(scenario("rate_limited", retry_after_s=40))
    got = wire.ask()
    assert (got.status, got.headers["retry-after"]) == (429, "40")
    assert got.json["error"]["availability"]["retry_after"] == 40
    assert got.json["error"]["availability"]["code"] == "capacity_exhausted"
    assert wire.ask().status == 200
    assert sim.completion_count == 2


def test_upstream__503_502_529_524(wire, sim):
    """Case 13: every way in which a provider is away, the edge's own page included."""
    sim.script(scenario("unavailable", retry_after_s=3))
    sim.script(scenario("bad_gateway"), times=2)
    sim.script(scenario("overloaded"))
    sim.script(scenario("edge_timeout"))
    first, *others = (wire.ask() for _ in range(6))
    assert (first.status, first.headers["retry-after"]) == (503, "3")
    assert [got.status for got in others] == [502, 502, 529, 524, 200]
    assert others[3].headers["content-type"].startswith("text/html")
    assert others[3].raw.startswith(b"<!DOCTYPE html>")


def test_refusals__can_be_limited_by_body(wire, sim):
    """``times`` of a refusal counts for each body, so that parallel requests each get theirs."""
    sim.script(scenario("bad_gateway", times=2), times=6)
    statuses = [(wire.ask("first").status, wire.ask("second").status) for _ in range(3)]
    assert statuses == [(502, 502), (502, 502), (200, 200)]


def test_server_error__is_masked(wire, sim):
    """Case 14: a 500 says nothing of the provider, whoever asks."""
    sim.script(scenario("server_error"))
    got = wire.ask(headers={"X-OpenRouter-Metadata": "enabled"})
    assert got.status == 500
    assert got.json["error"]["metadata"] == {"error_type": "server"}
    assert "openrouter_metadata" not in got.json


def test_error__may_come_as_200(wire, sim):
    """Case 15: status 200, an error and a user id, and nothing else."""
    sim.script(scenario("error_in_200"))
    got = wire.ask()
    assert got.status == 200
    assert got.json.keys() == {"error", "user_id"}
    assert got.json["error"]["code"] == 502


def test_error__after_part_of_a_whole_reply(wire, sim):
    """Case 16: part of the text, ``finish_reason`` error, and the error in the choice; nothing is billed."""
    sim.script(scenario("broken_off", code=502))
    got = wire.ask()
    choice = got.json["choices"][0]
    assert (got.status, choice["finish_reason"], choice["error"]["code"]) == (200, "error", 502)
    assert choice["message"]["content"]
    assert wire.ask().text.startswith(choice["message"]["content"])
    assert got.usage["cost"] == 0


def test_errors__fit_the_reference(wire, sim, check):
    """Every refusal with a status of the reference fits that status's schema."""
    seen = set()
    for name in SCENARIOS:
        played = scenario(name)
        if played.refusal is None or played.refusal.html or played.refusal.status in {200, 504}:
            continue
        sim.script(played)
        got = wire.ask()
        assert got.status == played.refusal.status
        check(RESPONSES.format(got.status), json.loads(got.raw))
        seen.add(got.status)
    assert seen >= {400, 401, 402, 403, 404, 429, 500, 502, 503, 529}


def test_stream__refused_before_it_begins_is_json(wire, sim):
    """Case 27: with ``stream: true`` an early error still has its status and is JSON."""
    sim.script(scenario("rate_limited"))
    got = wire.ask(stream=True)
    assert got.status == 429
    assert got.headers["content-type"] == "application/json"
    assert got.json["error"]["code"] == 429


def test_context__too_long_is_400(wire):
    """A prompt longer than the model's context is refused as such."""
    error = wire.ask("word " * 70_000, model="mistralai/mistral-small-3.2-24b-instruct", max_tokens=5)
    assert error.status == 200
    error = wire.ask("word " * 140_000, model="mistralai/mistral-small-3.2-24b-instruct", max_tokens=5)
    assert error.json["error"]["metadata"]["error_type"] == "context_length_exceeded"


def test_scenario__by_model_or_header(wire):
    """A scenario is also asked for from the outside, without a word in the prompt."""
    assert wire.ask(model="simulator/overloaded").status == 529
    assert wire.ask(model="simulator/plain").json["provider"] == "FakeProvider"
    got = wire.ask(headers={"X-Simulator-Scenario": "rate_limited retry_after_s=2"})
    assert (got.status, got.headers["retry-after"]) == (429, "2")
    assert wire.ask(headers={"X-Simulator-Scenario": "nonsense"}).status == 400
    assert wire.ask(headers={"X-Simulator-Scenario": "plain nonsense"}).status == 400
    assert wire.ask(model="simulator/nonsense").json["error"]["availability"]["code"] == "model_not_found"


def test_scenario__unknown_name_or_option_is_an_error():
    """A typing error in a test is told at once."""
    with pytest.raises(ValueError, match="no scenario is named 'rate_limit'"):
        scenario("rate_limit")
    with pytest.raises(ValueError, match="does not take seconds"):
        scenario("rate_limited", seconds=3)


def test_script__match_picks_its_requests(wire, sim):
    """With ``match`` a scenario waits for its own requests and lets others pass."""
    sim.script(scenario("overloaded"), match=lambda body: body["model"] == "openai/gpt-4o")
    assert wire.ask().status == 200
    assert wire.ask(model="openai/gpt-4o").status == 529
    assert wire.ask(model="openai/gpt-4o").status == 200
