"""Is the right stored request found for one that was edited, and how fast: ``python benchmarks/why.py``.

A file of 100,000 entries: rows of templates, notebook prompts, long documents, conversations, with system
prompts and models in common. 200 of them are edited in one of six ways (a word, a number, a parameter, the
model, the system prompt, white space), and `nearest` is asked for each. Right is the one that was edited, and
no other, though another may differ as little.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Answer, Choice, Entry, Request
from or_cache_magic.explain.difference import changes
from or_cache_magic.explain.nearest import nearest
from or_cache_magic.storage.database import open_database
from or_cache_magic.storage.entries import DiskStore

MODELS = ("openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-sonnet-4.5", "google/gemini-2.5-flash")
TEMPLATES = (
    "Is this review positive, negative or mixed? Answer with one word.\n\n{}",
    "Summarise the following note in one sentence.\n\n{}",
    "{}\n\nWhich product is meant? Answer as JSON with the fields name, price and unit.",
    "You are given a ticket.\n<ticket>\n{}\n</ticket>\nAssign one of: billing, bug, question, praise.",
)
EDITS = ("word", "number", "parameter", "model", "system", "white space")


def corpus(count: int, chance: random.Random) -> list[Request]:
    """Return so many different requests."""
    words = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 10))) for _ in range(8000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    systems = [" ".join(chance.choices(words, weights, k=chance.randint(5, 60))) for _ in range(40)]

    def text(low: int, high: int) -> str:
        said = chance.choices(words, weights, k=chance.randint(low, high))
        said[chance.randrange(len(said))] = str(chance.randint(1, 9999))
        return " ".join(said)

    requests = []
    for at in range(count):
        kind = at % 10
        if kind < 5:
            prompt = chance.choice(TEMPLATES).replace("{}", text(8, 60))
        elif kind < 8:
            prompt = text(6, 40)
        else:
            prompt = text(200, 500)
        messages = [{"role": "user", "content": prompt}]
        if kind == 7:
            messages = [
                {"role": "user", "content": text(5, 20)},
                {"role": "assistant", "content": text(10, 40)},
                *messages,
            ]
        if chance.random() < 0.6:
            messages.insert(0, {"role": "system", "content": chance.choice(systems)})
        body = {"model": chance.choice(MODELS), "messages": messages, "temperature": 0, "max_tokens": 4096}
        requests.append(Request(body))
    return requests


def edited(request: Request, kind: str, chance: random.Random) -> Request:
    """Return a request with one edit."""
    body = {**request.body, "messages": [dict(message) for message in request.body["messages"]]}
    last = body["messages"][-1]
    words = last["content"].split(" ")
    if kind == "word":
        words[chance.randrange(len(words))] = "changed"
    elif kind == "number":
        at = next((i for i, word in enumerate(words) if word.strip().isdigit()), 0)
        words[at] = str(chance.randint(10000, 99999))
    elif kind == "white space":
        words[chance.randrange(len(words))] += "\n "
    elif kind == "parameter":
        name, value = chance.choice((("temperature", 0.7), ("top_p", 0.9), ("max_tokens", 200), ("seed", 7)))
        body[name] = value
    elif kind == "model":
        body["model"] = "mistralai/mistral-large"
    elif body["messages"][0]["role"] == "system":
        body["messages"][0]["content"] += " Be brief, and answer in French."
    else:
        body["messages"].insert(0, {"role": "system", "content": "Be brief, and answer in French."})
    last["content"] = " ".join(words)
    return request._replace(body=body)


def fill(directory: Path, requests: list[Request]) -> None:
    """Store an answer to each."""
    store = DiskStore(database := open_database(directory))
    for start in range(0, len(requests), 5000):
        with database.transaction():
            for at, request in enumerate(requests[start : start + 5000], start):
                answer = Answer(
                    (Choice({"role": "assistant", "content": "Yes."}, "stop"),), str(request.body["model"])
                )
                store.put(Entry(request_key(request), answer, 1.7e9 + at), request)
    database.close()


def main(entries: int, edits: int, seed: int = 7) -> float:
    """Measure, print, and return which part was found."""
    chance = random.Random(seed)
    requests = list({request_key(one).digest: one for one in corpus(entries, chance)}.values())
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), requests)
        database = open_database(folder)
        began = time.perf_counter()
        nearest(database, requests[0])
        first_s = time.perf_counter() - began
        print(f"{len(requests):,} entries; the first look, which sketches all: {first_s:.1f} s")
        found = dict.fromkeys(EDITS, 0)
        times, compared = [], []
        before_s = time.process_time()
        for at in range(edits):
            kind, request = EDITS[at % len(EDITS)], chance.choice(requests)
            asked = edited(request, kind, chance)
            began = time.perf_counter()
            near = nearest(database, asked, own=request_key(asked).digest)
            middle = time.perf_counter()
            if near is not None:
                changes(near.request, asked)
                found[kind] += near.key == request_key(request).digest
            times.append(middle - began)
            compared.append(time.perf_counter() - middle)
        cpu_s = (time.process_time() - before_s) / edits
        database.close()
    for at, (kind, count) in enumerate(found.items()):
        print(f"{kind:12} {count} of {len(range(at, edits, len(EDITS)))}")
    share = sum(found.values()) / edits
    both = [a + b for a, b in zip(times, compared, strict=True)]
    p95 = statistics.quantiles(both, n=20)[-1]
    print(
        f"found {share:.1%} · median {statistics.median(both) * 1e3:.0f} ms · p95 {p95 * 1e3:.0f} ms"
        f" · {cpu_s * 1e3:.0f} ms of CPU each"
        f" (of it the difference: median {statistics.median(compared) * 1e3:.1f} ms)"
    )
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--edits", type=int, default=200)
    options = parser.parse_args()
    main(options.entries, options.edits)
