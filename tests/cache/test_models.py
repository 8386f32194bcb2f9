"""The models that OpenRouter lists, and asks of models that it doesn't, before anything is sent."""

from __future__ import annotations

import asyncio
import json
import threading

import pandas as pd
import pytest

from or_cache_magic.display.models import MODEL_TYPES
from or_cache_magic.errors import OptionError, RequestError
from or_cache_magic.panels.figures import complete, gather, tiles
from or_cache_magic.panels.static import plain, snapshot
from or_cache_magic.simulator.catalog import MODELS

PROMPT = "What is a median?"
WRONG, MEANT = "openai/gpt4o-mini", "did you mean openai/gpt-4o-mini?"


def test_models__are_a_table_of_plain_numbers(cache):
    """Prices are dollars for a million tokens, 0 where it is free, missing where it is not known."""
    frame = cache.models()
    assert tuple(frame.columns) == tuple(MODEL_TYPES)
    text = str(pd.Series(["x"]).astype("str").dtype)  # "object" up to pandas 2
    expected = {name: text if kind == "str" else kind for name, kind in MODEL_TYPES.items()}
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == expected
    assert list(frame["id"]) == [model.id for model in MODELS]
    by_id = frame.set_index("id")
    pro, free = by_id.loc["google/gemini-2.5-pro"], by_id.loc["mistralai/mistral-small-3.2-24b-instruct:free"]
    assert (pro["prompt_usd_per_m"], pro["completion_usd_per_m"], pro["context"]) == (1.25, 10.0, 1_048_576)
    assert (pro["input_modalities"], pro["max_output"], pro["schema"]) == ("text, image, file", 65_536, True)
    assert (free["prompt_usd_per_m"], str(free["expires"].date())) == (0.0, "2026-12-31")
    auto, sonar = by_id.loc["openrouter/auto"], by_id.loc["perplexity/sonar"]
    assert pd.isna(auto["prompt_usd_per_m"])
    assert pd.isna(pro["expires"])
    assert list(sonar[["tools", "schema"]]) == [False, False]


def test_models__are_shown_with_the_age_of_the_list(cache, clock):
    """In a line below, in every form; an empty table says so."""
    cache.models()
    clock.now_s += 3600 * 5
    shown = cache.models("mistral", free=True)._repr_mimebundle_()
    for text in shown.values():
        assert f"1 of {len(MODELS)} models, as OpenRouter listed them 5 h ago" in text.replace("\n  ", " ")
        assert "mistralai/mistral-small" in text
    assert cache.models("nothing of the kind")._repr_mimebundle_()["text/plain"] == "no model matches"


def test_models__take_conditions(cache):
    """All of them must hold."""
    assert list(cache.models("gpt", max_price=0.6)["id"]) == ["openai/gpt-4o-mini"]
    assert set(cache.models(free=True)["prompt_usd_per_m"]) == {0.0}
    with pytest.raises(OptionError, match="max_price"):
        cache.models(max_price="cheap")


def test_models__offline_are_those_that_are_kept(open_cache, sim):
    """However old; with none kept it says what to do."""
    with pytest.raises(OptionError, match="no list of models is kept, and none may be fetched"):
        open_cache(sim, mode="offline").models()
    assert sim.requests == ()
    online = open_cache(sim)
    online.ask(PROMPT)
    listed = online.models()
    assert open_cache(sim, mode="offline").models().equals(listed)


def test_ask__of_a_model_that_is_not_there_sends_nothing(cache, sim):
    """Once there is a list: from `ask`, refreshed or within a budget, and from `aask`; in the ledger is nothing."""
    cache.models()
    for options in ({}, {"mode": "refresh"}, {"mode": "bypass"}, {"max_cost_usd": 1}):
        with pytest.raises(RequestError, match="nothing was sent") as caught:
            cache.ask(PROMPT, model=WRONG, **options)
        assert caught.value.hint == MEANT
    with pytest.raises(RequestError, match="nothing was sent"):
        cache.money.estimate(cache.prepare(PROMPT, {"model": WRONG}).request)
    with pytest.raises(RequestError) as caught:
        asyncio.run(cache.aask(PROMPT, model=WRONG))
    assert caught.value.hint == MEANT
    assert sim.completion_count == 0
    assert cache.totals()[0].asks == 0


