"""`or-cache serve`: any OpenAI-compatible client on this machine asks through the completion cache."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import openai
import pytest

import or_cache_magic
from or_cache_magic import cli
from or_cache_magic.cli import serve
from or_cache_magic.clients.server import CacheServer
from or_cache_magic.clients.wire import spelled
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Simulator, scenario

TOKEN = "orc-test"
ASK = {
    "model": "openai/gpt-4o-mini",
    "messages": [{"role": "user", "content": "What is a median?"}],
    "temperature": 0,
}


@pytest.fixture
def start():
    """``start(cache)`` is a running server of it."""
    running = []

    def begin(cache):
        running.append(CacheServer(cache, TOKEN).start())
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def server(start, cache):
    return start(cache)


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key=TOKEN, max_retries=0) as made:
        yield made


def port_of(server):
    return int(server.base_url.split(":")[2].partition("/")[0])


def send(server, ask):
    """A connection on which a request was sent, and nothing is read."""
    body = json.dumps(ask)
    connection = socket.create_connection(("127.0.0.1", port_of(server)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def call(server, path, body=None, token=TOKEN, headers=MappingProxyType({})):
    """The status, headers and body of a bare request to a path below the server's address."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    shown = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    connection.request("GET" if body is None else "POST", path, body, shown)
    response = connection.getresponse()
    found = (response.status, response.headers, response.read())
    connection.close()
    return found


def test_server__answers_any_client_by_the_cache(cache, client, sim, text_of):
    """Whole and streamed, bought once with OpenRouter's key, the same entry as a cell's; headers say what was saved."""
    bought = client.chat.completions.create(**ASK)
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.parse() == bought
    assert raw.headers["x-or-cache"] == "hit"
    assert float(raw.headers["x-or-cache-saved-usd"]) == bought.usage.cost > 0
    assert text_of(client.chat.completions.create(**ASK, stream=True)) == bought.choices[0].message.content
    other = text_of(client.chat.completions.create(**ASK, seed=1, stream=True))
    assert cache.ask("What is a median?", seed=1, max_tokens=None) == other
    assert sim.completion_count == 2
    assert {sent.headers["authorization"] for sent in sim.requests} == {"Bearer sk-or-v1-test"}


def test_server__lists_models_whether_it_may_fetch_them_or_not(start, open_cache, client, sim):
    """Models are OpenRouter's; offline those of the list that is kept, or of the entries."""
    client.chat.completions.create(**ASK)  # nothing is kept before something is bought
    listed = client.models.list().data
    assert {"openai/gpt-4o-mini", "anthropic/claude-haiku-4.5"} <= {one.id for one in listed}
    assert client.models.retrieve("openai/gpt-4o-mini").owned_by == "openai"
    with pytest.raises(openai.NotFoundError, match="there is no model x/y"):
        client.models.retrieve("x/y")
    sent = len(sim.requests)
    offline = start(open_cache(sim, mode="offline"))
    with openai.OpenAI(base_url=offline.base_url, api_key=TOKEN) as cut_off:
        assert cut_off.models.list().data == listed
    assert len(sim.requests) == sent


def test_server__offline_sends_nothing_whatever_is_asked_for(start, open_cache, client, sim):
    """What is stored is served; the rest is a 404 that says so, also where a header asks for more."""
    bought = client.chat.completions.create(**ASK)
    offline = start(open_cache(sim, mode="offline"))
    with openai.OpenAI(base_url=offline.base_url, api_key=TOKEN) as cut_off:
        raw = cut_off.chat.completions.with_raw_response.create(**ASK)
        assert (raw.headers["x-or-cache"], raw.parse()) == ("replay", bought)
        for headers in ({}, {"X-Or-Cache-Mode": "normal"}, {"X-Or-Cache-Mode": "refresh"}):
            with pytest.raises(openai.NotFoundError, match="nothing was sent"):
                cut_off.chat.completions.create(**ASK, seed=2, extra_headers=headers)
    assert sim.completion_count == 1


def test_server__keeps_to_a_budget(start, open_cache, sim):
    """A call that may cost more than is left is a 402 that says so; nothing is sent."""
    poor = start(open_cache(sim, max_cost_usd=Decimal("0.0000001")))
    with (
        openai.OpenAI(base_url=poor.base_url, api_key=TOKEN) as client,
        pytest.raises(openai.APIStatusError, match="session's max_cost_usd") as caught,
    ):
        client.chat.completions.create(**ASK, max_tokens=10)
    assert (caught.value.status_code, sim.completion_count) == (402, 0)


