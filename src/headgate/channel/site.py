"""
The names by which a gateway may be called, and the pages that may call it.

A page of another site can make a browser connect to a gateway, and can make a name of its own lead
to the gateway's address (DNS rebinding). But it cannot forge the headers Host and Origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from headgate.channel.local import is_loopback

__all__ = ["Site"]


class Site:
    """
    What requests to a gateway's port may name.

    Args:
        hosts: Names and addresses of the gateway; ``*.plant.example`` stands for one label.
        origins: Origins of pages that may call it, beside those that it served itself.
        needs_certificate: Whether a client of another machine must show a certificate.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        *,
        needs_certificate: bool = False,
    ) -> None:
        self.needs_certificate = needs_certificate
        self.hosts = frozenset(map(_plain, hosts))
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def problem(
        self, hosts: Sequence[str], origins: Sequence[str], *, local: str, secure: bool
    ) -> str:
        """
        Return what is wrong with the headers Host and Origin of a request, empty if nothing is.

        Args:
            hosts: All Host headers.
            origins: All Origin headers.
            local: The gateway's own IP address on this connection.
            secure: Whether the connection has TLS.
        """
        if len(hosts) != 1 or len(origins) > 1:
            return f"{len(hosts)} Host and {len(origins)} Origin headers: send one Host"
        host = hosts[0]
        if not self._is_known(_plain(_without_port(host)), local=_plain(local)):
            cure = "use localhost or 127.0.0.1" if is_loopback(local) else f"use {local}"
            return (
                f"The Host {host!r} is not a name of this gateway: {cure}, or add it to "
                "hosts in [http]"
            )
        if not origins:
            return ""
        origin, scheme = origins[0].lower(), "https" if secure else "http"
        if origin == f"{scheme}://{host.lower()}" or origin in self.origins:
            return ""
        return f"Pages of {origins[0]!r} may not call this gateway: add it to origins in [http]"

    def _is_known(self, name: str, *, local: str) -> bool:
        if is_loopback(name):
            return is_loopback(local)
        if name == local and not is_loopback(local):
            return True
        _, dot, parent = name.partition(".")
        return name in self.hosts or bool(dot and f"*.{parent}" in self.hosts)


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() and not _is_address(host) else host


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _plain(name: str) -> str:
    """Return a name as others are compared with it: addresses in their short form, no root dot."""
    name = name.lower().strip("[]").rstrip(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
