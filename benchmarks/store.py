"""How fast the completion cache gets, puts, lists, sums and purges, and how many bytes it takes.

Run: ``python benchmarks/store.py [--entries 10000] [--large]`` (``--large`` is 100,000). Ratios are taken in
the same run, against plain diskcache and against a bare SELECT.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diskcache

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Answer, Choice, Cost, Entry, Request, Usage
from or_cache_magic.core.rows import EntryFilter, LedgerRow
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODELS = [f"vendor-{i % 8}/model-{i}" for i in range(40)]
BATCH = 1000


def median_us(call: Callable[[int], object], times: int) -> float:
    spent = []
    for i in range(times):
        began = time.perf_counter()
        call(i)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6


@contextmanager
def told(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what:<50}{(time.perf_counter() - began) * 1e3:10.1f} ms")


def pairs(count: int, words: list[str]) -> Iterator[tuple[Entry, Request]]:
    chance = random.Random(1)

    def prose(size: int) -> str:
        at = chance.randrange(len(words) - size)
        return " ".join(words[at : at + size])

    for i in range(count):
        messages = [
            {"role": "system", "content": "You are a careful assistant."},
            {"role": "user", "content": f"{i} {prose(150)}"},
        ]
        request = Request(
            {"model": MODELS[i % 40], "messages": messages, "temperature": 0, "max_tokens": 4096}
        )
        choice = Choice({"role": "assistant", "content": prose(200)}, "stop", "stop")
        usage, cost = Usage(200, 300, 0), Cost(Decimal(100 + i % 900).scaleb(-6), "reported")
        answer = Answer((choice,), MODELS[i % 40], "Provider", usage, cost, f"gen-{i}", 1e9 + i, 1.5)
        yield Entry(request_key(request), answer, 1e9 + i), request


def plain_json(entry: Entry, request: Request) -> str:
    answer = entry.answer
    message: Any = answer.choices[0].message
    usage = {"prompt_tokens": 200, "completion_tokens": 300, "total_tokens": 500, "cost": 0.0001}
    reply = {"id": answer.generation_id, "model": answer.model, "provider": answer.provider, "usage": usage}
    reply["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"request": request.body, "response": reply})


def fill(folder: Path, count: int, words: list[str]) -> list[Entry]:
    database = Database(folder)
    store, ledger = DiskStore(database), Ledger(database, "benchmark", time.time)
    kept, batch = [], []
    with told(f"put {count} entries with ledger rows, in batches"):
        for pair in pairs(count, words):
            batch.append(pair)
            if len(batch) == BATCH:
                with database.transaction():
                    for entry, request in batch:
                        store.put(entry, request)
                        ledger.record(bought(entry, request))
                kept += [entry for entry, _ in batch]
                batch = []
    database.close()
    return kept


def bought(entry: Entry, request: Request) -> LedgerRow:
    cost = entry.answer.cost
    at_s, model = entry.created_s, request.body["model"]
    return LedgerRow(at_s, "s", "n.ipynb", entry.key.digest, model, "miss", 1, cost, cost.usd, (), 200, 300)


def compare_bytes(folder: Path, words: list[str]) -> None:
    count = 2000
    plain = diskcache.Cache(folder / "plain")
    database = Database(folder / "ours")
    store = DiskStore(database)
    spent: dict[str, list[float]] = {"plain": [], "ours": []}
    for entry, request in pairs(count, words):
        text = plain_json(entry, request)
        began = time.perf_counter()
        plain.set(entry.key.digest, text)
        between = time.perf_counter()
        store.put(entry, request)
        spent["plain"].append(between - began)
        spent["ours"].append(time.perf_counter() - between)
    database.close()
    plain._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    plain.close()
    ours, theirs = ((folder / name / "cache.db").stat().st_size / count for name in ("ours", "plain"))
    print(f"bytes an entry: {ours:.0f}, plain diskcache {theirs:.0f}: {ours / theirs:.2f}x (bar 0.45)")
    put, set_ = (statistics.median(spent[name]) * 1e6 for name in ("ours", "plain"))
    print(f"put: {put:.0f} us, plain diskcache's set {set_:.0f} us")


def measure(folder: Path, count: int, words: list[str]) -> None:
    entries = fill(folder, count, words)
    database = Database(folder)
    store, ledger = DiskStore(database), Ledger(database, "benchmark", time.time)
    random.Random(2).shuffle(entries)
    bare = "SELECT value FROM Cache WHERE key = ? AND raw = 1"
    store.get(entries[0].key)
    connection = database._file._readers[0].connection
    for name, call in (
        ("bare SELECT", lambda i: connection.execute(bare, (entries[i].key.digest,)).fetchone()),
        ("get", lambda i: store.get(entries[i].key)),
        (
            "count a hit",
            lambda i: ledger.count_hit(key=entries[i].key.digest, model="m", value_usd=Decimal(1)),
        ),
    ):
        call(0)
        print(f"{name:<50}{median_us(call, min(5000, count)):10.1f} us")
    with told("flush those hits"):
        ledger.flush()
    for name, page in (
        ("page of 50, newest", lambda _: store.listing.find(limit=50)),
        ("page of 50, by cost", lambda _: store.listing.find(limit=50, order="cost_usd")),
        ("page of 50 of one model", lambda _: store.listing.find(EntryFilter(model=MODELS[3]), limit=50)),
        ("count all", lambda _: store.listing.count()),
        ("totals by model", lambda _: ledger.totals("model")),
        ("totals by day", lambda _: ledger.totals("day")),
    ):
        print(f"{name:<50}{median_us(page, 11) / 1e3:10.2f} ms")
    with told("search a text that is nowhere"):
        store.listing.count(EntryFilter(text="nowhere to be found"))
    with told("purge one model of 40"):
        store.purge(EntryFilter(model=MODELS[3]))
    with told("purge all"):
        store.purge(EntryFilter(), everything=True)
    with told("checkpoint"):
        database.checkpoint()
    database.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entries", type=int, default=10_000)
    arguments.add_argument("--large", action="store_true")
    chosen = arguments.parse_args()
    words = [
        word
        for module in (argparse, json, random, statistics, tempfile, diskcache.core)
        for word in Path(str(module.__file__)).read_text().split()
    ]
    with tempfile.TemporaryDirectory() as folder:
        compare_bytes(Path(folder), words)
        measure(Path(folder) / "many", 100_000 if chosen.large else chosen.entries, words)


if __name__ == "__main__":
    main()
