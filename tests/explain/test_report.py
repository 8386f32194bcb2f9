"""The report of a notebook: the ledger's sums, each fact with its key, and strangers' texts letter for letter."""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic import cli
from or_cache_magic.core.policy import why_not_stored
from or_cache_magic.core.records import (
    FREE,
    MADE_CALL,
    SOURCES,
    UNKNOWN_COST,
    Answer,
    AskKind,
    Choice,
    Cost,
    Request,
)
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.errors import OptionError, UpstreamError
from or_cache_magic.explain.report_facts import facts_of, group_of, shared_texts
from or_cache_magic.simulator import Scenario, scenario

MODEL = "openai/gpt-4o-mini"
PAPER = "paper/label.ipynb"


@pytest.fixture
def paper(open_cache, sim):
    """A cache whose asks come from a notebook."""
    return open_cache(sim, notebook=PAPER)


def section(report, title):
    """What stands below a heading of a report's Markdown."""
    return re.search(rf"(?ms)^## {title}\n\n(.*?)(?=^##? |\Z)", report.markdown)[1]


def table(report, title, at=0):
    """The rows of a section's table, as tuples of texts."""
    tables = re.findall(r"(?m)(?:^\|.*\n?)+", section(report, title))
    return [tuple(re.split(r" \| ", row.strip("| \n"))) for row in tables[at].splitlines()[2:]]


def everything(cache, sim, clock):
    """Asks of every kind: hits, samples, a reply, a schema, a refused and an unfit answer, without the cache, failed."""
    for n in range(3):
        clock.now_s += 60
        cache.ask(f"Is review {n} spam?", system="You label reviews.")
        cache.ask(f"Is review {n} spam?", system="You label reviews.")
    cache.ask("Name a colour.", temperature=1, sample=0)
    cache.ask("Name a colour.", temperature=1, sample=1)
    cache.ask("What is a median?", model="openai/gpt-4o").reply("And a mode?")
    cache.ask("Name a book.", schema="title str, year int?")
    cache.ask("Read.", attach=[b"a,b\n1,2\n"])
    sim.script(scenario("unfit", stubborn=True), times=1)
    cache.ask("Name a book, too.", schema="title str, year int")
    sim.script(Scenario(finish_reason="content_filter"), times=1)
    cache.ask("Something else.")
    cache.ask("Name a city.", mode="bypass")
    cache.embed(["one"], model="openai/text-embedding-3-small")


def test_report__sums_are_the_ledgers(paper, sim, clock):
    """Asks, calls, hits, tokens and dollars are those of the statistics, to the last digit."""
    everything(paper, sim, clock)
    report, (totals,) = paper.report(), paper.ledger.totals()
    assert facts_of(paper, "").totals == totals
    assert totals.calls == 13
    runs = dict(table(report, "Number of runs"))
    assert runs == {
        "call: nothing was stored for the request": str(totals.misses),
        "call: asked without the cache": str(totals.bypasses),
        "no call: served from the cache": str(totals.hits),
        "all": str(totals.asks),
    }
    cost = table(report, "Cost")
    assert [(row[0], row[1], Decimal(row[2])) for row in cost] == [
        ("reported by the reply", "13", totals.paid_usd),
        ("all calls", "13", totals.paid_usd),
    ]
    assert f"had cost USD {totals.saved_usd.normalize():f};" in section(report, "Cost")
    rows = [row for row in paper.ledger.rows() if row.kind in MADE_CALL]
    sent, received = (table(report, "Tokens")[at][1] for at in (0, 1))
    assert (int(sent), int(received)) == (
        sum(row.prompt_tokens for row in rows),
        sum(row.completion_tokens for row in rows),
    )
    asks, calls, hits = (sum(int(row[at]) for row in table(report, "Models and dates")) for at in (3, 4, 6))
    assert (asks, calls, hits) == (totals.asks, totals.calls, totals.hits)


