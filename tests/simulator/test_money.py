"""What answers cost, and both caches that make them cheaper: cases 30 to 45."""

from __future__ import annotations

import http.client
import json
import threading
from decimal import Decimal
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.simulator import Simulator, scenario

CACHED = {"X-OpenRouter-Cache": "true"}
LONG = "The archive keeps every letter that was ever sent. " * 600


def parts(usage) -> tuple[Decimal, Decimal, Decimal]:
    details = usage["cost_details"]
    names = (
        "upstream_inference_prompt_cost",
        "upstream_inference_completions_cost",
        "upstream_inference_cost",
    )
    return tuple(Decimal(details[name]) for name in names)


# --- response caching, cases 30 to 36 ---


def test_response_cache__miss_then_hit(wire, clock, sim):
    """Case 30: MISS with the whole TTL; HIT with age, the rest of it, the source, a new id and no tokens."""
    first = wire.ask(headers=CACHED)
    assert (first.headers["x-openrouter-cache-status"], first.headers["x-openrouter-cache-ttl"]) == (
        "MISS",
        "300",
    )
    clock.now_s += 42
    again = wire.ask(headers=CACHED)
    assert again.headers["x-openrouter-cache-status"] == "HIT"
    assert (again.headers["x-openrouter-cache-age"], again.headers["x-openrouter-cache-ttl"]) == ("42", "258")
    assert again.headers["x-openrouter-cache-source-id"] == first.json["id"] != again.json["id"]
    assert again.json["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert again.json["created"] == first.json["created"] + 42
    assert again.text == first.text
    assert sim.total_cost == first.usage["cost"]
    data = wire.get(f"/generation?id={again.json['id']}").json["data"]
    assert (data["response_cache_source_id"], data["total_cost"]) == (first.json["id"], 0)


def test_response_cache__is_off_unless_asked(wire):
    """Without the header there is neither a cache nor its headers."""
    wire.ask(headers=CACHED)
    assert "x-openrouter-cache-status" not in wire.ask().headers


def test_response_cache__streams_are_replayed_as_streams(wire):
    """Case 30: a stream's HIT is a stream with the same words and zeroed usage."""
    first, again = (wire.ask(stream=True, headers=CACHED) for _ in range(2))
    assert again.headers["x-openrouter-cache-status"] == "HIT"
    assert again.text == first.text
    assert again.usage["total_tokens"] == 0


def test_response_cache__what_is_in_its_key(wire):
    """Case 31: key order, streaming and the API key are; white space and the referer are not."""
    message = {"role": "user", "content": "x"}
    key = {"Authorization": "Bearer sk-or-v1-x"} | CACHED

    def status(body: str, headers) -> str:
        return wire.send("POST", "/chat/completions", body.encode(), headers).headers[
            "x-openrouter-cache-status"
        ]

    one = {"model": "openai/gpt-4o", "messages": [message]}
    other = dict(reversed(one.items()))
    assert status(json.dumps(one), key) == "MISS"
    assert status(json.dumps(one, indent=3), key) == "HIT"
    assert status(json.dumps(one), key | {"HTTP-Referer": "https://example.com"}) == "HIT"
    assert status(json.dumps(other), key) == "MISS"
    assert status(json.dumps(one | {"stream": True}), key) == "MISS"
    assert status(json.dumps(one), {"Authorization": "Bearer sk-or-v1-y"} | CACHED) == "MISS"


@pytest.mark.parametrize(
    ("asked", "ttl"), [("60abc", "60"), ("1.5", "1"), ("0", "1"), ("999999", "86400"), ("x", "300")]
)
def test_response_cache__ttl_is_read_leniently(wire, asked, ttl):
    """Case 32: leading digits, brought into the range; anything else is the default."""
    got = wire.ask(headers=CACHED | {"X-OpenRouter-Cache-TTL": asked})
    assert got.headers["x-openrouter-cache-ttl"] == ttl


def test_response_cache__expires(wire, clock):
    """Case 32: after its TTL an answer is bought again."""
    headers = CACHED | {"X-OpenRouter-Cache-TTL": "10"}
    wire.ask(headers=headers)
    clock.now_s += 10
    assert wire.ask(headers=headers).headers["x-openrouter-cache-status"] == "MISS"


def test_response_cache__clear_needs_the_cache(wire, clock):
    """Case 33: clearing alone has no effect; with the cache on it asks again and replaces."""
    first = wire.ask(headers=CACHED)
    clear = {"X-OpenRouter-Cache-Clear": "true"}
    wire.ask(headers=clear)
    assert wire.ask(headers=CACHED).headers["x-openrouter-cache-source-id"] == first.json["id"]
    second = wire.ask(headers=CACHED | clear)
    assert second.headers["x-openrouter-cache-status"] == "MISS"
    assert wire.ask(headers=CACHED).headers["x-openrouter-cache-source-id"] == second.json["id"]


def test_response_cache__presets(wire_to):
    """Case 34: a preset's no beats everything, a header beats a preset's yes."""
    presets = {
        "on": {
            "model": "openai/gpt-4o",
            "cache_enabled": True,
            "cache_ttl_seconds": 77,
            "system": "Be brief.",
        },
        "off": {"model": "openai/gpt-4o", "cache_enabled": False},
    }
    with Simulator(presets=presets) as sim:
        wire = wire_to(sim)
        got = wire.ask(model="@preset/on")
        assert got.headers["x-openrouter-cache-ttl"] == "77"
        assert got.json["model"] == "openai/gpt-4o"
        off = {"X-OpenRouter-Cache": "false"}
        assert "x-openrouter-cache-status" not in wire.ask(model="@preset/on", headers=off).headers
        assert "x-openrouter-cache-status" not in wire.ask(preset="off", headers=CACHED).headers
        assert wire.ask(model="openai/gpt-4o-mini@preset/on").json["model"] == "openai/gpt-4o-mini"


def test_response_cache__twins_both_pay(wire, sim):
    """Case 35: two identical requests at the same time are both misses, and both billed."""
    got = []
    threads = [threading.Thread(target=lambda: got.append(wire.ask(headers=CACHED))) for _ in range(2)]
    with sim.hold():
        for thread in threads:
            thread.start()
        assert sim.wait_for(lambda rows: sum(row.held for row in rows) == 2)
    for thread in threads:
        thread.join()
    assert [one.headers["x-openrouter-cache-status"] for one in got] == ["MISS", "MISS"]
    assert sim.total_cost == 2 * got[0].usage["cost"]


def test_response_cache__hits_have_no_metadata(wire, check):
    """Case 36: a miss tells of its routing when asked to, a hit does not."""
    headers = CACHED | {"X-OpenRouter-Metadata": "enabled"}
    first, again = wire.ask(headers=headers), wire.ask(headers=headers)
    assert first.json["openrouter_metadata"]["endpoints"]["available"][0]["selected"] is True
    assert first.json["openrouter_metadata"]["strategy"] == "direct"
    check("ChatResult", json.loads(first.raw))
    assert again.headers["x-openrouter-cache-status"] == "HIT"
    assert "openrouter_metadata" not in again.json


def test_response_cache__keeps_no_failures(wire, sim):
    """Errors, broken and cancelled answers are not kept."""
    for name in ("server_error", "broken_off", "empty"):
        sim.script(scenario(name))
        wire.ask(headers=CACHED)
        assert wire.ask(name, headers=CACHED).headers["x-openrouter-cache-status"] == "MISS"
    assert wire.ask(headers=CACHED).headers["x-openrouter-cache-status"] == "MISS"


# --- the bill, cases 37, 38, 41, 43, 45 ---


def test_byok__the_provider_bills(wire, sim):
    """Case 37: cost is the fee, the rest stands upstream; without BYOK upstream is the cost."""
    sim.script(scenario("byok"))
    own, usual = wire.ask().usage, wire.ask().usage
    assert (own["is_byok"], own["cost"]) == (True, 0)
    assert own["cost_details"]["upstream_inference_cost"] == usual["cost"]
    assert (usual["is_byok"], usual["cost_details"]["upstream_inference_cost"]) == (False, usual["cost"])
    assert sim.total_cost == 2 * usual["cost"]
    key = wire.get("/key").json["data"]
    assert key["usage"] == key["byok_usage"] == usual["cost"]


def test_web_search__native_and_exa(wire):
    """Case 38: a native search is in the provider's bill, the plugin's is on top; citations come first."""
    native = wire.ask(plugins=[{"id": "web"}]).usage
    prompt, completion, upstream = parts(native)
    assert native["cost"] == prompt + completion + Decimal("0.01") == upstream
    assert native["server_tool_use_details"]["web_search_requests"] == 1
    exa = wire.ask(plugins=[{"id": "web", "engine": "exa"}], stream=True)
    assert exa.usage["cost"] == parts(exa.usage)[2] + Decimal("0.007")
    assert "server_tool_use_details" not in exa.usage
    first = exa.chunks[0]["choices"][0]["delta"]
    assert first["annotations"][0]["type"] == "url_citation"
    assert not first["content"]
    online = wire.ask(model="mistralai/mistral-small-3.2-24b-instruct:free:online").usage
    assert online["cost"] == Decimal("0.007")


def test_models__alias_fallback_and_free_router(wire):
    """Case 39: the served model is the concrete one, and its price is paid."""
    alias = wire.ask(model="~anthropic/claude-opus-latest")
    assert alias.json["model"] == "anthropic/claude-4.6-opus-20260205"
    backup = wire.ask(model="no/such", models=["also/none", "openai/gpt-4o"])
    assert backup.json["model"] == "openai/gpt-4o"
    asked = {"X-OpenRouter-Metadata": "enabled"}
    backup = wire.ask(model="no/such", models=["openai/gpt-4o"], headers=asked)
    assert backup.json["openrouter_metadata"]["strategy"] == "fallback"
    assert parts(backup.usage)[0] == backup.usage["prompt_tokens"] * Decimal("0.0000025")
    free = wire.ask(model="openrouter/free")
    assert free.json["model"].endswith(":free")
    assert free.usage["cost"] == 0
    assert wire.ask(model="openrouter/auto").json["model"] == "openai/gpt-4o-mini"


def test_models__served_name_may_be_in_no_list(wire):
    """Case 40: a dated permaslug that is the canonical slug of what was asked."""
    served = wire.ask(model="anthropic/claude-sonnet-4.6").json["model"]
    listed = wire.get("/models").json["data"]
    assert served == "anthropic/claude-4.6-sonnet-20260217"
    assert served not in {model["id"] for model in listed}
    assert served in {model["canonical_slug"] for model in listed}


@pytest.mark.parametrize(("control", "premium"), [({}, "1.25"), ({"ttl": "1h"}, "2")])
def test_prompt_cache__anthropic_writes_then_reads(wire, clock, control, premium):
    """Case 41: the first call writes at a premium, the second reads at a tenth; then the time is over."""
    marked = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"} | control}
    body = {
        "model": "anthropic/claude-sonnet-4.6",
        "messages": [{"role": "system", "content": [marked]}, {"role": "user", "content": "Hi"}],
    }
    first, second = wire.ask(**body), wire.ask(**body)
    written = first.usage["prompt_tokens_details"]["cache_write_tokens"]
    assert written == second.usage["prompt_tokens_details"]["cached_tokens"] > 1024
    assert first.usage["prompt_tokens_details"]["cached_tokens"] == 0
    rest = first.usage["prompt_tokens"] - written
    per_token = Decimal("0.000003")
    assert parts(first.usage)[0] == (written * Decimal(premium) + rest) * per_token
    assert parts(second.usage)[0] == (written * Decimal("0.1") + rest) * per_token
    clock.now_s += 3600 if control else 300
    assert wire.ask(**body).usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_prompt_cache__needs_a_mark_and_a_minimum(wire):
    """Case 41: Anthropic's caching needs a mark; short prompts are never cached; a top-level mark counts."""
    model = "anthropic/claude-sonnet-4.6"
    for prompt, more in ((LONG, {}), ("short", {"cache_control": {"type": "ephemeral"}})):
        details = wire.ask(prompt, model=model, **more).usage["prompt_tokens_details"]
        assert (details["cache_write_tokens"], details["cached_tokens"]) == (0, 0)
    marked = wire.ask(LONG, model=model, cache_control={"type": "ephemeral"}).usage["prompt_tokens_details"]
    assert marked["cache_write_tokens"] > 1024


def test_prompt_cache__openai_reads_by_itself(wire, clock):
    """Case 41: a repeated beginning of 1,024 tokens or more is read at the lower price, and then forgotten."""
    first, second = wire.ask(LONG + "One?"), wire.ask(LONG + "Two!")
    cached = second.usage["prompt_tokens_details"]["cached_tokens"]
    assert first.usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached >= 1024
    assert cached % 128 == 0
    assert first.usage["cost"] > second.usage["cost"]
    assert wire.ask(LONG, key="sk-or-v1-other").usage["prompt_tokens_details"]["cached_tokens"] == 0
    clock.now_s += 301
    assert wire.ask(LONG + "Three").usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_prompt_cache__keeps_a_conversation_at_its_provider(wire, clock):
    """After a cached request the conversation stays with the provider for ten minutes, unless an order is given."""
    marked = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
    body = {
        "model": "anthropic/claude-sonnet-4.6",
        "messages": [{"role": "system", "content": marked}, {"role": "user", "content": "Hi"}],
    }
    assert wire.ask(**body, provider={"only": ["google-vertex"]}).json["provider"] == "Google"
    assert wire.ask(**body).json["provider"] == "Google"
    assert wire.ask(**body, provider={"order": ["anthropic"]}).json["provider"] == "Anthropic"
    clock.now_s += 601
    assert wire.ask(**body).json["provider"] == "Anthropic"


def test_generation__comes_late(wire, sim, check):
    """Case 43: not found twice, then all that was counted; another key never finds it."""
    sim.script(scenario("late_generation", misses=2))
    got = wire.ask()
    found = [wire.get(f"/generation?id={got.json['id']}") for _ in range(3)]
    assert [one.status for one in found] == [404, 404, 200]
    data = found[2].json["data"]
    assert data["total_cost"] == data["usage"] == got.usage["cost"]
    assert (data["tokens_prompt"], data["streamed"]) == (got.usage["prompt_tokens"], False)
    check("GenerationResponse", json.loads(found[2].raw))
    assert wire.get(f"/generation?id={got.json['id']}", key="sk-or-v1-other").status == 404


def test_generation__cache_discount_is_negative_on_a_write(wire):
    """Case 43: what prompt caching took off the price, or added to it."""
    body = {"model": "anthropic/claude-sonnet-4.6", "cache_control": {"type": "ephemeral"}}
    ids = [wire.ask(LONG, **body).json["id"] for _ in range(2)]
    write, read = (wire.get(f"/generation?id={one}").json["data"]["cache_discount"] for one in ids)
    assert write < 0 < read


def test_key_and_credits(wire, sim, clock, check):
    """Case 44: a key without limit, its usage by day, week and month; credits only for management keys."""
    spent = wire.ask().usage["cost"]
    wire.ask(key="sk-or-v1-other")
    got = wire.get("/key")
    data = got.json["data"]
    assert (data["limit"], data["limit_remaining"]) == (None, None)
    assert data["usage"] == data["usage_daily"] == data["usage_weekly"] == data["usage_monthly"] == spent
    check("/paths/~1key/get/responses/200/content/application~1json/schema", json.loads(got.raw))
    clock.now_s += 86_400
    assert (wire.get("/key").json["data"]["usage_daily"], wire.get("/key").json["data"]["usage"]) == (
        0,
        spent,
    )
    assert wire.get("/credits").status == 403
    account = wire.get("/credits", key="sk-or-v1-management-1")
    assert account.json["data"]["total_usage"] == sim.total_cost
    check("/paths/~1credits/get/responses/200/content/application~1json/schema", json.loads(account.raw))
    assert wire.ask(key="sk-or-v1-management-1").status == 403
    assert wire.send("GET", "/key").status == 401


def test_service_tier__flex_priority_and_none(wire, sim):
    """Case 45: the served tier's price; full tiers refuse; shed ones are served and billed as default."""
    model = "openai/gpt-5-mini"
    plain = wire.ask(model=model)
    flex = wire.ask(model=model, service_tier="flex")
    assert (flex.json["service_tier"], flex.usage["cost"]) == ("flex", plain.usage["cost"] / 2)
    fast = wire.ask(model=model, service_tier="fast")
    assert fast.json["service_tier"] == "priority"
    assert fast.usage["cost"] > plain.usage["cost"]
    sim.script(scenario("tier_full"))
    assert wire.ask(model=model, service_tier="flex").status == 429
    sim.script(scenario("tier_shed"))
    shed = wire.ask(model=model, service_tier="priority")
    assert (shed.json["service_tier"], shed.usage["cost"]) == ("default", plain.usage["cost"])
    without = wire.ask(service_tier="flex")
    assert without.usage["cost"] == wire.ask().usage["cost"]
    assert "service_tier" not in without.json


def test_provider__preferences(wire):
    """Only, ignore, order and sort choose the provider, whose price is paid; none left is a 404."""
    model = "meta-llama/llama-3.3-70b-instruct"
    assert wire.ask(model=model).json["provider"] == "DeepInfra"
    assert wire.ask(model=model, provider={"only": ["groq"]}).json["provider"] == "Groq"
    assert wire.ask(model=model, provider={"ignore": ["deepinfra"]}).json["provider"] == "Groq"
    assert wire.ask(model=model, provider={"order": ["together"]}).json["provider"] == "Together"
    assert wire.ask(model=f"{model}:floor").json["provider"] == "DeepInfra"
    none = wire.ask(model=model, provider={"only": ["openai"]})
    assert (none.status, none.json["error"]["availability"]["code"]) == (404, "constraint_filtered")


# --- models and prices, case 42 ---


def test_models__list_fits_the_reference(wire, check):
    """The list needs no key, fits the schema, and has models of all the great names."""
    got = wire.send("GET", "/models?output_modalities=all")
    check("ModelsListResponse", json.loads(got.raw))
    ids = {model["id"] for model in got.json["data"]}
    assert {"openai", "anthropic", "google", "meta-llama", "mistralai", "deepseek"} <= {
        one.split("/")[0] for one in ids
    }
    texts = {m["id"] for m in got.json["data"] if m["architecture"]["output_modalities"] == ["text"]}
    assert {model["id"] for model in wire.get("/models").json["data"]} == texts < ids
    assert wire.get("/models/user").json["total_count"] == len(texts)


def test_models__pages(wire):
    """Case 42: ``links.next`` leads through all pages, and every model is on one of them."""
    whole = wire.get("/models").json
    seen, path = [], "/models?limit=4"
    while path:
        page = wire.get(path).json
        assert page["total_count"] == whole["total_count"]
        seen += [model["id"] for model in page["data"]]
        path = (page["links"]["next"] or "").removeprefix("/api/v1")
    assert seen == [model["id"] for model in whole["data"]]
    assert wire.get(f"/models?limit={len(seen)}").json["links"]["next"] is None
    assert wire.get("/models?limit=many").status == 400


def test_models__prices_by_length(wire_to):
    """Case 42: more than 200,000 tokens cost more, exactly 200,000 do not."""
    from or_cache_magic.simulator.billing import price_at
    from or_cache_magic.simulator.catalog import find_model

    endpoint = find_model("google/gemini-2.5-pro").endpoints[0]
    assert price_at(endpoint, 200_000, 0).prompt == Decimal("0.00000125")
    assert price_at(endpoint, 200_001, 0).prompt == Decimal("0.0000025")


@pytest.mark.parametrize(
    ("clock_utc", "cheap"),
    [("16:29", False), ("16:30", True), ("23:59", True), ("00:00", True), ("00:30", False)],
)
def test_models__prices_by_time_of_day(wire, clock, clock_utc, cheap):
    """Case 42: a window that wraps midnight; the list shows the rate of the hour, and it is what is paid."""
    hours, minutes = map(int, clock_utc.split(":"))
    clock.now_s = 1_767_225_600 + hours * 3600 + minutes * 60
    pricing = wire.get("/model/deepseek/deepseek-chat-v3.1").json["data"]["pricing"]
    assert pricing["prompt"] == ("0.00000014" if cheap else "0.00000028")
    assert pricing["overrides"][-1]["utc_start"] == 1630
    usage = wire.ask(model="deepseek/deepseek-chat-v3.1").usage
    assert parts(usage)[0] == usage["prompt_tokens"] * Decimal(pricing["prompt"])


def test_models__routers_have_no_price(wire):
    """Case 42: the sentinel -1, which is no price."""
    pricing = wire.get("/model/openrouter/auto").json["data"]["pricing"]
    assert (pricing["prompt"], pricing["completion"]) == ("-1", "-1")


def test_models__one_by_one(wire, check):
    """A model by id, by alias and by variant; its endpoints; and what there is not."""
    got = wire.get("/model/openai/gpt-4o-mini")
    check("ModelResponse", json.loads(got.raw))
    assert got.json["data"]["pricing"]["prompt"] == "0.00000015"
    assert wire.get("/model/~anthropic/claude-opus-latest").json["data"]["id"] == "anthropic/claude-opus-4.6"
    assert wire.get("/model/openai/gpt-4o-mini:nitro").json["data"]["id"] == "openai/gpt-4o-mini"
    assert wire.get("/model/simulator/plain").json["data"]["pricing"]["prompt"] == "0.00000015"
    assert wire.get("/model/no/such").status == wire.get("/models/no/such/endpoints").status == 404
    offers = wire.get(f"/models/{quote('openai/gpt-5-mini')}/endpoints")
    assert [offer["tag"] for offer in offers.json["data"]["endpoints"]] == [
        "openai",
        "azure",
        "openai/flex",
        "openai/priority",
    ]
    spec = "/paths/~1models~1{author}~1{slug}~1endpoints/get/responses/200/content/application~1json/schema"
    check(spec.replace("{", "%7B").replace("}", "%7D"), json.loads(offers.raw))
    providers = wire.get("/providers")
    check("/paths/~1providers/get/responses/200/content/application~1json/schema", json.loads(providers.raw))


def test_models__prices_listed_are_prices_paid(wire):
    """For every model of the list, an answer costs its tokens, and a request, at the listed prices."""
    for model in wire.get("/models").json["data"]:
        if model["pricing"]["prompt"] == "-1":
            continue
        usage = wire.ask("What does it cost?", model=model["id"]).usage
        prompt = usage["prompt_tokens"] * Decimal(model["pricing"]["prompt"])
        completion = usage["completion_tokens"] * Decimal(model["pricing"]["completion"])
        assert usage["cost"] == prompt + completion + Decimal(model["pricing"]["request"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(max_size=300),
    model=st.sampled_from(["openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "openai/gpt-5-mini"]),
    limit=st.none() | st.integers(1, 60),
    stream=st.booleans(),
    byok=st.booleans(),
    search=st.sampled_from(["", "native", "exa"]),
    effort=st.sampled_from([None, "low"]),
)
def test_money__adds_up(wire, sim, prompt, model, limit, stream, byok, search, effort):  # noqa: PLR0917
    """Law: every usage block is consistent to the last digit, and the total is the sum of what was paid."""
    sim.clear()
    sim.script(scenario("byok", search=search) if byok else scenario("web_search", engine=search))
    more = {"max_tokens": limit, "reasoning": {"effort": effort} if effort else None}
    got = wire.ask(prompt, model=model, stream=stream, **more)
    usage = got.usage
    prompt_usd, completion_usd, upstream = parts(usage)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] <= usage["completion_tokens"]
    assert limit is None or usage["completion_tokens"] <= limit
    assert upstream == prompt_usd + completion_usd + (Decimal("0.01") if search == "native" else 0)
    fee = Decimal("0.007") if search == "exa" else 0
    assert usage["cost"] == (fee if byok else upstream + fee)
    assert sim.total_cost == upstream + fee == sim.requests[-1].cost_usd


def test_money__is_written_exactly(wire):
    """Costs stand in the JSON as short decimal numbers, not as floats' artefacts."""
    raw = wire.ask().raw.decode()
    cost = json.loads(raw, parse_float=str)["usage"]["cost"]
    assert len(cost) <= 12


def test_server__keeps_a_connection_alive(wire, sim):
    """Many requests go over one connection, streams and whole replies mixed."""
    connection: http.client.HTTPConnection = wire.connection()
    for number in range(20):
        body = {"messages": [{"role": "user", "content": "hello"}], "stream": number % 2 == 0}
        connection.request(
            "POST", "/api/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer sk-or-v1-x"}
        )
        used = connection.sock
        assert connection.getresponse().read()
        assert connection.sock is used
    connection.close()
    assert sim.completion_count == 20


@pytest.mark.parametrize("stream", [True, False])
def test_uncosted__counts_tokens_and_names_no_cost(wire, sim, check, stream):
    """Such a reply is billed all the same, and ``/generation`` tells how much when it knows the call."""
    sim.script(scenario("uncosted", misses=1))
    got = wire.ask(stream=stream)
    assert not {"cost", "cost_details", "is_byok"} & got.usage.keys()
    assert got.usage["prompt_tokens"] > 0 < got.usage["completion_tokens"]
    assert sim.total_cost > 0
    path = f"/generation?id={got.headers['x-generation-id']}"
    assert wire.get(path).status == 404
    assert wire.get(path).json["data"]["total_cost"] == sim.total_cost
    if not stream:
        check("ChatResult", json.loads(got.raw))