@pytest.mark.parametrize("token", ["", "wrong", "orc-tes", "orc-test2", "sk-or-v1-test", "ü"])
def test_server__takes_its_own_token_only(server, sim, token):
    """Any other, OpenRouter's key too, is a 401 on every path, and nothing is sent."""
    for path, body in (
        ("/v1/chat/completions", json.dumps(ASK)),
        ("/v1/models", None),
        ("/metrics", None),
        ("/", None),
    ):
        status, _, content = call(server, path, body, token)
        assert (status, "token" in json.loads(content)["error"]["message"]) == (401, True)
    assert sim.requests == ()


def test_server__refuses_what_it_does_not_serve(server, sim):
    """Another path, a wrong method and a body that is no request are errors as JSON, that show nothing of the inside."""
    for path, body, status in (
        ("/v1/responses", "{}", 404),
        ("/v1/chat/completions", None, 405),
        ("/v1/chat/completions", "{", 400),
        ("/v1/chat/completions", "[]", 400),
    ):
        found, headers, content = call(server, path, body)
        assert (found, headers["Content-Type"]) == (status, "application/json")
        assert json.loads(content)["error"]["message"]
        assert b"Traceback" not in content
    assert sim.completion_count == 0


def test_server__passes_refusals_on(client, sim):
    """OpenRouter's refusal has its status and error; a stream that breaks off raises."""
    sim.script(scenario("insufficient_credits"))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**ASK)
    assert (caught.value.status_code, caught.value.body["code"]) == (402, 402)
    sim.script(scenario("broken_off"))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(**ASK, stream=True))


_OF_NOTEBOOKS = (
    r"%openrouter|\bcells?\b|\bkernel\b|orc\.|(?<!serve )(?<!\w)--\w|\bmode=|max_cost_usd(?<!'s max_cost_usd)"
)
"""What only a notebook or a program in Python can do something with."""


_TEXTS = {"model": "openai/text-embedding-3-small", "input": ["x"]}


@pytest.mark.parametrize(
    ("given", "ask", "headers", "status", "says"),
    [
        ({"mode": "offline"}, ASK, {}, 404, "ask once with a key"),
        ({"mode": "offline"}, _TEXTS, {}, 404, "ask once with a key"),
        ({"api_key": None}, ASK, {}, 401, "set OPENROUTER_API_KEY for the program"),
        ({}, ASK, {"max-cost": "0.0000001"}, 402, "of X-Or-Cache-Max-Cost (nothing was sent)"),
        ({}, _TEXTS, {"max-cost": "0.0000000001"}, 402, "raise X-Or-Cache-Max-Cost"),
        ({}, {"model": "openai/gpt-4o-mini", "input": "x"}, {}, 400, "POST /v1/embeddings"),
        ({}, {**ASK, "model": "openai/gpt-4o-minu"}, {}, 400, "did you mean"),
        ({}, {**ASK, "model": "nobody/nothing"}, {}, 400, "GET /v1/models"),
        ({}, ASK, {"samples": "1"}, 400, "x-or-cache-sample"),
    ],
)
def test_server__says_what_a_client_of_http_can_do(start, open_cache, sim, given, ask, headers, status, says):
    """No refusal names a cell, a magic, an option of the notebook or an argument of Python."""
    path = "embeddings" if ask is _TEXTS else "chat/completions"
    shown = {f"X-Or-Cache-{name}": value for name, value in headers.items()}
    found, _, content = call(start(open_cache(sim, **given)), f"/v1/{path}", json.dumps(ask), headers=shown)
    told = json.loads(content)["error"]["message"]
    assert (found, re.findall(_OF_NOTEBOOKS, told)) == (status, [])
    assert says in told


def test_server__says_by_headers_why_an_answer_is_not_kept(server):
    """The way to have it kept is a header, too."""
    for headers, more, why in (
        ({}, {"temperature": 1}, "temperature 1 (X-Or-Cache-Sample: 0 keeps it)"),
        ({"X-Or-Cache-Mode": "bypass"}, {}, "X-Or-Cache-Mode: bypass"),
    ):
        for stream in (False, True):
            body = json.dumps({**ASK, **more, "stream": stream})
            _, told, _ = call(server, "/v1/chat/completions", body, headers=headers)
            assert told["X-Or-Cache-Not-Stored"] == why


def test_spelled__knows_all_that_is_said_below_the_notebook():
    """Each text of the rooms that a request goes through is one that HTTP clients understand."""
    root = Path(or_cache_magic.__file__).parent
    files = [file for room in ("engine", "money", "openrouter") for file in (root / room).glob("*.py")]
    files += [
        root / name for name in ("cache/request.py", "cache/refusals.py", "core/policy.py", "core/slips.py")
    ]
    files += [root / "storage" / name for name in ("codec.py", "sqlite.py", "leases.py", "database.py")]
    for file in files:
        tree = ast.parse(file.read_text())
        said = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        said -= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if id(node) in said and isinstance(node.value, str) and " " in node.value:
                assert not re.search(_OF_NOTEBOOKS, spelled(node.value)), (file.name, node.value)


