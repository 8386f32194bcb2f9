"""The simulator's Batch API, by the bare wire and by OpenRouter's own SDK."""

from __future__ import annotations

import json
from decimal import Decimal

import openrouter
import pytest
from openrouter import components, errors

from or_cache_magic.simulator import BatchPlan, Simulator, scenario

MODEL = "openai/gpt-4o-mini"


def requests_of(*prompts, **fields):
    """Requests of a batch, named by their place."""
    return [
        {
            "custom_id": f"row-{at}",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields},
        }
        for at, prompt in enumerate(prompts)
    ]


@pytest.fixture
def slow(clock):
    """A simulator whose batches take a thousand seconds."""
    with Simulator(now=clock, batch_s=1000.0) as running:
        yield running


@pytest.fixture
def sdk(slow):
    with openrouter.OpenRouter(api_key=slow.api_key, server_url=slow.base_url) as made:
        yield made


def submit(sdk, requests, **fields):
    return sdk.batch.create_batches(
        endpoint="/v1/chat/completions", model=fields.pop("model", MODEL), requests=requests, **fields
    )


def post(wire, body):
    headers = {"Authorization": f"Bearer {wire.sim.api_key}"}
    return wire.send("POST", "/batches", json.dumps(body).encode(), headers)


def body_of(requests, **fields):
    return {"endpoint": "/v1/chat/completions", "model": MODEL, **fields, "requests": requests}


def test_batch__goes_from_validating_to_completed(sdk, slow, clock, wire_to):
    """It moves on by the clock; its results validate as the SDK's types, and cost half."""
    batch = submit(sdk, requests_of("What is a mean?", "What is a median?"))
    assert (batch.status, batch.results, batch.request_counts.total) == ("validating", None, 2)
    seen, begun_s = [], clock.now_s
    for gone_s in (50, 500, 950, 1000):
        clock.now_s = begun_s + gone_s
        seen.append(sdk.batch.get_batches(id=batch.id).status)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    done = sdk.batch.get_batches(id=batch.id)
    assert isinstance(done, components.BatchObject)
    assert [result.custom_id for result in done.results] == ["row-0", "row-1"]
    assert all(result.error is None and result.response.status_code == 200 for result in done.results)
    told = wire_to(slow).get(f"/batches/{batch.id}").json
    assert all("cost" not in result["response"]["body"]["usage"] for result in told["results"])
    asked = [wire_to(slow).ask(prompt).usage["cost"] for prompt in ("What is a mean?", "What is a median?")]
    assert told["usage"]["cost"] == sum(asked) / 2 > 0
    assert slow.total_cost == sum(asked) + told["usage"]["cost"]


@pytest.mark.parametrize("ending", ["failed", "expired", "cancelled"])
def test_batch__ends_with_part_of_its_results(sdk, slow, clock, ending):
    """What was answered before the end is there, and is all that is charged."""
    slow.script_batch(BatchPlan(ending=ending, answered=1))
    batch = submit(sdk, requests_of("One?", "Two?"))
    clock.now_s += 1000
    ended = sdk.batch.get_batches(id=batch.id)
    assert (ended.status, len(ended.results)) == (ending, 1)
    assert (ended.error is not None) == (ending == "failed")
    assert ended.usage.cost > 0


def test_batch__a_request_fails_alone(sdk, slow, clock):
    """A request that is refused has an error in the place of its response."""
    slow.script(scenario("moderated"), match=lambda body: "Two" in str(body))
    batch = submit(sdk, requests_of("One?", "Two?"))
    clock.now_s += 1000
    done = sdk.batch.get_batches(id=batch.id)
    assert [(r.response is None, r.error is None) for r in done.results] == [(False, True), (True, False)]
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)


def test_list__pages_the_newest_first(sdk, clock):
    """Pages have no results, and `after` goes on where the last one ended."""
    ids = [submit(sdk, requests_of(f"Number {n}?")).id for n in range(3)]
    clock.now_s += 1000
    first = sdk.batch.list(limit=2).result
    assert ([one.id for one in first.data], first.has_more) == ([ids[2], ids[1]], True)
    assert all(one.results is None for one in first.data)
    second = sdk.batch.list(limit=2, after=first.last_id).result
    assert ([one.id for one in second.data], second.has_more) == ([ids[0]], False)


def test_delete__takes_what_has_ended(sdk, clock):
    """One that is under way is a 409; deleted, it is not found any more."""
    batch = submit(sdk, requests_of("One?"))
    with pytest.raises(errors.BatchErrorResponse) as caught:
        sdk.batch.delete(id=batch.id)
    assert caught.value.status_code == 409
    clock.now_s += 1000
    assert sdk.batch.delete(id=batch.id).deletion.openrouter == "deleted"
    with pytest.raises(errors.BatchErrorResponse) as caught:
        sdk.batch.get_batches(id=batch.id)
    assert caught.value.status_code == 404


