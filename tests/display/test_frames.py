"""The tables that others build on: their columns, their types, what is not known, and how they are shown."""

from __future__ import annotations

import copy
import math
import pickle
import re
import time
from decimal import Decimal
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from markdown_it import MarkdownIt
from nbconvert.filters import clean_html

from or_cache_magic.core.records import Cost
from or_cache_magic.core.rows import EntryRow, Totals
from or_cache_magic.core.units import format_length, format_share
from or_cache_magic.display.entries import ENTRY_TYPES
from or_cache_magic.display.frames import ShownFrame, entries_frame, frame_text, stats_frame
from or_cache_magic.display.stats import STAT_TYPES, best_hit_rate, stat_notes

ROW = EntryRow("ab" * 32, 1_767_268_800.5, "m/x", "P", "prompt", "answer", 3, None, Cost(Decimal("0.01"), "reported"), 2,
               Decimal("0.02"), 1_767_268_900.0, 1_767_268_860.5, ("a", "b"), 99, "n.ipynb")  # fmt: skip
BARE = ROW._replace(
    cost=Cost(None, "unknown"), saved_usd=None, last_hit_s=None, expires_s=None, tags=(), hits=0
)


def totals(**counts):
    kinds = (
        "asks",
        "hits",
        "misses",
        "refreshes",
        "bypasses",
        "coalesced",
        "replays",
        "stale",
        "failed",
        "unpriced",
    )
    sums = ("prompt_tokens", "completion_tokens", "hit_tokens", "bought_tokens")
    money = ("paid_usd", "saved_usd", "coalesced_usd", "replayed_usd")
    zeros = dict.fromkeys((*kinds, *sums), 0) | dict.fromkeys(money, Decimal(0)) | {"group": ""}
    return Totals(**(zeros | counts))


