"""
Who logs in, and whether that still holds.

Everything is decided on an image of the database in memory, so the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Protocol, TypeVar

import msgspec
from argon2 import Parameters
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, insert, select, update

from headgate.errors import HeadgateError, PermissionDenied
from headgate.invocation import Caller
from headgate.security.accounts import Accounts, Token, User
from headgate.security.identity import ANONYMOUS, owner
from headgate.security.passwords import PARAMETERS, Passwords
from headgate.security.patterns import folded, matcher
from headgate.security.throttle import Throttle
from headgate.security.tickets import TICKET_SECONDS, Claims, Ticket, Tickets
from headgate.security.zones import HostPin, Networks
from headgate.store import Store
from headgate.store.tables import keys, tokens, users
from headgate.wire.handshake import Credentials

__all__ = [
    "Identities",
    "Login",
    "PeerFacts",
    "Ticket",
]

T = TypeVar("T")

logger = logging.getLogger("headgate.security")

TOKEN_PREFIX = "hg"
"""How the text of an API token begins: ``hg_<id>_<secret>``."""

USED_SECONDS = 60.0
"""How exact the time of a token's last use is: it is written down at most this often."""

KEY_BYTES = 32

BAD_CERTIFICATE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What is raised where a certificate cannot be read."""


class PeerFacts(Protocol):
    """What the connection itself tells of the client."""

    @property
    def address(self) -> str:
        """The IP address that it connects from."""

    @property
    def certificate(self) -> bytes | None:
        """Its certificate, DER, which TLS has verified; None if it has shown none."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a session rests on; `Identities.current` tells whether it still holds."""

    user: str
    """Name of the user."""
    method: str
    """How the user logged in at first: after a ticket, that with which the ticket was made."""
    roles: frozenset[str] = frozenset()
    """The roles at login."""
    generation: int = 0
    """The user's at login."""
    token: str = ""
    """Id of the token, empty if it was none."""
    certificate: int = 0
    """Id of the certificate, 0 if it was none."""
    spki: str = ""
    """For a login by certificate: the SHA-256 of its public key in hex digits."""
    host: str = ""
    """The host name that the session claims."""
    verified_host: str = ""
    """The host name that the gateway verified at login, in lower case; empty if there is none."""
    address: str = ""
    """The IP address that it came from."""
    only: tuple[str, ...] = ()
    """Patterns of ``project/handler`` to which the token narrows it."""
    certified_hosts: tuple[str, ...] = ()
    """The DNS names in the certificate of the connection, in lower case."""
    certificate_ends: float | None = None
    """When the certificate ends that the login rests on, in seconds since 1970."""
    issued: float = 0.0
    """When the user logged in at first, without a ticket, in seconds since 1970."""
    ticketed: bool = False
    """Whether it was a ticket that opened this session."""


