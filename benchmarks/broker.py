"""NATS beside Headgate: a broker, a program that answers, and nats-py's `request`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.candidates import Candidate, serving
from benchmarks.load import Call
from benchmarks.peers import HOST, TIMEOUT, answer_to, decode, encode
from benchmarks.processes import Announce

__all__ = ["NATS"]

PR_SET_PDEATHSIG = 1
"""Linux: send a signal to this process when its parent ends."""


def serve(announce: Announce) -> None:
    """Answer on a subject of a broker."""
    import nats

    async def main(url: str) -> None:
        connection = await nats.connect(url)

        async def answer(message: Any) -> None:
            await message.respond(encode(answer_to(decode(message.data))))

        await connection.subscribe("acme.test", queue="q", cb=answer)
        await connection.flush()
        announce(url)
        await asyncio.Event().wait()

    with _broker() as url:
        uvloop.run(main(url))


@contextlib.contextmanager
def _broker() -> Iterator[str]:
    """Run a NATS server, which ends with this process."""
    port = _free_port()
    end_with_parent = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
    command = [str(Path(sys.executable).with_name("nats-server")), "-a", HOST, "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=end_with_parent):
        _until_open(port)
        yield f"nats://{HOST}:{port}"


@contextlib.asynccontextmanager
async def connect(url: str) -> AsyncIterator[Call]:
    """Connect to the broker."""
    import nats

    connection = await nats.connect(url)

    async def call(payload: Any) -> Any:
        reply = await connection.request("acme.test", encode(payload), timeout=TIMEOUT)
        return decode(reply.data)

    try:
        yield call
    finally:
        await connection.close()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _until_open(port: int, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 0.2):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


NATS = Candidate(partial(serving, serve), connect)
