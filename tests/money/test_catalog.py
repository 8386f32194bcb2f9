"""The price book: fetched when needed, kept with its date, old rather than none; and true against real calls."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.core.records import Request
from or_cache_magic.errors import UpstreamError
from or_cache_magic.money.catalog import FRESH_S, PriceCatalog
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.openrouter.reply import ReplyReader
from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.storage.database import open_database

MINI, SONNET, NIGHTLY = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4.6", "deepseek/deepseek-chat-v3.1"
SYSTEM = "The archive keeps every letter that was ever sent to it. " * 250


@pytest.fixture
def sim(clock):
    with Simulator(now=clock) as running:
        yield running


@pytest.fixture
def gateway():
    with closing(Gateway(lambda: "sk-or-v1-test")) as opened:
        yield opened


@pytest.fixture
def database(folder):
    """A cache.db that holds something, as after a first answer."""
    opened = open_database(folder)
    with opened.transaction():
        pass
    with closing(opened):
        yield opened


@pytest.fixture
def book(database, gateway, clock):
    return PriceCatalog(database, gateway.fetch, clock)


def asked(sim) -> list[str]:
    return [row.path.removeprefix("/api/v1") for row in sim.requests]


def test_why_no_schema__goes_by_what_is_listed_now(book, canned, reply, clock):
    """An old list that says no is fetched again before it counts; one that says yes is believed for a day."""

    def offers(*names):
        listed = {"endpoints": [{"tag": "x", "supported_parameters": list(names)}]}
        return reply(json.dumps({"data": listed}), "application/json")

    model = reply(json.dumps({"data": {"id": "a/b"}}), "application/json")
    answers = [model, offers("max_tokens"), model, offers("structured_outputs"), model, offers()]
    server = canned(*answers, models=False)
    request = Request({"model": "a/b"}, base_url=server.base_url)
    assert "a/b can't be held to a schema" in book.why_no_schema(request)
    assert len(server.received) == 2
    clock.now_s += 61
    assert book.why_no_schema(request) is None
    assert len(server.received) == 4
    clock.now_s += 61
    assert book.why_no_schema(request) is None
    assert len(server.received) == 4
    clock.now_s += FRESH_S
    assert book.why_no_schema(request) is None  # parameters that aren't listed are not known
    assert len(server.received) == 6


def test_why_no_schema__is_silent_where_nothing_is_known(book, canned, reply):
    """No list, no model, a router, a preset: what isn't known speaks against nothing."""
    server = canned(reply("{}", "application/json", "500 No"))
    for name in ("a/b", "@preset/x", ""):
        assert book.why_no_schema(Request({"model": name}, base_url=server.base_url)) is None


def body(model=MINI, **more):
    return {
        "model": model,
        "messages": [{"role": "user", "content": "What is a median?"}],
        "max_tokens": 50,
        **more,
    }


def put(database, sim, path, fetched_s, data: bytes) -> None:
    with database.transaction() as connection:
        row = (sim.base_url, path, fetched_s, data)
        connection.execute("INSERT OR REPLACE INTO or_listing VALUES (?, ?, ?, ?)", row)


# -- finding a model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "listed_id"),
    [
        (MINI, MINI),
        (f"{MINI}:nitro", MINI),
        (f"{MINI}:floor:online", MINI),
        ("anthropic/claude-4.6-sonnet-20260217", SONNET),
        ("~anthropic/claude-opus-latest", "anthropic/claude-opus-4.6"),
        ("meta-llama/llama-3.3-70b-instruct:free", "meta-llama/llama-3.3-70b-instruct:free"),
        ("openrouter/auto", "openrouter/auto"),
        ("openai/gpt-4o:free", None),
        ("no/such", None),
        ("@preset/mine", None),
        ("../key", None),
        ("", None),
    ],
)
def test_pricing__finds_models_as_requests_name_them(book, sim, model, listed_id):
    """By id, canonical slug, alias and variant."""
    found = book.pricing(sim.base_url, model).listing
    assert (None if found is None else found.alias_target or found.id) == listed_id


def test_pricing__has_all_who_offer_it(book, sim):
    """Every provider and tier, an alias's from the model that it stands for."""
    tags = [endpoint.tag for endpoint in book.pricing(sim.base_url, "openai/gpt-5-mini:nitro").endpoints]
    assert tags == ["openai", "azure", "openai/flex", "openai/priority"]
    assert len(book.pricing(sim.base_url, "~anthropic/claude-opus-latest").endpoints) == 3
    assert asked(sim)[-1] == "/models/anthropic/claude-opus-4.6/endpoints"


