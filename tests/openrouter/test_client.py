"""What leaves, what is tried again, and what each failure on the wire is told as."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from decimal import Decimal
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.callbacks import Cancel, Cancelled, Pacing
from or_cache_magic.core.records import Request
from or_cache_magic.errors import ConnectionLostError, MissingKeyError, UpstreamError
from or_cache_magic.openrouter import client
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.openrouter.connections import ApiTarget
from or_cache_magic.openrouter.failures import upstream_error
from or_cache_magic.openrouter.reply import ReplyReader
from or_cache_magic.openrouter.wire import read_json
from or_cache_magic.simulator import scenario

BODY = {
    "model": "openai/gpt-4o-mini",
    "messages": [{"role": "user", "content": "What is caching?"}],
    "temperature": 0,
}
GOOD = 'data: {"id":"gen-1","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
def naps():
    """Seconds that the gateway wanted to wait, in order."""
    return []


@pytest.fixture
def gateway(naps):
    made = Gateway(lambda: "sk-or-v1-test", sleep=naps.append, timeout_s=lambda: 5.0)
    yield made
    made.close()


@pytest.fixture
def holding():
    """``holding(piece, …)`` is a server that sends these pieces, as many as are taken, and never ends its reply."""
    over, running = threading.Event(), []

    def start(*pieces):
        server = Holding(chain(*(piece if isinstance(piece, repeat) else [piece] for piece in pieces)), over)
        running.append(server)
        server.start()
        return server

    yield start
    over.set()
    for server in running:
        server.join()


class Holding(threading.Thread):
    def __init__(self, pieces, over):
        super().__init__()
        self._pieces, self._over = pieces, over
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(60)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api/v1"
        self.taken = 0

    def run(self):
        with self._listener, self._listener.accept()[0] as client:
            client.recv(100_000)
            try:
                for piece in self._pieces:
                    client.sendall(piece)
                    self.taken += len(piece)
                    if self._over.is_set():
                        return
            except OSError:
                return
            self._over.wait(60)


def head(status="200 OK", kind="text/event-stream", *more):
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *more, "", ""]).encode()


def request_to(server, *, stream=True, **fields):
    return Request({**BODY, **fields}, stream=stream, base_url=server.base_url)


def send(gateway, server, **fields):
    return gateway.send(request_to(server, **fields), ReplyReader())


def refusal(status, **error):
    return json.dumps({"error": {"code": status, "message": "no", **error}})


# -- what leaves ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_gateway__sends_the_body_and_nothing_else(gateway, sim, stream):
    """What is sent equals the body plus ``stream``: unknown fields, nulls inside and order of values included."""
    fields = {
        "provider": {"order": ["b", "a"], "x": None},
        "max_tokens": 7,
        "brand_new": [1, {"deep": True}],
        "seed": 2**60,
        "stop": "END",
    }
    send(gateway, sim, stream=stream, **fields)
    (received,) = sim.requests
    assert received.body == {**BODY, **fields, "stream": stream}
    assert received.headers["authorization"] == "Bearer sk-or-v1-test"


def test_gateway__keeps_openai_secrets_at_home(gateway, sim, monkeypatch):
    """Nothing that OpenAI's variables hold is in any header, and no header that isn't ours leaves."""
    secrets = {
        "OPENAI_API_KEY": "sk-secret-1",
        "OPENAI_ADMIN_KEY": "sk-secret-2",
        "OPENAI_ORG_ID": "org-secret",
        "OPENAI_PROJECT_ID": "proj-secret",
        "OPENAI_WEBHOOK_SECRET": "wh-secret",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/secret",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-secret-3\nX-Api-Key: sk-secret-4",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    send(gateway, sim)
    (received,) = sim.requests
    assert received.headers["authorization"] == "Bearer sk-or-v1-test"
    assert "secret" not in repr(dict(received.headers))
    assert set(received.headers) <= {
        "host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent",
        "authorization", "http-referer", "x-openrouter-title", "x-stainless-raw-response",
    }  # fmt: skip


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_gateway__sends_nothing_without_an_openrouter_key(sim, monkeypatch, key):
    """OpenAI's key is no substitute."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(MissingKeyError, match="nothing was sent"):
        send(Gateway(lambda: key), sim)
    assert sim.requests == ()


@pytest.mark.parametrize("key", ["sk-or-secret\nx: y", "sk-or-secret ключ", "sk-or-secret two"])
def test_gateway__never_shows_a_key_that_cannot_be_one(sim, key):
    """A key that no header can hold is refused here, without showing it."""
    with pytest.raises(MissingKeyError) as caught:
        send(Gateway(lambda: key), sim)
    assert "secret" not in str(caught.value)
    assert sim.requests == ()


@pytest.mark.parametrize("attribution", [True, False])
def test_gateway__tells_which_tool_asks_unless_told_not_to(sim, attribution):
    """Attribution is on by default and off with the setting."""
    gateway = Gateway(lambda: "sk-or-v1-test", attribution=lambda: attribution)
    send(gateway, sim)
    gateway.close()
    headers = sim.requests[0].headers
    assert ("http-referer" in headers) is ("x-openrouter-title" in headers) is attribution


@pytest.mark.parametrize("fresh", [True, False])
def test_gateway__forbids_repeated_answers_only_where_told(gateway, sim, fresh):
    """OpenRouter's own response caching is forbidden for a fresh answer, and else left as it is."""
    gateway.send(request_to(sim), ReplyReader(), fresh=fresh)
    assert sim.requests[0].headers.get("x-openrouter-cache") == ("false" if fresh else None)


@pytest.mark.parametrize("fresh", [True, False])
def test_gateway__sends_a_row_of_a_list_as_it_sends_a_cell(gateway, sim, fresh):
    """The way past the ``openai`` client sends the same body and headers, but for a note of the client's to itself."""
    body = {
        **BODY,
        "messages": [{"role": "user", "content": 'Größe "µ" \u2028 𝄞'}],
        "top_p": 0.1,
        "seed": 2**53,
    }
    for pacing in (None, Pacing(1, 1)):
        request = Request(body, base_url=sim.base_url)
        gateway.send(request, ReplyReader(), fresh=fresh, pacing=pacing)
    cell, row = (dict(request.headers) for request in sim.requests)
    assert cell.pop("x-stainless-raw-response") == "stream"
    assert row == cell
    assert [request.body for request in sim.requests] == [{**body, "stream": True}] * 2


