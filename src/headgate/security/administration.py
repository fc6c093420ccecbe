"""What an administrator does to users, tokens and certificates, on a running gateway or not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.exc import IntegrityError

from headgate.errors import HandlerNotFound, PayloadError, PermissionDenied, RequestError
from headgate.invocation import Caller
from headgate.scope import GATEWAY_PROJECT
from headgate.security.accounts import (
    Certificate,
    Token,
    User,
    check_patterns,
    check_role,
    check_user_name,
)
from headgate.security.audit import Record, Recorder
from headgate.security.identities import (
    BAD_CERTIFICATE,
    TOKEN_PREFIX,
    Identities,
    normal_san,
    secret_hash,
    spki_of,
)
from headgate.security.identity import OWNER_ROLE, is_owner, own_user
from headgate.security.passwords import check_password
from headgate.security.patterns import folded
from headgate.store.tables import certificates, tokens, users
from headgate.threads import to_its_end

__all__ = ["Administration"]

T = TypeVar("T")

TOKEN_ID_BYTES = 6
"""Bytes of a token's id, which is shown in hex digits."""

SECRET_BYTES = 32
"""Random bytes of a token's secret."""

LONGEST_TOKEN = 100 * 365 * 86_400.0
"""Seconds that a token with an end is good for, at most."""


