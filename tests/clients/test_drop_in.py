"""`client` and `async_client`: the library `openai` itself, whose chat completions go through the completion cache."""

from __future__ import annotations

import asyncio
import threading
import warnings

import openai
import pydantic
import pytest

import or_cache_magic as orc
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Scenario, scenario

PROMPT = "What is a median?"
ASK = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Book(pydantic.BaseModel):
    title: str
    year: int
    tags: list[str]


BOOK = {**ASK, "messages": [{"role": "user", "content": "The book Solaris appeared in 1961."}]}


@pytest.fixture
def client(cache):
    with orc.client(cache=cache) as made:
        yield made


def totals(cache):
    (sums,) = cache.totals()
    return sums


def run(work, cache):
    """What a coroutine function does with an async client."""

    async def whole():
        async with orc.async_client(cache=cache) as made:
            return await work(made)

    return asyncio.run(whole())


def test_client__is_the_librarys_own(cache, client):
    """It is an `OpenAI`, its copies are too, and it needs neither a key of OpenAI's nor one for hits."""
    assert isinstance(client, openai.OpenAI)
    assert isinstance(orc.async_client(cache=cache), openai.AsyncOpenAI)
    client.chat.completions.create(**ASK)
    with client.with_options(timeout=5, max_retries=7) as copied:
        assert isinstance(copied, openai.OpenAI)
        assert copied.chat.completions.with_raw_response.create(**ASK).headers["x-or-cache"] == "hit"


def test_client__shares_the_entries_of_ask(cache, client, sim, text_of):
    """What `ask` bought serves the client, streamed or not, and the other way round; accounted alike."""
    bought = cache.ask(PROMPT, temperature=0, max_tokens=50)
    body = {**ASK, "max_tokens": 50}
    with pytest.warns(UserWarning, match="not sent with completions: the headers x-mine"):
        whole = client.chat.completions.create(**body, user="me", extra_headers={"X-Mine": "1"})
    assert whole.choices[0].message.content == bought
    assert text_of(client.chat.completions.create(**body, stream=True)) == bought
    other = client.chat.completions.create(**body, extra_body={"top_k": 1})
    assert cache.ask(PROMPT, max_tokens=50, top_k=1) == other.choices[0].message.content
    assert sim.completion_count == 2
    assert (totals(cache).calls, totals(cache).hits) == (2, 3)
    assert totals(cache).paid_usd == sim.total_cost


@pytest.mark.parametrize("first", [False, True], ids=["bought whole", "bought streamed"])
def test_client__gives_hits_as_they_were_bought(client, sim, first, text_of):
    """A stored answer is the same whole and streamed, with its usage, id and model; the headers tell it from a bought one."""
    create = client.chat.completions.with_raw_response.create
    bought, hit, streamed = create(**ASK, stream=first), create(**ASK), create(**ASK, stream=True)
    chunks = list(streamed.parse())
    whole = hit.parse()
    if first:
        assert text_of(bought.parse()) == whole.choices[0].message.content
    else:
        assert bought.parse() == whole
    assert text_of(chunks) == whole.choices[0].message.content
    assert (chunks[-1].usage, chunks[-1].id, chunks[-1].model) == (whole.usage, whole.id, whole.model)
    assert chunks[0].provider == whole.provider
    # A stream that is not read yet may still be under way.
    assert [r.headers["x-or-cache"] for r in (bought, hit, streamed)] in (
        ["miss", "hit", "hit"],
        ["miss", "coalesced", "hit"],
    )
    assert float(hit.headers["x-or-cache-saved-usd"]) == whole.usage.cost > 0
    assert (hit.headers["x-or-cache-paid-usd"], hit.elapsed.total_seconds() >= 0) == ("0", True)
    assert sim.completion_count == 1


