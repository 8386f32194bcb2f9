"""`aask`: the same asks for an event loop, which is never blocked."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time

import pytest

from or_cache_magic.core.settings import parse_setting
from or_cache_magic.errors import CacheMissError, MissingKeyError, OptionError, UpstreamError
from or_cache_magic.simulator import scenario

PROMPT = "What is a median?"


def totals(cache):
    (sums,) = cache.totals()
    return sums


async def until(holds, timeout_s=60.0):
    """Lets the loop run until `holds()`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def running(cache):
    return len(cache.engine.flights.running())


def asking(cache):
    """How many ask the one question that is being asked, in its leader's person or waiting; 0 if none or several are."""
    keys = cache.engine.flights.running()
    return cache.engine.flights.waiting(keys[0]) + 1 if len(keys) == 1 else 0


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Whatever a test's loop or threads left open is noticed in the test."""
    yield
    gc.collect()
    assert [t.name for t in threading.enumerate() if t.name.startswith("or-cache-ask")] == []


@pytest.fixture
def cache(open_cache, sim):
    with open_cache(sim) as opened:
        yield opened


def test_aask__is_ask(cache, sim):
    """It buys, keeps and serves the same entries, accounted for alike."""

    async def both():
        return await cache.aask(PROMPT, tag="t"), await cache.aask(PROMPT)

    bought, served = asyncio.run(both())
    assert (bought, bought.cached, served.cached) == (served, False, True)
    assert cache.ask(PROMPT).outcome.kind == "hit"
    assert sim.completion_count == 1
    assert (totals(cache).misses, totals(cache).hits) == (1, 2)
    assert totals(cache).paid_usd == sim.total_cost == bought.paid_usd
    assert list(cache.entries(tag="t")["hits"]) == [2]


def test_aask__raises_what_ask_raises(open_cache, sim):
    """Errors, their facts and what is accounted are those of `ask`; nothing is sent where nothing may be."""
    cache = open_cache(sim)
    with pytest.raises(OptionError, match="whole number from 0"):
        asyncio.run(cache.aask(PROMPT, sample=-1))
    with pytest.raises(CacheMissError):
        asyncio.run(cache.aask(PROMPT, mode="offline"))
    with pytest.raises(MissingKeyError):
        asyncio.run(open_cache(sim, api_key=None).aask(PROMPT))
    assert sim.completion_count == 0
    sim.script(scenario("insufficient_credits"))
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(cache.aask(PROMPT))
    assert caught.value.status == 402
    assert (totals(cache).failed, sim.completion_count) == (1, 1)
    cache.close()


def test_aask__serves_a_hit_without_yielding(cache):
    """A stored answer is there at once: no thread, no turn of the loop, well under a millisecond."""
    cache.ask(PROMPT)
    coroutine = cache.aask(PROMPT)
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)  # as the loop starts it; the first thing that it waits for would come back here
    assert done.value.value.cached
    assert [t.name for t in threading.enumerate() if t.name.startswith("or-cache-ask")] == []


def test_aask__leaves_the_loop_free(cache, sim):
    """While a call lasts, while it waits for a sync ask's flight, and while the answer is written, the loop goes on."""

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        thread = threading.Thread(target=cache.ask, args=(PROMPT,))
        with sim.hold():
            thread.start()
            await until(lambda: running(cache) == 1)
            waiting = [asyncio.create_task(cache.aask(PROMPT)), asyncio.create_task(cache.aask("other"))]
            await until(lambda: sum(row.held for row in sim.completions) == 2)
            before = ticks
            await until(lambda: ticks > before + 100)
        answers = await asyncio.gather(*waiting)
        thread.join()
        ticking.cancel()
        return [answer.outcome.kind for answer in answers]

    assert asyncio.run(main()) == ["coalesced", "miss"]
    assert sim.completion_count == 2


def test_aask__never_waits_for_the_teams_server_on_the_loop(open_cache, sim):
    """A shared tier that accepts and never answers holds up a thread, not the event loop."""
    pytest.importorskip("redis")

    async def main(cache, silent):
        task = asyncio.create_task(cache.aask(PROMPT))
        await asyncio.sleep(0)
        talk, _ = await asyncio.to_thread(silent.accept)
        silent.close()  # what comes next is refused
        with talk:
            waited_on = talk.recv(65536)
        await task
        return waited_on

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(10)
        url = parse_setting("shared_url", f"redis://127.0.0.1:{silent.getsockname()[1]}", "test")
        began_s = time.monotonic()
        with open_cache(sim, shared_url=url, shared_timeout_s=60.0) as cache:
            assert asyncio.run(main(cache, silent))
        assert time.monotonic() - began_s < 30
    assert sim.completion_count == 1


