"""What is said of models that entries were bought of: moved, expiring, at another price; and nothing else."""

from __future__ import annotations

import pytest

from or_cache_magic.money.model_list import ModelList
from or_cache_magic.money.notices import Bought, notices, of_interest

NOW_S = 1_767_268_800.0  # 2026-01-01, noon
DAY_S = 86_400.0


def model(name: str, prompt: str = "0.000001", completion: str = "0.000002", **more) -> dict:
    return {
        "id": name,
        "canonical_slug": f"{name}-1",
        "pricing": {"prompt": prompt, "completion": completion},
        **more,
    }


def was(prompt: str, completion: str) -> dict:
    return {"until": NOW_S - 12 * DAY_S, "pricing": {"prompt": prompt, "completion": completion}}


def said(listed: list[dict], bought: dict[str, list[Bought]]) -> list[str]:
    return notices(ModelList({"models": listed}, NOW_S), bought, NOW_S)


def test_notices__tell_an_alias_that_moved():
    """What it stands for is known by id and by canonical slug; an answer whose model isn't known says nothing."""
    listed = [model("~a/latest", alias_target={"slug": "a/new"}), model("a/new")]
    served = [Bought("a/old-1", 12), Bought("a/new", 3), Bought("a/new-1", 4), Bought("", 5)]
    assert said(listed, {"~a/latest": served}) == [
        "~a/latest stands for a/new now; 12 entries are of a/old-1."
    ]
    assert said(listed, {"~a/latest": served[1:]}) == []
    assert said(listed, {"a/new": [Bought("a/other", 1)]}) == []


@pytest.mark.parametrize(
    ("day", "when"),
    [
        ("2026-01-02", "expires on 2026-01-02, in 1 day"),
        ("2026-03-02T10:00:00Z", "expires on 2026-03-02, in 60 days"),
        ("2026-01-01", "expired on 2026-01-01"),
        ("2025-12-01", "expired on 2025-12-01"),
    ],
)
def test_notices__tell_a_model_that_expires(day, when):
    """With the entries that may not be bought again, whatever answered them and by whatever variant."""
    listed = [model("a/b", expiration_date=day)]
    bought = {"a/b:nitro": [Bought("a/b-1", 2), Bought("", 1)]}
    assert said(listed, bought) == [f"a/b:nitro {when}: 3 entries of it may be the last."]
    assert said(listed, {"a/b": []}) == []


@pytest.mark.parametrize(
    ("now", "before", "line"),
    [
        (
            ("0.000002", "0.000008"),
            ("0.0000025", "0.000008"),
            "$2.00 for a million tokens of prompt (-20% from $2.50)",
        ),
        (
            ("0.000001", "0.000003"),
            ("0.000001", "0.000002"),
            "$3.00 for a million tokens of answer (+50% from $2.00)",
        ),
        (("0.000001", "0"), ("0", "0"), "$1.00 for a million tokens of prompt (from $0)"),
        (
            ("0", "0"),
            ("0.000001", "0.000002"),
            "$0 for a million tokens of prompt (-100% from $1.00) and $0 for a million tokens of answer (-100% from $2.00)",
        ),
    ],
)
def test_notices__tell_a_price_that_changed(now, before, line):
    """By how much, since when, and of how many entries; none that was bought before is no news."""
    listed = [model("a/b", *now, was=was(*before))]
    whole = f"a/b costs {line} since 2025-12-20 or later; 7 entries were bought before."
    assert said(listed, {"a/b": [Bought("a/b-1", 9, 6), Bought("x", 1, 1)]}) == [whole]
    assert said(listed, {"a/b": [Bought("a/b-1", 9)]}) == []


def test_notices__are_few_and_the_weightiest_first():
    """By entries; what is left out is counted."""
    listed = [model(f"a/{n}", expiration_date="2026-02-01") for n in range(9)]
    lines = said(listed, {f"a/{n}": [Bought("", n)] for n in range(9)})
    assert [line.split()[0] for line in lines[:-1]] == ["a/8", "a/7", "a/6", "a/5", "a/4", "a/3"]
    assert lines[-1] == "… and 2 more about models."


def test_of_interest__are_models_that_something_may_be_said_of():
    """So that the entries of others need not be counted."""
    listed = [model("a/b"), model("a/c", expiration_date="2026-02-01"), model("a/d", expiration_date="soon")]
    every = ModelList({"models": listed}, NOW_S)
    assert list(of_interest(every, ["a/b", "a/c", "a/d", "a/e", "a/c:online"])) == ["a/c", "a/c:online"]