@pytest.fixture
def local_time(monkeypatch):
    """``local_time("Asia/Kolkata")`` is this process's time zone, for the test."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_entry_columns__are_those_of_the_design():
    """Notebooks are written against these names and their order."""
    assert tuple(ENTRY_TYPES) == (
        "key", "created", "model", "provider", "prompt", "answer", "prompt_tokens", "completion_tokens", "cost_usd",
        "cost_source", "hits", "saved_usd", "last_hit", "ttl_s", "tags", "size_bytes", "notebook",
    )  # fmt: skip


def test_stat_columns__are_those_of_the_design():
    """The same for the statistics."""
    assert tuple(STAT_TYPES) == (
        "asks", "calls", "hits", "misses", "hit_rate", "hit_rate_tokens", "hit_rate_usd", "paid_usd",
        "saved_usd", "prompt_cache_saved_usd", "unpriced", "prompt_tokens", "completion_tokens",
    )  # fmt: skip


def test_entries_frame__shows_plain_values():
    """Numbers, times in UTC, labels as text."""
    (row,) = entries_frame([ROW]).to_dict("records")
    assert (row["cost_usd"], row["saved_usd"], row["ttl_s"], row["tags"]) == (0.01, 0.02, 60.0, "a, b")
    assert row["created"].isoformat() == "2026-01-01T12:00:00.500000+00:00"
    assert row["last_hit"].isoformat() == "2026-01-01T12:01:40+00:00"


def test_entries_frame__shows_the_unknown_as_missing():
    """An unknown cost is not zero, and a lifetime without end is no number."""
    frame = entries_frame([BARE])
    assert frame["completion_tokens"].isna().all()
    (row,) = frame.to_dict("records")
    assert math.isnan(row["cost_usd"])
    assert math.isnan(row["saved_usd"])
    assert math.isnan(row["ttl_s"])
    assert str(row["last_hit"]) == "NaT"


@pytest.mark.parametrize("rows", [[], [BARE], [ROW, BARE]], ids=len)
def test_entries_frame__has_the_same_types_whatever_its_rows(rows):
    """Code that works on a full cache works on an empty one."""
    assert entries_frame(rows).dtypes.to_dict() == entries_frame([ROW]).dtypes.to_dict()


def test_stats_frame__has_three_hit_rates():
    """Requests, tokens and dollars; asks that neither hit nor missed are in none."""
    counts = totals(
        asks=10,
        hits=3,
        misses=1,
        bypasses=6,
        paid_usd=Decimal("0.04"),
        saved_usd=Decimal("0.01"),
        hit_tokens=1,
        bought_tokens=3,
    )
    (row,) = stats_frame([counts]).to_dict("records")
    assert (row["hit_rate"], row["hit_rate_usd"], row["hit_rate_tokens"]) == (0.75, 0.2, 0.25)


def test_stats_frame__divides_by_nothing():
    """Where nothing was asked there is no rate."""
    (row,) = stats_frame([totals()]).to_dict("records")
    assert all(
        math.isnan(row[name])
        for name in ("hit_rate", "hit_rate_tokens", "hit_rate_usd", "prompt_cache_saved_usd")
    )
    assert row["paid_usd"] == 0


def test_stats_frame__puts_the_group_first():
    """Also where there is no group."""
    frame = stats_frame([totals(group="m/x"), totals(group="m/y")], "model")
    assert list(frame["model"]) == ["m/x", "m/y"]
    empty = stats_frame([], "model")
    assert tuple(empty.columns) == ("model", *STAT_TYPES)
    assert empty.dtypes.to_dict() == frame.dtypes.to_dict()


# -- as they are shown --------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></tr></table><style>*{display:none}</style>",
    "$x$ and \\(y\\) and \\[z\\] and \\begin{a}\\href{javascript:alert(1)}{b}\\end{a}",
    "a | b\n|---|\n`c` *d* [e](javascript:alert(1)) ![f](http://evil/?q=1)",
    "\x1b[31mred\x1b[0m \u202e",
    "x" * 400,
]
TAGS = {"div", "table", "tr", "td", "b", "span"}
MARKDOWN_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p", "br", "span"}
WHOLE = totals(
    asks=41, hits=20, misses=10, refreshes=3, bypasses=2, coalesced=1, replays=2, stale=1, failed=2, unpriced=3, similar=1,
    paid_usd=Decimal("1.24"), settled_usd=Decimal("0.2"), estimated_usd=Decimal("0.04"), saved_usd=Decimal("2.5"),
    coalesced_usd=Decimal("0.01"), replayed_usd=Decimal("0.0021"), shared_hits=4, shared_saved_usd=Decimal("0.5"),
    prompt_cache_saved_usd=Decimal("0.3"), prompt_tokens=1_312_345, completion_tokens=9, hit_tokens=1, bought_tokens=3,
)  # fmt: skip


class Page(HTMLParser):
    """What a browser finds in HTML: the tags, their attributes, the cells' texts, all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.runs: list[str] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.runs.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data.replace("\xa0", " ")

    @property
    def titles(self) -> list[str]:
        return [attrs["title"] for _, attrs in self.tags if "title" in attrs]


def shown(frame) -> dict[str, str]:
    """What IPython makes of a value, by MIME type."""
    data, _ = DisplayFormatter().format(frame)
    return data


def markdown_page(frame) -> Page:
    """The Markdown of a frame, as GitHub's dialect renders it, raw HTML passed on."""
    return Page(
        MarkdownIt("commonmark", {"html": True}).enable("table").render(shown(frame)["text/markdown"])
    )


def many(count: int) -> list[EntryRow]:
    return [ROW._replace(key=f"{n:064x}", prompt=f"prompt {n}") for n in range(count)]


def test_shown__numbers_stay_plain():
    """What is formatted on display is a number within."""
    frame = stats_frame([WHOLE])
    assert frame.loc[0, "hit_rate"] == 20 / 30
    assert frame["paid_usd"].sum() == 1.24
    assert "67%" in shown(frame)["text/html"]
    assert entries_frame([ROW])["cost_usd"].mean() == 0.01