def test_report__names_models_parameters_prompts_and_exclusions(paper, sim, clock):
    """What a methods section needs is there, each with the key by which it is found."""
    everything(paper, sim, clock)
    report = paper.report()
    served = table(report, "Models and dates", 1)
    assert [row[:4] for row in served] == [
        ("openai/gpt-4o", "openai/gpt-4o", "OpenAI", "2"),
        (MODEL, MODEL, "OpenAI", "9"),
        ("openai/text-embedding-3-small", "openai/text-embedding-3-small", "OpenAI", "1"),
    ]
    assert served[1][4:6] == ("2026-01-01 12:01", "2026-01-01 12:03")
    assert "max&#95;tokens=4096, temperature=1" in section(report, "Parameters")
    assert (
        "12 different requests with 11 different prompts and 1 different system prompt, 9 without any."
        in (section(report, "Prompts"))
    )
    assert "the most samples of one are 2" in section(report, "Prompts")
    excluded = table(report, "Exclusions")
    assert [row[:3] for row in excluded] == [
        ("not as asked", "the answer does not fit its JSON schema", "1"),
        ("refused", "the answer was filtered", "1"),
    ]
    assert "12 answers were kept, of which 10 are served" in section(report, "Exclusions")
    shared = "3 prompts differ only where […] stands; the first is {}:\n\n```text\nIs review […] spam?\n```"
    assert (
        shared.format(paper.ask("Is review 0 spam?", system="You label reviews.").key[:10]) in report.markdown
    )
    assert "Of 1 request of the ledger the request and its answer are not in the cache" in report.markdown
    keys = {row.key[:10] for row in paper.ledger.rows()}
    named = set(re.findall(r"\b[0-9a-f]{10}\b", report.markdown))
    assert named == keys
    supplement = report.markdown.partition("# Supplement")[2]
    assert "```text\nYou label reviews.\n```" in supplement
    assert "[user]\nWhat is a median?\n\n[assistant]\n" in supplement
    assert '"required": ["title", "year"]' in supplement


def test_report__same_cache_same_bytes(paper, open_cache, sim, clock, tmp_path):
    """Whenever, whoever and however often it is asked for; an imported pack tells the same of its answers."""
    everything(paper, sim, clock)
    first = paper.report()
    paper.close()
    clock.now_s += 1e6
    other = open_cache(sim)
    assert open_cache(sim, notebook=PAPER, api_key=None).report() == first
    assert other.report("label").markdown == first.markdown
    assert other.report(format="latex").latex == other.report().latex
    saved = first.save(tmp_path / "methods.tex"), first.save(str(tmp_path / "methods.md"))
    assert [path.read_text() for path in saved] == [first.latex, first.markdown]


@pytest.mark.parametrize("notebook", [PAPER, "paper/*"])
def test_report__has_the_digest_of_the_pack(paper, sim, clock, tmp_path, notebook):
    """An export of the report's keys is a file of that SHA-256."""
    everything(paper, sim, clock)
    report, pack = paper.report(notebook), tmp_path / "p.jsonl"
    paper.export(pack, *report.keys)
    assert hashlib.sha256(pack.read_bytes()).hexdigest() == report.pack_sha256
    assert report.pack_sha256 in report.latex
    assert "10 entries and 0 kept as history" in report.markdown


def test_report__of_the_folder_has_the_digest_of_all(cache, sim, clock, tmp_path):
    """Without a notebook it is the folder's, with the answers of which none is served."""
    everything(cache, sim, clock)
    cache.export(tmp_path / "p.jsonl")
    digest = hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()
    assert cache.report().pack_sha256 == digest
    assert "10 entries and 2 kept as history" in cache.report().markdown
    assert cache.report("*") == cache.report()


def test_report__is_of_one_notebook(paper, open_cache, sim):
    """Other notebooks' asks are not in it; an entry that another one bought is, without its price."""
    cache = open_cache(sim, notebook="other.ipynb")
    bought = cache.ask("What is a median?")
    paper.ask("What is a median?")
    paper.ask("What is a mode?")
    cache.close()
    report = paper.report()
    assert dict(table(report, "Number of runs"))["all"] == "2"
    assert "1 kept answer was of requests of which no call is recorded here" in section(report, "Cost")
    assert f"They had cost USD {bought.cost_usd.normalize():f}," in section(report, "Cost")
    assert bought.key in report.keys
    assert dict(table(paper.report("other.ipynb"), "Number of runs"))["all"] == "1"
    assert dict(table(paper.report("*"), "Number of runs"))["all"] == "3"
    assert paper.report(paper.directory.parent / PAPER) == report
    assert repr(report) == "<report of paper/label.ipynb: 2 entries>"
    for name, says in (
        ("labels.ipynb", "did you mean paper/label.ipynb"),
        ("x", "it knows other.ipynb, paper/label.ipynb"),
    ):
        with pytest.raises(OptionError, match="the ledger has no notebook") as refused:
            paper.report(name)
        assert says in str(refused.value)