def test_gateway__fails_alike_for_a_row_of_a_list(gateway):
    """No connection is told alike, and costs nothing."""
    told = []
    for pacing in (None, Pacing(1, 1)):
        with pytest.raises(ConnectionLostError) as caught:
            gateway.send(Request(BODY, base_url="http://127.0.0.1:1/api/v1"), ReplyReader(), pacing=pacing)
        told.append((str(caught.value), caught.value.hint, caught.value.cost_usd, caught.value.retryable))
    assert told[0] == told[1]


def test_gateway__follows_changes_of_key_and_address(sim, canned, reply):
    """The key and the address are those of the moment of the request."""
    keys = iter(["sk-or-v1-one", "sk-or-v1-two", "sk-or-v1-three"])
    gateway = Gateway(lambda: next(keys))
    other = canned(reply(GOOD))
    send(gateway, sim)
    send(gateway, sim)
    assert send(gateway, other).text == "Hi"
    gateway.close()
    assert [r.headers["authorization"] for r in sim.requests] == [
        "Bearer sk-or-v1-one",
        "Bearer sk-or-v1-two",
    ]
    assert b"Bearer sk-or-v1-three" in other.received[0]


AT_NOON = {"Date": "Sat, 28 Nov 2026 12:00:00 GMT"}

# -- what is tried again ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_gateway__tries_again_what_cost_nothing(gateway, canned, reply, naps, status):
    """Two failures that billed nothing, then the answer: three attempts, each after a longer wait."""
    failed = reply(refusal(status), "application/json", f"{status} X")
    server = canned(failed, failed, reply(GOOD))
    assert send(gateway, server).text == "Hi"
    assert len(server.received) == 3
    assert naps == [0.5, 1.0]


def test_gateway__gives_up_after_three_attempts(gateway, canned, reply, naps):
    """The error says how many requests were sent, and that they cost nothing."""
    server = canned(reply(refusal(503), "application/json", "503 X"))
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server)
    assert (caught.value.attempts, len(server.received), len(naps)) == (3, 3, 2)
    assert caught.value.cost_usd == 0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 412, 413, 422, 499, 504, 524])
def test_gateway__never_repeats_what_will_not_help_or_may_be_billed(gateway, canned, reply, naps, status):
    """Refusals stay refusals, and after a time-out the first call may already be on the bill."""
    server = canned(reply(refusal(status), "application/json", f"{status} X"))
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server)
    assert (caught.value.status, caught.value.retryable) == (status, False)
    assert (len(server.received), naps) == (1, [])
    assert caught.value.cost_usd == (None if status in (408, 499, 504, 524) else 0)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("headers", "error", "waited"),
    [
        ({"Retry_After": "7"}, {}, [7.0]),
        ({"Retry_After": "0"}, {}, [0.0]),
        ({}, {"availability": {"retry_after": 4}}, [4.0]),
        ({"Retry_After": "300"}, {}, [300.0]),
        ({"Retry_After": "301"}, {}, []),
        ({"Retry_After": "Sat, 28 Nov 2026 12:00:14 GMT", **AT_NOON}, {}, [14.0]),
        ({"Retry_After": "Sat, 28 Nov 2026 11:00:00 GMT", **AT_NOON}, {}, [0.0]),
        ({"X_RateLimit_Reset": "1795867214000", **AT_NOON}, {}, [14.0]),
        ({"X_RateLimit_Reset": "1795867214", **AT_NOON}, {}, [14.0]),
        ({"X_RateLimit_Reset": "14", **AT_NOON}, {}, [14.0]),
        ({"X_RateLimit_Reset": "1e400", **AT_NOON}, {}, []),
        (AT_NOON, {"metadata": {"headers": {"X-RateLimit-Reset": "1795867214000"}}}, [14.0]),
        ({"Retry_After": "3", "X_RateLimit_Reset": "1795867214000", **AT_NOON}, {}, [3.0]),
        ({"Retry_After": "inf"}, {}, []),
        ({"Retry_After": "soon"}, {}, [0.5]),
        ({"Retry_After": "-3"}, {}, [0.5]),
        ({}, {"availability": {"retryable": False}}, []),
        ({}, {"message": "Rate limit exceeded: free-models-per-day. "}, []),
        ({}, {"message": "Rate limit exceeded: free-models-per-min. "}, [0.5]),
    ],
    ids=str,
)
def test_gateway__waits_as_long_as_the_server_asks(gateway, canned, reply, naps, headers, error, waited):
    """As long as it asks in seconds or by a moment, up to five minutes; a daily cap or a plain "don't" ends it."""
    server = canned(reply(refusal(429, **error), "application/json", "429 X", **headers), reply(GOOD))
    if waited:
        assert send(gateway, server).text == "Hi"
    else:
        with pytest.raises(UpstreamError):
            send(gateway, server)
    assert naps == waited
    assert len(server.received) == 1 + len(waited)


@pytest.mark.parametrize(("asked_s", "waits"), [(200, True), (1000, False)])
def test_gateway__has_others_of_a_model_heed_what_one_was_told(gateway, canned, reply, naps, asked_s, waits):
    """A limit that one ask met holds back the next one of its model, none of another; too long a one nobody."""
    server = canned(reply(refusal(429), "application/json", "429 X", Retry_After=asked_s), reply(GOOD))
    cancel, told = Cancel(), []
    with pytest.raises((Cancelled, UpstreamError)):
        gateway.send(request_to(server), ReplyReader(), cancel=cancel, on_wait=lambda _line: cancel.set())
    gateway.send(request_to(server, model="a/b"), ReplyReader(), on_wait=told.append)
    assert (told, naps) == ([], [])
    assert gateway.send(request_to(server), ReplyReader(), on_wait=told.append).text == "Hi"
    assert told == [f"rate limited, going on in {wait_s:.3g} s" for wait_s in naps]
    assert [asked_s - 30 < wait_s <= asked_s for wait_s in naps] == [True] * waits