@pytest.mark.parametrize("stream", [False, True])
def test_client__replays_tools_and_reasoning(client, sim, stream):
    """Tool calls and reasoning come again as they came, through the library's own reading."""
    for more in ({"tools": [TOOL], "tool_choice": "required"}, {"reasoning_effort": "high"}):
        got = []
        for _ in range(2):
            if stream:
                with client.chat.completions.stream(**ASK, **more) as events:
                    got.append(events.get_final_completion())
            else:
                got.append(client.chat.completions.create(**ASK, **more))
        one, two = (
            [(c.finish_reason, c.message.content or None, c.message.tool_calls) for c in g.choices]
            for g in got
        )
        assert one == two
    assert sim.completion_count == 2


def test_client__parses(client, sim):
    """`parse`, streamed or not, gives an object of the class, bought and served."""
    parsed = [
        client.chat.completions.parse(**BOOK, response_format=Book).choices[0].message.parsed for _ in "12"
    ]
    with client.chat.completions.stream(**BOOK, response_format=Book) as events:
        parsed.append(events.get_final_completion().choices[0].message.parsed)
    assert parsed == [Book(title="Solaris", year=1961, tags=parsed[0].tags)] * 3
    assert sim.completion_count == 1


def test_client__has_streaming_responses(client, sim):
    """`with_streaming_response` gives genuine bytes: JSON, or events up to the end mark."""
    for _ in range(2):
        with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert response.parse().choices[0].finish_reason == "stop"
        with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert all(line.startswith("data: ") for line in lines)
    assert sim.completion_count == 1


def test_client__passes_a_stream_on_as_it_comes(client, sim):
    """The first piece is there while the server still speaks."""
    sim.script(scenario("stalled", after_pieces=2))
    stream = client.chat.completions.create(**ASK, stream=True)
    assert next(stream).choices[0].delta.content
    stream.close()


def test_client__that_goes_away_loses_nothing(cache, client, sim, until):
    """A stream that is left half-way, or at its finish reason, is read on: its answer is kept, and bought once."""
    with client.chat.completions.create(**ASK, stream=True) as stream:
        next(stream)
    for chunk in client.chat.completions.create(**ASK, seed=1, stream=True):
        if chunk.choices and chunk.choices[0].finish_reason:
            break
    for more in ({}, {"seed": 1}):
        assert client.chat.completions.create(**ASK, **more).choices[0].finish_reason == "stop"
    until(lambda: not cache.engine.flights.running())
    assert (sim.completion_count, len(cache.entries())) == (2, 2)
    assert totals(cache).paid_usd == sim.total_cost > 0


def test_cache__is_closed_when_what_clients_left_is_kept(cache, client, sim):
    """`close` waits for an answer that goes on without its reader, which else opens the file again."""
    sim.script(Scenario(chunk_delay_s=0.02))
    with client.chat.completions.create(**ASK, stream=True) as stream:
        next(stream)
    cache.close()
    assert not any(thread.name == "or-cache-client" for thread in threading.enumerate())
    assert (sim.completion_count, len(cache.entries())) == (1, 1)


def test_cache__waits_for_a_thread_whose_beginning_was_interrupted(cache, monkeypatch):
    """It runs all the same; one that has not begun is no error."""
    start, go, done = threading.Thread.start, threading.Event(), []

    def interrupted(thread):
        cache._parts.wait_for_threads()  # as another thread's `close`, before it has begun
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.on_thread(lambda: done.append(go.wait(60)), "or-cache-client")
    monkeypatch.undo()
    go.set()
    cache.close()
    assert done == [True]


