"""The tables of the gateway's database."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

__all__ = [
    "UtcDateTime",
    "boots",
    "certificates",
    "keys",
    "metadata",
    "node",
    "tokens",
    "users",
]


class UtcDateTime(TypeDecorator[datetime]):
    """
    A moment, aware and in UTC on both sides of the database.

    SQLite keeps no offsets, so a naive datetime is refused instead of guessed at.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware datetime into UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a naive datetime cannot be stored: {value!r}; give it a zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give what was stored its zone back."""
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table; constraints are named, so that a later revision can change them on SQLite too."""

node = Table(
    "node",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""One row: the node's id, 32 bits unsigned, drawn when the database was made."""

boots = Table(
    "boots",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("version", String, nullable=False),
)
"""The latest opens of the database, by which version of Headgate."""

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("password", String),
    Column("roles", JSON, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    UniqueConstraint("key"),
    sqlite_autoincrement=True,
)
"""
Who may log in. The key is the name without its case. The password is an Argon2id hash or nothing,
the generation a random number that is drawn anew to end what was opened before.
"""

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("label", String, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("only", JSON, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)
"""API tokens; of the secret only its SHA-256 is kept."""

certificates = Table(
    "certificates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("spki", String),
    Column("san", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String, nullable=False),
    UniqueConstraint("spki"),
    UniqueConstraint("san"),
    CheckConstraint("(spki IS NULL) <> (san IS NULL)", name="one_mark"),
    sqlite_autoincrement=True,
)
"""
Which client certificates are whose: by the SHA-256 of the public key, or by a name in it.

No id is used twice: a session or a ticket that rests on one that was removed stays over.
"""

keys = Table(
    "keys",
    metadata,
    Column("name", String, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""The gateway's own secrets, such as the one under which session tickets are sealed."""