@pytest.mark.parametrize(
    "fields",
    [
        {"plugins": [{"id": "web"}]},
        {"web_search_options": {"search_context_size": "low"}},
        {"web_search_options": {}},
        {"tools": [{"type": "openrouter:web_search"}]},
        {"model": "openai/gpt-4o-mini:online"},
    ],
    ids=str,
)
def test_gateway__does_not_repeat_a_failure_that_ordered_searches(gateway, canned, reply, naps, fields):
    """Searches and files are billed apart, also when the model then failed."""
    server = canned(reply(refusal(502), "application/json", "502 X"))
    with pytest.raises(UpstreamError, match="may have been billed") as caught:
        send(gateway, server, **fields)
    assert caught.value.cost_usd is None
    assert len(server.received) == 1


def test_gateway__repeats_a_failure_with_functions_of_the_caller(gateway, canned, reply):
    """Functions are run by the caller: they bill nothing."""
    server = canned(reply(refusal(502), "application/json", "502 X"), reply(GOOD))
    assert send(gateway, server, tools=[{"type": "function", "function": {"name": "f"}}]).text == "Hi"


IN_FLIGHT = {"message": "Held", "metadata": {"reason": "in_flight_budget_exhausted"}}


def test_gateway__waits_for_credits_that_calls_under_way_hold(gateway, canned, reply, naps):
    """A 402 of calls under way passes by itself: waited for as asked, told, and no word of adding credits."""
    held = reply(refusal(402, **IN_FLIGHT), "application/json", "402 X", Retry_After=120)
    told = []
    answer = gateway.send(request_to(canned(held, reply(GOOD))), ReplyReader(), on_wait=told.append)
    assert (answer.text, naps) == ("Hi", [120.0])
    assert told == ["credits are held by calls under way, trying again in 120 s (2 of 3)"]
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(held))
    assert (caught.value.retryable, caught.value.refuses_all, caught.value.cost_usd) == (True, False, 0)
    assert "credits" not in caught.value.hint


@pytest.mark.parametrize(
    ("status", "metadata", "refuses_all"),
    [
        (401, {}, True),
        (402, {"limit_source": "openrouter_credits", "reason": "weight_exceeds_budget"}, True),
        (403, {"limit_source": "openrouter_workspace_budget"}, True),
        (403, {"limit_source": "openrouter_guardrail_budget"}, True),
        (403, {"patterns": ["credit_card"]}, False),
        (429, {}, False),
    ],
)
def test_gateway__tells_a_refusal_of_everything_from_one_of_this(
    gateway, canned, reply, naps, status, metadata, refuses_all
):
    """The key, the credits and a budget refuse whatever is asked next; moderation does not."""
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(reply(refusal(status, metadata=metadata), "application/json", f"{status} X")))
    assert caught.value.refuses_all is refuses_all


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry_After": "inf"},
        {"Retry_After": "1e400"},
        {"Retry_After": 10**30},
        {"X_RateLimit_Reset": 10**40},
    ],
    ids=str,
)
def test_gateway__waits_for_no_endless_time(gateway, canned, reply, naps, headers):
    """What no clock reaches is told as more than a day, and not waited for."""
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(reply(refusal(429), "application/json", "429 X", **headers)))
    assert "wait more than a day" in caught.value.hint
    assert caught.value.retry_after_s == 366 * 86_400
    assert naps == []


