"""Logins over real connections: each method, wrong ones, squatters, replays, tickets, floods."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket
from websockets.sync.server import ServerConnection, serve

import headgate
from headgate.channel.local import publish_port
from headgate.channel.login import ClientLogin
from headgate.channel.server import Peer
from headgate.errors import (
    ConfigurationError,
    GatewayUnreachable,
    Overloaded,
    PermissionDenied,
)
from headgate.gateway.config import Settings, Tls
from headgate.gateway.limits import Limits
from headgate.invocation import Caller
from headgate.security.certificates import Folder
from headgate.security.identity import OWNER_ROLE
from headgate.security.policy import Permission
from headgate.wire.frames import (
    Batch,
    Call,
    Challenge,
    Proof,
    Refuse,
    Welcome,
    decode_greeting,
    encode,
)
from headgate.wire.handshake import (
    KEY_BYTES,
    NONCE_BYTES,
    Claim,
    ClientHandshake,
    Credentials,
    Meeting,
    Ticket,
    prove,
    refusal,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Records, Rig

PASSWORD = "correct horse battery"
TOKEN = "hg_7_Zm9vYmFyYmF6"
WHO = "def handleMessage(payload, context):\n    return context.caller.user\n"
ADA = {"username": "ada", "password": PASSWORD}
RULES = (Permission(allow=True, users=("anonymous",)),)


class Let(NamedTuple):
    """What a session rests on."""

    user: str
    method: str
    token: str = ""
    certificate: int = 0
    ticketed: bool = False


class Users:
    """The users of a gateway: a fixed table, in place of the database."""

    def __init__(self) -> None:
        self.passwords = {"ada": PASSWORD}
        self.tokens = {TOKEN: "robot"}
        self.tickets: dict[bytes, tuple[bytes, str]] = {}
        self.accounts = SimpleNamespace(users=self.passwords)
        self.asked: list[Credentials] = []
        self.peers: list[Peer] = []
        self.hold = False
        """Whether logins wait until they are cancelled."""
        self.cancelled = 0
        self.failing: list[Exception] = []
        """What the next logins end with."""

    async def log_in(self, credentials: Credentials, peer: Peer) -> Let:
        self.asked.append(credentials)
        self.peers.append(peer)
        if self.failing:
            raise self.failing.pop(0)
        try:
            while self.hold:
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        user = {
            "local": lambda: "owner",
            "password": lambda: self._by_password(credentials),
            "token": lambda: self.tokens.get(credentials.secret),
            "anonymous": lambda: "anonymous",
            "certificate": lambda: None,
            "ticket": lambda: self.tickets[credentials.ticket][1],
        }[credentials.method]()
        if user is None:
            raise PermissionDenied(f"precisely why {credentials.user!r} is not let in")
        return Let(user, credentials.method)

    def _by_password(self, credentials: Credentials) -> str | None:
        right = self.passwords.get(credentials.user) == credentials.secret
        return credentials.user if right else None

    def current(self, login: Let, *, session: str) -> Caller:
        return Caller(login[0], roles=frozenset({OWNER_ROLE}), session=session, method=login[1])

    def ticket(self, login: Let) -> Ticket | None:
        if login[1] in ("local", "anonymous"):
            return None
        ticket = Ticket(os.urandom(40), os.urandom(KEY_BYTES), 60.0)
        self.tickets[ticket.blob] = ticket.key, login[0]
        return ticket

    def ticket_key(self, blob: bytes, peer: Peer) -> bytes | None:
        return self.tickets.get(blob, (None, ""))[0]

    def ticket_problem(self, blob: bytes, peer: Peer) -> str:
        return "precisely what is wrong with the ticket"

    def expires_at(self, login: Let) -> None: ...

    def load(self) -> None: ...

    def close(self) -> None: ...

    @property
    def methods(self) -> list[str]:
        """How everybody logged in so far."""
        return [each.method for each in self.asked]


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    """The users of every gateway of the test."""
    users = Users()
    monkeypatch.setattr("headgate.gateway.reception.Identities", lambda *args, **options: users)
    return users


@pytest.fixture
def hub(rig: Rig, users: Users, records: Records) -> headgate.Gateway:
    """A gateway whose handler says who asked, and which lets anonymous callers ask."""
    return rig.gateway(
        {"ACME/who": WHO, "ACME/echo": rig.ECHO},
        recorder=records,
        config=Settings(permission=RULES),
    )


def who(client: headgate.Client) -> Any:
    return client.request("ACME", "who", timeout=5).get()


def cut(hub: headgate.Gateway) -> None:
    """Cut every connection of a gateway."""
    hub.call(lambda: [s._channel.abort("cut") for s in hub._reception.sessions.on_this_node()])


class TestMethods:
    @pytest.mark.parametrize(
        ("credentials", "user"),
        [
            ({}, "owner"),
            (ADA, "ada"),
            ({"username": "ada", "password": lambda: PASSWORD}, "ada"),
            ({"token": TOKEN}, "robot"),
            ({"token": lambda: TOKEN}, "robot"),
            ({"anonymous": True}, "anonymous"),
        ],
    )
    def test_the_caller_is_who_logged_in(
        self, rig: Rig, hub: headgate.Gateway, credentials: dict[str, Any], user: str
    ) -> None:
        """A handler learns who the gateway verified, whichever way that was shown."""
        assert who(rig.client(hub, **credentials)) == user

    def test_on_an_event_loop(self, hub: headgate.Gateway) -> None:
        """A function that gives the password may block: it does not run on the loop's thread."""
        threads = []

        def ask() -> str:
            threads.append(threading.current_thread())
            return PASSWORD

        async def main() -> Any:
            async with headgate.connect(hub.url, username="ada", password=ask) as client:
                return await client.request("ACME", "who", timeout=5)

        assert asyncio.run(main()) == "ada"
        assert threads[0] is not threading.main_thread()

    @pytest.mark.parametrize(
        "credentials",
        [
            {"username": "ada", "password": "wrong password"},
            {"username": "bob", "password": "wrong password"},
            {"username": "bob", "password": PASSWORD},
            {"username": "", "password": PASSWORD},
            {"token": "wrong token"},
            {"token": lambda: "wrong token"},
        ],
    )
    def test_wrong_credentials(
        self,
        hub: headgate.Gateway,
        records: Records,
        caplog: pytest.LogCaptureFixture,
        credentials: dict[str, Any],
    ) -> None:
        """What is wrong the record says, not the error; neither shows a secret."""
        caplog.set_level(logging.DEBUG)
        if not credentials.get("username", "x"):
            with pytest.raises(ValueError, match="empty"):
                headgate.connect(hub.url, **credentials)
            return
        with pytest.raises(PermissionDenied, match="The login was refused: ") as caught:
            headgate.connect(hub.url, **credentials)
        assert "precisely" not in str(caught.value)
        assert records.told("refused", "precisely why")
        (record,) = (each for each in records.records if each.event == "refused")
        assert record.user == credentials.get("username", "")
        assert record.method in ("password", "token")
        assert record.host
        shown = f"{caught.value!r} {records.records} {caplog.text}"
        assert "wrong password" not in shown
        assert "wrong token" not in shown
        assert PASSWORD not in shown

    def test_a_refusal_does_not_tell_which_users_there_are(
        self, hub: headgate.Gateway, users: Users
    ) -> None:
        """Byte for byte the same is said of a wrong password and of a user that is none."""
        told = {refused_by(hub, password_of(hub, user, "no")) for user in ("ada", "bob", "\x00")}
        assert len(told) == 1
        told = {refused_by(hub, token_of(hub, token)) for token in ("hg_7_wrong", "hg_8_x", "x")}
        assert len(told) == 1

    def test_a_certificate_needs_tls(self, hub: headgate.Gateway) -> None:
        """Without TLS there is none to show; a gateway refuses who says that there is."""
        with pytest.raises(ConfigurationError, match="wss://"):
            headgate.connect(hub.url, certificate="panel.pem")
        claim = Claim("certificate", hub.token)
        assert refused_by(hub, claim) == refusal("certificate")

    def test_where_it_came_from(self, rig: Rig, hub: headgate.Gateway, users: Users) -> None:
        """The gateway knows address and port of a client, and what protects the connection."""
        rig.client(hub, **ADA)
        peer = users.peers[0]
        assert (peer.address, peer.secure, peer.loopback) == ("127.0.0.1", False, True)
        assert peer.certificate is None
        assert peer.private
        assert str(peer) == f"127.0.0.1:{peer.port}"


