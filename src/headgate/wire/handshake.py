"""
How a session begins: Hello, Challenge, Proof, Welcome, or Refuse.

Login as a type: a handshake *returns* the session, so before it nothing can be called. The
handshake is pure; the random numbers, the keys and the time are given to it.

The methods ``local`` and ``ticket`` prove that both ends know a key, which is never sent: the
owner's local token, or the key that came with a ticket. The gateway proves it first, so a program
that squats on the port learns nothing. Each proof is an HMAC-SHA256 under the key, over a label,
the gateway's address and both sides' random numbers; the label keeps one side's proof from serving
as the other's, the address keeps a proof from being passed on by a program that listens elsewhere.

The methods ``password`` and ``token`` send a secret, so it leaves only after the gateway has shown
who it is: by the certificate of TLS, or on loopback by its proof of the owner's local token. With
``certificate`` TLS has verified the client; ``anonymous`` shows nothing.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from headgate.errors import (
    GatewayUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    RequestError,
)
from headgate.wire.chunks import Allowance
from headgate.wire.frames import (
    Challenge,
    Hello,
    Proof,
    Refuse,
    Welcome,
    decode_greeting,
    encode,
)
from headgate.wire.session import Credit, Session

__all__ = [
    "KEY_BYTES",
    "MAX_GREETING",
    "MAX_SECRET",
    "METHODS",
    "NONCE_BYTES",
    "OVER_TLS",
    "SECRET_METHODS",
    "VERSION",
    "Claim",
    "ClientHandshake",
    "Credentials",
    "GatewayHandshake",
    "Method",
    "Ticket",
    "address_of",
    "refusal",
    "refuse",
    "welcome",
]

VERSION = 1
"""The version of the protocol."""

FEATURES: list[str] = ["progress", "fate"]
"""What this side can do beyond the version; version 1 takes both as given."""

Method = Literal["local", "password", "token", "certificate", "anonymous", "ticket"]
"""How a client logs in."""

METHODS: tuple[str, ...] = get_args(Method)

KEYED_METHODS = frozenset({"local", "ticket"})
"""Methods of which both sides prove a key that is never sent."""

SECRET_METHODS = frozenset({"password", "token"})
"""Methods that send the secret itself."""

MAX_GREETING = 4096
"""Bytes that one frame of the handshake has at most."""

MAX_SECRET = 1024
"""Bytes that a password, a token or a ticket has at most."""

NONCE_BYTES = 32
"""Bytes of each side's random number, at least."""

KEY_BYTES = 32
"""Bytes of a ticket's key."""

OVER_TLS = "tls"
"""
Stands for the gateway's address in the proofs of a connection with TLS.

There the certificate says who the gateway is, and what stands between may change addresses.
"""

SOFTWARE = "headgate-python"
"""Name of this client's software, for logs."""

_REFUSALS = {
    "local": "the proof of the owner's local token is wrong",
    "password": "user or password is wrong",
    "token": "the token is wrong, over or revoked",
    "certificate": "this certificate is no user's",
    "anonymous": "this gateway wants to know who calls",
    "ticket": "the ticket is wrong, over or revoked",
}


class Meeting(NamedTuple):
    """What makes one login different from all others."""

    address: str
    """Where the connection leads: the gateway's IP address and port, or `OVER_TLS`."""
    client: bytes
    """The client's random number."""
    gateway: bytes
    """The gateway's random number."""


@dataclass(frozen=True)
class Ticket:
    """What a gateway gives a client to log in with next time, in place of its credentials."""

    blob: bytes = field(repr=False)
    """What the client shows, of `MAX_SECRET` bytes at most; alone it opens nothing."""
    key: bytes = field(repr=False)
    """What both sides prove, `KEY_BYTES` bytes; it is never sent again."""
    seconds: float
    """For how long it is good from now on."""


