"""What administrators do: names, roles, who may make an owner, and what is recorded."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DatabaseError

from headgate.errors import HandlerNotFound, PayloadError, PermissionDenied
from headgate.invocation import Caller
from tests.security.accounts import PASSWORD, Desk, certificate

ADMIN = Caller(
    user="eve",
    roles=frozenset({"administrator"}),
    host="office",
    session="7",
    address="10.1.0.9",
    method="password",
)


OWNER_ELSEWHERE = Caller(user="root", roles=frozenset({"owner"}), gateway=("mill",))


async def names(desk: Desk) -> list[str]:
    """The names in the list of users."""
    return [row["name"] for row in (await desk.do("user_list"))["users"]]


@pytest.mark.parametrize(
    "name", ["a", "Ada", "jörg.müller", "ada@example.org", "Ada L. King", "press-7", "7", "木村"]
)
async def test_good_names(desk: Desk, name: str) -> None:
    """Letters and digits of any script, and . _ - + @ and spaces inside."""
    await desk.user(name)
    assert await names(desk) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("", " ada", "ada ", "-ada", "_ada", "a/b", "a\\b", "a:b", "a*", "a?", "[a]", "a\nb"),
        *("a\u202eb", "a\x00", "x" * 65, "gateway:hub", "owner", "OWNER", "Anonymous", "gateway"),
    ],
)
async def test_bad_names(desk: Desk, name: str) -> None:
    """Reserved names, wildcards, separators and what cannot be seen are no names for users."""
    with pytest.raises(PayloadError):
        await desk.user(name)
    assert await names(desk) == []


@pytest.mark.parametrize("name", ["ADA", "ada", "straße", "STRASSE", "Cafe\u0301", "CAFÉ"])
async def test_names_differ_in_more_than_case(desk: Desk, name: str) -> None:
    """No two users have names that differ in case alone, or in how they are written."""
    for taken in ("Ada", "Strasse", "Café"):
        await desk.user(taken)
    with pytest.raises(PayloadError, match="already"):
        await desk.user(name)


@pytest.mark.parametrize("role", ["", "role@hub", "a/b", "a b", "*", "-x", "x" * 65, "a,b"])
async def test_bad_roles(desk: Desk, role: str) -> None:
    """A role has no @, which is for those of other gateways, and nothing that a rule reads."""
    with pytest.raises(PayloadError, match="role"):
        await desk.user(roles=[role])
    await desk.user()
    for payload in ({"roles": [role]}, {"add": [role]}):
        with pytest.raises(PayloadError, match="role"):
            await desk.do("user_roles", name="ada", **payload)


async def test_roles_are_changed(desk: Desk) -> None:
    """Roles are set as a whole, or some are added and removed."""
    await desk.user(roles=["a", "b"])
    for payload, expected in (
        ({"add": ["c"], "remove": ["a"]}, ["b", "c"]),
        ({"roles": ["x"]}, ["x"]),
        ({"roles": []}, []),
    ):
        assert (await desk.do("user_roles", name="ADA", **payload))["roles"] == expected
        (row,) = (await desk.do("user_list"))["users"]
        assert row["roles"] == expected


async def test_owner_is_made_by_owners(desk: Desk) -> None:
    """An administrator who is no owner, or that of another gateway, makes and touches none."""
    await desk.user("root2", roles=["owner"])
    await desk.user("ada")
    made = await desk.token("root2")
    added = await desk.do("certificate_add", user="root2", san="dns:hub.example.org")
    desk.records.clear()
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("user_add", {"name": "eve2", "roles": ["owner"]}),
        ("user_roles", {"name": "ada", "add": ["owner"]}),
        ("user_roles", {"name": "root2", "remove": ["owner"]}),
        ("user_passwd", {"name": "root2", "password": "mine from now on"}),
        ("user_hosts", {"name": "root2", "hosts": ["*"]}),
        ("user_remove", {"name": "root2"}),
        ("token_create", {"user": "root2"}),
        ("token_revoke", {"id": made["id"]}),
        ("certificate_add", {"user": "root2", "certificate": certificate()}),
        ("certificate_remove", {"id": added["id"]}),
    ]
    before = desk.identities.accounts
    for by in (ADMIN, OWNER_ELSEWHERE):
        for action, payload in attempts:
            with pytest.raises(PermissionDenied, match="owner"):
                await desk.do(action, by=by, **payload)
    assert desk.identities.accounts is before
    # The gateway records refusals where requests end.
    assert desk.records == []
    await desk.do("user_roles", by=ADMIN, name="ada", add=["operator"])


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("user_add", None),
        ("user_add", []),
        ("user_add", {"name": 5}),
        ("user_add", {"name": "bob", "pasword": PASSWORD}),
        ("user_add", {"name": "bob", "password": "short"}),
        ("user_add", {"name": "bob", "hosts": ["x"] * 33}),
        ("user_add", {"name": "bob", "hosts": ["a\nb"]}),
        ("user_passwd", {"name": "ada"}),
        ("user_passwd", {"name": "ada", "password": "ADA"}),
        ("token_create", {"user": "ada", "roles": ["other"]}),
        ("token_create", {"user": "ada", "only": ["ACME"]}),
        ("token_create", {"user": "ada", "only": ["a/b/c"]}),
        ("token_create", {"user": "ada", "seconds": 0}),
        ("token_create", {"user": "ada", "seconds": float("nan")}),
        ("token_create", {"user": "ada", "seconds": 1e300}),
        ("certificate_add", {"user": "ada"}),
        ("certificate_add", {"user": "ada", "spki": "00" * 32, "san": "dns:a"}),
        ("certificate_add", {"user": "ada", "spki": "00"}),
        ("certificate_add", {"user": "ada", "san": "CN=ada"}),
        ("certificate_add", {"user": "ada", "san": "dns:*.example.org"}),
        ("certificate_add", {"user": "ada", "san": "dns:"}),
        ("certificate_add", {"user": "ada", "certificate": b"no certificate"}),
    ],
)
async def test_bad_payloads(desk: Desk, action: str, payload: Any) -> None:
    """What is wrong is refused before anything is changed, and no error repeats a password."""
    await desk.user()
    before, changes = desk.identities.accounts, desk.changes
    with pytest.raises(PayloadError) as caught:
        await desk.administration.administer(action, payload, ADMIN)
    assert PASSWORD not in str(caught.value)
    assert (desk.identities.accounts, desk.changes) == (before, changes)


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("user_remove", {"name": "bob"}),
        ("user_passwd", {"name": "bob", "password": PASSWORD}),
        ("token_create", {"user": "bob"}),
        ("token_revoke", {"id": "0"}),
        ("certificate_add", {"user": "bob", "san": "dns:a"}),
        ("certificate_remove", {"id": 5}),
        ("user_promote", {}),
    ],
)
async def test_what_is_not_there(desk: Desk, action: str, payload: Any) -> None:
    """A user, token, certificate or action that is not there is an error that says so."""
    with pytest.raises(HandlerNotFound, match="There is no"):
        await desk.administration.administer(action, payload, ADMIN)


@pytest.mark.parametrize("name", ["Jörg", "jörg", "JO\u0308RG"])
async def test_the_gateways_own_user_has_no_account(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rules that name a user could not tell them apart; however it is written, the cure is told."""
    monkeypatch.setattr("getpass.getuser", lambda: "Jörg")
    with pytest.raises(PayloadError, match=r"user that the gateway runs as.*choose another one"):
        await desk.user(name)
    assert not desk.identities.accounts.users
    await desk.user(name + "-1")


