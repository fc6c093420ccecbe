"""Who is let in, as whom, and until when."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from argon2 import extract_parameters
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from headgate.errors import PermissionDenied
from headgate.security.identities import Identities, Login
from headgate.security.passwords import PARAMETERS
from headgate.security.zones import HostPin
from headgate.store.tables import keys, tokens
from tests.security.accounts import PASSWORD, Desk, Hello, Peer, Shown, certificate

HOUR = 3600.0


def roles(desk: Desk, login: Login) -> set[str]:
    """The roles that a login gives now."""
    caller = desk.identities.current(login)
    assert caller is not None
    return set(caller.roles)


# --- passwords -----------------------------------------------------------------------------------


async def test_password(desk: Desk) -> None:
    """Who knows the password is the user, with the roles; the name's case makes no difference."""
    await desk.user("Ada", roles=["operator"])
    login = await desk.by_password("aDA", host="panel-1")
    caller = desk.identities.current(login, session="5")
    assert caller is not None
    assert (caller.user, caller.roles, caller.method) == ("Ada", {"operator"}, "password")
    assert (caller.session, caller.host, caller.address) == ("5", "panel-1", "10.1.0.1")
    assert (caller.verified_host, caller.only, caller.gateway) == ("", (), ())


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("ada", "wrong", "the password of 'ada' is wrong"),
        ("ada", "", "the password of 'ada' is wrong"),
        ("eve", PASSWORD, "no user 'eve'"),
        ("bot", PASSWORD, "'bot' has no password"),
        ("bot", "", "'bot' has no password"),
        ("", "", "no user ''"),
    ],
)
async def test_wrong_password(desk: Desk, user: str, password: str, reason: str) -> None:
    """All others are refused; the reason is for the audit and never holds the password."""
    await desk.user("ada")
    await desk.do("user_add", name="bot")
    with pytest.raises(PermissionDenied, match=reason) as caught:
        await desk.by_password(user, password)
    assert PASSWORD not in str(caught.value)


async def test_password_is_hashed_anew(desk: Desk) -> None:
    """A hash with other parameters than today's is replaced at the next login, which holds."""
    await desk.user("ada", roles=["operator"])
    before = await desk.by_password()
    desk.close()
    desk.open()
    desk.identities.close()
    desk.identities = Identities(desk.store, now=desk.clock)
    desk.identities.load()
    login = await desk.by_password()
    assert roles(desk, login) == roles(desk, before) == {"operator"}
    stored = desk.identities.accounts.users["ada"].password
    assert stored is not None
    assert extract_parameters(stored) == PARAMETERS


async def test_change_that_nobody_waits_for(desk: Desk) -> None:
    """What is begun is done and recorded, whoever leaves while the database is written."""
    await desk.user()
    adding = asyncio.ensure_future(desk.do("user_add", name="bob"))
    await asyncio.sleep(0)
    adding.cancel()
    assert (await adding)["name"] == "bob"
    assert set(desk.identities.accounts.users) == {"ada", "bob"}
    assert "user 'bob'" in desk.records[-1].detail
    before = desk.identities.accounts
    desk.restart()
    assert desk.identities.accounts == before


