"""The clients that people use, against the simulator: `openai`, and OpenRouter's own SDK."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import openai
import openrouter
import pytest

from or_cache_magic.simulator import Simulator, scenario

ASK = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "What is caching?"}]}
EMBEDDER = "openai/text-embedding-3-small"


@pytest.fixture
def client(sim):
    with openai.OpenAI(base_url=sim.base_url, api_key=sim.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def sdk(sim):
    with openrouter.OpenRouter(api_key=sim.api_key, server_url=sim.base_url) as made:
        yield made


def test_openai__whole_and_streamed_say_the_same(client):
    """Both ways give the same text and the same usage, which carries the cost."""
    whole = client.chat.completions.create(**ASK)
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage.cost > 0


def test_openai__structured_output_parses(client):
    """`parse` with a model class gets an object of that class."""
    import pydantic

    class Book(pydantic.BaseModel):
        title: str
        year: int
        tags: list[str]

    prompt = "The book Solaris appeared in 1961."
    done = client.chat.completions.parse(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": prompt}], response_format=Book
    )
    assert done.choices[0].message.parsed.title == "Solaris"
    assert done.choices[0].message.parsed.year == 1961


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("invalid_request", openai.BadRequestError),
        ("unauthorized", openai.AuthenticationError),
        ("moderated", openai.PermissionDeniedError),
        ("free_variant_ended", openai.NotFoundError),
        ("rate_limited", openai.RateLimitError),
        ("server_error", openai.InternalServerError),
        ("edge_timeout", openai.InternalServerError),
        ("insufficient_credits", openai.APIStatusError),
    ],
)
def test_openai__errors_have_their_classes(client, sim, name, error):
    """Each status is raised as the class that belongs to it, with OpenRouter's message."""
    sim.script(scenario(name))
    with pytest.raises(error) as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.status_code == scenario(name).refusal.status


@pytest.mark.parametrize("name", ["broken_off", "token_limit"])
def test_openai__an_error_in_a_stream_is_raised(client, sim, name):
    """What had come is there, then the error is raised."""
    sim.script(scenario(name))
    seen = []
    with client.chat.completions.create(**ASK, stream=True) as stream, pytest.raises(openai.APIError):
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert "".join(seen)


def test_openai__a_reset_stream_is_a_lost_connection(client, sim):
    """A broken connection is told from an error of the API."""
    sim.script(scenario("cut", how="reset"))
    with (
        pytest.raises(openai.APIConnectionError),
        client.chat.completions.create(**ASK, stream=True) as stream,
    ):
        list(stream)


def test_openai__retries_reach_the_answer(sim):
    """Case 12: the client comes back after Retry-After, and is answered the second time."""
    sim.script(scenario("rate_limited", retry_after_s=0.01))
    with openai.OpenAI(base_url=sim.base_url, api_key=sim.api_key) as client:
        assert client.chat.completions.create(**ASK).choices
    assert sim.completion_count == 2


def test_openai__closing_a_stream_cancels_it(client, sim):
    """`stream.close()` is seen at the other end, and less is billed."""
    sim.script(scenario("stalled"))
    with client.chat.completions.create(**ASK, stream=True) as stream:
        next(iter(stream))
    assert sim.wait_for(lambda rows: rows[0].cancelled)
    assert sim.total_cost > 0


def test_openai__tools_in_a_stream(client):
    """The stream helper puts the pieces of a call together."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}  # fmt: skip
    asked = {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "Please add 17"}],
        "tools": [tool],
    }
    with client.chat.completions.stream(**asked) as stream:
        done = stream.get_final_completion()
    assert done.choices[0].message.tool_calls[0].function.arguments == '{"a": 17}'


def test_openai__lists_models(client):
    """The model list comes through the client, prices included."""
    models = list(client.models.list())
    assert all(Decimal(model.pricing["prompt"]) >= -1 for model in models)


def test_openai__async_streams(sim):
    """The asynchronous client streams too, many at a time."""
    import asyncio

    async def ask(client, number):
        asked = ASK | {"messages": [{"role": "user", "content": f"Question {number} about lighthouses"}]}
        stream = await client.chat.completions.create(**asked, stream=True)
        return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    async def main():
        async with openai.AsyncOpenAI(base_url=sim.base_url, api_key=sim.api_key) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(12)))

    assert all("lighthouses" in text for text in asyncio.run(main()))


def test_sdk__whole_and_streamed(sdk):
    """OpenRouter's own SDK accepts both kinds of reply."""
    messages = [{"role": "user", "content": "What is caching?"}]
    whole = sdk.chat.send(model="openai/gpt-4o-mini", messages=messages)
    stream = sdk.chat.send(model="openai/gpt-4o-mini", messages=messages, stream=True)
    with stream as events:
        chunks = list(events)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.cost == whole.usage.cost > 0


