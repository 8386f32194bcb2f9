"""`embed`: each text's vector is bought once, by whomever, and kept as float32; sums stay exact."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from decimal import Decimal

import numpy as np
import openai
import pandas as pd
import pyarrow as pa
import pytest

from or_cache_magic.clients import embed as embedding
from or_cache_magic.clients.server import CacheServer
from or_cache_magic.engine.vectors import _split
from or_cache_magic.errors import (
    BudgetError,
    OptionError,
    ReplayMiss,
    RequestError,
    StoreCorruptError,
    UpstreamError,
)
from or_cache_magic.simulator import scenario
from or_cache_magic.storage.codec import decode_entry, read_head

MODEL = "openai/text-embedding-3-small"
TEXTS = ["a red fox", "the fox is red", "quarterly revenue fell"]


def sent(sim):
    return [row.body for row in sim.requests if row.is_embedding]


def totals(cache):
    (sums,) = cache.totals()
    return sums


def direct(sim, texts, **more):
    """What the server gives itself."""
    with openai.OpenAI(base_url=sim.base_url, api_key=sim.api_key) as client:
        return [one.embedding for one in client.embeddings.create(model=MODEL, input=texts, **more).data]


def test_embed__buys_each_text_once(cache, sim):
    """Rows are the server's vectors in the texts' order; equal texts are sent once, and stored ones not at all."""
    found = cache.embed([*TEXTS, TEXTS[0]], model=MODEL)
    assert (found.shape, found.dtype) == ((4, 1536), np.float32)
    assert [body["input"] for body in sent(sim)] == [TEXTS]
    more = cache.embed([*reversed(TEXTS), "another"], model=MODEL)
    assert [body["input"] for body in sent(sim)] == [TEXTS, ["another"]]
    np.testing.assert_array_equal(more[:3], found[2::-1])
    np.testing.assert_array_equal(found[3], found[0])
    np.testing.assert_allclose(found[:3], direct(sim, TEXTS))
    alone = cache.embed(TEXTS[1], model=MODEL)
    np.testing.assert_array_equal(alone, found[1])
    assert cache.embed([], model=MODEL).shape[0] == 0


def test_embed__accounts_for_each_text_exactly(cache, sim):
    """The shares of entries and ledger sum up to what the request cost; hits save theirs."""
    cache.embed(TEXTS, model=MODEL)
    cache.embed(TEXTS[:2], model=MODEL)
    sums, entries = totals(cache), cache.entries()
    assert (sums.asks, sums.calls, sums.hits, sums.unpriced) == (5, 3, 2, 0)
    assert sums.paid_usd == sim.total_cost > 0
    rows = [cache.store.entry(key).answer for key in entries["key"]]
    assert sum(answer.cost.usd for answer in rows) == sim.total_cost
    assert sum(answer.usage.prompt_tokens for answer in rows) == sums.bought_tokens
    kept = dict(zip(entries["prompt"], rows, strict=True))
    assert sums.saved_usd == sum(kept[text].cost.usd for text in TEXTS[:2])
    assert set(entries["answer"]) == {"1,536 numbers"}
    assert {answer.cost.source for answer in rows} == {"apportioned"}


def test_embed__keys_all_that_the_vector_depends_on(cache, sim):
    """Model, dimensions and other fields are in the key; an alias is its model's; a chat is never answered by a vector."""
    first = cache.embed("a red fox", model=MODEL, tag="mine", ttl="7d")
    cache.embed("a red fox", model=MODEL, provider=None)
    assert len(sent(sim)) == 1
    assert cache.embed("a red fox", model=MODEL, dimensions=64).shape == (64,)
    cache.embed("a red fox", model=MODEL, input_type="search_query")
    cache.embed("a red fox", model=MODEL, extra={"user": "me"})
    assert cache.embed("a red fox", model="qwen/qwen3-embedding-8b").shape == (4096,)
    assert len(sent(sim)) == 4
    assert list(cache.entries(tag="mine")["prompt"]) == ["a red fox"]
    with cache.client() as client, pytest.raises(openai.BadRequestError, match="needs messages"):
        client.post("/chat/completions", body={"model": MODEL, "input": "a red fox"}, cast_to=object)
    assert first.shape == (1536,)


