"""How worker processes come and go: as many as are needed, none too old, too large or dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from headgate.errors import CancellationException, HandlerKilled
from headgate.handler import PoolSettings
from headgate.invocation import UNLIMITED, Invocation
from headgate.outcome import Failure
from headgate.runtimes.forkserver import ForkServer, WorkerProcess, ended_by
from headgate.runtimes.gate import Finished
from headgate.runtimes.link import WorkerCode
from headgate.runtimes.roster import Roster
from headgate.runtimes.staging import Staging
from headgate.runtimes.supply import Supply
from headgate.runtimes.workers import Given, Listener, Worker
from headgate.threads import Mailbox

__all__ = ["Upkeep"]

logger = logging.getLogger("headgate.runtimes")

RELEASE_SECONDS = 2.0
"""Seconds that a worker has to end by itself."""

CALLS_SECONDS = 60.0
"""Seconds for which a worker that is to end waits for the answers to its open requests."""

LOOK_SECONDS = 0.1
"""Seconds between two looks at them."""

HEARD = 64
"""Pieces of what a worker has said that are looked at for the end of a run before it is killed."""

SPARE_SECONDS = 5.0
"""Seconds for which workers are kept that stood in for those that waited."""


class Upkeep:
    """
    Has workers made, ahead of need, and lets them end; it belongs to the gateway's event loop.

    Args:
        project: Name of the project.
        roster: The workers.
        staging: What they have been given, and what waits for one.
        ends: Takes ends to the gateway's event loop.
        loop: The gateway's event loop.
        forkserver: Gives the gateway's fork server; another one when that has died.
        listener: Takes what workers send.
    """

    def __init__(
        self,
        project: str,
        roster: Roster,
        staging: Staging,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        forkserver: Callable[[], ForkServer],
        listener: Listener,
    ) -> None:
        self._project = project
        self._roster = roster
        self._staging = staging
        self._ends = ends
        self._loop = loop
        self._listener = listener
        self._supply = Supply(
            project, loop=loop, forkserver=forkserver, take=self._join, after=self._supplied
        )
        self._trimming = False
        self._ageing: asyncio.TimerHandle | None = None

    def exchange(
        self,
        code: WorkerCode | None,
        first: WorkerProcess | None = None,
        pools: PoolSettings | None = None,
    ) -> None:
        """Have workers of a newer generation, as `ProcessLane.exchange` says."""
        roster = self._roster
        roster.pools = pools or roster.pools
        if code != self._supply.code or first is not None:
            self._supply.exchange(code)
            for worker in list(roster.workers):
                self._retire(worker)
        if first is not None and code is not None:
            self._add(first, code)
        self.refill()
        self._staging.serve_soon()
        self._watch_age()

    def close(self) -> None:
        """Kill all workers, and make none any more; what they run ends as stopped."""
        roster = self._roster
        roster.closed = True
        self._supply.close()
        if self._ageing is not None:
            self._ageing.cancel()
        for worker in roster:
            self._staging.revoke(worker)
            worker.kill()
            self._end_runs(worker, lambda given: _stopped(given.invocation))
            worker.close()
        roster.workers, roster.leaving = [], []
        self._staging.lines.clear()
        self._ends.wake()

    # --- as many as are needed -------------------------------------------------------------------

    def refill(self) -> None:
        """Have as many workers made as are missing."""
        roster, staging = self._roster, self._staging
        wanted = roster.pools.workers
        if any(staging.may_spread(gate) for gate in staging.lines):
            wanted = min(roster.most, wanted + roster.standing)
        wanted += any(worker.worn for worker in roster.workers)
        self._supply.order(wanted - len(roster.workers) - self._supply.making)

    def give_up(self) -> None:
        """End what waits if there is nobody to run it, and nobody likely to come."""
        if self._roster.workers or not self._supply.fails:
            return
        for invocation, gate in self._staging.take_all():
            text = f"{invocation.target} has no worker process to run in: {self._supply.why}"
            self._ends.put((invocation, gate, Failure(HandlerKilled(text, started=False))))
        self._ends.wake()

    def _supplied(self) -> None:
        """Go on after a worker was made, or could not be made."""
        if self._roster.closed:
            return
        self.give_up()
        self.refill()
        self._staging.serve_soon()

    def _join(self, process: WorkerProcess, code: WorkerCode) -> None:
        """Let a new worker take the place that it was made for."""
        self._add(process, code)
        self._trim(worn=True)
        self._watch_age()

    def _add(self, process: WorkerProcess, code: WorkerCode) -> None:
        worker = Worker(process, code, loop=self._loop, listener=self._listener)
        self._roster.workers.append(worker)
        early, process.early = process.early, []
        for frame in early:
            self._listener.take_frame(worker, frame)
        worker.listen()
        process.when_dead(partial(self._post_death, worker))

    # --- none that nobody needs ------------------------------------------------------------------

    def after_runs(self, worker: Worker) -> None:
        """See whether a worker that has ended runs is still of use."""
        self._supply.prove()
        self._wear(worker)
        roster = self._roster
        if worker.given:
            return
        if worker.leaving:
            self._release_soon(worker)
        elif worker.worn or len(roster.workers) > roster.pools.workers:
            self._trim(worn=True)
            if not self._trimming:
                self._trimming = True
                self._loop.call_later(SPARE_SECONDS, self._trim_late)

    def _wear(self, worker: Worker) -> None:
        """See after a run whether a worker holds too much."""
        limit = self._roster.pools.worker_memory
        if limit is not None and not (worker.worn or worker.leaving) and worker.exceeds(limit):
            worker.worn = True
            self.refill()

    def _watch_age(self) -> None:
        """See that workers are replaced when they are old."""
        age = self._roster.pools.worker_age
        if self._ageing is not None:
            self._ageing.cancel()
            self._ageing = None
        born = [worker.process.born for worker in self._roster.workers if not worker.worn]
        if age is not None and born and not self._roster.closed:
            due = max(0.001, min(born) + age - monotonic())
            self._ageing = self._loop.call_later(due, self._age)

    def _age(self) -> None:
        self._ageing = None
        age = self._roster.pools.worker_age or 0.0
        for worker in self._roster.workers:
            worker.worn |= monotonic() - worker.process.born >= age
        self.refill()
        self._watch_age()

    def _trim(self, *, worn: bool = False) -> None:
        """Let workers end that nobody needs, worn ones first."""
        roster = self._roster
        spare = len(roster.workers) - roster.pools.workers - roster.standing
        idle = [worker for worker in roster.workers if not worker.given]
        idle.sort(key=lambda worker: not worker.worn)
        for worker in idle[: max(0, spare)]:
            if worker.worn or not worn:
                self._retire(worker)
        self.refill()

    def _trim_late(self) -> None:
        self._trimming = False
        self._trim()

    def _retire(self, worker: Worker) -> None:
        """Let a worker end what it runs, and then itself."""
        self._roster.dismiss(worker)
        self._staging.revoke(worker)
        if not worker.given:
            self._release_soon(worker)

    def _release_soon(self, worker: Worker) -> None:
        """Let a worker end by itself as soon as its open requests are answered."""
        if worker.killed is None:
            self._release(worker, monotonic() + CALLS_SECONDS)

    def _release(self, worker: Worker, latest: float) -> None:
        if worker.calls and monotonic() < latest and not self._roster.closed:
            self._loop.call_later(LOOK_SECONDS, self._release, worker, latest)
        elif worker in self._roster.leaving:
            worker.release()
            self._loop.call_later(RELEASE_SECONDS, worker.process.kill)

    # --- killed and dead ones --------------------------------------------------------------------

    def stop(self, worker: Worker, invocation: Invocation) -> None:
        """Kill a worker for a run that nobody waits for any more."""
        self.kill(worker, invocation, _stopped(invocation))

    def kill(self, worker: Worker, invocation: Invocation, outcome: Failure) -> None:
        """Kill a worker for a run, which ends like this, and let another take its place."""
        # First what it has not begun. After that it begins nothing else, and what it has begun
        # meanwhile shows by the end of this run, which came before.
        self._staging.revoke(worker)
        self.hear(worker, invocation)
        if invocation not in self._staging.at:
            return
        if worker.killed is None:
            worker.killed = outcome
        self.drop(worker)

    def drop(self, worker: Worker) -> None:
        """Kill a worker, and let another take its place."""
        self._roster.dismiss(worker)
        worker.kill()
        self.refill()

    def hear(self, worker: Worker, invocation: Invocation) -> None:
        """Take what a worker has said already, up to the end of a run."""
        for _ in range(HEARD):
            if invocation not in self._staging.at or not worker.read():
                break
        self._ends.wake()

    def _post_death(self, worker: Worker, status: int) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._died, worker, status)

    def _died(self, worker: Worker, status: int) -> None:
        """Take note of a worker's death, after all that it has said."""
        roster = self._roster
        if worker not in roster:
            return
        worker.hush()
        while worker.read():
            pass
        expected, ran = worker.leaving, bool(worker.given)
        roster.strike(worker)
        worker.leaving = True
        self._staging.revoke(worker)
        self._end_runs(worker, lambda given: _killed(given, worker.process.pid, status))
        for nested in worker.calls.values():
            # What its handlers had left behind goes on, and nobody reads what it yields.
            nested.grant(UNLIMITED)
        worker.close()
        if not expected:
            self._bury(worker, ended_by(status), ran=ran)
        self._ends.drain()
        self.refill()
        self._staging.serve_soon()

    def _end_runs(self, worker: Worker, outcome: Callable[[Given], Failure]) -> None:
        """End what a worker has begun: as it was killed for, if it was, else like this."""
        for given in worker.given.values():
            self._staging.end(worker, given, worker.killed or outcome(given))
        worker.given.clear()

    def _bury(self, worker: Worker, how: str, *, ran: bool) -> None:
        """Tell of a death that nobody had wanted; who died at once is no good sign."""
        pid = worker.process.pid
        logger.warning("project %r: the worker %d has died: %s", self._project, pid, how)
        if not worker.useful and not ran and self._supply.code is worker.code:
            self._supply.fail(f"The worker process {pid} died at once ({how})")


def _stopped(invocation: Invocation) -> Failure:
    text = f"The worker process of {invocation.target} was stopped"
    return Failure(CancellationException(text, started=True))


def _killed(given: Given, pid: int, status: int) -> Failure:
    text = f"The worker process {pid} died while it ran {given.invocation.target}: "
    return Failure(HandlerKilled(text + ended_by(status), started=True))
