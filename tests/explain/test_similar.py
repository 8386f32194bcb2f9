"""A stored answer to a prompt that asks the same in other letters: found, suggested, served, and counted."""

from __future__ import annotations

import pytest

from or_cache_magic.explain.similar import OVERHEAD, serve, similar, suggestion

STORED, ASKED = "What is a median?", "What's a median"


@pytest.fixture
def prepare(cache, clock):
    """``prepare(prompt, option=…)`` is an ask, a minute after what came before."""

    def prepared(prompt=ASKED, /, **options):
        clock.now_s += 60
        return cache.prepare(prompt, {}, **options)

    return prepared


def test_similar__is_the_answer_to_a_prompt_that_asks_the_same(cache, prepare):
    """With its own key, what it answers, and how alike the letters are; of several the one most alike."""
    bought = cache.ask(STORED)
    cache.ask("What is a median? ")
    cache.ask("What is a mode?")
    found = similar(cache, prepare("What is a median").request, least=0)
    assert (found.entry.key.digest, found.prompt, found.shown) == (bought.key, STORED, "0.96")
    assert found.request.body["messages"][-1]["content"] == STORED
    assert similar(cache, prepare("What is a median").request, least=0.98) is None
    assert similar(cache, prepare("What is a mean?").request, least=0) is None


@pytest.mark.parametrize(
    "other",
    [
        {"model": "openai/gpt-4o"},
        {"system": "Be brief."},
        {"temperature": 0, "top_p": 0.5},
        {"max_tokens": 5},
        {"sample": 1},
        {"attach": b"some text"},
        {"extra": {"anything": 1}},
        {"schema": "name str"},
    ],
)
def test_similar__is_the_same_in_all_but_the_prompt(cache, prepare, other):
    """Whatever else of the request differs, nothing is similar; where nothing does, it is found."""
    cache.ask(STORED)
    assert similar(cache, cache.prepare(ASKED, other).request, least=0) is None
    assert similar(cache, prepare().request, least=0) is not None


def test_similar__attachments_are_the_same_bytes(cache, prepare, png):
    """Large media, which sketches and candidates leave empty, is compared whole."""
    cache.ask(STORED, attach=png(1))
    assert similar(cache, prepare(attach=png(2)).request, least=0) is None
    assert similar(cache, prepare(attach=png(1)).request, least=0) is not None


@pytest.fixture
def png():
    """``png(seed)`` is a picture of some 12 KB, of another content for each seed."""
    import io
    import random

    from PIL import Image

    def made(seed):
        file = io.BytesIO()
        Image.frombytes("RGB", (64, 64), random.Random(seed).randbytes(64 * 64 * 3)).save(file, "PNG")
        return file.getvalue()

    return made


def test_similar__of_a_conversation_has_the_same_history(cache, prepare):
    """The last message alone may differ: another turn before it is another question."""
    first, other = cache.ask("Name a number."), cache.ask("Name a letter.")
    first.reply(STORED)
    assert similar(cache, prepare(reply_to=other).request, least=0) is None
    assert similar(cache, prepare(reply_to=first).request, least=0) is not None
    assert (
        similar(cache, cache.prepare([{"role": "assistant", "content": ASKED}], {}).request, least=0) is None
    )


def test_similar__expired_is_not_found(cache, prepare, clock):
    """What is not served to its own prompt is not served to another."""
    cache.ask(STORED, ttl=100)
    assert similar(cache, prepare().request, least=0) is not None
    clock.now_s += 100
    assert similar(cache, prepare().request, least=0) is None


def test_serve__gives_the_answer_and_counts_it_as_its_own_kind(cache, prepare, sim):
    """It says what it is; nothing is paid, saved or stored, and neither entry nor hit rate know of it."""
    bought = cache.ask(STORED)
    calls, ask = sim.completion_count, prepare()
    outcome = serve(cache, ask, 0.8)
    assert (outcome.kind, outcome.key.digest, outcome.answer.text) == ("similar", bought.key, str(bought))
    assert (outcome.paid.usd, outcome.saved_usd, outcome.served) == (0, 0, True)
    assert outcome.notes[0] == f"NOT the same prompt: 0.87-similar by letters to {bought.key[:10]} ({STORED})"
    assert sim.completion_count == calls
    (totals,) = cache.totals()
    assert (totals.asks, totals.similar, totals.hits, totals.misses) == (2, 1, 0, 1)
    assert (totals.paid_usd, totals.saved_usd, totals.unpriced) == (bought.cost_usd, 0, 0)
    assert cache.store.entry(ask.key.digest) is None
    assert list(cache.entries()["hits"]) == [0]
    assert cache.why().key == ask.key.digest


def test_serve__leaves_a_hit_to_the_cache(cache, prepare):
    """The answer to the very prompt comes first, and counts as a hit."""
    cache.ask(STORED)
    cache.ask(ASKED)
    assert serve(cache, prepare(), 0.8) is None