def test_embed__keeps_float32_as_it_is(cache, sim, folder):
    """An entry is the vector's bytes and little else, in the file too; damage in any byte is found."""
    found = cache.embed(TEXTS[0], model=MODEL)
    cache.flush()
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        ((digest, blob, tables),) = connection.execute(
            "SELECT key, value, (SELECT count(*) FROM sqlite_master WHERE name = 'or_media') FROM Cache"
        ).fetchall()
    assert found.astype("<f4").tobytes() in blob
    assert len(blob) < 4 * 1536 + 700
    assert (tables, read_head(digest, blob)) == (0, "1,536 numbers")
    for place in (0, 6, 12, 3000, len(blob) - 3):
        broken = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises(StoreCorruptError):
            decode_entry(digest, broken)
    assert [row.answer for row in cache.store.listing.find(embedding_filter("red fox"))] == ["1,536 numbers"]


def embedding_filter(text):
    from or_cache_magic.core.rows import EntryFilter

    return EntryFilter(text=text)


def test_embed__sends_many_texts_in_few_requests(cache, sim):
    """No request has more texts, or is longer, than all providers take; the rows keep their order."""
    texts = [f"text {number}" for number in range(200)] + ["long " * 45_000, "x"]
    found = cache.embed(texts, model=MODEL)
    sizes = sorted(len(body["input"]) for body in sent(sim))
    assert (sum(sizes), max(sizes), len(sizes)) == (202, 96, 5)
    np.testing.assert_array_equal(found[150], cache.embed("text 150", model=MODEL))
    assert totals(cache).paid_usd == sim.total_cost


def test_embed__modes(open_cache, sim):
    """Offline sends nothing and says how many are missing; refresh asks again; bypass neither reads nor keeps."""
    cache = open_cache(sim)
    cache.embed(TEXTS[:2], model=MODEL)
    offline = open_cache(sim, mode="offline")
    assert offline.embed(TEXTS[:2], model=MODEL).shape == (2, 1536)
    with pytest.raises(ReplayMiss, match="1 of 3 vectors are not stored") as caught:
        offline.embed(TEXTS, model=MODEL, mode="refresh")
    assert caught.value.prompt == TEXTS[2]
    assert "run it once with a key and without --offline" in caught.value.hint
    assert len(sent(sim)) == 1
    cache.embed(TEXTS[:1], model=MODEL, mode="refresh")
    cache.embed("aside", model=MODEL, mode="bypass")
    assert (len(sent(sim)), len(cache.entries())) == (3, 2)
    sums = totals(cache)
    assert (sums.refreshes, sums.bypasses, sums.paid_usd) == (1, 1, sim.total_cost)


def test_embed__without_credits_names_nothing_that_it_does_not_take(cache, sim):
    """The hint of a 402 is about texts: vectors have no --max-tokens."""
    sim.script(scenario("insufficient_credits"))
    with pytest.raises(UpstreamError) as caught:
        cache.embed(TEXTS, model=MODEL)
    assert (caught.value.status, caught.value.hint) == (402, "add credits to your OpenRouter account")


def test_embed__keeps_to_budgets(open_cache, sim):
    """A limit of the call or of the session is held before anything is sent; what is within it is bought."""
    cache = open_cache(sim)
    with pytest.raises(BudgetError, match="max_cost_usd") as caught:
        cache.embed(TEXTS, model=MODEL, max_cost_usd="0.00000001")
    assert caught.value.hint == "raise max_cost_usd, or give fewer or shorter texts"
    poor = open_cache(sim, max_cost_usd=Decimal("0.00000001"))
    with pytest.raises(BudgetError, match="session"):
        poor.embed(TEXTS, model=MODEL)
    assert sent(sim) == []
    assert cache.embed(TEXTS, model=MODEL, max_cost_usd=0.01).shape == (3, 1536)


def test_embed__takes_columns_and_numbers_of_libraries(cache, sim):
    """A Series and an array of texts are lists of them; an integer of NumPy is one."""
    found = cache.embed(pd.Series(TEXTS), model=MODEL, dimensions=np.int64(64))
    assert found.shape == (3, 64)
    assert cache.embed(np.array(TEXTS), model=MODEL, dimensions=64).shape == (3, 64)
    assert [type(body["dimensions"]) for body in sent(sim)] == [int]


