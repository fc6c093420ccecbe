"""Users, tokens and roles change while a gateway runs: what becomes of its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConnectionLost, HandlerNotFound, PermissionDenied, RequestError
from headgate.gateway import sessions as sessions_module
from headgate.gateway.limits import Limiter
from headgate.invocation import Caller, Invocation
from headgate.security.audit import Record
from headgate.security.identities import Login
from headgate.wire.frames import Call, Hello
from headgate.wire.session import Session

if TYPE_CHECKING:
    from conftest import Records, Rig

PASSWORD = "correct horse"

WHO = """
    def handleMessage(payload, context):
        caller = context.caller
        return [caller.user, sorted(caller.roles), caller.session, caller.method]
    """


class AnyPolicy:
    """Everybody may do everything."""

    def authorise(self, caller: Any, action: str, project: str, handler: str) -> None:
        """Let everybody pass."""


@pytest.fixture
def gateway(rig: Rig, records: Records) -> headgate.Gateway:
    """A gateway where everybody may do everything."""
    scripts = {"P/who": WHO, "P/hold": rig.HOLD}
    return rig.gateway(scripts, policy=AnyPolicy(), recorder=records)


@pytest.fixture
def owner(rig: Rig, gateway: headgate.Gateway) -> headgate.Client:
    """The owner, who has made a user."""
    owner = rig.client(gateway)
    order(owner, "user_add", name="ada", password=PASSWORD, roles=["operator"])
    return owner


def order(owner: headgate.Client, action: str, **payload: Any) -> Any:
    """Have an administrator's action done."""
    return owner.request("@gateway", action, payload).get()


def as_ada(rig: Rig, gateway: headgate.Gateway) -> headgate.Client:
    """A client of the user."""
    return rig.client(gateway, username="ada", password=PASSWORD)


def revoke_token(owner: headgate.Client, token: dict[str, Any]) -> None:
    order(owner, "token_revoke", id=token["id"])


REVOCATIONS: dict[str, Callable[[headgate.Client, dict[str, Any]], Any]] = {
    "user removed": lambda owner, token: order(owner, "user_remove", name="ada"),
    "other password": lambda owner, token: order(
        owner, "user_passwd", name="ada", password="another one"
    ),
    "token revoked": revoke_token,
}


@pytest.mark.parametrize("what", REVOCATIONS)
def test_session_ends(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client, records: Records, what: str
) -> None:
    """What is revoked ends its sessions and their requests at once; the owner's goes on."""
    token = order(owner, "token_create", user="ada")
    by_token = what == "token revoked"
    client = rig.client(gateway, token=token["token"]) if by_token else as_ada(rig, gateway)
    held = client.request("P", "hold", {"n": 1})
    gateway.globals["running"].get(timeout=10)
    ended = next(s for s in gateway._reception.sessions.on_this_node() if s.caller.user == "ada").id
    REVOCATIONS[what](owner, token)
    begun = time.monotonic()
    with pytest.raises(ConnectionLost):
        held.get()
    assert time.monotonic() - begun < 5.0
    rig.until(lambda: ended not in {s.id for s in gateway._reception.sessions.on_this_node()})
    rig.until(lambda: records.told("refused", "the session ends: the "))
    assert order(owner, "user_list") is not None
    with pytest.raises(RequestError):
        client.request("P", "who").get()


def test_other_users_go_on(rig: Rig, gateway: headgate.Gateway, owner: headgate.Client) -> None:
    """Only the sessions of the user end whom it is about."""
    order(owner, "user_add", name="bob", password=PASSWORD)
    bob = rig.client(gateway, username="bob", password=PASSWORD)
    session = bob.session_id
    order(owner, "user_remove", name="ada")
    assert bob.request("P", "who").get() == ["bob", [], session, "password"]


def test_roles_hold_for_the_next_request(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client
) -> None:
    """After roles were changed the next request of the same session has the new ones."""
    client = as_ada(rig, gateway)
    session = client.session_id
    assert client.request("P", "who").get() == ["ada", ["operator"], session, "password"]
    order(owner, "user_roles", name="ada", roles=["viewer", "guest"])
    assert client.request("P", "who").get() == ["ada", ["guest", "viewer"], session, "password"]


def test_token_that_expires_ends_its_session(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client, records: Records
) -> None:
    """A session ends by itself when the token ends that opened it."""
    token = order(owner, "token_create", user="ada", seconds=0.8)["token"]
    with suppress(RequestError):
        # On a machine that is busy enough the token is over before it was shown.
        rig.client(gateway, token=token)
    rig.until(lambda: records.told("refused", "has expired"))
    rig.until(lambda: len(gateway._reception.sessions) == 1)


