"""Others at the gateway beside the client that is measured, and what they cost it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

import headgate
from benchmarks.gateway import connect, raise_file_limit, serve
from benchmarks.load import Load, flood
from benchmarks.processes import Announce, Measure, Served, child

__all__ = [
    "FEW_SESSIONS",
    "accompanied",
    "bytes_a_session",
    "idle",
    "noisy",
    "resident_bytes",
]

NOISY_IN_FLIGHT = 4096
FEW_SESSIONS = 10
LOGINS_AT_ONCE = 100


@contextlib.contextmanager
def noisy(served: Served, load: Load) -> Iterator[None]:
    """Another client, which has as many requests in flight as the gateway lets it have."""
    with accompanied(served, _make_noise):
        yield


@contextlib.contextmanager
def idle(served: Served, load: Load, *, sessions: int | None = None) -> Iterator[None]:
    """Clients that are connected and ask for nothing."""
    with accompanied(served, _stay_idle, load.sessions if sessions is None else sessions):
        yield


@contextlib.contextmanager
def accompanied(served: Served, target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """
    Run other clients in a process of their own; the gateway has seen them go at the end.

    Raises:
        RuntimeError: They did not stay, so nobody knows beside whom something was measured.
    """
    before = _connections(served.pid)
    with child(target, served.address, *arguments):
        present = _connections(served.pid)
        yield
        lost = present - _connections(served.pid)
        if lost > 0:
            raise RuntimeError(f"{lost} other clients lost the gateway: this machine is too busy")
    end = time.monotonic() + 60
    while _connections(served.pid) > before:
        if time.monotonic() > end:
            raise RuntimeError("the gateway keeps connections of clients that are gone")
        time.sleep(0.01)


def _make_noise(announce: Announce, url: str) -> None:
    async def main() -> None:
        async with connect(url, handler="sync") as call:
            calls = [call] * NOISY_IN_FLIGHT
            await flood(calls, 0.1)
            _give_way()
            announce("noisy")
            while True:
                await flood(calls, 60)

    uvloop.run(main())


def _stay_idle(announce: Announce, url: str, sessions: int) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for start in range(0, sessions, LOGINS_AT_ONCE):
                some = range(start, min(start + LOGINS_AT_ONCE, sessions))
                clients = (headgate.connect(url) for _ in some)
                await asyncio.gather(*map(stack.enter_async_context, clients))
            _give_way()
            announce("idle")
            await asyncio.Event().wait()

    # Thousands of clients would say the same; whoever waits for them counts them.
    logging.disable()
    raise_file_limit()
    uvloop.run(main())


@contextlib.contextmanager
def bytes_a_session(load: Load) -> Iterator[Measure]:
    """What one more idle session adds to the memory of a gateway that was just started."""

    def measure() -> float:
        with serve() as served, idle(served, load, sessions=FEW_SESSIONS):
            before = resident_bytes(served.pid)
            with idle(served, load):
                return (resident_bytes(served.pid) - before) / load.sessions

    yield measure


def resident_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _connections(pid: int) -> int:
    """Count the sockets of a process; it has other files that come and go."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


def _give_way() -> None:
    """
    Let others go first on the core that this process shares with the client that is measured.

    What is compared is what the gateway makes of them, not what the system's scheduler does.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
