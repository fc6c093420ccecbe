"""The gateway's one port: the channel at ``/channel``, and plain HTTP for whoever else knocks."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol, cast

from websockets.http11 import Request as HttpRequest
from websockets.server import ServerProtocol

from headgate.channel.local import is_loopback
from headgate.channel.protocol import Channel
from headgate.errors import (
    ConfigurationError,
    GatewayUnreachable,
    HeadgateError,
    PermissionDenied,
    RemoteProtocolError,
    RequestError,
)
from headgate.wire.frames import Hello
from headgate.wire.handshake import MAX_GREETING, NONCE_BYTES, GatewayHandshake, address_of, refuse
from headgate.wire.session import MAX_MESSAGE, Session

__all__ = ["TURN_FRAMES", "Door", "Limiter", "ServerChannel", "listen"]

HEAD_SECONDS = 5.0
"""Seconds in which the head of the first request must be there."""

HEAD_BYTES = 16 * 1024
"""Bytes that it has at most."""

TURN_FRAMES = 16
"""
Frames of one session that are acted on in one turn of the event loop.

With more, a client that has thousands of requests in flight is hardly faster, and the others wait.
"""


class Limiter(Protocol):
    """Holds those who are not logged in yet to the gateway's limits."""

    @property
    def login_seconds(self) -> float:
        """Seconds in which a login must be done."""

    def connecting(self, address: str) -> bool:
        """Count a connection until `settled`; False if it is one too many, and is not counted."""

    def settled(self, address: str) -> None:
        """Count a connection no longer: it is logged in, or gone."""

    def overdue(self, address: str) -> None:
        """Count a login that did not come in time."""

    def require_names(self, hello: Hello, address: str) -> None:
        """Raise RequestError if a name in a Hello is too long."""


class Door(Protocol):
    """What the port needs of the gateway behind it."""

    name: str
    token: bytes

    @property
    def limiter(self) -> Limiter:
        """Holds those who connect to the limits."""

    def admit(self, channel: ServerChannel, hello: Hello) -> tuple[bytes, Session]:
        """
        Make the session of a client that has proven itself.

        Returns:
            The message that welcomes it, and the session.

        Raises:
            RequestError: The client is not let in.
        """

    def refused(self, peer: str, reason: str) -> None:
        """Record that somebody was not let in."""

    def page(self, path: str) -> tuple[HTTPStatus, str]:
        """Answer a plain HTTP request."""


