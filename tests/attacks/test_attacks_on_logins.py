"""Whoever shows nothing good is refused, recorded, and learns nothing."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from attacked import PASSWORD, Attacked, outside, password_of, seconds_until, token_of
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

import headgate
from headgate.channel.local import publish_port
from headgate.errors import GatewayUnreachable, PermissionDenied
from headgate.security.certificates import Folder
from headgate.wire.frames import Challenge, Hello, Proof, Refuse, Welcome, decode_greeting, encode
from headgate.wire.handshake import Claim, Ticket

pytestmark = pytest.mark.usefixtures("signed_in")


def refusal(message: bytes) -> str:
    """The text of a refusal."""
    frame = decode_greeting(message)
    assert isinstance(frame, Refuse)
    return frame.message


# --- passwords -----------------------------------------------------------------------------------


def test_a_wrong_password(attacked: Attacked) -> None:
    """It is refused, and recorded without the password."""
    with pytest.raises(PermissionDenied, match="user or password is wrong"):
        attacked.client(username="ada", password="wrong horse battery")
    attacked.told("refused", "the password of 'ada' is wrong", address="127.0.0.1")
    assert "wrong horse" not in json.dumps(attacked.rows())
    assert "wrong horse" not in attacked.log


def test_a_user_that_is_none(attacked: Attacked) -> None:
    """Answer and time are those of a wrong password; only the record knows."""

    def ask(user: str, source: str) -> float:
        begun = time.perf_counter()
        answers.add(attacked.refused(password_of(user, "wrong horse battery"), source))
        return time.perf_counter() - begun

    for attempt in range(3):
        # Each from an address of its own, or wrong passwords that came before would delay it.
        answers: set[bytes] = set()
        sources = [f"127.0.{10 + attempt}.{number}" for number in range(1, 7)]
        known = min(ask("ada", source) for source in sources[::2])
        unknown = min(ask("nobody", source) for source in sources[1::2])
        assert len(answers) == 1
        if 0.67 < known / unknown < 1.5:
            break
    else:
        pytest.fail(f"a wrong password takes {known:.3f} s, an unknown user {unknown:.3f} s")
    print(f"wrong password {known * 1000:.1f} ms, unknown user {unknown * 1000:.1f} ms")
    attacked.told("refused", "there is no user 'nobody'", address=sources[-1])


# --- tokens --------------------------------------------------------------------------------------


def test_tokens_that_are_no_good(attacked: Attacked) -> None:
    """One answer for a token that is over, revoked, altered or invented; the record tells them."""
    expired = attacked.cli("token", "create", "ada", "--expires", "1s")
    revoked = attacked.cli("token", "create", "ada")
    good = attacked.cli("token", "create", "ada")
    attacked.cli("token", "revoke", revoked["id"])
    with attacked.client(token=good["token"]) as client:
        assert client.request("ACME", "who", timeout=20).get() == "ada"
    altered = good["token"][:-2] + ("AA" if good["token"][-2:] != "AA" else "BB")
    seconds_until(lambda: attacked.cli("token", "list")["tokens"][0]["state"] == "expired")
    reasons = {
        expired["token"]: f"the token {expired['id']} has expired",
        revoked["token"]: f"the token {revoked['id']} was revoked",
        altered: f"the secret of the token {good['id']} is wrong",
        "hg_000000000000_c2VjcmV0": "there is no such token",
    }
    assert len({attacked.refused(token_of(token)) for token in reasons}) == 1
    for token, reason in reasons.items():
        attacked.told("refused", reason)
        assert token not in json.dumps(attacked.rows())
        assert token not in attacked.log


# --- proofs and tickets --------------------------------------------------------------------------


def ticket(attacked: Attacked) -> Ticket:
    """A ticket of the user, made for 127.0.0.1."""
    with attacked.by_hand() as peer:
        made = attacked.log_in(peer, password_of("ada", PASSWORD)).ticket
        assert made is not None
        return made


@pytest.mark.parametrize("method", ["local", "ticket"])
def test_a_replayed_proof(attacked: Attacked, method: str) -> None:
    """The bytes of a login that was good are no good a second time."""
    of = {
        "local": lambda: Claim.local(attacked.token),
        "ticket": lambda: Claim.of_ticket(ticket(attacked)),
    }
    with attacked.by_hand() as peer:
        login = attacked.log_in(peer, of[method]())
        assert isinstance(login.last, Welcome)
    with attacked.by_hand() as peer:
        hello, proof = login.sent
        peer.send(hello)
        assert isinstance(decode_greeting(bytes(peer.recv(timeout=20))), Challenge)
        peer.send(proof)
        assert "is wrong" in refusal(bytes(peer.recv(timeout=20)))
    attacked.told("refused", f"the {'ticket' if method == 'ticket' else 'proof'}")


def test_tickets_that_are_no_good(attacked: Attacked) -> None:
    """A ticket is good as the gateway made it, with its key, and from its own address."""
    good = ticket(attacked)
    altered = good.blob[:5] + bytes([good.blob[5] ^ 1]) + good.blob[6:]
    for blob in (altered, os.urandom(len(good.blob)), b""):
        forged = attacked.refused(Claim.of_ticket(Ticket(blob, good.key, 60.0)))
        attacked.told("refused", "the ticket is forged or altered")
    with attacked.by_hand() as peer:
        hello = Hello([1], [], "ticket", os.urandom(32), extensions={"ticket": good.blob})
        peer.send(encode(hello))
        peer.recv(timeout=20)
        peer.send(encode(Proof(os.urandom(32))))
        assert peer.recv(timeout=20) == forged
    assert attacked.refused(Claim.of_ticket(good), "127.0.0.9") == forged
    attacked.told("refused", "the ticket is that of the address 127.0.0.1", address="127.0.0.9")
    with attacked.by_hand() as peer:
        login = attacked.log_in(peer, Claim.of_ticket(good))
        assert isinstance(login.last, Welcome)
        assert login.last.user == "ada"
    attacked.told("login", "ticket from 127.0.0.1", user="ada")


def test_the_local_token_elsewhere(attacked: Attacked) -> None:
    """Even the right token opens nothing to who does not connect on this machine's loopback."""
    address = outside()
    with attacked.by_hand(address, address) as peer:
        peer.send(encode(Hello([1], [], "local", os.urandom(32))))
        assert "local token is wrong" in refusal(bytes(peer.recv(timeout=20)))
    attacked.told("refused", "local token", address=address)