def test_report__unknown_is_never_nothing(open_cache, canned, reply):
    """A call whose cost and tokens nobody told is unknown in every table, and a sum with it is at least that."""
    chunk = '{"id":"gen-1","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    body = chunk + '"message":{"role":"assistant","content":"A value."}}]}'
    server = canned(reply(body, "application/json"))
    cache = open_cache(server, stream=False, notebook=PAPER)
    cache.ask("What is a median?")
    report = cache.report()
    assert table(report, "Cost")[0][:3] == ("unknown", "1", "unknown")
    assert table(report, "Cost")[-1][:3] == ("all calls", "1", "unknown")
    assert table(report, "Tokens")[0] == ("sent", "unknown", "0", "1")
    assert table(report, "Models and dates", 1)[0][:3] == (MODEL, "unknown", "unknown")


def test_report__counts_failed_calls(paper, sim):
    """A call whose answer was cut is a failed call, and what came is an exclusion."""
    sim.script(scenario("cut", how="reset"), times=10)
    with pytest.raises(UpstreamError):
        paper.ask("What is a median?")
    report = paper.report()
    assert report.pack_sha256 == ""
    assert "is unknown: no answer is kept that is served." in report.markdown
    assert dict(table(report, "Number of runs"))["call: brought no answer"] == "1"
    assert table(report, "Exclusions")[0][:3] == ("cut", "the answer was cut off", "1")
    assert "1 call failed" in section(report, "Exclusions")


def test_report__says_until_when_answers_are_served(paper, clock):
    """Whether one has expired depends on when one looks; until when it is served does not."""
    paper.ask("What is a median?", ttl="1d")
    told, later = paper.report(), "2026-01-02 12:00"
    assert f"1 is only served until they expire, the first at {later}, the last at {later}." in told.markdown
    clock.now_s += 1e6
    assert paper.report() == told