@pytest.mark.parametrize(
    ("metadata", "hint"),
    [
        ({"limit_usd": 500, "spend_usd": 500.25, "resets_at": "2026-12-01T00:00:00Z"},
         "$500.25 of the limit of $500.00 is spent; it begins anew 2026-12-01T00:00:00Z"),
        ({"limit_usd": "20", "remedy_hint": "Raise the key\x1b[31m limit\n at /keys"},
         "the limit is $20.00; Raise the key␛[31m limit at /keys"),
        ({"limit_usd": [1], "spend_usd": "x", "resets_at": {}, "remedy_hint": 7},
         "your key, a guardrail or moderation blocked it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [402, 403])
def test_gateway__tells_of_a_budget_what_the_error_says(gateway, canned, reply, status, metadata, hint):
    """The limit, what is spent, when it begins anew and the server's own advice; else what we can say."""
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(reply(refusal(status, metadata=metadata), "application/json", f"{status} X")))
    assert caught.value.hint == (
        hint
        if status == 403 or "$" in hint
        else "add credits to your OpenRouter account, or lower --max-tokens"
    )


def test_gateway__tries_a_refused_connection_again(gateway, naps):
    """Nothing listens: nothing was sent, nothing was paid, and there were three attempts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        request = Request(BODY, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/api/v1")
        with pytest.raises(ConnectionLostError, match="nothing was sent") as caught:
            gateway.send(request, ReplyReader())
    assert (caught.value.attempts, len(naps), caught.value.cost_usd) == (3, 2, 0)


def test_gateway__never_repeats_after_text(gateway, sim, naps):
    """An error after any text is not tried again: the answer comes back as far as it got."""
    sim.script(scenario("broken_off", code=502))
    answer = send(gateway, sim)
    assert answer.text
    assert answer.error["code"] == 502
    assert (sim.completion_count, naps) == (1, [])


def test_gateway__tries_an_error_inside_a_200_again(gateway, sim, naps):
    """Before any text a 502 inside an HTTP 200 is a 502."""
    sim.script(scenario("error_in_200"))
    assert send(gateway, sim, stream=False).complete
    assert (sim.completion_count, naps) == (2, [0.5])


def test_gateway__lets_no_attempt_vouch_for_the_next(gateway, canned, reply):
    """The end marker of a failed attempt does not prove the next answer whole."""
    first = 'data: {"error":{"code":502,"message":"down"}}\n\ndata: [DONE]\n\n'
    server = canned(reply(first, X_Generation_Id="gen-0"), reply(GOOD.replace("data: [DONE]\n\n", "")))
    answer = send(gateway, server)
    assert len(server.received) == 2
    assert (answer.text, answer.complete, answer.generation_id) == ("Hi", False, "gen-1")


def test_gateway__believes_the_cost_that_an_error_reports(gateway, canned, reply):
    """An error that reports what it cost is not free, and so not tried again."""
    usage = '"usage":{"prompt_tokens":9,"cost":0.0042}'
    server = canned(reply('data: {"id":"gen-7","error":{"code":502,"message":"down"},' + usage + "}\n\n"))
    with pytest.raises(UpstreamError, match=r"it cost \$0\.0042") as caught:
        send(gateway, server)
    assert caught.value.cost_usd == Decimal("0.0042")
    assert (caught.value.generation_id, caught.value.retryable) == ("gen-7", False)


BILLED = [
    {"prompt_tokens": 1000, "completion_tokens": 500},
    {"cost": -0.5},
    {"is_byok": True, "cost": 0.0},
    {"cost": "0.02"},
    {"cost": 1e300},
    {},
    [1],
    "odd",
]


@pytest.mark.parametrize("usage", BILLED, ids=str)
@pytest.mark.parametrize("status", ["429 X", "502 X", "503 X", "200 json", "200 stream", "502 stream"])
def test_gateway__calls_no_failure_free_that_tells_of_usage(gateway, canned, reply, naps, usage, status):
    """Where a usage came whose cost can't be read, or is missing, nobody knows it: told, and not sent again."""
    code, _, form = status.partition(" ")
    body = json.dumps(
        {"error": {"code": 502 if code == "200" else int(code), "message": "down"}, "usage": usage}
    )
    body = f"data: {body}\n\n" if form == "stream" else body
    kind = "text/event-stream" if form == "stream" else "application/json"
    server = canned(reply(body, kind, f"{code} X"))
    with pytest.raises(UpstreamError, match="it may have been billed") as caught:
        send(gateway, server)
    assert (caught.value.cost_usd, caught.value.retryable, len(server.received), naps) == (None, False, 1, [])


@pytest.mark.parametrize("status", ["502 X", "200 OK"])
@pytest.mark.parametrize(
    ("usage", "usd", "sent"), [({"cost": 0.02}, "0.02", 1), ({"cost": 0}, "0", 3), (None, "0", 3)]
)
def test_gateway__counts_what_a_failure_says_it_cost(gateway, canned, reply, naps, status, usage, usd, sent):
    """A cost that can be read counts, nothing too; without any word of it a provider's failure is free."""
    body = json.dumps({"error": {"code": 502, "message": "down"}, "usage": usage})
    server = canned(reply(body, "application/json", status))
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server)
    assert (caught.value.cost_usd, len(server.received)) == (Decimal(usd), sent)


@pytest.mark.parametrize(
    "body",
    [
        '{"error":{"code":502,"message":"down","usage":{"completion_tokens":5}}}',
        '{"error":{"code":502,"message":"down"}}\n{"usage" : {"completion_tokens":5}}',
        '{"error":{"code":502,"message":"down"},"choices":[{"message":{"content":"Hi"}}]}',
        '{"error":{"code":502,"message":"down"},"usage":{"completion_tokens":5',
    ],
)
def test_gateway__calls_no_refusal_free_that_tells_of_work(gateway, canned, reply, naps, body):
    """Wherever it stands, and whatever else does."""
    server = canned(reply(body, "application/json", "502 X"))
    with pytest.raises(UpstreamError, match="it may have been billed"):
        send(gateway, server)
    assert len(server.received) == 1


@pytest.mark.parametrize("reset", [True, False])
def test_gateway__counts_a_cost_whatever_came_after_it(gateway, canned, reply, naps, reset):
    """What a stream said that it cost holds when it then broke off."""
    error = '{"error":{"code":502,"message":"down"},"usage":{"cost":0.02}}'
    for body, told in ((error, "down"), ('{"choices":[],"usage":{"cost":0.02}}', "broke off")):
        raw = (
            reply(f"data: {body}\n\n", Content_Length=5000)
            if reset or told != "down"
            else reply(f"data: {body}\n\n")
        )
        with pytest.raises(UpstreamError, match=r"it cost \$0\.02") as caught:
            send(gateway, canned(raw))
        assert told in str(caught.value)
        assert caught.value.cost_usd == Decimal("0.02")


@pytest.mark.parametrize("field", ["detail", "message", "msg"])
@pytest.mark.parametrize("form", ["{}", "data: {}\n\n"])
def test_gateway__tells_what_a_200_says_in_the_place_of_an_answer(gateway, canned, reply, naps, field, form):
    """Frameworks refuse in other words: they are an error, of unknown cost unless one is told."""
    for more, usd in (({}, None), ({"code": 502}, None), ({"usage": {"cost": 0.02}}, Decimal("0.02"))):
        body = form.replace("{}", json.dumps({field: "no such \x1bthing", **more}))
        with pytest.raises(UpstreamError, match="no such ␛thing") as caught:
            send(gateway, canned(reply(body, "text/event-stream" if "data" in form else "application/json")))
        assert (caught.value.cost_usd, caught.value.retryable) == (usd, False)


def test_gateway__does_not_call_searches_free_inside_a_200(gateway, canned, reply):
    """A 4xx inside an HTTP 200 came after the request was taken: its searches may be on the bill."""
    server = canned(reply(refusal(429), "application/json"))
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server, plugins=[{"id": "web"}])
    assert caught.value.cost_usd is None
    assert len(server.received) == 1


# -- what comes instead of an answer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html>hello</html>", "text/html"),
        ("", "application/json"),
        (" \n\n ", "application/json"),
        (": OPENROUTER PROCESSING\n\n", "application/json"),
        ("[1]", "application/json"),
        (b"\xff\xfe", "application/json"),
        ("data: {nonsense\n\n", "text/event-stream"),
        ("data: [1]\n\n", "text/event-stream"),
    ],
    ids=str,
)
def test_gateway__says_when_a_200_is_no_answer(gateway, canned, reply, naps, body, content_type):
    """A 200 that isn't a completion is an error in two lines, of unknown cost, not tried again."""
    server = canned(reply(body, content_type, X_Generation_Id="gen-5"))
    with pytest.raises(UpstreamError, match="may have been billed") as caught:
        send(gateway, server)
    assert (caught.value.status, caught.value.cost_usd, caught.value.generation_id) == (None, None, "gen-5")
    assert len(str(caught.value).splitlines()) == 2
    assert naps == []


def test_gateway__tells_html_from_the_edge(gateway, sim):
    """A 524 is a page of HTML, of which nothing is shown."""
    sim.script(scenario("edge_timeout"))
    with pytest.raises(UpstreamError, match="HTML page from the network's edge") as caught:
        send(gateway, sim)
    assert (caught.value.status, caught.value.cost_usd) == (524, None)
    assert "<" not in str(caught.value)


def test_gateway__brings_back_a_clean_end_without_proof(gateway, sim):
    """The connection ends without an end marker: what came is there, and not whole."""
    for how in ("eof", "eof_after_finish", "reset"):
        sim.script(scenario("cut", how=how))
        answer = send(gateway, sim)
        assert answer.text, how
        assert not answer.complete, how
    assert sim.completion_count == 3