def test_client__that_goes_away_from_what_is_not_kept_cancels_it(cache, client, sim, until):
    """A stream whose answer nobody could get again ends upstream with its reader, and is accounted for."""
    sim.script(scenario("stalled", after_pieces=2))
    with client.chat.completions.create(**{**ASK, "temperature": 1}, stream=True) as stream:
        next(stream)
    until(lambda: sim.completions[0].cancelled)
    until(lambda: totals(cache).asks == 1)
    assert (totals(cache).unpriced, len(cache.entries())) == (1, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("name", "error", "status", "asked"),
    [
        ("invalid_request", openai.BadRequestError, 400, 1),
        ("insufficient_credits", openai.APIStatusError, 402, 1),
        ("timed_out", openai.APIStatusError, 408, 1),
        ("error_in_200", openai.InternalServerError, 502, 3),
    ],
)
def test_client__raises_the_librarys_errors(cache, sim, name, error, status, asked, stream, monkeypatch):
    """A refusal is the library's error with the server's status and error; what may be tried again is so by us alone."""
    monkeypatch.setattr("or_cache_magic.openrouter.gate.Tries.pause", lambda _: None)
    sim.script(scenario(name, **({"status": 408} if name == "timed_out" else {})), times=9)
    with orc.client(cache=cache, max_retries=4) as client, pytest.raises(error) as caught:
        client.chat.completions.create(**ASK, stream=stream)
    assert (caught.value.status_code, caught.value.body["code"]) == (status, status)
    assert sim.completion_count == asked


@pytest.mark.parametrize("name", ["rate_limited", "error_in_200"])
@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 2), (None, 3), (9, 3)])
def test_client__tries_no_more_often_than_it_may(cache, sim, name, retries, asked, monkeypatch):
    """`max_retries` of the client, a copy or a call bounds our tries, which are three at most."""
    monkeypatch.setattr("or_cache_magic.openrouter.gate.Tries._pause", lambda *_: None)
    sim.script(scenario(name), times=99)
    given = {} if retries is None else {"max_retries": retries}
    with orc.client(cache=cache, **given) as client, pytest.raises(openai.APIStatusError):
        client.chat.completions.create(**ASK)
    assert sim.completion_count == asked
    with orc.client(cache=cache, max_retries=2) as client, pytest.raises(openai.APIStatusError):
        client.with_options(**given).chat.completions.create(**ASK, stream=True)
    assert sim.completion_count == 2 * asked

    async def ask(client):
        with pytest.raises(openai.APIStatusError):
            await client.with_options(**given).chat.completions.create(**ASK)

    run(ask, cache)
    assert sim.completion_count == 3 * asked
    with orc.client(cache=cache, default_headers={"x-or-cache-max-retries": "0"}, **given) as client:
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(**ASK)
        assert sim.completion_count == 3 * asked + 1
        with pytest.raises(openai.BadRequestError, match="max-retries"):
            client.chat.completions.create(**ASK, extra_headers={"X-Or-Cache-Max-Retries": "-1"})


