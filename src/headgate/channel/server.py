"""The gateway's one port: the channel at ``/channel``, and plain HTTP for whoever else knocks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol, cast

from websockets.http11 import Request as HttpRequest
from websockets.protocol import State as WebSocketState
from websockets.server import ServerProtocol

from headgate.channel.local import is_loopback
from headgate.channel.protocol import Channel
from headgate.channel.site import Site
from headgate.channel.turns import Turns
from headgate.errors import (
    GatewayUnreachable,
    Overloaded,
    PermissionDenied,
    RemoteProtocolError,
    RequestError,
)
from headgate.wire.frames import Hello
from headgate.wire.handshake import (
    MAX_GREETING,
    NONCE_BYTES,
    OVER_TLS,
    Credentials,
    GatewayHandshake,
    address_of,
    refusal,
    refuse,
)
from headgate.wire.session import MAX_MESSAGE, Session

__all__ = ["TLS_HANDSHAKE", "TURN_FRAMES", "Door", "Limiter", "Logins", "Peer", "ServerChannel"]

logger = logging.getLogger("headgate.channel")

HEAD_SECONDS = 5.0
"""Seconds in which the head of the first request must be there."""

HEAD_BYTES = 16 * 1024
"""Bytes that it has at most."""

TLS_HANDSHAKE = b"\x16"
"""What every TLS connection begins with."""

LOGINS_AT_ONCE = 512
"""
Logins of one method that a gateway considers at once; more are asked to come again.

Who may wait among those with passwords is decided behind the door, by address.
"""

LOGIN_AGAIN = 1.0
"""Seconds after which they are asked to."""

TURN_GREETINGS = 4
"""
Steps of logins that are taken in one turn of the event loop; each costs a few 0.1 ms.

When thousands come back at once, those who are there already wait for these few only.
"""

TURN_FRAMES = 16
"""
Frames of one session that are acted on in one turn of the event loop.

With more, a client that has thousands of requests in flight is hardly faster, and the others wait.
"""


@dataclass(frozen=True)
class Peer:
    """What a gateway knows of the other end of a connection, whatever that says of itself."""

    address: str
    """Its IP address."""
    port: int
    secure: bool = False
    """Whether the connection has TLS."""
    loopback: bool = False
    """Whether it comes from this machine."""
    certificate: bytes | None = field(default=None, repr=False)
    """The client's certificate, DER, as TLS has verified it; None without one."""

    @classmethod
    def of(cls, transport: asyncio.BaseTransport) -> Peer:
        """Return the facts of a connection."""
        name = transport.get_extra_info("peername")
        tls = transport.get_extra_info("ssl_object")
        host, port = name[:2] if name else ("", 0)
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        return cls(host, port, tls is not None, is_loopback(host), certificate)

    @property
    def private(self) -> bool:
        """Whether nobody between the two ends can read what they send."""
        return self.secure or self.loopback

    def __str__(self) -> str:
        return address_of((self.address, self.port)) if self.address else "?"