@pytest.mark.parametrize(
    "derived",
    [
        lambda f: f.copy(),
        lambda f: f.head(1),
        lambda f: f[["hits"]],
        lambda f: f[f["hits"] >= 0],
        lambda f: f.sort_values("hits"),
        lambda f: pd.concat([f, f]),
        lambda f: f.groupby("hits", as_index=False).sum(numeric_only=True),
        lambda f: f.merge(f, on="hits"),
        lambda f: pickle.loads(pickle.dumps(f)),
        copy.copy,
        copy.deepcopy,
    ],
)
@pytest.mark.parametrize(
    "frame", [stats_frame([WHOLE]), entries_frame([ROW, BARE])], ids=["stats", "entries"]
)
def test_shown__what_is_made_of_it_is_plain_pandas(frame, derived):
    """A selection, a copy and a pickle are pandas' own, with the same values; nobody needs this package for them."""
    made = derived(frame)
    assert type(made) is pd.DataFrame
    plain = derived(pd.DataFrame(frame))
    pd.testing.assert_frame_equal(made, plain)
    assert repr(made) == repr(plain)


def test_shown__is_plain_where_ipython_is_not():
    """A script that prints it gets pandas' own table, and so does a file."""
    frame = entries_frame([ROW, BARE])
    assert type(frame) is ShownFrame
    assert str(frame) == str(pd.DataFrame(frame))
    assert frame.to_html() == pd.DataFrame(frame).to_html()


def test_shown__equals_the_plain_one():
    """A frame is its values."""
    frame = entries_frame([ROW, BARE])
    assert frame.equals(pd.DataFrame(frame))
    assert frame.to_csv() == pd.DataFrame(frame).to_csv()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.insert(0, "new", 1),
        lambda f: f.drop(columns="hits", inplace=True),
        lambda f: f.rename(columns={"hits": "served"}, inplace=True),
        lambda f: f.__setitem__("hits", "many"),
    ],
)
@pytest.mark.parametrize("rows", [(stats_frame, WHOLE), (entries_frame, ROW)], ids=["stats", "entries"])
def test_shown__changed_in_place_it_looks_like_pandas(rows, change):
    """Whatever was done to it is shown, as pandas shows it."""
    make, row = rows
    frame = make([row])
    change(frame)
    plain = pd.DataFrame(frame)
    assert repr(frame) == repr(plain)
    assert shown(frame) == {"text/plain": repr(plain), "text/html": plain._repr_html_()}
    assert frame_text(frame) == repr(plain)


def test_shown__sorted_in_place_it_keeps_its_look():
    """The order is the reader's."""
    frame = entries_frame(many(3))
    frame.sort_values("prompt", ascending=False, inplace=True)
    assert [row[2] for row in Page(shown(frame)["text/html"]).rows[1:]] == ["m/x"] * 3
    assert [row[3] for row in Page(shown(frame)["text/html"]).rows[1:]] == [
        "prompt 2",
        "prompt 1",
        "prompt 0",
    ]


def test_shown__the_same_figures_everywhere():
    """HTML, Markdown and text say the same."""
    for frame in (
        stats_frame([WHOLE, totals()], "model", whole=WHOLE, distinct=9),
        entries_frame([ROW, BARE]),
    ):
        page, text = Page(shown(frame)["text/html"]), frame_text(frame)
        assert page.rows == markdown_page(frame).rows
        assert len({len(row) for row in page.rows}) == 1
        words = " ".join(text.split())
        for note in "".join(page.runs).replace("\xa0", " ").strip().splitlines()[-2:]:
            assert note in words
    one = stats_frame([WHOLE])
    for name, value in zip(STAT_TYPES, Page(shown(one)["text/html"]).rows[1], strict=True):
        assert re.search(rf"^{name} +{re.escape(value)}$", frame_text(one), re.MULTILINE)


def test_shown__statistics():
    """Percentages, dollars as the receipt writes them, thousands; a sum that lacks something says so."""
    (head, row) = Page(shown(stats_frame([WHOLE._replace(group="m/x")], "model"))["text/html"]).rows
    assert dict(zip(head, row, strict=True)) == {
        "model": "m/x", "asks": "41", "calls": "17", "hits": "20", "misses": "10", "hit rate": "67%", "of tokens": "25%",
        "of dollars": "≈ 67%", "paid": "≥ $1.24", "saved": "≥ $2.50", "prompt caching": "$0.30", "unpriced": "3",
        "tokens in": "1,312,345", "tokens out": "9",
    }  # fmt: skip