class _Order(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What an action takes; the field's names are those of its payload."""


class _UserAdd(_Order):
    name: str
    password: str | None = None
    roles: list[str] = []
    hosts: list[str] = []


class _UserNamed(_Order):
    name: str


class _UserPasswd(_Order):
    name: str
    password: str | None


class _UserRoles(_Order):
    name: str
    roles: list[str] | None = None
    add: list[str] = []
    remove: list[str] = []


class _UserHosts(_Order):
    name: str
    hosts: list[str]


class _TokenCreate(_Order):
    user: str
    label: str = ""
    roles: list[str] = []
    only: list[str] = []
    hosts: list[str] = []
    seconds: float | None = None


class _Listing(_Order):
    user: str | None = None


class _Identified(_Order):
    id: str


class _CertificateAdd(_Order):
    user: str
    certificate: bytes | None = None
    spki: str | None = None
    san: str | None = None


class _CertificateNumbered(_Order):
    id: int


@dataclass(frozen=True)
class _Done:
    """What came of an action."""

    result: Any
    told: str = ""
    """What is recorded; empty for an action that changed nothing."""


class Administration:
    """
    The actions of administrators, by name: ``user_add``, ``token_create`` and so on.

    It does not ask whether somebody is an administrator. But only who has the role ``owner``, at
    this gateway, can give it to somebody, or change a user who has it.

    Args:
        identities: Whom it is about.
        recorder: Is told of every change, and of what was refused to who is no owner.
    """

    def __init__(self, identities: Identities, recorder: Recorder) -> None:
        self._identities = identities
        self._recorder = recorder
        # What one action decides on, another one does not change meanwhile.
        self._one_at_a_time = asyncio.Lock()
        self._actions: dict[str, tuple[type[_Order], Callable[[Any, Caller], Awaitable[_Done]]]] = {
            "user_add": (_UserAdd, self._user_add),
            "user_list": (_Order, self._user_list),
            "user_remove": (_UserNamed, self._user_remove),
            "user_passwd": (_UserPasswd, self._user_passwd),
            "user_roles": (_UserRoles, self._user_roles),
            "user_hosts": (_UserHosts, self._user_hosts),
            "token_create": (_TokenCreate, self._token_create),
            "token_list": (_Listing, self._token_list),
            "token_revoke": (_Identified, self._token_revoke),
            "certificate_add": (_CertificateAdd, self._certificate_add),
            "certificate_list": (_Listing, self._certificate_list),
            "certificate_remove": (_CertificateNumbered, self._certificate_remove),
        }

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions."""
        return tuple(self._actions)

    async def administer(self, action: str, payload: Any, by: Caller) -> Any:
        """
        Do what an administrator asks for.

        Args:
            action: One of `actions`.
            payload: What the action takes, a dictionary or None.
            by: Who asks, and may.

        Returns:
            What came of it, as plain values.

        Raises:
            PayloadError: Something about the payload is not as it must be.
            HandlerNotFound: There is no such user, token, certificate or action.
            PermissionDenied: It is about the role ``owner``, which the caller has not.
            Overloaded: Too many writes wait.
            CancelledError: It was cancelled before it began.
        """
        if action not in self._actions:
            raise HandlerNotFound(f"There is no action {action!r}", started=False)
        kind, act = self._actions[action]
        order = await self._hashed(_convert(payload, kind))
        await self._one_at_a_time.acquire()
        # From here on it is done and recorded.
        return await to_its_end(self._act(action, act(order, by), by))

    async def _act(self, action: str, act: Awaitable[_Done], by: Caller) -> Any:
        try:
            done = await act
        finally:
            self._one_at_a_time.release()
        if done.told:
            target = f"{GATEWAY_PROJECT}/{action}"
            self._recorder.record(
                Record.by(by, "administered", target=target, outcome="ok", detail=done.told)
            )
        return done.result

    # --- users -----------------------------------------------------------------------------------

    async def _user_add(self, order: _UserAdd, by: Caller) -> _Done:
        name = check_user_name(order.name)
        roles, hosts = _roles(order.roles), check_patterns(order.hosts, "host patterns")
        _require_owner(by, roles)
        if folded(name) == folded(own_user()):
            raise PayloadError(
                f"{name!r} is the name of the user that the gateway runs as, and rules could not "
                f"tell the two apart: choose another one, such as {name + '-1'!r}. On this machine "
                "that user needs no account: it logs in as the owner"
            )
        if folded(name) in self._identities.accounts.users:
            raise _exists(name)
        now = _now()
        row = {
            "key": folded(name),
            "name": name,
            "password": order.password,
            "roles": roles,
            "hosts": hosts,
            "generation": _generation(),
            "created_at": now,
            "created_by": by.user,
            "changed_at": now,
        }
        await self._insert(insert(users).values(row), _exists(name))
        with_ = "a password" if order.password is not None else "no password"
        told = f"user {name!r} with {with_}, roles {_listed(roles)}, hosts {_listed(hosts)}"
        return _Done({"name": name, "roles": roles, "hosts": hosts}, told)

    async def _user_list(self, order: _Order, by: Caller) -> _Done:
        accounts = self._identities.accounts
        found = sorted(accounts.users.items())
        return _Done({"users": [_user_row(user) for _, user in found]})

    async def _user_remove(self, order: _UserNamed, by: Caller) -> _Done:
        user = self._user(order.name)
        _require_owner(by, user.roles)
        await self._execute(delete(users).where(users.c.id == user.id))
        return _Done({"name": user.name}, f"user {user.name!r} removed")

    async def _user_passwd(self, order: _UserPasswd, by: Caller) -> _Done:
        user = self._user(order.name)
        _require_owner(by, user.roles)
        await self._update(user, password=order.password, generation=_generation())
        what = "a new password" if order.password is not None else "no password any more"
        return _Done({"name": user.name}, f"user {user.name!r} has {what}")

    async def _user_roles(self, order: _UserRoles, by: Caller) -> _Done:
        user = self._user(order.name)
        _require_owner(by, user.roles)
        wanted = user.roles if order.roles is None else frozenset(_roles(order.roles))
        roles = sorted((wanted | set(_roles(order.add))) - set(order.remove))
        _require_owner(by, roles)
        await self._update(user, roles=roles)
        told = f"user {user.name!r} has the roles {_listed(roles)}, had {_listed(user.roles)}"
        return _Done({"name": user.name, "roles": roles}, told)

    async def _user_hosts(self, order: _UserHosts, by: Caller) -> _Done:
        user = self._user(order.name)
        _require_owner(by, user.roles)
        hosts = check_patterns(order.hosts, "host patterns")
        await self._update(user, hosts=hosts)
        told = f"user {user.name!r} has the hosts {_listed(hosts)}, had {_listed(user.hosts)}"
        return _Done({"name": user.name, "hosts": hosts}, told)

    # --- tokens ----------------------------------------------------------------------------------

    async def _token_create(self, order: _TokenCreate, by: Caller) -> _Done:
        user = self._user(order.user)
        _require_owner(by, user.roles)
        roles = _roles(order.roles)
        if beyond := sorted(set(roles) - user.roles):
            raise PayloadError(
                f"{user.name!r} has not the roles {_listed(beyond)}, so its tokens cannot have them"
            )
        label = check_patterns([order.label], "labels")[0] if order.label else ""
        only, hosts = _targets(order.only), check_patterns(order.hosts, "host patterns")
        id, secret = secrets.token_hex(TOKEN_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        now = _now()
        expires = None if order.seconds is None else now + _lifetime(order.seconds)
        row = {
            "id": id,
            "user_id": user.id,
            "label": label,
            "secret": secret_hash(secret),
            "roles": roles,
            "only": only,
            "hosts": hosts,
            "created_at": now,
            "created_by": by.user,
            "expires_at": expires,
        }
        await self._insert(insert(tokens).values(row), _not_found("user", user.name))
        fields = {"id": id, "user": user.name, "label": label, "roles": roles, "only": only}
        told = (
            f"token {id} {label!r} for {user.name!r}, roles {_listed(roles)}, "
            f"only {_listed(only)}, hosts {_listed(hosts)}, "
            f"until {expires.isoformat() if expires else 'revoked'}"
        )
        return _Done(
            {
                **fields,
                "hosts": hosts,
                "expires_at": expires,
                "token": f"{TOKEN_PREFIX}_{id}_{secret}",
            },
            told,
        )

    async def _token_list(self, order: _Listing, by: Caller) -> _Done:
        accounts = self._identities.accounts
        rows = [
            _token_row(token, accounts.users[token.user], self._identities.used_at(token))
            for token in sorted(accounts.tokens.values(), key=lambda each: each.created_at)
            if order.user is None or token.user == folded(order.user)
        ]
        return _Done({"tokens": rows})

    async def _token_revoke(self, order: _Identified, by: Caller) -> _Done:
        accounts = self._identities.accounts
        token = accounts.tokens.get(order.id)
        if token is None:
            raise _not_found("token", order.id)
        user = accounts.users[token.user]
        _require_owner(by, user.roles)
        if token.revoked_at is None:
            chosen = update(tokens).where(tokens.c.id == token.id)
            await self._execute(chosen.values(revoked_at=_now()))
        told = f"token {token.id} {token.label!r} of {user.name!r} revoked"
        return _Done({"id": token.id, "user": user.name}, told)

    # --- certificates ----------------------------------------------------------------------------

    async def _certificate_add(self, order: _CertificateAdd, by: Caller) -> _Done:
        user = self._user(order.user)
        _require_owner(by, user.roles)
        spki, san = _mark(order)
        row = {
            "user_id": user.id,
            "spki": spki,
            "san": san,
            "created_at": _now(),
            "created_by": by.user,
        }
        mark = san or f"spki:{spki}"
        id = await self._insert(
            insert(certificates).values(row),
            PayloadError(f"{mark} is somebody's already: headgate certificate list"),
        )
        fields = {"id": id, "user": user.name, "spki": spki, "san": san}
        return _Done(fields, f"certificate {id} for {user.name!r}: {mark}")

    async def _certificate_list(self, order: _Listing, by: Caller) -> _Done:
        accounts = self._identities.accounts
        rows = [
            _certificate_row(each, accounts.users[each.user])
            for _, each in sorted(accounts.certificates.items())
            if order.user is None or each.user == folded(order.user)
        ]
        return _Done({"certificates": rows})

    async def _certificate_remove(self, order: _CertificateNumbered, by: Caller) -> _Done:
        accounts = self._identities.accounts
        found = accounts.certificates.get(order.id)
        if found is None:
            raise _not_found("certificate", str(order.id))
        user = accounts.users[found.user]
        _require_owner(by, user.roles)
        await self._execute(delete(certificates).where(certificates.c.id == found.id))
        told = f"certificate {found.id} of {user.name!r} removed: {found.san or found.spki}"
        return _Done({"id": found.id, "user": user.name}, told)

    # --- steps -----------------------------------------------------------------------------------

    def _user(self, name: str) -> User:
        user = self._identities.accounts.users.get(folded(name))
        if user is None:
            raise _not_found("user", name)
        return user

    async def _hashed(self, order: _Order) -> _Order:
        """Put the hash of a password in its place; that takes time, so nobody waits behind it."""
        if not isinstance(order, _UserAdd | _UserPasswd) or order.password is None:
            return order
        password = check_password(order.password, folded(order.name))
        hashed = await self._identities.passwords.hash(password)
        return msgspec.structs.replace(order, password=hashed)

    async def _update(self, user: User, **values: Any) -> None:
        chosen = update(users).where(users.c.id == user.id)
        await self._execute(chosen.values(**values, changed_at=_now()))

    async def _execute(self, statement: Any) -> int:
        """Run a statement; returns the key of the row that it made."""

        def write(connection: Connection) -> int:
            result = connection.execute(statement)
            made = result.inserted_primary_key if result.is_insert else None
            return made[0] if made is not None else 0

        return await self._identities.change(write)

    async def _insert(self, statement: Any, conflict: RequestError) -> int:
        try:
            return await self._execute(statement)
        except IntegrityError:
            raise conflict from None


def _convert(payload: Any, kind: type[_Order]) -> _Order:
    try:
        return msgspec.convert({} if payload is None else payload, kind)
    except msgspec.ValidationError as error:
        # Its text names types and places, never a value.
        raise PayloadError(f"The payload is not what this takes: {error}") from None


def _require_owner(by: Caller, roles: Iterable[str]) -> None:
    if OWNER_ROLE in roles and not is_owner(by):
        raise PermissionDenied(
            f"Only who has the role {OWNER_ROLE!r} gives it, or changes a user who has it",
            started=False,
        )


def _roles(names: Iterable[str]) -> list[str]:
    return check_patterns(sorted({check_role(name) for name in names}), "roles")


def _targets(patterns: list[str]) -> list[str]:
    for pattern in check_patterns(patterns, "patterns of project/handler"):
        if pattern.count("/") != 1:
            raise PayloadError(f"{pattern!r} is no pattern of project/handler, such as ACME/*")
    return patterns


def _lifetime(seconds: float) -> timedelta:
    if not 0 < seconds <= LONGEST_TOKEN:
        raise PayloadError("A token is good for more than 0 seconds and at most 100 years")
    return timedelta(seconds=seconds)


def _mark(order: _CertificateAdd) -> tuple[str | None, str | None]:
    """Return the public key's hash or the name by which a certificate is known."""
    if [order.certificate, order.spki, order.san].count(None) != 2:
        raise PayloadError("It takes one of: a certificate, its SPKI, a name in it")
    if order.certificate is not None:
        try:
            return spki_of(x509.load_der_x509_certificate(order.certificate)), None
        except BAD_CERTIFICATE:
            raise PayloadError("The certificate cannot be read: give one in PEM or DER") from None
    if order.spki is not None:
        spki = order.spki.lower().replace(":", "")
        if len(spki) != 64 or set(spki) - set("0123456789abcdef"):
            raise PayloadError("An SPKI is the SHA-256 of the public key: 64 hex digits")
        return spki, None
    san = normal_san(order.san or "")
    kind, _, value = san.partition(":")
    if kind not in ("dns", "email", "uri") or not value or "*" in value:
        raise PayloadError(
            f"{san[:64]!r} is no name in a certificate: write dns:NAME, email:ADDRESS or uri:URI, "
            "without wildcards"
        )
    return None, check_patterns([san], "names")[0]


def _exists(name: str) -> PayloadError:
    return PayloadError(f"There is a user {name!r} already, perhaps written in another case")


def _not_found(kind: str, name: str) -> HandlerNotFound:
    return HandlerNotFound(
        f"There is no {kind} {name[:64]!r}. See: headgate {kind} list", started=False
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"


def _generation() -> int:
    return 1 + secrets.randbits(62)


def _now() -> datetime:
    return datetime.now(UTC)


def _user_row(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "roles": sorted(user.roles),
        "hosts": list(user.hosts),
        "password": user.password is not None,
        "created_at": user.created_at,
        "created_by": user.created_by,
        "changed_at": user.changed_at,
    }


def _token_row(token: Token, user: User, used_at: datetime | None) -> dict[str, Any]:
    return {
        "id": token.id,
        "user": user.name,
        "label": token.label,
        "roles": sorted(token.roles),
        "only": list(token.only),
        "hosts": list(token.hosts),
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "used_at": used_at,
        "revoked_at": token.revoked_at,
    }


def _certificate_row(certificate: Certificate, user: User) -> Mapping[str, Any]:
    return {
        "id": certificate.id,
        "user": user.name,
        "spki": certificate.spki,
        "san": certificate.san,
        "created_at": certificate.created_at,
        "created_by": certificate.created_by,
    }
