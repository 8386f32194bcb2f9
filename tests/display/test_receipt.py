"""The receipt's words."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from or_cache_magic.core.records import UNKNOWN_COST, Answer, Choice, Cost, Outcome, RequestKey, Usage
from or_cache_magic.display.screen import NotebookScreen, receipt_text

NOW_S = 1_000_000.0
MODEL = "openai/gpt-4o-mini"


def outcome(kind, *, cost="0.0021", model=MODEL, finish="stop", **facts):
    price = UNKNOWN_COST if cost is None else Cost(Decimal(cost), "reported")
    answer = Answer(
        (Choice({"content": "hi"}, finish),), model, usage=Usage(1312, 187), cost=price, elapsed_s=2.4
    )
    return Outcome(kind, RequestKey("0" * 64, b""), answer, **facts)


def hit(**facts):
    return outcome(
        "hit",
        entry_created_s=NOW_S - 2 * 86400,
        paid=Cost(Decimal(0), "reported"),
        saved_usd=Decimal("0.0021"),
        **facts,
    )


def miss(cost="0.0021", **facts):
    paid = UNKNOWN_COST if cost is None else Cost(Decimal(cost), "reported")
    return outcome("miss", cost=cost, paid=paid, elapsed_s=2.4, **facts)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (hit(), f"{MODEL} · cached 2 d ago · saved $0.0021 · 1,312 → 187 tokens"),
        (miss(), f"{MODEL} · $0.0021 · 2.4 s · 1,312 → 187 tokens"),
        (miss(None), f"{MODEL} · cost unknown · 2.4 s · 1,312 → 187 tokens"),
        (miss("0"), f"{MODEL} · $0 · 2.4 s · 1,312 → 187 tokens"),
        (
            miss(not_stored="temperature 0.7"),
            f"{MODEL} · $0.0021 · 2.4 s · 1,312 → 187 tokens · not stored: temperature 0.7",
        ),
        (
            miss(not_stored="the answer was cut (finish reason length)", notes=("truncated", "x")),
            f"{MODEL} · $0.0021 · 2.4 s · 1,312 → 187 tokens · not stored: the answer was cut (finish reason length) · x",
        ),
        (
            miss(notes=("truncated at 187 tokens",)),
            f"{MODEL} · $0.0021 · 2.4 s · 1,312 → 187 tokens · truncated at 187 tokens",
        ),
        (
            outcome("coalesced", elapsed_s=1.0),
            f"{MODEL} · waited for the same ask · 1.0 s · 1,312 → 187 tokens",
        ),
        (
            outcome("replay", entry_created_s=NOW_S - 7200),
            f"{MODEL} · replayed, cached 2 h ago · 1,312 → 187 tokens",
        ),
        (
            outcome("stale", entry_created_s=NOW_S - 7200),
            f"{MODEL} · expired answer, cached 2 h ago · 1,312 → 187 tokens",
        ),
        (
            outcome("similar", entry_created_s=NOW_S - 7200, notes=("NOT the same prompt",)),
            f"{MODEL} · answer to a similar prompt, cached 2 h ago · 1,312 → 187 tokens · NOT the same prompt",
        ),
        (
            outcome("refresh", elapsed_s=0.5, paid=Cost(Decimal("1.239"), "reported")),
            f"{MODEL} · asked again · $1.24 · 0.5 s · 1,312 → 187 tokens",
        ),
    ],
)
def test_receipt_text__live(made, line):
    """A live receipt tells what happened to this ask and its money."""
    assert receipt_text(made, now_s=NOW_S, asked=MODEL) == line


def test_receipt_text__stable_is_the_same_for_hit_and_miss():
    """A stable receipt says the same on every run, on any day."""
    lines = {
        receipt_text(made, style="stable", now_s=now_s, asked=MODEL)
        for made in (hit(), miss(), hit(notes=("volatile",)))
        for now_s in (NOW_S, NOW_S + 1e6)
    }
    assert lines == {f"{MODEL} · $0.0021 · 1,312 → 187 tokens"}


def test_receipt_text__names_another_served_model():
    """The served model is named when it is not the one that was asked for."""
    assert receipt_text(hit(model="openai/x-2024"), now_s=NOW_S, asked=MODEL).startswith(
        f"{MODEL} (served: openai/x-2024) · "
    )


@given(st.text(max_size=60))
def test_receipt__shows_hostile_names_as_text(name):
    """Whatever a model's name holds, the receipt is one emphasised line without markup."""
    sent = []
    NotebookScreen(lambda **message: sent.append(message)).receipt(
        hit(model=f"m{name}<img src=x>[a](javascript:b)")
    )
    (data,) = [message["data"] for message in sent]
    line = data["text/plain"]
    tokens = MarkdownIt("commonmark", {"html": True}).parse(data["text/markdown"])
    parts = [child for token in tokens for child in token.children or ()]
    kinds = {part.type for part in parts if part.content not in ("<span>", "</span>")}
    assert "\x1b" not in line
    assert "\n" not in line
    assert kinds <= {"em_open", "em_close", "text", "text_special"}


@pytest.mark.parametrize(
    ("usage", "end"), [(None, "saved $0.0021"), (Usage(), "saved $0.0021"), (Usage(5), "5 → ? tokens")]
)
def test_receipt_text__counts_what_was_reported(usage, end):
    """A count that was not reported is a question mark, never 0; where none was there is nothing to say."""
    made = hit()
    made = made._replace(answer=made.answer._replace(usage=usage))
    assert receipt_text(made, now_s=NOW_S).rpartition(" · ")[2] == end
