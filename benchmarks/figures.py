"""A figure: something measured beside the bar that the design sets for it, and the table of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Verdict = Literal["ok", "over", "skipped"]

TIMES = "\N{MULTIPLICATION SIGN}"
"""The unit of a ratio of two things that were measured side by side."""


class MeasuringError(Exception):
    """Something could not be measured at all; says why."""


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: What was measured.
        sense: Whether the bar is the most (``≤``) or the least (``≥``) that is allowed.
        bar: The bar, in ``unit``.
        unit: What the number counts; `TIMES` for a ratio.
        measured: The number; None when it could not be measured, and ``detail`` says why.
        detail: What it was made of, or the reason and the remedy where nothing was measured.
    """

    name: str
    sense: Literal["≤", "≥"]
    bar: float
    unit: str
    measured: float | None
    detail: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the bar holds; ``skipped`` when nothing was measured."""
        if self.measured is None:
            return "skipped"
        holds = self.measured <= self.bar if self.sense == "≤" else self.measured >= self.bar
        return "ok" if holds else "over"


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, one a line, in columns."""
    rows = [("figure", "bar", "measured", "", "p50 (p95), or what it was made of")]
    for figure in figures:
        measured = "-" if figure.measured is None else _amount(figure.measured, figure.unit)
        bar = f"{figure.sense} {_amount(figure.bar, figure.unit)}"
        rows.append((figure.name, bar, measured, figure.verdict, figure.detail))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures as JSON's types, with their verdicts."""
    return [{**asdict(figure), "verdict": figure.verdict} for figure in figures]


def _amount(number: float, unit: str) -> str:
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"
