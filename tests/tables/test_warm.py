"""`warm`: filling the completion cache from a list, several at a time, each on its own."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
from decimal import Decimal

import pandas as pd
import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.errors import OptionError, OrCacheError
from or_cache_magic.simulator import Simulator, scenario
from or_cache_magic.tables import warm as lists
from or_cache_magic.tables.warm import COLUMNS

MODEL = "openai/gpt-4o-mini"
FREE = "meta-llama/llama-3.3-70b-instruct:free"
PROMPTS = [f"What is {n}?" for n in range(12)]


@pytest.fixture
def warm(cache):
    """``warm(source, …)`` is the table and the summary."""

    def run(source, **options):
        told = []
        frame = lists.warm(cache, source, tell=told.append, **{"progress": False, **options})
        (summary,) = told
        return frame, summary

    return run


def spent(cache):
    return cache.totals()[0].paid_usd


def test_warm__buys_each_once(warm, cache, sim):
    """Every prompt is asked and kept; the table has a row for each, and asking later is free."""
    frame, summary = warm(PROMPTS)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["kind"]) == ["miss"] * 12
    assert sim.completion_count == 12
    assert [cache.ask(prompt).key for prompt in PROMPTS] == list(frame["key"])
    assert sim.completion_count == 12
    assert math.isclose(frame["cost_usd"].sum(), float(sim.total_cost))
    assert summary.startswith("12 prompts · 0 cached · 12 bought for $0.00")


def test_warm__goes_on_for_free(warm, cache, sim):
    """What is there already is a hit: the same list again costs nothing, a longer one what is new."""
    warm(PROMPTS[:5])
    before = spent(cache)
    frame, summary = warm(PROMPTS[:5])
    assert (set(frame["kind"]), sim.completion_count, spent(cache)) == ({"hit"}, 5, before)
    assert summary == "5 prompts · 5 cached · 0 bought"
    frame, _ = warm(PROMPTS[:7])
    assert list(frame["kind"]) == ["hit"] * 5 + ["miss"] * 2


def test_warm__asks_the_same_once(warm, sim):
    """A prompt that is in the list many times is one request."""
    frame, _ = warm(["same"] * 20)
    assert sim.completion_count == 1
    assert len(set(frame["key"])) == 1
    assert list(frame["kind"]).count("miss") == 1


def test_warm__asks_so_many_at_a_time(cache, sim):
    """No more than `workers` are under way together, and that many are."""
    with sim.hold():
        thread = threading.Thread(
            target=lists.warm, args=(cache, PROMPTS), kwargs={"workers": 3, "progress": False}
        )
        thread.start()
        assert sim.wait_for(lambda rows: sum(row.held for row in rows) == 3)
    thread.join(60)
    assert sim.completion_count == 12


def test_warm__reports_what_fails_and_goes_on(warm, cache, sim):
    """A failing prompt is a row with its error; the others are asked, and running again asks only the failed."""
    sim.script(
        scenario("bad_gateway"), times=3, match=lambda body: body["messages"][-1]["content"] == PROMPTS[4]
    )
    frame, summary = warm([*PROMPTS[:5], " ", 3 * "x"], max_tokens=50)
    assert list(frame["kind"]) == ["miss"] * 4 + ["failed", "failed", "miss"]
    assert "502" in frame["error"][4]
    assert "empty" in frame["error"][5]
    assert list(frame["cost_usd"][4:6]) == [0, 0]
    assert summary.endswith(" · 2 failed")
    frame, _ = warm(PROMPTS[:5], max_tokens=50)
    assert list(frame["kind"]) == ["hit"] * 4 + ["miss"]


@pytest.mark.parametrize("refusal", ["insufficient_credits", "unauthorized", "budget_exceeded"])
def test_warm__stops_sending_when_the_account_is_refused(warm, sim, refusal):
    """Without credits, with a refused key or a used up budget the rest isn't sent: it would be refused as well."""
    warm(PROMPTS[:1])
    sim.clear()
    sim.script(scenario(refusal), times=99)
    frame, _ = warm(PROMPTS, workers=1)
    assert list(frame["kind"]) == ["hit"] + ["failed"] * 11
    assert sim.completion_count == 1
    assert frame["error"].str.startswith("not sent").sum() == 10


