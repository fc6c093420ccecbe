"""The bare pipe: a process that answers what comes on its socket, one message after the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from benchmarks.candidates import Candidate
from benchmarks.load import Call
from benchmarks.processes import Served, server_core

__all__ = ["PIPE"]

decode = msgspec.msgpack.Decoder().decode
encode = msgspec.msgpack.Encoder().encode


@contextlib.contextmanager
def serve() -> Iterator[Served]:
    """Nothing: the process belongs to whoever calls it."""
    yield Served("", 0)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Call]:
    """Fork the process; calls wait for the answer with the event loop, as a gateway would."""
    here, there = socket.socketpair()
    with server_core():
        pid = os.fork()
    if not pid:
        here.close()
        _answer(there)
    there.close()
    here.setblocking(False)
    loop = asyncio.get_running_loop()

    async def call(payload: Any) -> Any:
        await loop.sock_sendall(here, encode(payload))
        return decode(await loop.sock_recv(here, 65536))

    try:
        yield call
    finally:
        here.close()
        os.waitpid(pid, 0)


def _answer(there: socket.socket) -> None:
    """Runs in the process, until the other end is closed."""
    while data := there.recv(65536):
        there.sendall(encode({"ok": decode(data)["number"]}))
    os._exit(0)


PIPE = Candidate(serve, connected)
"""Both ends on the cores that the gateway and its worker have."""
