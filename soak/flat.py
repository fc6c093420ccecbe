"""
Is it flat? Least squares through the figures that were taken at rest.

Under load memory and tables go up and down; at rest, when every request is over, they must come
back to where they were. So each round of a soak ends with a rest, and only the figures of the
rests are held against a line. A gateway that is started again begins at another level: its lives
share one slope, and each has a level of its own.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import NamedTuple

__all__ = ["BYTES", "MIB", "Figure", "Point", "Series", "judge"]

MIB = 1024 * 1024

BYTES = frozenset({"rss", "heap"})
"""Figures that are bytes."""

SURE = 3.0
"""Standard errors by which a slope must be above its bound to count."""

MOST_RSS = 32 * MIB
"""
Resident bytes by which a process may grow in the time that was measured: eight of the largest
payloads. The C library keeps what lies between things that live, so each new peak of what was
alive at once may stay. `heap` and `blocks`, what is in use, find smaller leaks; this finds what
they do not see, such as mapped files.
"""

LEAST_HEAP = 4 * MIB
"""Bytes in use by which a process may grow in that time: buffers that keep their largest size."""

LEAST_BLOCKS = 1500.0
"""Pieces of memory by which it may seem to grow: caches fill, and lists keep room for more."""

LEAST_COUNT = 2.0
"""The same for descriptors and threads."""

LEAST_OBJECTS = 20.0
"""The same for live objects of one type: threads that wait may hold what they did last."""

OF_CUTS = 0.01
"""What leaks less than once in a hundred cuts is not told from noise in descriptors and objects."""

BLOCKS_OF_CUTS = 0.2
"""The same in pieces of memory."""

WARMING = 2
"""Rests of each life that are left out."""

LEAST_POINTS = 4
"""Points from which on a slope is judged."""


class Point(NamedTuple):
    """One figure at one rest."""

    minute: float
    life: int
    value: float


class Figure(NamedTuple):
    """What became of one series."""

    process: str
    name: str
    level: float
    """Median of the points that counted."""
    slope: float
    """Growth in a minute."""
    error: float
    """The slope's standard error."""
    bound: float
    """The slope from which on it counts as growth."""
    points: int

    @property
    def judged(self) -> bool:
        """Whether there were points enough."""
        return self.points >= LEAST_POINTS

    @property
    def grows(self) -> bool:
        """Whether it is certain that it grows by more than its bound."""
        return self.judged and self.slope - SURE * self.error > 0 and self.slope > self.bound


Series = dict[tuple[str, str], list[Point]]
"""Points by process and name of the figure."""


def judge(series: Series, *, cuts_a_minute: dict[str, float]) -> list[Figure]:
    """
    Fit a line through each series.

    Args:
        series: The points; those of warming up are left out here.
        cuts_a_minute: By process, in the mean.
    """
    found = []
    for (process, name), points in series.items():
        warm = _warm(points)
        if not warm:
            continue
        slope, error = _fit(warm)
        minutes = max(0.01, warm[-1].minute - warm[0].minute)
        bound = _bound(name, minutes, cuts_a_minute[process])
        level = statistics.median(point.value for point in warm)
        found.append(Figure(process, name, level, slope, error, bound, len(warm)))
    return found


def _bound(name: str, minutes: float, cuts: float) -> float:
    if name in BYTES:
        return (LEAST_HEAP if name == "heap" else MOST_RSS) / minutes
    if name == "blocks":
        return max(BLOCKS_OF_CUTS * cuts, LEAST_BLOCKS / minutes)
    least = LEAST_COUNT if name in ("fds", "threads") else LEAST_OBJECTS
    return max(OF_CUTS * cuts, least / minutes)


def _warm(points: list[Point]) -> list[Point]:
    """Leave out the first rests of each life: caches were empty, threads not started."""
    lives: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        lives[point.life].append(point)
    return [point for life in lives.values() for point in life[WARMING:]]


def _fit(points: list[Point]) -> tuple[float, float]:
    """Return the common slope of all lives and its standard error."""
    lives: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        lives[point.life].append(point)
    xs: list[float] = []
    ys: list[float] = []
    for life in lives.values():
        middle = statistics.fmean(point.minute for point in life)
        level = statistics.fmean(point.value for point in life)
        xs += [point.minute - middle for point in life]
        ys += [point.value - level for point in life]
    freedom = len(points) - len(lives) - 1
    square = math.fsum(x * x for x in xs)
    if freedom < 1 or not square:
        return 0.0, math.inf
    slope = statistics.linear_regression(xs, ys, proportional=True).slope
    left = math.fsum((y - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, math.sqrt(left / freedom / square)
