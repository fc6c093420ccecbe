"""
The bare hop: from an event loop to a thread and back, with payload and answer encoded and decoded.

As in Headgate the thread takes one call at a time, and a loop that is awake is not woken again.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from benchmarks.candidates import Candidate
from benchmarks.load import Call
from benchmarks.processes import Served

__all__ = ["HOP"]

decode = msgspec.msgpack.Decoder().decode
encode = msgspec.msgpack.Encoder().encode

Item = tuple["asyncio.Future[Any]", bytes]


class Hop:
    """A thread that answers the calls of an event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self.answers: deque[Item] = deque()
        self.woken = False
        threading.Thread(target=self.work, daemon=True).start()

    def call(self, payload: Any) -> asyncio.Future[Any]:
        """Call, and return the future of the answer."""
        future = self.loop.create_future()
        self.calls.put((future, encode(payload)))
        return future

    def work(self) -> None:
        while call := self.calls.get():
            future, data = call
            self.answers.append((future, encode({"ok": decode(data)["number"]})))
            if not self.woken:
                self.woken = True
                self.loop.call_soon_threadsafe(self.take)

    def take(self) -> None:
        self.woken = False
        answers = self.answers
        while answers:
            future, data = answers.popleft()
            future.set_result(decode(data))


@contextlib.contextmanager
def serve() -> Iterator[Served]:
    """Nothing: both ends are in one process."""
    yield Served("", 0)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Call]:
    """Start the thread."""
    hop = Hop()
    try:
        yield hop.call
    finally:
        hop.calls.put(None)


HOP = Candidate(serve, connected)
