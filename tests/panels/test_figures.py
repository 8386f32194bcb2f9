"""The figures: the tiles are the ledger's sums, the chart draws them, and every form of the panel says the same."""

import re
import time
from decimal import Decimal

import pytest

from or_cache_magic.core.rows import Totals
from or_cache_magic.core.units import format_size, format_usd
from or_cache_magic.panels import panel_text
from or_cache_magic.panels.chart import chart_svg, sparkline
from or_cache_magic.panels.figures import Figures, Moment, breakdown, complete, gather, tiles

from .conftest import DAY_S, UNKNOWN, Text, keep, said, usd

NOTHING = Totals("", *[0] * 9, *[Decimal(0)] * 4, *[0] * 5)


def totals(**sums):
    return NOTHING._replace(**{name: Decimal(v) if name.endswith("_usd") else v for name, v in sums.items()})


def shown(**sums):
    """The tiles of such sums, by name."""
    return {tile.name: tile for tile in tiles(Figures(totals(**sums), False, 3, 4500, None))}


def test_tiles__are_the_sums_of_the_cache(filled):
    """Entries, hit rate, paid and saved are what the store and the ledger say."""
    (t,) = filled.totals()
    entries, hits, paid, saved = tiles(complete(filled, gather(filled)))
    assert entries.value == "40"
    assert entries.notes == (f"{format_size(filled.store.listing.size_bytes())} of 2 GB",)
    assert hits.value == f"{t.hits / (t.hits + t.misses):.0%}"
    assert hits.notes[0] == f"{t.hits:,} of {t.hits + t.misses:,} asks"
    assert hits.notes[2] == f"at best {t.hits / (t.hits + 40):.0%}: 40 of {t.hits + t.misses} asks were new"
    assert paid.value == f"≥ {format_usd(t.paid_usd)}"
    assert paid.notes == (f"{t.unpriced} of {t.asks} unpriced", f"{format_usd(t.paid_usd)} reported")
    assert saved.value == f"≥ {format_usd(t.saved_usd)}"


def test_tiles__of_an_empty_cache_divide_by_nothing(cache):
    """Before the first ask there is no rate, and nothing was paid."""
    entries, hits, paid, saved = tiles(complete(cache, gather(cache)))
    assert [tile.value for tile in (entries, hits, paid, saved)] == ["0", "-", "$0", "$0"]
    assert hits.notes == ("0 of 0 asks",)


def test_tiles__tell_the_sources_of_what_was_paid():
    """Reported is what is neither settled nor estimated, and together they are what was paid."""
    paid = shown(paid_usd="1.75", settled_usd="0.50", estimated_usd="0.25")["paid"]
    assert paid.value == "$1.75"
    assert paid.notes == ("$1.00 reported", "$0.50 settled", "$0.25 estimated")


@pytest.mark.parametrize(
    ("sums", "note"),
    [
        ({"saved_usd": "1", "prompt_cache_saved_usd": "0.5"}, "$1.50 net: prompt caching +$0.50"),
        ({"saved_usd": "1", "prompt_cache_saved_usd": "-0.25"}, "$0.75 net: prompt caching -$0.25"),
        ({"saved_usd": "0", "prompt_cache_saved_usd": "-0.25"}, "-$0.25 net: prompt caching -$0.25"),
        ({"prompt_cache_unpriced": 1}, "prompt caching unknown in 1 call"),
        ({"coalesced": 1, "coalesced_usd": "0.10", "unpriced": 1}, "besides: ≥ $0.10 coalesced (1)"),
        (
            {"saved_usd": "1", "shared_hits": 2, "shared_saved_usd": "0.40"},
            "$0.40 of it by the team (2 hits)",
        ),
        ({"coalesced": 3, "coalesced_usd": "0.10"}, "besides: $0.10 coalesced (3)"),
        ({"replays": 1, "replayed_usd": "0.20"}, "besides: $0.20 replayed (1)"),
        ({"stale": 2}, "besides: 2 expired answers served when a call failed"),
        ({"similar": 1}, "besides: 1 similar answer served"),
    ],
)
def test_tiles__keep_apart_what_is_no_plain_saving(sums, note):
    """Prompt caching, the team's share, and what avoided no call of its own have lines of their own."""
    saved = shown(**sums)["saved"]
    assert saved.notes == (note,)
    assert saved.value == ("≥ " if "unpriced" in sums else "") + format_usd(Decimal(sums.get("saved_usd", 0)))


