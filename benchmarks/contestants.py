"""One contestant of a race, in a process of its own: asks as it is told, and says how long each hit took.

Runs under any interpreter that has the contestant's packages, and needs nothing else::

    python contestants.py NAME FOLDER BASE_URL API_KEY

Commands and replies are lines of JSON: ``{"do": "fill", "prompts": […]}`` asks each prompt once and makes
them those of the rounds that follow; ``{"do": "round", "budget_s": …}`` asks them in turn for so long and
replies with nanoseconds a call. The end of the input ends the process.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import urllib.request
from hashlib import sha256
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Ask = Callable[[str], str]

MODEL = "openai/gpt-4o-mini"
WARM_UP_CALLS = 3
LEAST_CALLS = 5


def or_cache_magic(folder: str, base_url: str, api_key: str) -> Ask:
    from or_cache_magic import open_cache

    os.environ.update(OPENROUTER_BASE_URL=base_url, OPENROUTER_API_KEY=api_key)
    cache = open_cache(folder)
    return lambda prompt: cache.ask(prompt, model=MODEL)


def floor(folder: str, base_url: str, api_key: str) -> Ask:
    """What the standard library alone needs: canonical JSON, sha256, one SELECT, `json.loads`."""
    database = sqlite3.connect(os.path.join(folder, "floor.db"), isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT)")

    def ask(prompt: str) -> str:
        body = chat(prompt)
        key = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        row = database.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            row = (bought(body, base_url, api_key),)
            database.execute("INSERT INTO answers VALUES (?, ?)", (key, *row))
        text: str = json.loads(row[0])["choices"][0]["message"]["content"]
        return text

    return ask


def chat(prompt: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 4096}


def bought(body: dict[str, Any], base_url: str, api_key: str) -> str:
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return reply.read().decode()


def bare_sha256(_folder: str, _base_url: str, _api_key: str) -> Ask:
    """What any exact cache needs at least to know a long prompt again."""
    return lambda prompt: sha256(prompt.encode()).hexdigest()


def dspy_disk(folder: str, base_url: str, api_key: str) -> Ask:
    import dspy

    dspy.configure_cache(enable_disk_cache=True, enable_memory_cache=False, disk_cache_dir=folder)
    # Its LiteLLM takes the first "openai/" for the kind of API.
    lm = dspy.LM(f"openai/{MODEL}", api_base=base_url, api_key=api_key, temperature=0.0, max_tokens=4096)
    return lambda prompt: lm(messages=[{"role": "user", "content": prompt}])[0]


def langchain_sqlite(folder: str, base_url: str, api_key: str) -> Ask:
    from langchain_community.cache import SQLiteCache
    from langchain_core.globals import set_llm_cache
    from langchain_openai import ChatOpenAI

    set_llm_cache(SQLiteCache(database_path=os.path.join(folder, "langchain.db")))
    model = ChatOpenAI(model=MODEL, base_url=base_url, api_key=api_key, temperature=0, max_tokens=4096)
    return lambda prompt: model.invoke(prompt).content


def litellm_local(_folder: str, base_url: str, api_key: str) -> Ask:
    import litellm

    # In memory, and gone with the process: its newest version has no cache on disk.
    litellm.cache = litellm.Cache(type="local")

    def ask(prompt: str) -> str:
        reply = litellm.completion(
            f"openai/{MODEL}",
            api_base=base_url,
            api_key=api_key,
            caching=True,
            messages=chat(prompt)["messages"],
            temperature=0,
            max_tokens=4096,
        )
        text: str = reply.choices[0].message.content
        return text

    return ask


CONTESTANTS = {
    make.__name__: make
    for make in (or_cache_magic, floor, bare_sha256, dspy_disk, langchain_sqlite, litellm_local)
}


def timed(ask: Ask, prompts: Sequence[str], budget_s: float) -> list[int]:
    """Nanoseconds of each call, as many calls as fit into the budget."""
    turn = itertools.cycle(prompts)
    for _ in range(WARM_UP_CALLS):
        ask(next(turn))
    times_ns: list[int] = []
    end_ns = perf_counter_ns() + int(budget_s * 1e9)
    while len(times_ns) < LEAST_CALLS or perf_counter_ns() < end_ns:
        prompt = next(turn)
        began_ns = perf_counter_ns()
        ask(prompt)
        times_ns.append(perf_counter_ns() - began_ns)
    return times_ns


def main() -> None:
    name, *where = sys.argv[1:]
    # What a contestant prints must not end up between the replies.
    replies, sys.stdout = sys.stdout, sys.stderr
    ask = CONTESTANTS[name](*where)
    prompts: list[str] = []
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "fill":
            prompts = command["prompts"]
            bought_texts = [ask(prompt) for prompt in prompts]
            reply = {"same": bought_texts == [ask(prompt) for prompt in prompts]}
        else:
            reply = {"ns": timed(ask, prompts, command["budget_s"])}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
