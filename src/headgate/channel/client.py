"""Opens a channel to a gateway."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from time import monotonic

from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import parse_uri

from headgate.channel.address import Address, url_of
from headgate.channel.login import ClientLogin
from headgate.channel.protocol import SHUTDOWN_SECONDS, Channel, Closed, Events
from headgate.channel.tls import ClientTls, explain_failure, is_wrong_name
from headgate.errors import (
    GatewayUnreachable,
    HeadgateError,
    PermissionDenied,
    RemoteProtocolError,
)
from headgate.wire.frames import Welcome
from headgate.wire.handshake import (
    NONCE_BYTES,
    OVER_TLS,
    Claim,
    ClientHandshake,
    Ticket,
    address_of,
)
from headgate.wire.session import MAX_MESSAGE, Session

__all__ = ["ClientChannel", "open_channel"]

HANDSHAKE_SECONDS = 10.0
"""Seconds in which the connection and the login must be done."""


class ClientChannel(Channel):
    """The client's end of a channel."""

    _core: ClientProtocol

    def __init__(self, login: Callable[[str], ClientHandshake], *, url: str) -> None:
        super().__init__(ClientProtocol(parse_uri(f"{url}/channel"), max_size=MAX_MESSAGE))
        self._login = login
        self._handshake: ClientHandshake | None = None
        self._secure = False
        self._upgraded = False
        self.opened: asyncio.Future[Session] = self.loop.create_future()

    @property
    def welcome(self) -> Welcome:
        """What the gateway said of itself and the session."""
        assert self._handshake is not None
        assert self._handshake.welcome is not None
        return self._handshake.welcome

    @property
    def ticket(self) -> Ticket | None:
        """What the gateway gave for the next login."""
        assert self._handshake is not None
        return self._handshake.ticket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if peer is None:
            self._give_up(GatewayUnreachable("The connection broke as soon as it was made"))
            return
        self._secure = transport.get_extra_info("ssl_object") is not None
        try:
            self._handshake = self._login(OVER_TLS if self._secure else address_of(peer))
        except PermissionDenied as error:
            self._give_up(error)
            return
        self._core.send_request(self._core.connect())
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        # A gateway refuses a client's certificate only after the handshake of TLS 1.3.
        reason = (explain_failure(exc) if exc is not None else "") or str(exc)
        if self._secure and not self._upgraded:
            # Not every gateway says why in a TLS alert.
            reason = (
                f"{reason}. It may want a client certificate (certificate=), or not take this one: "
                "its audit says which"
            )
        self._give_up(GatewayUnreachable(f"The connection closed during the login: {reason}"))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._core.handshake_exc is not None:
            self._give_up(
                GatewayUnreachable(
                    f"What listens there is no Headgate gateway: {self._core.handshake_exc}"
                )
            )

    def _head_received(self, head: Response) -> None:
        if head.status_code != 101:
            body = (head.body or b"").decode(errors="replace").strip()
            self._give_up(GatewayUnreachable(f"The gateway refused: {head.status_code} {body}"))
            return
        self._upgraded = True
        assert self._handshake is not None
        self._core.send_binary(self._handshake.hello())

    def _greeting_received(self, message: bytes) -> None:
        assert self._handshake is not None
        try:
            answer = self._handshake.receive(message, monotonic())
        except HeadgateError as error:
            self._give_up(error)
            return
        if isinstance(answer, Session):
            self._open(answer)
            if not self.opened.done():
                self.opened.set_result(answer)
        else:
            self._core.send_binary(answer)

    def _fail(self, error: RemoteProtocolError) -> None:
        self._give_up(error)
        super()._fail(error)

    def _give_up(self, error: HeadgateError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self._close_transport()


async def open_channel(
    address: Address,
    login: ClientLogin,
    *,
    project: str,
    host_name: str,
    kind: str,
    on_events: Events,
    on_closed: Closed,
) -> ClientChannel:
    """
    Connect and log in: with the ticket of the session before, else with the full credentials.

    Raises:
        GatewayUnreachable: Nothing answers there, or what answers is no gateway.
        RequestError: The gateway refused the login; if it is not `Overloaded`, trying again
            changes nothing.
    """

    async def opened(claim: Claim) -> ClientChannel:
        def handshake(endpoint: str) -> ClientHandshake:
            return ClientHandshake(
                claim,
                address=endpoint,
                nonce=os.urandom(NONCE_BYTES),
                project=project,
                host_name=host_name,
                kind=kind,
            )

        channel = ClientChannel(handshake, url=address.url)
        channel.attach(on_events, on_closed)
        await _logged_in(channel, address)
        # Each session brings a new one, so however long it lasts the ticket is as new as it is.
        login.keep(channel.ticket)
        return channel

    claim = login.ticket_claim()
    if claim is not None:
        try:
            return await opened(claim)
        except PermissionDenied:
            login.keep(None)
    return await opened(await login.claim(address))


async def _logged_in(channel: ClientChannel, address: Address) -> None:
    """Connect a channel and wait until its session is open; else the connection is cut."""
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await _dial(channel, address)
            await channel.opened
    except OSError as error:
        if isinstance(error, HeadgateError):
            raise
        late = isinstance(error, TimeoutError)
        text = f"no answer within {HANDSHAKE_SECONDS:.0f} seconds" if late else str(error)
        raise GatewayUnreachable(
            f"No gateway answers on {address.url}: {text}", started=False
        ) from None
    except asyncio.CancelledError:
        channel.abort("the client gave up")
        raise
    finally:
        if channel.session is None:
            # What comes of the login now is nobody's concern any more.
            channel.opened.cancel()
            channel.abort("the login failed")


async def _dial(channel: ClientChannel, address: Address) -> None:
    """
    Make the connection, with TLS if the address has it.

    Raises:
        OSError: It did not come to a connection.
        GatewayUnreachable: It did, and TLS failed.
        ConfigurationError: A file for TLS cannot be read.
    """
    tls = address.tls()
    loop = asyncio.get_running_loop()
    if tls is None:
        await loop.create_connection(lambda: channel, address.host, address.port)
        return
    try:
        await loop.create_connection(
            lambda: channel,
            address.host,
            address.port,
            ssl=tls.context(),
            server_hostname=address.host,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
    except ssl.SSLError as error:
        text = explain_failure(error, host=address.host, tls=tls)
        if is_wrong_name(error):
            text += await _names_shown(address, tls)
        raise GatewayUnreachable(f"Not connected to {address.url}: {text}", started=False) from None


async def _names_shown(address: Address, tls: ClientTls) -> str:
    """Say which names a certificate has that was refused for its names alone."""
    context = tls.context()
    context.check_hostname = False
    try:
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except OSError:
        return ""
    shown = writer.get_extra_info("peercert") or {}
    writer.transport.abort()
    names = [value for _, value in shown.get("subjectAltName", ())]
    if not names:
        return ""
    one = url_of(names[0], address.port, secure=True)
    return f", but for {', '.join(names)}. Write one of them, such as {one}"
