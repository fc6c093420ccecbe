"""Looks at what worker processes run: whether it has begun, takes long, or holds too much."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from headgate.errors import HandlerKilled
from headgate.outcome import Failure
from headgate.runtimes.gate import Gate
from headgate.runtimes.roster import Roster
from headgate.runtimes.running import cpu_seconds_of
from headgate.runtimes.staging import STAGED_SECONDS, Staging
from headgate.runtimes.upkeep import Upkeep
from headgate.runtimes.workers import Given, Worker

__all__ = ["Patrol"]

logger = logging.getLogger("headgate.runtimes")

MEMORY_SECONDS = 0.05
"""Seconds between two looks at the memory of runs with a limit."""

STUCK_SECONDS = 3.0
"""Seconds in which a worker begins what it was given; one that does not is of no use any more."""


class Patrol:
    """
    Goes round while there is something to look at; it belongs to the gateway's event loop.

    Args:
        project: Name of the project.
        roster: The workers.
        staging: Takes back what they have not begun.
        upkeep: Kills those that must be.
        loop: The gateway's event loop.
    """

    def __init__(
        self,
        project: str,
        roster: Roster,
        staging: Staging,
        upkeep: Upkeep,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._project = project
        self._roster = roster
        self._staging = staging
        self._upkeep = upkeep
        self._loop = loop
        self._looks = False
        self._measures = False

    # --- begun runs, and what stands behind them -------------------------------------------------

    def look_soon(self) -> None:
        """Look when runs that were given just now should have ended."""
        if not self._looks:
            self._looks = True
            self._loop.call_later(STAGED_SECONDS, self._look)

    def _look(self) -> None:
        """Take back what stands behind a run that takes long, and note which runs have begun."""
        self._looks, now, again = False, monotonic(), False
        for worker, head in list(self._roster.heads()):
            if now - worker.since < STAGED_SECONDS:
                again = True
                continue
            if len(worker.given) > 1:
                self._staging.revoke(worker)
                worker.doubted = worker.head is not head
                if not worker.doubted:
                    self._staging.learn_pace(head.gate, now - worker.since)
            if worker.head is head and not head.invocation.started_at:
                if worker.has_begun_all():
                    head.invocation.started_at = worker.since
                    worker.cpu_before = cpu_seconds_of(worker.process.pid) or 0.0
                elif now - worker.since < STUCK_SECONDS:
                    again = True
                else:
                    self._part_with(worker)
        if again and not self._roster.closed:
            self.look_soon()

    def _part_with(self, worker: Worker) -> None:
        """Kill a worker that does not begin what it was given; another one is to run that."""
        self._staging.revoke(worker)
        if worker.given:
            # It has begun in the last moment.
            return
        text = "project %r: the worker %d is killed, for it began nothing for %g s"
        logger.error(text, self._project, worker.process.pid, STUCK_SECONDS)
        self._upkeep.drop(worker)

    # --- memory ----------------------------------------------------------------------------------

    def measure_soon(self, gate: Gate) -> None:
        """Look soon at the memory of a run of this handler, if that has a limit."""
        if gate.handler.settings.memory is not None and not self._measures:
            self._measures = True
            self._loop.call_later(MEMORY_SECONDS, self._measure)

    def _measure(self) -> None:
        """Kill what holds more memory than its handler may."""
        self._measures = False
        for worker, head in list(self._roster.heads()):
            limit = head.gate.handler.settings.memory
            if limit is None or worker.killed is not None:
                continue
            if worker.exceeds(limit):
                text = _too_large(head, worker.process.pid, limit)
                self._upkeep.kill(worker, head.invocation, text)
            else:
                self.measure_soon(head.gate)


def _too_large(given: Given, pid: int, limit: int) -> Failure:
    text = f"The worker process {pid} was killed while it ran {given.invocation.target}: it used "
    return Failure(HandlerKilled(f"{text}more than memory={limit} MiB", started=True))