class TestArguments:
    @pytest.mark.parametrize(
        "credentials",
        [
            {**ADA, "token": TOKEN},
            {**ADA, "anonymous": True},
            {"certificate": "panel.pem", "anonymous": True},
            {"token": TOKEN, "username": "ada"},
            {"username": "ada"},
            {"password": PASSWORD},
        ],
    )
    def test_one_kind_of_credentials(self, credentials: dict[str, Any]) -> None:
        """Several kinds, or half of one, is a mistake of the program."""
        with pytest.raises(TypeError) as caught:
            headgate.connect("ws://127.0.0.1:1", **credentials)
        assert PASSWORD not in str(caught.value)

    @pytest.mark.parametrize(
        ("secret", "error"),
        [(b"bytes", TypeError), ("x" * 1025, ConfigurationError), (lambda: 7, TypeError)],
    )
    def test_what_is_no_secret(self, hub: headgate.Gateway, secret: Any, error: type) -> None:
        """A secret is text of up to 1024 bytes; the error does not show it."""
        with pytest.raises(error) as caught:
            headgate.connect(hub.url, token=secret)
        assert "bytes" not in str(caught.value) or "xxx" not in str(caught.value)

    @pytest.mark.parametrize("secret", [{**ADA}, {"token": TOKEN}])
    def test_no_secret_crosses_the_network_in_clear(
        self, monkeypatch: pytest.MonkeyPatch, secret: dict[str, Any]
    ) -> None:
        """To another machine without TLS there is not even a connection, and the cure is told."""

        async def dial(*args: Any, **options: Any) -> None:
            pytest.fail("it connected")

        monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", dial)
        for host in ("192.0.2.1", "gateway.example.com", "127.example.com"):
            with pytest.raises(PermissionDenied, match=f"wss://{host}:8188 with ca=") as caught:
                headgate.connect(f"ws://{host}", **secret)
            assert PASSWORD not in str(caught.value)
            assert TOKEN not in str(caught.value)

    def test_nothing_shows_the_secret(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Neither the client nor its login shows it."""
        client = rig.client(hub, **ADA)
        shown = f"{client!r} {client._login!r} {client._address!r} {client.stats()}"
        assert PASSWORD not in shown
        assert PASSWORD not in repr(ClientLogin(**ADA))


def hello_to(hub: headgate.Gateway, claim: Claim) -> ClientHandshake:
    address = f"127.0.0.1:{hub.port}"
    return ClientHandshake(claim, address=address, nonce=os.urandom(NONCE_BYTES))


def password_of(hub: headgate.Gateway, user: str, password: str) -> Claim:
    return Claim("password", hub.token, user, password.encode())


def token_of(hub: headgate.Gateway, token: str) -> Claim:
    return Claim("token", hub.token, secret=token.encode())


def by_hand(hub: headgate.Gateway) -> ClientConnection:
    return open_socket(f"ws://127.0.0.1:{hub.port}/channel", compression=None)


def prove_to(hub: headgate.Gateway, peer: ClientConnection, claim: Claim) -> ClientHandshake:
    """Play a login by hand up to the proof."""
    handshake = hello_to(hub, claim)
    peer.send(handshake.hello())
    answer = handshake.receive(peer.recv(timeout=5), time.monotonic())
    assert isinstance(answer, bytes)
    peer.send(answer)
    return handshake


def refused_by(hub: headgate.Gateway, claim: Claim) -> str:
    """The text with which a login by hand is refused."""
    with by_hand(hub) as peer:
        prove_to(hub, peer, claim)
        return refusal_of(peer)


def refusal_of(peer: ClientConnection) -> str:
    frame = decode_greeting(peer.recv(timeout=5))
    assert isinstance(frame, Refuse)
    assert frame.code == "denied"
    with pytest.raises(ConnectionClosed) as closed:
        peer.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    return frame.message


def closed_after(peer: ClientConnection, messages: list[bytes]) -> ConnectionClosed:
    """Send messages and read until the gateway closes the connection; return how it did."""
    try:
        for message in messages:
            peer.send(message)
        while True:
            peer.recv(timeout=5)
    except ConnectionClosed as closed:
        return closed


class TestForgeries:
    @pytest.mark.parametrize("kind", ["local", "ticket"])
    def test_a_replayed_proof(
        self, rig: Rig, hub: headgate.Gateway, users: Users, kind: str
    ) -> None:
        """What one login sent opens no other one."""
        claim = Claim.local(hub.token)
        if kind == "ticket":
            users.tickets[b"blob"] = b"k" * KEY_BYTES, "ada"
            claim = Claim.of_ticket(Ticket(b"blob", b"k" * KEY_BYTES, 60.0))
        with by_hand(hub) as peer:
            handshake = hello_to(hub, claim)
            peer.send(handshake.hello())
            proof = handshake.receive(peer.recv(timeout=5), time.monotonic())
            assert isinstance(proof, bytes)
            peer.send(proof)
            assert isinstance(decode_greeting(peer.recv(timeout=5)), Welcome)
        with by_hand(hub) as peer:
            peer.send(handshake.hello())
            peer.recv(timeout=5)
            peer.send(proof)
            assert refusal_of(peer) == refusal(kind)

    def test_forged_tickets(self, rig: Rig, hub: headgate.Gateway, users: Users) -> None:
        """A ticket that the gateway did not make, or whose key is guessed, opens nothing."""
        rig.client(hub, **ADA)
        [(blob, (key, _))] = users.tickets.items()
        altered = blob[:-1] + bytes([blob[-1] ^ 1])
        for ticket in (os.urandom(40), b"", altered):
            with by_hand(hub) as peer:
                peer.send(hello_to(hub, Claim.of_ticket(Ticket(ticket, key, 60.0))).hello())
                assert refusal_of(peer) == refusal("ticket")
        with by_hand(hub) as peer:
            peer.send(hello_to(hub, Claim.of_ticket(Ticket(blob, key, 60.0))).hello())
            peer.recv(timeout=5)
            peer.send(encode(Proof(os.urandom(32))))
            assert refusal_of(peer) == refusal("ticket")

    def test_a_password_in_place_of_a_proof(self, hub: headgate.Gateway, users: Users) -> None:
        """Who says `local` and sends a password is not asked for the user."""
        with by_hand(hub) as peer:
            peer.send(hello_to(hub, Claim.local(hub.token)).hello())
            peer.recv(timeout=5)
            peer.send(encode(Proof(PASSWORD.encode())))
            assert refusal_of(peer) == refusal("local")
        assert users.asked == []


class Squatter:
    """A program that took a gateway's port, keeps all that it hears and says what it likes."""

    def __init__(self, says: Callable[[bytes], bytes], **options: Any) -> None:
        self.heard: list[bytes] = []
        self._says = says
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None, **options)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _talk(self, peer: ServerConnection) -> None:
        try:
            while True:
                message = peer.recv()
                assert isinstance(message, bytes)
                self.heard.append(message)
                peer.send(self._says(message))
        except ConnectionClosed:
            pass

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def squat() -> Iterator[Callable[[Callable[[bytes], bytes]], Squatter]]:
    """Give a function that makes squatters."""
    made: list[Squatter] = []

    def make(says: Callable[[bytes], bytes]) -> Squatter:
        made.append(Squatter(says))
        return made[-1]

    yield make
    for squatter in made:
        squatter.close()


