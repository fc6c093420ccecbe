"""
The bare prototype: websockets' sans-I/O core, the messages of one loop turn in one frame.

It is what is left of Headgate without handles, deadlines, policy, projects and handler threads, so
the ratio to it tells what those cost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import msgspec
import uvloop
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from benchmarks.candidates import Candidate, serving
from benchmarks.load import Call
from benchmarks.processes import Announce

__all__ = ["ECHO"]

decode = msgspec.msgpack.Decoder().decode
encode = msgspec.msgpack.Encoder().encode


class EchoServer(asyncio.Protocol):
    """Answers each message of a batch in one batch."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.core = ServerProtocol(max_size=1 << 24)

    def data_received(self, data: bytes) -> None:
        core = self.core
        core.receive_data(data)
        for event in core.events_received():
            if isinstance(event, Request):
                core.send_response(core.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                calls = decode(event.data)
                core.send_binary(encode([(2, c[1], {"ok": c[3]["number"]}) for c in calls]))
        for out in core.data_to_send():
            if out:
                self.transport.write(out)


class EchoClient(asyncio.Protocol):
    """Sends what one turn of the event loop called in one batch."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.url = url
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.out: list[Any] = []
        self.last = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.core = ClientProtocol(parse_uri(self.url), max_size=1 << 24)
        self.core.send_request(self.core.connect())
        self.write()

    def write(self) -> None:
        for out in self.core.data_to_send():
            if out:
                self.transport.write(out)

    def flush(self) -> None:
        out, self.out = self.out, []
        self.core.send_binary(encode(out))
        self.write()

    def data_received(self, data: bytes) -> None:
        self.core.receive_data(data)
        for event in self.core.events_received():
            if isinstance(event, Response):
                self.ready.set_result(None)
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                for answer in decode(event.data):
                    self.waiting.pop(answer[1]).set_result(answer[2])

    def call(self, payload: Any) -> asyncio.Future[Any]:
        """Call, and return the future of the answer."""
        self.last += 1
        self.waiting[self.last] = future = self.loop.create_future()
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append((1, self.last, "ACME/test", payload))
        return future


def serve(announce: Announce) -> None:
    """Serve until the process is ended."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", 0)
        announce(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await server.serve_forever()

    uvloop.run(main())


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Call]:
    """Connect to the server."""
    uri, loop = parse_uri(url), asyncio.get_running_loop()
    transport, client = await loop.create_connection(lambda: EchoClient(url), uri.host, uri.port)
    try:
        await client.ready
        yield client.call
    finally:
        transport.close()


ECHO = Candidate(partial(serving, serve), connected)
