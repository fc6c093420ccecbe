"""The lane of worker processes that run the handlers of a project, each one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

from headgate.handler import PoolSettings
from headgate.invocation import Invocation
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.gate import Finished, Gate
from headgate.runtimes.hearing import Hearing, Host
from headgate.runtimes.link import WorkerCode
from headgate.runtimes.patrol import Patrol
from headgate.runtimes.roster import Roster
from headgate.runtimes.running import HandlerThread, Run, WorkerRow, memory_of
from headgate.runtimes.staging import Staging
from headgate.runtimes.upkeep import Upkeep
from headgate.runtimes.workers import Worker, WorkerRun
from headgate.threads import Mailbox

__all__ = ["INTERRUPT_SECONDS", "ProcessLane"]

INTERRUPT_SECONDS = 1.0
"""Seconds that an interrupted handler has to end before its worker is killed."""

CLOSING_SECONDS = 0.2
"""Seconds that a generator has to be closed before its worker is killed."""

CLOSE_SECONDS = 2.0
"""Seconds that closing may wait for the event loop."""


class ProcessLane:
    """
    The lane of a project's process handlers.

    `Staging` says which worker runs what: one at a time, and while handlers are quick some are
    given ahead. `Upkeep` has workers made and lets them end, `Patrol` looks at what they run, and
    `Hearing` takes what they say; all four know who is there from the `Roster`.

    Everything happens on the gateway's event loop, but `close`. Workers are made and loaded on
    threads, ahead of need: the place of one that dies is taken at once.

    Args:
        project: Name of the project.
        ends: Takes ends and progress to the gateway's event loop.
        loop: The gateway's event loop.
        on_wait: Told which request of its own a handler now waits for.
        forkserver: Gives the gateway's fork server; another one when that has died.
        host: Answers the requests of handlers.
    """

    has_threads = False
    has_backlog = False

    def __init__(
        self,
        project: str,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
        forkserver: Callable[[], ForkServer],
        host: Host,
    ) -> None:
        self._loop = loop
        self._on_wait = on_wait
        self._roster = roster = Roster()
        self._staging = staging = Staging(
            roster, ends=ends, loop=loop, gave=self._gave, left=self._left
        )
        hearing = Hearing(project, staging, ends=ends, host=host, ran=self._ran, waits=self._waits)
        self._upkeep = Upkeep(
            project,
            roster,
            staging,
            ends=ends,
            loop=loop,
            forkserver=forkserver,
            listener=hearing,
        )
        self._patrol = Patrol(project, roster, staging, self._upkeep, loop=loop)

    # --- the lane --------------------------------------------------------------------------------

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""
        self._staging.put(invocation, gate)

    def refill(self) -> None:
        """Nothing waits behind the queues."""

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        return self._staging.remove(invocation)

    def interrupt(self, invocation: Invocation) -> bool:
        """Stop what runs an invocation, as its handler's settings say."""
        place = self._staging.at.get(invocation)
        if place is not None:
            # It may have ended a moment ago, and nobody is to be killed for that.
            self._upkeep.hear(place[0], invocation)
            place = self._staging.at.get(invocation)
        if place is None:
            return True
        worker, number = place
        gate = worker.given[number].gate
        mode = gate.handler.settings.on_timeout or "kill"
        if mode == "kill" and not gate.handler.signature.streams:
            self._upkeep.stop(worker, invocation)
            return True
        worker.stop(number)
        if mode == "kill":
            # To leave a stream early is nothing unusual, and most stand in their `yield` then.
            self._loop.call_later(CLOSING_SECONDS, self._kill_late, worker, invocation)
            return True
        if mode == "interrupt":
            worker.interrupted = invocation
            worker.interrupt()
            self._loop.call_later(INTERRUPT_SECONDS, self._kill_late, worker, invocation)
        return mode == "interrupt"

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""
        place = self._staging.at.get(invocation)
        if place is not None:
            head = place[0].head
            return [head.invocation] if head and head.invocation is not invocation else []
        gate = invocation.place
        if isinstance(gate, Gate) and not self._staging.may_spread(gate):
            heads = self._roster.heads()
            return [head.invocation for worker, head in heads if gate in worker.gates]
        everyone = self._roster.workers
        is_full = len(everyone) >= self._roster.most
        is_stuck = is_full and all(worker.waits for worker in everyone)
        return self.running if is_stuck else []

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment, waiting handlers included."""
        return [head.invocation for _, head in self._roster.heads()]

    @property
    def threads(self) -> list[HandlerThread]:
        """None: nothing runs in this process."""
        return []

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where."""
        return [
            WorkerRun(head.invocation, worker, head.gate.handler.signature.is_async)
            for worker, head in self._roster.heads()
        ]

    @property
    def workers(self) -> list[WorkerRow]:
        """The worker processes, idle ones included."""
        now, rows = monotonic(), []
        for worker in self._roster:
            state = "stopping" if worker.leaving else "busy" if worker.given else "idle"
            process = worker.process
            rows.append(WorkerRow(process.pid, state, now - process.born, memory_of(process.pid)))
        return rows

    @property
    def queued(self) -> list[Gate]:
        """The gates of what waits for a worker, or behind what one runs."""
        lines = list(self._staging.lines.items())
        waiting = [gate for gate, line in lines for _ in range(len(line))]
        return waiting + [given.gate for given in self._roster.behind()]

    def lend(self) -> None:
        """Let another worker run in place of one whose run is given up."""
        self._roster.lent += 1
        self._upkeep.refill()
        self._staging.serve_soon()

    def take_back(self) -> None:
        """End a `lend`."""
        self._roster.lent -= 1

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables; from any thread."""
        lines = list(self._staging.lines.values())
        return {
            "queued": sum(len(line) for line in lines) + len(list(self._roster.behind())),
            "running": len(self.running),
            "workers_leaving": len(self._roster.leaving),
            "nested": sum(len(each.calls) for each in self._roster),
        }

    def concurrency(self, gate: Gate) -> int:
        """Return in how many workers a handler may run at once."""
        return self._staging.concurrency(gate)

    # --- its workers -----------------------------------------------------------------------------

    def exchange(
        self,
        code: WorkerCode | None,
        first: WorkerProcess | None = None,
        pools: PoolSettings | None = None,
    ) -> None:
        """
        Run the handlers of a newer generation from now on; what runs ends on its old worker.

        Args:
            code: What workers load; None if there are no process handlers any more.
            first: A worker that has loaded it already.
            pools: How many there are, and for how long. Default: as it was.
        """
        self._upkeep.exchange(code, first, pools)

    def close(self) -> None:
        """Kill all workers, from any thread; what they run ends as stopped."""
        done = threading.Event()

        def run() -> None:
            self._upkeep.close()
            done.set()

        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        try:
            if running is not self._loop:
                self._loop.call_soon_threadsafe(run)
                done.wait(CLOSE_SECONDS)
                return
        except RuntimeError:
            pass  # the loop is closed, so nothing of this is touched by anyone else
        self._upkeep.close()

    def _gave(self, begun: list[Gate]) -> None:
        """Look at what workers were given."""
        for gate in begun:
            self._patrol.measure_soon(gate)
        self._patrol.look_soon()

    def _left(self) -> None:
        """See to what waits still."""
        self._upkeep.refill()
        self._upkeep.give_up()

    def _ran(self, worker: Worker) -> None:
        """See to a worker that has ended runs, and to what it runs next."""
        self._upkeep.after_runs(worker)
        head = worker.head
        if head is not None:
            self._patrol.measure_soon(head.gate)

    def _waits(self, nested: Invocation) -> None:
        """Let another worker stand in for one that waits for a request of its own."""
        self._upkeep.refill()
        self._on_wait(nested)

    def _kill_late(self, worker: Worker, invocation: Invocation) -> None:
        head = worker.head
        if head is not None and head.invocation is invocation:
            self._upkeep.stop(worker, invocation)