def test_pricing__says_why_nothing_is_known(book, sim):
    """A model that is not listed, a text that is no id, and what may not be fetched."""
    assert book.pricing(sim.base_url, "no/such").why_not == "no/such is not listed"
    assert book.pricing(sim.base_url, "openai/gpt-4o:free").why_not == "openai/gpt-4o:free is not listed"
    assert book.pricing(sim.base_url, "@preset/x").why_not == "'@preset/x' is no model's id"
    unknown = "has no price that is known here, and none may be fetched"
    assert book.known(sim.base_url, MINI).why_not == f"{MINI} {unknown}"


@pytest.mark.parametrize("gone", ["/endpoints", ""])
def test_pricing__of_a_model_that_is_listed_without_providers(database, gateway, clock, sim, gone):
    """It is not said to be unlisted, whether it is known by itself or from the list of all models."""

    def fetch(path, **options):
        if path != "/models" and path.endswith(gone):
            raise UpstreamError("Not found", status=404)
        return gateway.fetch(path, **options)

    book = PriceCatalog(database, fetch, clock)
    assert book.models(sim.base_url).find(MINI, MINI) is not None
    assert (
        book.pricing(sim.base_url, MINI).why_not
        == f"{MINI} is listed without a provider, and so without a price"
    )
    assert book.pricing(sim.base_url, "no/such").why_not == "no/such is not listed"


@pytest.mark.parametrize(
    "reply", [None, [], "x", {}, {"data": None}, {"data": []}, {"error": {"code": 500}}], ids=repr
)
def test_pricing__of_a_server_that_tells_something_else(database, clock, reply):
    """What is no list is nothing, as if it could not be fetched."""
    book = PriceCatalog(database, lambda path, **options: reply, clock)
    assert book.pricing("http://here", MINI).why_not.endswith("none could be fetched")


# -- keeping --------------------------------------------------------------------------------------


def test_pricing__is_fetched_once_a_day(book, sim, clock):
    """Two requests for a model's first estimate, none for a day, and then again; the date is told."""
    fetched_s = clock.now_s
    assert book.pricing(sim.base_url, MINI).listed_s == fetched_s
    clock.now_s += FRESH_S - 1
    assert book.pricing(sim.base_url, MINI).listed_s == fetched_s
    assert asked(sim) == [f"/model/{MINI}", f"/models/{MINI}/endpoints"]
    clock.now_s += 1
    assert book.pricing(sim.base_url, MINI).listed_s == clock.now_s
    assert len(asked(sim)) == 4


def test_pricing__outlives_the_process(book, database, gateway, sim, clock):
    """Another process finds in the file what was fetched, and asks nobody."""
    first = book.pricing(sim.base_url, NIGHTLY)
    sim.clear()
    another = PriceCatalog(database, gateway.fetch, clock)
    assert another.known(sim.base_url, NIGHTLY) == first
    assert asked(sim) == []


def test_pricing__is_taken_from_another_kernel_when_that_is_newer(book, database, gateway, sim, clock):
    """When a list is too old, the file is looked at before the network."""
    book.pricing(sim.base_url, MINI)
    clock.now_s += FRESH_S
    PriceCatalog(database, gateway.fetch, clock).pricing(sim.base_url, MINI)
    sim.clear()
    assert book.pricing(sim.base_url, MINI).listed_s == clock.now_s
    assert asked(sim) == []


def test_pricing__when_fetching_fails_is_old_rather_than_none(book, sim, clock):
    """Without a connection the older list serves, with its date; it is tried again after a minute."""
    first = book.pricing(sim.base_url, MINI)
    url = sim.base_url
    sim.stop()
    clock.now_s += FRESH_S * 3
    assert book.pricing(url, MINI) == first
    assert book.estimate(Request(body(), base_url=url), clock.now_s).listed_s == first.listed_s
    assert book.pricing(url, "openai/gpt-4o").why_not.endswith("none could be fetched")


def test_pricing__tries_a_dead_network_once_a_minute(database, clock):
    """One attempt for all models together, then silence for a minute."""
    attempts = []

    def dead(path, **options):
        attempts.append(path)
        raise UpstreamError("no network")

    book = PriceCatalog(database, dead, clock)
    for model in (MINI, SONNET, MINI):
        assert not book.pricing("http://here", model).endpoints
    assert len(attempts) == 1
    clock.now_s += 60
    book.pricing("http://here", SONNET)
    assert len(attempts) == 2


