"""How a client logs in, at its first connection and each time it connects again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from headgate.channel.address import Address
from headgate.channel.local import is_loopback
from headgate.errors import ConfigurationError, GatewayUnreachable, PermissionDenied
from headgate.wire.handshake import MAX_SECRET, Claim, Method, Ticket

__all__ = ["ClientLogin", "Secret"]

Secret = str | Callable[[], str]
"""A password or a token, or what gives it each time it is needed, on a thread of its own."""


class ClientLogin:
    """
    A client's credentials of one kind: without any, the owner's local token of this machine.

    Its repr shows no secret.

    Args:
        username: The user, with `password`.
        password: The user's password.
        token: An API token.
        certificate: Whether TLS shows a client certificate; without other credentials it is the
            login.
        anonymous: Whether to log in as nobody.

    Raises:
        TypeError: Credentials of several kinds, or half of one.
        ValueError: A name or a secret is empty.
    """

    def __init__(
        self,
        *,
        username: str | None = None,
        password: Secret | None = None,
        token: Secret | None = None,
        certificate: bool = False,
        anonymous: bool = False,
    ) -> None:
        self._method = _method(username, password, token, certificate, anonymous)
        self._user = username or ""
        self._secret = password if password is not None else token
        if username == "" or self._secret == "":
            raise ValueError(f"The {self._method} login has an empty name or secret")
        self._ticket: Ticket | None = None
        self._ticket_until = 0.0

    def __repr__(self) -> str:
        return f"ClientLogin({self._method!r}, user={self._user!r})"

    # --- the ticket of the last session -----------------------------------------------------------

    def keep(self, ticket: Ticket | None) -> None:
        """Keep what a gateway gave for the next login, for as long as it is good."""
        self._ticket = ticket
        if ticket is not None:
            self._ticket_until = monotonic() + ticket.seconds

    def ticket_claim(self) -> Claim | None:
        """Return the claim of a ticket that is still good, None if there is none."""
        ticket = self._ticket
        if ticket is None or monotonic() >= self._ticket_until:
            return None
        return Claim.of_ticket(ticket)

    # --- the credentials --------------------------------------------------------------------------

    async def claim(self, address: Address) -> Claim:
        """
        Return the claim for a gateway.

        Raises:
            GatewayUnreachable: Nothing on that port of this machine can show to be the gateway.
            PermissionDenied: A secret would travel where others can read it.
            ConfigurationError: The local token is not as it must be, or a secret is too long.
        """
        if self._method == "local":
            return Claim.local(address.token())
        if self._method == "certificate" and not address.secure:
            raise ConfigurationError(
                f"A certificate cannot be shown to {address.url}", cure="Use wss://"
            )
        key = None if address.secure else self._key(address)
        return Claim(self._method, key, self._user, await self._revealed())

    def _key(self, address: Address) -> bytes | None:
        """Return what a gateway without TLS has to prove before anything secret is sent to it."""
        if self._secret is not None and not is_loopback(address.host):
            raise PermissionDenied(
                f"A {self._method} is not sent over {address.url}, where others can read it: "
                f"connect to wss://{address.url.partition('://')[2]} with ca= the gateway's "
                "authority",
                started=False,
            )
        try:
            return address.token()
        except (ConfigurationError, GatewayUnreachable, PermissionDenied) as error:
            if self._secret is None:
                return None
            raise GatewayUnreachable(
                f"Nothing shows that what listens on {address.url} is the gateway, so no "
                f"{self._method} is sent there: {error}. If it runs as another user, connect to "
                "it with wss:// and ca=",
                started=False,
            ) from None

    async def _revealed(self) -> bytes:
        secret = self._secret
        if secret is None:
            return b""
        if callable(secret):
            secret = await asyncio.to_thread(secret)
        if not isinstance(secret, str):
            raise TypeError(f"The {self._method} must be a str, not {type(secret).__name__}")
        data = secret.encode()
        if not 0 < len(data) <= MAX_SECRET:
            raise ConfigurationError(
                f"The {self._method} has {len(data)} bytes; 1 to {MAX_SECRET} are possible"
            )
        return data


def _method(
    username: str | None, password: Any, token: Any, certificate: bool, anonymous: bool
) -> Method:
    by_password = username is not None or password is not None
    kinds: dict[Method, bool] = {
        "password": by_password,
        "token": token is not None,
        # Beside one of these it is what the gateway asks for at the connection, not who logs in.
        "certificate": certificate and not by_password and token is None,
        "anonymous": anonymous,
    }
    given = [kind for kind, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise TypeError(f"Log in with one kind of credentials, not with {' and '.join(given)}")
    if "password" in given and (username is None or password is None):
        raise TypeError("To log in with a password give both username= and password=")
    return given[0] if given else "local"
