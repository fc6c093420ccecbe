"""Session tickets: what a client reconnects with for some hours, without a password."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

import msgspec

__all__ = ["TICKET_SECONDS", "Claims", "Ticket", "Tickets"]

TICKET_SECONDS = 12 * 3600.0
"""Seconds from a login with a password, token or certificate until its tickets are over."""

SEAL_BYTES = 32


@dataclass(frozen=True)
class Ticket:
    """What a client gets at login."""

    blob: bytes
    """What it shows: readable, but sealed by the gateway."""
    key: bytes = field(repr=False)
    """What it proves that it knows; it is never sent again."""
    seconds: float
    """How long it is good for from now on."""


class Claims(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a ticket says, and the gateway vouches for."""

    node: int
    """The node that made it."""
    user: str
    """The user's key."""
    generation: int
    method: str
    """How the user logged in at first."""
    token: str
    """Id of the token, empty if it was none."""
    certificate: int
    """Id of the certificate, 0 if it was none."""
    spki: str
    """The public key of the certificate that the login rests on, empty if it was none."""
    host: str
    """The host name that the session claims."""
    address: str
    """The IP address that it comes from."""
    issued: float
    """When the user logged in at first, in seconds since 1970."""
    expires: float
    """When it is over, in seconds since 1970."""


class Tickets:
    """
    Seals tickets and opens them; it remembers none.

    Args:
        secret: 32 random bytes that only the gateway has. The key of the seal and the one that the
            clients' keys are made with are derived from it as in RFC 5869 (HKDF-Expand).
    """

    def __init__(self, secret: bytes) -> None:
        self._seal_key = hmac.digest(secret, b"headgate ticket seal\x01", "sha256")
        self._proof_key = hmac.digest(secret, b"headgate ticket key\x01", "sha256")

    def seal(self, claims: Claims) -> bytes:
        """Return the ticket that says this."""
        text = msgspec.msgpack.encode(claims)
        return text + hmac.digest(self._seal_key, text, "sha256")

    def key(self, blob: bytes) -> bytes:
        """Return the key that belongs to a ticket, 32 bytes."""
        return hmac.digest(self._proof_key, blob, "sha256")

    def open(self, blob: bytes) -> Claims | None:
        """Return what a ticket says; None if this gateway did not seal it as it is."""
        text, seal = blob[:-SEAL_BYTES], blob[-SEAL_BYTES:]
        if not hmac.compare_digest(seal, hmac.digest(self._seal_key, text, "sha256")):
            return None
        try:
            return msgspec.msgpack.decode(text, type=Claims)
        except msgspec.DecodeError:
            return None  # sealed by another release that says other things
