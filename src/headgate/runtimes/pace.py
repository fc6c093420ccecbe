"""How soon a handler that has too much to do will have room again."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Pace"]

LEAST = 0.05
"""Seconds after which another try is sensible at the earliest."""

MOST = 60.0
"""The same at the latest: much may have changed by then."""

QUICK = 0.02
"""Seconds of a run up to which not each is looked at: quick ones make room at once anyway."""

EVERY = 64
"""Of quick runs one in so many is looked at."""

WEIGHT = 0.25
"""What one look counts against all before it."""


class Pace:
    """
    How long the runs of a handler take lately, and what follows from that.

    Each who is refused is told of another place: of those who come back when they were told to,
    not all meet at the first one.
    """

    __slots__ = ("_place", "_taken_until", "_took", "_valid_until")

    def __init__(self) -> None:
        self._took: float | None = None
        self._place = 0.0
        self._valid_until = 0.0
        self._taken_until = 0.0

    def note(self, seconds: float) -> int:
        """Take what a run took; return how many runs later the next look is due."""
        if self._took is None:
            self._took = seconds
        else:
            self._took += (seconds - self._took) * WEIGHT
        return EVERY if seconds < QUICK else 1

    def retry_after(self, now: float, *, limit: int, running: Callable[[], int]) -> float | None:
        """
        Return the seconds until there is room for one more.

        Args:
            now: The time, on the monotonic clock.
            limit: How many are under way: when all of them are over there is room for everybody.
            running: Gives how many run at once.

        Returns:
            0.05 to 60 seconds; None if no run has ended yet.
        """
        if self._took is None:
            return None
        if now >= self._valid_until:
            # Counting takes longer than all the rest, and whoever floods asks often.
            self._place = self._took / max(1, running())
            self._valid_until = now + LEAST
        wanted = max(now, self._taken_until) + self._place
        self._taken_until = min(wanted, now + limit * self._place)
        return min(max(self._taken_until - now, LEAST), MOST)