@pytest.mark.parametrize("ends", ["client", "cache"])
def test_server__logs_nothing_of_streams_that_break_off(start, open_cache, sim, caplog, ends, until):
    """A client that goes away amid a stream is nothing to log; a stream that can't go on is cut, not ended as if whole."""
    cache = open_cache(sim)
    server = start(cache)
    sim.script(scenario("stalled", after_pieces=2))
    lost = send(server, {**ASK, "temperature": 1, "stream": True})
    lost.settimeout(60)
    until(lambda: b"data:" in lost.recv(1 << 16))
    if ends == "client":
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
        lost.close()
        until(lambda: sim.completions[0].cancelled)
    else:
        cache.close()
        rest = b"".join(iter(lambda: lost.recv(1 << 16), b""))
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        lost.close()
    server.stop()
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []


def test_server__tells_prometheus(client, server):
    """The ledger's sums by model, what the server answered, and what is under way."""
    paid = client.chat.completions.create(**ASK).usage.cost
    client.chat.completions.create(**ASK)
    status, headers, content = call(server, "/metrics")
    samples = dict(line.rsplit(" ", 1) for line in content.decode().splitlines() if not line.startswith("#"))
    model = 'model="openai/gpt-4o-mini"'
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert samples[f'or_cache_asks_total{{{model},kind="hits"}}'] == "1"
    assert samples[f'or_cache_asks_total{{{model},kind="misses"}}'] == "1"
    assert float(samples[f"or_cache_paid_usd_total{{{model}}}"]) == paid
    assert float(samples[f"or_cache_saved_usd_total{{{model}}}"]) == paid
    assert samples['or_cache_requests_total{path="completions",status="200"}'] == "2"
    assert samples["or_cache_calls_under_way"] == "0"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_server__keeps_what_vanished_clients_asked_for(cache, server, sim, stream, until):
    """A client that is gone before, or amid, its answer leaves it to be read to its end: the next finds it, bought once."""
    with sim.hold():
        lost = send(server, {**ASK, "stream": stream})
        assert sim.wait_for(lambda rows: any(row.held for row in rows))
        lost.close()
    until(lambda: cache.store.listing.count()[0] == 1)
    status, headers, _ = call(server, "/v1/chat/completions", json.dumps(ASK))
    assert (status, headers["X-Or-Cache"], sim.completion_count) == (200, "hit", 1)


def test_server__cancels_what_nobody_could_get_again(cache, server, client, sim, until):
    """A client that leaves an answer which is not kept ends it upstream."""
    sim.script(scenario("stalled", after_pieces=2))
    with client.chat.completions.create(**{**ASK, "temperature": 1}, stream=True) as stream:
        next(stream)
    until(lambda: sim.completions[0].cancelled)
    until(lambda: not cache.engine.flights.running())


def test_server__is_not_held_up_by_those_who_do_not_read(start, open_cache, canned, reply, until):
    """A client that reads nothing of a stream of 16 MB holds up no other, and its answer is kept."""
    said = {"id": "gen-1", "choices": [{"index": 0, "delta": {"content": "x" * 500_000}}]}
    ended = {"id": "gen-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = "".join(f"data: {json.dumps(one)}\n\n" for one in [*[said] * 32, ended]) + "data: [DONE]\n\n"
    cache = open_cache(canned(reply(events)))
    server = start(cache)
    slow = send(server, {**ASK, "stream": True})
    until(lambda: cache.store.listing.count()[0] == 1)
    status, headers, _ = call(server, "/v1/chat/completions", json.dumps(ASK))
    assert (status, headers["X-Or-Cache"]) == (200, "hit")
    slow.close()


def test_server__serves_200_at_once(cache, server, sim, text_of):
    """200 clients at once get the answers of ten requests, each bought once; half of them read streams."""

    async def ask(client, number):
        stream = number % 2 == 0
        reply = await client.chat.completions.create(**ASK, seed=number % 10, stream=stream)
        if not stream:
            return number % 10, reply.choices[0].message.content
        return number % 10, text_of([chunk async for chunk in reply])

    async def all_of_them():
        http = openai.DefaultAsyncHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS)
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=TOKEN, http_client=http) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    with sim.hold():
        running = threading.Thread(target=lambda: got.extend(asyncio.run(all_of_them())))
        got = []
        running.start()
        assert sim.wait_for(lambda rows: sum(row.held for row in rows) == 10, 60)
    running.join()
    assert (len(got), len(set(got)), sim.completion_count) == (200, 10, 10)
    (sums,) = cache.totals()
    assert (sums.asks, sums.calls, sums.paid_usd) == (200, 10, sim.total_cost)