def test_pricing__asks_again_for_a_model_that_was_not_there(book, sim, clock):
    """A 404 is remembered for a minute, for that model only."""
    book.pricing(sim.base_url, "no/such")
    asked_once = len(asked(sim))
    book.pricing(sim.base_url, "no/such")
    assert len(asked(sim)) == asked_once
    assert book.pricing(sim.base_url, MINI).endpoints
    clock.now_s += 60
    book.pricing(sim.base_url, "no/such")
    assert len(asked(sim)) == 2 * asked_once + 2


def test_known__never_fetches(book, sim, clock):
    """Nothing is asked, and an old list serves."""
    assert book.known(sim.base_url, MINI).endpoints == ()
    assert (
        book.estimate(Request(body(), base_url=sim.base_url), clock.now_s, may_fetch=False).high_usd is None
    )
    assert asked(sim) == []
    fetched = book.pricing(sim.base_url, MINI)
    clock.now_s += FRESH_S * 9
    sim.clear()
    assert book.known(sim.base_url, MINI) == fetched
    assert asked(sim) == []


def test_pricing__makes_no_folder(folder, gateway, sim, clock):
    """A folder is made for answers: while there is none, prices are in memory."""
    with closing(open_database(folder)) as database:
        book = PriceCatalog(database, gateway.fetch, clock)
        assert book.pricing(sim.base_url, MINI) == book.known(sim.base_url, MINI) != ()
    assert not folder.exists()


def test_pricing__in_memory(gateway, sim, clock):
    """A cache without a folder has prices too."""
    with closing(open_database(":memory:")) as database:
        book = PriceCatalog(database, gateway.fetch, clock)
        book.pricing(sim.base_url, MINI)
        book.pricing(sim.base_url, MINI)
    assert len(asked(sim)) == 2


def test_pricing__when_the_file_is_locked(book, database, sim, clock):
    """Another program's lock costs a moment, and the prices are there."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert book.pricing(sim.base_url, MINI).endpoints
        other.execute("ROLLBACK")
    assert database.select("SELECT count(*) FROM or_listing") == [(0,)]
    assert book.pricing(sim.base_url, MINI).endpoints
    assert database.pop_notices() == ()


def test_pricing__when_the_folder_is_read_only(book, database, folder, gateway, sim, clock):
    """What the file has is read, what is fetched is kept in memory, and nothing is raised."""
    first = book.pricing(sim.base_url, MINI)
    database.close()
    (folder / "cache.db").chmod(0o444)
    folder.chmod(0o555)
    try:
        with closing(open_database(folder)) as read_only:
            another = PriceCatalog(read_only, gateway.fetch, clock)
            assert another.known(sim.base_url, MINI) == first
            assert another.pricing(sim.base_url, SONNET).endpoints
            if getattr(os, "geteuid", lambda: 0)():  # root writes anywhere
                assert len(read_only.select("SELECT 1 FROM or_listing")) == 2
    finally:
        folder.chmod(0o755)


def test_pricing__two_threads_fetch_once(database, gateway, sim, clock):
    """Those who come while it is fetched wait for it."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(path, **options):
        entered.set()
        assert go_on.wait(60)
        return gateway.fetch(path, **options)

    book = PriceCatalog(database, slow, clock)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(book.pricing, sim.base_url, MINI) for _ in range(8)]
        assert entered.wait(60)
        go_on.set()
        results = [one.result(10) for one in waiting]
    assert len(asked(sim)) == 2
    assert all(result == results[0] and result.endpoints for result in results)


# -- strangers' files -----------------------------------------------------------------------------

GOOD = b'{"endpoints":[{"tag":"p","provider_name":"P","pricing":{"prompt":"0.1","completion":"0.1"}}]}'


@pytest.mark.parametrize(
    ("data", "age_s"),
    [
        (b"", 0),
        (b"not deflated", 0),
        (zlib.compress(b"not json"), 0),
        (zlib.compress(b"[" * 200_000), 0),
        (zlib.compress(b'{"endpoints":[' + b" " * (1 << 25) + b"]}"), 0),
        (zlib.compress(b"\xff\xfe"), 0),
        (zlib.compress(b"1" * 100_000), 0),
        ("text", 0),
        (zlib.compress(GOOD), -7200),
        (zlib.compress(GOOD), float("-inf")),
        (zlib.compress(GOOD), float("inf")),
    ],
    ids=[
        "empty",
        "raw",
        "no json",
        "deep",
        "bomb",
        "no text",
        "long number",
        "str",
        "tomorrow",
        "never",
        "ever",
    ],
)
def test_known__reads_nothing_from_a_hostile_row(book, database, sim, clock, data, age_s):
    """A crafted row is as none, costs little, and is replaced by what is fetched."""
    path = f"/models/{MINI}/endpoints"
    put(database, sim, path, clock.now_s - age_s, data)
    assert book.known(sim.base_url, MINI).endpoints == ()
    assert len(book.pricing(sim.base_url, MINI).endpoints) == 2
    (row,) = database.select("SELECT fetched FROM or_listing WHERE path = ?", (path,))
    assert row == (clock.now_s,)


