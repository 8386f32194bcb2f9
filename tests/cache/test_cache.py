"""`CompletionCache` as its users hold it: OpenRouter's ways seen through `ask`, and looking after the cache."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal

import pytest

from or_cache_magic.cache.cache import key_from_environment
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.display.entries import ENTRY_TYPES
from or_cache_magic.display.stats import STAT_TYPES
from or_cache_magic.errors import InputError, MissingKeyError, OptionError, RequestError, UpstreamError
from or_cache_magic.simulator import scenario

PROMPT = "What is a median?"
DAY_S = 86400.0


# -- OpenRouter's ways ------------------------------------------------------------------------


def test_ask__of_an_unknown_model_that_nobody_lists_says_so(open_cache, canned, reply, tmp_path):
    """A model that isn't there is refused by name, at no cost; that its list can't be had stops no ask."""
    wrong = '{"error": {"code": 400, "message": "nope/nope is not a valid model ID"}}'
    for status in ("500 No", "404 Not Found"):
        lists = [reply("{}", "application/json", status)] * (1 if status[:3] == "500" else 2)
        server = canned(*lists, reply(wrong, "application/json", "400 No"), models=False)
        cache = open_cache(server, directory=tmp_path / status[:3])
        with pytest.raises(UpstreamError, match=r"400: nope/nope .* \(nothing was paid\)"):
            cache.ask(PROMPT, model="nope/nope")
        assert [line.split()[0] for line in server.received] == [*[b"GET"] * len(lists), b"POST"]
        assert cache.totals()[0].failed == 1


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("openai/gpt4o-mini", "did you mean openai/gpt-4o-mini?"),
        ("gpt-4o-mini", "did you mean openai/gpt-4o-mini?"),
        ("nope/nope", "%openrouter_models lists what there is"),
    ],
)
def test_ask__of_an_unknown_model_says_which_was_meant(cache, sim, model, hint):
    """The first ask of a fresh folder too, before anything is sent: OpenRouter's lists cost nothing to ask for."""
    for _ in range(2):
        with pytest.raises(RequestError, match=f"{model} is no model .* .nothing was sent.") as caught:
            cache.ask(PROMPT, model=model)
        assert caught.value.hint == hint
    assert sim.completions == ()
    assert len(sim.requests) == (2 if "/" in model else 1)
    assert not cache.directory.exists()


def test_ask__asks_whether_its_model_is_there_once(open_cache, sim):
    """One small request before the first call in a folder; none before a hit, nor for the next sessions' misses."""
    cache = open_cache(sim)
    cache.ask("one")
    assert cache.ask("one").cached
    cache.close()
    open_cache(sim).ask("two")
    assert [one.method for one in sim.requests] == ["GET", "POST", "POST"]


@pytest.mark.parametrize("lists", [True, False], ids=["a list of all alone", "one of each"])
def test_ask__refuses_what_a_list_says_it_cannot_do(open_cache, canned, reply, tmp_path, lists):
    """Where OpenRouter tells nothing of one model its list of all tells it: inputs, schemas, what is there."""

    def listed(name, inputs, able):
        return {
            "id": name,
            "architecture": {"input_modalities": inputs},
            "pricing": {"prompt": "0.1", "completion": "0.2"},
            "supported_parameters": able,
        }

    text, able = (
        listed("x/text", ["text"], ["temperature"]),
        listed("x/able", ["text", "image"], ["structured_outputs"]),
    )
    gone = reply("{}", "application/json", "404 Not Found")
    every = reply(json.dumps({"data": [text, able]}), "application/json")
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )
    for options, said in (
        ({"attach": png}, "x/text takes no pictures"),
        ({"schema": "a str"}, "x/text can't be held to a schema"),
    ):
        one = reply(json.dumps({"data": text}), "application/json")
        server = canned(*((gone, every) if lists else (one,)), gone, models=False)
        with pytest.raises(InputError, match=said):
            open_cache(server, directory=tmp_path / said[:12]).ask(PROMPT, model="x/text", **options)
        assert {line.split()[0] for line in server.received} == {b"GET"}