def test_client__says_which_headers_and_queries_are_not_sent(cache, sim, monkeypatch):
    """What a completion is not sent with is told, and nothing else: ours are heeded, the library's are no one's wish."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-other")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other: secret")
    headers = {"X-Mine": "1", "X-Or-Cache-Tag": "mine", "OpenAI-Beta": "x"}
    with (
        orc.client(cache=cache, default_headers=headers, default_query={"debug": "1"}) as client,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("default")
        create = client.chat.completions.with_raw_response.create
        more = {"extra_headers": {"HTTP-Referer": "https://here"}, "extra_query": {"more": "2"}}
        raw, again = create(**ASK, **more), create(**ASK, **more)
    (message,) = (str(one.message) for one in told)
    assert message == (
        "not sent with completions: the headers http-referer, openai-beta, x-mine, the query debug, more"
        " (X-Or-Cache-… headers are heeded; fields of the request go in extra_body)"
    )
    assert again.headers["x-or-cache"] == "hit"
    assert raw.headers["x-or-cache"] == "miss"
    assert list(cache.entries(tag="mine")["prompt"]) == [PROMPT]
    assert "x-mine" not in sim.completions[0].headers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with orc.client(cache=cache, default_headers={"X-Or-Cache-Sample": "0"}) as client:
            client.chat.completions.create(**ASK)
            client.beta.chat.completions.parse(**BOOK, response_format=Book)
            list(client.chat.completions.create(**ASK, stream=True))
            with client.chat.completions.stream(**ASK) as stream:
                stream.get_final_completion()


def test_client__tells_of_a_stream_that_broke_off(cache, client, sim):
    """An answer that breaks off raises in the middle of the stream: a truncated one never looks whole."""
    for broken in (
        scenario("broken_off"),
        scenario("cut"),
        scenario("cut", how="reset"),
        scenario("silent_error"),
    ):
        sim.script(broken)
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(**ASK, stream=True))
    assert len(cache.entries()) == 0


def test_client__says_what_is_refused_before_it_is_sent(open_cache, sim):
    """Offline, a budget, a missing key and a wrong header: a status, both lines, and the class of ours as `code`."""
    refusals = [
        ({"mode": "offline"}, {}, openai.NotFoundError, 404, "ReplayMiss"),
        ({"api_key": None}, {}, openai.AuthenticationError, 401, "MissingKeyError"),
        ({}, {"X-Or-Cache-Max-Cost": "0.00000001"}, openai.APIStatusError, 402, "BudgetError"),
        ({}, {"X-Or-Cache-Mod": "refresh"}, openai.BadRequestError, 400, "OptionError"),
    ]
    for settings, headers, error, status, code in refusals:
        with orc.client(cache=open_cache(sim, **settings)) as client, pytest.raises(error) as caught:
            client.chat.completions.create(**ASK, extra_headers=headers)
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert "nothing was sent" in caught.value.body["message"]
    assert sim.completion_count == 0


def test_client__has_its_timeouts(cache, sim, until):
    """A reply that does not come in time is the library's error; the ask is cancelled and accounted for, and not repeated."""
    sim.script(scenario("slow", delay_s=60))
    with (
        orc.client(cache=cache, timeout=0.2, max_retries=5) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(**ASK)
    until(lambda: sim.completions[0].cancelled)
    assert (sim.completion_count, totals(cache).asks) == (1, 1)


def test_client__that_gives_up_leaves_the_call_to_those_who_wait(cache, client, sim, until):
    """A timeout of one of two who ask the same ends its own wait only: the other gets the answer, bought once."""
    got = []

    def ask():
        until(cache.engine.flights.running)
        got.append(client.chat.completions.create(**ASK))

    with sim.hold():
        patient = threading.Thread(target=ask)
        patient.start()
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**ASK, timeout=0.5)
    patient.join()
    assert (len(got), sim.completion_count, len(cache.entries())) == (1, 1, 1)


def test_client__of_another_server_is_let_alone(client, sim, canned, reply):
    """A copy with a `base_url` of its own asks that server with its own key, and never with OpenRouter's."""
    other = canned(reply('{"id": "x", "object": "chat.completion", "choices": []}', "application/json"))
    for more in ({}, {"api_key": "sk-other"}):
        assert client.copy(base_url=other.base_url, **more).chat.completions.create(**ASK).id == "x"
    assert b"authorization" not in other.received[0].lower()
    assert b"authorization: bearer sk-other" in other.received[1].lower()
    assert sim.completion_count == 0


def test_client__says_no_connection(open_cache, sim):
    """Without a server it is the library's error of a connection, with our two lines, at once."""
    cache = open_cache(sim, base_url="http://127.0.0.1:9/api/v1")
    with orc.client(cache=cache, max_retries=5) as client, pytest.raises(openai.APIConnectionError) as caught:
        client.chat.completions.create(**ASK)
    assert "nothing was sent" in str(caught.value)


def test_client__says_why_an_answer_is_not_stored(client, sim):
    """Without a temperature of 0 it is asked each time, and the headers say so; a sample's number keeps it."""
    body = {name: value for name, value in ASK.items() if name != "temperature"}
    create = client.chat.completions.with_raw_response.create
    for stream in (False, True):
        headers = create(**body, stream=stream).headers
        assert headers["x-or-cache"] == "bypass"
        assert headers["x-or-cache-not-stored"].startswith("temperature not set")
    sampled = [create(**body, extra_headers={"X-Or-Cache-Sample": "0"}).headers["x-or-cache"] for _ in "12"]
    assert sampled == ["miss", "hit"]
    assert sim.completion_count == 3