def test_known__reads_a_sound_row(book, database, sim, clock):
    """The control of the hostile ones: this row is read."""
    put(database, sim, f"/models/{MINI}/endpoints", clock.now_s, zlib.compress(GOOD))
    (endpoint,) = book.known(sim.base_url, MINI).endpoints
    assert (endpoint.tag, endpoint.price.prompt) == ("p", Decimal("0.1"))


# -- estimates against real calls -----------------------------------------------------------------


def test_estimate__by_hand(book, sim, clock):
    """The 12 tokens of the simulator's count are within the range, and the answer's 50 are its most."""
    told = book.estimate(Request(body(), base_url=sim.base_url), clock.now_s)
    tokens = told.prompt_tokens
    assert tokens.low <= 12 <= tokens.high
    assert told.low_usd == tokens.low * Decimal("0.000000075")
    assert told.high_usd == tokens.high * Decimal("0.00000015") + 50 * Decimal("0.00000060")
    assert (told.completion_tokens, told.unknown_why, told.listed_s) == ((0, 50), "", clock.now_s)


@pytest.mark.parametrize(
    ("asked_for", "why"),
    [
        (body("openrouter/auto"), "openrouter/auto picks a model, at that one's price, when it is asked"),
        (body("no/such"), "no/such is not listed"),
        (body(f"{MINI}:online"), "it may search the web, which is billed apart"),
        (body("@preset/mine"), "a preset decides what is asked of whom"),
        (body("google/gemini-2.5-flash-image"), "google/gemini-2.5-flash-image may answer in more than text"),
    ],
)
def test_estimate__says_why_there_is_no_most(book, sim, clock, asked_for, why):
    """What can't be bounded is said to be unknown, with the reason."""
    told = book.estimate(Request(asked_for, base_url=sim.base_url), clock.now_s)
    assert (told.high_usd, told.unknown_why) == (None, why)


def test_estimate__fetches_anew_when_the_list_does_not_tell_the_hour(database, gateway, sim, clock):
    """A list of the cheap hour that hides the usual rate is fetched again by day, and once a minute at most."""

    def uncovered(path, **options):
        told = gateway.fetch(path, **options)
        if path.endswith("/endpoints"):  # without the window of the day, as OpenRouter might list it
            told["data"]["endpoints"][0]["pricing"]["overrides"].pop(0)
        return told

    clock.now_s += 8 * 3600  # 20:00 UTC
    book = PriceCatalog(database, uncovered, clock)
    request = Request(body(NIGHTLY), base_url=sim.base_url)
    cheap = book.estimate(request, clock.now_s)
    clock.now_s += 14 * 3600
    usual = book.estimate(request, clock.now_s)
    assert cheap.high_usd * 2 == usual.high_usd
    assert usual.listed_s == clock.now_s
    assert len(asked(sim)) == 4