# --- a secret for who must not have it -----------------------------------------------------------


class Squatter:
    """A program that took the gateway's port, and asks for whatever opens the gateway."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.heard: list[bytes] = []
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None, ssl=context)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _talk(self, peer: ServerConnection) -> None:
        try:
            while True:
                self.heard.append(bytes(peer.recv()))
                peer.send(encode(Challenge(os.urandom(32), os.urandom(32))))
        except ConnectionClosed:
            pass

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


@pytest.fixture(params=["ws", "wss"])
def squatter(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Squatter]:
    """One that speaks plainly, and one with a certificate of its own."""
    context = None
    if request.param == "wss":
        foreign = Folder(tmp_path / "foreign")
        foreign.init([])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(foreign.server, foreign.server_key)
    with closing(Squatter(context)) as squatter:
        yield squatter


def test_a_squatter_on_the_port(attacked: Attacked, squatter: Squatter) -> None:
    """It hears nothing with which it could come in: neither secret nor proof."""
    token = attacked.cli("token", "create", "ada")["token"]
    publish_port(squatter.port, attacked.data)
    ways: list[dict[str, Any]] = [{}, {"username": "ada", "password": PASSWORD}, {"token": token}]
    for credentials in ways:
        for scheme, options in (("ws", {}), ("wss", {"ca": attacked.authority})):
            with pytest.raises((PermissionDenied, GatewayUnreachable)):
                headgate.connect(f"{scheme}://127.0.0.1:{squatter.port}", **credentials, **options)
    heard = b"".join(squatter.heard)
    for secret in (
        PASSWORD.encode(),
        token.encode(),
        attacked.token,
        attacked.token.hex().encode(),
    ):
        assert secret not in heard
    assert all(isinstance(decode_greeting(message), Hello) for message in squatter.heard)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, attacked: Attacked) -> Iterator[Attacked]:
    """A gateway that is open beyond this machine without TLS, because its owner insisted."""
    gateway = Attacked(tmp_path_factory.mktemp("plain"), "--insecure")
    gateway.home = attacked.home
    gateway.prepare(tls=False)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.end()


def test_no_secret_crosses_the_network_in_clear(plain: Attacked) -> None:
    """The client does not send it, and the gateway refuses before it would be sent."""
    address, token = outside(), plain.cli("token", "create", "ada")["token"]
    plain.forget()
    ways: list[dict[str, Any]] = [{"username": "ada", "password": PASSWORD}, {"token": token}]
    for credentials in ways:
        with pytest.raises(PermissionDenied, match="wss://"):
            headgate.connect(plain.url(address, "ws"), **credentials)
    assert address not in json.dumps(plain.rows()), "there was a connection"
    for claim in (password_of("ada", PASSWORD), token_of(token)):
        with plain.by_hand(address, address, tls=False) as peer:
            shown = {"user": "ada"} if claim.method == "password" else {}
            peer.send(encode(Hello([1], [], claim.method, os.urandom(32), extensions=shown)))
            assert "connect with wss://" in refusal(bytes(peer.recv(timeout=20)))
        plain.told("refused", f"A {claim.method} is not taken over ws://", address=address)
    # On this machine's loopback nobody can read along: there the same password opens it.
    with headgate.connect(plain.url(scheme="ws"), username="ada", password=PASSWORD) as client:
        assert client.request("ACME", "who", timeout=20).get() == "ada"
