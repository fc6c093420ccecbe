"""The gateway's database, as the gateway uses it."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from headgate import __version__
from headgate.errors import ConfigurationError
from headgate.store.engine import reading_engine, writing_engine
from headgate.store.lock import FolderLock
from headgate.store.schema import prepare
from headgate.store.tables import boots, node
from headgate.store.writer import Writer

__all__ = ["Store", "read_folder"]

T = TypeVar("T")

logger = logging.getLogger("headgate.store")

FILE_NAME = "headgate.db"
"""Name of the database in the data folder."""

READERS = 2
"""Threads that read, beside the one that writes."""

BOOTS_KEPT = 1_000
"""Boots that are remembered, the last ones."""


class Store:
    """
    The gateway's database in its data folder.

    A function that is given to `write` or `read` gets a SQLAlchemy connection inside a
    transaction. It neither commits nor rolls back itself, never waits for another write or read,
    and returns plain values: a `Result` cannot be read any more once the transaction is over.
    In asyncio code, await the future through `asyncio.wrap_future`.

    Args:
        folder: The gateway's own folder; it is made, for this user alone, if it is not there.
    """

    folder: Path
    """Where the database is."""

    node_id: int
    """The node's number, 1 to 2**32 - 1, drawn when the database was made; known once open."""

    boot: int
    """How often the database was opened, this time included; known once open."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self._open: ExitStack | None = None

    def open(self) -> None:
        """
        Open the database: make it or bring it up to date, and count this boot.

        Raises:
            ConfigurationError: Another process holds the folder, it cannot be written, or the
                database is damaged, of another program or of a later release.
        """
        if self._open is not None:
            raise RuntimeError("The store is open already")
        with ExitStack() as stack, _explained(self.folder):
            self._take(stack)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Finish what waits and close the database; again is fine."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def warn(self) -> None:
        """Log that others can read or write the folder or the database; POSIX alone tells."""
        for path, mode in (self.folder, 0o700), (self.folder / FILE_NAME, 0o600):
            if os.name == "posix" and (found := stat.S_IMODE(path.stat().st_mode)) & 0o077:
                logger.warning(
                    "Others on this machine can get at %s, its mode is %03o: chmod %o %s",
                    *(path, found, mode, path),
                )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """How many functions wait to be written."""
        return self._writer.waiting if self._open else 0

    def write(self, function: Callable[[Connection], T]) -> Future[T]:
        """
        Run a function that writes.

        Functions run one after the other in the order of the calls, each all or nothing.

        Returns:
            What the function returned or raised, once it is on the disk. Cancelling it before the
            function began withdraws the function.

        Raises:
            Overloaded: Too many functions wait.
            RuntimeError: The store is not open.
        """
        self._check_open()
        return self._writer.submit(function)

    def read(self, function: Callable[[Connection], T]) -> Future[T]:
        """
        Run a function that only reads; it sees every write whose future is done.

        Returns:
            What the function returned or raised.

        Raises:
            RuntimeError: The store is not open.
        """
        self._check_open()
        return self._readers.submit(self._run_read, function)

    def _check_open(self) -> None:
        if self._open is None:
            raise RuntimeError("The store is not open")

    def _run_read(self, function: Callable[[Connection], T]) -> T:
        with self._reading.begin() as connection:
            return function(connection)

    def _take(self, stack: ExitStack) -> None:
        """Take lock, engines and threads; the stack gives them back in reverse."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.callback(FolderLock(self.folder).release)
        file = self.folder / FILE_NAME
        file.touch(mode=0o600)
        writing = writing_engine(file)
        stack.callback(writing.dispose)
        with writing.begin() as connection:
            prepare(connection)
            self.node_id = _node_id(connection)
            self.boot = _count_boot(connection)
        self._reading = reading_engine(file)
        stack.callback(self._reading.dispose)
        self._writer = Writer(writing)
        stack.callback(self._writer.close)
        self._readers = stack.enter_context(ThreadPoolExecutor(READERS, "headgate-store-read"))


def read_folder(folder: Path, function: Callable[[Connection], T]) -> T | None:
    """
    Read the database of a data folder, also while a gateway runs on it.

    Args:
        folder: The data folder.
        function: Reads, as in `Store.read`; the tables may be those of an older release.

    Returns:
        What the function returned; None if there is no database.

    Raises:
        ConfigurationError: The database cannot be read.
    """
    file = folder / FILE_NAME
    with _explained(folder):
        if not file.exists():
            return None
        engine = reading_engine(file)
        try:
            with engine.begin() as connection:
                return function(connection)
        finally:
            engine.dispose()


def _node_id(connection: Connection) -> int:
    known: int | None = connection.scalar(select(node.c.id))
    if known is not None:
        return known
    drawn = 1 + secrets.randbelow(2**32 - 1)
    connection.execute(insert(node).values(id=drawn, created_at=datetime.now(UTC)))
    return drawn


def _count_boot(connection: Connection) -> int:
    number: int = 1 + (connection.scalar(select(func.max(boots.c.number))) or 0)
    row = {"number": number, "started_at": datetime.now(UTC), "version": __version__}
    connection.execute(insert(boots).values(row))
    connection.execute(delete(boots).where(boots.c.number <= number - BOOTS_KEPT))
    return number


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say in the user's words why the database cannot be opened."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The data folder cannot be used: {error.strerror}",
            cure="Let this user write it, or choose another folder with --data",
            file=str(error.filename or folder),
        ) from error
    except OperationalError as error:
        raise ConfigurationError(
            f"The database cannot be used: {error.orig}",
            cure="Let this user write it and end other programs that hold it",
            file=str(folder / FILE_NAME),
        ) from error
    except DatabaseError as error:
        raise ConfigurationError(
            f"The database is damaged: {error.orig}",
            cure="Put a backup in its place, or move it away: then the next start makes a new one",
            file=str(folder / FILE_NAME),
        ) from error