prompts = st.text(max_size=400) | st.sampled_from(
    [SYSTEM, "What is a median?", "def f(x):\n    return x\n" * 40]
)
tiers = st.sampled_from([None, None, "flex", "priority"])
marks = st.sampled_from([None, "5m", "1h"])
models = st.sampled_from([
    MINI, SONNET, NIGHTLY, "openai/gpt-5-mini", "openai/gpt-5-mini:floor", "openai/gpt-5-mini:nitro",
    "openai/gpt-5.6-sol", "~anthropic/claude-opus-latest", "google/gemini-2.5-flash", "google/gemini-2.5-pro",
    "qwen/qwen3-max", "meta-llama/llama-3.3-70b-instruct", "meta-llama/llama-3.3-70b-instruct:free",
])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=models, prompt=prompts, system=st.booleans(), limit=st.none() | st.integers(1, 60), tier=tiers,
    mark=marks, effort=st.sampled_from([None, "low"]), hour=st.integers(0, 23), fallback=st.booleans(),
)  # fmt: skip
def test_estimate__holds_what_calls_cost(  # noqa: PLR0917
    cache_at, sim, clock, model, prompt, system, limit, tier, mark, effort, hour, fallback
):
    """Law: a call's reported cost lies within its estimate, to the last digit."""
    clock.now_s += hour * 3600
    asked_for = body(model, max_tokens=limit, service_tier=tier)
    asked_for["messages"] = [{"role": "user", "content": prompt if prompt.strip() else "?"}]
    if system:
        asked_for["messages"].insert(0, {"role": "system", "content": SYSTEM})
    if effort:
        asked_for["reasoning"] = {"effort": effort}
    if fallback:
        asked_for["models"] = ["openai/gpt-4o"]
    asked_for = {name: value for name, value in asked_for.items() if value is not None}
    told = cache_at.money.estimate(Request(asked_for, base_url=sim.base_url, prompt_cache=mark or ""))
    messages = asked_for.pop("messages")
    answer = cache_at.ask(messages, mode="bypass", prompt_cache=mark, **asked_for)
    if told.high_usd is None:
        assert told.unknown_why == "a dearer, faster sibling of " + model + " may answer"
        return
    assert told.low_usd <= answer.paid_usd <= told.high_usd
    assert told.prompt_tokens.low <= answer.usage.prompt_tokens <= told.prompt_tokens.high
    assert answer.usage.completion_tokens <= told.completion_tokens[1]


@pytest.fixture
def cache_at(open_cache, sim):
    return open_cache(sim)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=models, mark=marks, prompt=st.integers(0, 3), hour=st.integers(0, 23), tier=tiers)
def test_tokens_cost__is_what_calls_reported(  # noqa: PLR0917
    book, gateway, sim, clock, model, mark, prompt, hour, tier
):
    """Law: what is counted from tokens is the reported cost, and what prompt caching took off is the generation's."""
    clock.now_s += hour * 3600
    asked_for = body(model) | ({"service_tier": tier} if tier else {})
    asked_for["messages"] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Question {prompt}?"},
    ]
    request = Request(asked_for, base_url=sim.base_url, prompt_cache=mark or "")
    book.pricing(sim.base_url, model)
    answer = gateway.send(request, ReplyReader(lambda _text: None))
    cost = book.tokens_cost(request, answer, clock.now_s)
    assert cost.usd in (answer.cost.usd, None)
    assert cost.source == ("unknown" if cost.usd is None else "estimated")
    told = gateway.fetch("/generation", base_url=sim.base_url, params={"id": answer.generation_id})["data"]
    assert book.prompt_cache_saved(request, answer, clock.now_s) in (told["cache_discount"] or 0, None)
    if tier is None and ":" not in model and model != NIGHTLY:
        assert cost.usd is not None


def test_prompt_cache_saved__of_writing_and_reading(book, gateway, sim, clock):
    """The first call writes at a premium, the second reads: $-0.00… and $0.00…, as /generation tells."""
    book.pricing(sim.base_url, SONNET)
    amounts = []
    for question in ("What is kept?", "Since when?"):
        asked_for = body(SONNET)
        asked_for["messages"] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        request = Request(asked_for, base_url=sim.base_url, prompt_cache="1h")
        answer = gateway.send(request, ReplyReader(lambda _text: None))
        usage = answer.usage
        by_hand = (usage.cached_tokens * Decimal("0.0000027")) - (
            usage.cache_write_tokens * Decimal("0.000003")
        )
        assert book.prompt_cache_saved(request, answer, clock.now_s) == by_hand
        amounts.append(by_hand)
    assert amounts[0] < 0 < amounts[1]


def test_tokens_cost__of_a_fallback_is_the_model_that_answered(book, gateway, sim, clock):
    """Among fallbacks the one that served is told by the answer; without a list nothing is counted."""
    request = Request(body("openai/gpt-4o", models=[MINI]), base_url=sim.base_url)
    sim.script(scenario("plain"))
    answer = gateway.send(request, ReplyReader(lambda _text: None))
    assert book.tokens_cost(request, answer, clock.now_s) == (None, "unknown")
    for model in ("openai/gpt-4o", MINI):
        book.pricing(sim.base_url, model)
    assert book.tokens_cost(request, answer, clock.now_s) == (answer.cost.usd, "estimated")
    assert book.tokens_cost(request, answer._replace(model="another/model"), clock.now_s).usd is None
    assert book.tokens_cost(request, answer._replace(usage=None), clock.now_s).usd is None
    assert book.prompt_cache_saved(request, answer._replace(usage=None), clock.now_s) is None