def test_ask__of_unknown_models_asks_for_the_list_once(open_cache, canned, reply):
    """However many asks name a wrong model; what a server lists steers no terminal."""
    wrong = reply(
        '{"error": {"code": 400, "message": "x is not a valid model ID"}}', "application/json", "400 No"
    )
    listed = reply(
        '{"data": [{"id": "openai/gpt-4o-minj\\u001b[2J"}, {"id": "openai/gpt-4o-mini"}]}', "application/json"
    )
    server = canned(wrong, listed, wrong)
    cache = open_cache(server, model="openai/gpt-4o-minj")
    for prompt in ("one", "two", "three"):
        with pytest.raises(UpstreamError) as caught:
            cache.ask(prompt)
        assert caught.value.hint == "did you mean openai/gpt-4o-mini?"
    assert len(server.received) == 3 + 1


@pytest.mark.parametrize("script", ["rate_limited", "unavailable"])
def test_ask__waits_out_a_passing_shortage(cache, sim, script):
    """A shortage that passes costs two attempts and one row of the ledger."""
    sim.script(scenario(script, retry_after_s=0))
    answer = cache.ask(PROMPT)
    assert answer.outcome.stored
    assert sim.completion_count == 2
    assert [row.kind for row in cache.ledger.rows()] == ["miss"]


@pytest.mark.parametrize("shape", ["a", "b", "c"])
def test_ask__finds_the_price_in_each_shape_of_stream(cache, sim, shape):
    """The usage is found wherever it stands, between comments."""
    sim.script(scenario("usage_shape", shape=shape, comments=4))
    assert cache.ask(PROMPT).cost_usd == sim.total_cost > 0


def test_ask__records_the_model_that_served(cache):
    """Aliases and dated names: what was asked for is the entry's name, what served is its model."""
    answer = cache.ask(PROMPT, model="~anthropic/claude-opus-latest")
    assert answer.model == "anthropic/claude-4.6-opus-20260205"
    assert list(cache.entries()["model"]) == ["~anthropic/claude-opus-latest"]
    assert len(cache.entries(model="anthropic/claude-4.6-opus-20260205")) == 1


def test_ask__reads_prompt_caching(cache, sim):
    """Tokens that the provider's prompt cache wrote and read are in the usage, their price in the cost."""
    system = [{"type": "text", "text": "Be terse. " * 2000, "cache_control": {"type": "ephemeral"}}]
    answers = []
    for question in ("One?", "Two?"):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        answers.append(cache.ask(messages, model="anthropic/claude-sonnet-4.6"))
    written, read = (answer.usage for answer in answers)
    assert written.cache_write_tokens == read.cached_tokens > 0
    assert sum(answer.cost_usd for answer in answers) == sim.total_cost
    assert {row.cached_tokens for row in cache.ledger.rows()} == {0, read.cached_tokens}


def test_ask__passes_over_debug_chunks(cache):
    """A first chunk without choices is no answer and no end."""
    assert cache.ask(PROMPT, debug={"echo_upstream_body": True}).outcome.stored


@pytest.mark.parametrize(("tier", "served"), [("tier_shed", True), ("tier_full", False)])
def test_ask__is_told_of_service_tiers(cache, sim, tier, served):
    """A tier that is given up is answered at the default price; one that is full is an error."""
    sim.script(scenario(tier), times=3)
    fields = {"model": "openai/gpt-5-mini", "service_tier": "priority" if served else "flex"}
    if served:
        assert cache.ask(PROMPT, **fields).cost_usd == sim.total_cost
    else:
        with pytest.raises(UpstreamError):
            cache.ask(PROMPT, plugins=[{"id": "file-parser"}], **fields)


def test_ask__keys_on_streaming_where_a_plugin_heals(cache, sim):
    """Response healing mends JSON only without streaming, so that streamed and whole are two requests."""
    fields = {"plugins": [{"id": "response-healing"}], "response_format": {"type": "json_object"}}
    sim.script(scenario("broken_json"), times=2)
    streamed = cache.ask(PROMPT, stream=True, **fields)
    whole = cache.ask(PROMPT, stream=False, **fields)
    assert streamed.outcome.not_stored.startswith("the answer is not the JSON that was asked for (")
    assert whole.outcome.stored
    assert streamed.key != whole.key