def test_shown__headings_say_what_they_mean():
    """Each short heading has the column's own name, and each of the hit rates its definition."""
    tags = Page(shown(stats_frame([WHOLE]))["text/html"]).tags
    heads = [attrs["title"] for _, attrs in tags if attrs.get("role") == "columnheader"]
    assert [title.partition(":")[0] for title in heads] == list(STAT_TYPES)
    assert "hit_rate: of requests: hits / (hits + misses)" in heads
    assert "hit_rate_usd: saved / (saved + paid)" in heads


def test_shown__entries(local_time):
    """Short in the cells, exact in the titles; a source is named where the reply did not say the price."""
    local_time("Asia/Kolkata")
    priced = [ROW._replace(cost=Cost(Decimal("0.0000123"), source)) for source in ("generation", "estimated")]
    page = Page(shown(entries_frame([ROW, BARE, *priced]))["text/html"])
    head, first, bare, settled, estimated = page.rows
    cells = dict(zip(head, first, strict=True))
    assert (cells["key"], cells["tokens"], cells["cost"], cells["ttl"]) == (
        "ab" * 5,
        "3 → ?",
        "$0.01",
        "1 min, expired",
    )
    assert (cells["tags"], cells["size"], cells["saved"]) == ("a, b", "99 B", "$0.02")
    assert cells["created"] in ("2026-01-01", "01-01 17:30")
    assert {"ab" * 32, "m/x, served by P", "0.01 reported", "2026-01-01 17:30:00.500+05:30"} <= set(
        page.titles
    )
    at = head.index("cost")
    assert (bare[at], settled[at], estimated[at]) == ("unknown", "$0.000012 settled", "$0.000012 estimated")
    assert "0.0000123 generation" in page.titles
    assert bare[head.index("saved")] == "-"


def test_shown__columns_that_say_nothing_are_left_out():
    """Without labels, lifetimes and a second notebook their columns only take room; the frame has them."""
    head = Page(shown(entries_frame([BARE, BARE]))["text/html"]).rows[0]
    assert not {"tags", "ttl", "notebook"} & set(head)
    two = Page(shown(entries_frame([ROW, BARE._replace(notebook="other.ipynb")]))["text/html"]).rows[0]
    assert {"tags", "ttl", "notebook"} < set(two)


@pytest.mark.parametrize("text", HOSTILE)
def test_shown__hostile_texts_are_texts(text: str):
    """No text of a stranger is markup, mathematics, a column or a line, in any of the three forms."""
    row = ROW._replace(prompt=text, answer=text, model=text, provider=text, tags=(text,), notebook=text)
    tagged = WHOLE._replace(group=text)
    for frame in (entries_frame([row, BARE]), stats_frame([tagged], "tag", whole=WHOLE)):
        pages = [Page(shown(frame)["text/html"]), markdown_page(frame)]
        for page, tags in zip(pages, (TAGS, MARKDOWN_TAGS), strict=True):
            assert {tag for tag, _ in page.tags} <= tags
            assert {name for _, attrs in page.tags for name in attrs} <= {
                "style",
                "title",
                "border",
                "class",
                "role",
            }
            assert all(run in ("$", "\\") or not {"$", "\\"} & set(run) for run in page.runs)
            assert len({len(row) for row in page.rows}) == 1
        assert pages[0].rows == pages[1].rows
        assert "\x1b" not in shown(frame)["text/html"] + shown(frame)["text/markdown"] + frame_text(frame)


@pytest.mark.parametrize(
    "frame", [stats_frame([WHOLE], distinct=9), entries_frame([ROW, BARE])], ids=["stats", "entries"]
)
def test_shown__nothing_that_a_sanitiser_spills(frame):
    """Sanitised as nbconvert does it, no style and no tag of ours is left standing as text: only its own."""
    before, after = Page(shown(frame)["text/html"]), Page(clean_html(shown(frame)["text/html"]))
    assert after.rows == before.rows
    assert (
        "".join(after.runs).replace("<tbody>", "").replace("</tbody>", "").split()
        == "".join(before.runs).split()
    )


