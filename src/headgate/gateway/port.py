"""The gateway's port: where it listens, what it shows there, and when it must not."""

from __future__ import annotations

import asyncio
import logging
import shlex
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from headgate.channel.address import OWN_HOST, url_of
from headgate.channel.listener import Listener, listen
from headgate.channel.local import forget_port, is_loopback, publish_port
from headgate.channel.server import Peer, ServerChannel
from headgate.channel.site import Site
from headgate.errors import ConfigurationError
from headgate.gateway.config import Http, Tls
from headgate.gateway.tls import ServerTls
from headgate.security.certificates import Certificate, Folder, names_of_this_machine

__all__ = ["Listening", "Port"]

logger = logging.getLogger("headgate.tls")

LOOK_SECONDS = 2.0
"""Seconds between two looks at the files of the certificate."""

INSECURE_SECONDS = 3600.0
"""Seconds between two warnings that the port is open to everybody."""

EXPIRY_SECONDS = 86_400.0
"""Seconds between two warnings that the certificate ends."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a gateway listens, and how."""

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: int = 8188
    """The port to listen on; 0 takes a free one."""

    tls: Tls = field(default_factory=Tls)
    http: Http = field(default_factory=Http)

    insecure: bool = False
    """Whether to listen beyond loopback without TLS or without users."""

    options: tuple[str, ...] = ()
    """How the command line names the gateway, such as ``--name hub``, for texts."""