def test_ask__searches_cost_more_and_last_a_day(cache, sim):
    """A search is in the price, its citations in the message, and its answer is kept for a day."""
    sim.script(scenario("web_search", engine="exa"))
    answer = cache.ask(PROMPT, plugins=[{"id": "web"}])
    assert answer.cost_usd == sim.total_cost > Decimal("0.007")
    assert answer.messages[-1]["annotations"]
    assert answer.outcome.notes == ("kept 24 h: it searches the web",)


def test_ask__goes_on_with_a_conversation(cache, sim):
    """A reply is asked with the conversation's own messages, and is cached as such."""
    first = cache.ask(PROMPT)
    follow = [*first.messages, {"role": "user", "content": "And a mean?"}]
    second = cache.ask(follow)
    assert cache.ask(follow) == second
    assert sim.requests[-1].body["messages"] == follow
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user", "assistant"]


# -- what isn't asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("", {}),
        ("  \n", {}),
        ([], {}),
        (PROMPT, {"sample": -1}),
        (PROMPT, {"mode": "fast"}),
        (PROMPT, {"ttl": "soon"}),
        (PROMPT, {"ttl": 0}),
        (PROMPT, {"ttl": math.nan}),
        (PROMPT, {"messages": []}),
        (PROMPT, {"top_p": math.nan}),
        (7, {}),
        ({"role": "user", "content": "Hi"}, {}),
    ],
    ids=repr,
)
def test_ask__sends_nothing_that_is_wrong(cache, sim, folder, prompt, options):
    """A wrong option is refused in two lines: nothing sent, nothing accounted for, nothing made."""
    with pytest.raises(InputError) as caught:
        cache.ask(prompt, **options)
    assert len(str(caught.value).splitlines()) == 2
    assert sim.requests == ()
    assert not folder.exists()


def test_ask__needs_a_model(open_cache, sim):
    """No model named and none set is an error before anything is sent."""
    with pytest.raises(OptionError, match="no model"):
        open_cache(sim, model=None).ask(PROMPT)
    assert sim.requests == ()


def test_key_from_environment__looks_at_one_variable(monkeypatch):
    """No other service's key is ever taken."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert key_from_environment() is None
    monkeypatch.setenv("OPENROUTER_API_KEY", "")
    assert key_from_environment() is None
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-x")
    assert key_from_environment() == "sk-or-v1-x"


def test_ask__takes_no_openai_key(open_cache, sim, monkeypatch):
    """With only OpenAI's variables set nothing is sent."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-secret")
    cache = open_cache(sim, api_key=None)
    with pytest.raises(MissingKeyError):
        cache.ask(PROMPT)
    assert sim.requests == ()


# -- looking after it -------------------------------------------------------------------------


@pytest.fixture
def kept(cache, clock):
    """Five entries: two models, a system prompt, a label, an age, a lifetime."""
    start_s = clock.now_s
    clock.now_s = start_s - 40 * DAY_S
    cache.ask("Old question?", tag="old")
    clock.now_s = start_s - 2 * DAY_S
    cache.ask("Expired question?", ttl="24h")
    clock.now_s = start_s
    cache.ask("Terse question?", system="Be terse.")
    cache.ask("Other question?", model="meta-llama/llama-3.3-70b-instruct", tag=["a", "b"])
    cache.ask("Plain question?")
    return cache