def test_aask__sends_one_of_a_thousand(cache, sim):
    """1,000 tasks and 8 threads that ask the same: one call, and the ledger accounts for each ask."""
    kinds = []

    async def main():
        threads = [
            threading.Thread(target=lambda: kinds.append(cache.ask(PROMPT).outcome.kind)) for _ in range(8)
        ]
        with sim.hold():
            tasks = [asyncio.create_task(cache.aask(PROMPT)) for _ in range(1000)]
            await until(lambda: running(cache) == 1)
            for thread in threads:
                thread.start()
            await until(lambda: asking(cache) == 1008)
        kinds.extend(answer.outcome.kind for answer in await asyncio.gather(*tasks))
        for thread in threads:
            thread.join(60)

    asyncio.run(main())
    assert sim.completion_count == 1
    assert (kinds.count("miss"), kinds.count("coalesced"), len(kinds)) == (1, 1007, 1008)
    sums = totals(cache)
    assert (sums.asks, sums.misses, sums.coalesced) == (1008, 1, 1007)
    assert sums.paid_usd == sim.total_cost


def test_aask__follows_hold_up_nobody(cache, sim):
    """Hundreds that wait for one answer that does not come leave the threads to others."""
    sim.script(scenario("stalled"), match=lambda body: body["messages"][-1]["content"] == PROMPT)

    async def main():
        stuck = [asyncio.create_task(cache.aask(PROMPT)) for _ in range(200)]
        await until(lambda: asking(cache) == 200)
        answers = await asyncio.gather(*(cache.aask(f"{n}?") for n in range(40)))
        for task in stuck:
            task.cancel()
        ends = await asyncio.gather(*stuck, return_exceptions=True)
        return answers, ends

    answers, ends = asyncio.run(main())
    assert len(answers) == 40
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert sim.completion_count == 41


def test_aask__stands_in_line(cache, sim):
    """500 different asks at once go 32 at a time; those in line hold nothing up, and can be cancelled at once."""

    async def main():
        with sim.hold():
            tasks = [asyncio.create_task(cache.aask(f"{n}?")) for n in range(500)]
            assert await asyncio.to_thread(
                sim.wait_for, lambda rows: sum(row.held for row in rows) == 32, 30.0
            )
            for task in tasks[100:]:
                task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            ended = sum(task.cancelled() for task in tasks[100:])
            held = sum(row.held for row in sim.completions)
        return held, ended, await asyncio.gather(*tasks[:100])

    held, ended, answers = asyncio.run(main())
    assert held == 32
    assert ended == 400  # no farewell to what never began
    assert len(answers) == sim.completion_count == 100


@pytest.fixture
def patient(monkeypatch):
    """Who cancels waits for the thread however busy the machine is: it is left behind where nothing wakes it."""
    monkeypatch.setattr("or_cache_magic.engine.aio._CANCELLED_WAIT_S", 60.0)