def test_warm__goes_on_when_calls_under_way_hold_the_credits(warm, sim):
    """A 402 that passes stops no list: one is waited for, one that lasts too long is its own row's."""
    sim.script(scenario("credits_held", retry_after_s=0), times=1)
    frame, _ = warm(PROMPTS[:2], workers=1)
    assert list(frame["kind"]) == ["miss", "miss"]
    sim.script(scenario("credits_held", retry_after_s=3600), times=1)
    frame, _ = warm(PROMPTS[2:5], workers=1)
    assert list(frame["kind"]) == ["failed", "miss", "miss"]
    assert "402" in frame["error"][0]


def test_warm__says_what_is_not_stored(warm, sim):
    """An answer that was paid for and can't be served again is told."""
    sim.script(scenario("content_filter"), times=1)
    frame, summary = warm(PROMPTS[:2], workers=1)
    assert list(frame["kind"]) == ["miss", "miss"]
    assert frame["error"][0].startswith("not stored: ")
    assert frame["error"][1] == ""
    assert "1 of them not stored" in summary


def test_warm__sends_nothing_that_would_not_be_stored(warm, sim):
    """Above temperature 0 without a sample nothing would be kept, so nothing is bought."""
    frame, _ = warm(PROMPTS[:3], temperature=1)
    assert list(frame["kind"]) == ["failed"] * 3
    assert frame["error"].str.contains("nothing was sent").all()
    frame, _ = warm(PROMPTS[:3], temperature=1, sample=0)
    assert list(frame["kind"]) == ["miss"] * 3
    assert sim.completion_count == 3


def test_warm__lets_a_budget_refuse(warm, sim):
    """`before_send` sees what is about to be sent, not what is cached; what it refuses isn't sent."""
    warm(PROMPTS[:3])
    seen = []

    def budget(request):
        seen.append(request.body["messages"][-1]["content"])
        if len(seen) > 2:
            raise OrCacheError("over budget")

    frame, _ = warm(PROMPTS[:8], workers=1, before_send=budget)
    assert list(frame["kind"]) == ["hit"] * 3 + ["miss"] * 2 + ["failed"] * 3
    assert seen == PROMPTS[3:8]
    assert list(frame["error"][5:]) == ["over budget"] * 3
    assert sim.completion_count == 5


def test_warm__keeps_a_tables_index(warm, sim):
    """A Series or a DataFrame can be joined with what comes back."""
    frame = pd.DataFrame({"prompt": PROMPTS[:3], "label": ["a", "b", "c"]}, index=[7, 3, 5])
    joined = frame.join(warm(frame)[0])
    assert list(joined.index) == [7, 3, 5]
    assert joined["key"].notna().all()
    again, _ = warm(frame["prompt"])
    assert (list(again["kind"]), list(again.index)) == (["hit"] * 3, [7, 3, 5])


# -- sources ----------------------------------------------------------------------------------