def test_aask__of_a_model_that_is_not_there_says_which_was_meant(cache, sim):
    """In a fresh folder too; nothing is sent."""
    with pytest.raises(RequestError, match="is no model") as caught:
        asyncio.run(cache.aask(PROMPT, model=WRONG))
    assert caught.value.hint == MEANT
    assert sim.completion_count == 0


@pytest.mark.parametrize("expired", [False, True])
def test_ask__of_a_model_that_has_gone_is_served_what_is_stored(open_cache, canned, reply, clock, expired):
    """A hit looks at no list; what is expired is served where the settings say so, as after any failure."""
    said = {
        "id": "gen-1",
        "object": "chat.completion",
        "created": 1,
        "model": "a/gone",
        "system_fingerprint": None,
    }
    said["choices"] = [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    ]
    said["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.01}
    listed = {"data": [{"id": "a/other", "canonical_slug": "a/other"}]}
    parts = [reply(json.dumps(part), "application/json") for part in (said, listed)]
    server = canned(*parts, reply("{}", "application/json", "404 Not Found"))
    cache = open_cache(server, model="a/gone", stale_if_error=True, stream=False)
    bought = cache.ask(PROMPT, ttl="1h")
    cache.models()
    clock.now_s += 7200 if expired else 0
    answer = cache.ask(PROMPT, ttl="1h")
    assert (answer, answer.outcome.kind) == (bought, "stale" if expired else "hit")
    assert len(server.received) == (3 if expired else 2)


def test_stats__tell_what_became_of_models(cache, sim, clock):
    """Below the table and in the panel's figures, from the list that is kept: nothing is fetched for it."""
    free = "mistralai/mistral-small-3.2-24b-instruct:free"
    for model in (free, "~anthropic/claude-opus-latest", "openai/gpt-4o-mini"):
        cache.ask(PROMPT, model=model)
    assert cache.notices() == []
    cache.models()
    asked = len(sim.requests)
    line = f"{free} expires on 2026-12-31, in 364 days: 1 entry of it may be the last."
    assert cache.notices() == [line]
    shown = cache.stats()._repr_mimebundle_()
    assert line in shown["text/html"]
    assert line in " ".join(shown["text/plain"].split())
    assert line not in " ".join(cache.stats(session=True)._repr_mimebundle_()["text/plain"].split())
    (tile,) = [tile for tile in tiles(complete(cache, gather(cache))) if tile.name == "notices"]
    assert (tile.value, tile.notes) == ("1", (line,))
    panel = plain(snapshot(cache))
    assert line in " ".join(panel.split())
    assert max(map(len, panel.splitlines())) < 80
    assert len(sim.requests) == asked


def test_stats__know_a_price_that_changed_and_an_alias_that_moved(open_cache, canned, reply, clock):
    """A list that is kept is fetched again after a call, once it is a day old; what was is kept with it."""
    said = {
        "id": "gen-1",
        "object": "chat.completion",
        "created": 1,
        "model": "a/b-1",
        "system_fingerprint": None,
    }
    said["choices"] = [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    ]
    said["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.01}
    before, after = _list_of("a/b", "0.000001"), _list_of("a/c", "0.000002")
    answer, *lists = [reply(json.dumps(part), "application/json") for part in (said, before, after)]
    server = canned(answer, answer, lists[0], answer, lists[1])
    cache = open_cache(server, model="~a/latest", stream=False)
    cache.ask("one")
    cache.ask("another")
    cache.models()
    clock.now_s += 90_000
    cache.ask("two")
    for thread in threading.enumerate():
        if thread.name == "or-cache-reconcile":
            thread.join()
    line = (
        "~a/latest costs $2.00 for a million tokens of prompt (+100% from $1.00) since 2026-01-01 or later;"
        " 2 entries were bought before."
    )
    assert cache.notices() == [
        "~a/latest stands for a/c now; 3 entries are of a/b-1.",
        line,
    ]
    assert len(server.received) == 5


def _list_of(target: str, prompt: str) -> dict:
    items = [("~a/latest", "~a/latest"), ("a/b", "a/b-1"), ("a/c", "a/c-1")]
    listed = [
        {"id": name, "canonical_slug": slug, "pricing": {"prompt": prompt, "completion": "0"}}
        for name, slug in items
    ]
    listed[0]["alias_target"] = {"slug": target}
    return {"data": listed}