def test_embed__waits_for_rate_limits(cache, sim):
    """A 429 is waited for, as long as the server says, and nothing is lost or paid twice."""
    sim.script(scenario("rate_limited", retry_after_s=0.05))
    assert cache.embed(TEXTS, model=MODEL).shape == (3, 1536)
    assert (len(sent(sim)), totals(cache).paid_usd) == (2, sim.total_cost)


def test_embed__refused_requests_lose_nothing_else(cache, sim, monkeypatch):
    """Of several requests one is refused: the error is raised, the others' vectors are kept, and asked no more."""
    monkeypatch.setattr(embedding, "_MOST_TEXTS", 1)
    sim.script(scenario("invalid_request"), match=lambda body: body["input"] == [TEXTS[1]])
    with pytest.raises(UpstreamError) as caught:
        cache.embed(TEXTS, model=MODEL)
    assert caught.value.status == 400
    assert set(cache.entries()["prompt"]) == {TEXTS[0], TEXTS[2]}
    cache.embed(TEXTS, model=MODEL)
    assert [len(body["input"]) for body in sent(sim)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1e40]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": "AAA"}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": ["x"]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [True]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [10**400]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": "AADAfw=="}],
        [{"index": 0, "embedding": [1.0]}, {"index": True, "embedding": [2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0, 3.0]}],
    ],
)
def test_embed__keeps_nothing_of_a_broken_reply(open_cache, canned, reply, data):
    """Too few vectors, or of several sizes, places that are missing or there twice, and what is no vector are
    errors of two lines that say what was paid for them; the ledger has it too.
    """
    usage = {"prompt_tokens": 4, "total_tokens": 4, "cost": 0.001}
    body = json.dumps({"object": "list", "model": MODEL, "data": data, "usage": usage})
    cache = open_cache(canned(reply(body, "application/json")))
    with pytest.raises(UpstreamError, match=r"\(it cost \$0.001; nothing is stored\)") as caught:
        cache.embed(TEXTS[:2], model=MODEL)
    assert (len(cache.entries()), caught.value.cost_usd) == (0, Decimal("0.001"))
    assert len(str(caught.value).splitlines()) == 2
    sums = totals(cache)
    assert (sums.failed, sums.unpriced, sums.paid_usd) == (1, 0, Decimal("0.001"))


def test_embed__keeps_no_vectors_of_another_size_than_asked_for(open_cache, canned, reply):
    """A model that passes over `dimensions` is paid, and not stored: the next call asks again."""
    data = [{"index": place, "embedding": [1.0, 2.0, 3.0]} for place in (0, 1)]
    body = json.dumps({"data": data, "model": MODEL, "usage": {"prompt_tokens": 4, "cost": 0.001}})
    cache = open_cache(canned(reply(body, "application/json")))
    for calls in (1, 2):
        with pytest.raises(UpstreamError, match=r"vectors of 3 numbers came, not of 2 \(it cost \$0.001"):
            cache.embed(TEXTS[:2], model=MODEL, dimensions=2)
        assert (totals(cache).failed, len(cache.entries())) == (calls, 0)
    assert cache.embed(TEXTS[:2], model=MODEL, dimensions=3).shape == (2, 3)


def test_embed__takes_numbers_and_any_order(open_cache, canned, reply):
    """A server that knows no base64, or answers out of order, is read right."""
    data = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1, 2]}]
    body = json.dumps({"data": data, "model": MODEL})
    cache = open_cache(canned(reply(body, "application/json")))
    np.testing.assert_array_equal(cache.embed(TEXTS[:2], model=MODEL), [[1, 2], [3, 4.5]])
    assert totals(cache).unpriced == 2


def test_embed__of_two_at_once_buys_once(open_cache, sim):
    """Two programs on one folder that want overlapping texts buy each once; who waits gets what the other bought."""
    one, two = open_cache(sim), open_cache(sim)
    got = []
    with sim.hold():
        first = threading.Thread(target=lambda: got.append(one.embed(TEXTS[:2], model=MODEL)))
        first.start()
        assert sim.wait_for(lambda rows: any(row.held for row in rows))
        second = threading.Thread(target=lambda: got.append(two.embed(TEXTS, model=MODEL)))
        second.start()
        assert sim.wait_for(lambda rows: sum(row.held for row in rows) == 2)
    first.join()
    second.join()
    assert sorted(map(len, got)) == [2, 3]
    assert [body["input"] for body in sent(sim)] == [TEXTS[:2], TEXTS[2:]]
    assert totals(one).paid_usd == sim.total_cost


