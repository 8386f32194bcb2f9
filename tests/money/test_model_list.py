"""The list of models: fetched whole, kept with what prices were before, searched, and asked what is not there."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal

import pytest

from or_cache_magic.core.records import Request
from or_cache_magic.errors import ConnectionLostError, RequestError, UpstreamError
from or_cache_magic.money.catalog import FRESH_S, PriceCatalog
from or_cache_magic.money.listings import remembering, trimmed
from or_cache_magic.money.model_list import ModelList, usd_per_m
from or_cache_magic.storage.database import open_database

URL = "https://openrouter.test/api/v1"
DAY_S = 86_400.0


def model(name: str, prompt: str = "0.000001", completion: str = "0.000002", **more) -> dict:
    pricing = {"prompt": prompt, "completion": completion, **more.pop("pricing", {})}
    return {
        "id": name,
        "canonical_slug": f"{name}-20260101",
        "name": name.title(),
        "pricing": pricing,
        **more,
    }


LISTED = [
    model("openai/gpt-4o-mini", supported_parameters=["tools", "structured_outputs"]),
    model("openai/gpt-4o", "0.0000025", "0.00001", architecture={"input_modalities": ["text", "image"]}),
    model("meta-llama/llama-3.3-70b-instruct:free", "0", "0"),
    model("perplexity/sonar", "0", "0", pricing={"request": "0.005"}),
    model("openrouter/auto", "-1", "-1"),
]


class Server:
    """Answers what `Gateway.fetch` asks, from a list that tests change; counts, and may be out of reach."""

    def __init__(self) -> None:
        self.listed = list(LISTED)
        self.hidden: list[str] = []
        self.page_size = 1000
        self.asked: list[str] = []
        self.is_reached = self.is_listing = True

    def __call__(self, path, *, base_url, params, needs_key):
        self.asked.append(path)
        assert (base_url, needs_key) == (URL, False)
        if not self.is_reached:
            raise ConnectionLostError("no connection")
        if path == "/models":
            if not self.is_listing:
                raise ConnectionLostError("no connection")
            assert params["output_modalities"] == "all"
            start = int(params.get("offset", 0))
            end = start + self.page_size
            link = f"https://elsewhere.test/x?offset={end}&limit={self.page_size}"
            following = link if end < len(self.listed) else None
            return {"data": self.listed[start:end], "links": {"next": following}}
        name = path.removeprefix("/model/")
        found = [one for one in self.listed if one["id"].partition(":")[0] == name]
        if not found and name not in self.hidden:
            raise UpstreamError("not found", status=404)
        return {"data": found[0] if found else model(name)}


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def database(folder):
    opened = open_database(folder)
    with opened.transaction():
        pass
    with closing(opened):
        yield opened


@pytest.fixture
def book(database, server, clock):
    return PriceCatalog(database, server, clock)


def asks(*models: str) -> Request:
    more = {"models": list(models[1:])} if models[1:] else {}
    return Request({"model": models[0], "messages": [], **more}, base_url=URL)


def every(*items: dict) -> ModelList:
    return ModelList(trimmed(list(items or LISTED)), 0.0)


# -- the list -------------------------------------------------------------------------------------


def test_models__are_fetched_page_by_page_once_a_day_and_kept(book, server, database, clock):
    """Links are followed by their query alone; another kernel finds the list in the file."""
    server.page_size = 2
    assert book.models(URL).ids == tuple(one["id"] for one in LISTED)
    assert server.asked == ["/models"] * 3
    clock.now_s += FRESH_S - 1
    other = PriceCatalog(database, server, clock)
    assert other.models(URL).ids == book.models(URL).ids
    assert len(server.asked) == 3
    clock.now_s += 1
    book.models(URL)
    assert len(server.asked) == 6


def test_models__are_an_old_list_rather_than_none(book, server, clock):
    """Out of reach, or where nothing may be fetched; with its date, and None before the first."""
    server.is_reached = False
    assert book.models(URL) is None
    assert book.models(URL, may_fetch=False) is None
    server.is_reached = True
    clock.now_s += 61
    listed_s = book.models(URL).listed_s
    clock.now_s += 30 * DAY_S
    server.is_reached = False
    assert book.models(URL).listed_s == listed_s == book.models(URL, may_fetch=False).listed_s


def test_models__remember_what_a_price_was(book, server, clock):
    """Until the next change, whatever lists come between; what a server itself says of the past is not read."""
    server.listed[0] = model(
        "openai/gpt-4o-mini", was={"until": 1, "pricing": {"prompt": "9", "completion": "9"}}
    )
    assert book.models(URL).listed[0].was is None
    first_s = clock.now_s
    server.listed[0] = model("openai/gpt-4o-mini", "0.000003")
    for _ in range(2):
        clock.now_s += FRESH_S
        mini, other = book.models(URL).listed[:2]
        assert (mini.was.prompt, mini.was_until_s) == (Decimal("0.000001"), int(first_s))
        assert (mini.price.prompt, other.was) == (Decimal("0.000003"), None)


@pytest.mark.parametrize(
    "pricing",
    [
        {"overrides": [{"utc_start": 1630, "utc_end": 30, "prompt": "0.0000005"}]},
        {"overrides": [{"moon": "full", "prompt": "0.0000005"}]},
        {"prompt": "-1"},
        {"prompt": "dear"},
    ],
)
def test_remembering__says_nothing_where_it_is_not_known(pricing):
    """A rate of the hour, or one below 0, is no price that has changed."""
    before = trimmed([model("a/b")])
    now = trimmed([model("a/b", "0.000005", pricing=pricing)])
    assert "was" not in remembering(now, before, 1.0)["models"][0]
    assert "was" not in remembering(before, now, 1.0)["models"][0]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"text": "GPT openai"}, [0, 1]),
        ({"free": True}, [2]),
        ({"max_price": Decimal(2)}, [0, 2, 3]),
        ({"max_price": Decimal("1.99")}, [2, 3]),
        ({"image": True}, [1]),
        ({"tools": True}, [0]),
        ({"schema": True}, [0]),
        ({"text": "gpt", "free": True}, []),
    ],
)
def test_matching__takes_what_meets_every_condition(conditions, found):
    """A price is at most so much for prompt and answer alike; an unknown one is neither free nor cheap."""
    names = [one.id for one in every().matching(**conditions)]
    assert names == [LISTED[at]["id"] for at in found]


def test_usd_per_m__is_none_where_a_price_is_unknown():
    """A router's, listed below 0; free is 0."""
    prices = [usd_per_m(one) for one in every().listed]
    assert prices == [(1, 2), (Decimal("2.5"), 10), (0, 0), (0, 0), (None, None)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openai/gpt4o-mini", "openai/gpt-4o-mini"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("gpt4o-mini:nitro", "openai/gpt-4o-mini"),
        ("fsat", "fast"),
        ("llama-3.3-70b-instruct", "meta-llama/llama-3.3-70b-instruct:free"),
        ("nobody/nothing", ""),
    ],
)
def test_nearest__finds_what_was_meant(name, meant):
    """By a letter more or less, without its author, among aliases too."""
    assert every().nearest(name, ["fast"]) == meant