def test_tiles__do_not_say_at_least_where_it_may_be_less():
    """What is not known of prompt caching may be a loss: the net is about, not at least."""
    saved = shown(saved_usd="1", prompt_cache_saved_usd="0.5", prompt_cache_unpriced=2, unpriced=1)["saved"]
    assert saved.notes == ("≈ $1.50 net: prompt caching +$0.50", "prompt caching unknown in 2 calls")


def test_tiles__name_no_best_rate_that_is_exceeded(cache):
    """Answers that others bought, or an earlier session, can bring more hits than these asks alone."""
    figures = Figures(totals(hits=3, misses=1), False, 0, 0, None)
    assert "at best 75%: 1 of 4 asks were new" in tiles(figures._replace(asked=1))[1].notes
    assert not any("at best" in note for note in tiles(figures._replace(asked=2))[1].notes)


def test_tiles__warn_of_a_quota():
    """Over the quota the tile says what helps."""
    tile = tiles(Figures(NOTHING, False, 3, 4500, 4000))[0]
    assert tile.notes == ("4.5 KB of 4 KB", "over the quota: %openrouter_purge --to-fit 4KB")


def test_tiles__of_a_session_leave_others_out(filled, open_cache, sim):
    """This session counts its own asks; the entries are everybody's."""
    other = open_cache(sim)
    entries, hits, paid, _ = tiles(gather(other, session=True))
    assert (entries.value, hits.value, paid.value) == ("40", "-", "$0")
    assert tiles(gather(other))[2] == tiles(gather(filled))[2]


def test_breakdown__shows_eight_groups_and_counts_the_others(cache):
    """Most asks first; days the newest first; sums with an unknown part are marked."""
    for i in range(10):
        keep(cache, f"{i}", model=f"m/{i}", cost=UNKNOWN if i == 0 else usd("0.01"), age_s=i * DAY_S)
    by_model = breakdown(cache, "model")
    assert len(by_model.rows) == 8
    assert by_model.more == 2
    assert by_model.rows[0] == ("m/0", "1", "0%", "≥ $0", "≥ $0")
    days = [row[0] for row in breakdown(cache, "day").rows]
    assert days == sorted(days, reverse=True)
    assert breakdown(cache, "tag").rows[0][0] == "(none)"


# -- the chart --------------------------------------------------------------------------------


def timeline(*sums, step_s=DAY_S):
    start_s = time.mktime((2026, 3, 2, 0, 0, 0, 0, 0, -1))
    return [
        Moment(start_s + i * step_s, totals(saved_usd=saved, hits=hits, misses=misses))
        for i, (saved, hits, misses) in enumerate(sums)
    ]


def points(svg, kind):
    """The points of every line of a class."""
    runs = re.findall(rf'<poly\w+ class="{kind}" points="([^"]*)"', svg)
    return [[tuple(map(float, place.split(","))) for place in run.split()] for run in runs]


def test_chart__adds_up_and_ends_at_the_whole():
    """The area only rises, is nought at the bottom, and its last point is all that was saved, at the top."""
    svg = chart_svg(timeline(("0", 0, 4), ("1", 1, 1), ("0", 0, 1), ("3", 3, 1)))
    (line,) = points(svg, "orc-saved")
    assert [y for _, y in line] == [120, 92.5, 92.5, 10]
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    (rates,) = points(svg, "orc-rate")
    assert [y for _, y in rates] == [120, 65, 120, 37.5]
    assert "Saved $4.00 in all" in str(Text(svg))
    assert "hit rate ended at 75%" in str(Text(svg))
    assert 'role="img"' in svg


def test_chart__of_one_hour_is_level():
    """A single stretch of time is as wide as the chart, at what was saved, and at one hit rate."""
    svg = chart_svg(timeline(("2", 1, 3)))
    (line,) = points(svg, "orc-saved")
    (rates,) = points(svg, "orc-rate")
    assert [y for _, y in line] == [10, 10]
    assert line[0][0] < line[1][0]
    assert [y for _, y in rates] == [92.5, 92.5]
    assert svg.count("2026-03-02 00:00</text>") == 1


def test_chart__stands_in_time():
    """A week without asks is as wide as a week, and level: nothing is saved, and nothing hits in it."""
    few = timeline(("1", 1, 1), ("1", 0, 0), ("1", 1, 1))
    svg = chart_svg([few[0], few[1]._replace(start_s=few[0].start_s + 6 * DAY_S), few[2]._replace(start_s=few[0].start_s + 7 * DAY_S)])  # fmt: skip
    (line,) = points(svg, "orc-saved")
    days = [(x - line[0][0]) / (line[-1][0] - line[0][0]) * 7 for x, _ in line]
    assert days == pytest.approx([0, 5, 6, 7], abs=0.01)
    assert [y for _, y in line] == pytest.approx([83.3, 83.3, 46.7, 10], abs=0.1)
    assert len(points(svg, "orc-rate")) == 2


