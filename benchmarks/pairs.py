"""Runs of both sides of a row in turn, and what they come to."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Self

import msgspec

from benchmarks.load import Load
from benchmarks.processes import staged
from benchmarks.rows import Bar, Row

__all__ = ["Comparison", "Spread", "compare"]


class Spread(msgspec.Struct, frozen=True):
    """A median between its quartiles."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Self:
        """Return the spread of some values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def best(self, bar: Bar) -> float:
        """Return the quartile on the good side of a bar: noise can only make a run slower."""
        return self.upper if bar.at_least else self.lower


class Comparison(msgspec.Struct):
    """The figures of one row."""

    key: str
    ours: list[float] = []
    beside: list[float] = []
    """The figure of each pair; empty if nothing stands beside ours."""

    problem: str = ""
    """Why there are no figures."""

    @property
    def ratios(self) -> list[float]:
        """Ours to the other side's, for each pair."""
        return [one / other for one, other in zip(self.ours, self.beside, strict=False)]

    @property
    def judged(self) -> Spread:
        """What a bar is held against: the ratio, or our figure if nothing stands beside it."""
        return Spread.of(self.ratios or self.ours)


def compare(row: Row, load: Load, *, pairs: int) -> Comparison:
    """Measure both sides of a row in turn; which one begins changes from pair to pair."""
    found = Comparison(row.key)
    sides = [(row.ours, found.ours)]
    if row.beside is not None:
        sides.append((row.beside, found.beside))
    with ExitStack() as stack:
        ready = [(stack.enter_context(staged(side, load)), figures) for side, figures in sides]
        for _ in range(min(pairs, row.most_pairs or pairs)):
            for measure, figures in ready:
                figures.append(measure())
            ready.reverse()
    return found
