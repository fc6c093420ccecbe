"""The load that every candidate gets, and the figures that come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

PAYLOAD = {"number": 55, "tag": "[default]Line1/Speed", "values": [1, 2, 3]}
IN_FLIGHT = 256


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
