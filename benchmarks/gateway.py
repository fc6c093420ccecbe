"""Headgate as its users have it: `headgate run` with its defaults, and clients of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import headgate
from benchmarks.candidates import Candidate
from benchmarks.load import IN_FLIGHT, PAYLOAD, Call, Connect, Load
from benchmarks.processes import Measure, Served, server_core

__all__ = [
    "ASYNC",
    "NESTED",
    "SYNC",
    "TLS",
    "connect",
    "raise_file_limit",
    "reported",
    "serve",
    "threaded",
]

ROOT = Path(__file__).parents[1]
"""Where the gateway runs: one of the handlers imports the loads."""

PROJECTS = ROOT / "benchmarks" / "projects"


@contextlib.contextmanager
def serve(*, tls: bool = False) -> Iterator[Served]:
    """
    Run a gateway as its own process.

    Args:
        tls: Whether it has a certificate, and listens beyond loopback so that it is used.
    """
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as stack:
        headgate_command = [sys.executable, "-m", "headgate"]
        command = [*headgate_command, "run", "--port", "0", "--log-level", "error", "--json"]
        command += ["--projects", str(PROJECTS), "--name", "bench", "--data", data]
        if tls:
            made = [*headgate_command, "cert", "init", "--data", data]
            subprocess.run(made, check=True, capture_output=True)
            command += ["--host", "0.0.0.0", "--insecure"]
        raise_file_limit()
        with server_core():
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        process = stack.enter_context(running)
        stack.callback(process.terminate)
        yield Served(_url(process), process.pid)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the gateway did not start; it has told why above")
    # The owner's own URL: where the port has TLS, its clients speak it.
    return f"ws://127.0.0.1:{json.loads(line)['url'].rpartition(':')[2]}"


@contextlib.asynccontextmanager
async def connect(url: str, *, handler: str) -> AsyncIterator[Call]:
    """Connect a client."""
    async with headgate.connect(url) as client:
        yield partial(client.request, "ACME", handler)


SYNC = Candidate(serve, partial(connect, handler="sync"))
TLS = Candidate(partial(serve, tls=True), partial(connect, handler="sync"))
ASYNC = Candidate(serve, partial(connect, handler="asynchronous"))
NESTED = Candidate(serve, partial(connect, handler="nested"))


async def reported(connect: Connect, load: Load) -> float:
    """Return requests a second that a handler has counted."""
    async with connect() as call:
        return float(await call({"seconds": load.seconds}))


def raise_file_limit() -> None:
    """Each session is an open file at both ends."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
