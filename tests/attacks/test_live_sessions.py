"""What an administrator changes by command holds for sessions that are open, at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from attacked import PASSWORD, Attacked, cli, password_of, seconds_until
from websockets.exceptions import ConnectionClosed

import headgate
from headgate.errors import ConnectionLost, PermissionDenied
from headgate.wire.frames import Welcome
from headgate.wire.handshake import Claim

LATEST = 10.0
"""Seconds after which a session must have ended; measured are milliseconds, on an idle machine."""

pytestmark = pytest.mark.usefixtures("signed_in")


@pytest.fixture
def eve(attacked: Attacked) -> Iterator[str]:
    """A user that is there for one test."""
    attacked.add_user("eve", "viewer")
    yield "eve"
    if any(user["name"] == "eve" for user in attacked.cli("user", "list")["users"]):
        attacked.cli("user", "remove", "eve")


@contextmanager
def holding(client: headgate.Client) -> Iterator[headgate.Request]:
    """Have a client a request in flight whose handler has begun."""
    begun = []
    with client:
        held = client.request("ACME", "hold", timeout=50, on_progress=begun.append)
        seconds_until(lambda: begun)
        yield held


def runs(attacked: Attacked) -> list[Any]:
    """What runs on the gateway."""
    with headgate.connect(attacked.url()) as owner:
        found = owner.request("@gateway", "ps", timeout=20).get()
        return [run for run in found["running"] if run["handler"] == "hold"]


def ended_by(attacked: Attacked, held: headgate.Request, order: Callable[[], Any]) -> str:
    """Have something ordered that ends a session, and say how long that took."""
    begun = time.monotonic()
    order()
    ordered = time.monotonic()
    with pytest.raises(ConnectionLost):
        held.get()
    lost = time.monotonic()
    seconds_until(lambda: not runs(attacked))
    assert lost - ordered < LATEST
    return f"session over {(lost - begun) * 1000:.0f} ms after the command began, " + (
        f"{(lost - ordered) * 1000:.1f} ms after it had returned"
    )


def test_a_user_that_is_removed(attacked: Attacked, eve: str) -> None:
    """Session and request end; what it logged in with opens no other one."""
    with holding(attacked.client(eve)) as held:
        print(ended_by(attacked, held, lambda: attacked.cli("user", "remove", eve)))
    attacked.told("refused", "the session ends: the user 'eve' does not exist", user=eve)
    with pytest.raises(PermissionDenied):
        attacked.client(eve)


def test_another_password(attacked: Attacked, eve: str) -> None:
    """Whoever knows the former one is out."""
    file = attacked.folder / "another"
    file.write_text("another horse battery\n")
    with holding(attacked.client(eve)) as held:
        order = ("user", "passwd", eve, "--password-file", file)
        print(ended_by(attacked, held, lambda: attacked.cli(*order)))
    attacked.told("refused", "the session ends: the user 'eve' got a new password", user=eve)


def test_a_token_that_is_revoked(attacked: Attacked, eve: str) -> None:
    """Its sessions end, and the user's others go on."""
    token = attacked.cli("token", "create", eve)
    with attacked.client(eve) as other, holding(attacked.client(token=token["token"])) as held:
        session = other.session_id
        print(ended_by(attacked, held, lambda: attacked.cli("token", "revoke", token["id"])))
        assert other.request("ACME", "who", timeout=20).get() == eve
        assert other.session_id == session
    attacked.told("refused", f"the session ends: the token {token['id']} was revoked", user=eve)


def test_the_user_of_a_ticket(attacked: Attacked, eve: str) -> None:
    """A session that a ticket opened ends with its user, and so does the ticket."""
    with attacked.by_hand() as peer:
        ticket = attacked.log_in(peer, password_of(eve, PASSWORD)).ticket
        assert ticket is not None
    with attacked.by_hand() as peer:
        assert isinstance(attacked.log_in(peer, Claim.of_ticket(ticket)).last, Welcome)
        attacked.cli("user", "remove", eve)
        ordered = time.monotonic()
        with suppress(ConnectionClosed):
            while True:
                peer.recv(timeout=LATEST)
        print(f"session by ticket over {(time.monotonic() - ordered) * 1000:.1f} ms after it")
    attacked.told("refused", "the session ends: the user 'eve' does not exist", user=eve)
    attacked.forget()
    attacked.refused(Claim.of_ticket(ticket))
    attacked.told("refused", "the user 'eve' does not exist", address="127.0.0.1")


def test_a_client_certificate(attacked: Attacked, eve: str) -> None:
    """Once it is nobody's its sessions end, and the connection is none of a user any more."""
    file = attacked.folder / "eve.pem"
    cli("cert", "client", eve, "--output", file, "--config", attacked.config)
    added = attacked.cli("certificate", "add", eve, "--file", file)
    with holding(attacked.client(certificate=file)) as held:
        remove = ("certificate", "remove", str(added["id"]))
        print(ended_by(attacked, held, lambda: attacked.cli(*remove)))
    attacked.told("refused", "the session ends: the certificate is nobody's any more", user=eve)
    with pytest.raises(PermissionDenied):
        attacked.client(certificate=file)


def may(client: headgate.Client, handler: str = "guarded") -> bool:
    """Whether a client may call a handler now."""
    try:
        return bool(client.request("ACME", handler, True, timeout=20).get())
    except PermissionDenied:
        return False


def test_other_roles(attacked: Attacked, eve: str) -> None:
    """The next request of the same session has them."""
    with attacked.client(eve) as client:
        session = client.session_id
        assert not may(client)
        attacked.cli("user", "roles", eve, "--role", "operator")
        assert may(client)
        attacked.cli("user", "roles", eve, "--role", "viewer")
        assert not may(client)
        assert client.session_id == session
    attacked.told("refused", "", user=eve, target="ACME/guarded")


def test_rules_of_the_database(attacked: Attacked, eve: str) -> None:
    """Added, taken back or removed by command: the next request follows."""
    with attacked.client(eve) as client:
        session = client.session_id
        assert may(client, "echo")
        rule = ("permission", "add", "--refuse", "--user", eve, "--handler", "ACME/e*")
        attacked.cli(*rule)
        assert not may(client, "echo")
        attacked.cli("permission", "undo")
        assert may(client, "echo")
        added = attacked.cli(*rule)["change"]
        assert not may(client, "echo")
        attacked.cli("permission", "remove", str(added["rule"]))
        assert may(client, "echo")
        assert client.session_id == session
    attacked.told("administered", "refuse users=eve handlers=ACME/e*")


def test_rules_of_the_file(attacked: Attacked, eve: str) -> None:
    """An edit of the configuration holds as soon as it is seen; a mistake in it changes nothing."""
    before = attacked.config.read_text("utf-8")
    with attacked.client(eve) as client:
        session = client.session_id
        assert not may(client)
        try:
            attacked.config.write_text(before.replace('"operator", "owner"', '"viewer"'), "utf-8")
            print(f"an edit is in force after {seconds_until(lambda: may(client)):.2f} s")
            attacked.config.write_text(before.replace("allow = false", "allow = 7"), "utf-8")
            seconds_until(lambda: "cannot be 7" in attacked.log)
            assert may(client)
        finally:
            attacked.config.write_text(before, "utf-8")
        seconds_until(lambda: not may(client))
        assert client.session_id == session