@given(
    st.lists(
        st.tuples(
            st.sampled_from(get_args(AskKind)),
            st.sampled_from(["a.ipynb", "b.ipynb"]),
            st.integers(1, 5),
            st.sampled_from(
                [UNKNOWN_COST, *(Cost(Decimal("0.1") / 3, source) for source in SOURCES - {"unknown"})]
            ),
            st.none() | st.integers(0, 1000),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_report__sums_are_the_ledgers_whatever_is_in_it(open_cache, sim, asks):
    """Any rows: the whole is the ledger's, the notebooks' tables add up to it, and unknown is never 0."""
    cache = open_cache(sim, directory=":memory:")
    with cache.database.transaction():
        for number, (kind, notebook, count, paid, tokens) in enumerate(asks):
            cost = paid if kind in MADE_CALL else FREE
            usd = None if cost.usd is None else round(cost.usd, 12)
            cache.ledger.record(
                LedgerRow(
                    1e9 + number, "s", notebook, f"{number:064x}", MODEL, kind, count, cost._replace(usd=usd), usd,
                    (), tokens, tokens,
                )
            )  # fmt: skip
    (totals,) = cache.ledger.totals()
    assert facts_of(cache, "").totals == totals
    runs = [int(row[1]) for row in table(cache.report(), "Number of runs")]
    assert sum(runs[:-1]) == runs[-1] == totals.asks
    parts = [cache.report(name) for name in {notebook for _, notebook, *_ in asks}]
    assert sum(int(table(part, "Number of runs")[-1][1]) for part in parts) == totals.asks
    told = [row for part in parts for row in table(part, "Cost")[:-1]]
    assert sum(int(row[1]) for row in told) == totals.calls
    assert sum(Decimal(row[2]) for row in told if row[0] != "unknown") == totals.paid_usd
    assert {row[2] for row in told if row[0] == "unknown"} <= {"unknown"}
    assert all(
        ("≥" in row[2] or row[2] == "unknown") == any(one[0] == "unknown" for one in table(part, "Cost"))
        for part in parts
        for row in table(part, "Cost")[-1:]
    )
    cache.close()


@given(st.lists(st.text("ab ", max_size=30), max_size=8), st.text(max_size=10), st.text(max_size=10))
def test_shared_texts__are_in_each_of_the_prompts(between, begins, ends):
    """What is said to be shared is, however it may overlap; prompts of one template are one group."""
    prompts = [f"{begins}{one}{ends}" for one in between]
    found = list(shared_texts(prompts))
    for one in found:
        assert len(one.prompts) >= 3
        for prompt in one.prompts:
            assert prompt.startswith(one.begins)
            assert prompt.endswith(one.ends)
            assert len(one.begins) + len(one.ends) <= len(prompt)
    grouped = [prompt for one in found for prompt in one.prompts]
    assert sorted(grouped) == sorted(set(grouped))
    if len(begins) >= 8 and len(set(prompts)) >= 3:
        assert sorted(grouped) == sorted(set(prompts))


def test_report__nothing_asked(cache):
    """There is nothing to report before the first ask, and no third format."""
    with pytest.raises(OptionError, match="nothing was asked yet"):
        cache.report()
    with pytest.raises(OptionError, match="write 'markdown' or 'latex'"):
        cache.report(format="html")


def test_report__hides_secrets(paper):
    """Tokens and passwords of prompts stand in no report, and why there is no pack is said."""
    told = "hf_" + "0123456789abcdef", "hunter2"
    for secret in ("Is {} a token?", "Connect to postgres://me:{}@db/x", "The password: {}"):
        for one in told:
            paper.ask(secret.format(one))
    report = paper.report()
    assert "Is … a token?" in report.markdown
    assert told[0] not in report.markdown + report.latex
    assert set(re.findall(".*hunter2.*", report.markdown)) == {"Is hunter2 a token?"}
    assert re.search(
        "is unknown: what looks like a key, a token or a password stands in 5 requests", report.latex
    )
    assert report.pack_sha256 == ""


@pytest.mark.parametrize(
    ("choice", "group"),
    [
        (Choice({"content": None, "refusal": "No."}, "stop"), "refused"),
        (Choice({"content": "No."}, "content_filter"), "refused"),
        (Choice({"content": "A"}, "length"), "cut"),
        (Choice({"content": "A"}, "weird"), "cut"),
        (Choice({"content": "A"}, "stop", "MALFORMED_FUNCTION_CALL"), "cut"),
        (Choice({"content": "A"}, "stop", error={"code": 500}), "failed"),
        (Choice({"content": "A"}, "stop"), "not as asked"),
    ],
)
def test_report__groups_the_reasons_of_the_policy(choice, group):
    """What the policy gives as a reason has its word."""
    request = Request({"messages": [], "response_format": {"type": "json_object"}})
    assert group_of(why_not_stored(request, Answer((choice,)))) == group


def test_report__shows_only_the_beginning_of_a_long_one(paper):
    """A notebook shows 50 rows and quotes; the file has all."""
    for n in range(60):
        paper.ask(f"Is review {n} spam?")
    report = paper.report()
    shown = report._repr_markdown_()
    assert "… and 10 more …" in shown
    assert "Is review 59 spam?" in report.markdown
    assert shown.endswith("It goes on: its save(path) writes all of it into a file.\n")


def test_report__from_a_shell(paper, capsys, monkeypatch):
    """`or-cache report` prints it, of a notebook or the folder."""
    paper.ask("What is a median?")
    report = paper.report()
    paper.close()
    monkeypatch.chdir(paper.directory.parent)
    assert cli.main(["report", "label.ipynb"]) == 0
    assert capsys.readouterr().out == report.markdown
    assert cli.main(["report", "--format", "latex", "--dir", str(paper.directory)]) == 0
    assert "all notebooks and scripts of its folder" in capsys.readouterr().out
    assert cli.main(["report", "nowhere.ipynb"]) == 1