def test_get__withholds_results_that_are_not_paid(sdk, slow, clock):
    """402 with the batch's facts; with credits its results are there, and it is not run again."""
    slow.script_batch(BatchPlan(unpaid=1))
    batch = submit(sdk, requests_of("One?"))
    clock.now_s += 1000
    with pytest.raises(errors.BatchPaymentRequiredResponseError) as caught:
        sdk.batch.get_batches(id=batch.id)
    assert (caught.value.data.status, caught.value.data.results) == ("completed", None)
    assert len(sdk.batch.get_batches(id=batch.id).results) == 1


@pytest.mark.parametrize("late", ["endpoint", "model", "callback_url"])
def test_submit__needs_these_before_the_requests(wire, late):
    """The server parses as it reads: what comes too late is a 400."""
    body = body_of(requests_of("One?"), callback_url="https://example.com/done")
    body[late] = body.pop(late)
    got = post(wire, body)
    assert (got.status, "before requests" in got.json["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": []},
        {"endpoint": "/v1/rerank"},
        {"completion_window": "1h"},
        {"provider": {"order": ["openai"]}},
        {"requests": [{"custom_id": str(n), "body": {}} for n in range(5001)]},
    ],
)
def test_submit__refuses_a_wrong_form(wire, changes):
    """What can be seen while reading is refused at once."""
    requests = changes.pop("requests", requests_of("One?"))
    assert post(wire, body_of(requests, **changes)).status == 400


def test_submit__needs_credits(clock, wire_to):
    """Without any it is a 402, and nothing is kept."""
    with Simulator(now=clock, credits_usd=Decimal(0)) as sim:
        assert post(wire_to(sim), body_of(requests_of("One?"))).status == 402
        assert wire_to(sim).get("/batches").json["data"] == []


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"messages": [{"role": "user", "content": IMAGE}]}, "public URLs"),
        ({"plugins": [{"id": "web"}]}, "web search"),
        ({"modalities": ["image", "text"]}, "image and audio output"),
        ({"model": "openai/gpt-4o"}, "model must be the batch's"),
        ({"messages": []}, "Input required"),
    ],
)
def test_validation__fails_after_the_202(wire, fields, why):
    """A 202 means that it is stored: what a request has wrong fails the batch later, for nothing."""
    got = post(wire, body_of(requests_of("One?", **fields)))
    assert got.status == 202
    told = wire.get(f"/batches/{got.json['id']}").json
    assert told["status"] == "failed"
    assert why in told["error"]["message"]
    assert (told["results"], told["usage"]) == (None, None)


def test_validation__takes_one_response_format_on_google(wire):
    """Elsewhere they may differ within a batch."""
    formats = [{"type": "json_object"}, {"type": "text"}]
    for model, status in (("google/gemini-2.5-flash", "failed"), (MODEL, "completed")):
        requests = [
            {"custom_id": str(at), "body": {**one["body"], "model": model, "response_format": formats[at]}}
            for at, one in enumerate(requests_of("A JSON, please?", "Another?"))
        ]
        got = post(wire, body_of(requests) | {"model": model, "requests": requests})
        assert wire.get(f"/batches/{got.json['id']}").json["status"] == status


def test_plan__loses_the_answer_of_a_submission(wire, sim):
    """The batch is there, though its submission was never answered."""
    sim.script_batch(BatchPlan(lost=True))
    assert post(wire, body_of(requests_of("One?"))).cut
    assert len(wire.get("/batches").json["data"]) == 1


def test_plan__alters_what_is_told(wire, sim):
    """A test says what a hostile server tells."""
    sim.script_batch(BatchPlan(alter=lambda told: told | {"status": "melted"}))
    got = post(wire, body_of(requests_of("One?")))
    assert got.json["status"] == "melted"


def test_batch__is_another_keys(wire, sim):
    """Nobody else's key finds or lists it."""
    got = post(wire, body_of(requests_of("One?")))
    assert wire.get(f"/batches/{got.json['id']}", key="sk-or-v1-other").status == 404
    assert wire.get("/batches", key="sk-or-v1-other").json["data"] == []


def test_batch__is_gone_after_30_days(wire, clock):
    """What isn't collected by then is lost."""
    got = post(wire, body_of(requests_of("One?")))
    clock.now_s += 30 * 86_400 + 1
    assert wire.get(f"/batches/{got.json['id']}").status == 404