@dataclass(frozen=True)
class Claim:
    """How a client logs in at one connection: who it says it is, and what it shows for that."""

    method: Method
    key: bytes | None = field(default=None, repr=False)
    """
    What the gateway has to prove: the owner's local token or the ticket's key.

    None if nothing is asked for, because TLS has shown who it is or nothing secret is sent.
    """
    user: str = ""
    """The user, with a password."""
    secret: bytes = field(default=b"", repr=False)
    """The password or the token, in UTF-8."""
    ticket: bytes = field(default=b"", repr=False)
    """The ticket's blob."""

    @classmethod
    def local(cls, token: bytes) -> Claim:
        """Return the claim of a client that can read the owner's local token."""
        return cls("local", token)

    @classmethod
    def of_ticket(cls, ticket: Ticket) -> Claim:
        """Return the claim of a client that was given a ticket before."""
        return cls("ticket", ticket.key, ticket=ticket.blob)


@dataclass(frozen=True)
class Credentials:
    """
    What a client has shown at the gateway.

    Of ``local`` and ``ticket`` the proof is verified; all else is for whoever knows the users.
    """

    method: str
    hello: Hello = field(repr=False)
    """What the client says of itself."""
    user: str = ""
    """The user that it claims to be, with a password."""
    secret: str = field(default="", repr=False)
    """The password or the token."""

    @property
    def ticket(self) -> bytes:
        """The ticket's blob, empty for other methods."""
        blob = self.hello.extensions.get("ticket") if self.method == "ticket" else None
        return blob if isinstance(blob, bytes) else b""


def address_of(name: tuple[Any, ...]) -> str:
    """Return a socket's name as ``127.0.0.1:8188`` or ``[::1]:8188``."""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def prove(key: bytes, label: str, meeting: Meeting) -> bytes:
    """Return one side's proof that it knows the key."""
    text = f"headgate 1 {label} {meeting.address} ".encode()
    return hmac.digest(key, text + meeting.client + meeting.gateway, "sha256")


def refusal(method: str) -> str:
    """Return what a client is told whose login is refused, whatever was wrong with it."""
    return f"The login was refused: {_REFUSALS[method]}"