def sent(sim):
    return [row.body for row in sim.requests if row.is_completion]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffone\r\n\r\n  two\n"),
        ("p.jsonl", '"one"\n\n{"prompt": "  two"}\n'),
        ("p.csv", 'id,prompt\n1,one\n2,"  two"\n'),
    ],
)
def test_source__is_a_file(warm, sim, tmp_path, name, text):
    """Text, JSON lines and CSV give the same requests; other columns aren't sent."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    warm(str(path), workers=1)
    assert [body["messages"] for body in sent(sim)] == [
        [{"role": "user", "content": "one"}],
        [{"role": "user", "content": "  two"}],
    ]


def test_source__has_whole_requests(warm, cache, sim):
    """An item may have its own model, system prompt, parameters and options; they come before the list's."""
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    warm(
        [
            messages,
            {"messages": messages, "temperature": 0.5, "sample": 1, "max_tokens": None, "tag": ["x", "y"]},
            {"prompt": "d", "model": "openai/gpt-4o", "system": "Be brief."},
        ],
        workers=1,
        system="",
        tag="all",
    )
    plain, own, other = sent(sim)
    assert (plain["messages"], plain["max_tokens"]) == (messages, 4096)
    assert (own["messages"], own["temperature"], own.get("max_tokens")) == (messages, 0.5, None)
    assert other["model"] == "openai/gpt-4o"
    assert other["messages"][0] == {"role": "system", "content": "Be brief."}
    assert set(cache.entries()["tags"]) == {"all", "x, y"}


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("missing.txt", OptionError, "can't be read"),
        ("list.pdf", OptionError, "no list of prompts"),
        ({"prompt": "x"}, OptionError, "a dict is no list"),
        (7, OptionError, "a int is no list"),
        (pd.DataFrame({"text": ["a"]}), OptionError, "no column prompt"),
    ],
)
def test_source__is_refused_before_anything_is_sent(cache, sim, tmp_path, monkeypatch, source, error, says):
    """What can't be read is an error that names the place, and costs nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        lists.warm(cache, source)
    assert sim.completion_count == 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (3, "item 1 is no prompt: 3"),
        (None, "item 1 is no prompt: None"),
        (float("nan"), "item 1 is no prompt: nan"),
        ({"prompt": "a", "messages": []}, "item 1 is no prompt"),
        ({"prompt": "a", "sample": "first"}, "sample = 'first'"),
        ({"prompt": "a", "sample": True}, "sample = True"),
        ({"prompt": "a", "temprature": 1}, "no argument 'temprature'"),
        ({"prompt": "a", "tag": b"x"}, "tag = b'x'"),
        ({"prompt": "a", "max_cost_usd": 1}, "max_cost_usd"),
        ([{"role": "user", "content": object()}], r"messages\[0\].content"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
    ],
)
def test_warm__one_bad_item_fails_alone(cache, sim, bad, says):
    """Its row says why; nothing is sent for it, and the others are asked."""
    frame = lists.warm(cache, ["fine", bad, "too"], progress=False)
    assert list(frame["kind"]) == ["miss", "failed", "miss"]
    assert re.search(says, frame["error"][1])
    assert "nothing was sent" in frame["error"][1]
    assert frame["cost_usd"][1] == 0
    assert sim.completion_count == 2


def test_warm__a_bad_option_of_the_list_is_an_error(cache, sim):
    """Not one in each row."""
    with pytest.raises(OptionError, match="temprature"):
        lists.warm(cache, ["a", "b"], temprature=1)
    assert sim.completion_count == 0


@pytest.mark.parametrize("text", ['{"prompt": "a"}\n{"prompt"', '{"prompt": "a"}\n[]'])
def test_source__names_the_line(cache, tmp_path, text):
    """A line that is no prompt is named by its number, and fails alone."""
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    frame = lists.warm(cache, tmp_path / "p.jsonl", progress=False)
    assert list(frame["kind"]) == ["miss", "failed"]
    assert "line 2" in frame["error"][1]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "8"])
def test_warm__refuses_wrong_workers(cache, workers):
    """It takes a whole number from 1 up."""
    with pytest.raises(OptionError, match="workers"):
        lists.warm(cache, ["a"], workers=workers)


def test_warm__of_nothing_is_an_empty_table(warm):
    """An empty list is no error, and its table has the types of any other."""
    frame, summary = warm([])
    assert (len(frame), frame["cost_usd"].dtype, summary) == (0, "float64", "0 prompts · 0 cached · 0 bought")


# -- the bar, and interrupts ------------------------------------------------------------------


def test_warm__is_quiet_where_no_bar_can_be_shown(cache, capsys):
    """Without a terminal there is no bar, only the summary; without `progress` nothing at all."""
    lists.warm(cache, PROMPTS[:2])
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out.startswith("2 prompts")
    lists.warm(cache, PROMPTS[:2], progress=False)
    assert "".join(capsys.readouterr()) == ""


def test_warm__stops_at_an_interrupt(tmp_path):
    """Ctrl-C ends it at once, says how far it came, keeps what was bought; running again buys the rest."""
    code = (
        "import sys, or_cache_magic as orc\n"
        "orc.warm([f'{n}?' for n in range(20)], workers=2, model='openai/gpt-4o-mini')\n"
    )
    with Simulator() as sim:
        sim.script(
            scenario("stalled"), times=2, match=lambda body: body["messages"][-1]["content"] in ("6?", "7?")
        )
        environ = {
            **os.environ,
            "OPENROUTER_BASE_URL": sim.base_url,
            "OPENROUTER_API_KEY": sim.api_key,
            "OR_CACHE_DIR": str(tmp_path / "c"),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert sim.wait_for(lambda rows: sum(row.is_completion for row in rows) == 8, 180.0)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=180)  # what stalls would be waited for without end
        finally:
            process.kill()
            process.wait()
        assert "KeyboardInterrupt" in err
        assert out.startswith("20 prompts · 0 cached · 6 bought for $")
        assert out.endswith(" · 2 interrupted, and perhaps paid for · 12 not asked: run it again\n")
        assert err.splitlines()[-2:] == [
            "KeyboardInterrupt: the list was interrupted",
            "  run it again: what was bought is kept, and free",
        ]
        assert "httpcore" not in err
        assert sim.wait_for(lambda rows: sum(row.cancelled for row in rows) == 2)
        again = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert again.stdout.startswith("20 prompts · 6 cached · 14 bought")
        assert sim.completion_count == 8 + 14
    with CompletionCache(tmp_path / "c") as cache:
        assert (cache.totals()[0].failed, cache.totals()[0].misses) == (2, 20)
        assert spent(cache) > Decimal(0)


def test_before_send__changes_nothing_of_what_is_sent(cache, sim):
    """It is told what is sent, and can only refuse it."""
    lists.warm(
        cache, ["one"], before_send=lambda r: r.body["messages"][0].update(content="HACK"), progress=False
    )
    assert sim.requests[-1].body["messages"][0]["content"] == "one"
    assert cache.ask("one").cached


def test_source__is_fixed_as_it_is_read(cache, sim):
    """A generator that gives one object again and again, changed meanwhile."""
    item = {"messages": [{"role": "user", "content": ""}]}

    def items():
        for text in ("one", "two"):
            item["messages"][0]["content"] = text
            yield item

    lists.warm(cache, items(), progress=False)
    assert {row.body["messages"][0]["content"] for row in sim.completions} == {"one", "two"}


def test_source__may_be_a_table_of_another_library(cache, sim):
    """Its column prompt, and model, system and tag; missing cells are not given."""
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"prompt": ["a", "b"], "tag": ["t", None], "other": [1, 2]})
    assert list(lists.warm(cache, table, progress=False)["kind"]) == ["miss", "miss"]
    assert list(lists.warm(cache, table["prompt"], progress=False)["kind"]) == ["hit", "hit"]
    with pytest.raises(OptionError, match="lazy table"):
        lists.warm(cache, table.lazy(), progress=False)
    assert set(cache.entries(tag="t")["prompt"]) == {"a"}


# -- limits that its workers share ------------------------------------------------------------


def _limited(
    open_cache, *, rows=60, slow_s=0.02, model=MODEL, tell=lambda _line: None, workers=None, **limits
):
    """Warm so many rows under limits of the server; return the table, the cache and what the server got."""
    with Simulator(**limits) as sim:
        sim.script(scenario("slow", delay_s=slow_s, chunk_delay_s=0), times=10 * rows)
        cache = open_cache(sim)
        prompts = [f"What is {n}?" for n in range(rows)]
        frame = lists.warm(cache, prompts, max_tokens=20, model=model, workers=workers, tell=tell)
        return frame, cache, [row.status for row in sim.requests if row.is_completion]


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({"capacity": 3}, 429),
        ({"capacity": 3, "retry_after_s": 0.05}, 429),
        ({"in_flight_usd": 3 * 20 * Decimal("0.0000006"), "retry_after_s": 0.1}, 402),
        ({"rate_limit_per_minute": 10, "minute_s": 0.5, "workers": 32}, 429),
    ],
    ids=["three at a time", "three at a time, told", "credits held", "ten a minute, told"],
)
def test_warm__loses_no_row_to_a_limit(open_cache, limits, refused):
    """Its workers give way together: every row is answered, once, and few requests are refused."""
    frame, cache, statuses = _limited(open_cache, **limits)
    assert list(frame["kind"]) == ["miss"] * 60
    assert statuses.count(200) == cache.totals()[0].asks == 60
    assert 0 < statuses.count(refused) == len(statuses) - 60 <= 32


def test_warm__stops_where_the_days_free_requests_are_used_up(open_cache):
    """What was answered is kept, nothing is waited for, and the summary says when it goes on."""
    told = []
    free = {"model": FREE, "free_requests_per_minute": None, "free_requests_per_day": 20}
    frame, cache, statuses = _limited(open_cache, **free, workers=4, tell=told.append)
    assert list(frame["kind"]).count("miss") == statuses.count(200) == 20
    assert statuses.count(429) <= 4
    assert cache.totals()[0].asks == len(statuses)
    assert re.search(r"used up: run it again after 20\d\d-\d\d-\d\d 00:00 UTC, in \d+ h \d+ min$", told[-1])


def test_warm__says_what_it_waits_for_and_ends_at_once(cache, sim):
    """While a limit holds all back a line says so; an interrupt then is two lines, and what it cut cost nothing."""
    sim.script(scenario("rate_limited", retry_after_s=3600), times=1)
    told = []

    def interrupt(line):
        told.append(line)
        if "waits" not in told:
            told.append("waits")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        lists.warm(cache, PROMPTS, workers=1, tell=interrupt)
    assert re.fullmatch(r"0 of 12 prompts · paid \$0 · rate limited, going on in 3[56][0-9][0-9] s", told[0])
    assert told[-1] == "12 prompts · 0 cached · 0 bought · 12 not asked: run it again"
    assert str(caught.value).splitlines() == [
        "the list was interrupted",
        "  run it again: what was bought is kept, and free",
    ]
    assert sim.completion_count == 1
    assert lists.warm(cache, PROMPTS[:0], progress=False).empty


def test_pace__concerns_no_hit_and_no_child(cache, sim):
    """While a limit holds back what is sent a stored answer is there at once; a child of a fork begins anew."""
    cache.ask("stored")
    sim.script(scenario("rate_limited", retry_after_s=290), times=1)

    def interrupt(_line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.ask("a", on_wait=interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.ask("b", on_wait=interrupt)
    assert sim.completion_count == 2
    assert cache.ask("stored", on_wait=interrupt).cached
    assert list(lists.warm(cache, ["stored"], progress=False)["kind"]) == ["hit"]
    cache.close()
    cache.renew()  # as in the child of a fork
    assert not cache.ask("a", on_wait=interrupt).cached


def test_warm__tries_no_more_once_a_budget_is_used_up(cache, sim):
    """After some that it has no room for, each tried alone, the others fail without being tried."""
    one = cache.money.estimate(cache.prepare("Say 100", {"max_tokens": 50}).request).high_usd
    tried = []
    frame = lists.warm(
        cache,
        [f"Say {n}" for n in range(100, 400)],
        max_tokens=50,
        max_cost_usd=one * 5,
        workers=4,
        before_send=tried.append,
        progress=False,
    )
    assert sim.completion_count == (frame["kind"] == "miss").sum() >= 5
    assert sim.total_cost <= one * 5
    assert frame["error"].str.contains("max_cost_usd").sum() == 300 - sim.completion_count
    assert len(tried) < 150