def test_gateway__names_the_generation_of_a_lost_connection(gateway, canned, reply):
    """A connection that breaks before any text still has the id by which its cost can be found out."""
    whole = reply(GOOD, X_Generation_Id="gen-6", Content_Length=500)
    with pytest.raises(ConnectionLostError, match="may have been billed") as caught:
        send(gateway, canned(whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"))
    assert (caught.value.generation_id, caught.value.cost_usd, caught.value.attempts) == ("gen-6", None, 1)


def test_gateway__never_repeats_a_timeout(sim):
    """A server that goes silent is given up after the time set, once; the connection is closed."""
    gateway = Gateway(lambda: "sk-or-v1-test", timeout_s=lambda: 0.2)
    sim.script(scenario("stalled", after_pieces=0))
    with pytest.raises(ConnectionLostError) as caught:
        send(gateway, sim)
    gateway.close()
    assert (caught.value.attempts, caught.value.cost_usd) == (1, None)
    assert sim.wait_for(lambda rows: rows[-1].cancelled)
    assert sim.completion_count == 1


@pytest.mark.parametrize("stream", [False, True])
def test_gateway__keeps_an_answer_that_had_come_when_it_was_cancelled(gateway, sim, monkeypatch, stream):
    """It is paid for, and whole: whoever cancels as its last bytes come would buy it again."""
    bounded, cancel = client._bounded, Cancel()

    def cancelled_at_the_end(chunks, cancel):
        whole = b"".join(chunks)
        cancel.set()
        return bounded(iter([whole]), cancel)

    monkeypatch.setattr(client, "_bounded", cancelled_at_the_end)
    request = request_to(sim)._replace(stream=stream)
    answer = gateway.send(request, ReplyReader(), cancel=cancel)
    assert answer.complete
    assert answer.doubt is None
    assert sim.completion_count == 1


def test_gateway__reads_text_with_unicode_line_ends(gateway, canned, reply):
    """U+2028 stands raw in a chunk, and the chunk is not torn there."""
    server = canned(reply(GOOD.replace("Hi", "a\u2028b\u0085c")))
    assert send(gateway, server).text == "a\u2028b\u0085c"


def test_gateway__reads_crlf(gateway, canned, reply):
    """Lines may end as Windows ends them."""
    assert send(gateway, canned(reply(GOOD.replace("\n", "\r\n")))).complete


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ({}, {}),
        ({}, {"tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
              "tool_choice": "required"}),
        ({"name": "reasoning"}, {}),
        ({"name": "web_search"}, {}),
        ({}, {"model": "google/gemini-2.5-flash-image", "modalities": ["image", "text"]}),
        ({"name": "usage_shape", "shape": "a"}, {}),
        ({"name": "usage_shape", "shape": "c"}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_gateway__assembles_what_a_whole_reply_has(gateway, sim, script, fields):
    """The message of a stream equals that of the whole reply to the same request."""
    answers = []
    for stream in (True, False):
        if script:
            sim.script(scenario(script.get("name"), **{k: v for k, v in script.items() if k != "name"}))
        answers.append(send(gateway, sim, stream=stream, **fields))
    streamed, whole = answers
    assert streamed.choices == whole.choices
    assert streamed.complete
    assert whole.complete
    assert (streamed.usage.completion_tokens, streamed.cost) == (whole.usage.completion_tokens, whole.cost)
    assert streamed.model == whole.model
    assert streamed.extra.keys() == whole.extra.keys()
    assert streamed.extra["usage"]["cost_details"] == whole.extra["usage"]["cost_details"]


def test_gateway__closes_the_connection_when_interrupted(sim):
    """An interrupt while text comes passes as it is, and the server sees the client go."""
    gateway = Gateway(lambda: "sk-or-v1-test")

    def interrupt(_text):
        raise KeyboardInterrupt

    sim.script(scenario("slow", delay_s=0, chunk_delay_s=0.05))
    reader = ReplyReader(interrupt)
    with pytest.raises(KeyboardInterrupt):
        gateway.send(request_to(sim), reader)
    assert sim.wait_for(lambda rows: rows[-1].cancelled)
    assert reader.answer().text
    gateway.close()


def test_gateway__serves_many_threads(gateway, sim):
    """One gateway, many threads: each has its own answer."""
    answers = {}

    def ask(number):
        messages = [{"role": "user", "content": f"Say number {number}"}]
        answers[number] = send(gateway, sim, messages=messages)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer.complete for answer in answers.values())
    assert len({answer.generation_id for answer in answers.values()}) == 16


# -- what is kept out -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("stream", [True, False])
def test_gateway__follows_no_redirect(gateway, canned, reply, naps, status, stream):
    """No prompt goes to another address, and no page there is an answer; the error names the target."""
    elsewhere = canned(reply(GOOD))
    moved = canned(reply("", status=f"{status} X", Location=f"{elsewhere.base_url}/chat/completions"))
    with pytest.raises(UpstreamError, match="nothing was paid") as caught:
        send(gateway, moved, stream=stream)
    assert elsewhere.base_url in str(caught.value)
    assert (caught.value.status, caught.value.cost_usd, caught.value.retryable) == (status, 0, False)
    with pytest.raises(UpstreamError, match="no redirect"):
        gateway.fetch("/models", base_url=moved.base_url)
    assert elsewhere.received == []


@pytest.mark.parametrize(
    "kind", ["TEXT/EVENT-STREAM", "text/event-stream; charset=utf-8", "Text/Event-Stream ;x=1"]
)
def test_gateway__reads_a_stream_by_any_spelling_of_its_type(gateway, canned, reply, kind):
    """Media types have no case, and may have parameters."""
    assert send(gateway, canned(reply(GOOD, kind))).complete


def test_gateway__reads_a_stream_under_another_type(gateway, canned, reply):
    """A stream that says it is JSON is paid for all the same."""
    answer = send(gateway, canned(reply(": hold\n\n" + GOOD, "application/json")))
    assert (answer.text, answer.complete) == ("Hi", True)


KEY = "sk-or-v1-test"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("401 X", {"error": {"message": f"bad Authorization: Bearer {KEY}", "metadata": {"raw": KEY}}}),
        ("400 X", {"error": {"metadata": {"headers": {"authorization": "Basic dXNlcjpwYXNzd29yZA=="}}}}),
        ("500 X", {"detail": f"Bearer {KEY}"}),
        ("400 X", f"no JSON but {KEY}"),
        ("200 OK", {"error": {"code": 400, "message": f"Bearer {KEY}", KEY: KEY}}),
        ("200 OK", {"choices": [{"error": {"message": KEY}, "message": {"content": ""}}]}),
    ],
    ids=str,
)
def test_gateway__never_shows_a_key_that_comes_back(gateway, canned, reply, naps, status, body):
    """A server that echoes the request's headers puts the key into no message and no body."""
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(reply(text, "application/json", status, X_Generation_Id=KEY)))
    shown = f"{caught.value} {caught.value.body} {caught.value.generation_id}"
    assert KEY not in shown
    assert "dXNlcjpwYXNzd29yZA" not in shown


