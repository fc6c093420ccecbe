"""The one thread that writes to the database, many functions to a commit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine

from headgate.errors import Overloaded
from headgate.store.engine import in_transaction

__all__ = ["MAX_GROUP", "MAX_WAITING", "Writer"]

T = TypeVar("T")

MAX_WAITING = 10_000
"""Functions that may wait; one more is refused."""

MAX_GROUP = 500
"""Functions in one transaction, so that the first of them does not wait for ever."""


class Writer:
    """
    Runs functions against the database on one thread, in the order in which they came.

    Functions that wait together share one transaction and so one fsync. Each has a savepoint of
    its own: one that raises undoes only what it did itself.

    Args:
        engine: Where to write; every connection of it is taken by the writer's thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: SimpleQueue[_Write[Any] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="headgate-store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many functions wait for the thread."""
        return self._queue.qsize()

    def submit(self, function: Callable[[Connection], T]) -> Future[T]:
        """
        Queue a function; its future is done after the commit.

        Raises:
            Overloaded: `MAX_WAITING` functions wait already.
            RuntimeError: The writer is closed.
        """
        write = _Write(function, Future())
        with self._gate:
            if self._closed:
                raise RuntimeError("The store is closed")
            if self.waiting >= MAX_WAITING:
                raise Overloaded(f"The store has {MAX_WAITING:,} writes waiting", started=False)
            self._queue.put(write)
        return write.future

    def close(self) -> None:
        """Take no more functions, finish those that wait, end the thread."""
        with self._gate:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit([write for write in group if write.begins()])
            del group  # so that its results are not kept until the next one comes

    def _next_group(self) -> list[_Write[Any]]:
        """Wait for a function, then take those behind it; empty once the writer is closed."""
        group: list[_Write[Any]] = []
        write = self._queue.get()
        while write is not None:
            group.append(write)
            if len(group) == MAX_GROUP:
                return group
            try:
                write = self._queue.get_nowait()
            except Empty:
                return group
        if group:
            self._queue.put(None)
        return group

    def _commit(self, group: list[_Write[Any]]) -> None:
        try:
            with self._engine.begin() as connection:
                finish = [write.run(connection) for write in group]
        except BaseException as error:
            # Nothing of the transaction is in the database, whoever's fault it was.
            finish = [partial(write.future.set_exception, error) for write in group]
        for tell in finish:
            tell()


@dataclass(frozen=True, slots=True)
class _Write(Generic[T]):
    function: Callable[[Connection], T]
    future: Future[T]

    def begins(self) -> bool:
        """Tell whether the function is still wanted; from here on it cannot be cancelled."""
        return self.future.set_running_or_notify_cancel()

    def run(self, connection: Connection) -> Callable[[], None]:
        """
        Run the function in a savepoint.

        Returns:
            What tells the future how it went, to be called after the commit.
        """
        try:
            with connection.begin_nested():
                value = self.function(connection)
        except BaseException as error:
            if not in_transaction(connection):
                raise
            return partial(self.future.set_exception, error)
        return partial(self.future.set_result, value)