@pytest.mark.parametrize(
    ("conditions", "gone"),
    [
        ({"model": "meta-llama/llama-3.3-70b-instruct"}, ["Other"]),
        ({"model": "meta-llama/*"}, ["Other"]),
        ({"model": "openai/*", "tag": "old"}, ["Old"]),
        ({"system": "Be terse."}, ["Terse"]),
        ({"system": "Be"}, []),
        ({"tag": "b"}, ["Other"]),
        ({"tag": "nothing"}, []),
        ({"prefix": "Pl"}, ["Plain"]),
        ({"older": "30d"}, ["Old"]),
        ({"older": DAY_S}, ["Expired", "Old"]),
        ({"expired": True}, ["Expired"]),
        ({"all": True}, ["Expired", "Old", "Other", "Plain", "Terse"]),
    ],
    ids=str,
)
def test_purge__takes_what_its_conditions_name(kept, conditions, gone):
    """Each condition alone and several together; a dry run takes nothing, and the ledger keeps its history."""
    before = kept.totals()[0]
    count = len(kept.entries())
    dry = kept.purge(**conditions, dry_run=True)
    assert len(kept.entries()) == count
    preview = kept.preview(kept.purge_filter(**conditions))
    taken = kept.purge(**conditions)
    assert sorted(prompt.split()[0] for prompt in taken["prompt"]) == gone
    assert list(dry["key"]) == list(taken["key"])
    assert tuple(taken.columns) == tuple(ENTRY_TYPES)
    assert (preview.entries, preview.unpriced) == (len(gone), 0)
    assert float(preview.cost_usd) == pytest.approx(taken["cost_usd"].sum())
    assert not set(taken["key"]) & set(kept.entries()["key"])
    assert len(kept.entries()) == count - len(gone)
    assert kept.totals()[0] == before


def test_purge__takes_keys_by_their_beginning(kept):
    """A key, or how it begins; what was purged is asked anew."""
    key = kept.ask("Plain question?").key
    assert list(kept.purge(key[:10])["key"]) == [key]
    assert not kept.ask("Plain question?").cached


@pytest.mark.parametrize(
    ("keys", "conditions"), [((), {}), ((), {"all": True, "tag": "b"}), (("abcd",), {"all": True}), (("abc",), {}), (("xyz1",), {}), ((), {"older": "soon"})]
)  # fmt: skip
def test_purge__refuses_what_names_nothing_or_too_much(kept, keys, conditions):
    """Nothing said, everything and something, a key too short to be one: refused, and nothing removed."""
    with pytest.raises(OptionError):
        kept.purge(*keys, **conditions)
    assert len(kept.entries()) == 5


def test_purge__of_an_empty_cache_makes_nothing(cache, folder):
    """Where there is nothing, nothing is made."""
    assert len(cache.purge(all=True)) == 0
    assert len(cache.entries()) == 0
    assert not folder.exists()


