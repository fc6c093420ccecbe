"""Turns in which a gateway makes answers that take its event loop long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from weakref import WeakValueDictionary

from headgate.invocation import Caller

__all__ = ["Turns"]

REST = 4.0
"""How often the time that an answer took belongs to everything else, before the next one."""


class Turns:
    """
    Lets one answer be made at a time, by sessions in turn, and the event loop rest in between.

    A table of all that is open takes many milliseconds. So whoever asks for it in a flood waits for
    the answers, but neither do other requests nor those who ask for it once.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._next = 0.0

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Wait until it is a caller's turn; in it nothing is awaited."""
        # Of each session the first one alone stands in the line of all.
        line = self._lines.setdefault(caller.session, asyncio.Lock())
        async with line, self._turn:
            pause = self._next - monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            began = monotonic()
            try:
                yield
            finally:
                now = monotonic()
                self._next = now + (now - began) * REST
