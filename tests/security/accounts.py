"""What the tests of identities share: a desk where an administrator works and clients log in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from argon2 import Parameters, Type
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from headgate.invocation import Caller
from headgate.security.administration import Administration
from headgate.security.audit import Record
from headgate.security.identities import Identities, Login
from headgate.security.zones import HostPin
from headgate.store import Store

CHEAP = Parameters(Type.ID, 19, 16, 32, time_cost=1, memory_cost=8, parallelism=1)

PASSWORD = "correct horse"

OWNER = Caller(user="root", roles=frozenset({"owner"}))


@dataclass(frozen=True)
class Hello:
    """The first frame, as far as it matters."""

    host_name: str = ""


@dataclass(frozen=True)
class Shown:
    """Credentials."""

    method: str
    user: str = ""
    secret: str = ""
    ticket: bytes = b""
    hello: Hello = Hello()


@dataclass(frozen=True)
class Peer:
    """The other end of a connection."""

    address: str = "10.1.0.1"
    certificate: bytes | None = None


@dataclass
class Clock:
    """A clock that stands still."""

    now: float = field(default_factory=lambda: datetime.now(UTC).timestamp())

    def __call__(self) -> float:
        return self.now


class Desk:
    """The identities of a gateway and their administration."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.clock = Clock()
        self.pins: dict[str, HostPin] = {}
        self.anonymous = False
        self.changes = 0
        self.records: list[Record] = []
        self.open()

    def open(self) -> None:
        """Open the database and read it."""
        self.store.open()
        self.identities = Identities(
            self.store,
            anonymous_allowed=lambda: self.anonymous,
            pins=lambda: self.pins,
            parameters=CHEAP,
            now=self.clock,
            on_change=self._count,
        )
        self.identities.load()
        self.administration = Administration(self.identities, self)

    def close(self) -> None:
        """Close the database."""
        self.identities.close()
        self.store.close()

    def restart(self) -> None:
        """Close and open it, as a gateway does that is started again."""
        self.close()
        self.open()

    def record(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)

    def _count(self) -> None:
        self.changes += 1

    async def do(self, action: str, *, by: Caller = OWNER, **payload: Any) -> Any:
        """Have an action done."""
        return await self.administration.administer(action, payload, by)

    async def user(self, name: str = "ada", **payload: Any) -> None:
        """Add a user with a password."""
        await self.do("user_add", **{"name": name, "password": PASSWORD, **payload})

    async def token(self, user: str = "ada", **payload: Any) -> Mapping[str, Any]:
        """Make a token."""
        made: Mapping[str, Any] = await self.do("token_create", user=user, **payload)
        return made

    async def by_password(
        self,
        user: str = "ada",
        password: str = PASSWORD,
        *,
        host: str = "",
        peer: Peer | None = None,
    ) -> Login:
        """Log in with a password."""
        shown = Shown("password", user=user, secret=password, hello=Hello(host))
        return await self.identities.log_in(shown, peer or Peer())

    async def by_token(self, token: str, *, host: str = "", peer: Peer | None = None) -> Login:
        """Log in with a token."""
        shown = Shown("token", secret=token, hello=Hello(host))
        return await self.identities.log_in(shown, peer or Peer())

    async def by_certificate(self, certificate: bytes | None, *, host: str = "") -> Login:
        """Log in with a certificate."""
        shown = Shown("certificate", hello=Hello(host))
        return await self.identities.log_in(shown, Peer(certificate=certificate))

    async def by_ticket(self, blob: bytes, *, host: str = "", peer: Peer | None = None) -> Login:
        """Log in with a ticket whose key has been proven."""
        shown = Shown("ticket", ticket=blob, hello=Hello(host))
        return await self.identities.log_in(shown, peer or Peer())


def certificate(
    *names: x509.GeneralName,
    key: ec.EllipticCurvePrivateKey | None = None,
    days: float = 30,
    common_name: str = "ada",
) -> bytes:
    """Make a certificate, DER."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