class ServerChannel(Channel):
    """The gateway's end of a channel, from the first byte of the connection on."""

    turn_frames = TURN_FRAMES

    _core: ServerProtocol

    def __init__(self, door: Door) -> None:
        # Before the login nobody may make the gateway hold much.
        super().__init__(ServerProtocol(max_size=MAX_GREETING))
        self._door = door
        self._peer = ""
        self.address = ""
        """The IP address of the other end."""
        self._connecting = False
        self._head_bytes = 0
        self._upgraded = False
        self._handshake: GatewayHandshake | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if peer else ""
        if not self._door.limiter.connecting(self.address):
            cast(asyncio.Transport, transport).abort()
            return
        self._connecting = True
        super().connection_made(transport)
        self._peer = address_of(peer) if peer else "?"
        self._handshake = GatewayHandshake(
            token=self._door.token,
            address=address_of(transport.get_extra_info("sockname")),
            nonce=os.urandom(NONCE_BYTES),
            inspect=lambda hello: self._door.limiter.require_names(hello, self.address),
        )
        self._wait(HEAD_SECONDS, self._head_overdue)

    @property
    def peer(self) -> str:
        """Address and port of the other end."""
        return self._peer

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            super().data_received(data)
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._turn_away("the head of the request is too large")
            return
        self._core.receive_data(data)
        if self._core.handshake_exc is not None:
            # Before the core closes the connection without a word.
            self._answer_garbage()
        else:
            super().data_received(b"")

    def _wait(self, seconds: float, overdue: Callable[[], None]) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, overdue)

    def _head_overdue(self) -> None:
        self._turn_away(f"the head of the request did not come within {HEAD_SECONDS:g} seconds")

    def _login_overdue(self) -> None:
        self._door.limiter.overdue(self.address)
        self.abort("the login did not come in time")

    def _settle(self) -> None:
        if self._connecting:
            self._connecting = False
            self._door.limiter.settled(self.address)

    def _turn_away(self, reason: str) -> None:
        self._door.refused(self._peer, reason)
        self.abort(reason)

    # --- the HTTP request ------------------------------------------------------------------------

    def _head_received(self, head: HttpRequest) -> None:
        problem = self._foreign(head)
        if problem:
            self._door.refused(self._peer, problem)
            self._respond(HTTPStatus.FORBIDDEN, f"{problem}\n")
        elif head.path.partition("?")[0] == "/channel":
            self._upgrade(head)
        else:
            self._respond(*self._door.page(head.path.partition("?")[0]))

    def _upgrade(self, head: HttpRequest) -> None:
        response = self._core.accept(head)
        self._core.send_response(response)
        self._upgraded = response.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        if self._upgraded:
            self._wait(self._door.limiter.login_seconds, self._login_overdue)
        else:
            self._write()
            self._close_transport()

    def _foreign(self, head: HttpRequest) -> str:
        """
        Return what is wrong with the names in a request, empty if nothing is.

        A page of another site can make a browser connect to a loopback address, but it cannot
        forge these two headers.
        """
        hosts, origins = head.headers.get_all("Host"), head.headers.get_all("Origin")
        if len(hosts) != 1 or len(origins) > 1:
            return f"{len(hosts)} Host and {len(origins)} Origin headers: send one Host"
        host = hosts[0]
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name):
            return f"The Host {host!r} is not a name of this gateway: use localhost or 127.0.0.1"
        if origins and origins[0] != f"http://{host}":
            return f"Pages of {origins[0]!r} may not call this gateway"
        return ""

    def _respond(self, status: HTTPStatus, text: str) -> None:
        response = self._core.reject(status, text)
        self._core.handshake_exc = None
        self._core.send_response(response)
        self._write()
        self._close_transport()

    def _answer_garbage(self) -> None:
        """Bytes that are no HTTP request: answer so that a person who tries understands."""
        self._door.refused(self._peer, "not an HTTP request")
        text = "This is a Headgate gateway. Connect with headgate.connect(), or GET / for a page.\n"
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(
                f"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
            )
        self._close_transport()

    # --- the login -------------------------------------------------------------------------------

    def _greeting_received(self, message: bytes) -> None:
        handshake = self._handshake
        if handshake is None:
            return  # it was refused, and what it sent before it knew that comes now
        try:
            answer = handshake.receive(message)
            if isinstance(answer, Hello):
                self._admit(answer)
            else:
                self._core.send_binary(answer)
        except RequestError as error:
            self._handshake = None
            if isinstance(error, PermissionDenied | GatewayUnreachable):
                # What is beyond a limit was counted by it: a flood must not be recorded one by one.
                self._door.refused(self._peer, error.message)
            self._core.send_binary(refuse(error))
            self._core.send_close(1008)
        except RemoteProtocolError as error:
            self._door.refused(self._peer, str(error))
            self._fail(error)

    def _admit(self, hello: Hello) -> None:
        message, session = self._door.admit(self, hello)
        self._core.send_binary(message)
        self._core.max_message_size = MAX_MESSAGE
        if self._patience is not None:
            self._patience.cancel()
        self._settle()
        self._open(session)


async def listen(
    make_channel: Callable[[], ServerChannel], *, host: str, port: int
) -> asyncio.Server:
    """
    Listen on a port.

    Raises:
        ConfigurationError: The port is taken or the address is not this machine's.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(make_channel, host, port, backlog=1024)
    except OSError as error:
        if isinstance(error, HeadgateError):
            raise
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {port} of {host} is taken by another program",
                cure="Choose another one with --port, or let the system choose with --port 0",
            ) from None
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}",
            cure="Use --host 127.0.0.1 and a free --port",
        ) from None
