"""The worker processes of a project: who is there, and how many there are to be."""

from __future__ import annotations

from collections.abc import Iterator

from headgate.handler import PoolSettings
from headgate.runtimes.workers import Given, Worker

__all__ = ["Roster"]

MOST_WAITING = 4
"""Workers there are at most, with those that wait, for each that `PoolSettings` names."""


class Roster:
    """The workers of a project; it belongs to the gateway's event loop."""

    def __init__(self) -> None:
        self.pools = PoolSettings()
        """How many there are to be, and for how long."""
        self.workers: list[Worker] = []
        """Those that may be given something to run."""
        self.leaving: list[Worker] = []
        """Those that end what they run, and then themselves, or were killed."""
        self.lent = 0
        """How many runs are given up and hold their workers still."""
        self.closed = False
        """Whether nothing is to be run any more."""

    def __iter__(self) -> Iterator[Worker]:
        return iter((*self.workers, *self.leaving))

    @property
    def most(self) -> int:
        """How many may be there."""
        return self.pools.workers * MOST_WAITING

    @property
    def standing(self) -> int:
        """How many places are held by what does not run on: it waits, or was given up."""
        return self.lent + sum(worker.waits for worker in self.workers)

    def heads(self) -> Iterator[tuple[Worker, Given]]:
        """Give what runs at this moment, waiting handlers included."""
        for worker in self:
            head = worker.head
            if head is not None:
                yield worker, head

    def behind(self) -> Iterator[Given]:
        """Give what stands behind that."""
        for worker in self:
            yield from list(worker.given.values())[1:]

    def dismiss(self, worker: Worker) -> None:
        """Give a worker nothing new."""
        if not worker.leaving:
            worker.leaving = True
            self.workers.remove(worker)
            self.leaving.append(worker)

    def strike(self, worker: Worker) -> None:
        """Take off a worker that is dead."""
        (self.leaving if worker in self.leaving else self.workers).remove(worker)
