"""How often is another question called similar, and what is missed: ``python benchmarks/similar.py``.

The labelled pairs of ``tests/explain/similar_pairs.jsonl``: by hand, of the kinds in which prompts differ in
a notebook. One half, by a hash, was held back while the guard was tuned. Beside the guard stands what letters
alone would do at some thresholds, as caches by similarity do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from or_cache_magic.explain.similar_guard import likeness, why_not_similar

PAIRS = Path(__file__).resolve().parents[1] / "tests" / "explain" / "similar_pairs.jsonl"
HELD_BACK = "by a hash of the two texts, whatever their label"
THRESHOLDS = (0.8, 0.9, 0.95, 0.97)


def labelled_pairs() -> list[dict[str, str]]:
    """Return the pairs: ``label`` (same, different), ``kind``, ``a``, ``b``."""
    return [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]


def is_held_back(pair: dict[str, str]) -> bool:
    """Return whether a pair was not looked at while the guard was tuned."""
    return sha256(f"{pair['a']}\0{pair['b']}".encode()).digest()[0] % 2 == 1


def false_and_missed(
    pairs: Sequence[dict[str, str]], least: float = 0.0, *, guarded: bool = True
) -> tuple[list[Any], list[Any], int]:
    """Return the pairs wrongly called similar, those of the same that were not, and how many were right.

    Args:
        pairs: The labelled ones.
        least: How alike their letters must be.
        guarded: Whether the guard is asked.
    """
    wrong, missed, right = [], [], 0
    for pair in pairs:
        a, b = pair["a"], pair["b"]
        found = likeness(a, b) >= least and not (guarded and why_not_similar(a, b))
        if pair["label"] == "different":
            wrong += [pair] if found else []
        else:
            missed += [] if found else [pair]
            right += found
    return wrong, missed, right


def main() -> float:
    """Measure, print, and return the share of false suggestions among the pairs that were held back."""
    pairs = labelled_pairs()
    halves = (
        ("tuned on", [pair for pair in pairs if not is_held_back(pair)]),
        ("held back", [pair for pair in pairs if is_held_back(pair)]),
    )
    share = 0.0
    for name, half in halves:
        labels = Counter(pair["label"] for pair in half)
        print(f"{name}: {labels['different']} different, {labels['same']} the same")
        rows = [("guard alone", 0.0, True), ("guard, letters ≥ 0.8", 0.8, True)]
        rows += [(f"letters alone ≥ {least}", least, False) for least in THRESHOLDS]
        for what, least, guarded in rows:
            wrong, missed, _ = false_and_missed(half, least, guarded=guarded)
            print(
                f"  {what:22} false {len(wrong):3} ({len(wrong) / labels['different']:.1%})"
                f" · missed {len(missed):3} ({len(missed) / labels['same']:.1%})"
            )
            if least == 0.0:
                share = len(wrong) / labels["different"]
    _, missed, _ = false_and_missed(pairs)
    of_kind = Counter(pair["kind"] for pair in pairs if pair["label"] == "same")
    lost = Counter(pair["kind"] for pair in missed)
    print("missed by the guard, of all: " + ", ".join(f"{k} {lost[k]}/{n}" for k, n in of_kind.items()))
    return share


if __name__ == "__main__":
    main()
