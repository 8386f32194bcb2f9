"""One who asks for each row of a table, or the server that all ask, in a process of its own; see tables.py.

Runs under any interpreter that has the contestant's packages, and needs nothing else::

    python tabling.py NAME FOLDER BASE_URL '{"rows": 1000, "workers": 32}'
    python tabling.py server '{"latency_s": 0.2}'

A contestant prints a line of JSON: seconds, of which CPU, megabytes at most, rows answered; it asks for one
row before, so that imports don't count. The server prints its base URL; ``count`` on its input gets what it
counted, ``lift`` lifts its rate limit, the end of it ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import resource
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Ask = Callable[[Sequence[str], int], int]

MODEL = "openai/gpt-4o-mini"
KEY = "sk-or-v1-table"
WARM_UP = "WARM UP"


def prompts(rows: int, distinct: int = 0, edited: Sequence[int] = (), odd: bool = False) -> list[str]:
    """Return a prompt for each row, of which `distinct` differ; odd rows name what goes wrong."""
    texts = [f"Is review {i % (distinct or rows)} good or bad? It came late, and works." for i in range(rows)]
    for i in edited:
        texts[i] += " (edited)"
    if odd:
        for i in range(0, rows, 50):
            texts[i] += " REFUSE"
        for i in range(1, rows, 100):
            texts[i] += " CUT"
    return texts


def ours(folder: str, base_url: str) -> Ask:
    from or_cache_magic import open_cache

    os.environ.update(OPENROUTER_BASE_URL=base_url, OPENROUTER_API_KEY=KEY, OR_CACHE_DIR=folder)
    cache = open_cache(folder)

    def ask(texts: Sequence[str], workers: int) -> int:
        answers = cache.map(
            texts, "{{ row }}", model=MODEL, temperature=0, workers=workers or "auto", progress=False
        )
        return sum(answer is not None for answer in answers)

    return ask


def plan(folder: str, base_url: str) -> Ask:
    """Only says what it would cost; "answered" is whether nothing was asked."""
    from or_cache_magic import open_cache

    os.environ.update(OPENROUTER_BASE_URL=base_url, OPENROUTER_API_KEY=KEY, OR_CACHE_DIR=folder)
    cache = open_cache(folder)
    return lambda texts, _workers: int(
        cache.map(texts, "{{ row }}", model=MODEL, temperature=0, progress=False, dry_run=True) is None
    )


def floor(_folder: str, base_url: str) -> Ask:
    """The standard library's HTTP on as many threads as there are connections, and nothing kept."""
    url = urlsplit(base_url)

    def ask(texts: Sequence[str], workers: int) -> int:
        left: queue.SimpleQueue[str] = queue.SimpleQueue()
        answered: list[int] = []
        for text in texts:
            left.put(text)

        def work() -> None:
            connection = HTTPConnection(str(url.hostname), url.port or 80)
            while True:
                try:
                    text = left.get_nowait()
                except queue.Empty:
                    return
                body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
                headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
                connection.request("POST", f"{url.path}/chat/completions", json.dumps(body), headers)
                with connection.getresponse() as reply:
                    json.loads(reply.read())
                    answered.append(reply.status == 200)

        threads = [threading.Thread(target=work) for _ in range(workers or 32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(answered)

    return ask


def openai_async(_folder: str, base_url: str) -> Ask:
    """OpenAI's own client, and nothing kept."""
    import openai

    async def all_of(texts: Sequence[str], workers: int) -> int:
        client = openai.AsyncOpenAI(base_url=base_url, api_key=KEY)
        turns = asyncio.Semaphore(workers or 32)

        async def one(text: str) -> bool:
            async with turns:
                try:
                    await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": text}], temperature=0
                    )
                except openai.APIError:
                    return False
                return True

        return sum(await asyncio.gather(*map(one, texts)))

    return lambda texts, workers: asyncio.run(all_of(texts, workers))


def langchain_sqlite(folder: str, base_url: str) -> Ask:
    from langchain_community.cache import SQLiteCache
    from langchain_core.globals import set_llm_cache
    from langchain_openai import ChatOpenAI

    set_llm_cache(SQLiteCache(database_path=os.path.join(folder, "langchain.db")))
    model = ChatOpenAI(model=MODEL, base_url=base_url, api_key=KEY, temperature=0)

    def ask(texts: Sequence[str], workers: int) -> int:
        config = {"max_concurrency": workers or 32}
        answers = asyncio.run(model.abatch(list(texts), config=config, return_exceptions=True))
        return sum(not isinstance(answer, BaseException) for answer in answers)

    return ask


def semlib(folder: str, base_url: str) -> Ask:
    os.environ.update(OPENAI_BASE_URL=base_url, OPENAI_API_BASE=base_url, OPENAI_API_KEY=KEY)
    from semlib import OnDiskCache, Session

    def ask(texts: Sequence[str], workers: int) -> int:
        session = Session(
            model=f"openai/{MODEL}",
            max_concurrency=workers or 32,
            cache=OnDiskCache(os.path.join(folder, "semlib.db")),
        )
        return len(asyncio.run(session.map(list(texts), "{}".format)))

    return ask


def instructor(folder: str, base_url: str) -> Ask:
    import openai
    from instructor import Mode, from_openai
    from instructor.cache import DiskCache
    from pydantic import BaseModel

    class Verdict(BaseModel):
        label: str

    async def all_of(texts: Sequence[str], workers: int) -> int:
        client = from_openai(
            openai.AsyncOpenAI(base_url=base_url, api_key=KEY),
            mode=Mode.JSON_SCHEMA,
            cache=DiskCache(directory=folder),
        )
        turns = asyncio.Semaphore(workers or 32)

        async def one(text: str) -> bool:
            async with turns:
                try:
                    await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": text}], response_model=Verdict
                    )
                except Exception:  # whatever it raises, the row has no answer
                    return False
                return True

        return sum(await asyncio.gather(*map(one, texts)))

    return lambda texts, workers: asyncio.run(all_of(texts, workers))