@pytest.mark.parametrize("options", [{"mode": "refresh"}, {"mode": "bypass"}, {"temperature": 0.7}])
def test_serve__never_where_another_answer_is_wanted(cache, prepare, options):
    """Not for ``refresh`` or ``bypass``, nor above temperature 0, where each ask is to get its own."""
    cache.ask(STORED, temperature=options.get("temperature", 0), sample=0)
    assert serve(cache, cache.prepare(ASKED, options), 0) is None
    assert suggestion(cache, cache.prepare(ASKED, options)) == ""


def test_serve__offline(cache, prepare, sim):
    """What is stored may be served without a key or a socket."""
    cache.ask(STORED)
    calls = sim.completion_count
    assert serve(cache, prepare(mode="offline"), 0.8).kind == "similar"
    assert sim.completion_count == calls


def test_ask__never_serves_what_is_similar(open_cache, sim):
    """Whatever the setting says: `ask`, `map` and the clients buy the answer to what was asked."""
    cache = open_cache(sim, similar="lexical")
    cache.ask(STORED)
    assert cache.ask(ASKED).outcome.kind == "miss"
    assert cache.map(["What is a median"], "{{ row }}", progress=False)[0].outcome.kind == "miss"
    assert cache.client().chat.completions.create(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "Please, what is a median?"}]
    )
    assert sim.completion_count == 4


def test_key__knows_neither_the_setting_nor_the_option(open_cache, sim, tmp_path):
    """What is similar is no part of what is asked."""
    keys = {
        open_cache(sim, directory=tmp_path / how, similar=how, similar_embed="a/b").prepare(STORED, {}).key
        for how in ("off", "lexical", "semantic")
    }
    assert len(keys) == 1


# By vectors


def test_similar__by_vectors_of_the_users_function(open_cache, sim):
    """The cosine decides which is most alike, and never what the guard refuses; only the candidates are given."""
    given = []

    def embed(texts):
        given.append(texts)
        return [[1.0, float(text == "What's a median?"), 0.0] for text in texts]

    cache = open_cache(sim, similar="semantic", similar_embed=embed)
    cache.ask("What is a mode?")
    near, other = cache.ask("Please, what is a median?"), cache.ask("What's a median?")
    ask = cache.prepare("What is a median?", {})
    assert serve(cache, ask, 0.9).key.digest == near.key
    assert sorted(given[0]) == ["Please, what is a median?", "What is a median?", "What's a median?"]
    assert serve(cache, cache.prepare("What\u2019s a median?", {}), 0.9).key.digest in (near.key, other.key)
    assert suggestion(cache, ask) == "asked 0.99-similar just now: %openrouter_why"


@pytest.mark.parametrize(
    "embed",
    [lambda texts: [[1.0]], lambda texts: [["x"]] * len(texts), lambda texts: 1 / 0, lambda texts: None],
)
def test_similar__a_function_that_fails_leaves_the_ask_as_it_was(open_cache, sim, embed):
    """What went wrong is told in a line, and the prompt is asked."""
    cache = open_cache(sim, similar="semantic", similar_embed=embed)
    cache.ask(STORED)
    ask = cache.prepare(ASKED, {})
    assert serve(cache, ask, 0.5) is None
    (told,) = cache.database.pop_notices()
    assert told.startswith("similar prompts were not looked for: ")
    assert suggestion(cache, ask).startswith("similar prompts were not looked for: ")


def test_similar__by_vectors_of_a_model_is_overhead_in_the_ledger(open_cache, sim):
    """They are bought once, with a label; the last ask that was not served stays the user's."""
    cache = open_cache(sim, similar="semantic")
    cache.ask("What is a mode?")
    bought, ask = cache.ask(STORED), cache.prepare(ASKED, {})
    last = cache.last_unserved
    for _ in range(2):
        suggestion(cache, ask)  # what the simulator's vectors make of it is its own affair
        assert cache.last_unserved == last
    label = {totals.group: totals for totals in cache.totals("tag")}[OVERHEAD]
    assert (label.misses, label.hits) == (2, 2)
    assert label.paid_usd > 0
    assert bought.key == cache.last_unserved[0].key.digest
    assert cache.stats(by="tag").set_index("tag").loc[OVERHEAD, "paid_usd"] > 0


def test_why__names_what_is_similar(open_cache, sim):
    """Where the setting is on: which prompt, how alike, and what serves it; in the sense of the receipt."""
    cache = open_cache(sim, similar="lexical")
    bought = cache.ask(STORED)
    cache.ask(ASKED)
    line = f"asked 0.87-similar just now: {bought.key[:10]} ({STORED}); --similar 0.87 on the cell serves it"
    assert line in str(cache.why()).splitlines()