def test_sdk__takes_what_comes_besides_text(sdk, sim):
    """Pictures, reasoning and refusals are of the SDK's own types."""
    messages = [{"role": "user", "content": "What is caching?"}]
    for name in ("pictures", "reasoning", "declined"):
        sim.script(scenario(name))
    pictured, reasoned, declined = (
        sdk.chat.send(model="openai/gpt-5-mini", messages=messages).choices[0].message for _ in range(3)
    )
    assert pictured.images[0].image_url.url.startswith("data:image/png;base64,")
    assert [type(one).__name__ for one in reasoned.reasoning_details] == [
        "ReasoningDetailSummary",
        "ReasoningDetailEncrypted",
    ]
    assert declined.refusal == "I'm sorry, I can't help with that."


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("invalid_request", "BadRequestResponseError"),
        ("unauthorized", "UnauthorizedResponseError"),
        ("insufficient_credits", "PaymentRequiredResponseError"),
        ("moderated", "ForbiddenResponseError"),
        ("free_variant_ended", "NotFoundResponseError"),
        ("rate_limited", "TooManyRequestsResponseError"),
        ("server_error", "InternalServerResponseError"),
        ("bad_gateway", "BadGatewayResponseError"),
        ("unavailable", "ServiceUnavailableResponseError"),
        ("overloaded", "ProviderOverloadedResponseError"),
    ],
)
def test_sdk__errors_have_their_classes(sdk, sim, name, error):
    """Each refusal validates as the SDK's class for its status."""
    from openrouter import errors
    from openrouter.utils import BackoffStrategy, RetryConfig

    once = RetryConfig("none", BackoffStrategy(1, 1, 1, 1), retry_connection_errors=False)
    sim.script(scenario(name))
    with pytest.raises(getattr(errors, error)) as caught:
        sdk.chat.send(model="openai/gpt-4o", messages=[{"role": "user", "content": "x"}], retries=once)
    assert caught.value.data.error.code == scenario(name).refusal.status


def test_sdk__models_generations_and_keys(sdk, sim):
    """The read-only endpoints validate against the SDK's newer schema."""
    whole = sdk.chat.send(model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "x"}])
    assert len(sdk.models.list().result.data) > 10
    assert sdk.generations.get_generation(id=whole.id).data.total_cost == whole.usage.cost
    assert sdk.api_keys.get_current_key_metadata().data.usage == whole.usage.cost
    assert sdk.endpoints.list(author="openai", slug="gpt-4o").data.endpoints


def test_server__answers_200_at_once(sim, wire):
    """Two hundred clients are all held, and all answered."""

    def ask(number: int) -> int:
        return wire.ask(f"Question {number}", stream=number % 2 == 0).status

    with ThreadPoolExecutor(200) as pool:
        with sim.hold():
            answers = [pool.submit(ask, number) for number in range(200)]
            assert sim.wait_for(lambda rows: sum(row.held for row in rows) == 200)
        assert {answer.result() for answer in answers} == {200}
    assert sim.total_cost == sum(row.cost_usd for row in sim.requests)


