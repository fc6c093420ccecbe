"""Engines for the gateway's database, with all that is special to SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["in_transaction", "reading_engine", "writing_engine"]

BUSY_SECONDS = 5
"""How long to wait for another program that holds the database, such as a backup."""


def writing_engine(file: Path) -> Engine:
    """Connect to the database in `file`, which is made if need be, to read and write."""
    pragmas = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON")
    # Locked at once: a transaction that first reads and then writes can fail in between.
    return _engine(file, pragmas, begin="BEGIN IMMEDIATE")


def reading_engine(file: Path) -> Engine:
    """Connect to the database in `file` to read; writing through it is an error."""
    return _engine(file, ("PRAGMA query_only = ON",), begin="BEGIN")


def in_transaction(connection: Connection) -> bool:
    """
    Tell whether the connection's transaction still exists in the database.

    SQLite rolls all of it back by itself on some errors, such as a full disk.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.in_transaction


def _engine(file: Path, pragmas: Sequence[str], *, begin: str) -> Engine:
    url = URL.create("sqlite+pysqlite", database=str(file))
    # Values may be secrets, and errors end in logs.
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # None: the driver begins no transactions of its own, which would break SAVEPOINT.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma).close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