class Logins:
    """
    The logins that a gateway considers at this moment.

    Each method has its own limit, so that a flood of passwords, each of which costs the gateway
    time, does not stand in the way of who comes with a ticket.
    """

    def __init__(self) -> None:
        self.turns = Turns(TURN_GREETINGS)
        """Shares the turns of the event loop between all who log in."""
        self._methods: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, method: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """
        Consider a login.

        Raises:
            Overloaded: Too many are under way; the work is closed.
        """
        if self._methods[method] >= LOGINS_AT_ONCE:
            work.close()
            raise Overloaded(
                f"The gateway considers {LOGINS_AT_ONCE} logins by {method} at this moment",
                retry_after=LOGIN_AGAIN,
                started=False,
            )
        task = asyncio.get_running_loop().create_task(work)
        self._methods[method] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(method, task))
        return task

    def cancel(self) -> None:
        """Give all of them up, because the gateway stops."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, method: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._methods[method] -= 1


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

    def crowded(self, address: str) -> None:
        """Count a login that has to come again later: too many are under way."""

    def require_names(self, hello: Hello, address: str) -> None:
        """Raise RequestError if a name in a Hello is too long."""


class Door(Protocol):
    """What the port needs of the gateway behind it."""

    name: str
    token: bytes
    logins: Logins

    @property
    def limiter(self) -> Limiter:
        """Holds those who connect to the limits."""

    @property
    def site(self) -> Site:
        """The names of the gateway at this moment."""

    def ticket_key(self, ticket: bytes, peer: Peer) -> bytes:
        """
        Return the key of a ticket.

        Raises:
            PermissionDenied: It is not a good one of this gateway. The reason is recorded, the
                client is told what everybody is told.
        """

    async def log_in(
        self, channel: ServerChannel, credentials: Credentials
    ) -> tuple[bytes, Session]:
        """
        Make the session of a client, if what it has shown is good.

        It may be cancelled, then there is no session; the last thing it does, without waiting for
        anything any more, is to make it.

        Returns:
            The message that welcomes it, and the session.

        Raises:
            PermissionDenied: The client is not let in. The reason is recorded, the client is told
                what everybody is told.
            RequestError: The client is not let in now, and is told why.
        """

    def refused(self, peer: Peer, reason: str, hello: Hello | None = None) -> None:
        """Record that somebody was not let in, and who it says it is if it has said so."""

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
        self._peer = Peer("", 0)
        self._counted_as: str | None = None
        self._head_bytes = 0
        self._upgraded = False
        self._before_login = b""
        self._handshake: GatewayHandshake | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._login: asyncio.Task[None] | None = None
        self._ticket_problem = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = self._peer = Peer.of(transport)
        if not self.count(peer.address):
            cast(asyncio.Transport, transport).abort()
            return
        super().connection_made(transport)
        name = transport.get_extra_info("sockname")
        self._handshake = GatewayHandshake(
            key=self._key_of,
            address=OVER_TLS if peer.secure else address_of(name),
            nonce=os.urandom(NONCE_BYTES),
            private=peer.private,
            inspect=lambda hello: self._door.limiter.require_names(hello, peer.address),
        )
        self._wait(HEAD_SECONDS, self._head_overdue)

    @property
    def peer(self) -> Peer:
        """What is known of the other end."""
        return self._peer

    def count(self, address: str) -> bool:
        """Count the connection until `settle`; False if it is one too many from there."""
        if self._counted_as is None and self._door.limiter.connecting(address):
            self._counted_as = address
        return self._counted_as is not None

    def settle(self) -> None:
        """Count it no longer: it is logged in, or over."""
        if self._counted_as is not None:
            self._door.limiter.settled(self._counted_as)
            self._counted_as = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._login is not None:
            self._login.cancel()
        self._patience = self._handshake = self._login = None
        self.settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.session is not None and not self._before_login:
            super().data_received(data)
        elif self._before_login:
            # Its turn has not come yet: that is no leave to send more than one head and one frame.
            self._before_login += data
            if len(self._before_login) > HEAD_BYTES + MAX_GREETING:
                self._turn_away("it sent more than a login has")
        else:
            self._before_login = data
            self._door.logins.turns.run(self._take_turn)

    def _take_turn(self) -> None:
        """Take what came before the login; when thousands log in, others have turns between."""
        data, self._before_login = self._before_login, b""
        if self.transport is None:
            return
        try:
            self._received_before_login(data)
        except Exception:
            logger.exception("What came before a login could not be acted on")
            self._turn_away("the gateway failed at what came before the login")

    def _received_before_login(self, data: bytes) -> None:
        if self._upgraded:
            super().data_received(data)
            broken = self._core.parser_exc if self.session is None else None
            if broken is not None and not isinstance(broken, EOFError):
                self._give_up(str(broken))
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

    def _wait(self, seconds: float, overdue: Callable[[], None]) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, overdue)

    def _head_overdue(self) -> None:
        self._turn_away(f"the head of the request did not come within {HEAD_SECONDS:g} seconds")

    def _login_overdue(self) -> None:
        self._door.limiter.overdue(self._peer.address)
        self.abort("the login did not come in time")

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
        """Return why a request is not even looked at, empty if it is."""
        assert self.transport is not None
        site, peer, headers = self._door.site, self._peer, head.headers
        if site.needs_certificate and peer.certificate is None and not peer.loopback:
            return "Show a client certificate: connect(…, certificate=PATH)"
        return site.problem(
            headers.get_all("Host"),
            headers.get_all("Origin"),
            local=self.transport.get_extra_info("sockname")[0],
            secure=peer.secure,
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
            if isinstance(answer, Credentials):
                self._login = self._begin(answer)
            else:
                self._core.send_binary(answer)
        except RequestError as error:
            self._refuse(error, self._ticket_problem or error.message)
        except RemoteProtocolError as error:
            self._fail(error)

    def _fail(self, error: RemoteProtocolError) -> None:
        if self.session is None:
            self._give_up(str(error))
        super()._fail(error)

    def _give_up(self, reason: str) -> None:
        """Take no login any more from a client that broke a rule."""
        if self._handshake is not None:
            self._handshake = None
            self._door.refused(self._peer, reason)
        if self._login is not None:
            self._login.cancel()

    def _key_of(self, hello: Hello) -> bytes | None:
        if hello.method == "ticket":
            try:
                return self._door.ticket_key(hello.extensions["ticket"], self._peer)
            except PermissionDenied as error:
                self._ticket_problem = error.message
                return None
        # A copy of the local token is worth nothing on another machine.
        beyond = hello.method == "local" and not self._peer.loopback
        return None if beyond else self._door.token

    async def _log_in(self, credentials: Credentials) -> None:
        """Let the gateway decide; what the client sends meanwhile breaks the rules."""
        try:
            message, session = await self._door.log_in(self, credentials)
        except asyncio.CancelledError:
            self.abort("the login was given up")
            raise
        except PermissionDenied as error:
            # The reason would tell a stranger which users and tokens there are.
            self._refuse(PermissionDenied(refusal(credentials.method)), error.message)
        except RequestError as error:
            self._refuse(error, error.message)
        except Exception:
            logger.exception("A login could not be decided")
            self._turn_away("the gateway failed at the login")
            return
        else:
            self._welcome(message, session)
        self._write()

    def _begin(self, credentials: Credentials) -> asyncio.Task[None]:
        try:
            return self._door.logins.begin(credentials.method, self._log_in(credentials))
        except Overloaded:
            self._door.limiter.crowded(self._peer.address)
            raise

    def _welcome(self, message: bytes, session: Session) -> None:
        if self._core.state is not WebSocketState.OPEN:
            self._on_closed(self, "the client left during the login")
            return
        self._core.send_binary(message)
        self._core.max_message_size = MAX_MESSAGE
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._handshake = self._login = None
        self.settle()
        self._open(session)

    def _refuse(self, error: RequestError, reason: str) -> None:
        handshake, self._handshake = self._handshake, None
        hello = None if handshake is None else handshake.hello
        if isinstance(error, PermissionDenied | GatewayUnreachable):
            # What is beyond a limit was counted by it: a flood must not be recorded one by one.
            self._door.refused(self._peer, reason, hello)
        if self._core.state is WebSocketState.OPEN:
            self._core.send_binary(refuse(error))
            self._core.send_close(1008)
