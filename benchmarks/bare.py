"""
The bare prototype: websockets' sans-I/O core, the messages of one loop turn in one frame.

It is what is left of Headgate without handles, deadlines, policy, projects and handler threads, so
the ratio to it tells what those cost.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from typing import Any, cast

import msgspec
import uvloop
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from benchmarks.load import Figures, measure, server_core

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


def serve(listener: socket.socket) -> None:
    """Serve until the process is ended."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(EchoServer, sock=listener)
        await server.serve_forever()

    uvloop.run(main())


def run() -> Figures:
    """Run the server in a process of its own and the client here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = multiprocessing.get_context("fork").Process(target=serve, args=(listener,))
        with server_core():
            process.start()
        try:
            return uvloop.run(_client(f"ws://127.0.0.1:{port}/"))
        finally:
            process.terminate()
            process.join()


async def _client(url: str) -> Figures:
    loop = asyncio.get_running_loop()
    host, port = parse_uri(url).host, parse_uri(url).port
    transport, client = await loop.create_connection(lambda: EchoClient(url), host, port)
    try:
        await client.ready
        return await measure(client.call)
    finally:
        transport.close()