def challenging(hello: bytes) -> bytes:
    """A Challenge with a made-up proof."""
    return encode(Challenge(os.urandom(32), os.urandom(32)))


CREDENTIALS = [{}, ADA, {"token": TOKEN}]


class TestSquatters:
    @pytest.mark.parametrize("credentials", CREDENTIALS)
    def test_it_gets_neither_secret_nor_proof(
        self, squat: Any, tmp_path: Path, credentials: dict[str, Any]
    ) -> None:
        """A program on the port of a gateway that was, which asks for the secret, hears a Hello."""
        token = os.urandom(32)
        (tmp_path / "local-token").write_text(token.hex())
        (tmp_path / "local-token").chmod(0o600)
        squatter = squat(challenging)
        publish_port(squatter.port, tmp_path)
        with pytest.raises(PermissionDenied, match="does not know the owner's local token"):
            headgate.connect(squatter.url, **credentials)
        self.check(squatter, token)

    @pytest.mark.parametrize("credentials", [ADA, {"token": TOKEN}])
    def test_without_a_local_token_it_hears_nothing(
        self, squat: Any, credentials: dict[str, Any]
    ) -> None:
        """Where no gateway of this user was started, nothing can show that it is one."""
        squatter = squat(challenging)
        with pytest.raises(GatewayUnreachable, match=r"Nothing shows that .* wss://") as caught:
            headgate.connect(squatter.url, **credentials)
        assert PASSWORD not in str(caught.value)
        assert squatter.heard == []

    @pytest.mark.parametrize("credentials", CREDENTIALS)
    def test_it_cannot_pass_the_login_on(
        self, hub: headgate.Gateway, squat: Any, credentials: dict[str, Any]
    ) -> None:
        """A program that has the real gateway answer the Hello is found out by its address."""

        def passed_on(message: bytes) -> bytes:
            with by_hand(hub) as peer:
                peer.send(message)
                answer = peer.recv(timeout=5)
                assert isinstance(answer, bytes)
                return answer

        squatter = squat(passed_on)
        publish_port(squatter.port, hub.data)
        with pytest.raises(PermissionDenied, match=f":{squatter.port} does not know"):
            headgate.connect(squatter.url, **credentials)
        self.check(squatter, hub.token)

    def test_it_gets_no_ticket(
        self, rig: Rig, hub: headgate.Gateway, users: Users, squat: Any
    ) -> None:
        """A client that comes back with a ticket proves nothing to who does not know its key."""
        client = rig.client(hub, **ADA)
        [(blob, (key, _))] = users.tickets.items()
        squatter = squat(challenging)
        publish_port(squatter.port, hub.data)
        client._address.port = squatter.port
        cut(hub)
        rig.until(lambda: client._closed_for)
        assert "does not know the owner's local token" in client._closed_for
        self.check(squatter, hub.token)
        assert blob in b"".join(squatter.heard)
        assert key not in b"".join(squatter.heard)

    @staticmethod
    def check(squatter: Squatter, token: bytes) -> None:
        """Check that it heard Hellos alone: no secret, and no proof that opens anything."""
        heard = b"".join(squatter.heard)
        assert heard
        for secret in (PASSWORD.encode(), TOKEN.encode(), token, token.hex().encode()):
            assert secret not in heard
        for message in squatter.heard:
            hello = decode_greeting(message)
            assert type(hello).__name__ == "Hello"
            meeting = Meeting(f"127.0.0.1:{squatter.port}", hello.nonce, b"")  # type: ignore[union-attr]
            assert prove(token, "client", meeting) not in message