def test_shown__long_words_do_not_widen_the_page():
    """A word that no browser breaks by itself may be broken anywhere."""
    page = Page(shown(entries_frame([ROW._replace(prompt="x" * 400)]))["text/html"])
    (style,) = [a["style"] for tag, a in page.tags if tag == "td" and "anywhere" in (a.get("style") or "")]
    assert "overflow-wrap: anywhere" in style


@pytest.mark.parametrize(
    ("option", "value", "count", "kept"),
    [
        ("display.max_rows", 60, 60, 60),
        ("display.max_rows", 60, 61, 10),
        ("display.max_rows", 4, 61, 4),
        ("display.max_rows", None, 61, 61),
        ("display.min_rows", 5, 61, 4),
        ("display.min_rows", None, 61, 60),
    ],
)
def test_shown__long_frames_are_cut_as_pandas_cuts_them(
    option: str, value: int | None, count: int, kept: int
):
    """The rows that pandas would show; how many are left out stands between."""
    with pd.option_context(option, value):
        frame = entries_frame(many(count))
        rows = Page(shown(frame)["text/html"]).rows[1:]
        pandas_rows = pd.DataFrame(frame)._repr_html_().count("<tr>")
    left_out = f"… and {count - kept:,} more …"
    cut = [] if kept == count else [left_out]
    assert [row[0] for row in rows if len(row) == 1] == cut
    assert len(rows) == pandas_rows == kept + len(cut)
    assert (rows[0][3], rows[-1][3]) == ("prompt 0", f"prompt {count - 1}")


def test_shown__a_terminal_lists_the_newest():
    """The oldest of many entries would scroll the newest away."""
    texts = frame_text(entries_frame(many(25))).partition("\n\n")[0].splitlines()
    assert len(texts) == 1 + 20 + 1
    assert texts[1].endswith("prompt 0")
    assert texts[-1] == "… and 5 more …"


def test_shown__pandas_options_hold():
    """The width of texts, and whether a notebook gets HTML at all, are pandas' settings."""
    frame = entries_frame([ROW._replace(prompt="word " * 90)])
    with pd.option_context("display.max_colwidth", 20):
        assert len(Page(shown(frame)["text/html"]).rows[1][3]) <= 20
    with pd.option_context("display.max_colwidth", None):
        assert Page(shown(frame)["text/html"]).rows[1][3] == ("word " * 90).strip()
    with pd.option_context("display.notebook_repr_html", False):
        assert shown(frame) == {"text/plain": repr(frame)}


def test_shown__nothing():
    """Without rows there is a sentence instead of a heading."""
    assert frame_text(entries_frame([])) == "no entries"
    assert frame_text(stats_frame([], "tag")) == "nothing asked yet"
    assert Page(shown(entries_frame([]))["text/html"]).runs == ["no entries"]


def test_shown__fits_a_terminal():
    """Whatever the model, group and prompt: 80 columns."""
    wide = "a-model-with-a-name-that-is-far-too-long-for-any-terminal/" + "x" * 60
    row = ROW._replace(model=wide, prompt="y" * 300, cost=Cost(Decimal("0.0000123"), "estimated"))
    for frame in (
        entries_frame([row]),
        stats_frame([WHOLE._replace(group=wide)], "model", whole=WHOLE, distinct=9),
    ):
        assert max(map(len, frame_text(frame).splitlines())) < 80


# -- days ---------------------------------------------------------------------------------------


def test_stats_frame__days_are_times_in_their_order():
    """A day is a date, the oldest first, so that it can be an axis; it is shown as a day."""
    frame = stats_frame([totals(group="2026-03-02", asks=9), totals(group="2025-12-31", asks=1)], "day")
    assert frame["day"].tolist() == [pd.Timestamp("2025-12-31"), pd.Timestamp("2026-03-02")]
    assert frame.set_index("day")["asks"].resample("MS").sum().tolist() == [1, 0, 0, 9]
    assert [row[0] for row in Page(shown(frame)["text/html"]).rows] == ["day", "2025-12-31", "2026-03-02"]
    empty = stats_frame([], "day")
    assert empty.dtypes.to_dict() == frame.dtypes.to_dict()