def test_client__passes_all_else_on(client, sim, monkeypatch):
    """Other endpoints go to OpenRouter with its key, and nothing of OpenAI's; answers that were bought say uncached."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-other")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other: secret\nAuthorization: Bearer other")
    with client.copy(default_headers={"X-Mine": "1"}) as copied:
        assert any(model.id == "openai/gpt-4o-mini" for model in copied.models.list())
        sent = sim.requests[-1]
        assert sent.headers["authorization"] == "Bearer sk-or-v1-test"
        assert sent.headers["x-mine"] == "1"
        assert not {"openai-organization", "openai-project", "x-other"} & set(sent.headers)
        with (
            pytest.warns(UserWarning, match="nothing of it is cached"),
            pytest.raises(openai.NotFoundError) as caught,
        ):
            copied.responses.create(model="openai/gpt-4o-mini", input="x")
        assert caught.value.response.headers["x-or-cache"] == "uncached"


def test_client__takes_no_key_or_server_of_its_own(cache):
    """What the cache decides is not an option of the client; it says where that is set."""
    for name in ("api_key", "base_url", "http_client", "organization"):
        with pytest.raises(OptionError, match=f"takes no {name}"):
            orc.client(cache=cache, **{name: "x"})


def test_client__of_many_threads_buys_once(cache, client, sim, until, text_of):
    """Equal requests of many threads at once are one call, whole and streamed alike."""
    got = []

    def ask(stream):
        reply = client.chat.completions.create(**ASK, stream=stream)
        got.append(text_of(reply) if stream else reply.choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
    keys = cache.engine.flights.running
    with sim.hold():
        for thread in threads:
            thread.start()
        until(lambda: keys() and cache.engine.flights.waiting(keys()[0]) == 7)
    for thread in threads:
        thread.join()
    assert (len(got), len(set(got)), sim.completion_count) == (8, 1, 1)


def test_async_client__does_the_same(cache, sim, text_of):
    """Whole, streamed, parsed and raw, bought once and served; what is not an answer is the library's error."""

    async def work(client):
        whole = await client.chat.completions.create(**ASK)
        stream = await client.chat.completions.create(**ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        parsed = await client.chat.completions.parse(**BOOK, response_format=Book)
        raw = await client.chat.completions.with_raw_response.create(**ASK)
        models = [model.id async for model in client.models.list()]
        sim.script(scenario("invalid_request"))
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**ASK, seed=1, stream=True)
        return whole, chunks, parsed, raw, models

    whole, chunks, parsed, raw, models = run(work, cache)
    assert text_of(chunks) == whole.choices[0].message.content
    assert parsed.choices[0].message.parsed.title == "Solaris"
    assert (raw.headers["x-or-cache"], "openai/gpt-4o-mini" in models) == ("hit", True)
    assert sim.completion_count == 3


def test_async_client__streams_as_it_comes_and_can_be_left(cache, sim, until):
    """The loop goes on meanwhile; a task that is cancelled, and a stream that is left when the loop ends, are accounted for."""
    sim.script(scenario("stalled"))
    sim.script(scenario("slow", delay_s=60))

    async def work(client):
        stream = await client.chat.completions.create(**ASK, stream=True)
        first = await anext(aiter(stream))
        await stream.close()
        task = asyncio.ensure_future(client.chat.completions.create(**ASK, seed=1))
        while len(sim.completions) < 2:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return first

    assert run(work, cache).choices[0].delta.content
    until(lambda: all(sent.cancelled for sent in sim.completions))
    assert (cache.engine.flights.running(), totals(cache).asks, totals(cache).unpriced) == ([], 2, 2)


def test_async_client__that_goes_away_loses_nothing_and_has_timeouts(cache, sim):
    """A stream that is left is read on, and bought once; a silent server is the library's error."""

    async def work(client):
        async for _ in await client.chat.completions.create(**ASK, stream=True):
            break
        again = await client.chat.completions.with_raw_response.create(**ASK)
        sim.script(scenario("slow", delay_s=60))
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(**ASK, seed=1, timeout=0.2)
        return again.headers["x-or-cache"]

    assert run(work, cache) in ("coalesced", "hit")
    assert sim.completion_count == 2