class TestTickets:
    def test_it_comes_back_with_a_ticket(
        self, rig: Rig, hub: headgate.Gateway, users: Users
    ) -> None:
        """After a cut no password is asked for: nobody's is known any more."""
        asked: list[str] = []

        def password() -> str:
            asked.append("password")
            return PASSWORD

        client = rig.client(hub, username="ada", password=password)
        users.passwords.clear()
        for _ in range(2):
            before = client.session_id
            cut(hub)
            rig.until(lambda before=before: client.session_id not in ("", before))
            assert who(client) == "ada"
        assert users.methods == ["password", "ticket", "ticket"]
        assert len(asked) == 1
        # Each session brings a new one, so the latest is what counts.
        assert len({each.ticket for each in users.asked}) == 3

    @pytest.mark.parametrize("gone", ["refused", "over"])
    def test_without_a_good_ticket_it_takes_the_credentials(
        self, rig: Rig, hub: headgate.Gateway, users: Users, gone: str
    ) -> None:
        """A ticket that is refused, or over, is no matter: the password is asked for again."""
        answers = [PASSWORD, PASSWORD]
        client = rig.client(hub, username="ada", password=answers.pop)
        if gone == "refused":
            users.tickets.clear()
        else:
            client._login._ticket_until = 0.0
        cut(hub)
        rig.until(lambda: answers == [] and client.connected)
        assert who(client) == "ada"
        assert users.methods == ["password", "password"]

    def test_a_revoked_user_is_final(
        self, rig: Rig, hub: headgate.Gateway, users: Users, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where neither ticket nor password is good any more the client gives up, and says so."""
        client = rig.client(hub, **ADA, connect_wait=10.0)
        users.tickets.clear()
        users.passwords.clear()
        cut(hub)
        rig.until(lambda: "The client gives up" in caplog.text)
        with pytest.raises(GatewayUnreachable, match="user or password is wrong"):
            who(client)
        assert PASSWORD not in caplog.text

    def test_the_owner_and_nobody_have_none(
        self, rig: Rig, hub: headgate.Gateway, users: Users
    ) -> None:
        """Who needs no password to come back gets no ticket."""
        for credentials in ({}, {"anonymous": True}):
            rig.client(hub, **credentials)
        assert users.tickets == {}

    def test_too_many_logins_are_tried_again(
        self, rig: Rig, hub: headgate.Gateway, users: Users, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gateway that asks to come again later is asked again, and not before that."""
        monkeypatch.setattr("headgate.client.random.uniform", lambda least, most: least)
        client = rig.client(hub, **ADA)
        users.failing = [Overloaded("later", retry_after=0.4), Overloaded("later")]
        begun = time.monotonic()
        cut(hub)
        rig.until(lambda: len(users.asked) == 4 and client.connected)
        assert time.monotonic() - begun >= 0.4
        assert who(client) == "ada"

    def test_too_many_logins_at_first(self, hub: headgate.Gateway, users: Users) -> None:
        """At the first connection the program is told, with the seconds."""
        users.failing = [Overloaded("too many log in", retry_after=2.5)]
        with pytest.raises(Overloaded, match="too many log in") as caught:
            headgate.connect(hub.url, **ADA)
        assert caught.value.retry_after == 2.5


class TestWhileItIsDecided:
    @pytest.fixture(autouse=True)
    def nothing_left(self, rig: Rig, hub: headgate.Gateway) -> Iterator[None]:
        """After every test the gateway considers no login, and serves."""
        yield
        rig.until(lambda: hub.stats()["logins"] == 0)
        rig.until(lambda: hub.stats()["sessions"] == 0)
        with headgate.connect(hub.url) as client:
            assert who(client) == "owner"

    @pytest.fixture
    def waiting(self, rig: Rig, hub: headgate.Gateway, users: Users) -> Iterator[ClientConnection]:
        """A connection whose login is being decided."""
        users.hold = True
        with by_hand(hub) as peer:
            prove_to(hub, peer, password_of(hub, "ada", PASSWORD))
            rig.until(lambda: users.asked)
            yield peer
        users.hold = False

    @pytest.mark.parametrize("frames", [1, 300])
    def test_what_is_sent_meanwhile_is_not_taken(
        self,
        rig: Rig,
        hub: headgate.Gateway,
        users: Users,
        records: Records,
        waiting: ClientConnection,
        frames: int,
    ) -> None:
        """A request before the Welcome breaks the rules: no login comes of it, and no answer."""
        call = Call(1, "ACME", "echo", b"\x01", (time.monotonic() + 60) * 1000)
        closed = closed_after(waiting, [encode(Batch(time.monotonic() * 1000, [call]))] * frames)
        assert closed.rcvd is None or closed.rcvd.code == 1002
        rig.until(lambda: users.cancelled == 1)
        assert not records.told("login", "password")

    def test_a_second_proof_meanwhile(
        self, rig: Rig, users: Users, waiting: ClientConnection
    ) -> None:
        """There is one proof, and one try."""
        closed_after(waiting, [encode(Proof(PASSWORD.encode()))])
        rig.until(lambda: users.cancelled == 1)
        assert len(users.asked) == 1

    def test_a_client_that_goes_away(
        self, rig: Rig, users: Users, waiting: ClientConnection
    ) -> None:
        """Its login is given up as soon as its connection is gone."""
        waiting.socket.close()
        rig.until(lambda: users.cancelled == 1)

    def test_a_client_that_says_good_bye(
        self, rig: Rig, users: Users, waiting: ClientConnection
    ) -> None:
        """So it is if it closes the connection as it should."""
        waiting.close()
        rig.until(lambda: users.cancelled == 1)

    def test_pings_are_fine(self, hub: headgate.Gateway, users: Users) -> None:
        """A WebSocket's own ping is answered, and the login goes on."""
        users.hold = True
        with by_hand(hub) as peer:
            handshake = prove_to(hub, peer, password_of(hub, "ada", PASSWORD))
            assert peer.ping().wait(5)
            users.hold = False
            handshake.receive(peer.recv(timeout=5), time.monotonic())
            assert handshake.welcome is not None

    def test_the_time_for_a_login_is_for_all_of_it(
        self,
        rig: Rig,
        hub: headgate.Gateway,
        users: Users,
        records: Records,
    ) -> None:
        """A login that is not decided in time is given up, and recorded."""
        limits = Limits(login_seconds=0.2)
        hub.call(lambda: hub.apply(Settings(limits=limits, permission=RULES)))
        users.hold = True
        with by_hand(hub) as peer:
            prove_to(hub, peer, password_of(hub, "ada", PASSWORD))
            closed_after(peer, [])
        rig.until(lambda: users.cancelled == 1)
        users.hold = False
        rig.until(lambda: records.told("limited", "limits.login_seconds"))

    def test_too_many_at_once(
        self, rig: Rig, hub: headgate.Gateway, users: Users, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More logins of a method are asked to come again; those of another one are let in."""
        monkeypatch.setattr("headgate.channel.server.LOGINS_AT_ONCE", 2)
        users.hold = True
        with by_hand(hub) as one, by_hand(hub) as two, by_hand(hub) as other:
            for peer in (one, two):
                prove_to(hub, peer, password_of(hub, "ada", PASSWORD))
            rig.until(lambda: hub.stats()["logins"] == 2)
            with pytest.raises(Overloaded, match="2 logins by password") as caught:
                headgate.connect(hub.url, **ADA)
            assert caught.value.retry_after == 1.0
            prove_to(hub, other, token_of(hub, TOKEN))
            rig.until(lambda: hub.stats()["logins"] == 3)
            users.hold = False
            for peer in (one, two, other):
                assert isinstance(decode_greeting(peer.recv(timeout=5)), Welcome)

    def test_a_mistake_of_the_gateway(
        self, hub: headgate.Gateway, users: Users, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What should not happen lets nobody in, and is logged without the secret."""
        users.failing = [LookupError("the table is gone")]
        with pytest.raises(GatewayUnreachable):
            headgate.connect(hub.url, **ADA)
        assert "A login could not be decided" in caplog.text
        assert PASSWORD not in caplog.text


def test_a_gateway_that_stops_gives_logins_up(
    rig: Rig, users: Users, hub: headgate.Gateway
) -> None:
    """What is being decided is not waited for."""
    users.hold = True
    with by_hand(hub) as peer:
        prove_to(hub, peer, password_of(hub, "ada", PASSWORD))
        rig.until(lambda: users.asked)
        hub.stop()
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=5)
    assert users.cancelled == 1


class TestOverTls:
    """With the gateway's own users, as another machine sees it."""

    @pytest.fixture
    def folder(self, rig: Rig) -> Folder:
        folder = Folder(rig.folder / "hub" / "data" / "tls")
        folder.init([])
        return folder

    def start(self, rig: Rig, folder: Folder, records: Records, port: int = 0) -> headgate.Gateway:
        settings = Settings(tls=Tls(certificate=folder.server, key=folder.server_key))
        return rig.gateway({"ACME/who": WHO}, config=settings, recorder=records, port=port)

    @pytest.fixture
    def hub(self, rig: Rig, folder: Folder, records: Records) -> headgate.Gateway:
        hub = self.start(rig, folder, records)
        self.administer(hub, "user_add", name="ada", password=PASSWORD, roles=["owner"])
        return hub

    @staticmethod
    def administer(hub: headgate.Gateway, action: str, **payload: Any) -> Any:
        with headgate.connect(hub.url) as owner:
            return owner.request("@gateway", action, payload, timeout=20).get()

    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Give a function after which this process cannot read the owner's local token."""
        return lambda: monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "elsewhere"))

    def test_password_token_and_ticket(
        self,
        rig: Rig,
        hub: headgate.Gateway,
        folder: Folder,
        records: Records,
        elsewhere: Callable[[], None],
    ) -> None:
        """The certificate is enough to trust the gateway; a ticket outlives its restart."""
        token = self.administer(hub, "token_create", user="ada")["token"]
        elsewhere()
        robot = rig.client(hub, token=token, ca=folder.authority)
        assert who(robot) == "ada"
        client = rig.client(hub, **ADA, ca=folder.authority)
        assert who(client) == "ada"
        robot.close()
        session = client.session_id
        hub.stop()
        records.records.clear()
        self.start(rig, folder, records, port=hub.port)
        rig.until(lambda: client.session_id not in ("", session))
        assert who(client) == "ada"
        assert records.told("login", "ticket from")
        assert not records.told("login", "password from")

    def test_a_removed_user_is_out(
        self, rig: Rig, hub: headgate.Gateway, folder: Folder, records: Records
    ) -> None:
        """The session ends; neither ticket nor password open another one, the record says why."""
        client = rig.client(hub, **ADA, ca=folder.authority)
        assert who(client) == "ada"
        self.administer(hub, "user_remove", name="ada")
        rig.until(lambda: client._closed_for)
        assert "user or password is wrong" in client._closed_for
        assert "ada" not in client._closed_for
        assert records.told("refused", "there is no user 'ada'")

    def test_who_has_another_certificate_hears_nothing(
        self, folder: Folder, tmp_path: Path
    ) -> None:
        """TLS ends before the login begins."""
        foreign = Folder(tmp_path / "foreign")
        foreign.init([])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(foreign.server, foreign.server_key)
        squatter = Squatter(challenging, ssl=context)
        try:
            for credentials in (ADA, {"token": TOKEN}):
                with pytest.raises(GatewayUnreachable):
                    headgate.connect(
                        squatter.url.replace("ws:", "wss:"), **credentials, ca=folder.authority
                    )
        finally:
            squatter.close()
        assert squatter.heard == []