def test_gateway__keeps_the_key_out_of_an_answer(gateway, canned, reply):
    """Nor into the answer, its names or its error."""
    chunk = {"id": KEY, "provider": KEY, "choices": [{"delta": {"content": f"<{KEY}>", KEY: KEY}, "finish_reason": KEY,
             "native_finish_reason": KEY, "logprobs": {"content": [{"token": KEY}]}}], "error": {"message": KEY}}  # fmt: skip
    seen = []
    answer = gateway.send(
        request_to(canned(reply(f"data: {json.dumps(chunk)}\n\n"))), ReplyReader(seen.append)
    )
    assert KEY not in repr(answer)
    assert answer.text == "<…>"
    assert seen == ["<…>"]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    "body",
    [GOOD, GOOD.replace("\n\n", "\n"), '{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'],
)
def test_gateway__reads_an_answer_by_what_it_is(gateway, canned, reply, kind, body):
    """A stream or a whole reply is read as such under the other's type, and without blank lines between events."""
    answer = send(gateway, canned(reply(body, kind)))
    assert (answer.text, answer.complete) == ("Hi", True)


PAID = (
    '{"id":"gen-1","choices":[{"message":{"content":"é Hi €"},"finish_reason":"stop"}],"usage":{"cost":0.5}}'
)


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "\n<!-- x -->"), ("", "\n" + PAID), ("", "{"), ("<pre>", "</pre>"), ("[", "]"), (")]}',\n", ""),
     ("callback(", ");"), ("<style>a { b }</style>", "")],
    ids=repr,
)  # fmt: skip
def test_gateway__gives_a_reply_that_something_stands_around(gateway, canned, reply, before, after):
    """It is paid for: given, with its cost, and for what stands there not stored."""
    for kind in ("application/json", "text/html", *([] if before else ["text/event-stream"])):
        answer = send(gateway, canned(reply(before + PAID + after, kind)))
        assert (answer.text, answer.complete, answer.cost.usd) == ("é Hi €", True, Decimal("0.5"))
        assert "stands" in answer.doubt


