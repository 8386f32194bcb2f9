"""What a request's key costs, beside what the standard library alone would cost, in one run.

At 2 KB the bar is 1.5 times `json.dumps(sort_keys=True)` and a sha256 of it; at 200 KB it is 1.3
times a bare sha256 of the encoded text. Ratios hold across machines; microseconds do not.
"""

from __future__ import annotations

import json
import timeit
from hashlib import sha256
from statistics import median
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Request

if TYPE_CHECKING:
    from collections.abc import Callable

SENTENCE = "The committee weighed the evidence, and wrote down what it found. "
ROUNDS = 41


def chat(size_chars: int) -> dict[str, Any]:
    prompt = (SENTENCE * (size_chars // len(SENTENCE) + 1))[:size_chars]
    return {
        "model": "openai/gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You answer in one paragraph, and cite the page."},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0,
        "max_tokens": 4096,
    }


def medians_us(number: int, *functions: Callable[[], object]) -> list[float]:
    """Microseconds a call: the median of rounds in which the functions take turns."""
    rounds = [[timeit.timeit(function, number=number) for function in functions] for _ in range(ROUNDS)]
    return [median(times) / number * 1e6 for times in zip(*rounds, strict=True)]


def against_json(body: dict[str, Any]) -> Callable[[], object]:
    return lambda: sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def against_text(body: dict[str, Any]) -> Callable[[], object]:
    text = body["messages"][-1]["content"].encode()
    return lambda: sha256(text).hexdigest()


def main() -> None:
    for label, size, number, peer, bar in (
        ("2 KB ÷ json.dumps + sha256", 2_000, 2_000, against_json, 1.5),
        ("200 KB ÷ bare sha256", 200_000, 100, against_text, 1.3),
    ):
        body = chat(size)
        request = Request(body)
        floor, ours = medians_us(number, peer(body), lambda request=request: request_key(request))
        print(f"{label:28}  {ours:7.1f} µs ÷ {floor:7.1f} µs = {ours / floor:4.2f}  (bar {bar})")


if __name__ == "__main__":
    main()
