"""Users, API tokens and client certificates, as they stand in the database."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Row, select

from headgate.errors import PayloadError
from headgate.security.identity import ANONYMOUS
from headgate.security.patterns import folded
from headgate.store.tables import certificates, tokens, users

__all__ = [
    "Accounts",
    "Certificate",
    "Token",
    "User",
    "check_patterns",
    "check_role",
    "check_user_name",
]

RESERVED = frozenset({ANONYMOUS, "owner", "gateway"})
"""Names, compared without case, that no user can have."""

NAME_LENGTH = 64
"""Characters that the name of a user, a role or a token has at most."""

MOST_PATTERNS = 32
"""Roles, or patterns of one kind, that a user or a token has at most."""

PATTERN_LENGTH = 256
"""Characters that a pattern has at most."""

# A letter or digit of any script first; no ":" and "/", no wildcard, no control character.
_USER_NAME = re.compile(r"[^\W_](?:[\w.@+ -]*[\w.+-])?")
_ROLE = re.compile(r"[^\W_][\w.-]*")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in."""

    id: int
    name: str
    password: str | None = msgspec.field(default=None)
    """An Argon2id hash; None for a user without a password."""
    roles: frozenset[str]
    hosts: tuple[str, ...]
    """Patterns of host names that are verified when a session of the user claims them."""
    generation: int
    """A random number; what was opened under another one is over."""
    created_at: datetime
    created_by: str
    changed_at: datetime

    def __repr__(self) -> str:
        return f"User({self.name!r})"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a program logs in with instead of a password."""

    id: str
    user: str
    """The user's key."""
    label: str
    """What it is for."""
    secret: bytes
    """The SHA-256 of the secret."""
    roles: frozenset[str]
    """Of the user's roles, those that it gives; empty for all."""
    only: tuple[str, ...]
    """Patterns of ``project/handler`` to which it is narrowed; empty for no such limit."""
    hosts: tuple[str, ...]
    """Patterns of host names that are verified when a session of the token claims them."""
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None

    def __repr__(self) -> str:
        return f"Token({self.id!r})"


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a client certificate is, by one mark of it."""

    id: int
    user: str
    """The user's key."""
    spki: str | None
    """The SHA-256 of its public key (SubjectPublicKeyInfo) in hex digits."""
    san: str | None
    """A name in it, as ``dns:…``, ``email:…`` or ``uri:…``."""
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class Accounts:
    """All of them, at one moment."""

    users: Mapping[str, User] = field(default_factory=dict)
    """By key."""
    tokens: Mapping[str, Token] = field(default_factory=dict)
    """By id; revoked and expired ones too."""
    certificates: Mapping[int, Certificate] = field(default_factory=dict)
    """By id."""
    marks: Mapping[str, Certificate] = field(default_factory=dict)
    """By ``spki:…`` or by the name in it."""

    @classmethod
    def read(cls, connection: Connection) -> Accounts:
        """Read them in a transaction."""
        rows = connection.execute(select(users)).all()
        keys = {row.id: row.key for row in rows}
        owned = [_certificate(row, keys) for row in connection.execute(select(certificates))]
        return cls(
            users={row.key: _user(row) for row in rows},
            tokens={row.id: _token(row, keys) for row in connection.execute(select(tokens))},
            certificates={each.id: each for each in owned},
            marks={each.san or f"spki:{each.spki}": each for each in owned},
        )


def check_user_name(name: str) -> str:
    """
    Return a user's name in its normal form.

    It has letters and digits of any script and ``. _ - + @`` and spaces inside, and begins with a
    letter or digit.

    Raises:
        PayloadError: It is no name for a user, or it is reserved.
    """
    name = unicodedata.normalize("NFC", name)
    if len(name) > NAME_LENGTH or not _USER_NAME.fullmatch(name):
        raise PayloadError(
            f"{name[:NAME_LENGTH]!r} is no name for a user: 1 to {NAME_LENGTH} letters, digits and "
            "any of . _ - + @ or spaces inside, a letter or digit first"
        )
    if folded(name) in RESERVED:
        raise PayloadError(f"The name {name!r} is reserved: choose another one")
    return name


def check_role(role: str) -> str:
    """
    Return a role's name in its normal form; it has letters, digits and ``. _ -``.

    Raises:
        PayloadError: It is no name for a role.
    """
    role = unicodedata.normalize("NFC", role)
    if len(role) > NAME_LENGTH or not _ROLE.fullmatch(role):
        raise PayloadError(
            f"{role[:NAME_LENGTH]!r} is no name for a role: 1 to {NAME_LENGTH} letters, digits and "
            "any of . _ - with a letter or digit first; role@gateway is for rules, not for users"
        )
    return role


def check_patterns(patterns: list[str], what: str) -> list[str]:
    """
    Return patterns as they are.

    Raises:
        PayloadError: There are too many, or one is empty, too long or holds control characters.
    """
    if len(patterns) > MOST_PATTERNS:
        raise PayloadError(f"{len(patterns)} {what}: there can be {MOST_PATTERNS}")
    for pattern in patterns:
        if not 0 < len(pattern) <= PATTERN_LENGTH or not pattern.isprintable():
            raise PayloadError(
                f"{pattern[:NAME_LENGTH]!r} is none of the {what}: 1 to {PATTERN_LENGTH} printable "
                "characters"
            )
    return patterns


def _user(row: Row[tuple[object, ...]]) -> User:
    return User(
        id=row.id,
        name=row.name,
        password=row.password,
        roles=frozenset(row.roles),
        hosts=tuple(row.hosts),
        generation=row.generation,
        created_at=row.created_at,
        created_by=row.created_by,
        changed_at=row.changed_at,
    )


def _token(row: Row[tuple[object, ...]], keys: Mapping[int, str]) -> Token:
    return Token(
        id=row.id,
        user=keys[row.user_id],
        label=row.label,
        secret=row.secret,
        roles=frozenset(row.roles),
        only=tuple(row.only),
        hosts=tuple(row.hosts),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )


def _certificate(row: Row[tuple[object, ...]], keys: Mapping[int, str]) -> Certificate:
    return Certificate(
        id=row.id,
        user=keys[row.user_id],
        spki=row.spki,
        san=row.san,
        created_at=row.created_at,
        created_by=row.created_by,
    )
