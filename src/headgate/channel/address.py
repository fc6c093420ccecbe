"""Where a gateway listens; the command line's help reads the port here, so it imports little."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headgate.errors import ConfigurationError, GatewayUnreachable, PermissionDenied

if TYPE_CHECKING:
    from headgate.channel.tls import ClientTls

__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_URL",
    "OWN_HOST",
    "Address",
    "Certificate",
    "FilePath",
    "url_of",
]

FilePath = str | os.PathLike[str]

Certificate = FilePath | tuple[FilePath, FilePath]
"""A client certificate's file, PEM, which holds its key too, or the files of the two."""

DEFAULT_PORT = 8188
"""The gateway's port: Ignition's own ones (8088, 8043, 8060) are taken on many machines."""

OWN_HOST = "127.0.0.1"
"""Where this machine's owner reaches a gateway, also one that listens beyond loopback."""

DEFAULT_URL = f"ws://{OWN_HOST}:{DEFAULT_PORT}"
"""Where a gateway of this machine listens if nobody chose anything else."""


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL of a gateway, such as ``ws://127.0.0.1:8188`` or ``wss://[::1]:8188``."""
    from headgate.wire.handshake import address_of

    return f"{'wss' if secure else 'ws'}://{address_of((host, port))}"


class Address:
    """
    Where a gateway listens, and by what it is recognised there.

    Args:
        url: Such as ``ws://127.0.0.1:8188``, or ``wss://`` for TLS.
        ca: The authorities that may vouch for the gateway's certificate, PEM. Default: those of
            the system; for a gateway of this user on this machine, the gateway's own certificate.
        certificate: The client's certificate with its key in one PEM file, or a pair of files.

    Raises:
        ConfigurationError: It is no such URL.
    """

    def __init__(
        self, url: str, *, ca: FilePath | None = None, certificate: Certificate | None = None
    ) -> None:
        cure = f"Write for example {DEFAULT_URL}, or wss://HOST:{DEFAULT_PORT} for TLS"
        if "@" in url:
            # Not shown: a password may stand before it.
            raise ConfigurationError(
                "The URL of a gateway holds no user and no password",
                cure=f"Give them beside it, as username= and password=. {cure}",
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} is no URL: {error}", cure=cure) from None
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ConfigurationError(f"{url!r} is not the URL of a gateway", cure=cure)
        self.host = parts.hostname
        self.port = port or DEFAULT_PORT
        self.secure = parts.scheme == "wss"
        """Whether TLS is asked for; `tls` knows whether it is spoken."""
        self.url = url_of(self.host, self.port, secure=self.secure)
        self.ca = None if ca is None else Path(ca)
        """The file of the authorities that were named, None for the default."""
        pair = certificate if isinstance(certificate, tuple) else (certificate, None)
        self._certificate, self._key = (None if file is None else Path(file) for file in pair)
        if not self.secure and (ca is not None or certificate is not None):
            raise ConfigurationError(
                f"ca= and certificate= are for TLS, and {self.url} has none",
                cure=f"Write {url_of(self.host, self.port, secure=True)}",
            )

    def tls(self) -> ClientTls | None:
        """
        Return what TLS is spoken with, None if it is not; it may change while a client is open.

        A gateway of this user on this machine is recognised by the certificate that it left for
        that, and TLS is spoken to it whether or not the URL says so.
        """
        from headgate.channel.local import certificate_of_port, is_loopback
        from headgate.channel.tls import ClientTls

        pinned = None
        if self.ca is None and is_loopback(self.host):
            pinned = certificate_of_port(self.port)
        if not self.secure and pinned is None:
            return None
        return ClientTls(ca=self.ca, certificate=self._certificate, key=self._key, pinned=pinned)

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
