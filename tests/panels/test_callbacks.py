"""What follows cells takes a tenth of the time at most, and is caught up with."""

import asyncio
import time

import pytest

from or_cache_magic.panels.callbacks import Pace, soon

WORK_S = 0.02


@pytest.fixture
def work(clock):
    """Work that takes so long by the test's clock; ``done`` tells when each was done."""

    def work():
        clock.now_s += WORK_S
        work.done.append(clock.now_s)

    work.done = []
    return work


def test_pace__catches_up_once_with_what_it_left_out(clock, work):
    """Of a hundred cells in a row the first is followed at once, the others together after a pause."""

    async def cells():
        pace = Pace(clock)
        began_s = time.monotonic()
        for _ in range(100):
            pace.keep(work)
        assert len(work.done) == 1
        while len(work.done) < 2:
            await asyncio.sleep(WORK_S / 4)
        assert time.monotonic() - began_s >= 10 * WORK_S
        await asyncio.sleep(WORK_S)
        assert len(work.done) == 2
        pace.keep(work)
        assert len(work.done) == 2

    asyncio.run(cells())


def test_pace__follows_at_once_after_a_pause(clock, work):
    """Cells that are far apart are each followed at once."""

    async def cells():
        pace = Pace(clock)
        pace.keep(work)
        clock.now_s += 11 * WORK_S
        pace.keep(work)
        assert len(work.done) == 2

    asyncio.run(cells())


def test_soon__is_after_the_cell_where_there_is_a_loop_and_now_where_there_is_none():
    """In a kernel it waits for the cell's end, in a script for nothing."""
    done = []
    soon(lambda: done.append("script"))
    assert done == ["script"]

    async def cell():
        soon(lambda: done.append("kernel"))
        assert done == ["script"]
        while len(done) < 2:
            await asyncio.sleep(0)
        assert done == ["script", "kernel"]

    asyncio.run(cell())