def test_purge__counts_what_has_no_known_price(open_cache, canned, reply):
    """What buying again would cost is told with what is not known of it."""
    good = (
        'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    cache = open_cache(canned(reply(good)))
    cache.ask(PROMPT)
    preview = cache.preview(EntryFilter())
    assert (preview.entries, preview.cost_usd, preview.unpriced) == (1, 0, 1)


def test_entries__tells_of_each_entry(kept, clock):
    """The columns that others build on, newest first, hits included; unknown is NaN, for ever too."""
    kept.ask("Plain question?")
    frame = kept.entries()
    assert tuple(frame.columns) == tuple(ENTRY_TYPES)
    assert list(frame["created"]) == sorted(frame["created"], reverse=True)
    plain = frame[frame["prompt"] == "Plain question?"].iloc[0]
    assert (plain["model"], plain["provider"], plain["hits"]) == ("openai/gpt-4o-mini", "OpenAI", 1)
    assert plain["saved_usd"] == plain["cost_usd"] > 0
    assert plain["cost_source"] == "reported"
    assert plain["created"].timestamp() == plain["last_hit"].timestamp() == clock.now_s
    assert math.isnan(plain["ttl_s"])
    assert plain["answer"]
    expired = frame[frame["prompt"] == "Expired question?"].iloc[0]
    assert expired["ttl_s"] == DAY_S
    assert expired["hits"] == 0
    assert str(expired["last_hit"]) == "NaT"
    assert list(frame[frame["tags"] != ""]["tags"]) == ["a, b", "old"]


@pytest.mark.parametrize(
    ("filters", "count"),
    [({"text": "QUESTION"}, 5), ({"text": "terse"}, 1), ({"tag": "a"}, 1), ({"since": "1d"}, 3), ({"since": 3 * DAY_S}, 4), ({"limit": 2}, 2)],
    ids=str,
)  # fmt: skip
def test_entries__filters(kept, filters, count):
    """By text, label, age and number."""
    assert len(kept.entries(**filters)) == count


def test_peek__sends_and_counts_nothing(cache, sim):
    """What an ask would come to, without asking."""
    ask = cache.prepare(PROMPT, {})
    assert cache.peek(ask) == (None, "not stored yet")
    assert sim.requests == ()
    assert cache.ask(PROMPT).key == ask.key.digest
    row, why = cache.peek(ask)
    assert (row.prompt, why) == (PROMPT, "")
    assert cache.totals()[0].asks == 1


def test_stats__has_the_columns_that_others_build_on(kept):
    """One row, or one a group with the group's column first."""
    kept.ask("Plain question?")
    frame = kept.stats()
    assert tuple(frame.columns) == tuple(STAT_TYPES)
    (row,) = frame.to_dict("records")
    assert (row["asks"], row["calls"], row["hits"], row["misses"], row["unpriced"]) == (6, 5, 1, 5, 0)
    assert row["hit_rate"] == pytest.approx(1 / 6)
    assert row["saved_usd"] == pytest.approx(kept.entries()["saved_usd"].sum())
    for by in ("model", "day", "notebook", "tag"):
        grouped = kept.stats(by)
        assert tuple(grouped.columns) == (by, *tuple(STAT_TYPES))
    assert set(kept.stats("model")["model"]) == {"openai/gpt-4o-mini", "meta-llama/llama-3.3-70b-instruct"}
    assert set(kept.stats("tag")["tag"]) == {"", "old", "a", "b"}
    with pytest.raises(OptionError, match="model, day, notebook or tag"):
        kept.stats("week")


def test_stats__of_a_session_leaves_out_the_others(open_cache, sim):
    """Only what this cache asked."""
    open_cache(sim).ask(PROMPT)
    later = open_cache(sim, notebook="later.ipynb")
    later.ask(PROMPT)
    assert later.totals(session=True)[0].asks == 1
    assert later.totals()[0].asks == 2
    assert {t.group for t in later.totals("notebook")} == {"", "later.ipynb"}


def test_cache__makes_nothing_until_it_stores(open_cache, sim, folder):
    """Looking makes no folder; the first answer that is kept does."""
    with open_cache(sim) as cache:
        assert len(cache.entries()) == len(cache.stats()) - 1 == 0
        assert not folder.exists()
        cache.ask(PROMPT)
    assert (folder / "cache.db").exists()
    assert (folder / ".gitignore").read_text() == "*\n"
    assert repr(str(folder)) in repr(cache)


def test_cache__works_on_after_it_was_closed(cache):
    """Closing gives back what is open; the next ask opens it again."""
    answer = cache.ask(PROMPT)
    cache.close()
    assert cache.ask(PROMPT) == answer
    cache.close()
    assert cache.ask("Another?")


def test_cache__reads_settings_from_the_environment(folder, sim, monkeypatch, tmp_path):
    """Without settings given, the environment and the project's file are read."""
    from or_cache_magic.cache.cache import CompletionCache

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENROUTER_BASE_URL", sim.base_url)
    monkeypatch.setenv("OPENROUTER_MODEL", "openai/gpt-4o-mini")
    monkeypatch.setenv("OPENROUTER_API_KEY", sim.api_key)
    with CompletionCache(folder) as cache:
        assert cache.ask(PROMPT).model == "openai/gpt-4o-mini"
    assert sim.completion_count == 1


@pytest.mark.parametrize(
    "conditions",
    [
        {"to_fit": True},
        {"older": True},
        {"older": "never"},
        {"older": -1},
        {"to_fit": -1},
        {"model": 5},
        {"prefix": b"x"},
    ],
    ids=str,
)
def test_purge__refuses_values_that_it_does_not_take(kept, conditions):
    """True is no second: nothing is removed."""
    with pytest.raises(OptionError):
        kept.purge(**conditions)
    assert len(kept.entries()) > 0


def test_entries__takes_what_notebooks_hold(kept):
    """Whole numbers of numpy, lengths of time; a wrong limit is said in two lines."""
    numpy = pytest.importorskip("numpy")
    assert len(kept.entries(limit=numpy.int64(1))) == 1
    assert len(kept.entries(since=dt.timedelta(days=9000))) == len(kept.entries())
    for wrong in (-1, "x", 1.5, True):
        with pytest.raises(OptionError, match="limit"):
            kept.entries(limit=wrong)
