"""Headgate as its users have it: `headgate run` with its defaults, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import uvloop

import headgate
from benchmarks.candidates import Candidate
from benchmarks.load import IN_FLIGHT, PAYLOAD, Call, Connect, Load, flood
from benchmarks.processes import Announce, Measure, Served, child, server_core

__all__ = ["ASYNC", "NESTED", "SYNC", "bytes_a_session", "idle", "noisy", "reported", "threaded"]

ROOT = Path(__file__).parents[1]
"""Where the gateway runs: one of the handlers imports the loads."""

PROJECTS = ROOT / "benchmarks" / "projects"
NOISY_IN_FLIGHT = 4096
FEW_SESSIONS = 10
LOGINS_AT_ONCE = 100


@contextlib.contextmanager
def serve() -> Iterator[Served]:
    """Run a gateway as its own process."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "headgate", "run", "--port", "0", "--log-level", "error"]
        command += ["--projects", str(PROJECTS), "--name", "bench", "--data", data]
        _raise_file_limit()
        with server_core():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield Served(next(word for word in line.split() if word.startswith("ws:")), process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


@contextlib.asynccontextmanager
async def connect(url: str, *, handler: str) -> AsyncIterator[Call]:
    """Connect a client."""
    async with headgate.connect(url) as client:
        yield partial(client.request, "ACME", handler)


SYNC = Candidate(serve, partial(connect, handler="sync"))
ASYNC = Candidate(serve, partial(connect, handler="asynchronous"))
NESTED = Candidate(serve, partial(connect, handler="nested"))


async def reported(connect: Connect, load: Load) -> float:
    """Return requests a second that a handler has counted."""
    async with connect() as call:
        return float(await call({"seconds": load.seconds}))


# --- a program with threads ----------------------------------------------------------------------


@contextlib.contextmanager
def threaded(load: Load) -> Iterator[Measure]:
    """A program without event loop: each answer's callback makes the next request."""
    with serve() as served:
        yield lambda: _callbacks_a_second(served.address, load.seconds)


def _callbacks_a_second(url: str, seconds: float) -> float:
    with headgate.connect(url) as client:
        _chains(client, seconds / 10)
        return _chains(client, seconds)


def _chains(client: headgate.Client, seconds: float) -> float:
    """Requests a second of `IN_FLIGHT` chains of requests, one in flight in each."""
    request, clock = client.request, time.perf_counter
    answers, ended, over = 0, 0, threading.Event()
    start = clock()
    end = start + seconds

    def answered(_: object) -> None:
        # All callbacks run on one thread.
        nonlocal answers, ended
        answers += 1
        if clock() < end:
            request("ACME", "sync", PAYLOAD, on_success=answered)
            return
        ended += 1
        if ended == IN_FLIGHT:
            over.set()

    for _ in range(IN_FLIGHT):
        request("ACME", "sync", PAYLOAD, on_success=answered)
    if not over.wait(seconds + 60):
        raise RuntimeError("not every request was answered")
    return answers / (clock() - start)


# --- company -------------------------------------------------------------------------------------


@contextlib.contextmanager
def noisy(served: Served, load: Load) -> Iterator[None]:
    """Another client, which has as many requests in flight as the gateway lets it have."""
    with child(_make_noise, served.address):
        yield


def _make_noise(announce: Announce, url: str) -> None:
    async def main() -> None:
        async with connect(url, handler="sync") as call:
            calls = [call] * NOISY_IN_FLIGHT
            await flood(calls, 0.1)
            announce("noisy")
            while True:
                await flood(calls, 60)

    _give_way()
    uvloop.run(main())


@contextlib.contextmanager
def idle(served: Served, load: Load, *, sessions: int | None = None) -> Iterator[None]:
    """Clients that are connected and ask for nothing."""
    with child(_stay_idle, served.address, load.sessions if sessions is None else sessions):
        yield


def _stay_idle(announce: Announce, url: str, sessions: int) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            while sessions > len(clients):
                some = [headgate.connect(url) for _ in range(LOGINS_AT_ONCE)][
                    : sessions - len(clients)
                ]
                clients.extend(await asyncio.gather(*map(stack.enter_async_context, some)))
            announce("idle")
            await asyncio.Event().wait()

    clients: list[headgate.Client] = []
    _give_way()
    _raise_file_limit()
    uvloop.run(main())


@contextlib.contextmanager
def bytes_a_session(load: Load) -> Iterator[Measure]:
    """What one more idle session adds to the memory of a gateway that was just started."""

    def measure() -> float:
        with serve() as served, idle(served, load, sessions=FEW_SESSIONS):
            before = _resident_bytes(served.pid)
            with idle(served, load):
                return (_resident_bytes(served.pid) - before) / load.sessions

    yield measure


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _give_way() -> None:
    """
    Let others go first on the core that this process shares with the client that is measured.

    What is compared is what the gateway makes of them, not what the system's scheduler does.
    """
    os.nice(19)


def _raise_file_limit() -> None:
    """Each session is an open file at both ends."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