@pytest.mark.parametrize("step_s", [DAY_S, 3600.0])
def test_chart__is_level_in_idle_time(step_s):
    """Between two stretches with asks, days or hours apart, the line stays where it was."""
    made = timeline(*[("1", 1, 1)] * 3, step_s=step_s)
    made[2] = made[2]._replace(start_s=made[2].start_s + 3 * step_s)
    (line,) = points(chart_svg(made), "orc-saved")
    assert [y for _, y in line] == pytest.approx([83.3, 46.7, 46.7, 10], abs=0.1)
    assert len(points(chart_svg(made), "orc-rate")) == 2


def test_chart__of_many_days_is_small_and_exact():
    """Years of days are put together, and what they come to stays the same."""
    svg = chart_svg(timeline(*[("0.5", 1, 1)] * 1000))
    (line,) = points(svg, "orc-saved")
    assert len(line) <= 120
    assert len(svg) < 6000
    assert line[-1][1] == 10
    assert "Saved $500.00 in all" in str(Text(svg))


def test_chart__names_hours_within_two_days():
    """What is by the hour says so."""
    assert "2026-03-02 01:00" in str(Text(chart_svg(timeline(("1", 1, 0), ("1", 1, 0), step_s=3600.0))))


@pytest.mark.parametrize("sums", [[], [("0", 0, 1)], [("0", 0, 0), ("0", 0, 0)], [("1", 1, 0)]])
def test_chart__of_little_is_no_error(sums):
    """Nothing, one day, no savings: no division by nothing."""
    svg = chart_svg(timeline(*sums))
    assert bool(svg) == bool(sums)
    assert "nan" not in svg
    assert sparkline(timeline(*sums)) == ""


def test_sparkline__rises_to_the_whole():
    """A row of bars, the last one full."""
    assert sparkline(timeline(("0", 0, 1), ("1", 1, 1), ("1", 1, 1))) == "▁▄█"
    assert len(sparkline(timeline(*[("1", 1, 1)] * 500))) <= 32


# -- one truth --------------------------------------------------------------------------------


def test_forms__say_the_same_figures(filled, panel):
    """The widget, the saved notebook's Markdown and the terminal's text have the same figures, to the letter."""
    bundle = panel._repr_mimebundle_()
    plain, markdown = bundle["text/plain"], bundle["text/markdown"]
    widget = said(panel.face.tiles)
    as_markdown = re.sub(r"(?:<span>)?&#(\d+);(?:</span>)?", lambda code: chr(int(code[1])), markdown)
    assert plain == panel_text(filled) == repr(panel)
    for tile in tiles(complete(filled, gather(filled))):
        for figure in (tile.value, *tile.notes):
            assert figure in widget
            assert figure in as_markdown
            assert figure in plain
    for row in breakdown(filled, "model").rows:
        for cell in row:
            assert cell in said(panel.face.groups)
            assert cell in as_markdown
            assert cell in plain


def test_forms__follow_what_is_set(panel):
    """What is counted and grouped on screen is what is written down."""
    panel.face.scope.value = True
    panel.face.by.value = "tag"
    bundle = panel._repr_mimebundle_()
    assert "this session" in bundle["text/plain"]
    assert "this session" in bundle["text/markdown"]
    assert "| tag | asks |" in bundle["text/markdown"]


def test_bundle__is_fit_to_be_saved(panel):
    """The widget, Markdown and text: no style or drawing that a sanitiser would spill, and no links."""
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/markdown", "text/plain"}
    apart = bundle["text/markdown"].replace("<span>&#36;</span>", "$")
    assert not re.search(r"<(?!br>)|style=|http|!\[", apart)


def test_text__fits_a_terminal(cache, monkeypatch):
    """Whatever its names and prompts are, no line is longer than a terminal is wide."""
    monkeypatch.setenv("COLUMNS", "80")
    keep(
        cache,
        "A long prompt " * 20,
        model="a-vendor/a-model-with-a-very-long-name-indeed-2026",
        cost=usd("0.00000123"),
    )
    keep(cache, "p", model="m/x", cost=UNKNOWN, hits=2)
    lines = panel_text(cache).splitlines()
    assert max(map(len, lines)) < 80
    assert any("A long prompt" in line for line in lines)


def test_text__of_an_empty_cache(cache):
    """Before the first ask the terminal shows nought of everything, and makes no folder."""
    text = panel_text(cache)
    assert "entries   0" in text
    assert not cache.directory.exists()