async def test_user_removed_during_login(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login during which its user is removed does not come to a good end."""
    await desk.user()
    verify = desk.identities.passwords.verify

    async def verify_and_remove(*arguments: Any, **options: Any) -> bool:
        right = await verify(*arguments, **options)
        await desk.do("user_remove", name="ada")
        return right

    monkeypatch.setattr(desk.identities.passwords, "verify", verify_and_remove)
    with pytest.raises(PermissionDenied, match="does not exist"):
        await desk.by_password()


# --- tokens --------------------------------------------------------------------------------------


async def test_token(desk: Desk) -> None:
    """A token logs in as its user, with its part of the roles, narrowed to its handlers."""
    await desk.user(roles=["operator", "viewer"])
    made = await desk.token(roles=["viewer"], only=["ACME/*"])
    login = await desk.by_token(made["token"])
    caller = desk.identities.current(login)
    assert caller is not None
    assert (caller.user, caller.roles, caller.method) == ("ada", {"viewer"}, "token")
    assert caller.only == ("ACME/*",)


async def test_token_has_the_roles_of_now(desk: Desk) -> None:
    """A token gives no role that its user has lost; one without roles gives all of the user's."""
    await desk.user(roles=["operator", "viewer"])
    some = await desk.by_token((await desk.token(roles=["viewer"]))["token"])
    every = await desk.by_token((await desk.token())["token"])
    await desk.do("user_roles", name="ada", roles=["operator"])
    assert roles(desk, some) == set()
    assert roles(desk, every) == {"operator"}


async def test_wrong_tokens(desk: Desk) -> None:
    """What is not exactly a token is refused, and the reason never holds its secret."""
    await desk.user()
    token = (await desk.token())["token"]
    other = (await desk.token())["token"]
    prefix, id, secret = token.split("_", 2)
    mixed = f"{prefix}_{id}_{other.split('_', 2)[2]}"
    for wrong in ("", "_", "hg_", token[:-1], token + "A", f"xx_{id}_{secret}", mixed, "é" * 50):
        with pytest.raises(PermissionDenied) as caught:
            await desk.by_token(wrong)
        assert secret not in str(caught.value)


async def test_token_is_not_in_the_database(desk: Desk) -> None:
    """The database holds no token and no password, only what they are checked with."""
    await desk.user()
    secret = (await desk.token())["token"].split("_", 2)[2]
    files = [file.read_bytes() for file in desk.store.folder.iterdir() if file.is_file()]
    assert any(b"ada" in content for content in files)
    assert not any(secret.encode() in content or PASSWORD.encode() in content for content in files)
    assert secret not in repr(desk.identities.accounts)
    assert "argon2" not in repr(desk.identities.accounts)


async def test_token_expires(desk: Desk) -> None:
    """An expired token opens nothing, and what it opened is over; the moment is known before."""
    await desk.user()
    desk.clock.now = datetime.now(UTC).timestamp()
    made = await desk.token(seconds=HOUR)
    login = await desk.by_token(made["token"])
    ends = desk.identities.expires_at(login)
    assert ends == made["expires_at"].timestamp()
    desk.clock.now = ends - 1
    assert desk.identities.current(login)
    desk.clock.now = ends
    assert desk.identities.current(login) is None
    assert "expired" in desk.identities.problem(login)
    with pytest.raises(PermissionDenied, match="expired"):
        await desk.by_token(made["token"])


async def test_use_of_a_token_is_written_down(desk: Desk) -> None:
    """When a token was used last is known, also after a restart; at most one write a minute."""
    await desk.user()
    made = await desk.token()
    moment = datetime.fromtimestamp(desk.clock.now, UTC)
    for _ in range(3):
        await desk.by_token(made["token"])
        desk.clock.now += 1
    stored = desk.store.write(lambda connection: connection.scalar(select(tokens.c.used_at)))
    assert stored.result() == moment
    desk.restart()
    (row,) = (await desk.do("token_list"))["tokens"]
    assert row["used_at"] == moment


async def test_refused_token_was_not_used(desk: Desk) -> None:
    """A revoked token that somebody tries is not in use."""
    await desk.user()
    made = await desk.token()
    await desk.do("token_revoke", id=made["id"])
    with pytest.raises(PermissionDenied, match="revoked"):
        await desk.by_token(made["token"])
    (row,) = (await desk.do("token_list"))["tokens"]
    assert row["used_at"] is None


# --- certificates --------------------------------------------------------------------------------


NAMES = (
    x509.DNSName("Panel-7.Example.org"),
    x509.RFC822Name("ada@example.org"),
    x509.UniformResourceIdentifier("urn:plant:Panel-7"),
)


@pytest.mark.parametrize(
    "san", ["dns:PANEL-7.example.org", "email:Ada@example.org", "uri:urn:plant:Panel-7"]
)
async def test_certificate_by_name(desk: Desk, san: str) -> None:
    """A certificate is the user's to whom a name in it was given."""
    await desk.user(roles=["operator"])
    await desk.do("certificate_add", user="ada", san=san)
    login = await desk.by_certificate(certificate(*NAMES))
    assert (login.user, login.method, login.roles) == ("ada", "certificate", {"operator"})


async def test_certificate_by_key(desk: Desk) -> None:
    """A certificate is the user's whose key it has, also a renewed one; another key is not."""
    await desk.user()
    key = ec.generate_private_key(ec.SECP256R1())
    await desk.do("certificate_add", user="ada", certificate=certificate(key=key))
    login = await desk.by_certificate(certificate(key=key, days=3, common_name="anything"))
    assert login.user == "ada"
    with pytest.raises(PermissionDenied, match="nobody"):
        await desk.by_certificate(certificate(common_name="ada"))


async def test_certificate_by_hash(desk: Desk) -> None:
    """The SHA-256 of the key can be given as OpenSSL prints it."""
    await desk.user()
    der = certificate()
    made = await desk.do("certificate_add", user="ada", certificate=der)
    await desk.do("certificate_remove", id=made["id"])
    printed = ":".join(made["spki"].upper()[at : at + 2] for at in range(0, 64, 2))
    await desk.do("certificate_add", user="ada", spki=printed)
    assert (await desk.by_certificate(der)).user == "ada"


async def test_certificate_of_two_users(desk: Desk) -> None:
    """A certificate with the names of two users is refused: it cannot choose."""
    await desk.user("ada")
    await desk.user("bob")
    await desk.do("certificate_add", user="ada", san="email:ada@example.org")
    await desk.do("certificate_add", user="bob", san="dns:panel-7.example.org")
    with pytest.raises(PermissionDenied, match="several users"):
        await desk.by_certificate(certificate(*NAMES))


@pytest.mark.parametrize("der", [None, b"", b"no certificate"])
async def test_no_certificate(desk: Desk, der: bytes | None) -> None:
    """Without a certificate that can be read there is no login by it."""
    with pytest.raises(PermissionDenied, match="no certificate"):
        await desk.by_certificate(der)


async def test_certificate_expires(desk: Desk) -> None:
    """What an expired certificate opened is over, and it opens nothing more."""
    await desk.user()
    der = certificate(days=1)
    await desk.do("certificate_add", user="ada", certificate=der)
    login = await desk.by_certificate(der)
    ends = desk.identities.expires_at(login)
    assert ends is not None
    desk.clock.now = ends
    assert desk.identities.current(login) is None
    with pytest.raises(PermissionDenied, match="expired"):
        await desk.by_certificate(der)


async def test_removed_certificate_stays_removed(desk: Desk) -> None:
    """What a removed certificate opened stays over, also when another one is added after it."""
    await desk.user()
    der = certificate()
    made = await desk.do("certificate_add", user="ada", certificate=der)
    login = await desk.by_certificate(der)
    await desk.do("certificate_remove", id=made["id"])
    await desk.do("certificate_add", user="ada", certificate=der)
    assert desk.identities.current(login) is None


# --- anonymous, local, unknown -------------------------------------------------------------------


async def test_anonymous(desk: Desk) -> None:
    """Anonymous sessions need a setting; without it those that are open end."""
    shown = Shown("anonymous", user="ada", hello=Hello("panel-1"))
    with pytest.raises(PermissionDenied, match="anonymous"):
        await desk.identities.log_in(shown, Peer())
    desk.anonymous = True
    login = await desk.identities.log_in(shown, Peer())
    caller = desk.identities.current(login)
    assert caller is not None
    assert (caller.user, caller.roles, caller.method) == ("anonymous", frozenset(), "anonymous")
    assert desk.identities.ticket(login) is None
    desk.anonymous = False
    assert desk.identities.current(login) is None


async def test_local(desk: Desk) -> None:
    """Who has proven to know the local token is the owner, whatever is pinned."""
    desk.pins = {"hub": HostPin(("10.9.9.9",))}
    shown = Shown("local", hello=Hello("hub"))
    login = await desk.identities.log_in(shown, Peer("127.0.0.1"))
    caller = desk.identities.current(login, session="7")
    assert caller is not None
    assert (caller.roles, caller.method, caller.session) == ({"owner"}, "local", "7")
    assert (caller.address, caller.verified_host) == ("127.0.0.1", "")
    assert desk.identities.ticket(login) is None
    assert desk.identities.expires_at(login) is None


async def test_unknown_method(desk: Desk) -> None:
    """A method that does not exist is refused."""
    with pytest.raises(PermissionDenied, match="'magic'"):
        await desk.identities.log_in(Shown("magic"), Peer())


# --- host names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "verified"),
    [("PANEL-7", "panel-7"), ("panel-", "panel-"), ("office", ""), ("", ""), ("xpanel-7", "")],
)
async def test_host_patterns(desk: Desk, claim: str, verified: str) -> None:
    """A claimed name is verified if a pattern of the user has it, without regard to case."""
    await desk.user(hosts=["Panel-*"])
    login = await desk.by_password(host=claim)
    assert (login.host, login.verified_host) == (claim, verified)


