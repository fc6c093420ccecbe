"""Opens a channel to a gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import parse_uri

from headgate.channel.local import is_loopback, token_of_port
from headgate.channel.protocol import MAX_MESSAGE, Channel, Closed, Events
from headgate.errors import (
    ConfigurationError,
    GatewayUnreachable,
    HeadgateError,
    PermissionDenied,
    RemoteProtocolError,
)
from headgate.wire.frames import Welcome
from headgate.wire.handshake import NONCE_BYTES, ClientHandshake, address_of
from headgate.wire.session import Session

__all__ = ["DEFAULT_PORT", "Address", "ClientChannel", "open_channel"]

DEFAULT_PORT = 8188
"""The gateway's port: Ignition's own ones (8088, 8043, 8060) are taken on many machines."""

HANDSHAKE_SECONDS = 10.0


class Address:
    """
    Where a gateway listens.

    Args:
        url: Such as ``ws://127.0.0.1:8188``.

    Raises:
        ConfigurationError: It is no such URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        cure = f"Write for example ws://127.0.0.1:{DEFAULT_PORT}"
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} has a bad port: {error}", cure=cure) from None
        if parts.scheme != "ws" or not parts.hostname:
            raise ConfigurationError(f"{url!r} is not the URL of a gateway", cure=cure)
        self.host = parts.hostname
        self.port = port or DEFAULT_PORT
        self.url = f"ws://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def token(self) -> bytes:
        """
        Return the owner's local token of the gateway at this address.

        Raises:
            GatewayUnreachable: No gateway of this user was started on that port.
            PermissionDenied: It is another machine.
        """
        if not is_loopback(self.host):
            raise PermissionDenied(
                f"{self.url} is another machine: the owner's local token works only on the "
                "gateway's own one",
                started=False,
            )
        token = token_of_port(self.port)
        if token is None:
            raise GatewayUnreachable(
                f"No gateway of this user runs on {self.url}. Start one: headgate run "
                f"--projects FOLDER --port {self.port}",
                started=False,
            )
        return token


class ClientChannel(Channel):
    """The client's end of a channel."""

    def __init__(self, login: Callable[[str], ClientHandshake], *, url: str) -> None:
        core = ClientProtocol(parse_uri(f"{url}/channel"), max_size=MAX_MESSAGE)
        super().__init__(core)
        self._client = core
        self._login = login
        self._handshake: ClientHandshake | None = None
        self.opened: asyncio.Future[Session] = self.loop.create_future()

    @property
    def welcome(self) -> Welcome:
        """What the gateway said of itself and the session."""
        assert self._handshake is not None
        assert self._handshake.welcome is not None
        return self._handshake.welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._handshake = self._login(address_of(transport.get_extra_info("peername")))
        self._client.send_request(self._client.connect())
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up(GatewayUnreachable(f"The connection closed during the login: {exc}"))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._client.handshake_exc is not None:
            self._give_up(
                GatewayUnreachable(
                    f"What listens there is no Headgate gateway: {self._client.handshake_exc}"
                )
            )

    def _head_received(self, head: Response) -> None:
        if head.status_code != 101:
            body = (head.body or b"").decode(errors="replace").strip()
            self._give_up(GatewayUnreachable(f"The gateway refused: {head.status_code} {body}"))
            return
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
    *,
    project: str,
    host_name: str,
    kind: str,
    on_events: Events,
    on_closed: Closed,
) -> ClientChannel:
    """
    Connect and log in.

    Raises:
        GatewayUnreachable: Nothing answers there, or what answers is no gateway.
        RequestError: The gateway refused the login; trying again changes nothing.
    """
    token = address.token()

    def login(endpoint: str) -> ClientHandshake:
        return ClientHandshake(
            token=token,
            address=endpoint,
            nonce=os.urandom(NONCE_BYTES),
            project=project,
            host_name=host_name,
            kind=kind,
        )

    loop = asyncio.get_running_loop()
    channel = ClientChannel(login, url=address.url)
    channel.attach(on_events, on_closed)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await loop.create_connection(lambda: channel, address.host, address.port)
            await channel.opened
    except OSError as error:
        if isinstance(error, HeadgateError):
            raise
        text = "no answer within 10 seconds" if isinstance(error, TimeoutError) else str(error)
        raise GatewayUnreachable(
            f"No gateway answers on {address.url}: {text}", started=False
        ) from None
    except asyncio.CancelledError:
        channel.abort("the client gave up")
        raise
    finally:
        if not channel.opened.done() or channel.opened.exception() is not None:
            channel.abort("the login failed")
    return channel
