"""The loads that every candidate gets, and the figures that come of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

__all__ = [
    "PAYLOAD",
    "Call",
    "Connect",
    "Load",
    "Measurement",
    "flood",
    "large_payloads",
    "many_connections",
    "p50",
    "p99",
    "throughput",
]

PAYLOAD = {"number": 55, "tag": "[default]Line1/Speed", "values": [1, 2, 3]}
LARGE = {"number": bytes(1_000_000)}
"""Handlers answer with the number, so this one goes there and comes back."""

IN_FLIGHT = 256
LARGE_IN_FLIGHT = 4

Call = Callable[[Any], Awaitable[Any]]
"""Sends a payload and gives the answer."""

Connect = Callable[[], AbstractAsyncContextManager[Call]]
"""Opens one connection."""


@dataclass(frozen=True)
class Load:
    """How much is asked of a candidate in one measurement."""

    seconds: float = 0.7
    sessions: int = 10_000
    """Idle sessions, for the rows that are about them."""
    values: int = 1_000_000
    """Values of a stream, each a small number."""
    pause: float = 1.0
    """Seconds between two values that a slow reader takes."""


Measurement = Callable[[Connect, Load], Awaitable[float]]
"""Puts a load on a candidate and gives one figure."""


async def throughput(connect: Connect, load: Load) -> float:
    """Return requests a second with `IN_FLIGHT` of them in flight on one connection."""
    async with connect() as call:
        return await flood([call] * IN_FLIGHT, load.seconds)


async def many_connections(connect: Connect, load: Load) -> float:
    """Return requests a second on `IN_FLIGHT` connections with one in flight on each."""
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(connect()) for _ in range(IN_FLIGHT)]
        return await flood(calls, load.seconds)


async def large_payloads(connect: Connect, load: Load) -> float:
    """Return requests of 1 MB a second, with answers of 1 MB and four in flight."""
    async with connect() as call:
        return await flood([call] * LARGE_IN_FLIGHT, load.seconds, payload=LARGE)


async def p50(connect: Connect, load: Load) -> float:
    """Return the median round trip of one request at a time, in seconds."""
    laps = await _laps(connect, load)
    return laps[len(laps) // 2]


async def p99(connect: Connect, load: Load) -> float:
    """Return the 99th percentile of the round trips of one request at a time, in seconds."""
    laps = await _laps(connect, load)
    return laps[len(laps) * 99 // 100]


async def flood(calls: Sequence[Call], seconds: float, *, payload: Any = PAYLOAD) -> float:
    """Return requests a second, with one in flight for each entry of `calls`."""

    async def ask(call: Call, end: float) -> int:
        # At least once: on a busy machine the time may be over before the first begins.
        count = 0
        while not count or time.perf_counter() < end:
            await call(payload)
            count += 1
        return count

    async def ask_all(duration: float) -> float:
        start = time.perf_counter()
        counts = await asyncio.gather(*(ask(call, start + duration) for call in calls))
        return sum(counts) / (time.perf_counter() - start)

    await ask_all(seconds / 10)
    return await ask_all(seconds)


async def _laps(connect: Connect, load: Load) -> list[float]:
    """Round trips of one request at a time, sorted."""
    async with connect() as call:
        await flood([call], load.seconds / 10)
        laps = []
        end = time.perf_counter() + load.seconds
        while (start := time.perf_counter()) < end or not laps:
            await call(PAYLOAD)
            laps.append(time.perf_counter() - start)
    return sorted(laps)
