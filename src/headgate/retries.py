"""
Requests that are sent again after a failure that left nothing behind and may pass.

Sent again is only what certainly did not begin, and only where the reason may be gone the next
time: no room (`Overloaded`), no connection (`GatewayUnreachable`), a connection that broke before
the request was on it (`ConnectionLost`). What is refused for what it is would be refused again:
denied, not found, a payload, a deadlock. After a timeout the time is used up, and a cancellation is
somebody's will.
"""

from __future__ import annotations

import random
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable

from headgate.errors import ConnectionLost, GatewayUnreachable, Overloaded, RequestError
from headgate.outcome import Failure, Outcome
from headgate.request import Request

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "MOST_RETRIES", "Again", "Retried"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds that pass at most before a request is sent again: the first time, and ever."""

MOST_RETRIES = 100
"""How often a request is sent again at most."""

MAY_PASS = (Overloaded, GatewayUnreachable, ConnectionLost)
"""The failures after which it is sent again, if it certainly did not begin."""

Again = Callable[["Retried", float], bool]
"""Sends a request again after so many seconds; False if that is not possible any more."""


class Retried(Request, eq=False):
    """
    The handle of a request that is sent again, by itself and within its one deadline.

    Between two tries it is not over: nobody learns of the failure, and a cancellation ends it at
    once, as one that did not start. It ends as its last try does.
    """

    _again: Again | None = None
    _left: int = 0
    _failures: int = 0
    _last_id: str = ""

    def retry(self, times: int, again: Again) -> None:
        """
        Let it be sent again, from now on.

        Args:
            times: How often.
            again: Sends it again. It keeps the payload, and is forgotten at the end.
        """
        self._left, self._again = times, again

    @property
    def request_id(self) -> str:
        """The id of the last try, 32 hex digits; empty until it is sent."""
        return super().request_id or self._last_id

    def end(self, outcome: Outcome, loop: AbstractEventLoop | None = None) -> bool:
        """End the request, or have it sent again; True if this call did either."""
        if type(outcome) is Failure and self._goes_on(outcome.error):
            return True
        ended = super().end(outcome, loop)
        self._again = None
        return ended

    def _goes_on(self, error: RequestError) -> bool:
        again = self._again
        if again is None or not self._left or not isinstance(error, MAY_PASS):
            return False
        pause = self._pause(error)
        if self.deadline - time.monotonic() <= pause:
            return False
        self._last_id = self.request_id
        if not self.take_back(error):
            return False
        self._left -= 1
        self._failures += 1
        return again(self, pause)

    def _pause(self, error: RequestError) -> float:
        """Return the seconds to wait: never fewer than whoever refused it asked for."""
        asked_for = (error.retry_after or 0.0) if isinstance(error, Overloaded) else 0.0
        # Full jitter: those who were refused together do not come back together.
        longest = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        return max(0.0, asked_for) + random.uniform(0, longest)
