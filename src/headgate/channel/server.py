"""The gateway's one port: the channel at ``/channel``, and plain HTTP for whoever else knocks."""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from typing import Protocol

from websockets.http11 import Request as HttpRequest
from websockets.server import ServerProtocol

from headgate.channel.protocol import Channel
from headgate.channel.site import Site
from headgate.errors import RemoteProtocolError, RequestError
from headgate.wire.frames import Hello
from headgate.wire.handshake import MAX_GREETING, NONCE_BYTES, GatewayHandshake, address_of, refuse
from headgate.wire.session import MAX_MESSAGE, Session

__all__ = ["TLS_HANDSHAKE", "TURN_FRAMES", "Door", "ServerChannel"]

HEAD_SECONDS = 5.0
"""Seconds in which the head of the first request must be there."""

HEAD_BYTES = 16 * 1024
"""Bytes that it has at most."""

LOGIN_SECONDS = 10.0
"""Seconds in which the login must be done."""

TLS_HANDSHAKE = b"\x16"
"""What every TLS connection begins with."""

TURN_FRAMES = 16
"""
Frames of one session that are acted on in one turn of the event loop.

With more, a client that has thousands of requests in flight is hardly faster, and the others wait.
"""


class Door(Protocol):
    """What the port needs of the gateway behind it."""

    name: str
    token: bytes

    @property
    def site(self) -> Site:
        """The names of the gateway at this moment."""

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
        self._head_bytes = 0
        self._upgraded = False
        self._handshake: GatewayHandshake | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._peer = address_of(peer) if peer else "?"
        self._handshake = GatewayHandshake(
            token=self._door.token,
            address=address_of(transport.get_extra_info("sockname")),
            nonce=os.urandom(NONCE_BYTES),
        )
        self._wait_for("the head of the request", HEAD_SECONDS)

    @property
    def peer(self) -> str:
        """Address and port of the other end."""
        return self._peer

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            super().data_received(data)
            return
        if not self._head_bytes and data[:1] == TLS_HANDSHAKE:
            self._answer_garbage("it speaks TLS, and this port does not")
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._turn_away("the head of the request is too large")
            return
        self._core.receive_data(data)
        if self._core.handshake_exc is not None:
            # Before the core closes the connection without a word.
            self._answer_garbage("not an HTTP request")
        else:
            super().data_received(b"")

    def _wait_for(self, what: str, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        text = f"{what} did not come within {seconds:.0f} seconds"
        self._patience = self.loop.call_later(seconds, self._turn_away, text)

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
            self._wait_for("the login", LOGIN_SECONDS)
        else:
            self._write()
            self._close_transport()

    def _foreign(self, head: HttpRequest) -> str:
        """Return what is wrong with the names in a request, empty if nothing is."""
        assert self.transport is not None
        headers, transport = head.headers, self.transport
        return self._door.site.problem(
            headers.get_all("Host"),
            headers.get_all("Origin"),
            local=transport.get_extra_info("sockname")[0],
            secure=transport.get_extra_info("ssl_object") is not None,
        )

    def _respond(self, status: HTTPStatus, text: str) -> None:
        response = self._core.reject(status, text)
        self._core.handshake_exc = None
        self._core.send_response(response)
        self._write()
        self._close_transport()

    def _answer_garbage(self, reason: str) -> None:
        """Bytes that are no HTTP request: answer so that a person who tries understands."""
        self._door.refused(self._peer, reason)
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
        self._open(session)