@pytest.mark.parametrize("mode", ["normal", "refresh"])
def test_aask__closes_the_connection_when_cancelled(patient, cache, sim, mode):
    """Cancelling in the middle of an answer is seen upstream at once; what had arrived is kept and accounted for."""
    sim.script(scenario("stalled"))
    seen = []

    async def main():
        task = asyncio.create_task(cache.aask(PROMPT, mode=mode, on_text=seen.append))
        await until(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It is raised when all is written: the partial is there already.
        assert totals(cache).failed == 1

    asyncio.run(main())
    assert sim.wait_for(lambda rows: any(row.cancelled for row in rows))
    (kept,) = cache.store.unserved(cache.ask(PROMPT).key)
    assert kept.reason == "interrupted"
    assert kept.answer.text.startswith(seen[0])
    assert totals(cache).unpriced == 1


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_aask__is_cancelled_before_the_reply_begins(patient, cache, sim, warm, stream):
    """Also where nothing has come back yet, on a new connection or one that was used before."""
    if warm:
        cache.ask("before")

    async def main():
        with sim.hold():
            task = asyncio.create_task(cache.aask(PROMPT, stream=stream))
            await until(lambda: any(row.held for row in sim.completions))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # No reply is in sight, and the call is over: its thread was woken, not left behind.
            assert totals(cache).failed == 1

    asyncio.run(main())


def test_aask__is_cancelled_between_attempts(cache, sim):
    """A server's "come back in 40 s" is not waited out by who was called off."""
    sim.script(scenario("rate_limited", retry_after_s=40))

    async def main():
        task = asyncio.create_task(cache.aask(PROMPT))
        await until(lambda: any(row.status for row in sim.completions))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began_s = time.monotonic()
    asyncio.run(main())
    cache.close()  # waits for the thread
    assert time.monotonic() - began_s < 30
    assert sim.completion_count == 1


def test_aask__goes_on_while_somebody_waits(cache, sim):
    """Cancelling who asked first leaves the call to those who wait for it, and so does cancelling one of them."""

    async def main():
        with sim.hold():
            tasks = [asyncio.create_task(cache.aask(PROMPT)) for _ in range(3)]
            thread_got = []
            thread = threading.Thread(target=lambda: thread_got.append(cache.ask(PROMPT)))
            await until(lambda: running(cache) == 1)
            thread.start()
            await until(lambda: asking(cache) == 4)
            for task in tasks[:2]:
                task.cancel()
            await asyncio.wait(tasks[:2])
        answer = await tasks[2]
        thread.join(60)
        assert all(task.cancelled() for task in tasks[:2])
        return answer, thread_got[0]

    answer, other = asyncio.run(main())
    assert answer == other
    assert sim.completion_count == 1
    assert (totals(cache).misses, totals(cache).coalesced, totals(cache).failed) == (1, 2, 0)


def test_aask__takes_over_from_an_interrupted_thread(cache, sim):
    """A sync ask's interrupt is its own: a task that waited asks."""
    leading, release, ended = threading.Event(), threading.Event(), []

    def interrupt(_text):
        leading.set()
        assert release.wait(60)
        raise KeyboardInterrupt

    def lead():
        try:
            cache.ask(PROMPT, on_text=interrupt)
        except KeyboardInterrupt as exc:
            ended.append(exc)

    async def main():
        thread = threading.Thread(target=lead)
        thread.start()
        await until(leading.is_set)
        task = asyncio.create_task(cache.aask(PROMPT))
        await until(lambda: asking(cache) == 2)
        release.set()
        answer = await task
        thread.join(60)
        return answer

    assert asyncio.run(main()).outcome.kind == "miss"
    assert ended
    assert sim.completion_count == 2


def test_aask__shows_text_on_the_loop(cache, sim):
    """`on_text` is called on the event loop's thread, in order, before the answer is there."""
    seen = []

    async def main():
        here = threading.get_ident()
        answer = await cache.aask(PROMPT, on_text=lambda text: seen.append((threading.get_ident(), text)))
        assert {thread for thread, _ in seen} == {here}
        return answer

    answer = asyncio.run(main())
    assert "".join(text for _, text in seen) == answer
    assert len(seen) > 1


def test_aask__ends_when_the_cache_is_closed(cache, sim):
    """Closing the cache calls its async asks off, followers too, and waits until they are accounted for."""
    sim.script(scenario("stalled"))
    seen = []

    async def main():
        tasks = [asyncio.create_task(cache.aask(PROMPT, on_text=seen.append)) for _ in range(3)]
        await until(lambda: seen)
        cache.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(end) for end in asyncio.run(main())} == {asyncio.CancelledError}
    assert sim.completion_count == 1
    assert totals(cache).failed == 1
    assert asyncio.run(cache.aask(PROMPT)).outcome.kind == "miss"


def test_aask__serves_several_loops(cache, sim):
    """Loops of several threads share flights."""
    kinds = []
    with sim.hold():
        threads = [
            threading.Thread(
                target=lambda: kinds.append(asyncio.run(cache.aask(PROMPT, stream=False)).outcome.kind)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        asyncio.run(until(lambda: asking(cache) == 4))
    for thread in threads:
        thread.join(60)
    assert sorted(kinds) == ["coalesced"] * 3 + ["miss"]


def test_aask__outlives_its_loop(cache, sim):
    """A loop that is gone before the answer leaves it to the cache: bought, kept, no noise."""

    with sim.hold():
        loop = asyncio.new_event_loop()
        task = loop.create_task(cache.aask(PROMPT))
        loop.run_until_complete(until(lambda: any(row.held for row in sim.completions)))
        task._log_destroy_pending = False
        loop.close()
    deadline = time.monotonic() + 60
    while running(cache):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert cache.ask(PROMPT).outcome.kind == "hit"
    with pytest.raises(asyncio.CancelledError):  # ends the coroutine, which its loop left behind
        task.get_coro().throw(asyncio.CancelledError)


def test_aask__asks_what_was_given_when_it_was_called(cache, sim):
    """Messages that change before the await, as in a loop that makes tasks, change nothing of what is asked."""
    messages = [{"role": "user", "content": ""}]

    async def ask_all():
        asks = []
        for colour in ("red", "green"):
            messages[0]["content"] = f"Describe {colour}."
            asks.append(cache.aask(messages))
        return await asyncio.gather(*asks, cache.aask("x", temprature=1), return_exceptions=True)

    *answers, refused = asyncio.run(ask_all())
    assert [answer.messages[0]["content"] for answer in answers] == ["Describe red.", "Describe green."]
    assert isinstance(refused, OptionError)
    assert {row.body["messages"][0]["content"] for row in sim.completions} == {
        "Describe red.",
        "Describe green.",
    }
