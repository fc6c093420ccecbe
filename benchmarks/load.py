"""The load that every candidate gets, and the figures that come of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

PAYLOAD = {"number": 55, "tag": "[default]Line1/Speed", "values": [1, 2, 3]}
IN_FLIGHT = 256


def client_core() -> None:
    """
    Keep this process on one core, and let `server_core` keep servers on the other.

    Two processes that take turns are quickest on one core and two that work at the same time on
    two; where the system decides, it decides anew in each run, and the figures of one candidate
    differ by a factor of two.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@contextlib.contextmanager
def server_core() -> Iterator[None]:
    """Processes that are started in here run on another core than the client."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0} if own != {0} else {1})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Figures(NamedTuple):
    """What one run of one candidate showed."""

    per_second: float
    """Requests a second with `IN_FLIGHT` of them in flight."""

    p50: float
    """Median round trip of one request at a time, in seconds."""

    p99: float
    """99th percentile of the same."""


async def measure(
    call: Callable[[Any], Awaitable[Any]], *, sequential: int = 1500, pipelined: int = 40_000
) -> Figures:
    """Time `call(PAYLOAD)`: first one at a time, then with `IN_FLIGHT` of them in flight."""
    for _ in range(300):
        await call(PAYLOAD)
    laps = []
    for _ in range(sequential):
        start = time.perf_counter()
        await call(PAYLOAD)
        laps.append(time.perf_counter() - start)
    laps.sort()

    async def worker(count: int) -> None:
        for _ in range(count):
            await call(PAYLOAD)

    each = pipelined // IN_FLIGHT
    start = time.perf_counter()
    await asyncio.gather(*(worker(each) for _ in range(IN_FLIGHT)))
    elapsed = time.perf_counter() - start
    return Figures(each * IN_FLIGHT / elapsed, laps[len(laps) // 2], laps[len(laps) * 99 // 100])