# -- a model that is not there --------------------------------------------------------------------


def test_check_models__needs_no_list(book, server):
    """Without one OpenRouter is asked for the model, once a name; only where it has none is the list fetched."""
    for _ in range(2):
        book.check_models(asks("openai/gpt-4o-mini"))
    assert server.asked == ["/model/openai/gpt-4o-mini"]
    for _ in range(2):
        with pytest.raises(RequestError, match="is no model"):
            book.check_models(asks("openai/gpt4o-mini"))
    assert server.asked[1:] == ["/model/openai/gpt4o-mini", "/models"]


@pytest.mark.parametrize(
    "names",
    [
        ["openai/gpt-4o-mini"],
        ["openai/gpt-4o-mini-20260101"],
        ["openai/gpt-4o-mini:nitro"],
        ["meta-llama/llama-3.3-70b-instruct"],
        ["meta-llama/llama-3.3-70b-instruct:free:online"],
        ["openai/gpt4o", "openai/gpt-4o"],
        ["~openai/gpt-latest"],
        ["openrouter/fusion"],
        ["@preset/mine"],
        ["openai/gpt4o@preset/mine"],
        ["qwerty"],
    ],
)
def test_check_models__asks_nothing_about_what_may_be_there(book, server, names):
    """Ids with or without variants, canonical slugs, one of several; aliases, routers and presets anyhow."""
    book.models(URL)
    book.check_models(asks(*names))
    assert server.asked == ["/models"]


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["openai/gpt4o-mini"], "openai/gpt4o-mini is no model of", "did you mean openai/gpt-4o-mini?"),
        (["openai/gpt4o-mini:nitro"], "openai/gpt4o-mini:nitro is no", "did you mean openai/gpt-4o-mini?"),
        (["gpt4o-mini"], "gpt4o-mini is no model of", "did you mean openai/gpt-4o-mini?"),
        (["no/thing"], "no/thing is no model of", "%openrouter_models lists what there is"),
        (["no/thing", "or/that"], "no/thing and or/that are no models", "%openrouter_models"),
    ],
)
def test_check_models__refuses_what_is_not_there(book, names, message, hint):
    """In two lines, with the name that was meant."""
    book.models(URL)
    with pytest.raises(RequestError) as caught:
        book.check_models(asks(*names))
    assert str(caught.value.args[0]).startswith(message)
    assert "(nothing was sent)" in str(caught.value.args[0])
    assert caught.value.hint.startswith(hint)


def test_check_models__asks_whether_a_model_is_newer_than_the_list(book, server):
    """Once: what OpenRouter has, in its list or not, is never refused; what it hasn't is refused from memory."""
    book.models(URL)
    server.hidden.append("openai/gpt-4o-minj")
    for _ in range(3):
        book.check_models(asks("openai/gpt-4o-minj"))
        with pytest.raises(RequestError):
            book.check_models(asks("openai/gpt-4o-mink"))
    assert server.asked == ["/models", "/model/openai/gpt-4o-minj", "/model/openai/gpt-4o-mink"]


def test_check_models__refuses_nothing_where_nobody_says_so(book, server, clock):
    """Out of reach; by a list of more than a week; by a list that is not OpenRouter's."""
    server.is_reached = False
    book.check_models(asks("openai/gpt4o-mini"))
    server.is_reached = True
    book.models(URL, fresh_s=0)
    clock.now_s += 7 * DAY_S + 1
    server.is_listing = False
    book.check_models(asks("openai/gpt4o-mini"))
    server.is_listing = True
    server.listed = [{"id": "gpt-4o-mini"}]
    clock.now_s += 61
    book.check_models(asks("openai/gpt4o-mini"))
    asked = len(server.asked)
    book.check_models(asks("openai/gpt4o-mini"))
    assert len(server.asked) == asked
