"""Rows of the audit that others can cause: one by one, and the sum of what is too much."""

from __future__ import annotations

from time import monotonic

from headgate.gateway.excess import Excess
from headgate.gateway.limits import TokenBucket

__all__ = ["Rows"]

ROWS_A_SECOND = 20.0
"""Rows of one user that are recorded one by one in a second, on average."""

MOST_ROWS = 1_000.0
"""How many at once; what is more is added up: nobody must be able to fill the disk."""

MOST_USERS = 1_024
"""Users above which those that have been quiet are forgotten."""


class Rows:
    """
    Tells what has a row of its own in the audit; what has none is added up.

    Args:
        limit: What the sums are counted as, one of `LIMITS`.
        excess: Adds them up.
        rate: Rows of a user in a second, on average.
        burst: Rows of a user at once.
    """

    def __init__(
        self,
        limit: str,
        excess: Excess,
        *,
        rate: float = ROWS_A_SECOND,
        burst: float = MOST_ROWS,
    ) -> None:
        self._limit = limit
        self._excess = excess
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, *, user: str = "", address: str = "") -> bool:
        """
        Whether what happened is to have a row of its own; if not, it is in a sum.

        Args:
            user: Whose rows are counted together; empty for all who are not signed in.
            address: The IP address, for the sum.
        """
        now = monotonic()
        bucket = self._buckets.get(user) or self._made(user, now)
        if bucket.take(1, now):
            return True
        return not self._excess.add(self._limit, user=user, address=address)

    def _made(self, user: str, now: float) -> TokenBucket:
        if len(self._buckets) >= MOST_USERS:
            self._buckets = {k: each for k, each in self._buckets.items() if not each.is_full(now)}
        bucket = TokenBucket(self._limit, rate=self._rate, burst=self._burst)
        self._buckets[user] = bucket
        return bucket
