"""Brings a database to this program's schema."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DatabaseError

from headgate import __version__
from headgate.errors import ConfigurationError
from headgate.store.tables import boots

__all__ = ["REVISIONS", "prepare"]

REVISIONS = ("0001", "0002", "0003")
"""Every revision in `migrations/versions`, oldest first; the last is this program's schema."""


def prepare(connection: Connection) -> None:
    """
    Make the tables of a new database, bring those of an older one up to date.

    Alembic is imported only where there is something to do: it takes longer than opening.

    Raises:
        ConfigurationError: The database belongs to a later release, or to another program.
    """
    names = inspect(connection).get_table_names()
    revision = _revision(connection) if "alembic_version" in names else None
    if revision == REVISIONS[-1]:
        return
    if revision is None and names:
        raise _wrong(connection, "This is the database of another program")
    if revision is not None and revision not in REVISIONS:
        raise _wrong(connection, _written_later(connection, revision))
    _upgrade(connection)


def _revision(connection: Connection) -> str | None:
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "headgate.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _written_later(connection: Connection, revision: str) -> str:
    latest = select(boots.c.version).order_by(boots.c.number.desc()).limit(1)
    try:
        version = connection.scalar(latest) or "a later release"
    except DatabaseError:
        version = "a later release"
    return (
        f"The database was last used by Headgate {version} with the schema {revision!r}, "
        f"which this Headgate {__version__} does not know"
    )


def _wrong(connection: Connection, problem: str) -> ConfigurationError:
    return ConfigurationError(
        problem,
        cure="Start the Headgate that it belongs to, or use another folder with --data",
        file=str(connection.engine.url.database),
    )