class ClientHandshake:
    """
    The client's side.

    Args:
        claim: How it logs in.
        address: The IP address and port that the client is connected to, as `address_of` gives it,
            or `OVER_TLS`.
        nonce: `NONCE_BYTES` random bytes.
        project: The client's own project, for `getProjectName` and delivery.
        host_name: The name that this machine claims.
        kind: ``"client"`` or another kind of session.

    Raises:
        PermissionDenied: A secret would be sent to who has not shown to be the gateway.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        address: str,
        nonce: bytes,
        project: str = "",
        host_name: str = "",
        kind: str = "client",
    ) -> None:
        if claim.key is None and address != OVER_TLS and claim.method in SECRET_METHODS:
            raise PermissionDenied(
                f"Nothing shows that what listens on {address} is the gateway, so no secret is "
                "sent there: use wss://",
                started=False,
            )
        self._claim = claim
        self._address = address
        self._expected: type[Challenge | Welcome] | None = Challenge
        self._hello = Hello(
            versions=[VERSION],
            features=FEATURES,
            method=claim.method,
            nonce=nonce,
            project=project,
            host_name=host_name,
            kind=kind,
            software=SOFTWARE,
            extensions=_shown(claim),
        )
        self.welcome: Welcome | None = None
        """What the gateway said of itself and of the session, once it is open."""
        self.ticket: Ticket | None = None
        """What the gateway gave for the next login."""

    def hello(self) -> bytes:
        """Return the first message."""
        return encode(self._hello)

    def receive(self, message: bytes, now: float) -> bytes | Session:
        """
        Take a message of the gateway.

        Returns:
            The message to send next, or the open session.

        Raises:
            RequestError: The gateway refused, with its reason.
            PermissionDenied: Whatever listens there does not know the key that it has to prove.
            RemoteProtocolError: The gateway broke a rule.
        """
        frame = decode_greeting(message)
        if isinstance(frame, Refuse):
            raise RequestError.from_wire(frame.code, frame.message, frame.extensions, started=False)
        # A frame that breaks a rule is the last one that is taken.
        expected, self._expected = self._expected, None
        if type(frame) is not expected:
            raise RemoteProtocolError(f"The gateway sent {type(frame).__name__} out of order")
        if isinstance(frame, Welcome):
            if frame.version != VERSION:
                raise RemoteProtocolError(f"The gateway speaks version {frame.version} unasked")
            self.ticket = _ticket_of(frame)
            self.welcome = frame
            credit = Credit(in_flight=frame.in_flight, unsent=frame.unsent)
            return Session(now=now, id=frame.session, credit=credit)
        answer = self._answer(frame)
        self._expected = Welcome
        return answer

    def _answer(self, challenge: Challenge) -> bytes:
        claim = self._claim
        meeting = Meeting(self._address, self._hello.nonce, challenge.nonce)
        if claim.key is not None:
            self._require_proof(challenge, meeting, claim.key)
            if claim.method in KEYED_METHODS:
                return encode(Proof(prove(claim.key, "client", meeting)))
        return encode(Proof(claim.secret))

    def _require_proof(self, challenge: Challenge, meeting: Meeting, key: bytes) -> None:
        if len(challenge.nonce) < NONCE_BYTES:
            raise RemoteProtocolError("The gateway's random number is too short")
        if not hmac.compare_digest(challenge.proof, prove(key, "gateway", meeting)):
            told = (
                "the ticket's key" if self._claim.method == "ticket" else "the owner's local token"
            )
            raise PermissionDenied(
                f"What listens on {self._address} does not know {told}, so it is not this user's "
                "gateway. No secret was told to it",
                started=False,
            )


def _shown(claim: Claim) -> dict[str, Any]:
    if claim.method == "password":
        return {"user": claim.user}
    return {"ticket": claim.ticket} if claim.method == "ticket" else {}


def _ticket_of(welcome: Welcome) -> Ticket | None:
    """Take the ticket out of a Welcome, so that nobody shows it; one that is malformed is none."""
    extensions = welcome.extensions
    blob, key = extensions.pop("ticket", None), extensions.pop("ticket_key", None)
    seconds = extensions.pop("ticket_seconds", None)
    if not isinstance(blob, bytes) or not 0 < len(blob) <= MAX_SECRET:
        return None
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        return None
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        return None
    return Ticket(blob, key, float(seconds))


class GatewayHandshake:
    """
    The gateway's side.

    Args:
        key: Gives the key that both sides have to prove: of a Hello with a ticket the ticket's,
            else the owner's local token; None refuses the login.
        address: The IP address and port of its own end of the connection, or `OVER_TLS`.
        nonce: `NONCE_BYTES` random bytes.
        private: Whether the connection has TLS or is one of loopback, so that secrets may be sent.
        inspect: Looks at the client's Hello before anything is made of it; it may raise
            RequestError.
    """

    def __init__(
        self,
        *,
        key: Callable[[Hello], bytes | None],
        address: str,
        nonce: bytes,
        private: bool = True,
        inspect: Callable[[Hello], None] | None = None,
    ) -> None:
        self._key_of = key
        self._address = address
        self._nonce = nonce
        self._private = private
        self._inspect = inspect
        self.hello: Hello | None = None
        """What the client says of itself, once it has; nothing of it is proven."""
        self._expected: type[Hello | Proof] | None = Hello
        self._key: bytes

    def receive(self, message: bytes) -> bytes | Credentials:
        """
        Take a message of the client.

        Returns:
            The message to send next; or, when the client has sent its proof, what it has shown:
            then `welcome` opens the session for whom its user is let in.

        Raises:
            PermissionDenied: The proof is wrong, or a secret may not be sent here.
            RequestError: The client asks for what this gateway does not speak.
            RemoteProtocolError: The client broke a rule.
        """
        frame = decode_greeting(message)
        # A frame that breaks a rule is the last one that is taken, and there is one try.
        expected, self._expected = self._expected, None
        if type(frame) is not expected:
            raise RemoteProtocolError(f"The client sent {type(frame).__name__} out of order")
        if isinstance(frame, Hello):
            self.hello = frame
            self._require(frame)
            key = self._key_of(frame)
            if key is None:
                raise PermissionDenied(refusal(frame.method))
            self._key, self._expected = key, Proof
            return encode(Challenge(self._nonce, prove(key, "gateway", self._meeting(frame))))
        assert self.hello is not None
        return self._credentials(self.hello, frame.proof)

    def _require(self, hello: Hello) -> None:
        if self._inspect is not None:
            self._inspect(hello)
        if VERSION not in hello.versions:
            raise GatewayUnreachable(
                f"This gateway speaks version {VERSION} of the protocol, the client only "
                f"{hello.versions}: install releases that fit each other"
            )
        if hello.method not in METHODS:
            raise PermissionDenied(f"This gateway does not know the login method {hello.method!r}")
        if len(hello.nonce) < NONCE_BYTES:
            raise RemoteProtocolError("The client's random number is too short")
        if hello.method in SECRET_METHODS and not self._private:
            raise PermissionDenied(
                f"A {hello.method} is not taken over ws:// from another machine, where others can "
                "read it: connect with wss://"
            )
        shown = hello.extensions
        if hello.method == "password" and not isinstance(shown.get("user"), str):
            raise RemoteProtocolError("The client logs in with a password, but names no user")
        if hello.method == "ticket" and not isinstance(shown.get("ticket"), bytes):
            raise RemoteProtocolError("The client logs in with a ticket, but shows none")

    def _credentials(self, hello: Hello, proof: bytes) -> Credentials:
        method = hello.method
        if method in KEYED_METHODS:
            expected = prove(self._key, "client", self._meeting(hello))
            if not hmac.compare_digest(proof, expected):
                raise PermissionDenied(refusal(method))
            return Credentials(method, hello)
        if method not in SECRET_METHODS:
            return Credentials(method, hello)
        try:
            secret = proof.decode() if len(proof) <= MAX_SECRET else ""
        except UnicodeDecodeError:
            secret = ""
        if not secret:
            raise PermissionDenied(refusal(method))
        user = hello.extensions["user"] if method == "password" else ""
        return Credentials(method, hello, user, secret)

    def _meeting(self, hello: Hello) -> Meeting:
        return Meeting(self._address, hello.nonce, self._nonce)


def welcome(
    now: float,
    *,
    session: str,
    gateway: str,
    user: str,
    credit: Credit,
    max_message: int,
    allowance: Allowance | None = None,
    ticket: Ticket | None = None,
    on_limit: Callable[[str], None] | None = None,
) -> tuple[bytes, Session]:
    """
    Return the message that opens the session, and the session as the gateway sees it.

    Args:
        now: The time, in seconds on a monotonic clock.
        session: The session's id.
        gateway: The gateway's name.
        user: Who the client is.
        credit: What the client may have under way.
        max_message: Bytes that a message has at most.
        allowance: What this gateway's sessions may hold together of payloads that have arrived
            in part.
        ticket: What the client may log in with next time.
        on_limit: Told the name of a limit of `credit` that refused a call.
    """
    frame = Welcome(
        version=VERSION,
        features=FEATURES,
        session=session,
        gateway=gateway,
        user=user,
        in_flight=credit.in_flight,
        unsent=credit.unsent,
        max_message=max_message,
        extensions=_given(ticket),
    )
    opened = Session(
        now=now,
        id=session,
        serves=credit,
        connecting=False,
        allowance=allowance,
        on_limit=on_limit,
    )
    return encode(frame), opened


def _given(ticket: Ticket | None) -> dict[str, Any]:
    if ticket is None or len(ticket.blob) > MAX_SECRET:
        return {}
    return {"ticket": ticket.blob, "ticket_key": ticket.key, "ticket_seconds": ticket.seconds}


def refuse(error: RequestError) -> bytes:
    """Return the message that tells a client why no session is opened."""
    return encode(Refuse(error.code, error.message, error.details()))