@pytest.mark.parametrize(
    ("encoding", "charset"),
    [("utf-16", "utf-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "utf-16be"), ("utf-32", "utf-32"), ("utf-16", ""),
     ("utf-8-sig", "utf-16"), ("utf-8", "iso-8859-1"), ("utf-8", '"nonsense"'), ("utf-8-sig", "")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_gateway__reads_every_encoding_of_unicode(gateway, canned, reply, encoding, charset, stream):
    """By its mark or its first bytes, whatever the header says; a stream too, wherever the network cuts it."""
    body = (
        GOOD.replace("Hi", "é Hi €\U0001f600") if stream else ": hold\n\n" + PAID.replace("€", "€\U0001f600")
    )
    kind = f"{'text/event-stream' if stream else 'application/json'}; charset={charset}"
    answer = send(gateway, canned(reply(body.encode(encoding), kind)))
    assert (answer.text, answer.complete, answer.doubt) == ("é Hi €\U0001f600", True, None)


@pytest.mark.parametrize("charset", ["iso-8859-1", "ISO-8859-1 ; x=1", '"latin1"', "utf-8", "shift_jis", ""])
@pytest.mark.parametrize("stream", [True, False])
def test_gateway__reads_the_charset_that_is_declared(gateway, canned, reply, charset, stream):
    """Bytes that are no UTF-8 are Latin-1 where the header says so; else they are a doubt."""
    body = GOOD.replace("Hi", "é Hi") if stream else PAID.replace("€", "")
    kind = f"{'text/event-stream' if stream else 'application/json'}; charset={charset}"
    answer = send(gateway, canned(reply(body.encode("latin-1"), kind)))
    said = "1" in charset
    assert (answer.text.strip(), answer.doubt is None) == ("é Hi" if said else "\ufffd Hi", said)


@pytest.mark.parametrize("padding", ["\ufeff", "\n", ": hold\n\n", "\ufeff\n: x\n"])
def test_gateway__reads_json_that_says_it_is_a_stream(gateway, canned, reply, padding):
    """What comes before it changes nothing."""
    answer = send(gateway, canned(reply(padding + PAID)))
    assert (answer.text, answer.complete, answer.doubt) == ("é Hi €", True, None)


def test_gateway__reads_on_after_an_event_that_is_none(gateway, canned, reply):
    """A word that is no chunk costs no answer; a piece may be missing, so it isn't stored."""
    for body in ("data: ping\n\n" + GOOD, FINISHED.replace('"stop"', "null") + "data: {nonsense\n\n" + GOOD):
        answer = send(gateway, canned(reply(body)))
        assert answer.text.endswith("Hi")
        assert answer.complete
        assert "could not be read" in answer.doubt


def test_gateway__holds_the_key_so_that_no_frame_shows_it(gateway):
    """A traceback with the values of its frames (``%xmode Verbose``) has no key in it."""
    key = gateway.require_key()
    target = ApiTarget(key, "https://example.org", True, 1.0)
    assert "sk-or" not in repr((key, target, {"key": key}))
    assert f"Bearer {key}" == "Bearer sk-or-v1-test"


@pytest.mark.parametrize("port_open", [True, False])
def test_gateway__shows_no_key_in_the_frames_of_an_error(sim, port_open):
    """`%xmode Verbose` shows the values in each frame, ours and the libraries': the key is in none."""
    key = "sk-or-v1-" + "ab12" * 16

    def interrupt(_text):
        raise KeyboardInterrupt

    gateway = Gateway(lambda: key, sleep=lambda _s: None)
    base_url = sim.base_url if port_open else "http://127.0.0.1:1/api/v1"
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - an interrupt, or no connection
        gateway.send(Request(BODY, base_url=base_url), ReplyReader(interrupt))
    gateway.close()
    errors, frames = [caught.value], 0
    for error in errors:
        errors += filter(None, (error.__cause__, error.__context__))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                frames += 1
                assert key not in repr(frame.f_locals)
    assert frames >= 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/gone.pem"),
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSLKEYLOGFILE", "/gone/keys"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("ALL_PROXY", "socks9://127.0.0.1:9"),
        ("HTTP_PROXY", "ftp://me:password@x"),
        ("HTTP_PROXY", "http://[x"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("HTTP_PROXY", "http://pröxy…\udcff:9"),
        ("https_proxy", "http://x:y:z"),
    ],
)
def test_gateway__says_in_two_lines_what_of_the_environment_is_wrong(sim, naps, monkeypatch, name, value):
    """A wrong proxy or certificate file is told in two lines; nothing is sent, and nothing was paid."""
    monkeypatch.setenv(name, value)
    gateway = Gateway(lambda: "sk-or-v1-test", sleep=naps.append, timeout_s=lambda: 5.0)
    with pytest.raises(ConnectionLostError, match="nothing was sent") as caught:
        send(gateway, sim)
    assert len(str(caught.value).splitlines()) == 2
    assert "password" not in str(caught.value)
    assert caught.value.cost_usd == 0
    assert sim.requests == ()
    with pytest.raises(ConnectionLostError):
        gateway.fetch("/models", base_url=sim.base_url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_ORG_ID", "örg"),
        ("OPENAI_PROJECT_ID", "p\nx: y"),
        (
            "OPENAI_CUSTOM_HEADERS",
            "Host: example.org\nUser-Agent: spy\nX-OpenRouter-Cache: true\nConnection: x",
        ),
        ("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other\n\n: :\nÄ: é"),
        ("OPENAI_BASE_URL", "http://[x"),
        ("OPENAI_API_KEY", "ключ"),
        ("OPENAI_LOG", "debug"),
        ("OPENAI_API_TYPE", "azure"),
    ],
)
def test_gateway__heeds_nothing_that_openai_reads(gateway, sim, monkeypatch, name, value):
    """None of OpenAI's variables changes a request or keeps it from being sent."""
    send(gateway, sim)
    monkeypatch.setenv(name, value)
    other = Gateway(lambda: "sk-or-v1-test")
    send(other, sim)
    other.close()
    before, after = (dict(request.headers) for request in sim.requests)
    assert after == before


def test_gateway__has_openai_log_nothing(sim):
    """OPENAI_LOG has the library write what is sent to stderr; it is the user's own client that it means."""
    code = (
        "from or_cache_magic.core.records import Request\n"
        "from or_cache_magic.openrouter.client import Gateway\n"
        "from or_cache_magic.openrouter.reply import ReplyReader\n"
        "import os, logging\n"
        f"request = Request({BODY!r}, base_url={sim.base_url!r})\n"
        "print(Gateway(lambda: 'sk-or-v1-test').send(request, ReplyReader()).complete)\n"
        "print(os.environ['OPENAI_LOG'], logging.getLogger().handlers, logging.getLogger('openai').level)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENAI_LOG": "debug"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (told.stdout, told.stderr) == ("True\ndebug [] 0\n", "")


# -- the connection ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_gateway__uses_one_connection_for_one_call_after_another(gateway, sim, stream):
    """A reply is read to its end, so that the next call needs no handshake."""
    connections = set()
    for number in range(12):
        send(gateway, sim, stream=stream, messages=[{"role": "user", "content": str(number)}])
        connections |= {id(connection) for connection in sim._server._open}
    assert len(sim.requests) == 12
    assert len(connections) == 1


FINISHED = 'data: {"id":"gen-1","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
PRICED = 'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0.5}}\n\n'
WHOLE = '{"id":"gen-1","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"cost":0.5}}'


@pytest.mark.parametrize(
    ("pieces", "kind", "text"),
    [
        ([GOOD], "text/event-stream", "Hi"),
        ([FINISHED + PRICED], "text/event-stream", "Hi"),
        ([FINISHED, PRICED, repeat(b": OPENROUTER PROCESSING\n\n")], "text/event-stream", "Hi"),
        ([FINISHED, PRICED, repeat(b'data: {"choices":[]}\n\n')], "text/event-stream", "Hi"),
        ([FINISHED.replace("Hi", "") + PRICED], "text/event-stream", ""),
        ([WHOLE], "application/json", "Hi"),
        ([WHOLE, repeat(b"\n")], "application/json", "Hi"),
    ],
    ids=["end marker", "usage", "comments", "pings", "empty", "whole", "padding"],
)
def test_gateway__waits_for_no_reply_that_does_not_end(holding, pieces, kind, text):
    """A server that keeps its reply open once it is whole delays no answer for long, and takes none away."""
    gateway = Gateway(lambda: "sk-or-v1-test", timeout_s=lambda: 1000.0)
    server = holding(head(kind=kind), *(p.encode() if isinstance(p, str) else p for p in pieces))
    answer = send(gateway, server)
    assert server.is_alive() or isinstance(pieces[-1], repeat)
    gateway.close()
    assert (answer.text, answer.complete, answer.error) == (text, True, None)
    assert answer.cost.usd == (None if pieces == [GOOD] else Decimal("0.5"))


def test_gateway__waits_for_the_usage_after_the_finish_reason(canned, reply):
    """A finish reason alone hurries nothing: what the answer cost is still to come."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client:
                client.recv(100_000)
                client.sendall(head() + FINISHED.encode())
                done.wait(2.5)  # longer than a whole reply is waited for
                client.sendall(PRICED.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        gateway = Gateway(lambda: "sk-or-v1-test", timeout_s=lambda: 1000.0)
        request = Request(BODY, base_url=f"http://127.0.0.1:{server.getsockname()[1]}/api/v1")
        answer = gateway.send(request, ReplyReader())
        thread.join()
        gateway.close()
    assert (answer.complete, answer.cost.usd) == (True, Decimal("0.5"))


@pytest.mark.parametrize(
    ("status", "pieces", "reason"),
    [
        ("403 X", [repeat(b"no " * 20_000)], "no no no"),
        ("302 X", [repeat(b"x" * 60_000)], "no redirect is followed"),
        ("400 X", [b'{"detail": "why"}'], "why"),
        ("400 X", [b'{"detail": "why"}', repeat(b" ")], "why"),
    ],
    ids=["endless", "redirect", "open", "padded"],
)
def test_gateway__reads_no_endless_refusal(holding, status, pieces, reason):
    """Of a refusal no more is read than an error needs, in a bounded time; what came is told."""
    gateway = Gateway(lambda: "sk-or-v1-test", timeout_s=lambda: 1000.0)
    server = holding(head(status, "text/plain"), *pieces)
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server)
    assert reason in str(caught.value)
    assert caught.value.status == int(status[:3])
    assert server.taken < 30_000_000  # what the sockets hold is more than what is read
    if status == "403 X":
        with pytest.raises(UpstreamError, match="no no no"):
            gateway.fetch("/models", base_url=holding(head(status, "text/plain"), *pieces).base_url)
    gateway.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "br", "odd"])
def test_gateway__inflates_no_more_of_a_refusal_than_it_reads(gateway, canned, reply, coding):
    """A refusal that was compressed is read, as far as an error needs; one that can't be is an error too."""
    import tracemalloc
    import zlib

    told = b'{"detail": "why"}'
    small = zlib.compress(told) if coding == "deflate" else gzip.compress(told)
    bomb = gzip.compress(b"no " * 50_000_000, 1) if coding == "gzip" else b""
    with pytest.raises(UpstreamError, match="why" if "br" != coding != "odd" else "no reason given"):
        send(gateway, canned(reply(small, "application/json", "400 X", Content_Encoding=coding)))
    if bomb:
        tracemalloc.start()
        with pytest.raises(UpstreamError, match="no no no"):
            send(gateway, canned(reply(bomb, "text/plain", "400 X", Content_Encoding=coding)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000


def test_gateway__keeps_its_connection_after_a_refusal(gateway, sim):
    """A refusal is read to its end where that comes soon, so that the next call needs no handshake."""
    connections = set()
    for _ in range(3):
        sim.script(scenario("invalid_request"))
        with pytest.raises(UpstreamError):
            send(gateway, sim)
        connections |= {id(connection) for connection in sim._server._open}
    assert len(connections) == 1


def test_gateway__gives_a_whole_reply_whose_transfer_broke_off(gateway, canned, reply):
    """A reply that is whole by its form is given though the server announced more; it isn't stored."""
    answer = send(gateway, canned(reply(WHOLE, "application/json", Content_Length=5000)))
    assert (answer.text, answer.complete, answer.cost.usd) == ("Hi", True, Decimal("0.5"))
    assert answer.doubt
    with pytest.raises(ConnectionLostError, match="may have been billed"):
        send(gateway, canned(reply(WHOLE[:-9], "application/json", Content_Length=5000)))


# -- whatever comes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error": "plainly no"}, "plainly no"),
        ({"errors": [{"title": "Nope"}]}, "Nope"),
        ({"error": {"message": ["odd", 7]}}, "odd"),
        ({"error": {"code": 10**30, "message": "x", "metadata": [7]}}, "x"),
        (
            {"error": {"code": True, "message": {}, "availability": {"retry_after": 10**400}}},
            "no reason given",
        ),
        ([], "no reason given"),
        (7, "no reason given"),
    ],
    ids=str,
)
@pytest.mark.parametrize("status", [404, 503])
def test_gateway__reads_the_reason_wherever_it_stands(gateway, canned, reply, naps, body, reason, status):
    """Frameworks put it elsewhere; and what has no form at all is still an error of two lines."""
    with pytest.raises(UpstreamError) as caught:
        send(gateway, canned(reply(json.dumps(body), "application/json", f"{status} X")))
    assert f"OpenRouter answered {status}: {reason} (nothing was paid)" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_gateway__counts_what_a_refusal_says_it_cost(gateway, canned, reply, naps):
    """A guardrail that refuses after billed calls tells their cost beside the error; else it isn't known."""
    alignment = {"code": 403, "message": "blocked", "metadata": {"alignment": {"mode": "enforce"}}}
    for usage, usd in (({"usage": {"cost": 0.0125}}, Decimal("0.0125")), ({}, None)):
        body = json.dumps({"error": alignment, **usage})
        with pytest.raises(UpstreamError) as caught:
            send(gateway, canned(reply(body, "application/json", "403 X")))
        assert (caught.value.cost_usd, caught.value.retryable) == (usd, False)


FILE = {"role": "user", "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,"}}]}