async def test_mark_has_one_user(desk: Desk) -> None:
    """A key or a name in certificates is one user's."""
    await desk.user("ada")
    await desk.user("bob")
    await desk.do("certificate_add", user="ada", san="dns:Panel-7")
    with pytest.raises(PayloadError, match="somebody's already"):
        await desk.do("certificate_add", user="bob", san="dns:panel-7")


async def test_removing_a_user_removes_all(desk: Desk) -> None:
    """With a user its tokens and certificates go, also from the database."""
    await desk.user()
    await desk.token()
    await desk.do("certificate_add", user="ada", san="dns:a")
    await desk.do("user_remove", name="ada")
    desk.restart()
    accounts = desk.identities.accounts
    assert not [*accounts.users, *accounts.tokens, *accounts.certificates, *accounts.marks]


async def test_changes_are_recorded(desk: Desk) -> None:
    """Each change is recorded with who, from where and what, and never with a secret."""
    await desk.do("user_add", by=ADMIN, name="ada", password=PASSWORD, roles=["operator"])
    made = await desk.do("token_create", by=ADMIN, user="ada", only=["ACME/*"])
    await desk.do("user_passwd", by=ADMIN, name="ada", password="another one")
    await desk.do("token_list", by=ADMIN)
    assert [record.target for record in desk.records] == [
        "@gateway/user_add",
        "@gateway/token_create",
        "@gateway/user_passwd",
    ]
    for record in desk.records:
        assert (record.event, record.user, record.session) == ("administered", "eve", "7")
        assert (record.host, record.address) == ("office", "10.1.0.9")
        assert "'ada'" in record.detail
        for secret in (PASSWORD, "another one", made["token"].split("_", 2)[2], "argon2"):
            assert secret not in repr(record)
    assert "operator" in desk.records[0].detail
    assert made["id"] in desk.records[1].detail
    (user,) = (await desk.do("user_list"))["users"]
    assert user["created_by"] == "eve"


async def test_changes_at_once(desk: Desk) -> None:
    """Of changes that come together none is lost."""
    await desk.user()
    roles = [f"role{number}" for number in range(20)]
    await asyncio.gather(*(desk.do("user_roles", name="ada", add=[role]) for role in roles))
    (row,) = (await desk.do("user_list"))["users"]
    assert row["roles"] == sorted(roles)


async def test_change_is_told_after_it_holds(desk: Desk) -> None:
    """Whoever is told of a change sees it already."""
    await desk.user(roles=["operator"])
    login = await desk.by_password()
    seen = []
    desk.identities.on_change = lambda: seen.append(desk.identities.current(login))
    await desk.do("user_roles", name="ada", roles=["viewer"])
    await desk.do("user_remove", name="ada")
    assert [caller and caller.roles for caller in seen] == [{"viewer"}, None]


async def test_everything_is_there_after_a_restart(desk: Desk) -> None:
    """The database keeps it all."""
    await desk.user(roles=["operator"], hosts=["panel-*"])
    await desk.token(label="press", only=["ACME/*"], seconds=60)
    await desk.do("certificate_add", user="ada", san="uri:urn:a")
    before = desk.identities.accounts
    desk.restart()
    assert desk.identities.accounts == before


async def test_failing_writes_show_no_secret(desk: Desk) -> None:
    """Where the disk is full, the error names the statement without its values."""
    await desk.user("ada")

    def fill(connection: Connection) -> None:
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    desk.store.write(fill).result()
    with pytest.raises(DatabaseError) as caught:
        await desk.user("bob", hosts=["x" * 250 for _ in range(32)])
    told = "".join(traceback.format_exception(caught.value))
    assert "INSERT INTO users" in told
    assert "$argon2id$" not in told
