"""Where a gateway listens; the command line's help reads the port here, so it imports little."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from headgate.errors import ConfigurationError, GatewayUnreachable, PermissionDenied

__all__ = ["DEFAULT_PORT", "DEFAULT_URL", "Address", "Certificate", "FilePath", "url_of"]

FilePath = str | os.PathLike[str]

Certificate = FilePath | tuple[FilePath, FilePath]
"""A client certificate's file, PEM, which holds its key too, or the files of the two."""

DEFAULT_PORT = 8188
"""The gateway's port: Ignition's own ones (8088, 8043, 8060) are taken on many machines."""

DEFAULT_URL = f"ws://127.0.0.1:{DEFAULT_PORT}"
"""Where a gateway of this machine listens if nobody chose anything else."""


def url_of(host: str, port: int) -> str:
    """Return the URL of a gateway, such as ``ws://127.0.0.1:8188`` or ``ws://[::1]:8188``."""
    from headgate.wire.handshake import address_of

    return f"ws://{address_of((host, port))}"


class Address:
    """
    Where a gateway listens.

    Args:
        url: Such as ``ws://127.0.0.1:8188``.
        ca: The file of the authority, PEM, that the gateway's certificate must come from.
        certificate: The client certificate to show.

    Raises:
        ConfigurationError: It is no such URL.
    """

    def __init__(
        self, url: str, *, ca: FilePath | None = None, certificate: Certificate | None = None
    ) -> None:
        parts = urlsplit(url)
        cure = f"Write for example {DEFAULT_URL}"
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} has a bad port: {error}", cure=cure) from None
        if parts.scheme != "ws" or not parts.hostname:
            raise ConfigurationError(f"{url!r} is not the URL of a gateway", cure=cure)
        self.host = parts.hostname
        self.port = port or DEFAULT_PORT
        self.url = url_of(self.host, self.port)
        self.ca = ca
        self.certificate = certificate

    @property
    def secure(self) -> bool:
        """Whether the connection has TLS."""
        return self.url.startswith("wss:")

    def token(self) -> bytes:
        """
        Return the owner's local token of the gateway at this address.

        Raises:
            GatewayUnreachable: No gateway of this user was started on that port, or its token
                cannot be read at the moment.
            ConfigurationError: Others can read the token, or it is damaged.
            PermissionDenied: It is another machine.
        """
        from headgate.channel.local import is_loopback, token_of_port

        if not is_loopback(self.host):
            raise PermissionDenied(
                f"{self.url} is another machine: the owner's local token works only on the "
                "gateway's own one. Give a user and a password, or a token, and use wss://",
                started=False,
            )
        try:
            token = token_of_port(self.port)
        except (OSError, ValueError) as error:
            # ValueError: the pointer is no text, or no path.
            raise GatewayUnreachable(
                f"The local token of the gateway on {self.url} cannot be read: {error}",
                started=False,
            ) from error
        if token is None:
            raise GatewayUnreachable(
                f"No gateway of this user runs on {self.url}. Start one: headgate run "
                f"--projects FOLDER --port {self.port}",
                started=False,
            )
        return token