def test_server__is_not_held_up_by_vectors_that_are_slow(server, sim, until):
    """While many requests for vectors wait for OpenRouter, others are answered."""

    def ask(number):
        body = {"model": "openai/text-embedding-3-small", "input": f"text {number}"}
        return call(server, "/v1/embeddings", json.dumps(body))[0]

    with ThreadPoolExecutor(40) as clients:
        with sim.hold():
            asked = [clients.submit(ask, number) for number in range(40)]
            assert sim.wait_for(lambda rows: sum(row.held for row in rows) > 1, 60)
            until(lambda: len(server._unsent) == 40)
            assert call(server, "/metrics")[0] == 200
        assert [one.result() for one in asked] == [200] * 40


def test_server__ends_with_what_is_under_way(cache, sim):
    """Stopping waits for an answer that is under way, and its client gets it."""
    server = CacheServer(cache, TOKEN).start()
    got = []
    with sim.hold():
        asking = threading.Thread(
            target=lambda: got.append(call(server, "/v1/chat/completions", json.dumps(ASK)))
        )
        asking.start()
        assert sim.wait_for(lambda rows: any(row.held for row in rows))
        stopping = threading.Thread(target=server.stop)
        stopping.start()
    asking.join()
    stopping.join()
    assert (got[0][0], len(cache.entries())) == (200, 1)


def test_token__is_kept_in_a_file(tmp_path):
    """A file that isn't there is made, for its owner alone; one that is there is read, and must hold a word."""
    path = tmp_path / "token"
    made = serve._token_in(path)
    assert (serve._token_in(path), made.startswith("orc-"), path.stat().st_mode & 0o077) == (made, True, 0)
    for text in ("", "short", "two words of it", "ünïcödé-token"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(OptionError):
            serve._token_in(path)


def test_serve__needs_tornado(monkeypatch, capsys, tmp_path):
    """Without tornado it says in two lines how to get it."""
    for name in ("tornado", "tornado.httpserver", "or_cache_magic.clients.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tornado", None)
    assert cli.main(["serve", "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "or-cache serve needs tornado\n  pip install 'or-cache-magic[serve]'\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt install curl")
def test_serve__answers_curl_until_it_is_terminated(tmp_path):
    """The shell command says where it is; curl gets whole and streamed answers, the second time free; SIGTERM ends it."""
    main = "import sys; from or_cache_magic.cli import main; sys.exit(main())"
    with Simulator() as sim:
        ours = {"OPENROUTER_BASE_URL": sim.base_url, "OPENROUTER_API_KEY": sim.api_key}
        serving = subprocess.Popen(
            [sys.executable, "-c", main, "serve", "--dir", "cache", "--max-cost", "1"],
            cwd=tmp_path,
            env=os.environ | ours,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            told = [serving.stdout.readline() for _ in "12"]
            words = dict(word.split("=", 1) for word in told[0].split()[1:])

            def curl(*more):
                line = ["curl", "-sS", "--fail-with-body", f"{words['OPENAI_BASE_URL']}/chat/completions"]
                line += ["-H", f"Authorization: Bearer {words['OPENAI_API_KEY']}", *more]
                return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout

            bought = json.loads(curl("-d", json.dumps(ASK)))
            assert json.loads(curl("-d", json.dumps(ASK))) == bought
            streamed = curl("-i", "-N", "-d", json.dumps({**ASK, "stream": True}))
        finally:
            serving.send_signal(signal.SIGTERM)
            said = serving.communicate(timeout=60)[0]
    assert streamed.rstrip().endswith("data: [DONE]")
    assert "x-or-cache: hit" in streamed.lower()
    assert (sim.completion_count, serving.returncode) == (1, 0)
    assert told[1].startswith("serving the completion cache in ")
    assert sim.api_key not in "".join(told) + said + streamed


def test_server__headers_hold_whatever_a_reply_says(start, open_cache, canned, reply):
    """Line ends and controls of foreign text are no header of their own, and no error of ours."""
    said = {
        "id": "gen-1\r\nX-Evil: 1\x00",
        "model": "openai/gpt-4o-mini",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "od\nd\x7f"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.001},
    }
    server = start(open_cache(canned(reply(json.dumps(said), "application/json"))))
    for _ in "12":
        status, headers, content = call(server, "/v1/chat/completions", json.dumps(ASK))
        assert (status, json.loads(content)["choices"][0]["message"]["content"]) == (200, "x")
        assert "X-Evil" not in headers
