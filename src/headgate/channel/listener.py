"""Listens on the gateway's port, and takes each connection through its TLS handshake."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakSet

from headgate.channel.local import is_loopback
from headgate.channel.protocol import SHUTDOWN_SECONDS
from headgate.channel.server import TLS_HANDSHAKE, Peer, ServerChannel
from headgate.channel.turns import Turns
from headgate.errors import ConfigurationError

__all__ = ["Listener", "listen"]

logger = logging.getLogger("headgate.channel")

HANDSHAKE_SECONDS = 5.0
"""Seconds in which a connection must have begun to speak TLS, and then must have done with it."""

TURN_HANDSHAKES = 1
"""Handshakes that begin in one turn of the event loop: a signature takes about 0.3 ms."""

BACKLOG = 1024

CROWDED_SECONDS = 1.0
"""Seconds without a new connection, after the system had no room for one."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Refused = Callable[[Peer, str], None]
"""Is told the peer and the reason when a connection comes to nothing."""


class Listener:
    """
    The open port; `listen` makes it.

    Args:
        sockets: Bound and listening.
        make_channel: Makes the protocol of a connection.
        context: Gives what TLS is spoken with at the moment; it is asked once a connection, so
            another one holds for connections from then on. None for a port without TLS.
        refused: Is told of connections that come to nothing in the handshake.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        make_channel: Callable[[], ServerChannel],
        *,
        context: Callable[[], ssl.SSLContext] | None,
        refused: Refused,
    ) -> None:
        self._sockets = sockets
        self._make = make_channel
        self._channels: WeakSet[ServerChannel] = WeakSet()
        self._context = context
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._welcoming: set[asyncio.Task[None]] = set()
        self._turns = Turns(TURN_HANDSHAKES)

    @property
    def port(self) -> int:
        """The port's number."""
        number: int = self._sockets[0].getsockname()[1]
        return number

    async def open(self) -> None:
        """Take connections from now on."""
        for sock in self._sockets:
            if self._context is None:
                server = await self._loop.create_server(
                    self._make_channel, sock=sock, backlog=BACKLOG
                )
                self._servers.append(server)
            else:
                accepting = self._loop.create_task(self._accept(sock, self._context))
                self._accepting.append(accepting)

    def close(self) -> None:
        """Take no new connections; those that there are go on."""
        for server in self._servers:
            server.close()
        for task in (*self._accepting, *self._welcoming):
            task.cancel()
        for sock in self._sockets if not self._servers else ():
            # Where the loop still looks at it, it must not be another's number yet.
            self._loop.call_soon(sock.close)

    async def over(self) -> None:
        """Wait until all connections that were closed have ended, and cut the others."""
        for channel in list(self._channels):
            await channel.over()

    def _make_channel(self) -> ServerChannel:
        channel = self._make()
        if self._context is not None:
            self._channels.add(channel)
        return channel

    async def _accept(self, sock: socket.socket, context: Callable[[], ssl.SSLContext]) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(sock)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    logger.error("No connection can be taken: %s", error.strerror)
                    await asyncio.sleep(CROWDED_SECONDS)
                continue
            task = self._loop.create_task(self._welcome(connection, address, context))
            self._welcoming.add(task)
            task.add_done_callback(self._welcoming.discard)
            # An accept that need not wait lets nobody else have a turn.
            await asyncio.sleep(0)

    async def _welcome(
        self,
        connection: socket.socket,
        address: tuple[str, int],
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        """Take one connection to the end of its handshake, and not further."""
        channel = self._make_channel()
        try:
            if channel.count(address[0]):
                await self._shake_hands(channel, connection, context)
            else:
                connection.close()
        except BaseException as error:
            connection.close()
            channel.settle()
            if not isinstance(error, _TurnedAwayError | OSError):
                raise
            if reason := _why(error):
                peer = Peer(*address[:2], loopback=is_loopback(address[0]))
                self._refused(peer, reason)

    async def _shake_hands(
        self,
        channel: ServerChannel,
        connection: socket.socket,
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        end = self._loop.time() + HANDSHAKE_SECONDS
        await self._expect_tls(connection)
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.run(partial(_set, turn))
        await turn
        await self._loop.connect_accepted_socket(
            lambda: channel,
            connection,
            ssl=context(),
            ssl_handshake_timeout=max(0.01, end - self._loop.time()),
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )

    async def _expect_tls(self, connection: socket.socket) -> None:
        """Wait for the first byte, which stays where it is; answer whoever speaks plainly."""
        connection.setblocking(False)
        readable: asyncio.Future[None] = self._loop.create_future()
        try:
            self._loop.add_reader(connection, _set, readable)
        except NotImplementedError:
            return  # Windows: the handshake itself finds out
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await readable
        except TimeoutError:
            text = f"the TLS handshake did not come within {HANDSHAKE_SECONDS:.0f} seconds"
            raise _TurnedAwayError(text) from None
        finally:
            self._loop.remove_reader(connection)
        first = connection.recv(1, socket.MSG_PEEK)
        if not first:
            raise _TurnedAwayError("")  # it only looked whether somebody listens
        if first != TLS_HANDSHAKE:
            with suppress(OSError):
                connection.recv(65536)
                connection.send(_plain_answer())
                connection.shutdown(socket.SHUT_WR)
            raise _TurnedAwayError("it does not speak TLS")


class _TurnedAwayError(Exception):
    """A connection comes to nothing; the text says why, and is empty if nobody need know."""


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _plain_answer() -> bytes:
    text = "This gateway speaks TLS: write wss:// for a client, https:// for a page.\n"
    return (
        f"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )


def _why(error: _TurnedAwayError | OSError) -> str:
    """Return why a handshake came to nothing, empty if nobody need know."""
    if isinstance(error, _TurnedAwayError):
        return str(error)
    if isinstance(error, ssl.SSLError):
        detail = getattr(error, "verify_message", "") or (error.reason or "").replace("_", " ")
        return f"the TLS handshake failed: {detail.lower() or 'it ended early'}"
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return f"the TLS handshake took more than {HANDSHAKE_SECONDS:.0f} seconds"
    return f"the TLS handshake failed: {error.strerror or type(error).__name__}"


async def listen(
    make_channel: Callable[[], ServerChannel],
    *,
    hosts: list[str],
    port: int,
    context: Callable[[], ssl.SSLContext] | None = None,
    refused: Refused,
) -> Listener:
    """
    Listen on a port, on all addresses of all hosts; the other arguments are those of `Listener`.

    Raises:
        ConfigurationError: The port is taken or the address is not this machine's.
    """
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            found = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                chosen = sockets[0].getsockname()[1] if sockets else port
                sockets.append(_bound(family, (address[0], chosen, *address[2:])))
        listener = Listener(sockets, make_channel, context=context, refused=refused)
        await listener.open()
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _cannot_listen(error, " and ".join(hosts), port) from None
    return listener


def _bound(family: int, address: tuple[str | int, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Windows has the first: nobody else takes the port of one address below a wildcard.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _cannot_listen(error: OSError, host: str, port: int) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"Port {port} of {host} is taken by another program",
            cure="Choose another one with --port, or let the system choose with --port 0",
        )
    return ConfigurationError(
        f"Cannot listen on {host}:{port}: {error.strerror or error}",
        cure="Use --host 127.0.0.1 and a free --port",
    )