def test_server__takes_large_bodies(wire, sim):
    """An attachment of 24 MB is taken, and counted as one attachment."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 24_000_000}}
    parts = [{"type": "text", "text": "What is this picture of?"}, image]
    got = wire.ask(messages=[{"role": "user", "content": parts}])
    bare = wire.ask(messages=[{"role": "user", "content": parts[:1]}])
    assert got.status == 200
    assert 100 < got.usage["prompt_tokens"] - bare.usage["prompt_tokens"] < 400
    sim.clear()


def test_server__takes_chunked_bodies(sim, wire):
    """A body without a length, sent in chunks, is read to its end."""
    connection = wire.connection()
    body = iter([b'{"messages": [{"role": "user", ', b'"content": "hello"}]}'])
    connection.request(
        "POST", "/api/v1/chat/completions", body, {"Authorization": "Bearer sk-or-v1-x"}, encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_server__refuses_a_body_of_unknown_length(wire):
    """A POST with neither a length nor chunks is a 400."""
    got = wire.send("POST", "/chat/completions", None, {"Content-Length": "many"})
    assert got.status == 400


def test_stop__ends_what_is_running(wire_to):
    """Stopping ends a stream that hangs, closes the port, and leaves no thread; it can be started again."""
    before = set(threading.enumerate())
    sim = Simulator().start()
    port = int(sim.base_url.split(":")[2].split("/")[0])
    sim.script(scenario("stalled"))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(wire_to(sim).ask(stream=True)))
    asking.start()
    assert sim.wait_for(lambda rows: len(rows) == 1 and rows[0].status == 200)
    sim.stop()
    asking.join(60)
    assert answers[0].cut
    assert set(threading.enumerate()) <= before  # those of tests before it may end meanwhile
    with pytest.raises(RuntimeError, match="does not serve"):
        sim.base_url  # noqa: B018
    sim.stop()
    with Simulator(port) as again:
        assert wire_to(again).ask().status == 200


def test_requests__are_frozen_snapshots(wire, sim):
    """What was received is kept as values that later events do not change."""
    wire.ask("Hello", headers={"X-Title": "notebook"})
    (row,) = seen = sim.requests
    assert (row.method, row.path, row.status) == ("POST", "/api/v1/chat/completions", 200)
    assert row.headers["x-title"] == "notebook"
    assert row.body["messages"][0]["content"] == "Hello"
    assert row.cost_usd == sim.total_cost
    wire.get("/models?limit=3")
    assert len(seen) == 1
    assert sim.requests[1].query == {"limit": "3"}
    assert sim.completion_count == 1
    sim.clear()
    assert (sim.requests, sim.total_cost, sim.completion_count) == ((), 0, 0)


def test_wait_for__gives_up(sim):
    """Waiting for what does not happen ends with False."""
    assert sim.wait_for(bool, timeout_s=0.01) is False


def test_serve__says_where_it_listens():
    """The shell's simulator prints one line to be pasted, serves, says nothing else, and ends at an interrupt."""
    import re
    import signal
    import subprocess
    import sys
    import urllib.request

    program = "import sys; from or_cache_magic.simulator import serve; serve(port=0)"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert process.stdout.readline() == "serving; Ctrl-C stops\n"
        url = re.match(
            r"export OPENROUTER_BASE_URL=(http://127\.0\.0\.1:\d+/api/v1) OPENROUTER_API_KEY=sk-or-\S+\n",
            line,
        )[1]
        with urllib.request.urlopen(f"{url}/models") as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openrouter__gets_vectors(sim, sdk, encoding):
    """The official SDK reads embeddings, whichever way they are written, with tokens, cost and id."""
    texts = ["A red fox.", "The fox is red.", "Quarterly revenue fell."]
    found = sdk.embeddings.generate(model=EMBEDDER, input=texts, encoding_format=encoding)
    assert [one.index for one in found.data] == [0, 1, 2]
    assert (found.model, found.id) == (EMBEDDER, sim.requests[-1].generation_id)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    assert Decimal(str(found.usage.cost)) == sim.total_cost == sim.requests[-1].cost_usd
    told = sdk.generations.get_generation(id=found.id).data
    assert (told.total_cost, told.native_tokens_prompt) == (found.usage.cost, found.usage.prompt_tokens)


def test_openai__gets_vectors_that_mean_something(client):
    """The same text has the same vector, of length 1; texts that share words are nearer than those that don't."""
    red, fox, sum_ = (
        one.embedding
        for one in client.embeddings.create(
            model=EMBEDDER, input=["a red fox", "the fox is red", "quarterly revenue fell"]
        ).data
    )
    (again,) = client.embeddings.create(model=EMBEDDER, input="a red fox", encoding_format="float").data
    assert again.embedding == pytest.approx(red)
    assert len(red) == 1536
    assert sum(x * x for x in red) == pytest.approx(1, abs=1e-3)
    near, far = (sum(x * y for x, y in zip(red, other, strict=True)) for other in (fox, sum_))
    assert near > far + 0.2
    (short,) = client.embeddings.create(model=EMBEDDER, input="a red fox", dimensions=64).data
    assert len(short.embedding) == 64


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "openai/gpt-4o-mini", "input": "x"}, 404),
        ({"model": "no/such", "input": "x"}, 404),
        ({"input": []}, 400),
        ({"input": ["x", ""]}, 400),
        ({"input": "x", "dimensions": 1537}, 400),
        ({"input": "x", "encoding_format": "int8"}, 400),
    ],
)
def test_openai__gets_refusals_of_embeddings(client, sim, body, status):
    """What makes no sense is refused, and costs nothing."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(**{"model": EMBEDDER, **body})
    assert (caught.value.status_code, sim.total_cost) == (status, 0)
