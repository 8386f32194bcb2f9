"""What is said of a table while it is asked: a bar in a terminal, lines in a log, and the bill before."""

from __future__ import annotations

import io
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from or_cache_magic.tables.progress import Progress
from or_cache_magic.tables.requests import Came, Results


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self):
        return True


class Clock:
    """Time that goes by when told to."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def state():
    """Requests of 10 rows: 2 are served, the rest is to be asked."""
    results = Results()
    for number in range(10):
        results.add(str(number))
        results.add_row(number)
    state = SimpleNamespace(results=results, new=8, left=8, waits="")
    for number in range(2):
        results.put(Came(number, "hit", Decimal("0.01"), "text"))
    return state


def ask(state, *numbers, **came):
    for number in numbers:
        state.left -= 1
        state.results.put(Came(number, "miss", Decimal("0.02"), "text")._replace(**came))


def test_progress__in_a_terminal(state, monkeypatch):
    """A bar with hits, what was paid and will be, the rate, the time left, and what is waited for."""
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(state, 10, pytest.fail, shown=True, unit="row", clock=clock) as bar:
        bar.tick()
        assert terminal.getvalue() == ""  # what is done at once shows no bar
        clock.now_s += 1
        bar.tick()
        ask(state, 2, 3)
        ask(state, 4, error="refused", kind="failed", usd=None)
        state.waits = "rate limited, going on in 9 s"
        clock.now_s += 2
        bar.tick()
        shown = terminal.getvalue().rpartition("\r")[2]
    assert "5/10" in shown
    assert (
        "2 cached · 1 failed · paid ≥ $0.04 of about $0.16 · 1.5/s · 3.3 s left · rate limited, going on in 9 s"
        in shown
    )


def test_progress__in_a_log(state):
    """Where no bar can be shown a line every 30 seconds, and at once when something is waited for."""
    told, clock = [], Clock()
    with Progress(state, 10, told.append, shown=True, unit="row", clock=clock) as bar:
        for _ in range(29):
            clock.now_s += 1
            bar.tick()
        assert told == []
        ask(state, 2)
        clock.now_s += 1
        bar.tick()
        assert len(told) == 1
        assert told[0].startswith("3 of 10 rows · 2 cached · paid $0.02 of about $0.16 · ")
        state.waits = "rate limited, going on in 40 s"
        for _ in range(29):
            clock.now_s += 1
            bar.tick()
        assert len(told) == 2
        assert told[1].endswith(" left · rate limited, going on in 40 s")


def test_progress__not_shown(state):
    """Nothing is told where nothing is wanted."""
    clock = Clock()
    with Progress(state, 10, pytest.fail, shown=False, unit="row", clock=clock) as bar:
        clock.now_s += 99
        bar.tick()
