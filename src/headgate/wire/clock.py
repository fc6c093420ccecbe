"""How long messages were under way, judged from the two ends' clocks."""

from __future__ import annotations

import math

__all__ = ["TransitClock"]

WINDOW = 60.0
"""Seconds for which the best sample counts, so that drifting clocks are followed."""


class TransitClock:
    """
    Estimates the transit of each message.

    Theory of operation: every message carries its sender's clock. The difference to the
    receiver's is the clocks' offset plus the transit, so the smallest difference seen lately is
    the offset plus the fastest transit, which is half of the fastest round trip. What a later
    message shows above that is time that it spent in buffers.
    """

    __slots__ = ("_best", "_fastest", "_half_trip", "_lately", "_window_end")

    def __init__(self) -> None:
        self._best = math.inf
        self._lately = math.inf
        self._fastest = math.inf
        self._half_trip = 0.0
        self._window_end = -math.inf

    def arrived(self, sent: float, now: float) -> float:
        """
        Note the arrival of a message.

        Args:
            sent: The sender's clock in the message, in seconds.
            now: The receiver's clock, in seconds.

        Returns:
            The seconds that the message was under way, as far as they are known.
        """
        offset = now - sent
        if now >= self._window_end:
            self._best, self._lately = min(self._lately, offset), offset
            self._window_end = now + WINDOW
        elif offset < self._lately:
            self._lately = offset
            if offset < self._best:
                self._best = offset
        return offset - self._best + self._half_trip

    def round_trip(self, seconds: float) -> None:
        """Note a measured round trip; the fastest one counts."""
        half = max(0.0, seconds / 2)
        if half < self._fastest:
            self._fastest = self._half_trip = half
