"""Shares the turns of the event loop between what comes in thousands and everything else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """
    Runs at most so many functions in one turn of the event loop, in order.

    Where there are fewer they run at once, without a way through the loop.

    Args:
        most: Functions in a turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._room = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._renewing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, function: Callable[[], None]) -> None:
        """Run a function now or in a later turn; it must not raise."""
        if self._waiting or not self._room:
            self._waiting.append(function)
        else:
            self._room -= 1
            function()
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def finish(self) -> None:
        """Run all that waits, now."""
        while self._waiting:
            self._waiting.popleft()()

    def _renew(self) -> None:
        """Begin a turn; after one in which nothing was done there need be none."""
        waiting = self._waiting
        self._renewing = bool(waiting)
        if waiting:
            asyncio.get_running_loop().call_soon(self._renew)
        self._room = self._most
        while waiting and self._room:
            self._room -= 1
            waiting.popleft()()