def test_clock_that_was_set_is_seen(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session is looked at before its end, too, and goes on if that is not there yet."""
    monkeypatch.setattr(sessions_module, "LOOK_SECONDS", 0.01)
    token = order(owner, "token_create", user="ada", seconds=3600)["token"]
    client = rig.client(gateway, token=token)
    looked_at = []
    identities = gateway._reception.identities
    assert identities is not None
    current = identities.current
    monkeypatch.setattr(
        identities, "current", lambda *a, **o: looked_at.append(1) or current(*a, **o)
    )
    rig.until(lambda: len(looked_at) >= 3)
    assert client.request("P", "who").get()[0] == "ada"


def test_password_and_ticket_after_revocation(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client
) -> None:
    """Who was removed does not come back by itself, with the ticket or with the password."""
    client = as_ada(rig, gateway)
    order(owner, "user_remove", name="ada")
    with pytest.raises(RequestError):
        client.request("P", "who").get()
    with pytest.raises(PermissionDenied):
        as_ada(rig, gateway)


def test_errors_of_administration_arrive(gateway: headgate.Gateway, owner: headgate.Client) -> None:
    """What is wrong with an order is told as what it is, and it is known that nothing was done."""
    with pytest.raises(HandlerNotFound, match="no user 'bob'") as caught:
        order(owner, "user_remove", name="bob")
    assert caught.value.started is False


def test_no_session_outlives_the_gateway(rig: Rig, gateway: headgate.Gateway) -> None:
    """A gateway that is started again has its users as before."""
    owner = rig.client(gateway)
    order(owner, "user_add", name="ada", password=PASSWORD, roles=["operator"])
    owner.close()
    gateway.stop()
    gateway.start()
    assert as_ada(rig, gateway).request("P", "who").get()[0] == "ada"


def test_an_administrator_who_is_removed_does_nothing_more(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client, records: Records
) -> None:
    """What waits behind the hashing of passwords is dropped; and it does not hold up the owner."""
    client = as_ada(rig, gateway)
    asked = [
        client.request("@gateway", "user_add", {"name": f"x{n}", "password": PASSWORD})
        for n in range(60)
    ]
    asked[0].get()
    order(owner, "user_remove", name="ada")
    before = order(owner, "user_list")["users"]
    assert len(before) < 50
    # Its hash comes after all that were asked for before.
    order(owner, "user_add", name="last", password=PASSWORD)
    after = order(owner, "user_list")["users"]
    assert len(after) <= len(before) + 2
    rig.settle(gateway)
    told = [r for r in records.records if r.target == "@gateway/user_add" and r.outcome == "ok"]
    assert len(told) == len(after) + 1  # that of ada herself


def test_a_cancelled_order_may_be_done(
    rig: Rig, gateway: headgate.Gateway, owner: headgate.Client
) -> None:
    """Nobody is told that an order was not begun which may take effect."""
    orders = [
        owner.request("@gateway", "user_add", {"name": f"x{n}", "password": PASSWORD})
        for n in range(5)
    ]
    orders[0].get()
    orders[-1].cancel()
    with pytest.raises(RequestError) as caught:
        orders[-1].get()
    assert caught.value.started is not False
    for each in orders[:-1]:
        each.get()


def test_anonymous_sessions_end_with_their_rule(rig: Rig, records: Records) -> None:
    """When no rule names anonymous callers any more, their sessions end at once."""
    gateway = rig.gateway({"P/who": WHO}, recorder=records)
    owner = rig.client(gateway)
    rule = order(owner, "permission_add", allow=True, users=["anonymous"], handlers=["P/*"])
    nobody = rig.client(gateway, anonymous=True)
    assert nobody.request("P", "who").get()[0] == "anonymous"
    order(owner, "permission_remove", rule=rule["rule"])
    rig.until(lambda: records.told("refused", "nobody may be anonymous"), seconds=10)
    rig.until(lambda: len(gateway._reception.sessions) == 1)


def test_a_recorder_that_fails(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Sessions begin and end as they must where the program's own recorder fails."""

    class Broken:
        def record(self, record: Record) -> None:
            raise OSError("no room")

    gateway = rig.gateway({"P/who": WHO}, policy=AnyPolicy(), recorder=Broken())
    owner = rig.client(gateway)
    for name in ("ada", "bob"):
        order(owner, "user_add", name=name, password=PASSWORD)
        rig.client(gateway, username=name, password=PASSWORD)
    assert len(gateway._reception.sessions) == 3
    for left, name in enumerate(("ada", "bob")):
        order(owner, "user_remove", name=name)
        rig.until(lambda left=left: len(gateway._reception.sessions) == 2 - left)
    assert "lost a record" in caplog.text


def test_an_end_is_recorded_once(
    rig: Rig,
    gateway: headgate.Gateway,
    owner: headgate.Client,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that is about to end, since its client does not read, is not ended again."""
    as_ada(rig, gateway)
    sessions = gateway._reception.sessions
    (session,) = (s for s in sessions.on_this_node() if s.caller.user == "ada")
    monkeypatch.setattr(session, "close", lambda reason: None)
    order(owner, "user_remove", name="ada")
    order(owner, "user_add", name="bob", password=PASSWORD)
    assert [r.user for r in records.records if "the session ends" in r.detail] == ["ada"]


async def test_nothing_is_dispatched_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent before the end and nobody looked at is dropped, and the connection is cut."""
    monkeypatch.setattr(sessions_module, "LAST_SECONDS", 0.0)
    cut = asyncio.Event()

    class Channel:
        def close(self, reason: str) -> None: ...

        def abort(self, reason: str) -> None:
            cut.set()

    dispatched: list[Invocation] = []

    class Switchboard:
        def dispatch(self, invocation: Invocation) -> None:
            dispatched.append(invocation)

        def stop_invocation(self, invocation: Invocation, error: RequestError) -> None: ...

    channel: Any = Channel()
    switchboard: Any = Switchboard()
    hello = Hello(versions=[1], features=[], method="password", nonce=b"")
    session = sessions_module.ClientSession(
        channel,
        Session(now=0.0, id="1", connecting=False),
        caller=Caller(user="ada"),
        login=Login(user="ada", method="password"),
        hello=hello,
        switchboard=switchboard,
        admission=Limiter().admit("ada", address="", is_owner=False),
    )
    call = Call(id=1, project="P", handler="a", payload=b"", deadline=1e9)
    session.received(channel, [(call, None, 1e9)])
    assert len(dispatched) == 1
    session.end("the user is gone")
    session.received(channel, [(call, None, 1e9)])
    assert len(dispatched) == 1
    await asyncio.wait_for(cut.wait(), 10)