def curator(folder: str, base_url: str) -> Ask:
    os.environ.update(CURATOR_CACHE_DIR=folder, OPENAI_API_KEY=KEY, CURATOR_DISABLE_RICH_DISPLAY="1")
    from bespokelabs import curator as library

    class Reviewer(library.LLM):
        def prompt(self, row: dict[str, str]) -> str:
            return row["text"]

        def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
            return {"text": row["text"], "answer": response}

    def ask(texts: Sequence[str], workers: int) -> int:
        most = {"max_requests_per_minute": 10**6, "max_tokens_per_minute": 10**9}
        settings = {"base_url": base_url, "max_concurrent_requests": workers or 32, **most}
        reviewer = Reviewer(model_name=MODEL, backend="openai", backend_params=settings)
        return len(reviewer([{"text": text} for text in texts]).dataset)

    return ask


CONTESTANTS = {
    make.__name__: make
    for make in (ours, plan, floor, openai_async, langchain_sqlite, semlib, instructor, curator)
}


def race(name: str, folder: str, base_url: str, wish: dict[str, Any]) -> dict[str, Any]:
    """Return what it took to ask for all rows."""
    workers = wish.pop("workers", 32)
    ask, texts = CONTESTANTS[name](folder, base_url), prompts(**wish)
    ask([WARM_UP], 1)
    cpu_s, since_s = time.process_time(), time.perf_counter()
    answered = ask(texts, workers)
    took_s = time.perf_counter() - since_s
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "s": took_s,
        "cpu_s": time.process_time() - cpu_s,
        "mb": used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
        "answered": answered,
    }


def serve(options: dict[str, Any]) -> None:
    """Serve until the input ends."""
    from or_cache_magic.simulator import Simulator, scenario, simulation
    from or_cache_magic.simulator.server import Server

    connections = 0

    class Counting(Server):
        def process_request(self, request: Any, client_address: Any) -> None:
            nonlocal connections
            connections += 1
            super().process_request(request, client_address)

    simulation.Server = Counting  # type: ignore[misc]
    with Simulator(**options) as sim:
        for mark, name in (("REFUSE", "guardrail_blocked"), ("CUT", "broken_off")):
            sim.script(
                scenario(name), times=10**9, match=lambda body, mark=mark: mark in str(body["messages"])
            )
        print(sim.base_url, flush=True)
        for line in sys.stdin:
            if line.strip() == "lift":
                sim.lift_rate_limit()
                continue
            asked = [row for row in sim.completions if WARM_UP not in str(row.body)]
            statuses = Counter(row.status for row in asked)
            counted = {
                "answered": statuses[200],
                "limited": statuses[429],
                "requests": sum(statuses.values()),
                "connections": connections,
                "usd": str(sim.total_cost),
            }
            print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(json.loads(sys.argv[2]))
    else:
        print(json.dumps(race(*sys.argv[1:4], json.loads(sys.argv[4]))), flush=True)