async def test_a_bracket_in_a_host_pattern_is_a_bracket(desk: Desk) -> None:
    """Host names have the patterns that rules have: there, too, only ``*`` and ``?`` mean more."""
    await desk.user(hosts=["panel-[ab]"])
    assert (await desk.by_password(host="panel-a")).verified_host == ""
    assert (await desk.by_password(host="panel-[ab]")).verified_host == "panel-[ab]"


async def test_host_pattern_of_a_token(desk: Desk) -> None:
    """A pattern of the token verifies as one of the user does, for that token alone."""
    await desk.user()
    token = (await desk.token(hosts=["press-?"]))["token"]
    assert (await desk.by_token(token, host="press-1")).verified_host == "press-1"
    assert (await desk.by_password(host="press-1")).verified_host == ""


async def test_host_pattern_is_taken_away(desk: Desk) -> None:
    """A session's verified host is gone with the pattern."""
    await desk.user(hosts=["panel-*"])
    login = await desk.by_password(host="panel-1")
    await desk.do("user_hosts", name="ada", hosts=[])
    caller = desk.identities.current(login)
    assert caller is not None
    assert (caller.host, caller.verified_host) == ("panel-1", "")


@pytest.mark.parametrize(
    ("claim", "verified"),
    [("panel-7.example.org", "panel-7.example.org"), ("office", "panel-7.example.org")],
)
async def test_host_of_a_certificate(desk: Desk, claim: str, verified: str) -> None:
    """The DNS name in a certificate is verified, whatever the session claims."""
    await desk.user(hosts=["*"])
    peer = Peer(certificate=certificate(*NAMES))
    assert (await desk.by_password(host=claim, peer=peer)).verified_host == verified


