"""Finding what is overdue in a table, at the price of one comparison for each thing put into it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, TypeVar

__all__ = ["GRANULARITY", "Deadlines"]

GRANULARITY = 0.005
"""Seconds that lie at least between two looks through a table."""


class HasDeadline(Protocol):
    """Anything with a moment at which it is overdue."""

    @property
    def deadline(self) -> float:
        """When it is overdue, in seconds on a monotonic clock."""


Key = TypeVar("Key")


class Deadlines:
    """
    The earliest moment at which something in a table may be overdue.

    Most requests end long before their deadline, so nothing is removed here when they end and no
    timer is kept for each: the table is looked through only when its earliest deadline is reached.

    Args:
        grace: Seconds after its deadline at which a thing counts as overdue.
    """

    __slots__ = ("_grace", "next")

    def __init__(self, grace: float = 0.0) -> None:
        self.next = math.inf
        """No thing in the table is overdue before this moment."""
        self._grace = grace

    def add(self, deadline: float) -> None:
        """Note that a thing with this deadline was put into the table."""
        if deadline + self._grace < self.next:
            self.next = deadline + self._grace

    def overdue(self, table: Mapping[Key, HasDeadline], now: float) -> list[Key]:
        """Return the keys of the things that are overdue, and note when to look again."""
        if now < self.next:
            return []
        late, latest, earliest = [], now - self._grace, math.inf
        for key, thing in table.items():
            if thing.deadline <= latest:
                late.append(key)
            elif thing.deadline < earliest:
                earliest = thing.deadline
        self.next = max(earliest + self._grace, now + GRANULARITY)
        return late