@pytest.mark.parametrize(
    ("plugins", "usd"),
    [
        (None, None),
        ([{"id": "file-parser", "pdf": {"engine": "mistral-ocr"}}], None),
        ([{"id": "file-parser"}], None),
        ([{"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}], 0),
        ([{"id": "file-parser", "pdf": {"engine": "pdf-text"}}], 0),
    ],
)
def test_gateway__does_not_repeat_a_failure_that_read_a_file(gateway, canned, reply, naps, plugins, usd):
    """Where no free engine is named a PDF may be read by one that bills the page, each time."""
    server = canned(reply(refusal(502), "application/json", "502 X"))
    with pytest.raises(UpstreamError) as caught:
        send(gateway, server, messages=[FILE], plugins=plugins)
    assert caught.value.cost_usd == usd
    assert len(server.received) == (1 if usd is None else 3)


NAMES = [
    "code",
    "message",
    "metadata",
    "availability",
    "retry_after",
    "raw",
    "headers",
    "detail",
    "reason",
    "limit_source",
    "fallback_models",
    "error_type",
]
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\ud83d\u200b1", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(odd, st.sampled_from([200, 400, 402, 403, 429, 503]), st.booleans())
def test_refusals__are_errors_of_ours_whatever_comes(reply, status, accepted):
    """Any JSON as an error is one error in two lines, whose cost is an amount or unknown."""
    text = json.dumps({"error": reply} if accepted else reply)
    headers = {"retry-after": str(reply)[:20], "x-ratelimit-reset": str(reply)[:20], "date": str(reply)[:20]}
    error = upstream_error(status, read_json(text), body=BODY, headers=headers, attempts=1)
    assert len(str(error).splitlines()) <= 2
    assert error.cost_usd is None or error.cost_usd >= 0