class Identities:
    """
    The users of a gateway, their tokens and certificates, and what was opened with them.

    It belongs to the event loop, but for `load` and `close`.

    Args:
        store: The gateway's database.
        anonymous_allowed: Whether those are let in who say nothing of who they are.
        pins: From where host names may be claimed, by name; asked at every use. What it gives is
            replaced as a whole when it changes.
        throttle: Delays those who guess passwords.
        parameters: How passwords are hashed.
        now: Seconds since 1970.
        on_change: Called on the event loop after every change.
    """

    def __init__(
        self,
        store: Store,
        *,
        anonymous_allowed: Callable[[], bool] = lambda: False,
        pins: Callable[[], Mapping[str, HostPin]] = dict,
        throttle: Throttle | None = None,
        parameters: Parameters = PARAMETERS,
        now: Callable[[], float] = time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_change = on_change
        self.accounts = Accounts()
        """All of them, as they are now; replaced as a whole by each change."""
        self.passwords = Passwords(throttle=throttle, parameters=parameters)
        """Hashes passwords and checks them."""
        self._store = store
        self._anonymous_allowed = anonymous_allowed
        self._pins = pins
        self._pins_seen: Mapping[str, HostPin] = {}
        self._pinned: Mapping[str, Networks] = {}
        self._now = now
        self._used: dict[str, float] = {}
        self._tickets = Tickets(secrets.token_bytes(KEY_BYTES))

    # --- its life --------------------------------------------------------------------------------

    def load(self) -> None:
        """Read everything from the database, which is open; this may block."""

        def read(connection: Connection) -> tuple[bytes, Accounts]:
            return _key(connection, "tickets"), Accounts.read(connection)

        secret, self.accounts = self._store.write(read).result()
        self._tickets = Tickets(secret)

    def close(self) -> None:
        """End the threads; this may block."""
        self.passwords.close()

    async def change(self, function: Callable[[Connection], T]) -> T:
        """
        Have a function write to the database, and let what it wrote hold at once.

        Returns:
            What the function returned, once it is on the disk and `on_change` was called.

        Raises:
            Overloaded: Too many writes wait.
        """

        def write(connection: Connection) -> tuple[T, Accounts]:
            value = function(connection)
            return value, Accounts.read(connection)

        async def apply() -> T:
            value, self.accounts = await asyncio.wrap_future(self._store.write(write))
            self.on_change()
            return value

        # Whoever waits may be cancelled: what is in the database holds nevertheless.
        return await asyncio.shield(apply())

    # --- logins ----------------------------------------------------------------------------------

    async def log_in(self, credentials: Credentials, peer: PeerFacts) -> Login:
        """
        Decide whether somebody is let in, and as whom.

        Raises:
            PermissionDenied: Not with these credentials, from there, or with this host name. The
                text is the precise reason, which is for the audit: it is not to be told to a
                stranger.
            Overloaded: Wrong passwords came before, or too many log in at once.
        """
        checks: dict[str, Callable[[Credentials, _Connection], Login]] = {
            "local": lambda shown, peer: self.local(shown.hello.host_name, peer.address),
            "token": self._by_token,
            "certificate": self._by_certificate,
            "anonymous": self._as_anonymous,
            "ticket": self._by_ticket,
        }
        connection = _Connection.of(peer)
        if credentials.method == "password":
            login = await self._by_password(credentials, connection)
        elif credentials.method in checks:
            login = checks[credentials.method](credentials, connection)
        else:
            raise _refused(f"the login method {credentials.method[:32]!r} is unknown")
        if problem := self.problem(login):
            raise _refused(problem)
        return self._as_of_now(login)

    def ticket(self, login: Login) -> Ticket | None:
        """
        Return what this session's client can reconnect with instead of logging in again.

        It is good for 12 hours from the login that was made without a ticket, so one ticket after
        the other does not last for ever.

        Returns:
            None for the owner's local token and for anonymous sessions, which have no use for one.
        """
        if login.method in ("local", "anonymous"):
            return None
        expires = login.issued + TICKET_SECONDS
        ends = self.expires_at(login)
        expires = expires if ends is None else min(expires, ends)
        claims = Claims(
            node=self._store.node_id,
            user=folded(login.user),
            generation=login.generation,
            method=login.method,
            token=login.token,
            certificate=login.certificate,
            spki=login.spki,
            host=login.host,
            address=login.address,
            issued=login.issued,
            expires=expires,
        )
        blob = self._tickets.seal(claims)
        return Ticket(blob, self._tickets.key(blob), max(0.0, expires - self._now()))

    def ticket_key(self, blob: bytes, peer: PeerFacts) -> bytes | None:
        """Return the key that a client with this ticket has; None if the ticket is not good."""
        return None if self.ticket_problem(blob, peer) else self._tickets.key(blob)

    def ticket_problem(self, blob: bytes, peer: PeerFacts) -> str:
        """Return why a ticket is not good, precisely and for the audit; empty if it is."""
        opened = self._open(blob, _Connection.of(peer))
        return opened if isinstance(opened, str) else self.problem(opened)

    # --- does it still hold? ---------------------------------------------------------------------

    def current(self, login: Login, *, session: str = "") -> Caller | None:
        """
        Return who a login makes a session, with the roles of now.

        Returns:
            None if the login holds no longer; `problem` tells why.
        """
        if self.problem(login):
            return None
        if login.method == "local":
            caller = owner(host=login.host, session=session)
            return msgspec.structs.replace(
                caller,
                address=login.address,
                verified_host=self._verified_host(login),
                method=login.method,
            )
        login = self._as_of_now(login)
        return Caller(
            user=login.user,
            roles=login.roles,
            host=login.host,
            session=session,
            address=login.address,
            verified_host=login.verified_host,
            method=login.method,
            only=login.only,
        )

    def problem(self, login: Login) -> str:
        """Return why a login holds no longer, for the audit; empty if it does."""
        if login.method == "local":
            return ""
        if login.method == "anonymous":
            problem = "" if self._anonymous_allowed() else "nobody may be anonymous"
        else:
            problem = self._user_problem(login) or self._token_problem(login)
            problem = problem or self._certificate_problem(login)
        return problem or self._pin_problem(login)

    def expires_at(self, login: Login) -> float | None:
        """Return when a login ends by itself, in seconds since 1970; None for never."""
        token = self.accounts.tokens.get(login.token)
        ends = [login.certificate_ends]
        if token is not None and token.expires_at is not None:
            ends.append(token.expires_at.timestamp())
        return min((each for each in ends if each is not None), default=None)

    def used_at(self, token: Token) -> datetime | None:
        """Return when somebody logged in with a token the last time, to the minute."""
        used = self._used.get(token.id)
        return token.used_at if used is None else datetime.fromtimestamp(used, UTC)

    def _user_problem(self, login: Login) -> str:
        user = self.accounts.users.get(folded(login.user))
        if user is None:
            return f"the user {login.user!r} does not exist"
        if user.generation != login.generation:
            return f"the user {login.user!r} got a new password or was made anew"
        return ""

    def _token_problem(self, login: Login) -> str:
        if not login.token:
            return ""
        token = self.accounts.tokens.get(login.token)
        if token is None or token.user != folded(login.user):
            return f"the token {login.token} does not exist"
        if token.revoked_at is not None:
            return f"the token {token.id} was revoked"
        if token.expires_at is not None and token.expires_at.timestamp() <= self._now():
            return f"the token {token.id} has expired"
        return ""

    def _certificate_problem(self, login: Login) -> str:
        if not login.certificate:
            return ""
        entry = self.accounts.certificates.get(login.certificate)
        if entry is None or entry.user != folded(login.user):
            return "the certificate is nobody's any more"
        if login.certificate_ends is not None and login.certificate_ends <= self._now():
            return "the certificate has expired"
        return ""

    def _as_of_now(self, login: Login) -> Login:
        """Return a login that holds, with what its user and its token give now."""
        user = self.accounts.users.get(folded(login.user))
        if user is None:
            return msgspec.structs.replace(login, verified_host=self._verified_host(login))
        token = self.accounts.tokens.get(login.token)
        return msgspec.structs.replace(
            login,
            user=user.name,
            roles=_roles(user, token),
            only=token.only if token is not None else (),
            verified_host=self._verified_host(login),
        )

    # --- the ways to log in ----------------------------------------------------------------------

    def local(self, host: str, address: str) -> Login:
        """Return the login of who has proven to know the owner's local token."""
        caller = owner(host=host, session="")
        return Login(
            user=caller.user,
            method="local",
            roles=caller.roles,
            host=host,
            address=address,
            issued=self._now(),
        )

    async def _by_password(self, credentials: Credentials, peer: _Connection) -> Login:
        key = folded(credentials.user)
        user = self.accounts.users.get(key)
        stored = None if user is None else user.password
        right = await self.passwords.verify(
            stored, credentials.secret, user=key, address=peer.address
        )
        if user is None:
            raise _refused(f"there is no user {credentials.user[:64]!r}")
        if stored is None:
            raise _refused(f"the user {user.name!r} has no password")
        if not right:
            raise _refused(f"the password of {user.name!r} is wrong")
        if self.passwords.is_outdated(stored):
            await self._rehash(user, credentials.secret)
        return self._login(user, "password", credentials, peer)

    def _by_token(self, credentials: Credentials, peer: _Connection) -> Login:
        prefix, _, rest = credentials.secret.partition("_")
        id, _, secret = rest.partition("_")
        token = self.accounts.tokens.get(id)
        known = token.secret if token is not None else bytes(KEY_BYTES)
        right = hmac.compare_digest(known, secret_hash(secret)) and prefix == TOKEN_PREFIX
        if token is None:
            raise _refused("there is no such token")
        user = self.accounts.users[token.user]
        if not right:
            raise _refused(f"the secret of the token {token.id} is wrong")
        login = self._login(user, "token", credentials, peer)
        login = msgspec.structs.replace(login, token=token.id)
        if not self.problem(login):
            self._note_use(token.id)
        return login

    def _by_certificate(self, credentials: Credentials, peer: _Connection) -> Login:
        if not peer.marks:
            raise _refused("no certificate was shown")
        found = [self.accounts.marks[mark] for mark in peer.marks if mark in self.accounts.marks]
        owners = {each.user for each in found}
        if len(owners) != 1:
            several = "several users" if owners else "nobody"
            raise _refused(f"the certificate {peer.spki} is that of {several}")
        user = self.accounts.users[found[0].user]
        login = self._login(user, "certificate", credentials, peer)
        return msgspec.structs.replace(
            login, certificate=found[0].id, spki=peer.spki, certificate_ends=peer.ends
        )

    def _as_anonymous(self, credentials: Credentials, peer: _Connection) -> Login:
        return Login(
            user=ANONYMOUS,
            method="anonymous",
            host=credentials.hello.host_name,
            address=peer.address,
            certified_hosts=peer.hosts,
            issued=self._now(),
        )

    def _by_ticket(self, credentials: Credentials, peer: _Connection) -> Login:
        opened = self._open(credentials.ticket, peer)
        if isinstance(opened, str):
            raise _refused(opened)
        if opened.host.casefold() != credentials.hello.host_name.casefold():
            raise _refused("the ticket is another host name's")
        return opened

    def _open(self, blob: bytes, peer: _Connection) -> Login | str:
        """Return the login that a ticket stands for, or why it is not good."""
        claims = self._tickets.open(blob)
        if claims is None:
            return "the ticket is forged or altered"
        if claims.node != self._store.node_id:
            return "the ticket is another gateway's"
        if claims.expires <= self._now():
            return "the ticket has expired"
        if claims.address != peer.address:
            return f"the ticket is that of the address {claims.address}"
        if claims.spki and claims.spki != peer.spki:
            return "the ticket is that of another certificate"
        user = self.accounts.users.get(claims.user)
        return Login(
            user=user.name if user is not None else claims.user,
            method=claims.method,
            generation=claims.generation,
            token=claims.token,
            certificate=claims.certificate,
            spki=claims.spki,
            host=claims.host,
            address=claims.address,
            certified_hosts=peer.hosts,
            certificate_ends=peer.ends if claims.certificate else None,
            issued=claims.issued,
            ticketed=True,
        )

    def _login(self, user: User, method: str, credentials: Credentials, peer: _Connection) -> Login:
        return Login(
            user=user.name,
            method=method,
            generation=user.generation,
            host=credentials.hello.host_name,
            address=peer.address,
            certified_hosts=peer.hosts,
            issued=self._now(),
        )

    async def _rehash(self, user: User, password: str) -> None:
        """Keep the password under the parameters of now, if it is still the same one."""
        hashed = await self.passwords.hash(password)
        same = (users.c.id == user.id) & (users.c.password == user.password)

        def write(connection: Connection) -> None:
            connection.execute(update(users).where(same).values(password=hashed))

        try:
            await self.change(write)
        except HeadgateError:
            logger.warning("The password of %r keeps its old hash until the next login", user.name)

    def _note_use(self, token_id: str) -> None:
        now = self._now()
        if now - self._used.get(token_id, 0.0) < USED_SECONDS:
            return
        self._used[token_id] = now
        moment = datetime.fromtimestamp(now, UTC)
        chosen = update(tokens).where(tokens.c.id == token_id).values(used_at=moment)

        def write(connection: Connection) -> None:
            connection.execute(chosen)

        try:
            self._store.write(write).add_done_callback(_log_failure)
        except HeadgateError:
            logger.warning("The use of the token %s was not written down", token_id)

    # --- host names ------------------------------------------------------------------------------

    def _pin_problem(self, login: Login) -> str:
        pin = self._pin(login.host)
        if pin is None or login.address in pin:
            return ""
        return f"the host name {login.host!r} is pinned to other addresses"

    def _pin(self, host: str) -> Networks | None:
        """Return from where a host name may be claimed, None for from everywhere."""
        pins = self._pins()
        if pins is not self._pins_seen:
            self._pins_seen = pins
            self._pinned = {
                name.lower(): Networks(pin.addresses, of=f"Host {name!r}")
                for name, pin in pins.items()
            }
        return self._pinned.get(host.lower())

    def _verified_host(self, login: Login) -> str:
        claimed = login.host.lower()
        pin = self._pin(claimed)
        if pin is not None and login.address in pin:
            return claimed
        if login.certified_hosts and claimed not in login.certified_hosts:
            return login.certified_hosts[0]
        if login.certified_hosts:
            return claimed
        user = self.accounts.users.get(folded(login.user)) if login.generation else None
        token = self.accounts.tokens.get(login.token)
        patterns = (user.hosts if user else ()) + (token.hosts if token else ())
        matches = claimed and patterns and matcher(patterns, fold=True)(folded(claimed))
        return claimed if matches else ""


@dataclass(frozen=True)
class _Connection:
    """What a connection tells, read once."""

    address: str
    marks: tuple[str, ...] = ()
    """The public key of the certificate and the names in it, as `Accounts.marks` has them."""
    spki: str = ""
    hosts: tuple[str, ...] = ()
    ends: float | None = None

    @classmethod
    def of(cls, peer: PeerFacts) -> _Connection:
        if peer.certificate is None:
            return cls(peer.address)
        try:
            certificate = x509.load_der_x509_certificate(peer.certificate)
            spki, names = spki_of(certificate), names_of(certificate)
        except BAD_CERTIFICATE:
            return cls(peer.address)
        return cls(
            peer.address,
            marks=(f"spki:{spki}", *names),
            spki=spki,
            hosts=tuple(name[4:] for name in names if name.startswith("dns:")),
            ends=certificate.not_valid_after_utc.timestamp(),
        )


def _refused(reason: str) -> PermissionDenied:
    return PermissionDenied(f"The login was refused: {reason}", started=False)


def spki_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's public key (SubjectPublicKeyInfo) in hex digits."""
    key = certificate.public_key()
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the alternative names of a certificate's subject: ``dns:``, ``email:``, ``uri:``."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds: list[
        tuple[str, type[x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier]]
    ] = [
        ("dns", x509.DNSName),
        ("email", x509.RFC822Name),
        ("uri", x509.UniformResourceIdentifier),
    ]
    return [
        normal_san(f"{kind}:{value}")
        for kind, type_ in kinds
        for value in found.get_values_for_type(type_)
    ]


def normal_san(san: str) -> str:
    """Return a name in the form in which it is compared: host names and mail without case."""
    kind, separator, value = san.partition(":")
    return san if kind == "uri" else f"{kind}{separator}{value.lower()}"


def secret_hash(secret: str) -> bytes:
    """Return what is kept of a token's secret; it is random, so a fast hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _roles(user: User, token: Token | None) -> frozenset[str]:
    return user.roles & token.roles if token is not None and token.roles else user.roles


def _key(connection: Connection, name: str) -> bytes:
    """Return one of the gateway's own secrets, made when it is first needed."""
    known: bytes | None = connection.scalar(select(keys.c.secret).where(keys.c.name == name))
    if known is not None:
        return known
    drawn = secrets.token_bytes(KEY_BYTES)
    row = {"name": name, "secret": drawn, "created_at": datetime.now(UTC)}
    connection.execute(insert(keys).values(row))
    return drawn


def _log_failure(write: Future[None]) -> None:
    if not write.cancelled() and write.exception() is not None:
        logger.warning("The use of a token was not written down", exc_info=write.exception())