@pytest.mark.parametrize("address", ["10.1.4.7", "::ffff:10.1.4.7", "2001:db8::7"])
async def test_pinned_host(desk: Desk, address: str) -> None:
    """A pinned name is verified from its addresses, and who claims it elsewhere is not let in."""
    desk.pins = {"Panel-7": HostPin(("10.1.4.0/24", "2001:db8::/64"))}
    await desk.user(hosts=["*"])
    login = await desk.by_password(host="panel-7", peer=Peer(address))
    assert login.verified_host == "panel-7"
    with pytest.raises(PermissionDenied, match="pinned"):
        await desk.by_password(host="PANEL-7", peer=Peer("10.1.5.7"))
    assert (await desk.by_password(host="panel-8", peer=Peer("10.1.5.7"))).host == "panel-8"


async def test_pin_that_comes_later(desk: Desk) -> None:
    """A session that claims a name which is pinned elsewhere meanwhile is over."""
    await desk.user()
    login = await desk.by_password(host="panel-7")
    desk.pins = {"panel-7": HostPin(("10.1.4.7",))}
    assert desk.identities.current(login) is None
    desk.pins = {"panel-7": HostPin(("10.1.0.1",))}
    assert desk.identities.current(login)


# --- tickets -------------------------------------------------------------------------------------


async def test_ticket(desk: Desk) -> None:
    """With a ticket a session comes back as it was, also after the gateway's restart."""
    await desk.user(roles=["operator"], hosts=["panel-*"])
    login = await desk.by_password(host="panel-1")
    ticket = desk.identities.ticket(login)
    assert ticket is not None
    assert (len(ticket.key), ticket.seconds) == (32, pytest.approx(12 * HOUR))
    assert ticket.key.hex() not in repr(ticket)
    desk.restart()
    assert desk.identities.ticket_key(ticket.blob, Peer()) == ticket.key
    back = await desk.by_ticket(ticket.blob, host="PANEL-1")
    assert desk.identities.current(back) == desk.identities.current(login)
    assert (back.ticketed, back.method) == (True, "password")


async def test_ticket_fits_into_a_frame(desk: Desk) -> None:
    """The longest names make a ticket that fits into the first frame with room to spare."""
    name = "\u00e4" * 64
    await desk.user(name)
    token = (await desk.token(name))["token"]
    login = await desk.by_token(token, host="h" * 256, peer=Peer("2001:db8:" + "ffff:" * 5 + "1"))
    ticket = desk.identities.ticket(login)
    assert ticket is not None
    assert len(ticket.blob) < 1024


async def test_tickets_do_not_renew_themselves(desk: Desk) -> None:
    """One ticket after the other is good for 12 hours from the password, and no longer."""
    await desk.user()
    ticket = desk.identities.ticket(await desk.by_password())
    assert ticket is not None
    desk.clock.now += 11 * HOUR
    second = desk.identities.ticket(await desk.by_ticket(ticket.blob))
    assert second is not None
    assert second.seconds == pytest.approx(HOUR)
    desk.clock.now += HOUR
    for blob in (ticket.blob, second.blob):
        assert desk.identities.ticket_key(blob, Peer()) is None
        assert "expired" in desk.identities.ticket_problem(blob, Peer())


