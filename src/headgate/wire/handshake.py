"""
How a session begins: Hello, Challenge, Proof, Welcome, or Refuse.

Login as a type: a handshake *returns* the session, so before it nothing can be called. The
handshake is pure; the random numbers, the token and the time are given to it.

The method ``local`` proves that both ends can read the owner's token, which is never sent: the
gateway proves it first, so a program that squats on the port learns nothing. Each proof is an
HMAC-SHA256 under the token, over a label, the gateway's address and both sides' random numbers; the
label keeps one side's proof from serving as the other's, the address keeps a proof from being
passed on by a program that listens elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

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
    "MAX_GREETING",
    "NONCE_BYTES",
    "VERSION",
    "ClientHandshake",
    "GatewayHandshake",
    "address_of",
    "refuse",
    "welcome",
]

VERSION = 1
"""The version of the protocol."""

FEATURES: list[str] = ["progress", "fate"]
"""What this side can do beyond the version; version 1 takes both as given."""

METHOD = "local"
"""The one way to log in: with the owner's local token."""

MAX_GREETING = 4096
"""Bytes that one frame of the handshake has at most."""

NONCE_BYTES = 32
"""Bytes of each side's random number, at least."""

SOFTWARE = "headgate-python"
"""Name of this client's software, for logs."""


class Meeting(NamedTuple):
    """What makes one login different from all others."""

    address: str
    """Where the connection leads: the gateway's IP address and port, as `address_of` gives it."""
    client: bytes
    """The client's random number."""
    gateway: bytes
    """The gateway's random number."""


def address_of(name: tuple[Any, ...]) -> str:
    """Return a socket's name as ``127.0.0.1:8188`` or ``[::1]:8188``."""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def prove(token: bytes, label: str, meeting: Meeting) -> bytes:
    """Return one side's proof that it knows the token."""
    text = f"headgate 1 {label} {meeting.address} ".encode()
    return hmac.digest(token, text + meeting.client + meeting.gateway, "sha256")


class ClientHandshake:
    """
    The client's side.

    Args:
        token: The owner's local token.
        address: The IP address and port that the client is connected to, as `address_of` gives it.
        nonce: `NONCE_BYTES` random bytes.
        project: The client's own project, for `getProjectName` and delivery.
        host_name: The name that this machine claims.
        kind: ``"client"`` or another kind of session.
    """

    def __init__(
        self,
        *,
        token: bytes,
        address: str,
        nonce: bytes,
        project: str = "",
        host_name: str = "",
        kind: str = "client",
    ) -> None:
        self._token = token
        self._address = address
        self._challenged = False
        self._hello = Hello(
            versions=[VERSION],
            features=FEATURES,
            method=METHOD,
            nonce=nonce,
            project=project,
            host_name=host_name,
            kind=kind,
            software=SOFTWARE,
        )
        self.welcome: Welcome | None = None
        """What the gateway said of itself and of the session, once it is open."""

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
            PermissionDenied: Whatever listens there does not know the owner's token.
            RemoteProtocolError: The gateway broke a rule.
        """
        frame = decode_greeting(message)
        if isinstance(frame, Refuse):
            raise RequestError.from_wire(frame.code, frame.message, started=False)
        if isinstance(frame, Challenge) and not self._challenged:
            answer = self._answer(frame)
            self._challenged = True
            return answer
        if isinstance(frame, Welcome) and self._challenged:
            if frame.version != VERSION:
                raise RemoteProtocolError(f"The gateway speaks version {frame.version} unasked")
            self.welcome = frame
            credit = Credit(in_flight=frame.in_flight, unsent=frame.unsent)
            return Session(now=now, id=frame.session, credit=credit)
        raise RemoteProtocolError(f"The gateway sent {type(frame).__name__} out of order")

    def _answer(self, challenge: Challenge) -> bytes:
        meeting = Meeting(self._address, self._hello.nonce, challenge.nonce)
        if not hmac.compare_digest(challenge.proof, prove(self._token, "gateway", meeting)):
            raise PermissionDenied(
                f"What listens on {self._address} does not know the owner's local token, so it "
                "is not this user's gateway. Nothing was told to it",
                started=False,
            )
        return encode(Proof(prove(self._token, "client", meeting)))


class GatewayHandshake:
    """
    The gateway's side.

    Args:
        token: The owner's local token.
        address: The IP address and port of its own end of the connection.
        nonce: `NONCE_BYTES` random bytes.
        inspect: Looks at the client's Hello before anything is made of it; it may raise
            RequestError.
    """

    def __init__(
        self,
        *,
        token: bytes,
        address: str,
        nonce: bytes,
        inspect: Callable[[Hello], None] | None = None,
    ) -> None:
        self._token = token
        self._address = address
        self._nonce = nonce
        self._inspect = inspect
        self._hello: Hello | None = None

    def receive(self, message: bytes) -> bytes | Hello:
        """
        Take a message of the client.

        Returns:
            The message to send next; or, when the client has proven itself, its Hello: then
            `welcome` opens the session.

        Raises:
            PermissionDenied: The proof is wrong.
            RequestError: The client asks for what this gateway does not speak.
            RemoteProtocolError: The client broke a rule.
        """
        frame = decode_greeting(message)
        if isinstance(frame, Hello) and self._hello is None:
            self._require(frame)
            self._hello = frame
            proof = prove(self._token, "gateway", self._meeting(frame))
            return encode(Challenge(self._nonce, proof))
        if isinstance(frame, Proof) and self._hello is not None:
            expected = prove(self._token, "client", self._meeting(self._hello))
            if not hmac.compare_digest(frame.proof, expected):
                raise PermissionDenied("The proof of the owner's local token is wrong")
            return self._hello
        raise RemoteProtocolError(f"The client sent {type(frame).__name__} out of order")

    def _require(self, hello: Hello) -> None:
        if self._inspect is not None:
            self._inspect(hello)
        if VERSION not in hello.versions:
            raise GatewayUnreachable(
                f"This gateway speaks version {VERSION} of the protocol, the client only "
                f"{hello.versions}: install releases that fit each other"
            )
        if hello.method != METHOD:
            raise PermissionDenied(f"This gateway does not know the login method {hello.method!r}")
        if len(hello.nonce) < NONCE_BYTES:
            raise RemoteProtocolError("The client's random number is too short")

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


def refuse(error: RequestError) -> bytes:
    """Return the message that tells a client why no session is opened."""
    return encode(Refuse(error.code, error.message))