class Port:
    """
    The one port of a gateway.

    On loopback it has TLS if the configuration names a certificate; beyond it, also if there is
    one of ``headgate cert init`` in the gateway's folder.

    Args:
        settings: Where and how.
        data: The gateway's own folder.
        make_channel: Makes the protocol of a connection.
        refused: Is told of connections that come to nothing before they have one.
        renewed: Is told, on the event loop, of the certificate when files that changed are taken.
    """

    def __init__(
        self,
        settings: Listening,
        *,
        data: Path,
        make_channel: Callable[[], ServerChannel],
        refused: Callable[[Peer, str], None],
        renewed: Callable[[Certificate], None],
    ) -> None:
        self.number = settings.port
        """The port's number."""
        self.site = Site()
        """Its names, once it is open."""
        self.insecure = ""
        """What is missing for it to be safe beyond this machine, empty if nothing is."""
        self._settings = settings
        self._data = data
        self._make_channel = make_channel
        self._refused = refused
        self._renewed = renewed
        self._tls: ServerTls | None = None
        self._listener: Listener | None = None
        self._watching: asyncio.Task[None] | None = None
        self._name = settings.host

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return url_of(self._name, self.number, secure=self._tls is not None)

    @property
    def own_url(self) -> str:
        """The URL for this machine's owner, whose clients find out about TLS by themselves."""
        beyond = not is_loopback(self._settings.host)
        return url_of(OWN_HOST if beyond else self._settings.host, self.number)

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return self._tls is not None

    async def prepare(self, *, users: Callable[[], int]) -> None:
        """
        Read the certificate, and see that the port may be open.

        Args:
            users: Counts who can log in, beside the owner on this machine.

        Raises:
            ConfigurationError: It must not be open so, or a file is not as it must be.
        """
        self._tls = await asyncio.to_thread(self._load)
        self._require_safety(users)
        await asyncio.to_thread(self._find_names)

    async def open(self) -> None:
        """
        Listen.

        Raises:
            ConfigurationError: The port is taken, or the address is not this machine's.
        """
        self._listener = await listen(
            self._make_channel,
            hosts=self._hosts(),
            port=self.number,
            context=self._context if self._tls is not None else None,
            refused=self._refused,
        )
        self.number = self._listener.port
        shown = self._tls.shown if self._tls is not None else None
        publish_port(self.number, self._data, certificate=shown)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def close(self) -> None:
        """Take no new connections; those that there are go on."""
        if self._watching is not None:
            self._watching.cancel()
        if self._listener is not None:
            self._listener.close()

    async def over(self) -> None:
        """Wait until its connections have ended; let clients find this gateway here no more."""
        if self._listener is not None:
            await self._listener.over()
        forget_port(self.number, self._data)

    def apply(self, http: Http) -> None:
        """Go by other names, and take pages of other origins, from now on."""
        self._settings = replace(self._settings, http=http)
        self.site = self._named_site()

    async def look(self) -> None:
        """Take the files of the certificate for new connections, if they have changed."""
        if self._tls is not None and await asyncio.to_thread(self._tls.look):
            self._renewed(self._tls.certificate)
            await asyncio.to_thread(self._find_names)

    def _hosts(self) -> list[str]:
        """Return what to listen on: the owner on this machine must reach it, too."""
        host = self._settings.host
        return [host] if is_loopback(host) or host == "0.0.0.0" else [host, OWN_HOST]

    def _context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.context

    def _load(self) -> ServerTls | None:
        folder, tls = Folder(self._data / "tls"), self._settings.tls
        beyond = not is_loopback(self._settings.host)
        if tls.certificate or tls.key or (beyond and folder.server.exists()):
            return ServerTls(tls, folder, shown=self._data / "shown.pem")
        return None

    def _require_safety(self, users: Callable[[], int]) -> None:
        settings = self._settings
        if is_loopback(settings.host):
            return
        options = shlex.join(settings.options)
        missing = {
            "TLS": "" if self._tls is not None else f"headgate cert init {options}",
            "a user": "" if users() else f"headgate user add NAME {options}",
        }
        lacks = " and ".join(f"without {what}" for what, command in missing.items() if command)
        if not lacks:
            return
        commands = " and ".join(f"`{command.strip()}`" for command in missing.values() if command)
        if not settings.insecure:
            raise ConfigurationError(
                f"The gateway does not listen on {settings.host} {lacks}: everybody in the network "
                "could reach it",
                cure=f"Run {commands} first, or --insecure overrides this. Use --host 127.0.0.1 to "
                "be reached from this machine only",
            )
        self.insecure = f"INSECURE: listening on {settings.host} {lacks}. Cure: {commands}"

    def _find_names(self) -> None:
        """Find out by which names clients can call the gateway, and which is best for its URL."""
        self.site = self._named_site()
        host, names = self._own_name(), self._names()
        callable_names = [name for name in names if "*" not in name and not is_loopback(name)]
        if host and (host in names or not callable_names):
            self._name = host
        else:
            self._name = (callable_names or names_of_this_machine() or ["localhost"])[0]
        if host and names and host not in names:
            logger.warning(
                "The certificate is not for %s, the address that is listened on: clients must use "
                "one of its own names: %s",
                host,
                ", ".join(names),
            )

    def _named_site(self) -> Site:
        http = self._settings.http
        return Site(
            [*filter(None, [self._own_name()]), *self._names(), *http.hosts],
            http.origins,
            needs_certificate=self.secure and self._settings.tls.require_client_certificate,
        )

    def _own_name(self) -> str:
        host = self._settings.host
        return "" if _is_wildcard(host) else host.strip("[]").lower()

    def _names(self) -> Sequence[str]:
        return self._tls.certificate.names if self._tls is not None else ()

    async def _watch(self) -> None:
        """Look at the certificate, and repeat what must not be forgotten."""
        insecure = expiry = monotonic()
        self._warn(insecure=True, expiry=True)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()
            now = monotonic()
            warned = (now - insecure >= INSECURE_SECONDS, now - expiry >= EXPIRY_SECONDS)
            self._warn(insecure=warned[0], expiry=warned[1])
            insecure, expiry = (now if warned[0] else insecure), (now if warned[1] else expiry)

    def _warn(self, *, insecure: bool, expiry: bool) -> None:
        if insecure and self.insecure:
            logger.warning("%s", self.insecure)
        if expiry and self._tls is not None:
            self._tls.warn()


def _is_wildcard(host: str) -> bool:
    try:
        return not host or ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