async def test_ticket_ends_with_its_token(desk: Desk) -> None:
    """A ticket from a login by token is not good for longer than the token."""
    await desk.user()
    login = await desk.by_token((await desk.token(seconds=HOUR))["token"])
    ticket = desk.identities.ticket(login)
    assert ticket is not None
    assert ticket.seconds == pytest.approx(HOUR, abs=60)


@pytest.mark.parametrize("address", ["10.1.0.2", "::ffff:10.1.0.1", ""])
async def test_ticket_elsewhere(desk: Desk, address: str) -> None:
    """A ticket is good from the address that it was made for."""
    await desk.user()
    ticket = desk.identities.ticket(await desk.by_password())
    assert ticket is not None
    assert desk.identities.ticket_key(ticket.blob, Peer(address)) is None
    assert "10.1.0.1" in desk.identities.ticket_problem(ticket.blob, Peer(address))
    with pytest.raises(PermissionDenied):
        await desk.by_ticket(ticket.blob, peer=Peer(address))


async def test_ticket_of_another_host(desk: Desk) -> None:
    """A ticket is good for the host name that was claimed when it was made."""
    await desk.user(hosts=["*"])
    ticket = desk.identities.ticket(await desk.by_password(host="panel-1"))
    assert ticket is not None
    with pytest.raises(PermissionDenied, match="another host"):
        await desk.by_ticket(ticket.blob, host="panel-2")


async def test_ticket_needs_its_certificate(desk: Desk) -> None:
    """A ticket from a login by certificate is good with the same key alone."""
    await desk.user()
    der = certificate()
    await desk.do("certificate_add", user="ada", certificate=der)
    ticket = desk.identities.ticket(await desk.by_certificate(der))
    assert ticket is not None
    assert desk.identities.ticket_key(ticket.blob, Peer(certificate=der)) == ticket.key
    for other in (None, certificate()):
        assert "certificate" in desk.identities.ticket_problem(ticket.blob, Peer(certificate=other))


async def test_ticket_of_another_gateway(desk: Desk, tmp_path: Path) -> None:
    """Another gateway's ticket is not good here, nor is one under a stolen key of another node."""
    with closing(Desk(tmp_path / "other")) as other:
        for each in (desk, other):
            await each.user()
        ticket = other.identities.ticket(await other.by_password())
        assert ticket is not None
        assert "forged" in desk.identities.ticket_problem(ticket.blob, Peer())
        secret = other.store.write(lambda c: c.scalar(select(keys.c.secret))).result()
    desk.store.write(lambda c: c.execute(keys.update().values(secret=secret)).rowcount).result()
    desk.restart()
    assert "another gateway" in desk.identities.ticket_problem(ticket.blob, Peer())


async def test_user_of_the_same_name(desk: Desk) -> None:
    """Who is made anew under a name does not get what the former one had opened."""
    await desk.user()
    login = await desk.by_password()
    ticket = desk.identities.ticket(login)
    assert ticket is not None
    await desk.do("user_remove", name="ada")
    await desk.user()
    assert desk.identities.current(login) is None
    assert desk.identities.ticket_key(ticket.blob, Peer()) is None


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_altered_tickets(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is changed about a ticket, it is not good any more; nothing else is raised."""
    desk, blob = _altered_desk(tmp_path_factory)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "noise"]))
    if kind == "flip":
        at = data.draw(st.integers(0, len(blob) * 8 - 1))
        changed = bytearray(blob)
        changed[at // 8] ^= 1 << at % 8
        altered = bytes(changed)
    elif kind == "cut":
        altered = blob[: data.draw(st.integers(0, len(blob) - 1))]
    elif kind == "grow":
        altered = blob + data.draw(st.binary(min_size=1, max_size=40))
    else:
        altered = data.draw(st.binary(max_size=300))
    assert desk.identities.ticket_key(altered, Peer()) is None
    assert "forged" in desk.identities.ticket_problem(altered, Peer())


_ALTERED: list[Any] = []


def _altered_desk(factory: pytest.TempPathFactory) -> tuple[Desk, bytes]:
    """One desk and one good ticket for all examples; the store's threads are daemons."""
    if not _ALTERED:
        desk = Desk(factory.mktemp("tickets"))

        async def take() -> bytes:
            await desk.user()
            ticket = desk.identities.ticket(await desk.by_password())
            assert ticket is not None
            return ticket.blob

        _ALTERED.extend((desk, asyncio.run(take())))
    desk, blob = _ALTERED
    assert desk.identities.ticket_key(blob, Peer()) is not None
    return desk, blob
