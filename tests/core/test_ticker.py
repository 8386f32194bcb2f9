"""One thread looks after many calls, each for as long as it lasts."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from or_cache_magic.core.ticker import Ticker


def test_calling__calls_all_from_one_thread():
    """Every call that is under way is looked after, and by one thread."""
    ticker, seen, names = Ticker(0.001, "looker"), [threading.Event() for _ in range(5)], set()

    def look(event):
        names.add((threading.get_ident(), threading.current_thread().name))
        event.set()

    with ExitStack() as calls:
        for event in seen:
            calls.enter_context(ticker.calling(lambda event=event: look(event)))
        assert all(event.wait(60) for event in seen)
    assert [name for _, name in names] == ["looker"]


def test_calling__never_calls_after_the_block():
    """What is called at the end of a block is done before the block is left, and is not called again."""
    ticker, began, go_on, looks = Ticker(0.001, "looker"), threading.Event(), threading.Event(), []

    def look():
        began.set()
        go_on.wait(60)
        looks.append(inside)

    inside = True
    with ticker.calling(look):
        assert began.wait(60)
        threading.Timer(0.05, go_on.set).start()
    inside = False
    other = threading.Event()
    with ticker.calling(other.set):
        assert other.wait(60)
    assert looks == [True]