# -- below the statistics -----------------------------------------------------------------------


def test_notes__tell_what_the_columns_leave_out():
    """Where the dollars come from, what is saved in all, what neither hit nor missed, the best hit rate."""
    assert stat_notes(WHOLE, 9)[:4] == [
        "Paid ≥ $1.24: $1.00 reported, $0.20 settled afterwards, $0.04 estimated; 3 of 41 asks unpriced.",
        "Net saved ≥ $2.80: ≥ $2.50 by hits ($0.50 of it by the team), $0.30 by prompt caching.",
        (
            "Neither hit nor miss: 3 refreshed, 2 bypassed, 1 coalesced (worth ≥ $0.01), 2 replayed"
            " (worth ≥ $0.0021), 1 stale, 1 similar, 2 failed."
        ),
        "At best 70%: 9 of 30 asks were new.",
    ]


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ({"paid_usd": Decimal("0.5")}, "Paid $0.50, all reported."),
        ({"paid_usd": Decimal("0.5"), "settled_usd": Decimal("0.5")}, "Paid $0.50, all settled afterwards."),
        ({}, "Paid $0."),
        ({"unpriced": 1}, "Paid ≥ $0; 1 of 2 asks unpriced."),
        ({"saved_usd": Decimal("0.5")}, "Saved $0.50 by hits."),
        (
            {"saved_usd": Decimal("0.5"), "prompt_cache_saved_usd": Decimal("-0.1")},
            "Net saved $0.40: $0.50 by hits, -$0.10 by prompt caching (writing to it cost more than was read).",
        ),
        (
            {"prompt_cache_saved_usd": Decimal("0.1"), "prompt_cache_unpriced": 2},
            "Net saved ≈ $0.10: $0 by hits, $0.10 by prompt caching, not counting 2 calls of which that isn't known.",
        ),
        ({"prompt_cache_unpriced": 1}, "Saved $0 by hits; what prompt caching saved in 1 call isn't known."),
    ],
)
def test_notes__are_true_where_something_is_unknown_or_lost(counts: dict, note: str):
    """A loss is a loss, a lower bound is one, and what isn't known is not counted as nothing."""
    assert note in stat_notes(totals(asks=2, **counts))


def test_notes__of_nothing():
    """Before the first ask there is nothing to tell."""
    assert stat_notes(totals(), 0) == []
    assert stat_notes(totals(asks=1, failed=1), 0)[-2].startswith("Neither hit nor miss: 1 failed")


@given(asks=st.lists(st.integers(0, 5), min_size=1))
def test_best_hit_rate__is_reached_by_a_cache_that_keeps_everything(asks: list[int]):
    """Served from what was asked before, the hit rate is exactly the best."""
    seen: set[int] = set()
    hits = sum(key in seen or seen.add(key) is not None for key in asks)
    t = totals(asks=len(asks), hits=hits, misses=len(asks) - hits)
    assert best_hit_rate(t, len(set(asks))) == hits / len(asks)


@given(part=st.integers(0, 10**6), rest=st.integers(0, 10**6))
def test_format_share__says_all_or_nothing_only_of_all_or_nothing(part: int, rest: int):
    """199 of 200 is no 100%."""
    if part + rest == 0:
        return
    shown = format_share(part / (part + rest))
    assert (shown == "100%") == (rest == 0)
    assert (shown == "0%") == (part == 0)


@pytest.mark.parametrize(
    ("length_s", "shown"),
    [
        (None, "-"),
        (0.001, "0.001 s"),
        (90, "90 s"),
        (60, "1 min"),
        (5400, "90 min"),
        (86400, "1 d"),
        (2592000, "30 d"),
    ],
)
def test_format_length(length_s: float | None, shown: str):
    """In the largest unit that makes it whole."""
    assert format_length(length_s) == shown
