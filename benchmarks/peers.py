"""
Other ways to ask a process for something: each with the same payload, and a deadline where it can.

Their packages are imported where they are used: `make bench` alone installs them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec

from benchmarks.candidates import Candidate, serving
from benchmarks.load import Call
from benchmarks.processes import Announce

__all__ = ["GRPC", "PYRO", "RPYC", "ZMQ"]

TIMEOUT = 5.0
HOST = "127.0.0.1"

decode = msgspec.msgpack.Decoder().decode
encode = msgspec.msgpack.Encoder().encode


def answer_to(payload: Any) -> dict[str, Any]:
    """What every server answers."""
    return {"ok": payload["number"]}


# --- gRPC: grpc.aio, unary -----------------------------------------------------------------------


def serve_grpc(announce: Announce) -> None:
    """Answer a unary call."""
    import grpc

    async def answer(request: Any, context: Any) -> Any:
        return answer_to(request)

    async def main() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(answer, decode, encode)
        handlers = grpc.method_handlers_generic_handler("acme", {"test": method})
        server.add_generic_rpc_handlers((handlers,))
        port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        announce(f"{HOST}:{port}")
        await server.wait_for_termination()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def connect_grpc(address: str) -> AsyncIterator[Call]:
    """Open a gRPC channel."""
    import grpc

    async with grpc.aio.insecure_channel(address) as channel:
        yield partial(channel.unary_unary("/acme/test", encode, decode), timeout=TIMEOUT)


# --- ZeroMQ: DEALER to ROUTER --------------------------------------------------------------------


def serve_zmq(announce: Announce) -> None:
    """Answer on a ROUTER socket."""
    import zmq

    router = zmq.Context().socket(zmq.ROUTER)
    announce(f"tcp://{HOST}:{router.bind_to_random_port(f'tcp://{HOST}')}")
    while True:
        peer, key, body = router.recv_multipart()
        router.send_multipart([peer, key, encode(answer_to(decode(body)))])


@contextlib.asynccontextmanager
async def connect_zmq(address: str) -> AsyncIterator[Call]:
    """Connect a DEALER socket; a number in each message finds the one who waits."""
    import zmq
    import zmq.asyncio

    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(address)
    loop = asyncio.get_running_loop()
    waiting: dict[bytes, asyncio.Future[Any]] = {}
    last = 0

    async def receive() -> None:
        while True:
            key, body = await dealer.recv_multipart()
            waiting.pop(key).set_result(decode(body))

    async def call(payload: Any) -> Any:
        nonlocal last
        last += 1
        key = last.to_bytes(4, "big")
        waiting[key] = future = loop.create_future()
        await dealer.send_multipart([key, encode(payload)])
        async with asyncio.timeout(TIMEOUT):
            return await future

    receiver = asyncio.create_task(receive())
    try:
        yield call
    finally:
        receiver.cancel()
        context.destroy(linger=0)


# --- RPyC and Pyro5: their clients wait ----------------------------------------------------------


def serve_rpyc(announce: Announce) -> None:
    """Answer a method that RPyC exposes."""
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Acme(rpyc.Service):
        def exposed_test(self, number: int, tag: str, values: tuple[int, ...]) -> int:
            return number

    server = ThreadedServer(Acme, hostname=HOST, port=0)
    announce(str(server.port))
    server.start()


@contextlib.asynccontextmanager
async def connect_rpyc(port: str) -> AsyncIterator[Call]:
    """Connect with RPyC; what goes by value there is a plain value or a tuple of them."""
    import rpyc

    connection = rpyc.connect(HOST, int(port), config={"sync_request_timeout": TIMEOUT})
    test = connection.root.test
    try:
        yield _waiting(lambda payload: test(payload["number"], payload["tag"], (1, 2, 3)))
    finally:
        connection.close()


def serve_pyro(announce: Announce) -> None:
    """Answer a method that Pyro exposes."""
    import Pyro5.api

    @Pyro5.api.expose
    class Acme:
        def test(self, payload: Any) -> Any:
            return answer_to(payload)

    daemon = Pyro5.api.Daemon(host=HOST, port=0)
    announce(str(daemon.register(Acme(), "acme")))
    daemon.requestLoop()


@contextlib.asynccontextmanager
async def connect_pyro(uri: str) -> AsyncIterator[Call]:
    """Make a Pyro proxy."""
    import Pyro5.api

    with Pyro5.api.Proxy(uri) as proxy:
        proxy._pyroTimeout = TIMEOUT
        yield _waiting(proxy.test)


def _waiting(function: Callable[[Any], Any]) -> Call:
    async def call(payload: Any) -> Any:
        return function(payload)

    return call


GRPC = Candidate(partial(serving, serve_grpc), connect_grpc, run=asyncio.run)
ZMQ = Candidate(partial(serving, serve_zmq), connect_zmq, run=asyncio.run)
RPYC = Candidate(partial(serving, serve_rpyc), connect_rpyc)
PYRO = Candidate(partial(serving, serve_pyro), connect_pyro)