@pytest.mark.parametrize(
    ("texts", "options", "error"),
    [
        (["a", ""], {}, RequestError),
        (["a", 1], {}, RequestError),
        ("a", {"model": None}, OptionError),
        ("a", {"model": ""}, OptionError),
        ("a", {"temperature": 0}, OptionError),
        ("a", {"dimensions": 0}, OptionError),
        ("a", {"dimensions": -4}, OptionError),
        ("a", {"dimensions": True}, OptionError),
        ("a", {"dimensions": "64"}, OptionError),
        ("a", {"extra": {"dimensions": 0}}, OptionError),
        ("a", {"mode": "never"}, OptionError),
        ("a", {"extra": {"encoding_format": "float"}}, OptionError),
        ("a", {"extra": {"messages": []}}, RequestError),
        ("a", {"provider": {"order": object()}}, OptionError),
        ("a", {"extra": None}, OptionError),
        ("a", {"extra": [1]}, OptionError),
        (None, {}, RequestError),
        (5, {}, RequestError),
        (b"ab", {}, RequestError),
        ({"text": "a"}, {}, RequestError),
        (pd.DataFrame({"text": ["a"]}), {}, RequestError),
        (pa.table({"text": ["a"]}), {}, RequestError),
        ("a", {"extra": {"prompt": "x"}}, RequestError),
        ("sk-or-v1-" + "a1" * 32, {}, RequestError),
    ],
)
def test_embed__refuses_what_makes_no_sense(cache, sim, texts, options, error):
    """An empty text, what is none, another option and a key among the texts are errors before anything is sent."""
    with pytest.raises(error, match="nothing was sent"):
        cache.embed(texts, **{"model": MODEL, **options})
    assert sim.requests == ()


def test_embed__of_a_server_serves_other_programs(cache, sim):
    """`or-cache serve` has embeddings too: the same entries, as numbers and base64, with hit and savings in the header."""
    ours = cache.embed(TEXTS, model=MODEL)
    with (
        CacheServer(cache, "orc-test") as server,
        openai.OpenAI(base_url=server.base_url, api_key="orc-test", max_retries=0) as client,
    ):
        for encoding in ("float", "base64"):
            raw = client.embeddings.with_raw_response.create(
                model=MODEL, input=TEXTS, encoding_format=encoding
            )
            assert raw.headers["x-or-cache"] == "hit"
            assert Decimal(raw.headers["x-or-cache-saved-usd"]) == sim.total_cost
        whole = client.embeddings.create(model=MODEL, input=[*TEXTS, TEXTS[0]])
        np.testing.assert_array_equal(np.array([one.embedding for one in whole.data], np.float32)[:3], ours)
        assert whole.usage.prompt_tokens == totals(cache).bought_tokens
        new = client.embeddings.with_raw_response.create(model=MODEL, input="new")
        assert (new.headers["x-or-cache"], len(sent(sim))) == ("miss", 2)
        count = len(sim.requests)
        for wrong in ([], [1, 2], ""):
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model=MODEL, input=wrong)
        for more in ({"messages": []}, {"stream": True}, {"encoding_format": "hex"}):
            with pytest.raises(openai.BadRequestError, match="nothing was sent"):
                client.embeddings.create(model=MODEL, input="newer", extra_body=more)
        with pytest.raises(openai.BadRequestError, match="x-or-cache-max-retries is for completions"):
            client.embeddings.create(
                model=MODEL, input="newer", extra_headers={"X-Or-Cache-Max-Retries": "0"}
            )
        assert len(sim.requests) == count


def test_split__sums_up():
    """Shares are whole units, none is below 0, and they sum up to the last digit."""
    for whole, weights in (
        (Decimal("0.0000007"), [1, 1, 1]),
        (Decimal("3.7e-13"), [5, 7]),
        (Decimal(0), [1, 2]),
    ):
        shares = _split(whole, weights, Decimal("1e-12"))
        assert (sum(shares), len(shares)) == (whole, len(weights))
        assert min(shares) >= 0
