"""Finds the rates of `or_cache_magic.core.tokens`: three linear programs over texts and their true counts.

``low`` and ``high`` hold for every text that they were found with, and are otherwise as near to the counts
as non-negative rates can be; ``likely`` has the least absolute error, relative to the count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from or_cache_magic.core.tokens import RATES, counts

if TYPE_CHECKING:
    from collections.abc import Sequence

MARGIN = 1.05
"""By how much a bound stays away from the counts it was found with, for the sake of other texts."""

REPEATED = (b"n", b"t", b"  ", b"..")
"""What some tokenizers merge however much of it there is: blanks, rules. At the least it is nothing."""

ALONE = {b"  ": 0.13, b"A": 1.25, b"0a": 1, b"f": 3, b"q": 4}
"""What is worth so much at the most in texts of little else, which are not among these: a token for 16
blanks, one for each byte of a rare sign, one and a mark for a capital among digits."""

PER_TEXT_LOW, PER_TEXT_HIGH = -4, 6
"""How much a bound may give to a text as such: long ones are spared what chance does to short ones."""


def fit(
    texts: Sequence[str], weights: Sequence[float], true: Sequence[Sequence[int]], middle: Sequence[float]
) -> Any:
    """Three rows of rates (low, likely, high); their columns are those of `counts`.

    Args:
        texts: What was counted.
        weights: How much each matters.
        true: For each text its number of tokens by every tokenizer.
        middle: For each text what ``likely`` should come to.
    """
    import numpy as np

    found = np.array([counts(text.encode()) for text in texts], dtype=float)
    weight = np.array(weights) / sum(weights)
    least, most = np.min(true, axis=1) / MARGIN, np.max(true, axis=1) * MARGIN
    low = _bound(found, weight, -1, least, [(PER_TEXT_LOW, 0), (0, None), *map(_at_least, RATES)])
    high = _bound(
        found,
        weight,
        1,
        most,
        [(0, PER_TEXT_HIGH), (0, None), *((ALONE.get(kind, 0), None) for kind in RATES)],
    )
    return low, _nearest(found, weight, np.array(middle, dtype=float)), high


def holding(rates: Any, texts: Sequence[str], true: Sequence[Sequence[int]]) -> tuple[float, float]:
    """For which part of other texts the bounds of these rates hold, whatever the tokenizer: low, high."""
    import numpy as np

    found = np.array([counts(text.encode()) for text in texts], dtype=float)
    low, _, high = rates
    least, most = np.min(true, axis=1), np.max(true, axis=1)
    return float(np.mean(np.floor(found @ low) <= least)), float(np.mean(np.ceil(found @ high) >= most))


def _at_least(kind: bytes) -> tuple[float, float | None]:
    """Where the low rate may lie: a word or a sign is surely a token; of digits 3 may be, of capitals 5."""
    if kind in REPEATED:
        return 0, 0
    return 0, {b"0": 1 / 3, b"A": 1 / 5}.get(kind, {1: None, 2: 1}.get(len(kind), 2))


def _bound(
    found: Any, weight: Any, sign: int, edge: Any, limits: Sequence[tuple[float, float | None]]
) -> Any:
    """The rates whose sums are least above the edge (``sign`` 1) or most below it (-1)."""
    import numpy as np
    from scipy.optimize import linprog

    objective = sign * (weight / np.maximum(edge, 1)) @ found
    return linprog(objective, A_ub=-sign * found, b_ub=-sign * edge, bounds=limits, method="highs").x


def _nearest(found: Any, weight: Any, middle: Any) -> Any:
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, hstack, identity, vstack

    some = middle > 0
    relative, weight = csr_matrix(found[some] / middle[some, None]), weight[some]
    error = identity(relative.shape[0])
    over, under = hstack([relative, -error]), hstack([-relative, -error])
    ones = [1.0] * relative.shape[0]
    limits = [(0, 1)] + [(0, None)] * (found.shape[1] - 1 + len(ones))
    objective = [0.0] * found.shape[1] + list(weight)
    edges = ones + [-one for one in ones]
    solved = linprog(objective, A_ub=vstack([over, under]), b_ub=edges, bounds=limits, method="highs")
    return solved.x[: found.shape[1]]


def as_source(low: Any, likely: Any, high: Any) -> str:
    """The rates as lines of `RATES`, rounded outwards."""
    from math import ceil, floor

    lines = []  # the rates of ASCII, then those of other scripts
    for kind, least, near, most in zip(["PER_TEXT", "FOREIGN", *RATES], low, likely, high, strict=True):
        bounds = floor(least * 1000 + 1e-6) / 1000, ceil(most * 1000 - 1e-6) / 1000
        rates = f"Rates({bounds[0]:g}, {round(near, 3):g}, {bounds[1]:g})"
        lines.append(f"{kind}: {rates}" if isinstance(kind, str) else f'    b"{kind.decode()}": {rates},')
    return "\n".join(lines)
